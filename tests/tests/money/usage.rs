//! Usage beyond the possible, usage of what was cancelled or given back, and what of several attempts is told.

use libgateway::error::{BillingError, Coded, InputError, JobError, LeaseError};
use libgateway::{
    BillingPolicy, Command, Entry, EventKind, Excess, Failure, FailureClass, Gateway, GatewayConfig, GpuNanos,
    JobState, Money, Output, Payer, PriceBook, Reply, Span, Timestamp, Usage,
};
use libgateway_tests::kit::{DEV, Rig, START, flux, id, job, secs};

use crate::{gpu, millis, rig, running};

fn done() -> Output {
    Output::url("https://cdn/1.webp")
}

#[test]
fn a_result_is_taken_although_the_clock_was_set_back_while_it_was_made() {
    // A job of 2 s, the clock set back by 0.5 s, 1.9 GPU-seconds measured: the result was refused, and lost.
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    let back = START + Span::from_millis(1_500);
    let settled = rig.gateway.complete(back, lease.id, done(), gpu(1_900)).unwrap();
    assert_eq!(rig.state(id(1)), JobState::Complete);
    // 1.5 s, one in a hundred more, and 100 ms.
    assert_eq!((settled.reported, settled.usage, settled.capped), (millis(1_900), millis(1_615), true));
    assert_eq!(settled.charge, Some(Money::from_micros(1_615)));
}

#[test]
fn what_is_beyond_the_possible_is_told_in_settlement_event_and_counter() {
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    let rest = Span::from_secs(2);
    rig.pass(rest);
    while rig.gateway.poll_event().is_some() {}
    rig.gateway.complete(rig.now, lease.id, done(), gpu(10_000)).unwrap();
    rig.check();
    let (reported, billed) = (millis(10_000), millis(2_120));
    let told: Vec<EventKind> = std::iter::from_fn(|| rig.gateway.poll_event()).map(|event| event.kind).collect();
    assert!(told.contains(&EventKind::UsageCapped { job: id(1), reported, billed }), "{told:?}");
    assert_eq!(rig.gateway.stats().counters.capped, 1);
    let own = rig.settlements().remove(0);
    assert_eq!((own.reported, own.usage, own.capped, own.measured), (reported, billed, true, true));
    assert_eq!(own.devices.iter().map(|own| own.gpu).collect::<Vec<_>>(), [billed]);
    assert_eq!(own.charge, Some(Money::from_micros(2_120)));
}

#[test]
fn the_cap_is_exact_to_the_nanosecond() {
    for (nanos, capped) in [(2_120_000_000, false), (2_120_000_001, true)] {
        let (mut rig, lease) = running(BillingPolicy::default(), 1);
        rig.pass(secs(2));
        let usage = Usage::gpu(GpuNanos::from_nanos(nanos), "GPU-1");
        let settled = rig.gateway.complete(rig.now, lease.id, done(), usage).unwrap();
        assert_eq!((settled.usage.as_nanos(), settled.capped), (2_120_000_000, capped));
    }
}

#[test]
fn more_devices_than_the_backend_has_work_no_longer_than_those_it_has() {
    let (mut rig, lease) = running(BillingPolicy::default(), 2);
    rig.pass(secs(2));
    let usage = gpu(2_000).and_gpu(millis(2_000), "GPU-2").and_gpu(millis(2_000), "GPU-3");
    let settled = rig.gateway.complete(rig.now, lease.id, done(), usage).unwrap();
    assert_eq!((settled.reported, settled.usage, settled.capped), (millis(6_000), millis(4_240), true));
    let own = rig.settlements().remove(0);
    let devices: Vec<_> = own.devices.iter().map(|own| (&*own.device, own.gpu)).collect();
    assert_eq!(devices, [("GPU-1", millis(2_000)), ("GPU-2", millis(2_000)), ("GPU-3", millis(240))]);
}

