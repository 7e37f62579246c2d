//! The job store by itself: for hosts that bring their own queue and backends.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::string::String;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use serde::{Deserialize, Serialize};

use super::keys::{Idempotency, KeyLimits};
use super::table::{Content, Extra, Hold, Job, JobHot, JobTable, NO_LEASE, TableLimits};
use super::{CancelReason, JobEvent, JobFailure, JobState, Outcome, Output, Payload, Priority, Task, Timeouts};
use crate::coded::{Full, InputError, Scope};
use crate::error::{JobError, SubmitError};
use crate::failure::FailureClass;
use crate::id::{JobId, KEY_LEN_MAX, NAME_LEN_MAX, check_name};
use crate::queue::Key;
use crate::registry::Registry;
use crate::time::{Clock, Span, Timestamp};

/// Limits of a [`JobStore`].
///
/// ```
/// use libgateway::{JobStoreConfig, Span};
/// let config = JobStoreConfig::default().jobs_max(10).retain_for(Span::from_secs(60));
/// assert_eq!((config.jobs_max, config.retain_for), (10, Span::from_secs(60)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct JobStoreConfig {
    /// Jobs that have not ended.
    pub jobs_max: u32,
    /// Ended jobs are kept so long.
    pub retain_for: Span,
    /// And at most so many.
    pub retained_max: u32,
    /// With at most so many bytes of outputs and failure messages together.
    pub retained_bytes_max: u64,
    /// An idempotency key stands for its job until so long after the job's end, whether the job is still kept or not.
    /// Above zero.
    pub idempotency_for: Span,
    /// Keys of ended jobs at most; the one whose job ended first leaves first. The key of a job that lives never leaves.
    pub idempotency_keys_max: u32,
    /// Whether a key is free again at once when its job ended in error.
    pub idempotency_free_failed: bool,
    /// And when it was cancelled.
    pub idempotency_free_cancelled: bool,
    /// Longest payload, output and failure message in bytes.
    pub payload_len_max: u32,
    /// The four clocks of a job that does not bring its own.
    pub timeouts: Timeouts,
    /// Keys the hash tables.
    pub seed: u64,
}

/// Jobs by id, each with one state that only moves as the lifecycle table says.
///
/// The order of calls: [`JobStore::insert`]; [`JobStore::start`], which numbers the attempt; then one of
/// [`JobStore::complete`], [`JobStore::fail`], [`JobStore::requeue`] with that number: an answer of an attempt that is no
/// longer the present one is refused and changes nothing. [`JobStore::handle_timeout`] at [`JobStore::next_deadline`].
/// `now` is the host's clock, and what counts is the time between two readings: a step back is no time, a step ahead is time
/// that passed (see [`Clock`]). All instants told are of that clock as it was read last.
///
/// ```
/// use libgateway::{JobId, JobState, JobStore, JobStoreConfig, NewJob, Output, Timestamp};
/// let now = Timestamp::from_secs(1);
/// let mut store = JobStore::new(JobStoreConfig::default(), now);
/// let id = store.insert(now, NewJob::new(JobId::from_entropy(1), "acme").payload("a red fox"))?;
/// let lost = store.start(now, id)?;
/// store.requeue(now, id, lost)?;
/// let attempt = store.start(now, id)?;
/// assert!(store.complete(now, id, lost, Output::url("late.webp")).is_err());
/// store.complete(now, id, attempt, Output::url("1.webp"))?;
/// assert_eq!(store.get(id).map(|job| job.state), Some(JobState::Complete));
/// assert_eq!(store.count(JobState::Complete), 1);
/// # Ok::<(), libgateway::error::Error>(())
/// ```
pub struct JobStore {
    config: JobStoreConfig,
    table: JobTable,
    customers: Registry<u32>,
    clock: Clock,
    /// The instant up to which all that was due is handled, by `clock`.
    now: Timestamp,
    sequence: u64,
}

