//! What one job cost, as the host writes it down.

use libgateway::{Settlement, Timestamp};
use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyTuple};

use crate::convert::decimal;
use crate::ids::PyJobId;
use crate::spec::{quoted, value};
use crate::values::device_times;
use crate::words::Word;

/// What one job cost. Each job that ended has exactly one. A host drops an entry whose ``epoch`` and ``number`` it has, and one
/// of a job that it has an entry of from another epoch. ``to_json`` is a line for a ledger.
#[pyclass(module = "libgateway", name = "Settlement", frozen)]
pub(crate) struct PySettlement(pub(crate) Settlement);

value!(PySettlement, Settlement);

#[pymethods]
impl PySettlement {
    /// The life of the gateway in which the job ended.
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch.as_u64()
    }

    /// Its number, without gaps.
    #[getter]
    fn number(&self) -> u64 {
        self.0.number
    }

    /// The job.
    #[getter]
    fn job(&self) -> PyJobId {
        PyJobId(self.0.job)
    }

    /// Who pays.
    #[getter]
    fn customer(&self) -> &str {
        &self.0.customer
    }

    /// Modality, family and model, and the engine where one was wanted.
    #[getter]
    fn route(&self) -> &str {
        &self.0.route
    }

    /// What it was, a ``Task``.
    #[getter]
    fn task<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.task.member(py)
    }

    /// How it ended, a ``JobState``.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.state.member(py)
    }

    /// The backend of its last attempt, if it ran.
    #[getter]
    fn backend(&self) -> Option<&str> {
        self.0.backend.as_deref()
    }

    /// GPU time the customer pays for, in nanoseconds.
    #[getter]
    fn usage_ns(&self) -> u64 {
        self.0.usage.as_nanos()
    }

    /// The same in seconds, a ``Decimal``.
    #[getter]
    fn gpu_seconds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        decimal(py, &self.0.usage.to_string())
    }

    /// GPU time nobody pays for, in nanoseconds.
    #[getter]
    fn absorbed_ns(&self) -> u64 {
        self.0.absorbed.as_nanos()
    }

    /// Whether all of ``usage_ns`` was measured; otherwise some is lease time.
    #[getter]
    fn measured(&self) -> bool {
        self.0.measured
    }

    /// Devices of the last attempt, a tuple of ``DeviceTime``.
    #[getter]
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        device_times(py, &self.0.devices)
    }

    /// Price tier.
    #[getter]
    fn tier(&self) -> &str {
        &self.0.tier
    }

    /// Price of a GPU-second in micro-units; ``None`` where the book has none.
    #[getter]
    fn price_micros(&self) -> Option<u64> {
        self.0.price.map(|price| price.as_micros())
    }

    /// The same, a ``Decimal``.
    #[getter]
    fn price<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.price.map(|price| decimal(py, &price.to_string())).transpose()
    }

    /// Version of the price book.
    #[getter]
    fn price_version(&self) -> u32 {
        self.0.price_version
    }

    /// What it costs in micro-units.
    #[getter]
    fn charge_micros(&self) -> u64 {
        self.0.charge.as_micros()
    }

    /// The same, a ``Decimal``.
    #[getter]
    fn charge<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        decimal(py, &self.0.charge.to_string())
    }

    /// When the job was submitted, in nanoseconds.
    #[getter]
    fn created_ns(&self) -> u64 {
        self.0.created.as_nanos()
    }

    /// When its last attempt began, in nanoseconds, if it ran.
    #[getter]
    fn started_ns(&self) -> Option<u64> {
        self.0.started.map(Timestamp::as_nanos)
    }

    /// When it ended, in nanoseconds.
    #[getter]
    fn finished_ns(&self) -> u64 {
        self.0.finished.as_nanos()
    }

    /// When the job was submitted.
    #[getter]
    fn created<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDateTime>> {
        instant(py, self.0.created)
    }

    /// When its last attempt began, if it ran.
    #[getter]
    fn started<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        self.0.started.map(|at| instant(py, at)).transpose()
    }

    /// When it ended.
    #[getter]
    fn finished<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDateTime>> {
        instant(py, self.0.finished)
    }

    /// Attempts that failed.
    #[getter]
    fn attempts(&self) -> u16 {
        self.0.attempts
    }

    /// Returns to the queue that were not the job's fault.
    #[getter]
    fn requeues(&self) -> u16 {
        self.0.requeues
    }

    fn __repr__(&self) -> String {
        let Settlement { number, job, customer, usage, charge, .. } = &self.0;
        format!("<Settlement {number} of {job}: {} pays {charge} for {usage} GPU-seconds>", quoted(customer))
    }
}

/// An aware ``datetime`` in UTC, cut to microseconds.
fn instant(py: Python<'_>, at: Timestamp) -> PyResult<Bound<'_, PyDateTime>> {
    let instant = py.import("libgateway.values")?.getattr("instant")?;
    Ok(instant.call1((at.as_nanos(),))?.cast_into::<PyDateTime>()?)
}
