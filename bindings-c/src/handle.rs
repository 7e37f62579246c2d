//! Handles: numbers that look like pointers to C, and that nobody can follow but this file.
//!
//! Every object lives in a slot of a table that is never given back, each slot with a lock of its own. A handle is the
//! number of a slot and the generation of what is in it, so a freed handle, one of another kind and a made-up one are
//! told from a live one without touching what they once stood for; and freeing waits for whoever is inside, because both
//! take the slot's lock. That lock is also the only one a call takes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use libgateway::{
    Backoff, BillingCollector, CircuitBreaker, FairQueue, Histogram, JobStore, KeyedRateLimiter, Lease, RateLimiter,
    Slices, TakenSettlements, Watch, WindowLimiter,
};

use crate::failure::Failure;
use crate::input::Out;
use crate::machine::Machine;
use crate::status::*;

/// Declares the opaque types of the header and what stands behind each.
macro_rules! kinds {
    ($($(#[$doc:meta])* $tag:ident, $name:literal: $variant:ident($object:ty);)+) => {
        /// What a slot holds.
        #[derive(Default)]
        pub(crate) enum Object {
            #[default]
            Nothing,
            $($variant(Box<$object>),)+
        }

        $(impl Handle for $tag {
            type Object = $object;
            const NAME: &'static str = $name;

            fn wrap(object: Self::Object) -> Object {
                Object::$variant(Box::new(object))
            }

            #[inline]
            fn of(object: &mut Object) -> Option<&mut Self::Object> {
                match object {
                    Object::$variant(object) => Some(object),
                    _ => None,
                }
            }
        })+
    };
}

/// An opaque type of the header.
pub(crate) trait Handle: Sized {
    /// What stands behind it.
    type Object;
    /// What people call it.
    const NAME: &'static str;

    fn wrap(object: Self::Object) -> Object;
    fn of(object: &mut Object) -> Option<&mut Self::Object>;
}

kinds! {
    gateway, "gateway": Gateway(Machine);
    gateway_lease, "lease": Lease(Lease);
    gateway_settlements, "settlements": Settlements(TakenSettlements);
    gateway_watch, "watch": Watch(Watch);
    gateway_slices, "slices": Slices(Slices);
    gateway_bytes, "bytes": Bytes(Vec<u8>);
    gateway_limiter, "limiter": Limiter(RateLimiter);
    gateway_keyed_limiter, "keyed limiter": Keyed(KeyedRateLimiter<Vec<u8>>);
    gateway_window, "window": Window(WindowLimiter);
    gateway_breaker, "breaker": Breaker(CircuitBreaker);
    gateway_queue, "queue": Queue(FairQueue<u64>);
    gateway_store, "store": Store(JobStore);
    gateway_billing, "billing": Billing(BillingCollector);
    gateway_histogram, "histogram": Histogram(Histogram);
    gateway_backoff, "backoff": Backoff(Backoff);
}

/// A gateway: queue, limits, backends, jobs and money behind one door.
///
/// May be used from any number of threads at once; calls take turns. Made by `gateway_new` and its like, freed by
/// `gateway_free`.
#[allow(non_camel_case_types)]
pub struct gateway {
    _opaque: [u8; 0],
}

/// A job on a backend, with its payload: what a worker works by. Freeing it does not end the lease, see
/// `gateway_lease_free`.
///
/// May be used from any number of threads at once.
#[allow(non_camel_case_types)]
pub struct gateway_lease {
    _opaque: [u8; 0],
}

/// Settlements that were handed out together, see `gateway_take_settlements`.
///
/// May be used from any number of threads at once.
#[allow(non_camel_case_types)]
pub struct gateway_settlements {
    _opaque: [u8; 0],
}

/// The watch of one job, see `gateway_watch_new`.
///
/// May be used from any number of threads at once.
#[allow(non_camel_case_types)]
pub struct gateway_watch {
    _opaque: [u8; 0],
}

/// A snapshot in slices, see `gateway_slices_new`.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_slices {
    _opaque: [u8; 0],
}

/// Bytes that a command answered, of a length nobody knew before: a reply, a snapshot. See `gateway_bytes_copy`.
///
/// May be used from any number of threads at once.
#[allow(non_camel_case_types)]
pub struct gateway_bytes {
    _opaque: [u8; 0],
}

/// A rate limit: one bucket of tokens.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_limiter {
    _opaque: [u8; 0],
}

