//! Who works next, and what became of it.

use std::ffi::{c_char, c_void};
use std::ptr::null;

use libgateway::{Advance, AfterFailure, Failure as Attempt, LeaseId, Money, Output, Route, Settled, Usage};

use super::lease::{hand_out, leased, places_for};
use super::{command, look};
use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{gateway, gateway_lease, reserve};
use crate::ids::gateway_job_id;
use crate::input::{
    Options, Out, at, bytes, choice, given, instant_or_forever, job_id, list, optional_span, optional_text, options,
    outs, text,
};
use crate::names::{self, GATEWAY_FAILURE_BACKEND};
use crate::output::id_out;
use crate::status::*;

/// What a job produced: either where it lies (`url`) or the result itself (`data`). See `GATEWAY_OUTPUT_URL` and
/// `GATEWAY_OUTPUT_DATA`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_output {
    /// Where the result lies; NULL where it is `data`.
    pub url: *const c_char,
    /// The result itself; NULL where it is `url`.
    pub data: *const c_void,
    /// How many bytes `data` has.
    pub data_len: usize,
}

/// What one device worked for a lease: a difference on the GPU's own clock, never a reading of it.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_usage {
    /// The device, as the driver names it: "GPU-8f2c...". Visible ASCII without comma.
    pub device: *const c_char,
    /// Nanoseconds it was busy.
    pub gpu_ns: u64,
}

/// The class decides whether a failed attempt is tried again.
pub const GATEWAY_RETRIABLE_BY_CLASS: u32 = 0;
/// It is tried again, whatever the class says.
pub const GATEWAY_RETRIABLE_YES: u32 = 1;
/// It is not tried again, whatever the class says.
pub const GATEWAY_RETRIABLE_NO: u32 = 2;

/// How an attempt failed. Begin with `GATEWAY_FAILURE_INIT`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_failure {
    /// `sizeof(gateway_failure)`.
    pub size: usize,
    /// Words for people; NULL: none.
    pub message: *const c_char,
    /// The backend's own wish in nanoseconds: the next attempt comes no earlier. 0: none.
    pub retry_after: u64,
    /// The kind of failure, `GATEWAY_FAILURE_BACKEND` by default.
    pub failure_class: u32,
    /// The HTTP status where the class is `GATEWAY_FAILURE_HTTP`.
    pub http_status: u32,
    /// Overrides what the class says of trying again: `GATEWAY_RETRIABLE_BY_CLASS` by default.
    pub retriable: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, and has integers and pointers only.
unsafe impl Options for gateway_failure {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        message: std::ptr::null(),
        retry_after: 0,
        failure_class: GATEWAY_FAILURE_BACKEND,
        http_status: 0,
        retriable: GATEWAY_RETRIABLE_BY_CLASS,
        reserved: 0,
    };
}

/// What a completed job came to.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_settled {
    /// The job.
    pub job: gateway_job_id,
    /// GPU time that was reported of the attempts the customer pays for, in nanoseconds.
    pub reported: u64,
    /// GPU time the customer pays for, in nanoseconds.
    pub usage: u64,
    /// What it costs, in millionths of the currency, where `priced` is 1.
    pub charge: u64,
    /// 1 where the book has a price. Where it is 0 it is not known what the job costs.
    pub priced: u32,
    /// 1 where less was billed or absorbed than was reported.
    pub capped: u32,
}

/// What becomes of a job whose attempt failed.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_after_failure {
    /// 1: it is tried again. 0: it ended in error.
    pub retried: u64,
    /// When it is tried again, not before; `GATEWAY_FOREVER` where it is not.
    pub at: u64,
}

/// What a call of `gateway_advance` did.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_advanced {
    /// The machine's time after it.
    pub now: u64,
    /// When to call again; `GATEWAY_FOREVER`: no deadline is armed.
    pub next_deadline: u64,
    /// How far the clock is ahead by steps that are on trial, if this reading was one; else 0.
    pub leapt: u64,
    /// Deadlines handled.
    pub handled: u32,
    /// 1 where more is due already: call again at once.
    pub more: u32,
}

