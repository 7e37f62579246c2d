//! A circuit breaker.

use libgateway::{Admit, BreakerStatus, CircuitBreaker, Permit};

use crate::guard::guard;
use crate::handle::{create, free, gateway_breaker, with};
use crate::input::{Out, at, instant_or_forever, number, optional_instant, options};
use crate::machine::{forced, gateway_breaker_config};
use crate::names::BREAKER_STATES;
use crate::status::*;

/// What a breaker says to a call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_admitted {
    /// Comes back with the call's result; 0 of a denial.
    pub permit: u64,
    /// Of a denial when it is worth asking again, `GATEWAY_FOREVER` where no instant will change the answer; else 0.
    pub until: u64,
    /// 1 where the call is the one probe: its result decides.
    pub probe: u64,
}

/// All there is to know of a breaker at an instant.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_breaker_status {
    /// Since when it is in its state.
    pub since: u64,
    /// When the state ends by itself; `GATEWAY_FOREVER` where it does not.
    pub until: u64,
    /// Results in the window.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Successes counted, ever.
    pub successes_total: u64,
    /// Failures counted, ever.
    pub failures_total: u64,
    /// Calls denied, ever.
    pub rejected_total: u64,
    /// `GATEWAY_BREAKER_CLOSED` and its like.
    pub state: u32,
    /// 1 where the state was forced.
    pub forced: u32,
    /// 1 where a probe is out.
    pub probe_out: u32,
    /// Probes that succeeded in this half-open state.
    pub probe_successes: u32,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// How often in a row a probe failed.
    pub reopens: u32,
}

impl From<BreakerStatus> for gateway_breaker_status {
    fn from(status: BreakerStatus) -> Self {
        Self {
            since: status.since.as_nanos(),
            until: instant_or_forever(status.until),
            calls: status.calls,
            failures: status.failures,
            successes_total: status.successes_total,
            failures_total: status.failures_total,
            rejected_total: status.rejected_total,
            state: number(status.state, BREAKER_STATES),
            forced: u32::from(status.forced),
            probe_out: u32::from(status.probe_out),
            probe_successes: status.probe_successes,
            consecutive_failures: status.consecutive_failures,
            reopens: status.reopens,
        }
    }
}

fn yes(yes: bool) -> gateway_status {
    if yes { GATEWAY_OK } else { GATEWAY_NONE }
}

/// Makes a closed breaker that has seen nothing. NULL as `config` takes all defaults. Free it by `gateway_breaker_free`.
///
///     gateway_admitted admitted;
///     if (gateway_breaker_admit(breaker, now, &admitted) == GATEWAY_OK) {
///         if (call_the_backend()) gateway_breaker_success(breaker, admitted.permit, gateway_now());
///         else gateway_breaker_failure(breaker, admitted.permit, gateway_now());
///     }
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE` and others from -201 down for the first field
/// that cannot be. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_new(
    config: *const gateway_breaker_config,
    now: u64,
    breaker: *mut *mut gateway_breaker,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (config, breaker) = unsafe { (options(config, "config")?.read()?, Out::required(breaker, "breaker")?) };
        create(CircuitBreaker::new(config, at(now))?, breaker)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a breaker. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_free(breaker: *mut gateway_breaker) -> gateway_status {
    guard(|| free(breaker))
}

/// Asks for a call. Each call that was allowed is answered once, by its permit.
///
/// `GATEWAY_DENIED`: the call must not be made. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_admit(
    breaker: *mut gateway_breaker,
    now: u64,
    admitted: *mut gateway_admitted,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let admitted = unsafe { Out::required(admitted, "admitted") }?;
        let (status, told) = match with(breaker, |breaker| Ok(breaker.admit(at(now))))? {
            Admit::Allow(permit) => (GATEWAY_OK, gateway_admitted { permit: permit.as_u64(), until: 0, probe: 0 }),
            Admit::Probe(permit) => (GATEWAY_OK, gateway_admitted { permit: permit.as_u64(), until: 0, probe: 1 }),
            Admit::Deny { until } => {
                (GATEWAY_DENIED, gateway_admitted { permit: 0, until: until.as_nanos(), probe: 0 })
            }
        };
        admitted.set(told);
        Ok(status)
    })
}

/// The call succeeded.
///
/// `GATEWAY_NONE`: that does not count, because the state in which the call was allowed is over. Errors:
/// `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_success(
    breaker: *mut gateway_breaker,
    permit: u64,
    now: u64,
) -> gateway_status {
    guard(|| with(breaker, |breaker| Ok(yes(breaker.handle_success(Permit::from_u64(permit), at(now))))))
}

/// The call failed; one that timed out did.
///
/// Answers and errors: as `gateway_breaker_success`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_failure(
    breaker: *mut gateway_breaker,
    permit: u64,
    now: u64,
) -> gateway_status {
    guard(|| with(breaker, |breaker| Ok(yes(breaker.handle_failure(Permit::from_u64(permit), at(now))))))
}

/// The call came to nothing: it says nothing about the callee.
///
/// Answers and errors: as `gateway_breaker_success`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_cancelled(
    breaker: *mut gateway_breaker,
    permit: u64,
    now: u64,
) -> gateway_status {
    guard(|| with(breaker, |breaker| Ok(yes(breaker.handle_cancelled(Permit::from_u64(permit), at(now))))))
}

/// Makes what is due by `now` so for the record. Nothing depends on it: every answer is already as of its own `now`.
///
/// `GATEWAY_NONE`: nothing was due. Errors: as `gateway_breaker_success`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_handle_timeout(breaker: *mut gateway_breaker, now: u64) -> gateway_status {
    guard(|| with(breaker, |breaker| Ok(yes(breaker.handle_timeout(at(now))))))
}

/// When the breaker's state ends by itself; `GATEWAY_FOREVER` where it does not.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_next_deadline(
    breaker: *const gateway_breaker,
    deadline: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::required(deadline, "deadline") }?;
        deadline.set(with(breaker, |breaker| Ok(instant_or_forever(breaker.next_deadline())))?);
        Ok(GATEWAY_OK)
    })
}

/// Holds the breaker in `state`, `GATEWAY_FORCED_OPEN` or `GATEWAY_FORCED_CLOSED`, until an instant, or with
/// `GATEWAY_FOREVER` until further notice; `GATEWAY_FORCED_NONE` lets go of it.
///
/// `GATEWAY_NONE`: nothing was done, because the end is not in the future or nothing was forced. Errors:
/// `GATEWAY_OUT_OF_RANGE`; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_force(
    breaker: *mut gateway_breaker,
    state: u32,
    until: u64,
    now: u64,
) -> gateway_status {
    guard(|| {
        let state = forced(state)?;
        with(breaker, |breaker| {
            Ok(yes(match state {
                Some(state) => breaker.force(state, optional_instant(until), at(now)),
                None => breaker.release(at(now)),
            }))
        })
    })
}

/// All there is to know at `now`. Changes nothing.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_breaker_read(
    breaker: *const gateway_breaker,
    now: u64,
    status: *mut gateway_breaker_status,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let status = unsafe { Out::required(status, "status") }?;
        status.set(
            with(breaker, |breaker| {
                // A question takes note of a step of the clock, too: somebody may ask nothing else.
                breaker.handle_timeout(at(now));
                Ok(breaker.status(at(now)))
            })?
            .into(),
        );
        Ok(GATEWAY_OK)
    })
}
