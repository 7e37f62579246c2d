//! What watchers and listeners are told: the present first, only what changed, always an end; events numbered without gaps.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

use libgateway::{
    Abort, CancelReason, Event, EventKind, FailureClass, Gateway, GatewayConfig, JobFailure, JobId, JobState, Outcome,
    Output, Priority, Span, Timeouts, Timestamp, Usage, Watch, WatchEvent, WatchStep,
};
use libgateway_tests::kit::{DEV, Rig, START, at, id, job, secs};
use libgateway_tests::rng::Rng;
use proptest::prelude::*;

const JOB: JobId = id(1);

fn queued(position: u32) -> WatchStep {
    WatchStep::Event(WatchEvent::Queued { position })
}

fn running(progress_ppm: u32) -> WatchStep {
    WatchStep::Event(WatchEvent::Running { progress_ppm })
}

fn delivered() -> WatchStep {
    WatchStep::Event(WatchEvent::Ended(Outcome::Complete(Output::url("https://cdn/x.webp"))))
}

fn waiting() -> (Rig, Watch) {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    (rig, Watch::new(JOB))
}

/// All events since the last call.
fn events(rig: &mut Rig) -> Vec<Event> {
    std::iter::from_fn(|| rig.gateway.poll_event()).collect()
}

fn kinds(rig: &mut Rig) -> Vec<EventKind> {
    events(rig).into_iter().map(|event| event.kind).collect()
}

#[test]
fn the_present_state_comes_first_whatever_it_is() {
    let (mut rig, _) = waiting();
    assert_eq!(Watch::new(JOB).poll(&rig.gateway), queued(0));
    let lease = rig.lease();
    assert_eq!(Watch::new(JOB).poll(&rig.gateway), running(0));
    rig.gateway.progress(rig.now, lease.id, 999_999).unwrap();
    assert_eq!(Watch::new(JOB).poll(&rig.gateway), running(999_999));
    rig.complete(&lease);
    assert_eq!(Watch::new(JOB).poll(&rig.gateway), delivered());

    let (mut rig, _) = waiting();
    rig.cancel(JOB);
    let cancelled = WatchEvent::Ended(Outcome::Cancelled(CancelReason::Requested));
    assert_eq!(Watch::new(JOB).poll(&rig.gateway), WatchStep::Event(cancelled));
    let (mut rig, _) = waiting();
    let lease = rig.lease();
    rig.fail(&lease, FailureClass::Rejected);
    let message = "as the test wants it".into();
    let failure = JobFailure { class: FailureClass::Rejected, message, retriable: false };
    assert_eq!(Watch::new(JOB).poll(&rig.gateway), WatchStep::Event(WatchEvent::Ended(Outcome::Error(failure))));
    assert_eq!(Watch::new(id(9)).poll(&rig.gateway), WatchStep::Event(WatchEvent::Gone));
}

#[test]
fn after_the_present_state_only_changes_are_told() {
    let (mut rig, mut watch) = waiting();
    assert_eq!(watch.poll(&rig.gateway), queued(0));
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
    // What happens to others, or to nobody, is no news.
    rig.submit(job(2, "zoo", DEV));
    rig.cancel(id(2));
    rig.pass(secs(1));
    rig.gateway.drain_backend(rig.now, "gpu-1", true).unwrap();
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
    rig.gateway.drain_backend(rig.now, "gpu-1", false).unwrap();
    let lease = rig.lease();
    assert_eq!(watch.poll(&rig.gateway), running(0));
    rig.gateway.heartbeat(rig.now, lease.id).unwrap();
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait, "a worker that lives is no news");
    rig.gateway.progress(rig.now, lease.id, 500_000).unwrap();
    assert_eq!(watch.poll(&rig.gateway), running(500_000));
    rig.gateway.progress(rig.now, lease.id, 500_000).unwrap();
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait, "nor is the same progress");
    rig.complete(&lease);
    assert_eq!(watch.poll(&rig.gateway), delivered());
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Done);
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Done);
}

