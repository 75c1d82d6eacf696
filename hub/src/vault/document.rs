//! A document on its way out. Whole, it is verified again: a disk may have
//! forgotten what it was told.

use std::{io, path::Path, sync::Arc};

use axis_proto::id::Digest;
use sha2::{Digest as _, Sha256};

use super::{Disk, DiskFile};

/// An open document of the vault. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Document {
    file: Arc<dyn DiskFile>,
    sha256: Digest,
    size: u64,
}

impl Document {
    pub(super) fn open(disk: &dyn Disk, path: &Path, sha256: Digest) -> io::Result<Self> {
        let file = disk.open_read(path)?;
        let size = file.len()?;
        Ok(Self { file, sha256, size })
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
        let hasher = (offset == 0).then(Sha256::new);
        VerifyingReader { document: self.clone(), at: offset, hasher }
    }

    /// Reads all of it; an error of kind `InvalidData` if it is not what its
    /// name says.
    pub fn verify(&self) -> io::Result<()> {
        let mut reader = self.reader();
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
    hasher: Option<Sha256>,
}

impl VerifyingReader {
    /// The next bytes, at most `count` and at least one; none at the end.
    pub fn next(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let bytes = self.document.read_at(self.at, count.max(1))?;
        self.at += bytes.len() as u64;
        let Some(hasher) = &mut self.hasher else { return Ok(bytes) };
        hasher.update(&bytes);
        if self.at == self.document.size {
            let found: [u8; 32] = hasher.clone().finalize().into();
            if found != *self.document.sha256.as_bytes() {
                let words = format!("document {} is damaged in the vault", self.document.sha256);
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
        }
        Ok(bytes)
    }
}
