//! Jobs that wait until an instant, and leases that are taken back before their end.

use libgateway::error::{Coded, FleetError, JobError};
use libgateway::{
    Abort, AfterFailure, BillingPolicy, Dispatch, EvictTo, Failure, FailureClass, GatewayConfig, GpuNanos, JobState,
    LeaseId, Outcome, Payer, Priority, Timeouts, Timestamp, Usage, WaitReason,
};
use libgateway_tests::kit::{DEV, Rig, at, before, flux, id, job, secs};

fn one_slot(config: GatewayConfig) -> Rig {
    Rig::with_slots(config, 1)
}

fn until(at: Timestamp) -> Option<WaitReason> {
    Some(WaitReason::NotBefore { until: at, failed_on: Vec::new() })
}

/// Submits and leases a job.
fn run(rig: &mut Rig, number: u128) -> LeaseId {
    rig.submit(job(number, "acme", DEV));
    rig.lease().id
}

// --- Until an instant ---

#[test]
fn a_job_of_tomorrow_runs_tomorrow_and_lets_others_pass() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV).not_before(at(3_600)));
    assert_eq!(rig.gateway.explain(id(1)), until(at(3_600)));
    assert_eq!(rig.wait(), Some(at(3_600)), "the host is called when it may run");
    // What the same customer submits later does not stand behind it.
    rig.submit(job(2, "acme", DEV));
    let lease = rig.lease();
    assert_eq!(lease.job, id(2));
    rig.complete(&lease);
    rig.to(before(at(3_600)));
    assert_eq!(rig.wait(), Some(at(3_600)));
    rig.to(at(3_600));
    let lease = rig.lease();
    assert_eq!((lease.job, lease.attempt), (id(1), 1));
    let view = rig.job(id(1));
    assert_eq!((view.created, view.started, view.requeues), (at(0), Some(at(3_600)), 0));
}

#[test]
fn an_instant_that_has_passed_is_now() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.to(at(10));
    for (number, then) in [(1, at(10)), (2, at(3)), (3, Timestamp::EPOCH)] {
        rig.submit(job(number, "acme", DEV).not_before(then));
        let lease = rig.lease();
        assert_eq!(lease.job, id(number));
        rig.gateway.release_until(rig.now, lease.id, then, Usage::unmeasured()).unwrap();
        let lease = rig.lease();
        assert_eq!((lease.job, lease.attempt), (id(number), 2));
        rig.complete(&lease);
    }
}

#[test]
fn the_clocks_of_a_job_run_from_the_instant_on() {
    // Defaults of a minute each would otherwise end a job of tomorrow today.
    for (clock, ends) in [("queue", 60), ("start", 60), ("total", 60)] {
        let mut timeouts = Timeouts::NONE;
        match clock {
            "queue" => timeouts.queue = Some(secs(60)),
            "start" => timeouts.start = Some(secs(60)),
            _ => timeouts.total = Some(secs(60)),
        }
        let mut rig = Rig::new(GatewayConfig::default().timeouts(timeouts));
        rig.put(flux("gpu-1"));
        rig.gateway.drain_backend(rig.now, "gpu-1", true).unwrap();
        rig.submit(job(1, "acme", DEV).not_before(at(1_000)));
        rig.to(before(at(1_000 + ends)));
        assert_eq!(rig.state(id(1)), JobState::Queued, "{clock}");
        rig.to(at(1_000 + ends));
        assert_eq!(rig.state(id(1)), JobState::Cancelled, "{clock}");
    }
}

#[test]
fn a_job_that_waits_for_its_instant_is_cancelled_and_counted_like_any_other() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV).not_before(Timestamp::MAX));
    assert_eq!((rig.wait(), rig.gateway.customer("acme").unwrap().queued), (None, 1));
    rig.cancel(id(1));
    assert_eq!(rig.state(id(1)), JobState::Cancelled);
    let billed = rig.settlements();
    assert_eq!((billed.len(), billed[0].usage), (1, GpuNanos::ZERO));
}

#[test]
fn a_job_put_off_comes_back_at_its_instant_and_no_attempt_is_used() {
    let mut rig = one_slot(GatewayConfig::default());
    for round in 1..=20 {
        let lease = if round == 1 { run(&mut rig, 1) } else { rig.lease().id };
        let then = rig.now + secs(30);
        assert_eq!(rig.gateway.release_until(rig.now, lease, then, Usage::unmeasured()), Ok(id(1)));
        assert_eq!(rig.gateway.explain(id(1)), until(then));
        assert_eq!(rig.wait(), Some(then));
        rig.to(then);
    }
    let view = rig.job(id(1));
    assert_eq!((view.attempts, view.requeues, view.failure, view.failed_on.len()), (0, 20, None, 0));
    let lease = rig.lease();
    assert_eq!(lease.attempt, 21);
    rig.complete(&lease);
    assert_eq!(rig.gateway.stats().counters.released, 20);
}

