//! Which job runs next, and on which backend.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::event::EventKind;
use super::route::{Route, RouteTable};
use super::state::State;
use crate::backend::Grant;
use crate::error::FleetError;
use crate::id::{JobId, LeaseId};
use crate::job::{Hold, JobEvent, Payload, Task};
use crate::limiter::Acquire;
use crate::time::Timestamp;

/// The answer to a dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Dispatch {
    /// A job goes to a backend. Ask again: there may be more.
    Lease(Lease),
    /// Nothing can run now.
    Wait {
        /// The next instant at which that may change by itself; `None`: only an event can.
        until: Option<Timestamp>,
    },
}

/// A job on a backend: the right to work for it until the deadline, and to say how it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lease {
    /// Its id: every result carries it.
    pub id: LeaseId,
    /// The job.
    pub job: JobId,
    /// Who asked.
    pub customer: Arc<str>,
    /// The backend.
    pub backend: Arc<str>,
    /// Modality, family and model, and the engine where one was wanted.
    pub route: Arc<str>,
    /// What to do.
    pub task: Task,
    /// What to do it with.
    pub payload: Payload,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When the lease ends if nothing is heard.
    pub deadline: Timestamp,
    /// Whether the backend was warm for the job's affinity key.
    pub warm: bool,
    /// Whether this is the probe of a half-open breaker.
    pub probe: bool,
}

impl Dispatch {
    /// The lease, if there is one.
    pub fn lease(self) -> Option<Lease> {
        match self {
            Self::Lease(lease) => Some(lease),
            Self::Wait { .. } => None,
        }
    }
}

/// Why a job may not run although a backend would take it.
pub(crate) enum Blocked {
    /// Its customer runs as many as it may.
    RunningMax,
    /// Its customer has no tokens; it will at the instant told, if ever.
    Tokens(Option<Timestamp>),
}

impl State {
    /// Leases the next job of all routes to the best backend for it.
    ///
    /// # Complexity
    /// O(log n), and O(log n) once for each flow that is stepped over until its customer may run again.
    pub(crate) fn dispatch(&mut self) -> Dispatch {
        loop {
            let Some(route) = self.table.next() else {
                if self.pull() {
                    continue;
                }
                return self.wait();
            };
            if self.freshen(route) {
                continue;
            }
            if let Some(lease) = self.dispatch_from(route, |state, slot| state.choose_in_turn(route, slot)) {
                return Dispatch::Lease(lease);
            }
        }
    }

    /// Leases the next job of one route.
    pub(crate) fn dispatch_route(&mut self, route: &Route<'_>) -> Result<Dispatch, FleetError> {
        let Some(route) = self.known_route(route)? else { return Ok(self.wait()) };
        while !self.table.routes[route].paused {
            if !self.table.routes[route].groups().any(|group| self.pool.has_free(group)) {
                break;
            }
            if self.places.first(route).is_none() && !self.pull() {
                break;
            }
            if self.freshen(route) {
                continue;
            }
            if let Some(lease) = self.dispatch_from(route, |state, slot| state.choose(route, slot)) {
                return Ok(Dispatch::Lease(lease));
            }
        }
        Ok(self.wait())
    }

    /// Leases up to `max` jobs of one route to a backend that asks for work.
    pub(crate) fn dispatch_to(&mut self, backend: &str, max: u32) -> Result<Vec<Lease>, FleetError> {
        let id = self.backend(backend)?;
        let group = self.pool.entry(id).group;
        let mut leases = Vec::new();
        let mut route = None;
        while leases.len() < max as usize && self.pool.only(id, 0).is_some() {
            let next = match route {
                // A batch is of one route: the one whose job would be next when the batch began.
                Some(route) if self.places.first(route).is_some() && !leases.is_empty() => Some(route),
                Some(_) if !leases.is_empty() => None,
                _ => self.table.next_of(group),
            };
            let Some(next) = next else {
                if leases.is_empty() && self.pull() {
                    continue;
                }
                break;
            };
            if self.freshen(next) {
                continue;
            }
            route = Some(next);
            if let Some(lease) = self.dispatch_from(next, |state, slot| state.pool.only(id, state.jobs[slot].affinity))
            {
                leases.push(lease);
            }
        }
        Ok(leases)
    }

    /// Tries the first ready job of a route. Whatever comes of it, that job is no longer the first ready one, or there
    /// was no backend for it.
    fn dispatch_from(&mut self, route: u32, choose: impl FnOnce(&mut Self, u32) -> Option<Grant>) -> Option<Lease> {
        let (_, slot) = self.places.first(route)?;
        match self.blocked(slot) {
            None => {}
            Some(Blocked::RunningMax) => {
                self.park(slot, None);
                return None;
            }
            Some(Blocked::Tokens(Some(until))) => {
                self.park(slot, Some(until));
                return None;
            }
            Some(Blocked::Tokens(None)) => {
                self.bar(slot);
                return None;
            }
        }
        let grant = choose(self, slot)?;
        let lease = self.lease(slot, grant)?;
        Some(self.start(slot, lease))
    }

