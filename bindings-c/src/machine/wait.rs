//! Calls that wait: for a job, for an end, for a change. The only ones that read the system's clock.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use libgateway::waiting::Line;
use libgateway::{Dispatch, Gateway, Outcome, Timestamp};

use super::lease::{hand_out, places_for};
use super::read::{gateway_outcome, take_apart};
use super::transaction::{gateway_tx_body, transact};
use super::{Machine, enter, outside};
use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{Handle, end_waits, gateway, gateway_bytes, gateway_lease, reserve};
use crate::ids::gateway_job_id;
use crate::input::{Out, at, job_id, outs, text};
use crate::names::state_number;
use crate::status::*;
use crate::version::gateway_now;

/// What an attempt came to.
enum Attempt<T> {
    Done(T),
    /// Not now, but perhaps at this instant, or after the next change.
    NotNow(Option<Timestamp>),
}

/// Tries until it works, asleep in between: until a change, until the instant the attempt named, at most until `until`,
/// or until `gateway_wake`. `None`: it did not work by then.
fn wait<T>(
    gw: *mut gateway,
    line: Line,
    until: u64,
    mut attempt: impl FnMut(&mut Gateway, u64) -> Result<Attempt<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let mut held = enter(gw)?;
    let waiting = held.waiting();
    loop {
        let now = gateway_now();
        let machine = held.object::<gateway>()?;
        let result = attempt(&mut machine.gateway, now);
        let reading = machine.reading();
        let Machine { gateway: core, waiters, attempts, .. } = machine;
        waiters.tell(core, None);
        *attempts += 1;
        let wake = match result {
            Ok(Attempt::NotNow(wake)) if until > now && !waiting.has_ended() => wake,
            other => {
                waiters.leave(core, reading);
                return other.map(|attempt| match attempt {
                    Attempt::Done(value) => Some(value),
                    Attempt::NotNow(_) => None,
                });
            }
        };
        let (place, wake) = waiters.enlist(core, reading, line, &waiting, wake);
        let wake = wake.map_or(until, |wake| wake.min(until));
        let pause = (wake != u64::MAX).then(|| Duration::from_nanos(wake.saturating_sub(now)));
        held = held.wait(&waiting, pause, gateway::NAME)?;
        held.object::<gateway>()?.waiters.delist(place);
    }
}

/// Waits for the end of a job. `None`: it had not ended by then. `Some(None)`: it is not known, or no longer.
fn wait_outcome(gw: *mut gateway, id: gateway_job_id, until: u64) -> Result<Option<Option<Outcome>>, Failure> {
    let job = job_id(id);
    enter(gw)?.object::<gateway>()?.gateway.hold_outcome(job);
    let ended = wait(gw, Line::End(job), until, |gateway, now| {
        gateway.advance(at(now));
        let outcome = gateway.outcome(job).cloned();
        if outcome.is_none() && gateway.is_known(job) {
            return Ok(Attempt::NotNow(gateway.next_deadline()));
        }
        Ok(Attempt::Done(outcome))
    });
    if let Ok(machine) = enter(gw).as_mut().map_err(|_| ()).and_then(|held| held.object::<gateway>().map_err(|_| ())) {
        machine.gateway.release_outcome(job);
    }
    ended
}

/// Leases the next job, and waits for one until `until`, an instant of `gateway_now`; `GATEWAY_FOREVER` waits without
/// end. Else as `gateway_dispatch`. The clock of the calls before may have been another one: the step to `gateway_now` is
/// one like any other.
///
/// `GATEWAY_WAIT`: there was none by then, or somebody called `gateway_wake`.
/// Errors: as `gateway_dispatch`; `GATEWAY_INVALID_HANDLE` also where the gateway is freed meanwhile. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wait_dispatch(
    gw: *mut gateway,
    until: u64,
    lease: *mut *mut gateway_lease,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let lease = unsafe { Out::required(lease, "lease") }?;
        let granted = wait(gw, Line::AnyJob, until, |gateway, now| {
            let mut place = reserve(1)?;
            Ok(match gateway.dispatch(at(now)) {
                Dispatch::Lease(granted) => Attempt::Done(place.fill(granted)),
                Dispatch::Wait { until } => Attempt::NotNow(until),
            })
        })?;
        Ok(granted.map_or(GATEWAY_WAIT, |handle| {
            lease.set(handle);
            GATEWAY_OK
        }))
    })
}

/// Leases up to `max` jobs to a backend, and waits for the first until `until`. Else as `gateway_dispatch_to` and
/// `gateway_wait_dispatch`.
///
/// Errors: as there. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wait_dispatch_to(
    gw: *mut gateway,
    backend: *const c_char,
    until: u64,
    leases: *mut *mut gateway_lease,
    max: usize,
    count: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (backend, out, count) =
            unsafe { (text(backend, "backend")?, outs(leases, max, "leases")?, Out::required(count, "count")?) };
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let mut out = Some(out);
        let granted = wait(gw, Line::AnyChange, until, |gateway, now| {
            let places = places_for(gateway, backend, max)?;
            let granted = gateway.dispatch_to(at(now), backend, max)?;
            // A list is handed out once: the attempt that gets one is the last.
            match out.take_if(|_| !granted.is_empty() || max == 0) {
                Some(out) => Ok(Attempt::Done(hand_out(granted, places, out))),
                None => Ok(Attempt::NotNow(gateway.next_deadline())),
            }
        })?;
        count.set(granted.unwrap_or(0));
        Ok(if granted.unwrap_or(0) == 0 { GATEWAY_WAIT } else { GATEWAY_OK })
    })
}

