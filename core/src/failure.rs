//! What can go wrong with a job on a backend, as a small closed vocabulary.
//!
//! The class decides whether the job is tried again and whether the backend is blamed; no text is ever searched for words.

use serde::{Deserialize, Serialize};

use crate::time::Span;

/// Why an attempt failed.
///
/// ```
/// use libgateway::{FailureClass, Span};
/// assert!(FailureClass::Http(503).is_retriable(None));
/// assert!(!FailureClass::Http(501).is_retriable(None));
/// assert!(!FailureClass::Http(429).is_retriable(None));
/// assert!(FailureClass::Http(429).is_retriable(Some(Span::from_secs(7))));
/// assert!(!FailureClass::Http(429).counts_against_backend());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// No answer within the time allowed.
    Timeout,
    /// No connection could be made.
    Connection,
    /// The connection broke before the answer was complete.
    Network,
    /// An answer with this HTTP status, which is not a success.
    Http(u16),
    /// The backend took the job and says that it failed, or answers success without an output.
    Backend,
    /// We refused the job ourselves, before any backend saw it.
    Rejected,
    /// The lease ran out without a word.
    Lost,
}

impl FailureClass {
    /// Whether the same job may succeed when it is tried again after a delay.
    ///
    /// Timeouts, connection and network failures and the statuses 500, 502, 503 and 504 are; 429 is when the backend said
    /// by `Retry-After` when. A backend's own failure is not by default: whoever reports it may know better. A lost lease
    /// is not a failed attempt: the job returns to the queue, see [`FailureClass::is_requeued`].
    pub const fn is_retriable(self, retry_after: Option<Span>) -> bool {
        match self {
            Self::Timeout | Self::Connection | Self::Network | Self::Http(500 | 502 | 503 | 504) => true,
            Self::Http(429) => retry_after.is_some(),
            Self::Http(_) | Self::Backend | Self::Rejected | Self::Lost => false,
        }
    }

    /// Whether the job goes back to the queue without counting as an attempt: the fault is ours or nobody's.
    pub const fn is_requeued(self) -> bool {
        matches!(self, Self::Lost)
    }

    /// Whether it shows that the backend works: it understood a request and refused it. The statuses 400 to 499 do, without
    /// 408, 409, 425 and 429, which say that it is too slow or too busy.
    pub const fn is_sign_of_life(self) -> bool {
        match self {
            Self::Http(status) => matches!(status, 400..=499) && !matches!(status, 408 | 409 | 425 | 429),
            _ => false,
        }
    }

    /// Whether a breaker should hear of it as a failure. Our own refusals and statuses below 500 do not count against a
    /// backend.
    pub const fn counts_against_backend(self) -> bool {
        match self {
            Self::Timeout | Self::Connection | Self::Network | Self::Backend | Self::Lost => true,
            Self::Http(status) => matches!(status, 500..=599),
            Self::Rejected => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_statuses_only_four_are_retriable_and_429_where_it_says_when() {
        let told = Some(Span::ZERO);
        for status in 100..=599 {
            let class = FailureClass::Http(status);
            assert_eq!(class.is_retriable(None), [500, 502, 503, 504].contains(&status), "{status}");
            assert_eq!(class.is_retriable(told), [429, 500, 502, 503, 504].contains(&status), "{status}");
            assert_eq!(class.counts_against_backend(), status >= 500, "{status}");
            assert!(!class.is_requeued(), "{status}");
            let alive = (400..500).contains(&status) && ![408, 409, 425, 429].contains(&status);
            assert_eq!(class.is_sign_of_life(), alive, "{status}");
        }
        for status in [0, 99, 600, u16::MAX] {
            assert!(!FailureClass::Http(status).is_retriable(told), "{status}");
            assert!(!FailureClass::Http(status).counts_against_backend(), "{status}");
        }
    }

    #[test]
    fn classes_without_a_status_answer_by_their_table() {
        // (class, retriable, requeued, counts against the backend)
        for (class, retriable, requeued, counts) in [
            (FailureClass::Timeout, true, false, true),
            (FailureClass::Connection, true, false, true),
            (FailureClass::Network, true, false, true),
            (FailureClass::Backend, false, false, true),
            (FailureClass::Rejected, false, false, false),
            (FailureClass::Lost, false, true, true),
        ] {
            for retry_after in [None, Some(Span::from_secs(1))] {
                assert_eq!(class.is_retriable(retry_after), retriable, "{class:?}");
            }
            assert_eq!(class.is_requeued(), requeued, "{class:?}");
            assert_eq!(class.counts_against_backend(), counts, "{class:?}");
        }
    }

    #[test]
    fn classes_are_written_in_snake_case() {
        let text = serde_json::to_string(&[FailureClass::Timeout, FailureClass::Http(503)]).unwrap();
        assert_eq!(text, r#"["timeout",{"http":503}]"#);
    }
}
