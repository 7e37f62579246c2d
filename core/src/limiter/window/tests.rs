//! The strict window against a list that forgets nothing.

use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn window(amount: u32, per: u64) -> WindowLimiter {
    WindowLimiter::new(WindowLimit::new(amount, Span::from_nanos(per)).unwrap(), at(0))
}

#[test]
fn no_minute_has_more_than_six() {
    // Six late in one minute and six early in the next: a fixed window lets twelve through within two seconds.
    let secs = Timestamp::from_secs;
    let mut limiter = WindowLimiter::new(WindowLimit::new(6, Span::from_secs(60)).unwrap(), secs(0));
    for _ in 0..6 {
        assert!(limiter.try_acquire(1, secs(59)).is_allowed());
    }
    for now in [secs(59), secs(60), secs(61), at(119_000_000_000 - 1)] {
        assert_eq!(limiter.try_acquire(1, now), Acquire::Deny { until: secs(119) });
    }
    assert_eq!(limiter.try_acquire(6, secs(119)), Acquire::Allow { remaining: 0 });
}

#[test]
fn what_costs_more_than_the_window_never_passes_and_what_costs_nothing_always_does() {
    let mut limiter = window(2, 10);
    assert_eq!(limiter.try_acquire(3, at(0)), Acquire::Never);
    assert_eq!(limiter.try_acquire(u64::MAX, at(0)), Acquire::Never);
    assert!(limiter.try_acquire(2, at(0)).is_allowed());
    assert_eq!(limiter.try_acquire(0, at(0)), Acquire::Allow { remaining: 0 });
    let mut shut = window(0, 10);
    assert_eq!(shut.try_acquire(1, at(0)), Acquire::Never);
    assert_eq!(shut.try_acquire(0, at(0)), Acquire::Allow { remaining: 0 });
}

#[test]
fn a_denied_call_does_not_move_the_window() {
    // In limiters that record every call, one that keeps asking is never let through.
    let mut limiter = window(1, 100);
    assert!(limiter.try_acquire(1, at(0)).is_allowed());
    for now in 1..100 {
        assert_eq!(limiter.try_acquire(1, at(now)), Acquire::Deny { until: at(100) });
    }
    assert!(limiter.try_acquire(1, at(100)).is_allowed());
}

