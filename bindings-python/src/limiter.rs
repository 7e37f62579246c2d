//! Token buckets: one, and one for each key.

use libgateway::{Acquire, KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig, RateLimiter, Span, Timestamp};
use pyo3::prelude::*;

use crate::convert::{Moment, Seconds, or_now};
use crate::errors::OrRaise;
use crate::guard::Guarded;
use crate::policy::{PyRateLimit, rate_of};
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
    remaining: u32,
    until: Timestamp,
    now: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Allow,
    Deny,
    Never,
    Full,
}

impl PyAnswer {
    #[inline]
    fn of(answer: KeyedAcquire, now: Timestamp) -> Self {
        let (kind, remaining, until) = match answer {
            KeyedAcquire::Allow { remaining } => (Kind::Allow, remaining, now),
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

#[pymethods]
impl PyAnswer {
    fn __bool__(&self) -> bool {
        self.kind == Kind::Allow
    }

    /// ``allow``, ``deny`` (not yet), ``never`` (the cost is above the burst) or ``full`` (no room for a new key).
    #[getter]
    fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Allow => "allow",
            Kind::Deny => "deny",
            Kind::Never => "never",
            Kind::Full => "full",
        }
    }

    /// Whole tokens left; 0 where none were taken.
    #[getter]
    fn remaining(&self) -> u32 {
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
            (Kind::Allow, _) => format!("<Answer allow, {} remaining>", self.remaining),
            (_, Some(wait)) => format!("<Answer {}, retry after {wait}>", self.kind()),
            (_, None) => format!("<Answer {}>", self.kind()),
        }
    }
}

/// One token bucket. It starts full.
#[pyclass(module = "libgateway._native", name = "RateLimiter", frozen, subclass)]
pub(crate) struct PyRateLimiter(Guarded<RateLimiter>);

#[pymethods]
impl PyRateLimiter {
    #[new]
    #[pyo3(signature = (limit=None, *, per_second=None, amount=None, per=None, burst=None, now_ns=None))]
    fn new(
        py: Python<'_>,
        limit: Option<&Bound<'_, PyRateLimit>>,
        per_second: Option<u32>,
        amount: Option<u32>,
        per: Option<Seconds>,
        burst: Option<u32>,
        now_ns: Option<Moment>,
    ) -> PyResult<Self> {
        let limit = limit.map_or_else(|| rate_of(py, per_second, amount, per, burst), |limit| Ok(limit.get().0))?;
        Ok(Self(Guarded::new(RateLimiter::new(limit, or_now(now_ns)))))
    }

    /// Takes ``cost`` tokens, or says when. A cost of 0 is always allowed.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn try_acquire(&self, py: Python<'_>, cost: u32, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        let answer = self.0.with(py, |limiter| limiter.try_acquire(cost, now))?;
        Ok(PyAnswer::of(keyed(answer), now))
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (cost=1, *, now_ns=None))]
    fn peek(&self, py: Python<'_>, cost: u32, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        let answer = self.0.with(py, |limiter| limiter.peek(cost, now))?;
        Ok(PyAnswer::of(keyed(answer), now))
    }

    /// Gives ``cost`` tokens back, up to the burst.
    #[pyo3(signature = (cost=1))]
    fn refund(&self, py: Python<'_>, cost: u32) -> PyResult<()> {
        self.0.with(py, |limiter| limiter.refund(cost))
    }

    /// Whole tokens there are.
    #[pyo3(signature = (*, now_ns=None))]
    fn available(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<u32> {
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
#[pyclass(module = "libgateway._native", name = "KeyedRateLimiter", frozen, subclass)]
pub(crate) struct PyKeyedRateLimiter(Guarded<KeyedRateLimiter<String>>);

#[pymethods]
impl PyKeyedRateLimiter {
    #[new]
    #[pyo3(signature = (limit=None, *, per_second=None, amount=None, per=None, burst=None, keys_max=100_000, seed=None,
                        now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        limit: Option<&Bound<'_, PyRateLimit>>,
        per_second: Option<u32>,
        amount: Option<u32>,
        per: Option<Seconds>,
        burst: Option<u32>,
        keys_max: u32,
        seed: Option<u64>,
        now_ns: Option<Moment>,
    ) -> PyResult<Self> {
        let limit = limit.map_or_else(|| rate_of(py, per_second, amount, per, burst), |limit| Ok(limit.get().0))?;
        let seed = seed.map_or_else(|| crate::ids::fresh(py).map(|id| id.as_u128() as u64), Ok)?;
        let config = KeyedRateLimiterConfig::default().limit(limit).keys_max(keys_max).seed(seed);
        let limiter = KeyedRateLimiter::new(config, or_now(now_ns)).or_raise(py)?;
        Ok(Self(Guarded::new(limiter)))
    }

    /// Takes ``cost`` tokens of ``key``, or says when. A cost of 0 is always allowed and remembers no key.
    #[pyo3(signature = (key, cost=1, *, now_ns=None))]
    fn try_acquire(&self, py: Python<'_>, key: &str, cost: u32, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        Ok(PyAnswer::of(self.0.with(py, |limiter| limiter.try_acquire(key, cost, now))?, now))
    }

    /// Takes ``cost`` tokens of each key, one after the other, and answers in a list.
    #[pyo3(signature = (keys, cost=1, *, now_ns=None))]
    fn try_acquire_many(
        &self,
        py: Python<'_>,
        keys: Vec<String>,
        cost: u32,
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
    fn peek(&self, py: Python<'_>, key: &str, cost: u32, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let now = or_now(now_ns);
        Ok(PyAnswer::of(self.0.with(py, |limiter| limiter.peek(key, cost, now))?, now))
    }

    /// Gives ``cost`` tokens of ``key`` back, up to the burst.
    #[pyo3(signature = (key, cost=1))]
    fn refund(&self, py: Python<'_>, key: &str, cost: u32) -> PyResult<()> {
        self.0.with(py, |limiter| limiter.refund(key, cost))
    }

    /// Whole tokens ``key`` has.
    #[pyo3(signature = (key, *, now_ns=None))]
    fn available(&self, py: Python<'_>, key: &str, now_ns: Option<Moment>) -> PyResult<u32> {
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

#[inline]
fn keyed(answer: Acquire) -> KeyedAcquire {
    answer.into()
}
