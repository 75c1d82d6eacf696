//! Getting and renewing an identity. The keys are made here, and only their
//! public halves leave.

use std::path::Path;

use axis_proto::{
    hub::v1::{
        EnrolRequest, EnrolResponse, Reason, RenewRequest, RenewResponse, RevokeSigningKeyRequest,
        enrolment_service_client::EnrolmentServiceClient,
    },
    id::{AgencyCode, Digest, KeyId, SystemId},
    key::{PublicKey, SigningKey},
    note::CheckpointVerifier,
    receipt::VerifiedReceipt,
    record::v1::{Receipt, directory_entry::Value, record::Event},
    token::{EnrolmentToken, enrol_proof_message, renew_proof_message},
};
use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

use crate::{
    client::{Client, ClientOptions, request},
    error::{Error, HomeProblem, Result, Verification},
    files::{self, Access},
    home::{self, Home, Identity, Profile},
    receipt,
    retry::patiently,
    tls,
    trust::Trust,
};

/// What enrolment gave.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Enrolled {
    /// Who this side is now, and which hub it knows.
    pub profile: Profile,
    /// The key that signs from now on.
    pub key_id: KeyId,
    /// The hub's record of it, verified.
    pub receipt: Receipt,
}

/// What to renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// The TLS key and its certificate.
    Certificate,
    /// These, and the signing key; the old one stays valid until it is
    /// revoked.
    CertificateAndSigningKey,
}

impl Client {
    /// Turns a one-time token into an identity, in a home that has none.
    pub async fn enrol(home: impl AsRef<Path>, token: &EnrolmentToken) -> Result<Enrolled> {
        Self::enrol_with(home, token, &ClientOptions::default()).await
    }

    /// As [`enrol`](Self::enrol), with other options.
    pub async fn enrol_with(
        home: impl AsRef<Path>,
        token: &EnrolmentToken,
        options: &ClientOptions,
    ) -> Result<Enrolled> {
        let home = Home::at(home.as_ref());
        if let Some(profile) = home::load_profile(&home)? {
            return Err(HomeProblem::AlreadyEnrolled {
                home: home.path().display().to_string(),
                system: profile.system_id.to_string(),
            }
            .into());
        }
        enrol(&home, token, options, None).await
    }

    /// Enrols a home again, with a new token for the same system: after its
    /// certificate ended or was revoked. What the home remembers stays.
    pub async fn enrol_again(
        home: impl AsRef<Path>,
        token: &EnrolmentToken,
        options: &ClientOptions,
    ) -> Result<Enrolled> {
        let home = Home::at(home.as_ref());
        let profile = home::load_profile(&home)?
            .ok_or_else(|| HomeProblem::NotEnrolled { home: home.path().display().to_string() })?;
        enrol(&home, token, options, Some(profile)).await
    }

    /// Gets a new certificate and, if asked, registers a new signing key; the
    /// client goes on with them at once.
    pub async fn renew(&self, what: Renew) -> Result<Receipt> {
        let (inner, identity) = (&self.inner, self.inner.identity());
        let (tls_key, certificate_request) = tls_key(identity.profile.system_id.as_str())?;
        let next = match what {
            Renew::Certificate => None,
            Renew::CertificateAndSigningKey => Some(next_signing_key(&inner.home)?),
        };
        let mut request = RenewRequest { certificate_request, ..Default::default() };
        if let Some(next) = &next {
            let proof = renew_proof_message(&identity.profile.system_id, &request.certificate_request);
            request.signing_public_key = Bytes::copy_from_slice(next.public().as_bytes());
            request.signing_key_proof = Bytes::copy_from_slice(&next.sign(&proof));
        }
        let answer = match self.renewed(&request).await {
            // an earlier renewal registered it, but its answer was lost
            Err(error) if next.is_some() && error.reason() == Some(Reason::AlreadyExists) => {
                request.signing_public_key = Bytes::new();
                request.signing_key_proof = Bytes::new();
                self.renewed(&request).await?
            }
            answer => answer?,
        };
        let receipt = receipt::required(answer.receipt)?;
        let verified = inner.verified(&receipt).await?;
        let system = &identity.profile.system_id;
        // a key that an earlier renewal registered is in that one's record
        let key_id = (!request.signing_public_key.is_empty()).then_some(next.as_ref()).flatten();
        registers(&verified, system, key_id.map(SigningKey::public), &answer.certificate)?;
        home::save_tls(&inner.home, &tls_key, &answer.certificate)?;
        receipt::keep(&inner.home, &receipt, verified.index);
        if next.is_some() {
            // a crash before this line goes on with the old key, which is valid
            home::take_next_signing_key(&inner.home)?;
        }
        inner.replace(Identity::load(&inner.home)?)?;
        // the agencies may have changed as well
        let info = self.info().await?;
        let mut profile = inner.identity().profile.clone();
        profile.agencies = codes(&info.agencies)?;
        home::save_profile(&inner.home, &profile)?;
        inner.replace(Identity::load(&inner.home)?)?;
        Ok(receipt)
    }

