//! libgateway: the deterministic brain of a GPU gateway.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

pub mod error;
mod id;
mod time;

pub use id::{JobId, LeaseId, NAME_LEN_MAX, check_name};
pub use time::{Clock, GpuNanos, Span, Timestamp};
