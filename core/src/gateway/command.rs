//! The commands as data: one definition for logs, other languages and people.
//!
//! An [`Entry`] is a command with its instant. As JSON it is one line of a log, as postcard one record of it. Applied in
//! the same order, the same entries give the same replies and the same digest, anywhere.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::Gateway;
use super::admission::Submit;
use super::config::CustomerPolicy;
use super::dispatch::{Dispatch, Lease};
use super::fleet::Evicted;
use super::late::Corrected;
use super::lifecycle::{AfterFailure, EvictTo, Failure, Settled};
use super::route::Route;
use super::settlement::Settlement;
use super::state::State;
use super::tick::Advance;
use super::transaction::{Abort, Transaction};
use crate::backend::Backend;
use crate::billing::{Batch, PriceBook, Usage};
use crate::breaker::ForcedState;
use crate::error::{Coded, CommandError, ErrorReply, TransactionError};
use crate::id::{Epoch, JobId, LeaseId};
use crate::job::Output;
use crate::time::Timestamp;

/// A command and the instant it was given at.
///
/// ```
/// use libgateway::{Entry, Gateway, GatewayConfig, Reply, Timestamp};
/// let mut gateway = Gateway::new(GatewayConfig::default(), Timestamp::from_nanos(5))?;
/// let entry = Entry::from_json(r#"{"now":7,"command":{"advance":{}}}"#)?;
/// let Reply::Advanced(advance) = gateway.apply(entry) else { panic!() };
/// assert_eq!(advance.now, Timestamp::from_nanos(7));
/// # Ok::<(), libgateway::error::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry<'a> {
    /// Its number in the log: one more than [`Gateway::commands`] before it. An entry with another one is refused and changes
    /// nothing, so a tail that is applied twice is noticed. Without one it is applied as it comes.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// The host's clock.
    pub now: Timestamp,
    /// What to do.
    #[serde(borrow)]
    pub command: Command<'a>,
}

