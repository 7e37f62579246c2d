//! Instants, spans and the one clock of a machine.
//!
//! Nothing here reads a clock: the host hands a [`Timestamp`] to every call, and [`Clock`] makes the readings monotone.

use core::fmt;
use core::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// An instant: nanoseconds since the Unix epoch (UTC), given by the host. It lasts until the year 2554.
///
/// Adding a [`Span`] saturates at [`Timestamp::MAX`], which therefore reads as "never".
///
/// ```
/// use libgateway::{Span, Timestamp};
/// let start = Timestamp::from_secs(1_700_000_000);
/// assert_eq!((start + Span::from_millis(1_500)).as_nanos(), 1_700_000_001_500_000_000);
/// assert_eq!(start.since(start + Span::from_secs(9)), Span::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

/// A length of time in nanoseconds, at most about 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

/// Time measured on a GPU, in nanoseconds of the GPU's own clock. It is never mixed with [`Span`]: the two clocks drift.
///
/// ```
/// use libgateway::GpuNanos;
/// assert_eq!(GpuNanos::from_millis(1_700).to_string(), "1.7");
/// assert_eq!(GpuNanos::from_nanos(50_000_000).to_string(), "0.05");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuNanos(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);
    /// The last instant that can be told; as a deadline it means "never".
    pub const MAX: Self = Self(u64::MAX);

    /// An instant from nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// An instant from milliseconds since the Unix epoch, saturating.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// An instant from whole seconds since the Unix epoch, saturating.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero when `earlier` lies in the future.
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// The sum, or `None` where it would lie beyond [`Timestamp::MAX`].
    pub const fn checked_add(self, span: Span) -> Option<Self> {
        match self.0.checked_add(span.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest span that can be told; as a timeout it means "without end".
    pub const MAX: Self = Self(u64::MAX);

    /// A span from nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// A span from microseconds, saturating.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// A span from milliseconds, saturating.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// A span from whole seconds, saturating.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// The span in nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whether the span is empty.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The span rounded up to whole seconds, as `Retry-After` wants it.
    ///
    /// ```
    /// use libgateway::Span;
    /// assert_eq!(Span::from_millis(1_001).as_secs_ceil(), 2);
    /// ```
    pub const fn as_secs_ceil(self) -> u64 {
        self.0.div_ceil(NANOS_PER_SEC)
    }

    /// The sum, saturating at [`Span::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The product, saturating at [`Span::MAX`].
    #[must_use]
    pub const fn saturating_mul(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl GpuNanos {
    /// No GPU time.
    pub const ZERO: Self = Self(0);

    /// GPU time from nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// GPU time from milliseconds, saturating.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// GPU time from whole seconds, saturating.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// The GPU time in nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The sum, or `None` on overflow.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Add<Span> for Timestamp {
    type Output = Self;

    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl AddAssign<Span> for Timestamp {
    fn add_assign(&mut self, span: Span) {
        *self = *self + span;
    }
}

impl fmt::Display for GpuNanos {
    /// Seconds as a canonical decimal: no exponent, no trailing zeros, at most nine decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, u128::from(self.0), 9)
    }
}

impl fmt::Display for Span {
    /// Seconds as a canonical decimal followed by `s`, for example `1.5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, u128::from(self.0), 9)?;
        f.write_str("s")
    }
}

/// Writes `value / 10^decimals` as a canonical decimal: no exponent, no trailing zeros.
pub(crate) fn write_decimal(f: &mut impl fmt::Write, value: u128, decimals: u32) -> fmt::Result {
    let unit = 10_u128.pow(decimals);
    let mut fraction = value % unit;
    write!(f, "{}", value / unit)?;
    if fraction == 0 {
        return Ok(());
    }
    let mut width = decimals as usize;
    while fraction % 10 == 0 {
        fraction /= 10;
        width -= 1;
    }
    write!(f, ".{fraction:0width$}")
}

/// The one clock of a machine: turns the host's readings into a time that never goes back and never leaps.
///
/// - A reading before the latest one counts as the latest one.
/// - A reading that lies more than `jump_max` ahead is not believed: no time passes, the leap is reported and kept as an
///   offset, and from then on time runs on at the host's pace. So one bad NTP step cannot expire every lease. When the
///   host's clock steps back, the offset shrinks first.
/// - [`Clock::resync`] takes the reading as it is. A gateway does that by itself while it holds no live job, when a
///   leap can hurt nobody.
///
/// ```
/// use libgateway::{Clock, Span, Timestamp};
/// let mut clock = Clock::new(Timestamp::from_secs(100), Span::from_secs(3_600));
/// assert_eq!(clock.observe(Timestamp::from_secs(90)), None);
/// assert_eq!(clock.now(), Timestamp::from_secs(100));
/// assert_eq!(clock.observe(Timestamp::from_secs(3_701)), Some(Span::from_secs(3_601)));
/// assert_eq!(clock.now(), Timestamp::from_secs(100));
/// clock.observe(Timestamp::from_secs(3_702));
/// assert_eq!(clock.now(), Timestamp::from_secs(101));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    now: Timestamp,
    /// What the host's readings are ahead of `now` because of leaps that were not believed.
    offset: Span,
    jump_max: Span,
}

impl Clock {
    /// A clock that stands at `now` and believes no leap longer than `jump_max`.
    pub const fn new(now: Timestamp, jump_max: Span) -> Self {
        Self { now, offset: Span::ZERO, jump_max }
    }

    /// The latest time seen.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// How far the host's readings are ahead of [`Clock::now`] because of leaps that were not believed.
    pub const fn offset(&self) -> Span {
        self.offset
    }

    /// Takes a reading of the host's clock. Returns the length of a leap that was not believed.
    pub fn observe(&mut self, reading: Timestamp) -> Option<Span> {
        self.observe_awaited(reading, self.now)
    }

    /// As [`Clock::observe`], of a host that was asked to call at `awaited`: only time beyond that is a leap. A host that
    /// slept until then, however long, is believed.
    pub fn observe_awaited(&mut self, reading: Timestamp, awaited: Timestamp) -> Option<Span> {
        let target = Timestamp(reading.0.saturating_sub(self.offset.0)).max(self.now);
        let leap = target.since(self.now);
        let leapt = target.since(awaited.max(self.now)) > self.jump_max;
        self.now = if leapt { self.now } else { target };
        self.offset = Span(reading.0.saturating_sub(self.now.0));
        leapt.then_some(leap)
    }

    /// Takes the reading as it is, however far ahead; a reading in the past still counts as the latest.
    pub fn resync(&mut self, reading: Timestamp) {
        self.now = self.now.max(reading);
        self.offset = Span::ZERO;
    }
}

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_leap_of_exactly_the_limit_is_believed_and_one_nanosecond_more_is_not() {
        let start = Timestamp::from_secs(1);
        let limit = Span::from_secs(3_600);
        let mut clock = Clock::new(start, limit);
        assert_eq!(clock.observe(start + limit), None);
        assert_eq!(clock.now(), start + limit);

        let mut clock = Clock::new(start, limit);
        let beyond = limit.saturating_add(Span::from_nanos(1));
        assert_eq!(clock.observe(start + beyond), Some(beyond));
        assert_eq!(clock.now(), start);
        assert_eq!(clock.offset(), beyond);
    }

    #[test]
    fn a_leap_that_is_taken_back_leaves_no_offset() {
        let start = Timestamp::from_secs(1_000);
        let mut clock = Clock::new(start, Span::from_secs(3_600));
        clock.observe(start + Span::from_secs(86_400));
        clock.observe(start + Span::from_secs(86_405));
        assert_eq!(clock.now(), start + Span::from_secs(5));
        clock.observe(start + Span::from_secs(6));
        assert_eq!(clock.now(), start + Span::from_secs(5));
        assert_eq!(clock.offset(), Span::from_secs(1));
        clock.observe(start + Span::from_secs(5));
        assert_eq!(clock.offset(), Span::ZERO);
    }

    #[test]
    fn decimals_are_canonical() {
        for (nanos, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_500_000_000, "1.5"),
            (10_000_000_000, "10"),
            (1_000_000_010, "1.00000001"),
        ] {
            assert_eq!(GpuNanos::from_nanos(nanos).to_string(), text);
        }
    }
}
