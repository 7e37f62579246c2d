//! What comes in from C, checked before anything is done with it.

use std::ffi::{CStr, c_char, c_void};
use std::str;

use libgateway::{GpuNanos, JobId, Payload, Span, Timeouts, Timestamp};

use crate::failure::Failure;
use crate::ids::gateway_job_id;
use crate::status::*;

/// A struct of options: its first field is its own size, and all its other fields are integers and pointers, for which
/// every pattern of bits is a value.
///
/// # Safety
/// The type is `repr(C)`, begins with a `usize` that is its size, and all its fields accept any bits.
pub(crate) unsafe trait Options: Copy {
    /// What NULL stands for, and what a shorter struct of an older header leaves out.
    const DEFAULT: Self;
}

/// Reads options. NULL is the default ones; what an older, shorter struct does not have is as by default; what a newer,
/// longer one has beyond ours must be zero.
///
/// # Safety
/// `given` is NULL, or readable for as many bytes as the size it begins with.
pub(crate) unsafe fn options<T: Options>(given: *const T, field: &'static str) -> Result<T, Failure> {
    let mut options = T::DEFAULT;
    if given.is_null() {
        return Ok(options);
    }
    if !given.is_aligned() {
        return Err(Failure::pointer(field));
    }
    // SAFETY: it is aligned, and begins with its size by the caller's promise.
    let size = unsafe { given.cast::<usize>().read() };
    let own = size_of::<T>();
    if size < size_of::<usize>() || size % 8 != 0 || size > SIZE_MAX {
        return Err(bad_size(field, size, own));
    }
    // SAFETY: at least `size` bytes can be read by the caller's promise, and as many as `own` written; sizes are told in
    // whole words, so no field is cut, and any bits are a value of each field.
    unsafe { given.cast::<u8>().copy_to_nonoverlapping((&raw mut options).cast(), size.min(own)) };
    for at in own..size {
        // SAFETY: below `size`.
        if unsafe { given.cast::<u8>().add(at).read() } != 0 {
            return Err(bad_size(field, size, own));
        }
    }
    Ok(options)
}

fn bad_size(field: &str, size: usize, own: usize) -> Failure {
    let message = format!("{field} says it has {size} bytes, this library knows {own}: set it by its _INIT macro");
    Failure::edge(GATEWAY_BAD_SIZE, Some(field), message)
}

/// A text that has to be there.
///
/// # Safety
/// `given` is NULL or points to a text that ends in a NUL and is not written to while the result is in use.
#[inline]
pub(crate) unsafe fn text<'a>(given: *const c_char, field: &'static str) -> Result<&'a str, Failure> {
    if given.is_null() {
        return Err(Failure::pointer(field));
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(given) }.to_bytes();
    utf8(bytes, field)
}

/// A text that may be missing.
///
/// # Safety
/// As [`text`].
#[inline]
pub(crate) unsafe fn optional_text<'a>(given: *const c_char, field: &'static str) -> Result<Option<&'a str>, Failure> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { text(given, field) }.map(Some)
}

pub(crate) fn utf8<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, Failure> {
    str::from_utf8(bytes).map_err(|error| {
        let message = format!("{field} is not UTF-8 at byte {}", error.valid_up_to());
        Failure::edge(GATEWAY_NOT_UTF8, Some(field), message)
    })
}

/// Bytes; NULL is fine where there are none.
///
/// # Safety
/// `len` bytes can be read from `data` and are not written to while the result is in use.
#[inline]
pub(crate) unsafe fn bytes<'a>(data: *const c_void, len: usize, field: &'static str) -> Result<&'a [u8], Failure> {
    // SAFETY: the caller's promise.
    unsafe { list(data.cast::<u8>(), len, field) }
}

/// A list; NULL is fine where it is empty.
///
/// # Safety
/// `len` items can be read from `data` and are not written to while the result is in use.
#[inline]
pub(crate) unsafe fn list<'a, T>(data: *const T, len: usize, field: &'static str) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() || !data.is_aligned() {
        return Err(Failure::pointer(field));
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::range(field, len as u64, 0, (isize::MAX as usize / size_of::<T>()) as u64));
    }
    // SAFETY: not null, aligned, not too long, and readable by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// A struct that has to be there.
