//! Places: kept, given back, left without a trace, and told exactly.

use std::collections::BTreeMap;

use libgateway::{
    AfterFailure, CustomerPolicy, FailureClass, GatewayConfig, GpuNanos, JobId, JobState, Ordering, Output, Priority,
    Route, Span, Timeouts, Usage,
};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, WAN, at, before, id, job, route, secs, wan};
use libgateway_tests::rng::Rng;
use proptest::prelude::*;

fn order(rig: &mut Rig) -> Vec<u128> {
    rig.leases().into_iter().map(|lease| lease.job.as_u128()).collect()
}

#[test]
fn a_retry_returns_to_its_old_place() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    for number in 0..5 {
        rig.submit(job(number, ["a", "b"][number as usize % 2], DEV));
    }
    let lease = rig.lease();
    assert_eq!(lease.job, id(0));
    assert_eq!(rig.fail(&lease, FailureClass::Timeout), AfterFailure::Retry { at: at(1) });
    // It stands where it stood, also while it may not run yet; meanwhile the next one does.
    assert_eq!(rig.gateway.position(id(0)), Some(0));
    let other = rig.lease();
    assert_eq!(other.job, id(1));
    for number in 5..9 {
        rig.submit(job(number, "c", DEV));
    }
    rig.to(at(1));
    assert_eq!(rig.gateway.position(id(0)), Some(0));
    rig.complete(&other);
    assert_eq!(rig.lease().job, id(0));
}

#[test]
fn a_lease_given_back_or_lost_returns_to_its_old_place() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 2);
    for number in 0..4 {
        rig.submit(job(number, "a", DEV));
    }
    let leases = rig.leases();
    rig.gateway.heartbeat(at(10), leases[1].id).unwrap();
    rig.to(at(300));
    assert_eq!(rig.state(id(0)), JobState::Queued, "lost");
    rig.gateway.release(rig.now, leases[1].id).unwrap();
    assert_eq!([0, 1, 2, 3].map(|number| rig.gateway.position(id(number))), [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(order(&mut rig), [0, 1]);
}

/// The order in which all that waits is served, on as many slots as it takes.
fn drained(mut rig: Rig) -> Vec<u128> {
    rig.put(libgateway_tests::kit::flux("gpu-1").slots(10_000));
    rig.put(wan("wan-1").slots(10_000));
    order(&mut rig)
}

/// Jobs of three customers come; those that are doomed are given up before the next one stays, in any order.
fn with_doomed(seed: u64, come: bool) -> Vec<u128> {
    let mut chance = Rng::new(seed);
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(9_999, "first", DEV));
    let lease = rig.lease();
    let mut doomed = Vec::new();
    for number in 0..80 {
        let customer = chance.word(&["a", "b", "c"]);
        let lane = *chance.pick(&[Priority::Normal, Priority::Normal, Priority::High]);
        let way = chance.word(&[DEV, SCHNELL]);
        let own = job(number, customer, way).priority(lane).estimate(GpuNanos::from_secs(1 + chance.below(5)));
        if chance.one_in(2) {
            doomed.push(own);
            continue;
        }
        let mut order: Vec<JobId> = doomed.iter().map(|own| own.id).collect();
        for own in doomed.drain(..).filter(|_| come) {
            rig.submit(own);
        }
        while !order.is_empty() {
            let at = chance.below(order.len() as u64) as usize;
            _ = rig.gateway.cancel(rig.now, order.swap_remove(at));
        }
        rig.submit(own);
    }
    rig.complete(&lease);
    drained(rig)
}

#[test]
fn a_crowd_that_was_given_up_is_not_held_against_its_customer() {
    // A thousand jobs were submitted by mistake and cancelled. They had moved the customer's next start a thousand jobs
    // ahead, and there it stayed: its next job waited for a thousand of others.
    for timed_out in [false, true] {
        let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
        rig.checked = false;
        rig.submit(job(9_999, "other", DEV));
        let lease = rig.lease();
        let timeouts = Timeouts { queue: timed_out.then_some(secs(5)), ..Timeouts::NONE };
        (0..1_000).for_each(|number| _ = rig.submit(job(number, "hasty", DEV).timeouts(timeouts)));
        if !timed_out {
            (0..1_000).for_each(|number| rig.cancel(id(number)));
        }
        rig.pass(secs(5));
        (2_000..2_050).for_each(|number| _ = rig.submit(job(number, "other", DEV)));
        rig.submit(job(3_000, "hasty", DEV));
        let position = rig.gateway.position(id(3_000));
        assert!(position.is_some_and(|position| position <= 1), "{position:?} of fifty");
        rig.complete(&lease);
        rig.gateway.check_invariants();
    }
}

#[test]
fn what_never_ran_costs_nothing_though_part_of_the_crowd_stays() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.checked = false;
    rig.submit(job(9_999, "other", DEV));
    rig.lease();
    (0..100).for_each(|number| _ = rig.submit(job(number, "hasty", DEV)));
    (1..100).for_each(|number| rig.cancel(id(number)));
    (2_000..2_050).for_each(|number| _ = rig.submit(job(number, "other", DEV)));
    rig.submit(job(3_000, "hasty", DEV));
    let position = rig.gateway.position(id(3_000));
    assert!(position.is_some_and(|position| position <= 3), "{position:?} of fifty");
    rig.gateway.check_invariants();
}

