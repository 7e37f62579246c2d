//! The queue alone: one line of places, against what else could hold it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;

use foldhash::fast::FixedState;
use indexset::BTreeSet;
use libgateway::{RankTree, TreeId};
use priority_queue::PriorityQueue;

use crate::harness::{Budget, Built, Row, Subject};
use crate::rng::Rng;

/// Something that holds places in order. Items are dense numbers, keys of 128 bits.
trait Line {
    const NAME: &'static str;

    fn with_items(items: usize) -> Self;
    fn push(&mut self, key: u128, item: u32);
    fn pop(&mut self) -> Option<(u128, u32)>;
    fn remove(&mut self, item: u32) -> bool;
    /// How many stand before it.
    fn rank(&self, item: u32) -> Option<u32>;
}

pub(crate) fn rows() -> Vec<Row> {
    let sizes = [
        ("1k", 1_000, [None; 3]),
        ("100k", 100_000, [Some(120.0), Some(60.0), Some(80.0)]),
        ("1m", 1_000_000, [Some(300.0), Some(200.0), Some(220.0)]),
    ];
    let mut rows = Vec::new();
    for (size, n, budgets) in sizes {
        let [turn, remove, rank] = budgets.map(|budget| budget.map_or(Budget::None, Budget::Nanos));
        rows.push(row("push+pop", size, n, turn, move || {
            Ok(vec![turns::<Ranks>(n), turns::<Heap>(n), turns::<Priorities>(n), turns::<Ordered>(n)])
        }));
        rows.push(row("remove", size, n, remove, move || {
            Ok(vec![removals::<Ranks>(n), removals::<Priorities>(n), removals::<Ordered>(n)])
        }));
        rows.push(row("rank", size, n, rank, move || Ok(vec![ranks::<Ranks>(n), ranks::<Ordered>(n)])));
        rows.push(row("2-push+remove+pop", size, n, Budget::None, move || {
            Ok(vec![mixed::<Ranks>(n), mixed::<Heap>(n), mixed::<Priorities>(n), mixed::<Ordered>(n)])
        }));
    }
    rows
}

fn row(what: &str, size: &str, n: usize, budget: Budget, build: impl FnOnce() -> Built + 'static) -> Row {
    Row { name: format!("queue/{what}/{size}"), n: n as u64, budget, build: Box::new(build) }
}

/// A line that has been in use: as many places, after each of them was taken and given again.
struct Used<L> {
    line: L,
    keys: Vec<u128>,
    rng: Rng,
}

impl<L: Line> Used<L> {
    fn new(n: usize) -> Self {
        let mut used = Self { line: L::with_items(n + SPARE), keys: vec![0; n + SPARE], rng: Rng::new(n as u64) };
        for item in 0..n as u32 {
            used.push_behind(0, item);
        }
        for _ in 0..n {
            used.turn();
        }
        used
    }

    /// Takes the first place and gives its item a new one, anywhere within a span behind.
    fn turn(&mut self) {
        if let Some((key, item)) = self.line.pop() {
            self.push_behind(key, item);
        }
    }

    fn push_behind(&mut self, key: u128, item: u32) {
        let key = behind(key, item, &mut self.rng);
        self.keys[item as usize] = key;
        self.line.push(key, item);
    }
}

fn turns<L: Line + 'static>(n: usize) -> Subject {
    let mut used = Used::<L>::new(n);
    Subject::each(L::NAME, move || used.turn())
}

/// Removes a tenth of the places and gives them back, which does not count.
fn removals<L: Line + 'static>(n: usize) -> Subject {
    let mut used = Used::<L>::new(n);
    let mut items: Vec<u32> = (0..n as u32).collect();
    Subject::new(L::NAME, move |meter, operations| {
        for _ in 0..operations.div_ceil(n as u64 / 10) {
            used.rng.shuffle(&mut items);
            let some = &items[..n / 10];
            let removed = meter
                .measure(some.len() as u64, || some.iter().filter(|item| used.line.remove(black_box(**item))).count());
            assert_eq!(removed, some.len(), "{} removed each", L::NAME);
            for item in some {
                used.line.push(used.keys[*item as usize], *item);
            }
        }
    })
}

fn ranks<L: Line + 'static>(n: usize) -> Subject {
    let mut used = Used::<L>::new(n);
    let sum: u64 = (0..n as u32).filter_map(|item| used.line.rank(item)).map(u64::from).sum();
    assert_eq!(sum, n as u64 * (n as u64 - 1) / 2, "{} gives each rank once", L::NAME);
    Subject::each(L::NAME, move || {
        let item = used.rng.below(n) as u32;
        used.line.rank(item)
    })
}

/// Two come, one of those that wait gives up, one is served: what was put off at removal is paid here.
fn mixed<L: Line + 'static>(n: usize) -> Subject {
    let Used { mut line, keys, mut rng } = Used::<L>::new(n);
    let mut last = keys.iter().copied().filter(|key| *key > 0).min().unwrap_or(0);
    let mut waiting = Waiting::all(n);
    Subject::each(L::NAME, move || {
        for _ in 0..2 {
            let item = waiting.enter();
            line.push(behind(last, item, &mut rng), item);
        }
        let item = waiting.any(&mut rng);
        let removed = line.remove(item);
        waiting.leave(item);
        if let Some((key, item)) = line.pop() {
            last = key;
            waiting.leave(item);
        }
        removed
    })
}