/// A job to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewJob<'a> {
    /// Its id, from the host's entropy.
    pub id: JobId,
    /// Who asks.
    pub customer: &'a str,
    /// The body.
    #[serde(default)]
    pub payload: Payload,
    /// Equal keys of one customer are the same job.
    #[serde(default)]
    pub idempotency_key: Option<&'a str>,
    /// Its own clocks.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// A stored job as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StoredJob {
    /// Its id.
    pub id: JobId,
    /// Who asked.
    pub customer: String,
    /// Where it is in its life.
    pub state: JobState,
    /// The body; empty once the job has ended.
    pub payload: Payload,
    /// When it was inserted.
    pub created: Timestamp,
    /// When its latest attempt began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How far it is, in parts per million.
    pub progress_ppm: u32,
    /// The number of its latest attempt; 0 before the first.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Rises with each change.
    pub version: u32,
}

impl Default for JobStoreConfig {
    fn default() -> Self {
        Self {
            jobs_max: 1_000_000,
            retain_for: Span::from_secs(3_600),
            retained_max: 100_000,
            retained_bytes_max: 1 << 30,
            idempotency_for: Span::from_secs(86_400),
            idempotency_keys_max: 1_000_000,
            idempotency_free_failed: false,
            idempotency_free_cancelled: false,
            payload_len_max: 10_485_760,
            timeouts: Timeouts::NONE,
            seed: 0,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $type:ty),+ $(,)?) => {
        $($(#[$doc])*
        #[must_use]
        pub const fn $field(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        })+
    };
}

impl JobStoreConfig {
    setters! {
        /// Sets [`JobStoreConfig::jobs_max`].
        jobs_max: u32,
        /// Sets [`JobStoreConfig::retain_for`].
        retain_for: Span,
        /// Sets [`JobStoreConfig::retained_max`].
        retained_max: u32,
        /// Sets [`JobStoreConfig::retained_bytes_max`].
        retained_bytes_max: u64,
        /// Sets [`JobStoreConfig::idempotency_for`].
        idempotency_for: Span,
        /// Sets [`JobStoreConfig::idempotency_keys_max`].
        idempotency_keys_max: u32,
        /// Sets [`JobStoreConfig::idempotency_free_failed`].
        idempotency_free_failed: bool,
        /// Sets [`JobStoreConfig::idempotency_free_cancelled`].
        idempotency_free_cancelled: bool,
        /// Sets [`JobStoreConfig::payload_len_max`].
        payload_len_max: u32,
        /// Sets [`JobStoreConfig::timeouts`].
        timeouts: Timeouts,
        /// Sets [`JobStoreConfig::seed`].
        seed: u64,
    }

    fn keys(&self) -> KeyLimits {
        KeyLimits {
            keep_for: self.idempotency_for,
            keys_max: self.idempotency_keys_max,
            free_failed: self.idempotency_free_failed,
            free_cancelled: self.idempotency_free_cancelled,
        }
    }
}

impl<'a> NewJob<'a> {
    /// A job without payload, key or clocks of its own.
    pub fn new(id: JobId, customer: &'a str) -> Self {
        Self { id, customer, payload: Payload::EMPTY, idempotency_key: None, timeouts: Timeouts::NONE }
    }

    /// Sets [`NewJob::payload`].
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Payload>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets [`NewJob::idempotency_key`].
    #[must_use]
    pub fn idempotency_key(mut self, key: &'a str) -> Self {
        self.idempotency_key = Some(key);
        self
    }

    /// Sets [`NewJob::timeouts`].
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

impl JobStore {
    /// An empty store. Any configuration can be: a maximum of 0 keeps nothing.
    pub fn new(config: JobStoreConfig, now: Timestamp) -> Self {
        let JobStoreConfig { retain_for, retained_max, retained_bytes_max, timeouts, seed, .. } = config;
        let (clock, keys) = (Clock::new(now), config.keys());
        Self {
            config,
            table: JobTable::new(TableLimits { retain_for, retained_max, retained_bytes_max, keys, timeouts, seed }),
            customers: Registry::of_part("customers", u32::MAX, seed),
            clock,
            now: clock.now(),
            sequence: 0,
        }
    }

