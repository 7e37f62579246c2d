//! Errors of the library as exceptions: the class is found by the number, so there is no second list here.

use std::fmt::Display;

use libgateway::error::{Coded, ErrorReply, LimitReply};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// What can go wrong at this edge alone. Numbers from 9000 on are the bindings' own.
#[derive(Clone, Copy)]
pub(crate) enum Own {
    /// Used in a forked child.
    Forked,
    /// The block of a lease ended without a word.
    NoResult,
}

/// An error that can be raised.
pub(crate) trait Raise {
    fn raise(&self, py: Python<'_>) -> PyErr;
}

/// A result whose error can be raised.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<E: Coded + Display> Raise for E {
    #[cold]
    fn raise(&self, py: Python<'_>) -> PyErr {
        let limit = self.limit().map(LimitReply::from);
        error(py, self.number(), &self.to_string(), self.field(), limit.as_ref())
    }
}

impl<T, E: Raise> OrRaise<T> for Result<T, E> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| error.raise(py))
    }
}

/// The exception of an error that came as data.
#[cold]
pub(crate) fn of_reply(py: Python<'_>, reply: &ErrorReply) -> PyErr {
    error(py, reply.number, &reply.message, reply.field.as_deref(), reply.limit.as_deref())
}

/// One of the bindings' own errors.
#[cold]
pub(crate) fn own(py: Python<'_>, what: Own) -> PyErr {
    match what {
        Own::Forked => error(py, 9001, "it was made in another process: make a new one after a fork", None, None),
        Own::NoResult => {
            error(py, 9002, "the block of the lease ended without complete, fail or release", Some("lease"), None)
        }
    }
}

fn error(py: Python<'_>, number: u16, message: &str, field: Option<&str>, limit: Option<&LimitReply>) -> PyErr {
    match instance(py, number, message, field, limit) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// The exception itself, for lists in which some entries failed.
pub(crate) fn instance<'py>(
    py: Python<'py>,
    number: u16,
    message: &str,
    field: Option<&str>,
    limit: Option<&LimitReply>,
) -> PyResult<Bound<'py, PyAny>> {
    let classes = CLASSES.get_or_try_init(py, || {
        let module = py.import("libgateway.errors")?;
        Ok::<_, PyErr>(module.getattr("BY_NUMBER")?.cast_into::<PyDict>()?.unbind())
    })?;
    let class = classes.bind(py).as_any().get_item(number)?;
    let message = PyString::new(py, message);
    match limit {
        Some(limit) => {
            let retry_at = limit.retry_at.map(libgateway::Timestamp::as_nanos);
            class.call1((message, field, &*limit.scope, limit.measured, limit.max, retry_at))
        }
        None => class.call1((message, field)),
    }
}

/// Every error number with its code, as the core lists them.
#[pyfunction]
pub(crate) fn error_codes() -> Vec<(u16, &'static str)> {
    libgateway::error::all().collect()
}
