//! Every error number: unique, well named, and met by somebody who makes that mistake.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

use std::collections::{BTreeMap, BTreeSet};

use libgateway::error::{Coded, ErrorReply, all};
use libgateway::{
    Batch, BillingCall, BillingCollector, BillingCollectorConfig, BillingPolicy, Command, Entry, Excess, Failure,
    FailureClass, Gateway, GatewayConfig, GpuNanos, JobStore, JobStoreConfig, LeaseId, NewJob, Outbox, OutboxConfig,
    Output, Price, PriceBook, Reply, Route, SharedGateway, Submit, Usage,
};
use libgateway_tests::kit::{DEV, Rig, START, WAN, flux, id, job, route, secs, wan};

/// A gateway with one waiting job, under a key, and one that runs under lease 1.
fn rig() -> Rig {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV).idempotency_key("key"));
    rig.lease();
    rig.pass(secs(1));
    rig
}

const LEASE: LeaseId = LeaseId::from_u64(1);

fn say<T, E: Coded + core::fmt::Display>(result: Result<T, E>) -> ErrorReply {
    match result {
        Ok(_) => panic!("the mistake was not noticed"),
        Err(error) => {
            let reply = ErrorReply::from(&error);
            assert_eq!((reply.number, &*reply.name), (error.number(), error.name()));
            reply
        }
    }
}

