//! A heap whose entries can be found again by their id: to move them, to take them out, to ask for their key.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::vec::Vec;

/// A min-heap of `(key, id)` in which each id stands at most once and can be moved or removed by its id.
///
/// The order is total: by key, and among equal keys by id. So what comes out depends on what is in the heap alone, never
/// on the way it came in, and a heap that is rebuilt in another order answers alike.
///
/// Ids are small dense numbers given by the caller, as places in a table are: memory is 4 bytes for each number up to
/// the largest id ever inserted, and an entry of the key's size (24 to 32 bytes for keys of 128 bits). The heap is
/// therefore bounded by the table whose places it orders and has no limit of its own.
///
/// # Complexity
/// `insert`, `update`, `remove` and `pop` O(log n), the rest O(1). Inserting a largest key and removing the entry that
/// was inserted last is O(1).
///
/// ```
/// use libgateway::IndexedHeap;
/// let mut heap = IndexedHeap::new();
/// heap.insert(7, 30_u64);
/// heap.insert(2, 20);
/// heap.update(7, 10);
/// assert_eq!(heap.peek(), Some((10, 7)));
/// assert_eq!(heap.remove(7), Some(10));
/// assert_eq!(heap.pop(), Some((20, 2)));
/// assert_eq!(heap.pop(), None);
/// ```
#[derive(Clone, Debug)]
pub struct IndexedHeap<K> {
    /// The children of place `p` are the places `4p + 1` to `4p + 4`.
    entries: Vec<(K, u32)>,
    /// By id: the place of its entry, or [`ABSENT`].
    places: Vec<u32>,
}

impl<K: Ord + Copy> IndexedHeap<K> {
    /// An empty heap. It takes no memory.
    pub const fn new() -> Self {
        Self { entries: Vec::new(), places: Vec::new() }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether `id` has an entry.
    pub fn contains(&self, id: u32) -> bool {
        self.place(id).is_some()
    }

    /// The key of `id`.
    pub fn key(&self, id: u32) -> Option<K> {
        self.place(id).map(|place| self.entries[place].0)
    }

    /// The least key and its id.
    pub fn peek(&self) -> Option<(K, u32)> {
        self.entries.first().copied()
    }

    /// Inserts `id`. Returns false, and changes nothing, if it is there already.
    pub fn insert(&mut self, id: u32, key: K) -> bool {
        let absent = !self.contains(id);
        if absent {
            self.push(id, key);
        }
        absent
    }

    /// Inserts `id`, or moves it to `key`. Returns the key it had.
    pub fn update(&mut self, id: u32, key: K) -> Option<K> {
        let Some(place) = self.place(id) else {
            self.push(id, key);
            return None;
        };
        let before = self.entries[place].0;
        if before != key {
            self.settle(place, (key, id));
        }
        Some(before)
    }

    /// Takes `id` out. Returns its key.
    pub fn remove(&mut self, id: u32) -> Option<K> {
        let place = self.place(id)?;
        let key = self.entries[place].0;
        self.places[id as usize] = ABSENT;
        let last = self.entries.pop()?;
        if place < self.entries.len() {
            self.settle(place, last);
        }
        Some(key)
    }

    /// Takes out the entry with the least key.
    pub fn pop(&mut self) -> Option<(K, u32)> {
        let first = self.peek()?;
        self.places[first.1 as usize] = ABSENT;
        let last = self.entries.pop()?;
        if !self.entries.is_empty() {
            self.sink(0, last);
        }
        Some(first)
    }

    /// Removes every entry and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.places.clear();
    }

    fn place(&self, id: u32) -> Option<usize> {
        match self.places.get(id as usize) {
            Some(&place) if place != ABSENT => Some(place as usize),
            _ => None,
        }
    }

    /// Inserts `id`, which is absent.
    fn push(&mut self, id: u32, key: K) {
        if self.places.len() <= id as usize {
            self.places.resize(id as usize + 1, ABSENT);
        }
        let place = self.entries.len();
        self.entries.push((key, id));
        self.rise(place, (key, id));
    }

    /// Writes `entry` where it belongs, given that the entry that stood at `place` has gone.
    fn settle(&mut self, place: usize, entry: (K, u32)) {
        if place > 0 && less(&entry, &self.entries[parent(place)]) {
            self.rise(place, entry);
        } else {
            self.sink(place, entry);
        }
    }

    /// Moves the hole at `place` towards the root until `entry` fits in.
    fn rise(&mut self, mut place: usize, entry: (K, u32)) {
        while place > 0 {
            let above = self.entries[parent(place)];
            if less(&above, &entry) {
                break;
            }
            self.write(place, above);
            place = parent(place);
        }
        self.write(place, entry);
    }