#[test]
fn a_job_given_back_more_often_than_it_may_be_is_in_error() {
    let mut rig = one_slot(GatewayConfig::default().releases_max(2));
    for _ in 0..2 {
        let lease = if rig.gateway.is_known(id(1)) { rig.lease().id } else { run(&mut rig, 1) };
        rig.gateway.release(rig.now, lease).unwrap();
    }
    let lease = rig.lease().id;
    rig.gateway.release_until(rig.now, lease, at(9), Usage::unmeasured()).unwrap();
    let Some(Outcome::Error(failure)) = rig.job(id(1)).outcome else { panic!("it is in error") };
    assert_eq!((failure.class, &*failure.message), (FailureClass::Lost, "it was given back too often"));
    assert_eq!(rig.settlements().len(), 1);
    assert_eq!(rig.gateway.stats().counters.requeues, 2);
}

#[test]
fn what_a_backend_failed_is_told_while_the_job_waits_and_when_it_has_ended() {
    let mut rig = one_slot(GatewayConfig::default());
    let lease = run(&mut rig, 1);
    let fail = |rig: &mut Rig, lease| {
        let failure = Failure::new(FailureClass::Http(503), "busy");
        rig.gateway.fail(rig.now, lease, failure, Usage::unmeasured()).unwrap()
    };
    let AfterFailure::Retry { at: retry } = fail(&mut rig, lease) else { panic!("it is tried again") };
    let told = WaitReason::NotBefore { until: retry, failed_on: vec!["gpu-1".into()] };
    assert_eq!(rig.gateway.explain(id(1)), Some(told));
    for _ in 0..2 {
        let until = rig.wait().unwrap();
        rig.to(until);
        let lease = rig.lease().id;
        fail(&mut rig, lease);
    }
    let mut rig = one_slot(GatewayConfig::default());
    let lease = run(&mut rig, 1);
    let failure = Failure::new(FailureClass::Backend, "out of memory");
    rig.gateway.fail(rig.now, lease, failure, Usage::unmeasured()).unwrap();
    assert_eq!((rig.state(id(1)), rig.job(id(1)).failed_on), (JobState::Error, vec!["gpu-1".into()]));
}

#[test]
fn the_whole_time_of_retries_counts_from_the_first_start_also_after_a_release() {
    // 60 s of retries in all. The first worker gives the job back after 50 s; 20 s later there is no time for a retry.
    let backoff = libgateway::BackoffConfig::default().jitter_ppm(0).total(Some(secs(60)));
    let mut rig = one_slot(GatewayConfig::default().backoff(backoff));
    let lease = run(&mut rig, 1);
    rig.to(at(50));
    rig.gateway.release(rig.now, lease).unwrap();
    let lease = rig.lease().id;
    rig.to(at(70));
    let failure = Failure::new(FailureClass::Http(503), "busy");
    let after = rig.gateway.fail(rig.now, lease, failure, Usage::unmeasured()).unwrap();
    assert_eq!(after, AfterFailure::Error);
}

#[test]
fn who_waits_for_an_instant_waits_on_after_a_restart() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV).not_before(at(100)));
    let lease = run(&mut rig, 2);
    rig.gateway.release_until(rig.now, lease, at(200), Usage::unmeasured()).unwrap();
    let bytes = rig.gateway.snapshot();
    rig.gateway = libgateway::Gateway::replica(&bytes).unwrap();
    assert_eq!((rig.gateway.explain(id(1)), rig.gateway.explain(id(2))), (until(at(100)), until(at(200))));
    rig.to(at(100));
    let lease = rig.lease();
    assert_eq!(lease.job, id(1));
    rig.complete(&lease);
    assert_eq!(rig.wait(), Some(at(200)));
    rig.to(at(200));
    assert_eq!(rig.lease().attempt, 2);
}

// --- Taken back ---

