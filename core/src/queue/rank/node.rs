//! The nodes of a [`RankTree`](super::RankTree): how one is laid out, searched and changed, knowing nothing of its tree.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

/// Slots of a leaf; as many as its masks have bits.
pub(super) const SLOTS: usize = 32;
/// Children of an inner node at most; as many as its mask has bits. Twice as many as a leaf has slots, as that spares a
/// million places a level, and an inner node is seldom rebuilt.
pub(super) const FAN: usize = 64;

/// One place of a leaf, taken out of its arrays.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) key: u128,
    pub(super) item: u32,
    pub(super) ready: bool,
}

/// One child of an inner node, taken out of its arrays.
#[derive(Clone, Copy)]
pub(super) struct Child {
    /// The least key the child may hold.
    pub(super) key: u128,
    pub(super) node: u32,
    /// Places below.
    pub(super) count: u32,
    /// Whether one of them is ready.
    pub(super) ready: bool,
}

/// Where a node hangs: in child number `pos` of the inner node `node`, or, as a root, in the tree `node`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Up {
    pub(super) node: u32,
    pos: u8,
}

/// What a leaf knows of itself, apart from its slots.
#[derive(Clone, Copy)]
pub(super) struct LeafHead {
    /// Slots that hold a place. The others are gaps: their keys still stand in order, their items mean nothing.
    pub(super) live: u32,
    /// Slots whose place is ready; a part of `live`.
    pub(super) ready: u32,
    up_node: u32,
    up_pos: u8,
    /// Number of live slots.
    pub(super) len: u8,
}

/// What an inner node knows of itself, apart from its children.
#[derive(Clone, Copy)]
pub(super) struct InnerHead {
    /// Children with a ready place below.
    pub(super) ready: u64,
    up_node: u32,
    up_pos: u8,
    /// Number of children.
    pub(super) len: u8,
    /// Steps down to the leaves: 1 where the children are leaves.
    pub(super) level: u8,
}

/// The parts of one leaf.
///
/// Slots need not be filled without gaps: removal only clears a bit, and an insertion moves places as far as the nearest
/// gap. The keys of all 32 slots, gaps included, never descend, so a search need not know which slots are gaps.
pub(super) struct Leaf<'a> {
    pub(super) head: &'a mut LeafHead,
    pub(super) items: &'a mut [u32; SLOTS],
    pub(super) high: &'a mut [u64; SLOTS],
    pub(super) low: &'a mut [u64; SLOTS],
}

/// The parts of one inner node. Its children stand without gaps, since each knows its position.
pub(super) struct Inner<'a> {
    pub(super) head: &'a mut InnerHead,
    pub(super) children: &'a mut [u32; FAN],
    /// Places below each child; 0 beyond the last child.
    pub(super) counts: &'a mut [u32; FAN],
    /// The least key of each child: 0 for the first, which takes whatever is less than the second's, and `u128::MAX`
    /// beyond the last.
    pub(super) high: &'a mut [u64; FAN],
    pub(super) low: &'a mut [u64; FAN],
}

/// The parts of a full leaf, copied.
pub(super) struct FullLeaf {
    pub(super) items: [u32; SLOTS],
    ready: u32,
    high: [u64; SLOTS],
    low: [u64; SLOTS],
}

impl Place {
    pub(super) const EMPTY: Self = Self { key: 0, item: 0, ready: false };
}

impl Child {
    pub(super) const EMPTY: Self = Self { key: 0, node: 0, count: 0, ready: false };
}

impl Up {
    const ROOT: u8 = u8::MAX;

    pub(super) const fn root(tree: u32) -> Self {
        Self { node: tree, pos: Self::ROOT }
    }

    pub(super) const fn child(node: u32, pos: usize) -> Self {
        // Below FAN.
        Self { node, pos: pos as u8 }
    }

    pub(super) const fn is_root(self) -> bool {
        self.pos == Self::ROOT
    }

