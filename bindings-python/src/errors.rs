//! Errors of the library as exceptions: the class is found by the number, so there is no second list here.

use std::fmt::Display;

use libgateway::error::{Coded, ErrorReply, InputError, LimitReply};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::calling::{Calling, Kept};

static CLASSES: Kept<Py<PyDict>> = Kept::new();

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

/// The same error about a field of another name: that under which the caller gave it.
pub(crate) fn called(error: InputError, name: &'static str) -> InputError {
    match error {
        InputError::Empty { .. } => InputError::Empty { field: name },
        InputError::TooLong { len, max, .. } => InputError::TooLong { field: name, len, max },
        InputError::Character { at, .. } => InputError::Character { field: name, at },
        InputError::OutOfRange { value, min, max, .. } => InputError::OutOfRange { field: name, value, min, max },
        InputError::Overflow { .. } => InputError::Overflow { field: name },
        InputError::Malformed { expected, .. } => InputError::Malformed { field: name, expected },
        InputError::Contradiction { other, .. } => InputError::Contradiction { field: name, other },
        InputError::Repeated { .. } => InputError::Repeated { field: name },
        other => other,
    }
}

/// A value of another class than belongs there: malformed, and Python's `TypeError`.
#[cold]
pub(crate) fn wrong_type(value: &Bound<'_, PyAny>, name: &str, expected: &str) -> PyErr {
    let _calling = Calling::begin(value.py());
    let given = match value.get_type().name() {
        Ok(given) => given.to_string(),
        Err(error) => return error,
    };
    own_class(value.py(), "WrongTypeError", &format!("{name} is malformed: expected {expected}, not {given}"), name)
}

/// Values of the right class that do not fit.
pub(crate) mod outside {
    use super::{PyErr, PyResult, Python, own_class};
    use pyo3::prelude::*;

    use super::error;

    /// An integer outside its range. One that no caller can have meant is not written out: it may have a million digits.
    #[cold]
    pub(crate) fn integer(number: &Bound<'_, PyAny>, name: &'static str, min: u128, max: u128) -> PyErr {
        let given: PyResult<i128> = number.extract();
        let given = given.map_or_else(|_| String::from("out of range"), |given| given.to_string());
        error(number.py(), 204, &format!("{name} is {given}, allowed is {min} to {max}"), Some(name), None)
    }

    /// A number or an instant that is none of those expected: malformed, and Python's `OverflowError`.
    #[cold]
    pub(crate) fn range(py: Python<'_>, name: &str, expected: &str) -> PyErr {
        own_class(py, "RangeInputError", &format!("{name} is malformed: expected {expected}"), name)
    }

    /// A text that is not the JSON of a value. The reason quotes it, so it is cut.
    #[cold]
    pub(crate) fn json(py: Python<'_>, name: &str, reason: &dyn std::fmt::Display) -> PyErr {
        let reason: String = reason.to_string().chars().take(900).collect();
        error(py, 206, &format!("{name} is malformed: {reason}"), Some(name), None)
    }
}

/// An exception of a class that shares its number with the one it derives from.
#[cold]
pub(crate) fn own_class(py: Python<'_>, class: &str, message: &str, field: &str) -> PyErr {
    let _calling = Calling::begin(py);
    let made = py.import("libgateway.errors").and_then(|module| module.getattr(class)?.call1((message, field)));
    made.map_or_else(|error| error, PyErr::from_value)
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
    let _calling = Calling::begin(py);
    let classes = CLASSES.get_or(py, || {
        let module = py.import("libgateway.errors")?;
        Ok(module.getattr("BY_NUMBER")?.cast_into::<PyDict>()?.unbind())
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

/// Lets an exception that is on its way go on, with an error that came up meanwhile beside it. What is no ``Exception``
/// (Ctrl-C) is raised instead.
#[cold]
pub(crate) fn beside(exc: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let py = exc.py();
    if !error.is_instance_of::<PyException>(py) {
        return Err(error);
    }
    let _calling = Calling::begin(py);
    py.import("libgateway.errors")?.getattr("_beside")?.call1((exc, error.value(py))).map(|_| ())
}

/// Every error number with its code, as the core lists them.
#[pyfunction]
pub(crate) fn error_codes() -> Vec<(u16, &'static str)> {
    libgateway::error::all().collect()
}
