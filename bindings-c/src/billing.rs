//! A billing collector.

use std::ffi::c_char;

use libgateway::{
    BillingCall, BillingCollector, BillingCollectorConfig, BillingOutcome, BillingRecord, OutboxConfig, Price, Span,
};

use crate::guard::guard;
use crate::handle::{create, free, gateway_billing, with};
use crate::input::{Options, Out, at, given, instant_or_forever, number, optional_text, options, text};
use crate::machine::{
    GATEWAY_EXCESS_CAP, GATEWAY_HOUR, GATEWAY_MILLISECOND, GATEWAY_MINUTE, gateway_batch, gateway_price, gateway_usage,
    json, read_book, read_usage,
};
use crate::names::GATEWAY_NAME_CAP;
use crate::output::{copy_text, fixed};
use crate::status::*;

/// How much a billing collector keeps, and what it believes. Begin with `GATEWAY_BILLING_CONFIG_INIT`. Spans are in
/// nanoseconds.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_billing_config {
    /// `sizeof(gateway_billing_config)`.
    pub size: usize,
    /// Seed of the table of request ids; secret where they come from strangers. Default 0.
    pub seed: u64,
    /// How long a call may stay open before it is swept. Default 1 h.
    pub start_age_max: u64,
    /// How long a batch may stay unconfirmed before it is handed out again. Default 60 s.
    pub hold: u64,
    /// How much longer than the call a device may have worked, beyond `tolerance_ppm`. Default 100 ms.
    pub slack: u64,
    /// The same in parts per million. Default 10 000.
    pub tolerance_ppm: u32,
    /// Most calls open at a time. Default 100 000.
    pub starts_max: u32,
    /// Most records that are not confirmed. Default 1 000 000.
    pub outbox_max: u32,
    /// What becomes of a usage beyond the possible. Default `GATEWAY_EXCESS_CAP`.
    pub excess: u32,
}

// SAFETY: repr(C), begins with its size, and has integers only.
unsafe impl Options for gateway_billing_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        seed: 0,
        start_age_max: GATEWAY_HOUR,
        hold: GATEWAY_MINUTE,
        slack: 100 * GATEWAY_MILLISECOND,
        tolerance_ppm: 10_000,
        starts_max: 100_000,
        outbox_max: 1_000_000,
        excess: GATEWAY_EXCESS_CAP,
    };
}

/// Who calls what.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_call {
    /// The id of the request.
    pub request_id: *const c_char,
    /// Who pays; NULL if nobody does.
    pub customer: *const c_char,
    /// The model, as the price book names it.
    pub model: *const c_char,
    /// The customer's pricing tier; NULL if there is none.
    pub tier: *const c_char,
}

/// What a call came to.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_receipt {
    /// The number of its record.
    pub seq: u64,
    /// Nanoseconds reported.
    pub reported_ns: u64,
    /// Nanoseconds charged.
    pub billed_ns: u64,
    /// Millionths of the currency, where `priced` is 1.
    pub charge: u64,
    /// 1 where there was a price.
    pub priced: u32,
    /// 1 where less is charged than was reported.
    pub capped: u32,
}

/// The caller told the usage.
pub const GATEWAY_CALL_ENDED: u32 = 0;
/// The caller gave it up. Nothing is charged.
pub const GATEWAY_CALL_ABANDONED: u32 = 1;
/// Nobody ended it in time. Nothing is charged.
pub const GATEWAY_CALL_SWEPT: u32 = 2;

/// The record of a call that has left. Texts end in a NUL.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_record {
    /// Its number, without gaps. A receiver that sees a number again drops it.
    pub seq: u64,
    /// Nanoseconds reported; 0 unless it ended.
    pub reported_ns: u64,
    /// Nanoseconds charged: as many, or what was possible where that is less.
    pub billed_ns: u64,
    /// When it started, by the caller's clock.
    pub started: u64,
    /// When it left, by the caller's clock.
    pub ended: u64,
    /// Nanoseconds it took: the time that passed, whatever steps the clock made.
    pub elapsed: u64,
    /// Price for each `price_per` of GPU time, where `priced` is 1.
    pub price: u64,
    /// Nanoseconds that `price` is for, where `priced` is 1.
    pub price_per: u64,
    /// What is charged in millionths of the currency, where `priced` is 1.
    pub charge: u64,
    /// 1 where there was a price.
    pub priced: u32,
    /// The version of the price book that gave it.
    pub price_version: u32,
    /// How it left: `GATEWAY_CALL_ENDED` and its like.
    pub outcome: u32,
    /// 1 where `reported_ns` was measured.
    pub measured: u32,
    /// 1 where less is charged than was reported.
    pub capped: u32,
    /// 1 where `ended` lies before `started`: the clock was set back in between.
    pub clock_back: u32,
    /// 1 where it has a customer.
    pub has_customer: u32,
    /// 1 where it has a tier.
    pub has_tier: u32,
    /// The currency: three letters.
    pub currency: [c_char; 8],
    /// The id of the request.
    pub request_id: [c_char; GATEWAY_NAME_CAP],
    /// Who pays, where `has_customer` is 1.
    pub customer: [c_char; GATEWAY_NAME_CAP],
    /// The model.
    pub model: [c_char; GATEWAY_NAME_CAP],
    /// The customer's pricing tier, where `has_tier` is 1.
    pub tier: [c_char; GATEWAY_NAME_CAP],
}

