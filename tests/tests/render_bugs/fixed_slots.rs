//! B18 to B29: slots, workers that die, windows, clocks, positions.

use std::num::NonZeroU32;

use libgateway::{
    AfterFailure, BillingCall, BillingCollector, BillingCollectorConfig, BreakerState, CircuitBreakerConfig,
    CustomerPolicy, Failure, FailureClass, GatewayConfig, GpuNanos, JobState, Lease, Outcome, PriceBook, Priority,
    RateLimit, Timeouts, Usage, Watch, WatchStep,
};
use libgateway_tests::kit::{DEV, Rig, START, at, id, job, secs};
use libgateway_tests::rng::Rng;

use crate::{JOB, deliver_too_late, gpu, running};

fn call(request_id: &str) -> BillingCall<'_> {
    BillingCall { request_id, customer: Some("acme"), model: "flux/dev", tier: None }
}

fn collector() -> BillingCollector {
    BillingCollector::new(BillingCollectorConfig::default(), PriceBook::new(1, "USD").unwrap()).unwrap()
}

#[test]
fn b18_a_collector_that_has_seen_no_start_is_ready_for_one() {
    // The map of start times was never initialised: the first start of a process ended it.
    let mut collector = collector();
    assert_eq!((collector.open(), collector.next_deadline()), (0, None));
    assert!(collector.end("req_1", &Usage::unmeasured(), START).is_err());
    collector.start(call("req_1"), START).unwrap();
    assert_eq!(collector.end("req_1", &Usage::unmeasured(), at(2)).unwrap().billed_ns, GpuNanos::from_secs(2));
}

#[test]
fn b29_the_start_of_a_call_that_ended_is_forgotten() {
    // Start times stayed in the map for ever, and a request id that came again was billed from its first start.
    let mut collector = collector();
    for round in 0..1_000 {
        let begin = START + secs(10 * round);
        collector.start(call("req_1"), begin).unwrap();
        assert_eq!(collector.open(), 1);
        let receipt = collector.end("req_1", &Usage::unmeasured(), begin + secs(3)).unwrap();
        assert_eq!((receipt.billed_ns, collector.open()), (GpuNanos::from_secs(3), 0));
    }
    // A worker that never says the end does not keep its start for ever either.
    collector.start(call("req_2"), at(20_000)).unwrap();
    assert_eq!(collector.next_deadline(), Some(at(23_600)));
    assert_eq!((collector.handle_timeout(9, at(23_600)), collector.open()), (1, 0));
}

/// A way for a lease to end: what it is called, and what does it.
type Ending = (&'static str, fn(&mut Rig, &Lease));

/// How a lease may end, and what becomes of it.
fn endings() -> Vec<Ending> {
    fn fail(rig: &mut Rig, lease: &Lease, class: FailureClass) {
        _ = rig.fail(lease, class);
    }
    vec![
        ("delivered", |rig, lease| _ = rig.complete(lease)),
        ("failed, to be retried", |rig, lease| fail(rig, lease, FailureClass::Timeout)),
        ("failed for good", |rig, lease| fail(rig, lease, FailureClass::Http(400))),
        ("refused by ourselves", |rig, lease| fail(rig, lease, FailureClass::Rejected)),
        ("given back", |rig, lease| _ = rig.gateway.release(rig.now, lease.id)),
        ("cancelled", |rig, lease| rig.cancel(lease.job)),
        ("never heard of again", |rig, _| _ = rig.to(at(300))),
        ("too long in its attempt", |rig, _| _ = rig.to(at(100))),
        ("too long in all", |rig, _| _ = rig.to(at(200))),
        ("taken by a batch and delivered", |rig, lease| _ = rig.complete(lease)),
    ]
}

/// A rig on which the lease of job 1 ends as the name says; two slots, so that a second release would show.
fn ended(name: &str, end: fn(&mut Rig, &Lease)) -> (Rig, Lease) {
    let deaf = CircuitBreakerConfig::default().consecutive_failures(None);
    let mut rig = Rig::with_slots(GatewayConfig::default().breaker(deaf), 2);
    let mut timeouts = Timeouts::NONE;
    timeouts.run = (name == "too long in its attempt").then_some(secs(100));
    timeouts.total = (name == "too long in all").then_some(secs(200));
    rig.submit(job(1, "acme", DEV).timeouts(timeouts));
    rig.submit(job(2, "acme", DEV));
    let leases = match name {
        "taken by a batch and delivered" => rig.gateway.dispatch_to(rig.now, "gpu-1", 2).unwrap(),
        _ => rig.leases(),
    };
    assert_eq!((leases.len(), gpu(&rig).live), (2, 2));
    rig.gateway.heartbeat(at(50), leases[1].id).unwrap();
    rig.now = at(50);
    end(&mut rig, &leases[0]);
    rig.check();
    (rig, leases[0].clone())
}

#[test]
fn b20_b21_b23_a_slot_comes_back_exactly_once_however_its_lease_ends() {
    // Each of the paths by which a job could leave a backend forgot the slot in its own way, or gave it back twice.
    for (name, end) in endings() {
        let (mut rig, _) = ended(name, end);
        assert_eq!(gpu(&rig).live, 1, "{name}");
        assert_eq!(rig.gateway.stats().running, 1, "{name}");
        // So exactly one more job finds room.
        rig.submit(job(3, "acme", DEV).priority(Priority::High));
        rig.submit(job(4, "acme", DEV).priority(Priority::High));
        assert_eq!(rig.leases().len(), 1, "{name}");
        assert_eq!(gpu(&rig).live, 2, "{name}");
    }
}

#[test]
fn b27_an_answer_that_comes_twice_gives_nothing_back_twice() {
    for (name, end) in endings() {
        let (mut rig, lease) = ended(name, end);
        let before = gpu(&rig);
        for _ in 0..3 {
            deliver_too_late(&mut rig, &lease);
            assert!(rig.gateway.release(rig.now, lease.id).is_err(), "{name}");
            assert!(rig.gateway.heartbeat(rig.now, lease.id).is_err(), "{name}");
        }
        assert_eq!(gpu(&rig), before, "{name}");
    }
}

#[test]
fn b22_a_worker_that_breaks_leaves_its_job_in_error_and_one_that_vanishes_does_too() {
    // An exception in the worker left its job running for ever.
    let (mut rig, lease) = running();
    let failure = Failure::new(FailureClass::Backend, "division by zero in sampler");
    let after = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured());
    assert_eq!(after, Ok(AfterFailure::Error));
    let Some(Outcome::Error(told)) = rig.job(JOB).outcome else { panic!("{:?}", rig.job(JOB)) };
    assert_eq!(&*told.message, "division by zero in sampler");
    assert_eq!(rig.job(JOB).finished, Some(rig.now));

    // A worker that dies says nothing: then its lease ends, and after some tries the job with it.
    let deaf = CircuitBreakerConfig::default().consecutive_failures(None);
    let mut rig = Rig::with_slots(GatewayConfig::default().losses_max(2).breaker(deaf), 1);
    rig.submit(job(1, "acme", DEV));
    for lost in 1..=3 {
        rig.lease();
        rig.pass(secs(300));
        assert_eq!(rig.state(JOB), if lost < 3 { JobState::Queued } else { JobState::Error });
    }
    let Some(Outcome::Error(told)) = rig.job(JOB).outcome else { panic!("{:?}", rig.job(JOB)) };
    assert_eq!(told.class, FailureClass::Lost);
    assert_eq!(rig.gateway.stats().running, 0);
}

