//! What a gateway tells of itself: jobs, positions, reasons, numbers.

use std::borrow::Cow;
use std::ffi::{c_char, c_void};

use libgateway::{BackendView, CustomerView, JobView, Outcome, Output, Stats, WaitReason};

use super::data::json;
use super::look;
use crate::guard::guard;
use crate::handle::gateway;
use crate::ids::gateway_job_id;
use crate::input::{Out, instant_or_forever, job_id, number, text};
use crate::names::{
    BREAKER_STATES, GATEWAY_NAME_CAP, GATEWAY_ROUTE_CAP, PRIORITIES, failure_numbers, kind_number, state_number,
    task_number,
};
use crate::output::{copy_bytes, copy_text, fixed, id_out};
use crate::status::*;

/// A job as it stands. Texts end in a NUL.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_job {
    /// Its id.
    pub id: gateway_job_id,
    /// When it was submitted.
    pub created: u64,
    /// When its latest attempt began; `GATEWAY_FOREVER`: none has.
    pub started: u64,
    /// When it ended; `GATEWAY_FOREVER`: it has not.
    pub finished: u64,
    /// How long it will probably wait, in nanoseconds; `GATEWAY_FOREVER` where nothing is known.
    pub eta: u64,
    /// The live lease; 0: none.
    pub lease: u64,
    /// Where it is in its life: `GATEWAY_STATE_QUEUED` and its like.
    pub state: u32,
    /// What it asks for: `GATEWAY_TASK_T2I` and its like.
    pub task: u32,
    /// The lane it was submitted to: `GATEWAY_PRIORITY_NORMAL` and its like.
    pub priority: u32,
    /// Jobs of its route before it, while it waits; else 4 294 967 295.
    pub position: u32,
    /// How far it is, in parts per million.
    pub progress_ppm: u32,
    /// Attempts that failed.
    pub attempts: u32,
    /// Returns to the queue that were not its fault: lost, given back or preempted.
    pub requeues: u32,
    /// How many of those the host asked for: `gateway_preempt` and `gateway_evict_backend`.
    pub preemptions: u32,
    /// Rises with each change.
    pub version: u32,
    /// Who asked.
    pub customer: [c_char; GATEWAY_NAME_CAP],
    /// The backend it runs on; empty where it does not run.
    pub backend: [c_char; GATEWAY_NAME_CAP],
    /// Modality, family and model, and the engine where one was wanted.
    pub route: [c_char; GATEWAY_ROUTE_CAP],
}

/// A backend as it stands.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_backend {
    /// Leases that delivered.
    pub completed: u64,
    /// Leases that failed through its fault.
    pub failed: u64,
    /// Leases of which nothing was heard any more.
    pub lost: u64,
    /// When the breaker's state ends by itself; `GATEWAY_FOREVER` where it does not.
    pub breaker_until: u64,
    /// Live leases.
    pub live: u32,
    /// Leases it takes at once.
    pub slots: u32,
    /// The engine it runs: `GATEWAY_KIND_TORCH` and its like.
    pub kind: u32,
    /// 1 where it gets no new leases.
    pub draining: u32,
    /// The state of its breaker: `GATEWAY_BREAKER_CLOSED` and its like.
    pub breaker: u32,
    /// 1 where that state was forced.
    pub breaker_forced: u32,
}

/// A customer as it stands.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_customer {
    /// Whole tokens left, where `limited` is 1.
    pub tokens: u64,
    /// Its share.
    pub weight: u32,
    /// Its jobs that run.
    pub running: u32,
    /// Its jobs that wait.
    pub queued: u32,
    /// 1 where it has a rate limit.
    pub limited: u32,
    /// 1 where it has a policy of its own.
    pub own_policy: u32,
    /// Its price tier.
    pub tier: [c_char; GATEWAY_NAME_CAP],
}

