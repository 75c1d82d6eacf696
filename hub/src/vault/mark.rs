//! How far an upload has come: a file of two marks, the latest and the latest
//! that was synced. Each holds the digest of the bytes up to it, so that what
//! lost power took is noticed, and only that; and where the hasher stands, so
//! that going on costs nothing but reading what came after the last sync.

use std::{io, path::Path, sync::Arc};

use axis_proto::id::Digest;
use sha2::{
    Digest as _, Sha256,
    digest::common::hazmat::{SerializableState as _, SerializedState},
};

use super::{Disk, DiskFile};

/// The version that this release writes; it reads all up to it.
pub const VERSION: u32 = 2;
/// A mark on disk, little-endian: magic "AXM2", CRC-32 of what follows, size,
/// committed, touched (8 bytes each), SHA-256 of the committed bytes, the
/// hasher after them (104 bytes, as `sha2` 0.11 writes it). Version 1 ends
/// before the hasher, and is still read.
const MARK_BYTES: usize = HASHER_AT + HASHER_BYTES;
const HASHER_AT: usize = 64;
const HASHER_BYTES: usize = 104;
const MAGIC: [u8; 4] = [b'A', b'X', b'M', b'0' + VERSION as u8];
const MAGIC_V1: [u8; 4] = *b"AXM1";
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
    /// SHA-256 of the bytes that are there.
    pub sha256: [u8; 32],
    /// The hasher after those bytes; none in a mark of version 1.
    pub hasher: Option<Sha256>,
}

impl Mark {
    /// Nothing is there yet.
    pub fn new(size: u64, touched: u64) -> Self {
        Self::at(size, 0, touched, &Sha256::new())
    }

    /// So much is there, which is what the hasher has seen.
    pub fn at(size: u64, committed: u64, touched: u64, hasher: &Sha256) -> Self {
        let sha256 = hasher.clone().finalize().into();
        Self { size, committed, touched, sha256, hasher: Some(hasher.clone()) }
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
        bytes[32..HASHER_AT].copy_from_slice(&self.sha256);
        if let Some(hasher) = &self.hasher {
            bytes[HASHER_AT..].copy_from_slice(&hasher.serialize());
        }
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = match bytes.get(..4)? {
            magic if magic == MAGIC => MARK_BYTES,
            magic if magic == MAGIC_V1 => HASHER_AT,
            _ => return None,
        };
        let bytes = bytes.get(..end)?;
        if bytes[4..8] != crc32fast::hash(&bytes[8..]).to_le_bytes() {
            return None;
        }
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&bytes[32..HASHER_AT]);
        let hasher = hasher_of(&bytes[HASHER_AT..], &sha256);
        Some(Self { size: number(8), committed: number(16), touched: number(24), sha256, hasher })
    }
}

/// A hasher that stands where the mark's digest says; what another version of
/// `sha2` wrote in another way is not one, and the bytes are read again.
fn hasher_of(bytes: &[u8], sha256: &[u8; 32]) -> Option<Sha256> {
    let hasher = Sha256::deserialize(&SerializedState::<Sha256>::try_from(bytes).ok()?).ok()?;
    (hasher.clone().finalize()[..] == *sha256).then_some(hasher)
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

    /// Both marks, the latest first.
    pub fn candidates(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter().flatten()
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
    for (mark, offset) in marks.iter_mut().zip(OFFSETS) {
        let mut bytes = [0; MARK_BYTES];
        let count = file.read_at(offset, &mut bytes)?;
        *mark = Mark::parse(&bytes[..count]);
    }
    Ok(marks)
}
