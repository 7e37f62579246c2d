//! The world: what happens next, who says what to the gateway, and what goes wrong on the way.

mod faults;
mod time;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use libgateway::{
    Batch, Command, CustomerPolicy, Entry, Event, Gateway, JobId, Lease, LeaseId, Money, RateLimit, Reply, Route,
    Settlement, Step, Submit, Timestamp,
};

use super::audit::Auditor;
use super::options::{Options, ROUTES, SECOND};
use super::{Machine, Outcome};
use crate::difference;
use crate::model::HostClock;
use crate::rng::{Rng, replayed};
use time::{by_machine, told_by_machine};

/// A gap between what the gateway is told or answers and what the auditor hears: a machine that does not do as it is
/// told, without touching the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disguise {
    /// Some settlements cost a micro-unit more than they should.
    Overcharge,
    /// Customers may start more jobs than their policy says.
    FasterRate,
    /// Backends are given one job more than they have slots.
    Overbooked,
    /// Some jobs are handed to a second worker while the first one works.
    TwiceLeased,
    /// Some settlements are never handed out.
    LostSettlement,
}

/// What happens at an instant of true time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Submit,
    Heartbeat(u64),
    Finish(u64),
    Late(u64, u64),
    Collect,
    Confirm(Batch),
    Fault,
}

/// A lease as its worker sees it.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) lease: Lease,
    pub(super) granted: u64,
    pub(super) ends_well: bool,
    /// Whether the worker tells that it lives.
    pub(super) beats: bool,
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) rng: Rng,
    restarts: Rng,
    pub(super) machine: Machine,
    pub(super) gateway: Gateway,
    pub(super) auditor: Option<Auditor>,
    /// True time, and what the host's clock is ahead of it.
    pub(super) time: u64,
    pub(super) skew: i64,
    /// What the clock shows once, whatever the time.
    pub(super) wild: Option<u64>,
    /// The machine's time as the rules say it is.
    pub(super) clock: HostClock,
    /// When the host wakes: it sleeps for as long as the gateway said, by a clock that does not step.
    wakes: Option<u64>,
    agenda: BTreeMap<(u64, u64), Happening>,
    happened: u64,
    pub(super) works: BTreeMap<u64, Work>,
    pub(super) jobs: Vec<JobId>,
    pub(super) submitted: u32,
    pub(super) last_submit: Option<Submit<'static>>,
    pub(super) batches: Vec<Batch>,
    /// What each customer may do, by the operator's latest word.
    pub(super) policies: BTreeMap<String, CustomerPolicy>,
    /// Backends that fail every call.
    pub(super) dead: BTreeSet<String>,
    pub(super) book: u32,
    /// Whether the faults have stopped.
    pub(super) calm: bool,
    replies: u64,
    pub(super) commands: u32,
    restarted: u32,
    errors: BTreeMap<u16, u32>,
    loud: bool,
}

pub(super) type Check<T = ()> = Result<T, String>;

const START: u64 = 1_700_000_000 * SECOND;
/// A run with more commands has lost its way.
const COMMANDS_MAX: u32 = 100_000;

impl World {
    pub(super) fn new(mut options: Options, machine: Machine, restarts: Rng) -> Self {
        let gateway = Gateway::new(options.config.clone(), Timestamp::from_nanos(START)).unwrap();
        let auditor = Some(Auditor::new(options.config.clone(), START));
        let mut world = Self {
            rng: options.rng.fork(),
            restarts,
            machine,
            gateway,
            auditor,
            time: START,
            skew: 0,
            wild: None,
            clock: HostClock::new(START, options.config.clock_jump_max.as_nanos()),
            wakes: None,
            agenda: BTreeMap::new(),
            happened: 0,
            works: BTreeMap::new(),
            jobs: Vec::new(),
            submitted: 0,
            last_submit: None,
            batches: Vec::new(),
            policies: BTreeMap::new(),
            dead: BTreeSet::new(),
            book: 0,
            calm: false,
            replies: 0,
            commands: 0,
            restarted: 0,
            errors: BTreeMap::new(),
            loud: replayed().is_some(),
            options,
        };
        world.plant();
        world
    }

