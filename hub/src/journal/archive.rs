//! Reads one journal file that was copied away. Never changes it.

use std::path::Path;

use bytes::Bytes;

use super::{
    Batch,
    format::{self, HEADER_BYTES},
    scan::{OpenError, header, read_whole},
};
use crate::disk::Disk;

/// Where a file begins and ends: record and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first record and batch.
    pub begins: (u64, u64),
    /// Those of the file after it.
    pub ends: (u64, u64),
    /// SHA-256 of the log's origin line.
    pub origin: [u8; 32],
}

/// Reads a file, showing each batch. One that was copied while it was written
/// to may end in a batch that is not whole: it is left out.
pub fn read_segment(disk: &dyn Disk, path: &Path, visit: &mut dyn FnMut(Batch)) -> Result<Span, OpenError> {
    let data = read_whole(disk, path, None)?;
    let header = header(path, &data)?;
    let begins = (header.first_sequence, header.first_batch);
    let ((mut sequence, mut number), mut at) = (begins, HEADER_BYTES);
    while data[at..].iter().any(|byte| *byte != 0) {
        match format::batch(&data[at..], &header.mark, number, sequence) {
            Ok(layout) => {
                let bytes = Bytes::copy_from_slice(&data[at..at + layout.len]);
                at += layout.len;
                (sequence, number) = (layout.commit.size, number + 1);
                visit(layout.into_batch(&bytes));
            }
            Err((_, format::Fault::Short(_))) => break,
            Err((bad, fault)) => {
                let (offset, what) = ((at + bad) as u64, fault.to_string());
                return Err(OpenError::Damaged { path: path.to_owned(), offset, what });
            }
        }
    }
    Ok(Span { begins, ends: (sequence, number), origin: header.origin })
}
