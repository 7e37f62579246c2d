//! The circuit breaker.

use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use libgateway::{Admit, CircuitBreaker, ForcedState, Permit, Span, Timestamp};
use pyo3::prelude::*;

use crate::convert::{Moment, or_now};
use crate::errors::OrRaise;
use crate::guard::Guarded;
use crate::policy::PyBreakerConfig;
use crate::values::ToPy;
use crate::words::{In, Word};

/// What a breaker says to a call: true if it may be made. Give it back with the call's result.
#[pyclass(module = "libgateway", name = "Admit", frozen, weakref, eq)]
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct PyAdmit {
    admit: Admit,
    now: Timestamp,
}

#[crate::argument::named]
#[pymethods]
impl PyAdmit {
    fn __bool__(&self) -> bool {
        self.permit().is_some()
    }

    /// Whether the call is the one probe of a half-open breaker.
    #[getter]
    fn probe(&self) -> bool {
        matches!(self.admit, Admit::Probe(_))
    }

    /// When it is worth asking again, where the call was denied; ``None``: when somebody acts.
    #[getter]
    fn until_ns(&self) -> Option<u64> {
        self.denied_until().map(Timestamp::as_nanos)
    }

    /// How long to wait in whole seconds, rounded up: 0 if allowed, ``None`` where no instant will change the answer.
    #[getter]
    fn retry_after(&self) -> Option<u64> {
        if self.__bool__() {
            return Some(0);
        }
        self.denied_until().map(|until| until.since(self.now)).map(Span::as_secs_ceil)
    }

    fn __repr__(&self) -> String {
        match self.admit {
            Admit::Allow(_) => String::from("<Admit allow>"),
            Admit::Probe(_) => String::from("<Admit probe>"),
            Admit::Deny { until } if until == Timestamp::MAX => String::from("<Admit deny>"),
            Admit::Deny { until } => format!("<Admit deny, retry after {}>", until.since(self.now)),
        }
    }
}

impl PyAdmit {
    fn permit(&self) -> Option<Permit> {
        match self.admit {
            Admit::Allow(permit) | Admit::Probe(permit) => Some(permit),
            Admit::Deny { .. } => None,
        }
    }

    fn denied_until(&self) -> Option<Timestamp> {
        match self.admit {
            Admit::Deny { until } if until < Timestamp::MAX => Some(until),
            _ => None,
        }
    }
}

/// A circuit breaker round one callee: it keeps calls away from what fails.
#[pyclass(module = "libgateway._native", name = "CircuitBreaker", frozen, subclass)]
pub(crate) struct PyCircuitBreaker {
    core: Guarded<CircuitBreaker>,
    /// The latest instant it was told, in nanoseconds.
    latest: AtomicU64,
}

#[crate::argument::named]
#[pymethods]
impl PyCircuitBreaker {
    #[new]
    #[pyo3(signature = (config=None, *, now_ns=None))]
    fn new(py: Python<'_>, config: Option<&Bound<'_, PyBreakerConfig>>, now_ns: Option<Moment>) -> PyResult<Self> {
        let config = config.map(|config| config.get().0).unwrap_or_default();
        let now = or_now(now_ns);
        let core = Guarded::new(CircuitBreaker::new(config, now).or_raise(py)?);
        Ok(Self { core, latest: AtomicU64::new(now.as_nanos()) })
    }

