//! One bucket for each of a bounded number of keys.

mod answer;

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::hash::Hash;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

pub use self::answer::KeyedAcquire;
use super::order::Order;
use super::{Acquire, RateHeaders, RateLimit, TokenBucket};
use crate::error::InputError;
use crate::hashing::KeyHasher;
use crate::time::{Clock, Span, Timestamp};

/// The settings of a [`KeyedRateLimiter`].
///
/// ```
/// use libgateway::{KeyedRateLimiterConfig, RateLimit};
/// let config = KeyedRateLimiterConfig::default().limit(RateLimit::per_second(5, 10)).keys_max(1_000);
/// let config = config.overflow(RateLimit::per_second(50, 50));
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
    /// The limit that new keys share while there is no room to remember them; `None` is that of a hundredth of `keys_max`
    /// keys, at least of one. A burst of 0 refuses them.
    pub overflow: Option<RateLimit>,
    /// A key that has called again stays remembered for so long after its last call, at least, though its bucket be full:
    /// while strangers fill the limiter, who came before keeps a bucket of its own. Default 10 minutes. Up to half of
    /// `keys_max` stay so.
    pub known_for: Span,
    /// What keys are hashed with. Give random bits where strangers choose the keys, or they can choose keys that collide.
    /// No answer depends on it.
    pub seed: u64,
}

/// Rate limits by key: each key has a bucket of the same [`RateLimit`], full when first seen.
///
/// At most `keys_max` buckets are kept. When there is no room for a new key, one whose bucket is full again is forgotten:
/// a full bucket and none are the same. Of those the one that may be forgotten for longest goes, and a key that has
/// called again (a known one) not before [`KeyedRateLimiterConfig::known_for`] after its last call. If none may be
/// forgotten, new keys take from one bucket that they share, and the answer says so: [`KeyedAcquire::Shared`], or
/// [`KeyedAcquire::Full`] when that has no tokens either. So a flood of made-up keys takes nothing from known ones, and
/// not all from new ones. Answers depend on the calls alone, never on the seed or the memory's layout.
///
/// Any `now` may be passed, as with [`crate::RateLimiter`]; there is one clock for all keys, so a wild reading that comes
/// with one of them does not lock the others. How long a key may be is for the caller to check.
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
    clock: Clock,
    /// The machine's time of the latest promise, for any key.
    awaited: Timestamp,
    hasher: KeyHasher,
    /// Key and bucket lie in the table itself: the check of a known key touches two cache lines.
    entries: HashTable<Entry<K>>,
    order: Order,
    /// What new keys share while there is no room.
    shared: TokenBucket,
    overflow: RateLimit,
    /// Entries that are known.
    known: u32,
    /// The age of the next key.
    next_age: u32,
}

