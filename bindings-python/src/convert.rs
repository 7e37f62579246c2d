//! Time, spans, money and bodies on their way in and out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libgateway::error::InputError;
use libgateway::{GpuNanos, Payload, Price, Span, SystemClock, Timestamp};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDateTime, PyDelta, PyFloat, PyInt, PyString, PyType};

use crate::errors::{OrRaise, Raise};

/// An instant: an aware `datetime`, or nanoseconds since the Unix epoch.
#[derive(Clone, Copy)]
pub(crate) struct Moment(pub(crate) Timestamp);

/// The instant before which a job may not run, as [`Moment`]; one that cannot be is refused by its name.
#[derive(Clone, Copy)]
pub(crate) struct NotBefore(pub(crate) Timestamp);

/// A span: a `timedelta`, or a number of seconds.
#[derive(Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Span);

/// The period of a limit, as [`Seconds`]; one that does not fit is refused by its name.
#[derive(Clone, Copy)]
pub(crate) struct Period(pub(crate) Span);

/// GPU time: a `timedelta`, or a number of seconds (`Decimal` is exact).
#[derive(Clone, Copy)]
pub(crate) struct GpuSeconds(pub(crate) GpuNanos);

/// The body of a job: `bytes`, `str` or anything like bytes.
pub(crate) struct Body(pub(crate) Payload);

/// The system clock: one for the process, and it never steps.
#[inline]
pub(crate) fn system_now() -> Timestamp {
    SystemClock::of_process().now()
}

/// The instant given, or that of the system clock.
#[inline]
pub(crate) fn or_now(now: Option<Moment>) -> Timestamp {
    now.map_or_else(system_now, |now| now.0)
}

impl<'py> FromPyObject<'_, 'py> for Moment {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if value.cast::<PyInt>().is_ok() {
            return Ok(Self(Timestamp::from_nanos(value.extract()?)));
        }
        if value.cast::<PyDateTime>().is_ok() {
            if value.getattr("tzinfo")?.is_none() {
                let text =
                    "a datetime without a time zone is no instant: give it one, as datetime.now(timezone.utc) has";
                return Err(PyTypeError::new_err(text));
            }
            let since = value.extract::<SystemTime>().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let nanos = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
            return nanos.map(|nanos| Self(Timestamp::from_nanos(nanos))).ok_or_else(beyond);
        }
        Err(PyTypeError::new_err("expected a datetime or an integer of nanoseconds since the Unix epoch"))
    }
}

impl<'py> FromPyObject<'_, 'py> for NotBefore {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.extract::<Moment>() {
            Ok(at) => Ok(Self(at.0)),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                let expected = "an instant from 0 to 2^64 nanoseconds since the Unix epoch";
                Err(InputError::Malformed { field: "not_before_ns", expected }.raise(value.py()))
            }
            Err(error) => Err(error),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Seconds {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        nanos(value, "span").map(|nanos| Self(Span::from_nanos(nanos)))
    }
}

impl<'py> FromPyObject<'_, 'py> for Period {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match nanos(value, "per") {
            Ok(nanos) => Ok(Self(Span::from_nanos(nanos))),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                Err(InputError::Overflow { field: "per" }.raise(value.py()))
            }
            Err(error) => Err(error),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for GpuSeconds {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        nanos(value, "gpu_seconds").map(|nanos| Self(GpuNanos::from_nanos(nanos)))
    }
}

impl<'py> FromPyObject<'_, 'py> for Body {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = value.cast::<PyBytes>() {
            return Ok(Self(bytes.as_bytes().into()));
        }
        if let Ok(text) = value.cast::<PyString>() {
            return Ok(Self(text.to_str()?.into()));
        }
        if let Ok(bytes) = value.cast::<PyByteArray>() {
            return Ok(Self(bytes.to_vec().into()));
        }
        if value.hasattr("tobytes")? {
            let bytes = value.call_method0("tobytes")?;
            return Ok(Self(bytes.cast::<PyBytes>()?.as_bytes().into()));
        }
        Err(PyTypeError::new_err("expected bytes or str"))
    }
}

/// Seconds as whole nanoseconds, to the nearest.
fn nanos(value: Borrowed<'_, '_, PyAny>, field: &'static str) -> PyResult<u64> {
    if value.cast::<PyInt>().is_ok() {
        return value.extract::<u64>()?.checked_mul(NANOS_PER_SEC).ok_or_else(beyond);
    }
    if let Ok(seconds) = value.cast::<PyFloat>() {
        let seconds = seconds.value();
        let most = Duration::from_nanos(u64::MAX).as_secs_f64();
        if !(0.0..most).contains(&seconds) {
            return Err(out_of_range(value.py(), field));
        }
        return u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).map_err(|_| beyond());
    }
    if value.cast::<PyDelta>().is_ok() {
        let Ok(span) = value.extract::<Duration>() else { return Err(out_of_range(value.py(), field)) };
        return u64::try_from(span.as_nanos()).map_err(|_| beyond());
    }
    decimal_nanos(value, field)
}

/// A `Decimal` (or a `Fraction`) of seconds.
fn decimal_nanos(value: Borrowed<'_, '_, PyAny>, field: &'static str) -> PyResult<u64> {
    let py = value.py();
    let Ok(scaled) = scaled(value, NANOS_PER_SEC) else {
        return Err(PyTypeError::new_err("expected a timedelta or a number of seconds"));
    };
    scaled.extract::<u64>().map_err(|_| out_of_range(py, field))
}

/// An exact number times `unit`, to the nearest integer; exact numbers are told by their ratio.
fn scaled<'py>(value: Borrowed<'_, 'py, PyAny>, unit: u64) -> PyResult<Bound<'py, PyAny>> {
    let ratio = value.call_method0("as_integer_ratio")?;
    let (over, under): (Bound<'py, PyAny>, Bound<'py, PyAny>) = ratio.extract()?;
    let twice = over.mul(unit)?.mul(2)?.add(&under)?;
    twice.floor_div(under.mul(2)?)
}

/// A price: a `Decimal`, an integer or a text of whole units for each `per`, or a text that says both. Exactly as written.
pub(crate) fn price_of(value: &Bound<'_, PyAny>, per: &str) -> PyResult<Price> {
    let py = value.py();
    if value.is_instance_of::<PyFloat>() {
        return Err(InputError::Malformed { field: "price", expected: "a Decimal, an integer or a text" }.raise(py));
    }
    // `f` writes a Decimal without an exponent.
    let text = match value.is_instance_of::<PyString>() {
        true => value.str()?,
        false => decimal_class(py)?.call1((value,))?.call_method1("__format__", ("f",))?.str()?,
    };
    let text = text.to_string_lossy();
    if text.contains('/') { text.parse() } else { format!("{text}/{per}").parse() }.or_raise(py)
}

/// A `Decimal` of the canonical text of an amount.
pub(crate) fn decimal<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    decimal_class(py)?.call1((text,))
}

fn decimal_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static DECIMAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    DECIMAL.import(py, "decimal", "Decimal")
}

fn beyond() -> PyErr {
    PyOverflowError::new_err("the time does not fit into 64 bits of nanoseconds")
}

fn out_of_range(py: Python<'_>, field: &'static str) -> PyErr {
    InputError::Malformed { field, expected: "a number of seconds from 0 to 2^64 nanoseconds" }.raise(py)
}

const NANOS_PER_SEC: u64 = 1_000_000_000;
