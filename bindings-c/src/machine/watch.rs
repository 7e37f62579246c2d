//! What happened: the events of the whole gateway, and the watch of one job.

use libgateway::{Event, EventKind, Outcome, Watch, WatchEvent, WatchStep};

use super::{command, look};
use crate::guard::guard;
use crate::handle::{create, find, free, gateway, gateway_watch, lock};
use crate::ids::gateway_job_id;
use crate::input::{Out, job_id, outs};
use crate::names::state_number;
use crate::output::id_out;
use crate::status::*;

/// A job was accepted.
pub const GATEWAY_EVENT_QUEUED: u32 = 0;
/// A job got a lease.
pub const GATEWAY_EVENT_STARTED: u32 = 1;
/// A job's worker told how far it is.
pub const GATEWAY_EVENT_PROGRESS: u32 = 2;
/// A job's attempt failed and will be tried again.
pub const GATEWAY_EVENT_RETRIED: u32 = 3;
/// A job went back to the queue through no fault of its own.
pub const GATEWAY_EVENT_REQUEUED: u32 = 4;
/// A waiting job was lifted a lane.
pub const GATEWAY_EVENT_AGED: u32 = 5;
/// A job ended; `state` tells how.
pub const GATEWAY_EVENT_ENDED: u32 = 6;
/// An ended job's record left.
pub const GATEWAY_EVENT_FORGOTTEN: u32 = 7;
/// A reading of the clock was so far ahead that it was put on trial; `leapt` tells how far.
pub const GATEWAY_EVENT_CLOCK_LEAPT: u32 = 8;
/// More was reported of an attempt than its devices can have worked: `reported`; `billed` is what was possible.
pub const GATEWAY_EVENT_USAGE_CAPPED: u32 = 9;
/// A settled job comes to something else: the usage of one of its leases was told late.
pub const GATEWAY_EVENT_CORRECTED: u32 = 10;
/// Something this header does not know yet.
pub const GATEWAY_EVENT_OTHER: u32 = 4294967295;

/// One thing that happened. Events are numbered from 1 without gaps; a host that fetches them too late finds the number
/// of the first it gets higher than it expected. Numbers go on after a restore, in another epoch: a host that kept its
/// place by number has to look again where the epoch is not the one it knew.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_event {
    /// The life of the gateway it belongs to.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
    /// When it happened.
    pub at: u64,
    /// The job it is about; zero where it is about none.
    pub job: gateway_job_id,
    /// How far the clock stepped, of `GATEWAY_EVENT_CLOCK_LEAPT`; else 0.
    pub leapt: u64,
    /// GPU time reported, of `GATEWAY_EVENT_USAGE_CAPPED`; else 0.
    pub reported: u64,
    /// GPU time billed or absorbed, of `GATEWAY_EVENT_USAGE_CAPPED`; else 0.
    pub billed: u64,
    /// What happened: `GATEWAY_EVENT_QUEUED` and its like.
    pub kind: u32,
    /// How the job ended, of `GATEWAY_EVENT_ENDED`; else 0.
    pub state: u32,
}

/// The job waits; `position` tells how many jobs of its route stand before it.
pub const GATEWAY_WATCH_QUEUED: u32 = 0;
/// The job runs; `progress_ppm` tells how far it is.
pub const GATEWAY_WATCH_RUNNING: u32 = 1;
/// The job ended; `state` tells how. Nothing comes after it.
pub const GATEWAY_WATCH_ENDED: u32 = 2;
/// The job's record is gone. Nothing comes after it.
pub const GATEWAY_WATCH_GONE: u32 = 3;

/// What the watcher of a job is told.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_watch_event {
    /// `GATEWAY_WATCH_QUEUED` and its like.
    pub kind: u32,
    /// Jobs before it, of `GATEWAY_WATCH_QUEUED`.
    pub position: u32,
    /// Parts per million, of `GATEWAY_WATCH_RUNNING`.
    pub progress_ppm: u32,
    /// How it ended, of `GATEWAY_WATCH_ENDED`: `GATEWAY_STATE_COMPLETE` and its like.
    pub state: u32,
}

impl From<Event> for gateway_event {
    fn from(event: Event) -> Self {
        let none = gateway_job_id { high: 0, low: 0 };
        let (mut reported, mut billed) = (0, 0);
        let (kind, job, state, leapt) = match event.kind {
            EventKind::Queued(job) => (GATEWAY_EVENT_QUEUED, id_out(job), 0, 0),
            EventKind::Started(job) => (GATEWAY_EVENT_STARTED, id_out(job), 0, 0),
            EventKind::Progress(job) => (GATEWAY_EVENT_PROGRESS, id_out(job), 0, 0),
            EventKind::Retried(job) => (GATEWAY_EVENT_RETRIED, id_out(job), 0, 0),
            EventKind::Requeued(job) => (GATEWAY_EVENT_REQUEUED, id_out(job), 0, 0),
            EventKind::Aged(job) => (GATEWAY_EVENT_AGED, id_out(job), 0, 0),
            EventKind::Ended(job, state) => (GATEWAY_EVENT_ENDED, id_out(job), state_number(state), 0),
            EventKind::Forgotten(job) => (GATEWAY_EVENT_FORGOTTEN, id_out(job), 0, 0),
            EventKind::ClockLeapt(span) => (GATEWAY_EVENT_CLOCK_LEAPT, none, 0, span.as_nanos()),
            EventKind::UsageCapped { job, reported: told, billed: taken } => {
                (reported, billed) = (told.as_nanos(), taken.as_nanos());
                (GATEWAY_EVENT_USAGE_CAPPED, id_out(job), 0, 0)
            }
            EventKind::Corrected(job) => (GATEWAY_EVENT_CORRECTED, id_out(job), 0, 0),
            _ => (GATEWAY_EVENT_OTHER, none, 0, 0),
        };
        let Event { epoch, number, at, .. } = event;
        Self { epoch: epoch.as_u64(), number, at: at.as_nanos(), job, leapt, reported, billed, kind, state }
    }
}

