//! The home directory: who this side is and what it remembers. Secrets in it
//! are readable by their owner alone, and never leave it.

use std::path::{Path, PathBuf};

use axis_proto::{
    id::{AgencyCode, Digest, HubId, SystemId},
    key::SigningKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, HomeProblem, Result},
    files::{self, Access},
    format, tls,
};

/// The places in a home directory.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    /// A home at this path, there or not.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Who this side is and which hub it knows.
    pub fn profile(&self) -> PathBuf {
        self.0.join("axis.toml")
    }

    /// The TLS key and its certificate, in one file so that they change
    /// together.
    pub fn tls(&self) -> PathBuf {
        self.0.join("tls.pem")
    }

    /// The key that signs.
    pub fn signing_key(&self) -> PathBuf {
        self.0.join("signing.pem")
    }

    /// A signing key that is being registered.
    pub fn next_signing_key(&self) -> PathBuf {
        self.0.join("signing.next.pem")
    }

    /// The hub's certificate authority.
    pub fn authority(&self) -> PathBuf {
        self.0.join("authority.pem")
    }

    /// The logs that are trusted, and what was seen of them.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.json")
    }

    /// Held by whoever writes the logs.
    pub fn log_lock(&self) -> PathBuf {
        self.0.join("log.lock")
    }

    /// The ledger of mailbox numbers.
    pub fn mailbox(&self) -> PathBuf {
        self.0.join("mailbox.json")
    }

    /// Held by the one stream that receives.
    pub fn mailbox_lock(&self) -> PathBuf {
        self.0.join("mailbox.lock")
    }

    /// Where the feed was read to.
    pub fn feed(&self) -> PathBuf {
        self.0.join("feed.json")
    }

    /// Held by the one reader that goes on from there.
    pub fn feed_lock(&self) -> PathBuf {
        self.0.join("feed.lock")
    }

    /// What this side answered, for good.
    pub fn answered(&self) -> PathBuf {
        self.0.join("answered")
    }

    /// What became of the envelopes that a restored hub lacked.
    pub fn reconciled(&self) -> PathBuf {
        self.0.join("reconciled.json")
    }

    /// Held by whoever offers them again.
    pub fn reconcile_lock(&self) -> PathBuf {
        self.0.join("reconcile.lock")
    }

    /// When what need not be kept any more was last removed.
    pub fn tidied(&self) -> PathBuf {
        self.0.join("tidied")
    }

    /// Receipts of everything that this side did.
    pub fn receipts(&self) -> PathBuf {
        self.0.join("receipts")
    }

    /// Envelopes on their way.
    pub fn outbox(&self) -> PathBuf {
        self.0.join("outbox")
    }

    /// Envelopes that were accepted, with their receipts.
    pub fn sent(&self) -> PathBuf {
        self.0.join("sent")
    }

    /// Envelopes that were refused, with the refusal.
    pub fn refused(&self) -> PathBuf {
        self.0.join("refused")
    }
}

/// What a home knows, apart from secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// This system.
    pub system_id: SystemId,
    /// The hub's name, as envelopes carry it.
    pub hub_id: HubId,
    /// Where the hub listens for systems: `host:port`.
    pub hub_address: String,
    /// Verifier key of the hub's log at the enrolment; `log.json` knows which
    /// logs have continued it.
    pub log_verifier_key: String,
    /// SHA-256 of the public key of the hub's certificate authority.
    pub authority_key_sha256: Digest,
    /// The agencies served when this home was enrolled or renewed.
    pub agencies: Vec<AgencyCode>,
}

impl Profile {
    /// The profile of a home, if it is enrolled.
    pub fn load(home: impl AsRef<Path>) -> Result<Option<Self>> {
        load_profile(&Home::at(home.as_ref()))
    }
}

/// Who this side is: profile, keys and certificate.
pub struct Identity {
    /// What is not secret.
    pub profile: Profile,
    /// The key that signs.
    pub signing_key: SigningKey,
    /// The certificate, then its issuers if there are any.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The key of the certificate.
    pub tls_key: PrivateKeyDer<'static>,
    /// The hub's certificate authority.
    pub authority: CertificateDer<'static>,
}

impl Identity {
    /// Reads it all.
    pub fn load(home: &Home) -> Result<Self> {
        let profile = load_profile(home)?
            .ok_or_else(|| HomeProblem::NotEnrolled { home: home.path().display().to_string() })?;
        let path = home.tls();
        let pem = read(&path)?;
        let tls_key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| Error::damaged(&path, error))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::damaged(&path, error))?;
        if certificates.is_empty() {
            return Err(Error::damaged(&path, "it holds no certificate"));
        }

        let path = home.authority();
        let authority =
            CertificateDer::from_pem_slice(&read(&path)?).map_err(|error| Error::damaged(&path, error))?;
        let signing_key = load_signing_key(&home.signing_key())?
            .ok_or_else(|| Error::damaged(&home.signing_key(), "it is missing"))?;
        Ok(Self { profile, signing_key, certificates, tls_key, authority })
    }
}

/// The profile, if the home has one.
pub fn load_profile(home: &Home) -> Result<Option<Profile>> {
    let path = home.profile();
    let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| Error::damaged(&path, error))?;
    format::from_toml(&path, &text).map(Some)
}

/// A signing key, if the file is there.
pub fn load_signing_key(path: &Path) -> Result<Option<SigningKey>> {
    let Some(bytes) = files::read_if_there(path)? else { return Ok(None) };
    let pem = zeroize::Zeroizing::new(String::from_utf8(bytes).map_err(|error| Error::damaged(path, error))?);
    SigningKey::from_pem(&pem).map(Some).map_err(|error| Error::damaged(path, error))
}

/// Makes the signing key that is to come the one that signs.
pub fn take_next_signing_key(home: &Home) -> Result<()> {
    let path = home.signing_key();
    std::fs::rename(home.next_signing_key(), &path)
        .and_then(|()| files::sync_directory(home.path()))
        .map_err(|source| Error::write(&path, source))
}

/// Writes the profile. Everything else must be there already: with the
/// profile the home is enrolled.
pub fn save_profile(home: &Home, profile: &Profile) -> Result<()> {
    let text = format::to_toml(&home.profile(), profile)?;
    let text = format!("# Written by `axis enroll`. Public; the keys beside it are not.\n{text}");
    files::write(&home.profile(), text.as_bytes(), Access::Default)
}

/// Writes a TLS key with its certificate, if they fit: the ones that are there
/// may be all that this side has.
pub fn save_tls(home: &Home, key_pem: &str, certificate: &[u8]) -> Result<()> {
    tls::fits(key_pem, certificate)?;
    let both = zeroize::Zeroizing::new(format!("{key_pem}{}", pem("CERTIFICATE", certificate)));
    files::write(&home.tls(), both.as_bytes(), Access::Owner)
}

/// DER as PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read_if_there(path)?.ok_or_else(|| Error::damaged(path, "it is missing"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_that_does_not_fit_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate =
            |key| CertificateParams::new(Vec::new()).unwrap().self_signed(key).unwrap().der().clone();
        save_tls(&home, &key.serialize_pem(), &certificate(&key)).unwrap();
        let before = std::fs::read(home.tls()).unwrap();
        for wrong in [certificate(&other).as_ref(), b"", b"no certificate"] {
            let error = save_tls(&home, &key.serialize_pem(), wrong).unwrap_err();
            assert!(matches!(error, Error::Verification(_)), "{error:?}");
        }
        assert_eq!(std::fs::read(home.tls()).unwrap(), before);
    }
}