    /// Moves the hole at `place` towards the leaves until `entry` fits in.
    fn sink(&mut self, mut place: usize, entry: (K, u32)) {
        while let Some(child) = self.least_child(place) {
            let below = self.entries[child];
            if less(&entry, &below) {
                break;
            }
            self.write(place, below);
            place = child;
        }
        self.write(place, entry);
    }

    fn least_child(&self, place: usize) -> Option<usize> {
        let first = place * ARITY + 1;
        // Two pairs, then their winners: selections instead of branches. A branch on random keys is mispredicted every
        // other time, and a scan of the four children took half as long again.
        if let Some([a, b, c, d]) = self.entries.get(first..first + ARITY) {
            let left = usize::from(less(b, a));
            let right = 2 + usize::from(less(d, c));
            let left_entry = if left == 1 { b } else { a };
            let right_entry = if right == 3 { d } else { c };
            return Some(first + if less(right_entry, left_entry) { right } else { left });
        }
        (first..self.entries.len()).reduce(
            |best, child| {
                if less(&self.entries[child], &self.entries[best]) { child } else { best }
            },
        )
    }

    fn write(&mut self, place: usize, entry: (K, u32)) {
        self.entries[place] = entry;
        // A heap of 2^32 entries does not fit into the ids.
        self.places[entry.1 as usize] = place as u32;
    }

    /// Panics unless the heap is one and both tables agree.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        for (place, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.place(entry.1), Some(place));
            assert!(place == 0 || less(&self.entries[parent(place)], entry));
        }
        assert_eq!(self.places.iter().filter(|place| **place != ABSENT).count(), self.entries.len());
    }
}

impl<K: Ord + Copy> Default for IndexedHeap<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// By key, then by id, without a branch where the comparison of keys has none.
fn less<K: Ord>(a: &(K, u32), b: &(K, u32)) -> bool {
    (a.0 < b.0) | ((a.0 == b.0) & (a.1 < b.1))
}

const fn parent(place: usize) -> usize {
    (place - 1) / ARITY
}

/// Four children lie in one or two cache lines, and the tree is half as deep as a binary one.
const ARITY: usize = 4;
const ABSENT: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32, u8),
        Update(u32, u8),
        Remove(u32),
        Pop,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..60_u32, any::<u8>()).prop_map(|(id, key)| Op::Insert(id, key)),
            3 => (0..60_u32, any::<u8>()).prop_map(|(id, key)| Op::Update(id, key)),
            2 => (0..70_u32).prop_map(Op::Remove),
            1 => Just(Op::Pop),
        ]
    }

    proptest! {
        #[test]
        fn a_heap_answers_as_a_sorted_map_does(ops in prop::collection::vec(op(), 1..200)) {
            let mut heap = IndexedHeap::new();
            let mut model: BTreeMap<u32, u8> = BTreeMap::new();
            for op in ops {
                let least = model.iter().map(|(id, key)| (*key, *id)).min();
                prop_assert_eq!(heap.peek(), least);
                match op {
                    Op::Insert(id, key) => {
                        prop_assert_eq!(heap.insert(id, key), !model.contains_key(&id));
                        model.entry(id).or_insert(key);
                    }
                    Op::Update(id, key) => prop_assert_eq!(heap.update(id, key), model.insert(id, key)),
                    Op::Remove(id) => prop_assert_eq!(heap.remove(id), model.remove(&id)),
                    Op::Pop => {
                        prop_assert_eq!(heap.pop(), least);
                        least.map(|(_, id)| model.remove(&id));
                    }
                }
                heap.check_invariants();
                prop_assert_eq!(heap.len(), model.len());
                for id in 0..70 {
                    prop_assert_eq!(heap.key(id), model.get(&id).copied());
                    prop_assert_eq!(heap.contains(id), model.contains_key(&id));
                }
            }
        }
    }

    #[test]
    fn equal_keys_come_out_by_id_whatever_way_they_came_in() {
        let drain = |mut heap: IndexedHeap<u8>| core::iter::from_fn(move || heap.pop()).collect::<Vec<_>>();
        let mut up = IndexedHeap::new();
        let mut down = IndexedHeap::new();
        for id in 0..40 {
            up.insert(id, 1);
            down.update(39 - id, 2);
        }
        for id in 0..40 {
            down.update(id, 1);
        }
        let expected: Vec<_> = (0..40).map(|id| (1, id)).collect();
        assert_eq!(drain(up), expected);
        assert_eq!(drain(down), expected);
    }

    #[test]
    fn an_id_that_was_never_seen_is_absent() {
        let mut heap = IndexedHeap::<u128>::default();
        assert_eq!(heap.remove(u32::MAX), None);
        assert_eq!(heap.key(u32::MAX), None);
        assert_eq!(heap.pop(), None);
        heap.insert(3, 1);
        heap.clear();
        assert!(heap.is_empty() && !heap.contains(3));
    }
}