/// Rate limits by key: a bucket for each of a bounded number of keys.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_keyed_limiter {
    _opaque: [u8; 0],
}

/// A strict limit: at most so many tokens in any window of time.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_window {
    _opaque: [u8; 0],
}

/// A circuit breaker round one callee.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_breaker {
    _opaque: [u8; 0],
}

/// A fair queue of 64-bit items.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_queue {
    _opaque: [u8; 0],
}

/// Jobs by id, each with one state that only moves as the lifecycle allows.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_store {
    _opaque: [u8; 0],
}

/// A billing collector: the start and the end of each call, its charge, and the record until it is confirmed.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_billing {
    _opaque: [u8; 0],
}

/// A histogram over all 64-bit values in fixed memory.
///
/// May be used from any number of threads at once; calls take turns.
#[allow(non_camel_case_types)]
pub struct gateway_histogram {
    _opaque: [u8; 0],
}

/// A retry schedule.
///
/// May be used from any number of threads at once.
#[allow(non_camel_case_types)]
pub struct gateway_backoff {
    _opaque: [u8; 0],
}

/// A place of the table. Never moves and never goes.
pub(crate) struct Slot {
    place: Mutex<Place>,
}

pub(crate) struct Place {
    /// Rises when the slot is emptied: older handles are dead from then on.
    generation: u32,
    object: Object,
}

/// A live handle, taken apart.
pub(crate) struct Found {
    pub(crate) slot: &'static Slot,
    generation: u32,
}

/// What is behind a handle, locked.
pub(crate) struct Held {
    /// Only between two calls of [`Held::wait`] it is not there.
    place: Option<MutexGuard<'static, Place>>,
    found: Found,
}

impl Drop for Held {
    /// Wakes everybody where a call panics under the lock: nobody else would, and what they wait for never comes.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(Object::Gateway(machine)) = self.place.as_mut().map(|place| &mut place.object) {
            machine.wake_all();
        }
    }
}

impl Held {
    /// The object.
    #[inline]
    pub(crate) fn object<H: Handle>(&mut self) -> Result<&mut H::Object, Failure> {
        let object = self.place.as_mut().and_then(|place| H::of(&mut place.object));
        object.ok_or_else(|| Failure::handle(H::NAME))
    }

    /// Lets go of the lock while it waits for `signal`, and looks whether the handle still lives.
    pub(crate) fn wait(
        mut self,
        signal: &Condvar,
        at_most: Option<std::time::Duration>,
        name: &str,
    ) -> Result<Self, Failure> {
        let Some(place) = self.place.take() else { return Err(Failure::handle(name)) };
        let place = match at_most {
            None => signal.wait(place).map_err(|_| Failure::poisoned())?,
            Some(at_most) => signal.wait_timeout(place, at_most).map_err(|_| Failure::poisoned())?.0,
        };
        if place.generation != self.found.generation {
            return Err(Failure::handle(name));
        }
        self.place = Some(place);
        Ok(self)
    }
}

/// Slots, so many at a time; a chunk is made when the first of its slots is needed.
static CHUNKS: [OnceLock<Box<[Slot]>>; CHUNKS_MAX] = [const { OnceLock::new() }; CHUNKS_MAX];
/// Empty slots, the one longest empty first, and how many slots there are.
static EMPTY: Mutex<Empty> = Mutex::new(Empty { slots: VecDeque::new(), made: 0, retired: 0 });

struct Empty {
    slots: VecDeque<u32>,
    made: u32,
    /// Slots whose generations are used up.
    retired: u32,
}

impl Empty {
    /// The slot for another object: a new one as long as the latest chunk has one, so that none is used again soon.
    fn take(&mut self) -> Option<u32> {
        let chunk_has_room = self.made as usize % CHUNK != 0;
        if !chunk_has_room {
            if let Some(index) = self.slots.pop_front() {
                return Some(index);
            }
        }
        let more = (self.made as usize) < CHUNKS_MAX * CHUNK;
        self.made += u32::from(more);
        more.then(|| self.made - 1)
    }
}

/// Puts an object into the table and its handle where the caller wants it.
pub(crate) fn create<H: Handle>(object: H::Object, out: Out<*mut H>) -> Result<(), Failure> {
    out.set(insert(object)?);
    Ok(())
}

