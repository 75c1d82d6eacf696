//! Ed25519 keys: what signs envelopes, answers and checkpoints. Never TLS
//! keys, and never a key's secret in a log.

use std::fmt;

use ed25519_dalek::{
    Signature, Signer as _, VerifyingKey,
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
        PublicKey(self.0.verifying_key().to_bytes())
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

/// The 32 bytes of an Ed25519 public key. They need not be a point: then
/// nothing verifies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The key's id.
    pub fn key_id(&self) -> KeyId {
        KeyId::of_public_key(&self.0)
    }

    /// Whether the bytes are a point of full order: what a key to be
    /// registered must be.
    pub fn is_valid(&self) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| !key.is_weak())
    }

    /// Whether the signature verifies, strictly: 64 bytes, canonical, no
    /// points of small order, without the cofactor.
    pub fn verify_strict(&self, message: &[u8], signature: &[u8]) -> bool {
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(&self.0), Signature::from_slice(signature))
        else {
            return false;
        };
        key.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(self.0))
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
        assert!(!PublicKey(identity).verify_strict(b"message", &signature));
        assert!(!PublicKey(identity).is_valid());
        assert!(key.public().is_valid());
    }
}
