//! Which key may be forgotten first: a heap that knows the place of each of its members.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::vec::Vec;

use crate::time::Timestamp;

/// Live slots by a lower bound of the instant from which their key may be forgotten, least first, and of equal ones the
/// one that came first; each with its key's hash.
///
/// Bounds may lag behind: calls only make an instant later, so traffic need not touch the order. Whoever wants the first
/// asks for the truth and calls [`Order::raise_first`] until bound and truth agree.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// A heap in which each node has up to [`ARITY`] children.
    nodes: Vec<Node>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    bound: Timestamp,
    slot: u32,
    /// Numbers the keys as they come; among equal bounds the lower goes first. It starts again after 2^32.
    age: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u64,
    /// Where in the heap; of no meaning in a free slot.
    place: u32,
}

impl Order {
    /// Takes a slot. There must be fewer than 2^32 − 1 live ones.
    pub(super) fn insert(&mut self, hash: u64, bound: Timestamp, age: u32) -> u32 {
        let place = self.nodes.len();
        let taken = Slot { hash, place: place as u32 };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = taken;
                slot
            }
            None => {
                self.slots.push(taken);
                (self.slots.len() - 1) as u32
            }
        };
        self.nodes.push(Node { bound, slot, age });
        self.sift_up(place);
        slot
    }

    /// Frees a live slot.
    pub(super) fn remove(&mut self, slot: u32) {
        let place = self.slots[slot as usize].place as usize;
        self.nodes.swap_remove(place);
        self.free.push(slot);
        if place < self.nodes.len() {
            self.slots[self.nodes[place].slot as usize].place = place as u32;
            self.sift_down(place);
            self.sift_up(place);
        }
    }

    /// The slot with the least bound: slot, hash, bound.
    pub(super) fn first(&self) -> Option<(u32, u64, Timestamp)> {
        self.nodes.first().map(|node| (node.slot, self.slots[node.slot as usize].hash, node.bound))
    }

    /// Corrects the least bound, which was too low.
    pub(super) fn raise_first(&mut self, bound: Timestamp) {
        if let Some(first) = self.nodes.first_mut() {
            first.bound = bound;
            self.sift_down(0);
        }
    }

    /// Gives each live slot a new bound.
    pub(super) fn reset(&mut self, mut bound: impl FnMut(u32) -> Timestamp) {
        for node in &mut self.nodes {
            node.bound = bound(node.slot);
        }
        // What is sorted is a heap.
        self.nodes.sort_unstable_by_key(Node::rank);
        for (place, node) in self.nodes.iter().enumerate() {
            self.slots[node.slot as usize].place = place as u32;
        }
    }

    /// Slots there are, live or free: all numbers are below.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The age that came with a live slot.
    pub(super) fn age(&self, slot: u32) -> u32 {
        self.nodes[self.slots[slot as usize].place as usize].age
    }

    /// Tells that the key of a live slot may be forgotten from `bound` on already.
    pub(super) fn lower(&mut self, slot: u32, bound: Timestamp) {
        let place = self.slots[slot as usize].place as usize;
        if bound < self.nodes[place].bound {
            self.nodes[place].bound = bound;
            self.sift_up(place);
        }
    }

    /// The hash that came with a live slot.
    pub(super) fn hash(&self, slot: u32) -> u64 {
        self.slots[slot as usize].hash
    }

    fn sift_up(&mut self, mut place: usize) {
        let node = self.nodes[place];
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.nodes[parent].rank() <= node.rank() {
                break;
            }
            self.put(place, self.nodes[parent]);
            place = parent;
        }
        self.put(place, node);
    }

    fn sift_down(&mut self, mut place: usize) {
        let node = self.nodes[place];
        loop {
            let first = ARITY * place + 1;
            let children = first..self.nodes.len().min(first + ARITY);
            let Some(child) = children.min_by_key(|child| self.nodes[*child].rank()) else { break };
            if node.rank() <= self.nodes[child].rank() {
                break;
            }
            self.put(place, self.nodes[child]);
            place = child;
        }
        self.put(place, node);
    }

    fn put(&mut self, place: usize, node: Node) {
        self.nodes[place] = node;
        self.slots[node.slot as usize].place = place as u32;
    }

    /// The bound of a live slot.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn bound(&self, slot: u32) -> Timestamp {
        self.nodes[self.slots[slot as usize].place as usize].bound
    }

    /// Checks the heap and that slots and nodes point at each other.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check_invariants(&self, live: usize) {
        assert_eq!(self.nodes.len(), live, "one node for each live slot");
        assert_eq!(self.slots.len(), live + self.free.len(), "a slot is live or free");
        for (place, node) in self.nodes.iter().enumerate() {
            assert_eq!(self.slots[node.slot as usize].place as usize, place, "a slot knows its place");
            assert!(place == 0 || self.nodes[(place - 1) / ARITY].rank() <= node.rank(), "parents come first");
        }
    }
}

