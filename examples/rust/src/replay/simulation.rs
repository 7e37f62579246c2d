//! The loop: what happens next, what the host tells the gateway then, and what the gateway answers.

use std::collections::HashMap;
use std::time::Instant;

use libgateway::error::{JobError, LeaseError, SubmitError};
use libgateway::{
    AfterFailure, Backend, Dispatch, Failure as JobFailure, Gateway, GatewayConfig, Histogram, JobId, Lease, Output,
    PriceBook, Route, Span, Submit, Timestamp, Usage, error,
};

use super::Failure;
use super::ledger::Ledger;
use super::progress::Progress;
use super::schedule::Schedule;
use super::source::Source;
use super::summary::{Gpu, Lane, Outcome, Totals};
use super::worker::{BEAT, Ending, Held, LATE_BY, LEASE_FOR, Spent, Work, plan};
use crate::civil;
use crate::random::Random;
use crate::report::{Series, Shares, Tick};
use crate::ticket::Ticket;
use crate::trace::Request;

/// Replays a source on `gpus` GPUs.
pub(super) fn replay(source: &mut Source, gpus: u32, seed: u64) -> Result<Outcome, Failure> {
    let clock = Instant::now();
    let first = source.next()?;
    let start = first.as_ref().map_or(Timestamp::EPOCH, |request| request.at);
    let mut simulation = Simulation::new(source, gpus, seed, start)?;
    simulation.arrival = first;
    simulation.run()?;
    let seconds = clock.elapsed();
    simulation.outcome(start, seconds)
}

struct Simulation<'s> {
    source: &'s mut Source,
    gateway: Gateway,
    seed: u64,
    random: Random,
    now: Timestamp,
    /// The request that comes next; no other is read before it is in.
    arrival: Option<Request>,
    /// The gateway had no room for it, and there cannot be any yet.
    waits_at_door: bool,
    schedule: Schedule<Due>,
    gpus: Vec<Gpu>,
    held: Vec<Option<Held>>,
    gpu_by_name: HashMap<Box<str>, usize>,
    ledger: Ledger,
    settled_at: Timestamp,
    /// Jobs that had ended by then.
    settled: u64,
    totals: Totals,
    waits: Histogram,
    lanes: [Histogram; 3],
    series: Series,
    shares: Shares,
    queued: u32,
    running: u32,
}

enum Due {
    /// A worker beats or ends.
    Word(Work),
    /// A worker that fell silent has lost its lease by now.
    Silence(Work),
    Cancel {
        job: JobId,
        account: u32,
        lane: u8,
    },
    Resend {
        request: Box<Request>,
        job: JobId,
    },
}

impl<'s> Simulation<'s> {
    fn new(source: &'s mut Source, gpus: u32, seed: u64, start: Timestamp) -> Result<Self, Failure> {
        // Nobody asks for ended jobs or events here, so few are kept. Routes and customers are bounded by what refers to
        // them, and what the trace names has to fit.
        let config = GatewayConfig::default()
            .seed(seed)
            .lease_for(LEASE_FOR)
            .jobs_max(LIVE_MAX)
            .retain_for(Span::from_secs(600))
            .retained_max(RETAINED_MAX)
            .routes_max(LIVE_MAX + RETAINED_MAX)
            .events_max(1);
        let gateway = Gateway::new(config, start).map_err(Failure::broken)?;
        let mut simulation = Self {
            gateway,
            seed,
            random: Random::new(seed ^ 0x6a6f_6269_6473),
            now: start,
            arrival: None,
            waits_at_door: false,
            schedule: Schedule::new(),
            gpus: (1..=gpus as usize).map(Gpu::new).collect(),
            held: vec![None; gpus as usize],
            gpu_by_name: HashMap::new(),
            ledger: Ledger::default(),
            settled_at: start,
            settled: 0,
            totals: Totals::default(),
            waits: Histogram::new(Histogram::PRECISION_BITS_MAX).map_err(Failure::broken)?,
            lanes: [Histogram::default(), Histogram::default(), Histogram::default()],
            series: Series::new(start),
            shares: Shares::new(start),
            queued: 0,
            running: 0,
            source,
        };
        simulation.set_up().map_err(Failure::broken)?;
        Ok(simulation)
    }

    fn set_up(&mut self) -> Result<(), error::Error> {
        let served = self.source.served();
        for (index, gpu) in self.gpus.iter().enumerate() {
            let backend = Backend::new(gpu.name.as_str(), served.kind).serves(served.modality, served.family, ["*"]);
            self.gateway.put_backend(self.now, backend)?;
            self.gpu_by_name.insert(gpu.name.as_str().into(), index);
        }
        let book = PriceBook::new(1, "USD")?.price("*", "*", 1_200)?.price("sd/sdxl", "*", 1_500)?;
        self.gateway.put_prices(self.now, book.price("llm/azure", "*", 2_000)?)?;
        let policies = self.source.policies();
        self.totals.commands += self.gpus.len() as u64 + 1 + policies.len() as u64;
        for (customer, policy) in policies {
            self.gateway.put_customer(self.now, &customer, policy)?;
        }
        Ok(())
    }

