//! Every error of the library: its family, its fixed number and its name.
//!
//! One enum per family of operations. Each variant carries a number that never changes and is never used again, and a
//! `snake_case` name; Rust, Python, C and HTTP show the same ones. [`all`] lists them.
//!
//! Where several errors apply to one call, the lower stage wins: shape of the input (2xx), then what it refers to
//! (unknown names), then conflicts with what exists, then limits (full).

use alloc::boxed::Box;
use alloc::string::String;

use thiserror::Error;

pub use crate::coded::{Coded, Full, InputError, Scope};
use crate::coded::{FULL, INPUT, coded};
use crate::id::JobId;
use crate::time::Timestamp;

/// A configuration cannot be. The field it names is one of the configuration.
pub type ConfigError = InputError;

/// A job was not taken in. 4xx. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// A value of the submission cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The idempotency key stands for a job with another payload, route or priority.
    #[error("idempotency_key stands for job {job}, which was submitted with another payload, route or priority")]
    IdempotencyConflict {
        /// The job it stands for.
        job: JobId,
    },
    /// No backend was ever declared for the route.
    #[error("no backend serves route {route}")]
    UnknownRoute {
        /// The route.
        route: Box<str>,
    },
    /// The id stands for another job.
    #[error("id {job} stands for a job already")]
    DuplicateJob {
        /// The id.
        job: JobId,
    },
    /// A limit is reached; it may be below it again later.
    #[error(transparent)]
    Full(#[from] Full),
}

coded!(SubmitError, SUBMIT {
    IdempotencyConflict = 401 "idempotency_conflict",
    UnknownRoute = 402 "unknown_route",
    DuplicateJob = 403 "duplicate_job",
} delegate Input, Full field |error| match error {
    SubmitError::IdempotencyConflict { .. } => Some("idempotency_key"),
    SubmitError::UnknownRoute { .. } => Some("route"),
    SubmitError::DuplicateJob { .. } => Some("id"),
    _ => None,
});

/// A result or word of a lease was not taken. 5xx. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// A value of the call cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The lease has ended: its time was over, its result was taken, or its job was cancelled. Stop working for it.
    #[error("lease {lease} has ended, stop working for it")]
    Superseded {
        /// The lease.
        lease: u64,
    },
    /// This gateway never granted such a lease.
    #[error("lease {lease} was never granted here")]
    UnknownLease {
        /// The lease.
        lease: u64,
    },
    /// The lease is live: what it used comes with its result.
    #[error("lease {lease} is live, what it used comes with its result")]
    StillLive {
        /// The lease.
        lease: u64,
    },
    /// The lease ended too long ago, or too many have since, for its usage to be told now.
    #[error("lease {lease} ended too long ago for its usage to be told")]
    TooLate {
        /// The lease.
        lease: u64,
    },
    /// The usage cannot be billed.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// No room for a correcting settlement.
    #[error(transparent)]
    Full(#[from] Full),
}

coded!(LeaseError, LEASE {
    Superseded = 501 "superseded",
    UnknownLease = 502 "unknown_lease",
    StillLive = 511 "still_live",
    TooLate = 512 "too_late",
} delegate Input, Billing, Full field |error| match error {
    LeaseError::Superseded { .. }
    | LeaseError::UnknownLease { .. }
    | LeaseError::StillLive { .. }
    | LeaseError::TooLate { .. } => Some("lease"),
    _ => None,
});

