//! Dice that fall the same way every time, and the loop over their seeds.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

/// SplitMix64: a counter and a finaliser. Two generators of the same seed agree for ever, on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The dice of a seed. Neighbouring seeds have nothing in common.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// Dice of their own for a part of a run: what the part throws moves nothing elsewhere.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// 64 even bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in `n` throws.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// True in `percent` of a hundred throws.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items; there must be one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// One of the words; there must be one.
    pub fn word<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    /// An index, each as often as its weight says; some weight must not be 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut at = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (index, weight) in weights.iter().enumerate() {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => return index,
            }
        }
        0
    }
}

/// Runs a test for the seeds from 0 on, or for the one that `GATEWAY_SEED` names. The seed that fails is the first thing
/// printed.
pub fn each_seed(count: u64, mut run: impl FnMut(u64)) {
    announce_seeds();
    for seed in seeds(count) {
        SEED.set(Some(seed));
        run(seed);
    }
    SEED.set(None);
}

/// The seeds of a test: `0..count`, or the one that is to be replayed.
pub fn seeds(count: u64) -> Vec<u64> {
    match replayed() {
        Some(seed) => vec![seed],
        None => (0..count).collect(),
    }
}

/// How many seeds a test runs: as many as `GATEWAY_SEEDS` says, otherwise `default`.
pub fn count(default: u64) -> u64 {
    let text = std::env::var("GATEWAY_SEEDS").ok();
    text.map_or(default, |text| text.trim().parse().expect("GATEWAY_SEEDS is a number"))
}

/// The seed that is to be replayed, if `GATEWAY_SEED` names one: then runs also tell each step.
pub fn replayed() -> Option<u64> {
    let text = std::env::var("GATEWAY_SEED").ok()?;
    Some(text.trim().parse().expect("GATEWAY_SEED is a number"))
}

/// The seed of a test with one long run: the one that is to be replayed, otherwise `default`.
pub fn seed(default: u64) -> u64 {
    replayed().unwrap_or(default)
}

/// Puts the seed before whatever a panic says.
fn announce_seeds() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(seed) = SEED.get() {
                eprintln!("seed {seed} failed; GATEWAY_SEED={seed} runs it alone and tells each step");
            }
            next(info);
        }));
    });
}

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_throws_the_same_numbers_again_and_its_neighbour_others() {
        let throw = |seed| {
            let mut rng = Rng::new(seed);
            [rng.bits(), rng.bits(), rng.bits()]
        };
        assert_eq!(throw(7), throw(7));
        assert!(throw(7).iter().all(|bits| !throw(8).contains(bits)));
    }

    #[test]
    fn weights_of_nothing_are_never_picked() {
        let mut rng = Rng::new(1);
        let mut seen = [0; 4];
        for _ in 0..1_000 {
            seen[rng.weighted(&[0, 3, 0, 1])] += 1;
        }
        assert_eq!((seen[0], seen[2]), (0, 0));
        assert!(seen[1] > seen[3] && seen[3] > 150, "{seen:?}");
    }
}
