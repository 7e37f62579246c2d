//! A snapshot in slices: the bytes of a state one after the other, never all of them at once.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::vec::Vec;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use serde::Serialize;

use super::Gateway;
use super::snapshot::{FRAME_HEAD_LEN, FRAME_LEN, Head, MAGIC, VERSION, settlement_body};
use super::state::State;
use crate::error::SnapshotError;

/// A snapshot that is taken slice by slice, see [`Gateway::slices`].
///
/// The gateway must stand still meanwhile: a command in between ends it with [`SnapshotError::Changed`], and the host begins
/// anew. Who cannot pause takes the slices of a standby: a [`Gateway::replica`] that follows the log.
#[derive(Debug)]
pub struct Slices {
    commands: u64,
    next: Option<Section>,
    /// Where in the section.
    index: usize,
    orders: Orders,
    /// Bytes that are not in a frame yet, from `framed` on.
    pending: Vec<u8>,
    framed: usize,
    /// Of all that was written so far; `None`: the digest was written, too.
    hash: Option<Blake2b<U32>>,
}

/// The parts of a body, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// What there is little of: numbers, families, backends and routes.
    Head,
    Customers,
    /// What the queue keeps of customers.
    Shares,
    Jobs,
    Retained,
    Keys,
    Leases,
    Outbox,
    /// Ended leases whose usage may still be told.
    Late,
    Prices,
}

/// From places in a body to numbers in memory, and back.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) families: Order,
    pub(crate) backends: Order,
    pub(crate) routes: Order,
    pub(crate) customers: Order,
    pub(crate) jobs: Order,
    /// Ended jobs, which nothing refers to.
    retained: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Order {
    /// Numbers in memory by their place.
    pub(crate) ids: Vec<u32>,
    places: Vec<u32>,
}

impl Order {
    fn new(ids: Vec<u32>) -> Self {
        let len = ids.iter().map(|id| *id as usize + 1).max().unwrap_or(0);
        let mut places = alloc::vec![u32::MAX; len];
        for (place, id) in ids.iter().enumerate() {
            places[*id as usize] = place as u32;
        }
        Self { ids, places }
    }

    /// The place of a number in memory.
    pub(crate) fn place(&self, id: u32) -> u32 {
        self.places[id as usize]
    }
}

impl Slices {
    pub(crate) fn new(state: &State) -> Self {
        Self {
            commands: state.commands,
            next: Some(Section::Head),
            index: 0,
            orders: state.orders(),
            pending: Vec::new(),
            framed: 0,
            hash: Some(Blake2b::new()),
        }
    }

    /// The next slice of the bytes; `None` after the last one.
    ///
    /// # Errors
    /// [`SnapshotError::Changed`] when the gateway was given a command since the first slice. The slices so far are worth
    /// nothing then.
    ///
    /// # Complexity
    /// O(1), and more for a payload or an outcome that is longer than a slice.
    pub fn next(&mut self, gateway: &Gateway) -> Result<Option<Vec<u8>>, SnapshotError> {
        if gateway.state.commands != self.commands {
            return Err(SnapshotError::Changed);
        }
        let mut slice = Vec::with_capacity(FRAME_LEN + 128);
        self.write(&gateway.state, &mut slice);
        Ok((!slice.is_empty()).then_some(slice))
    }

    /// Writes the next slice. Returns whether there may be more.
    pub(crate) fn write(&mut self, state: &State, out: &mut Vec<u8>) -> bool {
        let Some(hash) = &mut self.hash else { return false };
        let from = out.len();
        if self.next == Some(Section::Head) {
            out.extend_from_slice(MAGIC);
            out.extend_from_slice(&VERSION.to_le_bytes());
            out.extend_from_slice(&self.commands.to_le_bytes());
        }
        hash.update(&out[from..]);
        self.fill(state);
        let frame = FRAME_LEN.min(self.pending.len() - self.framed);
        let body = out.len();
        out.extend_from_slice(&(frame as u32).to_le_bytes());
        out.extend_from_slice(&self.pending[self.framed..self.framed + frame]);
        self.framed += frame;
        debug_assert_eq!(out.len() - body, frame + FRAME_HEAD_LEN);
        let Some(hash) = &mut self.hash else { return false };
        hash.update(&out[body..]);
        if frame > 0 {
            return true;
        }
        if let Some(hash) = self.hash.take() {
            out.extend_from_slice(&hash.finalize());
        }
        false
    }

    /// The next part of the body without frame, for the digest of the state.
    pub(crate) fn part(&mut self, state: &State) -> Option<&[u8]> {
        self.framed = self.pending.len();
        self.fill(state);
        (!self.pending.is_empty()).then_some(&self.pending[..])
    }

    /// Makes sure that a whole frame is pending, as long as there is more.
    fn fill(&mut self, state: &State) {
        if self.pending.len() - self.framed >= FRAME_LEN {
            return;
        }
        self.pending.drain(..self.framed);
        self.framed = 0;
        while self.pending.len() < FRAME_LEN {
            let Some(section) = self.next else { break };
            let more = self.write_some(section, state);
            self.index += 1;
            if !more {
                self.index = 0;
                self.next = section.next();
            }
        }
    }

