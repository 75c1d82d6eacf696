//! A hub from a backup: its journal goes on at the next sequence, in a log with
//! a name of its own, whose first record says which log it continues, where,
//! and who vouches for it. Never writes where something is, and changes
//! nothing of the backup.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_proto::{
    note::{CheckpointSigner, CheckpointVerifier},
    record::v1::LogOpened,
    succession::Succession,
};

use super::{
    BackupError, Manifest, Progress, Result, Step, VAULT, doing,
    manifest::{documents, read_whole},
    verify,
};
use crate::{
    clock::Clock,
    commit,
    config::{self, Config},
    disk::{Disk, RealDisk},
    evidence::Tree,
    hub,
    identity::{RestoredKeys, next_origin, write_settings},
    journal::{self, Journal as _, SegmentFile, segments, segments::SegmentJournal},
    limits,
    vault::Vault,
};

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The backup; or the directory of a hub that does not run, such as an old
    /// copy of it.
    pub backup: PathBuf,
    /// Where the hub will be; nothing may be there.
    pub dir: PathBuf,
    /// Where the old hub's keys are, if they are still there.
    pub keys: Option<PathBuf>,
    /// Make a new checkpoint key, and with no keys at all a new authority.
    pub new_key: bool,
}

/// A hub that was restored.
#[derive(Debug)]
pub struct Restored {
    /// Its settings.
    pub config: Config,
    /// Origin of the log that it continues.
    pub previous_origin: String,
    /// Records of that log that it holds.
    pub previous_size: u64,
    /// When the backup was made; zero if it was a copy.
    pub made_unix_ms: u64,
    /// Verifier key of the new log, to be published.
    pub log_verifier_key: String,
    /// The signed word that it continues the other one.
    pub succession: String,
    /// Whether the previous log's key signed it: clients go on by themselves.
    pub signed_by_previous: bool,
    /// Whether every system has to enrol anew.
    pub new_authority: bool,
    /// Documents that it holds.
    pub documents: u64,
    /// Documents that the backup lacks or has damaged.
    pub damaged: Vec<(PathBuf, String)>,
}

/// What there is to restore from.
struct From {
    settings: String,
    segments: Vec<(SegmentFile, Option<String>)>,
    objects: PathBuf,
    size: u64,
    root: [u8; 32],
    checkpoint: String,
    made_unix_ms: u64,
    /// The last log's verifier key, if it is said anywhere.
    verifier: Option<CheckpointVerifier>,
    origin: String,
}

/// Makes a hub from a backup.
///
/// # Errors
/// If something is in the hub's directory, the backup is damaged, the keys do
/// not fit, or a disk fails. What was made until then is no hub: it has no
/// `hub.toml`.
pub fn restore(options: &RestoreOptions, clock: &Clock, progress: &mut Progress<'_>) -> Result<Restored> {
    let disk = RealDisk::shared();
    let from = match Manifest::read(&*disk, &options.backup)? {
        Some(manifest) => of_backup(&disk, &options.backup, &manifest, progress)?,
        None => of_copy(&disk, &options.backup)?,
    };
    let config = Config::from_text(&options.dir, &from.settings)
        .map_err(|error| BackupError::Refused(error.to_string()))?;
    let previous = previous_log(&from, options)?;
    let head = previous.verify(&from.checkpoint).map(|head| (head.size, head.root));
    if head != Ok((from.size, from.root)) {
        return Err(BackupError::Refused(format!(
            "the checkpoint at {} is not one of log {}",
            from.size, from.origin
        )));
    }
    let now_ms = clock.now_ms();
    let keys =
        RestoredKeys::find(options.keys.as_deref(), options.new_key, &previous, &config.hub_id, now_ms)
            .map_err(|error| BackupError::Refused(chain(&error)))?;
    keys.install(&config, now_ms).map_err(|error| BackupError::Refused(chain(&error)))?;

    let data = config.data_dir();
    copy_segments(&*disk, &from, &data.join(hub::JOURNAL), progress)?;
    let (documents, damaged) = copy_documents(&disk, &options.backup, &from, &data, progress)?;
    let opened = open_log(&disk, &config, &from, &previous, &keys, clock)?;
    let (log_verifier_key, succession) = opened;
    // a crash before this line: a directory without settings is no hub
    write_settings(&config, &from.settings).map_err(|error| BackupError::Refused(chain(&error)))?;
    Ok(Restored {
        config,
        previous_origin: from.origin,
        previous_size: from.size,
        made_unix_ms: from.made_unix_ms,
        log_verifier_key,
        succession,
        signed_by_previous: keys.previous.is_some(),
        new_authority: keys.new_authority,
        documents,
        damaged,
    })
}

