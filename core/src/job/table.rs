//! The jobs a gateway knows: found by id, by idempotency key, by the instant of their next deadline.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ops::{Index, IndexMut};

use hashbrown::HashTable;
use slab::Slab;

use super::{JobFailure, JobState, Outcome, Payload, Priority, Task, Timeouts};
use crate::hashing::KeyHasher;
use crate::id::JobId;
use crate::queue::Key;
use crate::time::{Span, Timestamp};
use crate::timers::Timers;

/// A job as the gateway keeps it. What changes often is in [`JobHot`], what few jobs have is boxed.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// Its place in service order, kept while it runs: a retry returns to it.
    pub(crate) key: Key,
    pub(crate) content: Content,
    pub(crate) created: Timestamp,
    /// Expected GPU time in nanoseconds.
    pub(crate) estimate: u64,
    /// Hash of the affinity key, 0 for none.
    pub(crate) affinity: u64,
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) customer: u32,
    pub(crate) route: u32,
    /// Tokens its first lease takes from the customer's bucket.
    pub(crate) tokens: u32,
    pub(crate) task: Task,
    pub(crate) hot: JobHot,
}

/// What a job carries: nobody asks for what it was to do once it has ended.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Payload(Payload),
    Outcome(Outcome),
}

/// What a transition changes; small enough to be copied into an undo log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobHot {
    /// Start of the latest attempt; [`Timestamp::MAX`] while there was none.
    pub(crate) started: Timestamp,
    /// When the present state was entered.
    pub(crate) since: Timestamp,
    /// Slot of the live lease, or [`NO_LEASE`].
    pub(crate) lease: u32,
    /// Counts changes, so that watchers see that there was one.
    pub(crate) version: u32,
    pub(crate) progress_ppm: u32,
    /// Failures of the job itself.
    pub(crate) attempts: u16,
    /// Returns to the queue that were not the job's fault.
    pub(crate) requeues: u16,
    pub(crate) state: JobState,
    pub(crate) priority: Priority,
    /// Why it is not ready to be served although it is queued.
    pub(crate) hold: Hold,
    /// Whether its tokens were taken.
    pub(crate) paid: bool,
}

/// Why a queued job is stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Hold {
    /// It is not.
    None,
    /// Its customer may not run now; an event or instant of the customer wakes it.
    Parked,
    /// Its next attempt is not due yet; its own timer wakes it.
    Backoff,
}

/// What few jobs have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) timeouts: Timeouts,
    pub(crate) idempotency: Option<Idempotency>,
    /// Instant of the next attempt while [`Hold::Backoff`].
    pub(crate) not_before: Timestamp,
    /// GPU time of attempts the customer does not pay for.
    pub(crate) absorbed: u64,
    /// GPU time of attempts before the last that the customer does pay for.
    pub(crate) billable: u64,
    /// Leases of which nothing was heard any more.
    pub(crate) losses: u16,
    pub(crate) failure: Option<JobFailure>,
}

/// A customer's promise that equal keys are the same job.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Idempotency {
    pub(crate) key: Box<str>,
    /// Hash of what was submitted under it.
    pub(crate) fingerprint: [u8; 16],
}

/// Absolute deadlines of a job in its present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    pub(crate) queue: Timestamp,
    pub(crate) start: Timestamp,
    pub(crate) run: Timestamp,
    pub(crate) total: Timestamp,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLimits {
    /// Ended jobs are kept this long.
    pub(crate) retain_for: Span,
    /// And at most so many.
    pub(crate) retained_max: u32,
    pub(crate) timeouts: Timeouts,
    pub(crate) seed: u64,
}

#[derive(Debug)]
pub(crate) struct JobTable {
    jobs: Slab<Job>,
    index: HashTable<u32>,
    idempotency: HashTable<u32>,
    /// Ended jobs in order of their end, which is the order in which they leave: all are kept equally long.
    retained: VecDeque<Retained>,
    counts: [u32; 5],
    /// Whether a record left since the retained were last looked at.
    removed: bool,
    pub(crate) timers: Timers,
    hasher: KeyHasher,
    limits: TableLimits,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Retained {
    pub(crate) expires: Timestamp,
    pub(crate) slot: u32,
    /// Tells the job from a later one in the same slot, even one of the same id.
    pub(crate) sequence: u64,
}

impl JobHot {
    pub(crate) const fn queued(now: Timestamp, priority: Priority) -> Self {
        Self {
            started: Timestamp::MAX,
            since: now,
            lease: NO_LEASE,
            version: 0,
            progress_ppm: 0,
            attempts: 0,
            requeues: 0,
            state: JobState::Queued,
            priority,
            hold: Hold::None,
            paid: false,
        }
    }
}

impl Job {
    pub(crate) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// What it is to do; empty when it has ended.
    pub(crate) fn payload(&self) -> Payload {
        match &self.content {
            Content::Payload(payload) => payload.clone(),
            Content::Outcome(_) => Payload::EMPTY,
        }
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match &self.content {
            Content::Payload(_) => None,
            Content::Outcome(outcome) => Some(outcome),
        }
    }

