//! Ordered sets of places that know how many stand before whom.

#![expect(
    clippy::indexing_slicing,
    reason = "numbers here are given out by the tables themselves, and check_invariants proves that they stay whole"
)]

mod arena;
#[cfg(any(test, feature = "testing"))]
mod check;
mod node;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use arena::{Inners, Leaves, NONE, Whereabouts};
use node::{Child, FAN, Place, SLOTS, Up};

/// Many ordered sets of places in one shared memory: each answers who is first, who is the first that may go, and how many
/// stand before a given one.
///
/// An *item* is a number that the caller chooses, below `u32::MAX`; it has at most one place, in one of the trees. Items
/// should be dense (numbers of a slab, used again): the table that finds an item's place has a page for every 4,096
/// consecutive numbers of which one was ever used, and 8 bytes for each page below the greatest. A place has a 128-bit
/// *key*, which orders it in its tree, and a bit *ready*. Keys should differ; places with equal keys stand in the order in
/// which they came.
///
/// A misuse that would make no sense (a tree that is not there, the item `u32::MAX`) changes nothing; debug builds panic.
///
/// Each set is a counted B+ tree. Leaves know their parents, so everything about an item that has a place goes upwards from
/// its leaf and compares no keys.
///
/// # Complexity
/// With n places in the tree, O(log n) for each operation unless it says otherwise. About 20 bytes per slot and
/// 4 per item are held, 40 to 50 per place in steady use; memory is used again, but not given back to the allocator.
///
/// ```
/// use libgateway::RankTree;
/// let mut ranks = RankTree::new();
/// let line = ranks.new_tree();
/// ranks.insert(line, 30, 7, true);
/// ranks.insert(line, 10, 8, false);
/// ranks.insert(line, 20, 9, true);
/// assert_eq!(ranks.rank(7), Some(2));
/// assert_eq!(ranks.first(line), Some((10, 8)));
/// assert_eq!(ranks.first_ready(line), Some((20, 9)));
/// assert_eq!(ranks.remove(9), Some((20, true)));
/// assert_eq!(ranks.rank(7), Some(1));
/// ```
pub struct RankTree {
    roots: Vec<Root>,
    /// The last tree freed, whose `node` names the one freed before it.
    free: u32,
    leaves: Leaves,
    inners: Inners,
    whereabouts: Whereabouts,
}

/// One of the sets of a [`RankTree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(u32);

/// The places of a tree in order: key, item, ready. Made by [`RankTree::iter`].
pub struct RankIter<'a> {
    ranks: &'a RankTree,
    leaf: u32,
    /// Slots of the leaf still to come.
    slots: u32,
    len: u32,
}

/// A tree.
struct Root {
    /// The node on top; `NONE` while the tree is empty.
    node: u32,
    len: u32,
    /// Steps down to the leaves.
    height: u8,
    used: bool,
}

impl RankTree {
    /// No trees; holds no memory.
    pub fn new() -> Self {
        Self {
            roots: Vec::new(),
            free: NONE,
            leaves: Leaves::default(),
            inners: Inners::default(),
            whereabouts: Whereabouts::default(),
        }
    }

    /// A new, empty tree. It costs 12 bytes until its first place comes.
    ///
    /// # Complexity
    /// O(1).
    pub fn new_tree(&mut self) -> TreeId {
        let fresh = Root { node: NONE, len: 0, height: 0, used: true };
        let id = self.free;
        if let Some(root) = self.roots.get_mut(id as usize) {
            self.free = root.node;
            *root = fresh;
            return TreeId(id);
        }
        self.roots.push(fresh);
        // Memory ends long before 2^32 trees are reached.
        TreeId((self.roots.len() - 1) as u32)
    }

    /// Gives an empty tree back: its id may come again from [`RankTree::new_tree`]. A tree with places stays; the answer
    /// tells.
    ///
    /// # Complexity
    /// O(1).
    pub fn free_tree(&mut self, tree: TreeId) -> bool {
        let free = self.free;
        let Some(root) = self.root_mut(tree) else { return false };
        if root.len != 0 {
            return false;
        }
        *root = Root { node: free, len: 0, height: 0, used: false };
        self.free = tree.0;
        true
    }

