//! The collector against a naive model: every call leaves one record, and every micro-unit is somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::tests::config;
use super::*;

#[derive(Clone, Debug)]
enum Op {
    Start { id: u8, priced: bool },
    End { id: u8, used: Option<u64>, later: u64 },
    Abandon { id: u8 },
    Timeout { max: u32, now: u64 },
    Take { max: u32, later: u64 },
    Confirm(Index),
    GiveBack(Index),
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..5_u8, prop::bool::weighted(0.8)).prop_map(|(id, priced)| Op::Start { id, priced }),
        6 => (0..5_u8, prop::option::weighted(0.7, 0..60_u64), 0..60_u64)
            .prop_map(|(id, used, later)| Op::End { id, used, later }),
        1 => (0..5_u8).prop_map(|id| Op::Abandon { id }),
        1 => (0..4_u32, prop_oneof![0..3_000_u64, Just(0)]).prop_map(|(max, now)| Op::Timeout { max, now }),
        3 => (0..4_u32, 0..60_u64).prop_map(|(max, later)| Op::Take { max, later }),
        3 => any::<Index>().prop_map(Op::Confirm),
        1 => any::<Index>().prop_map(Op::GiveBack),
        1 => Just(Op::Restore),
    ]
}

/// What must be in the outbox under a number: who, how it left, nanoseconds and micro-units charged.
type Expected = (String, BillingOutcome, u64, Option<u64>);

#[derive(Default)]
struct Model {
    now: u64,
    open: Vec<(u8, u64, bool)>,
    records: Vec<Expected>,
    batches: Vec<Batch>,
    confirmed: BTreeSet<u64>,
    capped: u64,
}

impl Model {
    fn close(&mut self, id: u8, outcome: BillingOutcome, used: u64) {
        let at = self.open.iter().position(|(open, ..)| *open == id).unwrap();
        let (_, _, priced) = self.open.remove(at);
        // Half a micro-unit for a nanosecond: an odd number is a tie, and goes to the even side.
        let halves = used + u64::from(used % 4 == 3);
        self.records.push((id.to_string(), outcome, used, priced.then_some(halves / 2)));
    }

    fn room(&self) -> usize {
        4 - (self.records.len() - self.confirmed.len())
    }

    fn sum(&self, of: impl Fn(&Expected) -> u64) -> u128 {
        self.records.iter().map(|record| u128::from(of(record))).sum()
    }
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn apply(billing: &mut BillingCollector, model: &mut Model, op: &Op) {
    match op {
        Op::Start { id, priced } => {
            let request_id = id.to_string();
            let name = if *priced { "dev" } else { "other" };
            let call = BillingCall { request_id: &request_id, customer: Some("acme"), model: name, tier: None };
            let is_open = model.open.iter().any(|(open, ..)| open == id);
            let fits = model.open.len() < 3 && model.room() > model.open.len();
            match billing.start(call, at(model.now)) {
                Ok(()) => {
                    assert!(fits && !is_open);
                    model.open.push((*id, model.now, *priced));
                }
                Err(BillingError::AlreadyStarted) => assert!(is_open),
                Err(error) => assert!(!fits && matches!(error, BillingError::Full(_))),
            }
        }
        Op::End { id, used, later } => {
            let usage = used.map_or(Usage::unmeasured(), |used| Usage::gpu(GpuNanos::from_nanos(used), "GPU-0"));
            let now = model.now + later;
            let started = model.open.iter().find(|(open, ..)| open == id).map(|(_, started, _)| *started);
            match billing.end(&id.to_string(), &usage, at(now)) {
                Ok(receipt) => {
                    let elapsed = now - started.unwrap();
                    let capped = used.is_some_and(|used| used > elapsed);
                    let billed = used.map_or(elapsed, |used| used.min(elapsed));
                    assert_eq!(receipt.capped, capped);
                    assert_eq!(receipt.reported_ns.as_nanos(), used.unwrap_or(elapsed));
                    model.now = now;
                    model.capped += u64::from(capped);
                    model.close(*id, BillingOutcome::Ended, billed);
                    assert_eq!(receipt.seq, model.records.len() as u64);
                }
                Err(error) => {
                    assert!(matches!(error, BillingError::NoStart));
                    assert_eq!(started, None);
                }
            }
        }
        Op::Abandon { id } => {
            let is_open = model.open.iter().any(|(open, ..)| open == id);
            assert_eq!(billing.abandon(&id.to_string(), at(model.now)).is_ok(), is_open);
            if is_open {
                model.close(*id, BillingOutcome::Abandoned, 0);
            }
        }
        Op::Timeout { max, now } => {
            // Time that goes back makes none, and then goes on from there.
            model.now += now;
            let due: Vec<u8> =
                model.open.iter().filter(|open| open.1 + 1_000 <= model.now).map(|open| open.0).collect();
            let due = &due[..due.len().min(*max as usize)];
            due.iter().for_each(|id| model.close(*id, BillingOutcome::Swept, 0));
            assert_eq!(billing.handle_timeout(*max, at(model.now)), due.len() as u32);
        }
        Op::Take { max, later } => {
            model.now += later;
            if let Some(batch) = billing.take(*max, at(model.now)) {
                check_batch(billing, model, batch);
                model.batches.push(batch);
            }
        }
        Op::Confirm(index) if !model.batches.is_empty() => {
            let batch = *index.get(&model.batches);
            confirm(billing, model, batch);
        }
        Op::GiveBack(index) if !model.batches.is_empty() => {
            let _ = billing.give_back(*index.get(&model.batches));
        }
        Op::Confirm(_) | Op::GiveBack(_) => {}
        Op::Restore => {
            let bytes = postcard::to_allocvec(billing).unwrap();
            *billing = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(postcard::to_allocvec(billing).unwrap(), bytes);
            let json = serde_json::to_string(billing).unwrap();
            *billing = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(billing).unwrap(), json);
        }
    }
}

