//! What the operator changes: backends, customers, routes, breakers.

use std::ffi::c_char;

use libgateway::{Backend, EvictTo, Evicted, ForcedState, Gateway, Route};

use super::command;
use super::config::gateway_customer_policy;
use super::jobs::done;
use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::gateway;
use crate::ids::gateway_job_id;
use crate::input::{Options, Out, at, choice, list, optional_instant, optional_span, options, outs, text};
use crate::names::{self, GATEWAY_KIND_OTHER};
use crate::output::id_out;
use crate::status::*;

/// A free word about a backend, for the host: endpoint, region, driver.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_label {
    /// What it says.
    pub key: *const c_char,
    /// How it says it.
    pub value: *const c_char,
}

/// A backend: one worker or pool of workers that serves models of one family. Begin with `GATEWAY_BACKEND_OPTIONS_INIT`,
/// then say at least `modality`, `family` and `models`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_backend_options {
    /// `sizeof(gateway_backend_options)`.
    pub size: usize,
    /// The modality it serves: "image".
    pub modality: *const c_char,
    /// The family it serves: "flux".
    pub family: *const c_char,
    /// The models it serves, in any order; the one name "*" means all, also ones nobody has named yet.
    pub models: *const *const c_char,
    /// How many names `models` has.
    pub models_len: usize,
    /// Free words about it; NULL: none. At most 16.
    pub labels: *const gateway_label,
    /// How many `labels` there are.
    pub labels_len: usize,
    /// A lease ends when nothing was heard for this long, in nanoseconds; 0: as the gateway is configured.
    pub lease_for: u64,
    /// The engine it runs, `GATEWAY_KIND_OTHER` by default.
    pub kind: u32,
    /// Leases it takes at once, 1 to 65 536. Default 1.
    pub slots: u32,
    /// GPUs that work for one lease, 1 to 64. Default 1.
    pub devices: u32,
    /// Affinity keys it keeps warm at once, at most 64. Default 1.
    pub warm_max: u32,
}

// SAFETY: repr(C), begins with its size, and has integers and pointers only.
unsafe impl Options for gateway_backend_options {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        modality: std::ptr::null(),
        family: std::ptr::null(),
        models: std::ptr::null(),
        models_len: 0,
        labels: std::ptr::null(),
        labels_len: 0,
        lease_for: 0,
        kind: GATEWAY_KIND_OTHER,
        slots: 1,
        devices: 1,
        warm_max: 1,
    };
}

/// The jobs of an evicted backend wait again at once.
pub const GATEWAY_EVICT_TO_QUEUE: u32 = 0;
/// The jobs of an evicted backend end in error.
pub const GATEWAY_EVICT_TO_ERROR: u32 = 1;

/// A lease that ended because its backend was taken from it.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_evicted {
    /// The lease: its worker's result is refused from now on.
    pub lease: u64,
    /// The job.
    pub job: gateway_job_id,
}

impl From<Evicted> for gateway_evicted {
    fn from(evicted: Evicted) -> Self {
        Self { lease: evicted.lease.as_u64(), job: id_out(evicted.job) }
    }
}

/// No override: lets go of it.
pub const GATEWAY_FORCED_NONE: u32 = 0;
/// All calls pass, whatever their results.
pub const GATEWAY_FORCED_CLOSED: u32 = 1;
/// No call passes.
pub const GATEWAY_FORCED_OPEN: u32 = 2;

pub(crate) fn forced(value: u32) -> Result<Option<ForcedState>, Failure> {
    choice(value, &[None, Some(ForcedState::Closed), Some(ForcedState::Open)], "state")
}

