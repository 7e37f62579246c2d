//! Views of the core as the frozen dataclasses of `libgateway.values`.

use libgateway::{
    Advance, Batch, BillingReceipt, BillingRecord, BillingTotals, BreakerReason, BreakerStatus, Corrected, Correction,
    Counters, CustomerView, DeviceTime, Event, EventKind, Evicted, JobFailure, JobView, Outcome, Output, RateHeaders,
    Span, Stats, StoredJob, Timestamp, Usage, WaitReason, WatchEvent,
};
use pyo3::BoundObject;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple, PyType};

use crate::calling::{Calling, Kept};
use crate::ids::PyJobId;
use crate::words::{FailureKind, Word};

/// Something that Python gets as one of its own values.
pub(crate) trait ToPy {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;
}

/// A batch, and the entries in it.
pub(crate) type Taken<'py> = (Bound<'py, PyAny>, Vec<Bound<'py, PyAny>>);

/// Makes an instance of a class of `libgateway.values` from its fields in order.
macro_rules! dataclass {
    ($py:expr, $class:literal, $($field:expr),+ $(,)?) => {{
        static CLASS: Kept<Py<PyType>> = Kept::new();
        let _calling = Calling::begin($py);
        let class = CLASS.class($py, "libgateway.values", $class)?;
        let fields = [$($field.into_pyobject($py).map_err(Into::<PyErr>::into)?.into_any().into_bound()),+];
        class.call1(PyTuple::new($py, fields)?)
    }};
}

/// An optional instant or span as its nanoseconds.
fn nanos(value: Option<Timestamp>) -> Option<u64> {
    value.map(Timestamp::as_nanos)
}

fn maybe<'py, T: ToPy>(py: Python<'py>, value: Option<&T>) -> PyResult<Option<Bound<'py, PyAny>>> {
    value.map(|value| value.to_py(py)).transpose()
}

impl ToPy for JobFailure {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (kind, status) = FailureKind::of(self.class);
        dataclass!(py, "JobFailure", kind.member(py)?, status, &*self.message, self.retriable)
    }
}

impl ToPy for Output {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Self::Url(url) => PyString::new(py, url).into_any(),
            Self::Inline(data) => PyBytes::new(py, data.as_bytes()).into_any(),
            _ => py.None().into_bound(py),
        })
    }
}

impl ToPy for Outcome {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (mut output, mut failure, mut cancelled) = (None, None, None);
        match self {
            Self::Complete(own) => output = Some(own.to_py(py)?),
            Self::Error(own) => failure = Some(own.to_py(py)?),
            Self::Cancelled(own) => cancelled = Some(own.member(py)?),
        }
        dataclass!(py, "Outcome", self.state().member(py)?, output, failure, cancelled)
    }
}

impl ToPy for JobView {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dataclass!(
            py,
            "JobView",
            PyJobId(self.id),
            &*self.customer,
            &*self.route,
            self.task.member(py)?,
            self.priority.member(py)?,
            self.state.member(py)?,
            self.created.as_nanos(),
            nanos(self.started),
            nanos(self.finished),
            self.position,
            self.eta.map(Span::as_nanos),
            self.progress_ppm,
            self.attempts,
            self.requeues,
            self.preemptions,
            self.lease.map(|lease| lease.as_u64()),
            self.backend.as_deref(),
            PyTuple::new(py, &self.failed_on)?,
            maybe(py, self.failure.as_ref())?,
            maybe(py, self.outcome.as_ref())?,
            self.version,
        )
    }
}

impl ToPy for WaitReason {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut failed = &[][..];
        let (kind, until, running, jobs) = match *self {
            Self::NotBefore { until, ref failed_on } => {
                failed = failed_on;
                ("not_before", Some(until), None, None)
            }
            Self::Paused => ("paused", None, None, None),
            Self::NoBackend => ("no_backend", None, None, None),
            Self::CustomerRunning { running } => ("customer_running", None, Some(running), None),
            Self::CustomerRate { until } => ("customer_rate", until, None, None),
            Self::BackendsBusy => ("backends_busy", None, None, None),
            Self::Behind { jobs } => ("behind", None, None, Some(jobs)),
            _ => ("next", None, None, None),
        };
        dataclass!(py, "WaitReason", kind, nanos(until), running, jobs, PyTuple::new(py, failed)?)
    }
}

