//! Limits: how much, how fast, and when again.
//!
//! [`RateLimit`] is the rule of a token bucket, [`TokenBucket`] the 16 bytes of state that many keys have each,
//! [`RateLimiter`] one of both, [`KeyedRateLimiter`] one bucket for each of a bounded number of keys. [`WindowLimiter`] is
//! stricter than a bucket: so many in any window of time, and not one more.

mod bucket;
mod keyed;
mod order;
mod window;

use serde::{Deserialize, Serialize};

pub use self::bucket::TokenBucket;
pub use self::keyed::{KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig, KeyedSnapshot};
pub use self::window::{WindowLimit, WindowLimiter};
use crate::error::InputError;
use crate::time::{Clock, Span, Timestamp};

/// The rule of a bucket: `amount` tokens flow in per `per`, evenly to the nanosecond, and at most `burst` are kept.
///
/// An `amount` of 0 never refills: what was spent is gone. A `burst` of 0 lets nothing through that costs something.
/// [`RateLimit::default`] is 100 a second, 1 000 kept.
///
/// Levels are counted in units of which a whole number flows in each nanosecond (`amount` and `per` divided by what
/// they have in common), so no refill ever rounds, whatever the amount and the period.
///
/// ```
/// use libgateway::{RateLimit, Span};
/// let limit = RateLimit::new(9_973, Span::from_secs(30 * 86_400), 9_973)?;
/// assert_eq!((limit.amount(), limit.per().as_secs_ceil(), limit.burst()), (9_973, 2_592_000, 9_973));
/// assert_eq!(RateLimit::default(), RateLimit::per_second(100, 1_000));
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RateLimitFields", into = "RateLimitFields")]
pub struct RateLimit {
    amount: u64,
    burst: u64,
    per: Span,
    /// Units in a token, at least one.
    token: u64,
    /// Units that flow in per nanosecond.
    rate: u64,
    /// `(2^64 − 1) / token`: dividing by a token takes one multiplication and one correction.
    reciprocal: u64,
}

/// What a [`RateLimit`] looks like outside.
#[derive(Serialize, Deserialize)]
#[serde(rename = "RateLimit", deny_unknown_fields)]
struct RateLimitFields {
    amount: u64,
    per: Span,
    burst: u64,
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
        remaining: u64,
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
    pub limit: u64,
    /// Whole tokens left.
    pub remaining: u64,
    /// Time until the bucket is full again; [`Span::MAX`] if it never will be. Headers want
    /// [`Span::as_secs_ceil`].
    pub reset: Span,
}

/// One bucket with its own limit. It starts full.
///
/// Any `now` may be passed: the limiter has a [`Clock`], so that no wrong reading, ahead or back, stops the refill. A step
/// ahead is time that passed, once; a step back is none, and neither is the return from it, as far as one can be told from a
/// pause. Instants in answers are of the host's clock.
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
    clock: Clock,
    /// The machine's time of the latest promise: a host that comes then is believed to have slept, whatever its clock did.
    awaited: Timestamp,
}

impl RateLimit {
    /// A limit of `amount` tokens per `per`, at most `burst` kept.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for a `per` of zero, [`InputError::Overflow`] for a `burst` so large that it cannot be
    /// counted: a full bucket, `burst × per / gcd(amount, per)` units, and what flows in until the year 2554 must fit into
    /// 128 bits together. Every burst does that is below 2^63 at an amount and a period below 2^63.
    pub const fn new(amount: u64, per: Span, burst: u64) -> Result<Self, InputError> {
        if per.is_zero() {
            return Err(InputError::OutOfRange { field: "per", value: 0, min: 1, max: u64::MAX });
        }
        let limit = Self::assemble(amount, per, burst);
        match (limit.rate as u128 * HORIZON as u128).checked_add(limit.capacity()) {
            Some(_) => Ok(limit),
            None => Err(InputError::Overflow { field: "burst" }),
        }
    }

    /// A limit of `amount` tokens per second, at most `burst` kept.
    pub const fn per_second(amount: u64, burst: u64) -> Self {
        // A token has at most 10^9 units, so a full bucket is below 2^94, and HORIZON leaves 2^95.
        Self::assemble(amount, Span::from_secs(1), burst)
    }

    /// The derived numbers; `per` must not be zero and the capacity must fit.
    const fn assemble(amount: u64, per: Span, burst: u64) -> Self {
        // Nothing and `per` have `per` in common: a limit that never refills counts whole tokens.
        let common = gcd(per.as_nanos(), amount);
        let token = per.as_nanos() / common;
        Self { amount, burst, per, token, rate: amount / common, reciprocal: u64::MAX / token }
    }

    /// Tokens that flow in per [`RateLimit::per`].
    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// The time in which [`RateLimit::amount`] tokens flow in.
    pub const fn per(&self) -> Span {
        self.per
    }

