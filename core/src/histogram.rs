//! A distribution of integers in fixed memory: count, sum, extremes, quantiles.

#![expect(clippy::indexing_slicing, reason = "the index is in range by the line above it or by the type")]

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::error::InputError;

/// A histogram over all of `u64` with a stated relative error.
///
/// Each power of two is cut into `2^precision_bits` buckets of equal width, so values below `2^(precision_bits + 1)`
/// are kept exactly and larger ones to a relative error below `1 / 2^precision_bits`, always upwards: a quantile is
/// never below the true one. Count, sum, least and greatest value are exact. Counters saturate.
///
/// Memory is fixed at `(65 - precision_bits) * 2^precision_bits * 8` bytes: 15 KiB at 5 bits, 30 KiB at 6 (the default).
/// In a snapshot only the buckets in use are written.
///
/// The unit is the caller's; the library records nanoseconds.
///
/// ```
/// use libgateway::Histogram;
/// let mut latency_ms = Histogram::default();
/// for millis in 1..=20 {
///     latency_ms.record(millis);
/// }
/// assert_eq!(latency_ms.quantile_ppm(950_000), Some(19));
/// assert_eq!(latency_ms.sum(), 210);
///
/// latency_ms.record(1_000_000);
/// latency_ms.record(2_000_000);
/// assert_eq!(latency_ms.relative_error_ppm(), 15_625);
/// assert_eq!(latency_ms.quantile_ppm(950_000), Some(1_007_615));
/// assert_eq!(latency_ms.quantile_ppm(1_000_000), Some(2_000_000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Histogram {
    precision_bits: u8,
    count: u64,
    sum: u128,
    /// `u64::MAX` while empty.
    min: u64,
    /// 0 while empty.
    max: u64,
    buckets: Box<[u64]>,
}

impl Histogram {
    /// The least precision: a relative error below 12.5 %, in 4 KiB.
    pub const PRECISION_BITS_MIN: u8 = 3;
    /// The greatest precision: a relative error below 0.4 %, in 114 KiB.
    pub const PRECISION_BITS_MAX: u8 = 8;
    /// The precision of [`Histogram::default`]: a relative error below 1.6 %, in 30 KiB.
    pub const PRECISION_BITS_DEFAULT: u8 = 6;

    /// An empty histogram.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] unless `precision_bits` is 3 to 8.
    pub fn new(precision_bits: u8) -> Result<Self, InputError> {
        if !(Self::PRECISION_BITS_MIN..=Self::PRECISION_BITS_MAX).contains(&precision_bits) {
            return Err(InputError::OutOfRange {
                field: "precision_bits",
                value: precision_bits.into(),
                min: Self::PRECISION_BITS_MIN.into(),
                max: Self::PRECISION_BITS_MAX.into(),
            });
        }
        Ok(Self::empty(precision_bits))
    }

    fn empty(precision_bits: u8) -> Self {
        let len = (65 - usize::from(precision_bits)) << precision_bits;
        Self { precision_bits, count: 0, sum: 0, min: u64::MAX, max: 0, buckets: vec![0; len].into_boxed_slice() }
    }

    /// Records one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records a value `count` times. A count of 0 records nothing.
    pub fn record_n(&mut self, value: u64, count: u64) {
        if count == 0 {
            return;
        }
        let bucket = &mut self.buckets[index(self.precision_bits, value)];
        *bucket = bucket.saturating_add(count);
        self.count = self.count.saturating_add(count);
        // A product of two 64-bit numbers always fits into 128 bits.
        self.sum = self.sum.saturating_add(u128::from(value) * u128::from(count));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds everything `other` has recorded, as if it had been recorded here.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] if the precisions differ; nothing is changed then.
    ///
    /// # Complexity
    /// O(buckets).
    pub fn merge(&mut self, other: &Self) -> Result<(), InputError> {
        if other.precision_bits != self.precision_bits {
            return Err(InputError::OutOfRange {
                field: "precision_bits",
                value: other.precision_bits.into(),
                min: self.precision_bits.into(),
                max: self.precision_bits.into(),
            });
        }
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        Ok(())
    }

