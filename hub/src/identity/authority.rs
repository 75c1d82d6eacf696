//! The hub's own certificate authority: ECDSA P-256, because gRPC's clients
//! in other languages refuse Ed25519 certificates. Signs what the directory
//! then registers; a certificate that is not registered opens nothing.

use std::time::Duration;

use axis_proto::{
    hub::v1::Reason,
    id::{Digest, HubId, SystemId},
    record::v1::Certificate,
};
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

use crate::{
    error::{Error, Result},
    limits::{CREATED_AHEAD_MAX_MS, DAY_MS, Millis},
};

/// Most bytes of a certificate signing request.
pub const CERTIFICATE_REQUEST_BYTES_MAX: usize = 4_096;
/// Most bytes of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 16_384;
/// How long the authority itself lasts: longer than the hub's machine.
const AUTHORITY_DAYS: u32 = 20 * 365;
/// How long the server's certificate lasts; it is renewed by the hub itself.
pub(super) const SERVER_DAYS: u32 = 397;

/// A private authority: a key and the certificate over it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    key_sha256: Digest,
    valid_until_ms: Millis,
}

/// A certificate as the directory registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// SHA-256 of it.
    pub fingerprint: Digest,
    /// Valid from.
    pub valid_from_ms: Millis,
    /// Valid until.
    pub valid_until_ms: Millis,
}

/// A certificate signing request whose maker holds the key in it.
pub struct CertificateRequest(SubjectPublicKeyInfo);

impl Authority {
    /// Makes a new authority and its key, as PEM.
    pub fn generate(hub_id: &HubId, now_ms: Millis) -> Result<(Self, String)> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::fault)?;
        let key_pem = key.serialize_pem();
        let mut params = params(&format!("Axis hub {hub_id} authority"), now_ms, AUTHORITY_DAYS, None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(Error::fault)?;
        Ok((Self::load(certificate.der().clone(), key)?, key_pem))
    }

    /// Reads an authority from its certificate and key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        use rustls_pki_types::pem::PemObject as _;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(Error::fault)?;
        Self::load(certificate, KeyPair::from_pem(key).map_err(Error::fault)?)
    }

    fn load(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self> {
        let spki = key.subject_public_key_info();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(Error::fault)?;
        if parsed.public_key().raw != spki.as_slice() {
            return Err(Error::fault("the authority's certificate is not for its key"));
        }
        let valid_until_ms = millis(parsed.validity().not_after.timestamp());
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(Error::fault)?,
            key_sha256: Digest::of(&spki),
            certificate,
            valid_until_ms,
        })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the authority's SubjectPublicKeyInfo: what tokens pin.
    pub fn key_sha256(&self) -> Digest {
        self.key_sha256
    }

    /// Signs a client certificate for a system. Nothing but the key is taken
    /// from the request.
    pub fn certify_system(
        &self,
        request: &CertificateRequest,
        system: &SystemId,
        now_ms: Millis,
        days: u32,
    ) -> Result<Issued> {
        let mut params = params(system.as_str(), now_ms, days, Some(self.valid_until_ms))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, &request.0)
    }

    /// Signs a server certificate for these host names and addresses, with a
    /// new key.
    pub fn certify_server(
        &self,
        hub_id: &HubId,
        names: &[String],
        now_ms: Millis,
    ) -> Result<(Issued, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::fault)?;
        let mut params =
            params(&format!("Axis hub {hub_id}"), now_ms, SERVER_DAYS, Some(self.valid_until_ms))?;
        params.subject_alt_names =
            CertificateParams::new(names.to_vec()).map_err(Error::fault)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = self.sign(&params, &key)?;
        Ok((issued, PrivateKeyDer::Pkcs8(key.serialize_der().into())))
    }

    fn sign(&self, params: &CertificateParams, key: &impl rcgen::PublicKeyData) -> Result<Issued> {
        let certificate = params.signed_by(key, &self.issuer).map_err(Error::fault)?;
        Ok(Issued {
            fingerprint: Digest::of(certificate.der()),
            der: certificate.der().clone(),
            valid_from_ms: millis(params.not_before.unix_timestamp()),
            valid_until_ms: millis(params.not_after.unix_timestamp()),
        })
    }
}

impl CertificateRequest {
    /// Reads a PKCS#10 request and checks that it is signed by the P-256 key
    /// in it.
    pub fn parse(der: &[u8]) -> Result<Self> {
        let refuse = |detail: &str| {
            Err(Error::invalid("certificate_request", Reason::FieldInvalid, detail.to_owned()))
        };
        if der.len() > CERTIFICATE_REQUEST_BYTES_MAX {
            return Err(Error::invalid("certificate_request", Reason::TooLarge, der.len()));
        }
        let Ok((rest, request)) = X509CertificationRequest::from_der(der) else {
            return refuse("not a PKCS#10 request in DER");
        };
        if !rest.is_empty() {
            return refuse("bytes after the request");
        }
        let spki = &request.certification_request_info.subject_pki;
        let Ok(key) = SubjectPublicKeyInfo::from_der(spki.raw) else {
            return refuse("not an ECDSA P-256 key");
        };
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return refuse("not an ECDSA P-256 key");
        }
        if request.verify_signature().is_err() {
            return Err(Error::invalid("certificate_request", Reason::SignatureInvalid, ""));
        }
        Ok(Self(key))
    }
}

