//! Transactions: several steps as one, or none of them.

use alloc::vec::Vec;
use core::fmt;

use super::Gateway;
use super::admission::Submit;
use super::dispatch::{Dispatch, Lease};
use super::late::Corrected;
use super::lifecycle::{AfterFailure, Failure, Settled};
use super::route::Route;
use super::state::State;
use crate::billing::Usage;
use crate::error::{Error, FleetError, InputError, JobError, LeaseError, SubmitError};
use crate::id::{JobId, LeaseId};
use crate::job::Output;
use crate::time::Timestamp;

/// Steps under way; see [`Gateway::transaction`]. Each step sees what those before it did.
pub struct Transaction<'g> {
    state: &'g mut State,
}

/// Why a transaction did not happen. Nothing of it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abort<E = Error> {
    /// Not now: something it needs is not there. It may be at `until`, or after any other change.
    Retry {
        /// The next instant at which that may change by itself.
        until: Option<Timestamp>,
    },
    /// It cannot be.
    Error(E),
}

impl Dispatch {
    /// The lease, or the word to try the whole transaction again when something has changed.
    ///
    /// # Errors
    /// [`Abort::Retry`] when there is no lease.
    pub fn or_retry<E>(self) -> Result<Lease, Abort<E>> {
        match self {
            Self::Lease(lease) => Ok(lease),
            Self::Wait { until } => Err(Abort::Retry { until }),
        }
    }
}

impl<E> Abort<E> {
    /// Not now, but at `until`, or after any other change.
    pub const fn retry_until(until: Timestamp) -> Self {
        Self::Retry { until: Some(until) }
    }
}

