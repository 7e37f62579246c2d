//! The clock, and what falls due: each deadline is looked for among all there are.

use libgateway::{CancelReason, EventKind, FailureClass, JobId, JobState, Span};

use super::answer::Answer;
use super::clock::{Passed, punctual};
use super::money::{Spent, Tokens};
use super::parts::{Breaker, End, Fault, Hold, Job, Model, Phase, Worker};

/// What falls due, in the order in which it is handled where instants are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Job(u64),
    Customer(u64),
    Backend(u32),
    Outbox,
    Record,
}

impl Model {
    /// Takes a reading of the host's clock and handles what is due. Returns how much, and whether there is more.
    pub(crate) fn tick(&mut self, reading: u64) -> (u32, bool) {
        let awaited = self.next_due().map_or(u64::MAX, |(at, _)| at);
        let never = |at: u64| at == u64::MAX;
        let idle = self.live() == 0 && self.first_to_leave().is_none_or(never);
        let until = |ended: u64, span: Span| ended.saturating_add(span.as_nanos());
        let keys = self.kept_keys.iter().map(|own| until(own.ended, self.config.idempotency_for));
        let late = self.late.iter().map(|own| until(own.ended, self.config.billing.late_usage_for));
        let lost = keys.chain(late).filter(|at| *at > self.now).min().unwrap_or(u64::MAX);
        let harmless = match idle {
            true if never(awaited) => lost,
            true => lost.max(awaited),
            false => awaited,
        };
        let Passed { before, leapt } = self.clock.read(reading, harmless);
        if let Some(leap) = leapt {
            self.counters.clock_leaps += 1;
            self.emit(EventKind::ClockLeapt(Span::from_nanos(leap)));
        }
        let now = self.clock.machine;
        if !punctual(before, now, awaited) {
            self.bridge(before, now > awaited);
        }
        let mut handled = 0;
        while let Some((at, due)) = self.next_due().filter(|(at, _)| *at <= now) {
            if handled == self.config.due_max {
                return (handled, true);
            }
            self.now = self.now.max(at);
            self.handle(due);
            self.tidy();
            handled += 1;
        }
        self.now = now;
        (handled, false)
    }

    pub(crate) fn advance(&mut self, reading: u64) -> Answer {
        let leaps = self.counters.clock_leaps;
        let (handled, more) = self.tick(reading);
        self.tidy();
        let leapt = (self.counters.clock_leaps > leaps).then_some(self.clock.doubted);
        Answer::Advanced { handled, now: self.now, more, leapt, next: self.next_deadline() }
    }

    pub(crate) fn accept_clock(&mut self, reading: u64) {
        self.tick(reading);
        let awaited = self.next_due().map_or(u64::MAX, |(at, _)| at);
        let before = self.clock.machine;
        self.clock.believe();
        self.bridge(before, self.clock.machine > awaited);
    }

