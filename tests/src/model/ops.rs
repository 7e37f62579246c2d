//! What is done to model and gateway: commands with a taste for the edges, out of a small world of names.

use std::borrow::Cow;

use libgateway::{
    Backend, BackendKind, BackoffConfig, Batch, BillingPolicy, CircuitBreakerConfig, Command, CustomerPolicy, EvictTo,
    Excess, Failure, FailureClass, ForcedState, GatewayConfig, GpuNanos, JobId, Leaf, LeaseId, Ordering, Output, Payer,
    Price, PriceBook, Priority, RateLimit, RateRule, Reply, Route, Span, Step, Submit, Timeouts, Timestamp, Usage,
};

use crate::rng::Rng;

/// One step of a run.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are commands")]
pub enum Op {
    /// A command at a reading of the host's clock.
    Command(u64, Command<'static>),
    /// The same steps as a transaction in code, which gives up at its end.
    Abort(u64, Vec<Leaf<'static>>),
    /// The gateway is dropped, and another one made from its snapshot.
    Restore,
    /// The host fetches events.
    Events(u32),
}

/// How often each kind of step is taken; runs switch some kinds off.
#[derive(Clone, Debug)]
pub struct Mix([u32; KINDS]);

/// Makes steps, and learns from the replies which leases, jobs and batches there are to talk about.
#[derive(Clone, Debug)]
pub struct Ops {
    rng: Rng,
    mix: Mix,
    /// Where the machine stands.
    now: u64,
    jobs: Vec<JobId>,
    leases: Vec<LeaseId>,
    ended: Vec<LeaseId>,
    /// The lease spoken of last.
    spoken: Option<LeaseId>,
    batches: Vec<Batch>,
    version: u32,
    /// In so many of a hundred steps no time passes, whatever the other dice say.
    calm: u64,
    /// What the host's clock showed before it went wild.
    right: Option<u64>,
    /// All spans and readings are whole multiples of it, so that in some runs much falls due at one instant.
    grain: u64,
}

const KINDS: usize = 29;
const CUSTOMERS: [&str; 5] = ["acme", "bolt", "core", "dune", "echo"];
const BACKENDS: [&str; 5] = ["flux-1", "flux-2", "flux-3", "llm-1", "any-1"];
const ROUTES: [&str; 9] = [
    "image/flux/dev/t2i",
    "image/flux/dev/t2i",
    "image/flux/dev/edit",
    "image/flux/dev/i2i",
    "image/flux/schnell/t2i",
    "image/flux/dev/t2i?backend=torch",
    "image/flux/schnell/edit?backend=tensorrt",
    "text/llama/8b/chat",
    "video/wan/base/t2v",
];
const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;
const YEAR: u64 = 365 * DAY;

/// Limits and policies of a run; small tables, so that their ends are reached. All spans are multiples of `grain`
/// nanoseconds.
pub fn config(rng: &mut Rng, grain: u64) -> GatewayConfig {
    let millis = |millis: u64| Span::from_nanos(coarse(millis * 1_000_000, grain));
    let count = |value: u64| std::num::NonZeroU32::new(value as u32).unwrap();
    let small = |rng: &mut Rng, low: u64, high: u64, wide: u32| {
        if rng.percent(25) { rng.within(low, high) as u32 } else { wide }
    };
    let span =
        |rng: &mut Rng, percent: u64, high: u64| rng.percent(percent).then(|| millis(rng.within(1, high * 1_000)));
    let breaker = CircuitBreakerConfig::default()
        .failure_rate_ppm(1_000_000)
        .failure_rate_rule(RateRule::Above)
        .consecutive_failures(rng.percent(50).then(|| count(rng.within(1, 4))))
        .open_for(millis(rng.within(1, 8_000)))
        .open_for_factor(count(rng.within(1, 3)))
        .open_for_max(Span::from_secs(rng.within(8, 30)))
        .probes_to_close(count(rng.within(1, 3)));
    let backoff = BackoffConfig::default()
        .jitter_ppm(0)
        .base(millis(rng.below(3) * 700))
        .factor_ppm(rng.within(1, 3) as u32 * 1_000_000)
        .max(Span::from_secs(rng.within(2, 20)))
        .retries(rng.below(5) as u32)
        .total(span(rng, 20, 30))
        .seed(rng.bits());
    let payer = |rng: &mut Rng| if rng.percent(50) { Payer::Customer } else { Payer::House };
    let billing = BillingPolicy::default()
        .failed(payer(rng))
        .lost(payer(rng))
        .cancelled(payer(rng))
        .released(payer(rng))
        .preempted(payer(rng))
        .excess(if rng.percent(75) { Excess::Cap } else { Excess::Refuse })
        .unmeasured_devices(rng.percent(75))
        .late_usage_for(if rng.percent(90) { millis(rng.within(1, 60_000)) } else { Span::ZERO })
        .late_usage_max(small(rng, 0, 5, 1_000))
        .settlements(rng.percent(90))
        .tolerance_ppm(rng.below(20_000) as u32)
        .slack(Span::from_millis(rng.below(200)));
    let timeouts = Timeouts {
        queue: span(rng, 20, 40),
        start: span(rng, 20, 60),
        run: span(rng, 20, 20),
        total: span(rng, 20, 90),
    };
    let retain = [millis(rng.within(1, 60_000)), Span::ZERO, Span::MAX];
    let retain = if rng.percent(80) { retain[0] } else { *rng.pick(&retain) };
    GatewayConfig::default()
        .seed(rng.bits())
        .ordering(if rng.percent(75) { Ordering::Fair } else { Ordering::Fifo })
        .age_after(span(rng, 40, 20))
        .customer(policy(rng))
        .estimate(GpuNanos::from_millis(rng.within(1, 4_000)))
        .lease_for(millis(rng.within(1, 40_000)))
        .timeouts(timeouts)
        .backoff(backoff)
        .losses_max(rng.below(4) as u32)
        .releases_max(small(rng, 0, 4, 1_000))
        .preemptions_max(small(rng, 0, 4, 1_000))
        .breaker(breaker)
        .billing(billing)
        .jobs_max(small(rng, 5, 40, 1_000))
        .payload_len_max(16)
        .output_len_max(32)
        .retain_for(retain)
        .retained_max(small(rng, 0, 3, 8))
        .retained_bytes_max(u64::from(small(rng, 0, 40, 1_000)))
        .idempotency_for(millis(rng.within(1, 60_000)))
        .idempotency_keys_max(small(rng, 0, 2, 8))
        .idempotency_free_failed(rng.percent(30))
        .idempotency_free_cancelled(rng.percent(30))
        .customers_max(small(rng, 1, 4, 10))
        .customer_idle(millis(rng.below(30_000)))
        .routes_max(small(rng, 1, 4, 10))
        .families_max(small(rng, 1, 2, 10))
        .backends_max(small(rng, 1, 3, 10))
        .events_max(small(rng, 1, 10, 100))
        .settle_within(millis(rng.within(1, 20_000)))
        .clock_jump_max(Span::from_secs(rng.within(1, 60)))
        .due_max(small(rng, 1, 3, 1_024))
        .steps_max(small(rng, 1, 4, 64))
}

fn policy(rng: &mut Rng) -> CustomerPolicy {
    let mut policy = CustomerPolicy::default().weight(rng.within(1, 5) as u32);
    if rng.percent(40) {
        let per = *rng.pick(&[SECOND, 3 * SECOND, 7_777_777, 60 * SECOND]);
        let (amount, burst) = (rng.below(8), rng.below(10));
        policy = policy.rate(RateLimit::new(amount, Span::from_nanos(per), burst).unwrap());
    }
    if rng.percent(30) {
        policy = policy.running_max(rng.below(4) as u32);
    }
    if rng.percent(20) {
        policy = policy.queued_max(rng.below(6) as u32);
    }
    policy.tier(*rng.pick(&["standard", "gold"]))
}

impl Mix {
    /// Every kind of step, some of them switched off by the dice.
    pub fn random(rng: &mut Rng) -> Self {
        let mut mix = Self::usual();
        mix.0[0] *= [1, 1, 2, 4][rng.below(4) as usize];
        for weight in mix.0.iter_mut().skip(3).filter(|weight| **weight < 100) {
            *weight *= [0, 1, 1, 1, 4][rng.below(5) as usize];
        }
        mix
    }

    /// Every kind of step about as often as it comes.
    pub fn usual() -> Self {
        Self([
            200, 200, 80, 60, 30, 25, 15, 90, 12, 40, 15, // jobs and leases
            15, 3, 6, 8, 10, 4, 4, 6, 3, // the fleet
            20, 20, 4, // money
            20, 3, // time
            25, 10, // transactions
            8, 8, // restores and events
        ])
    }

    /// Without what a log of commands cannot tell: transactions in code, restores, fetched events.
    #[must_use]
    pub fn commands_only(mut self) -> Self {
        (self.0[26], self.0[27], self.0[28]) = (0, 0, 0);
        self
    }
}

impl Ops {
    /// A maker of steps; all their spans and readings are multiples of `grain` nanoseconds.
    pub fn new(mut rng: Rng, mix: Mix, grain: u64) -> Self {
        let calm = *rng.pick(&[0, 50, 80, 90]);
        let (jobs, leases, ended, batches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { rng, mix, now: 0, jobs, leases, ended, spoken: None, batches, version: 0, calm, right: None, grain }
    }

    /// Some backends to begin with; the first one serves most routes.
    pub fn opening(&mut self, now: u64) -> Vec<Op> {
        let first = Backend::new(BACKENDS[0], BackendKind::Torch).serves("image", "flux", ["*"]).slots(2);
        let others = self.rng.below(4);
        let mut backends = vec![first];
        backends.extend((0..others).map(|_| self.backend()));
        backends.into_iter().map(|backend| Op::Command(now, Command::PutBackend(backend))).collect()
    }

    /// The next step of a machine that stands at `now` and waits for `next`.
    pub fn next_op(&mut self, now: u64, next: Option<u64>) -> Op {
        // A restart is hardest while more is due than one call handles.
        let overdue = next.is_some_and(|next| next <= now) && self.mix.0[27] > 0;
        if overdue && self.rng.percent(20) {
            return Op::Restore;
        }
        self.now = now;
        let kind = self.rng.weighted(&self.mix.0);
        let at = self.reading(now, next);
        let command = match kind {
            0 => Command::Submit(self.submit()),
            11 => Command::PutBackend(self.backend()),
            12 => Command::RemoveBackend { backend: self.backend_name() },
            13 if self.rng.percent(30) => {
                let to = if self.rng.percent(70) { EvictTo::Queue } else { EvictTo::Error };
                Command::EvictBackend { backend: self.backend_name(), to }
            }
            13 => Command::DrainBackend { backend: self.backend_name(), draining: self.rng.percent(50) },
            14 => self.force(at),
            15 => Command::PutCustomer { customer: self.customer(), policy: self.any_policy() },
            16 => Command::RemoveCustomer { customer: self.customer() },
            17 => Command::Pause { route: self.route() },
            18 => Command::Resume { route: self.route() },
            19 => Command::PutPrices(self.prices()),
            20 => Command::TakeSettlements { max: self.rng.below(6) as u32 },
            21 => Command::ConfirmSettlements { batch: self.batch() },
            22 => Command::ReturnSettlements { batch: self.batch() },
            23 => Command::Advance {},
            24 => Command::AcceptClock {},
            25 => self.group(),
            26 => return Op::Abort(at, self.leaves()),
            27 => return Op::Restore,
            28 => return Op::Events(self.rng.below(20) as u32),
            kind => alone(self.leaf(kind)),
        };
        Op::Command(at, command)
    }

    /// Learns what a reply brought.
    pub fn learn(&mut self, reply: &Reply) {
        let spoken = self.spoken.take();
        match reply {
            Reply::Completed(_) | Reply::Failed(_) | Reply::Released { .. } | Reply::Cancelled { .. } => {
                self.end_lease(spoken);
            }
            Reply::Error(error) if error.number == 501 => self.end_lease(spoken),
            Reply::Submitted { job } => self.jobs.push(*job),
            Reply::Preempted { lease } => self.end_lease(Some(*lease)),
            Reply::Evicted(evicted) => evicted.iter().for_each(|own| self.end_lease(Some(own.lease))),
            Reply::Leased(lease) => self.leases.push(lease.id),
            Reply::Leases(leases) => self.leases.extend(leases.iter().map(|lease| lease.id)),
            Reply::Settlements(Some(taken)) => self.batches.push(taken.batch),
            Reply::All(replies) => replies.iter().for_each(|reply| self.learn(reply)),
            Reply::First { reply, .. } => self.learn(reply),
            _ => {}
        }
    }

    fn end_lease(&mut self, lease: Option<LeaseId>) {
        self.ended.extend(lease);
        self.leases.retain(|own| Some(*own) != lease);
    }

    /// A reading of the host's clock: mostly a little later, often at the very edge of a deadline, sometimes wrong.
    fn reading(&mut self, now: u64, next: Option<u64>) -> u64 {
        // A clock that went wild is right again after a while, if ever.
        let now = if self.rng.percent(40) { self.right.take().unwrap_or(now) } else { now };
        let deadline = next.filter(|at| *at < now.saturating_add(600 * SECOND)).unwrap_or(now);
        let later = |nanos: u64| now.saturating_add(nanos);
        let reading = match self.rng.below(1_000) {
            _ if self.rng.percent(self.calm) => now,
            0..=549 => now,
            550..=799 => later(self.rng.below(300_000_000)),
            800..=859 => later(self.rng.below(3 * SECOND)),
            860..=899 => deadline,
            900..=924 => deadline.saturating_sub(1).max(now),
            925..=944 => deadline.saturating_add(1),
            945..=959 => later(self.rng.below(15 * SECOND)),
            960..=989 => now.saturating_sub(self.rng.below(5 * SECOND)),
            990..=995 => later(self.rng.below(70 * SECOND)),
            996 => later(self.rng.below(7_200 * SECOND)),
            997 => now.saturating_sub(self.rng.below(7_200 * SECOND)),
            _ => {
                self.right = Some(now);
                *self.rng.pick(&[0, u64::MAX, later(10 * YEAR), now.saturating_sub(10 * YEAR), later(DAY)])
            }
        };
        coarse(reading, self.grain)
    }

    fn millis(&self, millis: u64) -> Span {
        Span::from_nanos(coarse(millis * 1_000_000, self.grain))
    }

    fn customer(&mut self) -> Cow<'static, str> {
        if self.rng.percent(1) { Cow::Borrowed("") } else { Cow::Borrowed(*self.rng.pick(&CUSTOMERS)) }
    }

    fn backend_name(&mut self) -> Cow<'static, str> {
        Cow::Borrowed(*self.rng.pick(&BACKENDS))
    }

    fn route(&mut self) -> Route<'static> {
        Route::parse(ROUTES[self.rng.below(ROUTES.len() as u64) as usize]).unwrap()
    }

