//! Every id of the contract, parsed once at the border and passed on as a
//! type. Never a bare string, and never a look-up.

use std::{fmt, str::FromStr};

use crate::sha256;
pub use crate::sha256::Hasher;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Why a text or bytes are not the id they should be. The message says what
/// is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {allowed}")]
pub struct IdError {
    what: &'static str,
    allowed: &'static str,
}

impl IdError {
    const fn new(what: &'static str, allowed: &'static str) -> Self {
        Self { what, allowed }
    }
}

/// Text form and serde through `Display` and `FromStr`: ids are plain strings
/// in every file.
macro_rules! plain_string {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

/// An id that is a checked string.
macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $allowed:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&[u8]) -> bool = $check;
                if check(text.as_bytes()) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError::new($what, $allowed))
                }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = IdError;

            fn try_from(text: &str) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        plain_string!($name);
    };
}

string_id!(
    /// Code of an organisation: `H37.02.02`, the older `000.00.13.H53`, and
    /// the irregular ones that exist. Its case is kept; it is never converted
    /// from one form into the other.
    AgencyCode,
    "not an agency code",
    "1 to 35 characters, groups of A-Z a-z 0-9 with a single dot between",
    |text| {
        text.len() <= 35
            && text
                .split(|byte| *byte == b'.')
                .all(|group| !group.is_empty() && group.iter().all(u8::is_ascii_alphanumeric))
    }
);

string_id!(
    /// Id of a connected system, given by the hub's operators.
    SystemId,
    "not a system id",
    "1 to 32 of a-z 0-9 -, a letter first",
    |text| {
        text.len() <= 32
            && text.first().is_some_and(u8::is_ascii_lowercase)
            && text.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }
);

string_id!(
    /// Id of a group of agencies.
    GroupId,
    "not a group id",
    "1 to 64 of a-z 0-9 - ., a letter first",
    |text| {
        text.len() <= 64
            && text.first().is_some_and(u8::is_ascii_lowercase)
            && text.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    }
);

string_id!(
    /// Name of a hub, as envelopes must carry it.
    HubId,
    "not a hub id",
    "1 to 64 of a-z 0-9 - .",
    |text| {
        (1..=64).contains(&text.len())
            && text.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    }
);

/// The sender's id of an envelope, kept across retries: a UUIDv7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvelopeId([u8; 16]);

impl EnvelopeId {
    /// A new id, for now.
    pub fn new_v7() -> Self {
        Self(uuid::Uuid::now_v7().into_bytes())
    }

    /// Checks that the bytes are a UUIDv7.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
        const ERROR: IdError = IdError::new("not an envelope id", "the 16 bytes of a UUID of version 7");
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| ERROR)?;
        if bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10 { Ok(Self(bytes)) } else { Err(ERROR) }
    }

    /// The bytes, as they travel.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(uuid::Uuid::from_bytes_ref(&self.0).as_hyphenated(), f)
    }
}

impl FromStr for EnvelopeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        const ERROR: IdError = IdError::new(
            "not an envelope id",
            "a UUID of version 7, such as 0192f0c1-8f5a-7b3e-9a55-6d1f6f0a3c11",
        );
        if text.len() != 36 {
            return Err(ERROR);
        }
        let id = uuid::Uuid::try_parse(text).map_err(|_| ERROR)?;
        Self::from_slice(id.as_bytes()).map_err(|_| ERROR)
    }
}

impl AsRef<[u8]> for EnvelopeId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// One envelope on its way to one recipient: `<envelope_sequence>-<recipient_index>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The sequence of the envelope's Accepted record.
    pub envelope_sequence: u64,
    /// The recipient's place among the envelope's recipients.
    pub recipient_index: u32,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.envelope_sequence, self.recipient_index)
    }
}

impl FromStr for DeliveryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        const ERROR: IdError = IdError::new(
            "not a delivery id",
            "two decimal numbers without leading zeros and a hyphen between",
        );
        let (sequence, index) = text.split_once('-').ok_or(ERROR)?;
        Ok(Self {
            envelope_sequence: decimal(sequence).ok_or(ERROR)?,
            recipient_index: decimal(index).and_then(|index| index.try_into().ok()).ok_or(ERROR)?,
        })
    }
}

