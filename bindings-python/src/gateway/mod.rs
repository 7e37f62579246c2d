//! The gateway: one machine under one lock, and what Python says to it.

mod fleet;
mod jobs;
mod lease;
mod settlement;
mod steps;
mod views;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use libgateway::error::CommandError;
use libgateway::{BillingPolicy, Entry, Gateway, GatewayConfig, GpuNanos, Ordering, Reply, Slices, Span, Timestamp};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use pyo3::{PyTraverseError, PyVisit};

pub(crate) use self::lease::{PyLease, PySettled};
pub(crate) use self::settlement::PySettlement;
pub(crate) use self::steps::PySteps;
pub(crate) use self::views::{PyBackendView, PyWatch};
use crate::argument::Argument;
use crate::calling::{Calling, Kept};
use crate::convert::{GpuSeconds, Moment, Seconds, system_now};
use crate::errors::{OrRaise, Raise, wrong_type};
use crate::guard::Guarded;
use crate::ids::{JobArg, fresh};
use crate::policy::{PyBackoff, PyBillingPolicy, PyBreakerConfig, PyCustomerPolicy, PyPriceBook, PyTimeouts};
use crate::spec::PyBackend;
use crate::text::{LogLine, OwnLogLine};
use crate::values::ToPy;
use crate::words::In;

/// The machine. ``libgateway.Gateway`` is this with waiting for asyncio.
#[pyclass(module = "libgateway._native", name = "Gateway", frozen, subclass)]
pub(crate) struct PyGateway {
    core: Guarded<Gateway>,
    /// Whether somebody waits for a change and wants to be told.
    waiting: AtomicBool,
    /// Where the time comes from, if not from the system.
    clock: Option<Py<PyAny>>,
    /// Who waits in asyncio, from the first one on.
    hub: Kept<Py<PyAny>>,
}

