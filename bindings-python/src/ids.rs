//! Ids of jobs, and where their entropy comes from.

use std::sync::Mutex;

use libgateway::JobId;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::argument::{Argument, index};
use crate::calling::Calling;
use crate::errors::{Raise, called, wrong_type};
use crate::guard::forks;

/// The id of a job: 128 bits, shown as ``j_`` and 26 lower-case base32 characters. Without a value they come of
/// ``os.urandom``, which is asked for 4096 bytes at a time.
///
/// >>> from libgateway import JobId
/// >>> job = JobId("j_00000000000000000000000007")
/// >>> job.int, str(job)
/// (7, 'j_00000000000000000000000007')
/// >>> JobId(7) == job
/// True
#[pyclass(module = "libgateway", name = "JobId", frozen, weakref, eq, ord, hash)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PyJobId(pub(crate) JobId);

#[crate::argument::named]
#[pymethods]
impl PyJobId {
    #[new]
    #[pyo3(signature = (value=None, /))]
    fn new(py: Python<'_>, value: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(value) = value else { return Ok(Self(fresh(py)?)) };
        match index(value)? {
            Some(number) => u128::take(&number, "value").map(|bits| Self(JobId::from_entropy(bits))),
            None => JobArg::take(value, "value").map(|job| Self(job.0)),
        }
    }

    /// The 128 bits as an integer.
    #[getter]
    fn int(&self) -> u128 {
        self.0.as_u128()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("JobId('{}')", self.0)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyAny>, (String,)) {
        (slf.get_type().into_any(), (slf.get().0.to_string(),))
    }
}

/// A job's id as callers give it: a `JobId` or its text.
#[derive(Clone, Copy)]
pub(crate) struct JobArg(pub(crate) JobId);

impl<'py> Argument<'_, 'py> for JobArg {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        if let Ok(id) = value.cast::<PyJobId>() {
            return Ok(Self(id.get().0));
        }
        if !value.is_instance_of::<PyString>() {
            return Err(wrong_type(value, name, "a JobId or its text"));
        }
        let id = <&str>::take(value, name)?.parse();
        id.map(Self).map_err(|error| called(error, name).raise(value.py()))
    }
}

/// The id in a question, where a text that is no id is that of a job that is not there: `None`.
#[derive(Clone, Copy)]
pub(crate) struct JobAsked(pub(crate) Option<JobId>);

impl<'py> Argument<'_, 'py> for JobAsked {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        match value.cast::<PyString>() {
            Ok(text) => Ok(Self(text.to_str().ok().and_then(|text| text.parse().ok()))),
            Err(_) => JobArg::take(value, name).map(|job| Self(Some(job.0))),
        }
    }
}

/// Entropy of the operating system, fetched for many ids at once. It comes through Python's own `os.urandom`, so that what a
/// system call that is blocked, interrupted or slow early after boot means is the interpreter's business; and in no thread is
/// anybody waited for, who might be one that a fork left behind.
struct Pool {
    bytes: Vec<u8>,
    /// A forked child must not hand out what its parent has.
    forks: u32,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { bytes: Vec::new(), forks: 0 });

/// An id nobody has seen.
pub(crate) fn fresh(py: Python<'_>) -> PyResult<JobId> {
    if let Some(id) = take() {
        return Ok(id);
    }
    let _calling = Calling::begin(py);
    let fetched = py.import("os")?.call_method1("urandom", (POOL_LEN,))?;
    let fetched = fetched.cast::<PyBytes>()?.as_bytes();
    let first = match fetched.split_first_chunk::<ID_LEN>() {
        Some((first, rest)) if fetched.len() == POOL_LEN => {
            if let Ok(mut pool) = POOL.try_lock() {
                pool.bytes.clear();
                pool.bytes.extend_from_slice(rest);
                pool.forks = forks();
            }
            *first
        }
        _ => {
            let text = format!("os.urandom({POOL_LEN}) returned {} bytes", fetched.len());
            return Err(PyRuntimeError::new_err(text));
        }
    };
    Ok(JobId::from_entropy(u128::from_le_bytes(first)))
}

/// The next id of the pool, unless it is empty or somebody else is at it.
#[inline]
fn take() -> Option<JobId> {
    let mut pool = POOL.try_lock().ok()?;
    if pool.forks != forks() {
        return None;
    }
    let rest = pool.bytes.len().checked_sub(ID_LEN)?;
    let entropy = <[u8; ID_LEN]>::try_from(pool.bytes.get(rest..)?).ok()?;
    pool.bytes.truncate(rest);
    Some(JobId::from_entropy(u128::from_le_bytes(entropy)))
}

const ID_LEN: usize = 16;
const POOL_LEN: usize = 4_096;