    /// The position among the children of `node`. Being below FAN already, it is masked only to spare bounds checks.
    pub(super) const fn at(self) -> usize {
        self.pos as usize % FAN
    }
}

impl LeafHead {
    pub(super) const EMPTY: Self = Self { live: 0, ready: 0, up_node: 0, up_pos: Up::ROOT, len: 0 };

    pub(super) const fn up(&self) -> Up {
        Up { node: self.up_node, pos: self.up_pos }
    }

    pub(super) const fn hang(&mut self, up: Up) {
        self.up_node = up.node;
        self.up_pos = up.pos;
    }

    /// Places before a slot.
    pub(super) const fn rank(&self, slot: usize) -> u32 {
        (self.live & below(slot)).count_ones()
    }
}

impl FullLeaf {
    pub(super) fn key(&self, slot: usize) -> u128 {
        join(self.high[slot % SLOTS], self.low[slot % SLOTS])
    }
}

impl InnerHead {
    pub(super) const EMPTY: Self = Self { ready: 0, up_node: 0, up_pos: Up::ROOT, len: 0, level: 0 };

    pub(super) const fn up(&self) -> Up {
        Up { node: self.up_node, pos: self.up_pos }
    }

    pub(super) const fn hang(&mut self, up: Up) {
        self.up_node = up.node;
        self.up_pos = up.pos;
    }
}

