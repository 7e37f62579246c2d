//! Transactions as data: steps are gathered first and done together, so none can be left open.

use std::borrow::Cow;

use libgateway::{Command, Entry, Leaf, LeaseId, Priority, Reply, Step, Submit, Usage};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::PyGateway;
use super::jobs::{LeaseArg, retry_at};
use super::lease::{PyLease, PySettled, refused};
use crate::convert::{Body, GpuSeconds, Moment};
use crate::errors::of_reply;
use crate::guard::Guarded;
use crate::ids::{JobArg, PyJobId, fresh};
use crate::policy::{PyTimeouts, progress_of};
use crate::spec::{PyFailure, PyUsage, RouteArg, usage_of};
use crate::store::OutputArg;
use crate::values::ToPy;
use crate::words::In;

/// Steps of a transaction, gathered to be done together.
#[pyclass(module = "libgateway._native", name = "Steps", frozen)]
pub(crate) struct PySteps(Guarded<Vec<Item>>);

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "nearly all are single steps")]
enum Item {
    Leaf(Leaf<'static>),
    All(Vec<Leaf<'static>>),
    FirstOf(Vec<Leaf<'static>>),
}

#[crate::argument::named]
#[pymethods]
impl PySteps {
    #[new]
    fn new() -> Self {
        Self(Guarded::new(Vec::new()))
    }

    #[pyo3(signature = (customer, route, payload=None, *, priority=None, estimate=None, tokens=1, affinity=None,
                        idempotency_key=None, timeouts=None, not_before_ns=None, id=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn submit(
        &self,
        py: Python<'_>,
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
    ) -> PyResult<()> {
        let id = id.map_or_else(|| fresh(py), |id| Ok(id.0))?;
        let mut submit = Submit::new(id, Cow::Owned(customer.to_owned()), route.0.into_owned());
        submit.tokens = tokens;
        submit.payload = payload.map(|body| body.0).unwrap_or_default();
        submit.priority = priority.map(|priority| priority.0).unwrap_or_default();
        submit.estimate = estimate.map(|gpu| gpu.0);
        submit.affinity = affinity.map(|key| Cow::Owned(key.to_owned()));
        submit.idempotency_key = idempotency_key.map(|key| Cow::Owned(key.to_owned()));
        submit.timeouts = timeouts.map(|own| own.get().0).unwrap_or_default();
        submit.not_before = not_before_ns.map(|at| at.0);
        self.push(py, Item::Leaf(Leaf::Submit(submit)))
    }

    #[pyo3(signature = (*, route=None))]
    fn dispatch(&self, py: Python<'_>, route: Option<RouteArg<'_>>) -> PyResult<()> {
        let leaf = match route {
            None => Leaf::Dispatch {},
            Some(route) => Leaf::DispatchRoute { route: route.0.into_owned() },
        };
        self.push(py, Item::Leaf(leaf))
    }

    #[pyo3(signature = (backend, n=1))]
    fn dispatch_to(&self, py: Python<'_>, backend: &str, n: u32) -> PyResult<()> {
        self.push(py, Item::Leaf(Leaf::DispatchTo { backend: Cow::Owned(backend.to_owned()), max: n }))
    }

    fn heartbeat(&self, py: Python<'_>, lease: LeaseArg) -> PyResult<()> {
        self.push(py, Item::Leaf(Leaf::Heartbeat { lease: lease.0 }))
    }

    #[pyo3(signature = (lease, progress=None, *, ppm=None, progress_ppm=None))]
    fn progress(
        &self,
        py: Python<'_>,
        lease: LeaseArg,
        progress: Option<&Bound<'_, PyAny>>,
        ppm: Option<u32>,
        progress_ppm: Option<u32>,
    ) -> PyResult<()> {
        // Called by the transaction, not by the one who may have to change the call.
        let leaf = match progress_of(py, progress, ppm, progress_ppm, 2)? {
            Some(progress_ppm) => Leaf::Progress { lease: lease.0, progress_ppm },
            None => Leaf::Heartbeat { lease: lease.0 },
        };
        self.push(py, Item::Leaf(leaf))
    }

    #[pyo3(signature = (lease, output, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu"))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn complete(
        &self,
        py: Python<'_>,
        lease: LeaseArg,
        output: OutputArg,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
    ) -> PyResult<()> {
        let usage = usage_of(py, usage, gpu_seconds, gpu_ns, device)?.into_owned();
        self.push(py, Item::Leaf(Leaf::Complete { lease: lease.0, output: output.0, usage }))
    }

    #[pyo3(signature = (lease, failure, *, usage=None))]
    fn fail(
        &self,
        py: Python<'_>,
        lease: LeaseArg,
        failure: &Bound<'_, PyFailure>,
        usage: Option<&Bound<'_, PyUsage>>,
    ) -> PyResult<()> {
        let usage = owned(usage);
        self.push(py, Item::Leaf(Leaf::Fail { lease: lease.0, failure: failure.get().0.clone(), usage }))
    }

    #[pyo3(signature = (lease, *, not_before_ns=None, usage=None))]
    fn release(
        &self,
        py: Python<'_>,
        lease: LeaseArg,
        not_before_ns: Option<Moment>,
        usage: Option<&Bound<'_, PyUsage>>,
    ) -> PyResult<()> {
        let not_before = not_before_ns.map(|at| at.0);
        self.push(py, Item::Leaf(Leaf::Release { lease: lease.0, not_before, usage: owned(usage) }))
    }

    #[pyo3(signature = (job, *, usage=None))]
    fn preempt(&self, py: Python<'_>, job: JobArg, usage: Option<&Bound<'_, PyUsage>>) -> PyResult<()> {
        self.push(py, Item::Leaf(Leaf::Preempt { job: job.0, usage: owned(usage) }))
    }

    #[pyo3(signature = (job, *, usage=None))]
    fn cancel(&self, py: Python<'_>, job: JobArg, usage: Option<&Bound<'_, PyUsage>>) -> PyResult<()> {
        self.push(py, Item::Leaf(Leaf::Cancel { job: job.0, usage: owned(usage) }))
    }

    #[pyo3(signature = (lease, *, usage=None))]
    fn cancel_lease(&self, py: Python<'_>, lease: LeaseArg, usage: Option<&Bound<'_, PyUsage>>) -> PyResult<()> {
        self.push(py, Item::Leaf(Leaf::CancelLease { lease: lease.0, usage: owned(usage) }))
    }

    fn correct_usage(&self, py: Python<'_>, lease: LeaseArg, usage: &Bound<'_, PyUsage>) -> PyResult<()> {
        self.push(py, Item::Leaf(Leaf::CorrectUsage { lease: lease.0, usage: usage.get().0.clone() }))
    }

    fn delete(&self, py: Python<'_>, job: JobArg) -> PyResult<()> {
        self.push(py, Item::Leaf(Leaf::Delete { job: job.0 }))
    }

    /// All of the steps of another, or this step is not done.
    fn all(&self, py: Python<'_>, steps: &Bound<'_, Self>) -> PyResult<()> {
        self.push(py, Item::All(steps.get().leaves(py)?))
    }

    /// The first of the steps of another that can be done now.
    fn first_of(&self, py: Python<'_>, steps: &Bound<'_, Self>) -> PyResult<()> {
        self.push(py, Item::FirstOf(steps.get().leaves(py)?))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.with(py, |items| items.len())
    }
}

impl PySteps {
    fn push(&self, py: Python<'_>, item: Item) -> PyResult<()> {
        self.0.with(py, |items| items.push(item))
    }

    fn leaves(&self, py: Python<'_>) -> PyResult<Vec<Leaf<'static>>> {
        let leaf = |item: &Item| match item {
            Item::Leaf(leaf) => Some(leaf.clone()),
            Item::All(_) | Item::FirstOf(_) => None,
        };
        let leaves: Option<Vec<_>> = self.0.with(py, |items| items.iter().map(leaf).collect())?;
        leaves.ok_or_else(|| PyValueError::new_err("a group inside a group has no further groups"))
    }
}

#[crate::argument::named]
#[pymethods]
impl PyGateway {
    /// Does all steps or none, and returns the answer to each in a list; with ``first`` the first that can be done now, and
    /// returns its number and its answer.
    #[pyo3(signature = (steps, *, first=false, now_ns=None))]
    fn _run<'py>(
        slf: &Bound<'py, Self>,
        steps: &Bound<'_, PySteps>,
        first: bool,
        now_ns: Option<Moment>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (said, steps): (Vec<_>, Vec<_>) = steps.get().0.with(slf.py(), |items| {
            (items.iter().flat_map(said_of).collect(), items.iter().cloned().map(step).collect())
        })?;
        let command = if first { Command::FirstOf(steps) } else { Command::All(steps) };
        let reply = Self::command(slf, now_ns, |gateway, now| gateway.apply(Entry::new(now, command)))?;
        Self::answer(slf, reply, now_ns.is_some()).map_err(|error| refused(slf, said, error))
    }
}

impl PyGateway {
    /// A reply as what the call of its own would have returned, made at an instant that was given (`timed`) or at that of
    /// the clock.
    fn answer<'py>(slf: &Bound<'py, Self>, reply: Reply, timed: bool) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let none = || Ok(py.None().into_bound(py));
        match reply {
            Reply::Submitted { job } | Reply::Released { job } | Reply::Cancelled { job } => {
                Ok(PyJobId(job).into_pyobject(py)?.into_any())
            }
            Reply::Corrected(corrected) => corrected.to_py(py),
            Reply::Leased(lease) => Ok(PyLease::new(slf, lease, timed)?.into_any()),
            Reply::Leases(leases) => Ok(Self::told(slf, leases, timed)?.into_any()),
            Reply::Preempted { lease } => Ok(lease.as_u64().into_pyobject(py)?.into_any()),
            Reply::Extended { deadline } => Ok(deadline.as_nanos().into_pyobject(py)?.into_any()),
            Reply::Completed(settled) => Ok(PySettled(settled).into_pyobject(py)?.into_any()),
            Reply::Failed(after) => Ok(retry_at(after).into_pyobject(py)?.into_any()),
            Reply::All(replies) => {
                let answers: PyResult<Vec<_>> =
                    replies.into_iter().map(|reply| Self::answer(slf, reply, timed)).collect();
                Ok(PyList::new(py, answers?)?.into_any())
            }
            Reply::First { index, reply } => {
                Ok((index, Self::answer(slf, *reply, timed)?).into_pyobject(py)?.into_any())
            }
            Reply::Error(error) => Err(of_reply(py, &error)),
            _ => none(),
        }
    }
}

