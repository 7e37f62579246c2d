//! The fair queue by itself: for hosts that want only to know who is next.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::places::{Entrant, Ordering, Places, stride};
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
    /// Customers known at once. Beyond that the one longest without items is forgotten, and what it was given with it.
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
    /// Customers without items, the longest so first; some may have items again.
    idle: VecDeque<u32>,
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
    idle: bool,
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
        let mut places = Places::new(config.ordering, config.seed);
        places.open_route(0, 0);
        Ok(Self {
            config,
            places,
            customers: Registry::of_part("customers", config.customers_max, config.seed),
            idle: VecDeque::new(),
            items: Slab::new(),
            sequence: 0,
        })
    }

    /// Puts an item into a lane (0 is served first, 2 last) at the place its customer's share gives it. `cost` is in
    /// units of the host's choice, the same for all; it is divided by the weight in whole units, so choose fine ones:
    /// nanoseconds rather than seconds.
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
        self.places.push(slot, Entrant { customer, route: 0, lane, sequence, cost, weight, held: false });
        self.places.sweep();
        if paused {
            self.places.set_ready(slot, false);
        }
        Ok(Ticket { slot, sequence })
    }

    /// Takes the next item that may be served.
    ///
    /// # Complexity
    /// O(log n).
    pub fn pop(&mut self) -> Option<T> {
        self.pop_ticket().map(|(_, value)| value)
    }

    /// As [`FairQueue::pop`], with the item's ticket.
    pub fn pop_ticket(&mut self) -> Option<(Ticket, T)> {
        // A paused customer's flow shows its next item as ready when the one before leaves: it is stepped over here.
        loop {
            let (key, slot) = self.places.first(0)?;
            let item = self.items.get(slot as usize)?;
            if self.customers[item.customer].paused {
                self.places.set_ready(slot, false);
                continue;
            }
            self.places.serve(0, key);
            let ticket = Ticket { slot, sequence: item.sequence };
            return self.take(ticket).map(|(_, item)| (ticket, item.value));
        }
    }

    /// Takes an item out wherever it stands, as if it had never come. `None`: it is not in the queue any more.
    ///
    /// # Complexity
    /// O(log n).
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let (lane, item) = self.take(ticket)?;
        let weight = self.customers[item.customer].weight;
        self.places.correct(item.customer, 0, lane, stride(item.cost, weight), 0);
        Some(item.value)
    }

    fn take(&mut self, ticket: Ticket) -> Option<(u8, Item<T>)> {
        self.get(ticket)?;
        let removed = self.places.remove(ticket.slot)?;
        let item = self.items.try_remove(ticket.slot as usize)?;
        let record = &mut self.customers[item.customer];
        record.waiting -= 1;
        if record.waiting == 0 && !record.idle {
            record.idle = true;
            self.idle.push_back(item.customer);
        }
        Some((removed.key.lane(), item))
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

    /// Gives a customer a share, 1 to 1 000 000; 1 is the default. Items that wait keep their places.
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
        Ok(())
    }

    /// Steps over a customer's items until it is resumed. They keep their places.
    ///
    /// # Errors
    /// As [`FairQueue::set_weight`].
    pub fn pause(&mut self, customer: &str) -> Result<(), QueueError> {
        check_name("customer", customer, NAME_LEN_MAX)?;
        let customer = self.customer(customer)?;
        self.customers[customer].paused = true;
        Ok(())
    }

    /// Serves a customer's items again.
    ///
    /// # Complexity
    /// O(log n) for each lane: only the head of a flow is ever looked at.
    pub fn resume(&mut self, customer: &str) {
        let Some(customer) = self.customers.find(customer) else { return };
        self.customers[customer].paused = false;
        for lane in 0..LANES {
            if let Some(head) = self.places.head(customer, 0, lane) {
                self.places.set_ready(head, true);
            }
        }
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
        let record = Customer { weight: 1, paused: false, waiting: 0, idle: true };
        let customer = self.customers.insert(name, record)?;
        self.idle.push_back(customer);
        Ok(customer)
    }

    /// Forgets the customer that has been without items longest, if there is one.
    fn forget_one(&mut self) {
        while let Some(customer) = self.idle.pop_front() {
            let record = &mut self.customers[customer];
            record.idle = false;
            if record.waiting == 0 {
                self.places.forget_customer(customer);
                self.customers.remove(customer);
                return;
            }
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
            let listed = self.idle.iter().filter(|idle| **idle == customer).count();
            assert_eq!(listed, usize::from(record.idle), "{name} stands among the idle once");
            assert!(record.waiting > 0 || record.idle, "{name} can be forgotten");
        }
    }
}

