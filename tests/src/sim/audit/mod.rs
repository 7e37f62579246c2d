//! The auditor: follows what goes into a gateway and what comes out of it, and keeps books of its own. It knows the
//! rules, not the machine: which deadlines end what, who may start, what it costs.

mod books;
mod idle;
mod ledger;
mod spending;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};

use libgateway::{
    AfterFailure, Backend, Command, Corrected, Event, EventKind, EvictTo, Evicted, Failure, FailureClass, Gateway,
    GatewayConfig, JobId, JobState, Lease, Payer, Reply, Route, Submit, TakenSettlements, Usage,
};

use super::world::Check;
use books::{Account, History, Prices};
use ledger::Ledger;
use spending::Attempt;
pub(in crate::sim) use timeline::Silence;
use timeline::{Job, Live, Now};

pub(super) struct Auditor {
    config: GatewayConfig,
    now: u64,
    /// No instant is told before it: the epoch of the host's clock, in machine time.
    pub(super) earliest: u64,
    /// The latest that ever was: what was told of an instant before it may differ.
    earliest_ever: u64,
    jobs: Vec<Job>,
    /// The latest job of each id.
    by_id: BTreeMap<u128, usize>,
    /// Jobs that have not ended.
    live: BTreeSet<usize>,
    leases: BTreeMap<u64, usize>,
    last_lease: u64,
    fleet: BTreeMap<String, Machine>,
    accounts: BTreeMap<String, Account>,
    paused: BTreeSet<String>,
    prices: History<Prices>,
    ledger: Ledger,
}

/// A backend as the operator described it last.
#[derive(Clone, Debug)]
struct Machine {
    spec: Backend,
    open: bool,
}

impl Auditor {
    pub(super) fn new(config: GatewayConfig, now: u64) -> Self {
        Self {
            config,
            now,
            earliest: 0,
            earliest_ever: 0,
            jobs: Vec::new(),
            by_id: BTreeMap::new(),
            live: BTreeSet::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
            fleet: BTreeMap::new(),
            accounts: BTreeMap::new(),
            paused: BTreeSet::new(),
            prices: History::new(Prices::default(), 0),
            ledger: Ledger::default(),
        }
    }

    /// Hears of a command and its reply. `now` is the machine's time after it; with `more` due, what is due just then may not
    /// have been handled: events will tell.
    pub(super) fn hear(&mut self, now: u64, more: bool, command: &Command<'static>, reply: &Reply) -> Check {
        if now < self.now {
            return Err(format!("time went back from {} to {now}", self.now));
        }
        self.now = now;
        self.earliest_ever = self.earliest_ever.max(self.earliest);
        self.pass_time(if more { now.saturating_sub(1) } else { now });
        self.ledger.pass_time(now);
        match (command, reply) {
            (Command::All(steps), Reply::All(replies)) if steps.len() == replies.len() => {
                for (step, reply) in steps.iter().zip(replies) {
                    self.follow(&alone(step), reply)?;
                }
                Ok(())
            }
            (Command::FirstOf(steps), Reply::First { index, reply }) => match steps.get(*index as usize) {
                Some(step) => self.follow(&alone(step), reply),
                None => Err(format!("step {index} of {} was done", steps.len())),
            },
            (Command::All(_) | Command::FirstOf(_), Reply::Error(_)) => Ok(()),
            _ => self.follow(command, reply),
        }
        .map_err(|wrong| format!("{wrong}\n  after {command:?}\n  replied {reply:?}"))
    }