/// Puts an object into the table.
pub(crate) fn insert<H: Handle>(object: H::Object) -> Result<*mut H, Failure> {
    let object = H::wrap(object);
    let index = EMPTY.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(index) = index else {
        let message = "there is no room for another handle";
        return Err(Failure::edge(GATEWAY_TOO_MANY_HANDLES, None, message));
    };
    let slot = &chunk(index)[index as usize % CHUNK];
    let mut place = slot.place.lock().unwrap_or_else(PoisonError::into_inner);
    place.object = object;
    let number = u64::from(place.generation) << 32 | u64::from(index) << INDEX_SHIFT | TAG;
    Ok(std::ptr::without_provenance_mut(number as usize))
}

fn chunk(index: u32) -> &'static [Slot] {
    CHUNKS[index as usize / CHUNK].get_or_init(|| {
        let empty = || Place { generation: 1, object: Object::Nothing };
        let slot = || Slot { place: Mutex::new(empty()) };
        (0..CHUNK).map(|_| slot()).collect()
    })
}

/// Where a handle points, if it looks like one.
#[inline]
pub(crate) fn find<H: Handle>(handle: *const H) -> Result<Found, Failure> {
    let number = handle.addr() as u64;
    let index = (number as u32 >> INDEX_SHIFT) as usize;
    let slots = CHUNKS.get(index / CHUNK).and_then(OnceLock::get).filter(|_| number & TAG_MASK == TAG);
    match slots.and_then(|slots| slots.get(index % CHUNK)) {
        Some(slot) => Ok(Found { slot, generation: (number >> 32) as u32 }),
        None if handle.is_null() => Err(Failure::pointer(H::NAME)),
        None => Err(Failure::handle(H::NAME)),
    }
}

/// Locks what is behind a handle.
#[inline]
pub(crate) fn lock<H: Handle>(found: Found) -> Result<Held, Failure> {
    let (place, poisoned) = match found.slot.place.lock() {
        Ok(place) => (place, false),
        Err(error) => (error.into_inner(), true),
    };
    if place.generation != found.generation {
        return Err(Failure::handle(H::NAME));
    }
    let mut held = Held { place: Some(place), found };
    held.object::<H>()?;
    if poisoned { Err(Failure::poisoned()) } else { Ok(held) }
}

/// Locks a live handle of any kind.
#[cfg(feature = "testing")]
pub(crate) fn hold(handle: *const std::ffi::c_void) -> Result<Held, Failure> {
    let found = find(handle.cast::<gateway_bytes>())?;
    let place = found.slot.place.lock().map_err(|_| Failure::poisoned())?;
    if place.generation == found.generation {
        Ok(Held { place: Some(place), found })
    } else {
        Err(Failure::handle("any"))
    }
}

/// Does something with what is behind a handle. A panic in it poisons the handle.
#[inline]
pub(crate) fn with<H: Handle, T>(
    handle: *const H,
    body: impl FnOnce(&mut H::Object) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut held = lock::<H>(find(handle)?)?;
    body(held.object::<H>()?)
}

/// Frees what is behind a handle, poisoned or not, once nobody is inside any more. NULL is fine.
pub(crate) fn free<H: Handle>(handle: *mut H) -> Result<gateway_status, Failure> {
    if handle.is_null() {
        return Ok(GATEWAY_OK);
    }
    let found = find(handle)?;
    let slot = found.slot;
    let object = {
        let mut place = slot.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.generation != found.generation || H::of(&mut place.object).is_none() {
            return Err(Failure::handle(H::NAME));
        }
        place.generation = place.generation.wrapping_add(1);
        slot.place.clear_poison();
        std::mem::take(&mut place.object)
    };
    // A gateway that goes wakes whoever waits for it, and they find the handle dead.
    drop(object);
    let mut empty = EMPTY.lock().unwrap_or_else(PoisonError::into_inner);
    if found.generation == u32::MAX {
        // Used again, it would bring its oldest handles back to life.
        empty.retired += 1;
    } else {
        empty.slots.push_back((handle.addr() as u32) >> INDEX_SHIFT);
    }
    Ok(GATEWAY_OK)
}

/// How many handles live.
pub(crate) fn live() -> u64 {
    let empty = EMPTY.lock().unwrap_or_else(PoisonError::into_inner);
    u64::from(empty.made) - u64::from(empty.retired) - empty.slots.len() as u64
}

