//! A job's way through time: which deadline ended what, and when.

use libgateway::{BackoffConfig, GatewayConfig, JobState, Span, Submit, Timeouts};

use super::Auditor;
use super::spending::{Attempt, Spending};

#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) submit: Submit<'static>,
    pub(super) room: String,
    /// Family and model, as price books name them.
    pub(super) model: String,
    timeouts: Timeouts,
    pub(super) created: u64,
    /// When its clocks begin to run.
    pub(super) begins: u64,
    pub(super) now: Now,
    pub(super) lease: Option<Live>,
    pub(super) has_started: bool,
    pub(super) started: Option<u64>,
    pub(super) paid: bool,
    pub(super) attempts: u32,
    pub(super) requeues: u32,
    losses: u32,
    pub(super) releases: u32,
    pub(super) preemptions: u32,
    pub(super) account: Spending,
    /// The same as it was at the end.
    pub(super) settled: Spending,
    pub(super) end_told: bool,
    /// The number of its settlement.
    pub(super) settlement: Option<u64>,
    /// Whether its record has left.
    pub(super) gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// Waiting; it may run from some instant between the two of `hold` on.
    Waiting {
        since: u64,
        hold: (u64, u64),
    },
    Running {
        since: u64,
    },
    Ended {
        state: JobState,
        at: u64,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) backend: String,
    pub(super) granted: u64,
    pub(super) deadline: u64,
    pub(super) lease_for: u64,
    /// GPUs that work for it.
    pub(super) gpus: u64,
    pub(super) id: u64,
    /// Times it was spared since its worker was heard.
    pub(super) spared: u32,
    /// Silences that do not count as time its worker worked.
    pub(super) idle: Vec<u64>,
}

/// A time in which the host was not heard, though it may have had to be.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Silence {
    pub(in crate::sim) before: u64,
    pub(in crate::sim) now: u64,
    /// Whether a deadline passed in it.
    pub(in crate::sim) missed: bool,
}

