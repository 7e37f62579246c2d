//! What a limit lets through, what it says of itself, and what it costs who never got in.

use std::num::NonZeroU32;

use libgateway::error::{BillingError, SubmitError};
use libgateway::{
    Acquire, BillingCall, BillingCollector, BillingCollectorConfig, CircuitBreakerConfig, CustomerPolicy, Dispatch,
    Failure, FailureClass, GatewayConfig, JobState, JobStore, JobStoreConfig, KeyedAcquire, KeyedRateLimiter,
    KeyedRateLimiterConfig, NewJob, PriceBook, RateLimit, RateLimiter, Span, Timeouts, Timestamp, Usage, WaitReason,
    WindowLimit, WindowLimiter,
};
use libgateway_tests::kit::{DEV, Rig, START, at, before, id, job, secs};

fn millis(millis: u64) -> Timestamp {
    START + Span::from_millis(millis)
}

fn limiter(amount: u64, per: Span, burst: u64) -> RateLimiter {
    RateLimiter::new(RateLimit::new(amount, per, burst).unwrap(), START)
}

fn window(amount: u32, per: Span) -> WindowLimiter {
    WindowLimiter::new(WindowLimit::new(amount, per).unwrap(), START)
}

/// A customer that may start so many jobs and run so many at once.
fn plan(rate: RateLimit, running_max: u32) -> GatewayConfig {
    GatewayConfig::default().customer(CustomerPolicy::default().rate(rate).running_max(running_max))
}

fn tokens(rig: &Rig) -> u64 {
    rig.gateway.customer("acme").unwrap().tokens.unwrap()
}

// --- What it lets through ---

#[test]
fn three_in_ten_seconds_are_three_at_once_and_the_fourth_comes_when_a_third_of_them_has_passed() {
    let mut limiter = limiter(3, secs(10), 3);
    for left in [2, 1, 0] {
        assert_eq!(limiter.try_acquire(1, START), Acquire::Allow { remaining: left });
    }
    // 3 333 333 333.3 ns, told as the first nanosecond at which it is there.
    let until = START + Span::from_nanos(3_333_333_334);
    assert_eq!(limiter.try_acquire(1, START), Acquire::Deny { until });
    assert!(!limiter.peek(1, before(until)).is_allowed() && limiter.peek(1, until).is_allowed());
}

#[test]
fn a_bucket_that_was_full_for_long_has_no_more_than_its_burst_after() {
    let mut limiter = limiter(20, secs(1), 100);
    assert_eq!(limiter.available(at(3_600)), 100);
    assert_eq!(limiter.try_acquire(100, at(3_600)), Acquire::Allow { remaining: 0 });
    assert_eq!((limiter.available(at(3_600)), limiter.available(at(3_601))), (0, 20));
    assert!(!limiter.try_acquire(1, at(3_600)).is_allowed());
}

#[test]
fn who_asks_too_often_gets_as_much_as_who_asks_seldom() {
    let (mut often, mut seldom) = (limiter(7, secs(1), 100), limiter(7, secs(1), 100));
    for limiter in [&mut often, &mut seldom] {
        assert!(limiter.try_acquire(100, START).is_allowed());
    }
    for step in 1..=10_000 {
        // Each look comes before a whole token has flowed in; none of the parts is lost.
        _ = often.try_acquire(99, millis(step));
        assert_eq!(often.available(millis(step)), seldom.available(millis(step)));
    }
    assert_eq!(
        (often.available(at(10)), often),
        (70, {
            _ = seldom.try_acquire(99, at(10));
            seldom
        })
    );
}

#[test]
fn a_limit_that_is_set_anew_again_and_again_refills_as_one_that_is_left_alone() {
    let per_second = |amount| RateLimit::per_second(amount, 100);
    let mut limiter = RateLimiter::new(per_second(3), START);
    assert!(limiter.try_acquire(100, START).is_allowed());
    for step in 1..=20_000 {
        limiter.set_limit(per_second(3), millis(step));
    }
    assert_eq!(limiter.available(at(20)), 60);
    let mut rig = Rig::with_slots(plan(RateLimit::per_second(3, 100), u32::MAX), 1);
    rig.submit(job(1, "acme", DEV).tokens(100));
    rig.lease();
    for step in 1..=2_000 {
        let policy = rig.gateway.config().customer.clone();
        rig.gateway.put_customer(millis(10 * step), "acme", policy).unwrap();
    }
    assert_eq!(tokens(&rig), 60);
}

