//! What sled's file holds that is not written any more, so that an opening
//! after a kill need not read every pair: that takes some 10 µs a key. Never
//! says that a pair is right, only that the bytes are those that were written.
//!
//! sled's file is a row of segments. One of them, the newest in sled's log, is
//! being written; it is never written again once there is a newer one, until
//! it becomes the newest itself because nothing in it is needed. After each
//! write of the state the checksums of all others are kept here. The pairs are
//! those that the marker describes if
//!
//! 1. every segment but the newest is what it was, and no other is the newest:
//!    what can be wrong is the end of sled's log;
//! 2. the marker is the one before or behind the last write, which the redo
//!    file completes: nothing before that write is missing.
//!
//! Else every pair is read: after a crash in the midst of a write that went on
//! in another segment, or after damage. sled alone would pass over a part of
//! its log that it cannot read, and say nothing.
//!
//! `rest`, text: a line of what it is, a line for each segment (its place in
//! the log, `-` if it has none, and a checksum in hex), and the CRC-32 of the
//! lines before.

use std::{fmt::Write as _, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::store::SEGMENT_BYTES;
use crate::disk::{self, Disk as _, RealDisk};

/// Its name in the state's directory.
pub(super) const FILE: &str = "rest";
/// sled's file in the state's directory.
pub(super) const DB: &str = "sled/db";

const FIRST_LINE: &str = "axis rest 1";
const HEADER_BYTES: usize = 20;
/// What sled's numbers are crossed with on disk.
const LSN_MASK: i64 = i64::MAX;
/// Bytes read at once.
const READ_BYTES: usize = 1024 * 1024;
/// A longer file is none: it would be for a terabyte.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// sled's file between two writes of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rest(Vec<Segment>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// Where it belongs in sled's log; `None` if it is not in use.
    place: Option<i64>,
    /// Its CRC-32; 0 of the newest, which is being written,
    /// and of one that is not in use.
    sum: u32,
}

