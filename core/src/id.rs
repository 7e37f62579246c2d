//! Identifiers and names: what the host calls things, checked once.

#![expect(clippy::indexing_slicing, reason = "the index is in range by the line above it or by the type")]

use core::fmt;
use core::str::FromStr;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest as _};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::coded::InputError;
use crate::time::Timestamp;

/// The id of a job: 128 bits of the host's entropy, shown as `j_` and 26 lower-case Crockford base32 characters.
///
/// ```
/// use libgateway::JobId;
/// let id = JobId::from_entropy(7);
/// assert_eq!(id.to_string(), "j_00000000000000000000000007");
/// assert_eq!("j_00000000000000000000000007".parse(), Ok(id));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u128);

/// The id of a lease: which grant of which gateway a result belongs to. Never used twice, also not by a gateway that was
/// restored from an older snapshot: the ids of an [`Epoch`] begin where no other epoch's do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(u64);

/// One life of a gateway: from when it was made or restored until it is restored again.
///
/// Whatever a gateway numbers for others belongs to an epoch, so that two gateways restored from one snapshot never give
/// out the same: ids of leases and batches count up from the epoch's own number, and settlements and events are known
/// by epoch and number. The first epoch of a gateway made without entropy is 0. All others lie between 2^52 and 2^53, so
/// that JSON keeps every digit.
///
/// ```
/// use libgateway::{Epoch, Gateway, GatewayConfig, Timestamp};
/// let now = Timestamp::from_secs(1);
/// let gateway = Gateway::new(GatewayConfig::default(), now)?;
/// assert_eq!(gateway.epoch(), Epoch::FIRST);
/// let restored = Gateway::restore(&gateway.snapshot(), now, 7)?;
/// assert!(restored.epoch().as_u64() > 1 << 52);
/// # Ok::<(), libgateway::error::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// That of a gateway made without entropy.
    pub const FIRST: Self = Self(0);

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The epoch after this one. The instant is mixed in, so that a host whose entropy is bad still gets another one at
    /// another time.
    pub(crate) fn after(self, now: Timestamp, entropy: u64) -> Self {
        let mut hash = Blake2b::<U8>::new();
        hash.update(self.0.to_le_bytes());
        hash.update(now.as_nanos().to_le_bytes());
        hash.update(entropy.to_le_bytes());
        Self(EPOCH_MIN + u64::from_le_bytes(hash.finalize().into()) % (EPOCH_MAX - EPOCH_MIN))
    }

    /// Whether an epoch can have this number.
    pub(crate) fn is_sound(self) -> bool {
        self == Self::FIRST || (EPOCH_MIN..EPOCH_MAX).contains(&self.0)
    }

    /// The first lease and the first batch of the epoch.
    pub(crate) const fn first(self) -> u64 {
        self.0 + 1
    }
}

