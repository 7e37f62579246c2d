//! Lines: who of one customer, route and lane stands behind whom.
//!
//! Items come to the end of their flow's line in order of arrival. One that was in it before, or waited for an instant, or was
//! lifted a lane, is older than some that stand there, and comes to its place among them. Nearly always that is before all that
//! never were elsewhere; those that came back are indexed, so that each finds its place in O(log n) however many they are.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use super::{Listed, NONE, Node, Ordering, Places, Removed, Undo};
use crate::queue::Key;

/// Where in its flow's line an item belongs.
enum Spot {
    /// It is the only one.
    First,
    /// Behind the tail of the flow with this head.
    Behind { head: u32 },
    /// Before this head.
    Before { head: u32 },
    /// Between this item and the next.
    After { item: u32 },
    /// In the middle of items that never were elsewhere, where nothing tells the place: on its own.
    Nowhere,
}

impl Places {
    /// The first listed item of a customer on a route, in a lane.
    pub(crate) fn head(&self, customer: u32, route: u32, lane: u8) -> Option<u32> {
        let nodes = &self.nodes;
        let hash = self.hash(customer, route, lane);
        self.flows.find(hash, |head| nodes[*head as usize].is_of(customer, route, lane)).copied()
    }

    /// Puts an item into its flow's line. Returns the one that was the head of that and is no longer.
    pub(super) fn join(&mut self, item: u32, node: Node, sequence: u64, weight: u32, ready: bool) -> Option<u32> {
        let node = Node { next: NONE, previous: item, listed: false, ..node };
        let start = self.start_tag(node.account);
        let behind = |places: &Self, item: u32| match places.ordering {
            Ordering::Fifo => 0,
            Ordering::Fair => places.key(item).tag() + u128::from(places.stride(item, weight)),
        };
        let key = |tag| Key::new(node.lane, tag, sequence);
        let (leads, displaced) = match self.spot(&node, sequence) {
            Spot::First => {
                self.append(item, node, key(start), None);
                (true, None)
            }
            Spot::Behind { head } => {
                let tag = behind(self, self.nodes[head as usize].previous);
                self.append(item, node, key(tag), Some(head));
                (false, None)
            }
            Spot::Before { head } => {
                let tail = self.nodes[head as usize].previous;
                self.insert(item, node, key(start), (tail, head));
                self.set_head(head, item);
                (true, Some(head))
            }
            Spot::After { item: before } => {
                let (tag, next) = (behind(self, before), self.nodes[before as usize].next);
                self.nodes[before as usize].next = item;
                self.insert(item, node, key(tag), (before, next));
                (false, None)
            }
            Spot::Nowhere => {
                self.place(item, Node { returned: false, ..node }, key(start), false);
                (true, None)
            }
        };
        self.note(Undo::Inserted(item));
        self.push_on(item, self.key(item).tag(), weight);
        if leads && ready && self.mark(item, true) {
            self.update(item, weight);
        }
        if let Some(head) = displaced {
            let counted = self.counts(head);
            self.mark(head, false);
            if counted {
                self.leave(node.account);
            }
        }
        displaced
    }

    fn spot(&self, node: &Node, sequence: u64) -> Spot {
        let Some(head) = self.head(node.customer, node.route, node.lane) else { return Spot::First };
        let older = |item: u32| self.key(item).sequence() < sequence;
        if older(self.nodes[head as usize].previous) {
            return Spot::Behind { head };
        }
        let mut before = self.returned.range(node.place(0)..node.place(sequence));
        match before.next_back() {
            Some((_, item)) if !older(self.nodes[*item as usize].next) => Spot::After { item: *item },
            None if !older(head) => Spot::Before { head },
            _ => Spot::Nowhere,
        }
    }

    /// Puts an item between two others of its flow, of which the latter knows the former.
    fn insert(&mut self, item: u32, node: Node, key: Key, (previous, next): (u32, u32)) {
        self.nodes[next as usize].previous = item;
        self.place(item, Node { previous, next, listed: true, ..node }, key, false);
        self.index(item);
    }

