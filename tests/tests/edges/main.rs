//! Every deadline to the nanosecond: not yet one before it, done at it, and `next_deadline` names it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

mod clock;
mod deadlines;
mod due;
mod jobs;

use libgateway::{GatewayConfig, Span, Timestamp};
use libgateway_tests::kit::{Rig, before};

/// A gateway without any deadline but those a test arms.
fn quiet() -> GatewayConfig {
    GatewayConfig::default()
        .lease_for(Span::MAX)
        .retain_for(Span::MAX)
        .customer_idle(Span::MAX)
        .settle_within(Span::MAX)
}

/// Goes to the nanosecond before `at`, where `has_come` must not hold, and to `at`, where it must. The gateway has to
/// have named `at` as the instant to call again.
#[track_caller]
fn edge(rig: &mut Rig, at: Timestamp, has_come: impl Fn(&Rig) -> bool) {
    assert_eq!(rig.gateway.next_deadline(), Some(at), "the instant that was asked for");
    assert!(!has_come(rig), "already there");
    let early = rig.to(before(at));
    assert_eq!((early.handled, early.next_deadline), (0, Some(at)), "one nanosecond early");
    assert!(!has_come(rig), "one nanosecond early");
    let due = rig.to(at);
    assert!(due.handled >= 1 && !due.more, "{due:?}");
    assert!(has_come(rig), "at the instant");
}
