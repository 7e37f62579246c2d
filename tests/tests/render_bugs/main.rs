//! The bugs the first gateway had, each as a test that the same bug would fail. B1 to B29 are those its authors fixed,
//! the flags are those they left in.
//!
//! Without a test here, because the part they live in is not there:
//! - B17, the key of a reconciliation is customer and model: there is no reconciliation yet.
//! - B19, JSONEachRow is one object per line: there is no writer of rows yet.
//! - Flag 2, as far as it is about statuses, headers and bodies of HTTP: there is no HTTP layer. What of it the gateway
//!   decides (bounds, time to live, idempotency, what may be cancelled) is in `flags_flow`.
//! - Flags 30, 31 and 33, who a bearer token stands for: there is no layer that reads tokens. A customer is a name the
//!   host vouches for; flag 32, that it may not be empty, is in `flags_flow`.
//! - In B18, B29 and flag 35, ranges of NVTX: the host reads the GPU's clock. The pairing of starts and ends is
//!   `BillingCollector`, and tested.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test expects and does not get ends the test")]

mod fixed_cancel;
mod fixed_retry;
mod fixed_slots;
mod flags_billing;
mod flags_breaker;
mod flags_flow;
mod flags_queue;
mod flags_retry;

use libgateway::error::LeaseError;
use libgateway::{BackendView, Gateway, GatewayConfig, Lease, Output, Usage};
use libgateway_tests::kit::{DEV, Rig, id, job};

/// A gateway with one backend, and job 1 of `acme` running on it.
fn running() -> (Rig, Lease) {
    let mut rig = Rig::with_slots(GatewayConfig::default(), 1);
    rig.submit(job(1, "acme", DEV).payload("a red fox"));
    let lease = rig.lease();
    (rig, lease)
}

fn gpu(rig: &Rig) -> BackendView {
    rig.gateway.backend("gpu-1").unwrap()
}

/// Says that the lease delivered, and expects that nobody listens and nothing changes.
#[track_caller]
fn deliver_too_late(rig: &mut Rig, lease: &Lease) {
    let digest = rig.gateway.digest();
    let late = rig.gateway.complete(rig.now, lease.id, Output::url("late"), Usage::unmeasured());
    assert_eq!(late, Err(LeaseError::Superseded { lease: lease.id.as_u64() }));
    assert_eq!(rig.gateway.digest(), digest);
}

/// A gateway from its own snapshot: what a test shows has to hold after a restart, too.
fn restarted(rig: &mut Rig) {
    rig.gateway = Gateway::replica(&rig.gateway.snapshot()).unwrap();
    rig.check();
}

/// The job most tests are about.
const JOB: libgateway::JobId = id(1);
