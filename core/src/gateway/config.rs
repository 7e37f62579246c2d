//! What a gateway is told once.

use alloc::boxed::Box;
use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::backend::check_range;
use crate::backoff::{Backoff, BackoffConfig};
use crate::billing::Excess;
use crate::breaker::{CircuitBreaker, CircuitBreakerConfig};
use crate::error::InputError;
use crate::id::{NAME_LEN_MAX, check_name};
use crate::job::{KeyLimits, Timeouts};
use crate::limiter::RateLimit;
use crate::queue::Ordering;
use crate::time::{GpuNanos, Span, Timestamp};

/// Limits and policies of a gateway, checked once by [`crate::Gateway::new`].
///
/// ```
/// use libgateway::{GatewayConfig, Span};
/// let config = GatewayConfig::default().lease_for(Span::from_secs(60)).jobs_max(1_000);
/// assert!(config.check().is_ok());
/// assert!(GatewayConfig::default().jobs_max(0).check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct GatewayConfig {
    /// Keys every hash table, so that nobody can aim at a bucket. Give it from a random source; it is part of the log.
    pub seed: u64,
    /// How customers of one lane follow each other.
    pub ordering: Ordering,
    /// A waiting job is lifted one lane each time it has waited so long; `None` switches ageing off.
    pub age_after: Option<Span>,
    /// Customers without a policy of their own get this one. The default limits nobody.
    pub customer: CustomerPolicy,
    /// GPU time a job is expected to take when its submission does not say and no job of its route has delivered yet; from
    /// then on it is what those took lately.
    pub estimate: GpuNanos,
    /// A lease ends when nothing was heard of it for so long. Backends may have their own.
    pub lease_for: Span,
    /// The four clocks of a job that does not bring its own; none runs by default.
    pub timeouts: Timeouts,
    /// When and how often failed attempts are tried again.
    pub backoff: BackoffConfig,
    /// How often a job may lose its worker before it is in error. At most 1 000 000.
    pub losses_max: u32,
    /// How often its workers may give a job back before it is in error. At most 1 000 000.
    pub releases_max: u32,
    /// How often a job may be preempted; after that the host is refused and the job runs on. At most 1 000 000.
    pub preemptions_max: u32,
    /// Breaker of each backend. Its `probe_timeout` is not used: a probe is a lease and ends as one.
    pub breaker: CircuitBreakerConfig,
    /// Who pays for what.
    pub billing: BillingPolicy,
    /// Jobs that have not ended, and settlements the host has not confirmed, together. A host without billing switches
    /// the latter off by [`BillingPolicy::settlements`].
    pub jobs_max: u32,
    /// Longest payload in bytes.
    pub payload_len_max: u32,
    /// Longest output and longest failure message in bytes.
    pub output_len_max: u32,
    /// Ended jobs are kept so long.
    pub retain_for: Span,
    /// And at most so many: the oldest leaves with the command that ended one too many.
    pub retained_max: u32,
    /// With at most so many bytes of outputs and failure messages together; the oldest leave first.
    pub retained_bytes_max: u64,
    /// An idempotency key stands for its job until so long after the job's end, whether the job's record is still kept or
    /// not.
    pub idempotency_for: Span,
    /// Keys of ended jobs at most; the one whose job ended first leaves first. The key of a job that lives never leaves:
    /// there are at most `jobs_max` of those.
    pub idempotency_keys_max: u32,
    /// Whether a key is free again at once when its job ended in error: the same submission is a new job then.
    pub idempotency_free_failed: bool,
    /// And when it was cancelled.
    pub idempotency_free_cancelled: bool,
    /// Customers known at once.
    pub customers_max: u32,
    /// A customer without jobs is forgotten after so long, when its bucket is full again.
    pub customer_idle: Span,
    /// Routes known at once.
    pub routes_max: u32,
    /// Modality and family pairs known at once.
    pub families_max: u32,
    /// Backends known at once.
    pub backends_max: u32,
    /// Events kept for a host that does not fetch them; older ones are dropped and counted.
    pub events_max: u32,
    /// A batch of settlements that is neither confirmed nor given back returns to the outbox after so long.
    pub settle_within: Span,
    /// A reading of the host's clock further ahead than this is on trial for a minute before it is time that passed, while
    /// jobs are live, or results, keys or late usage are kept.
    pub clock_jump_max: Span,
    /// Deadlines one call handles at most; while more are due the machine's time stands still.
    pub due_max: u32,
    /// Steps a transaction as data ([`crate::Command::All`], [`crate::Command::FirstOf`]) has at most, those within steps
    /// counted each.
    pub steps_max: u32,
}

