//! What a job cost: one entry for each job that ended, made in the transition that ended it.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::config::Payer;
use super::route::CachedPrice;
use super::state::State;
use super::undo::Undo;
use crate::billing::{Money, Price, Usage};
use crate::id::{Epoch, JobId};
use crate::job::{JobState, Task};
use crate::time::{GpuNanos, Span, Timestamp};

/// What one job cost, as the host gets it from the outbox.
///
/// Each job that ended has exactly one, also one that never ran. Entries are numbered without gaps, and a number means one
/// entry within an [`Epoch`]. **What a host does with them:** it drops an entry whose epoch and number it has, and one of a
/// job that it has an entry of from another epoch. Then a gateway restored from an older snapshot loses no money and
/// takes none twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settlement {
    /// The life of the gateway in which the job ended.
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
    /// The backend of its last attempt, if it ran.
    pub backend: Option<Arc<str>>,
    /// GPU time the customer pays for.
    pub usage: GpuNanos,
    /// GPU time nobody pays for: failed and lost attempts, by policy.
    pub absorbed: GpuNanos,
    /// Whether all of `usage` was measured by the host; otherwise some is lease time.
    pub measured: bool,
    /// Devices of the last attempt, with what each worked.
    pub devices: Vec<DeviceTime>,
    /// Price tier.
    pub tier: Arc<str>,
    /// Price per GPU-second; `None` where the book has no price.
    pub price: Option<Money>,
    /// Version of the price book.
    pub price_version: u32,
    /// Usage times price, rounded once.
    pub charge: Money,
    /// When the job was submitted.
    pub created: Timestamp,
    /// When its last attempt began, if it ran.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
    /// Attempts that failed.
    pub attempts: u16,
    /// Returns to the queue that were not the job's fault.
    pub requeues: u16,
}

/// What one device worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceTime {
    /// The device.
    pub device: Arc<str>,
    /// Its GPU time.
    pub gpu: GpuNanos,
}

/// A settlement as it is kept: names as numbers until somebody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SettlementRecord {
    pub(crate) epoch: Epoch,
    pub(crate) job: JobId,
    pub(crate) customer: u32,
    pub(crate) route: u32,
    pub(crate) task: Task,
    pub(crate) state: JobState,
    pub(crate) measured: bool,
    pub(crate) attempts: u16,
    pub(crate) requeues: u16,
    pub(crate) price_version: u32,
    pub(crate) price: Price,
    pub(crate) usage: GpuNanos,
    pub(crate) absorbed: GpuNanos,
    pub(crate) charge: Money,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    pub(crate) backend: Option<Arc<str>>,
    pub(crate) tier: Arc<str>,
    /// Nearly always there is one device; the others, if any, stand apart.
    pub(crate) device: Option<DeviceTime>,
    pub(crate) more_devices: Vec<DeviceTime>,
}

/// What an attempt used and who pays for it.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    pub(crate) gpu: GpuNanos,
    pub(crate) measured: bool,
    pub(crate) payer: Payer,
    pub(crate) device: Option<DeviceTime>,
    pub(crate) more_devices: Vec<DeviceTime>,
    pub(crate) backend: Option<Arc<str>>,
}

impl Spent {
    /// A job that never ran.
    pub(crate) fn nothing() -> Self {
        Self {
            gpu: GpuNanos::ZERO,
            measured: true,
            payer: Payer::House,
            device: None,
            more_devices: Vec::new(),
            backend: None,
        }
    }

    /// What a host reported of an attempt, or its lease time where it measured nothing.
    pub(crate) fn of(
        usage: &Usage<'_>,
        elapsed: Span,
        payer: Payer,
        backend: Arc<str>,
        mut name: impl FnMut(&str) -> Arc<str>,
    ) -> Self {
        let mut devices = usage.devices().map(|own| DeviceTime { device: name(&own.device), gpu: own.gpu_ns });
        let device = devices.next();
        Self {
            gpu: usage.billed(elapsed).unwrap_or(GpuNanos::ZERO),
            measured: usage.is_measured(),
            payer,
            device,
            more_devices: devices.collect(),
            backend: Some(backend),
        }
    }
}

impl State {
    /// Puts the settlement of a job that just ended into the outbox. There is room: it was kept when the job came in.
    pub(crate) fn settle(&mut self, slot: u32, spent: Spent) {
        let job = &self.jobs[slot];
        let (customer, route) = (job.customer, job.route);
        let (earlier, absorbed) = job.extra.as_ref().map_or((0, 0), |extra| (extra.billable, extra.absorbed));
        let (billed, house) = match spent.payer {
            Payer::Customer => (spent.gpu, GpuNanos::ZERO),
            Payer::House => (GpuNanos::ZERO, spent.gpu),
        };
        let usage = GpuNanos::from_nanos(earlier).saturating_add(billed);
        let (price, tier) = self.price_of(customer, route);
        // A charge beyond 64 bits was refused where a caller could have meant it; what is left is told as unpriced.
        let charge = price.charge(usage).ok().flatten();
        let job = &self.jobs[slot];
        let record = SettlementRecord {
            epoch: self.epoch,
            job: job.id,
            customer,
            route,
            task: job.task,
            state: job.hot.state,
            measured: spent.measured && earlier == 0,
            attempts: job.hot.attempts,
            requeues: job.hot.requeues,
            price_version: self.prices.version(),
            price: if charge.is_some() { price } else { Price::Unpriced },
            usage,
            absorbed: GpuNanos::from_nanos(absorbed).saturating_add(house),
            charge: charge.unwrap_or(Money::ZERO),
            created: job.created,
            started: Some(job.hot.started).filter(|at| *at != Timestamp::MAX),
            finished: job.hot.since,
            backend: spent.backend,
            tier,
            device: spent.device,
            more_devices: spent.more_devices,
        };
        #[cfg(feature = "testing")]
        if self.has_bug(super::plant::Plant::DoubleSettlement, self.outbox.pushed_total()) {
            self.refer(customer, route);
            let _ = self.outbox.push(record.clone());
        }
        self.scalars.charged_micros += u128::from(record.charge.as_micros());
        self.refer(customer, route);
        let pushed = self.outbox.push(record);
        debug_assert!(pushed.is_ok(), "a place in the outbox was kept for each job");
        if let Ok(seq) = pushed {
            self.note(|_| Undo::Charged { seq });
        }
    }

    /// The price of a route for a customer, and the customer's tier. Looked up once per route, tier and book.
    pub(crate) fn price_of(&mut self, customer: u32, route: u32) -> (Price, Arc<str>) {
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
        Settlement {
            epoch: record.epoch,
            number,
            job: record.job,
            customer: self.customers.name(record.customer).clone(),
            route: self.table.routes.name(record.route).clone(),
            task: record.task,
            state: record.state,
            backend: record.backend.clone(),
            usage: record.usage,
            absorbed: record.absorbed,
            measured: record.measured,
            devices: record.device.iter().chain(&record.more_devices).cloned().collect(),
            tier: record.tier.clone(),
            price: match record.price {
                Price::PerSecond(price) => Some(price),
                _ => None,
            },
            price_version: record.price_version,
            charge: record.charge,
            created: record.created,
            started: record.started,
            finished: record.finished,
            attempts: record.attempts,
            requeues: record.requeues,
        }
    }
}
