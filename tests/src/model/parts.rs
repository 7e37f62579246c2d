//! What the model remembers: plain records, found by walking over them.

use std::collections::VecDeque;

use libgateway::{
    BackendKind, CancelReason, CustomerPolicy, EventKind, FailureClass, GatewayConfig, JobState, Models, Output, Payer,
    Task,
};

use super::answer::Bill;
use super::clock::HostClock;
use super::queue::Account;

/// Everything a gateway knows, the slow way.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) config: GatewayConfig,
    /// The instant up to which all that was due is handled.
    pub(crate) now: u64,
    pub(crate) clock: HostClock,
    /// In order of submission.
    pub(crate) jobs: Vec<Job>,
    /// In order of declaration.
    pub(crate) backends: Vec<Worker>,
    pub(crate) families: Vec<String>,
    pub(crate) routes: Vec<Way>,
    pub(crate) customers: Vec<Customer>,
    /// Finish tag by customer, family and lane.
    pub(crate) shares: Vec<Share>,
    /// Virtual time by family and lane.
    /// By family and lane: the clock, and the most anybody was given.
    pub(crate) virtual_time: Vec<(String, u8, (u128, u128))>,
    /// Customers whose parked jobs are looked at one by one.
    pub(crate) woken: Vec<String>,
    /// Ended jobs in order of their end.
    pub(crate) ended: Vec<u128>,
    /// Idempotency keys: those of jobs that live, and those of ended ones in order of their end.
    pub(crate) keys: Vec<Promise>,
    pub(crate) kept_keys: Vec<Promise>,
    pub(crate) book: Book,
    pub(crate) outbox: Outbox,
    pub(crate) events: VecDeque<(u64, u64, EventKind)>,
    pub(crate) next_event: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_lease: u64,
    pub(crate) next_backend: u32,
    pub(crate) next_customer: u64,
    pub(crate) charged: u128,
    pub(crate) credited: u128,
    pub(crate) unpriced: u128,
    /// Leases that have ended, in that order.
    pub(crate) late: Vec<Late>,
    pub(crate) counters: Counters,
}

/// Route, lane and payload.
pub(crate) type Fingerprint = (String, u8, Vec<u8>);

/// A customer's key, and the job it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) customer: String,
    pub(crate) key: String,
    pub(crate) same: Fingerprint,
    pub(crate) job: u128,
    /// When the job ended, if it has.
    pub(crate) ended: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: u128,
    pub(crate) customer: String,
    pub(crate) route: String,
    pub(crate) task: Task,
    pub(crate) payload: Vec<u8>,
    pub(crate) priority: u8,
    pub(crate) estimate: u64,
    pub(crate) tokens: u64,
    pub(crate) affinity: Option<String>,
    /// Queue, start, run, total.
    pub(crate) timeouts: [Option<u64>; 4],
    pub(crate) created: u64,
    /// When its clocks begin to run.
    pub(crate) begins: u64,
    pub(crate) sequence: u64,
    pub(crate) lane: u8,
    pub(crate) tag: u128,
    /// What it was expected to take when it came to its place.
    pub(crate) cost: u64,
    /// Virtual time its account is charged while it runs.
    pub(crate) charge: u64,
    /// Whether it stands in line with its customer's others, or on its own.
    pub(crate) in_line: bool,
    /// Whether it is there again.
    pub(crate) returned: bool,
    pub(crate) state: JobState,
    pub(crate) since: u64,
    pub(crate) started: Option<u64>,
    pub(crate) hold: Hold,
    pub(crate) paid: bool,
    pub(crate) attempts: u32,
    pub(crate) requeues: u32,
    pub(crate) losses: u32,
    pub(crate) releases: u32,
    pub(crate) preemptions: u32,
    pub(crate) progress: u32,
    pub(crate) version: u32,
    pub(crate) first_started: Option<u64>,
    /// Orders of backends that failed it, the latest last.
    pub(crate) failed_on: Vec<u32>,
    pub(crate) lease: Option<Held>,
    /// GPU time of earlier attempts: the customer's and the house's.
    pub(crate) billable: u64,
    pub(crate) absorbed: u64,
    /// Of those that the customer pays for: what was reported, how many were not measured, what their devices worked.
    pub(crate) reported: u64,
    pub(crate) unmeasured: u32,
    pub(crate) devices: Vec<(String, u64)>,
    /// Of how many less was billed or absorbed than was reported.
    pub(crate) capped: u32,
    pub(crate) failure: Option<Fault>,
    pub(crate) end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    None,
    Parked,
    /// There are no tokens for it.
    Throttled,
    /// Under its customer's plan it never can run.
    Barred,
    Until(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) class: FailureClass,
    pub(crate) message: String,
    pub(crate) retriable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete(Output),
    Error(Fault),
    Cancelled(CancelReason),
}

