//! Room on the data disk: new documents are refused before it is full, so
//! that deliveries, their answers and one snapshot still have theirs. Never
//! refuses those.
//!
//! ```text
//! full                                                           empty
//!  ├─ state ─┼───── records ─────┼─ a snapshot ─┤ low mark … new documents
//!  0    DISK_STATE        DISK_LOW             + what a snapshot takes
//! ```
//!
//! What comes in is counted between two looks at the disk, so that no speed
//! outruns them: the mark is passed by what is being written, and no more.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{disk::Disk, limits, observe::Readiness};

/// The room for new documents. Cheap to clone.
#[derive(Clone)]
pub struct DiskRoom(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// What a snapshot would take.
    snapshot_bytes: Box<dyn Fn() -> u64 + Send + Sync>,
    readiness: Readiness,
    /// What may be taken before the next look.
    left: AtomicU64,
    /// Nothing more until the next look.
    low: AtomicBool,
}

impl DiskRoom {
    /// The room on the disk of a directory, after a first look.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        snapshot_bytes: impl Fn() -> u64 + Send + Sync + 'static,
        readiness: Readiness,
    ) -> Self {
        let snapshot_bytes = Box::new(snapshot_bytes);
        let (left, low) = (AtomicU64::new(0), AtomicBool::new(false));
        let room = Self(Arc::new(Inner { disk, dir: dir.to_owned(), snapshot_bytes, readiness, left, low }));
        room.look();
        room
    }

    /// Free bytes below which new documents are refused.
    pub fn low_bytes(&self) -> u64 {
        limits::DISK_LOW_BYTES.saturating_add((self.0.snapshot_bytes)())
    }

    /// Finds out how much there is, and tells readiness. May wait for the
    /// disk. A disk that does not tell is taken for a full one.
    pub fn look(&self) {
        let Inner { disk, dir, left, .. } = &*self.0;
        let free = disk.space(dir).map_or(0, |space| space.free_bytes);
        let above = free.saturating_sub(self.low_bytes());
        left.store(above, Ordering::Relaxed);
        self.set_low(above == 0);
    }

    /// Takes so many bytes of it for a new document. `false` if there is no
    /// room for them: then there is none for any other until the next look.
    pub fn take(&self, bytes: u64) -> bool {
        if self.0.low.load(Ordering::Relaxed) {
            return false;
        }
        if self.take_counted(bytes) {
            return true;
        }
        // all that the last look saw is taken; some of it may be free again
        self.look();
        let taken = self.take_counted(bytes);
        if !taken {
            self.set_low(true);
        }
        taken
    }

    fn take_counted(&self, bytes: u64) -> bool {
        let less = |left: u64| left.checked_sub(bytes);
        self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn set_low(&self, low: bool) {
        if self.0.low.swap(low, Ordering::Relaxed) != low {
            tracing::warn!(full = low, "data disk nearly full");
        }
        self.0.readiness.disk_low(low);
    }
}

impl fmt::Debug for DiskRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskRoom")
            .field("left", &self.0.left)
            .field("low", &self.0.low)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    const MIB: u64 = 1024 * 1024;

    fn room(disk: &MemoryDisk, snapshot_bytes: u64) -> (DiskRoom, Readiness) {
        let readiness = Readiness::new();
        let room =
            DiskRoom::new(Arc::new(disk.clone()), Path::new("/"), move || snapshot_bytes, readiness.clone());
        (room, readiness)
    }

    #[test]
    fn what_comes_in_between_two_looks_is_counted() {
        let disk = MemoryDisk::default();
        disk.set_free_bytes(limits::DISK_LOW_BYTES + 100 * MIB);
        let (room, readiness) = room(&disk, 0);
        // much faster than anybody looks, and the disk says the same all along
        let taken = std::thread::scope(|scope| {
            let one = || (0..1_000).filter(|_| room.take(MIB)).count();
            let all: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum::<usize>()
        });
        // another look or two, each of which saw what was not written yet
        assert!(taken >= 100, "{taken}");
        disk.set_free_bytes(limits::DISK_LOW_BYTES + MIB / 2);
        while room.take(MIB) {}
        assert!(readiness.health().is_disk_low() && !room.take(1));
        // room comes back
        disk.set_free_bytes(limits::DISK_LOW_BYTES + 2 * MIB);
        room.look();
        assert!(!readiness.health().is_disk_low() && room.take(MIB));
    }

    #[test]
    fn a_snapshot_has_its_room_too() {
        let disk = MemoryDisk::default();
        disk.set_free_bytes(limits::DISK_LOW_BYTES + 10 * MIB);
        let (with, readiness) = room(&disk, 10 * MIB);
        assert!(!with.take(1) && readiness.health().is_disk_low());
        assert!(room(&disk, 9 * MIB).0.take(MIB));
    }
}
