//! What makes many writes to sled one step: all of them are first in a file,
//! with the marker before and the marker after. A store that still has the
//! marker before is brought to the one after by writing them again.
//!
//! Why not sled's own `Batch`: it holds a lock over all readers of the process
//! for 10 µs a key.

use std::{io, path::Path};

use super::store::Store;
use crate::{
    disk::{Disk as _, RealDisk},
    state::{
        fingerprint::{MARKER_BYTES, Marker},
        pairs::{self, Pairs, Writer},
    },
};

/// Its name in the state's directory.
pub(super) const FILE: &str = "redo";
const MAGIC: pairs::Magic = *b"axisredo";

/// Changes that the store does not have yet: what it has now, and what it
/// must have.
pub(super) type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// Writes the file, in place: before this returns nothing of the changes is
/// in the store, and all of the previous file's are.
pub(super) fn save(dir: &Path, before: &Marker, after: &Marker, changes: &[Change<'_>]) -> io::Result<()> {
    let path = dir.join(FILE);
    let file = if RealDisk.exists(&path)? { RealDisk.open(&path)? } else { RealDisk.create(&path)? };
    let mut writer = Writer::new(file, MAGIC, &[before.encode(), after.encode()].concat());
    for (key, value) in changes {
        writer.pair(key, *value)?;
    }
    writer.finish().map(drop)
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
    changes.visit(&mut |key, value| store.write(key, value).map(drop))?;
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
    let (before, after) = pairs.header.split_at_checked(MARKER_BYTES)?;
    let (before, after) = (Marker::decode(before)?, Marker::decode(after)?);
    Some((before, after, pairs))
}
