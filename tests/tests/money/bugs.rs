//! What went wrong in metering and billing elsewhere, as their trackers tell it, and what happens here.

use std::collections::BTreeMap;

use libgateway::error::Coded;
use libgateway::{
    BillingCall, BillingCollector, BillingCollectorConfig, BillingPolicy, Failure, FailureClass, Gateway, GpuNanos,
    Money, Output, Price, PriceBook, Settlement, Usage,
};
use libgateway_tests::kit::{DEV, SCHNELL, at, id, job, secs};

use crate::{gpu, millis, rig, running};

fn done() -> Output {
    Output::url("https://cdn/1.webp")
}

fn collector(price: &str) -> BillingCollector {
    let prices = PriceBook::new(1, "USD").unwrap().price_at("m", "*", price.parse().unwrap()).unwrap();
    BillingCollector::new(BillingCollectorConfig::default(), prices).unwrap()
}

const CALL: BillingCall<'_> = BillingCall { request_id: "req_1", customer: Some("acme"), model: "m", tier: None };

#[test]
fn a_report_that_is_sent_again_is_billed_once() {
    // A client whose connection broke sent its usage again, and the meter added it up.
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(2));
    rig.gateway.complete(rig.now, lease.id, done(), gpu(1_000)).unwrap();
    let again = rig.gateway.complete(rig.now, lease.id, done(), gpu(1_000));
    assert_eq!(again.unwrap_err().number(), 501);
    for _ in 0..3 {
        assert_eq!(rig.gateway.correct_usage(rig.now, lease.id, gpu(1_000)).unwrap().settlement, None);
    }
    assert_eq!((rig.settlements().len(), rig.gateway.stats().charged_micros), (1, 1_000));
}

#[test]
fn a_retry_is_not_billed_on_top_of_what_failed() {
    // A proxy that tried three backends wrote three spends for one answer.
    let (mut rig, mut lease) = running(BillingPolicy::default(), 1);
    for _ in 0..2 {
        rig.pass(secs(2));
        let failure = Failure::new(FailureClass::Http(503), "busy");
        rig.gateway.fail(rig.now, lease.id, failure, gpu(1_500)).unwrap();
        rig.pass(secs(4));
        lease = rig.lease();
    }
    rig.pass(secs(2));
    let settled = rig.gateway.complete(rig.now, lease.id, done(), gpu(700)).unwrap();
    assert_eq!((settled.usage, settled.charge), (millis(700), Some(Money::from_micros(700))));
    let own = rig.settlements().remove(0);
    assert_eq!((own.absorbed, own.attempts, own.devices.len()), (millis(3_000), 2, 1));
}

#[test]
fn a_stream_that_is_cut_off_keeps_what_it_used() {
    // The usage stood in the last chunk. A client that left before it was served for nothing.
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(3));
    rig.gateway.cancel_lease(rig.now, lease.id, Usage::unmeasured()).unwrap();
    // The engine tells the tokens' time when the stream is long gone.
    rig.pass(secs(5));
    rig.gateway.correct_usage(rig.now, lease.id, gpu(2_900)).unwrap();
    let entries = rig.settlements();
    assert_eq!(entries[0].charge, Some(Money::from_micros(3_000)));
    assert_eq!(entries[1].correction.unwrap().charge_credit, Money::from_micros(100));
}

#[test]
fn an_event_after_the_books_were_closed_is_an_entry_and_no_gap() {
    // Events that came after their invoice was made were dropped, or changed the invoice.
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(2));
    rig.gateway.complete(rig.now, lease.id, done(), gpu(1_000)).unwrap();
    let month: Vec<Settlement> = rig.settlements();
    rig.pass(secs(1_800));
    rig.gateway.correct_usage(rig.now, lease.id, gpu(1_250)).unwrap();
    let next = rig.settlements();
    assert_eq!((month.len(), next.len(), next[0].number), (1, 1, 2));
    assert_eq!((next[0].charge, next[0].correction.unwrap().at), (Some(Money::from_micros(250)), rig.now));
}

#[test]
fn a_clock_set_back_makes_no_negative_and_no_endless_call() {
    // A step of NTP made a duration of -0.3 s, which an unsigned column took for 584 years.
    let mut billing = collector("0.001/s");
    billing.start(CALL, at(1_000)).unwrap();
    let receipt = billing.end("req_1", &Usage::unmeasured(), at(999)).unwrap();
    assert_eq!((receipt.billed_ns, receipt.charge), (GpuNanos::ZERO, Some(Money::ZERO)));
    let batch = billing.take(1, at(999)).unwrap();
    let record = billing.entries(batch).unwrap().next().unwrap().1;
    assert!(record.clock_back && record.ended < record.started);
}

