//! Usage that is told when the lease has ended.

use libgateway::error::{Coded, LeaseError};
use libgateway::{
    BillingPolicy, Corrected, EventKind, Excess, Failure, FailureClass, Gateway, GatewayConfig, GpuNanos, JobState,
    LeaseId, Money, Output, Payer, PriceBook, Settlement, Span, Usage,
};
use libgateway_tests::kit::{DEV, Rig, after, before, id, job, secs};

use crate::{gpu, millis, rig, running};

fn done() -> Output {
    Output::url("https://cdn/1.webp")
}

/// A job that ran unmeasured for 3 s and is complete, with its lease, and all events fetched.
fn complete(billing: BillingPolicy) -> (Rig, LeaseId) {
    let (mut rig, lease) = running(billing, 1);
    rig.pass(secs(3));
    rig.complete(&lease);
    while rig.gateway.poll_event().is_some() {}
    (rig, lease.id)
}

fn correct(rig: &mut Rig, lease: LeaseId, milliseconds: u64) -> Corrected {
    let corrected = rig.gateway.correct_usage(rig.now, lease, gpu(milliseconds)).unwrap();
    rig.check();
    corrected
}

/// What the customer owes, from the entries alone.
fn owed(entries: &[Settlement]) -> i128 {
    let debit: i128 = entries.iter().filter_map(|own| own.charge).map(|own| i128::from(own.as_micros())).sum();
    let credit: i128 =
        entries.iter().filter_map(|own| own.correction).map(|own| i128::from(own.charge_credit.as_micros())).sum();
    debit - credit
}

#[test]
fn a_usage_told_late_is_an_entry_of_its_own_and_the_first_one_stays() {
    let (mut rig, lease) = complete(BillingPolicy::default());
    let first = rig.gateway.take_settlements(rig.now, 9).unwrap();
    rig.gateway.return_settlements(rig.now, first.batch).unwrap();
    rig.pass(secs(60));
    let corrected = correct(&mut rig, lease, 2_800);
    assert_eq!((corrected.job, corrected.settlement), (id(1), Some(2)));
    assert_eq!((corrected.reported, corrected.billed, corrected.capped), (millis(2_800), millis(2_800), false));
    assert_eq!(rig.gateway.poll_event().map(|event| event.kind), Some(EventKind::Corrected(id(1))));

    let entries = rig.settlements();
    assert_eq!(entries[0], first.settlements[0], "the first one was not touched");
    assert_eq!((entries[0].usage, entries[0].charge), (millis(3_000), Some(Money::from_micros(3_000))));
    let (own, correction) = (&entries[1], entries[1].correction.unwrap());
    assert_eq!((correction.corrects, correction.lease, correction.at), (1, lease, rig.now));
    assert_eq!((own.usage, own.charge), (GpuNanos::ZERO, Some(Money::ZERO)));
    assert_eq!((correction.usage_credit, correction.charge_credit), (millis(200), Money::from_micros(200)));
    assert_eq!((own.measured, &*own.devices[0].device, own.devices[0].gpu), (true, "GPU-1", millis(2_800)));
    assert_eq!((own.job, &*own.customer, own.state), (id(1), "acme", JobState::Complete));
    assert_eq!((owed(&entries), rig.gateway.stats().counters.corrections), (2_800, 1));
    let stats = rig.gateway.stats();
    assert_eq!((stats.charged_micros, stats.credited_micros), (3_000, 200));
}

#[test]
fn more_than_was_billed_is_charged_and_told_again_is_nothing() {
    let (mut rig, lease) = running(BillingPolicy::default(), 2);
    rig.pass(secs(3));
    rig.gateway.complete(rig.now, lease.id, done(), gpu(1_000)).unwrap();
    let usage = || gpu(1_000).and_gpu(millis(500), "GPU-2");
    let corrected = rig.gateway.correct_usage(rig.now, lease.id, usage()).unwrap();
    assert_eq!((corrected.settlement, corrected.billed), (Some(2), millis(1_500)));
    assert_eq!(rig.gateway.correct_usage(rig.now, lease.id, usage()).unwrap().settlement, None);
    assert_eq!(correct(&mut rig, lease.id, 1_500).settlement, None, "the same sum on another device costs the same");
    assert_eq!(correct(&mut rig, lease.id, 1_200).settlement, Some(3));
    let entries = rig.settlements();
    assert_eq!((entries[1].usage, entries[1].charge), (millis(500), Some(Money::from_micros(500))));
    assert_eq!(entries[2].correction.unwrap().corrects, 1, "each corrects the first entry");
    assert_eq!(owed(&entries), 1_200);
}

