//! Snapshots: the whole state at one moment in a file of its own, so that a
//! rebuild replays only the journal's tail. Never used before its SHA-256
//! agrees, and never trusted beyond that: the journal can always do without.
//!
//! `snapshots/<records, 20 digits>.snapshot`; the newest two are kept.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

use super::{
    Changes, JournalLost, Key, Read,
    draft::Overlay,
    fingerprint::{Fingerprint, MARKER_BYTES, Marker, Owner},
    pairs::{self, Pairs, Writer},
};
use crate::{
    disk::{Disk, DiskFile},
    limits,
};

const MAGIC: pairs::Magic = *b"axissnap";
const SUFFIX: &str = ".snapshot";
const PARTIAL: &str = ".partial";
/// How many are kept: the last and, if that one is damaged, the one before.
const KEPT: usize = 2;

/// A snapshot that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many records it contains; the last one's sequence is one less.
    pub applied: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// How many keys it holds.
    pub key_count: u64,
}

/// Where the snapshots of one state are.
#[derive(Debug, Clone)]
pub(super) struct Snapshots {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) owner: Owner,
}

/// A snapshot that may be loaded.
pub(super) struct Snapshot {
    pub(super) marker: Marker,
    pairs: Pairs,
}

/// A snapshot that is being written, a part at a time, while the state moves
/// on: what is about to change ahead of it is kept as it was.
pub(super) struct Taking {
    marker: Marker,
    partial: PathBuf,
    writer: Writer,
    written: Fingerprint,
    /// The first key that is not written yet.
    next: Key,
    /// What keys from `next` on were when the snapshot began.
    kept: Changes,
}

impl Taking {
    /// A key is about to change, or was before this snapshot is all written.
    pub(super) fn keep(&mut self, key: &[u8], was: Option<&[u8]>) {
        if key >= self.next.as_slice() && self.kept.get(key).is_none() {
            self.kept.insert(key.to_vec(), was.map(<[u8]>::to_vec));
        }
    }