    pub(super) fn without_auditor(mut self) -> Self {
        self.auditor = None;
        self.loud = false;
        self
    }

    pub(super) fn run(mut self) -> Check<Outcome> {
        if self.loud {
            println!("{:#?}", self.options);
        }
        self.open()?;
        let end = START + self.options.length;
        while self.time < end || self.submitted < self.options.jobs {
            self.step()?;
        }
        self.rest()?;
        if let Some(auditor) = &mut self.auditor {
            auditor.close(&self.gateway)?;
        }
        Ok(Outcome {
            digest: self.gateway.digest(),
            state: self.gateway.snapshot_json(),
            replies: self.replies,
            commands: self.commands,
            restarts: self.restarted,
            counters: self.gateway.stats().counters,
            errors: self.errors,
        })
    }

    fn open(&mut self) -> Check {
        for backend in self.options.backends.clone() {
            self.call(Command::PutBackend(backend))?;
        }
        for (name, policy) in self.options.customers.clone() {
            if let Some(policy) = policy {
                self.call(Command::PutCustomer { customer: name.into(), policy })?;
            }
        }
        self.put_prices()?;
        self.later(0, Happening::Submit);
        self.later(SECOND, Happening::Collect);
        let gap = self.rng.below(2 * self.options.fault_gap);
        self.later(gap, Happening::Fault);
        Ok(())
    }

    /// Goes on to the next thing: something that happens, or the instant the gateway asked to be called at.
    pub(super) fn step(&mut self) -> Check {
        let wake = self.wake_at();
        let next = self.agenda.first_key_value().map(|((at, number), _)| (*at, *number));
        match (next, wake) {
            (Some((at, number)), wake) if wake.is_none_or(|wake| at < wake) => {
                self.time = self.time.max(at);
                let happening = self.agenda.remove(&(at, number)).unwrap();
                self.happen(happening)?;
            }
            (_, Some(wake)) => {
                self.time = self.time.max(wake);
                self.call(Command::Advance {})?;
            }
            (_, None) => return Err("nothing happens any more, and the run is not over".to_owned()),
        }
        self.dispatch_all()
    }

