//! Vectors of queue, limits, backends and leases.

use std::num::NonZeroU32;

use libgateway::{
    Backend, BackendKind, BackoffConfig, CircuitBreakerConfig, Command, CustomerPolicy, EvictTo, Failure, FailureClass,
    ForcedState, GatewayConfig, GpuNanos, JobId, Leaf, LeaseId, Ordering, Output, Priority, RateLimit, Reply, Route,
    Span, Step, Timeouts, Usage,
};
use libgateway_tests::kit;

use crate::log::Log;

/// A gateway with one backend of so many slots.
fn with_slots(config: GatewayConfig, slots: u32) -> Log {
    let mut log = Log::new(config);
    log.give(Command::PutBackend(kit::flux("flux-1").slots(slots)));
    log
}

pub(crate) fn basics() -> Log {
    let mut log = Log::new(GatewayConfig::default());
    log.give(Command::Advance {});
    let first =
        Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev", "schnell"]).slots(2).warm_max(2);
    log.give(Command::PutBackend(first.label("region", "eu")));
    log.give(Command::PutBackend(Backend::new("flux-2", BackendKind::Tensorrt).serves("image", "flux", ["*"])));
    log.submit(
        kit::job(1, "acme", kit::DEV).payload("a red fox").affinity("lora-7").estimate(GpuNanos::from_millis(1_500)),
    );
    log.submit(kit::job(2, "acme", kit::DEV).payload(vec![0, 159, 146, 150]).affinity("lora-7"));
    log.submit(kit::job(3, "bolt", "image/flux/dev/edit?backend=tensorrt").priority(Priority::High));
    log.submit(kit::job(4, "bolt", kit::SCHNELL).priority(Priority::Low));
    let leases = log.dispatch_all();
    log.wait(700);
    log.give(Command::Progress { lease: leases[0], progress_ppm: 400_000 });
    log.give(Command::Heartbeat { lease: leases[1] });
    log.wait(900);
    log.complete(leases[0], Usage::gpu(GpuNanos::from_millis(1_500), "GPU-8f2c"));
    log.give(Command::Complete { lease: leases[1], output: Output::inline("{}"), usage: Usage::unmeasured() });
    log.give(Command::Release { lease: leases[2], not_before: None, usage: Usage::unmeasured() });
    log.submit(kit::job(5, "acme", kit::DEV).affinity("lora-7"));
    let more = log.dispatch_all();
    for lease in more {
        log.wait(10);
        log.complete(lease, Usage::gpu(GpuNanos::from_millis(3), "GPU-8f2c"));
    }
    log.complete(leases[0], Usage::unmeasured());
    log.dispatch_all();
    log.settle_all();
    // Records leave, customers and routes are forgotten.
    log.wait(3_700_000);
    log.give(Command::Advance {});
    log.wait(700_000);
    log.give(Command::Advance {});
    log
}

pub(crate) fn fairness() -> Log {
    let mut log = with_slots(GatewayConfig::default().estimate(GpuNanos::from_secs(2)), 1);
    for (customer, weight) in [("acme", 3), ("bolt", 1)] {
        let policy = CustomerPolicy::default().weight(weight);
        log.give(Command::PutCustomer { customer: customer.into(), policy });
    }
    for number in 0..8 {
        log.submit(kit::job(number, "acme", kit::DEV));
        log.submit(kit::job(100 + number, "bolt", kit::DEV));
    }
    log.submit(kit::job(200, "core", kit::SCHNELL).estimate(GpuNanos::from_millis(1)));
    log.submit(kit::job(201, "core", kit::SCHNELL).estimate(GpuNanos::from_secs(30)));
    log.submit(kit::job(202, "core", kit::SCHNELL));
    log.submit(kit::job(203, "bolt", kit::DEV).priority(Priority::High));
    for turn in 0..20 {
        for lease in log.dispatch_all() {
            log.wait(500);
            // Some take longer than they were expected to: their customer's next ones come later.
            let millis = if turn % 3 == 0 { 400 } else { 90 };
            log.complete(lease, Usage::gpu(GpuNanos::from_millis(millis), "GPU-1"));
        }
    }
    log.settle_all();
    log
}