#[test]
fn a_late_usage_is_capped_or_refused_as_any_other() {
    let (mut rig, lease) = complete(BillingPolicy::default());
    rig.pass(secs(60));
    let corrected = correct(&mut rig, lease, 1_000_000);
    assert_eq!((corrected.reported, corrected.billed, corrected.capped), (millis(1_000_000), millis(3_130), true));
    assert_eq!(rig.gateway.stats().counters.capped, 1);
    let own = rig.settlements().remove(1);
    assert_eq!((own.capped, own.reported, own.usage), (true, millis(1_000_000), millis(130)));

    let (mut rig, lease) = complete(BillingPolicy::default().excess(Excess::Refuse));
    assert_eq!(rig.gateway.correct_usage(rig.now, lease, gpu(3_131)).unwrap_err().number(), 1103);
    assert_eq!(correct(&mut rig, lease, 3_130).settlement, Some(2));
}

#[test]
fn it_may_be_told_until_the_exact_instant() {
    // Not in one step, which would be put on trial.
    let pass = |rig: &mut Rig, step: u64| {
        for _ in 0..6 {
            rig.pass(secs(step));
        }
    };
    let (mut rig, lease) = complete(BillingPolicy::default());
    let end = rig.now + secs(3_600);
    pass(&mut rig, 590);
    rig.now = before(end);
    assert_eq!(correct(&mut rig, lease, 2_000).settlement, Some(2));
    rig.now = end;
    let over = Err(LeaseError::TooLate { lease: lease.as_u64() });
    assert_eq!(rig.gateway.correct_usage(end, lease, gpu(1_000)), over);
    assert_eq!(rig.gateway.correct_usage(after(end), lease, gpu(1_000)), over);
    rig.check();

    let (mut rig, lease) = complete(BillingPolicy::default().late_usage_for(Span::ZERO));
    assert_eq!(rig.gateway.correct_usage(rig.now, lease, gpu(1_000)).unwrap_err().number(), 512);
    assert_eq!(rig.settlements().len(), 1);
}

#[test]
fn the_oldest_lease_leaves_where_there_are_too_many() {
    let mut rig = rig(BillingPolicy::default().late_usage_max(2), 1);
    let leases: Vec<LeaseId> = (1..=3)
        .map(|number| {
            rig.submit(job(number, "acme", DEV));
            let lease = rig.lease();
            rig.pass(secs(1));
            rig.complete(&lease);
            lease.id
        })
        .collect();
    assert_eq!(rig.gateway.correct_usage(rig.now, leases[0], gpu(1)).unwrap_err().number(), 512);
    assert_eq!(correct(&mut rig, leases[1], 1).settlement, Some(4));
    assert_eq!(correct(&mut rig, leases[2], 1).settlement, Some(5));
}

#[test]
fn what_cannot_be_told_late_says_why() {
    let (mut rig, lease) = running(BillingPolicy::default(), 1);
    let number = |rig: &mut Rig, lease: u64, usage: Usage<'_>| {
        rig.gateway.correct_usage(rig.now, LeaseId::from_u64(lease), usage).unwrap_err().number()
    };
    assert_eq!(number(&mut rig, lease.id.as_u64(), gpu(1)), 511);
    assert_eq!(number(&mut rig, 0, gpu(1)), 502);
    assert_eq!(number(&mut rig, 99, gpu(1)), 502);
    rig.complete(&lease);
    assert_eq!(number(&mut rig, lease.id.as_u64(), Usage::unmeasured()), 201);
    assert_eq!(number(&mut rig, lease.id.as_u64(), Usage::gpu(millis(1), "")), 201);
    rig.check();
}

