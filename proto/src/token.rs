//! Enrolment: the one-time token that an operator hands over, and what a new
//! key signs to prove that it is held. Never says whether a token is valid.

use std::{fmt, str::FromStr};

use zeroize::Zeroize as _;

use crate::id::{Digest, SystemId};

const PREFIX: &str = "axis1-";
const ADDRESS_BYTES_MAX: usize = 255;
/// RFC 4648 base32 in lower case: one word when it is copied, the same when
/// somebody dictates it.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// What a system needs to enrol: where, whom to trust there, and a secret.
///
/// Its text is `axis1-` and base32 (lower case, no padding) of
/// authority_key_sha256 (32 bytes) ‖ secret (16 bytes) ‖ address ‖ checksum,
/// where checksum is the first 4 bytes of
/// SHA-256("axis enrolment token v1" ‖ all before it).
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// The hub's enrolment listener: `host:port`.
    pub address: String,
    /// SHA-256 of the SubjectPublicKeyInfo of the hub's certificate authority.
    pub authority_key_sha256: Digest,
    /// The secret; the hub keeps only its SHA-256.
    pub secret: [u8; 16],
}

/// Why a text is not an enrolment token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("an enrolment token begins with `axis1-`")]
    Prefix,
    /// It is damaged: cut off, mistyped or broken by a line end.
    #[error("the enrolment token is incomplete or mistyped; copy all of it")]
    Damaged,
    /// Its address cannot be used.
    #[error("the address is not `host:port`")]
    Address,
}

impl EnrolmentToken {
    /// A token whose address can be used.
    pub fn new(address: &str, authority_key_sha256: Digest, secret: [u8; 16]) -> Result<Self, TokenError> {
        if is_address(address) {
            Ok(Self { address: address.to_owned(), authority_key_sha256, secret })
        } else {
            Err(TokenError::Address)
        }
    }

    /// What the hub keeps of the secret.
    pub fn secret_sha256(&self) -> Digest {
        Digest::of(&self.secret)
    }
}

impl Drop for EnrolmentToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.authority_key_sha256.as_bytes().to_vec();
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(self.address.as_bytes());
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{}", encode(&bytes))
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    /// Space around the token and capitals in it are forgiven.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().to_ascii_lowercase();
        let bytes =
            decode(text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?).ok_or(TokenError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if checksum(body) != *sum {
            return Err(TokenError::Damaged);
        }
        let (authority, rest) = body.split_first_chunk::<32>().ok_or(TokenError::Damaged)?;
        let (secret, address) = rest.split_first_chunk::<16>().ok_or(TokenError::Damaged)?;
        let address = std::str::from_utf8(address).map_err(|_| TokenError::Address)?;
        Self::new(address, Digest::new(*authority), *secret)
    }
}

/// What the key of an enrolling system signs: it is held by whoever holds
/// the token, for this certificate request.
pub fn enrol_proof_message(token_secret: &[u8], certificate_request: &[u8]) -> Vec<u8> {
    [b"axis enrol v1".as_slice(), token_secret, Digest::of(certificate_request).as_bytes()].concat()
}

/// What a further key of an enrolled system signs. The certificate request
/// may be empty.
pub fn renew_proof_message(system: &SystemId, certificate_request: &[u8]) -> Vec<u8> {
    let request = Digest::of(certificate_request);
    [b"axis renew v1".as_slice(), system.as_str().as_bytes(), request.as_bytes()].concat()
}

fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    address.len() <= ADDRESS_BYTES_MAX
        && !host.is_empty()
        && address.bytes().all(|byte| byte.is_ascii_graphic())
        && crate::id::decimal(port).is_some_and(|port| (1..=65_535).contains(&port))
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = crate::sha256::of(&[b"axis enrolment token v1", bytes]);
    [digest[0], digest[1], digest[2], digest[3]]
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    for chunk in bytes.chunks(5) {
        let mut word = [0; 8];
        word[3..3 + chunk.len()].copy_from_slice(chunk);
        let word = u64::from_be_bytes(word);
        for place in 0..(chunk.len() * 8).div_ceil(5) {
            text.push(char::from(ALPHABET[(word >> (35 - 5 * place) & 31) as usize]));
        }
    }
    text
}

/// The bytes of a base32 text, if it is the text that `encode` makes of them.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    for chunk in text.as_bytes().chunks(8) {
        let mut word = 0u64;
        for (place, byte) in chunk.iter().enumerate() {
            let value = ALPHABET.iter().position(|letter| letter == byte)?;
            word |= u64::try_from(value).ok()? << (35 - 5 * place);
        }
        bytes.extend_from_slice(&word.to_be_bytes()[3..3 + chunk.len() * 5 / 8]);
    }
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken::new("axis.example:7444", Digest::of(b"authority"), [7; 16]).unwrap()
    }

    #[test]
    fn base32_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text), Some(bytes.into()));
        }
        for text in ["m", "mz1", "mx", "mzxw6ytbo", "my======"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_survives_being_copied() {
        let text = token().to_string();
        assert!(text.starts_with("axis1-") && text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!("  {text}\n").parse(), Ok(token()));
        assert_eq!(text.to_uppercase().parse(), Ok(token()));
    }

    #[test]
    fn a_damaged_token_is_noticed() {
        let text = token().to_string();
        let check = |text: &str, error| assert_eq!(text.parse::<EnrolmentToken>(), Err(error), "{text}");
        check("", TokenError::Prefix);
        check(&text[1..], TokenError::Prefix);
        check("axis1-", TokenError::Damaged);
        for cut in 6..text.len() {
            check(&text[..cut], TokenError::Damaged);
        }
        for place in 6..text.len() {
            let mut other = text.clone().into_bytes();
            other[place] = if other[place] == b'a' { b'b' } else { b'a' };
            check(std::str::from_utf8(&other).unwrap(), TokenError::Damaged);
        }
        let address = EnrolmentToken { address: "axis.example".into(), ..token().clone() }.to_string();
        check(&address, TokenError::Address);
    }

    #[test]
    fn addresses() {
        for address in
            ["127.0.0.1:1", "[::1]:7444", "trục.vn:1", "a:0", "a:65536", ":1", "a", "a b:1", "a:01"]
        {
            let good = matches!(address, "127.0.0.1:1" | "[::1]:7444");
            assert_eq!(EnrolmentToken::new(address, Digest::of(b""), [0; 16]).is_ok(), good, "{address}");
        }
    }

    #[test]
    fn no_secret_in_a_log() {
        assert_eq!(format!("{:?}", token()), r#"EnrolmentToken { address: "axis.example:7444", .. }"#);
    }
}
