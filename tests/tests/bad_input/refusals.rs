//! Each value that cannot be, with the number and field of its refusal; nothing has changed after it.

use libgateway::error::{Coded, CommandError, ErrorReply, InputError};
use libgateway::{
    Backend, BackendKind, BillingPolicy, CustomerPolicy, DEVICES_MAX, Entry, Excess, Failure, FailureClass,
    GatewayConfig, GpuNanos, JobId, LeaseId, NAME_LEN_MAX, Output, PriceBook, RateLimit, Route, SEGMENT_LEN_MAX,
    SLOTS_MAX, Span, Submit, Timeouts, Timestamp, Usage, WARM_MAX,
};
use libgateway_tests::kit::{DEV, Rig, WAN, flux, id, job, route, secs};

/// A gateway with a live lease 1, an ended lease 2 of job 2 under a key, and prices. Ten seconds have passed since.
fn rig() -> Rig {
    let limited = CustomerPolicy::default().rate(RateLimit::per_second(10, 5));
    let refuse = BillingPolicy::default().excess(Excess::Refuse);
    let config = GatewayConfig::default().payload_len_max(16).output_len_max(16).customer(limited).billing(refuse);
    let mut rig = Rig::with_slots(config, 4);
    rig.put(flux("gpu-2").devices(2));
    rig.gateway.remove_backend(rig.now, "gpu-2").unwrap();
    let dear = PriceBook::new(2, "EUR").unwrap().price("*", "*", u64::MAX).unwrap();
    rig.gateway.put_prices(rig.now, dear).unwrap();
    rig.submit(job(1, "acme", DEV));
    rig.submit(job(2, "acme", DEV).idempotency_key("key").payload("body"));
    assert_eq!((rig.lease().id, rig.lease().id), (LIVE, ENDED));
    rig.gateway.release(rig.now, ENDED).unwrap();
    rig.pass(secs(10));
    rig
}

/// Something that has to be refused.
type Call = Box<dyn Fn(&mut Rig) -> ErrorReply>;

/// Runs each call on a rig of its own.
#[track_caller]
fn refused(calls: Vec<(u16, &str, Call)>) {
    let caller = std::panic::Location::caller();
    for (row, (number, field, call)) in calls.into_iter().enumerate() {
        let mut rig = rig();
        let digest = rig.gateway.digest();
        let error = call(&mut rig);
        let told = (error.number, error.field.as_deref().unwrap_or_default());
        assert_eq!(told, (number, field), "row {row} at {caller}: {error:?}");
        assert_eq!(rig.gateway.digest(), digest, "row {row} at {caller}: {error:?} changed something");
        rig.check();
    }
}

fn refusal<T, E: Coded + core::fmt::Display>(result: Result<T, E>) -> ErrorReply {
    ErrorReply::from(&result.err().unwrap())
}

