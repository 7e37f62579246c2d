//! B7 to B16: cancelling, and what must not come back.

use libgateway::error::{JobError, LeaseError};
use libgateway::{
    CancelReason, Failure, FailureClass, ForcedState, GatewayConfig, JobState, Outcome, Output, Timeouts, Usage,
    WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, flux_model, id, job, secs};

use crate::{JOB, deliver_too_late, gpu, restarted, running};

const CANCELLED: Outcome = Outcome::Cancelled(CancelReason::Requested);

#[test]
fn b07_a_job_cancelled_while_it_waits_for_its_retry_is_not_retried() {
    // The retry thread slept and then ran its job, which had been cancelled in the meantime.
    let (mut rig, lease) = running();
    rig.fail(&lease, FailureClass::Timeout);
    rig.cancel(JOB);
    assert_eq!(rig.job(JOB).outcome, Some(CANCELLED));
    rig.pass(secs(10));
    assert_eq!(rig.dispatch().lease(), None);
    assert_eq!((rig.state(JOB), rig.gateway.stats().counters.leases), (JobState::Cancelled, 1));
}

#[test]
fn b08_a_job_cancelled_while_it_ran_does_not_return_to_the_queue_when_its_attempt_fails() {
    let (mut rig, lease) = running();
    rig.cancel(JOB);
    let failure = Failure::new(FailureClass::Timeout, "cut off");
    let late = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured());
    assert_eq!(late, Err(LeaseError::Superseded { lease: lease.id.as_u64() }));
    rig.pass(secs(60));
    assert_eq!((rig.gateway.stats().queued, rig.dispatch().lease()), (0, None));
    assert_eq!((rig.state(JOB), rig.job(JOB).attempts), (JobState::Cancelled, 0));
}

#[test]
fn b09_a_late_success_does_not_overwrite_a_cancellation() {
    let (mut rig, lease) = running();
    rig.cancel(JOB);
    deliver_too_late(&mut rig, &lease);
    assert_eq!(rig.job(JOB).outcome, Some(CANCELLED));
    assert_eq!(rig.gateway.stats().counters.completed, 0);
    let settlements = rig.settlements();
    assert_eq!(settlements.len(), 1, "it is settled once, as what it is");
    assert_eq!(settlements[0].state, JobState::Cancelled);
}

#[test]
fn b10_a_late_failure_does_not_overwrite_a_cancellation() {
    let (mut rig, lease) = running();
    rig.cancel(JOB);
    let ended = rig.job(JOB);
    rig.pass(secs(1));
    for class in [FailureClass::Rejected, FailureClass::Lost, FailureClass::Http(500)] {
        let late = rig.gateway.fail(rig.now, lease.id, Failure::new(class, "late"), Usage::unmeasured());
        assert_eq!(late, Err(LeaseError::Superseded { lease: lease.id.as_u64() }));
    }
    assert_eq!(rig.job(JOB), ended, "neither state nor failure nor the instant of its end");
}

#[test]
fn b11_a_cancelled_job_is_never_handed_out() {
    // The queue held copies: a job cancelled in the store was still taken from its lane and run.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 9);
    for number in 1..=3 {
        rig.submit(job(number, "acme", DEV));
    }
    rig.cancel(id(1));
    rig.cancel(id(3));
    let leased: Vec<_> = rig.leases().into_iter().map(|lease| lease.job).collect();
    assert_eq!(leased, [id(2)], "the first dispatch already gives the next one");
}

#[test]
fn b12_a_backend_hears_only_of_results_that_counted() {
    // A result for a job that was gone still counted as a success of the backend and released its slot a second time.
    let (mut rig, lease) = running();
    rig.cancel(JOB);
    rig.submit(job(2, "acme", DEV));
    let other = rig.lease();
    let before = gpu(&rig);
    assert_eq!((before.live, before.completed, before.failed), (1, 0, 0));
    deliver_too_late(&mut rig, &lease);
    let failure = Failure::new(FailureClass::Backend, "late");
    rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap_err();
    assert_eq!(gpu(&rig), before, "neither its slot nor its counts nor its breaker");
    rig.complete(&other);
    assert_eq!((gpu(&rig).live, gpu(&rig).completed, gpu(&rig).breaker.successes_total), (0, 1, 1));
}

