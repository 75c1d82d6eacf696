//! Files of sorted keys and values: a header, the pairs, and the SHA-256 of
//! all before it. Nothing is read from a file whose SHA-256 does not agree.
//!
//! ```text
//! magic 8 | header length u32 | header
//! key length u32 | value length u32 (all ones: deleted) | key | value   …
//! SHA-256 32
//! ```

use std::{io, sync::Arc};

use axis_proto::id::Hasher;

use crate::disk::DiskFile;

/// What the first bytes of a file say it is.
pub(super) type Magic = [u8; 8];

/// What a file calls with each key and its value, `None` if it is deleted.
pub(super) type VisitPair<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> io::Result<()> + 'a;

const BUFFER_BYTES: usize = 256 * 1024;
/// How much is written between syncs, so that the journal's own syncs never
/// wait for a large file.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;
const SHA256_BYTES: u64 = 32;
const DELETED: u32 = u32::MAX;

/// Writes one file from its beginning.
pub(super) struct Writer {
    file: Arc<dyn DiskFile>,
    at: u64,
    synced: u64,
    buffer: Vec<u8>,
    hasher: Hasher,
}

impl Writer {
    pub(super) fn new(file: Arc<dyn DiskFile>, magic: Magic, header: &[u8]) -> Self {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + 1024);
        buffer.extend_from_slice(&magic);
        buffer.extend_from_slice(&(header.len() as u32).to_le_bytes());
        buffer.extend_from_slice(header);
        Self { file, at: 0, synced: 0, buffer, hasher: Hasher::new() }
    }

    /// Adds a pair; `None` says that the key is deleted.
    pub(super) fn pair(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let value_len = value.map_or(DELETED, |value| value.len() as u32);
        self.buffer.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&value_len.to_le_bytes());
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value.unwrap_or_default());
        if self.buffer.len() >= BUFFER_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Ends the file and makes it durable. Returns its SHA-256, the last 32
    /// bytes included.
    pub(super) fn finish(mut self) -> io::Result<[u8; 32]> {
        self.write()?;
        let mut whole = self.hasher.clone();
        let sum = std::mem::take(&mut self.hasher).digest();
        whole.update(sum.as_bytes());
        self.buffer.extend_from_slice(sum.as_bytes());
        self.write()?;
        self.file.set_len(self.at)?;
        self.file.sync_data()?;
        Ok(*whole.digest().as_bytes())
    }

    fn write(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.file.write_at(self.at, &self.buffer)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }
}

/// A whole and undamaged file.
pub(super) struct Pairs {
    file: Arc<dyn DiskFile>,
    /// What was given to the writer.
    pub(super) header: Vec<u8>,
    start: u64,
    end: u64,
}

impl Pairs {
    /// Verifies a file, which takes reading all of it.
    pub(super) fn open(file: Arc<dyn DiskFile>, magic: Magic) -> io::Result<Self> {
        let end = file.len()?.checked_sub(SHA256_BYTES).ok_or_else(|| damaged("too short"))?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut at = 0;
        while at < end {
            let part = &mut buffer[..(end - at).min(BUFFER_BYTES as u64) as usize];
            file.read_exact_at(at, part)?;
            hasher.update(part);
            at += part.len() as u64;
        }
        let mut sum = [0; SHA256_BYTES as usize];
        file.read_exact_at(end, &mut sum)?;
        if sum != *hasher.digest().as_bytes() {
            return Err(damaged("its SHA-256 does not agree"));
        }
        let mut start = [0; 12];
        file.read_exact_at(0, &mut start)?;
        let (found, length) = start.split_at(8);
        if found != magic {
            return Err(damaged("not a file of this kind"));
        }
        let length = u64::from(u32::from_le_bytes(length.try_into().map_err(io::Error::other)?));
        if 12 + length > end {
            return Err(damaged("a header longer than the file"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(12, &mut header)?;
        Ok(Self { file, header, start: 12 + length, end })
    }

    /// Visits the pairs in the order in which they were written.
    pub(super) fn visit(&self, visit: &mut VisitPair<'_>) -> io::Result<()> {
        let mut buffer: Vec<u8> = Vec::new();
        let mut read = self.start;
        let mut from = 0;
        loop {
            let mut need = 8;
            if let Some((lengths, rest)) = buffer[from..].split_first_chunk::<8>() {
                let word =
                    |at| u32::from_le_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]);
                let (key_len, value_len) = (word(0) as usize, word(4));
                let deleted = value_len == DELETED;
                let pair_len = key_len + if deleted { 0 } else { value_len as usize };
                if let Some(pair) = rest.get(..pair_len) {
                    let (key, value) = pair.split_at(key_len);
                    visit(key, (!deleted).then_some(value))?;
                    from += 8 + pair_len;
                    continue;
                }
                need += pair_len;
            }
            if read == self.end {
                return if from == buffer.len() { Ok(()) } else { Err(damaged("an incomplete pair")) };
            }
            buffer.drain(..from);
            from = 0;
            let kept = buffer.len();
            let more = (self.end - read).min(need.max(BUFFER_BYTES) as u64);
            buffer.resize(kept + more as usize, 0);
            self.file.read_exact_at(read, &mut buffer[kept..])?;
            read += more;
        }
    }
}

/// The header of a file of which nothing else is read or verified.
pub(super) fn header(file: &dyn DiskFile, magic: Magic, len: usize) -> io::Result<Vec<u8>> {
    let mut start = vec![0; 12 + len];
    file.read_exact_at(0, &mut start)?;
    if start[..8] != magic || start[8..12] != (len as u32).to_le_bytes() {
        return Err(damaged("not a file of this kind"));
    }
    Ok(start.split_off(12))
}

pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