#[test]
fn a_watcher_that_looks_seldom_misses_steps_and_not_the_end() {
    let (mut rig, mut watch) = waiting();
    assert_eq!(watch.poll(&rig.gateway), queued(0));
    let lease = rig.lease();
    rig.gateway.progress(rig.now, lease.id, 100).unwrap();
    rig.complete(&lease);
    assert_eq!(watch.poll(&rig.gateway), delivered(), "from waiting to its end in one look");
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Done);
}

#[test]
fn a_retry_is_told_as_waiting_again_also_to_one_who_missed_the_attempt() {
    let (mut rig, mut watch) = waiting();
    assert_eq!(watch.poll(&rig.gateway), queued(0));
    let lease = rig.lease();
    rig.fail(&lease, FailureClass::Timeout);
    assert_eq!(watch.poll(&rig.gateway), queued(0), "the same position, but not the same stay");
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
    rig.pass(secs(1));
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait, "that its wait is over is no news: it waits");
    let lease = rig.lease();
    assert_eq!(watch.poll(&rig.gateway), running(0));
    rig.gateway.progress(rig.now, lease.id, 700_000).unwrap();
    assert_eq!(watch.poll(&rig.gateway), running(700_000));
    rig.gateway.release(rig.now, lease.id).unwrap();
    assert_eq!(watch.poll(&rig.gateway), queued(0));
    rig.lease();
    assert_eq!(watch.poll(&rig.gateway), running(0), "a new attempt begins at nothing");
    // Another attempt, of which the watcher sees neither the end of the one nor the beginning of the other.
    rig.pass(secs(300));
    rig.lease();
    assert_eq!(watch.poll(&rig.gateway), running(0));
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
}

#[test]
fn a_job_that_vanishes_is_gone_and_that_is_an_end() {
    for look in [0, 1] {
        let config = GatewayConfig::default().retain_for(secs(60));
        let mut rig = Rig::with_slots(config, 1);
        rig.submit(job(1, "acme", DEV));
        let mut watch = Watch::new(JOB);
        (0..look).for_each(|_| assert_eq!(watch.poll(&rig.gateway), queued(0)));
        rig.cancel(JOB);
        rig.pass(secs(60));
        assert_eq!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Gone));
        assert_eq!(watch.poll(&rig.gateway), WatchStep::Done);
        // Whoever was told the end is not told that the record left.
    }
    let (mut rig, mut watch) = waiting();
    rig.cancel(JOB);
    assert!(matches!(watch.poll(&rig.gateway), WatchStep::Event(WatchEvent::Ended(_))));
    rig.gateway.delete(rig.now, JOB).unwrap();
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Done);
}

#[test]
fn a_watch_outlives_the_gateway_it_looked_at() {
    let (mut rig, mut watch) = waiting();
    assert_eq!(watch.poll(&rig.gateway), queued(0));
    rig.gateway = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait, "nothing changed for it");
    let lease = rig.lease();
    rig.gateway = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    assert_eq!(watch.poll(&rig.gateway), running(0));
    rig.complete(&lease);
    assert_eq!(watch.poll(&rig.gateway), delivered());
}

/// A busy gateway, and every step of it.
fn step(rig: &mut Rig, chance: &mut Rng) {
    let number = u128::from(chance.below(12));
    let lease = libgateway::LeaseId::from_u64(rig.gateway.stats().counters.leases.saturating_sub(chance.below(3)));
    match chance.below(12) {
        0..=2 => {
            let lane = *chance.pick(&[Priority::High, Priority::Normal, Priority::Low]);
            let timeouts = Timeouts { total: chance.one_in(3).then_some(secs(20)), ..Timeouts::NONE };
            _ = rig.gateway.submit(rig.now, job(number, "acme", DEV).priority(lane).timeouts(timeouts));
        }
        3 | 4 => _ = rig.gateway.dispatch(rig.now),
        5 => _ = rig.gateway.progress(rig.now, lease, chance.below(3) as u32),
        6 => _ = rig.gateway.complete(rig.now, lease, Output::url("u"), Usage::unmeasured()),
        7 => {
            let failure = libgateway::Failure::new(*chance.pick(&[FailureClass::Timeout, FailureClass::Rejected]), "");
            _ = rig.gateway.fail(rig.now, lease, failure, Usage::unmeasured());
        }
        8 => _ = rig.gateway.release(rig.now, lease),
        9 => _ = rig.gateway.cancel(rig.now, id(number)),
        10 => _ = rig.gateway.delete(rig.now, id(number)),
        _ => _ = rig.pass(Span::from_millis(chance.below(9_000))),
    }
    rig.check();
}

