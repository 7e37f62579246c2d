//! Who is served next, and where: start-time fair queueing and the choice of a backend, by walking over everything.

use libgateway::{BackendKind, EventKind, JobId, JobState, Ordering, Route};

use super::answer::{Answer, Grant, error};
use super::money::Tokens;
use super::parts::{Held, Hold, Job, Model, Share, Worker};
use super::waiting_room;

/// Why a job may not run although a backend would take it.
pub(crate) enum Blocked {
    Running,
    Tokens(Option<u64>),
}

impl Worker {
    pub(crate) fn serves(&self, family: &str, model: &str, kind: Option<BackendKind>) -> bool {
        self.family == family && self.models.contains(model) && kind.is_none_or(|kind| kind == self.kind)
    }

    fn same_group(&self, other: &Self) -> bool {
        (&self.family, self.kind, &self.models) == (&other.family, other.kind, &other.models)
    }
}

impl Model {
    // --- Places ---

    /// Gives a job a place in a lane, by its customer's share.
    pub(crate) fn enqueue(&mut self, job: usize, lane: u8) {
        let (customer, route) = (self.jobs[job].customer.clone(), self.jobs[job].route.clone());
        let tag = match self.config.ordering {
            Ordering::Fifo => 0,
            _ => {
                let family = self.routes[self.route(&route).unwrap()].family.clone();
                let behind_own = self.in_line(&customer, &route, lane).map(|other| other.tag + 1).max().unwrap_or(0);
                let start = self.virtual_time(&family, lane).max(self.share(&customer, &family, lane).finish);
                let start = start.max(behind_own);
                let stride = stride(self.jobs[job].estimate, self.policy(&customer).weight);
                self.share(&customer, &family, lane).finish = start + stride;
                start
            }
        };
        let sequence = self.jobs[job].sequence;
        // In order of arrival, an aged job may be older than those in line: it stands on its own then.
        let last = self.in_line(&customer, &route, lane).map(|other| (other.tag, other.sequence)).max();
        let overtakes = last > Some((tag, sequence));
        let job = &mut self.jobs[job];
        (job.lane, job.tag) = (lane, tag);
        job.in_line = !overtakes && !matches!(job.hold, Hold::Until(_));
    }

