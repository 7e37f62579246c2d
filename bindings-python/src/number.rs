//! Numbers that may have a fraction, as exact integers. The range comes first: no arithmetic on what cannot fit.

use std::time::Duration;

use libgateway::Span;
use libgateway::error::InputError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDelta, PyFloat, PyInt, PyType};

use crate::argument::{Argument, index, is_refusal};
use crate::calling::{Calling, Kept};
use crate::errors::{Raise, outside, wrong_type};

/// Seconds as whole nanoseconds, to the nearest; a half is rounded up.
///
/// # Errors
/// `RangeInputError` below 0 and for what is no number of seconds (NaN, infinity), `OverflowInputError` beyond 64 bits,
/// `WrongTypeError` for anything else.
#[inline]
pub(crate) fn nanos(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<u64> {
    let py = value.py();
    if let Ok(seconds) = value.cast::<PyFloat>() {
        return float_nanos(py, seconds.value(), name);
    }
    if value.is_instance_of::<PyInt>() {
        return whole_nanos(value, name);
    }
    if value.is_instance_of::<PyDelta>() {
        let span = value.extract::<Duration>().map_err(|_| no_span(py, name))?;
        return u64::try_from(span.as_nanos()).map_err(|_| too_long(py, name));
    }
    let _calling = Calling::begin(py);
    if let Some(number) = index(value)? {
        return whole_nanos(&number, name);
    }
    if value.is_instance(decimal_class(py)?)? { decimal_nanos(value, name) } else { ratio_nanos(value, name) }
}

fn whole_nanos(number: &Bound<'_, PyAny>, name: &'static str) -> PyResult<u64> {
    let py = number.py();
    match number.extract::<u64>() {
        Ok(seconds) => seconds.checked_mul(NANOS_PER_SEC).ok_or_else(|| too_long(py, name)),
        Err(_) => {
            let _calling = Calling::begin(py);
            Err(if number.lt(0)? { no_span(py, name) } else { too_long(py, name) })
        }
    }
}

fn float_nanos(py: Python<'_>, seconds: f64, name: &'static str) -> PyResult<u64> {
    if !(0.0..f64::INFINITY).contains(&seconds) {
        return Err(no_span(py, name));
    }
    if seconds >= Duration::from_nanos(u64::MAX).as_secs_f64() {
        return Err(too_long(py, name));
    }
    u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).map_err(|_| too_long(py, name))
}

/// What can be said of a `Decimal` without doing anything with its digits.
pub(crate) enum Size {
    /// Below 0, or no number.
    Not,
    Zero,
    /// Above 0, with the exponent of its first digit: 2 for 100 to 999.
    Digits(i64),
}

pub(crate) fn size_of(value: &Bound<'_, PyAny>) -> PyResult<Size> {
    let py = value.py();
    if !value.call_method0(intern!(py, "is_finite"))?.is_truthy()? {
        return Ok(Size::Not);
    }
    if value.call_method0(intern!(py, "is_zero"))?.is_truthy()? {
        return Ok(Size::Zero);
    }
    if value.call_method0(intern!(py, "is_signed"))?.is_truthy()? {
        return Ok(Size::Not);
    }
    value.call_method0(intern!(py, "adjusted"))?.extract().map(Size::Digits)
}

