//! What the example programs are made of. `quickstart` is all in one file; read that first.
#![forbid(unsafe_code)]

mod civil;
mod csv;
mod decimal;
mod random;
pub mod replay;
mod report;
mod ticket;
mod trace;
mod workload;