#[test]
fn what_costs_more_than_a_window_has_never_passes_and_costs_of_any_size_are_counted_in_full() {
    let mut window = window(10, secs(60));
    assert_eq!(window.try_acquire(5, START), Acquire::Allow { remaining: 5 });
    assert_eq!(window.try_acquire(100, START), Acquire::Never);
    assert_eq!(window.available(START), 5, "what was refused took nothing");
    // A large one and then small ones: the window is full when their sum is.
    assert_eq!(window.try_acquire(4, at(1)), Acquire::Allow { remaining: 1 });
    assert_eq!(window.try_acquire(1, at(2)), Acquire::Allow { remaining: 0 });
    assert_eq!(window.try_acquire(1, at(3)), Acquire::Deny { until: at(60) });
    assert_eq!(window.try_acquire(6, at(3)), Acquire::Deny { until: at(61) });
}

#[test]
fn a_window_has_no_border_at_which_twice_as_much_passes() {
    let mut window = window(120, secs(60));
    assert!(window.try_acquire(120, millis(59_999)).is_allowed());
    assert_eq!(window.try_acquire(1, at(60)), Acquire::Deny { until: millis(119_999) });
    // One that trickles is never over, wherever a minute begins.
    let mut taken = vec![(millis(59_999), 120_u64)];
    for step in 0..3_000 {
        let now = at(120) + Span::from_millis(700 * step);
        let cost = step % 7 + 1;
        if window.try_acquire(cost, now).is_allowed() {
            taken.push((now, cost));
        }
    }
    for (begin, _) in &taken {
        let inside = taken.iter().filter(|(own, _)| own >= begin && own.since(*begin) < secs(60));
        assert!(inside.map(|(_, cost)| cost).sum::<u64>() <= 120);
    }
    assert!(taken.len() > 1_000);
}

// --- What it says ---

#[test]
fn when_to_come_again_and_when_all_is_back_are_two_instants() {
    let mut limiter = limiter(3, secs(60), 3);
    assert!(limiter.try_acquire(3, START).is_allowed());
    let denied = limiter.try_acquire(1, at(5));
    assert_eq!(denied, Acquire::Deny { until: at(20) });
    assert_eq!((denied.retry_after(at(5)), limiter.headers(at(5)).reset), (Some(secs(15)), secs(55)));
    // Never less than nothing, however late the client reads it.
    assert_eq!((denied.retry_after(at(20)), denied.retry_after(at(3_600))), (Some(Span::ZERO), Some(Span::ZERO)));
    assert_eq!(limiter.headers(at(3_600)).reset, Span::ZERO);
}

#[test]
fn who_comes_again_when_it_was_told_to_is_let_in_and_not_put_off_by_a_rounded_second() {
    let mut limiter = limiter(7, secs(60), 7);
    let mut now = START;
    for _ in 0..7 {
        assert!(limiter.try_acquire(1, now).is_allowed());
    }
    for _ in 0..1_000 {
        let wait = limiter.try_acquire(1, now).retry_after(now).unwrap();
        assert!(wait.as_secs_ceil() <= 9);
        // As a client does that has whole seconds only.
        now += secs(wait.as_secs_ceil());
        assert!(limiter.try_acquire(1, now).is_allowed());
    }
}

#[test]
fn a_window_says_when_the_oldest_leaves_it() {
    let mut window = window(10, secs(60));
    for number in 0..10 {
        assert!(window.try_acquire(1, at(2 * number)).is_allowed());
    }
    let denied = window.try_acquire(1, at(20));
    assert_eq!((denied, denied.retry_after(at(20))), (Acquire::Deny { until: at(60) }, Some(secs(40))));
    assert_eq!((window.next_deadline(), window.headers(at(20)).reset), (Some(at(60)), secs(58)));
    assert!(window.try_acquire(1, at(60)).is_allowed());
}

#[test]
fn a_window_whose_amount_was_lowered_wakes_nobody_before_there_is_room() {
    let mut limiter = window(5, secs(60));
    for number in 0..5 {
        assert!(limiter.try_acquire(1, at(number)).is_allowed());
    }
    limiter.set_limit(WindowLimit::new(2, secs(60)).unwrap(), at(10));
    // The first three leave for nobody: 2 of 5 may stay.
    assert_eq!(limiter.try_acquire(1, at(10)), Acquire::Deny { until: at(63) });
    assert_eq!(limiter.next_deadline(), Some(at(63)));
    assert_eq!((limiter.available(before(at(63))), limiter.available(at(63))), (0, 1));
    limiter.set_limit(WindowLimit::new(0, secs(60)).unwrap(), at(10));
    assert_eq!(limiter.next_deadline(), None, "nothing may ever be taken");
}

