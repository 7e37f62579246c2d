//! What functions return: one number, the same as in Rust, Python and HTTP.

use std::ffi::{CString, c_char};

use libgateway::error;

use crate::fork::Raced;

/// What a function returns. 0: done. Positive: not done, and that is no error (nothing there, not yet, denied).
/// Negative: an error, nothing has changed; `gateway_last_error_message` tells more. From -201 down the numbers are the
/// library's fixed error numbers with a minus, the same in every language.
#[allow(non_camel_case_types)]
pub type gateway_status = i32;

/// Done.
pub const GATEWAY_OK: i32 = 0;
/// Nothing can run now, or what was waited for has not come. Ask again after the next change or at the instant told.
pub const GATEWAY_WAIT: i32 = 1;
/// There is no such thing: no event, no position, no job of that id, an empty queue.
pub const GATEWAY_NONE: i32 = 2;
/// The limiter or breaker says no, until the instant told.
pub const GATEWAY_DENIED: i32 = 3;
/// The limiter says no for ever: the cost is above the burst, or the tokens never come.
pub const GATEWAY_NEVER: i32 = 4;
/// The keyed limiter has no room for a new key until the instant told.
pub const GATEWAY_NO_ROOM: i32 = 5;

/// A pointer that has to be there is NULL, or is not aligned for what it points to.
pub const GATEWAY_BAD_POINTER: i32 = -1;
/// Not a live handle of this kind: freed, of another kind, or never given out by this library.
pub const GATEWAY_INVALID_HANDLE: i32 = -2;
/// The buffer is too small. Nothing was written to it; `*needed` tells how much it takes.
pub const GATEWAY_BUFFER_TOO_SMALL: i32 = -3;
/// A text is not UTF-8.
pub const GATEWAY_NOT_UTF8: i32 = -4;
/// A struct's `size` cannot be: not set by its `_INIT` macro, or of a newer header that sets what this library does not
/// know.
pub const GATEWAY_BAD_SIZE: i32 = -5;
/// The library has a defect and caught itself. The handle answers `GATEWAY_POISONED` from now on. Please report the
/// message.
pub const GATEWAY_PANIC: i32 = -6;
/// The call came from inside a transaction's callback, where only its `gateway_tx` and the parts that stand alone may be
/// used.
pub const GATEWAY_REENTERED: i32 = -7;
/// The system gives no random bytes.
pub const GATEWAY_NO_ENTROPY: i32 = -8;
/// There are as many handles as there can be (4 194 304): somebody does not free them. A command whose answer is a handle
/// was not done.
pub const GATEWAY_TOO_MANY_HANDLES: i32 = -9;
/// The handle was made before this process was forked from another one, where it lives on. See "Forks" at the top of this
/// header.
pub const GATEWAY_FORKED: i32 = -10;

