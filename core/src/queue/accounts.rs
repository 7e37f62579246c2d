//! What each customer has been given: virtual time, the account of fair queueing.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::vec::Vec;

use hashbrown::HashTable;
use slab::Slab;

use super::key::LANES;
use crate::hashing::KeyHasher;

/// What a customer has been given in a lane of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) customer: u32,
    pool_lane: u32,
    /// Places that refer to it. What is kept for them alone says nothing.
    places: u32,
    /// Items that may be served.
    ready: u32,
    /// Items that were served and have not ended.
    pub(crate) running: u32,
    /// What items took lately, in cost; 0: nothing is known.
    pub(crate) typical: u64,
    /// Scaled cost that is less than a tick of virtual time: charged with the next.
    pub(crate) rest: u64,
    /// Virtual time of what was really used.
    pub(crate) given: u128,
    /// Virtual time that what runs is expected to use.
    begun: u128,
}

/// The virtual time of a pool's lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lane {
    /// Where who comes anew starts: what the customer served last had been given.
    pub(crate) clock: u128,
    /// The most that any account has been given.
    pub(crate) high: u128,
    /// Accounts with items that may be served or run.
    active: u32,
}

/// The accounts of all customers, and the virtual time of each pool and lane.
///
/// An account is active while it has items that may be served or run. One that is not, and is not ahead of its lane's clock,
/// equals none. When no account is active the clock catches up with all: nobody owes anything any more.
pub(super) struct Accounts {
    records: Slab<Account>,
    index: HashTable<u32>,
    lanes: Vec<[Lane; LANES]>,
    /// Where the search for accounts that say nothing any more goes on.
    sweep: usize,
    /// Records to look at, for accounts that were opened since.
    sweep_due: usize,
    precision: Precision,
    hasher: KeyHasher,
}

impl Lane {
    /// A lane without items that stands at a virtual time.
    pub(super) fn at(clock: u128, high: u128) -> Self {
        Self { clock, high, active: 0 }
    }
}

/// What costs are, and how finely they are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precision {
    /// Virtual time is counted in so many binary digits below a unit of cost.
    pub(crate) scale: u32,
    /// Whether a cost told beforehand is only an estimate.
    pub(crate) estimated: bool,
}

impl Account {
    fn new(customer: u32, pool: u32, lane: u8) -> Self {
        debug_assert!(pool < 1 << POOL_BITS && usize::from(lane) < LANES);
        let pool_lane = pool | u32::from(lane) << POOL_BITS;
        Self { customer, pool_lane, places: 0, ready: 0, running: 0, typical: 0, rest: 0, given: 0, begun: 0 }
    }

    pub(crate) fn pool(&self) -> u32 {
        self.pool_lane & ((1 << POOL_BITS) - 1)
    }

    pub(crate) fn lane(&self) -> u8 {
        (self.pool_lane >> POOL_BITS) as u8
    }

    fn is_active(&self) -> bool {
        self.ready > 0 || self.running > 0
    }

    fn key(&self) -> u64 {
        u64::from(self.customer) << 32 | u64::from(self.pool_lane)
    }
}

impl Accounts {
    pub(super) fn new(precision: Precision, seed: u64) -> Self {
        Self {
            records: Slab::new(),
            index: HashTable::new(),
            lanes: Vec::new(),
            sweep: 0,
            sweep_due: 0,
            precision,
            hasher: KeyHasher::new(seed),
        }
    }

    /// Makes a pool ready to use.
    pub(super) fn open_pool(&mut self, pool: u32) {
        while self.lanes.len() <= pool as usize {
            self.lanes.push([Lane::default(); LANES]);
        }
    }

    pub(super) fn lane(&self, pool: u32, lane: u8) -> Lane {
        self.lanes.get(pool as usize).map_or(Lane::default(), |lanes| lanes[lane as usize])
    }

    pub(super) fn set_lane(&mut self, pool: u32, lane: u8, value: Lane) {
        self.open_pool(pool);
        self.lanes[pool as usize][lane as usize] = value;
    }

    pub(super) fn get(&self, account: u32) -> &Account {
        &self.records[account as usize]
    }

    /// The start tag of an account's next item.
    pub(super) fn start(&self, account: u32) -> u128 {
        let account = self.get(account);
        if account.is_active() {
            return account.given + account.begun;
        }
        account.given.max(self.lane(account.pool(), account.lane()).clock)
    }

    /// Puts back what an account was.
    pub(super) fn set(&mut self, account: u32, value: Account) {
        let record = &mut self.records[account as usize];
        *record = Account { places: record.places, ..value };
    }

    /// Counts a place that refers to an account.
    pub(super) fn refer(&mut self, account: u32) {
        self.records[account as usize].places += 1;
    }

    /// A place that referred to an account is gone.
    pub(super) fn release(&mut self, account: u32) {
        self.records[account as usize].places -= 1;
    }