fn submit(change: impl Fn(Submit<'static>) -> Submit<'static> + 'static) -> Call {
    Box::new(move |rig| refusal(rig.gateway.submit(rig.now, change(job(9, "acme", DEV)))))
}

fn put(change: impl Fn(Backend) -> Backend + 'static) -> Call {
    Box::new(move |rig| refusal(rig.gateway.put_backend(rig.now, change(flux("gpu-9")))))
}

fn named(mut backend: Backend, name: &str) -> Backend {
    backend.name = name.into();
    backend
}

fn usage(usage: impl Fn() -> Usage<'static> + 'static) -> Call {
    Box::new(move |rig| {
        let failure = Failure::new(FailureClass::Backend, "it broke");
        let failed = refusal(rig.gateway.fail(rig.now, LIVE, failure, usage()));
        let completed = refusal(rig.gateway.complete(rig.now, LIVE, Output::url("u"), usage()));
        assert_eq!(failed, completed, "a failure's usage is checked as a result's");
        completed
    })
}

fn long(len: usize) -> String {
    "x".repeat(len)
}

#[test]
fn names_of_a_submission_are_checked() {
    refused(vec![
        (201, "customer", submit(|own| Submit::new(own.id, "", route(DEV)))),
        (202, "customer", submit(|own| Submit::new(own.id, long(NAME_LEN_MAX + 1), route(DEV)))),
        (203, "customer", submit(|own| Submit::new(own.id, "ac\nme", route(DEV)))),
        (203, "customer", submit(|own| Submit::new(own.id, "ac\u{9b}me", route(DEV)))),
        (201, "affinity", submit(|own| own.affinity(""))),
        (202, "affinity", submit(|own| own.affinity(long(NAME_LEN_MAX + 1)))),
        (203, "affinity", submit(|own| own.affinity("lora\0"))),
        (201, "idempotency_key", submit(|own| own.idempotency_key(""))),
        (202, "idempotency_key", submit(|own| own.idempotency_key(long(257)))),
        (203, "idempotency_key", submit(|own| own.idempotency_key("\u{1b}[2J"))),
    ]);
    // The longest ones pass.
    let mut rig = rig();
    let own = Submit::new(id(9), "\u{e9}".repeat(NAME_LEN_MAX / 2), route(DEV)).affinity(long(NAME_LEN_MAX));
    rig.submit(own.idempotency_key(long(256)));
}

#[test]
fn values_of_a_submission_are_checked() {
    let clock = |clock: fn(Option<Span>) -> Timeouts| submit(move |own| own.timeouts(clock(Some(Span::ZERO))));
    refused(vec![
        (202, "payload", submit(|own| own.payload(long(17)))),
        (204, "estimate", submit(|own| own.estimate(GpuNanos::ZERO))),
        (204, "tokens", submit(|own| own.tokens(6))),
        (204, "timeouts.queue", clock(|queue| Timeouts { queue, ..Timeouts::NONE })),
        (204, "timeouts.start", clock(|start| Timeouts { start, ..Timeouts::NONE })),
        (204, "timeouts.run", clock(|run| Timeouts { run, ..Timeouts::NONE })),
        (204, "timeouts.total", clock(|total| Timeouts { total, ..Timeouts::NONE })),
        (401, "idempotency_key", submit(|own| own.idempotency_key("key").payload("another"))),
        (
            401,
            "idempotency_key",
            submit(|own| Submit::new(own.id, "acme", route(WAN)).idempotency_key("key").payload("body")),
        ),
        (402, "route", submit(|own| Submit::new(own.id, "acme", route(WAN)))),
        (402, "route", submit(|own| Submit::new(own.id, "acme", route("image/flux/dev/t2i?backend=vllm")))),
        (403, "id", submit(|own| Submit::new(JobId::from_entropy(1), own.customer, own.route))),
    ]);
    // At their limits they pass, and so do spans at the end of time: those clocks never run out.
    let mut rig = rig();
    let ends =
        Timeouts { queue: Some(Span::MAX), start: Some(Span::MAX), run: Some(Span::MAX), total: Some(Span::MAX) };
    rig.submit(job(9, "zoo", DEV).payload(long(16)).tokens(5).estimate(GpuNanos::from_nanos(u64::MAX)).timeouts(ends));
    // One job of the other customer runs already.
    assert_eq!(rig.lease().job, id(9));
    assert_eq!(rig.lease().job, id(2));
    // The same key with the same payload is the same job, whatever else differs.
    let again = job(77, "acme", DEV).idempotency_key("key").payload("body").tokens(0);
    assert_eq!(rig.gateway.submit(rig.now, again), Ok(id(2)));
    assert_eq!(rig.gateway.job(id(77)), None);
}

#[test]
fn a_route_names_the_segment_that_cannot_be() {
    let long = "x".repeat(SEGMENT_LEN_MAX + 1);
    for (text, number, field) in [
        ("", 206, "route"),
        ("image/flux/dev", 206, "route"),
        ("image/flux/dev/t2i/more", 206, "route"),
        ("/flux/dev/t2i", 201, "modality"),
        ("image//dev/t2i", 201, "family"),
        ("image/flux//t2i", 201, "model"),
        ("image/flux/dev/", 206, "task"),
        ("image/flux/dev/T2I", 206, "task"),
        ("image/flux/dev/t2i ", 206, "task"),
        (" image/flux/dev/t2i", 203, "modality"),
        ("image/fl\u{fc}x/dev/t2i", 203, "family"),
        ("image/flux/de\nv/t2i", 203, "model"),
        ("image/flux/dev/t2i?backend=", 206, "backend"),
        ("image/flux/dev/t2i?backend=Torch", 206, "backend"),
        ("image/flux/dev/t2i?engine=torch", 206, "backend"),
        (&format!("{long}/flux/dev/t2i"), 202, "modality"),
        (&format!("image/{long}/dev/t2i"), 202, "family"),
        (&format!("image/flux/{long}/t2i"), 202, "model"),
        (&format!("image/flux/{}/t2i", "x".repeat(300)), 202, "route"),
    ] {
        let error = Route::parse(text).unwrap_err();
        assert_eq!((error.number(), error.field()), (number, Some(field)), "{text:?}: {error}");
    }
}

#[test]
fn a_backend_that_cannot_be_is_refused() {
    refused(vec![
        (201, "name", put(|own| named(own, ""))),
        (202, "name", put(|own| named(own, &long(NAME_LEN_MAX + 1)))),
        (203, "name", put(|own| named(own, "gpu\t1"))),
        (201, "modality", put(|own| own.serves("", "flux", ["*"]))),
        (202, "modality", put(|own| own.serves(long(SEGMENT_LEN_MAX + 1), "flux", ["*"]))),
        (203, "modality", put(|own| own.serves("im/age", "flux", ["*"]))),
        (201, "family", put(|own| own.serves("image", "", ["*"]))),
        (202, "family", put(|own| own.serves("image", long(SEGMENT_LEN_MAX + 1), ["*"]))),
        (203, "family", put(|own| own.serves("image", "fl ux", ["*"]))),
        (201, "models", put(|own| own.serves("image", "flux", [] as [&str; 0]))),
        (201, "models", put(|own| own.serves("image", "flux", [""]))),
        (202, "models", put(|own| own.serves("image", "flux", [long(SEGMENT_LEN_MAX + 1)]))),
        (202, "models", put(|own| own.serves("image", "flux", (0..4_097).map(|model| model.to_string())))),
        (203, "models", put(|own| own.serves("image", "flux", ["dev", "*"]))),
        (208, "models", put(|own| own.serves("image", "flux", ["dev", "schnell", "dev"]))),
        (204, "slots", put(|own| own.slots(0))),
        (204, "slots", put(|own| own.slots(SLOTS_MAX + 1))),
        (204, "devices", put(|own| own.devices(0))),
        (204, "devices", put(|own| own.devices(DEVICES_MAX as u32 + 1))),
        (204, "warm_max", put(|own| own.warm_max(WARM_MAX + 1))),
        (204, "lease_for", put(|own| own.lease_for(Span::ZERO))),
        (201, "labels", put(|own| own.label("", "eu"))),
        (202, "labels", put(|own| own.label(long(NAME_LEN_MAX + 1), "eu"))),
        (202, "labels", put(|own| own.label("region", long(1_025)))),
        (203, "labels", put(|own| own.label("reg\u{7f}ion", "eu"))),
        (202, "labels", put(|own| (0..17).fold(own, |own, n| own.label(n.to_string(), "")))),
    ]);
    let mut rig = rig();
    let largest = flux("gpu-9").slots(SLOTS_MAX).devices(DEVICES_MAX as u32).warm_max(WARM_MAX).lease_for(Span::MAX);
    rig.put((0..16).fold(largest, |own, n| own.label(n.to_string(), long(1_024))));
}

#[test]
fn what_is_not_there_is_named() {
    fn fleet<T>(call: impl Fn(&mut Rig) -> Result<T, libgateway::error::FleetError> + 'static) -> Call {
        Box::new(move |rig| refusal(call(rig)))
    }
    refused(vec![
        (701, "backend", fleet(|rig| rig.gateway.remove_backend(rig.now, "gpu-9"))),
        (701, "backend", fleet(|rig| rig.gateway.remove_backend(rig.now, "gpu-2"))),
        (701, "backend", fleet(|rig| rig.gateway.drain_backend(rig.now, "gpu-1 ", true))),
        (201, "backend", fleet(|rig| rig.gateway.drain_backend(rig.now, "", true))),
        (202, "backend", fleet(|rig| rig.gateway.dispatch_to(rig.now, &long(NAME_LEN_MAX + 1), 1))),
        (203, "customer", fleet(|rig| rig.gateway.remove_customer(rig.now, "\0"))),
        (701, "backend", fleet(|rig| rig.gateway.dispatch_to(rig.now, "gpu-9", 1))),
        (701, "backend", fleet(|rig| rig.gateway.force_breaker(rig.now, "gpu-9", None, None))),
        (702, "customer", fleet(|rig| rig.gateway.remove_customer(rig.now, "acme"))),
        (702, "customer", fleet(|rig| rig.gateway.remove_customer(rig.now, "nobody"))),
        (703, "route", fleet(|rig| rig.gateway.dispatch_route(rig.now, &route(WAN)))),
        (703, "route", fleet(|rig| rig.gateway.pause(rig.now, &route(WAN)))),
        (703, "route", fleet(|rig| rig.gateway.resume(rig.now, &route(WAN)))),
        (601, "job", Box::new(|rig| refusal(rig.gateway.cancel(rig.now, id(9))))),
        (601, "job", Box::new(|rig| refusal(rig.gateway.delete(rig.now, id(9))))),
        (603, "job", Box::new(|rig| refusal(rig.gateway.delete(rig.now, id(1))))),
    ]);
}

#[test]
fn a_policy_that_cannot_be_is_refused() {
    fn policy(name: &'static str, change: impl Fn(CustomerPolicy) -> CustomerPolicy + 'static) -> Call {
        Box::new(move |rig| refusal(rig.gateway.put_customer(rig.now, name, change(CustomerPolicy::default()))))
    }
    let name = |name: &'static str| policy(name, |own| own);
    refused(vec![
        (201, "name", name("")),
        (202, "name", name(long(NAME_LEN_MAX + 1).leak())),
        (203, "name", name("\u{85}")),
        (204, "weight", policy("acme", |own| own.weight(0))),
        (204, "weight", policy("acme", |own| own.weight(1_000_001))),
        (201, "tier", policy("acme", |own| own.tier(""))),
        (202, "tier", policy("acme", |own| own.tier(long(NAME_LEN_MAX + 1)))),
        (203, "tier", policy("acme", |own| own.tier("go\rld"))),
    ]);
    for (rate, field) in [
        (RateLimit::new(1, Span::ZERO, 1), "per"),
        (RateLimit::new(u64::MAX - 2, Span::MAX, u64::MAX), "burst"),
        (RateLimit::new(u64::MAX, Span::from_nanos(u64::MAX - 2), 1 << 40), "burst"),
    ] {
        assert_eq!(rate.unwrap_err().field(), Some(field));
    }
}

#[test]
fn words_of_a_lease_that_is_not_live_are_refused() {
    let mut calls: Vec<(u16, &str, Call)> = Vec::new();
    // One that has ended, one that never was, and one whose turn has not come.
    for (lease, number) in
        [(ENDED, 501), (LeaseId::from_u64(0), 502), (LeaseId::from_u64(3), 502), (LeaseId::from_u64(u64::MAX), 502)]
    {
        let failure = || Failure::new(FailureClass::Timeout, "");
        let words: [Call; 5] = [
            Box::new(move |rig| refusal(rig.gateway.heartbeat(rig.now, lease))),
            Box::new(move |rig| refusal(rig.gateway.progress(rig.now, lease, 5))),
            // What else is wrong does not matter: the lease is not the caller's.
            Box::new(move |rig| refusal(rig.gateway.complete(rig.now, lease, Output::url(""), Usage::unmeasured()))),
            Box::new(move |rig| refusal(rig.gateway.fail(rig.now, lease, failure(), Usage::unmeasured()))),
            Box::new(move |rig| refusal(rig.gateway.release(rig.now, lease))),
        ];
        calls.extend(words.map(|word| (number, "lease", word)));
    }
    refused(calls);
}

#[test]
fn results_that_cannot_be_are_refused() {
    fn complete(output: impl Fn() -> Output + 'static) -> Call {
        Box::new(move |rig| refusal(rig.gateway.complete(rig.now, LIVE, output(), Usage::unmeasured())))
    }
    refused(vec![
        (201, "output", complete(|| Output::url(""))),
        (202, "output", complete(|| Output::url(long(17)))),
        (202, "output", complete(|| Output::inline(long(17)))),
        (204, "progress_ppm", Box::new(|rig| refusal(rig.gateway.progress(rig.now, LIVE, 1_000_001)))),
        (
            202,
            "message",
            Box::new(|rig| {
                let failure = Failure::new(FailureClass::Backend, long(17));
                refusal(rig.gateway.fail(rig.now, LIVE, failure, Usage::unmeasured()))
            }),
        ),
    ]);
}

#[test]
fn usage_beyond_what_the_devices_can_have_done_is_refused_where_that_is_the_policy() {
    let second = GpuNanos::from_secs(1);
    let gpu = |nanos: u64, device: &'static str| usage(move || Usage::gpu(GpuNanos::from_nanos(nanos), device));
    // Ten seconds of lease, one in a hundred and a tenth of a second more.
    let most = 10_200_000_000;
    refused(vec![
        (1103, "usage", gpu(most + 1, "GPU-1")),
        (1103, "usage", gpu(u64::MAX, "GPU-1")),
        // A reading of the device's clock in place of a difference.
        (1103, "usage", gpu(1_700_000_010_000_000_000, "GPU-1")),
        (202, "devices", usage(move || Usage::gpu(second, "GPU-1").and_gpu(second, "GPU-2"))),
        (208, "devices", usage(move || Usage::gpu(second, "GPU-1").and_gpu(second, "GPU-1"))),
        (
            202,
            "devices",
            usage(move || {
                (0..=DEVICES_MAX).fold(Usage::unmeasured(), |own, n| own.and_gpu(second, format!("GPU-{n}")))
            }),
        ),
        (
            1103,
            "usage",
            usage(|| Usage::gpu(GpuNanos::from_nanos(u64::MAX), "a").and_gpu(GpuNanos::from_nanos(1), "b")),
        ),
        (201, "device", gpu(1, "")),
        (202, "device", gpu(1, long(97).leak())),
        (203, "device", gpu(1, "GPU-1, GPU-2")),
        (203, "device", gpu(1, "GPU-\u{e9}")),
        (203, "device", gpu(1, "a\r\nx-evil: 1")),
    ]);
    let mut rig = rig();
    let free = PriceBook::new(3, "EUR").unwrap();
    rig.gateway.put_prices(rig.now, free).unwrap();
    let usage = Usage::gpu(GpuNanos::from_nanos(most), "GPU-1");
    let settled = rig.gateway.complete(rig.now, LIVE, Output::url("u"), usage).unwrap();
    assert_eq!(settled.usage, GpuNanos::from_nanos(most));
}

#[test]
fn two_devices_may_work_twice_as_long_where_the_backend_has_two() {
    let mut rig = Rig::new(GatewayConfig::default().billing(BillingPolicy::default().excess(Excess::Refuse)));
    rig.put(flux("pair").devices(2));
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(10));
    let both = GpuNanos::from_secs(10);
    let usage = || Usage::gpu(both, "GPU-1").and_gpu(both, "GPU-2");
    let three = rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage().and_gpu(both, "GPU-3"));
    assert_eq!(refusal(three).field.as_deref(), Some("devices"));
    let settled = rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage()).unwrap();
    assert_eq!(settled.usage, GpuNanos::from_secs(20));
}

