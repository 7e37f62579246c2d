//! Token buckets: one, and one for each key.

use libgateway::{KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig, RateLimiter, Span, Timestamp, WindowLimiter};
use pyo3::prelude::*;

use crate::convert::{Moment, Seconds, or_now};
use crate::errors::OrRaise;
use crate::guard::Guarded;
use crate::number::PerSecond;
use crate::policy::{PyRateLimit, PyWindowLimit, WindowArg, limit_of, window_of};
use crate::values::ToPy;

/// Whether tokens were taken: true if they were.
///
/// >>> from libgateway import RateLimiter
/// >>> limiter = RateLimiter(per_second=10, burst=1, now_ns=0)
/// >>> limiter.try_acquire(now_ns=0)
/// <Answer allow, 0 remaining>
/// >>> answer = limiter.try_acquire(now_ns=0)
/// >>> bool(answer), answer.until_ns, answer.retry_after
/// (False, 100000000, 1)
/// >>> limiter = RateLimiter(per_second=10, burst=8, now_ns=0)
/// >>> limiter.try_acquire(5, now_ns=0).remaining, limiter.try_acquire(5, now_ns=0).remaining
/// (3, 3)
#[pyclass(module = "libgateway", name = "Answer", frozen, weakref, eq, hash)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PyAnswer {
    kind: Kind,
    remaining: u64,
    until: Timestamp,
    now: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Allow,
    Deny,
    Never,
    Full,
    Shared,
}

impl Kind {
    /// Of answers that are given together the weightiest stands: never, not yet, allowed.
    fn weight(self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::Shared => 1,
            Self::Deny | Self::Full => 2,
            Self::Never => 3,
        }
    }
}

impl PyAnswer {
    /// An answer of an instant. `left` says how many tokens there are where none were taken.
    #[inline]
    pub(crate) fn of(answer: KeyedAcquire, now: Timestamp, left: impl FnOnce() -> u64) -> Self {
        let (kind, remaining, until) = match answer {
            KeyedAcquire::Allow { remaining } => (Kind::Allow, remaining, now),
            KeyedAcquire::Shared { remaining } => (Kind::Shared, remaining, now),
            KeyedAcquire::Deny { until } => (Kind::Deny, left(), until),
            KeyedAcquire::Never => (Kind::Never, left(), Timestamp::MAX),
            KeyedAcquire::Full { until } => (Kind::Full, 0, until),
        };
        Self { kind, remaining, until, now }
    }

    /// Both together: what must wait longer decides, and there is as much as of the scarcer one.
    pub(crate) fn and(self, other: Self) -> Self {
        let first = (other.kind.weight(), other.until) > (self.kind.weight(), self.until);
        let decides = if first { other } else { self };
        Self { remaining: self.remaining.min(other.remaining), ..decides }
    }

    /// Of no tokens at all, which are always there.
    pub(crate) fn nothing(now: Timestamp) -> Self {
        Self { kind: Kind::Allow, remaining: 0, until: now, now }
    }

    /// The same answer with so many tokens left.
    pub(crate) fn leaving(self, remaining: u64) -> Self {
        Self { remaining, ..self }
    }

    pub(crate) fn allowed(&self) -> bool {
        matches!(self.kind, Kind::Allow | Kind::Shared)
    }

    fn wait(&self) -> Option<Span> {
        let never = self.kind == Kind::Never || (self.kind == Kind::Full && self.until == Timestamp::MAX);
        (!never).then(|| self.until.since(self.now))
    }
}

#[crate::argument::named]
#[pymethods]
impl PyAnswer {
    fn __bool__(&self) -> bool {
        self.allowed()
    }

