//! The fair queue by itself: for hosts that want only to know who is next.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::accounts::Precision;
use super::key::{Entrant, Ordering};
use super::places::Places;
use crate::coded::{Full, InputError, Scope};
use crate::error::QueueError;
use crate::id::{NAME_LEN_MAX, check_name};
use crate::registry::Registry;

/// Limits and order of a [`FairQueue`].
///
/// ```
/// use libgateway::{FairQueueConfig, Ordering};
/// let config = FairQueueConfig::default().items_max(10).ordering(Ordering::Fifo);
/// assert_eq!((config.items_max, config.customers_max), (10, 100_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FairQueueConfig {
    /// How customers of one lane follow each other.
    pub ordering: Ordering,
    /// Items that may wait.
    pub items_max: u32,
    /// Customers known at once. Beyond that one is forgotten of which there is nothing to know: without items, not paused, of
    /// weight 1, and not ahead of others for what it was given. Where there is none, a new one is refused.
    pub customers_max: u32,
    /// Keys the hash tables.
    pub seed: u64,
}

/// A queue of lanes in which customers get their share by weight and cost, with exact positions.
///
/// Lanes are strict: a lower lane is served when nothing in a higher one can be. Within a lane customers are served in
/// proportion to their weights, counted in cost; items of one customer keep their order. Paused customers are stepped
/// over and lose no place.
///
/// The order of calls is free; there is no clock in it.
///
/// ```
/// use libgateway::{FairQueue, FairQueueConfig};
/// let mut queue = FairQueue::new(FairQueueConfig::default())?;
/// for n in 0..1_000 {
///     queue.push("flood", 1, 1_000, n)?;
/// }
/// let single = queue.push("single", 1, 1_000, 7_777)?;
/// // The flood had one item before it, not a thousand.
/// assert_eq!(queue.position(single), Some(1));
/// assert_eq!(queue.pop(), Some(0));
/// assert_eq!(queue.pop(), Some(7_777));
/// # Ok::<(), libgateway::error::QueueError>(())
/// ```
pub struct FairQueue<T> {
    config: FairQueueConfig,
    places: Places,
    customers: Registry<Customer>,
    /// Customers that can be forgotten as soon as they are not ahead of others; who is least so comes first.
    idle: BTreeSet<(u128, u32)>,
    items: Slab<Item<T>>,
    sequence: u64,
}

/// Which item of a queue; never used twice by one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket {
    slot: u32,
    sequence: u64,
}

struct Item<T> {
    sequence: u64,
    customer: u32,
    cost: u64,
    value: T,
}

#[derive(Clone, Copy, Debug)]
struct Customer {
    weight: u32,
    paused: bool,
    waiting: u32,
    /// Where it stands among the idle.
    idle: Option<u128>,
}

impl Default for FairQueueConfig {
    fn default() -> Self {
        Self { ordering: Ordering::Fair, items_max: 1_000_000, customers_max: 100_000, seed: 0 }
    }
}

impl FairQueueConfig {
    /// Sets [`FairQueueConfig::ordering`].
    #[must_use]
    pub const fn ordering(mut self, ordering: Ordering) -> Self {
        self.ordering = ordering;
        self
    }

    /// Sets [`FairQueueConfig::items_max`].
    #[must_use]
    pub const fn items_max(mut self, items_max: u32) -> Self {
        self.items_max = items_max;
        self
    }

    /// Sets [`FairQueueConfig::customers_max`].
    #[must_use]
    pub const fn customers_max(mut self, customers_max: u32) -> Self {
        self.customers_max = customers_max;
        self
    }

