//! What each customer has been given: virtual time, the account of fair queueing.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::vec::Vec;

use hashbrown::HashTable;

use super::places::{LANES, TAG_MAX};
use crate::hashing::KeyHasher;

/// What a customer has been given in a lane of a pool. The inverse of a push or a correction is the share as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) customer: u32,
    pool_lane: u32,
    /// How far start tags of its items in line may lie beyond `finish`; `u64::MAX`: any distance. Says only whether they
    /// have to be looked at, so it may be too large, and is no part of a snapshot.
    ahead: u64,
    /// Virtual time at which the customer's next item may start.
    pub(crate) finish: u128,
}

/// The shares of all customers, and the virtual time of each pool and lane. A share at or behind that time equals none.
pub(super) struct Shares {
    table: HashTable<Share>,
    clocks: Vec<[u128; LANES]>,
    /// Where the search for shares that say nothing any more goes on.
    sweep: usize,
    /// Places of the table to look at, for shares that were opened since.
    sweep_due: usize,
    hasher: KeyHasher,
}

impl Share {
    pub(crate) fn new(customer: u32, pool: u32, lane: u8, finish: u128) -> Self {
        debug_assert!(pool < 1 << POOL_BITS && usize::from(lane) < LANES);
        Self { customer, pool_lane: pool | u32::from(lane) << POOL_BITS, ahead: 0, finish }
    }

    pub(crate) fn pool(&self) -> u32 {
        self.pool_lane & ((1 << POOL_BITS) - 1)
    }

    pub(crate) fn lane(&self) -> u8 {
        (self.pool_lane >> POOL_BITS) as u8
    }

    /// Whether pushes and corrections can have led to it.
    pub(crate) fn is_sound(&self) -> bool {
        self.finish <= TAG_MAX
    }

    /// A virtual time that is beyond the start tags of all its items in line.
    pub(super) fn beyond(&self) -> u128 {
        if self.ahead == u64::MAX { u128::MAX } else { self.finish + u128::from(self.ahead) }
    }

    /// Moves the start of the next item to `finish`.
    pub(super) fn move_to(&mut self, finish: u128) {
        let ahead = self.beyond().saturating_sub(finish);
        self.ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
        self.finish = finish;
    }

    fn hash(&self, hasher: &KeyHasher) -> u64 {
        hash(hasher, self.customer, self.pool_lane)
    }
}

impl Shares {
    pub(super) fn new(seed: u64) -> Self {
        Self { table: HashTable::new(), clocks: Vec::new(), sweep: 0, sweep_due: 0, hasher: KeyHasher::new(seed) }
    }

    /// Makes a pool ready to use.
    pub(super) fn open_pool(&mut self, pool: u32) {
        while self.clocks.len() <= pool as usize {
            self.clocks.push([0; LANES]);
        }
    }

    /// The virtual time of a pool's lane: the start tag of the last item served.
    pub(super) fn clock(&self, pool: u32, lane: u8) -> u128 {
        self.clocks.get(pool as usize).map_or(0, |lanes| lanes[lane as usize])
    }

    pub(super) fn set_clock(&mut self, pool: u32, lane: u8, time: u128) {
        self.open_pool(pool);
        self.clocks[pool as usize][lane as usize] = time;
    }

    /// A customer's share, made if need be, and the virtual time of its lane.
    pub(super) fn open(&mut self, customer: u32, pool: u32, lane: u8) -> (&mut Share, u128) {
        let Self { table, clocks, sweep_due, hasher, .. } = self;
        let new = Share::new(customer, pool, lane, 0);
        let share = table.entry(new.hash(hasher), |share| share.is_of(&new), |share| share.hash(hasher));
        let share = share.or_insert_with(|| {
            *sweep_due += 2;
            new
        });
        (share.into_mut(), clocks[pool as usize][lane as usize])
    }

