//! Handles: numbers that look like pointers to C, and that nobody can follow but this file.
//!
//! Every object lives in a slot of a table that is never given back, each slot with a lock of its own. A handle is the
//! number of a slot, the kind of what is in it and its generation. The slot knows the one number that is live, so a freed
//! handle, one of another kind and a made-up one are told from it before any lock is taken; and freeing waits for whoever
//! is inside, because both take the slot's lock. That lock is also the only one a call takes.
//!
//! A forked child has a table of its own that begins where that of its parent ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libgateway::{
    Backoff, BillingCollector, CircuitBreaker, FairQueue, Histogram, JobStore, KeyedRateLimiter, Lease, RateLimiter,
    Slices, TakenSettlements, Watch, WindowLimiter,
};

use crate::bell::{self, Waiting};
use crate::failure::Failure;
use crate::fork::{self, Raced};
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

        /// The kinds, numbered as their handles are.
        enum Kind {
            $($variant,)+
        }

        $(impl Handle for $tag {
            type Object = $object;
            const NAME: &'static str = $name;
            const KIND: u64 = Kind::$variant as u64;

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
    /// The number of its kind, that every handle carries.
    const KIND: u64;

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
    /// The handle that is live; 0: none. Written under the lock, and read without: what is no handle takes none.
    live: AtomicU64,
    /// How often all calls that wait for what is in it were ended.
    pub(crate) ends: AtomicU32,
    place: Mutex<Place>,
}

pub(crate) struct Place {
    /// Rises when the slot is emptied: no handle is given out twice.
    generation: u32,
    object: Object,
}

/// Where a live handle points.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    slot: &'static Slot,
    number: u64,
}

/// Why a handle points nowhere.
pub(crate) enum Dead {
    Null,
    /// It lives in the process this one was forked from.
    Forked,
    /// Freed, of another kind, or never given out.
    Invalid,
}

impl Dead {
    pub(crate) fn status(&self) -> gateway_status {
        match self {
            Self::Null => GATEWAY_BAD_POINTER,
            Self::Forked => GATEWAY_FORKED,
            Self::Invalid => GATEWAY_INVALID_HANDLE,
        }
    }

    #[cold]
    pub(crate) fn failure(self, name: &str) -> Failure {
        match self {
            Self::Null => Failure::pointer(name),
            Self::Forked => Failure::forked(name),
            Self::Invalid => Failure::handle(name),
        }
    }
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

    /// Begins to wait: [`end_waits`] is heard from now on.
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting::new(self.found.slot)
    }

    /// Lets go of the lock while it sleeps until its bell is rung, and looks whether the handle still lives.
    pub(crate) fn wait(
        mut self,
        waiting: &Waiting,
        at_most: Option<std::time::Duration>,
        name: &str,
    ) -> Result<Self, Failure> {
        waiting.prepare();
        drop(self.place.take());
        waiting.sleep(at_most);
        let Found { slot, number } = self.found;
        let place = slot.place.lock().map_err(|_| Failure::poisoned())?;
        if slot.live.load(Ordering::Relaxed) != number {
            return Err(Failure::handle(name));
        }
        self.place = Some(place);
        Ok(self)
    }
}

/// Slots, so many at a time; a chunk is made when the first of its slots is needed.
static CHUNKS: [OnceLock<Box<[Slot]>>; CHUNKS_MAX] = [const { OnceLock::new() }; CHUNKS_MAX];
/// How many slots there are. Written under the lock of the present [`Table`].
static MADE: AtomicU32 = AtomicU32::new(0);
/// The first slot that is this process's own; those below were its parent's.
static OWN: AtomicU32 = AtomicU32::new(0);
/// Which slots are empty, in this process.
static TABLE: Raced<Table> = Raced::new();

struct Table {
    /// The process it belongs to, as [`fork::forks`] counts.
    forks: u32,
    empty: Mutex<Empty>,
    /// That of the parent: nothing is lost, as tools that look for leaks see it.
    _before: Option<&'static Self>,
}

/// Empty slots, the one longest empty first.
#[derive(Default)]
struct Empty {
    slots: VecDeque<u32>,
    /// Slots whose generations are used up.
    retired: u32,
    /// Places that were reserved and are not filled yet.
    promised: u32,
    /// Places that a test leaves unused.
    #[cfg(feature = "testing")]
    withheld: u32,
}

impl Empty {
    /// How many more handles there can be.
    fn left(&self) -> u32 {
        let never_used = (CHUNKS_MAX * CHUNK) as u32 - MADE.load(Ordering::Relaxed);
        let left = (never_used + self.slots.len() as u32).saturating_sub(self.promised);
        #[cfg(feature = "testing")]
        let left = left.saturating_sub(self.withheld);
        left
    }

