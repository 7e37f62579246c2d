//! `SharedGateway` with real threads: nobody is lost, nothing runs twice, waiting ends. Every wait has an end far away, so
//! that a lost wake-up fails instead of hanging; no test depends on how fast it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use libgateway::{
    Abort, Backend, BackendKind, CustomerPolicy, EventKind, Failure, FailureClass, Gateway, GatewayConfig, JobId,
    JobState, Notice, Outcome, Output, Route, SharedGateway, Span, Submit, SystemClock, Timeouts, Timestamp, Usage,
};

/// A gateway with one backend of `slots`, on a real clock that starts at a round number.
fn shared(config: GatewayConfig, slots: u32) -> (SharedGateway, Timestamp) {
    let start = Timestamp::from_secs(1_000);
    let zero = Instant::now();
    let clock = move || start + Span::from_nanos(zero.elapsed().as_nanos() as u64);
    let mut gateway = Gateway::new(config, start).unwrap();
    let backend = Backend::new("gpu", BackendKind::Torch).serves("image", "flux", ["*"]).slots(slots);
    gateway.put_backend(start, backend).unwrap();
    (SharedGateway::new(gateway, clock), start + Span::from_secs(60))
}

fn job(n: u64) -> Submit<'static> {
    Submit::new(JobId::from_entropy(u128::from(n)), "acme", Route::parse("image/flux/dev/t2i").unwrap())
}

fn submit(gateway: &SharedGateway, n: u64) -> JobId {
    gateway.with(|gateway, now| gateway.submit(now, job(n))).unwrap().unwrap()
}

#[test]
fn a_handle_goes_to_any_thread() {
    fn any_thread<T: Send + Sync + Clone>() {}
    any_thread::<SharedGateway>();
}

#[test]
fn every_job_runs_once_whoever_submits_and_whoever_works() {
    const SUBMITTERS: u64 = 4;
    const JOBS: u64 = 500;
    let (gateway, _) = shared(GatewayConfig::default(), 3);
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let done = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..6)
        .map(|worker| {
            let (gateway, seen, done) = (gateway.clone(), seen.clone(), done.clone());
            thread::spawn(move || {
                while done.load(Ordering::SeqCst) < SUBMITTERS * JOBS {
                    // A short end: when the last job is taken, those that still wait have to go home.
                    let soon = Some(gateway.with(|_, now| now).unwrap() + Span::from_millis(20));
                    let leases = if worker % 2 == 0 {
                        gateway.dispatch(soon).unwrap().into_iter().collect()
                    } else {
                        gateway.dispatch_to("gpu", 2, soon).unwrap().unwrap()
                    };
                    for lease in leases {
                        assert!(seen.lock().unwrap().insert(lease.job), "{} ran twice", lease.job);
                        let usage = Usage::unmeasured();
                        gateway
                            .with(|gateway, now| gateway.complete(now, lease.id, Output::url("x"), usage))
                            .unwrap()
                            .unwrap();
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|submitter| {
            let gateway = gateway.clone();
            thread::spawn(move || (0..JOBS).for_each(|n| _ = submit(&gateway, submitter * JOBS + n)))
        })
        .collect();
    submitters.into_iter().for_each(|thread| thread.join().unwrap());
    workers.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(seen.lock().unwrap().len() as u64, SUBMITTERS * JOBS);
    let gateway = gateway.into_inner().unwrap();
    gateway.check_invariants();
    assert_eq!(gateway.stats().counters.completed, SUBMITTERS * JOBS);
}

#[test]
fn one_job_at_a_time_finds_one_of_many_that_wait() {
    let (gateway, far) = shared(GatewayConfig::default(), 64);
    let (tx, rx) = std::sync::mpsc::channel();
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let (gateway, tx) = (gateway.clone(), tx.clone());
            thread::spawn(move || {
                let lease = gateway.dispatch(Some(far)).unwrap().expect("a job before the far end");
                tx.send(lease.job).unwrap();
            })
        })
        .collect();
    for n in 0..16 {
        let id = submit(&gateway, n);
        assert_eq!(rx.recv_timeout(Duration::from_secs(50)), Ok(id));
    }
    workers.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_dispatcher_wakes_at_the_deadline_the_gateway_names() {
    let (gateway, far) = shared(GatewayConfig::default(), 1);
    submit(&gateway, 1);
    let lease = gateway.dispatch(Some(far)).unwrap().unwrap();
    let failure = Failure::new(FailureClass::Timeout, "slow").retry_after(Span::from_millis(5));
    gateway.with(|gateway, now| gateway.fail(now, lease.id, failure, Usage::unmeasured())).unwrap().unwrap();
    let soon = Timestamp::from_secs(1_002);
    // Nobody calls the gateway now but the two that wait; one has to wake by itself, a second in.
    let other = gateway.clone();
    let second = thread::spawn(move || other.dispatch(Some(soon)).unwrap());
    let first = gateway.dispatch(Some(soon)).unwrap();
    let got: Vec<_> = [first, second.join().unwrap()].into_iter().flatten().collect();
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].job, got[0].attempt), (JobId::from_entropy(1), 2));
}

