//! Token buckets: how much, how fast, and when again.
//!
//! [`RateLimit`] is the rule, [`TokenBucket`] the 16 bytes of state that many keys have each, [`RateLimiter`] one of
//! both, [`KeyedRateLimiter`] one bucket for each of a bounded number of keys.

mod bucket;
mod keyed;
mod order;

use serde::{Deserialize, Serialize};

pub use self::bucket::TokenBucket;
pub use self::keyed::{KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig};
use crate::error::InputError;
use crate::time::{Span, Timestamp};

/// The rule of a bucket: `amount` tokens flow in per `per`, evenly to the nanosecond, and at most `burst` are kept.
///
/// An `amount` of 0 never refills: what was spent is gone. A `burst` of 0 lets nothing through that costs something.
///
/// Levels are counted in units of which a whole number flows in each nanosecond (`amount` and `per` divided by what
/// they have in common), so no refill ever rounds. The price: a full bucket must fit into 64 bits of such units. Per
/// second it always does; else `burst × per / gcd(amount, per)` nanoseconds must be below 2^64, about 584 years.
///
/// ```
/// use libgateway::{RateLimit, Span};
/// let limit = RateLimit::new(90, Span::from_secs(60), 10)?;
/// assert_eq!((limit.amount(), limit.per(), limit.burst()), (90, Span::from_secs(60), 10));
/// assert_eq!(RateLimit::default(), RateLimit::per_second(100, 1_000));
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RateLimitFields", into = "RateLimitFields")]
pub struct RateLimit {
    amount: u32,
    burst: u32,
    per: Span,
    /// Units in a token, at least one.
    token: u64,
    /// Units that flow in per nanosecond.
    rate: u64,
    /// Units in a full bucket: `burst × token`.
    capacity: u64,
    /// `(2^64 − 1) / token`: dividing by a token takes one multiplication and one correction.
    reciprocal: u64,
}

/// What a [`RateLimit`] looks like outside.
#[derive(Serialize, Deserialize)]
#[serde(rename = "RateLimit", deny_unknown_fields)]
struct RateLimitFields {
    amount: u32,
    per: Span,
    burst: u32,
}

/// Whether tokens were taken.
///
/// ```
/// use libgateway::{Acquire, Span, Timestamp};
/// let answer = Acquire::Deny { until: Timestamp::from_secs(3) };
/// assert_eq!(answer.retry_after(Timestamp::from_secs(1)), Some(Span::from_secs(2)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Acquire {
    /// They were taken.
    Allow {
        /// Whole tokens left.
        remaining: u32,
    },
    /// Not yet; nothing was taken.
    Deny {
        /// The first nanosecond at which the same call is allowed if nobody takes tokens before.
        until: Timestamp,
    },
    /// Not ever: the cost is above the burst, or the tokens do not come before the end of time.
    Never,
}

/// What `X-RateLimit-Limit`, `-Remaining` and `-Reset` say.
///
/// ```
/// use libgateway::{RateLimit, RateLimiter, Span, Timestamp};
/// let mut limiter = RateLimiter::new(RateLimit::per_second(2, 10), Timestamp::EPOCH);
/// let _ = limiter.try_acquire(3, Timestamp::EPOCH);
/// let headers = limiter.headers(Timestamp::EPOCH);
/// assert_eq!((headers.limit, headers.remaining, headers.reset), (10, 7, Span::from_millis(1_500)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateHeaders {
    /// The burst: tokens of a full bucket.
    pub limit: u32,
    /// Whole tokens left.
    pub remaining: u32,
    /// Time until the bucket is full again; [`Span::MAX`] if it never will be. Headers want
    /// [`Span::as_secs_ceil`].
    pub reset: Span,
}

/// One bucket with its own limit. It starts full.
///
/// Any `now` may be passed: time that goes back counts as the latest time seen. To undo a call, copy the limiter before
/// it.
///
/// ```
/// use libgateway::{Acquire, RateLimit, RateLimiter, Timestamp};
/// let mut limiter = RateLimiter::new(RateLimit::per_second(10, 2), Timestamp::from_secs(1));
/// assert_eq!(limiter.try_acquire(1, Timestamp::from_secs(1)), Acquire::Allow { remaining: 1 });
/// assert_eq!(limiter.try_acquire(1, Timestamp::from_secs(1)), Acquire::Allow { remaining: 0 });
/// assert_eq!(limiter.try_acquire(1, Timestamp::from_secs(1)), Acquire::Deny { until: Timestamp::from_millis(1_100) });
/// assert_eq!(limiter.try_acquire(3, Timestamp::from_secs(1)), Acquire::Never);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    limit: RateLimit,
    bucket: TokenBucket,
}