/// Slots in a chunk.
const CHUNK: usize = 1_024;
const CHUNKS_MAX: usize = 4_096;
/// Below the index stand the bits by which a handle is told from an aligned pointer.
const INDEX_SHIFT: u32 = 4;
const TAG_MASK: u64 = 0xf;
const TAG: u64 = 0x5;

const _: () = assert!(CHUNK * CHUNKS_MAX <= 1 << (32 - INDEX_SHIFT), "an index has room between generation and tag");
const _: () = assert!(usize::BITS == 64, "a handle is a 64-bit number");

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> *mut gateway_limiter {
        insert(RateLimiter::new(libgateway::RateLimit::default(), libgateway::Timestamp::EPOCH)).unwrap()
    }

    fn status<T>(result: Result<T, Failure>) -> gateway_status {
        result.map_or_else(|failure| failure.status, |_| GATEWAY_OK)
    }

    fn ask(handle: *mut gateway_limiter) -> gateway_status {
        status(with(handle, |_| Ok(())))
    }

    #[test]
    fn a_freed_handle_stays_dead_however_often_its_slot_is_used_again() {
        let dead = limiter();
        assert_eq!(ask(dead), GATEWAY_OK);
        assert_eq!(status(free(dead)), GATEWAY_OK);
        for _ in 0..10_000 {
            assert_eq!(ask(dead), GATEWAY_INVALID_HANDLE);
            assert_eq!(status(free(dead)), GATEWAY_INVALID_HANDLE);
            let other = limiter();
            assert_ne!(other, dead);
            assert_eq!(status(free(other)), GATEWAY_OK);
        }
    }

    #[test]
    fn another_kind_a_made_up_number_and_null_are_told_apart_from_a_handle() {
        let limiter = limiter();
        assert_eq!(status(with(limiter.cast::<gateway_breaker>(), |_| Ok(()))), GATEWAY_INVALID_HANDLE);
        assert_eq!(status(free(limiter.cast::<gateway_breaker>())), GATEWAY_INVALID_HANDLE);
        for number in [1, 5, 0x15, 16, usize::MAX, limiter.addr() + 16, limiter.addr() ^ (1 << 32), limiter.addr() - 1]
        {
            assert_eq!(ask(std::ptr::without_provenance_mut(number)), GATEWAY_INVALID_HANDLE, "{number:x}");
        }
        assert_eq!(ask(std::ptr::null_mut()), GATEWAY_BAD_POINTER);
        assert_eq!(status(free(std::ptr::null_mut::<gateway_limiter>())), GATEWAY_OK);
        assert_eq!(status(free(limiter)), GATEWAY_OK);
    }

    #[test]
    fn a_panic_poisons_its_handle_alone_and_freeing_heals_the_slot() {
        let (bad, good) = (limiter(), limiter());
        let panicked =
            crate::guard::guard(|| with(bad, |_| -> Result<gateway_status, Failure> { panic!("on purpose") }));
        assert_eq!(panicked, GATEWAY_PANIC);
        assert_eq!(ask(bad), GATEWAY_POISONED);
        assert_eq!(ask(good), GATEWAY_OK);
        assert_eq!(status(free(bad)), GATEWAY_OK);
        assert_eq!(ask(bad), GATEWAY_INVALID_HANDLE);
        assert_eq!(status(free(good)), GATEWAY_OK);
        let again = limiter();
        assert_eq!(ask(again), GATEWAY_OK);
        assert_eq!(status(free(again)), GATEWAY_OK);
    }

    #[test]
    fn freeing_while_others_are_inside_lets_them_finish() {
        let address = limiter().addr();
        let ends: Vec<gateway_status> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(move || {
                        let mut calls = 0_u32;
                        while ask(std::ptr::without_provenance_mut(address)) == GATEWAY_OK {
                            calls += 1;
                            if calls == 1_000 {
                                let handle = std::ptr::without_provenance_mut::<gateway_limiter>(address);
                                return status(free(handle));
                            }
                        }
                        GATEWAY_INVALID_HANDLE
                    })
                })
                .collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        assert_eq!(ends.iter().filter(|status| **status == GATEWAY_OK).count(), 1, "one of them frees it: {ends:?}");
    }
}