/// Whether an id was never given out: the present epoch counts up to it later, or no epoch ever does. `next` is the next one.
pub(crate) fn is_unheard_of(id: u64, next: u64) -> bool {
    let own = next..next.saturating_add(EPOCH_LEN);
    // Before there was a second epoch, all there ever was is below.
    id == 0 || own.contains(&id) || id >= EPOCH_MAX + EPOCH_LEN || (next < EPOCH_MIN && id >= next)
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl JobId {
    /// An id from 128 bits of entropy. All bits are kept, so equal entropy is the same job.
    pub const fn from_entropy(entropy: u128) -> Self {
        Self(entropy)
    }

    /// The 128 bits.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    fn encode(self) -> [u8; TEXT_LEN] {
        let mut text = [b'_'; TEXT_LEN];
        text[0] = b'j';
        let mut rest = self.0;
        for byte in text[PREFIX.len()..].iter_mut().rev() {
            *byte = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        text
    }
}

impl LeaseId {
    /// A lease id from its number.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.encode();
        f.pad(core::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = InputError;

    /// # Errors
    /// [`InputError::Malformed`] unless the text is `j_` and 26 lower-case Crockford base32 characters of 128 bits.
    fn from_str(text: &str) -> Result<Self, InputError> {
        let malformed = InputError::Malformed { field: "id", expected: "j_ and 26 lower-case base32 characters" };
        let Some(digits) = text.strip_prefix(PREFIX) else { return Err(malformed) };
        if text.len() != TEXT_LEN {
            return Err(malformed);
        }
        let mut value: u128 = 0;
        for byte in digits.bytes() {
            let Some(digit) = ALPHABET.iter().position(|letter| *letter == byte) else { return Err(malformed) };
            // 26 characters hold 130 bits: the two above 128 must be clear.
            if value >> 123 != 0 {
                return Err(malformed);
            }
            value = value << 5 | digit as u128;
        }
        Ok(Self(value))
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.to_le_bytes().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 16]>::deserialize(deserializer).map(|bytes| Self(u128::from_le_bytes(bytes)));
        }
        struct Text;
        impl Visitor<'_> for Text {
            type Value = JobId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a job id")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<JobId, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Checks a name: not empty, at most `max` bytes, no control characters.
///
/// # Errors
/// [`InputError::Empty`], [`InputError::TooLong`] or [`InputError::Character`], in that order.
pub fn check_name(field: &'static str, name: &str, max: usize) -> Result<(), InputError> {
    if name.is_empty() {
        return Err(InputError::Empty { field });
    }
    if name.len() > max {
        return Err(InputError::TooLong { field, len: name.len(), max });
    }
    // Names of printable ASCII, nearly all, need no look at characters.
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(());
    }
    match name.char_indices().find(|(_, character)| character.is_control()) {
        Some((at, _)) => Err(InputError::Character { field, at }),
        None => Ok(()),
    }
}

/// Longest name of a customer, model, backend or key of affinity, in bytes.
pub const NAME_LEN_MAX: usize = 128;

/// Longest idempotency key, in bytes: at most 64 four-byte characters.
pub(crate) const KEY_LEN_MAX: usize = 256;

/// Numbers an epoch may count through: a million leases a second for 25 days, ten thousand for seven years.
const EPOCH_LEN: u64 = 1 << 41;
/// Epochs but the first lie from here on; no gateway without entropy ever counts so far.
const EPOCH_MIN: u64 = 1 << 52;
/// And below this, so that all they count stays below 2^53.
const EPOCH_MAX: u64 = (1 << 53) - EPOCH_LEN;

const PREFIX: &str = "j_";
const TEXT_LEN: usize = 28;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn an_id_survives_its_text_and_nothing_else_is_accepted() {
        for entropy in [0, 1, 31, 32, u128::MAX, u128::MAX - 1, 1 << 127, 0x0123_4567_89ab_cdef] {
            let id = JobId::from_entropy(entropy);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "j_",
            "j_0000000000000000000000000",
            "j_000000000000000000000000000",
            "J_00000000000000000000000000",
            "j_0000000000000000000000000I",
            "j_80000000000000000000000000",
            "j_0000000000000000000000000é",
        ] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }

    #[test]
    fn epochs_lie_apart_from_the_first_and_within_what_json_keeps() {
        let mut seen = std::collections::BTreeSet::new();
        let mut epoch = Epoch::FIRST;
        for n in 0..1_000 {
            epoch = epoch.after(Timestamp::from_secs(n / 2), n % 2);
            assert!(epoch.is_sound() && epoch != Epoch::FIRST);
            assert!(epoch.first() + EPOCH_LEN <= 1 << 53);
            assert!(seen.insert(epoch), "{epoch} came twice");
        }
        assert_eq!(Epoch::FIRST.after(Timestamp::EPOCH, 7), Epoch::FIRST.after(Timestamp::EPOCH, 7));
        assert_ne!(Epoch::FIRST.after(Timestamp::EPOCH, 0), Epoch::FIRST.after(Timestamp::from_nanos(1), 0));
    }

    #[test]
    fn an_id_of_another_epoch_is_over_and_one_still_to_come_was_never_heard_of() {
        for id in [0, 5, 6, 1 << 52, u64::MAX] {
            assert!(is_unheard_of(id, 5), "{id}");
        }
        assert!(!is_unheard_of(4, 5));
        let epoch = Epoch::FIRST.after(Timestamp::EPOCH, 1);
        let next = epoch.first() + 10;
        for id in [0, next, next + 1_000, 1 << 53, u64::MAX] {
            assert!(is_unheard_of(id, next), "{id}");
        }
        for id in [1, 5, next - 1, epoch.first(), epoch.first() - 1] {
            assert!(!is_unheard_of(id, next), "{id}");
        }
    }

    #[test]
    fn names_with_control_characters_are_refused_where_they_stand() {
        assert_eq!(check_name("customer", "ac\u{7}me", 128), Err(InputError::Character { field: "customer", at: 2 }));
        assert_eq!(check_name("customer", "é\u{85}", 128), Err(InputError::Character { field: "customer", at: 2 }));
        assert_eq!(check_name("customer", "", 128), Err(InputError::Empty { field: "customer" }));
        assert_eq!(check_name("customer", "abcd", 3), Err(InputError::TooLong { field: "customer", len: 4, max: 3 }));
        assert_eq!(check_name("customer", "Zoë", 128), Ok(()));
    }
}