    fn follow(&mut self, command: &Command<'static>, reply: &Reply) -> Check {
        match (command, reply) {
            (Command::Submit(submit), Reply::Submitted { job }) => self.submitted(submit, job.as_u128()),
            (Command::Submit(submit), Reply::Error(error)) => {
                self.not_submitted(submit, error.number, error.field.as_deref())
            }
            (Command::Dispatch {} | Command::DispatchRoute { .. } | Command::DispatchTo { .. }, _) => {
                self.follow_dispatch(command, reply)
            }
            (
                Command::Heartbeat { lease }
                | Command::Progress { lease, .. }
                | Command::Complete { lease, .. }
                | Command::Fail { lease, .. }
                | Command::Release { lease, .. }
                | Command::CancelLease { lease, .. }
                | Command::CorrectUsage { lease, .. },
                _,
            ) => self.follow_lease(command, lease.as_u64(), reply),
            (Command::Cancel { job, usage }, Reply::Done {}) => self.cancelled(job.as_u128(), usage),
            (Command::Cancel { job, .. }, Reply::Error(error)) => {
                let ended = self.by_id.get(&job.as_u128()).is_none_or(|index| self.jobs[*index].has_ended());
                expect(ended && matches!(error.number, 601 | 602), "a live job cancelled")
            }
            (Command::Preempt { job, usage }, Reply::Preempted { lease }) => {
                let job = job.as_u128();
                self.taken_back(lease.as_u64(), job, usage)?;
                expect(
                    self.jobs[self.by_id[&job]].preemptions <= self.config.preemptions_max,
                    "no job preempted too often",
                )
            }
            (Command::Preempt { job, .. }, Reply::Error(error)) => self.not_preempted(job.as_u128(), error.number),
            (Command::EvictBackend { backend, to }, Reply::Evicted(evicted)) => self.evicted(backend, *to, evicted),
            (Command::Delete { job }, Reply::Done {}) => {
                let ended = self.by_id.get(&job.as_u128()).is_some_and(|index| self.jobs[*index].has_ended());
                expect(ended, "only the record of an ended job deleted")
            }
            (Command::Advance {} | Command::AcceptClock {}, Reply::Advanced(advance)) => {
                expect(advance.now.as_nanos() == self.now, "the machine's time told")
            }
            (Command::TakeSettlements { max }, Reply::Settlements(taken)) => self.taken(*max, taken.as_ref()),
            (Command::ConfirmSettlements { batch }, Reply::Counted { count }) => self.ledger.confirm(*batch, *count),
            (Command::ReturnSettlements { batch }, Reply::Counted { count }) => self.ledger.give_back(*batch, *count),
            (Command::ConfirmSettlements { batch } | Command::ReturnSettlements { batch }, Reply::Error(_)) => {
                expect(!self.ledger.is_out(*batch), "a batch in flight taken")
            }
            (_, Reply::Done {}) => self.operated(command),
            (_, Reply::Error(_)) => Ok(()),
            _ => Err("that is no reply to such a command".to_owned()),
        }
    }

    fn follow_dispatch(&mut self, command: &Command<'static>, reply: &Reply) -> Check {
        match (command, reply) {
            (Command::Dispatch {}, Reply::Leased(lease)) => self.granted(lease),
            (Command::DispatchRoute { route }, Reply::Leased(lease)) => {
                expect(*lease.route == *room(route), "a lease of the route that was asked for")?;
                self.granted(lease)
            }
            (Command::Dispatch {} | Command::DispatchRoute { .. }, Reply::Wait { until }) => {
                self.waits(until.map(|at| at.as_nanos()))
            }
            (Command::DispatchTo { backend, max }, Reply::Leases(leases)) => {
                expect(leases.len() <= *max as usize, "as many leases as were asked for at most")?;
                for lease in leases {
                    expect(*lease.backend == **backend, "leases for the backend that asked")?;
                    expect(lease.route == leases[0].route, "a batch of one route")?;
                    self.granted(lease)?;
                }
                Ok(())
            }
            (_, Reply::Error(_)) => Ok(()),
            _ => Err("that is no reply to a dispatch".to_owned()),
        }
    }

