//! A fair queue.

use std::ffi::c_char;

use libgateway::{FairQueue, FairQueueConfig, Ordering, Ticket};

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{create, free, gateway_queue, with};
use crate::input::{Options, Out, choice, options, text};
use crate::machine::GATEWAY_ORDERING_FAIR;
use crate::status::*;

/// Limits and order of a queue. Begin with `GATEWAY_QUEUE_CONFIG_INIT`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_queue_config {
    /// `sizeof(gateway_queue_config)`.
    pub size: usize,
    /// Keys the hash tables. Default 0.
    pub seed: u64,
    /// How customers of one lane follow each other, `GATEWAY_ORDERING_FAIR` by default.
    pub ordering: u32,
    /// Items that may wait. Default 1 000 000.
    pub items_max: u32,
    /// Customers known at once; beyond that the one longest without items is forgotten. Default 100 000.
    pub customers_max: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, and has integers only.
unsafe impl Options for gateway_queue_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        seed: 0,
        ordering: GATEWAY_ORDERING_FAIR,
        items_max: 1_000_000,
        customers_max: 100_000,
        reserved: 0,
    };
}

/// Which item of a queue; never used twice by one queue.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_ticket {
    /// Rises with each item.
    pub sequence: u64,
    /// Where it lies.
    pub slot: u64,
}

impl From<Ticket> for gateway_ticket {
    fn from(ticket: Ticket) -> Self {
        let (slot, sequence) = ticket.to_parts();
        Self { sequence, slot: u64::from(slot) }
    }
}

impl gateway_ticket {
    /// A slot beyond 32 bits was never given out, and neither was the last one of them.
    fn read(&self) -> Ticket {
        Ticket::from_parts(u32::try_from(self.slot).unwrap_or(u32::MAX), self.sequence)
    }
}

/// Makes an empty queue. NULL as `config` takes all defaults. Free it by `gateway_queue_free`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_OUT_OF_RANGE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_new(
    config: *const gateway_queue_config,
    queue: *mut *mut gateway_queue,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (own, queue) = unsafe { (options(config, "config")?, Out::required(queue, "queue")?) };
        crate::machine::reserved(own.reserved)?;
        let config = FairQueueConfig::default()
            .ordering(choice(own.ordering, &[Ordering::Fair, Ordering::Fifo], "ordering")?)
            .items_max(own.items_max)
            .customers_max(own.customers_max)
            .seed(own.seed);
        create(FairQueue::new(config)?, queue)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a queue with its items. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_free(queue: *mut gateway_queue) -> gateway_status {
    guard(|| free(queue))
}

/// Puts an item into a lane (0 is served first, 2 last) at the place its customer's share gives it. `cost` is in units of
/// the caller's choice, the same for all, and fine ones: nanoseconds rather than seconds. `item` is any number: an index,
/// or a pointer as a number. `ticket` may be NULL.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be; `GATEWAY_FULL`;
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_push(
    queue: *mut gateway_queue,
    customer: *const c_char,
    lane: u32,
    cost: u64,
    item: u64,
    ticket: *mut gateway_ticket,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (customer, ticket) = unsafe { (text(customer, "customer")?, Out::optional(ticket, "ticket")?) };
        let lane = u8::try_from(lane).map_err(|_| Failure::range("lane", u64::from(lane), 0, 2))?;
        ticket.set(with(queue, |queue| Ok(queue.push(customer, lane, cost, item)?))?.into());
        Ok(GATEWAY_OK)
    })
}

/// Takes the next item that may be served. `ticket` may be NULL.
///
/// `GATEWAY_NONE`: none may. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called
/// from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_pop(
    queue: *mut gateway_queue,
    item: *mut u64,
    ticket: *mut gateway_ticket,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (item, ticket) = unsafe { (Out::required(item, "item")?, Out::optional(ticket, "ticket")?) };
        let Some((own, value)) = with(queue, |queue| Ok(queue.pop_ticket()))? else { return Ok(GATEWAY_NONE) };
        item.set(value);
        ticket.set(own.into());
        Ok(GATEWAY_OK)
    })
}

/// Takes an item out wherever it stands, as if it had never come. `item` may be NULL.
///
/// `GATEWAY_NONE`: it is not in the queue any more. Errors: as `gateway_queue_pop`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_remove(
    queue: *mut gateway_queue,
    ticket: gateway_ticket,
    item: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let item = unsafe { Out::optional(item, "item") }?;
        let removed = with(queue, |queue| Ok(queue.remove(ticket.read())))?;
        Ok(removed.map_or(GATEWAY_NONE, |value| {
            item.set(value);
            GATEWAY_OK
        }))
    })
}

/// How many items stand before one, paused or not. Exact.
///
/// `GATEWAY_NONE`: it is not in the queue any more. Errors: as `gateway_queue_pop`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_position(
    queue: *const gateway_queue,
    ticket: gateway_ticket,
    position: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let position = unsafe { Out::required(position, "position") }?;
        let rank = with(queue, |queue| Ok(queue.position(ticket.read())))?;
        Ok(rank.map_or(GATEWAY_NONE, |rank| {
            position.set(rank);
            GATEWAY_OK
        }))
    })
}

/// Gives a customer a share, 1 to 1 000 000; 1 is the default. It holds from the next item on that is served, also for
/// those that wait.
///
/// Errors: as `gateway_queue_push`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_set_weight(
    queue: *mut gateway_queue,
    customer: *const c_char,
    weight: u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let customer = unsafe { text(customer, "customer") }?;
        with(queue, |queue| Ok(queue.set_weight(customer, weight)?)).map(|()| GATEWAY_OK)
    })
}

/// Steps over a customer's items until it is resumed. They keep their order; the time they stand still earns their
/// customer nothing: it goes on where one that comes anew would begin, or behind that if it was given more.
///
/// Errors: as `gateway_queue_push`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_pause(queue: *mut gateway_queue, customer: *const c_char) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let customer = unsafe { text(customer, "customer") }?;
        with(queue, |queue| Ok(queue.pause(customer)?)).map(|()| GATEWAY_OK)
    })
}

/// Serves a customer's items again.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_resume(queue: *mut gateway_queue, customer: *const c_char) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let customer = unsafe { text(customer, "customer") }?;
        with(queue, |queue| {
            queue.resume(customer);
            Ok(GATEWAY_OK)
        })
    })
}

/// How many items wait.
///
/// Errors: as `gateway_queue_pop`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_len(queue: *const gateway_queue, len: *mut usize) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let len = unsafe { Out::required(len, "len") }?;
        len.set(with(queue, |queue| Ok(queue.len()))?);
        Ok(GATEWAY_OK)
    })
}

/// How many of a customer's items wait.
///
/// Errors: as `gateway_queue_resume`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_queue_waiting(
    queue: *const gateway_queue,
    customer: *const c_char,
    waiting: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (customer, waiting) = unsafe { (text(customer, "customer")?, Out::required(waiting, "waiting")?) };
        waiting.set(with(queue, |queue| Ok(queue.waiting(customer)))?);
        Ok(GATEWAY_OK)
    })
}
