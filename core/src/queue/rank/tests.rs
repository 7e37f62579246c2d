//! The tree against a sorted map, and where its seams are.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{RankTree, TreeId};

/// The same by brute force: key and order of arrival lead to item and ready bit.
#[derive(Default)]
struct Model {
    trees: Vec<Option<Places>>,
    items: BTreeMap<u32, (usize, (u128, u64))>,
    arrivals: u64,
}

type Places = BTreeMap<(u128, u64), (u32, bool)>;

impl Model {
    fn insert(&mut self, tree: usize, key: u128, item: u32, ready: bool) {
        self.remove(item);
        self.arrivals += 1;
        let place = (key, self.arrivals);
        self.items.insert(item, (tree, place));
        self.places_mut(tree).insert(place, (item, ready));
    }

    fn remove(&mut self, item: u32) -> Option<(u128, bool)> {
        let (tree, place) = self.items.remove(&item)?;
        self.places_mut(tree).remove(&place).map(|(_, ready)| (place.0, ready))
    }

    fn set_ready(&mut self, item: u32, ready: bool) {
        if let Some((tree, place)) = self.items.get(&item).copied() {
            self.places_mut(tree).insert(place, (item, ready));
        }
    }

    fn rank(&self, item: u32) -> Option<u32> {
        let (tree, place) = self.items.get(&item)?;
        Some(self.places(*tree).range(..place).count() as u32)
    }

    fn first(&self, tree: usize, ready_only: bool) -> Option<(u128, u32)> {
        let found = self.places(tree).iter().find(|(_, (_, ready))| *ready || !ready_only);
        found.map(|((key, _), (item, _))| (*key, *item))
    }

    fn places(&self, tree: usize) -> &Places {
        self.trees[tree].as_ref().unwrap()
    }

    fn places_mut(&mut self, tree: usize) -> &mut Places {
        self.trees[tree].as_mut().unwrap()
    }
}

/// A tree and its model side by side.
#[derive(Default)]
struct Pair {
    ranks: RankTree,
    model: Model,
    ids: Vec<TreeId>,
}

impl Pair {
    fn with_trees(trees: usize) -> Self {
        let mut pair = Self::default();
        for _ in 0..trees {
            pair.new_tree();
        }
        pair
    }

    fn new_tree(&mut self) {
        let id = self.ranks.new_tree();
        match self.ids.iter().position(|other| *other == id) {
            Some(tree) => {
                assert!(self.model.trees[tree].is_none(), "a new tree is not one that is used");
                self.model.trees[tree] = Some(Places::new());
            }
            None => {
                self.ids.push(id);
                self.model.trees.push(Some(Places::new()));
            }
        }
    }

    fn free_tree(&mut self, tree: usize) {
        let empty = self.model.places(tree).is_empty();
        assert_eq!(self.ranks.free_tree(self.ids[tree]), empty);
        if empty {
            self.model.trees[tree] = None;
            self.new_tree();
        }
    }

    fn insert(&mut self, tree: usize, key: u128, item: u32, ready: bool) {
        self.ranks.insert(self.ids[tree], key, item, ready);
        self.model.insert(tree, key, item, ready);
    }

    fn remove(&mut self, item: u32) {
        assert_eq!(self.ranks.remove(item), self.model.remove(item));
    }

    fn pop_ready(&mut self, tree: usize) {
        let first = self.model.first(tree, true);
        assert_eq!(self.ranks.pop_ready(self.ids[tree]), first);
        if let Some((_, item)) = first {
            self.model.remove(item);
        }
    }

    fn set_ready(&mut self, item: u32, ready: bool) {
        self.ranks.set_ready(item, ready);
        self.model.set_ready(item, ready);
    }

