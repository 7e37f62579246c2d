//! The state of a gateway and its primitives: the smallest changes that leave it whole.
//!
//! Commands are made of primitives. A primitive notes its inverse and keeps everything that hangs on it in step: counts,
//! the order of routes and groups, timers.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::config::{CustomerPolicy, GatewayConfig};
use super::event::{Awaited, EventKind, EventLog};
use super::late::LateLeases;
use super::parked::Parked;
use super::route::{RouteRecord, RouteTable};
use super::settlement::SettlementRecord;
use super::undo::Undo;
use crate::backend::{BackendPool, Grant, LeaseRecord, Verdict};
use crate::backoff::Backoff;
use crate::billing::{Outbox, PriceBook};
use crate::id::{Epoch, JobId};
use crate::job::{Content, Deadlines, Extra, Hold, Job, JobHot, JobState, JobTable, NO_LEASE, Outcome};
use crate::limiter::TokenBucket;
use crate::queue::{Entrant, Key, Places};
use crate::registry::Registry;
use crate::time::{Clock, Timestamp};
use crate::timers::Timers;

/// Everything a gateway knows.
pub(crate) struct State {
    pub(crate) config: GatewayConfig,
    pub(crate) clock: Clock,
    /// The machine's time: what all due deadlines have been handled up to. Behind the clock only while more are due than
    /// one call handles.
    pub(crate) now: Timestamp,
    pub(crate) jobs: JobTable,
    pub(crate) places: Places,
    pub(crate) pool: BackendPool,
    pub(crate) table: RouteTable,
    pub(crate) customers: Registry<Customer>,
    /// Queued jobs whose customer may not run now.
    pub(crate) parked: Parked,
    pub(crate) customer_timers: Timers,
    pub(crate) backend_timers: Timers,
    pub(crate) outbox: Outbox<SettlementRecord>,
    /// Leases that have ended and may still be told what they used.
    pub(crate) late: LateLeases,
    pub(crate) prices: PriceBook,
    pub(crate) backoff: Backoff,
    pub(crate) events: EventLog,
    pub(crate) scalars: Scalars,
    /// Customers and routes that nothing may refer to any more; looked at when the command is over.
    pub(crate) idle_customers: Vec<u32>,
    pub(crate) idle_routes: Vec<u32>,
    pub(crate) undo: Vec<Undo>,
    pub(crate) recording: bool,
    /// Whether a job without clocks of its own has none but its lease's.
    pub(crate) plain: bool,
    /// Counts what may help somebody who waits. Not part of the state: it says nothing about the future.
    pub(crate) changes: u64,
    /// Events of a transaction that may yet fail.
    pub(crate) held_events: Vec<(Timestamp, EventKind)>,
    /// Ends that somebody waits for, of a command that may yet fail.
    pub(crate) held_outcomes: Vec<(JobId, Outcome)>,
    pub(crate) awaited: Awaited,
    /// The life of the gateway that numbers belong to.
    pub(crate) epoch: Epoch,
    /// Commands since the beginning. Not part of the state: a command that was refused counts, too.
    pub(crate) commands: u64,
    #[cfg(feature = "testing")]
    pub(crate) planted: Option<super::plant::Plant>,
}

/// Numbers that only rise; copied whole into a savepoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scalars {
    pub(crate) sequence: u64,
    pub(crate) customer: u64,
    pub(crate) counters: Counters,
    pub(crate) charged_micros: u128,
    pub(crate) credited_micros: u128,
    pub(crate) unpriced_ns: u128,
}

/// What has happened since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Counters {
    /// Jobs accepted.
    pub submitted: u64,
    /// Leases granted.
    pub leases: u64,
    /// Leases on a backend that was warm for the job.
    pub warm_hits: u64,
    /// Probes of half-open breakers.
    pub probes: u64,
    /// Jobs that delivered.
    pub completed: u64,
    /// Jobs that ended in error.
    pub errors: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Attempts tried again.
    pub retries: u64,
    /// Returns to the queue that were not the job's fault.
    pub requeues: u64,
    /// Leases that ended because nothing was heard any more.
    pub lost: u64,
    /// Leases that their workers gave back.
    pub released: u64,
    /// Leases that the host took back.
    pub preempted: u64,
    /// Times a job was stepped over because its customer could not run.
    pub parked: u64,
    /// Lanes climbed by waiting.
    pub aged: u64,
    /// Ended jobs whose record left.
    pub forgotten: u64,
    /// Leaps of the host's clock that were not believed.
    pub clock_leaps: u64,
    /// Attempts billed or absorbed for less than was reported, since their devices cannot have worked so long.
    pub capped: u64,
    /// Jobs settled without a price: what they cost is not known.
    pub unpriced: u64,
    /// Usages told late that changed what a settled job comes to.
    pub corrections: u64,
}

