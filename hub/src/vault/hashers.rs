//! The hashers of unfinished uploads, as long as the hub lives: an upload goes
//! on after a broken stream without its bytes being read again. On no disk, and
//! as few as there are unfinished uploads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axis_proto::id::{Digest, Hasher, SystemId};

/// Whose upload of what.
pub(super) type Key = (SystemId, Digest);

/// The hashers, by upload.
#[derive(Debug, Default)]
pub(super) struct Hashers(Mutex<HashMap<Key, Hashing>>);

impl Hashers {
    /// That of an upload that begins.
    pub(super) fn begin(&self, upload: &Key) -> Hashing {
        let hashing = Hashing::default();
        self.all().insert(upload.clone(), hashing.clone());
        hashing
    }

    /// That of an upload that goes on after so many bytes; none if what it has
    /// seen is something else, or was seen by an earlier life of the hub. One of
    /// its own: what the holder before has left behind does not reach it.
    pub(super) fn go_on(&self, upload: &Key, committed: u64) -> Option<Hashing> {
        let mut all = self.all();
        let seen = all.remove(upload)?.seen().clone();
        let hashing = (seen.bytes == committed).then(|| Hashing(Arc::new(Mutex::new(seen))))?;
        all.insert(upload.clone(), hashing.clone());
        Some(hashing)
    }

    /// Forgets that of an upload that ended or is gone.
    pub(super) fn forget(&self, upload: &Key) {
        self.all().remove(upload);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Hashing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, that has seen every byte of its upload. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashing(Arc<Mutex<Seen>>);

#[derive(Debug, Clone, Default)]
struct Seen {
    bytes: u64,
    hasher: Hasher,
}

impl Hashing {
    /// Sees the bytes at a place, if that is where it has come to.
    pub(super) fn update(&self, at: u64, bytes: &[u8]) {
        let mut seen = self.seen();
        if seen.bytes == at {
            seen.hasher.update(bytes);
            seen.bytes += bytes.len() as u64;
        }
    }

    /// Of all bytes, if it has seen so many.
    pub(super) fn digest(&self, size: u64) -> Option<Digest> {
        let seen = self.seen();
        (seen.bytes == size).then(|| seen.hasher.clone().digest())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
