//! How jobs come in, and how they are given up.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use serde::{Deserialize, Serialize};

use super::config::{Payer, check_timeouts};
use super::event::EventKind;
use super::route::{Route, RouteRecord, route_name};
use super::settlement::Spent;
use super::state::State;
use crate::backend::{Verdict, check_range};
use crate::billing::Usage;
use crate::error::{Full, InputError, JobError, LeaseError, Scope, SubmitError};
use crate::id::{JobId, KEY_LEN_MAX, LeaseId, NAME_LEN_MAX, check_name};
use crate::job::{
    CancelReason, Content, Extra, Hold, Idempotency, Job, JobHot, JobState, Outcome, Payload, Priority, Timeouts,
};
use crate::queue::Key;
use crate::time::{GpuNanos, Timestamp};

/// A job as the host submits it.
///
/// ```
/// use libgateway::{GpuNanos, JobId, Priority, Route, Submit};
/// let route = Route::parse("image/flux/dev/t2i")?;
/// let submit = Submit::new(JobId::from_entropy(1), "acme", route).priority(Priority::High).estimate(GpuNanos::from_secs(2));
/// assert_eq!(submit.estimate, Some(GpuNanos::from_secs(2)));
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Submit<'a> {
    /// Its id, from the host's entropy.
    pub id: JobId,
    /// Who asks.
    pub customer: Cow<'a, str>,
    /// What for.
    pub route: Route<'a>,
    /// The body, handed to the backend unread.
    #[serde(default)]
    pub payload: Payload,
    /// The lane it waits in.
    #[serde(default)]
    pub priority: Priority,
    /// GPU time it is expected to take; counts for the fair share until the real time is known, as between half and twice of
    /// what its customer's jobs took lately.
    #[serde(default)]
    pub estimate: Option<GpuNanos>,
    /// Tokens its first start takes from the customer's rate limit. Later ones take nothing.
    #[serde(default = "one")]
    pub tokens: u64,
    /// What a backend should have loaded: a LoRA, a checkpoint, a prefix.
    #[serde(default)]
    pub affinity: Option<Cow<'a, str>>,
    /// Equal keys of one customer are the same job.
    #[serde(default)]
    pub idempotency_key: Option<Cow<'a, str>>,
    /// Its own clocks.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// It may not run before this instant of the host's clock. Its clocks and its place are those of a job submitted then.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
}

impl<'a> Submit<'a> {
    /// A job of normal priority that takes one token.
    pub fn new(id: JobId, customer: impl Into<Cow<'a, str>>, route: Route<'a>) -> Self {
        Self {
            id,
            customer: customer.into(),
            route,
            payload: Payload::EMPTY,
            priority: Priority::Normal,
            estimate: None,
            tokens: 1,
            affinity: None,
            idempotency_key: None,
            timeouts: Timeouts::NONE,
            not_before: None,
        }
    }

    /// Sets [`Submit::payload`].
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Payload>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets [`Submit::priority`].
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets [`Submit::estimate`].
    #[must_use]
    pub fn estimate(mut self, estimate: GpuNanos) -> Self {
        self.estimate = Some(estimate);
        self
    }

    /// Sets [`Submit::tokens`].
    #[must_use]
    pub fn tokens(mut self, tokens: u64) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets [`Submit::affinity`].
    #[must_use]
    pub fn affinity(mut self, affinity: impl Into<Cow<'a, str>>) -> Self {
        self.affinity = Some(affinity.into());
        self
    }

    /// Sets [`Submit::idempotency_key`].
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<Cow<'a, str>>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Sets [`Submit::timeouts`].
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sets [`Submit::not_before`].
    #[must_use]
    pub fn not_before(mut self, at: Timestamp) -> Self {
        self.not_before = Some(at);
        self
    }

