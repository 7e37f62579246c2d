//! Flags 19 to 26: the breaker, where it keeps jobs from a backend or sends them there, and the choice of a backend.

use std::num::NonZeroU32;

use libgateway::{
    BreakerReason, BreakerState, CircuitBreakerConfig, FailureClass, GatewayConfig, Lease, RateRule, WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, at, flux, id, job, secs};

use crate::gpu;

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// A breaker that looks at shares alone.
fn by_share(calls_min: u32) -> CircuitBreakerConfig {
    CircuitBreakerConfig::default().calls_min(count(calls_min)).consecutive_failures(None)
}

fn rig(breaker: CircuitBreakerConfig, slots: u32) -> Rig {
    let mut rig = Rig::with_slots(GatewayConfig::default().breaker(breaker).lease_for(secs(100_000)), slots);
    rig.checked = false;
    rig
}

/// Runs one more job, which ends as told.
fn one(rig: &mut Rig, fails: bool) {
    let number = u128::from(rig.gateway.stats().counters.submitted) + 1;
    rig.submit(job(number, "acme", DEV));
    let lease = rig.lease();
    end(rig, &lease, fails);
}

fn end(rig: &mut Rig, lease: &Lease, fails: bool) {
    if fails {
        rig.fail(lease, FailureClass::Backend);
    } else {
        rig.complete(lease);
    }
    rig.gateway.check_invariants();
}

fn leases(rig: &mut Rig, jobs: u32) -> Vec<Lease> {
    for _ in 0..jobs {
        let number = u128::from(rig.gateway.stats().counters.submitted) + 1;
        rig.submit(job(number, "acme", DEV));
    }
    rig.leases()
}

fn state(rig: &Rig) -> BreakerState {
    gpu(rig).breaker.state
}

#[test]
fn flag19_one_failure_is_no_rate() {
    // One of one is a hundred percent: the first failure after a restart shut a backend off.
    let mut rig = rig(CircuitBreakerConfig::default(), 1);
    for _ in 0..4 {
        one(&mut rig, true);
        assert_eq!(state(&rig), BreakerState::Closed);
    }
    one(&mut rig, true);
    assert_eq!(state(&rig), BreakerState::Open, "five in a row are a dead backend");
    let mut rig = self::rig(by_share(10), 1);
    for call in 1..=10 {
        assert_eq!(state(&rig), BreakerState::Closed, "before call {call}");
        one(&mut rig, true);
    }
    assert_eq!(gpu(&rig).breaker.reason, BreakerReason::FailureRate { calls: 10, failures: 10 });
}

#[test]
fn flag20_whether_the_threshold_itself_counts_is_told() {
    // The paper said more than half, the code said half.
    for (rule, failures, open) in [
        (RateRule::AtLeast, 5, true),
        (RateRule::Above, 5, false),
        (RateRule::Above, 6, true),
        (RateRule::AtLeast, 4, false),
    ] {
        let mut rig = rig(by_share(10).failure_rate_rule(rule), 1);
        for call in 0..10 {
            one(&mut rig, call >= 10 - failures);
        }
        assert_eq!(state(&rig) == BreakerState::Open, open, "{failures} of 10, {rule:?}");
    }
}

#[test]
fn flag21_a_backend_that_may_be_dead_gets_one_job_and_no_more() {
    // Half-open let as many through as there were slots: each recovery was tried on a hundred customers.
    let mut rig = rig(CircuitBreakerConfig::default().consecutive_failures(Some(count(1))), 100);
    one(&mut rig, true);
    for number in 100..150 {
        rig.submit(job(number, "acme", DEV));
    }
    assert_eq!(rig.leases().len(), 0);
    rig.to(at(60));
    let probes = rig.leases();
    assert_eq!((probes.len(), probes[0].probe), (1, true));
    assert_eq!(rig.gateway.explain(id(110)), Some(WaitReason::BackendsBusy));
    rig.complete(&probes[0]);
    let probes = rig.leases();
    assert_eq!(probes.len(), 1, "the second of two");
    rig.complete(&probes[0]);
    assert_eq!(rig.leases().len(), 48);
    assert_eq!(rig.gateway.stats().counters.probes, 2);
}

#[test]
fn flag21_a_probe_that_is_given_up_makes_room_for_the_next() {
    // A probe is a lease: it ends in one of the ways leases end, and never blocks the recovery.
    let mut rig = rig(CircuitBreakerConfig::default().consecutive_failures(Some(count(1))), 2);
    rig.put(flux("gpu-1").slots(2).lease_for(secs(500)));
    one(&mut rig, true);
    rig.submit(job(50, "acme", DEV));
    rig.submit(job(51, "acme", DEV));
    rig.to(at(60));
    let probe = rig.lease();
    rig.cancel(probe.job);
    assert_eq!(state(&rig), BreakerState::HalfOpen);
    let probe = rig.lease();
    assert!(probe.probe);
    rig.to(probe.deadline);
    assert_eq!(state(&rig), BreakerState::Open, "a lost probe is a failed one");
}

