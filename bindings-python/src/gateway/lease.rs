//! A job on a backend: the right to work for it, and the block that ends in one of three ways.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use libgateway::error::LeaseError;
use libgateway::{
    AfterFailure, Failure, FailureClass, Gateway, JobId, Lease, LeaseId, Money, Settled, Timestamp, Usage,
};
use pyo3::exceptions::{PyConnectionError, PyException, PyTimeoutError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::PyGateway;
use super::jobs::{heard, retry_at};
use crate::argument::Argument;
use crate::calling::{Calling, Kept};
use crate::convert::{GpuSeconds, Moment, Seconds, decimal};
use crate::errors::{OrRaise, Own, Raise, beside, own};
use crate::ids::PyJobId;
use crate::policy::ppm_of;
use crate::spec::{PyFailure, PyUsage, failure_of, usage_of};
use crate::store::OutputArg;
use crate::text::{Words, words};
use crate::words::{FailureKind, In, Word};

/// A job on a backend: the right to work for it until the deadline, and to say how it went.
///
/// As a context manager it ends as the block does. Leave it by ``complete``, ``fail`` or ``release``; an exception fails it
/// (``TimeoutError`` as ``timeout``, ``ConnectionError`` as ``connection``, any other as ``backend``; a group as what all in
/// it are) and goes on; what is no ``Exception`` (a cancelled task, Ctrl-C) gives it back. A block that ends without a word has failed with kind
/// ``backend``, and ``NoResultError`` says so.
///
/// A word that is refused (an output that is too long, a usage that cannot be) ends nothing: the lease is still the block's,
/// and another word may follow. Where the refusal itself leaves the block, the attempt has failed as ``backend``, and the job
/// is tried again as often as the gateway's ``backoff`` allows. What goes wrong while the block ends stands beside the
/// exception that left it, as its ``__context__``, and never in its place.
///
/// Where the lease was taken from it meanwhile (its job cancelled or preempted, its
/// backend evicted, its time over), each word raises ``SupersededError``, and the end of the block raises nothing.
///
/// A lease that was granted at a ``now_ns`` keeps to such instants: what is said of it without one, and the end of its block,
/// happens at the latest instant the gateway was told, and not at that of the clock.
#[pyclass(module = "libgateway", name = "Lease", frozen, weakref)]
pub(crate) struct PyLease {
    gateway: Py<PyGateway>,
    lease: Lease,
    /// Whether it was granted at an instant that was given, and not at that of the clock.
    timed: bool,
    /// Whether its end was told here.
    ended: AtomicBool,
}

#[crate::argument::named]
#[pymethods]
impl PyLease {
    /// Its number: what every word about it carries.
    #[getter(id)]
    fn number(&self) -> u64 {
        self.lease.id.as_u64()
    }

    /// The job.
    #[getter]
    fn job(&self) -> PyJobId {
        PyJobId(self.lease.job)
    }

    /// Who asked.
    #[getter]
    fn customer(&self) -> &str {
        &self.lease.customer
    }

    /// The backend it is for.
    #[getter]
    fn backend(&self) -> &str {
        &self.lease.backend
    }

    /// Modality, family and model, and the engine where one was wanted.
    #[getter]
    fn route(&self) -> &str {
        &self.lease.route
    }

    /// What to do, a ``Task``.
    #[getter]
    fn task<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.lease.task.member(py)
    }

    /// What to do it with.
    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.lease.payload.as_bytes())
    }

    /// Which lease of its job this is, from 1: those that failed count, and those that were lost, given back or preempted.
    /// (``JobView.attempts`` counts the failed ones alone.)
    #[getter]
    fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// When the lease would have ended if nothing had been heard, as it was granted; ``heartbeat`` returns newer ones.
    #[getter]
    fn deadline_ns(&self) -> u64 {
        self.lease.deadline.as_nanos()
    }

    /// Whether the backend was warm for the job's affinity key.
    #[getter]
    fn warm(&self) -> bool {
        self.lease.warm
    }

    /// Whether this is the probe of a half-open breaker.
    #[getter]
    fn probe(&self) -> bool {
        self.lease.probe
    }

    /// Whether its end was told through this object.
    #[getter]
    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Takes the result, see ``Gateway.complete``.
    #[pyo3(signature = (output, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn complete(
        &self,
        py: Python<'_>,
        output: Told<OutputArg>,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<Told<GpuSeconds>>,
        gpu_ns: Option<Told<u64>>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<PySettled> {
        let usage = self.usage(py, usage, gpu_seconds, gpu_ns, device)?;
        let id = self.lease.id;
        let output = self.told(py, output)?.0;
        let settled = self.say(py, now_ns, |core, now| core.complete(now, id, output, usage))?;
        self.word(py, self.ends(settled)).map(PySettled)
    }

    /// Takes the failure, see ``Gateway.fail``.
    #[pyo3(signature = (failure, message=Words::default(), *, status=None, retry_after=None, retriable=None, usage=None,
                        gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None),
        text_signature = "($self, failure, message='', *, status=None, retry_after=None, retriable=None, usage=None, \
                        gpu_seconds=None, gpu_ns=None, device='gpu', now_ns=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn fail(
        &self,
        py: Python<'_>,
        failure: &Bound<'_, PyAny>,
        message: Words<'_>,
        status: Option<u16>,
        retry_after: Option<Seconds>,
        retriable: Option<bool>,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<Told<GpuSeconds>>,
        gpu_ns: Option<Told<u64>>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<Option<u64>> {
        let failure = match failure.cast::<PyFailure>() {
            Ok(failure) => failure.get().0.clone(),
            Err(_) => {
                let failure = In::<FailureKind>::take(failure, "failure")
                    .and_then(|kind| failure_of(py, kind, &message.0, status, retry_after, retriable));
                failure.map_err(|error| self.refused(py, error))?
            }
        };
        let usage = self.usage(py, usage, gpu_seconds, gpu_ns, device)?;
        let id = self.lease.id;
        let after = self.say(py, now_ns, |core, now| core.fail(now, id, failure, usage))?;
        Ok(retry_at(self.word(py, self.ends(after))?))
    }

    /// Gives it back, see ``Gateway.release``. The job waits again, before what its customer submitted later: at once, or with
    /// ``not_before_ns`` to run no earlier than that instant.
    ///
    /// >>> from libgateway import Backend, Gateway
    /// >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")], now_ns=0)
    /// >>> job = gateway.submit("acme", "image/flux/dev/t2i", now_ns=0)
    /// >>> with gateway.lease(now_ns=0) as lease:  # The checkpoint is still being copied.
    /// ...     released = lease.release(not_before_ns=10_000_000_000)
    /// >>> gateway.dispatch(now_ns=9_999_999_999) is None, gateway.dispatch(now_ns=10_000_000_000).attempt
    /// (True, 2)
    /// >>> gateway.job(job).attempts, gateway.job(job).requeues
    /// (0, 1)
    #[pyo3(signature = (*, not_before_ns=None, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn release(
        &self,
        py: Python<'_>,
        not_before_ns: Option<Moment>,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<Told<GpuSeconds>>,
        gpu_ns: Option<Told<u64>>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<PyJobId> {
        let usage = self.usage(py, usage, gpu_seconds, gpu_ns, device)?;
        let id = self.lease.id;
        let job = self.say(py, now_ns, |core, now| give_back(core, now, id, not_before_ns, usage))?;
        self.word(py, self.ends(job)).map(PyJobId)
    }

    /// Gives its job up, as long as it is the job's live lease: nobody waits for the result any more.
    #[pyo3(signature = (*, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    fn cancel(
        &self,
        py: Python<'_>,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<Told<GpuSeconds>>,
        gpu_ns: Option<Told<u64>>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<PyJobId> {
        let usage = self.usage(py, usage, gpu_seconds, gpu_ns, device)?;
        let id = self.lease.id;
        let job = self.say(py, now_ns, |core, now| core.cancel_lease(now, id, usage))?;
        self.word(py, self.ends(job)).map(PyJobId)
    }

    /// Tells that its worker lives. Returns the new deadline in nanoseconds.
    #[pyo3(signature = (*, now_ns=None))]
    fn heartbeat(&self, py: Python<'_>, now_ns: Option<Moment>) -> PyResult<u64> {
        let id = self.lease.id;
        let deadline = self.say(py, now_ns, |core, now| core.heartbeat(now, id))?;
        Ok(self.word(py, deadline)?.as_nanos())
    }

    /// Tells how far the job is, as a fraction from 0 to 1 or as ``ppm``, parts per million; counts as a heartbeat, and is
    /// nothing else where no number is given. Returns the new deadline.
    #[pyo3(signature = (progress=None, *, ppm=None, now_ns=None))]
    fn progress(
        &self,
        py: Python<'_>,
        progress: Option<f64>,
        ppm: Option<u32>,
        now_ns: Option<Moment>,
    ) -> PyResult<u64> {
        let ppm = ppm_of(py, "progress", 0..=1, progress, ppm).map_err(|error| self.refused(py, error))?;
        let id = self.lease.id;
        let deadline = self.say(py, now_ns, |core, now| heard(core, now, id, ppm))?;
        Ok(self.word(py, deadline)?.as_nanos())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (exc_type, exc, _traceback))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: Option<&Bound<'_, PyAny>>,
        exc: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(exc) = exc.filter(|_| exc_type.is_some()) else {
            let failed = self.say(py, None, |core, now| self.fails(core, now, FailureClass::Backend, SILENT, None))?;
            return match self.ends(failed) {
                Ok(_) => Err(own(py, Own::NoResult)),
                // Cancelled or lost in between: it has ended, and nobody waits for its result.
                Err(error) if is_over(&error) => Ok(false),
                Err(error) => Err(error.raise(py)),
            };
        };
        match self.left_by(py, exc) {
            Ok(()) => Ok(false),
            Err(error) => beside(exc, error).map(|()| false),
        }
    }

    fn __repr__(&self) -> String {
        let Lease { id, job, backend, attempt, .. } = &self.lease;
        format!("<Lease {} of {job} on {backend}, attempt {attempt}>", id.as_u64())
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let same = |other: &Self| other.lease.id == self.lease.id && other.gateway.is(&self.gateway);
        other.cast::<Self>().is_ok_and(|other| same(other.get()))
    }

    fn __hash__(&self) -> u64 {
        self.lease.id.as_u64()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.gateway)
    }
}

