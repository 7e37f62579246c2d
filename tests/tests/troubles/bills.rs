//! Money: what is charged, at which price, and how often.

use std::collections::BTreeMap;

use libgateway::error::BillingError;
use libgateway::{
    Backend, BackendKind, BillingCall, BillingCollector, BillingCollectorConfig, BillingPolicy, CustomerPolicy, Excess,
    FailureClass, GatewayConfig, GpuNanos, JobState, Money, OutboxConfig, Output, Payer, Price, PriceBook, Settlement,
    Submit, Timeouts, Usage,
};
use libgateway_tests::kit::{DEV, Rig, START, at, before, id, job, route, secs};

fn gpu(millis: u64) -> Usage<'static> {
    Usage::gpu(GpuNanos::from_millis(millis), "GPU-1")
}

fn book(version: u32, micros_per_second: u64) -> PriceBook {
    let book = PriceBook::new(version, "USD").unwrap();
    book.price("flux/dev", "*", micros_per_second).unwrap()
}

fn priced(config: GatewayConfig) -> Rig {
    let mut rig = Rig::with_slots(config, 9);
    rig.gateway.put_prices(rig.now, book(1, 1_000)).unwrap();
    rig
}

fn only(rig: &mut Rig) -> Settlement {
    let all = rig.settlements();
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap()
}

fn charge(own: &Settlement) -> Option<u64> {
    own.charge.map(Money::as_micros)
}

// --- At which price ---

#[test]
fn who_wants_a_certain_engine_pays_the_price_of_the_model() {
    let mut rig = Rig::new(GatewayConfig::default());
    rig.put(Backend::new("rt-1", BackendKind::Tensorrt).serves("image", "flux", ["dev"]));
    rig.gateway.put_prices(rig.now, book(1, 1_000)).unwrap();
    for (number, way) in [(1, DEV), (2, "image/flux/dev/t2i?backend=tensorrt"), (3, "image/flux/dev/i2i")] {
        rig.gateway.submit(rig.now, Submit::new(id(number), "acme", route(way))).unwrap();
        let lease = rig.lease();
        rig.pass(secs(2));
        rig.complete(&lease);
        assert_eq!(charge(&only(&mut rig)), Some(2_000), "{way}");
    }
    assert_eq!(rig.gateway.stats().counters.unpriced, 0);
}