impl ToPy for BreakerStatus {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (reason, count, calls) = match self.reason {
            BreakerReason::Initial => ("initial", None, None),
            BreakerReason::ConsecutiveFailures { failures } => {
                ("consecutive_failures", Some(u64::from(failures)), None)
            }
            BreakerReason::FailureRate { calls, failures } => ("failure_rate", Some(failures), Some(calls)),
            BreakerReason::Waited => ("waited", None, None),
            BreakerReason::ProbeFailed => ("probe_failed", None, None),
            BreakerReason::ProbeTimedOut => ("probe_timed_out", None, None),
            BreakerReason::ProbesSucceeded { successes } => ("probes_succeeded", Some(u64::from(successes)), None),
            BreakerReason::Forced => ("forced", None, None),
            _ => ("force_ended", None, None),
        };
        dataclass!(
            py,
            "BreakerStatus",
            self.state.member(py)?,
            self.forced,
            self.since.as_nanos(),
            nanos(self.until),
            reason,
            self.calls,
            self.failures,
            self.consecutive_failures,
            self.reopens,
            self.probe_out,
            self.probe_successes,
            self.successes_total,
            self.failures_total,
            self.rejected_total,
            count,
            calls,
        )
    }
}

impl ToPy for CustomerView {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Self { weight, running, queued, tokens, ref tier, own_policy, .. } = *self;
        dataclass!(py, "CustomerView", weight, running, queued, tokens, &**tier, own_policy)
    }
}

impl ToPy for Counters {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dataclass!(
            py,
            "Counters",
            self.submitted,
            self.leases,
            self.warm_hits,
            self.probes,
            self.completed,
            self.errors,
            self.cancelled,
            self.retries,
            self.requeues,
            self.lost,
            self.released,
            self.preempted,
            self.parked,
            self.aged,
            self.forgotten,
            self.clock_leaps,
            self.capped,
            self.unpriced,
            self.corrections,
        )
    }
}

impl ToPy for Stats {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dataclass!(
            py,
            "Stats",
            self.queued,
            self.running,
            self.complete,
            self.error,
            self.cancelled,
            self.customers,
            self.routes,
            self.backends,
            self.unconfirmed,
            self.charged_micros,
            self.credited_micros,
            self.unpriced_ns,
            self.events,
            self.clock_offset.as_nanos(),
            self.counters.to_py(py)?,
        )
    }
}

impl ToPy for Advance {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (leapt, next) = (self.leapt.map(Span::as_nanos), nanos(self.next_deadline));
        dataclass!(py, "Advance", self.handled, self.now.as_nanos(), self.more, leapt, next)
    }
}

impl ToPy for Event {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (mut reported, mut billed) = (None, None);
        let (kind, job, state, leapt) = match self.kind {
            EventKind::Queued(job) => ("queued", Some(job), None, None),
            EventKind::Started(job) => ("started", Some(job), None, None),
            EventKind::Progress(job) => ("progress", Some(job), None, None),
            EventKind::Retried(job) => ("retried", Some(job), None, None),
            EventKind::Requeued(job) => ("requeued", Some(job), None, None),
            EventKind::Aged(job) => ("aged", Some(job), None, None),
            EventKind::Ended(job, state) => ("ended", Some(job), Some(state.member(py)?), None),
            EventKind::Forgotten(job) => ("forgotten", Some(job), None, None),
            EventKind::ClockLeapt(leapt) => ("clock_leapt", None, None, Some(leapt.as_nanos())),
            EventKind::UsageCapped { job, reported: told, billed: taken } => {
                (reported, billed) = (Some(told.as_nanos()), Some(taken.as_nanos()));
                ("usage_capped", Some(job), None, None)
            }
            EventKind::Corrected(job) => ("corrected", Some(job), None, None),
            _ => ("", None, None, None),
        };
        let (kind, at, epoch) = (enum_of(py, "EventKind", kind)?, self.at.as_nanos(), self.epoch.as_u64());
        dataclass!(py, "Event", epoch, self.number, at, kind, job.map(PyJobId), state, leapt, reported, billed)
    }
}

impl ToPy for WatchEvent {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (kind, position, progress_ppm, outcome) = match self {
            Self::Queued { position } => ("queued", Some(*position), None, None),
            Self::Running { progress_ppm } => ("running", None, Some(*progress_ppm), None),
            Self::Ended(outcome) => ("ended", None, None, Some(outcome.to_py(py)?)),
            _ => ("gone", None, None, None),
        };
        dataclass!(py, "WatchEvent", enum_of(py, "WatchKind", kind)?, position, progress_ppm, outcome)
    }
}

