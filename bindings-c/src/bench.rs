//! Calls through the C interface for a benchmark written in safe Rust. Each goes through a pointer the compiler cannot see
//! through, as a call from C does; only the jump over a shared library's table is missing.

use std::ffi::{CStr, c_char};
use std::hint::black_box;
use std::ptr::{null, null_mut};

use crate::*;

/// A limiter behind its C handle.
#[derive(Debug)]
pub struct Limiter(*mut gateway_limiter);

/// A gateway with one backend that never says no, behind its C handle.
#[derive(Debug)]
pub struct Machine {
    gateway: *mut gateway,
    leases: Vec<u64>,
}

impl Limiter {
    /// A limiter that always has tokens.
    pub fn new() -> Self {
        let rate = gateway_rate { per: 1, amount: 1, burst: u32::MAX.into() };
        let mut limiter = null_mut();
        // SAFETY: both pointers are to locals of the right type.
        let status = unsafe { gateway_limiter_new(&raw const rate, 0, &raw mut limiter) };
        assert_eq!(status, GATEWAY_OK);
        Self(limiter)
    }

    /// Takes a token.
    pub fn try_acquire(&mut self, now: u64) -> bool {
        let call = black_box(
            gateway_limiter_try_acquire
                as unsafe extern "C" fn(*mut gateway_limiter, u64, u64, *mut gateway_acquired) -> gateway_status,
        );
        // SAFETY: the handle lives as long as this does, and the answer is not asked for.
        unsafe { call(self.0, 1, now, null_mut()) == GATEWAY_OK }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        // SAFETY: any value may be freed.
        unsafe { gateway_limiter_free(self.0) };
    }
}

impl Machine {
    /// A gateway with `running` leases.
    pub fn new(now: u64, running: u64) -> Self {
        let mut machine = Self { gateway: null_mut(), leases: Vec::new() };
        let model: *const c_char = c"dev".as_ptr();
        let options = gateway_backend_options {
            size: size_of::<gateway_backend_options>(),
            modality: c"image".as_ptr(),
            family: c"flux".as_ptr(),
            models: &raw const model,
            models_len: 1,
            labels: null(),
            labels_len: 0,
            lease_for: 0,
            kind: GATEWAY_KIND_TORCH,
            slots: 65_536,
            devices: 1,
            warm_max: 1,
        };
        // SAFETY: all pointers are to locals and static texts.
        let made = unsafe {
            [
                gateway_new(null(), now, &raw mut machine.gateway),
                gateway_put_backend(machine.gateway, now, c"flux-1".as_ptr(), &raw const options),
            ]
        };
        assert_eq!(made, [GATEWAY_OK; 2]);
        for id in 1..=running {
            machine.submit(now, id, c"acme", c"image/flux/dev/t2i");
            let lease = machine.dispatch(now);
            machine.leases.push(lease);
        }
        machine
    }

    /// Tells that the first lease's worker lives.
    pub fn heartbeat(&mut self, now: u64) -> bool {
        let call =
            black_box(gateway_heartbeat as unsafe extern "C" fn(*mut gateway, u64, u64, *mut u64) -> gateway_status);
        let lease = self.leases.first().copied().unwrap_or(0);
        // SAFETY: the handle lives as long as this does, and the answer is not asked for.
        unsafe { call(self.gateway, now, lease, null_mut()) == GATEWAY_OK }
    }

    /// The life of a job, its settlement and its events included.
    pub fn cycle(&mut self, now: u64, id: u64) -> bool {
        self.submit(now, id, c"acme", c"image/flux/dev/t2i");
        let lease = self.dispatch(now);
        let output = gateway_output { url: c"https://cdn.example.com/1.webp".as_ptr(), data: null(), data_len: 0 };
        let usage = gateway_usage { device: c"GPU-8f2c".as_ptr(), gpu_ns: 1_000 };
        // SAFETY: all pointers are to locals and static texts.
        let done = unsafe {
            black_box(gateway_complete as Complete)(
                self.gateway,
                now,
                lease,
                &raw const output,
                &raw const usage,
                1,
                null_mut(),
            )
        };
        done == GATEWAY_OK
    }

    /// Fetches settlements and events.
    pub fn drain(&mut self, now: u64) {
        let (mut taken, mut batch) = (null_mut(), gateway_batch { id: 0, first_seq: 0, len: 0 });
        // SAFETY: all pointers are to locals; the handle is freed.
        unsafe {
            while gateway_take_settlements(self.gateway, now, 1_000, &raw mut taken) == GATEWAY_OK {
                gateway_settlements_batch(taken, &raw mut batch);
                gateway_confirm_settlements(self.gateway, now, &raw const batch, null_mut());
                gateway_settlements_free(taken);
            }
            let mut event = std::mem::MaybeUninit::uninit();
            while gateway_poll_event(self.gateway, event.as_mut_ptr()) == GATEWAY_OK {}
        }
    }

    fn submit(&mut self, now: u64, id: u64, customer: &CStr, route: &CStr) {
        let id = gateway_job_id { high: 1, low: id };
        // SAFETY: the texts end in a NUL; what is null may be.
        let status = unsafe {
            black_box(gateway_submit as Submit)(
                self.gateway,
                now,
                id,
                customer.as_ptr(),
                route.as_ptr(),
                null(),
                null_mut(),
            )
        };
        debug_assert_eq!(status, GATEWAY_OK);
    }

    fn dispatch(&mut self, now: u64) -> u64 {
        let mut lease = null_mut();
        let mut info = std::mem::MaybeUninit::<gateway_lease_info>::uninit();
        // SAFETY: the pointers are to locals, and what was read was written.
        unsafe {
            black_box(gateway_dispatch as Dispatch)(self.gateway, now, &raw mut lease, null_mut());
            let read = black_box(gateway_lease_read as Read)(lease, info.as_mut_ptr());
            gateway_lease_free(lease);
            if read == GATEWAY_OK { info.assume_init().id } else { 0 }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: any value may be freed.
        unsafe { gateway_free(self.gateway) };
    }
}

type Submit = unsafe extern "C" fn(
    *mut gateway,
    u64,
    gateway_job_id,
    *const c_char,
    *const c_char,
    *const gateway_submit_options,
    *mut gateway_job_id,
) -> gateway_status;
type Dispatch = unsafe extern "C" fn(*mut gateway, u64, *mut *mut gateway_lease, *mut u64) -> gateway_status;
type Read = unsafe extern "C" fn(*const gateway_lease, *mut gateway_lease_info) -> gateway_status;
type Complete = unsafe extern "C" fn(
    *mut gateway,
    u64,
    u64,
    *const gateway_output,
    *const gateway_usage,
    usize,
    *mut gateway_settled,
) -> gateway_status;
