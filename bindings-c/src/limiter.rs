//! One rate limit.

use libgateway::{Acquire, RateHeaders, RateLimit, RateLimiter, Span};

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{create, free, gateway_limiter, with};
use crate::input::{Out, at, given};
use crate::status::*;

/// The rule of a bucket: `amount` tokens flow in per `per` nanoseconds, evenly, and at most `burst` are kept, whatever the
/// numbers: `{30 * 24 * GATEWAY_HOUR, 9973, 9973}` is exact. An `amount` of 0 never refills. Begin with `GATEWAY_RATE_INIT`
/// for 100 a second, 1 000 kept.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_rate {
    /// The time in which `amount` tokens flow in, in nanoseconds; not 0. `GATEWAY_SECOND` for a rate per second.
    pub per: u64,
    /// Tokens that flow in per `per`.
    pub amount: u64,
    /// Tokens of a full bucket.
    pub burst: u64,
}

/// What a limiter says to a call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_acquired {
    /// Of a denial the first nanosecond at which the same call is allowed if nobody takes tokens before,
    /// `GATEWAY_FOREVER` if it never is; 0 where tokens were taken.
    pub until: u64,
    /// Whole tokens left, where tokens were taken; else 0.
    pub remaining: u64,
    /// 1 where a keyed limiter had no room for a new key and took the tokens of the bucket that such keys share; else 0.
    pub shared: u32,
    /// 0.
    pub reserved: u32,
}

/// What the headers `X-RateLimit-Limit`, `-Remaining` and `-Reset` say.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_rate_headers {
    /// Time until the bucket is full again, in nanoseconds; `GATEWAY_FOREVER` if it never will be.
    pub reset: u64,
    /// Tokens of a full bucket.
    pub limit: u64,
    /// Whole tokens left.
    pub remaining: u64,
}

impl gateway_rate {
    pub(crate) fn read(&self) -> Result<RateLimit, Failure> {
        Ok(RateLimit::new(self.amount, Span::from_nanos(self.per), self.burst)?)
    }
}

impl From<RateHeaders> for gateway_rate_headers {
    fn from(headers: RateHeaders) -> Self {
        Self { reset: headers.reset.as_nanos(), limit: headers.limit, remaining: headers.remaining }
    }
}

#[inline]
pub(crate) fn tell(answer: Acquire, out: Out<gateway_acquired>) -> gateway_status {
    let (status, until, remaining) = match answer {
        Acquire::Allow { remaining } => (GATEWAY_OK, 0, remaining),
        Acquire::Deny { until } => (GATEWAY_DENIED, until.as_nanos(), 0),
        Acquire::Never => (GATEWAY_NEVER, u64::MAX, 0),
    };
    out.set(gateway_acquired { until, remaining, shared: 0, reserved: 0 });
    status
}

/// Makes a limiter with a full bucket. Any `now` may be given to it, then and later: no wrong reading of the clock, ahead or
/// back, stops the refill, and going back and forth makes no tokens. Free it by `gateway_limiter_free`.
///
///     gateway_rate rate = {GATEWAY_SECOND, 100, 1000};
///     gateway_limiter *limiter = NULL;
///     gateway_limiter_new(&rate, now, &limiter);
///     if (gateway_limiter_try_acquire(limiter, 1, now, NULL) != GATEWAY_OK) return 429;
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_OUT_OF_RANGE` for a `per` of 0; `GATEWAY_OVERFLOW` for a burst that cannot be
/// counted exactly in 128 bits, which needs an amount or a period of 2^63 or more. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_limiter_new(
    rate: *const gateway_rate,
    now: u64,
    limiter: *mut *mut gateway_limiter,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (rate, limiter) = unsafe { (given(rate, "rate")?.read()?, Out::required(limiter, "limiter")?) };
        create(RateLimiter::new(rate, at(now)), limiter)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a limiter. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_limiter_free(limiter: *mut gateway_limiter) -> gateway_status {
    guard(|| free(limiter))
}

/// Takes `cost` tokens, or says when. A cost of 0 is always allowed. `acquired` may be NULL.
///
/// `GATEWAY_DENIED`: not yet; nothing was taken. `GATEWAY_NEVER`: not ever. Errors: `GATEWAY_BAD_POINTER`,
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_limiter_try_acquire(
    limiter: *mut gateway_limiter,
    cost: u64,
    now: u64,
    acquired: *mut gateway_acquired,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let acquired = unsafe { Out::optional(acquired, "acquired") }?;
        Ok(tell(with(limiter, |limiter| Ok(limiter.try_acquire(cost, at(now))))?, acquired))
    })
}

/// What `gateway_limiter_try_acquire` would answer.
///
/// Answers and errors: as there. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_limiter_peek(
    limiter: *const gateway_limiter,
    cost: u64,
    now: u64,
    acquired: *mut gateway_acquired,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let acquired = unsafe { Out::optional(acquired, "acquired") }?;
        Ok(tell(with(limiter, |limiter| Ok(limiter.peek(cost, at(now))))?, acquired))
    })
}

/// Gives `cost` tokens back, up to the burst.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_limiter_refund(limiter: *mut gateway_limiter, cost: u64) -> gateway_status {
    guard(|| {
        with(limiter, |limiter| {
            limiter.refund(cost);
            Ok(GATEWAY_OK)
        })
    })
}

/// What the rate limit headers say at `now`.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_limiter_headers(
    limiter: *const gateway_limiter,
    now: u64,
    headers: *mut gateway_rate_headers,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let headers = unsafe { Out::required(headers, "headers") }?;
        headers.set(with(limiter, |limiter| Ok(limiter.headers(at(now))))?.into());
        Ok(GATEWAY_OK)
    })
}

/// Changes the limit at `now`. The tokens there are stay, up to the new burst.
///
/// Errors: as `gateway_limiter_new`, and `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_limiter_set_rate(
    limiter: *mut gateway_limiter,
    rate: *const gateway_rate,
    now: u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let rate = unsafe { given(rate, "rate") }?.read()?;
        with(limiter, |limiter| {
            limiter.set_limit(rate, at(now));
            Ok(GATEWAY_OK)
        })
    })
}
