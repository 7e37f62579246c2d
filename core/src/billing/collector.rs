//! Starts and ends of calls, paired by request id and turned into billing records.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::outbox::{Batch, Outbox, OutboxConfig};
use super::prices::{Money, Price, PriceBook};
use super::usage::{Capped, Excess, Usage, allowed};
use crate::error::{BillingError, Full, InputError, OutboxError, Scope};
use crate::time::{Clock, GpuNanos, Span, Timestamp};

#[cfg(test)]
mod model;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;

pub use record::{BillingCall, BillingOutcome, BillingReceipt, BillingRecord, BillingTotals};

/// How much a [`BillingCollector`] keeps, and what it believes.
///
/// ```
/// use libgateway::{BillingCollectorConfig, Span};
/// let config = BillingCollectorConfig::default().starts_max(500);
/// assert_eq!((config.starts_max, config.start_age_max), (500, Span::from_secs(3_600)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BillingCollectorConfig {
    /// Most calls open at a time. 1 and up; default 100 000.
    pub starts_max: u32,
    /// How long a call may stay open before it is swept. Above zero; default 1 h.
    pub start_age_max: Span,
    /// The limits of the outbox.
    pub outbox: OutboxConfig,
    /// How much longer than the call a device may have worked, in parts per million: the drift of two clocks.
    /// Default 10 000, one in a hundred.
    pub tolerance_ppm: u32,
    /// The same as a fixed time: how coarsely the host reads its clock. Default 100 ms.
    pub slack: Span,
    /// What becomes of a usage beyond that. Default: what was possible is charged.
    pub excess: Excess,
    /// Seed of the table of request ids; secret where request ids come from strangers. Default 0.
    pub seed: u64,
}

/// Pairs the start and the end of each call by its request id, charges it, and keeps the record until it is confirmed.
///
/// The order of calls: [`BillingCollector::start`], then [`BillingCollector::end`] or [`BillingCollector::abandon`];
/// [`BillingCollector::handle_timeout`] at [`BillingCollector::next_deadline`]; and to empty the outbox
/// [`BillingCollector::take`], [`BillingCollector::entries`], [`BillingCollector::confirm`]. Time passes as the readings
/// do, whatever steps they make (see [`Clock`]); a call whose end was read before its start is charged for the time that
/// passed, and its record says so.
///
/// Each started call leaves exactly one record: ended, abandoned or swept. Room for it is set aside at the start, so
/// no end is ever refused because the outbox is full, nor for what it reports: more than a device can have worked is
/// charged as what it can have worked, with both figures in the record, unless [`BillingCollectorConfig::excess`] is to
/// refuse. A call is charged by the price book in force at its start, for
/// which it was accepted. Request ids may be used again once their call has left; a receiver tells records
/// apart by number.
///
/// ```
/// use libgateway::{BillingCall, BillingCollector, BillingCollectorConfig, GpuNanos, Money, PriceBook};
/// use libgateway::{Timestamp, Usage};
/// let prices = PriceBook::new(1, "USD")?.price("flux/dev", "*", 1_200)?;
/// let mut billing = BillingCollector::new(BillingCollectorConfig::default(), prices)?;
///
/// let call = BillingCall { request_id: "req_1", customer: Some("acme"), model: "flux/dev", tier: None };
/// billing.start(call, Timestamp::from_secs(100))?;
/// let usage = Usage::gpu(GpuNanos::from_millis(1_700), "GPU-8f2c");
/// let receipt = billing.end("req_1", &usage, Timestamp::from_secs(102))?;
/// assert_eq!(receipt.charge, Some(Money::from_micros(2_040)));
///
/// let batch = billing.take(100, Timestamp::from_secs(102)).ok_or("nothing to flush")?;
/// for (number, record) in billing.entries(batch)? {
///     assert_eq!((number, record.customer.as_deref()), (1, Some("acme")));
///     assert_eq!((record.reported_ns, record.billed_ns), (GpuNanos::from_millis(1_700), GpuNanos::from_millis(1_700)));
/// }
/// assert_eq!(billing.confirm(batch), Ok(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "snapshot::CollectorForm")]
pub struct BillingCollector {
    config: BillingCollectorConfig,
    prices: PriceBook,
    clock: Clock,
    next_start: u64,
    /// The open calls in the order they started. All may stay equally long and time never goes back, so it is the order
    /// of their deadlines, too.
    calls: BTreeMap<u64, Call>,
    outbox: Outbox<BillingRecord>,
    totals: BillingTotals,
    /// The open calls by request id.
    #[serde(skip)]
    starts: HashTable<Start>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    request_id: Box<str>,
    customer: Option<Box<str>>,
    model: Box<str>,
    tier: Option<Box<str>>,
    /// By the collector's time.
    started: Timestamp,
    /// By the host's clock.
    read: Timestamp,
    price: Option<Price>,
    price_version: u32,
}