impl From<WatchEvent> for gateway_watch_event {
    fn from(event: WatchEvent) -> Self {
        let told = |kind, position, progress_ppm, state| Self { kind, position, progress_ppm, state };
        match event {
            WatchEvent::Queued { position } => told(GATEWAY_WATCH_QUEUED, position, 0, 0),
            WatchEvent::Running { progress_ppm } => told(GATEWAY_WATCH_RUNNING, 0, progress_ppm, 0),
            WatchEvent::Ended(outcome) => told(GATEWAY_WATCH_ENDED, 0, 0, state_number(Outcome::state(&outcome))),
            _ => told(GATEWAY_WATCH_GONE, 0, 0, 0),
        }
    }
}

/// Fetches the next event nobody has fetched. Fetching changes nothing but the list of events.
///
/// `GATEWAY_NONE`: there is none. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`,
/// `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_poll_event(gw: *mut gateway, event: *mut gateway_event) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let event = unsafe { Out::required(event, "event") }?;
        let Some(next) = command(gw, |gateway| Ok(gateway.poll_event()))? else { return Ok(GATEWAY_NONE) };
        event.set(next.into());
        Ok(GATEWAY_OK)
    })
}

/// Reads up to `max` kept events from number `from` on, without fetching them. `*count` says how many were written. So
/// several readers each follow by a number of their own; `gateway_wait_change` waits for more.
///
/// `GATEWAY_NONE`: there are none; `*count` is 0. Errors: as `gateway_poll_event`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_events_from(
    gw: *const gateway,
    from: u64,
    events: *mut gateway_event,
    max: usize,
    count: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (mut events, count) = unsafe { (outs(events, max, "events")?, Out::required(count, "count")?) };
        look(gw, |gateway| {
            gateway.events_from(from).take(max).for_each(|event| events.push(event.into()));
            Ok(())
        })?;
        count.set(events.len());
        Ok(if events.len() == 0 { GATEWAY_NONE } else { GATEWAY_OK })
    })
}

/// The number of the next event.
///
/// Errors: as `gateway_poll_event`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_next_event(gw: *const gateway, number: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let number = unsafe { Out::required(number, "number") }?;
        number.set(look(gw, |gateway| Ok(gateway.next_event()))?);
        Ok(GATEWAY_OK)
    })
}

/// Rises whenever something changed that may help somebody who waits: for a job, a backend, a token, an end. A host that
/// waits by itself compares it instead of asking again and again.
///
/// Errors: as `gateway_poll_event`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_changes(gw: *const gateway, changes: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let changes = unsafe { Out::required(changes, "changes") }?;
        changes.set(look(gw, |gateway| Ok(gateway.changes()))?);
        Ok(GATEWAY_OK)
    })
}

/// Makes the watch of one job: its present state first, then only changes, and always an end. Free it by
/// `gateway_watch_free`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_watch_new(job: gateway_job_id, watch: *mut *mut gateway_watch) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let watch = unsafe { Out::required(watch, "watch") }?;
        create(Watch::new(job_id(job)), watch)?;
        Ok(GATEWAY_OK)
    })
}

/// The next thing to tell of the job. Ask again and again until it says wait, then after each change of the gateway.
///
/// `GATEWAY_WAIT`: nothing new. `GATEWAY_NONE`: the end was told. Errors: `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_watch_poll(
    watch: *mut gateway_watch,
    gw: *const gateway,
    event: *mut gateway_watch_event,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let event = unsafe { Out::required(event, "event") }?;
        // The gateway's lock comes first: it may be held while that of any other handle is taken, never the other way.
        let own = find(watch)?;
        let step = look(gw, |gateway| Ok(lock::<gateway_watch>(own)?.object::<gateway_watch>()?.poll(gateway)))?;
        match step {
            WatchStep::Event(news) => {
                event.set(news.into());
                Ok(GATEWAY_OK)
            }
            WatchStep::Wait => Ok(GATEWAY_WAIT),
            WatchStep::Done => Ok(GATEWAY_NONE),
        }
    })
}

/// Frees a watch. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_watch_free(watch: *mut gateway_watch) -> gateway_status {
    guard(|| free(watch))
}
