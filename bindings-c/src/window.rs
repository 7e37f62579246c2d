//! A strict limit: so many in any window of time.

use libgateway::{Span, WindowLimit, WindowLimiter};

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{create, free, gateway_window, with};
use crate::input::{Out, at, given, instant_or_forever};
use crate::limiter::{gateway_acquired, gateway_rate_headers, tell};
use crate::status::*;

/// The rule of a strict window: at most `amount` tokens in any stretch of time of `per` nanoseconds, wherever it begins. A
/// bucket lets as many more through as it keeps; this does not, and keeps an instant for each token instead.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_window_limit {
    /// The length of the window in nanoseconds; not 0.
    pub per: u64,
    /// The most tokens of a window, at most 65 536.
    pub amount: u32,
    /// Must be 0.
    pub reserved: u32,
}

impl gateway_window_limit {
    fn read(&self) -> Result<WindowLimit, Failure> {
        crate::machine::reserved(self.reserved)?;
        Ok(WindowLimit::new(self.amount, Span::from_nanos(self.per))?)
    }
}

/// Makes a limiter whose window is empty. Any `now` may be given to it, as to `gateway_limiter_new`. Free it by
/// `gateway_window_free`.
///
///     gateway_window_limit limit = {GATEWAY_MINUTE, 6, 0};
///     gateway_window *window = NULL;
///     gateway_window_new(&limit, now, &window);
///     if (gateway_window_try_acquire(window, 1, now, NULL) != GATEWAY_OK) return 429;
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_OUT_OF_RANGE` for an `amount` above 65 536 or a `per` of 0. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_new(
    limit: *const gateway_window_limit,
    now: u64,
    window: *mut *mut gateway_window,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (limit, window) = unsafe { (given(limit, "limit")?.read()?, Out::required(window, "window")?) };
        create(WindowLimiter::new(limit, at(now)), window)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a window. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_free(window: *mut gateway_window) -> gateway_status {
    guard(|| free(window))
}

/// Takes `cost` tokens, or says when. A cost of 0 is always allowed. `acquired` may be NULL.
///
/// `GATEWAY_DENIED`: not yet; nothing was taken. `GATEWAY_NEVER`: not ever. Errors: `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_try_acquire(
    window: *mut gateway_window,
    cost: u64,
    now: u64,
    acquired: *mut gateway_acquired,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let acquired = unsafe { Out::optional(acquired, "acquired") }?;
        Ok(tell(with(window, |window| Ok(window.try_acquire(cost, at(now))))?, acquired))
    })
}

/// What `gateway_window_try_acquire` would answer.
///
/// Answers and errors: as there. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_peek(
    window: *const gateway_window,
    cost: u64,
    now: u64,
    acquired: *mut gateway_acquired,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let acquired = unsafe { Out::optional(acquired, "acquired") }?;
        Ok(tell(with(window, |window| Ok(window.peek(cost, at(now))))?, acquired))
    })
}

/// Gives `cost` tokens back. The oldest go, so that no window has more than its amount of those that stay.
///
/// Errors: `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_refund(window: *mut gateway_window, cost: u64, now: u64) -> gateway_status {
    guard(|| {
        with(window, |window| {
            window.refund(cost, at(now));
            Ok(GATEWAY_OK)
        })
    })
}

/// What the rate limit headers say at `now`; the reset is when the window is empty.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_headers(
    window: *const gateway_window,
    now: u64,
    headers: *mut gateway_rate_headers,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let headers = unsafe { Out::required(headers, "headers") }?;
        headers.set(with(window, |window| Ok(window.headers(at(now))))?.into());
        Ok(GATEWAY_OK)
    })
}

/// Changes the limit at `now`. What was taken stays taken: under a lower amount nothing is allowed until enough has left.
///
/// Errors: as `gateway_window_new`, and `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_set_limit(
    window: *mut gateway_window,
    limit: *const gateway_window_limit,
    now: u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let limit = unsafe { given(limit, "limit") }?.read()?;
        with(window, |window| {
            window.set_limit(limit, at(now));
            Ok(GATEWAY_OK)
        })
    })
}

/// The next instant at which more may be taken than before; `GATEWAY_FOREVER` where the window is empty.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_window_next_deadline(
    window: *const gateway_window,
    deadline: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::required(deadline, "deadline") }?;
        deadline.set(instant_or_forever(with(window, |window| Ok(window.next_deadline()))?));
        Ok(GATEWAY_OK)
    })
}
