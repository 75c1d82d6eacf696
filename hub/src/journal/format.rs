//! A segment file, byte by byte. Format version 1; all numbers are unsigned
//! and little-endian. Never touches a disk.
//!
//! A segment is a header block, then frames without gaps, then zeros to the
//! end of the file. Its name is its first sequence as 20 decimal digits and
//! `.segment`. Bytes 0–79 of the header mean the same in every version.
//!
//! ```text
//! header block, 4 096 bytes, written and synced before the first frame
//!    0   8  magic "AXISJRNL"
//!    8   4  format version, 1
//!   12   4  offset of the first frame, 4096
//!   16  32  SHA-256 of the log's origin line
//!   48   8  first sequence: records in the segments before this one
//!   56   8  first batch number: batches in the segments before this one
//!   64   8  mark: random bytes of this segment, none of them zero
//!   72   4  CRC-32 (IEEE) of bytes 0–71
//!   76      zeros
//!
//! frame
//!    0   4  magic C6 41 58 46
//!    4   4  length of the payload
//!    8   1  kind: 1 record, 2 cargo, 3 commit, 4 cargo that was erased
//!    9   3  zeros
//!   12   8  batch number; rises by 1 from batch to batch, the log's first is 0
//!   20   4  CRC-32 (IEEE) of the segment's mark, bytes 0–19 and the payload
//!   24      payload
//!
//! payload of a record   16 bytes of salt, then the record's exact bytes
//! payload of cargo      the bytes; follows its record, in the record's order
//! payload of erased     nothing; stands where the cargo stood
//! payload of a commit, the last frame of a batch
//!    0   8  sequence of the batch's first record
//!    8   4  number of its records, at least 1
//!   12   8  records in the journal after it
//!   20  32  root of the tree over them
//!   52      checkpoint: a C2SP signed note, UTF-8
//!   -8   8  the segment's mark
//! ```
//!
//! A batch is never in two segments. The mark is known to nobody outside, so
//! that a document in the cargo cannot imitate a frame or a batch's end; it
//! has no zeros, so that a batch that was written to its end shows it.
//!
//! A segment with another origin than the one before it begins a log that
//! continues that one after a restore: its first record is a `LogOpened` that
//! names both, the size between them, and the root.

use std::{fmt, ops::Range};

use bytes::Bytes;

use super::{Batch, Commit, Entry};

/// The version this release writes; it reads no other.
pub const VERSION: u32 = 1;
/// Where the first frame is.
pub const HEADER_BYTES: usize = 4096;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 24;
/// How a segment's name ends.
pub const SUFFIX: &str = ".segment";
/// What a frame begins with.
pub const FRAME_MAGIC: [u8; 4] = *b"\xC6AXF";

const MAGIC: [u8; 8] = *b"AXISJRNL";
const HEADER_USED: usize = 72;
const SALT_BYTES: usize = 16;
const COMMIT_FIXED_BYTES: usize = 52;
const MARK_BYTES: usize = 8;

/// Random bytes of one segment, none of them zero.
pub type Mark = [u8; MARK_BYTES];

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// SHA-256 of the log's origin line.
    pub origin: [u8; 32],
    /// Records before it.
    pub first_sequence: u64,
    /// Batches before it.
    pub first_batch: u64,
    /// Its mark.
    pub mark: Mark,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderFault {
    /// Made by a later release.
    Newer(u32),
    /// Not what was written.
    Damaged(&'static str),
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A record.
    Record = 1,
    /// Bytes that belong to the record before.
    Cargo = 2,
    /// The end of a batch.
    Commit = 3,
    /// Bytes that belonged to the record before, until they were erased.
    Erased = 4,
}

/// One frame whose checksum holds.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its batch.
    pub batch: u64,
    /// What it holds.
    pub payload: &'a [u8],
}

/// Why there is no frame, or no batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end before it; at least so many are needed.
    Short(usize),
    /// These bytes were not written so, or not all of them arrived.
    Bad(&'static str),
    /// Checksums hold, yet it does not belong here.
    Wrong(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(_) => f.write_str("a frame runs past the end"),
            Self::Bad(what) => f.write_str(what),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl Header {
    /// The header block.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        bytes.extend_from_slice(&self.origin);
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.first_batch.to_le_bytes());
        bytes.extend_from_slice(&self.mark);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }

    /// Reads the header block at the start of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderFault> {
        if bytes.len() < HEADER_BYTES {
            return Err(HeaderFault::Damaged("shorter than a header"));
        }
        if bytes[..8] != MAGIC {
            return Err(HeaderFault::Damaged("not a journal segment: wrong magic"));
        }
        if crc32fast::hash(&bytes[..HEADER_USED]) != u32_at(bytes, HEADER_USED) {
            return Err(HeaderFault::Damaged("the header's checksum does not hold"));
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            newer if newer > VERSION => return Err(HeaderFault::Newer(newer)),
            _ => return Err(HeaderFault::Damaged("no such format version")),
        }
        if u32_at(bytes, 12) as usize != HEADER_BYTES {
            return Err(HeaderFault::Damaged("the first frame is elsewhere"));
        }
        if bytes[HEADER_USED + 4..HEADER_BYTES].iter().any(|byte| *byte != 0) {
            return Err(HeaderFault::Damaged("bytes behind the header"));
        }
        Ok(Self {
            origin: array_at(bytes, 16),
            first_sequence: u64_at(bytes, 48),
            first_batch: u64_at(bytes, 56),
            mark: array_at(bytes, 64),
        })
    }
}