fn check_batch(billing: &BillingCollector, model: &Model, batch: Batch) {
    for (seq, record) in billing.entries(batch).unwrap() {
        let charge = record.charge.map(Money::as_micros);
        let found = (record.request_id.to_string(), record.outcome, record.billed_ns.as_nanos(), charge);
        assert_eq!(found, model.records[seq as usize - 1], "record {seq}");
    }
}

fn confirm(billing: &mut BillingCollector, model: &mut Model, batch: Batch) {
    let seqs = batch.first_seq..batch.first_seq + u64::from(batch.len);
    match billing.confirm(batch) {
        Ok(0) => assert!(seqs.into_iter().all(|seq| model.confirmed.contains(&seq))),
        Ok(_) => seqs.for_each(|seq| assert!(model.confirmed.insert(seq), "record {seq} is confirmed twice")),
        Err(_) => assert!(seqs.into_iter().any(|seq| !model.confirmed.contains(&seq))),
    }
}

proptest! {
    #[test]
    fn every_call_leaves_one_record_and_every_micro_unit_is_somewhere(ops in prop::collection::vec(op(), 1..100)) {
        let prices = PriceBook::new(1, "USD").unwrap().price("dev", "*", 500_000_000).unwrap();
        let mut billing = BillingCollector::new(config(), prices).unwrap();
        let mut model = Model::default();
        for op in &ops {
            apply(&mut billing, &mut model, op);
            billing.check_invariants();
            let totals = billing.totals();
            prop_assert_eq!(totals.usage_ns, model.sum(|record| record.2));
            prop_assert_eq!(totals.charge_micros, model.sum(|record| record.3.unwrap_or(0)));
            prop_assert_eq!(totals.unpriced_ns, model.sum(|record| if record.3.is_none() { record.2 } else { 0 }));
            prop_assert_eq!(totals.capped, model.capped);
            prop_assert_eq!(totals.started, (model.records.len() + model.open.len()) as u64);
            prop_assert_eq!(billing.outbox().confirmed_total(), model.confirmed.len() as u64);
            prop_assert_eq!(billing.outbox().pushed_total(), model.records.len() as u64);
        }
        // Faults end: what was charged is what arrives, to the micro-unit.
        for batch in billing.outbox().batches().collect::<Vec<_>>() {
            billing.give_back(batch).unwrap();
        }
        let mut arrived: BTreeMap<u64, u64> = model
            .confirmed
            .iter()
            .map(|seq| (*seq, model.records[*seq as usize - 1].3.unwrap_or(0)))
            .collect();
        while let Some(batch) = billing.take(2, at(model.now)) {
            check_batch(&billing, &model, batch);
            for (seq, record) in billing.entries(batch).unwrap() {
                let charge = record.charge.unwrap_or_default().as_micros();
                prop_assert_eq!(arrived.insert(seq, charge), None);
            }
            confirm(&mut billing, &mut model, batch);
        }
        let sum: u128 = arrived.values().map(|micros| u128::from(*micros)).sum();
        prop_assert_eq!(sum, billing.totals().charge_micros);
        prop_assert_eq!(arrived.len() as u64, billing.outbox().pushed_total());
    }

    #[test]
    fn a_snapshot_with_wrong_bytes_is_refused_or_sound(
        open in 0..4_usize,
        wrong in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut whole = super::tests::collector();
        for n in 0..open {
            let request_id = n.to_string();
            let call = BillingCall { request_id: &request_id, customer: Some("acme"), model: "dev", tier: None };
            whole.start(call, at(n as u64)).unwrap();
        }
        let _ = whole.end("1", &Usage::unmeasured(), at(5));
        let mut bytes = postcard::to_allocvec(&whole).unwrap();
        for (index, byte) in wrong {
            *index.get_mut(&mut bytes) = byte;
        }
        if let Ok(mut billing) = postcard::from_bytes::<BillingCollector>(&bytes) {
            billing.check_invariants();
            billing.handle_timeout(9, Timestamp::MAX);
            billing.check_invariants();
        }
    }
}
