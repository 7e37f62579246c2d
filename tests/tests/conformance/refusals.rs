//! Vectors of what is refused, what is the same, and what is all or nothing.

use libgateway::{
    Backend, Batch, Command, CustomerPolicy, Failure, FailureClass, ForcedState, GatewayConfig, GpuNanos, JobId, Leaf,
    LeaseId, Models, Output, PriceBook, Priority, RateLimit, Reply, Route, Span, Step, Timeouts, Usage,
};
use libgateway_tests::kit;

use crate::log::Log;

pub(crate) fn idempotency() -> Log {
    let config = GatewayConfig::default().retain_for(Span::from_secs(60)).idempotency_for(Span::from_secs(120));
    let mut log = Log::new(config.idempotency_keys_max(3).idempotency_free_cancelled(true));
    log.give(Command::PutBackend(kit::flux("flux-1")));
    let keyed = |number: u128, customer: &'static str| kit::job(number, customer, kit::DEV).idempotency_key("order-17");
    log.submit(keyed(1, "acme").payload("a"));
    log.submit(keyed(2, "acme").payload("a"));
    log.submit(keyed(3, "acme").payload("b"));
    log.submit(keyed(4, "acme").payload("a").priority(Priority::High));
    log.submit(kit::job(5, "acme", kit::SCHNELL).idempotency_key("order-17").payload("a"));
    log.submit(keyed(6, "bolt").payload("a"));
    log.submit(keyed(7, "acme").payload("a").estimate(GpuNanos::from_secs(9)).tokens(5));
    let leases = log.dispatch_all();
    log.complete(leases[0], Usage::unmeasured());
    log.submit(keyed(8, "acme").payload("a"));
    log.submit(kit::job(1, "acme", kit::DEV));
    // The key outlives the record, and goes at its own instant.
    log.wait(61_000);
    log.submit(keyed(9, "acme").payload("a"));
    log.submit(keyed(9, "acme").payload("b"));
    log.wait(58_999);
    log.submit(keyed(9, "acme").payload("b"));
    log.wait(1);
    log.submit(keyed(9, "acme").payload("b"));
    // That of a cancelled job is free again.
    log.cancel(9);
    log.submit(keyed(10, "acme").payload("c"));
    // Of four keys of ended jobs the first to end leaves.
    for number in 11..15 {
        log.submit(kit::job(number, "acme", kit::DEV).idempotency_key(format!("order-{number}")));
    }
    for lease in log.dispatch_all() {
        log.complete(lease, Usage::unmeasured());
    }
    for number in 11..15 {
        log.submit(kit::job(20 + number, "acme", kit::DEV).idempotency_key(format!("order-{number}")));
    }
    log
}

/// A gateway that goes on three times, and a tail of its log that is applied twice.
pub(crate) fn restarts() -> Log {
    let mut log = Log::new(GatewayConfig::default().lease_for(Span::from_secs(60)));
    log.give_numbered(1, Command::BeginEpoch { entropy: 7 });
    log.give_numbered(2, Command::PutBackend(kit::flux("flux-1").slots(2)));
    for number in 1..6 {
        log.give_numbered(2 + number as u64, Command::Submit(kit::job(number, "acme", kit::DEV)));
    }
    log.give_numbered(7, Command::Submit(kit::job(5, "acme", kit::DEV)));
    log.give_numbered(9, Command::Advance {});
    let old = log.dispatch_all();
    log.complete(old[0], Usage::unmeasured());
    let Reply::Settlements(Some(taken)) = log.give(Command::TakeSettlements { max: 10 }) else { panic!() };
    // Two hours later. The worker that is known goes on, what was out comes back, and numbers are others.
    log.wait(7_200_000);
    let next = log.commands() + 1;
    log.give_numbered(next, Command::BeginEpoch { entropy: u64::MAX });
    log.give(Command::Heartbeat { lease: old[1] });
    log.give(Command::ConfirmSettlements { batch: taken.batch });
    log.settle_all();
    let new = log.dispatch_all();
    log.complete(old[0], Usage::unmeasured());
    log.complete(old[1], Usage::unmeasured());
    log.complete(new[0], Usage::unmeasured());
    log.give(Command::Heartbeat { lease: LeaseId::from_u64(1) });
    log.give(Command::Heartbeat { lease: LeaseId::from_u64(new[0].as_u64() + 1) });
    log.give(Command::BeginEpoch { entropy: 0 });
    log.dispatch_all();
    log.settle_all();
    log
}