/// What a customer may do and what it is worth. By default that is anything: a gateway without a policy limits nobody, and
/// only tells who is to be served first. Give [`GatewayConfig::customer`] a `rate`, a `running_max` and a `queued_max` where
/// strangers submit.
///
/// ```
/// use libgateway::{CustomerPolicy, RateLimit};
/// let policy = CustomerPolicy::default().weight(3).rate(RateLimit::per_second(100, 1_000)).running_max(8);
/// assert_eq!((policy.weight, policy.running_max), (3, 8));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct CustomerPolicy {
    /// Share of GPU time against other customers of the same lane, 1 to 1 000 000.
    pub weight: u32,
    /// Rate at which its jobs may start for the first time; `None` is without limit.
    pub rate: Option<RateLimit>,
    /// Jobs it may have running.
    pub running_max: u32,
    /// Jobs it may have waiting.
    pub queued_max: u32,
    /// Price tier.
    pub tier: Box<str>,
}

/// Who pays for an attempt that did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payer {
    /// The customer.
    Customer,
    /// Nobody: the GPU time is told in the settlement as absorbed.
    House,
}

/// Who pays for what, and what is believed. A delivered job is paid by its customer, always.
///
/// ```
/// use libgateway::{BillingPolicy, Excess, GatewayConfig, Payer};
/// // Lost work is paid for, a measurement that cannot be is refused, and nobody reads settlements.
/// let billing = BillingPolicy::default().lost(Payer::Customer).excess(Excess::Refuse).settlements(false);
/// assert!(GatewayConfig::default().billing(billing).check().is_ok());
/// assert_eq!((billing.cancelled, billing.released), (Payer::Customer, Payer::House));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BillingPolicy {
    /// An attempt that failed, whether it is tried again or not. Default: the house.
    pub failed: Payer,
    /// An attempt whose worker vanished. Default: the house.
    pub lost: Payer,
    /// An attempt that ran when its job was cancelled. Default: the customer, who asked for the GPU until then.
    pub cancelled: Payer,
    /// An attempt whose worker gave its lease back. Default: the house.
    pub released: Payer,
    /// An attempt that the host ended by preempting its job or evicting its backend. Default: the house.
    pub preempted: Payer,
    /// How much more than the lease's time a device may report, in parts per million: clocks drift. Default 10 000.
    pub tolerance_ppm: u32,
    /// And this much on top. Default 100 ms.
    pub slack: Span,
    /// What becomes of a usage beyond that, or of more devices than the backend has. Default: the result is taken, and
    /// what was possible is billed.
    pub excess: Excess,
    /// Whether an attempt that was not measured counts all devices of its backend: 10 s on four GPUs are 40 s of GPU
    /// time. Otherwise it counts one. Default: all.
    pub unmeasured_devices: bool,
    /// How long after its end a lease may be told what it used; zero: not at all. Default 1 h.
    pub late_usage_for: Span,
    /// And at most so many leases; beyond that the oldest can no longer be told. Default 100 000.
    pub late_usage_max: u32,
    /// Whether settlements are kept for the host. Without, nothing waits to be confirmed and nothing counts against
    /// `jobs_max`; charges are still summed. Default: they are kept.
    pub settlements: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            ordering: Ordering::Fair,
            age_after: None,
            customer: CustomerPolicy::default(),
            estimate: GpuNanos::from_secs(1),
            lease_for: Span::from_secs(300),
            timeouts: Timeouts::NONE,
            backoff: BackoffConfig::default(),
            losses_max: 5,
            releases_max: 1_000,
            preemptions_max: 1_000,
            breaker: CircuitBreakerConfig::default(),
            billing: BillingPolicy::default(),
            jobs_max: 2_000_000,
            payload_len_max: 10_485_760,
            output_len_max: 1_048_576,
            retain_for: Span::from_secs(3_600),
            retained_max: 100_000,
            retained_bytes_max: 1 << 30,
            idempotency_for: Span::from_secs(86_400),
            idempotency_keys_max: 1_000_000,
            idempotency_free_failed: false,
            idempotency_free_cancelled: false,
            customers_max: 1_000_000,
            customer_idle: Span::from_secs(600),
            routes_max: 10_000,
            families_max: 1_000,
            backends_max: 10_000,
            events_max: 16_384,
            settle_within: Span::from_secs(60),
            clock_jump_max: Span::from_secs(3_600),
            due_max: 1_024,
            steps_max: 64,
        }
    }
}

