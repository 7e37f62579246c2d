//! The job store by itself.

use libgateway::error::InputError;
use libgateway::{Failure, JobFailure, JobState, JobStore, JobStoreConfig, NewJob, Output, Timestamp};
use pyo3::prelude::*;

use crate::argument::Argument;
use crate::convert::{Body, Moment, Seconds, or_now};
use crate::errors::{OrRaise, Raise};
use crate::guard::Guarded;
use crate::ids::{JobArg, JobAsked, PyJobId, fresh};
use crate::policy::{PyTimeouts, progress_of};
use crate::spec::PyFailure;
use crate::text::Words;
use crate::values::ToPy;
use crate::words::{FailureKind, In};

/// Jobs by id, each with one state that only moves as the lifecycle table says.
///
/// ``start`` numbers the attempt; an answer of an attempt that is no longer the present one is refused.
///
/// >>> from libgateway import JobStore, StaleAttemptError
/// >>> store = JobStore(now_ns=0)
/// >>> job = store.insert("acme", "a red fox", now_ns=0)
/// >>> lost = store.start(job, now_ns=0)
/// >>> store.requeue(job, lost, now_ns=0)
/// >>> attempt = store.start(job, now_ns=0)
/// >>> try:
/// ...     store.complete(job, lost, "late.webp", now_ns=0)
/// ... except StaleAttemptError as error:
/// ...     error.code
/// 'stale_attempt'
/// >>> store.complete(job, attempt, "1.webp", now_ns=0)
/// >>> str(store.get(job).state), store.get(job).outcome.output
/// ('complete', '1.webp')
#[pyclass(module = "libgateway", name = "JobStore", frozen, weakref)]
pub(crate) struct PyJobStore(Guarded<JobStore>);

