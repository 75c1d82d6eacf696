//! The logs that one journal holds: the first, and one more for each time that
//! it was restored from a backup. Verifies that each continues the one before;
//! never trusts a key.

use std::path::Path;

use axis_proto::{
    id::Digest,
    record::v1::{CargoKind, LogOpened, Record, record::Event},
};
use prost::Message as _;

use super::{
    Commit, Entry, OpenError,
    format::{self, HEADER_BYTES, Header},
    reader::Window,
    scan::{self, Point},
};
use crate::{disk::Disk, limits};

/// One log of a journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Its first record's sequence.
    pub first_sequence: u64,
    /// That record's event.
    pub opened: LogOpened,
    /// The signed word that it continues the log before it, a C2SP note.
    pub succession: Option<String>,
}

/// Whether a record opens the log of a segment and says that it continues the
/// log before it, at its last commit.
pub(super) fn succeeds(record: &[u8], header: &Header, previous: &[u8; 32], last: Option<&Commit>) -> bool {
    let Ok(record) = Record::decode(record) else { return false };
    let (Some(Event::LogOpened(opened)), Some(last)) = (record.event, last) else { return false };
    *Digest::of(opened.origin.as_bytes()).as_bytes() == header.origin
        && Digest::of(opened.previous_origin.as_bytes()).as_bytes() == previous
        && opened.previous_size == header.first_sequence
        && opened.previous_size == last.size
        && opened.previous_root == last.root[..]
}

/// The logs of the journal in a directory, the oldest first, from the segments
/// that begin one. Reads nothing else: opening the journal verifies it.
pub fn logs(disk: &dyn Disk, dir: &Path) -> Result<Vec<Log>, OpenError> {
    let mut logs = Vec::new();
    let mut origin = None;
    for name in scan::names(disk, dir)? {
        let path = dir.join(name);
        let io = |source| OpenError::Io { path: path.clone(), source };
        let damaged = |what: &str| OpenError::Damaged {
            path: path.clone(),
            offset: HEADER_BYTES as u64,
            what: what.to_owned(),
        };
        let file = disk.open_read(&path).map_err(io)?;
        let mut block = vec![0; HEADER_BYTES];
        file.read_exact_at(0, &mut block).map_err(io)?;
        let header = scan::header(&path, &block)?;
        if origin.replace(header.origin) == Some(header.origin) {
            continue;
        }
        if logs.len() == limits::LOGS_MAX {
            return Err(damaged("begins a log too many"));
        }
        let end = file.len().map_err(io)?;
        let mut point = Point {
            sequence: header.first_sequence,
            batch: header.first_batch,
            segment: 0,
            offset: format::HEADER_BYTES as u64,
        };
        let batch = Window::new(file, end).batch(&mut point, &header.mark).map_err(io)?;
        let log = batch.entries.first().and_then(log);
        logs.push(log.ok_or_else(|| damaged("begins a log without saying so"))?);
    }
    Ok(logs)
}

/// The log that an entry opens.
fn log(entry: &Entry) -> Option<Log> {
    let record = Record::decode(entry.record.clone()).ok()?;
    let note = record.cargo.iter().zip(&entry.cargo).find(|(named, _)| named.kind() == CargoKind::Succession);
    let succession = note.and_then(|(_, bytes)| String::from_utf8(bytes.to_vec()).ok());
    let Some(Event::LogOpened(opened)) = record.event else { return None };
    Some(Log { first_sequence: entry.sequence, opened, succession })
}
