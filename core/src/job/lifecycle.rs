//! The lifecycle of a job as one table.

use serde::{Deserialize, Serialize};

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for a backend, or for the instant of its next attempt.
    Queued,
    /// On a backend under a lease.
    Running,
    /// Ended with an output.
    Complete,
    /// Ended with a failure.
    Error,
    /// Given up on request or by a deadline.
    Cancelled,
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEvent {
    /// A backend takes it under a lease.
    Lease,
    /// Its lease delivered an output.
    Succeed,
    /// Its lease, or its whole time, failed for good.
    Fail,
    /// It goes back to the queue: to be tried again, or because its lease was lost or given back.
    Requeue,
    /// Somebody gives it up, or a deadline does while it waits.
    Cancel,
    /// Its record is removed.
    Forget,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Complete, Self::Error, Self::Cancelled];

    /// Whether the job has ended. A terminal state is final.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Error | Self::Cancelled)
    }

    /// The state after `event`, or `None` where it cannot happen.
    ///
    /// | | lease | succeed | fail | requeue | cancel | forget |
    /// |---|---|---|---|---|---|---|
    /// | queued | running | – | – | – | cancelled | – |
    /// | running | – | complete | error | queued | cancelled | – |
    /// | complete, error, cancelled | – | – | – | – | – | gone |
    ///
    /// "Gone" is told as the state itself: the record that had it is no longer there.
    ///
    /// ```
    /// use libgateway::{JobEvent, JobState};
    /// assert_eq!(JobState::Queued.after(JobEvent::Lease), Some(JobState::Running));
    /// assert_eq!(JobState::Cancelled.after(JobEvent::Requeue), None);
    /// ```
    pub const fn after(self, event: JobEvent) -> Option<Self> {
        match (self, event) {
            (Self::Queued, JobEvent::Lease) => Some(Self::Running),
            (Self::Running, JobEvent::Succeed) => Some(Self::Complete),
            (Self::Running, JobEvent::Fail) => Some(Self::Error),
            (Self::Running, JobEvent::Requeue) => Some(Self::Queued),
            (Self::Queued | Self::Running, JobEvent::Cancel) => Some(Self::Cancelled),
            (Self::Complete | Self::Error | Self::Cancelled, JobEvent::Forget) => Some(self),
            _ => None,
        }
    }

    /// The name of the state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

impl JobEvent {
    /// The name of the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Succeed => "succeed",
            Self::Fail => "fail",
            Self::Requeue => "requeue",
            Self::Cancel => "cancel",
            Self::Forget => "forget",
        }
    }

    /// Every event.
    pub const ALL: [Self; 6] = [Self::Lease, Self::Succeed, Self::Fail, Self::Requeue, Self::Cancel, Self::Forget];
}

#[cfg(test)]
mod tests {
    use super::JobEvent::{Cancel, Fail, Forget, Lease, Requeue, Succeed};
    use super::JobState::{Cancelled, Complete, Error, Queued, Running};
    use super::*;

    #[test]
    fn every_pair_of_state_and_event_has_its_answer() {
        let allowed = [
            (Queued, Lease, Running),
            (Queued, Cancel, Cancelled),
            (Running, Succeed, Complete),
            (Running, Fail, Error),
            (Running, Requeue, Queued),
            (Running, Cancel, Cancelled),
            (Complete, Forget, Complete),
            (Error, Forget, Error),
            (Cancelled, Forget, Cancelled),
        ];
        let mut pairs = 0;
        for state in JobState::ALL {
            for event in JobEvent::ALL {
                let expected = allowed.iter().find(|(from, what, _)| (*from, *what) == (state, event));
                assert_eq!(state.after(event), expected.map(|(.., to)| *to), "{state:?} {event:?}");
                pairs += 1;
            }
        }
        assert_eq!(pairs, 30);
    }

    #[test]
    fn a_terminal_state_is_never_left_for_another() {
        for state in JobState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for event in JobEvent::ALL {
                assert!(state.after(event).is_none_or(|after| after == state));
            }
        }
    }
}
