//! Copies a segment up to a record while the hub goes on writing behind it.
//! Looks at nothing beyond that record, and copies no batch unverified.

use std::{io, path::Path, sync::Arc};

use super::{
    OpenError, SegmentFile,
    format::{HEADER_BYTES, Header},
    reader::Window,
    scan::{self, Point},
};
use crate::disk::{Disk, DiskFile};

/// Bytes compared at a copy's end: more than any commit frame. A segment that
/// was written anew without some cargo is shorter, so that its commits stand
/// elsewhere.
const TAIL_BYTES: u64 = 4096;

/// How much of a segment is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Its first record.
    pub first_sequence: u64,
    /// The record behind the last one copied.
    pub until: u64,
    /// Batches copied.
    pub batches: u64,
    /// Bytes of the copy: header and whole batches.
    pub bytes: u64,
}

/// The segments of a journal's directory that hold records before `size`, in
/// order, each with its first sequence.
pub fn segments_before(disk: &dyn Disk, dir: &Path, size: u64) -> Result<Vec<(u64, SegmentFile)>, OpenError> {
    let mut segments = Vec::new();
    for name in scan::names(disk, dir)? {
        let path = dir.join(&name);
        let stem = name.split('.').next().unwrap_or_default();
        let Ok(first_sequence) = stem.parse() else {
            return Err(OpenError::Damaged { path, offset: 0, what: "not a segment's name".into() });
        };
        if first_sequence < size {
            segments.push((first_sequence, SegmentFile { path, name, bytes: None }));
        }
    }
    Ok(segments)
}

/// Whether a copy is still the beginning of its segment.
pub fn is_beginning(segment: &dyn DiskFile, copy: &dyn DiskFile, copied: &Copied) -> io::Result<bool> {
    let tail = copied.bytes.saturating_sub(TAIL_BYTES);
    let ranges = [(0, HEADER_BYTES as u64), (tail, copied.bytes)];
    if segment.len()? < copied.bytes || copy.len()? < copied.bytes {
        return Ok(false);
    }
    for (from, to) in ranges {
        let [mut one, mut other] = [vec![0; (to - from) as usize], vec![0; (to - from) as usize]];
        segment.read_exact_at(from, &mut one)?;
        copy.read_exact_at(from, &mut other)?;
        if one != other {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a segment up to the record `until`, behind what is copied already.
pub fn copy(
    path: &Path,
    segment: Arc<dyn DiskFile>,
    to: &dyn DiskFile,
    already: Option<Copied>,
    until: u64,
) -> Result<Copied, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let len = segment.len().map_err(io)?;
    let mut block = vec![0; HEADER_BYTES.min(len as usize)];
    segment.read_exact_at(0, &mut block).map_err(io)?;
    let header: Header = scan::header(path, &block)?;
    let mut copied = match already {
        Some(copied) => copied,
        None => {
            to.write_at(0, &block).map_err(io)?;
            let first_sequence = header.first_sequence;
            Copied { first_sequence, until: first_sequence, batches: 0, bytes: HEADER_BYTES as u64 }
        }
    };
    let mut window = Window::new(segment, len);
    let mut point = Point {
        sequence: copied.until,
        batch: header.first_batch + copied.batches,
        segment: 0,
        offset: copied.bytes,
    };
    while point.sequence < until {
        let at = point.offset;
        let (layout, bytes) = window.raw(&mut point, &header.mark).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                OpenError::Damaged { path: path.to_owned(), offset: at, what: error.to_string() }
            }
            _ => io(error),
        })?;
        to.write_at(at, &bytes).map_err(io)?;
        copied.until = layout.commit.size;
        copied.batches += 1;
        copied.bytes = at + bytes.len() as u64;
    }
    if copied.until != until {
        let what = format!("a batch ends with record {} where {until} was expected", copied.until);
        return Err(OpenError::Damaged { path: path.to_owned(), offset: copied.bytes, what });
    }
    Ok(copied)
}