/// # Safety
/// Its pointers are as its fields say.
pub(crate) unsafe fn read_output(output: *const gateway_output) -> Result<Output, Failure> {
    // SAFETY: the caller's promise.
    let own = unsafe { given(output, "output") }?;
    // SAFETY: the caller's promise.
    let (url, data) = unsafe { (optional_text(own.url, "url")?, bytes(own.data, own.data_len, "data")?) };
    match url {
        Some(_) if !data.is_empty() => {
            Err(libgateway::error::InputError::Contradiction { field: "url", other: "data" }.into())
        }
        Some(url) => Ok(Output::url(url)),
        None => Ok(Output::inline(data)),
    }
}

/// # Safety
/// `usage` has `len` items, whose texts end in a NUL.
pub(crate) unsafe fn read_usage<'a>(usage: *const gateway_usage, len: usize) -> Result<Usage<'a>, Failure> {
    let mut read = Usage::unmeasured();
    // SAFETY: the caller's promise.
    let usage = unsafe { list(usage, len, "usage") }?;
    if usage.len() > libgateway::DEVICES_MAX {
        let (len, max) = (usage.len(), libgateway::DEVICES_MAX);
        return Err(libgateway::error::InputError::TooLong { field: "devices", len, max }.into());
    }
    for device in usage {
        // SAFETY: the caller's promise.
        let name = unsafe { text(device.device, "device") }?;
        read = read.and_gpu(libgateway::GpuNanos::from_nanos(device.gpu_ns), name);
    }
    Ok(read)
}

/// # Safety
/// `failure` is NULL or as its struct says.
pub(crate) unsafe fn read_failure(failure: *const gateway_failure) -> Result<Attempt, Failure> {
    // SAFETY: the caller's promise.
    let own = unsafe { options(failure, "failure") }?;
    // SAFETY: the caller's promise.
    let message = unsafe { optional_text(own.message, "message") }?;
    super::reserved(own.reserved)?;
    let class = names::failure_class(own.failure_class, own.http_status)?;
    let mut read = Attempt::new(class, message.unwrap_or_default());
    if let Some(span) = optional_span(own.retry_after) {
        read = read.retry_after(span);
    }
    read.retriable = choice(own.retriable, &[None, Some(true), Some(false)], "retriable")?;
    Ok(read)
}

impl From<Settled> for gateway_settled {
    fn from(settled: Settled) -> Self {
        Self {
            job: id_out(settled.job),
            reported: settled.reported.as_nanos(),
            usage: settled.usage.as_nanos(),
            charge: settled.charge.map_or(0, Money::as_micros),
            priced: u32::from(settled.charge.is_some()),
            capped: u32::from(settled.capped),
        }
    }
}

impl From<AfterFailure> for gateway_after_failure {
    fn from(after: AfterFailure) -> Self {
        match after {
            AfterFailure::Retry { at } => Self { retried: 1, at: at.as_nanos() },
            _ => Self { retried: 0, at: u64::MAX },
        }
    }
}

impl From<Advance> for gateway_advanced {
    fn from(advance: Advance) -> Self {
        Self {
            now: advance.now.as_nanos(),
            next_deadline: instant_or_forever(advance.next_deadline),
            leapt: advance.leapt.map_or(0, |span| span.as_nanos()),
            handled: advance.handled,
            more: u32::from(advance.more),
        }
    }
}

