//! How arguments come in: each is taken by one trait, which knows what the argument is called.
//!
//! What is taken for a number is the same everywhere. An integer is whatever Python's `operator.index` takes: an `int`, a
//! `bool`, an integer of numpy. A number of seconds or a share is any of those, a `float`, a `Decimal`, a `Fraction`, or
//! anything else with `as_integer_ratio` or `__float__`; a text is none. The range comes before any arithmetic, so that a
//! number of a stranger's (`Decimal("1e9999999")`) costs no time.

use std::collections::BTreeMap;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PySequence, PyString};
use pyo3::{PyTypeCheck, intern};

use crate::calling::Calling;
use crate::errors::{outside, wrong_type};
use crate::text::{self, Words};

pub(crate) use libgateway_python_macros::named;

/// What an argument is called; the attribute [`named`] makes a type for each.
pub(crate) trait Name {
    const NAME: &'static str;
}

/// Something that callers give. What does not fit is a `GatewayError` that says `name`.
pub(crate) trait Argument<'a, 'py>: Sized {
    fn take(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<Self>;
}

/// The argument called `N`, as [`named`] has it taken.
#[inline]
pub(crate) fn taken<'a, 'py, N: Name, T: Argument<'a, 'py>>(value: &'a Bound<'py, PyAny>) -> PyResult<T> {
    T::take(value, N::NAME)
}

impl<'a, 'py, T: Argument<'a, 'py>> Argument<'a, 'py> for Option<T> {
    #[inline]
    fn take(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        if value.is_none() { Ok(None) } else { T::take(value, name).map(Some) }
    }
}

impl<'a, 'py, T: PyTypeCheck> Argument<'a, 'py> for &'a Bound<'py, T> {
    #[inline]
    fn take(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        value.cast::<T>().map_err(|_| not_a::<T>(value, name))
    }
}

impl<'py, T: PyTypeCheck> Argument<'_, 'py> for Bound<'py, T> {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        value.cast::<T>().cloned().map_err(|_| not_a::<T>(value, name))
    }
}

impl<'py> Argument<'_, 'py> for Py<PyAny> {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, _name: &'static str) -> PyResult<Self> {
        Ok(value.clone().unbind())
    }
}

/// A list, a tuple or another sequence, but no text.
impl<'py, T: for<'b> Argument<'b, 'py>> Argument<'_, 'py> for Vec<T> {
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let _calling = Calling::begin(value.py());
        if value.is_instance_of::<PyString>() || value.cast::<PySequence>().is_err() {
            return Err(wrong_type(value, name, "a list"));
        }
        value.try_iter()?.map(|item| T::take(&item?, name)).collect()
    }
}

impl<'a, 'py> Argument<'a, 'py> for &'a str {
    #[inline]
    fn take(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let Ok(text) = value.cast::<PyString>() else { return Err(wrong_type(value, name, "a str")) };
        // Half of a surrogate pair is in no UTF-8.
        text.to_str().map_err(|error| text::not_unicode(text, name, error))
    }
}

impl<'py> Argument<'_, 'py> for String {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        <&str>::take(value, name).map(str::to_owned)
    }
}

impl<'a, 'py> Argument<'a, 'py> for &'a [u8] {
    fn take(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        value.cast::<PyBytes>().map(|bytes| bytes.as_bytes()).map_err(|_| wrong_type(value, name, "bytes"))
    }
}

/// Labels: their keys are names, their values words for people.
impl<'py> Argument<'_, 'py> for BTreeMap<String, String> {
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let pairs = <&Bound<'py, PyDict>>::take(value, name)?;
        let label = |(key, value)| Ok((String::take(&key, name)?, Words::take(&value, name)?.0.into_owned()));
        pairs.iter().map(label).collect()
    }
}

/// A yes or no: `bool`, or that of numpy. Not an integer.
impl<'py> Argument<'_, 'py> for bool {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        if let Ok(own) = value.cast::<PyBool>() {
            return Ok(own.is_true());
        }
        let _calling = Calling::begin(value.py());
        value.extract().map_err(|_| wrong_type(value, name, "a bool"))
    }
}

macro_rules! integers {
    ($($int:ty),+) => {
        $(impl<'py> Argument<'_, 'py> for $int {
            #[inline]
            fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
                match integer(value, name, "an integer")? {
                    Ok(number) => Ok(number),
                    Err(number) => Err(outside::integer(&number, name, <$int>::MIN.into_u128(), <$int>::MAX.into_u128())),
                }
            }
        })+
    };
}

