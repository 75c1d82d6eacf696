//! The journal in segment files on one disk. Never answers before a batch is
//! durable, and never goes on after a write that failed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_proto::id::Digest;

use super::{
    Batch, Commit, Eraser, Journal, JournalReader,
    format::{self, HEADER_BYTES, Header, Mark},
    reader::Shared,
    scan::{self, Incomplete, Index, OpenError, Point, Scanned, Segment, SegmentFile},
};
use crate::{
    disk::{self, Disk, DiskFile, with_suffix},
    limits,
};

/// What a segment that is not ready yet is called, behind its name.
pub(super) const UNREADY: &str = ".new";
/// What the remains of a batch that was cut are called, behind their segment's
/// name and before the batch's number.
const CUT: &str = ".cut-";
/// Bytes of the encoding buffer that are kept from batch to batch.
const BUFFER_BYTES_KEPT: usize = 8 * 1024 * 1024;

/// How segments are laid out; tests use smaller ones.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of zeros ahead of the end.
    pub ahead_bytes: u64,
    /// Makes the segments' marks follow from a number, for tests that must
    /// give the same bytes again; `None`: nobody can foresee them.
    pub mark_seed: Option<u64>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES,
            ahead_bytes: limits::SEGMENT_AHEAD_BYTES,
            mark_seed: None,
        }
    }
}

/// A journal in a directory of segment files.
#[derive(Debug)]
pub struct SegmentJournal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    layout: Layout,
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    origin: [u8; 32],
    mark: Mark,
    /// Where the next batch belongs.
    next: Point,
    /// Up to where the segment is written, with zeros or frames.
    allocated: u64,
    last: Option<Commit>,
    incomplete: Option<Incomplete>,
    /// Set by the first failure; nothing is appended afterwards.
    poisoned: bool,
    buffer: Vec<u8>,
}

/// What a journal holds, after every byte of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its files.
    pub segments: usize,
    /// Its batches.
    pub batches: u64,
    /// Its records.
    pub records: u64,
    /// Bytes of its headers and frames.
    pub bytes: u64,
    /// SHA-256 of the origin line of its last log.
    pub origin: [u8; 32],
    /// The end of its last batch.
    pub last_commit: Option<Commit>,
    /// A last batch that was never finished; opening will cut it.
    pub incomplete: Option<Incomplete>,
}

