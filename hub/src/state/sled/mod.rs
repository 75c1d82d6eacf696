//! The state on disk: two layers of recent changes in memory over sled, which
//! one thread writes behind the journal. Promises nothing about sled: what it
//! loses or damages is found at the next open and rebuilt.
//!
//! ```text
//! publish ▶ active ▶ flushing ▶ redo file ▶ sled ▶ snapshot
//!             └───── readers see all three as one ─────┘
//! ```
//!
//! `active` becomes `flushing` when the interval is over or many keys wait.
//! What is in `flushing` covers sled until all of it is written, so readers
//! never see half of a write; a key that came and went between two flushes
//! never reaches sled. sled holds the pairs in
//! blocks (`blocks.rs`).

mod blocks;
mod cache;
mod gaps;
mod open;
mod redo;
mod rest;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use blocks::Change;
use cache::{Cache, Cached};
use gaps::{Gaps, Moment};
pub use open::{Found, ahead, distrust, open};
use redo::Redo;
use rest::Rest;
use store::{Made, Store};

use super::{
    Changes, Read, State,
    draft::Overlay,
    fingerprint::{Marker, Owner},
    snapshot::{Snapshots, Taken, Taking},
};
use crate::{
    disk::{Disk, RealDisk, closed},
    limits,
};

/// Keys of a snapshot that are written between two writes of sled: a tenth of
/// a second or so.
const SNAPSHOT_STEP_KEYS: usize = if cfg!(test) { 37 } else { 50_000 };

/// Longest pause while sled is written; to work so long, that is the disk.
const REST_MAX: Duration = Duration::from_millis(20);

/// Bytes of blocks that are kept in memory while they are saved. Those of a
/// larger write are made a second time.
const MADE_BYTES_MAX: usize = if cfg!(test) { 40_000 } else { 16 * 1024 * 1024 };

/// Keys from which on a stopping hub takes no snapshot: two seconds or so.
const SNAPSHOT_STOP_KEYS: u64 = if cfg!(test) { 2_000 } else { 200_000 };

/// Where a state lives, whose it is, and its bounds.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of sled and what belongs to it; may be deleted at any time
    /// while the hub is stopped.
    pub dir: PathBuf,
    /// Directory of the snapshots.
    pub snapshots: PathBuf,
    /// The disk of the snapshots; sled goes its own way.
    pub disk: Arc<dyn Disk>,
    /// The origin of the log whose records make this state.
    pub origin: String,
    /// The layout of the machine's tables: the state is rebuilt from the
    /// journal's beginning when it changes.
    pub layout_version: u32,
    /// sled's cache.
    pub cache_bytes: u64,
    /// How often sled is written.
    pub flush_interval: Duration,
    /// Keys that make sled be written at once.
    pub flush_keys: usize,
    /// Keys that wait for sled before publishing waits. Memory holds twice as
    /// many at most: what is written is only let go of when all of it is.
    pub lag_keys_max: usize,
    /// Records between snapshots.
    pub snapshot_records: u64,
}

impl Options {
    /// The state of a hub whose data is in `data`, with the usual bounds.
    pub fn new(data: &Path, disk: Arc<dyn Disk>, origin: &str, layout_version: u32) -> Self {
        Self {
            dir: data.join("state"),
            snapshots: data.join("snapshots"),
            disk,
            origin: origin.to_owned(),
            layout_version,
            cache_bytes: limits::SLED_CACHE_BYTES,
            flush_interval: limits::STATE_FLUSH_INTERVAL,
            flush_keys: limits::STATE_FLUSH_KEYS,
            lag_keys_max: limits::STATE_LAG_KEYS_MAX / 2,
            snapshot_records: limits::SNAPSHOT_RECORDS,
        }
    }

    fn owner(&self) -> Owner {
        Owner::new(&self.origin, self.layout_version)
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots { disk: self.disk.clone(), dir: self.snapshots.clone(), owner: self.owner() }
    }
}

/// How far the store on disk is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Keys that wait for sled.
    pub keys: usize,
    /// Records that sled contains.
    pub applied: u64,
    /// Bytes of sled's file.
    pub bytes: u64,
}

