//! How jobs come in, and how they are given up.

use std::ffi::{c_char, c_void};

use libgateway::{Gateway, JobId, Route, Submit};

use super::command;
use super::work::{gateway_usage, read_usage};
use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::gateway;
use crate::ids::gateway_job_id;
use crate::input::{Options, Out, at, estimate, job_id, optional_text, options, payload, text, timeouts};
use crate::names::{self, GATEWAY_PRIORITY_NORMAL};
use crate::output::id_out;
use crate::status::*;

/// What a submission may say beyond who asks and what for. Begin with `GATEWAY_SUBMIT_OPTIONS_INIT`. Spans are in
/// nanoseconds.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_submit_options {
    /// `sizeof(gateway_submit_options)`.
    pub size: usize,
    /// The body: bytes that the backend gets unread. May be NULL where `payload_len` is 0.
    pub payload: *const c_void,
    /// How many bytes the body has.
    pub payload_len: usize,
    /// What a backend should have loaded: a LoRA, a checkpoint, a prefix. NULL: nothing.
    pub affinity: *const c_char,
    /// A second submission of the customer under the same key is the same job. NULL: each is another.
    pub idempotency_key: *const c_char,
    /// GPU time it will probably take; counts for the fair share until the real time is known. 0: as configured.
    pub estimate: u64,
    /// Longest single stay in the queue; 0: as configured.
    pub timeout_queue: u64,
    /// Longest time from submission to the first start; 0: as configured.
    pub timeout_start: u64,
    /// Longest time of one attempt; 0: as configured.
    pub timeout_run: u64,
    /// Longest time from submission to the end; 0: as configured.
    pub timeout_total: u64,
    /// It may not run before this instant of the caller's clock, and its timeouts count from then on. One that has passed
    /// is now; 0: at once.
    pub not_before: u64,
    /// Tokens its start takes from the customer's rate. Default 1.
    pub tokens: u64,
    /// The lane it waits in, `GATEWAY_PRIORITY_NORMAL` by default.
    pub priority: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, and has integers and pointers only.
unsafe impl Options for gateway_submit_options {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        payload: std::ptr::null(),
        payload_len: 0,
        affinity: std::ptr::null(),
        idempotency_key: std::ptr::null(),
        estimate: 0,
        timeout_queue: 0,
        timeout_start: 0,
        timeout_run: 0,
        timeout_total: 0,
        not_before: 0,
        tokens: 1,
        priority: GATEWAY_PRIORITY_NORMAL,
        reserved: 0,
    };
}

/// Puts a submission together.
///
/// # Safety
/// The texts are NULL or end in a NUL; `given` is NULL or as its struct says.
pub(crate) unsafe fn read_submit<'a>(
    id: gateway_job_id,
    customer: *const c_char,
    route: *const c_char,
    given: *const gateway_submit_options,
) -> Result<Submit<'a>, Failure> {
    // SAFETY: the caller's promise.
    let (customer, route) = unsafe { (text(customer, "customer")?, text(route, "route")?) };
    // SAFETY: the caller's promise.
    let own = unsafe { options(given, "options") }?;
    // SAFETY: the caller's promise.
    let (affinity, key, payload) = unsafe {
        (
            optional_text(own.affinity, "affinity")?,
            optional_text(own.idempotency_key, "idempotency_key")?,
            payload(own.payload, own.payload_len)?,
        )
    };
    super::reserved(own.reserved)?;
    let mut submit = Submit::new(job_id(id), customer, Route::parse(route)?)
        .payload(payload)
        .priority(names::priority(own.priority)?)
        .tokens(own.tokens)
        .timeouts(timeouts(own.timeout_queue, own.timeout_start, own.timeout_run, own.timeout_total));
    if let Some(estimate) = estimate(own.estimate) {
        submit = submit.estimate(estimate);
    }
    if let Some(affinity) = affinity {
        submit = submit.affinity(affinity);
    }
    if own.not_before != 0 {
        submit = submit.not_before(at(own.not_before));
    }
    if let Some(key) = key {
        submit = submit.idempotency_key(key);
    }
    Ok(submit)
}

/// Takes a job in. `route` is `modality/family/model/task`, with `?backend=torch` after it where it wants one engine:
/// "image/flux/dev/t2i". NULL as `options` takes all defaults. `*job` is the job's id: `id`, or that of the job its
/// idempotency key stands for already; it may be NULL.
///
/// Errors, in this order: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, and from -201 down for a value
/// that cannot be; `GATEWAY_IDEMPOTENCY_CONFLICT`; `GATEWAY_UNKNOWN_ROUTE`; `GATEWAY_DUPLICATE_JOB`; `GATEWAY_FULL`.
/// Nothing has changed then. `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED` and `GATEWAY_REENTERED` are as everywhere.
/// May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_submit(
    gw: *mut gateway,
    now: u64,
    id: gateway_job_id,
    customer: *const c_char,
    route: *const c_char,
    options: *const gateway_submit_options,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (job, submit) = unsafe { (Out::optional(job, "job")?, read_submit(id, customer, route, options)?) };
        job.set(id_out(command(gw, |gateway| Ok(gateway.submit(at(now), submit)?))?));
        Ok(GATEWAY_OK)
    })
}

/// Gives a job up, waiting or running. A running one's lease ends: its worker hears so at its next word.
///
/// Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_ENDED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`,
/// `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_cancel(gw: *mut gateway, now: u64, job: gateway_job_id) -> gateway_status {
    guard(|| done(gw, |gateway| Ok(gateway.cancel(at(now), job_id(job))?)))
}

/// The same with what its lease used, if it has one; 0 items: the lease's time. `billing_cancelled` says who pays for it.
///
/// Errors: as `gateway_cancel`; `GATEWAY_NOT_UTF8`, from -201 down for a malformed usage, and
/// `GATEWAY_USAGE_EXCEEDS_ELAPSED` where the policy is to refuse. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_cancel_with(
    gw: *mut gateway,
    now: u64,
    job: gateway_job_id,
    usage: *const gateway_usage,
    usage_len: usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let usage = unsafe { read_usage(usage, usage_len) }?;
        done(gw, |gateway| Ok(gateway.cancel_with(at(now), job_id(job), usage)?))
    })
}

/// Removes the record of a job that has ended. Its settlement stays.
///
/// Errors: `GATEWAY_UNKNOWN_JOB`; `GATEWAY_NOT_ENDED`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_delete(gw: *mut gateway, now: u64, job: gateway_job_id) -> gateway_status {
    guard(|| done(gw, |gateway| Ok(gateway.delete(at(now), job_id(job))?)))
}

/// The job a customer submitted under an idempotency key.
///
/// `GATEWAY_NONE`: no job is known under it. Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_job_by_key(
    gw: *const gateway,
    customer: *const c_char,
    key: *const c_char,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (customer, key, job) =
            unsafe { (text(customer, "customer")?, text(key, "key")?, Out::required(job, "job")?) };
        let found: Option<JobId> = super::look(gw, |gateway| Ok(gateway.job_by_key(customer, key)))?;
        Ok(found.map_or(GATEWAY_NONE, |id| {
            job.set(id_out(id));
            GATEWAY_OK
        }))
    })
}

/// A command with nothing to tell but that it is done.
pub(crate) fn done(
    gw: *mut gateway,
    body: impl FnOnce(&mut Gateway) -> Result<(), Failure>,
) -> Result<gateway_status, Failure> {
    command(gw, body).map(|()| GATEWAY_OK)
}