impl SegmentJournal {
    /// Makes the journal of a new log in a directory that has none.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, origin: &str) -> io::Result<Self> {
        Self::create_with(disk, dir, origin, Layout::default())
    }

    /// As [`Self::create`], laid out otherwise.
    pub fn create_with(disk: Arc<dyn Disk>, dir: &Path, origin: &str, layout: Layout) -> io::Result<Self> {
        disk.create_dir(dir)?;
        if !scan::names(&*disk, dir).map_err(io::Error::other)?.is_empty() {
            let words = format!("there is a journal in {} already", dir.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, words));
        }
        remove_unready(&*disk, dir)?;
        let origin = *Digest::of(origin.as_bytes()).as_bytes();
        let start = Point { sequence: 0, batch: 0, segment: 0, offset: HEADER_BYTES as u64 };
        let (segment, file, allocated) = new_segment(&*disk, dir, origin, start, layout)?;
        let mark = segment.header.mark;
        let scanned = Scanned {
            segments: vec![segment],
            index: Index::default(),
            next: start,
            last_batch: start,
            last: None,
            incomplete: None,
        };
        Ok(Self {
            shared: Arc::new(Shared::new(Arc::clone(&disk), scanned)),
            disk,
            dir: dir.to_owned(),
            layout,
            file,
            origin,
            mark,
            next: start,
            allocated,
            last: None,
            incomplete: None,
            poisoned: false,
            buffer: Vec::new(),
        })
    }

    /// Opens a journal after verifying all of it. A last batch that a crash
    /// left unfinished was never answered; it is cut off. Anything else that
    /// is wrong is an error.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, OpenError> {
        Self::open_with(disk, dir, Layout::default())
    }

    /// As [`Self::open`], laid out otherwise from here on.
    pub fn open_with(disk: Arc<dyn Disk>, dir: &Path, layout: Layout) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: dir.to_owned(), source };
        let mut scanned = scan::scan(&*disk, dir, &mut |_| {})?;
        remove_unready(&*disk, dir).map_err(io)?;
        let (next, last, incomplete) = (scanned.next, scanned.last.take(), scanned.incomplete.take());
        let Some(segment) = scanned.segments.last() else {
            return Err(OpenError::Missing { path: dir.to_owned(), what: "no segment".into() });
        };
        let io = |source| OpenError::Io { path: segment.path.clone(), source };
        let file = disk.open(&segment.path).map_err(io)?;
        let mut allocated = file.len().map_err(io)?;
        if let Some(cut) = &incomplete {
            tracing::warn!(
                file = %cut.path.display(), offset = cut.offset, bytes = cut.bytes, batch = cut.batch,
                "cut a batch that a crash had left unfinished"
            );
            keep_cut(&*disk, dir, &*file, cut).map_err(io)?;
            // a crash here, or before the sync, leaves a part of what is cut:
            // the next open cuts it again
            file.set_len(cut.offset).map_err(io)?;
            allocated = cut.offset;
        }
        settle(&*file, &scanned, last.as_ref()).map_err(io)?;
        disk.sync_dir(dir).map_err(io)?;
        let (origin, mark) = (segment.header.origin, segment.header.mark);
        Ok(Self {
            shared: Arc::new(Shared::new(Arc::clone(&disk), scanned)),
            disk,
            dir: dir.to_owned(),
            layout,
            file,
            origin,
            mark,
            next,
            allocated,
            last,
            incomplete,
            poisoned: false,
            buffer: Vec::new(),
        })
    }

    /// SHA-256 of the origin line of the log that this is the journal of.
    pub fn origin_sha256(&self) -> [u8; 32] {
        self.origin
    }

    /// Erases cargo from segments that are not written to any more.
    pub fn eraser(&self) -> Eraser {
        Eraser::new(Arc::clone(&self.shared))
    }

    /// The batch that opening cut off, if there was one.
    pub fn incomplete(&self) -> Option<&Incomplete> {
        self.incomplete.as_ref()
    }

    /// Begins another log, in a segment of its own: the next batch's first
    /// record must be the `LogOpened` that says that it continues this one.
    /// Until that is appended, the journal cannot be opened again.
    pub fn begin_log(&mut self, origin: &str) -> io::Result<()> {
        if self.last.is_none() || self.poisoned {
            return Err(io::Error::other("a log that holds nothing cannot be continued"));
        }
        self.origin = *Digest::of(origin.as_bytes()).as_bytes();
        self.roll()
    }

    fn check(&self, batch: &Batch) -> io::Result<()> {
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let size = self.next.sequence + batch.entries.len() as u64;
        if batch.entries.is_empty() || batch.commit.size != size {
            return invalid(format!("a batch to size {} that should be {size}", batch.commit.size));
        }
        for (entry, sequence) in batch.entries.iter().zip(self.next.sequence..) {
            if entry.sequence != sequence {
                return invalid(format!("sequence {} where {sequence} belongs", entry.sequence));
            }
            if entry.record.len() > limits::RECORD_BYTES_MAX {
                return invalid(format!("record {sequence} of {} bytes", entry.record.len()));
            }
        }
        let bytes = format::encoded_bytes(batch) as u64;
        if HEADER_BYTES as u64 + bytes > self.layout.segment_bytes {
            return invalid(format!("a batch of {bytes} bytes does not fit a segment"));
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> io::Result<u64> {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        let len = format::encoded_bytes(batch) as u64;
        if self.next.offset + len > self.layout.segment_bytes {
            self.roll()?;
        }
        format::encode_batch(&mut self.buffer, self.next.batch, &self.mark, batch);
        let end = self.next.offset + len;
        if end > self.allocated {
            // zeros first: wherever a crash stops us, what is not ours is zero
            let ahead = (end + self.layout.ahead_bytes).min(self.layout.segment_bytes);
            self.file.allocate(self.allocated, ahead)?;
            self.allocated = ahead;
        }
        self.file.write_at(self.next.offset, &self.buffer)?;
        // a crash before this line: the batch was not answered, and opening
        // finds it whole, cuts it, or finds nothing. Behind it: it stays.
        self.file.sync_data()?;
        Ok(len)
    }

    fn roll(&mut self) -> io::Result<()> {
        let start = Point { segment: self.next.segment + 1, offset: HEADER_BYTES as u64, ..self.next };
        let (segment, file, allocated) =
            new_segment(&*self.disk, &self.dir, self.origin, start, self.layout)?;
        (self.file, self.allocated, self.mark, self.next) = (file, allocated, segment.header.mark, start);
        self.shared.rolled(segment);
        Ok(())
    }
}

impl Journal for SegmentJournal {
    fn size(&self) -> u64 {
        self.next.sequence
    }

    fn last_commit(&self) -> Option<&Commit> {
        self.last.as_ref()
    }

    fn append(&mut self, batch: Batch) -> io::Result<Arc<Batch>> {
        if self.poisoned {
            return Err(io::Error::other("the journal stopped at an earlier failure"));
        }
        self.check(&batch)?;
        let len = match self.write(&batch) {
            Ok(len) => len,
            Err(error) => {
                self.poisoned = true;
                return Err(error);
            }
        };
        let batch = Arc::new(batch);
        self.next.sequence = batch.commit.size;
        self.next.batch += 1;
        self.next.offset += len;
        self.last = Some(batch.commit.clone());
        self.shared.appended(Arc::clone(&batch), len);
        Ok(batch)
    }

    fn roll(&mut self) -> io::Result<()> {
        if self.poisoned {
            return Err(io::Error::other("the journal stopped at an earlier failure"));
        }
        if self.next.offset == HEADER_BYTES as u64 {
            return Ok(());
        }
        SegmentJournal::roll(self).inspect_err(|_| self.poisoned = true)
    }

    fn reader(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.shared) as Arc<dyn JournalReader>
    }
}