fn busy(seed: u64) -> (Rig, Rng) {
    let config = GatewayConfig::default().retain_for(secs(30)).lease_for(secs(15)).age_after(Some(secs(8)));
    (Rig::with_slots(config, 2), Rng::new(seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_watch_tells_the_truth_says_nothing_twice_and_comes_to_an_end(seed: u64) {
        let (mut rig, mut chance) = busy(seed);
        let mut watches: Vec<(Watch, Option<(WatchEvent, u32)>)> = Vec::new();
        for round in 0..300 {
            step(&mut rig, &mut chance);
            if chance.one_in(6) {
                watches.push((Watch::new(id(u128::from(chance.below(12)))), None));
            }
            let often = 1 + chance.below(3);
            for (watch, last) in watches.iter_mut().filter(|_| round % often == 0) {
                look(&rig, watch, last)?;
            }
        }
        // No more commands, and time goes on: all that is left has to end, and so does every watch.
        for number in 0..12 {
            _ = rig.gateway.cancel(rig.now, id(number));
        }
        rig.pass(secs(31));
        for (watch, last) in &mut watches {
            for _ in 0..3 {
                look(&rig, watch, last)?;
            }
            prop_assert_eq!(watch.poll(&rig.gateway), WatchStep::Done);
        }
    }

    #[test]
    fn events_are_numbered_from_one_without_gaps_and_in_order_of_time(seed: u64) {
        let (mut rig, mut chance) = busy(seed);
        let (mut next, mut latest) = (1, START);
        let mut live = std::collections::BTreeMap::new();
        for _ in 0..300 {
            step(&mut rig, &mut chance);
            if chance.one_in(4) {
                continue;
            }
            for Event { number, at, kind, .. } in events(&mut rig) {
                prop_assert_eq!(number, next);
                prop_assert!(at >= latest && at <= rig.gateway.now());
                (next, latest) = (number + 1, at);
                follow(&mut live, kind);
            }
            prop_assert_eq!(rig.gateway.next_event(), next);
            for (job, state) in &live {
                prop_assert_eq!(rig.gateway.job(*job).map(|job| job.state), Some(*state), "{}", job);
            }
            prop_assert_eq!(rig.gateway.stats().events, 0);
        }
    }
}

/// Looks until there is nothing new, and checks that each thing told is true and new.
fn look(rig: &Rig, watch: &mut Watch, last: &mut Option<(WatchEvent, u32)>) -> Result<(), TestCaseError> {
    let view = rig.gateway.job(watch.job());
    let ended = matches!(last, Some((WatchEvent::Ended(_) | WatchEvent::Gone, _)));
    match watch.poll(&rig.gateway) {
        WatchStep::Done => prop_assert!(ended, "an end without an end"),
        WatchStep::Wait => prop_assert!(last.is_some() && !ended, "the first answer is the present state"),
        WatchStep::Event(event) => {
            prop_assert!(!ended, "{:?} after the end", event);
            let version = view.as_ref().map_or(u32::MAX, |view| view.version);
            let seen = (event.clone(), version);
            prop_assert_ne!(last.as_ref(), Some(&seen), "told twice");
            match (&event, view) {
                (WatchEvent::Gone, view) => prop_assert_eq!(view, None),
                (WatchEvent::Queued { position }, Some(view)) => prop_assert_eq!(view.position, Some(*position)),
                (WatchEvent::Running { progress_ppm }, Some(view)) => {
                    prop_assert_eq!((view.state, view.progress_ppm), (JobState::Running, *progress_ppm));
                }
                (WatchEvent::Ended(outcome), Some(view)) => prop_assert_eq!(view.outcome.as_ref(), Some(outcome)),
                (event, view) => prop_assert!(false, "{:?} of {:?}", event, view),
            }
            *last = Some((event, version));
            prop_assert!(matches!(watch.poll(&rig.gateway), WatchStep::Wait | WatchStep::Done));
        }
    }
    Ok(())
}

/// Follows the jobs by what is told of them alone.
fn follow(live: &mut std::collections::BTreeMap<JobId, JobState>, kind: EventKind) {
    let (job, before, after) = match kind {
        EventKind::Queued(job) => (job, None, Some(JobState::Queued)),
        EventKind::Started(job) => (job, Some(JobState::Queued), Some(JobState::Running)),
        EventKind::Progress(job) => (job, Some(JobState::Running), Some(JobState::Running)),
        EventKind::Retried(job) | EventKind::Requeued(job) => (job, Some(JobState::Running), Some(JobState::Queued)),
        EventKind::Aged(job) => (job, Some(JobState::Queued), Some(JobState::Queued)),
        EventKind::Ended(job, state) => {
            assert!(live.get(&job).is_some_and(|state| !state.is_terminal()), "{job} ended twice");
            (job, live.get(&job).copied(), Some(state))
        }
        EventKind::Forgotten(job) => {
            assert!(live.get(&job).is_some_and(|state| state.is_terminal()), "{job} was forgotten alive");
            (job, live.get(&job).copied(), None)
        }
        EventKind::ClockLeapt(_) => return,
        other => panic!("{other:?}"),
    };
    assert_eq!(live.get(&job).copied(), before, "{kind:?}");
    match after {
        Some(state) => live.insert(job, state),
        None => live.remove(&job),
    };
}

#[test]
fn events_tell_each_step_of_a_life() {
    use EventKind::{Aged, Ended, Forgotten, Progress, Queued, Requeued, Retried, Started};
    let config = GatewayConfig::default().age_after(Some(secs(500))).retain_for(secs(1_000));
    let mut rig = Rig::with_slots(config, 1);
    rig.submit(job(1, "acme", DEV));
    rig.pass(secs(500));
    let lease = rig.lease();
    rig.gateway.progress(rig.now, lease.id, 5).unwrap();
    rig.fail(&lease, FailureClass::Timeout);
    rig.pass(secs(1));
    let lease = rig.lease();
    rig.gateway.release(rig.now, lease.id).unwrap();
    rig.lease();
    rig.pass(secs(300));
    let lease = rig.lease();
    rig.complete(&lease);
    rig.pass(secs(1_000));
    let told = [
        Queued(JOB),
        Aged(JOB),
        Started(JOB),
        Progress(JOB),
        Retried(JOB),
        Started(JOB),
        Requeued(JOB),
        Started(JOB),
        Requeued(JOB),
        Started(JOB),
        Ended(JOB, JobState::Complete),
        Forgotten(JOB),
    ];
    assert_eq!(kinds(&mut rig), told);
}

#[test]
fn an_event_bears_the_instant_at_which_it_was_due_and_not_that_of_the_call() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    for number in 1..=3 {
        let timeouts = Timeouts { queue: Some(secs(number)), ..Timeouts::NONE };
        rig.submit(job(u128::from(number), "acme", DEV).timeouts(timeouts));
    }
    rig.to(at(60));
    let instants: Vec<Timestamp> = events(&mut rig).iter().map(|event| event.at).collect();
    assert_eq!(instants, [START, START, START, at(1), at(2), at(3)]);
}

#[test]
fn a_host_that_fetches_too_late_sees_by_the_number_how_much_it_missed() {
    let mut rig = Rig::with_slots(GatewayConfig::default().events_max(3), 1);
    for number in 1..=5 {
        rig.submit(job(number, "acme", DEV));
    }
    assert_eq!(rig.gateway.stats().events, 3);
    let first = rig.gateway.poll_event().unwrap();
    assert_eq!((first.number, first.kind), (3, EventKind::Queued(id(3))), "1 and 2 were dropped for newer ones");
    rig.cancel(id(1));
    let rest: Vec<_> = events(&mut rig).into_iter().map(|event| (event.number, event.kind)).collect();
    let expected = [
        (4, EventKind::Queued(id(4))),
        (5, EventKind::Queued(id(5))),
        (6, EventKind::Ended(id(1), JobState::Cancelled)),
    ];
    assert_eq!(rest, expected);
    assert_eq!((rig.gateway.poll_event(), rig.gateway.next_event()), (None, 7));
}

#[test]
fn looking_at_events_does_not_fetch_them_and_fetching_changes_nothing_else() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    for number in 1..=4 {
        rig.submit(job(number, "acme", DEV));
    }
    let digest = rig.gateway.digest();
    let from = |rig: &Rig, from| rig.gateway.events_from(from).map(|event| event.number).collect::<Vec<_>>();
    assert_eq!(from(&rig, 0), [1, 2, 3, 4]);
    assert_eq!(from(&rig, 3), [3, 4]);
    assert_eq!(from(&rig, 5), [0; 0]);
    assert_eq!(from(&rig, u64::MAX), [0; 0]);
    assert_eq!(rig.gateway.poll_event().map(|event| event.number), Some(1));
    assert_eq!(from(&rig, 0), [2, 3, 4]);
    events(&mut rig);
    assert_eq!(rig.gateway.digest(), digest);
}

