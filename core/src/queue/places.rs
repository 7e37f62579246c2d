//! Who stands where: lanes, fair shares and flows of all routes in one structure.
//!
//! Every waiting item has a *place*: a 128-bit key of lane, virtual start time and sequence number. Service order is key
//! order, so the place in the queue is the rank of the key among the keys of its route, and a place never changes while
//! others come and go.
//!
//! **Fair share.** Start-time fair queueing: an item that arrives gets the start tag `S = max(V, F)`, where `V` is the
//! virtual time of its pool and lane (the start tag of the last item served) and `F` the finish tag of its customer's
//! last item there; then `F = S + cost / weight`. Customers are therefore served in proportion to their weights, in cost
//! and not in number; a customer alone, or customers with one item each, are served in order of arrival. What an item
//! did not use is taken from `F` again, so that one that leaves unserved is as one that never came; no item overtakes
//! its customer's own in line, though.
//!
//! **Flows.** Items of one customer, route and lane form a list in key order. Only its head carries the tree's `ready`
//! bit, so a customer that may not run now costs one place per flow to step over, however long its flow is.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::vec::Vec;

use hashbrown::HashTable;

use super::rank::{RankTree, TreeId};
use super::shares::{Share, Shares};
use crate::hashing::KeyHasher;

/// How customers of one lane follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ordering {
    /// Start-time fair queueing by weight and cost.
    #[default]
    Fair,
    /// Arrival order, whoever it is.
    Fifo,
}

/// A place in service order: lane, virtual start time, sequence number. The lower is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u128);

/// What an item brings when it enters the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrant {
    pub(crate) customer: u32,
    pub(crate) route: u32,
    pub(crate) lane: u8,
    /// Unique, rising in order of arrival.
    pub(crate) sequence: u64,
    /// Expected cost in nanoseconds of GPU time.
    pub(crate) cost: u64,
    /// Share of the customer, at least 1.
    pub(crate) weight: u32,
    /// Whether it keeps its place but may not be served until it is made ready.
    pub(crate) held: bool,
}

/// An item taken out of the queue, with all that [`Places::unremove`] needs to put it back as if it had never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) key: Key,
    /// Whether it could have been served: it was the head of its flow and neither parked nor held back.
    pub(crate) ready: bool,
    customer: u32,
    listed: Option<Listed>,
}

/// Between which two of its flow a removed item stood; [`NONE`] at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    previous: u32,
    next: u32,
}

/// All waiting items of all routes.
pub(crate) struct Places {
    ordering: Ordering,
    tree: RankTree,
    routes: Vec<RouteQueue>,
    shares: Shares,
    nodes: Vec<Node>,
    /// The head of each flow.
    flows: HashTable<u32>,
    hasher: KeyHasher,
}

#[derive(Clone, Copy, Debug)]
struct RouteQueue {
    tree: TreeId,
    pool: u32,
    /// The first place that may be served.
    first: Option<(Key, u32)>,
}

/// An item's links within its flow.
#[derive(Clone, Copy, Debug)]
struct Node {
    customer: u32,
    route: u32,
    /// [`NONE`]: the flow's tail.
    next: u32,
    /// The head's is the tail.
    previous: u32,
    lane: u8,
    /// Whether it is in a flow. An item that is not came back to an old place and carries its own `ready` bit.
    listed: bool,
}

impl Key {
    /// A key of its parts; each is clamped to its width.
    pub(crate) fn new(lane: u8, tag: u128, sequence: u64) -> Self {
        let lane = u128::from(lane).min(LANE_MAX);
        Self(
            lane << (TAG_BITS + SEQUENCE_BITS)
                | tag.min(TAG_MAX) << SEQUENCE_BITS
                | u128::from(sequence & SEQUENCE_MAX),
        )
    }

    pub(crate) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u128 {
        self.0
    }

    /// The lane, 0 is served first.
    pub fn lane(self) -> u8 {
        (self.0 >> (TAG_BITS + SEQUENCE_BITS)) as u8
    }

    /// The sequence number of arrival.
    pub fn sequence(self) -> u64 {
        self.0 as u64 & SEQUENCE_MAX
    }

