//! B1 to B6: updates, watching and retrying.

use libgateway::error::{JobError, LeaseError};
use libgateway::{
    AfterFailure, BackoffConfig, FailureClass, GatewayConfig, JobState, JobView, Priority, Watch, WatchEvent, WatchStep,
};
use libgateway_tests::kit::{DEV, Rig, id, job, secs};

use crate::{JOB, restarted, running};

#[test]
fn b01_a_change_to_a_job_that_is_not_there_says_so() {
    // An update answered nothing, so its callers went on as if the job had been changed: stats were counted, slots
    // released, events told for jobs that had long been deleted.
    let (mut rig, lease) = running();
    let unknown = JobError::UnknownJob { job: id(9) };
    assert_eq!(rig.gateway.cancel(rig.now, id(9)), Err(unknown.clone()));
    assert_eq!(rig.gateway.delete(rig.now, id(9)), Err(unknown));
    rig.complete(&lease);
    rig.gateway.delete(rig.now, JOB).unwrap();
    assert_eq!(rig.gateway.cancel(rig.now, JOB), Err(JobError::UnknownJob { job: JOB }));
    assert_eq!(rig.gateway.heartbeat(rig.now, lease.id), Err(LeaseError::Superseded { lease: lease.id.as_u64() }));
}

#[test]
fn b02_a_watcher_of_a_job_that_vanished_comes_to_an_end() {
    // The event stream of a deleted job polled for ever: the job was not found, and nothing was no reason to stop.
    for seen_before in [true, false] {
        let (mut rig, lease) = running();
        let mut watch = Watch::new(JOB);
        if seen_before {
            assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Running { progress_ppm: 0 }));
        }
        rig.complete(&lease);
        rig.gateway.delete(rig.now, JOB).unwrap();
        assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Gone));
        assert_eq!(watch.poll(&rig.gateway), WatchStep::Done);
    }
    // The same where it left by itself.
    let (mut rig, lease) = running();
    let mut watch = Watch::new(JOB);
    rig.complete(&lease);
    rig.pass(GatewayConfig::default().retain_for);
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Gone));
}

#[test]
fn b03_a_position_is_told_only_when_there_is_one_and_it_changed() {
    // Watchers got `position: -1` for a job that no longer waited, and the same position every second.
    let (mut rig, lease) = running();
    for number in 2..=4 {
        rig.submit(job(number, "acme", DEV));
    }
    let mut watch = Watch::new(id(4));
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Queued { position: 2 }));
    // Time passes, jobs come behind it, others are heard of: nothing that concerns it.
    rig.pass(secs(5));
    rig.submit(job(5, "acme", DEV));
    rig.gateway.progress(rig.now, lease.id, 500_000).unwrap();
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
    rig.cancel(id(2));
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Queued { position: 1 }));
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
    rig.cancel(id(3));
    rig.complete(&lease);
    rig.lease();
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Running { progress_ppm: 0 }));
    assert_eq!(rig.gateway.position(id(4)), None, "a running job has no position");
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
}

#[test]
fn b04_a_retry_is_of_the_job_as_it_stands_now() {
    // The retry thread kept a copy of the job and stored it again after its wait: whatever had happened to the job in
    // between was undone, its count of retries began anew each time.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV).payload("a red fox"));
    for attempt in 1..=3 {
        let lease = rig.lease();
        assert_eq!((lease.attempt, lease.payload.as_bytes()), (attempt, b"a red fox".as_slice()));
        rig.fail(&lease, FailureClass::Timeout);
        assert_eq!(rig.job(JOB).attempts, attempt);
        // Nobody holds a copy: a gateway that was restarted in between goes on the same.
        restarted(&mut rig);
        rig.pass(secs(60));
    }
    let lease = rig.lease();
    assert_eq!(rig.fail(&lease, FailureClass::Timeout), AfterFailure::Error, "the fourth attempt is the last");
}

#[test]
fn b05_a_retry_changes_what_a_retry_changes_and_nothing_else() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV).payload("a red fox").priority(Priority::High));
    rig.pass(secs(3));
    let lease = rig.lease();
    rig.gateway.progress(rig.now, lease.id, 400_000).unwrap();
    let before = rig.job(JOB);
    rig.pass(secs(2));
    rig.fail(&lease, FailureClass::Network);
    let JobView { state, position, progress_ppm, attempts, lease, backend, failure, version, .. } = rig.job(JOB);
    assert_eq!((state, position, progress_ppm, attempts), (JobState::Queued, Some(0), 0, 1));
    assert_eq!((lease, backend), (None, None));
    assert_eq!(failure.clone().map(|failure| failure.class), Some(FailureClass::Network));
    assert!(version > before.version);
    // Everything else is as it was: when it came, when it last began, whose it is, its lane, that it has not ended.
    let mut expected = before;
    expected.failed_on = vec!["gpu-1".to_owned()];
    (expected.state, expected.position, expected.progress_ppm, expected.attempts) = (state, position, 0, 1);
    (expected.lease, expected.backend, expected.failure, expected.version) = (None, None, failure, version);
    assert_eq!(rig.job(JOB), expected);
}

#[test]
fn b06_the_wait_before_a_retry_grows_with_the_failures_counted_so_far() {
    // The wait was computed from the count before it was incremented, so the first retry came after the wait of none, and
    // each further one a step too early.
    for (base, waits) in [(1, [1, 2, 4]), (2, [2, 4, 8])] {
        let config = GatewayConfig::default().backoff(BackoffConfig::default().base(secs(base)));
        let mut rig = Rig::with_slots(config, 1);
        rig.submit(job(1, "acme", DEV));
        for wait in waits {
            let lease = rig.lease();
            let at = rig.now + secs(wait);
            assert_eq!(rig.fail(&lease, FailureClass::Http(503)), AfterFailure::Retry { at });
            rig.to(at);
        }
        let lease = rig.lease();
        assert_eq!(rig.fail(&lease, FailureClass::Http(503)), AfterFailure::Error, "three retries, not four");
        assert_eq!((rig.job(JOB).attempts, rig.state(JOB)), (4, JobState::Error));
    }
}