#[test]
fn no_sum_and_no_charge_is_too_large_for_a_result() {
    let all = GpuNanos::from_nanos(u64::MAX);
    let billing = BillingPolicy::default().slack(Span::MAX).failed(Payer::Customer);
    let (mut rig, lease) = running(billing, 2);
    let usage = Usage::gpu(all, "a").and_gpu(all, "b");
    let failure = Failure::new(FailureClass::Timeout, "slow");
    rig.gateway.fail(rig.now, lease.id, failure, usage.clone()).unwrap();
    rig.pass(secs(2));
    let lease = rig.lease();
    let settled = rig.gateway.complete(rig.now, lease.id, done(), usage).unwrap();
    assert_eq!((settled.reported, settled.usage, settled.capped), (all, all, true));
    rig.check();

    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    let dear = PriceBook::new(2, "USD").unwrap().price("*", "*", u64::MAX).unwrap();
    rig.gateway.put_prices(rig.now, dear).unwrap();
    rig.pass(secs(10));
    let settled = rig.gateway.complete(rig.now, lease.id, done(), gpu(9_000)).unwrap();
    assert_eq!((settled.charge, settled.capped, settled.usage), (Some(Money::MAX), true, millis(9_000)));
}

#[test]
fn whoever_wants_it_refuses_what_cannot_be() {
    let (mut rig, lease) = running(BillingPolicy::default().excess(Excess::Refuse), 1);
    rig.pass(secs(2));
    let allowed_ns = 2_120_000_000;
    let refused = LeaseError::Billing(BillingError::UsageExceedsElapsed { used_ns: allowed_ns + 1, allowed_ns });
    let usage = || Usage::gpu(GpuNanos::from_nanos(allowed_ns + 1), "GPU-1");
    let failure = || Failure::new(FailureClass::Timeout, "slow");
    assert_eq!(rig.gateway.complete(rig.now, lease.id, done(), usage()), Err(refused.clone()));
    assert_eq!(rig.gateway.fail(rig.now, lease.id, failure(), usage()), Err(refused.clone()));
    assert_eq!(rig.gateway.release_with(rig.now, lease.id, usage()), Err(refused.clone()));
    assert_eq!(rig.gateway.cancel_lease(rig.now, lease.id, usage()), Err(refused));
    let refused = JobError::Billing(BillingError::UsageExceedsElapsed { used_ns: allowed_ns + 1, allowed_ns });
    assert_eq!(rig.gateway.cancel_with(rig.now, id(1), usage()), Err(refused));
    let two = gpu(1).and_gpu(millis(1), "GPU-2");
    let refused = LeaseError::Input(InputError::TooLong { field: "devices", len: 2, max: 1 });
    assert_eq!(rig.gateway.complete(rig.now, lease.id, done(), two), Err(refused));
    // Nothing has changed, and the right figure is taken.
    assert_eq!(rig.gateway.complete(rig.now, lease.id, done(), gpu(2_120)).unwrap().usage, millis(2_120));
}

#[test]
fn a_malformed_usage_is_refused_whatever_the_policy() {
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    let bad = || Usage::gpu(millis(1), "two words");
    assert_eq!(rig.gateway.complete(rig.now, lease.id, done(), bad()).unwrap_err().number(), 203);
    assert_eq!(rig.gateway.release_with(rig.now, lease.id, bad()).unwrap_err().number(), 203);
    assert_eq!(rig.gateway.cancel_lease(rig.now, lease.id, bad()).unwrap_err().number(), 203);
    assert_eq!(rig.gateway.cancel_with(rig.now, id(1), bad()).unwrap_err().number(), 203);
    rig.submit(job(2, "acme", DEV));
    assert_eq!(rig.gateway.cancel_with(rig.now, id(2), bad()).unwrap_err().number(), 203);
    assert_eq!((rig.state(id(1)), rig.state(id(2))), (JobState::Running, JobState::Queued));
}