#[test]
fn waiting_ends_at_its_end() {
    let (gateway, far) = shared(GatewayConfig::default(), 1);
    let soon = Timestamp::from_secs(1_000) + Span::from_millis(10);
    assert_eq!(gateway.dispatch(Some(soon)).unwrap(), None);
    assert_eq!(gateway.dispatch_to("gpu", 4, Some(soon)).unwrap(), Ok(Vec::new()));
    assert!(gateway.dispatch_to("nobody", 4, Some(far)).unwrap().is_err());
    let id = submit(&gateway, 1);
    assert_eq!(gateway.outcome(id, Some(soon)).unwrap(), None);
    assert_eq!(gateway.outcome(JobId::from_entropy(99), None).unwrap(), None);
}

#[test]
fn a_transaction_waits_until_all_of_it_can_happen() {
    let (gateway, far) = shared(GatewayConfig::default(), 4);
    let route = Route::parse("image/flux/dev/t2i").unwrap();
    let waiting = {
        let (gateway, route) = (gateway.clone(), route.clone());
        thread::spawn(move || {
            gateway.transaction(Some(far), |tx| {
                let first = tx.dispatch_route(&route)?.or_retry()?;
                let second = tx.dispatch_route(&route)?.or_retry()?;
                Ok::<_, Abort>((first.job, second.job))
            })
        })
    };
    let one = submit(&gateway, 1);
    let two = submit(&gateway, 2);
    assert_eq!(waiting.join().unwrap().unwrap(), Ok((one, two)));
    let soon = Timestamp::from_secs(1_000) + Span::from_millis(1);
    let none = gateway.transaction(Some(soon), |tx| tx.dispatch().or_retry::<libgateway::error::Error>());
    assert!(matches!(none, Ok(Err(Abort::Retry { .. }))));
}

#[test]
fn the_end_of_a_job_wakes_those_who_asked_for_it() {
    for subscribed in [false, true] {
        let (gateway, far) = shared(GatewayConfig::default(), 1);
        let subscription = subscribed.then(|| gateway.subscribe(4).unwrap());
        let ids = [submit(&gateway, 1), submit(&gateway, 2)];
        let waiting: Vec<_> = ids
            .into_iter()
            .map(|id| {
                let gateway = gateway.clone();
                thread::spawn(move || gateway.outcome(id, Some(far)).unwrap())
            })
            .collect();
        let lease = gateway.dispatch(Some(far)).unwrap().unwrap();
        let output = Output::url("1.webp");
        gateway
            .with(|gateway, now| gateway.complete(now, lease.id, output.clone(), Usage::unmeasured()))
            .unwrap()
            .unwrap();
        gateway.with(|gateway, now| gateway.cancel(now, ids[1])).unwrap().unwrap();
        let ends: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ends[0], Some(Outcome::Complete(output)));
        assert!(matches!(ends[1], Some(Outcome::Cancelled(_))));
        drop(subscription);
    }
}

#[test]
fn a_slow_subscriber_is_told_to_look_again_and_holds_nobody_up() {
    let (gateway, _) = shared(GatewayConfig::default(), 1);
    let subscription = gateway.subscribe(2).unwrap();
    let ids: Vec<JobId> = (0..5).map(|n| submit(&gateway, n)).collect();
    for id in &ids[..2] {
        let Ok(Notice::Event(event)) = subscription.try_recv() else { panic!("the first two fit") };
        assert_eq!(event.kind, EventKind::Queued(*id));
    }
    assert_eq!(subscription.try_recv(), Ok(Notice::LookAgain));
    assert!(subscription.try_recv().is_err());
    gateway.with(|gateway, now| gateway.cancel(now, ids[4])).unwrap().unwrap();
    let Some(Notice::Event(event)) = subscription.recv() else { panic!("it goes on") };
    assert_eq!(event.kind, EventKind::Ended(ids[4], JobState::Cancelled));
    drop(gateway);
    assert_eq!(subscription.recv(), None);
}

