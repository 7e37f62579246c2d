//! Flags 1 to 13 and 32: the store, and the flow of a job through the gateway.

use libgateway::error::{Coded, JobError, SubmitError};
use libgateway::{
    AfterFailure, BackoffConfig, CancelReason, CustomerPolicy, Failure, FailureClass, GatewayConfig, JobState, Outcome,
    Priority, RateLimit, Submit, Timeouts, Usage, WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, at, flux_model, id, job, route, secs};

use crate::{JOB, deliver_too_late, gpu, running};

#[test]
fn flag01_a_model_that_nobody_serves_is_refused_at_the_door() {
    // The API and the fleet called the same model by different names, so a correct request was queued and put back, queued
    // and put back, for ever.
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux_model("gpu-1", "flux-schnell"));
    let refused = rig.gateway.submit(rig.now, job(1, "acme", SCHNELL)).unwrap_err();
    assert_eq!(refused, SubmitError::UnknownRoute { route: SCHNELL.into() });
    assert_eq!(rig.gateway.stats().queued, 0);
    rig.submit(job(1, "acme", "image/flux/flux-schnell/t2i"));
}

#[test]
fn flag02_the_queue_is_bounded_and_time_to_live_and_idempotency_are_kept() {
    // The queue grew without bound and never said 429; ttl and idempotency_key were read and ignored.
    let mut rig = Rig::with_slots(GatewayConfig::default().jobs_max(2), 1);
    let timeouts = Timeouts { queue: Some(secs(60)), ..Timeouts::NONE };
    rig.submit(job(1, "acme", DEV).timeouts(timeouts).idempotency_key("order-7").payload("a red fox"));
    let again = job(2, "acme", DEV).idempotency_key("order-7").payload("a red fox");
    assert_eq!(rig.gateway.submit(rig.now, again), Ok(JOB));
    // The key is the customer's own.
    let others = job(2, "zoo", DEV).idempotency_key("order-7").payload("a red fox");
    assert_eq!(rig.gateway.submit(rig.now, others), Ok(id(2)));
    assert_eq!(rig.gateway.submit(rig.now, job(3, "acme", DEV)).unwrap_err().name(), "full");
    rig.pass(secs(60));
    assert_eq!(rig.job(JOB).outcome, Some(Outcome::Cancelled(CancelReason::QueueTimeout)));
}

#[test]
fn flag02_what_may_be_cancelled_and_what_has_ended_are_told_apart() {
    // A job that had ended was answered as if it had never been.
    let (mut rig, lease) = running();
    assert_eq!(rig.gateway.delete(rig.now, JOB), Err(JobError::NotEnded { job: JOB, state: "running" }));
    rig.complete(&lease);
    assert_eq!(rig.gateway.cancel(rig.now, JOB), Err(JobError::Ended { job: JOB, state: "complete" }));
    assert_eq!(rig.gateway.cancel(rig.now, id(9)), Err(JobError::UnknownJob { job: id(9) }));
}

#[test]
fn flag03_an_id_stands_for_one_job_and_a_live_one_cannot_be_overwritten() {
    // Storing a job under an id that was taken reset the job that lived there, and an update could change the id inside
    // the record while it stayed under the old one.
    let (mut rig, lease) = running();
    let before = rig.job(JOB);
    let refused = rig.gateway.submit(rig.now, job(1, "zoo", SCHNELL).payload("another"));
    assert_eq!(refused, Err(SubmitError::DuplicateJob { job: JOB }));
    assert_eq!(rig.job(JOB), before);
    rig.complete(&lease);
    let refused = rig.gateway.submit(rig.now, job(1, "zoo", SCHNELL));
    assert_eq!(refused, Err(SubmitError::DuplicateJob { job: JOB }), "nor one that ended and is still known");
    assert_eq!(rig.job(JOB).id, JOB);
}