    /// Why the job's customer may not run it now.
    pub(crate) fn blocked(&self, slot: u32) -> Option<Blocked> {
        let job = &self.jobs[slot];
        let customer = &self.customers[job.customer];
        let policy = self.policy(job.customer);
        if customer.running >= policy.running_max {
            return Some(Blocked::RunningMax);
        }
        let rate = policy.rate.as_ref().filter(|_| !job.hot.paid)?;
        match customer.bucket.peek(rate, job.tokens, self.now) {
            Acquire::Allow { .. } => None,
            Acquire::Deny { until } => Some(Blocked::Tokens(Some(until))),
            Acquire::Never => Some(Blocked::Tokens(None)),
        }
    }

    /// The best backend for the first job of a route, whoever else may wait for it.
    fn choose(&mut self, route: u32, slot: u32) -> Option<Grant> {
        self.best_of(route, slot, |_, _| true)
    }

    /// The best backend for the first job of a route among those whose turn it is to serve that route. Taking any other
    /// would let a crowd that several backends serve have the only one that somebody before it can use.
    fn choose_in_turn(&mut self, route: u32, slot: u32) -> Option<Grant> {
        self.best_of(route, slot, |table, group| table.next_of(group) == Some(route))
    }

    /// The best backend for a job, of the groups that may serve it; one that failed it only where there is no other.
    fn best_of(&mut self, route: u32, slot: u32, may: impl Fn(&RouteTable, u32) -> bool) -> Option<Grant> {
        let Self { jobs, pool, table, .. } = self;
        let job = &jobs[slot];
        let groups = table.routes[route].groups().filter(|group| may(table, *group));
        match job.extra.as_ref().map(|extra| &extra.failed_on).filter(|failed_on| !failed_on.is_empty()) {
            None => groups.filter_map(|group| pool.best(group, job.affinity)).reduce(Grant::better),
            Some(failed_on) => pool.best_but(&groups.collect::<Vec<u32>>(), job.affinity, failed_on),
        }
    }

    /// Makes a queued job run under a lease that was just granted.
    fn start(&mut self, slot: u32, lease: u32) -> Lease {
        let customer = self.jobs[slot].customer;
        let rate = self.policy(customer).rate;
        let mut hot = self.jobs[slot].hot;
        if let Some(rate) = rate.filter(|_| !hot.paid) {
            let mut bucket = self.customers[customer].bucket;
            let taken = bucket.try_acquire(&rate, self.jobs[slot].tokens, self.now);
            debug_assert!(matches!(taken, Acquire::Allow { .. }), "tokens were there a moment ago");
            self.set_bucket(customer, bucket);
        }
        let charge = self.serve(slot);
        self.pool.set_charge(lease, charge);
        debug_assert_eq!(hot.state.after(JobEvent::Lease), Some(crate::job::JobState::Running));
        hot.state = crate::job::JobState::Running;
        hot.hold = Hold::None;
        hot.paid = true;
        hot.started = self.now;
        hot.since = self.now;
        hot.lease = lease;
        hot.progress_ppm = 0;
        hot.version = hot.version.wrapping_add(1);
        self.set_hot(slot, hot);
        self.note_started(slot);
        self.rearm_job(slot);
        self.emit(EventKind::Started(self.jobs[slot].id));
        self.scalars.counters.leases += 1;
        self.tell_lease(slot, lease)
    }

    fn tell_lease(&mut self, slot: u32, lease: u32) -> Lease {
        let job = &self.jobs[slot];
        let (id, deadline, warm, probe, backend) = match self.pool.lease_record(lease) {
            Some(own) => (own.id, own.deadline, own.warm, own.probe, own.backend),
            None => (LeaseId::from_u64(0), self.now, false, false, 0),
        };
        self.scalars.counters.warm_hits += u64::from(warm);
        self.scalars.counters.probes += u64::from(probe);
        Lease {
            id,
            job: job.id,
            customer: self.customers.name(job.customer).clone(),
            backend: self.pool.name(backend).clone(),
            route: self.table.routes.name(job.route).clone(),
            task: job.task,
            payload: job.payload(),
            attempt: job.hot.attempts.saturating_add(job.requeues().total()).saturating_add(1),
            deadline: self.to_host(deadline),
            warm,
            probe,
        }
    }

    fn wait(&self) -> Dispatch {
        Dispatch::Wait { until: self.next_deadline() }
    }
}
