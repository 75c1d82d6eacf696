//! The hub's own keys and certificates, and those it signs for systems. Never
//! sees a private key of a system.
//!
//! `keys/` holds, readable by the hub's user alone:
//!
//! | file | what | losing it costs |
//! |---|---|---|
//! | `checkpoint.pem` | Ed25519 key of the log's checkpoints | the log cannot go on under its name |
//! | `authority.{pem,crt}` | P-256 key and certificate of the private authority | every system enrols anew |
//! | `server.{pem,crt}` | P-256 key and certificate of the listeners | nothing: made anew at start |

pub mod authority;
mod files;
mod init;
mod restore;
mod server;

use std::path::Path;

use axis_proto::{id::Digest, key::SigningKey, token::EnrolmentToken};

pub use authority::{Authority, CertificateRequest, Issued, registered};
pub use init::{InitError, InitOptions, Initialised, init};
pub use restore::{KeysError, RestoredKeys, next_origin, write_settings};
pub use server::{Server, trusted_authorities};

use crate::error::{Error, Result};

/// The authority's and the log's keys.
pub struct Identity {
    /// Signs certificates.
    pub authority: Authority,
    /// Signs checkpoints.
    pub checkpoint_key: SigningKey,
}

impl Identity {
    /// Reads the keys of a hub.
    pub fn load(keys: &Path) -> Result<Self> {
        let read = |name| files::read(&keys.join(name));
        let checkpoint_key = SigningKey::from_pem(&read(files::CHECKPOINT_KEY)?).map_err(Error::fault)?;
        let authority =
            Authority::from_pem(&read(files::AUTHORITY_CERTIFICATE)?, &read(files::AUTHORITY_KEY)?)?;
        Ok(Self { authority, checkpoint_key })
    }
}

/// Makes the secret of an enrolment token: the token to hand over, and the
/// digest to keep.
pub fn new_token(address: &str, authority_key_sha256: Digest) -> Result<(EnrolmentToken, Digest)> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(Error::fault)?;
    let token = EnrolmentToken::new(address, authority_key_sha256, secret).map_err(Error::fault)?;
    let digest = token.secret_sha256();
    Ok((token, digest))
}

/// Bytes as a PEM block.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        block.extend(line.iter().map(|byte| char::from(*byte)));
        block.push('\n');
    }
    block.push_str(&format!("-----END {label}-----\n"));
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_as_a_digest_and_never_made_twice() {
        let make = || new_token("axis.example:7444", Digest::of(b"key")).unwrap();
        let (token, digest) = make();
        assert_eq!(Digest::of(&token.secret), digest);
        let text = token.to_string();
        let back: EnrolmentToken = text.parse().unwrap();
        assert_eq!((back.address.as_str(), back.secret), ("axis.example:7444", token.secret));
        assert_ne!(make().1, digest);
    }
}