/// Leases the next job of all routes to the best backend for it. Ask again until it says wait. Free the lease by
/// `gateway_lease_free` once its result was told.
///
/// `GATEWAY_WAIT`: nothing can run now; `*until` is the next instant at which that may change by itself,
/// `GATEWAY_FOREVER` where only an event can. `until` may be NULL.
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`,
/// `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_dispatch(
    gw: *mut gateway,
    now: u64,
    lease: *mut *mut gateway_lease,
    until: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (lease, until) = unsafe { (Out::required(lease, "lease")?, Out::optional(until, "until")?) };
        command(gw, |gateway| {
            let place = reserve(1)?;
            leased(gateway.dispatch(at(now)), place, lease, until)
        })
    })
}

/// Leases the next job of one route; the task in the route does not matter. Else as `gateway_dispatch`.
///
/// Errors: as there, and `GATEWAY_NOT_UTF8`, `GATEWAY_MALFORMED` and others from -201 down for the route;
/// `GATEWAY_ROUTE_NOT_SERVED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_dispatch_route(
    gw: *mut gateway,
    now: u64,
    route: *const c_char,
    lease: *mut *mut gateway_lease,
    until: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (route, lease, until) =
            unsafe { (text(route, "route")?, Out::required(lease, "lease")?, Out::optional(until, "until")?) };
        let route = Route::parse(route)?;
        command(gw, |gateway| {
            let place = reserve(1)?;
            leased(gateway.dispatch_route(at(now), &route)?, place, lease, until)
        })
    })
}

/// Leases up to `max` jobs of one route to a backend that asks for work. `leases` has room for `max` handles; `*count`
/// says how many were written. Free each by `gateway_lease_free`.
///
///     gateway_lease *leases[8];
///     size_t count = 0;
///     if (gateway_dispatch_to(gw, now, "flux-1", leases, 8, &count) == GATEWAY_OK) render_batch(leases, count);
///
/// `GATEWAY_WAIT`: nothing for it now; `*count` is 0.
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; from -201 down for a name that cannot be;
/// `GATEWAY_UNKNOWN_BACKEND`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`,
/// `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_dispatch_to(
    gw: *mut gateway,
    now: u64,
    backend: *const c_char,
    leases: *mut *mut gateway_lease,
    max: usize,
    count: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (backend, leases, count) =
            unsafe { (text(backend, "backend")?, outs(leases, max, "leases")?, Out::required(count, "count")?) };
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let granted = command(gw, |gateway| {
            let places = places_for(gateway, backend, max)?;
            Ok(hand_out(gateway.dispatch_to(at(now), backend, max)?, places, leases))
        })?;
        count.set(granted);
        Ok(if granted == 0 { GATEWAY_WAIT } else { GATEWAY_OK })
    })
}

/// Tells that a lease's worker lives. `*deadline`, which may be NULL, is when the lease ends if nothing more is heard.
///
/// Errors: `GATEWAY_SUPERSEDED`: the lease has ended, stop working for it. `GATEWAY_UNKNOWN_LEASE`;
/// `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_heartbeat(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    deadline: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::optional(deadline, "deadline") }?;
        let until = command(gw, |gateway| Ok(gateway.heartbeat(at(now), LeaseId::from_u64(lease))?))?;
        deadline.set(until.as_nanos());
        Ok(GATEWAY_OK)
    })
}

/// Tells how far a job is, in parts per million; counts as a heartbeat.
///
/// Errors: as `gateway_heartbeat`, and `GATEWAY_OUT_OF_RANGE` beyond 1 000 000. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_progress(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    progress_ppm: u32,
    deadline: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::optional(deadline, "deadline") }?;
        let until = command(gw, |gateway| Ok(gateway.progress(at(now), LeaseId::from_u64(lease), progress_ppm)?))?;
        deadline.set(until.as_nanos());
        Ok(GATEWAY_OK)
    })
}

