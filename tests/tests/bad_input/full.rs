//! Tables that are full: which limit it is, and that the same call succeeds when there is room.

use libgateway::error::{Coded, Full};
use libgateway::{CustomerPolicy, GatewayConfig};
use libgateway_tests::kit::{DEV, Rig, SCHNELL, WAN, flux, id, job, secs, wan};

/// What a call said that found no room.
fn full<T: core::fmt::Debug>(result: Result<T, impl Coded>) -> (u16, Option<&'static str>) {
    let error = result.err().unwrap();
    (error.number(), error.field())
}

fn rig(config: GatewayConfig) -> Rig {
    let mut rig = Rig::with_slots(config, 4);
    rig.put(wan("wan-1"));
    rig
}

#[test]
fn jobs_that_live_and_settlements_that_were_not_confirmed_share_one_limit() {
    let mut rig = rig(GatewayConfig::default().jobs_max(2));
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV));
    let third = || job(3, "acme", DEV);
    let digest = rig.gateway.digest();
    assert_eq!(rig.gateway.submit(rig.now, third()), Err(Full { what: "jobs", max: 2 }.into()));
    assert_eq!(rig.gateway.digest(), digest);

    // The end of a job makes no room: its settlement takes the place until it is safe.
    rig.cancel(id(1));
    assert_eq!(full(rig.gateway.submit(rig.now, third())), (301, Some("jobs")));
    let taken = rig.gateway.take_settlements(rig.now, 9).unwrap();
    assert_eq!(full(rig.gateway.submit(rig.now, third())), (301, Some("jobs")));
    assert_eq!(rig.gateway.confirm_settlements(rig.now, taken.batch), Ok(1));
    assert_eq!(rig.gateway.submit(rig.now, third()), Ok(id(3)));
    rig.check();
}

#[test]
fn waiting_jobs_of_a_customer_have_a_limit_of_their_own() {
    let policy = CustomerPolicy::default().queued_max(2);
    let mut rig = rig(GatewayConfig::default().customer(policy));
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", WAN));
    let digest = rig.gateway.digest();
    assert_eq!(full(rig.gateway.submit(rig.now, job(3, "acme", DEV))), (301, Some("queued")));
    assert_eq!(rig.gateway.digest(), digest);
    // Nobody else is hurt by it.
    rig.submit(job(4, "zoo", DEV));
    assert_eq!(rig.lease().job, id(1));
    assert_eq!(rig.gateway.submit(rig.now, job(3, "acme", DEV)), Ok(id(3)));
    rig.check();
}

#[test]
fn a_customer_that_may_not_wait_is_told_so_at_once() {
    let mut rig = rig(GatewayConfig::default().customer(CustomerPolicy::default().queued_max(0)));
    let digest = rig.gateway.digest();
    assert_eq!(rig.gateway.submit(rig.now, job(1, "acme", DEV)), Err(Full { what: "queued", max: 0 }.into()));
    assert_eq!(rig.gateway.digest(), digest);
}

#[test]
fn customers_have_a_limit_and_idle_ones_make_room() {
    let config = GatewayConfig::default().customers_max(2).customer_idle(secs(10)).retain_for(secs(5));
    let mut rig = rig(config);
    rig.submit(job(1, "acme", DEV));
    rig.gateway.put_customer(rig.now, "zoo", CustomerPolicy::default()).unwrap();
    let digest = rig.gateway.digest();
    assert_eq!(full(rig.gateway.submit(rig.now, job(2, "late", DEV))), (301, Some("customers")));
    assert_eq!(full(rig.gateway.put_customer(rig.now, "late", CustomerPolicy::default())), (301, Some("customers")));
    assert_eq!(rig.gateway.digest(), digest);
    // Known ones go on, with and without a policy.
    rig.submit(job(3, "zoo", DEV));
    rig.gateway.put_customer(rig.now, "zoo", CustomerPolicy::default().weight(2)).unwrap();

    rig.cancel(id(1));
    rig.settlements();
    rig.pass(secs(5));
    assert_eq!(rig.gateway.job(id(1)), None);
    assert_eq!(full(rig.gateway.submit(rig.now, job(2, "late", DEV))), (301, Some("customers")));
    rig.pass(secs(10));
    assert_eq!(rig.gateway.customer("acme"), None);
    assert_eq!(rig.gateway.submit(rig.now, job(2, "late", DEV)), Ok(id(2)));
    rig.check();
}

