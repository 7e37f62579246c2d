//! The breaker against a model that keeps every call, edge by edge.

use core::num::NonZeroU32;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::time::Span;
use crate::time::pace::Pace;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn before(instant: Timestamp) -> Timestamp {
    Timestamp::from_nanos(instant.as_nanos() - 1)
}

fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

/// Opened by the share of failures alone, and never the longer for it.
fn plain() -> CircuitBreakerConfig {
    CircuitBreakerConfig::default().consecutive_failures(None).open_for_factor(count(1))
}

fn breaker(config: CircuitBreakerConfig) -> CircuitBreaker {
    CircuitBreaker::new(config, at(0)).unwrap()
}

fn allowed(breaker: &mut CircuitBreaker, now: Timestamp) -> Permit {
    match breaker.admit(now) {
        Admit::Allow(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn probe(breaker: &mut CircuitBreaker, now: Timestamp) -> Permit {
    match breaker.admit(now) {
        Admit::Probe(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn succeed(breaker: &mut CircuitBreaker, times: usize, now: Timestamp) {
    for _ in 0..times {
        let permit = allowed(breaker, now);
        assert!(breaker.handle_success(permit, now));
    }
}

fn fail(breaker: &mut CircuitBreaker, times: usize, now: Timestamp) {
    for _ in 0..times {
        let permit = allowed(breaker, now);
        assert!(breaker.handle_failure(permit, now));
    }
}

/// A breaker that opened at `now` after ten failures.
fn opened(config: CircuitBreakerConfig, now: Timestamp) -> CircuitBreaker {
    let mut breaker = breaker(config);
    fail(&mut breaker, 10, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
    breaker
}

#[test]
fn the_first_failures_alone_do_not_open() {
    let mut breaker = breaker(plain());
    fail(&mut breaker, 9, at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::Closed);
    fail(&mut breaker, 1, at(1));
    assert_eq!(breaker.status(at(1)).reason, BreakerReason::FailureRate { calls: 10, failures: 10 });
}

#[test]
fn the_threshold_itself_opens_by_default_and_only_more_by_choice() {
    for (rule, state) in [(RateRule::AtLeast, BreakerState::Open), (RateRule::Above, BreakerState::Closed)] {
        let mut breaker = breaker(plain().failure_rate_rule(rule));
        succeed(&mut breaker, 5, at(1));
        fail(&mut breaker, 5, at(1));
        assert_eq!(breaker.state(at(1)), state, "{rule:?}");
    }
    let mut breaker = breaker(plain().failure_rate_rule(RateRule::Above));
    succeed(&mut breaker, 5, at(1));
    fail(&mut breaker, 6, at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::Open);
}

#[test]
fn half_open_admits_one_probe_at_a_time() {
    let mut breaker = opened(plain(), at(1));
    let permit = probe(&mut breaker, at(61));
    assert_eq!(breaker.admit(at(61)), Admit::Deny { until: at(61 + 120) });
    assert!(!breaker.would_admit(at(61)));
    assert!(breaker.handle_success(permit, at(62)));
    assert!(breaker.would_admit(at(62)));
    let _ = probe(&mut breaker, at(62));
    assert!(matches!(breaker.admit(at(62)), Admit::Deny { .. }));
}

#[test]
fn successes_of_probes_are_kept_however_long_they_take() {
    let mut breaker = opened(plain().probes_to_close(count(5)), at(1));
    for round in 1..=5 {
        // Ten windows apart.
        let now = at(1_000 * round);
        let permit = probe(&mut breaker, now);
        assert!(breaker.handle_success(permit, now));
    }
    assert_eq!(breaker.state(at(5_000)), BreakerState::Closed);
    assert_eq!(breaker.status(at(5_000)).reason, BreakerReason::ProbesSucceeded { successes: 5 });
}

#[test]
fn asking_changes_nothing_and_tells_what_admit_would_say() {
    let breaker = opened(plain(), at(1));
    let copy = breaker.clone();
    for now in [at(0), at(1), before(at(61)), at(61), at(1_000), Timestamp::MAX] {
        let denied = breaker.denied_until(now);
        let _ = (breaker.state(now), breaker.status(now), breaker.would_admit(now));
        assert_eq!(breaker, copy);
        match breaker.clone().admit(now) {
            Admit::Deny { until } => assert_eq!(denied, Some(until)),
            Admit::Allow(_) | Admit::Probe(_) => assert_eq!(denied, None),
        }
    }
}

#[test]
fn results_of_calls_begun_before_a_change_count_for_nothing() {
    let mut breaker = breaker(plain().probes_to_close(count(1)));
    let early: Vec<_> = (0..20).map(|_| allowed(&mut breaker, at(1))).collect();
    fail(&mut breaker, 10, at(1));
    assert!(!breaker.handle_success(early[0], at(2)));
    assert!(!breaker.handle_failure(early[1], at(2)));
    assert_eq!(breaker.status(at(2)).until, Some(at(61)));

    let permit = probe(&mut breaker, at(61));
    assert!(!breaker.handle_success(early[2], at(62)));
    assert!(!breaker.handle_failure(early[3], at(62)));
    assert!(!breaker.handle_cancelled(early[4], at(62)));
    assert_eq!(breaker.status(at(62)).probe_successes, 0);
    assert!(breaker.handle_success(permit, at(63)));

    for permit in early {
        assert!(!breaker.handle_failure(permit, at(64)));
    }
    let status = breaker.status(at(64));
    assert_eq!((status.state, status.calls), (BreakerState::Closed, 0));
    assert_eq!((status.successes_total, status.failures_total), (1, 10));
}

#[test]
fn failures_on_both_sides_of_an_edge_count_together() {
    let mut breaker = breaker(plain());
    fail(&mut breaker, 5, before(at(100)));
    fail(&mut breaker, 5, at(100));
    assert_eq!(breaker.state(at(100)), BreakerState::Open);
}

#[test]
fn a_failure_is_forgotten_exactly_when_its_bucket_leaves() {
    for (last, calls) in [(before(at(100)), 9), (at(100), 0)] {
        let mut breaker = breaker(plain());
        fail(&mut breaker, 9, before(at(10)));
        assert_eq!(breaker.status(last).failures, calls);
        fail(&mut breaker, 1, last);
        assert_eq!(breaker.state(last) == BreakerState::Open, calls == 9);
    }
}

#[test]
fn a_run_of_failures_opens_however_slow_it_is_and_a_success_ends_it() {
    let mut breaker = breaker(CircuitBreakerConfig::default());
    fail(&mut breaker, 4, at(1));
    succeed(&mut breaker, 1, at(2));
    for hour in 1..=5 {
        assert_eq!(breaker.state(at(3_600 * hour)), BreakerState::Closed);
        fail(&mut breaker, 1, at(3_600 * hour));
    }
    assert_eq!(breaker.status(at(18_000)).reason, BreakerReason::ConsecutiveFailures { failures: 5 });
}

#[test]
fn open_denies_until_the_exact_instant() {
    let mut breaker = opened(plain(), at(1));
    assert_eq!(breaker.next_deadline(), Some(at(61)));
    assert_eq!(breaker.admit(before(at(61))), Admit::Deny { until: at(61) });
    assert!(!breaker.handle_timeout(before(at(61))));
    assert_eq!(breaker.state(before(at(61))), BreakerState::Open);
    assert_eq!(breaker.state(at(61)), BreakerState::HalfOpen);
    assert!(breaker.handle_timeout(at(61)));
    assert!(!breaker.handle_timeout(at(61)));
    assert_eq!(breaker.next_deadline(), None);
    let _ = probe(&mut breaker, at(61));
    assert_eq!(breaker.status(at(61)).rejected_total, 1);
}

#[test]
fn a_probe_without_an_answer_has_failed_at_its_deadline() {
    for (now, counts) in [(before(at(181)), true), (at(181), false)] {
        let mut breaker = opened(plain(), at(1));
        let permit = probe(&mut breaker, at(61));
        assert_eq!(breaker.next_deadline(), Some(at(181)));
        assert_eq!(breaker.handle_success(permit, now), counts);
        assert_eq!(breaker.state(now) == BreakerState::Open, !counts);
        assert_eq!(breaker.status(now).reopens, u32::from(!counts));
        let next = now + Span::from_secs(1_000);
        let _ = probe(&mut breaker, next);
        assert!(!breaker.handle_success(permit, next));
    }
    // Nobody called: probe, open and half-open again have all passed by, each at its own instant.
    let mut breaker = opened(plain(), at(1));
    let _ = probe(&mut breaker, at(61));
    assert_eq!(breaker.state(before(at(241))), BreakerState::Open);
    let status = breaker.status(at(999));
    assert_eq!((status.state, status.since), (BreakerState::HalfOpen, at(241)));
    assert!(breaker.handle_timeout(at(999)));
    assert_eq!(breaker.status(at(999)), status);
}

#[test]
fn a_probe_without_deadline_holds_its_place_until_it_is_answered() {
    let mut breaker = opened(plain().probe_timeout(None), at(1));
    let permit = probe(&mut breaker, at(61));
    assert_eq!(breaker.next_deadline(), None);
    assert_eq!(breaker.admit(Timestamp::MAX), Admit::Deny { until: Timestamp::MAX });
    assert!(breaker.handle_cancelled(permit, Timestamp::MAX));
    let _ = probe(&mut breaker, Timestamp::MAX);
}

#[test]
fn a_cancelled_probe_frees_its_place_and_decides_nothing() {
    let mut breaker = opened(plain(), at(1));
    let permit = probe(&mut breaker, at(61));
    assert!(breaker.handle_success(permit, at(61)));
    let permit = probe(&mut breaker, at(62));
    assert!(breaker.handle_cancelled(permit, at(62)));
    assert!(!breaker.handle_cancelled(permit, at(62)));
    assert!(!breaker.handle_failure(permit, at(62)));
    assert_eq!(breaker.status(at(62)).probe_successes, 1);
    let permit = probe(&mut breaker, at(63));
    assert!(breaker.handle_success(permit, at(63)));
    assert_eq!(breaker.state(at(63)), BreakerState::Closed);
}

#[test]
fn a_second_answer_to_a_probe_counts_for_nothing() {
    let mut breaker = opened(plain(), at(1));
    let first = probe(&mut breaker, at(61));
    assert!(breaker.handle_success(first, at(61)));
    assert!(!breaker.handle_success(first, at(61)));
    assert_eq!(breaker.state(at(61)), BreakerState::HalfOpen);
    let second = probe(&mut breaker, at(62));
    assert!(!breaker.handle_success(first, at(62)));
    assert!(breaker.handle_success(second, at(62)));
    assert!(!breaker.handle_failure(second, at(62)));
    let status = breaker.status(at(62));
    assert_eq!((status.state, status.calls), (BreakerState::Closed, 0));
}

#[test]
fn the_open_time_grows_with_each_failed_probe_up_to_its_limit_and_starts_over_once_closed() {
    let config = CircuitBreakerConfig::default().open_for_max(Span::from_secs(300)).probes_to_close(count(1));
    let mut breaker = breaker(config);
    let mut now = at(1);
    fail(&mut breaker, 5, now);
    for (reopens, secs) in [60, 120, 240, 300, 300].into_iter().enumerate() {
        let status = breaker.status(now);
        assert_eq!((status.reopens, status.until), (reopens as u32, Some(now + Span::from_secs(secs))));
        now += Span::from_secs(secs);
        let permit = probe(&mut breaker, now);
        assert!(breaker.handle_failure(permit, now));
        assert_eq!(breaker.status(now).reason, BreakerReason::ProbeFailed);
    }
    now += Span::from_secs(300);
    let permit = probe(&mut breaker, now);
    assert!(breaker.handle_success(permit, now));
    fail(&mut breaker, 5, now);
    assert_eq!(breaker.next_deadline(), Some(now + Span::from_secs(60)));
}

#[test]
fn a_factor_of_one_switches_growth_and_its_limit_off() {
    let config = plain().open_for_max(Span::ZERO);
    assert_eq!(config.open_span(0), Span::from_secs(60));
    assert_eq!(config.open_span(u32::MAX), Span::from_secs(60));
    assert_eq!(CircuitBreakerConfig::default().open_span(u32::MAX), Span::from_secs(600));
}

#[test]
fn a_breaker_without_end_to_its_open_time_stays_open_until_it_is_forced() {
    let mut breaker = opened(plain().open_for(Span::MAX), at(1));
    assert_eq!((breaker.next_deadline(), breaker.status(at(1)).until), (None, None));
    assert_eq!(breaker.state(Timestamp::MAX), BreakerState::Open);
    assert!(breaker.force(ForcedState::Closed, None, at(2)));
    assert!(breaker.release(at(3)));
    assert_eq!(breaker.state(at(3)), BreakerState::Closed);
}

#[test]
fn forced_open_denies_until_its_exact_end_and_then_wants_a_probe() {
    let mut breaker = breaker(plain());
    let stale = allowed(&mut breaker, at(1));
    assert!(breaker.force(ForcedState::Open, Some(at(50)), at(10)));
    assert!(!breaker.handle_failure(stale, at(11)));
    let status = breaker.status(before(at(50)));
    assert_eq!((status.state, status.forced, status.until), (BreakerState::Open, true, Some(at(50))));
    assert_eq!(breaker.admit(before(at(50))), Admit::Deny { until: at(50) });
    let status = breaker.status(at(50));
    assert_eq!((status.state, status.forced, status.since), (BreakerState::HalfOpen, false, at(50)));
    assert_eq!(status.reason, BreakerReason::ForceEnded);
    let _ = probe(&mut breaker, at(50));
}

#[test]
fn forced_closed_counts_and_opens_nothing_until_its_exact_end() {
    for (now, state) in [(before(at(50)), BreakerState::Closed), (at(50), BreakerState::Open)] {
        let mut breaker = opened(plain(), at(1));
        assert!(breaker.force(ForcedState::Closed, Some(at(50)), at(2)));
        fail(&mut breaker, 20, at(30));
        assert_eq!(breaker.status(at(30)).failures, 20);
        let permit = allowed(&mut breaker, at(30));
        assert!(breaker.handle_failure(permit, now));
        assert_eq!(breaker.state(now), state);
    }
}

#[test]
fn a_forced_state_without_a_future_is_refused_and_release_needs_one() {
    let mut breaker = breaker(plain());
    assert!(!breaker.force(ForcedState::Open, Some(at(10)), at(10)));
    assert!(!breaker.release(at(10)));
    assert_eq!(breaker.status(at(10)).reason, BreakerReason::Initial);
    assert!(breaker.force(ForcedState::Open, None, at(10)));
    assert_eq!(breaker.next_deadline(), None);
    assert_eq!(breaker.admit(Timestamp::MAX), Admit::Deny { until: Timestamp::MAX });
    assert!(breaker.release(at(11)));
    assert!(!breaker.release(at(11)));
}

#[test]
fn an_open_time_lasts_as_long_as_it_should_after_any_step_of_the_clock() {
    // Made by a clock that is 8 h ahead, and opened; 30 s later the clock is right, and the breaker stayed open for 8 h.
    const DAY: i64 = 86_400;
    for step in [-3_650 * DAY, -DAY, -28_800, -3_601, -600, -1, 1, 600, 3_601, 28_800, DAY, 3_650 * DAY] {
        let start = 1_000_000_000;
        let mut breaker = opened(plain(), at(start));
        let stepped = |secs: u64| at((start + secs).checked_add_signed(step).unwrap());
        let now = stepped(30);
        if step > 0 {
            // A step ahead is time that passed.
            let passed = 30 + step as u64;
            assert_eq!(breaker.would_admit(now), passed >= 60, "{step}");
            if passed >= 60 {
                continue;
            }
        }
        let Admit::Deny { until } = breaker.admit(now) else { panic!("{step}") };
        let left = until.since(now);
        assert!(left <= Span::from_secs(60) && breaker.next_deadline() == Some(until), "{step}: {left}");
        assert_eq!(breaker.admit(before(until)), Admit::Deny { until }, "{step}");
        assert_eq!(breaker.state(until), BreakerState::HalfOpen, "{step}");
        let _ = probe(&mut breaker, until);
        breaker.check_invariants();
    }
}

#[test]
fn one_wild_reading_neither_freezes_a_breaker_nor_opens_it_early() {
    for wild in [Timestamp::MAX, Timestamp::EPOCH, Timestamp::from_nanos(u64::MAX - 1)] {
        let mut breaker = opened(plain(), at(1_000_000_000));
        assert!(matches!(breaker.admit(wild), Admit::Deny { .. }), "{wild:?}");
        assert!(matches!(breaker.admit(at(1_000_000_001)), Admit::Deny { .. }), "{wild:?}");
        let Admit::Deny { until } = breaker.admit(at(1_000_000_002)) else { panic!("{wild:?}") };
        assert!(until <= at(1_000_000_062), "{wild:?}: {until:?}");
        let _ = probe(&mut breaker, until);
    }
    let mut breaker = opened(plain(), Timestamp::MAX);
    let Admit::Deny { until } = breaker.admit(at(1_000_000_000)) else { panic!() };
    assert!(until <= at(1_000_000_060), "{until:?}");
    let _ = probe(&mut breaker, until);
}

#[test]
fn what_was_counted_before_a_step_back_stays_counted() {
    let mut breaker = breaker(plain());
    succeed(&mut breaker, 1, at(500));
    fail(&mut breaker, 9, at(3));
    assert_eq!(breaker.next_deadline(), Some(at(63)));
    assert_eq!((breaker.status(at(3)).failures, breaker.status(at(3)).since), (0, at(3)));
    // Also for a call that changed nothing but was told the time.
    assert!(!breaker.force(ForcedState::Open, Some(at(1)), at(63)));
    assert_eq!(breaker.state(at(0)), BreakerState::HalfOpen);
}

#[test]
fn the_last_instant_of_all_panics_nowhere() {
    let mut breaker = opened(CircuitBreakerConfig::default().consecutive_failures(None), Timestamp::MAX);
    assert_eq!(breaker.admit(Timestamp::MAX), Admit::Deny { until: Timestamp::MAX });
    assert!(breaker.force(ForcedState::Open, Some(Timestamp::MAX), Timestamp::MAX));
    assert_eq!(breaker.next_deadline(), None);
    breaker.check_invariants();
}

#[test]
fn a_configuration_that_cannot_be_is_refused_by_field() {
    let good = CircuitBreakerConfig::default();
    for (config, field) in [
        (good.window(Span::from_nanos(9)), "window"),
        (good.buckets(0), "buckets"),
        (good.buckets(65), "buckets"),
        (good.failure_rate_ppm(1_000_001), "failure_rate_ppm"),
        (good.open_for(Span::ZERO), "open_for"),
        (good.open_for(Span::from_secs(601)), "open_for_max"),
        (good.probe_timeout(Some(Span::ZERO)), "probe_timeout"),
    ] {
        let error = CircuitBreaker::new(config, at(0)).unwrap_err();
        assert_eq!(crate::error::Coded::field(&error), Some(field));
    }
    let edge = good.window(Span::from_nanos(64)).buckets(64).failure_rate_ppm(0).open_for(Span::from_secs(600));
    assert!(CircuitBreaker::new(edge, at(0)).is_ok());
    assert!(serde_json::from_str::<CircuitBreakerConfig>("{\"calls_min\":0}").is_err());
    assert!(serde_json::from_str::<CircuitBreakerConfig>("{\"call_min\":1}").is_err());
    assert_eq!(serde_json::from_str::<CircuitBreakerConfig>("{\"buckets\":10}").unwrap(), good);
}

#[test]
fn a_stored_breaker_that_contradicts_itself_is_refused() {
    let mut breaker = breaker(plain());
    fail(&mut breaker, 3, at(1));
    fail(&mut breaker, 3, at(31));
    let text = serde_json::to_string(&breaker).unwrap();
    assert_eq!(serde_json::from_str::<CircuitBreaker>(&text).unwrap(), breaker);
    for (from, to) in [
        ("\"now\":31000000000", "\"now\":31000000000,\"extra\":1"),
        ("\"now\":31000000000", "\"now\":29999999999"),
        ("\"kind\":\"closed\"", "\"kind\":\"open\""),
        ("\"kind\":\"closed\"", "\"kind\":\"ajar\""),
        ("\"deadline\":18446744073709551615", "\"deadline\":5"),
        ("\"probe_successes\":0", "\"probe_successes\":2"),
        ("\"reopens\":0", "\"reopens\":1"),
        ("\"reason\":\"initial\"", "\"reason\":\"waited\""),
        ("\"past_calls\":3", "\"past_calls\":4"),
        ("\"past_failures\":3", "\"past_failures\":2"),
        ("\"oldest\":3", "\"oldest\":9"),
        ("\"bucket_span\":10000000000", "\"bucket_span\":0"),
        (",{\"calls\":0,\"failures\":0}]", "]"),
        ("\"current\":{\"calls\":3", "\"current\":{\"calls\":2"),
        ("\"buckets\":10", "\"buckets\":11"),
        ("\"buckets\":10", "\"buckets\":0"),
        ("\"window\":100000000000", "\"window\":200000000000"),
    ] {
        let damaged = text.replacen(from, to, 1);
        assert_ne!(damaged, text, "{from}");
        assert!(serde_json::from_str::<CircuitBreaker>(&damaged).is_err(), "{to}");
    }
}

#[test]
fn a_breaker_and_its_ring_stay_below_360_bytes_by_default() {
    let breaker = breaker(CircuitBreakerConfig::default());
    let bytes = size_of_val(&breaker) + 8 * usize::from(breaker.config().buckets - 1);
    assert!(bytes <= 360, "{bytes}");
}

/// A breaker that keeps every result for ever and works everything out anew.
#[derive(Clone)]
struct Model {
    config: CircuitBreakerConfig,
    clock: Pace,
    mode: Mode,
    /// When the window began to count, and every result since.
    anchor: u64,
    results: Vec<(u64, bool)>,
    /// Which permits still count, by their place among all ever given.
    live: Vec<usize>,
    given: usize,
    reopens: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Closed,
    Open { until: u64 },
    Half { successes: u32, probe: Option<(usize, u64)> },
    Forced { open: bool, until: u64 },
}

const NEVER: u64 = u64::MAX;

impl Model {
    fn reset(&mut self, mode: Mode) {
        self.mode = mode;
        self.anchor = self.clock.now;
        self.results.clear();
        self.live.clear();
    }

    fn open_until(&self, from: u64) -> u64 {
        let mut span = u128::from(self.config.open_for.as_nanos());
        for _ in 0..self.reopens.min(200) {
            span = (span * u128::from(self.config.open_for_factor.get())).min(1 << 64);
        }
        if self.config.open_for_factor.get() > 1 {
            span = span.min(self.config.open_for_max.as_nanos().into());
        }
        from.saturating_add(u64::try_from(span).unwrap_or(NEVER))
    }

    fn read(&mut self, reading: u64) {
        let awaited = self.due();
        self.clock.read(reading, awaited);
    }

    fn pass(&mut self, reading: u64) {
        self.read(reading);
        let latest = self.clock.now;
        loop {
            self.mode = match self.mode {
                Mode::Open { until } if until <= latest => Mode::Half { successes: 0, probe: None },
                Mode::Half { probe: Some((_, deadline)), .. } if deadline <= latest => {
                    self.reopens += 1;
                    Mode::Open { until: self.open_until(deadline) }
                }
                Mode::Forced { open: true, until } if until <= latest => Mode::Half { successes: 0, probe: None },
                Mode::Forced { open: false, until } if until <= latest => Mode::Closed,
                _ => return,
            };
        }
    }

    fn is_half(&self) -> bool {
        matches!(self.mode, Mode::Half { .. })
    }

    fn in_window(&self) -> (u64, u64) {
        let buckets = u64::from(self.config.buckets);
        let bucket = |time: u64| (time - self.anchor) / self.config.window.as_nanos().div_ceil(buckets);
        let kept = self.results.iter().filter(|(time, _)| bucket(*time) + buckets > bucket(self.clock.now));
        kept.fold((0, 0), |(calls, failures), (_, failed)| (calls + 1, failures + u64::from(*failed)))
    }

    fn run(&self) -> u32 {
        self.results.iter().rev().take_while(|(_, failed)| *failed).count() as u32
    }

    fn admit(&mut self, now: u64) -> Result<usize, u64> {
        self.pass(now);
        if let Some(until) = self.denied() {
            return Err(self.clock.shown(until));
        }
        let permit = self.given;
        self.given += 1;
        if let Mode::Half { probe, .. } = &mut self.mode {
            let timeout = self.config.probe_timeout.map_or(NEVER, Span::as_nanos);
            *probe = Some((permit, self.clock.now.saturating_add(timeout)));
        } else {
            self.live.push(permit);
        }
        Ok(permit)
    }

    fn denied(&self) -> Option<u64> {
        match self.mode {
            Mode::Open { until } | Mode::Forced { open: true, until } => Some(until),
            Mode::Half { probe: Some((_, deadline)), .. } => Some(deadline),
            _ => None,
        }
    }

    /// A result of one call: failed, succeeded, or nothing known.
    fn answer(&mut self, permit: usize, failed: Option<bool>, now: u64) -> bool {
        self.pass(now);
        match (self.mode, failed) {
            (Mode::Half { successes, probe: Some((out, _)) }, _) if out == permit => {
                match failed {
                    None => self.mode = Mode::Half { successes, probe: None },
                    Some(false) if successes + 1 == self.config.probes_to_close.get() => {
                        self.reopens = 0;
                        self.reset(Mode::Closed);
                    }
                    Some(false) => self.mode = Mode::Half { successes: successes + 1, probe: None },
                    Some(true) => {
                        self.reopens += 1;
                        self.reset(Mode::Open { until: self.open_until(self.clock.now) });
                    }
                }
                true
            }
            (Mode::Closed | Mode::Forced { open: false, .. }, Some(failed)) if self.live.contains(&permit) => {
                self.results.push((self.clock.now, failed));
                let (calls, failures) = self.in_window();
                let (share, limit) = (failures * 1_000_000, calls * u64::from(self.config.failure_rate_ppm));
                let rate = calls >= self.config.calls_min.get().into()
                    && (share > limit || share == limit && self.config.failure_rate_rule == RateRule::AtLeast);
                let run = self.config.consecutive_failures.is_some_and(|limit| self.run() >= limit.get());
                if failed && (rate || run) && self.mode == Mode::Closed {
                    self.reopens = 0;
                    self.reset(Mode::Open { until: self.open_until(self.clock.now) });
                }
                true
            }
            _ => false,
        }
    }

    fn state(&self) -> (BreakerState, bool) {
        match self.mode {
            Mode::Closed => (BreakerState::Closed, false),
            Mode::Open { .. } => (BreakerState::Open, false),
            Mode::Half { .. } => (BreakerState::HalfOpen, false),
            Mode::Forced { open, .. } => (if open { BreakerState::Open } else { BreakerState::Closed }, true),
        }
    }

    /// As the host's clock shows it.
    fn deadline(&self) -> Option<u64> {
        self.due().map(|at| self.clock.shown(at))
    }

    fn due(&self) -> Option<u64> {
        let deadline = match self.mode {
            Mode::Forced { until, .. } => until,
            _ => self.denied().unwrap_or(NEVER),
        };
        (deadline != NEVER).then_some(deadline)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Admit,
    Answer { back: usize, failed: Option<bool> },
    Pass(u64),
    PassToDeadline { early: u64 },
    Timeout,
    Force { open: bool, span: Option<u64> },
    Release,
    GoBack(u64),
}

/// Failures are `bad` times as likely as successes; overrides are left out of some runs.
fn op(bad: u32, forced: u32) -> impl Strategy<Value = Op> {
    let failed = prop_oneof![4 => Just(Some(false)), 4 * bad => Just(Some(true)), 1 => Just(None)];
    prop_oneof![
        20 => Just(Op::Admit),
        20 => (0..6_usize, failed).prop_map(|(back, failed)| Op::Answer { back, failed }),
        6 => (0..40_u64).prop_map(Op::Pass),
        1 => (0..400_u64).prop_map(Op::Pass),
        3 => (0..2_u64).prop_map(|early| Op::PassToDeadline { early }),
        2 => Just(Op::Timeout),
        forced => (any::<bool>(), prop::option::of(0..60_u64)).prop_map(|(open, span)| Op::Force { open, span }),
        forced => Just(Op::Release),
        1 => (0..50_u64).prop_map(Op::GoBack),
    ]
}

fn config() -> impl Strategy<Value = CircuitBreakerConfig> {
    let window = (1..=5_u8, 10..200_u64, prop_oneof![Just(0), Just(500_000), Just(1_000_000), 0..=1_000_000_u32]);
    let opens = (1..6_u32, prop::option::of(1..6_u32), any::<bool>());
    let open = (1..60_u64, 1..4_u32, 60..300_u64, 1..4_u32, prop::option::of(1..50_u64));
    (window, opens, open).prop_map(
        |((buckets, window, ppm), (calls, run, strict), (span, factor, most, probes, timeout))| {
            CircuitBreakerConfig::default()
                .window(Span::from_nanos(window))
                .buckets(buckets)
                .failure_rate_ppm(ppm)
                .failure_rate_rule(if strict { RateRule::Above } else { RateRule::AtLeast })
                .calls_min(count(calls))
                .consecutive_failures(run.map(count))
                .open_for(Span::from_nanos(span))
                .open_for_factor(count(factor))
                .open_for_max(Span::from_nanos(most))
                .probes_to_close(count(probes))
                .probe_timeout(timeout.map(Span::from_nanos))
        },
    )
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    (1..4_u32, 0..2_u32).prop_flat_map(|(bad, forced)| prop::collection::vec(op(bad, forced), 1..250))
}

proptest! {
    #[test]
    fn a_breaker_answers_as_one_that_remembers_every_call(config in config(), ops in ops()) {
        let mut now = 1_000;
        let mut breaker = CircuitBreaker::new(config, Timestamp::from_nanos(now)).unwrap();
        let mut model = Model {
            config, clock: Pace::new(now), mode: Mode::Closed, anchor: now, results: vec![], live: vec![], given: 0, reopens: 0,
        };
        let mut permits: Vec<Permit> = vec![];
        for op in ops {
            let time = Timestamp::from_nanos(now);
            match op {
                Op::Admit => match (breaker.admit(time), model.admit(now)) {
                    (Admit::Allow(permit), Ok(_)) => {
                        prop_assert!(!model.is_half());
                        permits.push(permit);
                    }
                    (Admit::Probe(permit), Ok(_)) => {
                        prop_assert!(model.is_half());
                        permits.push(permit);
                    }
                    (Admit::Deny { until }, Err(expected)) => prop_assert_eq!(until.as_nanos(), expected),
                    other => prop_assert!(false, "{:?}", other),
                },
                // A permit may be answered more than once.
                Op::Answer { back, failed } => {
                    let Some(place) = permits.len().checked_sub(1 + back) else { continue };
                    let counted = match failed {
                        Some(true) => breaker.handle_failure(permits[place], time),
                        Some(false) => breaker.handle_success(permits[place], time),
                        None => breaker.handle_cancelled(permits[place], time),
                    };
                    prop_assert_eq!(counted, model.answer(place, failed, now));
                }
                Op::Pass(nanos) => now += nanos,
                Op::PassToDeadline { early } => now = now.max(model.deadline().unwrap_or(now) - early),
                Op::Timeout => {
                    breaker.handle_timeout(time);
                    model.pass(now);
                }
                Op::Force { open, span } => {
                    let state = if open { ForcedState::Open } else { ForcedState::Closed };
                    let forced = breaker.force(state, span.map(|span| Timestamp::from_nanos(now + span)), time);
                    prop_assert_eq!(forced, span != Some(0));
                    model.read(now);
                    let until = span.map_or(NEVER, |span| model.clock.now + span);
                    if forced {
                        model.reopens = 0;
                        model.reset(Mode::Forced { open, until });
                    }
                }
                Op::Release => {
                    model.pass(now);
                    let forced = matches!(model.mode, Mode::Forced { .. });
                    if let Mode::Forced { open, .. } = model.mode {
                        model.mode = if open { Mode::Half { successes: 0, probe: None } } else { Mode::Closed };
                    }
                    prop_assert_eq!(breaker.release(time), forced);
                }
                Op::GoBack(nanos) => now -= nanos.min(now),
            }
            breaker.check_invariants();
            prop_assert_eq!(breaker.next_deadline().map(Timestamp::as_nanos), model.deadline());
            for ahead in [0, 1, 30, 10_000] {
                let mut expected = model.clone();
                expected.pass(now + ahead);
                let time = Timestamp::from_nanos(now + ahead);
                let status = breaker.status(time);
                prop_assert_eq!((status.state, status.forced), expected.state());
                prop_assert_eq!(breaker.state(time), status.state);
                let denied = expected.denied().map(|until| expected.clock.shown(until));
                prop_assert_eq!(breaker.denied_until(time).map(Timestamp::as_nanos), denied);
                prop_assert_eq!(breaker.would_admit(time), expected.denied().is_none());
                prop_assert_eq!(status.until.map(Timestamp::as_nanos), expected.deadline());
                prop_assert_eq!((status.calls, status.failures), expected.in_window());
                prop_assert_eq!(status.consecutive_failures, expected.run());
                prop_assert_eq!(status.reopens, expected.reopens);
                // Whether somebody called on the way there makes no difference, if the clock went on all the time.
                if model.clock.back > 0 || model.clock.reading > now {
                    continue;
                }
                let mut called = breaker.clone();
                called.handle_timeout(Timestamp::from_nanos(now + ahead / 2));
                prop_assert_eq!(called.status(time), status);
            }
        }
        let bytes = postcard::to_allocvec(&breaker).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<CircuitBreaker>(&bytes).unwrap(), &breaker);
        let text = serde_json::to_string(&breaker).unwrap();
        prop_assert_eq!(&serde_json::from_str::<CircuitBreaker>(&text).unwrap(), &breaker);
    }
}
