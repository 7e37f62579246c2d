//! The breaker: a call is admitted and its result recorded.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use failsafe::{StateMachine, backoff, failure_policy};
use libgateway::{Admit, CircuitBreaker, CircuitBreakerConfig, Span, Timestamp};
use recloser::Recloser;

use crate::harness::{Budget, Row, Subject};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row {
            name: "breaker/admit+success".to_owned(),
            n: 1,
            budget: Budget::Nanos(10.0),
            build: Box::new(|| Ok(vec![ours(false)?, failsafe(false), recloser(false)])),
        },
        Row {
            name: "breaker/admit+result-1-in-16-fails".to_owned(),
            n: 1,
            budget: Budget::Nanos(10.0),
            build: Box::new(|| Ok(vec![ours(true)?, failsafe(true), recloser(true)])),
        },
        Row {
            name: "breaker/deny".to_owned(),
            n: 1,
            budget: Budget::None,
            build: Box::new(|| Ok(vec![ours_open()?, failsafe_open(), recloser_open()])),
        },
        // For scale: failsafe reads it with each result, we and recloser do not.
        Row {
            name: "breaker/a-clock-read".to_owned(),
            n: 1,
            budget: Budget::None,
            build: Box::new(|| Ok(vec![Subject::each("std::time::Instant", Instant::now)])),
        },
    ]
}

/// Whether the call of this number fails.
fn fails(call: u64, some: bool) -> bool {
    some && call % 16 == 15
}

fn ours(some: bool) -> Result<Subject, libgateway::error::InputError> {
    let mut now = Timestamp::from_secs(1);
    let mut breaker = CircuitBreaker::new(CircuitBreakerConfig::default(), now)?;
    let mut call = 0;
    Ok(Subject::each("libgateway", move || {
        now += Span::from_nanos(1_000);
        call += 1;
        match black_box(breaker.admit(now)) {
            Admit::Allow(permit) if fails(call, some) => breaker.handle_failure(permit, now),
            Admit::Allow(permit) => breaker.handle_success(permit, now),
            _ => unreachable!("it stays closed"),
        }
    }))
}

fn ours_open() -> Result<Subject, libgateway::error::InputError> {
    let now = Timestamp::from_secs(1);
    let config = CircuitBreakerConfig::default().consecutive_failures(Some(NonZeroU32::MIN));
    let mut breaker = CircuitBreaker::new(config, now)?;
    if let Admit::Allow(permit) = breaker.admit(now) {
        breaker.handle_failure(permit, now);
    }
    Ok(Subject::each("libgateway", move || {
        let denied = matches!(black_box(breaker.admit(black_box(now))), Admit::Deny { .. });
        assert!(denied);
        denied
    }))
}

/// A rolling window like ours: half of the calls within 100 s, at least ten.
fn failsafe(some: bool) -> Subject {
    let wait = backoff::constant(Duration::from_secs(60));
    let policy = failure_policy::success_rate_over_time_window(0.5, 10, Duration::from_secs(100), wait);
    let breaker = StateMachine::new(policy, ());
    let mut call = 0;
    Subject::each("failsafe (reads the clock)", move || {
        call += 1;
        assert!(black_box(breaker.is_call_permitted()));
        if fails(call, some) { breaker.on_error() } else { breaker.on_success() }
    })
}

fn failsafe_open() -> Subject {
    let policy = failure_policy::consecutive_failures(1, backoff::constant(Duration::from_secs(3_600)));
    let breaker = StateMachine::new(policy, ());
    breaker.on_error();
    Subject::each("failsafe (reads the clock)", move || assert!(!black_box(breaker.is_call_permitted())))
}

/// It knows a ring of the last calls (here a hundred) and no time.
fn recloser(some: bool) -> Subject {
    let breaker = Recloser::custom().error_rate(0.5).closed_len(100).build();
    let mut call = 0;
    Subject::each("recloser", move || {
        call += 1;
        let result = || if fails(call, some) { Err(()) } else { Ok(()) };
        let answer = breaker.call(result);
        assert!(!matches!(answer, Err(recloser::Error::Rejected)));
    })
}

fn recloser_open() -> Subject {
    let breaker = Recloser::custom().error_rate(0.01).closed_len(1).open_wait(Duration::from_secs(3_600)).build();
    while !matches!(breaker.call(|| Err::<(), ()>(())), Err(recloser::Error::Rejected)) {}
    Subject::each("recloser (reads the clock)", move || {
        assert!(matches!(breaker.call(|| Ok::<(), ()>(())), Err(recloser::Error::Rejected)));
    })
}
