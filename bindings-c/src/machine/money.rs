//! Prices, settlements, and the outbox they wait in.

use std::ffi::c_char;

use libgateway::{Batch, Corrected, LeaseId, Money, Price, PriceBook, Settlement, Span};

use super::command;
use super::config::GATEWAY_SECOND;
use super::data::json;
use super::jobs::done;
use super::work::{gateway_usage, read_usage};
use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{free, gateway, gateway_settlements, reserve, with};
use crate::ids::gateway_job_id;
use crate::input::{Out, at, given, instant_or_forever, list, text};
use crate::names::{GATEWAY_NAME_CAP, GATEWAY_ROUTE_CAP, state_number, task_number};
use crate::output::{copy_text, fixed, id_out};
use crate::status::*;

/// What GPU time of a model costs in a tier: `micros` for each `per` nanoseconds, exactly. {"*", "*", 8400, GATEWAY_HOUR} is
/// 0.0084 an hour. A charge is usage times price, rounded once, to the nearest millionth and a tie to the even one. The
/// most telling entry wins: both named, model named, tier named, neither.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_price {
    /// Family and model, "flux/dev", or "*" for any.
    pub model: *const c_char,
    /// The tier, or "*" for any.
    pub tier: *const c_char,
    /// Millionths of the currency.
    pub micros: u64,
    /// Nanoseconds of GPU time they are for; 0: a second.
    pub per: u64,
}

/// A run of entries that were handed out together. It says which.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_batch {
    /// Its id, from 1 on. Each handing-out has a new one.
    pub id: u64,
    /// The number of its first entry.
    pub first_seq: u64,
    /// How many entries it has, without gaps.
    pub len: u64,
}

/// What one job cost. Each job that ended has exactly one first entry, also one that never ran, and a correction for each
/// usage that was told late. What a customer owes is the sum of `charge` less the sum of `charge_credit`. Spans are in
/// nanoseconds, money in millionths of the currency. Texts end in a NUL.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_settlement {
    /// Its number, without gaps within the gateway's life. A host drops an entry whose epoch and number it has, a first entry
    /// of a job that it has a first entry of from another epoch, and a correction of an entry that it dropped. A correction
    /// whose lease and revision it has from another epoch takes the place of that one and of those of the lease that
    /// followed it there.
    pub number: u64,
    /// The life of the gateway that its number belongs to: in which the job ended, in a correction in which it was told.
    pub epoch: u64,
    /// The job.
    pub job: gateway_job_id,
    /// GPU time that was reported of the attempts the customer pays for; in a correction, of its lease.
    pub reported: u64,
    /// GPU time the customer pays for; in a correction, what is added.
    pub usage: u64,
    /// GPU time nobody pays for, by policy; in a correction, what is added.
    pub absorbed: u64,
    /// Price for each `price_per` of GPU time, where `priced` is 1.
    pub price: u64,
    /// Nanoseconds that `price` is for, where `priced` is 1.
    pub price_per: u64,
    /// Usage times price, rounded once, where `priced` is 1. Where it is 0 it is not known what the job costs.
    pub charge: u64,
    /// The number of the entry it corrects; 0: it is the first one of its job.
    pub corrects: u64,
    /// The life of the gateway that `corrects` belongs to: in which the job ended.
    pub corrects_epoch: u64,
    /// The lease whose usage was told late, in a correction.
    pub lease: u64,
    /// When it was told, in a correction; else `GATEWAY_FOREVER`.
    pub corrected: u64,
    /// GPU time the customer no longer pays for; 0 but in a correction.
    pub usage_credit: u64,
    /// GPU time that is no longer absorbed; 0 but in a correction.
    pub absorbed_credit: u64,
    /// What is given back; 0 but in a correction.
    pub charge_credit: u64,
    /// When the job was submitted.
    pub created: u64,
    /// When its last attempt began; `GATEWAY_FOREVER` where it never ran.
    pub started: u64,
    /// When it ended.
    pub finished: u64,
    /// Version of the price book.
    pub price_version: u32,
    /// 1 where the book has a price.
    pub priced: u32,
    /// 1 where every attempt the customer pays for was measured; otherwise some of `usage` is lease time.
    pub measured: u32,
    /// 1 where less was billed or absorbed than was reported.
    pub capped: u32,
    /// Which of its lease's corrections it is, from 1 on; 0: it is none.
    pub revision: u32,
    /// What it was: `GATEWAY_TASK_T2I` and its like.
    pub task: u32,
    /// How it ended: `GATEWAY_STATE_COMPLETE` and its like.
    pub state: u32,
    /// Attempts that failed.
    pub attempts: u32,
    /// Returns to the queue that were not the job's fault.
    pub requeues: u32,
    /// Devices of all attempts the customer pays for; `gateway_settlements_device` tells each.
    pub devices: u32,
    /// Who pays.
    pub customer: [c_char; GATEWAY_NAME_CAP],
    /// The backend of its last attempt; empty where it never ran.
    pub backend: [c_char; GATEWAY_NAME_CAP],
    /// Price tier.
    pub tier: [c_char; GATEWAY_NAME_CAP],
    /// Where it waited: modality, family and model, and the engine where one was wanted.
    pub route: [c_char; GATEWAY_ROUTE_CAP],
}