#[test]
fn a_new_token_wakes_a_dispatcher_of_a_throttled_customer() {
    let policy = CustomerPolicy::default().rate(libgateway::RateLimit::per_second(100, 1));
    let (gateway, far) = shared(GatewayConfig::default().customer(policy), 4);
    submit(&gateway, 1);
    submit(&gateway, 2);
    assert!(gateway.dispatch(Some(far)).unwrap().is_some());
    // The bucket is empty for 10 ms; nothing but time brings the next token.
    assert!(gateway.dispatch(Some(far)).unwrap().is_some());
}

/// Lets other threads go on until so many callers wait. Ends when they never do.
fn until_waiting(gateway: &SharedGateway, callers: usize) {
    let zero = Instant::now();
    while gateway.waiting().unwrap() < callers {
        assert!(zero.elapsed() < Duration::from_secs(50), "they never wait");
        thread::yield_now();
    }
}

#[test]
fn a_hundred_that_wait_get_a_hundred_outcomes_of_one_turn_however_few_are_kept() {
    for config in [GatewayConfig::default().retained_max(1), GatewayConfig::default().retained_bytes_max(0)] {
        let (gateway, far) = shared(config, 100);
        let ids: Vec<JobId> = (0..100).map(|n| submit(&gateway, n)).collect();
        let waiting: Vec<_> = ids
            .iter()
            .map(|id| {
                let (gateway, id) = (gateway.clone(), *id);
                thread::spawn(move || gateway.outcome(id, Some(far)).unwrap())
            })
            .collect();
        until_waiting(&gateway, 100);
        gateway
            .with(|gateway, now| {
                while let Some(lease) = gateway.dispatch(now).lease() {
                    gateway.complete(now, lease.id, Output::url(lease.job.to_string()), Usage::unmeasured()).unwrap();
                }
            })
            .unwrap();
        for (id, thread) in ids.iter().zip(waiting) {
            assert_eq!(thread.join().unwrap(), Some(Outcome::Complete(Output::url(id.to_string()))));
        }
        let known = gateway.with(|gateway, _| ids.iter().filter(|id| gateway.outcome(**id).is_some()).count()).unwrap();
        assert!(known <= 1, "nobody waits any more, and {known} are kept");
    }
}

#[test]
fn the_end_of_a_job_costs_its_own_watchers_a_look_and_no_others() {
    const WATCHERS: u64 = 300;
    let (gateway, far) = shared(GatewayConfig::default(), 4);
    for n in 0..=WATCHERS {
        submit(&gateway, n);
    }
    let waiting: Vec<_> = (0..WATCHERS)
        .map(|n| {
            let gateway = gateway.clone();
            thread::spawn(move || gateway.outcome(JobId::from_entropy(n.into()), Some(far)).unwrap())
        })
        .collect();
    until_waiting(&gateway, WATCHERS as usize);
    let before = gateway.attempts().unwrap();
    // Jobs come, run and report, and one that nobody waits for ends: no news for those who wait.
    for n in 1_000..1_050 {
        submit(&gateway, n);
        gateway.with(|gateway, now| gateway.cancel(now, JobId::from_entropy(n.into()))).unwrap().unwrap();
    }
    // The callers that were woken to look at a nearer deadline, one at a time, if any.
    assert!(gateway.with(|gateway, _| gateway.next_deadline().is_some()).unwrap(), "records leave one day");
    gateway.with(|gateway, now| gateway.cancel(now, JobId::from_entropy(7))).unwrap().unwrap();
    let zero = Instant::now();
    while gateway.waiting().unwrap() as u64 > WATCHERS - 1 {
        assert!(zero.elapsed() < Duration::from_secs(50), "it never hears of the end");
        thread::yield_now();
    }
    let looks = gateway.attempts().unwrap() - before;
    assert!(looks <= 4, "one ended, one leads, and {looks} looked");
    for n in 0..WATCHERS {
        _ = gateway.with(|gateway, now| gateway.cancel(now, JobId::from_entropy(n.into()))).unwrap();
    }
    waiting.into_iter().for_each(|thread| assert!(thread.join().unwrap().is_some()));
    let looks = gateway.attempts().unwrap() - before;
    assert!(looks <= 3 * WATCHERS, "{looks} looks for {WATCHERS} ends");
}

