//! One bucket for each of a bounded number of keys.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::hash::Hash;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::order::Order;
use super::{Acquire, RateHeaders, RateLimit, TokenBucket};
use crate::error::InputError;
use crate::hashing::KeyHasher;
use crate::time::{Span, Timestamp};

/// The settings of a [`KeyedRateLimiter`].
///
/// ```
/// use libgateway::{KeyedRateLimiterConfig, RateLimit};
/// let config = KeyedRateLimiterConfig::default().limit(RateLimit::per_second(5, 10)).keys_max(1_000);
/// assert_eq!((config.limit.burst(), config.keys_max), (10, 1_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KeyedRateLimiterConfig {
    /// The limit of each key.
    pub limit: RateLimit,
    /// The most keys that are remembered at once, at least one. Only keys whose bucket is not full need to be.
    pub keys_max: u32,
    /// What keys are hashed with. Give random bits where strangers choose the keys, or they can choose keys that collide.
    /// No answer depends on it.
    pub seed: u64,
}

/// Rate limits by key: each key has a bucket of the same [`RateLimit`], full when first seen.
///
/// At most `keys_max` buckets are kept. When there is no room for a new key, a bucket that is full again is forgotten,
/// which nobody can tell: a full bucket and none are the same. If none is full, the answer is [`KeyedAcquire::Full`].
/// So answers depend on the calls alone, never on the seed, the memory's layout or which bucket was forgotten.
///
/// Any `now` may be passed: time that goes back counts as the latest time the limiter has seen, for any key. How long a
/// key may be is for the caller to check.
///
/// ```
/// use libgateway::{KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig, RateLimit, Timestamp};
/// let config = KeyedRateLimiterConfig::default().limit(RateLimit::per_second(1, 3));
/// let mut limiter = KeyedRateLimiter::<String>::new(config, Timestamp::EPOCH)?;
/// assert_eq!(limiter.try_acquire("acme", 2, Timestamp::EPOCH), KeyedAcquire::Allow { remaining: 1 });
/// let until = Timestamp::from_secs(1);
/// assert_eq!(limiter.try_acquire("acme", 2, Timestamp::EPOCH), KeyedAcquire::Deny { until });
/// assert_eq!(limiter.try_acquire("zoo", 2, Timestamp::EPOCH), KeyedAcquire::Allow { remaining: 1 });
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
///
/// # Complexity
/// A call on a known key is O(1). One on a new key is O(log keys) on average over all calls; when the limiter is full,
/// a single call may catch up on every key that took tokens since the last such call.
#[derive(Clone)]
pub struct KeyedRateLimiter<K> {
    config: KeyedRateLimiterConfig,
    /// Latest time seen. Without it a forgotten bucket could be told from a kept one by going back in time.
    now: Timestamp,
    hasher: KeyHasher,
    /// Key and bucket lie in the table itself: the check of a known key touches two cache lines.
    entries: HashTable<Entry<K>>,
    order: Order,
}

/// Whether tokens of a key were taken.
///
/// ```
/// use libgateway::{KeyedAcquire, Span, Timestamp};
/// let answer = KeyedAcquire::Full { until: Timestamp::from_secs(3) };
/// assert_eq!(answer.retry_after(Timestamp::from_secs(1)), Some(Span::from_secs(2)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum KeyedAcquire {
    /// They were taken.
    Allow {
        /// Whole tokens left.
        remaining: u32,
    },
    /// Not yet: the key is out of tokens. Nothing was taken.
    Deny {
        /// The first nanosecond at which the same call is allowed if nobody takes tokens of this key before.
        until: Timestamp,
    },
    /// Not ever: the cost is above the burst, or the tokens do not come before the end of time.
    Never,
    /// Not yet: the key is new and there is no room to remember it. Nothing was taken.
    Full {
        /// The first nanosecond at which the same call is allowed if nobody takes tokens before; [`Timestamp::MAX`] if
        /// no bucket will ever be full again.
        until: Timestamp,
    },
}

#[derive(Clone)]
struct Entry<K> {
    key: K,
    bucket: TokenBucket,
    slot: u32,
}

impl KeyedRateLimiterConfig {
    /// Sets the limit of each key.
    #[must_use]
    pub const fn limit(mut self, limit: RateLimit) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the most keys that are remembered at once.
    #[must_use]
    pub const fn keys_max(mut self, keys_max: u32) -> Self {
        self.keys_max = keys_max;
        self
    }

