//! One document on its way in, hashed as it comes. Becomes an object only
//! when size and SHA-256 are what was declared; one that was interrupted is
//! read and written again first, once and whole: what the hasher saw may have
//! lain on the disk for days, or only in memory since a sync failed.

use std::{io, sync::Arc};

use axis_proto::{hub::v1::Reason, id::Digest, limits::UPLOAD_CHUNK_BYTES_MAX};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    Brought, DiskFile, Live,
    mark::{Mark, Marks},
    sums::Summing,
};
use crate::{
    error::{Error, Refusal, Result},
    limits,
};

/// Bytes read at once when what is there is hashed again.
const READ_BYTES: usize = 1024 * 1024;

/// An upload that this holder alone writes to. What was appended stays when
/// it is dropped; it blocks, so it belongs on a thread that may.
#[derive(Debug)]
pub struct Upload {
    live: Arc<Live>,
    file: Arc<dyn DiskFile>,
    marks: Marks,
    hasher: Sha256,
    /// As long as every byte came to this holder.
    summing: Option<Summing>,
    committed: u64,
    /// Up to where it is durable, or is being made so.
    syncing: u64,
    size: u64,
    touched: u64,
    /// Whether some of the bytes were there before, and have to be read and
    /// written again before they are believed.
    resumed: bool,
    /// Whether the bytes are in `objects` already, brought by this system.
    in_place: bool,
    failed: bool,
}

/// Work that makes durable what arrived up to a place, beside what arrives
/// meanwhile. Whoever has it runs it and tells its upload before the next.
#[derive(Debug)]
#[must_use = "nothing is durable before it was run"]
pub struct Syncing {
    /// Nobody else writes to the upload before it is known what came of it.
    live: Arc<Live>,
    file: Arc<dyn DiskFile>,
    mark: Mark,
}

/// What became of [`Syncing`].
#[derive(Debug)]
#[must_use = "the upload has to be told"]
pub struct Synced {
    mark: Mark,
    result: io::Result<()>,
}

impl Syncing {
    /// Does it; blocks for as long as the disk takes.
    pub fn run(self) -> Synced {
        // nobody knows which bytes are on the disk, and a further sync would not
        // say: the upload begins again, even if its caller is gone by now
        let result = self.file.sync_data().inspect_err(|_| drop(self.live.discard()));
        Synced { mark: self.mark, result }
    }
}

/// Where an upload goes on.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) committed: u64,
    /// Up to where it is durable.
    pub(super) synced: u64,
    /// What it has seen of the bytes up to `committed`.
    pub(super) hasher: Sha256,
}

impl Standing {
    /// Nothing is there.
    pub(super) fn nowhere() -> Self {
        Self { committed: 0, synced: 0, hasher: Sha256::new() }
    }
}

impl Upload {
    pub(super) fn new(
        live: Live,
        file: Arc<dyn DiskFile>,
        marks: Marks,
        standing: Standing,
        size: u64,
        touched: u64,
    ) -> Self {
        let Standing { committed, synced, hasher } = standing;
        let (resumed, in_place, failed) = (committed > 0, false, false);
        let summing = (!resumed).then(Summing::default);
        Self {
            live: Arc::new(live),
            file,
            marks,
            hasher,
            summing,
            committed,
            syncing: synced,
            size,
            touched,
            resumed,
            in_place,
            failed,
        }
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

    /// Ends when the client has come back on another stream and wants to go on
    /// there.
    pub fn wanted(&self) -> CancellationToken {
        self.live.hold.wanted.clone()
    }

    /// Adds the next bytes, at most a chunk, and makes what arrived durable
    /// now and then.
    pub fn append(&mut self, chunk: &[u8]) -> Result<()> {
        match self.add(chunk)? {
            Some(syncing) => Ok(self.synced(syncing.run())?),
            None => Ok(()),
        }
    }

    /// Adds the next bytes, at most a chunk; returns what is to be made durable
    /// now and then.
    pub fn add(&mut self, chunk: &[u8]) -> Result<Option<Syncing>> {
        if chunk.len() > UPLOAD_CHUNK_BYTES_MAX {
            return Err(Error::invalid("chunk", Reason::TooLarge, chunk.len()));
        }
        if chunk.len() as u64 > self.size - self.committed {
            return Err(Error::invalid("chunk", Reason::SizeMismatch, self.committed + chunk.len() as u64));
        }
        self.file.write_at(self.committed, chunk)?;
        self.hasher.update(chunk);
        if let Some(summing) = &mut self.summing {
            summing.update(chunk);
        }
        self.committed += chunk.len() as u64;
        let mark = self.mark();
        self.marks.arrived(mark.clone())?;
        if self.committed - self.syncing < limits::UPLOAD_SYNC_BYTES {
            return Ok(None);
        }
        self.syncing = self.committed;
        Ok(Some(Syncing { live: self.live.clone(), file: self.file.clone(), mark }))
    }

    /// Makes what arrived durable. Nothing else may be making it so.
    pub fn sync(&mut self) -> Result<()> {
        self.syncing = self.committed;
        let syncing = Syncing { live: self.live.clone(), file: self.file.clone(), mark: self.mark() };
        Ok(self.synced(syncing.run())?)
    }

    /// Takes note of what was made durable, or was not.
    pub fn synced(&mut self, synced: Synced) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        if let Err(error) = synced.result {
            self.failed = true;
            return Err(error);
        }
        if synced.mark.committed == self.committed {
            self.marks.arrived(synced.mark.clone())?;
        }
        self.marks.synced(synced.mark)
    }

