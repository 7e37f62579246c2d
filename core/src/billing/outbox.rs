//! A box of numbered entries that leave only when the host confirms them.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::error::{Full, InputError, OutboxError, Scope};
use crate::id::is_unheard_of;
use crate::time::{Clock, Span, Timestamp};

#[cfg(test)]
mod model;
mod snapshot;

/// How large an [`Outbox`] may grow and how long a batch may stay out.
///
/// ```
/// use libgateway::{OutboxConfig, Span};
/// assert_eq!(OutboxConfig::default().hold, Span::from_secs(60));
/// assert_eq!(OutboxConfig::default().outbox_max(10).outbox_max, 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutboxConfig {
    /// Most entries, those in flight included. 1 and up; default 1 000 000.
    pub outbox_max: u32,
    /// How long a batch may stay unconfirmed before it is handed out again. Above zero; default 60 s.
    pub hold: Span,
}

/// Entries numbered from 1 on, kept until the host confirms that they have arrived.
///
/// The order of calls: [`Outbox::push`]; [`Outbox::take`] a batch, read it by [`Outbox::entries`], write it where it
/// belongs; [`Outbox::confirm`] it. Where writing fails, [`Outbox::give_back`]; where the host dies in between, the
/// batch's deadline does the same, when its hold has passed. A step back of the host's clock is no time, a step ahead is time
/// that passed (see [`Clock`]).
///
/// Nothing is lost: an entry leaves by a confirmation of the batch it is in, and by nothing else. Nothing counts twice,
/// if the receiver drops numbers it has: delivery is at least once, a number never names two entries, and an entry is
/// in one batch at a time, so that of two confirmations one is refused. A batch that comes back is handed out again
/// before anything newer and with the same boundaries (unless asked for in smaller pieces), so a receiver that
/// deduplicates by block sees the same block.
///
/// Entries live in the batch that holds them. Keeping them all in one queue and marking what is confirmed would be
/// less movement, but one batch that nobody ever confirms would then hold the room of everything after it.
///
/// ```
/// use libgateway::{Outbox, OutboxConfig, Timestamp};
/// let now = Timestamp::from_secs(100);
/// let mut outbox = Outbox::new(OutboxConfig::default())?;
/// outbox.push("a")?;
/// assert_eq!(outbox.push("b"), Ok(2));
///
/// let batch = outbox.take(10, now).ok_or("nothing to send")?;
/// assert_eq!(outbox.entries(batch)?.collect::<Vec<_>>(), [(1, &"a"), (2, &"b")]);
/// assert_eq!(outbox.next_deadline(), Some(Timestamp::from_secs(160)));
/// assert_eq!(outbox.confirm(batch), Ok(2));
/// assert_eq!(outbox.confirm(batch), Ok(0));
/// assert_eq!((outbox.len(), outbox.confirmed_total()), (0, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "snapshot::OutboxForm<T>", bound(deserialize = "T: Deserialize<'de>"))]
pub struct Outbox<T> {
    config: OutboxConfig,
    clock: Clock,
    next_seq: u64,
    next_batch: u64,
    /// How many entries have left.
    confirmed: u64,
    /// Never handed out; the last one has the number before `next_seq`.
    fresh: VecDeque<T>,
    /// Handed out and given back, by the number of the first entry.
    returned: BTreeMap<u64, Vec<T>>,
    /// In flight, by id. Deadlines ascend with the ids: all batches have the same hold and time never goes back.
    taken: BTreeMap<u64, Taken<T>>,
    /// How many entries `taken` holds.
    #[serde(skip)]
    in_flight: usize,
    /// The id of the batch in flight that starts at a number.
    #[serde(skip)]
    taken_at: BTreeMap<u64, u64>,
}

/// A run of entries that were handed out together. It says which; [`Outbox::entries`] has them.
///
/// ```
/// use libgateway::{Batch, Outbox, OutboxConfig, Timestamp};
/// let mut outbox = Outbox::new(OutboxConfig::default())?;
/// outbox.push('a')?;
/// assert_eq!(outbox.take(10, Timestamp::EPOCH), Some(Batch { id: 1, first_seq: 1, len: 1 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Its id, from 1 on. Each handing-out has a new one.
    pub id: u64,
    /// The number of its first entry.
    pub first_seq: u64,
    /// How many entries it has, without gaps.
    pub len: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken<T> {
    first_seq: u64,
    deadline: Timestamp,
    entries: Vec<T>,
}