impl RateLimit {
    /// A limit of `amount` tokens per `per`, at most `burst` kept.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for a `per` of zero, [`InputError::Overflow`] for a `burst` that does not fit into 64
    /// bits of units.
    pub const fn new(amount: u32, per: Span, burst: u32) -> Result<Self, InputError> {
        if per.is_zero() {
            return Err(InputError::OutOfRange { field: "per", value: 0, min: 1, max: u64::MAX });
        }
        let limit = Self::assemble(amount, per, burst);
        match limit.token.checked_mul(burst as u64) {
            Some(_) => Ok(limit),
            None => Err(InputError::Overflow { field: "burst" }),
        }
    }

    /// A limit of `amount` tokens per second, at most `burst` kept.
    pub const fn per_second(amount: u32, burst: u32) -> Self {
        // 2^32 tokens of at most 10^9 units are below 2^62.
        Self::assemble(amount, Span::from_secs(1), burst)
    }

    /// The derived numbers; `per` must not be zero and the capacity must fit.
    const fn assemble(amount: u32, per: Span, burst: u32) -> Self {
        // Nothing and `per` have `per` in common: a limit that never refills counts whole tokens.
        let common = gcd(per.as_nanos(), amount as u64);
        let token = per.as_nanos() / common;
        let capacity = token.saturating_mul(burst as u64);
        Self { amount, burst, per, token, rate: amount as u64 / common, capacity, reciprocal: u64::MAX / token }
    }

    /// Tokens that flow in per [`RateLimit::per`].
    pub const fn amount(&self) -> u32 {
        self.amount
    }

    /// The time in which [`RateLimit::amount`] tokens flow in.
    pub const fn per(&self) -> Span {
        self.per
    }

    /// Tokens of a full bucket.
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// Whole tokens in a level of at most `capacity`.
    #[inline]
    const fn whole_tokens(&self, level: u64) -> u32 {
        // The estimate is exact or one short, because `reciprocal > 2^64 / token − 1` and `level < 2^64`. No step can
        // overflow, so the wrapping forms only spare the checks.
        let estimate = ((level as u128 * self.reciprocal as u128) >> 64) as u64;
        let rest = level.wrapping_sub(estimate.wrapping_mul(self.token));
        estimate.wrapping_add((rest >= self.token) as u64) as u32
    }

    /// When `missing` units will have flowed in from `from` on.
    fn wait(&self, missing: u64, from: Timestamp) -> Option<Timestamp> {
        if self.rate == 0 {
            return None;
        }
        from.checked_add(Span::from_nanos(missing.div_ceil(self.rate)))
    }
}

impl Default for RateLimit {
    /// 100 tokens per second, 1000 kept.
    fn default() -> Self {
        Self::per_second(100, 1_000)
    }
}

impl TryFrom<RateLimitFields> for RateLimit {
    type Error = InputError;

    fn try_from(fields: RateLimitFields) -> Result<Self, InputError> {
        Self::new(fields.amount, fields.per, fields.burst)
    }
}

impl From<RateLimit> for RateLimitFields {
    fn from(limit: RateLimit) -> Self {
        Self { amount: limit.amount, per: limit.per, burst: limit.burst }
    }
}

impl Acquire {
    /// Whether the tokens were taken.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// How long to wait for the same call to be allowed: nothing if it was, `None` if it never will be.
    pub const fn retry_after(self, now: Timestamp) -> Option<Span> {
        match self {
            Self::Allow { .. } => Some(Span::ZERO),
            Self::Deny { until } => Some(until.since(now)),
            Self::Never => None,
        }
    }
}

impl RateLimiter {
    /// A limiter with a full bucket.
    pub const fn new(limit: RateLimit, now: Timestamp) -> Self {
        Self { limit, bucket: TokenBucket::full(&limit, now) }
    }

    /// Takes `cost` tokens, or says when. A cost of 0 is always allowed.
    #[inline]
    pub fn try_acquire(&mut self, cost: u32, now: Timestamp) -> Acquire {
        self.bucket.try_acquire(&self.limit, cost, now)
    }

    /// What [`RateLimiter::try_acquire`] would answer.
    pub fn peek(&self, cost: u32, now: Timestamp) -> Acquire {
        self.bucket.peek(&self.limit, cost, now)
    }

    /// Gives `cost` tokens back, up to the burst.
    pub fn refund(&mut self, cost: u32) {
        self.bucket.refund(&self.limit, cost);
    }

    /// Whole tokens there are at `now`.
    pub fn available(&self, now: Timestamp) -> u32 {
        self.bucket.available(&self.limit, now)
    }

