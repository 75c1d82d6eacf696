//! Ed25519 keys: what signs envelopes, answers and checkpoints. Never TLS
//! keys, and never a key's secret in a log.

use std::{fmt, sync::LazyLock};

use curve25519_dalek::constants::EIGHT_TORSION;
use ed25519_dalek::{
    Signature, Signer as _, Verifier as _, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes, spki::der::pem::LineEnding},
};
use zeroize::Zeroizing;

use crate::id::KeyId;

/// A key that signs. Wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// Why a key cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no such key.
    #[error("not an Ed25519 private key in PKCS#8 PEM form")]
    Pem,
    /// The key cannot be written.
    #[error("the key cannot be encoded")]
    Encode,
}

impl SigningKey {
    /// A new key from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness: then nothing secret can be made.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).expect("the system gives random bytes");
        Self::from_seed(&seed)
    }

    /// The key of an RFC 8032 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Reads PKCS#8 PEM, v1 or v2.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| KeyError::Pem)
    }

    /// Writes PKCS#8 PEM, v1: v2 holds the public key too, and OpenSSL 3.0
    /// does not read it.
    ///
    /// # Panics
    /// Never: 48 bytes of known shape always encode.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let bytes = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        bytes.to_pkcs8_pem(LineEnding::LF).expect("a seed of 32 bytes encodes")
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey { bytes: self.0.verifying_key().to_bytes(), point: Some(self.0.verifying_key()) }
    }

    /// Signs a message (RFC 8032, pure).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().key_id())
    }
}

/// An Ed25519 public key. Its bytes need not be a point: then nothing verifies.
///
/// To find the point takes a sixth of the time of a signature: who verifies
/// many with one key keeps it.
#[derive(Clone, Copy)]
pub struct PublicKey {
    bytes: [u8; 32],
    /// What the bytes stand for, if it is of more than small order.
    point: Option<VerifyingKey>,
}

/// The encodings of the points of small order: who signs with such a nonce can
/// make signatures that hold for many messages and keys.
static SMALL_ORDER: LazyLock<[[u8; 32]; 8]> =
    LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().to_bytes()));

impl PublicKey {
    /// The key of 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        let point = VerifyingKey::from_bytes(&bytes).ok().filter(|point| !point.is_weak());
        Self { bytes, point }
    }

    /// The key of bytes that may be too many or too few.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::new)
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The key's id.
    pub fn key_id(&self) -> KeyId {
        KeyId::of_public_key(&self.bytes)
    }

    /// Whether the bytes are a point of more than small order: what a key to
    /// be registered must be.
    pub fn is_valid(&self) -> bool {
        self.point.is_some()
    }

    /// Whether the signature verifies, strictly: 64 bytes, canonical, no
    /// points of small order, without the cofactor.
    ///
    /// The verdict is that of [`VerifyingKey::verify_strict`] in five sixths of
    /// its time: a nonce that verified is, byte for byte, the encoding of the
    /// point that was computed, so that there is no point to find for what is
    /// left to ask of it.
    pub fn verify_strict(&self, message: &[u8], signature: &[u8]) -> bool {
        let (Some(point), Ok(signature)) = (&self.point, Signature::from_slice(signature)) else {
            return false;
        };
        point.verify(message, &signature).is_ok() && !SMALL_ORDER.contains(signature.r_bytes())
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(self.bytes))
    }
}

