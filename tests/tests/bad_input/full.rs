//! Tables that are full: which limit it is, and that the same call succeeds when there is room.

use libgateway::error::{Coded, ErrorReply, Full, LimitReply, Scope};
use libgateway::{
    BillingCall, BillingCollector, BillingCollectorConfig, Command, CustomerPolicy, Dispatch, Entry, GatewayConfig,
    JobStore, JobStoreConfig, NewJob, PriceBook, RateLimit, Reply, Timeouts, Timestamp,
};
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
    let refusal = Full::new("jobs", Scope::Gateway, 2, 2).with_settlements();
    assert_eq!(rig.gateway.submit(rig.now, third()), Err(refusal.into()));
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
    assert_eq!(
        rig.gateway.submit(rig.now, job(1, "acme", DEV)),
        Err(Full::new("queued", Scope::Customer, 0, 0).into())
    );
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

#[test]
fn a_refusal_says_whose_limit_it_is_how_full_it_is_and_what_counts() {
    let mut rig = rig(GatewayConfig::default().jobs_max(2).customer(CustomerPolicy::default().queued_max(1)));
    rig.submit(job(1, "acme", DEV));
    let refused = |error: &dyn Fn() -> ErrorReply| {
        let reply = error();
        (reply.message.clone(), *reply.limit.clone().unwrap(), Reply::Error(reply).to_json())
    };
    let limit = |name: &str, scope: &str, measured, max| LimitReply {
        name: name.into(),
        scope: scope.into(),
        measured,
        max,
        retry_at: None,
    };
    let error = rig.gateway.submit(rig.now, job(2, "acme", DEV)).unwrap_err();
    let (message, told, json) = refused(&|| ErrorReply::from(&error));
    assert_eq!(message, "queued is full: 1 of at most 1 for this customer");
    assert_eq!(told, limit("queued", "customer", 1, 1));
    assert!(
        json.ends_with(r#""limit":{"name":"queued","scope":"customer","measured":1,"max":1,"retry_at":null}}}"#),
        "{json}"
    );

    // One that runs, one that ended and is not billed: the limit of two is reached.
    rig.submit(job(2, "zoo", DEV));
    rig.cancel(id(2));
    let error = rig.gateway.submit(rig.now, job(3, "late", DEV)).unwrap_err();
    let (message, told, _) = refused(&|| ErrorReply::from(&error));
    assert_eq!(message, "jobs is full: 2 of at most 2 in this gateway, settlements that are not confirmed count");
    assert_eq!(told, limit("jobs", "gateway", 2, 2));

    // Every other error says nothing of a limit, and its JSON is what it was.
    let other = Reply::Error(ErrorReply::from(&rig.gateway.cancel(rig.now, id(9)).unwrap_err()));
    assert!(other.error().unwrap().limit.is_none() && !other.to_json().contains("limit"), "{}", other.to_json());
    for reply in [other, Reply::Error(ErrorReply::from(&error))] {
        assert_eq!(serde_json::from_str::<Reply>(&reply.to_json()).unwrap(), reply);
    }
}

#[test]
fn a_refusal_says_when_there_will_be_room_where_that_is_known() {
    let at = Timestamp::from_secs;
    let clocks = Timeouts { queue: Some(secs(30)), ..Timeouts::NONE };
    let mut store = JobStore::new(JobStoreConfig::default().jobs_max(1).timeouts(clocks), at(0));
    store.insert(at(1), NewJob::new(id(1), "acme")).unwrap();
    let error = store.insert(at(2), NewJob::new(id(2), "acme")).unwrap_err();
    assert_eq!(error.limit().unwrap().retry_at, Some(at(31)));
    assert!(store.insert(Timestamp::from_nanos(at(31).as_nanos() - 1), NewJob::new(id(2), "acme")).is_err());
    store.insert(at(31), NewJob::new(id(2), "acme")).unwrap();

    let config = BillingCollectorConfig::default().starts_max(1).start_age_max(secs(60));
    let mut billing = BillingCollector::new(config, PriceBook::new(1, "USD").unwrap()).unwrap();
    let call = |request_id| BillingCall { request_id, customer: Some("acme"), model: "flux/dev", tier: None };
    billing.start(call("a"), at(1)).unwrap();
    let error = billing.start(call("b"), at(2)).unwrap_err();
    assert_eq!((error.limit().unwrap().scope, error.limit().unwrap().retry_at), (Scope::Part, Some(at(61))));
}

#[test]
fn a_transaction_as_data_is_refused_before_anything_changes_when_it_has_too_many_steps() {
    let mut rig = rig(GatewayConfig::default().steps_max(3));
    rig.submit(job(1, "acme", DEV));
    let digest = rig.gateway.digest();
    let mut apply = |steps: &str| {
        let line = format!(r#"{{"now":{},"command":{steps}}}"#, rig.now.as_nanos());
        let reply = rig.gateway.apply(Entry::from_json(&line).unwrap());
        (reply.error().map(|error| (error.number, error.message.clone())), rig.gateway.digest())
    };
    let dispatch = r#"{"dispatch":{}}"#;
    let too_many = |len: u64| Some((1_403, format!("the transaction has {len} steps, at most 3 are allowed")));
    for (steps, len) in [
        (format!(r#"{{"all":[{}]}}"#, [dispatch; 4].join(",")), 4),
        (format!(r#"{{"first_of":[{}]}}"#, [dispatch; 4].join(",")), 4),
        (format!(r#"{{"all":[{dispatch},{{"all":[{}]}}]}}"#, [dispatch; 3].join(",")), 4),
        (format!(r#"{{"all":[{dispatch},{{"first_of":[{}]}}]}}"#, [dispatch; 9].join(",")), 10),
        (format!(r#"{{"all":[{}]}}"#, [r#"{"all":[]}"#; 4].join(",")), 4),
    ] {
        assert_eq!(apply(&steps), (too_many(len), digest), "{steps}");
    }
    let (error, after) = apply(&format!(r#"{{"first_of":[{{"all":[{}]}},{dispatch}]}}"#, [dispatch; 2].join(",")));
    assert_eq!(error, None);
    assert_ne!(after, digest);
    let zero = GatewayConfig::default().steps_max(0).check();
    assert!(zero.is_err_and(|error| error.field() == Some("steps_max")));
    assert_eq!(GatewayConfig::default().steps_max, 64);
    let Command::All(_) = Entry::from_json(r#"{"now":1,"command":{"all":[]}}"#).unwrap().command else { panic!() };
}

#[test]
fn tokens_and_rates_beyond_thirty_two_bits_pass_through_a_gateway() {
    let day = 86_400;
    let rate = RateLimit::new(5_000_000_000, secs(day), 5_000_000_000).unwrap();
    let mut rig = rig(GatewayConfig::default().customer(CustomerPolicy::default().rate(rate)));
    rig.submit(job(1, "acme", DEV).tokens(4_999_999_999));
    rig.submit(job(2, "acme", DEV).tokens(2));
    assert!(rig.gateway.submit(rig.now, job(3, "acme", DEV).tokens(5_000_000_001)).is_err());
    assert_eq!(rig.lease().job, id(1));
    assert_eq!(rig.gateway.customer("acme").unwrap().tokens, Some(1));
    // The second token comes after a day's 5 * 10^9th part, 17 280 ns.
    let Dispatch::Wait { until: Some(due) } = rig.gateway.dispatch(rig.now) else { panic!() };
    assert_eq!(due.since(rig.now).as_nanos(), 17_280);
    assert!(matches!(rig.gateway.dispatch(Timestamp::from_nanos(due.as_nanos() - 1)), Dispatch::Wait { .. }));
    assert!(matches!(rig.gateway.dispatch(due), Dispatch::Lease(lease) if lease.job == id(2)));
}
