//! A histogram.

use libgateway::Histogram;

use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{create, free, gateway_histogram, with};
use crate::input::{Out, outs};
use crate::status::*;

/// A distribution in numbers.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_distribution {
    /// How many values were recorded.
    pub count: u64,
    /// The least value; 0 while there is none.
    pub min: u64,
    /// The greatest value; 0 while there is none.
    pub max: u64,
    /// The mean, rounded down; 0 while there is no value.
    pub mean: u64,
    /// The sum of the values: the lower 64 bits.
    pub sum: u64,
    /// The upper 64 bits of the same sum.
    pub sum_high: u64,
    /// What quantiles may be too great by, in parts per million.
    pub relative_error_ppm: u64,
}

/// A part of a distribution.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gateway_bucket {
    /// The greatest value that counts into it.
    pub upper: u64,
    /// How many values did.
    pub count: u64,
}

/// Makes an empty histogram. `precision_bits` is 3 (errors below 12.5 %, 4 KiB) to 8 (below 0.4 %, 114 KiB); 6 is a good
/// choice. Free it by `gateway_histogram_free`.
///
/// Errors: `GATEWAY_OUT_OF_RANGE`; `GATEWAY_BAD_POINTER`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_new(
    precision_bits: u32,
    histogram: *mut *mut gateway_histogram,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let histogram = unsafe { Out::required(histogram, "histogram") }?;
        let (min, max) = (Histogram::PRECISION_BITS_MIN, Histogram::PRECISION_BITS_MAX);
        let bits = u8::try_from(precision_bits);
        let bits = bits.map_err(|_| Failure::range("precision_bits", precision_bits.into(), min.into(), max.into()))?;
        create(Histogram::new(bits)?, histogram)?;
        Ok(GATEWAY_OK)
    })
}

/// Frees a histogram. NULL is fine.
///
/// Errors: `GATEWAY_INVALID_HANDLE`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_free(histogram: *mut gateway_histogram) -> gateway_status {
    guard(|| free(histogram))
}

/// Records a value `count` times.
///
/// Errors: `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`, `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_record(
    histogram: *mut gateway_histogram,
    value: u64,
    count: u64,
) -> gateway_status {
    guard(|| {
        with(histogram, |histogram| {
            histogram.record_n(value, count);
            Ok(GATEWAY_OK)
        })
    })
}

/// Adds everything `other` has recorded.
///
/// Errors: `GATEWAY_OUT_OF_RANGE` if the precisions differ; `GATEWAY_BAD_POINTER`, `GATEWAY_INVALID_HANDLE`,
/// `GATEWAY_POISONED`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_merge(
    histogram: *mut gateway_histogram,
    other: *const gateway_histogram,
) -> gateway_status {
    guard(|| {
        // One lock after the other: two threads that merge crosswise must not wait for each other.
        let other = with(other, |other| Ok(other.clone()))?;
        with(histogram, |histogram| Ok(histogram.merge(&other)?)).map(|()| GATEWAY_OK)
    })
}

/// Forgets everything recorded.
///
/// Errors: as `gateway_histogram_record`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_clear(histogram: *mut gateway_histogram) -> gateway_status {
    guard(|| {
        with(histogram, |histogram| {
            histogram.clear();
            Ok(GATEWAY_OK)
        })
    })
}

/// A quantile by nearest rank, in parts per million: 950 000 is the 95 % quantile. Never below the true one, and above it
/// by less than `relative_error_ppm`.
///
/// `GATEWAY_NONE`: nothing was recorded. Errors: as `gateway_histogram_record`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_quantile(
    histogram: *const gateway_histogram,
    ppm: u32,
    value: *mut u64,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let value = unsafe { Out::required(value, "value") }?;
        let quantile = with(histogram, |histogram| Ok(histogram.quantile_ppm(ppm)))?;
        Ok(quantile.map_or(GATEWAY_NONE, |quantile| {
            value.set(quantile);
            GATEWAY_OK
        }))
    })
}

/// Reads the distribution in numbers.
///
/// Errors: as `gateway_histogram_record`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_read(
    histogram: *const gateway_histogram,
    distribution: *mut gateway_distribution,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let distribution = unsafe { Out::required(distribution, "distribution") }?;
        distribution.set(with(histogram, |histogram| {
            Ok(gateway_distribution {
                count: histogram.count(),
                min: histogram.min().unwrap_or(0),
                max: histogram.max().unwrap_or(0),
                mean: histogram.mean().unwrap_or(0),
                sum: histogram.sum() as u64,
                sum_high: (histogram.sum() >> 64) as u64,
                relative_error_ppm: u64::from(histogram.relative_error_ppm()),
            })
        })?);
        Ok(GATEWAY_OK)
    })
}

/// Reads up to `max` of the buckets in use, ascending. `*needed`, which may be NULL, is how many there are.
///
/// Errors: `GATEWAY_BUFFER_TOO_SMALL` where there are more than `max`, and nothing was written; with `buckets` NULL and
/// `max` 0 only `*needed` is told. Else as `gateway_histogram_record`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_histogram_buckets(
    histogram: *const gateway_histogram,
    buckets: *mut gateway_bucket,
    max: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (mut out, needed) = unsafe { (outs(buckets, max, "buckets")?, Out::optional(needed, "needed")?) };
        with(histogram, |histogram| {
            let count = histogram.buckets().count();
            needed.set(count);
            if buckets.is_null() {
                return Ok(GATEWAY_OK);
            }
            if count > max {
                let message = format!("there is room for {max} buckets, {count} are in use");
                return Err(Failure::edge(GATEWAY_BUFFER_TOO_SMALL, Some("buckets"), message));
            }
            histogram.buckets().for_each(|(upper, count)| out.push(gateway_bucket { upper, count }));
            Ok(GATEWAY_OK)
        })
    })
}