#[test]
fn positions_told_at_any_time_are_the_order_in_which_jobs_start() {
    // As long as jobs take what was said of them and leave their line at its head: whatever else happens moves others.
    for seed in 0..12 {
        let mut chance = Rng::new(seed);
        let ordering = if seed % 4 == 0 { Ordering::Fifo } else { Ordering::Fair };
        let mut rig = Rig::with_slots(GatewayConfig::default().ordering(ordering).seed(seed), 1);
        rig.put(wan("wan-1"));
        rig.gateway.put_customer(rig.now, "a", CustomerPolicy::default().weight(4)).unwrap();
        for step in 0..400_u64 {
            random_step(&mut rig, &mut chance, step);
            if step % 20 == 0 {
                compare(&rig, seed, step);
            }
        }
    }
}

fn random_step(rig: &mut Rig, chance: &mut Rng, step: u64) {
    match chance.below(8) {
        0..=4 => {
            let lane = *chance.pick(&[Priority::High, Priority::Normal, Priority::Low]);
            let own = job(u128::from(step), chance.word(&["a", "b", "c"]), chance.word(&[DEV, WAN]));
            rig.submit(own.priority(lane).estimate(WORK));
        }
        5 | 6 => {
            for lease in rig.leases() {
                rig.pass(Span::from_nanos(WORK.as_nanos()));
                let usage = Usage::gpu(WORK, "GPU-1");
                rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage).unwrap();
            }
        }
        _ => _ = rig.pass(Span::from_millis(chance.below(3_000))),
    }
}

/// What every job takes.
const WORK: GpuNanos = GpuNanos::from_secs(2);

/// Predicts by position, then lets a copy run empty, route by route, and compares.
fn compare(rig: &Rig, seed: u64, step: u64) {
    let mut predicted: BTreeMap<String, BTreeMap<u32, JobId>> = BTreeMap::new();
    for number in 0..=u128::from(step) {
        let Some(position) = rig.gateway.position(id(number)) else { continue };
        let view = rig.job(id(number));
        let before = predicted.entry(view.route).or_default().insert(position, id(number));
        assert_eq!(before, None, "two jobs in one place");
    }
    for (name, expected) in predicted {
        let gateway = libgateway::Gateway::replica(&rig.gateway.snapshot()).unwrap();
        let mut copy = Rig { gateway, now: rig.now, checked: false };
        copy.put(libgateway_tests::kit::flux("gpu-1").slots(10_000));
        copy.put(wan("wan-1").slots(10_000));
        let whole = format!("{name}/t2i");
        let way: Route<'_> = route(&whole);
        let mut started = Vec::new();
        while let Some(lease) = copy.gateway.dispatch_route(copy.now, &way).unwrap().lease() {
            started.push(lease.job);
        }
        let positions: Vec<u32> = expected.keys().copied().collect();
        assert_eq!(positions, (0..positions.len() as u32).collect::<Vec<_>>(), "seed {seed} step {step}: gaps");
        assert_eq!(started, expected.into_values().collect::<Vec<_>>(), "seed {seed} step {step}: {name}");
    }
}

#[test]
fn who_stands_first_starts_next_whatever_jobs_took_and_whoever_left() {
    for seed in 0..12 {
        let mut chance = Rng::new(seed);
        let mut rig = Rig::with_slots(GatewayConfig::default().seed(seed), 1);
        for step in 0..300_u64 {
            match chance.below(4) {
                0 | 1 => {
                    let own = job(u128::from(step), chance.word(&["a", "b", "c"]), DEV);
                    rig.submit(own.estimate(GpuNanos::from_secs(1 + chance.below(9))));
                }
                2 => _ = rig.gateway.cancel(rig.now, id(u128::from(chance.below(step + 1)))),
                _ => {
                    let first = (0..=step).map(|number| id(number.into()));
                    let first = first.filter(|job| rig.gateway.position(*job) == Some(0)).collect::<Vec<_>>();
                    let leases = rig.leases();
                    assert_eq!(leases.iter().map(|lease| lease.job).collect::<Vec<_>>(), first, "seed {seed}");
                    for lease in leases {
                        rig.pass(secs(chance.below(30)));
                        rig.complete(&lease);
                    }
                }
            }
        }
    }
}

#[test]
fn a_job_that_waits_is_in_the_highest_lane_after_twice_the_time_to_age() {
    // The bound that `age_after` states: one lane for each such time of waiting, to the place an arrival there gets now.
    let config = GatewayConfig::default().age_after(Some(secs(30)));
    let mut rig = Rig::with_slots(config, 1);
    rig.submit(job(999, "busy", DEV));
    rig.lease();
    rig.submit(job(1, "patient", DEV).priority(Priority::Low));
    rig.submit(job(2, "other", DEV));
    rig.submit(job(3, "other", DEV).priority(Priority::High));
    assert_eq!(rig.gateway.position(id(1)), Some(2));
    rig.to(at(29));
    rig.submit(job(4, "other", DEV));
    assert_eq!(rig.gateway.position(id(1)), Some(3));
    rig.to(at(30));
    assert_eq!(rig.gateway.position(id(1)), Some(2), "3 and 2 are in the high lane; 4 is the other's second");
    rig.to(before(at(59)));
    assert_eq!(rig.gateway.position(id(1)), Some(2));
    rig.to(at(59));
    assert_eq!(rig.gateway.position(id(1)), Some(3), "4 climbed first, it waited as long in its lane");
    rig.to(at(60));
    // In the highest lane it has the place of an arrival there, and keeps it, whoever comes.
    assert_eq!(rig.gateway.position(id(1)), Some(0), "its first there, and the oldest of such");
    for number in 10..40 {
        rig.submit(job(number, "late", DEV).priority(Priority::High));
    }
    assert_eq!(rig.gateway.position(id(1)), Some(0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn jobs_given_up_before_they_ran_leave_no_trace(seed: u64) {
        prop_assert_eq!(with_doomed(seed, true), with_doomed(seed, false));
    }
}
