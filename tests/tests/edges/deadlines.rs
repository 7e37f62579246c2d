//! The clocks of breakers, customers, records and settlements.

use std::num::NonZeroU32;

use libgateway::error::OutboxError;
use libgateway::{
    BreakerState, CircuitBreakerConfig, CustomerPolicy, FailureClass, ForcedState, JobState, RateLimit, Span,
    WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, at, before, id, job, secs};

use crate::{edge, quiet};

fn breaker(rig: &Rig) -> BreakerState {
    rig.gateway.backend("gpu-1").unwrap().breaker.state
}

#[test]
fn a_breaker_lets_its_probe_through_exactly_at_the_end_of_its_open_time() {
    let config = CircuitBreakerConfig::default().consecutive_failures(NonZeroU32::new(1)).open_for(secs(30));
    let mut rig = Rig::with_slots(quiet().breaker(config), 4);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    rig.submit(job(3, "acme", DEV));
    let lease = rig.lease();
    rig.fail(&lease, FailureClass::Backend);
    assert_eq!(rig.wait(), Some(at(30)));
    assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::BackendsBusy));
    edge(&mut rig, at(30), |rig| breaker(rig) == BreakerState::HalfOpen);
    let probe = rig.lease();
    assert!(probe.probe);
    assert_eq!(rig.wait(), None, "one probe at a time");
    // The second open time is twice as long.
    rig.to(at(32));
    rig.fail(&probe, FailureClass::Backend);
    edge(&mut rig, at(92), |rig| breaker(rig) == BreakerState::HalfOpen);
}

#[test]
fn a_breaker_held_open_is_let_go_of_exactly_at_its_instant() {
    let mut rig = Rig::with_slots(quiet(), 4);
    rig.submit(job(1, "acme", DEV));
    rig.gateway.force_breaker(rig.now, "gpu-1", Some(ForcedState::Open), Some(at(7))).unwrap();
    assert_eq!(rig.wait(), Some(at(7)));
    edge(&mut rig, at(7), |rig| breaker(rig) == BreakerState::HalfOpen);
    assert!(rig.lease().probe);

    // Held closed, it stays closed after its time as well, but opens again for failures.
    let mut rig = Rig::with_slots(quiet(), 9);
    rig.gateway.force_breaker(rig.now, "gpu-1", Some(ForcedState::Closed), Some(at(7))).unwrap();
    edge(&mut rig, at(7), |rig| !rig.gateway.backend("gpu-1").unwrap().breaker.forced);
    assert_eq!(breaker(&rig), BreakerState::Closed);
    // Held without end, there is nothing to wait for.
    rig.gateway.force_breaker(rig.now, "gpu-1", Some(ForcedState::Open), None).unwrap();
    assert_eq!(rig.gateway.next_deadline(), None);
}

#[test]
fn a_record_leaves_exactly_when_it_was_kept_long_enough() {
    let mut rig = Rig::with_slots(quiet().retain_for(secs(3_600)), 1);
    rig.submit(job(1, "acme", DEV).idempotency_key("key"));
    rig.to(at(5));
    rig.cancel(id(1));
    edge(&mut rig, at(3_605), |rig| rig.gateway.job(id(1)).is_none());
    assert_eq!(rig.gateway.job_by_key("acme", "key"), Some(id(1)), "its key lasts longer");
    assert_eq!(rig.settlements().len(), 1, "its settlement does not");
}

#[test]
fn an_idle_customer_is_forgotten_exactly_after_its_time() {
    let mut rig = Rig::with_slots(quiet().customer_idle(secs(600)), 1);
    rig.submit(job(1, "acme", DEV));
    rig.cancel(id(1));
    rig.gateway.delete(rig.now, id(1)).unwrap();
    assert_eq!(rig.gateway.next_deadline(), None, "its settlement still names it");
    rig.to(at(10));
    rig.settlements();
    edge(&mut rig, at(610), |rig| rig.gateway.customer("acme").is_none());
}

#[test]
fn an_idle_customer_is_not_forgotten_before_its_tokens_are_full_again() {
    // Whoever empties his bucket, waits to be forgotten and comes again would have a full one.
    let rate = RateLimit::new(1, secs(100), 9).unwrap();
    let mut rig = Rig::with_slots(quiet().customer_idle(secs(600)).customer(CustomerPolicy::default().rate(rate)), 1);
    rig.submit(job(1, "acme", DEV).tokens(9));
    let lease = rig.lease();
    rig.complete(&lease);
    rig.gateway.delete(rig.now, id(1)).unwrap();
    rig.settlements();
    rig.to(at(600));
    assert_eq!(rig.gateway.customer("acme").and_then(|customer| customer.tokens), Some(6));
    edge(&mut rig, at(900), |rig| rig.gateway.customer("acme").is_none());
}