#[test]
fn routes_have_a_limit_and_unused_ones_make_room() {
    let mut rig = rig(GatewayConfig::default().routes_max(2));
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", SCHNELL));
    let digest = rig.gateway.digest();
    assert_eq!(full(rig.gateway.submit(rig.now, job(3, "acme", WAN))), (301, Some("routes")));
    // Another task is the same route; another engine is another one.
    rig.gateway.submit(rig.now, job(4, "acme", "image/flux/dev/i2i")).unwrap();
    assert_eq!(
        full(rig.gateway.submit(rig.now, job(3, "acme", "image/flux/dev/t2i?backend=torch"))),
        (301, Some("routes"))
    );
    rig.gateway.cancel(rig.now, id(4)).unwrap();
    rig.settlements();
    rig.gateway.delete(rig.now, id(4)).unwrap();
    assert_ne!(rig.gateway.digest(), digest, "a job came and went");

    rig.cancel(id(2));
    rig.settlements();
    assert_eq!(full(rig.gateway.submit(rig.now, job(3, "acme", WAN))), (301, Some("routes")));
    rig.gateway.delete(rig.now, id(2)).unwrap();
    assert_eq!(rig.gateway.submit(rig.now, job(3, "acme", WAN)), Ok(id(3)));
    rig.check();
}

#[test]
fn backends_have_a_limit_and_removed_ones_make_room() {
    let mut rig = rig(GatewayConfig::default().backends_max(2));
    let digest = rig.gateway.digest();
    assert_eq!(full(rig.gateway.put_backend(rig.now, flux("gpu-3"))), (301, Some("backends")));
    assert_eq!(rig.gateway.digest(), digest);
    // One that is there may change.
    rig.put(flux("gpu-1").slots(9));

    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.gateway.remove_backend(rig.now, "gpu-1").unwrap();
    assert_eq!(full(rig.gateway.put_backend(rig.now, flux("gpu-3"))), (301, Some("backends")), "its lease still lives");
    rig.complete(&lease);
    rig.put(flux("gpu-3"));
    assert!(rig.gateway.backend("gpu-1").is_none());
}

#[test]
fn families_have_a_limit_and_unserved_ones_make_room() {
    let mut rig = rig(GatewayConfig::default().families_max(2));
    let qwen = || libgateway::Backend::new("qwen-1", libgateway::BackendKind::Vllm).serves("text", "qwen", ["*"]);
    let digest = rig.gateway.digest();
    assert_eq!(full(rig.gateway.put_backend(rig.now, qwen())), (301, Some("families")));
    assert_eq!(rig.gateway.digest(), digest);
    rig.put(wan("wan-2"));
    rig.gateway.remove_backend(rig.now, "wan-1").unwrap();
    assert_eq!(full(rig.gateway.put_backend(rig.now, qwen())), (301, Some("families")));
    rig.gateway.remove_backend(rig.now, "wan-2").unwrap();
    rig.put(qwen());
}

#[test]
fn ended_jobs_beyond_their_limit_leave_first_in_first_out() {
    let mut rig = rig(GatewayConfig::default().retained_max(2));
    for number in 1..=4 {
        rig.submit(job(number, "acme", DEV));
        rig.cancel(id(number));
    }
    rig.to(rig.now);
    let known: Vec<_> = (1..=4).filter(|number| rig.gateway.job(id(*number)).is_some()).collect();
    assert_eq!(known, [3, 4]);
    assert_eq!(rig.settlements().len(), 4, "their settlements stay");
}
