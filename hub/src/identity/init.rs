//! `axis-hub init`: makes a hub's directory with its keys, its settings and
//! the first record of its log. Never touches a directory that holds
//! something.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use axis_proto::{
    id::{Digest, HubId},
    key::SigningKey,
    note::CheckpointSigner,
    record::v1::LogOpened,
};

use super::{Authority, Server, files, pem};
use crate::{
    clock::Clock,
    commit,
    config::{self, Config, Listen},
    disk::{self, Disk as _, RealDisk},
    error::Error,
    evidence::Tree,
    hub,
    journal::{Journal as _, segments::SegmentJournal},
};

/// What is chosen when a hub is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Name of the hub, as envelopes must name it.
    pub hub_id: HubId,
    /// How systems reach it, each a host or `host:port`: the first for
    /// systems, the second for enrolment (if there is none, the host of the
    /// first), all of them in the server's certificate. If empty, where it
    /// listens.
    pub public_addresses: Vec<String>,
    /// Where it listens.
    pub listen: Listen,
}

impl InitOptions {
    /// With the defaults for all but the name.
    pub fn new(hub_id: HubId) -> Self {
        Self { hub_id, public_addresses: Vec::new(), listen: Listen::default() }
    }
}

/// What was made.
#[derive(Debug)]
pub struct Initialised {
    /// The settings as written.
    pub config: Config,
    /// Verifier key of the log's checkpoints, to be published.
    pub log_verifier_key: String,
    /// SHA-256 of the authority's key, as tokens pin it.
    pub authority_key_sha256: Digest,
}

/// Why nothing, or not all, was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something already.
    #[error("{} exists and is not empty; a hub is made in a directory of its own", .0.display())]
    Exists(PathBuf),
    /// A public address cannot be read.
    #[error("`{0}` is neither a host nor `host:port`")]
    Address(String),
    /// A file cannot be written.
    #[error("cannot write {}", .path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something else failed; what was made until then is of no use.
    #[error("the hub's directory is incomplete; remove it and try again")]
    Failed(#[source] Error),
}

/// Makes a hub in `dir`, which must not exist or be empty.
pub fn init(dir: &Path, options: &InitOptions, clock: &Clock) -> Result<Initialised, InitError> {
    let config = settings(dir, options)?;
    make_directories(&config)?;
    let failed = |error: Error| InitError::Failed(error);

    let now_ms = clock.now_ms();
    let keys = config.keys_dir();
    let (authority, authority_key) = Authority::generate(&config.hub_id, now_ms).map_err(failed)?;
    write(keys.join(files::AUTHORITY_KEY), &authority_key)?;
    write(keys.join(files::AUTHORITY_CERTIFICATE), &pem("CERTIFICATE", authority.certificate()))?;
    let checkpoint_key = SigningKey::generate();
    write(keys.join(files::CHECKPOINT_KEY), &checkpoint_key.to_pem())?;
    Server::current(&config, &authority, now_ms).map_err(failed)?;

    let origin = origin(&config.hub_id).map_err(failed)?;
    let signer =
        CheckpointSigner::new(&origin, checkpoint_key).map_err(|error| failed(Error::fault(error)))?;
    let log_verifier_key = signer.verifier_key();
    let opened = LogOpened {
        hub_id: config.hub_id.to_string(),
        origin: origin.clone(),
        log_verifier_key: log_verifier_key.clone(),
        ..LogOpened::default()
    };
    create_log(&config, &signer, clock, opened).map_err(failed)?;

    // last: a directory without it is no hub
    write(dir.join(config::FILE_NAME), &config.render())?;
    Ok(Initialised { config, log_verifier_key, authority_key_sha256: authority.key_sha256() })
}

/// Makes the directories of a hub; an error if there is something already.
pub(super) fn make_directories(config: &Config) -> Result<(), InitError> {
    let dir = config.dir.as_path();
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) || dir.is_file() {
        return Err(InitError::Exists(dir.to_owned()));
    }
    let missing: Vec<_> = dir.ancestors().skip(1).take_while(|above| !exists(above)).collect();
    for path in [dir.to_owned(), config.keys_dir(), config.data_dir()] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| InitError::Unwritable { path, source })?;
    }
    for made in missing.into_iter().chain([dir]) {
        let path = disk::parent_of(made).to_owned();
        match RealDisk.sync_dir(&path) {
            // somebody else made `dir` in a directory that we may not read
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(|source| InitError::Unwritable { path, source })?,
        }
    }
    Ok(())
}

/// Writes a file of a hub that is being made.
pub(super) fn write(path: PathBuf, text: &str) -> Result<(), InitError> {
    files::write(&path, text).map_err(|source| InitError::Unwritable { path, source })
}

