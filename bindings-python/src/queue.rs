//! The fair queue by itself.

use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use libgateway::{FairQueue, FairQueueConfig, Ordering, Priority, Ticket};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use slab::Slab;

use crate::errors::OrRaise;
use crate::guard::Guarded;
use crate::words::In;

/// Which item of a queue; never used twice by one queue.
#[pyclass(module = "libgateway", name = "Ticket", frozen, eq, hash)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PyTicket {
    queue: u64,
    ticket: (u32, u64),
}

#[crate::argument::named]
#[pymethods]
impl PyTicket {
    fn __repr__(&self) -> String {
        format!("<Ticket {}>", self.ticket.1)
    }
}

/// A queue of lanes in which customers get their share by weight and cost, with exact positions.
///
/// A higher lane is served first. Within a lane customers are served in proportion to their weights, counted in cost; items
/// of one customer keep their order. ``cost`` is in units of your choice, the same for all; choose fine ones.
///
/// >>> from libgateway import FairQueue
/// >>> queue = FairQueue()
/// >>> for n in range(1000):
/// ...     _ = queue.push(n, customer="flood", cost=1000)
/// >>> single = queue.push("hello", customer="single", cost=1000)
/// >>> queue.position(single)  # the flood had one item before it, not a thousand
/// 1
/// >>> queue.pop(), queue.pop(), len(queue)
/// (0, 'hello', 999)
#[pyclass(module = "libgateway", name = "FairQueue", frozen, generic)]
pub(crate) struct PyFairQueue {
    state: Guarded<State>,
    number: u64,
}

/// Items are Python's objects. They stand beside the queue, where the garbage collector can visit them.
struct State {
    queue: FairQueue<usize>,
    items: Slab<Py<PyAny>>,
}

/// Tells the tickets of one queue from another's.
static QUEUES: AtomicU64 = AtomicU64::new(0);

