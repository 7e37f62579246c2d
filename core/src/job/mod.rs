//! Jobs: what they are, how they may change, where they are kept.

mod keys;
mod lifecycle;
mod payload;
mod store;
mod table;

use alloc::boxed::Box;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

pub(crate) use keys::{Idempotency, KeyEntry, KeyLimits};
pub use lifecycle::{JobEvent, JobState};
pub use payload::Payload;
pub use store::{JobStore, JobStoreConfig, NewJob, StoredJob};
pub(crate) use table::{
    Content, Deadlines, Earlier, Extra, FAILED_MAX, Hold, Job, JobHot, JobTable, NO_LEASE, Requeues, TableLimits,
};

use crate::error::InputError;
use crate::failure::FailureClass;
use crate::time::Span;

/// The lane a job waits in: a higher lane is served before a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Served first.
    High,
    /// The default.
    #[default]
    Normal,
    /// Served when nothing higher can run.
    Low,
}

/// What a job asks a model to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Task {
    /// Text to image.
    T2i,
    /// Image to image.
    I2i,
    /// Edit an image within a mask.
    Edit,
    /// Text to video.
    T2v,
    /// Image to video.
    I2v,
    /// Complete a text.
    Complete,
    /// Answer a chat.
    Chat,
    /// Fill a gap in a text.
    Infill,
    /// Embed a text.
    Embed,
}

/// What a finished job produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Output {
    /// Where the result lies.
    Url(Box<str>),
    /// The result itself.
    Inline(Payload),
}

/// Why a job ended in error, or why its latest attempt did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFailure {
    /// The kind of failure.
    pub class: FailureClass,
    /// The host's words, for people.
    pub message: Box<str>,
    /// Whether another submission might succeed.
    pub retriable: bool,
}

/// Why a job was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CancelReason {
    /// Somebody asked for it.
    Requested,
    /// It waited longer than its queue time.
    QueueTimeout,
    /// It did not start in time.
    StartTimeout,
    /// It was still waiting when its whole time was over.
    TotalTimeout,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It produced something.
    Complete(Output),
    /// It failed for good.
    Error(JobFailure),
    /// It was given up.
    Cancelled(CancelReason),
}

/// The four clocks of a job. `None` takes the gateway's default for that clock.
///
/// ```
/// use libgateway::{Span, Timeouts};
/// let timeouts = Timeouts { queue: Some(Span::from_secs(60)), ..Timeouts::default() };
/// assert_eq!(timeouts.queue.map(Span::as_nanos), Some(60_000_000_000));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Longest single stay in the queue; then the job is cancelled.
    pub queue: Option<Span>,
    /// Longest time from submission to its first start; then the job is cancelled.
    pub start: Option<Span>,
    /// Longest time of one attempt; then the attempt failed with a timeout.
    pub run: Option<Span>,
    /// Longest time from submission to the end; then a waiting job is cancelled and a running one is in error.
    pub total: Option<Span>,
}

impl Timeouts {
    /// No clock runs.
    pub const NONE: Self = Self { queue: None, start: None, run: None, total: None };

    /// Each clock of `self`, or that of `defaults` where it is `None`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            queue: self.queue.or(defaults.queue),
            start: self.start.or(defaults.start),
            run: self.run.or(defaults.run),
            total: self.total.or(defaults.total),
        }
    }
}

impl Priority {
    /// The number of the lane; 0 is served first.
    pub const fn lane(self) -> u8 {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    /// The priority served from lane `lane`; lanes beyond the last are the last.
    pub const fn from_lane(lane: u8) -> Self {
        match lane {
            0 => Self::High,
            1 => Self::Normal,
            _ => Self::Low,
        }
    }
}

impl Task {
    /// Every task with its name.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::T2i, "t2i"),
        (Self::I2i, "i2i"),
        (Self::Edit, "edit"),
        (Self::T2v, "t2v"),
        (Self::I2v, "i2v"),
        (Self::Complete, "complete"),
        (Self::Chat, "chat"),
        (Self::Infill, "infill"),
        (Self::Embed, "embed"),
    ];

    /// The name of the task.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(task, _)| *task == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Task {
    type Err = InputError;

    /// # Errors
    /// [`InputError::Malformed`] unless the text is the exact name of a task.
    fn from_str(text: &str) -> Result<Self, InputError> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(task, _)| *task).ok_or(InputError::Malformed { field: "task", expected: TASKS })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Output {
    /// A result that lies at `url`.
    pub fn url(url: impl Into<Box<str>>) -> Self {
        Self::Url(url.into())
    }

    /// A result that is `data` itself.
    pub fn inline(data: impl Into<Payload>) -> Self {
        Self::Inline(data.into())
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        match self {
            Self::Url(url) => url.len(),
            Self::Inline(data) => data.len(),
        }
    }

    /// Whether there is nothing in it. Nothing is a result, too, where it is given inline: a model may have nothing to say.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Errors
    /// [`InputError::Empty`] for a result that is said to lie nowhere.
    pub(crate) fn check(&self) -> Result<(), InputError> {
        match self {
            Self::Url(url) if url.is_empty() => Err(InputError::Empty { field: "output" }),
            _ => Ok(()),
        }
    }
}

impl Outcome {
    /// The terminal state this outcome belongs to.
    pub const fn state(&self) -> JobState {
        match self {
            Self::Complete(_) => JobState::Complete,
            Self::Error(_) => JobState::Error,
            Self::Cancelled(_) => JobState::Cancelled,
        }
    }
}

const TASKS: &str = "one of t2i, i2i, edit, t2v, i2v, complete, chat, infill, embed";
