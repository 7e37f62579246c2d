//! Several steps as one: a callback that runs inside the gateway's lock.
//!
//! There is no begin and no commit: what is open between two calls could stay open, and would hold the lock. The callback
//! ends in every case, and with it the transaction.

use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::ptr::null;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libgateway::{Abort, Gateway, LeaseId, Route, Transaction};

use super::command;
use super::jobs::{gateway_submit_options, read_submit};
use super::lease::{hand_out, leased};
use super::money::gateway_corrected;
use super::work::{
    gateway_after_failure, gateway_failure, gateway_output, gateway_settled, gateway_usage, read_failure, read_output,
    read_usage,
};
use crate::failure::Failure;
use crate::fork::forks;
use crate::guard::guard;
use crate::handle::{gateway, gateway_lease, reserve};
use crate::ids::gateway_job_id;
use crate::input::{Out, at, job_id, outs, text};
use crate::output::id_out;
use crate::status::*;

/// A transaction under way. Lives as long as its callback runs, and in that thread alone; afterwards, and elsewhere, it
/// is answered `GATEWAY_INVALID_HANDLE`.
#[allow(non_camel_case_types)]
pub struct gateway_tx {
    _opaque: [u8; 0],
}

/// The steps of a transaction. Returns 0 to keep them; anything else takes all of them back and is what
/// `gateway_transaction` answers. `tx` must not be kept. No exception and no `longjmp` may leave it.
#[allow(non_camel_case_types)]
pub type gateway_tx_body = Option<unsafe extern "C" fn(tx: *mut gateway_tx, context: *mut c_void) -> gateway_status>;

/// A transaction this thread is inside of.
struct Frame {
    number: u64,
    /// The process it began in, as [`forks`] counts.
    forks: u32,
    /// Lives in the frame of [`run`] that pushed this, and is used through here only while that is on the stack.
    tx: *mut Transaction<'static>,
}

thread_local! {
    /// The innermost is the last.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// Threads that are inside of a transaction. Nearly always none is, and nobody has to look at its own frames.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// The number of the next transaction; none is used twice.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Whether this thread is inside of a transaction.
#[inline]
pub(crate) fn is_inside() -> bool {
    // A thread sees its own increment, and that is all that matters here.
    INSIDE.load(Ordering::Relaxed) > 0 && FRAMES.with_borrow(|frames| !frames.is_empty())
}

/// Runs a callback as the body of a transaction.
pub(crate) fn run(
    tx: &mut Transaction<'_>,
    body: unsafe extern "C" fn(*mut gateway_tx, *mut c_void) -> gateway_status,
    context: *mut c_void,
) -> Result<(), Abort<gateway_status>> {
    /// Takes the frame away, whatever happens.
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            FRAMES.with_borrow_mut(|frames| frames.pop());
            INSIDE.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let (number, forks) = (NEXT.fetch_add(1, Ordering::Relaxed), forks());
    INSIDE.fetch_add(1, Ordering::Relaxed);
    FRAMES.with_borrow_mut(|frames| frames.push(Frame { number, forks, tx: (&raw mut *tx).cast() }));
    let leave = Leave;
    let handle = std::ptr::without_provenance_mut((number << 4 | TAG) as usize);
    // SAFETY: the caller of `gateway_transaction` gave the callback with its context.
    let status = unsafe { body(handle, context) };
    drop(leave);
    match status {
        // A child that was forked inside of the callback: the steps are the parent's.
        _ if crate::fork::forks() != forks => Err(Abort::Error(GATEWAY_FORKED)),
        GATEWAY_OK => Ok(()),
        status => Err(Abort::Error(status)),
    }
}

/// Does a step of a transaction.
fn step<T>(
    handle: *mut gateway_tx,
    body: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if handle.is_null() {
        return Err(Failure::pointer("tx"));
    }
    let number = handle.addr() as u64;
    let found = FRAMES.with_borrow(|frames| {
        let known = |frame: &Frame| (frame.number << 4 | TAG) == number;
        match frames.last() {
            Some(frame) if known(frame) && frame.forks != forks() => Err(Failure::forked("transaction")),
            Some(frame) if known(frame) => Ok(frame.tx),
            _ if frames.iter().any(known) => Err(Failure::reentered()),
            _ => Err(Failure::handle("tx")),
        }
    });
    // SAFETY: the frame is there, so `run` is on this thread's stack below and lent its transaction to this place alone;
    // it is the innermost one, and no step runs inside of a step.
    body(unsafe { &mut *found? })
}

/// What a transaction came to, as C is told.
fn outcome(result: Result<(), Abort<gateway_status>>) -> gateway_status {
    match result {
        Ok(()) => GATEWAY_OK,
        Err(Abort::Error(status)) => status,
        Err(Abort::Retry { .. }) => GATEWAY_WAIT,
    }
}

/// Runs a transaction on a gateway whose lock is held.
pub(crate) fn transact(
    gateway: &mut Gateway,
    now: u64,
    body: unsafe extern "C" fn(*mut gateway_tx, *mut c_void) -> gateway_status,
    context: *mut c_void,
) -> gateway_status {
    outcome(gateway.transaction(at(now), |tx| run(tx, body, context)))
}

/// Runs several steps as one: all of them happen, or none.
///
/// `body` gets a `gateway_tx` and makes its steps by the functions `gateway_tx_...`. If it returns 0, all of them have
/// happened; if it returns anything else, none of them has, and this function returns what it returned: `GATEWAY_WAIT` for
/// "not now", the status of the step that failed, or a number of its own. A step that fails has changed nothing by itself;
/// going on after it is fine.
///
///     static gateway_status both(gateway_tx *tx, void *context) {
///         gateway_lease **leases = context;
///         gateway_status status = gateway_tx_dispatch_route(tx, "image/flux/dev/t2i", &leases[0], NULL);
///         if (status != GATEWAY_OK) return status;
///         return gateway_tx_dispatch_route(tx, "video/wan/default/i2v", &leases[1], NULL);
///     }
///     gateway_lease *leases[2] = {NULL, NULL};
///     gateway_status status = gateway_transaction(gw, now, both, leases);
///
/// Handles of leases that were made inside have to be freed in any case; of a transaction that did not happen they are
/// leases the gateway does not know.
///
/// While `body` runs everybody else waits, so keep it short. Inside of it any function on any `gateway`, this one
/// included, answers `GATEWAY_REENTERED`, so that no two threads can wait for each other; all else may be used. There is no
/// begin and commit apart from each other: a transaction cannot be left open.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_transaction(
    gw: *mut gateway,
    now: u64,
    body: gateway_tx_body,
    context: *mut c_void,
) -> gateway_status {
    guard(|| {
        let body = body.ok_or_else(|| Failure::pointer("body"))?;
        command(gw, |gateway| Ok(transact(gateway, now, body, context)))
    })
}

