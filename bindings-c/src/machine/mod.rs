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

use libgateway::waiting::{Reading, Waiters};
use libgateway::{Gateway, GatewayConfig};

pub use config::*;
pub(crate) use config::{excess, freed, reserved};
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

use crate::bell::Bell;
use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{Found, Held, create, find, free, gateway, gateway_bytes, gateway_slices, lock, reserve};
use crate::ids::entropy;
use crate::input::{Out, at, bytes, options};
use crate::status::*;
use crate::version::gateway_now;

/// A gateway and those who wait for it, behind one lock.
pub(crate) struct Machine {
    pub(crate) gateway: Gateway,
    waiters: Waiters<Bell>,
    /// How often callers looked whether what they wait for is there.
    attempts: u64,
}

impl Machine {
    pub(crate) fn new(gateway: Gateway) -> Self {
        Self { waiters: Waiters::new(&gateway), gateway, attempts: 0 }
    }

    /// Wakes everybody who waits.
    pub(crate) fn wake_all(&mut self) {
        self.waiters.wake_all();
    }

    /// How many callers wait.
    #[cfg(feature = "testing")]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// How often callers that wait looked.
    #[cfg(feature = "testing")]
    pub(crate) fn attempts(&self) -> u64 {
        self.attempts
    }

    /// The clock that callers sleep by, beside what the gateway takes for the host's: that may be another one.
    fn reading(&self) -> Reading {
        Reading { now: self.gateway.now(), awake: gateway_now() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.wake_all();
    }
}

/// Locks a gateway, unless this thread is inside a transaction: two threads, each inside one of two gateways and calling
/// the other, would wait for ever.
#[inline]
pub(crate) fn enter(gateway: *const gateway) -> Result<Held, Failure> {
    lock::<gateway>(outside(gateway)?)
}

/// Where a gateway is, unless this thread is inside a transaction.
#[inline]
pub(crate) fn outside(gateway: *const gateway) -> Result<Found, Failure> {
    let found = find(gateway)?;
    if transaction::is_inside() { Err(Failure::reentered()) } else { Ok(found) }
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
    let machine = held.object::<gateway>()?;
    machine.waiters.tell(&machine.gateway, None);
    if !machine.waiters.is_empty() {
        machine.waiters.lead(&machine.gateway, machine.reading());
    }
    Ok(())
}

/// Makes a gateway that stands at `now`. NULL as `config` takes all defaults. It begins a life of its own, see
/// `gateway_begin_epoch`: with `entropy` of its configuration, or with that of the system where that is 0.
///
///     gateway_config config = GATEWAY_CONFIG_INIT;
///     config.lease_for = 60 * GATEWAY_SECOND;
///     gateway *gw = NULL;
///     gateway_status status = gateway_new(&config, gateway_now(), &gw);
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_NOT_UTF8`; `GATEWAY_OUT_OF_RANGE` and others from -201
/// down for the first field that cannot be, which `gateway_last_error_field` names; `GATEWAY_NO_ENTROPY`. May be called
/// from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_new(config: *const gateway_config, now: u64, gw: *mut *mut gateway) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (gw, own) = unsafe { (Out::required(gw, "gw")?, options(config, "config")?) };
        // SAFETY: the caller's promise.
        let config = unsafe { own.read()? };
        create(Machine::new(Gateway::with_entropy(config, at(now), entropy(own.entropy)?)?), gw)?;
        Ok(GATEWAY_OK)
    })
}

/// Makes a gateway from a configuration as JSON, as the first line of a log has it: `{"seed":7,"lease_for":60000000000}`.
/// Fields that are missing are as by default. It is in its first life, as a log begins: leases are numbered from 1 on. Where
/// it is no replay, `gateway_begin_epoch` has to be its first command.
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
    guard(|| {
        if !gw.is_null() {
            outside(gw)?;
        }
        free(gw)
    })
}

/// The whole state as bytes, from which `gateway_restore` makes a gateway that goes on. Free them by `gateway_bytes_free`.
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

/// Begins a snapshot in slices: the same bytes as those of `gateway_snapshot`, some 64 KiB at a time, so that all of them
/// are never held at once. Free it by `gateway_slices_free`.
///
/// Errors: as `gateway_snapshot`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_slices_new(gw: *const gateway, slices: *mut *mut gateway_slices) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let slices = unsafe { Out::required(slices, "slices") }?;
        create(look(gw, |gateway| Ok(gateway.slices()))?, slices)?;
        Ok(GATEWAY_OK)
    })
}

/// The next slice of the bytes, of the same gateway. That has to stand still meanwhile: a command in between ends the
/// slices. Free each by `gateway_bytes_free`.
///
/// `GATEWAY_NONE`: that was all. Errors: `GATEWAY_CHANGED`: begin anew; else as `gateway_snapshot`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_slices_next(
    slices: *mut gateway_slices,
    gw: *const gateway,
    slice: *mut *mut gateway_bytes,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let slice = unsafe { Out::required(slice, "slice") }?;
        // The gateway's lock comes first: it may be held while that of any other handle is taken, never the other way.
        let own = find(slices)?;
        let (mut place, bytes) = look(gw, |gateway| {
            let mut slices = lock::<gateway_slices>(own)?;
            Ok((reserve(1)?, slices.object::<gateway_slices>()?.next(gateway)?))
        })?;
        let Some(bytes) = bytes else { return Ok(GATEWAY_NONE) };
        slice.set(place.fill(bytes));
        Ok(GATEWAY_OK)
    })
}

/// Frees a snapshot in slices, at its end or before. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_slices_free(slices: *mut gateway_slices) -> gateway_status {
    guard(|| free(slices))
}

/// Makes the gateway that goes on where that of a snapshot stopped, or was lost after it: `gateway_replica`, and then
/// `gateway_begin_epoch` with `entropy`, or with that of the system where it is 0. A log has to show that command with the
/// entropy, so give one where there is a log.
///
/// Workers keep the leases that the snapshot knows. The answer of any other is `GATEWAY_SUPERSEDED`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_TRUNCATED`, `GATEWAY_NOT_A_SNAPSHOT`, `GATEWAY_NEWER_VERSION`,
/// `GATEWAY_ALTERED`, `GATEWAY_CORRUPT`; `GATEWAY_NO_ENTROPY`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_restore(
    snapshot: *const c_void,
    snapshot_len: usize,
    now: u64,
    entropy: u64,
    gw: *mut *mut gateway,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (gw, snapshot) = unsafe { (Out::required(gw, "gw")?, bytes(snapshot, snapshot_len, "snapshot")?) };
        create(Machine::new(Gateway::restore(snapshot, at(now), crate::ids::entropy(entropy)?)?), gw)?;
        Ok(GATEWAY_OK)
    })
}

