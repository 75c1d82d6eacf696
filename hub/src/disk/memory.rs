//! A disk in memory for tests, whose power can be taken away: what was synced
//! stays, what was not may be lost, torn at any byte or sector, or arrive in
//! another order. Fails on demand, and by a seed any call may.
//!
//! ```text
//! data    each unsynced write: there, lost, torn at a byte, without its first
//!         sectors, or sector by sector
//! names   each unsynced change of a directory: there or lost, whatever the others
//! sync    one that failed may have lost what it was for, although the next succeeds
//! space   a write that finds no room lands in part
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Disk, DiskFile, Space, parent_of};

/// What a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    files: Vec<Content>,
    /// Names as they are seen now, and as a crash would leave them.
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// Changes of names since their directory was synced, oldest first.
    pending_names: Vec<Change>,
    /// Writes, syncs and renames so far, and how many may succeed.
    operations: u64,
    operations_max: Option<u64>,
    /// The next sync of a file fails, and what follows goes on.
    next_sync_fails: bool,
    /// What [`Disk::space`] says, if not plenty.
    free_bytes: Option<u64>,
    free_files: Option<u64>,
    /// How many bytes all files together may have.
    capacity_bytes: Option<u64>,
    faults: Option<Faults>,
    /// Syncs that do nothing, and say that they did.
    left_out: Option<(Synced, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

/// What a sync is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// What a file holds.
    Data,
    /// The names in a directory.
    Names,
}

/// One change of names, which happens as a whole.
#[derive(Debug, Default)]
struct Change {
    set: Option<(PathBuf, Node)>,
    clear: Option<PathBuf>,
}

/// Calls that fail, by a seed.
#[derive(Debug)]
struct Faults {
    random: fastrand::Rng,
    one_in: u32,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    unreadable: bool,
    /// A sync failed, and no later one will write what it was for.
    forgot: bool,
}

#[derive(Debug)]
enum Pending {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// What becomes of unsynced writes when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Sectors,
    Bytes,
    Writes,
}

impl MemoryDisk {
    /// Takes the power away and gives it back: what is not synced is lost as
    /// `random` (from 0 to below its argument) says. Faults end.
    pub fn crash(&self, mut random: impl FnMut(usize) -> usize) {
        let mut world = self.world();
        world.operations_max = None;
        world.faults = None;
        world.next_sync_fails = false;
        world.lose_names(&mut random);
        let loss = [Loss::Sectors, Loss::Bytes, Loss::Writes][random(3)];
        let named: BTreeSet<usize> = world.file_ids().collect();
        for (id, content) in world.files.iter_mut().enumerate() {
            if !named.contains(&id) {
                *content = Content::default();
                continue;
            }
            for pending in std::mem::take(&mut content.pending) {
                pending.arrive(&mut content.durable, loss, &mut random);
            }
            content.forgot = false;
            content.now.clone_from(&content.durable);
        }
    }

    /// The process ended and the machine goes on: what was written is still
    /// there to be read. But for what a failed sync was for: that may be read
    /// as the device has it. Faults end.
    pub fn restart(&self, mut random: impl FnMut(usize) -> usize) {
        let mut world = self.world();
        world.operations_max = None;
        world.faults = None;
        world.next_sync_fails = false;
        for content in world.files.iter_mut().filter(|content| content.forgot) {
            if random(2) == 0 {
                let mut now = content.durable.clone();
                content.pending.iter().for_each(|pending| pending.apply(&mut now));
                content.now = now;
            }
        }
    }

    /// After this many more writes, syncs, renames or removals each one fails,
    /// until a crash or the next call.
    pub fn fail_after(&self, operations: u64) {
        let mut world = self.world();
        world.operations_max = Some(world.operations.saturating_add(operations));
    }

    /// Whether the operations that may succeed are used up.
    pub fn is_dead(&self) -> bool {
        let world = self.world();
        world.operations_max.is_some_and(|max| world.operations >= max)
    }

    /// Lets about one call in so many fail from now on, as the seed says:
    /// with an error of the device or no room, writes in part, syncs with the
    /// loss of what they were for. Ends with a crash or a restart.
    pub fn fail_one_in(&self, calls: u32, seed: u64) {
        let faults = Faults { random: fastrand::Rng::with_seed(seed), one_in: calls };
        self.world().faults = (calls > 0).then_some(faults);
    }

    /// Leaves out every sync of this kind below paths that contain a word, as
    /// if the code had forgotten it.
    pub fn leave_out(&self, what: Synced, containing: &str) {
        self.world().left_out = Some((what, containing.to_owned()));
    }