/// Sums over the whole life of a collector.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_billing_totals {
    /// Calls open now.
    pub open: u64,
    /// Records that are not confirmed.
    pub unconfirmed: u64,
    /// Calls started.
    pub started: u64,
    /// Calls ended.
    pub ended: u64,
    /// Calls abandoned.
    pub abandoned: u64,
    /// Calls swept.
    pub swept: u64,
    /// Ended calls that had no price.
    pub unpriced: u64,
    /// Nanoseconds of calls that had no price; part of `usage_ns`. The lower 64 bits.
    pub unpriced_ns: u64,
    /// The upper 64 bits of the same sum.
    pub unpriced_ns_high: u64,
    /// Ended calls charged for less than they reported.
    pub capped: u64,
    /// Ended calls without a measurement.
    pub unmeasured: u64,
    /// Nanoseconds charged: the lower 64 bits.
    pub usage_ns: u64,
    /// The upper 64 bits of the same sum.
    pub usage_ns_high: u64,
    /// Millionths of the currency charged: the lower 64 bits.
    pub charge_micros: u64,
    /// The upper 64 bits of the same sum.
    pub charge_micros_high: u64,
}

impl gateway_record {
    fn of(seq: u64, own: &BillingRecord) -> Self {
        let outcomes = &[BillingOutcome::Ended, BillingOutcome::Abandoned, BillingOutcome::Swept];
        Self {
            seq,
            reported_ns: own.reported_ns.as_nanos(),
            billed_ns: own.billed_ns.as_nanos(),
            started: own.started.as_nanos(),
            ended: own.ended.as_nanos(),
            elapsed: own.elapsed.as_nanos(),
            price: own.price.map_or(0, Price::micros),
            price_per: own.price.map_or(0, |price| price.per().as_nanos()),
            charge: own.charge.unwrap_or_default().as_micros(),
            priced: u32::from(own.price.is_some()),
            price_version: own.price_version,
            outcome: number(own.outcome, outcomes),
            measured: u32::from(own.measured),
            capped: u32::from(own.capped),
            clock_back: u32::from(own.clock_back),
            has_customer: u32::from(own.customer.is_some()),
            has_tier: u32::from(own.tier.is_some()),
            currency: fixed(own.currency.as_str()),
            request_id: fixed(&own.request_id),
            customer: fixed(own.customer.as_deref().unwrap_or_default()),
            model: fixed(&own.model),
            tier: fixed(own.tier.as_deref().unwrap_or_default()),
        }
    }
}

/// Makes a collector without calls and with a price book, as `gateway_put_prices` has it. NULL as `config` takes all
/// defaults. Free it by `gateway_billing_free`.
///
/// The order of calls: `gateway_billing_start`, then `gateway_billing_end` or `gateway_billing_abandon`;
/// `gateway_billing_handle_timeout` at `gateway_billing_next_deadline`; and to empty the outbox `gateway_billing_take`,
/// `gateway_billing_entry` for each, `gateway_billing_confirm`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_BAD_SIZE`; `GATEWAY_NOT_UTF8`; from -201 down for a value that cannot be. May
/// be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_new(
    config: *const gateway_billing_config,
    version: u32,
    currency: *const c_char,
    prices: *const gateway_price,
    prices_len: usize,
    billing: *mut *mut gateway_billing,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (own, billing) = unsafe { (options(config, "config")?, Out::required(billing, "billing")?) };
        let excess = crate::machine::excess(own.excess, "excess")?;
        // SAFETY: the caller's promise.
        let book = unsafe { read_book(version, currency, prices, prices_len) }?;
        let outbox = OutboxConfig::default().outbox_max(own.outbox_max).hold(Span::from_nanos(own.hold));
        let config = BillingCollectorConfig::default()
            .seed(own.seed)
            .start_age_max(Span::from_nanos(own.start_age_max))
            .slack(Span::from_nanos(own.slack))
            .tolerance_ppm(own.tolerance_ppm)
            .excess(excess)
            .starts_max(own.starts_max)
            .outbox(outbox);
        create(BillingCollector::new(config, book)?, billing)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a collector; what it still has is lost. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_free(billing: *mut gateway_billing) -> gateway_status {
    guard(|| free(billing))
}

