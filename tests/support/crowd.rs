//! A crowd: more systems than would have time to enrol one by one. Each is
//! added and enrolled by a record of the real machine, with a certificate of
//! the hub's own authority; what it holds stays in memory, none has a home.

use std::{path::Path, sync::Arc};

use axis_hub::{
    clock::Clock,
    commit,
    config::Config,
    identity::{CertificateRequest, Identity, registered},
    journal::Journal as _,
    limits,
    machine::{self, Command},
    state::State as _,
};
use axis_proto::{
    id::{AgencyCode, Digest, SystemId},
    key::SigningKey,
    record::v1::{Agency, AgencyState, DirectoryEntry, SigningKey as RegisteredKey, directory_entry::Value},
};
use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::{
    hub::{Ports, make},
    seed::{Log, decide},
};

/// Who does it, in the records.
const OPERATOR: &str = "bench";
/// Members of one batch: each is three records, and their agencies are one.
const BATCH_MEMBERS: usize = 90;

/// One of a crowd.
pub struct Member {
    /// The system.
    pub system: SystemId,
    /// The agency that it has for itself.
    pub agency: String,
    /// What it signs with.
    pub key: SigningKey,
    certificate: CertificateDer<'static>,
    tls_key: PrivateKeyDer<'static>,
}

/// A crowd, and whom it trusts.
pub struct Crowd {
    /// In the order of their names.
    pub members: Vec<Member>,
    authority: CertificateDer<'static>,
    _ports: Ports,
}

impl Crowd {
    /// The members' side of TLS, in their order.
    pub fn tls(&self) -> anyhow::Result<Vec<Arc<ClientConfig>>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        self.members.iter().map(|member| member.tls(&roots, &provider)).collect()
    }
}

impl Member {
    fn tls(
        &self,
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> anyhow::Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(vec![self.certificate.clone()], self.tls_key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// Makes a hub in `dir` with a crowd: systems `c00000`, `c00001` and so on,
/// with the agencies `C00000` and so on.
///
/// # Errors
/// If there is a hub, or the disk fails.
pub fn crowd(dir: &Path, count: usize) -> anyhow::Result<Crowd> {
    let (_, ports) = make(dir, &Clock::system())?;
    let config = Config::load(dir)?;
    let identity = Identity::load(&config.keys_dir()).map_err(anyhow::Error::new)?;
    let mut log = Log::open(dir)?;
    let mut members = Vec::with_capacity(count);
    while members.len() < count {
        let first = members.len();
        let mut commands = vec![agencies(first..count.min(first + BATCH_MEMBERS))];
        for place in first..count.min(first + BATCH_MEMBERS) {
            let (member, [add, enrol]) = member(&identity, place, config.tls.certificate_days)?;
            members.push(member);
            commands.extend([add, enrol]);
        }
        let (entries, changes) = decide(&log.state, log.journal.size(), |batch| {
            commands
                .iter()
                .try_for_each(|command| machine::decide(batch, command).map(drop).map_err(anyhow::Error::new))
        })?;
        log.state.publish(changes, log.journal.size() + entries.len() as u64);
        commit::append(&mut log.journal, &mut log.tree, &log.signer, entries)?;
    }
    log.tree.close()?;
    Ok(Crowd { members, authority: identity.authority.certificate().clone(), _ports: ports })
}

fn agency(place: usize) -> String {
    format!("C{place:05}")
}

fn agencies(places: std::ops::Range<usize>) -> Command {
    let entries = places.map(|place| {
        let agency = Agency {
            code: agency(place),
            name: format!("Cơ quan {place}"),
            state: AgencyState::Active.into(),
            ..Agency::default()
        };
        DirectoryEntry { value: Some(Value::Agency(agency)) }
    });
    Command::ChangeDirectory { entries: entries.collect(), actor: OPERATOR.to_owned(), remark: String::new() }
}

/// A member, and the commands that make it one.
fn member(identity: &Identity, place: usize, days: u32) -> anyhow::Result<(Member, [Command; 2])> {
    let (system, agency): (SystemId, _) = (format!("c{place:05}").parse()?, agency(place));
    let code: AgencyCode = agency.parse()?;
    let token_sha256 = Digest::of(format!("token of {system}").as_bytes());
    let tls_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let asked = CertificateParams::default().serialize_request(&tls_key)?;
    let asked = CertificateRequest::parse(asked.der()).map_err(anyhow::Error::new)?;
    let now_ms = Clock::system().now_ms();
    let issued =
        identity.authority.certify_system(&asked, &system, now_ms, days).map_err(anyhow::Error::new)?;
    let certificate = registered(&issued.der, &system).map_err(anyhow::Error::new)?;
    let key = SigningKey::generate();
    let signing_key = RegisteredKey {
        key_id: Bytes::copy_from_slice(key.public().key_id().as_bytes()),
        public_key: Bytes::copy_from_slice(key.public().as_bytes()),
        system: system.to_string(),
        valid_from_unix_ms: now_ms.saturating_sub(limits::MINUTE_MS),
        ..RegisteredKey::default()
    };
    let add = Command::AddSystem {
        system: system.clone(),
        name: format!("Hệ thống {place}"),
        agencies: vec![code],
        token_sha256,
        actor: OPERATOR.to_owned(),
    };
    let enrol = Command::Enrol { token_sha256, certificate, signing_key };
    let tls_key = PrivateKeyDer::Pkcs8(tls_key.serialize_der().into());
    Ok((Member { system, agency, key, certificate: issued.der, tls_key }, [add, enrol]))
}
