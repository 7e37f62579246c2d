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
use super::settlement::Spent;
use super::state::State;
use crate::backend::{LeaseRecord, Verdict};
use crate::backoff::Retry;
use crate::billing::{Money, Usage};
use crate::error::{InputError, LeaseError};
use crate::failure::FailureClass;
use crate::id::{JobId, LeaseId, is_unheard_of};
use crate::job::{Hold, JobEvent, JobFailure, JobState, NO_LEASE, Outcome, Output};
use crate::queue::stride;
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
    /// GPU time the customer pays for.
    pub usage: GpuNanos,
    /// What it costs; zero where the book has no price.
    pub charge: Money,
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
        if output.is_empty() {
            return Err(InputError::Empty { field: "output" }.into());
        }
        self.check_len("output", output.len())?;
        self.check_usage(&lease, usage)?;
        let job = &self.jobs[slot];
        let (customer, route) = (job.customer, job.route);
        let billed = usage.billed(self.now.since(lease.granted))?;
        let earlier = job.extra.as_ref().map_or(0, |extra| extra.billable);
        let total = billed.checked_add(GpuNanos::from_nanos(earlier)).ok_or(InputError::Overflow { field: "usage" })?;
        let (price, _) = self.price_of(customer, route);
        let charge = price.charge(total)?.unwrap_or(Money::ZERO);

        let Some(spent) = self.end_attempt(slot, Verdict::Success, usage, Payer::Customer) else {
            return Err(LeaseError::Superseded { lease: id.as_u64() });
        };
        self.learn(slot, spent.gpu);
        let job = self.jobs[slot].id;
        self.finish(slot, Outcome::Complete(output), spent);
        Ok(Settled { job, usage: total, charge })
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
        Ok(self.fail_attempt(slot, failure, usage))
    }

    /// Ends an attempt that failed: the job is tried again or is in error.
    pub(crate) fn fail_attempt(&mut self, slot: u32, failure: Failure, usage: &Usage<'_>) -> AfterFailure {
        let Failure { class, message, retry_after, retriable } = failure;
        let verdict = if class.counts_against_backend() { Verdict::Failure } else { Verdict::Neutral };
        let payer = self.payer_of_failure(false);
        let spent = self.end_attempt(slot, verdict, usage, payer).unwrap_or_else(Spent::nothing);
        let retriable = retriable.unwrap_or_else(|| class.is_retriable(retry_after));
        let job = &self.jobs[slot];
        let attempts = job.hot.attempts.saturating_add(1);
        let failure = JobFailure { class, message: message.into_boxed_str(), retriable };
        let next = self.backoff.next(job.id.as_u128(), u32::from(attempts), job.created, self.now, retry_after);
        let mut hot = job.hot;
        hot.attempts = attempts;
        self.set_hot(slot, hot);
        match next {
            Retry::At(at) if retriable => {
                self.keep_spent(slot, &spent, Some(failure));
                self.scalars.counters.retries += 1;
                self.return_to_queue(slot, at);
                self.emit(EventKind::Retried(self.jobs[slot].id));
                AfterFailure::Retry { at }
            }
            _ => {
                self.finish(slot, Outcome::Error(failure), spent);
                AfterFailure::Error
            }
        }
    }

    /// Ends a lease of which nothing was heard any more.
    pub(crate) fn lose_attempt(&mut self, slot: u32) {
        let payer = self.payer_of_failure(true);
        let spent = self.end_attempt(slot, Verdict::Lost, &Usage::unmeasured(), payer).unwrap_or_else(Spent::nothing);
        self.scalars.counters.lost += 1;
        let losses = self.jobs[slot].extra.as_ref().map_or(0, |extra| extra.losses).saturating_add(1);
        if losses > self.config.losses_max {
            let message = Box::from("the workers it was given to vanished");
            let failure = JobFailure { class: FailureClass::Lost, message, retriable: true };
            return self.finish(slot, Outcome::Error(failure), spent);
        }
        self.keep_spent(slot, &spent, None);
        self.edit_extra(slot, |extra| extra.losses = losses);
        self.requeue(slot);
    }

    /// Gives a lease back unused.
    pub(crate) fn give_back(&mut self, id: LeaseId) -> Result<JobId, LeaseError> {
        let (slot, _) = self.live_lease(id)?;
        self.end_attempt(slot, Verdict::Neutral, &Usage::unmeasured(), Payer::House);
        self.requeue(slot);
        Ok(self.jobs[slot].id)
    }

    /// Tells that a lease's worker lives. Returns the lease's new deadline.
    pub(crate) fn heartbeat(&mut self, id: LeaseId) -> Result<Timestamp, LeaseError> {
        let (slot, lease) = self.live_lease(id)?;
        let deadline = self.now + lease.lease_for;
        let lease_slot = self.jobs[slot].hot.lease;
        self.note(|_| super::undo::Undo::Heard { lease: lease_slot, deadline: lease.deadline, bridges: lease.bridges });
        self.pool.set_heard(lease_slot, deadline, 0);
        self.rearm_job(slot);
        Ok(deadline)
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
        let backend = self.pool.name(lease.backend).clone();
        let elapsed = self.now.since(lease.granted);
        Some(Spent::of(usage, elapsed, payer, backend, |device| self.pool.device_name(lease.backend, device)))
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

    /// Returns a job to its old place at once, through no fault of its own.
    fn requeue(&mut self, slot: u32) {
        let mut hot = self.jobs[slot].hot;
        hot.requeues = hot.requeues.saturating_add(1);
        self.set_hot(slot, hot);
        self.scalars.counters.requeues += 1;
        self.return_to_queue(slot, self.now);
        self.emit(EventKind::Requeued(self.jobs[slot].id));
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
        hot.hold = if ready { Hold::None } else { Hold::Backoff };
        self.set_hot(slot, hot);
        if !ready {
            self.edit_extra(slot, |extra| extra.not_before = at);
        }
        self.put_back(slot, ready);
        self.rearm_job(slot);
        self.wake(self.jobs[slot].customer);
    }

    /// Looks at a customer's parked jobs again when it may run one more.
    pub(crate) fn wake(&mut self, customer: u32) {
        #[cfg(feature = "testing")]
        if self.has_bug(super::plant::Plant::LostWakeup, 0) {
            return;
        }
        if self.parked.is_empty() || self.first_parked(customer).is_none() {
            return;
        }
        if self.customers[customer].running < self.policy(customer).running_max {
            self.unpark(customer);
        }
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
            if failure.is_some() {
                extra.failure = failure;
            }
        });
    }

    /// Takes the cost of a job out of its customer's share again, if it never ran: it leaves its lane.
    pub(crate) fn refund(&mut self, slot: u32) {
        let job = &self.jobs[slot];
        if job.hot.started != Timestamp::MAX {
            return;
        }
        let (customer, lane, estimate) = (job.customer, job.lane(), job.estimate);
        let family = self.table.routes[job.route].family;
        let expected = stride(estimate, self.policy(customer).weight);
        if let Some(share) = self.places.correct(customer, family, lane, expected, 0) {
            self.note(|_| super::undo::Undo::Shared { share });
        }
    }

    /// Puts the real cost of a job in the place of its estimate.
    fn learn(&mut self, slot: u32, gpu: GpuNanos) {
        let job = &self.jobs[slot];
        let (customer, route, lane, estimate) = (job.customer, job.route, job.lane(), job.estimate);
        let weight = self.policy(customer).weight;
        let family = self.table.routes[route].family;
        let (expected, actual) = (stride(estimate, weight), stride(gpu.as_nanos(), weight));
        if let Some(share) = self.places.correct(customer, family, lane, expected, actual) {
            self.note(|_| super::undo::Undo::Shared { share });
        }
        let service = self.table.routes[route].service;
        self.note(|_| super::undo::Undo::RouteService { route, service });
        let (mean, new) = (service.as_nanos(), gpu.as_nanos());
        // A moving mean over some eight jobs; the first one sets it.
        let mean = if mean == 0 { new } else { mean - mean / 8 + new / 8 };
        self.table.routes[route].service = GpuNanos::from_nanos(mean);
    }

    fn check_usage(&self, lease: &LeaseRecord, usage: &Usage<'_>) -> Result<(), LeaseError> {
        if !usage.is_measured() {
            return Ok(());
        }
        let billing = &self.config.billing;
        usage.check(self.now.since(lease.granted), billing.tolerance_ppm, billing.slack)?;
        let devices = self.pool.entry(lease.backend).spec.devices;
        if usage.device_count() > devices as usize {
            let (len, max) = (usage.device_count(), devices as usize);
            return Err(InputError::TooLong { field: "devices", len, max }.into());
        }
        Ok(())
    }

    fn check_len(&self, field: &'static str, len: usize) -> Result<(), InputError> {
        let max = self.config.output_len_max as usize;
        if len > max { Err(InputError::TooLong { field, len, max }) } else { Ok(()) }
    }
}
