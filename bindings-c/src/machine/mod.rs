//! The gateway: its making, its end, and how every call gets to it.

mod config;

mod fleet;

mod jobs;

mod lease;

mod work;

mod wait;

mod transaction;

mod money;

mod read;

mod watch;

mod data;

use std::ffi::{c_char, c_void};

use libgateway::{Gateway, GatewayConfig};

pub use config::*;
pub(crate) use config::{excess, reserved};
pub(crate) use data::json;
pub use data::*;
pub(crate) use fleet::forced;
pub use fleet::*;
pub use jobs::*;
pub use lease::*;
pub(crate) use money::read_book;
pub use money::*;
pub(crate) use read::tell_outcome;
pub use read::*;
pub use transaction::*;
pub use wait::*;
pub use watch::*;
pub use work::*;
pub(crate) use work::{read_failure, read_output, read_usage};

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{Held, create, find, free, gateway, gateway_bytes, lock};
use crate::input::{Out, at, bytes, options};
use crate::status::*;

/// A gateway and those who wait for it, behind one lock.
pub(crate) struct Machine {
    pub(crate) gateway: Gateway,
    /// The gateway's changes that waiters were told of.
    told: u64,
    /// Callers that want any job: one is enough for one change, and it wakes the next if it got something.
    pub(crate) dispatchers: u32,
    /// Callers that want something only they know: all are woken by every change.
    pub(crate) others: u32,
    /// Rises when somebody wants all waiting calls to end.
    pub(crate) ends: u64,
}

impl Machine {
    pub(crate) fn new(gateway: Gateway) -> Self {
        let told = gateway.changes();
        Self { gateway, told, dispatchers: 0, others: 0, ends: 0 }
    }
}

/// Locks a gateway, unless this thread is inside a transaction: two threads, each inside one of two gateways and calling
/// the other, would wait for ever.
#[inline]
pub(crate) fn enter(gateway: *const gateway) -> Result<Held, Failure> {
    if transaction::is_inside() {
        return Err(Failure::reentered());
    }
    lock::<gateway>(find(gateway)?)
}

/// Runs a command, and wakes whom its change may help.
#[inline]
pub(crate) fn command<T>(
    gateway: *const gateway,
    body: impl FnOnce(&mut Gateway) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut held = enter(gateway)?;
    let machine = held.object::<crate::handle::gateway>()?;
    let result = body(&mut machine.gateway);
    tell(&mut held)?;
    result
}

/// Asks something that changes nothing.
#[inline]
pub(crate) fn look<T>(
    gateway: *const gateway,
    body: impl FnOnce(&Gateway) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut held = enter(gateway)?;
    let machine = held.object::<crate::handle::gateway>()?;
    body(&machine.gateway)
}

/// Wakes whom a change may help. Called before the lock is let go of.
#[inline]
pub(crate) fn tell(held: &mut Held) -> Result<(), Failure> {
    let slot = held.slot();
    let machine = held.object::<gateway>()?;
    let changes = machine.gateway.changes();
    if changes != machine.told {
        machine.told = changes;
        if machine.dispatchers > 0 {
            slot.turn.notify_one();
        }
        if machine.others > 0 {
            slot.change.notify_all();
        }
    }
    Ok(())
}

/// Makes a gateway that stands at `now`. NULL as `config` takes all defaults.
///
///     gateway_config config = GATEWAY_CONFIG_INIT;
///     config.lease_for = 60 * GATEWAY_SECOND;
///     gateway *gw = NULL;
///     gateway_status status = gateway_new(&config, gateway_now(), &gw);
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_NOT_UTF8`; `GATEWAY_OUT_OF_RANGE` and others from -201
/// down for the first field that cannot be, which `gateway_last_error_field` names. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_new(config: *const gateway_config, now: u64, gw: *mut *mut gateway) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (gw, config) = unsafe { (Out::required(gw, "gw")?, options(config, "config")?.read()?) };
        create(Machine::new(Gateway::new(config, at(now))?), gw)?;
        Ok(GATEWAY_OK)
    })
}

/// Makes a gateway from a configuration as JSON, as the first line of a log has it: `{"seed":7,"lease_for":60000000000}`.
/// Fields that are missing are as by default.
///
/// Errors: as `gateway_new`, and `GATEWAY_NOT_A_COMMAND` for what is no such JSON. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_new_json(
    config: *const c_char,
    config_len: usize,
    now: u64,
    gw: *mut *mut gateway,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (gw, config) = unsafe { (Out::required(gw, "gw")?, bytes(config.cast(), config_len, "config")?) };
        let config: GatewayConfig = data::read_json(config, "config")?;
        create(Machine::new(Gateway::new(config, at(now))?), gw)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a gateway. Waits until no other thread is inside; whoever waits in a `gateway_wait_` function is woken and
/// answered `GATEWAY_INVALID_HANDLE`. Leases, settlements and bytes that came from it stay good until they are freed.
/// NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`; `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_free(gw: *mut gateway) -> gateway_status {
    guard(|| if transaction::is_inside() { Err(Failure::reentered()) } else { free(gw) })
}

/// The whole state as bytes, from which `gateway_restore` makes the same gateway: the same answers to the same calls,
/// the same digest. Free them by `gateway_bytes_free`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`. May be called from
/// any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_snapshot(gw: *const gateway, snapshot: *mut *mut gateway_bytes) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let snapshot = unsafe { Out::required(snapshot, "snapshot") }?;
        let bytes = look(gw, |gateway| Ok(gateway.snapshot()))?;
        create(bytes, snapshot)?;
        Ok(GATEWAY_OK)
    })
}

/// Makes the gateway that a snapshot was taken of.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_TRUNCATED`, `GATEWAY_NOT_A_SNAPSHOT`, `GATEWAY_NEWER_VERSION`,
/// `GATEWAY_ALTERED`, `GATEWAY_CORRUPT`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_restore(
    snapshot: *const c_void,
    snapshot_len: usize,
    gw: *mut *mut gateway,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (gw, snapshot) = unsafe { (Out::required(gw, "gw")?, bytes(snapshot, snapshot_len, "snapshot")?) };
        create(Machine::new(Gateway::restore(snapshot)?), gw)?;
        Ok(GATEWAY_OK)
    })
}