    fn compare(&self, tree: usize, item: u32) {
        let id = self.ids[tree];
        assert_eq!(self.ranks.len(id) as usize, self.model.places(tree).len());
        assert_eq!(self.ranks.is_empty(id), self.model.places(tree).is_empty());
        assert_eq!(self.ranks.first(id), self.model.first(tree, false));
        assert_eq!(self.ranks.first_ready(id), self.model.first(tree, true));
        assert_eq!(self.ranks.rank(item), self.model.rank(item));
        let place = self.model.items.get(&item);
        assert_eq!(self.ranks.key(item), place.map(|(_, place)| place.0));
        assert_eq!(self.ranks.is_ready(item), place.map(|(tree, place)| self.model.places(*tree)[place].1));
    }

    fn compare_all(&self) {
        for (id, places) in self.ids.iter().zip(&self.model.trees) {
            let expected = places.iter().flatten().map(|((key, _), (item, ready))| (*key, *item, *ready));
            assert!(self.ranks.iter(*id).eq(expected), "iteration");
            assert_eq!(self.ranks.iter(*id).len(), self.ranks.len(*id) as usize);
        }
        self.ranks.check_invariants();
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert { tree: usize, key: u64, item: u32, ready: bool },
    Append { tree: usize, items: core::ops::Range<u32> },
    Remove { item: u32 },
    RemoveMany { items: core::ops::Range<u32> },
    PopReady { tree: usize, times: usize },
    SetReady { item: u32, ready: bool },
    FreeTree { tree: usize },
}

const TREES: usize = 3;
const ITEMS: u32 = 400;

/// Operations weighted anew in each run, with some left out, and keys from ranges so narrow that most are equal or so wide
/// that none is.
fn runs() -> impl Strategy<Value = (Vec<Op>, u32)> {
    let weights = prop::array::uniform7(prop_oneof![Just(0_u32), 1..10_u32]);
    (weights, 0..128_u32).prop_flat_map(|(weights, key_bits)| {
        let ops = prop_oneof![
            weights[0] + 1 => (0..TREES, any::<u64>(), 0..ITEMS, any::<bool>())
                .prop_map(|(tree, key, item, ready)| Op::Insert { tree, key, item, ready }),
            weights[1] => (0..TREES, 0..ITEMS, 0..80_u32)
                .prop_map(|(tree, from, len)| Op::Append { tree, items: from..(from + len).min(ITEMS) }),
            weights[2] => (0..ITEMS).prop_map(|item| Op::Remove { item }),
            weights[3] => (0..ITEMS, 0..80_u32)
                .prop_map(|(from, len)| Op::RemoveMany { items: from..(from + len).min(ITEMS) }),
            weights[4] => (0..TREES, 1..40_usize).prop_map(|(tree, times)| Op::PopReady { tree, times }),
            weights[5] => (0..ITEMS, any::<bool>()).prop_map(|(item, ready)| Op::SetReady { item, ready }),
            weights[6] => (0..TREES).prop_map(|tree| Op::FreeTree { tree }),
        ];
        (prop::collection::vec(ops, 0..150), Just(key_bits))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_that_of_a_sorted_map((ops, key_bits) in runs()) {
        let mut pair = Pair::with_trees(TREES);
        let mut last = 0_u128;
        for (number, op) in ops.into_iter().enumerate() {
            match op {
                Op::Insert { tree, key, item, ready } => {
                    let key = u128::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> key_bits;
                    last = last.max(key);
                    pair.insert(tree, key, item, ready);
                    pair.compare(tree, item);
                }
                Op::Append { tree, items } => {
                    for item in items {
                        last = last.saturating_add(1);
                        pair.insert(tree, last, item, item % 3 == 0);
                    }
                }
                Op::Remove { item } => pair.remove(item),
                Op::RemoveMany { items } => items.for_each(|item| pair.remove(item)),
                Op::PopReady { tree, times } => (0..times).for_each(|_| pair.pop_ready(tree)),
                Op::SetReady { item, ready } => pair.set_ready(item, ready),
                Op::FreeTree { tree } => pair.free_tree(tree),
            }
            let number = number as u32;
            pair.compare(number as usize % TREES, number.wrapping_mul(2_654_435_761) % ITEMS);
            if number % 8 == 0 {
                pair.compare_all();
            }
            pair.ranks.check_invariants();
        }
        pair.compare_all();
    }
}

/// Enough randomness for a test: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn nodes(ranks: &RankTree) -> (u32, u32) {
    (ranks.leaves.check(), ranks.inners.check())
}

#[test]
fn two_trees_of_thousands_grow_shrink_and_grow_again_as_a_sorted_map_would() {
    let mut random = Random(7);
    let mut pair = Pair::with_trees(2);
    // Keys of phase 0 are random, of phase 1 nearly ascending, of phase 2 ascending, of phase 3 few, with many equal.
    for phase in 0..4_u128 {
        for item in 0..6_000_u32 {
            let key = match phase {
                0 => u128::from(random.below(u64::MAX)) << 40,
                1 => u128::from(item) * 16 + u128::from(random.below(8_000)),
                2 => u128::from(item),
                _ => u128::from(random.below(5)),
            };
            pair.insert(usize::from(item % 4 == 0), key, item, random.below(3) == 0);
        }
        pair.compare_all();
        let end = if phase % 2 == 0 { 100 } else { 0 };
        for step in 0_u32.. {
            if pair.model.items.len() <= end {
                break;
            }
            let item = random.below(6_000) as u32;
            match step % 8 {
                0 => pair.pop_ready(0),
                1 => pair.set_ready(item, step % 3 == 0),
                2 if phase == 1 => pair.model.first(0, false).iter().for_each(|(_, item)| pair.remove(*item)),
                _ => pair.remove(item),
            }
            if step % 500 == 0 {
                pair.compare(0, item);
                pair.compare_all();
            }
        }
        pair.compare_all();
        if end == 0 {
            assert_eq!(nodes(&pair.ranks), (0, 0), "empty trees hold no node");
        }
    }
}

#[test]
fn three_levels_above_the_leaves_count_and_come_down_again() {
    const PLACES: u32 = 200_000;
    let mut random = Random(3);
    let mut ranks = RankTree::new();
    let tree = ranks.new_tree();
    let mut keys = vec![];
    for item in 0..PLACES {
        let key = u128::from(random.below(u64::MAX)) << 64 | u128::from(item);
        keys.push((key, item));
        ranks.insert(tree, key, item, item == PLACES / 2);
    }
    assert_eq!(ranks.roots[0].height, 3);
    ranks.check_invariants();
    keys.sort_unstable();
    for (rank, (key, item)) in keys.iter().enumerate() {
        assert_eq!((ranks.rank(*item), ranks.key(*item)), (Some(rank as u32), Some(*key)));
    }
    assert_eq!(ranks.first_ready(tree).map(|(_, item)| item), Some(PLACES / 2));
    ranks.set_ready(PLACES / 2, false);
    assert_eq!(ranks.pop_ready(tree), None);
    for item in (0..PLACES).filter(|item| item % 400 != 0) {
        assert!(ranks.remove(item).is_some());
    }
    ranks.check_invariants();
    assert_eq!(ranks.len(tree), 500);
    assert_eq!(ranks.roots[0].height, 1);
    let (leaves, inners) = nodes(&ranks);
    assert!(leaves <= 500 / 8 && inners == 1, "{leaves} leaves and {inners} inner nodes for 500 places");
}

#[test]
fn a_queue_that_is_only_appended_to_fills_its_leaves() {
    let mut ranks = RankTree::new();
    let tree = ranks.new_tree();
    (0..32_000).for_each(|item| ranks.insert(tree, u128::from(item), item, true));
    let (leaves, inners) = nodes(&ranks);
    assert_eq!(leaves, 1_000);
    assert!(inners <= 18, "{inners}");
    // And as it is emptied from the front its nodes are used again at the end.
    for item in 0..100_000_u32 {
        assert_eq!(ranks.pop_ready(tree), Some((u128::from(item), item % 32_000)));
        ranks.insert(tree, u128::from(item) + 32_000, item % 32_000, true);
    }
    let (leaves, inners) = nodes(&ranks);
    assert!(leaves <= 1_001 && inners <= 20, "{leaves} {inners}");
    ranks.check_invariants();
}

#[test]
fn a_tree_comes_down_by_all_levels_that_have_an_only_child_at_once() {
    let mut ranks = RankTree::new();
    let tree = ranks.new_tree();
    // Two inner nodes, the first too full to take in the second when that is left with one leaf.
    (0..3_200).for_each(|item| ranks.insert(tree, u128::from(item), item, true));
    assert_eq!((ranks.roots[0].height, nodes(&ranks)), (2, (100, 3)));
    (2_100..3_200).for_each(|item| _ = ranks.remove(item));
    (2_016..2_090).for_each(|item| _ = ranks.remove(item));
    assert_eq!((ranks.roots[0].height, nodes(&ranks)), (2, (64, 3)));
    (0..2_016).for_each(|item| _ = ranks.remove(item));
    assert_eq!((ranks.roots[0].height, nodes(&ranks)), (0, (1, 0)));
    ranks.check_invariants();
    assert_eq!((ranks.first(tree), ranks.rank(2_099)), (Some((2_090, 2_090)), Some(9)));
}

#[test]
fn equal_keys_stand_in_the_order_in_which_they_came() {
    for key in [0, 5, u128::MAX] {
        let mut pair = Pair::with_trees(1);
        for item in 0..1_000 {
            pair.insert(0, key, item * 7 % 1_000, true);
            // Neighbours on both sides, as near as there are.
            pair.insert(0, key.saturating_sub(1), 1_000 + item, false);
            pair.insert(0, key.saturating_add(1), 2_000 + item, false);
        }
        pair.compare_all();
        for item in 0..3_000 {
            pair.compare(0, item);
        }
        (0..900).for_each(|_| pair.pop_ready(0));
        pair.compare_all();
    }
}

#[test]
fn an_item_placed_again_leaves_its_old_place() {
    let mut ranks = RankTree::new();
    let (one, other) = (ranks.new_tree(), ranks.new_tree());
    ranks.insert(one, 9, 4, true);
    ranks.insert(other, 8, 4, false);
    assert_eq!((ranks.len(one), ranks.len(other)), (0, 1));
    assert_eq!(ranks.remove(4), Some((8, false)));
    assert_eq!((ranks.remove(4), ranks.rank(4), ranks.key(4)), (None, None, None));
}

#[test]
fn a_tree_with_places_is_not_freed_and_a_freed_one_is_used_again() {
    let mut ranks = RankTree::new();
    let tree = ranks.new_tree();
    ranks.insert(tree, 1, 0, true);
    assert!(!ranks.free_tree(tree));
    ranks.remove(0);
    assert!(ranks.free_tree(tree));
    assert_eq!(ranks.new_tree(), tree);
    ranks.check_invariants();
}

#[test]
fn the_greatest_item_costs_megabytes_and_not_gigabytes() {
    let mut ranks = RankTree::new();
    let tree = ranks.new_tree();
    ranks.insert(tree, 1, u32::MAX - 1, true);
    ranks.insert(tree, 0, 3, true);
    assert_eq!((ranks.rank(u32::MAX - 1), ranks.rank(3)), (Some(1), Some(0)));
    assert!(ranks.memory_bytes() < 10 << 20, "{}", ranks.memory_bytes());
}

#[test]
fn an_empty_tree_costs_sixteen_bytes_and_reserved_room_is_enough() {
    let mut ranks = RankTree::new();
    assert_eq!(ranks.memory_bytes(), 0);
    let trees: Vec<_> = (0..1_024).map(|_| ranks.new_tree()).collect();
    assert!(ranks.memory_bytes() <= 1_024 * 16, "{}", ranks.memory_bytes());
    ranks.reserve(10_000, 10_000);
    let before = ranks.memory_bytes();
    (0..10_000).for_each(|item| ranks.insert(trees[5], u128::from(item), item, true));
    // Inner nodes are not reserved, being a few hundredths of all.
    let grown = ranks.memory_bytes() - before;
    assert!(grown * 20 < before, "{grown} of {before}");
}
