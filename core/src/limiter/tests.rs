//! What limits promise, and the limiter of one bucket under any clock.

use proptest::prelude::*;

use super::*;

#[test]
fn only_a_burst_that_cannot_be_counted_until_the_end_of_time_is_refused() {
    let year = Span::from_secs(31_536_000);
    assert!(RateLimit::new(7, year, u32::MAX.into()).is_ok());
    assert!(RateLimit::new(7, year, u64::MAX).is_ok());
    assert!(RateLimit::new(u64::MAX, Span::MAX, u64::MAX).is_ok());
    assert!(RateLimit::new((1 << 63) - 1, Span::from_nanos((1 << 63) - 2), (1 << 63) - 1).is_ok());
    let beyond = RateLimit::new(u64::MAX - 2, Span::MAX, u64::MAX);
    assert_eq!(beyond, Err(InputError::Overflow { field: "burst" }));
    let zero = RateLimit::new(1, Span::ZERO, 1);
    assert_eq!(zero, Err(InputError::OutOfRange { field: "per", value: 0, min: 1, max: u64::MAX }));
    for amount in [0, 1, 7, u64::MAX - 2, u64::MAX - 1, u64::MAX] {
        let limit = RateLimit::per_second(amount, u64::MAX);
        assert_eq!(RateLimit::new(amount, Span::from_secs(1), u64::MAX), Ok(limit));
    }
}

