//! What a seed makes of a run: sizes, limits, policies, and how much goes wrong.

use std::num::NonZeroU32;

use libgateway::{
    Backend, BackendKind, BackoffConfig, BillingPolicy, CircuitBreakerConfig, CustomerPolicy, GatewayConfig, GpuNanos,
    Ordering, Payer, RateLimit, Span, Timeouts,
};

use crate::rng::Rng;

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rng: Rng,
    pub(crate) config: GatewayConfig,
    pub(crate) customers: Vec<(&'static str, Option<CustomerPolicy>)>,
    pub(crate) backends: Vec<Backend>,
    /// Jobs that are submitted.
    pub(crate) jobs: u32,
    /// How long, in nanoseconds, customers submit and faults happen.
    pub(crate) length: u64,
    /// Mean time between two faults or changes by the operator.
    pub(crate) fault_gap: u64,
    /// Restarts in a thousand commands.
    pub(crate) restarts: u64,
    /// Bad ends in a hundred leases.
    pub(crate) mishaps: u64,
    /// Whether backends ask for work by themselves, too.
    pub(crate) pull: bool,
}

pub(crate) const CUSTOMERS: [&str; 6] = ["acme", "bolt", "core", "dune", "echo", "fern"];
pub(crate) const ROUTES: [&str; 6] = [
    "image/flux/dev/t2i",
    "image/flux/schnell/t2i",
    "image/flux/dev/edit?backend=torch",
    "image/flux/schnell/i2i?backend=tensorrt",
    "text/llama/8b/chat",
    "video/wan/base/t2v",
];
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Most tokens one job takes; every bucket that is ever filled holds as many.
pub(crate) const TOKENS_MAX: u64 = 3;
/// The longest a job is told to wait before it may run.
pub(crate) const HELD_MAX: u64 = 5 * SECOND;

impl Options {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (jobs, length) = match rng.below(20) {
            0 => (rng.within(150, 400), rng.within(20, 120)),
            1..=9 => (rng.within(40, 100), rng.within(10, 60)),
            _ => (rng.within(5, 40), rng.within(5, 40)),
        };
        let customers = rng.within(1, CUSTOMERS.len() as u64) as usize;
        let config = config(&mut rng);
        let customers = CUSTOMERS[..customers].iter().map(|name| (*name, rng.percent(40).then(|| policy(&mut rng))));
        let customers = customers.collect();
        Self {
            config,
            customers,
            backends: backends(&mut rng),
            jobs: jobs as u32,
            length: length * SECOND,
            fault_gap: *rng.pick(&[SECOND / 4, SECOND, 4 * SECOND, 1_000 * SECOND]),
            restarts: *rng.pick(&[0, 5, 20]),
            mishaps: *rng.pick(&[0, 10, 40]),
            pull: rng.percent(50),
            rng,
        }
    }
}

