//! The clocks of jobs and leases.

use libgateway::{
    AfterFailure, BackoffConfig, CancelReason, CustomerPolicy, Failure, FailureClass, GatewayConfig, JobFailure,
    JobState, Outcome, Priority, RateLimit, Span, Timeouts, Timestamp, Usage, WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, START, at, before, flux, id, job, secs};
use proptest::prelude::*;

use crate::{edge, quiet};

fn with_clocks(timeouts: Timeouts) -> Rig {
    let mut rig = Rig::with_slots(quiet(), 1);
    rig.submit(job(1, "acme", DEV).timeouts(timeouts));
    rig
}

fn cancelled(rig: &Rig, reason: CancelReason) -> bool {
    rig.job(id(1)).outcome == Some(Outcome::Cancelled(reason))
}

fn timed_out(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Error(JobFailure { class: FailureClass::Timeout, .. })))
}

/// Spans of all sizes, from a nanosecond to some years.
fn span() -> impl Strategy<Value = Span> {
    (0..56_u32, any::<u64>()).prop_map(|(bits, number)| Span::from_nanos(1 << bits | number & ((1 << bits) - 1)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_job_leaves_the_queue_exactly_when_its_queue_time_is_over(span in span(), total in span()) {
        let mut rig = with_clocks(Timeouts { queue: Some(span), ..Timeouts::NONE });
        edge(&mut rig, START + span, |rig| cancelled(rig, CancelReason::QueueTimeout));
        prop_assert_eq!(rig.job(id(1)).finished, Some(START + span));

        // The start's and the whole time's clocks run from the submission alike; where two meet, the weightier is told.
        let mut rig = with_clocks(Timeouts { start: Some(span), ..Timeouts::NONE });
        edge(&mut rig, START + span, |rig| cancelled(rig, CancelReason::StartTimeout));
        let mut rig = with_clocks(Timeouts { queue: Some(span), total: Some(total), ..Timeouts::NONE });
        let reason = if total <= span { CancelReason::TotalTimeout } else { CancelReason::QueueTimeout };
        edge(&mut rig, START + span.min(total), |rig| cancelled(rig, reason));
    }

    #[test]
    fn an_attempt_ends_exactly_when_its_time_is_over(queued in span(), run in span()) {
        let mut rig = with_clocks(Timeouts { run: Some(run), ..Timeouts::NONE });
        prop_assert_eq!(rig.gateway.next_deadline(), None, "the clock of an attempt does not run in the queue");
        rig.pass(queued);
        rig.lease();
        edge(&mut rig, START + queued + run, |rig| rig.job(id(1)).attempts == 1);
        prop_assert_eq!(rig.state(id(1)), JobState::Queued, "it is tried again");
    }

    #[test]
    fn a_running_job_ends_exactly_when_its_whole_time_is_over(queued in span(), rest in span()) {
        let total = queued.saturating_add(rest);
        let mut rig = with_clocks(Timeouts { total: Some(total), ..Timeouts::NONE });
        rig.pass(queued);
        rig.lease();
        edge(&mut rig, START + total, |rig| timed_out(rig.job(id(1)).outcome));
        prop_assert_eq!(rig.gateway.stats().running, 0);
    }

    #[test]
    fn a_lease_is_lost_exactly_at_its_deadline_and_each_word_moves_it(first in span(), later in span(), of in span()) {
        let mut rig = Rig::new(quiet().losses_max(9));
        rig.put(flux("gpu-1").lease_for(of));
        rig.submit(job(1, "acme", DEV));
        let lease = rig.lease();
        prop_assert_eq!(lease.deadline, START + of);
        // Words come whenever they come within the lease.
        for (word, wait) in [first, later].into_iter().enumerate() {
            rig.pass(wait.min(Span::from_nanos(of.as_nanos() - 1)));
            let told = match word {
                0 => rig.gateway.heartbeat(rig.now, lease.id),
                _ => rig.gateway.progress(rig.now, lease.id, 7),
            };
            prop_assert_eq!(told, Ok(rig.now + of));
        }
        let deadline = rig.now + of;
        edge(&mut rig, deadline, |rig| rig.state(id(1)) == JobState::Queued);
        prop_assert_eq!(rig.gateway.stats().counters.lost, 1);
    }

    #[test]
    fn a_retry_comes_exactly_when_its_wait_is_over(base in span(), asked in span()) {
        let backoff = BackoffConfig::default().base(base).max(Span::MAX).retry_after_max(Span::MAX);
        let mut rig = Rig::with_slots(quiet().backoff(backoff), 1);
        rig.submit(job(1, "acme", DEV));
        let lease = rig.lease();
        let until = START + base;
        prop_assert_eq!(rig.fail(&lease, FailureClass::Timeout), AfterFailure::Retry { at: until });
        prop_assert_eq!(rig.gateway.explain(id(1)), Some(WaitReason::NotBefore { until, failed_on: vec!["gpu-1".into()] }));
        prop_assert_eq!(rig.wait(), Some(until));
        edge(&mut rig, until, |rig| rig.gateway.explain(id(1)) == Some(WaitReason::Next));
        let lease = rig.lease();

        // The second wait is twice as long, and no shorter than the backend asked for.
        let failure = Failure::new(FailureClass::Http(503), "").retry_after(asked);
        let until = until + base.saturating_mul(2).max(asked);
        let after = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured());
        prop_assert_eq!(after, Ok(AfterFailure::Retry { at: until }));
        edge(&mut rig, until, |rig| rig.gateway.explain(id(1)) == Some(WaitReason::Next));
    }

    #[test]
    fn a_job_climbs_a_lane_exactly_each_time_it_has_waited_so_long(after in span()) {
        let mut rig = Rig::with_slots(quiet().age_after(Some(after)), 1);
        rig.submit(job(1, "acme", DEV).priority(Priority::Low));
        edge(&mut rig, START + after, |rig| rig.gateway.stats().counters.aged == 1);
        edge(&mut rig, START + after.saturating_mul(2), |rig| rig.gateway.stats().counters.aged == 2);
        prop_assert_eq!(rig.gateway.next_deadline(), None, "there is no higher lane");
    }

    #[test]
    fn tokens_are_there_exactly_when_they_were_promised(
        amount in 1..2_000_u64, per in 1..4_000_000_000_u64, burst in 1..12_u64, cost in 1..12_u64,
    ) {
        let cost = cost.min(burst);
        let rate = RateLimit::new(amount, Span::from_nanos(per), burst).unwrap();
        let mut rig = Rig::with_slots(quiet().customer(CustomerPolicy::default().rate(rate)), 20);
        rig.submit(job(1, "acme", DEV).tokens(burst));
        rig.submit(job(2, "acme", DEV).tokens(cost));
        rig.lease();
        // The instant by which `cost` tokens have flowed in, rounded up.
        let nanos = (u128::from(cost) * u128::from(per)).div_ceil(u128::from(amount));
        let until = START + Span::from_nanos(nanos as u64);
        prop_assert_eq!(rig.wait(), Some(until));
        prop_assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::CustomerRate { until: Some(until) }));
        edge(&mut rig, until, |rig| rig.gateway.explain(id(2)) == Some(WaitReason::Next));
        prop_assert_eq!(rig.lease().job, id(2));
    }
}