/// An open call in the table: the hash of its request id is kept, so that growing needs no look at the ids.
#[derive(Clone, Copy, Debug)]
struct Start {
    hash: u64,
    number: u64,
}

impl BillingCollector {
    /// A collector without calls.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for a limit, an age or a hold of zero.
    pub fn new(config: BillingCollectorConfig, prices: PriceBook) -> Result<Self, InputError> {
        config.validate()?;
        Ok(Self {
            config,
            prices,
            clock: Clock::wary(Timestamp::EPOCH, JUMP_MAX),
            next_start: 1,
            calls: BTreeMap::new(),
            outbox: Outbox::new(config.outbox)?,
            totals: BillingTotals::default(),
            starts: HashTable::new(),
        })
    }

    /// Puts another price book in force, for calls that start from now on.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] unless its version is higher; [`InputError::Contradiction`] for another currency:
    /// amounts of two currencies have no sum.
    pub fn put_prices(&mut self, prices: PriceBook) -> Result<(), InputError> {
        let (version, current) = (prices.version(), self.prices.version());
        if version <= current {
            let (value, min) = (u64::from(version), u64::from(current) + 1);
            return Err(InputError::OutOfRange { field: "version", value, min, max: u64::from(u32::MAX) });
        }
        if prices.currency() != self.prices.currency() {
            return Err(InputError::Contradiction { field: "currency", other: "prices" });
        }
        self.prices = prices;
        Ok(())
    }

    /// Opens a call, and sets room aside for its record.
    ///
    /// # Errors
    /// [`BillingError::Input`] for a name; [`BillingError::AlreadyStarted`] while a call of this id is open;
    /// [`BillingError::Full`] for the starts, then for the outbox. Nothing changes then.
    ///
    /// # Complexity
    /// O(log calls + log prices).
    pub fn start(&mut self, call: BillingCall<'_>, now: Timestamp) -> Result<(), BillingError> {
        call.validate()?;
        let hash = self.hash(call.request_id);
        if self.find(hash, call.request_id).is_some() {
            return Err(BillingError::AlreadyStarted);
        }
        if self.calls.len() >= self.config.starts_max as usize {
            let full = Full::new("starts", Scope::Part, self.calls.len() as u64, self.config.starts_max.into());
            let clock = self.clock.peek(now, self.awaited());
            return Err(full.retry_at(self.first_sweep().map(|at| clock.to_host(at))).into());
        }
        if !self.outbox.has_room(self.calls.len() + 1) {
            // Open calls have a place in it already: each ends in a record.
            let taken = self.outbox.len() + self.calls.len();
            return Err(Full::new("outbox", Scope::Part, taken as u64, self.config.outbox.outbox_max.into()).into());
        }
        self.observe(now);
        let number = self.next_start;
        self.next_start += 1;
        self.starts.insert_unique(hash, Start { hash, number }, |start| start.hash);
        let call = Call {
            request_id: call.request_id.into(),
            customer: call.customer.map(Box::from),
            model: call.model.into(),
            tier: call.tier.map(Box::from),
            started: self.clock.now(),
            read: now,
            price: self.prices.resolve(call.model, call.tier.unwrap_or_default()),
            price_version: self.prices.version(),
        };
        self.calls.insert(number, call);
        self.totals.started = self.totals.started.saturating_add(1);
        Ok(())
    }