    /// Puts `actual` in the place of `expected`, of what an item costs. Returns the share as it was before, if it changed.
    pub(super) fn correct(
        &mut self,
        customer: u32,
        pool: u32,
        lane: u8,
        expected: u128,
        actual: u128,
    ) -> Option<Share> {
        if actual > expected {
            let (share, now) = self.open(customer, pool, lane);
            let before = *share;
            // A share that has been overtaken equals none, however long it is still kept.
            let finish = share.finish.max(now).saturating_add(actual - expected).min(TAG_MAX);
            share.move_to(finish);
            return Some(before);
        }
        let now = self.clock(pool, lane);
        let wanted = Share::new(customer, pool, lane, 0);
        let share = self.table.find_mut(wanted.hash(&self.hasher), |share| share.is_of(&wanted))?;
        if share.finish <= now {
            return None;
        }
        let before = *share;
        share.move_to(share.finish.saturating_sub(expected - actual));
        Some(before)
    }

    /// Sets a share: the inverse of a push or a correction.
    pub(super) fn set(&mut self, share: Share) {
        *self.open(share.customer, share.pool(), share.lane()).0 = share;
    }

    /// Notes that an item with that start tag stands in line, for restoring.
    pub(super) fn note_in_line(&mut self, customer: u32, pool: u32, lane: u8, tag: u128) {
        if tag < self.clock(pool, lane) {
            return;
        }
        let (share, _) = self.open(customer, pool, lane);
        let ahead = (tag + 1).max(share.beyond()).saturating_sub(share.finish);
        share.ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
    }

    /// Shares that still say something: those ahead of their lane's virtual time. In no fixed order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Share> + '_ {
        self.table.iter().filter(|share| share.finish > self.clock(share.pool(), share.lane())).copied()
    }

    /// Forgets what a customer was given. For one that left.
    ///
    /// # Complexity
    /// O(pools).
    pub(super) fn forget_customer(&mut self, customer: u32) {
        for pool in 0..self.clocks.len() as u32 {
            for lane in 0..LANES as u8 {
                let gone = Share::new(customer, pool, lane, 0);
                if let Ok(share) = self.table.find_entry(gone.hash(&self.hasher), |share| share.is_of(&gone)) {
                    share.remove();
                }
            }
        }
    }

    /// Forgets a pool's virtual time and what customers were given there. For one without items, before its number is
    /// used again.
    ///
    /// # Complexity
    /// O(shares of all pools).
    pub(super) fn close_pool(&mut self, pool: u32) {
        self.table.retain(|share| share.pool() != pool);
        if let Some(clocks) = self.clocks.get_mut(pool as usize) {
            *clocks = [0; LANES];
        }
    }

    /// Looks at two places of the table per new share and drops those that say nothing any more, so that it stays within
    /// a few times what is needed: it is looked through once while half of it could be filled. Nobody can tell. Not to be
    /// called while something may yet be undone: a virtual time that goes back makes such a share tell again.
    #[inline]
    pub(super) fn sweep(&mut self) {
        for _ in 0..core::mem::take(&mut self.sweep_due) {
            if self.sweep >= self.table.num_buckets() {
                self.sweep = 0;
            }
            let share = self.table.get_bucket(self.sweep);
            if share.is_some_and(|share| share.beyond() <= self.clock(share.pool(), share.lane())) {
                if let Ok(share) = self.table.get_bucket_entry(self.sweep) {
                    share.remove();
                }
            }
            self.sweep += 1;
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.allocation_size()
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check_invariants(&self) {
        assert!(self.table.iter().all(Share::is_sound), "shares within virtual time");
    }

    /// A time that is beyond the start tags of a customer's items in line, by its share.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn beyond(&self, customer: u32, pool: u32, lane: u8) -> u128 {
        let wanted = Share::new(customer, pool, lane, 0);
        let share = self.table.find(wanted.hash(&self.hasher), |share| share.is_of(&wanted));
        share.map_or(0, Share::beyond).max(self.clock(pool, lane))
    }
}

impl Share {
    fn is_of(&self, other: &Self) -> bool {
        self.customer == other.customer && self.pool_lane == other.pool_lane
    }
}

fn hash(hasher: &KeyHasher, customer: u32, pool_lane: u32) -> u64 {
    hasher.hash(&(u64::from(customer) << 32 | u64::from(pool_lane)))
}

/// Lanes take the two bits above.
const POOL_BITS: u32 = 30;
