//! Flags 27 to 29: what a result is, what is tried again, and what a watcher is told.

use libgateway::error::Coded;
use libgateway::{
    AfterFailure, Failure, FailureClass, GatewayConfig, JobState, Outcome, Output, Span, Usage, Watch, WatchEvent,
    WatchStep,
};
use libgateway_tests::kit::{DEV, Rig, at, id, job, secs};

use crate::{JOB, gpu, running};

#[test]
fn flag27_success_without_an_output_is_none() {
    // Where a backend answered 200 without an output, an address was made up: an .mp4, also for images.
    let (mut rig, lease) = running();
    // An inline output may be empty: a model may have nothing to say.
    let refused = rig.gateway.complete(rig.now, lease.id, Output::url(""), Usage::unmeasured()).unwrap_err();
    assert_eq!((refused.number(), refused.field()), (201, Some("output")));
    assert_eq!(rig.state(JOB), JobState::Running);
    // What the host has for it is a failure of the backend, which counts against it.
    assert_eq!(rig.fail(&lease, FailureClass::Backend), AfterFailure::Error);
    assert_eq!(gpu(&rig).failed, 1);
    assert!(matches!(rig.job(JOB).outcome, Some(Outcome::Error(_))));
}

fn after(failure: Failure) -> (bool, u64) {
    let (mut rig, lease) = running();
    let after = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
    (matches!(after, AfterFailure::Retry { .. }), gpu(&rig).failed)
}

#[test]
fn flag28_what_is_tried_again_is_decided_by_the_kind_of_failure_and_by_no_word() {
    // The text was searched for `timeout`, `network`, `status 5`: bad requests were retried for their wording, 501 was
    // retried, 429 and `HTTP 503` were not.
    let words = "Invalid network parameter: connection timeout, status 500, status 503, responseTimeout";
    for class in [FailureClass::Http(400), FailureClass::Http(404), FailureClass::Http(501), FailureClass::Rejected] {
        assert!(!after(Failure::new(class, words)).0, "{class:?}");
    }
    for class in [
        FailureClass::Timeout,
        FailureClass::Connection,
        FailureClass::Network,
        FailureClass::Http(500),
        FailureClass::Http(502),
        FailureClass::Http(503),
        FailureClass::Http(504),
    ] {
        assert_eq!(after(Failure::new(class, "")), (true, 1), "{class:?} is tried again, and heard of");
    }
    // Too many requests is tried again when the backend said when, and is no fault of it.
    assert_eq!(after(Failure::new(FailureClass::Http(429), "")), (false, 0));
    assert_eq!(after(Failure::new(FailureClass::Http(429), "").retry_after(secs(7))), (true, 0));
    // Whoever knows better says so.
    assert!(after(Failure::new(FailureClass::Backend, "").retriable(true)).0);
    assert!(!after(Failure::new(FailureClass::Timeout, "").retriable(false)).0);
}

#[test]
fn flag28_a_backend_that_says_when_is_not_asked_sooner_and_the_wait_is_told() {
    let (mut rig, lease) = running();
    let failure = Failure::new(FailureClass::Http(503), "loading").retry_after(secs(45));
    let after = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured());
    assert_eq!(after, Ok(AfterFailure::Retry { at: at(45) }));
    rig.to(at(44));
    assert_eq!(rig.dispatch().lease(), None);
    rig.to(at(45));
    assert_eq!(rig.lease().job, JOB);
}

#[test]
fn flag28_waits_are_spread_the_same_way_in_every_replay() {
    // Without jitter all that failed together came back together; with dice no two runs agreed.
    let waits = || {
        let backoff = libgateway::BackoffConfig::default().jitter_ppm(500_000);
        let mut rig = Rig::with_slots(GatewayConfig::default().seed(5).backoff(backoff), 50);
        rig.checked = false;
        (0..40).for_each(|number| _ = rig.submit(job(number, "acme", DEV)));
        let leases = rig.leases();
        let wait = |lease| match rig.fail(lease, FailureClass::Http(503)) {
            AfterFailure::Retry { at } => at.since(rig.now),
            AfterFailure::Error => Span::ZERO,
            other => panic!("{other:?}"),
        };
        let waits: Vec<Span> = leases.iter().map(wait).collect();
        waits
    };
    let first = waits();
    assert_eq!(first, waits());
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 35, "{} of 40 differ", distinct.len());
    assert!(first.iter().all(|wait| (Span::from_millis(500)..=secs(1)).contains(wait)));
}

#[test]
fn flag29_a_watcher_gets_the_present_state_first_and_an_end_whenever_he_comes() {
    // Whoever subscribed to an ended job got nothing and no end; whoever came while it ran was never told that it did; the
    // first position was suppressed.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    let first = |rig: &Rig, number| Watch::new(id(number)).poll(&rig.gateway);
    assert_eq!(first(&rig, 1), WatchStep::Event(WatchEvent::Queued { position: 0 }));
    assert_eq!(first(&rig, 2), WatchStep::Event(WatchEvent::Queued { position: 1 }));
    let lease = rig.lease();
    rig.gateway.progress(rig.now, lease.id, 250_000).unwrap();
    assert_eq!(first(&rig, 1), WatchStep::Event(WatchEvent::Running { progress_ppm: 250_000 }));
    rig.fail(&lease, FailureClass::Timeout);
    assert_eq!(first(&rig, 1), WatchStep::Event(WatchEvent::Queued { position: 0 }), "a retry waits again");
    rig.pass(secs(1));
    let lease = rig.lease();
    rig.complete(&lease);
    let mut late = Watch::new(JOB);
    let url = Output::url("https://cdn/x.webp");
    assert_eq!(late.poll(&rig.gateway), WatchStep::Event(WatchEvent::Ended(Outcome::Complete(url))));
    assert_eq!(late.poll(&rig.gateway), WatchStep::Done);
    assert_eq!(first(&rig, 9), WatchStep::Event(WatchEvent::Gone), "one that never was");
}
