//! Flags 34 to 38: what is billed, to whom, and that no bill is lost.

use libgateway::error::{BillingError, LeaseError};
use libgateway::{
    BillingCall, BillingCollector, BillingCollectorConfig, BillingPolicy, CustomerPolicy, Excess, Gateway,
    GatewayConfig, GpuNanos, Money, Output, PriceBook, Usage,
};
use libgateway_tests::kit::{DEV, Rig, START, at, flux, id, job, secs};

use crate::{JOB, restarted, running};

fn collector() -> BillingCollector {
    BillingCollector::new(BillingCollectorConfig::default(), PriceBook::new(1, "USD").unwrap()).unwrap()
}

fn call<'a>(request_id: &'a str, customer: &'a str) -> BillingCall<'a> {
    BillingCall { request_id, customer: Some(customer), model: "flux/dev", tier: None }
}

#[test]
fn flag34_a_reading_of_the_clock_is_not_taken_for_a_difference() {
    // The end's timestamp was billed without subtracting the start's: each image cost the uptime of the machine. An error
    // of the timer became zero.
    let (mut rig, lease) = running();
    rig.pass(secs(2));
    let uptime = Usage::gpu(GpuNanos::from_secs(3_000_000), "GPU-1");
    let settled = rig.gateway.complete(rig.now, lease.id, Output::url("u"), uptime).unwrap();
    let (reported, billed) = (GpuNanos::from_secs(3_000_000), GpuNanos::from_millis(2_120));
    assert_eq!((settled.reported, settled.usage, settled.capped), (reported, billed, true));
    let told = rig.settlements().remove(0);
    assert_eq!((told.reported, told.usage, told.capped, told.measured), (reported, billed, true, true));

    // Where a measurement that cannot be is to be refused, the lease stays for a better one.
    let refuse = BillingPolicy::default().excess(Excess::Refuse);
    let mut rig = Rig::with_slots(GatewayConfig::default().billing(refuse), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(2));
    let uptime = Usage::gpu(GpuNanos::from_secs(3_000_000), "GPU-1");
    let refused = rig.gateway.complete(rig.now, lease.id, Output::url("u"), uptime);
    let (allowed_ns, used_ns) = (2_120_000_000, 3_000_000_000_000_000);
    assert_eq!(refused, Err(LeaseError::Billing(BillingError::UsageExceedsElapsed { used_ns, allowed_ns })));
    // Nothing measured is told as that, and is the time of the lease.
    rig.complete(&lease);
    let settlement = rig.settlements().remove(0);
    assert_eq!((settlement.usage, settlement.measured), (GpuNanos::from_secs(2), false));
}

#[test]
fn flag35_starts_and_ends_are_paired_by_their_request() {
    // Ranges were a stack: of two calls that overlapped each got the other's end. An end without a start made a record,
    // a second start moved the beginning.
    let mut collector = collector();
    collector.start(call("a", "acme"), at(0)).unwrap();
    collector.start(call("b", "zoo"), at(10)).unwrap();
    assert_eq!(collector.start(call("a", "acme"), at(11)), Err(BillingError::AlreadyStarted));
    assert_eq!(collector.end("c", &Usage::unmeasured(), at(12)), Err(BillingError::NoStart));
    assert_eq!(collector.end("a", &Usage::unmeasured(), at(15)).unwrap().billed_ns, GpuNanos::from_secs(15));
    assert_eq!(collector.end("b", &Usage::unmeasured(), at(16)).unwrap().billed_ns, GpuNanos::from_secs(6));
    assert_eq!(collector.end("a", &Usage::unmeasured(), at(17)), Err(BillingError::NoStart));
    assert_eq!(collector.totals().ended, 2);

    // In the gateway the lease is the pair, and there is one at a time.
    let (mut rig, lease) = running();
    rig.pass(secs(5));
    rig.gateway.release(rig.now, lease.id).unwrap();
    rig.pass(secs(100));
    let lease = rig.lease();
    rig.pass(secs(3));
    assert_eq!(rig.complete(&lease).usage, GpuNanos::from_secs(3), "from this lease's beginning, not the first's");
}

#[test]
fn flag36_seconds_are_written_as_decimals() {
    // 0.05 was written as 5.0e-2.
    for (nanos, text) in
        [(50_000_000, "0.05"), (1_500_000_000, "1.5"), (1, "0.000000001"), (2_000_000_000, "2"), (0, "0")]
    {
        let headers = Usage::gpu(GpuNanos::from_nanos(nanos), "GPU-8f2c").headers().unwrap();
        assert_eq!(headers, [("x-gpu-seconds", text.to_string()), ("x-gpu-device", "GPU-8f2c".to_string())]);
    }
}

