//! The lock round each machine, and the check that it still is in the process that made it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use libgateway::error::Poisoned;
use pyo3::prelude::*;

use crate::errors::{Own, Raise, own};

/// Rises in a child process, before any of its Python code runs. The interpreter says so, also to hosts that fork by
/// themselves and tell it (`PyOS_AfterFork_Child`); asking for the process id would cost a system call each time.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Something that one thread at a time works on, in the process that made it.
///
/// Nothing of Python happens under the lock: the closure is `Send`, so it can touch no Python object. Making one could
/// collect garbage, garbage may have a `__del__`, and that may come back here. And nothing of Python stands in it: the garbage
/// collector has to see all references each time it looks, and could not where the lock is taken.
pub(crate) struct Guarded<T> {
    value: Mutex<T>,
    born: u32,
}

/// Why something cannot be worked on.
#[derive(Clone, Copy)]
pub(crate) enum Unusable {
    Forked,
    Poisoned,
}

impl Unusable {
    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Forked => own(py, Own::Forked),
            Self::Poisoned => Poisoned.raise(py),
        }
    }
}

impl<T: Send> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), born: FORKS.load(Ordering::Relaxed) }
    }

    /// Runs `body` under the lock, for work of microseconds.
    ///
    /// # Errors
    /// `ForkedError` in a child of the process that made it: two of the same would both grant what is there once.
    /// `PoisonedError` after a panic under the lock.
    #[inline]
    pub(crate) fn with<R: Send>(&self, py: Python<'_>, body: impl Send + FnOnce(&mut T) -> R) -> PyResult<R> {
        match self.try_hold() {
            Some(Ok(mut value)) => Ok(body(&mut value)),
            Some(Err(unusable)) => Err(unusable.raise(py)),
            None => self.with_long(py, body),
        }
    }

    /// The same for work that grows with what there is: other threads of Python go on meanwhile. The lock is free again before
    /// the thread comes back: one that is not let back in, because the interpreter ends, must not take it along.
    ///
    /// # Errors
    /// As [`Guarded::with`].
    pub(crate) fn with_long<R: Send>(&self, py: Python<'_>, body: impl Send + FnOnce(&mut T) -> R) -> PyResult<R> {
        let done = py.detach(|| self.hold().map(|mut value| body(&mut value)));
        done.map_err(|unusable| unusable.raise(py))
    }

    /// The lock itself, for who needs several at once: they are taken in the order of [`Guarded::place`], and nothing of
    /// Python may happen until all are given back. What is wrong is therefore data, to be raised then. `None`: somebody else
    /// is at it.
    #[inline]
    pub(crate) fn try_hold(&self) -> Option<Result<MutexGuard<'_, T>, Unusable>> {
        if self.born != FORKS.load(Ordering::Relaxed) {
            return Some(Err(Unusable::Forked));
        }
        match self.value.try_lock() {
            Ok(value) => Some(Ok(value)),
            Err(TryLockError::Poisoned(_)) => Some(Err(Unusable::Poisoned)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The same for a thread without the interpreter: it waits.
    pub(crate) fn hold(&self) -> Result<MutexGuard<'_, T>, Unusable> {
        if self.born != FORKS.load(Ordering::Relaxed) {
            return Err(Unusable::Forked);
        }
        self.value.lock().map_err(|_| Unusable::Poisoned)
    }

    /// Where it stands in the order of all locks.
    pub(crate) fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// How many forks this process is away from the first that imported the module.
pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Called by the interpreter in a child process.
#[pyfunction]
pub(crate) fn _forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    crate::calling::forked();
}