pub(crate) fn transactions() -> Log {
    let mut log = Log::new(GatewayConfig::default());
    log.give(Command::PutBackend(kit::flux("flux-1")));
    log.give(Command::PutBackend(kit::wan("wan-1")));
    let submit = |number: u128, route: &'static str| Step::Submit(kit::job(number, "acme", route));
    let route = |text: &'static str| Step::DispatchRoute { route: Route::parse(text).unwrap() };
    log.give(Command::All(vec![]));
    log.give(Command::FirstOf(vec![]));
    log.give(Command::FirstOf(vec![Step::Dispatch {}; 65]));
    log.give(Command::All(vec![submit(1, kit::DEV), route(kit::DEV), route(kit::WAN)]));
    log.give(Command::All(vec![submit(1, kit::DEV), submit(2, kit::WAN)]));
    log.give(Command::All(vec![submit(3, kit::DEV), submit(3, kit::DEV)]));
    log.give(Command::FirstOf(vec![route("text/llama/8b/chat"), route(kit::DEV)]));
    log.give(Command::All(vec![route(kit::DEV), route(kit::WAN)]));
    log.give(Command::FirstOf(vec![route(kit::DEV), Step::Dispatch {}]));
    log.submit(kit::job(4, "acme", kit::WAN));
    let output = || Output::url("https://cdn/1.webp");
    let complete =
        |lease: u64| Leaf::Complete { lease: LeaseId::from_u64(lease), output: output(), usage: Usage::unmeasured() };
    // The second stage begins with the end of the first.
    log.wait(900);
    log.give(Command::All(vec![
        Step::All(vec![complete(1), Leaf::Submit(kit::job(5, "acme", kit::WAN))]),
        Step::FirstOf(vec![Leaf::DispatchTo { backend: "wan-1".into(), max: 1 }, Leaf::Dispatch {}]),
    ]));
    log.give(Command::All(vec![
        Step::Complete { lease: LeaseId::from_u64(2), output: output(), usage: Usage::unmeasured() },
        Step::FirstOf(vec![Leaf::DispatchTo { backend: "wan-1".into(), max: 1 }]),
        Step::Heartbeat { lease: LeaseId::from_u64(3) },
        Step::Progress { lease: LeaseId::from_u64(3), progress_ppm: 1 },
    ]));
    log.give(Command::FirstOf(vec![
        Step::All(vec![Leaf::Dispatch {}, Leaf::Cancel { job: kit::id(4), usage: Usage::unmeasured() }]),
        Step::All(vec![Leaf::Cancel { job: kit::id(4), usage: Usage::unmeasured() }, Leaf::Delete { job: kit::id(4) }]),
    ]));
    log.give(Command::All(vec![
        Step::Release { lease: LeaseId::from_u64(3), not_before: None, usage: Usage::unmeasured() },
        Step::Fail {
            lease: LeaseId::from_u64(3),
            failure: Failure::new(FailureClass::Timeout, "late"),
            usage: Usage::unmeasured(),
        },
    ]));
    // Every kind of step on both levels: a lease given back and taken again, failed, another job rejected and deleted.
    let lease = LeaseId::from_u64;
    let failed = |number: u64, class: FailureClass| (lease(number), Failure::new(class, "in one go"));
    let ((fourth, network), (sixth, rejected)) = (failed(4, FailureClass::Network), failed(6, FailureClass::Rejected));
    log.give(Command::All(vec![
        Step::All(vec![
            Leaf::Heartbeat { lease: lease(1) },
            Leaf::Progress { lease: lease(1), progress_ppm: 250_000 },
            Leaf::Release { lease: lease(1), not_before: None, usage: Usage::unmeasured() },
            Leaf::DispatchRoute { route: Route::parse(kit::DEV).unwrap() },
        ]),
        Step::FirstOf(vec![Leaf::Fail { lease: fourth, failure: network, usage: Usage::unmeasured() }]),
    ]));
    log.give(Command::All(vec![
        submit(6, kit::DEV),
        Step::DispatchTo { backend: "flux-1".into(), max: 1 },
        Step::Release { lease: lease(5), not_before: None, usage: Usage::unmeasured() },
        Step::Dispatch {},
        Step::Fail { lease: sixth, failure: rejected, usage: Usage::unmeasured() },
        Step::Delete { job: kit::id(6) },
        Step::Cancel { job: kit::id(1), usage: Usage::unmeasured() },
    ]));
    log.dispatch_all();
    log.settle_all();
    log
}