    /// Sets [`FairQueueConfig::seed`].
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl Ticket {
    /// The ticket as two numbers, for other languages.
    pub const fn to_parts(self) -> (u32, u64) {
        (self.slot, self.sequence)
    }

    /// The ticket of [`Ticket::to_parts`].
    pub const fn from_parts(slot: u32, sequence: u64) -> Self {
        Self { slot, sequence }
    }
}

impl<T> FairQueue<T> {
    /// An empty queue.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for a maximum of 0.
    pub fn new(config: FairQueueConfig) -> Result<Self, QueueError> {
        for (field, value) in [("items_max", config.items_max), ("customers_max", config.customers_max)] {
            if value == 0 || value == u32::MAX {
                let (value, max) = (u64::from(value), u64::from(u32::MAX - 1));
                return Err(InputError::OutOfRange { field, value, min: 1, max }.into());
            }
        }
        // 20 binary digits below a unit: weights tell also at a cost of 1.
        let precision = Precision { scale: 20, estimated: false };
        let mut places = Places::new(config.ordering, precision, config.seed);
        places.open_route(0, 0);
        Ok(Self {
            config,
            places,
            customers: Registry::of_part("customers", config.customers_max, config.seed),
            idle: BTreeSet::new(),
            items: Slab::new(),
            sequence: 0,
        })
    }

    /// Puts an item into a lane (0 is served first, 2 last) at the place its customer's account gives it. `cost` is in
    /// units of the host's choice, the same for all.
    ///
    /// # Errors
    /// [`QueueError::Input`] for the customer's name or a lane beyond 2; [`QueueError::Full`].
    ///
    /// # Complexity
    /// O(log n).
    pub fn push(&mut self, customer: &str, lane: u8, cost: u64, value: T) -> Result<Ticket, QueueError> {
        check_name("customer", customer, NAME_LEN_MAX)?;
        check_lane(lane)?;
        if self.items.len() >= self.config.items_max as usize {
            return Err(Full::new("items", Scope::Part, self.items.len() as u64, self.config.items_max.into()).into());
        }
        let customer = self.customer(customer)?;
        let sequence = self.sequence;
        self.sequence += 1;
        let slot = self.items.insert(Item { sequence, customer, cost, value }) as u32;
        let record = &mut self.customers[customer];
        record.waiting += 1;
        let Customer { weight, paused, .. } = *record;
        let entrant =
            Entrant { customer, route: 0, lane, sequence, cost, weight, alone: false, fresh: true, ready: !paused };
        self.places.push(slot, entrant);
        self.places.sweep();
        self.settle(customer);
        Ok(Ticket { slot, sequence })
    }

    /// Takes the next item that may be served. Its customer has been given its cost.
    ///
    /// # Complexity
    /// O(log n).
    pub fn pop(&mut self) -> Option<T> {
        self.pop_ticket().map(|(_, value)| value)
    }

    /// As [`FairQueue::pop`], with the item's ticket.
    pub fn pop_ticket(&mut self) -> Option<(Ticket, T)> {
        let (key, slot) = self.places.first(0)?;
        let item = self.items.get(slot as usize)?;
        let (customer, cost, ticket) = (item.customer, item.cost, Ticket { slot, sequence: item.sequence });
        let weight = self.customers[customer].weight;
        let charge = self.places.begin(slot, cost, weight);
        self.places.end(customer, 0, key.lane(), charge, cost, weight);
        self.forget_item(ticket).map(|item| (ticket, item.value))
    }

    /// Takes an item out wherever it stands, as if it had never come: its customer is charged nothing, and what stands
    /// behind it moves up when its turn comes. `None`: it is not in the queue any more.
    ///
    /// # Complexity
    /// O(log n).
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        self.get(ticket)?;
        let customer = self.items.get(ticket.slot as usize)?.customer;
        let Customer { weight, paused, .. } = self.customers[customer];
        self.places.remove(ticket.slot, weight, !paused)?;
        self.forget_item(ticket).map(|item| item.value)
    }

    /// Forgets an item that has no place any more.
    fn forget_item(&mut self, ticket: Ticket) -> Option<Item<T>> {
        let item = self.items.try_remove(ticket.slot as usize)?;
        self.customers[item.customer].waiting -= 1;
        self.settle(item.customer);
        Some(item)
    }

