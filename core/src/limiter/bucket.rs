//! A token bucket in 16 bytes, exact at every nanosecond.

use serde::{Deserialize, Serialize};

use super::{Acquire, RateHeaders, RateLimit};
use crate::time::{Span, Timestamp};

/// The state of one bucket. The [`RateLimit`] is passed to each call, so that a million buckets share one; pass another
/// limit only by way of [`TokenBucket::rescale`].
///
/// It is a mechanism over one monotone time, which many buckets share. [`crate::RateLimiter`] and
/// [`crate::KeyedRateLimiter`] make such a time of any readings. A `now` that lies behind an earlier one makes no tokens:
/// those that have flowed in since are not there yet. To undo a call, copy the bucket before it.
///
/// ```
/// use libgateway::{Acquire, RateLimit, Timestamp, TokenBucket};
/// let limit = RateLimit::per_second(100, 1_000);
/// let mut bucket = TokenBucket::full();
/// assert_eq!(bucket.try_acquire(&limit, 1_000, Timestamp::EPOCH), Acquire::Allow { remaining: 0 });
/// assert_eq!(bucket.try_acquire(&limit, 1, Timestamp::EPOCH), Acquire::Deny { until: Timestamp::from_millis(10) });
/// assert_eq!(bucket.available(&limit, Timestamp::from_secs(2)), 200);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenBucket {
    /// 128 bits, the high half first: units of the limit that were missing at the Unix epoch, had they all flowed in
    /// since. So what is missing at an instant is this less what flows in until then: one number is level and time.
    owed: [u64; 2],
}

impl TokenBucket {
    /// A full bucket, of whatever limit.
    pub const fn full() -> Self {
        Self { owed: [0, 0] }
    }

    /// Takes `cost` tokens, or says when. A cost of 0 is always allowed.
    #[inline]
    pub fn try_acquire(&mut self, limit: &RateLimit, cost: u64, now: Timestamp) -> Acquire {
        if cost > limit.burst {
            return Acquire::Never;
        }
        let inflow = limit.inflow(now);
        let missing = self.owed().saturating_sub(inflow);
        // Two factors of 64 bits, and at most the capacity, because the cost is at most the burst.
        let price = u128::from(cost) * u128::from(limit.token);
        let level = limit.capacity().saturating_sub(missing);
        if price > level {
            return match limit.wait(price - level, now) {
                Some(until) => Acquire::Deny { until },
                None => Acquire::Never,
            };
        }
        let missing = missing + price;
        // Only in the last two seconds of time, the year 2554, can the sum leave 128 bits: see `RateLimit::new`.
        let Some(owed) = inflow.checked_add(missing) else { return Acquire::Never };
        self.set_owed(owed);
        Acquire::Allow { remaining: limit.tokens_without(missing) }
    }

    /// What [`TokenBucket::try_acquire`] would answer.
    pub fn peek(mut self, limit: &RateLimit, cost: u64, now: Timestamp) -> Acquire {
        self.try_acquire(limit, cost, now)
    }

    /// Gives `cost` tokens back, up to the burst. No time is needed: giving back now and refilling later comes to the
    /// same as the other way round.
    pub fn refund(&mut self, limit: &RateLimit, cost: u64) {
        self.set_owed(self.owed().saturating_sub(u128::from(cost) * u128::from(limit.token)));
    }

    /// Whole tokens there are at `now`.
    pub fn available(&self, limit: &RateLimit, now: Timestamp) -> u64 {
        limit.tokens_without(self.missing(limit, now))
    }

    /// Whether the bucket is full at `now`: then it is like one that was never used.
    pub fn is_full(&self, limit: &RateLimit, now: Timestamp) -> bool {
        self.missing(limit, now) == 0
    }

    /// The instant from which the bucket is full if nobody takes tokens, which may have passed; [`Timestamp::MAX`] if it
    /// never comes.
    pub fn full_at(&self, limit: &RateLimit) -> Timestamp {
        match self.owed() {
            0 => Timestamp::EPOCH,
            missing => limit.wait(missing, Timestamp::EPOCH).unwrap_or(Timestamp::MAX),
        }
    }

    /// Changes the limit at `now` from `old` to `new`. The tokens there are stay, up to the new burst: all whole ones,
    /// and of a part of a token what the new limit's units can say. What is dropped is less than flows in per nanosecond,
    /// or, where nothing does, less than a token.
    pub fn rescale(&mut self, old: &RateLimit, new: &RateLimit, now: Timestamp) {
        let level = old.capacity().saturating_sub(self.missing(old, now));
        let (old_token, new_token) = (u128::from(old.token), u128::from(new.token));
        // Whole tokens and the rest apart, so that no product leaves 128 bits.
        let scaled = (level / old_token * new_token).saturating_add(level % old_token * new_token / old_token);
        self.set_owed(new.inflow(now).saturating_add(new.capacity().saturating_sub(scaled)));
    }

