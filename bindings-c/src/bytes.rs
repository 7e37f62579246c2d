//! Answers of commands whose length nobody knew before.

use std::ffi::c_void;

use crate::guard::guard;
use crate::handle::{free, gateway_bytes, live, with};
use crate::input::Out;
use crate::output::copy_bytes;
use crate::status::*;

/// How many bytes there are.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_bytes_len(bytes: *const gateway_bytes, len: *mut usize) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let len = unsafe { Out::required(len, "len") }?;
        len.set(with(bytes, |bytes| Ok(bytes.len()))?);
        Ok(GATEWAY_OK)
    })
}

/// Copies the bytes, without a NUL after them: a JSON reply is `*needed` characters long.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_bytes_copy(
    bytes: *const gateway_bytes,
    buf: *mut c_void,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    // SAFETY: the caller's promise.
    guard(|| with(bytes, |bytes| unsafe { copy_bytes(bytes, buf, cap, needed) }))
}

/// Frees the bytes. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_bytes_free(bytes: *mut gateway_bytes) -> gateway_status {
    guard(|| free(bytes))
}

/// How many handles of all kinds live in this process: 0 when everything that was made has been freed. Memory checkers
/// cannot see a forgotten handle, because the library still knows it; this can.
///
/// Cannot fail. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_handles_live() -> u64 {
    live()
}
