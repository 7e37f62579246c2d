//! Who is served next, and where: start-time fair queueing and the choice of a backend, by walking over everything.

use libgateway::{BackendKind, EventKind, JobId, JobState, Models, Ordering, Route};

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

    pub(super) fn same_group(&self, other: &Self) -> bool {
        (&self.family, self.kind, &self.models) == (&other.family, other.kind, &other.models)
    }
}

impl Model {
    // --- Accounts ---

    fn account_of(&self, job: &Job) -> Account {
        (job.customer.clone(), self.routes[self.route(&job.route).unwrap()].family.clone(), job.lane)
    }

    /// Whether a job counts for its customer's account: it runs, or could be served.
    fn counts(&self, job: &Job) -> bool {
        let served = || {
            let way = &self.routes[self.route(&job.route).unwrap()];
            !way.paused && self.backends.iter().any(|own| own.serves(&way.family, &way.model, way.kind))
        };
        job.state == JobState::Running || (self.is_ready(job) && served())
    }

    /// Changes which routes can be served. Who counts from then on comes first, and then goes who counts no more.
    pub(crate) fn with_routes(&mut self, change: impl FnOnce(&mut Self)) {
        let counted = |model: &Self| -> Vec<u128> {
            model.jobs.iter().filter(|job| model.counts(job)).map(|job| job.id).collect()
        };
        let before = counted(self);
        let shadow: Vec<Worker> = self.backends.clone();
        let paused: Vec<(String, bool)> = self.routes.iter().map(|way| (way.name.clone(), way.paused)).collect();
        change(self);
        let after = counted(self);
        let accounts = |model: &Self, of: &[u128], not: &[u128]| -> Vec<Account> {
            let those = model.jobs.iter().filter(|job| of.contains(&job.id) && !not.contains(&job.id));
            those.map(|job| model.account_of(job)).collect()
        };
        let (come, gone) = (accounts(self, &after, &before), accounts(self, &before, &after));
        // Those who come find things as they were.
        let now = std::mem::replace(&mut self.backends, shadow);
        let ways: Vec<bool> = self.routes.iter().map(|way| way.paused).collect();
        for way in &mut self.routes {
            way.paused = paused.iter().any(|(name, paused)| *name == way.name && *paused);
        }
        for account in come {
            self.enters(&account);
        }
        self.backends = now;
        for (way, paused) in self.routes.iter_mut().zip(ways) {
            way.paused = paused;
        }
        for account in gone {
            self.left(&account);
        }
    }

    fn is_active(&self, account: &Account) -> bool {
        self.jobs.iter().any(|job| self.counts(job) && self.account_of(job) == *account)
    }

    /// Whether anybody but that customer could be served or runs in its lane.
    fn has_company(&self, (customer, family, lane): &Account) -> bool {
        self.jobs.iter().any(|job| {
            self.counts(job) && job.customer != *customer && {
                let own = self.account_of(job);
                (&own.1, own.2) == (family, *lane)
            }
        })
    }

    fn share(&mut self, account: &Account) -> &mut Share {
        let found = self.shares.iter().position(|own| own.account == *account);
        let at = found.unwrap_or_else(|| {
            self.shares.push(Share { account: account.clone(), given: 0, rest: 0, typical: 0 });
            self.shares.len() - 1
        });
        &mut self.shares[at]
    }

    /// The clock of a lane, and the most anybody was given in it.
    fn lane(&mut self, family: &str, lane: u8) -> &mut (u128, u128) {
        let found = self.virtual_time.iter().position(|(name, own, _)| name == family && *own == lane);
        let at = found.unwrap_or_else(|| {
            self.virtual_time.push((family.to_owned(), lane, (0, 0)));
            self.virtual_time.len() - 1
        });
        &mut self.virtual_time[at].2
    }

    /// Where the next job of an account starts.
    fn start_of(&mut self, account: &Account) -> u128 {
        if self.config.ordering == Ordering::Fifo {
            return 0;
        }
        let given = self.share(account).given;
        if !self.is_active(account) {
            return given.max(self.lane(&account.1, account.2).0);
        }
        let begun = self.jobs.iter().filter(|job| job.state == JobState::Running && self.account_of(job) == *account);
        given + begun.map(|job| u128::from(job.charge)).sum::<u128>()
    }

    /// Before the first job of an account counts: it starts no earlier than its lane stands.
    fn enters(&mut self, account: &Account) {
        if self.is_active(account) {
            return;
        }
        let clock = self.lane(&account.1, account.2).0;
        let share = self.share(account);
        if share.given <= clock {
            (share.given, share.rest, share.typical) = (clock, 0, 0);
        }
    }