    /// The slot for another object: a new one as long as the latest chunk has one, so that none is used again soon.
    fn take(&mut self) -> Option<u32> {
        let made = MADE.load(Ordering::Relaxed);
        let chunk_has_room = made as usize % CHUNK != 0;
        if !chunk_has_room {
            if let Some(index) = self.slots.pop_front() {
                return Some(index);
            }
        }
        if made as usize == CHUNKS_MAX * CHUNK {
            return None;
        }
        MADE.store(made + 1, Ordering::Relaxed);
        Some(made)
    }
}

/// The table of this process, locked.
fn table() -> MutexGuard<'static, Empty> {
    let own = |table: &&'static Table| table.forks == fork::forks();
    let table = TABLE.get().filter(own).unwrap_or_else(|| {
        fork::count();
        let before = TABLE.get();
        TABLE.replace(before, Table { forks: fork::forks(), empty: Mutex::default(), _before: before })
    });
    table.empty.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves all slots to the process this one was forked from, with a chunk that may be half made. Takes no lock.
pub(crate) fn leave_to_the_parent() {
    let made = MADE.load(Ordering::Relaxed).next_multiple_of(CHUNK as u32);
    MADE.store(made, Ordering::Relaxed);
    OWN.store(made, Ordering::Relaxed);
}

/// Places for handles: who has them can make so many, whatever others do. A command whose answer is a handle reserves one
/// before it begins, and so changes nothing where there is none.
pub(crate) struct Places(u32);

/// Reserves places for so many handles.
pub(crate) fn reserve(count: u32) -> Result<Places, Failure> {
    let mut empty = table();
    if empty.left() < count {
        let message = "there is no room for another handle";
        return Err(Failure::edge(GATEWAY_TOO_MANY_HANDLES, None, message));
    }
    empty.promised += count;
    Ok(Places(count))
}

impl Places {
    /// Puts an object into the table.
    pub(crate) fn fill<H: Handle>(&mut self, object: H::Object) -> *mut H {
        assert!(self.0 > 0, "no more handles are made than places were reserved");
        let object = H::wrap(object);
        let index = {
            let mut empty = table();
            empty.promised -= 1;
            self.0 -= 1;
            empty.take()
        };
        #[expect(clippy::expect_used, reason = "no place is promised twice")]
        let index = index.expect("a promised place is there");
        let slot = &chunk(index)[index as usize % CHUNK];
        let mut place = slot.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.object = object;
        let own = u64::from(index) << INDEX_SHIFT | H::KIND << KIND_SHIFT | TAG;
        let number = u64::from(place.generation) << 32 | own;
        slot.live.store(number, Ordering::Release);
        std::ptr::without_provenance_mut(number as usize)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if self.0 > 0 {
            table().promised -= self.0;
        }
    }
}

/// Puts an object into the table and its handle where the caller wants it.
pub(crate) fn create<H: Handle>(object: H::Object, out: Out<*mut H>) -> Result<(), Failure> {
    out.set(reserve(1)?.fill(object));
    Ok(())
}

fn chunk(index: u32) -> &'static [Slot] {
    CHUNKS[index as usize / CHUNK].get_or_init(|| {
        let empty = || Place { generation: 1, object: Object::Nothing };
        let slot = || Slot { live: AtomicU64::new(0), ends: AtomicU32::new(0), place: Mutex::new(empty()) };
        (0..CHUNK).map(|_| slot()).collect()
    })
}

/// Where a number points, if it is a live handle of any kind. Takes no lock, so it may be asked anywhere.
#[inline]
fn seek(number: u64) -> Result<Found, Dead> {
    let index = number as u32 >> INDEX_SHIFT;
    let slots = CHUNKS.get(index as usize / CHUNK).and_then(OnceLock::get);
    match slots.and_then(|slots| slots.get(index as usize % CHUNK)) {
        // A handle is never 0, so no number is that of an empty slot.
        Some(slot) if number != 0 && slot.live.load(Ordering::Acquire) == number => {
            if index < OWN.load(Ordering::Relaxed) { Err(Dead::Forked) } else { Ok(Found { slot, number }) }
        }
        _ if number == 0 => Err(Dead::Null),
        _ => Err(Dead::Invalid),
    }
}

/// Where a handle points, if it is a live one of its kind.
#[inline]
fn seek_kind<H: Handle>(handle: *const H) -> Result<Found, Dead> {
    let number = handle.addr() as u64;
    match seek(number) {
        Ok(_) | Err(Dead::Forked) if number & KIND_MASK != H::KIND << KIND_SHIFT => Err(Dead::Invalid),
        found => found,
    }
}