    /// ``allow``, ``deny`` (not yet), ``never`` (the cost is above the burst); and of a new key that a keyed limiter has no
    /// room for ``shared`` (allowed, of the bucket that such keys share) or ``full`` (not yet).
    #[getter]
    fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Allow => "allow",
            Kind::Deny => "deny",
            Kind::Never => "never",
            Kind::Full => "full",
            Kind::Shared => "shared",
        }
    }

    /// Whole tokens left: after what was taken, or as they are where nothing was. Of a new key that there is no room for
    /// they are those of the bucket that such keys share, and 0 where that denies.
    #[getter]
    fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The first nanosecond at which the same call is allowed; ``None``: never.
    #[getter]
    fn until_ns(&self) -> Option<u64> {
        self.wait().map(|_| self.until.as_nanos())
    }

    /// How long to wait in whole seconds, rounded up, as the header wants it: 0 if allowed, ``None``: forever.
    #[getter]
    fn retry_after(&self) -> Option<u64> {
        self.wait().map(Span::as_secs_ceil)
    }

    /// The same in nanoseconds, exactly.
    #[getter]
    fn retry_after_ns(&self) -> Option<u64> {
        self.wait().map(Span::as_nanos)
    }

    fn __repr__(&self) -> String {
        match (self.kind, self.wait()) {
            (Kind::Allow | Kind::Shared, _) => format!("<Answer {}, {} remaining>", self.kind(), self.remaining),
            (_, Some(wait)) => format!("<Answer {}, retry after {wait}>", self.kind()),
            (_, None) => format!("<Answer {}>", self.kind()),
        }
    }
}

/// One token bucket. It starts full.
#[pyclass(module = "libgateway._native", name = "RateLimiter", frozen, subclass)]
pub(crate) struct PyRateLimiter(pub(crate) Guarded<RateLimiter>);

#[crate::argument::named]
#[pymethods]
impl PyRateLimiter {
    #[new]
    #[pyo3(signature = (limit=None, *, per_second=None, amount=None, per=None, burst=None, now_ns=None))]
    fn new(
        py: Python<'_>,
        limit: Option<&Bound<'_, PyRateLimit>>,
        per_second: Option<PerSecond>,
        amount: Option<u64>,
        per: Option<Seconds>,
        burst: Option<u64>,
        now_ns: Option<Moment>,
    ) -> PyResult<Self> {
        let limit = limit_of(py, limit, per_second, amount, per, burst)?;
        Ok(Self(Guarded::new(RateLimiter::new(limit, or_now(now_ns)))))
    }

    /// Takes ``cost`` tokens, or says when. A cost of 0 is always allowed.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn try_acquire(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| {
            let answer = limiter.try_acquire(cost, now);
            PyAnswer::of(answer.into(), now, || limiter.available(now))
        })
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn peek(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| {
            let answer = limiter.peek(cost, now);
            PyAnswer::of(answer.into(), now, || limiter.available(now))
        })
    }

    /// Gives ``cost`` tokens back, up to the burst.
    #[pyo3(signature = (cost=1))]
    fn refund(&self, py: Python<'_>, cost: u64) -> PyResult<()> {
        self.0.with(py, |limiter| limiter.refund(cost))
    }

    /// Whole tokens there are.
    #[pyo3(signature = (*, now_ns=None))]
    fn available(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<u64> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| limiter.available(now))
    }

    /// What the rate limit headers say, a ``RateHeaders``.
    #[pyo3(signature = (*, now_ns=None))]
    fn headers<'py>(&self, py: Python<'py>, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyAny>> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| limiter.headers(now))?.to_py(py)
    }

    /// The limit.
    #[getter]
    fn limit(&self, py: Python<'_>) -> PyResult<PyRateLimit> {
        self.0.with(py, |limiter| *limiter.limit()).map(PyRateLimit)
    }

    /// Changes the limit. The tokens there are stay, up to the new burst.
    #[pyo3(signature = (limit, *, now_ns=None))]
    fn set_limit(&self, py: Python<'_>, limit: &Bound<'_, PyRateLimit>, now_ns: Option<Moment>) -> PyResult<()> {
        let (limit, now) = (limit.get().0, or_now(now_ns));
        self.0.with(py, |limiter| limiter.set_limit(limit, now))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let limit = self.0.with(py, |limiter| *limiter.limit())?;
        Ok(format!("<RateLimiter of {}>", PyRateLimit(limit).__repr__()))
    }
}

/// A token bucket for each of a bounded number of keys, full when first seen.
///
/// While there is no room for a new key, new keys share one bucket: of the limit ``overflow``, or of that of a hundredth of
/// ``keys_max`` keys. A key that has called again keeps its room for ``known_for`` after its last call, up to half of all do.
#[pyclass(module = "libgateway._native", name = "KeyedRateLimiter", frozen, subclass)]
pub(crate) struct PyKeyedRateLimiter(pub(crate) Guarded<KeyedRateLimiter<String>>);

