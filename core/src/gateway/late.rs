//! Leases that have ended and may still be told what they used.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::config::Payer;
use super::event::EventKind;
use super::settlement::{Correction, DeviceTime, Party, SettlementRecord};
use super::state::State;
use super::undo::Undo;
use crate::billing::{Capped, Excess, Money, Price, Usage, allowed};
use crate::error::{BillingError, Full, InputError, LeaseError, Scope};
use crate::id::{Epoch, JobId, LeaseId};
use crate::job::{JobState, Task};
use crate::time::{GpuNanos, Span, Timestamp};

/// What a usage that was told late came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Corrected {
    /// The job of the lease.
    pub job: JobId,
    /// The number of the correcting settlement. `None` where there is none: nothing changed, the job has not ended and
    /// will be settled with this figure, or no settlements are kept.
    pub settlement: Option<u64>,
    /// GPU time that was reported.
    pub reported: GpuNanos,
    /// GPU time that stands for the lease now.
    pub billed: GpuNanos,
    /// Whether that is less than was reported.
    pub capped: bool,
}

/// A lease that has ended, with what stands for it in the books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LateLease {
    pub(crate) lease: LeaseId,
    pub(crate) job: JobId,
    /// The job's own number: its id may be used again.
    pub(crate) sequence: u64,
    pub(crate) customer: Arc<str>,
    pub(crate) route: Arc<str>,
    pub(crate) backend: Arc<str>,
    pub(crate) payer: Payer,
    pub(crate) measured: bool,
    pub(crate) reported: GpuNanos,
    pub(crate) billed: GpuNanos,
    pub(crate) devices: Vec<DeviceTime>,
    pub(crate) granted: Timestamp,
    pub(crate) ended: Timestamp,
    /// Devices its backend had.
    pub(crate) devices_max: u32,
    /// The lease of the same job that ended before it, as long as it is here.
    pub(crate) earlier: Option<u64>,
    /// How many entries correct it.
    pub(crate) corrections: u32,
    /// GPU time that stood for it when its job was settled.
    pub(crate) first: GpuNanos,
    /// Its job's settlement, when there is one.
    pub(crate) settled: Option<Arc<SettledAs>>,
}

/// What a correction repeats of the settlement it corrects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SettledAs {
    /// The life of the gateway in which it was made.
    pub(crate) epoch: Epoch,
    /// Its number; `None` where none was kept.
    pub(crate) number: Option<u64>,
    pub(crate) task: Task,
    pub(crate) state: JobState,
    pub(crate) attempts: u32,
    pub(crate) requeues: u32,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    pub(crate) tier: Arc<str>,
    pub(crate) price: Option<Price>,
    pub(crate) price_version: u32,
    /// GPU time that the customer pays for by it.
    pub(crate) usage: GpuNanos,
}

impl LateLease {
    /// Whether less stands for it than was reported.
    fn is_capped(&self) -> bool {
        self.reported > self.billed
    }
}

impl SettledAs {
    /// What later entries repeat of one that has no number yet.
    pub(crate) fn of(record: &SettlementRecord) -> Self {
        Self {
            epoch: record.epoch,
            number: None,
            task: record.task,
            state: record.state,
            attempts: record.attempts,
            requeues: record.requeues,
            created: record.created,
            started: record.started,
            finished: record.finished,
            tier: record.tier.clone(),
            price: record.price,
            price_version: record.price_version,
            usage: record.usage,
        }
    }
}

/// Ended leases in the order they ended, each with a number that stays.
#[derive(Debug)]
pub(crate) struct LateLeases {
    leases: VecDeque<LateLease>,
    /// The number of the first one.
    first: u64,
    by_id: HashMap<LeaseId, u64, FixedState>,
}