    pub(crate) fn tag(self) -> u128 {
        self.0 >> SEQUENCE_BITS & TAG_MAX
    }
}

impl Places {
    pub(crate) fn new(ordering: Ordering, seed: u64) -> Self {
        Self {
            ordering,
            tree: RankTree::new(),
            routes: Vec::new(),
            shares: Shares::new(seed),
            nodes: Vec::new(),
            flows: HashTable::new(),
            hasher: KeyHasher::new(seed),
        }
    }

    /// Makes `route` ready to use as an empty queue of `pool`. Both are small dense numbers.
    pub(crate) fn open_route(&mut self, route: u32, pool: u32) {
        while self.routes.len() <= route as usize {
            let tree = self.tree.new_tree();
            self.routes.push(RouteQueue { tree, pool: NONE, first: None });
        }
        self.shares.open_pool(pool);
        debug_assert!(self.len(route) == 0, "a route changes its pool while empty");
        self.routes[route as usize].pool = pool;
    }

    /// Puts an item at the place its customer's share gives it. Returns its key, and the share as it was before.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub(crate) fn push(&mut self, item: u32, entrant: Entrant) -> (Key, Option<Share>) {
        let Entrant { customer, route, lane, sequence, cost, weight, held } = entrant;
        let head = self.head(customer, route, lane);
        let (tag, before) = match self.ordering {
            Ordering::Fifo => (0, None),
            Ordering::Fair => {
                let pool = self.routes[route as usize].pool;
                let (share, now) = self.shares.open(customer, pool, lane);
                let before = *share;
                let mut start = before.finish.max(now);
                if start < before.beyond() {
                    // Only then: finding the tail takes memory that nobody touched lately.
                    start = start.max(head.map_or(0, |head| tail_key(&self.tree, &self.nodes, head).tag() + 1));
                }
                share.move_to(start.saturating_add(stride(cost, weight)).min(TAG_MAX));
                (start, Some(before))
            }
        };
        let key = Key::new(lane, tag, sequence);
        if held {
            self.restore(item, customer, route, key, false);
        } else {
            self.append(item, customer, route, key, head);
        }
        (key, before)
    }

    /// Undoes a [`Places::push`] whose item is still in the queue.
    pub(crate) fn unpush(&mut self, item: u32, before: Option<Share>) {
        self.remove(item);
        if let Some(share) = before {
            self.set_share(share);
        }
    }

    /// Puts an item back to a place it had before. `ready` is false for one that may not run yet.
    pub(crate) fn restore(&mut self, item: u32, customer: u32, route: u32, key: Key, ready: bool) {
        let lane = key.lane();
        self.set_node(item, Node { customer, route, next: NONE, previous: item, lane, listed: false });
        self.tree.insert(self.routes[route as usize].tree, key.0, item, ready);
        if ready {
            self.offer_first(route, key, item);
        }
    }

    /// Puts a listed item back behind its flow's tail: for restoring, in key order.
    pub(crate) fn relist(&mut self, item: u32, customer: u32, route: u32, key: Key) {
        self.append(item, customer, route, key, self.head(customer, route, key.lane()));
        if self.ordering == Ordering::Fair {
            let pool = self.routes[route as usize].pool;
            self.shares.note_in_line(customer, pool, key.lane(), key.tag());
        }
    }

    /// Whether an item stands in its flow's list. If not, it came back to a place it had, and is ready on its own.
    pub(crate) fn is_listed(&self, item: u32) -> bool {
        self.nodes.get(item as usize).is_some_and(|node| node.listed)
    }

    /// Undoes a [`Places::remove`], when everything since has been undone.
    pub(crate) fn unremove(&mut self, item: u32, route: u32, removed: Removed) {
        let Removed { key, ready, customer, listed } = removed;
        let lane = key.lane();
        match listed {
            None => return self.restore(item, customer, route, key, ready),
            Some(Listed { previous: NONE, next: NONE }) => self.relist(item, customer, route, key),
            Some(Listed { previous, next }) => {
                let before = if previous == NONE {
                    // Its heir became ready by the removal alone.
                    self.set_ready(next, false);
                    self.set_head(next, item);
                    self.nodes[next as usize].previous
                } else {
                    self.nodes[previous as usize].next = item;
                    previous
                };
                self.set_node(item, Node { customer, route, next, previous: before, lane, listed: true });
                let after = if next == NONE { self.head(customer, route, lane).unwrap_or(item) } else { next };
                self.nodes[after as usize].previous = item;
                self.tree.insert(self.routes[route as usize].tree, key.0, item, true);
                self.offer_first(route, key, item);
            }
        }
        if !ready {
            self.set_ready(item, false);
        }
    }

    /// Takes an item out, wherever it stands.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub(crate) fn remove(&mut self, item: u32) -> Option<Removed> {
        let (key, ready) = self.tree.remove(item)?;
        let node = self.nodes[item as usize];
        let listed = node.listed.then(|| self.unlink(item, node));
        let heir = listed.filter(|listed| listed.previous == NONE && listed.next != NONE).map(|listed| listed.next);
        let route = &mut self.routes[node.route as usize];
        if matches!(route.first, Some((_, first)) if first == item) {
            let tree = route.tree;
            if let Some(heir) = heir {
                self.tree.set_ready(heir, true);
            }
            self.routes[node.route as usize].first = self.tree.first_ready(tree).map(|(key, item)| (Key(key), item));
        } else if let Some(heir) = heir {
            self.set_ready(heir, true);
        }
        Some(Removed { key: Key(key), ready, customer: node.customer, listed })
    }

    /// Tells that a place was served: the virtual time of its lane goes on to its start tag. Returns what it was before.
    pub(crate) fn serve(&mut self, route: u32, key: Key) -> u128 {
        let pool = self.routes[route as usize].pool;
        let before = self.shares.clock(pool, key.lane());
        self.shares.set_clock(pool, key.lane(), before.max(key.tag()));
        before
    }

    /// Sets the virtual time of a pool's lane: the inverse of [`Places::serve`], and for restoring.
    pub(crate) fn set_clock(&mut self, pool: u32, lane: u8, time: u128) {
        self.shares.set_clock(pool, lane, time);
    }

    pub(crate) fn clock(&self, pool: u32, lane: u8) -> u128 {
        self.shares.clock(pool, lane)
    }

    /// Replaces the expected cost of an item by what it took, which is nothing for one that leaves unserved: the customer's
    /// next arrival starts later, or earlier but not before its own in line. Returns the share as it was before, if it
    /// changed.
    pub(crate) fn correct(
        &mut self,
        customer: u32,
        pool: u32,
        lane: u8,
        expected: u128,
        actual: u128,
    ) -> Option<Share> {
        if self.ordering == Ordering::Fifo || expected == actual {
            return None;
        }
        self.shares.correct(customer, pool, lane, expected, actual)
    }

    /// Sets a customer's share: the inverse of a push or a correction.
    pub(crate) fn set_share(&mut self, share: Share) {
        self.shares.set(share);
    }

    /// Sets where a customer's next item may start, for restoring.
    pub(crate) fn restore_share(&mut self, share: Share) {
        self.shares.open(share.customer, share.pool(), share.lane()).0.move_to(share.finish);
    }

    /// Shares that still say something: those ahead of their lane's virtual time. In no fixed order.
    pub(crate) fn shares(&self) -> impl Iterator<Item = Share> + '_ {
        self.shares.iter()
    }

    /// Forgets what a customer was given. For one that left.
    ///
    /// # Complexity
    /// O(pools).
    pub(crate) fn forget_customer(&mut self, customer: u32) {
        self.shares.forget_customer(customer);
    }

    /// Forgets a pool's virtual time and what customers were given there. For one without items, before its number is
    /// used again.
    ///
    /// # Complexity
    /// O(shares of all pools).
    pub(crate) fn close_pool(&mut self, pool: u32) {
        self.shares.close_pool(pool);
    }

    /// Drops some of the shares that say nothing any more, see [`Shares::sweep`].
    #[inline]
    pub(crate) fn sweep(&mut self) {
        self.shares.sweep();
    }

    /// Takes away or gives back an item's chance to be served; its place stays.
    pub(crate) fn set_ready(&mut self, item: u32, ready: bool) {
        let Some(key) = self.tree.key(item) else { return };
        self.tree.set_ready(item, ready);
        let route = self.nodes[item as usize].route;
        if ready {
            self.offer_first(route, Key(key), item);
            return;
        }
        let queue = &mut self.routes[route as usize];
        if matches!(queue.first, Some((_, first)) if first == item) {
            queue.first = self.tree.first_ready(queue.tree).map(|(key, item)| (Key(key), item));
        }
    }

    /// The first item of a route that may be served.
    pub(crate) fn first(&self, route: u32) -> Option<(Key, u32)> {
        self.routes.get(route as usize).and_then(|queue| queue.first)
    }

    /// The first listed item of a customer on a route, in a lane.
    pub(crate) fn head(&self, customer: u32, route: u32, lane: u8) -> Option<u32> {
        let nodes = &self.nodes;
        let hash = self.hash(customer, route, lane);
        self.flows.find(hash, |head| nodes[*head as usize].is_of(customer, route, lane)).copied()
    }

    /// How many items of its route stand before it.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub(crate) fn rank(&self, item: u32) -> Option<u32> {
        self.tree.rank(item)
    }

    pub(crate) fn len(&self, route: u32) -> u32 {
        self.routes.get(route as usize).map_or(0, |queue| self.tree.len(queue.tree))
    }

    /// The items of a route in service order, each with whether it may be served.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn iter(&self, route: u32) -> impl Iterator<Item = (Key, u32, bool)> + '_ {
        let queue = self.routes.get(route as usize);
        queue.into_iter().flat_map(|queue| self.tree.iter(queue.tree)).map(|(key, item, ready)| (Key(key), item, ready))
    }

    /// Bytes held for places, for measuring.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tree.memory_bytes()
            + self.nodes.capacity() * size_of::<Node>()
            + self.flows.allocation_size()
            + self.shares.memory_bytes()
    }

    /// Puts an item behind the tail of the flow with that head, or makes it a flow of its own.
    fn append(&mut self, item: u32, customer: u32, route: u32, key: Key, head: Option<u32>) {
        let lane = key.lane();
        let previous = match head {
            // Only an aged item can be older than the tail, where tags do not tell them apart: it stands on its own.
            Some(head) if tail_key(&self.tree, &self.nodes, head) > key => {
                return self.restore(item, customer, route, key, true);
            }
            Some(head) => {
                let tail = core::mem::replace(&mut self.nodes[head as usize].previous, item);
                self.nodes[tail as usize].next = item;
                tail
            }
            None => item,
        };
        self.set_node(item, Node { customer, route, next: NONE, previous, lane, listed: true });
        let ready = head.is_none();
        if ready {
            let hash = self.hash(customer, route, lane);
            let Self { flows, nodes, hasher, .. } = self;
            flows.insert_unique(hash, item, |head| nodes[*head as usize].hash(hasher));
        }
        self.tree.insert(self.routes[route as usize].tree, key.0, item, ready);
        if ready {
            self.offer_first(route, key, item);
        }
    }

    /// Takes an item out of its flow. Returns where it stood; what follows a head is the head then.
    fn unlink(&mut self, item: u32, node: Node) -> Listed {
        let Node { next, previous, .. } = node;
        if previous == item {
            let hash = node.hash(&self.hasher);
            if let Ok(flow) = self.flows.find_entry(hash, |head| *head == item) {
                flow.remove();
            }
            return Listed { previous: NONE, next: NONE };
        }
        if self.nodes[previous as usize].next != item {
            self.nodes[next as usize].previous = previous;
            self.set_head(item, next);
            return Listed { previous: NONE, next };
        }
        self.nodes[previous as usize].next = next;
        let after = if next == NONE { self.head(node.customer, node.route, node.lane) } else { Some(next) };
        if let Some(after) = after {
            self.nodes[after as usize].previous = previous;
        }
        Listed { previous, next }
    }

    /// Makes another item the head of a flow.
    fn set_head(&mut self, head: u32, new: u32) {
        let hash = self.nodes[head as usize].hash(&self.hasher);
        if let Some(flow) = self.flows.find_mut(hash, |other| *other == head) {
            *flow = new;
        }
    }

    fn offer_first(&mut self, route: u32, key: Key, item: u32) {
        let first = &mut self.routes[route as usize].first;
        if first.is_none_or(|(least, _)| key < least) {
            *first = Some((key, item));
        }
    }

    fn set_node(&mut self, item: u32, node: Node) {
        if self.nodes.len() <= item as usize {
            self.nodes.resize(item as usize + 1, node);
        }
        self.nodes[item as usize] = node;
    }

    fn hash(&self, customer: u32, place: u32, lane: u8) -> u64 {
        hash_triple(&self.hasher, customer, place, lane)
    }
}