#[test]
fn each_stay_in_the_queue_has_its_own_queue_time_and_only_the_first_start_has_one() {
    let timeouts = Timeouts { queue: Some(secs(60)), start: Some(secs(90)), ..Timeouts::NONE };
    let mut rig = with_clocks(timeouts);
    rig.to(at(59));
    let lease = rig.lease();
    assert_eq!(rig.gateway.next_deadline(), None, "it waits no longer");
    rig.to(at(80));
    rig.gateway.release(rig.now, lease.id).unwrap();
    // The start was in time, whatever comes after it.
    edge(&mut rig, at(140), |rig| cancelled(rig, CancelReason::QueueTimeout));
}

#[test]
fn a_clock_of_the_gateway_holds_where_the_job_brings_none_of_its_own() {
    let defaults = Timeouts { queue: Some(secs(60)), total: Some(secs(100)), ..Timeouts::NONE };
    let mut rig = Rig::with_slots(quiet().timeouts(defaults), 1);
    let own = Timeouts { queue: Some(secs(70)), ..Timeouts::NONE };
    rig.submit(job(1, "acme", DEV).timeouts(own));
    rig.submit(job(2, "acme", DEV));
    edge(&mut rig, at(60), |rig| rig.state(id(2)) == JobState::Cancelled);
    assert_eq!(rig.state(id(1)), JobState::Queued);
    edge(&mut rig, at(70), |rig| cancelled(rig, CancelReason::QueueTimeout));
}

#[test]
fn a_job_that_could_start_at_the_instant_its_time_is_over_does_not() {
    // Deadlines come before the command of the same instant.
    let mut rig = with_clocks(Timeouts { start: Some(secs(5)), ..Timeouts::NONE });
    rig.now = before(at(5));
    rig.lease();
    let mut rig = with_clocks(Timeouts { start: Some(secs(5)), ..Timeouts::NONE });
    rig.now = at(5);
    assert_eq!(rig.wait(), None);
    assert_eq!(rig.job(id(1)).finished, Some(at(5)));
}

#[test]
fn a_result_one_nanosecond_before_the_end_of_the_lease_counts_and_at_it_does_not() {
    for (late, counts) in [(before(at(10)), true), (at(10), false)] {
        let mut rig = Rig::new(quiet());
        rig.put(flux("gpu-1").lease_for(secs(10)));
        rig.submit(job(1, "acme", DEV));
        let lease = rig.lease();
        let output = libgateway::Output::url("u");
        let result = rig.gateway.complete(late, lease.id, output, Usage::unmeasured());
        assert_eq!(result.is_ok(), counts, "{late:?}");
        assert_eq!(rig.state(id(1)), if counts { JobState::Complete } else { JobState::Queued });
    }
}

#[test]
fn a_deadline_beyond_the_end_of_time_never_comes() {
    let ends =
        Timeouts { queue: Some(Span::MAX), start: Some(Span::MAX), total: Some(Span::MAX), run: Some(Span::MAX) };
    let mut rig = with_clocks(ends);
    assert_eq!(rig.gateway.next_deadline(), None);
    assert_eq!(rig.lease().deadline, Timestamp::MAX);
    assert_eq!(rig.gateway.next_deadline(), None);
}

#[test]
fn the_greatest_wait_after_a_failure_is_the_configured_one() {
    let backoff = BackoffConfig::default().base(secs(10)).max(secs(15));
    let mut rig = Rig::with_slots(GatewayConfig::default().backoff(backoff), 1);
    rig.submit(job(1, "acme", DEV));
    for (wait, asked) in [(10, None), (15, None), (600, Some(secs(600)))] {
        let lease = rig.lease();
        let mut failure = Failure::new(FailureClass::Timeout, "");
        failure.retry_after = asked;
        let after = rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
        let until = rig.now + secs(wait);
        assert_eq!(after, AfterFailure::Retry { at: until });
        rig.to(until);
    }
}