    /// Writes at most `keys` more. Returns whether all is written.
    fn step(&mut self, read: &dyn Read, keys: usize) -> io::Result<bool> {
        let (mut left, mut next) = (keys, None);
        let mut outcome = Ok(());
        Overlay { changes: &self.kept, base: read }.scan(&self.next, &[], &mut |key, value| {
            if left == 0 {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            left -= 1;
            self.written.add(key, value);
            outcome = self.writer.pair(key, Some(value));
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        outcome?;
        let Some(next) = next else { return Ok(true) };
        self.kept.forget_before(&next);
        self.next = next;
        Ok(false)
    }
}

impl Snapshots {
    /// Begins to write the state that the marker describes. An error of kind
    /// `StorageFull` if `room` bytes would leave the disk nearly full.
    pub(super) fn begin(&self, marker: &Marker, room: u64) -> io::Result<Taking> {
        self.disk.create_dir(&self.dir)?;
        let partial = self.dir.join(format!("{:020}{SUFFIX}{PARTIAL}", marker.applied));
        if self.disk.exists(&partial)? {
            self.disk.remove(&partial)?;
        }
        let free = self.disk.space(&self.dir)?.free_bytes;
        if free < room.saturating_add(limits::DISK_LOW_SNAPSHOT_BYTES) {
            let words = format!("{free} bytes are free, and it may take {room}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, words));
        }
        let writer = Writer::new(self.disk.create(&partial)?, MAGIC, &marker.encode());
        Ok(Taking {
            marker: *marker,
            partial,
            writer,
            written: Fingerprint::default(),
            next: Key::new(),
            kept: Changes::new(),
        })
    }

    /// Gives a snapshot that is all written its name, and removes those that
    /// are no longer kept. An error of kind `InvalidData` if the state was not
    /// what its marker said.
    pub(super) fn finish(&self, taking: Taking) -> io::Result<Taken> {
        let partial = taking.partial.clone();
        self.name(taking).inspect_err(|_| self.give_up(&partial))
    }

    /// Goes on with a snapshot; see [`Taking::step`]. What was written of one
    /// that fails is gone.
    pub(super) fn step(&self, taking: &mut Taking, read: &dyn Read, keys: usize) -> io::Result<bool> {
        taking.step(read, keys).inspect_err(|_| self.give_up(&taking.partial))
    }

    /// Leaves no part of a snapshot on a disk that may be full.
    fn give_up(&self, partial: &Path) {
        if self.disk.exists(partial).unwrap_or(false) {
            // if not even this can be done, the next start does it
            let _left_behind = self.disk.remove(partial);
        }
    }

    fn name(&self, taking: Taking) -> io::Result<Taken> {
        if taking.written != taking.marker.fingerprint {
            return Err(pairs::damaged("the state is not what its marker says"));
        }
        let sha256 = taking.writer.finish()?;
        // A crash before the rename leaves a partial file, which the next
        // start removes; after it, a whole snapshot.
        let applied = taking.marker.applied;
        self.disk.rename(&taking.partial, &self.dir.join(format!("{applied:020}{SUFFIX}")))?;
        self.disk.sync_dir(&self.dir)?;
        for (_, old) in self.list()?.into_iter().rev().skip(KEPT) {
            self.disk.remove(&old)?;
        }
        Ok(Taken { applied, sha256, key_count: taking.written.keys })
    }

    /// A whole header of this hub with more than `records`: a snapshot is
    /// taken of what the journal has synced, so the journal has lost some.
    pub(super) fn ahead(&self, records: u64) -> io::Result<Option<JournalLost>> {
        for (_, path) in self.list()?.into_iter().rev() {
            let Ok(marker) = self.disk.open_read(&path).and_then(|file| read_marker(&*file)) else {
                continue;
            };
            if marker.owner == self.owner && marker.applied > records {
                let store = format!("snapshot {}", path.display());
                return Ok(Some(JournalLost { store, applied: marker.applied, records }));
            }
        }
        Ok(None)
    }

    /// Removes what a crash left half written, and what says by its name alone
    /// that it contains more than `records`, which [`Self::ahead`] has looked
    /// at. Returns how many records the newest that is left contains, by its
    /// name.
    pub(super) fn tidy(&self, records: u64) -> io::Result<u64> {
        for name in self.disk.list(&self.dir)? {
            if name.ends_with(PARTIAL) {
                self.disk.remove(&self.dir.join(name))?;
            }
        }
        let mut newest = 0;
        for (applied, path) in self.list()? {
            if applied > records {
                warn!(path = %path.display(), records, "removing a snapshot that is of no use: its name is newer than the journal");
                self.disk.remove(&path)?;
            } else {
                newest = applied;
            }
        }
        Ok(newest)
    }

    /// The newest good snapshot. Removes those that are not.
    pub(super) fn newest(&self) -> io::Result<Option<Snapshot>> {
        for (applied, path) in self.list()?.into_iter().rev() {
            match self.open(&path, applied) {
                Ok(snapshot) => {
                    info!(path = %path.display(), applied, "using a snapshot");
                    return Ok(Some(snapshot));
                }
                Err(error) => {
                    warn!(path = %path.display(), %error, "removing a snapshot that is of no use");
                    self.disk.remove(&path)?;
                }
            }
        }
        Ok(None)
    }

    fn open(&self, path: &Path, applied: u64) -> io::Result<Snapshot> {
        let pairs = Pairs::open(self.disk.open_read(path)?, MAGIC)?;
        let marker = pairs
            .header
            .get(..MARKER_BYTES)
            .and_then(Marker::decode)
            .ok_or_else(|| pairs::damaged("no readable header"))?;
        if marker.owner != self.owner {
            return Err(pairs::damaged("another hub's, or another layout"));
        }
        if marker.applied != applied {
            return Err(pairs::damaged("another snapshot's name"));
        }
        Ok(Snapshot { marker, pairs })
    }

    /// Snapshots by the number of records they contain, oldest first.
    fn list(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found: Vec<_> = self
            .disk
            .list(&self.dir)?
            .into_iter()
            .filter_map(|name| Some((name.strip_suffix(SUFFIX)?.parse().ok()?, self.dir.join(&name))))
            .collect();
        found.sort();
        Ok(found)
    }
}

impl Snapshot {
    /// Visits all pairs in order. An error of kind `InvalidData` if they are
    /// not those that the header describes.
    pub(super) fn load(&self, mut put: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut fingerprint = Fingerprint::default();
        self.pairs.visit(&mut |key, value| {
            let value = value.ok_or_else(|| pairs::damaged("a deletion in a snapshot"))?;
            fingerprint.add(key, value);
            put(key, value)
        })?;
        if fingerprint != self.marker.fingerprint {
            return Err(pairs::damaged("the pairs are not those of the header"));
        }
        Ok(())
    }
}

/// The marker at a snapshot's beginning; it has a checksum of its own.
fn read_marker(file: &dyn DiskFile) -> io::Result<Marker> {
    let header = pairs::header(file, MAGIC, MARKER_BYTES)?;
    Marker::decode(&header).ok_or_else(|| pairs::damaged("no readable header"))
}
