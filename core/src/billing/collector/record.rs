//! What goes into a collector and what comes out of it.

use alloc::boxed::Box;

use serde::{Deserialize, Serialize};

use crate::billing::prices::{Currency, Money, Price};
use crate::billing::usage::Usage;
use crate::error::InputError;
use crate::id::{NAME_LEN_MAX, check_name};
use crate::time::{GpuNanos, Span, Timestamp};

/// Who calls what. Four names in a row are easily swapped, so each is written out.
///
/// ```
/// use libgateway::{BillingCall, BillingCollector, BillingCollectorConfig, PriceBook, Timestamp};
/// let mut billing = BillingCollector::new(BillingCollectorConfig::default(), PriceBook::new(1, "USD")?)?;
/// let call = BillingCall { request_id: "req_1", customer: Some("acme"), model: "flux/dev", tier: Some("gold") };
/// billing.start(call, Timestamp::EPOCH)?;
/// assert_eq!(billing.open(), 1);
/// # Ok::<(), libgateway::error::BillingError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillingCall<'a> {
    /// The id of the request: at most 128 bytes, no control characters, as the other names.
    pub request_id: &'a str,
    /// Who pays, if anybody does.
    pub customer: Option<&'a str>,
    /// The model, as the price book names it.
    pub model: &'a str,
    /// The customer's pricing tier, if there is one.
    pub tier: Option<&'a str>,
}

/// What a call came to: the entry of the outbox.
///
/// ```
/// use libgateway::{BillingCall, BillingCollector, BillingCollectorConfig, BillingOutcome, PriceBook, Timestamp};
/// let mut billing = BillingCollector::new(BillingCollectorConfig::default(), PriceBook::new(1, "USD")?)?;
/// let call = BillingCall { request_id: "req_1", customer: Some("acme"), model: "flux/dev", tier: None };
/// billing.start(call, Timestamp::from_secs(1))?;
/// billing.abandon("req_1", Timestamp::from_secs(3))?;
/// let batch = billing.take(1, Timestamp::from_secs(3)).ok_or("nothing to flush")?;
/// let (_, record) = billing.entries(batch)?.next().ok_or("no record")?;
/// assert_eq!((record.outcome, record.billed_ns.as_nanos()), (BillingOutcome::Abandoned, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BillingRecord {
    /// The id of the request.
    pub request_id: Box<str>,
    /// Who pays, if anybody does.
    pub customer: Option<Box<str>>,
    /// The model.
    pub model: Box<str>,
    /// The customer's pricing tier, if there is one.
    pub tier: Option<Box<str>>,
    /// How the call left.
    pub outcome: BillingOutcome,
    /// What each device did, as it was reported; empty where nothing was measured.
    pub usage: Usage<'static>,
    /// Nanoseconds reported: the measured total, or the time the call took; zero unless it ended.
    pub reported_ns: GpuNanos,
    /// Nanoseconds charged: as many, or what was possible where that is less.
    pub billed_ns: GpuNanos,
    /// Whether less is charged than was reported.
    pub capped: bool,
    /// Whether `reported_ns` was measured.
    pub measured: bool,
    /// When the call started, by the host's clock.
    pub started: Timestamp,
    /// When it left, by the host's clock.
    pub ended: Timestamp,
    /// How long it took: the time that passed, whatever steps the clock made.
    pub elapsed: Span,
    /// Whether `ended` lies before `started`: the clock was set back in between, and `elapsed` is what is known to have
    /// passed.
    pub clock_back: bool,
    /// The price it was accepted for, if there was one.
    pub price: Option<Price>,
    /// The version of the price book that gave it.
    pub price_version: u32,
    /// The currency of price and charge.
    pub currency: Currency,
    /// What is charged; `None` exactly where there was no price.
    pub charge: Option<Money>,
}

/// How a call left the collector. Only an ended one is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BillingOutcome {
    /// The host told its usage.
    Ended,
    /// The host gave it up.
    Abandoned,
    /// Nobody ended it in time.
    Swept,
}

/// What [`BillingCollector::end`](crate::BillingCollector::end) answers: enough for a response header.
/// The whole record is in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BillingReceipt {
    /// The number of the record in the outbox.
    pub seq: u64,
    /// Nanoseconds reported.
    pub reported_ns: GpuNanos,
    /// Nanoseconds charged.
    pub billed_ns: GpuNanos,
    /// Whether less is charged than was reported.
    pub capped: bool,
    /// What is charged; `None` where there was no price.
    pub charge: Option<Money>,
}

/// Sums over the whole life of a collector. Counts stop at 64 bits, sums at 128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BillingTotals {
    /// Calls started.
    pub started: u64,
    /// Calls ended.
    pub ended: u64,
    /// Calls abandoned.
    pub abandoned: u64,
    /// Calls swept.
    pub swept: u64,
    /// Ended calls that had no price.
    pub unpriced: u64,
    /// Nanoseconds of calls that had no price; part of `usage_ns`.
    pub unpriced_ns: u128,
    /// Ended calls charged for less than they reported.
    pub capped: u64,
    /// Ended calls without a measurement.
    pub unmeasured: u64,
    /// Nanoseconds charged.
    pub usage_ns: u128,
    /// Micro-units charged.
    pub charge_micros: u128,
}

impl BillingCall<'_> {
    pub(super) fn validate(self) -> Result<(), InputError> {
        check_name("request_id", self.request_id, NAME_LEN_MAX)?;
        self.customer.map_or(Ok(()), |customer| check_name("customer", customer, NAME_LEN_MAX))?;
        check_name("model", self.model, NAME_LEN_MAX)?;
        self.tier.map_or(Ok(()), |tier| check_name("tier", tier, NAME_LEN_MAX))
    }
}