pub(crate) fn fifo() -> Log {
    let config = GatewayConfig::default().ordering(Ordering::Fifo).age_after(Some(Span::from_secs(5)));
    let mut log = with_slots(config, 1);
    for number in 0..4 {
        log.submit(kit::job(number, "acme", kit::DEV).priority(Priority::Low));
        log.wait(1);
        log.submit(kit::job(10 + number, "bolt", kit::DEV));
    }
    for _ in 0..10 {
        for lease in log.dispatch_all() {
            log.wait(1_200);
            log.complete(lease, Usage::unmeasured());
        }
        log.submit(kit::job(100 + u128::from(log.times().0 % 997), "core", kit::DEV));
    }
    log
}

pub(crate) fn limits() -> Log {
    let policy = CustomerPolicy::default().rate(RateLimit::per_second(2, 3)).running_max(2).queued_max(5);
    let mut log = with_slots(GatewayConfig::default().customer(policy).jobs_max(12), 8);
    for number in 0..7 {
        log.submit(kit::job(number, "acme", kit::DEV));
    }
    log.submit(kit::job(50, "bolt", kit::DEV).tokens(3));
    log.submit(kit::job(51, "bolt", kit::DEV).tokens(0));
    log.submit(kit::job(52, "bolt", kit::DEV).tokens(4));
    let running = log.dispatch_all();
    log.complete(running[0], Usage::unmeasured());
    log.dispatch_all();
    log.wait_until_due(1);
    log.give(Command::Dispatch {});
    log.wait_until_due(0);
    log.dispatch_all();
    // Another policy, and back to the default one.
    let wider = CustomerPolicy::default().rate(RateLimit::new(90, Span::from_secs(60), 10).unwrap());
    log.give(Command::PutCustomer { customer: "acme".into(), policy: wider });
    log.dispatch_all();
    log.give(Command::RemoveCustomer { customer: "acme".into() });
    for number in 60..70 {
        log.submit(kit::job(number, "core", kit::DEV));
    }
    let none = CustomerPolicy::default().rate(RateLimit::per_second(0, 1)).running_max(0);
    log.give(Command::PutCustomer { customer: "core".into(), policy: none });
    log.dispatch_all();
    log.settle_all();
    log
}

pub(crate) fn ageing() -> Log {
    let mut log = with_slots(GatewayConfig::default().age_after(Some(Span::from_secs(10))), 1);
    log.submit(kit::job(1, "acme", kit::DEV).priority(Priority::Low));
    log.submit(kit::job(2, "acme", kit::DEV).priority(Priority::Low));
    let held = log.dispatch_all();
    for number in 10..14 {
        log.wait(2_000);
        log.submit(kit::job(number, "bolt", kit::DEV));
    }
    // One nanosecond before the job climbs, and when it does; twice.
    for _ in 0..2 {
        log.wait_until_due(1);
        log.wait_until_due(0);
    }
    log.complete(held[0], Usage::unmeasured());
    for _ in 0..6 {
        for lease in log.dispatch_all() {
            log.wait(100);
            log.complete(lease, Usage::unmeasured());
        }
    }
    log
}