/// Numbers of the whole gateway. Each gauge is a count of what there is.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_stats {
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that run; as many leases live.
    pub running: u64,
    /// Jobs that delivered and are still known.
    pub complete: u64,
    /// Jobs in error that are still known.
    pub error: u64,
    /// Cancelled jobs that are still known.
    pub cancelled: u64,
    /// Customers known.
    pub customers: u64,
    /// Routes known.
    pub routes: u64,
    /// Backends known.
    pub backends: u64,
    /// Settlements the host has not confirmed.
    pub unconfirmed: u64,
    /// Events that wait to be fetched.
    pub events: u64,
    /// All charges so far, in millionths of the currency: the lower 64 bits.
    pub charged_micros: u64,
    /// The upper 64 bits of the same sum.
    pub charged_micros_high: u64,
    /// How far the host's clock is ahead by steps that are on trial, in nanoseconds.
    pub clock_offset: u64,
    /// Jobs accepted, ever.
    pub submitted_total: u64,
    /// Leases granted, ever.
    pub leases_total: u64,
    /// Leases on a backend that was warm for the job, ever.
    pub warm_hits_total: u64,
    /// Probes of half-open breakers, ever.
    pub probes_total: u64,
    /// Jobs that delivered, ever.
    pub completed_total: u64,
    /// Jobs that ended in error, ever.
    pub errors_total: u64,
    /// Jobs that were cancelled, ever.
    pub cancelled_total: u64,
    /// Attempts tried again, ever.
    pub retries_total: u64,
    /// Returns to the queue that were not the job's fault, ever.
    pub requeues_total: u64,
    /// Leases that ended because nothing was heard any more, ever.
    pub lost_total: u64,
    /// Leases that their workers gave back, ever.
    pub released_total: u64,
    /// Leases that the host took back, ever.
    pub preempted_total: u64,
    /// Times a job was stepped over because its customer could not run, ever.
    pub parked_total: u64,
    /// Lanes climbed by waiting, ever.
    pub aged_total: u64,
    /// Ended jobs whose record left, ever.
    pub forgotten_total: u64,
    /// Steps of the clock that were put on trial, ever.
    pub clock_leaps_total: u64,
    /// Attempts billed or absorbed for less than was reported, ever.
    pub capped_total: u64,
    /// Jobs settled without a price, ever: what they cost is not known.
    pub unpriced_total: u64,
    /// Usages told late that changed what a settled job comes to, ever.
    pub corrections_total: u64,
    /// All charges given back by corrections, in millionths of the currency: the lower 64 bits.
    pub credited_micros: u64,
    /// The upper 64 bits of the same sum.
    pub credited_micros_high: u64,
    /// GPU time that customers pay for without a price, in nanoseconds: the lower 64 bits.
    pub unpriced_ns: u64,
    /// The upper 64 bits of the same sum.
    pub unpriced_ns_high: u64,
}

/// It may not run before `until`: its submission or its worker said so, or an attempt failed. `count` backends failed it so
/// far, and another one is preferred; `failed_on` of `gateway_job_json` names them.
pub const GATEWAY_REASON_NOT_BEFORE: u32 = 0;
/// Its route is paused.
pub const GATEWAY_REASON_PAUSED: u32 = 1;
/// No backend serves its route.
pub const GATEWAY_REASON_NO_BACKEND: u32 = 2;
/// Its customer runs as many jobs as it may: `count`.
pub const GATEWAY_REASON_CUSTOMER_RUNNING: u32 = 3;
/// Its customer has used its rate until `until`.
pub const GATEWAY_REASON_CUSTOMER_RATE: u32 = 4;
/// Every backend of its route is full, draining, or shut off by its breaker.
pub const GATEWAY_REASON_BACKENDS_BUSY: u32 = 5;
/// Others are served first: `count` of its route.
pub const GATEWAY_REASON_BEHIND: u32 = 6;
/// Nothing: the next dispatch takes it.
pub const GATEWAY_REASON_NEXT: u32 = 7;
/// Something this header does not know yet.
pub const GATEWAY_REASON_OTHER: u32 = 4294967295;

/// Why a job waits.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_reason {
    /// Until when, where the kind says so; else `GATEWAY_FOREVER`.
    pub until: u64,
    /// `GATEWAY_REASON_NOT_BEFORE` and its like.
    pub kind: u32,
    /// How many, where the kind says so; else 0.
    pub count: u32,
}

/// The result is `url`: the bytes are where it lies.
pub const GATEWAY_OUTCOME_URL: u32 = 0;
/// The bytes are the result itself.
pub const GATEWAY_OUTCOME_DATA: u32 = 1;
/// The job failed: the bytes are the message.
pub const GATEWAY_OUTCOME_FAILURE: u32 = 2;
/// The job was given up: the bytes say why, "requested" or "queue_timeout".
pub const GATEWAY_OUTCOME_CANCELLED: u32 = 3;

/// How a job ended, but for the bytes.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_outcome {
    /// `GATEWAY_OUTCOME_URL` and its like.
    pub kind: u32,
    /// Of a failure its class, `GATEWAY_FAILURE_TIMEOUT` and its like; else 0.
    pub failure_class: u32,
    /// Of a failure by HTTP its status; else 0.
    pub http_status: u32,
    /// Of a failure: 1 where another submission might succeed.
    pub retriable: u32,
}

