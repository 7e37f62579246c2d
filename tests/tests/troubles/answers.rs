//! Results that reach who asked, and submissions that come again.

use std::sync::Barrier;

use libgateway::error::{JobError, LeaseError, SubmitError};
use libgateway::{
    AfterFailure, CancelReason, CustomerPolicy, Failure, FailureClass, GatewayConfig, JobState, Outcome, Output,
    RateLimit, SharedGateway, Submit, Timeouts, Usage,
};
use libgateway_tests::kit::{DEV, Rig, START, at, before, id, job, route, secs};

fn one_slot(config: GatewayConfig) -> Rig {
    Rig::with_slots(config, 1)
}

fn keyed(number: u128) -> Submit<'static> {
    job(number, "acme", DEV).idempotency_key("order-1").payload("a red fox")
}

fn class_of(outcome: &Outcome) -> Option<FailureClass> {
    match outcome {
        Outcome::Error(failure) => Some(failure.class),
        _ => None,
    }
}

// --- Results ---

#[test]
fn who_asks_for_a_result_that_is_gone_or_never_was_is_told_so_at_the_first_look() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.complete(&lease);
    rig.gateway.delete(rig.now, id(1)).unwrap();
    let now = rig.now;
    let shared = SharedGateway::new(rig.gateway, move || now);
    for unknown in [1, 2] {
        // Without an end: a wait for it would last for ever.
        assert_eq!(shared.outcome(id(unknown), None), Ok(None));
    }
    assert_eq!((shared.attempts().unwrap(), shared.waiting().unwrap()), (2, 0));
}

#[test]
fn a_job_that_nobody_knows_is_told_from_one_that_waits() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    let lease = rig.lease();
    for (number, state) in [(1, Some(JobState::Running)), (2, Some(JobState::Queued)), (3, None)] {
        assert_eq!(rig.gateway.job(id(number)).map(|job| job.state), state);
        assert_eq!(rig.gateway.is_known(id(number)), state.is_some());
        assert_eq!(rig.gateway.explain(id(number)).is_some(), state == Some(JobState::Queued));
    }
    // Nor is giving up what is not there, or is over, passed over in silence.
    assert_eq!(rig.gateway.cancel(rig.now, id(3)), Err(JobError::UnknownJob { job: id(3) }));
    rig.complete(&lease);
    assert_eq!(rig.gateway.cancel(rig.now, id(1)), Err(JobError::Ended { job: id(1), state: "complete" }));
    rig.cancel(id(2));
    assert_eq!(rig.gateway.cancel(rig.now, id(2)), Err(JobError::Ended { job: id(2), state: "cancelled" }));
    assert_eq!(rig.gateway.outcome(id(2)), Some(&Outcome::Cancelled(CancelReason::Requested)));
    assert_eq!(rig.gateway.outcome(id(1)), Some(&Outcome::Complete(Output::url("https://cdn/x.webp"))));
}

#[test]
fn a_failure_that_is_tried_again_is_no_result() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV));
    rig.gateway.hold_outcome(id(1));
    for wait in [1, 2] {
        let lease = rig.lease();
        assert!(matches!(rig.fail(&lease, FailureClass::Http(503)), AfterFailure::Retry { .. }));
        assert_eq!((rig.gateway.outcome(id(1)), rig.state(id(1))), (None, JobState::Queued));
        rig.pass(secs(wait));
        assert_eq!(rig.gateway.outcome(id(1)), None);
    }
    let lease = rig.lease();
    rig.complete(&lease);
    // What came of the earlier attempts is no part of it.
    assert_eq!(rig.gateway.outcome(id(1)), Some(&Outcome::Complete(Output::url("https://cdn/x.webp"))));
}