/// Puts another price book in force, for calls that start from now on.
///
/// Errors: as `gateway_put_prices`, without `GATEWAY_REENTERED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_put_prices(
    billing: *mut gateway_billing,
    version: u32,
    currency: *const c_char,
    prices: *const gateway_price,
    prices_len: usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let book = unsafe { read_book(version, currency, prices, prices_len) }?;
        with(billing, |billing| Ok(billing.put_prices(book)?)).map(|()| GATEWAY_OK)
    })
}

/// Opens a call, and sets room aside for its record.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for a name; `GATEWAY_ALREADY_STARTED`;
/// `GATEWAY_FULL`; `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_start(
    billing: *mut gateway_billing,
    call: *const gateway_call,
    now: u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let own = unsafe { given(call, "call") }?;
        // SAFETY: the caller's promise.
        let call = unsafe {
            BillingCall {
                request_id: text(own.request_id, "request_id")?,
                customer: optional_text(own.customer, "customer")?,
                model: text(own.model, "model")?,
                tier: optional_text(own.tier, "tier")?,
            }
        };
        with(billing, |billing| Ok(billing.start(call, at(now))?)).map(|()| GATEWAY_OK)
    })
}

/// Closes a call and charges what it used; without any `usage` (0 items) the time it took. `receipt` may be NULL.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, from -201 down for the shape of the usage; `GATEWAY_NO_START`;
/// `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`; and where `excess` is to refuse, `GATEWAY_USAGE_EXCEEDS_ELAPSED`. The call
/// stays open then. Otherwise a usage beyond what a device can have worked is taken, and what was possible is charged. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_end(
    billing: *mut gateway_billing,
    request_id: *const c_char,
    usage: *const gateway_usage,
    usage_len: usize,
    now: u64,
    receipt: *mut gateway_receipt,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (request_id, usage, receipt) = unsafe {
            (text(request_id, "request_id")?, read_usage(usage, usage_len)?, Out::optional(receipt, "receipt")?)
        };
        let own = with(billing, |billing| Ok(billing.end(request_id, &usage, at(now))?))?;
        receipt.set(gateway_receipt {
            seq: own.seq,
            reported_ns: own.reported_ns.as_nanos(),
            billed_ns: own.billed_ns.as_nanos(),
            charge: own.charge.unwrap_or_default().as_micros(),
            priced: u32::from(own.charge.is_some()),
            capped: u32::from(own.capped),
        });
        Ok(GATEWAY_OK)
    })
}

/// Closes a call that came to nothing: its record says so and charges nothing. `*seq`, which may be NULL, is the record's
/// number.
///
/// Errors: `GATEWAY_NO_START`; `GATEWAY_BAD_POINTER`, `GATEWAY_NOT_UTF8`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`.
/// May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_abandon(
    billing: *mut gateway_billing,
    request_id: *const c_char,
    now: u64,
    seq: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (request_id, seq) = unsafe { (text(request_id, "request_id")?, Out::optional(seq, "seq")?) };
        seq.set(with(billing, |billing| Ok(billing.abandon(request_id, at(now))?))?);
        Ok(GATEWAY_OK)
    })
}

/// Sweeps up to `max` calls whose age has come, and gives back the batches whose hold has ended. `*swept`, which may be
/// NULL, is how many calls; as long as it is `max`, call again.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_handle_timeout(
    billing: *mut gateway_billing,
    max: u32,
    now: u64,
    swept: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let swept = unsafe { Out::optional(swept, "swept") }?;
        swept.set(with(billing, |billing| Ok(billing.handle_timeout(max, at(now))))?);
        Ok(GATEWAY_OK)
    })
}

