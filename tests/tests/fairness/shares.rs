//! Weights and costs over long runs.

use libgateway::{CustomerPolicy, GatewayConfig, GpuNanos, Ordering, Output, Priority, Span, Usage};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, id, job, secs};
use libgateway_tests::rng::Rng;
use proptest::prelude::*;

use crate::world::World;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Divisible by every weight up to 20, so that no stride is rounded.
const COST: u64 = 232_792_560 * 10;

fn serve(rig: &mut Rig, worked: u64) -> (u128, String) {
    let lease = rig.lease();
    let usage = Usage::gpu(GpuNanos::from_nanos(worked), "GPU-1");
    rig.pass(Span::from_nanos(worked));
    rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage).unwrap();
    rig.check();
    (lease.job.as_u128(), lease.customer.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn customers_that_always_wait_are_served_by_weight_within_one_job_each(
        weights in prop::collection::vec(1..=20_u32, 2..=6), seed: u64,
    ) {
        // At every step and for each two of them: what one was served beyond its share of the other's is at most one job
        // of the one and one of the other, each counted in its own share.
        let mut chance = Rng::new(seed);
        let mut rig = Rig::with_slots(GatewayConfig::default().estimate(GpuNanos::from_nanos(COST)), 1);
        rig.checked = false;
        let mut order: Vec<usize> = Vec::new();
        for (customer, weight) in weights.iter().enumerate() {
            rig.gateway.put_customer(rig.now, NAMES[customer], CustomerPolicy::default().weight(*weight)).unwrap();
            order.extend(std::iter::repeat_n(customer, 40 * *weight as usize));
        }
        // They come in any order; all are there before the first is served.
        for at in (1..order.len()).rev() {
            order.swap(at, chance.below(at as u64 + 1) as usize);
        }
        for (number, customer) in order.iter().enumerate() {
            let way = *chance.pick(&[DEV, SCHNELL]);
            rig.submit(job(number as u128, NAMES[*customer], way));
        }
        let mut served = vec![0_i64; weights.len()];
        // As long as all of them have jobs: one round is as many jobs as there are weights.
        let rounds = 39 * weights.iter().sum::<u32>();
        for step in 0..rounds {
            let (_, name) = serve(&mut rig, COST);
            served[NAMES.iter().position(|own| *own == name).unwrap()] += 1;
            for a in 0..weights.len() {
                for b in 0..a {
                    let (wa, wb) = (i64::from(weights[a]), i64::from(weights[b]));
                    let apart = (served[a] * wb - served[b] * wa).abs();
                    prop_assert!(apart <= wa + wb, "step {step}: {served:?} of weights {weights:?}");
                }
            }
        }
        for (own, weight) in served.iter().zip(&weights) {
            prop_assert!((own - 39 * i64::from(*weight)).abs() <= weights.len() as i64, "{served:?} of {weights:?}");
        }
        rig.gateway.check_invariants();
    }
}

#[test]
fn cost_counts_and_not_number() {
    // One customer's jobs take four times as long: it gets a quarter as many, and the same time.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.checked = false;
    for number in 0..200 {
        rig.submit(job(number, "short", DEV).estimate(GpuNanos::from_secs(1)));
        rig.submit(job(1_000 + number, "long", DEV).estimate(GpuNanos::from_secs(4)));
    }
    let (mut short, mut long) = (0_i64, 0_i64);
    for step in 0..240 {
        let is_long = rig.gateway.job(id(0)).is_some() && {
            let lease = rig.lease();
            let is_long = &*lease.customer == "long";
            let worked = GpuNanos::from_secs(if is_long { 4 } else { 1 });
            rig.pass(Span::from_nanos(worked.as_nanos()));
            rig.gateway.complete(rig.now, lease.id, Output::url("u"), Usage::gpu(worked, "GPU-1")).unwrap();
            is_long
        };
        if is_long {
            long += 4
        } else {
            short += 1
        }
        assert!((short - long).abs() <= 5, "step {step}: {short} s and {long} s");
    }
    assert_eq!((short, long), (192, 192));
}