#[test]
fn asking_takes_nothing_and_remembers_nobody() {
    let mut limiter = limiter(1, secs(1), 2);
    for _ in 0..10 {
        assert_eq!(limiter.peek(2, START), Acquire::Allow { remaining: 0 });
        assert_eq!(limiter.try_acquire(0, START), Acquire::Allow { remaining: 2 });
    }
    let config = KeyedRateLimiterConfig::default().limit(RateLimit::per_second(1, 2));
    let mut keyed = KeyedRateLimiter::<String>::new(config, START).unwrap();
    assert_eq!(keyed.peek("acme", 2, START), KeyedAcquire::Allow { remaining: 0 });
    assert_eq!(keyed.try_acquire("acme", 0, START), KeyedAcquire::Allow { remaining: 2 });
    assert!(keyed.is_empty());
}

#[test]
fn a_spent_key_is_not_washed_clean_by_a_flood_of_made_up_ones() {
    // Ten a minute, a hundred keys: a flood of a hundred times as many, each once and then each again.
    let limit = RateLimit::new(10, secs(60), 10).unwrap();
    let config = KeyedRateLimiterConfig::default().limit(limit).keys_max(100);
    let mut keyed = KeyedRateLimiter::<String>::new(config, START).unwrap();
    assert!(keyed.try_acquire("", 10, START).is_allowed(), "no name is a name");
    for round in 0..2 {
        for number in 0..10_000 {
            _ = keyed.try_acquire(&format!("{number}"), 1, millis(round));
            assert!(keyed.len() <= 100);
        }
        assert_eq!(keyed.try_acquire("", 1, millis(round)), KeyedAcquire::Deny { until: at(6) });
    }
    assert_eq!(keyed.available("", at(6)), 1);
}

// --- A customer's ---

#[test]
fn a_job_that_waits_for_a_place_takes_nothing_from_its_customers_rate() {
    // One an hour beside the first: what waits for the one place must not pay before it starts.
    let mut rig = Rig::with_slots(plan(RateLimit::new(1, secs(3_600), 2).unwrap(), 1), 9);
    for number in 1..=3 {
        rig.submit(job(number, "acme", DEV));
    }
    let lease = rig.lease();
    for _ in 0..5 {
        assert_eq!(rig.wait(), Some(at(300)), "no token will help it, but the end of the lease");
        assert_eq!(rig.gateway.explain(id(2)), Some(WaitReason::CustomerRunning { running: 1 }));
    }
    assert_eq!(tokens(&rig), 1);
    rig.complete(&lease);
    let lease = rig.lease();
    assert_eq!((lease.job, tokens(&rig)), (id(2), 0));
    // Now it is the rate that holds the third back, and it says until when.
    rig.complete(&lease);
    let until = at(3_600);
    assert_eq!(rig.gateway.explain(id(3)), Some(WaitReason::CustomerRate { until: Some(until) }));
    assert_eq!(rig.dispatch(), Dispatch::Wait { until: Some(until) });
    rig.to(until);
    assert_eq!(rig.lease().job, id(3));
}

#[test]
fn workers_that_vanish_leave_their_customers_places_free() {
    let policy = CustomerPolicy::default().running_max(10);
    let breaker = CircuitBreakerConfig::default().consecutive_failures(None).calls_min(NonZeroU32::MAX);
    let mut rig = Rig::with_slots(GatewayConfig::default().customer(policy).losses_max(0).breaker(breaker), 99);
    let view = |rig: &Rig| {
        let view = rig.gateway.customer("acme").unwrap();
        (view.running, view.queued)
    };
    for round in 0..5 {
        for number in 0..20 {
            rig.submit(job(100 * round + number, "acme", DEV));
        }
        // Whatever lies in between answers nothing, or says 504 when the gateway has long given it up.
        let leases = rig.leases();
        assert_eq!((leases.len(), view(&rig)), (10, (10, 10)));
        rig.pass(secs(300));
        let late = Failure::new(FailureClass::Http(504), "gateway time-out");
        assert!(rig.gateway.fail(rig.now, leases[0].id, late, Usage::unmeasured()).is_err());
        assert_eq!(view(&rig), (0, 10));
        let others = rig.leases();
        assert_eq!((others.len(), view(&rig)), (10, (10, 0)));
        rig.pass(secs(300));
        assert_eq!(view(&rig), (0, 0));
        rig.settlements();
    }
    assert_eq!(rig.gateway.stats().counters.lost, 100);
}

