//! One run of a backup: copies what is new up to a signed size, reads it back,
//! and puts the manifest in place. Needs no private key, and opens nothing of
//! the hub for writing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axis_proto::id::Digest;

use super::{
    BackupError, FORMAT, JOURNAL, Manifest, Progress, Result, Step, VAULT, doing,
    manifest::{Documents, Segment, documents, list},
    verify,
};
use crate::{
    disk::{Disk, DiskFile},
    hub,
    journal::{SegmentFile, copy},
    vault::Vault,
};

/// What is copied from.
#[derive(Debug)]
pub struct Source<'a> {
    /// The hub's disk.
    pub disk: Arc<dyn Disk>,
    /// Its data directory.
    pub data: &'a Path,
    /// The text of its `hub.toml`.
    pub settings: &'a str,
    /// Set when the hub is no longer kept from erasing.
    pub ended: &'a AtomicBool,
}

/// Up to where.
#[derive(Debug, Clone)]
pub struct Head {
    /// The hub.
    pub hub_id: String,
    /// The signed checkpoint of a size that is durable.
    pub checkpoint: String,
    /// Verifies it.
    pub log_verifier_key: String,
}

/// A backup that was made.
#[derive(Debug)]
pub struct Made {
    /// What it is.
    pub manifest: Manifest,
    /// Bytes of all of it.
    pub bytes: u64,
    /// Bytes that this run copied.
    pub copied_bytes: u64,
    /// Documents that are damaged in the hub, or gone from it without its
    /// journal saying so. Those of an earlier run stay in the backup.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Brings the backup in a directory to a hub's head.
///
/// # Errors
/// If a disk fails, the hub's journal is damaged, or the directory holds
/// something that is not this hub's past. The backup that was there stays.
pub fn run(
    source: &Source<'_>,
    head: &Head,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    now_ms: u64,
    progress: &mut Progress<'_>,
) -> Result<Made> {
    disk.create_dir(&dir.join(JOURNAL)).map_err(doing(format!("make {}", dir.display())))?;
    let earlier = Manifest::read(&**disk, dir)?;
    let other = |what: String| BackupError::Other { path: dir.to_owned(), what };
    if let Some(earlier) = earlier.as_ref().filter(|earlier| earlier.hub_id != head.hub_id) {
        return Err(other(format!("a backup of hub {}", earlier.hub_id)));
    }
    let mut manifest = begin(source, head, earlier.as_ref(), now_ms)
        .map_err(|what| BackupError::Damaged { path: source.data.to_owned(), what })?;
    if let Some(earlier) = earlier.as_ref().filter(|earlier| earlier.size > manifest.size) {
        return Err(other(format!("{} records, more than this hub has", earlier.size)));
    }
    let mut copied_bytes = segments(source, &**disk, dir, earlier.as_ref(), &mut manifest, progress)?;
    let needed = verify::journal(&**disk, dir, &manifest, earlier.as_ref(), progress)?;

    let kept = match &earlier {
        Some(earlier) => documents(&**disk, dir, earlier)?,
        None => Vec::new(),
    };
    let vault =
        Vault::open(Arc::clone(disk), &dir.join(VAULT)).map_err(doing("make the documents' place"))?;
    let (held, bytes, damaged) = objects(source, &vault, kept, &needed, progress)?;
    copied_bytes += bytes;
    let text = list(&held);
    let name = format!("documents-{}.list", manifest.run);
    let write = |path: &Path| {
        if disk.exists(path)? {
            disk.remove(path)?;
        }
        let file = disk.create(path)?;
        file.write_at(0, text.as_bytes())?;
        file.sync_data()
    };
    // its name too, before a manifest names it: that is renamed, not made
    write(&dir.join(&name)).and_then(|()| disk.sync_dir(dir)).map_err(doing(format!("write {name}")))?;
    manifest.documents = Documents {
        file: name,
        sha256: Digest::of(text.as_bytes()).to_string(),
        count: held.len() as u64,
        bytes: held.iter().map(|(_, bytes)| bytes).sum(),
    };
    if source.ended.load(Ordering::Acquire) {
        // what was copied may be of before and after an erasure: begin again
        let why = std::io::Error::other("the hub stopped or began to erase meanwhile; run the backup again");
        return Err(doing("keep what was copied")(why));
    }
    // a crash before this line: the backup is what it was; behind it, the new one
    manifest.write(&**disk, dir)?;
    remove_unnamed(&**disk, dir, &vault, &manifest, &held).map_err(doing("remove what is old"))?;
    let bytes = manifest.documents.bytes + manifest.segments.iter().map(|segment| segment.bytes).sum::<u64>();
    Ok(Made { manifest, bytes, copied_bytes, damaged })
}

/// A manifest of what is to be copied, without files yet.
fn begin(
    source: &Source<'_>,
    head: &Head,
    earlier: Option<&Manifest>,
    now_ms: u64,
) -> Result<Manifest, String> {
    let verifier = axis_proto::note::CheckpointVerifier::parse(&head.log_verifier_key);
    let checkpoint = verifier.and_then(|verifier| verifier.verify(&head.checkpoint));
    let checkpoint = checkpoint.map_err(|error| format!("the hub's checkpoint does not hold: {error}"))?;
    Ok(Manifest {
        format: FORMAT,
        run: earlier.map_or(0, |earlier| earlier.run) + 1,
        made_unix_ms: now_ms,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        hub_id: head.hub_id.clone(),
        origin: checkpoint.origin,
        log_verifier_key: head.log_verifier_key.clone(),
        size: checkpoint.size,
        root: hex::encode(checkpoint.root),
        checkpoint: head.checkpoint.clone(),
        settings: source.settings.to_owned(),
        settings_sha256: Digest::of(source.settings.as_bytes()).to_string(),
        segments: Vec::new(),
        documents: Documents { file: String::new(), sha256: String::new(), count: 0, bytes: 0 },
    })
}

/// Copies what is new of the journal; returns the bytes.
fn segments(
    source: &Source<'_>,
    disk: &dyn Disk,
    dir: &Path,
    earlier: Option<&Manifest>,
    manifest: &mut Manifest,
    progress: &mut Progress<'_>,
) -> Result<u64> {
    let journal = source.data.join(hub::JOURNAL);
    let found = copy::segments_before(&*source.disk, &journal, manifest.size)?;
    let earlier = earlier.map(|earlier| earlier.segments.as_slice()).unwrap_or_default();
    let earlier: BTreeMap<u64, &Segment> =
        earlier.iter().map(|segment| (segment.first_sequence, segment)).collect();
    let ends = found.iter().skip(1).map(|(first, _)| *first).chain([manifest.size]);
    let mut bytes = 0;
    for ((first, segment), until) in found.iter().zip(ends) {
        let reading = || format!("read {}", segment.path.display());
        let file = source.disk.open_read(&segment.path).map_err(doing(reading()))?;
        let here = match earlier.get(first).filter(|here| here.until <= until) {
            Some(here) => still(disk, dir, &*file, here).map_err(doing(reading()))?.then_some(*here),
            None => None,
        };
        if let Some(here) = here.filter(|here| here.until == until) {
            manifest.segments.push(here.clone());
            continue;
        }
        let name = match here {
            Some(here) => here.file.clone(),
            None => format!("{first:020}.{}.segment", manifest.run),
        };
        let path = dir.join(JOURNAL).join(&name);
        let writing = || format!("write {}", path.display());
        let open = || match here {
            // what is behind the bytes that count may be a run's that ended
            Some(_) => disk.open(&path),
            None if disk.exists(&path)? => {
                disk.remove(&path)?;
                disk.create(&path)
            }
            None => disk.create(&path),
        };
        let to = open().map_err(doing(writing()))?;
        let copied = copy::copy(&segment.path, file, &*to, here.map(Segment::copied), until)?;
        to.sync_data().map_err(doing(writing()))?;
        bytes += copied.bytes - here.map_or(0, |here| here.bytes);
        let counted = SegmentFile { path, name: name.clone(), bytes: Some(copied.bytes) };
        manifest.segments.push(Segment {
            file: name,
            first_sequence: *first,
            until: copied.until,
            batches: copied.batches,
            bytes: copied.bytes,
            sha256: verify::sha256_of(disk, &counted)?,
        });
        progress(Step::Segments(bytes));
    }
    disk.sync_dir(&dir.join(JOURNAL)).map_err(doing("make the journal's names durable"))?;
    Ok(bytes)
}

/// Whether the copy that is here is still the beginning of the hub's segment.
fn still(disk: &dyn Disk, dir: &Path, segment: &dyn DiskFile, here: &Segment) -> std::io::Result<bool> {
    let path = dir.join(JOURNAL).join(&here.file);
    if !disk.exists(&path)? {
        return Ok(false);
    }
    copy::is_beginning(segment, &*disk.open_read(&path)?, &here.copied())
}

/// Documents of a backup with their bytes, the bytes that were copied, and
/// what is damaged in the hub.
type Objects = (Vec<(Digest, u64)>, u64, Vec<(PathBuf, String)>);

/// Copies the documents that are not here yet. One that is damaged in the hub,
/// or lost although it is needed, stays as it is here.
fn objects(
    source: &Source<'_>,
    vault: &Vault,
    kept: Vec<(Digest, u64)>,
    needed: &BTreeSet<Digest>,
    progress: &mut Progress<'_>,
) -> Result<Objects> {
    let from = Vault::existing(Arc::clone(&source.disk), &source.data.join(hub::VAULT));
    let kept: BTreeMap<Digest, u64> = kept.into_iter().collect();
    let (mut held, mut copied, mut damaged, mut count) = (Vec::new(), 0, Vec::new(), 0);
    let visited = from.objects(&mut |sha256| {
        count += 1;
        progress(Step::Documents(count));
        let here = vault.open_document(&sha256).ok().map(|document| document.size());
        if let Some(bytes) = kept.get(&sha256).filter(|bytes| here == Some(**bytes)) {
            held.push((sha256, *bytes));
            return Ok(());
        }
        if here.is_some() {
            // of a run that did not end, or no longer what it was
            vault.remove(&sha256)?;
        }
        let document = match from.open_document(&sha256) {
            // collected since it was listed: nothing names it
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            document => document?,
        };
        match vault.put(&document) {
            Ok(bytes) => {
                // what was written is read back
                vault.open_document(&sha256)?.verify()?;
                copied += bytes;
                held.push((sha256, document.size()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                damaged.push((from.path_of(&sha256), error.to_string()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    });
    visited.map_err(doing("copy the documents"))?;
    let found: BTreeSet<Digest> = held.iter().map(|(sha256, _)| *sha256).collect();
    for sha256 in needed.difference(&found) {
        // what the hub collected goes here too; what it lost may be here only
        if let Some(bytes) = kept.get(sha256) {
            held.push((*sha256, *bytes));
        }
        let path = from.path_of(sha256);
        if !damaged.iter().any(|(named, _)| *named == path) {
            damaged.push((path, "gone from the hub".to_owned()));
        }
    }
    held.sort_unstable();
    vault.sync_objects().map_err(doing("copy the documents"))?;
    Ok((held, copied, damaged))
}

/// Removes what the manifest does not name: what was erased in the hub, and
/// what runs left that did not end.
fn remove_unnamed(
    disk: &dyn Disk,
    dir: &Path,
    vault: &Vault,
    manifest: &Manifest,
    held: &[(Digest, u64)],
) -> std::io::Result<()> {
    let named: BTreeSet<&str> = manifest.segments.iter().map(|segment| segment.file.as_str()).collect();
    for name in disk.list(&dir.join(JOURNAL))? {
        if !named.contains(name.as_str()) {
            disk.remove(&dir.join(JOURNAL).join(name))?;
        }
    }
    for name in disk.list(dir)? {
        if name.starts_with("documents-") && name != manifest.documents.file {
            disk.remove(&dir.join(name))?;
        }
    }
    vault.remove_partial_copies()?;
    let held: BTreeSet<&Digest> = held.iter().map(|(sha256, _)| sha256).collect();
    let mut surplus = Vec::new();
    vault.objects(&mut |sha256| {
        if !held.contains(&sha256) {
            surplus.push(sha256);
        }
        Ok(())
    })?;
    surplus.iter().try_for_each(|sha256| vault.remove(sha256))
}
