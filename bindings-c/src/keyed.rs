//! Rate limits by key.

use std::ffi::c_void;

use libgateway::{KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig, RateLimit, Span};

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{create, free, gateway_keyed_limiter, with};
use crate::input::{Options, Out, at, bytes, given, options};
use crate::limiter::{gateway_acquired, gateway_rate, gateway_rate_headers};
use crate::machine::{GATEWAY_MINUTE, GATEWAY_SECOND};
use crate::status::*;

/// The settings of a keyed limiter. Begin with `GATEWAY_KEYED_LIMITER_CONFIG_INIT`: 100 a second, 1 000 kept, for up to
/// 100 000 keys.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_keyed_limiter_config {
    /// `sizeof(gateway_keyed_limiter_config)`.
    pub size: usize,
    /// What keys are hashed with. Give random bits where strangers choose the keys. No answer depends on it.
    pub seed: u64,
    /// The time in which `amount` tokens flow in, in nanoseconds. Default 1 s.
    pub per: u64,
    /// Tokens that flow in per `per`. Default 100.
    pub amount: u64,
    /// Tokens of a full bucket. Default 1 000.
    pub burst: u64,
    /// The time in which `overflow_amount` tokens flow into the bucket that new keys share while there is no room to
    /// remember them. 0, the default: its rate is that of a hundredth of `keys_max` keys.
    pub overflow_per: u64,
    /// Tokens that flow into it per `overflow_per`.
    pub overflow_amount: u64,
    /// Its burst; 0 refuses new keys while there is no room.
    pub overflow_burst: u64,
    /// A key that has called again stays remembered for so long after its last call, at least, though its bucket be full.
    /// Default 10 minutes. Up to half of `keys_max` stay so.
    pub known_for: u64,
    /// The most keys that are remembered at once, at least 1. Only keys whose bucket is not full need to be.
    /// Default 100 000.
    pub keys_max: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, and has integers only.
unsafe impl Options for gateway_keyed_limiter_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        seed: 0,
        per: GATEWAY_SECOND,
        amount: 100,
        burst: 1_000,
        overflow_per: 0,
        overflow_amount: 0,
        overflow_burst: 0,
        known_for: 10 * GATEWAY_MINUTE,
        keys_max: 100_000,
        reserved: 0,
    };
}

#[inline]
fn tell(answer: KeyedAcquire, out: Out<gateway_acquired>) -> gateway_status {
    let (status, until, remaining, shared) = match answer {
        KeyedAcquire::Allow { remaining } => (GATEWAY_OK, 0, remaining, 0),
        KeyedAcquire::Shared { remaining } => (GATEWAY_OK, 0, remaining, 1),
        KeyedAcquire::Deny { until } => (GATEWAY_DENIED, until.as_nanos(), 0, 0),
        KeyedAcquire::Never => (GATEWAY_NEVER, u64::MAX, 0, 0),
        KeyedAcquire::Full { until } => (GATEWAY_NO_ROOM, until.as_nanos(), 0, 0),
    };
    out.set(gateway_acquired { until, remaining, shared, reserved: 0 });
    status
}

/// Makes a limiter that knows no key. NULL as `config` takes all defaults. Free it by `gateway_keyed_limiter_free`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`, `GATEWAY_OVERFLOW`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_new(
    config: *const gateway_keyed_limiter_config,
    now: u64,
    limiter: *mut *mut gateway_keyed_limiter,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (own, limiter) = unsafe { (options(config, "config")?, Out::required(limiter, "limiter")?) };
        crate::machine::reserved(own.reserved)?;
        let limit = RateLimit::new(own.amount, Span::from_nanos(own.per), own.burst)?;
        let mut config = KeyedRateLimiterConfig::default().limit(limit).keys_max(own.keys_max).seed(own.seed);
        config = config.known_for(Span::from_nanos(own.known_for));
        if own.overflow_per > 0 {
            let per = Span::from_nanos(own.overflow_per);
            config = config.overflow(RateLimit::new(own.overflow_amount, per, own.overflow_burst)?);
        }
        create(KeyedRateLimiter::new(config, at(now))?, limiter)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a keyed limiter. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_free(limiter: *mut gateway_keyed_limiter) -> gateway_status {
    guard(|| free(limiter))
}

