//! One document on its way in, hashed as it comes. Becomes an object only
//! when size and SHA-256 are what was declared.

use std::{io, sync::Arc};

use axis_proto::{hub::v1::Reason, id::Digest, limits::UPLOAD_CHUNK_BYTES_MAX};
use sha2::{Digest as _, Sha256};

use super::{
    DiskFile, Live,
    mark::{Mark, Marks},
};
use crate::{
    error::{Error, Refusal, Result},
    limits,
};

/// Bytes read at once when what is there is hashed again.
const READ_BYTES: usize = 256 * 1024;

/// An upload that this holder alone writes to. What was appended stays when
/// it is dropped; it blocks, so it belongs on a thread that may.
#[derive(Debug)]
pub struct Upload {
    live: Live,
    file: Arc<dyn DiskFile>,
    marks: Marks,
    hasher: Sha256,
    committed: u64,
    synced: u64,
    size: u64,
    touched: u64,
    /// Whether the bytes are in `objects` already, brought by this system.
    in_place: bool,
    failed: bool,
}

impl Upload {
    pub(super) fn new(
        live: Live,
        file: Arc<dyn DiskFile>,
        marks: Marks,
        hasher: Sha256,
        (committed, size): (u64, u64),
        touched: u64,
    ) -> Self {
        let in_place = false;
        Self { live, file, marks, hasher, committed, synced: 0, size, touched, in_place, failed: false }
    }

    pub(super) fn in_place(self) -> Self {
        Self { in_place: true, ..self }
    }

    /// Bytes that are there: the next belong behind them.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Bytes of the document.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the next bytes, at most a chunk.
    pub fn append(&mut self, chunk: &[u8]) -> Result<()> {
        if chunk.len() > UPLOAD_CHUNK_BYTES_MAX {
            return Err(Error::invalid("chunk", Reason::TooLarge, chunk.len()));
        }
        if chunk.len() as u64 > self.size - self.committed {
            return Err(Error::invalid("chunk", Reason::SizeMismatch, self.committed + chunk.len() as u64));
        }
        self.file.write_at(self.committed, chunk)?;
        self.hasher.update(chunk);
        self.committed += chunk.len() as u64;
        if self.committed - self.synced >= limits::UPLOAD_SYNC_BYTES {
            return self.sync();
        }
        Ok(self.marks.arrived(self.mark())?)
    }

    /// Makes what arrived durable.
    pub fn sync(&mut self) -> Result<()> {
        self.sync_data()?;
        self.marks.synced(self.mark())?;
        self.synced = self.committed;
        Ok(())
    }

    /// Verifies the whole document and takes it into the vault, durably. If
    /// it is not what was declared, it is refused and what arrived is gone.
    pub fn finish(mut self) -> Result<()> {
        if self.committed != self.size {
            let refusal = Refusal::new(Reason::SizeMismatch)
                .at("size", Reason::SizeMismatch, self.committed)
                .fact("committed_bytes", self.committed);
            return Err(refusal.into());
        }
        let (found, declared) = (Digest::from(self.mark().sha256), self.live.upload.1);
        if found != declared {
            self.live.discard()?;
            let refusal = Refusal::new(Reason::DigestMismatch)
                .at("sha256", Reason::DigestMismatch, found)
                .fact("expected_digest", declared)
                .fact("actual_digest", found);
            return Err(refusal.into());
        }
        if self.file.len()? != self.size {
            self.file.set_len(self.size)?;
        }
        self.sync()?;
        Ok(self.live.take_over(self.in_place)?)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        self.file.sync_data().inspect_err(|_| {
            // nobody knows which bytes are on the disk, and a further sync
            // would not say: the upload begins again
            self.failed = true;
            let _ = self.live.discard();
        })
    }

    fn mark(&self) -> Mark {
        Mark {
            size: self.size,
            committed: self.committed,
            touched: self.touched,
            sha256: self.hasher.clone().finalize().into(),
        }
    }
}

/// Hashes what is there of an upload up to the latest mark that holds. `None`
/// if none does.
pub(super) fn resume(file: &dyn DiskFile, marks: &Marks, size: u64) -> io::Result<Option<(u64, Sha256)>> {
    let mut candidates: Vec<&Mark> = marks.candidates().filter(|mark| mark.size == size).collect();
    candidates.sort_unstable_by_key(|mark| mark.committed);
    let mut found = None;
    let (mut at, mut hasher) = (0, Sha256::new());
    let mut buffer = vec![0; READ_BYTES];
    for mark in candidates {
        while at < mark.committed {
            let wanted = (mark.committed - at).min(READ_BYTES as u64) as usize;
            let count = file.read_at(at, &mut buffer[..wanted])?;
            if count == 0 {
                return Ok(found);
            }
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        if hasher.clone().finalize()[..] == mark.sha256 {
            found = Some((at, hasher.clone()));
        }
    }
    Ok(found)
}