    /// Keeps a customer among the idle exactly while there is nothing to know of it but what it was given.
    fn settle(&mut self, customer: u32) {
        while self.places.pop_touched().is_some() {}
        let record = &mut self.customers[customer];
        if let Some(given) = record.idle.take() {
            self.idle.remove(&(given, customer));
        }
        if record.waiting == 0 && !record.paused && record.weight == 1 {
            let given = self.places.given(customer, 0);
            record.idle = Some(given);
            self.idle.insert((given, customer));
        }
    }

    /// How many items stand before one, paused or not. `None`: it is not in the queue any more.
    ///
    /// # Complexity
    /// O(log n).
    pub fn position(&self, ticket: Ticket) -> Option<u32> {
        self.get(ticket)?;
        self.places.rank(ticket.slot)
    }

    /// An item in the queue.
    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        let item = self.items.get(ticket.slot as usize)?;
        (item.sequence == ticket.sequence).then_some(&item.value)
    }

    /// Gives a customer a share, 1 to 1 000 000; 1 is the default. It holds from the next item on that is served, also for
    /// those that wait.
    ///
    /// # Errors
    /// [`QueueError::Input`]; [`QueueError::Full`].
    pub fn set_weight(&mut self, customer: &str, weight: u32) -> Result<(), QueueError> {
        check_name("customer", customer, NAME_LEN_MAX)?;
        if !(1..=WEIGHT_MAX).contains(&weight) {
            let (value, max) = (u64::from(weight), u64::from(WEIGHT_MAX));
            return Err(InputError::OutOfRange { field: "weight", value, min: 1, max }.into());
        }
        let customer = self.customer(customer)?;
        self.customers[customer].weight = weight;
        self.settle(customer);
        Ok(())
    }

    /// Steps over a customer's items until it is resumed. They keep their order; the time they stand still earns their
    /// customer nothing: it goes on where one that comes anew would begin, or behind that if it was given more.
    ///
    /// # Errors
    /// As [`FairQueue::set_weight`].
    pub fn pause(&mut self, customer: &str) -> Result<(), QueueError> {
        check_name("customer", customer, NAME_LEN_MAX)?;
        let customer = self.customer(customer)?;
        self.set_paused(customer, true);
        Ok(())
    }

    /// Serves a customer's items again.
    ///
    /// # Complexity
    /// O(log n) for each lane: only the head of a flow is ever looked at.
    pub fn resume(&mut self, customer: &str) {
        if let Some(customer) = self.customers.find(customer) {
            self.set_paused(customer, false);
        }
    }

    fn set_paused(&mut self, customer: u32, paused: bool) {
        let record = &mut self.customers[customer];
        record.paused = paused;
        let weight = record.weight;
        for lane in 0..LANES {
            if let Some(head) = self.places.head(customer, 0, lane) {
                self.places.set_ready(head, !paused, weight);
            }
        }
        self.settle(customer);
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many of a customer's items wait.
    pub fn waiting(&self, customer: &str) -> u32 {
        self.customers.find(customer).map_or(0, |customer| self.customers[customer].waiting)
    }

    /// The customer of that name, made if need be.
    fn customer(&mut self, name: &str) -> Result<u32, QueueError> {
        if let Some(customer) = self.customers.find(name) {
            return Ok(customer);
        }
        if self.customers.is_full() {
            self.forget_one();
        }
        let customer = self.customers.insert(name, Customer { weight: 1, paused: false, waiting: 0, idle: None })?;
        self.settle(customer);
        Ok(customer)
    }

    /// Forgets a customer of which there is nothing to know, if there is one.
    fn forget_one(&mut self) {
        // In one lane the first owes least. Lanes have times of their own, so a few more are looked at.
        let found = self.idle.iter().take(LOOK_MAX).find(|(_, customer)| !self.places.owes(*customer, 0)).copied();
        if let Some((given, customer)) = found {
            self.idle.remove(&(given, customer));
            self.places.forget_customer(customer);
            self.customers.remove(customer);
        }
    }

    /// Checks the queue against itself.
    ///
    /// # Panics
    /// On the first thing that does not hold.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        self.places.check_invariants();
        assert_eq!(self.places.len(0) as usize, self.items.len(), "each item has a place");
        for (customer, name, record) in self.customers.iter() {
            let waiting = self.items.iter().filter(|(_, item)| item.customer == customer).count();
            assert_eq!(record.waiting as usize, waiting, "items of {name}");
            let idle = record.waiting == 0 && !record.paused && record.weight == 1;
            assert_eq!(idle, record.idle.is_some(), "{name} can be forgotten iff there is nothing to know");
            let listed = self.idle.iter().filter(|(.., idle)| *idle == customer).count();
            assert_eq!(listed, usize::from(idle), "{name} stands among the idle once");
        }
    }
}