    /// The host was silent since `before`: workers get their time again, and what the host missed they did not work.
    fn bridge(&mut self, before: u64, missed: bool) {
        let now = self.clock.machine;
        let silence = now - before;
        for index in 0..self.jobs.len() {
            let [_, _, run, total] = self.clocks(&self.jobs[index]);
            let Some(lease) = &mut self.jobs[index].lease else { continue };
            let (end, long) = (run.min(total), is_long(silence, lease.lease_for));
            let passed = before < end && end <= now && silence > lease.lease_for / 3;
            if missed && (passed || long) && lease.idle.len() < 8 && silence > 0 {
                lease.idle.push(silence);
            }
            if long && lease.spared < 3 {
                lease.spared += 1;
                lease.deadline = lease.deadline.max(now.saturating_add(lease.lease_for));
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.next_due().map(|(at, _)| at.min(self.clock.believes_at()).max(self.now))
    }

    fn next_due(&self) -> Option<(u64, Due)> {
        let jobs = self.jobs.iter().map(|job| (self.deadline_of(job), Due::Job(job.sequence)));
        let customers = self
            .customers
            .iter()
            .flat_map(|own| [own.wake, own.leaves].into_iter().flatten().map(|at| (at, Due::Customer(own.order))));
        let backends = self.backends.iter().map(|own| (own.breaker.deadline, Due::Backend(own.order)));
        let outbox = self.outbox.taken.iter().map(|(_, deadline)| (*deadline, Due::Outbox));
        let record = self.first_to_leave().map(|at| (at, Due::Record));
        let all = jobs.chain(customers).chain(backends).chain(outbox).chain(record);
        all.filter(|(at, _)| *at != u64::MAX).min()
    }

    /// When the first record of an ended job leaves.
    fn first_to_leave(&self) -> Option<u64> {
        let first = self.ended.first()?;
        Some(self.jobs[self.job(*first).unwrap()].since.saturating_add(self.config.retain_for.as_nanos()))
    }

    fn handle(&mut self, due: Due) {
        match due {
            Due::Job(sequence) => {
                let job = self.jobs.iter().position(|job| job.sequence == sequence).unwrap();
                self.handle_job(job);
            }
            Due::Customer(order) => {
                let customer = self.customers.iter().position(|own| own.order == order).unwrap();
                self.handle_customer(customer);
            }
            Due::Backend(order) => {
                let now = self.now;
                let backend = self.backends.iter_mut().find(|own| own.order == order).unwrap();
                backend.breaker = backend.breaker.clone().at(now);
            }
            Due::Outbox => self.return_overdue(),
            Due::Record => {
                let id = self.ended[0];
                self.forget(id);
            }
        }
    }

    /// Queue, start, run and total deadline of a job in its present state.
    fn clocks(&self, job: &Job) -> [u64; 4] {
        let [queue, start, run, total] = job.timeouts;
        let after = |from: u64, span: Option<u64>| span.map_or(u64::MAX, |span| from.saturating_add(span));
        let idle = job.lease.iter().flat_map(|lease| &lease.idle).fold(0, |sum: u64, idle| sum.saturating_add(*idle));
        let (queued, running) = (job.state == JobState::Queued, job.state == JobState::Running);
        [
            after(job.since, queue.filter(|_| queued && !matches!(job.hold, Hold::Until(_)))),
            after(job.begins, start.filter(|_| queued && job.started.is_none())),
            after(job.since, run.filter(|_| running)).saturating_add(idle),
            after(job.begins, total.filter(|_| queued || running)).saturating_add(idle),
        ]
    }

    fn ages_at(&self, job: &Job) -> u64 {
        match self.config.age_after {
            Some(span) if job.state == JobState::Queued && job.lane > 0 && !matches!(job.hold, Hold::Until(_)) => {
                let climbed = u64::from(job.priority - job.lane);
                job.since.saturating_add(span.as_nanos().saturating_mul(climbed + 1))
            }
            _ => u64::MAX,
        }
    }

    fn deadline_of(&self, job: &Job) -> u64 {
        let [queue, start, run, total] = self.clocks(job);
        let lease = job.lease.as_ref().map_or(u64::MAX, |lease| lease.deadline);
        let hold = if let Hold::Until(at) = job.hold { at } else { u64::MAX };
        [queue, start, run, total, lease, hold, self.ages_at(job)].into_iter().min().unwrap()
    }

    /// What ends a job goes before what only moves it.
    fn handle_job(&mut self, index: usize) {
        let now = self.now;
        let job = &self.jobs[index];
        let [queue, start, run, total] = self.clocks(job);
        if job.state == JobState::Running {
            if total <= now {
                let spent = self.end_attempt(index, None, &[], self.config.billing.failed);
                let fault = Fault {
                    class: FailureClass::Timeout,
                    message: "the job's whole time was over".to_owned(),
                    retriable: false,
                };
                self.jobs[index].failure = Some(fault.clone());
                self.finish(index, End::Error(fault), spent);
            } else if run <= now {
                self.fail_attempt(index, FailureClass::Timeout, "the attempt took too long", None, None, &[]);
            } else {
                self.lose_attempt(index, &[]);
            }
            return;
        }
        for (at, reason) in [
            (total, CancelReason::TotalTimeout),
            (start, CancelReason::StartTimeout),
            (queue, CancelReason::QueueTimeout),
        ] {
            if at <= now {
                self.dequeue(index);
                return self.finish(index, End::Cancelled(reason), Spent::nothing());
            }
        }
        match job.hold {
            Hold::Until(at) if at <= now => {
                let job = &mut self.jobs[index];
                job.since = now;
                if job.started.is_none() {
                    // It is as old as if it had been submitted now.
                    job.hold = Hold::None;
                    job.sequence = self.next_sequence;
                    self.next_sequence += 1;
                    let lane = job.lane;
                    return self.enqueue(index, lane, true);
                }
                self.release(index);
            }
            _ => self.age(index),
        }
    }

    fn age(&mut self, index: usize) {
        let hold = self.jobs[index].hold;
        self.dequeue(index);
        let job = &mut self.jobs[index];
        job.state = JobState::Queued;
        job.hold = if matches!(hold, Hold::Until(_)) { hold } else { Hold::None };
        let (id, lane) = (job.id, job.lane - 1);
        self.enqueue(index, lane, false);
        self.counters.aged += 1;
        self.emit(EventKind::Aged(JobId::from_entropy(id)));
    }

    fn handle_customer(&mut self, index: usize) {
        let now = self.now;
        let customer = &self.customers[index];
        if customer.wake.is_some_and(|at| at <= now) {
            let name = customer.name.clone();
            self.customers[index].wake = None;
            return self.wake(&name);
        }
        let limit = customer.policy.as_ref().unwrap_or(&self.config.customer).rate;
        let full = limit.map_or(Some(now), |limit| Tokens::of(&limit).full_at(customer, now));
        match full {
            Some(at) if at <= now => {
                let name = self.customers.remove(index).name;
                self.shares.retain(|share| share.account.0 != name);
            }
            Some(at) => self.customers[index].leaves = Some(at),
            None => (self.customers[index].leaves, self.customers[index].stays) = (None, true),
        }
    }

    /// Bytes of outputs and failure messages.
    fn kept_bytes(&self) -> usize {
        let len = |job: &super::parts::Job| match &job.end {
            Some(End::Complete(output)) => output.len(),
            Some(End::Error(fault)) => fault.message.len(),
            _ => 0,
        };
        self.jobs.iter().map(len).sum()
    }

    /// The end of every command: what nothing refers to any more is let go.
    pub(crate) fn tidy(&mut self) {
        let (now, billing) = (self.now, self.config.billing);
        self.late.retain(|own| own.ended.saturating_add(billing.late_usage_for.as_nanos()) > now);
        self.late.drain(..self.late.len().saturating_sub(billing.late_usage_max as usize));
        while self.ended.len() > self.config.retained_max as usize
            || self.kept_bytes() > self.config.retained_bytes_max as usize
        {
            self.forget(self.ended[0]);
        }
        let surplus = self.kept_keys.len().saturating_sub(self.config.idempotency_keys_max as usize);
        self.kept_keys.drain(..surplus);
        for index in 0..self.customers.len() {
            let idle = self.customers[index].policy.is_none() && !self.refers_to(&self.customers[index].name);
            let leaves = self.now.saturating_add(self.config.customer_idle.as_nanos());
            let customer = &mut self.customers[index];
            if !idle {
                (customer.leaves, customer.stays) = (None, false);
            } else {
                customer.wake = None;
                if customer.leaves.is_none() && !customer.stays {
                    customer.leaves = Some(leaves).filter(|at| *at != u64::MAX);
                }
            }
        }
        let used = |name: &str, model: &Self| {
            model.jobs.iter().any(|job| job.route == name)
                || model.outbox.bills.iter().any(|bill| bill.corrects.is_none() && bill.route == name)
        };
        let idle: Vec<String> = self
            .routes
            .iter()
            .filter(|way| !way.paused && !used(&way.name, self))
            .map(|way| way.name.clone())
            .collect();
        self.routes.retain(|way| !idle.contains(&way.name));
        let is_gone = |own: &Worker| own.leaving && own.live == 0;
        let stays = |other: &Worker| !is_gone(other);
        let regrouped = self
            .backends
            .iter()
            .any(|own| is_gone(own) && !self.backends.iter().any(|other| stays(other) && other.same_group(own)));
        if regrouped {
            self.unpark_all();
        }
        self.with_routes(|model| model.backends.retain(stays));
        let Self { backends, routes, families, shares, virtual_time, .. } = self;
        families.retain(|name| {
            backends.iter().any(|own| own.family == *name) || routes.iter().any(|way| way.family == *name)
        });
        shares.retain(|share| families.contains(&share.account.1));
        virtual_time.retain(|(family, ..)| families.contains(family));
    }
}

/// Whether a silence took more than two thirds of a lease.
fn is_long(silence: u64, lease_for: u64) -> bool {
    silence > lease_for / 3 * 2
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Closed, generation: 0, deadline: u64::MAX, in_a_row: 0, reopens: 0, probes: 0 }
    }