/// A value is empty.
pub const GATEWAY_EMPTY: i32 = -201;
/// A value is longer than its limit.
pub const GATEWAY_TOO_LONG: i32 = -202;
/// A text has a character that is not allowed in it.
pub const GATEWAY_CHARACTER: i32 = -203;
/// A number is outside its range.
pub const GATEWAY_OUT_OF_RANGE: i32 = -204;
/// A sum or product does not fit into 64 bits.
pub const GATEWAY_OVERFLOW: i32 = -205;
/// A text does not have the form it must have.
pub const GATEWAY_MALFORMED: i32 = -206;
/// Two values contradict each other.
pub const GATEWAY_CONTRADICTION: i32 = -207;
/// The same value stands twice in a list.
pub const GATEWAY_REPEATED: i32 = -208;
/// A bounded table is full; the error's field tells which.
pub const GATEWAY_FULL: i32 = -301;
/// The idempotency key stands for another payload, route or priority.
pub const GATEWAY_IDEMPOTENCY_CONFLICT: i32 = -401;
/// No backend was ever declared for the route of a submission.
pub const GATEWAY_UNKNOWN_ROUTE: i32 = -402;
/// The id stands for another job.
pub const GATEWAY_DUPLICATE_JOB: i32 = -403;
/// The lease has ended: stop working for it.
pub const GATEWAY_SUPERSEDED: i32 = -501;
/// This gateway never granted such a lease.
pub const GATEWAY_UNKNOWN_LEASE: i32 = -502;
/// The lease is live: what it used comes with its result.
pub const GATEWAY_STILL_LIVE: i32 = -511;
/// The lease ended too long ago for its usage to be told.
pub const GATEWAY_TOO_LATE: i32 = -512;
/// No job of that id is known, or it is no longer.
pub const GATEWAY_UNKNOWN_JOB: i32 = -601;
/// The job has ended.
pub const GATEWAY_ENDED: i32 = -602;
/// The job has not ended.
pub const GATEWAY_NOT_ENDED: i32 = -603;
/// The job's state does not allow it.
pub const GATEWAY_NOT_ALLOWED: i32 = -604;
/// The attempt is no longer the present one.
pub const GATEWAY_STALE_ATTEMPT: i32 = -605;
/// The job was preempted as often as it may be, and runs on.
pub const GATEWAY_PREEMPTED_TOO_OFTEN: i32 = -606;
/// No backend of that name is known.
pub const GATEWAY_UNKNOWN_BACKEND: i32 = -701;
/// The customer has no policy of its own.
pub const GATEWAY_UNKNOWN_CUSTOMER: i32 = -702;
/// No backend serves the route, and no job waits for one.
pub const GATEWAY_ROUTE_NOT_SERVED: i32 = -703;
/// The call was never started, or has ended already.
pub const GATEWAY_NO_START: i32 = -1101;
/// The call is open already.
pub const GATEWAY_ALREADY_STARTED: i32 = -1102;
/// A device worked longer than the call lasted.
pub const GATEWAY_USAGE_EXCEEDS_ELAPSED: i32 = -1103;
/// Usage times price does not fit into 64 bits.
pub const GATEWAY_CHARGE_OVERFLOW: i32 = -1104;
/// No such batch was ever handed out.
pub const GATEWAY_UNKNOWN_BATCH: i32 = -1111;
/// The batch was given back; its entries are handed out again.
pub const GATEWAY_BATCH_SUPERSEDED: i32 = -1112;
/// An entry that somebody may have seen cannot be taken back.
pub const GATEWAY_HANDED_OUT: i32 = -1113;
/// The snapshot ends too early.
pub const GATEWAY_TRUNCATED: i32 = -1201;
/// The bytes are no snapshot.
pub const GATEWAY_NOT_A_SNAPSHOT: i32 = -1202;
/// A newer library made the snapshot.
pub const GATEWAY_NEWER_VERSION: i32 = -1203;
/// The snapshot was altered: its digest does not fit.
pub const GATEWAY_ALTERED: i32 = -1204;
/// The snapshot contradicts itself.
pub const GATEWAY_CORRUPT: i32 = -1205;
/// The gateway was given a command while its snapshot was taken in slices.
pub const GATEWAY_CHANGED: i32 = -1206;
/// The text is no command.
pub const GATEWAY_NOT_A_COMMAND: i32 = -1301;
/// The bytes are no command.
pub const GATEWAY_BAD_BYTES: i32 = -1302;
/// The entry is not the next one of the log: it was applied before, or one before it was not.
pub const GATEWAY_OUT_OF_SEQUENCE: i32 = -1303;
/// Something a transaction as data needs is not there now. The functions of this header answer `GATEWAY_WAIT` instead.
pub const GATEWAY_NOT_NOW: i32 = -1401;
/// There is no step in the transaction.
pub const GATEWAY_NO_STEP: i32 = -1402;
/// The transaction has more steps than the gateway's `steps_max`.
pub const GATEWAY_TOO_MANY_STEPS: i32 = -1403;
/// A call on this handle panicked before: its state is not to be trusted. Free it, and restore from a snapshot or log.
pub const GATEWAY_POISONED: i32 = -1501;

/// The name of a status in lower case, "invalid_handle" for `GATEWAY_INVALID_HANDLE`; "unknown" for a number that is
/// none. A static string: do not free it.
///
/// Cannot fail. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_status_name(status: gateway_status) -> *const c_char {
    let name = NAMES.get_or_make(names).iter().find(|(own, _)| *own == status).map_or(c"unknown", |(_, name)| name);
    name.as_ptr()
}

/// The statuses that only this edge has, with their names.
pub(crate) const EDGE: &[(gateway_status, &str)] = &[
    (GATEWAY_OK, "ok"),
    (GATEWAY_WAIT, "wait"),
    (GATEWAY_NONE, "none"),
    (GATEWAY_DENIED, "denied"),
    (GATEWAY_NEVER, "never"),
    (GATEWAY_NO_ROOM, "no_room"),
    (GATEWAY_BAD_POINTER, "bad_pointer"),
    (GATEWAY_INVALID_HANDLE, "invalid_handle"),
    (GATEWAY_BUFFER_TOO_SMALL, "buffer_too_small"),
    (GATEWAY_NOT_UTF8, "not_utf8"),
    (GATEWAY_BAD_SIZE, "bad_size"),
    (GATEWAY_PANIC, "panic"),
    (GATEWAY_REENTERED, "reentered"),
    (GATEWAY_NO_ENTROPY, "no_entropy"),
    (GATEWAY_TOO_MANY_HANDLES, "too_many_handles"),
    (GATEWAY_FORKED, "forked"),
];

/// Every name once, with the NUL that C wants.
static NAMES: Raced<Vec<(gateway_status, CString)>> = Raced::new();

fn names() -> Vec<(gateway_status, CString)> {
    let core = error::all().map(|(number, name)| (-gateway_status::from(number as i16), name));
    let all = EDGE.iter().copied().chain(core);
    all.map(|(status, name)| (status, CString::new(name).unwrap_or_default())).collect()
}
