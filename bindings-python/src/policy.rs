//! Limits and policies by value: what gateways, limiters and breakers are told once.

use std::ffi::CStr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use libgateway::error::{Coded, InputError};
use libgateway::{
    Backoff, BackoffConfig, BillingPolicy, CircuitBreaker, CircuitBreakerConfig, CustomerPolicy, Excess, GatewayConfig,
    GpuNanos, Payer, PriceBook, RateLimit, RateRule, Retry, Span, Timeouts, Timestamp, WindowLimit,
};
use pyo3::exceptions::PyDeprecationWarning;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::argument::Argument;
use crate::calling::Calling;
use crate::convert::{GpuSeconds, Moment, Seconds, decimal, or_now, price_of};
use crate::errors::{OrRaise, Raise, called, outside, wrong_type};
use crate::number::PerSecond;
use crate::spec::{quoted, value};
use crate::words::In;

/// A rule of tokens: ``amount`` flow in per ``per``, evenly to the nanosecond, and at most ``burst`` are kept. Without
/// numbers it is 100 a second, 1000 kept.
///
/// >>> from libgateway import RateLimit
/// >>> RateLimit(amount=90, per=60, burst=10).per_ns
/// 60000000000
/// >>> RateLimit(per_second=100, burst=1000)
/// RateLimit(per_second=100, burst=1000)
/// >>> RateLimit() == RateLimit(per_second=100, burst=1000)
/// True
/// >>> RateLimit(amount=9973, per=30 * 86400).burst
/// 9973
/// >>> RateLimit(per_second=0.1)  # a float is the simplest fraction that it can be, and that is kept exactly
/// RateLimit(amount=1, per=10, burst=1)
#[pyclass(module = "libgateway", name = "RateLimit", frozen, weakref)]
pub(crate) struct PyRateLimit(pub(crate) RateLimit);

value!(PyRateLimit, RateLimit);

#[crate::argument::named]
#[pymethods]
impl PyRateLimit {
    #[new]
    #[pyo3(signature = (*, per_second=None, amount=None, per=None, burst=None))]
    fn new(
        py: Python<'_>,
        per_second: Option<PerSecond>,
        amount: Option<u64>,
        per: Option<Seconds>,
        burst: Option<u64>,
    ) -> PyResult<Self> {
        rate_of(py, per_second, amount, per, burst).map(Self)
    }

    /// Tokens that flow in per ``per``.
    #[getter]
    fn amount(&self) -> u64 {
        self.0.amount()
    }

    /// The time in which they do, in nanoseconds.
    #[getter]
    fn per_ns(&self) -> u64 {
        self.0.per().as_nanos()
    }

    /// Tokens of a full bucket.
    #[getter]
    fn burst(&self) -> u64 {
        self.0.burst()
    }

    pub(crate) fn __repr__(&self) -> String {
        let (amount, per, burst) = (self.0.amount(), self.0.per(), self.0.burst());
        if per == Span::from_secs(1) {
            return format!("RateLimit(per_second={amount}, burst={burst})");
        }
        match seconds(per) {
            Some(per) => format!("RateLimit(amount={amount}, per={per}, burst={burst})"),
            None => format!("RateLimit.from_json({})", quoted(&self.to_json())),
        }
    }
}

/// A rule of windows: at most ``amount`` tokens in any stretch of time of length ``per``. ``amount`` is at most 65536.
///
/// >>> from libgateway import WindowLimit, WindowLimiter
/// >>> limit = WindowLimit(6, per=60)
/// >>> limit.amount, limit.per_ns, limit
/// (6, 60000000000, WindowLimit(6, per=60))
/// >>> WindowLimiter(limit).limit == limit
/// True
#[pyclass(module = "libgateway", name = "WindowLimit", frozen, weakref)]
pub(crate) struct PyWindowLimit(pub(crate) WindowLimit);

value!(PyWindowLimit, WindowLimit);