fn config(rng: &mut Rng) -> GatewayConfig {
    let count = |value: u64| NonZeroU32::new(value as u32).unwrap();
    let millis = |rng: &mut Rng, low: u64, high: u64| Span::from_millis(rng.within(low, high));
    let small = |rng: &mut Rng, low: u64, high: u64, wide: u32| {
        if rng.percent(20) { rng.within(low, high) as u32 } else { wide }
    };
    let payer = |rng: &mut Rng| if rng.percent(50) { Payer::Customer } else { Payer::House };
    let backoff = BackoffConfig::default()
        .base(millis(rng, 0, 1_500))
        .factor_ppm(rng.within(1, 3) as u32 * 1_000_000)
        .max(Span::from_secs(rng.within(2, 10)))
        .retries(rng.below(5) as u32)
        // The auditor throws no dice: it has to know to the nanosecond when a job waits for a backend again.
        .jitter_ppm(0)
        .seed(rng.bits());
    let breaker = CircuitBreakerConfig::default()
        .window(Span::from_secs(rng.within(2, 30)))
        .calls_min(count(rng.within(2, 10)))
        .consecutive_failures(rng.percent(70).then(|| count(rng.within(2, 5))))
        .open_for(millis(rng, 100, 5_000))
        .open_for_max(Span::from_secs(10))
        .probes_to_close(count(rng.within(1, 3)));
    let clock = |rng: &mut Rng, percent: u64| rng.percent(percent).then(|| millis(rng, 500, 30_000));
    let timeouts =
        Timeouts { queue: clock(rng, 15), start: clock(rng, 15), run: clock(rng, 15), total: clock(rng, 15) };
    let billing = BillingPolicy::default()
        .failed(payer(rng))
        .lost(payer(rng))
        .cancelled(payer(rng))
        .released(payer(rng))
        .preempted(payer(rng))
        .unmeasured_devices(rng.percent(70))
        .late_usage_for(millis(rng, 500, 30_000));
    GatewayConfig::default()
        .seed(rng.bits())
        .ordering(if rng.percent(80) { Ordering::Fair } else { Ordering::Fifo })
        .age_after(if rng.percent(30) { Some(millis(rng, 500, 10_000)) } else { None })
        .customer(policy(rng))
        .estimate(GpuNanos::from_millis(rng.within(1, 3_000)))
        .lease_for(millis(rng, 1_000, 8_000))
        .timeouts(timeouts)
        .backoff(backoff)
        .losses_max(rng.below(4) as u32)
        .releases_max(small(rng, 0, 3, 1_000))
        .preemptions_max(small(rng, 0, 3, 1_000))
        .breaker(breaker)
        .billing(billing)
        .jobs_max(small(rng, 4, 30, 100_000))
        .payload_len_max(64)
        .retain_for(millis(rng, 0, 60_000))
        .retained_max(small(rng, 0, 10, 1_000))
        .customers_max(small(rng, 1, 5, 100))
        .customer_idle(millis(rng, 0, 30_000))
        .routes_max(small(rng, 1, 5, 100))
        .families_max(small(rng, 1, 2, 100))
        .backends_max(small(rng, 1, 4, 100))
        .settle_within(millis(rng, 500, 20_000))
        .clock_jump_max(Span::from_secs(rng.within(20, 100)))
        .due_max(small(rng, 1, 4, 1_024))
}

/// A policy under which every job can run some day.
pub(crate) fn policy(rng: &mut Rng) -> CustomerPolicy {
    let mut policy = CustomerPolicy::default().weight(rng.within(1, 4) as u32).tier(*rng.pick(&["standard", "gold"]));
    if rng.percent(40) {
        let (amount, burst) = (rng.within(1, 9), rng.within(TOKENS_MAX, 8));
        policy =
            policy.rate(RateLimit::new(amount, Span::from_nanos(*rng.pick(&[SECOND, 2_333_333_333])), burst).unwrap());
    }
    if rng.percent(40) {
        policy = policy.running_max(rng.within(1, 4) as u32);
    }
    if rng.percent(15) { policy.queued_max(rng.within(1, 8) as u32) } else { policy }
}

fn backends(rng: &mut Rng) -> Vec<Backend> {
    let kinds = [BackendKind::Torch, BackendKind::Tensorrt];
    let names = ["flux-1", "flux-2", "flux-3", "flux-4", "llm-1", "wan-1"];
    let chosen = names.iter().enumerate().filter(|(index, _)| *index == 0 || rng.percent(60)).map(|(_, name)| *name);
    let chosen: Vec<&str> = chosen.collect();
    let made = chosen.into_iter().map(|name| {
        let backend = Backend::new(name, *rng.pick(&kinds)).slots(rng.within(1, 4) as u32).devices(2);
        let backend = match name {
            "llm-1" => backend.serves("text", "llama", ["8b"]),
            "wan-1" => backend.serves("video", "wan", ["*"]),
            _ => match rng.below(3) {
                0 => backend.serves("image", "flux", ["*"]),
                1 => backend.serves("image", "flux", ["dev", "schnell"]),
                _ => backend.serves("image", "flux", ["dev"]),
            },
        };
        if rng.percent(20) { backend.lease_for(Span::from_millis(rng.within(700, 5_000))) } else { backend }
    });
    made.collect()
}