    /// Stores a job. Returns its id, or that of the job its idempotency key stands for already.
    ///
    /// # Errors
    /// [`SubmitError::Input`]; [`SubmitError::IdempotencyConflict`]; [`SubmitError::DuplicateJob`]; [`SubmitError::Full`].
    pub fn insert(&mut self, now: Timestamp, job: NewJob<'_>) -> Result<JobId, SubmitError> {
        self.handle_timeout(now);
        check_name("customer", job.customer, NAME_LEN_MAX)?;
        self.check_len("payload", job.payload.len())?;
        let idempotency = match job.idempotency_key {
            None => None,
            Some(key) => {
                check_name("idempotency_key", key, KEY_LEN_MAX)?;
                let fingerprint = Blake2b::<U16>::digest(job.payload.as_bytes()).into();
                Some(Idempotency { address: self.table.keys.address(job.customer, key), fingerprint })
            }
        };
        if let Some((own, known)) = idempotency.and_then(|own| Some((own, self.table.keys.get(own.address)?))) {
            let job = known.job;
            let equal = known.fingerprint == own.fingerprint;
            return if equal { Ok(job) } else { Err(SubmitError::IdempotencyConflict { job }) };
        }
        let known = self.customers.find(job.customer);
        if self.table.find(job.id).is_some() {
            return Err(SubmitError::DuplicateJob { job: job.id });
        }
        if self.table.live() >= self.config.jobs_max {
            let (live, max) = (self.table.live().into(), self.config.jobs_max.into());
            let full = Full::new("jobs", Scope::Part, live, max);
            let room = self.table.timers.next_deadline().map(|at| self.clock.to_host(at));
            return Err(full.retry_at(room).into());
        }
        let customer = match known {
            Some(customer) => customer,
            None => self.customers.insert(job.customer, 0)?,
        };
        self.customers[customer] += 1;
        let extra = (idempotency.is_some() || job.timeouts != Timeouts::NONE)
            .then(|| Box::new(Extra { timeouts: job.timeouts, idempotency, ..Extra::default() }));
        let slot = self.table.insert(Job {
            id: job.id,
            key: Key::new(0, 0, self.sequence),
            content: Content::Payload(job.payload),
            created: self.now,
            estimate: 0,
            affinity: 0,
            extra,
            customer,
            route: 0,
            tokens: 0,
            task: Task::T2i,
            hot: JobHot::queued(self.now, Priority::Normal),
        });
        self.sequence += 1;
        self.rearm(slot);
        Ok(job.id)
    }

    /// Lets a queued job run. Returns the number of the attempt, from 1.
    ///
    /// # Errors
    /// [`JobError::UnknownJob`]; [`JobError::NotAllowed`].
    pub fn start(&mut self, now: Timestamp, id: JobId) -> Result<u32, JobError> {
        self.handle_timeout(now);
        let (slot, mut hot) = self.step(id, JobEvent::Lease)?;
        hot.started = self.now;
        hot.progress_ppm = 0;
        hot.attempts = hot.attempts.saturating_add(1);
        // The attempt stands where a gateway keeps its lease.
        hot.lease = hot.attempts;
        self.set(slot, hot);
        Ok(hot.attempts)
    }

    /// Takes an attempt's result.
    ///
    /// # Errors
    /// [`JobError::UnknownJob`]; [`JobError::NotAllowed`]; [`JobError::StaleAttempt`]; [`JobError::Input`] for an empty or
    /// over-long output.
    pub fn complete(&mut self, now: Timestamp, id: JobId, attempt: u32, output: Output) -> Result<(), JobError> {
        self.handle_timeout(now);
        let (slot, hot) = self.attempt(id, attempt, JobEvent::Succeed)?;
        output.check()?;
        self.check_len("output", output.len())?;
        self.finish(slot, hot, Outcome::Complete(output));
        Ok(())
    }

    /// Takes an attempt's failure, for good.
    ///
    /// # Errors
    /// As [`JobStore::complete`].
    pub fn fail(&mut self, now: Timestamp, id: JobId, attempt: u32, failure: JobFailure) -> Result<(), JobError> {
        self.handle_timeout(now);
        let (slot, hot) = self.attempt(id, attempt, JobEvent::Fail)?;
        self.check_len("message", failure.message.len())?;
        self.finish(slot, hot, Outcome::Error(failure));
        Ok(())
    }

