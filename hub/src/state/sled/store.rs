//! One sled database with its marker: the only file that names the crate. What
//! is a key to sled is one of our blocks, but for the marker's.
//!
//! What sled 0.34.7 cannot be trusted with, and what is done about it:
//! * `flush_async` deadlocks: never called. No flusher thread either
//!   (`flush_every_ms` is none): we flush when we have written.
//! * `flush` does not reach the disk: [`Store::sync`] syncs the file after it.
//!   What is lost all the same is found at the next open.
//! * A `Batch` takes a lock that is global to the process, and all readers
//!   wait while it is applied: never used. See [`super::redo`] for what makes
//!   many writes one step.
//! * Its recovery panics on damage, and reading may: every call is guarded.
//! * Dropping it leaves threads that hold its lock for a moment:
//!   [`Store::open`] waits for them.

use std::{
    any::Any,
    fs::File,
    io,
    ops::Bound,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use super::blocks::{self, Change, Entries, Put, Seen};
use crate::state::{
    Key, Read, Value, Visit,
    fingerprint::{Fingerprint, Marker},
    pairs::damaged,
    prefix_end,
};

/// sled's segments: large, so that no leaf becomes a file of its own, which
/// sled would not sync.
pub(super) const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// What a block in memory takes beside its bytes and its name.
const BLOCK_OVERHEAD_BYTES: usize = 100;
/// How often, and how long apart, the lock of a database that was just closed
/// is tried.
const LOCK_TRIES: u32 = 200;
const LOCK_WAIT: Duration = Duration::from_millis(25);
/// Threads that read all of a store at once: beyond it the disk is the limit.
const VERIFY_THREADS_MAX: usize = 4;
/// Where the marker is: the key that no other pair may have, before all
/// others.
pub(super) const MARKER_KEY: &[u8] = &[];
/// The first key after the marker's.
const FIRST_KEY: &[u8] = &[0];

/// What a look for a key finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// Its value.
    Value(Value),
    /// That there is no key from `start` to before `end`, and it is not there
    /// either. It is between them, but where sled is being written, or the
    /// table has no end: then nothing may be.
    Gap { start: Key, end: Key },
}

/// A block and its name.
type Block = (::sled::IVec, ::sled::IVec);

/// A block's name and what becomes of it.
type Becomes = (::sled::IVec, Option<::sled::IVec>);

/// What [`Store::edit`] made of blocks, kept in memory until it is saved, if it
/// is not more than so many bytes.
pub(super) struct Made {
    blocks: Vec<Becomes>,
    bytes: usize,
    max: usize,
}

impl Made {
    /// Nothing yet.
    pub(super) fn new(max: usize) -> Self {
        Self { blocks: Vec::new(), bytes: 0, max }
    }

    /// Adds a block.
    pub(super) fn add(&mut self, name: &[u8], block: Option<&[u8]>) {
        self.bytes += name.len() + block.map_or(0, <[u8]>::len) + BLOCK_OVERHEAD_BYTES;
        if self.bytes <= self.max {
            self.blocks.push((name.into(), block.map(Into::into)));
        } else {
            self.blocks = Vec::new();
        }
    }

    /// All of them; `None` if they were too many to keep, and must be made
    /// again.
    pub(super) fn kept(self) -> Option<Vec<Becomes>> {
        (self.bytes <= self.max).then_some(self.blocks)
    }
}

/// An open database.
pub(super) struct Store {
    db: ::sled::Db,
    /// Our own handle of sled's file, to sync it.
    file: File,
    /// The state's directory, to be marked when reading fails.
    dir: PathBuf,
}