/// The state on disk. Dropping it writes what waits and closes sled.
pub struct SledState {
    shared: Arc<Shared>,
    found: Found,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    store: Store,
    cache: Cache,
    options: Options,
    layers: RwLock<Layers>,
    /// Keys that wait for sled: in both layers, less what was written of
    /// `flushing`. Counts down while sled is written, so that a writer that is
    /// too fast waits a little each time instead of long once.
    waiting: AtomicUsize,
    /// Records that sled contains.
    written: AtomicU64,
    /// sled is being filled from the journal's beginning and has no marker: a
    /// crash means to begin again, so no write needs to be one step.
    filling: AtomicBool,
    /// A kill left sled whole, and no snapshot has read every pair since.
    unverified: AtomicBool,
    orders: Mutex<Orders>,
    /// The state thread has something to do.
    work: Condvar,
    /// Publishing may go on.
    room: Condvar,
    taken: watch::Sender<Option<Taken>>,
}

/// Changes that sled may not have yet, the newer over the older.
#[derive(Default)]
struct Layers {
    active: Changes,
    flushing: Arc<Changes>,
    applied: u64,
    gaps: Gaps,
}

/// What the state thread is told.
#[derive(Default)]
struct Orders {
    flush: bool,
    snapshot: bool,
    stop: Option<Stop>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Write what waits, then end.
    Flush,
    /// End as a killed process would.
    #[cfg(test)]
    Abandon,
}

impl State for SledState {
    fn read(&self, read: &mut dyn FnMut(&dyn Read)) {
        let layers = self.shared.layers.read().unwrap_or_else(PoisonError::into_inner);
        let base = Cached { store: &self.shared.store, cache: &self.shared.cache };
        let older = Overlay { changes: &layers.flushing, base: &base };
        let newer = Overlay { changes: &layers.active, base: &older };
        let both = [&layers.active, &*layers.flushing];
        read(&Moment { read: &newer, layers: both, gaps: &layers.gaps });
    }

    fn publish(&self, changes: Changes, applied: u64) {
        let shared = &*self.shared;
        if shared.waiting.load(Ordering::Relaxed) >= shared.options.lag_keys_max {
            let mut orders = shared.orders();
            while shared.waiting.load(Ordering::Relaxed) >= shared.options.lag_keys_max {
                orders.flush = true;
                shared.work.notify_one();
                orders = shared.room.wait(orders).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let mut layers = shared.layers.write().unwrap_or_else(PoisonError::into_inner);
        assert!(applied >= layers.applied, "the state never goes back");
        layers.applied = applied;
        layers.gaps.fill(&changes);
        let before = layers.active.len();
        layers.active.extend(changes);
        let active = layers.active.len();
        shared.waiting.fetch_add(active - before, Ordering::Relaxed);
        drop(layers);
        if active >= shared.options.flush_keys {
            shared.orders().flush = true;
            shared.work.notify_one();
        }
    }

    fn applied(&self) -> u64 {
        self.shared.layers.read().unwrap_or_else(PoisonError::into_inner).applied
    }
}

impl SledState {
    /// Starts the state thread over a store that is what its marker says.
    fn start(
        store: Store,
        marker: Marker,
        found: Found,
        snapshot_applied: u64,
        options: Options,
    ) -> io::Result<Self> {
        let filling = store.marker()?.is_none();
        let is_known = matches!(found, Found::Closed | Found::Whole);
        let rest = Rest::load(&options.dir).filter(|_| is_known).unwrap_or_default();
        let shared = Arc::new(Shared {
            store,
            cache: Cache::new(),
            options,
            layers: RwLock::new(Layers { applied: marker.applied, ..Layers::default() }),
            waiting: AtomicUsize::new(0),
            written: AtomicU64::new(marker.applied),
            filling: AtomicBool::new(filling),
            unverified: AtomicBool::new(found == Found::Whole),
            orders: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            taken: watch::Sender::new(None),
        });
        let writer = Writer {
            shared: shared.clone(),
            marker,
            unmarked: filling,
            snapshot_applied,
            taking: None,
            disk_was_full: false,
            put_off: false,
            verifies: found == Found::Whole,
            rest,
        };
        let thread = thread::Builder::new().name("state".to_owned()).spawn(move || writer.run())?;
        Ok(Self { shared, found, thread: Mutex::new(Some(thread)) })
    }

    /// How the database was found when it was opened.
    pub fn found(&self) -> Found {
        self.found
    }

    /// The last snapshot that was taken since the start.
    pub fn snapshots(&self) -> watch::Receiver<Option<Taken>> {
        self.shared.taken.subscribe()
    }

    /// Asks for a snapshot soon, whatever the number of records.
    pub fn request_snapshot(&self) {
        self.shared.orders().snapshot = true;
        self.shared.work.notify_one();
    }

    /// How far sled is behind.
    pub fn lag(&self) -> Lag {
        Lag {
            keys: self.shared.waiting.load(Ordering::Relaxed),
            applied: self.shared.written.load(Ordering::Relaxed),
            bytes: self.shared.store.bytes(),
        }
    }

    /// Writes what waits, takes a snapshot if one is due and soon taken, ends
    /// the state thread and seals sled's files. Nothing may be published after
    /// it.
    pub fn stop(&self) {
        self.end(Stop::Flush);
    }

    fn end(&self, stop: Stop) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.shared.orders().stop = Some(stop);
            self.shared.work.notify_one();
            // a panic of the thread ended the process already
            let _ = thread.join();
            if stop == Stop::Flush {
                self.seal();
            }
        }
    }

