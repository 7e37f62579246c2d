//! Bugs that once were: each test opens with its story.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

use std::num::NonZeroU32;

use libgateway::error::{Coded, FleetError};
use libgateway::{
    Abort, BreakerState, CircuitBreakerConfig, FailureClass, ForcedState, Gateway, GatewayConfig, GpuNanos, JobState,
    Priority, RateRule, Span, Timeouts, WaitReason, Watch, WatchEvent, WatchStep,
};
use libgateway_tests::kit::{DEV, Rig, WAN, after, at, flux, flux_model, id, job, secs, wan};

#[test]
fn a_submission_taken_back_is_no_longer_counted_for_its_customer() {
    // Rolling a submission back removed the job and forgot the customer's count of waiting jobs: each aborted transaction
    // brought the customer nearer to its `queued_max`, for good.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let before = rig.gateway.digest();
    let aborted: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
        tx.submit(job(2, "acme", DEV))?;
        Err(Abort::Retry { until: None })
    });
    assert!(aborted.is_err());
    assert_eq!(rig.gateway.customer("acme").map(|customer| customer.queued), Some(1));
    assert_eq!(rig.gateway.digest(), before);
    assert_eq!(rig.gateway.job(id(2)), None);
    rig.check();
}

#[test]
fn a_backend_that_changes_its_models_is_no_longer_waited_for_by_its_old_routes() {
    // A backend that moved to models which others served already left its old group marked as free. The next dispatch of
    // a job of the old models then never ended: it found the group, found no backend in it, and looked again.
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux_model("dev-1", "dev"));
    rig.put(flux_model("dev-2", "dev"));
    rig.put(flux_model("schnell-1", "schnell"));
    rig.submit(job(1, "acme", DEV));
    assert_eq!(rig.gateway.dispatch_to(rig.now, "dev-2", 1).unwrap().len(), 1);
    rig.submit(job(2, "acme", DEV));

    rig.put(flux_model("dev-1", "schnell"));
    assert_eq!(rig.wait(), Some(rig.now + GatewayConfig::default().lease_for));
    assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::BackendsBusy));
}

#[test]
fn a_job_may_lose_its_worker_as_often_as_can_be_counted() {
    // With a `losses_max` of 65 535, the 65 536th loss of one job overflowed its count and with it the process.
    let deaf = CircuitBreakerConfig::default().failure_rate_rule(RateRule::Above).failure_rate_ppm(1_000_000);
    let config = GatewayConfig::default().losses_max(1_000_000).breaker(deaf.consecutive_failures(None));
    let mut rig = Rig::with_slots(config.lease_for(Span::from_nanos(1)), 1);
    rig.checked = false;
    rig.submit(job(1, "acme", DEV));
    for _ in 0..65_537 {
        rig.lease();
        rig.pass(Span::from_nanos(1));
    }
    assert_eq!(rig.gateway.stats().counters.lost, 65_537);
    assert_eq!(rig.state(id(1)), JobState::Queued);
    rig.gateway.check_invariants();
}

#[test]
fn a_gateway_at_the_end_of_virtual_time_can_be_restored() {
    // Some four thousand jobs of the longest estimate brought a customer to the end of virtual time, and the snapshot of such
    // a gateway was refused as corrupt: its next job would start where its latest did.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 5_000);
    rig.checked = false;
    for number in 0..4_200 {
        rig.submit(job(number, "acme", DEV).estimate(GpuNanos::from_nanos(u64::MAX)));
    }
    for number in 0..4_150 {
        assert_eq!(rig.lease().job, id(number));
    }
    let lease = rig.lease();
    rig.complete(&lease);
    rig.submit(job(5_000, "late", DEV));
    rig.gateway.check_invariants();
    let mut copy = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    copy.check_invariants();
    assert_eq!(copy.digest(), rig.gateway.digest());
    let order: Vec<_> = std::iter::from_fn(|| copy.dispatch(rig.now).lease()).map(|lease| lease.job).collect();
    assert_eq!(order.first(), Some(&id(5_000)), "who has nothing that runs goes first");
    assert_eq!(order.len(), 50);
}

#[test]
fn a_record_that_came_again_at_once_is_kept_once() {
    // A job that was deleted, submitted under the same id and cancelled again, all in one instant and behind another ended
    // job, stood twice among the ended ones. The snapshot of such a gateway was refused as corrupt.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    for number in [1, 2] {
        rig.submit(job(number, "acme", DEV));
        rig.cancel(id(number));
    }
    rig.gateway.delete(rig.now, id(2)).unwrap();
    rig.submit(job(2, "acme", DEV));
    rig.cancel(id(2));
    let copy = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    assert_eq!(copy.digest(), rig.gateway.digest());
    rig.pass(GatewayConfig::default().retain_for);
    assert_eq!(rig.gateway.stats().counters.forgotten, 3);
}

