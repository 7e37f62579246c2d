//! Calls from here into Python code, and how the end of the interpreter and a fork come past them.
//!
//! Up to Python 3.13 a thread that wants to go on while the interpreter ends is unwound by `pthread_exit`. That aborts the
//! process where it meets a frame of Rust, and it does wherever Rust has called something that gives the interpreter away:
//! Python code, or C that waits. So each such call is a [`Calling`]. When the interpreter ends it waits until none is left and
//! lets no new ones begin, which is what PEP 788 is for, made by hand.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::park_timeout;
use std::time::Duration;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Threads that are inside such a call.
static CALLING: AtomicUsize = AtomicUsize::new(0);
/// Whether the interpreter is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many such calls this thread is inside of.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Whether this thread has no gate before it: it ends the interpreter, or has waited already.
    static FREE: Cell<bool> = const { Cell::new(false) };
}

/// A stretch in which Rust may have Python code above it on the stack.
pub(crate) struct Calling {
    /// It is counted in the thread that began it.
    _thread: PhantomData<*const ()>,
}

impl Calling {
    /// Begins one. A thread that does so while the interpreter is about to end is kept here, and ends here.
    #[inline]
    pub(crate) fn begin(py: Python<'_>) -> Self {
        let depth = DEPTH.get();
        if depth == 0 {
            // Counted first and looked after that: either this sees the end coming or the end sees this.
            CALLING.fetch_add(1, Ordering::SeqCst);
            if ENDING.load(Ordering::SeqCst) && !FREE.get() {
                gate(py);
            }
        }
        DEPTH.set(depth + 1);
        Self { _thread: PhantomData }
    }
}

impl Drop for Calling {
    #[inline]
    fn drop(&mut self) {
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        if depth == 0 {
            CALLING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Waits for the end, without the interpreter. Where it does not come (an exit handler that was registered before this package
/// was imported waits for this very thread, or somebody ran the handlers by hand), the thread goes on as if nothing were.
#[cold]
fn gate(py: Python<'_>) {
    CALLING.fetch_sub(1, Ordering::SeqCst);
    py.detach(|| nap_until(|| !ENDING.load(Ordering::SeqCst)));
    FREE.set(true);
    CALLING.fetch_add(1, Ordering::SeqCst);
}

/// Called by the interpreter as it begins to end: waits until no other thread is inside a call, and keeps all from beginning
/// one. A call that does not come back is waited for in vain, so that is bounded. Whether none is left.
#[pyfunction]
pub(crate) fn _ending(py: Python<'_>) -> bool {
    FREE.set(true);
    ENDING.store(true, Ordering::SeqCst);
    let own = usize::from(DEPTH.get() > 0);
    py.detach(|| nap_until(|| CALLING.load(Ordering::SeqCst) <= own))
}

/// In a child process no thread is left but this one.
pub(crate) fn forked() {
    CALLING.store(usize::from(DEPTH.get() > 0), Ordering::SeqCst);
    ENDING.store(false, Ordering::SeqCst);
    FREE.set(false);
}

/// Refuses to be loaded by a second interpreter of this process: classes and what is kept here are those of the first.
///
/// The package refuses all but the main interpreter before it comes to this; that takes a module which a build of Python may
/// lack.
pub(crate) fn refuse_second(py: Python<'_>) -> PyResult<()> {
    static OWNER: Kept<Py<PyAny>> = Kept::new();
    let sys = py.import("sys")?.into_any();
    match OWNER.keep(sys.clone().unbind()).is(&sys) {
        true => Ok(()),
        false => {
            Err(PyImportError::new_err("libgateway works in one interpreter of a process and not in sub-interpreters"))
        }
    }
}

fn nap_until(done: impl Fn() -> bool) -> bool {
    for _ in 0..NAPS_MAX {
        if done() {
            return true;
        }
        park_timeout(NAP);
    }
    false
}

/// Something of Python's that is looked up when it is first needed, and kept.
///
/// Two threads may both look it up, and the first to be done is right. Neither waits for the other: that one may have been left
/// behind by a fork, or be this one, further down its stack.
pub(crate) struct Kept<T>(OnceLock<T>);

impl<T> Kept<T> {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.get()
    }

    /// The value that is kept: this one, unless there is one already.
    pub(crate) fn keep(&self, value: T) -> &T {
        self.0.get_or_init(|| value)
    }

    #[inline]
    pub(crate) fn get_or(&self, py: Python<'_>, find: impl FnOnce() -> PyResult<T>) -> PyResult<&T> {
        match self.get() {
            Some(value) => Ok(value),
            None => {
                let _calling = Calling::begin(py);
                find().map(|value| self.keep(value))
            }
        }
    }
}

impl Kept<Py<PyType>> {
    /// The class of that name.
    #[inline]
    pub(crate) fn class<'py>(&self, py: Python<'py>, module: &str, name: &str) -> PyResult<&Bound<'py, PyType>> {
        let class = self.get_or(py, || Ok(py.import(module)?.getattr(name)?.cast_into::<PyType>()?.unbind()))?;
        Ok(class.bind(py))
    }
}

const NAP: Duration = Duration::from_millis(1);
/// Some five seconds.
const NAPS_MAX: u32 = 5_000;
