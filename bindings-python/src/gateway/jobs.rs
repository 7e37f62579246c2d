//! Commands on jobs and work.

use std::borrow::Cow;

use libgateway::error::LeaseError;
use libgateway::{AfterFailure, Dispatch, Lease, LeaseId, Priority, Submit, Timestamp};
use pyo3::prelude::*;
use pyo3::types::{PyList, PySequence};

use super::PyGateway;
use super::lease::{PyLease, PySettled, give_back, refused};
use crate::argument::{Argument, integer};
use crate::calling::Calling;
use crate::convert::{Body, GpuSeconds, Moment};
use crate::errors::{OrRaise, Raise, wrong_type};
use crate::ids::{JobArg, JobAsked, PyJobId, fresh};
use crate::policy::{PyTimeouts, progress_of};
use crate::spec::{PyFailure, PySubmit, PyUsage, RouteArg, failure_of, usage_of};
use crate::store::OutputArg;
use crate::text::Words;
use crate::values::ToPy;
use crate::words::{FailureKind, In};

#[crate::argument::named]
#[pymethods]
impl PyGateway {
    /// Takes a job in. Returns its id, or that of the job its idempotency key stands for already. With ``not_before_ns`` it
    /// may not run before that instant, and its clocks count from then on.
    #[pyo3(signature = (customer, route, payload=None, *, priority=None, estimate=None, tokens=1, affinity=None,
                        idempotency_key=None, timeouts=None, not_before_ns=None, id=None, now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn submit(
        slf: &Bound<'_, Self>,
        customer: &str,
        route: RouteArg<'_>,
        payload: Option<Body>,
        priority: Option<In<Priority>>,
        estimate: Option<GpuSeconds>,
        tokens: u64,
        affinity: Option<&str>,
        idempotency_key: Option<&str>,
        timeouts: Option<&Bound<'_, PyTimeouts>>,
        not_before_ns: Option<Moment>,
        id: Option<JobArg>,
        now_ns: Option<Moment>,
    ) -> PyResult<PyJobId> {
        let py = slf.py();
        let id = id.map_or_else(|| fresh(py), |id| Ok(id.0))?;
        let mut submit = Submit::new(id, customer, route.0);
        submit.tokens = tokens;
        submit.payload = payload.map(|body| body.0).unwrap_or_default();
        submit.priority = priority.map(|priority| priority.0).unwrap_or_default();
        submit.estimate = estimate.map(|gpu| gpu.0);
        submit.affinity = affinity.map(Cow::Borrowed);
        submit.idempotency_key = idempotency_key.map(Cow::Borrowed);
        submit.timeouts = timeouts.map(|own| own.get().0).unwrap_or_default();
        submit.not_before = not_before_ns.map(|at| at.0);
        Self::command(slf, now_ns, |gateway, now| gateway.submit(now, submit))?.or_raise(py).map(PyJobId)
    }