/// A number in its one canonical text.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// A SHA-256. Its text is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256::of(&[bytes]))
    }

    /// From a digest's own bytes.
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Checks that these are 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::new("not a SHA-256", "32 bytes"))
    }

    /// The bytes, as they travel.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        const ERROR: IdError = IdError::new("not a SHA-256", "64 lower-case hex digits");
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ERROR);
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| ERROR)?;
        Ok(Self(digest))
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<[u8; 32]> for Digest {
    fn from(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// Id of an Ed25519 key: SHA-256 of its 44-byte SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Digest);

impl KeyId {
    /// The id of a key.
    pub fn of_public_key(public_key: &[u8; 32]) -> Self {
        Self(Digest::of(&crate::key::spki(public_key)))
    }

    /// From a digest's own bytes.
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(Digest(digest))
    }

    /// Checks that these are 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(|id| Self(Digest(id))).map_err(|_| IdError::new("not a key id", "32 bytes"))
    }

    /// The bytes, as they travel.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self).map_err(|_| IdError::new("not a key id", "64 lower-case hex digits"))
    }
}

impl AsRef<[u8]> for KeyId {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl From<KeyId> for Digest {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

plain_string!(EnvelopeId, DeliveryId, Digest, KeyId);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err = IdError> + ToString>(good: &[&str], bad: &[&str]) {
        for text in good {
            let id: T = text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(id.to_string(), *text);
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn agency_codes() {
        let longest = "A".repeat(35);
        let longer = "A".repeat(36);
        check::<AgencyCode>(
            &["G22", "H37.02.02", "000.00.13.H53", "777.77.03.D77", "000.00.01.A53", "g22", &longest],
            &["", ".", "G22.", ".G22", "H37..02", "H37 02", "H37-02", "Đ22", "G22\n", &longer],
        );
    }

    #[test]
    fn other_names() {
        let longest = "a".repeat(32);
        let longer = "a".repeat(33);
        check::<SystemId>(&["g22", "tay-ninh-2", &longest], &["", "2a", "-a", "G22", "a.b", &longer]);
        check::<GroupId>(&["everyone", "so-ban.h53"], &["", ".a", "A", "a_b"]);
        let longer = "a".repeat(65);
        check::<HubId>(&["axis.test", "1"], &["", "Axis", "a/b", &longer]);
    }

    #[test]
    fn envelope_ids() {
        check::<EnvelopeId>(
            &["0192f0c1-8f5a-7b3e-9a55-6d1f6f0a3c11"],
            &["", "0192f0c18f5a7b3e9a556d1f6f0a3c11", "0192f0c1-8f5a-4b3e-9a55-6d1f6f0a3c11"],
        );
        let id = EnvelopeId::new_v7();
        assert_eq!(EnvelopeId::from_slice(id.as_bytes()), Ok(id));
        assert!(EnvelopeId::from_slice(&id.as_bytes()[1..]).is_err());
        let mut variant = *id.as_bytes();
        variant[8] &= 0x3f;
        assert!(EnvelopeId::from_slice(&variant).is_err());
    }

    #[test]
    fn delivery_ids() {
        check::<DeliveryId>(
            &["0-0", "12-0", "18446744073709551615-4294967295"],
            &["", "-", "12", "12-", "-1", "+1-0", "1-01", "01-1", "1-0-0", "1-4294967296", " 1-0"],
        );
    }

    #[test]
    fn digests() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        check::<Digest>(&[empty], &["", &empty[1..], &empty.to_uppercase()]);
        assert_eq!(serde_json::to_string(&Digest::of(b"")).unwrap(), format!("{empty:?}"));
        assert_eq!(serde_json::from_str::<Digest>(&format!("{empty:?}")).unwrap(), Digest::of(b""));
    }
}