#[test]
fn flag04_ended_jobs_leave_and_their_keys_after_them() {
    // Nothing was ever evicted.
    let config = GatewayConfig::default().retain_for(secs(60)).retained_max(10).jobs_max(5);
    let config = config.idempotency_keys_max(20).idempotency_for(secs(120));
    let mut rig = Rig::with_slots(config, 1);
    for number in 0..2_000 {
        rig.checked = number % 100 == 0;
        rig.submit(job(number, "acme", DEV).idempotency_key(format!("key-{number}")));
        let lease = rig.lease();
        rig.complete(&lease);
        rig.settlements();
        rig.to(rig.now);
        assert!(rig.gateway.stats().complete <= 10);
    }
    assert!(rig.gateway.job(id(1_989)).is_none() && rig.gateway.job(id(1_990)).is_some());
    assert_eq!(rig.gateway.job_by_key("acme", "key-1979"), None);
    assert_eq!(rig.gateway.job_by_key("acme", "key-1980"), Some(id(1_980)));
    let memory = rig.gateway.memory_bytes();
    assert!(memory < 100_000, "{memory} bytes for ten jobs");
    rig.pass(secs(60));
    assert_eq!(rig.gateway.stats().complete, 0);
    assert_eq!(rig.gateway.job_by_key("acme", "key-1999"), Some(id(1_999)));
    rig.pass(secs(60));
    assert_eq!(rig.gateway.job_by_key("acme", "key-1999"), None);
}

#[test]
fn flag05_a_job_runs_once_at_a_time_and_a_retry_not_before_its_wait_is_over() {
    // Submitting put the job into the queue and started it as well; a retry was in the queue while a thread slept to
    // retry it.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 10);
    rig.submit(job(1, "acme", DEV));
    let leases = rig.leases();
    assert_eq!(leases.len(), 1);
    assert_eq!(rig.gateway.dispatch_to(rig.now, "gpu-1", 10), Ok(Vec::new()));
    let AfterFailure::Retry { at: until } = rig.fail(&leases[0], FailureClass::Timeout) else { panic!() };
    assert_eq!(until, at(1));
    assert_eq!(rig.leases().len(), 0);
    assert_eq!(rig.gateway.dispatch_to(rig.now, "gpu-1", 10), Ok(Vec::new()));
    rig.to(until);
    assert_eq!(rig.leases().len(), 1);
    assert_eq!(rig.leases().len(), 0);
    assert_eq!(rig.gateway.stats().counters.leases, 2);
}

#[test]
fn flag06_an_attempt_to_be_retried_frees_its_slot_and_its_failure_is_heard() {
    // On a retriable failure the slot leaked and the breaker heard nothing: of just the failures it is there for.
    let mut rig = Rig::with_slots(GatewayConfig::default().backoff(BackoffConfig::default().retries(100)), 1);
    rig.submit(job(1, "acme", DEV));
    for failures in 1..=4 {
        let lease = rig.lease();
        rig.fail(&lease, FailureClass::Http(503));
        assert_eq!((gpu(&rig).live, gpu(&rig).failed), (0, failures));
        assert_eq!(u64::from(gpu(&rig).breaker.consecutive_failures), failures);
        rig.pass(secs(60));
    }
    let lease = rig.lease();
    rig.fail(&lease, FailureClass::Timeout);
    assert_eq!(gpu(&rig).breaker.until, Some(rig.now + secs(60)), "the fifth in a row opens it");
}

#[test]
fn flag07_a_start_takes_one_slot_and_pays_once() {
    // The worker's path chose a backend twice: two slots were taken, one was given back. Tokens were charged twice.
    let limited = CustomerPolicy::default().rate(RateLimit::per_second(0, 10));
    let mut rig = Rig::with_slots(GatewayConfig::default().customer(limited), 5);
    let tokens = |rig: &Rig| rig.gateway.customer("acme").and_then(|customer| customer.tokens);
    rig.submit(job(1, "acme", DEV).tokens(3));
    rig.submit(job(2, "acme", DEV));
    let lease = rig.lease();
    assert_eq!((gpu(&rig).live, tokens(&rig)), (1, Some(7)));
    assert_eq!(rig.gateway.dispatch_to(rig.now, "gpu-1", 1).map(|leases| leases.len()), Ok(1));
    assert_eq!((gpu(&rig).live, tokens(&rig)), (2, Some(6)));
    // A retry is the same job: it has paid.
    rig.fail(&lease, FailureClass::Timeout);
    rig.pass(secs(1));
    rig.lease();
    assert_eq!((gpu(&rig).live, tokens(&rig)), (2, Some(6)));
}

