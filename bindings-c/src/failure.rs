//! Why a call failed, and where C asks for it: the last error of each thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libgateway::error::{
    BillingError, Coded, CommandError, Error, ErrorReply, FleetError, InputError, JobError, LeaseError, OutboxError,
    Poisoned, QueueError, SnapshotError, SubmitError, TransactionError,
};

use crate::guard::guard;
use crate::input::{Out, instant_or_forever};
use crate::output::copy_text;
use crate::status::*;

/// What a call answers in place of a result.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: gateway_status,
    reply: ErrorReply,
}

thread_local! {
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

impl Failure {
    /// A failure that only this edge knows. Its number is that of the status without the minus.
    pub(crate) fn edge(status: gateway_status, field: Option<&str>, message: impl Into<String>) -> Self {
        let name = EDGE.iter().find(|(own, _)| *own == status).map_or("unknown", |(_, name)| name);
        let number = u16::try_from(status.unsigned_abs()).unwrap_or(u16::MAX);
        let reply = ErrorReply {
            number,
            name: name.to_owned(),
            field: field.map(str::to_owned),
            message: message.into(),
            limit: None,
        };
        Self { status, reply }
    }

    /// A pointer that has to be there and is not.
    pub(crate) fn pointer(field: &str) -> Self {
        Self::edge(GATEWAY_BAD_POINTER, Some(field), format!("{field} is NULL or misaligned"))
    }

    /// An integer that stands for nothing.
    pub(crate) fn range(field: &'static str, value: u64, min: u64, max: u64) -> Self {
        InputError::OutOfRange { field, value, min, max }.into()
    }

    pub(crate) fn handle(name: &str) -> Self {
        Self::edge(GATEWAY_INVALID_HANDLE, None, format!("this is no live {name} handle"))
    }

    pub(crate) fn forked(name: &str) -> Self {
        let message = format!("this {name} was made before the process was forked, and lives in the parent alone");
        Self::edge(GATEWAY_FORKED, None, message)
    }

    pub(crate) fn poisoned() -> Self {
        Poisoned.into()
    }

    pub(crate) fn reentered() -> Self {
        let message = "a transaction's callback may use its gateway_tx and parts that stand alone, no gateway";
        Self::edge(GATEWAY_REENTERED, None, message)
    }

    /// What was thrown, as far as it can be told.
    pub(crate) fn panic(thrown: Box<dyn Any + Send>) -> Self {
        let words = match (thrown.downcast_ref::<&str>(), thrown.downcast_ref::<String>()) {
            (Some(words), _) => (*words).to_owned(),
            (_, Some(words)) => words.clone(),
            _ => "no message".to_owned(),
        };
        // What was thrown may itself throw when it is dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(thrown))) {
            std::mem::forget(again);
        }
        Self::edge(GATEWAY_PANIC, None, format!("the library has a defect: {words}"))
    }

    fn coded<E: Coded + std::fmt::Display>(error: &E) -> Self {
        let status = -gateway_status::from(error.number());
        Self { status, reply: ErrorReply::from(error) }
    }

    /// Leaves it where this thread can ask for it.
    pub(crate) fn leave(self) -> gateway_status {
        let status = self.status;
        // While a thread ends its own memory may be gone already; the status is told all the same.
        let _ = LAST.try_with(|last| last.replace(Some(self)));
        status
    }
}

macro_rules! from_core {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::coded(&error)
            }
        })+
    };
}

from_core!(
    BillingError,
    CommandError,
    Error,
    FleetError,
    InputError,
    JobError,
    LeaseError,
    OutboxError,
    Poisoned,
    QueueError,
    SnapshotError,
    SubmitError,
    TransactionError,
);

/// Copies a part of the last error; nothing where there was none.
///
/// # Safety
/// As [`copy_text`].
unsafe fn tell(
    part: impl FnOnce(&ErrorReply) -> String,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        let text = LAST.with_borrow(|last| last.as_ref().map(|failure| part(&failure.reply)));
        // A buffer that is too small here must not overwrite the error that is asked for.
        // SAFETY: the caller's promise.
        match unsafe { copy_text(&text.unwrap_or_default(), buf, cap, needed) } {
            Err(failure) => Ok(failure.status),
            done => done,
        }
    })
}