#[test]
fn a_job_is_charged_by_the_tier_and_the_book_of_its_end() {
    let tiered = |version| book(version, 1_000).price("flux/dev", "pro", 500).unwrap();
    let mut rig = Rig::with_slots(GatewayConfig::default(), 9);
    rig.gateway.put_prices(rig.now, tiered(1)).unwrap();
    let mut number = 0;
    let mut expect = |rig: &mut Rig, tier: &str, version: u32, micros: u64| {
        number += 1;
        rig.submit(job(number, "acme", DEV));
        let lease = rig.lease();
        rig.pass(secs(1));
        rig.complete(&lease);
        let own = only(rig);
        assert_eq!((&*own.tier, own.price_version, charge(&own)), (tier, version, Some(micros)));
    };
    expect(&mut rig, "standard", 1, 1_000);
    rig.gateway.put_customer(rig.now, "acme", CustomerPolicy::default().tier("pro")).unwrap();
    expect(&mut rig, "pro", 1, 500);
    // One that began under the old plan and the old book ends under the new ones.
    rig.submit(job(100, "acme", DEV));
    let lease = rig.lease();
    rig.gateway.remove_customer(rig.now, "acme").unwrap();
    rig.gateway.put_prices(rig.now, tiered(2).price("flux/dev", "standard", 3_000).unwrap()).unwrap();
    rig.pass(secs(1));
    rig.complete(&lease);
    let own = only(&mut rig);
    assert_eq!((&*own.tier, own.price_version, charge(&own)), ("standard", 2, Some(3_000)));
    expect(&mut rig, "standard", 2, 3_000);
    // A book without the model: nothing is known of its price, and the sums say so.
    rig.gateway.put_prices(rig.now, PriceBook::new(3, "USD").unwrap()).unwrap();
    rig.submit(job(101, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(1));
    rig.complete(&lease);
    assert_eq!((charge(&only(&mut rig)), rig.gateway.stats().unpriced_ns), (None, 1_000_000_000));
}

#[test]
fn what_ended_before_a_book_came_into_force_is_charged_by_the_one_before_however_late_the_host_calls() {
    let timeouts = Timeouts { run: Some(secs(60)), ..Timeouts::NONE };
    let billing = BillingPolicy::default().failed(Payer::Customer);
    let mut rig = priced(GatewayConfig::default().timeouts(timeouts).billing(billing));
    for number in 1..=5 {
        rig.submit(job(number, "acme", DEV));
    }
    assert_eq!(rig.leases().len(), 5);
    // Ten seconds after their end, with the command that brings the book.
    rig.now = at(70);
    rig.gateway.put_prices(rig.now, book(2, 9_000)).unwrap();
    rig.check();
    for own in rig.settlements() {
        assert_eq!((own.state, own.finished, own.price_version), (JobState::Error, at(60), 1));
        assert_eq!(charge(&own), Some(60_000));
    }
    let prices = Price::new(1_000, secs(1)).unwrap();
    assert_eq!(prices.charge(GpuNanos::from_secs(60)), Ok(Money::from_micros(60_000)));
}

// --- How much ---

#[test]
fn a_measurement_of_nothing_is_one_and_none_is_none() {
    let mut rig = priced(GatewayConfig::default());
    for (number, usage, measured, micros) in [(1, gpu(0), true, 0), (2, Usage::unmeasured(), false, 2_000)] {
        rig.submit(job(number, "acme", DEV));
        let lease = rig.lease();
        rig.pass(secs(2));
        let settled = rig.gateway.complete(rig.now, lease.id, Output::url("x"), usage).unwrap();
        let own = only(&mut rig);
        assert_eq!((own.measured, charge(&own), settled.charge), (measured, Some(micros), own.charge));
    }
}

#[test]
fn retries_on_another_backend_are_on_nobodys_bill_or_on_it_once() {
    for (payer, billed, absorbed) in [(Payer::House, 3, 3), (Payer::Customer, 6, 0)] {
        let mut rig = priced(GatewayConfig::default().billing(BillingPolicy::default().failed(payer)));
        rig.submit(job(1, "acme", DEV));
        for attempt in [1, 2] {
            let lease = rig.lease();
            rig.pass(secs(attempt));
            rig.fail(&lease, FailureClass::Http(503));
            assert!(rig.settlements().is_empty(), "it has not ended");
            rig.pass(secs(attempt));
        }
        let lease = rig.lease();
        rig.pass(secs(3));
        rig.complete(&lease);
        let own = only(&mut rig);
        assert_eq!((own.usage, own.absorbed), (GpuNanos::from_secs(billed), GpuNanos::from_secs(absorbed)));
        assert_eq!((charge(&own), own.attempts), (Some(1_000 * billed), 2));
        assert_eq!(rig.gateway.stats().charged_micros, u128::from(1_000 * billed));
    }
}

#[test]
fn who_never_got_a_gpu_owes_nothing_however_its_job_ended() {
    let timeouts = Timeouts { queue: Some(secs(30)), ..Timeouts::NONE };
    let mut rig = priced(GatewayConfig::default().timeouts(timeouts));
    rig.gateway.drain_backend(rig.now, "gpu-1", true).unwrap();
    for number in 1..=3 {
        rig.submit(job(number, "acme", DEV));
    }
    rig.cancel(id(1));
    // What was measured is of no lease.
    rig.gateway.cancel_with(rig.now, id(2), gpu(5_000)).unwrap();
    rig.pass(secs(30));
    for own in rig.settlements() {
        assert_eq!((own.usage, own.absorbed, charge(&own)), (GpuNanos::ZERO, GpuNanos::ZERO, Some(0)));
        assert_eq!((own.backend, own.started, own.measured), (None, None, true));
    }
    assert_eq!(rig.gateway.stats().charged_micros, 0);
}

#[test]
fn usage_that_comes_two_hours_late_is_taken_where_the_host_says_so() {
    let billing = BillingPolicy::default().late_usage_for(secs(3 * 3_600));
    let mut rig = priced(GatewayConfig::default().billing(billing));
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(10));
    rig.complete(&lease);
    assert_eq!(charge(&only(&mut rig)), Some(10_000));
    // Invoice, record, customer and book have gone meanwhile.
    for _ in 0..2 {
        rig.pass(secs(3_600));
    }
    rig.gateway.put_prices(rig.now, book(2, 9_000)).unwrap();
    assert!(!rig.gateway.is_known(id(1)) && rig.gateway.customer("acme").is_none());
    rig.gateway.correct_usage(rig.now, lease.id, gpu(4_000)).unwrap();
    let own = only(&mut rig);
    let correction = own.correction.unwrap();
    assert_eq!((own.price_version, charge(&own), correction.charge_credit.as_micros()), (1, Some(0), 6_000));
}

// --- How often ---

