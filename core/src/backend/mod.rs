//! Backends: what they serve, how busy they are, who holds a lease on them.

mod pool;
mod spec;

pub(crate) use pool::{BackendHot, BackendPool, Grant, LeaseRecord, PutError, Verdict};
pub use spec::{Backend, BackendKind, Models, SEGMENT_LEN_MAX, SLOTS_MAX, WARM_MAX};
pub(crate) use spec::{check_range, check_segment};
