//! Who gets how much of the GPUs, and whom nobody can hold up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

mod bound;
mod bystanders;
mod order;
mod shares;
mod whale;
mod world;