    fn job(&mut self) -> JobId {
        match self.jobs.len() as u64 {
            0 => JobId::from_entropy(77),
            // The latest are the liveliest.
            len if self.rng.percent(80) => self.jobs[(len - 1 - self.rng.below(len.min(12))) as usize],
            len => self.jobs[self.rng.below(len) as usize],
        }
    }

    fn lease(&mut self) -> LeaseId {
        let known = if self.rng.percent(90) || self.ended.is_empty() { &self.leases } else { &self.ended };
        let lease = match known.len() as u64 {
            _ if self.rng.percent(1) => LeaseId::from_u64(self.rng.below(3) * 1_000_000),
            0 => LeaseId::from_u64(1),
            len => known[self.rng.below(len) as usize],
        };
        self.spoken = Some(lease);
        lease
    }

    fn batch(&mut self) -> Batch {
        let nothing = Batch { id: 1_000_000, first_seq: 1, len: 1 };
        match self.batches.len() as u64 {
            _ if self.rng.percent(3) => nothing,
            0 => nothing,
            len if self.rng.percent(80) => self.batches[(len - 1 - self.rng.below(len.min(3))) as usize],
            len => self.batches[self.rng.below(len) as usize],
        }
    }

    fn submit(&mut self) -> Submit<'static> {
        let rng = &mut self.rng;
        let fresh = JobId::from_entropy(u128::from(rng.bits()) << 64 | u128::from(rng.bits()));
        let id = if rng.percent(3) { self.job() } else { fresh };
        let (customer, route) = (self.customer(), self.route());
        let rng = &mut self.rng;
        let lane = [Priority::Normal, Priority::Normal, Priority::High, Priority::Low][rng.below(4) as usize];
        let mut submit = Submit::new(id, customer, route).priority(lane);
        if rng.percent(50) {
            let bound = if rng.percent(3) { 19 } else { 4 };
            submit = submit.payload(&b"abcdefghijklmnopqr"[..rng.below(bound) as usize]);
        }
        if rng.percent(50) {
            submit = submit.estimate(GpuNanos::from_millis(rng.within(1, 5_000)));
        }
        if rng.percent(30) {
            submit = submit.tokens(rng.below(5));
        }
        if rng.percent(30) {
            submit = submit.affinity(*rng.pick(&["lora-1", "lora-2", "lora-3"]));
        }
        if rng.percent(15) {
            submit = submit.idempotency_key(*rng.pick(&["k1", "k2", "k3"]));
        }
        if self.rng.percent(20) {
            let mut span = || self.rng.percent(50).then(|| self.rng.within(1, 40_000)).map(|own| self.millis(own));
            submit.timeouts = Timeouts { queue: span(), start: span(), run: span(), total: span() };
        }
        submit.not_before = self.later();
        if self.rng.percent(1) {
            submit.timeouts.run = Some(Span::ZERO);
        }
        if self.rng.percent(1) {
            submit.estimate = Some(GpuNanos::ZERO);
        }
        submit
    }

    /// Now and then an instant before which a job may not run, some of them past.
    fn later(&mut self) -> Option<Timestamp> {
        let (rng, now) = (&mut self.rng, self.now);
        let at = match rng.below(100) {
            0..=84 => return None,
            85..=97 => {
                let span = *rng.pick(&[SECOND, 10 * SECOND, 60 * SECOND]);
                now.saturating_add(rng.below(span))
            }
            98 => now.saturating_sub(rng.below(20 * SECOND)),
            _ => u64::MAX,
        };
        Some(Timestamp::from_nanos(coarse(at, self.grain)))
    }

    fn backend(&mut self) -> Backend {
        let name = self.backend_name();
        let rng = &mut self.rng;
        let kind = *rng.pick(&[BackendKind::Torch, BackendKind::Tensorrt]);
        let backend = Backend::new(name.to_string(), kind);
        let backend = match (&*name, rng.below(4)) {
            ("llm-1", _) => backend.serves("text", "llama", ["8b"]),
            ("any-1", 1) => backend.serves("video", "wan", ["*"]),
            (_, 0 | 3) => backend.serves("image", "flux", ["*"]),
            (_, 1) => backend.serves("image", "flux", ["dev", "schnell"]),
            _ => backend.serves("image", "flux", ["dev"]),
        };
        let slots = if rng.percent(2) { 0 } else { rng.within(1, 4) as u32 };
        let backend = backend.slots(slots).warm_max(rng.below(3) as u32).devices(rng.within(1, 2) as u32);
        let lease_for = rng.percent(30).then(|| rng.within(1, 19_000));
        match lease_for {
            Some(millis) => backend.lease_for(self.millis(millis)),
            None => backend,
        }
    }

    fn any_policy(&mut self) -> CustomerPolicy {
        let policy = policy(&mut self.rng);
        if self.rng.percent(2) { policy.weight(0) } else { policy }
    }

    fn force(&mut self, now: u64) -> Command<'static> {
        let rng = &mut self.rng;
        let state = [None, Some(ForcedState::Open), Some(ForcedState::Closed)][rng.below(3) as usize];
        // Now and then an end that has passed, which forces nothing.
        let until = now.saturating_add(rng.below(20 * SECOND)).saturating_sub(SECOND);
        let until = rng.percent(70).then(|| Timestamp::from_nanos(coarse(until, self.grain)));
        Command::ForceBreaker { backend: self.backend_name(), state, until }
    }

    fn prices(&mut self) -> PriceBook {
        let rng = &mut self.rng;
        self.version += u32::from(rng.percent(90));
        let currency = if rng.percent(95) { "USD" } else { "EUR" };
        let mut book = PriceBook::new(self.version, currency).unwrap();
        for (model, tier) in [("flux/dev", "gold"), ("flux/dev", "*"), ("*", "gold"), ("*", "*")] {
            if rng.percent(50) {
                let micros = if rng.percent(5) { u64::MAX } else { rng.below(5_000_000) };
                let per = *rng.pick(&[SECOND, SECOND, 60 * SECOND, 3_600 * SECOND, 7]);
                book = book.price_at(model, tier, Price::new(micros, Span::from_nanos(per)).unwrap()).unwrap();
            }
        }
        book
    }

    fn usage(&mut self) -> Usage<'static> {
        let rng = &mut self.rng;
        let nanos = |rng: &mut Rng| match rng.below(10) {
            0 => GpuNanos::ZERO,
            1 => GpuNanos::from_nanos(u64::MAX / 2 + rng.below(u64::MAX / 2)),
            2..=5 => GpuNanos::from_nanos(rng.below(100_000_000)),
            _ => GpuNanos::from_nanos(rng.below(3 * SECOND)),
        };
        match rng.below(10) {
            0..=5 => Usage::unmeasured(),
            6..=8 => Usage::gpu(nanos(rng), "GPU-1"),
            _ => {
                let second = if rng.percent(20) { "GPU-1" } else { "GPU-2" };
                Usage::gpu(nanos(rng), "GPU-1").and_gpu(nanos(rng), second)
            }
        }
    }

    fn failure(&mut self) -> Failure {
        let rng = &mut self.rng;
        let class = *rng.pick(&[
            FailureClass::Timeout,
            FailureClass::Connection,
            FailureClass::Network,
            FailureClass::Http(503),
            FailureClass::Http(429),
            FailureClass::Http(400),
            FailureClass::Backend,
            FailureClass::Rejected,
        ]);
        let mut failure = Failure::new(class, if rng.percent(2) { "x".repeat(33) } else { "out of memory".to_owned() });
        if rng.percent(30) {
            failure = failure.retry_after(Span::from_nanos(coarse(rng.below(9_000) * 1_000_000, self.grain)));
        }
        if rng.percent(20) {
            failure = failure.retriable(rng.percent(50));
        }
        failure
    }

    /// A command that may stand in a transaction; its kind is a place in the mix.
    fn leaf(&mut self, kind: usize) -> Leaf<'static> {
        match kind {
            0 => Leaf::Submit(self.submit()),
            1 => Leaf::Dispatch {},
            2 => Leaf::DispatchRoute { route: self.route() },
            3 => Leaf::DispatchTo { backend: self.backend_name(), max: self.rng.below(5) as u32 },
            4 => Leaf::Heartbeat { lease: self.lease() },
            5 => Leaf::Progress { lease: self.lease(), progress_ppm: self.rng.below(1_050_000) as u32 },
            6 if self.rng.percent(30) => Leaf::Preempt { job: self.job(), usage: self.usage() },
            6 => Leaf::Release { lease: self.lease(), not_before: self.later(), usage: self.usage() },
            7 => {
                let lease = self.lease();
                let output = match self.rng.below(20) {
                    0 => Output::url(""),
                    1 => Output::url("u".repeat(33)),
                    2..=9 => Output::inline("done"),
                    _ => Output::url("s3://out/1"),
                };
                Leaf::Complete { lease, output, usage: self.usage() }
            }
            8 => match self.rng.below(4) {
                0 => Leaf::CancelLease { lease: self.lease(), usage: self.usage() },
                _ => Leaf::Cancel { job: self.job(), usage: self.usage() },
            },
            9 => Leaf::Fail { lease: self.lease(), failure: self.failure(), usage: self.usage() },
            _ => match self.rng.below(2) {
                0 => self.correction(),
                _ => Leaf::Delete { job: self.job() },
            },
        }
    }

    /// The usage of a lease that has ended, now and then of one that has not.
    fn correction(&mut self) -> Leaf<'static> {
        let lease = match self.ended.len() as u64 {
            len if len > 0 && self.rng.percent(90) => self.ended[(len - 1 - self.rng.below(len.min(8))) as usize],
            _ => self.lease(),
        };
        self.spoken = None;
        Leaf::CorrectUsage { lease, usage: self.usage() }
    }

    fn leaves(&mut self) -> Vec<Leaf<'static>> {
        let count = self.rng.below(5);
        (0..count).map(|_| self.any_leaf()).collect()
    }

    fn any_leaf(&mut self) -> Leaf<'static> {
        let kind = self.rng.weighted(&self.mix.0[..11]);
        self.leaf(kind)
    }

    fn group(&mut self) -> Command<'static> {
        let count = self.rng.below(5);
        let steps = (0..count).map(|_| match self.rng.below(10) {
            0 => Step::All(self.leaves()),
            1 => Step::FirstOf(self.leaves()),
            _ => as_step(self.any_leaf()),
        });
        let steps = steps.collect();
        if self.rng.percent(50) { Command::All(steps) } else { Command::FirstOf(steps) }
    }
}