/// Where a handle points.
#[inline]
pub(crate) fn find<H: Handle>(handle: *const H) -> Result<Found, Failure> {
    seek_kind(handle).map_err(|dead| dead.failure(H::NAME))
}

/// Locks what is behind a handle.
#[inline]
pub(crate) fn lock<H: Handle>(found: Found) -> Result<Held, Failure> {
    let held = hold(found, H::NAME)?;
    if held.found.slot.place.is_poisoned() { Err(Failure::poisoned()) } else { Ok(held) }
}

/// Locks what is behind a handle, poisoned or not.
#[inline]
fn hold(found: Found, name: &str) -> Result<Held, Failure> {
    let place = found.slot.place.lock().unwrap_or_else(PoisonError::into_inner);
    if found.slot.live.load(Ordering::Relaxed) == found.number {
        Ok(Held { place: Some(place), found })
    } else {
        Err(Failure::handle(name))
    }
}

/// Locks a live handle of any kind.
#[cfg(feature = "testing")]
pub(crate) fn hold_any(handle: *const std::ffi::c_void) -> Result<Held, Failure> {
    let found = seek(handle.addr() as u64).map_err(|dead| dead.failure("handle"))?;
    let held = hold(found, "handle")?;
    if found.slot.place.is_poisoned() { Err(Failure::poisoned()) } else { Ok(held) }
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

/// Ends all calls that wait for what is behind a handle. Takes no lock and no memory, and leaves no last error.
pub(crate) fn end_waits<H: Handle>(handle: *const H) -> Result<gateway_status, Dead> {
    let slot = seek_kind(handle)?.slot;
    if slot.place.is_poisoned() {
        return Ok(GATEWAY_POISONED);
    }
    slot.ends.fetch_add(1, Ordering::SeqCst);
    bell::ring_all(slot);
    Ok(GATEWAY_OK)
}

/// Frees what is behind a handle, poisoned or not, once nobody is inside any more. NULL is fine.
pub(crate) fn free<H: Handle>(handle: *mut H) -> Result<gateway_status, Failure> {
    if handle.is_null() {
        return Ok(GATEWAY_OK);
    }
    let mut held = hold(find(handle)?, H::NAME)?;
    let slot = held.found.slot;
    let place = held.place.as_mut().ok_or_else(|| Failure::handle(H::NAME))?;
    let last = place.generation == u32::MAX;
    place.generation = place.generation.wrapping_add(1);
    let object = std::mem::take(&mut place.object);
    slot.live.store(0, Ordering::Relaxed);
    slot.place.clear_poison();
    drop(held);
    // A gateway that goes wakes whoever waits for it, and they find the handle dead.
    drop(object);
    let mut empty = table();
    if last {
        // Used again, it would bring its oldest handles back to life.
        empty.retired += 1;
    } else {
        empty.slots.push_back((handle.addr() as u32) >> INDEX_SHIFT);
    }
    Ok(GATEWAY_OK)
}

/// How many handles of this process live.
pub(crate) fn live() -> u64 {
    let empty = table();
    let made = MADE.load(Ordering::Relaxed) - OWN.load(Ordering::Relaxed);
    u64::from(made) - u64::from(empty.retired) - empty.slots.len() as u64
}

/// Leaves room for so many more handles.
#[cfg(feature = "testing")]
pub(crate) fn leave_room_for(handles: u32) {
    let mut empty = table();
    empty.withheld = 0;
    empty.withheld = empty.left().saturating_sub(handles);
}

/// Slots in a chunk.
const CHUNK: usize = 1_024;
const CHUNKS_MAX: usize = 4_096;
/// Below the index stands the kind, and below that the bits by which a handle is told from an aligned pointer.
const INDEX_SHIFT: u32 = 10;
const KIND_SHIFT: u32 = 4;
const KIND_MASK: u64 = ((1 << INDEX_SHIFT) - 1) & !0xf;
const TAG: u64 = 0x5;

const _: () = assert!(CHUNK * CHUNKS_MAX <= 1 << (32 - INDEX_SHIFT), "an index has room between generation and kind");
const _: () = assert!(size_of::<Slot>() <= 48, "what a slot costs for ever");
const _: () = assert!(usize::BITS == 64, "a handle is a 64-bit number");

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> *mut gateway_limiter {
        let limiter = RateLimiter::new(libgateway::RateLimit::default(), libgateway::Timestamp::EPOCH);
        reserve(1).unwrap().fill(limiter)
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
