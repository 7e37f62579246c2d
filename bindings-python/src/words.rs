//! Enums as their words on the way in, and as members of Python's enums on the way out.

use libgateway::error::InputError;
use libgateway::{
    BackendKind, BillingOutcome, BreakerState, CancelReason, EvictTo, Excess, FailureClass, ForcedState, JobState,
    Ordering, Payer, Priority, RateRule, Task,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::errors::Raise;

/// An enum that is known by its words in Python.
pub(crate) trait Word: Copy + PartialEq + 'static {
    /// The class in `libgateway.values`.
    const CLASS: &'static str;
    /// What an argument of it is called, and what it may be.
    const FIELD: (&'static str, &'static str);
    const ALL: &'static [(Self, &'static str)];

    /// Its members in Python, in the order of [`Word::ALL`].
    fn members() -> &'static PyOnceLock<Vec<Py<PyAny>>>;

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(own, _)| *own == self).map_or("", |(_, word)| word)
    }

    /// The member, made once.
    fn member(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let members = Self::members().get_or_try_init(py, || {
            let class = py.import("libgateway.values")?.getattr(Self::CLASS)?;
            Self::ALL.iter().map(|(_, word)| class.call1((*word,)).map(Bound::unbind)).collect::<PyResult<Vec<_>>>()
        })?;
        let at = Self::ALL.iter().position(|(own, _)| *own == self);
        match at.and_then(|at| members.get(at)) {
            Some(member) => Ok(member.bind(py).clone()),
            None => Ok(PyString::new(py, self.word()).into_any()),
        }
    }
}

/// An enum as an argument: a member, or its word.
#[derive(Clone, Copy)]
pub(crate) struct In<W>(pub(crate) W);

impl<'py, W: Word> FromPyObject<'_, 'py> for In<W> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let text = value.cast::<PyString>()?;
        let word = text.to_str()?;
        let (field, expected) = W::FIELD;
        let found = W::ALL.iter().find(|(_, own)| *own == word);
        found.map(|(own, _)| Self(*own)).ok_or_else(|| InputError::Malformed { field, expected }.raise(value.py()))
    }
}

macro_rules! words {
    ($($type:ty, $class:literal, $field:literal, $expected:literal, [$($value:expr => $word:literal),+ $(,)?];)+) => {
        $(impl Word for $type {
            const CLASS: &'static str = $class;
            const FIELD: (&'static str, &'static str) = ($field, $expected);
            const ALL: &'static [(Self, &'static str)] = &[$(($value, $word)),+];

            fn members() -> &'static PyOnceLock<Vec<Py<PyAny>>> {
                static MEMBERS: PyOnceLock<Vec<Py<PyAny>>> = PyOnceLock::new();
                &MEMBERS
            }
        })+
    };
}

/// The kinds of failure without the status one of them carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Timeout,
    Connection,
    Network,
    Http,
    Backend,
    Rejected,
    Lost,
}

impl FailureKind {
    pub(crate) fn of(class: FailureClass) -> (Self, Option<u16>) {
        match class {
            FailureClass::Timeout => (Self::Timeout, None),
            FailureClass::Connection => (Self::Connection, None),
            FailureClass::Network => (Self::Network, None),
            FailureClass::Http(status) => (Self::Http, Some(status)),
            FailureClass::Backend => (Self::Backend, None),
            FailureClass::Rejected => (Self::Rejected, None),
            FailureClass::Lost => (Self::Lost, None),
        }
    }

    /// # Errors
    /// A status with another kind than `http`, or none with it.
    pub(crate) fn class(self, status: Option<u16>) -> Result<FailureClass, InputError> {
        let class = match (self, status) {
            (Self::Http, Some(status)) => return Ok(FailureClass::Http(status)),
            (Self::Http, None) => return Err(InputError::Empty { field: "status" }),
            (_, Some(_)) => return Err(InputError::Contradiction { field: "status", other: "kind" }),
            (Self::Timeout, None) => FailureClass::Timeout,
            (Self::Connection, None) => FailureClass::Connection,
            (Self::Network, None) => FailureClass::Network,
            (Self::Backend, None) => FailureClass::Backend,
            (Self::Rejected, None) => FailureClass::Rejected,
            (Self::Lost, None) => FailureClass::Lost,
        };
        Ok(class)
    }
}

words! {
    Priority, "Priority", "priority", "high, normal or low", [
        Priority::Normal => "normal", Priority::High => "high", Priority::Low => "low",
    ];
    Ordering, "Ordering", "ordering", "fair or fifo", [Ordering::Fair => "fair", Ordering::Fifo => "fifo"];
    JobState, "JobState", "state", "queued, running, complete, error or cancelled", [
        JobState::Queued => "queued", JobState::Running => "running", JobState::Complete => "complete",
        JobState::Error => "error", JobState::Cancelled => "cancelled",
    ];
    Task, "Task", "task", "one of t2i, i2i, edit, t2v, i2v, complete, chat, infill, embed", [
        Task::T2i => "t2i", Task::I2i => "i2i", Task::Edit => "edit", Task::T2v => "t2v", Task::I2v => "i2v",
        Task::Complete => "complete", Task::Chat => "chat", Task::Infill => "infill", Task::Embed => "embed",
    ];
    BackendKind, "BackendKind", "kind", "nunchaku, torch, tensorrt, vllm, sglang or other", [
        BackendKind::Nunchaku => "nunchaku", BackendKind::Torch => "torch", BackendKind::Tensorrt => "tensorrt",
        BackendKind::Vllm => "vllm", BackendKind::Sglang => "sglang", BackendKind::Other => "other",
    ];
    FailureKind, "FailureKind", "kind", "timeout, connection, network, http, backend, rejected or lost", [
        FailureKind::Timeout => "timeout", FailureKind::Connection => "connection", FailureKind::Network => "network",
        FailureKind::Http => "http", FailureKind::Backend => "backend", FailureKind::Rejected => "rejected",
        FailureKind::Lost => "lost",
    ];
    CancelReason, "CancelReason", "reason", "requested, queue_timeout, start_timeout or total_timeout", [
        CancelReason::Requested => "requested", CancelReason::QueueTimeout => "queue_timeout",
        CancelReason::StartTimeout => "start_timeout", CancelReason::TotalTimeout => "total_timeout",
    ];
    BreakerState, "BreakerState", "state", "closed, open or half_open", [
        BreakerState::Closed => "closed", BreakerState::Open => "open", BreakerState::HalfOpen => "half_open",
    ];
    ForcedState, "BreakerState", "state", "closed or open", [
        ForcedState::Closed => "closed", ForcedState::Open => "open",
    ];
    Payer, "Payer", "payer", "customer or house", [Payer::Customer => "customer", Payer::House => "house"];
    EvictTo, "EvictTo", "to", "queue or error", [EvictTo::Queue => "queue", EvictTo::Error => "error"];
    Excess, "Excess", "excess", "cap or refuse", [Excess::Cap => "cap", Excess::Refuse => "refuse"];
    BillingOutcome, "BillingOutcome", "outcome", "ended, abandoned or swept", [
        BillingOutcome::Ended => "ended", BillingOutcome::Abandoned => "abandoned", BillingOutcome::Swept => "swept",
    ];
    RateRule, "RateRule", "failure_rate_rule", "at_least or above", [
        RateRule::AtLeast => "at_least", RateRule::Above => "above",
    ];
}
