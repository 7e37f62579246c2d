//! libgateway for C and C++. The manual is `include/gateway.h`, which is made from the documentation here.
//!
//! The files: `handle` (what an opaque pointer is), `fork` (what a child has of it), `bell` (what waits sleep on), `guard` (no
//! panic gets out), `input` and `output` (checks and copies), `failure` and `status` (errors), and one for each part of the
//! library.

#![allow(
    clippy::missing_safety_doc,
    reason = "what every function demands of its pointers is told once, at the top of the header"
)]

// In the order of the header.
mod version;

mod status;

mod failure;

mod ids;

mod bytes;

mod handle;

mod names;

mod machine;

mod limiter;

mod keyed;

mod window;

mod breaker;

mod queue;

mod store;

mod billing;

mod histogram;

mod backoff;

// What they are made of.
mod bell;
mod fork;
mod guard;
mod input;
mod output;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "testing")]
pub mod testing;

pub use backoff::*;
pub use billing::*;
pub use breaker::*;
pub use bytes::*;
pub use failure::*;
pub use handle::*;
pub use histogram::*;
pub use ids::*;
pub use keyed::*;
pub use limiter::*;
pub use machine::*;
pub use names::*;
pub use queue::*;
pub use status::*;
pub use store::*;
pub use version::*;
pub use window::*;
