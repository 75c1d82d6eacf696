//! Documents by their SHA-256. What is in `objects/` was verified and is
//! durable, file and name, before anybody hears of it. Names on disk are
//! digests and system ids, never words of a user.
//!
//! ```text
//! objects/<first two digits>/<digest>     whole documents
//! uploads/<system>/<digest>.part          what arrived of one
//! uploads/<system>/<digest>.mark          how much of it
//! ```
//!
//! Uploads are each system's own: nothing here tells a system that another
//! one has uploaded the same bytes.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axis_proto::{
    hub::v1::Reason,
    id::{Digest, SystemId},
    limits::DOCUMENT_BYTES_MAX,
};

use tokio_util::sync::CancellationToken;

use crate::{
    disk::{Disk, DiskFile},
    error::{Error, Refusal, Result},
    limits,
};

mod document;
mod hashers;
mod mark;
mod sums;
mod tail;
mod upload;

pub use document::{Document, VerifyingReader};
pub use mark::VERSION as MARK_VERSION;
pub use upload::{Synced, Syncing, Upload};

use hashers::Hashers;
use mark::{Mark, Marks};
use sums::Sums;
use upload::Standing;

/// The documents. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Uploads that somebody writes to now.
    live: Mutex<HashMap<(SystemId, Digest), Hold>>,
    /// Documents that are leaving now. Locked after `live`.
    leaving: Mutex<HashSet<Digest>>,
    /// Of documents that were seen whole.
    sums: Sums,
    /// Of uploads that are not whole.
    hashers: Hashers,
}

/// Somebody's hold on an upload.
#[derive(Debug, Clone, Default)]
struct Hold {
    /// Another one wants it.
    wanted: CancellationToken,
    /// It was given up.
    given_up: CancellationToken,
}

