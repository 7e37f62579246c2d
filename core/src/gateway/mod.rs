//! The machine that composes everything: queue, limits, backends, jobs and money behind one door.

mod admission;
mod command;
mod config;
mod dispatch;
mod event;
mod fleet;
#[cfg(any(test, feature = "testing"))]
mod invariants;
mod late;
mod lifecycle;
mod parked;
#[cfg(feature = "testing")]
mod plant;
mod restore;
mod route;
mod settlement;
mod slices;
mod snapshot;
mod state;
mod tick;
mod transaction;
mod undo;
mod view;

use alloc::vec::Vec;
use core::fmt;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest as _};

pub use admission::Submit;
pub use command::{Command, Entry, Leaf, Reply, Step, TakenSettlements};
pub use config::{BillingPolicy, CustomerPolicy, GatewayConfig, Payer};
pub use dispatch::{Dispatch, Lease};
pub use event::{Event, EventKind, Watch, WatchEvent, WatchStep};
pub use fleet::Evicted;
pub use late::Corrected;
pub use lifecycle::{AfterFailure, EvictTo, Failure, Settled};
#[cfg(feature = "testing")]
pub use plant::Plant;
pub use route::Route;
pub use settlement::{Correction, DeviceTime, Settlement};
pub use slices::Slices;
pub use snapshot::Digest;
pub use state::Counters;
pub use tick::Advance;
pub use transaction::{Abort, Transaction};
pub use view::{BackendView, CustomerView, JobView, Stats, WaitReason};

use crate::backend::{Backend, BackendPool};
use crate::backoff::Backoff;
use crate::billing::{Batch, Outbox, OutboxConfig, PriceBook, Usage};
use crate::breaker::ForcedState;
use crate::error::{ConfigError, FleetError, JobError, LeaseError, OutboxError, SubmitError};
use crate::id::{Epoch, JobId, LeaseId};
use crate::job::{JobTable, Output, TableLimits, Timeouts};
use crate::queue::{Places, Precision};
use crate::registry::Registry;
use crate::time::{Clock, Timestamp};
use crate::timers::Timers;
use event::{Awaited, EventLog};
use late::LateLeases;
use parked::Parked;
use route::RouteTable;
use state::{Scalars, State};

/// A GPU gateway's decisions: who may enter, who runs next and where, what happens when that fails, what it costs.
///
/// It does no I/O and reads no clock. The host calls a command when something happened, does what the answer says, and
/// calls [`Gateway::advance`] at [`Gateway::next_deadline`]. Each command happens whole or not at all; a command that
/// returns `Err` has changed nothing.
///
/// The order of calls: [`Gateway::put_backend`]; [`Gateway::submit`]; [`Gateway::dispatch`] until it says wait; for each
/// lease [`Gateway::heartbeat`] while it works and [`Gateway::complete`], [`Gateway::fail`] or [`Gateway::release`]
/// once; [`Gateway::take_settlements`] and [`Gateway::confirm_settlements`].
///
/// The clock rule: `now` is the host's clock, in any order of calls, and so is every instant that is answered or given. The
/// gateway counts the time between readings and not the readings: a step back is no time, and a step ahead is time that
/// passed, one beyond [`GatewayConfig::clock_jump_max`] after a trial of a minute. Whichever way that clock steps, no lease
/// ends whose worker is heard (see [`Clock`]). An instant answered before a step is one of the clock before it.
///
/// ```
/// use libgateway::{
///     Backend, BackendKind, Dispatch, Gateway, GatewayConfig, GpuNanos, JobId, JobState, Output, Route, Submit,
///     Timestamp, Usage,
/// };
/// let now = Timestamp::from_secs(1_700_000_000);
/// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
/// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]).slots(4))?;
///
/// let route = Route::parse("image/flux/dev/t2i")?;
/// let job = gateway.submit(now, Submit::new(JobId::from_entropy(7), "acme", route).payload("a red fox"))?;
/// assert_eq!(gateway.position(job), Some(0));
///
/// let later = Timestamp::from_secs(1_700_000_002);
/// while let Dispatch::Lease(lease) = gateway.dispatch(now) {
///     let usage = Usage::gpu(GpuNanos::from_millis(1_700), "GPU-8f2c");
///     let settled = gateway.complete(later, lease.id, Output::url("https://cdn/1.webp"), usage)?;
///     assert_eq!(settled.usage, GpuNanos::from_millis(1_700));
/// }
/// assert_eq!(gateway.job(job).map(|job| job.state), Some(JobState::Complete));
/// # Ok::<(), libgateway::error::Error>(())
/// ```
pub struct Gateway {
    state: State,
}