fn apply(rig: &mut Rig, command: Command<'_>) -> ErrorReply {
    match rig.gateway.apply(Entry::new(rig.now, command)) {
        Reply::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

fn complete(usage: Usage<'_>) -> ErrorReply {
    let mut rig = rig();
    say(rig.gateway.complete(rig.now, LEASE, Output::url("u"), usage))
}

fn collector() -> BillingCollector {
    BillingCollector::new(BillingCollectorConfig::default(), PriceBook::new(1, "USD").unwrap()).unwrap()
}

fn snapshot(change: impl Fn(&mut Vec<u8>)) -> ErrorReply {
    let mut bytes = rig().gateway.snapshot();
    change(&mut bytes);
    say(Gateway::replica(&bytes))
}

/// How each error is met.
fn mistakes() -> BTreeMap<u16, Box<dyn Fn() -> ErrorReply>> {
    let mut table: BTreeMap<u16, Box<dyn Fn() -> ErrorReply>> = BTreeMap::new();
    let mut met = |number: u16, mistake: fn() -> ErrorReply| {
        assert!(table.insert(number, Box::new(mistake)).is_none(), "{number} stands here twice");
    };
    // Values that cannot be.
    met(201, || say(rig().gateway.submit(START, Submit::new(id(9), "", route(DEV)))));
    met(202, || say(rig().gateway.submit(START, Submit::new(id(9), "x".repeat(129), route(DEV)))));
    met(203, || say(rig().gateway.submit(START, Submit::new(id(9), "ac\u{7}me", route(DEV)))));
    met(204, || say(rig().gateway.put_backend(START, flux("gpu-2").slots(0))));
    met(205, || say(Usage::gpu(GpuNanos::from_nanos(u64::MAX), "a").and_gpu(GpuNanos::from_nanos(1), "b").total()));
    met(206, || say(Route::parse("image/flux/dev")));
    met(207, || {
        let mut rig = rig();
        rig.gateway.put_prices(rig.now, PriceBook::new(1, "USD").unwrap()).unwrap();
        say(rig.gateway.put_prices(rig.now, PriceBook::new(2, "EUR").unwrap()))
    });
    met(208, || complete(Usage::gpu(GpuNanos::from_nanos(1), "a").and_gpu(GpuNanos::from_nanos(1), "a")));
    // Limits.
    met(301, || {
        let mut rig = Rig::with_slots(GatewayConfig::default().backends_max(1), 1);
        say(rig.gateway.put_backend(rig.now, flux("gpu-2")))
    });
    // Submissions.
    met(401, || say(rig().gateway.submit(START, job(9, "acme", DEV).idempotency_key("key").payload("other"))));
    met(402, || say(rig().gateway.submit(START, job(9, "acme", WAN))));
    met(403, || say(rig().gateway.submit(START, job(1, "acme", DEV))));
    // Leases.
    met(501, || {
        let mut rig = rig();
        rig.cancel(id(1));
        say(rig.gateway.heartbeat(rig.now, LEASE))
    });
    met(502, || say(rig().gateway.release(START, LeaseId::from_u64(2))));
    // Jobs.
    met(511, || {
        let usage = Usage::gpu(GpuNanos::from_secs(1), "a");
        let mut rig = rig();
        say(rig.gateway.correct_usage(rig.now, LEASE, usage))
    });
    met(512, || {
        let mut rig = rig();
        rig.gateway.release(rig.now, LEASE).unwrap();
        rig.pass(secs(1_800));
        rig.pass(secs(1_800));
        say(rig.gateway.correct_usage(rig.now, LEASE, Usage::gpu(GpuNanos::from_secs(1), "a")))
    });
    met(601, || say(rig().gateway.cancel(START, id(9))));
    met(602, || {
        let mut rig = rig();
        rig.cancel(id(1));
        say(rig.gateway.cancel(rig.now, id(1)))
    });
    met(603, || say(rig().gateway.delete(START, id(1))));
    met(604, || say(store().complete(START, id(1), 0, Output::url("u"))));
    met(605, || {
        let mut store = store();
        let first = store.start(START, id(1)).unwrap();
        store.requeue(START, id(1), first).unwrap();
        store.start(START, id(1)).unwrap();
        say(store.complete(START, id(1), first, Output::url("u")))
    });
    met(606, || {
        let mut rig = Rig::with_slots(GatewayConfig::default().preemptions_max(0), 1);
        rig.submit(job(1, "acme", DEV));
        rig.lease();
        say(rig.gateway.preempt(rig.now, id(1), Usage::unmeasured()))
    });
    // The fleet.
    met(701, || say(rig().gateway.drain_backend(START, "gpu-9", true)));
    met(702, || say(rig().gateway.remove_customer(START, "acme")));
    met(703, || say(rig().gateway.pause(START, &route(WAN))));
    // Money.
    met(1101, || say(collector().end("req_1", &Usage::unmeasured(), START)));
    met(1102, || {
        let mut collector = collector();
        let call = BillingCall { request_id: "req_1", customer: Some("acme"), model: "flux/dev", tier: None };
        collector.start(call, START).unwrap();
        say(collector.start(call, START))
    });
    met(1103, || {
        let billing = BillingPolicy::default().excess(Excess::Refuse);
        let mut rig = Rig::with_slots(GatewayConfig::default().billing(billing), 1);
        rig.submit(job(1, "acme", DEV));
        let (lease, usage) = (rig.lease(), Usage::gpu(GpuNanos::from_secs(1_700_000_000), "a"));
        say(rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage))
    });
    met(1104, || say(Price::per_second(u64::MAX).charge(GpuNanos::from_secs(2))));
    met(1111, || say(rig().gateway.confirm_settlements(START, Batch { id: 1, first_seq: 1, len: 1 })));
    met(1112, || {
        let mut rig = rig();
        rig.cancel(id(1));
        let taken = rig.gateway.take_settlements(rig.now, 1).unwrap();
        rig.gateway.return_settlements(rig.now, taken.batch).unwrap();
        say(rig.gateway.confirm_settlements(rig.now, taken.batch))
    });
    met(1113, || {
        let mut outbox = Outbox::new(OutboxConfig::default()).unwrap();
        let number = outbox.push("entry").unwrap();
        assert!(outbox.take(1, START).is_some());
        say(outbox.truncate_back(number))
    });
    // Snapshots.
    met(1201, || snapshot(|bytes| bytes.truncate(bytes.len() - 1)));
    met(1202, || snapshot(|bytes| bytes[0] = b'X'));
    met(1203, || snapshot(|bytes| bytes[4] = 9));
    met(1204, || snapshot(|bytes| bytes[40] ^= 1));
    met(1205, corrupt);
    met(1206, || {
        let mut rig = rig();
        let mut slices = rig.gateway.slices();
        assert!(slices.next(&rig.gateway).unwrap().is_some());
        rig.pass(secs(1));
        say(slices.next(&rig.gateway))
    });
    // Logs.
    met(1301, || say(Entry::from_json("{\"now\":1}")));
    met(1302, || say(Entry::from_bytes(b"?")));
    met(1303, || {
        let mut rig = rig();
        match rig.gateway.apply(Entry::new(START, Command::Advance {}).numbered(1)) {
            Reply::Error(error) => error,
            other => panic!("{other:?}"),
        }
    });
    // Transactions.
    met(1401, || apply(&mut Rig::new(GatewayConfig::default()), all_of(r#"{"dispatch":{}}"#)));
    met(1402, || apply(&mut rig(), all_of("")));
    met(1403, || {
        let mut rig = Rig::new(GatewayConfig::default().steps_max(1));
        apply(&mut rig, all_of(r#"{"dispatch":{}},{"dispatch":{}}"#))
    });
    // Threads.
    met(1501, || {
        let shared = SharedGateway::new(rig().gateway, || START);
        let other = shared.clone();
        let died = std::thread::spawn(move || other.with(|_, _| panic!("as this test wants it"))).join();
        assert!(died.is_err());
        say(shared.with(|gateway, _| gateway.stats()))
    });
    table
}

fn store() -> JobStore {
    let mut store = JobStore::new(JobStoreConfig::default(), START);
    store.insert(START, NewJob::new(id(1), "acme")).unwrap();
    store
}

fn all_of(step: &'static str) -> Command<'static> {
    let line: &'static str = format!(r#"{{"now":{},"command":{{"all":[{step}]}}}}"#, START.as_nanos()).leak();
    Entry::from_json(line).unwrap().command
}

/// A body that is none, under a seal that fits.
fn corrupt() -> ErrorReply {
    use blake2::digest::consts::U32;
    use blake2::{Blake2b, Digest as _};
    let mut bytes = rig().gateway.snapshot()[..14].to_vec();
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    let digest: [u8; 32] = Blake2b::<U32>::digest(&bytes).into();
    bytes.extend_from_slice(&digest);
    say(Gateway::replica(&bytes))
}

#[test]
fn every_number_is_met_by_a_mistake_and_every_mistake_is_listed() {
    let mut table = mistakes();
    for (number, name) in all() {
        let Some(mistake) = table.remove(&number) else { panic!("nobody can make the mistake {number} {name}") };
        let reply = mistake();
        assert_eq!((reply.number, &*reply.name), (number, name), "{reply:?}");
    }
    assert!(table.is_empty(), "not listed: {:?}", table.keys());
}

#[test]
fn numbers_ascend_and_names_are_their_own() {
    let numbers: Vec<u16> = all().map(|(number, _)| number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let names: BTreeSet<&str> = all().map(|(_, name)| name).collect();
    assert_eq!(names.len(), numbers.len(), "two errors share a name");
    assert!(numbers.iter().all(|number| (200..1_600).contains(number)));
}

#[test]
fn names_are_in_snake_case() {
    for (number, name) in all() {
        let words = name.split('_').all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()));
        assert!(words, "{number} {name:?}");
    }
}

#[test]
fn messages_are_short_lower_case_and_without_a_full_stop() {
    for (number, mistake) in mistakes() {
        let ErrorReply { message, field, .. } = mistake();
        assert!(!message.is_empty() && message.chars().count() <= 1_000, "{number} {message}");
        assert_eq!(message, message.to_lowercase(), "{number}");
        assert!(!message.ends_with(['.', '!', ' ', '\n']) && !message.starts_with(' '), "{number} {message:?}");
        for rust in ["::", "Some(", "None", "Error", "&str", "struct ", "enum ", "Option"] {
            assert!(!message.contains(rust), "{number} has a Rust name: {message}");
        }
        if let Some(field) = field {
            let known = field.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.'));
            assert!(known && !field.is_empty(), "{number} {field}");
        }
    }
}

#[test]
fn a_long_value_of_a_stranger_does_not_make_a_long_message() {
    // The route of a refusal is told in its message; nothing longer than a route can be gets that far.
    let model = "x".repeat(64);
    let name = format!("{model}/{model}/{model}/t2i");
    let refused = say(rig().gateway.submit(START, Submit::new(id(9), "acme", Route::parse(&name).unwrap())));
    assert!(refused.message.chars().count() <= 300, "{}", refused.message);

    // A name that is not found is told, too. One that is too long for a name or would paint on the operator's screen is
    // not: it once was, whole.
    for (name, number) in [("x".repeat(5_000), 202), ("\u{1b}[2J\n".into(), 203), (String::new(), 201)] {
        for refused in [
            say(rig().gateway.remove_backend(START, &name)),
            say(rig().gateway.dispatch_to(START, &name, 1)),
            say(rig().gateway.remove_customer(START, &name)),
        ] {
            assert_eq!(refused.number, number, "{refused:?}");
            assert!(refused.message.chars().all(|character| !character.is_control()), "{refused:?}");
        }
    }
}

#[test]
fn an_error_is_the_same_as_data() {
    for (number, mistake) in mistakes() {
        let reply = Reply::Error(mistake());
        let text = reply.to_json();
        assert!(text.contains(&format!("\"number\":{number},\"name\":\"")), "{text}");
    }
}

#[test]
fn of_several_mistakes_the_documented_one_is_told() {
    // Shape before what it refers to, that before conflicts, those before limits.
    let mut rig = Rig::with_slots(GatewayConfig::default().jobs_max(1).routes_max(1), 1);
    rig.put(wan("wan-1"));
    rig.submit(job(1, "acme", DEV).idempotency_key("key").payload("body"));
    let mut number = |submit: Submit<'_>| rig.gateway.submit(START, submit).map_err(|error| error.number());
    let all_wrong = || job(1, "acme", "text/qwen/x/chat").idempotency_key("key").payload("other");
    assert_eq!(number(all_wrong().affinity("")), Err(201));
    assert_eq!(number(all_wrong()), Err(401));
    assert_eq!(number(all_wrong().idempotency_key("new")), Err(402));
    assert_eq!(number(job(1, "acme", WAN)), Err(403));
    assert_eq!(number(job(2, "acme", WAN)), Err(301));
    // A lease's end is told before what is wrong with its result.
    let lease = rig.lease();
    let failure = Failure::new(FailureClass::Timeout, "x".repeat(2_000_000));
    assert_eq!(say(rig.gateway.fail(rig.now, lease.id, failure.clone(), Usage::unmeasured())).number, 202);
    rig.cancel(lease.job);
    assert_eq!(say(rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured())).number, 501);
}
