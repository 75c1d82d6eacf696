//! How far an upload has come: a file of two marks, the latest and the latest
//! that was synced. The latest holds a check sum of what came since the last
//! sync, so that what lost power took is noticed, and only that. What was synced
//! is believed until the whole is hashed; so a mark says whether it was.

use std::{io, path::Path, sync::Arc};

use axis_proto::id::Digest;

use super::{Disk, DiskFile, tail::Check};

/// The version that this release writes; it reads all up to it.
pub const VERSION: u32 = 3;
/// A mark on disk, little-endian: magic "AXM3", CRC-32 of what follows, size,
/// committed, touched (8 bytes each), SHA-256 of the document once it was
/// verified and zeros before (32 bytes), from where the check sum is (8 bytes),
/// CRC-32 of the bytes from there to committed (4 bytes).
const MARK_BYTES: usize = 76;
const SHA256_AT: usize = 32;
const CHECK_AT: usize = 64;
const MAGIC: [u8; 4] = [b'A', b'X', b'M', b'0' + VERSION as u8];
/// Marks of versions 1 and 2, and how long they are. The SHA-256 is of the
/// committed bytes; what follows it is the hasher after them, or nothing.
const OLD: [([u8; 4], usize); 2] = [(*b"AXM1", CHECK_AT), (*b"AXM2", OLD_BYTES_MAX)];
const OLD_BYTES_MAX: usize = 168;
/// Marks are in sectors of their own: a torn write takes one at most.
const OFFSETS: [u64; 2] = [0, 512];
const LATEST: usize = 0;
const SYNCED: usize = 1;

/// How far an upload has come.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Bytes of the document.
    pub size: u64,
    /// Bytes that are there.
    pub committed: u64,
    /// Rises from use to use of the system's uploads.
    pub touched: u64,
    /// SHA-256 of the document, if all of it is there and was verified.
    pub sha256: Option<Digest>,
    /// By what it is known whether what came since the last sync is there.
    pub check: Check,
}

impl Mark {
    /// Nothing is there yet.
    pub fn new(size: u64, touched: u64) -> Self {
        Self { size, committed: 0, touched, sha256: None, check: Check::default() }
    }

    /// Whether the whole document is there, and is this one.
    pub fn is_of(&self, sha256: &Digest) -> bool {
        self.sha256 == Some(*sha256)
    }

    fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.committed.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.touched.to_le_bytes());
        if let Some(sha256) = &self.sha256 {
            bytes[SHA256_AT..CHECK_AT].copy_from_slice(sha256.as_bytes());
        }
        bytes[CHECK_AT..72].copy_from_slice(&self.check.from.to_le_bytes());
        bytes[72..].copy_from_slice(&self.check.crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let magic = bytes.get(..4)?;
        let old = OLD.iter().find(|(old, _)| magic == old).map(|(_, end)| *end);
        let end = if magic == MAGIC { MARK_BYTES } else { old? };
        let bytes = bytes.get(..end)?;
        if bytes[4..8] != crc32fast::hash(&bytes[8..]).to_le_bytes() {
            return None;
        }
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let (size, committed) = (number(8), number(16));
        let sha256 = &bytes[SHA256_AT..CHECK_AT];
        let sha256 = Digest::from_slice(sha256).ok().filter(|_| committed == size && *sha256 != [0; 32]);
        let check = match old {
            // of no bytes: there is nothing by which they could be known today
            Some(_) => Check { from: committed, crc: 0 },
            None => {
                let mut crc = [0; 4];
                crc.copy_from_slice(&bytes[72..]);
                Check { from: number(CHECK_AT), crc: u32::from_le_bytes(crc) }
            }
        };
        let mark = Self { size, committed, touched: number(24), sha256, check };
        (check.from <= committed).then_some(mark)
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
            return Ok(Self { file: None, marks: [const { None }; 2] });
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

    /// The mark up to which everything is durable.
    pub fn durable(&self) -> Option<&Mark> {
        self.marks[SYNCED].as_ref()
    }

    /// Bytes up to this mark are there, unless the power fails.
    pub fn arrived(&mut self, mark: Mark) -> io::Result<()> {
        self.write(LATEST, mark)
    }

    /// Bytes up to this mark are durable; more may have arrived since.
    pub fn synced(&mut self, mark: Mark) -> io::Result<()> {
        self.write(SYNCED, mark)?;
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data())
    }

    /// Begins again.
    pub fn reset(&mut self, mark: Mark) -> io::Result<()> {
        self.arrived(mark.clone())?;
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
    let mut marks = [const { None }; 2];
    for (slot, offset) in OFFSETS.into_iter().enumerate() {
        let mut bytes = [0; OLD_BYTES_MAX];
        let count = file.read_at(offset, &mut bytes)?;
        // what an older release had not synced is believed only if it was whole
        let is_known = |mark: &Mark| slot == SYNCED || mark.sha256.is_some() || bytes.starts_with(&MAGIC);
        marks[slot] = Mark::parse(&bytes[..count]).filter(is_known);
    }
    Ok(marks)
}