    /// Checks what can be checked without a gateway, in the order of the fields.
    fn check(&self, payload_len_max: u32) -> Result<(), InputError> {
        check_name("customer", &self.customer, NAME_LEN_MAX)?;
        let len = self.payload.len();
        if len > payload_len_max as usize {
            return Err(InputError::TooLong { field: "payload", len, max: payload_len_max as usize });
        }
        if let Some(estimate) = self.estimate {
            check_range("estimate", estimate.as_nanos(), 1, u64::MAX)?;
        }
        if let Some(affinity) = &self.affinity {
            check_name("affinity", affinity, NAME_LEN_MAX)?;
        }
        if let Some(key) = &self.idempotency_key {
            check_name("idempotency_key", key, KEY_LEN_MAX)?;
        }
        check_timeouts(&self.timeouts)
    }

    /// What has to be equal for two submissions under one key to be the same.
    fn fingerprint(&self) -> [u8; 16] {
        let mut hash = Blake2b::<U16>::new();
        hash.update((self.route.as_str().len() as u64).to_le_bytes());
        hash.update(self.route.as_str());
        hash.update([self.priority.lane()]);
        hash.update(self.payload.as_bytes());
        hash.finalize().into()
    }
}

impl State {
    /// Takes a job in, or refuses it and changes nothing.
    pub(crate) fn submit(&mut self, submit: Submit<'_>) -> Result<JobId, SubmitError> {
        submit.check(self.config.payload_len_max)?;
        let customer = self.customers.find(&submit.customer);
        let idempotency = submit.idempotency_key.as_deref().map(|key| Idempotency {
            address: self.jobs.keys.address(&submit.customer, key),
            fingerprint: submit.fingerprint(),
        });
        if let Some((own, known)) = idempotency.and_then(|own| Some((own, self.jobs.keys.get(own.address)?))) {
            let job = known.job;
            let same = known.fingerprint == own.fingerprint;
            return if same { Ok(job) } else { Err(SubmitError::IdempotencyConflict { job }) };
        }
        let mut buffer = String::new();
        let name = route_name(submit.route.trunk(), submit.route.backend(), &mut buffer);
        let route = self.find_route(name, &submit.route)?;
        if self.jobs.find(submit.id).is_some() {
            return Err(SubmitError::DuplicateJob { job: submit.id });
        }
        let policy = customer.map_or(&self.config.customer, |customer| self.policy(customer));
        if let Some(rate) = policy.rate.filter(|rate| submit.tokens > rate.burst()) {
            let (value, max) = (submit.tokens, rate.burst());
            return Err(InputError::OutOfRange { field: "tokens", value, min: 0, max }.into());
        }
        let queued = customer.map_or(0, |customer| self.customers[customer].queued);
        if queued >= policy.queued_max {
            return Err(Full::new("queued", Scope::Customer, queued.into(), policy.queued_max.into()).into());
        }
        let jobs = self.jobs.live() as usize + self.outbox.len();
        if jobs >= self.config.jobs_max as usize {
            let full = Full::new("jobs", Scope::Gateway, jobs as u64, self.config.jobs_max.into());
            return Err(full.with_settlements().into());
        }
        if customer.is_none() && self.customers.is_full() {
            return Err(self.customers.full().into());
        }
        if let RouteFound::New(_) = route {
            if self.table.routes.is_full() {
                return Err(self.table.routes.full().into());
            }
        }

        // Nothing below can be refused.
        let unreachable = || SubmitError::Full(Full::new("jobs", Scope::Gateway, 0, 0));
        let route = match route {
            RouteFound::Known(route) => route,
            RouteFound::New(record) => self.insert_route(name, record).ok_or_else(unreachable)?,
        };
        let customer = match customer {
            Some(customer) => customer,
            None => self.insert_customer(&submit.customer, None).ok_or_else(unreachable)?,
        };
        Ok(self.accept(submit, customer, route, idempotency))
    }

    fn accept(&mut self, submit: Submit<'_>, customer: u32, route: u32, idempotency: Option<Idempotency>) -> JobId {
        let affinity = submit.affinity.as_deref().map_or(0, |key| self.affinity(key));
        let begins = submit.not_before.map(|at| self.by_machine(at)).filter(|at| *at > self.now);
        let mut hot = JobHot::queued(self.now, submit.priority);
        if begins.is_some() {
            hot.hold = Hold::NotBefore;
        }
        let begins = begins.unwrap_or(Timestamp::EPOCH);
        let extra = Extra { timeouts: submit.timeouts, idempotency, not_before: begins, begins, ..Extra::default() };
        let sequence = self.next_sequence();
        let slot = self.insert_job(Job {
            id: submit.id,
            key: Key::new(submit.priority.lane(), 0, sequence),
            content: Content::Payload(submit.payload),
            created: self.now,
            estimate: submit.estimate.map_or(0, GpuNanos::as_nanos),
            affinity,
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
            customer,
            route,
            tokens: submit.tokens,
            task: submit.route.task(),
            hot,
        });
        self.enqueue(slot, submit.priority.lane(), sequence);
        self.rearm_job(slot);
        self.scalars.counters.submitted += 1;
        self.emit(EventKind::Queued(submit.id));
        submit.id
    }