impl PyLease {
    #[inline]
    pub(super) fn new<'py>(gateway: &Bound<'py, PyGateway>, lease: Lease, timed: bool) -> PyResult<Bound<'py, Self>> {
        // Garbage is collected where something new can be part of it.
        let _calling = Calling::begin(gateway.py());
        let own = Self { gateway: gateway.clone().unbind(), lease, timed, ended: AtomicBool::new(false) };
        Bound::new(gateway.py(), own)
    }

    /// Says something of it, at the instant given or at the one it keeps to.
    fn say<R: Send>(
        &self,
        py: Python<'_>,
        now: Option<Moment>,
        body: impl Send + FnOnce(&mut Gateway, Timestamp) -> R,
    ) -> PyResult<R> {
        let gateway = self.gateway.bind(py);
        let now = match now {
            None if self.timed => Some(Moment(gateway.get().latest(py)?)),
            now => now,
        };
        PyGateway::command(gateway, now, body)
    }

    #[inline]
    pub(super) fn id(&self) -> LeaseId {
        self.lease.id
    }

    /// Ends it as a block does that an exception leaves.
    fn left_by(&self, py: Python<'_>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let told = if exc.is_instance_of::<PyException>() {
            let calling = Calling::begin(py);
            let (causes, message) = (causes_of(exc)?, message_of(exc)?);
            let class = class_of(&causes)?;
            let retriable = causes.iter().all(|cause| self.was_refused(cause)).then_some(true);
            drop(calling);
            self.say(py, None, |core, now| self.fails(core, now, class, &message, retriable))?.map(|_| ())
        } else {
            let id = self.lease.id;
            self.say(py, None, |core, now| core.release(now, id))?.map(|_| ())
        };
        match self.ends(told) {
            Err(error) if !is_over(&error) => Err(error.raise(py)),
            _ => Ok(()),
        }
    }

    /// Fails it with as many of the words as the gateway takes.
    fn fails(
        &self,
        core: &mut Gateway,
        now: Timestamp,
        class: FailureClass,
        message: &str,
        retriable: Option<bool>,
    ) -> Result<AfterFailure, LeaseError> {
        let max = core.config().output_len_max as usize;
        let end = (0..=message.len().min(max)).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        let mut failure = Failure::new(class, message.get(..end).unwrap_or_default());
        failure.retriable = retriable;
        core.fail(now, self.lease.id, failure, Usage::unmeasured())
    }

    /// An argument of a word about it.
    fn told<T>(&self, py: Python<'_>, told: Told<T>) -> PyResult<T> {
        told.0.map_err(|error| self.refused(py, error))
    }

    fn usage<'a>(
        &self,
        py: Python<'_>,
        usage: Option<&'a Bound<'_, PyUsage>>,
        gpu_seconds: Option<Told<GpuSeconds>>,
        gpu_ns: Option<Told<u64>>,
        device: &'a str,
    ) -> PyResult<Usage<'a>> {
        let gpu_seconds = gpu_seconds.map(|told| self.told(py, told)).transpose()?;
        let gpu_ns = gpu_ns.map(|told| self.told(py, told)).transpose()?;
        usage_of(py, usage, gpu_seconds, gpu_ns, device).map_err(|error| self.refused(py, error))
    }

    /// What came of a word about it.
    fn word<T>(&self, py: Python<'_>, result: Result<T, LeaseError>) -> PyResult<T> {
        result.or_raise(py).map_err(|error| self.refused(py, error))
    }

    fn refused(&self, py: Python<'_>, error: PyErr) -> PyErr {
        refused(self.gateway.bind(py), [self.lease.id], error)
    }

    /// Whether an exception says that a word about this lease was refused.
    fn was_refused(&self, exc: &Bound<'_, PyAny>) -> bool {
        let marked =
            exc.getattr(intern!(exc.py(), "_refused")).and_then(|marked| marked.extract::<(usize, Vec<u64>)>());
        let gateway = self.gateway.as_ptr().addr();
        marked.is_ok_and(|(own, leases)| own == gateway && leases.contains(&self.lease.id.as_u64()))
    }

    /// Remembers that the lease has ended, by this word or before it.
    #[inline]
    fn ends<T>(&self, result: Result<T, LeaseError>) -> Result<T, LeaseError> {
        if result.as_ref().err().is_none_or(is_over) {
            self.ended.store(true, Ordering::Relaxed);
        }
        result
    }
}