impl<T> Outbox<T> {
    /// An empty box.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for a limit or a hold of zero.
    pub fn new(config: OutboxConfig) -> Result<Self, InputError> {
        config.validate()?;
        Ok(Self {
            config,
            clock: Clock::new(Timestamp::EPOCH),
            next_seq: 1,
            next_batch: 1,
            confirmed: 0,
            fresh: VecDeque::new(),
            returned: BTreeMap::new(),
            taken: BTreeMap::new(),
            in_flight: 0,
            taken_at: BTreeMap::new(),
        })
    }

    /// Puts an entry in and returns its number: one more than the last one's.
    ///
    /// # Errors
    /// [`Full`] at the limit; the entry is dropped then, so ask [`Outbox::has_room`] before making one that matters.
    ///
    /// # Complexity
    /// O(1) amortised.
    pub fn push(&mut self, entry: T) -> Result<u64, Full> {
        if !self.has_room(1) {
            return Err(Full::new("outbox", Scope::Part, self.len() as u64, self.config.outbox_max.into()));
        }
        let seq = self.next_seq;
        self.fresh.push_back(entry);
        self.next_seq += 1;
        Ok(seq)
    }

    /// Whether `count` more entries fit.
    pub fn has_room(&self, count: usize) -> bool {
        self.len().checked_add(count).is_some_and(|len| len <= self.config.outbox_max as usize)
    }

    /// Takes back the entries from number `seq` on, the newest ones, as if never pushed; returns how many. Their
    /// numbers are given again: nobody has seen them. It is what an undo log needs, and only that.
    ///
    /// # Errors
    /// [`OutboxError::HandedOut`] if one of them was ever handed out. Nothing changes then.
    ///
    /// # Complexity
    /// O(entries taken back).
    pub fn truncate_back(&mut self, seq: u64) -> Result<usize, OutboxError> {
        if seq >= self.next_seq {
            return Ok(0);
        }
        let Some(keep) = seq.checked_sub(self.fresh_first()) else {
            return Err(OutboxError::HandedOut { seq });
        };
        let gone = self.fresh.len() - keep as usize;
        self.fresh.truncate(keep as usize);
        self.next_seq = seq;
        Ok(gone)
    }

    /// Hands out a run of up to `max` entries that are in no batch, the oldest first, and keeps them. Batches past
    /// their deadline come back first. `None` if there is nothing to hand out.
    ///
    /// # Complexity
    /// O(entries handed out + batches past their deadline + log batches).
    #[must_use]
    pub fn take(&mut self, max: u32, now: Timestamp) -> Option<Batch> {
        self.handle_timeout(now);
        if max == 0 {
            return None;
        }
        let (first_seq, entries) = match self.returned.pop_first() {
            Some((first_seq, mut entries)) => {
                if entries.len() > max as usize {
                    let rest = entries.split_off(max as usize);
                    self.returned.insert(first_seq + u64::from(max), rest);
                }
                (first_seq, entries)
            }
            None if self.fresh.is_empty() => return None,
            None => {
                let first_seq = self.fresh_first();
                let len = self.fresh.len().min(max as usize);
                (first_seq, self.fresh.drain(..len).collect())
            }
        };
        let id = self.next_batch;
        self.next_batch += 1;
        let len = entries.len() as u32;
        self.in_flight += entries.len();
        self.taken.insert(id, Taken { first_seq, deadline: self.clock.now() + self.config.hold, entries });
        self.taken_at.insert(first_seq, id);
        Some(Batch { id, first_seq, len })
    }

    /// The entries of a batch in flight with their numbers, ascending. None for a batch confirmed before.
    ///
    /// # Errors
    /// As [`Outbox::confirm`].
    ///
    /// # Complexity
    /// O(log batches), then O(1) for each.
    pub fn entries(&self, batch: Batch) -> Result<impl ExactSizeIterator<Item = (u64, &T)>, OutboxError> {
        let entries = match self.standing(batch)? {
            Standing::InFlight => self.taken.get(&batch.id).map_or(&[][..], |taken| &taken.entries),
            Standing::Confirmed => &[],
        };
        Ok(entries.iter().enumerate().map(move |(n, entry)| (batch.first_seq + n as u64, entry)))
    }

