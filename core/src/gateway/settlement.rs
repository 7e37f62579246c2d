//! What a job cost: one entry for each job that ended, made in the transition that ended it, and its corrections.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::config::Payer;
use super::late::{LateLease, SettledAs};
use super::route::CachedPrice;
use super::state::State;
use super::undo::Undo;
use crate::backend::LeaseRecord;
use crate::billing::{Capped, Money, Price, Usage};
use crate::id::{Epoch, JobId, LeaseId};
use crate::job::{Earlier, JobState, Task};
use crate::time::{GpuNanos, Timestamp};

/// What one job cost, as the host gets it from the outbox.
///
/// Each job that ended has exactly one first entry, also one that never ran, and as many corrections as its leases were
/// told of late. Entries are never changed: what a customer owes is the sum of [`Settlement::charge`] less the sum of
/// [`Correction::charge_credit`], over all of its entries, in any order.
///
/// Entries are numbered without gaps, and a number means one entry within an [`Epoch`]. **What a host does with them:** it
/// drops an entry whose epoch and number it has; a first entry of a job that it has a first entry of from another epoch; and a
/// correction of an entry that it dropped, as [`Correction::corrects_epoch`] and [`Correction::corrects`] say. A correction
/// whose lease and [`Correction::revision`] it has from another epoch takes the place of that one and of those of the lease
/// that followed it there. Then a gateway restored from an older snapshot loses no
/// money and takes none twice. Only what is told late of a lease that ended in two lives counts as it was in the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settlement {
    /// The life of the gateway that its number belongs to: in which the job ended, in a correction in which it was told.
    pub epoch: Epoch,
    /// Its number.
    pub number: u64,
    /// The job.
    pub job: JobId,
    /// Who pays.
    pub customer: Arc<str>,
    /// Where it waited: modality, family and model, and the engine where one was wanted.
    pub route: Arc<str>,
    /// What it was.
    pub task: Task,
    /// How it ended.
    pub state: JobState,
    /// The backend of its last attempt, if it ran; in a correction that of the lease.
    pub backend: Option<Arc<str>>,
    /// GPU time that was reported of the attempts the customer pays for, lease time where nothing was measured; in a
    /// correction what was reported of the lease.
    pub reported: GpuNanos,
    /// GPU time the customer pays for; in a correction what is added to it.
    pub usage: GpuNanos,
    /// GPU time nobody pays for: by default that of failed, lost and released attempts; in a correction what is added.
    pub absorbed: GpuNanos,
    /// Whether less was billed or absorbed than was reported: more than the devices can have worked, or more than 64 bits
    /// hold.
    pub capped: bool,
    /// Whether each attempt the customer pays for was measured; otherwise some of `usage` is lease time.
    pub measured: bool,
    /// What each device worked in the attempts the customer pays for, as billed: up to 64 by name, the rest in one
    /// without; in a correction, in its lease.
    pub devices: Vec<DeviceTime>,
    /// Price tier.
    pub tier: Arc<str>,
    /// The price; `None` where the book has none.
    pub price: Option<Price>,
    /// Version of the price book.
    pub price_version: u32,
    /// Usage times price, rounded once; in a correction what the job comes to now less what it came to before, each rounded
    /// once. `None` where there is no price: then it is not known what this costs.
    pub charge: Option<Money>,
    /// When the job was submitted.
    pub created: Timestamp,
    /// When its last attempt began, if it ran.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
    /// Attempts that failed.
    pub attempts: u32,
    /// Returns to the queue that were not the job's fault.
    pub requeues: u32,
    /// What makes it a correction; `None` in the first entry of a job.
    pub correction: Option<Correction>,
}

/// What makes a settlement a correction: a lease's usage was told after its job was settled. It is charged for the
/// difference, at the price of the entry it corrects; `reported`, `measured` and `devices` are those of the lease alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Correction {
    /// The life of the gateway in which the job ended: that of the job's first entry.
    pub corrects_epoch: Epoch,
    /// The number of the job's first entry, in that life.
    pub corrects: u64,
    /// The lease whose usage was told.
    pub lease: LeaseId,
    /// Which of the lease's corrections it is, from 1 on.
    pub revision: u32,
    /// When it was told.
    pub at: Timestamp,
    /// GPU time the customer no longer pays for.
    pub usage_credit: GpuNanos,
    /// GPU time that is no longer absorbed.
    pub absorbed_credit: GpuNanos,
    /// What is given back: what the job came to before less what it comes to now, each rounded once; zero where there is no
    /// price.
    pub charge_credit: Money,
}