    /// Verifies the whole document and takes it into the vault, durably. If
    /// it is not what was declared, it is refused and what arrived is gone.
    pub fn finish(mut self) -> Result<Brought> {
        if self.committed != self.size {
            let refusal = Refusal::new(Reason::SizeMismatch)
                .at("size", Reason::SizeMismatch, self.committed)
                .fact("committed_bytes", self.committed);
            return Err(refusal.into());
        }
        let (found, declared) = (Digest::from(self.mark().sha256), *self.live.sha256());
        if found != declared {
            self.live.discard()?;
            let refusal = Refusal::new(Reason::DigestMismatch)
                .at("sha256", Reason::DigestMismatch, found)
                .fact("expected_digest", declared)
                .fact("actual_digest", found);
            return Err(refusal.into());
        }
        if self.resumed && !self.write_again(&declared)? {
            // the disk's fault, not the client's: it begins again by itself
            self.live.discard()?;
            let refusal = Refusal::new(Reason::OffsetMismatch)
                .at("start.offset", Reason::OffsetMismatch, self.size)
                .fact("committed_bytes", 0);
            return Err(refusal.into());
        }
        if self.file.len()? != self.size {
            self.file.set_len(self.size)?;
        }
        self.sync()?;
        self.live.take_over(self.in_place)?;
        if let Some(summing) = self.summing {
            self.live.vault.0.sums.learn(declared, summing);
        }
        Ok(Brought { _live: self.live })
    }

    /// Whether the bytes are still what they were. They are written as they
    /// are read: after a sync that failed, of a holder before this one, what is
    /// read may be in memory alone, and no later sync would bring it out.
    fn write_again(&self, sha256: &Digest) -> io::Result<bool> {
        let mut whole = Standing::nowhere();
        hash_up_to(&*self.file, &mut whole, self.size, &mut |at, bytes| self.file.write_at(at, bytes))?;
        Ok(whole.committed == self.size && whole.hasher.finalize()[..] == *sha256.as_bytes())
    }

    fn mark(&self) -> Mark {
        Mark::at(self.size, self.committed, self.touched, &self.hasher)
    }
}

/// Where an upload stands: at the latest mark that holds. What is behind the
/// last sync is read again, because lost power may have taken it; what is
/// before it only if its mark does not say where the hasher stood.
pub(super) fn resume(file: &dyn DiskFile, marks: &Marks, size: u64) -> io::Result<Option<Standing>> {
    let held = file.len()?;
    let there = |mark: &&Mark| mark.size == size && mark.committed <= held;
    let durable = marks.durable().filter(there);
    let mut at = match durable {
        Some(Mark { committed, hasher: Some(hasher), .. }) => {
            Standing { committed: *committed, synced: *committed, hasher: hasher.clone() }
        }
        _ => Standing::nowhere(),
    };
    let synced = durable.map_or(0, |mark| mark.committed);
    let mut found = (at.committed > 0).then(|| at.clone());
    let mut candidates: Vec<&Mark> = marks.candidates().filter(there).collect();
    candidates.sort_unstable_by_key(|mark| mark.committed);
    for mark in candidates {
        hash_up_to(file, &mut at, mark.committed, &mut |_, _| Ok(()))?;
        if at.committed == mark.committed && at.hasher.clone().finalize()[..] == mark.sha256 {
            found = Some(Standing { synced: synced.min(at.committed), ..at.clone() });
        }
    }
    Ok(found)
}

/// Hashes a file's bytes from where the hasher stands, and shows them with
/// their place; less if it ends before.
fn hash_up_to(
    file: &dyn DiskFile,
    at: &mut Standing,
    end: u64,
    show: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let left = usize::try_from(end.saturating_sub(at.committed)).unwrap_or(READ_BYTES);
    let mut buffer = vec![0; READ_BYTES.min(left)];
    while at.committed < end {
        let wanted = (end - at.committed).min(buffer.len() as u64) as usize;
        let count = file.read_at(at.committed, &mut buffer[..wanted])?;
        if count == 0 {
            break;
        }
        show(at.committed, &buffer[..count])?;
        at.hasher.update(&buffer[..count]);
        at.committed += count as u64;
    }
    Ok(())
}
