//! The stores that say in a file of their own which version of their format
//! they have: those under `data/` but the journal, which does in the header of
//! each segment. Opens none of them.

use std::{io, path::Path};

use crate::{
    disk::{
        Disk, RealDisk,
        version::{self, Formats},
    },
    evidence::tree,
    machine, state, vault,
};

const STATE: &Formats = &[("state", state::FORMAT_VERSION), ("layout", machine::LAYOUT_VERSION)];
const SNAPSHOTS: &Formats = &[("snapshots", state::FORMAT_VERSION), ("layout", machine::LAYOUT_VERSION)];
const TREE: &Formats = &[("tree", tree::FORMAT_VERSION)];
const VAULT: &Formats = &[("upload marks", vault::MARK_VERSION)];

/// An error with a [`version::Newer`] inside if a later release wrote one of
/// them. Only reads.
pub fn check(disk: &dyn Disk, data: &Path) -> io::Result<()> {
    each(disk, data, version::check)
}

/// Says of each that it is of this release from here on.
pub fn mark(disk: &dyn Disk, data: &Path) -> io::Result<()> {
    each(disk, data, version::mark)
}

type Look = fn(&dyn Disk, &Path, &Formats) -> io::Result<()>;

fn each(disk: &dyn Disk, data: &Path, look: Look) -> io::Result<()> {
    // sled does its own I/O
    look(&RealDisk, &data.join("state"), STATE)?;
    for (store, formats) in [("snapshots", SNAPSHOTS), ("tree", TREE), ("vault", VAULT)] {
        look(disk, &data.join(store), formats)?;
    }
    Ok(())
}