    /// Tokens of a full bucket.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// Units in a full bucket.
    #[inline]
    const fn capacity(&self) -> u128 {
        self.burst as u128 * self.token as u128
    }

    /// Units that flow in from the Unix epoch until `now`.
    #[inline]
    const fn inflow(&self, now: Timestamp) -> u128 {
        self.rate as u128 * now.as_nanos() as u128
    }

    /// Whole tokens in a bucket that `missing` units are missing from.
    #[inline]
    const fn tokens_without(&self, missing: u128) -> u64 {
        if missing >> 64 != 0 {
            return match missing.div_ceil(self.token as u128) {
                tokens if tokens <= self.burst as u128 => self.burst - tokens as u64,
                _ => 0,
            };
        }
        // The estimate is exact or one short, because `reciprocal > 2^64 / token − 1` and `missing < 2^64`; a rest makes
        // one more. No step can overflow, so the wrapping forms only spare the checks.
        let missing = missing as u64;
        let estimate = ((missing as u128 * self.reciprocal as u128) >> 64) as u64;
        let rest = missing.wrapping_sub(estimate.wrapping_mul(self.token));
        let tokens = estimate.wrapping_add((rest > 0) as u64).wrapping_add((rest > self.token) as u64);
        self.burst.saturating_sub(tokens)
    }

    /// When `missing` units will have flowed in from `from` on.
    fn wait(&self, missing: u128, from: Timestamp) -> Option<Timestamp> {
        if self.rate == 0 {
            return None;
        }
        let nanos = match u64::try_from(missing) {
            Ok(missing) => missing.div_ceil(self.rate),
            Err(_) => u64::try_from(missing.div_ceil(u128::from(self.rate))).ok()?,
        };
        from.checked_add(Span::from_nanos(nanos))
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

    /// The answer as the host's clock shows it.
    #[inline]
    fn to_host(self, clock: &Clock) -> Self {
        match self {
            Self::Deny { until } => Self::Deny { until: clock.to_host(until) },
            answer => answer,
        }
    }
}

impl RateLimiter {
    /// A limiter with a full bucket.
    pub const fn new(limit: RateLimit, now: Timestamp) -> Self {
        Self { limit, bucket: TokenBucket::full(), clock: Clock::new(now), awaited: now }
    }

    /// Takes `cost` tokens, or says when. A cost of 0 is always allowed.
    #[inline]
    pub fn try_acquire(&mut self, cost: u64, now: Timestamp) -> Acquire {
        self.clock.observe_awaited(now, self.awaited);
        let answer = self.bucket.try_acquire(&self.limit, cost, self.clock.now());
        if let Acquire::Deny { until } = answer {
            self.awaited = until;
        }
        answer.to_host(&self.clock)
    }

    /// What [`RateLimiter::try_acquire`] would answer.
    pub fn peek(&self, cost: u64, now: Timestamp) -> Acquire {
        let mut copy = *self;
        copy.try_acquire(cost, now)
    }

    /// Gives `cost` tokens back, up to the burst.
    pub fn refund(&mut self, cost: u64) {
        self.bucket.refund(&self.limit, cost);
    }

    /// Whole tokens there are at `now`.
    pub fn available(&self, now: Timestamp) -> u64 {
        self.bucket.available(&self.limit, self.peek_clock(now))
    }

    /// The instant from which the bucket is full if nobody takes tokens, which may have passed; [`Timestamp::MAX`] if it
    /// never comes.
    pub fn full_at(&self) -> Timestamp {
        self.clock.to_host(self.bucket.full_at(&self.limit))
    }

    /// The limit.
    pub const fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Changes the limit at `now`. The tokens there are stay, up to the new burst; see [`TokenBucket::rescale`].
    pub fn set_limit(&mut self, limit: RateLimit, now: Timestamp) {
        self.clock.observe_awaited(now, self.awaited);
        self.bucket.rescale(&self.limit, &limit, self.clock.now());
        self.limit = limit;
    }

    /// What the rate limit headers say at `now`.
    pub fn headers(&self, now: Timestamp) -> RateHeaders {
        self.bucket.headers(&self.limit, self.peek_clock(now))
    }

    fn peek_clock(&self, now: Timestamp) -> Timestamp {
        let mut clock = self.clock;
        clock.observe_awaited(now, self.awaited);
        clock.now()
    }

    /// Checks that the bucket owes no more than it can.
    ///
    /// # Panics
    /// If it does: that is a defect of the limiter.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        assert!(self.bucket.fits(&self.limit, self.clock.now()), "at most all tokens are missing");
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Until two seconds before the end of time every limit counts exactly; it leaves room for the bucket.
const HORIZON: u64 = u64::MAX - (1 << 31);

#[cfg(test)]
mod tests;
