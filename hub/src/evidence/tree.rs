//! The tree over the journal's records, on disk: for each level a file
//! `level-NN` of the 32-byte hashes of its complete subtrees, in order, so
//! that a proof is a few reads. (Byte `8192·n` of level `8·k` begins tile `n`
//! of C2SP tile level `k`.)
//!
//! Derived: never synced, never trusted. Opening checks the root against the
//! journal and every hash against those below it, or, if the files were closed
//! in good order, against the checksums of then; it mends what is wrong.

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axis_proto::tree::{Hash, node_hash, record_leaf};

use super::shape::{self, Frontier, width};
use crate::{
    disk::{Disk, DiskFile, closed},
    journal::JournalReader,
    state::JournalLost,
};

/// The version of these files, which do not say it themselves.
pub const FORMAT_VERSION: u32 = 1;
const HASH_BYTES: usize = 32;
/// How the files' names begin.
const LEVEL: &str = "level-";
/// Hashes read or written at once when all are swept.
const SWEEP_HASHES: usize = 8192;
/// Latest leaves whose part of the tree is kept in memory: proofs of what was
/// just recorded read no file. About 2 MiB.
const RECENT_LEAVES: u64 = 32 * 1024;
/// Latest hashes of each level that are kept in any case: the right edge.
const RECENT_MIN: u64 = 4;

/// The tree's writer.
#[derive(Debug)]
pub struct Tree {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    frontier: Frontier,
    /// Hashes that are not persisted yet, by level.
    pending: Vec<Vec<Hash>>,
    shared: Arc<Shared>,
}

/// Reads the tree beside its writer, up to the size that was persisted last.
#[derive(Debug, Clone)]
pub struct TreeReader(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    size: AtomicU64,
    levels: RwLock<Vec<Level>>,
    /// A proof did not hold: the files are not what they were.
    is_damaged: AtomicBool,
}

#[derive(Debug)]
struct Level {
    file: Arc<dyn DiskFile>,
    /// Hashes in the file.
    count: u64,
    /// The last of them.
    recent: VecDeque<Hash>,
}