impl From<&JobView> for gateway_job {
    fn from(job: &JobView) -> Self {
        Self {
            id: id_out(job.id),
            created: job.created.as_nanos(),
            started: instant_or_forever(job.started),
            finished: instant_or_forever(job.finished),
            eta: job.eta.map_or(u64::MAX, |span| span.as_nanos()),
            lease: job.lease.map_or(0, |lease| lease.as_u64()),
            state: state_number(job.state),
            task: task_number(job.task),
            priority: number(job.priority, PRIORITIES),
            position: job.position.unwrap_or(u32::MAX),
            progress_ppm: job.progress_ppm,
            attempts: job.attempts,
            requeues: job.requeues,
            preemptions: job.preemptions,
            version: job.version,
            customer: fixed(&job.customer),
            backend: fixed(job.backend.as_deref().unwrap_or_default()),
            route: fixed(&job.route),
        }
    }
}

impl From<&BackendView> for gateway_backend {
    fn from(view: &BackendView) -> Self {
        Self {
            completed: view.completed,
            failed: view.failed,
            lost: view.lost,
            breaker_until: instant_or_forever(view.breaker.until),
            live: view.live,
            slots: view.backend.slots,
            kind: kind_number(view.backend.kind),
            draining: u32::from(view.draining),
            breaker: number(view.breaker.state, BREAKER_STATES),
            breaker_forced: u32::from(view.breaker.forced),
        }
    }
}

impl From<&CustomerView> for gateway_customer {
    fn from(view: &CustomerView) -> Self {
        Self {
            weight: view.weight,
            running: view.running,
            queued: view.queued,
            tokens: view.tokens.unwrap_or(0),
            limited: u32::from(view.tokens.is_some()),
            own_policy: u32::from(view.own_policy),
            tier: fixed(&view.tier),
        }
    }
}

impl From<Stats> for gateway_stats {
    fn from(stats: Stats) -> Self {
        let counters = stats.counters;
        Self {
            queued: stats.queued.into(),
            running: stats.running.into(),
            complete: stats.complete.into(),
            error: stats.error.into(),
            cancelled: stats.cancelled.into(),
            customers: stats.customers.into(),
            routes: stats.routes.into(),
            backends: stats.backends.into(),
            unconfirmed: stats.unconfirmed.into(),
            events: stats.events.into(),
            charged_micros: stats.charged_micros as u64,
            charged_micros_high: (stats.charged_micros >> 64) as u64,
            clock_offset: stats.clock_offset.as_nanos(),
            submitted_total: counters.submitted,
            leases_total: counters.leases,
            warm_hits_total: counters.warm_hits,
            probes_total: counters.probes,
            completed_total: counters.completed,
            errors_total: counters.errors,
            cancelled_total: counters.cancelled,
            retries_total: counters.retries,
            requeues_total: counters.requeues,
            lost_total: counters.lost,
            released_total: counters.released,
            preempted_total: counters.preempted,
            parked_total: counters.parked,
            aged_total: counters.aged,
            forgotten_total: counters.forgotten,
            clock_leaps_total: counters.clock_leaps,
            capped_total: counters.capped,
            unpriced_total: counters.unpriced,
            corrections_total: counters.corrections,
            credited_micros: stats.credited_micros as u64,
            credited_micros_high: (stats.credited_micros >> 64) as u64,
            unpriced_ns: stats.unpriced_ns as u64,
            unpriced_ns_high: (stats.unpriced_ns >> 64) as u64,
        }
    }
}

impl From<WaitReason> for gateway_reason {
    fn from(reason: WaitReason) -> Self {
        let told = |kind, until, count| Self { kind, until: instant_or_forever(until), count };
        match reason {
            WaitReason::NotBefore { until, failed_on } => {
                // No more are remembered than fit.
                told(GATEWAY_REASON_NOT_BEFORE, Some(until), failed_on.len() as u32)
            }
            WaitReason::Paused => told(GATEWAY_REASON_PAUSED, None, 0),
            WaitReason::NoBackend => told(GATEWAY_REASON_NO_BACKEND, None, 0),
            WaitReason::CustomerRunning { running } => told(GATEWAY_REASON_CUSTOMER_RUNNING, None, running),
            WaitReason::CustomerRate { until } => told(GATEWAY_REASON_CUSTOMER_RATE, until, 0),
            WaitReason::BackendsBusy => told(GATEWAY_REASON_BACKENDS_BUSY, None, 0),
            WaitReason::Behind { jobs } => told(GATEWAY_REASON_BEHIND, None, jobs),
            WaitReason::Next => told(GATEWAY_REASON_NEXT, None, 0),
            _ => told(GATEWAY_REASON_OTHER, None, 0),
        }
    }
}