/// Reads a closed journal without changing it, up to its last whole batch.
pub fn open_read_only(disk: Arc<dyn Disk>, dir: &Path) -> Result<Arc<dyn JournalReader>, OpenError> {
    let scanned = scan::scan(&*disk, dir, &mut |_| {})?;
    Ok(Arc::new(Shared::new(disk, scanned)))
}

/// Verifies every byte of a closed journal without changing it, showing each
/// batch to `visit` in order.
pub fn verify(disk: &dyn Disk, dir: &Path, visit: &mut dyn FnMut(Batch)) -> Result<Report, OpenError> {
    scan::scan(disk, dir, &mut |shown| visit(shown.into_batch())).map(report)
}

/// As [`verify`], of segments that lie anywhere, in order; `dir` is what a
/// missing one is named by.
pub fn verify_files(
    disk: &dyn Disk,
    dir: &Path,
    files: &[SegmentFile],
    visit: &mut dyn FnMut(Batch),
) -> Result<Report, OpenError> {
    scan::scan_files(disk, dir, files, &mut |shown| visit(shown.into_batch())).map(report)
}

fn report(scanned: Scanned) -> Report {
    Report {
        segments: scanned.segments.len(),
        batches: scanned.next.batch,
        records: scanned.next.sequence,
        bytes: scanned.segments.iter().map(|segment| segment.end).sum(),
        origin: scanned.segments.last().map_or([0; 32], |segment| segment.header.origin),
        last_commit: scanned.last,
        incomplete: scanned.incomplete,
    }
}

