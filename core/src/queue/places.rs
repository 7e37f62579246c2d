//! Who stands where: lanes, fair shares and flows of all routes in one structure.
//!
//! Every waiting item has a *place*: a 128-bit key of lane, virtual start time and sequence number. Service order is key
//! order, so the place in the queue is the rank of the key among the keys of its route.
//!
//! **Fair share.** Start-time fair queueing over what was really used. A customer's *account* in a lane of a pool counts
//! the virtual time it has been given (used cost over weight), and what its running items are expected to use. Items of
//! one customer, route and lane form a *flow* in order of arrival, to which an item that comes back comes again; the head
//! of a flow stands at its account's time, and only heads are served. So estimates, weights of former days, items that left
//! unserved and the length of a line say nothing in the choice: the customer that was given least, by its weight of now,
//! goes first. Who comes anew starts where the lane stands, and when a lane is empty everybody does.
//!
//! **Places behind a head** are where it is expected to come: one stride behind the item before. They follow when what
//! stands before them moves beyond them; when it moves nearer, they do as they become heads. A head's place is brought up
//! to date when its flow is served or ends an item, when it may be served again, and before it is served.
//!
//! **Ready.** Only a head carries the tree's `ready` bit, so a customer that may not run now costs one place per flow to
//! step over, however long its flow is.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

mod line;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hashbrown::HashTable;

use super::accounts::{Account, Accounts, Lane, Precision};
use super::key::{Entrant, Key, LANES, Ordering, TAG_MAX};
use super::rank::{RankTree, TreeId};
use crate::hashing::KeyHasher;

/// An item taken out of the queue, with all that is needed to put it back as if it had never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Removed {
    key: Key,
    ready: bool,
    node: Node,
    listed: Option<Listed>,
}

/// Between which two of its flow a removed item stood; [`NONE`] at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    previous: u32,
    next: u32,
}

/// The inverse of a change.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Inserted(u32),
    Removed(u32, Removed),
    Moved(u32, Key),
    Readied(u32, bool),
    Account(u32, Account),
    Lane(u32, u8, Lane),
}

/// All waiting items of all routes.
pub(crate) struct Places {
    ordering: Ordering,
    tree: RankTree,
    routes: Vec<RouteQueue>,
    accounts: Accounts,
    nodes: Vec<Node>,
    /// The head of each flow.
    flows: HashTable<u32>,
    /// Items that came to their flow's line again: by customer, route, lane and sequence.
    returned: BTreeMap<(u32, u32, u8, u64), u32>,
    hasher: KeyHasher,
    /// Inverses of changes that may yet be undone.
    undo: Vec<Undo>,
    recording: bool,
    /// Routes whose first place may be another one than when somebody asked last.
    touched: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct RouteQueue {
    tree: TreeId,
    pool: u32,
    /// Whether nothing of it can be served, so that nobody is active by what waits there.
    closed: bool,
    /// The first place that may be served.
    first: Option<(Key, u32)>,
}

/// What an item is and its links within its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    cost: u64,
    customer: u32,
    route: u32,
    account: u32,
    /// [`NONE`]: the flow's tail.
    next: u32,
    /// The head's is the tail.
    previous: u32,
    lane: u8,
    /// Whether it is in a flow's line.
    listed: bool,
    /// Whether it is there again.
    returned: bool,
}

impl Places {
    pub(crate) fn new(ordering: Ordering, precision: Precision, seed: u64) -> Self {
        Self {
            ordering,
            tree: RankTree::new(),
            routes: Vec::new(),
            accounts: Accounts::new(precision, seed),
            nodes: Vec::new(),
            flows: HashTable::new(),
            returned: BTreeMap::new(),
            hasher: KeyHasher::new(seed),
            undo: Vec::new(),
            recording: false,
            touched: Vec::new(),
        }
    }

    /// Makes `route` ready to use as an empty queue of `pool`. Both are small dense numbers.
    pub(crate) fn open_route(&mut self, route: u32, pool: u32) {
        while self.routes.len() <= route as usize {
            let tree = self.tree.new_tree();
            self.routes.push(RouteQueue { tree, pool: NONE, closed: false, first: None });
        }
        self.accounts.open_pool(pool);
        debug_assert!(self.len(route) == 0, "a route changes its pool while empty");
        let queue = &mut self.routes[route as usize];
        (queue.pool, queue.closed) = (pool, false);
    }