    /// When, in true time, the gateway's next deadline is.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.wakes
    }

    pub(super) fn later(&mut self, delay: u64, happening: Happening) {
        self.happened += 1;
        self.agenda.insert((self.time + delay, self.happened), happening);
    }

    fn happen(&mut self, happening: Happening) -> Check {
        match happening {
            Happening::Submit => self.submit_some(),
            Happening::Heartbeat(lease) => self.beat(lease),
            Happening::Finish(lease) => self.finish(lease),
            Happening::Late(lease, nanos) => self.tell_late(lease, nanos),
            Happening::Collect => self.collect(),
            Happening::Confirm(batch) => self.call(Command::ConfirmSettlements { batch }).map(|_| ()),
            Happening::Fault => self.fault(),
        }
    }

    // --- Talking to the gateway ---

    /// Gives a command, lets the auditor hear of it, and restarts the gateway now and then.
    pub(super) fn call(&mut self, command: Command<'static>) -> Check<Reply> {
        if self.options.config.due_max < 1_024 {
            self.catch_up()?;
        }
        if self.restarts.below(1_000) < self.options.restarts {
            self.restart()?;
        }
        if !self.calm && self.rng.percent(4) {
            return self.call_guarded(command);
        }
        self.apply(command)
    }

    /// A command that is refused must have changed nothing.
    fn call_guarded(&mut self, command: Command<'static>) -> Check<Reply> {
        self.catch_up()?;
        let (before, clock) = (self.gateway.snapshot_json(), self.clock);
        let told = command.clone();
        let reply = self.apply(command)?;
        // A step that was on trial may be believed now, and time passes.
        if reply.error().is_some() && self.clock == clock {
            let after = self.gateway.snapshot_json();
            if after != before {
                return Err(format!("{told:?} was refused and changed something: {}", difference(&before, &after)));
            }
        }
        Ok(reply)
    }

    /// With more due than one call handles, the host calls again at once.
    fn catch_up(&mut self) -> Check {
        while let Reply::Advanced(advance) = self.apply(Command::Advance {})? {
            if !advance.more {
                break;
            }
        }
        Ok(())
    }

    fn apply(&mut self, command: Command<'static>) -> Check<Reply> {
        self.commands += 1;
        if self.commands > COMMANDS_MAX {
            return Err("the run does not end".to_owned());
        }
        let reading = self.next_reading();
        let now = Timestamp::from_nanos(reading);
        let silences = self.read_clock(reading, &command);
        let mut reply = self.gateway.apply(Entry::new(now, self.disguised(&command)));
        if self.loud {
            println!("{:>12} {command:?}\n             -> {reply:?}", self.time - START);
        }
        self.note_policy(&command, &reply);
        if let Some(error) = reply.error() {
            *self.errors.entry(error.number).or_default() += 1;
        }
        self.distort(&mut reply);
        for byte in reply.to_json().bytes() {
            self.replies = (self.replies ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let next = self.gateway.next_deadline();
        self.wakes = next.map(|at| self.time.saturating_add(at.since(now).as_nanos()));
        if let Some(auditor) = &mut self.auditor {
            let now = self.clock.meant(self.gateway.now().as_nanos());
            silences.iter().for_each(|silence| auditor.bridge(silence));
            auditor.earliest = self.clock.meant(0);
            let more = self.gateway.next_deadline().is_some_and(|at| at <= self.gateway.now());
            let (command, reply) = (told_by_machine(command, &self.clock), by_machine(reply.clone(), &self.clock));
            auditor.hear(now, more, &command, &reply)?;
        }
        self.check_sometimes()?;
        Ok(reply)
    }

    fn note_policy(&mut self, command: &Command<'static>, reply: &Reply) {
        match (command, reply) {
            (Command::PutCustomer { customer, policy }, Reply::Done {}) => {
                self.policies.insert(customer.to_string(), policy.clone());
            }
            (Command::RemoveCustomer { customer }, Reply::Done {}) => drop(self.policies.remove(&**customer)),
            _ => {}
        }
    }

    fn check_sometimes(&mut self) -> Check {
        if self.machine == Machine::Honest && self.auditor.is_some() && self.commands % 64 == 0 {
            self.gateway.check_invariants();
        }
        let mut events = Vec::new();
        while let Some(event) = self.gateway.poll_event() {
            let at = Timestamp::from_nanos(self.clock.meant(event.at.as_nanos()));
            events.push(Event { at, ..event });
        }
        match &mut self.auditor {
            Some(auditor) => auditor.hear_events(&events),
            None => Ok(()),
        }
    }

    fn restart(&mut self) -> Check {
        let bytes = self.gateway.snapshot();
        let restored = Gateway::replica(&bytes).map_err(|error| format!("the snapshot is refused: {error}"))?;
        if restored.digest() != self.gateway.digest() {
            return Err("a restored gateway is another one".to_owned());
        }
        self.gateway = restored;
        self.restarted += 1;
        self.plant();
        Ok(())
    }

    fn plant(&mut self) {
        if let Machine::Planted(plant) = self.machine {
            self.gateway.plant(plant);
        }
    }

    /// What the gateway hears of a command.
    fn disguised(&self, command: &Command<'static>) -> Command<'static> {
        let mut command = command.clone();
        match (self.machine, &mut command) {
            (Machine::Disguised(Disguise::FasterRate), Command::PutCustomer { policy, .. }) => {
                policy.rate =
                    policy.rate.map(|rate| RateLimit::new(2 * rate.amount(), rate.per(), rate.burst()).unwrap());
            }
            (Machine::Disguised(Disguise::Overbooked), Command::PutBackend(backend)) => backend.slots += 1,
            _ => {}
        }
        command
    }

    /// What the world hears of a reply.
    fn distort(&self, reply: &mut Reply) {
        let Machine::Disguised(disguise) = self.machine else { return };
        match (disguise, reply) {
            (Disguise::Overcharge, Reply::Settlements(Some(taken))) => {
                for own in taken.settlements.iter_mut().filter(|own| own.number % 8 == 0) {
                    own.charge = own.charge.map(|charge| Money::from_micros(charge.as_micros() + 1));
                }
            }
            (Disguise::LostSettlement, Reply::Settlements(Some(taken))) => {
                taken.settlements.retain(|own: &Settlement| own.number % 8 != 0);
            }
            (Disguise::TwiceLeased, reply @ Reply::Wait { .. }) => {
                // Somebody works already, and somebody else is told to do the same.
                if let Some(work) = self.works.values().find(|work| work.lease.id.as_u64() % 8 == 0) {
                    let mut lease = work.lease.clone();
                    lease.id = LeaseId::from_u64(lease.id.as_u64() + 1_000_000);
                    *reply = Reply::Leased(lease);
                }
            }
            _ => {}
        }
    }

    // --- Dispatching ---

    /// Hands out whatever can run, and then looks whether something was left.
    fn dispatch_all(&mut self) -> Check {
        if self.options.pull {
            for backend in self.options.backends.clone() {
                if self.rng.percent(50) {
                    let max = self.rng.within(0, 4) as u32;
                    let reply = self.call(Command::DispatchTo { backend: backend.name.into(), max })?;
                    self.begin_all(&reply);
                }
            }
        }
        if self.rng.percent(10) {
            let route = Route::parse(ROUTES[self.rng.below(ROUTES.len() as u64) as usize]).unwrap();
            let reply = self.call(Command::DispatchRoute { route })?;
            self.begin_all(&reply);
        }
        loop {
            let reply = self.call(Command::Dispatch {})?;
            self.begin_all(&reply);
            // A wild reading that is followed by a right one may leave more due than one call handles.
            let due = self.gateway.next_deadline().is_some_and(|at| at <= self.gateway.now());
            match reply {
                Reply::Wait { .. } if due => self.catch_up()?,
                Reply::Wait { .. } => break,
                _ => {}
            }
        }
        match &mut self.auditor {
            Some(auditor) => {
                let next = self.gateway.next_deadline().map(|at| self.clock.meant(at.as_nanos()));
                auditor.check_idle(&self.gateway, next)
            }
            None => Ok(()),
        }
    }

    /// Gives several commands as one, or the first of them that can be done.
    pub(super) fn call_together(&mut self, commands: Vec<Command<'static>>, all: bool) -> Check {
        let steps: Vec<Step<'static>> = commands.into_iter().map(step).collect();
        let reply = self.call(if all { Command::All(steps) } else { Command::FirstOf(steps) })?;
        match reply {
            Reply::All(replies) => replies.iter().for_each(|reply| self.take_in(reply)),
            Reply::First { reply, .. } => self.take_in(&reply),
            _ => {}
        }
        Ok(())
    }

    /// What a reply brings: a job to remember, or work.
    pub(super) fn take_in(&mut self, reply: &Reply) {
        match reply {
            Reply::Submitted { job } if !self.jobs.contains(job) => self.jobs.push(*job),
            reply => self.begin_all(reply),
        }
    }

    pub(super) fn any_job(&mut self) -> Option<JobId> {
        let len = self.jobs.len() as u64;
        (len > 0).then(|| self.jobs[self.rng.below(len) as usize])
    }
}

fn step(command: Command<'static>) -> Step<'static> {
    match command {
        Command::Submit(submit) => Step::Submit(submit),
        Command::Dispatch {} => Step::Dispatch {},
        Command::DispatchRoute { route } => Step::DispatchRoute { route },
        Command::DispatchTo { backend, max } => Step::DispatchTo { backend, max },
        Command::Heartbeat { lease } => Step::Heartbeat { lease },
        Command::Release { lease, not_before, usage } => Step::Release { lease, not_before, usage },
        Command::Preempt { job, usage } => Step::Preempt { job, usage },
        Command::CancelLease { lease, usage } => Step::CancelLease { lease, usage },
        Command::CorrectUsage { lease, usage } => Step::CorrectUsage { lease, usage },
        Command::Complete { lease, output, usage } => Step::Complete { lease, output, usage },
        Command::Fail { lease, failure, usage } => Step::Fail { lease, failure, usage },
        Command::Cancel { job, usage } => Step::Cancel { job, usage },
        Command::Delete { job } => Step::Delete { job },
        other => panic!("{other:?} does not stand in a transaction"),
    }
}