impl Tree {
    /// Opens the tree over a journal, or makes it. What is missing or wrong is
    /// made again from the journal.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, journal: &dyn JournalReader) -> io::Result<Self> {
        if !disk.exists(dir)? {
            disk.create_dir(dir)?;
        }
        let size = journal.size();
        // it is written once the journal is durable: what it knows was there.
        // One that cannot be read is no witness
        if let Some(lost) = ahead(&*disk, dir, size).unwrap_or_default() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, lost));
        }
        let expected = match size.checked_sub(1) {
            None => axis_proto::tree::empty_root(),
            Some(last) => match journal.batch_of(last)? {
                Some(batch) => batch.commit.root,
                None => return Err(io::Error::other("the journal does not hold its last record")),
            },
        };
        let seal = closed::unseal(&*disk, dir);
        if seal.is_some_and(|seal| files(&*disk, dir).is_ok_and(|names| seal.holds(&*disk, dir, &names)))
            && let Ok(tree) = Self::take_over(Arc::clone(&disk), dir, size)
            && tree.root() == expected
        {
            return Ok(tree);
        }
        let why = match Self::fill(Arc::clone(&disk), dir, journal, true) {
            Ok(tree) if tree.root() == expected => return Ok(tree),
            Ok(_) => "another root".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(dir = %dir.display(), why, "the tree is wrong; making it anew from the journal");
        // other files: the disk may be unable to read or write the old ones
        for name in files(&*disk, dir)? {
            disk.remove(&dir.join(name))?;
        }
        let tree = Self::fill(disk, dir, journal, false)?;
        if tree.root() == expected {
            return Ok(tree);
        }
        let words = format!("the journal's {size} records do not lead to the root in its last commit");
        Err(io::Error::new(io::ErrorKind::InvalidData, words))
    }

    /// Takes over files that hold exactly the tree of `size` leaves: reads its
    /// right edge only.
    fn take_over(disk: Arc<dyn Disk>, dir: &Path, size: u64) -> io::Result<Self> {
        let mut levels: Vec<Level> = Vec::new();
        for level in 0..64 {
            let count = width(size, level);
            if count == 0 {
                break;
            }
            let file = disk.open(&level_path(dir, level))?;
            if file.len()? != count * HASH_BYTES as u64 {
                return Err(beyond(count, file.len()? / HASH_BYTES as u64));
            }
            let kept = kept(level).min(count);
            let recent = read_hashes(&*file, count - kept, kept)?.into();
            levels.push(Level { file, count, recent });
        }
        let frontier = Frontier::at(size, &mut |level, index| {
            Ok(read_hashes(&*levels[level as usize].file, index, 1)?.first().copied().unwrap_or_default())
        })?;
        let pending = vec![Vec::new(); levels.len()];
        let (size, levels) = (AtomicU64::new(size), RwLock::new(levels));
        let shared = Arc::new(Shared { size, levels, ..Shared::default() });
        Ok(Self { disk, dir: dir.to_owned(), frontier, pending, shared })
    }

    /// Seals the files, so that the next opening need not hash them all.
    /// Nothing may be appended after it. Files of which a proof did not hold are
    /// not sealed: the next opening mends them.
    pub fn close(&self) -> io::Result<()> {
        if self.shared.is_damaged.load(Ordering::Acquire) {
            return Ok(());
        }
        closed::seal(&*self.disk, &self.dir, &files(&*self.disk, &self.dir)?)
    }

    /// Brings the files to the journal's size, from the leaves that are there
    /// or from none.
    fn fill(
        disk: Arc<dyn Disk>,
        dir: &Path,
        journal: &dyn JournalReader,
        keep_leaves: bool,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut tree =
            Self { disk, dir: dir.to_owned(), frontier: Frontier::default(), pending: Vec::new(), shared };
        let leaves = if keep_leaves { tree.sweep(journal.size())? } else { 0 };
        journal.replay(leaves, &mut |batch| {
            let new = batch.entries.iter().filter(|entry| entry.sequence >= leaves);
            for entry in new {
                tree.push(record_leaf(&entry.salt, &entry.record));
            }
            tree.persist()?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(tree)
    }

    /// Takes over the leaves in the files up to the first that never arrived,
    /// mends every level above them, and cuts what is too much. Returns their
    /// number.
    fn sweep(&mut self, size: u64) -> io::Result<u64> {
        let file = self.file(0)?;
        let held = file.len()? / HASH_BYTES as u64;
        let (mut leaves, mut missing) = (0, false);
        while leaves < held.min(size) && !missing {
            let count = (held.min(size) - leaves).min(SWEEP_HASHES as u64);
            for leaf in read_hashes(&*file, leaves, count)? {
                // a hole that lost power left behind; no hash is zero
                missing = leaf == [0; HASH_BYTES];
                if missing {
                    break;
                }
                self.push(leaf);
                leaves += 1;
            }
            self.publish(mend_hashes)?;
        }
        for level in 0..64 {
            let file = self.path(level);
            if self.disk.exists(&file)? {
                let wanted = width(leaves, level) * HASH_BYTES as u64;
                let file = self.file(level)?;
                if file.len()? > wanted {
                    file.set_len(wanted)?;
                }
            }
        }
        Ok(leaves)
    }

    /// Number of leaves, persisted or not.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root over all leaves, persisted or not.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Adds leaves, in memory only.
    pub fn append(&mut self, leaves: &[Hash]) {
        leaves.iter().for_each(|leaf| self.push(*leaf));
    }

    fn push(&mut self, leaf: Hash) {
        let pending = &mut self.pending;
        self.frontier.push(leaf, |level, hash| {
            let level = level as usize;
            if level == pending.len() {
                pending.push(Vec::new());
            }
            pending[level].push(hash);
        });
    }

    /// Writes what was added and shows it to readers. Only after the records
    /// are durable in the journal.
    pub fn persist(&mut self) -> io::Result<()> {
        self.publish(write_hashes)
    }

    fn publish(&mut self, write: fn(&dyn DiskFile, u64, &[Hash]) -> io::Result<()>) -> io::Result<()> {
        for level in 0..self.pending.len() {
            if self.pending[level].is_empty() {
                continue;
            }
            if level == self.shared.levels().len() {
                let opened = Level { file: self.file(level as u32)?, count: 0, recent: VecDeque::new() };
                self.shared.write().push(opened);
            }
            let (file, count) = {
                let levels = self.shared.levels();
                (Arc::clone(&levels[level].file), levels[level].count)
            };
            write(&*file, count, &self.pending[level])?;
        }
        let mut levels = self.shared.write();
        for (level, (shown, pending)) in levels.iter_mut().zip(&mut self.pending).enumerate() {
            shown.count += pending.len() as u64;
            shown.recent.extend(pending.drain(..));
            let surplus = shown.recent.len().saturating_sub(kept(level as u32) as usize);
            shown.recent.drain(..surplus);
        }
        // still under the lock: nobody may see the size before the hashes
        self.shared.size.store(self.frontier.size(), Ordering::Release);
        Ok(())
    }

    /// Where proofs are read.
    pub fn reader(&self) -> TreeReader {
        TreeReader(Arc::clone(&self.shared))
    }

    /// Leaves nothing in memory, so that proofs are read from files.
    #[cfg(test)]
    pub(super) fn forget_recent(&self) {
        self.shared.write().iter_mut().for_each(|level| level.recent.clear());
    }

    fn path(&self, level: u32) -> PathBuf {
        level_path(&self.dir, level)
    }

    fn file(&self, level: u32) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(level);
        if self.disk.exists(&path)? { self.disk.open(&path) } else { self.disk.create(&path) }
    }
}