#[crate::argument::named]
#[pymethods]
impl PyGateway {
    #[new]
    #[pyo3(signature = (*, backends=None, customers=None, prices=None, seed=None, ordering=In(Ordering::Fair),
                        age_after=None, customer=None, estimate=GpuSeconds(GpuNanos::from_secs(1)),
                        lease_for=Seconds(Span::from_secs(300)), timeouts=None, backoff=None, losses_max=5, releases_max=1_000,
                        preemptions_max=1_000, breaker=None, billing=None, jobs_max=2_000_000,
                        payload_len_max=10_485_760, output_len_max=1_048_576,
                        retain_for=Seconds(Span::from_secs(3_600)), retained_max=100_000, retained_bytes_max=1_073_741_824,
                        idempotency_for=Seconds(Span::from_secs(86_400)), idempotency_keys_max=1_000_000,
                        idempotency_free_failed=false, idempotency_free_cancelled=false, customers_max=1_000_000,
                        customer_idle=Seconds(Span::from_secs(600)), routes_max=10_000, families_max=1_000,
                        backends_max=10_000, events_max=16_384, settle_within=Seconds(Span::from_secs(60)),
                        clock_jump_max=Seconds(Span::from_secs(3_600)), due_max=1_024, steps_max=64, config=None, snapshot=None,
                        replica=None, entropy=None, clock=None, now_ns=None),
        text_signature = "(*, backends=None, customers=None, prices=None, seed=None, ordering='fair', \
                        age_after=None, customer=None, estimate=1, lease_for=300, timeouts=None, backoff=None, \
                        losses_max=5, releases_max=1000, preemptions_max=1000, breaker=None, billing=None, \
                        jobs_max=2000000, payload_len_max=10485760, output_len_max=1048576, \
                        retain_for=3600, retained_max=100000, retained_bytes_max=1073741824, \
                        idempotency_for=86400, idempotency_keys_max=1000000, idempotency_free_failed=False, \
                        idempotency_free_cancelled=False, customers_max=1000000, \
                        customer_idle=600, routes_max=10000, families_max=1000, backends_max=10000, \
                        events_max=16384, settle_within=60, clock_jump_max=3600, due_max=1024, steps_max=64, config=None, \
                        snapshot=None, replica=None, entropy=None, clock=None, now_ns=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new<'py>(
        py: Python<'py>,
        backends: Option<&Bound<'py, PyAny>>,
        customers: Option<&Bound<'py, pyo3::types::PyDict>>,
        prices: Option<&Bound<'_, PyPriceBook>>,
        seed: Option<u64>,
        ordering: In<Ordering>,
        age_after: Option<Seconds>,
        customer: Option<&Bound<'_, PyCustomerPolicy>>,
        estimate: GpuSeconds,
        lease_for: Seconds,
        timeouts: Option<&Bound<'_, PyTimeouts>>,
        backoff: Option<&Bound<'_, PyBackoff>>,
        losses_max: u32,
        releases_max: u32,
        preemptions_max: u32,
        breaker: Option<&Bound<'_, PyBreakerConfig>>,
        billing: Option<&Bound<'_, PyBillingPolicy>>,
        jobs_max: u32,
        payload_len_max: u32,
        output_len_max: u32,
        retain_for: Seconds,
        retained_max: u32,
        retained_bytes_max: u64,
        idempotency_for: Seconds,
        idempotency_keys_max: u32,
        idempotency_free_failed: bool,
        idempotency_free_cancelled: bool,
        customers_max: u32,
        customer_idle: Seconds,
        routes_max: u32,
        families_max: u32,
        backends_max: u32,
        events_max: u32,
        settle_within: Seconds,
        clock_jump_max: Seconds,
        due_max: u32,
        steps_max: u32,
        config: Option<&str>,
        snapshot: Option<&[u8]>,
        replica: Option<&[u8]>,
        entropy: Option<u64>,
        clock: Option<Py<PyAny>>,
        now_ns: Option<Moment>,
    ) -> PyResult<Self> {
        if let Some(clock) = clock.as_ref().map(|clock| clock.bind(py)).filter(|clock| !clock.is_callable()) {
            return Err(wrong_type(clock, "clock", "a function that returns an instant"));
        }
        let now = read(py, clock.as_ref(), now_ns)?;
        if let Some(bytes) = replica {
            return Ok(Self::around(py.detach(|| Gateway::replica(bytes)).or_raise(py)?, clock));
        }
        if let Some(bytes) = snapshot {
            let entropy = entropy.map_or_else(|| system_entropy(py), Ok)?;
            let restored = py.detach(|| Gateway::restore(bytes, now, entropy));
            return Ok(Self::around(restored.or_raise(py)?, clock));
        }
        // A configuration as text is that of a log, which tells itself when another life begins; and who gives a seed wants the
        // same each time.
        let entropy = match entropy {
            None if config.is_some() || seed.is_some() => None,
            own => Some(own.map_or_else(|| system_entropy(py), Ok)?),
        };
        let config = match config {
            Some(text) => serde_json::from_str(text).map_err(|error| not_a_config(py, &error))?,
            None => GatewayConfig::default()
                .seed(seed.map_or_else(|| fresh(py).map(|id| id.as_u128() as u64), Ok)?)
                .ordering(ordering.0)
                .age_after(age_after.map(|span| span.0))
                .customer(customer.map(|own| own.get().0.clone()).unwrap_or_default())
                .estimate(estimate.0)
                .lease_for(lease_for.0)
                .timeouts(timeouts.map(|own| own.get().0).unwrap_or_default())
                .backoff(backoff.map(|own| own.get().0).unwrap_or_default())
                .losses_max(losses_max)
                .releases_max(releases_max)
                .preemptions_max(preemptions_max)
                .breaker(breaker.map(|own| own.get().0).unwrap_or_default())
                .billing(billing.map_or_else(BillingPolicy::default, |own| own.get().0))
                .jobs_max(jobs_max)
                .payload_len_max(payload_len_max)
                .output_len_max(output_len_max)
                .retain_for(retain_for.0)
                .retained_max(retained_max)
                .retained_bytes_max(retained_bytes_max)
                .idempotency_for(idempotency_for.0)
                .idempotency_keys_max(idempotency_keys_max)
                .idempotency_free_failed(idempotency_free_failed)
                .idempotency_free_cancelled(idempotency_free_cancelled)
                .customers_max(customers_max)
                .customer_idle(customer_idle.0)
                .routes_max(routes_max)
                .families_max(families_max)
                .backends_max(backends_max)
                .events_max(events_max)
                .settle_within(settle_within.0)
                .clock_jump_max(clock_jump_max.0)
                .due_max(due_max)
                .steps_max(steps_max),
        };
        let mut gateway = Gateway::new(config, now).or_raise(py)?;
        if let Some(entropy) = entropy {
            gateway.begin_epoch(now, entropy);
        }
        let _calling = Calling::begin(py);
        let each = |all: &Bound<'py, PyAny>| all.try_iter().map_err(|_| wrong_type(all, "backends", "Backends"));
        for backend in backends.map(each).transpose()?.into_iter().flatten() {
            let backend = <&Bound<'py, PyBackend>>::take(&backend?, "backends")?.get().0.clone();
            gateway.put_backend(now, backend).or_raise(py)?;
        }
        for (name, policy) in customers.into_iter().flatten() {
            let policy = <&Bound<'py, PyCustomerPolicy>>::take(&policy, "customers")?.get().0.clone();
            gateway.put_customer(now, <&str>::take(&name, "customers")?, policy).or_raise(py)?;
        }
        if let Some(prices) = prices {
            gateway.put_prices(now, prices.get().0.clone()).or_raise(py)?;
        }
        Ok(Self::around(gateway, clock))
    }

    /// The configuration it was made with, as the first line of a log has it.
    #[getter]
    fn config_json(&self, py: Python<'_>) -> PyResult<String> {
        let config = self.core.with(py, |gateway| gateway.config().clone())?;
        Ok(serde_json::to_string(&config).unwrap_or_default())
    }

    /// The instant up to which all that was due is handled, as the clock shows it, in nanoseconds: its latest reading, unless
    /// more was due than one call handles.
    #[getter]
    fn now_ns(&self, py: Python<'_>) -> PyResult<u64> {
        self.core.with(py, |gateway| gateway.now().as_nanos())
    }

    /// What the clock says: the system's, or the one given, in nanoseconds.
    fn clock_ns(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.read(py, None)?.as_nanos())
    }

    /// When something falls due next, in nanoseconds: call ``advance`` then. ``None``: nothing to wait for.
    #[getter]
    fn next_deadline_ns(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.core.with(py, |gateway| gateway.next_deadline().map(Timestamp::as_nanos))
    }

    /// Rises whenever something changed that may help somebody who waits.
    #[getter]
    fn changes(&self, py: Python<'_>) -> PyResult<u64> {
        self.core.with(py, |gateway| gateway.changes())
    }

    /// Handles what is due, and returns an ``Advance``. Every command does this first.
    #[pyo3(signature = (*, now_ns=None))]
    fn advance<'py>(slf: &Bound<'py, Self>, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyAny>> {
        Self::command(slf, now_ns, |gateway, now| gateway.advance(now))?.to_py(slf.py())
    }

    /// Takes a step of the clock that is on trial for time that passed: an operator says that the clock is right.
    #[pyo3(signature = (*, now_ns=None))]
    fn accept_clock<'py>(slf: &Bound<'py, Self>, now_ns: Option<Moment>) -> PyResult<Bound<'py, PyAny>> {
        Self::command(slf, now_ns, |gateway, now| gateway.accept_clock(now))?.to_py(slf.py())
    }

    /// Applies one line of a log, ``{"now":…,"command":…}``, and returns the reply as text.
    fn _apply_json(slf: &Bound<'_, Self>, entry: LogLine<'_>) -> PyResult<String> {
        let reply = Self::tell(slf, |gateway| match Entry::from_json(&entry.0) {
            Ok(entry) => gateway.apply(entry),
            Err(error) => Reply::Error((&error).into()),
        })?;
        Ok(reply.to_json())
    }

    /// Applies lines of a log and returns the reply to each.
    fn apply_many(slf: &Bound<'_, Self>, entries: Vec<OwnLogLine>) -> PyResult<Vec<String>> {
        Self::tell_long(slf, |gateway| {
            let reply = |entry: &OwnLogLine| match Entry::from_json(&entry.0) {
                Ok(entry) => gateway.apply(entry).to_json(),
                Err(error) => Reply::Error((&error).into()).to_json(),
            };
            entries.iter().map(reply).collect()
        })
    }

    /// The life of the gateway that its numbers belong to; 0 the first, where it was made without entropy.
    #[getter]
    fn epoch(&self, py: Python<'_>) -> PyResult<u64> {
        self.core.with(py, |gateway| gateway.epoch().as_u64())
    }

    /// How many commands it was given since the beginning: every call that takes ``now_ns``, also one that was refused.
    #[getter]
    fn commands(&self, py: Python<'_>) -> PyResult<u64> {
        self.core.with(py, |gateway| gateway.commands())
    }

    /// How many commands are in a snapshot.
    #[staticmethod]
    fn commands_in(py: Python<'_>, snapshot: &[u8]) -> PyResult<u64> {
        Gateway::commands_in(snapshot).or_raise(py)
    }

    /// Begins another life: what is done where a gateway goes on in the place of one that is gone. ``restore`` does it; a
    /// replica that takes over has to. Returns its number. ``entropy`` are 64 bits, by default of the system.
    #[pyo3(signature = (*, entropy=None, now_ns=None))]
    fn begin_epoch(slf: &Bound<'_, Self>, entropy: Option<u64>, now_ns: Option<Moment>) -> PyResult<u64> {
        let entropy = entropy.map_or_else(|| system_entropy(slf.py()), Ok)?;
        Self::command(slf, now_ns, |gateway, now| gateway.begin_epoch(now, entropy).as_u64())
    }

    /// A snapshot in slices of some 64 KiB: an iterator of bytes, together those of ``snapshot``. The gateway has to stand still
    /// meanwhile: a command in between makes the next step raise ``ChangedError``.
    fn slices(slf: &Bound<'_, Self>) -> PyResult<PySlices> {
        let slices = slf.get().core.with(slf.py(), |gateway| gateway.slices())?;
        Ok(PySlices { gateway: slf.clone().unbind(), slices: Mutex::new(slices) })
    }

    /// Somebody waits for the end of a job: its outcome is kept for as long.
    fn _hold(&self, py: Python<'_>, job: JobArg) -> PyResult<()> {
        self.core.with(py, |gateway| gateway.hold_outcome(job.0))
    }

    /// Takes one ``_hold`` back.
    fn _release(&self, py: Python<'_>, job: JobArg) -> PyResult<()> {
        self.core.with(py, |gateway| gateway.release_outcome(job.0))
    }

    /// The whole state as bytes, for ``Gateway(snapshot=…)``.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.core.with_long(py, |gateway| gateway.snapshot())?))
    }

    /// The digest of the state, 64 hexadecimal digits: equal for equal states, in every language.
    fn digest(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.core.with_long(py, |gateway| gateway.digest())?.to_string())
    }

    /// Bytes held for jobs and places, without what was given and without names.
    #[getter]
    fn memory_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.core.with(py, |gateway| gateway.memory_bytes())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let stats = self.core.with(py, |gateway| gateway.stats())?;
        Ok(format!("<Gateway: {} queued, {} running, {} backends>", stats.queued, stats.running, stats.backends))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.clock)?;
        self.hub.get().map_or(Ok(()), |hub| visit.call(hub))
    }

    /// Who waits in asyncio; ``None``: nobody has yet.
    #[getter]
    fn _hub(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.hub.get().map(|hub| hub.clone_ref(py))
    }

    /// Keeps who waits in asyncio, and returns what is kept: the first one, also for two threads at once.
    fn _keep_hub(&self, py: Python<'_>, hub: Py<PyAny>) -> Py<PyAny> {
        self.hub.keep(hub).clone_ref(py)
    }

    /// Somebody waits from now on, or nobody does any more.
    fn _set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Atomic::SeqCst);
    }

    /// Called after changes while somebody waits.
    fn _wake(&self) {}

    /// What is new from event ``first`` on: the number of the next event, the jobs told of (``None`` if some events are no longer
    /// there), and whether any job waits.
    fn _news<'py>(&self, py: Python<'py>, first: u64) -> PyResult<(u64, Option<Bound<'py, PyList>>, bool)> {
        let (next, jobs, queued) = self.core.with(py, |gateway| views::news(gateway, first))?;
        let jobs = jobs.map(|jobs| PyList::new(py, jobs.into_iter().map(crate::ids::PyJobId))).transpose()?;
        Ok((next, jobs, queued))
    }

    /// How long until something falls due, in nanoseconds. A deadline is an instant of the clock as it was read last: it is
    /// never farther away than from that reading, wherever the clock is now.
    fn _due_in_ns(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        let clock = self.read(py, None)?;
        self.core.with(py, |gateway| {
            let deadline = gateway.next_deadline()?;
            Some(deadline.since(gateway.now().max(clock)).as_nanos())
        })
    }

    /// The number of the next event.
    #[getter]
    fn next_event(&self, py: Python<'_>) -> PyResult<u64> {
        self.core.with(py, |gateway| gateway.next_event())
    }
}

