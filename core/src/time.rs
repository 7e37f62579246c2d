//! Instants, spans and the one clock of a machine.
//!
//! Nothing here reads a clock: the host hands a [`Timestamp`] to every call, and [`Clock`] makes machine time of them.

use core::fmt;
use core::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) mod pace;

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

/// The clock of a machine: turns the host's readings into a time that never goes back and never stands still.
///
/// Machine time passes as the readings do. What it makes of a step:
///
/// - **Back**: no time passes at the step, and from then on machine time goes on at the pace of the readings. A clock that
///   returns in one step within [`Clock::TRIAL`] makes no time by it, if that is what it was: a jump of the same length, or
///   a 64th more (a single wrong reading); after the second step back, any jump beyond where the clock was (callers whose
///   clocks differ, a clock that flaps).
/// - **Ahead**: all of it is time that passed. A clock made by [`Clock::wary`] first puts a step of more than `jump_max`
///   beyond the instant that the host was asked to call at on trial: machine time goes on at the pace of the readings, and
///   the step is added once they have gone on for [`Clock::TRIAL`] without being taken back. A step that is taken back was
///   none.
///
/// Machine time and the host's clock may therefore differ by a constant; [`Clock::to_host`] and [`Clock::from_host`]
/// translate. A step of more than 146 years is a broken clock and no time.
///
/// ```
/// use libgateway::{Clock, Span, Timestamp};
/// let mut clock = Clock::new(Timestamp::from_secs(100));
/// clock.observe(Timestamp::from_secs(90));
/// assert_eq!(clock.now(), Timestamp::from_secs(100));
/// clock.observe(Timestamp::from_secs(92));
/// assert_eq!(clock.now(), Timestamp::from_secs(102)); // two seconds went by, whatever the clock says
/// assert_eq!(clock.to_host(Timestamp::from_secs(105)), Timestamp::from_secs(95));
///
/// let mut wary = Clock::wary(Timestamp::from_secs(100), Span::from_secs(3_600));
/// let tick = wary.observe(Timestamp::from_secs(3_701));
/// assert_eq!((tick.elapsed, tick.doubted), (Span::ZERO, Some(Span::from_secs(3_601))));
/// wary.observe(Timestamp::from_secs(130)); // taken back: thirty seconds have passed
/// assert_eq!(wary.now(), Timestamp::from_secs(130));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    now: Timestamp,
    /// The latest reading.
    reading: Timestamp,
    jump_max: Span,
    /// How far the clock is below where it once was: what it climbs again in one step is no time.
    back: Span,
    /// How far the clock is ahead by steps that are on trial.
    doubt: Span,
    /// Machine time of the latest step that is on trial.
    since: Timestamp,
    /// Steps back with less than a trial from one to the next.
    steps: u8,
}

/// What a reading made of a [`Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Machine time that passed.
    pub elapsed: Span,
    /// The length of a step ahead that was put on trial.
    pub doubted: Option<Span>,
}

impl Clock {
    /// How long a step of the host's clock may be taken back as if it had never been: a minute of its readings.
    pub const TRIAL: Span = Span::from_secs(60);

    /// A clock that stands at `now` and takes every step ahead for time that passed.
    pub const fn new(now: Timestamp) -> Self {
        Self::wary(now, Span::MAX)
    }

    /// A clock that stands at `now` and puts steps ahead by more than `jump_max` on trial.
    ///
    /// Up to the year 2262 machine time begins as that of the host. What is made later than that was made by a broken
    /// clock, and machine time begins there, so that it has room to go on.
    pub const fn wary(now: Timestamp, jump_max: Span) -> Self {
        let start = if now.0 > START_MAX { Timestamp(START_MAX) } else { now };
        Self { now: start, reading: now, jump_max, back: Span::ZERO, doubt: Span::ZERO, since: start, steps: 0 }
    }

    /// Machine time.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The latest reading of the host's clock.
    pub const fn reading(&self) -> Timestamp {
        self.reading
    }

    /// How far the readings are ahead by steps that are on trial.
    pub const fn doubt(&self) -> Span {
        self.doubt
    }

    /// Takes a reading of the host's clock.
    #[inline]
    pub fn observe(&mut self, reading: Timestamp) -> Tick {
        self.observe_awaited(reading, self.now)
    }

    /// As [`Clock::observe`], of a host that was asked to call at machine time `awaited`: only what lies beyond that is a
    /// step. A host that slept until then, however long, is believed at once.
    #[inline]
    pub fn observe_awaited(&mut self, reading: Timestamp, awaited: Timestamp) -> Tick {
        if self.back.0 == 0 && self.doubt.0 == 0 && reading >= self.reading {
            let elapsed = reading.since(self.reading);
            let target = self.now + elapsed;
            if elapsed <= STEP_MAX && target.since(awaited) <= self.jump_max && target < Timestamp::MAX {
                self.now = target;
                self.reading = reading;
                return Tick { elapsed, doubted: None };
            }
        }
        self.observe_step(reading, awaited)
    }