impl Gateway {
    /// An empty gateway that stands at `now`, in its first life: leases are numbered from 1 on. Right for tests, for replays
    /// and where whoever knows of its leases dies with it; else see [`Gateway::with_entropy`].
    ///
    /// # Errors
    /// [`ConfigError`] naming the first field that cannot be.
    pub fn new(config: GatewayConfig, now: Timestamp) -> Result<Self, ConfigError> {
        Ok(Self { state: State::new(config, now)? })
    }

    /// As [`Gateway::new`], in a life of its own: [`Gateway::begin_epoch`] is its first command. So a worker of a gateway that
    /// lost its state is told that its lease is over, and never mistaken for one of this gateway's.
    ///
    /// ```
    /// use libgateway::{Gateway, GatewayConfig, Timestamp};
    /// let gateway = Gateway::with_entropy(GatewayConfig::default(), Timestamp::from_secs(1), 0x5eed)?;
    /// assert!(gateway.epoch().as_u64() > 1 << 52);
    /// assert_eq!(gateway.commands(), 1);
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Gateway::new`].
    pub fn with_entropy(config: GatewayConfig, now: Timestamp, entropy: u64) -> Result<Self, ConfigError> {
        let mut gateway = Self::new(config, now)?;
        gateway.begin_epoch(now, entropy);
        Ok(gateway)
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &GatewayConfig {
        &self.state.config
    }

    /// The instant up to which all that was due is handled, as the host's clock shows it: its latest reading, unless more
    /// was due than one call handles.
    pub fn now(&self) -> Timestamp {
        self.state.to_host(self.state.now)
    }

    /// When something falls due next, so that the host should call [`Gateway::advance`]. `None`: nothing to wait for.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.state.next_deadline()
    }

    /// Handles what is due by `now`, at most `due_max` deadlines. Safe early, safe twice.
    ///
    /// Every command does this first; the host calls it when nothing else happens.
    ///
    /// # Complexity
    /// O(log n) for each deadline handled.
    pub fn advance(&mut self, now: Timestamp) -> Advance {
        let leaps = self.state.scalars.counters.clock_leaps;
        let (handled, more) = self.state.begin(now);
        self.tell_advance(handled, more, leaps)
    }

    fn tell_advance(&mut self, handled: u32, more: bool, leaps: u64) -> Advance {
        self.state.tidy();
        let leapt = self.state.scalars.counters.clock_leaps > leaps;
        Advance {
            handled,
            now: self.now(),
            more,
            leapt: leapt.then_some(self.state.clock.doubt()),
            next_deadline: self.state.next_deadline(),
        }
    }

    /// Takes a step of the host's clock that is on trial for time that passed: an operator says that the clock is right.
    pub fn accept_clock(&mut self, now: Timestamp) -> Advance {
        self.state.accept_clock(now);
        self.advance(now)
    }

    // --- Its life ---

    /// The life of the gateway that its numbers belong to.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// How many commands it was given since the beginning, in this life and those before it. Every call that takes `now`
    /// is one, also one that was refused, found nothing to do or was a transaction that was taken back; no other call is.
    /// A snapshot says it, too, see [`Gateway::commands_in`]; it is no part of the digest.
    pub fn commands(&self) -> u64 {
        self.state.commands
    }

    /// Begins another life: what is done where a gateway goes on in the place of one that is gone. [`Gateway::restore`] does
    /// it; a replica that takes over has to.
    ///
    /// Ids of leases and batches, and settlements and events, are told apart from all of the life before, so an answer of a
    /// worker that the gateway does not remember to have asked is superseded and nothing else. Leases that it knows live
    /// on, and each worker is given time to be heard. Batches that were out are handed out again, with the numbers their
    /// settlements had; events that were not fetched are dropped. The reading is believed, however far ahead it is.
    ///
    /// `entropy` is 64 random bits of the host. Two lives begun from one snapshot get the same numbers in one of 2^52 cases,
    /// or where entropy and instant are the same.
    pub fn begin_epoch(&mut self, now: Timestamp, entropy: u64) -> Epoch {
        self.state.resume(now);
        self.state.begin_epoch(now, entropy);
        self.change(now, |state| state.epoch)
    }

    // --- Waiting ---

    /// Says that somebody waits for the end of a job: [`Gateway::outcome`] has it then until [`Gateway::release_outcome`], also
    /// when the record leaves in the same instant. Hold as often as there are waiters; each releases once.
    ///
    /// It is not part of the state, and no command's answer depends on it. What is kept is bounded by who waits.
    ///
    /// ```
    /// use libgateway::{Backend, BackendKind, Gateway, GatewayConfig, JobId, Route, Submit, Timestamp};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default().retained_max(0), now)?;
    /// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
    /// let route = Route::parse("image/flux/dev/t2i")?;
    /// let job = gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", route))?;
    /// gateway.hold_outcome(job);
    /// gateway.cancel(now, job)?;
    /// assert!(gateway.job(job).is_none() && gateway.outcome(job).is_some());
    /// gateway.release_outcome(job);
    /// assert!(gateway.outcome(job).is_none());
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    pub fn hold_outcome(&mut self, job: JobId) {
        self.state.awaited.hold(job);
    }