impl PyGateway {
    fn around(gateway: Gateway, clock: Option<Py<PyAny>>) -> Self {
        Self { core: Guarded::new(gateway), waiting: AtomicBool::new(false), clock, hub: Kept::new() }
    }

    /// Runs a command at the instant given or the present one, and tells whoever waits.
    #[inline]
    fn command<R: Send>(
        slf: &Bound<'_, Self>,
        now: Option<Moment>,
        body: impl Send + FnOnce(&mut Gateway, Timestamp) -> R,
    ) -> PyResult<R> {
        let now = slf.get().read(slf.py(), now)?;
        Self::tell(slf, |gateway| body(gateway, now))
    }

    /// The same for `n` things at once: where they are many, other threads of Python go on meanwhile.
    fn command_many<R: Send>(
        slf: &Bound<'_, Self>,
        now: Option<Moment>,
        n: usize,
        body: impl Send + FnOnce(&mut Gateway, Timestamp) -> R,
    ) -> PyResult<R> {
        let now = slf.get().read(slf.py(), now)?;
        match n < MANY {
            true => Self::tell(slf, |gateway| body(gateway, now)),
            false => Self::tell_long(slf, |gateway| body(gateway, now)),
        }
    }

    /// Runs anything that may change something, and tells whoever waits.
    #[inline]
    fn tell<R: Send>(slf: &Bound<'_, Self>, body: impl Send + FnOnce(&mut Gateway) -> R) -> PyResult<R> {
        Self::run(slf, false, body)
    }