#[crate::argument::named]
#[pymethods]
impl PyWindowLimit {
    #[new]
    fn new(py: Python<'_>, amount: u32, per: Seconds) -> PyResult<Self> {
        WindowLimit::new(amount, per.0).or_raise(py).map(Self)
    }

    /// The most tokens of a window.
    #[getter]
    fn amount(&self) -> u32 {
        self.0.amount()
    }

    /// The length of the window in nanoseconds.
    #[getter]
    fn per_ns(&self) -> u64 {
        self.0.per().as_nanos()
    }

    fn __repr__(&self) -> String {
        let amount = self.0.amount();
        match seconds(self.0.per()) {
            Some(per) => format!("WindowLimit({amount}, per={per})"),
            None => format!("WindowLimit.from_json({})", quoted(&self.to_json())),
        }
    }
}

/// The limit of windows as callers give it: a ``WindowLimit``, or its amount with a period beside it.
pub(crate) enum WindowArg<'py> {
    Limit(Bound<'py, PyWindowLimit>),
    Amount(u32),
}

impl<'py> Argument<'_, 'py> for WindowArg<'py> {
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        match value.cast::<PyWindowLimit>() {
            Ok(limit) => Ok(Self::Limit(limit.clone())),
            Err(_) => u32::take(value, name).map(Self::Amount),
        }
    }
}

/// The limit of windows that a call's arguments tell.
pub(crate) fn window_of(py: Python<'_>, amount: WindowArg<'_>, per: Option<Seconds>) -> PyResult<WindowLimit> {
    match (amount, per) {
        (WindowArg::Limit(limit), None) => Ok(limit.get().0),
        (WindowArg::Limit(_), Some(_)) => Err(InputError::Contradiction { field: "limit", other: "per" }.raise(py)),
        (WindowArg::Amount(amount), Some(per)) => WindowLimit::new(amount, per.0).or_raise(py),
        (WindowArg::Amount(_), None) => Err(InputError::Empty { field: "per" }.raise(py)),
    }
}

/// A span as the number of seconds that is read as that span again; ``None`` where a float is too coarse for it.
pub(crate) fn seconds(span: Span) -> Option<String> {
    let text = span.to_string();
    let text = text.trim_end_matches('s');
    let exact = match text.parse::<f64>() {
        Ok(float) if text.contains('.') => Duration::try_from_secs_f64(float).ok(),
        _ => return Some(text.to_owned()),
    };
    exact.filter(|exact| exact.as_nanos() == u128::from(span.as_nanos())).map(|_| text.to_owned())
}

/// The rule that a call's arguments tell. Without a burst, as many are kept as flow in at a time.
pub(crate) fn rate_of(
    py: Python<'_>,
    per_second: Option<PerSecond>,
    amount: Option<u64>,
    per: Option<Seconds>,
    burst: Option<u64>,
) -> PyResult<RateLimit> {
    let (given, amount, per, kept) = match (per_second, amount, per) {
        (Some(rate), None, None) => ("per_second", rate.amount, rate.per, rate.burst),
        (None, Some(amount), Some(per)) => ("amount", amount, per.0, amount),
        (None, None, None) => {
            let limit = RateLimit::default();
            ("burst", limit.amount(), limit.per(), limit.burst())
        }
        (None, ..) => {
            return Err(InputError::Empty { field: if amount.is_none() { "amount" } else { "per" } }.raise(py));
        }
        (Some(_), Some(_), _) => {
            return Err(InputError::Contradiction { field: "per_second", other: "amount" }.raise(py));
        }
        (Some(_), None, Some(_)) => {
            return Err(InputError::Contradiction { field: "per_second", other: "per" }.raise(py));
        }
    };
    RateLimit::new(amount, per, burst.unwrap_or(kept)).map_err(|error| match (&error, burst) {
        // The burst that is too large came of what was given.
        (InputError::Overflow { .. }, None) => called(error, given).raise(py),
        _ => error.raise(py),
    })
}