pub(crate) fn deadlines() -> Log {
    let timeouts = Timeouts { queue: Some(Span::from_secs(30)), ..Timeouts::NONE };
    let mut log = with_slots(GatewayConfig::default().timeouts(timeouts).due_max(3), 2);
    let own = |queue: Option<u64>, start: Option<u64>, run: Option<u64>, total: Option<u64>| Timeouts {
        queue: queue.map(Span::from_secs),
        start: start.map(Span::from_secs),
        run: run.map(Span::from_secs),
        total: total.map(Span::from_secs),
    };
    log.submit(kit::job(1, "acme", kit::DEV).timeouts(own(None, None, Some(5), None)));
    log.submit(kit::job(2, "acme", kit::DEV).timeouts(own(None, None, None, Some(8))));
    log.dispatch_all();
    log.submit(kit::job(3, "acme", kit::DEV).timeouts(own(Some(4), None, None, None)));
    log.submit(kit::job(4, "acme", kit::DEV).timeouts(own(None, Some(4), None, None)));
    log.submit(kit::job(5, "acme", kit::DEV).timeouts(own(None, None, None, Some(4))));
    log.submit(kit::job(6, "acme", kit::DEV));
    for number in 7..12 {
        log.submit(kit::job(number, "bolt", kit::DEV).timeouts(own(Some(20), None, None, None)));
    }
    for _ in 0..6 {
        log.wait_until_due(1);
        log.wait_until_due(0);
        log.dispatch_all();
    }
    // More is due than one call handles: it says so, and stands still until it is called again.
    log.wait(40_000);
    for _ in 0..5 {
        log.give(Command::Advance {});
    }
    // A reading that cannot be, one that goes back, and an operator who says that it is right.
    log.submit(kit::job(20, "core", kit::DEV));
    log.wait(8_000_000);
    log.give(Command::Dispatch {});
    let (now, _) = log.times();
    log.give_at(now - 5_000_000_000, Command::Advance {});
    log.give_at(now, Command::AcceptClock {});
    log
}

pub(crate) fn fleet() -> Log {
    let mut log = Log::new(GatewayConfig::default().backends_max(3).routes_max(3).families_max(2));
    let pause = |route: &'static str| Command::Pause { route: Route::parse(route).unwrap() };
    let resume = |route: &'static str| Command::Resume { route: Route::parse(route).unwrap() };
    log.give(Command::PutBackend(kit::flux("flux-1").slots(4)));
    log.give(Command::PutBackend(kit::flux_model("flux-2", "dev")));
    log.give(Command::PutBackend(kit::wan("wan-1")));
    log.give(Command::PutBackend(kit::wan("wan-2")));
    log.give(Command::PutBackend(kit::flux("wan-1")));
    for number in 0..6 {
        log.submit(kit::job(number, "acme", kit::DEV));
    }
    log.give(pause(kit::DEV));
    log.dispatch_all();
    log.dispatch_route(kit::DEV);
    log.give(resume(kit::DEV));
    log.give(Command::DrainBackend { backend: "flux-1".into(), draining: true });
    log.give(Command::DispatchTo { backend: "flux-1".into(), max: 8 });
    log.give(Command::DispatchTo { backend: "flux-2".into(), max: 8 });
    log.give(Command::DrainBackend { backend: "flux-1".into(), draining: false });
    log.give(Command::DispatchTo { backend: "flux-1".into(), max: 2 });
    log.give(Command::RemoveBackend { backend: "flux-1".into() });
    log.give(Command::RemoveBackend { backend: "flux-1".into() });
    let leases = log.dispatch_all();
    log.complete(LeaseId::from_u64(2), Usage::unmeasured());
    log.complete(LeaseId::from_u64(3), Usage::unmeasured());
    // Fewer slots than it has leases, other models, another family.
    log.give(Command::PutBackend(kit::flux_model("flux-2", "schnell")));
    log.submit(kit::job(20, "acme", kit::SCHNELL));
    log.submit(kit::job(21, "acme", kit::WAN));
    log.dispatch_all();
    for lease in leases {
        log.give(Command::Release { lease, not_before: None, usage: Usage::unmeasured() });
    }
    log.give(pause("image/flux/next/t2i"));
    log.give(pause("image/flux/other/t2i"));
    log.give(resume("image/flux/next/t2i"));
    log.dispatch_all();
    log
}

