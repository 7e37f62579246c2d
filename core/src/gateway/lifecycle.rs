//! What becomes of a lease: delivered, failed, given back, lost.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::string::String;

use serde::{Deserialize, Serialize};

use super::config::Payer;
use super::event::EventKind;
use super::late::UsageError;
use super::settlement::{Bill, Spent};
use super::state::State;
use crate::backend::{LeaseRecord, Verdict};
use crate::backoff::Retry;
use crate::billing::{Money, Usage};
use crate::error::{InputError, JobError, LeaseError};
use crate::failure::FailureClass;
use crate::id::{JobId, LeaseId, is_unheard_of};
use crate::job::{FAILED_MAX, Hold, JobEvent, JobFailure, JobState, NO_LEASE, Outcome, Output};
use crate::time::{GpuNanos, Span, Timestamp};

/// How an attempt failed, as the host saw it.
///
/// ```
/// use libgateway::{Failure, FailureClass, Span};
/// let failure = Failure::new(FailureClass::Http(503), "model is loading").retry_after(Span::from_secs(5));
/// assert_eq!(failure.retry_after, Some(Span::from_secs(5)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Failure {
    /// The kind of failure. It decides whether the job is tried again, and whether the backend's breaker hears of it.
    pub class: FailureClass,
    /// Words for people.
    #[serde(default)]
    pub message: String,
    /// The backend's own wish; the next attempt comes no earlier.
    #[serde(default)]
    pub retry_after: Option<Span>,
    /// Overrides what the class says of trying again.
    #[serde(default)]
    pub retriable: Option<bool>,
}

/// What a lease became when its result was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settled {
    /// The job.
    pub job: JobId,
    /// GPU time that was reported of the attempts the customer pays for.
    pub reported: GpuNanos,
    /// GPU time the customer pays for.
    pub usage: GpuNanos,
    /// Whether less was billed or absorbed than was reported.
    pub capped: bool,
    /// What it costs; `None` where the book has no price: then that is not known.
    pub charge: Option<Money>,
}

/// What becomes of a job whose attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AfterFailure {
    /// It is tried again, not before this instant.
    Retry {
        /// The instant.
        at: Timestamp,
    },
    /// It ended in error.
    Error,
}

/// What becomes of a job whose backend is taken from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvictTo {
    /// It waits again at once, before what its customer submitted later.
    #[default]
    Queue,
    /// It ends in error.
    Error,
}

/// Why a lease ended through no fault of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Lost,
    Released,
    Preempted,
}

impl Failure {
    /// A failure of a class.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), retry_after: None, retriable: None }
    }

    /// Sets [`Failure::retry_after`].
    #[must_use]
    pub fn retry_after(mut self, span: Span) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// Sets [`Failure::retriable`].
    #[must_use]
    pub fn retriable(mut self, retriable: bool) -> Self {
        self.retriable = Some(retriable);
        self
    }
}

impl State {
    /// The live lease of that id: the slot of its job.
    pub(crate) fn live_lease(&mut self, id: LeaseId) -> Result<(u32, LeaseRecord), LeaseError> {
        if let Some(record) = self.pool.find_lease(id).and_then(|slot| self.pool.lease_record(slot)) {
            return Ok((record.item, *record));
        }
        if is_unheard_of(id.as_u64(), self.pool.next_lease) {
            return Err(LeaseError::UnknownLease { lease: id.as_u64() });
        }
        Err(LeaseError::Superseded { lease: id.as_u64() })
    }

    pub(crate) fn complete(&mut self, id: LeaseId, output: Output, usage: &Usage<'_>) -> Result<Settled, LeaseError> {
        let (slot, lease) = self.live_lease(id)?;
        output.check()?;
        self.check_len("output", output.len())?;
        self.check_usage(&lease, usage)?;
        let Some(spent) = self.end_attempt(slot, Verdict::Success, usage, Payer::Customer) else {
            return Err(LeaseError::Superseded { lease: id.as_u64() });
        };
        self.learn(slot, spent.gpu);
        let job = self.jobs[slot].id;
        let Bill { reported, usage, capped, charge, .. } = self.bill(slot, &spent);
        self.finish(slot, Outcome::Complete(output), spent);
        Ok(Settled { job, reported, usage, capped, charge })
    }

    pub(crate) fn fail(
        &mut self,
        id: LeaseId,
        failure: Failure,
        usage: &Usage<'_>,
    ) -> Result<AfterFailure, LeaseError> {
        let (slot, lease) = self.live_lease(id)?;
        self.check_len("message", failure.message.len())?;
        self.check_usage(&lease, usage)?;
        if failure.class.is_requeued() {
            return Ok(self.lose_attempt(slot, usage));
        }
        Ok(self.fail_attempt(slot, failure, usage))
    }

