//! A document on its way out. Whole, it is verified again, by its name or by
//! the sums that it had when its name was right: a disk may have forgotten what
//! it was told.

use std::{io, path::Path, sync::Arc};

use axis_proto::id::{Digest, Hasher};

use super::{
    Disk, DiskFile,
    sums::{Blocks, Summing, Sums},
};

/// An open document of the vault. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Document {
    file: Arc<dyn DiskFile>,
    sha256: Digest,
    size: u64,
    sums: Sums,
}

impl Document {
    pub(super) fn open(disk: &dyn Disk, path: &Path, sha256: Digest, sums: Sums) -> io::Result<Self> {
        let file = disk.open_read(path)?;
        let size = file.len()?;
        Ok(Self { file, sha256, size, sums })
    }

    /// Its name.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A part of it, not verified: at most `count` bytes from `offset`, fewer
    /// at the end, none behind it.
    pub fn read_at(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.min(left)];
        self.file.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads it from its beginning, verifying it.
    pub fn reader(&self) -> VerifyingReader {
        self.reader_from(0)
    }

    /// Reads it from an offset. Verified only if that is its beginning: who
    /// asks for the rest has to verify the whole anyway.
    pub fn reader_from(&self, offset: u64) -> VerifyingReader {
        let check = match offset {
            0 => self.sums.of(&self.sha256).map_or_else(Check::hashed, Check::summed),
            _ => Check::Nothing,
        };
        VerifyingReader { document: self.clone(), at: offset, check }
    }

    /// Reads and hashes all of it; an error of kind `InvalidData` if it is not
    /// what its name says.
    pub fn verify(&self) -> io::Result<()> {
        let mut reader = VerifyingReader { document: self.clone(), at: 0, check: Check::hashed() };
        while !reader.next(VERIFY_BYTES)?.is_empty() {}
        Ok(())
    }
}

const VERIFY_BYTES: usize = 1024 * 1024;

/// Reads a document in order. From its beginning, gives the last bytes only if
/// the whole is what its digest says.
#[derive(Debug)]
pub struct VerifyingReader {
    document: Document,
    at: u64,
    check: Check,
}

/// How what is read is verified.
#[derive(Debug)]
enum Check {
    /// Not at all.
    Nothing,
    /// By its name; its sums are known then.
    Hashed(Hasher, Summing),
    /// By the sums that it had when its name was right.
    Summed(Blocks, Summing),
    /// It was not right.
    Damaged,
}

impl Check {
    fn hashed() -> Self {
        Self::Hashed(Hasher::new(), Summing::default())
    }

    fn summed(blocks: Blocks) -> Self {
        Self::Summed(blocks, Summing::default())
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Nothing | Self::Damaged => {}
            Self::Hashed(hasher, summing) => {
                hasher.update(bytes);
                summing.update(bytes);
            }
            Self::Summed(_, summing) => summing.update(bytes),
        }
    }

    /// Whether all of a document that was seen is right.
    fn is_right(&mut self, document: &Document) -> bool {
        let is_right = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => true,
            Self::Damaged => false,
            Self::Hashed(hasher, summing) => {
                let is_right = hasher.digest() == document.sha256;
                if is_right {
                    document.sums.learn(document.sha256, summing);
                }
                is_right
            }
            Self::Summed(blocks, summing) => summing.finish() == *blocks,
        };
        if !is_right {
            *self = Self::Damaged;
        }
        is_right
    }
}

impl VerifyingReader {
    /// The next bytes, at most `count` and at least one; none at the end.
    pub fn next(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let bytes = self.document.read_at(self.at, count.max(1))?;
        self.at += bytes.len() as u64;
        self.check.update(&bytes);
        if self.at == self.document.size && !self.check.is_right(&self.document) {
            let words = format!("document {} is damaged in the vault", self.document.sha256);
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        Ok(bytes)
    }
}