/// Marks an exception: it says that a word about these leases was refused, and is no failure of their jobs.
pub(super) fn refused(
    gateway: &Bound<'_, PyGateway>,
    leases: impl IntoIterator<Item = LeaseId>,
    error: PyErr,
) -> PyErr {
    let py = gateway.py();
    let _calling = Calling::begin(py);
    let leases: Vec<u64> = leases.into_iter().map(LeaseId::as_u64).collect();
    // One that takes no attribute is told as it is.
    let _ = error.value(py).setattr(intern!(py, "_refused"), (gateway.as_ptr().addr(), leases));
    error
}

/// Gives a lease back, at once or until an instant.
pub(super) fn give_back(
    core: &mut Gateway,
    now: Timestamp,
    lease: LeaseId,
    not_before: Option<Moment>,
    usage: Usage<'_>,
) -> Result<JobId, LeaseError> {
    match not_before {
        None => core.release_with(now, lease, usage),
        Some(at) => core.release_until(now, lease, at.0, usage),
    }
}

fn is_over(error: &LeaseError) -> bool {
    matches!(error, LeaseError::Superseded { .. })
}

/// The exceptions of a group, of all groups in it, too; or the exception itself.
fn causes_of<'py>(exception: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let py = exception.py();
    // From Python 3.11 on.
    let group = py.import("builtins")?.getattr_opt("BaseExceptionGroup")?;
    if !group.is_some_and(|group| exception.is_instance(&group).unwrap_or(false)) {
        return Ok(vec![exception.clone()]);
    }
    let mut causes = Vec::new();
    for cause in exception.getattr(intern!(py, "exceptions"))?.try_iter()? {
        causes.extend(causes_of(&cause?)?);
    }
    Ok(causes)
}

