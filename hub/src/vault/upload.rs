//! One document on its way in, hashed as it comes. Becomes an object only
//! when size and SHA-256 are what was declared; one that was interrupted is
//! read and written again first, once and whole: what came before may have
//! lain on the disk for days, or only in memory since a sync failed. Of one
//! that was begun in an earlier life of the hub, that is the only hashing.

use std::{io, sync::Arc};

use axis_proto::{
    hub::v1::Reason,
    id::{Digest, Hasher},
    limits::UPLOAD_CHUNK_BYTES_MAX,
};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    Brought, DiskFile, Live,
    hashers::Hashing,
    mark::{Mark, Marks},
    sums::Summing,
    tail::{Tail, read_through},
};
use crate::{
    error::{Error, Refusal, Result},
    limits,
};

/// An upload that this holder alone writes to. What was appended stays when
/// it is dropped; it blocks, so it belongs on a thread that may.
#[derive(Debug)]
pub struct Upload {
    live: Arc<Live>,
    file: Arc<dyn DiskFile>,
    marks: Marks,
    /// If every byte came in this life of the hub.
    hashing: Option<Hashing>,
    /// As long as every byte came to this holder.
    summing: Option<Summing>,
    committed: u64,
    /// What came since the last sync.
    tail: Tail,
    size: u64,
    touched: u64,
    /// Whether some of the bytes were there before, and have to be read and
    /// written again before they are believed.
    resumed: bool,
    /// Whether the bytes are in `objects` already, brought by this system.
    in_place: bool,
    /// Whether all of it is there, and was verified.
    verified: bool,
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
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) committed: u64,
    /// What came since the last sync.
    tail: Tail,
}

impl Standing {
    /// All up to here is there for good.
    pub(super) fn at(committed: u64) -> Self {
        Self { committed, tail: Tail::at(committed) }
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
        let Standing { committed, tail } = standing;
        let (resumed, in_place, verified, failed) = (committed > 0, false, false, false);
        let hashers = &live.vault.0.hashers;
        let (hashing, summing) = match resumed {
            true => (hashers.go_on(&live.upload, committed), None),
            false => (Some(hashers.begin(&live.upload)), Some(Summing::default())),
        };
        Self {
            live: Arc::new(live),
            file,
            marks,
            hashing,
            summing,
            committed,
            tail,
            size,
            touched,
            resumed,
            in_place,
            verified,
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
        let at = self.committed;
        let due = self.add(&[chunk])?;
        if let Some(hashing) = &self.hashing {
            hashing.update(at, chunk);
        }
        match due {
            Some(syncing) => Ok(self.synced(syncing.run())?),
            None => Ok(()),
        }
    }

    /// Hashes the next chunks: work beside [`Self::add`] of the same. Without it
    /// all of the document is read again before it is believed.
    ///
    /// # Errors
    /// If one of them is refused.
    pub fn hashing(&self, chunks: &[Bytes]) -> Result<impl FnOnce() + Send + use<>> {
        let mut end = self.committed;
        for chunk in chunks {
            end = self.end_of(end, chunk)?;
        }
        let (hashing, mut at, chunks) = (self.hashing.clone(), self.committed, chunks.to_vec());
        Ok(move || {
            let Some(hashing) = hashing else { return };
            for chunk in chunks {
                hashing.update(at, &chunk);
                at += chunk.len() as u64;
            }
        })
    }

    /// Adds the next chunks; returns what is to be made durable now and then.
    pub fn add(&mut self, chunks: &[impl AsRef<[u8]>]) -> Result<Option<Syncing>> {
        chunks.iter().try_for_each(|chunk| self.write(chunk.as_ref()))?;
        if self.committed - self.tail.last_sync() < limits::UPLOAD_SYNC_BYTES {
            return Ok(None);
        }
        self.tail.syncing(self.committed);
        Ok(Some(Syncing { live: self.live.clone(), file: self.file.clone(), mark: self.mark() }))
    }

    /// Where a chunk ends that begins at a place, if it may.
    fn end_of(&self, at: u64, chunk: &[u8]) -> Result<u64> {
        if chunk.len() > UPLOAD_CHUNK_BYTES_MAX {
            return Err(Error::invalid("chunk", Reason::TooLarge, chunk.len()));
        }
        let end = at + chunk.len() as u64;
        if end > self.size {
            return Err(Error::invalid("chunk", Reason::SizeMismatch, end));
        }
        Ok(end)
    }

    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let end = self.end_of(self.committed, chunk)?;
        self.file.write_at(self.committed, chunk)?;
        self.tail.update(chunk);
        if let Some(summing) = &mut self.summing {
            summing.update(chunk);
        }
        self.committed = end;
        Ok(self.marks.arrived(self.mark())?)
    }

