//! The host's clock: what is believed of it.

use libgateway::{EventKind, JobState, Span, Timeouts, Timestamp};
use libgateway_tests::kit::{DEV, Rig, START, after, at, before, flux, id, job, secs};
use proptest::prelude::*;

use crate::quiet;

const LIMIT: Span = Span::from_secs(3_600);

/// A job runs under a lease of five minutes.
fn running() -> Rig {
    let mut rig = Rig::new(quiet());
    rig.put(flux("gpu-1").lease_for(secs(300)));
    rig.submit(job(1, "acme", DEV));
    rig.lease();
    rig
}

#[test]
fn a_leap_of_exactly_the_limit_is_believed_and_one_nanosecond_more_is_not() {
    // The host was asked to call after five minutes; what is beyond that is the leap.
    let mut rig = running();
    let advance = rig.to(at(300) + LIMIT);
    assert_eq!((advance.leapt, advance.now), (None, at(300) + LIMIT));
    assert_eq!(rig.gateway.stats().counters.lost, 1);

    let mut rig = running();
    let reading = after(at(300) + LIMIT);
    let advance = rig.to(reading);
    assert_eq!((advance.leapt, advance.now), (Some(reading.since(START)), START));
    assert_eq!(rig.state(id(1)), JobState::Running, "one wrong reading ends no lease");
    assert_eq!(rig.gateway.stats().clock_offset, reading.since(START));
    assert_eq!(rig.gateway.stats().counters.clock_leaps, 1);
    let told = std::iter::from_fn(|| rig.gateway.poll_event()).last().map(|event| event.kind);
    assert_eq!(told, Some(EventKind::ClockLeapt(reading.since(START))));

    // From here on time goes on at the host's pace, and the lease ends when it has lasted five minutes.
    let advance = rig.to(before(reading + secs(300)));
    assert_eq!((advance.leapt, advance.handled), (None, 0));
    assert_eq!(rig.gateway.now(), before(at(300)));
    assert_eq!(rig.to(reading + secs(300)).handled, 1);
    assert_eq!(rig.gateway.stats().counters.lost, 1);
}

#[test]
fn a_host_that_sleeps_until_it_was_asked_to_call_is_believed_however_long_that_is() {
    let year = secs(365 * 86_400);
    let mut rig = Rig::with_slots(quiet(), 1);
    rig.submit(job(1, "acme", DEV).timeouts(Timeouts { queue: Some(year), ..Timeouts::NONE }));
    assert_eq!(rig.gateway.next_deadline(), Some(START + year));
    let advance = rig.to(START + year);
    assert_eq!((advance.leapt, advance.handled), (None, 1));
    assert_eq!(rig.job(id(1)).finished, Some(START + year));
}

#[test]
fn without_live_jobs_any_reading_is_believed() {
    let mut rig = Rig::with_slots(quiet(), 1);
    let far = START + secs(10 * 365 * 86_400);
    assert_eq!(rig.to(far).now, far);
    rig.submit(job(1, "acme", DEV));
    assert_eq!(rig.job(id(1)).created, far);
}

#[test]
fn an_operator_who_says_that_the_time_is_right_is_believed() {
    let mut rig = running();
    let reading = at(100_000);
    assert!(rig.to(reading).leapt.is_some());
    let advance = rig.gateway.accept_clock(reading);
    assert_eq!((advance.now, advance.handled, advance.leapt), (reading, 1, None));
    assert_eq!(rig.gateway.stats().clock_offset, Span::ZERO);
    assert_eq!(rig.gateway.stats().counters.lost, 1);
}

#[test]
fn a_leap_that_is_taken_back_leaves_no_trace() {
    let mut rig = running();
    rig.to(at(100_000));
    // The host's clock is put right: the offset goes first, and no time is counted twice.
    assert_eq!(rig.to(at(5)).now, START);
    assert_eq!(rig.gateway.stats().clock_offset, secs(5));
    assert_eq!(rig.to(at(0)).now, START);
    assert_eq!(rig.gateway.stats().clock_offset, Span::ZERO);
    assert_eq!(rig.to(at(300)).handled, 1);
}

#[test]
fn time_that_goes_back_counts_as_the_latest_seen() {
    let mut rig = running();
    rig.to(at(100));
    assert_eq!(rig.gateway.heartbeat(at(50), libgateway::LeaseId::from_u64(1)), Ok(at(400)));
    assert_eq!(rig.gateway.now(), at(100));
    assert_eq!(rig.gateway.next_deadline(), Some(at(400)));
}

#[test]
fn the_end_of_time_is_a_time_like_any_other() {
    let mut rig = Rig::with_slots(quiet(), 1);
    rig.to(Timestamp::MAX);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    assert_eq!(lease.deadline, Timestamp::MAX);
    rig.complete(&lease);
    rig.to(Timestamp::MAX);
    assert_eq!(rig.gateway.now(), Timestamp::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn readings_in_any_order_never_turn_time_back_nor_count_it_twice(
        readings in prop::collection::vec(0..400_u64, 1..40),
    ) {
        // Against the highest reading so far: what the gateway's time is without any leap.
        let mut rig = Rig::new(quiet());
        rig.put(flux("gpu-1").lease_for(secs(100_000)));
        rig.submit(job(1, "acme", DEV));
        rig.lease();
        let mut highest = START;
        for reading in readings {
            highest = highest.max(at(reading));
            prop_assert_eq!(rig.to(at(reading)).now, highest);
        }
    }
}