    fn follow_lease(&mut self, command: &Command<'static>, lease: u64, reply: &Reply) -> Check {
        let now = self.now;
        match (command, reply) {
            (Command::Heartbeat { .. } | Command::Progress { .. }, Reply::Extended { deadline }) => {
                let live = self.holder(lease)?.lease.as_mut().ok_or("the holder of a lease has none")?;
                live.deadline = now.saturating_add(live.lease_for);
                live.spared = 0;
                expect(deadline.as_nanos() == live.deadline, "a deadline one lease time from now")
            }
            (Command::Complete { usage, .. }, Reply::Completed(settled)) => {
                let billing = self.config.billing;
                let job = self.holder(lease)?;
                job.end_attempt(now, Attempt::of(usage, Payer::Customer), &billing);
                job.end(JobState::Complete, now);
                let (billed, reported) = (settled.usage.as_nanos(), settled.reported.as_nanos());
                let books = (job.account.billed(), job.account.reported());
                expect(settled.job == job.submit.id && (billed, reported) == books, "the usage recomputed")?;
                expect(settled.capped == job.account.is_capped(), "what is beyond the possible flagged")?;
                let (usage, model, name) = (billed, job.model.clone(), job.submit.customer.to_string());
                let tier = self.account(&name).tier().to_owned();
                let charge = self.prices.latest().charge(&model, &tier, usage);
                expect(
                    settled.charge.map(|charge| charge.as_micros()) == charge,
                    "the charge recomputed from the price book",
                )?;
                self.ended(lease);
                Ok(())
            }
            (Command::Fail { failure, usage, .. }, Reply::Failed(after)) => self.failed(lease, failure, usage, *after),
            (Command::CancelLease { usage, .. }, Reply::Cancelled { job: id }) => {
                expect(self.holder(lease)?.submit.id == *id, "the lease's own job cancelled")?;
                self.cancelled(id.as_u128(), usage)
            }
            (Command::CorrectUsage { usage, .. }, Reply::Corrected(corrected)) => {
                self.corrected(lease, usage, corrected)
            }
            (Command::Release { usage, not_before, .. }, Reply::Released { job: id }) => {
                let at = not_before.map_or(now, |at| at.as_nanos().max(now));
                self.released(lease, *id, at, usage)
            }
            (_, Reply::Error(error)) => self.refused(lease, error.number),
            _ => Err("that is no reply to a word about a lease".to_owned()),
        }
    }

    fn taken(&mut self, max: u32, taken: Option<&TakenSettlements>) -> Check {
        let ended = self.jobs.len() - self.live.len();
        let Some(taken) = taken else { return expect(max == 0 || self.ledger.none_is_free(ended), "what there is") };
        expect(taken.settlements.len() == taken.batch.len as usize, "as many settlements as the batch says")?;
        expect(taken.batch.len <= max, "at most so many settlements")?;
        let deadline = self.now.saturating_add(self.config.settle_within.as_nanos());
        self.ledger.hand_out(taken.batch, deadline)?;
        for own in &taken.settlements {
            if self.ledger.is_new(own, self.earliest_ever)? {
                self.audit(own)?;
            }
        }
        Ok(())
    }

    // --- Jobs ---

    fn submitted(&mut self, submit: &Submit<'static>, id: u128) -> Check {
        if id != submit.id.as_u128() {
            // The job its idempotency key stands for.
            let known = self.by_id.get(&id).map(|index| &self.jobs[*index].submit);
            let same = known.is_some_and(|own| {
                own.idempotency_key.is_some()
                    && (&own.customer, &own.idempotency_key) == (&submit.customer, &submit.idempotency_key)
                    && (&own.route, own.priority, &own.payload) == (&submit.route, submit.priority, &submit.payload)
            });
            return expect(same, "a job that the idempotency key stands for");
        }
        let known = self.by_id.get(&id).map(|index| &self.jobs[*index]);
        if known.is_some_and(|job| !job.gone || self.is_promised(job, submit)) {
            // Sent again under its own key, which may outlive the record.
            return expect(submit.idempotency_key.is_some(), "an id that is taken refused");
        }
        let waiting = self.count(&submit.customer, false);
        let queued_max = self.account(&submit.customer).policy().queued_max;
        expect(waiting < queued_max, "no more waiting jobs than the customer may have")?;
        let room = self.live.len() + self.ledger.unconfirmed(self.jobs.len() - self.live.len());
        expect(room < self.config.jobs_max as usize, "no more jobs and settlements than there is room for")?;
        let job = Job::new(submit.clone(), room_of(submit), &self.config, self.now);
        self.live.insert(self.jobs.len());
        self.by_id.insert(id, self.jobs.len());
        self.jobs.push(job);
        Ok(())
    }

    /// Whether a submission's key still stands for an ended job.
    fn is_promised(&self, job: &Job, submit: &Submit<'static>) -> bool {
        let same = (&job.submit.customer, &job.submit.idempotency_key) == (&submit.customer, &submit.idempotency_key);
        let lasts = self.config.idempotency_for.as_nanos();
        let ended = matches!(job.now, Now::Ended { at, .. } if at.saturating_add(lasts) > self.now);
        same && submit.idempotency_key.is_some() && ended
    }

