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
//! outruns them: the mark is passed by what is being written, and no more. A
//! document takes whole blocks, and files, of which a disk may have too few.

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
    /// Files that may be made before it.
    files_left: AtomicU64,
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
        let room = Self(Arc::new(Inner {
            disk,
            dir: dir.to_owned(),
            snapshot_bytes,
            readiness,
            left: AtomicU64::new(0),
            files_left: AtomicU64::new(0),
            low: AtomicBool::new(false),
        }));
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
        let Inner { disk, dir, left, files_left, .. } = &*self.0;
        let (free, files) = disk.space(dir).map_or((0, 0), |space| (space.free_bytes, space.free_files));
        let above = free.saturating_sub(self.low_bytes());
        let files_above = files.saturating_sub(limits::DISK_LOW_FILES);
        left.store(above, Ordering::Relaxed);
        files_left.store(files_above, Ordering::Relaxed);
        self.set_low(above == 0 || files_above == 0);
    }

    /// Takes so many bytes of it for a new document. `false` if there is no
    /// room for them: then there is none for any other until the next look.
    pub fn take(&self, bytes: u64) -> bool {
        self.take_all(bytes, 0)
    }

    /// Takes what an upload of so many bytes takes beside them: the rest of its
    /// last block, and its files. As [`Self::take`].
    pub fn take_upload(&self, size: u64) -> bool {
        self.take_all(beside(size), limits::UPLOAD_FILES)
    }

    fn take_all(&self, bytes: u64, files: u64) -> bool {
        if self.0.low.load(Ordering::Relaxed) {
            return false;
        }
        if self.take_counted(bytes, files) {
            return true;
        }
        // all that the last look saw is taken; some of it may be free again
        self.look();
        let taken = self.take_counted(bytes, files);
        if !taken {
            self.set_low(true);
        }
        taken
    }

    fn take_counted(&self, bytes: u64, files: u64) -> bool {
        let less = |from: &AtomicU64, by: u64| {
            from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(by)).is_ok()
        };
        // what is taken of the one for nothing is there again at the next look
        less(&self.0.files_left, files) && less(&self.0.left, bytes)
    }

    fn set_low(&self, low: bool) {
        if self.0.low.swap(low, Ordering::Relaxed) != low {
            let (bytes, files) = (&self.0.left, &self.0.files_left);
            tracing::warn!(full = low, ?bytes, ?files, "data disk nearly full");
        }
        self.0.readiness.disk_low(low);
    }
}

/// What a document of so many bytes takes on the disk beside them: the rest of
/// its last block, and a block for nothing.
pub fn beside(size: u64) -> u64 {
    let blocks = size.div_ceil(limits::DISK_BLOCK_BYTES).max(1);
    blocks.saturating_mul(limits::DISK_BLOCK_BYTES).saturating_sub(size)
}

impl fmt::Debug for DiskRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskRoom")
            .field("left", &self.0.left)
            .field("files_left", &self.0.files_left)
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
    fn small_documents_take_blocks_and_files() {
        assert_eq!([0, 1, 4, 4_095, 4_096, 4_097].map(beside), [4_096, 4_095, 4_092, 1, 0, 4_095]);
        assert_eq!(beside(u64::MAX), 0);
        let disk = MemoryDisk::default();
        disk.set_free_bytes(limits::DISK_LOW_BYTES + MIB);
        disk.set_free_files(limits::DISK_LOW_FILES + 100);
        let (room, readiness) = room(&disk, 0);
        assert!(room.take_upload(4) && room.take(4));
        let left = |of: &AtomicU64| of.load(Ordering::Relaxed);
        assert_eq!(left(&room.0.left), MIB - limits::DISK_BLOCK_BYTES);
        assert_eq!(left(&room.0.files_left), 100 - limits::UPLOAD_FILES);
        disk.set_free_bytes(limits::DISK_LOW_BYTES + limits::DISK_BLOCK_BYTES - 5);
        room.look();
        assert!(!room.take_upload(4), "a block is more than there is");
        assert!(readiness.health().is_disk_low() && !room.take(1));
    }

    #[test]
    fn a_disk_without_files_takes_no_document() {
        let disk = MemoryDisk::default();
        disk.set_free_files(limits::DISK_LOW_FILES + limits::UPLOAD_FILES - 1);
        let (room, readiness) = room(&disk, 0);
        assert!(room.take(1 << 20) && !room.take_upload(1 << 20));
        assert!(readiness.health().is_disk_low() && !room.take(1));
        disk.set_free_files(limits::DISK_LOW_FILES);
        room.look();
        assert!(readiness.health().is_disk_low(), "bytes alone are not enough");
        disk.set_free_files(limits::DISK_LOW_FILES + 100);
        room.look();
        assert!(!readiness.health().is_disk_low() && room.take_upload(4));
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