/// All that a [`KeyedRateLimiter`]'s answers depend on beside its configuration, in an order of its own.
///
/// ```
/// use libgateway::{KeyedRateLimiter, KeyedRateLimiterConfig, KeyedSnapshot, Timestamp};
/// let config = KeyedRateLimiterConfig::default();
/// let mut limiter = KeyedRateLimiter::<String>::new(config, Timestamp::EPOCH)?;
/// let _ = limiter.try_acquire("acme", 600, Timestamp::EPOCH);
/// let text = serde_json::to_string(&limiter.snapshot()).unwrap();
/// let snapshot: KeyedSnapshot<String> = serde_json::from_str(&text).unwrap();
/// let restored = KeyedRateLimiter::restore(config, snapshot)?;
/// assert_eq!(restored.available("acme", Timestamp::from_secs(2)), 600);
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyedSnapshot<K> {
    clock: Clock,
    awaited: Timestamp,
    shared: TokenBucket,
    next_age: u32,
    keys: Vec<KeyState<K>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyState<K> {
    key: K,
    bucket: TokenBucket,
    seen: u32,
    age: u32,
}

#[derive(Clone)]
struct Entry<K> {
    key: K,
    bucket: TokenBucket,
    slot: u32,
    /// The end of the granule of time in which a known key called last; 0 for one that has not called again.
    seen: u32,
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

    /// Sets the limit that new keys share while there is no room.
    #[must_use]
    pub const fn overflow(mut self, overflow: RateLimit) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// The limit that new keys share: that of one key in a hundred, so that all keys together get no more than a hundredth,
    /// or one key's part, above what `keys_max` allows.
    fn overflow_or_default(&self) -> RateLimit {
        let keys = u64::from(self.keys_max / 100).max(1);
        let (amount, burst) = (self.limit.amount().saturating_mul(keys), self.limit.burst().saturating_mul(keys));
        // What is too large to be counted is as good as what one key has.
        self.overflow.unwrap_or_else(|| RateLimit::new(amount, self.limit.per(), burst).unwrap_or(self.limit))
    }

    /// Sets for how long a known key stays remembered after its last call.
    #[must_use]
    pub const fn known_for(mut self, known_for: Span) -> Self {
        self.known_for = known_for;
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
        Self {
            limit: RateLimit::default(),
            keys_max: 100_000,
            overflow: None,
            known_for: Span::from_secs(600),
            seed: 0,
        }
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
            clock: Clock::new(now),
            awaited: now,
            hasher: KeyHasher::new(config.seed),
            entries: HashTable::new(),
            order: Order::default(),
            shared: TokenBucket::full(),
            overflow: config.overflow_or_default(),
            known: 0,
            next_age: 0,
        })
    }

    /// A limiter as [`KeyedRateLimiter::snapshot`] described it, answering as the original would. `config` carries the
    /// limit that was last set. What passed meanwhile is made up for by the first reading of the clock.
    ///
    /// # Errors
    /// As [`KeyedRateLimiter::new`]; then, whichever comes first, [`InputError::Repeated`] for a key that stands there
    /// twice, [`InputError::TooLong`] for more than `keys_max` keys, or [`InputError::OutOfRange`] for a bucket that owes
    /// more than its burst.
    ///
    /// # Complexity
    /// O(keys log keys).
    pub fn restore(config: KeyedRateLimiterConfig, snapshot: KeyedSnapshot<K>) -> Result<Self, InputError> {
        let KeyedSnapshot { clock, awaited, shared, next_age, keys } = snapshot;
        let mut limiter = Self { clock, awaited, shared, next_age, ..Self::new(config, clock.now())? };
        let owes = |bucket: &TokenBucket, limit: &RateLimit| {
            let error = InputError::OutOfRange { field: "bucket", value: u64::MAX, min: 0, max: limit.burst() };
            if bucket.fits(limit, clock.now()) { Ok(()) } else { Err(error) }
        };
        owes(&shared, &limiter.overflow)?;
        for KeyState { key, bucket, seen, age } in keys {
            let hash = limiter.hasher.hash(&key);
            if limiter.entries.find(hash, |entry| entry.key == key).is_some() {
                return Err(InputError::Repeated { field: "keys" });
            }
            let max = config.keys_max as usize;
            if limiter.entries.len() == max {
                return Err(InputError::TooLong { field: "keys", len: max.saturating_add(1), max });
            }
            owes(&bucket, &config.limit)?;
            limiter.insert(hash, key, bucket, seen, age);
            limiter.known += u32::from(seen > 0);
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
    pub fn try_acquire<Q>(&mut self, key: &Q, cost: u64, now: Timestamp) -> KeyedAcquire
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.clock.observe_awaited(now, self.awaited);
        let now = self.clock.now();
        let hash = self.hasher.hash(key);
        let answer: KeyedAcquire = match self.entries.find_mut(hash, |entry| entry.key.borrow() == key) {
            Some(entry) => {
                let seen = granule_end(now);
                if entry.seen != seen && cost > 0 {
                    Self::see(entry, seen, &mut self.known, self.config.keys_max);
                }
                entry.bucket.try_acquire(&self.config.limit, cost, now).into()
            }
            None => self.try_acquire_new(hash, key, cost),
        };
        if let KeyedAcquire::Deny { until } | KeyedAcquire::Full { until } = answer {
            self.awaited = until;
        }
        answer.to_host(&self.clock)
    }

    /// What [`KeyedRateLimiter::try_acquire`] would answer. It is `&mut` only to catch up on the order of keys, which
    /// nobody can tell.
    ///
    /// # Complexity
    /// As [`KeyedRateLimiter::try_acquire`].
    pub fn peek<Q>(&mut self, key: &Q, cost: u64, now: Timestamp) -> KeyedAcquire
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let clock = self.peek_clock(now);
        let now = clock.now();
        let answer = match self.bucket(key) {
            Some(bucket) => bucket.peek(&self.config.limit, cost, now).into(),
            None => {
                let answer = TokenBucket::full().peek(&self.config.limit, cost, now);
                if cost == 0 || !answer.is_allowed() || self.has_room() {
                    answer.into()
                } else {
                    match self.first_to_leave(now) {
                        Ok(_) => answer.into(),
                        Err(until) => without_room(self.shared.peek(&self.overflow, cost, now), until),
                    }
                }
            }
        };
        answer.to_host(&clock)
    }

    /// Gives `cost` tokens of `key` back, up to the burst. Nothing goes back to the bucket that new keys share: a key that
    /// is not remembered has all its tokens.
    ///
    /// # Complexity
    /// O(log keys).
    pub fn refund<Q>(&mut self, key: &Q, cost: u64)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hasher.hash(key);
        // A key that is not there has a full bucket.
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.key.borrow() == key) {
            entry.bucket.refund(&self.config.limit, cost);
            self.order.lower(entry.slot, entry.leaves_at(&self.config));
        }
    }

    /// Whole tokens `key` has at `now`: all of them where it is not remembered. Whether there is room for a new key,
    /// [`KeyedRateLimiter::peek`] says.
    pub fn available<Q>(&self, key: &Q, now: Timestamp) -> u64
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.bucket(key).unwrap_or_default().available(&self.config.limit, self.peek_clock(now).now())
    }

    /// What the rate limit headers for `key` say at `now`.
    pub fn headers<Q>(&self, key: &Q, now: Timestamp) -> RateHeaders
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.bucket(key).unwrap_or_default().headers(&self.config.limit, self.peek_clock(now).now())
    }

    /// The settings, with the limit that was last set.
    pub const fn config(&self) -> &KeyedRateLimiterConfig {
        &self.config
    }

    /// How many keys are remembered. Some may be full already and be forgotten when there is need.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Changes the limit of all keys at `now`. A key keeps the tokens it has, up to the new burst, see
    /// [`TokenBucket::rescale`]; a key that is full stays full, whether it is remembered or not. Where the shared bucket
    /// has no limit of its own it changes likewise.
    ///
    /// # Complexity
    /// O(keys log keys): the order in which buckets become full changes with the limit. It is not a call for every
    /// request.
    pub fn set_limit(&mut self, limit: RateLimit, now: Timestamp) {
        self.clock.observe_awaited(now, self.awaited);
        let (old, now) = (self.config.limit, self.clock.now());
        let change = |bucket: &mut TokenBucket, old: &RateLimit, limit: &RateLimit| {
            if bucket.is_full(old, now) {
                *bucket = TokenBucket::full();
            } else {
                bucket.rescale(old, limit, now);
            }
        };
        self.config.limit = limit;
        let overflow = self.config.overflow_or_default();
        change(&mut self.shared, &self.overflow, &overflow);
        self.overflow = overflow;
        let mut bounds: Vec<_> = core::iter::repeat_n(Timestamp::EPOCH, self.order.slots()).collect();
        for entry in &mut self.entries {
            change(&mut entry.bucket, &old, &limit);
            if let Some(bound) = bounds.get_mut(entry.slot as usize) {
                *bound = entry.leaves_at(&self.config);
            }
        }
        self.order.reset(|slot| bounds.get(slot as usize).copied().unwrap_or_default());
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
        self.drop_slot(entry.slot, entry.seen);
        true
    }

    /// Forgets the keys for which `keep` is false; they are full from then on. The order of calls means nothing and
    /// must not reach an output.
    ///
    /// # Complexity
    /// O(keys).
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &TokenBucket) -> bool) {
        let Self { entries, order, known, .. } = self;
        entries.retain(|entry| {
            let kept = keep(&entry.key, &entry.bucket);
            if !kept {
                order.remove(entry.slot);
                *known -= u32::from(entry.seen > 0);
            }
            kept
        });
    }

    /// Forgets up to `at_most` keys that may be forgotten at `now`, to give room early; returns how many. Nobody needs to
    /// call it: room is made when it is needed.
    ///
    /// # Complexity
    /// Amortised O(log keys) for each key forgotten.
    pub fn evict_full(&mut self, now: Timestamp, at_most: usize) -> usize {
        self.clock.observe_awaited(now, self.awaited);
        (0..at_most).take_while(|_| self.evict().is_ok()).count()
    }

    /// What [`KeyedRateLimiter::restore`] makes a copy of, together with [`KeyedRateLimiter::config`]. Two limiters that
    /// had the same calls give the same, whatever their seed.
    ///
    /// # Complexity
    /// O(keys log keys).
    pub fn snapshot(&self) -> KeyedSnapshot<K>
    where
        K: Ord + Clone,
    {
        let states = self.entries.iter().map(|entry| {
            let Entry { key, bucket, slot, seen } = entry.clone();
            KeyState { key, bucket, seen, age: self.order.age(slot) }
        });
        let mut keys: Vec<_> = states.collect();
        keys.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let Self { clock, awaited, shared, next_age, .. } = *self;
        KeyedSnapshot { clock, awaited, shared, next_age, keys }
    }

    /// Checks that keys, hashes, slots and bounds agree.
    ///
    /// # Panics
    /// If they do not: that is a defect of the limiter.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_invariants(&self) {
        assert!(self.entries.len() <= self.config.keys_max as usize, "keys are bounded");
        self.order.check_invariants(self.entries.len());
        let known = self.entries.iter().filter(|entry| entry.seen > 0).count();
        assert_eq!(known, self.known as usize, "known keys are counted");
        assert!(self.shared.fits(&self.overflow, self.clock.now()), "the shared bucket is one of its limit");
        for entry in &self.entries {
            assert_eq!(self.hasher.hash(&entry.key), self.order.hash(entry.slot), "a slot knows its key's hash");
            assert!(self.order.bound(entry.slot) <= entry.leaves_at(&self.config), "bounds are lower bounds");
            assert!(entry.bucket.fits(&self.config.limit, self.clock.now()), "a bucket is one of the limit");
        }
    }

    #[cold]
    #[inline(never)]
    fn try_acquire_new<Q>(&mut self, hash: u64, key: &Q, cost: u64) -> KeyedAcquire
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        let now = self.clock.now();
        let mut bucket = TokenBucket::full();
        let answer = bucket.try_acquire(&self.config.limit, cost, now);
        if cost == 0 || !answer.is_allowed() {
            return answer.into();
        }
        if !self.has_room() {
            if let Err(until) = self.evict() {
                return without_room(self.shared.try_acquire(&self.overflow, cost, now), until);
            }
        }
        let age = self.next_age;
        self.next_age = age.wrapping_add(1);
        self.insert(hash, key.to_owned(), bucket, 0, age);
        answer.into()
    }

    /// A remembered key has called: it becomes known where there is room for known ones, or is seen again.
    #[cold]
    #[inline(never)]
    fn see(entry: &mut Entry<K>, seen: u32, known: &mut u32, keys_max: u32) {
        if entry.seen == 0 {
            if *known >= keys_max / 2 {
                return;
            }
            *known += 1;
        }
        entry.seen = seen;
    }

    fn peek_clock(&self, now: Timestamp) -> Clock {
        let mut clock = self.clock;
        clock.observe_awaited(now, self.awaited);
        clock
    }

    fn has_room(&self) -> bool {
        self.entries.len() < self.config.keys_max as usize
    }

    /// Remembers a key that is not there yet. There must be room.
    fn insert(&mut self, hash: u64, key: K, bucket: TokenBucket, seen: u32, age: u32) {
        let mut entry = Entry { key, bucket, slot: 0, seen };
        entry.slot = self.order.insert(hash, entry.leaves_at(&self.config), age);
        self.entries.insert_unique(hash, entry, |entry| self.order.hash(entry.slot));
    }

    /// Forgets the key that may be forgotten for longest, or says when one may be.
    fn evict(&mut self) -> Result<(), Timestamp> {
        let (slot, hash) = self.first_to_leave(self.clock.now())?;
        if let Ok(entry) = self.entries.find_entry(hash, |entry| entry.slot == slot) {
            let (entry, _) = entry.remove();
            self.drop_slot(slot, entry.seen);
        }
        Ok(())
    }

    fn drop_slot(&mut self, slot: u32, seen: u32) {
        self.order.remove(slot);
        self.known -= u32::from(seen > 0);
    }

    /// Slot and hash of the key that may be forgotten first, or from when it may be if that is after `now`.
    ///
    /// Each turn of the loop makes one bound true. It stays true until that key calls again, so there are never more
    /// turns than calls. Only a true bound is acted on: which key is forgotten must not depend on when bounds were raised.
    fn first_to_leave(&mut self, now: Timestamp) -> Result<(u32, u64), Timestamp> {
        while let Some((slot, hash, bound)) = self.order.first() {
            let Some(entry) = self.entries.find(hash, |entry| entry.slot == slot) else { break };
            let leaves_at = entry.leaves_at(&self.config);
            if leaves_at != bound {
                self.order.raise_first(leaves_at);
                continue;
            }
            // "Never" is not "now", not even at the end of time.
            return if leaves_at <= now && leaves_at < Timestamp::MAX { Ok((slot, hash)) } else { Err(leaves_at) };
        }
        Err(Timestamp::MAX)
    }

    fn bucket<Q>(&self, key: &Q) -> Option<TokenBucket>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.entries.find(self.hasher.hash(key), |entry| entry.key.borrow() == key).map(|entry| entry.bucket)
    }
}