impl Default for CustomerPolicy {
    fn default() -> Self {
        Self { weight: 1, rate: None, running_max: u32::MAX, queued_max: u32::MAX, tier: Box::from("standard") }
    }
}

impl Default for BillingPolicy {
    fn default() -> Self {
        Self {
            failed: Payer::House,
            lost: Payer::House,
            cancelled: Payer::Customer,
            released: Payer::House,
            preempted: Payer::House,
            tolerance_ppm: 10_000,
            slack: Span::from_millis(100),
            excess: Excess::Cap,
            unmeasured_devices: true,
            late_usage_for: Span::from_secs(3_600),
            late_usage_max: 100_000,
            settlements: true,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $type:ty),+ $(,)?) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $field(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        })+
    };
}

impl GatewayConfig {
    setters! {
        /// Sets [`GatewayConfig::seed`].
        seed: u64,
        /// Sets [`GatewayConfig::ordering`].
        ordering: Ordering,
        /// Sets [`GatewayConfig::age_after`].
        age_after: Option<Span>,
        /// Sets [`GatewayConfig::customer`].
        customer: CustomerPolicy,
        /// Sets [`GatewayConfig::estimate`].
        estimate: GpuNanos,
        /// Sets [`GatewayConfig::lease_for`].
        lease_for: Span,
        /// Sets [`GatewayConfig::timeouts`].
        timeouts: Timeouts,
        /// Sets [`GatewayConfig::backoff`].
        backoff: BackoffConfig,
        /// Sets [`GatewayConfig::losses_max`].
        losses_max: u32,
        /// Sets [`GatewayConfig::releases_max`].
        releases_max: u32,
        /// Sets [`GatewayConfig::preemptions_max`].
        preemptions_max: u32,
        /// Sets [`GatewayConfig::breaker`].
        breaker: CircuitBreakerConfig,
        /// Sets [`GatewayConfig::billing`].
        billing: BillingPolicy,
        /// Sets [`GatewayConfig::jobs_max`].
        jobs_max: u32,
        /// Sets [`GatewayConfig::payload_len_max`].
        payload_len_max: u32,
        /// Sets [`GatewayConfig::output_len_max`].
        output_len_max: u32,
        /// Sets [`GatewayConfig::retain_for`].
        retain_for: Span,
        /// Sets [`GatewayConfig::retained_max`].
        retained_max: u32,
        /// Sets [`GatewayConfig::retained_bytes_max`].
        retained_bytes_max: u64,
        /// Sets [`GatewayConfig::idempotency_for`].
        idempotency_for: Span,
        /// Sets [`GatewayConfig::idempotency_keys_max`].
        idempotency_keys_max: u32,
        /// Sets [`GatewayConfig::idempotency_free_failed`].
        idempotency_free_failed: bool,
        /// Sets [`GatewayConfig::idempotency_free_cancelled`].
        idempotency_free_cancelled: bool,
        /// Sets [`GatewayConfig::customers_max`].
        customers_max: u32,
        /// Sets [`GatewayConfig::customer_idle`].
        customer_idle: Span,
        /// Sets [`GatewayConfig::routes_max`].
        routes_max: u32,
        /// Sets [`GatewayConfig::families_max`].
        families_max: u32,
        /// Sets [`GatewayConfig::backends_max`].
        backends_max: u32,
        /// Sets [`GatewayConfig::events_max`].
        events_max: u32,
        /// Sets [`GatewayConfig::settle_within`].
        settle_within: Span,
        /// Sets [`GatewayConfig::clock_jump_max`].
        clock_jump_max: Span,
        /// Sets [`GatewayConfig::due_max`].
        due_max: u32,
        /// Sets [`GatewayConfig::steps_max`].
        steps_max: u32,
    }

