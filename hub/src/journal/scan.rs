//! Reads a whole journal when it is opened: every header, every checksum, the
//! continuity of sequences and batches. Tells a last batch that was never
//! finished from damage; never changes anything.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    Batch, Commit,
    format::{self, FRAME_HEADER_BYTES, FRAME_MAGIC, Fault, HEADER_BYTES, Header, HeaderFault, Mark},
    logs,
};
use crate::disk::Disk;

/// What a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Bytes between points of the index.
const POINT_BYTES: u64 = 64 * 1024;

/// Why a journal cannot be opened: which file, where, what.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk did not answer.
    #[error("journal {}: cannot be read", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A later release wrote it.
    #[error("journal {}: format version {version}, this release reads {}; use the release that wrote it", path.display(), format::VERSION)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It is not as it was written.
    #[error("journal {} at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// There is none, or its beginning is gone.
    #[error("journal {}: {what}", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
}

/// Where a batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// Its first sequence.
    pub sequence: u64,
    /// Its number.
    pub batch: u64,
    /// Index of its segment.
    pub segment: usize,
    /// Its offset there.
    pub offset: u64,
}

/// One segment of an open journal.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub path: PathBuf,
    pub header: Header,
    /// Where its batches end.
    pub end: u64,
}

/// A last batch that was never finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// Bytes of it that arrived, with holes.
    pub bytes: u64,
    /// Its number.
    pub batch: u64,
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub segments: Vec<Segment>,
    pub index: Index,
    /// Where the next batch belongs.
    pub next: Point,
    /// Where the last batch begins; `offset` is 0 if there is none.
    pub last_batch: Point,
    pub last: Option<Commit>,
    pub incomplete: Option<Incomplete>,
}

/// Points in order, about one for each 64 KiB.
#[derive(Debug, Default)]
pub(super) struct Index(Vec<Point>);

impl Index {
    /// Remembers where a batch begins, if that is far enough from the last.
    pub fn add(&mut self, point: Point) {
        let near = self
            .0
            .last()
            .is_some_and(|last| last.segment == point.segment && point.offset - last.offset < POINT_BYTES);
        if !near {
            self.0.push(point);
        }
    }

    /// A segment's batches begin elsewhere now.
    pub fn replace(&mut self, segment: usize, points: Self) {
        let from = self.0.partition_point(|point| point.segment < segment);
        let to = self.0.partition_point(|point| point.segment <= segment);
        self.0.splice(from..to, points.0);
    }

    /// The last point not behind a sequence.
    pub fn find(&self, sequence: u64) -> Option<Point> {
        let behind = self.0.partition_point(|point| point.sequence <= sequence);
        self.0.get(behind.checked_sub(1)?).copied()
    }
}

/// The names of the segments in a directory, in order.
pub(super) fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, OpenError> {
    let mut names = disk.list(dir).map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
    names.retain(|name| name.ends_with(format::SUFFIX));
    Ok(names)
}

/// A segment's file, wherever it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// The file.
    pub path: PathBuf,
    /// The name that it has in a journal's directory.
    pub name: String,
    /// How many of its bytes count; all if `None`.
    pub bytes: Option<u64>,
}