impl TreeReader {
    /// Number of leaves that can be proven.
    pub fn size(&self) -> u64 {
        self.0.size.load(Ordering::Acquire)
    }

    /// A proof from these files did not hold.
    pub fn note_damage(&self) {
        self.0.is_damaged.store(true, Ordering::Release);
    }

    /// Inclusion proof of a leaf in the tree of `size` leaves, its sibling
    /// first.
    pub fn inclusion(&self, index: u64, size: u64) -> io::Result<Vec<Hash>> {
        self.check(size)?;
        if index >= size {
            return Err(beyond(index, size));
        }
        shape::inclusion(index, size, &mut |level, index| self.0.hash(level, index))
    }

    /// As [`Self::inclusion`] where no file is needed; `None` where one is.
    /// What is in memory was made or verified by this process.
    pub fn recent_inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        if index >= size || size > self.size() {
            return None;
        }
        let levels = self.0.levels();
        let find = &mut |level: u32, index| {
            let recent = levels.get(level as usize).and_then(|level| level.recent(index));
            recent.ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        shape::inclusion(index, size, find).ok()
    }

    /// Proof that the tree of `old` leaves is a prefix of that of `new`.
    pub fn consistency(&self, old: u64, new: u64) -> io::Result<Vec<Hash>> {
        self.check(new)?;
        if old > new {
            return Err(beyond(old, new));
        }
        shape::consistency(old, new, &mut |level, index| self.0.hash(level, index))
    }

    /// Root over the first `size` leaves.
    pub fn root_at(&self, size: u64) -> io::Result<Hash> {
        self.check(size)?;
        shape::root(size, &mut |level, index| self.0.hash(level, index))
    }

    fn check(&self, size: u64) -> io::Result<()> {
        let held = self.size();
        if size > held { Err(beyond(size, held)) } else { Ok(()) }
    }
}

impl Level {
    /// A hash that is kept in memory.
    fn recent(&self, index: u64) -> Option<Hash> {
        let at = index.checked_sub(self.count - self.recent.len() as u64)?;
        self.recent.get(usize::try_from(at).ok()?).copied()
    }
}

impl Shared {
    fn hash(&self, level: u32, index: u64) -> io::Result<Hash> {
        let file = {
            let levels = self.levels();
            let Some(level) = levels.get(level as usize).filter(|level| index < level.count) else {
                return Err(beyond(index, 0));
            };
            if let Some(hash) = level.recent(index) {
                return Ok(hash);
            }
            Arc::clone(&level.file)
        };
        let mut hash = [0; HASH_BYTES];
        file.read_exact_at(index * HASH_BYTES as u64, &mut hash)?;
        Ok(hash)
    }