    /// What the rate limit headers say at `now`.
    pub fn headers(&self, limit: &RateLimit, now: Timestamp) -> RateHeaders {
        let reset = match self.missing(limit, now) {
            0 => Span::ZERO,
            missing => limit.wait(missing, now).map_or(Span::MAX, |full_at| full_at.since(now)),
        };
        RateHeaders { limit: limit.burst, remaining: self.available(limit, now), reset }
    }

    /// Whether it owes no more at `now` than a bucket of this limit can: a foreign copy may.
    pub(crate) fn fits(&self, limit: &RateLimit, now: Timestamp) -> bool {
        self.missing(limit, now) <= limit.capacity()
    }

    #[inline]
    fn missing(&self, limit: &RateLimit, now: Timestamp) -> u128 {
        self.owed().saturating_sub(limit.inflow(now))
    }

    #[inline]
    const fn owed(&self) -> u128 {
        (self.owed[0] as u128) << 64 | self.owed[1] as u128
    }

    #[inline]
    fn set_owed(&mut self, owed: u128) {
        self.owed = [(owed >> 64) as u64, owed as u64];
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
        let mut bucket = TokenBucket::full();
        let _ = bucket.try_acquire(&limit, 100, start);
        for _ in 0..5 {
            assert!(!bucket.try_acquire(&limit, 1, Timestamp::from_secs(9)).is_allowed());
            assert_eq!(bucket.available(&limit, start), 0);
        }
        assert_eq!(bucket.available(&limit, Timestamp::from_secs(11)), 10);
    }

    #[test]
    fn limits_of_any_amount_and_period_are_exact() {
        // Refused before: 9 973 tokens of 2 592 000 s in nanoseconds each did not fit into 64 bits.
        let day = 86_400_000_000_000_u64;
        let centuries = Span::from_secs(31_536_000 * 500);
        for (amount, per, burst) in [
            (9_973, Span::from_nanos(30 * day), 9_973),
            (5_000_000_000, Span::from_nanos(day), 5_000_000_000),
            (1, centuries, 1),
            (1, centuries, u64::MAX),
            (3, Span::MAX, 7),
            (u64::MAX, Span::from_secs(1), u64::MAX),
            (u64::MAX - 2, Span::from_secs(1), u64::MAX),
            (u64::MAX, Span::from_nanos(1), u64::MAX),
            (1, Span::from_nanos(1), u64::MAX),
        ] {
            let limit = RateLimit::new(amount, per, burst).unwrap();
            let now = Timestamp::from_secs(1_800_000_000);
            let mut bucket = TokenBucket::full();
            assert_eq!(bucket.try_acquire(&limit, burst, now), Acquire::Allow { remaining: 0 });
            for tokens in [1, 2, 7, burst / 2, burst] {
                // Exactly when `tokens` have flowed in.
                let wait = (u128::from(tokens) * u128::from(per.as_nanos())).div_ceil(u128::from(amount));
                let until = u64::try_from(wait + u128::from(now.as_nanos()));
                match bucket.peek(&limit, tokens, now) {
                    Acquire::Deny { until: told } => {
                        assert_eq!(Ok(told.as_nanos()), until);
                        assert!(!bucket.peek(&limit, tokens, at(told.as_nanos() - 1)).is_allowed());
                        assert!(bucket.peek(&limit, tokens, told).is_allowed());
                    }
                    Acquire::Never => assert!(until.is_err() || tokens > burst),
                    Acquire::Allow { .. } => assert_eq!(tokens, 0),
                }
            }
        }
    }

    #[test]
    fn at_the_end_of_time_what_cannot_be_counted_is_denied() {
        let limit = RateLimit::per_second(u64::MAX - 2, u64::MAX);
        let mut bucket = TokenBucket::full();
        assert_eq!(bucket.try_acquire(&limit, u64::MAX, at(u64::MAX - 1)), Acquire::Never);
        assert!(bucket.try_acquire(&limit, u64::MAX, at(u64::MAX - (1 << 31))).is_allowed());
    }

    #[test]
    fn thirds_of_a_second_never_drift() {
        // Three tokens per second in steps of a tenth: after nearly a million steps not a unit is missing.
        let limit = RateLimit::per_second(3, 1_000_000);
        let mut bucket = TokenBucket::full();
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
        let mut bucket = TokenBucket::full();
        assert_eq!(bucket.try_acquire(&limit, 2, Timestamp::EPOCH), Acquire::Allow { remaining: 0 });
        assert_eq!(bucket.try_acquire(&limit, 1, Timestamp::MAX), Acquire::Never);
        assert_eq!(bucket.full_at(&limit), Timestamp::MAX);
        assert!(!bucket.is_full(&limit, Timestamp::MAX));
    }