    /// Gives an item a place, behind those whose key is not greater. An item that has a place already leaves it.
    pub fn insert(&mut self, tree: TreeId, key: u128, item: u32, ready: bool) {
        debug_assert!(item != u32::MAX, "item out of range");
        if item == u32::MAX {
            return;
        }
        if self.whereabouts.get(item).is_some() {
            return self.insert_again(tree, key, item, ready);
        }
        let Some(root) = self.root_mut(tree) else { return };
        // Items are below u32::MAX and have one place each.
        root.len = root.len.wrapping_add(1);
        let (mut node, height) = (root.node, root.height);
        if node == NONE {
            node = self.first_leaf(tree);
        }
        for _ in 0..height {
            let inner = self.inners.get(node);
            let at = inner.position(key);
            inner.counts[at] = inner.counts[at].wrapping_add(1);
            inner.head.ready |= u64::from(ready) << at;
            node = inner.children[at];
        }
        let place = Place { key, item, ready };
        let mut leaf = self.leaves.get(node);
        if leaf.head.live == u32::MAX {
            self.insert_split(node, place);
        } else {
            leaf.insert(place);
            self.whereabouts.set(item, node);
        }
    }

    /// Takes an item out of its tree: its key and whether it was ready.
    pub fn remove(&mut self, item: u32) -> Option<(u128, bool)> {
        let node = self.whereabouts.take(item)?;
        let slot = node::find(self.leaves.items(node), self.leaves.head(node).live, item)?;
        let mut leaf = self.leaves.get(node);
        let place = leaf.remove(slot);
        let len = usize::from(leaf.head.len);
        let mut up = leaf.head.up();
        // Whether the node just left has no ready place any more.
        let mut unready = leaf.head.ready == 0;
        while !up.is_root() {
            let inner = self.inners.get(up.node);
            inner.counts[up.at()] = inner.counts[up.at()].wrapping_sub(1);
            inner.head.ready &= !(u64::from(unready) << up.at());
            unready = inner.head.ready == 0;
            up = inner.head.up();
        }
        if let Some(root) = self.roots.get_mut(up.node as usize) {
            root.len = root.len.wrapping_sub(1);
        }
        if len <= SLOTS / 4 {
            self.tidy_leaf(node);
        }
        Some((place.key, place.ready))
    }

    /// Takes the first place that is ready out of a tree: key and item. The same as [`RankTree::first_ready`] and
    /// [`RankTree::remove`], but faster, as it need not look for the item nor go back up.
    pub fn pop_ready(&mut self, tree: TreeId) -> Option<(u128, u32)> {
        let root = self.root(tree).filter(|root| root.node != NONE)?;
        let (mut node, height) = (root.node, root.height);
        // The place is counted out on the way down to it, so it must be known that there is one.
        let any = if height == 0 { self.leaves.head(node).ready != 0 } else { self.inners.head(node).ready != 0 };
        if !any {
            return None;
        }
        for _ in 0..height {
            let inner = self.inners.get(node);
            let at = inner.head.ready.trailing_zeros() as usize % FAN;
            inner.counts[at] = inner.counts[at].wrapping_sub(1);
            node = inner.children[at];
        }
        let mut leaf = self.leaves.get(node);
        let place = leaf.remove(leaf.head.ready.trailing_zeros() as usize);
        let (len, unready) = (usize::from(leaf.head.len), leaf.head.ready == 0);
        if let Some(root) = self.root_mut(tree) {
            root.len = root.len.wrapping_sub(1);
        }
        if unready {
            self.mark(node, false);
        }
        if len <= SLOTS / 4 {
            self.tidy_leaf(node);
        }
        self.whereabouts.take(place.item);
        Some((place.key, place.item))
    }