/// The name of the segment that begins with a sequence.
pub fn segment_name(first_sequence: u64) -> String {
    format!("{first_sequence:020}{SUFFIX}")
}

/// Appends a batch's frames to `out`.
pub fn encode_batch(out: &mut Vec<u8>, number: u64, mark: &Mark, batch: &Batch) {
    let mut frame = |kind: Kind, parts: &[&[u8]]| {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let start = out.len();
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&[kind as u8, 0, 0, 0]);
        out.extend_from_slice(&number.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(mark);
        crc.update(&out[start..]);
        parts.iter().for_each(|part| crc.update(part));
        out.extend_from_slice(&crc.finalize().to_le_bytes());
        parts.iter().for_each(|part| out.extend_from_slice(part));
    };
    for entry in &batch.entries {
        frame(Kind::Record, &[&entry.salt, &entry.record]);
        for cargo in &entry.cargo {
            frame(Kind::Cargo, &[cargo]);
        }
    }
    let first = batch.entries.first().map_or(0, |entry| entry.sequence);
    frame(
        Kind::Commit,
        &[
            &first.to_le_bytes(),
            &(batch.entries.len() as u32).to_le_bytes(),
            &batch.commit.size.to_le_bytes(),
            &batch.commit.root,
            batch.commit.checkpoint.as_bytes(),
            mark,
        ],
    );
}

/// Appends an encoded batch to `out` without the cargo at `ranges`, which are
/// payloads in order; an erased frame stands for each.
pub fn encode_erased(out: &mut Vec<u8>, number: u64, mark: &Mark, batch: &[u8], ranges: &[Range<usize>]) {
    let mut from = 0;
    for range in ranges {
        out.extend_from_slice(&batch[from..range.start - FRAME_HEADER_BYTES]);
        from = range.end;
        let start = out.len();
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&[Kind::Erased as u8, 0, 0, 0]);
        out.extend_from_slice(&number.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(mark);
        crc.update(&out[start..]);
        out.extend_from_slice(&crc.finalize().to_le_bytes());
    }
    out.extend_from_slice(&batch[from..]);
}

/// Bytes that a batch takes in a segment.
pub fn encoded_bytes(batch: &Batch) -> usize {
    let entry = |entry: &Entry| {
        let cargo: usize = entry.cargo.iter().map(|cargo| FRAME_HEADER_BYTES + cargo.len()).sum();
        FRAME_HEADER_BYTES + SALT_BYTES + entry.record.len() + cargo
    };
    let commit = FRAME_HEADER_BYTES + COMMIT_FIXED_BYTES + batch.commit.checkpoint.len() + MARK_BYTES;
    batch.entries.iter().map(entry).sum::<usize>() + commit
}

/// The frame at the start of `bytes`, and how many bytes it takes.
pub fn frame<'a>(bytes: &'a [u8], mark: &Mark) -> Result<(Frame<'a>, usize), Fault> {
    if bytes.len() < FRAME_HEADER_BYTES {
        return Err(Fault::Short(FRAME_HEADER_BYTES));
    }
    if bytes[..4] != FRAME_MAGIC {
        return Err(Fault::Bad("no frame where one should begin"));
    }
    let kind = match bytes[8] {
        1 => Kind::Record,
        2 => Kind::Cargo,
        3 => Kind::Commit,
        4 => Kind::Erased,
        _ => return Err(Fault::Bad("a frame of no known kind")),
    };
    let end = FRAME_HEADER_BYTES + u32_at(bytes, 4) as usize;
    if bytes.len() < end {
        return Err(Fault::Short(end));
    }
    let payload = &bytes[FRAME_HEADER_BYTES..end];
    let mut crc = crc32fast::Hasher::new();
    crc.update(mark);
    crc.update(&bytes[..20]);
    crc.update(payload);
    if crc.finalize() != u32_at(bytes, 20) {
        return Err(Fault::Bad("a frame's checksum does not hold"));
    }
    Ok((Frame { kind, batch: u64_at(bytes, 12), payload }, end))
}

