//! What is due: named in advance, handled once, in order, and never more than a call may take.

use libgateway::{
    Advance, Digest, Gateway, GatewayConfig, JobState, JobView, LeaseId, Output, Priority, Submit, Timeouts, Timestamp,
    Usage,
};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, START, WAN, at, before, id, job, secs, wan};
use libgateway_tests::rng::Rng;
use proptest::prelude::*;

use crate::quiet;

/// Ten jobs whose queue times end a second after each other.
fn ten_due() -> Rig {
    let mut rig = Rig::with_slots(quiet().due_max(3), 1);
    for number in 1..=10 {
        let timeouts = Timeouts { queue: Some(secs(number)), ..Timeouts::NONE };
        rig.submit(job(u128::from(number), "acme", DEV).timeouts(timeouts));
    }
    rig
}

fn told(advance: Advance) -> (u32, bool, Timestamp, Option<Timestamp>) {
    (advance.handled, advance.more, advance.now, advance.next_deadline)
}

#[test]
fn a_call_handles_no_more_than_it_may_and_time_stands_at_the_last_one_handled() {
    let mut rig = ten_due();
    assert_eq!(told(rig.to(at(60))), (3, true, at(3), Some(at(4))));
    assert_eq!(rig.gateway.now(), at(3));
    assert_eq!(told(rig.to(at(60))), (3, true, at(6), Some(at(7))));
    assert_eq!(told(rig.to(at(60))), (3, true, at(9), Some(at(10))));
    assert_eq!(told(rig.to(at(60))), (1, false, at(60), None));
    for number in 1..=10 {
        assert_eq!(rig.job(id(u128::from(number))).finished, Some(at(number)), "each ended when it was due");
    }
}

#[test]
fn a_command_while_more_is_due_happens_where_time_stands() {
    let mut rig = ten_due();
    rig.now = at(60);
    // It handles three by itself, and then happens at the third one's instant, before the fourth.
    rig.gateway.cancel(rig.now, id(4)).unwrap();
    assert_eq!(rig.job(id(4)).finished, Some(at(3)));
    rig.submit(job(11, "acme", DEV));
    assert_eq!(rig.job(id(11)).created, at(7), "5, 6 and 7 came first");
    assert_eq!(told(rig.to(at(60))), (3, false, at(60), None), "8, 9 and 10 are the last");
}

#[test]
fn exactly_as_many_as_a_call_may_take_leave_nothing_more() {
    let mut rig = ten_due();
    assert_eq!(told(rig.to(at(3))), (3, false, at(3), Some(at(4))));
    assert_eq!(told(rig.to(at(6))), (3, false, at(6), Some(at(7))));
}

#[test]
fn advancing_early_or_twice_changes_nothing() {
    let mut rig = ten_due();
    rig.to(at(1));
    let digest = rig.gateway.digest();
    for _ in 0..3 {
        let advance = rig.gateway.advance(at(1));
        assert_eq!((advance.handled, advance.now), (0, at(1)));
        assert_eq!(rig.gateway.digest(), digest);
    }
    for now in [at(0), START, Timestamp::EPOCH] {
        assert_eq!(rig.gateway.advance(now).handled, 0, "{now:?}");
    }
}

/// All that a host can see of the jobs.
fn seen(gateway: &Gateway) -> Vec<Option<JobView>> {
    (0..JOBS).map(|number| gateway.job(id(number))).collect()
}

/// A step of a busy host that does not watch its clock.
fn step(rig: &mut Rig, chance: &mut Rng) {
    let number = u128::from(chance.below(JOBS as u64));
    match chance.below(10) {
        0..=3 => {
            let span = |chance: &mut Rng| Some(secs(1 + chance.below(300)));
            let (queue, run) = (span(chance), span(chance));
            let timeouts = Timeouts { queue: queue.filter(|_| number % 2 == 0), run, ..Timeouts::NONE };
            let way = *chance.pick(&[DEV, SCHNELL, WAN]);
            let lane = *chance.pick(&[Priority::High, Priority::Normal, Priority::Low]);
            let customer = *chance.pick(&["acme", "zoo", "slow"]);
            let own: Submit<'_> = job(number, customer, way).timeouts(timeouts).priority(lane);
            _ = rig.gateway.submit(rig.now, own);
        }
        4 | 5 => _ = rig.gateway.dispatch(rig.now),
        6 => _ = rig.gateway.cancel(rig.now, id(number)),
        7 | 8 => {
            // One of the latest leases, whether it lives or not: a host that did not look for long does not know.
            let latest = rig.gateway.stats().counters.leases;
            let lease = LeaseId::from_u64(latest.saturating_sub(chance.below(4)));
            let failure = libgateway::Failure::new(libgateway::FailureClass::Timeout, "");
            match chance.below(3) {
                0 => _ = rig.gateway.complete(rig.now, lease, Output::url("u"), Usage::unmeasured()),
                1 => _ = rig.gateway.fail(rig.now, lease, failure, Usage::unmeasured()),
                _ => _ = rig.gateway.heartbeat(rig.now, lease),
            }
        }
        _ => {
            if let Some(taken) = rig.gateway.take_settlements(rig.now, 3) {
                _ = rig.gateway.confirm_settlements(rig.now, taken.batch);
            }
        }
    }
    rig.check();
}