    /// Forgets everything recorded.
    ///
    /// # Complexity
    /// O(buckets).
    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
        self.sum = 0;
        self.min = u64::MAX;
        self.max = 0;
    }

    /// How many values were recorded.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The sum of the values.
    pub const fn sum(&self) -> u128 {
        self.sum
    }

    /// The least value.
    pub const fn min(&self) -> Option<u64> {
        if self.count == 0 { None } else { Some(self.min) }
    }

    /// The greatest value.
    pub const fn max(&self) -> Option<u64> {
        if self.count == 0 { None } else { Some(self.max) }
    }

    /// The mean, rounded down.
    pub fn mean(&self) -> Option<u64> {
        let mean = self.sum.checked_div(self.count.into())?;
        // The sum may have gone on where the count was saturated.
        Some(u64::try_from(mean).unwrap_or(self.max).min(self.max))
    }

    /// The quantile by nearest rank, in parts per million: the value of rank `ceil(ppm * count / 1_000_000)`, at least
    /// the first. So the 95 % quantile of 20 values is the 19th. It is the greatest value of that rank's bucket, but
    /// no more than `max`: never below the true quantile, and above it by less than [`Histogram::relative_error_ppm`].
    /// More than 1 000 000 counts as 1 000 000.
    ///
    /// # Complexity
    /// O(buckets).
    pub fn quantile_ppm(&self, ppm: u32) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let share = u128::from(ppm.min(PPM)) * u128::from(self.count);
        // At most the count, which fits.
        let rank = u64::try_from(share.div_ceil(PPM.into())).unwrap_or(self.count).max(1);
        let mut seen: u64 = 0;
        let index = self.buckets.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        })?;
        Some(bounds(self.precision_bits, index).1.min(self.max))
    }

    /// The buckets in use, ascending: the greatest value that counts into the bucket, and how many did.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let used = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(|(index, count)| (bounds(self.precision_bits, index).1, *count))
    }

    /// The precision: each power of two has `2^precision_bits` buckets.
    pub const fn precision_bits(&self) -> u8 {
        self.precision_bits
    }

    /// What quantiles may be too great by, in parts per million of the true value; the bound itself is never reached.
    pub const fn relative_error_ppm(&self) -> u32 {
        PPM.div_ceil(1 << self.precision_bits)
    }

    /// Panics unless the totals agree with the buckets.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        assert_eq!(Self::try_from(Stored::from(self.clone())).as_ref(), Ok(self));
    }
}

impl Default for Histogram {
    /// An empty histogram of [`Histogram::PRECISION_BITS_DEFAULT`].
    fn default() -> Self {
        Self::empty(Self::PRECISION_BITS_DEFAULT)
    }
}

/// How a histogram is written: the buckets in use only, as their index and count.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    precision_bits: u8,
    sum: u128,
    min: u64,
    max: u64,
    buckets: Vec<(u32, u64)>,
}

impl From<Histogram> for Stored {
    fn from(histogram: Histogram) -> Self {
        // There are at most 14 592 buckets.
        let used = histogram.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        Self {
            precision_bits: histogram.precision_bits,
            sum: histogram.sum,
            min: histogram.min,
            max: histogram.max,
            buckets: used.map(|(index, count)| (index as u32, *count)).collect(),
        }
    }
}

impl TryFrom<Stored> for Histogram {
    type Error = InputError;

    /// # Errors
    /// [`InputError`] if no sequence of records could have left the histogram like this.
    fn try_from(stored: Stored) -> Result<Self, InputError> {
        let mut histogram = Self::new(stored.precision_bits)?;
        let malformed = InputError::Malformed { field: "buckets", expected: "used buckets in ascending order" };
        let mut next = 0;
        // What the sum is at least and at most, given the buckets.
        let mut least: u128 = 0;
        let mut most: u128 = 0;
        for (index, count) in stored.buckets {
            let index = index as usize;
            if index < next || count == 0 {
                return Err(malformed);
            }
            let Some(bucket) = histogram.buckets.get_mut(index) else { return Err(malformed) };
            *bucket = count;
            next = index + 1;
            histogram.count = histogram.count.saturating_add(count);
            let (lower, upper) = bounds(stored.precision_bits, index);
            least = least.saturating_add(u128::from(lower) * u128::from(count));
            // A saturated bucket has lost count of what went into the sum.
            let spread = if count == u64::MAX { u128::MAX } else { u128::from(upper) * u128::from(count) };
            most = most.saturating_add(spread);
        }
        let empty = histogram.count == 0;
        let first = histogram.buckets.iter().position(|count| *count > 0);
        let last = histogram.buckets.iter().rposition(|count| *count > 0);
        let fits = |value, bucket| Some(index(stored.precision_bits, value)) == bucket;
        if (empty && (stored.min, stored.max) != (u64::MAX, 0))
            || (!empty && (stored.min > stored.max || !fits(stored.min, first) || !fits(stored.max, last)))
        {
            return Err(InputError::Contradiction { field: "min", other: "buckets" });
        }
        if stored.sum < least || stored.sum > most {
            return Err(InputError::Contradiction { field: "sum", other: "buckets" });
        }
        Ok(Self { sum: stored.sum, min: stored.min, max: stored.max, ..histogram })
    }
}