    /// Nothing is written to sled's files any more.
    fn seal(&self) {
        let dir = &self.shared.options.dir;
        // what nobody has verified is not said to be good: the next opening
        // goes by the same rules as this one
        if self.shared.unverified.load(Ordering::Relaxed) {
            return;
        }
        let settled = store::guard(|| self.shared.store.settle());
        let sealed = settled.and_then(|()| closed::seal(&RealDisk, dir, &open::files(dir)?));
        if let Err(error) = sealed {
            warn!(%error, "cannot seal the state; the next start verifies it pair by pair");
        }
    }
}

impl Drop for SledState {
    fn drop(&mut self) {
        self.end(Stop::Flush);
    }
}

impl fmt::Debug for SledState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledState").field("dir", &self.shared.options.dir).field("lag", &self.lag()).finish()
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is published contains all that the journal held at the start.
    fn filled(&self) {
        if self.filling.swap(false, Ordering::Relaxed) {
            self.orders().flush = true;
            self.work.notify_one();
        }
    }
}

/// Makes room for those who publish while sled is written, and leaves half of a
/// processor's time to others while nobody waits for that.
struct Progress<'a> {
    shared: &'a Shared,
    /// Keys of this write that were not reported yet, and halves of them that
    /// are done.
    left: usize,
    halves: usize,
    since: Instant,
}

impl<'a> Progress<'a> {
    fn new(shared: &'a Shared, keys: usize) -> Self {
        Self { shared, left: keys, halves: 0, since: Instant::now() }
    }

    fn step(&mut self, halves: usize) {
        self.halves += halves;
        if self.halves >= 1_024 {
            self.report(self.halves / 2);
            self.halves %= 2;
            self.rest();
            self.since = Instant::now();
        }
    }

    fn report(&mut self, keys: usize) {
        let keys = keys.min(self.left);
        self.left -= keys;
        self.shared.waiting.fetch_sub(keys, Ordering::Relaxed);
        // under the lock of those who wait, so that none misses it
        let orders = self.shared.orders();
        self.shared.room.notify_all();
        drop(orders);
    }

    /// As long as was worked, unless somebody waits for the rest or soon will.
    fn rest(&self) {
        let Shared { options, waiting, filling, work, .. } = self.shared;
        let soon = usize::midpoint(options.flush_keys, options.lag_keys_max);
        if waiting.load(Ordering::Relaxed) >= soon || filling.load(Ordering::Relaxed) {
            return;
        }
        let worked = self.since.elapsed().min(REST_MAX);
        let nobody_waits = |orders: &mut Orders| !orders.flush && orders.stop.is_none();
        drop(work.wait_timeout_while(self.shared.orders(), worked, nobody_waits));
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.report(self.left);
    }
}

/// The state thread: the only one that writes sled.
struct Writer {
    shared: Arc<Shared>,
    /// What sled contains.
    marker: Marker,
    /// sled does not say so itself yet.
    unmarked: bool,
    /// Records in the newest snapshot, or where the next try starts from.
    snapshot_applied: u64,
    /// The snapshot that is being written.
    taking: Option<Taking>,
    /// The last try of a snapshot found no room; said once.
    disk_was_full: bool,
    /// What is published waits in memory for want of room; said once.
    put_off: bool,
    /// A snapshot is to be taken for what its reading every pair finds out.
    verifies: bool,
    /// What sled's file holds.
    rest: Rest,
}

impl Writer {
    fn run(mut self) {
        let shared = self.shared.clone();
        if let Err(error) = store::guard(|| self.work()) {
            fail(&shared.options.dir, "cannot write the state", &error);
        }
    }