    /// Revokes one of this system's own signing keys, at once: a former one,
    /// or one that may be in wrong hands. What waits in the outbox under it
    /// will be refused.
    pub async fn revoke_signing_key(&self, key_id: &KeyId) -> Result<Receipt> {
        let inner = &self.inner;
        let answer = inner
            .retried(|| async {
                let request = RevokeSigningKeyRequest { key_id: Bytes::copy_from_slice(key_id.as_ref()) };
                inner.timed(inner.identity_service().revoke_signing_key(inner.request(request))).await
            })
            .await?;
        let receipt = receipt::required(answer.receipt)?;
        let identity = inner.identity();
        let verified = inner.verified(&receipt).await?;
        revokes(&verified, &identity.profile.system_id, key_id)?;
        receipt::keep(&inner.home, &receipt, verified.index);
        Ok(receipt)
    }

    async fn renewed(&self, request: &RenewRequest) -> Result<RenewResponse> {
        let inner = &self.inner;
        let call =
            || async { inner.timed(inner.identity_service().renew(inner.request(request.clone()))).await };
        inner.retried(call).await
    }
}

async fn enrol(
    home: &Home,
    token: &EnrolmentToken,
    options: &ClientOptions,
    expected: Option<Profile>,
) -> Result<Enrolled> {
    files::make_directory(home.path())?;
    let signing_key = SigningKey::generate();
    let (tls_key, certificate_request) = tls_key("axis system")?;
    let proof = enrol_proof_message(&token.secret, &certificate_request);
    let message = EnrolRequest {
        token_secret: Bytes::copy_from_slice(&token.secret),
        certificate_request,
        signing_public_key: Bytes::copy_from_slice(signing_key.public().as_bytes()),
        signing_key_proof: Bytes::copy_from_slice(&signing_key.sign(&proof)),
    };
    let channel = tls::channel(&token.address, tls::of_pin(token.authority_key_sha256)?, options)?;
    let answer = patiently(options.patience(), || async {
        let mut service = EnrolmentServiceClient::new(channel.clone());
        let call = service.enrol(request(message.clone(), options.language));
        match tokio::time::timeout(options.call_timeout, call).await {
            Ok(answer) => answer.map_err(|status| Error::of_status(status, &token.address)),
            Err(_) => Err(Error::timed_out(&token.address)),
        }
    })
    .await?
    .into_inner();

    let (mut profile, receipt, sequence) = checked(&answer, token, &signing_key.public())?;
    if let Some(expected) = expected {
        if expected.system_id != profile.system_id || expected.hub_id != profile.hub_id {
            return Err(HomeProblem::OtherIdentity {
                expected: format!("{} at {}", expected.system_id, expected.hub_id),
                found: format!("{} at {}", profile.system_id, profile.hub_id),
            }
            .into());
        }
        // a token is no word for another log: the known one has to sign for it, or a person
        profile.log_verifier_key = expected.log_verifier_key;
    }
    tls::fits(&tls_key, &answer.certificate)?;
    // after a crash from here on, a renewal with a signing key takes this one
    files::write(&home.next_signing_key(), signing_key.to_pem().as_bytes(), Access::Owner)?;
    let authority = home::pem("CERTIFICATE", &answer.authority_certificate);
    files::write(&home.authority(), authority.as_bytes(), Access::Default)?;
    home::save_tls(home, &tls_key, &answer.certificate)?;
    home::take_next_signing_key(home)?;
    // the profile last: a home with one is complete
    home::save_profile(home, &profile)?;
    receipt::keep(home, &receipt, sequence);
    // what the hub has shown here its log must hold from now on
    Trust::open(home, &profile.log_verifier_key)?.remember(&receipt)?;
    Ok(Enrolled { profile, key_id: signing_key.public().key_id(), receipt })
}

