//! What happened, told in order: events of the whole gateway, and the watch of one job.

use alloc::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Gateway;
use crate::id::{Epoch, JobId};
use crate::job::{JobState, Outcome};
use crate::time::{GpuNanos, Span, Timestamp};

/// One thing that happened. Events are numbered from 1 without gaps; a host that fetches them too late finds the number
/// of the first it gets higher than it expected. Numbers go on after a restore, in another [`Epoch`]: a host that kept its
/// place by number has to look again where the epoch is not the one it knew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The life of the gateway it belongs to.
    pub epoch: Epoch,
    /// Its number.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A job was accepted.
    Queued(JobId),
    /// A job got a lease.
    Started(JobId),
    /// A job's worker told how far it is.
    Progress(JobId),
    /// A job's attempt failed and will be tried again.
    Retried(JobId),
    /// A job went back to the queue through no fault of its own.
    Requeued(JobId),
    /// A waiting job was lifted a lane.
    Aged(JobId),
    /// A job ended in the state told.
    Ended(JobId, JobState),
    /// An ended job's record left.
    Forgotten(JobId),
    /// A reading of the host's clock was so far ahead that it was not believed.
    ClockLeapt(Span),
    /// More was reported of an attempt than its devices can have worked; what was possible is billed.
    UsageCapped {
        /// The job.
        job: JobId,
        /// GPU time reported.
        reported: GpuNanos,
        /// GPU time billed or absorbed.
        billed: GpuNanos,
    },
    /// A settled job comes to something else: the usage of one of its leases was told late.
    Corrected(JobId),
}

/// Watches one job: its present state first, then only changes, and always an end.
///
/// Ask [`Watch::poll`] again and again until it answers [`WatchStep::Wait`], then after each change of the gateway.
///
/// ```
/// use libgateway::{Backend, BackendKind, Gateway, GatewayConfig, JobId, Route, Submit, Timestamp, Watch, WatchEvent, WatchStep};
/// let now = Timestamp::from_secs(1);
/// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
/// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
/// let route = Route::parse("image/flux/dev/t2i")?;
/// let job = gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", route))?;
/// let mut watch = Watch::new(job);
/// assert_eq!(watch.poll(&gateway), WatchStep::Event(WatchEvent::Queued { position: 0 }));
/// assert_eq!(watch.poll(&gateway), WatchStep::Wait);
/// gateway.cancel(now, job)?;
/// assert!(matches!(watch.poll(&gateway), WatchStep::Event(WatchEvent::Ended(_))));
/// assert_eq!(watch.poll(&gateway), WatchStep::Done);
/// # Ok::<(), libgateway::error::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    job: JobId,
    seen: Option<Seen>,
    done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: JobState,
    version: u32,
    position: u32,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WatchEvent {
    /// The job waits, and so many jobs of its route stand before it.
    Queued {
        /// Jobs before it.
        position: u32,
    },
    /// The job runs.
    Running {
        /// How far it is, in parts per million.
        progress_ppm: u32,
    },
    /// The job ended so.
    Ended(Outcome),
    /// The job's record is gone.
    Gone,
}

/// What a watch answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum WatchStep {
    /// Something new; ask again.
    Event(WatchEvent),
    /// Nothing new; ask again after the next change.
    Wait,
    /// The end was told; do not ask again.
    Done,
}

/// Ends that somebody waits for, so that each is told to who asked, however soon its record leaves. Not part of the state:
/// no answer to a command depends on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited(BTreeMap<JobId, Wish>);

#[derive(Clone, Debug, Default)]
struct Wish {
    waiters: u32,
    outcome: Option<Outcome>,
}

/// The latest events, bounded: the oldest are dropped for new ones.
#[derive(Clone, Debug)]
pub(crate) struct EventLog {
    events: VecDeque<(Timestamp, EventKind)>,
    /// Number of the next event.
    pub(crate) next: u64,
    max: usize,
}

impl Watch {
    /// A watch that has seen nothing yet.
    pub const fn new(job: JobId) -> Self {
        Self { job, seen: None, done: false }
    }

    /// The job watched.
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// The next thing to tell.
    ///
    /// # Complexity
    /// O(log n) of the route's length while the job waits.
    pub fn poll(&mut self, gateway: &Gateway) -> WatchStep {
        if self.done {
            return WatchStep::Done;
        }
        let Some(now) = gateway.glance(self.job) else {
            self.done = true;
            let kept = gateway.outcome(self.job).cloned();
            return WatchStep::Event(kept.map_or(WatchEvent::Gone, WatchEvent::Ended));
        };
        let seen = Seen { state: now.state, version: now.version, position: now.position.unwrap_or(0) };
        let news = match self.seen {
            None => true,
            // A return to the queue is told even when the watcher missed the attempt in between.
            Some(old) if now.state == JobState::Queued => {
                old.state != now.state || old.position != seen.position || old.version != seen.version
            }
            Some(old) => old.state != now.state || old.version != seen.version,
        };
        if !news {
            return WatchStep::Wait;
        }
        self.seen = Some(seen);
        self.done = now.outcome.is_some();
        WatchStep::Event(match (now.state, now.outcome) {
            (_, Some(outcome)) => WatchEvent::Ended(outcome.clone()),
            (JobState::Queued, None) => WatchEvent::Queued { position: seen.position },
            (_, None) => WatchEvent::Running { progress_ppm: now.progress_ppm },
        })
    }
}

impl Awaited {
    pub(crate) fn hold(&mut self, job: JobId) {
        let wish = self.0.entry(job).or_default();
        wish.waiters = wish.waiters.saturating_add(1);
    }

    pub(crate) fn release(&mut self, job: JobId) {
        if let Some(wish) = self.0.get_mut(&job) {
            wish.waiters -= 1;
            if wish.waiters == 0 {
                self.0.remove(&job);
            }
        }
    }

    pub(crate) fn wants(&self, job: JobId) -> bool {
        !self.0.is_empty() && self.0.contains_key(&job)
    }

    pub(crate) fn keep(&mut self, job: JobId, outcome: Outcome) {
        if let Some(wish) = self.0.get_mut(&job) {
            wish.outcome = Some(outcome);
        }
    }

    pub(crate) fn outcome(&self, job: JobId) -> Option<&Outcome> {
        self.0.get(&job).and_then(|wish| wish.outcome.as_ref())
    }
}

impl EventLog {
    /// Drops what was not fetched: numbers of another epoch are no use.
    pub(crate) fn clear(&mut self) {
        self.events.clear();
    }

    pub(crate) fn new(max: u32) -> Self {
        Self { events: VecDeque::new(), next: 1, max: max as usize }
    }

    pub(crate) fn push(&mut self, at: Timestamp, kind: EventKind) {
        if self.events.len() >= self.max {
            self.events.pop_front();
        }
        self.events.push_back((at, kind));
        self.next += 1;
    }

    pub(crate) fn pop(&mut self, epoch: Epoch) -> Option<Event> {
        let number = self.next - self.events.len() as u64;
        self.events.pop_front().map(|(at, kind)| Event { epoch, number, at, kind })
    }

    pub(crate) fn iter_from(&self, from: u64, epoch: Epoch) -> impl Iterator<Item = Event> + '_ {
        let first = self.next - self.events.len() as u64;
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX).min(self.events.len());
        let kept = self.events.range(skip..).enumerate();
        kept.map(move |(index, (at, kind))| Event {
            epoch,
            number: first + (skip + index) as u64,
            at: *at,
            kind: *kind,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}