/// A backup, verified but for its documents: each is as it is copied.
fn of_backup(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    manifest: &Manifest,
    progress: &mut Progress<'_>,
) -> Result<From> {
    verify::journal(&**disk, dir, manifest, None, progress)?;
    let damaged = |what| BackupError::Damaged { path: dir.join(super::MANIFEST), what };
    let head = manifest.head().map_err(damaged)?;
    let digests = manifest.segments.iter().map(|segment| Some(segment.sha256.clone()));
    Ok(From {
        settings: manifest.settings.clone(),
        segments: manifest.files(dir).into_iter().zip(digests).collect(),
        objects: dir.join(VAULT),
        size: head.size,
        root: head.root,
        checkpoint: manifest.checkpoint.clone(),
        made_unix_ms: manifest.made_unix_ms,
        verifier: Some(manifest.verifier().map_err(damaged)?),
        origin: head.origin,
    })
}

/// A copy of a hub's directory. A last batch that was never finished was never
/// answered, and is left behind.
fn of_copy(disk: &Arc<dyn Disk>, dir: &Path) -> Result<From> {
    let settings = dir.join(config::FILE_NAME);
    let journal = dir.join("data").join(hub::JOURNAL);
    if !settings.exists() || !journal.exists() {
        return Err(BackupError::Missing(dir.to_owned()));
    }
    let settings = read_whole(&**disk, &settings, 1024 * 1024)?;
    let settings = String::from_utf8(settings).map_err(|_| BackupError::Missing(dir.to_owned()))?;
    let report = segments::verify(&**disk, &journal, &mut |_| {})?;
    let last = report.last_commit.ok_or_else(|| BackupError::Missing(dir.to_owned()))?;
    let logs = journal::logs(&**disk, &journal)?;
    let opened = logs.last().map(|log| log.opened.clone()).unwrap_or_default();
    let found = journal::copy::segments_before(&**disk, &journal, last.size)?;
    let cut = report.incomplete.map(|incomplete| (incomplete.path, incomplete.offset));
    let segments = found.into_iter().map(|(_, mut segment)| {
        segment.bytes = cut.as_ref().filter(|(path, _)| *path == segment.path).map(|(_, offset)| *offset);
        (segment, None)
    });
    Ok(From {
        settings,
        segments: segments.collect(),
        objects: dir.join("data").join(hub::VAULT),
        size: last.size,
        root: last.root,
        checkpoint: last.checkpoint,
        made_unix_ms: 0,
        verifier: CheckpointVerifier::parse(&opened.log_verifier_key).ok(),
        origin: opened.origin,
    })
}

/// The verifier of the log that is continued: what the backup says, or the
/// key that the operator has.
fn previous_log(from: &From, options: &RestoreOptions) -> Result<CheckpointVerifier> {
    if let Some(verifier) = &from.verifier {
        return Ok(verifier.clone());
    }
    let key = options.keys.as_deref().and_then(|keys| crate::identity::Identity::load(keys).ok());
    let signer = key.and_then(|key| CheckpointSigner::new(&from.origin, key.checkpoint_key).ok());
    let signer = signer.ok_or_else(|| {
        let what = format!("the key of log {} is asked for, which is nowhere in the copy", from.origin);
        BackupError::Refused(what)
    })?;
    Ok(signer.verifier())
}

fn copy_segments(disk: &dyn Disk, from: &From, to: &Path, progress: &mut Progress<'_>) -> Result<()> {
    disk.create_dir(to).map_err(doing(format!("make {}", to.display())))?;
    let mut copied = 0;
    for (segment, sha256) in &from.segments {
        let path = to.join(&segment.name);
        let copy = || {
            let (source, target) = (disk.open_read(&segment.path)?, disk.create(&path)?);
            let bytes = match segment.bytes {
                Some(bytes) => bytes,
                None => source.len()?,
            };
            let (mut buffer, mut at) = (vec![0; 1024 * 1024], 0);
            while at < bytes {
                let count = (bytes - at).min(buffer.len() as u64) as usize;
                source.read_exact_at(at, &mut buffer[..count])?;
                target.write_at(at, &buffer[..count])?;
                at += count as u64;
            }
            target.sync_data()?;
            Ok(bytes)
        };
        copied += copy().map_err(doing(format!("copy {}", segment.path.display())))?;
        let written = SegmentFile { path, name: segment.name.clone(), bytes: segment.bytes };
        if let Some(sha256) = sha256
            && verify::sha256_of(disk, &written)? != *sha256
        {
            let what = "not the bytes that were written".to_owned();
            return Err(BackupError::Damaged { path: segment.path.clone(), what });
        }
        progress(Step::Segments(copied));
    }
    disk.sync_dir(to).map_err(doing("make the journal's names durable"))
}