/// Scans the journal in a directory, showing each batch to `visit`.
pub(super) fn scan(
    disk: &dyn Disk,
    dir: &Path,
    visit: &mut dyn FnMut(Shown<'_>),
) -> Result<Scanned, OpenError> {
    let names = names(disk, dir)?.into_iter();
    let files: Vec<_> = names.map(|name| SegmentFile { path: dir.join(&name), name, bytes: None }).collect();
    scan_files(disk, dir, &files, visit)
}

/// As [`scan`], of segments that lie anywhere, in order; `dir` is what a
/// missing one is named by.
pub(super) fn scan_files(
    disk: &dyn Disk,
    dir: &Path,
    files: &[SegmentFile],
    visit: &mut dyn FnMut(Shown<'_>),
) -> Result<Scanned, OpenError> {
    let Some(last_index) = files.len().checked_sub(1) else {
        let what = "no segment: never created, or lost".into();
        return Err(OpenError::Missing { path: dir.to_owned(), what });
    };
    let mut next = Point { sequence: 0, batch: 0, segment: 0, offset: 0 };
    let mut scanned = Scanned {
        segments: Vec::new(),
        index: Index::default(),
        next,
        last_batch: next,
        last: None,
        incomplete: None,
    };
    for (segment, SegmentFile { path, name, bytes }) in files.iter().enumerate() {
        let path = path.clone();
        let data = read_whole(disk, &path, *bytes)?;
        let damaged = |offset: usize, what: String| OpenError::Damaged {
            path: path.clone(),
            offset: offset as u64,
            what,
        };
        let header = header(&path, &data)?;
        next = Point { segment, offset: HEADER_BYTES as u64, ..next };
        continues(&next, name, &header).map_err(|what| damaged(0, what))?;
        // a segment may begin another log: its first record has to say so
        let before = scanned.segments.last().map(|segment| segment.header.origin);
        let mut begins = before.filter(|before| *before != header.origin);
        let end = loop {
            let at = next.offset as usize;
            if data[at..].iter().all(|byte| *byte == 0) {
                break at;
            }
            match format::batch(&data[at..], &header.mark, next.batch, next.sequence) {
                Ok(layout) => {
                    if let Some(previous) = begins.take() {
                        let opens = layout.first_record().and_then(|range| data[at..].get(range));
                        if !opens.is_some_and(|record| {
                            logs::succeeds(record, &header, &previous, scanned.last.as_ref())
                        }) {
                            return Err(damaged(at, OTHER_LOG.into()));
                        }
                    }
                    scanned.index.add(next);
                    scanned.last_batch = next;
                    let (len, size) = (layout.len, layout.commit.size);
                    scanned.last = Some(layout.commit.clone());
                    visit(Shown { bytes: &data[at..at + len], layout });
                    next = Point { sequence: size, batch: next.batch + 1, offset: (at + len) as u64, ..next };
                }
                Err((bad, fault)) => {
                    let unfinished = match &fault {
                        Fault::Wrong(_) => Err(String::new()),
                        _ if segment < last_index => Err(" in a segment that has a successor".to_owned()),
                        _ if begins.is_some() => Err(" in the first record of a log".to_owned()),
                        _ if bytes.is_some() => Err(" in a copy that was complete".to_owned()),
                        _ => unfinished(&data, at, at + bad, next.batch, &header.mark),
                    };
                    let bytes = unfinished.map_err(|why| damaged(at + bad, format!("{fault}{why}")))?;
                    let offset = at as u64;
                    scanned.incomplete =
                        Some(Incomplete { path: path.clone(), offset, bytes, batch: next.batch });
                    break at;
                }
            }
        };
        if begins.is_some() {
            return Err(damaged(end, OTHER_LOG.into()));
        }
        scanned.segments.push(Segment { path, header, end: end as u64 });
    }
    scanned.next = next;
    Ok(scanned)
}

/// One batch of a scan, read in full only on demand.
pub(super) struct Shown<'a> {
    bytes: &'a [u8],
    layout: format::Layout,
}

impl Shown<'_> {
    pub fn into_batch(self) -> Batch {
        self.layout.into_batch(&Bytes::copy_from_slice(self.bytes))
    }
}

pub(super) fn header(path: &Path, data: &[u8]) -> Result<Header, OpenError> {
    Header::parse(data).map_err(|fault| match fault {
        HeaderFault::Newer(version) => OpenError::Newer { path: path.to_owned(), version },
        HeaderFault::Damaged(what) => {
            OpenError::Damaged { path: path.to_owned(), offset: 0, what: what.to_owned() }
        }
    })
}

/// Whether a segment is the one that belongs after those before it.
fn continues(next: &Point, name: &str, header: &Header) -> Result<(), String> {
    if format::segment_name(header.first_sequence) != name {
        return Err(format!("begins with sequence {}, unlike its name", header.first_sequence));
    }
    if (header.first_sequence, header.first_batch) != (next.sequence, next.batch) {
        return Err(format!(
            "begins with sequence {} and batch {} where {} and {} were expected: a segment is missing",
            header.first_sequence, header.first_batch, next.sequence, next.batch
        ));
    }
    Ok(())
}

const OTHER_LOG: &str = "belongs to another log";