    /// Lets the next sync of a file fail, and no other. What it was for stays
    /// readable, and no later sync brings it out.
    pub fn fail_next_sync(&self) {
        self.world().next_sync_fails = true;
    }

    /// How much room there is from now on, by what it says.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.world().free_bytes = Some(free_bytes);
    }

    /// How many files may still be made from now on, by what it says.
    pub fn set_free_files(&self, free_files: u64) {
        self.world().free_files = Some(free_files);
    }

    /// How many bytes all files together may have from now on; `None`: any.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.world().capacity_bytes = capacity_bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.world().used_bytes()
    }

    /// How many writes, syncs, renames and removals there were.
    pub fn operations(&self) -> u64 {
        self.world().operations
    }

    /// Another disk with the same files, all of it durable.
    pub fn copy(&self) -> Self {
        let world = self.world();
        let files = world
            .files
            .iter()
            .map(|content| Content {
                now: content.now.clone(),
                durable: content.now.clone(),
                unreadable: content.unreadable,
                ..Content::default()
            })
            .collect();
        let copy = World {
            files,
            names: world.names.clone(),
            durable_names: world.names.clone(),
            ..World::default()
        };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// A file's bytes.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let world = self.world();
        let id = world.file(path)?;
        Ok(world.files[id].now.clone())
    }

    /// Changes a file's bytes, durably, as damage would.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut world = self.world();
        let id = world.file(path)?;
        change(&mut world.files[id].now);
        world.files[id].durable = world.files[id].now.clone();
        Ok(())
    }

    /// Lets every read of a file fail, as a bad sector would.
    pub fn make_unreadable(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let id = world.file(path)?;
        world.files[id].unreadable = true;
        Ok(())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn leaves_out(&self, what: Synced, path: &Path) -> bool {
        let left_out = self.left_out.as_ref();
        left_out.is_some_and(|(kind, word)| *kind == what && path.to_string_lossy().contains(word))
    }

    fn file_ids(&self) -> impl Iterator<Item = usize> + '_ {
        self.names.values().filter_map(|node| match node {
            Node::File(id) => Some(*id),
            Node::Directory => None,
        })
    }

    fn used_bytes(&self) -> u64 {
        self.file_ids().map(|id| self.files[id].now.len() as u64).sum()
    }

    fn count(&mut self) -> io::Result<()> {
        self.start()?;
        self.fault()
    }

    fn start(&mut self) -> io::Result<()> {
        if self.operations_max.is_some_and(|max| self.operations >= max) {
            return Err(io::Error::other("injected fault"));
        }
        self.operations += 1;
        Ok(())
    }

    /// An error, if it is the turn of one.
    fn fault(&mut self) -> io::Result<()> {
        let Some(faults) = &mut self.faults else { return Ok(()) };
        if faults.random.u32(..faults.one_in) > 0 {
            return Ok(());
        }
        let full = faults.random.u8(..3) == 0;
        let kind = if full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
        Err(io::Error::new(kind, "injected fault"))
    }

    fn change_names(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// What a crash leaves of the names.
    fn lose_names(&mut self, random: &mut dyn FnMut(usize) -> usize) {
        let pending = std::mem::take(&mut self.pending_names);
        if random(3) == 0 {
            // as a file system's own journal does it: in order
            let kept = random(pending.len() + 1);
            pending.iter().take(kept).for_each(|change| change.apply(&mut self.durable_names));
        } else {
            for change in pending {
                match random(4) {
                    0 | 1 => {}
                    // two directories: the old name may have stayed beside the new
                    2 if !change.is_in_one_directory() => {
                        Change { clear: None, ..change }.apply(&mut self.durable_names);
                    }
                    _ => change.apply(&mut self.durable_names),
                }
            }
        }
        let mut names = std::mem::take(&mut self.durable_names);
        // sorted: a directory comes before what is in it
        let mut dirs = BTreeSet::new();
        names.retain(|path, node| {
            let reached = path.parent().is_none() || path == Path::new(".") || dirs.contains(parent_of(path));
            if reached && *node == Node::Directory {
                dirs.insert(path.clone());
            }
            reached
        });
        (self.names, self.durable_names) = (names.clone(), names);
    }

    /// Writes as much as there is room for.
    fn write(&mut self, id: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut count = bytes.len();
        if let Some(capacity) = self.capacity_bytes {
            let len = self.files[id].now.len();
            let grows = (offset + count).saturating_sub(len);
            let room = usize::try_from(capacity.saturating_sub(self.used_bytes())).unwrap_or(usize::MAX);
            if grows > room {
                count = (len + room).saturating_sub(offset).min(count);
                outcome = Err(io::Error::new(io::ErrorKind::StorageFull, "no room"));
            }
        }
        if let Err(error) = self.fault() {
            count = self.faults.as_mut().map_or(0, |faults| faults.random.usize(..=count));
            outcome = Err(error);
        }
        if count > 0 {
            let content = &mut self.files[id];
            write(&mut content.now, offset, &bytes[..count]);
            content.pending.push(Pending::Write(offset, bytes[..count].to_vec()));
        }
        outcome
    }

    /// Makes a file's writes durable, or some of them and then fails.
    fn sync(&mut self, id: usize) -> io::Result<()> {
        let failed = self.fault();
        let content = &mut self.files[id];
        let pending = std::mem::take(&mut content.pending);
        if let (Err(error), Some(faults)) = (failed, &mut self.faults) {
            content.forgot = true;
            for pending in pending {
                if faults.random.bool() {
                    pending.apply(&mut content.durable);
                }
            }
            return Err(error);
        }
        pending.iter().for_each(|pending| pending.apply(&mut content.durable));
        Ok(())
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        if let Some(path) = &self.clear {
            names.remove(path);
        }
        if let Some((path, node)) = &self.set {
            names.insert(path.clone(), *node);
        }
    }

    fn is_in_one_directory(&self) -> bool {
        match (&self.set, &self.clear) {
            (Some((to, _)), Some(from)) => to.parent() == from.parent(),
            _ => true,
        }
    }
}

