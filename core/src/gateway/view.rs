//! What a gateway tells of itself: jobs, positions, reasons, numbers.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::Gateway;
use super::dispatch::Blocked;
use super::state::{Counters, State, not_before};
use crate::backend::Backend;
use crate::breaker::BreakerStatus;
use crate::id::{JobId, LeaseId};
use crate::job::{Hold, Job, JobFailure, JobState, Outcome, Priority, Task};
use crate::time::{GpuNanos, Span, Timestamp};

/// A job as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Who asked.
    pub customer: String,
    /// Modality, family and model, and the engine where one was wanted.
    pub route: String,
    /// What it asks for.
    pub task: Task,
    /// The lane it was submitted to.
    pub priority: Priority,
    /// Where it is in its life.
    pub state: JobState,
    /// When it was submitted.
    pub created: Timestamp,
    /// When its latest attempt began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Jobs of its route before it, while it waits.
    pub position: Option<u32>,
    /// How long it will probably wait, as far as completed jobs of its route tell.
    pub eta: Option<Span>,
    /// How far it is, in parts per million.
    pub progress_ppm: u32,
    /// Attempts that failed.
    pub attempts: u32,
    /// Returns to the queue that were not its fault: lost, given back or preempted.
    pub requeues: u32,
    /// How many of those the host asked for.
    pub preemptions: u32,
    /// The live lease.
    pub lease: Option<LeaseId>,
    /// The backend it runs on.
    pub backend: Option<String>,
    /// Backends that failed it, the latest last: another one is preferred. At most 8, without those that left.
    pub failed_on: Vec<String>,
    /// The latest attempt that failed.
    pub failure: Option<JobFailure>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Rises with each change.
    pub version: u32,
}

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// It may not run before an instant: its submission or its worker said so, or an attempt failed.
    NotBefore {
        /// When it may.
        until: Timestamp,
        /// Backends that failed it, the latest last: another one is preferred. As in [`JobView::failed_on`].
        failed_on: Vec<String>,
    },
    /// Its route is paused.
    Paused,
    /// No backend serves its route.
    NoBackend,
    /// Its customer runs as many jobs as it may.
    CustomerRunning {
        /// As many.
        running: u32,
    },
    /// Its customer has used its rate.
    CustomerRate {
        /// When there are tokens again; `None`: never at the present limit.
        until: Option<Timestamp>,
    },
    /// Every backend of its route is full, draining, or shut off by its breaker.
    BackendsBusy,
    /// Others are served first.
    Behind {
        /// So many of its route.
        jobs: u32,
    },
    /// Nothing: the next dispatch of its route takes it, and the next of all when no other route comes before.
    Next,
}

/// A backend as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackendView {
    /// What the host said of it.
    pub backend: Backend,
    /// Live leases.
    pub live: u32,
    /// Whether it gets no new ones.
    pub draining: bool,
    /// Its breaker.
    pub breaker: BreakerStatus,
    /// Leases that delivered.
    pub completed: u64,
    /// Leases that failed through its fault.
    pub failed: u64,
    /// Leases of which nothing was heard any more.
    pub lost: u64,
}

/// A customer as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CustomerView {
    /// Its share.
    pub weight: u32,
    /// Its jobs that run.
    pub running: u32,
    /// Its jobs that wait.
    pub queued: u32,
    /// Whole tokens left; `None`: without limit.
    pub tokens: Option<u64>,
    /// Its price tier.
    pub tier: String,
    /// Whether it has a policy of its own.
    pub own_policy: bool,
}

/// Numbers of the whole gateway. Each gauge is a count of what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Stats {
    /// Jobs that wait.
    pub queued: u32,
    /// Jobs that run; as many leases live.
    pub running: u32,
    /// Jobs that delivered and are still known.
    pub complete: u32,
    /// Jobs in error that are still known.
    pub error: u32,
    /// Cancelled jobs that are still known.
    pub cancelled: u32,
    /// Customers known.
    pub customers: u32,
    /// Routes known.
    pub routes: u32,
    /// Backends known.
    pub backends: u32,
    /// Settlements the host has not confirmed.
    pub unconfirmed: u32,
    /// All charges so far, in micro-units. What has no price is not among them.
    pub charged_micros: u128,
    /// All charges given back by corrections so far, in micro-units.
    pub credited_micros: u128,
    /// GPU time that customers pay for without a price, in nanoseconds: what it costs is not known.
    pub unpriced_ns: u128,
    /// Events that wait to be fetched.
    pub events: u32,
    /// How far the host's clock is ahead by steps that are on trial.
    pub clock_offset: Span,
    /// What has happened since the beginning.
    pub counters: Counters,
}

/// What a watch looks at.
pub(crate) struct Glance<'g> {
    pub(crate) state: JobState,
    pub(crate) version: u32,
    pub(crate) position: Option<u32>,
    pub(crate) progress_ppm: u32,
    pub(crate) outcome: Option<&'g Outcome>,
}

