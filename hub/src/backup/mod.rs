//! Backups: a copy of what a hub is trusted with, on another disk, and a new
//! hub from it. A backup holds no key, and nothing that can be derived. Never
//! changes what it copies from, and never lets go of the last backup before
//! the next is whole.
//!
//! ```text
//! manifest.json                             what the backup is; replaced last
//! documents-<run>.list                      "<digest> <bytes>", a line each
//! journal/<first sequence>.<run>.segment    up to the bytes that the manifest says
//! vault/objects/<first two digits>/<digest>
//! lock                                      held by whoever writes or reads
//! ```
//!
//! A run copies what is new, reads it back, and puts its manifest in the
//! place of the last one; only then what the new one does not name is removed.
//! A segment that the hub has written anew, without cargo that was erased, is
//! copied anew under the run's number.

use std::{io, path::PathBuf};

mod closed;
mod manifest;
mod restore;
mod run;
mod verify;

pub use closed::{Closed, closed};
pub use manifest::{MANIFEST, Manifest};
pub use restore::{RestoreOptions, Restored, restore};
pub use run::{Head, Made, Source, run};
pub use verify::{Verified, verify};

use crate::journal::OpenError;

/// The format that this release writes; it reads no other.
pub const FORMAT: u32 = 1;

const JOURNAL: &str = "journal";
const VAULT: &str = "vault";

/// Why there is no backup, or no hub from it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A disk did not do as it was told.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// A journal's file is not as it was written.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// Something else is not as it was written.
    #[error("{}: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A later release made it.
    #[error("{}: format version {version}, this release reads {FORMAT}; use the release that made it", .path.display())]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// There is none.
    #[error("there is no backup in {}", .0.display())]
    Missing(PathBuf),
    /// What is there is not this hub's past.
    #[error("{} holds {what}; take another directory", .path.display())]
    Other {
        /// The directory.
        path: PathBuf,
        /// Whose backup it is.
        what: String,
    },
    /// The keys do not fit, or a hub is there already.
    #[error("{0}")]
    Refused(String),
}

type Result<T, E = BackupError> = std::result::Result<T, E>;

/// Names what was being done when a disk failed.
fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> BackupError {
    move |source| BackupError::Io { doing: what.into(), source }
}

/// How far something has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Bytes of the journal that were copied.
    Segments(u64),
    /// Documents that were looked at.
    Documents(u64),
    /// Records that were read back.
    Records(u64),
}

/// Told how far it has come.
pub type Progress<'a> = dyn FnMut(Step) + 'a;

#[cfg(test)]
mod tests;