    /// After a job of an account counts no more: when nobody in its lane does, its clock catches up.
    fn left(&mut self, account: &Account) {
        if !self.is_active(account) && !self.has_company(account) {
            let (clock, high) = self.lane(&account.1, account.2);
            *clock = (*clock).max(*high);
        }
    }

    /// GPU time a job is expected to take.
    fn expected(&self, job: &Job) -> u64 {
        let mean = self.routes[self.route(&job.route).unwrap()].mean;
        [job.estimate, mean, self.config.estimate.as_nanos()].into_iter().find(|nanos| *nanos > 0).unwrap()
    }

    /// Virtual time that so much expected GPU time takes: not less than half and not more than twice of what the
    /// customer's jobs took lately.
    fn stride(&mut self, account: &Account, cost: u64) -> u64 {
        // Of a customer that has not been there lately nothing is known.
        let clock = self.lane(&account.1, account.2).0;
        let known = self.is_active(account) || self.share(account).given > clock;
        let cost = match self.share(account).typical {
            _ if !known => cost,
            0 => cost,
            typical => cost.max(typical / 2).min(typical * 2),
        };
        let weight = u128::from(self.policy(&account.0).weight);
        ((u128::from(cost) << 10) / weight).clamp(1, 1 << 62) as u64
    }

    /// What an attempt really used takes the place of what it was charged.
    pub(crate) fn charge(&mut self, index: usize, used: u64) {
        if self.config.ordering == Ordering::Fifo {
            return;
        }
        let account = self.account_of(&self.jobs[index]);
        let alone = !self.has_company(&account);
        let weight = u128::from(self.policy(&account.0).weight);
        let share = self.share(&account);
        let total = (u128::from(used) << 10) + share.rest;
        share.given += total / weight;
        share.rest = total % weight;
        share.typical = if share.typical == 0 { used } else { share.typical - share.typical / 8 + used / 8 };
        let given = share.given;
        let (clock, high) = self.lane(&account.1, account.2);
        *high = (*high).max(given);
        if alone {
            *clock = (*clock).max(given);
        }
        // It is between two states: what happens next finds it neither waiting nor running.
        self.jobs[index].state = JobState::Cancelled;
        self.left(&account);
        let route = self.jobs[index].route.clone();
        if let Some(head) = self.line(&account.0, &route, account.2).first().copied() {
            self.update(head);
        }
    }

    // --- Places ---

    /// Gives a job a place in a lane: on its own while it may not run before an instant, else in its customer's line.
    pub(crate) fn enqueue(&mut self, index: usize, lane: u8, fresh: bool) {
        let cost = self.expected(&self.jobs[index]);
        let job = &mut self.jobs[index];
        (job.lane, job.in_line, job.returned, job.cost) = (lane, false, false, cost);
        if matches!(job.hold, Hold::Until(_)) {
            let account = self.account_of(&self.jobs[index]);
            self.jobs[index].tag = self.start_of(&account);
            return;
        }
        self.join(index, fresh);
    }

    /// Puts a job into its customer's line, at the place its age gives it.
    fn join(&mut self, index: usize, fresh: bool) {
        // While it looks for its place it has none.
        let state = core::mem::replace(&mut self.jobs[index].state, JobState::Cancelled);
        let account = self.account_of(&self.jobs[index]);
        let route = self.jobs[index].route.clone();
        let line = self.line(&account.0, &route, account.2);
        let sequence = self.jobs[index].sequence;
        let older = |own: usize| self.jobs[own].sequence < sequence;
        let back = |own: usize| self.jobs[own].returned && older(own);
        let place = match line.iter().rposition(|own| back(*own)) {
            _ if line.last().is_none_or(|tail| older(*tail)) => Some(line.len()),
            Some(at) if !older(line[at + 1]) => Some(at + 1),
            None if !older(line[0]) => Some(0),
            // Only a job that was lifted a lane can be older than some that always were there and younger than others.
            _ => None,
        };
        let before = place.and_then(|at| at.checked_sub(1)).map(|at| line[at]);
        let behind = place.map_or(&[][..], |at| &line[at..]);
        let tag = match before {
            _ if self.config.ordering == Ordering::Fifo => 0,
            None => self.start_of(&account),
            Some(before) => self.jobs[before].tag + u128::from(self.stride(&account, self.jobs[before].cost)),
        };
        let (mut last, mut next) = (index, tag);
        self.jobs[index].tag = tag;
        for own in behind {
            if self.jobs[*own].tag >= next {
                break;
            }
            next += u128::from(self.stride(&account, self.jobs[last].cost));
            self.jobs[*own].tag = next;
            last = *own;
        }
        if before.is_none() {
            self.enters(&account);
        }
        let job = &mut self.jobs[index];
        (job.state, job.in_line, job.returned) = (state, place.is_some(), place.is_some() && !fresh);
        if before.is_none() {
            self.update(index);
            // Nobody asks about who was the head of the line and is no longer.
            behind.iter().take(1).for_each(|head| self.unhold(*head));
        }
    }