impl Pending {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => write(content, *offset, bytes),
            Self::SetLen(len) => content.resize(*len, 0),
        }
    }

    /// What arrives of it when the power goes.
    fn arrive(&self, content: &mut Vec<u8>, loss: Loss, random: &mut dyn FnMut(usize) -> usize) {
        let (offset, bytes) = match self {
            Self::Write(offset, bytes) if loss != Loss::Writes => (*offset, bytes),
            whole => {
                if random(2) == 0 {
                    whole.apply(content);
                }
                return;
            }
        };
        if loss == Loss::Bytes {
            let torn = random(bytes.len() + 1);
            match random(4) {
                0 => write(content, offset, bytes),
                1 => {}
                2 => write(content, offset, &bytes[..torn]),
                _ => {
                    // a device writes sectors whole: the rest begins with one
                    let from = (offset + torn).next_multiple_of(SECTOR_BYTES) - offset;
                    write(content, offset + from, bytes.get(from..).unwrap_or_default());
                }
            }
            return;
        }
        let mut at = 0;
        while at < bytes.len() {
            let sector_end = (offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
            let end = bytes.len().min(sector_end - offset);
            if random(2) == 0 {
                write(content, offset + at, &bytes[at..end]);
            }
            at = end;
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        if world.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if world.names.get(parent_of(path)) != Some(&Node::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.count()?;
        let id = world.files.len();
        world.files.push(Content::default());
        world.change_names(Change { set: Some((path.to_owned(), Node::File(id))), clear: None });
        Ok(Arc::new(MemoryFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.fault()?;
        let id = world.file(path)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.world().names.contains_key(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        let below = world.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(below.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.parent().is_none() || dir == Path::new(".") {
            let mut world = self.world();
            world.names.insert(dir.to_owned(), Node::Directory);
            world.durable_names.insert(dir.to_owned(), Node::Directory);
            return Ok(());
        }
        let parent = parent_of(dir);
        if !self.exists(dir)? {
            self.create_dir(parent)?;
            self.world().change_names(Change { set: Some((dir.to_owned(), Node::Directory)), clear: None });
        }
        self.sync_dir(parent)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.count()?;
        if world.leaves_out(Synced::Names, dir) {
            return Ok(());
        }
        let pending = std::mem::take(&mut world.pending_names);
        for mut change in pending {
            let is_here = |path: &Path| path.parent() == Some(dir);
            let sets = change.set.as_ref().is_some_and(|(path, _)| is_here(path));
            let clears = change.clear.as_deref().is_some_and(is_here);
            if !sets && !clears {
                world.pending_names.push(change);
                continue;
            }
            // the new name never comes later than the old one goes
            let old = if clears { None } else { change.clear.take() };
            change.apply(&mut world.durable_names);
            if old.is_some() {
                world.pending_names.push(Change { set: None, clear: old });
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.count()?;
        let id = world.file(from)?;
        if from != to {
            let set = Some((to.to_owned(), Node::File(id)));
            world.change_names(Change { set, clear: Some(from.to_owned()) });
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.count()?;
        world.file(path)?;
        world.change_names(Change { set: None, clear: Some(path.to_owned()) });
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let world = self.world();
        let free_bytes = world.free_bytes.unwrap_or(1 << 40);
        let free_files = world.free_files.unwrap_or(u64::MAX);
        Ok(Space { free_bytes, total_bytes: 1 << 41, free_files })
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    id: usize,
    /// As it was opened.
    path: PathBuf,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.disk.world();
        world.fault()?;
        if world.files[self.id].unreadable {
            return Err(io::Error::other("a bad sector"));
        }
        let content = &world.files[self.id].now;
        let start = content.len().min(offset as usize);
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.disk.world();
        world.start()?;
        world.write(self.id, offset as usize, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.start()?;
        if std::mem::take(&mut world.next_sync_fails) {
            let content = &mut world.files[self.id];
            content.pending.clear();
            content.forgot = true;
            return Err(io::Error::other("injected fault"));
        }
        if world.leaves_out(Synced::Data, &self.path) {
            return Ok(());
        }
        world.sync(self.id)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.world().files[self.id].now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.count()?;
        let content = &mut world.files[self.id];
        content.now.resize(len as usize, 0);
        content.pending.push(Pending::SetLen(len as usize));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (MemoryDisk, PathBuf) {
        let disk = MemoryDisk::default();
        let dir = PathBuf::from("/dir");
        disk.create_dir(&dir).unwrap();
        (disk, dir)
    }

    #[test]
    fn what_a_failed_sync_was_for_may_be_lost_although_the_next_succeeds() {
        let mut lost = 0;
        for seed in 0..64 {
            let (disk, dir) = disk();
            let file = disk.create(&dir.join("file")).unwrap();
            disk.sync_dir(&dir).unwrap();
            file.write_at(0, b"bytes").unwrap();
            disk.fail_one_in(1, seed);
            file.sync_data().unwrap_err();
            disk.fail_one_in(0, 0);
            file.sync_data().unwrap();
            assert_eq!(disk.read(&dir.join("file")).unwrap(), b"bytes", "the cache has them");
            disk.crash(|_| 0);
            lost += u32::from(disk.read(&dir.join("file")).unwrap() != b"bytes");
        }
        assert!((1..64).contains(&lost), "{lost}");
    }

    #[test]
    fn a_write_that_finds_no_room_lands_in_part() {
        let (disk, dir) = disk();
        let file = disk.create(&dir.join("file")).unwrap();
        disk.set_capacity_bytes(Some(10));
        file.write_at(0, &[1; 8]).unwrap();
        let error = file.write_at(4, &[2; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read(&dir.join("file")).unwrap(), [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
        file.write_at(0, &[3; 10]).unwrap();
        disk.set_capacity_bytes(None);
        file.write_at(10, &[4]).unwrap();
        assert_eq!(disk.used_bytes(), 11);
    }

    #[test]
    fn what_arrives_without_its_beginning_begins_with_a_sector() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut begins = BTreeSet::new();
        for _ in 0..400 {
            let (disk, dir) = disk();
            let path = dir.join("file");
            let file = disk.create(&path).unwrap();
            disk.sync_dir(&dir).unwrap();
            file.write_at(100, &[1; 1000]).unwrap();
            disk.crash(|below| random.usize(..below));
            begins.insert(disk.read(&path).unwrap().iter().position(|byte| *byte != 0));
        }
        assert_eq!(begins, [None, Some(100), Some(512), Some(1024)].into());
    }

    #[test]
    fn every_way_to_lose_power_is_met() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut contents, mut names) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..4_000 {
            let (disk, dir) = disk();
            let (one, other) = (dir.join("one"), dir.join("other"));
            let file = disk.create(&one).unwrap();
            disk.sync_dir(&dir).unwrap();
            file.write_at(0, b"aaaa").unwrap();
            file.write_at(1, b"bb").unwrap();
            disk.rename(&one, &other).unwrap();
            disk.create(&dir.join("third")).unwrap();
            disk.crash(|below| random.usize(..below));
            let left = disk.list(&dir).unwrap();
            contents.insert(disk.read(&dir.join(&left[0])).unwrap());
            names.insert(left.join(" "));
        }
        for bytes in [&b""[..], b"aaaa", b"abba", b"a", b"\0b", b"\0bb", b"abb"] {
            assert!(contents.contains(bytes), "{bytes:?} of {contents:?}");
        }
        assert!(names.iter().eq(["one", "one third", "other", "other third"]), "{names:?}");
    }
}
