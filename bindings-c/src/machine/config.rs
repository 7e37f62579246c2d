//! The options a gateway is made with.

use std::ffi::c_char;
use std::num::NonZeroU32;

use libgateway::{
    BackoffConfig, BillingPolicy, CircuitBreakerConfig, CustomerPolicy, Excess, GatewayConfig, GpuNanos, Ordering,
    Payer, RateLimit, RateRule, Span,
};

use crate::failure::Failure;
use crate::input::{Options, choice, optional_span, optional_text, options, timeouts};

/// Customers of one lane follow each other by weight and cost.
pub const GATEWAY_ORDERING_FAIR: u32 = 0;
/// Customers of one lane follow each other by arrival.
pub const GATEWAY_ORDERING_FIFO: u32 = 1;

/// The customer pays.
pub const GATEWAY_PAYER_CUSTOMER: u32 = 0;
/// Nobody pays: the settlement tells the GPU time as absorbed.
pub const GATEWAY_PAYER_HOUSE: u32 = 1;

/// The result is taken; what was possible is billed, and what was reported is told beside it.
pub const GATEWAY_EXCESS_CAP: u32 = 0;
/// The result is refused, and may be told again with another figure.
pub const GATEWAY_EXCESS_REFUSE: u32 = 1;

/// The idempotency key of a job that ended in error is free again at once.
pub const GATEWAY_FREE_FAILED: u32 = 1;
/// The idempotency key of a cancelled job is free again at once.
pub const GATEWAY_FREE_CANCELLED: u32 = 2;

/// The threshold itself opens the breaker.
pub const GATEWAY_RATE_AT_LEAST: u32 = 0;
/// Only more than the threshold opens the breaker.
pub const GATEWAY_RATE_ABOVE: u32 = 1;

/// A microsecond, a millisecond, a second, a minute and an hour in nanoseconds.
pub const GATEWAY_MICROSECOND: u64 = 1000;
/// See `GATEWAY_MICROSECOND`.
pub const GATEWAY_MILLISECOND: u64 = 1000000;
/// See `GATEWAY_MICROSECOND`.
pub const GATEWAY_SECOND: u64 = 1000000000;
/// See `GATEWAY_MICROSECOND`.
pub const GATEWAY_MINUTE: u64 = 60000000000;
/// See `GATEWAY_MICROSECOND`.
pub const GATEWAY_HOUR: u64 = 3600000000000;

/// What a customer may do and what it is worth. Begin with `GATEWAY_CUSTOMER_POLICY_INIT`, which limits nobody: so does a
/// gateway without a policy. Set a rate, `running_max` and `queued_max` where strangers submit.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_customer_policy {
    /// `sizeof(gateway_customer_policy)`.
    pub size: usize,
    /// Its price tier; NULL is "standard".
    pub tier: *const c_char,
    /// The time in which `rate_amount` tokens flow in, in nanoseconds; 0: its rate is not limited.
    pub rate_per: u64,
    /// Tokens that flow in per `rate_per`.
    pub rate_amount: u64,
    /// Tokens kept at most.
    pub rate_burst: u64,
    /// Its share against others of the same lane, 1 to 1 000 000. Default 1.
    pub weight: u32,
    /// Jobs it may have running. Default: any number.
    pub running_max: u32,
    /// Jobs it may have waiting. Default: any number.
    pub queued_max: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// When and how often failed attempts are tried again: `base`, then times `factor_ppm`, at most `max`. Begin with
