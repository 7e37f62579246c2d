//! What goes out to C: always a copy.

use std::ffi::{c_char, c_void};

use libgateway::JobId;

use crate::failure::Failure;
use crate::ids::gateway_job_id;
use crate::input::Out;
use crate::status::*;

/// Copies bytes. `*needed` is told in any case; without a buffer that is all.
///
/// # Safety
/// `buf` can be written to for `cap` bytes, or both are zero; `needed` is NULL or can be written to.
pub(crate) unsafe fn copy_bytes(
    content: &[u8],
    buf: *mut c_void,
    cap: usize,
    needed: *mut usize,
) -> Result<gateway_status, Failure> {
    // SAFETY: the caller's promise.
    unsafe { copy([content, &[]], buf.cast(), cap, needed) }
}

/// Copies a text with the NUL that ends it; `*needed` counts it.
///
/// # Safety
/// As [`copy_bytes`].
pub(crate) unsafe fn copy_text(
    content: &str,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> Result<gateway_status, Failure> {
    // SAFETY: the caller's promise.
    unsafe { copy([content.as_bytes(), b"\0"], buf.cast(), cap, needed) }
}

/// # Safety
/// As [`copy_bytes`].
unsafe fn copy(parts: [&[u8]; 2], buf: *mut u8, cap: usize, needed: *mut usize) -> Result<gateway_status, Failure> {
    // SAFETY: the caller's promise.
    let needed = unsafe { Out::optional(needed, "needed") }?;
    let len = parts[0].len() + parts[1].len();
    if buf.is_null() && cap > 0 {
        return Err(Failure::pointer("buf"));
    }
    needed.set(len);
    if buf.is_null() {
        return Ok(GATEWAY_OK);
    }
    if len > cap {
        let message = format!("the buffer has {cap} bytes, {len} are needed");
        return Err(Failure::edge(GATEWAY_BUFFER_TOO_SMALL, Some("buf"), message));
    }
    // SAFETY: `len` bytes fit into the `cap` that can be written to by the caller's promise; ours overlap with nobody's.
    unsafe {
        parts[0].as_ptr().copy_to_nonoverlapping(buf, parts[0].len());
        parts[1].as_ptr().copy_to_nonoverlapping(buf.add(parts[0].len()), parts[1].len());
    }
    Ok(GATEWAY_OK)
}

/// A text within a struct: cut where it would not fit, always ended by a NUL.
pub(crate) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    debug_assert!(text.len() < N, "{text} has a place that is long enough");
    let mut out = [0; N];
    let len = text.len().min(N.saturating_sub(1));
    if let (Some(to), Some(from)) = (out.get_mut(..len), text.as_bytes().get(..len)) {
        to.copy_from_slice(from);
    }
    out.map(|byte: u8| byte as c_char)
}

pub(crate) fn id_out(id: JobId) -> gateway_job_id {
    let bits = id.as_u128();
    gateway_job_id { high: (bits >> 64) as u64, low: bits as u64 }
}
