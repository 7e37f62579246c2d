//! Idempotency keys: which job a customer's key stands for, kept apart from the jobs' records and longer than them.

use alloc::collections::VecDeque;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use hashbrown::HashTable;

use crate::id::JobId;
use crate::time::{Span, Timestamp};

/// A customer's key and what was submitted under it, as a job carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Idempotency {
    pub(crate) address: Address,
    /// Hash of what was submitted under it.
    pub(crate) fingerprint: [u8; 16],
}

/// A customer and its key as one hash. A key outlives its job and its customer's number, and names of a million customers
/// would be the larger part of a table of a million keys. Two that met would take 2^64 submissions of somebody who knows
/// the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Address([u8; 16]);

/// How long keys are kept once their job has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyLimits {
    pub(crate) keep_for: Span,
    /// Keys of jobs that have ended.
    pub(crate) keys_max: u32,
    /// Whether a key is free again when its job ended in error.
    pub(crate) free_failed: bool,
    /// And when it was cancelled.
    pub(crate) free_cancelled: bool,
}

/// A key, and the job it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub(crate) address: Address,
    pub(crate) fingerprint: [u8; 16],
    pub(crate) job: JobId,
    live: bool,
}

#[derive(Debug)]
pub(crate) struct KeyTable {
    entries: HashTable<KeyEntry>,
    /// Keys of jobs that have ended, with the instant of that, the first first: all are kept equally long.
    ended: VecDeque<(Timestamp, Address)>,
    limits: KeyLimits,
    seed: u64,
}

impl Address {
    /// Where it stands in the table: it is a hash already, under a seed of ours.
    fn hash(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl KeyTable {
    pub(crate) fn new(limits: KeyLimits, seed: u64) -> Self {
        Self { entries: HashTable::new(), ended: VecDeque::new(), limits, seed }
    }

    /// The same on every platform: it is kept in snapshots.
    pub(crate) fn address(&self, customer: &str, key: &str) -> Address {
        let mut hash = Blake2b::<U16>::new();
        hash.update(self.seed.to_le_bytes());
        hash.update((customer.len() as u64).to_le_bytes());
        hash.update(customer.as_bytes());
        hash.update(key.as_bytes());
        Address(hash.finalize().into())
    }

    pub(crate) fn get(&self, address: Address) -> Option<&KeyEntry> {
        self.entries.find(address.hash(), |entry| entry.address == address)
    }

    pub(crate) fn find(&self, customer: &str, key: &str) -> Option<&KeyEntry> {
        self.get(self.address(customer, key))
    }

    /// Lets a key stand for a job that lives.
    pub(crate) fn add(&mut self, own: Idempotency, job: JobId) {
        self.insert(own, job, true);
    }

    /// Puts the key of an ended job back, as a snapshot tells it: after all that ended before.
    pub(crate) fn restore_ended(&mut self, ended: Timestamp, own: Idempotency, job: JobId) {
        self.insert(own, job, false);
        self.ended.push_back((ended, own.address));
    }

    fn insert(&mut self, own: Idempotency, job: JobId, live: bool) {
        let Idempotency { address, fingerprint } = own;
        debug_assert!(self.get(address).is_none(), "a key stands for one job");
        let entry = KeyEntry { address, fingerprint, job, live };
        self.entries.insert_unique(address.hash(), entry, |entry| entry.address.hash());
    }

    pub(crate) fn remove(&mut self, address: Address) {
        if let Ok(entry) = self.entries.find_entry(address.hash(), |entry| entry.address == address) {
            entry.remove();
        }
    }

    /// Notes that the job of a key has ended in a state.
    pub(crate) fn end(&mut self, address: Address, at: Timestamp, frees: bool) {
        if frees {
            return self.remove(address);
        }
        self.set_live(address, false);
        self.ended.push_back((at, address));
    }

    /// Undoes the latest [`KeyTable::end`].
    pub(crate) fn unend(&mut self, own: Idempotency, job: JobId, frees: bool) {
        if frees {
            return self.add(own, job);
        }
        let last = self.ended.pop_back();
        debug_assert_eq!(last.map(|(_, address)| address), Some(own.address), "the latest end is undone first");
        self.set_live(own.address, true);
    }

    fn set_live(&mut self, address: Address, live: bool) {
        if let Some(entry) = self.entries.find_mut(address.hash(), |entry| entry.address == address) {
            entry.live = live;
        }
    }

    /// Forgets keys whose time is over. Every command does this before it looks at one.
    #[inline]
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((at, address)) = self.ended.front().copied() {
            let until = at + self.limits.keep_for;
            // The last instant is never.
            if until > now || until == Timestamp::MAX {
                break;
            }
            self.ended.pop_front();
            self.remove(address);
        }
    }

    /// Forgets the keys that ended first while there are more than may be kept.
    #[inline]
    pub(crate) fn drop_surplus(&mut self) {
        while self.ended.len() > self.limits.keys_max as usize {
            if let Some((_, address)) = self.ended.pop_front() {
                self.remove(address);
            }
        }
    }

    /// When the first key of an ended job leaves.
    #[inline]
    pub(crate) fn first_to_leave(&self) -> Option<Timestamp> {
        self.ended.front().map(|(at, _)| *at + self.limits.keep_for)
    }

    /// Keys of ended jobs, the first to leave first.
    pub(crate) fn ended(&self) -> impl ExactSizeIterator<Item = (Timestamp, Option<&KeyEntry>)> + '_ {
        self.ended.iter().map(|(at, address)| (*at, self.get(*address)))
    }

    pub(crate) fn limits(&self) -> KeyLimits {
        self.limits
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.allocation_size() + self.ended.capacity() * size_of::<(Timestamp, Address)>()
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn check_invariants(&self, live: usize) {
        assert_eq!(self.entries.iter().filter(|entry| entry.live).count(), live, "a live key for each live job's");
        assert_eq!(self.entries.len(), live + self.ended.len(), "each key once");
        assert!(self.ended().all(|(_, entry)| entry.is_some_and(|entry| !entry.live)), "ended keys are known");
        assert!(self.ended.iter().map(|(at, _)| at).is_sorted(), "in the order of their end");
    }
}