#[crate::argument::named]
#[pymethods]
impl PyJobStore {
    #[new]
    #[pyo3(signature = (*, jobs_max=JobStoreConfig::default().jobs_max,
                        retain_for=Seconds(JobStoreConfig::default().retain_for),
                        retained_max=JobStoreConfig::default().retained_max,
                        retained_bytes_max=JobStoreConfig::default().retained_bytes_max,
                        idempotency_for=Seconds(JobStoreConfig::default().idempotency_for),
                        idempotency_keys_max=JobStoreConfig::default().idempotency_keys_max,
                        idempotency_free_failed=JobStoreConfig::default().idempotency_free_failed,
                        idempotency_free_cancelled=JobStoreConfig::default().idempotency_free_cancelled,
                        payload_len_max=JobStoreConfig::default().payload_len_max,
                        timeouts=None, seed=JobStoreConfig::default().seed, now_ns=None),
        text_signature = "(*, jobs_max=1000000, retain_for=3600, retained_max=100000, retained_bytes_max=1073741824, \
                        idempotency_for=86400, idempotency_keys_max=1000000, idempotency_free_failed=False, \
                        idempotency_free_cancelled=False, payload_len_max=10485760, \
                        timeouts=None, seed=0, now_ns=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        jobs_max: u32,
        retain_for: Seconds,
        retained_max: u32,
        retained_bytes_max: u64,
        idempotency_for: Seconds,
        idempotency_keys_max: u32,
        idempotency_free_failed: bool,
        idempotency_free_cancelled: bool,
        payload_len_max: u32,
        timeouts: Option<&Bound<'_, PyTimeouts>>,
        seed: u64,
        now_ns: Option<Moment>,
    ) -> PyResult<Self> {
        if jobs_max == 0 {
            // The core has it keep nothing; here nobody can have meant that.
            let error = InputError::OutOfRange { field: "jobs_max", value: 0, min: 1, max: u64::from(u32::MAX) };
            return Err(error.raise(py));
        }
        let config = JobStoreConfig::default().jobs_max(jobs_max).retain_for(retain_for.0).retained_max(retained_max);
        let timeouts = timeouts.map(|own| own.get().0).unwrap_or_default();
        let config = config.retained_bytes_max(retained_bytes_max).idempotency_for(idempotency_for.0);
        let config = config.idempotency_keys_max(idempotency_keys_max).idempotency_free_failed(idempotency_free_failed);
        let config = config.idempotency_free_cancelled(idempotency_free_cancelled);
        let config = config.payload_len_max(payload_len_max).timeouts(timeouts).seed(seed);
        Ok(Self(Guarded::new(JobStore::new(config, or_now(now_ns)))))
    }

    /// Stores a job. Returns its id, or that of the job its idempotency key stands for already.
    #[pyo3(signature = (customer, payload=None, *, idempotency_key=None, timeouts=None, id=None, now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn insert(
        &self,
        py: Python<'_>,
        customer: &str,
        payload: Option<Body>,
        idempotency_key: Option<&str>,
        timeouts: Option<&Bound<'_, PyTimeouts>>,
        id: Option<JobArg>,
        now_ns: Option<Moment>,
    ) -> PyResult<PyJobId> {
        let id = id.map_or_else(|| fresh(py), |id| Ok(id.0))?;
        let mut job = NewJob::new(id, customer);
        job.payload = payload.map(|body| body.0).unwrap_or_default();
        job.idempotency_key = idempotency_key;
        job.timeouts = timeouts.map(|own| own.get().0).unwrap_or_default();
        let now = or_now(now_ns);
        self.0.with(py, |store| store.insert(now, job))?.or_raise(py).map(PyJobId)
    }

    /// Lets a queued job run. Returns the number of the attempt, from 1.
    #[pyo3(signature = (job, *, now_ns=None))]
    fn start(&self, py: Python<'_>, job: JobArg, now_ns: Option<Moment>) -> PyResult<u32> {
        let now = or_now(now_ns);
        self.0.with(py, |store| store.start(now, job.0))?.or_raise(py)
    }

    /// Takes an attempt's result: ``str`` is a URL, ``bytes`` the result itself.
    #[pyo3(signature = (job, attempt, output, *, now_ns=None))]
    fn complete(
        &self,
        py: Python<'_>,
        job: JobArg,
        attempt: u32,
        output: OutputArg,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let now = or_now(now_ns);
        self.0.with(py, |store| store.complete(now, job.0, attempt, output.0))?.or_raise(py)
    }

    /// Ends a job in error, as its attempt failed: for good, whatever the kind. A store has no policy and no timer, so it
    /// tries nothing again: where the host does, it calls ``requeue`` instead. (``Gateway.fail`` has both, and decides
    /// itself.) ``kind`` is a ``Failure``, or its kind with particulars. ``retriable`` is kept for who reads the outcome.
    ///
    /// >>> from libgateway import JobStore
    /// >>> store = JobStore(now_ns=0)
    /// >>> job = store.insert("acme", now_ns=0)
    /// >>> store.requeue(job, store.start(job, now_ns=0), now_ns=0)  # The first attempt failed: once more.
    /// >>> store.fail(job, store.start(job, now_ns=0), "timeout", now_ns=0)  # The second one, too: that is all.
    /// >>> str(store.get(job).state), store.get(job).attempt
    /// ('error', 2)
    #[pyo3(signature = (job, attempt, kind, message=Words::default(), *, status=None, retriable=false, now_ns=None),
        text_signature = "($self, job, attempt, kind, message='', *, status=None, retriable=False, now_ns=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn fail(
        &self,
        py: Python<'_>,
        job: JobArg,
        attempt: u32,
        kind: &Bound<'_, PyAny>,
        message: Words<'_>,
        status: Option<u16>,
        retriable: bool,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let failure = match kind.cast::<PyFailure>() {
            Ok(own) => {
                let Failure { class, message, retriable: told, .. } = own.get().0.clone();
                JobFailure { class, message: message.into(), retriable: told.unwrap_or(retriable) }
            }
            Err(_) => {
                let class = In::<FailureKind>::take(kind, "kind")?.0.class(status).or_raise(py)?;
                JobFailure { class, message: message.0.into(), retriable }
            }
        };
        let now = or_now(now_ns);
        self.0.with(py, |store| store.fail(now, job.0, attempt, failure))?.or_raise(py)
    }

    /// Ends an attempt without a verdict: the job waits again.
    #[pyo3(signature = (job, attempt, *, now_ns=None))]
    fn requeue(&self, py: Python<'_>, job: JobArg, attempt: u32, now_ns: Option<Moment>) -> PyResult<()> {
        let now = or_now(now_ns);
        self.0.with(py, |store| store.requeue(now, job.0, attempt))?.or_raise(py)
    }

    /// Tells how far an attempt is, as a fraction from 0 to 1 or as ``ppm``, parts per million. ``progress_ppm``, or an
    /// integer by position, is the old way to write ``ppm``.
    #[pyo3(signature = (job, attempt, progress=None, *, ppm=None, progress_ppm=None, now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn progress(
        &self,
        py: Python<'_>,
        job: JobArg,
        attempt: u32,
        progress: Option<&Bound<'_, PyAny>>,
        ppm: Option<u32>,
        progress_ppm: Option<u32>,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let now = or_now(now_ns);
        let Some(ppm) = progress_of(py, progress, ppm, progress_ppm, 1)? else {
            return Err(InputError::Empty { field: "progress" }.raise(py));
        };
        self.0.with(py, |store| store.progress(now, job.0, attempt, ppm))?.or_raise(py)
    }

    /// Gives a job up, waiting or running.
    #[pyo3(signature = (job, *, now_ns=None))]
    fn cancel(&self, py: Python<'_>, job: JobArg, now_ns: Option<Moment>) -> PyResult<()> {
        let now = or_now(now_ns);
        self.0.with(py, |store| store.cancel(now, job.0))?.or_raise(py)
    }

    /// Removes the record of a job that has ended.
    #[pyo3(signature = (job, *, now_ns=None))]
    fn delete(&self, py: Python<'_>, job: JobArg, now_ns: Option<Moment>) -> PyResult<()> {
        let now = or_now(now_ns);
        self.0.with(py, |store| store.delete(now, job.0))?.or_raise(py)
    }

    /// A job, a ``StoredJob``; ``None``: no job of that id is known (any more).
    fn get<'py>(&self, py: Python<'py>, job: JobAsked) -> PyResult<Option<Bound<'py, PyAny>>> {
        let found = self.0.with(py, |store| store.get(job.0?))?;
        found.map(|found| found.to_py(py)).transpose()
    }

    /// The job a customer inserted under an idempotency key.
    fn by_key(&self, py: Python<'_>, customer: &str, key: &str) -> PyResult<Option<PyJobId>> {
        Ok(self.0.with(py, |store| store.by_key(customer, key))?.map(PyJobId))
    }

    /// How many known jobs are in a state.
    fn count(&self, py: Python<'_>, state: In<JobState>) -> PyResult<u32> {
        self.0.with(py, |store| store.count(state.0))
    }

    /// Handles what is due. Returns how much was; every call does it first.
    #[pyo3(signature = (*, now_ns=None))]
    fn handle_timeout(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<u32> {
        let now = or_now(now_ns);
        self.0.with(py, |store| store.handle_timeout(now))
    }

    /// When something falls due next, in nanoseconds.
    #[getter]
    fn next_deadline_ns(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.0.with(py, |store| store.next_deadline())?.map(Timestamp::as_nanos))
    }

    fn __contains__(&self, py: Python<'_>, job: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(JobAsked(Some(job))) = JobAsked::take(job, "job") else { return Ok(false) };
        self.0.with(py, |store| store.get(job).is_some())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let [queued, running] =
            self.0.with(py, |store| [JobState::Queued, JobState::Running].map(|state| store.count(state)))?;
        Ok(format!("<JobStore: {queued} queued, {running} running>"))
    }
}

/// A result as callers give it: ``str`` is a URL, anything like bytes the result itself.
pub(crate) struct OutputArg(pub(crate) Output);

impl<'py> Argument<'_, 'py> for OutputArg {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        match value.is_instance_of::<pyo3::types::PyString>() {
            true => <&str>::take(value, name).map(|text| Self(Output::url(text))),
            false => Body::take(value, name).map(|body| Self(Output::inline(body.0))),
        }
    }
}