impl ToPy for RateHeaders {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dataclass!(py, "RateHeaders", self.limit, self.remaining, self.reset.as_nanos())
    }
}

impl ToPy for StoredJob {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dataclass!(
            py,
            "StoredJob",
            PyJobId(self.id),
            &*self.customer,
            self.state.member(py)?,
            PyBytes::new(py, self.payload.as_bytes()),
            self.created.as_nanos(),
            nanos(self.started),
            nanos(self.finished),
            self.progress_ppm,
            self.attempt,
            maybe(py, self.outcome.as_ref())?,
            self.version,
        )
    }
}

impl ToPy for BillingReceipt {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let charge = self.charge.map(|charge| charge.as_micros());
        let (reported, billed) = (self.reported_ns.as_nanos(), self.billed_ns.as_nanos());
        dataclass!(py, "BillingReceipt", self.seq, reported, billed, self.capped, charge)
    }
}

impl ToPy for (u64, BillingRecord) {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (seq, record) = self;
        dataclass!(
            py,
            "BillingRecord",
            *seq,
            &*record.request_id,
            record.customer.as_deref(),
            &*record.model,
            record.tier.as_deref(),
            record.outcome.member(py)?,
            devices(py, &record.usage)?,
            record.reported_ns.as_nanos(),
            record.billed_ns.as_nanos(),
            record.capped,
            record.measured,
            record.started.as_nanos(),
            record.ended.as_nanos(),
            record.elapsed.as_nanos(),
            record.clock_back,
            record.price.map(|price| price.to_string()),
            record.price_version,
            record.currency.as_str(),
            record.charge.map(|charge| charge.as_micros()),
        )
    }
}

impl ToPy for BillingTotals {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Self { started, ended, abandoned, swept, unpriced, unpriced_ns, capped, unmeasured, .. } = *self;
        dataclass!(
            py,
            "BillingTotals",
            started,
            ended,
            abandoned,
            swept,
            unpriced,
            unpriced_ns,
            capped,
            unmeasured,
            self.usage_ns,
            self.charge_micros,
        )
    }
}

impl ToPy for Correction {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (usage, absorbed) = (self.usage_credit.as_nanos(), self.absorbed_credit.as_nanos());
        let (epoch, lease, at) = (self.corrects_epoch.as_u64(), self.lease.as_u64(), self.at.as_nanos());
        let charge = self.charge_credit.as_micros();
        dataclass!(py, "Correction", epoch, self.corrects, lease, self.revision, at, usage, absorbed, charge)
    }
}

impl ToPy for Corrected {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (reported, billed) = (self.reported.as_nanos(), self.billed.as_nanos());
        dataclass!(py, "Corrected", PyJobId(self.job), self.settlement, reported, billed, self.capped)
    }
}

impl ToPy for Evicted {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dataclass!(py, "Evicted", self.lease.as_u64(), PyJobId(self.job))
    }
}

impl ToPy for Batch {
    fn to_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dataclass!(py, "Batch", self.id, self.first_seq, self.len)
    }
}

/// What each device of a settlement did.
pub(crate) fn device_times<'py>(py: Python<'py>, devices: &[DeviceTime]) -> PyResult<Bound<'py, PyTuple>> {
    let devices: PyResult<Vec<_>> =
        devices.iter().map(|own| dataclass!(py, "DeviceTime", &*own.device, own.gpu.as_nanos())).collect();
    PyTuple::new(py, devices?)
}

/// What each device of a usage did.
pub(crate) fn devices<'py>(py: Python<'py>, usage: &Usage<'_>) -> PyResult<Bound<'py, PyTuple>> {
    let devices: PyResult<Vec<_>> =
        usage.devices().map(|own| dataclass!(py, "DeviceTime", &*own.device, own.gpu_ns.as_nanos())).collect();
    PyTuple::new(py, devices?)
}

/// A list of such values.
pub(crate) fn list<'py, T: ToPy>(py: Python<'py>, values: &[T]) -> PyResult<Vec<Bound<'py, PyAny>>> {
    values.iter().map(|value| value.to_py(py)).collect()
}

fn enum_of<'py>(py: Python<'py>, class: &str, word: &str) -> PyResult<Bound<'py, PyAny>> {
    let _calling = Calling::begin(py);
    py.import("libgateway.values")?.getattr(class)?.call1((word,))
}
