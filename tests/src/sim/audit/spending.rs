//! What a job used: a line for each of its leases, summed when somebody asks.

use std::collections::BTreeMap;

use libgateway::{BillingPolicy, Payer, Usage};

use super::timeline::Job;

#[derive(Clone, Debug, Default)]
pub(super) struct Spending {
    /// By lease.
    pub(super) lines: BTreeMap<u64, Line>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) payer: Payer,
    pub(super) measured: bool,
    pub(super) reported: u64,
    pub(super) billed: u64,
    /// When the lease ended, how long it lasted, and how many GPUs worked for it.
    pub(super) at: u64,
    lasted: u64,
    gpus: u64,
}

impl Line {
    /// Takes what was told of it; without a measurement all its GPUs have worked all the time, or one of them.
    pub(super) fn tell(&mut self, usage: Option<&Usage<'_>>, billing: &BillingPolicy) {
        let Some(usage) = usage else {
            self.billed = self.lasted * if billing.unmeasured_devices { self.gpus } else { 1 };
            self.reported = self.billed;
            return;
        };
        let drift = u128::from(self.lasted) * u128::from(billing.tolerance_ppm) / 1_000_000;
        let each = self.lasted + drift as u64 + billing.slack.as_nanos();
        let times = || usage.devices().map(|device| device.gpu_ns.as_nanos());
        self.measured = true;
        self.reported = times().sum();
        self.billed = times().map(|own| own.min(each)).sum::<u64>().min(each * self.gpus);
    }
}

impl Spending {
    /// Sum over what is paid, or over what is not.
    fn sum(&self, payer: Payer, of: impl Fn(&Line) -> u64) -> u64 {
        self.lines.values().filter(|line| line.payer == payer).map(of).sum()
    }

    pub(super) fn billed(&self) -> u64 {
        self.sum(Payer::Customer, |line| line.billed)
    }

    pub(super) fn reported(&self) -> u64 {
        self.sum(Payer::Customer, |line| line.reported)
    }

    pub(super) fn absorbed(&self) -> u64 {
        self.sum(Payer::House, |line| line.billed)
    }

    /// Whether any of them told more than its devices can have worked.
    pub(super) fn is_capped(&self) -> bool {
        self.lines.values().any(|line| line.reported > line.billed)
    }

    pub(super) fn is_measured(&self) -> bool {
        self.lines.values().all(|line| line.measured || line.payer == Payer::House)
    }

    /// GPU time of paid attempts that devices were told of.
    pub(super) fn by_device(&self) -> u64 {
        self.sum(Payer::Customer, |line| if line.measured { line.billed } else { 0 })
    }
}

/// What an attempt used, as it was told, and who pays.
pub(super) struct Attempt<'a> {
    usage: Option<&'a Usage<'a>>,
    payer: Payer,
}

impl<'a> Attempt<'a> {
    pub(super) fn of(usage: &'a Usage<'a>, payer: Payer) -> Self {
        Self { usage: Some(usage).filter(|usage| usage.is_measured()), payer }
    }

    pub(super) fn unmeasured(payer: Payer) -> Self {
        Self { usage: None, payer }
    }
}

impl Job {
    pub(super) fn end_attempt(&mut self, at: u64, attempt: Attempt<'_>, billing: &BillingPolicy) {
        let Some(live) = self.lease.take() else { return };
        let (lasted, gpus) = (at - live.granted, live.gpus);
        let mut line = Line { payer: attempt.payer, measured: false, reported: 0, billed: 0, at, lasted, gpus };
        line.tell(attempt.usage, billing);
        self.account.lines.insert(live.id, line);
    }
}
