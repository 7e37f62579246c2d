//! Texts of Python that are no Unicode: a `str` may hold halves of surrogate pairs.
//!
//! In words for people they are replaced, for what they tell is not lost with a character. In a name or an id they are refused,
//! and the error names the argument: two names must not become one.

use std::borrow::Cow;

use libgateway::error::InputError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::argument::Argument;
use crate::calling::Calling;
use crate::errors::{Raise, wrong_type};

/// Words for people, as the message of a failure: a pair in two halves is its character, and a half alone is U+FFFD.
#[derive(Default)]
pub(crate) struct Words<'a>(pub(crate) Cow<'a, str>);

impl<'a> Argument<'a, '_> for Words<'a> {
    #[inline]
    fn take(value: &'a Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        words(text_of(value, name)?).map(Self)
    }
}

/// A line of a log: half a pair becomes what no line may have, and so the reply says where.
pub(crate) struct LogLine<'a>(pub(crate) Cow<'a, str>);

impl<'a> Argument<'a, '_> for LogLine<'a> {
    #[inline]
    fn take(value: &'a Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let text = text_of(value, name)?;
        match text.to_str() {
            Ok(text) => Ok(Self(Cow::Borrowed(text))),
            Err(_) => whole(text).map(|text| Self(Cow::Owned(text.replace(char::REPLACEMENT_CHARACTER, "\0")))),
        }
    }
}

/// One of many lines of a log, kept while there is no interpreter.
pub(crate) struct OwnLogLine(pub(crate) String);

impl Argument<'_, '_> for OwnLogLine {
    #[inline]
    fn take(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        LogLine::take(value, name).map(|line| Self(line.0.into_owned()))
    }
}

#[inline]
fn text_of<'a, 'py>(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<&'a Bound<'py, PyString>> {
    value.cast::<PyString>().map_err(|_| wrong_type(value, name, "a str"))
}

/// A text as [`Words`].
#[inline]
pub(crate) fn words<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, str>> {
    match text.to_str() {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(_) => whole(text).map(Cow::Owned),
    }
}

/// The error of a name that has half a pair, in the place of the one of its encoding.
#[cold]
pub(crate) fn not_unicode(text: &Bound<'_, PyString>, name: &'static str, error: PyErr) -> PyErr {
    let bytes = encoded(text, "utf-8");
    match bytes.map(|bytes| std::str::from_utf8(bytes.as_bytes()).map_or_else(|half| half.valid_up_to(), str::len)) {
        Ok(at) => InputError::Character { field: name, at }.raise(text.py()),
        Err(_) => error,
    }
}

#[cold]
fn whole(text: &Bound<'_, PyString>) -> PyResult<String> {
    let bytes = encoded(text, "utf-16-le")?;
    let units = bytes.as_bytes().chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    Ok(char::decode_utf16(units).map(|found| found.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

fn encoded<'py>(text: &Bound<'py, PyString>, encoding: &str) -> PyResult<Bound<'py, PyBytes>> {
    let _calling = Calling::begin(text.py());
    Ok(text.call_method1("encode", (encoding, "surrogatepass"))?.cast_into()?)
}
