//! What the gateway tells: jobs, reasons, backends, customers, numbers, events; and the watch of one job.

use libgateway::{BackendView, EventKind, Gateway, JobId, Watch, WatchEvent, WatchStep};
use pyo3::prelude::*;

use super::PyGateway;
use crate::guard::Guarded;
use crate::ids::{JobArg, JobAsked, PyJobId};
use crate::spec::PyBackend;
use crate::values::{ToPy, list};

#[crate::argument::named]
#[pymethods]
impl PyGateway {
    /// A job as it stands, a ``JobView``; ``None``: no job of that id is known (any more).
    fn job<'py>(&self, py: Python<'py>, job: JobAsked) -> PyResult<Option<Bound<'py, PyAny>>> {
        let found = self.core.with(py, |gateway| gateway.job(job.0?))?;
        found.map(|found| found.to_py(py)).transpose()
    }

    /// The job a customer submitted under an idempotency key.
    fn job_by_key(&self, py: Python<'_>, customer: &str, key: &str) -> PyResult<Option<PyJobId>> {
        Ok(self.core.with(py, |gateway| gateway.job_by_key(customer, key))?.map(PyJobId))
    }

    /// Why a job waits, a ``WaitReason``; ``None`` when it does not.
    fn explain<'py>(&self, py: Python<'py>, job: JobAsked) -> PyResult<Option<Bound<'py, PyAny>>> {
        let found = self.core.with(py, |gateway| gateway.explain(job.0?))?;
        found.map(|found| found.to_py(py)).transpose()
    }

    /// A backend as it stands, a ``BackendView``.
    fn backend(&self, py: Python<'_>, name: &str) -> PyResult<Option<PyBackendView>> {
        Ok(self.core.with(py, |gateway| gateway.backend(name))?.map(PyBackendView))
    }

    /// All backends in order of declaration.
    fn backends(&self, py: Python<'_>) -> PyResult<Vec<PyBackendView>> {
        Ok(self.core.with(py, |gateway| gateway.backends())?.into_iter().map(PyBackendView).collect())
    }

    /// The jobs that run on a backend, as ``JobView``: the lowest lane first, and within a lane the lease that was granted
    /// first. ``None``: there is no such backend.
    fn running_on<'py>(&self, py: Python<'py>, backend: &str) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
        let found = self.core.with(py, |gateway| gateway.running_on(backend))?;
        found.map(|found| found.iter().map(|job| job.to_py(py)).collect()).transpose()
    }

    /// A customer as it stands, a ``CustomerView``; ``None``: it has not asked for anything lately.
    fn customer<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let found = self.core.with(py, |gateway| gateway.customer(name))?;
        found.map(|found| found.to_py(py)).transpose()
    }

    /// Numbers of the whole gateway, a ``Stats``.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.core.with(py, |gateway| gateway.stats())?.to_py(py)
    }

    /// Fetches up to ``max`` events that were not fetched yet.
    #[pyo3(signature = (max=1_000))]
    fn poll_events<'py>(&self, py: Python<'py>, max: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let events = self.core.with(py, |gateway| (0..max).map_while(|_| gateway.poll_event()).collect::<Vec<_>>())?;
        list(py, &events)
    }

    /// Kept events from number ``first`` on, without fetching them.
    #[pyo3(signature = (first, max=1_000))]
    fn events_from<'py>(&self, py: Python<'py>, first: u64, max: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let events = self.core.with(py, |gateway| gateway.events_from(first).take(max).collect::<Vec<_>>())?;
        list(py, &events)
    }

    /// The watch of a job: ask it for news after each change.
    fn _watch(&self, job: JobArg) -> PyWatch {
        PyWatch(Guarded::new(Watch::new(job.0)))
    }

    /// How the job of a watch ended, an ``Outcome``; ``None``: it has not. False: it is not known (any more).
    fn _outcome<'py>(&self, py: Python<'py>, watch: &Bound<'_, PyWatch>) -> PyResult<Bound<'py, PyAny>> {
        let mut own = watch.get().0.with(py, |own| own.clone())?;
        let ended = self.core.with(py, move |gateway| {
            loop {
                match own.poll(gateway) {
                    WatchStep::Event(WatchEvent::Ended(outcome)) => return Ok(Some(outcome)),
                    WatchStep::Event(WatchEvent::Gone) => return Err(()),
                    WatchStep::Event(_) => {}
                    WatchStep::Wait | WatchStep::Done => return Ok(None),
                }
            }
        })?;
        match ended {
            Ok(Some(outcome)) => outcome.to_py(py),
            Ok(None) => Ok(py.None().into_bound(py)),
            Err(()) => Ok(pyo3::types::PyBool::new(py, false).to_owned().into_any()),
        }
    }

    /// What a watch has to tell, a ``WatchEvent``; ``None``: nothing new. False: the end was told.
    fn _poll<'py>(&self, py: Python<'py>, watch: &Bound<'_, PyWatch>) -> PyResult<Bound<'py, PyAny>> {
        let mut own = watch.get().0.with(py, |own| own.clone())?;
        let (own, step) = self.core.with(py, move |gateway| {
            let step = own.poll(gateway);
            (own, step)
        })?;
        watch.get().0.with(py, move |kept| *kept = own)?;
        match step {
            WatchStep::Event(event) => event.to_py(py),
            WatchStep::Wait => Ok(py.None().into_bound(py)),
            WatchStep::Done => Ok(pyo3::types::PyBool::new(py, false).to_owned().into_any()),
        }
    }
}