/// Takes a job's result: it is complete, settled, and its slot free, in one change. Without any `usage` (0 items) the
/// lease's time is billed and marked as unmeasured. `settled` may be NULL.
///
///     gateway_output output = GATEWAY_OUTPUT_URL("https://cdn.example/1.webp");
///     gateway_usage usage = {"GPU-8f2c", 1700 * GATEWAY_MILLISECOND};
///     gateway_status status = gateway_complete(gw, now, info.id, &output, &usage, 1, NULL);
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_CONTRADICTION` for an output that is both;
/// `GATEWAY_SUPERSEDED`; `GATEWAY_UNKNOWN_LEASE`; from -201 down for an empty or over-long output and a malformed usage;
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. A usage beyond what the devices can have worked is
/// taken, and what was possible is billed; only where `billing_excess` is to refuse it is
/// `GATEWAY_USAGE_EXCEEDS_ELAPSED`, and `GATEWAY_TOO_LONG` for more devices than the backend has. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_complete(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    output: *const gateway_output,
    usage: *const gateway_usage,
    usage_len: usize,
    settled: *mut gateway_settled,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (output, usage, settled) =
            unsafe { (read_output(output)?, read_usage(usage, usage_len)?, Out::optional(settled, "settled")?) };
        let done = command(gw, |gateway| Ok(gateway.complete(at(now), LeaseId::from_u64(lease), output, usage)?))?;
        settled.set(done.into());
        Ok(GATEWAY_OK)
    })
}

/// Takes a job's failure. The class decides whether it is tried again and whether the breaker hears of it. NULL as
/// `failure` is one of the backend without words. `after` may be NULL.
///
/// Errors: as `gateway_complete`, and `GATEWAY_BAD_SIZE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_fail(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    failure: *const gateway_failure,
    usage: *const gateway_usage,
    usage_len: usize,
    after: *mut gateway_after_failure,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (failure, usage, after) =
            unsafe { (read_failure(failure)?, read_usage(usage, usage_len)?, Out::optional(after, "after")?) };
        let done = command(gw, |gateway| Ok(gateway.fail(at(now), LeaseId::from_u64(lease), failure, usage)?))?;
        after.set(done.into());
        Ok(GATEWAY_OK)
    })
}

/// Takes a lease back: its worker cannot go on. The job, whose id `*job` is, waits again at once, before what its customer
/// submitted later; or it is in error when that happened more than `releases_max` times. `job` may be NULL.
///
/// Errors: as `gateway_heartbeat`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_release(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    job: *mut gateway_job_id,
) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { give_back(gw, now, lease, None, null(), 0, job) }
}

/// The same with what the lease used; 0 items: the lease's time. `billing_released` says who pays for it.
///
///     gateway_usage usage = {"GPU-8f2c", 1700 * GATEWAY_MILLISECOND};
///     gateway_status status = gateway_release_with(gw, now, info.id, &usage, 1, NULL);
///
/// Errors: as `gateway_heartbeat`, then as `gateway_complete` for the usage. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_release_with(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { give_back(gw, now, lease, None, usage, usage_len, job) }
}

/// The same, and the job may not run before `not_before`, an instant of the caller's clock: its worker cannot go on now, but
/// later. That is no failed attempt. An instant that has passed is now. `job` may be NULL.
///
///     // The checkpoint is still being copied; it will take ten seconds.
///     uint64_t ready = now + 10 * GATEWAY_SECOND;
///     gateway_status status = gateway_release_until(gw, now, info.id, ready, NULL, 0, NULL);
///
/// Errors: as `gateway_release_with`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_release_until(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    not_before: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { give_back(gw, now, lease, Some(not_before), usage, usage_len, job) }
}

unsafe fn give_back(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    not_before: Option<u64>,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, job) = unsafe { (read_usage(usage, usage_len)?, Out::optional(job, "job")?) };
        let (now, lease) = (at(now), LeaseId::from_u64(lease));
        let id = command(gw, |gateway| {
            Ok(match not_before {
                None => gateway.release_with(now, lease, usage)?,
                Some(not_before) => gateway.release_until(now, lease, at(not_before), usage)?,
            })
        })?;
        job.set(id_out(id));
        Ok(GATEWAY_OK)
    })
}

