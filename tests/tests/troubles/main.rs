//! Troubles that users of comparable systems reported, each as an input with its right answer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

mod answers;
mod bills;
mod holds;
mod limits;
mod quotas;
mod restarts;
mod retries;
mod waits;
