//! The state in memory: the tests' oracle, and what fsck rebuilds into.
//! Forgets everything at the end of the process, but for the snapshots that it
//! is told to take.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    Changes, Key, Read, Replay, State, Taken, Value, Visit, changes,
    fingerprint::{Fingerprint, Marker, Owner},
    read_once,
    replay::catch_up,
    snapshot::Snapshots,
};
use crate::{disk::Disk, journal::JournalReader};

/// A state that is one map.
#[derive(Debug, Default)]
pub struct MemoryState(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    map: BTreeMap<Key, Value>,
    applied: u64,
}

impl MemoryState {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The snapshots of a state in memory: the same files as those of a state on
/// disk.
#[derive(Debug, Clone)]
pub struct MemorySnapshots(Snapshots);

impl MemorySnapshots {
    /// The snapshots in a directory, of the log with this origin.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, origin: &str, layout_version: u32) -> Self {
        Self(Snapshots { disk, dir: dir.to_owned(), owner: Owner::new(origin, layout_version) })
    }

    /// Opens the state that follows from the newest good snapshot and the
    /// journal behind it, by the same rules as a state on disk.
    pub fn open(&self, journal: &dyn JournalReader, replay: &impl Replay) -> io::Result<MemoryState> {
        let records = journal.size();
        self.0.disk.create_dir(&self.0.dir)?;
        if let Some(lost) = self.0.ahead(records)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, lost));
        }
        let snapshot = self.0.newest()?;
        self.0.tidy(records)?;
        let state = MemoryState::new();
        if let Some(snapshot) = snapshot {
            let mut changes = Changes::new();
            snapshot.load(|key, value| {
                changes.insert(key.to_vec(), Some(value.to_vec()));
                Ok(())
            })?;
            state.publish(changes, snapshot.marker.applied);
        }
        catch_up(&state, journal, replay)?;
        Ok(state)
    }

    /// Writes a snapshot of the state as it is now.
    pub fn take(&self, state: &MemoryState) -> io::Result<Taken> {
        let applied = state.applied();
        read_once(state, |read| {
            let mut fingerprint = Fingerprint::default();
            read.scan(&[], &[], &mut |key, value| {
                fingerprint.add(key, value);
                ControlFlow::Continue(())
            });
            let marker = Marker { owner: self.0.owner, applied, fingerprint };
            let mut taking = self.0.begin(&marker, 0)?;
            while !self.0.step(&mut taking, read, usize::MAX)? {}
            self.0.finish(taking)
        })
    }
}

impl State for MemoryState {
    fn read(&self, read: &mut dyn FnMut(&dyn Read)) {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner).map);
    }

    fn publish(&self, changes: Changes, applied: u64) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        assert!(applied >= inner.applied, "the state never goes back");
        inner.applied = applied;
        for (key, change) in changes {
            match change {
                Some(value) => inner.map.insert(key, value),
                None => inner.map.remove(&key),
            };
        }
    }

    fn applied(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).applied
    }
}

impl Read for BTreeMap<Key, Value> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        BTreeMap::get(self, key).cloned()
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        for (key, value) in changes::range(self, start, end) {
            if visit(key, value).is_break() {
                return;
            }
        }
    }
}