    /// Ends an attempt without a verdict: the job waits again.
    ///
    /// # Errors
    /// As [`JobStore::complete`].
    pub fn requeue(&mut self, now: Timestamp, id: JobId, attempt: u32) -> Result<(), JobError> {
        self.handle_timeout(now);
        let (slot, mut hot) = self.attempt(id, attempt, JobEvent::Requeue)?;
        hot.lease = NO_LEASE;
        hot.progress_ppm = 0;
        self.set(slot, hot);
        Ok(())
    }

    /// Tells how far an attempt is, in parts per million.
    ///
    /// # Errors
    /// As [`JobStore::complete`].
    pub fn progress(&mut self, now: Timestamp, id: JobId, attempt: u32, progress_ppm: u32) -> Result<(), JobError> {
        self.handle_timeout(now);
        let (slot, _) = self.attempt(id, attempt, JobEvent::Succeed)?;
        if progress_ppm > 1_000_000 {
            let (value, max) = (u64::from(progress_ppm), 1_000_000);
            return Err(InputError::OutOfRange { field: "progress_ppm", value, min: 0, max }.into());
        }
        let mut hot = self.table[slot].hot;
        hot.progress_ppm = progress_ppm;
        hot.version = hot.version.wrapping_add(1);
        self.table.set_hot(slot, hot);
        Ok(())
    }

    /// Gives a job up, waiting or running.
    ///
    /// # Errors
    /// [`JobError::UnknownJob`]; [`JobError::NotAllowed`].
    pub fn cancel(&mut self, now: Timestamp, id: JobId) -> Result<(), JobError> {
        self.handle_timeout(now);
        let (slot, hot) = self.step(id, JobEvent::Cancel)?;
        self.finish(slot, hot, Outcome::Cancelled(CancelReason::Requested));
        Ok(())
    }

    /// Removes the record of a job that has ended.
    ///
    /// # Errors
    /// [`JobError::UnknownJob`]; [`JobError::NotAllowed`].
    pub fn delete(&mut self, now: Timestamp, id: JobId) -> Result<(), JobError> {
        self.handle_timeout(now);
        let (slot, _) = self.step(id, JobEvent::Forget)?;
        self.forget(slot);
        Ok(())
    }

    /// A job, or `None` when no job of that id is known (any more).
    pub fn get(&self, id: JobId) -> Option<StoredJob> {
        let job = &self.table[self.table.find(id)?];
        Some(StoredJob {
            id: job.id,
            customer: String::from(&**self.customers.name(job.customer)),
            state: job.hot.state,
            payload: job.payload(),
            created: self.clock.to_host(job.created),
            started: Some(job.hot.started).filter(|at| *at != Timestamp::MAX).map(|at| self.clock.to_host(at)),
            finished: job.finished().map(|at| self.clock.to_host(at)),
            progress_ppm: job.hot.progress_ppm,
            attempt: job.hot.attempts,
            outcome: job.outcome().cloned(),
            version: job.hot.version,
        })
    }

    /// The job a customer inserted under an idempotency key. The key may have outlived the job's record.
    pub fn by_key(&self, customer: &str, key: &str) -> Option<JobId> {
        self.table.find_key(customer, key).map(|entry| entry.job)
    }

    /// How many known jobs are in a state.
    pub fn count(&self, state: JobState) -> u32 {
        self.table.count(state)
    }

    /// When something falls due next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.next_due().map(|at| self.clock.to_host(at))
    }

    fn next_due(&self) -> Option<Timestamp> {
        let leaving = self.table.next_to_leave().map(|(at, _)| at);
        [self.table.timers.next_deadline(), leaving].into_iter().flatten().min().map(|at| at.max(self.now))
    }