/// Whether there is something; a relative path's beginning is the directory
/// that we are in.
fn exists(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

/// Opens the journal for the first time and writes the record that begins it.
fn create_log(
    config: &Config,
    signer: &CheckpointSigner,
    clock: &Clock,
    opened: LogOpened,
) -> Result<(), Error> {
    let (disk, data) = (RealDisk::shared(), config.data_dir());
    let mut journal = SegmentJournal::create(disk.clone(), &data.join(hub::JOURNAL), &opened.origin)?;
    let mut tree = Tree::open(disk, &data.join(hub::TREE), &*journal.reader())?;
    commit::create_log(&mut journal, &mut tree, signer, clock, opened).map_err(Error::fault)
}

/// The origin line of a new log: never used before, so that a hub which is
/// made again under its old name begins another log.
fn origin(hub_id: &HubId) -> Result<String, Error> {
    Ok(format!("{hub_id}/log/{}", unique()?))
}

/// Eight hex digits that nobody else has.
pub(super) fn unique() -> Result<String, Error> {
    let mut unique = [0; 4];
    getrandom::fill(&mut unique).map_err(Error::fault)?;
    Ok(hex::encode(unique))
}

fn settings(dir: &Path, options: &InitOptions) -> Result<Config, InitError> {
    let mut config = Config::new(dir, options.hub_id.clone());
    config.listen = options.listen.clone();
    let ports = [config.listen.systems.port(), config.listen.enrolment.port()];
    let mut hosts = Vec::new();
    for address in &options.public_addresses {
        let (host, port) = match config::host_and_port(address) {
            Some((host, port)) => (host, Some(port)),
            None => (address.trim_start_matches('[').trim_end_matches(']').to_owned(), None),
        };
        // what a certificate cannot carry is no address either
        if host.is_empty()
            || !host.is_ascii()
            || host.contains([' ', '/'])
            || (host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err())
        {
            return Err(InitError::Address(address.clone()));
        }
        hosts.push((host, port));
    }
    let public = |(host, port): &(String, Option<u16>), default: u16| match port.unwrap_or(default) {
        0 => String::new(),
        port if host.contains(':') => format!("[{host}]:{port}"),
        port => format!("{host}:{port}"),
    };
    if let Some(first) = hosts.first() {
        config.public.systems = public(first, ports[0]);
        let without_port = (first.0.clone(), None);
        config.public.enrolment = public(hosts.get(1).unwrap_or(&without_port), ports[1]);
    }
    config.public.names = hosts.into_iter().map(|(host, _)| host).collect();
    config.public.names.dedup();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::identity::Identity;

    fn options(addresses: &[&str]) -> InitOptions {
        let mut options = InitOptions::new("axis.example".parse().unwrap());
        options.public_addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        options
    }

    #[test]
    fn a_hub_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/with/it/hub");
        let clock = Clock::manual(1_790_000_000_000);
        let made = init(&dir, &options(&["axis.example"]), &clock).unwrap();
        assert_eq!(Config::load(&dir).unwrap(), made.config);
        assert!(made.log_verifier_key.starts_with("axis.example/log/"));
        let identity = Identity::load(&made.config.keys_dir()).unwrap();
        assert_eq!(identity.authority.key_sha256(), made.authority_key_sha256);
        for entry in fs::read_dir(made.config.keys_dir()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{:?}", entry.path());
        }
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(init(&dir, &options(&[]), &clock), Err(InitError::Exists(_))));
    }

    #[test]
    fn public_addresses_become_settings() {
        let check = |addresses: &[&str], systems: &str, enrolment: &str| {
            let config = settings(Path::new("/hub"), &options(addresses)).unwrap();
            assert_eq!(
                (config.public.systems.as_str(), config.public.enrolment.as_str()),
                (systems, enrolment)
            );
        };
        check(&[], "", "");
        check(&["axis.example"], "axis.example:7443", "axis.example:7444");
        check(&["axis.example:443"], "axis.example:443", "axis.example:7444");
        check(&["axis.example:443", "enrol.example:444"], "axis.example:443", "enrol.example:444");
        check(&["2001:db8::1"], "[2001:db8::1]:7443", "[2001:db8::1]:7444");
        check(&["[2001:db8::1]:443"], "[2001:db8::1]:443", "[2001:db8::1]:7444");
        for bad in ["", "a b", "https://axis.example", "a:b"] {
            assert!(
                matches!(settings(Path::new("/hub"), &options(&[bad])), Err(InitError::Address(_))),
                "{bad}"
            );
        }
    }
}