    /// Lets everything happen, then settles what is left.
    fn run(&mut self) -> Result<(), Failure> {
        let mut progress = Progress::new();
        loop {
            let arrival = self.arrival.as_ref().filter(|_| !self.waits_at_door).map(|request| request.at.max(self.now));
            let planned = self.schedule.next_at();
            let next = [planned, arrival].into_iter().flatten().min();
            let is_live = self.running > 0 || self.queued > 0 || self.waits_at_door;
            let deadline = self.gateway.next_deadline().filter(|at| next.map_or(is_live, |next| *at < next));
            match (deadline, planned, next) {
                (Some(at), ..) => self.reach(at),
                (None, Some(at), Some(next)) if at == next => self.happen(at)?,
                (None, _, Some(at)) => self.arrive(at)?,
                (None, _, None) if self.waits_at_door && self.gateway.stats().unconfirmed > 0 => self.settle()?,
                (None, _, None) if is_live => {
                    return Err(Failure::broken(format!("nothing happens any more at {}", civil::format(self.now))));
                }
                (None, _, None) => break,
            }
            self.dispatch()?;
            if self.now.since(self.settled_at) >= SETTLE_EVERY || self.ended() - self.settled >= u64::from(BATCH) {
                self.settle()?;
            }
            self.look();
            progress
                .step(|| (self.source.progress_ppm(), format!("{}, {} waiting", civil::format(self.now), self.queued)));
        }
        while self.gateway.stats().unconfirmed > 0 {
            self.settle()?;
            // A batch whose confirmation got lost comes back at its deadline.
            if let Some(at) = self.gateway.next_deadline().filter(|_| self.gateway.stats().unconfirmed > 0) {
                self.reach(at);
            }
        }
        self.look();
        Ok(())
    }

    /// Sets the clock, and counts what was so until now.
    fn pass(&mut self, at: Timestamp) {
        self.series.pass(at, self.queued, self.running);
        self.shares.pass(at);
        self.now = at;
    }

    /// Reaches a deadline of the gateway, as a host that sleeps until then.
    fn reach(&mut self, at: Timestamp) {
        self.pass(at);
        self.totals.commands += 1;
        self.gateway.advance(at);
        self.waits_at_door = false;
    }

    fn look(&mut self) {
        let stats = self.gateway.stats();
        (self.queued, self.running) = (stats.queued, stats.running);
        self.totals.queued_max = self.totals.queued_max.max(stats.queued);
    }

    // --- Arrivals ---

    fn arrive(&mut self, at: Timestamp) -> Result<(), Failure> {
        let Some(request) = self.arrival.take() else { return Ok(()) };
        self.pass(at);
        let job = JobId::from_entropy(self.random.entropy());
        match self.submit(&request, job) {
            Ok(_) => {}
            Err(SubmitError::Full(_)) => {
                self.waits_at_door = true;
                self.arrival = Some(request);
                return Ok(());
            }
            Err(error) => return Err(Failure::broken(error)),
        }
        self.totals.held_at_door += u64::from(request.at < at);
        let lane = request.priority.lane();
        let weight = || self.gateway.customer(&request.customer).map_or(1, |customer| customer.weight);
        let account = self.shares.account(&request.customer, weight);
        self.shares.came(account, lane);
        if let Some(span) = request.cancel_after {
            self.schedule.push(at + span, Due::Cancel { job, account, lane });
        }
        if let Some(span) = request.resend_after {
            self.schedule.push(at + span, Due::Resend { request: Box::new(request), job });
        }
        self.arrival = self.source.next()?;
        Ok(())
    }

    fn submit(&mut self, request: &Request, id: JobId) -> Result<JobId, SubmitError> {
        let ticket = Ticket { arrived: request.at, gpu: request.gpu, priority: request.priority, fates: request.fates };
        let mut submit = Submit::new(id, request.customer.as_str(), Route::parse(request.route.as_str())?)
            .payload(ticket.to_payload())
            .priority(request.priority)
            .estimate(request.estimate);
        if let Some(affinity) = &request.affinity {
            submit = submit.affinity(affinity.as_str());
        }
        if request.resend_after.is_some() {
            // What the client counts; both its requests carry it.
            submit = submit.idempotency_key(format!("request-{}", request.at.as_nanos()));
        }
        self.totals.commands += 1;
        self.gateway.submit(self.now, submit)
    }