    /// The lane an account is of.
    pub(super) fn lane_of(&self, account: u32) -> (u32, u8) {
        let account = self.get(account);
        (account.pool(), account.lane())
    }

    pub(super) fn find(&self, customer: u32, pool: u32, lane: u8) -> Option<u32> {
        let key = Account::new(customer, pool, lane).key();
        self.index.find(self.hasher.hash(&key), |id| self.records[*id as usize].key() == key).copied()
    }

    /// A customer's account, made if need be. Not yet [`Accounts::enter`]ed.
    pub(super) fn open(&mut self, customer: u32, pool: u32, lane: u8) -> u32 {
        if let Some(account) = self.find(customer, pool, lane) {
            return account;
        }
        self.open_pool(pool);
        let new = Account::new(customer, pool, lane);
        let id = self.records.insert(new) as u32;
        let Self { records, index, hasher, .. } = self;
        index.insert_unique(hasher.hash(&new.key()), id, |id| hasher.hash(&records[*id as usize].key()));
        self.sweep_due += 2;
        id
    }

    /// Counts an item that may be served. Who had none starts where the lane stands: neither a long absence nor what was
    /// used while nobody else was there makes a difference.
    pub(super) fn enter(&mut self, account: u32) {
        let Self { records, lanes, .. } = self;
        let record = &mut records[account as usize];
        let lane = &mut lanes[record.pool() as usize][record.lane() as usize];
        if !record.is_active() {
            if record.given <= lane.clock {
                (record.given, record.rest, record.typical) = (lane.clock, 0, 0);
            }
            lane.active += 1;
        }
        record.ready += 1;
    }

    /// An item may no longer be served.
    pub(super) fn leave(&mut self, account: u32) {
        self.records[account as usize].ready -= 1;
        self.rest(account);
    }

    /// An item is served: what it is expected to cost counts from now on. Returns that, in virtual time.
    pub(super) fn begin(&mut self, account: u32, estimate: u64, weight: u32) -> u64 {
        let charge = self.stride(account, estimate, weight);
        let record = &mut self.records[account as usize];
        let lane = &mut self.lanes[record.pool() as usize][record.lane() as usize];
        lane.clock = lane.clock.max(record.given);
        record.begun += u128::from(charge);
        record.ready -= 1;
        record.running += 1;
        charge
    }

    /// An item that was served has ended: what it really used takes the place of what was expected.
    pub(super) fn end(&mut self, account: u32, charge: u64, used: u64, weight: u32) {
        let scaled = u128::from(used) << self.precision.scale;
        let estimated = self.precision.estimated;
        let record = &mut self.records[account as usize];
        let weight = u128::from(weight.max(1));
        let total = scaled + u128::from(record.rest);
        record.given = record.given.saturating_add(total / weight).min(GIVEN_MAX);
        record.rest = (total % weight) as u64;
        record.begun = record.begun.saturating_sub(u128::from(charge));
        record.running -= 1;
        record.typical = match record.typical {
            _ if !estimated => 0,
            0 => used,
            // A moving mean over some eight items.
            typical => typical - typical / 8 + used / 8,
        };
        let lane = &mut self.lanes[record.pool() as usize][record.lane() as usize];
        lane.high = lane.high.max(record.given);
        if lane.active == 1 {
            lane.clock = lane.clock.max(record.given);
        }
        self.rest(account);
    }

    /// Notes whether an account is active no more, and whether any is.
    fn rest(&mut self, account: u32) {
        let record = &self.records[account as usize];
        if record.is_active() {
            return;
        }
        let lane = &mut self.lanes[record.pool() as usize][record.lane() as usize];
        lane.active -= 1;
        if lane.active == 0 {
            lane.clock = lane.clock.max(lane.high);
        }
    }

    /// Virtual time that an item is expected to take from its customer: at least one tick.
    ///
    /// An estimate far from what its customer's items took lately is not believed: it counts as between half and twice of
    /// that, so that a wrong one costs others little.
    pub(super) fn stride(&self, account: u32, estimate: u64, weight: u32) -> u64 {
        let account = self.get(account);
        let expected = match account.typical {
            typical if typical > 0 && self.speaks(account) => estimate.clamp(typical / 2, typical.saturating_mul(2)),
            _ => estimate,
        };
        let expected = u128::from(expected) << self.precision.scale;
        u64::try_from(expected / u128::from(weight.max(1))).map_or(STRIDE_MAX, |stride| stride.clamp(1, STRIDE_MAX))
    }

    /// Whether an account says something that a new one would not say.
    fn speaks(&self, account: &Account) -> bool {
        let lane = self.lane(account.pool(), account.lane());
        account.is_active() || account.given > lane.clock
    }

    /// Whether a customer is still ahead of a lane's clock for what it was given.
    pub(super) fn owes(&self, customer: u32, pool: u32, lane: u8) -> bool {
        self.find(customer, pool, lane).is_some_and(|account| self.speaks(self.get(account)))
    }