impl Store {
    /// Opens or makes the database in `dir/sled`. May panic on a damaged one.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> io::Result<Self> {
        let path = dir.join("sled");
        let config = ::sled::Config::new()
            .path(&path)
            .cache_capacity(cache_bytes)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None);
        let mut tries = 0;
        let db = loop {
            match config.open() {
                Err(::sled::Error::Io(error)) if is_locked(&error) && tries < LOCK_TRIES => {
                    tries += 1;
                    thread::sleep(LOCK_WAIT);
                }
                other => break other.map_err(io::Error::other)?,
            }
        };
        let file = File::options().read(true).write(true).open(path.join("db"))?;
        Ok(Self { db, file, dir: dir.to_owned() })
    }

    /// What the store says about itself; `None` if it says nothing readable,
    /// as one that was never finished.
    pub(super) fn marker(&self) -> io::Result<Option<Marker>> {
        let bytes = self.db.get(MARKER_KEY).map_err(io::Error::other)?;
        Ok(bytes.and_then(|bytes| Marker::decode(&bytes)))
    }

    /// Reads every pair and sums them up, on all processors: nothing else runs
    /// yet. May panic on a damaged store.
    pub(super) fn fingerprint(&self) -> io::Result<Fingerprint> {
        // tables begin with different bytes; whoever is done takes the next
        let next = AtomicUsize::new(0);
        let sum = || -> io::Result<Fingerprint> {
            let mut fingerprint = Fingerprint::default();
            while let Ok(first) = u8::try_from(next.fetch_add(1, Ordering::Relaxed)) {
                let mut last = Key::new();
                for block in self.blocks(&[first], &prefix_end(&[first])) {
                    let (name, block) = block?;
                    if last.as_slice() >= &*name {
                        return Err(damaged("a block of the state that goes beyond its end"));
                    }
                    for entry in Entries::of(&block) {
                        let (key, value) = entry?;
                        fingerprint.add(key, value);
                        last.clear();
                        last.extend_from_slice(key);
                    }
                }
            }
            Ok(fingerprint)
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(VERIFY_THREADS_MAX);
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(sum)).collect();
            let mut fingerprint = sum()?;
            for other in others {
                let other = other.join().map_err(|panic| panicked(&*panic))?;
                fingerprint.join(&other?);
            }
            Ok(fingerprint)
        })
    }

    /// Sets or removes a block. Neither atomic with others nor durable yet.
    pub(super) fn write(&self, name: &[u8], block: Option<&[u8]>) -> io::Result<()> {
        self.put(name, block.map(Into::into))
    }

    /// As [`Self::write`], many of them; tells of each.
    pub(super) fn write_kept(&self, blocks: Vec<Becomes>, told: &mut dyn FnMut()) -> io::Result<()> {
        for (name, block) in blocks {
            self.put(&name, block)?;
            told();
        }
        Ok(())
    }

    fn put(&self, name: &[u8], block: Option<::sled::IVec>) -> io::Result<()> {
        match block {
            Some(block) => self.db.insert(name, block),
            None => self.db.remove(name),
        }
        .map(drop)
        .map_err(io::Error::other)
    }

    /// Sets or removes pairs, in order, and tells what they were. Neither one
    /// step nor durable yet.
    pub(super) fn fill<'c>(
        &self,
        changes: impl Iterator<Item = Change<'c>>,
        seen: &mut Seen<'_>,
    ) -> io::Result<()> {
        self.edit(changes, seen, &mut |name, block| self.write(name, block))
    }

    /// Tells what these changes, in order, make of pairs and of blocks. `put`
    /// may write the blocks at once: no other is made of those.
    pub(super) fn edit<'c>(
        &self,
        changes: impl Iterator<Item = Change<'c>>,
        seen: &mut Seen<'_>,
        put: &mut Put<'_>,
    ) -> io::Result<()> {
        let mut changes = changes.peekable();
        let mut here: Vec<Change<'_>> = Vec::new();
        while let Some(first) = changes.next() {
            let block = self.block_of(first.0)?;
            let name = block.as_ref().map_or(first.0, |(name, _)| name);
            let next = self.names_after(name).next().transpose()?;
            let is_here = |(key, _): &Change<'_>| {
                key.first() == first.0.first() && next.as_ref().is_none_or(|next| *key < &**next)
            };
            here.clear();
            here.push(first);
            here.extend(std::iter::from_fn(|| changes.next_if(is_here)));
            let block = block.as_ref().map(|(name, block)| (&**name, &**block));
            blocks::edit(block, &here, seen, put)?;
        }
        Ok(())
    }

    /// Writes the marker, which covers everything written before it, and
    /// brings all of it to the disk.
    pub(super) fn finish(&self, marker: &Marker) -> io::Result<()> {
        self.write(MARKER_KEY, Some(&marker.encode()))?;
        self.sync()
    }

    /// Takes the marker away, durably: until there is one again, a crash means
    /// to begin anew.
    pub(super) fn unfinish(&self) -> io::Result<()> {
        self.write(MARKER_KEY, None)?;
        self.sync()
    }

    /// Leaves nothing for closing to write: sled writes a little when it reads
    /// as well.
    pub(super) fn settle(&self) -> io::Result<()> {
        while self.db.flush().map_err(io::Error::other)? > 0 {}
        self.file.sync_data()
    }

    /// Brings what was written to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(io::Error::other)?;
        self.file.sync_data()
    }

    /// The value of a key; or else the gap around it.
    pub(super) fn look(&self, key: &[u8]) -> Looked {
        match guard(|| self.try_look(key)) {
            Ok(looked) => looked,
            Err(error) => super::fail(&self.dir, "cannot read sled", &error),
        }
    }

    /// As [`Self::look`]. May panic on a damaged store.
    pub(super) fn try_look(&self, key: &[u8]) -> io::Result<Looked> {
        let table = key.get(..1).unwrap_or_default();
        let found = self.block_of(key)?;
        let block = found.as_ref().map_or(&[][..], |(_, block)| block);
        let place = blocks::find(block, key)?;
        if let Some(value) = place.value {
            return Ok(Looked::Value(value.to_vec()));
        }
        let name = found.as_ref().map_or(table, |(name, _)| name);
        let start = place.before.map_or_else(|| name.to_vec(), |before| [before, &[0]].concat());
        let end = match place.after {
            Some(after) => after.to_vec(),
            None => match self.names_after(name).next().transpose()? {
                Some(next) if next.starts_with(table) => next.to_vec(),
                _ => prefix_end(table),
            },
        };
        Ok(Looked::Gap { start, end })
    }

    /// The block that a key belongs to, or would. May panic on a damaged
    /// store.
    fn block_of(&self, key: &[u8]) -> io::Result<Option<Block>> {
        let Some(table) = key.first() else { return Ok(None) };
        self.db.range([*table].as_slice()..=key).next_back().transpose().map_err(io::Error::other)
    }

    fn names_after(&self, name: &[u8]) -> impl Iterator<Item = io::Result<::sled::IVec>> + use<> {
        let after = (Bound::Excluded(name), Bound::Unbounded);
        self.db.range::<&[u8], _>(after).keys().map(|name| name.map_err(io::Error::other))
    }

    /// The blocks that hold the keys from `start` to `end`, and may hold
    /// others. Each step may panic on a damaged store.
    fn blocks(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = io::Result<Block>> + use<> {
        let first = self.block_of(start).map(|block| block.map(|(name, _)| name));
        let (first, error) = match first {
            Ok(first) => (first, None),
            Err(error) => (None, Some(Err(error))),
        };
        let start = first.as_deref().unwrap_or(start).max(FIRST_KEY);
        let end = match end {
            [] => Bound::Unbounded,
            // nothing, written in the order that sled asks for
            _ if end <= start => Bound::Excluded(start),
            _ => Bound::Excluded(end),
        };
        let blocks = self.db.range::<&[u8], _>((Bound::Included(start), end));
        error.into_iter().chain(blocks.map(|block| block.map_err(io::Error::other)))
    }

    /// As [`Read::scan`].
    fn try_scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        // only sled's steps are guarded: a panic of the visitor is its own
        let mut blocks = guard(|| Ok(self.blocks(start, end)))?;
        // one that is being cut has what is cut off twice for a moment
        let mut passed: Option<Key> = None;
        while let Some((_, block)) = guard(|| blocks.next().transpose())? {
            let mut last = None;
            for entry in Entries::of(&block) {
                let (key, value) = entry?;
                if !end.is_empty() && key >= end {
                    return Ok(());
                }
                if passed.as_deref().is_some_and(|passed| key <= passed) {
                    continue;
                }
                if key >= start && visit(key, value).is_break() {
                    return Ok(());
                }
                last = Some(key);
            }
            passed = last.map(<[u8]>::to_vec).or(passed);
        }
        Ok(())
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl Read for Store {
    fn get(&self, key: &[u8]) -> Option<Value> {
        match self.look(key) {
            Looked::Value(value) => Some(value),
            Looked::Gap { .. } => None,
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        if let Err(error) = self.try_scan(start, end, visit) {
            super::fail(&self.dir, "cannot read sled", &error);
        }
    }
}

/// Runs a call into sled; a panic is an error like others.
pub(super) fn guard<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// What a panic said, as an error.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> io::Error {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    io::Error::other(format!("panic: {}", said.unwrap_or("without a message")))
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn blocks_that_are_kept_are_those_that_would_be_made_again() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [kept, again] = dirs.each_ref().map(|dir| Store::open(dir.path(), 1 << 20).unwrap());
        let blocks = |store: &Store| -> Vec<Block> {
            store.blocks(FIRST_KEY, &[]).collect::<io::Result<_>>().unwrap()
        };
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..30 {
            let changes: BTreeMap<Key, Option<Value>> = std::iter::repeat_with(|| {
                let key = format!("{}{:03}", random.choice(["a", "b"]).unwrap(), random.u16(..400));
                let value = random.bool().then(|| vec![random.u8(..); random.usize(..60)]);
                (key.into_bytes(), value)
            })
            .take(100)
            .collect();
            let changes = || changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
            let (mut made, mut too_many) = (Made::new(usize::MAX), Made::new(BLOCK_OVERHEAD_BYTES));
            let mut put = |name: &[u8], block: Option<&[u8]>| {
                made.add(name, block);
                too_many.add(name, block);
                Ok(())
            };
            kept.edit(changes(), &mut |_, _, _| {}, &mut put).unwrap();
            let made = made.kept().unwrap();
            let (count, mut told) = (made.len(), 0);
            kept.write_kept(made, &mut || told += 1).unwrap();
            assert!(told == count && too_many.kept().is_none());
            again.fill(changes(), &mut |_, _, _| {}).unwrap();
            assert_eq!(blocks(&kept), blocks(&again));
        }
    }
}
