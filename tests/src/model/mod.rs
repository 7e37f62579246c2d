//! A naive model of the gateway, written from its specification: vectors, linear scans, exact fractions, clones for
//! savepoints. It shares no code with the gateway; the two must agree on every reply and every getter.

mod answer;
mod check;
mod clock;
mod lease;
mod money;
mod ops;
mod parts;
mod queue;
mod run;
mod time;

pub(crate) use clock::{HostClock, punctual as is_punctual};
pub use ops::{Mix, Op, Ops, config};
pub use run::{Twin, Wrong, run, tells};

use libgateway::{
    Backend, Command, CustomerPolicy, EventKind, ForcedState, JobState, Leaf, Route, Step, Submit, Timestamp, Usage,
};

use answer::{Answer, error};
use money::{Spent, Tokens};
use parts::{Breaker, Customer, End, Fingerprint, Hold, Job, Model, Phase, Promise, Way, Worker};

/// What a transaction as data is made of, on both of its levels.
enum Group<'c, T> {
    All(&'c [T]),
    FirstOf(&'c [T]),
}

impl Model {
    /// Applies a command at a reading of the host's clock.
    pub(crate) fn apply(&mut self, reading: u64, command: &Command<'_>) -> Answer {
        let answer = match command {
            Command::Advance {} => self.advance(reading),
            Command::AcceptClock {} => {
                self.accept_clock(reading);
                self.advance(reading)
            }
            _ => {
                self.tick(reading);
                let answer = self.run(command);
                self.tidy();
                answer
            }
        };
        answer.shown(&self.clock)
    }

    fn run(&mut self, command: &Command<'_>) -> Answer {
        match command {
            Command::Submit(submit) => self.submit(submit),
            Command::Dispatch {} => self.dispatch(),
            Command::DispatchRoute { route } => self.dispatch_route(route),
            Command::DispatchTo { backend, max } => self.dispatch_to(backend, *max),
            Command::Heartbeat { lease } => self.heartbeat(lease.as_u64()),
            Command::Progress { lease, progress_ppm } => self.progress(lease.as_u64(), *progress_ppm),
            Command::Complete { lease, output, usage } => self.complete(lease.as_u64(), output, usage),
            Command::Fail { lease, failure, usage } => self.fail(lease.as_u64(), failure, usage),
            Command::Release { lease, not_before, usage } => self.give_back(lease.as_u64(), *not_before, usage),
            Command::Preempt { job, usage } => self.preempt(job.as_u128(), usage),
            Command::Cancel { job, usage } => self.cancel(job.as_u128(), usage),
            Command::CancelLease { lease, usage } => self.cancel_lease(lease.as_u64(), usage),
            Command::CorrectUsage { lease, usage } => self.correct_usage(lease.as_u64(), usage),
            Command::Delete { job } => self.delete(job.as_u128()),
            Command::All(steps) => self.transaction(Group::All(steps)),
            Command::FirstOf(steps) => self.transaction(Group::FirstOf(steps)),
            Command::PutBackend(backend) => self.put_backend(backend),
            Command::RemoveBackend { backend } => self.with_backend(backend, |_, own| own.leaving = true),
            Command::DrainBackend { backend, draining } => {
                self.with_backend(backend, |_, own| own.draining = *draining)
            }
            Command::EvictBackend { backend, to } => self.evict_backend(backend, *to),
            Command::ForceBreaker { backend, state, until } => {
                let until = until.map(|until| Timestamp::from_nanos(self.clock.meant(until.as_nanos())));
                let over = until.is_some_and(|until| until.as_nanos() <= self.now);
                match self.backend(backend) {
                    Some(_) if over && state.is_some() => error(204, "until"),
                    _ => self.with_backend(backend, |now, own| force(&mut own.breaker, *state, until, now)),
                }
            }
            Command::PutCustomer { customer, policy } => self.put_customer(customer, policy),
            Command::RemoveCustomer { customer } => self.remove_customer(customer),
            Command::Pause { route } => self.pause(route, true),
            Command::Resume { route } => self.pause(route, false),
            Command::PutPrices(book) => self.put_prices(book),
            Command::TakeSettlements { max } => self.take_settlements(*max),
            Command::ConfirmSettlements { batch } => self.end_batch((batch.id, batch.first_seq, batch.len), true),
            Command::ReturnSettlements { batch } => self.end_batch((batch.id, batch.first_seq, batch.len), false),
            other => panic!("the model does not know the command {other:?}"),
        }
    }

    pub(crate) fn leaf(&mut self, leaf: &Leaf<'_>) -> Answer {
        match leaf {
            Leaf::Submit(submit) => self.submit(submit),
            Leaf::Dispatch {} => self.dispatch(),
            Leaf::DispatchRoute { route } => self.dispatch_route(route),
            Leaf::DispatchTo { backend, max } => self.dispatch_to(backend, *max),
            Leaf::Heartbeat { lease } => self.heartbeat(lease.as_u64()),
            Leaf::Progress { lease, progress_ppm } => self.progress(lease.as_u64(), *progress_ppm),
            Leaf::Complete { lease, output, usage } => self.complete(lease.as_u64(), output, usage),
            Leaf::Fail { lease, failure, usage } => self.fail(lease.as_u64(), failure, usage),
            Leaf::Release { lease, not_before, usage } => self.give_back(lease.as_u64(), *not_before, usage),
            Leaf::Preempt { job, usage } => self.preempt(job.as_u128(), usage),
            Leaf::Cancel { job, usage } => self.cancel(job.as_u128(), usage),
            Leaf::CancelLease { lease, usage } => self.cancel_lease(lease.as_u64(), usage),
            Leaf::CorrectUsage { lease, usage } => self.correct_usage(lease.as_u64(), usage),
            Leaf::Delete { job } => self.delete(job.as_u128()),
            other => panic!("the model does not know the step {other:?}"),
        }
    }

    // --- Transactions ---

    fn transaction(&mut self, group: Group<'_, Step<'_>>) -> Answer {
        let (Group::All(steps) | Group::FirstOf(steps)) = group;
        let counts = steps.iter().map(|step| match step {
            Step::All(leaves) | Step::FirstOf(leaves) => leaves.len().max(1),
            _ => 1,
        });
        if counts.sum::<usize>() > self.config.steps_max as usize {
            return Answer::Error(1403, Some("steps".into()));
        }
        let done = self.group(&group, |model, step| match step {
            Step::All(leaves) => model.group(&Group::All(leaves), Self::step),
            Step::FirstOf(leaves) => model.group(&Group::FirstOf(leaves), Self::step),
            Step::Submit(submit) => model.step(&Leaf::Submit(submit.clone())),
            other => model.step(&as_leaf(other)),
        });
        match done {
            Ok(answer) | Err(Stop::Error(answer)) => answer,
            Err(Stop::NotNow(_)) => Answer::Error(1401, None),
        }
    }

    fn step(&mut self, leaf: &Leaf<'_>) -> Result<Answer, Stop> {
        match self.leaf(leaf) {
            Answer::Wait(until) => Err(Stop::NotNow(until)),
            Answer::Leases(leases) if leases.is_empty() => Err(Stop::NotNow(self.next_deadline())),
            Answer::Error(number, field) => Err(Stop::Error(Answer::Error(number, field))),
            answer => Ok(answer),
        }
    }

    fn group<T>(
        &mut self,
        group: &Group<'_, T>,
        run: impl Fn(&mut Self, &T) -> Result<Answer, Stop>,
    ) -> Result<Answer, Stop> {
        let before = self.clone();
        let no_step = Err(Stop::Error(Answer::Error(1402, None)));
        match group {
            Group::All([]) | Group::FirstOf([]) => no_step,
            Group::All(steps) => {
                let mut answers = Vec::new();
                for step in *steps {
                    match run(self, step) {
                        Ok(answer) => answers.push(answer),
                        Err(stop) => {
                            *self = before;
                            return Err(stop);
                        }
                    }
                }
                Ok(Answer::All(answers))
            }
            Group::FirstOf(steps) => {
                let mut earliest = None;
                for (index, step) in steps.iter().enumerate() {
                    match run(self, step) {
                        Ok(answer) => return Ok(Answer::First(index as u32, Box::new(answer))),
                        Err(stop) => {
                            *self = before.clone();
                            let Stop::NotNow(until) = stop else { return Err(stop) };
                            earliest = [earliest, until].into_iter().flatten().min();
                        }
                    }
                }
                Err(Stop::NotNow(earliest))
            }
        }
    }

    // --- Jobs ---

    fn submit(&mut self, submit: &Submit<'_>) -> Answer {
        if let Some(answer) = self.check_submit(submit) {
            return answer;
        }
        let (room, same) = (waiting_room(&submit.route), fingerprint(submit));
        if let Some(key) = &submit.idempotency_key {
            if let Some(known) = self.promise(&submit.customer, key) {
                let equal = known.same == same;
                return if equal { Answer::Submitted(known.job) } else { error(401, "idempotency_key") };
            }
        }
        if self.route(&room).is_none() && !self.is_served(&submit.route) {
            return error(402, "route");
        }
        if self.job(submit.id.as_u128()).is_some() {
            return error(403, "id");
        }
        let policy = self.policy(&submit.customer);
        if policy.rate.is_some_and(|rate| submit.tokens > rate.burst()) {
            return error(204, "tokens");
        }
        let full = |what: &str| error(301, what);
        if self.count(&submit.customer, JobState::Queued) >= policy.queued_max {
            return full("queued");
        }
        if self.live() + self.outbox.bills.len() >= self.config.jobs_max as usize {
            return full("jobs");
        }
        let (new_customer, new_route) = (self.customer(&submit.customer).is_none(), self.route(&room).is_none());
        if new_customer && self.customers.len() >= self.config.customers_max as usize {
            return full("customers");
        }
        if new_route && self.routes.len() >= self.config.routes_max as usize {
            return full("routes");
        }
        if new_route {
            self.insert_route(&submit.route);
        }
        if new_customer {
            self.insert_customer(&submit.customer, None);
        }
        self.accept(submit, room, same);
        Answer::Submitted(submit.id.as_u128())
    }

    /// What a customer's key stands for now.
    pub(crate) fn promise(&self, customer: &str, key: &str) -> Option<&Promise> {
        let lasts = self.config.idempotency_for.as_nanos();
        let over =
            |own: &&Promise| own.ended.saturating_add(lasts) <= self.now && own.ended.saturating_add(lasts) < u64::MAX;
        let kept = self.kept_keys.iter().filter(|own| !over(own));
        self.keys.iter().chain(kept).find(|own| own.customer == customer && own.key == key)
    }

    fn accept(&mut self, submit: &Submit<'_>, route: String, same: Fingerprint) {
        let (own, default) = (submit.timeouts, self.config.timeouts);
        let clocks = [
            own.queue.or(default.queue),
            own.start.or(default.start),
            own.run.or(default.run),
            own.total.or(default.total),
        ];
        if let Some(key) = &submit.idempotency_key {
            let (customer, key, job) = (submit.customer.to_string(), key.to_string(), submit.id.as_u128());
            self.keys.push(Promise { customer, key, same, job, ended: 0 });
        }
        let begins = submit.not_before.map_or(0, |at| self.clock.meant(at.as_nanos())).max(self.now);
        self.jobs.push(Job {
            id: submit.id.as_u128(),
            customer: submit.customer.to_string(),
            route,
            task: submit.route.task(),
            payload: submit.payload.as_bytes().to_vec(),
            priority: submit.priority.lane(),
            estimate: submit.estimate.map_or(0, libgateway::GpuNanos::as_nanos),
            tokens: submit.tokens,
            affinity: submit.affinity.as_ref().map(ToString::to_string),
            timeouts: clocks.map(|clock| clock.map(|span| span.as_nanos())),
            created: self.now,
            begins,
            sequence: self.next_sequence,
            lane: 0,
            tag: 0,
            cost: 0,
            charge: 0,
            in_line: false,
            returned: false,
            state: JobState::Queued,
            since: self.now,
            started: None,
            hold: if begins > self.now { Hold::Until(begins) } else { Hold::None },
            paid: false,
            attempts: 0,
            requeues: 0,
            losses: 0,
            releases: 0,
            preemptions: 0,
            progress: 0,
            version: 0,
            first_started: None,
            failed_on: Vec::new(),
            lease: None,
            billable: 0,
            absorbed: 0,
            reported: 0,
            unmeasured: 0,
            devices: Vec::new(),
            capped: 0,
            failure: None,
            end: None,
        });
        self.next_sequence += 1;
        let customer = self.customer(&submit.customer).unwrap();
        self.customers[customer].leaves = None;
        self.enqueue(self.jobs.len() - 1, submit.priority.lane(), true);
        self.counters.submitted += 1;
        self.emit(EventKind::Queued(submit.id));
    }

    fn check_submit(&self, submit: &Submit<'_>) -> Option<Answer> {
        let name = |field: &str, text: &str, max: usize| match text.len() {
            0 => Some(error(201, field)),
            len if len > max => Some(error(202, field)),
            _ => text.chars().any(char::is_control).then(|| error(203, field)),
        };
        let timeouts = &submit.timeouts;
        let clocks = [
            ("timeouts.queue", timeouts.queue),
            ("timeouts.start", timeouts.start),
            ("timeouts.run", timeouts.run),
            ("timeouts.total", timeouts.total),
        ];
        let too_long = submit.payload.len() > self.config.payload_len_max as usize;
        name("customer", &submit.customer, 128)
            .or_else(|| too_long.then(|| error(202, "payload")))
            .or_else(|| submit.estimate.filter(|own| own.as_nanos() == 0).map(|_| error(204, "estimate")))
            .or_else(|| submit.affinity.as_ref().and_then(|text| name("affinity", text, 128)))
            .or_else(|| submit.idempotency_key.as_ref().and_then(|text| name("idempotency_key", text, 256)))
            .or_else(|| {
                let zero = clocks.iter().find(|(_, span)| span.is_some_and(|span| span.is_zero()));
                zero.map(|(field, _)| error(204, field))
            })
    }

    pub(crate) fn cancel(&mut self, id: u128, usage: &Usage<'_>) -> Answer {
        let Some(index) = self.job(id) else { return error(601, "job") };
        let devices = money::devices(usage);
        let checked = match self.jobs[index].state {
            JobState::Queued => lease::check_shape(&devices),
            JobState::Running => self.check_usage(index, &devices),
            _ => Ok(()),
        };
        if let Err(answer) = checked {
            return answer;
        }
        let spent = match self.jobs[index].state {
            JobState::Queued => {
                self.dequeue(index);
                Spent::nothing()
            }
            JobState::Running => self.end_attempt(index, None, &devices, self.config.billing.cancelled),
            _ => return error(602, "job"),
        };
        self.finish(index, End::Cancelled(libgateway::CancelReason::Requested), spent);
        Answer::Done
    }

    fn delete(&mut self, id: u128) -> Answer {
        let Some(index) = self.job(id) else { return error(601, "job") };
        if self.jobs[index].end.is_none() {
            return error(603, "job");
        }
        self.forget(id);
        Answer::Done
    }

    // --- The fleet ---

    fn put_backend(&mut self, spec: &Backend) -> Answer {
        if spec.name.is_empty() {
            return error(201, "name");
        }
        if spec.slots == 0 {
            return error(204, "slots");
        }
        let known = self.backends.iter().position(|own| own.name == spec.name);
        if known.is_none() && self.backends.len() >= self.config.backends_max as usize {
            return error(301, "backends");
        }
        let family = format!("{}/{}", spec.modality, spec.family);
        if !self.families.contains(&family) {
            if self.families.len() >= self.config.families_max as usize {
                return error(301, "families");
            }
            self.families.push(family.clone());
        }
        let fresh = Worker {
            name: spec.name.clone(),
            order: self.next_backend,
            family,
            kind: spec.kind,
            models: spec.models.clone(),
            slots: spec.slots,
            devices: spec.devices,
            warm_max: spec.warm_max,
            lease_for: spec.lease_for.map(|span| span.as_nanos()),
            draining: false,
            leaving: false,
            live: 0,
            warm: Vec::new(),
            breaker: Breaker::new(),
            completed: 0,
            failed: 0,
            lost: 0,
        };
        let regrouped = match known {
            Some(index) => !self.backends[index].same_group(&fresh),
            None => !self.backends.iter().any(|own| own.same_group(&fresh)),
        };
        if regrouped {
            self.unpark_all();
        }
        self.with_routes(|model| match known {
            None => {
                model.next_backend += 1;
                model.backends.push(fresh);
            }
            Some(index) => {
                let own = &mut model.backends[index];
                let mut warm = std::mem::take(&mut own.warm);
                warm.drain(..warm.len().saturating_sub(spec.warm_max as usize));
                *own = Worker {
                    order: own.order,
                    live: own.live,
                    warm,
                    breaker: own.breaker.clone(),
                    completed: own.completed,
                    failed: own.failed,
                    lost: own.lost,
                    ..fresh
                };
            }
        });
        Answer::Done
    }

    fn with_backend(&mut self, name: &str, change: impl FnOnce(u64, &mut Worker)) -> Answer {
        let Some(backend) = self.backend(name) else { return error(701, "backend") };
        change(self.now, &mut self.backends[backend]);
        Answer::Done
    }

    fn insert_customer(&mut self, name: &str, policy: Option<CustomerPolicy>) {
        let limit = policy.as_ref().unwrap_or(&self.config.customer).rate;
        let (order, level_at) = (self.next_customer, self.now);
        let level = limit.map_or(0, |limit| Tokens::of(&limit).full());
        self.next_customer += 1;
        let name = name.to_owned();
        self.customers.push(Customer { name, order, policy, level, level_at, wake: None, leaves: None, stays: false });
    }

    fn put_customer(&mut self, name: &str, policy: &CustomerPolicy) -> Answer {
        if name.is_empty() {
            return error(201, "name");
        }
        if policy.weight == 0 {
            return error(204, "weight");
        }
        match self.customer(name) {
            Some(customer) => self.set_policy(customer, Some(policy.clone())),
            None if self.customers.len() >= self.config.customers_max as usize => return error(301, "customers"),
            None => self.insert_customer(name, Some(policy.clone())),
        }
        Answer::Done
    }

    fn remove_customer(&mut self, name: &str) -> Answer {
        match self.customer(name).filter(|customer| self.customers[*customer].policy.is_some()) {
            Some(customer) => self.set_policy(customer, None),
            None if name.is_empty() => return error(201, "customer"),
            None => return error(702, "customer"),
        }
        Answer::Done
    }

    fn set_policy(&mut self, customer: usize, policy: Option<CustomerPolicy>) {
        let now = self.now;
        let old = self.policy(&self.customers[customer].name).rate;
        let new = policy.as_ref().unwrap_or(&self.config.customer).rate;
        let own = &mut self.customers[customer];
        own.policy = policy;
        own.leaves = None;
        match (old, new) {
            (Some(old), Some(new)) => Tokens::of(&new).take_over(&Tokens::of(&old), own, now),
            (None, Some(new)) => (own.level, own.level_at) = (Tokens::of(&new).full(), now),
            (_, None) => {}
        }
        let name = own.name.clone();
        self.wake_all(&name);
    }

    fn pause(&mut self, route: &Route<'_>, paused: bool) -> Answer {
        let name = waiting_room(route);
        if self.route(&name).is_none() {
            if !self.is_served(route) {
                return error(703, "route");
            }
            if !paused {
                return Answer::Done;
            }
            if self.routes.len() >= self.config.routes_max as usize {
                return error(301, "routes");
            }
            self.insert_route(route);
        }
        let known = self.route(&name).unwrap();
        self.unpark_all();
        self.with_routes(|model| model.routes[known].paused = paused);
        Answer::Done
    }

    /// Whether some backend serves a route, be it draining or about to leave.
    pub(crate) fn is_served(&self, route: &Route<'_>) -> bool {
        let family = family_of(route);
        self.backends.iter().any(|own| own.serves(&family, route.model(), route.backend()))
    }

    fn insert_route(&mut self, route: &Route<'_>) {
        let (name, family, model) = (waiting_room(route), family_of(route), route.model().to_owned());
        self.routes.push(Way { name, family, model, kind: route.backend(), paused: false, mean: 0 });
    }
}

/// Why a transaction stops.
enum Stop {
    NotNow(Option<u64>),
    Error(Answer),
}

fn force(breaker: &mut Breaker, state: Option<ForcedState>, until: Option<Timestamp>, now: u64) {
    let until = until.map_or(u64::MAX, |until| until.as_nanos());
    match state {
        None => {
            *breaker = breaker.clone().at(now);
            breaker.release();
        }
        Some(state) => {
            breaker.reopens = 0;
            breaker.enter(if state == ForcedState::Open { Phase::HeldOpen } else { Phase::HeldClosed }, until);
        }
    }
}

/// The name jobs of a route wait under: everything but the task.
pub(crate) fn waiting_room(route: &Route<'_>) -> String {
    let trunk = format!("{}/{}", family_of(route), route.model());
    match route.backend() {
        Some(kind) => format!("{trunk}?backend={}", kind.as_str()),
        None => trunk,
    }
}

fn family_of(route: &Route<'_>) -> String {
    format!("{}/{}", route.modality(), route.family())
}

fn fingerprint(submit: &Submit<'_>) -> Fingerprint {
    (submit.route.as_str().to_owned(), submit.priority.lane(), submit.payload.as_bytes().to_vec())
}

/// The same words, one level down.
fn as_leaf<'a>(step: &Step<'a>) -> Leaf<'a> {
    match step.clone() {
        Step::Submit(submit) => Leaf::Submit(submit),
        Step::Dispatch {} => Leaf::Dispatch {},
        Step::DispatchRoute { route } => Leaf::DispatchRoute { route },
        Step::DispatchTo { backend, max } => Leaf::DispatchTo { backend, max },
        Step::Heartbeat { lease } => Leaf::Heartbeat { lease },
        Step::Progress { lease, progress_ppm } => Leaf::Progress { lease, progress_ppm },
        Step::Complete { lease, output, usage } => Leaf::Complete { lease, output, usage },
        Step::Fail { lease, failure, usage } => Leaf::Fail { lease, failure, usage },
        Step::Release { lease, not_before, usage } => Leaf::Release { lease, not_before, usage },
        Step::Preempt { job, usage } => Leaf::Preempt { job, usage },
        Step::Cancel { job, usage } => Leaf::Cancel { job, usage },
        Step::CancelLease { lease, usage } => Leaf::CancelLease { lease, usage },
        Step::CorrectUsage { lease, usage } => Leaf::CorrectUsage { lease, usage },
        Step::Delete { job } => Leaf::Delete { job },
        other => panic!("{other:?} is a group"),
    }
}