    /// The same for work that grows with what there is.
    fn tell_long<R: Send>(slf: &Bound<'_, Self>, body: impl Send + FnOnce(&mut Gateway) -> R) -> PyResult<R> {
        Self::run(slf, true, body)
    }

    #[inline]
    fn run<R: Send>(slf: &Bound<'_, Self>, long: bool, body: impl Send + FnOnce(&mut Gateway) -> R) -> PyResult<R> {
        let own = slf.get();
        // Whoever waits waits for nothing where a call panics: it is woken, and told so.
        let _alarm = Alarm(slf);
        let work = |gateway: &mut Gateway| {
            // Asked under the lock: who waits said so before he looked, and either he saw this change or it sees him.
            if !own.waiting.load(Atomic::SeqCst) {
                return (body(gateway), false);
            }
            let (changes, deadline) = (gateway.changes(), gateway.next_deadline());
            let result = body(gateway);
            // Somebody who looked and found nothing must not wake himself; a deadline that came nearer has to be waited for.
            let sooner = match (gateway.next_deadline(), deadline) {
                (Some(new), Some(old)) => new < old,
                (new, None) => new.is_some(),
                (None, Some(_)) => false,
            };
            (result, sooner || gateway.changes() != changes)
        };
        let (result, news) = if long { own.core.with_long(slf.py(), work) } else { own.core.with(slf.py(), work) }?;
        if news {
            let _calling = Calling::begin(slf.py());
            slf.call_method0(intern!(slf.py(), "_wake"))?;
        }
        Ok(result)
    }

