//! The jobs a gateway knows: found by id, by idempotency key, by the instant of their next deadline.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use hashbrown::HashTable;
use slab::Slab;

use super::keys::{Idempotency, KeyEntry, KeyLimits, KeyTable};
use super::{JobFailure, JobState, Outcome, Payload, Priority, Task, Timeouts};
use crate::hashing::KeyHasher;
use crate::id::JobId;
use crate::queue::Key;
use crate::time::{GpuNanos, Span, Timestamp};
use crate::timers::Timers;

/// A job as the gateway keeps it. What changes often is in [`JobHot`], what few jobs have is boxed.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// Its lane and age: what is its own of its place in service order.
    pub(crate) key: Key,
    pub(crate) content: Content,
    pub(crate) created: Timestamp,
    /// Expected GPU time in nanoseconds, as told at its submission; 0: nothing was told.
    pub(crate) estimate: u64,
    /// Hash of the affinity key, 0 for none.
    pub(crate) affinity: u64,
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) customer: u32,
    pub(crate) route: u32,
    /// Tokens its first lease takes from the customer's bucket.
    pub(crate) tokens: u64,
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
    pub(crate) attempts: u32,
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
    /// Its customer runs as many as it may; the end of one wakes it.
    Parked,
    /// Its customer had no tokens for it; an instant of the customer wakes it.
    Throttled,
    /// It may not run before an instant; its own timer wakes it.
    NotBefore,
    /// It can never run under its customer's plan; a new plan wakes it.
    Barred,
}

/// What few jobs have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) timeouts: Timeouts,
    pub(crate) idempotency: Option<Idempotency>,
    /// Before this instant it may not run while [`Hold::NotBefore`].
    pub(crate) not_before: Timestamp,
    /// What its submission said of that: its clocks count from then on.
    pub(crate) begins: Timestamp,
    /// GPU time of attempts the customer does not pay for.
    pub(crate) absorbed: u64,
    /// GPU time of attempts before the last that the customer does pay for.
    pub(crate) billable: u64,
    pub(crate) requeues: Requeues,
    pub(crate) failure: Option<JobFailure>,
    /// Start of the first attempt, once one has ended.
    pub(crate) first_started: Option<Timestamp>,
    /// Backends that failed it, by their order of declaration, the latest last; at most [`FAILED_MAX`].
    pub(crate) failed_on: Vec<u32>,
    /// What else attempts before the last leave for the settlement.
    pub(crate) earlier: Earlier,
}

/// How often a job returned to the queue through no fault of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Requeues {
    /// Nothing was heard of its lease any more.
    pub(crate) lost: u32,
    /// Its worker gave the lease back.
    pub(crate) released: u32,
    /// The host took the lease back.
    pub(crate) preempted: u32,
}

impl Requeues {
    pub(crate) fn total(self) -> u32 {
        self.lost.saturating_add(self.released).saturating_add(self.preempted)
    }
}

/// What attempts before the last leave for a job's settlement, besides their GPU time.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Earlier {
    /// GPU time reported of those that the customer pays for.
    pub(crate) reported: u64,
    /// How many of those were not measured.
    pub(crate) unmeasured: u32,
    /// Of how many less was billed or absorbed than was reported.
    pub(crate) capped: u32,
    /// Number of the last one in the table of leases that may be told late.
    pub(crate) late: Option<u64>,
    /// What devices worked in those that the customer pays for: at most [`PAID_DEVICES_MAX`] with their names, in order of
    /// appearance, and the rest in one without.
    pub(crate) devices: Vec<(Arc<str>, GpuNanos)>,
}

/// Most devices of a job that are kept by name.
pub(crate) const PAID_DEVICES_MAX: usize = 64;

impl Earlier {
    /// Adds what devices worked.
    pub(crate) fn add<'d>(&mut self, devices: impl Iterator<Item = (&'d Arc<str>, GpuNanos)>) {
        for (device, gpu) in devices {
            let known = self.devices.iter().any(|(own, _)| own == device);
            let named = self.devices.iter().filter(|(own, _)| !own.is_empty()).count();
            let name: Arc<str> = if known || named < PAID_DEVICES_MAX { device.clone() } else { Arc::from("") };
            match self.devices.iter_mut().find(|(own, _)| *own == name) {
                Some((_, sum)) => *sum = sum.saturating_add(gpu),
                None => self.devices.push((name, gpu)),
            }
        }
    }

    /// Puts what devices worked in the place of what was added of the same lease before.
    pub(crate) fn replace(&mut self, old: &[(Arc<str>, GpuNanos)], new: &[(Arc<str>, GpuNanos)]) {
        for (device, gpu) in old {
            let named = self.devices.iter().position(|(own, _)| own == device);
            let place = named.or_else(|| self.devices.iter().position(|(own, _)| own.is_empty()));
            if let Some((_, sum)) = place.and_then(|place| self.devices.get_mut(place)) {
                *sum = GpuNanos::from_nanos(sum.as_nanos().saturating_sub(gpu.as_nanos()));
            }
        }
        self.add(new.iter().map(|(device, gpu)| (device, *gpu)));
        // One that did not work after all is none.
        let told =
            |device: &Arc<str>| old.iter().any(|(own, _)| own == device) && !new.iter().any(|(own, _)| own == device);
        self.devices.retain(|(device, sum)| *sum != GpuNanos::ZERO || !told(device));
    }
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
    /// With so many bytes of outputs and failure messages.
    pub(crate) retained_bytes_max: u64,
    pub(crate) keys: KeyLimits,
    pub(crate) timeouts: Timeouts,
    pub(crate) seed: u64,
}