    /// Sets what keys are hashed with.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl Default for KeyedRateLimiterConfig {
    fn default() -> Self {
        Self { limit: RateLimit::default(), keys_max: 100_000, seed: 0 }
    }
}

impl<K: Hash + Eq> KeyedRateLimiter<K> {
    /// A limiter that knows no key. Memory is taken as keys come.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for a `keys_max` of zero.
    pub fn new(config: KeyedRateLimiterConfig, now: Timestamp) -> Result<Self, InputError> {
        if config.keys_max == 0 {
            return Err(InputError::OutOfRange { field: "keys_max", value: 0, min: 1, max: u32::MAX.into() });
        }
        Ok(Self {
            config,
            now,
            hasher: KeyHasher::new(config.seed),
            entries: HashTable::new(),
            order: Order::default(),
        })
    }

    /// A limiter as [`KeyedRateLimiter::snapshot`] described it, answering as the original would. `config` carries the
    /// limit that was last set, `now` is the original's [`KeyedRateLimiter::now`] or later.
    ///
    /// # Errors
    /// As [`KeyedRateLimiter::new`]; then, whichever comes first, [`InputError::Repeated`] for a key that stands there
    /// twice or [`InputError::TooLong`] for more than `keys_max` keys. Full buckets are passed over.
    ///
    /// # Complexity
    /// O(keys log keys).
    pub fn restore(
        config: KeyedRateLimiterConfig,
        now: Timestamp,
        buckets: impl IntoIterator<Item = (K, TokenBucket)>,
    ) -> Result<Self, InputError> {
        let mut limiter = Self::new(config, now)?;
        for (key, bucket) in buckets {
            limiter.now = limiter.now.max(bucket.last());
            if bucket.is_full(&config.limit, now) {
                continue;
            }
            let hash = limiter.hasher.hash(&key);
            if limiter.entries.find(hash, |entry| entry.key == key).is_some() {
                return Err(InputError::Repeated { field: "keys" });
            }
            let max = config.keys_max as usize;
            if limiter.entries.len() == max {
                return Err(InputError::TooLong { field: "keys", len: max.saturating_add(1), max });
            }
            limiter.insert(hash, key, bucket);
        }
        Ok(limiter)
    }

