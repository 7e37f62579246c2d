//! Billing: what a call used, what that costs, and the outbox that loses none of it.
//!
//! [`Usage`] is what the host measured, [`PriceBook`] turns it into money, [`Outbox`] keeps the result until the host
//! confirms it. [`BillingCollector`] puts the three together for hosts that embed nothing else.

mod collector;
mod outbox;
mod prices;
mod usage;

pub use collector::{
    BillingCall, BillingCollector, BillingCollectorConfig, BillingOutcome, BillingReceipt, BillingRecord, BillingTotals,
};
pub use outbox::{Batch, Outbox, OutboxConfig};
pub use prices::{Currency, Money, PRICES_MAX, Price, PriceBook};
pub(crate) use usage::{Capped, allowed};
pub use usage::{DEVICE_LEN_MAX, DEVICES_MAX, DeviceUsage, Excess, Usage};