    fn not_submitted(&mut self, submit: &Submit<'static>, number: u16, field: Option<&str>) -> Check {
        let full = match (number, field) {
            (301, Some("queued")) => {
                self.count(&submit.customer, false) >= self.account(&submit.customer).policy().queued_max
            }
            (301, Some("jobs")) => {
                let ended = self.jobs.len() - self.live.len();
                self.live.len() + self.ledger.unconfirmed(ended) >= self.config.jobs_max as usize
            }
            (403, _) => self.by_id.contains_key(&submit.id.as_u128()),
            (401 | 402, _) | (301, _) => true,
            _ => false,
        };
        expect(full, "a submission refused for a reason that holds")
    }

    fn granted(&mut self, lease: &Lease) -> Check {
        let (now, id) = (self.now, lease.id.as_u64());
        expect(id > self.last_lease, "a lease number that was never used")?;
        self.last_lease = id;
        let index = *self.by_id.get(&lease.job.as_u128()).ok_or("a job nobody submitted was leased")?;
        let job = &self.jobs[index];
        expect(job.is_waiting(), "only a waiting job leased")?;
        let Now::Waiting { hold, .. } = job.now else { return Err("the job does not wait".to_owned()) };
        expect(now >= hold.0, "a retry not before its time")?;
        let submit = &job.submit;
        expect(*lease.customer == *submit.customer && *lease.route == *job.room, "customer and route of the job")?;
        expect(lease.payload == submit.payload && lease.task == submit.route.task(), "payload and task of the job")?;
        expect(lease.attempt == job.attempts + job.requeues + 1, "the number of the attempt")?;
        expect(!self.paused.contains(&job.room), "no job of a paused route started")?;
        self.check_order(index)?;

        let machine = self.fleet.get(&*lease.backend).ok_or("a backend nobody declared got a lease")?;
        expect(machine.open, "no lease for a backend that drains or was removed")?;
        expect(machine.serves(job), "a backend that serves the route")?;
        let busy = self.busy(&lease.backend);
        expect(busy < machine.spec.slots as usize, "no more leases than the backend has slots")?;
        let lease_for = machine.spec.lease_for.unwrap_or(self.config.lease_for).as_nanos();
        let deadline = now.saturating_add(lease_for);
        expect(lease.deadline.as_nanos() == deadline, "a deadline one lease time from now")?;

        let gpus = u64::from(machine.spec.devices);
        let running = self.count(&submit.customer, true);
        let (customer, cost) = (submit.customer.to_string(), if job.paid { 0 } else { submit.tokens });
        let account = self.account(&customer);
        expect(running < account.policy().running_max, "no more running jobs than the customer may have")?;
        expect(account.take(cost, now), "no more starts than the rate allows")?;
        let backend = lease.backend.to_string();
        self.jobs[index]
            .start(now, Live { backend, granted: now, deadline, lease_for, gpus, id, spared: 0, idle: Vec::new() });
        self.leases.insert(id, index);
        Ok(())
    }

    /// Within a customer, lane and route, jobs that may run start in order of submission, also those that came back. One that
    /// has climbed to another lane by waiting stands apart, and so does one that was submitted for later.
    fn check_order(&self, index: usize) -> Check {
        let job = &self.jobs[index];
        let ages = |job: &Job| self.config.age_after.is_some_and(|span| self.now >= job.begins + span.as_nanos());
        let passed = self.live.iter().map(|other| (*other, &self.jobs[*other])).find(|(other, own)| {
            *other < index
                && matches!(own.now, Now::Waiting { hold, .. } if hold.1 <= self.now)
                && own.begins == own.created
                && (&own.submit.customer, own.submit.priority, &own.room)
                    == (&job.submit.customer, job.submit.priority, &job.room)
                && !ages(own)
        });
        match passed {
            Some((_, own)) if !ages(job) && job.begins == job.created => {
                Err(format!("{} started before {}", job.submit.id, own.submit.id))
            }
            _ => Ok(()),
        }
    }