    /// The same request under another id, as a client sends it that has heard nothing.
    fn resend(&mut self, request: &Request) -> Result<JobId, SubmitError> {
        let id = JobId::from_entropy(self.random.entropy());
        self.submit(request, id)
    }

    // --- What was planned ---

    fn happen(&mut self, at: Timestamp) -> Result<(), Failure> {
        self.pass(at);
        match self.schedule.pop() {
            None => Ok(()),
            Some(Due::Word(work)) if self.now < work.end => self.beat(work),
            Some(Due::Word(work)) => self.end(work),
            Some(Due::Silence(work)) => {
                self.totals.commands += 1;
                self.gateway.advance(self.now);
                self.free(&work, Spent::Lost, Tick::Requeue);
                if work.ending == Ending::SilenceThenDeliver {
                    let end = self.now + LATE_BY;
                    self.schedule.push(end, Due::Word(Work { end, ending: Ending::Deliver, ..work }));
                }
                Ok(())
            }
            Some(Due::Cancel { job, account, lane }) => self.cancel(job, account, lane),
            Some(Due::Resend { request, job }) => match self.resend(&request) {
                Ok(known) if known == job => {
                    self.totals.duplicates += 1;
                    Ok(())
                }
                Ok(other) => Err(Failure::broken(format!("one idempotency key stands for {job} and {other}"))),
                Err(error) => Err(Failure::broken(error)),
            },
        }
    }

    fn cancel(&mut self, job: JobId, account: u32, lane: u8) -> Result<(), Failure> {
        let lease = self.gateway.job(job).and_then(|view| Some((view.lease?, view.backend?)));
        self.totals.commands += 1;
        match self.gateway.cancel(self.now, job) {
            Ok(()) => {}
            // It was quicker than its customer's patience.
            Err(JobError::Ended { .. } | JobError::UnknownJob { .. }) => return Ok(()),
            Err(error) => return Err(Failure::broken(error)),
        }
        self.shares.left(account, lane);
        if let Some((lease, backend)) = lease {
            let gpu = self.gpu_by_name.get(&*backend).copied().unwrap_or_default();
            if let Some(held) = self.held[gpu].take_if(|held| held.lease == lease) {
                self.gpus[gpu].spend(held.since, self.now, Spent::Cancelled);
                self.shares.stopped(held.account, held.lane, self.now.since(held.since));
            }
        }
        Ok(())
    }

    // --- Workers ---

    /// Gives GPUs work until the gateway says wait.
    fn dispatch(&mut self) -> Result<(), Failure> {
        while self.gateway.stats().queued > 0 {
            self.totals.commands += 1;
            match self.gateway.dispatch(self.now) {
                Dispatch::Lease(lease) => self.start(&lease)?,
                Dispatch::Wait { .. } => break,
            }
        }
        Ok(())
    }

    fn start(&mut self, lease: &Lease) -> Result<(), Failure> {
        let ticket =
            Ticket::from_payload(&lease.payload).ok_or_else(|| Failure::broken("a payload came back altered"))?;
        let gpu = self.gpu_by_name.get(&*lease.backend).copied();
        let gpu = gpu.filter(|gpu| self.held[*gpu].is_none()).ok_or_else(|| Failure::broken("a GPU got two leases"))?;
        let lane = ticket.priority.lane();
        if lease.attempt == 1 {
            let waited = self.now.since(ticket.arrived).as_nanos();
            self.waits.record(waited);
            self.lanes[usize::from(lane)].record(waited);
        }
        self.series.tick(Tick::Start);
        if lease.warm {
            self.series.tick(Tick::Warm);
            self.gpus[gpu].warm += 1;
        }
        self.gpus[gpu].leases += 1;
        let account = self.shares.account(&lease.customer, || 1);
        self.shares.started(lane);
        self.held[gpu] = Some(Held { lease: lease.id, since: self.now, account, lane });

        let (ending, worked) = plan(&ticket, lease.attempt, self.source.broken(gpu, self.now));
        let end = self.now.checked_add(Span::from_nanos(worked.as_nanos()));
        let end = end.ok_or_else(|| Failure::broken("the replay runs beyond the year 2554"))?;
        let work = Work { lease: lease.id, gpu, account, lane, worked, end, ending };
        match ending {
            Ending::Silence | Ending::SilenceThenDeliver => self.schedule.push(lease.deadline, Due::Silence(work)),
            Ending::Deliver | Ending::Fail(..) => self.plan_word(work),
        }
        Ok(())
    }

    /// The worker's next word: that it lives, or its last.
    fn plan_word(&mut self, work: Work) {
        self.schedule.push(work.end.min(self.now + BEAT), Due::Word(work));
    }

