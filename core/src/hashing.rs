//! Seeded hashing: the same on every replay, out of reach for strangers who choose the keys.

use core::hash::{Hash, Hasher};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

/// Hashes keys of a table under a seed from the configuration. Nothing outside may depend on the hash: it differs between
/// platforms.
#[derive(Clone, Debug)]
pub(crate) struct KeyHasher {
    start: u64,
    shared: SharedSeed,
}

impl KeyHasher {
    /// Both halves of foldhash's state come from the seed: with its own fixed half, strangers could choose long keys that
    /// collide under every seed. And the seed is mixed first: out of plain 0 and `u64::MAX` foldhash makes states that
    /// scatter little or nothing.
    pub(crate) const fn new(seed: u64) -> Self {
        let start = mix(seed);
        Self { start, shared: SharedSeed::from_u64(mix(start)) }
    }

    #[inline]
    pub(crate) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.start, &self.shared);
        key.hash(&mut hasher);
        hasher.finish()
    }
}

/// One step of SplitMix64: the counter step by the golden ratio, then the finaliser. A bijection.
pub(crate) const fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_first_step_from_zero_is_the_published_one() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn plain_seeds_scatter_plain_keys() {
        for seed in [0, 1, 2, u64::MAX] {
            for stride in [1, 1 << 10, 1 << 32] {
                let hasher = KeyHasher::new(seed);
                let hashes = (0..10_000_u64).map(|key| hasher.hash(&(key * stride)));
                let places: BTreeSet<u64> = hashes.map(|hash| hash % 16_384).collect();
                // 10 000 balls in 16 384 places fill 7 484 on average.
                assert!(places.len() > 6_000, "seed {seed}, stride {stride}: {}", places.len());
            }
        }
    }
}
