//! Reads a backup back: every byte of it, against the signed checkpoint and
//! the documents' names. Only reads, and needs no key but the public one in
//! the manifest.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_proto::{
    id::{Digest, Hasher},
    record::v1::{Record, record::Event},
    tree::record_leaf,
};
use prost::Message as _;

use super::{
    BackupError, Manifest, Progress, Result, Step, VAULT, doing,
    manifest::{documents, read_whole},
};
use crate::{
    disk::Disk,
    evidence::shape::Frontier,
    journal::{Entry, SegmentFile, segments},
    vault::Vault,
};

/// Bytes read at once when a file is hashed.
const READ_BYTES: usize = 1024 * 1024;

/// A backup all of whose bytes were read.
#[derive(Debug)]
pub struct Verified {
    /// What it is.
    pub manifest: Manifest,
    /// Documents that are missing or not what they were, by file. The journal
    /// is whole.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Verifies a backup: the journal's frames and root against the signed
/// checkpoint, every file's digest, every document's.
///
/// # Errors
/// If there is none, or anything but a document is not as it was written.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path, progress: &mut Progress<'_>) -> Result<Verified> {
    let manifest = Manifest::read(&**disk, dir)?.ok_or_else(|| BackupError::Missing(dir.to_owned()))?;
    for (file, segment) in manifest.files(dir).iter().zip(&manifest.segments) {
        if sha256_of(&**disk, file)? != segment.sha256 {
            let what = "not the bytes that were written".to_owned();
            return Err(BackupError::Damaged { path: file.path.clone(), what });
        }
    }
    journal(&**disk, dir, &manifest, None, progress)?;
    let damaged = objects(disk, dir, &manifest, progress)?;
    Ok(Verified { manifest, damaged })
}

/// Reads the journal of a manifest back: every frame, and every root up to the
/// signed one. If `earlier` is a backup's end, that this is its continuation.
/// Returns the documents that were uploaded and, by the journal's word, never
/// collected since.
pub(super) fn journal(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    earlier: Option<&Manifest>,
    progress: &mut Progress<'_>,
) -> Result<BTreeSet<Digest>> {
    let mut uploaded = BTreeSet::new();
    let (mut tree, mut wrong) = (Frontier::default(), None);
    let mut continues = earlier.is_none();
    let files = manifest.files(dir);
    let report = segments::verify_files(disk, dir, &files, &mut |batch| {
        for entry in &batch.entries {
            tree.push(record_leaf(&entry.salt, &entry.record), |_, _| {});
            note_documents(entry, &mut uploaded);
        }
        let (size, root) = (batch.commit.size, hex::encode(batch.commit.root));
        if tree.root() != batch.commit.root {
            wrong.get_or_insert(format!("the root at {size} is not that of its records"));
        }
        continues |= earlier.is_some_and(|earlier| (earlier.size, &earlier.root) == (size, &root));
        progress(Step::Records(size));
    })?;
    let path = dir.to_owned();
    let head = manifest.head().map_err(|what| BackupError::Damaged { path: path.clone(), what })?;
    let found = report.last_commit.as_ref().map(|last| (last.size, last.root));
    let bytes: u64 = manifest.segments.iter().map(|segment| segment.bytes).sum();
    if found != Some((head.size, head.root)) || report.bytes != bytes {
        wrong.get_or_insert("the journal does not end where the signed checkpoint says".into());
    }
    if let Some(what) = wrong {
        return Err(BackupError::Damaged { path, what });
    }
    match earlier.filter(|_| !continues) {
        Some(earlier) => {
            let what =
                format!("{} records of log {} that this hub does not have", earlier.size, earlier.origin);
            Err(BackupError::Other { path, what })
        }
        None => Ok(uploaded),
    }
}

/// What a record says about which documents there are.
fn note_documents(entry: &Entry, uploaded: &mut BTreeSet<Digest>) {
    match Record::decode(entry.record.clone()).ok().and_then(|record| record.event) {
        Some(Event::Uploaded(event)) => uploaded.extend(Digest::from_slice(&event.sha256).ok()),
        Some(Event::DocumentsCollected(event)) => {
            for sha256 in event.sha256.iter().filter_map(|sha256| Digest::from_slice(sha256).ok()) {
                uploaded.remove(&sha256);
            }
        }
        _ => {}
    }
}

/// Reads every document back that a manifest lists.
fn objects(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    manifest: &Manifest,
    progress: &mut Progress<'_>,
) -> Result<Vec<(PathBuf, String)>> {
    let vault = Vault::existing(Arc::clone(disk), &dir.join(VAULT));
    let mut damaged = Vec::new();
    for (count, (sha256, bytes)) in (1..).zip(documents(&**disk, dir, manifest)?) {
        let looked = vault.open_document(&sha256).and_then(|document| {
            document.verify()?;
            Ok(document.size() == bytes)
        });
        let what = match looked {
            Ok(true) => None,
            Ok(false) => Some("not as long as it was".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        damaged.extend(what.map(|what| (vault.path_of(&sha256), what)));
        progress(Step::Documents(count));
    }
    Ok(damaged)
}

/// SHA-256 of what counts of a segment's file, hex.
pub(super) fn sha256_of(disk: &dyn Disk, segment: &SegmentFile) -> Result<String> {
    let Some(bytes) = segment.bytes else {
        return Ok(Digest::of(&read_whole(disk, &segment.path, u64::MAX)?).to_string());
    };
    let hash = || {
        let file = disk.open_read(&segment.path)?;
        let (mut hasher, mut buffer, mut at) = (Hasher::new(), vec![0; READ_BYTES], 0);
        while at < bytes {
            let count = (bytes - at).min(READ_BYTES as u64) as usize;
            file.read_exact_at(at, &mut buffer[..count])?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(hasher.digest().to_string())
    };
    hash().map_err(doing(format!("read {}", segment.path.display())))
}
