//! Deadlines: which comes first, and what is due.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::heap::IndexedHeap;
use crate::time::Timestamp;

/// Deadlines, at most one for each timer id.
///
/// Due timers come out by instant and, at the same instant, by the `order` the caller gave: a logical number such as the
/// sequence of the command that armed the timer. Ids are places in the caller's tables and may differ from one run to
/// the next; with an `order` of its own for each timer, what fires first does not depend on them.
///
/// The caller's clock must not go back for `pop_due` to be complete; arming an instant that has passed is fine, it is
/// due at once. Ids are small dense numbers, see [`IndexedHeap`].
///
/// Most deadlines are one fixed span from now and so come in order. Those are kept in a list, the others in a heap.
///
/// # Complexity
/// Arming the latest deadline and disarming one that was armed so: O(1), amortised. Else `arm`, `disarm` and `pop_due`
/// O(log n).
///
/// ```
/// use libgateway::{Timers, Timestamp};
/// let mut timers = Timers::new();
/// timers.arm(4, Timestamp::from_secs(30), 1);
/// timers.arm(9, Timestamp::from_secs(20), 2);
/// assert_eq!(timers.next_deadline(), Some(Timestamp::from_secs(20)));
/// assert_eq!(timers.pop_due(Timestamp::from_nanos(19_999_999_999)), None);
/// assert_eq!(timers.pop_due(Timestamp::from_secs(20)), Some((9, Timestamp::from_secs(20))));
/// assert_eq!(timers.len(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Timers {
    /// Deadlines that came in order, ascending, with their ids; [`ABSENT`] for one that was disarmed since. The first and
    /// the last are armed. The instant is the upper half of a key and the order the lower: one integer compares without
    /// a branch.
    line: VecDeque<(u128, u32)>,
    /// How many entries have left the front of the line; wraps.
    passed: u32,
    /// By id: the number of its entry in the line, counted from the first ever, or of none. Wraps, too.
    numbers: Vec<u32>,
    /// Entries of the line that were disarmed.
    gaps: usize,
    /// The deadlines that came out of order.
    heap: IndexedHeap<u128>,
}

impl Timers {
    /// No timer armed. It takes no memory.
    pub const fn new() -> Self {
        Self { line: VecDeque::new(), passed: 0, numbers: Vec::new(), gaps: 0, heap: IndexedHeap::new() }
    }

    /// Number of armed timers.
    pub fn len(&self) -> usize {
        self.line.len() - self.gaps + self.heap.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && self.heap.is_empty()
    }

    /// Sets the deadline of `id`, whether it had one or not. [`Timestamp::MAX`] means never and disarms it.
    pub fn arm(&mut self, id: u32, at: Timestamp, order: u64) {
        let key = pack(at, order);
        if let Some(index) = self.index(id) {
            if self.line[index].0 == key {
                return;
            }
            self.cut(index);
        } else if at != Timestamp::MAX && self.heap.contains(id) {
            self.heap.update(id, key);
            return;
        } else {
            self.heap.remove(id);
        }
        if at == Timestamp::MAX {
            return;
        }
        if self.line.back().is_some_and(|last| *last > (key, id)) {
            self.heap.insert(id, key);
        } else {
            self.append(id, key);
        }
    }

    /// Takes the deadline of `id` away. Returns it and its order.
    pub fn disarm(&mut self, id: u32) -> Option<(Timestamp, u64)> {
        let Some(index) = self.index(id) else { return self.heap.remove(id).map(unpack) };
        let (key, _) = self.line[index];
        self.cut(index);
        Some(unpack(key))
    }

    /// The deadline of `id`.
    pub fn armed(&self, id: u32) -> Option<Timestamp> {
        let key = self.index(id).map(|index| self.line[index].0);
        key.or_else(|| self.heap.key(id)).map(|key| unpack(key).0)
    }

    /// The earliest deadline.
    #[inline]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let line = self.line.front().map_or(u128::MAX, |(key, _)| *key);
        let heap = self.heap.peek().map_or(u128::MAX, |(key, _)| key);
        let (at, _) = unpack(line.min(heap));
        (at < Timestamp::MAX).then_some(at)
    }

    /// Takes out the first timer that is due: its deadline is `now` or earlier. Call it until it says `None`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(u32, Timestamp)> {
        let line = self.line.front().copied();
        let heap = self.heap.peek();
        let from_line = line.is_some_and(|line| heap.is_none_or(|heap| line < heap));
        let (key, id) = if from_line { line? } else { heap? };
        let (at, _) = unpack(key);
        if at > now {
            return None;
        }
        self.disarm(id);
        Some((id, at))
    }

    /// Disarms every timer and keeps the memory.
    pub fn clear(&mut self) {
        self.line.clear();
        self.gaps = 0;
        self.heap.clear();
    }

    /// Where in the line the deadline of `id` stands.
    fn index(&self, id: u32) -> Option<usize> {
        // What is not there has any number: its entry, if there is one of that number, tells another id.
        let index = self.numbers.get(id as usize)?.wrapping_sub(self.passed) as usize;
        self.line.get(index).filter(|(_, other)| *other == id).map(|_| index)
    }

    fn append(&mut self, id: u32, key: u128) {
        if self.numbers.len() <= id as usize {
            self.numbers.resize(id as usize + 1, 0);
        }
        // A line of 2^32 entries does not fit into the ids.
        self.numbers[id as usize] = self.passed.wrapping_add(self.line.len() as u32);
        self.line.push_back((key, id));
    }

    /// Takes an entry out of the line.
    fn cut(&mut self, index: usize) {
        self.line[index].1 = ABSENT;
        self.gaps += 1;
        while self.line.front().is_some_and(|(_, id)| *id == ABSENT) {
            self.line.pop_front();
            self.passed = self.passed.wrapping_add(1);
            self.gaps -= 1;
        }
        while self.line.back().is_some_and(|(_, id)| *id == ABSENT) {
            self.line.pop_back();
            self.gaps -= 1;
        }
        // Paid for by the cuts that made the gaps.
        if self.gaps > self.line.len() / 2 {
            self.close_gaps();
        }
    }

    fn close_gaps(&mut self) {
        self.line.retain(|(_, id)| *id != ABSENT);
        self.gaps = 0;
        for (index, (_, id)) in self.line.iter().enumerate() {
            self.numbers[*id as usize] = self.passed.wrapping_add(index as u32);
        }
    }

    /// Panics unless the order of the deadlines is sound.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        self.heap.check_invariants();
        assert_ne!(self.next_deadline(), Some(Timestamp::MAX));
        assert!(self.line.iter().zip(self.line.iter().skip(1)).all(|(one, next)| one.0 <= next.0), "in order");
        assert_eq!(self.line.iter().filter(|(_, id)| *id == ABSENT).count(), self.gaps);
        assert!(self.gaps <= self.line.len() / 2, "a line of gaps");
        for (index, (_, id)) in self.line.iter().enumerate().filter(|(_, (_, id))| *id != ABSENT) {
            assert_eq!(self.index(*id), Some(index));
            assert!(!self.heap.contains(*id), "one deadline for each id");
        }
        let ends = [self.line.front(), self.line.back()];
        assert!(ends.into_iter().flatten().all(|(_, id)| *id != ABSENT), "a gap at an end of the line");
    }
}