    /// The clock as a reading would leave it: for questions, which change nothing.
    #[must_use]
    #[inline]
    pub fn peek(mut self, reading: Timestamp, awaited: Timestamp) -> Self {
        self.observe_awaited(reading, awaited);
        self
    }

    /// An instant of the machine as the host's clock shows it. [`Timestamp::MAX`], never, stays so.
    pub const fn to_host(&self, at: Timestamp) -> Timestamp {
        shift(at, self.now, self.reading)
    }

    /// An instant of the host's clock in machine time. [`Timestamp::MAX`], never, stays so.
    pub const fn from_host(&self, at: Timestamp) -> Timestamp {
        shift(at, self.reading, self.now)
    }

    /// When steps ahead that are on trial are believed, in machine time; `None`: none is.
    pub(crate) fn trial_ends(&self) -> Option<Timestamp> {
        (self.doubt > Span::ZERO).then(|| self.since + Self::TRIAL)
    }

    /// Takes steps ahead that are on trial for time that passed: an operator says that the clock is right. Returns them.
    pub fn accept(&mut self) -> Span {
        let doubt = core::mem::take(&mut self.doubt);
        self.pass(doubt)
    }

    #[cold]
    fn observe_step(&mut self, reading: Timestamp, awaited: Timestamp) -> Tick {
        let before = self.now;
        let mut doubted = None;
        if reading < self.reading {
            self.step_back(self.reading.since(reading));
        } else {
            if self.now.since(self.since) >= Self::TRIAL {
                (self.back, self.steps) = (Span::ZERO, 0);
                self.accept();
            }
            let mut passed = reading.since(self.reading);
            let asked = awaited.max(self.now);
            if passed >= self.back {
                let back = core::mem::take(&mut self.back);
                if self.is_return(passed, back) && !is_punctual(self.now, self.now + passed, awaited) {
                    passed = Span(passed.0 - back.0);
                }
            }
            if (self.now + passed).since(asked) > self.jump_max {
                self.doubt = self.doubt.saturating_add(passed);
                self.since = self.now;
                doubted = Some(passed);
            } else {
                self.pass(passed);
            }
        }
        self.reading = reading;
        Tick { elapsed: self.now.since(before), doubted }
    }

    fn step_back(&mut self, step: Span) {
        let rest = Span(self.doubt.0.saturating_sub(step.0));
        if self.doubt < step {
            self.back = self.back.saturating_add(Span(step.0 - self.doubt.0));
            self.steps = if self.now.since(self.since) >= Self::TRIAL { 1 } else { self.steps.saturating_add(1) };
            self.since = self.now;
        }
        if rest > self.jump_max {
            self.doubt = rest;
        } else {
            // The step ahead is taken back: what is left of it is what went by.
            self.doubt = Span::ZERO;
            self.pass(rest);
        }
    }

    /// Whether a jump ahead is the clock that returns to where it was before it stepped back.
    fn is_return(&self, jump: Span, back: Span) -> bool {
        self.steps > 1 || jump.0 - back.0 <= back.0 / 64
    }

    /// Lets time pass, unless no clock that works can say so.
    fn pass(&mut self, passed: Span) -> Span {
        if passed > STEP_MAX || self.now.since(Timestamp::EPOCH).saturating_add(passed) >= Span(u64::MAX - STEP_MAX.0) {
            return Span::ZERO;
        }
        self.now += passed;
        passed
    }
}

/// Whether a host that calls at `at`, and before that at `before`, did as it was asked: it slept until `awaited`.
pub(crate) fn is_punctual(before: Timestamp, at: Timestamp, awaited: Timestamp) -> bool {
    awaited > before && at.0.abs_diff(awaited.0) <= LATE_MAX.0
}

const fn shift(at: Timestamp, from: Timestamp, to: Timestamp) -> Timestamp {
    if at.0 == u64::MAX {
        at
    } else if to.0 >= from.0 {
        Timestamp(at.0.saturating_add(to.0 - from.0))
    } else {
        Timestamp(at.0.saturating_sub(from.0 - to.0))
    }
}

/// How far from an instant a host wakes that sleeps until it. Farther than that, it was held up, or its clock stepped.
const LATE_MAX: Span = Span::from_millis(250);

/// 146 years.
const STEP_MAX: Span = Span(1 << 62);