/// `GATEWAY_BACKOFF_CONFIG_INIT`, which waits 1, 2 and 4 seconds and then gives up.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_backoff_config {
    /// `sizeof(gateway_backoff_config)`.
    pub size: usize,
    /// The wait after the first failure in nanoseconds. Default 1 s.
    pub base: u64,
    /// The longest wait. Default 60 s.
    pub max: u64,
    /// The longest time from the start of the first attempt to the start of the last; 0: no end. Default 0.
    pub total: u64,
    /// The longest wait that a backend may ask for. Default 15 min.
    pub retry_after_max: u64,
    /// What the jitter is drawn from. Default 0.
    pub seed: u64,
    /// What each further wait is multiplied by, in parts per million, 1 000 000 to 1 000 000 000. Default 2 000 000.
    pub factor_ppm: u32,
    /// How many failures may be followed by another attempt, at most 1 000 000. Default 3.
    pub retries: u32,
    /// How much of each wait is left to chance, in parts per million, at most 1 000 000. Default 100 000.
    pub jitter_ppm: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// When a breaker opens, for how long, and what closes it again. Begin with `GATEWAY_BREAKER_CONFIG_INIT`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_breaker_config {
    /// `sizeof(gateway_breaker_config)`.
    pub size: usize,
    /// How far back results are counted, in nanoseconds. Default 100 s.
    pub window: u64,
    /// How long it stays open the first time; `GATEWAY_FOREVER`: until it is forced. Default 60 s.
    pub open_for: u64,
    /// What the open time grows to at most. Default 10 min.
    pub open_for_max: u64,
    /// After this time a probe without an answer counts as failed; 0: never. Default 120 s.
    pub probe_timeout: u64,
    /// Into how many buckets the window is cut, 1 to 64. Default 10.
    pub buckets: u32,
    /// The share of failures in the window that opens it, in parts per million. Default 500 000.
    pub failure_rate_ppm: u32,
    /// Whether reaching the share opens, or only exceeding it: `GATEWAY_RATE_AT_LEAST` or `GATEWAY_RATE_ABOVE`.
    pub failure_rate_rule: u32,
    /// The share says nothing before this many results, at least 1. Default 10.
    pub calls_min: u32,
    /// This many failures in a row open it; 0: never. Default 5.
    pub consecutive_failures: u32,
    /// What the open time is multiplied by each time a probe fails, at least 1. Default 2.
    pub open_for_factor: u32,
    /// How many probes must succeed, one after the other, to close it, at least 1. Default 2.
    pub probes_to_close: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Limits and policies of a gateway. Begin with `GATEWAY_CONFIG_INIT`, then set what should differ. Spans are in
/// nanoseconds.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_config {
    /// `sizeof(gateway_config)`.
    pub size: usize,
    /// Keys every hash table and draws the jitter. Take it from a random source and keep it with the log. Default 0.
    pub seed: u64,
    /// What the numbers of the gateway's life are drawn from; 0: from the system's random source. Give one where there is a
    /// log: a `begin_epoch` with it is the gateway's first command. Default 0.
    pub entropy: u64,
    /// Customers without a policy of their own get this one; NULL: the default one.
    pub customer: *const gateway_customer_policy,
    /// When and how often failed attempts are tried again; NULL: as by default.
    pub backoff: *const gateway_backoff_config,
    /// The breaker of each backend, without its `probe_timeout`: a probe is a lease and ends as one. NULL: as by default.
    pub breaker: *const gateway_breaker_config,
    /// A waiting job is lifted one lane each time it has waited so long; 0: never. Default 0.
    pub age_after: u64,
    /// GPU time a job is expected to take when its submission does not say. Default 1 s.
    pub estimate: u64,
    /// A lease ends when nothing was heard of it for so long. Backends may have their own. Default 300 s.
    pub lease_for: u64,
    /// Longest single stay of a job in the queue, for jobs that do not bring their own; 0: no end. Default 0.
    pub timeout_queue: u64,
    /// Longest time from submission to the first start. 0: no end. Default 0.
    pub timeout_start: u64,
    /// Longest time of one attempt. 0: no end. Default 0.
    pub timeout_run: u64,
    /// Longest time from submission to the end. 0: no end. Default 0.
    pub timeout_total: u64,
    /// How much more than the lease's time a device may report, beyond `billing_tolerance_ppm`. Default 100 ms.
    pub billing_slack: u64,
    /// How long after its end a lease may be told what it used; 0: not at all. Default 1 h.
    pub late_usage_for: u64,
    /// Ended jobs are kept so long. Default 1 h.
    pub retain_for: u64,
    /// Bytes of outputs and failure messages that are kept at most, together. Default 1 GiB.
    pub retained_bytes_max: u64,
    /// An idempotency key stands for its job until so long after the job's end, whether the job's record is still kept or
    /// not; above zero. Default 24 h.
    pub idempotency_for: u64,
    /// A customer without jobs is forgotten after so long. Default 600 s.
    pub customer_idle: u64,
    /// A batch of settlements that is neither confirmed nor given back returns to the outbox after so long. Default 60 s.
    pub settle_within: u64,
    /// A reading of the clock further ahead is on trial for a minute before it is time that passed, while there are jobs or
    /// results that it could hurt. Default 1 h.
    pub clock_jump_max: u64,
    /// How customers of one lane follow each other: `GATEWAY_ORDERING_FAIR` or `GATEWAY_ORDERING_FIFO`.
    pub ordering: u32,
    /// How often a job may lose its worker before it is in error, at most 1 000 000. Default 5.
    pub losses_max: u32,
    /// How often its workers may give a job back before it is in error, at most 1 000 000. Default 1 000.
    pub releases_max: u32,
    /// How often a job may be preempted, at most 1 000 000; after that `gateway_preempt` is refused and it runs on.
    /// Default 1 000.
    pub preemptions_max: u32,
    /// Who pays for an attempt that failed. Default `GATEWAY_PAYER_HOUSE`.
    pub billing_failed: u32,
    /// Who pays for an attempt whose worker vanished. Default `GATEWAY_PAYER_HOUSE`.
    pub billing_lost: u32,
    /// Who pays for an attempt that ran when its job was cancelled. Default `GATEWAY_PAYER_CUSTOMER`.
    pub billing_cancelled: u32,
    /// Who pays for an attempt whose worker gave its lease back. Default `GATEWAY_PAYER_HOUSE`.
    pub billing_released: u32,
    /// Who pays for an attempt that the host ended by preempting its job or evicting its backend. Default
    /// `GATEWAY_PAYER_HOUSE`.
    pub billing_preempted: u32,
    /// How much more than the lease's time a device may report, in parts per million. Default 10 000.
    pub billing_tolerance_ppm: u32,
    /// What becomes of a usage beyond that. Default `GATEWAY_EXCESS_CAP`.
    pub billing_excess: u32,
    /// 1: an attempt that was not measured counts all devices of its backend; 0: one. Default 1.
    pub unmeasured_devices: u32,
    /// Leases that may be told late at most; beyond that the oldest can no longer be. Default 100 000.
    pub late_usage_max: u32,
    /// 1: settlements are kept until they are confirmed; 0: there are none, and nothing counts against `jobs_max`.
    /// Default 1.
    pub settlements: u32,
    /// Jobs that have not ended and settlements not confirmed, together. Default 2 000 000.
    pub jobs_max: u32,
    /// Longest payload in bytes. Default 10 MiB.
    pub payload_len_max: u32,
    /// Longest output and longest failure message in bytes. Default 1 MiB.
    pub output_len_max: u32,
    /// Ended jobs that are kept at most. Default 100 000.
    pub retained_max: u32,
    /// Idempotency keys of ended jobs at most; the one whose job ended first leaves first. Default 1 000 000.
    pub idempotency_keys_max: u32,
    /// Whose keys are free again at once: `GATEWAY_FREE_FAILED`, `GATEWAY_FREE_CANCELLED` or both. Default 0: nobody's.
    pub idempotency_free: u32,
    /// Customers known at once. Default 1 000 000.
    pub customers_max: u32,
    /// Routes known at once. Default 10 000.
    pub routes_max: u32,
    /// Modality and family pairs known at once. Default 1 000.
    pub families_max: u32,
    /// Backends known at once. Default 10 000.
    pub backends_max: u32,
    /// Events kept for a host that does not fetch them. Default 16 384.
    pub events_max: u32,
    /// Deadlines one call handles at most. Default 1 024.
    pub due_max: u32,
    /// Steps a transaction as data has at most, those within steps counted each. Default 64.
    pub steps_max: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, and has integers and pointers only.