/// What one device worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceTime {
    /// The device; without a name, all that are not told by name.
    pub device: Arc<str>,
    /// Its GPU time.
    pub gpu: GpuNanos,
}

impl DeviceTime {
    pub(crate) fn pairs(devices: &[Self]) -> Vec<(Arc<str>, GpuNanos)> {
        devices.iter().map(|own| (own.device.clone(), own.gpu)).collect()
    }
}

/// Whose a settlement is: by number while the outbox keeps them known, or by name where they may have been forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    Known { customer: u32, route: u32 },
    Named { customer: Arc<str>, route: Arc<str> },
}

impl Party {
    /// Customer and route that the outbox keeps known.
    pub(crate) fn known(&self) -> Option<(u32, u32)> {
        match *self {
            Self::Known { customer, route } => Some((customer, route)),
            Self::Named { .. } => None,
        }
    }
}

/// A settlement as it is kept: names as numbers until somebody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SettlementRecord {
    pub(crate) epoch: Epoch,
    pub(crate) job: JobId,
    pub(crate) party: Party,
    pub(crate) task: Task,
    pub(crate) state: JobState,
    pub(crate) measured: bool,
    pub(crate) capped: bool,
    pub(crate) attempts: u32,
    pub(crate) requeues: u32,
    pub(crate) price_version: u32,
    pub(crate) price: Option<Price>,
    pub(crate) reported: GpuNanos,
    pub(crate) usage: GpuNanos,
    pub(crate) absorbed: GpuNanos,
    pub(crate) charge: Option<Money>,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    pub(crate) backend: Option<Arc<str>>,
    pub(crate) tier: Arc<str>,
    /// Nearly always there is one device; the others, if any, stand apart.
    pub(crate) device: Option<DeviceTime>,
    pub(crate) more_devices: Vec<DeviceTime>,
    pub(crate) correction: Option<Box<Correction>>,
}

/// What an attempt used and who pays for it.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    /// What is billed or absorbed of it.
    pub(crate) gpu: GpuNanos,
    pub(crate) reported: GpuNanos,
    pub(crate) capped: bool,
    pub(crate) measured: bool,
    pub(crate) payer: Payer,
    pub(crate) devices: Vec<DeviceTime>,
    pub(crate) backend: Option<Arc<str>>,
    /// Its number in the table of leases that may be told late.
    pub(crate) late: Option<u64>,
}

/// What a job comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bill {
    pub(crate) reported: GpuNanos,
    pub(crate) usage: GpuNanos,
    pub(crate) absorbed: GpuNanos,
    pub(crate) capped: bool,
    pub(crate) price: Option<Price>,
    pub(crate) charge: Option<Money>,
}

impl Spent {
    /// A job that never ran.
    pub(crate) fn nothing() -> Self {
        Self {
            gpu: GpuNanos::ZERO,
            reported: GpuNanos::ZERO,
            capped: false,
            measured: true,
            payer: Payer::House,
            devices: Vec::new(),
            backend: None,
            late: None,
        }
    }
}

impl Spent {
    /// Leaves to a job's settlement, with its GPU time, what else it needs of an attempt that is not its last.
    pub(crate) fn keep(&self, earlier: &mut Earlier) {
        if self.payer == Payer::Customer {
            earlier.reported = earlier.reported.saturating_add(self.reported.as_nanos());
            earlier.unmeasured = earlier.unmeasured.saturating_add(u32::from(!self.measured));
            earlier.add(self.devices.iter().map(|own| (&own.device, own.gpu)));
        }
        earlier.capped = earlier.capped.saturating_add(u32::from(self.capped));
        earlier.late = self.late.or(earlier.late);
    }
}

