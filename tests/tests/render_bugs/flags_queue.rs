//! Flags 14 to 18: the queue's counts and positions, and the rate limiter.

use libgateway::error::{Coded, InputError};
use libgateway::{
    CustomerPolicy, GatewayConfig, GpuNanos, KeyedRateLimiter, KeyedRateLimiterConfig, Output, Priority, RateLimit,
    Span, Usage, WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, at, id, job, secs};
use libgateway_tests::rng::Rng;

use crate::JOB;

#[test]
fn flag14_what_is_told_to_wait_is_what_waits() {
    // The size was a counter next to the lanes, and the two drifted apart.
    let mut chance = Rng::new(14);
    let mut rig = Rig::with_slots(GatewayConfig::default().retain_for(secs(5)), 3);
    let mut leases = Vec::new();
    for _ in 0..600 {
        let number = u128::from(chance.below(40));
        let lane = *chance.pick(&[Priority::High, Priority::Normal, Priority::Low]);
        let way = *chance.pick(&[DEV, SCHNELL]);
        match chance.below(6) {
            0 | 1 => _ = rig.gateway.submit(rig.now, job(number, "acme", way).priority(lane)),
            2 => leases.extend(rig.dispatch().lease()),
            3 => _ = rig.gateway.cancel(rig.now, id(number)),
            4 if !leases.is_empty() => {
                let at = chance.below(leases.len() as u64) as usize;
                _ = rig.gateway.release(rig.now, leases.swap_remove(at).id);
            }
            _ => _ = rig.pass(Span::from_millis(chance.below(900))),
        }
        let waiting: Vec<_> = (0..40).filter_map(|number| rig.gateway.position(id(number))).collect();
        assert_eq!(rig.gateway.stats().queued as usize, waiting.len());
        rig.check();
    }
}

#[test]
fn flag15_a_position_means_the_same_wherever_it_is_told() {
    // Submitting told the length of the whole queue from one, looking told the place by priority from zero.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV).priority(Priority::Low));
    assert_eq!(rig.gateway.position(JOB), Some(0));
    rig.submit(job(2, "acme", DEV));
    rig.submit(job(3, "acme", DEV).priority(Priority::High));
    rig.submit(job(4, "acme", SCHNELL));
    let positions = [1, 2, 3, 4].map(|number| rig.gateway.position(id(number)));
    assert_eq!(positions, [Some(2), Some(1), Some(0), Some(0)], "by lane, and by route");
    assert_eq!([1, 2, 3, 4].map(|number| rig.job(id(number)).position), positions);
}

#[test]
fn flag15_the_time_to_wait_is_computed_from_what_jobs_took() {
    // It was the position times thirty seconds in one place and thirty seconds in the other.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 2);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    assert_eq!(rig.job(id(2)).eta, None, "nothing is known yet");
    let lease = rig.lease();
    rig.pass(secs(10));
    let usage = Usage::gpu(GpuNanos::from_secs(8), "GPU-1");
    rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage).unwrap();
    rig.submit(job(3, "acme", DEV));
    // (position + 1) times eight seconds, over two slots.
    assert_eq!((rig.job(id(2)).eta, rig.job(id(3)).eta), (Some(secs(4)), Some(secs(8))));
    rig.put(libgateway_tests::kit::flux("gpu-2").slots(6));
    assert_eq!(rig.job(id(3)).eta, Some(secs(2)), "more slots, less waiting");
}

#[test]
fn flag16_the_same_second_is_not_counted_twice() {
    // A step back set the bucket's time back, so the way forward was paid for again.
    let limit = RateLimit::per_second(10, 1_000);
    let mut limiter = KeyedRateLimiter::<String>::new(KeyedRateLimiterConfig::default().limit(limit), at(10)).unwrap();
    assert!(matches!(limiter.try_acquire("acme", 1_000, at(10)), libgateway::KeyedAcquire::Allow { remaining: 0 }));
    for now in [at(9), at(10), at(5), at(10)] {
        assert_eq!(limiter.available("acme", now), 0);
        assert!(matches!(limiter.try_acquire("acme", 1, now), libgateway::KeyedAcquire::Deny { .. }));
    }
    assert_eq!(limiter.available("acme", at(11)), 10);
}

#[test]
fn flag16_small_steps_of_time_lose_no_tokens() {
    // Floats that were added ten times a second drifted.
    let rate = RateLimit::per_second(3, 3);
    let config = GatewayConfig::default().customer(CustomerPolicy::default().rate(rate)).lease_for(Span::MAX);
    let mut rig = Rig::with_slots(config, 60_000);
    rig.checked = false;
    for number in 0..3_010 {
        rig.submit(job(number, "acme", DEV));
    }
    let mut started = rig.leases().len();
    for tenth in 1..=10_000 {
        rig.to(at(0) + Span::from_millis(100 * tenth));
        started += rig.leases().len();
    }
    assert_eq!(started, 3_003, "three at once, and three in each of a thousand seconds");
}

#[test]
fn flag17_a_limit_that_makes_no_sense_is_refused_and_one_that_never_ends_says_never() {
    // A negative capacity was accepted, and a rate of zero was waited for without end.
    let refused = RateLimit::new(1, Span::ZERO, 1).unwrap_err();
    assert_eq!(refused, InputError::OutOfRange { field: "per", value: 0, min: 1, max: u64::MAX });
    let refused: Result<libgateway::Entry<'_>, _> = libgateway::Entry::from_json(
        r#"{"now":1,"command":{"put_customer":{"customer":"a","policy":{"rate":{"amount":1,"per":1,"burst":-1}}}}}"#,
    );
    assert_eq!(refused.unwrap_err().name(), "not_a_command");

    let once = CustomerPolicy::default().rate(RateLimit::per_second(0, 1));
    let mut rig = Rig::with_slots(GatewayConfig::default().customer(once), 9);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    let lease = rig.lease();
    assert_eq!(rig.wait(), Some(lease.deadline), "not the instant of a token: there will be none");
    assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::CustomerRate { until: None }));
    // More tokens than there can ever be is told at the door.
    let refused = rig.gateway.submit(rig.now, job(3, "acme", DEV).tokens(2)).unwrap_err();
    assert_eq!((refused.number(), refused.field()), (204, Some("tokens")));
    // The operator can always help.
    rig.gateway.put_customer(rig.now, "acme", CustomerPolicy::default()).unwrap();
    assert_eq!(rig.lease().job, id(2));
}

#[test]
fn flag18_customers_that_ask_for_nothing_any_more_are_forgotten() {
    // The map of limiters kept each customer that had ever come.
    let rate = RateLimit::per_second(1, 5);
    let config = GatewayConfig::default()
        .customer(CustomerPolicy::default().rate(rate))
        .customer_idle(secs(10))
        .retain_for(secs(1))
        .customers_max(40);
    let mut rig = Rig::with_slots(config, 1);
    for number in 0..500_u32 {
        rig.checked = number % 50 == 0;
        let own =
            libgateway::Submit::new(id(u128::from(number)), format!("c-{number}"), libgateway_tests::kit::route(DEV));
        rig.submit(own);
        let lease = rig.lease();
        rig.complete(&lease);
        rig.settlements();
        rig.pass(secs(1));
    }
    assert!(rig.gateway.stats().customers <= 13, "{}", rig.gateway.stats().customers);
    // One that comes again is as new: nobody gained by being forgotten.
    assert_eq!(rig.gateway.customer("c-0"), None);
    assert_eq!(rig.gateway.customer("c-499").and_then(|customer| customer.tokens), Some(5));
    rig.pass(secs(60));
    assert_eq!(rig.gateway.stats().customers, 0);
}