impl From<&Settlement> for gateway_settlement {
    fn from(own: &Settlement) -> Self {
        Self {
            number: own.number,
            epoch: own.epoch.as_u64(),
            job: id_out(own.job),
            reported: own.reported.as_nanos(),
            usage: own.usage.as_nanos(),
            absorbed: own.absorbed.as_nanos(),
            price: own.price.map_or(0, Price::micros),
            price_per: own.price.map_or(0, |price| price.per().as_nanos()),
            charge: own.charge.map_or(0, Money::as_micros),
            corrects: own.correction.map_or(0, |own| own.corrects),
            corrects_epoch: own.correction.map_or(0, |own| own.corrects_epoch.as_u64()),
            lease: own.correction.map_or(0, |own| own.lease.as_u64()),
            corrected: instant_or_forever(own.correction.map(|own| own.at)),
            usage_credit: own.correction.map_or(0, |own| own.usage_credit.as_nanos()),
            absorbed_credit: own.correction.map_or(0, |own| own.absorbed_credit.as_nanos()),
            charge_credit: own.correction.map_or(0, |own| own.charge_credit.as_micros()),
            created: own.created.as_nanos(),
            started: instant_or_forever(own.started),
            finished: own.finished.as_nanos(),
            price_version: own.price_version,
            priced: u32::from(own.price.is_some()),
            measured: u32::from(own.measured),
            capped: u32::from(own.capped),
            revision: own.correction.map_or(0, |own| own.revision),
            task: task_number(own.task),
            state: state_number(own.state),
            attempts: own.attempts,
            requeues: own.requeues,
            devices: own.devices.len() as u32,
            customer: fixed(&own.customer),
            backend: fixed(own.backend.as_deref().unwrap_or_default()),
            tier: fixed(&own.tier),
            route: fixed(&own.route),
        }
    }
}

impl From<Batch> for gateway_batch {
    fn from(batch: Batch) -> Self {
        Self { id: batch.id, first_seq: batch.first_seq, len: u64::from(batch.len) }
    }
}

impl gateway_batch {
    pub(crate) fn read(&self) -> Result<Batch, Failure> {
        let len = u32::try_from(self.len);
        let len = len.map_err(|_| Failure::range("batch.len", self.len, 0, u64::from(u32::MAX)))?;
        Ok(Batch { id: self.id, first_seq: self.first_seq, len })
    }
}

/// # Safety
/// `prices` has `len` items, whose texts end in a NUL, as has `currency`.
pub(crate) unsafe fn read_book(
    version: u32,
    currency: *const c_char,
    prices: *const gateway_price,
    len: usize,
) -> Result<PriceBook, Failure> {
    // SAFETY: the caller's promise.
    let (currency, prices) = unsafe { (text(currency, "currency")?, list(prices, len, "prices")?) };
    let mut book = PriceBook::new(version, currency)?;
    for price in prices {
        // SAFETY: the caller's promise.
        let (model, tier) = unsafe { (text(price.model, "model")?, text(price.tier, "tier")?) };
        let per = if price.per == 0 { GATEWAY_SECOND } else { price.per };
        book = book.price_at(model, tier, Price::new(price.micros, Span::from_nanos(per))?)?;
    }
    Ok(book)
}