    /// Writes one thing of a section; a list begins with its length. Returns whether there is another one.
    fn write_some(&mut self, section: Section, state: &State) -> bool {
        let (at, orders, out) = (self.index, &self.orders, &mut self.pending);
        match section {
            Section::Head => {
                put(out, &state.head());
                put_list(out, orders.families.ids.iter().map(|id| state.family_body(*id)));
                put_list(out, orders.backends.ids.iter().map(|id| state.backend_body(*id)));
                put_list(out, orders.routes.ids.iter().map(|id| state.route_body(*id, orders)));
                false
            }
            Section::Customers => put_one(out, at, &orders.customers.ids, |id| state.customer_body(*id)),
            Section::Shares => {
                put_list(out, state.share_bodies(orders).into_iter());
                false
            }
            Section::Jobs => {
                put_one(out, at, &orders.jobs.ids, |slot| state.job_body(*slot, &state.jobs[*slot], orders))
            }
            Section::Retained => {
                put_one(out, at, &orders.retained, |slot| state.job_body(*slot, &state.jobs[*slot], orders))
            }
            Section::Keys => {
                put_list(out, state.key_bodies().into_iter());
                false
            }
            Section::Leases => {
                put_list(out, state.lease_bodies(orders).into_iter());
                false
            }
            Section::Outbox => {
                put(out, &state.outbox.map(|record| settlement_body(record, orders)));
                false
            }
            Section::Late => {
                put_list(out, state.late.told().into_iter());
                false
            }
            Section::Prices => {
                put(out, &state.prices);
                false
            }
        }
    }
}

impl Section {
    fn next(self) -> Option<Self> {
        match self {
            Self::Head => Some(Self::Customers),
            Self::Customers => Some(Self::Shares),
            Self::Shares => Some(Self::Jobs),
            Self::Jobs => Some(Self::Retained),
            Self::Retained => Some(Self::Keys),
            Self::Keys => Some(Self::Leases),
            Self::Leases => Some(Self::Outbox),
            Self::Outbox => Some(Self::Late),
            Self::Late => Some(Self::Prices),
            Self::Prices => None,
        }
    }
}

impl State {
    pub(crate) fn orders(&self) -> Orders {
        let mut families: Vec<u32> = self.pool.families().collect();
        families.sort_unstable_by(|a, b| self.pool.family_name(*a).cmp(self.pool.family_name(*b)));
        let mut routes: Vec<u32> = self.table.routes.iter().map(|(id, ..)| id).collect();
        routes.sort_unstable_by_key(|id| self.table.routes[*id].order);
        let mut customers: Vec<(u64, u32)> = self.customers.iter().map(|(id, _, own)| (own.order, id)).collect();
        customers.sort_unstable();
        let mut jobs: Vec<(u64, u32)> = self.jobs.live_jobs().map(|(slot, job)| (job.key.sequence(), slot)).collect();
        jobs.sort_unstable();
        Orders {
            families: Order::new(families),
            backends: Order::new(self.pool.in_order()),
            routes: Order::new(routes),
            customers: Order::new(customers.into_iter().map(|(_, id)| id).collect()),
            jobs: Order::new(jobs.into_iter().map(|(_, slot)| slot).collect()),
            retained: self.jobs.retained().map(|(slot, _)| slot).collect(),
        }
    }

    fn head(&self) -> Head {
        Head {
            config: self.config.clone(),
            clock: self.clock,
            now: self.now,
            epoch: self.epoch,
            scalars: self.scalars,
            next_lease: self.pool.next_lease,
            next_backend: self.pool.next_order,
            next_route: self.table.next_order,
            next_event: self.events.next,
        }
    }

    /// The whole body as one value, for people.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn body(&self) -> super::snapshot::Body {
        let orders = self.orders();
        let job = |slot: &u32| self.job_body(*slot, &self.jobs[*slot], &orders);
        super::snapshot::Body {
            head: self.head(),
            families: orders.families.ids.iter().map(|id| self.family_body(*id)).collect(),
            backends: orders.backends.ids.iter().map(|id| self.backend_body(*id)).collect(),
            routes: orders.routes.ids.iter().map(|id| self.route_body(*id, &orders)).collect(),
            customers: orders.customers.ids.iter().map(|id| self.customer_body(*id)).collect(),
            shares: self.share_bodies(&orders),
            jobs: orders.jobs.ids.iter().map(job).collect(),
            retained: orders.retained.iter().map(job).collect(),
            keys: self.key_bodies(),
            leases: self.lease_bodies(&orders),
            outbox: self.outbox.map(|record| settlement_body(record, &orders)),
            late: self.late.told(),
            prices: self.prices.clone(),
        }
    }
}

/// Postcard into a vector.
struct Into<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Into<'_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn put<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    // Serialising into memory fails for no value these types can have.
    let done = postcard::serialize_with_flavor(value, Into(out));
    debug_assert!(done.is_ok());
}

fn put_list<T: Serialize>(out: &mut Vec<u8>, items: impl ExactSizeIterator<Item = T>) {
    put(out, &items.len());
    items.for_each(|item| put(out, &item));
}

/// Item `at` of a list, with the list's length before the first. Returns whether there is another one.
fn put_one<I, T: Serialize>(out: &mut Vec<u8>, at: usize, list: &[I], tell: impl FnOnce(&I) -> T) -> bool {
    if at == 0 {
        put(out, &list.len());
    }
    if let Some(item) = list.get(at) {
        put(out, &tell(item));
    }
    at + 1 < list.len()
}