impl Job {
    pub(super) fn new(submit: Submit<'static>, room: String, config: &GatewayConfig, now: u64) -> Self {
        let begins = submit.not_before.map_or(now, |at| at.as_nanos().max(now));
        Self {
            model: format!("{}/{}", submit.route.family(), submit.route.model()),
            timeouts: Timeouts {
                queue: submit.timeouts.queue.or(config.timeouts.queue),
                start: submit.timeouts.start.or(config.timeouts.start),
                run: submit.timeouts.run.or(config.timeouts.run),
                total: submit.timeouts.total.or(config.timeouts.total),
            },
            submit,
            room,
            created: now,
            begins,
            now: Now::Waiting { since: now, hold: (begins, begins) },
            lease: None,
            has_started: false,
            started: None,
            paid: false,
            attempts: 0,
            requeues: 0,
            losses: 0,
            releases: 0,
            preemptions: 0,
            account: Spending::default(),
            settled: Spending::default(),
            end_told: false,
            settlement: None,
            gone: false,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.now, Now::Waiting { .. })
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.now, Now::Ended { .. })
    }

    pub(super) fn start(&mut self, now: u64, live: Live) {
        self.now = Now::Running { since: now };
        self.lease = Some(live);
        (self.has_started, self.started, self.paid) = (true, Some(now), true);
    }

    pub(super) fn wait(&mut self, now: u64, hold: (u64, u64)) {
        self.now = Now::Waiting { since: now, hold };
    }

    pub(super) fn end(&mut self, state: JobState, at: u64) {
        self.now = Now::Ended { state, at };
        self.settled = self.account.clone();
    }

    fn after(from: u64, span: Option<Span>) -> u64 {
        span.map_or(u64::MAX, |span| from.saturating_add(span.as_nanos()))
    }

    /// The first of its deadlines in its present state. Backoff is none: it ends nothing.
    pub(super) fn deadline(&self) -> u64 {
        let total = Self::after(self.begins, self.timeouts.total);
        match (self.now, &self.lease) {
            // A job whose time passed while a silence was none of its time may be leased again before anybody looks.
            (Now::Running { since }, Some(live)) => {
                live.deadline.min(self.limit(false)).min(self.limit(true)).max(since)
            }
            (Now::Waiting { since, hold }, _) => {
                let start = self.timeouts.start.filter(|_| !self.has_started);
                // What passed while a worker worked on it is due as soon as it waits.
                // The clock of the queue stands still until the instant before which it may not run.
                Self::after(since.max(hold.1), self.timeouts.queue)
                    .min(Self::after(self.begins, start))
                    .min(total)
                    .max(since)
            }
            _ => u64::MAX,
        }
    }

    /// When a running job's time is over: the attempt's, or the whole.
    fn limit(&self, whole: bool) -> u64 {
        let idle = self.lease.iter().flat_map(|live| &live.idle).fold(0, |sum: u64, idle| sum.saturating_add(*idle));
        let limit = match self.now {
            _ if whole => Self::after(self.begins, self.timeouts.total),
            Now::Running { since } => Self::after(since, self.timeouts.run),
            _ => u64::MAX,
        };
        limit.saturating_add(idle)
    }

    /// Gives its worker time to be heard after a silence.
    fn bridge(&mut self, silence: &Silence) {
        let Silence { before, now, missed } = *silence;
        let (limit, length) = (self.limit(false).min(self.limit(true)), now - before);
        let Some(live) = &mut self.lease else { return };
        let long = length > live.lease_for / 3 * 2;
        let passed = length > live.lease_for / 3 && before < limit && limit <= now;
        if missed && (long || passed) && live.idle.len() < 8 {
            live.idle.push(length);
        }
        if long && live.spared < 3 {
            live.spared += 1;
            live.deadline = live.deadline.max(now.saturating_add(live.lease_for));
        }
    }

    /// Lets one deadline happen at its instant.
    fn expire(&mut self, at: u64, config: &GatewayConfig) {
        let (total, run) = (self.limit(true) <= at, self.limit(false) <= at);
        if self.is_waiting() {
            self.end(JobState::Cancelled, at);
        } else if total {
            self.end_attempt(at, Attempt::unmeasured(config.billing.failed), &config.billing);
            self.end(JobState::Error, at);
        } else if run {
            self.end_attempt(at, Attempt::unmeasured(config.billing.failed), &config.billing);
            self.attempts += 1;
            if self.attempts <= config.backoff.retries {
                let (low, high) = wait(&config.backoff, self.attempts, None);
                self.wait(at, (at + low, at + high));
            } else {
                self.end(JobState::Error, at);
            }
        } else {
            self.end_attempt(at, Attempt::unmeasured(config.billing.lost), &config.billing);
            self.losses += 1;
            if self.losses > config.losses_max {
                self.end(JobState::Error, at);
            } else {
                self.requeues += 1;
                self.wait(at, (at, at));
            }
        }
    }
}

impl Auditor {
    /// Hears that the host was silent.
    pub(in crate::sim) fn bridge(&mut self, silence: &Silence) {
        for index in &self.live {
            self.jobs[*index].bridge(silence);
        }
    }

    /// Lets every deadline up to an instant happen.
    pub(super) fn pass_time(&mut self, until: u64) {
        let Self { live, jobs, leases, config, .. } = self;
        let mut moved = false;
        live.retain(|index| {
            let job = &mut jobs[*index];
            while job.deadline() <= until {
                job.expire(job.deadline(), config);
                moved = true;
            }
            !job.has_ended()
        });
        if moved {
            leases.retain(|_, index| jobs[*index].lease.is_some());
        }
    }

    /// A job was told of: what was due of it has happened.
    pub(super) fn pass_time_of(&mut self, index: usize, until: u64) {
        let job = &mut self.jobs[index];
        while !job.has_ended() && job.deadline() <= until {
            job.expire(job.deadline(), &self.config);
            self.leases.retain(|_, other| *other != index);
        }
        if job.has_ended() {
            self.live.remove(&index);
        }
    }
}

/// The least and the longest wait after so many failures.
pub(super) fn wait(backoff: &BackoffConfig, failures: u32, retry_after: Option<Span>) -> (u64, u64) {
    let jitter = |nanos: u64| (u128::from(nanos) * u128::from(backoff.jitter_ppm) / 1_000_000) as u64;
    let mut high = backoff.base.as_nanos();
    for _ in 1..failures {
        high = high.saturating_mul(u64::from(backoff.factor_ppm / 1_000_000)).min(backoff.max.as_nanos());
    }
    let low = high - jitter(high);
    match retry_after.map(Span::as_nanos) {
        Some(floor) => (low.max(floor), high.max(floor + jitter(floor))),
        None => (low, high),
    }
}