fn check_lane(lane: u8) -> Result<(), InputError> {
    if lane < LANES {
        return Ok(());
    }
    Err(InputError::OutOfRange { field: "lane", value: u64::from(lane), min: 0, max: u64::from(LANES - 1) })
}

const LANES: u8 = super::places::LANES as u8;
const WEIGHT_MAX: u32 = 1_000_000;

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
        items: Vec<(u8, u128, u64, u8)>,
        costs: BTreeMap<u64, u64>,
        clocks: [u128; 3],
        finish: BTreeMap<(u8, u8), u128>,
        weights: BTreeMap<u8, u32>,
        paused: BTreeMap<u8, bool>,
        sequence: u64,
    }

    impl Model {
        fn push(&mut self, customer: u8, lane: u8, cost: u64) -> u64 {
            let own = self.items.iter().filter(|(at, .., owner)| (*at, *owner) == (lane, customer));
            let in_line = own.map(|(_, tag, ..)| *tag + 1).max().unwrap_or(0);
            let stride = self.stride(customer, cost);
            let finish = self.finish.entry((customer, lane)).or_default();
            let start = (*finish).max(self.clocks[lane as usize]).max(in_line);
            *finish = start + stride;
            self.costs.insert(self.sequence, cost);
            let tag = if self.fifo { 0 } else { start };
            self.items.push((lane, tag, self.sequence, customer));
            self.items.sort_unstable();
            self.sequence += 1;
            self.sequence - 1
        }

        fn stride(&self, customer: u8, cost: u64) -> u128 {
            let weight = self.weights.get(&customer).copied().unwrap_or(1);
            u128::from(cost / u64::from(weight)).max(1)
        }

        fn remove(&mut self, at: usize) -> u64 {
            let (lane, _, sequence, customer) = self.items.remove(at);
            let stride = self.stride(customer, self.costs[&sequence]);
            let finish = self.finish.entry((customer, lane)).or_default();
            if *finish > self.clocks[lane as usize] {
                *finish = finish.saturating_sub(stride);
            }
            sequence
        }

        fn pop(&mut self) -> Option<u64> {
            let runs = |customer: &u8| !self.paused.get(customer).copied().unwrap_or(false);
            let at = self.items.iter().position(|(.., customer)| runs(customer))?;
            let (lane, tag, sequence, _) = self.items.remove(at);
            self.clocks[lane as usize] = self.clocks[lane as usize].max(tag);
            Some(sequence)
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
                        model.paused.insert(customer, true);
                        queue.pause(&customer.to_string()).unwrap();
                    }
                    Op::Resume(customer) => {
                        model.paused.insert(customer, false);
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

    #[test]
    fn shares_follow_weights_in_cost() {
        let mut queue = FairQueue::new(FairQueueConfig::default()).unwrap();
        queue.set_weight("three", 3).unwrap();
        for _ in 0..4_000 {
            queue.push("three", 1, 100_000, ("three", 100_000_i64)).unwrap();
            queue.push("one", 1, 50_000, ("one", 50_000_i64)).unwrap();
        }
        let mut served = BTreeMap::new();
        for _ in 0..2_000 {
            let (customer, cost) = queue.pop().unwrap();
            *served.entry(customer).or_insert(0) += cost;
        }
        // 3 : 1 in cost, within one item each.
        assert!((served["three"] - 3 * served["one"]).abs() <= 150_000, "{served:?}");
    }

    #[test]
    fn a_table_full_of_customers_forgets_the_idle_one_and_refuses_where_none_is() {
        let mut queue = FairQueue::new(FairQueueConfig::default().customers_max(2)).unwrap();
        let first = queue.push("a", 0, 1, 'a').unwrap();
        queue.push("b", 0, 1, 'b').unwrap();
        assert_eq!(queue.push("c", 0, 1, 'c'), Err(QueueError::Full(Full::new("customers", Scope::Part, 2, 2))));
        queue.remove(first);
        queue.push("c", 0, 1, 'c').unwrap();
        queue.check_invariants();
        assert_eq!((queue.waiting("a"), queue.waiting("c")), (0, 1));
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