pub(crate) fn bad_input() -> Log {
    let policy = CustomerPolicy::default().rate(RateLimit::per_second(1, 2)).queued_max(3);
    let config = GatewayConfig::default().payload_len_max(8).output_len_max(8).customer(policy).customers_max(1);
    let mut log = Log::new(config);
    bad_backends(&mut log);
    let good = || kit::job(1, "acme", kit::DEV);
    let mut bad = vec![
        kit::job(1, "", kit::DEV),
        kit::job(1, "ac\u{7}me", kit::DEV),
        good().payload("nine byte"),
        good().estimate(GpuNanos::ZERO),
        good().affinity(""),
        good().idempotency_key("\u{85}"),
        good().timeouts(Timeouts { run: Some(Span::ZERO), ..Timeouts::NONE }),
        good().tokens(3),
        kit::job(1, "acme", "text/llama/8b/chat"),
        kit::job(1, "acme", "image/flux/dev/t2i?backend=vllm"),
    ];
    let mut long = good();
    long.customer = "x".repeat(129).into();
    bad.push(long);
    for submit in bad {
        log.submit(submit);
    }
    log.submit(good());
    log.submit(good());
    log.submit(kit::job(2, "bolt", kit::DEV));
    log.submit(kit::job(2, "acme", kit::DEV));
    log.submit(kit::job(3, "acme", kit::DEV));
    log.submit(kit::job(4, "acme", kit::DEV));
    bad_results(&mut log);
    bad_operators(&mut log);
    log.cancel(77);
    log.delete(77);
    log.delete(2);
    log.cancel(2);
    log.cancel(2);
    let batch = |id: u64, first_seq: u64, len: u32| Command::ConfirmSettlements { batch: Batch { id, first_seq, len } };
    log.give(batch(1, 1, 1));
    log.give(Command::TakeSettlements { max: 0 });
    log.give(Command::TakeSettlements { max: 1 });
    log.give(batch(1, 1, 2));
    log.give(Command::ReturnSettlements { batch: Batch { id: 1, first_seq: 1, len: 1 } });
    log.give(batch(1, 1, 1));
    log.give(Command::ReturnSettlements { batch: Batch { id: 0, first_seq: 0, len: u32::MAX } });
    log
}

fn bad_backends(log: &mut Log) {
    let good = || kit::flux("flux-1");
    let models = |models: &[&str]| {
        let mut backend = good();
        backend.models = Models::Only(models.iter().map(ToString::to_string).collect());
        backend
    };
    let bad: Vec<Backend> = vec![
        kit::flux(""),
        models(&[]),
        models(&["b", "a"]),
        models(&["a", "a"]),
        models(&["a b"]),
        good().slots(0),
        good().slots(65_537),
        good().devices(65),
        good().warm_max(65),
        good().lease_for(Span::ZERO),
        good().label("", "x"),
    ];
    for backend in bad {
        log.give(Command::PutBackend(backend));
    }
    log.give(Command::PutBackend(good().devices(2)));
}