/// The rule that a limiter's arguments tell: a ``RateLimit``, or the numbers of one, but not both.
pub(crate) fn limit_of(
    py: Python<'_>,
    limit: Option<&Bound<'_, PyRateLimit>>,
    per_second: Option<PerSecond>,
    amount: Option<u64>,
    per: Option<Seconds>,
    burst: Option<u64>,
) -> PyResult<RateLimit> {
    let Some(limit) = limit else { return rate_of(py, per_second, amount, per, burst) };
    let beside = [
        ("per_second", per_second.is_some()),
        ("amount", amount.is_some()),
        ("per", per.is_some()),
        ("burst", burst.is_some()),
    ];
    match beside.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(InputError::Contradiction { field, other: "limit" }.raise(py)),
        None => Ok(limit.get().0),
    }
}

/// What a customer may do and what it is worth. By default that is anything: a gateway without a policy limits nobody.
///
/// Give the gateway's ``customer`` a ``rate``, a ``running_max`` and a ``queued_max`` where strangers submit.
///
/// >>> from libgateway import CustomerPolicy, RateLimit
/// >>> CustomerPolicy(weight=3, rate=RateLimit(per_second=100, burst=1000), running_max=8).weight
/// 3
#[pyclass(module = "libgateway", name = "CustomerPolicy", frozen, weakref)]
pub(crate) struct PyCustomerPolicy(pub(crate) CustomerPolicy);

value!(PyCustomerPolicy, CustomerPolicy, |py, policy| policy.check().or_raise(py));

#[crate::argument::named]
#[pymethods]
impl PyCustomerPolicy {
    #[new]
    #[pyo3(signature = (*, weight=1, rate=None, running_max=4294967295, queued_max=4294967295, tier="standard"))]
    fn new(
        py: Python<'_>,
        weight: u32,
        rate: Option<&Bound<'_, PyRateLimit>>,
        running_max: u32,
        queued_max: u32,
        tier: &str,
    ) -> PyResult<Self> {
        let mut policy = CustomerPolicy::default().weight(weight).running_max(running_max).queued_max(queued_max);
        policy = policy.tier(tier);
        policy.rate = rate.map(|rate| rate.get().0);
        policy.check().or_raise(py)?;
        Ok(Self(policy))
    }

    /// Share of GPU time against other customers of the same lane.
    #[getter]
    fn weight(&self) -> u32 {
        self.0.weight
    }

    /// Rate at which its jobs may start.
    #[getter]
    fn rate(&self) -> Option<PyRateLimit> {
        self.0.rate.map(PyRateLimit)
    }

    /// Jobs it may have running.
    #[getter]
    fn running_max(&self) -> u32 {
        self.0.running_max
    }

    /// Jobs it may have waiting.
    #[getter]
    fn queued_max(&self) -> u32 {
        self.0.queued_max
    }

    /// Price tier.
    #[getter]
    fn tier(&self) -> &str {
        &self.0.tier
    }

    fn __repr__(&self) -> String {
        let CustomerPolicy { weight, running_max, queued_max, tier, rate, .. } = &self.0;
        let rate = rate.map_or_else(|| String::from("None"), |rate| PyRateLimit(rate).__repr__());
        let tier = quoted(tier);
        format!(
            "CustomerPolicy(weight={weight}, rate={rate}, running_max={running_max}, queued_max={queued_max}, tier={tier})"
        )
    }
}

/// The four clocks of a job, each a timedelta or seconds; ``None`` takes the default for that clock.
///
/// ``queue``: longest single stay in the queue. ``start``: from submission to the first start. ``run``: of one attempt.
/// ``total``: from submission to the end. Of a job that was submitted with ``not_before_ns`` they count from that instant.
///
/// >>> from libgateway import Timeouts
/// >>> Timeouts(queue=60, total=600)
/// Timeouts(queue=60, total=600)
#[pyclass(module = "libgateway", name = "Timeouts", frozen, weakref)]
pub(crate) struct PyTimeouts(pub(crate) Timeouts);