    /// Closes a call and charges what it used. A call past its age that was not yet swept is charged as any other: the
    /// age bounds memory, it does not make work free.
    ///
    /// # Errors
    /// [`BillingError::Input`] for the shape of the usage; [`BillingError::NoStart`]; under [`Excess::Refuse`]
    /// [`BillingError::UsageExceedsElapsed`]. Nothing changes then: the call stays open for a better figure.
    ///
    /// # Complexity
    /// O(log calls + devices · log devices).
    pub fn end(&mut self, request_id: &str, usage: &Usage<'_>, now: Timestamp) -> Result<BillingReceipt, BillingError> {
        usage.validate()?;
        let (number, call) = self.open_call(request_id)?;
        let elapsed = self.clock.peek(now, self.awaited()).now().since(call.started);
        let BillingCollectorConfig { tolerance_ppm, slack, .. } = self.config;
        if self.config.excess == Excess::Refuse {
            usage.check_elapsed(elapsed, tolerance_ppm, slack)?;
        }
        let billed = if usage.is_measured() {
            usage.cap(allowed(elapsed, tolerance_ppm, slack), u64::MAX, |_, _| {})
        } else {
            let all = GpuNanos::from_nanos(elapsed.as_nanos());
            Capped { reported: all, billed: all, capped: false }
        };
        let (charge, dear) = call.price.map(|price| price.charge_capped(billed.billed)).unzip();
        let billed = Capped { capped: billed.capped || dear == Some(true), ..billed };

        self.observe(now);
        let totals = &mut self.totals;
        totals.ended = totals.ended.saturating_add(1);
        totals.unmeasured = totals.unmeasured.saturating_add(u64::from(!usage.is_measured()));
        totals.capped = totals.capped.saturating_add(u64::from(billed.capped));
        totals.usage_ns = totals.usage_ns.saturating_add(u128::from(billed.billed.as_nanos()));
        match charge {
            Some(charge) => {
                totals.charge_micros = totals.charge_micros.saturating_add(u128::from(charge.as_micros()));
            }
            None => {
                totals.unpriced = totals.unpriced.saturating_add(1);
                totals.unpriced_ns = totals.unpriced_ns.saturating_add(u128::from(billed.billed.as_nanos()));
            }
        }
        let seq = self.close(number, BillingOutcome::Ended, usage.clone().into_owned(), billed, charge)?;
        Ok(BillingReceipt {
            seq,
            reported_ns: billed.reported,
            billed_ns: billed.billed,
            capped: billed.capped,
            charge,
        })
    }

    /// Closes a call that came to nothing: its record says so and charges nothing. Returns the record's number.
    ///
    /// # Errors
    /// [`BillingError::NoStart`]. Nothing changes then.
    ///
    /// # Complexity
    /// O(log calls).
    pub fn abandon(&mut self, request_id: &str, now: Timestamp) -> Result<u64, BillingError> {
        let (number, _) = self.open_call(request_id)?;
        self.observe(now);
        self.totals.abandoned = self.totals.abandoned.saturating_add(1);
        self.close_free(number, BillingOutcome::Abandoned)
    }

    /// Sweeps up to `max` calls whose age has come, the oldest first, and gives back the batches whose hold has ended.
    /// Returns how many calls were swept; each leaves a record that says so and charges nothing. Safe early, safe
    /// twice; as long as `max` come, call again.
    ///
    /// # Complexity
    /// O(log calls) for each call swept, O(log batches) for each batch.
    pub fn handle_timeout(&mut self, max: u32, now: Timestamp) -> u32 {
        self.observe(now);
        self.outbox.handle_timeout(self.clock.now());
        let mut swept = 0;
        while swept < max {
            let Some((number, _)) = self.calls.first_key_value() else { break };
            let number = *number;
            if self.first_sweep().is_none_or(|deadline| deadline > self.clock.now()) {
                break;
            }
            // Cannot fail: the call is open, and its room was set aside.
            if self.close_free(number, BillingOutcome::Swept).is_err() {
                break;
            }
            self.totals.swept = self.totals.swept.saturating_add(1);
            swept += 1;
        }
        swept
    }

