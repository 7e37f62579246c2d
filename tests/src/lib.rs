//! Shared parts of the test suites: short words, dice that can be thrown again, and a simulated world.
#![allow(
    clippy::result_large_err,
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "everything here is test code, although only what stands in `tests/` is compiled as such"
)]

pub mod kit;
pub mod rng;
pub mod sim;