/// Puts a newer price book in force, for jobs that end from now on. `version` is higher than that of the book in force,
/// `currency` three upper-case letters, the same in every book.
///
///     gateway_price prices[] = {{"*", "*", 1200, GATEWAY_SECOND}, {"flux/dev", "pro", 2490000, GATEWAY_HOUR}};
///     gateway_status status = gateway_put_prices(gw, now, 1, "USD", prices, 2);
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a value that cannot be, an older version and
/// another currency; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_put_prices(
    gw: *mut gateway,
    now: u64,
    version: u32,
    currency: *const c_char,
    prices: *const gateway_price,
    prices_len: usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let book = unsafe { read_book(version, currency, prices, prices_len) }?;
        done(gw, |gateway| Ok(gateway.put_prices(at(now), book)?))
    })
}

/// Hands out up to `max` settlements, the oldest first. They stay until they are confirmed: write them where they belong,
/// then call `gateway_confirm_settlements`; where that fails, `gateway_return_settlements`, or `settle_within` does it.
/// Free the handle by `gateway_settlements_free`.
///
///     gateway_settlements *taken = NULL;
///     if (gateway_take_settlements(gw, now, 1000, &taken) == GATEWAY_OK) {
///         gateway_batch batch;
///         gateway_settlements_batch(taken, &batch);
///         for (size_t i = 0; i < batch.len; i++) {
///             gateway_settlement settlement;
///             gateway_settlements_read(taken, i, &settlement);
///             write_down(&settlement);
///         }
///         gateway_confirm_settlements(gw, now, &batch, NULL);
///         gateway_settlements_free(taken);
///     }
///
/// `GATEWAY_NONE`: there are none. Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`,
/// `GATEWAY_REENTERED`, `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_take_settlements(
    gw: *mut gateway,
    now: u64,
    max: u32,
    settlements: *mut *mut gateway_settlements,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let settlements = unsafe { Out::required(settlements, "settlements") }?;
        let (mut place, taken) = command(gw, |gateway| Ok((reserve(1)?, gateway.take_settlements(at(now), max))))?;
        let Some(taken) = taken else { return Ok(GATEWAY_NONE) };
        settlements.set(place.fill(taken));
        Ok(GATEWAY_OK)
    })
}

/// Lets go of settlements the host has kept safe. `*count`, which may be NULL, is how many; confirming twice is 0.
///
/// Errors: `GATEWAY_UNKNOWN_BATCH`; `GATEWAY_BATCH_SUPERSEDED` when the batch had returned to the outbox;
/// `GATEWAY_BAD_POINTER`, `GATEWAY_OUT_OF_RANGE`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May
/// be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_confirm_settlements(
    gw: *mut gateway,
    now: u64,
    batch: *const gateway_batch,
    count: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (batch, count) = unsafe { (given(batch, "batch")?.read()?, Out::optional(count, "count")?) };
        count.set(command(gw, |gateway| Ok(gateway.confirm_settlements(at(now), batch)?))?);
        Ok(GATEWAY_OK)
    })
}

/// Takes settlements back that the host could not keep; they are handed out again.
///
/// Errors: as `gateway_confirm_settlements`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_return_settlements(
    gw: *mut gateway,
    now: u64,
    batch: *const gateway_batch,
    count: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (batch, count) = unsafe { (given(batch, "batch")?.read()?, Out::optional(count, "count")?) };
        count.set(command(gw, |gateway| Ok(gateway.return_settlements(at(now), batch)?))?);
        Ok(GATEWAY_OK)
    })
}

/// Which batch it is, and how many settlements it has.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_settlements_batch(
    settlements: *const gateway_settlements,
    batch: *mut gateway_batch,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let batch = unsafe { Out::required(batch, "batch") }?;
        batch.set(with(settlements, |taken| Ok(taken.batch.into()))?);
        Ok(GATEWAY_OK)
    })
}