impl Vault {
    /// Opens the vault in a directory, or makes it.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        disk.create_dir(&dir.join("objects"))?;
        disk.create_dir(&dir.join("uploads"))?;
        Ok(Self(Arc::new(Inner {
            disk,
            dir: dir.to_owned(),
            live: Mutex::default(),
            leaving: Mutex::default(),
            sums: Sums::default(),
            hashers: Hashers::default(),
        })))
    }

    /// The vault in a directory that is only read, as it is.
    pub fn existing(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        let (live, leaving, sums, hashers) = Default::default();
        Self(Arc::new(Inner { disk, dir: dir.to_owned(), live, leaving, sums, hashers }))
    }

    /// Whether a document is here. Nothing to tell a system: it may know of
    /// its own uploads only.
    pub fn has(&self, sha256: &Digest) -> io::Result<bool> {
        self.0.disk.exists(&self.object(sha256))
    }

    /// Opens a document to read it; an error of kind `NotFound` if it is not
    /// here.
    pub fn open_document(&self, sha256: &Digest) -> io::Result<Document> {
        Document::open(&*self.0.disk, &self.object(sha256), *sha256, self.0.sums.clone())
    }

    /// Up to where an upload of this system has come.
    pub fn committed(&self, system: &SystemId, sha256: &Digest, size: u64) -> io::Result<u64> {
        let marks = Marks::read(&*self.0.disk, &self.mark(system, sha256))?;
        let Some(latest) = marks.latest().filter(|mark| mark.size == size) else { return Ok(0) };
        let part = self.part(system, sha256);
        if self.0.disk.exists(&part)? {
            let held = self.0.disk.open_read(&part)?.len()?;
            return Ok(if latest.committed <= held { latest.committed } else { 0 });
        }
        let finished = latest.is_of(sha256) && self.has(sha256)?;
        Ok(if finished { size } else { 0 })
    }

    /// Goes on with an upload of this system where it stands, or begins it.
    /// Of what is there, only what came after the last sync is read. A document
    /// has one writer at a time.
    pub fn begin(&self, system: &SystemId, sha256: &Digest, size: u64) -> Result<Upload> {
        if size > DOCUMENT_BYTES_MAX {
            return Err(Error::invalid("size", Reason::TooLarge, size));
        }
        let live = self.enter(system, sha256)?;
        let disk = &*self.0.disk;
        disk.create_dir(&self.uploads(system))?;
        let touched = self.make_room(system, sha256)?;
        let (mark_path, part) = (self.mark(system, sha256), self.part(system, sha256));
        let mut marks = Marks::open(disk, &mark_path)?;
        let arrived = disk.exists(&part)?;
        // what others have brought is never looked at
        let brought = !arrived && marks.latest().is_some_and(|mark| mark.is_of(sha256));
        let source = if brought { self.object(sha256) } else { part.clone() };
        if arrived || (brought && disk.exists(&source)?) {
            let file = disk.open(&source)?;
            let resumed = upload::resume(&*file, &marks, size)?;
            if let Some(standing) = resumed.filter(|standing| arrived || standing.committed == size) {
                // its beginning may have ended before the sync of its names
                disk.sync_dir(&self.uploads(system))?;
                let upload = Upload::new(live, file, marks, standing, size, touched);
                return Ok(if brought { upload.in_place() } else { upload });
            }
        }
        if arrived {
            disk.remove(&part)?;
        }
        let file = disk.create(&part)?;
        marks.reset(Mark::new(size, touched))?;
        disk.sync_dir(&self.uploads(system))?;
        Ok(Upload::new(live, file, marks, Standing::at(0), size, touched))
    }

    /// Asks whoever writes to an upload to stop: the client has come back
    /// before the hub saw that it was gone. What this returns ends when the
    /// upload is free; nothing if it is.
    pub fn ask_for(&self, system: &SystemId, sha256: &Digest) -> Option<CancellationToken> {
        let hold = self.live().get(&(system.clone(), *sha256)).cloned()?;
        hold.wanted.cancel();
        Some(hold.given_up)
    }

    /// Whether the rest of an upload finds room on the disk, beside what else
    /// its system has begun: a promise of bytes is not kept with those of
    /// others.
    ///
    /// # Errors
    /// `DISK_FULL` if it does not.
    pub fn has_room(&self, system: &SystemId, sha256: &Digest, size: u64) -> Result<()> {
        let disk = &*self.0.disk;
        let free = disk.space(&self.0.dir)?.free_bytes.saturating_sub(limits::DISK_LOW_BYTES);
        let (mut rest, mut others) = (size, 0_u64);
        for name in disk.list(&self.uploads(system))? {
            let Some(digest) = name.strip_suffix(MARK).and_then(digest_of) else { continue };
            let marks = Marks::read(disk, &self.mark(system, &digest))?;
            let Some(mark) = marks.latest().filter(|mark| !mark.is_of(&digest)) else { continue };
            let left = mark.size.saturating_sub(mark.committed);
            match digest == *sha256 && mark.size == size {
                true => rest = left,
                false => others = others.saturating_add(left),
            }
        }
        let all = others.saturating_add(rest);
        let modest = others == 0 || rest <= limits::UPLOAD_SMALL_BYTES || all <= free / 2;
        if all <= free && modest {
            return Ok(());
        }
        Err(Refusal::new(Reason::DiskFull).retry_after_ms(limits::UPLOAD_ROOM_RETRY_MS).into())
    }

    /// Forgets that a system has finished an upload, or what it has brought of
    /// an unfinished one. A document in the vault stays.
    pub fn forget(&self, system: &SystemId, sha256: &Digest) -> Result<()> {
        let _live = self.enter(system, sha256)?;
        Ok(self.remove_upload(system, sha256)?)
    }

    /// Shows every document's digest, in order.
    pub fn objects(&self, visit: &mut dyn FnMut(Digest) -> io::Result<()>) -> io::Result<()> {
        let objects = self.0.dir.join("objects");
        for prefix in self.0.disk.list(&objects)? {
            for name in self.0.disk.list(&objects.join(&prefix))? {
                if let Some(digest) = digest_of(&name) {
                    visit(digest)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a copy of another vault's document, verified, and returns its
    /// bytes; none if it is here. Its name is durable only after
    /// [`Self::sync_objects`].
    pub fn put(&self, document: &Document) -> io::Result<u64> {
        let disk = &*self.0.disk;
        let object = self.object(&document.sha256());
        if disk.exists(&object)? && disk.open_read(&object)?.len()? == document.size() {
            return Ok(0);
        }
        disk.create_dir(crate::disk::parent_of(&object))?;
        // no digest: nobody takes it for a document
        let part = crate::disk::with_suffix(&object, COPY);
        if disk.exists(&part)? {
            disk.remove(&part)?;
        }
        let file = disk.create(&part)?;
        let (mut reader, mut at) = (document.reader(), 0);
        loop {
            let bytes = reader.next(COPY_BYTES).inspect_err(|_| {
                let _left_behind = disk.remove(&part);
            })?;
            if bytes.is_empty() {
                break;
            }
            file.write_at(at, &bytes)?;
            at += bytes.len() as u64;
        }
        file.sync_data()?;
        disk.rename(&part, &object)?;
        Ok(at)
    }

    /// Removes what [`Self::put`] left that did not end.
    pub fn remove_partial_copies(&self) -> io::Result<()> {
        let objects = self.0.dir.join("objects");
        for prefix in self.0.disk.list(&objects)? {
            let dir = objects.join(prefix);
            for name in self.0.disk.list(&dir)?.iter().filter(|name| name.ends_with(COPY)) {
                self.0.disk.remove(&dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Where a document lies.
    pub fn path_of(&self, sha256: &Digest) -> PathBuf {
        self.object(sha256)
    }

    /// Makes the names of all documents durable.
    pub fn sync_objects(&self) -> io::Result<()> {
        let objects = self.0.dir.join("objects");
        for prefix in self.0.disk.list(&objects)? {
            self.0.disk.sync_dir(&objects.join(prefix))?;
        }
        self.0.disk.sync_dir(&objects)
    }

    /// Removes a document of a vault that no hub serves from: a backup's.
    pub fn remove(&self, sha256: &Digest) -> io::Result<()> {
        self.0.disk.remove(&self.object(sha256))?;
        self.0.disk.sync_dir(crate::disk::parent_of(&self.object(sha256)))
    }

    /// The documents of one directory, which is named by their first two
    /// digits.
    pub fn directory(&self, name: &str) -> io::Result<Vec<Digest>> {
        let names = self.0.disk.list(&self.0.dir.join("objects").join(name))?;
        Ok(names.iter().filter_map(|name| digest_of(name)).collect())
    }

    /// The right to remove a document: nobody brings it meanwhile. `None` if
    /// somebody does now.
    pub fn lock(&self, sha256: &Digest) -> Option<Leaving> {
        let live = self.live();
        let free = !live.keys().any(|(_, uploaded)| uploaded == sha256) && self.leaving().insert(*sha256);
        free.then(|| Leaving { vault: self.clone(), sha256: *sha256 })
    }

    /// Forgets what systems have brought of a document that is not whole, or
    /// that they have brought it. False if somebody is bringing it now.
    pub fn discard_uploads(&self, sha256: &Digest) -> io::Result<bool> {
        let Some(_leaving) = self.lock(sha256) else { return Ok(false) };
        for system in self.uploading()? {
            self.remove_upload(&system, sha256)?;
            self.0.disk.sync_dir(&self.uploads(&system))?;
        }
        Ok(true)
    }

    /// Removes uploads that nobody has written to since a moment; returns how
    /// many. A disk that does not say when keeps them.
    pub fn remove_idle_uploads(&self, before_ms: limits::Millis) -> io::Result<u64> {
        let mut removed = 0;
        for system in self.uploading()? {
            for name in self.0.disk.list(&self.uploads(&system))? {
                let Some(sha256) = name.strip_suffix(MARK).and_then(digest_of) else { continue };
                // entered first: nobody goes on with it meanwhile
                let Ok(_live) = self.enter(&system, &sha256) else { continue };
                let modified = self.0.disk.modified_unix_ms(&self.mark(&system, &sha256))?;
                if modified.is_some_and(|modified| modified < before_ms) {
                    self.remove_upload(&system, &sha256)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Systems that have uploaded.
    fn uploading(&self) -> io::Result<Vec<SystemId>> {
        let names = self.0.disk.list(&self.0.dir.join("uploads"))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Makes room for one more unfinished upload of a system, and says which
    /// number it has in the order of their use. Finished ones go first, then
    /// those that were longest not touched.
    fn make_room(&self, system: &SystemId, sha256: &Digest) -> Result<u64> {
        let mut marks = Vec::new();
        for name in self.0.disk.list(&self.uploads(system))? {
            let Some(digest) = name.strip_suffix(MARK).and_then(digest_of) else { continue };
            let mark = Marks::read(&*self.0.disk, &self.mark(system, &digest))?;
            let (finished, touched) =
                mark.latest().map_or((true, 0), |mark| (mark.is_of(&digest), mark.touched));
            marks.push((!finished, touched, digest));
        }
        let touched = marks.iter().map(|(_, touched, _)| *touched).max().unwrap_or(0) + 1;
        marks.retain(|(_, _, digest)| digest != sha256);
        marks.sort_unstable();
        let mut surplus = (marks.len() + 1).saturating_sub(limits::UPLOADS_PER_SYSTEM_MAX);
        for (_, _, digest) in marks {
            if surplus == 0 {
                break;
            }
            if !self.live().contains_key(&(system.clone(), digest)) {
                self.remove_upload(system, &digest)?;
                surplus -= 1;
            }
        }
        if surplus > 0 { Err(busy()) } else { Ok(touched) }
    }

    fn remove_upload(&self, system: &SystemId, sha256: &Digest) -> io::Result<()> {
        self.0.hashers.forget(&(system.clone(), *sha256));
        for path in [self.part(system, sha256), self.mark(system, sha256)] {
            if self.0.disk.exists(&path)? {
                self.0.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    fn enter(&self, system: &SystemId, sha256: &Digest) -> Result<Live> {
        let upload = (system.clone(), *sha256);
        let hold = Hold::default();
        let mut live = self.live();
        match live.entry(upload.clone()) {
            // what is leaving is gone in a moment: then it is brought anew
            Entry::Vacant(vacant) if !self.leaving().contains(sha256) => vacant.insert(hold.clone()),
            Entry::Occupied(_) | Entry::Vacant(_) => return Err(busy()),
        };
        drop(live);
        Ok(Live { vault: self.clone(), upload, hold })
    }

    fn leaving(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<(SystemId, Digest), Hold>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, sha256: &Digest) -> PathBuf {
        let name = sha256.to_string();
        self.0.dir.join("objects").join(&name[..2]).join(name)
    }

    fn uploads(&self, system: &SystemId) -> PathBuf {
        self.0.dir.join("uploads").join(system.as_str())
    }

    fn part(&self, system: &SystemId, sha256: &Digest) -> PathBuf {
        self.uploads(system).join(format!("{sha256}{PART}"))
    }

    fn mark(&self, system: &SystemId, sha256: &Digest) -> PathBuf {
        self.uploads(system).join(format!("{sha256}{MARK}"))
    }
}

/// Bytes of a document that are copied at once.
const COPY_BYTES: usize = 1024 * 1024;
const COPY: &str = ".copy";
/// The right to remove a document, until dropped.
#[derive(Debug)]
pub struct Leaving {
    vault: Vault,
    sha256: Digest,
}

impl Leaving {
    /// The document.
    pub fn document(&self) -> &Digest {
        &self.sha256
    }

    /// Removes it, if it is here, and makes durable that it is not: an earlier
    /// removal may have ended before its sync. Only for one that nothing names
    /// and nobody pins.
    pub fn remove(&self) -> io::Result<()> {
        let (disk, path) = (&self.vault.0.disk, self.vault.object(&self.sha256));
        let dir = crate::disk::parent_of(&path);
        if disk.exists(&path)? {
            disk.remove(&path)?;
        }
        if disk.exists(dir)? { disk.sync_dir(dir) } else { Ok(()) }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.vault.leaving().remove(&self.sha256);
    }
}

/// A document that somebody has just brought: it does not leave while this
/// lives. To be held until it is recorded.
#[derive(Debug)]
pub struct Brought {
    _live: Arc<Live>,
}

const PART: &str = ".part";
const MARK: &str = ".mark";

/// The right to write to an upload, until dropped.
#[derive(Debug)]
struct Live {
    vault: Vault,
    upload: (SystemId, Digest),
    hold: Hold,
}

impl Live {
    fn sha256(&self) -> &Digest {
        &self.upload.1
    }

    /// Takes a verified part into `objects`. The document may be there
    /// already: then the same bytes take its place, by the same steps.
    fn take_over(&self, in_place: bool) -> io::Result<()> {
        let (system, sha256) = &self.upload;
        let (vault, object) = (&self.vault, self.vault.object(sha256));
        let dir = crate::disk::parent_of(&object);
        if !in_place {
            // syncs its name too: an upload that made the directory may have
            // ended, or not come, before its own sync
            vault.0.disk.create_dir(dir)?;
            vault.0.disk.rename(&vault.part(system, sha256), &object)?;
        }
        // a crash here: the document may be there or not, nobody was told
        vault.0.disk.sync_dir(dir)
    }

    fn discard(&self) -> io::Result<()> {
        self.vault.remove_upload(&self.upload.0, &self.upload.1)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.vault.live().remove(&self.upload);
        self.hold.given_up.cancel();
    }
}

fn digest_of(name: &str) -> Option<Digest> {
    name.parse().ok()
}

fn busy() -> Error {
    Refusal::new(Reason::Busy).retry_after_ms(limits::UPLOAD_BUSY_RETRY_MS).into()
}

#[cfg(test)]
mod tests;
