//! Several limiters as one: of all of them tokens are taken, or of none.

use std::sync::MutexGuard;

use libgateway::error::InputError;
use libgateway::{KeyedRateLimiter, RateLimiter, Timestamp, WindowLimiter};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::calling::Calling;
use crate::convert::{Moment, or_now};
use crate::errors::{Raise, own_class, wrong_type};
use crate::guard::Unusable;
use crate::limiter::{PyAnswer, PyKeyedRateLimiter, PyRateLimiter, PyWindowLimiter};

/// Limiters that are asked together: tokens are taken of all of them at one instant, or of none.
///
/// Where one of them is a ``KeyedRateLimiter`` each call names a ``key``, which is that of all keyed ones.
#[pyclass(module = "libgateway._native", name = "CombinedLimiter", frozen, subclass)]
pub(crate) struct PyCombinedLimiter {
    parts: Vec<Part>,
    keyed: bool,
}

enum Part {
    Bucket(Py<PyRateLimiter>),
    Keyed(Py<PyKeyedRateLimiter>),
    Window(Py<PyWindowLimiter>),
}

/// A part while it is locked.
enum Held<'a> {
    Bucket(MutexGuard<'a, RateLimiter>),
    Keyed(MutexGuard<'a, KeyedRateLimiter<String>>),
    Window(MutexGuard<'a, WindowLimiter>),
}

#[crate::argument::named]
#[pymethods]
impl PyCombinedLimiter {
    #[new]
    #[pyo3(signature = (*limiters))]
    fn new(py: Python<'_>, limiters: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let mut parts = limiters.iter().map(|limiter| Part::of(&limiter)).collect::<PyResult<Vec<_>>>()?;
        if parts.is_empty() {
            return Err(InputError::Empty { field: "limiters" }.raise(py));
        }
        // All locks are taken in one order, so that nobody waits in a circle.
        parts.sort_by_key(Part::place);
        if parts.windows(2).any(|pair| matches!(pair, [one, other] if one.place() == other.place())) {
            return Err(InputError::Repeated { field: "limiters" }.raise(py));
        }
        let keyed = parts.iter().any(|part| matches!(part, Part::Keyed(_)));
        Ok(Self { parts, keyed })
    }

    /// Takes ``cost`` tokens of each limiter, or of none and says when. ``remaining`` is that of the scarcest.
    #[pyo3(signature = (cost=1, *, key=None, now_ns=None))]
    fn try_acquire(&self, py: Python<'_>, cost: u64, key: Option<&str>, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let (key, now) = (self.key(py, key)?, or_now(now_ns));
        self.held(py, |parts| {
            let answer = peek(parts, key, cost, now);
            if !answer.allowed() {
                return answer;
            }
            let taken = parts.iter_mut().map(|part| part.try_acquire(key, cost, now)).reduce(PyAnswer::and);
            taken.unwrap_or(answer)
        })
    }

    /// What ``try_acquire`` would answer.
    #[pyo3(signature = (cost=1, *, key=None, now_ns=None))]
    fn peek(&self, py: Python<'_>, cost: u64, key: Option<&str>, now_ns: Option<Moment>) -> PyResult<PyAnswer> {
        let (key, now) = (self.key(py, key)?, or_now(now_ns));
        self.held(py, |parts| peek(parts, key, cost, now))
    }

    /// Gives ``cost`` tokens back to each limiter.
    #[pyo3(signature = (cost=1, *, key=None, now_ns=None))]
    fn refund(&self, py: Python<'_>, cost: u64, key: Option<&str>, now_ns: Option<Moment>) -> PyResult<()> {
        let (key, now) = (self.key(py, key)?, or_now(now_ns));
        self.held(py, |parts| parts.iter_mut().for_each(|part| part.refund(key, cost, now)))
    }

    /// Whole tokens there are of each limiter.
    #[pyo3(signature = (*, key=None, now_ns=None))]
    fn available(&self, py: Python<'_>, key: Option<&str>, now_ns: Option<Moment>) -> PyResult<u64> {
        let (key, now) = (self.key(py, key)?, or_now(now_ns));
        self.held(py, |parts| parts.iter().map(|part| part.available(key, now)).min().unwrap_or(0))
    }

    /// The limiters, in no particular order.
    #[getter]
    fn limiters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.parts.iter().map(|part| part.object(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.parts.iter().try_for_each(|part| match part {
            Part::Bucket(own) => visit.call(own),
            Part::Keyed(own) => visit.call(own),
            Part::Window(own) => visit.call(own),
        })
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let _calling = Calling::begin(py);
        let parts =
            self.parts.iter().map(|part| Ok(part.object(py).repr()?.to_string())).collect::<PyResult<Vec<_>>>()?;
        Ok(format!("<CombinedLimiter of {}>", parts.join(", ")))
    }
}

impl PyCombinedLimiter {
    fn key<'a>(&self, py: Python<'_>, key: Option<&'a str>) -> PyResult<&'a str> {
        let wrong = |message| Err(own_class(py, "WrongTypeError", message, "key"));
        match (key, self.keyed) {
            (Some(key), true) => Ok(key),
            (None, false) => Ok(""),
            (None, true) => wrong("key is missing: one of the limiters has keys"),
            (Some(_), false) => wrong("key is one too many: none of the limiters has keys"),
        }
    }

    /// Runs `body` with all parts locked. It sees no Python: see [`Guarded::try_hold`]. Where somebody else is at one of them,
    /// all are given back, and taken again without the interpreter.
    ///
    /// [`Guarded::try_hold`]: crate::guard::Guarded::try_hold
    fn held<R: Send>(&self, py: Python<'_>, body: impl Send + FnOnce(&mut [Held<'_>]) -> R) -> PyResult<R> {
        let at_once: Option<Result<Vec<_>, Unusable>> = self.parts.iter().map(Part::try_hold).collect();
        let done = match at_once {
            Some(held) => held.map(|mut held| body(&mut held)),
            None => py.detach(|| {
                let held: Result<Vec<_>, Unusable> = self.parts.iter().map(Part::hold).collect();
                held.map(|mut held| body(&mut held))
            }),
        };
        done.map_err(|unusable| unusable.raise(py))
    }
}

impl Part {
    fn of(limiter: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(own) = limiter.cast::<PyRateLimiter>() {
            return Ok(Self::Bucket(own.clone().unbind()));
        }
        if let Ok(own) = limiter.cast::<PyKeyedRateLimiter>() {
            return Ok(Self::Keyed(own.clone().unbind()));
        }
        match limiter.cast::<PyWindowLimiter>() {
            Ok(own) => Ok(Self::Window(own.clone().unbind())),
            Err(_) => Err(wrong_type(limiter, "limiters", "a RateLimiter, a KeyedRateLimiter or a WindowLimiter")),
        }
    }

    fn place(&self) -> usize {
        match self {
            Self::Bucket(own) => own.get().0.place(),
            Self::Keyed(own) => own.get().0.place(),
            Self::Window(own) => own.get().0.place(),
        }
    }

    fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Bucket(own) => own.bind(py).clone().into_any(),
            Self::Keyed(own) => own.bind(py).clone().into_any(),
            Self::Window(own) => own.bind(py).clone().into_any(),
        }
    }

    fn try_hold(&self) -> Option<Result<Held<'_>, Unusable>> {
        Some(match self {
            Self::Bucket(own) => own.get().0.try_hold()?.map(Held::Bucket),
            Self::Keyed(own) => own.get().0.try_hold()?.map(Held::Keyed),
            Self::Window(own) => own.get().0.try_hold()?.map(Held::Window),
        })
    }

    fn hold(&self) -> Result<Held<'_>, Unusable> {
        match self {
            Self::Bucket(own) => own.get().0.hold().map(Held::Bucket),
            Self::Keyed(own) => own.get().0.hold().map(Held::Keyed),
            Self::Window(own) => own.get().0.hold().map(Held::Window),
        }
    }
}