unsafe impl Options for gateway_customer_policy {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        tier: std::ptr::null(),
        rate_per: 0,
        rate_amount: 0,
        rate_burst: 0,
        weight: 1,
        running_max: u32::MAX,
        queued_max: u32::MAX,
        reserved: 0,
    };
}

// SAFETY: repr(C), begins with its size, and has integers only.
unsafe impl Options for gateway_backoff_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        base: GATEWAY_SECOND,
        max: GATEWAY_MINUTE,
        total: 0,
        retry_after_max: 15 * GATEWAY_MINUTE,
        seed: 0,
        factor_ppm: 2_000_000,
        retries: 3,
        jitter_ppm: 100_000,
        reserved: 0,
    };
}

// SAFETY: repr(C), begins with its size, and has integers only.
unsafe impl Options for gateway_breaker_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        window: 100 * GATEWAY_SECOND,
        open_for: GATEWAY_MINUTE,
        open_for_max: 10 * GATEWAY_MINUTE,
        probe_timeout: 2 * GATEWAY_MINUTE,
        buckets: 10,
        failure_rate_ppm: 500_000,
        failure_rate_rule: GATEWAY_RATE_AT_LEAST,
        calls_min: 10,
        consecutive_failures: 5,
        open_for_factor: 2,
        probes_to_close: 2,
        reserved: 0,
    };
}

