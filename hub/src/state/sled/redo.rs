//! What makes many writes to sled one step: all of them are first in a file,
//! with the marker before in its header and the marker after at its end. A
//! store that still has the marker before is brought to the one after by
//! writing them again. Blocks, not pairs: they can be written twice.
//!
//! Why not sled's own `Batch`: it holds a lock over all readers of the process
//! for 10 µs a key.

use std::{io, path::Path};

use super::store::{MARKER_KEY, Store};
use crate::{
    disk::{Disk as _, RealDisk},
    state::{
        fingerprint::Marker,
        pairs::{self, Pairs, Writer},
    },
};

/// Its name in the state's directory.
pub(super) const FILE: &str = "redo";
const MAGIC: pairs::Magic = *b"axisredo";

/// The file while it is written, in place: before [`Redo::finish`] returns
/// nothing of the changes is in the store, and all of the previous file's are.
pub(super) struct Redo(io::Result<Writer>);

impl Redo {
    /// Begins it over the previous one.
    pub(super) fn begin(dir: &Path, before: &Marker) -> Self {
        let path = dir.join(FILE);
        let file = || if RealDisk.exists(&path)? { RealDisk.open(&path) } else { RealDisk.create(&path) };
        Self(file().map(|file| Writer::new(file, MAGIC, &before.encode())))
    }

    /// Adds what becomes of a block. Whether it could be written,
    /// [`Redo::finish`] says.
    pub(super) fn block(&mut self, name: &[u8], block: Option<&[u8]>) {
        if let Ok(writer) = &mut self.0
            && let Err(error) = writer.pair(name, block)
        {
            self.0 = Err(error);
        }
    }

    /// Makes it whole and durable.
    pub(super) fn finish(self, after: &Marker) -> io::Result<()> {
        let mut writer = self.0?;
        writer.pair(MARKER_KEY, Some(&after.encode()))?;
        writer.finish().map(drop)
    }
}

/// Completes what the file describes, if the store stands before it. Returns
/// the marker that the store has now, and whether the file is of the last
/// write, so that no other can be half written.
pub(super) fn complete(dir: &Path, store: &Store, marker: Marker) -> io::Result<(Marker, bool)> {
    let Some((before, after, changes)) = load(dir) else { return Ok((marker, false)) };
    if before != marker || after == marker {
        return Ok((marker, after == marker));
    }
    tracing::info!(from = before.applied, to = after.applied, "completing a write of the state");
    changes.visit(&mut |name, block| if name == MARKER_KEY { Ok(()) } else { store.write(name, block) })?;
    store.finish(&after)?;
    Ok((after, true))
}

/// What the store contains after the last write that was begun, as the whole
/// file says.
pub(super) fn after(dir: &Path) -> Option<Marker> {
    load(dir).map(|(_, after, _)| after)
}

/// `None` if there is no whole file: then the store was not touched after the
/// previous one, or the fingerprint will tell.
fn load(dir: &Path) -> Option<(Marker, Marker, Pairs)> {
    let pairs = Pairs::open(RealDisk.open_read(&dir.join(FILE)).ok()?, MAGIC).ok()?;
    let before = Marker::decode(&pairs.header)?;
    let mut after = None;
    let read = pairs.visit(&mut |name, block| {
        if name == MARKER_KEY {
            after = block.and_then(Marker::decode);
        }
        Ok(())
    });
    read.ok().and(after).map(|after| (before, after, pairs))
}