impl Held<'_> {
    fn peek(&mut self, key: &str, cost: u64, now: Timestamp) -> PyAnswer {
        let answer = match self {
            Self::Bucket(own) => own.peek(cost, now).into(),
            Self::Keyed(own) => own.peek(key, cost, now),
            Self::Window(own) => own.peek(cost, now).into(),
        };
        PyAnswer::of(answer, now, || self.available(key, now))
    }

    fn try_acquire(&mut self, key: &str, cost: u64, now: Timestamp) -> PyAnswer {
        let answer = match self {
            Self::Bucket(own) => own.try_acquire(cost, now).into(),
            Self::Keyed(own) => own.try_acquire(key, cost, now),
            Self::Window(own) => own.try_acquire(cost, now).into(),
        };
        PyAnswer::of(answer, now, || self.available(key, now))
    }

    fn refund(&mut self, key: &str, cost: u64, now: Timestamp) {
        match self {
            Self::Bucket(own) => own.refund(cost),
            Self::Keyed(own) => own.refund(key, cost),
            Self::Window(own) => own.refund(cost, now),
        }
    }

    fn available(&self, key: &str, now: Timestamp) -> u64 {
        match self {
            Self::Bucket(own) => own.available(now),
            Self::Keyed(own) => own.available(key, now),
            Self::Window(own) => own.available(now),
        }
    }
}

/// What all would answer. Where one denies nothing is taken of the others either, and what is left is what there is.
fn peek(parts: &mut [Held<'_>], key: &str, cost: u64, now: Timestamp) -> PyAnswer {
    let answers = parts.iter_mut().map(|part| part.peek(key, cost, now)).reduce(PyAnswer::and);
    let answer = answers.unwrap_or_else(|| PyAnswer::nothing(now));
    if answer.allowed() {
        return answer;
    }
    answer.leaving(parts.iter().map(|part| part.available(key, now)).min().unwrap_or(0))
}
