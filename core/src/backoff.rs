//! When a failed attempt is made again: a schedule as data.
//!
//! `base × factor^(attempt − 1)`, capped, thinned by a jitter that is a pure function of (seed, key, attempt). The same
//! question has the same answer on every machine and in every replay; nothing is remembered between calls.

use serde::{Deserialize, Serialize};

use crate::error::InputError;
use crate::hashing::mix;
use crate::time::{Span, Timestamp};

/// The settings of a [`Backoff`]. The default waits 1, 2 and 4 seconds, each up to a tenth less by chance, and then gives up.
///
/// ```
/// use libgateway::{BackoffConfig, Span};
/// let config = BackoffConfig::default().base(Span::from_secs(2)).retries(5);
/// assert_eq!((config.base, config.factor_ppm, config.retries), (Span::from_secs(2), 2_000_000, 5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffConfig {
    /// The wait after the first failure. Zero means: at once, always.
    pub base: Span,
    /// What each further wait is multiplied by, in parts per million: from 1 000 000 (constant) to [`BackoffConfig::FACTOR_PPM_MAX`].
    pub factor_ppm: u32,
    /// The longest wait, at least `base`. Only a `Retry-After` goes beyond it.
    pub max: Span,
    /// How many failures may be followed by another attempt. Zero means: never try again.
    pub retries: u32,
    /// How much of each wait is left to chance, in parts per million, at most 1 000 000: the wait lies evenly between
    /// `(1 − jitter) × wait` and `wait`, or, where `Retry-After` decides, between it and `(1 + jitter)` times it.
    pub jitter_ppm: u32,
    /// The longest time from the start of the first attempt to the start of the last.
    pub total: Option<Span>,
    /// The longest `Retry-After` that is followed: what is longer counts as this.
    pub retry_after_max: Span,
    /// What the jitter is drawn from, together with key and attempt. Recorded, so that replays agree.
    pub seed: u64,
}

/// A retry schedule: pure functions over a checked [`BackoffConfig`].
///
/// ```
/// use libgateway::{Backoff, BackoffConfig, GiveUpReason, Retry, Span, Timestamp};
/// let backoff = Backoff::new(BackoffConfig::default().jitter_ppm(0))?;
/// let start = Timestamp::from_secs(100);
/// assert_eq!(backoff.delay(7, 3, None), Span::from_secs(4));
/// assert_eq!(backoff.next(7, 1, start, start, None), Retry::At(Timestamp::from_secs(101)));
/// assert_eq!(backoff.next(7, 4, start, start, None), Retry::GiveUp(GiveUpReason::Exhausted));
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    config: BackoffConfig,
}

/// What follows a failed attempt.
///
/// ```
/// use libgateway::{GiveUpReason, Retry, Timestamp};
/// assert_eq!(Retry::At(Timestamp::from_secs(3)).at(), Some(Timestamp::from_secs(3)));
/// assert_eq!(Retry::GiveUp(GiveUpReason::OutOfTime).at(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Retry {
    /// Try again at this instant, not before.
    At(Timestamp),
    /// Do not try again.
    GiveUp(GiveUpReason),
}

/// Why there is no further attempt.
///
/// ```
/// assert_eq!(serde_json::to_string(&libgateway::GiveUpReason::OutOfTime).unwrap(), "\"out_of_time\"");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GiveUpReason {
    /// All retries are used up.
    Exhausted,
    /// The next attempt would begin after the total time allowed, or after the end of time.
    OutOfTime,
}

impl BackoffConfig {
    /// The largest factor: a thousandfold.
    pub const FACTOR_PPM_MAX: u32 = 1_000 * ONE_PPM;

    /// Sets the wait after the first failure.
    #[must_use]
    pub const fn base(mut self, base: Span) -> Self {
        self.base = base;
        self
    }

    /// Sets what each further wait is multiplied by, in parts per million.
    #[must_use]
    pub const fn factor_ppm(mut self, factor_ppm: u32) -> Self {
        self.factor_ppm = factor_ppm;
        self
    }

    /// Sets the longest wait.
    #[must_use]
    pub const fn max(mut self, max: Span) -> Self {
        self.max = max;
        self
    }

    /// Sets how many failures may be followed by another attempt.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets how much of each wait is left to chance, in parts per million.
    #[must_use]
    pub const fn jitter_ppm(mut self, jitter_ppm: u32) -> Self {
        self.jitter_ppm = jitter_ppm;
        self
    }