impl Counters {
    /// Every counter.
    pub(crate) fn all(&self) -> [u64; 19] {
        [
            self.submitted,
            self.leases,
            self.warm_hits,
            self.probes,
            self.completed,
            self.errors,
            self.cancelled,
            self.retries,
            self.requeues,
            self.lost,
            self.released,
            self.preempted,
            self.parked,
            self.aged,
            self.forgotten,
            self.clock_leaps,
            self.capped,
            self.unpriced,
            self.corrections,
        ]
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Customer {
    /// Numbered in order of appearance: the order of timers due at one instant.
    pub(crate) order: u64,
    pub(crate) policy: Option<Arc<CustomerPolicy>>,
    pub(crate) bucket: TokenBucket,
    pub(crate) running: u32,
    pub(crate) queued: u32,
    /// Jobs and settlements that refer to it.
    pub(crate) refs: u32,
}

impl State {
    // --- The doors: the host sees no clock but its own ---

    /// An instant on its way out: as the host's clock shows it.
    pub(crate) fn to_host(&self, at: Timestamp) -> Timestamp {
        self.clock.to_host(at)
    }

    /// An instant of the host's clock on its way in.
    pub(crate) fn by_machine(&self, at: Timestamp) -> Timestamp {
        self.clock.from_host(at)
    }

    pub(crate) fn policy(&self, customer: u32) -> &CustomerPolicy {
        self.customers[customer].policy.as_deref().unwrap_or(&self.config.customer)
    }

    // --- Jobs ---

    pub(crate) fn insert_job(&mut self, job: Job) -> u32 {
        let (customer, route) = (job.customer, job.route);
        self.refer(customer, route);
        let state = job.hot.state;
        let slot = self.jobs.insert(job);
        self.count_customer(customer, None, Some(state));
        self.note(|_| Undo::JobInserted { job: slot });
        slot
    }

    /// Takes an ended job's record out.
    pub(crate) fn remove_job(&mut self, slot: u32) -> Option<JobId> {
        let job = self.jobs.remove(slot)?;
        let id = job.id;
        self.release(job.customer, job.route);
        self.note(|_| Undo::JobRemoved { job: slot, record: Box::new(job) });
        Some(id)
    }

    /// Changes what a transition changes; the customer's counts follow.
    pub(crate) fn set_hot(&mut self, slot: u32, hot: JobHot) {
        self.note(|state| Undo::JobHot { job: slot, hot: state.jobs[slot].hot });
        let job = &self.jobs[slot];
        let (customer, before) = (job.customer, job.hot.state);
        self.jobs.set_hot(slot, hot);
        self.count_customer(customer, Some(before), Some(hot.state));
    }

    pub(crate) fn count_customer(&mut self, customer: u32, before: Option<JobState>, after: Option<JobState>) {
        let record = &mut self.customers[customer];
        match before {
            Some(JobState::Queued) => record.queued -= 1,
            Some(JobState::Running) => record.running -= 1,
            _ => {}
        }
        match after {
            Some(JobState::Queued) => record.queued += 1,
            Some(JobState::Running) => record.running += 1,
            _ => {}
        }
    }

    /// Puts a job's outcome in the place of its payload, for which nobody will ask any more.
    pub(crate) fn set_outcome(&mut self, slot: u32, outcome: Outcome) {
        let content = core::mem::replace(&mut self.jobs[slot].content, Content::Outcome(outcome));
        self.note(|_| Undo::JobContent { job: slot, content });
    }

    pub(crate) fn edit_extra(&mut self, slot: u32, edit: impl FnOnce(&mut Extra)) {
        self.note(|state| Undo::JobExtra { job: slot, extra: state.jobs[slot].extra.clone() });
        edit(self.jobs[slot].extra_mut());
    }

    /// Keeps an ended job for a while. It has another number from now on.
    pub(crate) fn retain_job(&mut self, slot: u32) {
        self.jobs.retain(slot);
        self.note(|_| Undo::Retained { job: slot });
    }

    // --- The queue ---

    /// The age of who comes next.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        let sequence = self.scalars.sequence;
        self.scalars.sequence += 1;
        sequence
    }

    /// Puts a job that is new to the end of its customer's line in `lane`.
    pub(crate) fn enqueue(&mut self, slot: u32, lane: u8, sequence: u64) {
        self.set_key(slot, lane, sequence);
        self.put(slot, true);
    }

    /// Puts a job to its place in another lane.
    pub(crate) fn lift(&mut self, slot: u32, lane: u8) {
        self.set_key(slot, lane, self.jobs[slot].key.sequence());
        self.put(slot, false);
    }

    fn set_key(&mut self, slot: u32, lane: u8, sequence: u64) {
        self.note(|state| Undo::JobKey { job: slot, key: state.jobs[slot].key });
        self.jobs[slot].key = Key::new(lane, 0, sequence);
    }

    /// Gives a job that ran its place back.
    pub(crate) fn put_back(&mut self, slot: u32) {
        self.put(slot, false);
    }

    /// Puts a job into its customer's line, or on its own while it may not run.
    fn put(&mut self, slot: u32, fresh: bool) {
        let held = self.jobs[slot].hot.hold != Hold::None;
        let entrant = Entrant { alone: held, fresh, ready: !held, ..self.entrant(slot) };
        let displaced = self.places.push(slot, entrant);
        self.pass(displaced);
    }

    /// The head of a line that is no longer: nothing is asked about it until it is again.
    fn pass(&mut self, displaced: Option<u32>) {
        if let Some(slot) = displaced {
            self.unhold(slot);
        }
        self.follow();
    }

    pub(crate) fn entrant(&self, slot: u32) -> Entrant {
        let job = &self.jobs[slot];
        Entrant {
            customer: job.customer,
            route: job.route,
            lane: job.lane(),
            sequence: job.key.sequence(),
            cost: self.expected(slot),
            weight: self.policy(job.customer).weight,
            alone: false,
            fresh: true,
            ready: true,
        }
    }

    /// GPU time a job is expected to take: by its own estimate, else by what its route's jobs took lately.
    pub(crate) fn expected(&self, slot: u32) -> u64 {
        let job = &self.jobs[slot];
        let service = self.table.routes[job.route].service;
        [job.estimate, service.as_nanos()]
            .into_iter()
            .find(|nanos| *nanos > 0)
            .unwrap_or(self.config.estimate.as_nanos())
    }

    /// Takes a job out of the queue that does not run.
    pub(crate) fn dequeue(&mut self, slot: u32) {
        let weight = self.weight(slot);
        let ready = self.places.is_ready(slot);
        self.unhold(slot);
        self.places.remove(slot, weight, true);
        self.follow();
        if ready {
            self.wake_next(slot);
        }
    }

    /// Takes a job out of the queue that runs from now on. Returns what its customer's account is charged for it.
    pub(crate) fn serve(&mut self, slot: u32) -> u64 {
        let (expected, weight) = (self.expected(slot), self.weight(slot));
        let charge = self.places.begin(slot, expected, weight);
        self.follow();
        charge
    }

    pub(crate) fn set_ready(&mut self, slot: u32, ready: bool) {
        let weight = self.weight(slot);
        let displaced = self.places.set_ready(slot, ready, weight);
        self.pass(displaced);
    }

    /// Brings the place of a route's first job up to date. Whether that moved it.
    pub(crate) fn freshen(&mut self, route: u32) -> bool {
        let Self { places, customers, config, .. } = self;
        let weight = |customer| customers[customer].policy.as_deref().unwrap_or(&config.customer).weight;
        let moved = places.freshen(route, weight);
        self.follow();
        moved
    }

    fn weight(&self, slot: u32) -> u32 {
        self.policy(self.jobs[slot].customer).weight
    }

    /// Brings the order of routes in step with their places.
    pub(crate) fn follow(&mut self) {
        while let Some(route) = self.places.pop_touched() {
            if self.table.routes.get(route).is_some() {
                self.refresh_route(route);
            }
        }
    }

    // --- Customers and routes ---

    pub(crate) fn refer(&mut self, customer: u32, route: u32) {
        self.note(|state| Undo::CustomerRefs { customer, refs: state.customers[customer].refs });
        self.note(|state| Undo::RouteRefs { route, refs: state.table.routes[route].refs });
        let record = &mut self.customers[customer];
        record.refs += 1;
        if record.refs == 1 {
            self.arm_customer(customer, Timestamp::MAX);
        }
        self.table.routes[route].refs += 1;
    }

    pub(crate) fn release(&mut self, customer: u32, route: u32) {
        self.note(|state| Undo::CustomerRefs { customer, refs: state.customers[customer].refs });
        self.note(|state| Undo::RouteRefs { route, refs: state.table.routes[route].refs });
        let record = &mut self.customers[customer];
        record.refs -= 1;
        if record.refs == 0 {
            // What woke its waiting jobs would now forget it, and too early.
            self.arm_customer(customer, Timestamp::MAX);
            self.idle_customers.push(customer);
        }
        let record = &mut self.table.routes[route];
        record.refs -= 1;
        if record.refs == 0 {
            self.idle_routes.push(route);
        }
    }

    pub(crate) fn insert_customer(&mut self, name: &str, policy: Option<Arc<CustomerPolicy>>) -> Option<u32> {
        let bucket = TokenBucket::full();
        let order = self.scalars.customer;
        let record = Customer { order, policy, bucket, running: 0, queued: 0, refs: 0 };
        let customer = self.customers.insert(name, record).ok()?;
        self.scalars.customer += 1;
        self.note(|_| Undo::CustomerInserted { customer });
        self.idle_customers.push(customer);
        Some(customer)
    }

    pub(crate) fn set_bucket(&mut self, customer: u32, bucket: TokenBucket) {
        self.note(|state| Undo::Bucket { customer, bucket: state.customers[customer].bucket });
        self.customers[customer].bucket = bucket;
    }

    pub(crate) fn insert_route(&mut self, name: &str, record: RouteRecord) -> Option<u32> {
        let family = record.family;
        let route = self.table.routes.insert(name, record).ok()?;
        self.table.next_order += 1;
        self.places.open_route(route, family);
        self.table.link(route, &self.pool, &self.places);
        self.places.set_closed(route, self.table.routes[route].is_closed());
        self.note(|_| Undo::RouteInserted { route });
        self.idle_routes.push(route);
        Some(route)
    }

    pub(crate) fn drop_route(&mut self, route: u32) {
        self.table.unlink(route, &self.pool);
        self.table.routes.remove(route);
    }

    pub(crate) fn refresh_route(&mut self, route: u32) {
        self.table.refresh(route, &self.pool, &self.places);
    }

    // --- Leases ---

    /// Leases a slot of the backend for a job. `None` when the backend turned out not to take one.
    pub(crate) fn lease(&mut self, slot: u32, grant: Grant) -> Option<u32> {
        let backend = grant.backend;
        self.note(|state| Undo::Backend { backend, hot: Box::new(state.pool.entry(backend).hot.clone()) });
        let affinity = self.jobs[slot].affinity;
        let lease = self.pool.lease(grant, slot, affinity, self.now, self.config.lease_for);
        if let Some(lease) = lease {
            self.note(|_| Undo::LeasePut { lease });
        }
        self.refresh_backend(backend);
        lease
    }

    /// Ends a job's lease, exactly once: its slot is free after this.
    pub(crate) fn end_lease(&mut self, slot: u32, verdict: Verdict) -> Option<LeaseRecord> {
        let lease = self.jobs[slot].hot.lease;
        let backend = self.pool.lease_record(lease)?.backend;
        self.note(|state| Undo::Backend { backend, hot: Box::new(state.pool.entry(backend).hot.clone()) });
        let record = self.pool.end_lease(lease, verdict, self.now)?;
        self.note(|_| Undo::LeaseTaken { lease, record: Box::new(record) });
        #[cfg(feature = "testing")]
        if self.has_bug(super::plant::Plant::LeakedSlot, record.id.as_u64()) {
            self.pool.entry_mut(backend).hot.live += 1;
            self.pool.refresh(backend, self.now);
        }
        self.refresh_backend(backend);
        Some(record)
    }

    /// Brings what hangs on a backend in step: its group's turn, its breaker's deadline.
    pub(crate) fn refresh_backend(&mut self, backend: u32) {
        let Some(entry) = self.pool.get(backend) else { return };
        let (group, deadline) = (entry.group, entry.hot.breaker.next_deadline());
        self.table.refresh_free(group, &self.pool);
        self.arm_backend(backend, deadline.unwrap_or(Timestamp::MAX));
    }

    // --- Deadlines ---

    /// Arms a job's timer at its earliest deadline in its present state.
    pub(crate) fn rearm_job(&mut self, slot: u32) {
        let at = self.job_deadline(slot);
        self.arm_job(slot, at);
    }

    pub(crate) fn job_deadline(&self, slot: u32) -> Timestamp {
        let job = &self.jobs[slot];
        if job.extra.is_none() && self.plain {
            let lease = self.pool.lease_record(job.hot.lease);
            return lease.map_or(Timestamp::MAX, |lease| lease.deadline);
        }
        let deadlines = self.deadlines(job);
        let lease = self.pool.lease_record(job.hot.lease).filter(|_| job.hot.lease != NO_LEASE);
        let lease = lease.map_or(Timestamp::MAX, |lease| lease.deadline);
        let held = if job.hot.hold == Hold::NotBefore { not_before(job) } else { Timestamp::MAX };
        let first = deadlines.total.min(deadlines.run).min(lease).min(deadlines.start).min(deadlines.queue);
        first.min(held).min(self.ages_at(job))
    }

    /// The job's four deadlines. Silences of the host are not counted as time that a worker worked.
    pub(crate) fn deadlines(&self, job: &Job) -> Deadlines {
        let mut deadlines = self.jobs.deadlines(job);
        if let Some(lease) = self.pool.lease_record(job.hot.lease) {
            deadlines.run += lease.silent;
            deadlines.total += lease.silent;
        }
        deadlines
    }

    /// When a waiting job is lifted a lane.
    pub(crate) fn ages_at(&self, job: &Job) -> Timestamp {
        let Some(span) = self.config.age_after else { return Timestamp::MAX };
        if job.hot.state != JobState::Queued || job.lane() == 0 || job.hot.hold == Hold::NotBefore {
            return Timestamp::MAX;
        }
        let climbed = job.hot.priority.lane().saturating_sub(job.lane());
        job.hot.since + span.saturating_mul(u64::from(climbed) + 1)
    }

    pub(crate) fn arm_job(&mut self, slot: u32, at: Timestamp) {
        let armed = self.jobs.timers.armed(slot).unwrap_or(Timestamp::MAX);
        if armed == at {
            return;
        }
        self.note(|_| Undo::JobTimer { job: slot, at: armed });
        let order = self.jobs[slot].key.sequence();
        self.jobs.timers.arm(slot, at, order);
    }

    pub(crate) fn arm_customer(&mut self, customer: u32, at: Timestamp) {
        let armed = self.customer_timers.armed(customer).unwrap_or(Timestamp::MAX);
        if armed == at {
            return;
        }
        self.note(|_| Undo::CustomerTimer { customer, at: armed });
        let order = self.customers[customer].order;
        self.customer_timers.arm(customer, at, order);
    }

    pub(crate) fn arm_backend(&mut self, backend: u32, at: Timestamp) {
        let armed = self.backend_timers.armed(backend).unwrap_or(Timestamp::MAX);
        if armed == at {
            return;
        }
        self.note(|_| Undo::BackendTimer { backend, at: armed });
        let order = u64::from(self.pool.entry(backend).order);
        self.backend_timers.arm(backend, at, order);
    }

    // --- Words ---

    pub(crate) fn emit(&mut self, kind: EventKind) {
        if self.recording {
            self.held_events.push((self.now, kind));
        } else {
            self.changes = self.changes.wrapping_add(1);
            self.events.push(self.now, kind);
        }
    }
}

pub(crate) fn not_before(job: &Job) -> Timestamp {
    job.extra.as_ref().map_or(Timestamp::EPOCH, |extra| extra.not_before)
}
