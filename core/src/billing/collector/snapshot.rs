//! Reading a collector back: nothing is accepted that one of its configuration cannot have come to.

use alloc::collections::BTreeMap;

use hashbrown::HashTable;
use serde::Deserialize;

use super::{BillingCall, BillingCollector, BillingCollectorConfig, BillingRecord, BillingTotals, Call, Start};
use crate::billing::outbox::Outbox;
use crate::billing::prices::PriceBook;
use crate::error::InputError;
use crate::time::Clock;

/// A collector as it is read, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CollectorForm {
    config: BillingCollectorConfig,
    prices: PriceBook,
    clock: Clock,
    next_start: u64,
    calls: BTreeMap<u64, Call>,
    outbox: Outbox<BillingRecord>,
    totals: BillingTotals,
}

impl TryFrom<CollectorForm> for BillingCollector {
    type Error = InputError;

    fn try_from(form: CollectorForm) -> Result<Self, InputError> {
        let CollectorForm { config, prices, clock, next_start, calls, outbox, totals } = form;
        config.validate()?;
        let contradiction = |field, other| Err(InputError::Contradiction { field, other });
        if outbox.config() != config.outbox {
            return contradiction("outbox", "config");
        }
        if calls.len() > config.starts_max as usize {
            return contradiction("calls", "starts_max");
        }
        if !outbox.has_room(calls.len()) {
            return contradiction("calls", "outbox_max");
        }
        let in_order = calls.values().is_sorted_by_key(|call| call.started);
        if !in_order || calls.values().any(|call| call.started > clock.now()) {
            return contradiction("started", "clock");
        }
        let BillingTotals { started, ended, abandoned, swept, .. } = totals;
        let left = ended.checked_add(abandoned).and_then(|sum| sum.checked_add(swept));
        if left != Some(outbox.pushed_total()) || started.checked_sub(outbox.pushed_total()) != Some(calls.len() as u64)
        {
            return contradiction("totals", "outbox");
        }
        // Every start has a number of its own, from 1 on.
        if started.checked_add(1) != Some(next_start) || calls.keys().any(|number| !(1..next_start).contains(number)) {
            return contradiction("calls", "next_start");
        }
        let mut collector = Self {
            config,
            prices,
            clock,
            next_start,
            calls: BTreeMap::new(),
            outbox,
            totals,
            starts: HashTable::with_capacity(calls.len()),
        };
        for (number, call) in calls {
            let Call { request_id, customer, model, tier, price_version, .. } = &call;
            BillingCall { request_id, customer: customer.as_deref(), model, tier: tier.as_deref() }.validate()?;
            if *price_version > collector.prices.version() {
                return contradiction("price_version", "prices");
            }
            let hash = collector.hash(request_id);
            if collector.find(hash, request_id).is_some() {
                return Err(InputError::Repeated { field: "calls" });
            }
            collector.starts.insert_unique(hash, Start { hash, number }, |start| start.hash);
            collector.calls.insert(number, call);
        }
        Ok(collector)
    }
}