    /// What a customer has in line on a route and lane.
    fn in_line(&self, customer: &str, route: &str, lane: u8) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(move |job| {
            job.state == JobState::Queued
                && job.in_line
                && (job.customer.as_str(), job.route.as_str(), job.lane) == (customer, route, lane)
        })
    }

    /// Puts what a job took in the place of what its customer was charged for it: nothing for one that leaves its lane
    /// without having run.
    pub(crate) fn correct(&mut self, index: usize, actual: u128) {
        if self.config.ordering == Ordering::Fifo {
            return;
        }
        let job = &self.jobs[index];
        let (customer, lane, estimate, route) = (job.customer.clone(), job.lane, job.estimate, job.route.clone());
        let expected = stride(estimate, self.policy(&customer).weight);
        let family = self.routes[self.route(&route).unwrap()].family.clone();
        let now = self.virtual_time(&family, lane);
        let share = self.share(&customer, &family, lane);
        // A share behind the virtual time is as none: nothing is left to take away, and more counts from now.
        share.finish = match share.finish.max(now) {
            finish if actual > expected => finish + (actual - expected),
            finish if finish > now => finish.saturating_sub(expected - actual),
            finish => finish,
        };
    }

    pub(crate) fn refund(&mut self, index: usize) {
        if self.jobs[index].started.is_none() {
            self.correct(index, 0);
        }
    }

    pub(crate) fn share(&mut self, customer: &str, family: &str, lane: u8) -> &mut Share {
        let found = self
            .shares
            .iter()
            .position(|own| (own.customer.as_str(), own.family.as_str(), own.lane) == (customer, family, lane));
        let at = found.unwrap_or_else(|| {
            let (customer, family) = (customer.to_owned(), family.to_owned());
            self.shares.push(Share { customer, family, lane, finish: 0 });
            self.shares.len() - 1
        });
        &mut self.shares[at]
    }

    pub(crate) fn virtual_time(&self, family: &str, lane: u8) -> u128 {
        let found = self.virtual_time.iter().find(|(name, own, _)| name == family && *own == lane);
        found.map_or(0, |(.., time)| *time)
    }

    fn advance_virtual_time(&mut self, family: &str, lane: u8, tag: u128) {
        match self.virtual_time.iter_mut().find(|(name, own, _)| name == family && *own == lane) {
            Some((.., time)) => *time = tag.max(*time),
            None => self.virtual_time.push((family.to_owned(), lane, tag)),
        }
    }

    /// Whether a job could be served now as far as its place tells.
    fn is_ready(&self, job: &Job) -> bool {
        let mut line = self.in_line(&job.customer, &job.route, job.lane);
        job.state == JobState::Queued
            && job.hold == Hold::None
            && !(job.in_line && line.any(|other| (other.tag, other.sequence) < (job.tag, job.sequence)))
    }

    /// Jobs of the same route before it.
    pub(crate) fn position(&self, job: &Job) -> Option<u32> {
        let before = |other: &&Job| {
            other.state == JobState::Queued
                && other.route == job.route
                && (other.lane, other.tag, other.sequence) < (job.lane, job.tag, job.sequence)
        };
        (job.state == JobState::Queued).then(|| self.jobs.iter().filter(before).count() as u32)
    }

    /// The first job that may be served on each route.
    pub(crate) fn first_of_route(&self, route: &str) -> Option<usize> {
        let ready = self.jobs.iter().enumerate().filter(|(_, job)| job.route == route && self.is_ready(job));
        ready.min_by_key(|(_, job)| (job.lane, job.tag, job.sequence)).map(|(index, _)| index)
    }

    /// The job that backends like `worker` would take next.
    fn next_for(&self, worker: &Worker) -> Option<usize> {
        let served = self
            .routes
            .iter()
            .filter(|route| !route.paused && worker.serves(&route.family, &route.model, route.kind))
            .filter_map(|route| self.first_of_route(&route.name));
        served.min_by_key(|job| {
            let job = &self.jobs[*job];
            (job.lane, job.tag, job.sequence)
        })
    }

    // --- Commands ---

    pub(crate) fn dispatch(&mut self) -> Answer {
        loop {
            // Each group of like backends offers the job it would take; the highest lane, then the oldest wins.
            let offers = self.backends.iter().enumerate().filter(|(index, worker)| {
                self.is_free(worker)
                    && !self.backends[..*index].iter().any(|own| own.same_group(worker) && self.is_free(own))
            });
            let offers = offers.filter_map(|(_, worker)| self.next_for(worker));
            let next = offers.min_by_key(|job| (self.jobs[*job].lane, self.jobs[*job].sequence));
            let Some(job) = next else { return Answer::Wait(self.next_deadline()) };
            let backend = self.best_backend(job, true);
            if let Some(grant) = self.try_start(job, backend) {
                return Answer::Leased(Box::new(grant));
            }
        }
    }

    pub(crate) fn dispatch_route(&mut self, route: &Route<'_>) -> Answer {
        let name = &waiting_room(route);
        let route = match self.route(name) {
            Some(known) => known,
            None if self.is_served(route) => return Answer::Wait(self.next_deadline()),
            None => return error(703, "route"),
        };
        loop {
            let way = &self.routes[route];
            let free =
                self.backends.iter().any(|own| own.serves(&way.family, &way.model, way.kind) && self.is_free(own));
            let next = self.first_of_route(name).filter(|_| free && !way.paused);
            let Some(job) = next else { return Answer::Wait(self.next_deadline()) };
            let backend = self.best_backend(job, false);
            if let Some(grant) = self.try_start(job, backend) {
                return Answer::Leased(Box::new(grant));
            }
        }
    }

    pub(crate) fn dispatch_to(&mut self, name: &str, max: u32) -> Answer {
        let Some(backend) = self.backend(name) else { return error(701, "backend") };
        let mut grants: Vec<Grant> = Vec::new();
        while grants.len() < max as usize && self.is_free(&self.backends[backend]) {
            // A batch is of one route.
            let next = match grants.first() {
                None => self.next_for(&self.backends[backend]),
                Some(first) => self.first_of_route(&first.route),
            };
            let Some(job) = next else { break };
            grants.extend(self.try_start(job, Some(backend)));
        }
        Answer::Leases(grants)
    }

    /// Starts a job on a backend, or parks it because its customer may not run it.
    fn try_start(&mut self, job: usize, backend: Option<usize>) -> Option<Grant> {
        if let Some(blocked) = self.blocked(&self.jobs[job]) {
            self.jobs[job].hold = Hold::Parked;
            self.counters.parked += 1;
            if let Blocked::Tokens(Some(at)) = blocked {
                let customer = self.customer(&self.jobs[job].customer).unwrap();
                let wake = &mut self.customers[customer].wake;
                *wake = Some(wake.map_or(at, |wake| wake.min(at))).filter(|at| *at != u64::MAX);
            }
            return None;
        }
        Some(self.start(job, backend?))
    }

    pub(crate) fn blocked(&self, job: &Job) -> Option<Blocked> {
        let policy = self.policy(&job.customer);
        if self.count(&job.customer, JobState::Running) >= policy.running_max {
            return Some(Blocked::Running);
        }
        let limit = policy.rate.filter(|_| !job.paid)?;
        let customer = &self.customers[self.customer(&job.customer).unwrap()];
        match Tokens::of(&limit).wait(customer, job.tokens, self.now) {
            Ok(()) => None,
            Err(until) => Some(Blocked::Tokens(until)),
        }
    }

    pub(crate) fn is_free(&self, worker: &Worker) -> bool {
        !worker.draining && !worker.leaving && worker.live < worker.slots && worker.breaker.is_passable()
    }

    /// The best backend for a job, `in_turn` of all those that would take it next.
    fn best_backend(&self, index: usize, in_turn: bool) -> Option<usize> {
        let job = &self.jobs[index];
        let way = &self.routes[self.route(&job.route).unwrap()];
        let free = self
            .backends
            .iter()
            .enumerate()
            .filter(|(_, own)| own.serves(&way.family, &way.model, way.kind) && self.is_free(own))
            .filter(|(_, own)| !in_turn || self.next_for(own) == Some(index));
        // Loads are compared as fractions over a common denominator.
        let common: u128 = self.backends.iter().map(|own| u128::from(own.slots)).product();
        let best = free.min_by_key(|(_, own)| {
            let cold = !is_warm(own, job);
            (cold, u128::from(own.live) * (common / u128::from(own.slots)), own.order)
        });
        best.map(|(index, _)| index)
    }

    fn start(&mut self, job: usize, backend: usize) -> Grant {
        let now = self.now;
        let id = self.next_lease;
        self.next_lease += 1;
        let name = self.jobs[job].customer.clone();
        let customer = self.customer(&name).unwrap();
        if let Some(limit) = self.policy(&name).rate.filter(|_| !self.jobs[job].paid) {
            Tokens::of(&limit).take(&mut self.customers[customer], self.jobs[job].tokens, now);
        }

        let default = self.config.lease_for.as_nanos();
        let worker = &mut self.backends[backend];
        let warm = is_warm(worker, &self.jobs[job]);
        let (generation, probe) = worker.breaker.admit(now);
        worker.live += 1;
        if let Some(key) = self.jobs[job].affinity.clone().filter(|_| worker.warm_max > 0) {
            worker.warm.retain(|own| *own != key);
            worker.warm.push(key);
            let surplus = worker.warm.len().saturating_sub(worker.warm_max as usize);
            worker.warm.drain(..surplus);
        }
        let lease_for = worker.lease_for.unwrap_or(default);
        let (backend, deadline) = (worker.name.clone(), now.saturating_add(lease_for));
        self.counters.leases += 1;
        self.counters.warm_hits += u64::from(warm);
        self.counters.probes += u64::from(probe);

        let family = self.routes[self.route(&self.jobs[job].route).unwrap()].family.clone();
        self.advance_virtual_time(&family, self.jobs[job].lane, self.jobs[job].tag);
        let job = &mut self.jobs[job];
        job.state = JobState::Running;
        job.hold = Hold::None;
        job.paid = true;
        (job.started, job.since) = (Some(now), now);
        job.progress = 0;
        job.version += 1;
        job.lease = Some(Held {
            id,
            backend: backend.clone(),
            generation,
            granted: now,
            deadline,
            lease_for,
            spared: 0,
            idle: Vec::new(),
        });
        let grant = Grant {
            id,
            job: job.id,
            customer: job.customer.clone(),
            backend,
            route: job.route.clone(),
            task: job.task,
            payload: job.payload.clone(),
            attempt: u32::from(job.attempts) + u32::from(job.requeues) + 1,
            deadline,
            warm,
            probe,
        };
        self.emit(EventKind::Started(JobId::from_entropy(grant.job)));
        grant
    }

    // --- Waking ---

    /// Looks at a customer's parked jobs again.
    pub(crate) fn unpark(&mut self, customer: &str) {
        for job in self.jobs.iter_mut().filter(|job| job.customer == customer && job.hold == Hold::Parked) {
            job.hold = Hold::None;
        }
        if let Some(customer) = self.customer(customer) {
            self.customers[customer].wake = None;
        }
    }

    /// Looks at a customer's parked jobs again if it may run one more.
    pub(crate) fn wake(&mut self, customer: &str) {
        let parked = self.jobs.iter().any(|job| job.customer == customer && job.hold == Hold::Parked);
        if parked && self.count(customer, JobState::Running) < self.policy(customer).running_max {
            self.unpark(customer);
        }
    }
}

fn is_warm(worker: &Worker, job: &Job) -> bool {
    job.affinity.as_ref().is_some_and(|key| worker.warm.contains(key))
}

pub(crate) fn stride(cost: u64, weight: u32) -> u128 {
    u128::from(cost / u64::from(weight)).max(1)
}