impl gateway_backend_options {
    /// # Safety
    /// Its pointers are as its fields say.
    unsafe fn read(&self, name: &str) -> Result<Backend, Failure> {
        // SAFETY: the caller's promise.
        let (modality, family) = unsafe { (text(self.modality, "modality")?, text(self.family, "family")?) };
        // SAFETY: the caller's promise.
        let (models, labels) =
            unsafe { (list(self.models, self.models_len, "models")?, list(self.labels, self.labels_len, "labels")?) };
        // SAFETY: the caller's promise.
        let models: Result<Vec<&str>, Failure> = models.iter().map(|own| unsafe { text(*own, "models") }).collect();
        let mut backend = Backend::new(name, names::kind(self.kind)?)
            .serves(modality, family, models?)
            .slots(self.slots)
            .devices(self.devices)
            .warm_max(self.warm_max);
        if let Some(span) = optional_span(self.lease_for) {
            backend = backend.lease_for(span);
        }
        for label in labels {
            // SAFETY: the caller's promise.
            let (key, value) = unsafe { (text(label.key, "labels")?, text(label.value, "labels")?) };
            backend = backend.label(key, value);
        }
        Ok(backend)
    }
}

/// Adds a backend, or changes the one of that name: its leases, breaker and warmth stay, a drain ends.
///
///     const char *models[] = {"dev", "schnell"};
///     gateway_backend_options options = GATEWAY_BACKEND_OPTIONS_INIT;
///     options.modality = "image";
///     options.family = "flux";
///     options.models = models;
///     options.models_len = 2;
///     options.slots = 4;
///     gateway_status status = gateway_put_backend(gw, now, "flux-1", &options);
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be;
/// `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_put_backend(
    gw: *mut gateway,
    now: u64,
    name: *const c_char,
    options: *const gateway_backend_options,
) -> gateway_status {
    guard(|| {
        if options.is_null() {
            return Err(Failure::pointer("options"));
        }
        // SAFETY: the caller's promise.
        let backend = unsafe { crate::input::options(options, "options")?.read(text(name, "name")?)? };
        done(gw, |gateway| Ok(gateway.put_backend(at(now), backend)?))
    })
}

/// Takes a backend out: no new leases, and forgotten when its last one has ended.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a name that cannot be;
/// `GATEWAY_UNKNOWN_BACKEND`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_remove_backend(gw: *mut gateway, now: u64, name: *const c_char) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, "name") }?;
        done(gw, |gateway| Ok(gateway.remove_backend(at(now), name)?))
    })
}

/// Stops giving a backend new leases (`draining` is not 0), or starts again (0). Its leases go on.
///
/// Errors: as `gateway_remove_backend`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_drain_backend(
    gw: *mut gateway,
    now: u64,
    name: *const c_char,
    draining: u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, "name") }?;
        done(gw, |gateway| Ok(gateway.drain_backend(at(now), name, draining != 0)?))
    })
}