impl State {
    /// What an attempt used that just ended: what its host reported, or its lease time where nothing was measured.
    pub(crate) fn spend(&mut self, slot: u32, lease: &LeaseRecord, usage: &Usage<'_>, payer: Payer) -> Spent {
        let entry = self.pool.entry(lease.backend);
        let devices_max = entry.spec.devices;
        let backend = self.pool.name(lease.backend).clone();
        let elapsed = self.now.since(lease.granted);
        let mut devices = Vec::new();
        let told = if usage.is_measured() {
            let (each, all) = self.possible(elapsed, devices_max);
            usage.cap(each, all, |device, gpu| {
                devices.push(DeviceTime { device: self.pool.device_name(lease.backend, device), gpu });
            })
        } else {
            let count = if self.config.billing.unmeasured_devices { devices_max } else { 1 };
            let all = GpuNanos::from_nanos(elapsed.as_nanos().saturating_mul(u64::from(count)));
            Capped { reported: all, billed: all, capped: false }
        };
        let Capped { reported, billed, capped } = told;
        let job = &self.jobs[slot];
        let (id, sequence) = (job.id, job.key.sequence());
        let (customer, route) = (job.customer, job.route);
        let earlier = job.extra.as_ref().and_then(|extra| extra.earlier.late);
        if capped {
            self.tell_capped(id, reported, billed);
        }
        let late = self.keeps_late().then(|| LateLease {
            lease: lease.id,
            job: id,
            sequence,
            customer: self.customers.name(customer).clone(),
            route: self.table.routes.name(route).clone(),
            backend: backend.clone(),
            payer,
            measured: usage.is_measured(),
            reported,
            billed,
            devices: devices.clone(),
            granted: lease.granted,
            ended: self.now,
            devices_max,
            earlier,
            corrections: 0,
            first: GpuNanos::ZERO,
            settled: None,
        });
        let late = late.map(|late| self.note_late(late));
        let measured = usage.is_measured();
        Spent { gpu: billed, reported, capped, measured, payer, devices, backend: Some(backend), late }
    }

    /// What a job comes to whose last attempt is over.
    pub(crate) fn bill(&mut self, slot: u32, spent: &Spent) -> Bill {
        let job = &self.jobs[slot];
        let (customer, route) = (job.customer, job.route);
        let extra = job.extra.as_deref();
        let (earlier, absorbed) = extra.map_or((0, 0), |extra| (extra.billable, extra.absorbed));
        let (reported, capped) = extra.map_or((0, 0), |extra| (extra.earlier.reported, extra.earlier.capped));
        let (billed, house, told) = match spent.payer {
            Payer::Customer => (spent.gpu, GpuNanos::ZERO, spent.reported),
            Payer::House => (GpuNanos::ZERO, spent.gpu, GpuNanos::ZERO),
        };
        let earlier = GpuNanos::from_nanos(earlier);
        let (price, _) = self.price_of(customer, route);
        let usage = earlier.saturating_add(billed);
        let (charge, dear) = price.map(|price| price.charge_capped(usage)).unzip();
        Bill {
            reported: GpuNanos::from_nanos(reported).saturating_add(told),
            usage,
            absorbed: GpuNanos::from_nanos(absorbed).saturating_add(house),
            capped: capped > 0 || spent.capped || dear == Some(true) || earlier.checked_add(billed).is_none(),
            price,
            charge,
        }
    }

