//! What operators change: backends, customers, routes, prices; and the outbox.

use libgateway::{EvictTo, ForcedState, Settlement};
use pyo3::prelude::*;

use super::{PyGateway, PySettlement};
use crate::billing::BatchArg;
use crate::convert::Moment;
use crate::errors::OrRaise;
use crate::policy::{PyCustomerPolicy, PyPriceBook};
use crate::spec::{PyBackend, RouteArg};
use crate::values::{ToPy, list};
use crate::words::In;

#[crate::argument::named]
#[pymethods]
impl PyGateway {
    /// Adds a backend, or changes the one of that name: its leases, breaker and warmth stay, a drain ends.
    #[pyo3(signature = (backend, *, now_ns=None))]
    fn put_backend(slf: &Bound<'_, Self>, backend: &Bound<'_, PyBackend>, now_ns: Option<Moment>) -> PyResult<()> {
        let backend = backend.get().0.clone();
        Self::command(slf, now_ns, |gateway, now| gateway.put_backend(now, backend))?.or_raise(slf.py())
    }

    /// Takes a backend out: no new leases, and forgotten when its last one has ended.
    #[pyo3(signature = (backend, *, now_ns=None))]
    fn remove_backend(slf: &Bound<'_, Self>, backend: &str, now_ns: Option<Moment>) -> PyResult<()> {
        Self::command(slf, now_ns, |gateway, now| gateway.remove_backend(now, backend))?.or_raise(slf.py())
    }

    /// Stops giving a backend new leases, or starts again.
    #[pyo3(signature = (backend, draining=true, *, now_ns=None))]
    fn drain_backend(slf: &Bound<'_, Self>, backend: &str, draining: bool, now_ns: Option<Moment>) -> PyResult<()> {
        Self::command(slf, now_ns, |gateway, now| gateway.drain_backend(now, backend, draining))?.or_raise(slf.py())
    }

    /// Ends all leases of a backend: its machine has gone, or has to. Their jobs wait again at once (``to="queue"``), or end in
    /// error (``to="error"``). Returns an ``Evicted`` for each, in the order in which they were granted: its worker's result is
    /// refused from now on. The backend goes on taking new ones unless it is drained; one that has gone for good is evicted and
    /// then removed, since a removed one has no name any more. What they took is paid for by the policy's ``preempted``.
    #[pyo3(signature = (backend, *, to=In(EvictTo::Queue), now_ns=None),
        text_signature = "($self, backend, *, to='queue', now_ns=None)")]
    fn evict_backend<'py>(
        slf: &Bound<'py, Self>,
        backend: &str,
        to: In<EvictTo>,
        now_ns: Option<Moment>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let evicted = Self::command(slf, now_ns, |gateway, now| gateway.evict_backend(now, backend, to.0))?;
        list(slf.py(), &evicted.or_raise(slf.py())?)
    }

    /// Holds a backend's breaker ``"open"`` or ``"closed"``, until an instant or until further notice; ``None`` lets go of it.
    #[pyo3(signature = (backend, state, *, until=None, now_ns=None))]
    fn force_breaker(
        slf: &Bound<'_, Self>,
        backend: &str,
        state: Option<In<ForcedState>>,
        until: Option<Moment>,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let (state, until) = (state.map(|state| state.0), until.map(|until| until.0));
        let forced = Self::command(slf, now_ns, |gateway, now| gateway.force_breaker(now, backend, state, until))?;
        forced.or_raise(slf.py())
    }

    /// Gives a customer a policy of its own. Its tokens stay as many as they are, up to the new burst.
    #[pyo3(signature = (customer, policy, *, now_ns=None))]
    fn put_customer(
        slf: &Bound<'_, Self>,
        customer: &str,
        policy: &Bound<'_, PyCustomerPolicy>,
        now_ns: Option<Moment>,
    ) -> PyResult<()> {
        let policy = policy.get().0.clone();
        Self::command(slf, now_ns, |gateway, now| gateway.put_customer(now, customer, policy))?.or_raise(slf.py())
    }

    /// Takes a customer's own policy away: the default one holds.
    #[pyo3(signature = (customer, *, now_ns=None))]
    fn remove_customer(slf: &Bound<'_, Self>, customer: &str, now_ns: Option<Moment>) -> PyResult<()> {
        Self::command(slf, now_ns, |gateway, now| gateway.remove_customer(now, customer))?.or_raise(slf.py())
    }

    /// Stops serving a route. Its jobs keep their order, and their clocks run on.
    #[pyo3(signature = (route, *, now_ns=None))]
    fn pause(slf: &Bound<'_, Self>, route: RouteArg<'_>, now_ns: Option<Moment>) -> PyResult<()> {
        Self::command(slf, now_ns, |gateway, now| gateway.pause(now, &route.0))?.or_raise(slf.py())
    }

    /// Serves a route again.
    #[pyo3(signature = (route, *, now_ns=None))]
    fn resume(slf: &Bound<'_, Self>, route: RouteArg<'_>, now_ns: Option<Moment>) -> PyResult<()> {
        Self::command(slf, now_ns, |gateway, now| gateway.resume(now, &route.0))?.or_raise(slf.py())
    }

    /// Puts a newer price book in force. Jobs that end from now on are settled by it.
    #[pyo3(signature = (prices, *, now_ns=None))]
    fn put_prices(slf: &Bound<'_, Self>, prices: &Bound<'_, PyPriceBook>, now_ns: Option<Moment>) -> PyResult<()> {
        let prices = prices.get().0.clone();
        Self::command(slf, now_ns, |gateway, now| gateway.put_prices(now, prices))?.or_raise(slf.py())
    }

    /// Hands out up to ``max`` settlements, the oldest first, with their batch; ``None``: there are none.
    #[pyo3(signature = (max=1_000, *, now_ns=None))]
    fn _take_settlements<'py>(
        slf: &Bound<'py, Self>,
        max: u32,
        now_ns: Option<Moment>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, Vec<PySettlement>)>> {
        let py = slf.py();
        let taken = Self::command(slf, now_ns, |gateway, now| gateway.take_settlements(now, max))?;
        let settlements = |all: Vec<Settlement>| all.into_iter().map(PySettlement).collect();
        taken.map(|taken| Ok((taken.batch.to_py(py)?, settlements(taken.settlements)))).transpose()
    }

    /// Lets go of settlements that are safe elsewhere. Returns how many; confirming twice is 0.
    #[pyo3(signature = (batch, *, now_ns=None))]
    fn confirm_settlements(slf: &Bound<'_, Self>, batch: BatchArg, now_ns: Option<Moment>) -> PyResult<u32> {
        Self::command(slf, now_ns, |gateway, now| gateway.confirm_settlements(now, batch.0))?.or_raise(slf.py())
    }

    /// Takes settlements back that could not be kept; they are handed out again. Returns how many.
    #[pyo3(signature = (batch, *, now_ns=None))]
    fn return_settlements(slf: &Bound<'_, Self>, batch: BatchArg, now_ns: Option<Moment>) -> PyResult<u32> {
        Self::command(slf, now_ns, |gateway, now| gateway.return_settlements(now, batch.0))?.or_raise(slf.py())
    }
}
