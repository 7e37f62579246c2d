//! The gateway against a naive model of it, step by step.

use std::num::NonZeroU32;

use libgateway::{
    Batch, Command, CustomerPolicy, Excess, Failure, FailureClass, GatewayConfig, GpuNanos, Leaf, LeaseId, Ordering,
    Payer, Plant, RateLimit, Reply, Span, Timeouts, Timestamp, Usage,
};
use libgateway_tests::model::{self, Op, Twin, Wrong};
use libgateway_tests::{kit, rng};

#[test]
fn the_gateway_is_what_its_specification_says() {
    let (seeds, mut completed) = (rng::count(SEEDS), 0);
    rng::each_seed(seeds, |seed| completed += model::run(seed, STEPS).completed);
    assert!(rng::replayed().is_some() || completed > 10 * seeds, "the runs do too little: {completed} jobs complete");
}

#[test]
fn a_gateway_with_one_number_wrong_is_told_from_the_model() {
    type Number = (&'static str, fn(&mut GatewayConfig));
    let numbers: [Number; 36] = [
        ("ordering", |own| own.ordering = if own.ordering == Ordering::Fair { Ordering::Fifo } else { Ordering::Fair }),
        ("age_after", |own| own.age_after = own.age_after.map(a_little_more)),
        ("customer.rate", |own| own.customer.rate = None),
        ("customer.running_max", |own| own.customer.running_max = own.customer.running_max.saturating_add(1)),
        ("estimate", |own| own.estimate = GpuNanos::from_nanos(own.estimate.as_nanos() * 2)),
        ("lease_for", |own| own.lease_for = a_little_more(own.lease_for)),
        ("timeouts.queue", |own| own.timeouts.queue = own.timeouts.queue.map(a_little_more)),
        ("timeouts.start", |own| own.timeouts.start = own.timeouts.start.map(a_little_more)),
        ("timeouts.run", |own| own.timeouts.run = own.timeouts.run.map(a_little_more)),
        ("timeouts.total", |own| own.timeouts.total = own.timeouts.total.map(a_little_more)),
        ("backoff", |own| own.backoff = own.backoff.retries(9)),
        ("losses_max", |own| own.losses_max += 1),
        ("releases_max", |own| own.releases_max += 1),
        ("preemptions_max", |own| own.preemptions_max += 1),
        ("breaker.open_for", |own| own.breaker = own.breaker.open_for_max(Span::MAX).open_for(Span::from_secs(9))),
        ("breaker.probes_to_close", |own| own.breaker = own.breaker.probes_to_close(NonZeroU32::new(9).unwrap())),
        ("billing.failed", |own| own.billing.failed = other(own.billing.failed)),
        ("billing.lost", |own| own.billing.lost = other(own.billing.lost)),
        ("billing.cancelled", |own| own.billing.cancelled = other(own.billing.cancelled)),
        ("billing.released", |own| own.billing.released = other(own.billing.released)),
        ("billing.preempted", |own| own.billing.preempted = other(own.billing.preempted)),
        ("billing.excess", |own| {
            own.billing.excess = if own.billing.excess == Excess::Cap { Excess::Refuse } else { Excess::Cap };
        }),
        ("billing.unmeasured_devices", |own| own.billing.unmeasured_devices = !own.billing.unmeasured_devices),
        ("billing.late_usage_for", |own| own.billing.late_usage_for = Span::from_secs(2)),
        ("billing.late_usage_max", |own| own.billing.late_usage_max = 0),
        ("billing.settlements", |own| own.billing.settlements = !own.billing.settlements),
        ("billing.slack", |own| own.billing.slack = Span::from_secs(1)),
        ("jobs_max", |own| own.jobs_max += 1),
        ("output_len_max", |own| own.output_len_max += 1),
        ("retain_for", |own| own.retain_for = a_little_more(own.retain_for)),
        ("retained_max", |own| own.retained_max += 1),
        ("customer_idle", |own| own.customer_idle = a_little_more(own.customer_idle)),
        ("settle_within", |own| own.settle_within = a_little_more(own.settle_within)),
        ("clock_jump_max", |own| own.clock_jump_max = Span::from_secs(3_600)),
        ("due_max", |own| own.due_max += 1),
        ("steps_max", |own| own.steps_max += 1),
    ];
    for (name, change) in numbers {
        assert!(is_told_apart(name, Wrong::Config(change)), "{name}: nobody noticed");
    }
}

#[test]
fn a_bug_planted_in_the_gateway_is_told_from_the_model() {
    for plant in [Plant::LeakedSlot, Plant::LostWakeup, Plant::DoubleSettlement] {
        assert!(is_told_apart("planted", Wrong::Planted(plant)), "{plant:?}: nobody noticed");
    }
}

fn is_told_apart(name: &str, wrong: Wrong) -> bool {
    let first = (0..40).find(|seed| model::tells(*seed, STEPS, wrong));
    println!("{name}: told apart by seed {first:?}");
    first.is_some()
}

fn a_little_more(span: Span) -> Span {
    Span::from_nanos(span.as_nanos().saturating_add(1))
}

fn other(payer: Payer) -> Payer {
    if payer == Payer::House { Payer::Customer } else { Payer::House }
}

/// A customer out of tokens had a timer for its next one. When its last job and settlement left before, that timer took
/// the place of the one that forgets: the customer was forgotten when the token came, not after `customer_idle`.
#[test]
fn a_customer_without_tokens_is_kept_as_long_as_any_other() {
    let policy = CustomerPolicy::default().rate(RateLimit::new(1, Span::from_secs(10), 1).unwrap());
    let config = GatewayConfig::default().customer(policy).customer_idle(Span::from_secs(600));
    let mut twin = Twin::new(config, 0);
    twin.step(Op::Command(0, Command::PutBackend(kit::flux("flux-1").slots(2))));
    for number in [1, 2] {
        twin.step(Op::Command(0, Command::Submit(kit::job(number, "acme", kit::DEV))));
    }
    for number in [1, 2] {
        twin.step(Op::Command(0, Command::Dispatch {}));
        twin.step(Op::Command(0, Command::Cancel { job: kit::id(number), usage: libgateway::Usage::unmeasured() }));
        twin.step(Op::Command(0, Command::Delete { job: kit::id(number) }));
    }
    twin.step(Op::Command(0, Command::TakeSettlements { max: 2 }));
    let batch = Batch { id: 1, first_seq: 1, len: 2 };
    twin.step(Op::Command(0, Command::ConfirmSettlements { batch }));
    assert_eq!(twin.gateway.next_deadline(), Some(Timestamp::from_secs(600)));
    twin.step(Op::Command(Timestamp::from_secs(599).as_nanos(), Command::Advance {}));
    assert!(twin.gateway.customer("acme").is_some());
    twin.step(Op::Command(Timestamp::from_secs(600).as_nanos(), Command::Advance {}));
    assert!(twin.gateway.customer("acme").is_none());
}

/// Only a failure that was followed by another attempt was told: the last one, which ended the job, was not.
#[test]
fn a_job_in_error_tells_the_failure_that_ended_it() {
    let mut twin = Twin::new(GatewayConfig::default(), 0);
    twin.step(Op::Command(0, Command::PutBackend(kit::flux("flux-1"))));
    twin.step(Op::Command(0, Command::Submit(kit::job(1, "acme", kit::DEV))));
    twin.step(Op::Command(0, Command::Dispatch {}));
    let failure = Failure::new(FailureClass::Rejected, "no such model");
    let (lease, usage) = (LeaseId::from_u64(1), Usage::unmeasured());
    twin.step(Op::Command(0, Command::Fail { lease, failure, usage }));
    let told = twin.gateway.job(kit::id(1)).unwrap().failure.unwrap();
    assert_eq!((told.class, &*told.message), (FailureClass::Rejected, "no such model"));
}

/// What fell due at the machine's own time was not handled while the host's clock stood further back.
#[test]
fn a_clock_that_went_back_does_not_hide_what_is_due() {
    let mut twin = Twin::new(GatewayConfig::default().retain_for(Span::ZERO), 5_000);
    twin.step(Op::Command(5_000, Command::PutBackend(kit::flux("flux-1"))));
    twin.step(Op::Command(5_000, Command::Submit(kit::job(1, "acme", kit::DEV))));
    twin.step(Op::Command(5_000, Command::Cancel { job: kit::id(1), usage: libgateway::Usage::unmeasured() }));
    twin.step(Op::Command(4_000, Command::Dispatch {}));
    assert!(twin.gateway.job(kit::id(1)).is_none());
}

/// A parked job whose tokens are there, but whose customer has not had its turn because more was due than one call
/// handles, was taken for one that nothing wakes: the gateway's own snapshot was refused.
#[test]
fn a_snapshot_taken_while_more_is_due_can_be_read() {
    let policy = CustomerPolicy::default().rate(RateLimit::new(1, Span::from_secs(10), 1).unwrap());
    let mut twin = Twin::new(GatewayConfig::default().customer(policy).due_max(1), 0);
    twin.step(Op::Command(0, Command::PutBackend(kit::flux("flux-1").slots(2))));
    twin.step(Op::Command(0, Command::Submit(kit::job(1, "acme", kit::DEV))));
    twin.step(Op::Command(0, Command::Submit(kit::job(2, "acme", kit::DEV))));
    twin.step(Op::Command(0, Command::PutBackend(kit::wan("wan-1"))));
    twin.step(Op::Command(0, Command::DrainBackend { backend: "wan-1".into(), draining: true }));
    let timeouts = Timeouts { queue: Some(Span::from_secs(10)), ..Timeouts::NONE };
    twin.step(Op::Command(0, Command::Submit(kit::job(3, "bolt", kit::WAN).timeouts(timeouts))));
    twin.step(Op::Command(0, Command::Dispatch {}));
    twin.step(Op::Command(0, Command::Dispatch {}));
    twin.step(Op::Command(Timestamp::from_secs(10).as_nanos(), Command::Advance {}));
    twin.step(Op::Restore);
    let reply = twin.step(Op::Command(Timestamp::from_secs(10).as_nanos(), Command::Dispatch {}));
    assert!(matches!(reply, Some(Reply::Leased(lease)) if lease.job == kit::id(2)));
}

/// Shares that a transaction's dispatches overtook were swept away by its submissions, and were missing when the
/// transaction was undone: the customer was served before its turn, and only where the sweep had come so far.
#[test]
fn a_share_overtaken_in_a_transaction_is_there_when_it_is_undone() {
    let mut twin = Twin::new(GatewayConfig::default(), 0);
    twin.step(Op::Command(0, Command::PutBackend(kit::flux("flux-1").slots(2))));
    twin.step(Op::Command(0, Command::Submit(kit::job(1, "acme", kit::DEV))));
    twin.step(Op::Command(0, Command::Cancel { job: kit::id(1), usage: libgateway::Usage::unmeasured() }));
    for number in [2, 3] {
        let submit = kit::job(number, "bolt", kit::DEV).estimate(GpuNanos::from_secs(5));
        twin.step(Op::Command(0, Command::Submit(submit)));
    }
    let newcomers = [(4, "core"), (5, "dune"), (6, "echo")]
        .map(|(number, customer)| Leaf::Submit(kit::job(number, customer, kit::DEV)));
    twin.step(Op::Abort(0, [Leaf::Dispatch {}, Leaf::Dispatch {}].into_iter().chain(newcomers).collect()));
}

const SEEDS: u64 = 400;
const STEPS: u32 = 600;