    /// Makes the settlement of a job that just ended. There is room in the outbox: it was kept when the job came in.
    pub(crate) fn settle(&mut self, slot: u32, spent: Spent) {
        let bill = self.bill(slot, &spent);
        let job = &self.jobs[slot];
        let (customer, route) = (job.customer, job.route);
        let (_, tier) = self.price_of(customer, route);
        let job = &self.jobs[slot];
        let paid = spent.payer == Payer::Customer;
        let before = job.extra.as_deref().map(|extra| &extra.earlier);
        let mut devices = if paid { spent.devices } else { Vec::new() };
        if let Some(before) = before.filter(|before| !before.devices.is_empty()) {
            let mut all = before.clone();
            all.add(devices.iter().map(|own| (&own.device, own.gpu)));
            devices = all.devices.into_iter().map(|(device, gpu)| DeviceTime { device, gpu }).collect();
        }
        let mut devices = devices.into_iter();
        let record = SettlementRecord {
            epoch: self.epoch,
            job: job.id,
            party: Party::Known { customer, route },
            task: job.task,
            state: job.hot.state,
            measured: (spent.measured || !paid) && before.is_none_or(|before| before.unmeasured == 0),
            capped: bill.capped,
            attempts: job.hot.attempts,
            requeues: job.requeues().total(),
            price_version: self.prices.version(),
            price: bill.price,
            reported: bill.reported,
            usage: bill.usage,
            absorbed: bill.absorbed,
            charge: bill.charge,
            created: job.created,
            started: Some(job.hot.started).filter(|at| *at != Timestamp::MAX),
            finished: job.hot.since,
            backend: spent.backend,
            tier,
            device: devices.next(),
            more_devices: devices.collect(),
            correction: None,
        };
        let last = spent.late.or_else(|| before.and_then(|before| before.late));
        let scalars = &mut self.scalars;
        match record.charge {
            Some(charge) => scalars.charged_micros += u128::from(charge.as_micros()),
            None => {
                scalars.counters.unpriced += 1;
                scalars.unpriced_ns += u128::from(record.usage.as_nanos());
            }
        }
        let mut settled = SettledAs::of(&record);
        if self.config.billing.settlements {
            #[cfg(feature = "testing")]
            if self.has_bug(super::plant::Plant::DoubleSettlement, self.outbox.pushed_total()) {
                self.push_settlement(record.clone());
            }
            settled.number = Some(self.push_settlement(record));
        }
        self.settle_late(last, settled);
    }

    /// Puts an entry into the outbox, where there is room for it. Returns its number.
    pub(crate) fn push_settlement(&mut self, record: SettlementRecord) -> u64 {
        if let Party::Known { customer, route } = record.party {
            self.refer(customer, route);
        }
        let next = self.outbox.pushed_total() + 1;
        let pushed = self.outbox.push(record);
        debug_assert_eq!(pushed, Ok(next), "a place in the outbox was kept for it");
        if pushed.is_ok() {
            self.note(|_| Undo::Charged { seq: next });
        }
        next
    }

    /// The price of a route for a customer, and the customer's tier. Looked up once per route, tier and book.
    pub(crate) fn price_of(&mut self, customer: u32, route: u32) -> (Option<Price>, Arc<str>) {
        let version = self.prices.version();
        let policy = self.customers[customer].policy.as_deref().unwrap_or(&self.config.customer);
        let record = &mut self.table.routes[route];
        if let Some(cached) = &record.price {
            if cached.version == version && *cached.tier == *policy.tier {
                return (cached.price, cached.tier.clone());
            }
        }
        let name = self.table.routes.name(route);
        // Prices name family and model: `flux/dev`.
        let trunk = name.split('?').next().unwrap_or_default();
        let model = trunk.split_once('/').map_or(trunk, |(_, model)| model);
        let price = self.prices.resolve(model, &policy.tier);
        let tier: Arc<str> = Arc::from(&*policy.tier);
        self.table.routes[route].price = Some(CachedPrice { version, tier: tier.clone(), price });
        (price, tier)
    }

    /// A settlement with its names.
    pub(crate) fn tell_settlement(&self, number: u64, record: &SettlementRecord) -> Settlement {
        let (customer, route) = match &record.party {
            Party::Known { customer, route } => (self.customers.name(*customer), self.table.routes.name(*route)),
            Party::Named { customer, route } => (customer, route),
        };
        Settlement {
            epoch: record.epoch,
            number,
            job: record.job,
            customer: customer.clone(),
            route: route.clone(),
            task: record.task,
            state: record.state,
            backend: record.backend.clone(),
            reported: record.reported,
            usage: record.usage,
            absorbed: record.absorbed,
            capped: record.capped,
            measured: record.measured,
            devices: record.device.iter().chain(&record.more_devices).cloned().collect(),
            tier: record.tier.clone(),
            price: record.price,
            price_version: record.price_version,
            charge: record.charge,
            created: self.to_host(record.created),
            started: record.started.map(|at| self.to_host(at)),
            finished: self.to_host(record.finished),
            attempts: record.attempts,
            requeues: record.requeues,
            correction: record.correction.as_deref().map(|own| Correction { at: self.to_host(own.at), ..*own }),
        }
    }
}