impl LateLeases {
    pub(crate) fn new(seed: u64) -> Self {
        Self { leases: VecDeque::new(), first: 0, by_id: HashMap::with_hasher(FixedState::with_seed(seed)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LateLease> {
        self.leases.iter()
    }

    pub(crate) fn find(&self, lease: LeaseId) -> Option<u64> {
        self.by_id.get(&lease).copied()
    }

    pub(crate) fn get(&self, number: u64) -> Option<&LateLease> {
        self.leases.get(self.place(number)?)
    }

    pub(crate) fn set(&mut self, number: u64, lease: LateLease) {
        if let Some(own) = self.place(number).and_then(|place| self.leases.get_mut(place)) {
            *own = lease;
        }
    }

    pub(crate) fn set_settled(&mut self, number: u64, settled: Option<Arc<SettledAs>>) {
        if let Some(own) = self.place(number).and_then(|place| self.leases.get_mut(place)) {
            own.first = if settled.is_some() { own.billed } else { GpuNanos::ZERO };
            own.settled = settled;
        }
    }

    pub(crate) fn push(&mut self, lease: LateLease) -> u64 {
        let number = self.first + self.leases.len() as u64;
        self.by_id.insert(lease.lease, number);
        self.leases.push_back(lease);
        number
    }

    /// Takes back the newest one.
    pub(crate) fn unpush(&mut self) {
        if let Some(lease) = self.leases.pop_back() {
            self.by_id.remove(&lease.lease);
        }
    }

    /// A number as it is written down: counted from the first one that is still here.
    pub(crate) fn place(&self, number: u64) -> Option<usize> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        (place < self.leases.len()).then_some(place)
    }

    fn pop_front(&mut self) {
        if let Some(lease) = self.leases.pop_front() {
            self.by_id.remove(&lease.lease);
            self.first += 1;
        }
    }

    /// The table as it is written down.
    pub(crate) fn told(&self) -> Vec<LateLease> {
        let place = |number: u64| self.place(number).map(|place| place as u64);
        let told = |lease: &LateLease| LateLease { earlier: lease.earlier.and_then(place), ..lease.clone() };
        self.leases.iter().map(told).collect()
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.by_id.len(), self.leases.len(), "each ended lease is found once");
        assert!(self.leases.iter().is_sorted_by_key(|lease| lease.ended), "ended leases stand in order");
        for (place, lease) in self.leases.iter().enumerate() {
            let number = self.first + place as u64;
            assert_eq!(self.find(lease.lease), Some(number), "an ended lease is found by its id");
            assert!(lease.earlier.is_none_or(|earlier| earlier < number), "earlier leases ended earlier");
        }
    }
}

impl State {
    /// Notes what an attempt that just ended stands for, in case its usage is told later. Returns its number.
    pub(crate) fn note_late(&mut self, lease: LateLease) -> u64 {
        let number = self.late.push(lease);
        self.note(|_| Undo::LateNoted);
        number
    }

    /// Whether usage may be told late at all.
    pub(crate) fn keeps_late(&self) -> bool {
        !self.config.billing.late_usage_for.is_zero() && self.config.billing.late_usage_max > 0
    }

    /// Tells the ended leases of a job, the last one first, that it was settled.
    pub(crate) fn settle_late(&mut self, last: Option<u64>, settled: SettledAs) {
        let Some(last) = last.filter(|last| self.late.get(*last).is_some()) else { return };
        let settled = Arc::new(settled);
        let mut next = Some(last);
        while let Some(number) = next {
            let Some(lease) = self.late.get(number) else { break };
            next = lease.earlier;
            self.late.set_settled(number, Some(settled.clone()));
            self.note(|_| Undo::LateSettled { number });
        }
    }

    fn set_late(&mut self, number: u64, lease: LateLease) {
        if let Some(old) = self.late.get(number) {
            let old = Box::new(old.clone());
            self.note(|_| Undo::LateChanged { number, lease: old });
        }
        self.late.set(number, lease);
    }

    /// Lets go of leases whose time to be told of is over, and of the oldest where there are too many.
    pub(crate) fn forget_late(&mut self) {
        let policy = &self.config.billing;
        let (keep, max) = (policy.late_usage_for, policy.late_usage_max as usize);
        while self.late.iter().next().is_some_and(|first| first.ended + keep <= self.now) || self.late.len() > max {
            self.late.pop_front();
        }
    }