    /// The instant from which the bucket is full if nobody takes tokens; [`Timestamp::MAX`] if that never comes.
    pub fn full_at(&self) -> Timestamp {
        self.bucket.full_at(&self.limit)
    }

    /// The limit.
    pub const fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Changes the limit at `now`. The tokens there are stay, up to the new burst; see [`TokenBucket::rescale`].
    pub fn set_limit(&mut self, limit: RateLimit, now: Timestamp) {
        self.bucket.rescale(&self.limit, &limit, now);
        self.limit = limit;
    }

    /// What the rate limit headers say at `now`.
    pub fn headers(&self, now: Timestamp) -> RateHeaders {
        self.bucket.headers(&self.limit, now)
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_limit_that_overflows_is_refused_and_the_largest_that_does_not_is_taken() {
        let year = Span::from_secs(31_536_000);
        assert_eq!(RateLimit::new(7, year, u32::MAX), Err(InputError::Overflow { field: "burst" }));
        assert!(RateLimit::new(0, year, u32::MAX).is_ok());
        assert!(RateLimit::new(u32::MAX, Span::MAX, 1).is_ok());
        // A token of 2^64 − 1 units: one fits, two do not.
        assert!(RateLimit::new(1, Span::MAX, 1).is_ok());
        assert_eq!(RateLimit::new(1, Span::MAX, 2), Err(InputError::Overflow { field: "burst" }));
        let zero = RateLimit::new(1, Span::ZERO, 1);
        assert_eq!(zero, Err(InputError::OutOfRange { field: "per", value: 0, min: 1, max: u64::MAX }));
        for amount in [0, 1, 7, u32::MAX] {
            assert_eq!(RateLimit::per_second(amount, u32::MAX).burst(), u32::MAX);
        }
    }

    #[test]
    fn limits_are_validated_on_the_way_in() {
        let limit: RateLimit = serde_json::from_str(r#"{"amount":5,"per":1000,"burst":3}"#).unwrap();
        assert_eq!(limit, RateLimit::new(5, Span::from_micros(1), 3).unwrap());
        assert_eq!(serde_json::to_string(&limit).unwrap(), r#"{"amount":5,"per":1000,"burst":3}"#);
        assert_eq!(postcard::from_bytes::<RateLimit>(&postcard::to_allocvec(&limit).unwrap()), Ok(limit));
        for text in [
            r#"{"amount":5,"per":0,"burst":3}"#,
            r#"{"amount":-5,"per":1000,"burst":3}"#,
            r#"{"amount":5,"per":1000,"burst":-3}"#,
            r#"{"amount":7,"per":31536000000000000,"burst":4294967295}"#,
            r#"{"amount":5,"per":1000,"burst":3,"token":1}"#,
            r#"{"amount":5,"per":1000}"#,
        ] {
            assert!(serde_json::from_str::<RateLimit>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_new_limit_keeps_the_tokens_there_are() {
        let now = Timestamp::from_secs(9);
        let mut limiter = RateLimiter::new(RateLimit::per_second(3, 10), now);
        let _ = limiter.try_acquire(6, now);
        limiter.set_limit(RateLimit::per_second(7, 1_000), now);
        assert_eq!(limiter.available(now), 4);
        assert_eq!(limiter.limit().burst(), 1_000);
        limiter.set_limit(RateLimit::per_second(7, 2), now);
        assert_eq!((limiter.available(now), limiter.full_at()), (2, now));
    }

    #[test]
    fn a_reset_that_never_comes_is_without_end() {
        let mut limiter = RateLimiter::new(RateLimit::per_second(0, 5), Timestamp::EPOCH);
        assert_eq!(limiter.headers(Timestamp::EPOCH).reset, Span::ZERO);
        let _ = limiter.try_acquire(1, Timestamp::EPOCH);
        let headers = limiter.headers(Timestamp::from_secs(1_000));
        assert_eq!(headers, RateHeaders { limit: 5, remaining: 4, reset: Span::MAX });
    }

    proptest! {
        #[test]
        fn whole_tokens_is_division(amount in any::<u32>(), per in 1_u64.., burst in any::<u32>(), level in any::<u64>()) {
            for shift in [0, 20, 32, 40, 63] {
                let Ok(limit) = RateLimit::new(amount, Span::from_nanos((per >> shift).max(1)), burst) else { continue };
                for level in [level.min(limit.capacity), limit.capacity, limit.capacity.saturating_sub(1), 0] {
                    prop_assert_eq!(u64::from(limit.whole_tokens(level)), level / limit.token);
                }
            }
        }
    }
}
