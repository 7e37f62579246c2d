//! Names on one side, small numbers on the other: each name is kept once and compared as an integer.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::sync::Arc;
use core::ops::{Index, IndexMut};

use hashbrown::HashTable;
use slab::Slab;

use crate::coded::{Full, Scope};
use crate::hashing::KeyHasher;

/// A bounded table of named records. A record is found by its name in O(1) and by its number without hashing.
///
/// Numbers are used again after a removal; nothing outside the process may see them.
#[derive(Clone, Debug)]
pub(crate) struct Registry<T> {
    records: Slab<Record<T>>,
    index: HashTable<u32>,
    hasher: KeyHasher,
    what: &'static str,
    scope: Scope,
    max: u32,
}

#[derive(Clone, Debug)]
struct Record<T> {
    name: Arc<str>,
    value: T,
}

impl<T> Registry<T> {
    /// An empty table of a gateway, of at most `max` records; `what` names it in errors, `seed` keys its hash.
    pub(crate) fn new(what: &'static str, max: u32, seed: u64) -> Self {
        Self { scope: Scope::Gateway, ..Self::of_part(what, max, seed) }
    }

    /// An empty table of a part that stands alone.
    pub(crate) fn of_part(what: &'static str, max: u32, seed: u64) -> Self {
        let scope = Scope::Part;
        Self { records: Slab::new(), index: HashTable::new(), hasher: KeyHasher::new(seed), what, scope, max }
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash(name.as_bytes());
        self.index.find(hash, |id| &*self.records[*id as usize].name == name).copied()
    }

    /// Adds a record under a name that is not there yet.
    pub(crate) fn insert(&mut self, name: &str, value: T) -> Result<u32, Full> {
        debug_assert!(self.find(name).is_none(), "a name stands in its registry once");
        if self.is_full() {
            return Err(self.full());
        }
        Ok(self.put(Arc::from(name), value))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= self.max as usize
    }

    pub(crate) fn full(&self) -> Full {
        Full::new(self.what, self.scope, self.len() as u64, u64::from(self.max))
    }

    fn put(&mut self, name: Arc<str>, value: T) -> u32 {
        let hash = self.hasher.hash(name.as_bytes());
        let id = self.records.insert(Record { name, value }) as u32;
        let Self { records, index, hasher, .. } = self;
        index.insert_unique(hash, id, |id| hasher.hash(records[*id as usize].name.as_bytes()));
        id
    }

    /// Takes a record out; its number may be used again.
    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        let record = self.records.try_remove(id as usize)?;
        let hash = self.hasher.hash(record.name.as_bytes());
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        Some(record.value)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.records.get(id as usize).map(|record| &record.value)
    }

    pub(crate) fn name(&self, id: u32) -> &Arc<str> {
        &self.records[id as usize].name
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// All records, in no order that may reach an output.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<str>, &T)> {
        self.records.iter().map(|(id, record)| (id as u32, &record.name, &record.value))
    }
}

impl<T> Index<u32> for Registry<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        &self.records[id as usize].value
    }
}

impl<T> IndexMut<u32> for Registry<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.records[id as usize].value
    }
}