/// Where the watcher of a job is.
#[pyclass(module = "libgateway._native", name = "Watch", frozen)]
pub(crate) struct PyWatch(Guarded<Watch>);

/// A backend as it stands.
#[pyclass(module = "libgateway", name = "BackendView", frozen, weakref)]
pub(crate) struct PyBackendView(BackendView);

#[crate::argument::named]
#[pymethods]
impl PyBackendView {
    /// What was said of it, a ``Backend``.
    #[getter]
    fn backend(&self) -> PyBackend {
        PyBackend(self.0.backend.clone())
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.0.backend.name
    }

    /// Live leases.
    #[getter]
    fn live(&self) -> u32 {
        self.0.live
    }

    /// Whether it gets no new ones.
    #[getter]
    fn draining(&self) -> bool {
        self.0.draining
    }

    /// Its breaker, a ``BreakerStatus``.
    #[getter]
    fn breaker<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.breaker.to_py(py)
    }

    /// Leases that delivered.
    #[getter]
    fn completed(&self) -> u64 {
        self.0.completed
    }

    /// Leases that failed through its fault.
    #[getter]
    fn failed(&self) -> u64 {
        self.0.failed
    }

    /// Leases of which nothing was heard any more.
    #[getter]
    fn lost(&self) -> u64 {
        self.0.lost
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().0 == self.0)
    }

    fn __repr__(&self) -> String {
        let BackendView { backend, live, draining, .. } = &self.0;
        let draining = if *draining { ", draining" } else { "" };
        format!("<BackendView {}: {live} of {} slots{draining}>", backend.name, backend.slots)
    }
}

/// The number of the next event, the jobs told of from `from` on, or `None` where events are missing, and whether any
/// job waits.
pub(super) fn news(gateway: &Gateway, from: u64) -> (u64, Option<Vec<JobId>>, bool) {
    let queued = gateway.stats().queued > 0;
    let mut expected = from;
    let mut jobs = Vec::new();
    for event in gateway.events_from(from) {
        if event.number != expected {
            return (gateway.next_event(), None, queued);
        }
        expected += 1;
        let job = match event.kind {
            EventKind::Queued(job)
            | EventKind::Started(job)
            | EventKind::Progress(job)
            | EventKind::Retried(job)
            | EventKind::Requeued(job)
            | EventKind::Aged(job)
            | EventKind::Ended(job, _)
            | EventKind::Forgotten(job) => job,
            _ => continue,
        };
        if jobs.last() != Some(&job) {
            jobs.push(job);
        }
    }
    (gateway.next_event(), (expected == gateway.next_event()).then_some(jobs), queued)
}
