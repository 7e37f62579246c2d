//! Starts and ends of calls, paired by request id and turned into billing records.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::outbox::{Batch, Outbox, OutboxConfig};
use super::prices::{Money, Price, PriceBook};
use super::usage::Usage;
use crate::error::{BillingError, Full, InputError, OutboxError, Scope};
use crate::time::{GpuNanos, Span, Timestamp};

#[cfg(test)]
mod model;
mod record;
mod snapshot;

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
    /// Seed of the table of request ids; secret where request ids come from strangers. Default 0.
    pub seed: u64,
}

/// Pairs the start and the end of each call by its request id, charges it, and keeps the record until it is confirmed.
///
/// The order of calls: [`BillingCollector::start`], then [`BillingCollector::end`] or [`BillingCollector::abandon`];
/// [`BillingCollector::handle_timeout`] at [`BillingCollector::next_deadline`]; and to empty the outbox
/// [`BillingCollector::take`], [`BillingCollector::entries`], [`BillingCollector::confirm`]. Time that goes back counts
/// as the latest seen; a host whose clock may leap passes its readings through a [`Clock`](crate::Clock).
///
/// Each started call leaves exactly one record: ended, abandoned or swept. Room for it is set aside at the start, so
/// no end is ever refused because the outbox is full. A call is charged by the price book in force at its start, for
/// which it was accepted. Request ids may be used again once their call has left; a receiver tells records
/// apart by number.
///
/// ```
/// use libgateway::{BillingCall, BillingCollector, BillingCollectorConfig, GpuNanos, Money, PriceBook};
/// use libgateway::{Timestamp, Usage};
/// let prices = PriceBook::new(1, "USD")?.price("flux/dev", "*", 1_200)?;
/// let mut billing = BillingCollector::new(BillingCollectorConfig::default(), prices)?;
///
/// let call = BillingCall { request_id: "req_1", customer: "acme", model: "flux/dev", tier: "" };
/// billing.start(call, Timestamp::from_secs(100))?;
/// let usage = Usage::gpu(GpuNanos::from_millis(1_700), "GPU-8f2c");
/// let receipt = billing.end("req_1", &usage, Timestamp::from_secs(102))?;
/// assert_eq!(receipt.charge, Some(Money::from_micros(2_040)));
///
/// let batch = billing.take(100, Timestamp::from_secs(102)).ok_or("nothing to flush")?;
/// for (number, record) in billing.entries(batch)? {
///     assert_eq!((number, &*record.customer, record.billed_ns), (1, "acme", GpuNanos::from_millis(1_700)));
/// }
/// assert_eq!(billing.confirm(batch), Ok(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "snapshot::CollectorForm")]
pub struct BillingCollector {
    config: BillingCollectorConfig,
    prices: PriceBook,
    latest: Timestamp,
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
    customer: Box<str>,
    model: Box<str>,
    tier: Box<str>,
    started: Timestamp,
    price: Price,
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
            latest: Timestamp::EPOCH,
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
            return Err(full.retry_at(self.first_sweep()).into());
        }
        if !self.outbox.has_room(self.calls.len() + 1) {
            // Open calls have a place in it already: each ends in a record.
            let taken = self.outbox.len() + self.calls.len();
            return Err(Full::new("outbox", Scope::Part, taken as u64, self.config.outbox.outbox_max.into()).into());
        }
        self.latest = self.latest.max(now);
        let number = self.next_start;
        self.next_start += 1;
        self.starts.insert_unique(hash, Start { hash, number }, |start| start.hash);
        let call = Call {
            request_id: call.request_id.into(),
            customer: call.customer.into(),
            model: call.model.into(),
            tier: call.tier.into(),
            started: self.latest,
            price: self.prices.resolve(call.model, call.tier),
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
    /// [`BillingError::Input`] for the shape of the usage; [`BillingError::NoStart`];
    /// [`BillingError::UsageExceedsElapsed`]; [`BillingError::ChargeOverflow`]. Nothing changes then: the call stays
    /// open for a better figure.
    ///
    /// # Complexity
    /// O(log calls + devices · log devices).
    pub fn end(&mut self, request_id: &str, usage: &Usage<'_>, now: Timestamp) -> Result<BillingReceipt, BillingError> {
        usage.validate()?;
        let (number, call) = self.open_call(request_id)?;
        let elapsed = self.latest.max(now).since(call.started);
        usage.check_elapsed(elapsed, self.config.tolerance_ppm, self.config.slack)?;
        let billed_ns = usage.billed(elapsed)?;
        let charge = call.price.charge(billed_ns)?;

        self.latest = self.latest.max(now);
        let totals = &mut self.totals;
        totals.ended = totals.ended.saturating_add(1);
        totals.unpriced = totals.unpriced.saturating_add(u64::from(charge.is_none()));
        totals.unmeasured = totals.unmeasured.saturating_add(u64::from(!usage.is_measured()));
        totals.usage_ns = totals.usage_ns.saturating_add(u128::from(billed_ns.as_nanos()));
        totals.charge_micros = totals.charge_micros.saturating_add(u128::from(charge.unwrap_or_default().as_micros()));
        let seq = self.close(number, BillingOutcome::Ended, usage.clone().into_owned(), billed_ns, charge)?;
        Ok(BillingReceipt { seq, billed_ns, charge })
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
        self.latest = self.latest.max(now);
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
        self.latest = self.latest.max(now);
        self.outbox.handle_timeout(self.latest);
        let mut swept = 0;
        while swept < max {
            let Some((number, _)) = self.calls.first_key_value() else { break };
            let number = *number;
            if self.first_sweep().is_none_or(|deadline| deadline > self.latest) {
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

    /// When a call is swept or a batch given back next.
    ///
    /// # Complexity
    /// O(log calls + log batches).
    pub fn next_deadline(&self) -> Option<Timestamp> {
        match (self.first_sweep(), self.outbox.next_deadline()) {
            (Some(sweep), Some(batch)) => Some(sweep.min(batch)),
            (sweep, batch) => sweep.or(batch),
        }
    }

    /// Hands out up to `max` records, as [`Outbox::take`].
    #[must_use]
    pub fn take(&mut self, max: u32, now: Timestamp) -> Option<Batch> {
        self.latest = self.latest.max(now);
        self.outbox.take(max, self.latest)
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

    /// When the oldest call is swept; the last instant means "never".
    fn first_sweep(&self) -> Option<Timestamp> {
        let (_, call) = self.calls.first_key_value()?;
        Some(call.started + self.config.start_age_max).filter(|deadline| *deadline < Timestamp::MAX)
    }

    fn close_free(&mut self, number: u64, outcome: BillingOutcome) -> Result<u64, BillingError> {
        let price = self.calls.get(&number).map_or(Price::Unpriced, |call| call.price);
        let charge = price.charge(GpuNanos::ZERO)?;
        self.close(number, outcome, Usage::unmeasured(), GpuNanos::ZERO, charge)
    }

    /// Turns an open call into its record.
    fn close(
        &mut self,
        number: u64,
        outcome: BillingOutcome,
        usage: Usage<'static>,
        billed_ns: GpuNanos,
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
            billed_ns,
            started: call.started,
            ended: self.latest,
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
            seed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Coded;
    use crate::id::NAME_LEN_MAX;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn call(request_id: &str) -> BillingCall<'_> {
        BillingCall { request_id, customer: "acme", model: "dev", tier: "" }
    }

    fn gpu(nanos: u64) -> Usage<'static> {
        Usage::gpu(GpuNanos::from_nanos(nanos), "GPU-8f2c")
    }

    pub(super) fn config() -> BillingCollectorConfig {
        BillingCollectorConfig::default()
            .starts_max(3)
            .start_age_max(Span::from_nanos(1_000))
            .outbox(OutboxConfig::default().outbox_max(4).hold(Span::from_nanos(100)))
            .tolerance_ppm(0)
            .slack(Span::ZERO)
    }

    pub(super) fn collector() -> BillingCollector {
        // A micro-unit for a nanosecond makes every charge readable.
        let prices = PriceBook::new(1, "USD").unwrap().price("dev", "*", 1_000_000_000).unwrap();
        BillingCollector::new(config(), prices).unwrap()
    }

    #[test]
    fn interleaved_calls_are_paired_by_id_and_billed_for_their_own_time() {
        // Ranges were popped from a stack: of two interleaved requests each was charged the other's time, and the
        // start was never subtracted at all.
        let mut billing = collector();
        billing.start(call("a"), at(1_000)).unwrap();
        billing.start(call("b"), at(1_100)).unwrap();
        assert_eq!(billing.start(call("a"), at(1_150)), Err(BillingError::AlreadyStarted));
        let a = billing.end("a", &Usage::unmeasured(), at(1_300)).unwrap();
        let b = billing.end("b", &gpu(250), at(1_400)).unwrap();
        assert_eq!((a.billed_ns.as_nanos(), a.charge), (300, Some(Money::from_micros(300))));
        assert_eq!((b.billed_ns.as_nanos(), b.charge), (250, Some(Money::from_micros(250))));
        let batch = billing.take(9, at(1_400)).unwrap();
        let records: std::vec::Vec<_> = billing.entries(batch).unwrap().map(|(_, record)| record).collect();
        assert_eq!(
            records
                .iter()
                .map(|record| (&*record.request_id, record.measured, record.usage.device_count()))
                .collect::<std::vec::Vec<_>>(),
            [("a", false, 0), ("b", true, 1)]
        );
        assert_eq!((records[0].started, records[0].ended), (at(1_000), at(1_300)));
        assert_eq!(billing.totals().unmeasured, 1);
    }

    #[test]
    fn an_end_without_a_start_and_a_second_end_make_no_record() {
        let mut billing = collector();
        assert_eq!(billing.end("a", &gpu(0), at(5)), Err(BillingError::NoStart));
        assert_eq!(billing.abandon("a", at(5)), Err(BillingError::NoStart));
        billing.start(call("a"), at(5)).unwrap();
        billing.end("a", &gpu(1), at(6)).unwrap();
        assert_eq!(billing.end("a", &gpu(1), at(7)), Err(BillingError::NoStart));
        assert_eq!(billing.outbox().pushed_total(), 1);
    }

    #[test]
    fn an_impossible_usage_leaves_the_call_open() {
        let mut billing = collector();
        billing.start(call("a"), at(100)).unwrap();
        let too_long = BillingError::UsageExceedsElapsed { used_ns: 51, allowed_ns: 50 };
        assert_eq!(billing.end("a", &gpu(51), at(150)), Err(too_long));
        assert_eq!(billing.end("x", &gpu(1).and_gpu(GpuNanos::ZERO, "a,b"), at(150)).unwrap_err().number(), 203);
        // A clock that goes back stands still: nothing was measured since, so nothing can have been used.
        assert!(billing.end("a", &gpu(1), at(50)).is_err());
        assert_eq!((billing.open(), billing.outbox().len()), (1, 0));
        assert_eq!(billing.end("a", &gpu(50), at(150)).unwrap().billed_ns.as_nanos(), 50);
    }

    #[test]
    fn an_overflowing_charge_leaves_the_call_open() {
        let prices = PriceBook::new(1, "USD").unwrap().price("dev", "*", u64::MAX).unwrap();
        let mut billing = BillingCollector::new(config(), prices).unwrap();
        billing.start(call("a"), at(0)).unwrap();
        let later = Timestamp::from_secs(2);
        assert_eq!(billing.end("a", &Usage::unmeasured(), later), Err(BillingError::ChargeOverflow));
        assert_eq!((billing.open(), billing.totals().charge_micros), (1, 0));
        billing.check_invariants();
    }

    #[test]
    fn a_call_is_swept_at_its_age_and_not_a_nanosecond_before() {
        let mut billing = collector();
        billing.start(call("a"), at(500)).unwrap();
        assert_eq!(billing.next_deadline(), Some(at(1_500)));
        assert_eq!(billing.handle_timeout(9, at(1_499)), 0);
        assert_eq!(billing.handle_timeout(9, at(1_500)), 1);
        assert_eq!(billing.handle_timeout(9, at(1_500)), 0);
        assert_eq!(billing.end("a", &gpu(1), at(1_501)), Err(BillingError::NoStart));
        let batch = billing.take(9, at(1_501)).unwrap();
        let (_, record) = billing.entries(batch).unwrap().next().unwrap();
        assert_eq!(
            (record.outcome, record.charge, record.ended),
            (BillingOutcome::Swept, Some(Money::ZERO), at(1_500))
        );
    }

    #[test]
    fn a_sweep_does_no_more_than_asked_and_the_oldest_first() {
        let mut billing = collector();
        for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
            billing.start(call(id), at(n as u64)).unwrap();
        }
        billing.abandon("b", at(10)).unwrap();
        assert_eq!(billing.handle_timeout(0, at(5_000)), 0);
        assert_eq!(billing.handle_timeout(1, at(5_000)), 1);
        assert_eq!(billing.end("a", &gpu(1), at(5_000)), Err(BillingError::NoStart));
        // Late, but not yet swept: the work was done, so it is charged.
        assert_eq!(billing.end("c", &gpu(40), at(5_000)).unwrap().charge, Some(Money::from_micros(40)));
        assert_eq!(billing.handle_timeout(9, at(5_000)), 0);
        let BillingTotals { started, ended, abandoned, swept, .. } = billing.totals();
        assert_eq!((started, ended, abandoned, swept), (3, 1, 1, 1));
    }

    #[test]
    fn no_end_is_refused_for_a_full_outbox() {
        let mut billing = collector();
        for id in ["a", "b", "c"] {
            billing.start(call(id), at(0)).unwrap();
        }
        assert_eq!(
            billing.start(call("d"), at(0)),
            Err(Full::new("starts", Scope::Part, 3, 3).retry_at(billing.first_sweep()).into())
        );
        billing.end("a", &gpu(0), at(1)).unwrap();
        billing.end("b", &gpu(0), at(1)).unwrap();
        billing.start(call("d"), at(1)).unwrap();
        // Two records and two open calls fill an outbox of four.
        assert_eq!(billing.start(call("e"), at(1)), Err(Full::new("outbox", Scope::Part, 4, 4).into()));
        billing.end("c", &gpu(0), at(1)).unwrap();
        billing.end("d", &gpu(0), at(1)).unwrap();
        let batch = billing.take(9, at(1)).unwrap();
        assert!(billing.start(call("e"), at(1)).is_err());
        billing.confirm(batch).unwrap();
        assert_eq!(billing.start(call("e"), at(1)), Ok(()));
    }

    #[test]
    fn a_call_pays_the_price_it_started_with() {
        let mut billing = collector();
        billing.start(call("a"), at(0)).unwrap();
        let dearer = PriceBook::new(2, "USD").unwrap().price("dev", "*", 2_000_000_000).unwrap();
        billing.put_prices(dearer.clone()).unwrap();
        billing.start(call("b"), at(0)).unwrap();
        assert_eq!(billing.end("a", &gpu(10), at(10)).unwrap().charge, Some(Money::from_micros(10)));
        assert_eq!(billing.end("b", &gpu(10), at(10)).unwrap().charge, Some(Money::from_micros(20)));
        assert!(billing.put_prices(dearer).is_err());
        let euros = PriceBook::new(3, "EUR").unwrap();
        assert!(matches!(billing.put_prices(euros), Err(InputError::Contradiction { .. })));
        assert_eq!(billing.prices().version(), 2);
    }

    #[test]
    fn a_call_without_a_price_is_told_apart_from_a_free_one() {
        let mut billing = collector();
        billing.start(BillingCall { model: "other", ..call("a") }, at(0)).unwrap();
        let receipt = billing.end("a", &gpu(10), at(10)).unwrap();
        assert_eq!((receipt.billed_ns.as_nanos(), receipt.charge), (10, None));
        assert_eq!((billing.totals().unpriced, billing.totals().usage_ns), (1, 10));
    }

    #[test]
    fn names_are_checked_before_anything_else() {
        let mut billing = collector();
        for wrong in [
            call(""),
            BillingCall { customer: "", ..call("a") },
            BillingCall { model: "", ..call("a") },
            BillingCall { tier: "\n", ..call("a") },
            call(&"x".repeat(NAME_LEN_MAX + 1)),
        ] {
            assert!(matches!(billing.start(wrong, at(0)), Err(BillingError::Input(_))), "{wrong:?}");
        }
        assert_eq!(billing.open(), 0);
        assert!(BillingCollector::new(config().starts_max(0), billing.prices().clone()).is_err());
        assert!(BillingCollector::new(config().start_age_max(Span::ZERO), billing.prices().clone()).is_err());
    }

    #[test]
    fn a_start_at_a_time_gone_by_counts_from_the_latest_time() {
        let mut billing = collector();
        billing.start(call("a"), at(1_000)).unwrap();
        billing.start(call("b"), at(5)).unwrap();
        billing.abandon("a", at(5)).unwrap();
        assert_eq!(billing.next_deadline(), Some(at(2_000)));
        assert_eq!(billing.end("b", &Usage::unmeasured(), at(1_030)).unwrap().billed_ns.as_nanos(), 30);
    }

    #[test]
    fn an_age_without_end_is_never_swept() {
        let endless = config().start_age_max(Span::MAX);
        let mut billing = BillingCollector::new(endless, collector().prices().clone()).unwrap();
        billing.start(call("a"), at(7)).unwrap();
        assert_eq!(billing.next_deadline(), None);
        assert_eq!(billing.handle_timeout(9, Timestamp::MAX), 0);
        assert_eq!(billing.open(), 1);
    }
}