    /// Sets the longest time from the start of the first attempt to the start of the last.
    #[must_use]
    pub const fn total(mut self, total: Option<Span>) -> Self {
        self.total = total;
        self
    }

    /// Sets the longest `Retry-After` that is followed.
    #[must_use]
    pub const fn retry_after_max(mut self, retry_after_max: Span) -> Self {
        self.retry_after_max = retry_after_max;
        self
    }

    /// Sets what the jitter is drawn from.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base: Span::from_secs(1),
            factor_ppm: 2 * ONE_PPM,
            max: Span::from_secs(60),
            retries: 3,
            jitter_ppm: 100_000,
            total: None,
            retry_after_max: Span::from_secs(900),
            seed: 0,
        }
    }
}

impl Backoff {
    /// A schedule from its settings.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for a `factor_ppm` below one or above [`BackoffConfig::FACTOR_PPM_MAX`] or a `jitter_ppm` above one,
    /// [`InputError::Contradiction`] for a `max` below `base`, in that order.
    pub const fn new(config: BackoffConfig) -> Result<Self, InputError> {
        if config.factor_ppm < ONE_PPM || config.factor_ppm > BackoffConfig::FACTOR_PPM_MAX {
            return Err(InputError::OutOfRange {
                field: "factor_ppm",
                value: config.factor_ppm as u64,
                min: ONE_PPM as u64,
                max: BackoffConfig::FACTOR_PPM_MAX as u64,
            });
        }
        if config.jitter_ppm > ONE_PPM {
            return Err(InputError::OutOfRange {
                field: "jitter_ppm",
                value: config.jitter_ppm as u64,
                min: 0,
                max: ONE_PPM as u64,
            });
        }
        if config.max.as_nanos() < config.base.as_nanos() {
            return Err(InputError::Contradiction { field: "max", other: "base" });
        }
        Ok(Self { config })
    }

    /// The settings.
    pub const fn config(&self) -> &BackoffConfig {
        &self.config
    }

    /// The wait after the `attempt`-th failure (from 1; 0 counts as 1) of the thing called `key`.
    ///
    /// `retry_after`, at most [`BackoffConfig::retry_after_max`], is a floor, also above `max`: a backend that says when is
    /// not asked sooner, and the jitter goes on top of it. Powers of the factor are exact as long as their odd part fits
    /// into 64 bits (always for powers of two, 40 steps for 1.5), then within 2⁻³⁰; the wait is rounded to the nearest
    /// nanosecond.
    ///
    /// # Complexity
    /// O(log `attempt`): at most 32 squarings.
    pub fn delay(&self, key: u128, attempt: u32, retry_after: Option<Span>) -> Span {
        let attempt = attempt.max(1);
        let wait = self.wait(attempt);
        let chance = jitter(self.config.seed, key, attempt);
        let jittered = Span::from_nanos(wait.as_nanos() - self.share(wait, chance));
        match retry_after.map(|floor| floor.min(self.config.retry_after_max)) {
            // All who heard the same instant must not come back at the same instant: the chance goes on top.
            Some(floor) if floor > jittered => floor.saturating_add(Span::from_nanos(self.share(floor, chance))),
            _ => jittered,
        }
    }

    /// What follows the `attempt`-th failure (from 1), seen at `now`, of a thing first tried at `first_at`.
    ///
    /// An attempt may begin exactly at the end of the total time, not a nanosecond later. [`GiveUpReason::Exhausted`]
    /// goes before [`GiveUpReason::OutOfTime`].
    pub fn next(
        &self,
        key: u128,
        attempt: u32,
        first_at: Timestamp,
        now: Timestamp,
        retry_after: Option<Span>,
    ) -> Retry {
        if attempt.max(1) > self.config.retries {
            return Retry::GiveUp(GiveUpReason::Exhausted);
        }
        let end = self.config.total.map_or(Timestamp::MAX, |total| first_at + total);
        match now.checked_add(self.delay(key, attempt, retry_after)) {
            Some(at) if at <= end => Retry::At(at),
            _ => Retry::GiveUp(GiveUpReason::OutOfTime),
        }
    }