value!(PyTimeouts, Timeouts, |py, timeouts| checked(py, GatewayConfig::default().timeouts(*timeouts)));

#[crate::argument::named]
#[pymethods]
impl PyTimeouts {
    #[new]
    #[pyo3(signature = (*, queue=None, start=None, run=None, total=None))]
    fn new(
        py: Python<'_>,
        queue: Option<Seconds>,
        start: Option<Seconds>,
        run: Option<Seconds>,
        total: Option<Seconds>,
    ) -> PyResult<Self> {
        let span = |value: Option<Seconds>| value.map(|span| span.0);
        let timeouts = Timeouts { queue: span(queue), start: span(start), run: span(run), total: span(total) };
        checked(py, GatewayConfig::default().timeouts(timeouts))?;
        Ok(Self(timeouts))
    }

    /// Longest single stay in the queue, in nanoseconds.
    #[getter]
    fn queue_ns(&self) -> Option<u64> {
        self.0.queue.map(Span::as_nanos)
    }

    /// Longest time to the first start, in nanoseconds.
    #[getter]
    fn start_ns(&self) -> Option<u64> {
        self.0.start.map(Span::as_nanos)
    }

    /// Longest time of one attempt, in nanoseconds.
    #[getter]
    fn run_ns(&self) -> Option<u64> {
        self.0.run.map(Span::as_nanos)
    }

    /// Longest time to the end, in nanoseconds.
    #[getter]
    fn total_ns(&self) -> Option<u64> {
        self.0.total.map(Span::as_nanos)
    }

    fn __repr__(&self) -> String {
        let Timeouts { queue, start, run, total } = self.0;
        let clocks = [("queue", queue), ("start", start), ("run", run), ("total", total)];
        let told = clocks.into_iter().filter_map(|(name, span)| Some((name, span?)));
        let told: Option<Vec<_>> = told.map(|(name, span)| Some(format!("{name}={}", seconds(span)?))).collect();
        match told {
            Some(told) => format!("Timeouts({})", told.join(", ")),
            None => format!("Timeouts.from_json({})", quoted(&self.to_json())),
        }
    }
}

/// Who pays for an attempt that did not deliver, ``"customer"`` or ``"house"``, and what is believed.
///
/// A device may report so much more than a lease's time: ``tolerance_ppm`` in parts per million, and ``slack`` on top. What
/// is beyond that is taken and not billed; with ``excess="refuse"`` the result is refused. An attempt that was not measured
/// counts all GPUs of its backend, or one without ``unmeasured_devices``. Usage may be told ``late_usage_for`` after a
/// lease's end, for the last ``late_usage_max`` leases. With ``settlements=False`` none are kept: nothing waits to be
/// confirmed.
///
/// >>> from libgateway import BillingPolicy
/// >>> BillingPolicy(cancelled="house") == BillingPolicy()
/// False
#[pyclass(module = "libgateway", name = "BillingPolicy", frozen, weakref)]
pub(crate) struct PyBillingPolicy(pub(crate) BillingPolicy);

value!(PyBillingPolicy, BillingPolicy, |py, policy| checked(py, GatewayConfig::default().billing(*policy)));