    fn work(&mut self) -> io::Result<()> {
        if !self.unmarked {
            self.keep_rest();
        }
        loop {
            let shared = self.shared.clone();
            let taking = self.taking.is_some();
            let idle =
                |orders: &mut Orders| !taking && !orders.flush && !orders.snapshot && orders.stop.is_none();
            let (mut orders, _) = shared
                .work
                .wait_timeout_while(shared.orders(), shared.options.flush_interval, idle)
                .unwrap_or_else(PoisonError::into_inner);
            let Orders { snapshot, stop, .. } = std::mem::take(&mut *orders);
            orders.stop = stop;
            drop(orders);
            #[cfg(test)]
            if stop == Some(Stop::Abandon) {
                return Ok(());
            }
            if self.puts_off() {
                if stop.is_some() {
                    return Ok(());
                }
                self.snapshot(false, SNAPSHOT_STEP_KEYS)?;
                continue;
            }
            self.flush()?;
            let since = self.marker.applied.saturating_sub(self.snapshot_applied);
            let due = shared.options.snapshot_records.max(1);
            let mut wanted = !self.unmarked && ((snapshot && since > 0) || since >= due);
            if self.verifies && self.taking.is_none() && !self.unmarked {
                (self.verifies, wanted) = (false, true);
            }
            if stop.is_some() {
                // A start after the stop goes by the seal, so that a long
                // snapshot is not waited for: one that was begun is left, and
                // the next start begins it again.
                if self.marker.fingerprint.keys > SNAPSHOT_STOP_KEYS && !snapshot {
                    return Ok(());
                }
                self.snapshot(false, usize::MAX)?;
                return self.snapshot(wanted, usize::MAX);
            }
            self.snapshot(wanted, SNAPSHOT_STEP_KEYS)?;
        }
    }

    /// Whether sled had better not be written, because the disk is so full
    /// that a write could fail in its midst, and sled be of no use then. What
    /// is published stays in memory and in the journal; when no more of it
    /// fits into memory, the process stops with a good state on the disk.
    fn puts_off(&mut self) -> bool {
        let Shared { options, waiting, .. } = &*self.shared;
        let space = options.disk.space(&options.dir);
        let full = space.is_ok_and(|space| space.free_bytes < limits::DISK_STATE_BYTES);
        if full && waiting.load(Ordering::Relaxed) >= options.lag_keys_max {
            error!(dir = %options.dir.display(), "no room on the disk to write the state: stopping");
            std::process::exit(1);
        }
        if std::mem::replace(&mut self.put_off, full) != full {
            warn!(full, "the state's write to the disk waits for room");
        }
        full
    }