/// The bucket of a value. The first `2^bits` buckets are one wide; after them each power of two has `2^bits` buckets.
fn index(bits: u8, value: u64) -> usize {
    // The position of the highest bit, but at least `bits`: below it a bucket is one value.
    let magnitude = 63 - (value | 1 << bits).leading_zeros();
    let shift = magnitude - u32::from(bits);
    // `value >> shift` has `bits + 1` bits from the second power of two on; its highest bit adds the one missing group.
    ((shift as usize) << bits) + (value >> shift) as usize
}

/// The least and the greatest value of a bucket.
fn bounds(bits: u8, index: usize) -> (u64, u64) {
    let group = index >> bits;
    let shift = group.saturating_sub(1);
    let lower = ((index - (shift << bits)) as u64) << shift;
    (lower, lower + ((1 << shift) - 1))
}

const PPM: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values of every magnitude.
    fn value() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #[test]
        fn quantiles_are_never_low_and_less_high_than_the_stated_error(
            bits in Histogram::PRECISION_BITS_MIN..=Histogram::PRECISION_BITS_MAX,
            mut values in prop::collection::vec(value(), 1..150),
            ppm in 0..=1_000_000_u32,
        ) {
            let mut histogram = Histogram::new(bits).unwrap();
            values.iter().for_each(|value| histogram.record(*value));
            histogram.check_invariants();
            values.sort_unstable();
            let n = values.len();
            prop_assert_eq!(histogram.count(), n as u64);
            prop_assert_eq!(histogram.sum(), values.iter().map(|value| u128::from(*value)).sum::<u128>());
            prop_assert_eq!(histogram.mean(), Some((histogram.sum() / n as u128) as u64));
            prop_assert_eq!((histogram.min(), histogram.max()), (values.first().copied(), values.last().copied()));
            let error = u128::from(histogram.relative_error_ppm());
            for ppm in [0, 1, 500_000, 950_000, 999_999, 1_000_000, ppm] {
                let rank = (1..=n).find(|rank| *rank as u64 * 1_000_000 >= u64::from(ppm) * n as u64).unwrap();
                let exact = values[rank - 1];
                let answer = histogram.quantile_ppm(ppm).unwrap();
                prop_assert!(answer >= exact);
                prop_assert!(u128::from(answer - exact) * 1_000_000 <= u128::from(exact) * error);
                prop_assert!(exact >= 2 << bits || answer == exact);
                prop_assert!(Some(answer) <= histogram.max());
            }
            // A rank of 0 is the first.
            prop_assert_eq!(histogram.quantile_ppm(0), histogram.quantile_ppm(1));
        }

        #[test]
        fn a_merge_is_the_concatenation(
            left in prop::collection::vec((value(), 0..5_u64), 0..60),
            right in prop::collection::vec((value(), 0..5_u64), 0..60),
        ) {
            let of = |parts: &[&[(u64, u64)]]| {
                let mut histogram = Histogram::new(5).unwrap();
                parts.iter().flat_map(|part| part.iter()).for_each(|(value, count)| histogram.record_n(*value, *count));
                histogram
            };
            let mut merged = of(&[&left]);
            merged.merge(&of(&[&right])).unwrap();
            prop_assert_eq!(&merged, &of(&[&left, &right]));
            let text = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Histogram>(&text).unwrap(), &merged);
            let bytes = postcard::to_allocvec(&merged).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<Histogram>(&bytes).unwrap(), &merged);
        }
    }

    #[test]
    fn the_buckets_tile_all_integers_without_gap_or_overlap() {
        for bits in Histogram::PRECISION_BITS_MIN..=Histogram::PRECISION_BITS_MAX {
            let histogram = Histogram::new(bits).unwrap();
            let mut next = Some(0);
            for at in 0..histogram.buckets.len() {
                let (lower, upper) = bounds(bits, at);
                assert_eq!(next, Some(lower));
                assert_eq!((index(bits, lower), index(bits, upper)), (at, at));
                // The stated error, at the worst value of the bucket.
                let error = u128::from(upper - lower) << bits;
                assert!(upper == lower || error < u128::from(lower));
                next = upper.checked_add(1);
            }
            assert_eq!(next, None);
        }
    }

    #[test]
    fn the_95th_percentile_of_20_samples_is_the_19th() {
        let mut histogram = Histogram::default();
        (1..=20).for_each(|value| histogram.record(value));
        assert_eq!(histogram.quantile_ppm(950_000), Some(19));
        assert_eq!(histogram.quantile_ppm(950_001), Some(20));
        assert_eq!(histogram.quantile_ppm(0), Some(1));
        assert_eq!(histogram.quantile_ppm(u32::MAX), Some(20));
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), (1..=20).map(|value| (value, 1)).collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_histogram_has_no_extremes_and_no_quantiles() {
        let mut histogram = Histogram::default();
        histogram.record_n(5, 0);
        for _ in 0..2 {
            assert_eq!((histogram.min(), histogram.max(), histogram.mean()), (None, None, None));
            assert_eq!((histogram.count(), histogram.sum(), histogram.quantile_ppm(500_000)), (0, 0, None));
            assert_eq!(histogram.buckets().count(), 0);
            histogram.record(9);
            histogram.clear();
            histogram.check_invariants();
        }
    }

    #[test]
    fn counters_stop_at_their_end_and_nothing_panics() {
        let mut histogram = Histogram::default();
        for _ in 0..3 {
            histogram.record_n(u64::MAX, u64::MAX);
        }
        let copy = histogram.clone();
        histogram.merge(&copy).unwrap();
        histogram.record_n(0, u64::MAX);
        histogram.check_invariants();
        assert_eq!((histogram.count(), histogram.sum()), (u64::MAX, u128::MAX));
        assert_eq!(histogram.mean(), Some(u64::MAX));
        assert_eq!(histogram.quantile_ppm(1_000_000), Some(0));
        assert_eq!(copy.quantile_ppm(0), Some(u64::MAX));
    }

    #[test]
    fn a_precision_out_of_range_or_different_is_refused() {
        for bits in [0, 2, 9, 255] {
            assert!(matches!(Histogram::new(bits), Err(InputError::OutOfRange { min: 3, max: 8, .. })));
        }
        let mut histogram = Histogram::new(4).unwrap();
        histogram.record(1);
        let before = histogram.clone();
        assert!(histogram.merge(&Histogram::new(5).unwrap()).is_err());
        assert_eq!(histogram, before);
    }

    #[test]
    fn a_stored_histogram_that_contradicts_itself_is_refused() {
        let stored = |precision_bits, sum, min, max, buckets: &[(u32, u64)]| {
            Histogram::try_from(Stored { precision_bits, sum, min, max, buckets: buckets.to_vec() })
        };
        assert!(stored(6, 12, 5, 7, &[(5, 1), (7, 1)]).is_ok());
        for damaged in [
            stored(2, 12, 5, 7, &[(5, 1), (7, 1)]),
            stored(6, 11, 5, 7, &[(5, 1), (7, 1)]),
            stored(6, 13, 5, 7, &[(5, 1), (7, 1)]),
            stored(6, 12, 4, 7, &[(5, 1), (7, 1)]),
            stored(6, 12, 5, 8, &[(5, 1), (7, 1)]),
            stored(6, 12, 5, 7, &[(7, 1), (5, 1)]),
            stored(6, 10, 5, 5, &[(5, 1), (5, 1)]),
            stored(6, 5, 5, 5, &[(5, 1), (7, 0)]),
            stored(6, 5, 5, 5, &[(5, 1), (u32::MAX, 1)]),
            stored(6, 0, 0, 0, &[]),
            stored(6, 1, u64::MAX, 0, &[]),
        ] {
            assert!(damaged.is_err());
        }
    }
}