/// A job is not there, or not in a state for the call. 6xx. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// No job of that id is known, or it is no longer.
    #[error("job {job} is not known")]
    UnknownJob {
        /// The id.
        job: JobId,
    },
    /// The job has ended.
    #[error("job {job} has ended: {state}")]
    Ended {
        /// The id.
        job: JobId,
        /// Its state.
        state: &'static str,
    },
    /// The event cannot happen to a job in its state.
    #[error("job {job} is {state}, it cannot {event}")]
    NotAllowed {
        /// The id.
        job: JobId,
        /// Its state.
        state: &'static str,
        /// The event.
        event: &'static str,
    },
    /// The attempt is no longer the present one: another has begun since.
    #[error("attempt {attempt} of job {job} is over, the present one is {present}")]
    StaleAttempt {
        /// The id.
        job: JobId,
        /// The attempt given.
        attempt: u32,
        /// The present one.
        present: u32,
    },
    /// The job was preempted as often as it may be, and runs on.
    #[error("job {job} was preempted {preemptions} times, as often as it may be")]
    PreemptedTooOften {
        /// The id.
        job: JobId,
        /// How often.
        preemptions: u32,
    },
    /// A value of the call cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The usage cannot be billed.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// The job has not ended.
    #[error("job {job} has not ended: {state}")]
    NotEnded {
        /// The id.
        job: JobId,
        /// Its state.
        state: &'static str,
    },
}

coded!(JobError, JOB {
    UnknownJob = 601 "unknown_job",
    Ended = 602 "ended",
    NotEnded = 603 "not_ended",
    NotAllowed = 604 "not_allowed",
    StaleAttempt = 605 "stale_attempt",
    PreemptedTooOften = 606 "preempted_too_often",
} delegate Input, Billing field |_| Some("job"));

/// A backend, customer or route is not there or cannot be. 7xx. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FleetError {
    /// A value of the call cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No backend of that name is known.
    #[error("backend {backend} is not known")]
    UnknownBackend {
        /// The name.
        backend: Box<str>,
    },
    /// No customer of that name has a policy of its own.
    #[error("customer {customer} has no policy of its own")]
    UnknownCustomer {
        /// The name.
        customer: Box<str>,
    },
    /// No backend serves the route, and no job waits for one.
    #[error("no backend serves route {route}")]
    UnknownRoute {
        /// The route.
        route: Box<str>,
    },
    /// A limit is reached.
    #[error(transparent)]
    Full(#[from] Full),
}

coded!(FleetError, FLEET {
    UnknownBackend = 701 "unknown_backend",
    UnknownCustomer = 702 "unknown_customer",
    UnknownRoute = 703 "route_not_served",
} delegate Input, Full field |error| match error {
    FleetError::UnknownBackend { .. } => Some("backend"),
    FleetError::UnknownCustomer { .. } => Some("customer"),
    FleetError::UnknownRoute { .. } => Some("route"),
    _ => None,
});

/// Bytes are no snapshot this library can restore. 12xx.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes end too early.
    #[error("the snapshot is truncated")]
    Truncated,
    /// The bytes do not begin like a snapshot.
    #[error("the bytes are not a snapshot")]
    NotASnapshot,
    /// A newer library made it.
    #[error("the snapshot has version {version}, this library knows up to {known}")]
    NewerVersion {
        /// Its version.
        version: u16,
        /// The highest known.
        known: u16,
    },
    /// The digest does not fit: bytes were changed.
    #[error("the snapshot was altered: its digest does not fit")]
    Altered,
    /// The gateway was given a command while its snapshot was taken in slices.
    #[error("the gateway changed since the first slice of the snapshot")]
    Changed,
    /// The digest fits but the content contradicts itself.
    #[error("the snapshot contradicts itself: {what}")]
    Corrupt {
        /// What about.
        what: &'static str,
    },
}

coded!(SnapshotError, SNAPSHOT {
    Truncated = 1201 "truncated",
    NotASnapshot = 1202 "not_a_snapshot",
    NewerVersion = 1203 "newer_version",
    Altered = 1204 "altered",
    Corrupt = 1205 "corrupt",
    Changed = 1206 "changed",
});

/// A line or record of a log is no command. 13xx.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The text is not JSON, or not that of a command: unknown or missing fields, wrong types.
    #[error("not a command: {reason}")]
    NotACommand {
        /// Why, with line and column.
        reason: Box<str>,
    },
    /// The bytes are not those of a command.
    #[error("the bytes are not a command")]
    BadBytes,
    /// The entry is not the next one of the log: it was applied before, or one before it was not.
    #[error("entry {sequence} is not the next one, which is {expected}")]
    OutOfSequence {
        /// Its number.
        sequence: u64,
        /// That of the next one.
        expected: u64,
    },
}