    /// How many places of its tree stand before the item.
    pub fn rank(&self, item: u32) -> Option<u32> {
        let (node, slot) = self.find(item)?;
        let head = self.leaves.head(node);
        let mut rank = head.rank(slot);
        let mut up = head.up();
        while !up.is_root() {
            rank = rank.wrapping_add(node::sum_before(self.inners.counts(up.node), up.at()));
            up = self.inners.head(up.node).up();
        }
        Some(rank)
    }

    /// The key of the item's place.
    ///
    /// # Complexity
    /// O(1).
    pub fn key(&self, item: u32) -> Option<u128> {
        let (node, slot) = self.find(item)?;
        Some(self.leaves.key(node, slot))
    }

    /// Whether the item's place is ready.
    ///
    /// # Complexity
    /// O(1).
    pub fn is_ready(&self, item: u32) -> Option<bool> {
        let (node, slot) = self.find(item)?;
        Some(node::bit(self.leaves.head(node).ready, slot))
    }

    /// Says whether the item may go. Nothing happens where the item has no place.
    ///
    /// # Complexity
    /// O(log n); mostly O(1), as the nodes above are told only as far up as something changes for them.
    pub fn set_ready(&mut self, item: u32, ready: bool) {
        let Some((node, slot)) = self.find(item) else { return };
        let head = self.leaves.get(node).head;
        let before = head.ready != 0;
        head.ready = head.ready & !(1 << slot) | u32::from(ready) << slot;
        if before != (head.ready != 0) {
            self.mark(node, ready);
        }
    }

    /// The first place of a tree: key and item.
    pub fn first(&self, tree: TreeId) -> Option<(u128, u32)> {
        let root = self.root(tree)?;
        let mut node = root.node;
        if node == NONE {
            return None;
        }
        for _ in 0..root.height {
            node = self.inners.children(node)[0];
        }
        Some(self.at(node, self.leaves.head(node).live.trailing_zeros() as usize))
    }

    /// The first place of a tree that is ready: key and item.
    pub fn first_ready(&self, tree: TreeId) -> Option<(u128, u32)> {
        let (node, slot) = self.find_ready(tree)?;
        Some(self.at(node, slot))
    }

    /// How many places a tree has.
    ///
    /// # Complexity
    /// O(1).
    pub fn len(&self, tree: TreeId) -> u32 {
        self.root(tree).map_or(0, |root| root.len)
    }

    /// Whether a tree has no places.
    ///
    /// # Complexity
    /// O(1).
    pub fn is_empty(&self, tree: TreeId) -> bool {
        self.len(tree) == 0
    }

