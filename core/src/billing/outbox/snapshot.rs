//! Reading an outbox back: nothing is accepted that a box of its configuration cannot have come to.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use serde::Deserialize;

use super::{Outbox, OutboxConfig, Taken, index};
use crate::error::InputError;
use crate::time::Clock;

/// An outbox as it is read, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutboxForm<T> {
    config: OutboxConfig,
    clock: Clock,
    next_seq: u64,
    next_batch: u64,
    confirmed: u64,
    fresh: VecDeque<T>,
    returned: BTreeMap<u64, Vec<T>>,
    taken: BTreeMap<u64, Taken<T>>,
}

impl<T> TryFrom<OutboxForm<T>> for Outbox<T> {
    type Error = InputError;

    /// Accepts only what a box of this configuration can have come to.
    fn try_from(form: OutboxForm<T>) -> Result<Self, InputError> {
        let OutboxForm { config, clock, next_seq, next_batch, confirmed, fresh, returned, taken } = form;
        config.validate()?;
        for (field, value) in [("next_seq", next_seq), ("next_batch", next_batch)] {
            if !(1..=NUMBER_MAX).contains(&value) {
                return Err(InputError::OutOfRange { field, value, min: 1, max: NUMBER_MAX });
            }
        }
        let contradiction = |field, other| Err(InputError::Contradiction { field, other });

        let mut runs: Vec<(u64, u64)> =
            returned.iter().map(|(first, entries)| (*first, entries.len() as u64)).collect();
        runs.extend(taken.values().map(|taken| (taken.first_seq, taken.entries.len() as u64)));
        runs.sort_unstable();
        runs.push((next_seq.saturating_sub(fresh.len() as u64), fresh.len() as u64));
        let (mut end, mut len) = (1, 0);
        for (n, (first, run)) in runs.iter().enumerate() {
            // The last one is what was never handed out; only that may be empty.
            let empty = *run == 0 && n + 1 < runs.len();
            let Some(run_end) = first.checked_add(*run) else { return contradiction("entries", "next_seq") };
            if *first < end || empty || run_end > next_seq {
                return contradiction("entries", "next_seq");
            }
            (end, len) = (run_end, len + run);
        }
        if confirmed.checked_add(len) != Some(next_seq - 1) {
            return contradiction("confirmed", "next_seq");
        }
        if len > u64::from(config.outbox_max) {
            return contradiction("entries", "outbox_max");
        }
        if taken.keys().any(|id| !(1..next_batch).contains(id)) {
            return contradiction("taken", "next_batch");
        }
        let deadlines = || taken.values().map(|taken| taken.deadline);
        if !deadlines().is_sorted() || deadlines().any(|deadline| deadline > clock.now() + config.hold) {
            return contradiction("deadline", "clock");
        }
        let in_flight = taken.values().map(|taken| taken.entries.len()).sum();
        let taken_at = index(&taken);
        Ok(Self { config, clock, next_seq, next_batch, confirmed, fresh, returned, taken, in_flight, taken_at })
    }
}

/// Highest number a snapshot may have come to: as many again are left, more than 292 years at one a nanosecond.
const NUMBER_MAX: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Batch;
    use super::super::tests::{at, outbox};
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn a_damaged_snapshot_is_refused() {
        let mut outbox = outbox(9);
        for _ in 0..3 {
            let _ = outbox.take(2, at(50));
        }
        let batches: Vec<Batch> = outbox.batches().collect();
        outbox.give_back(batches[0]).unwrap();
        outbox.confirm(batches[1]).unwrap();
        let json = serde_json::to_string(&outbox).unwrap();
        assert_eq!(serde_json::from_str::<Outbox<u32>>(&json).unwrap(), outbox);
        for (from, to) in [
            (r#""outbox_max":9"#, r#""outbox_max":6"#),
            (r#""outbox_max":9"#, r#""outbox_max":0"#),
            (r#""hold":100"#, r#""hold":0"#),
            (r#""now":50"#, r#""now":49"#),
            (r#""next_seq":10"#, r#""next_seq":0"#),
            (r#""next_seq":10"#, r#""next_seq":11"#),
            (r#""next_seq":10"#, r#""next_seq":18446744073709551615"#),
            (r#""next_batch":4"#, r#""next_batch":3"#),
            (r#""confirmed":2"#, r#""confirmed":1"#),
            (r#""confirmed":2"#, r#""confirmed":18446744073709551615"#),
            (r#""fresh":[6,7,8]"#, r#""fresh":[6,7]"#),
            (r#""fresh":[6,7,8]"#, r#""fresh":[1,2,3,4,5,6,7,8,9,10,11]"#),
            (r#""returned":{"1":"#, r#""returned":{"0":"#),
            (r#""returned":{"1":"#, r#""returned":{"18446744073709551615":"#),
            (r#"{"1":[0,1]}"#, r#"{"1":[0,1],"3":[]}"#),
            (r#""first_seq":5"#, r#""first_seq":2"#),
            (r#""first_seq":5"#, r#""first_seq":6"#),
            (r#""deadline":150"#, r#""deadline":151"#),
        ] {
            let damaged = json.replacen(from, to, 1);
            assert_ne!(damaged, json, "{from} does not stand in {json}");
            assert!(serde_json::from_str::<Outbox<u32>>(&damaged).is_err(), "{to} is accepted");
        }
    }

    proptest! {
        #[test]
        fn a_snapshot_with_wrong_bytes_is_refused_or_sound(
            taken in 0..5_usize,
            wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut whole = outbox(8);
            for n in 0..taken {
                let batch = whole.take(2, at(9)).unwrap_or(Batch { id: 0, first_seq: 0, len: 0 });
                let _ = if n % 2 == 0 { whole.give_back(batch) } else { whole.confirm(batch) };
                let _ = whole.take(1, at(9));
            }
            let mut bytes = postcard::to_allocvec(&whole).unwrap();
            for (index, byte) in wrong {
                *index.get_mut(&mut bytes) = byte;
            }
            if let Ok(mut outbox) = postcard::from_bytes::<Outbox<u32>>(&bytes) {
                outbox.check_invariants();
                let _ = outbox.push(1);
                while let Some(batch) = outbox.take(9, Timestamp::MAX) {
                    prop_assert_eq!(outbox.confirm(batch), Ok(batch.len));
                }
                outbox.check_invariants();
            }
        }
    }
}
