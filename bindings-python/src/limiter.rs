//! Token buckets: one, and one for each key.

use libgateway::{
    Acquire, KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig, RateLimiter, Span, Timestamp, WindowLimit,
    WindowLimiter,
};
use pyo3::prelude::*;

use crate::convert::{Moment, Seconds, or_now};
use crate::errors::OrRaise;
use crate::guard::Guarded;
use crate::number::PerSecond;
use crate::policy::{PyRateLimit, limit_of};
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
#[pyclass(module = "libgateway", name = "Answer", frozen, eq, hash)]
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

impl PyAnswer {
    #[inline]
    fn of(answer: KeyedAcquire, now: Timestamp) -> Self {
        let (kind, remaining, until) = match answer {
            KeyedAcquire::Allow { remaining } => (Kind::Allow, remaining, now),
            KeyedAcquire::Shared { remaining } => (Kind::Shared, remaining, now),
            KeyedAcquire::Deny { until } => (Kind::Deny, 0, until),
            KeyedAcquire::Never => (Kind::Never, 0, Timestamp::MAX),
            KeyedAcquire::Full { until } => (Kind::Full, 0, until),
        };
        Self { kind, remaining, until, now }
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
        matches!(self.kind, Kind::Allow | Kind::Shared)
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

    /// Whole tokens left; 0 where none were taken.
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
pub(crate) struct PyRateLimiter(Guarded<RateLimiter>);

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
        let answer = self.0.with(py, |limiter| limiter.try_acquire(cost, now))?;
        Ok(PyAnswer::of(keyed(answer), now))
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn peek(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        let answer = self.0.with(py, |limiter| limiter.peek(cost, now))?;
        Ok(PyAnswer::of(keyed(answer), now))
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
pub(crate) struct PyKeyedRateLimiter(Guarded<KeyedRateLimiter<String>>);

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
        Ok(PyAnswer::of(self.0.with(py, |limiter| limiter.try_acquire(key, cost, now))?, now))
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
        let answers = self.0.with(py, |limiter| {
            keys.iter().map(|key| limiter.try_acquire(key.as_str(), cost, now)).collect::<Vec<_>>()
        })?;
        Ok(answers.into_iter().map(|answer| PyAnswer::of(answer, now)).collect())
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (key, cost=1, *, now_ns=None))]
    fn peek(&self, py: Python<'_>, key: &str, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        Ok(PyAnswer::of(self.0.with(py, |limiter| limiter.peek(key, cost, now))?, now))
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
pub(crate) struct PyWindowLimiter(Guarded<WindowLimiter>);

#[crate::argument::named]
#[pymethods]
impl PyWindowLimiter {
    #[new]
    #[pyo3(signature = (amount, per, *, now_ns=None))]
    fn new(py: Python<'_>, amount: u32, per: Seconds, now_ns: Option<Moment>) -> PyResult<Self> {
        let limit = WindowLimit::new(amount, per.0).or_raise(py)?;
        Ok(Self(Guarded::new(WindowLimiter::new(limit, or_now(now_ns)))))
    }

    /// Takes ``cost`` tokens, or says when. A cost of 0 is always allowed.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn try_acquire(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        let answer = self.0.with(py, |limiter| limiter.try_acquire(cost, now))?;
        Ok(PyAnswer::of(keyed(answer), now))
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn peek(&self, py: Python<'_>, cost: u64, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        let answer = self.0.with(py, |limiter| limiter.peek(cost, now))?;
        Ok(PyAnswer::of(keyed(answer), now))
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
    #[pyo3(signature = (amount, per, *, now_ns=None))]
    fn set_limit(&self, py: Python<'_>, amount: u32, per: Seconds, now_ns: Option<Moment>) -> PyResult<()> {
        let (limit, now) = (WindowLimit::new(amount, per.0).or_raise(py)?, or_now(now_ns));
        self.0.with(py, |limiter| limiter.set_limit(limit, now))
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

#[inline]
fn keyed(answer: Acquire) -> KeyedAcquire {
    answer.into()
}
