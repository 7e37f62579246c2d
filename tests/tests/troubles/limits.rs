//! What a customer may do, and what happens to jobs that wait when that changes.

use libgateway::{CustomerPolicy, Gateway, GatewayConfig, JobState, RateLimit, WaitReason};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, at, id, job};

#[test]
fn a_job_that_can_never_run_under_a_lower_plan_stands_in_nobodys_way() {
    let plan = |burst| CustomerPolicy::default().rate(RateLimit::per_second(1, burst));
    let mut rig = Rig::with_slots(GatewayConfig::default(), 9);
    rig.gateway.put_customer(rig.now, "acme", plan(10)).unwrap();
    rig.submit(job(1, "acme", DEV).tokens(10));
    rig.submit(job(2, "acme", DEV).tokens(1));
    rig.submit(job(3, "acme", DEV).tokens(1));
    rig.gateway.put_customer(rig.now, "acme", plan(5)).unwrap();
    assert_eq!(rig.leases().iter().map(|lease| lease.job).collect::<Vec<_>>(), [id(2), id(3)]);
    assert_eq!(rig.gateway.explain(id(1)), Some(WaitReason::CustomerRate { until: None }));
    assert_eq!(rig.state(id(1)), JobState::Queued);
    // What comes later goes past it, too.
    rig.submit(job(4, "acme", DEV).tokens(1));
    assert_eq!(rig.lease().job, id(4));
    // When the plan allows it again it runs, and the first of what waits.
    rig.submit(job(5, "acme", DEV).tokens(1));
    rig.gateway.put_customer(rig.now, "acme", plan(20)).unwrap();
    rig.to(at(60));
    assert_eq!(rig.leases().iter().map(|lease| lease.job).collect::<Vec<_>>(), [id(1), id(5)]);
}

#[test]
fn a_barred_job_can_be_cancelled_and_survives_a_snapshot() {
    let plan = |burst| CustomerPolicy::default().rate(RateLimit::per_second(1, burst));
    let mut rig = Rig::with_slots(GatewayConfig::default(), 9);
    rig.gateway.put_customer(rig.now, "acme", plan(10)).unwrap();
    for number in 1..=3 {
        rig.submit(job(number, "acme", DEV).tokens(10));
    }
    rig.gateway.put_customer(rig.now, "acme", plan(5)).unwrap();
    assert!(rig.leases().is_empty());
    rig.gateway = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    rig.cancel(id(2));
    rig.gateway.put_customer(rig.now, "acme", CustomerPolicy::default()).unwrap();
    assert_eq!(rig.leases().iter().map(|lease| lease.job).collect::<Vec<_>>(), [id(1), id(3)]);
}

#[test]
fn a_customer_at_its_cap_costs_as_much_with_two_hundred_lines_as_with_one() {
    // Parked jobs are looked at one by one, as places come free: not all at each end.
    let cost = |routes: u32| {
        let mut rig = Rig::with_slots(GatewayConfig::default(), 4);
        rig.checked = false;
        rig.gateway.put_customer(rig.now, "acme", CustomerPolicy::default().running_max(1)).unwrap();
        for number in 0..routes {
            let route = format!("image/flux/m{number}/t2i");
            let own = libgateway::Submit::new(id(u128::from(number)), "acme", libgateway_tests::kit::route(&route));
            rig.submit(own);
        }
        let mut served = 0;
        // The first round parks each line once.
        let mut lease = rig.lease();
        _ = rig.leases();
        let before = rig.gateway.stats().counters.parked;
        for number in routes..routes + 100 {
            rig.complete(&lease);
            rig.settlements();
            let route = format!("image/flux/m{}/t2i", number % routes);
            rig.submit(libgateway::Submit::new(id(u128::from(number)), "acme", libgateway_tests::kit::route(&route)));
            lease = rig.lease();
            served += u64::from(rig.leases().is_empty());
        }
        assert_eq!(served, 100);
        rig.gateway.stats().counters.parked - before
    };
    let (one, many) = (cost(1), cost(200));
    assert!(many <= one + 200, "{one} looks at jobs of one line, {many} of two hundred");
}

#[test]
fn a_place_that_came_free_is_never_lost_on_a_line_that_cannot_use_it() {
    // The first line's backend is gone when the customer may run again: its second line takes the place.
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(libgateway_tests::kit::flux_model("dev-1", "dev"));
    rig.put(libgateway_tests::kit::flux_model("schnell-1", "schnell"));
    rig.gateway.put_customer(rig.now, "acme", CustomerPolicy::default().running_max(1)).unwrap();
    for number in 0..6 {
        rig.submit(job(number, "acme", [DEV, SCHNELL][number as usize % 2]));
    }
    let lease = rig.lease();
    assert!(rig.leases().is_empty());
    rig.gateway.drain_backend(rig.now, "dev-1", true).unwrap();
    rig.complete(&lease);
    assert_eq!(rig.lease().job, id(1));
}