/// How a job ended, and the bytes that belong to it.
pub(crate) fn take_apart(own: &Outcome) -> (gateway_outcome, Cow<'_, [u8]>) {
    let word = |kind| gateway_outcome { kind, failure_class: 0, http_status: 0, retriable: 0 };
    match own {
        Outcome::Complete(Output::Url(url)) => (word(GATEWAY_OUTCOME_URL), Cow::Borrowed(url.as_bytes())),
        Outcome::Complete(Output::Inline(data)) => (word(GATEWAY_OUTCOME_DATA), Cow::Borrowed(data.as_bytes())),
        Outcome::Complete(_) => (word(GATEWAY_OUTCOME_DATA), Cow::Borrowed(&[])),
        Outcome::Error(failure) => {
            let (failure_class, http_status) = failure_numbers(failure.class);
            let retriable = u32::from(failure.retriable);
            let told = gateway_outcome { kind: GATEWAY_OUTCOME_FAILURE, failure_class, http_status, retriable };
            (told, Cow::Borrowed(failure.message.as_bytes()))
        }
        Outcome::Cancelled(own) => {
            let reason = json(own);
            (word(GATEWAY_OUTCOME_CANCELLED), Cow::Owned(reason.trim_matches('"').as_bytes().to_vec()))
        }
    }
}

/// Copies how a job ended.
///
/// # Safety
/// As [`copy_bytes`].
pub(crate) unsafe fn tell_outcome(
    own: &Outcome,
    outcome: Out<gateway_outcome>,
    buf: *mut c_void,
    cap: usize,
    needed: *mut usize,
) -> Result<gateway_status, crate::failure::Failure> {
    let (told, bytes) = take_apart(own);
    // SAFETY: the caller's promise.
    let status = unsafe { copy_bytes(&bytes, buf, cap, needed) }?;
    outcome.set(told);
    Ok(status)
}

/// Reads a job as it stands.
///
/// `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_read_job(
    gw: *const gateway,
    id: gateway_job_id,
    job: *mut gateway_job,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let job = unsafe { Out::required(job, "job") }?;
        let view = look(gw, |gateway| Ok(gateway.job(job_id(id))))?;
        Ok(view.map_or(GATEWAY_NONE, |view| {
            job.set((&view).into());
            GATEWAY_OK
        }))
    })
}

/// A job as it stands, with its outcome and latest failure, as JSON. `failed_on` are the names of the backends that failed
/// it, the latest last.
///
/// `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: as `gateway_read_job`, and
/// `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_job_json(
    gw: *const gateway,
    id: gateway_job_id,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| match look(gw, |gateway| Ok(gateway.job(job_id(id))))? {
        None => Ok(GATEWAY_NONE),
        // SAFETY: the caller's promise.
        Some(view) => unsafe { copy_text(&json(&view), buf, cap, needed) },
    })
}

/// How a job ended: `*outcome`, which may be NULL, and the bytes that belong to it, without a NUL after them.
///
/// `GATEWAY_WAIT`: it has not ended. `GATEWAY_NONE`: no job of that id is known, or it is no longer. Errors: as
/// `gateway_read_job`, and `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_job_outcome(
    gw: *const gateway,
    id: gateway_job_id,
    outcome: *mut gateway_outcome,
    buf: *mut c_void,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let outcome = unsafe { Out::optional(outcome, "outcome") }?;
        let id = job_id(id);
        match look(gw, |gateway| Ok((gateway.outcome(id).cloned(), gateway.is_known(id))))? {
            (None, false) => Ok(GATEWAY_NONE),
            (None, true) => Ok(GATEWAY_WAIT),
            // SAFETY: the caller's promise.
            (Some(own), _) => unsafe { tell_outcome(&own, outcome, buf, cap, needed) },
        }
    })
}

/// How many jobs of its route stand before a waiting job. Exact.
///
/// `GATEWAY_NONE`: it does not wait. Errors: as `gateway_read_job`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_position(
    gw: *const gateway,
    id: gateway_job_id,
    position: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let position = unsafe { Out::required(position, "position") }?;
        let rank = look(gw, |gateway| Ok(gateway.position(job_id(id))))?;
        Ok(rank.map_or(GATEWAY_NONE, |rank| {
            position.set(rank);
            GATEWAY_OK
        }))
    })
}