fn check_lane(lane: u8) -> Result<(), InputError> {
    if lane < LANES {
        return Ok(());
    }
    Err(InputError::OutOfRange { field: "lane", value: u64::from(lane), min: 0, max: u64::from(LANES - 1) })
}

const LANES: u8 = super::key::LANES as u8;
const WEIGHT_MAX: u32 = 1_000_000;
/// So many idle customers are looked at for one to forget.
const LOOK_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push { customer: u8, lane: u8, cost: u64 },
        Pop,
        Remove(prop::sample::Index),
        Weight { customer: u8, weight: u32 },
        Pause(u8),
        Resume(u8),
    }

    /// The queue as its documentation says it: all items in a list, every tag recomputed by hand, no index at all.
    #[derive(Default)]
    struct Model {
        fifo: bool,
        /// Lane, tag, sequence, customer.
        items: Vec<(u8, u128, u64, u8)>,
        costs: BTreeMap<u64, u64>,
        clocks: [u128; 3],
        /// The most anybody was given, by lane.
        highs: [u128; 3],
        /// By customer and lane: virtual time given, and what is left of a tick.
        given: BTreeMap<(u8, u8), (u128, u128)>,
        weights: BTreeMap<u8, u32>,
        paused: BTreeMap<u8, bool>,
        sequence: u64,
    }

    impl Model {
        fn push(&mut self, customer: u8, lane: u8, cost: u64) -> u64 {
            if !self.is_active(customer, lane) && self.runs(customer) {
                self.enter(customer, lane);
            }
            let tag = match self.own(customer, lane).last() {
                _ if self.fifo => 0,
                Some(last) => self.items[*last].1 + self.stride(*last),
                None => self.start(customer, lane),
            };
            self.costs.insert(self.sequence, cost);
            self.items.push((lane, tag, self.sequence, customer));
            self.items.sort_unstable();
            self.sequence += 1;
            self.sequence - 1
        }

        fn runs(&self, customer: u8) -> bool {
            !self.paused.get(&customer).copied().unwrap_or(false)
        }

        fn is_active(&self, customer: u8, lane: u8) -> bool {
            self.runs(customer) && !self.own(customer, lane).is_empty()
        }

        fn enter(&mut self, customer: u8, lane: u8) {
            let account = self.given.entry((customer, lane)).or_default();
            if account.0 <= self.clocks[lane as usize] {
                *account = (self.clocks[lane as usize], 0);
            }
        }

        /// Where a customer's next item of a lane starts.
        fn start(&self, customer: u8, lane: u8) -> u128 {
            self.given.get(&(customer, lane)).map_or(0, |(given, _)| *given).max(match self.is_active(customer, lane) {
                true => 0,
                false => self.clocks[lane as usize],
            })
        }

        /// Where a customer's items of a lane stand, in order of arrival.
        fn own(&self, customer: u8, lane: u8) -> Vec<usize> {
            let of = |(at, item): (usize, &(u8, u128, u64, u8))| ((item.0, item.3) == (lane, customer)).then_some(at);
            let mut own: Vec<usize> = self.items.iter().enumerate().filter_map(of).collect();
            own.sort_unstable_by_key(|at| self.items[*at].2);
            own
        }

        fn weight(&self, customer: u8) -> u128 {
            u128::from(self.weights.get(&customer).copied().unwrap_or(1))
        }

        fn stride(&self, at: usize) -> u128 {
            let (.., sequence, customer) = self.items[at];
            ((u128::from(self.costs[&sequence]) << 20) / self.weight(customer)).clamp(1, 1 << 62)
        }

        /// Moves a customer's next item to `tag`, and the others behind it where they would stand before it.
        fn update(&mut self, customer: u8, lane: u8, tag: u128) {
            let own = self.own(customer, lane);
            let Some((head, behind)) = own.split_first().filter(|(head, _)| !self.fifo && self.items[**head].1 != tag)
            else {
                return;
            };
            self.items[*head].1 = tag;
            let (mut last, mut tag) = (*head, tag);
            for at in behind {
                if self.items[*at].1 >= tag {
                    break;
                }
                tag += self.stride(last);
                self.items[*at].1 = tag;
                last = *at;
            }
            self.items.sort_unstable();
        }

        fn leave(&mut self, lane: u8) {
            if !(0..4).any(|customer| self.is_active(customer, lane)) {
                let clock = &mut self.clocks[lane as usize];
                *clock = (*clock).max(self.highs[lane as usize]);
            }
        }

        fn remove(&mut self, at: usize) -> u64 {
            let first = self.own(self.items[at].3, self.items[at].0)[0] == at;
            let (lane, _, sequence, customer) = self.items.remove(at);
            if first {
                let tag = self.start(customer, lane);
                self.update(customer, lane, tag);
            }
            if self.runs(customer) {
                self.leave(lane);
            }
            sequence
        }

        fn pop(&mut self) -> Option<u64> {
            let at = self.items.iter().position(|(.., customer)| self.runs(*customer))?;
            let stride = self.stride(at);
            let (lane, _, sequence, customer) = self.items.remove(at);
            if self.fifo {
                return Some(sequence);
            }
            let others = (0..4).any(|other| other != customer && self.is_active(other, lane));
            let (given, rest) = self.given[&(customer, lane)];
            let total = (u128::from(self.costs[&sequence]) << 20) + rest;
            // Tags end somewhere.
            let after = (given + total / self.weight(customer)).min(((1 << 82) - 1) / 2);
            self.given.insert((customer, lane), (after, total % self.weight(customer)));
            let (clock, high) = (&mut self.clocks[lane as usize], &mut self.highs[lane as usize]);
            *high = (*high).max(after);
            *clock = (*clock).max(if others { given } else { after });
            // As soon as it is served it is expected to cost what it then did.
            self.update(customer, lane, given + stride);
            self.update(customer, lane, after);
            self.leave(lane);
            Some(sequence)
        }

        fn pause(&mut self, customer: u8, paused: bool) {
            let before = self.runs(customer);
            self.paused.insert(customer, paused);
            for lane in 0..3 {
                match (before, self.runs(customer)) {
                    (true, false) if !self.own(customer, lane).is_empty() => self.leave(lane),
                    (false, true) if !self.own(customer, lane).is_empty() => {
                        self.enter(customer, lane);
                        self.update(customer, lane, self.given[&(customer, lane)].0);
                    }
                    _ => {}
                }
            }
        }
    }

    fn op() -> impl Strategy<Value = Op> {
        let cost = prop_oneof![1..50_u64, Just(0), Just(u64::MAX)];
        prop_oneof![
            5 => (0..4_u8, 0..3_u8, cost).prop_map(|(customer, lane, cost)| Op::Push { customer, lane, cost }),
            4 => Just(Op::Pop),
            1 => any::<prop::sample::Index>().prop_map(Op::Remove),
            1 => (0..4_u8, 1..5_u32).prop_map(|(customer, weight)| Op::Weight { customer, weight }),
            1 => (0..4_u8).prop_map(Op::Pause),
            1 => (0..4_u8).prop_map(Op::Resume),
        ]
    }

    proptest! {
        #[test]
        fn the_queue_serves_as_a_list_sorted_by_hand(ops in prop::collection::vec(op(), 1..300), fifo: bool) {
            let ordering = if fifo { Ordering::Fifo } else { Ordering::Fair };
            let mut queue = FairQueue::new(FairQueueConfig::default().ordering(ordering)).unwrap();
            let mut model = Model { fifo, ..Model::default() };
            let mut tickets = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Push { customer, lane, cost } => {
                        let sequence = model.push(customer, lane, cost);
                        tickets.insert(sequence, queue.push(&customer.to_string(), lane, cost, sequence).unwrap());
                    }
                    Op::Pop => prop_assert_eq!(queue.pop(), model.pop()),
                    Op::Remove(index) if !model.items.is_empty() => {
                        let sequence = model.remove(index.index(model.items.len()));
                        prop_assert_eq!(queue.remove(tickets[&sequence]), Some(sequence));
                        prop_assert_eq!(queue.remove(tickets[&sequence]), None);
                    }
                    Op::Remove(_) => {}
                    Op::Weight { customer, weight } => {
                        model.weights.insert(customer, weight);
                        queue.set_weight(&customer.to_string(), weight).unwrap();
                    }
                    Op::Pause(customer) => {
                        model.pause(customer, true);
                        queue.pause(&customer.to_string()).unwrap();
                    }
                    Op::Resume(customer) => {
                        model.pause(customer, false);
                        queue.resume(&customer.to_string());
                    }
                }
                queue.check_invariants();
                prop_assert_eq!(queue.len(), model.items.len());
                for (rank, (_, _, sequence, _)) in model.items.iter().enumerate() {
                    prop_assert_eq!(queue.position(tickets[sequence]), Some(rank as u32));
                }
            }
        }
    }

    /// Of `pops` items, how many each customer got.
    fn served<T: Copy + Ord>(queue: &mut FairQueue<T>, pops: usize) -> BTreeMap<T, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..pops {
            *served.entry(queue.pop().unwrap()).or_insert(0) += 1;
        }
        served
    }

    #[test]
    fn shares_follow_weights_at_any_cost() {
        for (weights, cost) in [((3, 1), 1), ((5, 4), 10), ((3, 1), 1_000_000_000), ((1_000_000, 250_000), 1)] {
            let mut queue = FairQueue::new(FairQueueConfig::default()).unwrap();
            queue.set_weight("a", weights.0).unwrap();
            queue.set_weight("b", weights.1).unwrap();
            for _ in 0..4_000 {
                queue.push("a", 1, cost, 'a').unwrap();
                queue.push("b", 1, cost, 'b').unwrap();
            }
            let pops = 3_600;
            let served = served(&mut queue, pops);
            let due = pops * weights.0 as usize / (weights.0 + weights.1) as usize;
            assert!(served[&'a'].abs_diff(due) <= 1, "{weights:?} at a cost of {cost}: {served:?}");
        }
    }

    #[test]
    fn an_item_taken_back_gives_back_what_it_took_and_what_is_behind_it_moves_up() {
        let mut queue = FairQueue::new(FairQueueConfig::default()).unwrap();
        let of_a: Vec<Ticket> = (0..10).map(|n| queue.push("a", 1, 5, ('a', n)).unwrap()).collect();
        for n in 0..10 {
            queue.push("b", 1, 5, ('b', n)).unwrap();
        }
        // Its weight of when it came says nothing any more.
        queue.set_weight("a", 2).unwrap();
        queue.set_weight("a", 1).unwrap();
        for ticket in &of_a[..9] {
            queue.remove(*ticket).unwrap();
        }
        assert_eq!(queue.position(of_a[9]), Some(0));
        assert_eq!((queue.pop(), queue.pop()), (Some(('a', 9)), Some(('b', 0))));
    }

    #[test]
    fn a_weight_holds_for_what_waits_already() {
        for (first, then, due) in [(1, 9, 90), (9, 1, 50)] {
            let mut queue = FairQueue::new(FairQueueConfig::default()).unwrap();
            queue.set_weight("a", first).unwrap();
            for _ in 0..1_000 {
                queue.push("a", 1, 7, 'a').unwrap();
                queue.push("b", 1, 7, 'b').unwrap();
            }
            served(&mut queue, 100);
            queue.set_weight("a", then).unwrap();
            let served = served(&mut queue, 100);
            assert!(served[&'a'].abs_diff(due) <= 2, "{first} to {then}: {served:?}");
        }
    }

    #[test]
    fn who_was_alone_owes_nothing() {
        let mut queue = FairQueue::new(FairQueueConfig::default()).unwrap();
        for kept in [false, true] {
            // Somebody who waits and may not be served is nobody.
            if kept {
                queue.push("c", 1, 1, 'c').unwrap();
                queue.pause("c").unwrap();
            }
            for _ in 0..100 {
                queue.push("a", 1, 100_000, 'a').unwrap();
            }
            served(&mut queue, 100);
            for _ in 0..100 {
                queue.push("a", 1, 1_000, 'a').unwrap();
                queue.push("b", 1, 1_000, 'b').unwrap();
            }
            let served = served(&mut queue, 100);
            assert!(served[&'b'].abs_diff(50) <= 1, "{served:?}");
            while queue.pop().is_some() {}
        }
    }

    #[test]
    fn a_table_full_of_customers_forgets_only_whom_there_is_nothing_to_know_of() {
        let full = || Err(QueueError::Full(Full::new("customers", Scope::Part, 3, 3)));
        let mut queue = FairQueue::new(FairQueueConfig::default().customers_max(3)).unwrap();
        let first = queue.push("a", 0, 1, 'a').unwrap();
        queue.push("b", 0, 1, 'b').unwrap();
        queue.push("z", 0, 1, 'z').unwrap();
        assert_eq!(queue.push("c", 0, 1, 'c').map(|_| ()), full());
        queue.remove(first);
        queue.push("c", 0, 1, 'c').unwrap();
        queue.check_invariants();
        assert_eq!((queue.waiting("a"), queue.waiting("c")), (0, 1));
        // Nobody goes who is paused, has a weight of its own or was just given more than others.
        let mut queue = FairQueue::new(FairQueueConfig::default().customers_max(3)).unwrap();
        queue.pause("paused").unwrap();
        queue.set_weight("weighty", 2).unwrap();
        queue.push("owes", 0, 10, 'o').unwrap();
        queue.push("weighty", 0, 10, 'w').unwrap();
        assert_eq!(queue.pop(), Some('o'));
        assert_eq!(queue.push("new", 0, 1, 'n').map(|_| ()), full());
        assert_eq!(queue.pop(), Some('w'));
        // The lane is empty: nobody owes anything.
        queue.push("new", 0, 1, 'n').unwrap();
        queue.check_invariants();
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let mut queue = FairQueue::new(FairQueueConfig::default().items_max(1)).unwrap();
        let field = |error: QueueError| crate::coded::Coded::field(&error).map(String::from);
        assert_eq!(queue.push("", 0, 1, ()).map_err(field), Err(Some("customer".into())));
        assert_eq!(queue.push("a", 3, 1, ()).map_err(field), Err(Some("lane".into())));
        assert_eq!(queue.set_weight("a", 0).map_err(field), Err(Some("weight".into())));
        queue.push("a", 2, 1, ()).unwrap();
        assert_eq!(queue.push("a", 2, 1, ()).map_err(field), Err(Some("items".into())));
        assert!(FairQueue::<()>::new(FairQueueConfig::default().items_max(0)).is_err());
    }
}