/// Makes a segment, durably, under its name only when it is ready.
fn new_segment(
    disk: &dyn Disk,
    dir: &Path,
    origin: [u8; 32],
    start: Point,
    layout: Layout,
) -> io::Result<(Segment, Arc<dyn DiskFile>, u64)> {
    let mut mark = [0; 8];
    match layout.mark_seed {
        None => getrandom::fill(&mut mark).map_err(io::Error::other)?,
        Some(seed) => fastrand::Rng::with_seed(seed ^ start.batch).fill(&mut mark),
    }
    // none of them zero: a batch that was written to its end shows it
    let mark = mark.map(|byte| byte.max(1));
    let header = Header { origin, first_sequence: start.sequence, first_batch: start.batch, mark };
    let path = dir.join(format::segment_name(start.sequence));
    let unready = with_suffix(&path, UNREADY);
    let file = disk.create(&unready)?;
    file.write_at(0, &header.encode())?;
    let allocated = (HEADER_BYTES as u64 + layout.ahead_bytes).min(layout.segment_bytes);
    file.allocate(HEADER_BYTES as u64, allocated)?;
    file.sync_data()?;
    // a crash here leaves an unready file, which opening removes
    disk.rename(&unready, &path)?;
    disk.sync_dir(dir)?;
    let segment = Segment { path, header, end: HEADER_BYTES as u64 };
    Ok((segment, file, allocated))
}

/// Makes durable what a scan has read. The last batch may have been read from
/// memory only: its sync may have failed, and a second sync alone would not
/// write it again. What is read for it is verified like the first time.
pub(super) fn settle(file: &dyn DiskFile, scanned: &Scanned, last: Option<&Commit>) -> io::Result<()> {
    let point = scanned.last_batch;
    if point.segment == scanned.next.segment
        && point.offset > 0
        && let Some(segment) = scanned.segments.last()
    {
        let mut bytes = vec![0; (scanned.next.offset - point.offset) as usize];
        file.read_exact_at(point.offset, &mut bytes)?;
        let read = format::batch(&bytes, &segment.header.mark, point.batch, point.sequence);
        if !read.is_ok_and(|read| read.len == bytes.len() && Some(&read.commit) == last) {
            let words = format!("batch {} at {} is not what was read before", point.batch, point.offset);
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        file.write_at(point.offset, &bytes)?;
    }
    file.sync_data()
}

/// Copies what is about to be cut to a file beside the journal, and keeps the
/// newest such file only: should anybody have been shown the batch after all,
/// its remains are there to be looked at. A full disk is no reason not to
/// start.
fn keep_cut(disk: &dyn Disk, dir: &Path, file: &dyn DiskFile, cut: &Incomplete) -> io::Result<()> {
    let path = with_suffix(&cut.path, &format!("{CUT}{}", cut.batch));
    let mut bytes = vec![0; cut.bytes as usize];
    file.read_exact_at(cut.offset, &mut bytes)?;
    match disk::replace(disk, &path, &bytes) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            tracing::warn!(file = %path.display(), "no room to keep what is cut");
            return Ok(());
        }
        kept => kept?,
    }
    // a crash here leaves an older one beside it until the next cut
    remove_cut(disk, dir, Some(&path))
}

/// Removes what was kept of batches that were cut, but for one.
pub(super) fn remove_cut(disk: &dyn Disk, dir: &Path, but: Option<&Path>) -> io::Result<()> {
    for name in disk.list(dir)? {
        let path = dir.join(&name);
        if name.contains(&format!("{}{CUT}", format::SUFFIX)) && Some(path.as_path()) != but {
            disk.remove(&path)?;
        }
    }
    Ok(())
}

fn remove_unready(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for name in disk.list(dir)? {
        if name.ends_with(&format!("{}{UNREADY}", format::SUFFIX)) {
            disk.remove(&dir.join(name))?;
        }
    }
    Ok(())
}