    /// Takes jobs in, one after the other. The list has the id of each, or the exception that it was refused with.
    #[pyo3(signature = (submits, *, now_ns=None))]
    fn submit_many<'py>(
        slf: &Bound<'py, Self>,
        submits: Vec<Bound<'py, PySubmit>>,
        now_ns: Option<Moment>,
    ) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let submits: Vec<Submit<'static>> = submits.iter().map(|submit| submit.get().0.clone()).collect();
        let results = Self::command_many(slf, now_ns, submits.len(), |gateway, now| {
            submits.into_iter().map(|submit| gateway.submit(now, submit)).collect::<Vec<_>>()
        })?;
        let told = results.into_iter().map(|result| match result {
            Ok(job) => PyJobId(job).into_pyobject(py).map(Bound::into_any),
            Err(error) => Ok(error.raise(py).into_value(py).into_bound(py).into_any()),
        });
        PyList::new(py, told.collect::<PyResult<Vec<_>>>()?)
    }

    /// Leases the next job to the best backend for it; ``None``: nothing can run now. With a ``route``, the next of that.
    #[pyo3(signature = (*, route=None, now_ns=None))]
    fn dispatch<'py>(
        slf: &Bound<'py, Self>,
        route: Option<RouteArg<'_>>,
        now_ns: Option<Moment>,
    ) -> PyResult<Option<Bound<'py, PyLease>>> {
        let dispatched = Self::command(slf, now_ns, |gateway, now| match &route {
            None => Ok(gateway.dispatch(now)),
            Some(route) => gateway.dispatch_route(now, &route.0),
        })?;
        let lease = dispatched.or_raise(slf.py())?.lease();
        lease.map(|lease| PyLease::new(slf, lease, now_ns.is_some())).transpose()
    }

    /// Leases up to ``n`` jobs, each to the best backend for it. An empty list: nothing can run now.
    #[pyo3(signature = (n, *, now_ns=None))]
    fn dispatch_many<'py>(slf: &Bound<'py, Self>, n: usize, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyList>> {
        let leases = Self::command_many(slf, now_ns, n, |gateway, now| {
            let mut leases = Vec::new();
            while leases.len() < n {
                let Dispatch::Lease(lease) = gateway.dispatch(now) else { break };
                leases.push(lease);
            }
            leases
        })?;
        Self::told(slf, leases, now_ns.is_some())
    }

    /// Leases up to ``n`` jobs of one route to a backend that asks for work. An empty list: nothing for it now.
    #[pyo3(signature = (backend, n=1, *, now_ns=None))]
    fn dispatch_to<'py>(
        slf: &Bound<'py, Self>,
        backend: &str,
        n: u32,
        now_ns: Option<Moment>,
    ) -> PyResult<Bound<'py, PyList>> {
        let leases = Self::command(slf, now_ns, |gateway, now| gateway.dispatch_to(now, backend, n))?;
        Self::told(slf, leases.or_raise(slf.py())?, now_ns.is_some())
    }

    /// Tells that a lease's worker lives. Returns the lease's new deadline in nanoseconds.
    #[pyo3(signature = (lease, *, now_ns=None))]
    fn heartbeat(slf: &Bound<'_, Self>, lease: LeaseArg, now_ns: Option<Moment>) -> PyResult<u64> {
        let deadline = Self::command(slf, now_ns, |gateway, now| gateway.heartbeat(now, lease.0))?;
        Ok(deadline.or_raise(slf.py())?.as_nanos())
    }

    /// Tells for each lease that its worker lives. The list has the new deadline of each, or ``None`` where it has ended.
    #[pyo3(signature = (leases, *, now_ns=None))]
    fn heartbeat_many(
        slf: &Bound<'_, Self>,
        leases: Vec<LeaseArg>,
        now_ns: Option<Moment>,
    ) -> PyResult<Vec<Option<u64>>> {
        Self::command_many(slf, now_ns, leases.len(), |gateway, now| {
            leases.iter().map(|lease| gateway.heartbeat(now, lease.0).ok().map(Timestamp::as_nanos)).collect()
        })
    }

    /// Tells how far a job is, as a fraction from 0 to 1 or as ``ppm``, parts per million; counts as a heartbeat, and is
    /// nothing else where no number is given. Returns the lease's new deadline. ``progress_ppm``, or an integer by position,
    /// is the old way to write ``ppm``.
    ///
    /// >>> from libgateway import Backend, Gateway
    /// >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")], now_ns=0)
    /// >>> job = gateway.submit("acme", "image/flux/dev/t2i", now_ns=0)
    /// >>> lease = gateway.dispatch(now_ns=0)
    /// >>> gateway.progress(lease, 0.25, now_ns=0), gateway.job(job).progress, gateway.job(job).progress_ppm
    /// (300000000000, 0.25, 250000)
    #[pyo3(signature = (lease, progress=None, *, ppm=None, progress_ppm=None, now_ns=None))]
    fn progress(
        slf: &Bound<'_, Self>,
        lease: LeaseArg,
        progress: Option<&Bound<'_, PyAny>>,
        ppm: Option<u32>,
        progress_ppm: Option<u32>,
        now_ns: Option<Moment>,
    ) -> PyResult<u64> {
        let ppm = progress_of(slf.py(), progress, ppm, progress_ppm, 1)?;
        let deadline = Self::command(slf, now_ns, |gateway, now| heard(gateway, now, lease.0, ppm))?;
        Self::word(slf, lease.0, deadline).map(Timestamp::as_nanos)
    }

    /// Takes a result: the job is complete, settled, and its slot free, in one change. ``str`` is a URL, ``bytes`` the result
    /// itself. Usage is told by ``gpu_seconds`` or ``gpu_ns`` of one ``device``, or by ``usage``; without any the lease's time
    /// is billed.
    #[pyo3(signature = (lease, output, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn complete(
        slf: &Bound<'_, Self>,
        lease: LeaseArg,
        output: OutputArg,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<PySettled> {
        let usage = usage_of(slf.py(), usage, gpu_seconds, gpu_ns, device)?;
        let settled = Self::command(slf, now_ns, |gateway, now| gateway.complete(now, lease.0, output.0, usage))?;
        Self::word(slf, lease.0, settled).map(PySettled)
    }

    /// Takes results, each ``(lease, output)`` or ``(lease, output, usage)``. The list has a ``Settled`` for each, or the
    /// exception it was refused with.
    #[pyo3(signature = (results, *, now_ns=None))]
    fn complete_many<'py>(
        slf: &Bound<'py, Self>,
        results: Vec<Bound<'py, PyAny>>,
        now_ns: Option<Moment>,
    ) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let calling = Calling::begin(py);
        let mut taken = Vec::with_capacity(results.len());
        for result in &results {
            let parts = result.cast::<PySequence>().ok().and_then(|parts| Some((parts, parts.len().ok()?)));
            let Some((parts, len @ 2..=3)) = parts else {
                return Err(wrong_type(result, "results", "(lease, output) or (lease, output, usage) for each"));
            };
            let usage = match len {
                2 => libgateway::Usage::unmeasured(),
                _ => <&Bound<'_, PyUsage>>::take(&parts.get_item(2)?, "results")?.get().0.clone(),
            };
            let lease = LeaseArg::take(&parts.get_item(0)?, "results")?;
            taken.push((lease.0, OutputArg::take(&parts.get_item(1)?, "results")?.0, usage));
        }
        drop(calling);
        let settled = Self::command_many(slf, now_ns, taken.len(), |gateway, now| {
            taken
                .into_iter()
                .map(|(lease, output, usage)| (lease, gateway.complete(now, lease, output, usage)))
                .collect::<Vec<_>>()
        })?;
        let told = settled.into_iter().map(|(lease, result)| match Self::word(slf, lease, result) {
            Ok(settled) => PySettled(settled).into_pyobject(py).map(Bound::into_any),
            Err(error) => Ok(error.into_value(py).into_bound(py).into_any()),
        });
        PyList::new(py, told.collect::<PyResult<Vec<_>>>()?)
    }

    /// Takes the failure of an attempt, a ``Failure`` or a kind with its particulars. Whether the job is tried again or ends in
    /// error is decided here, by the kind (or ``retriable``) and the gateway's ``backoff``. Returns the instant of the next
    /// attempt in nanoseconds, or ``None``: the job has ended in error. (``JobStore.fail`` has no such policy: it ends the job.)
    ///
    /// >>> from libgateway import Backend, Backoff, Gateway
    /// >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")],
    /// ...                   backoff=Backoff(base=1, jitter=0, retries=1), now_ns=0)
    /// >>> job = gateway.submit("acme", "image/flux/dev/t2i", now_ns=0)
    /// >>> gateway.fail(gateway.dispatch(now_ns=0), "timeout", now_ns=0), gateway.job(job).attempts
    /// (1000000000, 1)
    /// >>> gateway.fail(gateway.dispatch(now_ns=1_000_000_000), "timeout", now_ns=1_000_000_000) is None
    /// True
    /// >>> str(gateway.job(job).state), gateway.job(job).attempts
    /// ('error', 2)
    #[pyo3(signature = (lease, failure, message=Words::default(), *, status=None, retry_after=None, retriable=None, usage=None,
                        gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None),
        text_signature = "($self, lease, failure, message='', *, status=None, retry_after=None, retriable=None, usage=None, \
                        gpu_seconds=None, gpu_ns=None, device='gpu', now_ns=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn fail(
        slf: &Bound<'_, Self>,
        lease: LeaseArg,
        failure: &Bound<'_, PyAny>,
        message: Words<'_>,
        status: Option<u16>,
        retry_after: Option<crate::convert::Seconds>,
        retriable: Option<bool>,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<Option<u64>> {
        let py = slf.py();
        let failure = match failure.cast::<PyFailure>() {
            Ok(failure) => failure.get().0.clone(),
            Err(_) => {
                let kind = In::<FailureKind>::take(failure, "failure")?;
                failure_of(py, kind, &message.0, status, retry_after, retriable)?
            }
        };
        let usage = usage_of(py, usage, gpu_seconds, gpu_ns, device)?;
        let after = Self::command(slf, now_ns, |gateway, now| gateway.fail(now, lease.0, failure, usage))?;
        Ok(retry_at(Self::word(slf, lease.0, after)?))
    }

    /// Takes a lease back. The job waits again, before what its customer submitted later: at once, or with ``not_before_ns``
    /// to run no earlier than that instant, which is no failed attempt. It is in error when that happened more than
    /// ``releases_max`` times. What was used is paid for by the policy's ``released``.
    #[pyo3(signature = (lease, *, not_before_ns=None, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn release(
        slf: &Bound<'_, Self>,
        lease: LeaseArg,
        not_before_ns: Option<Moment>,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<PyJobId> {
        let usage = usage_of(slf.py(), usage, gpu_seconds, gpu_ns, device)?;
        let job = Self::command(slf, now_ns, |gateway, now| give_back(gateway, now, lease.0, not_before_ns, usage))?;
        Self::word(slf, lease.0, job).map(PyJobId)
    }

    /// Takes the lease of a job that runs back, to make room for another one. The job waits again at once, before what its
    /// customer submitted later. Returns the number of the lease, whose worker is to be stopped: its result is refused from
    /// now on. What it used is paid for by the policy's ``preempted``. A job that waits raises ``NotAllowedError``, and one
    /// that was preempted ``preemptions_max`` times ``PreemptedTooOftenError``.
    #[pyo3(signature = (job, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    fn preempt(
        slf: &Bound<'_, Self>,
        job: JobArg,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<u64> {
        let usage = usage_of(slf.py(), usage, gpu_seconds, gpu_ns, device)?;
        let lease = Self::command(slf, now_ns, |gateway, now| gateway.preempt(now, job.0, usage))?;
        Ok(lease.or_raise(slf.py())?.as_u64())
    }

    /// Gives a job up, waiting or running, with what its lease used, if it has one. A running one's worker hears so at its next
    /// word.
    #[pyo3(signature = (job, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    fn cancel(
        slf: &Bound<'_, Self>,
        job: JobArg,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let usage = usage_of(slf.py(), usage, gpu_seconds, gpu_ns, device)?;
        Self::command(slf, now_ns, |gateway, now| gateway.cancel_with(now, job.0, usage))?.or_raise(slf.py())
    }

    /// Gives up the job of a live lease: nobody waits for its result any more. Returns the job.
    #[pyo3(signature = (lease, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    fn cancel_lease(
        slf: &Bound<'_, Self>,
        lease: LeaseArg,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<PyJobId> {
        let usage = usage_of(slf.py(), usage, gpu_seconds, gpu_ns, device)?;
        let job = Self::command(slf, now_ns, |gateway, now| gateway.cancel_lease(now, lease.0, usage))?;
        Self::word(slf, lease.0, job).map(PyJobId)
    }

    /// Takes what a lease used that has ended, all of it, in the place of what was billed for it. Where its job is settled, the
    /// difference is a settlement of its own. A ``Corrected``.
    #[pyo3(signature = (lease, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    fn correct_usage<'py>(
        slf: &Bound<'py, Self>,
        lease: LeaseArg,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let usage = usage_of(slf.py(), usage, gpu_seconds, gpu_ns, device)?;
        let corrected = Self::command(slf, now_ns, |gateway, now| gateway.correct_usage(now, lease.0, usage))?;
        corrected.or_raise(slf.py())?.to_py(slf.py())
    }

    /// Removes the record of a job that has ended. Its settlement stays.
    #[pyo3(signature = (job, *, now_ns=None))]
    fn delete(slf: &Bound<'_, Self>, job: JobArg, now_ns: Option<Moment>) -> PyResult<()> {
        Self::command(slf, now_ns, |gateway, now| gateway.delete(now, job.0))?.or_raise(slf.py())
    }

    /// How many jobs of its route stand before a waiting job; ``None`` when it does not wait.
    fn position(&self, py: Python<'_>, job: JobAsked) -> PyResult<Option<u32>> {
        self.core.with(py, |gateway| gateway.position(job.0?))
    }

    /// The positions of many jobs at one instant.
    fn positions(&self, py: Python<'_>, jobs: Vec<JobAsked>) -> PyResult<Vec<Option<u32>>> {
        self.core.with(py, |gateway| jobs.iter().map(|job| gateway.position(job.0?)).collect())
    }
}