/// Waits until a job has ended, at most until `until`. `*state` is how: `GATEWAY_STATE_COMPLETE` and its like; it may be
/// NULL. Nothing but that end wakes a caller, so that many who wait for other jobs cost nothing. The record may leave before
/// the caller reads it, where few are kept: `gateway_wait_outcome` gets what the job produced in any case.
///
/// `GATEWAY_WAIT`: it had not by then, or somebody called `gateway_wake`. `GATEWAY_NONE`: the job was not known when the call
/// came. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be
/// called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wait_ended(
    gw: *mut gateway,
    job: gateway_job_id,
    until: u64,
    state: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let state = unsafe { Out::optional(state, "state") }?;
        Ok(match wait_outcome(gw, job, until)? {
            None => GATEWAY_WAIT,
            Some(None) => GATEWAY_NONE,
            Some(Some(outcome)) => {
                state.set(state_number(outcome.state()));
                GATEWAY_OK
            }
        })
    })
}

/// Waits until a job has ended, at most until `until`, and tells how: `*outcome` as `gateway_job_outcome` does, and the bytes
/// that belong to it. Who waits when the job ends gets them, however soon the record leaves. Free them by
/// `gateway_bytes_free`.
///
/// Answers and errors: as `gateway_wait_ended`, and `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wait_outcome(
    gw: *mut gateway,
    job: gateway_job_id,
    until: u64,
    outcome: *mut gateway_outcome,
    bytes: *mut *mut gateway_bytes,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (outcome, bytes) = unsafe { (Out::required(outcome, "outcome")?, Out::required(bytes, "bytes")?) };
        let mut place = reserve(1)?;
        Ok(match wait_outcome(gw, job, until)? {
            None => GATEWAY_WAIT,
            Some(None) => GATEWAY_NONE,
            Some(Some(own)) => {
                let (told, content) = take_apart(&own);
                bytes.set(place.fill(content.into_owned()));
                outcome.set(told);
                GATEWAY_OK
            }
        })
    })
}

/// Runs a transaction; while its body returns `GATEWAY_WAIT`, waits for a change and runs it again, at most until
/// `until`. Else as `gateway_transaction`.
///
/// Errors: as there. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wait_transaction(
    gw: *mut gateway,
    until: u64,
    body: gateway_tx_body,
    context: *mut c_void,
) -> gateway_status {
    guard(|| {
        let body = body.ok_or_else(|| Failure::pointer("body"))?;
        let status = wait(gw, Line::AnyChange, until, |gateway, now| match transact(gateway, now, body, context) {
            GATEWAY_WAIT => Ok(Attempt::NotNow(gateway.next_deadline())),
            status => Ok(Attempt::Done(status)),
        })?;
        Ok(status.unwrap_or(GATEWAY_WAIT))
    })
}

/// Waits until something has changed that may help somebody who waits, at most until `until`. `*changes` is the number
/// `gateway_changes` told before, and the new one after; so nothing that happens between two calls is missed. What is due
/// is handled meanwhile.
///
/// `GATEWAY_WAIT`: nothing had by then, or somebody called `gateway_wake`.
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wait_change(gw: *mut gateway, until: u64, changes: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (seen, changes) = unsafe { (crate::input::given(changes, "changes")?, Out::required(changes, "changes")?) };
        let now = wait(gw, Line::AnyChange, until, |gateway, now| {
            gateway.advance(at(now));
            let present = gateway.changes();
            Ok(if present == seen { Attempt::NotNow(gateway.next_deadline()) } else { Attempt::Done(present) })
        })?;
        Ok(now.map_or(GATEWAY_WAIT, |now| {
            changes.set(now);
            GATEWAY_OK
        }))
    })
}

/// Wakes everybody who waits in a `gateway_wait_` function on this gateway: they answer `GATEWAY_WAIT`. To end a program
/// whose threads wait. Who begins to wait afterwards is not woken, so let threads look at a flag of their own before they
/// wait, and wait with an end: a flag that is set between the two is then seen at that end.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wake(gw: *mut gateway) -> gateway_status {
    guard(|| {
        outside(gw)?;
        match end_waits(gw) {
            Ok(GATEWAY_POISONED) => Err(Failure::poisoned()),
            Ok(status) => Ok(status),
            Err(dead) => Err(dead.failure(gateway::NAME)),
        }
    })
}

/// `gateway_wake` for a signal handler: it takes no lock and no memory, and leaves no last error. It may interrupt any
/// function of this library, also inside of a transaction's callback, and a thread that is about to wait is woken, too. Any
/// other thread may call it as well. On systems other than Linux no signal handler may.
///
///     static gateway *served; // set before the handler is, and freed after the handler was taken away
///
///     static void on_terminate(int signal) {
///         (void)signal;
///         gateway_wake_from_signal(served);
///     }
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread and any signal
/// handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_wake_from_signal(gw: *mut gateway) -> gateway_status {
    end_waits(gw).unwrap_or_else(|dead| dead.status())
}