/// Runs steps within a transaction; if `body` returns anything but 0, only they did not happen. So alternatives are
/// tried: attempt the first, and where that answers `GATEWAY_WAIT`, attempt the second. While `body` runs, only the
/// `gateway_tx` it gets may be used; the one outside answers `GATEWAY_REENTERED`.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_REENTERED`. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_attempt(
    tx: *mut gateway_tx,
    body: gateway_tx_body,
    context: *mut c_void,
) -> gateway_status {
    guard(|| {
        let body = body.ok_or_else(|| Failure::pointer("body"))?;
        step(tx, |tx| Ok(outcome(tx.attempt(|tx| run(tx, body, context)))))
    })
}

/// The machine's time: that of the whole transaction.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_REENTERED`. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_now(tx: *mut gateway_tx, now: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let now = unsafe { Out::required(now, "now") }?;
        now.set(step(tx, |tx| Ok(tx.now().as_nanos()))?);
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_submit`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_submit(
    tx: *mut gateway_tx,
    id: gateway_job_id,
    customer: *const c_char,
    route: *const c_char,
    options: *const gateway_submit_options,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (job, submit) = unsafe { (Out::optional(job, "job")?, read_submit(id, customer, route, options)?) };
        job.set(id_out(step(tx, |tx| Ok(tx.submit(submit)?))?));
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_dispatch`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_dispatch(
    tx: *mut gateway_tx,
    lease: *mut *mut gateway_lease,
    until: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (lease, until) = unsafe { (Out::required(lease, "lease")?, Out::optional(until, "until")?) };
        step(tx, |tx| {
            let place = reserve(1)?;
            leased(tx.dispatch(), place, lease, until)
        })
    })
}

/// As `gateway_dispatch_route`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_dispatch_route(
    tx: *mut gateway_tx,
    route: *const c_char,
    lease: *mut *mut gateway_lease,
    until: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (route, lease, until) =
            unsafe { (text(route, "route")?, Out::required(lease, "lease")?, Out::optional(until, "until")?) };
        let route = Route::parse(route)?;
        step(tx, |tx| {
            let place = reserve(1)?;
            leased(tx.dispatch_route(&route)?, place, lease, until)
        })
    })
}

/// As `gateway_dispatch_to`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_dispatch_to(
    tx: *mut gateway_tx,
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
        let granted = step(tx, |tx| {
            // Steps can be taken back, so no more places are reserved than there are leases.
            let attempt = tx.attempt(|tx| {
                let granted = tx.dispatch_to(backend, max).map_err(|error| Abort::Error(error.into()))?;
                let places = reserve(granted.len() as u32).map_err(Abort::Error)?;
                Ok(hand_out(granted, places, leases))
            });
            attempt.map_err(|abort| match abort {
                Abort::Error(failure) => failure,
                Abort::Retry { .. } => Failure::reentered(),
            })
        })?;
        count.set(granted);
        Ok(if granted == 0 { GATEWAY_WAIT } else { GATEWAY_OK })
    })
}

