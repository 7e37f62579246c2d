//! The billing collector by itself.

use libgateway::{Batch, BillingCall, BillingCollector, BillingCollectorConfig, Excess, OutboxConfig, Timestamp};
use pyo3::prelude::*;

use crate::argument::Argument;
use crate::calling::Calling;
use crate::convert::{GpuSeconds, Moment, Seconds, or_now};
use crate::errors::{OrRaise, wrong_type};
use crate::guard::Guarded;
use crate::policy::PyPriceBook;
use crate::spec::{PyUsage, usage_of};
use crate::values::{Taken, ToPy, list};
use crate::words::In;

/// Pairs the start and the end of each call by its request id, charges it, and keeps the record until it is confirmed.
///
/// Each started call leaves exactly one record: ended, abandoned or swept. Time passes as the readings do, whatever steps they
/// make.
///
/// >>> from decimal import Decimal
/// >>> from libgateway import BillingCollector, PriceBook
/// >>> billing = BillingCollector(PriceBook(1, prices={("flux/dev", "*"): Decimal("0.0012")}))
/// >>> billing.start("req_1", customer="acme", model="flux/dev", now_ns=100_000_000_000)
/// >>> receipt = billing.end("req_1", gpu_seconds=Decimal("1.7"), device="GPU-8f2c", now_ns=102_000_000_000)
/// >>> receipt.charge
/// Decimal('0.00204')
/// >>> batch, records = billing.take(100, now_ns=102_000_000_000)
/// >>> [(record.seq, record.customer, record.gpu_seconds) for record in records]
/// [(1, 'acme', Decimal('1.7'))]
/// >>> billing.confirm(batch)
/// 1
#[pyclass(module = "libgateway", name = "BillingCollector", frozen, weakref)]
pub(crate) struct PyBillingCollector(Guarded<BillingCollector>);