#[derive(Debug)]
pub(crate) struct JobTable {
    records: Records,
    index: HashTable<u32>,
    pub(crate) keys: KeyTable,
    counts: [u32; 5],
    /// Bytes of outcomes that are kept.
    retained_bytes: u64,
    /// Whether a record left since the front of the ended ones was last looked at.
    removed: bool,
    pub(crate) timers: Timers,
    hasher: KeyHasher,
    limits: TableLimits,
}

/// Where jobs lie: those that live in places that are used again, ended ones in line, in the order of their end. That is
/// the order in which they leave, as all are kept equally long, and so memory is walked through and not jumped about in.
#[derive(Debug)]
struct Records {
    live: Slab<Job>,
    /// A job that left from between others has no outcome any more, see [`Job::has_left`].
    ended: VecDeque<Job>,
    /// How many have left the front of the line; wraps at [`ENDED`].
    passed: u32,
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

    /// Returns to the queue that were not its fault.
    pub(crate) fn requeues(&self) -> Requeues {
        self.extra.as_ref().map_or(Requeues::default(), |extra| extra.requeues)
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match &self.content {
            Content::Payload(_) => None,
            Content::Outcome(outcome) => Some(outcome),
        }
    }

    pub(crate) fn idempotency(&self) -> Option<Idempotency> {
        self.extra.as_ref().and_then(|extra| extra.idempotency)
    }

    /// Bytes of its output or failure message.
    fn outcome_len(&self) -> u64 {
        match self.outcome() {
            Some(Outcome::Complete(output)) => output.len() as u64,
            Some(Outcome::Error(failure)) => failure.message.len() as u64,
            Some(Outcome::Cancelled(_)) | None => 0,
        }
    }

    /// Whether its key is free again, now that it has ended.
    fn frees_key(&self, limits: KeyLimits) -> bool {
        match self.hot.state {
            JobState::Error => limits.free_failed,
            JobState::Cancelled => limits.free_cancelled,
            JobState::Queued | JobState::Running | JobState::Complete => false,
        }
    }