#[test]
fn limits_are_validated_on_the_way_in() {
    let limit: RateLimit = serde_json::from_str(r#"{"amount":5,"per":1000,"burst":3}"#).unwrap();
    assert_eq!(limit, RateLimit::new(5, Span::from_micros(1), 3).unwrap());
    assert_eq!(serde_json::to_string(&limit).unwrap(), r#"{"amount":5,"per":1000,"burst":3}"#);
    assert_eq!(postcard::from_bytes::<RateLimit>(&postcard::to_allocvec(&limit).unwrap()), Ok(limit));
    for text in [
        r#"{"amount":5,"per":0,"burst":3}"#,
        r#"{"amount":-5,"per":1000,"burst":3}"#,
        r#"{"amount":5,"per":1000,"burst":-3}"#,
        r#"{"amount":18446744073709551613,"per":18446744073709551615,"burst":18446744073709551615}"#,
        r#"{"amount":5,"per":1000,"burst":3,"token":1}"#,
        r#"{"amount":5,"per":1000}"#,
    ] {
        assert!(serde_json::from_str::<RateLimit>(text).is_err(), "{text}");
    }
}

#[test]
fn a_new_limit_keeps_the_tokens_there_are() {
    let now = Timestamp::from_secs(9);
    let mut limiter = RateLimiter::new(RateLimit::per_second(3, 10), now);
    let _ = limiter.try_acquire(6, now);
    limiter.set_limit(RateLimit::per_second(7, 1_000), now);
    assert_eq!(limiter.available(now), 4);
    assert_eq!(limiter.limit().burst(), 1_000);
    limiter.set_limit(RateLimit::per_second(7, 2), now);
    assert_eq!((limiter.available(now), limiter.full_at()), (2, now));
}

#[test]
fn a_reset_that_never_comes_is_without_end() {
    let mut limiter = RateLimiter::new(RateLimit::per_second(0, 5), Timestamp::EPOCH);
    assert_eq!(limiter.headers(Timestamp::EPOCH).reset, Span::ZERO);
    let _ = limiter.try_acquire(1, Timestamp::EPOCH);
    let headers = limiter.headers(Timestamp::from_secs(1_000));
    assert_eq!(headers, RateHeaders { limit: 5, remaining: 4, reset: Span::MAX });
}

fn secs(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

const DAY: u64 = 86_400;
const START: u64 = 2_000_000_000;

/// A limiter of 10 a second whose bucket of 1 000 was emptied at `now`.
fn emptied(now: Timestamp) -> RateLimiter {
    let mut limiter = RateLimiter::new(RateLimit::per_second(10, 1_000), now);
    assert!(limiter.try_acquire(1_000, now).is_allowed());
    limiter
}

#[test]
fn after_one_reading_a_day_ahead_the_next_token_comes_within_a_tenth_of_a_second() {
    // It came after 86 399 s: a bucket remembered the latest time it had seen.
    let mut limiter = RateLimiter::new(RateLimit::per_second(10, 1), secs(START));
    assert!(limiter.try_acquire(1, secs(START + DAY)).is_allowed());
    let until = secs(START) + Span::from_millis(100);
    assert_eq!(limiter.try_acquire(1, secs(START)), Acquire::Deny { until });
    let early = Timestamp::from_nanos(until.as_nanos() - 1);
    assert_eq!(limiter.peek(1, early), Acquire::Deny { until });
    assert!(limiter.try_acquire(1, until).is_allowed());
}

#[test]
fn a_limiter_made_by_a_wrong_clock_refills_at_the_pace_of_the_right_one() {
    for ahead in [8 * 3_600, 10 * 365 * DAY] {
        let mut limiter = emptied(secs(START + ahead));
        assert_eq!(limiter.try_acquire(100, secs(START + 30)), Acquire::Deny { until: secs(START + 40) });
        assert_eq!(limiter.full_at(), secs(START + 130));
        assert_eq!(limiter.available(secs(START + 33)), 30);
        assert_eq!(limiter.headers(secs(START + 33)).reset, Span::from_secs(97));
        assert!(limiter.try_acquire(100, secs(START + 40)).is_allowed());
    }
    for behind in [8 * 3_600, 10 * 365 * DAY] {
        // A clock that was behind and is set right: what it jumps is time, as after a night off.
        let mut limiter = emptied(secs(START - behind));
        assert!(limiter.try_acquire(1_000, secs(START)).is_allowed());
        assert_eq!(limiter.try_acquire(10, secs(START)), Acquire::Deny { until: secs(START + 1) });
    }
}

#[test]
fn going_back_and_forth_makes_no_tokens() {
    for step in [1, 59, 3_601, DAY] {
        let mut limiter = emptied(secs(START));
        for _ in 0..1_000 {
            assert!(!limiter.try_acquire(1, secs(START - step)).is_allowed());
            assert!(!limiter.try_acquire(1, secs(START)).is_allowed());
        }
        limiter.check_invariants();
    }
}

#[test]
fn a_limiter_restored_after_hours_or_nights_has_refilled_as_the_time_passed() {
    for (off, tokens) in [(10, 100), (99, 990), (7_200, 1_000), (5 * DAY, 1_000)] {
        let text = serde_json::to_string(&emptied(secs(START))).unwrap();
        let restored: RateLimiter = serde_json::from_str(&text).unwrap();
        assert_eq!(restored.available(secs(START + off)), tokens);
        let bytes = postcard::to_allocvec(&restored).unwrap();
        assert_eq!(postcard::from_bytes::<RateLimiter>(&bytes), Ok(restored));
    }
}

#[test]
fn looking_and_asking_in_vain_leave_the_answer_as_it_was() {
    // Limiters that moved the bucket's time on every check lost the part of a token that had flowed in: a caller that
    // asked every 99 ms never got its token.
    let mut limiter = emptied(secs(START));
    for nanos in (1..10).map(|step| step * 9_999_999) {
        let _ = limiter.peek(5, secs(START) + Span::from_nanos(nanos));
        assert!(!limiter.try_acquire(1, secs(START) + Span::from_nanos(nanos)).is_allowed());
    }
    assert_eq!(limiter.try_acquire(1, secs(START) + Span::from_millis(100)), Acquire::Allow { remaining: 0 });
}

#[test]
fn the_whole_burst_is_there_at_once_and_not_one_more() {
    // GCRA limiters were off by one at both ends: burst − 1 at the start, or one too many after a long rest.
    for burst in [1, 2, 10, 1_000_000_007] {
        let mut limiter = RateLimiter::new(RateLimit::new(1, Span::from_secs(1), burst).unwrap(), secs(START));
        for round in [1, 2] {
            let now = secs(START + round * burst);
            assert_eq!(limiter.available(now), burst);
            assert_eq!(limiter.try_acquire(burst, now), Acquire::Allow { remaining: 0 });
            assert_eq!(limiter.try_acquire(1, now), Acquire::Deny { until: now + Span::from_secs(1) });
            limiter.refund(u64::MAX);
            assert_eq!(limiter.available(now), burst);
            assert_eq!(limiter.try_acquire(burst, now), Acquire::Allow { remaining: 0 });
        }
    }
}

proptest! {
    #[test]
    fn whole_tokens_is_division(amount in any::<u64>(), per in 1_u64.., burst in any::<u64>(), part in any::<u128>()) {
        for shift in [0, 20, 32, 40, 63] {
            let Ok(limit) = RateLimit::new(amount, Span::from_nanos((per >> shift).max(1)), burst) else { continue };
            let capacity = limit.capacity();
            for missing in [part >> 64, part, u64::MAX.into(), limit.token.into(), 1 + u128::from(limit.token), capacity, 0] {
                let missing = missing.min(capacity);
                let whole = (capacity - missing) / u128::from(limit.token);
                prop_assert_eq!(u128::from(limit.tokens_without(missing)), whole);
            }
        }
    }

    #[test]
    fn a_promised_instant_is_exact_whatever_the_clock_did(steps in proptest::collection::vec((0_u64..4, 0..2 * DAY), 1..20)) {
        let mut limiter = emptied(secs(START));
        let mut now = START;
        for (kind, step) in steps {
            now = if kind == 0 { now - step.min(now - DAY) } else { now + step };
            if let Acquire::Deny { until } = limiter.try_acquire(700, secs(now)) {
                prop_assert!(until.since(secs(now)) <= Span::from_secs(70));
                prop_assert!(!limiter.peek(700, Timestamp::from_nanos(until.as_nanos() - 1)).is_allowed());
                prop_assert!(limiter.peek(700, until).is_allowed());
            }
            limiter.check_invariants();
        }
    }
}