impl<K> Entry<K> {
    /// The instant from which the key may be forgotten: its bucket is full, and if it is known it was long unseen.
    fn leaves_at(&self, config: &KeyedRateLimiterConfig) -> Timestamp {
        let full_at = self.bucket.full_at(&config.limit);
        if self.seen == 0 {
            return full_at;
        }
        full_at.max(Timestamp::from_nanos(u64::from(self.seen) << GRANULE_BITS) + config.known_for)
    }
}

impl<K> core::fmt::Debug for KeyedRateLimiter<K> {
    /// Shows the settings and the number of keys: the keys are many and their order means nothing.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyedRateLimiter")
            .field("config", &self.config)
            .field("clock", &self.clock)
            .field("len", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// The answer to a new key for which there will be room at `until`, from the bucket that new keys share.
fn without_room(shared: Acquire, until: Timestamp) -> KeyedAcquire {
    match shared {
        Acquire::Allow { remaining } => KeyedAcquire::Shared { remaining },
        Acquire::Deny { until: tokens_at } => KeyedAcquire::Full { until: until.min(tokens_at) },
        Acquire::Never => KeyedAcquire::Full { until },
    }
}

/// The end of the granule that `now` lies in, in granules; at least 1.
#[inline]
fn granule_end(now: Timestamp) -> u32 {
    ((now.as_nanos() >> GRANULE_BITS) as u32).saturating_add(1)
}

/// Known keys are seen to 2^32 ns, about 4.3 s: it spares a write for each call, and a key four bytes.
const GRANULE_BITS: u32 = 32;

#[cfg(test)]
mod tests;