    /// The wait before any chance: `min(max, base × factor^(attempt − 1))`.
    fn wait(&self, attempt: u32) -> Span {
        let BackoffConfig { base, factor_ppm, max, .. } = self.config;
        if base.is_zero() || factor_ppm == ONE_PPM {
            return base;
        }
        match Scaled::from_ppm(factor_ppm).power(attempt - 1).and_then(|power| power.times(base.as_nanos())) {
            Some(nanos) => Span::from_nanos(nanos).min(max),
            None => max,
        }
    }

    /// The part of `jitter × span` that `chance` picks, evenly from nothing to all of it.
    fn share(&self, span: Span, chance: u64) -> u64 {
        let width = u128::from(span.as_nanos()) * u128::from(self.config.jitter_ppm) / u128::from(ONE_PPM);
        // The jitter is at most one, so the width is at most the span; the product is below 2^128.
        (((width + 1) * u128::from(chance)) >> 64) as u64
    }
}

impl Retry {
    /// The instant of the next attempt, if there is one.
    pub const fn at(self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::GiveUp(_) => None,
        }
    }
}

/// A number of at least one with 64 significant bits: `mantissa × 2^(exponent − 63)`, the top bit of the mantissa set.
///
/// Powers are taken by squaring, so that any number of attempts costs the same; plain fixed point would lose either
/// the small factors or the long schedules.
#[derive(Clone, Copy)]
struct Scaled {
    mantissa: u64,
    exponent: u32,
}

impl Scaled {
    const ONE: Self = Self { mantissa: 1 << 63, exponent: 0 };

    /// `ppm` must be at least one million.
    fn from_ppm(ppm: u32) -> Self {
        // One million parts have 20 bits, so the quotient keeps 64 bits or more of a 32-bit factor and 76 zeros.
        let quotient = (u128::from(ppm) << 76) / u128::from(ONE_PPM);
        let width = u128::BITS - quotient.leading_zeros();
        Self { mantissa: (quotient >> (width - 64)) as u64, exponent: width - 77 }
    }

    /// The `n`-th power, or `None` from 2^64 on.
    fn power(self, mut n: u32) -> Option<Self> {
        let mut square = self;
        let mut power = Self::ONE;
        loop {
            if n & 1 == 1 {
                power = power.product(square)?;
            }
            n >>= 1;
            if n == 0 {
                return Some(power);
            }
            square = square.product(square)?;
        }
    }

    /// The product, cut to 64 bits, or `None` from 2^64 on.
    fn product(self, other: Self) -> Option<Self> {
        let product = u128::from(self.mantissa) * u128::from(other.mantissa);
        let carry = (product >> 127) as u32;
        let exponent = self.exponent + other.exponent + carry;
        (exponent < 64).then_some(Self { mantissa: (product >> (63 + carry)) as u64, exponent })
    }

    /// `nanos` times this, to the nearest, or `None` beyond 64 bits.
    fn times(self, nanos: u64) -> Option<u64> {
        let product = u128::from(self.mantissa) * u128::from(nanos);
        let shift = 63 - self.exponent;
        let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
        // A product of two 64-bit numbers leaves room for the half: (2^64 − 1)² + 2^62 < 2^128.
        u64::try_from((product + half) >> shift).ok()
    }
}

/// 64 even bits for (seed, key, attempt): the words are absorbed one after the other, each by a step of SplitMix64.
fn jitter(seed: u64, key: u128, attempt: u32) -> u64 {
    [key as u64, (key >> 64) as u64, u64::from(attempt)].into_iter().fold(mix(seed), |state, word| mix(state ^ word))
}

