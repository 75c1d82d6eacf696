//! The keys of a hub that is restored: the old ones as far as the operator has
//! them, and what is made anew. Decides before it writes anything.

use std::path::Path;

use axis_proto::{id::HubId, key::SigningKey, note::CheckpointVerifier};

use super::{Authority, InitError, Server, files, init, pem};
use crate::{
    config::{self, Config},
    error::{Error, Result},
};

/// The keys of a hub that will be restored.
pub struct RestoredKeys {
    /// Signs the new log's checkpoints.
    pub checkpoint: SigningKey,
    /// The previous log's key, if it is there.
    pub previous: Option<SigningKey>,
    /// Whether the authority is a new one: every system enrols anew.
    pub new_authority: bool,
    authority_key: String,
    authority_certificate: String,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// They cannot be read, or not made.
    #[error("the keys cannot be used")]
    Failed(#[source] Error),
    /// The checkpoint key is another log's.
    #[error("checkpoint.pem is not the key of log {0}")]
    OtherLog(String),
}

impl RestoredKeys {
    /// Finds out which keys there will be: those in a directory, and new ones
    /// for what is not there. Of the checkpoint key only if `new_key` says so.
    ///
    /// # Errors
    /// If a key is missing or wrong and no new one is asked for.
    pub fn find(
        from: Option<&Path>,
        new_key: bool,
        previous: &CheckpointVerifier,
        hub_id: &HubId,
        now_ms: u64,
    ) -> Result<Self, KeysError> {
        let failed = KeysError::Failed;
        let read = |dir: &Path, name: &str| files::read(&dir.join(name)).map_err(failed);
        let held = match from.map(|dir| read(dir, files::CHECKPOINT_KEY)) {
            Some(Ok(text)) => Some(SigningKey::from_pem(&text).map_err(|error| failed(Error::fault(error)))?),
            Some(Err(error)) if !new_key => return Err(error),
            Some(Err(_)) | None => None,
        };
        let held = held.filter(|key| previous.is_key_of(&key.public()));
        let checkpoint = match &held {
            _ if new_key => SigningKey::generate(),
            Some(key) => key.clone(),
            None => return Err(KeysError::OtherLog(previous.origin().to_owned())),
        };
        let (authority_certificate, authority_key, new_authority) = match from {
            Some(dir) => {
                let certificate = read(dir, files::AUTHORITY_CERTIFICATE)?;
                let key = read(dir, files::AUTHORITY_KEY)?;
                Authority::from_pem(&certificate, &key).map_err(failed)?;
                (certificate, key, false)
            }
            None => {
                let (authority, key) = Authority::generate(hub_id, now_ms).map_err(failed)?;
                (pem("CERTIFICATE", authority.certificate()), key, true)
            }
        };
        Ok(Self { checkpoint, previous: held, new_authority, authority_key, authority_certificate })
    }

    /// Makes the directories of a hub where nothing is, and writes the keys.
    pub fn install(&self, config: &Config, now_ms: u64) -> Result<(), InitError> {
        init::make_directories(config)?;
        let keys = config.keys_dir();
        init::write(keys.join(files::AUTHORITY_KEY), &self.authority_key)?;
        init::write(keys.join(files::AUTHORITY_CERTIFICATE), &self.authority_certificate)?;
        init::write(keys.join(files::CHECKPOINT_KEY), &self.checkpoint.to_pem())?;
        let authority = Authority::from_pem(&self.authority_certificate, &self.authority_key);
        let made = authority.and_then(|authority| Server::current(config, &authority, now_ms));
        made.map(drop).map_err(InitError::Failed)
    }
}

/// Writes the settings: last, for a directory without them is no hub.
pub fn write_settings(config: &Config, text: &str) -> Result<(), InitError> {
    init::write(config.dir.join(config::FILE_NAME), text)
}

/// The origin line of the log that a restored hub goes on with: how many logs
/// there were, and what nobody else has, so that a backup which is restored
/// twice begins two logs.
pub fn next_origin(hub_id: &HubId, logs: usize) -> Result<String> {
    Ok(format!("{hub_id}/log/{}-{}", logs + 1, init::unique()?))
}
