//! Bugs to order: what those who watch a gateway have to find, or they watch nothing.

use super::Gateway;
use super::state::State;

/// A bug that can be planted in a gateway to test its tests. It is no part of the state: what is restored has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Every eighth lease ends without freeing its slot.
    LeakedSlot,
    /// A customer's waiting jobs are not looked at again when it may run one more.
    LostWakeup,
    /// Every eighth job is settled twice.
    DoubleSettlement,
}

impl Gateway {
    /// Plants a bug.
    pub fn plant(&mut self, plant: Plant) {
        self.state.planted = Some(plant);
    }
}

impl State {
    /// Whether the bug is planted and shows in what has this number.
    pub(crate) fn has_bug(&self, plant: Plant, number: u64) -> bool {
        self.planted == Some(plant) && number % 8 == 0
    }
}