#[test]
fn a_customer_that_says_too_little_pays_with_its_next_jobs() {
    // Both say one second; one takes four. What it really took is counted as soon as it is known, so over time both get
    // the same, though the one that lies is ahead by what is on its way.
    let mut world = World::new(Rig::with_slots(GatewayConfig::default(), 1), secs(1));
    world.rig.checked = false;
    world.service.insert("liar", secs(4));
    let mut next = 0;
    let (mut honest, mut liar) = (0_i64, 0_i64);
    for _ in 0..400 {
        // Each keeps two jobs waiting.
        for name in ["honest", "liar"] {
            while world.rig.gateway.customer(name).map_or(0, |customer| customer.queued) < 2 {
                world.submit(job(next, name, DEV).estimate(GpuNanos::from_secs(1)));
                next += 1;
            }
        }
        world.dispatch();
        world.finish_one();
        world.rig.settlements();
        let (job, _) = *world.started.last().unwrap();
        if world.rig.job(job).customer == "liar" {
            liar += 4
        } else {
            honest += 1
        }
        // One job that runs and two that wait were placed before the truth was known.
        assert!((honest - liar).abs() <= 3 * 4 + 3, "{honest} s and {liar} s");
    }
    assert!(honest > 300, "{honest} s");
}

#[test]
fn a_customer_that_says_too_much_gets_back_what_it_did_not_use() {
    let mut world = World::new(Rig::with_slots(GatewayConfig::default(), 1), secs(1));
    world.rig.checked = false;
    let mut next = 0;
    let (mut careful, mut exact) = (0_i64, 0_i64);
    for _ in 0..400 {
        for (name, estimate) in [("careful", 10), ("exact", 1)] {
            while world.rig.gateway.customer(name).map_or(0, |customer| customer.queued) < 2 {
                world.submit(job(next, name, DEV).estimate(GpuNanos::from_secs(estimate)));
                next += 1;
            }
        }
        world.dispatch();
        world.finish_one();
        world.rig.settlements();
        let (job, _) = *world.started.last().unwrap();
        if world.rig.job(job).customer == "careful" { careful += 1 } else { exact += 1 }
    }
    // What stands in line was placed by what was said; beyond that nothing is lost.
    assert!((careful - exact).abs() <= 30, "{careful} and {exact} jobs of a second each");
}

#[test]
fn in_order_of_arrival_nobody_is_favoured() {
    let mut rig = Rig::with_slots(GatewayConfig::default().ordering(Ordering::Fifo), 1);
    rig.gateway.put_customer(rig.now, "heavy", CustomerPolicy::default().weight(1_000)).unwrap();
    let mut chance = Rng::new(5);
    let mut expected: [Vec<u128>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for number in 0..120 {
        let lane = chance.below(3) as usize;
        let name = *chance.pick(&["heavy", "light", "other"]);
        let own = job(number, name, DEV).priority([Priority::High, Priority::Normal, Priority::Low][lane]);
        rig.submit(own.estimate(GpuNanos::from_secs(1 + chance.below(90))));
        expected[lane].push(number);
    }
    let served: Vec<u128> = (0..120).map(|_| serve(&mut rig, 1).0).collect();
    assert_eq!(served, expected.concat());
}

#[test]
fn one_customer_alone_or_one_job_each_is_order_of_arrival() {
    for names in [["a"; 6], NAMES] {
        let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
        for (number, name) in names.iter().enumerate() {
            rig.submit(job(number as u128, name, DEV).estimate(GpuNanos::from_secs(9 - number as u64)));
        }
        let served: Vec<u128> = (0..6).map(|_| serve(&mut rig, 1).0).collect();
        assert_eq!(served, [0, 1, 2, 3, 4, 5], "{names:?}");
    }
}
