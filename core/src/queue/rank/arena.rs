//! Where the nodes and the whereabouts of the items of a [`RankTree`](super::RankTree) are kept.
//!
//! Nodes lie in chunks, and a chunk keeps each part of its nodes (heads, items, key halves, counts) in an array of its own.
//! So an operation touches only the pages of the parts it needs: the rank of an item takes heads, items and counts, never a
//! key, and of those parts even a million places fill few pages. Chunks never move: growing neither pauses nor leaves slack
//! beyond one chunk.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::node::{FAN, Inner, InnerHead, Leaf, LeafHead, SLOTS, Up, join};

/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// All leaves.
#[derive(Default)]
pub(super) struct Leaves {
    chunks: Vec<Box<LeafChunk>>,
    ids: Ids,
}

/// All inner nodes.
#[derive(Default)]
pub(super) struct Inners {
    chunks: Vec<Box<InnerChunk>>,
    ids: Ids,
}

/// In which leaf each item has its place. Pages come with the first item in them.
#[derive(Default)]
pub(super) struct Whereabouts {
    pages: Vec<Option<Box<[u32; PAGE]>>>,
}

/// Node numbers in use, never used and given back.
struct Ids {
    /// The least number never used.
    fresh: u32,
    /// The last one given back; the head of each names the one before it.
    free: u32,
    used: u32,
}

#[repr(align(64))]
struct LeafChunk {
    heads: [LeafHead; LEAF_CHUNK],
    items: [[u32; SLOTS]; LEAF_CHUNK],
    high: [[u64; SLOTS]; LEAF_CHUNK],
    low: [[u64; SLOTS]; LEAF_CHUNK],
}

#[repr(align(64))]
struct InnerChunk {
    heads: [InnerHead; INNER_CHUNK],
    children: [[u32; FAN]; INNER_CHUNK],
    counts: [[u32; FAN]; INNER_CHUNK],
    high: [[u64; FAN]; INNER_CHUNK],
    low: [[u64; FAN]; INNER_CHUNK],
}

impl Leaves {
    /// A leaf without places.
    pub(super) fn take(&mut self, up: Up) -> u32 {
        let free = self.ids.free;
        let next = if free == NONE { NONE } else { self.head(free).up().node };
        let id = self.ids.take(next);
        if chunk(id, LEAF_CHUNK) == self.chunks.len() {
            self.chunks.push(Box::new(LeafChunk::new()));
        }
        self.get(id).clear(up);
        id
    }

    /// Takes a leaf back.
    pub(super) fn give(&mut self, id: u32) {
        let next = self.ids.free;
        self.get(id).head.hang(Up::root(next));
        self.ids.give(id);
    }

    /// Makes room for `more` leaves.
    pub(super) fn reserve(&mut self, more: usize) {
        while self.chunks.len().saturating_mul(LEAF_CHUNK) < (self.ids.used as usize).saturating_add(more) {
            self.chunks.push(Box::new(LeafChunk::new()));
        }
    }

    /// Checks the list of nodes given back; returns how many are in use.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check(&self) -> u32 {
        self.ids.check(|id| self.head(id).up().node)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * size_of::<LeafChunk>() + self.chunks.capacity() * size_of::<Box<LeafChunk>>()
    }

    #[inline]
    pub(super) fn head(&self, id: u32) -> &LeafHead {
        &self.chunks[chunk(id, LEAF_CHUNK)].heads[within(id, LEAF_CHUNK)]
    }

    #[inline]
    pub(super) fn hang(&mut self, id: u32, up: Up) {
        self.chunks[chunk(id, LEAF_CHUNK)].heads[within(id, LEAF_CHUNK)].hang(up);
    }

    #[inline]
    pub(super) fn items(&self, id: u32) -> &[u32; SLOTS] {
        &self.chunks[chunk(id, LEAF_CHUNK)].items[within(id, LEAF_CHUNK)]
    }

    #[inline]
    pub(super) fn key(&self, id: u32, slot: usize) -> u128 {
        let (chunk, at, slot) = (&self.chunks[chunk(id, LEAF_CHUNK)], within(id, LEAF_CHUNK), slot % SLOTS);
        join(chunk.high[at][slot], chunk.low[at][slot])
    }

    #[inline]
    pub(super) fn get(&mut self, id: u32) -> Leaf<'_> {
        let (chunk, at) = (&mut *self.chunks[chunk(id, LEAF_CHUNK)], within(id, LEAF_CHUNK));
        Leaf {
            head: &mut chunk.heads[at],
            items: &mut chunk.items[at],
            high: &mut chunk.high[at],
            low: &mut chunk.low[at],
        }
    }
}

impl Inners {
    /// An inner node without children.
    pub(super) fn take(&mut self, up: Up, level: u8) -> u32 {
        let free = self.ids.free;
        let next = if free == NONE { NONE } else { self.head(free).up().node };
        let id = self.ids.take(next);
        if chunk(id, INNER_CHUNK) == self.chunks.len() {
            self.chunks.push(Box::new(InnerChunk::new()));
        }
        self.get(id).clear(up, level);
        id
    }

    /// Takes an inner node back.
    pub(super) fn give(&mut self, id: u32) {
        let next = self.ids.free;
        self.get(id).head.hang(Up::root(next));
        self.ids.give(id);
    }

