//! Which library this is: the numbers a program can compare, and the clock and dice it may use.

use std::ffi::c_char;

use libgateway::SystemClock;

use crate::fork::Raced;

/// The version of the library, as it is published: breaking changes raise the first number that is not zero.
pub const GATEWAY_VERSION_MAJOR: u32 = 0;
/// See `GATEWAY_VERSION_MAJOR`.
pub const GATEWAY_VERSION_MINOR: u32 = 1;
/// See `GATEWAY_VERSION_MAJOR`.
pub const GATEWAY_VERSION_PATCH: u32 = 0;
/// The version of the binary interface: the number in `libgateway.so.N`. It rises when a program that was compiled
/// before would no longer work; new functions and new fields at the end of option structs do not raise it.
pub const GATEWAY_ABI_VERSION: u32 = 1;

/// The instant that never comes: as a deadline "never", as an end of waiting "without end".
pub const GATEWAY_FOREVER: u64 = 18446744073709551615;

/// The ABI of the library that is loaded. A program that loads it by hand compares it with `GATEWAY_ABI_VERSION`.
///
/// Cannot fail. May be called from any thread, and from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_abi_version() -> u32 {
    GATEWAY_ABI_VERSION
}

/// The version of the library that is loaded, as text: "0.1.0". A static string: do not free it.
///
/// Cannot fail. May be called from any thread, and from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_version() -> *const c_char {
    VERSION.as_ptr().cast()
}

/// The system's clock: nanoseconds since 1970-01-01 00:00 UTC. What every `now` of this header is counted in.
///
/// It never steps: it reads the wall's time once in a process, and goes on with the machine's time since boot, which counts
/// the time the machine was suspended. A process that is forked goes on with it.
///
/// The library itself reads it only in the functions that wait. Everywhere else the caller passes `now`, from this
/// clock, from another one, or from a test that makes time up.
///
/// Cannot fail. May be called from any thread; from a signal handler, once it was called outside of one.
#[unsafe(no_mangle)]
pub extern "C" fn gateway_now() -> u64 {
    CLOCK.get_or_make(SystemClock::new).now().as_nanos()
}

/// One for the process. `SystemClock::of_process` is one that a forked child may have to wait for.
static CLOCK: Raced<SystemClock> = Raced::new();

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_package() {
        let numbers = format!("{GATEWAY_VERSION_MAJOR}.{GATEWAY_VERSION_MINOR}.{GATEWAY_VERSION_PATCH}\0");
        assert_eq!(numbers, VERSION);
    }

    #[test]
    fn forever_is_the_last_instant() {
        assert_eq!(GATEWAY_FOREVER, libgateway::Timestamp::MAX.as_nanos());
    }
}
