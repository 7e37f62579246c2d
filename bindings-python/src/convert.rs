//! Time, spans, money and bodies on their way in and out.

use std::time::{SystemTime, UNIX_EPOCH};

use libgateway::error::InputError;
use libgateway::{GpuNanos, Payload, Price, Span, SystemClock, Timestamp};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDateTime, PyDelta, PyInt, PyString};

use crate::argument::{Argument, index, integer};
use crate::calling::Calling;
use crate::errors::{Raise, called, outside, wrong_type};
use crate::number::{Size, decimal_class, nanos, size_of};

/// An instant: an aware `datetime`, or nanoseconds since the Unix epoch.
#[derive(Clone, Copy)]
pub(crate) struct Moment(pub(crate) Timestamp);

/// A span: a `timedelta`, or a number of seconds.
#[derive(Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Span);

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

/// Reads the clock of the process and finds the classes of time.
pub(crate) fn warm(py: Python<'_>) {
    system_now();
    py.get_type::<PyDateTime>();
    py.get_type::<PyDelta>();
}

/// The instant given, or that of the system clock.
#[inline]
pub(crate) fn or_now(now: Option<Moment>) -> Timestamp {
    now.map_or_else(system_now, |now| now.0)
}

impl<'py> Argument<'_, 'py> for Moment {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let beyond = || outside::range(value.py(), name, "an instant from 0 to 2^64 nanoseconds since the Unix epoch");
        if value.is_instance_of::<PyInt>() || value.cast::<PyDateTime>().is_err() {
            let nanos = integer::<u64>(value, name, "a datetime or an integer of nanoseconds since the Unix epoch")?;
            return nanos.map(|nanos| Self(Timestamp::from_nanos(nanos))).map_err(|_| beyond());
        }
        let _calling = Calling::begin(value.py());
        if value.getattr(intern!(value.py(), "tzinfo"))?.is_none() {
            return Err(wrong_type(value, name, "a datetime with a time zone, as datetime.now(timezone.utc) has"));
        }
        let since = value.extract::<SystemTime>().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let nanos = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        nanos.map(|nanos| Self(Timestamp::from_nanos(nanos))).ok_or_else(beyond)
    }
}

impl<'py> Argument<'_, 'py> for Seconds {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        nanos(value, name).map(|nanos| Self(Span::from_nanos(nanos)))
    }
}

impl<'py> Argument<'_, 'py> for GpuSeconds {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        nanos(value, name).map(|nanos| Self(GpuNanos::from_nanos(nanos)))
    }
}

impl<'py> Argument<'_, 'py> for Body {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        if let Ok(bytes) = value.cast::<PyBytes>() {
            return Ok(Self(bytes.as_bytes().into()));
        }
        if value.is_instance_of::<PyString>() {
            return <&str>::take(value, name).map(|text| Self(text.into()));
        }
        if let Ok(bytes) = value.cast::<PyByteArray>() {
            return Ok(Self(bytes.to_vec().into()));
        }
        let _calling = Calling::begin(value.py());
        let tobytes = value.getattr_opt(intern!(value.py(), "tobytes"))?;
        let bytes = tobytes.map(|tobytes| tobytes.call0()).transpose()?;
        match bytes.as_ref().and_then(|bytes| bytes.cast::<PyBytes>().ok()) {
            Some(bytes) => Ok(Self(bytes.as_bytes().into())),
            None => Err(wrong_type(value, name, "bytes or str")),
        }
    }
}

/// A price: a `Decimal`, an integer or a text of whole units for each `per`, or a text that says both. Exactly as written,
/// so neither a `float` nor a `Fraction` is one.
pub(crate) fn price_of(value: &Bound<'_, PyAny>, per: &str) -> PyResult<Price> {
    let py = value.py();
    let _calling = Calling::begin(py);
    let raise = |error: InputError| called(error, "prices").raise(py);
    let text = if value.is_instance_of::<PyString>() {
        String::take(value, "prices")?
    } else if let Some(number) = index(value)? {
        if number.lt(0)? {
            return Err(raise(NEGATIVE));
        }
        number.extract::<u64>().map_err(|_| raise(InputError::Overflow { field: "prices" }))?.to_string()
    } else if value.is_instance(decimal_class(py)?)? {
        match size_of(value)? {
            Size::Not => return Err(raise(NEGATIVE)),
            Size::Zero => String::from("0"),
            Size::Digits(first) if !(-40..40).contains(&first) => {
                return Err(raise(InputError::Overflow { field: "prices" }));
            }
            // `f` writes it without an exponent.
            Size::Digits(_) => value.call_method1(intern!(py, "__format__"), ("f",))?.extract()?,
        }
    } else {
        return Err(wrong_type(value, "prices", "a Decimal, an integer or a text for each price"));
    };
    if text.trim_start().starts_with('-') {
        return Err(raise(NEGATIVE));
    }
    if text.contains('/') { text.parse() } else { format!("{text}/{per}").parse() }.map_err(raise)
}

const NEGATIVE: InputError = InputError::Malformed { field: "prices", expected: "prices of 0 or more" };

/// A `Decimal` of the canonical text of an amount.
pub(crate) fn decimal<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    let _calling = Calling::begin(py);
    decimal_class(py)?.call1((text,))
}