#[crate::argument::named]
#[pymethods]
impl PyBillingPolicy {
    #[new]
    #[pyo3(signature = (*, failed=In(Payer::House), lost=In(Payer::House), cancelled=In(Payer::Customer),
                        released=In(Payer::House), preempted=In(Payer::House), tolerance_ppm=10_000,
                        slack=Seconds(Span::from_millis(100)), excess=In(Excess::Cap), unmeasured_devices=true,
                        late_usage_for=Seconds(Span::from_secs(3_600)), late_usage_max=100_000, settlements=true),
        text_signature = "(*, failed='house', lost='house', cancelled='customer', released='house', \
                        preempted='house', tolerance_ppm=10000, slack=0.1, excess='cap', unmeasured_devices=True, \
                        late_usage_for=3600, late_usage_max=100000, settlements=True)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        failed: In<Payer>,
        lost: In<Payer>,
        cancelled: In<Payer>,
        released: In<Payer>,
        preempted: In<Payer>,
        tolerance_ppm: u32,
        slack: Seconds,
        excess: In<Excess>,
        unmeasured_devices: bool,
        late_usage_for: Seconds,
        late_usage_max: u32,
        settlements: bool,
    ) -> PyResult<Self> {
        let policy = BillingPolicy::default().failed(failed.0).lost(lost.0).cancelled(cancelled.0).released(released.0);
        let policy = policy.preempted(preempted.0).tolerance_ppm(tolerance_ppm).slack(slack.0).excess(excess.0);
        let policy = policy.unmeasured_devices(unmeasured_devices).settlements(settlements);
        let policy = policy.late_usage_for(late_usage_for.0).late_usage_max(late_usage_max);
        checked(py, GatewayConfig::default().billing(policy))?;
        Ok(Self(policy))
    }

    fn __repr__(&self) -> String {
        format!("BillingPolicy.from_json({})", quoted(&self.to_json()))
    }
}

/// What GPU time costs, by model (``family/model``) and tier; either may be ``"*"``.
///
/// The most telling entry wins. Prices are ``Decimal``, ``int`` or ``str`` in units of the currency for each ``per`` (``"s"``,
/// ``"min"``, ``"h"``, ``"d"``, or one of them with an integer before it), or texts that say both; a float is refused. They
/// are kept exactly as they are written: a charge is usage times price, rounded once, to the nearest micro-unit and a tie
/// to the even one.
///
/// >>> from decimal import Decimal
/// >>> from libgateway import PriceBook
/// >>> book = PriceBook(1, prices={("*", "*"): Decimal("2.49"), ("flux/dev", "pro"): "0.0012/s"}, per="h")
/// >>> book.price("flux/dev", "pro"), book.price("wan/default", "standard")
/// ('0.0012/s', '2.49/h')
/// >>> PriceBook(1, prices={("*", "*"): "0.0084/h"}).charge("flux/dev", "standard", gpu_seconds=3600)
/// Decimal('0.0084')
#[pyclass(module = "libgateway", name = "PriceBook", frozen, weakref)]
pub(crate) struct PyPriceBook(pub(crate) PriceBook);

value!(PyPriceBook, PriceBook);

#[crate::argument::named]
#[pymethods]
impl PyPriceBook {
    #[new]
    #[pyo3(signature = (version, *, currency="USD", prices=None, per="s"))]
    fn new(
        py: Python<'_>,
        version: u32,
        currency: &str,
        prices: Option<&Bound<'_, PyDict>>,
        per: &str,
    ) -> PyResult<Self> {
        let mut book = PriceBook::new(version, currency).or_raise(py)?;
        // Whatever is wrong with it is wrong with a price of 0, too.
        price_of(PyString::new(py, "0").as_any(), per)
            .map_err(|_| InputError::Malformed { field: "per", expected: PER }.raise(py))?;
        for (key, price) in prices.into_iter().flatten() {
            let pair = key.extract::<(Bound<'_, PyString>, Bound<'_, PyString>)>();
            let Ok((model, tier)) = pair.as_ref().map(|(model, tier)| (model.as_any(), tier.as_any())) else {
                return Err(wrong_type(&key, "prices", "a pair (model, tier) as each key"));
            };
            let (model, tier) = (<&str>::take(model, "prices")?, <&str>::take(tier, "prices")?);
            book = book.price_at(model, tier, price_of(&price, per)?).or_raise(py)?;
        }
        Ok(Self(book))
    }

    /// Which prices a settlement was made with.
    #[getter]
    fn version(&self) -> u32 {
        self.0.version()
    }