#[test]
fn a_call_whose_start_or_end_was_refused_is_counted_when_it_comes_again() {
    let outbox = OutboxConfig::default().outbox_max(1);
    let config = BillingCollectorConfig::default().outbox(outbox).excess(Excess::Refuse);
    let mut billing = BillingCollector::new(config, book(1, 1_000)).unwrap();
    let call = |request_id| BillingCall { request_id, customer: Some("acme"), model: "flux/dev", tier: None };
    billing.start(call("req_1"), START).unwrap();
    // No room for the second, which is not remembered as seen.
    assert!(matches!(billing.start(call("req_2"), START), Err(BillingError::Full(_))));
    assert_eq!(billing.end("req_2", &gpu(1), at(1)), Err(BillingError::NoStart));
    // The first's figure cannot be; it is told again.
    assert!(matches!(billing.end("req_1", &gpu(9_000), at(2)), Err(BillingError::UsageExceedsElapsed { .. })));
    assert_eq!(billing.end("req_1", &gpu(2_000), at(2)).map(|own| own.seq), Ok(1));
    assert_eq!(billing.end("req_1", &gpu(2_000), at(2)), Err(BillingError::NoStart), "and not twice");
    let batch = billing.take(9, at(2)).unwrap();
    billing.confirm(batch).unwrap();
    billing.start(call("req_2"), at(3)).unwrap();
    billing.end("req_2", &gpu(500), at(4)).unwrap();
    let totals = billing.totals();
    assert_eq!((totals.started, totals.ended, totals.charge_micros), (2, 2, 2_500));
    billing.check_invariants();
}

#[test]
fn a_receiver_that_is_down_for_an_hour_gets_every_entry_once_it_is_back() {
    // Handing out is not delivering: what was taken and not confirmed comes again with its number.
    let mut rig = priced(GatewayConfig::default().settle_within(secs(60)));
    let mut seen = BTreeMap::new();
    for minute in 1..=60_u64 {
        rig.submit(job(u128::from(minute), "acme", DEV));
        let lease = rig.lease();
        rig.pass(secs(1));
        rig.complete(&lease);
        for _ in 0..3 {
            if let Some(taken) = rig.gateway.take_settlements(rig.now, 7) {
                for own in taken.settlements {
                    let first = seen.entry(own.number).or_insert(own.job);
                    assert_eq!(*first, own.job, "a number names one entry");
                }
            }
        }
        rig.to(before(rig.now + secs(59)));
    }
    rig.pass(secs(60));
    let all = rig.settlements();
    assert_eq!(all.iter().map(|own| own.number).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    assert!(all.iter().all(|own| seen.get(&own.number).is_none_or(|job| *job == own.job)));
    assert_eq!((rig.gateway.stats().unconfirmed, rig.gateway.take_settlements(rig.now, 1)), (0, None));
}

// --- In small steps ---

#[test]
fn usage_that_is_told_in_small_steps_costs_what_it_costs_at_once() {
    for (price, steps) in
        [(100, (8..=100_000).step_by(4).collect::<Vec<u64>>()), (500, vec![5, 2, 0]), (999, vec![7, 1, 9, 3])]
    {
        let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
        rig.gateway.put_prices(rig.now, book(1, price)).unwrap();
        rig.submit(job(1, "acme", DEV));
        let lease = rig.lease().id;
        rig.pass(secs(100));
        rig.gateway.complete(rig.now, lease, Output::url("1.webp"), gpu(4)).unwrap();
        for millis in &steps {
            rig.gateway.correct_usage(rig.now, lease, gpu(*millis)).unwrap();
        }
        let all = rig.settlements();
        let charged: u64 = all.iter().filter_map(charge).sum();
        let credited: u64 = all.iter().filter_map(|own| own.correction).map(|own| own.charge_credit.as_micros()).sum();
        let price = all[0].price.unwrap();
        let at_once = price.charge(GpuNanos::from_millis(*steps.last().unwrap())).unwrap().as_micros();
        assert_eq!(charged.checked_sub(credited), Some(at_once), "{steps:?}");
        let stats = rig.gateway.stats();
        assert_eq!((stats.charged_micros, stats.credited_micros), (charged.into(), credited.into()));
    }
}

#[test]
fn a_figure_that_was_beyond_the_possible_and_is_mended_in_time_leaves_no_flag() {
    let config = GatewayConfig::default().billing(BillingPolicy::default().failed(Payer::Customer));
    let mut rig = priced(config);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(1));
    let failure = libgateway::Failure::new(FailureClass::Http(503), "busy");
    rig.gateway.fail(rig.now, lease.id, failure, gpu(9_000_000)).unwrap();
    rig.gateway.correct_usage(rig.now, lease.id, gpu(900)).unwrap();
    let until = rig.wait().unwrap();
    rig.to(until);
    let lease = rig.lease().id;
    rig.pass(secs(1));
    rig.gateway.complete(rig.now, lease, Output::url("1.webp"), gpu(500)).unwrap();
    let own = only(&mut rig);
    assert_eq!((own.reported, own.usage, own.capped), (GpuNanos::from_millis(1_400), own.reported, false));
}