    /// The latest instant it was told.
    fn latest(&self, py: Python<'_>) -> PyResult<Timestamp> {
        self.core.with(py, |gateway| gateway.now())
    }

    #[inline]
    fn read(&self, py: Python<'_>, now: Option<Moment>) -> PyResult<Timestamp> {
        read(py, self.clock.as_ref(), now)
    }
}

/// Wakes whoever waits when a call panics.
struct Alarm<'a, 'py>(&'a Bound<'py, PyGateway>);

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0.get().waiting.load(Atomic::SeqCst) {
            let _calling = Calling::begin(self.0.py());
            // It panics already: what else goes wrong is told by nobody.
            let _ = self.0.call_method0(intern!(self.0.py(), "_wake"));
        }
    }
}

/// A snapshot that is taken slice by slice.
#[pyclass(module = "libgateway._native", name = "Slices", frozen, weakref)]
pub(crate) struct PySlices {
    gateway: Py<PyGateway>,
    slices: Mutex<Slices>,
}

#[crate::argument::named]
#[pymethods]
impl PySlices {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let slice = self.gateway.get().core.with_long(py, |gateway| {
            // The gateway's lock comes first, and nobody holds this one while it waits for that.
            self.slices.lock().map(|mut slices| slices.next(gateway)).map_err(|_| ())
        })?;
        match slice {
            Ok(slice) => Ok(slice.or_raise(py)?.map(|slice| PyBytes::new(py, &slice))),
            Err(_) => Err(libgateway::error::Poisoned.raise(py)),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.gateway)
    }
}

/// 64 bits of the system.
fn system_entropy(py: Python<'_>) -> PyResult<u64> {
    fresh(py).map(|id| id.as_u128() as u64)
}

#[inline]
fn read(py: Python<'_>, clock: Option<&Py<PyAny>>, now: Option<Moment>) -> PyResult<Timestamp> {
    match (now, clock) {
        (Some(now), _) => Ok(now.0),
        (None, None) => Ok(system_now()),
        (None, Some(clock)) => {
            let _calling = Calling::begin(py);
            Ok(Moment::take(&clock.bind(py).call0()?, "clock")?.0)
        }
    }
}

fn not_a_config(py: Python<'_>, error: &serde_json::Error) -> PyErr {
    CommandError::NotACommand { reason: error.to_string().into_boxed_str() }.raise(py)
}

/// So many at once are worth giving the interpreter away for.
const MANY: usize = 256;