#[test]
fn what_is_kept_without_end_is_not_waited_for() {
    // Records kept for ever leave at the end of time, and `next_deadline` named that instant in place of none.
    let mut rig = Rig::with_slots(GatewayConfig::default().retain_for(Span::MAX).customer_idle(Span::MAX), 1);
    rig.submit(job(1, "acme", DEV));
    rig.cancel(id(1));
    assert_eq!(rig.gateway.next_deadline(), None);
    assert_eq!(rig.wait(), None);
}

#[test]
fn a_family_that_nobody_serves_or_asks_for_makes_room_for_another() {
    // Families were counted against `families_max` and never forgotten: a fleet that moved on from model family to model
    // family was full one day, whatever it still served.
    let mut rig = Rig::new(GatewayConfig::default().families_max(1));
    rig.put(flux("gpu-1"));
    rig.submit(job(1, "acme", DEV));
    assert!(matches!(rig.gateway.put_backend(rig.now, wan("gpu-2")), Err(FleetError::Full(_))));

    // As long as a job knows the family, it stays.
    rig.gateway.remove_backend(rig.now, "gpu-1").unwrap();
    assert!(matches!(rig.gateway.put_backend(rig.now, wan("gpu-2")), Err(FleetError::Full(_))));
    rig.cancel(id(1));
    rig.settlements();
    rig.gateway.delete(rig.now, id(1)).unwrap();
    rig.put(wan("gpu-2"));
    rig.submit(job(2, "acme", WAN));
    assert_eq!(rig.lease().job, id(2));

    // It takes the number of the one that went, and nothing of its virtual time.
    let copy = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    assert_eq!(copy.digest(), rig.gateway.digest());
}

#[test]
fn a_breaker_held_until_an_instant_that_has_passed_is_refused() {
    // The breaker ignored such a command and the gateway answered that it was done: an operator who meant to shut a
    // backend off, with a clock a little behind, was told so and was not obeyed.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.pass(secs(10));
    let now = rig.now;
    let digest = rig.gateway.digest();
    let refused = rig.gateway.force_breaker(now, "gpu-1", Some(ForcedState::Open), Some(now)).unwrap_err();
    assert_eq!((refused.number(), refused.field()), (204, Some("until")));
    assert_eq!(rig.gateway.digest(), digest);
    rig.gateway.force_breaker(now, "gpu-1", Some(ForcedState::Open), Some(after(now))).unwrap();
    assert_eq!(rig.gateway.backend("gpu-1").map(|gpu| gpu.breaker.state), Some(BreakerState::Open));
    rig.check();
}

#[test]
fn a_lane_climbed_is_not_told_to_a_watcher_whose_position_stays() {
    // Ageing counted as a change of the job, so a watcher was told the same position twice.
    let mut rig = Rig::with_slots(GatewayConfig::default().age_after(Some(secs(5))), 1);
    rig.submit(job(1, "acme", DEV).priority(Priority::Low));
    let mut watch = Watch::new(id(1));
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Queued { position: 0 }));
    rig.pass(secs(5));
    assert_eq!(rig.gateway.stats().counters.aged, 1);
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
}

#[test]
fn how_long_a_customer_idles_does_not_depend_on_who_calls_when() {
    // What nobody refers to any more was looked after at the end of the command that handled its last record, however
    // late that came: two gateways with the same commands differed when one host called at deadlines and the other not.
    let config = GatewayConfig::default().retain_for(secs(10)).customer_idle(secs(60));
    let forgotten = |calls: &[u64]| {
        let mut rig = Rig::with_slots(config.clone(), 1);
        rig.submit(job(1, "acme", DEV));
        rig.cancel(id(1));
        rig.settlements();
        calls.iter().for_each(|call| _ = rig.to(at(*call)));
        rig.gateway.next_deadline()
    };
    assert_eq!(forgotten(&[10, 30]), Some(at(70)));
    assert_eq!(forgotten(&[30]), Some(at(70)));
    assert_eq!(forgotten(&[70]), None);
}

#[test]
fn a_breaker_that_has_not_had_its_turn_keeps_its_backend_shut_after_a_restart_too() {
    // While more was due than one command handles, a backend whose open time was over was still shut for the gateway that
    // waited for that deadline's turn, and open for one made from its snapshot: the copy leased a job at once, and the two
    // went apart for good.
    let breaker = CircuitBreakerConfig::default().consecutive_failures(NonZeroU32::new(1)).open_for(secs(10));
    let mut rig = Rig::with_slots(GatewayConfig::default().breaker(breaker).due_max(1), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.fail(&lease, FailureClass::Backend);
    let timeouts = Timeouts { queue: Some(secs(10)), ..Timeouts::NONE };
    for number in [2, 3, 4] {
        rig.submit(job(number, "acme", DEV).timeouts(timeouts));
    }
    rig.submit(job(5, "acme", DEV));

    // Three jobs time out before it is the breaker's turn.
    assert!(rig.to(at(10)).more);
    let mut copy = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    for expected in [None, None, Some(id(5))] {
        assert_eq!(rig.dispatch().lease().map(|lease| lease.job), expected);
        assert_eq!(copy.dispatch(at(10)).lease().map(|lease| lease.job), expected);
        assert_eq!(copy.digest(), rig.gateway.digest());
    }
}