impl Node {
    fn rank(&self) -> (Timestamp, u32) {
        (self.bound, self.age)
    }
}

/// Four children lie in one cache line and halve the depth; a step down writes to a slot far away, so depth is what
/// costs.
const ARITY: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert { bound: u64 },
        Remove { pick: usize },
        RaiseFirst { by: u64 },
        Lower { pick: usize, bound: u64 },
        Reset { by: u64 },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0_u64..100).prop_map(|bound| Op::Insert { bound }),
            2 => any::<usize>().prop_map(|pick| Op::Remove { pick }),
            1 => (0_u64..100).prop_map(|by| Op::RaiseFirst { by }),
            1 => (any::<usize>(), 0_u64..100).prop_map(|(pick, bound)| Op::Lower { pick, bound }),
            1 => (1_u64..4).prop_map(|by| Op::Reset { by }),
        ];
        proptest::collection::vec(op, 1..200)
    }

    proptest! {
        #[test]
        fn the_first_has_the_least_bound_of_all(ops in ops()) {
            let mut order = Order::default();
            let mut model = BTreeMap::<u32, (u64, u32)>::new();
            let mut age = 0;
            for op in ops {
                let picked = |pick: usize| model.keys().nth(pick % model.len().max(1)).copied();
                match op {
                    Op::Insert { bound } => {
                        let slot = order.insert(bound ^ 7, Timestamp::from_nanos(bound), age);
                        prop_assert!(model.insert(slot, (bound, age)).is_none());
                        prop_assert_eq!(order.age(slot), age);
                        age += 1;
                        prop_assert_eq!(order.hash(slot), bound ^ 7);
                    }
                    Op::Remove { pick } => if let Some(slot) = picked(pick) {
                        order.remove(slot);
                        model.remove(&slot);
                    },
                    Op::RaiseFirst { by } => if let Some((slot, _, bound)) = order.first() {
                        order.raise_first(bound + crate::time::Span::from_nanos(by));
                        model.get_mut(&slot).unwrap().0 += by;
                    },
                    Op::Lower { pick, bound } => if let Some(slot) = picked(pick) {
                        order.lower(slot, Timestamp::from_nanos(bound));
                        let old = &mut model.get_mut(&slot).unwrap().0;
                        *old = bound.min(*old);
                    },
                    Op::Reset { by } => {
                        order.reset(|slot| Timestamp::from_nanos(model[&slot].0 / by));
                        model.values_mut().for_each(|(bound, _)| *bound /= by);
                    }
                }
                order.check_invariants(model.len());
                prop_assert!(model.iter().all(|(slot, (bound, _))| order.bound(*slot).as_nanos() == *bound));
                let first = model.iter().min_by_key(|(_, rank)| **rank);
                prop_assert_eq!(order.first().map(|(slot, _, _)| slot), first.map(|(slot, _)| *slot));
            }
        }
    }
}