#[test]
fn limits_out_of_range_are_refused_by_name() {
    let second = Span::from_secs(1);
    let refused = |field, value, min, max| Err(InputError::OutOfRange { field, value, min, max });
    assert!(WindowLimit::new(65_536, Span::MAX).is_ok());
    assert_eq!(WindowLimit::new(65_537, second), refused("amount", 65_537, 0, 65_536));
    assert_eq!(WindowLimit::new(1, Span::ZERO), refused("per", 0, 1, u64::MAX));
    assert!(serde_json::from_str::<WindowLimit>(r#"{"amount":65537,"per":1}"#).is_err());
}

#[test]
fn a_refund_gives_back_the_oldest_so_no_window_has_too_many() {
    let mut limiter = window(2, 100);
    assert!(limiter.try_acquire(1, at(0)).is_allowed());
    assert!(limiter.try_acquire(1, at(50)).is_allowed());
    limiter.refund(1, at(60));
    assert_eq!(limiter.next_deadline(), Some(at(150)));
    assert!(limiter.try_acquire(1, at(60)).is_allowed());
    assert_eq!(limiter.try_acquire(1, at(100)), Acquire::Deny { until: at(150) });
    limiter.refund(u64::MAX, at(100));
    assert_eq!((limiter.available(at(100)), limiter.next_deadline()), (2, None));
}

#[test]
fn a_lower_amount_waits_until_enough_has_left() {
    let mut limiter = window(5, 100);
    for now in 0..5 {
        assert!(limiter.try_acquire(1, at(now)).is_allowed());
    }
    limiter.set_limit(WindowLimit::new(2, Span::from_nanos(100)).unwrap(), at(10));
    assert_eq!((limiter.available(at(10)), limiter.headers(at(10)).reset), (0, Span::from_nanos(94)));
    assert_eq!(limiter.try_acquire(1, at(10)), Acquire::Deny { until: at(103) });
    limiter.set_limit(WindowLimit::new(2, Span::from_nanos(5)).unwrap(), at(10));
    assert_eq!(limiter.available(at(10)), 2);
    limiter.check_invariants();
}

#[test]
fn a_foreign_copy_that_contradicts_itself_is_refused() {
    let mut limiter = window(5, 100);
    let _ = limiter.try_acquire(2, at(3));
    let _ = limiter.try_acquire(1, at(9));
    let text = serde_json::to_string(&limiter).unwrap();
    assert_eq!(serde_json::from_str::<WindowLimiter>(&text).unwrap(), limiter);
    assert_eq!(postcard::from_bytes::<WindowLimiter>(&postcard::to_allocvec(&limiter).unwrap()), Ok(limiter));
    for (from, to) in [
        (r#""total":3"#, r#""total":2"#),
        (r#"{"at":3,"#, r#"{"at":9,"#),
        (r#"{"at":9,"#, r#"{"at":10,"#),
        (r#""count":2"#, r#""count":0"#),
        (r#""count":2"#, r#""count":4294967295"#),
    ] {
        let altered = text.replace(from, to);
        assert_ne!(altered, text);
        let error = serde_json::from_str::<WindowLimiter>(&altered).unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
    }
}

#[test]
fn a_clock_that_leapt_and_came_back_does_not_shut_the_window() {
    let secs = Timestamp::from_secs;
    let mut limiter = WindowLimiter::new(WindowLimit::new(1, Span::from_secs(60)).unwrap(), secs(1_000_000));
    assert!(limiter.try_acquire(1, secs(1_086_400)).is_allowed());
    // A day back: the token leaves a minute after it was taken, by the clock that runs.
    assert_eq!(limiter.try_acquire(1, secs(1_000_000)), Acquire::Deny { until: secs(1_000_060) });
    assert_eq!(limiter.next_deadline(), Some(secs(1_000_060)));
    assert!(!limiter.try_acquire(1, at(1_000_060_000_000_000 - 1)).is_allowed());
    assert!(limiter.try_acquire(1, secs(1_000_060)).is_allowed());
}

#[derive(Clone, Debug)]
enum Op {
    Acquire { cost: u64 },
    Refund { cost: u64 },
    SetLimit { amount: u32, per: u64 },
    Restore,
}

fn ops() -> impl Strategy<Value = Vec<(Op, u64)>> {
    let op = prop_oneof![
        12 => (0_u64..6).prop_map(|cost| Op::Acquire { cost }),
        1 => (0_u64..4).prop_map(|cost| Op::Refund { cost }),
        1 => (0_u32..6, 1_u64..40).prop_map(|(amount, per)| Op::SetLimit { amount, per }),
        1 => Just(Op::Restore),
    ];
    proptest::collection::vec((op, prop_oneof![Just(0_u64), 0_u64..8, 0_u64..60]), 1..80)
}

proptest! {
    #[test]
    fn a_window_is_a_list_of_instants(amount in 0_u32..6, per in 1_u64..40, ops in ops()) {
        let (mut amount, mut per) = (amount, per);
        let mut limiter = window(amount, per);
        let (mut list, mut now) = (Vec::<u64>::new(), 0);
        for (op, step) in ops {
            now += step;
            let inside = |list: &[u64], now: u64, per: u64| list.iter().filter(|at| **at + per > now).count() as u64;
            match op {
                Op::Acquire { cost } => {
                    let fits = |now| cost == 0 || inside(&list, now, per) + cost <= u64::from(amount);
                    let answer = limiter.peek(cost, at(now));
                    prop_assert_eq!(limiter.try_acquire(cost, at(now)), answer);
                    match answer {
                        Acquire::Never => prop_assert!(cost > u64::from(amount)),
                        Acquire::Deny { until } => {
                            prop_assert!(!fits(now) && !fits(until.as_nanos() - 1) && fits(until.as_nanos()));
                        }
                        Acquire::Allow { remaining } => {
                            prop_assert!(fits(now));
                            list.extend((0..cost).map(|_| now));
                            prop_assert_eq!(remaining, u64::from(amount).saturating_sub(inside(&list, now, per)));
                        }
                    }
                }
                Op::Refund { cost } => {
                    limiter.refund(cost, at(now));
                    list.retain(|at| *at + per > now);
                    list.drain(..list.len().min(cost as usize));
                }
                Op::SetLimit { amount: new_amount, per: new_per } => {
                    limiter.set_limit(WindowLimit::new(new_amount, Span::from_nanos(new_per)).unwrap(), at(now));
                    list.retain(|at| *at + per > now);
                    (amount, per) = (new_amount, new_per);
                    list.retain(|at| *at + per > now);
                }
                Op::Restore => {
                    limiter = serde_json::from_str(&serde_json::to_string(&limiter).unwrap()).unwrap();
                }
            }
            limiter.check_invariants();
            let left = inside(&list, now, per);
            prop_assert_eq!(limiter.available(at(now)), u64::from(amount).saturating_sub(left));
            prop_assert_eq!(limiter.headers(at(now)).remaining, limiter.available(at(now)));
            let empty_at = list.iter().map(|at| at + per).max().filter(|end| *end > now).unwrap_or(now);
            prop_assert_eq!(limiter.headers(at(now)).reset, Span::from_nanos(empty_at - now));
        }
    }
}