/// What the hub answered, as far as it can be checked.
fn checked(
    answer: &EnrolResponse,
    token: &EnrolmentToken,
    signing_key: &PublicKey,
) -> Result<(Profile, Receipt, u64)> {
    let bad = |detail: &str| Verification::new("hub", detail);
    if tls::key_sha256(&answer.authority_certificate) != Some(token.authority_key_sha256) {
        return Err(bad("its certificate authority is not the one that the token names").into());
    }
    let log = CheckpointVerifier::parse(&answer.log_verifier_key)
        .map_err(|error| bad(&format!("its log key cannot be read: {error}")))?;
    let receipt = receipt::required(answer.receipt.clone())?;
    let verified = receipt::verify(&receipt, &log)?;
    let id = |error: axis_proto::id::IdError| bad(&format!("it answers with an id that is none: {error}"));
    let profile = Profile {
        system_id: answer.system_id.parse().map_err(id)?,
        hub_id: answer.hub_id.parse().map_err(id)?,
        hub_address: answer.hub_address.clone(),
        log_verifier_key: answer.log_verifier_key.clone(),
        authority_key_sha256: token.authority_key_sha256,
        agencies: codes(&answer.agencies)?,
    };
    registers(&verified, &profile.system_id, Some(*signing_key), &answer.certificate)?;
    Ok((profile, receipt, verified.index))
}

/// What a verified record changes in the directory.
fn entries(verified: &VerifiedReceipt) -> impl Iterator<Item = &Value> {
    let changed = match &verified.record.event {
        Some(Event::DirectoryChanged(changed)) => Some(changed),
        _ => None,
    };
    changed.into_iter().flat_map(|changed| &changed.entries).filter_map(|entry| entry.value.as_ref())
}

/// Checks that a record registers our certificate, and our key if there is
/// one, as this system's.
fn registers(
    verified: &VerifiedReceipt,
    system: &SystemId,
    signing_key: Option<PublicKey>,
    certificate: &[u8],
) -> Result<()> {
    let fingerprint = Digest::of(certificate);
    let holds_certificate = entries(verified).any(|value| {
        matches!(value, Value::Certificate(it) if it.system == system.as_str()
            && it.fingerprint.as_ref() == fingerprint.as_ref()
            && it.revoked_unix_ms == 0)
    });
    if !holds_certificate {
        return Err(Verification::new("receipt", "its record does not register our certificate").into());
    }
    let Some(signing_key) = signing_key else { return Ok(()) };
    let key_id = signing_key.key_id();
    let holds_key = entries(verified).any(|value| {
        matches!(value, Value::SigningKey(it) if it.system == system.as_str()
            && it.key_id.as_ref() == key_id.as_ref()
            && it.public_key.as_ref() == signing_key.as_bytes().as_slice()
            && it.revoked_unix_ms == 0)
    });
    if !holds_key {
        return Err(Verification::new("receipt", "its record does not register our signing key").into());
    }
    Ok(())
}

/// Checks that a record revokes a key of this system.
fn revokes(verified: &VerifiedReceipt, system: &SystemId, key_id: &KeyId) -> Result<()> {
    let revoked = entries(verified).any(|value| {
        matches!(value, Value::SigningKey(it) if it.system == system.as_str()
            && it.key_id.as_ref() == key_id.as_ref()
            && it.revoked_unix_ms != 0)
    });
    if !revoked {
        return Err(Verification::new("receipt", "its record does not revoke that key of ours").into());
    }
    Ok(())
}

fn codes(agencies: &[String]) -> Result<Vec<AgencyCode>> {
    agencies
        .iter()
        .map(|code| code.parse())
        .collect::<Result<_, _>>()
        .map_err(|error| Verification::new("hub", format!("an agency code is none: {error}")).into())
}