/// Where the parts of one batch are.
#[derive(Debug, Clone)]
pub struct Layout {
    entries: Vec<EntryLayout>,
    first_sequence: u64,
    /// Its end.
    pub commit: Commit,
    /// Bytes from its first frame to the end of its commit frame.
    pub len: usize,
}

#[derive(Debug, Clone)]
struct EntryLayout {
    salt: [u8; SALT_BYTES],
    record: Range<usize>,
    cargo: Vec<Range<usize>>,
}

/// The batch at the start of `bytes`, which must have this number and begin
/// with this sequence. A fault comes with its offset in `bytes`.
pub fn batch(bytes: &[u8], mark: &Mark, number: u64, sequence: u64) -> Result<Layout, (usize, Fault)> {
    let mut entries: Vec<EntryLayout> = Vec::new();
    let mut at = 0;
    loop {
        let (frame, len) = match frame(&bytes[at..], mark) {
            Err(Fault::Short(needed)) => return Err((at, Fault::Short(at + needed))),
            other => other.map_err(|fault| (at, fault))?,
        };
        let wrong = |what: String| (at, Fault::Wrong(what));
        if frame.batch != number {
            return Err(wrong(format!("a frame of batch {} inside batch {number}", frame.batch)));
        }
        let payload = at + FRAME_HEADER_BYTES..at + len;
        match (frame.kind, entries.last_mut()) {
            (Kind::Record, _) => {
                let Some(salt) = frame.payload.first_chunk() else {
                    return Err(wrong("a record without its salt".into()));
                };
                let record = payload.start + SALT_BYTES..payload.end;
                entries.push(EntryLayout { salt: *salt, record, cargo: Vec::new() });
            }
            (Kind::Cargo, Some(entry)) => entry.cargo.push(payload),
            (Kind::Erased, Some(entry)) if payload.is_empty() => entry.cargo.push(payload),
            (Kind::Erased, Some(_)) => return Err(wrong("erased cargo that is still there".into())),
            (Kind::Cargo | Kind::Erased, None) => return Err(wrong("cargo without its record".into())),
            (Kind::Commit, _) => {
                let commit = commit(frame.payload, mark, sequence, entries.len() as u64).map_err(wrong)?;
                return Ok(Layout { entries, first_sequence: sequence, commit, len: at + len });
            }
        }
        at += len;
    }
}

fn commit(payload: &[u8], mark: &Mark, sequence: u64, count: u64) -> Result<Commit, String> {
    if payload.len() < COMMIT_FIXED_BYTES + MARK_BYTES || !payload.ends_with(mark) {
        return Err("a commit that is cut".into());
    }
    let (first, counted, size) = (u64_at(payload, 0), u64::from(u32_at(payload, 8)), u64_at(payload, 12));
    if first != sequence {
        return Err(format!("a commit from sequence {first} where {sequence} was expected"));
    }
    if counted != count || count == 0 {
        return Err(format!("a commit of {counted} records after {count}"));
    }
    if first.checked_add(count) != Some(size) {
        return Err(format!("a commit of size {size} after {count} records from {first}"));
    }
    let checkpoint = &payload[COMMIT_FIXED_BYTES..payload.len() - MARK_BYTES];
    let checkpoint =
        String::from_utf8(checkpoint.to_vec()).map_err(|_| "a checkpoint that is no text".to_owned())?;
    Ok(Commit { size, root: array_at(payload, 20), checkpoint })
}

impl Layout {
    /// Where the first record's bytes are.
    pub fn first_record(&self) -> Option<Range<usize>> {
        self.entries.first().map(|entry| entry.record.clone())
    }

    /// Whether any of its records has cargo.
    pub fn has_cargo(&self) -> bool {
        self.entries.iter().any(|entry| !entry.cargo.is_empty())
    }

    /// Where a piece of cargo is, by the place of its record and its own.
    pub fn cargo(&self, entry: usize, place: usize) -> Option<Range<usize>> {
        self.entries.get(entry)?.cargo.get(place).cloned()
    }

    /// As [`Self::into_batch`], for more than once.
    pub fn to_batch(&self, bytes: &Bytes) -> Batch {
        self.clone().into_batch(bytes)
    }