    /// Whether the record left and only its gap is still in line: an ended job has an outcome.
    fn has_left(&self) -> bool {
        self.hot.state.is_terminal() && self.outcome().is_none()
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

impl Records {
    /// The number of the ended job at `index`.
    fn number(&self, index: usize) -> u32 {
        self.passed.wrapping_add(index as u32) | ENDED
    }

    fn ended_index(&self, number: u32) -> usize {
        (number.wrapping_sub(self.passed) & !ENDED) as usize
    }
}

impl Index<u32> for Records {
    type Output = Job;

    #[inline]
    fn index(&self, number: u32) -> &Job {
        if number < ENDED { &self.live[number as usize] } else { &self.ended[self.ended_index(number)] }
    }
}

impl IndexMut<u32> for Records {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut Job {
        let index = self.ended_index(number);
        if number < ENDED { &mut self.live[number as usize] } else { &mut self.ended[index] }
    }
}

impl JobTable {
    pub(crate) fn new(limits: TableLimits) -> Self {
        Self {
            records: Records { live: Slab::new(), ended: VecDeque::new(), passed: 0 },
            index: HashTable::new(),
            keys: KeyTable::new(limits.keys, limits.seed),
            counts: [0; 5],
            retained_bytes: 0,
            removed: false,
            timers: Timers::new(),
            hasher: KeyHasher::new(limits.seed),
            limits,
        }
    }

    pub(crate) fn find(&self, id: JobId) -> Option<u32> {
        self.index.find(self.hasher.hash(&id), |slot| self.records[*slot].id == id).copied()
    }

    /// What a customer's key stands for; its job's record may have left.
    pub(crate) fn find_key(&self, customer: &str, key: &str) -> Option<&KeyEntry> {
        self.keys.find(customer, key)
    }

    /// Makes room for so many more jobs.
    pub(crate) fn reserve(&mut self, jobs: usize) {
        let Self { records, index, hasher, .. } = self;
        records.live.reserve(jobs);
        index.reserve(jobs, |slot| hasher.hash(&records[*slot].id));
    }

    /// Adds a job whose id and idempotency key are not there yet.
    pub(crate) fn insert(&mut self, job: Job) -> u32 {
        debug_assert!(self.find(job.id).is_none(), "a job id stands for one job");
        self.counts[job.hot.state as usize] += 1;
        // Memory ends long before 2^31 live jobs.
        if let Some(own) = job.idempotency().filter(|_| !job.hot.state.is_terminal()) {
            self.keys.add(own, job.id);
        }
        let slot = self.records.live.insert(job) as u32;
        self.enter(slot);
        slot
    }

    /// Makes a record be found.
    fn enter(&mut self, slot: u32) {
        let Self { records, index, hasher, .. } = self;
        index.insert_unique(hasher.hash(&records[slot].id), slot, |slot| hasher.hash(&records[*slot].id));
    }

    /// Takes a job's record out. An ended one leaves a gap, which closes when it comes to the front, and its key stays; the
    /// key of one that lives goes with it.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Job> {
        let job = if slot < ENDED {
            self.records.live.try_remove(slot as usize)?
        } else {
            let index = self.records.ended_index(slot);
            let job = self.records.ended.get_mut(index).filter(|job| !job.has_left())?;
            let gap = Job { content: Content::Payload(Payload::EMPTY), extra: None, ..*job };
            core::mem::replace(job, gap)
        };
        let hash = self.hasher.hash(&job.id);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        self.counts[job.hot.state as usize] -= 1;
        if slot < ENDED {
            self.timers.disarm(slot);
            if let Some(own) = job.idempotency() {
                self.keys.remove(own.address);
            }
        } else {
            self.retained_bytes -= job.outcome_len();
        }
        self.removed = true;
        Some(job)
    }

    /// Undoes the removal of an ended job, when everything since has been undone.
    pub(crate) fn unremove(&mut self, slot: u32, job: Job) {
        debug_assert!(self.records[slot].has_left(), "its gap is still there");
        self.counts[job.hot.state as usize] += 1;
        self.retained_bytes += job.outcome_len();
        self.records[slot] = job;
        self.enter(slot);
    }

    /// Replaces what a transition changes. The only way a job's state changes, so that the counts cannot drift.
    pub(crate) fn set_hot(&mut self, slot: u32, hot: JobHot) {
        let job = &mut self.records[slot];
        self.counts[job.hot.state as usize] -= 1;
        self.counts[hot.state as usize] += 1;
        job.hot = hot;
    }

    /// Keeps an ended job until its time is over, and its key until that's is. It is moved and has another number from now
    /// on.
    pub(crate) fn retain(&mut self, slot: u32) {
        let number = self.records.number(self.records.ended.len());
        if let Some(job) = self.records.live.try_remove(slot as usize) {
            self.renumber(&job, slot, number);
            if let Some(own) = job.idempotency() {
                self.keys.end(own.address, job.hot.since, job.frees_key(self.limits.keys));
            }
            self.retained_bytes += job.outcome_len();
            self.records.ended.push_back(job);
        }
    }

    /// Undoes the latest [`JobTable::retain`]. Returns the number the job has again.
    pub(crate) fn unretain(&mut self) -> Option<u32> {
        let job = self.records.ended.pop_back()?;
        let number = self.records.number(self.records.ended.len());
        let slot = self.records.live.vacant_key() as u32;
        self.renumber(&job, number, slot);
        if let Some(own) = job.idempotency() {
            self.keys.unend(own, job.id, job.frees_key(self.limits.keys));
        }
        self.retained_bytes -= job.outcome_len();
        self.records.live.insert(job);
        Some(slot)
    }

    fn renumber(&mut self, job: &Job, old: u32, new: u32) {
        if let Some(entry) = self.index.find_mut(self.hasher.hash(&job.id), |slot| *slot == old) {
            *entry = new;
        }
    }

    /// The ended job that leaves next, and when. The last instant is never.
    #[inline]
    pub(crate) fn next_to_leave(&self) -> Option<(Timestamp, u32)> {
        let expires = self.records.ended.front()?.hot.since + self.limits.retain_for;
        (expires < Timestamp::MAX).then_some((expires, self.records.number(0)))
    }

    /// The ended job that has to make room, while more are kept than may be.
    #[inline]
    pub(crate) fn surplus(&self) -> Option<u32> {
        let surplus =
            self.terminal() > self.limits.retained_max || self.retained_bytes > self.limits.retained_bytes_max;
        surplus.then(|| self.records.number(0))
    }

    /// Ended jobs that are kept, the first to leave first.
    pub(crate) fn retained(&self) -> impl Iterator<Item = (u32, &Job)> + '_ {
        let numbered = self.records.ended.iter().enumerate();
        numbered.filter(|(_, job)| !job.has_left()).map(|(index, job)| (self.records.number(index), job))
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

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Job)> {
        self.live_jobs().chain(self.retained())
    }