#[test]
fn of_many_watchers_one_wakes_at_a_deadline_and_wakes_whom_it_helps() {
    let (gateway, far) = shared(GatewayConfig::default(), 1);
    let soon = Timeouts { queue: Some(Span::from_millis(30)), ..Timeouts::NONE };
    gateway.with(|gateway, now| gateway.submit(now, job(1).timeouts(soon))).unwrap().unwrap();
    for n in 2..50 {
        submit(&gateway, n);
    }
    let waiting: Vec<_> = (2..50)
        .map(|n| {
            let gateway = gateway.clone();
            thread::spawn(move || gateway.outcome(JobId::from_entropy(n), Some(far)).unwrap())
        })
        .collect();
    // Nobody calls the gateway any more but those who wait for other jobs, and one of them handles what is due.
    assert!(gateway.outcome(JobId::from_entropy(1), Some(far)).unwrap().is_some());
    until_waiting(&gateway, 48);
    let looks = gateway.attempts().unwrap();
    assert!(looks < 200, "{looks} looks for one deadline");
    for n in 2..50 {
        gateway.with(|gateway, now| gateway.cancel(now, JobId::from_entropy(n))).unwrap().unwrap();
    }
    waiting.into_iter().for_each(|thread| assert!(thread.join().unwrap().is_some()));
}

#[test]
fn transactions_that_wait_are_woken_by_no_step_that_was_taken_back() {
    // Each took a job, found no second one and gave it back, and each took that for news: they woke each other for ever.
    let (gateway, far) = shared(GatewayConfig::default(), 4);
    submit(&gateway, 1);
    let tries = Arc::new(AtomicU64::new(0));
    let waiting = [(); 2].map(|()| {
        let (gateway, tries) = (gateway.clone(), tries.clone());
        thread::spawn(move || {
            gateway.transaction(Some(far), |tx| {
                tries.fetch_add(1, Ordering::SeqCst);
                let first = tx.dispatch().or_retry()?;
                let second = tx.dispatch().or_retry()?;
                Ok::<_, Abort>((first.job, second.job))
            })
        })
    });
    until_waiting(&gateway, 2);
    // Looks and refusals are no changes; whatever wakes it would show in the number of tries.
    for _ in 0..1_000 {
        gateway.with(|gateway, now| gateway.cancel(now, JobId::from_entropy(77)).unwrap_err()).unwrap();
    }
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    for n in 2..5 {
        submit(&gateway, n);
    }
    let pairs = waiting.map(|thread| thread.join().unwrap().unwrap().unwrap());
    assert_eq!(pairs.iter().flat_map(|(one, two)| [*one, *two]).collect::<BTreeSet<_>>().len(), 4);
    // Each submission is news for each of those who wait.
    assert!(tries.load(Ordering::SeqCst) <= 2 + 2 * 3);
}

#[test]
fn a_panic_under_the_lock_wakes_everybody_who_waits() {
    let (gateway, _) = shared(GatewayConfig::default(), 1);
    let id = submit(&gateway, 1);
    let subscription = gateway.subscribe(4).unwrap();
    gateway.with(|gateway, now| gateway.pause(now, &Route::parse("image/flux/dev/t2i").unwrap())).unwrap().unwrap();
    let waiting: Vec<_> = (0..5)
        .map(|kind| {
            let gateway = gateway.clone();
            // Without an end: nothing but the panic wakes them.
            thread::spawn(move || match kind {
                0 | 1 => gateway.dispatch(None).is_err(),
                2 => gateway.dispatch_to("gpu", 1, None).is_err(),
                3 => gateway.outcome(id, None).is_err(),
                _ => gateway.transaction(None, |tx| tx.dispatch().or_retry::<libgateway::error::Error>()).is_err(),
            })
        })
        .collect();
    let listening = thread::spawn(move || subscription.recv());
    until_waiting(&gateway, 5);
    let other = gateway.clone();
    assert!(thread::spawn(move || other.with(|_, _| panic!("planted"))).join().is_err());
    waiting.into_iter().for_each(|thread| assert!(thread.join().unwrap(), "it is told"));
    assert_eq!(listening.join().unwrap(), None);
}