const ONE_PPM: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backoff(config: BackoffConfig) -> Backoff {
        Backoff::new(config).unwrap()
    }

    /// The schedule without chance and without a longest `Retry-After`.
    fn exact() -> BackoffConfig {
        BackoffConfig::default().jitter_ppm(0).retry_after_max(Span::MAX)
    }

    #[test]
    fn a_hundred_equal_jobs_do_not_come_back_at_once_and_nobody_waits_for_a_day() {
        let backoff = Backoff::new(BackoffConfig::default()).unwrap();
        let waits: std::collections::BTreeSet<_> = (0..100).map(|key| backoff.delay(key, 1, None)).collect();
        assert!(waits.len() > 95, "{} different waits", waits.len());
        let (first, last) = (*waits.first().unwrap(), *waits.last().unwrap());
        assert!(first >= Span::from_millis(900) && last <= Span::from_secs(1), "{first} to {last}");
        assert!(last.as_nanos() - first.as_nanos() > 80_000_000, "{first} to {last}");
        let longest = Span::from_secs(900);
        let asked = backoff.delay(1, 1, Some(Span::from_secs(86_400)));
        assert!(asked >= longest && asked <= Span::from_secs(990), "{asked}");
    }

    #[test]
    fn the_default_waits_one_two_and_four_seconds_and_then_gives_up() {
        let backoff = backoff(exact());
        let start = Timestamp::from_secs(50);
        for (attempt, secs) in [(0, 1), (1, 1), (2, 2), (3, 4)] {
            assert_eq!(backoff.next(1, attempt, start, start, None), Retry::At(Timestamp::from_secs(50 + secs)));
        }
        for attempt in [4, 5, u32::MAX] {
            assert_eq!(backoff.next(1, attempt, start, start, None), Retry::GiveUp(GiveUpReason::Exhausted));
        }
        assert_eq!(backoff.delay(1, 6, None), Span::from_secs(32));
        assert_eq!(backoff.delay(1, 7, None), Span::from_secs(60));
        assert_eq!(backoff.delay(1, u32::MAX, None), Span::from_secs(60));
    }

    #[test]
    fn no_retries_means_that_the_first_failure_is_the_last() {
        let backoff = backoff(exact().retries(0));
        for attempt in [0, 1] {
            let next = backoff.next(1, attempt, Timestamp::EPOCH, Timestamp::EPOCH, None);
            assert_eq!(next, Retry::GiveUp(GiveUpReason::Exhausted));
        }
    }

    #[test]
    fn retry_after_is_a_floor_even_beyond_the_cap() {
        let backoff = backoff(exact());
        assert_eq!(backoff.delay(1, 1, Some(Span::from_secs(120))), Span::from_secs(120));
        assert_eq!(backoff.delay(1, 3, Some(Span::from_secs(3))), Span::from_secs(4));
        assert_eq!(backoff.delay(1, 3, Some(Span::MAX)), Span::MAX);
    }

    #[test]
    fn an_attempt_may_begin_at_the_end_of_the_total_time_and_not_a_nanosecond_later() {
        let backoff = backoff(exact().total(Some(Span::from_secs(10))));
        let first = Timestamp::from_secs(100);
        let last = Timestamp::from_secs(108);
        let late = last + Span::from_nanos(1);
        assert_eq!(backoff.next(1, 2, first, last, None), Retry::At(Timestamp::from_secs(110)));
        assert_eq!(backoff.next(1, 2, first, late, None), Retry::GiveUp(GiveUpReason::OutOfTime));
        assert_eq!(backoff.next(1, 4, first, late, None), Retry::GiveUp(GiveUpReason::Exhausted));
        // Without a budget only the end of time is an end.
        let backoff = Backoff::new(exact()).unwrap();
        assert_eq!(backoff.next(1, 1, first, Timestamp::MAX, None), Retry::GiveUp(GiveUpReason::OutOfTime));
    }

    #[test]
    fn the_jitter_of_a_seed_is_what_it_always_was() {
        let backoff = backoff(exact().jitter_ppm(1_000_000).seed(1));
        let waits: std::vec::Vec<u64> = (1..=3).map(|attempt| backoff.delay(42, attempt, None).as_nanos()).collect();
        assert_eq!(waits, WAITS_OF_SEED_1_KEY_42);
    }

    #[test]
    fn jitter_is_spread_evenly_and_each_word_of_the_key_matters() {
        let backoff = backoff(exact().jitter_ppm(1_000_000));
        let mut tenths = [0_u32; 10];
        for key in 0..10_000_u128 {
            for key in [key, key << 64] {
                let wait = backoff.delay(key, 1, None).as_nanos();
                tenths[(wait / 100_000_000).min(9) as usize] += 1;
            }
        }
        // 2000 expected in each; five standard deviations are about 212.
        assert!(tenths.iter().all(|count| (1_788..=2_212).contains(count)), "{tenths:?}");
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let field = |config: BackoffConfig| crate::error::Coded::field(&Backoff::new(config).unwrap_err());
        let config = BackoffConfig::default();
        assert_eq!(field(config.factor_ppm(999_999)), Some("factor_ppm"));
        assert_eq!(field(config.factor_ppm(BackoffConfig::FACTOR_PPM_MAX + 1)), Some("factor_ppm"));
        assert_eq!(field(config.jitter_ppm(1_000_001)), Some("jitter_ppm"));
        assert_eq!(field(config.base(Span::from_secs(61))), Some("max"));
        assert!(Backoff::new(config.base(Span::from_secs(60)).factor_ppm(ONE_PPM).jitter_ppm(ONE_PPM)).is_ok());
        assert!(serde_json::from_str::<BackoffConfig>(r#"{"retry":3}"#).is_err());
        assert_eq!(serde_json::from_str::<BackoffConfig>("{}").unwrap(), config);
    }

    proptest! {
        #[test]
        fn whole_factors_agree_with_multiplying_step_by_step(
            base in any::<u64>(), shift in 0_u32..64, factor in 1_u32..=1_000, attempt in 1_u32..200,
        ) {
            let base = base >> shift;
            let config = exact().factor_ppm(factor * ONE_PPM).base(Span::from_nanos(base)).max(Span::MAX);
            let mut naive = u128::from(base);
            for _ in 1..attempt {
                naive = (naive * u128::from(factor)).min(u128::from(u64::MAX));
            }
            let delay = u128::from(backoff(config).delay(0, attempt, None).as_nanos());
            // Beyond 64 significant bits of the power the result is near, not equal.
            let exact = u64::from(factor).checked_pow(attempt - 1).is_some() || factor.is_power_of_two();
            prop_assert!(naive.abs_diff(delay) <= if exact { 0 } else { naive >> 50 }, "{naive} {delay}");
        }

        #[test]
        fn waits_never_shrink_and_never_pass_the_cap(
            factor_ppm in ONE_PPM..=BackoffConfig::FACTOR_PPM_MAX, base in 0_u64..1 << 40, attempt in 1_u32..u32::MAX,
        ) {
            for attempt in [attempt, attempt % 64 + 1] {
                let max = Span::from_nanos(base.saturating_mul(1 << 20));
                let config = exact().factor_ppm(factor_ppm).base(Span::from_nanos(base)).max(max);
                let (now, later) = (backoff(config).delay(0, attempt, None), backoff(config).delay(0, attempt + 1, None));
                prop_assert!(now.as_nanos() >= base && now <= later && later <= max, "{now} {later} {max}");
            }
        }

        #[test]
        fn half_steps_agree_with_exact_fractions(base in 1_u64..1 << 36, attempt in 1_u32..=28) {
            let config = exact().factor_ppm(1_500_000).base(Span::from_nanos(base)).max(Span::MAX);
            let (above, below) = (u128::from(base) * 3_u128.pow(attempt - 1), 2_u128.pow(attempt - 1));
            let nearest = (2 * above + below) / (2 * below);
            prop_assert_eq!(u128::from(backoff(config).delay(0, attempt, None).as_nanos()), nearest);
        }

        #[test]
        fn jitter_stays_in_its_band_and_any_input_is_answered(
            key in any::<u128>(), seed in any::<u64>(), attempt in any::<u32>(), jitter_ppm in 0..=ONE_PPM,
            max in any::<u64>(), base in any::<u64>(), floor in proptest::option::of(any::<u64>()),
            now in any::<u64>(), first in any::<u64>(), total in proptest::option::of(any::<u64>()),
        ) {
            let config = exact()
                .base(Span::from_nanos(base.min(max)))
                .max(Span::from_nanos(max))
                .jitter_ppm(jitter_ppm)
                .seed(seed)
                .retries(u32::MAX)
                .total(total.map(Span::from_nanos));
            let jittered = backoff(config);
            let full = backoff(config.jitter_ppm(0)).delay(key, attempt, None).as_nanos();
            let width = (u128::from(full) * u128::from(jitter_ppm) / 1_000_000) as u64;
            let wait = jittered.delay(key, attempt, None).as_nanos();
            prop_assert!(wait <= full && wait >= full - width);
            let retry_after = floor.map(Span::from_nanos);
            let floored = jittered.delay(key, attempt, retry_after);
            prop_assert!(floored >= retry_after.unwrap_or_default() && floored.as_nanos() >= wait);
            let (first, now) = (Timestamp::from_nanos(first), Timestamp::from_nanos(now));
            if let Retry::At(at) = jittered.next(key, attempt, first, now, retry_after) {
                prop_assert_eq!(at, now + floored);
                prop_assert!(total.is_none_or(|total| at <= first + Span::from_nanos(total)));
            }
        }
    }

    /// Computed apart, in another language.
    const WAITS_OF_SEED_1_KEY_42: [u64; 3] = [129_660_629, 1_834_361_779, 16_889_186];
}
