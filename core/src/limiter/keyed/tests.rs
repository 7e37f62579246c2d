//! The keyed limiter against a model, and under floods.

use std::string::{String, ToString};

use proptest::prelude::*;

use super::*;

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn limiter<K: Hash + Eq>(limit: RateLimit, keys_max: u32) -> KeyedRateLimiter<K> {
    let config =
        KeyedRateLimiterConfig::default().limit(limit).keys_max(keys_max).overflow(RateLimit::per_second(0, 0));
    KeyedRateLimiter::new(config.known_for(Span::ZERO), Timestamp::EPOCH).unwrap()
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
    limiter.refund(&1, u64::MAX);
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

fn secs(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

const START: u64 = 2_000_000_000;
const DAY: u64 = 86_400;

#[test]
fn one_keys_wild_reading_does_not_lock_the_others() {
    let config = KeyedRateLimiterConfig::default().limit(RateLimit::per_second(10, 1));
    let mut limiter = KeyedRateLimiter::<u64>::new(config, secs(START)).unwrap();
    for wild in [secs(START + DAY), secs(START + 10 * 365 * DAY), Timestamp::MAX, Timestamp::EPOCH] {
        assert!(limiter.try_acquire(&1, 1, secs(START)).is_allowed());
        let _ = limiter.try_acquire(&2, 1, wild);
        let _ = limiter.try_acquire(&1, 1, secs(START));
        let answer = limiter.try_acquire(&1, 1, secs(START));
        let KeyedAcquire::Deny { until } = answer else { panic!("{answer:?}") };
        assert!(until.since(secs(START)) <= Span::from_millis(100), "{wild:?}: {until:?}");
        assert!(limiter.try_acquire(&1, 1, secs(START + 1)).is_allowed());
        limiter.check_invariants();
        // Back to the start for the next one: it makes no tokens.
        let _ = limiter.try_acquire(&3, 0, secs(START));
        let _ = limiter.remove(&1);
    }
}

#[test]
fn keys_refill_at_the_pace_of_the_running_clock_after_a_step() {
    for ahead in [8 * 3_600, 10 * 365 * DAY] {
        let config = KeyedRateLimiterConfig::default().limit(RateLimit::per_second(10, 100));
        let mut limiter = KeyedRateLimiter::<u64>::new(config, secs(START + ahead)).unwrap();
        assert!(limiter.try_acquire(&1, 100, secs(START + ahead)).is_allowed());
        let until = secs(START + 34);
        assert_eq!(limiter.peek(&1, 40, secs(START + 30)), KeyedAcquire::Deny { until });
        assert_eq!(limiter.try_acquire(&1, 40, secs(START + 30)), KeyedAcquire::Deny { until });
        assert_eq!(
            (limiter.available(&1, secs(START + 33)), limiter.headers(&1, until).reset),
            (30, Span::from_secs(6))
        );
        assert!(limiter.try_acquire(&1, 40, until).is_allowed());
    }
}

#[test]
fn a_copy_answers_as_the_original_and_has_refilled_as_the_time_passed() {
    let config = KeyedRateLimiterConfig::default().limit(RateLimit::new(1, Span::from_secs(60), 100).unwrap());
    let mut limiter = KeyedRateLimiter::<u64>::new(config, secs(START)).unwrap();
    assert!(limiter.try_acquire(&1, 100, secs(START)).is_allowed());
    assert!(limiter.try_acquire(&2, 1, secs(START)).is_allowed());
    for (off, tokens) in [(0, 0), (59, 0), (60, 1), (5_999, 99), (7_200, 100), (5 * DAY, 100)] {
        let bytes = postcard::to_allocvec(&limiter.snapshot()).unwrap();
        let copy = KeyedRateLimiter::restore(config.seed(off), postcard::from_bytes(&bytes).unwrap()).unwrap();
        copy.check_invariants();
        assert_eq!(copy.available(&1, secs(START + off)), tokens);
        assert_eq!(copy.snapshot(), limiter.snapshot());
    }
}

#[test]
fn a_copy_is_not_made_of_doubled_or_too_many_keys_or_of_debts_above_the_burst() {
    let mut limiter = limiter::<u64>(RateLimit::per_second(1, 10), 2);
    let _ = limiter.try_acquire(&1, 1, at(0));
    let _ = limiter.try_acquire(&2, 10, at(0));
    let both = limiter.snapshot();
    let restore = |config, snapshot| KeyedRateLimiter::restore(config, snapshot).map(|copy| copy.len());
    assert_eq!(restore(*limiter.config(), both.clone()), Ok(2));
    let mut twice = both.clone();
    twice.keys[1].key = 1;
    assert_eq!(restore(*limiter.config(), twice), Err(InputError::Repeated { field: "keys" }));
    let tight = limiter.config().keys_max(1);
    assert_eq!(restore(tight, both.clone()), Err(InputError::TooLong { field: "keys", len: 2, max: 1 }));
    let small = limiter.config().limit(RateLimit::per_second(1, 9));
    assert!(matches!(restore(small, both), Err(InputError::OutOfRange { field: "bucket", .. })));
}

#[test]
fn new_keys_share_a_bucket_while_there_is_no_room_and_are_told_so() {
    let slow = RateLimit::new(1, Span::from_secs(60), 2).unwrap();
    let config = KeyedRateLimiterConfig::default().limit(slow).keys_max(1);
    let mut limiter = KeyedRateLimiter::<u64>::new(config, secs(0)).unwrap();
    assert_eq!(limiter.try_acquire(&1, 2, secs(0)), KeyedAcquire::Allow { remaining: 0 });
    assert_eq!(limiter.peek(&2, 1, secs(1)), KeyedAcquire::Shared { remaining: 1 });
    assert_eq!(limiter.try_acquire(&2, 1, secs(1)), KeyedAcquire::Shared { remaining: 1 });
    assert_eq!(limiter.try_acquire(&3, 1, secs(1)), KeyedAcquire::Shared { remaining: 0 });
    // The shared bucket has a token again at 61 s, and key 1 leaves its room at 120 s.
    assert_eq!(limiter.try_acquire(&4, 1, secs(1)), KeyedAcquire::Full { until: secs(61) });
    assert_eq!(limiter.try_acquire(&4, 2, secs(1)), KeyedAcquire::Full { until: secs(120) });
    assert_eq!(limiter.try_acquire(&4, 2, at(119_999_999_999)), KeyedAcquire::Full { until: secs(120) });
    assert_eq!(limiter.try_acquire(&4, 2, secs(120)), KeyedAcquire::Allow { remaining: 0 });
    assert_eq!(limiter.len(), 1);
}

#[test]
fn a_known_key_keeps_its_room_though_its_bucket_be_full() {
    let config = KeyedRateLimiterConfig::default().limit(RateLimit::per_second(1, 2)).keys_max(2);
    let config = config.known_for(Span::from_secs(600)).overflow(RateLimit::per_second(0, 0));
    let mut limiter = KeyedRateLimiter::<u64>::new(config, secs(0)).unwrap();
    for now in [0, 10] {
        assert!(limiter.try_acquire(&1, 1, secs(now)).is_allowed());
    }
    assert!(limiter.try_acquire(&2, 1, secs(10)).is_allowed());
    // Key 2 came once and makes room; key 1 came again and does not, for ten minutes from the end of its 4.3 s.
    assert!(limiter.try_acquire(&3, 2, secs(300)).is_allowed());
    let leaves_at = at(3 << 32) + Span::from_secs(600);
    assert!(limiter.try_acquire(&4, 2, secs(302)).is_allowed());
    assert_eq!(limiter.try_acquire(&5, 1, secs(303)), KeyedAcquire::Full { until: secs(304) });
    assert!(limiter.try_acquire(&5, 2, secs(610)).is_allowed());
    let almost = at(leaves_at.as_nanos() - 1);
    assert!(limiter.try_acquire(&5, 2, almost).is_allowed());
    assert_eq!(limiter.try_acquire(&6, 1, almost), KeyedAcquire::Full { until: leaves_at });
    assert!(limiter.try_acquire(&6, 1, leaves_at).is_allowed());
    limiter.check_invariants();
}

/// A flood of a thousand made-up keys a second for ten minutes, a hundred callers that were known before it and honest
/// newcomers. Says how many calls of the known and of the newcomers were allowed, and how many were made.
fn flood(config: KeyedRateLimiterConfig, calls_per_key: u64) -> [(u64, u64); 2] {
    let mut limiter = KeyedRateLimiter::<u64>::new(config, secs(START)).unwrap();
    let (mut known, mut newcomers) = ((0, 0), (0, 0));
    let mut made_up = 1_000_000;
    let call =
        |limiter: &mut KeyedRateLimiter<u64>, key, now| u64::from(limiter.try_acquire(&key, 1, now).is_allowed());
    for second in 0..700 {
        // Each of the known calls every 7 s, so that its bucket is full again in between.
        for key in (0..100).filter(|key| (second + key) % 7 == 0) {
            known.0 += call(&mut limiter, key, secs(START + second));
            known.1 += 1;
        }
        for milli in (0..1_000).filter(|_| second >= 100) {
            let now = secs(START + second) + Span::from_millis(milli);
            for _ in 0..calls_per_key {
                call(&mut limiter, made_up, now);
            }
            made_up += 1;
            if milli == second * 37 % 1_000 {
                newcomers.0 += call(&mut limiter, 1_000 + second, now);
                newcomers.1 += 1;
            }
        }
        assert!(limiter.len() <= config.keys_max as usize);
    }
    limiter.check_invariants();
    [known, newcomers]
}

#[test]
fn a_flood_of_made_up_keys_takes_nothing_from_known_ones_and_not_all_from_new_ones() {
    // It once took the place of a known caller as soon as its bucket was full, and then everybody's.
    let limit = RateLimit::new(10, Span::from_secs(60), 10).unwrap();
    let config = KeyedRateLimiterConfig::default().limit(limit).keys_max(2_000);
    // With the default overflow, 20 keys' worth, and with one of 100 a second; with keys that come once, and again.
    let loose = config.overflow(RateLimit::per_second(100, 100));
    for (config, calls_per_key, least) in [(config, 1, 100), (loose, 1, 100), (loose, 3, 20)] {
        let [known, newcomers] = flood(config, calls_per_key);
        assert_eq!(known.0, known.1, "a known caller was refused");
        assert_eq!(newcomers.1, 600);
        assert!(newcomers.0 >= least, "{calls_per_key} calls a key: {newcomers:?}");
        for seed in [1, u64::MAX] {
            assert_eq!(flood(config.seed(seed), calls_per_key), [known, newcomers]);
        }
    }
    // Without protection and overflow the same flood refuses known callers, so this test can fail.
    let bare = config.known_for(Span::ZERO).overflow(RateLimit::per_second(0, 0));
    let [known, _] = flood(bare, 1);
    assert!(known.0 < known.1);
}

/// The model: a list that is searched for everything.
#[derive(Clone)]
struct Model {
    config: KeyedRateLimiterConfig,
    shared: TokenBucket,
    next_age: u32,
    keys: Vec<(u8, TokenBucket, u32, u32)>,
}

impl Model {
    fn overflow(&self) -> RateLimit {
        // Below two hundred keys a hundredth of them is one.
        self.config.overflow.unwrap_or(self.config.limit)
    }

    fn leaves_at(&self, (_, bucket, seen, _): &(u8, TokenBucket, u32, u32)) -> Timestamp {
        let known = at(u64::from(*seen) << 32) + self.config.known_for;
        bucket.full_at(&self.config.limit).max(if *seen > 0 { known } else { at(0) })
    }

    fn try_acquire(&mut self, key: u8, cost: u64, now: Timestamp) -> KeyedAcquire {
        let half = self.config.keys_max as usize / 2;
        let known = self.keys.iter().filter(|(.., seen, _)| *seen > 0).count();
        let limit = self.config.limit;
        if let Some((_, bucket, seen, _)) = self.keys.iter_mut().find(|(own, ..)| *own == key) {
            if cost > 0 && (*seen > 0 || known < half) {
                *seen = (now.as_nanos() >> 32) as u32 + 1;
            }
            return bucket.try_acquire(&limit, cost, now).into();
        }
        let mut bucket = TokenBucket::full();
        let answer = bucket.try_acquire(&limit, cost, now);
        if cost == 0 || !answer.is_allowed() {
            return answer.into();
        }
        if self.keys.len() == self.config.keys_max as usize {
            let ranks = self.keys.iter().enumerate().map(|(place, entry)| ((self.leaves_at(entry), entry.3), place));
            let ((leaves_at, _), place) = ranks.min().unwrap();
            if leaves_at > now || leaves_at == Timestamp::MAX {
                let limit = self.overflow();
                return match self.shared.try_acquire(&limit, cost, now) {
                    Acquire::Allow { remaining } => KeyedAcquire::Shared { remaining },
                    Acquire::Deny { until } => KeyedAcquire::Full { until: until.min(leaves_at) },
                    Acquire::Never => KeyedAcquire::Full { until: leaves_at },
                };
            }
            self.keys.remove(place);
        }
        self.keys.push((key, bucket, 0, self.next_age));
        self.next_age += 1;
        answer.into()
    }

    fn set_limit(&mut self, limit: RateLimit, now: Timestamp) {
        let old = self.config.limit;
        let shared = self.config.overflow.is_none().then_some(&mut self.shared);
        for bucket in self.keys.iter_mut().map(|(_, bucket, ..)| bucket).chain(shared) {
            if bucket.is_full(&old, now) {
                *bucket = TokenBucket::full();
            } else {
                bucket.rescale(&old, &limit, now);
            }
        }
        self.config.limit = limit;
    }

    fn available(&self, key: u8, now: Timestamp) -> u64 {
        let bucket = self.keys.iter().find(|(own, ..)| *own == key).map(|(_, bucket, ..)| *bucket).unwrap_or_default();
        bucket.available(&self.config.limit, now)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Acquire { key: u8, cost: u64 },
    Refund { key: u8, cost: u64 },
    SetLimit { limit: RateLimit },
    Remove { key: u8 },
    Retain { below: u8 },
    EvictFull { at_most: usize },
    Restore { seed: u64 },
}

fn limits() -> impl Strategy<Value = RateLimit> {
    (0_u64..8, 1_u64..40, 0_u64..12)
        .prop_map(|(amount, per, burst)| RateLimit::new(amount, Span::from_nanos(per), burst).unwrap())
}

/// An operation, and how much time passes before it.
fn ops() -> impl Strategy<Value = Vec<(Op, u64)>> {
    let step = prop_oneof![4 => Just(0_u64), 4 => 0_u64..12, 1 => 0_u64..400, 1 => (0_u64..4).prop_map(|n| n << 32)];
    let op = prop_oneof![
        12 => (0_u8..8, 0_u64..13).prop_map(|(key, cost)| Op::Acquire { key, cost }),
        2 => (0_u8..8, 0_u64..9).prop_map(|(key, cost)| Op::Refund { key, cost }),
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
    fn a_limiter_answers_like_a_list_whatever_its_seed(
        limit in limits(),
        overflow in proptest::option::of(limits()),
        keys_max in 1_u32..6,
        known_for in prop_oneof![Just(0_u64), Just(5), Just(2 << 32)],
        ops in ops(),
    ) {
        let mut config = KeyedRateLimiterConfig::default().limit(limit).keys_max(keys_max);
        (config.overflow, config.known_for) = (overflow, Span::from_nanos(known_for));
        let mut model = Model { config, shared: TokenBucket::full(), next_age: 0, keys: Vec::new() };
        let mut limiter = KeyedRateLimiter::<u8>::new(config, at(0)).unwrap();
        let mut now = at(0);
        for (op, step) in ops {
            now += Span::from_nanos(step);
            match op {
                Op::Acquire { key, cost } => {
                    let answer = limiter.peek(&key, cost, now);
                    prop_assert_eq!(limiter.try_acquire(&key, cost, now), answer);
                    prop_assert_eq!(answer, model.try_acquire(key, cost, now));
                    if let KeyedAcquire::Deny { until } | KeyedAcquire::Full { until } = answer {
                        prop_assert!(until == Timestamp::MAX || limiter.clone().try_acquire(&key, cost, until).is_allowed());
                        let early = at(until.as_nanos() - 1);
                        prop_assert!(!limiter.clone().try_acquire(&key, cost, early).is_allowed());
                    }
                }
                Op::Refund { key, cost } => {
                    limiter.refund(&key, cost);
                    let limit = model.config.limit;
                    model.keys.iter_mut().filter(|(own, ..)| *own == key).for_each(|entry| entry.1.refund(&limit, cost));
                }
                Op::SetLimit { limit } => {
                    limiter.set_limit(limit, now);
                    model.set_limit(limit, now);
                }
                Op::Remove { key } => {
                    prop_assert_eq!(limiter.remove(&key), model.keys.iter().any(|(own, ..)| *own == key));
                    model.keys.retain(|(own, ..)| *own != key);
                }
                Op::Retain { below } => {
                    limiter.retain(|key, _| *key < below);
                    model.keys.retain(|(own, ..)| *own < below);
                }
                Op::EvictFull { at_most } => {
                    let evicted = limiter.evict_full(now, at_most);
                    let mut ranks: Vec<_> = model.keys.iter().map(|entry| (model.leaves_at(entry), entry.3)).collect();
                    ranks.retain(|(leaves_at, _)| *leaves_at <= now);
                    ranks.sort_unstable();
                    ranks.truncate(at_most);
                    prop_assert_eq!(evicted, ranks.len());
                    model.keys.retain(|(.., age)| ranks.iter().all(|(_, own)| own != age));
                }
                Op::Restore { seed } => {
                    let copy = KeyedRateLimiter::restore(limiter.config().seed(seed), limiter.snapshot()).unwrap();
                    prop_assert_eq!(copy.snapshot(), limiter.snapshot());
                    limiter = copy;
                }
            }
            limiter.check_invariants();
            prop_assert_eq!(limiter.len(), model.keys.len());
            for key in 0..8 {
                prop_assert_eq!(limiter.available(&key, now), model.available(key, now));
                prop_assert_eq!(limiter.headers(&key, now).remaining, model.available(key, now));
            }
        }
    }
}
