//! Input that cannot be: each is a typed error, and nothing has changed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

mod configs;
mod full;
mod fuzz;
mod lines;
mod records;
mod refusals;
mod snapshot;