#[test]
fn flag37_a_settlement_names_device_customer_model_and_tier() {
    // The device was a constant of zeros, customer and tier were left out.
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(flux("gpu-1").devices(2));
    rig.gateway.put_customer(rig.now, "acme", CustomerPolicy::default().tier("gold")).unwrap();
    let prices = PriceBook::new(4, "USD").unwrap().price("flux/dev", "gold", 1_000).unwrap();
    rig.gateway.put_prices(rig.now, prices).unwrap();
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(3));
    let usage = Usage::gpu(GpuNanos::from_secs(2), "GPU-8f2c").and_gpu(GpuNanos::from_secs(1), "GPU-11aa");
    rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage).unwrap();
    let told = rig.settlements().remove(0);
    assert_eq!((told.job, &*told.customer, &*told.tier), (JOB, "acme", "gold"));
    assert_eq!((&*told.route, told.backend.as_deref()), ("image/flux/dev", Some("gpu-1")));
    let devices: Vec<_> = told.devices.iter().map(|own| (&*own.device, own.gpu.as_nanos())).collect();
    assert_eq!(devices, [("GPU-8f2c", 2_000_000_000), ("GPU-11aa", 1_000_000_000)]);
    assert_eq!((told.usage, told.measured), (GpuNanos::from_secs(3), true));
    assert_eq!((told.charge, told.price_version), (Some(Money::from_micros(3_000)), 4));
    assert_eq!((told.created, told.started, told.finished), (START, Some(START), at(3)));
}

#[test]
fn flag38_a_settlement_stays_until_the_host_says_that_it_is_safe() {
    // A flush emptied the queue first and ignored every error after that.
    let mut rig = Rig::with_slots(GatewayConfig::default(), 5);
    for number in 1..=5 {
        rig.submit(job(number, "acme", DEV));
        let lease = rig.lease();
        rig.complete(&lease);
    }
    let taken = rig.gateway.take_settlements(rig.now, 3).unwrap();
    assert_eq!((taken.settlements.len(), rig.gateway.stats().unconfirmed), (3, 5));
    // The host cannot write and gives them back; the next one dies and says nothing; the third one starts anew.
    rig.gateway.return_settlements(rig.now, taken.batch).unwrap();
    let again = rig.gateway.take_settlements(rig.now, 9).unwrap();
    assert_eq!(again.settlements, taken.settlements, "the same numbers, the same words");
    rig.pass(secs(60));
    restarted(&mut rig);
    let third = rig.gateway.take_settlements(rig.now, 9).unwrap();
    assert_eq!(third.settlements, taken.settlements);
    assert_eq!(rig.gateway.confirm_settlements(rig.now, third.batch), Ok(3));
    let rest = rig.settlements();
    let numbers: Vec<u64> = taken.settlements.iter().chain(&rest).map(|settlement| settlement.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5], "without gaps and without repetition");
    assert_eq!(rig.gateway.stats().unconfirmed, 0);
}

#[test]
fn flag38_no_job_is_taken_in_whose_bill_would_find_no_room() {
    // The queue of bills had no bound; where one has a bound and drops, money is lost.
    let mut rig = Rig::with_slots(GatewayConfig::default().jobs_max(3), 5);
    let mut billed = 0;
    for number in 0..30 {
        if rig.gateway.submit(rig.now, job(number, "acme", DEV)).is_err() {
            billed += rig.settlements().len();
            rig.submit(job(number, "acme", DEV));
        }
        let lease = rig.lease();
        rig.complete(&lease);
    }
    assert_eq!(billed + rig.settlements().len(), 30);
}

#[test]
fn flag38_the_sum_of_all_charges_is_the_sum_of_all_settlements() {
    // Totals were floats.
    let prices = PriceBook::new(1, "USD").unwrap().price("*", "*", 333).unwrap();
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.gateway.put_prices(rig.now, prices).unwrap();
    let mut told = 0;
    for number in 0..300_u64 {
        rig.checked = number % 50 == 0;
        rig.submit(job(u128::from(number), "acme", DEV));
        let lease = rig.lease();
        rig.pass(secs(1));
        let usage = Usage::gpu(GpuNanos::from_nanos(1 + number * 3_333_333), "GPU-1");
        let charge = rig.gateway.complete(rig.now, lease.id, Output::url("u"), usage).unwrap().charge;
        told += charge.unwrap().as_micros();
    }
    let settled: u64 = rig.settlements().iter().filter_map(|settlement| settlement.charge).map(Money::as_micros).sum();
    assert_eq!((settled, rig.gateway.stats().charged_micros), (told, u128::from(told)));
    assert_eq!(Gateway::replica(&rig.gateway.snapshot()).unwrap().stats().charged_micros, u128::from(told));
    assert_eq!(rig.gateway.job(id(0)).map(|job| job.attempts), Some(0));
}
