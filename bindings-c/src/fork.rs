//! What a forked child has of its parent: the memory as it was, locks that no thread will ever open, and no thread but one.
//!
//! So nothing of the parent's is locked or waited for in a child. What was made before is told from what was made after by
//! counting forks, and what is made once is made without a lock.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

/// How many forks lie between the process that loaded the library and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// Whether forks are counted.
static COUNTED: AtomicBool = AtomicBool::new(false);

/// How many forks lie between the process that loaded the library and this one.
#[inline]
pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Sees to it that forks are counted from now on. Called before the first handle is given out.
pub(crate) fn count() {
    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<unsafe extern "C" fn()>,
            parent: Option<unsafe extern "C" fn()>,
            child: Option<unsafe extern "C" fn()>,
        ) -> c_int;
    }
    if COUNTED.load(Ordering::Acquire) {
        return;
    }
    // Two threads may both come here. Then each fork is counted twice, which tells a child from its parent just as well.
    // SAFETY: the handler is there as long as the library is, and does what one may do between fork and exec.
    if unsafe { pthread_atfork(None, None, Some(in_child)) } == 0 {
        COUNTED.store(true, Ordering::Release);
    }
}

/// The first that happens in a child. It stores a few numbers, as any other thread may have held any lock.
unsafe extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    crate::handle::leave_to_the_parent();
}

/// Something that is made when it is first asked for. Callers that come at once each make it, and all get the first that
/// was done: so nobody waits, and a child that was forked meanwhile does not wait for ever.
pub(crate) struct Raced<T>(AtomicPtr<T>);

impl<T: Send + Sync> Raced<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// What was made, where it was.
    #[inline]
    pub(crate) fn get(&self) -> Option<&'static T> {
        // SAFETY: NULL, or what `make` or `replace` put here and nobody frees.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// What was made, or what `make` makes.
    #[inline]
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> T) -> &'static T {
        self.get().unwrap_or_else(|| self.replace(None, make()))
    }

    /// Puts `new` in the place of `old`, or takes what somebody else has put there.
    #[cold]
    pub(crate) fn replace(&self, old: Option<&'static T>, new: T) -> &'static T {
        let expected = old.map_or(std::ptr::null_mut(), |old| std::ptr::from_ref(old).cast_mut());
        let new = Box::into_raw(Box::new(new));
        match self.0.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: made above, and nobody frees it from now on.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: made above, and nobody else knows it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: what another call of this function put here.
                unsafe { &*other }
            }
        }
    }
}
