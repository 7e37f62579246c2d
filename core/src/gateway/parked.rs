//! Jobs that are stepped over because their customer may not run them now, and what lets them be looked at again.
//!
//! A job whose customer runs as many as it may, or has not the tokens for it, is *parked* when its turn comes. When the
//! reason may have gone, the customer is *woken*: of its parked jobs the first of each class of routes is looked at again,
//! and the next when that one has gone. Routes of one class are served by the same backends, so who stands first among
//! them has as good a chance as any other, and a customer with many lines costs no more than one with one. First is who
//! needs the fewest tokens, then who is oldest.
//!
//! A job that can never run under its customer's plan is *barred*: it stands on its own, nothing stands behind it, and a
//! new plan lets it go on.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::dispatch::Blocked;
use super::state::State;
use super::undo::Undo;
use crate::job::Hold;
use crate::limiter::Acquire;
use crate::time::Timestamp;

/// Which jobs are parked or barred, and whom to look at.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    /// By customer, class of route, tokens needed and age.
    pub(crate) jobs: BTreeSet<Place>,
    /// By customer and age.
    pub(crate) barred: BTreeSet<(u32, u64, u32)>,
    /// Customers with parked jobs that may run: order of appearance and number.
    pub(crate) woken: BTreeSet<(u64, u32)>,
}

/// Customer, class of the route, tokens needed, sequence and slot of a parked job.
pub(crate) type Place = (u32, u32, u64, u64, u32);

impl State {
    /// Steps over a job until its customer may run again: at `wake`, when there are tokens for it, or when one ends.
    pub(crate) fn park(&mut self, slot: u32, wake: Option<Timestamp>) {
        self.set_ready(slot, false);
        self.set_hold(slot, if wake.is_some() { Hold::Throttled } else { Hold::Parked });
        let (customer, place) = (self.jobs[slot].customer, self.parked_place(slot));
        self.parked.jobs.insert(place);
        self.note(|_| Undo::Parked { place });
        self.scalars.counters.parked += 1;
        if wake.is_none() {
            return self.set_woken(customer, false);
        }
        self.wake_next(slot);
        self.rest(customer);
    }

    /// Passes over a job that can never run under its customer's plan; what stands behind it comes to its turn.
    pub(crate) fn bar(&mut self, slot: u32) {
        let job = &self.jobs[slot];
        let place = (job.customer, job.key.sequence(), slot);
        let weight = self.policy(job.customer).weight;
        self.set_hold(slot, Hold::Barred);
        self.places.detach(slot, weight);
        self.follow();
        self.parked.barred.insert(place);
        self.note(|_| Undo::Barred { place });
    }

    /// Ends the reason for which a job that waits is held.
    pub(crate) fn unhold(&mut self, slot: u32) {
        let job = &self.jobs[slot];
        match job.hot.hold {
            Hold::None | Hold::NotBefore => return,
            Hold::Parked | Hold::Throttled => {
                let (customer, place) = (job.customer, self.parked_place(slot));
                self.parked.jobs.remove(&place);
                self.note(|_| Undo::Unparked { place });
                if self.first_parked(customer).is_none() {
                    self.set_woken(customer, false);
                }
            }
            Hold::Barred => {
                let place = (job.customer, job.key.sequence(), slot);
                self.parked.barred.remove(&place);
                self.note(|_| Undo::Unbarred { place });
            }
        }
        self.set_hold(slot, Hold::None);
    }

    fn set_hold(&mut self, slot: u32, hold: Hold) {
        let mut hot = self.jobs[slot].hot;
        if hot.hold != hold {
            hot.hold = hold;
            self.set_hot(slot, hot);
        }
    }

    /// Looks at a customer's parked jobs again when it may run one more.
    pub(crate) fn wake(&mut self, customer: u32) {
        #[cfg(feature = "testing")]
        if self.has_bug(super::plant::Plant::LostWakeup, 0) {
            return;
        }
        if !self.parked.jobs.is_empty() && self.may_run(customer) && self.first_parked(customer).is_some() {
            self.set_woken(customer, true);
            self.look_at(customer);
            self.rest(customer);
        }
    }

    /// What a customer may do has changed: everything of it is looked at again.
    pub(crate) fn wake_all(&mut self, customer: u32) {
        self.arm_customer(customer, Timestamp::MAX);
        let barred = self.parked.barred.range((customer, 0, 0)..=(customer, u64::MAX, u32::MAX));
        for slot in barred.map(|(.., slot)| *slot).collect::<Vec<_>>() {
            self.unhold(slot);
            self.set_ready(slot, true);
        }
        while let Some((.., slot)) = self.first_parked(customer) {
            self.unhold(slot);
            self.set_ready(slot, true);
        }
    }

    /// Looks at every parked job again: which routes are of one class has changed.
    pub(crate) fn unpark_all(&mut self) {
        while let Some((.., slot)) = self.parked.jobs.first().copied() {
            self.unhold(slot);
            self.set_ready(slot, true);
        }
    }

