//! The collector by itself: each claim once.

use super::*;
use crate::error::Coded;
use crate::id::NAME_LEN_MAX;

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn call(request_id: &str) -> BillingCall<'_> {
    BillingCall { request_id, customer: Some("acme"), model: "dev", tier: None }
}

fn gpu(nanos: u64) -> Usage<'static> {
    Usage::gpu(GpuNanos::from_nanos(nanos), "GPU-8f2c")
}

pub(super) fn config() -> BillingCollectorConfig {
    BillingCollectorConfig::default()
        .starts_max(3)
        .start_age_max(Span::from_nanos(1_000))
        .outbox(OutboxConfig::default().outbox_max(4).hold(Span::from_nanos(100)))
        .tolerance_ppm(0)
        .slack(Span::ZERO)
}

pub(super) fn collector() -> BillingCollector {
    // A micro-unit for a nanosecond makes every charge readable.
    let prices = PriceBook::new(1, "USD").unwrap().price("dev", "*", 1_000_000_000).unwrap();
    BillingCollector::new(config(), prices).unwrap()
}

#[test]
fn interleaved_calls_are_paired_by_id_and_billed_for_their_own_time() {
    // Ranges were popped from a stack: of two interleaved requests each was charged the other's time, and the
    // start was never subtracted at all.
    let mut billing = collector();
    billing.start(call("a"), at(1_000)).unwrap();
    billing.start(call("b"), at(1_100)).unwrap();
    assert_eq!(billing.start(call("a"), at(1_150)), Err(BillingError::AlreadyStarted));
    let a = billing.end("a", &Usage::unmeasured(), at(1_300)).unwrap();
    let b = billing.end("b", &gpu(250), at(1_400)).unwrap();
    assert_eq!((a.billed_ns.as_nanos(), a.charge), (300, Some(Money::from_micros(300))));
    assert_eq!((b.billed_ns.as_nanos(), b.charge), (250, Some(Money::from_micros(250))));
    let batch = billing.take(9, at(1_400)).unwrap();
    let records: std::vec::Vec<_> = billing.entries(batch).unwrap().map(|(_, record)| record).collect();
    assert_eq!(
        records
            .iter()
            .map(|record| (&*record.request_id, record.measured, record.usage.device_count()))
            .collect::<std::vec::Vec<_>>(),
        [("a", false, 0), ("b", true, 1)]
    );
    assert_eq!((records[0].started, records[0].ended), (at(1_000), at(1_300)));
    assert_eq!(billing.totals().unmeasured, 1);
}

#[test]
fn an_end_without_a_start_and_a_second_end_make_no_record() {
    let mut billing = collector();
    assert_eq!(billing.end("a", &gpu(0), at(5)), Err(BillingError::NoStart));
    assert_eq!(billing.abandon("a", at(5)), Err(BillingError::NoStart));
    billing.start(call("a"), at(5)).unwrap();
    billing.end("a", &gpu(1), at(6)).unwrap();
    assert_eq!(billing.end("a", &gpu(1), at(7)), Err(BillingError::NoStart));
    assert_eq!(billing.outbox().pushed_total(), 1);
}

fn only_record(billing: &mut BillingCollector) -> BillingRecord {
    let batch = billing.take(9, billing.clock.reading()).unwrap();
    let record = billing.entries(batch).unwrap().next().unwrap().1.clone();
    billing.confirm(batch).unwrap();
    record
}

#[test]
fn an_impossible_usage_is_charged_as_what_was_possible_and_says_so() {
    // The end was refused for a figure beyond the call's time, and refused again with the same figure: a call that
    // was answered was swept, and never billed.
    let mut billing = collector();
    billing.start(call("a"), at(100)).unwrap();
    let receipt = billing.end("a", &gpu(51), at(150)).unwrap();
    let figures = (receipt.reported_ns.as_nanos(), receipt.billed_ns.as_nanos(), receipt.capped);
    assert_eq!((figures, receipt.charge), ((51, 50, true), Some(Money::from_micros(50))));
    let record = only_record(&mut billing);
    assert_eq!((record.reported_ns.as_nanos(), record.billed_ns.as_nanos(), record.capped), (51, 50, true));
    assert_eq!((billing.totals().capped, billing.totals().usage_ns), (1, 50));

    billing.start(call("b"), at(200)).unwrap();
    assert!(!billing.end("b", &gpu(50), at(250)).unwrap().capped);
    billing.start(call("c"), at(300)).unwrap();
    assert_eq!(billing.end("c", &gpu(1).and_gpu(GpuNanos::ZERO, "a,b"), at(350)).unwrap_err().number(), 203);
    let all = gpu(u64::MAX).and_gpu(GpuNanos::from_nanos(u64::MAX), "b");
    let receipt = billing.end("c", &all, at(350)).unwrap();
    assert_eq!((receipt.reported_ns.as_nanos(), receipt.billed_ns.as_nanos()), (u64::MAX, 100));
}