    fn failed(&mut self, lease: u64, failure: &Failure, usage: &Usage<'_>, after: AfterFailure) -> Check {
        let (now, billing) = (self.now, self.config.billing);
        let backoff = self.config.backoff;
        let job = self.holder(lease)?;
        job.end_attempt(now, Attempt::of(usage, billing.failed), &billing);
        job.attempts += 1;
        let retriable = failure.retriable.unwrap_or(match failure.class {
            FailureClass::Timeout | FailureClass::Connection | FailureClass::Network => true,
            FailureClass::Http(429) => failure.retry_after.is_some(),
            FailureClass::Http(status) => matches!(status, 500 | 502 | 503 | 504),
            _ => false,
        });
        let again = retriable && job.attempts <= backoff.retries;
        match after {
            AfterFailure::Retry { at } => {
                expect(again, "no attempt after one that ends the job")?;
                let (low, high) = timeline::wait(&backoff, job.attempts, failure.retry_after);
                let waits = at.as_nanos() - now;
                expect((low..=high).contains(&waits), "a wait within the schedule")?;
                job.wait(now, (at.as_nanos(), at.as_nanos()));
                self.leases.remove(&lease);
                Ok(())
            }
            _ => {
                expect(!again, "another attempt where one is left")?;
                job.end(JobState::Error, now);
                self.ended(lease);
                Ok(())
            }
        }
    }

    /// A lease that a worker may not speak of any more must indeed have ended.
    fn refused(&self, lease: u64, number: u16) -> Check {
        match number {
            511 => expect(self.leases.contains_key(&lease), "a live lease told of with its result"),
            512 => {
                let line = self.jobs.iter().find_map(|job| job.account.lines.get(&lease));
                let over = |at: u64| at.saturating_add(self.config.billing.late_usage_for.as_nanos()) <= self.now;
                expect(line.is_some_and(|line| over(line.at)), "a usage taken within its time")
            }
            501 => expect(!self.leases.contains_key(&lease) && lease <= self.last_lease, "a live lease heard"),
            502 => expect(lease == 0 || lease > self.last_lease, "a lease that was granted known"),
            _ => Ok(()),
        }
    }

    /// A usage told late: the books say from now on what was told last.
    fn corrected(&mut self, lease: u64, usage: &Usage<'_>, corrected: &Corrected) -> Check {
        let (now, billing) = (self.now, self.config.billing);
        let holder = self.jobs.iter_mut().find(|job| job.account.lines.contains_key(&lease));
        let job = holder.ok_or("a lease that has not ended corrected")?;
        let line = job.account.lines.get_mut(&lease).ok_or("a lease without a line in the books")?;
        expect(now < line.at.saturating_add(billing.late_usage_for.as_nanos()), "no correction after its time")?;
        let old = *line;
        line.tell(Some(usage), &billing);
        let new = *line;
        let told = (corrected.reported.as_nanos(), corrected.billed.as_nanos(), corrected.capped);
        expect(told == (new.reported, new.billed, new.reported > new.billed), "a late usage capped as any other")?;
        let settled = job.has_ended() && old.billed != new.billed;
        expect(
            settled == corrected.settlement.is_some(),
            "an entry exactly for a settled job that comes to another sum",
        )?;
        if let Some(number) = corrected.settlement {
            self.ledger.expect_correction(number, lease, (old, new), now);
        }
        Ok(())
    }

    fn cancelled(&mut self, id: u128, usage: &Usage<'_>) -> Check {
        let index = *self.by_id.get(&id).ok_or("a job nobody submitted was cancelled")?;
        let (now, billing) = (self.now, self.config.billing);
        let job = &mut self.jobs[index];
        expect(!job.has_ended(), "only a live job cancelled")?;
        job.end_attempt(now, Attempt::of(usage, billing.cancelled), &billing);
        job.end(JobState::Cancelled, now);
        self.leases.retain(|_, holder| *holder != index);
        self.live.remove(&index);
        Ok(())
    }

    /// A lease that its worker gave back.
    fn released(&mut self, lease: u64, id: JobId, at: u64, usage: &Usage<'_>) -> Check {
        let (now, billing, releases_max) = (self.now, self.config.billing, self.config.releases_max);
        let job = self.holder(lease)?;
        expect(job.submit.id == id, "the lease's own job released")?;
        job.end_attempt(now, Attempt::of(usage, billing.released), &billing);
        job.releases += 1;
        if job.releases > releases_max {
            job.end(JobState::Error, now);
            self.ended(lease);
        } else {
            job.requeues += 1;
            job.wait(now, (at, at));
            self.leases.remove(&lease);
        }
        Ok(())
    }

