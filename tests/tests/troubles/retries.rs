//! Where a job goes when an attempt failed, when, and how often.

use libgateway::{
    AfterFailure, BackoffConfig, BreakerState, CircuitBreakerConfig, Failure, FailureClass, GatewayConfig, JobState,
    Lease, Outcome, Output, Priority, Span, Timeouts, Usage,
};
use libgateway_tests::kit::{DEV, Rig, at, before, flux, id, job, secs};

fn two_backends(config: GatewayConfig) -> Rig {
    let mut rig = Rig::new(config);
    rig.put(flux("a"));
    rig.put(flux("b"));
    rig
}

fn fail(rig: &mut Rig, lease: &Lease, class: FailureClass) -> AfterFailure {
    rig.gateway.fail(rig.now, lease.id, Failure::new(class, "it failed"), Usage::unmeasured()).unwrap()
}

#[test]
fn who_runs_on_a_backend_is_told_lowest_lane_first_then_oldest() {
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux("a").slots(8));
    rig.put(flux("b"));
    for (number, lane) in [(1, Priority::Normal), (2, Priority::Low), (3, Priority::High), (4, Priority::Low)] {
        rig.submit(job(number, "acme", DEV).priority(lane));
        let at = rig.now + secs(1);
        rig.to(at);
        assert_eq!(rig.gateway.dispatch_to(at, "a", 1).unwrap().len(), 1);
    }
    let told = |rig: &Rig| {
        let running = rig.gateway.running_on("a").unwrap();
        running.iter().map(|own| (own.id, own.lease.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(told(&rig), [2, 4, 1, 3].map(|number| (id(number), true)));
    assert_eq!((rig.gateway.running_on("b").unwrap(), rig.gateway.running_on("c")), (Vec::new(), None));
    rig.gateway.cancel(rig.now, id(4)).unwrap();
    assert_eq!(told(&rig), [2, 1, 3].map(|number| (id(number), true)));
}

#[test]
fn a_retry_goes_to_a_backend_that_has_not_failed_the_job() {
    for class in [FailureClass::Connection, FailureClass::Timeout, FailureClass::Http(503), FailureClass::Lost] {
        let mut rig = two_backends(GatewayConfig::default());
        rig.submit(job(1, "acme", DEV));
        let first = rig.lease();
        assert_eq!(&*first.backend, "a");
        fail(&mut rig, &first, class);
        assert_eq!(rig.job(id(1)).failed_on, ["a"]);
        rig.to(at(1));
        let second = rig.lease();
        assert_eq!(&*second.backend, "b", "{class:?}");
        // One that failed it is taken where there is no other.
        fail(&mut rig, &second, class);
        rig.to(at(9));
        let third = rig.lease();
        assert_eq!(&*third.backend, "a", "both failed it: the one that is loaded least, declared first");
        assert_eq!(rig.job(id(1)).failed_on, ["a", "b"]);
        rig.complete(&third);
        // Others go where they always went.
        rig.submit(job(2, "acme", DEV));
        assert_eq!(&*rig.lease().backend, "a");
    }
}

#[test]
fn a_backend_that_failed_a_job_is_taken_while_the_other_is_busy() {
    let mut rig = two_backends(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    let leases = rig.leases();
    fail(&mut rig, &leases[0], FailureClass::Connection);
    rig.to(at(1));
    assert_eq!(&*rig.lease().backend, "a");
}

#[test]
fn as_many_backends_are_remembered_as_are_said_and_one_that_left_is_forgotten() {
    let mut rig = Rig::new(GatewayConfig::default().backoff(BackoffConfig::default().retries(30).base(Span::ZERO)));
    for number in 0..10 {
        rig.put(flux(&format!("gpu-{number}")));
    }
    rig.submit(job(1, "acme", DEV));
    for number in 0..9 {
        let lease = rig.lease();
        assert_eq!(*lease.backend, format!("gpu-{number}"));
        fail(&mut rig, &lease, FailureClass::Connection);
    }
    let remembered: Vec<String> = (1..9).map(|number| format!("gpu-{number}")).collect();
    assert_eq!(rig.job(id(1)).failed_on, remembered);
    rig.gateway.remove_backend(rig.now, "gpu-8").unwrap();
    assert_eq!(rig.job(id(1)).failed_on, remembered[..7]);
    rig.gateway.check_invariants();
}

#[test]
fn the_whole_time_for_retries_counts_from_the_first_start() {
    let backoff = BackoffConfig::default().total(Some(secs(10))).retries(9);
    let mut rig = Rig::new(GatewayConfig::default().backoff(backoff));
    // It waits for an hour until a backend is free: that is none of its attempts' time.
    rig.put(flux("a"));
    rig.submit(job(1, "acme", DEV));
    rig.gateway.drain_backend(rig.now, "a", true).unwrap();
    rig.to(at(3_600));
    rig.gateway.drain_backend(rig.now, "a", false).unwrap();
    let start = rig.now;
    for wait in [1, 2, 4] {
        let lease = rig.lease();
        let after = fail(&mut rig, &lease, FailureClass::Network);
        assert_eq!(after, AfterFailure::Retry { at: rig.now + secs(wait) });
        rig.pass(secs(wait));
    }
    assert_eq!(rig.now.since(start), secs(7));
    let lease = rig.lease();
    // The next attempt would begin after 15 seconds.
    assert_eq!(fail(&mut rig, &lease, FailureClass::Network), AfterFailure::Error);
}

#[test]
fn the_clock_of_the_queue_stands_still_while_a_job_waits_for_its_retry() {
    let timeouts = Timeouts { queue: Some(secs(30)), ..Timeouts::NONE };
    let mut rig = Rig::with_slots(GatewayConfig::default().timeouts(timeouts), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    let failure = Failure::new(FailureClass::Http(503), "busy").retry_after(secs(60));
    let after = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
    assert_eq!(after, AfterFailure::Retry { at: at(60) });
    rig.to(at(60));
    let second = rig.lease();
    assert_eq!((second.job, second.attempt), (id(1), 2));
    // From then on it runs: thirty seconds in the queue are as many as before.
    fail(&mut rig, &second, FailureClass::Http(503));
    rig.gateway.drain_backend(rig.now, "gpu-1", true).unwrap();
    rig.to(before(at(60 + 2 + 30)));
    assert_eq!(rig.state(id(1)), JobState::Queued);
    rig.to(at(60 + 2 + 30));
    assert_eq!(rig.state(id(1)), JobState::Cancelled);
}

#[test]
fn nobody_is_told_to_come_back_in_a_day() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    let failure = Failure::new(FailureClass::Http(503), "busy").retry_after(secs(86_400));
    let after = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
    assert_eq!(after, AfterFailure::Retry { at: at(900) });
}

#[test]
fn a_failure_that_says_lost_returns_the_job_to_the_queue_at_once() {
    let mut rig = Rig::with_slots(GatewayConfig::default().losses_max(1), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    assert_eq!(fail(&mut rig, &lease, FailureClass::Lost), AfterFailure::Retry { at: rig.now });
    let view = rig.job(id(1));
    assert_eq!((view.state, view.attempts, view.requeues), (JobState::Queued, 0, 1));
    assert_eq!(rig.gateway.stats().counters.lost, 1);
    let lease = rig.lease();
    assert_eq!(fail(&mut rig, &lease, FailureClass::Lost), AfterFailure::Error);
}

#[test]
fn a_backend_that_refuses_requests_is_alive() {
    // 99 of a hundred requests are for things that are not there, and one times out.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    for number in 0..400 {
        rig.submit(job(number, "acme", DEV));
        let lease = rig.lease();
        let class = if number % 100 == 7 { FailureClass::Timeout } else { FailureClass::Http(404) };
        let failure = Failure::new(class, "no").retriable(false);
        rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
        rig.settlements();
        assert_eq!(rig.gateway.backend("gpu-1").unwrap().breaker.state, BreakerState::Closed);
    }
    let view = rig.gateway.backend("gpu-1").unwrap();
    assert_eq!((view.completed, view.failed), (0, 4), "nothing was delivered, and four attempts were its fault");
}

#[test]
fn a_refusal_ends_a_row_of_failures_and_closes_a_probe_and_too_many_requests_do_not() {
    let breaker = CircuitBreakerConfig::default().consecutive_failures(std::num::NonZeroU32::new(3));
    let config = GatewayConfig::default().breaker(breaker.probes_to_close(std::num::NonZeroU32::MIN));
    let state = |rig: &Rig| rig.gateway.backend("gpu-1").unwrap().breaker.state;
    for (status, ends) in
        [(400, true), (404, true), (422, true), (408, false), (409, false), (425, false), (429, false)]
    {
        let mut rig = Rig::with_slots(config.clone(), 1);
        let attempt = |rig: &mut Rig, number: u128, class| {
            rig.submit(job(number, "acme", DEV));
            let lease = rig.lease();
            let failure = Failure::new(class, "no").retriable(false);
            rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
        };
        attempt(&mut rig, 1, FailureClass::Timeout);
        attempt(&mut rig, 2, FailureClass::Timeout);
        attempt(&mut rig, 3, FailureClass::Http(status));
        attempt(&mut rig, 4, FailureClass::Timeout);
        let expected = if ends { BreakerState::Closed } else { BreakerState::Open };
        assert_eq!(state(&rig), expected, "{status}");
        if ends {
            attempt(&mut rig, 5, FailureClass::Timeout);
            attempt(&mut rig, 6, FailureClass::Timeout);
            assert_eq!(state(&rig), BreakerState::Open);
            rig.to(at(60));
            attempt(&mut rig, 7, FailureClass::Http(status));
            assert_eq!(state(&rig), BreakerState::Closed, "{status} answers the probe");
        }
    }
}

#[test]
fn nothing_is_a_result_and_nowhere_is_none() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    assert!(rig.gateway.complete(rig.now, lease.id, Output::url(""), Usage::unmeasured()).is_err());
    rig.gateway.complete(rig.now, lease.id, Output::inline(""), Usage::unmeasured()).unwrap();
    assert_eq!(rig.job(id(1)).outcome, Some(Outcome::Complete(Output::inline(""))));
}

#[test]
fn attempts_that_could_not_be_counted_are_refused_when_the_gateway_is_made() {
    let refused = |config: GatewayConfig| config.check().map_err(|error| error.to_string());
    assert!(refused(GatewayConfig::default().losses_max(1_000_001)).unwrap_err().contains("losses_max"));
    let backoff = BackoffConfig::default().retries(1_000_001);
    assert!(refused(GatewayConfig::default().backoff(backoff)).unwrap_err().contains("retries"));
}