const fn pack(at: Timestamp, order: u64) -> u128 {
    (at.as_nanos() as u128) << 64 | order as u128
}

const fn unpack(key: u128) -> (Timestamp, u64) {
    (Timestamp::from_nanos((key >> 64) as u64), key as u64)
}

/// No id: tables end before it.
const ABSENT: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Arm { id: u32, after: u64, order: u64 },
        Disarm(u32),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            2 => (0..30_u32, 0..50_u64, any::<u64>()).prop_map(|(id, after, order)| Op::Arm { id, after, order }),
            3 => (0..30_u32, 45..50_u64, any::<u64>()).prop_map(|(id, after, order)| Op::Arm { id, after, order }),
            1 => (0..30_u32, Just(50), 0..3_u64).prop_map(|(id, after, order)| Op::Arm { id, after, order }),
            1 => (0..40_u32).prop_map(Op::Disarm),
            1 => (0..30_u64).prop_map(Op::Pass),
        ]
    }

    proptest! {
        #[test]
        fn timers_fire_as_a_sorted_list_would(ops in prop::collection::vec(op(), 1..150)) {
            let mut timers = Timers::new();
            let mut model: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            let mut now = 0;
            for op in ops {
                match op {
                    Op::Arm { id, after, order } => {
                        timers.arm(id, Timestamp::from_nanos(now + after), order);
                        model.insert(id, (now + after, order));
                    }
                    Op::Disarm(id) => {
                        let expected = model.remove(&id).map(|(at, order)| (Timestamp::from_nanos(at), order));
                        prop_assert_eq!(timers.disarm(id), expected);
                    }
                    Op::Pass(nanos) => {
                        now += nanos;
                        let mut due: Vec<_> = model.iter().map(|(id, (at, order))| (*at, *order, *id)).collect();
                        due.retain(|(at, ..)| *at <= now);
                        due.sort_unstable();
                        for (at, _, id) in due {
                            prop_assert_eq!(timers.pop_due(Timestamp::from_nanos(now)), Some((id, Timestamp::from_nanos(at))));
                            model.remove(&id);
                        }
                        prop_assert_eq!(timers.pop_due(Timestamp::from_nanos(now)), None);
                    }
                }
                timers.check_invariants();
                prop_assert_eq!(timers.len(), model.len());
                prop_assert_eq!(timers.is_empty(), model.is_empty());
                let next = model.values().map(|(at, _)| Timestamp::from_nanos(*at)).min();
                prop_assert_eq!(timers.next_deadline(), next);
                for id in 0..40 {
                    prop_assert_eq!(timers.armed(id).map(Timestamp::as_nanos), model.get(&id).map(|(at, _)| *at));
                }
            }
        }
    }

    #[test]
    fn a_timer_is_due_at_its_instant_and_not_a_nanosecond_before() {
        let at = Timestamp::from_secs(5);
        let mut timers = Timers::new();
        timers.arm(0, at, 0);
        assert_eq!(timers.pop_due(Timestamp::from_nanos(at.as_nanos() - 1)), None);
        assert_eq!(timers.pop_due(at), Some((0, at)));
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn the_order_given_decides_at_one_instant_and_not_the_id() {
        let at = Timestamp::from_secs(5);
        let mut timers = Timers::new();
        timers.arm(1, at, u64::MAX);
        timers.arm(2, at, 0);
        assert_eq!(timers.pop_due(at), Some((2, at)));
        assert_eq!(timers.pop_due(at), Some((1, at)));
    }

    #[test]
    fn a_deadline_of_never_disarms() {
        let last = Timestamp::from_nanos(u64::MAX - 1);
        let mut timers = Timers::new();
        timers.arm(3, last, 0);
        assert_eq!(timers.next_deadline(), Some(last));
        timers.arm(3, Timestamp::MAX, 0);
        assert_eq!(timers.armed(3), None);
        assert_eq!(timers.pop_due(Timestamp::MAX), None);
        assert_eq!(timers.disarm(3), None);
    }
}
