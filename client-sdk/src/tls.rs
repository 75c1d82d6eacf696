//! TLS 1.3 to a hub whose certificate authority is pinned, and the HTTP/2
//! channel over it. Never the system's certificate store.

use std::{sync::Arc, time::Duration};

use axis_proto::id::Digest;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::{io::BufReader, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{
    client::ClientOptions,
    error::{Error, Result, Verification},
    home::Identity,
};

/// Bytes of a frame that the hub may send: fewer heads than with the usual 16
/// KiB, and what else comes does not wait long behind it.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// Bytes that are read from a connection at once.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// Bytes that one stream may have in flight: a fast download over a long way.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes that all streams of a connection may have in flight.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// How long the hub has to say that it lives: on a link of 32 KiB/s a megabyte
/// may be on its way before the question.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The one cryptography provider.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS for a system with a certificate.
pub fn of_identity(identity: &Identity) -> Result<Arc<ClientConfig>> {
    let verifier =
        PinnedAuthority::new(identity.profile.authority_key_sha256, Some(identity.authority.clone()));
    let config = builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.certificates.clone(), identity.tls_key.clone_key())
        .map_err(|error| {
            Verification::new("hub", format!("the TLS key in the home is of no use: {error}"))
        })?;
    Ok(finish(config))
}

/// TLS for one that has none yet.
pub fn of_pin(authority_key_sha256: Digest) -> Result<Arc<ClientConfig>> {
    let verifier = PinnedAuthority::new(authority_key_sha256, None);
    let config =
        builder()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    Ok(finish(config))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Verification::new("hub", format!("no TLS 1.3 here: {error}")).into())
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // every connection shows its certificate, so that a revoked one is noticed
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A channel that connects when it is first used, and again after a break.
pub fn channel(address: &str, config: Arc<ClientConfig>, options: &ClientOptions) -> Result<Channel> {
    let bad = |detail: String| Error::from(Verification::new("hub", detail));
    let (host, port) = address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse::<u16>().ok()?)))
        .ok_or_else(|| bad(format!("`{address}` is not host:port")))?;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| bad(format!("`{host}` is neither a name nor an address")))?;
    let origin =
        format!("https://{address}").parse().map_err(|_| bad(format!("`{address}` is no authority")))?;

    // http:// because TLS is ours; the origin tells the hub the truth
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| bad(format!("`{address}` is no authority")))?
        .origin(origin)
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keep_alive)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX);
    let connector = TlsConnector::from(config);
    let connect_timeout = options.connect_timeout;
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let (host, name, connector) = (host.clone(), name.clone(), connector.clone());
        async move {
            let connect = async {
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                tcp.set_nodelay(true)?;
                // TLS by itself asks the system for four KiB at a time
                connector.connect(name, BufReader::with_capacity(READ_AHEAD_BYTES, tcp)).await
            };
            match tokio::time::timeout(connect_timeout, connect).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            }
        }
    })))
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
pub fn key_sha256(certificate: &[u8]) -> Option<Digest> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(Digest::of(certificate.tbs_certificate.subject_pki.raw))
}

/// Checks that a certificate is for a key.
pub fn fits(key_pem: &str, certificate: &[u8]) -> Result<()> {
    let bad = |error: &dyn std::fmt::Display| {
        Error::from(Verification::new("hub", format!("its certificate is not for our key: {error}")))
    };
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| bad(&error))?;
    let chain = vec![CertificateDer::from(certificate.to_vec())];
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| bad(&error))?;
    certified.keys_match().map_err(|error| bad(&error))
}

/// When a certificate ends, in milliseconds.
pub fn expires_unix_ms(certificate: &[u8]) -> Option<u64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok().map(|seconds| seconds * 1_000)
}

/// Trusts one authority, known by its key: the certificate itself may come
/// with the handshake.
#[derive(Debug)]
struct PinnedAuthority {
    key_sha256: Digest,
    known: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl PinnedAuthority {
    fn new(key_sha256: Digest, known: Option<CertificateDer<'static>>) -> Self {
        Self { key_sha256, known, provider: provider() }
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let authority = self
            .known
            .iter()
            .chain(intermediates)
            .find(|certificate| key_sha256(certificate) == Some(self.key_sha256))
            .ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use super::*;

    fn authority() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        (certificate.der().clone(), Issuer::new(params, key))
    }

    fn server(issuer: &Issuer<'static, KeyPair>, usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        params.signed_by(&key, issuer).unwrap().der().clone()
    }

    #[test]
    fn only_the_pinned_authority_speaks_for_the_hub() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let (authority_certificate, issuer) = authority();
        let (other_certificate, other_issuer) = authority();
        let good = server(&issuer, ServerAuth);
        let foreign = server(&other_issuer, ServerAuth);
        let pin = PinnedAuthority::new(key_sha256(&authority_certificate).unwrap(), None);
        let check = |leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>], name: &str| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            pin.verify_server_cert(leaf, chain, &name, &[], UnixTime::now()).is_ok()
        };
        let chain = [authority_certificate.clone()];
        assert!(check(&good, &chain, "hub.example"));
        assert!(!check(&good, &chain, "other.example"), "another name");
        assert!(!check(&good, &[], "hub.example"), "the authority did not come");
        assert!(!check(&foreign, &chain, "hub.example"), "signed by another");
        assert!(!check(&foreign, &[other_certificate], "hub.example"), "another authority");
        assert!(!check(&server(&issuer, ClientAuth), &chain, "hub.example"), "a system is no hub");
        // once enrolled, the authority need not come along
        let known = PinnedAuthority::new(pin.key_sha256, Some(authority_certificate));
        let name = ServerName::try_from("hub.example").unwrap();
        assert!(known.verify_server_cert(&good, &[], &name, &[], UnixTime::now()).is_ok());
    }
}
