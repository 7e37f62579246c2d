//! Commands as data, and the whole configuration as text.

use std::ffi::c_char;

use libgateway::error::{CommandError, ErrorReply};
use libgateway::{Entry, Reply};

use super::{command, look};
use crate::failure::Failure;
use crate::guard::guard;
use crate::handle::{gateway, gateway_bytes, reserve};
use crate::input::{Out, bytes, utf8};
use crate::output::copy_text;
use crate::status::*;

/// Applies a command given as JSON, one line of a log: `{"now":1700000000000000000,"command":{"dispatch":{}}}`. Every
/// change there is can be told so, also several as one: `{"all":[...]}` and `{"first_of":[...]}`. `docs/commands.md` has
/// them all, with their replies.
///
/// The reply is JSON too: as many bytes as `gateway_bytes_len` says. The answer is `GATEWAY_OK` whenever there is a
/// reply, also one that is an error (`{"error":{...}}`): so a log gets the same replies here as in every language. The
/// reply is a handle of its own because the command has been done when its length is known: a buffer that is too small
/// would ask for it to be done again. Free it by `gateway_bytes_free`.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_NOT_UTF8`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`;
/// `GATEWAY_TOO_MANY_HANDLES`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_apply_json(
    gw: *mut gateway,
    entry: *const c_char,
    entry_len: usize,
    reply: *mut *mut gateway_bytes,
) -> gateway_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (reply, entry) = unsafe { (Out::required(reply, "reply")?, bytes(entry.cast(), entry_len, "entry")?) };
        let entry = utf8(entry, "entry")?;
        let (mut place, told) = command(gw, |gateway| {
            let place = reserve(1)?;
            let told = match Entry::from_json(entry) {
                Ok(entry) => gateway.apply(entry),
                Err(error) => Reply::Error(ErrorReply::from(&error)),
            };
            Ok((place, told))
        })?;
        reply.set(place.fill(told.to_json().into_bytes()));
        Ok(GATEWAY_OK)
    })
}

/// The configuration the gateway was made with, as JSON.
///
/// Errors: `GATEWAY_BAD_POINTER`; `GATEWAY_INVALID_HANDLE`; `GATEWAY_POISONED`; `GATEWAY_REENTERED`;
/// `GATEWAY_BUFFER_TOO_SMALL`. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gateway_config_json(
    gw: *const gateway,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> gateway_status {
    guard(|| {
        let json = look(gw, |gateway| Ok(json(gateway.config())))?;
        // SAFETY: the caller's promise.
        unsafe { copy_text(&json, buf, cap, needed) }
    })
}

/// A value as JSON. Writing to memory fails for no value these types can have.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(text: &[u8], field: &'static str) -> Result<T, Failure> {
    let text = utf8(text, field)?;
    serde_json::from_str(text).map_err(|error| CommandError::NotACommand { reason: error.to_string().into() }.into())
}
