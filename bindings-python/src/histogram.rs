//! A distribution of integers in fixed memory.

use libgateway::Histogram;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::argument::Argument;
use crate::calling::Calling;
use crate::errors::{OrRaise, outside, wrong_type};
use crate::guard::Guarded;
use crate::policy::ppm_of;

/// A histogram over all 64-bit integers with a stated relative error, in the unit of your choice.
///
/// >>> from libgateway import Histogram
/// >>> latency_ms = Histogram()
/// >>> latency_ms.record_many(range(1, 21))
/// >>> latency_ms.quantile(0.95), latency_ms.sum, latency_ms.mean, len(latency_ms)
/// (19, 210, 10, 20)
#[pyclass(module = "libgateway", name = "Histogram", frozen, weakref)]
pub(crate) struct PyHistogram(Guarded<Histogram>);

#[crate::argument::named]
#[pymethods]
impl PyHistogram {
    #[new]
    #[pyo3(signature = (*, precision_bits=6))]
    fn new(py: Python<'_>, precision_bits: u8) -> PyResult<Self> {
        Ok(Self(Guarded::new(Histogram::new(precision_bits).or_raise(py)?)))
    }

    /// Records a value, ``count`` times.
    #[pyo3(signature = (value, count=1))]
    fn record(&self, py: Python<'_>, value: u64, count: u64) -> PyResult<()> {
        self.0.with(py, |own| own.record_n(value, count))
    }

    /// Records each of the values.
    fn record_many(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let calling = Calling::begin(py);
        let values = values.try_iter().map_err(|_| wrong_type(values, "values", "integers"))?;
        let values: Vec<u64> = values.map(|value| u64::take(&value?, "values")).collect::<PyResult<_>>()?;
        drop(calling);
        self.0.with_long(py, |own| values.iter().for_each(|value| own.record(*value)))
    }

    /// Adds everything another one of the same precision has recorded.
    fn merge(&self, py: Python<'_>, other: &Bound<'_, Self>) -> PyResult<()> {
        let other = other.get().copy(py)?;
        self.0.with(py, |own| own.merge(&other))?.or_raise(py)
    }

    /// Forgets everything recorded.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, Histogram::clear)
    }

    /// The quantile by nearest rank, from 0 to 1: never below the true one, and above it by less than the error.
    fn quantile(&self, py: Python<'_>, quantile: f64) -> PyResult<Option<u64>> {
        let ppm = ppm_of(py, "quantile", 0..=1, Some(quantile), None)?.unwrap_or(0);
        self.quantile_ppm(py, ppm)
    }

    /// The same in parts per million.
    fn quantile_ppm(&self, py: Python<'_>, ppm: u32) -> PyResult<Option<u64>> {
        self.0.with(py, |own| own.quantile_ppm(ppm))
    }

    /// The buckets in use, ascending: the greatest value that counts into the bucket, and how many did.
    fn buckets(&self, py: Python<'_>) -> PyResult<Vec<(u64, u64)>> {
        self.0.with(py, |own| own.buckets().collect())
    }

    /// How many values were recorded.
    #[getter]
    fn count(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.with(py, |own| own.count())
    }

    /// The sum of the values.
    #[getter]
    fn sum(&self, py: Python<'_>) -> PyResult<u128> {
        self.0.with(py, |own| own.sum())
    }

    /// The least value.
    #[getter]
    fn min(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.0.with(py, |own| own.min())
    }

    /// The greatest value.
    #[getter]
    fn max(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.0.with(py, |own| own.max())
    }

    /// The mean, rounded down.
    #[getter]
    fn mean(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.0.with(py, |own| own.mean())
    }

    /// What quantiles may be too great by, in parts per million of the true value.
    #[getter]
    fn relative_error_ppm(&self, py: Python<'_>) -> PyResult<u32> {
        self.0.with(py, |own| own.relative_error_ppm())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(usize::try_from(self.count(py)?).unwrap_or(usize::MAX))
    }

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.count(py)? > 0)
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        match other.cast::<Self>() {
            Ok(other) => Ok(self.copy(py)? == other.get().copy(py)?),
            Err(_) => Ok(false),
        }
    }

    /// The histogram as text.
    fn to_json(&self, py: Python<'_>) -> PyResult<String> {
        serde_json::to_string(&self.copy(py)?).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// The histogram of ``to_json``.
    #[classmethod]
    fn from_json(class: &Bound<'_, PyType>, text: &str) -> PyResult<Self> {
        let own = serde_json::from_str(text).map_err(|error| outside::json(class.py(), "text", &error))?;
        Ok(Self(Guarded::new(own)))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.get_type().getattr("from_json")?, (slf.get().to_json(slf.py())?,)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Histogram of {}>", self.count(py)?))
    }
}

impl PyHistogram {
    fn copy(&self, py: Python<'_>) -> PyResult<Histogram> {
        self.0.with(py, |own| own.clone())
    }
}