///
/// # Safety
/// `given` is NULL or points to a `T`, and any bits are a value of each field of `T`.
#[inline]
pub(crate) unsafe fn given<T: Copy>(given: *const T, field: &'static str) -> Result<T, Failure> {
    if given.is_null() || !given.is_aligned() {
        return Err(Failure::pointer(field));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { given.read() })
}

/// A place for an answer, checked before anything happens.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `out` is NULL or can be written to until the call returns.
    #[inline]
    pub(crate) unsafe fn required(out: *mut T, field: &'static str) -> Result<Self, Failure> {
        if out.is_null() { Err(Failure::pointer(field)) } else { Self::aligned(out, field) }
    }

    /// # Safety
    /// As [`Out::required`].
    #[inline]
    pub(crate) unsafe fn optional(out: *mut T, field: &'static str) -> Result<Self, Failure> {
        Self::aligned(out, field)
    }

    #[inline]
    fn aligned(out: *mut T, field: &'static str) -> Result<Self, Failure> {
        if out.is_aligned() { Ok(Self(out)) } else { Err(Failure::pointer(field)) }
    }

    /// Writes the answer, where there is a place for it.
    #[inline]
    pub(crate) fn set(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: it was promised to be writable when this was made, it is aligned and not null.
            unsafe { self.0.write(value) };
        }
    }
}

/// The place for a list of answers of which there are at most `max`.
///
/// # Safety
/// `out` can be written to for `max` items until the call returns.
pub(crate) unsafe fn outs<'a, T>(out: *mut T, max: usize, field: &'static str) -> Result<OutList<'a, T>, Failure> {
    if max > 0 && (out.is_null() || !out.is_aligned()) {
        return Err(Failure::pointer(field));
    }
    Ok(OutList { out, max, at: 0, lifetime: std::marker::PhantomData })
}

pub(crate) struct OutList<'a, T> {
    out: *mut T,
    max: usize,
    at: usize,
    lifetime: std::marker::PhantomData<&'a mut T>,
}

impl<T> OutList<'_, T> {
    pub(crate) fn push(&mut self, value: T) {
        if self.at < self.max {
            // SAFETY: below `max`, for which the place was promised to be writable; aligned.
            unsafe { self.out.add(self.at).write(value) };
            self.at += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.at
    }
}

/// What an integer stands for.
pub(crate) fn choice<T: Copy>(value: u32, of: &[T], field: &'static str) -> Result<T, Failure> {
    let max = of.len().saturating_sub(1) as u64;
    of.get(value as usize).copied().ok_or_else(|| Failure::range(field, u64::from(value), 0, max))
}

/// The number that stands for a value in [`choice`].
pub(crate) fn number<T: Copy + PartialEq>(value: T, of: &[T]) -> u32 {
    of.iter().position(|own| *own == value).map_or(u32::MAX, |at| at as u32)
}

/// A span of which 0 means that there is none.
pub(crate) fn optional_span(nanos: u64) -> Option<Span> {
    (nanos != 0).then_some(Span::from_nanos(nanos))
}

/// An instant of which [`crate::version::GATEWAY_FOREVER`] means that there is none.
pub(crate) fn optional_instant(nanos: u64) -> Option<Timestamp> {
    Some(Timestamp::from_nanos(nanos)).filter(|at| *at != Timestamp::MAX)
}

/// The other way round: nothing is never.
pub(crate) fn instant_or_forever(at: Option<Timestamp>) -> u64 {
    at.unwrap_or(Timestamp::MAX).as_nanos()
}

pub(crate) fn job_id(id: gateway_job_id) -> JobId {
    JobId::from_entropy(u128::from(id.high) << 64 | u128::from(id.low))
}

pub(crate) fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

pub(crate) fn estimate(nanos: u64) -> Option<GpuNanos> {
    (nanos != 0).then_some(GpuNanos::from_nanos(nanos))
}

pub(crate) fn timeouts(queue: u64, start: u64, run: u64, total: u64) -> Timeouts {
    Timeouts {
        queue: optional_span(queue),
        start: optional_span(start),
        run: optional_span(run),
        total: optional_span(total),
    }
}

/// # Safety
/// As [`bytes`].
pub(crate) unsafe fn payload(data: *const c_void, len: usize) -> Result<Payload, Failure> {
    // SAFETY: the caller's promise.
    unsafe { bytes(data, len, "payload") }.map(Payload::from)
}

/// No struct of options will ever be as long; what says so is no struct of options.
const SIZE_MAX: usize = 4_096;