// SAFETY: repr(C), begins with its size, and has integers and pointers only.
unsafe impl Options for gateway_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        seed: 0,
        entropy: 0,
        customer: std::ptr::null(),
        backoff: std::ptr::null(),
        breaker: std::ptr::null(),
        age_after: 0,
        estimate: GATEWAY_SECOND,
        lease_for: 300 * GATEWAY_SECOND,
        timeout_queue: 0,
        timeout_start: 0,
        timeout_run: 0,
        timeout_total: 0,
        billing_slack: 100 * GATEWAY_MILLISECOND,
        late_usage_for: GATEWAY_HOUR,
        retain_for: GATEWAY_HOUR,
        retained_bytes_max: 1 << 30,
        idempotency_for: 24 * GATEWAY_HOUR,
        customer_idle: 10 * GATEWAY_MINUTE,
        settle_within: GATEWAY_MINUTE,
        clock_jump_max: GATEWAY_HOUR,
        ordering: GATEWAY_ORDERING_FAIR,
        losses_max: 5,
        releases_max: 1_000,
        preemptions_max: 1_000,
        billing_failed: GATEWAY_PAYER_HOUSE,
        billing_lost: GATEWAY_PAYER_HOUSE,
        billing_cancelled: GATEWAY_PAYER_CUSTOMER,
        billing_released: GATEWAY_PAYER_HOUSE,
        billing_preempted: GATEWAY_PAYER_HOUSE,
        billing_tolerance_ppm: 10_000,
        billing_excess: GATEWAY_EXCESS_CAP,
        unmeasured_devices: 1,
        late_usage_max: 100_000,
        settlements: 1,
        jobs_max: 2_000_000,
        payload_len_max: 10_485_760,
        output_len_max: 1_048_576,
        retained_max: 100_000,
        idempotency_keys_max: 1_000_000,
        idempotency_free: 0,
        customers_max: 1_000_000,
        routes_max: 10_000,
        families_max: 1_000,
        backends_max: 10_000,
        events_max: 16_384,
        due_max: 1_024,
        steps_max: 64,
        reserved: 0,
    };
}

pub(crate) fn excess(value: u32, field: &'static str) -> Result<Excess, Failure> {
    choice(value, &[Excess::Cap, Excess::Refuse], field)
}

/// Whose keys are free again, as a field tells it.
pub(crate) fn freed(flags: u32) -> Result<u32, Failure> {
    let all = GATEWAY_FREE_FAILED | GATEWAY_FREE_CANCELLED;
    if flags <= all { Ok(flags) } else { Err(Failure::range("idempotency_free", u64::from(flags), 0, u64::from(all))) }
}

/// A field that is kept for later and has to be 0 until then.
pub(crate) fn reserved(value: u32) -> Result<(), Failure> {
    if value == 0 { Ok(()) } else { Err(Failure::range("reserved", u64::from(value), 0, 0)) }
}

impl gateway_customer_policy {
    /// # Safety
    /// The tier is NULL or a text that ends in a NUL.
    pub(crate) unsafe fn read(&self) -> Result<CustomerPolicy, Failure> {
        reserved(self.reserved)?;
        let mut policy = CustomerPolicy::default().weight(self.weight);
        policy = policy.running_max(self.running_max).queued_max(self.queued_max);
        // SAFETY: the caller's promise.
        if let Some(tier) = unsafe { optional_text(self.tier, "tier") }? {
            policy = policy.tier(tier);
        }
        if let Some(per) = optional_span(self.rate_per) {
            policy = policy.rate(RateLimit::new(self.rate_amount, per, self.rate_burst)?);
        }
        Ok(policy)
    }
}

impl gateway_backoff_config {
    pub(crate) fn read(&self) -> Result<BackoffConfig, Failure> {
        reserved(self.reserved)?;
        Ok(BackoffConfig::default()
            .base(Span::from_nanos(self.base))
            .max(Span::from_nanos(self.max))
            .total(optional_span(self.total))
            .retry_after_max(Span::from_nanos(self.retry_after_max))
            .seed(self.seed)
            .factor_ppm(self.factor_ppm)
            .retries(self.retries)
            .jitter_ppm(self.jitter_ppm))
    }
}

impl gateway_breaker_config {
    pub(crate) fn read(&self) -> Result<CircuitBreakerConfig, Failure> {
        reserved(self.reserved)?;
        let max = u64::from(CircuitBreakerConfig::BUCKETS_MAX);
        let buckets = u8::try_from(self.buckets);
        let buckets = buckets.map_err(|_| Failure::range("buckets", u64::from(self.buckets), 1, max))?;
        let some =
            |field, value: u32| NonZeroU32::new(value).ok_or_else(|| Failure::range(field, 0, 1, u64::from(u32::MAX)));
        Ok(CircuitBreakerConfig::default()
            .window(Span::from_nanos(self.window))
            .open_for(Span::from_nanos(self.open_for))
            .open_for_max(Span::from_nanos(self.open_for_max))
            .probe_timeout(optional_span(self.probe_timeout))
            .buckets(buckets)
            .failure_rate_ppm(self.failure_rate_ppm)
            .failure_rate_rule(choice(
                self.failure_rate_rule,
                &[RateRule::AtLeast, RateRule::Above],
                "failure_rate_rule",
            )?)
            .calls_min(some("calls_min", self.calls_min)?)
            .consecutive_failures(NonZeroU32::new(self.consecutive_failures))
            .open_for_factor(some("open_for_factor", self.open_for_factor)?)
            .probes_to_close(some("probes_to_close", self.probes_to_close)?))
    }
}