/// Rounded up to a multiple of the grain.
fn coarse(nanos: u64, grain: u64) -> u64 {
    nanos.div_ceil(grain).saturating_mul(grain)
}

macro_rules! same_words {
    ($name:ident, $to:ident) => {
        fn $name(leaf: Leaf<'static>) -> $to<'static> {
            match leaf {
                Leaf::Submit(submit) => $to::Submit(submit),
                Leaf::Dispatch {} => $to::Dispatch {},
                Leaf::DispatchRoute { route } => $to::DispatchRoute { route },
                Leaf::DispatchTo { backend, max } => $to::DispatchTo { backend, max },
                Leaf::Heartbeat { lease } => $to::Heartbeat { lease },
                Leaf::Progress { lease, progress_ppm } => $to::Progress { lease, progress_ppm },
                Leaf::Complete { lease, output, usage } => $to::Complete { lease, output, usage },
                Leaf::Fail { lease, failure, usage } => $to::Fail { lease, failure, usage },
                Leaf::Release { lease, not_before, usage } => $to::Release { lease, not_before, usage },
                Leaf::Preempt { job, usage } => $to::Preempt { job, usage },
                Leaf::Cancel { job, usage } => $to::Cancel { job, usage },
                Leaf::CancelLease { lease, usage } => $to::CancelLease { lease, usage },
                Leaf::CorrectUsage { lease, usage } => $to::CorrectUsage { lease, usage },
                Leaf::Delete { job } => $to::Delete { job },
                other => panic!("there is no way to make {other:?}"),
            }
        }
    };
}

same_words!(alone, Command);
same_words!(as_step, Step);