/// When a call is swept or a batch given back next; `GATEWAY_FOREVER` where none is.
///
/// Errors: as `gateway_billing_handle_timeout`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_next_deadline(
    billing: *const gateway_billing,
    deadline: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let deadline = unsafe { Out::required(deadline, "deadline") }?;
        deadline.set(with(billing, |billing| Ok(instant_or_forever(billing.next_deadline())))?);
        Ok(GATEWAY_OK)
    })
}

/// Hands out up to `max` records, the oldest first. They stay until they are confirmed; read each by
/// `gateway_billing_entry`.
///
/// `GATEWAY_NONE`: there are none. Errors: as `gateway_billing_handle_timeout`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_take(
    billing: *mut gateway_billing,
    max: u32,
    now: u64,
    batch: *mut gateway_batch,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let batch = unsafe { Out::required(batch, "batch") }?;
        let taken = with(billing, |billing| Ok(billing.take(max, at(now))))?;
        Ok(taken.map_or(GATEWAY_NONE, |taken| {
            batch.set(taken.into());
            GATEWAY_OK
        }))
    })
}

/// Reads one record of a batch that is out, by its place from 0.
///
/// `GATEWAY_NONE`: there are not as many. Errors: `GATEWAY_UNKNOWN_BATCH`; `GATEWAY_BATCH_SUPERSEDED`;
/// `GATEWAY_BAD_POINTER`, `GATEWAY_OUT_OF_RANGE`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_entry(
    billing: *const gateway_billing,
    batch: *const gateway_batch,
    index: usize,
    record: *mut gateway_record,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (batch, record) = unsafe { (given(batch, "batch")?.read()?, Out::required(record, "record")?) };
        with(billing, |billing| {
            let Some((seq, own)) = billing.entries(batch)?.nth(index) else { return Ok(GATEWAY_NONE) };
            record.set(gateway_record::of(seq, own));
            Ok(GATEWAY_OK)
        })
    })
}

/// One record of a batch that is out as JSON, with the usage of each device.
///
/// Answers and errors: as `gateway_billing_entry`, and `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_entry_json(
    billing: *const gateway_billing,
    batch: *const gateway_batch,
    index: usize,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let batch = unsafe { given(batch, "batch") }?.read()?;
        let found = with(billing, |billing| Ok(billing.entries(batch)?.nth(index).map(|(_, own)| json(own))))?;
        match found {
            None => Ok(GATEWAY_NONE),
            // SAFETY: the caller's promise.
            Some(json) => unsafe { copy_text(&json, buf, cap, needed) },
        }
    })
}

/// Removes the records of a batch for good. `*count`, which may be NULL, is how many; confirming twice is 0.
///
/// Errors: as `gateway_billing_entry`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_confirm(
    billing: *mut gateway_billing,
    batch: *const gateway_batch,
    count: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (batch, count) = unsafe { (given(batch, "batch")?.read()?, Out::optional(count, "count")?) };
        count.set(with(billing, |billing| Ok(billing.confirm(batch)?))?);
        Ok(GATEWAY_OK)
    })
}

/// Frees the records of a batch to be handed out again. `*count`, which may be NULL, is how many.
///
/// Errors: as `gateway_billing_entry`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_give_back(
    billing: *mut gateway_billing,
    batch: *const gateway_batch,
    count: *mut u32,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (batch, count) = unsafe { (given(batch, "batch")?.read()?, Out::optional(count, "count")?) };
        count.set(with(billing, |billing| Ok(billing.give_back(batch)?))?);
        Ok(GATEWAY_OK)
    })
}

/// The sums so far.
///
/// Errors: as `gateway_billing_handle_timeout`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_billing_read_totals(
    billing: *const gateway_billing,
    totals: *mut gateway_billing_totals,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let totals = unsafe { Out::required(totals, "totals") }?;
        totals.set(with(billing, |billing| {
            let own = billing.totals();
            Ok(gateway_billing_totals {
                open: billing.open() as u64,
                unconfirmed: billing.outbox().len() as u64,
                started: own.started,
                ended: own.ended,
                abandoned: own.abandoned,
                swept: own.swept,
                unpriced: own.unpriced,
                unpriced_ns: own.unpriced_ns as u64,
                unpriced_ns_high: (own.unpriced_ns >> 64) as u64,
                capped: own.capped,
                unmeasured: own.unmeasured,
                usage_ns: own.usage_ns as u64,
                usage_ns_high: (own.usage_ns >> 64) as u64,
                charge_micros: own.charge_micros as u64,
                charge_micros_high: (own.charge_micros >> 64) as u64,
            })
        })?);
        Ok(GATEWAY_OK)
    })
}