    /// Takes one [`Gateway::hold_outcome`] back.
    pub fn release_outcome(&mut self, job: JobId) {
        self.state.awaited.release(job);
    }

    // --- Jobs ---

    /// Takes a job in. Returns its id, or that of the job its idempotency key stands for already.
    ///
    /// # Errors
    /// In this order: [`SubmitError::Input`]; [`SubmitError::IdempotencyConflict`]; [`SubmitError::UnknownRoute`];
    /// [`SubmitError::DuplicateJob`]; [`SubmitError::Full`]. Nothing has changed then.
    ///
    /// # Complexity
    /// O(log n) of the route's length.
    pub fn submit(&mut self, now: Timestamp, submit: Submit<'_>) -> Result<JobId, SubmitError> {
        self.run(now, |state| state.submit(submit))
    }

    /// Leases the next job to the best backend for it. Call it until it says wait.
    ///
    /// # Complexity
    /// O(log n), and once more for each flow of a customer that may not run now.
    pub fn dispatch(&mut self, now: Timestamp) -> Dispatch {
        self.run(now, State::dispatch)
    }

    /// Leases the next job of one route.
    ///
    /// # Errors
    /// [`FleetError::UnknownRoute`].
    pub fn dispatch_route(&mut self, now: Timestamp, route: &Route<'_>) -> Result<Dispatch, FleetError> {
        self.run(now, |state| state.dispatch_route(route))
    }

    /// Leases up to `max` jobs of one route to a backend that asks for work. An empty list: nothing for it now.
    ///
    /// # Errors
    /// [`FleetError::Input`] for a name that cannot be; [`FleetError::UnknownBackend`].
    pub fn dispatch_to(&mut self, now: Timestamp, backend: &str, max: u32) -> Result<Vec<Lease>, FleetError> {
        self.run(now, |state| state.dispatch_to(backend, max))
    }

    /// Tells that a lease's worker lives. Returns the lease's new deadline.
    ///
    /// # Errors
    /// [`LeaseError::Superseded`]: the lease has ended, stop working for it. [`LeaseError::UnknownLease`].
    pub fn heartbeat(&mut self, now: Timestamp, lease: LeaseId) -> Result<Timestamp, LeaseError> {
        self.run(now, |state| state.heartbeat(lease))
    }

    /// Tells how far a job is, in parts per million; counts as a heartbeat.
    ///
    /// # Errors
    /// As [`Gateway::heartbeat`], and [`LeaseError::Input`] beyond 1 000 000.
    pub fn progress(&mut self, now: Timestamp, lease: LeaseId, progress_ppm: u32) -> Result<Timestamp, LeaseError> {
        self.run(now, |state| state.progress(lease, progress_ppm))
    }