/// Takes the lease of a job that runs back, to make room for another one. The job waits again at once, for another attempt.
/// `*lease`, which may be NULL, is the lease that ended: its worker is to be stopped, and its result is refused from now on.
/// `usage` is what the lease used; 0 items: the lease's time. `billing_preempted` says who pays for it.
/// `gateway_running_json` lists whom one could preempt; inside of a transaction the job that needs the room gets it at once:
///
///     static gateway_status make_room(gateway_tx *tx, void *context) {
///         room *own = context; // typedef struct { gateway_job_id batch; gateway_lease *urgent; } room;
///         gateway_status status = gateway_tx_preempt(tx, own->batch, NULL, 0, NULL);
///         if (status != GATEWAY_OK) return status;
///         return gateway_tx_dispatch_route(tx, "image/flux/dev/t2i", &own->urgent, NULL);
///     }
///     room own = {batch, NULL};
///     gateway_status status = gateway_transaction(gw, now, make_room, &own);
///
/// Errors, in this order: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_ENDED`; `GATEWAY_NOT_ALLOWED` for a job that waits;
/// `GATEWAY_PREEMPTED_TOO_OFTEN` after `preemptions_max`; then as `gateway_cancel_with` for the usage. `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED` and `GATEWAY_REENTERED` are as everywhere. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_preempt(
    gw: *mut gateway,
    now: u64,
    job: gateway_job_id,
    usage: *const gateway_usage,
    usage_len: usize,
    lease: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, lease) = unsafe { (read_usage(usage, usage_len)?, Out::optional(lease, "lease")?) };
        lease.set(command(gw, |gateway| Ok(gateway.preempt(at(now), job_id(job), usage)?.as_u64()))?);
        Ok(GATEWAY_OK)
    })
}

/// Gives up the job of a live lease, whose id `*job` is: its worker says that nobody waits for the result any more. Unlike
/// `gateway_cancel` it does nothing to a job that has gone on to another worker. `usage` is what the lease used; 0 items:
/// the lease's time. `billing_cancelled` says who pays for it. `job` may be NULL.
///
/// Errors: as `gateway_release_with`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_cancel_lease(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, job) = unsafe { (read_usage(usage, usage_len)?, Out::optional(job, "job")?) };
        let id = command(gw, |gateway| Ok(gateway.cancel_lease(at(now), LeaseId::from_u64(lease), usage)?))?;
        job.set(id_out(id));
        Ok(GATEWAY_OK)
    })
}

/// Handles what is due by `now`. Every command does so first; call it at `gateway_next_deadline` when nothing else
/// happens. Safe early, safe twice. `advanced` may be NULL.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_advance(
    gw: *mut gateway,
    now: u64,
    advanced: *mut gateway_advanced,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let advanced = unsafe { Out::optional(advanced, "advanced") }?;
        advanced.set(command(gw, |gateway| Ok(gateway.advance(at(now))))?.into());
        Ok(GATEWAY_OK)
    })
}

/// Takes a step of the clock that is on trial for time that passed: an operator says that the clock is right. Else as
/// `gateway_advance`.
///
/// Errors: as there. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_accept_clock(
    gw: *mut gateway,
    now: u64,
    advanced: *mut gateway_advanced,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let advanced = unsafe { Out::optional(advanced, "advanced") }?;
        advanced.set(command(gw, |gateway| Ok(gateway.accept_clock(at(now))))?.into());
        Ok(GATEWAY_OK)
    })
}

/// When something falls due next, so that `gateway_advance` should be called: `*deadline` is `GATEWAY_FOREVER` where
/// there is nothing to wait for.
///
/// Errors: as `gateway_advance`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_next_deadline(gw: *const gateway, deadline: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::required(deadline, "deadline") }?;
        deadline.set(look(gw, |gateway| Ok(instant_or_forever(gateway.next_deadline())))?);
        Ok(GATEWAY_OK)
    })
}
