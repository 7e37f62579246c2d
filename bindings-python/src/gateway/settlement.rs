//! What one job cost, as the host writes it down.

use libgateway::{Money, Settlement, Timestamp};
use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyTuple};

use crate::calling::Calling;
use crate::convert::decimal;
use crate::ids::PyJobId;
use crate::spec::{quoted, value};
use crate::values::{ToPy, device_times};
use crate::words::Word;

/// What one job cost. Each job that ended has exactly one first entry, and a correction for each usage that was told late.
/// A host drops an entry whose ``epoch`` and ``number`` it has, a first entry of a job that it has a first entry of from another
/// epoch, and a correction of an entry that it dropped; one whose ``lease`` and ``revision`` it has from another epoch takes the
/// place of that one and of those of the lease that followed it there. What a customer owes is the sum of ``charge`` less the sum
/// of ``correction.charge_credit``. ``to_json`` is a line for a ledger.
#[pyclass(module = "libgateway", name = "Settlement", frozen, weakref)]
pub(crate) struct PySettlement(pub(crate) Settlement);

value!(PySettlement, Settlement);

#[crate::argument::named]
#[pymethods]
impl PySettlement {
    /// The life of the gateway that its number belongs to: in which the job ended, in a correction in which it was told.
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch.as_u64()
    }

    /// Its number, without gaps within an epoch.
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

    /// GPU time that was reported of the attempts the customer pays for, in nanoseconds; in a correction, of its lease.
    #[getter]
    fn reported_ns(&self) -> u64 {
        self.0.reported.as_nanos()
    }

    /// Whether less was billed or absorbed than was reported.
    #[getter]
    fn capped(&self) -> bool {
        self.0.capped
    }

    /// GPU time the customer pays for, in nanoseconds; in a correction, what is added.
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

    /// Whether every attempt the customer pays for was measured; otherwise some of ``usage_ns`` is lease time.
    #[getter]
    fn measured(&self) -> bool {
        self.0.measured
    }

    /// Devices of all attempts the customer pays for, a tuple of ``DeviceTime``: up to 64 by name, the rest in one named ``""``.
    #[getter]
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        device_times(py, &self.0.devices)
    }

    /// Price tier.
    #[getter]
    fn tier(&self) -> &str {
        &self.0.tier
    }

    /// The price as a text, ``"0.0084/h"``; ``None`` where the book has none.
    #[getter]
    fn price(&self) -> Option<String> {
        self.0.price.map(|price| price.to_string())
    }

    /// Version of the price book.
    #[getter]
    fn price_version(&self) -> u32 {
        self.0.price_version
    }

    /// What it costs in micro-units; ``None`` where the book has no price.
    #[getter]
    fn charge_micros(&self) -> Option<u64> {
        self.0.charge.map(Money::as_micros)
    }

    /// The same, a ``Decimal``.
    #[getter]
    fn charge<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.charge.map(|charge| decimal(py, &charge.to_string())).transpose()
    }

    /// What makes it a correction, a ``Correction``; ``None``: it is the first entry of its job.
    #[getter]
    fn correction<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.correction.map(|own| own.to_py(py)).transpose()
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

    /// Attempts that failed; those that were lost, given back or preempted are ``requeues``.
    #[getter]
    fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Returns to the queue that were not the job's fault.
    #[getter]
    fn requeues(&self) -> u32 {
        self.0.requeues
    }

    fn __repr__(&self) -> String {
        let Settlement { number, job, customer, usage, charge, .. } = &self.0;
        let charge = charge.map_or_else(|| "an unknown price".to_owned(), |charge| charge.to_string());
        format!("<Settlement {number} of {job}: {} pays {charge} for {usage} GPU-seconds>", quoted(customer))
    }
}

/// An aware ``datetime`` in UTC, cut to microseconds.
fn instant(py: Python<'_>, at: Timestamp) -> PyResult<Bound<'_, PyDateTime>> {
    let _calling = Calling::begin(py);
    let instant = py.import("libgateway.values")?.getattr("instant")?;
    Ok(instant.call1((at.as_nanos(),))?.cast_into::<PyDateTime>()?)
}