#[crate::argument::named]
#[pymethods]
impl PyBillingCollector {
    #[new]
    #[pyo3(signature = (prices, *, starts_max=BillingCollectorConfig::default().starts_max,
                        start_age_max=Seconds(BillingCollectorConfig::default().start_age_max),
                        outbox_max=OutboxConfig::default().outbox_max, hold=Seconds(OutboxConfig::default().hold),
                        tolerance_ppm=BillingCollectorConfig::default().tolerance_ppm,
                        slack=Seconds(BillingCollectorConfig::default().slack),
                        excess=In(BillingCollectorConfig::default().excess), seed=BillingCollectorConfig::default().seed),
        text_signature = "(prices, *, starts_max=100000, start_age_max=3600, outbox_max=1000000, hold=60, \
                        tolerance_ppm=10000, slack=0.1, excess='cap', seed=0)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        py: Python<'_>,
        prices: &Bound<'_, PyPriceBook>,
        starts_max: u32,
        start_age_max: Seconds,
        outbox_max: u32,
        hold: Seconds,
        tolerance_ppm: u32,
        slack: Seconds,
        excess: In<Excess>,
        seed: u64,
    ) -> PyResult<Self> {
        let outbox = OutboxConfig::default().outbox_max(outbox_max).hold(hold.0);
        let config = BillingCollectorConfig::default().starts_max(starts_max).start_age_max(start_age_max.0);
        let config = config.outbox(outbox).tolerance_ppm(tolerance_ppm).slack(slack.0).excess(excess.0).seed(seed);
        Ok(Self(Guarded::new(BillingCollector::new(config, prices.get().0.clone()).or_raise(py)?)))
    }

    /// Opens a call, and sets room aside for its record. Customer and tier may be left out, and then stay out.
    #[pyo3(signature = (request_id, *, model, customer=None, tier=None, now_ns=None))]
    fn start(
        &self,
        py: Python<'_>,
        request_id: &str,
        model: &str,
        customer: Option<&str>,
        tier: Option<&str>,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let (call, now) = (BillingCall { request_id, customer, model, tier }, or_now(now_ns));
        self.0.with(py, |billing| billing.start(call, now))?.or_raise(py)
    }

    /// Closes a call and charges what it used, or the time it took where nothing was measured. A ``BillingReceipt``. What a
    /// device cannot have worked is not charged, and ``capped`` says so.
    #[pyo3(signature = (request_id, *, usage=None, gpu_seconds=None, gpu_ns=None, device="gpu", now_ns=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn end<'py>(
        &self,
        py: Python<'py>,
        request_id: &str,
        usage: Option<&Bound<'_, PyUsage>>,
        gpu_seconds: Option<GpuSeconds>,
        gpu_ns: Option<u64>,
        device: &str,
        now_ns: Option<Moment>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (usage, now) = (usage_of(py, usage, gpu_seconds, gpu_ns, device)?, or_now(now_ns));
        self.0.with(py, |billing| billing.end(request_id, &usage, now))?.or_raise(py)?.to_py(py)
    }

    /// Closes a call that came to nothing: its record says so and charges nothing. Returns the record's number.
    #[pyo3(signature = (request_id, *, now_ns=None))]
    fn abandon(&self, py: Python<'_>, request_id: &str, now_ns: Option<Moment>) -> PyResult<u64> {
        let now = or_now(now_ns);
        self.0.with(py, |billing| billing.abandon(request_id, now))?.or_raise(py)
    }

    /// Hands out up to ``max`` records with the batch to confirm or to give back; ``None``: there are none.
    #[pyo3(signature = (max=1_000, *, now_ns=None))]
    fn take<'py>(&self, py: Python<'py>, max: u32, now_ns: Option<Moment>) -> PyResult<Option<Taken<'py>>> {
        let now = or_now(now_ns);
        let taken = self.0.with(py, |billing| {
            let batch = billing.take(max, now)?;
            let records =
                billing.entries(batch).map(|all| all.map(|(seq, own)| (seq, own.clone())).collect::<Vec<_>>());
            Some((batch, records))
        })?;
        let Some((batch, records)) = taken else { return Ok(None) };
        Ok(Some((batch.to_py(py)?, list(py, &records.or_raise(py)?)?)))
    }

    /// Removes the records of a batch for good. Returns how many; confirming twice is 0.
    fn confirm(&self, py: Python<'_>, batch: BatchArg) -> PyResult<u32> {
        self.0.with(py, |billing| billing.confirm(batch.0))?.or_raise(py)
    }

    /// Frees the records of a batch to be handed out again. Returns how many.
    fn give_back(&self, py: Python<'_>, batch: BatchArg) -> PyResult<u32> {
        self.0.with(py, |billing| billing.give_back(batch.0))?.or_raise(py)
    }

    /// Puts another price book in force, for calls that start from now on.
    fn put_prices(&self, py: Python<'_>, prices: &Bound<'_, PyPriceBook>) -> PyResult<()> {
        let prices = prices.get().0.clone();
        self.0.with(py, |billing| billing.put_prices(prices))?.or_raise(py)
    }

    /// Sweeps up to ``max`` calls whose age has come, and gives back the batches whose hold has ended. Returns how many calls.
    #[pyo3(signature = (max=1_024, *, now_ns=None))]
    fn handle_timeout(&self, py: Python<'_>, max: u32, now_ns: Option<Moment>) -> PyResult<u32> {
        let now = or_now(now_ns);
        self.0.with(py, |billing| billing.handle_timeout(max, now))
    }

    /// When a call is swept or a batch given back next, in nanoseconds.
    #[getter]
    fn next_deadline_ns(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.0.with(py, |billing| billing.next_deadline())?.map(Timestamp::as_nanos))
    }

    /// The sums so far, a ``BillingTotals``.
    #[getter]
    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.with(py, |billing| billing.totals())?.to_py(py)
    }

    /// How many calls are open.
    #[getter]
    fn open(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.with(py, |billing| billing.open())
    }

    /// How many records wait to be confirmed.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.with(py, |billing| billing.outbox().len())
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (open, kept) = self.0.with(py, |billing| (billing.open(), billing.outbox().len()))?;
        Ok(format!("<BillingCollector: {open} open, {kept} to confirm>"))
    }
}

/// A batch as callers give it back: a ``Batch``.
#[derive(Clone, Copy)]
pub(crate) struct BatchArg(pub(crate) Batch);

impl<'py> Argument<'_, 'py> for BatchArg {
    fn take(value: &Bound<'py, PyAny>, name: &'static str) -> PyResult<Self> {
        let _calling = Calling::begin(value.py());
        let part = |part: &str| value.getattr(part).map_err(|_| wrong_type(value, name, "a Batch"));
        let (id, first_seq, len) = (part("id")?, part("first_seq")?, part("len")?);
        let (id, first_seq) = (u64::take(&id, name)?, u64::take(&first_seq, name)?);
        Ok(Self(Batch { id, first_seq, len: u32::take(&len, name)? }))
    }
}