    /// Ends an attempt that failed: the job is tried again or is in error.
    pub(crate) fn fail_attempt(&mut self, slot: u32, failure: Failure, usage: &Usage<'_>) -> AfterFailure {
        let Failure { class, message, retry_after, retriable } = failure;
        let verdict = match class {
            class if class.counts_against_backend() => Verdict::Failure,
            class if class.is_sign_of_life() => Verdict::Alive,
            _ => Verdict::Neutral,
        };
        let backend = self.backend_of(slot);
        let payer = self.payer_of_failure(false);
        let spent = self.end_attempt(slot, verdict, usage, payer).unwrap_or_else(Spent::nothing);
        let retriable = retriable.unwrap_or_else(|| class.is_retriable(retry_after));
        let job = &self.jobs[slot];
        let attempts = job.hot.attempts + 1;
        let first = self.first_started(slot);
        let failure = JobFailure { class, message: message.into_boxed_str(), retriable };
        let next = self.backoff.next(job.id.as_u128(), attempts, first, self.now, retry_after);
        let mut hot = job.hot;
        hot.attempts = attempts;
        self.set_hot(slot, hot);
        self.remember_attempt(slot, backend, first);
        match next {
            Retry::At(at) if retriable => {
                self.keep_spent(slot, &spent, Some(failure));
                self.scalars.counters.retries += 1;
                self.return_to_queue(slot, at);
                self.emit(EventKind::Retried(self.jobs[slot].id));
                AfterFailure::Retry { at: self.to_host(at) }
            }
            _ => {
                self.finish(slot, Outcome::Error(failure), spent);
                AfterFailure::Error
            }
        }
    }

    /// Ends a lease of which nothing was heard any more.
    pub(crate) fn lose_attempt(&mut self, slot: u32, usage: &Usage<'_>) -> AfterFailure {
        self.take_back(slot, Cause::Lost, self.now, usage)
    }

    /// Ends a lease through no fault of its job: that waits again, to run no earlier than `at`, or is in error when it
    /// happened too often.
    fn take_back(&mut self, slot: u32, cause: Cause, at: Timestamp, usage: &Usage<'_>) -> AfterFailure {
        let verdict = if cause == Cause::Lost { Verdict::Lost } else { Verdict::Neutral };
        let backend = self.backend_of(slot).filter(|_| cause == Cause::Lost);
        let first = self.first_started(slot);
        let spent = self.end_attempt(slot, verdict, usage, self.payer(cause)).unwrap_or_else(Spent::nothing);
        let mut requeues = self.jobs[slot].requeues();
        let counters = &mut self.scalars.counters;
        let (counter, count, max, message) = match cause {
            Cause::Lost => {
                (&mut counters.lost, &mut requeues.lost, self.config.losses_max, "the workers it was given to vanished")
            }
            Cause::Released => (
                &mut counters.released,
                &mut requeues.released,
                self.config.releases_max,
                "it was given back too often",
            ),
            // How often is asked before.
            Cause::Preempted => (&mut counters.preempted, &mut requeues.preempted, u32::MAX, ""),
        };
        *counter += 1;
        *count = count.saturating_add(1);
        let too_often = *count > max;
        self.remember_attempt(slot, backend, first);
        if too_often {
            self.finish(slot, withdrawn(message), spent);
            return AfterFailure::Error;
        }
        self.keep_spent(slot, &spent, None);
        self.edit_extra(slot, |extra| extra.requeues = requeues);
        self.scalars.counters.requeues += 1;
        self.return_to_queue(slot, at);
        self.emit(EventKind::Requeued(self.jobs[slot].id));
        AfterFailure::Retry { at: self.to_host(at.max(self.now)) }
    }

    fn payer(&self, cause: Cause) -> Payer {
        let billing = &self.config.billing;
        match cause {
            Cause::Lost => billing.lost,
            Cause::Released => billing.released,
            Cause::Preempted => billing.preempted,
        }
    }

    /// When the first attempt of a job that runs began.
    fn first_started(&self, slot: u32) -> Timestamp {
        let job = &self.jobs[slot];
        job.extra.as_ref().and_then(|extra| extra.first_started).unwrap_or(job.hot.started)
    }

    /// The backend that a job runs on, by its order of declaration.
    fn backend_of(&self, slot: u32) -> Option<u32> {
        let lease = self.pool.lease_record(self.jobs[slot].hot.lease)?;
        Some(self.pool.entry(lease.backend).order)
    }