/// Which items wait, so that one of them can be drawn.
struct Waiting {
    items: Vec<u32>,
    /// Where each item stands in `items`.
    place: Vec<u32>,
    free: Vec<u32>,
}

impl Waiting {
    fn all(n: usize) -> Self {
        let items: Vec<u32> = (0..n as u32).collect();
        let place = (0..(n + SPARE) as u32).collect();
        Self { free: (n as u32..(n + SPARE) as u32).collect(), items, place }
    }

    fn enter(&mut self) -> u32 {
        let item = self.free.pop().unwrap_or(0);
        self.place[item as usize] = self.items.len() as u32;
        self.items.push(item);
        item
    }

    fn leave(&mut self, item: u32) {
        let at = self.place[item as usize] as usize;
        self.items.swap_remove(at);
        if let Some(moved) = self.items.get(at) {
            self.place[*moved as usize] = at as u32;
        }
        self.free.push(item);
    }

    fn any(&self, rng: &mut Rng) -> u32 {
        self.items[rng.below(self.items.len())]
    }
}

/// A key anywhere within a span behind another.
fn behind(key: u128, item: u32, rng: &mut Rng) -> u128 {
    let tag = (key >> ITEM_BITS) + 1 + u128::from(rng.below_u64(SPAN));
    tag << ITEM_BITS | u128::from(item)
}

/// Ours.
struct Ranks {
    tree: RankTree,
    line: TreeId,
}

impl Line for Ranks {
    const NAME: &'static str = "libgateway";

    fn with_items(_: usize) -> Self {
        let mut tree = RankTree::new();
        let line = tree.new_tree();
        Self { tree, line }
    }

    fn push(&mut self, key: u128, item: u32) {
        self.tree.insert(self.line, key, item, true);
    }

    fn pop(&mut self) -> Option<(u128, u32)> {
        self.tree.pop_ready(self.line)
    }

    fn remove(&mut self, item: u32) -> bool {
        self.tree.remove(item).is_some()
    }

    fn rank(&self, item: u32) -> Option<u32> {
        self.tree.rank(item)
    }
}

/// The standard library's heap. What is removed stays in it as a tombstone until it comes to the top.
struct Heap {
    heap: BinaryHeap<Reverse<(u128, u32, u32)>>,
    /// How often each item has left: an entry of another number is dead.
    left: Vec<u32>,
}

impl Line for Heap {
    const NAME: &'static str = "BinaryHeap with tombstones";

    fn with_items(items: usize) -> Self {
        Self { heap: BinaryHeap::new(), left: vec![0; items] }
    }

    fn push(&mut self, key: u128, item: u32) {
        self.heap.push(Reverse((key, item, self.left[item as usize])));
    }

    fn pop(&mut self) -> Option<(u128, u32)> {
        while let Some(Reverse((key, item, left))) = self.heap.pop() {
            if self.left[item as usize] == left {
                self.left[item as usize] += 1;
                return Some((key, item));
            }
        }
        None
    }

    fn remove(&mut self, item: u32) -> bool {
        self.left[item as usize] += 1;
        true
    }

    fn rank(&self, _: u32) -> Option<u32> {
        None
    }
}

/// `priority-queue`, with our hash instead of the slower default.
struct Priorities(PriorityQueue<u32, Reverse<u128>, FixedState>);

impl Line for Priorities {
    const NAME: &'static str = "priority-queue";

    fn with_items(_: usize) -> Self {
        Self(PriorityQueue::with_hasher(FixedState::default()))
    }

    fn push(&mut self, key: u128, item: u32) {
        self.0.push(item, Reverse(key));
    }

    fn pop(&mut self) -> Option<(u128, u32)> {
        self.0.pop().map(|(item, Reverse(key))| (key, item))
    }

    fn remove(&mut self, item: u32) -> bool {
        self.0.remove(&item).is_some()
    }

    fn rank(&self, _: u32) -> Option<u32> {
        None
    }
}

/// `indexset`, an ordered set that counts. It is asked by key, so it needs a table of them.
struct Ordered {
    set: BTreeSet<(u128, u32)>,
    keys: Vec<u128>,
}

impl Line for Ordered {
    const NAME: &'static str = "indexset";

    fn with_items(items: usize) -> Self {
        Self { set: BTreeSet::new(), keys: vec![0; items] }
    }

    fn push(&mut self, key: u128, item: u32) {
        self.keys[item as usize] = key;
        self.set.insert((key, item));
    }

    fn pop(&mut self) -> Option<(u128, u32)> {
        self.set.pop_first()
    }

    fn remove(&mut self, item: u32) -> bool {
        self.set.remove(&(self.keys[item as usize], item))
    }

    fn rank(&self, item: u32) -> Option<u32> {
        u32::try_from(self.set.rank(&(self.keys[item as usize], item))).ok()
    }
}

/// Bytes a place takes in our tree when it has been in use.
pub(crate) fn bytes_per_place(n: usize) -> f64 {
    Used::<Ranks>::new(n).line.tree.memory_bytes() as f64 / n as f64
}

/// Items beyond those that wait.
const SPARE: usize = 2;
/// How far behind the first a place may be given.
const SPAN: u64 = 1 << 40;
const ITEM_BITS: u32 = 48;