coded!(CommandError, COMMAND {
    NotACommand = 1301 "not_a_command",
    BadBytes = 1302 "bad_bytes",
    OutOfSequence = 1303 "out_of_sequence",
} field |error| match error {
    CommandError::OutOfSequence { .. } => Some("sequence"),
    _ => None,
});

/// Steps were not done because something they need is not there now. 14xx. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// Something is not there now.
    #[error("not now: something the transaction needs is not there")]
    NotNow {
        /// The next instant at which that may change by itself.
        until: Option<Timestamp>,
    },
    /// There is no step in it.
    #[error("the transaction has no step")]
    NoStep,
    /// It has more steps than the gateway's configuration allows.
    #[error("the transaction has {len} steps, at most {max} are allowed")]
    TooManySteps {
        /// Its steps, those within steps counted each.
        len: u64,
        /// The limit.
        max: u32,
    },
}

coded!(TransactionError, TRANSACTION {
    NotNow = 1401 "not_now",
    NoStep = 1402 "no_step",
    TooManySteps = 1403 "too_many_steps",
} field |error| matches!(error, TransactionError::TooManySteps { .. }).then_some("steps"));

/// An item was not taken into a queue. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A value of the call cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A limit is reached.
    #[error(transparent)]
    Full(#[from] Full),
}

coded!(QueueError delegate Input, Full);

/// A call panicked under the lock of a shared gateway: its state is not to be trusted. Restore it from a snapshot or log.
/// 1501.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a call panicked under the lock, restore the gateway from a snapshot or log")]
pub struct Poisoned;

impl Coded for Poisoned {
    fn number(&self) -> u16 {
        1501
    }

    fn name(&self) -> &'static str {
        "poisoned"
    }
}

const POISONED: &[(u16, &str)] = &[(1501, "poisoned")];

/// Any error of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A limit that is reached.
    #[error(transparent)]
    Full(#[from] Full),
    /// Of a submission.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Of a lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Of a job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Of a backend, customer or route.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Of the outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// Of a snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Of a log.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Of a transaction.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
}

coded!(Error delegate Input, Full, Submit, Lease, Job, Fleet, Outbox, Snapshot, Command, Transaction);

/// A call could not be billed. 11xx. Nothing has changed where one of these is returned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BillingError {
    /// A value of the call cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The call was never started, or has ended already: there is nothing to subtract its end from.
    #[error("the call has no open start")]
    NoStart,
    /// The call is open already; a second start would move its beginning.
    #[error("the call is started already")]
    AlreadyStarted,
    /// A device worked longer than the call lasted.
    #[error("a device reports {used_ns} ns of work, the call allows {allowed_ns} ns")]
    UsageExceedsElapsed {
        /// Nanoseconds reported for the device.
        used_ns: u64,
        /// Most that was possible, tolerance and slack included.
        allowed_ns: u64,
    },
    /// Usage times price does not fit into 64 bits of micro-units.
    #[error("the charge overflows 64 bits of micro-units")]
    ChargeOverflow,
    /// No room for another start, or for the record it will end in.
    #[error(transparent)]
    Full(#[from] Full),
}

coded!(BillingError, BILLING {
    NoStart = 1101 "no_start",
    AlreadyStarted = 1102 "already_started",
    UsageExceedsElapsed = 1103 "usage_exceeds_elapsed",
    ChargeOverflow = 1104 "charge_overflow",
} delegate Input, Full field |error| match error {
    BillingError::NoStart | BillingError::AlreadyStarted => Some("request_id"),
    BillingError::UsageExceedsElapsed { .. } | BillingError::ChargeOverflow => Some("usage"),
    _ => None,
});

/// The outbox does not know a batch that way. 1111 and up. Nothing has changed where one of these is returned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// No such batch was ever handed out.
    #[error("batch {batch} was never handed out")]
    UnknownBatch {
        /// The id given.
        batch: u64,
    },
    /// The batch was given back, by the host or by its deadline: its entries are handed out again.
    #[error("batch {batch} was given back, its entries are handed out again")]
    BatchSuperseded {
        /// The id given.
        batch: u64,
    },
    /// An entry that somebody may have seen cannot be taken back.
    #[error("entry {seq} was handed out already")]
    HandedOut {
        /// The number of the entry.
        seq: u64,
    },
}