    /// Remembers when a job's first attempt began, and which backend failed it, if one did.
    fn remember_attempt(&mut self, slot: u32, backend: Option<u32>, first: Timestamp) {
        self.edit_extra(slot, |extra| {
            extra.first_started = Some(first);
            if let Some(backend) = backend {
                extra.failed_on.retain(|own| *own != backend);
                extra.failed_on.push(backend);
                let surplus = extra.failed_on.len().saturating_sub(FAILED_MAX);
                extra.failed_on.drain(..surplus);
            }
        });
    }

    /// Gives a lease back; the job goes on as if it had not been granted, but for what was used, and not before an instant.
    pub(crate) fn give_back(
        &mut self,
        id: LeaseId,
        not_before: Option<Timestamp>,
        usage: &Usage<'_>,
    ) -> Result<JobId, LeaseError> {
        let (slot, lease) = self.live_lease(id)?;
        self.check_usage(&lease, usage)?;
        let job = self.jobs[slot].id;
        let at = not_before.map_or(self.now, |at| self.by_machine(at));
        self.take_back(slot, Cause::Released, at, usage);
        Ok(job)
    }

    /// Takes the lease of a job that runs back, for another one. Returns which that was.
    pub(crate) fn preempt(&mut self, id: JobId, usage: &Usage<'_>) -> Result<LeaseId, JobError> {
        let slot = self.jobs.find(id).ok_or(JobError::UnknownJob { job: id })?;
        let state = self.jobs[slot].hot.state;
        if state.is_terminal() {
            return Err(JobError::Ended { job: id, state: state.as_str() });
        }
        let Some(lease) = self.pool.lease_record(self.jobs[slot].hot.lease).copied() else {
            return Err(JobError::NotAllowed { job: id, state: state.as_str(), event: "be preempted" });
        };
        let preemptions = self.jobs[slot].requeues().preempted;
        if preemptions >= self.config.preemptions_max {
            return Err(JobError::PreemptedTooOften { job: id, preemptions });
        }
        self.check_usage(&lease, usage)?;
        self.take_back(slot, Cause::Preempted, self.now, usage);
        Ok(lease.id)
    }

    /// Ends the lease of a job whose backend is taken from it.
    pub(crate) fn evict(&mut self, slot: u32, to: EvictTo) {
        let usage = Usage::unmeasured();
        match to {
            EvictTo::Queue => {
                self.take_back(slot, Cause::Preempted, self.now, &usage);
            }
            EvictTo::Error => {
                let payer = self.payer(Cause::Preempted);
                let spent = self.end_attempt(slot, Verdict::Neutral, &usage, payer).unwrap_or_else(Spent::nothing);
                self.scalars.counters.preempted += 1;
                self.finish(slot, withdrawn("its backend was taken away"), spent);
            }
        }
    }

    /// Tells that a lease's worker lives. Returns the lease's new deadline.
    pub(crate) fn heartbeat(&mut self, id: LeaseId) -> Result<Timestamp, LeaseError> {
        let (slot, lease) = self.live_lease(id)?;
        let deadline = self.now + lease.lease_for;
        let lease_slot = self.jobs[slot].hot.lease;
        self.note(|_| super::undo::Undo::Heard { lease: lease_slot, deadline: lease.deadline, bridges: lease.bridges });
        self.pool.set_heard(lease_slot, deadline, 0);
        self.rearm_job(slot);
        Ok(self.to_host(deadline))
    }

    /// Tells how far a job is; counts as a heartbeat.
    pub(crate) fn progress(&mut self, id: LeaseId, progress_ppm: u32) -> Result<Timestamp, LeaseError> {
        crate::backend::check_range("progress_ppm", u64::from(progress_ppm), 0, 1_000_000)?;
        let deadline = self.heartbeat(id)?;
        let (slot, _) = self.live_lease(id)?;
        let mut hot = self.jobs[slot].hot;
        if hot.progress_ppm != progress_ppm {
            hot.progress_ppm = progress_ppm;
            hot.version = hot.version.wrapping_add(1);
            self.set_hot(slot, hot);
            self.emit(EventKind::Progress(self.jobs[slot].id));
        }
        Ok(deadline)
    }

    /// Ends the job's lease. The job is between two states until [`State::finish`] or a return to the queue follows.
    pub(crate) fn end_attempt(
        &mut self,
        slot: u32,
        verdict: Verdict,
        usage: &Usage<'_>,
        payer: Payer,
    ) -> Option<Spent> {
        let lease = self.end_lease(slot, verdict)?;
        let mut hot = self.jobs[slot].hot;
        hot.lease = NO_LEASE;
        self.set_hot(slot, hot);
        let spent = self.spend(slot, &lease, usage, payer);
        self.charge(slot, lease.charge, spent.gpu);
        Some(spent)
    }