#[test]
fn the_urgent_job_has_the_slot_of_the_preempted_one_at_once() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV).priority(Priority::Low));
    let old = rig.lease();
    rig.to(at(30));
    rig.submit(job(2, "bolt", DEV).priority(Priority::High));
    let now = rig.now;
    let victim = rig.gateway.running_on("gpu-1").unwrap()[0].id;
    let leased: Result<_, Abort<libgateway::error::Error>> = rig.gateway.transaction(now, |tx| {
        let ended = tx.preempt(victim, Usage::unmeasured())?;
        Ok((ended, tx.dispatch().lease()))
    });
    let Ok((ended, Some(urgent))) = leased else { panic!("the urgent job runs") };
    assert_eq!((ended, urgent.job), (old.id, id(2)));
    // The old worker is told that its lease is over.
    let late = rig.gateway.heartbeat(rig.now, old.id).unwrap_err();
    assert_eq!(late.number(), 501);
    rig.complete(&urgent);
    let again = rig.lease();
    assert_eq!((again.job, again.attempt, rig.job(id(1)).preemptions), (id(1), 2, 1));
    rig.pass(secs(10));
    rig.complete(&again);
    // 30 s that nobody delivered are the house's, 10 s the customer's.
    let billed = rig.settlements().into_iter().find(|own| own.job == id(1)).unwrap();
    assert_eq!((billed.absorbed, billed.usage), (GpuNanos::from_secs(30), GpuNanos::from_secs(10)));
}

#[test]
fn a_preempted_attempt_is_paid_by_policy_and_breaks_no_breaker() {
    for payer in [Payer::House, Payer::Customer] {
        let config = GatewayConfig::default().billing(BillingPolicy::default().preempted(payer));
        let mut rig = one_slot(config);
        for _ in 0..20 {
            let lease = if rig.gateway.is_known(id(1)) { rig.lease().id } else { run(&mut rig, 1) };
            rig.pass(secs(2));
            let usage = Usage::gpu(GpuNanos::from_secs(1), "GPU-1");
            assert_eq!(rig.gateway.preempt(rig.now, id(1), usage), Ok(lease));
        }
        let lease = rig.lease();
        rig.complete(&lease);
        let billed = rig.settlements().remove(0);
        let paid = if payer == Payer::Customer { (20, 0) } else { (0, 20) };
        assert_eq!((billed.usage, billed.absorbed), (GpuNanos::from_secs(paid.0), GpuNanos::from_secs(paid.1)));
        let view = rig.gateway.backend("gpu-1").unwrap();
        assert_eq!((view.completed, view.failed, view.lost), (1, 0, 0));
    }
}

#[test]
fn only_what_runs_is_preempted_and_only_so_often() {
    let mut rig = one_slot(GatewayConfig::default().preemptions_max(1));
    let preempt = |rig: &mut Rig, number| rig.gateway.preempt(rig.now, id(number), Usage::unmeasured());
    assert_eq!(preempt(&mut rig, 1), Err(JobError::UnknownJob { job: id(1) }));
    rig.submit(job(1, "acme", DEV));
    let waits = preempt(&mut rig, 1).unwrap_err();
    assert_eq!((waits.number(), waits.to_string()), (604, format!("job {} is queued, it cannot be preempted", id(1))));
    rig.lease();
    preempt(&mut rig, 1).unwrap();
    let lease = rig.lease();
    let often = preempt(&mut rig, 1).unwrap_err();
    assert_eq!(often, JobError::PreemptedTooOften { job: id(1), preemptions: 1 });
    assert_eq!((often.number(), often.name(), often.field()), (606, "preempted_too_often", Some("job")));
    // It runs on.
    rig.complete(&lease);
    assert_eq!(preempt(&mut rig, 1), Err(JobError::Ended { job: id(1), state: "complete" }));
}

#[test]
fn a_machine_that_is_taken_away_leaves_its_jobs_to_others() {
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux("a").slots(3));
    for number in 1..=3 {
        rig.submit(job(number, "acme", DEV));
        rig.lease();
        rig.pass(secs(1));
    }
    rig.put(flux("b").slots(3));
    rig.gateway.drain_backend(rig.now, "a", true).unwrap();
    let evicted = rig.gateway.evict_backend(rig.now, "a", EvictTo::Queue).unwrap();
    let told: Vec<_> = evicted.iter().map(|own| (own.lease.as_u64(), own.job)).collect();
    assert_eq!(told, [(1, id(1)), (2, id(2)), (3, id(3))]);
    rig.gateway.remove_backend(rig.now, "a").unwrap();
    assert!(rig.gateway.backends().iter().all(|own| own.backend.name != "a"), "it is forgotten at once");
    assert_eq!(
        rig.leases().iter().map(|lease| (lease.job, &*lease.backend)).collect::<Vec<_>>(),
        [(id(1), "b"), (id(2), "b"), (id(3), "b")]
    );
    assert_eq!(
        rig.gateway.evict_backend(rig.now, "a", EvictTo::Queue).unwrap_err(),
        FleetError::UnknownBackend { backend: "a".into() }
    );
}