    /// The currency of all its prices.
    #[getter]
    fn currency(&self) -> String {
        self.0.currency().to_string()
    }

    /// The price as a text, ``"0.0084/h"``; ``None`` where the book has none.
    fn price(&self, model: &str, tier: &str) -> Option<String> {
        self.0.resolve(model, tier).map(|price| price.to_string())
    }

    /// What so much GPU time costs, a ``Decimal``; ``None`` where the book has no price.
    #[pyo3(signature = (model, tier, *, gpu_seconds=None, gpu_ns=None))]
    fn charge<'py>(
        &self,
        py: Python<'py>,
        model: &str,
        tier: &str,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let usage = match (gpu_seconds, gpu_ns) {
            (Some(GpuSeconds(gpu)), None) => gpu,
            (None, Some(nanos)) => GpuNanos::from_nanos(nanos),
            (None, None) => return Err(InputError::Empty { field: "gpu_seconds" }.raise(py)),
            _ => return Err(InputError::Contradiction { field: "gpu_seconds", other: "gpu_ns" }.raise(py)),
        };
        let Some(price) = self.0.resolve(model, tier) else { return Ok(None) };
        decimal(py, &price.charge(usage).or_raise(py)?.to_string()).map(Some)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("<PriceBook version {} of {} prices in {}>", self.0.version(), self.0.len(), self.0.currency())
    }
}

/// When a failed attempt is made again: ``base × factor^(attempt − 1)``, at most ``max``, thinned by a jitter that is a
/// pure function of seed, key and attempt.
///
/// >>> from libgateway import Backoff
/// >>> backoff = Backoff(base=1, factor=2, retries=3, jitter=0)
/// >>> [backoff.delay(attempt).total_seconds() for attempt in (1, 2, 3)]
/// [1.0, 2.0, 4.0]
/// >>> backoff.next_at_ns(1, first_ns=0, now_ns=5_000_000_000), backoff.next_at_ns(4, first_ns=0, now_ns=0)
/// (6000000000, None)
#[pyclass(module = "libgateway", name = "Backoff", frozen, weakref)]
pub(crate) struct PyBackoff(pub(crate) BackoffConfig);

value!(PyBackoff, BackoffConfig, |py, config| Backoff::new(*config).map(|_| ()).or_raise(py));