impl gateway_config {
    /// # Safety
    /// Each pointer is NULL or points to what its field says.
    pub(crate) unsafe fn read(&self) -> Result<GatewayConfig, Failure> {
        reserved(self.reserved)?;
        let free = freed(self.idempotency_free)?;
        let payer = |value, field| choice(value, &[Payer::Customer, Payer::House], field);
        let billing = BillingPolicy::default()
            .failed(payer(self.billing_failed, "billing_failed")?)
            .lost(payer(self.billing_lost, "billing_lost")?)
            .cancelled(payer(self.billing_cancelled, "billing_cancelled")?)
            .released(payer(self.billing_released, "billing_released")?)
            .preempted(payer(self.billing_preempted, "billing_preempted")?)
            .excess(excess(self.billing_excess, "billing_excess")?)
            .unmeasured_devices(choice(self.unmeasured_devices, &[false, true], "unmeasured_devices")?)
            .late_usage_for(Span::from_nanos(self.late_usage_for))
            .late_usage_max(self.late_usage_max)
            .settlements(choice(self.settlements, &[false, true], "settlements")?)
            .tolerance_ppm(self.billing_tolerance_ppm)
            .slack(Span::from_nanos(self.billing_slack));
        // SAFETY: the caller's promise.
        let (customer, backoff, breaker) = unsafe {
            (
                options(self.customer, "customer")?.read()?,
                options(self.backoff, "backoff")?.read()?,
                options(self.breaker, "breaker")?.read()?,
            )
        };
        Ok(GatewayConfig::default()
            .seed(self.seed)
            .ordering(choice(self.ordering, &[Ordering::Fair, Ordering::Fifo], "ordering")?)
            .age_after(optional_span(self.age_after))
            .customer(customer)
            .estimate(GpuNanos::from_nanos(self.estimate))
            .lease_for(Span::from_nanos(self.lease_for))
            .timeouts(timeouts(self.timeout_queue, self.timeout_start, self.timeout_run, self.timeout_total))
            .backoff(backoff)
            .losses_max(self.losses_max)
            .releases_max(self.releases_max)
            .preemptions_max(self.preemptions_max)
            .breaker(breaker)
            .billing(billing)
            .jobs_max(self.jobs_max)
            .payload_len_max(self.payload_len_max)
            .output_len_max(self.output_len_max)
            .retain_for(Span::from_nanos(self.retain_for))
            .retained_max(self.retained_max)
            .retained_bytes_max(self.retained_bytes_max)
            .idempotency_for(Span::from_nanos(self.idempotency_for))
            .idempotency_keys_max(self.idempotency_keys_max)
            .idempotency_free_failed(free & GATEWAY_FREE_FAILED != 0)
            .idempotency_free_cancelled(free & GATEWAY_FREE_CANCELLED != 0)
            .customers_max(self.customers_max)
            .customer_idle(Span::from_nanos(self.customer_idle))
            .routes_max(self.routes_max)
            .families_max(self.families_max)
            .backends_max(self.backends_max)
            .events_max(self.events_max)
            .settle_within(Span::from_nanos(self.settle_within))
            .clock_jump_max(Span::from_nanos(self.clock_jump_max))
            .due_max(self.due_max)
            .steps_max(self.steps_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_library() {
        // SAFETY: the default options have no pointers.
        let config = unsafe { gateway_config::DEFAULT.read() }.unwrap();
        assert_eq!(config, GatewayConfig::default());
    }

    #[test]
    fn no_struct_of_options_has_a_gap() {
        // With whole words, and no gap before the end, no size tells half of a field.
        assert_eq!(size_of::<gateway_customer_policy>(), 8 * 5 + 4 * 4);
        assert_eq!(size_of::<gateway_backoff_config>(), 8 * 6 + 4 * 4);
        assert_eq!(size_of::<gateway_breaker_config>(), 8 * 5 + 4 * 8);
        assert_eq!(size_of::<gateway_config>(), 8 * 21 + 4 * 28);
    }
}
