//! What follows from the journal: an ordered map of small keys and values,
//! derived by the machine and rebuilt from the journal whenever it is lost.
//! Knows nothing of what the keys mean.

mod changes;
mod draft;
mod fingerprint;
pub mod memory;
mod pairs;
mod pipe;
mod replay;
pub mod sled;
mod snapshot;

use std::ops::ControlFlow;

use axis_proto::id::Hasher;

pub use changes::Changes;
pub use draft::Draft;
pub use fingerprint::FORMAT_VERSION;
pub use replay::Replay;
pub use sled::{Found, Options, SledState, ahead, distrust, open};
pub use snapshot::Taken;

/// A key, not empty. Keys sort as bytes.
pub type Key = Vec<u8>;
/// A value, at most 4 KiB.
pub type Value = Vec<u8>;

/// What a scan calls with each key and its value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reads one moment of the state.
///
/// Reading cannot fail: a store that cannot read its own disk stops the
/// process, and the next start rebuilds it.
pub trait Read {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Option<Value>;

    /// Visits keys in order, from `start` (inclusive) to `end` (exclusive; an
    /// empty `end` means to the last key), until the visitor breaks.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>);
}

/// A derived store of the state. One writer; any number of readers.
pub trait State: Send + Sync {
    /// Calls `read` with one consistent moment of the state. Short, because
    /// the writer waits for it, and never inside another `read`, because a
    /// waiting writer goes before new readers.
    fn read(&self, read: &mut dyn FnMut(&dyn Read));

    /// Makes `changes` visible, which bring the state to the records before
    /// `applied` (a count of records). May wait while the store on disk is
    /// too far behind.
    fn publish(&self, changes: Changes, applied: u64);

    /// How many records the visible state contains.
    fn applied(&self) -> u64;
}

/// A derived store contains records that the journal does not. The journal
/// syncs first, so it has lost them, and somebody may have been shown them:
/// going on would give their sequences to other records.
#[derive(Debug, thiserror::Error)]
#[error(
    "{store} contains {applied} records and the journal only {records}: the journal has lost some. \
     Open a new log from this directory, or from a backup that holds more, with `axis-hub restore`"
)]
pub struct JournalLost {
    /// Which store.
    pub store: String,
    /// How many records it contains.
    pub applied: u64,
    /// How many the journal holds.
    pub records: u64,
}

/// Reads one moment of a state and returns what was found. Short, and never
/// inside another read.
pub fn read_once<T>(state: &dyn State, read: impl FnOnce(&dyn Read) -> T) -> T {
    let mut read = Some(read);
    let mut found = None;
    state.read(&mut |moment| {
        if let Some(read) = read.take() {
            found = Some(read(moment));
        }
    });
    found.expect("State::read calls its argument")
}

/// The first key after all keys with this prefix; empty, which [`Read::scan`]
/// takes for "to the last", if there is none.
pub fn prefix_end(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// What fuzz targets look at behind this module's doors; nothing else does.
#[doc(hidden)]
pub mod fuzzing {
    use std::{
        io,
        path::{Path, PathBuf},
        sync::Arc,
    };

    use super::{
        Key, Read, State, Value,
        fingerprint::{Fingerprint, Marker, Owner},
        read_once,
        snapshot::Snapshots,
    };
    use crate::{disk::Disk, machine};

    fn snapshots(disk: Arc<dyn Disk>, dir: &Path, origin: &str) -> Snapshots {
        Snapshots { disk, dir: dir.to_owned(), owner: Owner::new(origin, machine::LAYOUT_VERSION) }
    }

    /// Writes a state as a snapshot, and returns its file.
    pub fn take_snapshot(
        disk: Arc<dyn Disk>,
        dir: &Path,
        origin: &str,
        state: &dyn State,
    ) -> io::Result<PathBuf> {
        let snapshots = snapshots(disk, dir, origin);
        read_once(state, |read: &dyn Read| {
            let mut fingerprint = Fingerprint::default();
            read.scan(&[], &[], &mut |key, value| {
                fingerprint.add(key, value);
                std::ops::ControlFlow::Continue(())
            });
            let marker = Marker { owner: snapshots.owner, applied: state.applied(), fingerprint };
            let mut taking = snapshots.begin(&marker, 0)?;
            while !snapshots.step(&mut taking, read, 64)? {}
            let taken = snapshots.finish(taking)?;
            Ok(dir.join(format!("{:020}.snapshot", taken.applied)))
        })
    }

    /// All of a state.
    pub type Pairs = Vec<(Key, Value)>;

    /// How many records the newest good snapshot contains, and its pairs.
    pub fn newest_snapshot(
        disk: Arc<dyn Disk>,
        dir: &Path,
        origin: &str,
    ) -> io::Result<Option<(u64, Pairs)>> {
        let Some(snapshot) = snapshots(disk, dir, origin).newest()? else { return Ok(None) };
        let mut pairs = Vec::new();
        snapshot.load(|key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(Some((snapshot.marker.applied, pairs)))
    }
}

/// SHA-256 over all keys and values in order: equal for equal states, whatever
/// holds them.
pub fn digest(read: &dyn Read) -> [u8; 32] {
    let mut hasher = Hasher::new();
    read.scan(&[], &[], &mut |key, value| {
        hash_pair(&mut hasher, key, value);
        ControlFlow::Continue(())
    });
    *hasher.digest().as_bytes()
}

/// Hashes a key and its value so that no other pair gives the same bytes.
fn hash_pair(hasher: &mut Hasher, key: &[u8], value: &[u8]) {
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(&(value.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
}

#[cfg(test)]
mod tests;