    /// Takes a job's result: it is complete, settled, and its slot free, in one change.
    ///
    /// # Errors
    /// [`LeaseError::Superseded`] and [`LeaseError::UnknownLease`] come first; then [`LeaseError::Input`] for an empty or
    /// over-long output and a malformed usage. Usage beyond what the devices can have done since the lease was granted is
    /// taken: what was possible is billed, and the answer, the settlement, an event and a counter say so. Only where
    /// [`BillingPolicy::excess`] is to refuse, it is [`LeaseError::Billing`], or [`LeaseError::Input`] for too many devices.
    pub fn complete(
        &mut self,
        now: Timestamp,
        lease: LeaseId,
        output: Output,
        usage: Usage<'_>,
    ) -> Result<Settled, LeaseError> {
        self.run(now, |state| state.complete(lease, output, &usage))
    }

    /// Takes a job's failure. The class decides whether it is tried again and whether the breaker hears of it.
    ///
    /// # Errors
    /// As [`Gateway::complete`].
    pub fn fail(
        &mut self,
        now: Timestamp,
        lease: LeaseId,
        failure: Failure,
        usage: Usage<'_>,
    ) -> Result<AfterFailure, LeaseError> {
        self.run(now, |state| state.fail(lease, failure, &usage))
    }

    /// Takes a lease back: its worker cannot go on. The job waits again at once, before what its customer submitted
    /// later; or it is in error when that happened more than [`GatewayConfig::releases_max`] times.
    /// What the lease took is paid for by [`BillingPolicy::released`], which is the house by default; [`Gateway::release_with`] says what was used.
    ///
    /// # Errors
    /// As [`Gateway::heartbeat`].
    pub fn release(&mut self, now: Timestamp, lease: LeaseId) -> Result<JobId, LeaseError> {
        self.release_with(now, lease, Usage::unmeasured())
    }

    /// The same with what the lease used.
    ///
    /// # Errors
    /// As [`Gateway::heartbeat`], then as [`Gateway::complete`] for the usage.
    pub fn release_with(&mut self, now: Timestamp, lease: LeaseId, usage: Usage<'_>) -> Result<JobId, LeaseError> {
        self.run(now, |state| state.give_back(lease, None, &usage))
    }