/// The leases that a step says something of.
fn said_of(item: &Item) -> Vec<LeaseId> {
    let leaves = match item {
        Item::Leaf(leaf) => std::slice::from_ref(leaf),
        Item::All(leaves) | Item::FirstOf(leaves) => leaves,
    };
    let of = |leaf: &Leaf<'static>| match *leaf {
        Leaf::Heartbeat { lease }
        | Leaf::Progress { lease, .. }
        | Leaf::Complete { lease, .. }
        | Leaf::Fail { lease, .. }
        | Leaf::Release { lease, .. }
        | Leaf::CancelLease { lease, .. } => Some(lease),
        _ => None,
    };
    leaves.iter().filter_map(of).collect()
}

fn owned(usage: Option<&Bound<'_, PyUsage>>) -> Usage<'static> {
    usage.map_or_else(Usage::unmeasured, |usage| usage.get().0.clone())
}

fn step(item: Item) -> Step<'static> {
    let leaf = match item {
        Item::All(leaves) => return Step::All(leaves),
        Item::FirstOf(leaves) => return Step::FirstOf(leaves),
        Item::Leaf(leaf) => leaf,
    };
    match leaf {
        Leaf::Submit(submit) => Step::Submit(submit),
        Leaf::DispatchRoute { route } => Step::DispatchRoute { route },
        Leaf::DispatchTo { backend, max } => Step::DispatchTo { backend, max },
        Leaf::Heartbeat { lease } => Step::Heartbeat { lease },
        Leaf::Progress { lease, progress_ppm } => Step::Progress { lease, progress_ppm },
        Leaf::Complete { lease, output, usage } => Step::Complete { lease, output, usage },
        Leaf::Fail { lease, failure, usage } => Step::Fail { lease, failure, usage },
        Leaf::Release { lease, not_before, usage } => Step::Release { lease, not_before, usage },
        Leaf::Preempt { job, usage } => Step::Preempt { job, usage },
        Leaf::Cancel { job, usage } => Step::Cancel { job, usage },
        Leaf::CancelLease { lease, usage } => Step::CancelLease { lease, usage },
        Leaf::CorrectUsage { lease, usage } => Step::CorrectUsage { lease, usage },
        Leaf::Delete { job } => Step::Delete { job },
        // `Dispatch` is the only one left.
        _ => Step::Dispatch {},
    }
}