    /// As it stands at an instant if nobody calls.
    pub(crate) fn at(mut self, now: u64) -> Self {
        if self.deadline <= now && self.deadline != u64::MAX {
            self.phase = if self.phase == Phase::HeldClosed { Phase::Closed } else { Phase::HalfOpen };
            self.deadline = u64::MAX;
        }
        self
    }

    /// Whether calls pass. While more is due than one call handles, the end of an open time may not have had its turn.
    pub(crate) fn is_passable(&self) -> bool {
        matches!(self.phase, Phase::Closed | Phase::HeldClosed | Phase::HalfOpen)
    }

    /// The generation of a call that begins, and whether it is a probe.
    pub(crate) fn admit(&mut self, now: u64) -> (u64, bool) {
        *self = self.clone().at(now);
        let probe = self.phase == Phase::HalfOpen;
        if probe {
            self.phase = Phase::Probing;
            self.generation += 1;
        }
        (self.generation, probe)
    }

    pub(crate) fn enter(&mut self, phase: Phase, deadline: u64) {
        (self.phase, self.deadline) = (phase, deadline);
        self.generation += 1;
        (self.in_a_row, self.probes) = (0, 0);
    }

    pub(crate) fn release(&mut self) {
        let phase = if self.phase == Phase::HeldClosed { Phase::Closed } else { Phase::HalfOpen };
        if matches!(self.phase, Phase::HeldClosed | Phase::HeldOpen) {
            (self.phase, self.deadline) = (phase, u64::MAX);
        }
    }
}