#[crate::argument::named]
#[pymethods]
impl PyBackoff {
    #[new]
    #[pyo3(signature = (*, base=Seconds(Span::from_secs(1)), factor=None, factor_ppm=None, max=Seconds(Span::from_secs(60)),
                        retries=3, jitter=None, jitter_ppm=None, total=None,
                        retry_after_max=Seconds(Span::from_secs(900)), seed=0),
        text_signature = "(*, base=1, factor=None, factor_ppm=None, max=60, retries=3, jitter=None, \
                        jitter_ppm=None, total=None, retry_after_max=900, seed=0)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        base: Seconds,
        factor: Option<f64>,
        factor_ppm: Option<u32>,
        max: Seconds,
        retries: u32,
        jitter: Option<f64>,
        jitter_ppm: Option<u32>,
        total: Option<Seconds>,
        retry_after_max: Seconds,
        seed: u64,
    ) -> PyResult<Self> {
        let factor = ppm_of(py, "factor", 1..=FACTOR_MAX, factor, factor_ppm)?.unwrap_or(2_000_000);
        let jitter = ppm_of(py, "jitter", 0..=1, jitter, jitter_ppm)?.unwrap_or(100_000);
        let config = BackoffConfig::default().base(base.0).factor_ppm(factor).max(max.0).retries(retries);
        let config =
            config.jitter_ppm(jitter).total(total.map(|span| span.0)).retry_after_max(retry_after_max.0).seed(seed);
        Backoff::new(config).or_raise(py)?;
        Ok(Self(config))
    }

    /// The wait after the ``attempt``-th failure (from 1) of the thing called ``key``, in nanoseconds. ``retry_after`` is a
    /// floor.
    #[pyo3(signature = (attempt, *, key=0, retry_after=None))]
    fn delay_ns(&self, py: Python<'_>, attempt: u32, key: u128, retry_after: Option<Seconds>) -> PyResult<u64> {
        Ok(self.schedule(py)?.delay(key, attempt, retry_after.map(|span| span.0)).as_nanos())
    }

    /// The same as a timedelta, cut to microseconds.
    #[pyo3(signature = (attempt, *, key=0, retry_after=None))]
    fn delay<'py>(
        &self,
        py: Python<'py>,
        attempt: u32,
        key: u128,
        retry_after: Option<Seconds>,
    ) -> PyResult<Option<Bound<'py, pyo3::types::PyDelta>>> {
        let span = self.schedule(py)?.delay(key, attempt, retry_after.map(|span| span.0));
        crate::spec::delta(py, Some(span))
    }

    /// When to try again after the ``attempt``-th failure; ``None``: not any more.
    #[pyo3(signature = (attempt, *, first_ns, key=0, retry_after=None, now_ns=None))]
    fn next_at_ns(
        &self,
        py: Python<'_>,
        attempt: u32,
        first_ns: Moment,
        key: u128,
        retry_after: Option<Seconds>,
        now_ns: Option<Moment>,
    ) -> PyResult<Option<u64>> {
        let retry_after = retry_after.map(|span| span.0);
        match self.schedule(py)?.next(key, attempt, first_ns.0, or_now(now_ns), retry_after) {
            Retry::At(at) => Ok(Some(at.as_nanos())),
            Retry::GiveUp(_) => Ok(None),
        }
    }

    fn __repr__(&self) -> String {
        format!("Backoff.from_json({})", quoted(&self.to_json()))
    }
}

impl PyBackoff {
    fn schedule(&self, py: Python<'_>) -> PyResult<Backoff> {
        Backoff::new(self.0).or_raise(py)
    }
}

/// When a circuit breaker opens, for how long, and what closes it again.
///
/// >>> from libgateway import BreakerConfig
/// >>> BreakerConfig(consecutive_failures=3, open_for=15) == BreakerConfig(consecutive_failures=3, open_for=15.0)
/// True
#[pyclass(module = "libgateway", name = "BreakerConfig", frozen, weakref)]
pub(crate) struct PyBreakerConfig(pub(crate) CircuitBreakerConfig);

value!(PyBreakerConfig, CircuitBreakerConfig, |py, config| {
    CircuitBreaker::new(*config, Timestamp::EPOCH).map(|_| ()).or_raise(py)
});

#[crate::argument::named]
#[pymethods]
impl PyBreakerConfig {
    #[new]
    #[pyo3(signature = (*, window=Seconds(Span::from_secs(100)), buckets=10, failure_rate=None, failure_rate_ppm=None,
                        failure_rate_rule=In(RateRule::AtLeast), calls_min=10, consecutive_failures=Some(5),
                        open_for=Seconds(Span::from_secs(60)), open_for_factor=2,
                        open_for_max=Seconds(Span::from_secs(600)), probes_to_close=2,
                        probe_timeout=Some(Seconds(Span::from_secs(120)))),
        text_signature = "(*, window=100, buckets=10, failure_rate=None, failure_rate_ppm=None, \
                        failure_rate_rule='at_least', calls_min=10, consecutive_failures=5, open_for=60, \
                        open_for_factor=2, open_for_max=600, probes_to_close=2, probe_timeout=120)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        window: Seconds,
        buckets: u8,
        failure_rate: Option<f64>,
        failure_rate_ppm: Option<u32>,
        failure_rate_rule: In<RateRule>,
        calls_min: u32,
        consecutive_failures: Option<u32>,
        open_for: Seconds,
        open_for_factor: u32,
        open_for_max: Seconds,
        probes_to_close: u32,
        probe_timeout: Option<Seconds>,
    ) -> PyResult<Self> {
        let some = |field, value: u32| {
            let error = InputError::OutOfRange { field, value: 0, min: 1, max: u64::from(u32::MAX) };
            NonZeroU32::new(value).ok_or(error).or_raise(py)
        };
        let rate = ppm_of(py, "failure_rate", 0..=1, failure_rate, failure_rate_ppm)?.unwrap_or(500_000);
        let consecutive = consecutive_failures.map(|failures| some("consecutive_failures", failures)).transpose()?;
        let config = CircuitBreakerConfig::default()
            .window(window.0)
            .buckets(buckets)
            .failure_rate_ppm(rate)
            .failure_rate_rule(failure_rate_rule.0)
            .calls_min(some("calls_min", calls_min)?)
            .consecutive_failures(consecutive)
            .open_for(open_for.0)
            .open_for_factor(some("open_for_factor", open_for_factor)?)
            .open_for_max(open_for_max.0)
            .probes_to_close(some("probes_to_close", probes_to_close)?)
            .probe_timeout(probe_timeout.map(|span| span.0));
        CircuitBreaker::new(config, Timestamp::EPOCH).or_raise(py)?;
        Ok(Self(config))
    }

    fn __repr__(&self) -> String {
        format!("BreakerConfig.from_json({})", quoted(&self.to_json()))
    }
}