    /// Takes the usage of a lease that has ended: it stands in the place of what was billed for it.
    pub(crate) fn correct_usage(&mut self, id: LeaseId, usage: &Usage<'_>) -> Result<Corrected, LeaseError> {
        match self.live_lease(id) {
            Ok(_) => return Err(LeaseError::StillLive { lease: id.as_u64() }),
            Err(LeaseError::Superseded { .. }) => {}
            Err(error) => return Err(error),
        }
        usage.validate()?;
        if !usage.is_measured() {
            return Err(InputError::Empty { field: "usage" }.into());
        }
        let found = self.late.find(id).and_then(|number| Some((number, self.late.get(number)?.clone())));
        let over = |old: &LateLease| old.ended + self.config.billing.late_usage_for <= self.now;
        let (number, old) = found.filter(|(_, old)| !over(old)).ok_or(LeaseError::TooLate { lease: id.as_u64() })?;
        let elapsed = old.ended.since(old.granted);
        self.check_excess(usage, elapsed, old.devices_max)?;
        let mut devices = Vec::with_capacity(usage.device_count());
        let name = |name: &str| {
            let known = old.devices.iter().find(|own| *own.device == *name);
            known.map_or_else(|| Arc::from(name), |own| own.device.clone())
        };
        let (each, all) = self.possible(elapsed, old.devices_max);
        let told = usage.cap(each, all, |device, gpu| {
            devices.push(DeviceTime { device: name(device), gpu });
        });
        let Capped { reported, billed, capped } = told;
        let corrected = Corrected { job: old.job, settlement: None, reported, billed, capped };
        let new = LateLease { measured: true, reported, billed, devices, ..old.clone() };
        if new == old {
            return Ok(corrected);
        }
        let settlement = match old.settled.clone() {
            Some(settled) if old.billed != billed => self.correct(&old, &new, &settled, capped)?,
            Some(_) => None,
            None => {
                self.correct_live(&old, &new);
                None
            }
        };
        let corrections = old.corrections.saturating_add(u32::from(settlement.is_some()));
        self.set_late(number, LateLease { corrections, ..new });
        if capped {
            self.tell_capped(old.job, reported, billed);
        }
        Ok(Corrected { settlement, ..corrected })
    }

    /// Changes what is kept for a job that is not settled yet.
    fn correct_live(&mut self, old: &LateLease, new: &LateLease) {
        let own = |slot: &u32| self.jobs[*slot].key.sequence() == old.sequence;
        let Some(slot) = self.jobs.find(old.job).filter(own) else { return };
        self.edit_extra(slot, |extra| {
            let (before, after) = (old.billed.as_nanos(), new.billed.as_nanos());
            match old.payer {
                Payer::House => extra.absorbed = extra.absorbed.saturating_sub(before).saturating_add(after),
                Payer::Customer => {
                    extra.billable = extra.billable.saturating_sub(before).saturating_add(after);
                    let reported = extra.earlier.reported.saturating_sub(old.reported.as_nanos());
                    extra.earlier.reported = reported.saturating_add(new.reported.as_nanos());
                    extra.earlier.unmeasured = extra.earlier.unmeasured.saturating_sub(u32::from(!old.measured));
                    extra.earlier.replace(&DeviceTime::pairs(&old.devices), &DeviceTime::pairs(&new.devices));
                }
            }
            let capped = extra.earlier.capped.saturating_sub(u32::from(old.is_capped()));
            extra.earlier.capped = capped.saturating_add(u32::from(new.is_capped()));
        });
    }