impl Model {
    /// Tells a backend's breaker how a call went: `None` says nothing of the backend.
    pub(crate) fn tell_breaker(&mut self, backend: usize, generation: u64, success: Option<bool>) {
        let (now, config) = (self.now, self.config.breaker);
        let breaker = &mut self.backends[backend].breaker;
        *breaker = breaker.clone().at(now);
        if breaker.generation != generation {
            return;
        }
        let open_for = |reopens: u32| {
            let factor = u64::from(config.open_for_factor.get()).saturating_pow(reopens);
            let grown = config.open_for.as_nanos().saturating_mul(factor).min(config.open_for_max.as_nanos());
            now.saturating_add(if factor == 1 { config.open_for.as_nanos() } else { grown })
        };
        match (breaker.phase, success) {
            (Phase::Closed | Phase::HeldClosed, Some(true)) => breaker.in_a_row = 0,
            (Phase::Closed | Phase::HeldClosed, Some(false)) => {
                breaker.in_a_row += 1;
                let full = config.consecutive_failures.is_some_and(|limit| breaker.in_a_row >= limit.get());
                if full && breaker.phase == Phase::Closed {
                    breaker.reopens = 0;
                    breaker.enter(Phase::Open, open_for(0));
                }
            }
            (Phase::Probing, Some(true)) => {
                breaker.probes += 1;
                if breaker.probes >= config.probes_to_close.get() {
                    breaker.reopens = 0;
                    breaker.enter(Phase::Closed, u64::MAX);
                } else {
                    breaker.phase = Phase::HalfOpen;
                }
            }
            (Phase::Probing, Some(false)) => {
                breaker.reopens += 1;
                let until = open_for(breaker.reopens);
                breaker.enter(Phase::Open, until);
            }
            (Phase::Probing, None) => breaker.phase = Phase::HalfOpen,
            _ => {}
        }
    }
}