/// A certificate of another authority, as the directory registers it for a
/// system. Whether that authority is trusted shows when it calls.
pub fn registered(der: &[u8], system: &SystemId) -> Result<Certificate> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(Error::invalid("certificate", Reason::TooLarge, der.len()));
    }
    let refuse = |detail: &str| Error::invalid("certificate", Reason::FieldInvalid, detail);
    let (rest, parsed) =
        x509_parser::parse_x509_certificate(der).map_err(|_| refuse("not an X.509 certificate in DER"))?;
    if !rest.is_empty() {
        return Err(refuse("bytes after the certificate"));
    }
    if parsed.is_ca() {
        return Err(refuse("a certificate authority's, not a system's"));
    }
    Ok(Certificate {
        fingerprint: Bytes::copy_from_slice(Digest::of(der).as_bytes()),
        system: system.to_string(),
        valid_from_unix_ms: millis(parsed.validity().not_before.timestamp()),
        valid_until_unix_ms: millis(parsed.validity().not_after.timestamp()),
        revoked_unix_ms: 0,
    })
}

/// What all our certificates have in common. They begin a little in the past,
/// by what clocks may differ.
fn params(
    common_name: &str,
    now_ms: Millis,
    days: u32,
    not_after_ms: Option<Millis>,
) -> Result<CertificateParams> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let from_ms = now_ms.saturating_sub(CREATED_AHEAD_MAX_MS);
    let until_ms = (now_ms + u64::from(days) * DAY_MS).min(not_after_ms.unwrap_or(u64::MAX));
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(Error::fault)?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and always 16 bytes

    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(from_ms / 1_000);
    params.not_after = epoch + Duration::from_secs(until_ms / 1_000);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn millis(seconds: i64) -> Millis {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_790_000_000_000;

    fn authority() -> Authority {
        Authority::generate(&"axis.example".parse().unwrap(), NOW).unwrap().0
    }

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec!["somebody.else".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "somebody else");
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_system_gets_a_client_certificate_in_its_own_name() {
        let authority = authority();
        let request = CertificateRequest::parse(&request(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        let issued = authority.certify_system(&request, &"vpcp".parse().unwrap(), NOW, 397).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=vpcp", "the request's subject is ignored");
        assert!(parsed.subject_alternative_name().unwrap().is_none());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        assert!(!parsed.is_ca());
        let (_, signer) = x509_parser::parse_x509_certificate(authority.certificate()).unwrap();
        parsed.verify_signature(Some(signer.public_key())).unwrap();
        assert_eq!(issued.valid_until_ms, NOW + 397 * DAY_MS);
        assert_eq!(issued.valid_from_ms, NOW - CREATED_AHEAD_MAX_MS);
        assert_eq!(issued.fingerprint, Digest::of(&issued.der));
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let authority = authority();
        let request = CertificateRequest::parse(&request(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        let late = NOW + u64::from(AUTHORITY_DAYS) * DAY_MS - DAY_MS;
        let issued = authority.certify_system(&request, &"vpcp".parse().unwrap(), late, 397).unwrap();
        assert_eq!(issued.valid_until_ms, late + DAY_MS);
    }

    #[test]
    fn requests_that_prove_nothing_are_refused() {
        let refused = |der: &[u8], words: &str| {
            let Err(error) = CertificateRequest::parse(der) else { panic!("accepted: {words}") };
            assert!(error.to_string().contains(words), "{error}");
        };
        let good = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        refused(b"", "PKCS#10");
        refused(&good[..good.len() - 1], "PKCS#10");
        refused(&[&good[..], b"\0"].concat(), "after");
        refused(&vec![0; CERTIFICATE_REQUEST_BYTES_MAX + 1], "TOO_LARGE");
        refused(&request(&rcgen::PKCS_ED25519), "P-256");
        refused(&request(&rcgen::PKCS_ECDSA_P384_SHA384), "P-256");
        let mut forged = good.clone();
        let place = forged.windows(13).position(|window| window == b"somebody else").unwrap();
        forged[place] = b'S';
        refused(&forged, "SIGNATURE_INVALID");
    }

    #[test]
    fn a_foreign_certificate_is_read_before_it_is_registered() {
        let authority = authority();
        let asked = CertificateRequest::parse(&request(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        let system: SystemId = "vpcp".parse().unwrap();
        let issued = authority.certify_system(&asked, &system, NOW, 30).unwrap();
        let certificate = registered(&issued.der, &system).unwrap();
        assert_eq!(certificate.fingerprint, issued.fingerprint.as_bytes().as_slice());
        assert_eq!(certificate.valid_until_unix_ms, issued.valid_until_ms);
        for bad in
            [&b"nothing"[..], authority.certificate(), &[&issued.der[..], b"\0"].concat(), &[0; 20_000]]
        {
            assert!(registered(bad, &system).is_err());
        }
    }

    #[test]
    fn an_authority_reads_back_and_belongs_to_its_key() {
        let (authority, key) = Authority::generate(&"axis.example".parse().unwrap(), NOW).unwrap();
        let pem = crate::identity::pem("CERTIFICATE", authority.certificate());
        let back = Authority::from_pem(&pem, &key).unwrap();
        assert_eq!(back.key_sha256(), authority.key_sha256());
        let (_, other) = Authority::generate(&"axis.example".parse().unwrap(), NOW).unwrap();
        assert!(Authority::from_pem(&pem, &other).is_err());
    }
}