pub(crate) fn breaker() -> Log {
    let count = |number: u32| NonZeroU32::new(number).unwrap();
    let breaker = CircuitBreakerConfig::default()
        .consecutive_failures(Some(count(3)))
        .calls_min(count(4))
        .open_for(Span::from_secs(10))
        .open_for_max(Span::from_secs(30))
        .probes_to_close(count(2));
    let config =
        GatewayConfig::default().breaker(breaker).backoff(BackoffConfig::default().base(Span::ZERO).retries(20));
    let mut log = with_slots(config, 4);
    for number in 0..6 {
        log.submit(kit::job(number, "acme", kit::DEV));
    }
    let broken = || Failure::new(FailureClass::Connection, "refused");
    let out = log.dispatch_all();
    for lease in &out[..3] {
        log.fail(*lease, broken());
    }
    log.dispatch_all();
    log.complete(out[3], Usage::unmeasured());
    // Half-open: one probe, which fails; the open time doubles.
    log.wait_until_due(1);
    log.dispatch_all();
    log.wait_until_due(0);
    let probe = log.dispatch_all();
    log.fail(probe[0], broken());
    log.wait_until_due(0);
    let probe = log.dispatch_all();
    log.give(Command::Release { lease: probe[0], not_before: None, usage: Usage::unmeasured() });
    for _ in 0..2 {
        let probe = log.dispatch_all();
        log.wait(50);
        log.complete(probe[0], Usage::unmeasured());
    }
    let out = log.dispatch_all();
    log.fail(out[0], Failure::new(FailureClass::Http(400), "bad request"));
    // Forced open and closed.
    let force = |state: Option<ForcedState>, until: Option<u64>| Command::ForceBreaker {
        backend: "flux-1".into(),
        state,
        until: until.map(kit::at),
    };
    log.give(force(Some(ForcedState::Open), Some(100)));
    log.give(force(Some(ForcedState::Open), Some(1)));
    log.submit(kit::job(20, "bolt", kit::DEV));
    log.dispatch_all();
    log.give(force(None, None));
    log.dispatch_all();
    log.give(force(Some(ForcedState::Closed), None));
    log.dispatch_all();
    log
}

pub(crate) fn retries() -> Log {
    let backoff = BackoffConfig::default().jitter_ppm(250_000).seed(7);
    let deaf = CircuitBreakerConfig::default().consecutive_failures(None).calls_min(NonZeroU32::new(1_000).unwrap());
    let mut log = with_slots(GatewayConfig::default().backoff(backoff).breaker(deaf).seed(99), 1);
    for number in 1..=9 {
        log.submit(kit::job(number, "acme", kit::DEV));
    }
    let failures = [
        Failure::new(FailureClass::Timeout, "too slow"),
        Failure::new(FailureClass::Http(503), "model is loading").retry_after(Span::from_secs(5)),
        Failure::new(FailureClass::Http(429), "slow down"),
        Failure::new(FailureClass::Network, "broken pipe"),
        Failure::new(FailureClass::Backend, "out of memory"),
        Failure::new(FailureClass::Backend, "out of memory").retriable(true),
        Failure::new(FailureClass::Connection, "refused").retriable(false),
        Failure::new(FailureClass::Rejected, "no such model"),
        Failure::new(FailureClass::Lost, "the worker is gone"),
    ];
    for turn in 0..3 {
        for failure in &failures {
            if let Some(lease) = log.dispatch_all().first() {
                log.wait(100 + turn);
                log.fail(*lease, failure.clone());
            }
        }
        log.wait_until_due(1);
        log.give(Command::Dispatch {});
        log.wait_until_due(0);
    }
    log
}

