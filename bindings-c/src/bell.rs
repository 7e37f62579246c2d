//! What a caller sleeps on that waits, and how it is woken: also by a signal handler, which may take no lock and no memory.
//!
//! Bells are never given back, so a handler may walk over all of them at any time and ring those that belong to a gateway.
//! A thread keeps the bell it got when it first waited until it ends.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use libgateway::waiting::Bell as _;

use crate::handle::Slot;

/// A bell. Rung by who holds the lock of the slot, or by a signal handler.
#[derive(Clone, Copy)]
pub(crate) struct Bell(&'static Rope);

/// What a bell is, one for each thread that ever waited at the same time as others.
struct Rope {
    /// The address of the slot its thread waits for; [`FREE`] without a thread, [`IDLE`] with one that does not wait.
    slot: AtomicUsize,
    /// 1 from the ringing on until its thread prepares to sleep again.
    rung: AtomicU32,
    /// The one that was made before it.
    next: Option<&'static Rope>,
}

const FREE: usize = 0;
const IDLE: usize = 1;

/// The one that was made last.
static ROPES: AtomicPtr<Rope> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    static OWN: Own = const { Own(Cell::new(None)) };
}

/// The bell of a thread, given back when it ends.
struct Own(Cell<Option<&'static Rope>>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(rope) = self.0.get() {
            rope.slot.store(FREE, Ordering::Release);
        }
    }
}

impl Rope {
    fn all() -> impl Iterator<Item = &'static Self> {
        // SAFETY: NULL, or what `claim` leaked.
        let last: Option<&'static Self> = unsafe { ROPES.load(Ordering::Acquire).as_ref() };
        std::iter::successors(last, |rope| rope.next)
    }

    /// One that no other thread has. Takes as long as there are bells, once for each thread.
    fn claim() -> &'static Self {
        let free =
            |rope: &&'static Self| rope.slot.compare_exchange(FREE, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if let Some(rope) = Self::all().find(free) {
            return rope;
        }
        let rope = Box::leak(Box::new(Self { slot: AtomicUsize::new(IDLE), rung: AtomicU32::new(0), next: None }));
        let mut last = ROPES.load(Ordering::Acquire);
        loop {
            // SAFETY: NULL, or what was leaked here before.
            rope.next = unsafe { last.as_ref() };
            match ROPES.compare_exchange(last, rope, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return rope,
                Err(other) => last = other,
            }
        }
    }

    /// That of this thread.
    fn of_thread() -> &'static Self {
        let own = OWN.try_with(|own| {
            let rope = own.0.get().unwrap_or_else(Self::claim);
            own.0.set(Some(rope));
            rope
        });
        // A thread that waits while it ends gets one for good.
        own.unwrap_or_else(|_| Self::claim())
    }
}

impl libgateway::waiting::Bell for Bell {
    /// Wakes who sleeps on it, or is about to.
    fn ring(&self) {
        self.0.rung.store(1, Ordering::SeqCst);
        sleep::wake(&self.0.rung);
    }
}

/// Rings the bells of all who wait for a slot. May be called from a signal handler.
pub(crate) fn ring_all(slot: &'static Slot) {
    let address = std::ptr::from_ref(slot).addr();
    for rope in Rope::all().filter(|rope| rope.slot.load(Ordering::SeqCst) == address) {
        Bell(rope).ring();
    }
}

/// A caller that waits for a slot.
pub(crate) struct Waiting {
    bell: Bell,
    slot: &'static Slot,
    /// How often all calls that wait had been ended when it began.
    ends: u32,
}

impl Waiting {
    pub(crate) fn new(slot: &'static Slot) -> Self {
        let rope = Rope::of_thread();
        rope.slot.store(std::ptr::from_ref(slot).addr(), Ordering::SeqCst);
        Self { bell: Bell(rope), slot, ends: slot.ends.load(Ordering::SeqCst) }
    }

    /// Whether somebody has ended all calls that wait since this one began.
    pub(crate) fn has_ended(&self) -> bool {
        self.slot.ends.load(Ordering::SeqCst) != self.ends
    }

    /// Called under the lock, before it is let go of to sleep: whoever rings from now on is heard. A handler counts an end
    /// before it rings, so either that is seen here, or its ringing comes after this.
    pub(crate) fn prepare(&self) {
        self.bell.0.rung.store(u32::from(false), Ordering::SeqCst);
        if self.has_ended() {
            self.bell.0.rung.store(u32::from(true), Ordering::SeqCst);
        }
    }

    /// Sleeps until the bell was rung since [`Self::prepare`], or for so long; or shorter, as sleepers do.
    pub(crate) fn sleep(&self, at_most: Option<Duration>) {
        sleep::wait(&self.bell.0.rung, at_most);
    }
}

impl Deref for Waiting {
    type Target = Bell;

    fn deref(&self) -> &Bell {
        &self.bell
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.bell.0.slot.store(IDLE, Ordering::Release);
    }
}

/// The kernel's own way to sleep on a word. What `std` has is made of it, and may not be called from a handler.
#[cfg(target_os = "linux")]
mod sleep {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::thread::futex::{Flags, Timespec, wait as futex_wait, wake as futex_wake};

    /// Sleeps while the word is 0.
    pub(super) fn wait(word: &AtomicU32, at_most: Option<Duration>) {
        let at_most = at_most.map(|at_most| Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        });
        // Whatever ended it, the caller looks for itself.
        let _ = futex_wait(word, Flags::PRIVATE, 0, at_most.as_ref());
    }

    pub(super) fn wake(word: &AtomicU32) {
        let _ = futex_wake(word, Flags::PRIVATE, 1);
    }
}

/// Elsewhere a lock for all of them; there no signal handler may wake anybody.
#[cfg(not(target_os = "linux"))]
mod sleep {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Condvar, Mutex, PoisonError};
    use std::time::Duration;

    static LOCK: Mutex<()> = Mutex::new(());
    static RUNG: Condvar = Condvar::new();

    pub(super) fn wait(word: &AtomicU32, at_most: Option<Duration>) {
        let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        if word.load(Ordering::SeqCst) == 0 {
            match at_most {
                None => drop(RUNG.wait(guard)),
                Some(at_most) => drop(RUNG.wait_timeout(guard, at_most)),
            }
        }
    }

    pub(super) fn wake(_: &AtomicU32) {
        drop(LOCK.lock());
        RUNG.notify_all();
    }
}
