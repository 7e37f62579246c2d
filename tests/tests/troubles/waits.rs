//! What is said of the time until something can run, over random loads.

use std::num::NonZeroU32;

use libgateway::{
    CircuitBreakerConfig, CustomerPolicy, Dispatch, Failure, FailureClass, Gateway, GatewayConfig, Lease, Output,
    Priority, RateLimit, Span, Timeouts, Timestamp, Usage, WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, before, flux, flux_model, id, job, secs};
use libgateway_tests::rng::Rng;

const CUSTOMERS: [&str; 3] = ["acme", "bolt", "coil"];
const LANES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// Two backends, of which one opens soon, and three customers with some limits or none.
fn world(chance: &mut Rng) -> Rig {
    let breaker = CircuitBreakerConfig::default().consecutive_failures(NonZeroU32::new(2)).open_for(secs(7));
    let mut config = GatewayConfig::default().lease_for(secs(20)).breaker(breaker);
    if chance.one_in(2) {
        config = config.age_after(Some(secs(9)));
    }
    if chance.one_in(2) {
        config = config.timeouts(Timeouts { queue: Some(secs(15)), ..Timeouts::NONE });
    }
    let mut rig = Rig::new(config);
    rig.checked = false;
    rig.put(flux("a").slots(1 + chance.below(2) as u32));
    rig.put(flux_model("b", "dev"));
    for customer in CUSTOMERS {
        let mut policy = CustomerPolicy::default();
        if chance.one_in(2) {
            policy = policy.rate(RateLimit::new(1, secs(1 + chance.below(5)), 1 + chance.below(3)).unwrap());
        }
        if chance.one_in(2) {
            policy = policy.running_max(chance.below(3) as u32);
        }
        rig.gateway.put_customer(rig.now, customer, policy).unwrap();
    }
    rig
}

fn step(rig: &mut Rig, chance: &mut Rng, live: &mut Vec<Lease>, jobs: &mut u128) {
    let now = rig.now;
    match chance.below(10) {
        0..=3 => {
            *jobs += 1;
            let (customer, way) = (*chance.pick(&CUSTOMERS), *chance.pick(&[DEV, SCHNELL]));
            let mut submit = job(*jobs, customer, way).priority(*chance.pick(&LANES));
            if chance.one_in(5) {
                submit = submit.not_before(now + secs(chance.below(20)));
            }
            _ = rig.gateway.submit(now, submit.tokens(chance.below(3)));
        }
        4 | 5 => live.extend(rig.gateway.dispatch(now).lease()),
        6 | 7 if !live.is_empty() => {
            let lease = live.swap_remove(chance.below(live.len() as u64) as usize);
            let failure = Failure::new(FailureClass::Http(503), "busy");
            if chance.one_in(2) {
                _ = rig.gateway.fail(now, lease.id, failure, Usage::unmeasured());
            } else {
                _ = rig.gateway.complete(now, lease.id, Output::url("x"), Usage::unmeasured());
            }
        }
        8 => {
            rig.now = now + secs(chance.below(6));
            _ = rig.gateway.advance(rig.now);
        }
        _ => _ = rig.gateway.drain_backend(now, "a", chance.one_in(3)),
    }
}

fn copy(gateway: &Gateway) -> Gateway {
    Gateway::replica(&gateway.snapshot()).unwrap()
}

/// Asks at each second, and at the last nanosecond before the end.
fn nothing_runs_before(idle: &Gateway, now: Timestamp, end: Timestamp) {
    let mut at = now;
    while at < end {
        at = (at + secs(1)).min(end);
        if let Dispatch::Lease(lease) = copy(idle).dispatch(at) {
            panic!("{} was leased at {at:?}, before {end:?}", lease.job);
        }
    }
}

#[test]
fn nothing_is_leased_before_the_instant_that_a_wait_or_a_reason_names() {
    for seed in 0..15 {
        let mut chance = Rng::new(seed);
        let (mut live, mut jobs) = (Vec::new(), 0);
        let mut rig = world(&mut chance);
        for _ in 0..60 {
            step(&mut rig, &mut chance, &mut live, &mut jobs);
            for number in (1..=jobs).map(id) {
                let (Some(WaitReason::CustomerRate { until: Some(until) }) | Some(WaitReason::NotBefore { until, .. })) =
                    rig.gateway.explain(number)
                else {
                    continue;
                };
                let mut other = copy(&rig.gateway);
                let early = before(until).max(rig.now);
                while let Dispatch::Lease(lease) = other.dispatch(early) {
                    assert!(early >= until || lease.job != number, "seed {seed}: {number} was to wait until {until:?}");
                }
            }
            let mut idle = copy(&rig.gateway);
            while idle.dispatch(rig.now).lease().is_some() {}
            let Dispatch::Wait { until } = idle.dispatch(rig.now) else { panic!("seed {seed}: it had nothing") };
            nothing_runs_before(&idle, rig.now, until.map_or(rig.now + Span::from_secs(100), before));
            let deadline = idle.next_deadline();
            assert!(
                until.is_none_or(|until| deadline.is_some_and(|at| at <= until)),
                "seed {seed}: the host is called"
            );
        }
    }
}