    /// Removes the entries of a batch for good; returns how many. Batches may be confirmed in any order. A batch whose
    /// entries have all been confirmed before answers 0, so a confirmation may be repeated when its answer was lost.
    ///
    /// # Errors
    /// [`OutboxError::UnknownBatch`] for one that was never handed out like this.
    /// [`OutboxError::BatchSuperseded`] for one that was given back, by the host or by its deadline, as long as one of
    /// its entries is still here: another batch
    /// has them or will have them, and the receiver tells by their numbers that it knows them. Nothing changes then.
    ///
    /// # Complexity
    /// O(log batches), and the cost of dropping the entries.
    pub fn confirm(&mut self, batch: Batch) -> Result<u32, OutboxError> {
        match self.standing(batch)? {
            Standing::InFlight => {
                self.remove_taken(batch.id);
                self.confirmed += u64::from(batch.len);
                Ok(batch.len)
            }
            Standing::Confirmed => Ok(0),
        }
    }

    /// Makes the entries of a batch free to be handed out again, before all newer ones; returns how many. For a batch
    /// whose entries are confirmed already there is nothing to do: 0.
    ///
    /// # Errors
    /// As [`Outbox::confirm`].
    ///
    /// # Complexity
    /// O(log batches).
    pub fn give_back(&mut self, batch: Batch) -> Result<u32, OutboxError> {
        match self.standing(batch)? {
            Standing::InFlight => {
                self.free(batch.id);
                Ok(batch.len)
            }
            Standing::Confirmed => Ok(0),
        }
    }

    /// Gives back every batch whose deadline has come; returns how many. Safe early, safe twice. Until it is called (or
    /// [`Outbox::take`], which does it), a batch past its deadline can still be confirmed.
    ///
    /// # Complexity
    /// O(batches given back · log batches).
    pub fn handle_timeout(&mut self, now: Timestamp) -> usize {
        let awaited = self.first_deadline().unwrap_or(Timestamp::MAX);
        self.clock.observe_awaited(now, awaited);
        let mut freed = 0;
        while let Some(deadline) = self.first_deadline() {
            let Some((id, _)) = self.taken.first_key_value() else { break };
            if deadline > self.clock.now() {
                break;
            }
            self.free(*id);
            freed += 1;
        }
        freed
    }

    /// Gives back every batch, and numbers those to come from `first` on.
    pub(crate) fn begin_epoch(&mut self, first: u64) {
        let out: Vec<u64> = self.taken.keys().copied().collect();
        for id in out {
            self.free(id);
        }
        self.next_batch = first;
    }