#[crate::argument::named]
#[pymethods]
impl PyKeyedRateLimiter {
    #[new]
    #[pyo3(signature = (limit=None, *, per_second=None, amount=None, per=None, burst=None, keys_max=KeyedRateLimiterConfig::default().keys_max, overflow=None,
                        known_for=Seconds(KeyedRateLimiterConfig::default().known_for), seed=None, now_ns=None),
        text_signature = "(limit=None, *, per_second=None, amount=None, per=None, burst=None, keys_max=100000, \
                        overflow=None, known_for=600, seed=None, now_ns=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        limit: Option<&Bound<'_, PyRateLimit>>,
        per_second: Option<PerSecond>,
        amount: Option<u64>,
        per: Option<Seconds>,
        burst: Option<u64>,
        keys_max: u32,
        overflow: Option<&Bound<'_, PyRateLimit>>,
        known_for: Seconds,
        seed: Option<u64>,
        now_ns: Option<Moment>,
    ) -> PyResult<Self> {
        let limit = limit_of(py, limit, per_second, amount, per, burst)?;
        let seed = seed.map_or_else(|| crate::ids::fresh(py).map(|id| id.as_u128() as u64), Ok)?;
        let mut config = KeyedRateLimiterConfig::default().limit(limit).keys_max(keys_max).seed(seed);
        config = config.known_for(known_for.0);
        config.overflow = overflow.map(|limit| limit.get().0);
        let limiter = KeyedRateLimiter::new(config, or_now(now_ns)).or_raise(py)?;
        Ok(Self(Guarded::new(limiter)))
    }

    /// Takes ``cost`` tokens of ``key``, or says when. A cost of 0 is always allowed and remembers no key.
    #[pyo3(signature = (key, cost=1, *, now_ns=None))]
    fn try_acquire(&self, py: Python<'_>, key: &str, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| {
            let answer = limiter.try_acquire(key, cost, now);
            PyAnswer::of(answer, now, || limiter.available(key, now))
        })
    }

    /// Takes ``cost`` tokens of each key, one after the other, and answers in a list.
    #[pyo3(signature = (keys, cost=1, *, now_ns=None))]
    fn try_acquire_many(
        &self,
        py: Python<'_>,
        keys: Vec<String>,
        cost: u64,
        now_ns: Option<Moment>,
    ) -> PyResult<Vec<PyAnswer>> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| {
            let take = |key: &String| {
                let answer = limiter.try_acquire(key.as_str(), cost, now);
                PyAnswer::of(answer, now, || limiter.available(key.as_str(), now))
            };
            keys.iter().map(take).collect()
        })
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (key, cost=1, *, now_ns=None))]
    fn peek(&self, py: Python<'_>, key: &str, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| {
            let answer = limiter.peek(key, cost, now);
            PyAnswer::of(answer, now, || limiter.available(key, now))
        })
    }

    /// Gives ``cost`` tokens of ``key`` back, up to the burst.
    #[pyo3(signature = (key, cost=1))]
    fn refund(&self, py: Python<'_>, key: &str, cost: u64) -> PyResult<()> {
        self.0.with(py, |limiter| limiter.refund(key, cost))
    }

    /// Whole tokens ``key`` has.
    #[pyo3(signature = (key, *, now_ns=None))]
    fn available(&self, py: Python<'_>, key: &str, now_ns: Option<Moment>) -> PyResult<u64> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| limiter.available(key, now))
    }

    /// What the rate limit headers for ``key`` say, a ``RateHeaders``.
    #[pyo3(signature = (key, *, now_ns=None))]
    fn headers<'py>(&self, py: Python<'py>, key: &str, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyAny>> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| limiter.headers(key, now))?.to_py(py)
    }

    /// The limit of each key.
    #[getter]
    fn limit(&self, py: Python<'_>) -> PyResult<PyRateLimit> {
        self.0.with(py, |limiter| limiter.config().limit).map(PyRateLimit)
    }

    /// Changes the limit of all keys. A key keeps the tokens it has, up to the new burst.
    #[pyo3(signature = (limit, *, now_ns=None))]
    fn set_limit(&self, py: Python<'_>, limit: &Bound<'_, PyRateLimit>, now_ns: Option<Moment>) -> PyResult<()> {
        let (limit, now) = (limit.get().0, or_now(now_ns));
        self.0.with(py, |limiter| limiter.set_limit(limit, now))
    }

    /// Forgets a key, which is full from then on. Says whether it was remembered.
    fn remove(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        self.0.with(py, |limiter| limiter.remove(key))
    }

    fn __bool__(&self) -> bool {
        true
    }

    /// How many keys are remembered.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.with(py, |limiter| limiter.len())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (limit, keys) = self.0.with(py, |limiter| (limiter.config().limit, limiter.len()))?;
        Ok(format!("<KeyedRateLimiter of {}, {keys} keys>", PyRateLimit(limit).__repr__()))
    }
}

