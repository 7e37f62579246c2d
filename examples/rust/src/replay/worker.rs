//! The simulated GPUs: what a worker does with a lease, and how long a GPU spent on what.

use libgateway::{FailureClass, GpuNanos, LeaseId, Span, Timestamp};

use super::summary::Gpu;
use crate::ticket::{Fate, Ticket};

/// A worker's work for one lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) lease: LeaseId,
    pub(super) gpu: usize,
    /// Whose it is, as the shares count.
    pub(super) account: u32,
    pub(super) lane: u8,
    /// GPU time it takes.
    pub(super) worked: GpuNanos,
    /// When it says its last word.
    pub(super) end: Timestamp,
    pub(super) ending: Ending,
}

/// How the work for a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Deliver,
    /// It fails; the flag overrides what the class says of trying again.
    Fail(FailureClass, Option<bool>),
    /// Nothing is heard any more, and the lease expires.
    Silence,
    /// The same, but then the result comes after all.
    SilenceThenDeliver,
}

/// A lease on a GPU, as seen from the machine room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) lease: LeaseId,
    pub(super) since: Timestamp,
    pub(super) account: u32,
    pub(super) lane: u8,
}

/// What a GPU's time went into.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spent {
    Delivered,
    Failed,
    Lost,
    Cancelled,
}

/// What an attempt comes to: its ending and the GPU time until then.
pub(super) fn plan(ticket: &Ticket, attempt: u32, broken: Option<FailureClass>) -> (Ending, GpuNanos) {
    if let Some(class) = broken {
        return (Ending::Fail(class, None), ticket.gpu.min(BROKEN_AFTER));
    }
    match ticket.fate(attempt) {
        Fate::Deliver => (Ending::Deliver, ticket.gpu),
        // A trace does not tell whose fault it was. So the gateway is told what the service it was taken from was told,
        // that the backend failed, and its breakers hear of it as they would have.
        Fate::Fail => (Ending::Fail(FailureClass::Backend, Some(false)), ticket.gpu),
        Fate::Busy => (Ending::Fail(FailureClass::Http(503), None), GpuNanos::from_nanos(ticket.gpu.as_nanos() / 4)),
        Fate::Timeout => (Ending::Fail(FailureClass::Timeout, None), ticket.gpu),
        Fate::Vanish => (Ending::Silence, ticket.gpu),
        Fate::Late => (Ending::SilenceThenDeliver, ticket.gpu),
    }
}

impl Gpu {
    pub(super) fn new(number: usize) -> Self {
        Self { name: format!("gpu-{number}"), device: format!("GPU-{number}"), ..Self::default() }
    }

    /// Books the time since the lease began.
    pub(super) fn spend(&mut self, since: Timestamp, now: Timestamp, on: Spent) {
        let nanos = u128::from(now.since(since).as_nanos());
        *match on {
            Spent::Delivered => &mut self.delivered,
            Spent::Failed => &mut self.failed,
            Spent::Lost => &mut self.lost,
            Spent::Cancelled => &mut self.cancelled,
        } += nanos;
    }
}

/// A worker says that it lives twice in the time of a lease.
pub(super) const LEASE_FOR: Span = Span::from_secs(60);
pub(super) const BEAT: Span = Span::from_secs(30);
/// How long after the end of its lease a late worker answers.
pub(super) const LATE_BY: Span = Span::from_secs(7);
/// A broken GPU takes little time to say so.
const BROKEN_AFTER: GpuNanos = GpuNanos::from_millis(50);