    /// A lease that the host took back.
    fn taken_back(&mut self, lease: u64, id: u128, usage: &Usage<'_>) -> Check {
        let (now, billing) = (self.now, self.config.billing);
        let job = self.holder(lease)?;
        expect(job.submit.id.as_u128() == id, "the lease of its job taken back")?;
        job.end_attempt(now, Attempt::of(usage, billing.preempted), &billing);
        job.preemptions += 1;
        job.requeues += 1;
        job.wait(now, (now, now));
        self.leases.remove(&lease);
        Ok(())
    }

    fn not_preempted(&self, id: u128, number: u16) -> Check {
        let job = self.by_id.get(&id).map(|index| &self.jobs[*index]);
        let right = match number {
            601 => job.is_none_or(Job::has_ended),
            602 => job.is_some_and(Job::has_ended),
            604 => job.is_some_and(Job::is_waiting),
            606 => job.is_some_and(|job| job.lease.is_some() && job.preemptions >= self.config.preemptions_max),
            _ => false,
        };
        expect(right, "a job that runs preempted")
    }

    /// Every lease of the backend ended, and no other.
    fn evicted(&mut self, backend: &str, to: EvictTo, evicted: &[Evicted]) -> Check {
        expect(evicted.len() == self.busy(backend), "every lease of the backend evicted")?;
        let (now, billing) = (self.now, self.config.billing);
        let mut before = 0;
        for own in evicted {
            let lease = own.lease.as_u64();
            let live = self.holder(lease)?.lease.clone().ok_or("the holder of a lease has none")?;
            expect(live.backend == backend && live.granted >= before, "leases of the backend, as they were granted")?;
            before = live.granted;
            if to == EvictTo::Queue {
                self.taken_back(lease, own.job.as_u128(), &Usage::unmeasured())?;
                continue;
            }
            let job = self.holder(lease)?;
            job.end_attempt(now, Attempt::unmeasured(billing.preempted), &billing);
            job.end(JobState::Error, now);
            self.ended(lease);
        }
        Ok(())
    }

    fn holder(&mut self, lease: u64) -> Check<&mut Job> {
        let index =
            *self.leases.get(&lease).ok_or_else(|| format!("lease {lease} has ended and was heard all the same"))?;
        Ok(&mut self.jobs[index])
    }

    /// The job of that lease has come to its end.
    fn ended(&mut self, lease: u64) {
        if let Some(index) = self.leases.remove(&lease) {
            self.live.remove(&index);
        }
    }

    // --- The fleet ---

    fn operated(&mut self, command: &Command<'static>) -> Check {
        let now = self.now;
        match command {
            Command::PutBackend(spec) => {
                self.fleet.insert(spec.name.clone(), Machine { spec: spec.clone(), open: true });
            }
            Command::RemoveBackend { backend } => self.machine(backend)?.open = false,
            Command::DrainBackend { backend, draining } => self.machine(backend)?.open = !draining,
            Command::ForceBreaker { backend, .. } => drop(self.machine(backend)?),
            Command::PutCustomer { customer, policy } => {
                let fresh = !self.is_known(customer);
                self.account(customer).set_policy(Some(policy.clone()), now, fresh);
            }
            Command::RemoveCustomer { customer } => self.account(customer).set_policy(None, now, false),
            Command::Pause { route } => drop(self.paused.insert(room(route))),
            Command::Resume { route } => drop(self.paused.remove(&room(route))),
            Command::PutPrices(book) => self.prices.change(Prices::of(book), now),
            _ => return Err("that is no reply to such a command".to_owned()),
        }
        Ok(())
    }

    fn machine(&mut self, name: &str) -> Check<&mut Machine> {
        self.fleet.get_mut(name).ok_or_else(|| format!("{name} is known, and nobody declared it"))
    }

    /// Whether the gateway must have a record of the customer still.
    fn is_known(&self, name: &str) -> bool {
        let live = self.live.iter().any(|index| self.jobs[*index].submit.customer == name);
        live || self.accounts.get(name).is_some_and(Account::has_policy)
    }

    fn account(&mut self, name: &str) -> &mut Account {
        let (config, now) = (&self.config, self.now);
        self.accounts.entry(name.to_owned()).or_insert_with(|| Account::new(config.customer.clone(), now))
    }