fn bad_results(log: &mut Log) {
    let lease = log.dispatch_all()[0];
    log.wait(1_000);
    let second = |nanos: u64| GpuNanos::from_nanos(nanos);
    let usages = [
        Usage::gpu(second(5_000_000_000), "GPU-1"),
        Usage::gpu(second(u64::MAX), "GPU-1").and_gpu(second(1), "GPU-2"),
        Usage::gpu(second(1), "GPU-1").and_gpu(second(1), "GPU-1"),
        Usage::gpu(second(1), "GPU-1").and_gpu(second(1), "GPU-2").and_gpu(second(1), "GPU-3"),
        Usage::gpu(second(1), ""),
        Usage::gpu(second(1), "GPU 1,2"),
    ];
    for usage in usages {
        log.give(Command::Complete { lease, output: Output::url("ok"), usage });
    }
    log.give(Command::Complete { lease, output: Output::url(""), usage: Usage::unmeasured() });
    log.complete(lease, Usage::unmeasured());
    log.fail(lease, Failure::new(FailureClass::Timeout, "far too long"));
    log.give(Command::Progress { lease, progress_ppm: 1_000_001 });
    log.give(Command::PutPrices(PriceBook::new(1, "EUR").unwrap().price("*", "*", u64::MAX).unwrap()));
    log.wait(10_000);
    log.give(Command::Complete { lease, output: Output::url("ok"), usage: Usage::unmeasured() });
    for number in [0, 2, u64::MAX] {
        log.give(Command::Heartbeat { lease: LeaseId::from_u64(number) });
        log.give(Command::Release { lease: LeaseId::from_u64(number), not_before: None, usage: Usage::unmeasured() });
    }
    log.give(Command::Release { lease, not_before: None, usage: Usage::unmeasured() });
    log.give(Command::Release { lease, not_before: None, usage: Usage::unmeasured() });
}

fn bad_operators(log: &mut Log) {
    log.give(Command::PutPrices(PriceBook::new(1, "EUR").unwrap()));
    log.give(Command::PutPrices(PriceBook::new(2, "USD").unwrap()));
    log.give(Command::PutCustomer { customer: "acme".into(), policy: CustomerPolicy::default().weight(0) });
    log.give(Command::PutCustomer { customer: "acme".into(), policy: CustomerPolicy::default().tier("") });
    log.give(Command::PutCustomer { customer: "bolt".into(), policy: CustomerPolicy::default() });
    log.give(Command::RemoveCustomer { customer: "acme".into() });
    log.give(Command::RemoveCustomer { customer: "nobody".into() });
    for backend in ["", "nobody"] {
        log.give(Command::RemoveBackend { backend: backend.into() });
        log.give(Command::DrainBackend { backend: backend.into(), draining: true });
        log.give(Command::DispatchTo { backend: backend.into(), max: 1 });
    }
    let (state, until) = (Some(ForcedState::Open), Some(kit::START));
    log.give(Command::ForceBreaker { backend: "flux-1".into(), state, until });
    let route = || Route::parse("video/wan/base/t2v").unwrap();
    log.give(Command::Pause { route: route() });
    log.give(Command::Resume { route: route() });
    log.give(Command::DispatchRoute { route: route() });
    log.give(Command::All(vec![]));
    log.give(Command::All(vec![Step::DispatchTo { backend: "flux-1".into(), max: 0 }]));
    log.give(Command::All(vec![
        Step::Cancel { job: JobId::from_entropy(1), usage: Usage::unmeasured() },
        Step::Delete { job: JobId::from_entropy(77) },
    ]));
    log.submit(kit::job(9, "acme", kit::DEV).idempotency_key("k").tokens(0));
    log.give(Command::Cancel { job: kit::id(3), usage: Usage::unmeasured() });
    log.submit(kit::job(9, "acme", kit::DEV).idempotency_key("k").tokens(0));
    log.submit(kit::job(10, "acme", kit::DEV).idempotency_key("k").tokens(0).payload("other"));
}