/// The year 2262: as long again is left before machine time can run no further.
const START_MAX: u64 = 1 << 63;

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    fn secs(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn machine_time_runs_at_the_pace_of_the_readings_after_any_step() {
        const YEAR: u64 = 365 * 86_400;
        let start = 2_000_000_000;
        for wary in [false, true] {
            for step in [-(10 * YEAR as i64), -86_400, -3_601, -12, 1, 600, 3_600, 3_601, 28_800, 10 * YEAR as i64] {
                let mut clock =
                    if wary { Clock::wary(secs(start), Span::from_secs(3_600)) } else { Clock::new(secs(start)) };
                let stepped = start.checked_add_signed(step).unwrap();
                clock.observe(secs(stepped));
                for second in 1..=10 {
                    let before = clock.now();
                    clock.observe(secs(stepped + second));
                    assert_eq!(clock.now().since(before), Span::from_secs(1), "step {step}, wary {wary}");
                    assert_eq!(clock.to_host(clock.now()), secs(stepped + second));
                }
                // Right again: no second is lost, and none is doubled but by a step back that is as good as time.
                let before = clock.now();
                clock.observe(secs(start + 11));
                clock.observe(secs(start + 12));
                let passed = clock.now().since(before);
                let doubled = if (-599..0).contains(&step) { step.unsigned_abs() } else { 0 };
                assert!((1..=12 + doubled).contains(&passed.as_secs_ceil()), "step {step}, wary {wary}: {passed}");
            }
        }
    }

    #[test]
    fn a_wild_reading_that_is_taken_back_was_none() {
        for wild in [3_700, 30_000, 400_000_000] {
            let mut clock = Clock::wary(secs(1_000), Span::from_secs(3_600));
            assert_eq!(clock.observe(secs(1_000 + wild)).doubted, Some(Span::from_secs(wild)));
            clock.observe(secs(1_005 + wild));
            assert_eq!(clock.now(), secs(1_005));
            clock.observe(secs(1_030));
            assert_eq!((clock.now(), clock.doubt()), (secs(1_030), Span::ZERO));
        }
    }

    #[test]
    fn a_step_ahead_is_time_once_it_has_stood_its_trial() {
        let limit = Span::from_secs(3_600);
        let mut clock = Clock::wary(secs(1_000), limit);
        assert_eq!(clock.observe(secs(1_000) + limit).elapsed, limit);
        let mut clock = Clock::wary(secs(1_000), limit);
        let beyond = limit.saturating_add(Span::from_nanos(1));
        assert_eq!(clock.observe(secs(1_000) + beyond).doubted, Some(beyond));
        let end = secs(1_000) + beyond + Clock::TRIAL;
        clock.observe(end);
        assert_eq!(clock.now(), secs(1_060));
        // The trial is over, and the next reading, however soon, brings what was doubted.
        let tick = clock.observe(end + Span::from_nanos(1));
        assert_eq!((tick.elapsed, clock.doubt()), (beyond.saturating_add(Span::from_nanos(1)), Span::ZERO));
        assert_eq!(clock.now(), clock.reading());
        let mut clock = Clock::wary(secs(1_000), limit);
        clock.observe(secs(9_000));
        assert_eq!(clock.accept(), Span::from_secs(8_000));
        assert_eq!(clock.now(), secs(9_000));
    }

    #[test]
    fn a_host_that_slept_until_it_was_asked_to_call_is_believed() {
        let mut clock = Clock::wary(secs(1_000), Span::from_secs(3_600));
        let tick = clock.observe_awaited(secs(90_000), secs(89_000));
        assert_eq!((tick.elapsed, tick.doubted), (Span::from_secs(89_000), None));
    }

    #[test]
    fn going_back_and_forth_makes_no_time() {
        // Two callers whose clocks differ by five seconds: the first return may be time that passed, no other.
        let mut clock = Clock::new(secs(1_000));
        for second in 1..=100 {
            clock.observe(secs(1_000 + second));
            clock.observe(secs(995 + second));
        }
        assert_eq!(clock.now(), secs(1_105));
        // Readings that threads took in one order and gave in the other.
        let mut clock = Clock::new(secs(1_000));
        for micros in [5, 3, 4, 6, 2, 9, 8, 10] {
            clock.observe(secs(1_000) + Span::from_micros(micros));
        }
        assert_eq!(clock.now(), secs(1_000) + Span::from_micros(10));
    }

    #[test]
    fn after_a_step_back_the_first_reading_counts_however_far_it_is() {
        for step in [1, 12, 45, 59, 599] {
            for gap in [2, 20, 60, 3_600] {
                let mut clock = Clock::new(secs(2_000));
                clock.observe(secs(2_000 - step));
                clock.observe(secs(2_000 - step + gap));
                assert_eq!(clock.now(), secs(2_000 + gap), "step {step}, gap {gap}");
            }
        }
    }

    #[test]
    fn no_reading_stops_a_clock() {
        for wary in [false, true] {
            let mut clock =
                if wary { Clock::wary(secs(1_000), Span::from_secs(3_600)) } else { Clock::new(secs(1_000)) };
            for wild in [Timestamp::MAX, Timestamp::EPOCH, Timestamp::from_nanos(u64::MAX - 1), secs(9_000_000_000)] {
                clock.observe(wild);
                clock.observe(secs(2_000));
                clock.observe(secs(2_002));
                let before = clock.now();
                clock.observe(secs(2_003));
                assert_eq!(clock.now().since(before), Span::from_secs(1), "{wild:?}, wary {wary}");
            }
        }
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