#[test]
fn flag08_a_slot_is_free_as_soon_as_its_job_is_gone() {
    // When the job had been cancelled or deleted, the handlers of success and failure returned before the release.
    let (mut rig, lease) = running();
    rig.submit(job(2, "acme", DEV));
    rig.cancel(JOB);
    rig.gateway.delete(rig.now, JOB).unwrap();
    assert_eq!(gpu(&rig).live, 0, "at once, not when the worker says something");
    assert_eq!(rig.lease().job, id(2));
    deliver_too_late(&mut rig, &lease);
    assert_eq!(gpu(&rig).live, 1);
}

#[test]
fn flag09_a_customer_without_tokens_holds_up_nobody_and_pays_nothing_for_waiting() {
    // The wait for a token was part of taking from the queue: one throttled customer at the head held up all others. And
    // a token was spent each time no backend was found.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 2);
    let limited = CustomerPolicy::default().rate(RateLimit::per_second(1, 1));
    rig.gateway.put_customer(rig.now, "slow", limited).unwrap();
    for number in 1..=3 {
        rig.submit(job(number, "slow", DEV));
    }
    rig.submit(job(4, "zoo", DEV));
    let leased: Vec<_> = rig.leases().into_iter().map(|lease| lease.job).collect();
    assert_eq!(leased, [id(1), id(4)]);
    assert_eq!(rig.gateway.position(id(2)), Some(0), "and it keeps its place");

    let tokens = |rig: &Rig| rig.gateway.customer("slow").and_then(|customer| customer.tokens);
    rig.to(at(1));
    for _ in 0..5 {
        assert_eq!(rig.dispatch().lease(), None, "both slots are taken");
    }
    assert_eq!(tokens(&rig), Some(1));
}

#[test]
fn flag10_a_job_that_found_no_backend_keeps_its_place_and_its_state() {
    // It was put back at the end of its lane, and from the worker's path with status running.
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux_model("dev-1", "dev"));
    rig.put(flux_model("schnell-1", "schnell"));
    rig.gateway.drain_backend(rig.now, "dev-1", true).unwrap();
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", SCHNELL));
    rig.submit(job(3, "acme", DEV));
    assert_eq!(rig.lease().job, id(2));
    assert_eq!(rig.dispatch().lease(), None);
    assert_eq!((rig.state(JOB), rig.job(JOB).started), (JobState::Queued, None));
    assert_eq!((rig.gateway.position(JOB), rig.gateway.position(id(3))), (Some(0), Some(1)));
    rig.submit(job(4, "acme", DEV));
    rig.gateway.drain_backend(rig.now, "dev-1", false).unwrap();
    assert_eq!(rig.lease().job, JOB);
}

#[test]
fn flag11_one_call_after_the_other_serves_all_there_is() {
    // A cancelled job at the head made the worker sleep a second although more waited, and it worked on one job at a time.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 50);
    for number in 0..100 {
        rig.submit(job(number, "acme", DEV));
    }
    for number in 0..50 {
        rig.cancel(id(number));
    }
    let leases = rig.leases();
    assert_eq!(leases.len(), 50, "all slots at once, in the same instant");
    assert_eq!((leases[0].job, leases[49].job), (id(50), id(99)));
}

/// Whether a low job starts within `seconds` while a high one arrives each second.
fn low_job_starts(config: GatewayConfig, seconds: u64) -> Option<u64> {
    let mut rig = Rig::with_slots(config, 1);
    rig.submit(job(1, "acme", DEV).priority(Priority::Low));
    rig.submit(job(2, "acme", DEV).priority(Priority::High));
    for second in 0..seconds {
        rig.to(at(second));
        rig.submit(job(10 + u128::from(second), "acme", DEV).priority(Priority::High));
        let lease = rig.lease();
        if lease.job == id(1) {
            return Some(second);
        }
        rig.complete(&lease);
        rig.gateway.delete(rig.now, lease.job).unwrap();
        rig.settlements();
    }
    None
}