impl Leaf<'_> {
    /// Forgets every place and hangs the leaf below `up`.
    pub(super) fn clear(&mut self, up: Up) {
        *self.head = LeafHead::EMPTY;
        self.head.hang(up);
        *self.high = [u64::MAX; SLOTS];
        *self.low = [u64::MAX; SLOTS];
    }

    /// Puts a place behind all places whose key is not greater. The leaf must have a gap.
    #[inline(always)]
    pub(super) fn insert(&mut self, place: Place) {
        debug_assert!(self.head.live != u32::MAX, "a full leaf takes no place");
        self.touch();
        let position = upper_bound(self.high, self.low, place.key);
        // Places between the position and the nearest gap after and before it. In 64 bits, as the position may be 32.
        let gaps = u64::from(!self.head.live);
        let after = (gaps >> position).trailing_zeros() as usize;
        let before = (gaps << (63 - position) << 1).leading_zeros() as usize;
        let slot = if after <= before {
            let gap = position.wrapping_add(after) % SLOTS;
            self.shift_up(position, gap);
            position % SLOTS
        } else {
            let end = position.wrapping_sub(1) % SLOTS;
            self.shift_down(end.wrapping_sub(before) % SLOTS, end);
            end
        };
        (self.high[slot], self.low[slot]) = halves(place.key);
        self.items[slot] = place.item;
        self.head.ready |= u32::from(place.ready) << slot;
        self.head.len = self.head.len.wrapping_add(1);
    }

    /// Asks for the parts of the leaf that are needed once the position is known. In a tree larger than the caches they so
    /// arrive together with the keys that tell the position, rather than after them: a quarter of an insertion's time at a
    /// million places. Every eighth 64-bit number begins a cache line.
    #[inline(always)]
    fn touch(&self) {
        let low = self.low[0] ^ self.low[8] ^ self.low[16] ^ self.low[24];
        core::hint::black_box(low ^ self.high[24] ^ u64::from(self.items[0] ^ self.items[16]));
    }

    /// Moves the slots from `from` up to the gap `gap`, which is not before it, up by one: `from` is free, no gap.
    #[inline]
    fn shift_up(&mut self, from: usize, gap: usize) {
        // Mostly nothing or one place is moved: too little for three calls of memmove.
        let mut slot = gap;
        while slot > from {
            let before = slot.wrapping_sub(1) % SLOTS;
            self.copy(before, slot);
            slot = before;
        }
        let moved = self.head.ready & below(gap) & !below(from);
        // Adds the moved bits to themselves, which is a shift, while the others stay.
        self.head.ready = self.head.ready.wrapping_add(moved);
        self.head.live |= 1 << gap;
    }

    /// Moves the slots behind the gap `gap` up to `end`, which is not before it, down by one: `end` is free, no gap.
    #[inline]
    fn shift_down(&mut self, gap: usize, end: usize) {
        let mut slot = gap;
        while slot < end {
            let after = slot.wrapping_add(1) % SLOTS;
            self.copy(after, slot);
            slot = after;
        }
        let moved = self.head.ready & through(end) & !through(gap);
        self.head.ready = self.head.ready & !moved | moved >> 1;
        self.head.live |= 1 << gap;
    }

    #[inline]
    fn copy(&mut self, from: usize, to: usize) {
        self.high[to % SLOTS] = self.high[from % SLOTS];
        self.low[to % SLOTS] = self.low[from % SLOTS];
        self.items[to % SLOTS] = self.items[from % SLOTS];
    }

    /// Takes the place out of a live slot. Its key stays behind as that of a gap, still in order.
    #[inline]
    pub(super) fn remove(&mut self, slot: usize) -> Place {
        let place = self.place(slot);
        let bit = 1 << (slot % SLOTS);
        self.head.live &= !bit;
        self.head.ready &= !bit;
        self.head.len = self.head.len.wrapping_sub(1);
        place
    }

    /// Appends the places in order to `into` from `start` on; returns where they end.
    pub(super) fn gather(&self, into: &mut [Place; SLOTS], start: usize) -> usize {
        let mut end = start;
        for slot in ones(self.head.live) {
            into[end % SLOTS] = self.place(slot);
            end = end.wrapping_add(1);
        }
        end
    }

    /// Replaces all places by `places`, which are in order, with the gaps spread evenly between them.
    pub(super) fn spread(&mut self, places: &[Place]) {
        debug_assert!(places.len() <= SLOTS, "more places than slots");
        self.clear(self.head.up());
        // In fixed point; at least one slot, so no two places meet.
        let step = (SLOTS << 16).checked_div(places.len()).unwrap_or(0);
        let mut free = 0;
        for (number, place) in places.iter().enumerate() {
            let slot = (number.wrapping_mul(step) >> 16) % SLOTS;
            let (high, low) = halves(place.key);
            self.high[free..=slot].fill(high);
            self.low[free..=slot].fill(low);
            self.items[slot] = place.item;
            self.head.live |= 1 << slot;
            self.head.ready |= u32::from(place.ready) << slot;
            free = slot + 1;
        }
        // At most SLOTS.
        self.head.len = places.len() as u8;
    }

    /// A copy of a leaf that is full.
    pub(super) fn copy_full(&self) -> FullLeaf {
        debug_assert!(self.head.live == u32::MAX, "a gap in a full leaf");
        FullLeaf { items: *self.items, ready: self.head.ready, high: *self.high, low: *self.low }
    }

    /// Replaces all places by half of those of a full leaf, every other slot a gap: the first half, or the second.
    pub(super) fn take_half(&mut self, full: &FullLeaf, second: bool) {
        let from = if second { SLOTS / 2 } else { 0 };
        for n in 0..SLOTS / 2 {
            let slot = (from + n) % SLOTS;
            // A gap repeats the key of the place after it.
            self.high[2 * n] = full.high[slot];
            self.low[2 * n] = full.low[slot];
            self.high[2 * n + 1] = full.high[(slot + 1) % SLOTS];
            self.low[2 * n + 1] = full.low[(slot + 1) % SLOTS];
            self.items[2 * n] = full.items[slot];
        }
        (self.high[SLOTS - 1], self.low[SLOTS - 1]) = halves(u128::MAX);
        self.head.live = spread_bits(u16::MAX);
        self.head.ready = spread_bits((full.ready >> from) as u16);
        self.head.len = (SLOTS / 2) as u8;
    }

    /// The place in a live slot.
    #[inline]
    pub(super) fn place(&self, slot: usize) -> Place {
        let slot = slot % SLOTS;
        Place { key: join(self.high[slot], self.low[slot]), item: self.items[slot], ready: bit(self.head.ready, slot) }
    }
}

