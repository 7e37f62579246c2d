//! The outbox against a naive model that keeps every entry for ever.

use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::tests::{HOLD, at};
use super::*;
use crate::time::pace::Pace;

#[derive(Clone, Debug)]
enum Op {
    Push,
    Take { max: u32, later: u64 },
    Confirm(prop::sample::Index),
    GiveBack(prop::sample::Index),
    Timeout { now: u64 },
    Truncate { back: u64 },
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Push),
        4 => (0..5_u32, 0..40_u64).prop_map(|(max, later)| Op::Take { max, later }),
        3 => any::<prop::sample::Index>().prop_map(Op::Confirm),
        2 => any::<prop::sample::Index>().prop_map(Op::GiveBack),
        1 => (0..2_000_u64).prop_map(|now| Op::Timeout { now }),
        1 => (0..4_u64).prop_map(|back| Op::Truncate { back }),
        1 => Just(Op::Restore),
    ]
}

/// One entry of the naive model: where it is, and the batch it was in last.
#[derive(Clone, Debug)]
struct Place {
    payload: String,
    batch: Option<u64>,
    in_flight: bool,
    confirmed: bool,
}

#[derive(Default)]
struct Model {
    places: Vec<Place>,
    batches: Vec<(Batch, Timestamp)>,
    clock: Pace,
}

impl Model {
    fn run(&mut self, batch: Batch) -> &mut [Place] {
        let first = batch.first_seq as usize - 1;
        &mut self.places[first..first + batch.len as usize]
    }

    fn is_in_flight(&mut self, batch: Batch) -> bool {
        self.run(batch).iter().all(|place| place.in_flight && place.batch == Some(batch.id))
    }

    fn timeout(&mut self, now: Timestamp) {
        let awaited = self.due().map(Timestamp::as_nanos);
        self.clock.read(now.as_nanos(), awaited);
        let latest = at(self.clock.now);
        for (batch, deadline) in self.batches.clone() {
            if deadline <= latest && self.is_in_flight(batch) {
                self.run(batch).iter_mut().for_each(|place| place.in_flight = false);
            }
        }
    }

    fn take(&mut self, max: u32) -> Option<Batch> {
        let free = |place: &Place| !place.in_flight && !place.confirmed;
        let first = self.places.iter().position(free).filter(|_| max > 0)?;
        let last_batch = self.places[first].batch;
        let len = self.places[first..]
            .iter()
            .take_while(|place| free(place) && place.batch == last_batch)
            .take(max as usize)
            .count();
        let batch = Batch { id: self.batches.len() as u64 + 1, first_seq: first as u64 + 1, len: len as u32 };
        self.batches.push((batch, at(self.clock.now) + HOLD));
        for place in self.run(batch) {
            (place.in_flight, place.batch) = (true, Some(batch.id));
        }
        Some(batch)
    }

    fn settle(&mut self, batch: Batch, confirmed: bool) -> Result<u32, OutboxError> {
        if self.is_in_flight(batch) {
            for place in self.run(batch) {
                (place.in_flight, place.confirmed) = (false, confirmed);
            }
            Ok(batch.len)
        } else if self.run(batch).iter().all(|place| place.confirmed) {
            Ok(0)
        } else {
            Err(OutboxError::BatchSuperseded { batch: batch.id })
        }
    }

    fn next_deadline(&mut self) -> Option<Timestamp> {
        self.due().map(|at| self.clock.shown_at(at))
    }

    fn due(&mut self) -> Option<Timestamp> {
        let batches = self.batches.clone();
        batches.into_iter().filter(|(batch, _)| self.is_in_flight(*batch)).map(|(_, deadline)| deadline).min()
    }

    fn count(&self, is: impl Fn(&Place) -> bool) -> usize {
        self.places.iter().filter(|place| is(place)).count()
    }
}

fn apply(outbox: &mut Outbox<String>, model: &mut Model, n: usize, op: &Op) {
    let pick =
        |index: &prop::sample::Index, model: &Model| (!model.batches.is_empty()).then(|| index.get(&model.batches).0);
    match op {
        Op::Push => {
            let payload = format!("entry {n}");
            let fits = model.count(|place| !place.confirmed) < 20;
            assert_eq!(outbox.push(payload.clone()).ok(), fits.then_some(model.places.len() as u64 + 1));
            if fits {
                model.places.push(Place { payload, batch: None, in_flight: false, confirmed: false });
            }
        }
        Op::Take { max, later } => {
            let now = at(model.clock.reading) + Span::from_nanos(*later);
            model.timeout(now);
            assert_eq!(outbox.take(*max, now), model.take(*max));
        }
        Op::Confirm(index) => {
            if let Some(batch) = pick(index, model) {
                assert_eq!(outbox.confirm(batch), model.settle(batch, true));
            }
        }
        Op::GiveBack(index) => {
            if let Some(batch) = pick(index, model) {
                assert_eq!(outbox.give_back(batch), model.settle(batch, false));
            }
        }
        Op::Timeout { now } => {
            model.timeout(at(*now));
            outbox.handle_timeout(at(*now));
        }
        Op::Truncate { back } => {
            let keep = model.places.len().saturating_sub(*back as usize);
            let legal = model.places[keep..].iter().all(|place| place.batch.is_none());
            let gone = outbox.truncate_back(keep as u64 + 1);
            assert_eq!(gone.ok(), legal.then_some(model.places.len() - keep));
            if legal {
                model.places.truncate(keep);
            }
        }
        Op::Restore => {
            let bytes = postcard::to_allocvec(outbox).unwrap();
            let restored: Outbox<String> = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(&restored, outbox);
            *outbox = restored;
        }
    }
}

proptest! {
    #[test]
    fn every_entry_is_confirmed_exactly_once_or_still_here(ops in prop::collection::vec(op(), 1..120)) {
        let config = OutboxConfig::default().outbox_max(20).hold(HOLD);
        let mut outbox = Outbox::new(config).unwrap();
        let mut model = Model::default();
        for (n, op) in ops.iter().enumerate() {
            apply(&mut outbox, &mut model, n, op);
            outbox.check_invariants();
            let confirmed = model.count(|place| place.confirmed);
            prop_assert_eq!(outbox.pushed_total(), model.places.len() as u64);
            prop_assert_eq!(outbox.confirmed_total(), confirmed as u64);
            prop_assert_eq!(outbox.in_flight(), model.count(|place| place.in_flight));
            prop_assert_eq!(outbox.pending() + outbox.in_flight() + confirmed, model.places.len());
            prop_assert_eq!(outbox.next_deadline(), model.next_deadline());
            for (batch, _) in model.batches.clone() {
                if model.is_in_flight(batch) {
                    let expected: Vec<_> = model.run(batch).iter().map(|place| &place.payload).collect();
                    let found: Vec<_> = outbox.entries(batch).unwrap().map(|(_, payload)| payload).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
        // Faults end: whatever is left arrives, each entry under the number it was pushed with.
        for batch in outbox.batches().collect::<Vec<_>>() {
            outbox.give_back(batch).unwrap();
        }
        while let Some(batch) = outbox.take(3, at(model.clock.reading)) {
            for (seq, payload) in outbox.entries(batch).unwrap() {
                let place = &mut model.places[seq as usize - 1];
                prop_assert!(!place.confirmed && place.payload == *payload);
                place.confirmed = true;
            }
            prop_assert_eq!(outbox.confirm(batch), Ok(batch.len));
        }
        prop_assert!(outbox.is_empty() && model.places.iter().all(|place| place.confirmed));
    }
}