    /// Jobs of a customer that run, or that wait.
    fn count(&self, customer: &str, running: bool) -> u32 {
        let own = self.live.iter().map(|index| &self.jobs[*index]).filter(|job| job.submit.customer == customer);
        own.filter(|job| job.lease.is_some() == running).count() as u32
    }

    fn busy(&self, backend: &str) -> usize {
        let on = |index: &&usize| self.jobs[**index].lease.as_ref().is_some_and(|live| live.backend == backend);
        self.leases.values().filter(on).count()
    }

    // --- Events ---

    /// Each job is told to have ended once, and as its reply says.
    pub(super) fn hear_events(&mut self, events: &[Event]) -> Check {
        for event in events {
            if let EventKind::Ended(id, _) | EventKind::Requeued(id) | EventKind::Retried(id) = &event.kind {
                if let Some(index) = self.by_id.get(&id.as_u128()).copied() {
                    self.pass_time_of(index, event.at.as_nanos());
                }
            }
            let index = |id: &libgateway::JobId| self.by_id.get(&id.as_u128()).copied();
            match &event.kind {
                EventKind::Ended(id, state) => {
                    let job = index(id).and_then(|index| self.jobs.get_mut(index)).ok_or("a strange job ended")?;
                    let told =
                        matches!(job.now, Now::Ended { state: own, at } if own == *state && at == event.at.as_nanos());
                    expect(
                        told && !job.end_told,
                        &format!("the end of {id} told once, as it was: {:?}, told {event:?}", job.now),
                    )?;
                    job.end_told = true;
                }
                EventKind::Forgotten(id) => {
                    let job = index(id).and_then(|index| self.jobs.get_mut(index)).ok_or("a strange job left")?;
                    expect(job.end_told && !job.gone, &format!("{id} forgotten once, after its end"))?;
                    job.gone = true;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The end of the run: nothing may be open.
    pub(super) fn close(&mut self, gateway: &Gateway) -> Check {
        expect(self.live.is_empty() && self.leases.is_empty(), "every job ended")?;
        for job in &self.jobs {
            expect(job.end_told, &format!("the end of {} told", job.submit.id))?;
            expect(job.settlement.is_some(), &format!("{} settled", job.submit.id))?;
        }
        let stats = gateway.stats();
        let corrections = self.ledger.corrections();
        expect(stats.counters.corrections == corrections, "the number of corrections")?;
        expect(
            self.ledger.all_confirmed() == self.jobs.len() as u64 + corrections,
            "one first settlement for each job, and its corrections",
        )?;
        expect(stats.charged_micros == self.ledger.charged, "the sum of all charges")?;
        expect(stats.credited_micros == self.ledger.credited, "the sum of all that was given back")?;
        self.balance()?;
        expect(stats.counters.submitted == self.jobs.len() as u64, "the number of jobs")
    }
}

impl Machine {
    fn serves(&self, job: &Job) -> bool {
        let route = &job.submit.route;
        let models = match &self.spec.models {
            libgateway::Models::All => true,
            libgateway::Models::Only(models) => models.iter().any(|model| model == route.model()),
        };
        models
            && (self.spec.modality.as_str(), self.spec.family.as_str()) == (route.modality(), route.family())
            && route.backend().is_none_or(|kind| kind == self.spec.kind)
    }
}

fn expect(holds: bool, what: &str) -> Check {
    if holds { Ok(()) } else { Err(format!("expected: {what}")) }
}

fn room_of(submit: &Submit<'_>) -> String {
    room(&submit.route)
}

/// Where jobs of a route wait: modality, family, model, and the engine where one is wanted.
fn room(route: &Route<'_>) -> String {
    let trunk = format!("{}/{}/{}", route.modality(), route.family(), route.model());
    route.backend().map_or(trunk.clone(), |kind| format!("{trunk}?backend={}", kind.as_str()))
}

fn alone(step: &libgateway::Step<'static>) -> Command<'static> {
    use libgateway::Step;
    match step.clone() {
        Step::Submit(submit) => Command::Submit(submit),
        Step::Dispatch {} => Command::Dispatch {},
        Step::DispatchRoute { route } => Command::DispatchRoute { route },
        Step::DispatchTo { backend, max } => Command::DispatchTo { backend, max },
        Step::Complete { lease, output, usage } => Command::Complete { lease, output, usage },
        Step::Preempt { job, usage } => Command::Preempt { job, usage },
        other => panic!("the world does not use {other:?}"),
    }
}
