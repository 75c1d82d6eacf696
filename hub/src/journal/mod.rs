//! The truth: an append-only, checksummed list of batches. Never decides
//! anything, and never changes what it holds, but for cargo that may go.

use std::{io, sync::Arc};

use bytes::Bytes;

pub mod archive;
pub mod copy;
pub mod erase;
mod format;
mod logs;
mod reader;
mod scan;
pub mod segments;
#[cfg(test)]
pub(crate) mod tests;

pub use erase::Eraser;
pub use format::VERSION as FORMAT_VERSION;
pub use logs::{Log, logs};
pub use scan::{Incomplete, OpenError, SegmentFile};
pub use segments::SegmentJournal;

/// One record as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place; the first is 0.
    pub sequence: u64,
    /// Blinds its leaf.
    pub salt: [u8; 16],
    /// The exact bytes of an `axis.record.v1.Record`.
    pub record: Bytes,
    /// The bytes that the record's `cargo` names, in its order.
    pub cargo: Vec<Bytes>,
}

/// What ends a batch: the tree as it is after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Number of records in the journal.
    pub size: u64,
    /// Root of the tree over them.
    pub root: [u8; 32],
    /// The signed checkpoint, a C2SP note.
    pub checkpoint: String,
}

/// Records that became durable together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The records, in order, without gaps.
    pub entries: Vec<Entry>,
    /// Their end.
    pub commit: Commit,
}

/// Where records are appended. One writer at a time.
pub trait Journal: Send {
    /// Number of records.
    fn size(&self) -> u64;

    /// The end of the last batch; `None` only before the first.
    fn last_commit(&self) -> Option<&Commit>;

    /// Appends a batch whose first sequence is `size()`. Durable on return.
    /// After an error the caller must stop the process: nobody knows what
    /// the disk holds, and opening finds out.
    fn append(&mut self, batch: Batch) -> io::Result<Arc<Batch>>;

    /// Ends the last segment, if it holds anything, so that cargo can be
    /// erased from it. After an error as after one of `append`.
    fn roll(&mut self) -> io::Result<()>;

    /// Reads what was appended, from any thread.
    fn reader(&self) -> Arc<dyn JournalReader>;
}

/// Reads the journal beside its writer. Sees only durable batches.
pub trait JournalReader: Send + Sync {
    /// Number of durable records.
    fn size(&self) -> u64;

    /// The batch that holds a record, recent ones from memory; `None` beyond
    /// the end.
    fn batch_of(&self, sequence: u64) -> io::Result<Option<Arc<Batch>>>;

    /// As [`Self::batch_of`] for what was appended lately, without the disk;
    /// `None` if only the disk has it.
    fn recent(&self, sequence: u64) -> Option<Arc<Batch>> {
        let _ = sequence;
        None
    }

    /// Calls `visit` for each batch from the one that holds `sequence` on, in
    /// order, until it says stop or the end (as it was at the call) is
    /// reached.
    fn replay(
        &self,
        sequence: u64,
        visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<std::ops::ControlFlow<()>>,
    ) -> io::Result<()>;
}

impl Batch {
    /// The entry with this sequence, if it is in this batch.
    pub fn entry(&self, sequence: u64) -> Option<&Entry> {
        let first = self.entries.first()?.sequence;
        self.entries.get(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }
}

impl Entry {
    /// Bytes that it holds, record and cargo.
    pub fn bytes(&self) -> usize {
        self.record.len() + self.cargo.iter().map(Bytes::len).sum::<usize>()
    }
}
