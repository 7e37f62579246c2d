//! What a keyed limiter answers.

use serde::{Deserialize, Serialize};

use crate::limiter::Acquire;
use crate::time::{Clock, Span, Timestamp};

/// Whether tokens of a key were taken.
///
/// ```
/// use libgateway::{KeyedAcquire, Span, Timestamp};
/// let answer = KeyedAcquire::Full { until: Timestamp::from_secs(3) };
/// assert_eq!(answer.retry_after(Timestamp::from_secs(1)), Some(Span::from_secs(2)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum KeyedAcquire {
    /// They were taken.
    Allow {
        /// Whole tokens left.
        remaining: u64,
    },
    /// Not yet: the key is out of tokens. Nothing was taken.
    Deny {
        /// The first nanosecond at which the same call is allowed if nobody takes tokens of this key before.
        until: Timestamp,
    },
    /// Not ever: the cost is above the burst, or the tokens do not come before the end of time.
    Never,
    /// They were taken, of the bucket that new keys share while there is no room to remember them.
    Shared {
        /// Whole tokens left for all such keys.
        remaining: u64,
    },
    /// Not yet: the key is new, there is no room to remember it, and the bucket that such keys share has not the tokens.
    /// Nothing was taken.
    Full {
        /// The first nanosecond at which the same call is allowed if nobody takes tokens before; [`Timestamp::MAX`] if
        /// neither room nor tokens will ever come.
        until: Timestamp,
    },
}

impl KeyedAcquire {
    /// Whether the tokens were taken.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow { .. } | Self::Shared { .. })
    }

    /// How long to wait for the same call to be allowed: nothing if it was, `None` if it never will be.
    pub const fn retry_after(self, now: Timestamp) -> Option<Span> {
        match self {
            Self::Allow { .. } | Self::Shared { .. } => Some(Span::ZERO),
            Self::Deny { until } => Some(until.since(now)),
            Self::Full { until } if until.as_nanos() < u64::MAX => Some(until.since(now)),
            Self::Never | Self::Full { .. } => None,
        }
    }

    /// The answer as the host's clock shows it.
    #[inline]
    pub(super) fn to_host(self, clock: &Clock) -> Self {
        match self {
            Self::Deny { until } => Self::Deny { until: clock.to_host(until) },
            Self::Full { until } => Self::Full { until: clock.to_host(until) },
            answer => answer,
        }
    }
}

impl From<Acquire> for KeyedAcquire {
    #[inline]
    fn from(answer: Acquire) -> Self {
        match answer {
            Acquire::Allow { remaining } => Self::Allow { remaining },
            Acquire::Deny { until } => Self::Deny { until },
            Acquire::Never => Self::Never,
        }
    }
}