#[crate::argument::named]
#[pymethods]
impl PyFairQueue {
    #[new]
    #[pyo3(signature = (*, ordering=In(FairQueueConfig::default().ordering), items_max=FairQueueConfig::default().items_max,
                        customers_max=FairQueueConfig::default().customers_max, seed=FairQueueConfig::default().seed),
        text_signature = "(*, ordering='fair', items_max=1000000, customers_max=100000, seed=0)")]
    fn new(py: Python<'_>, ordering: In<Ordering>, items_max: u32, customers_max: u32, seed: u64) -> PyResult<Self> {
        let config = FairQueueConfig::default().ordering(ordering.0).items_max(items_max);
        let queue = FairQueue::new(config.customers_max(customers_max).seed(seed)).or_raise(py)?;
        let number = QUEUES.fetch_add(1, Atomic::Relaxed);
        Ok(Self { state: Guarded::new(State { queue, items: Slab::new() }), number })
    }

    /// Puts an item at the place its customer's share gives it.
    #[pyo3(signature = (item, *, customer, lane=In(Priority::Normal), cost=1),
        text_signature = "($self, item, *, customer, lane='normal', cost=1)")]
    fn push(
        &self,
        py: Python<'_>,
        item: Py<PyAny>,
        customer: &str,
        lane: In<Priority>,
        cost: u64,
    ) -> PyResult<PyTicket> {
        let lane = lane.0.lane();
        let pushed = self.state.with(py, |state| {
            let slot = state.items.vacant_key();
            match state.queue.push(customer, lane, cost, slot) {
                Ok(ticket) => {
                    state.items.insert(item);
                    Ok(ticket)
                }
                // The item goes out with the error: dropping it could run anything, here under the lock.
                Err(error) => Err((error, item)),
            }
        })?;
        let ticket = pushed.map_err(|(error, _)| error).or_raise(py)?;
        Ok(self.ticket(ticket))
    }

    /// Takes the next item that may be served, or returns ``default``.
    #[pyo3(signature = (default=None))]
    fn pop(&self, py: Python<'_>, default: Option<Py<PyAny>>) -> PyResult<Option<Py<PyAny>>> {
        let popped = self.state.with(py, |state| {
            let slot = state.queue.pop()?;
            state.items.try_remove(slot)
        })?;
        Ok(popped.or(default))
    }

    /// As ``pop``, with the item's ticket; ``None``: there is none.
    fn pop_ticket(&self, py: Python<'_>) -> PyResult<Option<(PyTicket, Py<PyAny>)>> {
        let popped = self.state.with(py, |state| {
            let (ticket, slot) = state.queue.pop_ticket()?;
            Some((ticket, state.items.try_remove(slot)?))
        })?;
        Ok(popped.map(|(ticket, item)| (self.ticket(ticket), item)))
    }

    /// Takes up to ``n`` items.
    fn pop_many(&self, py: Python<'_>, n: usize) -> PyResult<Vec<Py<PyAny>>> {
        self.state.with(py, |state| {
            let State { queue, items } = state;
            (0..n).map_while(|_| items.try_remove(queue.pop()?)).collect()
        })
    }

    /// Takes an item out wherever it stands, as if it had never come, or returns ``default`` if it is not there any more.
    #[pyo3(signature = (ticket, default=None))]
    fn remove(
        &self,
        py: Python<'_>,
        ticket: &Bound<'_, PyTicket>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let Some(ticket) = self.own(ticket.get()) else { return Ok(default) };
        let removed = self.state.with(py, |state| {
            let slot = state.queue.remove(ticket)?;
            state.items.try_remove(slot)
        })?;
        Ok(removed.or(default))
    }

    /// How many items stand before one, paused or not; ``None``: it is not in the queue any more.
    fn position(&self, py: Python<'_>, ticket: &Bound<'_, PyTicket>) -> PyResult<Option<u32>> {
        let Some(ticket) = self.own(ticket.get()) else { return Ok(None) };
        self.state.with(py, |state| state.queue.position(ticket))
    }

    fn __contains__(&self, py: Python<'_>, ticket: &Bound<'_, PyAny>) -> PyResult<bool> {
        match ticket.cast::<PyTicket>() {
            Ok(ticket) => Ok(self.position(py, ticket)?.is_some()),
            Err(_) => Ok(false),
        }
    }

    /// Gives a customer a share, 1 to 1 000 000; 1 is the default. It holds from the next item on that is served, also for
    /// those that wait.
    fn set_weight(&self, py: Python<'_>, customer: &str, weight: u32) -> PyResult<()> {
        self.state.with(py, |state| state.queue.set_weight(customer, weight))?.or_raise(py)
    }

    /// Steps over a customer's items until it is resumed. They keep their order; the time they stand still earns their
    /// customer nothing: it goes on where one that comes anew would begin, or behind that if it was given more.
    fn pause(&self, py: Python<'_>, customer: &str) -> PyResult<()> {
        self.state.with(py, |state| state.queue.pause(customer))?.or_raise(py)
    }

    /// Serves a customer's items again.
    fn resume(&self, py: Python<'_>, customer: &str) -> PyResult<()> {
        self.state.with(py, |state| state.queue.resume(customer))
    }

    /// How many of a customer's items wait.
    fn waiting(&self, py: Python<'_>, customer: &str) -> PyResult<u32> {
        self.state.with(py, |state| state.queue.waiting(customer))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.state.with(py, |state| state.queue.len())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<FairQueue of {}>", self.__len__(py)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        self.state.try_with(|state| result = state.items.iter().try_for_each(|(_, item)| visit.call(item)));
        result
    }

    fn __clear__(&self) {
        let mut items = Slab::new();
        self.state.try_with(|state| std::mem::swap(&mut state.items, &mut items));
    }
}

impl PyFairQueue {
    fn ticket(&self, ticket: Ticket) -> PyTicket {
        PyTicket { queue: self.number, ticket: ticket.to_parts() }
    }

    fn own(&self, ticket: &PyTicket) -> Option<Ticket> {
        (ticket.queue == self.number).then(|| Ticket::from_parts(ticket.ticket.0, ticket.ticket.1))
    }
}