impl Inner<'_> {
    /// Forgets every child, hangs the node below `up` and sets its level.
    pub(super) fn clear(&mut self, up: Up, level: u8) {
        *self.head = InnerHead { level, ..InnerHead::EMPTY };
        self.head.hang(up);
        *self.counts = [0; FAN];
        *self.high = [u64::MAX; FAN];
        *self.low = [u64::MAX; FAN];
    }

    /// The position of the child that takes a key.
    #[inline]
    pub(super) fn position(&self, key: u128) -> usize {
        // The first child's least key is 0 and so never greater; only u128::MAX also passes the slots beyond the last.
        let last = usize::from(self.head.len).wrapping_sub(1);
        upper_bound(self.high, self.low, key).wrapping_sub(1).min(last) % FAN
    }

    /// Places below.
    pub(super) fn count(&self) -> u32 {
        sum_before(self.counts, FAN)
    }

    /// Puts a child at position `at`, which is not the first. The node must not be full.
    pub(super) fn insert(&mut self, at: usize, child: Child) {
        let len = usize::from(self.head.len);
        debug_assert!(0 < at && at <= len && len < FAN, "no room for a child");
        self.children.copy_within(at..len, at + 1);
        self.counts.copy_within(at..len, at + 1);
        self.high.copy_within(at..len, at + 1);
        self.low.copy_within(at..len, at + 1);
        let after = self.head.ready & !below_wide(at);
        self.head.ready = self.head.ready.wrapping_add(after);
        self.put(at, child);
        self.head.len = self.head.len.wrapping_add(1);
    }

    /// Takes the child at position `at` away; the one before it takes its keys from now on, or the next if it is the first.
    pub(super) fn remove(&mut self, at: usize) {
        let len = usize::from(self.head.len);
        debug_assert!(at < len, "no such child");
        let last = len - 1;
        self.children.copy_within(at + 1..len, at);
        self.counts.copy_within(at + 1..len, at);
        self.high.copy_within(at + 1..len, at);
        self.low.copy_within(at + 1..len, at);
        self.counts[last] = 0;
        (self.high[last], self.low[last]) = halves(u128::MAX);
        self.head.ready = self.head.ready & below_wide(at) | self.head.ready >> 1 & !below_wide(at);
        self.head.len = self.head.len.wrapping_sub(1);
        if at == 0 && last != 0 {
            (self.high[0], self.low[0]) = halves(0);
        }
    }

    /// Appends the children to `into` from `start` on, the first with the least key `key`; returns where they end.
    pub(super) fn gather(&self, into: &mut [Child; FAN], start: usize, key: u128) -> usize {
        let mut end = start;
        for at in 0..usize::from(self.head.len) {
            into[end % FAN] = Child {
                key: if at == 0 { key } else { join(self.high[at], self.low[at]) },
                node: self.children[at],
                count: self.counts[at],
                ready: self.head.ready >> at & 1 != 0,
            };
            end = end.wrapping_add(1);
        }
        end
    }

    /// Replaces all children.
    pub(super) fn set(&mut self, children: &[Child]) {
        debug_assert!(children.len() <= FAN, "more children than room");
        self.clear(self.head.up(), self.head.level);
        for (at, child) in children.iter().enumerate() {
            self.put(at, *child);
        }
        (self.high[0], self.low[0]) = halves(0);
        // At most FAN.
        self.head.len = children.len() as u8;
    }

    /// Corrects what the node knows of the child at `at`.
    pub(super) fn weigh(&mut self, at: usize, count: u32, ready: bool) {
        self.counts[at] = count;
        self.head.ready = self.head.ready & !(1 << at) | u64::from(ready) << at;
    }

    fn put(&mut self, at: usize, child: Child) {
        self.children[at] = child.node;
        (self.high[at], self.low[at]) = halves(child.key);
        self.weigh(at, child.count, child.ready);
    }
}