#[test]
fn a_subscriber_that_missed_events_is_woken_though_nothing_is_kept_for_it() {
    let (gateway, _) = shared(GatewayConfig::default(), 1);
    let subscription = gateway.subscribe(4).unwrap();
    let listening = thread::spawn(move || {
        let first = subscription.recv();
        (first, subscription.try_recv().is_err())
    });
    // The host fetches the event before anybody is told of it.
    gateway
        .with(|gateway, now| {
            gateway.submit(now, job(1)).unwrap();
            assert!(gateway.poll_event().is_some());
        })
        .unwrap();
    assert_eq!(listening.join().unwrap(), (Some(Notice::LookAgain), true));
}

#[test]
fn a_panic_under_the_lock_is_told_to_everybody_after() {
    let (gateway, far) = shared(GatewayConfig::default(), 1);
    let other = gateway.clone();
    let panicked = thread::spawn(move || other.with(|_, _| panic!("planted"))).join();
    assert!(panicked.is_err());
    assert!(gateway.with(|_, _| ()).is_err());
    assert!(gateway.dispatch(Some(far)).is_err());
    assert!(gateway.into_inner().is_none());
}

/// A gateway made by a clock that is `step` seconds off, shared by a host whose clock is right, with one job that runs.
/// Counts how often that clock is read.
fn made_by_another_clock(step: i64) -> (SharedGateway, Arc<AtomicU64>, Timestamp) {
    let right = Timestamp::from_secs(1_000_000_000);
    let made = Timestamp::from_secs(1_000_000_000_u64.saturating_add_signed(step));
    let mut gateway = Gateway::new(GatewayConfig::default(), made).unwrap();
    let backend = Backend::new("gpu", BackendKind::Torch).serves("image", "flux", ["*"]);
    gateway.put_backend(made, backend).unwrap();
    gateway.submit(made, job(1)).unwrap();
    assert!(gateway.dispatch(made).lease().is_some());
    let (zero, reads) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let counted = reads.clone();
    let clock = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        right + Span::from_nanos(zero.elapsed().as_nanos() as u64)
    };
    (SharedGateway::new(gateway, clock), reads, right)
}

#[test]
fn who_waits_does_not_spin_whatever_the_clock_was_before() {
    for step in [-36_000, -36, 36, 36_000] {
        let (gateway, reads, right) = made_by_another_clock(step);
        let until = Some(right + Span::from_millis(60));
        assert!(gateway.dispatch(until).unwrap().is_none());
        assert!(gateway.dispatch_to("gpu", 1, until).unwrap().unwrap().is_empty());
        assert!(gateway.outcome(JobId::from_entropy(1), until).unwrap().is_none());
        let reads = reads.load(Ordering::SeqCst);
        assert!(reads <= 9, "step {step}: {reads} attempts of three that wait");
    }
}

#[test]
fn a_wait_ends_although_the_hosts_clock_steps_back_in_it() {
    let start = Timestamp::from_secs(1_000_000);
    let (zero, reads) = (Instant::now(), AtomicU64::new(0));
    let clock = move || {
        let back = if reads.fetch_add(1, Ordering::SeqCst) == 0 { 0 } else { 36_000 };
        Timestamp::from_secs(1_000_000 - back) + Span::from_nanos(zero.elapsed().as_nanos() as u64)
    };
    let gateway = SharedGateway::new(Gateway::new(GatewayConfig::default(), start).unwrap(), clock);
    assert!(gateway.dispatch(Some(start + Span::from_millis(30))).unwrap().is_none());
}

#[test]
fn the_system_clock_begins_at_the_walls_time_and_never_goes_back() {
    fn any_thread<T: Send + Sync + Copy>() {}
    any_thread::<SystemClock>();
    let clock = SystemClock::new();
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(
        clock.now().as_nanos().abs_diff(wall.as_nanos() as u64) < 3_600_000_000_000,
        "about what a wall clock shows"
    );
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut last = clock.now();
                for _ in 0..10_000 {
                    let now = SystemClock::of_process().now().max(clock.now());
                    assert!(now >= last);
                    last = now;
                }
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
}
