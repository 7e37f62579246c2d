//! Configurations that cannot be: the field is named, and no gateway comes of them.

use std::num::NonZeroU32;

use libgateway::error::Coded;
use libgateway::{
    BackoffConfig, BillingPolicy, CircuitBreakerConfig, CustomerPolicy, Gateway, GatewayConfig, GpuNanos, Span,
    Timeouts, Timestamp,
};

#[test]
fn each_impossible_value_of_a_configuration_is_named() {
    let zero = Some(Span::ZERO);
    let ok = GatewayConfig::default;
    let breaker = CircuitBreakerConfig::default;
    let backoff = BackoffConfig::default;
    let rows = [
        ("age_after", ok().age_after(zero)),
        ("weight", ok().customer(CustomerPolicy::default().weight(0))),
        ("weight", ok().customer(CustomerPolicy::default().weight(1_000_001))),
        ("tier", ok().customer(CustomerPolicy::default().tier(""))),
        ("estimate", ok().estimate(GpuNanos::ZERO)),
        ("lease_for", ok().lease_for(Span::ZERO)),
        ("timeouts.queue", ok().timeouts(Timeouts { queue: zero, ..Timeouts::NONE })),
        ("timeouts.start", ok().timeouts(Timeouts { start: zero, ..Timeouts::NONE })),
        ("timeouts.run", ok().timeouts(Timeouts { run: zero, ..Timeouts::NONE })),
        ("timeouts.total", ok().timeouts(Timeouts { total: zero, ..Timeouts::NONE })),
        ("factor_ppm", ok().backoff(backoff().factor_ppm(999_999))),
        ("factor_ppm", ok().backoff(backoff().factor_ppm(BackoffConfig::FACTOR_PPM_MAX + 1))),
        ("jitter_ppm", ok().backoff(backoff().jitter_ppm(1_000_001))),
        ("max", ok().backoff(backoff().max(Span::from_millis(999)))),
        ("window", ok().breaker(breaker().window(Span::ZERO))),
        ("window", ok().breaker(breaker().window(Span::from_nanos(9)))),
        ("buckets", ok().breaker(breaker().buckets(0))),
        ("buckets", ok().breaker(breaker().buckets(CircuitBreakerConfig::BUCKETS_MAX + 1))),
        ("failure_rate_ppm", ok().breaker(breaker().failure_rate_ppm(1_000_001))),
        ("open_for", ok().breaker(breaker().open_for(Span::ZERO))),
        ("open_for_max", ok().breaker(breaker().open_for_max(Span::from_secs(59)))),
        ("probe_timeout", ok().breaker(breaker().probe_timeout(zero))),
        ("tolerance_ppm", ok().billing(BillingPolicy::default().tolerance_ppm(1_000_000_001))),
        ("jobs_max", ok().jobs_max(0)),
        ("jobs_max", ok().jobs_max(u32::MAX)),
        ("payload_len_max", ok().payload_len_max(0)),
        ("output_len_max", ok().output_len_max(0)),
        ("customers_max", ok().customers_max(0)),
        ("customers_max", ok().customers_max(u32::MAX)),
        ("routes_max", ok().routes_max(0)),
        ("routes_max", ok().routes_max(u32::MAX)),
        ("families_max", ok().families_max(0)),
        ("families_max", ok().families_max(u32::MAX)),
        ("backends_max", ok().backends_max(0)),
        ("backends_max", ok().backends_max(u32::MAX)),
        ("events_max", ok().events_max(0)),
        ("events_max", ok().events_max(u32::MAX)),
        ("settle_within", ok().settle_within(Span::ZERO)),
        ("clock_jump_max", ok().clock_jump_max(Span::ZERO)),
        ("due_max", ok().due_max(0)),
        ("due_max", ok().due_max(u32::MAX)),
    ];
    for (field, config) in rows {
        let error = Gateway::new(config, Timestamp::EPOCH).err();
        assert_eq!(error.as_ref().and_then(Coded::field), Some(field), "{error:?}");
    }
}

#[test]
fn a_configuration_at_its_limits_works() {
    let config = GatewayConfig::default()
        .age_after(Some(Span::MAX))
        .estimate(GpuNanos::from_nanos(u64::MAX))
        .lease_for(Span::MAX)
        .losses_max(1_000_000)
        .backoff(BackoffConfig::default().base(Span::MAX).max(Span::MAX).retries(1_000_000).jitter_ppm(1_000_000))
        .breaker(
            CircuitBreakerConfig::default().window(Span::MAX).buckets(64).open_for(Span::MAX).open_for_max(Span::MAX),
        )
        .billing(BillingPolicy::default().tolerance_ppm(1_000_000_000).slack(Span::MAX))
        .jobs_max(u32::MAX - 1)
        .retain_for(Span::MAX)
        .retained_max(u32::MAX)
        .customer_idle(Span::MAX)
        .customers_max(u32::MAX - 1)
        .events_max(u32::MAX - 1)
        .settle_within(Span::MAX)
        .clock_jump_max(Span::MAX)
        .due_max(u32::MAX - 1);
    let mut rig = libgateway_tests::kit::Rig::with_slots(config, 1);
    rig.submit(libgateway_tests::kit::job(1, "acme", libgateway_tests::kit::DEV));
    let lease = rig.lease();
    rig.fail(&lease, libgateway::FailureClass::Timeout);
    rig.cancel(lease.job);
    assert!(rig.gateway.take_settlements(rig.now, u32::MAX).is_some());
    assert_eq!(rig.gateway.next_deadline(), None);
    rig.to(Timestamp::MAX);
    assert_eq!(Gateway::replica(&rig.gateway.snapshot()).unwrap().digest(), rig.gateway.digest());
}

#[test]
fn of_several_impossible_values_the_first_declared_is_named() {
    let config = GatewayConfig::default().due_max(0).jobs_max(0).lease_for(Span::ZERO);
    assert_eq!(Gateway::new(config.clone(), Timestamp::EPOCH).unwrap_err().field(), Some("lease_for"));
    let config = config.lease_for(Span::from_secs(1));
    assert_eq!(Gateway::new(config, Timestamp::EPOCH).unwrap_err().field(), Some("jobs_max"));
}

#[test]
fn thresholds_of_one_are_the_least_a_breaker_can_be_told() {
    let one = NonZeroU32::MIN;
    let config = CircuitBreakerConfig::default().calls_min(one).probes_to_close(one).open_for_factor(one);
    assert!(GatewayConfig::default().breaker(config.open_for_max(Span::ZERO)).check().is_ok(), "nothing grows to it");
}
