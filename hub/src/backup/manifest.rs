//! What a backup is: one small file, put in place last. Trusted with nothing
//! that is not checked against the copied bytes and the signed checkpoint.

use std::path::{Component, Path};

use axis_proto::{
    id::{Digest, HubId},
    note::{Checkpoint, CheckpointVerifier},
};
use serde::{Deserialize, Serialize};

use super::{BackupError, FORMAT, JOURNAL, Result, doing};
use crate::{
    disk::{self, Disk},
    journal::{SegmentFile, copy::Copied},
};

/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";
/// Most bytes of a manifest: more than a hundred thousand segments.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of all that the backup consists of.
    pub format: u32,
    /// Number of the run that made it; the first is 1.
    pub run: u64,
    /// When.
    pub made_unix_ms: u64,
    /// Version of the software that made it.
    pub software: String,
    /// The hub.
    pub hub_id: String,
    /// Origin of its log.
    pub origin: String,
    /// Verifier key of its log.
    pub log_verifier_key: String,
    /// Records.
    pub size: u64,
    /// Root over them, hex.
    pub root: String,
    /// The signed checkpoint of that size.
    pub checkpoint: String,
    /// The text of `hub.toml`.
    pub settings: String,
    /// SHA-256 of that text, hex.
    pub settings_sha256: String,
    /// The journal, in order.
    pub segments: Vec<Segment>,
    /// The documents.
    pub documents: Documents,
}

/// One segment of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its file in `journal/`.
    pub file: String,
    /// Its first record.
    pub first_sequence: u64,
    /// The record behind its last one.
    pub until: u64,
    /// Its batches.
    pub batches: u64,
    /// How many bytes of the file count.
    pub bytes: u64,
    /// SHA-256 of them, hex.
    pub sha256: String,
}

/// The documents of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Documents {
    /// Their list.
    pub file: String,
    /// SHA-256 of the list, hex.
    pub sha256: String,
    /// How many.
    pub count: u64,
    /// Bytes of them all.
    pub bytes: u64,
}

impl Segment {
    /// What was copied into it.
    pub(super) fn copied(&self) -> Copied {
        let Self { first_sequence, until, batches, bytes, .. } = *self;
        Copied { first_sequence, until, batches, bytes }
    }
}

impl Manifest {
    /// Reads the manifest of a backup; `None` if there is none.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        let reading = || format!("read {}", path.display());
        if !disk.exists(&path).map_err(doing(reading()))? {
            return Ok(None);
        }
        let damaged = |what: String| BackupError::Damaged { path: path.clone(), what };
        let text = read_whole(disk, &path, MANIFEST_BYTES_MAX)?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version.format > FORMAT {
            return Err(BackupError::Newer { path, version: version.format });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(damaged)?;
        Ok(Some(manifest))
    }

    /// Puts it in the place of the last one.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(MANIFEST);
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other);
        let written = text.and_then(|text| disk::replace(disk, &path, &text));
        written.map_err(doing(format!("write {}", path.display())))
    }

    /// What it says of itself, and that no name leads elsewhere.
    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err("no such format version".into());
        }
        self.hub_id()?;
        self.head()?;
        if Digest::of(self.settings.as_bytes()).to_string() != self.settings_sha256 {
            return Err("the settings are not those that were written".into());
        }
        let names = self.segments.iter().map(|segment| &segment.file).chain([&self.documents.file]);
        for name in names {
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(format!("`{name}` is no file's name"));
            }
        }
        Ok(())
    }

    /// The hub's name.
    pub(super) fn hub_id(&self) -> Result<HubId, String> {
        self.hub_id.parse().map_err(|_| "the hub's name cannot be read".to_owned())
    }

    /// Verifies its checkpoints.
    pub(super) fn verifier(&self) -> Result<CheckpointVerifier, String> {
        CheckpointVerifier::parse(&self.log_verifier_key).map_err(|error| error.to_string())
    }

    /// Its end, as the hub signed it.
    pub(super) fn head(&self) -> Result<Checkpoint, String> {
        let head = self.verifier()?.verify(&self.checkpoint).map_err(|error| error.to_string())?;
        if (head.size, hex::encode(head.root), &head.origin) != (self.size, self.root.clone(), &self.origin) {
            return Err("size, root or origin are not those of the signed checkpoint".into());
        }
        Ok(head)
    }

    /// Its segments, as a journal names them.
    pub(super) fn files(&self, dir: &Path) -> Vec<SegmentFile> {
        let file = |segment: &Segment| SegmentFile {
            path: dir.join(JOURNAL).join(&segment.file),
            name: format!("{:020}.segment", segment.first_sequence),
            bytes: Some(segment.bytes),
        };
        self.segments.iter().map(file).collect()
    }
}

/// The documents that a manifest lists, in order.
pub(super) fn documents(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<Vec<(Digest, u64)>> {
    let path = dir.join(&manifest.documents.file);
    let text = read_whole(disk, &path, u64::MAX)?;
    let damaged = |what: &str| BackupError::Damaged { path: path.clone(), what: what.to_owned() };
    if Digest::of(&text).to_string() != manifest.documents.sha256 {
        return Err(damaged("not the list that was written"));
    }
    let text = String::from_utf8(text).map_err(|_| damaged("not a list"))?;
    let line = |line: &str| {
        let (digest, bytes) = line.split_once(' ')?;
        Some((digest.parse().ok()?, bytes.parse().ok()?))
    };
    text.lines().map(line).collect::<Option<_>>().ok_or_else(|| damaged("not a list"))
}

/// The list of documents, as it is written.
pub(super) fn list(documents: &[(Digest, u64)]) -> String {
    documents.iter().map(|(digest, bytes)| format!("{digest} {bytes}\n")).collect()
}

pub(super) fn read_whole(disk: &dyn Disk, path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let read = || {
        let file = disk.open_read(path)?;
        let len = file.len()?;
        if len > bytes_max {
            return Err(std::io::Error::other(format!("{len} bytes, more than any such file has")));
        }
        let mut text = vec![0; len as usize];
        file.read_exact_at(0, &mut text)?;
        Ok(text)
    };
    read().map_err(doing(format!("read {}", path.display())))
}