fn busy(seed: u64) -> (Rig, Rng) {
    let slow = libgateway::CustomerPolicy::default().rate(libgateway::RateLimit::new(1, secs(20), 2).unwrap());
    let config = GatewayConfig::default()
        .lease_for(secs(40))
        .age_after(Some(secs(33)))
        .retain_for(secs(200))
        .customer_idle(secs(70))
        .settle_within(secs(50));
    let mut rig = Rig::with_slots(config, 2);
    rig.put(wan("wan-1"));
    rig.gateway.put_customer(rig.now, "slow", slow).unwrap();
    (rig, Rng::new(seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_happens_before_the_instant_that_was_named_and_something_does_at_it(seed: u64) {
        let (mut rig, mut chance) = busy(seed);
        for _ in 0..120 {
            for _ in 0..chance.below(4) {
                step(&mut rig, &mut chance);
            }
            let Some(deadline) = rig.gateway.next_deadline() else { continue };
            prop_assert!(deadline >= rig.now);
            if deadline > rig.now {
                let (jobs, counters) = (seen(&rig.gateway), rig.gateway.stats().counters);
                prop_assert_eq!(rig.to(before(deadline)).handled, 0);
                prop_assert_eq!(seen(&rig.gateway), jobs);
                prop_assert_eq!(rig.gateway.stats().counters, counters);
                prop_assert_eq!(rig.gateway.next_deadline(), Some(deadline), "it does not move by itself");
            }
            prop_assert!(rig.to(deadline).handled >= 1);
            prop_assert!(rig.gateway.next_deadline().is_none_or(|next| next > deadline), "it is not due again");
        }
    }

    #[test]
    fn it_does_not_matter_how_often_a_host_calls_between(seed: u64) {
        // One host calls at every deadline and a few times in between, the other only when it has a command.
        let (mut eager, mut chance) = busy(seed);
        let (mut lazy, mut same) = busy(seed);
        for _ in 0..150 {
            // No longer than a third of a lease: what is longer may be a silence of the host, which is bridged.
            let next = eager.now + libgateway::Span::from_millis(chance.below(13_333));
            same.below(13_333);
            while let Some(deadline) = eager.gateway.next_deadline().filter(|deadline| *deadline <= next) {
                eager.to(before(deadline).max(eager.now));
                eager.to(deadline);
                eager.to(deadline);
            }
            (eager.now, lazy.now) = (next, next);
            step(&mut eager, &mut chance);
            step(&mut lazy, &mut same);
            prop_assert_eq!(digests(&mut eager), digests(&mut lazy));
        }
    }
}

fn digests(rig: &mut Rig) -> Digest {
    rig.gateway.advance(rig.now);
    rig.gateway.digest()
}

#[test]
fn deadlines_of_one_instant_are_handled_in_order_of_submission() {
    let mut rig = Rig::with_slots(quiet().due_max(1), 1);
    let timeouts = Timeouts { queue: Some(secs(5)), ..Timeouts::NONE };
    for number in [3, 1, 2] {
        rig.submit(job(number, "acme", DEV).timeouts(timeouts));
    }
    let mut ended = Vec::new();
    while let Advance { more: true, .. } | Advance { handled: 1, .. } = rig.gateway.advance(at(5)) {
        let cancelled = |number: &u128| rig.state(id(*number)) == JobState::Cancelled && !ended.contains(number);
        ended.extend((1..=3).filter(cancelled).collect::<Vec<_>>());
    }
    assert_eq!(ended, [3, 1, 2]);
}

const JOBS: u128 = 24;