    /// A customer's jobs in line on a route and lane, the first to come first.
    fn line(&self, customer: &str, route: &str, lane: u8) -> Vec<usize> {
        let of = |(index, job): (usize, &Job)| {
            let own = (job.customer.as_str(), job.route.as_str(), job.lane) == (customer, route, lane);
            (own && job.state == JobState::Queued && job.in_line).then_some(index)
        };
        let mut line: Vec<usize> = self.jobs.iter().enumerate().filter_map(of).collect();
        line.sort_unstable_by_key(|index| self.jobs[*index].sequence);
        line
    }

    /// Moves a job to where its account stands, and those in line behind it that it would come to stand behind.
    fn update(&mut self, index: usize) {
        let account = self.account_of(&self.jobs[index]);
        let mut tag = self.start_of(&account);
        if self.jobs[index].tag == tag {
            return;
        }
        self.jobs[index].tag = tag;
        if !self.jobs[index].in_line {
            return;
        }
        let route = self.jobs[index].route.clone();
        let line = self.line(&account.0, &route, account.2);
        let at = line.iter().position(|own| *own == index).unwrap();
        for pair in line[at..].windows(2) {
            if self.jobs[pair[1]].tag >= tag {
                break;
            }
            tag += u128::from(self.stride(&account, self.jobs[pair[0]].cost));
            self.jobs[pair[1]].tag = tag;
        }
    }

    /// Lets a job be served again that was held.
    pub(crate) fn release(&mut self, index: usize) {
        if !self.jobs[index].in_line {
            self.unhold(index);
            self.jobs[index].hold = Hold::None;
            return self.join(index, false);
        }
        // It is held until the moment in which it counts.
        let account = self.account_of(&self.jobs[index]);
        self.enters(&account);
        self.unhold(index);
        self.update(index);
    }

    /// Takes a job out of the queue, for `state`; who is next in line comes to its turn.
    fn take(&mut self, index: usize, state: JobState) {
        let account = self.account_of(&self.jobs[index]);
        let route = self.jobs[index].route.clone();
        let line = self.line(&account.0, &route, account.2);
        let next = if line.first() == Some(&index) { line.get(1).copied() } else { None };
        let active = self.is_active(&account);
        if next.is_some() && !active {
            self.enters(&account);
        }
        self.jobs[index].state = state;
        (self.jobs[index].in_line, self.jobs[index].returned) = (false, false);
        if let Some(next) = next {
            self.update(next);
        }
        if active {
            self.left(&account);
        }
    }

    /// Takes a job out of the queue that does not run.
    pub(crate) fn dequeue(&mut self, index: usize) {
        let ready = self.is_ready(&self.jobs[index]);
        self.unhold(index);
        let state = JobState::Cancelled;
        if ready {
            self.take(index, state);
            self.wake_next(index);
        } else {
            // It may have been parked at the head of its line.
            self.jobs[index].hold = Hold::Parked;
            self.take(index, state);
            self.jobs[index].hold = Hold::None;
        }
    }

