//! A certificate for 127.0.0.1 that server and load share, as Axis has one.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

/// A server's certificate and key, and the authority that its clients trust.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Authority, PEM.
    pub authority: PathBuf,
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    authority_der: Vec<u8>,
}

impl Tls {
    /// Makes them in a directory: ECDSA on P-256, as most servers have.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let authority_key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "peers");
        let authority = params.self_signed(&authority_key)?;
        let issuer = rcgen::Issuer::from_params(&params, &authority_key);
        let key = rcgen::KeyPair::generate()?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text)?;
            anyhow::Ok(path)
        };
        let tls = Self {
            authority: write("authority.pem", authority.pem())?,
            certificate: write("certificate.pem", certificate.pem())?,
            key: write("key.pem", key.serialize_pem())?,
            authority_der: authority.der().to_vec(),
        };
        // PostgreSQL refuses a key that others may read
        std::fs::set_permissions(&tls.key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(tls)
    }

    /// What a client trusts: that authority alone.
    pub fn client(&self) -> anyhow::Result<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.authority_der.clone()))?;
        Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }
}