    pub(crate) fn idempotency(&self) -> Option<&Idempotency> {
        self.extra.as_ref().and_then(|extra| extra.idempotency.as_ref())
    }

    /// When it first entered a terminal state.
    pub(crate) fn finished(&self) -> Option<Timestamp> {
        self.hot.state.is_terminal().then_some(self.hot.since)
    }

    /// The lane it waits in now; ageing may have lifted it above its priority.
    pub(crate) fn lane(&self) -> u8 {
        self.key.lane()
    }
}

impl JobTable {
    pub(crate) fn new(limits: TableLimits) -> Self {
        Self {
            jobs: Slab::new(),
            index: HashTable::new(),
            idempotency: HashTable::new(),
            retained: VecDeque::new(),
            counts: [0; 5],
            removed: false,
            timers: Timers::new(),
            hasher: KeyHasher::new(limits.seed),
            limits,
        }
    }

    pub(crate) fn find(&self, id: JobId) -> Option<u32> {
        self.index.find(self.hash_id(id), |slot| self.jobs[*slot as usize].id == id).copied()
    }

    pub(crate) fn find_key(&self, customer: u32, key: &str) -> Option<u32> {
        let hash = hash_key(&self.hasher, customer, key);
        let found = self.idempotency.find(hash, |slot| {
            let job = &self.jobs[*slot as usize];
            job.customer == customer && job.idempotency().is_some_and(|own| &*own.key == key)
        });
        found.copied()
    }

    /// Adds a job whose id and idempotency key are not there yet.
    pub(crate) fn insert(&mut self, job: Job) -> u32 {
        debug_assert!(self.find(job.id).is_none(), "a job id stands for one job");
        let hash = self.hash_id(job.id);
        let key = job.idempotency().map(|own| hash_key(&self.hasher, job.customer, &own.key));
        self.counts[job.hot.state as usize] += 1;
        let slot = self.jobs.insert(job) as u32;
        let Self { jobs, index, idempotency, hasher, .. } = self;
        index.insert_unique(hash, slot, |slot| hasher.hash(&jobs[*slot as usize].id));
        if let Some(hash) = key {
            idempotency.insert_unique(hash, slot, |slot| {
                let job = &jobs[*slot as usize];
                job.idempotency().map_or(0, |own| hash_key(hasher, job.customer, &own.key))
            });
        }
        slot
    }

    /// Takes a job's record out. Its entry among the retained, if it has one, is passed over later.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Job> {
        let job = self.jobs.try_remove(slot as usize)?;
        let hash = self.hash_id(job.id);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        if let Some(own) = job.idempotency() {
            let hash = hash_key(&self.hasher, job.customer, &own.key);
            if let Ok(entry) = self.idempotency.find_entry(hash, |other| *other == slot) {
                entry.remove();
            }
        }
        self.counts[job.hot.state as usize] -= 1;
        self.timers.disarm(slot);
        self.removed = true;
        Some(job)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Job> {
        self.jobs.get(slot as usize)
    }

    /// Replaces what a transition changes. The only way a job's state changes, so that the counts cannot drift.
    pub(crate) fn set_hot(&mut self, slot: u32, hot: JobHot) {
        let job = &mut self.jobs[slot as usize];
        self.counts[job.hot.state as usize] -= 1;
        self.counts[hot.state as usize] += 1;
        job.hot = hot;
    }

    /// Keeps an ended job until its time is over.
    pub(crate) fn retain(&mut self, slot: u32) {
        let job = &self.jobs[slot as usize];
        let expires = job.hot.since + self.limits.retain_for;
        let sequence = job.key.sequence();
        self.retained.push_back(Retained { expires, slot, sequence });
    }

    /// Undoes the latest [`JobTable::retain`].
    pub(crate) fn unretain(&mut self) {
        self.retained.pop_back();
    }

    /// The ended job that leaves next, and when. The last instant is never.
    #[inline]
    pub(crate) fn next_to_leave(&self) -> Option<(Timestamp, u32)> {
        let front = self.retained.front()?;
        (front.expires < Timestamp::MAX).then_some((front.expires, front.slot))
    }