coded!(OutboxError, OUTBOX {
    UnknownBatch = 1111 "unknown_batch",
    BatchSuperseded = 1112 "batch_superseded",
    HandedOut = 1113 "handed_out",
} field |error| match error {
    OutboxError::UnknownBatch { .. } | OutboxError::BatchSuperseded { .. } => Some("batch"),
    OutboxError::HandedOut { .. } => Some("seq"),
});

/// Every error number with its name, ascending. A number that was retired stays here as a comment.
///
/// ```
/// assert!(libgateway::error::all().any(|(number, name)| number == 202 && name == "too_long"));
/// ```
pub fn all() -> impl Iterator<Item = (u16, &'static str)> {
    ALL.iter().flat_map(|list| list.iter().copied())
}

/// The families of [`all`].
const ALL: &[&[(u16, &str)]] =
    &[INPUT, FULL, SUBMIT, LEASE, JOB, FLEET, BILLING, OUTBOX, SNAPSHOT, COMMAND, TRANSACTION, POISONED];

/// An error as data: what a reply carries into other languages and logs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct ErrorReply {
    /// The fixed number.
    pub number: u16,
    /// The fixed name.
    pub name: String,
    /// The field the error is about, where there is one.
    pub field: Option<String>,
    /// The message for people.
    pub message: String,
    /// The limit that is reached, where that is the error; JSON leaves it out elsewhere.
    #[serde(default)]
    pub limit: Option<Box<LimitReply>>,
}

/// A limit that is reached, as data.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LimitReply {
    /// The table, named as its limit in the configuration without `_max`.
    pub name: String,
    /// Whose limit it is: `customer`, `gateway` or `part`.
    pub scope: String,
    /// What is in it.
    pub measured: u64,
    /// The limit.
    pub max: u64,
    /// The first instant at which there will be room by itself, where that is known.
    pub retry_at: Option<Timestamp>,
}

impl serde::Serialize for ErrorReply {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        // A format without field names must have them all.
        let told = self.limit.is_some() || !serializer.is_human_readable();
        let mut fields = serializer.serialize_struct("ErrorReply", 4 + usize::from(told))?;
        fields.serialize_field("number", &self.number)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("field", &self.field)?;
        fields.serialize_field("message", &self.message)?;
        if told {
            fields.serialize_field("limit", &self.limit)?;
        }
        fields.end()
    }
}

impl From<&Full> for LimitReply {
    fn from(full: &Full) -> Self {
        let (name, scope) = (String::from(full.what), String::from(full.scope.as_str()));
        Self { name, scope, measured: full.measured, max: full.max, retry_at: full.retry_at }
    }
}

impl<E: Coded + core::fmt::Display> From<&E> for ErrorReply {
    fn from(error: &E) -> Self {
        use alloc::string::ToString;
        Self {
            number: error.number(),
            name: error.name().to_string(),
            field: error.field().map(ToString::to_string),
            message: error.to_string(),
            limit: error.limit().map(|full| Box::new(LimitReply::from(full))),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn an_error_as_data_comes_back_from_every_format() {
        let full = Full::new("jobs", Scope::Gateway, 2, 2).retry_at(Some(Timestamp::from_nanos(7)));
        for reply in [ErrorReply::from(&full), ErrorReply::from(&Poisoned)] {
            let json = serde_json::to_string(&reply).unwrap();
            assert_eq!(json.contains("limit"), reply.limit.is_some());
            assert_eq!(serde_json::from_str::<ErrorReply>(&json).unwrap(), reply);
            assert_eq!(postcard::from_bytes(&postcard::to_allocvec(&reply).unwrap()), Ok(reply));
        }
        assert_eq!(full.to_string(), "jobs is full: 2 of at most 2 in this gateway");
    }
}
