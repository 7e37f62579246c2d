//! A retry schedule.

use libgateway::{Backoff, GiveUpReason, Retry};

use crate::guard::guard;
use crate::handle::{create, free, gateway_backoff, with};
use crate::ids::gateway_job_id;
use crate::input::{Out, at, job_id, optional_span, options};
use crate::machine::gateway_backoff_config;
use crate::status::*;

/// There is another attempt.
pub const GATEWAY_RETRY_AT: u32 = 0;
/// All retries are used up.
pub const GATEWAY_RETRY_EXHAUSTED: u32 = 1;
/// The next attempt would begin after the total time allowed.
pub const GATEWAY_RETRY_OUT_OF_TIME: u32 = 2;

/// What follows a failed attempt.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_retry {
    /// When to try again, not before; `GATEWAY_FOREVER` where there is no further attempt.
    pub at: u64,
    /// `GATEWAY_RETRY_AT`, or why there is none.
    pub kind: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Makes a schedule. NULL as `config` takes all defaults: 1, 2 and 4 seconds, then no more. Free it by
/// `gateway_backoff_free`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`; `GATEWAY_CONTRADICTION`. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_backoff_new(
    config: *const gateway_backoff_config,
    backoff: *mut *mut gateway_backoff,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (config, backoff) = unsafe { (options(config, "config")?.read()?, Out::required(backoff, "backoff")?) };
        create(Backoff::new(config)?, backoff)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a schedule. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_backoff_free(backoff: *mut gateway_backoff) -> gateway_status {
    guard(|| free(backoff))
}

/// The wait after the `attempt`-th failure (from 1) of the thing called `key`, in nanoseconds. `retry_after` is a floor; 0:
/// there is none. The same question has the same answer on every machine.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_backoff_delay(
    backoff: *const gateway_backoff,
    key: gateway_job_id,
    attempt: u32,
    retry_after: u64,
    delay: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let delay = unsafe { Out::required(delay, "delay") }?;
        let key = job_id(key).as_u128();
        let span = with(backoff, |backoff| Ok(backoff.delay(key, attempt, optional_span(retry_after))))?;
        delay.set(span.as_nanos());
        Ok(GATEWAY_OK)
    })
}

/// What follows the `attempt`-th failure, seen at `now`, of a thing first tried at `first_at`.
///
/// `GATEWAY_NONE`: there is no further attempt; `retry->kind` tells why. Errors: `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_backoff_next(
    backoff: *const gateway_backoff,
    key: gateway_job_id,
    attempt: u32,
    first_at: u64,
    now: u64,
    retry_after: u64,
    retry: *mut gateway_retry,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let retry = unsafe { Out::required(retry, "retry") }?;
        let key = job_id(key).as_u128();
        let next =
            with(backoff, |backoff| Ok(backoff.next(key, attempt, at(first_at), at(now), optional_span(retry_after))))?;
        let (status, kind, when) = match next {
            Retry::At(when) => (GATEWAY_OK, GATEWAY_RETRY_AT, when.as_nanos()),
            Retry::GiveUp(GiveUpReason::Exhausted) => (GATEWAY_NONE, GATEWAY_RETRY_EXHAUSTED, u64::MAX),
            Retry::GiveUp(GiveUpReason::OutOfTime) => (GATEWAY_NONE, GATEWAY_RETRY_OUT_OF_TIME, u64::MAX),
        };
        retry.set(gateway_retry { at: when, kind, reserved: 0 });
        Ok(status)
    })
}
