//! Verifies journal files that were copied away, with no hub in reach and also
//! after content was erased from them. Only reads.
//!
//! What it shows: every frame is as it was written; records, batches and files
//! follow each other without gaps; cargo that is there is what its record
//! binds. With the roots, which need the log's first file among them or a copy
//! of the tree's files: the records are those under the files' checkpoints.
//! With a key: the log's owner has signed these checkpoints, so the records
//! are those of the log. Files of a hub that was restored hold several logs,
//! one after the other: each has a key of its own, and begins with a record
//! that names the log before it as it ended. That content is missing only
//! where a record allows it, is for `axis-hub fsck` over the whole log to show.

use std::{
    io,
    path::{Path, PathBuf},
};

use axis_proto::{
    id::Digest,
    note::CheckpointVerifier,
    record::v1::{LogOpened, Record, record::Event},
    tree::{Hash, record_leaf},
};
use bytes::Bytes;
use prost::Message as _;

use crate::{
    disk::Disk,
    evidence::{shape::Frontier, tree},
    journal::{Batch, archive::read_segment},
};

/// What was found in files that are sound.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Archived {
    /// Files.
    pub segments: usize,
    /// Logs that they are of.
    pub logs: usize,
    /// The first record.
    pub first_sequence: u64,
    /// Records.
    pub records: u64,
    /// Batches.
    pub batches: u64,
    /// Pieces of cargo that are there and are what their records bind.
    pub cargo: u64,
    /// Pieces that were erased.
    pub erased: u64,
    /// Whether the roots in the checkpoints were found from the records.
    pub roots_proven: bool,
    /// Whether the checkpoints' signatures were verified.
    pub signatures_proven: bool,
    /// SHA-256 of the last log's origin line.
    pub origin_sha256: String,
    /// The last checkpoint.
    pub checkpoint: String,
}

/// Verifies files that follow each other, in any order, with the keys of all
/// logs that they are of, or with none.
///
/// # Errors
/// The first thing that is wrong, with the file and the place.
pub fn verify(
    disk: &dyn Disk,
    files: &[PathBuf],
    verifiers: &[CheckpointVerifier],
    tree_dir: Option<&Path>,
) -> io::Result<Archived> {
    let mut files = files.to_vec();
    // their names are their first sequences, of one length
    files.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    let mut found = Archived { signatures_proven: !verifiers.is_empty(), ..Archived::default() };
    let mut expected: Option<(u64, u64)> = None;
    let mut frontier: Option<Frontier> = None;
    let mut last_root: Option<Hash> = None;
    for path in &files {
        let mut wrong: Option<String> = None;
        let mut begun = false;
        let (before, mut opened) = (last_root, None);
        let segment = read_segment(disk, path, &mut |batch: Batch| {
            let first = batch.entries.first().map_or(0, |entry| entry.sequence);
            if !std::mem::replace(&mut begun, true) {
                opened = opened_by(&batch);
                if frontier.is_none() && found.records == 0 {
                    frontier = begin(disk, first, tree_dir).unwrap_or_else(|error| {
                        wrong = Some(format!("the tree: {error}"));
                        None
                    });
                }
            }
            last_root = Some(batch.commit.root);
            let looked = look(&batch, verifiers, frontier.as_mut(), &mut found);
            if let Err(what) = looked {
                wrong.get_or_insert(format!("the batch from record {first}: {what}"));
            }
        })
        .map_err(io::Error::other)?;
        let gap = expected.filter(|expected| *expected != segment.begins);
        if let Some((sequence, batch)) = gap {
            wrong.get_or_insert(format!(
                "begins with record {} and batch {} where {sequence} and {batch} were expected",
                segment.begins.0, segment.begins.1
            ));
        }
        let origin = hex::encode(segment.origin);
        if origin != found.origin_sha256 {
            let goes_on = |opened: &LogOpened| {
                of_origin(&opened.origin) == origin
                    && of_origin(&opened.previous_origin) == found.origin_sha256
                    && opened.previous_size == segment.begins.0
                    && before.is_some_and(|root| root[..] == opened.previous_root)
            };
            if found.logs > 0 && !opened.as_ref().is_some_and(goes_on) {
                wrong.get_or_insert("belongs to another log than the file before".into());
            }
            found.logs += 1;
        }
        if let Some(what) = wrong {
            return Err(damaged(path, &what));
        }
        if found.segments == 0 {
            found.first_sequence = segment.begins.0;
        }
        found.segments += 1;
        found.origin_sha256 = origin;
        expected = Some(segment.ends);
    }
    found.roots_proven = frontier.is_some();
    Ok(found)
}

/// What a file's first record says, if it begins a log.
fn opened_by(batch: &Batch) -> Option<LogOpened> {
    let record = Record::decode(batch.entries.first()?.record.clone()).ok()?;
    match record.event {
        Some(Event::LogOpened(opened)) => Some(opened),
        _ => None,
    }
}

/// SHA-256 of an origin line, hex.
fn of_origin(origin: &str) -> String {
    Digest::of(origin.as_bytes()).to_string()
}

/// The tree before the first record, if it can be known.
fn begin(disk: &dyn Disk, first: u64, tree_dir: Option<&Path>) -> io::Result<Option<Frontier>> {
    match tree_dir {
        _ if first == 0 => Ok(Some(Frontier::default())),
        Some(dir) => tree::frontier(disk, dir, first).map(Some),
        None => Ok(None),
    }
}

fn look(
    batch: &Batch,
    verifiers: &[CheckpointVerifier],
    frontier: Option<&mut Frontier>,
    found: &mut Archived,
) -> Result<(), String> {
    found.batches += 1;
    found.records += batch.entries.len() as u64;
    for entry in &batch.entries {
        let record = Record::decode(entry.record.clone())
            .map_err(|error| format!("record {} cannot be read: {error}", entry.sequence))?;
        if record.sequence != entry.sequence || record.cargo.len() != entry.cargo.len() {
            return Err(format!("record {} is not what its place says", entry.sequence));
        }
        for (named, bytes) in record.cargo.iter().zip(&entry.cargo) {
            match bytes.is_empty() && named.size > 0 {
                true => found.erased += 1,
                false if bound(named.size, &named.sha256, bytes) => found.cargo += 1,
                false => return Err(format!("cargo of record {} is not what it binds", entry.sequence)),
            }
        }
    }
    if let Some(frontier) = frontier {
        for entry in &batch.entries {
            let leaf: Hash = record_leaf(&entry.salt, &entry.record);
            frontier.push(leaf, |_, _| {});
        }
        if frontier.root() != batch.commit.root {
            return Err("the root is not that of the records".into());
        }
    }
    if !verifiers.is_empty() {
        let origin = batch.commit.checkpoint.lines().next().unwrap_or_default();
        let verifier = verifiers.iter().find(|verifier| verifier.origin() == origin);
        let verifier = verifier.ok_or_else(|| format!("none of the keys is that of log {origin}"))?;
        let checkpoint = verifier.verify(&batch.commit.checkpoint).map_err(|error| error.to_string())?;
        if checkpoint.size != batch.commit.size || checkpoint.root != batch.commit.root {
            return Err("the checkpoint speaks of another size or root".into());
        }
    }
    found.checkpoint.clone_from(&batch.commit.checkpoint);
    Ok(())
}

fn bound(size: u64, sha256: &Bytes, bytes: &Bytes) -> bool {
    size == bytes.len() as u64 && sha256[..] == Digest::of(bytes).as_bytes()[..]
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("journal {}: {what}", path.display()))
}
