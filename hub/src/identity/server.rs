//! The listeners' certificate: signed by the hub's own authority, renewed by
//! the hub itself before it ends or when the hub gets another name.

use std::{collections::BTreeSet, path::Path};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use super::{Authority, files, pem};
use crate::{
    config::Config,
    error::{Error, Result},
    limits::{DAY_MS, Millis},
};

/// Renewed when less than this is left.
const RENEW_BEFORE_MS: Millis = 60 * DAY_MS;

/// What the listeners show.
pub struct Server {
    /// The server's certificate and the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first.
    pub key: PrivateKeyDer<'static>,
}

impl Server {
    /// The certificate in `keys/` if it serves, else a new one, written
    /// there. Says whether it is new.
    pub fn current(config: &Config, authority: &Authority, now_ms: Millis) -> Result<(Self, bool)> {
        let (keys, names) = (config.keys_dir(), config.server_names());
        if let Some(server) = Self::read(&keys)
            && server.serves(&names, authority, now_ms)
        {
            return Ok((server, false));
        }
        let (issued, key) = authority.certify_server(&config.hub_id, &names, now_ms)?;
        // a crash in between leaves a key without its certificate: made anew
        files::write(&keys.join(files::SERVER_KEY), &pem("PRIVATE KEY", key.secret_der()))?;
        let chain = vec![issued.der, authority.certificate().clone()];
        let text: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        files::write(&keys.join(files::SERVER_CERTIFICATE), &text)?;
        Ok((Self { chain, key }, true))
    }

    /// What is in the files, if they belong together.
    fn read(keys: &Path) -> Option<Self> {
        let chain = CertificateDer::pem_file_iter(keys.join(files::SERVER_CERTIFICATE)).ok()?;
        let chain: Vec<_> = chain.collect::<std::result::Result<_, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_file(keys.join(files::SERVER_KEY)).ok()?;
        let pair = rcgen::KeyPair::try_from(&key).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        (parsed.public_key().raw == spki.as_slice()).then_some(Self { chain, key })
    }

    fn serves(&self, names: &[String], authority: &Authority, now_ms: Millis) -> bool {
        let [first, last] = self.chain.as_slice() else { return false };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(first) else { return false };
        let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0) * 1_000;
        last == authority.certificate()
            && until > now_ms.saturating_add(RENEW_BEFORE_MS)
            && names.iter().all(|name| names_of(&parsed).contains(name))
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let address = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
        _ => <[u8; 16]>::try_from(bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
    };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    names.collect()
}

/// Reads the certificates of further authorities, by their files.
pub fn trusted_authorities(config: &Config) -> Result<Vec<CertificateDer<'static>>> {
    let mut authorities = Vec::new();
    for file in &config.tls.trusted_authorities {
        let path = config.dir.join(file);
        let fault = |error: &dyn std::fmt::Display| {
            Error::fault(format!("tls.trusted_authorities: {}: {error}", path.display()))
        };
        let before = authorities.len();
        for certificate in CertificateDer::pem_file_iter(&path).map_err(|error| fault(&error))? {
            authorities.push(certificate.map_err(|error| fault(&error))?);
        }
        if authorities.len() == before {
            return Err(fault(&"no certificate in it"));
        }
    }
    Ok(authorities)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_790_000_000_000;

    #[test]
    fn the_certificate_is_kept_until_it_no_longer_serves() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("keys")).unwrap();
        let mut config = Config::new(dir.path(), "axis.example".parse().unwrap());
        let (authority, _) = Authority::generate(&config.hub_id, NOW).unwrap();
        let current = |config: &Config, now| Server::current(config, &authority, now).unwrap();
        let (first, new) = current(&config, NOW);
        assert!(new && first.chain.len() == 2);
        let (again, new) = current(&config, NOW + DAY_MS);
        assert!(!new && again.chain == first.chain);
        config.public.names.push("axis.example".to_owned());
        config.public.names.push("2001:db8::1".to_owned());
        let (named, new) = current(&config, NOW + DAY_MS);
        assert!(new && named.chain != first.chain, "another name");
        assert!(!current(&config, NOW + DAY_MS).1);
        assert!(current(&config, NOW + 340 * DAY_MS).1, "it ends soon");
        std::fs::remove_file(dir.path().join("keys/server.pem")).unwrap();
        assert!(current(&config, NOW).1, "its key is lost");
    }

    #[test]
    fn further_authorities_are_read_or_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path(), "axis.example".parse().unwrap());
        assert!(trusted_authorities(&config).unwrap().is_empty());
        config.tls.trusted_authorities.push("other.crt".into());
        assert!(trusted_authorities(&config).unwrap_err().to_string().contains("other.crt"));
        std::fs::write(dir.path().join("other.crt"), "nothing").unwrap();
        assert!(trusted_authorities(&config).unwrap_err().to_string().contains("no certificate"));
        let (other, _) = Authority::generate(&config.hub_id, NOW).unwrap();
        std::fs::write(dir.path().join("other.crt"), pem("CERTIFICATE", other.certificate())).unwrap();
        assert_eq!(trusted_authorities(&config).unwrap(), [other.certificate().clone()]);
    }
}