#[cfg(any(test, feature = "testing"))]
impl Places {
    /// Checks the tree, the flows and the cached heads against each other.
    ///
    /// # Panics
    /// On the first one that does not hold.
    pub(crate) fn check_invariants(&self) {
        self.tree.check_invariants();
        for head in &self.flows {
            let Node { customer, route, lane, previous: tail, .. } = self.nodes[*head as usize];
            assert_eq!(self.head(customer, route, lane), Some(*head), "a flow is found by what it is of");
            let (mut item, mut previous, mut last) = (*head, tail, None);
            loop {
                let node = self.nodes[item as usize];
                assert!(node.is_of(customer, route, lane) && node.listed, "{item} belongs to its flow");
                assert_eq!(node.previous, previous, "links of {item}");
                let key = self.tree.key(item).unwrap_or(u128::MAX);
                assert_eq!(Key(key).lane(), lane, "a flow keeps to its lane");
                assert!(last.is_none_or(|last| last < key), "a flow is in key order");
                last = Some(key);
                if node.next == NONE {
                    let beyond = self.shares.beyond(customer, self.routes[route as usize].pool, lane);
                    let bounded = self.ordering == Ordering::Fifo || Key(key).tag() < beyond || beyond >= TAG_MAX;
                    assert!(bounded, "the next of a customer stands behind its last");
                    assert_eq!(item, tail, "the last of a flow is its tail");
                    break;
                }
                (previous, item) = (item, node.next);
            }
        }
        for (route, queue) in self.routes.iter().enumerate() {
            let ready = self.tree.iter(queue.tree).find(|(.., ready)| *ready).map(|(key, item, _)| (Key(key), item));
            assert_eq!(queue.first, ready, "first of route {route}");
        }
        self.shares.check_invariants();
    }
}