    /// Brings sled to what is published now.
    fn flush(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let (flushing, applied) = {
            let mut layers = shared.layers.write().unwrap_or_else(PoisonError::into_inner);
            layers.flushing = Arc::new(std::mem::take(&mut layers.active));
            (layers.flushing.clone(), layers.applied)
        };
        let filling = shared.filling.load(Ordering::Relaxed);
        if self.unmarked && !filling {
            // all that was filled so far; what comes from here on is one step,
            // and this is the last one before it
            self.saved(Redo::begin(&shared.options.dir, &self.marker).finish(&self.marker));
            shared.store.finish(&self.marker)?;
            self.unmarked = false;
            self.keep_rest();
        }
        if filling {
            self.fill(&flushing, applied)?;
        } else if !flushing.is_empty() || applied != self.marker.applied {
            self.write(&flushing, applied)?;
        }
        if !flushing.is_empty() {
            shared.cache.forget(&flushing);
        }
        let old = {
            let mut layers = shared.layers.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut layers.flushing)
        };
        // many keys: freed while nobody waits
        drop((old, flushing));
        Ok(())
    }

    /// As [`Self::write`] where a crash means to begin again.
    fn fill(&mut self, flushing: &Changes, applied: u64) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut progress = Progress::new(&shared, flushing.len());
        let fingerprint = &mut self.marker.fingerprint;
        shared.store.fill(changes(flushing), &mut |key, was, is| {
            fingerprint.change(key, was, is);
            progress.step(2);
        })?;
        self.marker.applied = applied;
        shared.written.store(applied, Ordering::Relaxed);
        Ok(())
    }

    fn write(&mut self, flushing: &Changes, applied: u64) -> io::Result<()> {
        let shared = self.shared.clone();
        let store = &shared.store;
        let mut after = Marker { applied, ..self.marker };
        // finding out what a key was counts as half of it
        let mut progress = Progress::new(&shared, flushing.len());
        // Crash before the redo file is whole: sled has nothing of it. After:
        // opening completes it. Without one, opening would have to rebuild.
        let mut redo = Redo::begin(&shared.options.dir, &self.marker);
        let mut made = Made::new(MADE_BYTES_MAX);
        let taking = &mut self.taking;
        store.edit(
            changes(flushing),
            &mut |key, was, is| {
                after.fingerprint.change(key, was, is);
                if let Some(taking) = taking.as_mut().filter(|_| was != is) {
                    taking.keep(key, was);
                }
                progress.step(1);
            },
            &mut |name, block| {
                redo.block(name, block);
                made.add(name, block);
                Ok(())
            },
        )?;
        self.saved(redo.finish(&after));
        match made.kept() {
            Some(blocks) => {
                let (keys, all, mut written) = (flushing.len(), blocks.len(), 0);
                store.write_kept(blocks, &mut || {
                    let before = keys * written / all;
                    written += 1;
                    progress.step(keys * written / all - before);
                })?;
            }
            None => store.fill(changes(flushing), &mut |_, _, _| progress.step(1))?,
        }
        drop(progress);
        store.finish(&after)?;
        self.marker = after;
        shared.written.store(applied, Ordering::Relaxed);
        self.keep_rest();
        Ok(())
    }

    /// Sees whether what is about to be written is saved. If it is not, the file
    /// may still be that of the write before, as if this one had not begun.
    fn saved(&self, redo: io::Result<()>) {
        if let Err(error) = redo {
            open::distrust(&self.shared.options.dir);
            warn!(%error, "cannot save what is about to be written; a crash now would make the state be rebuilt");
        }
    }

    /// Keeps what sled's file holds now, all of which is on the disk. Crash
    /// before it is kept: the next opening reads every pair.
    fn keep_rest(&mut self) {
        let dir = &self.shared.options.dir;
        let kept = self.rest.advance(dir).and_then(|is_other| match is_other {
            true => self.rest.save(dir),
            false => Ok(()),
        });
        if let Err(error) = kept {
            warn!(%error, "cannot keep what the state's file holds; a kill now makes the next start longer");
            self.rest = Rest::default();
        }
    }

    /// Begins a snapshot of what sled contains, if one is wanted and none is
    /// being written, and goes on with it for at most `keys`.
    fn snapshot(&mut self, wanted: bool, keys: usize) -> io::Result<()> {
        match self.take(wanted, keys) {
            Ok(None) => Ok(()),
            Ok(Some(taken)) => {
                self.disk_was_full = false;
                // it read every pair, and they were what the marker says
                self.shared.unverified.store(false, Ordering::Relaxed);
                info!(applied = taken.applied, keys = taken.key_count, "took a snapshot of the state");
                self.shared.taken.send_replace(Some(taken));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
            Err(error) => {
                let full = error.kind() == io::ErrorKind::StorageFull;
                if !std::mem::replace(&mut self.disk_was_full, full) || !full {
                    warn!(%error, "cannot take a snapshot of the state now");
                }
                self.taking = None;
                // not again at once
                let records = self.shared.options.snapshot_records;
                self.snapshot_applied = self.marker.applied.saturating_sub(records - records / 16);
                Ok(())
            }
        }
    }

    fn take(&mut self, wanted: bool, keys: usize) -> io::Result<Option<Taken>> {
        let snapshots = self.shared.options.snapshots();
        let mut taking = match self.taking.take() {
            Some(taking) => taking,
            None if wanted => {
                self.snapshot_applied = self.marker.applied;
                snapshots.begin(&self.marker, self.shared.store.bytes())?
            }
            None => return Ok(None),
        };
        if snapshots.step(&mut taking, &self.shared.store, keys)? {
            return snapshots.finish(taking).map(Some);
        }
        self.taking = Some(taking);
        Ok(None)
    }
}

/// Changes as a store takes them.
fn changes(changes: &Changes) -> impl Iterator<Item = Change<'_>> {
    changes.iter().map(|(key, change)| (key.as_slice(), change.as_deref()))
}

/// Stops the process: a state that cannot be read or written can be rebuilt,
/// but not gone on with. The next start rebuilds it.
fn fail(dir: &Path, what: &str, error: &io::Error) -> ! {
    error!(%error, dir = %dir.display(), "{what}: stopping, and the next start rebuilds the state");
    // if even this cannot be written, the full scan at open has to find it
    let _ = fs::write(dir.join(open::SUSPECT), format!("{what}: {error}\n"));
    std::process::abort();
}