    /// When a call is swept or a batch given back next, by the host's clock as it was last read.
    ///
    /// # Complexity
    /// O(log calls + log batches).
    pub fn next_deadline(&self) -> Option<Timestamp> {
        Some(self.awaited()).filter(|at| *at != Timestamp::MAX).map(|at| self.clock.to_host(at))
    }

    /// Hands out up to `max` records, as [`Outbox::take`].
    #[must_use]
    pub fn take(&mut self, max: u32, now: Timestamp) -> Option<Batch> {
        self.observe(now);
        self.outbox.take(max, self.clock.now())
    }

    /// The records of a batch, as [`Outbox::entries`].
    ///
    /// # Errors
    /// As [`Outbox::confirm`].
    pub fn entries(&self, batch: Batch) -> Result<impl ExactSizeIterator<Item = (u64, &BillingRecord)>, OutboxError> {
        self.outbox.entries(batch)
    }

    /// Removes the records of a batch for good, as [`Outbox::confirm`].
    ///
    /// # Errors
    /// As [`Outbox::confirm`].
    pub fn confirm(&mut self, batch: Batch) -> Result<u32, OutboxError> {
        self.outbox.confirm(batch)
    }

    /// Frees the records of a batch to be handed out again, as [`Outbox::give_back`].
    ///
    /// # Errors
    /// As [`Outbox::confirm`].
    pub fn give_back(&mut self, batch: Batch) -> Result<u32, OutboxError> {
        self.outbox.give_back(batch)
    }

    /// The outbox, for its counts and batches.
    pub const fn outbox(&self) -> &Outbox<BillingRecord> {
        &self.outbox
    }

    /// How many calls are open.
    pub fn open(&self) -> usize {
        self.calls.len()
    }

    /// The sums so far.
    pub const fn totals(&self) -> BillingTotals {
        self.totals
    }

    /// The price book in force.
    pub const fn prices(&self) -> &PriceBook {
        &self.prices
    }

    /// The configuration it was made with.
    pub const fn config(&self) -> BillingCollectorConfig {
        self.config
    }

    /// Recomputes what is kept ready, and panics where it disagrees.
    ///
    /// # Complexity
    /// O(calls · log calls).
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        self.outbox.check_invariants();
        assert_eq!(self.starts.len(), self.calls.len(), "the table has another number of calls");
        for (number, call) in &self.calls {
            let found = self.find(self.hash(&call.request_id), &call.request_id);
            assert_eq!(found, Some(*number), "call {number} is not found by its id");
            assert!(*number < self.next_start, "call {number} is of the future");
        }
        assert!(self.calls.values().is_sorted_by_key(|call| call.started), "calls are out of order");
        assert!(self.calls.len() <= self.config.starts_max as usize, "more calls are open than allowed");
        assert!(self.outbox.has_room(self.calls.len()), "an open call has no room for its record");
        let BillingTotals { started, ended, abandoned, swept, .. } = self.totals;
        assert_eq!(ended + abandoned + swept, self.outbox.pushed_total(), "a call left without a record");
        assert_eq!(started, self.outbox.pushed_total() + self.calls.len() as u64, "a call vanished");
    }

    fn hash(&self, request_id: &str) -> u64 {
        FixedState::with_seed(self.config.seed).hash_one(request_id)
    }

    fn find(&self, hash: u64, request_id: &str) -> Option<u64> {
        let is_it = |start: &Start| {
            start.hash == hash && self.calls.get(&start.number).is_some_and(|call| &*call.request_id == request_id)
        };
        self.starts.find(hash, is_it).map(|start| start.number)
    }

    fn open_call(&self, request_id: &str) -> Result<(u64, &Call), BillingError> {
        let number = self.find(self.hash(request_id), request_id).ok_or(BillingError::NoStart)?;
        let call = self.calls.get(&number).ok_or(BillingError::NoStart)?;
        Ok((number, call))
    }

    fn observe(&mut self, now: Timestamp) {
        self.clock.observe_awaited(now, self.awaited());
    }

    /// The next deadline by the collector's clock; the last instant means "never".
    fn awaited(&self) -> Timestamp {
        [self.first_sweep(), self.outbox.next_deadline()].into_iter().flatten().min().unwrap_or(Timestamp::MAX)
    }

    /// When the oldest call is swept; the last instant means "never".
    fn first_sweep(&self) -> Option<Timestamp> {
        let (_, call) = self.calls.first_key_value()?;
        Some(call.started + self.config.start_age_max).filter(|deadline| *deadline < Timestamp::MAX)
    }

    fn close_free(&mut self, number: u64, outcome: BillingOutcome) -> Result<u64, BillingError> {
        let priced = self.calls.get(&number).is_some_and(|call| call.price.is_some());
        let nothing = Capped { reported: GpuNanos::ZERO, billed: GpuNanos::ZERO, capped: false };
        self.close(number, outcome, Usage::unmeasured(), nothing, priced.then_some(Money::ZERO))
    }

    /// Turns an open call into its record.
    fn close(
        &mut self,
        number: u64,
        outcome: BillingOutcome,
        usage: Usage<'static>,
        billed: Capped,
        charge: Option<Money>,
    ) -> Result<u64, BillingError> {
        let call = self.calls.remove(&number).ok_or(BillingError::NoStart)?;
        let hash = self.hash(&call.request_id);
        if let Ok(start) = self.starts.find_entry(hash, |start| start.number == number) {
            start.remove();
        }
        let record = BillingRecord {
            request_id: call.request_id,
            customer: call.customer,
            model: call.model,
            tier: call.tier,
            outcome,
            measured: usage.is_measured(),
            usage,
            reported_ns: billed.reported,
            billed_ns: billed.billed,
            capped: billed.capped,
            started: call.read,
            ended: self.clock.reading(),
            elapsed: self.clock.now().since(call.started),
            clock_back: self.clock.reading() < call.read,
            price: call.price,
            price_version: call.price_version,
            currency: self.prices.currency(),
            charge,
        };
        debug_assert!(self.outbox.has_room(1), "room was set aside at the start");
        Ok(self.outbox.push(record)?)
    }
}