/// A live lease.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) id: u64,
    pub(crate) backend: String,
    pub(crate) generation: u64,
    pub(crate) granted: u64,
    pub(crate) deadline: u64,
    pub(crate) lease_for: u64,
    /// Times it was spared since its worker was heard.
    pub(crate) spared: u32,
    /// Lengths of silences in which it did not work.
    pub(crate) idle: Vec<u64>,
}

/// A lease that has ended and may still be told what it used.
#[derive(Clone, Debug)]
pub(crate) struct Late {
    pub(crate) lease: u64,
    pub(crate) job: u128,
    pub(crate) sequence: u64,
    pub(crate) backend: String,
    pub(crate) payer: Payer,
    pub(crate) measured: bool,
    pub(crate) reported: u64,
    pub(crate) billed: u64,
    pub(crate) devices: Vec<(String, u64)>,
    pub(crate) granted: u64,
    pub(crate) ended: u64,
    /// GPUs of its backend.
    pub(crate) gpus: u32,
    /// How many entries correct it.
    pub(crate) corrections: u32,
    /// What stood for it in the first settlement of its job.
    pub(crate) first: u64,
    /// The first settlement of its job.
    pub(crate) bill: Option<Bill>,
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) order: u32,
    pub(crate) family: String,
    pub(crate) kind: BackendKind,
    pub(crate) models: Models,
    pub(crate) slots: u32,
    pub(crate) devices: u32,
    pub(crate) warm_max: u32,
    pub(crate) lease_for: Option<u64>,
    pub(crate) draining: bool,
    pub(crate) leaving: bool,
    pub(crate) live: u32,
    pub(crate) warm: Vec<String>,
    pub(crate) breaker: Breaker,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
}

/// A breaker that counts failures in a row only.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    pub(crate) phase: Phase,
    /// Rises whenever results of calls that are out stop counting.
    pub(crate) generation: u64,
    pub(crate) deadline: u64,
    pub(crate) in_a_row: u32,
    pub(crate) reopens: u32,
    pub(crate) probes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    Open,
    HalfOpen,
    Probing,
    HeldClosed,
    HeldOpen,
}