    /// The batch, its records and cargo being parts of `bytes`, which begin
    /// with it.
    pub fn into_batch(self, bytes: &Bytes) -> Batch {
        let entries = self.entries.into_iter().zip(self.first_sequence..);
        let entries = entries.map(|(entry, sequence)| Entry {
            sequence,
            salt: entry.salt,
            record: bytes.slice(entry.record),
            cargo: entry.cargo.into_iter().map(|range| bytes.slice(range)).collect(),
        });
        Batch { entries: entries.collect(), commit: self.commit }
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = [1, 2, 3, 4, 5, 6, 7, 8];

    fn sample() -> Batch {
        let entry = |sequence, cargo: &[&'static [u8]]| Entry {
            sequence,
            salt: [sequence as u8; 16],
            record: Bytes::from(format!("record {sequence}")),
            cargo: cargo.iter().map(|cargo| Bytes::from_static(cargo)).collect(),
        };
        Batch {
            entries: vec![entry(7, &[b"a", b""]), entry(8, &[])],
            commit: Commit { size: 9, root: [9; 32], checkpoint: "origin\n9\n…\n".into() },
        }
    }

    /// The format is final: these bytes may never change.
    #[test]
    fn the_bytes_are_as_documented() {
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, 3, &MARK, &sample());
        assert_eq!(bytes.len(), encoded_bytes(&sample()));
        let first = "c641584618000000010000000300000000000000c6ebb5a407070707070707070707070707070707";
        assert_eq!(hex::encode(&bytes[..40]), first);
        assert_eq!(&bytes[40..48], b"record 7");
        assert_eq!(crc32fast::hash(&bytes), 0xbb93800b, "computed by another program");
        let header = Header { origin: [5; 32], first_sequence: 7, first_batch: 3, mark: MARK }.encode();
        assert_eq!(crc32fast::hash(&header), 0xa33aa842, "computed by another program");
        assert_eq!(segment_name(7), "00000000000000000007.segment");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, 3, &MARK, &sample());
        let layout = batch(&bytes, &MARK, 3, 7).unwrap();
        assert_eq!(layout.len, bytes.len());
        assert_eq!(layout.into_batch(&Bytes::from(bytes)), sample());
    }

    #[test]
    fn no_flipped_bit_is_read() {
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, 3, &MARK, &sample());
        for at in 0..bytes.len() * 8 {
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(batch(&bytes, &MARK, 3, 7).is_err(), "bit {at}");
            bytes[at / 8] ^= 1 << (at % 8);
        }
        let header = Header { origin: [5; 32], first_sequence: 7, first_batch: 3, mark: MARK };
        let mut bytes = header.encode();
        assert_eq!(Header::parse(&bytes), Ok(header));
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert!(matches!(Header::parse(&bytes), Err(HeaderFault::Damaged(_))), "byte {at}");
            bytes[at] ^= 0x10;
        }
    }

    #[test]
    fn frames_in_the_wrong_place_are_refused() {
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, 3, &MARK, &sample());
        let fault = |number, sequence| match batch(&bytes, &MARK, number, sequence) {
            Err((_, Fault::Wrong(what))) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(4, 7), "a frame of batch 3 inside batch 4");
        assert_eq!(fault(3, 6), "a commit from sequence 7 where 6 was expected");
        assert!(matches!(batch(&bytes, &[9; 8], 3, 7), Err((0, Fault::Bad(_)))), "another segment's");
        // without its first record, the cargo has none
        let (_, record) = frame(&bytes, &MARK).unwrap();
        let (at, fault) = batch(&bytes[record..], &MARK, 3, 7).unwrap_err();
        assert_eq!((at, fault), (0, Fault::Wrong("cargo without its record".into())));
        let (_, cargo) = frame(&bytes[record..], &MARK).unwrap();
        let (_, empty) = frame(&bytes[record + cargo..], &MARK).unwrap();
        let rest = &bytes[record + cargo + empty..];
        let (_, fault) = batch(rest, &MARK, 3, 7).unwrap_err();
        assert_eq!(fault, Fault::Wrong("a commit of 2 records after 1".into()));
    }

    #[test]
    fn erased_cargo_leaves_its_place() {
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, 3, &MARK, &sample());
        let (_, record) = frame(&bytes, &MARK).unwrap();
        let (_, cargo) = frame(&bytes[record..], &MARK).unwrap();
        let whole = batch(&bytes, &MARK, 3, 7).unwrap();
        let range = whole.cargo(0, 0).unwrap();
        assert_eq!(range, record + FRAME_HEADER_BYTES..record + cargo);
        let mut erased = Vec::new();
        encode_erased(&mut erased, 3, &MARK, &bytes, &[range]);
        assert_eq!(erased.len(), bytes.len() - (cargo - FRAME_HEADER_BYTES));
        let read = batch(&erased, &MARK, 3, 7).unwrap().into_batch(&Bytes::from(erased));
        assert_eq!(read.entries[0].cargo, [Bytes::new(), Bytes::new()]);
        assert_eq!(read.entries[0].record, sample().entries[0].record);
    }
}