    /// When the next batch is given back by itself.
    ///
    /// # Complexity
    /// O(log batches).
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.first_deadline().map(|at| self.clock.to_host(at))
    }

    fn first_deadline(&self) -> Option<Timestamp> {
        let (_, taken) = self.taken.first_key_value()?;
        // The last instant means "never".
        (taken.deadline < Timestamp::MAX).then_some(taken.deadline)
    }

    /// The batches in flight, oldest first: what a host that starts again has to ask its receiver about.
    pub fn batches(&self) -> impl Iterator<Item = Batch> {
        self.taken.iter().map(|(id, taken)| Batch {
            id: *id,
            first_seq: taken.first_seq,
            len: taken.entries.len() as u32,
        })
    }

    /// The same box with each entry told in another way: same numbers, same batches, same deadlines.
    pub(crate) fn map<U>(&self, mut tell: impl FnMut(&T) -> U) -> Outbox<U> {
        let mut all = |entries: &Vec<T>| entries.iter().map(&mut tell).collect::<Vec<U>>();
        let returned = self.returned.iter().map(|(first, entries)| (*first, all(entries))).collect();
        let taken = self.taken.iter().map(|(id, taken)| {
            let Taken { first_seq, deadline, entries } = taken;
            (*id, Taken { first_seq: *first_seq, deadline: *deadline, entries: all(entries) })
        });
        let taken = taken.collect();
        Outbox {
            config: self.config,
            clock: self.clock,
            next_seq: self.next_seq,
            next_batch: self.next_batch,
            confirmed: self.confirmed,
            returned,
            taken,
            fresh: self.fresh.iter().map(tell).collect(),
            in_flight: self.in_flight,
            taken_at: self.taken_at.clone(),
        }
    }

    /// Every entry, in no order that may reach an output.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let taken = self.taken.values().flat_map(|taken| &taken.entries);
        self.returned.values().flatten().chain(taken).chain(&self.fresh)
    }

    /// The configuration it was made with.
    pub const fn config(&self) -> OutboxConfig {
        self.config
    }

    /// How many entries it holds: pending and in flight.
    pub fn len(&self) -> usize {
        // Never more than the 32-bit limit.
        (self.pushed_total() - self.confirmed) as usize
    }

    /// Whether it holds no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries are in no batch now.
    pub fn pending(&self) -> usize {
        self.len() - self.in_flight
    }

    /// How many entries are in batches that are neither confirmed nor given back.
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many entries were ever pushed, which is the number of the newest one.
    pub const fn pushed_total(&self) -> u64 {
        self.next_seq - 1
    }

    /// How many entries were ever confirmed.
    pub const fn confirmed_total(&self) -> u64 {
        self.confirmed
    }

    /// Recomputes what is kept ready, and panics where it disagrees.
    ///
    /// # Complexity
    /// O(batches · log batches).
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        let mut ranges: Vec<(u64, usize)> =
            self.returned.iter().map(|(first, entries)| (*first, entries.len())).collect();
        ranges.extend(self.taken.values().map(|taken| (taken.first_seq, taken.entries.len())));
        ranges.sort_unstable();
        let mut end = 1;
        for (first, len) in &ranges {
            assert!(*first >= end, "runs overlap at {first}");
            assert!(*len > 0, "the run at {first} is empty");
            end = first + *len as u64;
        }
        assert!(end <= self.fresh_first(), "a run reaches into what was never handed out");
        let out: usize = ranges.iter().map(|(_, len)| len).sum();
        assert_eq!(self.len(), out + self.fresh.len(), "entries are confirmed or here");
        assert!(self.len() <= self.config.outbox_max as usize, "the box is over its limit");
        let in_flight: usize = self.taken.values().map(|taken| taken.entries.len()).sum();
        assert_eq!(self.in_flight, in_flight, "the count of entries in flight is off");
        assert_eq!(self.taken_at, index(&self.taken), "the index of batches is off");
        assert!(self.taken.keys().all(|id| (1..self.next_batch).contains(id)), "a batch has an id of the future");
        assert!(self.taken.values().is_sorted_by_key(|taken| taken.deadline), "deadlines do not ascend with the ids");
    }

    /// The number of the oldest entry that was never handed out, or of the next one to come.
    fn fresh_first(&self) -> u64 {
        self.next_seq - self.fresh.len() as u64
    }

    /// Tells what became of a batch from what is still here, so that no list of old batches has to be kept: if nothing
    /// of its run is, it has been confirmed.
    fn standing(&self, batch: Batch) -> Result<Standing, OutboxError> {
        let unknown = OutboxError::UnknownBatch { batch: batch.id };
        if let Some(taken) = self.taken.get(&batch.id) {
            let same = taken.first_seq == batch.first_seq && taken.entries.len() == batch.len as usize;
            return if same { Ok(Standing::InFlight) } else { Err(unknown) };
        }
        let Some(end) = batch.first_seq.checked_add(u64::from(batch.len)) else { return Err(unknown) };
        let handed_out = batch.first_seq > 0 && batch.len > 0 && end <= self.fresh_first();
        if is_unheard_of(batch.id, self.next_batch) || !handed_out {
            return Err(unknown);
        }
        let returned = self.returned.range(..end).next_back().map(|(first, entries)| first + entries.len() as u64);
        let taken = self.taken_at.range(..end).next_back().and_then(|(_, id)| self.taken.get(id)).map(Taken::end);
        if returned.max(taken).is_some_and(|last_end| last_end > batch.first_seq) {
            return Err(OutboxError::BatchSuperseded { batch: batch.id });
        }
        Ok(Standing::Confirmed)
    }

    fn remove_taken(&mut self, id: u64) -> Option<Taken<T>> {
        let taken = self.taken.remove(&id)?;
        self.taken_at.remove(&taken.first_seq);
        self.in_flight -= taken.entries.len();
        Some(taken)
    }

    fn free(&mut self, id: u64) {
        if let Some(taken) = self.remove_taken(id) {
            self.returned.insert(taken.first_seq, taken.entries);
        }
    }
}

impl<T> Taken<T> {
    /// The number after its last entry.
    fn end(&self) -> u64 {
        self.first_seq + self.entries.len() as u64
    }
}

impl OutboxConfig {
    /// Sets [`OutboxConfig::outbox_max`].
    #[must_use]
    pub const fn outbox_max(mut self, outbox_max: u32) -> Self {
        self.outbox_max = outbox_max;
        self
    }

    /// Sets [`OutboxConfig::hold`].
    #[must_use]
    pub const fn hold(mut self, hold: Span) -> Self {
        self.hold = hold;
        self
    }