    fn beat(&mut self, work: Work) -> Result<(), Failure> {
        self.totals.commands += 1;
        match self.gateway.heartbeat(self.now, work.lease) {
            Ok(_) => self.plan_word(work),
            // Its job was cancelled: it stops.
            Err(LeaseError::Superseded { .. }) => self.totals.superseded += 1,
            Err(error) => return Err(Failure::broken(error)),
        }
        Ok(())
    }

    fn end(&mut self, work: Work) -> Result<(), Failure> {
        self.totals.commands += 1;
        let usage = Usage::gpu(work.worked, self.gpus[work.gpu].device.as_str());
        let told = match work.ending {
            Ending::Fail(class, retriable) => {
                let mut failure = JobFailure::new(class, "as the trace has it");
                failure.retriable = retriable;
                self.gateway.fail(self.now, work.lease, failure, usage)
            }
            // Only who has something to say gets here.
            Ending::Deliver | Ending::Silence | Ending::SilenceThenDeliver => {
                let done = self.gateway.complete(self.now, work.lease, Output::url("replay:done"), usage);
                match done {
                    Ok(_) => {
                        self.free(&work, Spent::Delivered, Tick::Complete);
                        self.shares.left(work.account, work.lane);
                        return Ok(());
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match told {
            Ok(AfterFailure::Retry { .. }) => self.free(&work, Spent::Failed, Tick::Retry),
            Ok(_) => {
                self.free(&work, Spent::Failed, Tick::Error);
                self.shares.left(work.account, work.lane);
            }
            // The lease has ended before: what it says changes nothing.
            Err(LeaseError::Superseded { .. }) => self.totals.superseded += 1,
            Err(error) => return Err(Failure::broken(error)),
        }
        Ok(())
    }

    /// Books a GPU's time when its lease has ended; nothing if that was seen before.
    fn free(&mut self, work: &Work, on: Spent, tick: Tick) {
        if let Some(held) = self.held[work.gpu].take_if(|held| held.lease == work.lease) {
            self.gpus[work.gpu].spend(held.since, self.now, on);
            self.shares.stopped(held.account, held.lane, self.now.since(held.since));
            self.series.tick(tick);
        }
    }

    // --- Money ---

    /// Writes settlements down and confirms them.
    fn settle(&mut self) -> Result<(), Failure> {
        (self.settled_at, self.settled) = (self.now, self.ended());
        loop {
            self.totals.commands += 1;
            let Some(taken) = self.gateway.take_settlements(self.now, BATCH) else { return Ok(()) };
            self.totals.commands += 1;
            let trouble = if self.source.has_faulty_sink() { self.random.below(8) } else { u64::MAX };
            match trouble {
                // The sink refuses the batch: it goes back, and nothing was written.
                0 => {
                    self.totals.batches_returned += 1;
                    self.gateway.return_settlements(self.now, taken.batch).map_err(Failure::broken)?;
                    return Ok(());
                }
                // The sink has written it, but the word of that gets lost: the batch will come again.
                1 => {
                    self.totals.confirmations_lost += 1;
                    self.totals.commands -= 1;
                    self.ledger.write(&taken.settlements)?;
                    return Ok(());
                }
                _ => {
                    self.ledger.write(&taken.settlements)?;
                    self.gateway.confirm_settlements(self.now, taken.batch).map_err(Failure::broken)?;
                    // An ended job makes room when its settlement is safe, and not before.
                    self.waits_at_door = false;
                }
            }
        }
    }

    fn ended(&self) -> u64 {
        let counters = self.gateway.stats().counters;
        counters.completed + counters.errors + counters.cancelled
    }

    fn outcome(self, start: Timestamp, elapsed: std::time::Duration) -> Result<Outcome, Failure> {
        let stats = self.gateway.stats();
        let ledger = self.ledger;
        let counted = (stats.counters.completed, stats.counters.errors, stats.counters.cancelled, stats.charged_micros);
        if counted != (ledger.complete, ledger.error, ledger.cancelled, ledger.charge_micros) {
            return Err(Failure::broken("the settlements are not those of the jobs that ended"));
        }
        Ok(Outcome {
            trace: self.source.name(),
            seed: self.seed,
            early: self.source.early(),
            start,
            end: self.now,
            stats,
            digest: self.gateway.digest().to_string(),
            totals: self.totals,
            elapsed,
            ledger,
            waits: self.waits,
            lanes: self
                .lanes
                .into_iter()
                .zip(["high", "normal", "low"])
                .map(|(waits, name)| Lane { name, waits })
                .collect(),
            gpus: self.gpus,
            series: self.series,
            shares: self.shares,
        })
    }
}

/// Jobs and unconfirmed settlements at most; then requests wait at the door.
const LIVE_MAX: u32 = 100_000;
const RETAINED_MAX: u32 = 10_000;
/// Settlements taken at once.
const BATCH: u32 = 500;
const SETTLE_EVERY: Span = Span::from_secs(60);