#[test]
fn a_client_that_leaves_after_three_seconds_leaves_three_seconds() {
    // Its worker's task was cancelled, the lease given back, and what it had used was in no book.
    for (payer, usage, absorbed) in
        [(Payer::Customer, millis(3_000), GpuNanos::ZERO), (Payer::House, GpuNanos::ZERO, millis(3_000))]
    {
        let billing = BillingPolicy::default().cancelled(payer).released(payer);
        let (mut rig, lease) = running(billing, 1);
        rig.pass(secs(3));
        rig.gateway.cancel_lease(rig.now, lease.id, Usage::unmeasured()).unwrap();
        let own = rig.settlements().remove(0);
        assert_eq!((own.usage, own.absorbed, own.state), (usage, absorbed, JobState::Cancelled));

        // Given back, and the job given up a minute later.
        let (mut rig, lease) = running(billing, 1);
        rig.pass(secs(3));
        rig.gateway.release(rig.now, lease.id).unwrap();
        rig.pass(secs(60));
        rig.cancel(id(1));
        let own = rig.settlements().remove(0);
        assert_eq!((own.usage, own.absorbed), (usage, absorbed));
    }
}

#[test]
fn cancel_and_release_bill_what_was_measured() {
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(3));
    rig.gateway.cancel_with(rig.now, lease.job, gpu(2_800)).unwrap();
    let own = rig.settlements().remove(0);
    assert_eq!((own.usage, own.measured, own.charge), (millis(2_800), true, Some(Money::from_micros(2_800))));
    assert_eq!(own.devices.len(), 1);

    // By default the house pays for what was given back, the customer for what then delivered.
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(3));
    rig.gateway.release_with(rig.now, lease.id, gpu(2_800)).unwrap();
    let lease = rig.lease();
    rig.pass(secs(1));
    let settled = rig.gateway.complete(rig.now, lease.id, done(), gpu(900)).unwrap();
    assert_eq!(settled.usage, millis(900));
    let own = rig.settlements().remove(0);
    assert_eq!((own.usage, own.absorbed, own.requeues), (millis(900), millis(2_800), 1));
}

#[test]
fn a_worker_cancels_only_what_it_holds() {
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.gateway.release(rig.now, lease.id).unwrap();
    let second = rig.lease();
    let over = Err(LeaseError::Superseded { lease: lease.id.as_u64() });
    assert_eq!(rig.gateway.cancel_lease(rig.now, lease.id, gpu(0)), over);
    assert_eq!(rig.state(id(1)), JobState::Running);
    assert_eq!(rig.gateway.cancel_lease(rig.now, second.id, gpu(0)), Ok(id(1)));
    assert_eq!(rig.state(id(1)), JobState::Cancelled);
    assert_eq!(rig.gateway.heartbeat(rig.now, second.id).unwrap_err().number(), 501);
}

#[test]
fn the_same_as_data_and_in_a_transaction_that_does_not_happen() {
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(3));
    let digest = rig.gateway.digest();
    let text = format!(
        r#"{{"now":{},"command":{{"all":[{{"cancel_lease":{{"lease":{},"usage":[{{"device":"GPU-1","gpu_ns":5}}]}}}},{{"correct_usage":{{"lease":{},"usage":[{{"device":"GPU-1","gpu_ns":7}}]}}}},{{"release":{{"lease":99}}}}]}}}}"#,
        rig.now.as_nanos(),
        lease.id.as_u64(),
        lease.id.as_u64()
    );
    let reply = rig.gateway.apply(Entry::from_json(&text).unwrap());
    assert_eq!(reply.error().map(|error| error.number), Some(502));
    rig.check();
    assert_eq!(rig.gateway.digest(), digest, "nothing is left of it");

    let usage = gpu(2_000);
    let command = Command::CancelLease { lease: lease.id, usage };
    assert_eq!(rig.gateway.apply(Entry::new(rig.now, command)), Reply::Cancelled { job: id(1) });
    assert_eq!(rig.settlements().remove(0).usage, millis(2_000));
}