#[test]
fn flag22_probes_that_are_far_apart_add_up() {
    // The window was emptied while half-open, so four of five successes were lost and a quiet backend never recovered.
    let breaker =
        CircuitBreakerConfig::default().consecutive_failures(Some(count(1))).probes_to_close(count(5)).window(secs(10));
    let mut rig = rig(breaker, 3);
    one(&mut rig, true);
    rig.to(at(60));
    for probe in 1..=5 {
        assert_eq!(state(&rig), BreakerState::HalfOpen, "before probe {probe}");
        one(&mut rig, false);
        rig.pass(secs(1_000));
    }
    assert_eq!(state(&rig), BreakerState::Closed);
}

#[test]
fn flag23_looking_changes_nothing() {
    // Asking whether a backend was available moved its breaker to half-open, also for the backends that were not chosen.
    let mut rig = rig(CircuitBreakerConfig::default().consecutive_failures(Some(count(1))), 3);
    rig.put(flux("gpu-2").slots(3));
    let opened = leases(&mut rig, 1);
    assert_eq!(&*opened[0].backend, "gpu-1");
    end(&mut rig, &opened[0], true);
    leases(&mut rig, 2);
    rig.to(at(59));
    let digest = rig.gateway.digest();
    for number in 0..5 {
        _ = (rig.gateway.explain(id(number)), rig.gateway.job(id(number)), rig.gateway.position(id(number)));
    }
    _ = (rig.gateway.backends(), rig.gateway.stats(), rig.gateway.customer("acme"), rig.gateway.next_deadline());
    assert_eq!(rig.gateway.digest(), digest);
    assert_eq!(rig.gateway.backends()[0].breaker.rejected_total, 0);

    // And who is not chosen keeps his probe.
    rig.to(at(60));
    assert_eq!(rig.gateway.backends()[0].breaker.state, BreakerState::HalfOpen);
    let on_the_other = rig.gateway.dispatch_to(rig.now, "gpu-2", 1).unwrap();
    assert_eq!(on_the_other.len(), 0, "nothing waits");
    rig.submit(job(90, "acme", DEV));
    assert_eq!(rig.gateway.dispatch_to(rig.now, "gpu-2", 1).map(|leases| leases.len()), Ok(1));
    assert!(!rig.gateway.backends()[0].breaker.probe_out);
}

#[test]
fn flag24_results_of_jobs_begun_before_the_breaker_opened_count_for_nothing() {
    // Failures of old calls were counted while open, old successes closed what new failures had opened.
    let mut rig =
        rig(CircuitBreakerConfig::default().consecutive_failures(Some(count(2))).probes_to_close(count(1)), 20);
    let old = leases(&mut rig, 12);
    end(&mut rig, &old[0], true);
    end(&mut rig, &old[1], true);
    let opened = gpu(&rig).breaker;
    assert_eq!((opened.state, opened.until), (BreakerState::Open, Some(at(60))));
    end(&mut rig, &old[2], false);
    end(&mut rig, &old[3], true);
    assert_eq!(gpu(&rig).breaker, opened, "neither closed by the one nor held open longer by the other");

    rig.to(at(60));
    end(&mut rig, &old[4], false);
    assert_eq!(state(&rig), BreakerState::HalfOpen, "an old success is no probe");
    end(&mut rig, &old[5], true);
    assert_eq!(state(&rig), BreakerState::HalfOpen, "nor is an old failure");
    one(&mut rig, false);
    assert_eq!(state(&rig), BreakerState::Closed);
    for lease in &old[6..] {
        end(&mut rig, lease, true);
    }
    assert_eq!((state(&rig), gpu(&rig).breaker.failures), (BreakerState::Closed, 0));
}

#[test]
fn flag25_failures_on_both_sides_of_a_boundary_are_seen_together() {
    // The rolling window tumbled: nine failures before its end and nine after were two times nine of something else.
    let breaker = by_share(18).window(secs(100)).buckets(10).failure_rate_ppm(1_000_000);
    for split in [95, 99, 100, 101, 105] {
        let mut rig = rig(breaker, 1);
        for failure in 0..18 {
            rig.to(at(split - 9 + failure));
            assert_eq!(state(&rig), BreakerState::Closed, "failure {failure} about {split}");
            one(&mut rig, true);
        }
        assert_eq!(state(&rig), BreakerState::Open, "about {split}");
    }
}

#[test]
fn flag26_small_and_large_backends_fill_evenly() {
    // The fewest in flight won, so the small backend was full while the large one was nearly idle.
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux("small").slots(2));
    rig.put(flux("large").slots(8));
    let live = |rig: &Rig| [&rig.gateway.backends()[0], &rig.gateway.backends()[1]].map(|backend| backend.live);
    let leases = leases(&mut rig, 10);
    let order: Vec<&str> = leases.iter().map(|lease| &*lease.backend).collect();
    // By ratio; where that is equal, by order of declaration.
    let expected = ["small", "large", "large", "large", "large", "small", "large", "large", "large", "large"];
    assert_eq!(order, expected);
    assert_eq!(live(&rig), [2, 8]);
    // A release that was not preceded by a lease is an error and not a zero.
    rig.complete(&leases[0]);
    assert!(rig.gateway.release(rig.now, leases[0].id).is_err());
    assert_eq!(live(&rig), [1, 8]);
}
