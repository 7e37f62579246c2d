//! Deadlines: which comes first, and what is due.

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
/// # Complexity
/// `arm`, `disarm` and `pop_due` O(log n); arming the latest deadline and disarming it again O(1).
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
    /// The instant in the upper half of the key and the order in the lower: one integer compares without a branch.
    heap: IndexedHeap<u128>,
}

impl Timers {
    /// No timer armed. It takes no memory.
    pub const fn new() -> Self {
        Self { heap: IndexedHeap::new() }
    }

    /// Number of armed timers.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Sets the deadline of `id`, whether it had one or not. [`Timestamp::MAX`] means never and disarms it.
    pub fn arm(&mut self, id: u32, at: Timestamp, order: u64) {
        if at == Timestamp::MAX {
            self.heap.remove(id);
        } else {
            self.heap.update(id, pack(at, order));
        }
    }

    /// Takes the deadline of `id` away. Returns it and its order.
    pub fn disarm(&mut self, id: u32) -> Option<(Timestamp, u64)> {
        self.heap.remove(id).map(unpack)
    }

    /// The deadline of `id`.
    pub fn armed(&self, id: u32) -> Option<Timestamp> {
        self.heap.key(id).map(|key| unpack(key).0)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.heap.peek().map(|(key, _)| unpack(key).0)
    }

    /// Takes out the first timer that is due: its deadline is `now` or earlier. Call it until it says `None`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(u32, Timestamp)> {
        let (key, id) = self.heap.peek()?;
        let (at, _) = unpack(key);
        if at > now {
            return None;
        }
        self.heap.pop();
        Some((id, at))
    }

    /// Disarms every timer and keeps the memory.
    pub fn clear(&mut self) {
        self.heap.clear();
    }

    /// Panics unless the order of the deadlines is sound.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        self.heap.check_invariants();
        assert_ne!(self.next_deadline(), Some(Timestamp::MAX));
    }
}

const fn pack(at: Timestamp, order: u64) -> u128 {
    (at.as_nanos() as u128) << 64 | order as u128
}

const fn unpack(key: u128) -> (Timestamp, u64) {
    (Timestamp::from_nanos((key >> 64) as u64), key as u64)
}

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
            4 => (0..30_u32, 0..50_u64, any::<u64>()).prop_map(|(id, after, order)| Op::Arm { id, after, order }),
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
