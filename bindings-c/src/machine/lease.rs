//! What a worker works by.

use std::ffi::{c_char, c_void};

use libgateway::{Dispatch, Gateway, Lease};

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{Places, free, gateway_lease, reserve, with};
use crate::ids::gateway_job_id;
use crate::input::{Out, OutList, instant_or_forever};
use crate::names::{GATEWAY_NAME_CAP, GATEWAY_ROUTE_CAP, task_number};
use crate::output::{copy_bytes, fixed, id_out};
use crate::status::*;

/// What a lease says, but for its payload. Texts end in a NUL.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_lease_info {
    /// Its id: every result carries it. Never used twice within one gateway.
    pub id: u64,
    /// The job.
    pub job: gateway_job_id,
    /// When the lease ends if nothing is heard.
    pub deadline: u64,
    /// How many bytes the payload has; `gateway_lease_payload` copies it.
    pub payload_len: usize,
    /// What to do: `GATEWAY_TASK_T2I` and its like.
    pub task: u32,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// 1 where the backend was warm for the job's affinity key.
    pub warm: u32,
    /// 1 where this is the probe of a half-open breaker.
    pub probe: u32,
    /// Who asked.
    pub customer: [c_char; GATEWAY_NAME_CAP],
    /// The backend.
    pub backend: [c_char; GATEWAY_NAME_CAP],
    /// Modality, family and model, and the engine where one was wanted: "image/flux/dev".
    pub route: [c_char; GATEWAY_ROUTE_CAP],
}

impl gateway_lease_info {
    fn of(lease: &Lease) -> Self {
        Self {
            id: lease.id.as_u64(),
            job: id_out(lease.job),
            deadline: lease.deadline.as_nanos(),
            payload_len: lease.payload.len(),
            task: task_number(lease.task),
            attempt: lease.attempt,
            warm: u32::from(lease.warm),
            probe: u32::from(lease.probe),
            customer: fixed(&lease.customer),
            backend: fixed(&lease.backend),
            route: fixed(&lease.route),
        }
    }
}

/// Makes a handle of a lease that was just granted, or tells until when there is none.
pub(super) fn leased(
    dispatch: Dispatch,
    mut place: Places,
    lease: Out<*mut gateway_lease>,
    until: Out<u64>,
) -> Result<gateway_status, Failure> {
    match dispatch {
        Dispatch::Lease(granted) => {
            lease.set(place.fill(granted));
            Ok(GATEWAY_OK)
        }
        Dispatch::Wait { until: when } => {
            until.set(instant_or_forever(when));
            Ok(GATEWAY_WAIT)
        }
    }
}

/// Reserves places for the leases that a backend may be granted at once.
pub(super) fn places_for(gateway: &Gateway, backend: &str, max: u32) -> Result<Places, Failure> {
    let most = if max > FEW { gateway.backend(backend).map_or(0, |own| own.backend.slots).min(max) } else { max };
    reserve(most)
}

/// Makes handles of leases that were just granted. Returns how many.
pub(super) fn hand_out(leases: Vec<Lease>, mut places: Places, mut out: OutList<'_, *mut gateway_lease>) -> usize {
    leases.into_iter().for_each(|lease| out.push(places.fill(lease)));
    out.len()
}

/// For so many places nobody asks how many slots the backend has.
const FEW: u32 = 64;

/// Reads all a lease says but its payload.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_lease_read(
    lease: *const gateway_lease,
    info: *mut gateway_lease_info,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let info = unsafe { Out::required(info, "info") }?;
        info.set(with(lease, |lease| Ok(gateway_lease_info::of(lease)))?);
        Ok(GATEWAY_OK)
    })
}

/// Copies the job's payload, as it was submitted, without a NUL after it.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_lease_payload(
    lease: *const gateway_lease,
    buf: *mut c_void,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    // SAFETY: the caller's promise.
    guard(|| with(lease, |lease| unsafe { copy_bytes(lease.payload.as_bytes(), buf, cap, needed) }))
}

/// Frees what the worker knows of a lease. The lease itself goes on in the gateway until `gateway_complete`,
/// `gateway_fail` or `gateway_release`, or until its deadline. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_lease_free(lease: *mut gateway_lease) -> gateway_status {
    guard(|| free(lease))
}