    /// A ready job has gone, so that the next of its customer and class has to be looked at, if that was woken.
    pub(crate) fn wake_next(&mut self, slot: u32) {
        let customer = self.jobs[slot].customer;
        if self.is_awake(customer) {
            let class = self.table.routes[self.jobs[slot].route].class;
            let first = self.first_from((customer, class, 0, 0, 0)).filter(|first| first.1 == class);
            if let Some((.., slot)) = first.filter(|first| self.has_tokens(customer, first.2)) {
                self.unhold(slot);
                self.set_ready(slot, true);
            }
        }
    }

    /// A customer has a job more that runs: as soon as it may not run another, nothing of it needs to be looked at.
    pub(crate) fn note_started(&mut self, slot: u32) {
        let customer = self.jobs[slot].customer;
        if !self.is_awake(customer) {
            return;
        }
        if self.may_run(customer) {
            self.wake_next(slot);
            self.rest(customer);
        } else {
            self.set_woken(customer, false);
        }
    }

    /// Looks at parked jobs of customers that may run, while backends are free that nothing else wants. Whether there
    /// were any.
    pub(crate) fn pull(&mut self) -> bool {
        if !self.pool.any_free() {
            return false;
        }
        while let Some((_, customer)) = self.parked.woken.first().copied() {
            let looked = self.look_at(customer);
            self.rest(customer);
            if looked {
                return true;
            }
        }
        false
    }

    /// Lets the first parked job of each class of a customer be looked at, if there are tokens for it. Whether there was
    /// one.
    ///
    /// # Complexity
    /// O(log n) for each class of routes its parked jobs wait on.
    fn look_at(&mut self, customer: u32) -> bool {
        let mut from = (customer, 0, 0, 0, 0);
        let mut looked = false;
        while let Some((_, class, need, _, slot)) = self.first_from(from) {
            if self.has_tokens(customer, need) {
                self.unhold(slot);
                self.set_ready(slot, true);
                looked = true;
            }
            from = (customer, class + 1, 0, 0, 0);
        }
        looked
    }

    /// Lets a customer rest for whose parked jobs there are no tokens, until there are for one of them.
    fn rest(&mut self, customer: u32) {
        let mut from = (customer, 0, 0, 0, 0);
        let mut least: Option<u64> = None;
        while let Some((_, class, need, ..)) = self.first_from(from) {
            least = Some(least.map_or(need, |least| least.min(need)));
            from = (customer, class + 1, 0, 0, 0);
        }
        let Some(least) = least else { return };
        if let Some(until) = self.tokens_at(customer, least) {
            self.set_woken(customer, false);
            if self.customer_timers.armed(customer).is_none_or(|armed| until < armed) {
                self.arm_customer(customer, until);
            }
        }
    }

    /// When a customer has so many tokens; `None`: it has them now.
    fn tokens_at(&self, customer: u32, need: u64) -> Option<Timestamp> {
        let rate = self.policy(customer).rate.as_ref().filter(|_| need > 0)?;
        match self.customers[customer].bucket.peek(rate, need, self.now) {
            Acquire::Allow { .. } => None,
            Acquire::Deny { until } => Some(until),
            Acquire::Never => Some(Timestamp::MAX),
        }
    }

    fn has_tokens(&self, customer: u32, need: u64) -> bool {
        self.tokens_at(customer, need).is_none()
    }

    fn may_run(&self, customer: u32) -> bool {
        self.customers[customer].running < self.policy(customer).running_max
    }

    fn is_awake(&self, customer: u32) -> bool {
        !self.parked.woken.is_empty() && self.parked.woken.contains(&(self.customers[customer].order, customer))
    }

    pub(crate) fn set_woken(&mut self, customer: u32, woken: bool) {
        let entry = (self.customers[customer].order, customer);
        let changed = if woken { self.parked.woken.insert(entry) } else { self.parked.woken.remove(&entry) };
        if changed {
            self.note(|_| Undo::Woken { customer, woken: !woken });
        }
    }

    pub(crate) fn parked_place(&self, slot: u32) -> Place {
        let job = &self.jobs[slot];
        let need = if job.hot.hold == Hold::Throttled { job.tokens } else { 0 };
        (job.customer, self.table.routes[job.route].class, need, job.key.sequence(), slot)
    }

    pub(crate) fn first_parked(&self, customer: u32) -> Option<Place> {
        self.first_from((customer, 0, 0, 0, 0))
    }

    fn first_from(&self, from: Place) -> Option<Place> {
        self.parked.jobs.range(from..).next().copied().filter(|place| place.0 == from.0)
    }

    /// Whether something wakes a parked job: the end of another of its customer, an instant, or that it is looked at
    /// already.
    pub(crate) fn is_woken(&self, customer: u32, slot: u32) -> bool {
        self.is_awake(customer)
            || self.customer_timers.armed(customer).is_some()
            || matches!(self.blocked(slot), Some(Blocked::RunningMax))
    }
}