pub(super) fn read_whole(disk: &dyn Disk, path: &Path, bytes: Option<u64>) -> Result<Vec<u8>, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = disk.open_read(path).map_err(io)?;
    let len = match bytes {
        Some(bytes) => bytes,
        None => file.len().map_err(io)?,
    };
    if len > u64::from(u32::MAX) {
        let what = "larger than any segment".into();
        return Err(OpenError::Damaged { path: path.to_owned(), offset: 0, what });
    }
    let mut data = vec![0; len as usize];
    file.read_exact_at(0, &mut data).map_err(io)?;
    Ok(data)
}

/// Whether the batch that begins at `start` and is bad at `bad` was cut short
/// by a crash, and how many bytes of it there are; if not, the reason.
///
/// A crash leaves zeros where bytes did not arrive: from some byte on, or in
/// whole sectors. Bytes that nobody wrote are damage; and a batch that shows
/// its end and has no such hole where it is bad had been written, so it may
/// have been answered.
fn unfinished(data: &[u8], start: usize, bad: usize, batch: u64, mark: &Mark) -> Result<u64, String> {
    let end = data.iter().rposition(|byte| *byte != 0).map_or(start, |last| last + 1).max(start);
    let arrived = (end - start) as u64;
    let mut valid_again = None;
    let mut at = bad + 1;
    while let Some(found) = find_magic(data, at) {
        at = found + 1;
        let Ok((frame, _)) = format::frame(&data[found..], mark) else { continue };
        if frame.batch != batch {
            return Err(format!(" and batch {} follows at byte {found}", frame.batch));
        }
        valid_again.get_or_insert(found);
    }
    if bad >= end {
        return Ok(arrived);
    }
    let declared_end = declared_end(data, bad, batch)?;
    let shown_end = declared_end.or_else(|| data[..end].ends_with(mark).then_some(end));
    let Some(bad_end) = valid_again.or(shown_end) else { return Ok(arrived) };
    let hole = (bad / SECTOR_BYTES..bad_end.div_ceil(SECTOR_BYTES)).any(|sector| {
        let from = (sector * SECTOR_BYTES).max(start);
        let to = ((sector + 1) * SECTOR_BYTES).min(data.len());
        data[from..to].iter().all(|byte| *byte == 0)
    });
    if hole { Ok(arrived) } else { Err(" in a batch that was complete".into()) }
}

/// Goes from header to header by the lengths that they declare: where the
/// batch ends, if its commit arrived to the last byte. What stands in a
/// header's place is that header, or the part of it that arrived.
fn declared_end(data: &[u8], bad: usize, batch: u64) -> Result<Option<usize>, String> {
    let mut at = bad;
    loop {
        let mut header = [0; FRAME_HEADER_BYTES];
        let Some(rest) = data.get(at..) else { return Ok(None) };
        let there = rest.len().min(FRAME_HEADER_BYTES);
        header[..there].copy_from_slice(&rest[..there]);
        let kind = header[8];
        let is_right = |range: std::ops::Range<usize>, right: &[u8]| {
            header[range].iter().zip(right).all(|(byte, right)| byte == right || *byte == 0)
        };
        if !(is_right(0..4, &FRAME_MAGIC)
            && kind <= format::Kind::Erased as u8
            && is_right(9..12, &[0; 3])
            && is_right(12..20, &batch.to_le_bytes()))
        {
            return Err(format!(" and at byte {at} stands what was never written there"));
        }
        // the length is sure once what stands before and behind it is there
        if header[..4] != FRAME_MAGIC || kind == 0 {
            return Ok(None);
        }
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        at = at.saturating_add(FRAME_HEADER_BYTES).saturating_add(len);
        if kind == format::Kind::Commit as u8 {
            // its last byte is the mark's, which is not zero
            let arrived = at.checked_sub(1).and_then(|last| data.get(last)).is_some_and(|byte| *byte != 0);
            return Ok(arrived.then_some(at));
        }
    }
}

fn find_magic(data: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let step = data.get(at..)?.iter().position(|byte| *byte == FRAME_MAGIC[0])?;
        if data[at + step..].starts_with(&FRAME_MAGIC) {
            return Some(at + step);
        }
        at += step + 1;
    }
}