    fn levels(&self) -> RwLockReadGuard<'_, Vec<Level>> {
        self.levels.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Level>> {
        self.levels.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks the files of a closed tree without changing them: whether they hold
/// exactly the tree of `size` leaves with this root. If not, says what is
/// wrong; opening will mend it.
pub fn verify(disk: &dyn Disk, dir: &Path, size: u64, root: &Hash) -> io::Result<Result<(), String>> {
    let mut below: Option<Arc<dyn DiskFile>> = None;
    let mut frontier = Vec::new();
    for level in 0..64 {
        let count = width(size, level);
        if count == 0 {
            break;
        }
        let path = level_path(dir, level);
        let held = if disk.exists(&path)? { disk.open_read(&path)?.len()? / HASH_BYTES as u64 } else { 0 };
        if held != count {
            return Ok(Err(format!("tree {} holds {held} hashes, not {count}", path.display())));
        }
        let file = disk.open_read(&path)?;
        let mut at = 0;
        while let Some(below) = below.as_ref().filter(|_| at < count) {
            let some = (count - at).min(SWEEP_HASHES as u64);
            let children = read_hashes(&**below, 2 * at, 2 * some)?;
            let hashes = read_hashes(&*file, at, some)?;
            for (pair, (hash, index)) in children.chunks_exact(2).zip(hashes.iter().zip(at..)) {
                if node_hash(&pair[0], &pair[1]) != *hash {
                    return Ok(Err(format!("tree {}: hash {index} is wrong", path.display())));
                }
            }
            at += some;
        }
        frontier.push(Arc::clone(&file));
        below = Some(file);
    }
    let found = shape::root(size, &mut |level, index| {
        Ok(read_hashes(&*frontier[level as usize], index, 1)?.first().copied().unwrap_or_default())
    })?;
    Ok(if found == *root { Ok(()) } else { Err(format!("tree {}: another root", dir.display())) })
}

/// The edge of a tree of `size` leaves, from its files, unverified.
pub fn frontier(disk: &dyn Disk, dir: &Path, size: u64) -> io::Result<Frontier> {
    Frontier::at(size, &mut |level, index| {
        let hashes = read_hashes(&*disk.open_read(&level_path(dir, level))?, index, 1)?;
        Ok(hashes.first().copied().unwrap_or_default())
    })
}

/// How many leaves the files of a closed tree have beyond `size`, not counting
/// what a crash left empty.
pub fn surplus(disk: &dyn Disk, dir: &Path, size: u64) -> io::Result<u64> {
    let path = level_path(dir, 0);
    if !disk.exists(&path)? {
        return Ok(0);
    }
    let file = disk.open_read(&path)?;
    let held = file.len()? / HASH_BYTES as u64;
    let is_hole = held > size && read_hashes(&*file, size, 1)? == [[0; HASH_BYTES]];
    Ok(if is_hole { 0 } else { held.saturating_sub(size) })
}

/// Whether the files of a closed tree prove that a journal of `records` has
/// lost some. Changes nothing.
pub fn ahead(disk: &dyn Disk, dir: &Path, records: u64) -> io::Result<Option<JournalLost>> {
    let surplus = surplus(disk, dir, records)?;
    let store = "the tree".to_owned();
    Ok((surplus > 0).then(|| JournalLost { store, applied: records + surplus, records }))
}

/// How many of a level's latest hashes are kept in memory.
fn kept(level: u32) -> u64 {
    (RECENT_LEAVES >> level).max(RECENT_MIN)
}

/// The names of a tree's files.
fn files(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<String>> {
    let mut names = disk.list(dir)?;
    names.retain(|name| name.starts_with(LEVEL));
    Ok(names)
}

fn level_path(dir: &Path, level: u32) -> PathBuf {
    dir.join(format!("{LEVEL}{level:02}"))
}

fn read_hashes(file: &dyn DiskFile, from: u64, count: u64) -> io::Result<Vec<Hash>> {
    let mut bytes = vec![0; count as usize * HASH_BYTES];
    file.read_exact_at(from * HASH_BYTES as u64, &mut bytes)?;
    let (hashes, _) = bytes.as_chunks();
    Ok(hashes.to_vec())
}

fn write_hashes(file: &dyn DiskFile, from: u64, hashes: &[Hash]) -> io::Result<()> {
    file.write_at(from * HASH_BYTES as u64, hashes.as_flattened())
}

/// As [`write_hashes`], where most of them are there already.
fn mend_hashes(file: &dyn DiskFile, from: u64, hashes: &[Hash]) -> io::Result<()> {
    let held = file.len()? / HASH_BYTES as u64;
    let count = hashes.len() as u64;
    if from + count <= held && read_hashes(file, from, count)? == hashes {
        return Ok(());
    }
    write_hashes(file, from, hashes)
}

fn beyond(asked: u64, held: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("asked for {asked} of a tree of {held} leaves"))
}