#[test]
fn a_job_over_its_time_says_so_to_who_waits_though_nothing_is_kept() {
    let timeouts = Timeouts { run: Some(secs(30)), ..Timeouts::NONE };
    let mut rig = one_slot(GatewayConfig::default().timeouts(timeouts).retained_max(0));
    rig.submit(job(1, "acme", DEV));
    rig.gateway.hold_outcome(id(1));
    let mut late = Vec::new();
    while rig.gateway.is_known(id(1)) {
        late.extend(rig.leases());
        let due = rig.gateway.next_deadline().unwrap();
        rig.to(due);
    }
    let outcome = rig.gateway.outcome(id(1)).unwrap().clone();
    assert_eq!(class_of(&outcome), Some(FailureClass::Timeout));
    for lease in late {
        let word = rig.gateway.complete(rig.now, lease.id, Output::url("late.webp"), Usage::unmeasured());
        assert_eq!(word, Err(LeaseError::Superseded { lease: lease.id.as_u64() }));
    }
    assert_eq!(rig.gateway.outcome(id(1)), Some(&outcome));
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn a_result_that_cannot_be_kept_costs_neither_the_lease_nor_the_bill() {
    let mut rig = one_slot(GatewayConfig::default().output_len_max(10));
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    for output in [Output::inline("12345678901"), Output::url("12345678901"), Output::url("")] {
        let refused = rig.gateway.complete(rig.now, lease.id, output, Usage::unmeasured());
        assert!(matches!(refused, Err(LeaseError::Input(_))), "{refused:?}");
        rig.check();
    }
    let long = Failure::new(FailureClass::Backend, "12345678901");
    assert!(rig.gateway.fail(rig.now, lease.id, long, Usage::unmeasured()).is_err());
    assert_eq!((rig.state(id(1)), rig.settlements().len()), (JobState::Running, 0));
    rig.gateway.complete(rig.now, lease.id, Output::inline("1234567890"), Usage::unmeasured()).unwrap();
    assert_eq!(rig.gateway.outcome(id(1)), Some(&Outcome::Complete(Output::inline("1234567890"))));
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn what_failed_is_kept_as_long_as_what_delivered() {
    for kept in [0, 1, 600] {
        let mut rig = one_slot(GatewayConfig::default().retain_for(secs(kept)));
        for number in [1, 2, 3] {
            rig.submit(job(number, "acme", DEV));
        }
        let lease = rig.lease();
        rig.complete(&lease);
        let lease = rig.lease();
        rig.fail(&lease, FailureClass::Rejected);
        rig.cancel(id(3));
        let known = |rig: &Rig| [1, 2, 3].map(|number| rig.gateway.is_known(id(number)));
        if kept > 0 {
            rig.to(before(at(kept)));
            assert_eq!(known(&rig), [true; 3]);
        }
        rig.to(at(kept));
        assert_eq!(known(&rig), [false; 3]);
    }
}

// --- What comes again ---

#[test]
fn a_submission_that_comes_again_is_answered_although_no_new_one_would_be() {
    let policy = |burst| CustomerPolicy::default().queued_max(1).rate(RateLimit::per_second(1, burst));
    let mut rig = one_slot(GatewayConfig::default().customer(policy(5)).jobs_max(1).customers_max(1).routes_max(1));
    rig.submit(keyed(1).tokens(5));
    let answered = |rig: &mut Rig| {
        // By the same id, and by one that the client made anew.
        for number in [1, 2] {
            assert_eq!(rig.gateway.submit(rig.now, keyed(number).tokens(5)), Ok(id(1)));
            rig.check();
        }
    };
    // Its customer may have no more, and there is no more room at all.
    assert!(matches!(rig.gateway.submit(rig.now, job(2, "acme", DEV)), Err(SubmitError::Full(_))));
    answered(&mut rig);
    // The plan no longer allows such a job, its route rests, and nobody serves it any more.
    rig.gateway.put_customer(rig.now, "acme", policy(4)).unwrap();
    answered(&mut rig);
    rig.gateway.pause(rig.now, &route(DEV)).unwrap();
    answered(&mut rig);
    rig.gateway.remove_backend(rig.now, "gpu-1").unwrap();
    answered(&mut rig);
    rig.cancel(id(1));
    answered(&mut rig);
    rig.pass(secs(3_600));
    assert!(!rig.gateway.is_known(id(1)));
    answered(&mut rig);
    assert_eq!(rig.gateway.stats().counters.submitted, 1);
}

#[test]
fn of_many_that_submit_under_one_key_at_once_one_makes_the_job() {
    let rig = one_slot(GatewayConfig::default());
    let shared = SharedGateway::new(rig.gateway, || START);
    let start = Barrier::new(20);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let submit = |number| {
            let (shared, start) = (shared.clone(), &start);
            scope.spawn(move || {
                start.wait();
                shared.with(|gateway, now| gateway.submit(now, keyed(number))).unwrap().unwrap()
            })
        };
        let threads: Vec<_> = (1..=20).map(submit).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let gateway = shared.into_inner().unwrap();
    let known: Vec<_> = (1..=20).filter(|number| gateway.is_known(id(*number))).map(id).collect();
    assert_eq!((known, gateway.stats().counters.submitted), (vec![answers[0]], 1));
}

#[test]
fn a_key_that_is_free_after_a_failure_is_free_at_once_and_the_old_attempt_harms_nobody() {
    // Given up for dead, the first worker is still at work when the same order is submitted anew.
    let config = GatewayConfig::default().losses_max(0).lease_for(secs(30)).idempotency_free_failed(true);
    let mut rig = one_slot(config);
    rig.submit(keyed(1));
    let first = rig.lease();
    rig.to(before(at(30)));
    assert_eq!(rig.gateway.submit(rig.now, keyed(2)), Ok(id(1)), "it lives");
    rig.to(at(30));
    assert_eq!((rig.state(id(1)), rig.gateway.job_by_key("acme", "order-1")), (JobState::Error, None));
    assert_eq!(rig.gateway.submit(rig.now, keyed(2)), Ok(id(2)), "although the record of the first is kept");
    let second = rig.lease();
    assert_eq!(second.job, id(2));
    let late = rig.gateway.complete(rig.now, first.id, Output::url("late.webp"), Usage::unmeasured());
    assert!(late.is_err());
    assert_eq!((rig.state(id(1)), rig.state(id(2))), (JobState::Error, JobState::Running));
    rig.complete(&second);
    // What delivered keeps its key, and a cancelled one does here, too.
    assert_eq!(rig.gateway.submit(rig.now, keyed(3)), Ok(id(2)));
    rig.submit(keyed(4).idempotency_key("order-2"));
    rig.cancel(id(4));
    assert_eq!(rig.gateway.submit(rig.now, keyed(5).idempotency_key("order-2")), Ok(id(4)));
}

#[test]
fn a_key_may_be_free_long_before_its_jobs_record_leaves() {
    let mut rig = one_slot(GatewayConfig::default().idempotency_for(secs(10)).retain_for(secs(1_000)));
    rig.submit(keyed(1));
    let lease = rig.lease();
    rig.complete(&lease);
    rig.to(before(at(10)));
    assert_eq!(rig.gateway.submit(rig.now, keyed(2)), Ok(id(1)));
    rig.to(at(10));
    // The id of a job that is known is still taken; another one is not.
    assert_eq!(rig.gateway.submit(rig.now, keyed(1)), Err(SubmitError::DuplicateJob { job: id(1) }));
    assert_eq!(rig.gateway.submit(rig.now, keyed(2)), Ok(id(2)));
    assert_eq!((rig.state(id(1)), rig.state(id(2))), (JobState::Complete, JobState::Queued));
    rig.check();
}

#[test]
fn a_key_with_another_body_is_refused_and_leaves_everything_as_it_was() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(keyed(1));
    let digest = rig.gateway.digest();
    let others = [
        keyed(2).payload("a blue fox"),
        keyed(2).priority(libgateway::Priority::High),
        Submit::new(id(2), "acme", route("image/flux/dev/i2i")).idempotency_key("order-1").payload("a red fox"),
        Submit::new(id(2), "acme", route("image/none/dev/t2i")).idempotency_key("order-1").payload("a red fox"),
    ];
    for other in others {
        assert_eq!(rig.gateway.submit(rig.now, other), Err(SubmitError::IdempotencyConflict { job: id(1) }));
        assert_eq!(rig.gateway.digest(), digest);
    }
    // What it may cost and how long it may take are no part of what is asked for.
    let timeouts = Timeouts { total: Some(secs(9)), ..Timeouts::NONE };
    assert_eq!(rig.gateway.submit(rig.now, keyed(2).tokens(7).timeouts(timeouts)), Ok(id(1)));
    assert_eq!(rig.gateway.digest(), digest);
}

#[test]
fn a_wild_reading_forgets_no_key_though_no_job_and_no_record_is_left() {
    let mut rig = Rig::with_slots(GatewayConfig::default().retained_max(0), 1);
    rig.submit(job(1, "acme", DEV).idempotency_key("k"));
    let lease = rig.lease();
    rig.complete(&lease);
    assert!(!rig.gateway.is_known(id(1)));
    let wild = rig.now + secs(2 * 86_400);
    rig.gateway.advance(wild);
    rig.gateway.advance(rig.now + secs(1));
    let again = rig.gateway.submit(rig.now + secs(1), job(2, "acme", DEV).idempotency_key("k")).unwrap();
    assert_eq!(again, id(1));
    // And what the lease used may still be told.
    let usage = libgateway::Usage::gpu(libgateway::GpuNanos::from_secs(0), "GPU-1");
    assert!(rig.gateway.correct_usage(rig.now + secs(1), lease.id, usage).is_ok());
}