    /// Asks for a call, and counts a denial.
    #[pyo3(signature = (*, now_ns=None))]
    fn admit(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<PyAdmit> {
        let now = self.now(now_ns);
        Ok(PyAdmit { admit: self.core.with(py, |breaker| breaker.admit(now))?, now })
    }

    /// Whether ``admit`` would let a call pass. It takes no probe's place and counts no denial.
    ///
    /// >>> from libgateway import BreakerConfig, CircuitBreaker
    /// >>> breaker = CircuitBreaker(BreakerConfig(consecutive_failures=1, open_for=60), now_ns=0)
    /// >>> breaker.failure(breaker.admit(now_ns=0), now_ns=0)
    /// True
    /// >>> breaker.would_admit(now_ns=59_999_999_999), breaker.would_admit(now_ns=60_000_000_000)
    /// (False, True)
    /// >>> breaker.admit(now_ns=60_000_000_000).probe, breaker.status(now_ns=60_000_000_000).rejected_total
    /// (True, 0)
    #[pyo3(signature = (*, now_ns=None))]
    fn would_admit(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<bool> {
        let now = self.now(now_ns);
        self.core.with(py, |breaker| noted(breaker, now).would_admit(now))
    }

    /// The call succeeded. Returns whether that counted: results of calls begun before the last change of state do not.
    #[pyo3(signature = (admit, *, now_ns=None))]
    fn success(&self, py: Python<'_>, admit: &Bound<'_, PyAdmit>, now_ns: Option<Moment>) -> PyResult<bool> {
        let (permit, now) = (admit.get().permit(), self.now(now_ns));
        self.core.with(py, |breaker| permit.is_some_and(|permit| breaker.handle_success(permit, now)))
    }

    /// The call failed or timed out. Returns whether that counted.
    #[pyo3(signature = (admit, *, now_ns=None))]
    fn failure(&self, py: Python<'_>, admit: &Bound<'_, PyAdmit>, now_ns: Option<Moment>) -> PyResult<bool> {
        let (permit, now) = (admit.get().permit(), self.now(now_ns));
        self.core.with(py, |breaker| permit.is_some_and(|permit| breaker.handle_failure(permit, now)))
    }

    /// The call was given up and nothing is known of the callee. Returns whether a probe's place became free.
    #[pyo3(signature = (admit, *, now_ns=None))]
    fn cancelled(&self, py: Python<'_>, admit: &Bound<'_, PyAdmit>, now_ns: Option<Moment>) -> PyResult<bool> {
        let (permit, now) = (admit.get().permit(), self.now(now_ns));
        self.core.with(py, |breaker| permit.is_some_and(|permit| breaker.handle_cancelled(permit, now)))
    }

    /// The state, a ``BreakerState``.
    #[pyo3(signature = (*, now_ns=None))]
    fn state<'py>(&self, py: Python<'py>, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyAny>> {
        let now = self.now(now_ns);
        self.core.with(py, |breaker| noted(breaker, now).state(now))?.member(py)
    }

    /// All there is to know, a ``BreakerStatus``.
    #[pyo3(signature = (*, now_ns=None))]
    fn status<'py>(&self, py: Python<'py>, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyAny>> {
        let now = self.now(now_ns);
        self.core.with(py, |breaker| noted(breaker, now).status(now))?.to_py(py)
    }

    /// Holds the breaker ``"open"`` or ``"closed"`` until an instant, or until ``release``. Returns false, and changes nothing,
    /// if the instant is not in the future.
    #[pyo3(signature = (state, *, until=None, now_ns=None))]
    fn force(
        &self,
        py: Python<'_>,
        state: In<ForcedState>,
        until: Option<Moment>,
        now_ns: Option<Moment>,
    ) -> PyResult<bool> {
        let (state, until, now) = (state.0, until.map(|until| until.0), self.now(now_ns));
        self.core.with(py, |breaker| breaker.force(state, until, now))
    }

    /// Ends a forced state before its time. Returns whether there was one.
    #[pyo3(signature = (*, now_ns=None))]
    fn release(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<bool> {
        let now = self.now(now_ns);
        self.core.with(py, |breaker| breaker.release(now))
    }

    /// When the state changes by itself, in nanoseconds.
    #[getter]
    fn next_deadline_ns(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.core.with(py, |breaker| breaker.next_deadline())?.map(Timestamp::as_nanos))
    }

    /// The latest instant it was told: where a block ends that was opened at a ``now_ns``.
    #[getter]
    fn _latest_ns(&self) -> u64 {
        self.latest.load(Atomic::Relaxed)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let now = or_now(None);
        let state = self.core.with(py, |breaker| breaker.state(now))?;
        Ok(format!("<CircuitBreaker {}>", state.word()))
    }
}

impl PyCircuitBreaker {
    /// The instant given, or that of the system clock; the blocks that keep to such instants end at the latest one.
    fn now(&self, now: Option<Moment>) -> Timestamp {
        let now = or_now(now);
        self.latest.store(now.as_nanos(), Atomic::Relaxed);
        now
    }
}

/// A question takes note of a step of the clock, too: somebody may ask nothing else.
fn noted(breaker: &mut CircuitBreaker, now: Timestamp) -> &CircuitBreaker {
    breaker.handle_timeout(now);
    breaker
}