#[test]
fn a_customer_that_comes_back_in_time_is_not_forgotten() {
    let mut rig = Rig::with_slots(quiet().customer_idle(secs(600)), 1);
    for number in 1..=2 {
        rig.submit(job(number, "acme", DEV));
        rig.cancel(id(number));
        rig.gateway.delete(rig.now, id(number)).unwrap();
        rig.settlements();
        rig.to(before(at(600)));
    }
    edge(&mut rig, before(at(600)) + secs(600), |rig| rig.gateway.customer("acme").is_none());
    // One with a policy of its own never is.
    rig.gateway.put_customer(rig.now, "acme", CustomerPolicy::default()).unwrap();
    assert_eq!(rig.gateway.next_deadline(), None);
    rig.gateway.remove_customer(rig.now, "acme").unwrap();
    let idle = rig.now + secs(600);
    edge(&mut rig, idle, |rig| rig.gateway.customer("acme").is_none());
}

#[test]
fn a_batch_of_settlements_returns_exactly_when_its_hold_is_over() {
    let mut rig = Rig::with_slots(quiet().settle_within(secs(60)), 1);
    rig.submit(job(1, "acme", DEV));
    rig.cancel(id(1));
    let taken = rig.gateway.take_settlements(rig.now, 10).unwrap();
    assert_eq!(rig.gateway.take_settlements(rig.now, 10), None, "all are out");
    assert_eq!(rig.gateway.next_deadline(), Some(at(60)));
    let mut early = libgateway::Gateway::replica(&rig.gateway.snapshot()).unwrap();
    assert_eq!(early.confirm_settlements(before(at(60)), taken.batch), Ok(1));

    let late = rig.gateway.confirm_settlements(at(60), taken.batch);
    assert_eq!(late, Err(OutboxError::BatchSuperseded { batch: taken.batch.id }));
    rig.now = at(60);
    let again = rig.gateway.take_settlements(rig.now, 10).unwrap();
    assert_eq!(again.settlements, taken.settlements);
    assert!(again.batch.id > taken.batch.id);
    assert_eq!(rig.gateway.confirm_settlements(rig.now, again.batch), Ok(1));
    assert_eq!(rig.gateway.confirm_settlements(rig.now, again.batch), Ok(0), "twice is harmless");
}

#[test]
fn two_deadlines_of_one_instant_are_both_handled_at_it() {
    let mut rig = Rig::with_slots(quiet().retain_for(secs(10)).customer_idle(secs(10)), 1);
    rig.submit(job(1, "acme", DEV));
    rig.cancel(id(1));
    rig.submit(job(2, "zoo", DEV));
    rig.cancel(id(2));
    let advance = rig.to(at(10));
    assert_eq!((advance.handled, advance.more, advance.next_deadline), (2, false, None));
    assert_eq!(rig.gateway.stats().counters.forgotten, 2);
    assert_eq!((rig.gateway.job(id(1)), rig.gateway.job(id(2))), (None, None));
}

#[test]
fn a_wait_names_the_first_of_many_instants() {
    let rate = RateLimit::new(1, secs(7), 1).unwrap();
    let config = quiet().lease_for(secs(300)).customer(CustomerPolicy::default().rate(rate));
    let mut rig = Rig::with_slots(config, 9);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    rig.to(at(2));
    rig.submit(job(3, "zoo", DEV));
    rig.submit(job(4, "zoo", DEV));
    assert_eq!(rig.leases().len(), 2);
    // Each customer's bucket runs from when it was first seen full: from its first start.
    assert_eq!(rig.wait(), Some(at(9)));
    rig.to(at(9));
    assert_eq!(rig.leases().len(), 2);
    assert_eq!(rig.wait(), Some(at(302)), "the first lease");
    assert_eq!(rig.state(id(2)), JobState::Running);
    assert_eq!(rig.gateway.customer("zoo").and_then(|customer| customer.tokens), Some(0));
    assert_eq!(rig.wait().map(|until| until.since(rig.now)), Some(Span::from_secs(293)));
}