/// A strict limit: at most ``amount`` tokens in any stretch of time of length ``per``, wherever it begins.
///
/// A bucket lets as many more through as it keeps; this does not. It keeps an instant for each token, so ``amount`` is at most
/// 65536.
#[pyclass(module = "libgateway._native", name = "WindowLimiter", frozen, subclass)]
pub(crate) struct PyWindowLimiter(pub(crate) Guarded<WindowLimiter>);

#[crate::argument::named]
#[pymethods]
impl PyWindowLimiter {
    #[new]
    #[pyo3(signature = (amount, per=None, *, now_ns=None))]
    fn new(py: Python<'_>, amount: WindowArg<'_>, per: Option<Seconds>, now_ns: Option<Moment>) -> PyResult<Self> {
        let limit = window_of(py, amount, per)?;
        Ok(Self(Guarded::new(WindowLimiter::new(limit, or_now(now_ns)))))
    }

    /// Takes ``cost`` tokens, or says when. A cost of 0 is always allowed.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn try_acquire(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| {
            let answer = limiter.try_acquire(cost, now);
            PyAnswer::of(answer.into(), now, || limiter.available(now))
        })
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn peek(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| {
            let answer = limiter.peek(cost, now);
            PyAnswer::of(answer.into(), now, || limiter.available(now))
        })
    }

    /// Gives ``cost`` tokens back. The oldest go, so that no window has more than its amount of those that stay.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn refund(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<()> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| limiter.refund(cost, now))
    }

    /// Tokens that may be taken.
    #[pyo3(signature = (*, now_ns=None))]
    fn available(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<u64> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| limiter.available(now))
    }

    /// What the rate limit headers say, a ``RateHeaders``; the reset is when the window is empty.
    #[pyo3(signature = (*, now_ns=None))]
    fn headers<'py>(&self, py: Python<'py>, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyAny>> {
        let now = or_now(now_ns);
        self.0.with(py, |limiter| limiter.headers(now))?.to_py(py)
    }

    /// Changes the limit. What was taken stays taken: under a lower amount nothing is allowed until enough has left.
    #[pyo3(signature = (amount, per=None, *, now_ns=None))]
    fn set_limit(
        &self,
        py: Python<'_>,
        amount: WindowArg<'_>,
        per: Option<Seconds>,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let (limit, now) = (window_of(py, amount, per)?, or_now(now_ns));
        self.0.with(py, |limiter| limiter.set_limit(limit, now))
    }

    /// The limit.
    #[getter]
    fn limit(&self, py: Python<'_>) -> PyResult<PyWindowLimit> {
        self.0.with(py, |limiter| *limiter.limit()).map(PyWindowLimit)
    }

    /// The most tokens of a window.
    #[getter]
    fn amount(&self, py: Python<'_>) -> PyResult<u32> {
        self.0.with(py, |limiter| limiter.limit().amount())
    }

    /// The length of the window in nanoseconds.
    #[getter]
    fn per_ns(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.with(py, |limiter| limiter.limit().per().as_nanos())
    }

    /// The next instant at which more may be taken than before; ``None`` where the window is empty.
    #[getter]
    fn next_deadline_ns(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.0.with(py, |limiter| limiter.next_deadline())?.map(Timestamp::as_nanos))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let limit = self.0.with(py, |limiter| *limiter.limit())?;
        Ok(format!("<WindowLimiter of {} in any {}>", limit.amount(), limit.per()))
    }
}