/// Makes the very gateway that a snapshot was taken of: the same answers to the same calls, the same numbers, the same
/// digest. For replays of a log, for standbys and for checks; one that takes over calls `gateway_begin_epoch` first.
///
/// Errors: as `gateway_restore`, but `GATEWAY_NO_ENTROPY`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_replica(
    snapshot: *const c_void,
    snapshot_len: usize,
    gw: *mut *mut gateway,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (gw, snapshot) = unsafe { (Out::required(gw, "gw")?, bytes(snapshot, snapshot_len, "snapshot")?) };
        create(Machine::new(Gateway::replica(snapshot)?), gw)?;
        Ok(GATEWAY_OK)
    })
}

/// Begins another life of a gateway: what is done where one goes on in the place of one that is gone. `entropy` is 64 random
/// bits; 0: from the system. `*epoch`, which may be NULL, is the number of the life.
///
/// Ids of leases and batches, and settlements and events, are told apart from all of the life before, so the answer of a
/// worker that the gateway does not remember to have asked is `GATEWAY_SUPERSEDED`. Leases that it knows live on, and each
/// worker is given time to be heard. Batches that were out are handed out again; events that were not fetched are dropped.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`; `GATEWAY_NO_ENTROPY`.
/// May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_begin_epoch(
    gw: *mut gateway,
    now: u64,
    entropy: u64,
    epoch: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let epoch = unsafe { Out::optional(epoch, "epoch") }?;
        let entropy = crate::ids::entropy(entropy)?;
        epoch.set(command(gw, |gateway| Ok(gateway.begin_epoch(at(now), entropy).as_u64()))?);
        Ok(GATEWAY_OK)
    })
}

/// The number of the life that the gateway's numbers belong to: 0 the first, where it was made without entropy.
///
/// Errors: as `gateway_snapshot`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_epoch(gw: *const gateway, epoch: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let epoch = unsafe { Out::required(epoch, "epoch") }?;
        epoch.set(look(gw, |gateway| Ok(gateway.epoch().as_u64()))?);
        Ok(GATEWAY_OK)
    })
}

/// How many commands the gateway was given since the beginning, in this life and those before it. Every call that takes
/// `now`, or reads it to wait, is one, also one that was refused or found nothing to do; no other call is.
///
/// Errors: as `gateway_snapshot`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_commands(gw: *const gateway, commands: *mut u64) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let commands = unsafe { Out::required(commands, "commands") }?;
        commands.set(look(gw, |gateway| Ok(gateway.commands()))?);
        Ok(GATEWAY_OK)
    })
}

/// How many commands are in a snapshot: `gateway_commands` of when it was taken. Only its head is looked at.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_TRUNCATED`, `GATEWAY_NOT_A_SNAPSHOT`, `GATEWAY_NEWER_VERSION`. May be called
/// from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_commands_in(
    snapshot: *const c_void,
    snapshot_len: usize,
    commands: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (commands, snapshot) =
            unsafe { (Out::required(commands, "commands")?, bytes(snapshot, snapshot_len, "snapshot")?) };
        commands.set(Gateway::commands_in(snapshot)?);
        Ok(GATEWAY_OK)
    })
}