impl Rest {
    /// Of a file to which nobody writes now. Reads all of it.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let mut rest = Self::default();
        rest.advance(dir)?;
        Ok(rest)
    }

    /// Comes from one moment of the file to now, reading only what was written
    /// between. Returns whether anything is another.
    pub(super) fn advance(&mut self, dir: &Path) -> io::Result<bool> {
        let file = File::open(dir.join(DB))?;
        let places = places(&file)?;
        let newest = newest(places.iter().copied());
        let was_newest = newest_of(&self.0);
        let mut segments = Vec::with_capacity(places.len());
        for (index, place) in places.into_iter().enumerate() {
            let before = self.0.get(index).filter(|segment| segment.place == place);
            let sum = match before {
                _ if newest == Some(index) || place.is_none() => 0,
                Some(before) if was_newest != Some(index) => before.sum,
                _ => sum(&file, index)?,
            };
            segments.push(Segment { place, sum });
        }
        let is_other = self.0 != segments;
        self.0 = segments;
        Ok(is_other)
    }

    /// Whether the file is still what it was, but for what was added to the
    /// newest segment. Reads all of it.
    pub(super) fn holds(&self, dir: &Path) -> bool {
        Self::of(dir).is_ok_and(|now| now == *self)
    }

    /// Writes it.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let mut text = format!("{FIRST_LINE}\n");
        for Segment { place, sum } in &self.0 {
            let _infallible = match place {
                Some(place) => writeln!(text, "{place} {sum:08x}"),
                None => writeln!(text, "- {sum:08x}"),
            };
        }
        let sum = crc32fast::hash(text.as_bytes());
        let _infallible = writeln!(text, "{sum:08x}");
        disk::replace(&RealDisk, &dir.join(FILE), text.as_bytes())
    }

    /// What was written; `None` if nothing can be read.
    pub(super) fn load(dir: &Path) -> Option<Self> {
        let file = RealDisk.open_read(&dir.join(FILE)).ok()?;
        let mut bytes = vec![0; file.len().ok()?.min(BYTES_MAX) as usize];
        file.read_exact_at(0, &mut bytes).ok()?;
        Self::parse(&String::from_utf8(bytes).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (lines, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let hex = |sum: &str| u32::from_str_radix(sum, 16).ok();
        if hex(sum)? != crc32fast::hash(format!("{lines}\n").as_bytes()) {
            return None;
        }
        let lines = lines.strip_prefix(FIRST_LINE)?.lines().filter(|line| !line.is_empty());
        let segment = |line: &str| {
            let (place, sum) = line.split_once(' ')?;
            let place = if place == "-" { None } else { Some(place.parse().ok()?) };
            Some(Segment { place, sum: hex(sum)? })
        };
        lines.map(segment).collect::<Option<_>>().map(Self)
    }
}

fn newest_of(segments: &[Segment]) -> Option<usize> {
    newest(segments.iter().map(|segment| segment.place))
}

fn newest(places: impl Iterator<Item = Option<i64>>) -> Option<usize> {
    let placed = places.enumerate().filter_map(|(index, place)| Some((place?, index)));
    placed.max().map(|(_, index)| index)
}

fn places(file: &File) -> io::Result<Vec<Option<i64>>> {
    let segments = file.metadata()?.len().div_ceil(SEGMENT_BYTES as u64);
    let place = |segment| {
        let mut header = [0; HEADER_BYTES];
        // an end in the midst of a header is no header
        file.read_exact_at(&mut header, segment * SEGMENT_BYTES as u64).ok().and_then(|()| place(&header))
    };
    Ok((0..segments).map(place).collect())
}

/// sled's header of a segment: a checksum of the rest, and the place.
fn place(header: &[u8; HEADER_BYTES]) -> Option<i64> {
    let (sum, rest) = header.split_first_chunk::<4>()?;
    let is_whole = u32::from_le_bytes(*sum) == !crc32fast::hash(rest);
    is_whole.then(|| rest.first_chunk::<8>().map(|lsn| i64::from_le_bytes(*lsn) ^ LSN_MASK))?
}

/// Of a whole segment: what the file does not have yet counts as zeros.
fn sum(file: &File, segment: usize) -> io::Result<u32> {
    let (begin, length) = (segment as u64 * SEGMENT_BYTES as u64, file.metadata()?.len());
    let (mut hasher, mut buffer) = (crc32fast::Hasher::new(), vec![0; READ_BYTES]);
    for at in (begin..begin + SEGMENT_BYTES as u64).step_by(READ_BYTES) {
        let held = length.saturating_sub(at).min(READ_BYTES as u64) as usize;
        file.read_exact_at(&mut buffer[..held], at)?;
        buffer[held..].fill(0);
        hasher.update(&buffer);
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(lsn: i64) -> Vec<u8> {
        let rest = [(lsn ^ LSN_MASK).to_le_bytes(), [0; 8]].concat();
        [(!crc32fast::hash(&rest)).to_le_bytes().to_vec(), rest].concat()
    }

    /// A file of segments with these places.
    fn directory(places: &[i64]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sled")).unwrap();
        std::fs::File::create(dir.path().join(DB)).unwrap();
        for (index, place) in places.iter().enumerate() {
            write(dir.path(), index, 0, &header(*place));
            write(dir.path(), index, 100, b"pairs");
        }
        dir
    }

    fn write(dir: &Path, segment: usize, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(dir.join(DB)).unwrap();
        file.write_all_at(bytes, segment as u64 * SEGMENT_BYTES as u64 + at).unwrap();
    }

    #[test]
    fn only_the_newest_segment_may_change() {
        let dir = directory(&[16, 8, 24, 0]);
        let rest = Rest::of(dir.path()).unwrap();
        rest.save(dir.path()).unwrap();
        assert_eq!(Rest::load(dir.path()), Some(rest.clone()));
        write(dir.path(), 2, 5_000, b"more");
        assert!(rest.holds(dir.path()), "the newest");
        for (segment, at) in [(0, 100), (1, 8_000), (3, 3)] {
            let dir = directory(&[16, 8, 24, 0]);
            write(dir.path(), segment, at, b"x");
            assert!(!rest.holds(dir.path()), "segment {segment} at {at}");
        }
        for places in [&[16, 8, 24, 0, 32][..], &[16, 8, 24, 32], &[16, 8, 24], &[16, 8, 2, 0]] {
            assert!(!rest.holds(directory(places).path()), "{places:?}");
        }
    }

    #[test]
    fn what_is_kept_as_the_file_goes_on_is_what_is_read_at_once() {
        let dir = directory(&[0]);
        let mut rest = Rest::of(dir.path()).unwrap();
        assert!(!rest.advance(dir.path()).unwrap());
        for (round, segment) in [0, 1, 2, 0, 3, 1, 2].into_iter().enumerate() {
            write(dir.path(), segment, 0, &header(8 * round as i64 + 8));
            write(dir.path(), segment, 200, &[round as u8; 50]);
            assert!(rest.advance(dir.path()).unwrap());
            assert_eq!(rest, Rest::of(dir.path()).unwrap(), "round {round}");
        }
    }

    #[test]
    fn a_damaged_one_is_none() {
        let dir = directory(&[16, 8]);
        Rest::of(dir.path()).unwrap().save(dir.path()).unwrap();
        let whole = std::fs::read(dir.path().join(FILE)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(Rest::load(dir.path()), None, "byte {at}");
        }
    }
}
