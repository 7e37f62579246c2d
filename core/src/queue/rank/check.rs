//! What must always hold in a [`RankTree`].

use super::arena::NONE;
use super::node::{FAN, SLOTS, Up, bit};
use super::{RankTree, TreeId};

/// What has been met on the way.
#[derive(Default)]
struct Met {
    leaves: u32,
    inners: u32,
    places: usize,
}

/// The keys a node may hold: from the first to the second, that one included, since equal keys may stand in two leaves.
#[derive(Clone, Copy)]
struct Bounds(u128, u128);

impl RankTree {
    /// Panics unless every tree is in order and counts what it holds, every item is found where it stands, and every node
    /// is in one tree or free.
    ///
    /// # Complexity
    /// O(places + greatest item).
    ///
    /// # Panics
    /// If something does not hold, which is a defect of this type.
    pub fn check_invariants(&self) {
        let mut met = Met::default();
        let mut unused = 0;
        for (index, root) in self.roots.iter().enumerate() {
            if !root.used {
                unused += 1;
            } else if root.node == NONE {
                assert_eq!((root.len, root.height), (0, 0), "an empty tree remembers places");
            } else {
                let (count, _) =
                    self.check_node(root.node, root.height, Up::root(index as u32), Bounds(0, u128::MAX), &mut met);
                assert_eq!(count, root.len, "length of a tree");
                assert_eq!(self.iter(TreeId(index as u32)).count(), count as usize, "iteration");
            }
        }
        let mut free = self.free;
        while let Some(root) = self.roots.get(free as usize) {
            assert!(!root.used && unused > 0, "a free tree that is used, or a circle of them");
            unused -= 1;
            free = root.node;
        }
        assert_eq!(unused, 0, "trees leaked");
        assert_eq!(self.leaves.check(), met.leaves, "leaves leaked");
        assert_eq!(self.inners.check(), met.inners, "inner nodes leaked");
        assert_eq!(self.whereabouts.count(), met.places, "items without a place");
    }

    fn check_node(&self, node: u32, level: u8, up: Up, bounds: Bounds, met: &mut Met) -> (u32, bool) {
        if level == 0 { self.check_leaf(node, up, bounds, met) } else { self.check_inner(node, level, up, bounds, met) }
    }

    fn check_leaf(&self, node: u32, up: Up, bounds: Bounds, met: &mut Met) -> (u32, bool) {
        let head = self.leaves.head(node);
        assert_eq!(head.up(), up, "parent of a leaf");
        assert!(head.live != 0, "an empty leaf");
        assert_eq!(u32::from(head.len), head.live.count_ones(), "length of a leaf");
        assert_eq!(head.ready & !head.live, 0, "a ready gap");
        for slot in 1..SLOTS {
            assert!(self.leaves.key(node, slot - 1) <= self.leaves.key(node, slot), "slots in order, gaps included");
        }
        for slot in (0..SLOTS).filter(|slot| bit(head.live, *slot)) {
            let key = self.leaves.key(node, slot);
            assert!(bounds.0 <= key && key <= bounds.1, "a key in the wrong leaf");
            let item = self.leaves.items(node)[slot];
            assert_eq!(self.whereabouts.get(item), Some(node), "whereabouts of an item");
            assert_eq!(self.key(item), Some(key), "key of an item");
        }
        met.leaves += 1;
        met.places += usize::from(head.len);
        (u32::from(head.len), head.ready != 0)
    }

    fn check_inner(&self, node: u32, level: u8, up: Up, bounds: Bounds, met: &mut Met) -> (u32, bool) {
        let head = *self.inners.head(node);
        let len = usize::from(head.len);
        assert_eq!((head.up(), head.level), (up, level), "parent and level of an inner node");
        assert!(len <= FAN && len >= if up.is_root() { 2 } else { 1 }, "number of children");
        assert_eq!(self.inners.least(node, 0), 0, "the first child takes whatever is less");
        let mut total = 0;
        for at in 0..FAN {
            let (count, ready) = (self.inners.counts(node)[at], head.ready >> at & 1 != 0);
            if at >= len {
                assert_eq!((count, ready, self.inners.least(node, at)), (0, false, u128::MAX), "beyond the last child");
                continue;
            }
            let least = self.inners.least(node, at).max(bounds.0);
            let end = if at + 1 < len { self.inners.least(node, at + 1) } else { bounds.1 };
            assert!(least <= end, "children in order");
            let child = self.inners.children(node)[at];
            let below = self.check_node(child, level - 1, Up::child(node, at), Bounds(least, end), met);
            assert_eq!((count, ready), below, "what an inner node knows of a child");
            total += count;
        }
        met.inners += 1;
        (total, head.ready != 0)
    }
}