impl Gateway {
    /// A job, or `None` when no job of that id is known (any more).
    pub fn job(&self, id: JobId) -> Option<JobView> {
        let slot = self.state.jobs.find(id)?;
        Some(self.state.tell_job(slot))
    }

    /// Whether a job of that id is known.
    pub fn is_known(&self, id: JobId) -> bool {
        self.state.jobs.find(id).is_some()
    }

    /// The job a customer submitted under an idempotency key. The key may have outlived the job's record.
    pub fn job_by_key(&self, customer: &str, key: &str) -> Option<JobId> {
        self.state.jobs.find_key(customer, key).map(|entry| entry.job)
    }

    /// How a job ended: as its record tells, or as it was kept for somebody who waits, see [`Gateway::hold_outcome`].
    pub fn outcome(&self, id: JobId) -> Option<&Outcome> {
        match self.state.jobs.find(id) {
            Some(slot) => self.state.jobs[slot].outcome(),
            None => self.state.awaited.outcome(id),
        }
    }

    /// How many jobs of its route stand before a waiting job. Exact; `None` when it does not wait.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub fn position(&self, id: JobId) -> Option<u32> {
        self.state.places.rank(self.state.jobs.find(id)?)
    }

    /// Why a job waits: the first reason that holds, from the one nearest to the job. `None` when it does not wait.
    pub fn explain(&self, id: JobId) -> Option<WaitReason> {
        let slot = self.state.jobs.find(id)?;
        (self.state.jobs[slot].hot.state == JobState::Queued).then(|| self.state.explain(slot))
    }

    /// A backend.
    pub fn backend(&self, name: &str) -> Option<BackendView> {
        self.state.pool.find(name).map(|id| self.state.tell_backend(id))
    }

    /// All backends in order of declaration.
    pub fn backends(&self) -> Vec<BackendView> {
        self.state.pool.in_order().into_iter().map(|id| self.state.tell_backend(id)).collect()
    }

    /// The jobs that run on a backend: the lowest lane first, and within a lane the lease that was granted first. For a host
    /// that has to make room, or wants to know what a machine is at before it is taken away. `None`: there is no such backend.
    ///
    /// ```
    /// use libgateway::{Backend, BackendKind, Gateway, GatewayConfig, JobId, Priority, Route, Submit, Timestamp};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// gateway.put_backend(now, Backend::new("gpu-1", BackendKind::Torch).serves("image", "flux", ["dev"]).slots(2))?;
    /// for (number, lane) in [(1, Priority::High), (2, Priority::Low)] {
    ///     let submit = Submit::new(JobId::from_entropy(number), "acme", Route::parse("image/flux/dev/t2i")?);
    ///     gateway.submit(now, submit.priority(lane))?;
    ///     assert!(gateway.dispatch(now).lease().is_some());
    /// }
    /// let running = gateway.running_on("gpu-1").unwrap_or_default();
    /// assert_eq!((running.len(), running[0].id, running[0].priority), (2, JobId::from_entropy(2), Priority::Low));
    /// assert!(gateway.running_on("gpu-2").is_none());
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Complexity
    /// O(live leases of the gateway), and O(k log k) for the k of the backend.
    pub fn running_on(&self, backend: &str) -> Option<Vec<JobView>> {
        let State { pool, jobs, .. } = &self.state;
        let backend = pool.find(backend)?;
        let of_it = pool.leases().filter(|(_, lease)| lease.backend == backend);
        let mut running: Vec<_> = of_it
            .map(|(_, lease)| (Reverse(jobs[lease.item].hot.priority), lease.granted, lease.id, lease.item))
            .collect();
        running.sort_unstable();
        Some(running.into_iter().map(|(.., slot)| self.state.tell_job(slot)).collect())
    }

    /// A customer; `None` when it is not known, which is as one that has not asked for anything lately.
    pub fn customer(&self, name: &str) -> Option<CustomerView> {
        let id = self.state.customers.find(name)?;
        let (record, policy) = (&self.state.customers[id], self.state.policy(id));
        Some(CustomerView {
            weight: policy.weight,
            running: record.running,
            queued: record.queued,
            tokens: policy.rate.map(|rate| record.bucket.available(&rate, self.state.now)),
            tier: String::from(&*policy.tier),
            own_policy: record.policy.is_some(),
        })
    }

    /// Numbers of the whole gateway.
    pub fn stats(&self) -> Stats {
        let State { jobs, outbox, scalars, .. } = &self.state;
        Stats {
            queued: jobs.count(JobState::Queued),
            running: jobs.count(JobState::Running),
            complete: jobs.count(JobState::Complete),
            error: jobs.count(JobState::Error),
            cancelled: jobs.count(JobState::Cancelled),
            customers: self.state.customers.len() as u32,
            routes: self.state.table.routes.len() as u32,
            backends: self.state.pool.len() as u32,
            unconfirmed: outbox.len() as u32,
            charged_micros: scalars.charged_micros,
            credited_micros: scalars.credited_micros,
            unpriced_ns: scalars.unpriced_ns,
            events: self.state.events.len() as u32,
            clock_offset: self.state.clock.doubt(),
            counters: scalars.counters,
        }
    }

    /// Bytes held for jobs and places, without what the host gave and without names: for capacity planning.
    pub fn memory_bytes(&self) -> usize {
        self.state.jobs.memory_bytes() + self.state.places.memory_bytes()
    }

    pub(crate) fn glance(&self, id: JobId) -> Option<Glance<'_>> {
        let slot = self.state.jobs.find(id)?;
        let job = &self.state.jobs[slot];
        Some(Glance {
            state: job.hot.state,
            version: job.hot.version,
            position: self.state.places.rank(slot),
            progress_ppm: job.hot.progress_ppm,
            outcome: job.outcome(),
        })
    }
}

