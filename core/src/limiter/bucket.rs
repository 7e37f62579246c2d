//! A token bucket in 16 bytes, exact at every nanosecond.

use serde::{Deserialize, Serialize};

use super::{Acquire, RateHeaders, RateLimit};
use crate::time::{Span, Timestamp};

/// The state of one bucket: a level and the time it was true. The [`RateLimit`] is passed to each call, so that a
/// million buckets share one; pass another limit only by way of [`TokenBucket::rescale`].
///
/// Time that goes back counts as the latest time this bucket was asked: it adds nothing, takes nothing, and is not
/// counted a second time. To undo a call, copy the bucket before it.
///
/// ```
/// use libgateway::{Acquire, RateLimit, Timestamp, TokenBucket};
/// let limit = RateLimit::per_second(100, 1_000);
/// let mut bucket = TokenBucket::full(&limit, Timestamp::EPOCH);
/// assert_eq!(bucket.try_acquire(&limit, 1_000, Timestamp::EPOCH), Acquire::Allow { remaining: 0 });
/// assert_eq!(bucket.try_acquire(&limit, 1, Timestamp::EPOCH), Acquire::Deny { until: Timestamp::from_millis(10) });
/// assert_eq!(bucket.available(&limit, Timestamp::from_secs(2)), 200);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// In units of the limit. A level above the capacity, which only a foreign copy has, reads as full.
    level: u64,
    last: Timestamp,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn full(limit: &RateLimit, now: Timestamp) -> Self {
        Self { level: limit.capacity, last: now }
    }

    /// Takes `cost` tokens, or says when. A cost of 0 is always allowed.
    #[inline]
    pub fn try_acquire(&mut self, limit: &RateLimit, cost: u32, now: Timestamp) -> Acquire {
        if cost > limit.burst {
            return Acquire::Never;
        }
        let level = self.level_at(limit, now);
        // At most the capacity, because the cost is at most the burst.
        let price = u64::from(cost).wrapping_mul(limit.token);
        self.last = self.last.max(now);
        if price > level {
            self.level = level;
            return match limit.wait(price - level, self.last) {
                Some(until) => Acquire::Deny { until },
                None => Acquire::Never,
            };
        }
        self.level = level - price;
        Acquire::Allow { remaining: limit.whole_tokens(self.level) }
    }

    /// What [`TokenBucket::try_acquire`] would answer.
    pub fn peek(mut self, limit: &RateLimit, cost: u32, now: Timestamp) -> Acquire {
        self.try_acquire(limit, cost, now)
    }

    /// Gives `cost` tokens back, up to the burst. No time is needed: giving back now and refilling later comes to the
    /// same as the other way round.
    pub fn refund(&mut self, limit: &RateLimit, cost: u32) {
        let price = u64::from(cost).saturating_mul(limit.token);
        self.level = self.level.saturating_add(price).min(limit.capacity);
    }

    /// Whole tokens there are at `now`.
    pub fn available(&self, limit: &RateLimit, now: Timestamp) -> u32 {
        limit.whole_tokens(self.level_at(limit, now))
    }

    /// Whether the bucket is full at `now`: then it is like one that was never used.
    pub fn is_full(&self, limit: &RateLimit, now: Timestamp) -> bool {
        self.level_at(limit, now) == limit.capacity
    }

    /// The instant from which the bucket is full if nobody takes tokens; [`Timestamp::MAX`] if that never comes. It is
    /// [`TokenBucket::last`] when the bucket is full already.
    pub fn full_at(&self, limit: &RateLimit) -> Timestamp {
        match limit.capacity.saturating_sub(self.level) {
            0 => self.last,
            missing => limit.wait(missing, self.last).unwrap_or(Timestamp::MAX),
        }
    }

    /// The latest time seen.
    pub const fn last(&self) -> Timestamp {
        self.last
    }

    /// Changes the limit at `now` from `old` to `new`. The tokens there are stay, up to the new burst: all whole ones,
    /// and of a part of a token what the new limit's units can say. What is dropped is less than flows in per nanosecond,
    /// or, where nothing does, less than a token.
    pub fn rescale(&mut self, old: &RateLimit, new: &RateLimit, now: Timestamp) {
        let level = self.level_at(old, now);
        let scaled = u128::from(level) * u128::from(new.token) / u128::from(old.token);
        self.level = u64::try_from(scaled).map_or(new.capacity, |level| level.min(new.capacity));
        self.last = self.last.max(now);
    }

    /// What the rate limit headers say at `now`.
    pub fn headers(&self, limit: &RateLimit, now: Timestamp) -> RateHeaders {
        let remaining = self.available(limit, now);
        let reset = match self.full_at(limit) {
            _ if self.is_full(limit, now) => Span::ZERO,
            Timestamp::MAX => Span::MAX,
            full_at => full_at.since(now.max(self.last)),
        };
        RateHeaders { limit: limit.burst, remaining, reset }
    }

    /// The level at `now`, at most the capacity. Saturating is exact here: a sum that leaves 64 bits is above any
    /// capacity.
    #[inline]
    fn level_at(&self, limit: &RateLimit, now: Timestamp) -> u64 {
        let inflow = now.since(self.last).as_nanos().saturating_mul(limit.rate);
        self.level.saturating_add(inflow).min(limit.capacity)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn a_bucket_is_sixteen_bytes() {
        assert_eq!(size_of::<TokenBucket>(), 16);
    }

    #[test]
    fn time_that_goes_back_and_forth_is_counted_once() {
        // A step back of one second and forth again once gave ten tokens for nothing.
        let limit = RateLimit::per_second(10, 100);
        let start = Timestamp::from_secs(10);
        let mut bucket = TokenBucket::full(&limit, start);
        let _ = bucket.try_acquire(&limit, 100, start);
        for _ in 0..5 {
            let denied = bucket.try_acquire(&limit, 1, Timestamp::from_secs(9));
            assert_eq!(denied, Acquire::Deny { until: Timestamp::from_millis(10_100) });
            assert_eq!(bucket.available(&limit, start), 0);
        }
        assert_eq!(bucket.available(&limit, Timestamp::from_secs(11)), 10);
    }

    #[test]
    fn thirds_of_a_second_never_drift() {
        // Three tokens per second in steps of a tenth: after nearly a million steps not a unit is missing.
        let limit = RateLimit::per_second(3, 1_000_000);
        let mut bucket = TokenBucket::full(&limit, Timestamp::EPOCH);
        let _ = bucket.try_acquire(&limit, 1_000_000, Timestamp::EPOCH);
        for step in 1..1_000_000 {
            let _ = bucket.try_acquire(&limit, 0, Timestamp::from_millis(100 * step));
        }
        assert_eq!(bucket.available(&limit, Timestamp::from_secs(100_000)), 300_000);
        assert_eq!(bucket.available(&limit, at(100_000 * 1_000_000_000 - 1)), 300_000 - 1);
    }

    #[test]
    fn a_bucket_that_is_never_refilled_says_never() {
        let limit = RateLimit::per_second(0, 2);
        let mut bucket = TokenBucket::full(&limit, Timestamp::EPOCH);
        assert_eq!(bucket.try_acquire(&limit, 2, Timestamp::EPOCH), Acquire::Allow { remaining: 0 });
        assert_eq!(bucket.try_acquire(&limit, 1, Timestamp::MAX), Acquire::Never);
        assert_eq!(bucket.full_at(&limit), Timestamp::MAX);
        assert!(!bucket.is_full(&limit, Timestamp::MAX));
    }

    #[test]
    fn a_limit_without_burst_sheds_all_that_costs() {
        let limit = RateLimit::per_second(10, 0);
        let mut bucket = TokenBucket::full(&limit, Timestamp::EPOCH);
        assert_eq!(bucket.try_acquire(&limit, 1, Timestamp::from_secs(5)), Acquire::Never);
        assert_eq!(bucket.try_acquire(&limit, 0, Timestamp::from_secs(5)), Acquire::Allow { remaining: 0 });
    }

    #[test]
    fn what_cannot_come_before_the_end_of_time_never_comes() {
        let limit = RateLimit::new(1, Span::from_nanos(10), 1).unwrap();
        for (left, answer) in [(10, Acquire::Deny { until: Timestamp::MAX }), (9, Acquire::Never)] {
            let mut bucket = TokenBucket::full(&limit, at(u64::MAX - left));
            let _ = bucket.try_acquire(&limit, 1, at(u64::MAX - left));
            assert_eq!(bucket.peek(&limit, 1, Timestamp::EPOCH), answer);
            assert_eq!(bucket.peek(&limit, 1, Timestamp::MAX).is_allowed(), left == 10);
        }
    }

    #[test]
    fn a_foreign_level_above_the_capacity_reads_as_full() {
        let limit = RateLimit::per_second(10, 5);
        let mut bucket: TokenBucket = serde_json::from_str(r#"{"level":18446744073709551615,"last":7}"#).unwrap();
        assert_eq!((bucket.available(&limit, at(0)), bucket.full_at(&limit)), (5, at(7)));
        assert_eq!(bucket.try_acquire(&limit, 1, at(0)), Acquire::Allow { remaining: 4 });
    }

    #[test]
    fn rescaling_there_and_back_keeps_every_whole_token() {
        let limits = [
            RateLimit::per_second(3, 100),
            RateLimit::per_second(1_000_000_000, 100),
            RateLimit::new(7, Span::from_secs(86_400), 100).unwrap(),
            RateLimit::per_second(0, 100),
        ];
        let now = Timestamp::from_secs(1);
        for from in &limits {
            for to in &limits {
                let mut bucket = TokenBucket::full(from, now);
                let _ = bucket.try_acquire(from, 63, now);
                for _ in 0..3 {
                    bucket.rescale(from, to, now);
                    assert_eq!(bucket.available(to, now), 37);
                    bucket.rescale(to, from, now);
                }
                assert_eq!(bucket.available(from, now), 37);
            }
        }
    }

    /// The model: tokens as a fraction over `per`, never reduced, in 128 bits.
    struct Model {
        amount: u128,
        per: u128,
        burst: u128,
        level: u128,
        last: u64,
    }

    impl Model {
        fn refill(&mut self, now: u64) {
            if self.last < now {
                // The product of 64 and 32 bits fits; the sum is cut at once.
                self.level = (self.level + u128::from(now - self.last) * self.amount).min(self.burst * self.per);
                self.last = now;
            }
        }

        fn try_acquire(&mut self, cost: u32, now: u64) -> bool {
            self.refill(now);
            let price = u128::from(cost) * self.per;
            let fits = price <= self.level;
            self.level -= if fits { price } else { 0 };
            fits
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Acquire { cost: u32, now: u64 },
        Refund { cost: u32 },
        Look { now: u64 },
    }

    fn limits() -> impl Strategy<Value = RateLimit> {
        let per = prop_oneof![Just(1_000_000_000), 1_u64..50, 1_u64..1 << 50, any::<u64>()];
        let number = || prop_oneof![0_u32..20, any::<u32>()];
        (number(), per, number()).prop_filter_map("overflows", |(amount, per, burst)| {
            RateLimit::new(amount, Span::from_nanos(per), burst).ok()
        })
    }

    fn ops(limit: RateLimit) -> impl Strategy<Value = (RateLimit, Vec<Op>)> {
        let cost = move || prop_oneof![0_u32..4, 0..=limit.burst, any::<u32>()];
        let now = || prop_oneof![4 => 0_u64..100, 4 => 0_u64..1 << 40, 1 => any::<u64>()];
        let op = prop_oneof![
            5 => (cost(), now()).prop_map(|(cost, now)| Op::Acquire { cost, now }),
            1 => cost().prop_map(|cost| Op::Refund { cost }),
            1 => now().prop_map(|now| Op::Look { now }),
        ];
        (Just(limit), proptest::collection::vec(op, 0..40))
    }

    proptest! {
        #[test]
        fn a_bucket_is_an_exact_fraction((limit, ops) in limits().prop_flat_map(ops)) {
            let (per, burst) = (u128::from(limit.per.as_nanos()), u128::from(limit.burst));
            let mut model = Model { amount: limit.amount.into(), per, burst, level: burst * per, last: 0 };
            let mut bucket = TokenBucket::full(&limit, Timestamp::EPOCH);
            for op in ops {
                match op {
                    Op::Acquire { cost, now } => {
                        let before = bucket;
                        let allowed = cost <= limit.burst && model.try_acquire(cost, now);
                        let answer = bucket.try_acquire(&limit, cost, at(now));
                        prop_assert_eq!(answer.is_allowed(), allowed);
                        prop_assert_eq!(before.peek(&limit, cost, at(now)), answer);
                        match answer {
                            Acquire::Allow { remaining } => prop_assert_eq!(u128::from(remaining), model.level / per),
                            Acquire::Deny { until } => {
                                prop_assert!(bucket.peek(&limit, cost, until).is_allowed());
                                let early = until.as_nanos() - 1;
                                prop_assert!(!bucket.peek(&limit, cost, at(early)).is_allowed());
                            }
                            Acquire::Never => prop_assert!(!bucket.peek(&limit, cost, Timestamp::MAX).is_allowed()),
                        }
                    }
                    Op::Refund { cost } => {
                        bucket.refund(&limit, cost);
                        model.level = (model.level + u128::from(cost) * per).min(burst * per);
                    }
                    Op::Look { now } => {
                        model.refill(now);
                        // A look does not move the bucket's time, the model's it does: move both.
                        prop_assert_eq!(u128::from(bucket.available(&limit, at(now))), model.level / per);
                        let _ = bucket.try_acquire(&limit, 0, at(now));
                    }
                }
                prop_assert_eq!(bucket.last().as_nanos(), model.last);
                prop_assert!(bucket.level <= limit.capacity);
                let full_at = bucket.full_at(&limit);
                prop_assert!(full_at == Timestamp::MAX || bucket.is_full(&limit, full_at));
                if full_at > bucket.last() {
                    prop_assert!(!bucket.is_full(&limit, at(full_at.as_nanos() - 1)));
                    let wait = if full_at == Timestamp::MAX { Span::MAX } else { full_at.since(bucket.last()) };
                    prop_assert_eq!(bucket.headers(&limit, Timestamp::EPOCH).reset, wait);
                }
            }
        }
    }
}