#[test]
fn b13_a_cancelled_job_leaves_its_lane_and_the_count_of_those_that_wait() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    for number in 1..=3 {
        rig.submit(job(number, "acme", DEV));
    }
    rig.cancel(id(2));
    assert_eq!(rig.gateway.stats().queued, 2);
    assert_eq!(rig.gateway.customer("acme").map(|customer| customer.queued), Some(2));
    let positions = [1, 2, 3].map(|number| rig.gateway.position(id(number)));
    assert_eq!(positions, [Some(0), None, Some(1)]);
    rig.cancel(id(1));
    rig.cancel(id(3));
    assert_eq!((rig.gateway.stats().queued, rig.gateway.stats().cancelled), (0, 3));
}

#[test]
fn b14_cancelling_says_whether_it_cancelled() {
    // It answered true for jobs that had ended or never were.
    let (mut rig, lease) = running();
    rig.submit(job(2, "acme", DEV));
    assert_eq!(rig.gateway.cancel(rig.now, id(2)), Ok(()));
    assert_eq!(rig.gateway.cancel(rig.now, id(2)), Err(JobError::Ended { job: id(2), state: "cancelled" }));
    rig.complete(&lease);
    assert_eq!(rig.gateway.cancel(rig.now, JOB), Err(JobError::Ended { job: JOB, state: "complete" }));
    assert_eq!(rig.state(JOB), JobState::Complete);
    assert_eq!(rig.gateway.stats().counters.cancelled, 1);
}

#[test]
fn b15_a_job_without_a_backend_waits_on_unless_somebody_gave_it_up() {
    // It was taken from the queue first and put back if no backend was found, cancelled or not.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    rig.gateway.force_breaker(rig.now, "gpu-1", Some(ForcedState::Open), None).unwrap();
    for _ in 0..3 {
        assert_eq!(rig.dispatch().lease(), None);
    }
    assert_eq!((rig.gateway.position(JOB), rig.gateway.position(id(2))), (Some(0), Some(1)));
    assert_eq!(rig.gateway.explain(JOB), Some(WaitReason::BackendsBusy));
    rig.cancel(JOB);
    assert_eq!(rig.dispatch().lease(), None);
    assert_eq!(rig.state(JOB), JobState::Cancelled);

    // The same where every backend of the route is gone, and after a restart.
    rig.gateway.remove_backend(rig.now, "gpu-1").unwrap();
    assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::NoBackend));
    restarted(&mut rig);
    rig.put(flux_model("gpu-2", "schnell"));
    assert_eq!(rig.dispatch().lease(), None, "the new one serves another model");
    rig.put(flux_model("gpu-3", "dev"));
    assert_eq!(rig.lease().job, id(2));
}

#[test]
fn b16_a_job_that_vanished_is_not_dispatched() {
    let mut rig = Rig::with_slots(GatewayConfig::default().retain_for(secs(1)), 9);
    let timeouts = Timeouts { queue: Some(secs(5)), ..Timeouts::NONE };
    rig.submit(job(1, "acme", DEV).timeouts(timeouts));
    rig.submit(job(2, "acme", SCHNELL));
    rig.submit(job(3, "acme", DEV));
    rig.cancel(id(2));
    rig.gateway.delete(rig.now, id(2)).unwrap();
    rig.pass(secs(6));
    assert_eq!((rig.gateway.job(id(1)), rig.gateway.job(id(2))), (None, None));
    let leased: Vec<_> = rig.leases().into_iter().map(|lease| lease.job).collect();
    assert_eq!(leased, [id(3)]);
    assert_eq!(rig.gateway.dispatch_to(rig.now, "gpu-1", 9), Ok(Vec::new()));
    // Its id is free for another job, which has nothing of the old one.
    rig.submit(job(2, "zoo", DEV).payload("another"));
    assert_eq!((rig.job(id(2)).customer.as_str(), rig.job(id(2)).version), ("zoo", 0));
    let lease = rig.lease();
    let settled = rig.gateway.complete(rig.now, lease.id, Output::url("u"), Usage::unmeasured()).unwrap();
    assert_eq!(settled.job, id(2));
}