/// The DER SubjectPublicKeyInfo of an Ed25519 key.
pub fn spki(public_key: &[u8; 32]) -> [u8; 44] {
    let mut spki = [0; 44];
    spki[..12].copy_from_slice(&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00]);
    spki[12..].copy_from_slice(public_key);
    spki
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA512, digest};
    use curve25519_dalek::{EdwardsPoint, Scalar};

    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let key = SigningKey::from_seed(&[7; 32]);
        assert_eq!(
            key.public().key_id().to_string(),
            "324be2dea8bc44461b0233e51fa48902ed6b1cc671e7739af2551e0bfe68f54e"
        );
        let pem = key.to_pem();
        assert_eq!(pem.lines().nth(1).unwrap().len(), 64, "v1 has 48 bytes");
        let read = SigningKey::from_pem(&pem).unwrap();
        assert_eq!(read.public(), key.public());
        assert!(key.public().verify_strict(b"x", &read.sign(b"x")));
        assert!(SigningKey::from_pem("nonsense").is_err());
    }

    #[test]
    fn only_the_exact_signature_verifies() {
        let key = SigningKey::generate();
        let signature = key.sign(b"message");
        assert!(key.public().verify_strict(b"message", &signature));
        assert!(!key.public().verify_strict(b"Message", &signature));
        assert!(!key.public().verify_strict(b"message", &signature[..63]));
        assert!(!SigningKey::generate().public().verify_strict(b"message", &signature));
        // the identity, a point of small order, would verify anything
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(!PublicKey::new(identity).verify_strict(b"message", &signature));
        assert!(!PublicKey::new(identity).is_valid());
        assert!(key.public().is_valid());
    }

    /// Holds ours against the library's, on everything that strictness is
    /// about: keys and nonces with and without a part of small order, and
    /// scalars and points that are not canonical. Some of it verifies when
    /// it is not taken strictly, or the test says nothing.
    #[test]
    fn the_verdict_is_the_librarys_strict_one() {
        let (a, r) = (Scalar::from(7_u64), Scalar::from(11_u64));
        let identity = EdwardsPoint::default();
        let (full_a, full_r) = (EdwardsPoint::mul_base(&a), EdwardsPoint::mul_base(&r));
        let mut bytes = vec![[0xff; 32]];
        // y = 2^255 - 19 + n, which stands for y = n, with both signs
        for n in [0, 1, 3] {
            let mut large = [0xff; 32];
            (large[0], large[31]) = (0xed + n, 0x7f);
            bytes.push(large);
            large[31] = 0xff;
            bytes.push(large);
        }
        let mut verdicts = [0; 3];
        let mut check = |key: [u8; 32], signature: [u8; 64], message: &[u8]| {
            let parsed = Signature::from_bytes(&signature);
            let theirs = VerifyingKey::from_bytes(&key).ok();
            let strict = theirs.is_some_and(|theirs| theirs.verify_strict(message, &parsed).is_ok());
            let loose = theirs.is_some_and(|theirs| theirs.verify(message, &parsed).is_ok());
            let (shown_key, shown) = (hex::encode(key), hex::encode(signature));
            let ours = PublicKey::new(key).verify_strict(message, &signature);
            assert_eq!(ours, strict, "key {shown_key}, signature {shown}, message {message:?}");
            verdicts[usize::from(loose) + usize::from(strict)] += 1;
        };
        for (key, nonce) in [(full_a, full_r), (full_a, identity), (identity, full_r), (identity, identity)] {
            for (t, u) in EIGHT_TORSION.iter().flat_map(|t| EIGHT_TORSION.iter().map(move |u| (t, u))) {
                let (key, nonce) = ((key + t).compress().to_bytes(), (nonce + u).compress().to_bytes());
                for message in 0..32_u8 {
                    check(key, signed(&key, &nonce, &[message], a, r), &[message]);
                    check(key, signed(&key, &nonce, &[message], a, Scalar::ZERO), &[message]);
                    check(key, signed(&key, &nonce, &[message], Scalar::ZERO, r), &[message]);
                    check(key, signed(&key, &nonce, &[message], Scalar::ZERO, Scalar::ZERO), &[message]);
                }
            }
        }
        let right = (full_a.compress().to_bytes(), full_r.compress().to_bytes());
        for strange in bytes {
            for message in 0..32_u8 {
                for (key, nonce) in [(strange, right.1), (right.0, strange), (strange, strange)] {
                    check(key, signed(&key, &nonce, &[message], a, r), &[message]);
                    check(key, signed(&key, &nonce, &[message], Scalar::ZERO, Scalar::ZERO), &[message]);
                }
            }
        }
        // s + l
        let mut long = signed(&right.0, &right.1, b"m", a, r);
        check(right.0, long, b"m");
        let order = hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
        let mut carry = 0;
        for (byte, more) in long[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(more);
            *byte = carry as u8;
            carry >>= 8;
        }
        check(right.0, long, b"m");
        let [neither, loose, both] = verdicts;
        assert!(neither > 100 && loose > 100 && both > 100, "{verdicts:?}");
    }

    /// A signature as somebody makes it who may choose key and nonce.
    fn signed(key: &[u8; 32], nonce: &[u8; 32], message: &[u8], a: Scalar, r: Scalar) -> [u8; 64] {
        let hash = digest(&SHA512, &[nonce, key, message].concat());
        let hash = hash.as_ref().try_into().unwrap();
        let s = r + Scalar::from_bytes_mod_order_wide(hash) * a;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(nonce);
        signature[32..].copy_from_slice(s.as_bytes());
        signature
    }
}