/// Reads one of the settlements, by its place from 0.
///
/// `GATEWAY_NONE`: there are not as many. Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_settlements_read(
    settlements: *const gateway_settlements,
    index: usize,
    settlement: *mut gateway_settlement,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let settlement = unsafe { Out::required(settlement, "settlement") }?;
        with(settlements, |taken| {
            let Some(own) = taken.settlements.get(index) else { return Ok(GATEWAY_NONE) };
            settlement.set(own.into());
            Ok(GATEWAY_OK)
        })
    })
}

/// Reads what one device worked for one of the settlements: its name, with a NUL, and `*gpu_ns`, which may be NULL. The name
/// is empty where it stands for all devices beyond the first 64.
///
/// `GATEWAY_NONE`: there is no such settlement or device. Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`;
/// `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_settlements_device(
    settlements: *const gateway_settlements,
    index: usize,
    device: usize,
    gpu_ns: *mut u64,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let gpu_ns = unsafe { Out::optional(gpu_ns, "gpu_ns") }?;
        with(settlements, |taken| {
            let own = taken.settlements.get(index).and_then(|own| own.devices.get(device));
            let Some(own) = own else { return Ok(GATEWAY_NONE) };
            // SAFETY: the caller's promise.
            let status = unsafe { copy_text(&own.device, buf, cap, needed) }?;
            gpu_ns.set(own.gpu.as_nanos());
            Ok(status)
        })
    })
}

/// What a usage that was told late came to.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_corrected {
    /// The job of the lease.
    pub job: gateway_job_id,
    /// The number of the correcting settlement; 0: nothing changed, the job has not ended and will be settled with this
    /// figure, or no settlements are kept.
    pub settlement: u64,
    /// GPU time that was reported, in nanoseconds.
    pub reported: u64,
    /// GPU time that stands for the lease now, in nanoseconds.
    pub billed: u64,
    /// 1 where that is less than was reported.
    pub capped: u64,
}

impl From<Corrected> for gateway_corrected {
    fn from(own: Corrected) -> Self {
        Self {
            job: id_out(own.job),
            settlement: own.settlement.unwrap_or(0),
            reported: own.reported.as_nanos(),
            billed: own.billed.as_nanos(),
            capped: u64::from(own.capped),
        }
    }
}

/// Takes what a lease used that has ended: all of it, in the place of what was billed for it before. Where its job is
/// settled, the difference is a settlement of its own; until then it is part of the settlement to come. Who pays stays as
/// it was. Telling the same again changes nothing. `corrected` may be NULL.
///
///     gateway_usage usage = {"GPU-8f2c", 1700 * GATEWAY_MILLISECOND};
///     gateway_status status = gateway_correct_usage(gw, now, lease, &usage, 1, NULL);
///
/// Errors, in this order: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`; `GATEWAY_STILL_LIVE`; `GATEWAY_UNKNOWN_LEASE`; from
/// -201 down for a malformed usage or none; `GATEWAY_TOO_LATE` from `late_usage_for` on; `GATEWAY_USAGE_EXCEEDS_ELAPSED`
/// where the policy is to refuse; `GATEWAY_FULL` without room for the entry. `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`, `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_correct_usage(
    gw: *mut gateway,
    now: u64,
    lease: u64,
    usage: *const gateway_usage,
    usage_len: usize,
    corrected: *mut gateway_corrected,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (usage, corrected) = unsafe { (read_usage(usage, usage_len)?, Out::optional(corrected, "corrected")?) };
        let own = command(gw, |gateway| Ok(gateway.correct_usage(at(now), LeaseId::from_u64(lease), usage)?))?;
        corrected.set(own.into());
        Ok(GATEWAY_OK)
    })
}

/// All of the settlements as JSON, as the reply to the command `take_settlements` has them.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_settlements_json(
    settlements: *const gateway_settlements,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    // SAFETY: the caller's promise.
    guard(|| with(settlements, |taken| unsafe { copy_text(&json(taken), buf, cap, needed) }))
}

/// Frees the handle. The settlements stay in the outbox until they are confirmed. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_settlements_free(settlements: *mut gateway_settlements) -> gateway_status {
    guard(|| free(settlements))
}