integers!(u8, u16, u32, u64, usize, u128);

/// Widens an integer of any size.
trait IntoU128 {
    fn into_u128(self) -> u128;
}

macro_rules! widened {
    ($($int:ty),+) => {
        $(impl IntoU128 for $int {
            fn into_u128(self) -> u128 {
                self as u128
            }
        })+
    };
}

widened!(u8, u16, u32, u64, usize, u128);

/// An integer that fits, or the Python integer that does not.
///
/// # Errors
/// What `operator.index` does not take.
#[inline]
pub(crate) fn integer<'py, T>(
    value: &Bound<'py, PyAny>,
    name: &'static str,
    expected: &'static str,
) -> PyResult<Result<T, Bound<'py, PyAny>>>
where
    T: for<'b> FromPyObject<'b, 'py>,
{
    if value.cast::<PyInt>().is_ok() {
        return Ok(value.extract().map_err(|_| value.clone()));
    }
    match index(value)? {
        Some(number) => Ok(number.extract::<T>().map_err(|_| ()).map_err(|()| number)),
        None => Err(wrong_type(value, name, expected)),
    }
}

/// What `operator.index` makes of a value that is no `int`; `None`: it is no integer.
pub(crate) fn index<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = value.py();
    let _calling = Calling::begin(py);
    if value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyString>() || is_more_than_a_number(value)? {
        return Ok(None);
    }
    match value.call_method0(intern!(py, "__index__")) {
        Ok(number) => Ok(number.is_instance_of::<PyInt>().then_some(number)),
        Err(error) if is_refusal(py, &error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A number that may have a fraction, near enough for a share. Infinite where it is beyond a `float`.
impl<'py> Argument<'_, 'py> for f64 {
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let py = value.py();
        if let Ok(number) = value.cast::<PyFloat>() {
            return Ok(number.value());
        }
        let _calling = Calling::begin(py);
        if is_more_than_a_number(value)? {
            return Err(wrong_type(value, name, "a number"));
        }
        let number = match value.extract::<f64>() {
            Ok(number) => number,
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => return Ok(f64::INFINITY),
            // A signalling NaN.
            Err(error) if error.is_instance_of::<PyValueError>(py) => return Ok(f64::NAN),
            Err(error) if is_refusal(py, &error) => return Err(wrong_type(value, name, "a number")),
            Err(error) => return Err(error),
        };
        // What is so little below 0 that a `float` does not show it still is.
        if number == 0.0 && value.lt(0).unwrap_or(false) { Ok(-f64::MIN_POSITIVE) } else { Ok(number) }
    }
}

/// Whether it is something of numpy that can be made a number by leaving something out: the unit of a `timedelta64`, the
/// imaginary part, the shape of an array.
fn is_more_than_a_number(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = value.py();
    let Some(dtype) = value.getattr_opt(intern!(py, "dtype"))? else { return Ok(false) };
    let Some(kind) = dtype.getattr_opt(intern!(py, "kind"))? else { return Ok(false) };
    let dimensions = value.getattr_opt(intern!(py, "ndim"))?;
    let is_one = dimensions.is_none_or(|dimensions| dimensions.eq(0).unwrap_or(false));
    Ok(!is_one || !kind.extract::<String>().is_ok_and(|kind| ["b", "i", "u", "f"].contains(&kind.as_str())))
}

/// Whether a value's own method said that it is no such number. Anything else (Ctrl-C) is not for us.
pub(crate) fn is_refusal(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyOverflowError>(py)
        || error.is_instance_of::<pyo3::exceptions::PyAttributeError>(py)
}

/// A value is not of the class that belongs there.
#[cold]
fn not_a<T: PyTypeCheck>(value: &Bound<'_, PyAny>, name: &'static str) -> PyErr {
    let _calling = Calling::begin(value.py());
    let class = T::classinfo_object(value.py());
    match class.getattr(intern!(value.py(), "__name__")).and_then(|class| class.extract::<String>()) {
        Ok(class) => {
            let article = if class.starts_with(['A', 'I']) { "an" } else { "a" };
            wrong_type(value, name, &format!("{article} {class}"))
        }
        Err(error) => error,
    }
}