    /// The same, and the job may not run before an instant of the host's clock: its worker cannot go on now, but later. That
    /// is no failed attempt. An instant that has passed is now.
    ///
    /// ```
    /// use libgateway::{Backend, BackendKind, Dispatch, Gateway, GatewayConfig, JobId, Route, Submit, Timestamp, Usage};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
    /// let job = gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", Route::parse("image/flux/dev/t2i")?))?;
    /// let Dispatch::Lease(lease) = gateway.dispatch(now) else { panic!() };
    /// // The checkpoint is still being copied; it will take ten seconds.
    /// let ready = Timestamp::from_secs(11);
    /// gateway.release_until(now, lease.id, ready, Usage::unmeasured())?;
    /// assert_eq!(gateway.dispatch(Timestamp::from_secs(10)), Dispatch::Wait { until: Some(ready) });
    /// assert_eq!(gateway.dispatch(ready).lease().map(|lease| lease.attempt), Some(2));
    /// assert_eq!(gateway.job(job).map(|job| (job.attempts, job.requeues)), Some((0, 1)));
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Gateway::release_with`].
    pub fn release_until(
        &mut self,
        now: Timestamp,
        lease: LeaseId,
        not_before: Timestamp,
        usage: Usage<'_>,
    ) -> Result<JobId, LeaseError> {
        self.run(now, |state| state.give_back(lease, Some(not_before), &usage))
    }

    /// Takes the lease of a job that runs back, to make room for another one. The job waits again at once, before
    /// what its customer submitted later. What its lease took is paid for by [`BillingPolicy::preempted`].
    /// Returns the lease, whose worker is to be stopped: its result is refused from now on. [`Gateway::running_on`] lists
    /// whom one could preempt. In a [`Transaction`] with a dispatch whoever is next gets the room at once: one of a higher lane,
    /// or of the same lane who was given less; else it is this job again.
    ///
    /// ```
    /// use libgateway::{Backend, BackendKind, Gateway, GatewayConfig, JobId, Priority, Route, Submit, Timestamp, Usage};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
    /// let route = Route::parse("image/flux/dev/t2i")?;
    /// let job = |id| Submit::new(JobId::from_entropy(id), "acme", route.clone());
    /// let batch = gateway.submit(now, job(1).priority(Priority::Low))?;
    /// assert_eq!(gateway.dispatch(now).lease().map(|lease| lease.job), Some(batch));
    /// let urgent = gateway.submit(now, job(2).priority(Priority::High))?;
    /// gateway.preempt(now, batch, Usage::unmeasured())?;
    /// assert_eq!(gateway.dispatch(now).lease().map(|lease| lease.job), Some(urgent));
    /// assert_eq!((gateway.position(batch), gateway.stats().counters.preempted), (Some(0), 1));
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`JobError::UnknownJob`]; [`JobError::Ended`]; [`JobError::NotAllowed`] for one that waits;
    /// [`JobError::PreemptedTooOften`] after [`GatewayConfig::preemptions_max`]; then as [`Gateway::cancel_with`] for the
    /// usage.
    pub fn preempt(&mut self, now: Timestamp, job: JobId, usage: Usage<'_>) -> Result<LeaseId, JobError> {
        self.run(now, |state| state.preempt(job, &usage))
    }

    /// Gives a job up, waiting or running. A running one's lease ends: its worker hears so at its next word. The time of
    /// that lease is paid for by [`BillingPolicy::cancelled`]; [`Gateway::cancel_with`] says what was used.
    ///
    /// # Errors
    /// [`JobError::UnknownJob`]; [`JobError::Ended`].
    pub fn cancel(&mut self, now: Timestamp, job: JobId) -> Result<(), JobError> {
        self.cancel_with(now, job, Usage::unmeasured())
    }

    /// The same with what its lease used. A job that waits has no lease: what an earlier one used is told by
    /// [`Gateway::correct_usage`].
    ///
    /// # Errors
    /// As [`Gateway::cancel`]; then [`JobError::Input`] for a malformed usage, and [`JobError::Billing`] where the policy
    /// is to refuse what cannot be.
    pub fn cancel_with(&mut self, now: Timestamp, job: JobId, usage: Usage<'_>) -> Result<(), JobError> {
        self.run(now, |state| state.cancel(job, &usage))
    }

    /// Gives up the job of a live lease: its worker says that nobody waits for the result any more. Unlike
    /// [`Gateway::cancel`] it does nothing to a job that has gone on to another worker.
    ///
    /// ```
    /// use libgateway::{Backend, BackendKind, Dispatch, Gateway, GatewayConfig, GpuNanos, JobId, Route, Submit, Timestamp, Usage};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// gateway.put_backend(now, Backend::new("llm-1", BackendKind::Torch).serves("text", "llama", ["70b"]))?;
    /// gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", Route::parse("text/llama/70b/chat")?))?;
    /// let Dispatch::Lease(lease) = gateway.dispatch(now) else { panic!() };
    /// // The client leaves in the middle of its stream, after 3 s.
    /// let later = Timestamp::from_secs(4);
    /// gateway.cancel_lease(later, lease.id, Usage::gpu(GpuNanos::from_millis(2_800), "GPU-8f2c"))?;
    /// let taken = gateway.take_settlements(later, 10).ok_or(libgateway::error::InputError::Empty { field: "outbox" })?;
    /// assert_eq!(taken.settlements[0].usage, GpuNanos::from_millis(2_800));
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Gateway::release_with`].
    pub fn cancel_lease(&mut self, now: Timestamp, lease: LeaseId, usage: Usage<'_>) -> Result<JobId, LeaseError> {
        self.run(now, |state| state.cancel_lease(lease, &usage))
    }

    /// Takes what a lease used that has ended: all of it, in the place of what was billed for it before. Where its job is
    /// settled, the difference is a settlement of its own (see [`Settlement::correction`]); until then it is part of the
    /// settlement to come. Who pays stays as it was. Telling the same again changes nothing.
    ///
    /// ```
    /// use libgateway::{Backend, BackendKind, Dispatch, Gateway, GatewayConfig, GpuNanos, JobId, Output, Route, Submit, Timestamp, Usage};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
    /// gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", Route::parse("image/flux/dev/t2i")?))?;
    /// let Dispatch::Lease(lease) = gateway.dispatch(now) else { panic!() };
    /// let later = Timestamp::from_secs(4);
    /// gateway.complete(later, lease.id, Output::url("https://cdn/1.webp"), Usage::unmeasured())?; // 3 s
    /// // The profiler's figures come when the picture has long been delivered.
    /// let usage = Usage::gpu(GpuNanos::from_millis(2_800), "GPU-8f2c");
    /// let corrected = gateway.correct_usage(Timestamp::from_secs(60), lease.id, usage)?;
    /// assert_eq!((corrected.settlement, corrected.billed), (Some(2), GpuNanos::from_millis(2_800)));
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// In this order: [`LeaseError::StillLive`]: it comes with the lease's result; [`LeaseError::UnknownLease`];
    /// [`LeaseError::Input`] for a malformed usage or none; [`LeaseError::TooLate`] from
    /// [`BillingPolicy::late_usage_for`] on; [`LeaseError::Billing`] where the policy is to refuse what cannot be;
    /// [`LeaseError::Full`] without room for the entry: confirm settlements, and tell it again.
    pub fn correct_usage(&mut self, now: Timestamp, lease: LeaseId, usage: Usage<'_>) -> Result<Corrected, LeaseError> {
        self.run(now, |state| state.correct_usage(lease, &usage))
    }

    /// Removes the record of a job that has ended. Its settlement stays.
    ///
    /// # Errors
    /// [`JobError::UnknownJob`]; [`JobError::NotEnded`].
    pub fn delete(&mut self, now: Timestamp, job: JobId) -> Result<(), JobError> {
        self.run(now, |state| state.delete(job))
    }

    // --- The fleet ---

    /// Adds a backend, or changes the one of that name: its leases, breaker and warmth stay, a drain ends.
    ///
    /// # Errors
    /// [`FleetError::Input`]; [`FleetError::Full`].
    ///
    /// # Complexity
    /// O(routes) when it is the first to serve what it serves, or served something else before.
    pub fn put_backend(&mut self, now: Timestamp, backend: Backend) -> Result<(), FleetError> {
        self.change(now, |state| state.put_backend(backend))
    }

    /// Takes a backend out: no new leases, and forgotten when its last one has ended.
    ///
    /// # Errors
    /// [`FleetError::Input`] for a name that cannot be; [`FleetError::UnknownBackend`].
    pub fn remove_backend(&mut self, now: Timestamp, name: &str) -> Result<(), FleetError> {
        self.change(now, |state| state.remove_backend(name))
    }

    /// Stops giving a backend new leases, or starts again.
    ///
    /// # Errors
    /// [`FleetError::Input`] for a name that cannot be; [`FleetError::UnknownBackend`].
    pub fn drain_backend(&mut self, now: Timestamp, name: &str, draining: bool) -> Result<(), FleetError> {
        self.change(now, |state| state.drain_backend(name, draining))
    }

    /// Ends all leases of a backend: its machine has gone, or has to. Their jobs wait again at once, whatever
    /// [`GatewayConfig::preemptions_max`] says, or end in error. What they took is paid for by [`BillingPolicy::preempted`].
    /// Returns the leases in the order in which they were granted. The backend goes on taking new ones unless it is drained; one
    /// that has gone for good is evicted and then removed, since a removed one has no name any more.
    ///
    /// ```
    /// use libgateway::{Backend, BackendKind, EvictTo, Gateway, GatewayConfig, JobId, JobState, Route, Submit, Timestamp};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// gateway.put_backend(now, Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["dev"]))?;
    /// let job = gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", Route::parse("image/flux/dev/t2i")?))?;
    /// assert!(gateway.dispatch(now).lease().is_some());
    /// let evicted = gateway.evict_backend(now, "flux-1", EvictTo::Queue)?;
    /// gateway.remove_backend(now, "flux-1")?;
    /// assert_eq!((evicted.len(), evicted[0].job), (1, job));
    /// assert_eq!(gateway.job(job).map(|job| job.state), Some(JobState::Queued));
    /// assert!(gateway.backend("flux-1").is_none());
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`FleetError::Input`] for a name that cannot be; [`FleetError::UnknownBackend`].
    ///
    /// # Complexity
    /// O(live leases of the gateway), and O(k log n) for the k of the backend.
    pub fn evict_backend(&mut self, now: Timestamp, name: &str, to: EvictTo) -> Result<Vec<Evicted>, FleetError> {
        self.change(now, |state| state.evict_backend(name, to))
    }

    /// Holds a backend's breaker open or closed until an instant (`None`: until further notice), or with `None` as
    /// state lets go of it.
    ///
    /// # Errors
    /// [`FleetError::Input`] for a name that cannot be; [`FleetError::UnknownBackend`]; then [`FleetError::Input`] for an end
    /// that is not in the future.
    pub fn force_breaker(
        &mut self,
        now: Timestamp,
        backend: &str,
        state: Option<ForcedState>,
        until: Option<Timestamp>,
    ) -> Result<(), FleetError> {
        self.change(now, |gateway| gateway.force_breaker(backend, state, until))
    }

    /// Gives a customer a policy of its own. Its tokens stay as many as they are, up to the new burst.
    ///
    /// # Errors
    /// [`FleetError::Input`]; [`FleetError::Full`].
    pub fn put_customer(&mut self, now: Timestamp, name: &str, policy: CustomerPolicy) -> Result<(), FleetError> {
        self.change(now, |state| state.put_customer(name, policy))
    }

    /// Takes a customer's own policy away: the default one holds.
    ///
    /// # Errors
    /// [`FleetError::Input`] for a name that cannot be; [`FleetError::UnknownCustomer`].
    pub fn remove_customer(&mut self, now: Timestamp, name: &str) -> Result<(), FleetError> {
        self.change(now, |state| state.remove_customer(name))
    }

    /// Stops serving a route. Its jobs keep their order, and their clocks run on.
    ///
    /// # Errors
    /// [`FleetError::UnknownRoute`].
    pub fn pause(&mut self, now: Timestamp, route: &Route<'_>) -> Result<(), FleetError> {
        self.change(now, |state| state.pause(route, true))
    }

    /// Serves a route again.
    ///
    /// # Errors
    /// [`FleetError::UnknownRoute`].
    pub fn resume(&mut self, now: Timestamp, route: &Route<'_>) -> Result<(), FleetError> {
        self.change(now, |state| state.pause(route, false))
    }

    // --- Money ---

    /// Puts a newer price book in force. Jobs that end from now on are settled by it.
    ///
    /// # Errors
    /// [`FleetError::Input`] unless its version is higher and its currency the same.
    pub fn put_prices(&mut self, now: Timestamp, book: PriceBook) -> Result<(), FleetError> {
        self.change(now, |state| state.put_prices(book))
    }

    /// Hands out up to `max` settlements, the oldest first. They stay until they are confirmed.
    ///
    /// # Complexity
    /// O(max).
    pub fn take_settlements(&mut self, now: Timestamp, max: u32) -> Option<TakenSettlements> {
        self.run(now, |state| state.take_settlements(max))
            .map(|(batch, settlements)| TakenSettlements { batch, settlements })
    }

    /// Lets go of settlements the host has kept safe. Returns how many; confirming twice is 0.
    ///
    /// # Errors
    /// [`OutboxError::UnknownBatch`]; [`OutboxError::BatchSuperseded`] when the batch had returned to the outbox.
    pub fn confirm_settlements(&mut self, now: Timestamp, batch: Batch) -> Result<u32, OutboxError> {
        self.change(now, |state| state.confirm_settlements(batch))
    }

    /// Takes settlements back that the host could not keep; they are handed out again.
    ///
    /// # Errors
    /// As [`Gateway::confirm_settlements`].
    pub fn return_settlements(&mut self, now: Timestamp, batch: Batch) -> Result<u32, OutboxError> {
        self.run(now, |state| state.outbox.give_back(batch))
    }

    // --- Words ---

    /// The next event the host has not fetched. Fetching changes nothing but the list of events.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.state.events.pop(self.state.epoch)?;
        Some(Event { at: self.state.to_host(event.at), ..event })
    }

    /// The number of the next event.
    pub fn next_event(&self) -> u64 {
        self.state.events.next
    }

    /// The kept events from number `from` on, without fetching them.
    pub fn events_from(&self, from: u64) -> impl Iterator<Item = Event> + '_ {
        let kept = self.state.events.iter_from(from, self.state.epoch);
        kept.map(|event| Event { at: self.state.to_host(event.at), ..event })
    }

    /// Rises whenever something changed that may help somebody who waits: for a job, a backend, a token, an end. A host
    /// that waits by itself compares it instead of asking again and again.
    pub fn changes(&self) -> u64 {
        self.state.changes
    }

    /// Runs a command that may help somebody who waits although it tells no event.
    fn change<T>(&mut self, now: Timestamp, command: impl FnOnce(&mut State) -> T) -> T {
        self.state.changes = self.state.changes.wrapping_add(1);
        self.run(now, command)
    }

    /// Handles time, then runs one command. Every command comes through here.
    fn run<T>(&mut self, now: Timestamp, command: impl FnOnce(&mut State) -> T) -> T {
        self.state.begin(now);
        let result = command(&mut self.state);
        self.state.tidy();
        result
    }
}

