//! The end of a hub that does not run. What can be read of its journal need
//! not be durable: opening settles it, or the power could go, the hub sign
//! other records, and the backup hold a second history.

use std::{path::Path, sync::Arc};

use super::Result;
use crate::{
    disk::Disk,
    hub,
    journal::{self, Commit, Journal as _, Log, SegmentJournal},
};

/// A journal that is closed, and durable up to its last batch.
#[derive(Debug)]
pub struct Closed {
    /// The end of its last batch; `None` if there is none.
    pub last: Option<Commit>,
    /// The logs that it holds.
    pub logs: Vec<Log>,
}

/// Settles the journal of a hub that does not run, as starting would, and
/// reads its end. The caller holds the lock of the data directory, and keeps
/// it until the backup is made.
///
/// # Errors
/// If the journal is damaged, or cannot be made durable.
pub fn closed(disk: &Arc<dyn Disk>, data: &Path) -> Result<Closed> {
    let dir = data.join(hub::JOURNAL);
    let journal = SegmentJournal::open(Arc::clone(disk), &dir)?;
    let logs = journal::logs(&**disk, &dir)?;
    Ok(Closed { last: journal.last_commit().cloned(), logs })
}
