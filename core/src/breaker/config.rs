//! What a breaker can be told, and the check that it makes sense.

use core::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::error::InputError;
use crate::time::Span;

/// When a [`CircuitBreaker`](crate::CircuitBreaker) opens, for how long, and what closes it again.
///
/// ```
/// use libgateway::{CircuitBreaker, CircuitBreakerConfig, Span, Timestamp};
/// let config = CircuitBreakerConfig::default().window(Span::from_secs(60)).buckets(6).open_for(Span::from_secs(15));
/// assert_eq!(config.failure_rate_ppm, 500_000);
/// assert!(CircuitBreaker::new(config, Timestamp::EPOCH).is_ok());
/// assert!(CircuitBreaker::new(config.buckets(0), Timestamp::EPOCH).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct CircuitBreakerConfig {
    /// How far back results are counted. Default 100 s. It slides in steps of one bucket, `window / buckets` rounded up
    /// to a nanosecond, and a result is forgotten when its bucket leaves: by default after 90 to 100 s.
    pub window: Span,
    /// Into how many buckets the window is cut: 1 (a tumbling window) to [`Self::BUCKETS_MAX`]. Default 10.
    pub buckets: u8,
    /// Share of failures among the results in the window that opens the breaker, in parts per million. Default 500 000.
    pub failure_rate_ppm: u32,
    /// Whether reaching the share opens, or only exceeding it. Default [`RateRule::AtLeast`].
    pub failure_rate_rule: RateRule,
    /// The share says nothing before this many results are in the window. Default 10.
    pub calls_min: NonZeroU32,
    /// This many failures in a row open the breaker, however few the calls are and however far apart: a dead backend
    /// with long calls may never have `calls_min` of them in the window. Default 5; `None` switches it off.
    pub consecutive_failures: Option<NonZeroU32>,
    /// How long the breaker stays open the first time. Default 60 s; [`Span::MAX`] is until it is forced.
    pub open_for: Span,
    /// What the open time is multiplied by each time a probe fails. Default 2; 1 switches growth off.
    pub open_for_factor: NonZeroU32,
    /// What the open time grows to at most. Default 10 min. Without growth it means nothing.
    pub open_for_max: Span,
    /// How many probes must succeed, one after the other, to close the breaker. Default 2.
    pub probes_to_close: NonZeroU32,
    /// After this time a probe without an answer counts as failed. Default 120 s. `None` is for callers whose calls
    /// always end, as a lease with a deadline does.
    pub probe_timeout: Option<Span>,
}

/// How a share is held against its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateRule {
    /// The threshold itself counts: `>=`.
    AtLeast,
    /// Only more than the threshold counts: `>`. Above 1 000 000 ppm is never, which switches the share off.
    Above,
}

impl CircuitBreakerConfig {
    /// Most buckets a window can have.
    pub const BUCKETS_MAX: u8 = 64;

    /// Sets [`Self::window`].
    #[must_use]
    pub const fn window(mut self, window: Span) -> Self {
        self.window = window;
        self
    }

    /// Sets [`Self::buckets`].
    #[must_use]
    pub const fn buckets(mut self, buckets: u8) -> Self {
        self.buckets = buckets;
        self
    }

    /// Sets [`Self::failure_rate_ppm`].
    #[must_use]
    pub const fn failure_rate_ppm(mut self, ppm: u32) -> Self {
        self.failure_rate_ppm = ppm;
        self
    }

    /// Sets [`Self::failure_rate_rule`].
    #[must_use]
    pub const fn failure_rate_rule(mut self, rule: RateRule) -> Self {
        self.failure_rate_rule = rule;
        self
    }

    /// Sets [`Self::calls_min`].
    #[must_use]
    pub const fn calls_min(mut self, calls: NonZeroU32) -> Self {
        self.calls_min = calls;
        self
    }

    /// Sets [`Self::consecutive_failures`].
    #[must_use]
    pub const fn consecutive_failures(mut self, failures: Option<NonZeroU32>) -> Self {
        self.consecutive_failures = failures;
        self
    }

    /// Sets [`Self::open_for`].
    #[must_use]
    pub const fn open_for(mut self, span: Span) -> Self {
        self.open_for = span;
        self
    }

    /// Sets [`Self::open_for_factor`].
    #[must_use]
    pub const fn open_for_factor(mut self, factor: NonZeroU32) -> Self {
        self.open_for_factor = factor;
        self
    }

    /// Sets [`Self::open_for_max`].
    #[must_use]
    pub const fn open_for_max(mut self, span: Span) -> Self {
        self.open_for_max = span;
        self
    }

    /// Sets [`Self::probes_to_close`].
    #[must_use]
    pub const fn probes_to_close(mut self, probes: NonZeroU32) -> Self {
        self.probes_to_close = probes;
        self
    }

    /// Sets [`Self::probe_timeout`].
    #[must_use]
    pub const fn probe_timeout(mut self, timeout: Option<Span>) -> Self {
        self.probe_timeout = timeout;
        self
    }

    /// # Errors
    /// The first field, in the order of their declaration, that cannot be.
    pub(super) fn validate(&self) -> Result<(), InputError> {
        let range = |field, value, min, max| {
            if value < min || value > max {
                return Err(InputError::OutOfRange { field, value, min, max });
            }
            Ok(())
        };
        range("window", self.window.as_nanos(), self.buckets.max(1).into(), u64::MAX)?;
        range("buckets", self.buckets.into(), 1, Self::BUCKETS_MAX.into())?;
        range("failure_rate_ppm", self.failure_rate_ppm.into(), 0, PPM)?;
        range("open_for", self.open_for.as_nanos(), 1, u64::MAX)?;
        if self.grows() && self.open_for_max < self.open_for {
            return Err(InputError::Contradiction { field: "open_for_max", other: "open_for" });
        }
        range("probe_timeout", self.probe_timeout.unwrap_or(Span::MAX).as_nanos(), 1, u64::MAX)
    }

    /// The length of one bucket, given a valid configuration.
    pub(super) fn bucket_span(&self) -> Span {
        Span::from_nanos(self.window.as_nanos().div_ceil(self.buckets.max(1).into()))
    }

    /// The time to stay open after `reopens` probes failed in a row.
    pub(super) fn open_span(&self, reopens: u32) -> Span {
        if !self.grows() {
            return self.open_for;
        }
        let growth = u64::from(self.open_for_factor.get()).saturating_pow(reopens);
        self.open_for.saturating_mul(growth).min(self.open_for_max)
    }

    /// Whether that many failures among that many calls open the breaker. Counts are below 2^38 each.
    pub(super) fn rate_opens(&self, calls: u64, failures: u64) -> bool {
        let share = failures.saturating_mul(PPM);
        let threshold = calls.saturating_mul(self.failure_rate_ppm.into());
        calls >= u64::from(self.calls_min.get())
            && match self.failure_rate_rule {
                RateRule::AtLeast => share >= threshold,
                RateRule::Above => share > threshold,
            }
    }

    fn grows(&self) -> bool {
        self.open_for_factor.get() > 1
    }
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        let count = |above_one| NonZeroU32::MIN.saturating_add(above_one);
        Self {
            window: Span::from_secs(100),
            buckets: 10,
            failure_rate_ppm: 500_000,
            failure_rate_rule: RateRule::AtLeast,
            calls_min: count(9),
            consecutive_failures: Some(count(4)),
            open_for: Span::from_secs(60),
            open_for_factor: count(1),
            open_for_max: Span::from_secs(600),
            probes_to_close: count(1),
            probe_timeout: Some(Span::from_secs(120)),
        }
    }
}

const PPM: u64 = 1_000_000;