    /// The virtual time a customer was given in a lane.
    pub(super) fn given(&self, customer: u32, pool: u32, lane: u8) -> u128 {
        self.find(customer, pool, lane).map_or(0, |account| self.get(account).given)
    }

    /// Accounts that say something. In no fixed order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Account> + '_ {
        self.records.iter().map(|(_, account)| account).filter(|account| self.speaks(account))
    }

    /// Puts an account back as a snapshot tells it, before its items come. `None` if it cannot be.
    pub(super) fn restore(
        &mut self,
        customer: u32,
        pool: u32,
        lane: u8,
        given: u128,
        rest: u64,
        typical: u64,
    ) -> Option<()> {
        if given > self.lane(pool, lane).high || rest > u64::from(u32::MAX) || self.find(customer, pool, lane).is_some()
        {
            return None;
        }
        let id = self.open(customer, pool, lane);
        let record = &mut self.records[id as usize];
        (record.given, record.rest, record.typical) = (given, rest, typical);
        Some(())
    }

    /// Counts an item that may be served, for restoring: nothing is lifted.
    pub(super) fn restore_ready(&mut self, account: u32) {
        self.restore_active(account);
        self.records[account as usize].ready += 1;
    }

    /// Counts an item that runs, for restoring.
    pub(super) fn restore_running(&mut self, account: u32, charge: u64) {
        self.restore_active(account);
        let record = &mut self.records[account as usize];
        record.running += 1;
        record.begun += u128::from(charge);
    }

    fn restore_active(&mut self, account: u32) {
        let record = &self.records[account as usize];
        if !record.is_active() {
            self.lanes[record.pool() as usize][record.lane() as usize].active += 1;
        }
    }

    /// Forgets what a customer was given. For one that left.
    ///
    /// # Complexity
    /// O(pools).
    pub(super) fn forget_customer(&mut self, customer: u32) {
        for pool in 0..self.lanes.len() as u32 {
            for lane in 0..LANES as u8 {
                if let Some(account) = self.find(customer, pool, lane) {
                    debug_assert!(self.get(account).places == 0, "who leaves has no items");
                    self.remove(account);
                }
            }
        }
    }

    /// Forgets a pool's virtual time and what customers were given there. For one without items, before its number is
    /// used again.
    ///
    /// # Complexity
    /// O(accounts of all pools).
    pub(super) fn close_pool(&mut self, pool: u32) {
        let gone = self.records.iter().filter(|(_, account)| account.pool() == pool).map(|(id, _)| id as u32);
        for account in gone.collect::<Vec<_>>() {
            self.remove(account);
        }
        if let Some(lanes) = self.lanes.get_mut(pool as usize) {
            *lanes = [Lane::default(); LANES];
        }
    }

    fn remove(&mut self, account: u32) {
        if let Some(record) = self.records.try_remove(account as usize) {
            if let Ok(entry) = self.index.find_entry(self.hasher.hash(&record.key()), |id| *id == account) {
                entry.remove();
            }
        }
    }

    /// Looks at two records per new account and drops those that say nothing any more, so that there are never more than
    /// a few times what is needed. Nobody can tell. Not to be called while something may yet be undone.
    #[inline]
    pub(super) fn sweep(&mut self) {
        for _ in 0..core::mem::take(&mut self.sweep_due) {
            if self.sweep >= self.records.capacity() {
                self.sweep = 0;
            }
            let unused = |account: &Account| account.places == 0 && !self.speaks(account);
            if self.records.get(self.sweep).is_some_and(unused) {
                self.remove(self.sweep as u32);
            }
            self.sweep += 1;
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.index.allocation_size() + self.records.capacity() * size_of::<Account>()
    }

    /// Checks counts against items that wait and that may be served, given by account.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check_invariants(&self, items: &alloc::collections::BTreeMap<u32, (u32, u32)>) {
        for (id, account) in &self.records {
            let (places, ready) = items.get(&(id as u32)).copied().unwrap_or_default();
            assert_eq!((account.places, account.ready), (places, ready), "items that wait, and that may be served");
            assert!(account.running > 0 || account.begun == 0, "nothing runs and is expected");
            assert!(
                account.given <= self.lane(account.pool(), account.lane()).high,
                "nobody was given more than the most"
            );
        }
        for (pool, lanes) in self.lanes.iter().enumerate() {
            for (number, lane) in lanes.iter().enumerate() {
                let of = |account: &&Account| (account.pool() as usize, account.lane() as usize) == (pool, number);
                let active = self.records.iter().map(|(_, account)| account).filter(of).filter(|own| own.is_active());
                assert_eq!(lane.active as usize, active.count(), "accounts with items");
            }
        }
    }
}

/// Lanes take the two bits above.
const POOL_BITS: u32 = 30;
/// A single item counts as no more, in virtual time.
const STRIDE_MAX: u64 = 1 << 62;
/// What begins adds to it, and both fit into a tag.
const GIVEN_MAX: u128 = super::key::TAG_MAX / 2;