    /// The route of that name, or what it would be if some backend serves it.
    fn find_route(&self, name: &str, route: &Route<'_>) -> Result<RouteFound, SubmitError> {
        if let Some(known) = self.table.routes.find(name) {
            return Ok(RouteFound::Known(known));
        }
        let unknown = || SubmitError::UnknownRoute { route: Box::from(route.as_str()) };
        let family = self.pool.find_family(route.domain()).ok_or_else(unknown)?;
        if self.pool.groups_for(family, route.model(), route.backend()).is_empty() {
            return Err(unknown());
        }
        let order = self.table.next_order;
        Ok(RouteFound::New(RouteRecord::new(order, family, route.backend(), route.model().into())))
    }

    /// Gives a job up. Ends its lease if it has one, to which the usage is then billed.
    pub(crate) fn cancel(&mut self, id: JobId, usage: &Usage<'_>) -> Result<(), JobError> {
        let slot = self.jobs.find(id).ok_or(JobError::UnknownJob { job: id })?;
        let hot = self.jobs[slot].hot;
        match hot.state {
            JobState::Queued => {
                usage.validate()?;
                self.give_up_queued(slot, CancelReason::Requested);
            }
            JobState::Running => {
                let lease = self.pool.lease_record(hot.lease).copied();
                lease.map_or(Ok(()), |lease| self.check_usage(&lease, usage))?;
                self.give_up_running(slot, CancelReason::Requested, usage);
            }
            state => return Err(JobError::Ended { job: id, state: state.as_str() }),
        }
        Ok(())
    }

    pub(crate) fn give_up_queued(&mut self, slot: u32, reason: CancelReason) {
        self.dequeue(slot);
        self.finish(slot, Outcome::Cancelled(reason), Spent::nothing());
    }

    /// Gives up the job of a live lease.
    pub(crate) fn cancel_lease(&mut self, id: LeaseId, usage: &Usage<'_>) -> Result<JobId, LeaseError> {
        let (slot, lease) = self.live_lease(id)?;
        self.check_usage(&lease, usage)?;
        let job = self.jobs[slot].id;
        self.give_up_running(slot, CancelReason::Requested, usage);
        Ok(job)
    }

    fn give_up_running(&mut self, slot: u32, reason: CancelReason, usage: &Usage<'_>) {
        let payer = self.config.billing.cancelled;
        if let Some(spent) = self.end_attempt(slot, Verdict::Neutral, usage, payer) {
            self.finish(slot, Outcome::Cancelled(reason), spent);
        }
    }

    /// Removes the record of a job that has ended.
    pub(crate) fn delete(&mut self, id: JobId) -> Result<(), JobError> {
        let slot = self.jobs.find(id).ok_or(JobError::UnknownJob { job: id })?;
        let state = self.jobs[slot].hot.state;
        if !state.is_terminal() {
            return Err(JobError::NotEnded { job: id, state: state.as_str() });
        }
        self.forget(slot);
        Ok(())
    }

    pub(crate) fn forget(&mut self, slot: u32) {
        if let Some(id) = self.remove_job(slot) {
            self.scalars.counters.forgotten += 1;
            self.emit(EventKind::Forgotten(id));
        }
    }

    /// The payer of an attempt that ended without a result.
    pub(crate) fn payer_of_failure(&self, lost: bool) -> Payer {
        if lost { self.config.billing.lost } else { self.config.billing.failed }
    }
}

enum RouteFound {
    Known(u32),
    New(RouteRecord),
}

fn one() -> u64 {
    1
}
