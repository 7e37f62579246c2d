//! For tests of what a panic leaves behind. Not in the header, and not in what is installed.

use std::ffi::c_void;

use crate::guard::guard;
use crate::handle::*;
use crate::status::*;

/// Panics while it holds the lock of a handle of any kind.
/// cbindgen:ignore
#[unsafe(no_mangle)]
#[expect(clippy::panic, reason = "that is what it is for")]
pub unsafe extern "C" fn gateway_testing_panic(handle: *const c_void) -> gateway_status {
    guard(|| {
        let _held = hold_any(handle)?;
        panic!("on purpose");
    })
}

/// How many callers wait for a gateway: so that a test needs no clock to know that they do.
/// cbindgen:ignore
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_testing_waiting(gw: *const gateway) -> u32 {
    let waiting = find(gw).and_then(lock::<gateway>).and_then(|mut held| Ok(held.object::<gateway>()?.waiting()));
    waiting.unwrap_or(0) as u32
}

/// How often callers that wait for a gateway looked whether what they wait for is there, all together.
/// cbindgen:ignore
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_testing_attempts(gw: *const gateway) -> u64 {
    let attempts = find(gw).and_then(lock::<gateway>).and_then(|mut held| Ok(held.object::<gateway>()?.attempts()));
    attempts.unwrap_or(0)
}

/// Lets no more than so many further handles be made.
/// cbindgen:ignore
#[unsafe(no_mangle)]
pub extern "C" fn gateway_testing_leave_room_for(handles: u32) {
    leave_room_for(handles);
}