#[test]
fn where_excess_is_refused_the_call_stays_open() {
    let mut billing = collector();
    billing.config.excess = Excess::Refuse;
    billing.start(call("a"), at(100)).unwrap();
    let too_long = BillingError::UsageExceedsElapsed { used_ns: 51, allowed_ns: 50 };
    assert_eq!(billing.end("a", &gpu(51), at(150)), Err(too_long));
    assert_eq!((billing.open(), billing.outbox().len()), (1, 0));
    assert_eq!(billing.end("a", &gpu(50), at(150)).unwrap().billed_ns.as_nanos(), 50);
}

#[test]
fn an_end_before_its_start_is_flagged_and_no_instant_call() {
    // Ten calls of 2 s under a clock that is set back 30 s within the first. Time stood still then, and each was
    // an instant call.
    let second = 1_000_000_000;
    let roomy = config().slack(Span::from_millis(100)).tolerance_ppm(10_000).start_age_max(Span::from_secs(60));
    let mut billing = BillingCollector::new(roomy, collector().prices().clone()).unwrap();
    billing.start(call("a"), at(100 * second)).unwrap();
    billing.handle_timeout(9, at(101 * second));
    billing.handle_timeout(9, at(71 * second));
    let receipt = billing.end("a", &gpu(1_900_000_000), at(71 * second + second / 2)).unwrap();
    assert_eq!((receipt.reported_ns.as_nanos(), receipt.billed_ns.as_nanos()), (1_900_000_000, 1_615_000_000));
    let record = only_record(&mut billing);
    assert_eq!((record.clock_back, record.elapsed), (true, Span::from_millis(1_500)));
    assert_eq!((record.started, record.ended), (at(100 * second), at(71 * second + second / 2)));

    for n in 0..9 {
        let start = 71 * second + second / 2 + n * 2 * second;
        billing.start(call("b"), at(start)).unwrap();
        let receipt = billing.end("b", &gpu(1_900_000_000), at(start + 2 * second)).unwrap();
        assert_eq!((receipt.billed_ns.as_nanos(), receipt.capped), (1_900_000_000, false));
        let record = only_record(&mut billing);
        assert_eq!((record.clock_back, record.elapsed), (false, Span::from_secs(2)));
    }
    assert_eq!(billing.totals().capped, 1);
}

#[test]
fn an_overflowing_charge_is_the_highest_and_flagged() {
    let prices = PriceBook::new(1, "USD").unwrap().price("dev", "*", u64::MAX).unwrap();
    let mut billing = BillingCollector::new(config(), prices).unwrap();
    billing.start(call("a"), at(0)).unwrap();
    let receipt = billing.end("a", &Usage::unmeasured(), Timestamp::from_secs(2)).unwrap();
    assert_eq!((receipt.charge, receipt.capped), (Some(Money::MAX), true));
    billing.check_invariants();
}

#[test]
fn a_call_is_swept_at_its_age_and_not_a_nanosecond_before() {
    let mut billing = collector();
    billing.start(call("a"), at(500)).unwrap();
    assert_eq!(billing.next_deadline(), Some(at(1_500)));
    assert_eq!(billing.handle_timeout(9, at(1_499)), 0);
    assert_eq!(billing.handle_timeout(9, at(1_500)), 1);
    assert_eq!(billing.handle_timeout(9, at(1_500)), 0);
    assert_eq!(billing.end("a", &gpu(1), at(1_501)), Err(BillingError::NoStart));
    let batch = billing.take(9, at(1_501)).unwrap();
    let (_, record) = billing.entries(batch).unwrap().next().unwrap();
    assert_eq!((record.outcome, record.charge, record.ended), (BillingOutcome::Swept, Some(Money::ZERO), at(1_500)));
}

#[test]
fn a_sweep_does_no_more_than_asked_and_the_oldest_first() {
    let mut billing = collector();
    for (n, id) in ["a", "b", "c"].into_iter().enumerate() {
        billing.start(call(id), at(n as u64)).unwrap();
    }
    billing.abandon("b", at(10)).unwrap();
    assert_eq!(billing.handle_timeout(0, at(5_000)), 0);
    assert_eq!(billing.handle_timeout(1, at(5_000)), 1);
    assert_eq!(billing.end("a", &gpu(1), at(5_000)), Err(BillingError::NoStart));
    // Late, but not yet swept: the work was done, so it is charged.
    assert_eq!(billing.end("c", &gpu(40), at(5_000)).unwrap().charge, Some(Money::from_micros(40)));
    assert_eq!(billing.handle_timeout(9, at(5_000)), 0);
    let BillingTotals { started, ended, abandoned, swept, .. } = billing.totals();
    assert_eq!((started, ended, abandoned, swept), (3, 1, 1, 1));
}