impl State {
    fn tell_job(&self, slot: u32) -> JobView {
        let job = &self.jobs[slot];
        let lease = self.pool.lease_record(job.hot.lease);
        let position = self.places.rank(slot);
        JobView {
            id: job.id,
            customer: String::from(&**self.customers.name(job.customer)),
            route: String::from(&**self.table.routes.name(job.route)),
            task: job.task,
            priority: job.hot.priority,
            state: job.hot.state,
            created: self.to_host(job.created),
            started: Some(job.hot.started).filter(|at| *at != Timestamp::MAX).map(|at| self.to_host(at)),
            finished: job.finished().map(|at| self.to_host(at)),
            position,
            eta: position.and_then(|position| self.eta(job, position)),
            progress_ppm: job.hot.progress_ppm,
            attempts: job.hot.attempts,
            requeues: job.requeues().total(),
            preemptions: job.requeues().preempted,
            lease: lease.map(|lease| lease.id),
            backend: lease.map(|lease| String::from(&**self.pool.name(lease.backend))),
            failed_on: self.failed_on(job),
            failure: match job.outcome() {
                Some(Outcome::Error(failure)) => Some(failure.clone()),
                _ => job.extra.as_ref().and_then(|extra| extra.failure.clone()),
            },
            outcome: job.outcome().cloned(),
            version: job.hot.version,
        }
    }

    fn failed_on(&self, job: &Job) -> Vec<String> {
        let failed_on = job.extra.as_ref().map_or(&[][..], |extra| &extra.failed_on);
        self.pool.named(failed_on).into_iter().map(|name| String::from(&**name)).collect()
    }

    /// (position + 1) × mean service ÷ slots of the backends that serve the route.
    fn eta(&self, job: &Job, position: u32) -> Option<Span> {
        let route = &self.table.routes[job.route];
        let slots: u64 = route.groups().map(|group| self.pool.slots(group)).sum();
        if slots == 0 || route.service == GpuNanos::ZERO {
            return None;
        }
        let work = u128::from(route.service.as_nanos()) * (u128::from(position) + 1) / u128::from(slots);
        Some(Span::from_nanos(u64::try_from(work).unwrap_or(u64::MAX)))
    }

    fn explain(&self, slot: u32) -> WaitReason {
        let job = &self.jobs[slot];
        let route = &self.table.routes[job.route];
        if job.hot.hold == Hold::NotBefore {
            return WaitReason::NotBefore { until: self.to_host(not_before(job)), failed_on: self.failed_on(job) };
        }
        if route.paused {
            return WaitReason::Paused;
        }
        if route.groups().next().is_none() {
            return WaitReason::NoBackend;
        }
        match self.blocked(slot) {
            Some(Blocked::RunningMax) => {
                return WaitReason::CustomerRunning { running: self.customers[job.customer].running };
            }
            Some(Blocked::Tokens(until)) => {
                return WaitReason::CustomerRate { until: until.map(|until| self.to_host(until)) };
            }
            None => {}
        }
        if !route.groups().any(|group| self.pool.has_free(group)) {
            return WaitReason::BackendsBusy;
        }
        match self.places.rank(slot) {
            Some(jobs) if self.places.first(job.route).is_none_or(|(_, first)| first != slot) => {
                WaitReason::Behind { jobs }
            }
            _ => WaitReason::Next,
        }
    }

    fn tell_backend(&self, id: u32) -> BackendView {
        let entry = self.pool.entry(id);
        let breaker = entry.hot.breaker.status(self.now);
        let (since, until) = (self.to_host(breaker.since), breaker.until.map(|at| self.to_host(at)));
        BackendView {
            backend: entry.spec.clone(),
            live: entry.hot.live,
            draining: entry.draining || entry.leaving,
            breaker: BreakerStatus { since, until, ..breaker },
            completed: entry.hot.completed,
            failed: entry.hot.failed,
            lost: entry.hot.lost,
        }
    }
}