    /// Jobs that have not ended.
    pub(crate) fn live_jobs(&self) -> impl Iterator<Item = (u32, &Job)> {
        self.records.live.iter().map(|(slot, job)| (slot as u32, job))
    }

    /// The job's deadlines as they stand in its present state; [`Timestamp::MAX`] where a clock does not run.
    pub(crate) fn deadlines(&self, job: &Job) -> Deadlines {
        let extra = job.extra.as_ref();
        let own = extra.map_or(Timeouts::NONE, |extra| extra.timeouts);
        let begins = extra.map_or(job.created, |extra| job.created.max(extra.begins));
        let Timeouts { queue, start, run, total } = own.or(self.limits.timeouts);
        let after = |from: Timestamp, span: Option<Span>| span.map_or(Timestamp::MAX, |span| from + span);
        let queued = job.hot.state == JobState::Queued;
        let running = job.hot.state == JobState::Running;
        Deadlines {
            // The clock stands still until the instant before which the job may not run.
            queue: after(job.hot.since, queue.filter(|_| queued && job.hot.hold != Hold::NotBefore)),
            start: after(begins, start.filter(|_| queued && job.hot.started == Timestamp::MAX)),
            run: after(job.hot.since, run.filter(|_| running)),
            total: after(begins, total.filter(|_| queued || running)),
        }
    }

    /// Bytes held for jobs without what they box, for measuring.
    pub(crate) fn memory_bytes(&self) -> usize {
        (self.records.live.capacity() + self.records.ended.capacity()) * size_of::<Job>()
            + self.index.allocation_size()
            + self.keys.memory_bytes()
    }

    /// Closes the gap at the front that removed records leave, so that the front tells the truth.
    pub(crate) fn drop_stale_front(&mut self) {
        if !core::mem::take(&mut self.removed) {
            return;
        }
        while self.records.ended.front().is_some_and(Job::has_left) {
            self.records.ended.pop_front();
            self.records.passed = self.records.passed.wrapping_add(1) & !ENDED;
        }
    }
}

impl Index<u32> for JobTable {
    type Output = Job;

    fn index(&self, slot: u32) -> &Job {
        &self.records[slot]
    }
}

impl IndexMut<u32> for JobTable {
    fn index_mut(&mut self, slot: u32) -> &mut Job {
        &mut self.records[slot]
    }
}

/// Numbers from here on are those of ended jobs.
const ENDED: u32 = 1 << 31;

/// So many backends that failed a job are remembered.
pub(crate) const FAILED_MAX: usize = 8;

/// A job that does not run.
pub(crate) const NO_LEASE: u32 = u32::MAX;

#[cfg(any(test, feature = "testing"))]
impl JobTable {
    pub(crate) fn check_invariants(&self) {
        let (mut counts, mut keys) = ([0; 5], 0);
        for (slot, job) in self.iter() {
            counts[job.hot.state as usize] += 1;
            assert_eq!(self.find(job.id), Some(slot), "a job is found by its id");
            if let Some(own) = job.idempotency().filter(|_| slot < ENDED) {
                assert_eq!(
                    self.keys.get(own.address).map(|entry| entry.job),
                    Some(job.id),
                    "a job is found by its key"
                );
                keys += 1;
            }
            assert_eq!(job.hot.state.is_terminal(), job.outcome().is_some(), "an outcome exactly at the end");
            assert_eq!(job.hot.state == JobState::Running, job.hot.lease != NO_LEASE, "a lease exactly while running");
        }
        self.keys.check_invariants(keys);
        let bytes: u64 = self.retained().map(|(_, job)| job.outcome_len()).sum();
        assert_eq!(bytes, self.retained_bytes, "outcomes sum to bytes");
        assert_eq!(counts, self.counts, "states sum to jobs");
        assert_eq!(self.index.len(), self.iter().count());
        assert!(self.records.live.iter().all(|(_, job)| !job.hot.state.is_terminal()), "ended jobs are in line");
        assert_eq!(self.retained().count(), self.terminal() as usize, "each ended job is kept once");
        assert!(self.records.ended.front().is_none_or(|job| !job.has_left()), "the front tells the truth");
        let ends = self.records.ended.iter().map(|job| job.hot.since);
        assert!(ends.is_sorted(), "in the order of their end");
    }
}