    /// The places of a tree in order: key, item, ready.
    ///
    /// # Complexity
    /// O(1) for each place, on average over all.
    pub fn iter(&self, tree: TreeId) -> RankIter<'_> {
        let mut iter = RankIter { ranks: self, leaf: NONE, slots: 0, len: self.len(tree) };
        if let Some(root) = self.root(tree).filter(|root| root.node != NONE) {
            iter.descend(root.node, root.height);
        }
        iter
    }

    /// Makes room for `places` more places and for all items below `items_end`, so that until then little or nothing is
    /// asked of the allocator.
    ///
    /// # Complexity
    /// O(places + items_end).
    pub fn reserve(&mut self, places: u32, items_end: u32) {
        // Leaves are at least half full on average while places only come.
        self.leaves.reserve(places as usize / (SLOTS / 2));
        self.whereabouts.reserve(items_end);
    }

    /// Bytes held, used or not.
    ///
    /// # Complexity
    /// O(greatest item / 4,096).
    pub fn memory_bytes(&self) -> usize {
        self.roots.capacity() * size_of::<Root>()
            + self.leaves.memory_bytes()
            + self.inners.memory_bytes()
            + self.whereabouts.memory_bytes()
    }

    fn root(&self, tree: TreeId) -> Option<&Root> {
        let root = self.roots.get(tree.0 as usize).filter(|root| root.used);
        debug_assert!(root.is_some(), "no such tree");
        root
    }

    fn root_mut(&mut self, tree: TreeId) -> Option<&mut Root> {
        let root = self.roots.get_mut(tree.0 as usize).filter(|root| root.used);
        debug_assert!(root.is_some(), "no such tree");
        root
    }

    #[cold]
    fn insert_again(&mut self, tree: TreeId, key: u128, item: u32, ready: bool) {
        if self.root(tree).is_some() {
            self.remove(item);
            self.insert(tree, key, item, ready);
        }
    }

    #[cold]
    fn first_leaf(&mut self, tree: TreeId) -> u32 {
        let node = self.leaves.take(Up::root(tree.0));
        if let Some(root) = self.root_mut(tree) {
            root.node = node;
        }
        node
    }

    /// Leaf and slot of an item.
    #[inline]
    fn find(&self, item: u32) -> Option<(u32, usize)> {
        let node = self.whereabouts.get(item)?;
        let slot = node::find(self.leaves.items(node), self.leaves.head(node).live, item)?;
        Some((node, slot))
    }

    /// Leaf and slot of the first place that is ready.
    #[inline]
    fn find_ready(&self, tree: TreeId) -> Option<(u32, usize)> {
        let root = self.root(tree)?;
        let mut node = root.node;
        if node == NONE {
            return None;
        }
        for _ in 0..root.height {
            let ready = self.inners.head(node).ready;
            if ready == 0 {
                return None;
            }
            node = self.inners.children(node)[ready.trailing_zeros() as usize];
        }
        let ready = self.leaves.head(node).ready;
        if ready == 0 { None } else { Some((node, ready.trailing_zeros() as usize)) }
    }

    /// Tells the nodes above a leaf whether it has a ready place, as far up as it makes a difference.
    fn mark(&mut self, leaf: u32, ready: bool) {
        let mut up = self.leaves.head(leaf).up();
        while !up.is_root() {
            let head = self.inners.get(up.node).head;
            let before = head.ready != 0;
            head.ready = head.ready & !(1 << up.at()) | u64::from(ready) << up.at();
            if before == (head.ready != 0) {
                return;
            }
            up = head.up();
        }
    }

    fn at(&self, leaf: u32, slot: usize) -> (u128, u32) {
        (self.leaves.key(leaf, slot), self.leaves.items(leaf)[slot % SLOTS])
    }

    /// Splits a full leaf and puts the place into one of the halves. The nodes above have counted the place already.
    #[inline(never)]
    fn insert_split(&mut self, left: u32, place: Place) {
        let right = self.leaves.take(Up::root(NONE));
        let full = self.leaves.get(left).copy_full();
        let (target, least) = if full.key(SLOTS - 1) <= place.key {
            // Queues mostly append: a leaf that is split at its end stays full, and the new one begins with the new place.
            (right, place.key)
        } else {
            self.leaves.get(left).take_half(&full, false);
            self.leaves.get(right).take_half(&full, true);
            for item in &full.items[SLOTS / 2..] {
                self.whereabouts.set(*item, right);
            }
            let least = full.key(SLOTS / 2);
            (if place.key < least { left } else { right }, least)
        };
        self.leaves.get(target).insert(place);
        self.whereabouts.set(place.item, target);
        self.link(left, right, 0, least);
    }

    /// Hangs a node in right after `left`, its neighbour on the same level, from which it has taken the keys from `least`.
    fn link(&mut self, left: u32, right: u32, level: u8, least: u128) {
        let (left_count, left_ready) = self.weight(left, level);
        let (count, ready) = self.weight(right, level);
        let child = Child { key: least, node: right, count, ready };
        let mut up = self.up(left, level);
        if up.is_root() {
            let node = self.inners.take(up, level + 1);
            self.inners.get(node).set(&[Child { key: 0, node: left, count: left_count, ready: left_ready }]);
            if let Some(root) = self.roots.get_mut(up.node as usize) {
                root.node = node;
                root.height = level + 1;
            }
            up = Up::child(node, 0);
            self.set_up(left, level, up);
        } else if usize::from(self.inners.head(up.node).len) == FAN {
            self.split_inner(up.node, up.at() == FAN - 1);
            up = self.up(left, level);
        }
        let mut inner = self.inners.get(up.node);
        inner.weigh(up.at(), left_count, left_ready);
        inner.insert(up.at() + 1, child);
        self.hang_children(up.node, up.at() + 1);
    }

    /// Splits a full inner node in the middle, or, where its end grows, before its last child.
    fn split_inner(&mut self, left: u32, at_end: bool) {
        let mut children = [Child::EMPTY; FAN];
        let mut inner = self.inners.get(left);
        let level = inner.head.level;
        inner.gather(&mut children, 0, 0);
        let keep = if at_end { FAN - 1 } else { FAN / 2 };
        inner.set(&children[..keep]);
        let right = self.inners.take(Up::root(NONE), level);
        self.inners.get(right).set(&children[keep..]);
        self.hang_children(right, 0);
        self.link(left, right, level, children[keep].key);
    }

    /// After a leaf has lost a place: frees it if it is empty, or moves its few places together with a neighbour's.
    #[inline(never)]
    fn tidy_leaf(&mut self, node: u32) {
        let head = *self.leaves.head(node);
        if head.len == 0 {
            self.leaves.give(node);
            self.unlink(head.up());
            return;
        }
        // The first leaf of a parent waits for its neighbour to join it: the head of a queue would otherwise be moved
        // again and again just before it leaves.
        if head.up().is_root() || head.up().at() == 0 {
            return;
        }
        let (parent, at) = (head.up().node, head.up().at());
        let counts = self.inners.counts(parent);
        let fits = |at: usize| counts[at % FAN].wrapping_add(u32::from(head.len)) <= (SLOTS / 4 * 3) as u32;
        if fits(at - 1) {
            self.merge_leaves(parent, at - 1);
        } else if at + 1 < usize::from(self.inners.head(parent).len) && fits(at + 1) {
            self.merge_leaves(parent, at);
        }
    }

    /// Moves the places of the leaves at `at` and `at + 1` of a parent into the one that has more of them.
    fn merge_leaves(&mut self, parent: u32, at: usize) {
        let children = self.inners.children(parent);
        let (left, right) = (children[at % FAN], children[(at + 1) % FAN]);
        let mut places = [Place::EMPTY; SLOTS];
        let middle = self.leaves.get(left).gather(&mut places, 0);
        let end = self.leaves.get(right).gather(&mut places, middle);
        let (keep, drop, moved) =
            if middle < end - middle { (right, left, 0..middle) } else { (left, right, middle..end) };
        let mut leaf = self.leaves.get(keep);
        leaf.spread(&places[..end]);
        let ready = leaf.head.ready != 0;
        leaf.head.hang(Up::child(parent, at));
        for place in &places[moved] {
            self.whereabouts.set(place.item, keep);
        }
        self.leaves.give(drop);
        let mut inner = self.inners.get(parent);
        inner.children[at % FAN] = keep;
        // At most SLOTS.
        inner.weigh(at, end as u32, ready);
        self.unlink(Up::child(parent, at + 1));
    }

    /// After a node is gone: takes it out of its parent, or leaves the tree empty.
    fn unlink(&mut self, up: Up) {
        if up.is_root() {
            if let Some(root) = self.roots.get_mut(up.node as usize) {
                root.node = NONE;
                root.height = 0;
            }
            return;
        }
        self.inners.get(up.node).remove(up.at());
        self.hang_children(up.node, up.at());
        self.tidy_inner(up.node);
    }

    /// After an inner node has lost a child: frees it if none is left, lets an only child take the root's place, or
    /// merges it with a neighbour.
    fn tidy_inner(&mut self, node: u32) {
        let head = *self.inners.head(node);
        if head.len == 0 {
            self.inners.give(node);
            self.unlink(head.up());
        } else if head.up().is_root() {
            if head.len == 1 {
                let (child, level) = (self.inners.children(node)[0], head.level - 1);
                self.inners.give(node);
                self.set_up(child, level, head.up());
                if let Some(root) = self.roots.get_mut(head.up().node as usize) {
                    root.node = child;
                    root.height = level;
                }
                if level != 0 {
                    self.tidy_inner(child);
                }
            }
        } else if usize::from(head.len) <= FAN / 4 && head.up().at() != 0 {
            let (parent, at) = (head.up().node, head.up().at());
            let siblings = self.inners.children(parent);
            let fits = |at: usize| self.inners.head(siblings[at % FAN]).len + head.len <= (FAN / 4 * 3) as u8;
            if fits(at - 1) {
                self.merge_inners(parent, at - 1);
            } else if at + 1 < usize::from(self.inners.head(parent).len) && fits(at + 1) {
                self.merge_inners(parent, at);
            }
        }
    }

    /// Moves the children of the inner node at `at + 1` of a parent to the end of the one at `at`.
    fn merge_inners(&mut self, parent: u32, at: usize) {
        let children = self.inners.children(parent);
        let (left, right) = (children[at % FAN], children[(at + 1) % FAN]);
        let least = self.inners.least(parent, at + 1);
        let mut children = [Child::EMPTY; FAN];
        let middle = self.inners.get(left).gather(&mut children, 0, 0);
        let end = self.inners.get(right).gather(&mut children, middle, least);
        let mut inner = self.inners.get(left);
        inner.set(&children[..end]);
        let (count, ready) = (inner.count(), inner.head.ready != 0);
        self.hang_children(left, middle);
        self.inners.give(right);
        self.inners.get(parent).weigh(at, count, ready);
        self.unlink(Up::child(parent, at + 1));
    }

    /// Places below a node and whether one of them is ready.
    fn weight(&mut self, node: u32, level: u8) -> (u32, bool) {
        if level == 0 {
            let head = self.leaves.head(node);
            (u32::from(head.len), head.ready != 0)
        } else {
            let inner = self.inners.get(node);
            (inner.count(), inner.head.ready != 0)
        }
    }

    fn up(&self, node: u32, level: u8) -> Up {
        if level == 0 { self.leaves.head(node).up() } else { self.inners.head(node).up() }
    }

    fn set_up(&mut self, node: u32, level: u8, up: Up) {
        if level == 0 {
            self.leaves.hang(node, up);
        } else {
            self.inners.hang(node, up);
        }
    }

    /// Tells the children of an inner node from position `from` on where they hang.
    fn hang_children(&mut self, node: u32, from: usize) {
        let (level, len) = (self.inners.head(node).level, usize::from(self.inners.head(node).len));
        let children = *self.inners.children(node);
        let moved = children.iter().enumerate().take(len).skip(from);
        if level == 1 {
            moved.for_each(|(at, child)| self.leaves.hang(*child, Up::child(node, at)));
        } else {
            moved.for_each(|(at, child)| self.inners.hang(*child, Up::child(node, at)));
        }
    }
}