    fn validate(self) -> Result<(), InputError> {
        if self.outbox_max == 0 {
            return Err(InputError::OutOfRange { field: "outbox_max", value: 0, min: 1, max: u64::from(u32::MAX) });
        }
        if self.hold.is_zero() {
            return Err(InputError::OutOfRange { field: "hold", value: 0, min: 1, max: u64::MAX });
        }
        Ok(())
    }
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self { outbox_max: 1_000_000, hold: Span::from_secs(60) }
    }
}

/// What a batch that was handed out is now, unless it was given back.
enum Standing {
    InFlight,
    Confirmed,
}

fn index<T>(taken: &BTreeMap<u64, Taken<T>>) -> BTreeMap<u64, u64> {
    taken.iter().map(|(id, taken)| (taken.first_seq, *id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const HOLD: Span = Span::from_nanos(100);

    pub(super) fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    pub(super) fn outbox(count: u32) -> Outbox<u32> {
        let mut outbox = Outbox::new(OutboxConfig::default().outbox_max(count.max(1)).hold(HOLD)).unwrap();
        for n in 0..count {
            assert_eq!(outbox.push(n), Ok(u64::from(n) + 1));
        }
        outbox
    }

    fn range(batch: Option<Batch>) -> Option<(u64, u32)> {
        batch.map(|batch| (batch.first_seq, batch.len))
    }

    #[test]
    fn a_batch_comes_back_at_its_deadline_and_not_a_nanosecond_before() {
        let mut outbox = outbox(3);
        let batch = outbox.take(2, at(1_000)).unwrap();
        assert_eq!(outbox.next_deadline(), Some(at(1_100)));
        assert_eq!(outbox.handle_timeout(at(1_099)), 0);
        assert_eq!(outbox.in_flight(), 2);
        assert_eq!(outbox.handle_timeout(at(1_100)), 1);
        assert_eq!((outbox.in_flight(), outbox.pending()), (0, 3));
        assert_eq!(outbox.handle_timeout(at(1_100)), 0);
        assert_eq!(outbox.next_deadline(), None);
        assert_eq!(outbox.confirm(batch), Err(OutboxError::BatchSuperseded { batch: 1 }));
        assert_eq!(outbox.confirmed_total(), 0);
    }

    #[test]
    fn a_failed_flush_loses_nothing_and_repeats_the_same_block_first() {
        // The flush emptied the queue before it wrote, and forgot what could not be written.
        let mut outbox = outbox(10);
        let first = outbox.take(4, at(0)).unwrap();
        let second = outbox.take(4, at(0)).unwrap();
        assert_eq!(outbox.give_back(first), Ok(4));
        assert_eq!(outbox.confirm(second), Ok(4));
        assert_eq!(range(outbox.take(100, at(0))), Some((1, 4)));
        assert_eq!(range(outbox.take(100, at(0))), Some((9, 2)));
        assert_eq!(outbox.take(100, at(0)), None);
    }

    #[test]
    fn a_late_confirmation_is_refused_until_all_its_entries_have_arrived() {
        let mut outbox = outbox(4);
        let late = outbox.take(4, at(0)).unwrap();
        outbox.handle_timeout(at(100));
        let superseded = Err(OutboxError::BatchSuperseded { batch: late.id });
        assert_eq!(outbox.confirm(late), superseded);
        let head = outbox.take(1, at(100)).unwrap();
        assert_eq!(outbox.confirm(head), Ok(1));
        assert_eq!(outbox.confirm(late), superseded);
        assert_eq!(outbox.give_back(late), superseded);
        assert!(outbox.entries(late).is_err());
        let tail = outbox.take(10, at(100)).unwrap();
        assert_eq!((tail.first_seq, tail.len), (2, 3));
        assert_eq!(outbox.confirm(late), superseded);
        assert_eq!(outbox.confirm(tail), Ok(3));
        for batch in [late, head, tail] {
            assert_eq!(outbox.confirm(batch), Ok(0));
            assert_eq!(outbox.give_back(batch), Ok(0));
            assert_eq!(outbox.entries(batch).unwrap().len(), 0);
        }
        assert_eq!(outbox.confirmed_total(), 4);
    }

    #[test]
    fn a_batch_that_was_never_handed_out_changes_nothing() {
        let mut outbox = outbox(5);
        let real = outbox.take(3, at(0)).unwrap();
        for forged in [
            Batch { id: 0, first_seq: 1, len: 3 },
            Batch { id: 2, first_seq: 1, len: 3 },
            Batch { first_seq: 2, ..real },
            Batch { len: 2, ..real },
            Batch { len: 4, ..real },
            Batch { id: u64::MAX, first_seq: u64::MAX, len: u32::MAX },
        ] {
            let before = outbox.clone();
            assert_eq!(outbox.confirm(forged), Err(OutboxError::UnknownBatch { batch: forged.id }));
            assert!(outbox.give_back(forged).is_err());
            assert!(outbox.entries(forged).is_err());
            assert_eq!(outbox, before);
        }
        outbox.confirm(real).unwrap();
        for forged in [Batch { len: 0, ..real }, Batch { first_seq: 0, ..real }, Batch { len: 4, ..real }] {
            assert_eq!(outbox.confirm(forged), Err(OutboxError::UnknownBatch { batch: 1 }));
        }
    }

    #[test]
    fn a_full_box_refuses_and_in_flight_entries_take_room() {
        let mut outbox = outbox(2);
        let batch = outbox.take(2, at(0)).unwrap();
        assert!(outbox.has_room(0) && !outbox.has_room(1) && !outbox.has_room(usize::MAX));
        assert_eq!(outbox.push(9), Err(Full::new("outbox", Scope::Part, 2, 2)));
        assert_eq!(outbox.pushed_total(), 2);
        outbox.confirm(batch).unwrap();
        assert!(outbox.has_room(2) && !outbox.has_room(3));
        assert_eq!(outbox.push(9), Ok(3));
    }

    #[test]
    fn only_what_nobody_has_seen_can_be_taken_back() {
        let mut outbox = outbox(5);
        let batch = outbox.take(2, at(0)).unwrap();
        let handed_out = |seq| Err(OutboxError::HandedOut { seq });
        assert_eq!(outbox.truncate_back(6), Ok(0));
        assert_eq!(outbox.truncate_back(2), handed_out(2));
        assert_eq!(outbox.truncate_back(0), handed_out(0));
        assert_eq!(outbox.truncate_back(4), Ok(2));
        assert_eq!(outbox.push(7), Ok(4));
        outbox.give_back(batch).unwrap();
        assert_eq!(outbox.truncate_back(2), handed_out(2));
        assert_eq!(outbox.truncate_back(3), Ok(2));
        assert_eq!((outbox.len(), outbox.pushed_total()), (2, 2));
        outbox.check_invariants();
    }

    #[test]
    fn a_batch_comes_back_when_its_hold_has_lasted_after_any_step_of_the_clock() {
        // 8 h ahead when the batch was taken, then right: nobody could send its entries for 8 h.
        for stepped in [0, 5, 999_999_999, 1_000_000_000 - 28_800] {
            let mut outbox = Outbox::new(OutboxConfig::default()).unwrap();
            outbox.push(1).unwrap();
            let _ = outbox.take(1, Timestamp::from_secs(1_000_000_000)).unwrap();
            let now = Timestamp::from_secs(stepped);
            assert_eq!(outbox.handle_timeout(now), 0);
            let due = now + Span::from_secs(60);
            assert_eq!(outbox.next_deadline(), Some(due));
            assert_eq!(outbox.handle_timeout(Timestamp::from_nanos(due.as_nanos() - 1)), 0);
            assert_eq!(outbox.handle_timeout(due), 1);
        }
        let mut outbox = outbox(2);
        let _ = outbox.take(1, Timestamp::MAX);
        assert_eq!(outbox.handle_timeout(at(1_000)), 0);
        assert_eq!(outbox.handle_timeout(at(1_100)), 1);
    }

    #[test]
    fn holds_without_end_do_no_harm() {
        let mut endless = Outbox::new(OutboxConfig::default().hold(Span::MAX)).unwrap();
        endless.push(1).unwrap();
        let batch = endless.take(1, at(7)).unwrap();
        assert_eq!(endless.next_deadline(), None);
        assert_eq!(endless.handle_timeout(Timestamp::MAX), 0);
        assert_eq!(endless.confirm(batch), Ok(1));
        assert_eq!(endless.take(0, at(7)), None);
    }

    #[test]
    fn impossible_configurations_are_refused() {
        assert!(Outbox::<u8>::new(OutboxConfig::default().outbox_max(0)).is_err());
        assert!(Outbox::<u8>::new(OutboxConfig::default().hold(Span::ZERO)).is_err());
    }
}