/// Declares the commands that may stand in a transaction once, for all three places they may stand in: alone, as a step,
/// and inside a step. The nesting ends there, so that no log can nest deeper than a stack is.
macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? }),+ $(,)?) => {
        /// A command that may stand in a transaction.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case", deny_unknown_fields)]
        #[non_exhaustive]
        pub enum Leaf<'a> {
            /// Takes a job in.
            Submit(#[serde(borrow)] Submit<'a>),
            $($(#[$doc])* $name { $($(#[$field_meta])* $field: $type),* }),+
        }

        /// A step of a transaction.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case", deny_unknown_fields)]
        #[non_exhaustive]
        pub enum Step<'a> {
            /// Takes a job in.
            Submit(#[serde(borrow)] Submit<'a>),
            $($(#[$doc])* $name { $($(#[$field_meta])* $field: $type),* },)+
            /// All of these, or the step is not done.
            All(Vec<Leaf<'a>>),
            /// The first of these that can be done now.
            FirstOf(Vec<Leaf<'a>>),
        }

        /// Every change of a gateway as data.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case", deny_unknown_fields)]
        #[non_exhaustive]
        pub enum Command<'a> {
            /// Takes a job in.
            Submit(#[serde(borrow)] Submit<'a>),
            $($(#[$doc])* $name { $($(#[$field_meta])* $field: $type),* },)+
            /// All of these steps, or none of them.
            All(Vec<Step<'a>>),
            /// The first of these steps that can be done now.
            FirstOf(Vec<Step<'a>>),
            /// Handles what is due.
            Advance {},
            /// Takes the host's clock as it is, however far it leapt.
            AcceptClock {},
            /// Begins another life of the gateway: it goes on in the place of one that is gone.
            BeginEpoch {
                /// 64 random bits of the host.
                entropy: u64,
            },
            /// Adds a backend or changes one.
            PutBackend(Backend),
            /// Takes a backend out.
            RemoveBackend {
                /// Its name.
                backend: Cow<'a, str>,
            },
            /// Stops giving a backend new leases, or starts again.
            DrainBackend {
                /// Its name.
                backend: Cow<'a, str>,
                /// Whether to stop.
                draining: bool,
            },
            /// Ends all leases of a backend.
            EvictBackend {
                /// Its name.
                backend: Cow<'a, str>,
                /// What becomes of their jobs.
                #[serde(default)]
                to: EvictTo,
            },
            /// Holds a backend's breaker in a state, or lets go of it.
            ForceBreaker {
                /// The backend's name.
                backend: Cow<'a, str>,
                /// The state; none lets go.
                #[serde(default)]
                state: Option<ForcedState>,
                /// When the override ends by itself.
                #[serde(default)]
                until: Option<Timestamp>,
            },
            /// Gives a customer a policy of its own.
            PutCustomer {
                /// Its name.
                customer: Cow<'a, str>,
                /// The policy.
                policy: CustomerPolicy,
            },
            /// Takes a customer's own policy away.
            RemoveCustomer {
                /// Its name.
                customer: Cow<'a, str>,
            },
            /// Stops serving a route.
            Pause {
                /// The route.
                route: Route<'a>,
            },
            /// Serves a route again.
            Resume {
                /// The route.
                route: Route<'a>,
            },
            /// Puts a newer price book in force.
            PutPrices(PriceBook),
            /// Hands out settlements.
            TakeSettlements {
                /// At most so many.
                max: u32,
            },
            /// Lets go of settlements the host has kept safe.
            ConfirmSettlements {
                /// Which.
                batch: Batch,
            },
            /// Takes settlements back that the host could not keep.
            ReturnSettlements {
                /// Which.
                batch: Batch,
            },
        }

        impl<'a> Step<'a> {
            /// How many steps it counts for.
            fn len(&self) -> u64 {
                match self {
                    Self::All(leaves) | Self::FirstOf(leaves) => (leaves.len() as u64).max(1),
                    _ => 1,
                }
            }

            /// The steps within it, or itself as the only one.
            fn into_leaf(self) -> Result<Leaf<'a>, Group<Leaf<'a>>> {
                match self {
                    Self::Submit(submit) => Ok(Leaf::Submit(submit)),
                    $(Self::$name { $($field),* } => Ok(Leaf::$name { $($field),* }),)+
                    Self::All(leaves) => Err(Group::All(leaves)),
                    Self::FirstOf(leaves) => Err(Group::FirstOf(leaves)),
                }
            }
        }

        impl<'a> Command<'a> {
            /// The command as one that may stand in a transaction, or itself where it may not.
            #[expect(clippy::result_large_err, reason = "both sides are commands, and it is moved once")]
            fn into_leaf(self) -> Result<Leaf<'a>, Self> {
                match self {
                    Self::Submit(submit) => Ok(Leaf::Submit(submit)),
                    $(Self::$name { $($field),* } => Ok(Leaf::$name { $($field),* }),)+
                    other => Err(other),
                }
            }
        }
    };
}

commands! {
    /// Leases the next job of all routes.
    Dispatch {},
    /// Leases the next job of one route.
    DispatchRoute {
        /// The route.
        route: Route<'a>,
    },
    /// Leases jobs of one route to a backend that asks for work.
    DispatchTo {
        /// The backend's name.
        backend: Cow<'a, str>,
        /// At most so many.
        max: u32,
    },
    /// Tells that a lease's worker lives.
    Heartbeat {
        /// The lease.
        lease: LeaseId,
    },
    /// Tells how far a job is.
    Progress {
        /// The lease.
        lease: LeaseId,
        /// Parts per million.
        progress_ppm: u32,
    },
    /// Takes a job's result.
    Complete {
        /// The lease.
        lease: LeaseId,
        /// What it produced.
        output: Output,
        /// What it used; none where nothing was measured.
        #[serde(default)]
        usage: Usage<'a>,
    },
    /// Takes a job's failure.
    Fail {
        /// The lease.
        lease: LeaseId,
        /// How it failed.
        failure: Failure,
        /// What it used; none where nothing was measured.
        #[serde(default)]
        usage: Usage<'a>,
    },
    /// Takes a lease back.
    Release {
        /// The lease.
        lease: LeaseId,
        /// The job may not run before this instant.
        #[serde(default)]
        not_before: Option<Timestamp>,
        /// What it used; none where nothing was measured.
        #[serde(default)]
        usage: Usage<'a>,
    },
    /// Takes the lease of a job that runs back, for another one.
    Preempt {
        /// The job.
        job: JobId,
        /// What its lease used; none where nothing was measured.
        #[serde(default)]
        usage: Usage<'a>,
    },
    /// Gives a job up.
    Cancel {
        /// The job.
        job: JobId,
        /// What its lease used, if it has one; none where nothing was measured.
        #[serde(default)]
        usage: Usage<'a>,
    },
    /// Gives up the job of a live lease.
    CancelLease {
        /// The lease.
        lease: LeaseId,
        /// What it used; none where nothing was measured.
        #[serde(default)]
        usage: Usage<'a>,
    },
    /// Tells what a lease used that has ended.
    CorrectUsage {
        /// The lease.
        lease: LeaseId,
        /// What it used.
        usage: Usage<'a>,
    },
    /// Removes the record of a job that has ended.
    Delete {
        /// The job.
        job: JobId,
    },
}

enum Group<T> {
    All(Vec<T>),
    FirstOf(Vec<T>),
}

impl<T> Group<T> {
    fn len(&self, each: impl Fn(&T) -> u64) -> u64 {
        let (Self::All(steps) | Self::FirstOf(steps)) = self;
        steps.iter().map(each).sum()
    }
}

/// The answer to a command as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply {
    /// The job was taken in, or is the one its idempotency key stands for.
    Submitted {
        /// Its id.
        job: JobId,
    },
    /// A job goes to a backend.
    Leased(Lease),
    /// Nothing can run now.
    Wait {
        /// The next instant at which that may change by itself.
        until: Option<Timestamp>,
    },
    /// Jobs go to the backend that asked.
    Leases(Vec<Lease>),
    /// The lease goes on.
    Extended {
        /// Its new deadline.
        deadline: Timestamp,
    },
    /// The job is complete and settled.
    Completed(Settled),
    /// The attempt failed.
    Failed(AfterFailure),
    /// The job is back in the queue, or in error when it was given back too often.
    Released {
        /// Its id.
        job: JobId,
    },
    /// The job is back in the queue.
    Preempted {
        /// The lease that ended.
        lease: LeaseId,
    },
    /// These leases ended.
    Evicted(Vec<Evicted>),
    /// The job of the lease was given up.
    Cancelled {
        /// Its id.
        job: JobId,
    },
    /// The usage stands in the books.
    Corrected(Corrected),
    /// It is done, and there is no more to say.
    Done {},
    /// What was due is handled.
    Advanced(Advance),
    /// Another life began.
    Began {
        /// Which.
        epoch: Epoch,
    },
    /// Settlements, or none where there are none.
    Settlements(Option<TakenSettlements>),
    /// So many settlements.
    Counted {
        /// How many.
        count: u32,
    },
    /// All steps were done.
    All(Vec<Reply>),
    /// One of the steps was done.
    First {
        /// Which, from 0.
        index: u32,
        /// Its answer.
        reply: Box<Reply>,
    },
    /// Nothing was done.
    Error(ErrorReply),
}

/// Settlements that were handed out together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakenSettlements {
    /// What to confirm or to give back.
    pub batch: Batch,
    /// The settlements.
    pub settlements: Vec<Settlement>,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // People and their tools leave out what is not there; records of a log have all fields in their places.
        let skips = serializer.is_human_readable() && self.sequence.is_none();
        let mut fields = serializer.serialize_struct("Entry", if skips { 2 } else { 3 })?;
        if skips {
            fields.skip_field("sequence")?;
        } else {
            fields.serialize_field("sequence", &self.sequence)?;
        }
        fields.serialize_field("now", &self.now)?;
        fields.serialize_field("command", &self.command)?;
        fields.end()
    }
}

impl<'a> Entry<'a> {
    /// A command at an instant, without a number.
    pub const fn new(now: Timestamp, command: Command<'a>) -> Self {
        Self { sequence: None, now, command }
    }

    /// Sets [`Entry::sequence`].
    #[must_use]
    pub fn numbered(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// Reads one line of a log.
    ///
    /// # Errors
    /// [`CommandError::NotACommand`] with the reason, line and column.
    pub fn from_json(line: &'a str) -> Result<Self, CommandError> {
        serde_json::from_str(line).map_err(|error| CommandError::NotACommand { reason: clip(&error.to_string()) })
    }

    /// Reads one record of a log.
    ///
    /// # Errors
    /// [`CommandError::BadBytes`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, CommandError> {
        match postcard::take_from_bytes(bytes) {
            Ok((entry, [])) => Ok(entry),
            _ => Err(CommandError::BadBytes),
        }
    }

    /// The entry as one line of a log, without the line break.
    pub fn to_json(&self) -> String {
        // Writing to memory fails for no value these types can have.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The entry as one record of a log.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }
}

impl Reply {
    /// The reply as one line, without the line break.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The error, if it is one.
    pub fn error(&self) -> Option<&ErrorReply> {
        match self {
            Self::Error(error) => Some(error),
            _ => None,
        }
    }

    fn of<T, E: Coded + core::fmt::Display>(result: Result<T, E>, tell: impl FnOnce(T) -> Self) -> Self {
        match result {
            Ok(value) => tell(value),
            Err(error) => Self::Error(ErrorReply::from(&error)),
        }
    }

    fn done<E: Coded + core::fmt::Display>(result: Result<(), E>) -> Self {
        Self::of(result, |()| Self::Done {})
    }
}

impl From<Dispatch> for Reply {
    fn from(dispatch: Dispatch) -> Self {
        match dispatch {
            Dispatch::Lease(lease) => Self::Leased(lease),
            Dispatch::Wait { until } => Self::Wait { until },
        }
    }
}

impl Gateway {
    /// Applies a command given as data. The same as the method of its name.
    ///
    /// An entry with a number that is not the next one is answered with [`CommandError::OutOfSequence`]: nothing has changed
    /// then, and no command was counted.
    ///
    /// ```
    /// use libgateway::{Command, Entry, Gateway, GatewayConfig, Timestamp};
    /// let now = Timestamp::from_secs(1);
    /// let mut gateway = Gateway::new(GatewayConfig::default(), now)?;
    /// let entry = Entry::new(now, Command::Advance {}).numbered(1);
    /// assert!(gateway.apply(entry.clone()).error().is_none());
    /// let again = gateway.apply(entry);
    /// assert_eq!(again.error().map(|error| &*error.name), Some("out_of_sequence"));
    /// assert_eq!(gateway.commands(), 1);
    /// # Ok::<(), libgateway::error::Error>(())
    /// ```
    ///
    /// # Complexity
    /// That of the command.
    pub fn apply(&mut self, entry: Entry<'_>) -> Reply {
        let Entry { sequence, now, command } = entry;
        let expected = self.commands() + 1;
        if let Some(sequence) = sequence.filter(|sequence| *sequence != expected) {
            return Reply::Error(ErrorReply::from(&CommandError::OutOfSequence { sequence, expected }));
        }
        match command.into_leaf() {
            Ok(leaf) => self.run(now, |state| state.apply_leaf(leaf)),
            Err(Command::All(steps)) => self.apply_group(now, Group::All(steps)),
            Err(Command::FirstOf(steps)) => self.apply_group(now, Group::FirstOf(steps)),
            Err(Command::Advance {}) => Reply::Advanced(self.advance(now)),
            Err(Command::AcceptClock {}) => Reply::Advanced(self.accept_clock(now)),
            Err(Command::BeginEpoch { entropy }) => Reply::Began { epoch: self.begin_epoch(now, entropy) },
            Err(Command::PutBackend(backend)) => Reply::done(self.put_backend(now, backend)),
            Err(Command::RemoveBackend { backend }) => Reply::done(self.remove_backend(now, &backend)),
            Err(Command::DrainBackend { backend, draining }) => {
                Reply::done(self.drain_backend(now, &backend, draining))
            }
            Err(Command::EvictBackend { backend, to }) => {
                Reply::of(self.evict_backend(now, &backend, to), Reply::Evicted)
            }
            Err(Command::ForceBreaker { backend, state, until }) => {
                Reply::done(self.force_breaker(now, &backend, state, until))
            }
            Err(Command::PutCustomer { customer, policy }) => Reply::done(self.put_customer(now, &customer, policy)),
            Err(Command::RemoveCustomer { customer }) => Reply::done(self.remove_customer(now, &customer)),
            Err(Command::Pause { route }) => Reply::done(self.pause(now, &route)),
            Err(Command::Resume { route }) => Reply::done(self.resume(now, &route)),
            Err(Command::PutPrices(book)) => Reply::done(self.put_prices(now, book)),
            Err(Command::TakeSettlements { max }) => Reply::Settlements(self.take_settlements(now, max)),
            Err(Command::ConfirmSettlements { batch }) => {
                Reply::of(self.confirm_settlements(now, batch), |count| Reply::Counted { count })
            }
            Err(Command::ReturnSettlements { batch }) => {
                Reply::of(self.return_settlements(now, batch), |count| Reply::Counted { count })
            }
            // `into_leaf` took all others.
            Err(_) => Reply::Done {},
        }
    }

    fn apply_group(&mut self, now: Timestamp, group: Group<Step<'_>>) -> Reply {
        let (len, max) = (group.len(Step::len), self.state.config.steps_max);
        if len > u64::from(max) {
            let error = ErrorReply::from(&TransactionError::TooManySteps { len, max });
            return self.run(now, |_| Reply::Error(error));
        }
        let result = self.transaction(now, |tx| {
            tx.group(group, |tx, step| match step.into_leaf() {
                Ok(leaf) => tx.leaf(leaf),
                Err(inner) => tx.group(inner, |tx, leaf| tx.leaf(leaf)),
            })
        });
        match result {
            Ok(reply) => reply,
            Err(Abort::Error(error)) => Reply::Error(error),
            Err(Abort::Retry { until }) => Reply::Error(ErrorReply::from(&TransactionError::NotNow { until })),
        }
    }
}

impl Transaction<'_> {
    fn group<T>(
        &mut self,
        group: Group<T>,
        mut run: impl FnMut(&mut Transaction<'_>, T) -> Result<Reply, Abort<ErrorReply>>,
    ) -> Result<Reply, Abort<ErrorReply>> {
        let steps = match group {
            Group::All(steps) if !steps.is_empty() => {
                return self.attempt(|tx| {
                    let replies: Result<Vec<Reply>, _> = steps.into_iter().map(|step| run(tx, step)).collect();
                    replies.map(Reply::All)
                });
            }
            Group::FirstOf(steps) => steps,
            Group::All(_) => Vec::new(),
        };
        let mut last = Abort::Error(ErrorReply::from(&TransactionError::NoStep));
        let mut earliest = None;
        for (index, step) in steps.into_iter().enumerate() {
            match self.attempt(|tx| run(tx, step)) {
                Ok(reply) => return Ok(Reply::First { index: index as u32, reply: Box::new(reply) }),
                Err(Abort::Retry { until }) => {
                    earliest = [earliest, until].into_iter().flatten().min();
                    last = Abort::Retry { until: earliest };
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn leaf(&mut self, leaf: Leaf<'_>) -> Result<Reply, Abort<ErrorReply>> {
        match self.state_mut().apply_leaf(leaf) {
            Reply::Wait { until } => Err(Abort::Retry { until }),
            Reply::Leases(leases) if leases.is_empty() => Err(Abort::Retry { until: self.state_mut().next_deadline() }),
            Reply::Error(error) => Err(Abort::Error(error)),
            reply => Ok(reply),
        }
    }
}

impl State {
    fn apply_leaf(&mut self, leaf: Leaf<'_>) -> Reply {
        match leaf {
            Leaf::Submit(submit) => Reply::of(self.submit(submit), |job| Reply::Submitted { job }),
            Leaf::Dispatch {} => self.dispatch().into(),
            Leaf::DispatchRoute { route } => Reply::of(self.dispatch_route(&route), Reply::from),
            Leaf::DispatchTo { backend, max } => Reply::of(self.dispatch_to(&backend, max), Reply::Leases),
            Leaf::Heartbeat { lease } => Reply::of(self.heartbeat(lease), |deadline| Reply::Extended { deadline }),
            Leaf::Progress { lease, progress_ppm } => {
                Reply::of(self.progress(lease, progress_ppm), |deadline| Reply::Extended { deadline })
            }
            Leaf::Complete { lease, output, usage } => {
                Reply::of(self.complete(lease, output, &usage), Reply::Completed)
            }
            Leaf::Fail { lease, failure, usage } => Reply::of(self.fail(lease, failure, &usage), Reply::Failed),
            Leaf::Release { lease, not_before, usage } => {
                Reply::of(self.give_back(lease, not_before, &usage), |job| Reply::Released { job })
            }
            Leaf::Preempt { job, usage } => Reply::of(self.preempt(job, &usage), |lease| Reply::Preempted { lease }),
            Leaf::Cancel { job, usage } => Reply::done(self.cancel(job, &usage)),
            Leaf::CancelLease { lease, usage } => {
                Reply::of(self.cancel_lease(lease, &usage), |job| Reply::Cancelled { job })
            }
            Leaf::CorrectUsage { lease, usage } => Reply::of(self.correct_usage(lease, &usage), Reply::Corrected),
            Leaf::Delete { job } => Reply::done(self.delete(job)),
        }
    }
}

/// An error's reason within the length a message may have.
fn clip(text: &str) -> Box<str> {
    match text.char_indices().nth(REASON_LEN_MAX) {
        Some((at, _)) => Box::from(&text[..at]),
        None => Box::from(text),
    }
}

const REASON_LEN_MAX: usize = 900;