fn decimal_nanos(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<u64> {
    let py = value.py();
    match size_of(value)? {
        Size::Not => return Err(no_span(py, name)),
        Size::Digits(first) if first > 10 => return Err(too_long(py, name)),
        Size::Zero => return Ok(0),
        Size::Digits(first) if first < -10 => return Ok(0),
        Size::Digits(_) => {}
    }
    static NANO: Kept<Py<PyAny>> = Kept::new();
    let nano = NANO.get_or(py, || decimal_class(py)?.call1(("1E-9",)).map(Bound::unbind))?;
    let rounded = value.call_method1(intern!(py, "quantize"), (nano, "ROUND_HALF_UP", context(py)?))?;
    let text = rounded.call_method1(intern!(py, "__format__"), ("f",))?.extract::<String>()?;
    text.replace('.', "").parse().map_err(|_| too_long(py, name))
}

/// A `Fraction`, or a float that is not Python's.
fn ratio_nanos(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<u64> {
    let py = value.py();
    let Some((over, under)) = ratio(value)? else {
        return match value.hasattr(intern!(py, "__float__"))? {
            true => float_nanos(py, f64::take(value, name)?, name),
            false => Err(wrong_type(value, name, "a timedelta or a number of seconds")),
        };
    };
    let (Some(over_bits), Some(under_bits)) = (bits(&over)?, bits(&under)?) else { return Err(no_span(py, name)) };
    if over.lt(0)? || under_bits == 0 {
        return Err(no_span(py, name));
    }
    // 2^64 nanoseconds are below 2^35 seconds, and half of one is above 2^-31.
    if over_bits > under_bits.saturating_add(36) {
        return Err(too_long(py, name));
    }
    if over_bits.saturating_add(33) < under_bits {
        return Ok(0);
    }
    let twice = over.mul(NANOS_PER_SEC)?.mul(2)?.add(&under)?;
    twice.floor_div(under.mul(2)?)?.extract().map_err(|_| too_long(py, name))
}

/// Two integers whose quotient a number is: of itself, if it can say so. `None`: it cannot.
fn ratio<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
    let py = value.py();
    let Some(method) = value.getattr_opt(intern!(py, "as_integer_ratio"))? else { return Ok(None) };
    match method.call0().and_then(|ratio| ratio.extract()) {
        Ok(ratio) => Ok(Some(ratio)),
        // NaN and infinity are the quotient of nothing, but are floats.
        Err(error) if is_refusal(py, &error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many bits an integer has; `None`: it is none.
fn bits(number: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    if !number.is_instance_of::<PyInt>() {
        return Ok(None);
    }
    number.call_method0(intern!(number.py(), "bit_length"))?.extract().map(Some)
}

/// Tokens per second, exactly: so many in so long. 0.1 is one in ten seconds.
#[derive(Clone, Copy)]
pub(crate) struct PerSecond {
    pub(crate) amount: u64,
    pub(crate) per: Span,
    /// What flows in in a second, rounded up.
    pub(crate) burst: u64,
}

impl PerSecond {
    fn whole(amount: u64) -> Self {
        Self { amount, per: Span::from_secs(1), burst: amount }
    }
}

impl<'py> Argument<'_, 'py> for PerSecond {
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let py = value.py();
        if value.is_instance_of::<PyInt>() {
            return u64::take(value, name).map(Self::whole);
        }
        let _calling = Calling::begin(py);
        if let Some(number) = index(value)? {
            return u64::take(&number, name).map(Self::whole);
        }
        let (over, under) = if value.is_instance(decimal_class(py)?)? {
            match size_of(value)? {
                Size::Not => return Err(no_rate(py, name)),
                Size::Zero => return Ok(Self::whole(0)),
                Size::Digits(first) if !(-11..20).contains(&first) => return Err(no_exact_rate(py, name)),
                Size::Digits(_) => {}
            }
            // What has more digits than this is no quotient of 64 bits.
            let rounded = context(py)?.call_method1(intern!(py, "plus"), (value,))?;
            if rounded.ne(value)? {
                return Err(no_exact_rate(py, name));
            }
            rounded.call_method0(intern!(py, "as_integer_ratio"))?.extract()?
        } else {
            match ratio(value)? {
                Some(exact) if !value.is_instance_of::<PyFloat>() => exact,
                _ => simplest(value, name)?,
            }
        };
        let part = |number: Bound<'py, PyAny>| -> PyResult<u64> {
            match bits(&number)? {
                None => Err(no_rate(py, name)),
                Some(_) if number.lt(0)? => Err(no_rate(py, name)),
                Some(_) => number.extract().map_err(|_| no_exact_rate(py, name)),
            }
        };
        let (amount, seconds) = (part(over)?, part(under)?);
        let per = seconds.checked_mul(NANOS_PER_SEC).filter(|per| *per > 0).ok_or_else(|| no_exact_rate(py, name))?;
        Ok(Self { amount, per: Span::from_nanos(per), burst: amount.div_ceil(seconds) })
    }
}

/// The quotient of the least integers that is this very float: a third for `1 / 3`, a tenth for `0.1`.
fn simplest<'py>(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    static FRACTION: Kept<Py<PyType>> = Kept::new();
    let py = value.py();
    let number = f64::take(value, name)?;
    if !(0.0..f64::INFINITY).contains(&number) {
        return Err(no_rate(py, name));
    }
    let near = FRACTION.class(py, "fractions", "Fraction")?.call1((number,))?;
    let near = near.call_method1("limit_denominator", (NANOS_PER_SEC,))?;
    if near.extract::<f64>().is_ok_and(|near| near == number) {
        near.call_method0(intern!(py, "as_integer_ratio"))?.extract()
    } else {
        Err(no_exact_rate(py, name))
    }
}

pub(crate) fn decimal_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static DECIMAL: Kept<Py<PyType>> = Kept::new();
    DECIMAL.class(py, "decimal", "Decimal")
}

/// Enough digits for any quotient of 64 bits; it raises nothing, whatever the caller's own context does.
fn context(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CONTEXT: Kept<Py<PyAny>> = Kept::new();
    let context = CONTEXT.get_or(py, || {
        let options = pyo3::types::PyDict::new(py);
        options.set_item("prec", 40)?;
        options.set_item("traps", pyo3::types::PyList::empty(py))?;
        py.import("decimal")?.getattr("Context")?.call((), Some(&options)).map(Bound::unbind)
    })?;
    Ok(context.bind(py))
}

#[cold]
fn no_span(py: Python<'_>, name: &'static str) -> PyErr {
    outside::range(py, name, "a number of seconds from 0 to 2^64 nanoseconds")
}

#[cold]
fn too_long(py: Python<'_>, name: &'static str) -> PyErr {
    InputError::Overflow { field: name }.raise(py)
}

#[cold]
fn no_rate(py: Python<'_>, name: &'static str) -> PyErr {
    outside::range(py, name, "a number of tokens from 0 to 2^64")
}

#[cold]
fn no_exact_rate(py: Python<'_>, name: &'static str) -> PyErr {
    let expected = "a rate that is exact in 64 bits; amount and per take any, as amount=1, per=10 for 0.1 a second";
    InputError::Malformed { field: name, expected }.raise(py)
}

const NANOS_PER_SEC: u64 = 1_000_000_000;