impl Node {
    fn is_of(&self, customer: u32, route: u32, lane: u8) -> bool {
        self.customer == customer && self.route == route && self.lane == lane
    }

    fn hash(&self, hasher: &KeyHasher) -> u64 {
        hash_triple(hasher, self.customer, self.route, self.lane)
    }
}

fn tail_key(tree: &RankTree, nodes: &[Node], head: u32) -> Key {
    Key(tree.key(nodes[head as usize].previous).unwrap_or_default())
}

/// Virtual time an item of this cost takes from a customer of this weight: at least one tick, so that order of arrival
/// decides within a customer.
pub(crate) fn stride(cost: u64, weight: u32) -> u128 {
    u128::from(cost / u64::from(weight.max(1))).max(1)
}

fn hash_triple(hasher: &KeyHasher, customer: u32, place: u32, lane: u8) -> u64 {
    hasher.hash(&(u64::from(customer) << 32 | u64::from(place), lane))
}

/// Lanes of a queue.
pub(crate) const LANES: usize = 3;
/// No item, no flow, no account.
const NONE: u32 = u32::MAX;

/// 76 bits of nanoseconds: with ten thousand GPUs working for one customer of weight 1, some 240 years. Beyond that
/// tags saturate and order of arrival decides.
const TAG_BITS: u32 = 76;
pub(crate) const TAG_MAX: u128 = (1 << TAG_BITS) - 1;
/// 48 bits of sequence: at ten thousand items a second, some 890 years.
const SEQUENCE_BITS: u32 = 48;
pub(crate) const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;
const LANE_MAX: u128 = 15;