    /// Checks the list of nodes given back; returns how many are in use.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check(&self) -> u32 {
        self.ids.check(|id| self.head(id).up().node)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * size_of::<InnerChunk>() + self.chunks.capacity() * size_of::<Box<InnerChunk>>()
    }

    #[inline]
    pub(super) fn head(&self, id: u32) -> &InnerHead {
        &self.chunks[chunk(id, INNER_CHUNK)].heads[within(id, INNER_CHUNK)]
    }

    #[inline]
    pub(super) fn hang(&mut self, id: u32, up: Up) {
        self.chunks[chunk(id, INNER_CHUNK)].heads[within(id, INNER_CHUNK)].hang(up);
    }

    #[inline]
    pub(super) fn children(&self, id: u32) -> &[u32; FAN] {
        &self.chunks[chunk(id, INNER_CHUNK)].children[within(id, INNER_CHUNK)]
    }

    /// The least key of a child.
    pub(super) fn least(&self, id: u32, at: usize) -> u128 {
        let (chunk, node) = (&self.chunks[chunk(id, INNER_CHUNK)], within(id, INNER_CHUNK));
        join(chunk.high[node][at % FAN], chunk.low[node][at % FAN])
    }

    #[inline]
    pub(super) fn counts(&self, id: u32) -> &[u32; FAN] {
        &self.chunks[chunk(id, INNER_CHUNK)].counts[within(id, INNER_CHUNK)]
    }

    #[inline]
    pub(super) fn get(&mut self, id: u32) -> Inner<'_> {
        let (chunk, at) = (&mut *self.chunks[chunk(id, INNER_CHUNK)], within(id, INNER_CHUNK));
        Inner {
            head: &mut chunk.heads[at],
            children: &mut chunk.children[at],
            counts: &mut chunk.counts[at],
            high: &mut chunk.high[at],
            low: &mut chunk.low[at],
        }
    }
}

impl Whereabouts {
    /// The leaf of an item.
    #[inline]
    pub(super) fn get(&self, item: u32) -> Option<u32> {
        let page = self.pages.get(chunk(item, PAGE))?.as_ref()?;
        let leaf = page[within(item, PAGE)];
        if leaf == NONE { None } else { Some(leaf) }
    }

    /// Says in which leaf an item is.
    #[inline]
    pub(super) fn set(&mut self, item: u32, leaf: u32) {
        match self.pages.get_mut(chunk(item, PAGE)) {
            Some(Some(page)) => page[within(item, PAGE)] = leaf,
            _ => self.grow(item)[within(item, PAGE)] = leaf,
        }
    }

    /// The leaf of an item, which from now on is nowhere.
    #[inline]
    pub(super) fn take(&mut self, item: u32) -> Option<u32> {
        let page = self.pages.get_mut(chunk(item, PAGE))?.as_mut()?;
        let leaf = core::mem::replace(&mut page[within(item, PAGE)], NONE);
        if leaf == NONE { None } else { Some(leaf) }
    }

    /// Makes room for all items below `end`.
    pub(super) fn reserve(&mut self, end: u32) {
        for first in (0..end).step_by(PAGE) {
            self.grow(first);
        }
    }

    /// The page of an item.
    #[cold]
    fn grow(&mut self, item: u32) -> &mut [u32; PAGE] {
        let at = chunk(item, PAGE);
        if at >= self.pages.len() {
            self.pages.resize(at + 1, None);
        }
        self.pages[at].get_or_insert_with(|| Box::new([NONE; PAGE]))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.iter().flatten().count() * size_of::<[u32; PAGE]>()
            + self.pages.capacity() * size_of::<Option<Box<[u32; PAGE]>>>()
    }

    /// How many items are somewhere.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn count(&self) -> usize {
        self.pages.iter().flatten().map(|page| page.iter().filter(|leaf| **leaf != NONE).count()).sum()
    }
}

impl Ids {
    /// A number for a node: the last one given back, after which `next` will be the last, or else a fresh one.
    fn take(&mut self, next: u32) -> u32 {
        self.used += 1;
        if self.free != NONE {
            return core::mem::replace(&mut self.free, next);
        }
        let id = self.fresh;
        // Memory ends long before the numbers do: there are fewer nodes than places.
        self.fresh += 1;
        id
    }

    fn give(&mut self, id: u32) {
        self.free = id;
        self.used -= 1;
    }

    #[cfg(any(test, feature = "testing"))]
    fn check(&self, before: impl Fn(u32) -> u32) -> u32 {
        let (mut free, mut id) = (0, self.free);
        while id != NONE {
            assert!(id < self.fresh && free < self.fresh, "a free node that never was, or a circle of them");
            free += 1;
            id = before(id);
        }
        assert_eq!(self.used, self.fresh - free, "nodes leaked");
        self.used
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self { fresh: 0, free: NONE, used: 0 }
    }
}

impl LeafChunk {
    const fn new() -> Self {
        Self {
            heads: [LeafHead::EMPTY; LEAF_CHUNK],
            items: [[0; SLOTS]; LEAF_CHUNK],
            high: [[0; SLOTS]; LEAF_CHUNK],
            low: [[0; SLOTS]; LEAF_CHUNK],
        }
    }
}

impl InnerChunk {
    const fn new() -> Self {
        Self {
            heads: [InnerHead::EMPTY; INNER_CHUNK],
            children: [[0; FAN]; INNER_CHUNK],
            counts: [[0; FAN]; INNER_CHUNK],
            high: [[0; FAN]; INNER_CHUNK],
            low: [[0; FAN]; INNER_CHUNK],
        }
    }
}

const fn chunk(id: u32, size: usize) -> usize {
    id as usize / size
}

const fn within(id: u32, size: usize) -> usize {
    id as usize % size
}

/// Leaves per chunk: 42 kB.
const LEAF_CHUNK: usize = 64;
/// Inner nodes per chunk: 13 kB.
const INNER_CHUNK: usize = 8;
/// Items per page of whereabouts: 16 kB.
const PAGE: usize = 4_096;