    /// Puts a correcting entry into the outbox. Returns its number.
    fn correct(
        &mut self,
        old: &LateLease,
        new: &LateLease,
        settled: &SettledAs,
        capped: bool,
    ) -> Result<Option<u64>, LeaseError> {
        let rises = new.billed > old.billed;
        let change = GpuNanos::from_nanos(new.billed.as_nanos().abs_diff(old.billed.as_nanos()));
        let paid = old.payer == Payer::Customer;
        let amount = self.difference(old, new, settled);
        let if_so = |holds: bool| if holds { change } else { GpuNanos::ZERO };
        let (charge, credit) = if rises { (amount, Money::ZERO) } else { (Money::ZERO, amount) };

        let kept = settled.number.filter(|_| self.config.billing.settlements);
        let jobs = self.jobs.live() as usize + self.outbox.len();
        if kept.is_some() && jobs >= self.config.jobs_max as usize {
            let full = Full::new("jobs", Scope::Gateway, jobs as u64, self.config.jobs_max.into());
            return Err(full.with_settlements().into());
        }
        let scalars = &mut self.scalars;
        scalars.counters.corrections += 1;
        scalars.charged_micros += u128::from(charge.as_micros());
        scalars.credited_micros += u128::from(credit.as_micros());
        if paid && settled.price.is_none() {
            let change = u128::from(change.as_nanos());
            let sum = &mut scalars.unpriced_ns;
            *sum = if rises { sum.saturating_add(change) } else { sum.saturating_sub(change) };
        }
        self.emit(EventKind::Corrected(old.job));
        let Some(corrects) = kept else { return Ok(None) };
        let record = SettlementRecord {
            epoch: self.epoch,
            job: old.job,
            party: Party::Named { customer: old.customer.clone(), route: old.route.clone() },
            task: settled.task,
            state: settled.state,
            measured: true,
            capped,
            attempts: settled.attempts,
            requeues: settled.requeues,
            price_version: settled.price_version,
            price: settled.price,
            reported: new.reported,
            usage: if_so(rises && paid),
            absorbed: if_so(rises && !paid),
            charge: settled.price.map(|_| charge),
            created: settled.created,
            started: settled.started,
            finished: settled.finished,
            backend: Some(old.backend.clone()),
            tier: settled.tier.clone(),
            device: new.devices.first().cloned(),
            more_devices: new.devices.iter().skip(1).cloned().collect(),
            correction: Some(Box::new(Correction {
                corrects_epoch: settled.epoch,
                corrects,
                lease: old.lease,
                revision: old.corrections.saturating_add(1),
                at: self.now,
                usage_credit: if_so(!rises && paid),
                absorbed_credit: if_so(!rises && !paid),
                charge_credit: credit,
            })),
        };
        Ok(Some(self.push_settlement(record)))
    }

    /// What a change of one lease makes of its job's charge. Each of the two sums is rounded once, so that whatever comes in
    /// small steps comes to the same.
    fn difference(&self, old: &LateLease, new: &LateLease, settled: &SettledAs) -> Money {
        let Some(price) = settled.price.filter(|_| old.payer == Payer::Customer) else { return Money::ZERO };
        let others = GpuNanos::from_nanos(settled.usage.as_nanos().saturating_sub(old.first.as_nanos()));
        let of = |lease: &LateLease| price.charge_capped(others.saturating_add(lease.billed)).0.as_micros();
        Money::from_micros(of(old).abs_diff(of(new)))
    }

    /// Refuses what is beyond the possible, where that is the policy.
    pub(crate) fn check_excess(&self, usage: &Usage<'_>, elapsed: Span, devices: u32) -> Result<(), UsageError> {
        let policy = &self.config.billing;
        if policy.excess == Excess::Cap {
            return Ok(());
        }
        usage.check_elapsed(elapsed, policy.tolerance_ppm, policy.slack).map_err(UsageError::Billing)?;
        if usage.device_count() > devices as usize {
            let (len, max) = (usage.device_count(), devices as usize);
            return Err(UsageError::Input(InputError::TooLong { field: "devices", len, max }));
        }
        Ok(())
    }

    /// How long each device can have worked within an attempt, and as many of them as its backend has.
    pub(crate) fn possible(&self, elapsed: Span, devices: u32) -> (u64, u64) {
        let policy = &self.config.billing;
        let each = allowed(elapsed, policy.tolerance_ppm, policy.slack);
        (each, each.saturating_mul(u64::from(devices)))
    }

    pub(crate) fn tell_capped(&mut self, job: JobId, reported: GpuNanos, billed: GpuNanos) {
        self.scalars.counters.capped += 1;
        self.emit(EventKind::UsageCapped { job, reported, billed });
    }
}

/// Why a usage is refused: for its shape, or for an excess where the policy is to refuse.
pub(crate) enum UsageError {
    Billing(BillingError),
    Input(InputError),
}

impl From<InputError> for UsageError {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

impl From<UsageError> for LeaseError {
    fn from(error: UsageError) -> Self {
        match error {
            UsageError::Billing(error) => error.into(),
            UsageError::Input(error) => error.into(),
        }
    }
}

impl From<UsageError> for crate::error::JobError {
    fn from(error: UsageError) -> Self {
        match error {
            UsageError::Billing(error) => error.into(),
            UsageError::Input(error) => error.into(),
        }
    }
}