    /// Says whether nothing of a route can be served. For several routes at once: those that open first, so that the order of
    /// the others does not matter.
    ///
    /// # Complexity
    /// O(n) of the route's length, where that changes.
    pub(crate) fn set_closed(&mut self, route: u32, closed: bool) {
        let queue = &mut self.routes[route as usize];
        if core::mem::replace(&mut queue.closed, closed) == closed {
            return;
        }
        let ready = self.tree.iter(queue.tree).filter(|(.., ready)| *ready).map(|(_, item, _)| item);
        for item in ready.collect::<Vec<_>>() {
            let account = self.nodes[item as usize].account;
            if closed { self.leave(account) } else { self.enter(account) }
        }
    }

    /// Puts an item at the place its customer's account gives it. Returns the item that was the head of its flow and is no
    /// longer, if there is one.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub(crate) fn push(&mut self, item: u32, entrant: Entrant) -> Option<u32> {
        let Entrant { customer, route, lane, sequence, cost, weight, alone, fresh, ready } = entrant;
        let account = self.open_account(customer, route, lane);
        let node = Node { cost, account, returned: !fresh, ..Node::of(item, customer, route, lane) };
        if alone {
            let node = Node { returned: false, ..node };
            self.place(item, node, Key::new(lane, self.start_tag(account), sequence), false);
            self.note(Undo::Inserted(item));
            return None;
        }
        self.join(item, node, sequence, weight, ready)
    }

    /// Puts an item back as a snapshot tells it: to a place of its own, or behind its flow's tail. In key order. `None` if
    /// it cannot have stood there.
    pub(crate) fn relist(&mut self, item: u32, key: Key, entrant: Entrant) -> Option<()> {
        let Entrant { customer, route, lane, cost, alone, fresh, ready, .. } = entrant;
        let line = if alone { None } else { self.head(customer, route, lane) };
        if line.is_some_and(|head| self.key(self.nodes[head as usize].previous).sequence() >= key.sequence()) {
            return None;
        }
        let account = self.open_account(customer, route, lane);
        let node = Node { cost, account, returned: !(fresh || alone), ..Node::of(item, customer, route, lane) };
        let ready = ready && line.is_none();
        if alone {
            self.place(item, node, key, false);
        } else {
            self.append(item, node, key, line);
        }
        if ready {
            if account != NONE && !self.routes[route as usize].closed {
                self.accounts.restore_ready(account);
            }
            self.show(item, true);
        }
        Some(())
    }

    /// Whether an item stands in its flow's line. If not, it stands on its own.
    pub(crate) fn is_listed(&self, item: u32) -> bool {
        self.nodes.get(item as usize).is_some_and(|node| node.listed)
    }

    /// Whether an item is in its flow's line again.
    pub(crate) fn is_returned(&self, item: u32) -> bool {
        self.nodes.get(item as usize).is_some_and(|node| node.returned)
    }

    /// Takes an item out that leaves unserved. Its customer is as if it had never come. `succeed`: whether what follows it in
    /// its flow may be served.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub(crate) fn remove(&mut self, item: u32, weight: u32, succeed: bool) -> Option<Key> {
        let key = self.tree.key(item)?;
        let node = self.nodes[item as usize];
        let counted = self.counts(item);
        self.take(item, node, weight, succeed);
        if counted {
            self.leave(node.account);
        }
        Some(Key::from_bits(key))
    }

    /// Takes an item out that is served. Its customer is charged what it is expected to cost, as returned, until
    /// [`Places::end`] tells what it used.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub(crate) fn begin(&mut self, item: u32, estimate: u64, weight: u32) -> u64 {
        let node = self.nodes[item as usize];
        let mut charge = 0;
        debug_assert!(self.counts(item), "who is served could be");
        if node.account != NONE {
            self.note_account(node.account);
            charge = self.accounts.begin(node.account, estimate, weight);
        }
        self.take(item, node, weight, true);
        charge
    }

    /// Charges what an item used that was served on a route, in place of what it was expected to.
    pub(crate) fn end(&mut self, customer: u32, route: u32, lane: u8, charge: u64, used: u64, weight: u32) {
        if self.ordering == Ordering::Fifo {
            return;
        }
        let pool = self.routes[route as usize].pool;
        let account = self.accounts.find(customer, pool, lane);
        debug_assert!(account.is_some(), "what runs has an account");
        let Some(account) = account else { return };
        self.note_account(account);
        self.accounts.end(account, charge, used, weight);
        if let Some(head) = self.head(customer, route, lane) {
            self.update(head, weight);
        }
    }

    /// Counts an item that runs, for restoring. `None` if there is no such account.
    pub(crate) fn restore_running(&mut self, customer: u32, route: u32, lane: u8, charge: u64) -> Option<()> {
        if self.ordering == Ordering::Fifo {
            return (charge == 0).then_some(());
        }
        let pool = self.routes[route as usize].pool;
        let account = self.accounts.find(customer, pool, lane)?;
        self.accounts.restore_running(account, charge);
        Some(())
    }

    /// Brings the first place of a route that may be served up to date. Whether it moved: then another may be first.
    pub(crate) fn freshen(&mut self, route: u32, weight: impl FnOnce(u32) -> u32) -> bool {
        let Some((key, item)) = self.first(route) else { return false };
        let node = self.nodes[item as usize];
        if node.account == NONE || self.start_tag(node.account) <= key.tag() {
            return false;
        }
        self.update(item, weight(node.customer));
        true
    }

    /// What an item that waits was expected to cost when it came.
    pub(crate) fn cost(&self, item: u32) -> u64 {
        self.nodes[item as usize].cost
    }

    pub(crate) fn lane(&self, pool: u32, lane: u8) -> Lane {
        self.accounts.lane(pool, lane)
    }

    /// Sets the virtual time of a pool's lane, for restoring.
    pub(crate) fn restore_lane(&mut self, pool: u32, lane: u8, clock: u128, high: u128) {
        self.accounts.set_lane(pool, lane, Lane::at(clock, high));
    }

    /// Accounts that say something. In no fixed order.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> + '_ {
        self.accounts.iter()
    }

    /// Puts an account back as a snapshot tells it. `None` if it cannot be.
    pub(crate) fn restore_account(
        &mut self,
        customer: u32,
        pool: u32,
        lane: u8,
        given: u128,
        rest: u64,
        typical: u64,
    ) -> Option<()> {
        self.accounts.restore(customer, pool, lane, given, rest, typical)
    }

    /// Whether a customer still pays for what it was given in a pool: it stands beyond the clock of one of its lanes.
    pub(crate) fn owes(&self, customer: u32, pool: u32) -> bool {
        (0..LANES as u8).any(|lane| self.accounts.owes(customer, pool, lane))
    }

    /// How far a customer stands in a pool, to compare customers without items: the later, the longer it owes.
    pub(crate) fn given(&self, customer: u32, pool: u32) -> u128 {
        (0..LANES as u8).map(|lane| self.accounts.given(customer, pool, lane)).max().unwrap_or(0)
    }

    /// Forgets what a customer was given. For one that left.
    ///
    /// # Complexity
    /// O(pools).
    pub(crate) fn forget_customer(&mut self, customer: u32) {
        self.accounts.forget_customer(customer);
    }

    /// Forgets a pool's virtual time and what customers were given there. For one without items, before its number is
    /// used again.
    ///
    /// # Complexity
    /// O(accounts of all pools).
    pub(crate) fn close_pool(&mut self, pool: u32) {
        self.accounts.close_pool(pool);
    }

    /// Drops some of the accounts that say nothing any more, see [`Accounts::sweep`].
    #[inline]
    pub(crate) fn sweep(&mut self) {
        self.accounts.sweep();
    }

    /// Takes away or gives back an item's chance to be served. One that gets it stands at its account's time; one that stood on
    /// its own comes to its flow's line, and who was the head of that and is no longer is returned.
    pub(crate) fn set_ready(&mut self, item: u32, ready: bool, weight: u32) -> Option<u32> {
        let node = self.nodes[item as usize];
        if ready && !node.listed && self.tree.is_ready(item) == Some(false) {
            let removed = self.pull(item, node)?;
            self.note(Undo::Removed(item, removed));
            return self.join(item, Node { returned: true, ..node }, removed.key.sequence(), weight, true);
        }
        if self.mark(item, ready) {
            if ready {
                self.update(item, weight);
            } else if !self.routes[node.route as usize].closed {
                self.leave(node.account);
            }
        }
        None
    }

    /// Lets an item stand on its own, not ready, so that what stands behind it in its flow comes to its turn.
    pub(crate) fn detach(&mut self, item: u32, weight: u32) {
        let Some(key) = self.tree.key(item) else { return };
        let node = self.nodes[item as usize];
        let counted = self.counts(item);
        self.take(item, node, weight, true);
        if counted {
            self.leave(node.account);
        }
        let alone = Node { next: NONE, previous: item, listed: false, returned: false, ..node };
        self.place(item, alone, Key::from_bits(key), false);
        self.note(Undo::Inserted(item));
    }

    /// The first item of a route that may be served.
    pub(crate) fn first(&self, route: u32) -> Option<(Key, u32)> {
        self.routes.get(route as usize).and_then(|queue| queue.first)
    }

    /// A route whose first place may have changed since somebody asked; each is told once.
    pub(crate) fn pop_touched(&mut self) -> Option<u32> {
        self.touched.pop()
    }

    /// How many items of its route stand before it.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub(crate) fn rank(&self, item: u32) -> Option<u32> {
        self.tree.rank(item)
    }

    /// Whether an item waits and may be served.
    pub(crate) fn is_ready(&self, item: u32) -> bool {
        self.tree.is_ready(item) == Some(true)
    }

    /// The key of an item that waits.
    pub(crate) fn key(&self, item: u32) -> Key {
        Key::from_bits(self.tree.key(item).unwrap_or_default())
    }

    pub(crate) fn len(&self, route: u32) -> u32 {
        self.routes.get(route as usize).map_or(0, |queue| self.tree.len(queue.tree))
    }

    /// The items of a route in service order, each with whether it may be served.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn iter(&self, route: u32) -> impl Iterator<Item = (Key, u32, bool)> + '_ {
        let queue = self.routes.get(route as usize);
        queue
            .into_iter()
            .flat_map(|queue| self.tree.iter(queue.tree))
            .map(|(key, item, ready)| (Key::from_bits(key), item, ready))
    }

    /// Bytes held for places, for measuring.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tree.memory_bytes()
            + self.nodes.capacity() * size_of::<Node>()
            + self.flows.allocation_size()
            + self.accounts.memory_bytes()
    }

    // --- Undoing ---

    /// Notes inverses from now on, or no more. Returns how many are noted, to go back to.
    pub(crate) fn record(&mut self, recording: bool) -> usize {
        self.recording = recording;
        self.undo.len()
    }

    /// What was noted can no longer be undone.
    pub(crate) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Undoes everything since `len` inverses were noted.
    pub(crate) fn roll_back(&mut self, len: usize) {
        let recording = core::mem::replace(&mut self.recording, false);
        while self.undo.len() > len {
            match self.undo.pop() {
                None => break,
                Some(Undo::Inserted(item)) => {
                    let node = self.nodes[item as usize];
                    self.pull(item, node);
                }
                Some(Undo::Removed(item, removed)) => self.put(item, removed),
                Some(Undo::Moved(item, key)) => self.rekey(item, key),
                Some(Undo::Readied(item, ready)) => self.show(item, ready),
                Some(Undo::Account(account, before)) => self.accounts.set(account, before),
                Some(Undo::Lane(pool, lane, before)) => self.accounts.set_lane(pool, lane, before),
            }
        }
        self.recording = recording;
    }

    fn note(&mut self, undo: Undo) {
        if self.recording {
            self.undo.push(undo);
        }
    }

    /// Notes an account and its lane as they are before they change.
    fn note_account(&mut self, account: u32) {
        if self.recording {
            let (pool, lane) = self.accounts.lane_of(account);
            self.undo.push(Undo::Account(account, *self.accounts.get(account)));
            self.undo.push(Undo::Lane(pool, lane, self.accounts.lane(pool, lane)));
        }
    }

    // --- Accounts ---

    /// Whether an item makes its customer active.
    fn counts(&self, item: u32) -> bool {
        self.is_ready(item) && !self.routes[self.nodes[item as usize].route as usize].closed
    }

    fn open_account(&mut self, customer: u32, route: u32, lane: u8) -> u32 {
        match self.ordering {
            Ordering::Fifo => NONE,
            Ordering::Fair => self.accounts.open(customer, self.routes[route as usize].pool, lane),
        }
    }

    fn enter(&mut self, account: u32) {
        if account != NONE {
            self.note_account(account);
            self.accounts.enter(account);
        }
    }

    fn leave(&mut self, account: u32) {
        if account != NONE {
            self.note_account(account);
            self.accounts.leave(account);
        }
    }

    /// Where the head of a flow of that account stands.
    fn start_tag(&self, account: u32) -> u128 {
        if account == NONE { 0 } else { self.accounts.start(account).min(TAG_MAX) }
    }

    /// Virtual time an item is expected to take.
    fn stride(&self, item: u32, weight: u32) -> u64 {
        let node = &self.nodes[item as usize];
        self.accounts.stride(node.account, node.cost, weight)
    }

    /// Moves an item that is served before others of its flow to its account's time, and what stands behind it beyond that.
    ///
    /// # Complexity
    /// O(log n), and O(log n) for each item that it comes to stand behind: as many as are worth what its account was
    /// charged beyond what was expected.
    fn update(&mut self, item: u32, weight: u32) {
        let Some(key) = self.tree.key(item).map(Key::from_bits) else { return };
        let node = self.nodes[item as usize];
        let start = self.start_tag(node.account);
        if node.account == NONE || key.tag() == start {
            return;
        }
        self.move_to(item, key, start);
        self.push_on(item, start, weight);
    }

    /// Moves what stands behind an item in its flow, as far as it does not stand beyond that already.
    fn push_on(&mut self, item: u32, tag: u128, weight: u32) {
        let node = self.nodes[item as usize];
        let (mut last, mut tag, mut next) = (item, tag, if node.listed { node.next } else { NONE });
        while next != NONE {
            let key = self.key(next);
            if key.tag() >= tag {
                break;
            }
            tag += u128::from(self.stride(last, weight));
            self.move_to(next, key, tag);
            (last, next) = (next, self.nodes[next as usize].next);
        }
    }

    fn move_to(&mut self, item: u32, key: Key, tag: u128) {
        self.note(Undo::Moved(item, key));
        self.rekey(item, Key::new(key.lane(), tag, key.sequence()));
    }

    // --- Places and flows ---

    /// Gives an item another key; it stays in its flow.
    fn rekey(&mut self, item: u32, key: Key) {
        let route = self.nodes[item as usize].route;
        let tree = self.routes[route as usize].tree;
        let Some((_, ready)) = self.tree.remove(item) else { return };
        self.tree.insert(tree, key.bits(), item, ready);
        self.refresh_first(route, item, ready.then_some(key));
    }

    /// Takes an item out of tree and flow; the next of its flow is the head then, and may be served if it may succeed.
    fn take(&mut self, item: u32, node: Node, weight: u32, succeed: bool) {
        let removed = self.pull(item, node);
        let Some(removed) = removed else { return };
        self.note(Undo::Removed(item, removed));
        if let Some(Listed { previous: NONE, next }) = removed.listed.filter(|listed| listed.next != NONE) {
            // As the next of its flow it stands where its account stands.
            if succeed {
                self.mark(next, true);
            }
            self.update(next, weight);
        }
    }

    /// Takes an item out of tree and flow, and nothing else.
    fn pull(&mut self, item: u32, node: Node) -> Option<Removed> {
        let (key, ready) = self.tree.remove(item)?;
        let key = Key::from_bits(key);
        let listed = node.listed.then(|| self.unlink(item, node, key.sequence()));
        if node.account != NONE {
            self.accounts.release(node.account);
        }
        self.refresh_first(node.route, item, None);
        Some(Removed { key, ready, node, listed })
    }

    /// Sets whether an item may be served; its account is counted when it may, and is to be told when it may not. Whether
    /// that changed.
    fn mark(&mut self, item: u32, ready: bool) -> bool {
        if self.tree.is_ready(item).is_none_or(|now| now == ready) {
            return false;
        }
        let node = self.nodes[item as usize];
        if ready && !self.routes[node.route as usize].closed {
            self.enter(node.account);
        }
        self.note(Undo::Readied(item, !ready));
        self.show(item, ready);
        true
    }

    /// Sets an item's bit, and nothing else.
    fn show(&mut self, item: u32, ready: bool) {
        let Some(key) = self.tree.key(item) else { return };
        self.tree.set_ready(item, ready);
        self.refresh_first(self.nodes[item as usize].route, item, ready.then_some(Key::from_bits(key)));
    }

    /// Keeps the first place of a route that may be served: `item` changed, and may be served at that key, or not.
    fn refresh_first(&mut self, route: u32, item: u32, key: Option<Key>) {
        let queue = &mut self.routes[route as usize];
        let before = queue.first;
        match (before, key) {
            (Some((_, first)), _) if first == item => {
                queue.first = self.tree.first_ready(queue.tree).map(|(key, item)| (Key::from_bits(key), item));
            }
            (Some((least, _)), Some(key)) if key < least => queue.first = Some((key, item)),
            (None, Some(key)) => queue.first = Some((key, item)),
            _ => {}
        }
        if queue.first != before && self.touched.last() != Some(&route) {
            self.touched.push(route);
        }
    }

    /// Puts an item to a place of its own.
    fn place(&mut self, item: u32, node: Node, key: Key, ready: bool) {
        self.set_node(item, node);
        self.tree.insert(self.routes[node.route as usize].tree, key.bits(), item, ready);
        self.refresh_first(node.route, item, ready.then_some(key));
    }

    /// Notes what an item is that has a place from now on.
    fn set_node(&mut self, item: u32, node: Node) {
        if node.account != NONE {
            self.accounts.refer(node.account);
        }
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
    /// Checks the tree, the flows, the accounts and the cached heads against each other.
    ///
    /// # Panics
    /// On the first one that does not hold.
    pub(crate) fn check_invariants(&self) {
        self.tree.check_invariants();
        let listed: usize = self.flows.iter().map(|head| self.check_flow(*head)).sum();
        assert_eq!(listed, self.returned.len(), "who came back and stands in line is indexed");
        let mut items = BTreeMap::<u32, (u32, u32)>::new();
        for (route, queue) in self.routes.iter().enumerate() {
            let ready =
                self.tree.iter(queue.tree).find(|(.., ready)| *ready).map(|(key, item, _)| (Key::from_bits(key), item));
            assert_eq!(queue.first, ready, "first of route {route}");
            for (_, item, ready) in self.tree.iter(queue.tree) {
                let counts = items.entry(self.nodes[item as usize].account).or_default();
                *counts = (counts.0 + 1, counts.1 + u32::from(ready && !queue.closed));
            }
        }
        self.accounts.check_invariants(&items);
        assert!(self.touched.is_empty(), "who asks for routes that changed has asked");
    }
}

impl Node {
    /// One that stands on its own.
    fn of(item: u32, customer: u32, route: u32, lane: u8) -> Self {
        Self {
            cost: 0,
            customer,
            route,
            account: NONE,
            next: NONE,
            previous: item,
            lane,
            listed: false,
            returned: false,
        }
    }

    fn is_of(&self, customer: u32, route: u32, lane: u8) -> bool {
        self.customer == customer && self.route == route && self.lane == lane
    }

    fn hash(&self, hasher: &KeyHasher) -> u64 {
        hash_triple(hasher, self.customer, self.route, self.lane)
    }
}

fn hash_triple(hasher: &KeyHasher, customer: u32, place: u32, lane: u8) -> u64 {
    hasher.hash(&(u64::from(customer) << 32 | u64::from(place), lane))
}

/// No item, no account.
const NONE: u32 = u32::MAX;
