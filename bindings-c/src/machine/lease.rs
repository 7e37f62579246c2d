//! What a worker works by.

use std::ffi::{c_char, c_void};

use libgateway::{Gateway, Lease};

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{free, gateway_lease, insert, with};
use crate::ids::gateway_job_id;
use crate::input::{Out, OutList, at};
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

/// Makes a handle of a lease that was just granted; where there is none, the lease is taken back.
pub(crate) fn hand_out(gateway: &mut Gateway, now: u64, lease: Lease) -> Result<*mut gateway_lease, Failure> {
    let id = lease.id;
    insert(lease).inspect_err(|_| {
        // It was granted in this very call, so it is there.
        let _ = gateway.release(at(now), id);
    })
}

/// Makes handles of leases that were just granted. Those for which there is no handle any more are taken back; without a
/// single one it is an error.
pub(crate) fn hand_out_all(
    gateway: &mut Gateway,
    now: u64,
    leases: Vec<Lease>,
    mut out: OutList<'_, *mut gateway_lease>,
) -> Result<usize, Failure> {
    let mut failed = None;
    for lease in leases {
        match hand_out(gateway, now, lease) {
            Ok(handle) => out.push(handle),
            Err(failure) => failed = Some(failure),
        }
    }
    match failed {
        Some(failure) if out.len() == 0 => Err(failure),
        _ => Ok(out.len()),
    }
}

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