#[test]
fn b24_a_client_that_goes_away_is_not_missed() {
    // A closed connection threw in the thread that served it. A watch here is a value of the one who looks: the gateway
    // does not know of it, so there is nothing to close.
    let (mut rig, lease) = running();
    let digest = rig.gateway.digest();
    for _ in 0..100 {
        let mut watch = Watch::new(JOB);
        assert!(matches!(watch.poll(&rig.gateway), WatchStep::Event(_)));
    }
    assert_eq!(rig.gateway.digest(), digest);
    rig.complete(&lease);
}

#[test]
fn b25_only_failures_within_the_window_open_a_breaker() {
    // The window was never moved on, so a backend was shut off for failures of the day before.
    let ten = NonZeroU32::new(10).unwrap();
    let config =
        CircuitBreakerConfig::default().window(secs(100)).buckets(10).calls_min(ten).consecutive_failures(None);
    let opened = |apart: u64| {
        let mut rig = Rig::with_slots(GatewayConfig::default().breaker(config), 1);
        let mut number = 0;
        for batch in 0..2 {
            rig.to(at(batch * apart));
            for _ in 0..5 {
                number += 1;
                rig.submit(job(number, "acme", DEV));
                let lease = rig.lease();
                rig.fail(&lease, FailureClass::Backend);
            }
        }
        gpu(&rig).breaker.state == BreakerState::Open
    };
    assert!(opened(50), "ten failures within the window");
    assert!(!opened(150), "five, and five that are forgotten");
}

#[test]
fn b26_a_clock_that_goes_back_gives_no_tokens() {
    // Time that ran backwards and forwards again was counted as time passed.
    let rate = RateLimit::per_second(10, 10);
    let config = GatewayConfig::default().customer(CustomerPolicy::default().rate(rate));
    let mut rig = Rig::with_slots(config, 100);
    for number in 0..30 {
        rig.submit(job(number, "acme", DEV));
    }
    rig.to(at(10));
    assert_eq!(rig.leases().len(), 10);
    for _ in 0..5 {
        rig.to(at(9));
        assert_eq!(rig.leases().len(), 0);
        rig.to(at(10));
        assert_eq!(rig.leases().len(), 0, "a second back and forth is no second");
    }
    rig.to(at(11));
    assert_eq!(rig.leases().len(), 10);
}

#[test]
fn b28_a_position_is_the_number_of_jobs_that_are_served_before() {
    // It was documented as approximate, and it was.
    let mut chance = Rng::new(28);
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    let mut waiting = Vec::new();
    let mut estimates = std::collections::BTreeMap::new();
    for number in 0..60_u64 {
        let lane = *chance.pick(&[Priority::High, Priority::Normal, Priority::Low]);
        let customer = *chance.pick(&["acme", "zoo", "umbrella"]);
        let own = job(u128::from(number), customer, DEV).priority(lane);
        let estimate = GpuNanos::from_millis(4_000 + chance.below(3_000));
        rig.submit(own.estimate(estimate));
        estimates.insert(id(u128::from(number)), estimate);
        waiting.push(id(u128::from(number)));
        // The latest of a customer leaves without a trace; who leaves from the middle lets others move up later.
        if chance.one_in(3) {
            rig.cancel(waiting.pop().unwrap());
        }
    }
    let mut predicted: Vec<_> = waiting.iter().map(|job| (rig.gateway.position(*job).unwrap(), *job)).collect();
    predicted.sort_unstable();
    for (position, (told, job)) in predicted.iter().enumerate() {
        assert_eq!(*told as usize, position, "positions are without gaps");
        let lease = rig.lease();
        assert_eq!(lease.job, *job);
        // Each takes as long as was said of it.
        let worked = estimates[&lease.job];
        rig.pass(libgateway::Span::from_nanos(worked.as_nanos()));
        let gpu = Usage::gpu(worked, "GPU-1");
        rig.gateway.complete(rig.now, lease.id, libgateway::Output::url("u"), gpu).unwrap();
    }
}