impl PyGateway {
    /// What came of a word about a lease.
    fn word<T>(slf: &Bound<'_, Self>, lease: LeaseId, result: Result<T, LeaseError>) -> PyResult<T> {
        result.or_raise(slf.py()).map_err(|error| refused(slf, [lease], error))
    }

    pub(super) fn told<'py>(slf: &Bound<'py, Self>, leases: Vec<Lease>, timed: bool) -> PyResult<Bound<'py, PyList>> {
        let _calling = Calling::begin(slf.py());
        let leases = leases.into_iter().map(|lease| PyLease::new(slf, lease, timed));
        PyList::new(slf.py(), leases.collect::<PyResult<Vec<_>>>()?)
    }
}

/// Hears of a lease: how far its job is, if that is told.
pub(super) fn heard(
    core: &mut libgateway::Gateway,
    now: Timestamp,
    lease: LeaseId,
    ppm: Option<u32>,
) -> Result<Timestamp, LeaseError> {
    match ppm {
        Some(ppm) => core.progress(now, lease, ppm),
        None => core.heartbeat(now, lease),
    }
}

/// A lease as callers give it: a ``Lease`` or its number.
#[derive(Clone, Copy)]
pub(crate) struct LeaseArg(pub(crate) LeaseId);

impl<'py> Argument<'_, 'py> for LeaseArg {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        if let Ok(lease) = value.cast::<PyLease>() {
            return Ok(Self(lease.get().id()));
        }
        match integer::<u64>(value, name, "a Lease or its number")? {
            Ok(number) => Ok(Self(LeaseId::from_u64(number))),
            Err(number) => u64::take(&number, name).map(|number| Self(LeaseId::from_u64(number))),
        }
    }
}

/// The instant of the next attempt, if there is one.
pub(super) fn retry_at(after: AfterFailure) -> Option<u64> {
    match after {
        AfterFailure::Retry { at } => Some(at.as_nanos()),
        _ => None,
    }
}
