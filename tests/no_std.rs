//! Compiles only where nothing in the dependencies of `libgateway` is std: a crate graph has room for one panic handler,
//! and std brings its own. `make test` compiles this against a core without features.
#![no_std]

extern crate libgateway;

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