#[test]
fn numbers_go_on_after_a_restart() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    assert_eq!(rig.gateway.poll_event().map(|event| event.number), Some(1));
    rig.gateway = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    assert_eq!(rig.gateway.poll_event(), None, "what was not fetched is not kept");
    rig.cancel(id(1));
    assert_eq!(rig.gateway.poll_event().map(|event| event.number), Some(3), "and its number says so");
}

#[test]
fn what_a_transaction_takes_back_is_never_told() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 2);
    rig.submit(job(1, "acme", DEV));
    events(&mut rig);
    let aborted: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
        tx.submit(job(2, "acme", DEV))?;
        tx.dispatch().or_retry()?;
        tx.cancel(JOB)?;
        Err(Abort::Retry { until: None })
    });
    assert!(aborted.is_err());
    rig.check();
    assert_eq!((kinds(&mut rig), rig.gateway.next_event()), (vec![], 2));
    let done: Result<(), Abort> = rig.gateway.transaction(rig.now, |tx| {
        let inner: Result<(), Abort> = tx.attempt(|tx| {
            tx.cancel(JOB)?;
            Err(Abort::Retry { until: None })
        });
        assert!(inner.is_err());
        tx.submit(job(2, "acme", DEV))?;
        tx.dispatch().or_retry()?;
        Ok(())
    });
    assert!(done.is_ok());
    assert_eq!(kinds(&mut rig), [EventKind::Queued(id(2)), EventKind::Started(JOB)]);
}

#[test]
fn a_refused_command_tells_nothing() {
    let (mut rig, mut watch) = waiting();
    assert_eq!(watch.poll(&rig.gateway), queued(0));
    events(&mut rig);
    rig.gateway.submit(rig.now, job(1, "zoo", DEV)).unwrap_err();
    rig.gateway.delete(rig.now, JOB).unwrap_err();
    rig.gateway.cancel(rig.now, id(9)).unwrap_err();
    assert_eq!(kinds(&mut rig), []);
    assert_eq!(watch.poll(&rig.gateway), WatchStep::Wait);
}
