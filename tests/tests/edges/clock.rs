//! The host's clock: whichever way it steps, no time stands still, and no worker that is heard loses its lease.

use std::num::NonZeroU32;

use libgateway::{
    BackoffConfig, BreakerState, CircuitBreakerConfig, CustomerPolicy, Dispatch, EventKind, FailureClass, Gateway,
    GatewayConfig, JobState, LeaseId, Output, RateLimit, Span, Timeouts, Timestamp, Usage,
};
use libgateway_tests::kit::{DEV, Rig, START, after, at, before, flux, id, job, secs};
use proptest::prelude::*;

use crate::quiet;

const LIMIT: Span = Span::from_secs(3_600);
const YEAR: i64 = 365 * 86_400;

/// Steps of a clock in seconds, both ways.
const STEPS: [i64; 26] = [
    1,
    12,
    30,
    45,
    59,
    61,
    100,
    600,
    3_599,
    3_600,
    3_601,
    28_800,
    86_400,
    10 * YEAR,
    -1,
    -12,
    -30,
    -45,
    -59,
    -61,
    -600,
    -3_600,
    -28_800,
    -86_400,
    -YEAR,
    -10 * YEAR,
];

fn stepped(at: Timestamp, step: i64) -> Timestamp {
    let nanos = i128::from(at.as_nanos()) + i128::from(step) * 1_000_000_000;
    Timestamp::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

/// A job runs under a lease of five minutes.
fn running() -> Rig {
    let mut rig = Rig::new(quiet());
    rig.put(flux("gpu-1").lease_for(secs(300)));
    rig.submit(job(1, "acme", DEV));
    rig.lease();
    rig
}

/// A host in true time, and workers that are heard every twenty seconds.
struct Host {
    rig: Rig,
    /// Nanoseconds of true time since the beginning, and how far its clock is off, in seconds.
    time: u64,
    step: i64,
    /// Calls every second, or sleeps until it is asked to call, by a clock that does not step.
    polls: bool,
    wakes: Option<u64>,
    /// Leases and when their workers are heard next.
    workers: Vec<(LeaseId, u64)>,
}

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLI;

impl Host {
    /// `workers` begin to work three seconds after each other, on leases of a minute.
    fn new(config: GatewayConfig, polls: bool, workers: u64, timeouts: Timeouts) -> Self {
        let mut rig = Rig::new(config);
        rig.put(flux("gpu-1").slots(50).lease_for(secs(60)));
        let mut host = Self { rig, time: 0, step: 0, polls, wakes: None, workers: Vec::new() };
        for worker in 0..workers {
            host.run(worker * 3 * SECOND);
            let now = host.now();
            host.rig.gateway.submit(now, job(worker.into(), "acme", DEV).timeouts(timeouts)).unwrap();
            let Dispatch::Lease(lease) = host.rig.gateway.dispatch(now) else { panic!() };
            host.workers.push((lease.id, host.time + 20 * SECOND));
            host.rest();
        }
        host
    }

    fn now(&self) -> Timestamp {
        stepped(START + Span::from_nanos(self.time), self.step)
    }

    fn rest(&mut self) {
        self.rig.check();
        let now = self.now();
        let until = self.rig.gateway.next_deadline().map(|at| self.time + at.since(now).as_nanos());
        self.wakes = if self.polls { Some(self.time + SECOND - (self.time + 500 * MILLI) % SECOND) } else { until };
    }

    /// Goes on until a time. Returns how many leases were lost.
    fn run(&mut self, until: u64) {
        loop {
            let beat = self.workers.iter().map(|(_, beat)| *beat).min();
            let Some(next) = [beat, self.wakes].into_iter().flatten().min().filter(|next| *next <= until) else {
                break;
            };
            self.time = self.time.max(next);
            let now = self.now();
            match self.workers.iter_mut().find(|(_, beat)| *beat <= self.time) {
                Some((lease, beat)) => {
                    *beat += 20 * SECOND;
                    let lease = *lease;
                    assert!(
                        self.rig.gateway.heartbeat(now, lease).is_ok(),
                        "lease {lease:?} was lost at {}",
                        self.time
                    );
                }
                None => _ = self.rig.gateway.advance(now),
            }
            self.rest();
        }
        self.time = until;
    }
}

#[test]
fn no_step_ends_a_lease_whose_worker_is_heard() {
    for step in STEPS {
        for (polls, workers) in [(true, 1), (true, 4), (false, 1), (false, 4)] {
            for moment in [12_300, 19_900, 27_700, 41_200] {
                let mut host = Host::new(quiet(), polls, workers, Timeouts::NONE);
                host.run(moment * MILLI);
                host.step += step;
                host.run(600 * SECOND);
                let stats = host.rig.gateway.stats();
                assert_eq!(stats.counters.lost, 0, "step {step}, polls {polls}, {workers} workers, {moment} ms");
                // And back again.
                host.step -= step;
                host.run(1_200 * SECOND);
                assert_eq!(host.rig.gateway.stats().counters.lost, 0, "back from {step}, polls {polls}, {moment} ms");
            }
        }
    }
}

#[test]
fn no_step_passes_the_time_limit_of_a_job_that_a_worker_works_on() {
    let limits =
        [Timeouts { run: Some(secs(90)), ..Timeouts::NONE }, Timeouts { total: Some(secs(90)), ..Timeouts::NONE }];
    for timeouts in limits {
        for step in STEPS.into_iter().filter(|step| step.unsigned_abs() > 60) {
            for polls in [true, false] {
                let mut host = Host::new(quiet(), polls, 1, timeouts);
                host.run(12_300 * MILLI);
                host.step += step;
                host.run(85 * SECOND);
                assert_eq!(host.rig.state(id(0)), JobState::Running, "step {step}, polls {polls}, {timeouts:?}");
                host.workers.clear();
                host.run(200 * SECOND);
                assert_ne!(host.rig.state(id(0)), JobState::Running, "step {step}: the limit is still one");
                assert_eq!(host.rig.gateway.stats().counters.lost, 0);
            }
        }
    }
}

#[test]
fn a_lease_whose_worker_is_dead_ends_after_any_step() {
    for step in STEPS {
        for polls in [true, false] {
            let mut host = Host::new(quiet(), polls, 1, Timeouts::NONE);
            host.run(12_300 * MILLI);
            host.step += step;
            host.workers.clear();
            host.run(5 * 60 * SECOND);
            assert_eq!(host.rig.gateway.stats().counters.lost, 1, "step {step}, polls {polls}");
        }
    }
}

#[test]
fn a_dead_workers_lease_ends_although_the_host_is_always_late() {
    // A host that looks once in 61 s, and has missed the end of a lease of 60 s each time.
    let mut rig = Rig::new(quiet());
    rig.put(flux("gpu-1").lease_for(secs(60)));
    rig.submit(job(1, "acme", DEV));
    rig.lease();
    let mut looks = 0;
    while rig.state(id(1)) == JobState::Running {
        rig.pass(secs(61));
        looks += 1;
    }
    assert_eq!(looks, 4, "three times its lease was given time again");
}

#[test]
fn a_job_ends_at_its_limit_although_its_host_only_calls_when_it_is_called() {
    // A worker that is heard every 45 s, and nobody calls in between: each call is late.
    let mut rig = Rig::new(quiet());
    rig.put(flux("gpu-1").lease_for(secs(60)));
    rig.submit(job(1, "acme", DEV).timeouts(Timeouts { run: Some(secs(100)), ..Timeouts::NONE }));
    let lease = rig.lease();
    let mut heard = 0;
    loop {
        rig.now += secs(45);
        if rig.gateway.heartbeat(rig.now, lease.id).is_err() {
            break;
        }
        heard += 1;
    }
    assert_eq!(heard, 10, "two times in its limit, and eight times it was not counted");
    assert_eq!(rig.job(id(1)).failure.map(|failure| failure.class), Some(FailureClass::Timeout));
}

#[test]
fn a_host_that_was_suspended_gives_each_live_lease_time_for_one_heartbeat() {
    // A host that comes back within 250 ms of when it was asked to call looks like one that slept: 59 s is not here.
    for away in [41, 58, 60, 61, 90, 600, 7_200, 5 * 86_400] {
        let mut rig = Rig::new(quiet());
        rig.put(flux("gpu-1").slots(2).lease_for(secs(60)));
        for number in 1..=2 {
            rig.submit(job(number, "acme", DEV));
        }
        let leases = rig.leases();
        rig.pass(secs(1));
        rig.pass(secs(away));
        // A worker whose calls failed meanwhile is heard again within its rhythm, the other one is dead.
        rig.pass(secs(20));
        assert!(rig.gateway.heartbeat(rig.now, leases[0].id).is_ok(), "away {away}");
        let mut beats = 0;
        while rig.state(id(2)) == JobState::Running {
            rig.pass(secs(10));
            beats += 1;
            assert!(rig.gateway.heartbeat(rig.now, leases[0].id).is_ok() && beats < 15, "away {away}");
        }
        assert_eq!(rig.state(id(1)), JobState::Running);
    }
}

/// When something comes for the host after a step of its clock: seconds of its running clock.
fn waits(rig: &mut Rig, has_come: impl Fn(&mut Rig) -> bool) -> u64 {
    let began = rig.now;
    for _ in 0..200 {
        if has_come(rig) {
            return rig.now.since(began).as_secs_ceil();
        }
        rig.pass(secs(1));
    }
    panic!("it never comes");
}

/// A gateway that was made, or has stood idle, at a clock that is off by `step`, and is right 30 s later.
fn made_at(step: i64, config: GatewayConfig, idle: bool) -> Rig {
    let wrong = stepped(START, step);
    let mut gateway = Gateway::new(config, if idle { START } else { wrong }).unwrap();
    if idle {
        gateway.advance(wrong);
    }
    let mut rig = Rig { gateway, now: wrong, checked: true };
    rig.put(flux("gpu-1").slots(2).lease_for(secs(60)));
    rig
}

#[test]
fn time_goes_on_for_a_gateway_made_or_idle_at_a_wrong_clock() {
    let breaker = CircuitBreakerConfig::default().consecutive_failures(NonZeroU32::new(1)).open_for(secs(60));
    let slow = CustomerPolicy::default().rate(RateLimit::new(1, secs(10), 1).unwrap());
    let config = quiet().breaker(breaker);
    let right = |rig: &mut Rig| rig.to(START + secs(30));
    let lost = |rig: &mut Rig| rig.gateway.stats().counters.lost == 1;
    let cancelled = |rig: &mut Rig| rig.state(id(9)) == JobState::Cancelled;
    let half_open = |rig: &mut Rig| rig.gateway.backend("gpu-1").unwrap().breaker.state == BreakerState::HalfOpen;
    let waiting = || job(9, "acme", DEV).timeouts(Timeouts { queue: Some(secs(30)), ..Timeouts::NONE });
    for (step, idle) in STEPS.into_iter().flat_map(|step| [(step, false), (step, true)]) {
        let made = |config: &GatewayConfig| made_at(step, config.clone(), idle);
        // What began after the clock was right comes exactly when it should.
        let mut rig = made(&config);
        right(&mut rig);
        rig.submit(job(1, "acme", DEV));
        rig.lease();
        assert_eq!(waits(&mut rig, lost), 60, "a lease after {step}");
        let mut rig = made(&config);
        right(&mut rig);
        rig.submit(waiting());
        assert_eq!(waits(&mut rig, cancelled), 30, "a queue time-out after {step}");

        // What began before comes no later after it than it takes.
        let mut rig = made(&config);
        rig.submit(waiting());
        right(&mut rig);
        assert!(waits(&mut rig, cancelled) <= 30, "a queue time-out over {step}");
        let mut rig = made(&config);
        rig.submit(job(1, "acme", DEV));
        let lease = rig.lease();
        rig.fail(&lease, FailureClass::Backend);
        right(&mut rig);
        assert!(waits(&mut rig, half_open) <= 60, "an open breaker over {step}");
        let mut rig = made(&config.clone().customer(slow.clone()));
        for number in 1..=2 {
            rig.submit(job(number, "acme", DEV));
        }
        assert_eq!(rig.leases().len(), 1);
        right(&mut rig);
        assert!(waits(&mut rig, |rig| !rig.leases().is_empty()) <= 10, "a token over {step}");
        let mut rig = made(&config);
        rig.submit(job(1, "acme", DEV));
        rig.lease();
        right(&mut rig);
        // A step ahead gives a lease its time again, once when it is seen and once when it is believed.
        assert!(waits(&mut rig, lost) <= 180, "a lease over {step}");
    }
}

#[test]
fn one_wild_reading_changes_nothing_for_a_busy_gateway() {
    for wild in [Timestamp::MAX, Timestamp::EPOCH, before(Timestamp::MAX), at(10 * YEAR as u64), stepped(START, -YEAR)]
    {
        let mut rig = running();
        rig.submit(job(2, "acme", DEV).timeouts(Timeouts { queue: Some(secs(30)), ..Timeouts::NONE }));
        rig.to(at(10));
        rig.to(wild);
        assert_eq!((rig.state(id(1)), rig.state(id(2))), (JobState::Running, JobState::Queued), "{wild:?}");
        // From the wild reading to the next one nobody knows what passed, if the clock was behind.
        rig.to(at(11));
        assert_eq!(rig.gateway.now(), at(11));
        let late = at(30).since(rig.gateway.next_deadline().unwrap());
        assert!(late.is_zero(), "{wild:?}: {:?}", rig.gateway.next_deadline());
        rig.to(at(31));
        assert_eq!(rig.state(id(2)), JobState::Cancelled, "{wild:?}");
        rig.to(at(320));
        rig.to(at(700));
        assert_eq!(rig.job(id(1)).requeues + u32::from(rig.state(id(1)) == JobState::Running), 1, "{wild:?}");
    }
}

#[test]
fn the_host_sees_no_clock_but_its_own() {
    // 8 h ahead when it was made, then right.
    let wrong = at(28_800);
    let exact = BackoffConfig::default().jitter_ppm(0);
    let mut gateway = Gateway::new(GatewayConfig::default().backoff(exact), wrong).unwrap();
    gateway.put_backend(wrong, flux("gpu-1").slots(2).lease_for(secs(60))).unwrap();
    gateway.submit(wrong, job(1, "acme", DEV)).unwrap();
    let now = at(30);
    let advance = gateway.advance(now);
    assert_eq!((advance.now, gateway.now()), (now, now));
    let Dispatch::Lease(lease) = gateway.dispatch(now) else { panic!() };
    assert_eq!(lease.deadline, at(90));
    assert_eq!((gateway.next_deadline(), advance.leapt), (Some(at(90)), None));
    assert_eq!(gateway.heartbeat(at(40), lease.id), Ok(at(100)));
    assert_eq!(gateway.progress(at(45), lease.id, 5), Ok(at(105)));
    assert_eq!(gateway.dispatch(at(45)), Dispatch::Wait { until: Some(at(105)) });
    let view = gateway.job(id(1)).unwrap();
    assert_eq!((view.created, view.started), (at(30), Some(at(30))), "no time passed at the step");

    let until = Some(at(65));
    gateway.force_breaker(at(45), "gpu-1", Some(libgateway::ForcedState::Open), until).unwrap();
    let breaker = gateway.backend("gpu-1").unwrap().breaker;
    assert_eq!((breaker.since, breaker.until), (at(45), until));
    let past = gateway.force_breaker(at(46), "gpu-1", Some(libgateway::ForcedState::Open), Some(at(46)));
    assert!(past.is_err(), "an end that is not in the future of the host's clock");
    gateway.advance(at(65));
    assert_eq!(gateway.backend("gpu-1").unwrap().breaker.state, BreakerState::HalfOpen);

    let after = gateway.transaction(at(50), |tx| {
        assert_eq!(tx.now(), at(50));
        Ok::<_, libgateway::Abort>(tx.fail(
            lease.id,
            libgateway::Failure::new(FailureClass::Timeout, ""),
            Usage::unmeasured(),
        )?)
    });
    let Ok(libgateway::AfterFailure::Retry { at: retry }) = after else { panic!("{after:?}") };
    assert_eq!(retry, at(51));
    assert_eq!(
        gateway.explain(id(1)),
        Some(libgateway::WaitReason::NotBefore { until: retry, failed_on: vec!["gpu-1".into()] })
    );
    let Dispatch::Lease(lease) = gateway.dispatch(retry) else { panic!() };
    gateway.complete(at(53), lease.id, Output::url("u"), Usage::unmeasured()).unwrap();

    let taken = gateway.take_settlements(at(60), 9).unwrap();
    let own = &taken.settlements[0];
    assert_eq!((own.started, own.finished), (Some(at(51)), at(53)), "it carries the host's day");
    let events: Vec<_> = std::iter::from_fn(|| gateway.poll_event()).collect();
    let ended = events.iter().find(|event| matches!(event.kind, EventKind::Ended(..))).unwrap();
    assert_eq!(ended.at, at(53));
}

#[test]
fn a_delivered_result_is_taken_whatever_the_clock_did_meanwhile() {
    for step in STEPS {
        let mut rig = running();
        let lease = LeaseId::from_u64(1);
        rig.now = stepped(at(2), step);
        let usage = Usage::unmeasured();
        assert!(rig.gateway.complete(rig.now, lease, Output::url("u"), usage).is_ok(), "step {step}");
        assert_eq!(rig.state(id(1)), JobState::Complete);
    }
}

#[test]
fn a_step_of_exactly_the_limit_is_time_and_one_nanosecond_more_is_on_trial() {
    // The host was asked to call after five minutes; what is beyond that is the step.
    let mut rig = running();
    let advance = rig.to(at(300) + LIMIT);
    assert_eq!((advance.leapt, advance.now), (None, at(300) + LIMIT));
    assert_eq!(rig.gateway.next_deadline(), Some(at(600) + LIMIT), "the worker has its time again");

    let mut rig = running();
    let reading = after(at(300) + LIMIT);
    let step = reading.since(START);
    let advance = rig.to(reading);
    assert_eq!((advance.leapt, advance.now), (Some(step), reading));
    assert_eq!(advance.next_deadline, Some(reading + secs(60)), "the host is asked to call when the trial ends");
    assert_eq!(rig.gateway.stats().clock_offset, step);
    assert_eq!(rig.gateway.stats().counters.clock_leaps, 1);
    let told = std::iter::from_fn(|| rig.gateway.poll_event()).last().map(|event| event.kind);
    assert_eq!(told, Some(EventKind::ClockLeapt(step)));

    // After a minute of such readings it is time that passed, and the worker has its time again.
    rig.to(before(reading + secs(60)));
    assert_eq!(rig.gateway.stats().clock_offset, step);
    rig.to(reading + secs(60));
    let end = after(reading + secs(60));
    rig.to(end);
    assert_eq!(rig.gateway.stats().clock_offset, Span::ZERO);
    assert_eq!(rig.gateway.next_deadline(), Some(end + secs(300)));
    assert_eq!(rig.to(end + secs(300)).handled, 1);
    assert_eq!(rig.gateway.stats().counters.lost, 1);
}

#[test]
fn a_step_that_is_taken_back_within_its_trial_was_none() {
    let mut rig = running();
    rig.to(at(100_000));
    assert_eq!(rig.to(at(5)).now, at(5));
    assert_eq!(rig.gateway.stats().clock_offset, Span::ZERO);
    assert_eq!(rig.gateway.next_deadline(), Some(at(300)));
    assert_eq!(rig.to(at(300)).handled, 1);
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
fn without_a_job_or_a_result_any_reading_is_believed() {
    let mut rig = Rig::with_slots(quiet(), 1);
    let far = START + secs(10 * 365 * 86_400);
    assert_eq!((rig.to(far).now, rig.gateway.stats().clock_offset), (far, Span::ZERO));
    rig.submit(job(1, "acme", DEV));
    assert_eq!(rig.job(id(1)).created, far);
}

#[test]
fn a_step_while_idle_takes_no_result_away() {
    let mut rig = Rig::with_slots(quiet().retain_for(secs(3_600)), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.complete(&lease);
    rig.to(at(28_800));
    assert_eq!(rig.state(id(1)), JobState::Complete);
    rig.to(at(30));
    assert_eq!(rig.state(id(1)), JobState::Complete);
    assert_eq!(rig.gateway.next_deadline(), Some(at(3_600)));
}

#[test]
fn an_operator_who_says_that_the_time_is_right_is_believed() {
    let mut rig = running();
    rig.submit(job(2, "acme", DEV).timeouts(Timeouts { queue: Some(secs(30)), ..Timeouts::NONE }));
    let reading = at(100_000);
    assert!(rig.to(reading).leapt.is_some());
    let advance = rig.gateway.accept_clock(reading);
    assert_eq!((advance.now, advance.handled, advance.leapt), (reading, 1, None));
    assert_eq!(rig.state(id(2)), JobState::Cancelled);
    assert_eq!(rig.gateway.stats().clock_offset, Span::ZERO);
    assert_eq!(rig.gateway.next_deadline(), Some(reading + secs(300)), "the worker has its time again");
}

#[test]
fn after_a_step_back_time_goes_on_at_the_pace_of_the_readings() {
    let mut rig = running();
    rig.to(at(100));
    assert_eq!(rig.gateway.heartbeat(at(50), LeaseId::from_u64(1)), Ok(at(350)));
    assert_eq!((rig.gateway.now(), rig.gateway.next_deadline()), (at(50), Some(at(350))));
    assert_eq!(rig.to(before(at(350))).handled, 0);
    assert_eq!(rig.to(at(350)).handled, 1);
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
    fn readings_in_any_order_never_turn_time_back_and_make_little_of_it(
        readings in prop::collection::vec(0..400_u64, 1..40),
    ) {
        // The age of a job is machine time: it never falls, and grows by no more than the clock's way up.
        let mut rig = Rig::new(quiet());
        rig.put(flux("gpu-1").lease_for(secs(100_000)));
        rig.submit(job(1, "acme", DEV));
        rig.lease();
        let (mut age, mut last, mut up) = (Span::ZERO, 0, 0);
        for reading in readings {
            let now = rig.to(at(reading)).now;
            prop_assert_eq!(now, at(reading), "the host sees its own clock");
            let older = now.since(rig.job(id(1)).created);
            up += reading.saturating_sub(last);
            prop_assert!(older >= age && older <= secs(up), "{older} after {age}, {up} up");
            (age, last) = (older, reading);
        }
    }
}
