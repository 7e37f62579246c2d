//! What one customer, backend or route cannot do now delays nobody else.

use std::collections::BTreeMap;

use libgateway::{CustomerPolicy, ForcedState, GatewayConfig, GpuNanos, JobId, Priority, RateLimit, Span, Timestamp};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, at, flux, flux_model, id, job, route, secs};
use libgateway_tests::rng::Rng;

use crate::world::World;

/// A job's number tells whose it is: those of the trouble begin here.
const TROUBLE: u128 = 1_000_000;

/// What is put into the world besides the bystanders.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Throttled,
    AtItsCap,
    DeadBackend,
    PausedRoute,
    RouteWithoutBackend,
}

/// When each bystander's job started, with or without the trouble.
fn starts(trouble: Trouble, present: bool, seed: u64) -> BTreeMap<JobId, Timestamp> {
    let mut rig = Rig::new(GatewayConfig::default());
    rig.checked = false;
    for gpu in 0..3 {
        rig.put(flux(&format!("gpu-{gpu}")));
    }
    prepare(&mut rig, trouble, present);
    let mut world = World::new(rig, secs(1));
    if present {
        for number in 0..300 {
            let (name, way) = match trouble {
                Trouble::PausedRoute | Trouble::RouteWithoutBackend => ("trouble", SCHNELL_TENSORRT),
                _ => ("trouble", [DEV, SCHNELL][number % 2]),
            };
            let lane = [Priority::High, Priority::Normal, Priority::Low][number % 3];
            world.submit(job(TROUBLE + number as u128, name, way).priority(lane));
        }
        if let Trouble::RouteWithoutBackend = trouble {
            world.rig.gateway.remove_backend(world.rig.now, "trt-1").unwrap();
        }
    }
    // Three customers, somewhat more work than three GPUs can do, at odd instants.
    let mut chance = Rng::new(seed);
    for number in 0..400 {
        let next = world.rig.now + Span::from_millis(1 + chance.below(600));
        world.run_until(next);
        let lane = *chance.pick(&[Priority::High, Priority::Normal, Priority::Normal, Priority::Low]);
        let own = job(number, chance.word(&["acme", "zoo", "umbrella"]), chance.word(&[DEV, SCHNELL]));
        world.submit(own.priority(lane).estimate(GpuNanos::from_millis(500 + chance.below(1_000))));
    }
    world.run_until(at(400));
    world.rig.gateway.check_invariants();
    if present {
        assert!(
            !world.started.iter().any(|(job, _)| job.as_u128() >= TROUBLE),
            "the trouble was to be kept from running"
        );
    }
    world.started.into_iter().collect()
}

/// A route of an engine that only the troubled backend has.
const SCHNELL_TENSORRT: &str = "image/flux/schnell/t2i?backend=tensorrt";

fn prepare(rig: &mut Rig, trouble: Trouble, present: bool) {
    let tensorrt = libgateway::Backend::new("trt-1", libgateway::BackendKind::Tensorrt);
    match trouble {
        Trouble::Throttled => {
            // Its bucket is empty and fills after the end.
            let rate = RateLimit::new(1, secs(1_000_000), 1).unwrap();
            rig.gateway.put_customer(rig.now, "trouble", CustomerPolicy::default().rate(rate)).unwrap();
            rig.submit(job(TROUBLE - 1, "trouble", DEV));
            let lease = rig.lease();
            rig.complete(&lease);
        }
        Trouble::AtItsCap => {
            rig.gateway.put_customer(rig.now, "trouble", CustomerPolicy::default().running_max(0)).unwrap();
        }
        Trouble::DeadBackend if present => {
            rig.put(flux("dead").slots(50));
            rig.gateway.force_breaker(rig.now, "dead", Some(ForcedState::Open), None).unwrap();
            let policy = CustomerPolicy::default().running_max(0);
            rig.gateway.put_customer(rig.now, "trouble", policy).unwrap();
        }
        Trouble::PausedRoute => {
            rig.put(tensorrt.serves("image", "flux", ["schnell"]));
            rig.submit(job(TROUBLE - 1, "acme", SCHNELL_TENSORRT));
            let lease = rig.lease();
            rig.complete(&lease);
            rig.gateway.pause(rig.now, &route(SCHNELL_TENSORRT)).unwrap();
            rig.gateway.drain_backend(rig.now, "trt-1", true).unwrap();
        }
        Trouble::RouteWithoutBackend if present => {
            rig.put(tensorrt.serves("image", "flux", ["schnell"]));
            rig.gateway.drain_backend(rig.now, "trt-1", true).unwrap();
        }
        _ => {}
    }
}

#[test]
fn nobody_else_starts_a_nanosecond_later() {
    for trouble in [
        Trouble::Throttled,
        Trouble::AtItsCap,
        Trouble::DeadBackend,
        Trouble::PausedRoute,
        Trouble::RouteWithoutBackend,
    ] {
        for seed in [1, 2] {
            let with = starts(trouble, true, seed);
            let without = starts(trouble, false, seed);
            let others = |starts: &BTreeMap<JobId, Timestamp>| {
                let others = starts.iter().filter(|(job, _)| job.as_u128() < TROUBLE - 1);
                others.map(|(job, start)| (*job, *start)).collect::<Vec<_>>()
            };
            assert_eq!(others(&with).len(), 400, "{trouble:?}");
            assert_eq!(others(&with), others(&without), "{trouble:?}");
        }
    }
}

#[test]
fn a_backend_that_is_full_of_one_model_does_not_hold_up_another() {
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux_model("dev-1", "dev"));
    rig.put(flux_model("schnell-1", "schnell"));
    for number in 0..50 {
        rig.submit(job(number, "acme", DEV));
    }
    rig.submit(job(100, "acme", SCHNELL));
    let leased: Vec<_> = rig.leases().into_iter().map(|lease| lease.job).collect();
    assert_eq!(leased, [id(0), id(100)]);
}

#[test]
fn a_customer_that_may_run_again_is_not_forgotten() {
    // What is stepped over has to be looked at again at the instant, or the event, that was waited for.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 9);
    rig.gateway.put_customer(rig.now, "capped", CustomerPolicy::default().running_max(1)).unwrap();
    for number in 0..4 {
        rig.submit(job(number, "capped", [DEV, SCHNELL][number as usize % 2]));
    }
    for number in 0..4 {
        let leases = rig.leases();
        assert_eq!((leases.len(), leases[0].job), (1, id(number)));
        match number {
            0 => _ = rig.complete(&leases[0]),
            1 => rig.cancel(leases[0].job),
            2 => _ = rig.fail(&leases[0], libgateway::FailureClass::Rejected),
            _ => _ = rig.pass(secs(300)),
        }
    }
    assert_eq!(rig.leases().len(), 1, "the lost one runs again");
}