    /// Lets an item be found by its age that is in its line again.
    pub(super) fn index(&mut self, item: u32) {
        let node = self.nodes[item as usize];
        if node.returned {
            self.returned.insert(node.place(self.key(item).sequence()), item);
        }
    }

    /// Puts an item behind the tail of the flow with that head, or makes it a flow of its own.
    pub(super) fn append(&mut self, item: u32, node: Node, key: Key, head: Option<u32>) {
        let previous = match head {
            Some(head) => {
                let tail = core::mem::replace(&mut self.nodes[head as usize].previous, item);
                self.nodes[tail as usize].next = item;
                tail
            }
            None => item,
        };
        self.place(item, Node { previous, listed: true, ..node }, key, false);
        self.index(item);
        if head.is_none() {
            self.open_flow(item, node);
        }
    }

    fn open_flow(&mut self, item: u32, node: Node) {
        let hash = node.hash(&self.hasher);
        let Self { flows, nodes, hasher, .. } = self;
        flows.insert_unique(hash, item, |head| nodes[*head as usize].hash(hasher));
    }

    /// Puts an item back that was pulled, when everything since has been undone.
    pub(super) fn put(&mut self, item: u32, removed: Removed) {
        let Removed { key, ready, node, listed } = removed;
        match listed {
            None | Some(Listed { previous: NONE, next: NONE }) => {
                self.set_node(item, Node { next: NONE, previous: item, ..node });
                if listed.is_some() {
                    self.open_flow(item, node);
                }
            }
            Some(Listed { previous, next }) => {
                let before = if previous == NONE {
                    self.set_head(next, item);
                    self.nodes[next as usize].previous
                } else {
                    self.nodes[previous as usize].next = item;
                    previous
                };
                self.set_node(item, Node { next, previous: before, ..node });
                let after =
                    if next == NONE { self.head(node.customer, node.route, node.lane).unwrap_or(item) } else { next };
                self.nodes[after as usize].previous = item;
            }
        }
        self.tree.insert(self.routes[node.route as usize].tree, key.bits(), item, ready);
        self.index(item);
        self.refresh_first(node.route, item, ready.then_some(key));
    }

    /// Takes an item out of its flow. Returns where it stood; what follows a head is the head then.
    pub(super) fn unlink(&mut self, item: u32, node: Node, sequence: u64) -> Listed {
        let Node { next, previous, .. } = node;
        if node.returned {
            self.returned.remove(&node.place(sequence));
        }
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
}

impl Node {
    /// Where it stands among those that came back.
    fn place(&self, sequence: u64) -> (u32, u32, u8, u64) {
        (self.customer, self.route, self.lane, sequence)
    }
}

#[cfg(any(test, feature = "testing"))]
impl Places {
    /// Checks a flow. Returns how many of it came back.
    pub(super) fn check_flow(&self, head: u32) -> usize {
        let Node { customer, route, lane, previous: tail, .. } = self.nodes[head as usize];
        assert_eq!(self.head(customer, route, lane), Some(head), "a flow is found by what it is of");
        let (mut item, mut previous, mut last, mut returned) = (head, tail, None, 0);
        loop {
            let node = self.nodes[item as usize];
            assert!(node.is_of(customer, route, lane) && node.listed, "{item} belongs to its flow");
            assert_eq!(node.previous, previous, "links of {item}");
            let key = self.key(item);
            assert_eq!(key.lane(), lane, "a flow keeps to its lane");
            let indexed = self.returned.get(&node.place(key.sequence())) == Some(&item);
            assert_eq!(indexed, node.returned, "{item} is indexed where it came back");
            returned += usize::from(indexed);
            assert!(last.is_none_or(|last: Key| last < key && last.sequence() < key.sequence()), "a flow is in order");
            last = Some(key);
            if node.next == NONE {
                assert_eq!(item, tail, "the last of a flow is its tail");
                return returned;
            }
            (previous, item) = (item, node.next);
        }
    }
}
