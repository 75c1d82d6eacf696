//! TLS 1.3 only, with the key exchange that holds against tomorrow's
//! computers first. Who a certificate belongs to is not decided here: the
//! directory says so on every call.

use std::{io, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::clock::Clock;

/// The only choice of cryptography for TLS: aws-lc-rs, X25519MLKEM768 first
/// (by the feature `prefer-post-quantum`).
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificate that the hub shows, which can be renewed while it runs:
/// new connections get the new one.
#[derive(Debug)]
pub struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    /// Starts with this chain, the server's own certificate first and the
    /// authority's last, so that a client can pin the authority's key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> io::Result<Self> {
        Ok(Self(ArcSwap::from_pointee(certified(chain, key)?)))
    }

    /// Shows another one from now on.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> io::Result<()> {
        self.0.store(Arc::new(certified(chain, key)?));
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// For systems: who has no certificate of one of `authorities` gets no
/// further than the handshake.
pub fn systems_config(
    server: Arc<ServerCertificate>,
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    clock: &Clock,
) -> io::Result<Arc<ServerConfig>> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(io::Error::other)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto_provider())
        .build()
        .map_err(io::Error::other)?;
    let builder = ServerConfig::builder_with_details(crypto_provider(), Arc::new(ClockTime(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?;
    Ok(finished(builder.with_client_cert_verifier(verifier).with_cert_resolver(server)))
}

/// For enrolment: the server shows its certificate, the client none.
pub fn enrolment_config(server: Arc<ServerCertificate>, clock: &Clock) -> io::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_details(crypto_provider(), Arc::new(ClockTime(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?;
    Ok(finished(builder.with_no_client_auth().with_cert_resolver(server)))
}

/// No resumption: each connection shows its certificate anew.
fn finished(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn certified(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> io::Result<CertifiedKey> {
    CertifiedKey::from_der(chain, key, &crypto_provider()).map_err(io::Error::other)
}

/// The hub's clock, as rustls asks for it.
#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(self.0.now_ms())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_tomorrow_is_preferred() {
        let groups: Vec<_> = crypto_provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups.first(), Some(&rustls::NamedGroup::X25519MLKEM768), "{groups:?}");
    }
}