    /// Makes what arrived durable. Nothing else may be making it so.
    pub fn sync(&mut self) -> Result<()> {
        self.tail.syncing(self.committed);
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
        let place = synced.mark.committed;
        self.marks.synced(synced.mark)?;
        self.tail.synced(place);
        Ok(())
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
        let declared = *self.live.sha256();
        let found = self.hashing.as_ref().and_then(|hashing| hashing.digest(self.size));
        if let Some(found) = found.filter(|found| *found != declared) {
            self.live.discard()?;
            let refusal = Refusal::new(Reason::DigestMismatch)
                .at("sha256", Reason::DigestMismatch, found)
                .fact("expected_digest", declared)
                .fact("actual_digest", found);
            return Err(refusal.into());
        }
        if (self.resumed || found.is_none()) && !self.write_again(&declared)? {
            // the disk's fault, not the client's, or it is not known whose: it
            // begins again by itself, and then it will be
            self.live.discard()?;
            let refusal = Refusal::new(Reason::OffsetMismatch)
                .at("start.offset", Reason::OffsetMismatch, self.size)
                .fact("committed_bytes", 0);
            return Err(refusal.into());
        }
        self.verified = true;
        if self.file.len()? != self.size {
            self.file.set_len(self.size)?;
        }
        self.sync()?;
        self.live.take_over(self.in_place)?;
        self.live.vault.0.hashers.forget(&self.live.upload);
        if let Some(summing) = self.summing {
            self.live.vault.0.sums.learn(declared, summing);
        }
        Ok(Brought { _live: self.live })
    }

    /// Whether the bytes are what was declared. They are written as they are
    /// read: after a sync that failed, of a holder before this one, what is read
    /// may be in memory alone, and no later sync would bring it out.
    fn write_again(&self, sha256: &Digest) -> io::Result<bool> {
        let mut hasher = Hasher::new();
        let end = read_through(&*self.file, 0, self.size, &mut |at, bytes| {
            hasher.update(bytes);
            self.file.write_at(at, bytes)
        })?;
        Ok(end == self.size && hasher.digest() == *sha256)
    }

    fn mark(&self) -> Mark {
        Mark {
            size: self.size,
            committed: self.committed,
            touched: self.touched,
            sha256: self.verified.then(|| *self.live.sha256()),
            check: self.tail.check(),
        }
    }
}

/// Where an upload stands: where its latest mark says, if what came after the
/// last sync is there, because lost power may have taken it; else at that sync.
/// What is before it is not read.
pub(super) fn resume(file: &dyn DiskFile, marks: &Marks, size: u64) -> io::Result<Option<Standing>> {
    let held = file.len()?;
    let there = |mark: &&Mark| mark.size == size && mark.committed <= held;
    let durable = marks.durable().filter(there).map(|mark| mark.committed);
    let Some(Mark { committed, check, .. }) = marks.latest().filter(there) else {
        return Ok(durable.map(Standing::at));
    };
    // a mark of a sync may be torn, what was behind it is not
    let durable = durable.unwrap_or(0).max(check.from);
    if *committed <= durable {
        return Ok(Some(Standing::at(durable)));
    }
    let tail = Tail::read(file, *check, durable, *committed)?;
    let standing = tail.map(|tail| Standing { committed: *committed, tail });
    Ok(Some(standing.unwrap_or_else(|| Standing::at(durable))))
}
