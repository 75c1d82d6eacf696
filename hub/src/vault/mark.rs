//! How far an upload has come: a file of two marks, the latest and the latest
//! that was synced. Each holds the digest of the bytes up to it, so that what
//! lost power took is noticed, and only that.

use std::{io, path::Path, sync::Arc};

use axis_proto::id::Digest;

use super::{Disk, DiskFile};

/// A mark on disk, little-endian: magic "AXM1", CRC-32 of what follows, size,
/// committed, touched (8 bytes each), SHA-256 of the committed bytes.
const MARK_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"AXM1";
/// Marks are in sectors of their own: a torn write takes one at most.
const OFFSETS: [u64; 2] = [0, 512];
const LATEST: usize = 0;
const SYNCED: usize = 1;

/// How far an upload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Bytes of the document.
    pub size: u64,
    /// Bytes that are there.
    pub committed: u64,
    /// Rises from use to use of the system's uploads.
    pub touched: u64,
    /// SHA-256 of the bytes that are there.
    pub sha256: [u8; 32],
}

impl Mark {
    /// Nothing is there yet.
    pub fn new(size: u64, touched: u64) -> Self {
        let sha256 = *Digest::of(b"").as_bytes();
        Self { size, committed: 0, touched, sha256 }
    }

    /// Whether the whole document is there, and is this one.
    pub fn is_of(&self, sha256: &Digest) -> bool {
        self.committed == self.size && self.sha256 == *sha256.as_bytes()
    }

    fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.committed.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.touched.to_le_bytes());
        bytes[32..].copy_from_slice(&self.sha256);
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8; MARK_BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let crc = crc32fast::hash(&bytes[8..]).to_le_bytes();
        if bytes[..4] != MAGIC || bytes[4..8] != crc {
            return None;
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&bytes[32..]);
        Some(Self { size: number(8), committed: number(16), touched: number(24), sha256 })
    }
}

/// The marks of one upload.
#[derive(Debug)]
pub struct Marks {
    /// Absent if they were only read.
    file: Option<Arc<dyn DiskFile>>,
    marks: [Option<Mark>; 2],
}

impl Marks {
    /// Reads the marks of an upload; none if there is none.
    pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        if !disk.exists(path)? {
            return Ok(Self { file: None, marks: [None; 2] });
        }
        let marks = parse(&*disk.open_read(path)?)?;
        Ok(Self { file: None, marks })
    }

    /// Opens the marks of an upload, or makes them.
    pub fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = if disk.exists(path)? { disk.open(path)? } else { disk.create(path)? };
        let marks = parse(&*file)?;
        Ok(Self { file: Some(file), marks })
    }

    /// The mark to show.
    pub fn latest(&self) -> Option<&Mark> {
        self.marks[LATEST].as_ref().or(self.marks[SYNCED].as_ref())
    }

    /// Both marks, the latest first.
    pub fn candidates(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter().flatten()
    }

    /// Bytes up to this mark are there, unless the power fails.
    pub fn arrived(&mut self, mark: Mark) -> io::Result<()> {
        self.write(LATEST, mark)
    }

    /// Bytes up to this mark are durable.
    pub fn synced(&mut self, mark: Mark) -> io::Result<()> {
        self.write(LATEST, mark)?;
        self.write(SYNCED, mark)?;
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data())
    }

    /// Begins again.
    pub fn reset(&mut self, mark: Mark) -> io::Result<()> {
        self.synced(mark)
    }

    fn write(&mut self, slot: usize, mark: Mark) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_at(OFFSETS[slot], &mark.encode())?;
        }
        self.marks[slot] = Some(mark);
        Ok(())
    }
}

fn parse(file: &dyn DiskFile) -> io::Result<[Option<Mark>; 2]> {
    let mut marks = [None; 2];
    for (mark, offset) in marks.iter_mut().zip(OFFSETS) {
        let mut bytes = [0; MARK_BYTES];
        if file.read_at(offset, &mut bytes)? == MARK_BYTES {
            *mark = Mark::parse(&bytes);
        }
    }
    Ok(marks)
}