#[test]
fn a_machine_that_is_taken_away_may_end_its_jobs_in_error() {
    let mut rig = Rig::new(GatewayConfig::default().preemptions_max(0));
    rig.put(flux("a").slots(2));
    rig.put(flux("b"));
    for number in 1..=3 {
        rig.submit(job(number, "acme", DEV));
    }
    let leases = rig.leases();
    let on_a = leases.iter().filter(|lease| &*lease.backend == "a").count();
    assert_eq!((leases.len(), on_a), (3, 2));
    rig.pass(secs(5));
    assert_eq!(rig.gateway.evict_backend(rig.now, "a", EvictTo::Error).unwrap().len(), 2);
    let stats = rig.gateway.stats();
    assert_eq!((stats.error, stats.running, stats.counters.preempted, stats.counters.requeues), (2, 1, 2, 0));
    let billed = rig.settlements();
    assert_eq!(billed.iter().map(|own| own.absorbed).collect::<Vec<_>>(), [GpuNanos::from_secs(5); 2]);
    // Nobody is on it any more; a quota of preemptions does not keep a machine alive.
    assert_eq!(rig.gateway.evict_backend(rig.now, "a", EvictTo::Queue), Ok(Vec::new()));
    assert_eq!(rig.gateway.evict_backend(rig.now, "b", EvictTo::Queue).unwrap().len(), 1);
    assert_eq!(rig.gateway.stats().queued, 1);
}

// --- In which order they come back ---

#[test]
fn jobs_come_back_in_the_order_of_their_submission_whoever_comes_back_first() {
    let orders = [[1, 2, 3, 4], [4, 3, 2, 1], [2, 4, 1, 3], [3, 1, 4, 2]];
    for (way, order) in (0..3).flat_map(|way| orders.map(|order| (way, order))) {
        let mut rig = Rig::with_slots(GatewayConfig::default(), 4);
        for number in 1..=4 {
            rig.submit(job(number, "acme", DEV));
        }
        let leases = rig.leases();
        for number in 5..=8 {
            rig.submit(job(number, "acme", DEV));
        }
        for number in order {
            // Each has worked for another time.
            rig.pass(secs(2));
            let lease = leases[number as usize - 1].id;
            match way {
                0 => drop(rig.gateway.release(rig.now, lease).unwrap()),
                1 => drop(rig.gateway.preempt(rig.now, id(number), Usage::unmeasured()).unwrap()),
                _ => {
                    let failure = Failure::new(FailureClass::Lost, "gone");
                    rig.gateway.fail(rig.now, lease, failure, Usage::unmeasured()).unwrap();
                }
            }
            rig.check();
        }
        for number in 1..=8 {
            assert_eq!(rig.gateway.position(id(number)), Some(number as u32 - 1), "{order:?}");
        }
        assert_eq!(rig.leases().iter().map(|lease| lease.job).collect::<Vec<_>>(), [1, 2, 3, 4].map(id), "{order:?}");
    }
}

#[test]
fn evicted_jobs_keep_their_order_before_what_waits() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 500);
    for number in 1..=600 {
        rig.submit(job(number, "acme", DEV));
    }
    assert_eq!(rig.leases().len(), 500);
    rig.pass(secs(3));
    assert_eq!(rig.gateway.evict_backend(rig.now, "gpu-1", EvictTo::Queue).unwrap().len(), 500);
    rig.check();
    for number in 1..=600 {
        assert_eq!(rig.gateway.position(id(number)), Some(number as u32 - 1));
    }
    let again: Vec<_> = rig.leases().iter().map(|lease| lease.job).collect();
    assert_eq!(again, (1..=500).map(id).collect::<Vec<_>>());
}

#[test]
fn a_job_of_later_comes_behind_what_its_customer_submitted_until_then() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "acme", DEV).not_before(at(10)));
    rig.submit(job(2, "acme", DEV).not_before(at(10)));
    rig.to(at(5));
    rig.submit(job(3, "acme", DEV));
    rig.gateway.pause(rig.now, &libgateway_tests::kit::route(DEV)).unwrap();
    rig.to(at(20));
    rig.submit(job(4, "acme", DEV));
    rig.gateway.resume(rig.now, &libgateway_tests::kit::route(DEV)).unwrap();
    for number in [3, 1, 2, 4] {
        let lease = rig.lease();
        assert_eq!(lease.job, id(number));
        rig.complete(&lease);
    }
}

