//! A disk in memory for tests, whose power can be taken away: what was synced
//! stays, what was not may be lost, whole or in sectors. Fails on demand.

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
    pending_names: Vec<(PathBuf, Option<Node>)>,
    /// Writes, syncs and renames so far, and how many may succeed.
    operations: u64,
    operations_max: Option<u64>,
    /// The next sync of a file fails, and what follows goes on.
    next_sync_fails: bool,
    /// What [`Disk::space`] says, if not plenty.
    free_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    unreadable: bool,
}

#[derive(Debug)]
enum Pending {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl MemoryDisk {
    /// Takes the power away and gives it back: unsynced names are lost from
    /// some point on, unsynced sectors one by one, as `random` (from 0 to
    /// below its argument) says. Faults end.
    pub fn crash(&self, mut random: impl FnMut(usize) -> usize) {
        let mut world = self.world();
        world.operations_max = None;
        let kept = random(world.pending_names.len() + 1);
        let pending = std::mem::take(&mut world.pending_names);
        for (path, node) in pending.into_iter().take(kept) {
            set(&mut world.durable_names, path, node);
        }
        let mut names = std::mem::take(&mut world.durable_names);
        // sorted: a directory comes before what is in it
        let mut dirs = BTreeSet::new();
        names.retain(|path, node| {
            let reached = path.parent().is_none() || path == Path::new(".") || dirs.contains(parent_of(path));
            if reached && *node == Node::Directory {
                dirs.insert(path.clone());
            }
            reached
        });
        (world.names, world.durable_names) = (names.clone(), names);
        for content in &mut world.files {
            for pending in std::mem::take(&mut content.pending) {
                match pending {
                    Pending::SetLen(len) if random(2) == 0 => content.durable.resize(len, 0),
                    Pending::SetLen(_) => {}
                    Pending::Write(offset, bytes) => {
                        let mut at = 0;
                        while at < bytes.len() {
                            let sector_end = (offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                            let end = bytes.len().min(sector_end - offset);
                            if random(2) == 0 {
                                write(&mut content.durable, offset + at, &bytes[at..end]);
                            }
                            at = end;
                        }
                    }
                }
            }
            content.now = content.durable.clone();
        }
    }

    /// After this many more writes, syncs, renames or removals each one fails,
    /// until a crash or the next call.
    pub fn fail_after(&self, operations: u64) {
        let mut world = self.world();
        world.operations_max = Some(world.operations.saturating_add(operations));
    }

    /// Lets the next sync of a file fail, and no other.
    pub fn fail_next_sync(&self) {
        self.world().next_sync_fails = true;
    }

    /// How much room there is from now on, by what it says.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.world().free_bytes = Some(free_bytes);
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
                pending: Vec::new(),
                unreadable: content.unreadable,
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

    fn count(&mut self) -> io::Result<()> {
        if self.operations_max.is_some_and(|max| self.operations >= max) {
            return Err(io::Error::other("injected fault"));
        }
        self.operations += 1;
        Ok(())
    }

    fn change_name(&mut self, path: &Path, node: Option<Node>) {
        set(&mut self.names, path.to_owned(), node);
        self.pending_names.push((path.to_owned(), node));
    }
}

fn set(names: &mut BTreeMap<PathBuf, Node>, path: PathBuf, node: Option<Node>) {
    match node {
        Some(node) => names.insert(path, node),
        None => names.remove(&path),
    };
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
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
        world.change_name(path, Some(Node::File(id)));
        Ok(Arc::new(MemoryFile { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.world().file(path)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), id }))
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
            self.world().change_name(dir, Some(Node::Directory));
        }
        self.sync_dir(parent)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.count()?;
        let pending = std::mem::take(&mut world.pending_names);
        for (path, node) in pending {
            if path.parent() == Some(dir) {
                set(&mut world.durable_names, path, node);
            } else {
                world.pending_names.push((path, node));
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.count()?;
        let id = world.file(from)?;
        world.change_name(to, Some(Node::File(id)));
        world.change_name(from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.count()?;
        world.file(path)?;
        world.change_name(path, None);
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let free_bytes = self.world().free_bytes.unwrap_or(1 << 40);
        Ok(Space { free_bytes, total_bytes: 1 << 41 })
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    id: usize,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let world = self.disk.world();
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
        world.count()?;
        let content = &mut world.files[self.id];
        write(&mut content.now, offset as usize, bytes);
        content.pending.push(Pending::Write(offset as usize, bytes.to_vec()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.count()?;
        if std::mem::take(&mut world.next_sync_fails) {
            return Err(io::Error::other("injected fault"));
        }
        let content = &mut world.files[self.id];
        content.pending.clear();
        content.durable = content.now.clone();
        Ok(())
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