#[test]
fn flag12_a_low_job_behind_an_endless_stream_of_high_ones_starts_within_the_bound() {
    // Priority was strict and nothing aged.
    assert_eq!(low_job_starts(GatewayConfig::default(), 200), None);
    let config = GatewayConfig::default().age_after(Some(secs(20)));
    // Two lanes up after 40 s; then it has the place of a newcomer there.
    let started = low_job_starts(config, 200);
    assert!(matches!(started, Some(40..=42)), "{started:?}");
}

#[test]
fn flag13_every_end_of_a_job_has_its_instant() {
    // A failure in the worker left `completed_at` unset, and so did a cancellation.
    let ends: [fn(&mut Rig); 6] = [
        |rig| rig.cancel(JOB),
        |rig| {
            let lease = rig.lease();
            rig.complete(&lease);
        },
        |rig| {
            let lease = rig.lease();
            rig.fail(&lease, FailureClass::Backend);
        },
        |rig| {
            rig.lease();
            rig.cancel(JOB);
        },
        |rig| _ = rig.to(at(50)),
        |rig| {
            rig.lease();
            rig.to(at(50));
        },
    ];
    for (row, end) in ends.into_iter().enumerate() {
        let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
        let timeouts = Timeouts { total: Some(secs(50)), ..Timeouts::NONE };
        rig.submit(job(1, "acme", DEV).timeouts(timeouts));
        rig.to(at(7));
        assert_eq!(rig.job(JOB).finished, None);
        end(&mut rig);
        let view = rig.job(JOB);
        assert_eq!(view.finished, Some(rig.gateway.now()), "row {row}");
        assert_eq!(view.started.is_some(), [1, 2, 3, 5].contains(&row), "row {row}");
        assert_eq!(rig.settlements()[0].finished, rig.gateway.now(), "row {row}");
    }
}

#[test]
fn flag32_an_empty_subject_is_nobody() {
    // A token with an empty `sub` was a customer without a name, shared by all who had one.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    let refused = rig.gateway.submit(rig.now, Submit::new(JOB, "", route(DEV))).unwrap_err();
    assert_eq!((refused.number(), refused.field()), (201, Some("customer")));
    let refused = rig.gateway.put_customer(rig.now, "", CustomerPolicy::default()).unwrap_err();
    assert_eq!(refused.number(), 201);
    assert_eq!(rig.gateway.stats().customers, 0);
}

#[test]
fn a_waiting_job_always_has_a_reason() {
    // Nobody could say why a job did not run.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    let capped = CustomerPolicy::default().running_max(1).rate(RateLimit::per_second(1, 2));
    rig.gateway.put_customer(rig.now, "capped", capped).unwrap();
    rig.submit(job(1, "capped", DEV));
    assert_eq!(rig.gateway.explain(JOB), Some(WaitReason::Next));
    let lease = rig.lease();
    assert_eq!(rig.gateway.explain(JOB), None, "it runs");
    rig.submit(job(2, "capped", DEV).tokens(2));
    assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::CustomerRunning { running: 1 }));
    rig.submit(job(3, "zoo", DEV));
    assert_eq!(rig.gateway.explain(id(3)), Some(WaitReason::BackendsBusy));
    rig.gateway.pause(rig.now, &route(DEV)).unwrap();
    assert_eq!(rig.gateway.explain(id(3)), Some(WaitReason::Paused));
    rig.gateway.resume(rig.now, &route(DEV)).unwrap();
    let failure = Failure::new(FailureClass::Timeout, "");
    rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
    assert_eq!(rig.gateway.explain(JOB), Some(WaitReason::NotBefore { until: at(1), failed_on: vec!["gpu-1".into()] }));
    assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::CustomerRate { until: Some(at(1)) }));
    rig.submit(job(4, "zoo", DEV));
    assert_eq!(rig.gateway.explain(id(4)), Some(WaitReason::Behind { jobs: 3 }));
    assert_eq!(rig.gateway.explain(id(9)), None);
}
