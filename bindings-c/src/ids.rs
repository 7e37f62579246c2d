//! Ids of jobs: 128 bits of somebody's dice.

use std::ffi::c_char;
use std::fs::File;
use std::io::Read;

use libgateway::JobId;

use crate::failure::Failure;
use crate::guard::guard;
use crate::input::{Out, job_id, text};
use crate::output::{copy_text, id_out};
use crate::status::*;

/// The id of a job: 128 random bits, shown as "j_" and 26 characters.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gateway_job_id {
    /// The upper 64 bits.
    pub high: u64,
    /// The lower 64 bits.
    pub low: u64,
}

/// Bytes an id takes as text, with its NUL.
pub const GATEWAY_JOB_ID_CAP: usize = 29;

/// Makes an id from the system's random source.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NO_ENTROPY`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_job_id_random(id: *mut gateway_job_id) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let id = unsafe { Out::required(id, "id") }?;
        id.set(id_out(JobId::from_entropy(u128::from_le_bytes(random()?))));
        Ok(GATEWAY_OK)
    })
}

/// Entropy as it was given, or that of the system for 0.
pub(crate) fn entropy(given: u64) -> Result<u64, Failure> {
    if given == 0 { random().map(u64::from_le_bytes) } else { Ok(given) }
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).map_err(|error| {
        Failure::edge(GATEWAY_NO_ENTROPY, None, format!("no random bytes from the system: {error}"))
    })?;
    Ok(bytes)
}

/// Writes an id as text: 28 characters and the NUL, so that `char buf[GATEWAY_JOB_ID_CAP]` always is enough.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_job_id_format(
    id: gateway_job_id,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    // SAFETY: the caller's promise.
    guard(|| unsafe { copy_text(&job_id(id).to_string(), buf, cap, needed) })
}

/// Reads an id from its text.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; `GATEWAY_MALFORMED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_job_id_parse(given: *const c_char, id: *mut gateway_job_id) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (given, id) = unsafe { (text(given, "text")?, Out::required(id, "id")?) };
        id.set(id_out(given.parse()?));
        Ok(GATEWAY_OK)
    })
}