    /// Whether a job could be served now as far as its place tells.
    fn is_ready(&self, job: &Job) -> bool {
        let first = || self.line(&job.customer, &job.route, job.lane).first().map(|own| self.jobs[*own].sequence);
        job.state == JobState::Queued && job.hold == Hold::None && (!job.in_line || first() == Some(job.sequence))
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
            let Some(job) = next else {
                if self.pull() {
                    continue;
                }
                return Answer::Wait(self.next_deadline());
            };
            if self.freshen(job) {
                continue;
            }
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
            if !free || way.paused {
                return Answer::Wait(self.next_deadline());
            }
            let Some(job) = self.first_of_route(name) else {
                if self.pull() {
                    continue;
                }
                return Answer::Wait(self.next_deadline());
            };
            if self.freshen(job) {
                continue;
            }
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
            let Some(job) = next else {
                if grants.is_empty() && self.pull() {
                    continue;
                }
                break;
            };
            if self.freshen(job) {
                continue;
            }
            grants.extend(self.try_start(job, Some(backend)));
        }
        Answer::Leases(grants)
    }

    /// Starts a job on a backend, or parks it because its customer may not run it.
    fn try_start(&mut self, job: usize, backend: Option<usize>) -> Option<Grant> {
        match self.blocked(&self.jobs[job]) {
            None => {}
            Some(Blocked::Tokens(None)) => {
                self.bar(job);
                return None;
            }
            Some(blocked) => {
                self.park(job, if let Blocked::Tokens(at) = blocked { at } else { None });
                return None;
            }
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
            (
                job.failed_on.contains(&own.order),
                cold,
                u128::from(own.live) * (common / u128::from(own.slots)),
                own.order,
            )
        });
        best.map(|(index, _)| index)
    }

    fn start(&mut self, job: usize, backend: usize) -> Grant {
        let (index, now) = (job, self.now);
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

        self.begin(job);
        let job = &mut self.jobs[job];
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
            attempt: job.attempts + job.requeues + 1,
            deadline,
            warm,
            probe,
        };
        self.note_started(index);
        self.emit(EventKind::Started(JobId::from_entropy(grant.job)));
        grant
    }

    /// Charges a job's account what it is expected to take, and lets it run.
    fn begin(&mut self, index: usize) {
        let account = self.account_of(&self.jobs[index]);
        let expected = self.expected(&self.jobs[index]);
        if self.config.ordering == Ordering::Fair {
            self.jobs[index].charge = self.stride(&account, expected);
            let given = self.share(&account).given;
            let (clock, _) = self.lane(&account.1, account.2);
            *clock = (*clock).max(given);
        }
        self.take(index, JobState::Running);
    }

    /// Brings the place of a job up to date that would be served. Whether that moved it.
    fn freshen(&mut self, index: usize) -> bool {
        let account = self.account_of(&self.jobs[index]);
        let stale = self.jobs[index].tag < self.start_of(&account);
        if stale {
            self.update(index);
        }
        stale
    }

    // --- Parking and waking ---

    fn park(&mut self, index: usize, wake: Option<u64>) {
        let account = self.account_of(&self.jobs[index]);
        self.jobs[index].hold = if wake.is_some() { Hold::Throttled } else { Hold::Parked };
        self.left(&account);
        self.counters.parked += 1;
        if wake.is_none() {
            return self.woken.retain(|name| *name != account.0);
        }
        self.wake_next(index);
        self.rest(&account.0);
    }

    /// Tokens without which it makes no sense to look at a parked job.
    fn need(job: &Job) -> u64 {
        if job.hold == Hold::Throttled { job.tokens } else { 0 }
    }

    /// When a customer has so many tokens; `None`: now.
    fn tokens_at(&self, customer: &str, need: u64) -> Option<u64> {
        let limit = self.policy(customer).rate.filter(|_| need > 0)?;
        let own = &self.customers[self.customer(customer).unwrap()];
        match Tokens::of(&limit).wait(own, need, self.now) {
            Ok(()) => None,
            Err(at) => Some(at.unwrap_or(u64::MAX)),
        }
    }

    /// A customer for whose parked jobs there are no tokens is not looked at until there are for one of them.
    fn rest(&mut self, customer: &str) {
        let least = self.parked(customer).into_iter().map(|index| Self::need(&self.jobs[index])).min();
        if let Some(at) = least.and_then(|need| self.tokens_at(customer, need)) {
            self.woken.retain(|name| name != customer);
            let index = self.customer(customer).unwrap();
            let wake = &mut self.customers[index].wake;
            *wake = Some(wake.map_or(at, |wake| wake.min(at))).filter(|at| *at != u64::MAX);
        }
    }

    /// A job that never can run under its customer's plan stands aside.
    fn bar(&mut self, index: usize) {
        let job = self.jobs[index].clone();
        self.take(index, JobState::Cancelled);
        let own = &mut self.jobs[index];
        (own.state, own.hold, own.tag) = (job.state, Hold::Barred, job.tag);
    }

    fn unhold(&mut self, index: usize) {
        let customer = self.jobs[index].customer.clone();
        if matches!(self.jobs[index].hold, Hold::Parked | Hold::Throttled | Hold::Barred) {
            self.jobs[index].hold = Hold::None;
        }
        if self.parked(&customer).is_empty() {
            self.woken.retain(|name| *name != customer);
        }
    }

    /// A customer's parked jobs, the first to come first.
    fn parked(&self, customer: &str) -> Vec<usize> {
        let is_parked = |job: &Job| matches!(job.hold, Hold::Parked | Hold::Throttled);
        let of = |(index, job): (usize, &Job)| (job.customer == customer && is_parked(job)).then_some(index);
        let mut parked: Vec<usize> = self.jobs.iter().enumerate().filter_map(of).collect();
        parked.sort_unstable_by_key(|index| (Self::need(&self.jobs[*index]), self.jobs[*index].sequence));
        parked
    }

    /// Which backends serve a route; a paused one is by itself.
    fn class(&self, route: &str) -> (Option<String>, Option<String>, Vec<(BackendKind, Models)>) {
        let way = &self.routes[self.route(route).unwrap()];
        let serving = self.backends.iter().filter(|own| own.serves(&way.family, &way.model, way.kind));
        let mut groups: Vec<_> = serving.map(|own| (own.kind, own.models.clone())).collect();
        groups.sort();
        groups.dedup();
        (way.paused.then(|| route.to_owned()), (!groups.is_empty()).then(|| way.family.clone()), groups)
    }

    /// The first parked job of each class of a customer is looked at.
    fn look_at_classes(&mut self, customer: &str) -> bool {
        let mut seen = Vec::new();
        let mut looked = false;
        for index in self.parked(customer) {
            let class = self.class(&self.jobs[index].route);
            if !seen.contains(&class) {
                seen.push(class);
                if self.tokens_at(customer, Self::need(&self.jobs[index])).is_none() {
                    self.release(index);
                    looked = true;
                }
            }
        }
        looked
    }

    fn may_run(&self, customer: &str) -> bool {
        self.count(customer, JobState::Running) < self.policy(customer).running_max
    }

    /// Looks at a customer's parked jobs again if it may run one more.
    pub(crate) fn wake(&mut self, customer: &str) {
        if !self.parked(customer).is_empty() && self.may_run(customer) {
            if !self.woken.iter().any(|name| name == customer) {
                self.woken.push(customer.to_owned());
            }
            self.look_at_classes(customer);
            self.rest(customer);
        }
    }

    /// What a customer may do has changed.
    pub(crate) fn wake_all(&mut self, customer: &str) {
        if let Some(customer) = self.customer(customer) {
            self.customers[customer].wake = None;
        }
        let of = |(index, job): (usize, &Job)| (job.customer == customer && job.hold == Hold::Barred).then_some(index);
        let mut barred: Vec<usize> = self.jobs.iter().enumerate().filter_map(of).collect();
        barred.sort_unstable_by_key(|index| self.jobs[*index].sequence);
        barred.into_iter().for_each(|index| self.release(index));
        while let Some(index) = self.parked(customer).first() {
            self.release(*index);
        }
    }

    /// Which routes are of one class has changed.
    pub(crate) fn unpark_all(&mut self) {
        let customers: Vec<String> = self.customers.iter().map(|own| own.name.clone()).collect();
        for customer in customers {
            while let Some(index) = self.parked(&customer).first() {
                self.release(*index);
            }
        }
    }

    /// The next parked job of the same customer and class as one that was ready and has gone.
    fn wake_next(&mut self, index: usize) {
        let (customer, route) = (self.jobs[index].customer.clone(), self.jobs[index].route.clone());
        if self.woken.contains(&customer) {
            let class = self.class(&route);
            let next = self.parked(&customer).into_iter().find(|other| self.class(&self.jobs[*other].route) == class);
            let next = next.filter(|next| self.tokens_at(&customer, Self::need(&self.jobs[*next])).is_none());
            if let Some(next) = next {
                self.release(next);
            }
        }
    }

    fn note_started(&mut self, index: usize) {
        let customer = self.jobs[index].customer.clone();
        if !self.woken.contains(&customer) {
            return;
        }
        if self.may_run(&customer) {
            self.wake_next(index);
            self.rest(&customer);
        } else {
            self.woken.retain(|name| *name != customer);
        }
    }

    /// Looks at parked jobs of a customer that may run, while a backend is free.
    fn pull(&mut self) -> bool {
        if !self.backends.iter().any(|own| self.is_free(own)) {
            return false;
        }
        loop {
            let order = |name: &&String| self.customers[self.customer(name).unwrap()].order;
            let Some(customer) = self.woken.iter().min_by_key(order).cloned() else { return false };
            let looked = self.look_at_classes(&customer);
            self.rest(&customer);
            if looked {
                return true;
            }
        }
    }
}

fn is_warm(worker: &Worker, job: &Job) -> bool {
    job.affinity.as_ref().is_some_and(|key| worker.warm.contains(key))
}

/// Customer, family and lane.
pub(crate) type Account = (String, String, u8);
