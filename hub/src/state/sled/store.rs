//! One sled database with its marker: the only file that names the crate.
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

use crate::state::{
    Read, Value, Visit,
    fingerprint::{Fingerprint, Marker},
    prefix_end,
};

/// sled's segments: large, so that no leaf becomes a file of its own, which
/// sled would not sync.
pub(super) const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// How often, and how long apart, the lock of a database that was just closed
/// is tried.
const LOCK_TRIES: u32 = 200;
const LOCK_WAIT: Duration = Duration::from_millis(25);
/// Threads that read all of a store at once: beyond it the disk is the limit.
const VERIFY_THREADS_MAX: usize = 4;
/// Where the marker is: the key that no other pair may have, before all
/// others.
const MARKER_KEY: &[u8] = &[];
/// The first key after the marker's.
const FIRST_KEY: &[u8] = &[0];

type Pair = (::sled::IVec, ::sled::IVec);

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
                for pair in self.pairs(&[first], &prefix_end(&[first])) {
                    let (key, value) = pair?;
                    fingerprint.add(&key, &value);
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

    /// Sets or removes a pair and returns what was there. Neither atomic with
    /// others nor durable yet.
    pub(super) fn write(&self, key: &[u8], change: Option<&[u8]>) -> io::Result<Option<::sled::IVec>> {
        match change {
            Some(value) => self.db.insert(key, value),
            None => self.db.remove(key),
        }
        .map_err(io::Error::other)
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

    /// The value of a key.
    pub(super) fn try_get(&self, key: &[u8]) -> io::Result<Option<::sled::IVec>> {
        self.db.get(key).map_err(io::Error::other)
    }

    /// The pairs from `start` to `end`, without the marker. Each step may
    /// panic on a damaged store.
    fn pairs(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = io::Result<Pair>> + use<> {
        let start = start.max(FIRST_KEY);
        let end = match end {
            [] => Bound::Unbounded,
            // nothing, written in the order that sled asks for
            _ if end <= start => Bound::Excluded(start),
            _ => Bound::Excluded(end),
        };
        self.db.range::<&[u8], _>((Bound::Included(start), end)).map(|pair| pair.map_err(io::Error::other))
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl Read for Store {
    fn get(&self, key: &[u8]) -> Option<Value> {
        match guard(|| self.try_get(key)) {
            Ok(value) => value.map(|value| value.to_vec()),
            Err(error) => super::fail(&self.dir, "cannot read sled", &error),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        let mut pairs = self.pairs(start, end);
        loop {
            // only sled's steps are guarded: a panic of the visitor is its own
            match guard(|| pairs.next().transpose()) {
                Ok(Some((key, value))) => {
                    if visit(&key, &value).is_break() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => super::fail(&self.dir, "cannot read sled", &error),
            }
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