/// The slot whose item is `item` and that is set in `live`.
#[inline]
pub(super) fn find(items: &[u32; SLOTS], live: u32, item: u32) -> Option<usize> {
    // All slots are compared: vector instructions do it faster than a search that may stop at any of them.
    let mut found = 0_u32;
    for (slot, candidate) in items.iter().enumerate() {
        found |= u32::from(*candidate == item) << slot;
    }
    found &= live;
    if found == 0 { None } else { Some(found.trailing_zeros() as usize) }
}

/// The sum of the counts before position `at`.
#[inline]
pub(super) fn sum_before(counts: &[u32; FAN], at: usize) -> u32 {
    // Every count is added, the later ones masked away: a few vector instructions and no branch, where an `if` makes the
    // compiler jump. The sum cannot wrap, as the items of all places differ and are below u32::MAX.
    let mut sum = 0_u32;
    for (position, count) in counts.iter().enumerate() {
        // All ones where the difference is negative. Both numbers are at most FAN.
        let before = (position as i32).wrapping_sub(at as i32) >> 31;
        sum = sum.wrapping_add(count & before as u32);
    }
    sum
}

/// How many of the ascending keys, given as high and low halves, are not greater than `key`.
#[inline(always)]
fn upper_bound<const N: usize>(high: &[u64; N], low: &[u64; N], key: u128) -> usize {
    // High halves decide nearly always.
    let (key_high, _) = halves(key);
    let count = partition::<N>(|at| high[at] <= key_high);
    if count != 0 && high[count.wrapping_sub(1) % N] == key_high { upper_bound_whole(high, low, key) } else { count }
}

#[inline(never)]
fn upper_bound_whole<const N: usize>(high: &[u64; N], low: &[u64; N], key: u128) -> usize {
    partition::<N>(|at| join(high[at], low[at]) <= key)
}

/// How many of the positions below `N` pass, where all that pass stand before all that do not.
#[inline(always)]
fn partition<const N: usize>(pass: impl Fn(usize) -> bool) -> usize {
    // Quarters, then quarters of a quarter, then one by one: a few comparisons at a time that do not wait for each other,
    // and no branch. A binary search waits for each, and with more at a time the compiler counts in vectors, which takes
    // several times the instructions.
    let (large, small) = (N / 4, N / 16);
    let pass = |at: usize| usize::from(pass(at % N));
    let mut count = (pass(large - 1) + pass(2 * large - 1) + pass(3 * large - 1)) * large;
    count += (pass(count + small - 1) + pass(count + 2 * small - 1) + pass(count + 3 * small - 1)) * small;
    let from = count;
    for at in from..from + small {
        count += pass(at);
    }
    count
}

/// The positions of the bits set, ascending.
pub(super) fn ones(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lowest < u32::BITS).then_some(lowest as usize)
    })
}

/// Bit n of 16 as bit 2n of 32.
const fn spread_bits(bits: u16) -> u32 {
    let mut bits = bits as u32;
    bits = (bits | bits << 8) & 0x00ff_00ff;
    bits = (bits | bits << 4) & 0x0f0f_0f0f;
    bits = (bits | bits << 2) & 0x3333_3333;
    (bits | bits << 1) & 0x5555_5555
}

/// Whether bit number `at` is set.
pub(super) const fn bit(mask: u32, at: usize) -> bool {
    mask >> (at % 32) & 1 != 0
}

/// The bits before `at`, which is below 32.
const fn below(at: usize) -> u32 {
    (1_u32 << (at % 32)).wrapping_sub(1)
}

/// The bits before `at`, which is below 64.
const fn below_wide(at: usize) -> u64 {
    (1_u64 << (at % 64)).wrapping_sub(1)
}

/// The bits up to and with `at`, which is below 32.
const fn through(at: usize) -> u32 {
    (2_u32 << (at % 32)).wrapping_sub(1)
}

pub(super) const fn halves(key: u128) -> (u64, u64) {
    ((key >> 64) as u64, key as u64)
}

pub(super) const fn join(high: u64, low: u64) -> u128 {
    (high as u128) << 64 | low as u128
}