/// Ends all leases of a backend: its machine has gone, or has to. Their jobs wait again at once, whatever `preemptions_max`
/// says, or end in error: `to` is `GATEWAY_EVICT_TO_QUEUE` or `GATEWAY_EVICT_TO_ERROR`. What they took is paid for by
/// `billing_preempted`. The backend goes on taking new leases unless it is drained. One that has gone for good is drained,
/// evicted, and then removed: a removed one has no name any more.
///
/// `evicted` has room for `cap` leases; `*count` says how many were written, in the order in which they were granted. The
/// list is told once and nowhere else, so it has to fit: with less room than the backend has live leases the answer is
/// `GATEWAY_BUFFER_TOO_SMALL`, `*count` is how many it needs, and nothing has happened; not even a command is counted.
/// `live` of `gateway_read_backend` says it beforehand, and a backend that is drained gets no more meanwhile.
///
///     gateway_backend backend;
///     gateway_drain_backend(gw, now, "flux-1", 1);
///     if (gateway_read_backend(gw, "flux-1", &backend) == GATEWAY_OK) {
///         size_t count = backend.live;
///         gateway_evicted *evicted = malloc(count * sizeof *evicted);
///         gateway_evict_backend(gw, now, "flux-1", GATEWAY_EVICT_TO_QUEUE, evicted, count, &count);
///         for (size_t i = 0; i < count; i++) printf("lease %llu ended\n", (unsigned long long)evicted[i].lease);
///         gateway_remove_backend(gw, now, "flux-1");
///         free(evicted);
///     }
///
/// Errors: as `gateway_remove_backend`; `GATEWAY_OUT_OF_RANGE` for a `to` that is none; `GATEWAY_BUFFER_TOO_SMALL`. May be
/// called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_evict_backend(
    gw: *mut gateway,
    now: u64,
    name: *const c_char,
    to: u32,
    evicted: *mut gateway_evicted,
    cap: usize,
    count: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (name, mut evicted, count) =
            unsafe { (text(name, "name")?, outs(evicted, cap, "evicted")?, Out::required(count, "count")?) };
        let to = choice(to, &[EvictTo::Queue, EvictTo::Error], "to")?;
        let ended = command(gw, |gateway| {
            let live = live_on(gateway, name);
            // What is due by `now` ends leases and grants none, so what fits before it fits after it.
            if live > cap { Ok(Err(live)) } else { Ok(Ok(gateway.evict_backend(at(now), name, to)?)) }
        })?;
        match ended {
            Err(live) => {
                count.set(live);
                let message = format!("the list has room for {cap} leases, the backend has {live}");
                Err(Failure::edge(GATEWAY_BUFFER_TOO_SMALL, Some("evicted"), message))
            }
            Ok(ended) => {
                count.set(ended.len());
                ended.into_iter().for_each(|own| evicted.push(own.into()));
                Ok(GATEWAY_OK)
            }
        }
    })
}

/// How many leases a backend has; none where it is not known.
fn live_on(gateway: &Gateway, name: &str) -> usize {
    gateway.backend(name).map_or(0, |view| view.live as usize)
}

/// Holds a backend's breaker in `state`, `GATEWAY_FORCED_OPEN` or `GATEWAY_FORCED_CLOSED`, until an instant, or with
/// `GATEWAY_FOREVER` until further notice; `GATEWAY_FORCED_NONE` lets go of it.
///
/// Errors: as `gateway_remove_backend`, and `GATEWAY_OUT_OF_RANGE` for a state that is none and an end that is not in the
/// future. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_force_breaker(
    gw: *mut gateway,
    now: u64,
    name: *const c_char,
    state: u32,
    until: u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, "name") }?;
        let state = forced(state)?;
        done(gw, |gateway| Ok(gateway.force_breaker(at(now), name, state, optional_instant(until))?))
    })
}

/// Gives a customer a policy of its own. Its tokens stay as many as they are, up to the new burst. NULL as `policy` is the
/// default one.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_BAD_SIZE`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be;
/// `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_put_customer(
    gw: *mut gateway,
    now: u64,
    name: *const c_char,
    policy: *const gateway_customer_policy,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (name, policy) = unsafe { (text(name, "name")?, options(policy, "policy")?.read()?) };
        done(gw, |gateway| Ok(gateway.put_customer(at(now), name, policy)?))
    })
}

/// Takes a customer's own policy away: the default one holds.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a name that cannot be;
/// `GATEWAY_UNKNOWN_CUSTOMER`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_remove_customer(gw: *mut gateway, now: u64, name: *const c_char) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, "name") }?;
        done(gw, |gateway| Ok(gateway.remove_customer(at(now), name)?))
    })
}

/// Stops serving a route. Its jobs keep their order, and their clocks run on.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a route that cannot be;
/// `GATEWAY_ROUTE_NOT_SERVED`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_pause(gw: *mut gateway, now: u64, route: *const c_char) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let route = Route::parse(unsafe { text(route, "route") }?)?;
        done(gw, |gateway| Ok(gateway.pause(at(now), &route)?))
    })
}

/// Serves a route again.
///
/// Errors: as `gateway_pause`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_resume(gw: *mut gateway, now: u64, route: *const c_char) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let route = Route::parse(unsafe { text(route, "route") }?)?;
        done(gw, |gateway| Ok(gateway.resume(at(now), &route)?))
    })
}
