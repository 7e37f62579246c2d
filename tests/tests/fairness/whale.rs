//! One customer with a hundred thousand jobs, and another with one.
//!
//! The bound: the one job starts at the first instant at which a GPU that can run it becomes free. So it waits at most one
//! service time on one GPU, and on four that are not in step at most a quarter of it, whatever the models and weights.

use libgateway::{CustomerPolicy, GatewayConfig, GpuNanos, Span, Timestamp};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, at, flux, flux_model, id, job, secs};

use crate::world::World;

const SINGLE: u128 = 1_000_000;
const CROWD: u128 = 100_000;

/// The whale's jobs wait, and each GPU works on one, begun a part of a second after each other.
fn world(gpus: u64, weights: (u32, u32), ways: &[&'static str]) -> World {
    let mut rig = Rig::new(GatewayConfig::default().estimate(GpuNanos::from_secs(1)));
    rig.checked = false;
    for gpu in 0..gpus {
        rig.put(flux(&format!("gpu-{gpu}")));
    }
    rig.gateway.put_customer(rig.now, "whale", CustomerPolicy::default().weight(weights.0)).unwrap();
    rig.gateway.put_customer(rig.now, "single", CustomerPolicy::default().weight(weights.1)).unwrap();
    let mut world = World::new(rig, secs(1));
    for number in 0..CROWD {
        world.submit(job(number, "whale", ways[number as usize % ways.len()]));
    }
    for gpu in 0..gpus {
        world.rig.to(at(0) + Span::from_nanos(1_000_000_000 * gpu / gpus));
        let lease = world.rig.gateway.dispatch_to(world.rig.now, &format!("gpu-{gpu}"), 1).unwrap().remove(0);
        world.start(lease);
    }
    world
}

#[test]
fn one_job_behind_a_hundred_thousand_starts_when_the_next_gpu_is_free() {
    for gpus in [1, 4] {
        for weights in [(1, 1), (1_000, 1), (1, 1_000)] {
            for (crowd, single) in [(&[DEV][..], DEV), (&[DEV][..], SCHNELL), (&[DEV, SCHNELL][..], SCHNELL)] {
                let case = format!("{gpus} GPUs, weights {weights:?}, crowd on {crowd:?}, single on {single}");
                let mut world = world(gpus, weights, crowd);
                // After some time, and never in step with the GPUs.
                let arrival = at(7) + Span::from_nanos(1_000_000_000 / gpus / 2);
                world.run_until(arrival);
                world.submit(job(SINGLE, "single", single));
                world.run_until(arrival + secs(2));
                let bound = Span::from_nanos(1_000_000_000 / gpus);
                let waited = world.start_of(id(SINGLE)).map(|start| start.since(arrival));
                assert_eq!(waited, Some(Span::from_nanos(bound.as_nanos() / 2)), "{case}: the next GPU");
                assert!(waited.unwrap() <= bound, "{case}");
                world.rig.gateway.check_invariants();
            }
        }
    }
}

#[test]
fn a_customer_that_asks_for_one_job_at_a_time_never_waits_longer() {
    // Its own past is no reason to wait: each time the next free GPU is its.
    let mut world = world(1, (1, 1), &[DEV]);
    for round in 0..50 {
        let arrival = at(10 + 5 * round) + Span::from_millis(300);
        world.run_until(arrival);
        world.submit(job(SINGLE + u128::from(round), "single", DEV));
        world.run_until(arrival + secs(2));
        assert_eq!(world.start_of(id(SINGLE + u128::from(round))), Some(arrival + Span::from_millis(700)), "{round}");
    }
}

#[test]
fn a_hundred_customers_with_one_job_each_are_served_before_the_whale_goes_on() {
    let mut world = world(1, (1, 1), &[DEV]);
    world.run_until(at(5) + Span::from_millis(500));
    for number in 0..100 {
        let name: &'static str = format!("small-{number}").leak();
        world.submit(job(SINGLE + number, name, DEV));
    }
    let begun = world.started.len();
    world.run_until(at(120));
    let next: Vec<_> = world.started[begun..].iter().take(100).map(|(job, _)| *job).collect();
    let expected: Vec<_> = (0..100).map(|number| id(SINGLE + number)).collect();
    assert_eq!(next, expected, "in order of arrival among each other");
}

#[test]
fn a_gpu_that_serves_both_is_not_taken_for_the_whale_while_another_would_do() {
    // One GPU serves all models, the other only the whale's. They become free in the same instant, each second. The choice
    // for the whale's next job must not fall on the only GPU that the single job can use: it did, as often as both were
    // free at once, and the single job waited for as long as the whale had jobs.
    for names in [["a-all", "b-dev"], ["b-all", "a-dev"]] {
        let mut rig = Rig::new(GatewayConfig::default());
        rig.checked = false;
        for name in names {
            rig.put(if name.ends_with("all") { flux(name) } else { flux_model(name, "dev") });
        }
        let mut world = World::new(rig, secs(1));
        for number in 0..1_000 {
            world.submit(job(number, "whale", DEV));
        }
        world.run_until(at(3) + Span::from_millis(500));
        world.submit(job(SINGLE, "single", SCHNELL));
        world.run_until(at(60));
        assert_eq!(world.start_of(id(SINGLE)), Some(at(4)), "{names:?}");
        assert_eq!(world.started.len(), 2 * 61, "and no GPU was idle");
        world.rig.gateway.check_invariants();
    }
}

#[test]
fn a_lane_above_goes_first_and_a_crowd_below_does_not_matter() {
    use libgateway::Priority;
    let mut world = world(1, (1, 1), &[DEV]);
    world.run_until(at(3) + Span::from_millis(500));
    world.submit(job(SINGLE, "whale", DEV).priority(Priority::High));
    world.submit(job(SINGLE + 1, "single", DEV));
    world.run_until(at(6));
    let starts = [0, 1].map(|number| world.start_of(id(SINGLE + number)));
    assert_eq!(starts, [Some(at(4)), Some(at(5))]);
    assert!(world.start_of(id(SINGLE)) > Some(Timestamp::EPOCH));
}