impl fmt::Debug for Gateway {
    /// Its numbers: the whole state is for [`Gateway::snapshot`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("now", &self.now()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl State {
    fn new(config: GatewayConfig, now: Timestamp) -> Result<Self, ConfigError> {
        config.check()?;
        let limits = TableLimits {
            retain_for: config.retain_for,
            retained_max: config.retained_max,
            retained_bytes_max: config.retained_bytes_max,
            keys: config.keys(),
            timeouts: config.timeouts,
            seed: config.seed,
        };
        let clock = Clock::wary(now, config.clock_jump_max);
        let outbox = OutboxConfig::default().outbox_max(config.jobs_max).hold(config.settle_within);
        Ok(Self {
            clock,
            now: clock.now(),
            jobs: JobTable::new(limits),
            places: Places::new(config.ordering, PRECISION, config.seed),
            pool: BackendPool::new(
                config.backends_max,
                config.families_max,
                config.breaker,
                config.lease_for,
                config.seed,
            ),
            table: RouteTable::new(config.routes_max, config.seed),
            customers: Registry::new("customers", config.customers_max, config.seed),
            parked: Parked::default(),
            customer_timers: Timers::new(),
            backend_timers: Timers::new(),
            outbox: Outbox::new(outbox)?,
            late: LateLeases::new(config.seed),
            prices: PriceBook::new(0, "USD")?,
            backoff: Backoff::new(config.backoff.seed(config.seed))?,
            events: EventLog::new(config.events_max),
            scalars: Scalars::default(),
            idle_customers: Vec::new(),
            idle_routes: Vec::new(),
            undo: Vec::new(),
            recording: false,
            changes: 0,
            plain: config.timeouts == Timeouts::NONE && config.age_after.is_none(),
            held_events: Vec::new(),
            held_outcomes: Vec::new(),
            awaited: Awaited::default(),
            epoch: Epoch::FIRST,
            commands: 0,
            #[cfg(feature = "testing")]
            planted: None,
            config,
        })
    }

    /// The number an affinity key is kept as. Two keys that met would only be warm for each other.
    pub(crate) fn affinity(&self, key: &str) -> u64 {
        // Not the tables' own hash: this one is kept in snapshots and must be the same on every platform.
        let mut hash = Blake2b::<U8>::new();
        hash.update(self.config.seed.to_le_bytes());
        hash.update(key.as_bytes());
        u64::from_le_bytes(hash.finalize().into()).max(1)
    }
}

/// Costs are nanoseconds of GPU time, known only afterwards; 10 binary digits tell weights up to a million apart.
const PRECISION: Precision = Precision { scale: 10, estimated: true };