    #[test]
    fn a_limit_without_burst_sheds_all_that_costs() {
        let limit = RateLimit::per_second(10, 0);
        let mut bucket = TokenBucket::full();
        assert_eq!(bucket.try_acquire(&limit, 1, Timestamp::from_secs(5)), Acquire::Never);
        assert_eq!(bucket.try_acquire(&limit, 0, Timestamp::from_secs(5)), Acquire::Allow { remaining: 0 });
    }

    #[test]
    fn what_cannot_come_before_the_end_of_time_never_comes() {
        let limit = RateLimit::new(1, Span::from_nanos(10), 1).unwrap();
        for (left, answer) in [(10, Acquire::Deny { until: Timestamp::MAX }), (9, Acquire::Never)] {
            let mut bucket = TokenBucket::full();
            let _ = bucket.try_acquire(&limit, 1, at(u64::MAX - left));
            assert_eq!(bucket.peek(&limit, 1, at(u64::MAX - left)), answer);
            assert_eq!(bucket.peek(&limit, 1, Timestamp::MAX).is_allowed(), left == 10);
        }
    }

    #[test]
    fn a_foreign_bucket_that_owes_more_than_there_can_be_is_told_from_others() {
        let limit = RateLimit::per_second(10, 5);
        let bucket: TokenBucket = serde_json::from_str("[18446744073709551615,0]").unwrap();
        assert!(!bucket.fits(&limit, at(0)) && bucket.available(&limit, at(0)) == 0);
        let mut bucket = TokenBucket::full();
        let _ = bucket.try_acquire(&limit, 5, at(7));
        assert!(bucket.fits(&limit, at(7)));
        assert_eq!(serde_json::from_str::<TokenBucket>(&serde_json::to_string(&bucket).unwrap()).unwrap(), bucket);
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
                let mut bucket = TokenBucket::full();
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

    /// The last instant at which every limit counts.
    const LAST: u64 = u64::MAX - (1 << 31);

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
                let inflow = u128::from(now - self.last) * self.amount;
                self.level = self.level.saturating_add(inflow).min(self.burst * self.per);
                self.last = now;
            }
        }

        fn try_acquire(&mut self, cost: u64, now: u64) -> bool {
            self.refill(now);
            let price = u128::from(cost) * self.per;
            let fits = price <= self.level;
            self.level -= if fits { price } else { 0 };
            fits
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Acquire { cost: u64, now: u64 },
        Refund { cost: u64 },
        Look { now: u64 },
    }

    fn limits() -> impl Strategy<Value = RateLimit> {
        let per = prop_oneof![Just(1_000_000_000), 1_u64..50, 1_u64..1 << 50, any::<u64>()];
        let number = || prop_oneof![0_u64..20, any::<u32>().prop_map(u64::from), any::<u64>()];
        (number(), per, number()).prop_filter_map("overflows", |(amount, per, burst)| {
            RateLimit::new(amount, Span::from_nanos(per), burst).ok()
        })
    }

    fn ops(limit: RateLimit) -> impl Strategy<Value = (RateLimit, Vec<Op>)> {
        let cost = move || prop_oneof![0_u64..4, 0..=limit.burst, any::<u64>()];
        let now = || prop_oneof![4 => 0_u64..100, 4 => 0_u64..1 << 40, 1 => 0..=LAST];
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
            let mut bucket = TokenBucket::full();
            let mut latest = 0;
            for op in ops {
                match op {
                    Op::Acquire { cost, now } => {
                        latest = now.max(latest);
                        let (before, now) = (bucket, latest);
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
                            Acquire::Never => prop_assert!(!bucket.peek(&limit, cost, at(LAST)).is_allowed()),
                        }
                    }
                    Op::Refund { cost } => {
                        bucket.refund(&limit, cost);
                        model.level = model.level.saturating_add(u128::from(cost) * per).min(burst * per);
                    }
                    Op::Look { now } => {
                        latest = now.max(latest);
                        model.refill(latest);
                        prop_assert_eq!(u128::from(bucket.available(&limit, at(latest))), model.level / per);
                    }
                }
                prop_assert!(bucket.fits(&limit, at(latest)));
                let full_at = bucket.full_at(&limit);
                prop_assert!(full_at == Timestamp::MAX || bucket.is_full(&limit, full_at));
                if full_at > at(latest) {
                    prop_assert!(!bucket.is_full(&limit, at(full_at.as_nanos() - 1)));
                    let wait = if full_at == Timestamp::MAX { Span::MAX } else { full_at.since(at(latest)) };
                    prop_assert_eq!(bucket.headers(&limit, at(latest)).reset, wait);
                }
            }
        }
    }
}
