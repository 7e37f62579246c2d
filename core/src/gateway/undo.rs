//! The undo log: how a transaction that failed leaves no trace.
//!
//! Each primitive of [`State`] that changes something notes its inverse. Rolling back runs the inverses, newest first,
//! through the same primitives, so that whatever hangs on a change (counts, orders, links) follows both ways.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;

use super::late::LateLease;
use super::parked::Place;
use super::state::{Scalars, State};
use crate::backend::{BackendHot, LeaseRecord};
use crate::job::{Content, Extra, Job, JobHot};
use crate::limiter::TokenBucket;
use crate::queue::Key;
use crate::time::{GpuNanos, Timestamp};

/// The inverse of one change.
#[derive(Debug)]
pub(crate) enum Undo {
    JobInserted { job: u32 },
    JobRemoved { job: u32, record: Box<Job> },
    JobHot { job: u32, hot: JobHot },
    JobKey { job: u32, key: Key },
    JobExtra { job: u32, extra: Option<Box<Extra>> },
    JobContent { job: u32, content: Content },
    Retained { job: u32 },
    Parked { place: Place },
    Unparked { place: Place },
    Barred { place: (u32, u64, u32) },
    Unbarred { place: (u32, u64, u32) },
    Woken { customer: u32, woken: bool },
    CustomerInserted { customer: u32 },
    CustomerRefs { customer: u32, refs: u32 },
    Bucket { customer: u32, bucket: TokenBucket },
    RouteInserted { route: u32 },
    RouteRefs { route: u32, refs: u32 },
    RouteService { route: u32, service: GpuNanos },
    Backend { backend: u32, hot: Box<BackendHot> },
    LeasePut { lease: u32 },
    LeaseTaken { lease: u32, record: Box<LeaseRecord> },
    Heard { lease: u32, deadline: Timestamp, bridges: u8 },
    JobTimer { job: u32, at: Timestamp },
    CustomerTimer { customer: u32, at: Timestamp },
    BackendTimer { backend: u32, at: Timestamp },
    Charged { seq: u64 },
    LateNoted,
    LateSettled { number: u64 },
    LateChanged { number: u64, lease: Box<LateLease> },
}

/// A point a transaction can go back to.
#[derive(Clone, Debug)]
pub(crate) struct Savepoint {
    undo: usize,
    places: usize,
    events: usize,
    outcomes: usize,
    scalars: Scalars,
    next_lease: u64,
    next_route: u64,
}

impl State {
    /// Notes an inverse, if a transaction is under way.
    pub(crate) fn note(&mut self, undo: impl FnOnce(&Self) -> Undo) {
        if self.recording {
            let undo = undo(self);
            self.undo.push(undo);
        }
    }

    pub(crate) fn savepoint(&mut self) -> Savepoint {
        Savepoint {
            undo: self.undo.len(),
            places: self.places.record(true),
            events: self.held_events.len(),
            outcomes: self.held_outcomes.len(),
            scalars: self.scalars,
            next_lease: self.pool.next_lease,
            next_route: self.table.next_order,
        }
    }

    /// Undoes everything since the savepoint.
    ///
    /// # Complexity
    /// That of what is undone.
    pub(crate) fn roll_back(&mut self, to: &Savepoint) {
        let recording = core::mem::replace(&mut self.recording, false);
        self.places.roll_back(to.places);
        while self.undo.len() > to.undo {
            if let Some(undo) = self.undo.pop() {
                self.revert(undo);
            }
        }
        self.held_events.truncate(to.events);
        self.held_outcomes.truncate(to.outcomes);
        self.scalars = to.scalars;
        self.pool.next_lease = to.next_lease;
        self.table.next_order = to.next_route;
        self.follow();
        self.recording = recording;
    }

    fn revert(&mut self, undo: Undo) {
        match undo {
            Undo::JobInserted { job } => {
                if let Some(job) = self.jobs.remove(job) {
                    self.count_customer(job.customer, Some(job.hot.state), None);
                }
            }
            Undo::JobRemoved { job, record } => self.jobs.unremove(job, *record),
            Undo::JobHot { job, hot } => self.set_hot(job, hot),
            Undo::JobKey { job, key } => self.jobs[job].key = key,
            Undo::JobExtra { job, extra } => self.jobs[job].extra = extra,
            Undo::JobContent { job, content } => self.jobs[job].content = content,
            Undo::Retained { job } => {
                let slot = self.jobs.unretain();
                debug_assert_eq!(slot, Some(job), "slots are given in the order they were freed");
            }
            Undo::Parked { place } => {
                self.parked.jobs.remove(&place);
            }
            Undo::Unparked { place } => {
                self.parked.jobs.insert(place);
            }
            Undo::Barred { place } => {
                self.parked.barred.remove(&place);
            }
            Undo::Unbarred { place } => {
                self.parked.barred.insert(place);
            }
            Undo::Woken { customer, woken } => self.set_woken(customer, woken),
            Undo::CustomerInserted { customer } => {
                self.places.forget_customer(customer);
                self.customers.remove(customer);
            }
            Undo::CustomerRefs { customer, refs } => self.customers[customer].refs = refs,
            Undo::Bucket { customer, bucket } => self.customers[customer].bucket = bucket,
            Undo::RouteInserted { route } => self.drop_route(route),
            Undo::RouteRefs { route, refs } => self.table.routes[route].refs = refs,
            Undo::RouteService { route, service } => self.table.routes[route].service = service,
            Undo::Backend { backend, hot } => {
                let now = self.now;
                self.pool.set_hot(backend, *hot, now);
                self.refresh_backend(backend);
            }
            Undo::LeasePut { lease } => {
                self.pool.take_lease(lease);
            }
            Undo::LeaseTaken { lease, record } => {
                let slot = self.pool.put_lease(*record);
                debug_assert_eq!(slot, lease, "slots are given in the order they were freed");
            }
            Undo::Heard { lease, deadline, bridges } => self.pool.set_heard(lease, deadline, bridges),
            Undo::JobTimer { job, at } => self.arm_job(job, at),
            Undo::CustomerTimer { customer, at } => self.arm_customer(customer, at),
            Undo::BackendTimer { backend, at } => self.arm_backend(backend, at),
            Undo::Charged { seq } => {
                let taken_back = self.outbox.truncate_back(seq);
                debug_assert_eq!(taken_back, Ok(1), "a transaction hands out no settlement");
            }
            Undo::LateNoted => self.late.unpush(),
            Undo::LateSettled { number } => self.late.set_settled(number, None),
            Undo::LateChanged { number, lease } => self.late.set(number, *lease),
        }
    }
}