/// Jobs that wait until an instant, and leases that are taken back.
pub(crate) fn holds() -> Log {
    let mut log = with_slots(GatewayConfig::default().releases_max(2).preemptions_max(1), 2);
    let later = |secs: u64| Some(kit::at(secs));
    log.submit(kit::job(1, "acme", kit::DEV).not_before(kit::at(10)));
    log.submit(kit::job(2, "acme", kit::DEV).priority(Priority::Low));
    log.submit(kit::job(3, "bolt", kit::DEV).not_before(kit::at(0)));
    let leases = log.dispatch_all();
    log.give(Command::Release { lease: leases[0], not_before: later(5), usage: Usage::gpu(GpuNanos::ZERO, "GPU-1") });
    log.wait_until_due(1);
    log.dispatch_all();
    log.wait_until_due(0);
    let leases = log.dispatch_all();
    // The job that has waited long enough goes first; then it is given back once too often.
    let preempt = |number| Command::Preempt { job: JobId::from_entropy(number), usage: Usage::unmeasured() };
    for lease in leases {
        log.give(Command::Release { lease, not_before: None, usage: Usage::unmeasured() });
    }
    for lease in log.dispatch_all() {
        log.give(Command::Release { lease, not_before: later(6), usage: Usage::unmeasured() });
    }
    log.give(preempt(1));
    log.give(preempt(77));
    log.wait_until_due(0);
    log.submit(kit::job(4, "core", kit::DEV).priority(Priority::High));
    log.submit(kit::job(5, "core", kit::DEV).priority(Priority::Low));
    log.dispatch_all();
    log.give(Command::All(vec![
        Step::FirstOf(vec![Leaf::Preempt { job: JobId::from_entropy(5), usage: Usage::unmeasured() }]),
        Step::Submit(kit::job(6, "dune", kit::DEV).priority(Priority::High)),
        Step::Dispatch {},
    ]));
    log.give(preempt(5));
    log.give(preempt(4));
    log.dispatch_all();
    log.give(preempt(4));
    log.dispatch_all();
    let evict = |name: &'static str, to| Command::EvictBackend { backend: name.into(), to };
    log.give(evict("flux-1", EvictTo::Queue));
    log.give(evict("flux-9", EvictTo::Queue));
    log.dispatch_all();
    log.give(evict("flux-1", EvictTo::Error));
    log.give(evict("flux-1", EvictTo::Error));
    log.dispatch_all();
    log.give(Command::RemoveBackend { backend: "flux-1".into() });
    log.settle_all();
    log
}

pub(crate) fn lease_expiry() -> Log {
    let config = GatewayConfig::default().lease_for(Span::from_secs(30)).losses_max(2);
    let mut log = with_slots(config, 1);
    log.give(Command::PutBackend(kit::wan("wan-1").lease_for(Span::from_secs(4))));
    log.submit(kit::job(1, "acme", kit::DEV));
    log.submit(kit::job(2, "acme", kit::WAN));
    let leases = log.dispatch_all();
    log.wait(3_000);
    log.give(Command::Heartbeat { lease: leases[1] });
    log.wait_until_due(1);
    log.give(Command::Heartbeat { lease: leases[1] });
    // Lost, returned to its place, given to the next; the late result is nobody's any more.
    for _ in 0..3 {
        log.wait_until_due(1);
        log.wait_until_due(0);
        log.complete(leases[1], Usage::unmeasured());
        log.dispatch_all();
    }
    log.give(Command::Progress { lease: leases[1], progress_ppm: 5 });
    log.give(Command::Release { lease: leases[1], not_before: None, usage: Usage::unmeasured() });
    log.wait_until_due(0);
    log.give(Command::Heartbeat { lease: leases[0] });
    log.complete(LeaseId::from_u64(1_000), Usage::unmeasured());
    let again = log.dispatch_all();
    log.complete(again[0], Usage::unmeasured());
    log.settle_all();
    log
}

pub(crate) fn cancel() -> Log {
    let mut log = with_slots(GatewayConfig::default().retained_max(3), 2);
    for number in 1..=5 {
        log.submit(kit::job(number, "acme", kit::DEV));
    }
    let leases = log.dispatch_all();
    log.wait(1_500);
    log.cancel(1);
    log.cancel(1);
    log.complete(leases[0], Usage::gpu(GpuNanos::from_millis(1_500), "GPU-1"));
    log.cancel(4);
    log.cancel(99);
    log.delete(3);
    log.delete(4);
    log.delete(4);
    log.give(Command::Dispatch {});
    log.cancel(2);
    log.cancel(3);
    log.cancel(5);
    // Three records are kept at most.
    log.submit(kit::job(6, "acme", kit::DEV));
    log.cancel(6);
    log.give(Command::Advance {});
    log.delete(2);
    // What never ran costs its customer nothing: its next job does not wait behind all of another's.
    for number in 20..24 {
        log.submit(kit::job(number, "core", kit::DEV));
        log.cancel(number);
    }
    for (number, customer) in [(30, "bolt"), (31, "bolt"), (32, "core")] {
        log.submit(kit::job(number, customer, kit::DEV));
    }
    log.dispatch_all();
    log.settle_all();
    let reply = log.give(Command::Advance {});
    assert!(matches!(reply, Reply::Advanced(_)));
    log
}