#[test]
fn before_its_job_is_settled_it_is_part_of_the_settlement_to_come() {
    for (payer, usage, absorbed) in
        [(Payer::Customer, millis(1_400), GpuNanos::ZERO), (Payer::House, millis(500), millis(900))]
    {
        let (mut rig, lease) = running(BillingPolicy::default().failed(payer), 1);
        rig.pass(secs(2));
        let failure = Failure::new(FailureClass::Timeout, "slow");
        rig.gateway.fail(rig.now, lease.id, failure, Usage::unmeasured()).unwrap();
        assert_eq!(correct(&mut rig, lease.id, 900).settlement, None);
        rig.pass(secs(2));
        let second = rig.lease();
        rig.pass(secs(1));
        let settled = rig.gateway.complete(rig.now, second.id, done(), gpu(500)).unwrap();
        assert_eq!((settled.usage, settled.reported), (usage, usage));
        // And after that it is corrected as any other.
        assert_eq!(correct(&mut rig, lease.id, 1_000).settlement, Some(2));
        let entries = rig.settlements();
        assert_eq!((entries[0].usage, entries[0].absorbed, entries[0].measured), (usage, absorbed, true));
        let paid = payer == Payer::Customer;
        let more = if paid { (millis(100), GpuNanos::ZERO) } else { (GpuNanos::ZERO, millis(100)) };
        assert_eq!((entries[1].usage, entries[1].absorbed), more);
        assert_eq!(owed(&entries), if paid { 1_500 } else { 500 }, "who pays stays as it was");
    }
}

#[test]
fn it_is_charged_at_the_price_of_the_entry_it_corrects() {
    let (mut rig, lease) = complete(BillingPolicy::default());
    let dearer = PriceBook::new(2, "USD").unwrap().price("*", "*", 9_000).unwrap();
    rig.gateway.put_prices(rig.now, dearer).unwrap();
    correct(&mut rig, lease, 3_100);
    let own = rig.settlements().remove(1);
    assert_eq!((own.charge, own.price_version), (Some(Money::from_micros(100)), 1));
}

#[test]
fn what_had_no_price_is_corrected_without_one() {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(3));
    rig.complete(&lease);
    correct(&mut rig, lease.id, 2_000);
    assert_eq!((rig.gateway.stats().unpriced_ns, rig.gateway.stats().counters.unpriced), (2_000_000_000, 1));
    let own = rig.settlements().remove(1);
    assert_eq!((own.charge, own.correction.unwrap().usage_credit), (None, millis(1_000)));
}

#[test]
fn it_needs_no_record_of_its_job_customer_or_route() {
    let config = GatewayConfig::default().retained_max(0).customer_idle(secs(1));
    let mut rig = Rig::with_slots(config, 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(3));
    rig.complete(&lease);
    rig.settlements();
    rig.pass(secs(60));
    assert_eq!((rig.gateway.job(id(1)), rig.gateway.customer("acme")), (None, None));
    assert_eq!(rig.gateway.stats().routes, 0);
    // Another job of the same id is another job.
    rig.submit(job(1, "zoo", DEV));
    assert_eq!(correct(&mut rig, lease.id, 2_000).settlement, Some(2));
    let own = rig.settlements().remove(0);
    assert_eq!((&*own.customer, &*own.route, own.state), ("acme", "image/flux/dev", JobState::Complete));
}

#[test]
fn it_survives_a_restart_with_the_same_digest() {
    let (mut rig, lease) = complete(BillingPolicy::default());
    correct(&mut rig, lease, 2_000);
    let mut again = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    again.check_invariants();
    assert_eq!(again.digest(), rig.gateway.digest());
    for gateway in [&mut rig.gateway, &mut again] {
        assert_eq!(gateway.correct_usage(rig.now, lease, gpu(2_500)).unwrap().settlement, Some(3));
    }
    assert_eq!(again.digest(), rig.gateway.digest());
}

#[test]
fn without_room_it_is_refused_and_taken_when_there_is_room_again() {
    let mut rig = Rig::with_slots(GatewayConfig::default().jobs_max(1), 1);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.pass(secs(3));
    rig.complete(&lease);
    assert_eq!(rig.gateway.correct_usage(rig.now, lease.id, gpu(1_000)).unwrap_err().number(), 301);
    assert_eq!(rig.settlements().len(), 1);
    assert_eq!(correct(&mut rig, lease.id, 1_000).settlement, Some(2));
}