    /// Takes `cost` tokens of `key`, or says when. A cost of 0 is always allowed and remembers no key.
    ///
    /// The key is made into an owned one only when it is new.
    ///
    /// # Complexity
    /// O(1) for a known key, else amortised O(log keys).
    #[inline]
    pub fn try_acquire<Q>(&mut self, key: &Q, cost: u32, now: Timestamp) -> KeyedAcquire
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.now = self.now.max(now);
        let hash = self.hasher.hash(key);
        match self.entries.find_mut(hash, |entry| entry.key.borrow() == key) {
            Some(entry) => entry.bucket.try_acquire(&self.config.limit, cost, self.now).into(),
            None => self.try_acquire_new(hash, key, cost),
        }
    }

    /// What [`KeyedRateLimiter::try_acquire`] would answer. It is `&mut` only to catch up on the order of keys, which
    /// nobody can tell.
    ///
    /// # Complexity
    /// As [`KeyedRateLimiter::try_acquire`].
    pub fn peek<Q>(&mut self, key: &Q, cost: u32, now: Timestamp) -> KeyedAcquire
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let now = self.now.max(now);
        if let Some(bucket) = self.bucket(key) {
            return bucket.peek(&self.config.limit, cost, now).into();
        }
        let answer = TokenBucket::full(&self.config.limit, now).peek(&self.config.limit, cost, now);
        if cost == 0 || !answer.is_allowed() || self.entries.len() < self.config.keys_max as usize {
            return answer.into();
        }
        match self.first_full(now) {
            Ok(_) => answer.into(),
            Err(until) => KeyedAcquire::Full { until },
        }
    }

    /// Gives `cost` tokens of `key` back, up to the burst.
    ///
    /// # Complexity
    /// O(log keys).
    pub fn refund<Q>(&mut self, key: &Q, cost: u32)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash(key);
        // A key that is not there has a full bucket.
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.key.borrow() == key) {
            entry.bucket.refund(&self.config.limit, cost);
            self.order.lower(entry.slot, entry.bucket.full_at(&self.config.limit));
        }
    }

    /// Whole tokens `key` has at `now`.
    pub fn available<Q>(&self, key: &Q, now: Timestamp) -> u32
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.bucket_or_full(key).available(&self.config.limit, self.now.max(now))
    }

    /// What the rate limit headers for `key` say at `now`.
    pub fn headers<Q>(&self, key: &Q, now: Timestamp) -> RateHeaders
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.bucket_or_full(key).headers(&self.config.limit, self.now.max(now))
    }

    /// The settings, with the limit that was last set.
    pub const fn config(&self) -> &KeyedRateLimiterConfig {
        &self.config
    }

    /// The latest time seen.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// How many keys are remembered. Some may be full already and be forgotten when there is need; a restored copy does
    /// not have those, so nothing should be decided by this number.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Changes the limit of all keys at `now`. A key keeps the tokens it has, up to the new burst, see
    /// [`TokenBucket::rescale`]; a key that is full stays full, whether it is remembered or not.
    ///
    /// # Complexity
    /// O(keys): the order in which buckets become full changes with the limit. It is not a call for every request.
    pub fn set_limit(&mut self, limit: RateLimit, now: Timestamp) {
        self.now = self.now.max(now);
        let (old, now) = (self.config.limit, self.now);
        self.config.limit = limit;
        self.rebuild(|entry| {
            let keep = !entry.bucket.is_full(&old, now);
            entry.bucket.rescale(&old, &limit, now);
            keep
        });
    }

    /// Forgets a key, which is full from then on. Says whether it was remembered.
    ///
    /// # Complexity
    /// O(log keys).
    pub fn remove<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash(key);
        let Ok(entry) = self.entries.find_entry(hash, |entry| entry.key.borrow() == key) else { return false };
        let (entry, _) = entry.remove();
        self.order.remove(entry.slot);
        true
    }

    /// Forgets the keys for which `keep` is false; they are full from then on. The order of calls means nothing and
    /// must not reach an output.
    ///
    /// # Complexity
    /// O(keys).
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &TokenBucket) -> bool) {
        self.rebuild(|entry| keep(&entry.key, &entry.bucket));
    }

    /// Forgets up to `at_most` keys that are full again at `now`, to give room early; returns how many. Nobody needs
    /// to call it: room is made when it is needed.
    ///
    /// # Complexity
    /// Amortised O(log keys) for each key forgotten.
    pub fn evict_full(&mut self, now: Timestamp, at_most: usize) -> usize {
        self.now = self.now.max(now);
        (0..at_most).take_while(|_| self.evict().is_ok()).count()
    }

    /// The buckets that are not full, by key: with [`KeyedRateLimiter::config`] and [`KeyedRateLimiter::now`] all that
    /// an answer depends on. Two limiters that had the same calls give the same, however their memory lies.
    ///
    /// # Complexity
    /// O(keys log keys).
    pub fn snapshot(&self) -> Vec<(K, TokenBucket)>
    where
        K: Ord + Clone,
    {
        let limited = self.entries.iter().filter(|entry| !entry.bucket.is_full(&self.config.limit, self.now));
        let mut buckets: Vec<_> = limited.map(|entry| (entry.key.clone(), entry.bucket)).collect();
        buckets.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        buckets
    }

    /// Checks that keys, hashes, slots and bounds agree.
    ///
    /// # Panics
    /// If they do not: that is a defect of the limiter.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        assert!(self.entries.len() <= self.config.keys_max as usize, "keys are bounded");
        self.order.check_invariants(self.entries.len());
        for entry in &self.entries {
            assert_eq!(self.hasher.hash(&entry.key), self.order.hash(entry.slot), "a slot knows its key's hash");
            assert!(
                self.order.bound(entry.slot) <= entry.bucket.full_at(&self.config.limit),
                "bounds are lower bounds"
            );
            assert!(entry.bucket.last() <= self.now, "no bucket is ahead of the limiter");
        }
    }

    #[cold]
    #[inline(never)]
    fn try_acquire_new<Q>(&mut self, hash: u64, key: &Q, cost: u32) -> KeyedAcquire
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        let mut bucket = TokenBucket::full(&self.config.limit, self.now);
        let answer = bucket.try_acquire(&self.config.limit, cost, self.now);
        if cost == 0 || !answer.is_allowed() {
            return answer.into();
        }
        if self.entries.len() >= self.config.keys_max as usize {
            if let Err(until) = self.evict() {
                return KeyedAcquire::Full { until };
            }
        }
        self.insert(hash, key.to_owned(), bucket);
        answer.into()
    }

    /// Remembers a key that is not there yet. There must be room.
    fn insert(&mut self, hash: u64, key: K, bucket: TokenBucket) {
        let slot = self.order.insert(hash, bucket.full_at(&self.config.limit));
        self.entries.insert_unique(hash, Entry { key, bucket, slot }, |entry| self.order.hash(entry.slot));
    }

    /// Forgets one key that is full, or says when there will be one.
    fn evict(&mut self) -> Result<(), Timestamp> {
        let (slot, hash) = self.first_full(self.now)?;
        if let Ok(entry) = self.entries.find_entry(hash, |entry| entry.slot == slot) {
            entry.remove();
        }
        self.order.remove(slot);
        Ok(())
    }

    /// Slot and hash of a key that is full at `now`, or the instant of the next that will be.
    ///
    /// Each turn of the loop makes one bound true. It stays true until that key takes tokens again, so there are never
    /// more turns than calls that took tokens.
    fn first_full(&mut self, now: Timestamp) -> Result<(u32, u64), Timestamp> {
        while let Some((slot, hash, bound)) = self.order.first() {
            let Some(entry) = self.entries.find(hash, |entry| entry.slot == slot) else { break };
            // Not by comparing `full_at` with `now`: at the end of time that would take "never" for "now".
            if entry.bucket.is_full(&self.config.limit, now) {
                return Ok((slot, hash));
            }
            let full_at = entry.bucket.full_at(&self.config.limit);
            if full_at == bound {
                return Err(full_at);
            }
            self.order.raise_first(full_at);
        }
        Err(Timestamp::MAX)
    }

    /// Keeps the entries for which `keep` is true and gives each a new slot with a true bound.
    fn rebuild(&mut self, mut keep: impl FnMut(&mut Entry<K>) -> bool) {
        let mut order = Order::default();
        self.entries.retain(|entry| {
            let kept = keep(entry);
            if kept {
                entry.slot = order.insert(self.order.hash(entry.slot), entry.bucket.full_at(&self.config.limit));
            }
            kept
        });
        self.order = order;
    }

    fn bucket<Q>(&self, key: &Q) -> Option<TokenBucket>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.entries.find(self.hasher.hash(key), |entry| entry.key.borrow() == key).map(|entry| entry.bucket)
    }

    fn bucket_or_full<Q>(&self, key: &Q) -> TokenBucket
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.bucket(key).unwrap_or_else(|| TokenBucket::full(&self.config.limit, self.now))
    }
}

