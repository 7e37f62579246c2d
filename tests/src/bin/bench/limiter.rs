//! The keyed limiter against governor, on keys that are known. Neither reads a clock.

use std::hash::Hash;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use foldhash::fast::FixedState;
use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use libgateway::{KeyedRateLimiter, KeyedRateLimiterConfig, RateLimit, Span, Timestamp};

use crate::harness::{Budget, Row, Subject};
use crate::rng::Rng;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (answer, always) in [("allow", true), ("deny", false)] {
        rows.push(row(
            format!("limiter/text-keys/{answer}"),
            always,
            |key| format!("customer-{key:05}"),
            |limiter, key, now| limiter.try_acquire(key.as_str(), 1, now).is_allowed(),
        ));
        rows.push(row(
            format!("limiter/number-keys/{answer}"),
            always,
            |key| key as u64,
            |limiter, key, now| limiter.try_acquire(key, 1, now).is_allowed(),
        ));
    }
    rows
}

fn row<K: Hash + Eq + Clone + 'static>(
    name: String,
    always: bool,
    key: fn(usize) -> K,
    check: fn(&mut KeyedRateLimiter<K>, &K, Timestamp) -> bool,
) -> Row {
    let build = move || {
        let keys: Vec<K> = (0..KEYS).map(key).collect();
        Ok(vec![
            ours(&keys, always, check)?,
            // What `RateLimiter::keyed` makes.
            peer(&keys, always, "governor (DashMap, SipHash)", |quota, clock| {
                let limiter = RateLimiter::dashmap_with_clock(quota, clock);
                move |key: &K| limiter.check_key(key).is_ok()
            }),
            // One lock instead of shards, and our hash.
            peer(&keys, always, "governor (HashMap, foldhash)", |quota, clock| {
                let limiter = RateLimiter::hashmap_with_clock_and_hasher(quota, clock, FixedState::default());
                move |key: &K| limiter.check_key(key).is_ok()
            }),
        ])
    };
    Row { name, n: KEYS as u64, budget: Budget::Peer, build: Box::new(build) }
}

fn ours<K: Hash + Eq + Clone + 'static>(
    keys: &[K],
    always: bool,
    check: fn(&mut KeyedRateLimiter<K>, &K, Timestamp) -> bool,
) -> Result<Subject, libgateway::error::InputError> {
    // As the quotas of the peer: a million a second, or one an hour.
    let limit = if always {
        RateLimit::per_second(1_000_000, 1_000_000)
    } else {
        RateLimit::new(1, Span::from_secs(3_600), 1)?
    };
    let config = KeyedRateLimiterConfig::default().limit(limit);
    let mut limiter = KeyedRateLimiter::new(config, Timestamp::EPOCH)?;
    let mut now = Timestamp::EPOCH;
    let mut rng = Rng::new(1);
    let keys = keys.to_vec();
    keys.iter().for_each(|key| assert!(check(&mut limiter, key, now)));
    Ok(Subject::new("libgateway", move |meter, operations| {
        if always {
            now += Span::from_secs(1);
        }
        let allowed = meter.measure(operations, || {
            (0..operations).filter(|_| check(&mut limiter, black_box(&keys[rng.below(KEYS)]), now)).count()
        });
        assert_eq!(allowed as u64, if always { operations } else { 0 });
    }))
}

fn peer<K: Clone + 'static, C: FnMut(&K) -> bool + 'static>(
    keys: &[K],
    always: bool,
    name: &'static str,
    limiter: impl FnOnce(Quota, FakeRelativeClock) -> C,
) -> Subject {
    let quota = if always {
        Quota::per_second(NonZeroU32::MIN.saturating_add(999_999))
    } else {
        Quota::per_hour(NonZeroU32::MIN)
    };
    let clock = FakeRelativeClock::default();
    let mut check = limiter(quota, clock.clone());
    let mut rng = Rng::new(1);
    let keys = keys.to_vec();
    keys.iter().for_each(|key| assert!(check(key)));
    Subject::new(name, move |meter, operations| {
        if always {
            clock.advance(Duration::from_secs(1));
        }
        let allowed =
            meter.measure(operations, || (0..operations).filter(|_| check(black_box(&keys[rng.below(KEYS)]))).count());
        assert_eq!(allowed as u64, if always { operations } else { 0 });
    })
}

const KEYS: usize = 10_000;