impl Gateway {
    /// Runs several steps as one: if `body` returns `Err`, or panics, everything is as it was before it.
    ///
    /// Time is handled first and stays handled. The clock does not move while `body` runs.
    ///
    /// ```
    /// use libgateway::{Abort, Backend, BackendKind, Gateway, GatewayConfig, JobId, Route, Submit, Timestamp};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// for (name, family) in [("flux-1", "flux"), ("wan-1", "wan")] {
    ///     gateway.put_backend(now, Backend::new(name, BackendKind::Torch).serves("image", family, ["*"]))?;
    /// }
    /// let (first, second) = (Route::parse("image/flux/dev/t2i")?, Route::parse("image/wan/default/i2i")?);
    /// gateway.submit(now, Submit::new(JobId::from_entropy(1), "acme", first.clone()))?;
    ///
    /// // Both or neither: the second stage has no job yet, so the first one stays in its place.
    /// let pair: Result<_, Abort> = gateway.transaction(now, |tx| {
    ///     let one = tx.dispatch_route(&first)?.or_retry()?;
    ///     let two = tx.dispatch_route(&second)?.or_retry()?;
    ///     Ok((one, two))
    /// });
    /// assert!(pair.is_err());
    /// assert_eq!(gateway.position(JobId::from_entropy(1)), Some(0));
    /// assert_eq!(gateway.stats().running, 0);
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `body` returns.
    ///
    /// # Complexity
    /// That of the steps; an abort costs about as much again.
    pub fn transaction<T, E>(
        &mut self,
        now: Timestamp,
        body: impl FnOnce(&mut Transaction<'_>) -> Result<T, Abort<E>>,
    ) -> Result<T, Abort<E>> {
        self.state.begin(now);
        let result = Transaction { state: &mut self.state }.attempt(body);
        self.state.commit();
        self.state.tidy();
        result
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Transaction<'_> {
    pub(crate) fn state_mut(&mut self) -> &mut State {
        self.state
    }

    /// The instant at which all steps happen, as the host's clock shows it.
    pub fn now(&self) -> Timestamp {
        self.state.to_host(self.state.now)
    }

    /// Runs steps within the transaction; if they fail, only they did not happen.
    ///
    /// # Errors
    /// What `body` returns.
    pub fn attempt<T, E>(
        &mut self,
        body: impl FnOnce(&mut Transaction<'_>) -> Result<T, Abort<E>>,
    ) -> Result<T, Abort<E>> {
        let savepoint = self.state.savepoint();
        let outer = core::mem::replace(&mut self.state.recording, true);
        // Rolls back on the way out by error and by panic alike.
        let mut guard = Guard { state: self.state, savepoint: Some(savepoint), outer };
        let result = body(&mut Transaction { state: guard.state });
        if result.is_ok() {
            guard.savepoint = None;
        }
        result
    }

    /// Tries `first`; if it says "not now", tries `second` as if `first` had never been.
    ///
    /// # Errors
    /// What the last one tried returns. When both say "not now", the earlier instant.
    pub fn or_else<T, E>(
        &mut self,
        first: impl FnOnce(&mut Transaction<'_>) -> Result<T, Abort<E>>,
        second: impl FnOnce(&mut Transaction<'_>) -> Result<T, Abort<E>>,
    ) -> Result<T, Abort<E>> {
        let early = match self.attempt(first) {
            Err(Abort::Retry { until }) => until,
            other => return other,
        };
        match self.attempt(second) {
            Err(Abort::Retry { until }) => Err(Abort::Retry { until: [early, until].into_iter().flatten().min() }),
            other => other,
        }
    }

    /// As [`Gateway::submit`].
    ///
    /// # Errors
    /// As there.
    pub fn submit(&mut self, submit: Submit<'_>) -> Result<JobId, SubmitError> {
        self.state.submit(submit)
    }

    /// As [`Gateway::dispatch`].
    pub fn dispatch(&mut self) -> Dispatch {
        self.state.dispatch()
    }

    /// As [`Gateway::dispatch_route`].
    ///
    /// # Errors
    /// As there.
    pub fn dispatch_route(&mut self, route: &Route<'_>) -> Result<Dispatch, FleetError> {
        self.state.dispatch_route(route)
    }

    /// As [`Gateway::dispatch_to`].
    ///
    /// # Errors
    /// As there.
    pub fn dispatch_to(&mut self, backend: &str, max: u32) -> Result<Vec<Lease>, FleetError> {
        self.state.dispatch_to(backend, max)
    }

    /// As [`Gateway::heartbeat`].
    ///
    /// # Errors
    /// As there.
    pub fn heartbeat(&mut self, lease: LeaseId) -> Result<Timestamp, LeaseError> {
        self.state.heartbeat(lease)
    }

    /// As [`Gateway::progress`].
    ///
    /// # Errors
    /// As there.
    pub fn progress(&mut self, lease: LeaseId, progress_ppm: u32) -> Result<Timestamp, LeaseError> {
        self.state.progress(lease, progress_ppm)
    }

    /// As [`Gateway::complete`].
    ///
    /// # Errors
    /// As there.
    pub fn complete(&mut self, lease: LeaseId, output: Output, usage: Usage<'_>) -> Result<Settled, LeaseError> {
        self.state.complete(lease, output, &usage)
    }

    /// As [`Gateway::fail`].
    ///
    /// # Errors
    /// As there.
    pub fn fail(&mut self, lease: LeaseId, failure: Failure, usage: Usage<'_>) -> Result<AfterFailure, LeaseError> {
        self.state.fail(lease, failure, &usage)
    }

    /// As [`Gateway::release`].
    ///
    /// # Errors
    /// As there.
    pub fn release(&mut self, lease: LeaseId) -> Result<JobId, LeaseError> {
        self.state.give_back(lease, None, &Usage::unmeasured())
    }

    /// As [`Gateway::release_with`].
    ///
    /// # Errors
    /// As there.
    pub fn release_with(&mut self, lease: LeaseId, usage: Usage<'_>) -> Result<JobId, LeaseError> {
        self.state.give_back(lease, None, &usage)
    }

    /// As [`Gateway::release_until`].
    ///
    /// # Errors
    /// As there.
    pub fn release_until(
        &mut self,
        lease: LeaseId,
        not_before: Timestamp,
        usage: Usage<'_>,
    ) -> Result<JobId, LeaseError> {
        self.state.give_back(lease, Some(not_before), &usage)
    }

    /// As [`Gateway::preempt`].
    ///
    /// # Errors
    /// As there.
    pub fn preempt(&mut self, job: JobId, usage: Usage<'_>) -> Result<LeaseId, JobError> {
        self.state.preempt(job, &usage)
    }

    /// As [`Gateway::cancel`].
    ///
    /// # Errors
    /// As there.
    pub fn cancel(&mut self, job: JobId) -> Result<(), JobError> {
        self.state.cancel(job, &Usage::unmeasured())
    }

    /// As [`Gateway::cancel_with`].
    ///
    /// # Errors
    /// As there.
    pub fn cancel_with(&mut self, job: JobId, usage: Usage<'_>) -> Result<(), JobError> {
        self.state.cancel(job, &usage)
    }

    /// As [`Gateway::cancel_lease`].
    ///
    /// # Errors
    /// As there.
    pub fn cancel_lease(&mut self, lease: LeaseId, usage: Usage<'_>) -> Result<JobId, LeaseError> {
        self.state.cancel_lease(lease, &usage)
    }

    /// As [`Gateway::correct_usage`].
    ///
    /// # Errors
    /// As there.
    pub fn correct_usage(&mut self, lease: LeaseId, usage: Usage<'_>) -> Result<Corrected, LeaseError> {
        self.state.correct_usage(lease, &usage)
    }

    /// As [`Gateway::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&mut self, job: JobId) -> Result<(), JobError> {
        self.state.delete(job)
    }
}

/// Goes back to the savepoint unless that was taken away.
struct Guard<'g> {
    state: &'g mut State,
    savepoint: Option<super::undo::Savepoint>,
    outer: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(savepoint) = self.savepoint.take() {
            self.state.roll_back(&savepoint);
        }
        self.state.recording = self.outer;
        self.state.places.record(self.outer);
    }
}

impl State {
    /// Makes the steps of a transaction lasting.
    pub(crate) fn commit(&mut self) {
        self.undo.clear();
        self.places.commit();
        if !self.held_events.is_empty() {
            // Only what lasts helps somebody: steps that were taken back must not wake who made them.
            self.changes = self.changes.wrapping_add(1);
        }
        for (at, kind) in self.held_events.drain(..) {
            self.events.push(at, kind);
        }
    }
}

impl<E: fmt::Display> fmt::Display for Abort<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { .. } => f.write_str("not now: something the transaction needs is not there"),
            Self::Error(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Display + fmt::Debug> core::error::Error for Abort<E> {}

macro_rules! abort_from {
    ($($error:ty),+) => {
        $(impl<E: From<$error>> From<$error> for Abort<E> {
            fn from(error: $error) -> Self {
                Self::Error(error.into())
            }
        })+
    };
}

abort_from!(InputError, SubmitError, LeaseError, JobError, FleetError);