/// The status of the last error of this thread; `GATEWAY_OK` where there was none. A call that succeeds does not
/// clear it.
///
/// Cannot fail. May be called from any thread; each thread has its own last error.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_last_error_status() -> gateway_status {
    guard(|| Ok(LAST.with_borrow(|last| last.as_ref().map_or(GATEWAY_OK, |failure| failure.status))))
}

/// Forgets the last error of this thread.
///
/// Cannot fail. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_last_error_clear() {
    let _ = LAST.try_with(|last| last.replace(None));
}

/// The message of the last error of this thread, for people: lower case, no full stop. An empty text where there was no
/// error. Buffers work as told at the top of this header.
///
/// Errors: `GATEWAY_BUFFER_TOO_SMALL`; the last error stays the one that is asked for.
/// May be called from any thread; each thread has its own last error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_last_error_message(
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { tell(|reply| reply.message.clone(), buf, cap, needed) }
}

/// The name of the last error of this thread: "too_long". An empty text where there was no error.
///
/// Errors and threads: as `gateway_last_error_message`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_last_error_name(buf: *mut c_char, cap: usize, needed: *mut usize) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { tell(|reply| reply.name.clone(), buf, cap, needed) }
}

/// The field or parameter the last error of this thread is about: "customer". An empty text where there is none.
///
/// Errors and threads: as `gateway_last_error_message`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_last_error_field(buf: *mut c_char, cap: usize, needed: *mut usize) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { tell(|reply| reply.field.clone().unwrap_or_default(), buf, cap, needed) }
}

/// What a limit of the library says of itself that is reached: see `gateway_last_error_limit`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_full {
    /// What is in the table. Of `jobs` of a gateway: jobs that have not ended, and settlements that are not confirmed.
    pub measured: u64,
    /// The most that may be.
    pub max: u64,
    /// The first instant at which there will be room by itself; `GATEWAY_FOREVER` where that is not known. There may be
    /// earlier: a job ends, or a batch of settlements is confirmed.
    pub retry_at: u64,
    /// Whose limit it is: `GATEWAY_SCOPE_CUSTOMER`, `GATEWAY_SCOPE_GATEWAY` or `GATEWAY_SCOPE_PART`.
    pub scope: u32,
    /// 0.
    pub reserved: u32,
}

/// The limit is one of the customer: others may go on.
pub const GATEWAY_SCOPE_CUSTOMER: u32 = 0;
/// The limit is one of the whole gateway.
pub const GATEWAY_SCOPE_GATEWAY: u32 = 1;
/// The limit is one of a part that stands alone.
pub const GATEWAY_SCOPE_PART: u32 = 2;

/// The limit that the last error of this thread is about, where it is `GATEWAY_FULL`; `gateway_last_error_field` is its
/// name.
///
/// `GATEWAY_NONE`: the last error is another, or there was none. Errors: `GATEWAY_BAD_POINTER`. May be called from any
/// thread; each thread has its own last error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_last_error_limit(full: *mut gateway_full) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let full = unsafe { Out::required(full, "full") }?;
        let Some(limit) =
            LAST.with_borrow(|last| last.as_ref().and_then(|failure| failure.reply.limit.as_deref().cloned()))
        else {
            return Ok(GATEWAY_NONE);
        };
        let scope = match limit.scope.as_str() {
            "customer" => GATEWAY_SCOPE_CUSTOMER,
            "gateway" => GATEWAY_SCOPE_GATEWAY,
            _ => GATEWAY_SCOPE_PART,
        };
        let retry_at = instant_or_forever(limit.retry_at);
        full.set(gateway_full { measured: limit.measured, max: limit.max, retry_at, scope, reserved: 0 });
        Ok(GATEWAY_OK)
    })
}

/// The whole last error of this thread as JSON, as it stands in replies to commands:
/// `{"number":202,"name":"too_long","field":"customer","message":"..."}`. An empty text where there was no error.
///
/// Errors and threads: as `gateway_last_error_message`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_last_error_json(buf: *mut c_char, cap: usize, needed: *mut usize) -> gateway_status {
    // SAFETY: the caller's promise.
    unsafe { tell(|reply| serde_json::to_string(reply).unwrap_or_default(), buf, cap, needed) }
}