impl Default for RankTree {
    fn default() -> Self {
        Self::new()
    }
}

impl RankIter<'_> {
    /// Goes to the first leaf below a node.
    fn descend(&mut self, mut node: u32, height: u8) {
        for _ in 0..height {
            node = self.ranks.inners.children(node)[0];
        }
        self.leaf = node;
        self.slots = self.ranks.leaves.head(node).live;
    }

    /// Goes to the next leaf; `None` after the last.
    fn next_leaf(&mut self) -> Option<()> {
        let mut up = self.ranks.leaves.head(self.leaf).up();
        while !up.is_root() {
            let head = self.ranks.inners.head(up.node);
            let next = up.at() + 1;
            if next < usize::from(head.len) {
                self.descend(self.ranks.inners.children(up.node)[next % FAN], head.level - 1);
                return Some(());
            }
            up = head.up();
        }
        None
    }
}

impl Iterator for RankIter<'_> {
    type Item = (u128, u32, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.len == 0 {
            return None;
        }
        if self.slots == 0 {
            self.next_leaf()?;
        }
        let slot = self.slots.trailing_zeros() as usize;
        self.slots &= self.slots.wrapping_sub(1);
        self.len -= 1;
        let (key, item) = self.ranks.at(self.leaf, slot);
        Some((key, item, node::bit(self.ranks.leaves.head(self.leaf).ready, slot)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len as usize, Some(self.len as usize))
    }
}

impl ExactSizeIterator for RankIter<'_> {}