/// Why a job waits: the first reason that holds, from the one nearest to the job.
///
/// `GATEWAY_NONE`: it does not wait. Errors: as `gateway_read_job`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_explain(
    gw: *const gateway,
    id: gateway_job_id,
    reason: *mut gateway_reason,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let reason = unsafe { Out::required(reason, "reason") }?;
        let why = look(gw, |gateway| Ok(gateway.explain(job_id(id))))?;
        Ok(why.map_or(GATEWAY_NONE, |why| {
            reason.set(why.into());
            GATEWAY_OK
        }))
    })
}

/// Reads a backend as it stands.
///
/// `GATEWAY_NONE`: none of that name is known. Errors: as `gateway_read_job`, and `GATEWAY_NOT_UTF8`. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_read_backend(
    gw: *const gateway,
    name: *const c_char,
    backend: *mut gateway_backend,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (name, backend) = unsafe { (text(name, "name")?, Out::required(backend, "backend")?) };
        let view = look(gw, |gateway| Ok(gateway.backend(name)))?;
        Ok(view.map_or(GATEWAY_NONE, |view| {
            backend.set((&view).into());
            GATEWAY_OK
        }))
    })
}

/// All backends in order of declaration, with their breakers, as a JSON list.
///
/// Errors: as `gateway_read_job`, and `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_backends_json(
    gw: *const gateway,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        let views = look(gw, |gateway| Ok(gateway.backends()))?;
        // SAFETY: the caller's promise.
        unsafe { copy_text(&json(&views), buf, cap, needed) }
    })
}

/// The jobs that run on a backend, as a JSON list: the lowest lane first, and within a lane the lease that was granted first.
/// For a host that has to make room by `gateway_preempt`, or wants to know what a machine is at before it is taken away.
///
/// `GATEWAY_NONE`: there is no such backend. Errors: as `gateway_read_job`, `GATEWAY_NOT_UTF8`, and
/// `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_running_json(
    gw: *const gateway,
    name: *const c_char,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, "name") }?;
        match look(gw, |gateway| Ok(gateway.running_on(name)))? {
            None => Ok(GATEWAY_NONE),
            // SAFETY: the caller's promise.
            Some(running) => unsafe { copy_text(&json(&running), buf, cap, needed) },
        }
    })
}

/// Reads a customer as it stands.
///
/// `GATEWAY_NONE`: it is not known, which is as one that has not asked for anything lately. Errors: as
/// `gateway_read_job`, and `GATEWAY_NOT_UTF8`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_read_customer(
    gw: *const gateway,
    name: *const c_char,
    customer: *mut gateway_customer,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (name, customer) = unsafe { (text(name, "name")?, Out::required(customer, "customer")?) };
        let view = look(gw, |gateway| Ok(gateway.customer(name)))?;
        Ok(view.map_or(GATEWAY_NONE, |view| {
            customer.set((&view).into());
            GATEWAY_OK
        }))
    })
}

/// Reads numbers of the whole gateway.
///
/// Errors: as `gateway_read_job`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_read_stats(gw: *const gateway, stats: *mut gateway_stats) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let stats = unsafe { Out::required(stats, "stats") }?;
        stats.set(look(gw, |gateway| Ok(gateway.stats()))?.into());
        Ok(GATEWAY_OK)
    })
}

/// The machine's time: the latest instant a call has brought.
///
/// Errors: as `gateway_read_job`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_time(gw: *const gateway, now: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let now = unsafe { Out::required(now, "now") }?;
        now.set(look(gw, |gateway| Ok(gateway.now().as_nanos()))?);
        Ok(GATEWAY_OK)
    })
}

/// The digest of the whole state: 32 bytes into `digest`. Two gateways with the same digest have the same state, in every
/// language and on every machine.
///
/// Errors: as `gateway_read_job`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_digest(gw: *const gateway, digest: *mut u8) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let digest = unsafe { Out::required(digest.cast::<[u8; GATEWAY_DIGEST_LEN]>(), "digest") }?;
        digest.set(*look(gw, |gateway| Ok(gateway.digest()))?.as_bytes());
        Ok(GATEWAY_OK)
    })
}

/// Bytes of a digest.
pub const GATEWAY_DIGEST_LEN: usize = 32;

/// Bytes held for jobs and places, without what the host gave and without names: for capacity planning.
///
/// Errors: as `gateway_read_job`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_memory_bytes(gw: *const gateway, bytes: *mut usize) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let bytes = unsafe { Out::required(bytes, "bytes") }?;
        bytes.set(look(gw, |gateway| Ok(gateway.memory_bytes()))?);
        Ok(GATEWAY_OK)
    })
}