#[test]
fn a_job_that_comes_back_before_one_that_has_no_tokens_runs_at_once() {
    // The older one is paid for already; the head of the line, for which there are no tokens, comes after it.
    let rate = libgateway::RateLimit::new(1, secs(1_000), 1).unwrap();
    let policy = libgateway::CustomerPolicy::default().rate(rate);
    let mut rig = one_slot(GatewayConfig::default().customer(policy));
    let lease = run(&mut rig, 1);
    rig.submit(job(2, "acme", DEV));
    rig.gateway.release_until(rig.now, lease, at(5), Usage::unmeasured()).unwrap();
    assert_eq!(rig.wait(), Some(at(5)), "nobody else can run");
    assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::CustomerRate { until: Some(at(1_000)) }));
    rig.to(at(5));
    assert_eq!((rig.gateway.position(id(1)), rig.gateway.position(id(2))), (Some(0), Some(1)));
    let lease = rig.lease();
    assert_eq!(lease.job, id(1));
    rig.complete(&lease);
    rig.check();
    rig.to(before(at(1_000)));
    assert_eq!(rig.wait(), Some(at(1_000)));
    rig.to(at(1_000));
    assert_eq!(rig.lease().job, id(2));
}

#[test]
fn preempting_makes_room_for_whoever_is_next_and_in_one_lane_that_may_be_the_same_job() {
    let mut rig = one_slot(GatewayConfig::default());
    rig.submit(job(1, "bolt", DEV));
    let first = rig.lease();
    rig.submit(job(2, "bolt", DEV));
    rig.submit(job(3, "acme", DEV));
    rig.to(at(100));
    rig.complete(&first);
    let lease = rig.lease();
    assert_eq!(lease.job, id(3));
    // Acme was given nothing yet and bolt a hundred seconds.
    assert_eq!(rig.gateway.preempt(rig.now, id(3), Usage::unmeasured()), Ok(lease.id));
    assert_eq!(rig.lease().job, id(3));
    rig.submit(job(4, "bolt", DEV).priority(Priority::High));
    rig.gateway.preempt(rig.now, id(3), Usage::unmeasured()).unwrap();
    assert_eq!(rig.lease().job, id(4));
}

// --- Under the host's clock ---

#[test]
fn a_clock_that_is_set_back_loses_and_hurries_no_job_of_later() {
    // The timer of a job was armed; then the clock went back, and nothing called again until somebody submitted something.
    for back in [2, 30, 3_600, 86_400] {
        let mut rig = Rig::with_slots(GatewayConfig::default(), 2);
        rig.to(at(100_000));
        rig.submit(job(1, "acme", DEV).not_before(at(100_010)));
        let lease = run(&mut rig, 2);
        rig.gateway.release_until(rig.now, lease, at(100_020), Usage::unmeasured()).unwrap();
        rig.pass(secs(3));
        // Seven seconds are left, whatever the clock shows.
        let now = at(100_003 - back);
        rig.to(now);
        assert_eq!(rig.gateway.explain(id(1)), until(at(100_010 - back)));
        assert_eq!(rig.wait(), Some(at(100_010 - back)));
        rig.to(before(at(100_010 - back)));
        assert_eq!(rig.wait(), Some(at(100_010 - back)));
        rig.to(at(100_010 - back));
        assert_eq!(rig.lease().job, id(1), "{back} s back");
        rig.to(at(100_020 - back));
        assert_eq!(rig.lease().job, id(2), "{back} s back");
    }
}

#[test]
fn a_host_that_slept_past_the_instant_runs_the_job_within_a_minute_of_waking() {
    // A laptop that was closed for the night. It calls when it wakes, and then only when it is asked to.
    for (wakes, latest) in [(82_800, 82_800), (82_801, 82_801), (86_400, 86_400), (90_000, 90_060), (600_000, 600_060)]
    {
        let mut rig = one_slot(GatewayConfig::default());
        rig.submit(job(1, "acme", DEV).not_before(at(82_800)));
        rig.to(at(600));
        rig.to(at(wakes));
        let lease = loop {
            match rig.dispatch() {
                Dispatch::Lease(lease) => break lease,
                Dispatch::Wait { until } => {
                    let asked = until.unwrap();
                    assert!(asked <= at(latest), "it woke at {wakes} s and is asked to call at {asked:?}");
                    rig.to(asked);
                }
            }
        };
        assert_eq!(lease.job, id(1));
    }
}
