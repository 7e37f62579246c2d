//! Shared parts of the test suites: short words, dice that can be thrown again, a naive model of the gateway, and a
//! simulated world.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "everything here is test code, although only what stands in `tests/` is compiled as such"
)]

pub mod kit;
pub mod model;
pub mod rng;
pub mod sim;

/// Where two texts part: a piece of each.
pub(crate) fn difference(one: &str, other: &str) -> String {
    let at = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
    let around = |text: &str| text.chars().skip(at.saturating_sub(200)).take(300).collect::<String>();
    format!("\n{}\n{}", around(one), around(other))
}
