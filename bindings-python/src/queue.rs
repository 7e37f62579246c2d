//! The fair queue by itself.

use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use libgateway::{FairQueue, FairQueueConfig, Ordering, Priority, Ticket};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use crate::calling::Calling;
use crate::errors::OrRaise;
use crate::guard::Guarded;
use crate::words::In;

/// Which item of a queue; never used twice by one queue.
#[pyclass(module = "libgateway", name = "Ticket", frozen, weakref, eq, hash)]
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
#[pyclass(module = "libgateway", name = "FairQueue", frozen, weakref, generic)]
pub(crate) struct PyFairQueue {
    queue: Guarded<FairQueue<u64>>,
    /// Items are Python's objects. They stand outside the lock, by their number, where the garbage collector finds them
    /// whoever has it.
    items: Py<PyDict>,
    pushed: AtomicU64,
    number: u64,
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
        let items = PyDict::new(py).unbind();
        Ok(Self { queue: Guarded::new(queue), items, pushed: AtomicU64::new(0), number })
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
        let (lane, slot) = (lane.0.lane(), self.pushed.fetch_add(1, Atomic::Relaxed));
        // Before the queue knows of it: what can be popped is there.
        self.items.bind(py).set_item(slot, item)?;
        let pushed = self.queue.with(py, |queue| queue.push(customer, lane, cost, slot));
        let ticket = pushed.and_then(|ticket| ticket.or_raise(py));
        if ticket.is_err() {
            self.take(py, slot)?;
        }
        Ok(self.ticket(ticket?))
    }

    /// Takes the next item that may be served, or returns ``default``.
    #[pyo3(signature = (default=None))]
    fn pop(&self, py: Python<'_>, default: Option<Py<PyAny>>) -> PyResult<Option<Py<PyAny>>> {
        let slot = self.queue.with(py, |queue| queue.pop())?;
        Ok(slot.map(|slot| self.take(py, slot)).transpose()?.flatten().or(default))
    }

    /// As ``pop``, with the item's ticket; ``None``: there is none.
    fn pop_ticket(&self, py: Python<'_>) -> PyResult<Option<(PyTicket, Py<PyAny>)>> {
        let Some((ticket, slot)) = self.queue.with(py, |queue| queue.pop_ticket())? else { return Ok(None) };
        Ok(self.take(py, slot)?.map(|item| (self.ticket(ticket), item)))
    }

    /// Takes up to ``n`` items.
    fn pop_many(&self, py: Python<'_>, n: usize) -> PyResult<Vec<Py<PyAny>>> {
        let slots = self.queue.with(py, |queue| (0..n).map_while(|_| queue.pop()).collect::<Vec<_>>())?;
        slots.into_iter().filter_map(|slot| self.take(py, slot).transpose()).collect()
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
        let slot = self.queue.with(py, |queue| queue.remove(ticket))?;
        Ok(slot.map(|slot| self.take(py, slot)).transpose()?.flatten().or(default))
    }

    /// How many items stand before one, paused or not; ``None``: it is not in the queue any more.
    fn position(&self, py: Python<'_>, ticket: &Bound<'_, PyTicket>) -> PyResult<Option<u32>> {
        let Some(ticket) = self.own(ticket.get()) else { return Ok(None) };
        self.queue.with(py, |queue| queue.position(ticket))
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
        self.queue.with(py, |queue| queue.set_weight(customer, weight))?.or_raise(py)
    }

    /// Steps over a customer's items until it is resumed. They keep their order; the time they stand still earns their
    /// customer nothing: it goes on where one that comes anew would begin, or behind that if it was given more.
    fn pause(&self, py: Python<'_>, customer: &str) -> PyResult<()> {
        self.queue.with(py, |queue| queue.pause(customer))?.or_raise(py)
    }

    /// Serves a customer's items again.
    fn resume(&self, py: Python<'_>, customer: &str) -> PyResult<()> {
        self.queue.with(py, |queue| queue.resume(customer))
    }

    /// How many of a customer's items wait.
    fn waiting(&self, py: Python<'_>, customer: &str) -> PyResult<u32> {
        self.queue.with(py, |queue| queue.waiting(customer))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.queue.with(py, |queue| queue.len())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<FairQueue of {}>", self.__len__(py)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.items)
    }
}

impl Drop for PyFairQueue {
    /// Items that nobody else has go here: what they do as they go is a call.
    fn drop(&mut self) {
        Python::try_attach(|py| {
            let _calling = Calling::begin(py);
            self.items.bind(py).clear();
        });
    }
}

impl PyFairQueue {
    /// The item of a number, which only one call was given. None: the garbage collector has emptied the queue.
    fn take(&self, py: Python<'_>, slot: u64) -> PyResult<Option<Py<PyAny>>> {
        let items = self.items.bind(py);
        let item = items.get_item(slot)?;
        if item.is_some() {
            items.del_item(slot)?;
        }
        Ok(item.map(Bound::unbind))
    }

    fn ticket(&self, ticket: Ticket) -> PyTicket {
        PyTicket { queue: self.number, ticket: ticket.to_parts() }
    }

    fn own(&self, ticket: &PyTicket) -> Option<Ticket> {
        (ticket.queue == self.number).then(|| Ticket::from_parts(ticket.ticket.0, ticket.ticket.1))
    }
}