impl<K> core::fmt::Debug for KeyedRateLimiter<K> {
    /// Shows the settings and the number of keys: the keys are many and their order means nothing.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyedRateLimiter")
            .field("config", &self.config)
            .field("now", &self.now)
            .field("len", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl KeyedAcquire {
    /// Whether the tokens were taken.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// How long to wait for the same call to be allowed: nothing if it was, `None` if it never will be.
    pub const fn retry_after(self, now: Timestamp) -> Option<Span> {
        match self {
            Self::Allow { .. } => Some(Span::ZERO),
            Self::Deny { until } => Some(until.since(now)),
            Self::Full { until } if until.as_nanos() < u64::MAX => Some(until.since(now)),
            Self::Never | Self::Full { .. } => None,
        }
    }
}

impl From<Acquire> for KeyedAcquire {
    #[inline]
    fn from(answer: Acquire) -> Self {
        match answer {
            Acquire::Allow { remaining } => Self::Allow { remaining },
            Acquire::Deny { until } => Self::Deny { until },
            Acquire::Never => Self::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::string::{String, ToString};

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn limiter<K: Hash + Eq>(limit: RateLimit, keys_max: u32) -> KeyedRateLimiter<K> {
        let config = KeyedRateLimiterConfig::default().limit(limit).keys_max(keys_max);
        KeyedRateLimiter::new(config, Timestamp::EPOCH).unwrap()
    }

    #[test]
    fn keys_do_not_share_tokens_and_are_found_by_borrowed_text() {
        let mut limiter = limiter::<String>(RateLimit::per_second(1, 1), 10);
        for key in ["acme", "zoo", ""] {
            assert!(limiter.try_acquire(key, 1, at(0)).is_allowed());
            assert!(!limiter.try_acquire(&key.to_string(), 1, at(0)).is_allowed());
        }
        assert_eq!((limiter.len(), limiter.available("acme", at(0)), limiter.available("new", at(0))), (3, 0, 1));
    }

    #[test]
    fn a_new_key_is_refused_until_the_exact_instant_at_which_a_bucket_is_full() {
        let mut limiter = limiter::<u64>(RateLimit::per_second(1_000_000_000, 100), 2);
        assert!(limiter.try_acquire(&1, 10, at(0)).is_allowed());
        assert!(limiter.try_acquire(&2, 20, at(0)).is_allowed());
        // Key 1 moves behind key 2: its old bound is now too low.
        assert!(limiter.try_acquire(&1, 50, at(0)).is_allowed());
        assert_eq!(limiter.try_acquire(&3, 1, at(0)), KeyedAcquire::Full { until: at(20) });
        assert_eq!(limiter.try_acquire(&3, 1, at(19)), KeyedAcquire::Full { until: at(20) });
        assert_eq!(limiter.try_acquire(&3, 101, at(19)), KeyedAcquire::Never);
        assert_eq!(limiter.try_acquire(&3, 0, at(19)), KeyedAcquire::Allow { remaining: 100 });
        assert_eq!(limiter.peek(&3, 1, at(20)), KeyedAcquire::Allow { remaining: 99 });
        assert_eq!(limiter.try_acquire(&3, 1, at(20)), KeyedAcquire::Allow { remaining: 99 });
        assert_eq!((limiter.len(), limiter.available(&1, at(20)), limiter.available(&2, at(20))), (2, 60, 100));
    }

    #[test]
    fn a_refund_makes_room_at_once() {
        let mut limiter = limiter::<u64>(RateLimit::per_second(1, 10), 1);
        assert!(limiter.try_acquire(&1, 10, at(0)).is_allowed());
        assert_eq!(limiter.try_acquire(&2, 1, at(0)), KeyedAcquire::Full { until: Timestamp::from_secs(10) });
        limiter.refund(&1, 4);
        assert_eq!(limiter.try_acquire(&2, 1, at(0)), KeyedAcquire::Full { until: Timestamp::from_secs(6) });
        limiter.refund(&1, u32::MAX);
        assert!(limiter.try_acquire(&2, 1, at(0)).is_allowed());
    }

    #[test]
    fn without_refill_there_is_never_room_again_even_at_the_end_of_time() {
        let mut limiter = limiter::<u64>(RateLimit::per_second(0, 10), 1);
        assert!(limiter.try_acquire(&1, 1, at(0)).is_allowed());
        let answer = limiter.try_acquire(&2, 1, Timestamp::MAX);
        assert_eq!(answer, KeyedAcquire::Full { until: Timestamp::MAX });
        assert_eq!(answer.retry_after(at(0)), None);
        assert!(limiter.remove(&1) && !limiter.remove(&1));
        assert!(limiter.try_acquire(&2, 1, at(0)).is_allowed());
    }

    #[test]
    fn a_full_key_stays_full_under_a_larger_limit_remembered_or_not() {
        let mut limiter = limiter::<u64>(RateLimit::per_second(1, 10), 5);
        assert!(limiter.try_acquire(&1, 4, at(0)).is_allowed());
        assert!(limiter.try_acquire(&2, 1, at(0)).is_allowed());
        limiter.set_limit(RateLimit::per_second(1, 100), Timestamp::from_secs(1));
        let available = |key| limiter.available(&key, Timestamp::from_secs(1));
        assert_eq!((available(1), available(2), available(3)), (7, 100, 100));
    }

    #[test]
    fn a_table_without_keys_is_refused() {
        let config = KeyedRateLimiterConfig::default().keys_max(0);
        let error = KeyedRateLimiter::<u64>::new(config, at(0)).unwrap_err();
        assert_eq!(error, InputError::OutOfRange { field: "keys_max", value: 0, min: 1, max: u32::MAX.into() });
    }

    #[test]
    fn a_copy_made_with_an_earlier_time_does_not_go_back_behind_its_buckets() {
        let mut limiter = limiter::<u64>(RateLimit::per_second(1_000_000_000, 10), 2);
        let _ = limiter.try_acquire(&1, 10, at(50));
        let copy = KeyedRateLimiter::restore(*limiter.config(), at(3), limiter.snapshot()).unwrap();
        copy.check_invariants();
        assert_eq!((copy.now(), copy.available(&1, at(0)), copy.available(&1, at(54))), (at(50), 0, 4));
    }

    #[test]
    fn a_copy_is_not_made_of_doubled_or_too_many_keys() {
        let mut limiter = limiter::<u64>(RateLimit::per_second(1, 10), 2);
        let _ = limiter.try_acquire(&1, 1, at(0));
        let one = limiter.snapshot();
        let _ = limiter.try_acquire(&2, 1, at(0));
        let both = limiter.snapshot();
        let restore = |config, keys| KeyedRateLimiter::restore(config, at(0), keys).map(|copy| copy.len());
        assert_eq!(restore(*limiter.config(), both.clone()), Ok(2));
        let twice = [one.clone(), one].concat();
        assert_eq!(restore(*limiter.config(), twice), Err(InputError::Repeated { field: "keys" }));
        let tight = limiter.config().keys_max(1);
        assert_eq!(restore(tight, both), Err(InputError::TooLong { field: "keys", len: 2, max: 1 }));
    }

    /// The model: every key that is not full, in exact units, brought up to date by every call. It never evicts, because
    /// a full key is not there.
    #[derive(Clone)]
    struct Model {
        now: u128,
        keys_max: usize,
        token: u128,
        rate: u128,
        burst: u128,
        levels: BTreeMap<u8, u128>,
    }

    impl Model {
        fn new(limit: RateLimit, keys_max: u32) -> Self {
            let mut model =
                Self { now: 0, keys_max: keys_max as usize, token: 1, rate: 0, burst: 0, levels: BTreeMap::new() };
            model.set_limit(limit, 0);
            model
        }

        fn set_limit(&mut self, limit: RateLimit, now: u64) {
            self.advance(now);
            let (amount, per) = (u128::from(limit.amount()), u128::from(limit.per().as_nanos()));
            let common = (1..=per).rev().find(|by| per % by == 0 && amount % by == 0).unwrap();
            for level in self.levels.values_mut() {
                *level = *level * (per / common) / self.token;
            }
            (self.token, self.rate, self.burst) = (per / common, amount / common, limit.burst().into());
            self.advance(now);
        }

        fn advance(&mut self, now: u64) {
            let (passed, full) = (u128::from(now).saturating_sub(self.now), self.burst * self.token);
            self.now += passed;
            self.levels.retain(|_, level| {
                *level += passed * self.rate;
                *level < full
            });
        }

        fn wait(&self, missing: u128) -> Option<Timestamp> {
            (self.rate > 0).then(|| at((self.now + missing.div_ceil(self.rate)) as u64))
        }

        fn try_acquire(&mut self, key: u8, cost: u32, now: u64) -> KeyedAcquire {
            self.advance(now);
            let (cost, full) = (u128::from(cost), self.burst * self.token);
            if cost > self.burst {
                return KeyedAcquire::Never;
            }
            let level = self.levels.get(&key).copied().unwrap_or(full);
            let price = cost * self.token;
            if price > level {
                return self.wait(price - level).map_or(KeyedAcquire::Never, |until| KeyedAcquire::Deny { until });
            }
            if cost > 0 && self.levels.len() == self.keys_max && !self.levels.contains_key(&key) {
                let first = self.levels.values().map(|level| full - level).min().unwrap();
                return KeyedAcquire::Full { until: self.wait(first).unwrap_or(Timestamp::MAX) };
            }
            if level - price < full {
                self.levels.insert(key, level - price);
            }
            KeyedAcquire::Allow { remaining: ((level - price) / self.token) as u32 }
        }

        fn refund(&mut self, key: u8, cost: u32) {
            if let Some(level) = self.levels.get_mut(&key) {
                *level += u128::from(cost) * self.token;
            }
            self.advance(0);
        }

        fn available(&self, key: u8) -> u32 {
            (self.levels.get(&key).map_or(self.burst, |level| level / self.token)) as u32
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Acquire { key: u8, cost: u32 },
        Refund { key: u8, cost: u32 },
        SetLimit { limit: RateLimit },
        Remove { key: u8 },
        Retain { below: u8 },
        EvictFull { at_most: usize },
        Restore { seed: u64 },
    }

    fn limits() -> impl Strategy<Value = RateLimit> {
        (0_u32..8, 1_u64..40, 0_u32..12)
            .prop_map(|(amount, per, burst)| RateLimit::new(amount, Span::from_nanos(per), burst).unwrap())
    }

    /// An operation, and how the host's clock steps before it.
    fn ops() -> impl Strategy<Value = Vec<(Op, i64)>> {
        let step = prop_oneof![4 => Just(0_i64), 4 => 0_i64..12, 1 => 0_i64..400, 1 => -30_i64..0];
        let op = prop_oneof![
            12 => (0_u8..8, 0_u32..13).prop_map(|(key, cost)| Op::Acquire { key, cost }),
            2 => (0_u8..8, 0_u32..9).prop_map(|(key, cost)| Op::Refund { key, cost }),
            1 => limits().prop_map(|limit| Op::SetLimit { limit }),
            1 => (0_u8..8).prop_map(|key| Op::Remove { key }),
            1 => (0_u8..8).prop_map(|below| Op::Retain { below }),
            1 => (0_usize..3).prop_map(|at_most| Op::EvictFull { at_most }),
            1 => any::<u64>().prop_map(|seed| Op::Restore { seed }),
        ];
        proptest::collection::vec((op, step), 1..80)
    }

    proptest! {
        #[test]
        fn a_bounded_limiter_answers_like_one_that_never_forgets(limit in limits(), keys_max in 1_u32..6, ops in ops()) {
            let mut model = Model::new(limit, keys_max);
            let mut limiter = limiter::<u8>(limit, keys_max);
            let mut now = 0_u64;
            for (op, step) in ops {
                now = now.saturating_add_signed(step);
                match op {
                    Op::Acquire { key, cost } => {
                        let answer = limiter.peek(&key, cost, at(now));
                        prop_assert_eq!(limiter.try_acquire(&key, cost, at(now)), answer);
                        prop_assert_eq!(answer, model.try_acquire(key, cost, now));
                        if let KeyedAcquire::Deny { until } | KeyedAcquire::Full { until } = answer {
                            prop_assert!(until == Timestamp::MAX || limiter.clone().try_acquire(&key, cost, until).is_allowed());
                            let early = at(until.as_nanos() - 1);
                            prop_assert!(!limiter.clone().try_acquire(&key, cost, early).is_allowed());
                        }
                    }
                    Op::Refund { key, cost } => {
                        limiter.refund(&key, cost);
                        model.refund(key, cost);
                    }
                    Op::SetLimit { limit } => {
                        limiter.set_limit(limit, at(now));
                        model.set_limit(limit, now);
                    }
                    Op::Remove { key } => {
                        let remembered = limiter.remove(&key);
                        prop_assert!(remembered || !model.levels.contains_key(&key));
                        model.levels.remove(&key);
                    }
                    Op::Retain { below } => {
                        limiter.retain(|key, _| *key < below);
                        model.levels.retain(|key, _| *key < below);
                    }
                    Op::EvictFull { at_most } => {
                        let before = limiter.len();
                        let evicted = limiter.evict_full(at(now), at_most);
                        model.advance(now);
                        prop_assert_eq!(limiter.len(), before - evicted);
                        prop_assert!(evicted == at_most || limiter.len() == model.levels.len());
                    }
                    Op::Restore { seed } => {
                        let config = limiter.config().seed(seed);
                        let copy = KeyedRateLimiter::restore(config, limiter.now(), limiter.snapshot()).unwrap();
                        prop_assert_eq!(copy.snapshot(), limiter.snapshot());
                        prop_assert_eq!(copy.len(), model.levels.len());
                        limiter = copy;
                    }
                }
                limiter.check_invariants();
                for key in 0..8 {
                    prop_assert_eq!(limiter.available(&key, at(0)), model.available(key));
                    prop_assert_eq!(limiter.headers(&key, at(0)).remaining, model.available(key));
                }
            }
        }
    }
}