#[test]
fn what_was_refused_at_the_door_costs_no_token_and_no_place() {
    let policy = CustomerPolicy::default().rate(RateLimit::per_second(1, 2)).running_max(1).queued_max(1);
    let mut rig = Rig::with_slots(GatewayConfig::default().customer(policy), 1);
    rig.submit(job(1, "acme", DEV).tokens(2));
    for number in 2..50 {
        assert!(rig.gateway.submit(rig.now, job(number, "acme", DEV)).is_err());
        assert!(rig.gateway.submit(rig.now, job(number, "acme", "image/none/dev/t2i")).is_err());
        assert!(rig.gateway.submit(rig.now, job(number, "acme", DEV).tokens(3)).is_err());
    }
    let view = rig.gateway.customer("acme").unwrap();
    assert_eq!((view.running, view.queued, view.tokens), (0, 1, Some(2)));
    let lease = rig.lease();
    rig.complete(&lease);
    rig.to(at(2));
    rig.submit(job(2, "acme", DEV));
    assert_eq!(rig.lease().job, id(2));
}

#[test]
fn a_job_pays_its_tokens_once_however_often_it_starts() {
    // Failed ones are not given back: who only sends what fails is throttled as anybody else.
    let breaker = CircuitBreakerConfig::default().consecutive_failures(None);
    let mut rig = Rig::with_slots(plan(RateLimit::new(1, secs(3_600), 2).unwrap(), u32::MAX).breaker(breaker), 9);
    rig.submit(job(1, "acme", DEV));
    let lease = rig.lease();
    rig.gateway.release(rig.now, lease.id).unwrap();
    let lease = rig.lease();
    rig.gateway.preempt(rig.now, id(1), Usage::unmeasured()).unwrap();
    assert!(rig.gateway.heartbeat(rig.now, lease.id).is_err());
    let lease = rig.lease();
    rig.fail(&lease, FailureClass::Lost);
    for _ in 0..4 {
        let lease = rig.lease();
        assert_eq!(tokens(&rig), 1);
        rig.fail(&lease, FailureClass::Http(503));
        rig.pass(secs(10));
    }
    assert_eq!((rig.state(id(1)), tokens(&rig)), (JobState::Error, 1));
    rig.submit(job(2, "acme", DEV));
    rig.lease();
    rig.submit(job(3, "acme", DEV));
    assert_eq!(rig.gateway.explain(id(3)), Some(WaitReason::CustomerRate { until: Some(at(3_600)) }));
}

// --- When there will be room ---

#[test]
fn what_is_full_says_by_the_hosts_own_clock_when_there_will_be_room() {
    // The clock was set back by an hour while the job waited: its minute ends at a reading before that at which it began.
    let timeouts = Timeouts { queue: Some(secs(60)), ..Timeouts::NONE };
    let start = at(7_200);
    let mut store = JobStore::new(JobStoreConfig::default().jobs_max(1).timeouts(timeouts), start);
    store.insert(start, NewJob::new(id(1), "acme")).unwrap();
    let refused = |store: &mut JobStore, now| match store.insert(now, NewJob::new(id(2), "acme")) {
        Err(SubmitError::Full(full)) => full.retry_at,
        other => panic!("there is one too many: {other:?}"),
    };
    assert_eq!(refused(&mut store, at(7_230)), Some(at(7_260)));
    assert_eq!(refused(&mut store, at(3_600)), Some(at(3_630)));
    assert_eq!((store.next_deadline(), refused(&mut store, before(at(3_630)))), (Some(at(3_630)), Some(at(3_630))));
    assert_eq!(store.insert(at(3_630), NewJob::new(id(2), "acme")), Ok(id(2)));

    let config = BillingCollectorConfig::default().starts_max(1).start_age_max(secs(60));
    let mut billing = BillingCollector::new(config, PriceBook::new(1, "USD").unwrap()).unwrap();
    let call = |request_id| BillingCall { request_id, customer: None, model: "flux/dev", tier: None };
    billing.start(call("req_1"), start).unwrap();
    let refused = |billing: &mut BillingCollector, now| match billing.start(call("req_2"), now) {
        Err(BillingError::Full(full)) => full.retry_at,
        other => panic!("there is one too many: {other:?}"),
    };
    assert_eq!(refused(&mut billing, at(7_230)), Some(at(7_260)));
    billing.handle_timeout(1, at(7_230));
    assert_eq!(refused(&mut billing, at(3_600)), Some(at(3_630)));
    billing.handle_timeout(1, at(3_600));
    assert_eq!((billing.handle_timeout(9, before(at(3_630))), billing.handle_timeout(9, at(3_630))), (0, 1));
    billing.start(call("req_2"), at(3_630)).unwrap();
}