/// A new P-256 key, as PEM, and a request for its certificate, as DER.
fn tls_key(name: &str) -> Result<(Zeroizing<String>, Bytes)> {
    let failed = |error: rcgen::Error| Error::write(Path::new("TLS key"), std::io::Error::other(error));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok((Zeroizing::new(key.serialize_pem()), Bytes::copy_from_slice(request.der())))
}

/// The signing key that is to come: kept on disk before the hub hears of it,
/// so that a lost answer does not use up a place.
fn next_signing_key(home: &Home) -> Result<SigningKey> {
    let path = home.next_signing_key();
    if let Some(key) = home::load_signing_key(&path)? {
        return Ok(key);
    }
    let key = SigningKey::generate();
    files::write(&path, key.to_pem().as_bytes(), Access::Owner)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use axis_proto::record::v1::{
        Certificate, DirectoryChanged, DirectoryEntry, SigningKey as RegisteredKey,
    };

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_record_registers_and_revokes_what_is_ours() {
        let hub = testing::Enrolled::new().await;
        let system = hub.inner().identity().profile.system_id.clone();
        let key = SigningKey::generate().public();
        let made = |change: &dyn Fn(&mut Certificate, &mut RegisteredKey)| {
            let mut certificate = Certificate {
                fingerprint: Bytes::copy_from_slice(Digest::of(b"der").as_ref()),
                system: system.to_string(),
                ..Default::default()
            };
            let mut registered = RegisteredKey {
                key_id: Bytes::copy_from_slice(key.key_id().as_ref()),
                public_key: Bytes::copy_from_slice(key.as_bytes()),
                system: system.to_string(),
                ..Default::default()
            };
            change(&mut certificate, &mut registered);
            let entries = [Value::Certificate(certificate), Value::SigningKey(registered)]
                .map(|value| DirectoryEntry { value: Some(value) })
                .to_vec();
            let changed = DirectoryChanged { entries, ..Default::default() };
            let receipt = hub.receipt(3, Event::DirectoryChanged(changed));
            hub.inner().trust.verify(&receipt).unwrap()
        };
        let registered = |change: &dyn Fn(&mut Certificate, &mut RegisteredKey)| {
            registers(&made(change), &system, Some(key), b"der").is_ok()
        };
        assert!(registered(&|_, _| ()));
        assert!(!registered(&|certificate, _| certificate.fingerprint = Bytes::new()));
        assert!(!registered(&|certificate, _| certificate.system = "vpcp".into()));
        assert!(!registered(&|_, key| key.key_id = Bytes::new()));
        assert!(!registered(&|_, key| key.public_key = Bytes::new()));
        assert!(!registered(&|_, key| key.system = "vpcp".into()));
        assert!(registers(&made(&|_, key| key.key_id = Bytes::new()), &system, None, b"der").is_ok());

        let revoked = |change: &dyn Fn(&mut Certificate, &mut RegisteredKey)| {
            revokes(&made(change), &system, &key.key_id()).is_ok()
        };
        assert!(revoked(&|_, key| key.revoked_unix_ms = 1));
        assert!(!revoked(&|_, _| ()));
        assert!(!revoked(&|_, key| (key.revoked_unix_ms, key.key_id) = (1, Bytes::new())));
        assert!(!revoked(&|_, key| (key.revoked_unix_ms, key.system) = (1, "vpcp".into())));
    }

    #[test]
    fn a_request_is_for_a_p256_key_and_signed_by_it() {
        let (key, request) = tls_key("moh").unwrap();
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(request.len() < axis_proto::limits::CERTIFICATE_REQUEST_BYTES_MAX);
        let (_, parsed) = <x509_parser::certification_request::X509CertificationRequest<'_> as
            x509_parser::prelude::FromDer<'_, _>>::from_der(&request)
        .unwrap();
        let algorithm = &parsed.certification_request_info.subject_pki.algorithm;
        assert_eq!(algorithm.algorithm.to_id_string(), "1.2.840.10045.2.1");
        assert_eq!(
            algorithm.parameters.as_ref().unwrap().as_oid().unwrap().to_id_string(),
            "1.2.840.10045.3.1.7"
        );
    }

    #[test]
    fn a_signing_key_to_come_survives_a_lost_answer() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let first = next_signing_key(&home).unwrap();
        assert_eq!(next_signing_key(&home).unwrap().public(), first.public());
    }
}