/// Takes `cost` tokens of a key, or says when. A key is any bytes; how long it may be is for the caller to check. A cost
/// of 0 is always allowed and remembers no key. `acquired` may be NULL.
///
/// Where the key is new and there is no room to remember it, the tokens come from a bucket that such keys share, and
/// `acquired->shared` is 1. `GATEWAY_DENIED`: not yet. `GATEWAY_NEVER`: not ever. `GATEWAY_NO_ROOM`: not yet, there is neither
/// room nor are there shared tokens. Nothing was taken then. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`.
/// May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_try_acquire(
    limiter: *mut gateway_keyed_limiter,
    key: *const c_void,
    key_len: usize,
    cost: u64,
    now: u64,
    acquired: *mut gateway_acquired,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (key, acquired) = unsafe { (bytes(key, key_len, "key")?, Out::optional(acquired, "acquired")?) };
        Ok(tell(with(limiter, |limiter| Ok(limiter.try_acquire(key, cost, at(now))))?, acquired))
    })
}

/// What `gateway_keyed_limiter_try_acquire` would answer.
///
/// Answers and errors: as there. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_peek(
    limiter: *const gateway_keyed_limiter,
    key: *const c_void,
    key_len: usize,
    cost: u64,
    now: u64,
    acquired: *mut gateway_acquired,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (key, acquired) = unsafe { (bytes(key, key_len, "key")?, Out::optional(acquired, "acquired")?) };
        Ok(tell(with(limiter, |limiter| Ok(limiter.peek(key, cost, at(now))))?, acquired))
    })
}

/// Gives `cost` tokens of a key back, up to the burst. Nothing goes back to the bucket that new keys share.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_refund(
    limiter: *mut gateway_keyed_limiter,
    key: *const c_void,
    key_len: usize,
    cost: u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let key = unsafe { bytes(key, key_len, "key") }?;
        with(limiter, |limiter| {
            limiter.refund(key, cost);
            Ok(GATEWAY_OK)
        })
    })
}

/// What the rate limit headers for a key say at `now`.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_headers(
    limiter: *const gateway_keyed_limiter,
    key: *const c_void,
    key_len: usize,
    now: u64,
    headers: *mut gateway_rate_headers,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (key, headers) = unsafe { (bytes(key, key_len, "key")?, Out::required(headers, "headers")?) };
        headers.set(with(limiter, |limiter| Ok(limiter.headers(key, at(now))))?.into());
        Ok(GATEWAY_OK)
    })
}

/// Changes the limit of all keys at `now`. A key keeps the tokens it has, up to the new burst; one that is full stays
/// full. Takes time with the number of keys: not a call for every request.
///
/// Errors: as `gateway_limiter_set_rate`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_set_rate(
    limiter: *mut gateway_keyed_limiter,
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

/// Forgets a key, which is full from then on.
///
/// `GATEWAY_NONE`: it was not remembered. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`.
/// May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_remove(
    limiter: *mut gateway_keyed_limiter,
    key: *const c_void,
    key_len: usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let key = unsafe { bytes(key, key_len, "key") }?;
        with(limiter, |limiter| Ok(if limiter.remove(key) { GATEWAY_OK } else { GATEWAY_NONE }))
    })
}

/// Forgets up to `at_most` keys that may be forgotten at `now`, to give room early. `*count`, which may be NULL, is how
/// many. Nobody needs to call it: room is made when it is needed.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_evict_full(
    limiter: *mut gateway_keyed_limiter,
    now: u64,
    at_most: usize,
    count: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let count = unsafe { Out::optional(count, "count") }?;
        count.set(with(limiter, |limiter| Ok(limiter.evict_full(at(now), at_most)))?);
        Ok(GATEWAY_OK)
    })
}

/// How many keys are remembered. Some may be full already, so nothing should be decided by this number.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_keyed_limiter_len(
    limiter: *const gateway_keyed_limiter,
    len: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let len = unsafe { Out::required(len, "len") }?;
        len.set(with(limiter, |limiter| Ok::<_, Failure>(limiter.len()))?);
        Ok(GATEWAY_OK)
    })
}