#[test]
fn no_end_is_refused_for_a_full_outbox() {
    let mut billing = collector();
    for id in ["a", "b", "c"] {
        billing.start(call(id), at(0)).unwrap();
    }
    assert_eq!(
        billing.start(call("d"), at(0)),
        Err(Full::new("starts", Scope::Part, 3, 3).retry_at(billing.next_deadline()).into())
    );
    billing.end("a", &gpu(0), at(1)).unwrap();
    billing.end("b", &gpu(0), at(1)).unwrap();
    billing.start(call("d"), at(1)).unwrap();
    // Two records and two open calls fill an outbox of four.
    assert_eq!(billing.start(call("e"), at(1)), Err(Full::new("outbox", Scope::Part, 4, 4).into()));
    billing.end("c", &gpu(0), at(1)).unwrap();
    billing.end("d", &gpu(0), at(1)).unwrap();
    let batch = billing.take(9, at(1)).unwrap();
    assert!(billing.start(call("e"), at(1)).is_err());
    billing.confirm(batch).unwrap();
    assert_eq!(billing.start(call("e"), at(1)), Ok(()));
}

#[test]
fn a_call_pays_the_price_it_started_with() {
    let mut billing = collector();
    billing.start(call("a"), at(0)).unwrap();
    let dearer = PriceBook::new(2, "USD").unwrap().price("dev", "*", 2_000_000_000).unwrap();
    billing.put_prices(dearer.clone()).unwrap();
    billing.start(call("b"), at(0)).unwrap();
    assert_eq!(billing.end("a", &gpu(10), at(10)).unwrap().charge, Some(Money::from_micros(10)));
    assert_eq!(billing.end("b", &gpu(10), at(10)).unwrap().charge, Some(Money::from_micros(20)));
    assert!(billing.put_prices(dearer).is_err());
    let euros = PriceBook::new(3, "EUR").unwrap();
    assert!(matches!(billing.put_prices(euros), Err(InputError::Contradiction { .. })));
    assert_eq!(billing.prices().version(), 2);
}

#[test]
fn a_call_without_a_price_is_told_apart_from_a_free_one() {
    let mut billing = collector();
    billing.start(BillingCall { model: "other", ..call("a") }, at(0)).unwrap();
    let receipt = billing.end("a", &gpu(10), at(10)).unwrap();
    assert_eq!((receipt.billed_ns.as_nanos(), receipt.charge), (10, None));
    let BillingTotals { unpriced, unpriced_ns, usage_ns, charge_micros, .. } = billing.totals();
    assert_eq!((unpriced, unpriced_ns, usage_ns, charge_micros), (1, 10, 10, 0));
}

#[test]
fn a_call_of_nobody_stays_one_of_nobody() {
    // It was written down as that of a customer named "", whom every service that meters its own work shared.
    let mut billing = collector();
    let nobody = BillingCall { customer: None, tier: None, ..call("a") };
    billing.start(nobody, at(0)).unwrap();
    let json = serde_json::to_string(&billing).unwrap();
    billing = serde_json::from_str(&json).unwrap();
    billing.end("a", &gpu(10), at(10)).unwrap();
    let record = only_record(&mut billing);
    assert_eq!((record.customer.as_deref(), record.tier.as_deref()), (None, None));
    assert!(serde_json::to_string(&record).unwrap().contains(r#""customer":null,"model":"dev","tier":null"#));
}

#[test]
fn names_are_checked_before_anything_else() {
    let mut billing = collector();
    for wrong in [
        call(""),
        BillingCall { customer: Some(""), ..call("a") },
        BillingCall { model: "", ..call("a") },
        BillingCall { tier: Some(""), ..call("a") },
        BillingCall { tier: Some("\n"), ..call("a") },
        call(&"x".repeat(NAME_LEN_MAX + 1)),
    ] {
        assert!(matches!(billing.start(wrong, at(0)), Err(BillingError::Input(_))), "{wrong:?}");
    }
    assert_eq!(billing.open(), 0);
    assert!(BillingCollector::new(config().starts_max(0), billing.prices().clone()).is_err());
    assert!(BillingCollector::new(config().start_age_max(Span::ZERO), billing.prices().clone()).is_err());
}

#[test]
fn time_goes_on_at_the_pace_of_a_clock_that_was_set_back() {
    let mut billing = collector();
    billing.start(call("a"), at(1_000)).unwrap();
    billing.start(call("b"), at(5)).unwrap();
    billing.abandon("a", at(5)).unwrap();
    assert_eq!(billing.next_deadline(), Some(at(1_005)));
    assert_eq!(billing.end("b", &Usage::unmeasured(), at(35)).unwrap().billed_ns.as_nanos(), 30);
    billing.start(call("c"), at(40)).unwrap();
    assert_eq!(billing.handle_timeout(9, at(600)), 0);
    assert_eq!(billing.next_deadline(), Some(at(1_040)));
    assert_eq!(billing.handle_timeout(9, at(1_039)), 0);
    assert_eq!(billing.handle_timeout(9, at(1_040)), 1);
}

#[test]
fn an_age_without_end_is_never_swept() {
    let endless = config().start_age_max(Span::MAX);
    let mut billing = BillingCollector::new(endless, collector().prices().clone()).unwrap();
    billing.start(call("a"), at(7)).unwrap();
    assert_eq!(billing.next_deadline(), None);
    assert_eq!(billing.handle_timeout(9, Timestamp::MAX), 0);
    assert_eq!(billing.open(), 1);
}
