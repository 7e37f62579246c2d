//! Enums as their words on the way in, and as members of Python's enums on the way out.

use libgateway::error::InputError;
use libgateway::{
    BackendKind, BillingOutcome, BreakerState, CancelReason, EvictTo, Excess, FailureClass, ForcedState, JobState,
    Ordering, Payer, Priority, RateRule, Task,
};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::argument::Argument;
use crate::calling::Kept;
use crate::errors::Raise;

/// An enum that is known by its words in Python.
pub(crate) trait Word: Copy + PartialEq + 'static {
    /// The class in `libgateway.values`.
    const CLASS: &'static str;
    /// What an argument of it may be.
    const EXPECTED: &'static str;
    const ALL: &'static [(Self, &'static str)];

    /// Its members in Python, in the order of [`Word::ALL`].
    fn members() -> &'static Kept<Vec<Py<PyAny>>>;

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(own, _)| *own == self).map_or("", |(_, word)| word)
    }

    /// The member, made once.
    fn member(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let members = Self::members().get_or(py, || {
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

impl<'py, W: Word> Argument<'_, 'py> for In<W> {
    #[inline]
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let word = <&str>::take(value, name)?;
        let found = W::ALL.iter().find(|(_, own)| *own == word);
        let malformed = || InputError::Malformed { field: name, expected: W::EXPECTED }.raise(value.py());
        found.map(|(own, _)| Self(*own)).ok_or_else(malformed)
    }
}

macro_rules! words {
    ($($type:ty, $class:literal, $expected:literal, [$($value:expr => $word:literal),+ $(,)?];)+) => {
        $(impl Word for $type {
            const CLASS: &'static str = $class;
            const EXPECTED: &'static str = $expected;
            const ALL: &'static [(Self, &'static str)] = &[$(($value, $word)),+];

            fn members() -> &'static Kept<Vec<Py<PyAny>>> {
                static MEMBERS: Kept<Vec<Py<PyAny>>> = Kept::new();
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
    Priority, "Priority", "high, normal or low", [
        Priority::Normal => "normal", Priority::High => "high", Priority::Low => "low",
    ];
    Ordering, "Ordering", "fair or fifo", [Ordering::Fair => "fair", Ordering::Fifo => "fifo"];
    JobState, "JobState", "queued, running, complete, error or cancelled", [
        JobState::Queued => "queued", JobState::Running => "running", JobState::Complete => "complete",
        JobState::Error => "error", JobState::Cancelled => "cancelled",
    ];
    Task, "Task", "one of t2i, i2i, edit, t2v, i2v, complete, chat, infill, embed", [
        Task::T2i => "t2i", Task::I2i => "i2i", Task::Edit => "edit", Task::T2v => "t2v", Task::I2v => "i2v",
        Task::Complete => "complete", Task::Chat => "chat", Task::Infill => "infill", Task::Embed => "embed",
    ];
    BackendKind, "BackendKind", "nunchaku, torch, tensorrt, vllm, sglang or other", [
        BackendKind::Nunchaku => "nunchaku", BackendKind::Torch => "torch", BackendKind::Tensorrt => "tensorrt",
        BackendKind::Vllm => "vllm", BackendKind::Sglang => "sglang", BackendKind::Other => "other",
    ];
    FailureKind, "FailureKind", "timeout, connection, network, http, backend, rejected or lost", [
        FailureKind::Timeout => "timeout", FailureKind::Connection => "connection", FailureKind::Network => "network",
        FailureKind::Http => "http", FailureKind::Backend => "backend", FailureKind::Rejected => "rejected",
        FailureKind::Lost => "lost",
    ];
    CancelReason, "CancelReason", "requested, queue_timeout, start_timeout or total_timeout", [
        CancelReason::Requested => "requested", CancelReason::QueueTimeout => "queue_timeout",
        CancelReason::StartTimeout => "start_timeout", CancelReason::TotalTimeout => "total_timeout",
    ];
    BreakerState, "BreakerState", "closed, open or half_open", [
        BreakerState::Closed => "closed", BreakerState::Open => "open", BreakerState::HalfOpen => "half_open",
    ];
    ForcedState, "BreakerState", "closed or open", [
        ForcedState::Closed => "closed", ForcedState::Open => "open",
    ];
    Payer, "Payer", "customer or house", [Payer::Customer => "customer", Payer::House => "house"];
    EvictTo, "EvictTo", "queue or error", [EvictTo::Queue => "queue", EvictTo::Error => "error"];
    Excess, "Excess", "cap or refuse", [Excess::Cap => "cap", Excess::Refuse => "refuse"];
    BillingOutcome, "BillingOutcome", "ended, abandoned or swept", [
        BillingOutcome::Ended => "ended", BillingOutcome::Abandoned => "abandoned", BillingOutcome::Swept => "swept",
    ];
    RateRule, "RateRule", "at_least or above", [
        RateRule::AtLeast => "at_least", RateRule::Above => "above",
    ];
}