#[test]
fn an_unknown_model_is_not_a_free_one() {
    // A model that the price map did not know cost 0, and nobody saw it for a month.
    let mut rig = rig(BillingPolicy::default(), 1);
    let only_dev = PriceBook::new(2, "USD").unwrap().price("flux/dev", "*", 1_000).unwrap();
    rig.gateway.put_prices(rig.now, only_dev).unwrap();
    rig.submit(job(1, "acme", SCHNELL));
    let lease = rig.lease();
    rig.pass(secs(2));
    assert_eq!(rig.gateway.complete(rig.now, lease.id, done(), gpu(1_500)).unwrap().charge, None);
    assert_eq!((rig.gateway.stats().counters.unpriced, rig.gateway.stats().unpriced_ns), (1, 1_500_000_000));
}

#[test]
fn ten_thousand_tenths_are_a_thousand() {
    // Costs were floats: after ten thousand calls at 0.1 the sum was 1000.0000000001588.
    let mut billing = collector("0.1/s");
    for n in 0..10_000 {
        billing.start(CALL, at(n)).unwrap();
        let usage = Usage::gpu(GpuNanos::from_secs(1), "GPU-1");
        billing.end("req_1", &usage, at(n + 1)).unwrap();
        if let Some(batch) = billing.take(9, at(n + 1)) {
            billing.confirm(batch).unwrap();
        }
    }
    assert_eq!(billing.totals().charge_micros, 1_000_000_000);
}

#[test]
fn a_month_by_the_hour_is_a_month_by_the_second() {
    // An hourly price was divided into a price for a second and rounded there: 2.49 an hour became 2.4912.
    let hourly: Price = "2.49/h".parse().unwrap();
    assert_eq!(hourly.charge(GpuNanos::from_secs(30 * 86_400)), Ok(Money::from_micros(1_792_800_000)));
    let in_seconds: u64 = (0..3_600).map(|_| hourly.charge(GpuNanos::from_secs(1)).unwrap().as_micros()).sum();
    // What is billed second by second is rounded second by second: off by half a micro-unit each at most.
    assert!(in_seconds.abs_diff(2_490_000) <= 1_800, "{in_seconds}");
}

#[test]
fn eight_gpus_are_not_billed_as_one() {
    // A node of eight was metered by wall time.
    let (mut rig, lease) = running(BillingPolicy::default(), 8);
    rig.pass(secs(10));
    assert_eq!(rig.complete(&lease).charge, Some(Money::from_micros(80_000)));
}

#[test]
fn a_flush_that_dies_after_writing_bills_nobody_twice() {
    // Rows were inserted, the acknowledgement was lost, and the rows were inserted again.
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(2));
    rig.gateway.complete(rig.now, lease.id, done(), gpu(1_000)).unwrap();
    rig.gateway.correct_usage(rig.now, lease.id, gpu(900)).unwrap();
    let mut table = BTreeMap::new();
    for life in 0..3 {
        let taken = rig.gateway.take_settlements(rig.now, 9).unwrap();
        table.extend(taken.settlements.into_iter().map(|own| ((own.epoch, own.number), own)));
        rig.gateway = Gateway::restore(&rig.gateway.snapshot(), rig.now, life).unwrap();
        rig.pass(secs(61));
    }
    let owed: i128 = table
        .values()
        .map(|own| {
            let back = own.correction.map_or(Money::ZERO, |own| own.charge_credit);
            i128::from(own.charge.unwrap_or_default().as_micros()) - i128::from(back.as_micros())
        })
        .sum();
    assert_eq!((table.len(), owed), (2, 900));
}

#[test]
fn a_counter_that_was_read_instead_of_a_difference_ruins_nobody() {
    // A worker that restarted reported the counter itself: 41 days of GPU time for a picture of 2 s.
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    rig.pass(secs(2));
    let usage = Usage::gpu(GpuNanos::from_secs(41 * 86_400), "GPU-1");
    let settled = rig.gateway.complete(rig.now, lease.id, done(), usage).unwrap();
    assert_eq!((settled.charge, settled.capped), (Some(Money::from_micros(2_120)), true));
}

#[test]
fn an_id_that_is_used_again_does_not_inherit_a_bill() {
    // Usage was kept by a request id that clients chose, and a second request under it was added to the first.
    let (mut rig, first) = running(BillingPolicy::default(), 1);
    rig.pass(secs(1));
    rig.complete(&first);
    rig.gateway.delete(rig.now, id(1)).unwrap();
    rig.submit(job(1, "zoo", DEV));
    let second = rig.lease();
    rig.pass(secs(2));
    rig.gateway.correct_usage(rig.now, first.id, gpu(900)).unwrap();
    rig.complete(&second);
    let entries = rig.settlements();
    let told: Vec<_> = entries.iter().map(|own| (&*own.customer, own.charge.unwrap().as_micros())).collect();
    assert_eq!(told, [("acme", 1_000), ("acme", 0), ("zoo", 2_000)]);
}