    /// Tells its customer's account what an attempt used, however it ended and whoever pays.
    fn charge(&mut self, slot: u32, charge: u64, used: GpuNanos) {
        let job = &self.jobs[slot];
        let weight = self.policy(job.customer).weight;
        self.places.end(job.customer, job.route, job.lane(), charge, used.as_nanos(), weight);
        self.follow();
    }

    /// Ends a job: its outcome, its settlement and its leave-taking are one change.
    pub(crate) fn finish(&mut self, slot: u32, outcome: Outcome, spent: Spent) {
        let job = &self.jobs[slot];
        let (id, customer, mut hot) = (job.id, job.customer, job.hot);
        let event = match &outcome {
            Outcome::Complete(_) => JobEvent::Succeed,
            Outcome::Error(_) => JobEvent::Fail,
            Outcome::Cancelled(_) => JobEvent::Cancel,
        };
        debug_assert_eq!(hot.state.after(event), Some(outcome.state()), "the lifecycle table allows it");
        let counters = &mut self.scalars.counters;
        match &outcome {
            Outcome::Complete(_) => counters.completed += 1,
            Outcome::Error(_) => counters.errors += 1,
            Outcome::Cancelled(_) => counters.cancelled += 1,
        }
        hot.state = outcome.state();
        hot.hold = Hold::None;
        hot.since = self.now;
        hot.version = hot.version.wrapping_add(1);
        if self.awaited.wants(id) {
            self.held_outcomes.push((id, outcome.clone()));
        }
        self.set_outcome(slot, outcome);
        self.set_hot(slot, hot);
        self.arm_job(slot, Timestamp::MAX);
        self.settle(slot, spent);
        self.retain_job(slot);
        self.emit(EventKind::Ended(id, hot.state));
        self.wake(customer);
    }

    /// Returns a job to its old place, to run no earlier than `at`.
    fn return_to_queue(&mut self, slot: u32, at: Timestamp) {
        let mut hot = self.jobs[slot].hot;
        debug_assert_eq!(hot.state.after(JobEvent::Requeue), Some(JobState::Queued));
        hot.state = JobState::Queued;
        hot.since = self.now;
        hot.progress_ppm = 0;
        hot.version = hot.version.wrapping_add(1);
        let ready = at <= self.now;
        hot.hold = if ready { Hold::None } else { Hold::NotBefore };
        self.set_hot(slot, hot);
        if !ready {
            self.edit_extra(slot, |extra| extra.not_before = at);
        }
        self.put_back(slot);
        self.rearm_job(slot);
        self.wake(self.jobs[slot].customer);
    }

    /// Keeps what an attempt used until the job's settlement is made.
    fn keep_spent(&mut self, slot: u32, spent: &Spent, failure: Option<JobFailure>) {
        let gpu = spent.gpu.as_nanos();
        let payer = spent.payer;
        self.edit_extra(slot, |extra| {
            match payer {
                Payer::Customer => extra.billable = extra.billable.saturating_add(gpu),
                Payer::House => extra.absorbed = extra.absorbed.saturating_add(gpu),
            }
            spent.keep(&mut extra.earlier);
            if failure.is_some() {
                extra.failure = failure;
            }
        });
    }

    /// Learns from a job that delivered how long those of its route take.
    fn learn(&mut self, slot: u32, gpu: GpuNanos) {
        let route = self.jobs[slot].route;
        let service = self.table.routes[route].service;
        self.note(|_| super::undo::Undo::RouteService { route, service });
        let (mean, new) = (service.as_nanos(), gpu.as_nanos());
        // A moving mean over some eight jobs; the first one sets it.
        let mean = if mean == 0 { new } else { mean - mean / 8 + new / 8 };
        self.table.routes[route].service = GpuNanos::from_nanos(mean);
    }

    pub(crate) fn check_usage(&self, lease: &LeaseRecord, usage: &Usage<'_>) -> Result<(), UsageError> {
        usage.validate()?;
        let devices = self.pool.entry(lease.backend).spec.devices;
        self.check_excess(usage, self.now.since(lease.granted), devices)
    }

    fn check_len(&self, field: &'static str, len: usize) -> Result<(), InputError> {
        let max = self.config.output_len_max as usize;
        if len > max { Err(InputError::TooLong { field, len, max }) } else { Ok(()) }
    }
}

/// The error of a job whose leases ended without a word of how it went.
fn withdrawn(message: &str) -> Outcome {
    Outcome::Error(JobFailure { class: FailureClass::Lost, message: Box::from(message), retriable: true })
}