#[test]
fn an_unmeasured_lease_counts_every_gpu_of_its_backend() {
    // Four GPUs were kept busy for 10 s and 10 s were billed.
    for (all, gpu_time) in [(true, millis(40_000)), (false, millis(10_000))] {
        let (mut rig, lease) = running(BillingPolicy::default().unmeasured_devices(all), 4);
        rig.pass(secs(10));
        assert_eq!(rig.complete(&lease).usage, gpu_time);
        let own = rig.settlements().remove(0);
        assert_eq!((own.usage, own.reported, own.measured, own.capped), (gpu_time, gpu_time, false, false));
    }
}

#[test]
fn measured_means_that_every_paid_attempt_was() {
    let measured = |failed: Payer, first: Usage<'static>, last: Usage<'static>| {
        let (mut rig, lease) = running(BillingPolicy::default().failed(failed), 1);
        rig.pass(secs(2));
        let failure = Failure::new(FailureClass::Timeout, "slow");
        rig.gateway.fail(rig.now, lease.id, failure, first).unwrap();
        rig.pass(secs(2));
        let lease = rig.lease();
        rig.pass(secs(2));
        rig.gateway.complete(rig.now, lease.id, done(), last).unwrap();
        rig.settlements().remove(0).measured
    };
    let (measure, nothing) = (|| gpu(1_000), Usage::unmeasured);
    assert!(measured(Payer::Customer, measure(), measure()), "once a second attempt made it false");
    assert!(!measured(Payer::Customer, nothing(), measure()));
    assert!(!measured(Payer::Customer, measure(), nothing()));
    assert!(measured(Payer::House, nothing(), measure()), "what nobody pays for need not be measured");
}

#[test]
fn the_devices_of_every_paid_attempt_are_told_and_no_others() {
    let told = |failed: Payer| {
        let (mut rig, lease) = running(BillingPolicy::default().failed(failed), 2);
        rig.pass(secs(2));
        let failure = Failure::new(FailureClass::Timeout, "slow");
        rig.gateway.fail(rig.now, lease.id, failure, gpu(1_000).and_gpu(millis(500), "GPU-2")).unwrap();
        rig.pass(secs(2));
        let lease = rig.lease();
        rig.pass(secs(2));
        let usage = Usage::gpu(millis(700), "GPU-3").and_gpu(millis(200), "GPU-1");
        rig.gateway.complete(rig.now, lease.id, done(), usage).unwrap();
        let own = rig.settlements().remove(0);
        let sum: u64 = own.devices.iter().map(|own| own.gpu.as_nanos()).sum();
        assert_eq!(sum, own.usage.as_nanos());
        own.devices.iter().map(|own| format!("{}:{}", own.device, own.gpu)).collect::<Vec<_>>()
    };
    assert_eq!(told(Payer::Customer), ["GPU-1:1.2", "GPU-2:0.5", "GPU-3:0.7"]);
    assert_eq!(told(Payer::House), ["GPU-3:0.7", "GPU-1:0.2"]);
}

#[test]
fn at_most_64_devices_are_named_and_the_rest_is_summed() {
    let config = GatewayConfig::default().billing(BillingPolicy::default().released(Payer::Customer));
    let mut rig = Rig::new(config);
    rig.put(flux("gpu-1").slots(4));
    rig.submit(job(1, "acme", DEV));
    for attempt in 0..100 {
        let lease = rig.lease();
        rig.pass(secs(1));
        rig.gateway.release_with(rig.now, lease.id, Usage::gpu(millis(1), format!("GPU-{attempt}"))).unwrap();
    }
    let lease = rig.lease();
    rig.pass(secs(1));
    rig.gateway.complete(rig.now, lease.id, done(), Usage::gpu(millis(1), "GPU-3")).unwrap();
    let own = rig.settlements().remove(0);
    assert_eq!((own.devices.len(), own.usage), (65, millis(101)));
    assert_eq!((&*own.devices[3].device, own.devices[3].gpu), ("GPU-3", millis(2)));
    assert_eq!((&*own.devices[64].device, own.devices[64].gpu), ("", millis(36)));
}

