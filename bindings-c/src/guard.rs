//! The one door between C and Rust: no panic leaves through it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::failure::Failure;
use crate::status::gateway_status;

/// Runs the body of an exported function.
///
/// What the body may leave half done is behind a handle's lock, which notes the panic and answers "poisoned" from then
/// on; so looking at it again is safe.
#[inline]
pub(crate) fn guard(body: impl FnOnce() -> Result<gateway_status, Failure>) -> gateway_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => failed(failure),
        Err(thrown) => failed(Failure::panic(thrown)),
    }
}

#[cold]
#[inline(never)]
fn failed(failure: Failure) -> gateway_status {
    failure.leave()
}