/// What a gateway's configuration says of a part of it, under the names that part has here.
fn checked(py: Python<'_>, config: GatewayConfig) -> PyResult<()> {
    config.check().map_err(|error| match error.field().and_then(|field| field.strip_prefix("timeouts.")) {
        Some(field) => called(error, field).raise(py),
        None => error.raise(py),
    })
}

/// A share that may be given as a number or in parts per million, but not as both.
pub(crate) fn ppm_of(
    py: Python<'_>,
    field: &'static str,
    range: RangeInclusive<u32>,
    share: Option<f64>,
    ppm: Option<u32>,
) -> PyResult<Option<u32>> {
    let Some(share) = share else { return Ok(ppm) };
    if ppm.is_some() {
        return Err(InputError::Contradiction { field, other: "ppm" }.raise(py));
    }
    if !(f64::from(*range.start())..=f64::from(*range.end())).contains(&share) {
        let expected = if *range.end() == 1 { "a number from 0 to 1" } else { "a number from 1 to 1000" };
        return Err(outside::range(py, field, expected));
    }
    #[expect(clippy::float_arithmetic, reason = "the one place where a share becomes an integer")]
    let ppm = (share * 1_000_000.0).round();
    Ok(Some(ppm as u32))
}

/// How far something is, in parts per million: a fraction from 0 to 1, or ``ppm``; ``None`` where nothing is told.
///
/// Parts per million used to be told by position, as an integer, and as ``progress_ppm``; both still mean that, and warn.
pub(crate) fn progress_of(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    ppm: Option<u32>,
    progress_ppm: Option<u32>,
    stack: i32,
) -> PyResult<Option<u32>> {
    let _calling = Calling::begin(py);
    let warn = |message: &CStr| PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), message, stack);
    if let Some(old) = progress_ppm {
        if progress.is_some() || ppm.is_some() {
            return Err(InputError::Contradiction { field: "progress_ppm", other: "ppm" }.raise(py));
        }
        warn(c"progress_ppm is now called ppm")?;
        return Ok(Some(old));
    }
    let Some(progress) = progress else { return Ok(ppm) };
    if progress.hasattr("__index__")? && ppm.is_none() {
        warn(c"progress as an integer is parts per million here, and will be a fraction: write ppm=, or a float")?;
        return u32::take(progress, "progress").map(Some);
    }
    ppm_of(py, "progress", 0..=1, Some(Argument::take(progress, "progress")?), ppm)
}

const FACTOR_MAX: u32 = BackoffConfig::FACTOR_PPM_MAX / 1_000_000;
const PER: &str = "a time, as s, min, h or d, or one of them with an integer before it";
