//! Where settlements end up: sums that are exact, and that count no settlement twice.

use std::collections::BTreeMap;

use libgateway::{JobState, Settlement};

use super::Failure;
use crate::trace::model_name;

/// The books of the host.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) complete: u64,
    pub(crate) error: u64,
    pub(crate) cancelled: u64,
    pub(crate) charge_micros: u128,
    /// Nanoseconds that customers pay for.
    pub(crate) billed: u128,
    /// Nanoseconds that nobody pays for.
    pub(crate) absorbed: u128,
    pub(crate) by_model: BTreeMap<Box<str>, u128>,
    pub(crate) by_customer: BTreeMap<Box<str>, u128>,
    /// Settlements that came a second time.
    pub(crate) repeated: u64,
    /// The highest number written.
    written: u64,
}

impl Ledger {
    /// Writes settlements down. What was written before is passed over: the gateway hands settlements out until it hears
    /// that they are safe, so a word that got lost makes it say everything again.
    ///
    /// Batches that come back are handed out before anything newer, so the highest number written is all there is to
    /// remember.
    pub(super) fn write(&mut self, settlements: &[Settlement]) -> Result<(), Failure> {
        for settlement in settlements {
            if settlement.number <= self.written {
                self.repeated += 1;
                continue;
            }
            if settlement.number != self.written + 1 {
                return Err(Failure::broken(format!(
                    "settlement {} does not follow {}",
                    settlement.number, self.written
                )));
            }
            self.written = settlement.number;
            self.add(settlement);
        }
        Ok(())
    }

    fn add(&mut self, settlement: &Settlement) {
        match settlement.state {
            JobState::Complete => self.complete += 1,
            JobState::Error => self.error += 1,
            _ => self.cancelled += 1,
        }
        let nanos = u128::from(settlement.usage.as_nanos());
        self.charge_micros += settlement.charge.map_or(0, |charge| u128::from(charge.as_micros()));
        self.billed += nanos;
        self.absorbed += u128::from(settlement.absorbed.as_nanos());
        if settlement.state == JobState::Complete || nanos > 0 {
            let model = settlement.route.rsplit('/').next().unwrap_or_default();
            add(&mut self.by_model, model_name(model), nanos);
            add(&mut self.by_customer, &settlement.customer, nanos);
        }
    }
}

fn add(sums: &mut BTreeMap<Box<str>, u128>, name: &str, nanos: u128) {
    match sums.get_mut(name) {
        Some(sum) => *sum += nanos,
        None => {
            sums.insert(name.into(), nanos);
        }
    }
}
