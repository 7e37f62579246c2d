//! What will happen, in order of time; at one instant, in the order it was planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use libgateway::Timestamp;

#[derive(Debug)]
pub(super) struct Schedule<T> {
    heap: BinaryHeap<Planned<T>>,
    number: u64,
}

#[derive(Debug)]
struct Planned<T> {
    at: Timestamp,
    number: u64,
    what: T,
}

impl<T> Schedule<T> {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), number: 0 }
    }

    pub(super) fn push(&mut self, at: Timestamp, what: T) {
        self.heap.push(Planned { at, number: self.number, what });
        self.number += 1;
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|planned| planned.at)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        self.heap.pop().map(|planned| planned.what)
    }
}

impl<T> Ord for Planned<T> {
    /// The heap gives the greatest first, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<T> PartialOrd for Planned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Planned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Planned<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_equal_instants_keep_their_order() {
        let mut schedule = Schedule::new();
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b'), (5, 'e')] {
            schedule.push(Timestamp::from_nanos(at), what);
        }
        assert_eq!(schedule.next_at(), Some(Timestamp::from_nanos(1)));
        assert_eq!(std::iter::from_fn(|| schedule.pop()).collect::<String>(), "abcde");
    }
}
