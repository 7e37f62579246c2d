//! The lock round each machine, and the check that it still is in the process that made it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use libgateway::error::Poisoned;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::errors::{Own, Raise, own};

/// Rises in a child process, before any of its Python code runs.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Something that one thread at a time works on, in the process that made it.
///
/// Nothing of Python happens under the lock: the closure is `Send`, so it can touch no Python object. Making one could
/// collect garbage, garbage may have a `__del__`, and that may come back here.
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

    /// Runs `body` under the lock. A thread that has to wait for it lets the interpreter go on.
    ///
    /// # Errors
    /// `ForkedError` in a child of the process that made it: two of the same would both grant what is there once.
    /// `PoisonedError` after a panic under the lock.
    #[inline]
    pub(crate) fn with<R: Send>(&self, py: Python<'_>, body: impl Send + FnOnce(&mut T) -> R) -> PyResult<R> {
        match self.hold(py) {
            Ok(mut value) => Ok(body(&mut value)),
            Err(unusable) => Err(unusable.raise(py)),
        }
    }

    /// The lock itself, for who needs several at once: they are taken in the order of [`Guarded::place`], and nothing of
    /// Python may happen until all are given back. What is wrong is therefore data, to be raised then.
    pub(crate) fn hold(&self, py: Python<'_>) -> Result<MutexGuard<'_, T>, Unusable> {
        if self.born != FORKS.load(Ordering::Relaxed) {
            return Err(Unusable::Forked);
        }
        self.value.lock_py_attached(py).map_err(|_| Unusable::Poisoned)
    }

    /// Where it stands in the order of all locks.
    pub(crate) fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Runs `body` if nobody else is at it, for the garbage collector, which must neither wait nor fail.
    pub(crate) fn try_with(&self, body: impl FnOnce(&mut T)) {
        if let Ok(mut value) = self.value.try_lock() {
            body(&mut value);
        }
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
}