    /// The ended job that has to make room, while more are kept than may be.
    #[inline]
    pub(crate) fn surplus(&self) -> Option<u32> {
        let front = self.retained.front().filter(|_| self.terminal() > self.limits.retained_max);
        front.map(|front| front.slot)
    }

    /// Ended jobs that are kept, the first to leave first.
    pub(crate) fn retained(&self) -> impl Iterator<Item = u32> + '_ {
        self.retained.iter().filter(|entry| self.is_retained(entry)).map(|entry| entry.slot)
    }

    pub(crate) fn count(&self, state: JobState) -> u32 {
        self.counts[state as usize]
    }

    pub(crate) fn terminal(&self) -> u32 {
        self.count(JobState::Complete) + self.count(JobState::Error) + self.count(JobState::Cancelled)
    }

    /// Jobs that have not ended.
    pub(crate) fn live(&self) -> u32 {
        self.count(JobState::Queued) + self.count(JobState::Running)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Job)> {
        self.jobs.iter().map(|(slot, job)| (slot as u32, job))
    }

    /// The job's deadlines as they stand in its present state; [`Timestamp::MAX`] where a clock does not run.
    pub(crate) fn deadlines(&self, job: &Job) -> Deadlines {
        let own = job.extra.as_ref().map_or(Timeouts::NONE, |extra| extra.timeouts);
        let Timeouts { queue, start, run, total } = own.or(self.limits.timeouts);
        let after = |from: Timestamp, span: Option<Span>| span.map_or(Timestamp::MAX, |span| from + span);
        let queued = job.hot.state == JobState::Queued;
        let running = job.hot.state == JobState::Running;
        Deadlines {
            queue: after(job.hot.since, queue.filter(|_| queued)),
            start: after(job.created, start.filter(|_| queued && job.hot.started == Timestamp::MAX)),
            run: after(job.hot.since, run.filter(|_| running)),
            total: after(job.created, total.filter(|_| queued || running)),
        }
    }

    /// Bytes held for jobs without what they box, for measuring.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.jobs.capacity() * (size_of::<Job>() + size_of::<usize>() / 8)
            + (self.index.capacity() + self.idempotency.capacity()) * 5
            + self.retained.capacity() * size_of::<Retained>()
    }

    /// Forgets entries at the front whose job left by itself, so that the front tells the truth.
    pub(crate) fn drop_stale_front(&mut self) {
        if !core::mem::take(&mut self.removed) {
            return;
        }
        while self.retained.front().is_some_and(|entry| !self.is_retained(entry)) {
            self.retained.pop_front();
        }
    }

    fn is_retained(&self, entry: &Retained) -> bool {
        self.get(entry.slot).is_some_and(|job| job.key.sequence() == entry.sequence && job.hot.state.is_terminal())
    }

    fn hash_id(&self, id: JobId) -> u64 {
        self.hasher.hash(&id)
    }
}

impl Index<u32> for JobTable {
    type Output = Job;

    fn index(&self, slot: u32) -> &Job {
        &self.jobs[slot as usize]
    }
}

impl IndexMut<u32> for JobTable {
    fn index_mut(&mut self, slot: u32) -> &mut Job {
        &mut self.jobs[slot as usize]
    }
}

fn hash_key(hasher: &KeyHasher, customer: u32, key: &str) -> u64 {
    hasher.hash(&(customer, key))
}

/// A job that does not run.
pub(crate) const NO_LEASE: u32 = u32::MAX;

#[cfg(any(test, feature = "testing"))]
impl JobTable {
    pub(crate) fn check_invariants(&self) {
        let mut counts = [0; 5];
        for (slot, job) in self.iter() {
            counts[job.hot.state as usize] += 1;
            assert_eq!(self.find(job.id), Some(slot), "a job is found by its id");
            if let Some(own) = job.idempotency() {
                assert_eq!(self.find_key(job.customer, &own.key), Some(slot), "a job is found by its key");
            }
            assert_eq!(job.hot.state.is_terminal(), job.outcome().is_some(), "an outcome exactly at the end");
            assert_eq!(job.hot.state == JobState::Running, job.hot.lease != NO_LEASE, "a lease exactly while running");
        }
        assert_eq!(counts, self.counts, "states sum to jobs");
        assert_eq!(self.index.len(), self.jobs.len());
        assert_eq!(self.retained().count(), self.terminal() as usize, "each ended job is kept once");
        assert!(self.retained.iter().zip(self.retained.iter().skip(1)).all(|(a, b)| a.expires <= b.expires));
    }
}