    pub(crate) fn keys(&self) -> KeyLimits {
        KeyLimits {
            keep_for: self.idempotency_for,
            keys_max: self.idempotency_keys_max,
            free_failed: self.idempotency_free_failed,
            free_cancelled: self.idempotency_free_cancelled,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that cannot be, in the order of their declaration.
    pub fn check(&self) -> Result<(), InputError> {
        let some = |field, value: u32| check_range(field, u64::from(value), 1, u64::from(u32::MAX - 1));
        if let Some(span) = self.age_after {
            check_range("age_after", span.as_nanos(), 1, u64::MAX)?;
        }
        self.customer.check()?;
        check_range("estimate", self.estimate.as_nanos(), 1, u64::MAX)?;
        check_range("lease_for", self.lease_for.as_nanos(), 1, u64::MAX)?;
        check_timeouts(&self.timeouts)?;
        Backoff::new(self.backoff)?;
        // Counters of attempts cannot run out.
        check_range("retries", u64::from(self.backoff.retries), 0, TRIES_MAX)?;
        check_range("losses_max", u64::from(self.losses_max), 0, TRIES_MAX)?;
        check_range("releases_max", u64::from(self.releases_max), 0, TRIES_MAX)?;
        check_range("preemptions_max", u64::from(self.preemptions_max), 0, TRIES_MAX)?;
        CircuitBreaker::new(self.breaker, Timestamp::EPOCH)?;
        check_range("tolerance_ppm", u64::from(self.billing.tolerance_ppm), 0, 1_000_000_000)?;
        some("jobs_max", self.jobs_max)?;
        some("payload_len_max", self.payload_len_max)?;
        some("output_len_max", self.output_len_max)?;
        check_range("idempotency_for", self.idempotency_for.as_nanos(), 1, u64::MAX)?;
        some("customers_max", self.customers_max)?;
        some("routes_max", self.routes_max)?;
        some("families_max", self.families_max)?;
        some("backends_max", self.backends_max)?;
        some("events_max", self.events_max)?;
        check_range("settle_within", self.settle_within.as_nanos(), 1, u64::MAX)?;
        check_range("clock_jump_max", self.clock_jump_max.as_nanos(), 1, u64::MAX)?;
        some("due_max", self.due_max)?;
        some("steps_max", self.steps_max)
    }
}

impl CustomerPolicy {
    setters! {
        /// Sets [`CustomerPolicy::weight`].
        weight: u32,
        /// Sets [`CustomerPolicy::running_max`].
        running_max: u32,
        /// Sets [`CustomerPolicy::queued_max`].
        queued_max: u32,
    }

    /// Sets [`CustomerPolicy::rate`].
    #[must_use]
    pub fn rate(mut self, rate: RateLimit) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Sets [`CustomerPolicy::tier`].
    #[must_use]
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.tier = tier.into().into_boxed_str();
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first of `weight`, `tier` that cannot be. The maxima may be 0: such a customer may not run, or not wait.
    pub fn check(&self) -> Result<(), InputError> {
        check_range("weight", u64::from(self.weight), 1, 1_000_000)?;
        check_name("tier", &self.tier, NAME_LEN_MAX)
    }
}

impl BillingPolicy {
    setters! {
        /// Sets [`BillingPolicy::failed`].
        failed: Payer,
        /// Sets [`BillingPolicy::lost`].
        lost: Payer,
        /// Sets [`BillingPolicy::cancelled`].
        cancelled: Payer,
        /// Sets [`BillingPolicy::released`].
        released: Payer,
        /// Sets [`BillingPolicy::preempted`].
        preempted: Payer,
        /// Sets [`BillingPolicy::excess`].
        excess: Excess,
        /// Sets [`BillingPolicy::unmeasured_devices`].
        unmeasured_devices: bool,
        /// Sets [`BillingPolicy::late_usage_for`].
        late_usage_for: Span,
        /// Sets [`BillingPolicy::late_usage_max`].
        late_usage_max: u32,
        /// Sets [`BillingPolicy::settlements`].
        settlements: bool,
        /// Sets [`BillingPolicy::tolerance_ppm`].
        tolerance_ppm: u32,
        /// Sets [`BillingPolicy::slack`].
        slack: Span,
    }
}

const TRIES_MAX: u64 = 1_000_000;

pub(crate) fn check_timeouts(timeouts: &Timeouts) -> Result<(), InputError> {
    let clocks = [
        ("timeouts.queue", timeouts.queue),
        ("timeouts.start", timeouts.start),
        ("timeouts.run", timeouts.run),
        ("timeouts.total", timeouts.total),
    ];
    for (field, span) in clocks {
        if let Some(span) = span {
            check_range(field, span.as_nanos(), 1, u64::MAX)?;
        }
    }
    Ok(())
}