/// Copies the documents, each verified; returns their number, and what is
/// damaged.
fn copy_documents(
    disk: &Arc<dyn Disk>,
    backup: &Path,
    from: &From,
    data: &Path,
    progress: &mut Progress<'_>,
) -> Result<(u64, Vec<(PathBuf, String)>)> {
    let copying = || "copy the documents".to_owned();
    let source = Vault::existing(Arc::clone(disk), &from.objects);
    let target = Vault::open(Arc::clone(disk), &data.join(hub::VAULT)).map_err(doing(copying()))?;
    let mut named = Vec::new();
    match Manifest::read(&**disk, backup)? {
        Some(manifest) => {
            named.extend(documents(&**disk, backup, &manifest)?.into_iter().map(|(sha256, _)| sha256))
        }
        None => source
            .objects(&mut |sha256| {
                named.push(sha256);
                Ok(())
            })
            .map_err(doing(copying()))?,
    }
    let (mut count, mut damaged) = (0, Vec::new());
    for sha256 in named {
        let put = source.open_document(&sha256).and_then(|document| target.put(&document));
        match put {
            Ok(_) => count += 1,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::NotFound) =>
            {
                damaged.push((source.path_of(&sha256), error.to_string()));
            }
            Err(error) => return Err(doing(copying())(error)),
        }
        progress(Step::Documents(count));
    }
    target.sync_objects().map_err(doing(copying()))?;
    Ok((count, damaged))
}

/// Opens the log that continues the one that was copied; returns its verifier
/// key and the signed word.
fn open_log(
    disk: &Arc<dyn Disk>,
    config: &Config,
    from: &From,
    previous: &CheckpointVerifier,
    keys: &RestoredKeys,
    clock: &Clock,
) -> Result<(String, String)> {
    let data = config.data_dir();
    let mut journal = SegmentJournal::open(Arc::clone(disk), &data.join(hub::JOURNAL))?;
    let logs = journal::logs(&**disk, &data.join(hub::JOURNAL))?;
    if logs.len() >= limits::LOGS_MAX {
        return Err(BackupError::Refused(format!("the journal holds {} logs already", logs.len())));
    }
    let failed = |error: &dyn std::error::Error| BackupError::Refused(chain(error));
    let mut tree = Tree::open(Arc::clone(disk), &data.join(hub::TREE), &*journal.reader())
        .map_err(doing("make the tree"))?;
    let origin = next_origin(&config.hub_id, logs.len()).map_err(|error| failed(&error))?;
    let signer = |origin: &str, key: &axis_proto::key::SigningKey| {
        CheckpointSigner::new(origin, key.clone()).map_err(|error| failed(&error))
    };
    let new = signer(&origin, &keys.checkpoint)?;
    let old = keys.previous.as_ref().map(|key| signer(&from.origin, key)).transpose()?;
    let succession = Succession {
        previous_origin: from.origin.clone(),
        previous_size: from.size,
        previous_root: from.root,
        log: new.verifier(),
    };
    let note = succession.sign(&new, old.as_ref());
    let note = note.ok_or_else(|| BackupError::Refused("the logs' keys do not fit their names".into()))?;
    let opened = LogOpened {
        hub_id: config.hub_id.to_string(),
        origin: origin.clone(),
        previous_origin: from.origin.clone(),
        previous_size: from.size,
        previous_root: from.root.to_vec().into(),
        log_verifier_key: new.verifier_key(),
        previous_log_verifier_key: previous.verifier_key(),
    };
    journal.begin_log(&origin).map_err(doing("begin the new log"))?;
    commit::continue_log(&mut journal, &mut tree, &new, clock, opened, note.clone())
        .map_err(|error| failed(&error))?;
    Ok((new.verifier_key(), note))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