    /// Handles what is due by `now`, each at its own instant: waiting jobs whose clock ran out are cancelled, running
    /// ones are in error, ended ones leave. Returns how many. Safe early, safe twice; every call does it first.
    ///
    /// # Complexity
    /// O(log n) for each.
    pub fn handle_timeout(&mut self, now: Timestamp) -> u32 {
        self.clock.observe_awaited(now, self.next_due().unwrap_or(Timestamp::MAX));
        let target = self.clock.now();
        let mut handled = 0;
        while let Some(at) = self.next_due().filter(|at| *at <= target) {
            self.now = at;
            match self.table.timers.pop_due(at) {
                Some((slot, _)) => self.time_out(slot),
                None => {
                    if let Some((_, slot)) = self.table.next_to_leave() {
                        self.forget(slot);
                    }
                }
            }
            handled += 1;
        }
        self.now = target;
        self.table.keys.expire(target);
        handled
    }

    fn time_out(&mut self, slot: u32) {
        let job = &self.table[slot];
        let (hot, deadlines) = (job.hot, self.table.deadlines(job));
        let reason = match hot.state {
            JobState::Queued if deadlines.total <= self.now => CancelReason::TotalTimeout,
            JobState::Queued if deadlines.start <= self.now => CancelReason::StartTimeout,
            JobState::Queued => CancelReason::QueueTimeout,
            _ => {
                let message = Box::from("the job took too long");
                let failure = JobFailure { class: FailureClass::Timeout, message, retriable: false };
                return self.finish(slot, hot, Outcome::Error(failure));
            }
        };
        self.finish(slot, hot, Outcome::Cancelled(reason));
    }

    /// The job of that id and what it becomes by an event that the lifecycle table allows.
    fn step(&self, id: JobId, event: JobEvent) -> Result<(u32, JobHot), JobError> {
        let slot = self.table.find(id).ok_or(JobError::UnknownJob { job: id })?;
        let mut hot = self.table[slot].hot;
        let Some(state) = hot.state.after(event) else {
            return Err(JobError::NotAllowed { job: id, state: hot.state.as_str(), event: event.as_str() });
        };
        hot.state = state;
        hot.hold = Hold::None;
        Ok((slot, hot))
    }

    /// As [`JobStore::step`], for the attempt that runs now and no other.
    fn attempt(&self, id: JobId, attempt: u32, event: JobEvent) -> Result<(u32, JobHot), JobError> {
        let (slot, hot) = self.step(id, event)?;
        let present = hot.attempts;
        if attempt != present {
            return Err(JobError::StaleAttempt { job: id, attempt, present });
        }
        Ok((slot, hot))
    }

    fn set(&mut self, slot: u32, mut hot: JobHot) {
        hot.since = self.now;
        hot.version = hot.version.wrapping_add(1);
        self.table.set_hot(slot, hot);
        self.rearm(slot);
    }

    fn finish(&mut self, slot: u32, mut hot: JobHot, outcome: Outcome) {
        hot.state = outcome.state();
        hot.lease = NO_LEASE;
        self.table[slot].content = Content::Outcome(outcome);
        self.set(slot, hot);
        self.table.retain(slot);
        while let Some(oldest) = self.table.surplus() {
            self.forget(oldest);
        }
        self.table.keys.drop_surplus();
    }

    fn forget(&mut self, slot: u32) {
        if let Some(job) = self.table.remove(slot) {
            self.customers[job.customer] -= 1;
            if self.customers[job.customer] == 0 {
                self.customers.remove(job.customer);
            }
        }
        self.table.drop_stale_front();
    }

    fn rearm(&mut self, slot: u32) {
        let job = &self.table[slot];
        let deadlines = self.table.deadlines(job);
        let at = deadlines.queue.min(deadlines.start).min(deadlines.run).min(deadlines.total);
        let order = job.key.sequence();
        self.table.timers.arm(slot, at, order);
    }

    fn check_len(&self, field: &'static str, len: usize) -> Result<(), InputError> {
        let max = self.config.payload_len_max as usize;
        if len > max { Err(InputError::TooLong { field, len, max }) } else { Ok(()) }
    }

    /// Checks the store against itself.
    ///
    /// # Panics
    /// On the first thing that does not hold.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        self.table.check_invariants();
        for (customer, name, jobs) in self.customers.iter() {
            let own = self.table.iter().filter(|(_, job)| job.customer == customer).count();
            assert_eq!(*jobs as usize, own, "jobs of {name}");
            assert!(own > 0, "{name} is known only while it has jobs");
        }
    }
}

#[cfg(test)]
mod tests;