impl BillingCollectorConfig {
    /// Sets [`BillingCollectorConfig::starts_max`].
    #[must_use]
    pub const fn starts_max(mut self, starts_max: u32) -> Self {
        self.starts_max = starts_max;
        self
    }

    /// Sets [`BillingCollectorConfig::start_age_max`].
    #[must_use]
    pub const fn start_age_max(mut self, start_age_max: Span) -> Self {
        self.start_age_max = start_age_max;
        self
    }

    /// Sets [`BillingCollectorConfig::outbox`].
    #[must_use]
    pub const fn outbox(mut self, outbox: OutboxConfig) -> Self {
        self.outbox = outbox;
        self
    }

    /// Sets [`BillingCollectorConfig::tolerance_ppm`].
    #[must_use]
    pub const fn tolerance_ppm(mut self, tolerance_ppm: u32) -> Self {
        self.tolerance_ppm = tolerance_ppm;
        self
    }

    /// Sets [`BillingCollectorConfig::slack`].
    #[must_use]
    pub const fn slack(mut self, slack: Span) -> Self {
        self.slack = slack;
        self
    }

    /// Sets [`BillingCollectorConfig::excess`].
    #[must_use]
    pub const fn excess(mut self, excess: Excess) -> Self {
        self.excess = excess;
        self
    }

    /// Sets [`BillingCollectorConfig::seed`].
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn validate(self) -> Result<(), InputError> {
        if self.starts_max == 0 {
            return Err(InputError::OutOfRange { field: "starts_max", value: 0, min: 1, max: u64::from(u32::MAX) });
        }
        if self.start_age_max.is_zero() {
            return Err(InputError::OutOfRange { field: "start_age_max", value: 0, min: 1, max: u64::MAX });
        }
        Ok(())
    }
}

impl Default for BillingCollectorConfig {
    fn default() -> Self {
        Self {
            starts_max: 100_000,
            start_age_max: Span::from_secs(3_600),
            outbox: OutboxConfig::default(),
            tolerance_ppm: 10_000,
            slack: Span::from_millis(100),
            excess: Excess::Cap,
            seed: 0,
        }
    }
}

/// A step of the clock ahead by more than this is on trial, see [`Clock`].
const JUMP_MAX: Span = Span::from_secs(3_600);