/// The class of all of them, or that of a backend's own failure.
fn class_of(causes: &[Bound<'_, PyAny>]) -> PyResult<FailureClass> {
    let classes = causes.iter().map(class_of_one).collect::<PyResult<Vec<_>>>()?;
    let first = classes.first().copied().unwrap_or(FailureClass::Backend);
    Ok(if classes.iter().all(|class| *class == first) { first } else { FailureClass::Backend })
}

fn class_of_one(exception: &Bound<'_, PyAny>) -> PyResult<FailureClass> {
    // Before Python 3.11 the one of asyncio is another class.
    static TIMEOUT: Kept<Py<PyType>> = Kept::new();
    let py = exception.py();
    let timeout = TIMEOUT.class(py, "asyncio", "TimeoutError")?;
    if exception.is_instance_of::<PyTimeoutError>() || exception.is_instance(timeout)? {
        return Ok(FailureClass::Timeout);
    }
    if exception.is_instance_of::<PyConnectionError>() {
        return Ok(FailureClass::Connection);
    }
    Ok(FailureClass::Backend)
}

/// Type and words of an exception, of bounded length.
fn message_of(exception: &Bound<'_, PyAny>) -> PyResult<String> {
    let name = exception.get_type().name()?.to_string();
    // An exception whose text cannot be made still fails the job.
    let text = exception.str().and_then(|text| words(&text).map(Cow::into_owned)).unwrap_or_default();
    let message = if text.is_empty() { name } else { format!("{name}: {text}") };
    Ok(message.chars().take(MESSAGE_LEN_MAX).collect())
}

/// What a lease became when its result was taken.
#[pyclass(module = "libgateway", name = "Settled", frozen, weakref, eq)]
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct PySettled(pub(crate) Settled);

#[crate::argument::named]
#[pymethods]
impl PySettled {
    /// The job.
    #[getter]
    fn job(&self) -> PyJobId {
        PyJobId(self.0.job)
    }

    /// GPU time that was reported of the attempts the customer pays for, in nanoseconds.
    #[getter]
    fn reported_ns(&self) -> u64 {
        self.0.reported.as_nanos()
    }

    /// Whether less was billed or absorbed than was reported.
    #[getter]
    fn capped(&self) -> bool {
        self.0.capped
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

    /// What it costs in micro-units; ``None`` where the book has no price.
    #[getter]
    fn charge_micros(&self) -> Option<u64> {
        self.0.charge.map(Money::as_micros)
    }

    /// What it costs, a ``Decimal``; ``None`` where the book has no price.
    #[getter]
    fn charge<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.charge.map(|charge| decimal(py, &charge.to_string())).transpose()
    }

    fn __repr__(&self) -> String {
        let charge = self.0.charge.map_or_else(|| "unpriced".to_owned(), |charge| charge.to_string());
        format!("<Settled {}: {} GPU-seconds, {charge}>", self.0.job, self.0.usage)
    }
}

/// An argument that is looked at in the call itself, so that its refusal is one of the call's own.
struct Told<T>(PyResult<T>);

impl<'a, 'py, T: Argument<'a, 'py>> Argument<'a, 'py> for Told<T> {
    fn take(value: &'a Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        Ok(Self(T::take(value, name)))
    }
}

const MESSAGE_LEN_MAX: usize = 1_000;
const SILENT: &str = "the worker ended without a result";