/// As `gateway_heartbeat`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_heartbeat(tx: *mut gateway_tx, lease: u64, deadline: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::optional(deadline, "deadline") }?;
        deadline.set(step(tx, |tx| Ok(tx.heartbeat(LeaseId::from_u64(lease))?.as_nanos()))?);
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_progress`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_progress(
    tx: *mut gateway_tx,
    lease: u64,
    progress_ppm: u32,
    deadline: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::optional(deadline, "deadline") }?;
        deadline.set(step(tx, |tx| Ok(tx.progress(LeaseId::from_u64(lease), progress_ppm)?.as_nanos()))?);
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_complete`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_complete(
    tx: *mut gateway_tx,
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
        settled.set(step(tx, |tx| Ok(tx.complete(LeaseId::from_u64(lease), output, usage)?.into()))?);
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_fail`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_fail(
    tx: *mut gateway_tx,
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
        after.set(step(tx, |tx| Ok(tx.fail(LeaseId::from_u64(lease), failure, usage)?.into()))?);
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_release`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_release(
    tx: *mut gateway_tx,
    lease: u64,
    job: *mut gateway_job_id,
) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { give_back(tx, lease, None, null(), 0, job) }
}

/// As `gateway_release_with`.
///
/// Errors: as there. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_release_with(
    tx: *mut gateway_tx,
    lease: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { give_back(tx, lease, None, usage, usage_len, job) }
}

/// As `gateway_release_until`.
///
/// Errors: as there. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_release_until(
    tx: *mut gateway_tx,
    lease: u64,
    not_before: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { give_back(tx, lease, Some(not_before), usage, usage_len, job) }
}

unsafe fn give_back(
    tx: *mut gateway_tx,
    lease: u64,
    not_before: Option<u64>,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, job) = unsafe { (read_usage(usage, usage_len)?, Out::optional(job, "job")?) };
        let lease = LeaseId::from_u64(lease);
        let id = step(tx, |tx| {
            Ok(match not_before {
                None => tx.release_with(lease, usage)?,
                Some(not_before) => tx.release_until(lease, at(not_before), usage)?,
            })
        })?;
        job.set(id_out(id));
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_preempt`.
///
/// Errors: as there. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_preempt(
    tx: *mut gateway_tx,
    job: gateway_job_id,
    usage: *const gateway_usage,
    usage_len: usize,
    lease: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, lease) = unsafe { (read_usage(usage, usage_len)?, Out::optional(lease, "lease")?) };
        lease.set(step(tx, |tx| Ok(tx.preempt(job_id(job), usage)?.as_u64()))?);
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_cancel_lease`.
///
/// Errors: as there. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_cancel_lease(
    tx: *mut gateway_tx,
    lease: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    job: *mut gateway_job_id,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, job) = unsafe { (read_usage(usage, usage_len)?, Out::optional(job, "job")?) };
        job.set(id_out(step(tx, |tx| Ok(tx.cancel_lease(LeaseId::from_u64(lease), usage)?))?));
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_cancel_with`.
///
/// Errors: as there. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_cancel_with(
    tx: *mut gateway_tx,
    job: gateway_job_id,
    usage: *const gateway_usage,
    usage_len: usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let usage = unsafe { read_usage(usage, usage_len) }?;
        step(tx, |tx| Ok(tx.cancel_with(job_id(job), usage)?)).map(|()| GATEWAY_OK)
    })
}

/// As `gateway_correct_usage`.
///
/// Errors: as there. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_correct_usage(
    tx: *mut gateway_tx,
    lease: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    corrected: *mut gateway_corrected,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, corrected) = unsafe { (read_usage(usage, usage_len)?, Out::optional(corrected, "corrected")?) };
        corrected.set(step(tx, |tx| Ok(tx.correct_usage(LeaseId::from_u64(lease), usage)?))?.into());
        Ok(GATEWAY_OK)
    })
}

/// As `gateway_cancel`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_cancel(tx: *mut gateway_tx, job: gateway_job_id) -> gateway_status {
    guard(|| step(tx, |tx| Ok(tx.cancel(job_id(job))?)).map(|()| GATEWAY_OK))
}

/// As `gateway_delete`.
///
/// Errors: as there, without those of the gateway's handle. Inside of a transaction's callback only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_tx_delete(tx: *mut gateway_tx, job: gateway_job_id) -> gateway_status {
    guard(|| step(tx, |tx| Ok(tx.delete(job_id(job))?)).map(|()| GATEWAY_OK))
}

/// Told from a handle of the table by its lowest bits.
const TAG: u64 = 0xa;