#[test]
fn what_has_no_price_is_not_free() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 4);
    let free = PriceBook::new(1, "USD").unwrap().price("flux/schnell", "*", 0).unwrap();
    rig.gateway.put_prices(rig.now, free).unwrap();
    let mut charges = Vec::new();
    for (number, way) in [(1, DEV), (2, libgateway_tests::kit::SCHNELL)] {
        rig.submit(job(number, "acme", way));
        let lease = rig.lease();
        rig.pass(secs(2));
        charges.push(rig.complete(&lease).charge);
    }
    assert_eq!(charges, [None, Some(Money::ZERO)]);
    let own = rig.settlements();
    assert_eq!((own[0].charge, own[0].price), (None, None));
    assert!(own[1].price.is_some());
    let stats = rig.gateway.stats();
    assert_eq!((stats.counters.unpriced, stats.unpriced_ns, stats.charged_micros), (1, 2_000_000_000, 0));
    let json = serde_json::to_value(&own).unwrap();
    assert_eq!((&json[0]["charge"], &json[1]["charge"]), (&serde_json::Value::Null, &serde_json::json!(0)));
}

#[test]
fn a_job_is_charged_exactly_by_the_hour() {
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    let hourly = PriceBook::new(2, "USD").unwrap().price_at("*", "*", "0.0084/h".parse().unwrap()).unwrap();
    rig.gateway.put_prices(rig.now, hourly).unwrap();
    for _ in 0..36 {
        rig.pass(secs(100));
        rig.gateway.heartbeat(rig.now, lease.id).unwrap();
    }
    assert_eq!(rig.complete(&lease).charge, Some(Money::from_micros(8_400)));
    assert_eq!(rig.settlements()[0].price.unwrap().to_string(), "0.0084/h");
}

#[test]
fn without_settlements_nothing_waits_to_be_confirmed_and_charges_are_summed() {
    // A service without billing stopped at its two millionth job: "jobs is full".
    let config = GatewayConfig::default().jobs_max(2).retained_max(1);
    let prices = PriceBook::new(1, "USD").unwrap().price("*", "*", 1_000).unwrap();
    let mut rig = Rig::with_slots(config.clone().billing(BillingPolicy::default().settlements(false)), 1);
    rig.gateway.put_prices(rig.now, prices).unwrap();
    for number in 0..10 {
        rig.submit(job(number, "acme", DEV));
        let lease = rig.lease();
        rig.pass(secs(1));
        rig.complete(&lease);
    }
    let stats = rig.gateway.stats();
    assert_eq!((stats.unconfirmed, stats.charged_micros, stats.counters.completed), (0, 10_000, 10));
    assert_eq!(rig.gateway.take_settlements(rig.now, 100), None);
    let again = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    assert_eq!(again.stats().charged_micros, 10_000);

    let mut kept = Rig::with_slots(config, 1);
    for number in 0..2 {
        kept.submit(job(number, "acme", DEV));
        let lease = kept.lease();
        kept.complete(&lease);
    }
    assert_eq!(kept.gateway.submit(kept.now, job(9, "acme", DEV)).unwrap_err().number(), 301);
}

#[test]
fn an_attempt_that_was_lost_counts_its_lease_time() {
    let mut rig = rig(BillingPolicy::default().lost(Payer::Customer), 4);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.to(lease.deadline);
    rig.cancel(id(1));
    let own = rig.settlements().remove(0);
    let lasted = lease.deadline.since(Timestamp::from_secs(1_700_000_000)).as_nanos();
    assert_eq!((own.usage.as_nanos(), own.measured), (4 * lasted, false));
}
