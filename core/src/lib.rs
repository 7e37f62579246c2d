//! libgateway: the deterministic brain of a GPU gateway.
//!
//! [`Gateway`] decides who may enter, who runs next and on which backend, what happens when that fails and what it costs.
//! It does no I/O and reads no clock: the host calls with the present instant, does what the answer says, and calls again
//! at [`Gateway::next_deadline`]. [`SharedGateway`] is one for many threads; for other ways to wait there is [`waiting`].
//!
//! Every part can be used alone: [`KeyedRateLimiter`], [`CircuitBreaker`], [`FairQueue`], [`JobStore`],
//! [`BillingCollector`], [`Outbox`], [`Histogram`], [`Backoff`], [`Timers`].
//!
//! The crate is `no_std` with `alloc` and without `unsafe`. Feature `std` (default) adds [`SharedGateway`] and
//! [`SystemClock`] alone; feature
//! `testing` adds `check_invariants()` to every part.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod backend;
mod backoff;
mod billing;
mod breaker;
mod coded;
pub mod error;
mod failure;
mod gateway;
mod hashing;
mod heap;
mod histogram;
mod id;
mod job;
mod limiter;
mod queue;
mod registry;
#[cfg(feature = "std")]
mod shared;
#[cfg(feature = "std")]
mod system_clock;
mod time;
mod timers;
pub mod waiting;

pub use backend::{Backend, BackendKind, Models, SEGMENT_LEN_MAX, SLOTS_MAX, WARM_MAX};
pub use backoff::{Backoff, BackoffConfig, GiveUpReason, Retry};
pub use billing::{
    Batch, BillingCall, BillingCollector, BillingCollectorConfig, BillingOutcome, BillingReceipt, BillingRecord,
    BillingTotals, Currency, DEVICE_LEN_MAX, DEVICES_MAX, DeviceUsage, Excess, Money, Outbox, OutboxConfig, PRICES_MAX,
    Price, PriceBook, Usage,
};
pub use breaker::{
    Admit, BreakerReason, BreakerState, BreakerStatus, CircuitBreaker, CircuitBreakerConfig, ForcedState, Permit,
    RateRule,
};
pub use failure::FailureClass;
#[cfg(feature = "testing")]
pub use gateway::Plant;
pub use gateway::{
    Abort, Advance, AfterFailure, BackendView, BillingPolicy, Command, Corrected, Correction, Counters, CustomerPolicy,
    CustomerView, DeviceTime, Digest, Dispatch, Entry, Event, EventKind, EvictTo, Evicted, Failure, Gateway,
    GatewayConfig, JobView, Leaf, Lease, Payer, Reply, Route, Settled, Settlement, Slices, Stats, Step, Submit,
    TakenSettlements, Transaction, WaitReason, Watch, WatchEvent, WatchStep,
};
pub use heap::IndexedHeap;
pub use histogram::Histogram;
pub use id::{Epoch, JobId, LeaseId, NAME_LEN_MAX, check_name};
pub use job::{
    CancelReason, JobEvent, JobFailure, JobState, JobStore, JobStoreConfig, NewJob, Outcome, Output, Payload, Priority,
    StoredJob, Task, Timeouts,
};
pub use limiter::{
    Acquire, KeyedAcquire, KeyedRateLimiter, KeyedRateLimiterConfig, KeyedSnapshot, RateHeaders, RateLimit,
    RateLimiter, TokenBucket, WindowLimit, WindowLimiter,
};
pub use queue::{FairQueue, FairQueueConfig, Key, Ordering, RankIter, RankTree, Ticket, TreeId};
#[cfg(feature = "std")]
pub use shared::{Notice, SharedGateway, Subscription};
#[cfg(feature = "std")]
pub use system_clock::SystemClock;
pub use time::{Clock, GpuNanos, Span, Tick, Timestamp};
pub use timers::Timers;