#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) family: String,
    pub(crate) model: String,
    pub(crate) kind: Option<BackendKind>,
    pub(crate) paused: bool,
    pub(crate) mean: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Customer {
    pub(crate) name: String,
    pub(crate) order: u64,
    pub(crate) policy: Option<CustomerPolicy>,
    /// Tokens times the limit's `per`, when they were that many.
    pub(crate) level: u128,
    pub(crate) level_at: u64,
    /// When its parked jobs are looked at again.
    pub(crate) wake: Option<u64>,
    /// When it may be forgotten; `None` while it has jobs, or a policy, or never.
    pub(crate) leaves: Option<u64>,
    /// Nothing will ever fill its bucket, so it is never forgotten while idle.
    pub(crate) stays: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) account: Account,
    /// Virtual time given, and scaled cost that is not yet a tick of it.
    pub(crate) given: u128,
    pub(crate) rest: u128,
    /// What its jobs took lately.
    pub(crate) typical: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub(crate) version: u32,
    pub(crate) currency: String,
    /// Model, tier, micro-units, and nanoseconds they are for.
    pub(crate) prices: Vec<(String, String, (u64, u64))>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) bills: Vec<Bill>,
    /// First numbers and lengths of runs that came back.
    pub(crate) returned: Vec<(u64, u32)>,
    /// Batches in flight with their deadlines.
    pub(crate) taken: Vec<((u64, u64, u32), u64)>,
    /// Every batch ever handed out.
    pub(crate) known: Vec<(u64, u64, u32)>,
    /// Number of the first that was never handed out.
    pub(crate) fresh: u64,
    pub(crate) next_number: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) submitted: u64,
    pub(crate) leases: u64,
    pub(crate) warm_hits: u64,
    pub(crate) probes: u64,
    pub(crate) completed: u64,
    pub(crate) errors: u64,
    pub(crate) cancelled: u64,
    pub(crate) retries: u64,
    pub(crate) requeues: u64,
    pub(crate) lost: u64,
    pub(crate) released: u64,
    pub(crate) preempted: u64,
    pub(crate) parked: u64,
    pub(crate) aged: u64,
    pub(crate) forgotten: u64,
    pub(crate) clock_leaps: u64,
    pub(crate) capped: u64,
    pub(crate) unpriced: u64,
    pub(crate) corrections: u64,
}

impl Model {
    pub(crate) fn new(config: GatewayConfig, now: u64) -> Self {
        let clock = HostClock::new(now, config.clock_jump_max.as_nanos());
        Self {
            now: clock.machine,
            clock,
            config,
            jobs: Vec::new(),
            backends: Vec::new(),
            families: Vec::new(),
            routes: Vec::new(),
            customers: Vec::new(),
            shares: Vec::new(),
            virtual_time: Vec::new(),
            woken: Vec::new(),
            ended: Vec::new(),
            keys: Vec::new(),
            kept_keys: Vec::new(),
            book: Book { version: 0, currency: "USD".to_owned(), prices: Vec::new() },
            outbox: Outbox { fresh: 1, next_number: 1, ..Outbox::default() },
            events: VecDeque::new(),
            next_event: 1,
            next_sequence: 0,
            next_lease: 1,
            next_backend: 0,
            next_customer: 0,
            charged: 0,
            credited: 0,
            unpriced: 0,
            late: Vec::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn job(&self, id: u128) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == id)
    }

    pub(crate) fn customer(&self, name: &str) -> Option<usize> {
        self.customers.iter().position(|customer| customer.name == name)
    }

    pub(crate) fn route(&self, name: &str) -> Option<usize> {
        self.routes.iter().position(|route| route.name == name)
    }

    /// A backend that has not been removed.
    pub(crate) fn backend(&self, name: &str) -> Option<usize> {
        self.backends.iter().position(|backend| backend.name == name && !backend.leaving)
    }

    pub(crate) fn policy(&self, name: &str) -> CustomerPolicy {
        let own = self.customer(name).and_then(|customer| self.customers[customer].policy.clone());
        own.unwrap_or_else(|| self.config.customer.clone())
    }

    pub(crate) fn count(&self, customer: &str, state: JobState) -> u32 {
        self.jobs.iter().filter(|job| job.customer == customer && job.state == state).count() as u32
    }

    pub(crate) fn live(&self) -> usize {
        self.jobs.iter().filter(|job| job.end.is_none()).count()
    }

    /// Jobs known and settlements owed that name a customer.
    pub(crate) fn refers_to(&self, customer: &str) -> bool {
        self.jobs.iter().any(|job| job.customer == customer)
            || self.outbox.bills.iter().any(|bill| bill.corrects.is_none() && bill.customer == customer)
    }

    pub(crate) fn emit(&mut self, kind: EventKind) {
        if self.events.len() >= self.config.events_max as usize {
            self.events.pop_front();
        }
        self.events.push_back((self.next_event, self.now, kind));
        self.next_event += 1;
    }
}