#[test]
fn prices_that_cannot_be_are_refused() {
    fn prices(version: u32, currency: &'static str) -> Call {
        Box::new(move |rig| refusal(rig.gateway.put_prices(rig.now, PriceBook::new(version, currency).unwrap())))
    }
    refused(vec![
        (204, "version", prices(2, "EUR")),
        (204, "version", prices(0, "EUR")),
        (207, "currency", prices(3, "USD")),
    ]);
    assert_eq!(PriceBook::new(1, "eur").unwrap_err().field(), Some("currency"));
    let book = || PriceBook::new(1, "EUR").unwrap().price("flux/dev", "gold", 1).unwrap();
    for (model, tier, number, field) in [
        ("flux/dev", "gold", 208, "prices"),
        ("", "gold", 201, "model"),
        ("flux/dev", "", 201, "tier"),
        ("flux\n", "gold", 203, "model"),
    ] {
        let error = book().price(model, tier, 1).unwrap_err();
        assert_eq!((error.number(), error.field()), (number, Some(field)), "{model:?} {tier:?}");
    }
}

#[test]
fn a_breaker_is_not_held_until_the_past() {
    refused(vec![(
        204,
        "until",
        Box::new(|rig| {
            let state = Some(libgateway::ForcedState::Closed);
            refusal(rig.gateway.force_breaker(rig.now, "gpu-1", state, Some(Timestamp::EPOCH)))
        }),
    )]);
}

#[test]
fn a_line_that_is_no_command_says_why() {
    for (line, why) in [
        ("", "EOF"),
        ("advance", "expected value"),
        ("7", "invalid type"),
        (r#"{"now":7}"#, "missing field `command`"),
        (r#"{"command":{"advance":{}}}"#, "missing field `now`"),
        (r#"{"now":7,"command":{"advance":{}},"who":"me"}"#, "unknown field `who`"),
        (r#"{"now":7,"now":8,"command":{"advance":{}}}"#, "duplicate field `now`"),
        (r#"{"now":7,"command":{"advance":{}}} {}"#, "trailing characters"),
        (r#"{"now":7,"command":{"advance":{"fast":true}}}"#, "unknown field `fast`"),
        (r#"{"now":7,"command":{"retreat":{}}}"#, "unknown variant `retreat`"),
        (r#"{"now":-7,"command":{"advance":{}}}"#, "invalid value"),
        (r#"{"now":7.5,"command":{"advance":{}}}"#, "invalid type"),
        (r#"{"now":"7","command":{"advance":{}}}"#, "invalid type"),
        (r#"{"now":18446744073709551616,"command":{"advance":{}}}"#, "invalid type"),
        (r#"{"now":7,"command":{"cancel":{"job":"j_1"}}}"#, "id is malformed"),
        (r#"{"now":7,"command":{"cancel":{"job":"j_8zzzzzzzzzzzzzzzzzzzzzzzzz"}}}"#, "id is malformed"),
        (r#"{"now":7,"command":{"cancel":{"job":1}}}"#, "expected a job id"),
        (r#"{"now":7,"command":{"pause":{"route":"image/flux/dev"}}}"#, "route is malformed"),
        (r#"{"now":7,"command":{"heartbeat":{"lease":4294967296000000000000}}}"#, "invalid type"),
        (r#"{"now":7,"command":{"dispatch_to":{"backend":"a","max":4294967296}}}"#, "invalid value"),
        (r#"{"now":7,"command":{"all":[{"all":[{"all":[]}]}]}}"#, "unknown variant `all`"),
        (r#"{"now":7,"command":{"all":[{"put_backend":{}}]}}"#, "unknown variant `put_backend`"),
        (r#"{"now":7,"command":{"put_prices":{"version":1,"currency":"EURO","prices":[]}}}"#, "currency is malformed"),
        (
            r#"{"now":7,"command":{"put_customer":{"customer":"a","policy":{"rate":{"amount":1,"per":0,"burst":1}}}}}"#,
            "per is 0",
        ),
    ] {
        let Err(CommandError::NotACommand { reason }) = Entry::from_json(line) else { panic!("{line} was read") };
        assert!(reason.contains(why), "{line}: {reason}");
    }
    // Nobody gets more than a message's worth of words back, whatever he sent.
    let shout = format!(r#"{{"now":7,"command":{{"{}":{{}}}}}}"#, "A".repeat(100_000));
    assert!(Entry::from_json(&shout).unwrap_err().to_string().chars().count() <= 1_000);
    let deep = format!(r#"{{"now":7,"command":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(Entry::from_json(&deep).is_err());
}

#[test]
fn a_text_that_is_no_job_id_is_malformed() {
    for text in
        ["", "j_", "j_0000000000000000000000000O", "J_00000000000000000000000000", "j_80000000000000000000000000"]
    {
        assert!(matches!(text.parse::<JobId>(), Err(InputError::Malformed { field: "id", .. })), "{text:?}");
    }
}

#[test]
fn unknown_kinds_are_not_read_as_known_ones() {
    assert_eq!(BackendKind::parse("torch"), Some(BackendKind::Torch));
    for name in ["", "Torch", " torch", "pytorch"] {
        assert_eq!(BackendKind::parse(name), None);
    }
}

const LIVE: LeaseId = LeaseId::from_u64(1);
const ENDED: LeaseId = LeaseId::from_u64(2);
