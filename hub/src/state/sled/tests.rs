//! The store on disk against the one in memory, whatever happens to the disk.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
};

use axis_proto::id::Digest;
use bytes::Bytes;
use tempfile::TempDir;

use super::{store::Looked, *};
use crate::{
    disk::{MemoryDisk, RealDisk},
    journal::{Batch, Commit, Entry, JournalReader},
    state::{Draft, JournalLost, digest, memory::MemoryState},
};

/// A journal in memory.
#[derive(Default)]
struct Records(Mutex<Vec<Arc<Batch>>>);

impl Records {
    /// Appends batches of random sizes, about `count` records.
    fn grow(&self, count: u64, random: &mut fastrand::Rng) {
        let end = self.size() + count;
        while self.size() < end {
            let first = self.size();
            let size = first + random.u64(1..=20);
            let entry = |sequence| Entry {
                sequence,
                salt: [0; 16],
                record: Bytes::copy_from_slice(&random.clone().u64(..).wrapping_add(sequence).to_le_bytes()),
                cargo: Vec::new(),
            };
            let entries = (first..size).map(entry).collect();
            let commit = Commit { size, root: [0; 32], checkpoint: String::new() };
            self.0.lock().unwrap().push(Arc::new(Batch { entries, commit }));
        }
    }

    fn cut(&self, batches: usize) {
        self.0.lock().unwrap().truncate(batches);
    }

    /// What a state must be after all of them.
    fn digest(&self) -> [u8; 32] {
        let state = MemoryState::new();
        for batch in &*self.0.lock().unwrap() {
            publish(&state, batch);
        }
        digest_of(&state)
    }
}

impl JournalReader for Records {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().last().map_or(0, |batch| batch.commit.size)
    }

    fn batch_of(&self, sequence: u64) -> io::Result<Option<Arc<Batch>>> {
        Ok(self.0.lock().unwrap().iter().find(|batch| batch.entry(sequence).is_some()).cloned())
    }

    fn replay(
        &self,
        sequence: u64,
        visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        for batch in self.0.lock().unwrap().iter().filter(|batch| batch.commit.size > sequence) {
            if visit(batch.clone())?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// A machine that cannot be applied twice unnoticed: it counts, puts, removes
/// and changes what is there.
fn apply(draft: &mut Draft<'_>, entry: &Entry) {
    let mut random = fastrand::Rng::with_seed(u64::from_le_bytes((*entry.record).try_into().unwrap()));
    let number = |bytes: Vec<u8>| u64::from_le_bytes(bytes.try_into().unwrap());
    let counted = draft.get(b"count").map_or(0, number);
    assert_eq!(counted, entry.sequence, "applied once, in order");
    draft.put(*b"count", (counted + 1).to_le_bytes());
    for _ in 0..random.usize(0..4) {
        let key = format!("k{:03}", random.u32(0..300));
        match random.u32(0..4) {
            0 => draft.delete(key),
            1 => draft.put(key, vec![random.u8(..); random.usize(0..300)]),
            _ => {
                let mut value = draft.get(key.as_bytes()).unwrap_or_default();
                value.truncate(200);
                value.push(random.u8(..));
                draft.put(key, value);
            }
        }
    }
    // a queue: in at one end, out at the other
    draft.put(format!("q{:08}", entry.sequence), entry.record.to_vec());
    if random.u32(0..10) > 1 {
        let mut first = None;
        draft.scan(b"q", b"r", &mut |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        });
        draft.delete(first.unwrap());
    }
    draft.put(*b"mirror", (counted + 1).to_le_bytes());
}

fn publish(state: &dyn State, batch: &Batch) {
    let mut changes = Changes::new();
    state.read(&mut |read| {
        let mut draft = Draft::new(read);
        for entry in &batch.entries {
            apply(&mut draft, entry);
        }
        changes = draft.into_changes();
    });
    state.publish(changes, batch.commit.size);
}

fn digest_of(state: &dyn State) -> [u8; 32] {
    let mut found = [0; 32];
    state.read(&mut |read| found = digest(read));
    found
}

/// A directory, a journal and a seed, which a failing test prints.
struct House {
    dir: TempDir,
    records: Records,
    random: fastrand::Rng,
    options: Options,
}

impl House {
    fn new() -> Self {
        let seed = std::env::var("AXIS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("AXIS_SEED={seed}");
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            flush_interval: Duration::from_millis(20),
            flush_keys: 200,
            lag_keys_max: 1_000,
            snapshot_records: u64::MAX,
            ..Options::new(dir.path(), RealDisk::shared(), "axis.test/log", 1)
        };
        Self { dir, records: Records::default(), random: fastrand::Rng::with_seed(seed), options }
    }

    /// A house whose state, closed, contains `count` records.
    fn with(count: u64) -> Self {
        let mut house = Self::new();
        house.grow(count);
        house.check();
        house
    }

    fn grow(&mut self, count: u64) {
        self.records.grow(count, &mut self.random);
    }

    /// Opens; returns how many records were applied too.
    fn open(&self) -> (SledState, u64) {
        let applied = AtomicU64::new(0);
        let state = open(self.options.clone(), &self.records, &|draft: &mut Draft<'_>, entry: &Entry| {
            applied.fetch_add(1, Ordering::Relaxed);
            apply(draft, entry);
            Ok(())
        })
        .unwrap();
        (state, applied.into_inner())
    }

    /// Opens, finds what the journal says, closes, and finds it once more
    /// without a replay. Returns how many records the first opening applied.
    fn check(&self) -> u64 {
        let (state, applied) = self.open();
        assert_eq!(digest_of(&state), self.records.digest());
        assert_eq!(state.applied(), self.records.size());
        drop(state);
        let (state, again) = self.open();
        assert_eq!(again, 0, "closed whole");
        assert_eq!(digest_of(&state), self.records.digest());
        applied
    }

    fn sled(&self) -> PathBuf {
        self.options.dir.join("sled")
    }

    fn snapshots(&self) -> Vec<PathBuf> {
        let mut found: Vec<_> =
            fs::read_dir(&self.options.snapshots).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn sled_is_what_memory_is() {
    let mut house = House::new();
    let memory = MemoryState::new();
    let mut killed = false;
    for round in 0..6 {
        let from = house.records.size();
        house.grow(400);
        let (state, replayed) = {
            // the first half through opening, the rest as the writer would
            let all = house.records.0.lock().unwrap().clone();
            let half = all.iter().filter(|batch| batch.commit.size < from + 200).count();
            house.records.cut(half);
            let opened = house.open();
            *house.records.0.lock().unwrap() = all;
            opened
        };
        assert!(killed || replayed < 400, "round {round}: only the tail is replayed");
        for batch in house.records.0.lock().unwrap().iter() {
            if batch.commit.size > memory.applied() {
                publish(&memory, batch);
            }
            if batch.commit.size > state.applied() {
                publish(&state, batch);
                assert!(state.lag().keys <= house.options.lag_keys_max + 1_000);
            }
        }
        assert_eq!(digest_of(&state), digest_of(&memory));
        let start = format!("k{:03}", house.random.u32(0..300));
        let seen = |state: &dyn State| {
            let mut found = Vec::new();
            state
                .read(&mut |read| found = crate::state::tests::visited(read, start.as_bytes(), b"q0001", 30));
            found
        };
        assert_eq!(seen(&state), seen(&memory));
        killed = house.random.bool();
        if killed {
            state.end(Stop::Abandon);
        }
    }
    house.check();
}

#[test]
fn readers_see_one_moment() {
    let mut house = House::new();
    house.grow(3_000);
    let (records, mut empty) = (house.records.0.lock().unwrap().clone(), House::new());
    empty.options.flush_interval = Duration::from_millis(1);
    let (state, _) = empty.open();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    state.read(&mut |read| {
                        let count = read.get(b"count");
                        let (mut last, mut pairs) = (None, 0u64);
                        read.scan(b"mirror", b"r", &mut |key, value| {
                            if key == b"mirror" {
                                last = Some(value.to_vec());
                            }
                            pairs += 1;
                            ControlFlow::Continue(())
                        });
                        assert_eq!(count, last);
                        assert_eq!(count.is_some(), pairs > 0);
                        assert_eq!(digest(read), digest(read), "nothing moves under a reader");
                    });
                }
            });
        }
        for batch in &records {
            publish(&state, batch);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(digest_of(&state), house.records.digest());
}

#[test]
fn publishing_waits_for_sled_and_then_goes_on() {
    let mut house = House::new();
    house.options.flush_interval = Duration::from_secs(3_600);
    (house.options.flush_keys, house.options.lag_keys_max) = (usize::MAX, 50);
    let (state, _) = house.open();
    house.grow(1_000);
    for batch in house.records.0.lock().unwrap().iter() {
        publish(&state, batch);
        assert!(state.lag().keys < 50 + 4 * 20 * 3, "bounded: {:?}", state.lag());
    }
    assert_eq!(digest_of(&state), house.records.digest());
}

#[test]
fn gaps_never_hide_a_key() {
    let mut house = House::new();
    house.options.flush_interval = Duration::from_millis(2);
    let (state, _) = house.open();
    let memory = MemoryState::new();
    for applied in 0..1_500 {
        // long runs of deletions, and now and then a key among them
        let mut changes = Changes::new();
        let first = house.random.u32(0..2_000);
        let (count, put) = (house.random.u32(1..150), house.random.u32(0..3) == 0);
        for number in first..first + if put { count / 8 } else { count } {
            changes.insert(format!("q{number:04}").into_bytes(), put.then(|| b"v".to_vec()));
        }
        memory.publish(changes.clone(), applied);
        state.publish(changes, applied);
        let start = format!("q{:04}", house.random.u32(0..2_000)).into_bytes();
        let end = if house.random.bool() { b"q1500".to_vec() } else { Vec::new() };
        let seen = |state: &dyn State| {
            crate::state::read_once(state, |read| crate::state::tests::visited(read, &start, &end, 3))
        };
        assert_eq!(seen(&state), seen(&memory));
    }
    assert_eq!(digest_of(&state), digest_of(&memory));
}

#[test]
fn a_key_that_came_and_went_never_reaches_sled() {
    let mut house = House::new();
    house.options.flush_interval = Duration::from_secs(3_600);
    let (state, _) = house.open();
    let put = |key: &[u8]| (key.to_vec(), Some(b"value".to_vec()));
    state.publish(Changes::from_iter([put(b"stays"), put(b"goes")]), 1);
    state.publish(Changes::from_iter([(b"goes".to_vec(), None)]), 2);
    drop(state);
    let redo = fs::read(house.options.dir.join(redo::FILE)).unwrap();
    let holds = |key: &[u8]| redo.windows(key.len()).any(|part| part == key);
    assert!(holds(b"stays") && !holds(b"goes"));
}

#[test]
fn a_missing_or_emptied_store_is_made_again() {
    let house = House::with(300);
    fs::remove_dir_all(house.sled()).unwrap();
    assert_eq!(house.check(), house.records.size());
    fs::remove_dir_all(&house.options.dir).unwrap();
    assert_eq!(house.check(), house.records.size());
    fs::write(house.sled().join("db"), b"").unwrap();
    assert_eq!(house.check(), house.records.size());
    fs::write(house.sled().join("conf"), b"").unwrap();
    house.check();
    // what was used after all was verified by a snapshot
    fs::remove_dir_all(&house.options.snapshots).unwrap();
    fs::remove_dir_all(house.sled()).unwrap();
    fs::create_dir(house.sled()).unwrap();
    assert_eq!(house.check(), house.records.size());
}

#[test]
fn an_older_copy_is_brought_up_to_the_journal() {
    let mut house = House::with(300);
    let old = house.dir.path().join("old");
    copy(&house.options.dir, &old);
    let had = house.records.size();
    house.grow(300);
    assert_eq!(house.check(), house.records.size() - had);
    fs::remove_dir_all(&house.options.dir).unwrap();
    fs::rename(&old, &house.options.dir).unwrap();
    assert_eq!(house.check(), house.records.size() - had, "only the tail");
}

#[test]
fn a_copy_of_a_running_store_gives_the_same_state() {
    let mut house = House::new();
    house.grow(4_000);
    let records = house.records.0.lock().unwrap().clone();
    let mut running = House::new();
    running.options.flush_interval = Duration::from_millis(1);
    let (state, _) = running.open();
    for (number, batch) in records.iter().enumerate() {
        publish(&state, batch);
        if number % 80 == 79 {
            let _ = fs::remove_dir_all(&house.options.dir);
            copy(&running.options.dir, &house.options.dir);
            house.check();
        }
    }
}

#[test]
fn a_store_newer_than_the_journal_stops_every_start_until_it_is_removed() {
    let mut house = House::with(300);
    let batches = house.records.0.lock().unwrap().len();
    house.options.snapshot_records = 50;
    house.grow(300);
    house.check();
    let whole = house.records.size();
    assert!(!house.snapshots().is_empty());
    house.records.cut(batches);
    let refused = |house: &House| {
        let opened = open(house.options.clone(), &house.records, &|_: &mut Draft<'_>, _: &Entry| {
            unreachable!("nothing is applied")
        });
        let error = opened.unwrap_err();
        let lost = error.get_ref().and_then(|error| error.downcast_ref::<JournalLost>()).unwrap();
        assert_eq!(lost.records, house.records.size());
        assert!(error.to_string().contains(&lost.records.to_string()), "{error}");
        assert!(error.to_string().contains("axis-hub restore"), "{error}");
        (lost.store.clone(), lost.applied)
    };
    let redo = house.options.dir.join(redo::FILE);
    // whatever else is gone or damaged, one of them is proof, and stays
    for _ in 0..2 {
        assert_eq!(refused(&house), ("the state".to_owned(), whole));
    }
    let snapshots = house.dir.path().join("aside");
    fs::rename(&house.options.snapshots, &snapshots).unwrap();
    fs::rename(house.sled(), house.dir.path().join("sled")).unwrap();
    assert_eq!(refused(&house), ("the state".to_owned(), whole), "the last write");
    fs::rename(house.dir.path().join("sled"), house.sled()).unwrap();
    fs::remove_file(redo).unwrap();
    assert_eq!(refused(&house), ("the state".to_owned(), whole), "the database");
    fs::rename(&snapshots, &house.options.snapshots).unwrap();
    fs::remove_dir_all(&house.options.dir).unwrap();
    let taken = house.snapshots();
    let (store, applied) = refused(&house);
    assert!(store.contains("snapshot") && applied > house.records.size(), "{store} {applied}");
    assert_eq!(house.snapshots(), taken, "nothing is removed");
    // none of them is left, as in the directory that `axis-hub restore` makes
    fs::remove_dir_all(&house.options.snapshots).unwrap();
    assert_eq!(house.check(), house.records.size());
}

#[test]
fn what_only_seems_newer_than_the_journal_is_removed() {
    let house = House::with(300);
    let path = house.options.snapshots.join("00000000000000900000.snapshot");
    fs::write(&path, b"no snapshot").unwrap();
    assert_eq!(house.check(), 0);
    assert!(!path.exists());
    // another log's
    let mut other = House::with(600);
    other.options.snapshot_records = 50;
    other.grow(60);
    other.check();
    let taken = other.snapshots().pop().unwrap();
    let mut options = house.options.clone();
    options.origin = "axis.test/another".to_owned();
    fs::copy(&taken, house.options.snapshots.join(taken.file_name().unwrap())).unwrap();
    copy(&other.sled(), &house.sled());
    let state = open(options, &house.records, &|draft: &mut Draft<'_>, entry: &Entry| {
        apply(draft, entry);
        Ok(())
    });
    assert_eq!(digest_of(&state.unwrap()), house.records.digest());
}

#[test]
fn another_hubs_store_or_another_layout_is_rebuilt() {
    let mut house = House::with(300);
    house.options.origin = "axis.other/log".to_owned();
    assert_eq!(house.check(), house.records.size());
    house.options.layout_version += 1;
    assert_eq!(house.check(), house.records.size());
    assert_eq!(house.check(), 0);
}

#[test]
fn a_suspect_store_is_rebuilt_once() {
    let house = House::with(300);
    fs::write(house.options.dir.join(open::SUSPECT), "cannot read sled: checksum").unwrap();
    assert_eq!(house.check(), house.records.size());
    assert_eq!(house.check(), 0);
    assert!(house.options.dir.join("damaged/db").exists(), "kept for a look");
}

#[test]
fn a_store_that_takes_the_process_down_is_given_up() {
    let house = House::with(300);
    fs::write(house.options.dir.join("opening"), "..").unwrap();
    assert_eq!(house.check(), house.records.size());
    assert_eq!(house.check(), 0);
}

#[test]
fn half_a_write_is_completed() {
    let house = House::with(300);
    half_write(&house, 5);
    // the records that the write was of are in the journal by now
    let (state, applied) = house.open_with_more();
    assert_eq!(applied, 0, "completed, not replayed");
    drop(state);

    let house = House::with(300);
    half_write(&house, 5);
    fs::remove_file(house.options.dir.join(redo::FILE)).unwrap();
    house.check();
}

#[test]
fn what_cannot_be_saved_first_is_written_all_the_same() {
    let mut house = House::with(300);
    let (state, _) = house.open();
    // where no file can be made
    let redo = house.options.dir.join(redo::FILE);
    fs::remove_file(&redo).unwrap();
    fs::create_dir(&redo).unwrap();
    house.grow(400);
    for batch in house.records.0.lock().unwrap().iter() {
        if batch.commit.size > state.applied() {
            publish(&state, batch);
        }
    }
    drop(state);
    fs::remove_dir(&redo).unwrap();
    assert_eq!(house.check(), 0, "closed whole");
}

#[test]
fn a_record_that_cannot_be_applied_stops_every_start_until_it_can() {
    let mut house = House::with(100);
    house.grow(100);
    let bad = house.records.size() - 1;
    for _ in 0..2 {
        let opened = open(house.options.clone(), &house.records, &|draft: &mut Draft<'_>, entry: &Entry| {
            if entry.sequence == bad {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "of a later release"));
            }
            apply(draft, entry);
            Ok(())
        });
        assert_eq!(opened.unwrap_err().to_string(), format!("record {bad}: of a later release"));
    }
    assert!(house.check() > 0);
}

impl SledState {
    fn taken(&self) -> Option<Taken> {
        *self.shared.taken.borrow()
    }
}

impl House {
    /// Opens without comparing, after `half_write`.
    fn open_with_more(&self) -> (SledState, u64) {
        let (state, applied) = self.open();
        let mut found = Vec::new();
        state.read(&mut |read| found = crate::state::tests::visited(read, b"z", b"", 1_000));
        assert_eq!(found.len(), 80);
        (state, applied)
    }
}

/// Leaves sled as a process does that is killed in the middle of a write of 80
/// keys: with so many of its blocks written.
fn half_write(house: &House, written: usize) {
    let store = Store::open(&house.options.dir, house.options.cache_bytes).unwrap();
    let before = store.marker().unwrap().unwrap();
    let mut after = before;
    let many: Changes = (0..80).map(|n| (format!("z{n:02}").into_bytes(), Some(vec![n; 50]))).collect();
    let mut redo = Redo::begin(&house.options.dir, &before);
    let mut blocks = Vec::new();
    store
        .edit(
            changes(&many),
            &mut |key, was, is| after.fingerprint.change(key, was, is),
            &mut |name, block| {
                redo.block(name, block);
                blocks.push((name.to_vec(), block.map(<[u8]>::to_vec)));
                Ok(())
            },
        )
        .unwrap();
    redo.finish(&after).unwrap();
    assert!(blocks.len() > 10);
    for (name, block) in &blocks[..written] {
        store.write(name, block.as_deref()).unwrap();
    }
    store.sync().unwrap();
}

#[test]
fn flipped_bytes_are_found() {
    let mut house = House::with(1_500);
    let whole = house.dir.path().join("whole");
    copy(&house.sled(), &whole);
    let used = used_bytes(&whole.join("db"));
    let mut rebuilt = 0;
    for _ in 0..flips() {
        fs::remove_dir_all(house.sled()).unwrap();
        copy(&whole, &house.sled());
        let file = house.sled().join("db");
        let mut bytes = fs::read(&file).unwrap();
        for _ in 0..house.random.usize(1..=3) {
            let at = house.random.usize(..used);
            bytes[at] ^= house.random.u8(1..);
        }
        if house.random.u8(..4) == 0 {
            bytes.truncate(house.random.usize(..used));
        }
        fs::write(&file, bytes).unwrap();
        rebuilt += u64::from(house.check() == house.records.size());
    }
    println!("{rebuilt} rebuilt");
    assert!(rebuilt > 0);
}

#[test]
fn a_state_that_cannot_be_read_stops_the_process_and_is_rebuilt() {
    const DIR: &str = "AXIS_TEST_UNREADABLE";
    let mut house = House::new();
    house.options.cache_bytes = 1 << 20;
    if let Some(dir) = std::env::var_os(DIR) {
        // the child: its disk goes bad under it
        let dir = Path::new(&dir);
        house.options =
            Options { cache_bytes: 1 << 20, ..Options::new(dir, RealDisk::shared(), "axis.test/log", 1) };
        let (state, _) = house.open();
        let many = (0..40_000u32).map(|number| (number.to_be_bytes().to_vec(), Some(vec![7; 200])));
        state.publish(many.collect(), 0);
        while state.lag().keys > 0 {
            thread::yield_now();
        }
        let file = house.sled().join("db");
        fs::write(&file, vec![0x55; fs::metadata(&file).unwrap().len() as usize]).unwrap();
        digest_of(&state);
        unreachable!("a state that cannot be read was read");
    }
    let name = "state::sled::tests::a_state_that_cannot_be_read_stops_the_process_and_is_rebuilt";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact"])
        .env(DIR, house.dir.path())
        .output()
        .unwrap();
    assert!(!child.status.success());
    let output = [child.stdout, child.stderr].concat();
    assert!(
        !String::from_utf8_lossy(&output).contains("unreachable"),
        "{}",
        String::from_utf8_lossy(&output)
    );
    assert!(house.options.dir.join(open::SUSPECT).exists());
    house.grow(100);
    assert_eq!(house.check(), house.records.size());
}

/// How far the file holds anything but zeros.
fn used_bytes(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn flips() -> usize {
    std::env::var("AXIS_FLIPS").ok().and_then(|count| count.parse().ok()).unwrap_or(12)
}

#[test]
fn a_rebuild_starts_from_the_newest_good_snapshot() {
    let mut house = House::with(200);
    let taken = |house: &House| {
        let (state, _) = house.open();
        state.request_snapshot();
        state.stop();
        state.taken().unwrap()
    };
    let mut newest = Vec::new();
    for _ in 0..3 {
        house.grow(200);
        newest.push(taken(&house));
    }
    assert_eq!(house.snapshots().len(), 2, "two are kept");
    let file = house.snapshots().pop().unwrap();
    let sum: [u8; 32] = *Digest::of(&fs::read(&file).unwrap()).as_bytes();
    assert_eq!(sum, newest[2].sha256);
    assert_eq!(newest[2].applied, house.records.size());

    house.grow(100);
    fs::remove_dir_all(&house.options.dir).unwrap();
    assert_eq!(house.check(), house.records.size() - newest[2].applied, "only the tail");

    flip(&file, &mut house.random);
    fs::remove_dir_all(&house.options.dir).unwrap();
    assert_eq!(house.check(), house.records.size() - newest[1].applied, "from the one before");

    flip(&house.snapshots().pop().unwrap(), &mut house.random);
    fs::remove_dir_all(&house.options.dir).unwrap();
    assert_eq!(house.check(), house.records.size(), "from the journal's beginning");
    assert!(house.snapshots().is_empty(), "those that were damaged are gone");
}

fn flip(file: &Path, random: &mut fastrand::Rng) {
    let mut bytes = fs::read(file).unwrap();
    let at = random.usize(..bytes.len());
    bytes[at] ^= random.u8(1..);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_snapshot_is_of_one_moment_while_the_state_moves_on() {
    let mut house = House::new();
    house.options.flush_interval = Duration::from_millis(1);
    (house.options.snapshot_records, house.options.lag_keys_max) = (300, 100);
    let (state, _) = house.open();
    house.grow(4_000);
    let mut taken = state.snapshots();
    let mut compared = 0;
    let batches = house.records.0.lock().unwrap().clone();
    for batch in &batches {
        publish(&state, batch);
        if !taken.has_changed().unwrap() {
            continue;
        }
        let applied = taken.borrow_and_update().unwrap().applied;
        let Some(snapshot) = house.options.snapshots().newest().unwrap() else { panic!("there is one") };
        if snapshot.marker.applied != applied {
            continue;
        }
        let mut found = std::collections::BTreeMap::new();
        snapshot
            .load(|key, value| {
                found.insert(key.to_vec(), value.to_vec());
                Ok(())
            })
            .unwrap();
        let then = MemoryState::new();
        for batch in batches.iter().filter(|batch| batch.commit.size <= applied) {
            publish(&then, batch);
        }
        assert_eq!(digest(&found), digest_of(&then));
        compared += 1;
    }
    assert!(compared > 0);
}

#[test]
fn snapshots_come_every_so_many_records() {
    let mut house = House::with(10);
    house.options.snapshot_records = 100;
    house.grow(1_000);
    let (state, _) = house.open();
    state.stop();
    let taken = state.taken().unwrap();
    assert!(house.records.size() - taken.applied < 100);
    fs::write(house.options.snapshots.join("00000000000000000001.snapshot.partial"), b"half").unwrap();
    drop(state);
    house.grow(200);
    house.check();
    assert_eq!(house.snapshots().len(), 2);
}

#[test]
fn a_snapshot_that_fails_leaves_nothing_and_one_without_room_is_not_begun() {
    let mut house = House::with(300);
    let disk = MemoryDisk::default();
    house.options.disk = Arc::new(disk.clone());
    let files = |house: &House| disk.list(&house.options.snapshots).unwrap();
    {
        let store = Store::open(&house.options.dir, house.options.cache_bytes).unwrap();
        let marker = store.marker().unwrap().unwrap();
        let snapshots = house.options.snapshots();
        let take = |marker: &Marker, room| {
            let mut taking = snapshots.begin(marker, room)?;
            while !snapshots.step(&mut taking, &store, 10)? {}
            snapshots.finish(taking)
        };
        let wrong = Marker { fingerprint: Default::default(), ..marker };
        let error = take(&wrong, 0).unwrap_err();
        assert_eq!((error.kind(), files(&house)), (io::ErrorKind::InvalidData, vec![]));
        disk.fail_next_sync();
        take(&marker, 0).unwrap_err();
        assert_eq!(files(&house), [""; 0]);
        disk.set_free_bytes(limits::DISK_LOW_SNAPSHOT_BYTES + 999);
        let error = take(&marker, 1_000).err().unwrap();
        assert_eq!((error.kind(), files(&house)), (io::ErrorKind::StorageFull, vec![]));
        take(&marker, 999).unwrap();
        assert_eq!(files(&house).len(), 1);
    }
    // the hub knows how much it may take
    house.grow(100);
    let take = |house: &House| {
        let (state, _) = house.open();
        state.request_snapshot();
        state.stop();
        state.taken()
    };
    assert_eq!(take(&house), None);
    disk.set_free_bytes(limits::DISK_LOW_SNAPSHOT_BYTES + (1 << 30));
    house.grow(100);
    assert!(take(&house).is_some());
}

#[test]
fn what_was_closed_is_taken_over_as_it_is() {
    let house = House::with(300);
    for _ in 0..3 {
        assert_eq!(house.open().0.found(), Found::Closed);
    }
    let whole = house.dir.path().join("whole");
    copy(&house.options.dir, &whole);
    let again = |change: &dyn Fn(&Path)| {
        fs::remove_dir_all(&house.options.dir).unwrap();
        copy(&whole, &house.options.dir);
        change(&house.options.dir);
        let (state, _) = house.open();
        assert_eq!(digest_of(&state), house.records.digest());
        state.found()
    };
    assert_eq!(again(&|_| {}), Found::Closed);
    let names = open::files(&whole).unwrap();
    assert!(names.iter().any(|name| name == "sled/db") && names.len() > 2, "{names:?}");
    for name in &names {
        let flipped = again(&|dir| {
            let mut bytes = fs::read(dir.join(name)).unwrap();
            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            bytes[last] ^= 1;
            fs::write(dir.join(name), bytes).unwrap();
        });
        assert_ne!(flipped, Found::Closed, "a byte of {name}");
        let shorter = again(&|dir| {
            let length = fs::metadata(dir.join(name)).unwrap().len();
            fs::File::options().write(true).open(dir.join(name)).unwrap().set_len(length - 1).unwrap();
        });
        assert_ne!(shorter, Found::Closed, "the length of {name}");
    }
    assert_ne!(again(&|dir| fs::write(dir.join("sled/more"), b"").unwrap()), Found::Closed, "a file more");
    let seal = |dir: &Path| dir.join(closed::FILE);
    assert_ne!(again(&|dir| fs::remove_file(seal(dir)).unwrap()), Found::Closed, "no seal");
    assert_eq!(again(&|dir| distrust(dir)), Found::Verified);
}

/// Leaves a directory as a process does that is killed now: nothing of sled's
/// is written any more, and nothing is closed.
fn kill(house: &House, state: SledState) {
    while state.lag().keys > 0 {
        thread::yield_now();
    }
    state.end(Stop::Abandon);
    let left = house.dir.path().join("left");
    copy(&house.options.dir, &left);
    drop(state);
    fs::remove_dir_all(&house.options.dir).unwrap();
    fs::rename(left, &house.options.dir).unwrap();
}

/// Several of sled's segments at rest, and a tail that came since, killed.
fn large() -> House {
    let mut house = House::with(300);
    let (state, _) = house.open();
    let many = (0..90_000u32).map(|number| (number.to_be_bytes().to_vec(), Some(vec![7; 300])));
    state.publish(many.collect(), house.records.size());
    drop(state);
    let bytes = fs::metadata(house.options.dir.join(rest::DB)).unwrap().len();
    assert!(bytes > 3 * store::SEGMENT_BYTES as u64, "{bytes}");
    // fewer than there are: what is missing more of is filled without a marker
    house.grow(200);
    let (state, applied) = house.open();
    assert_eq!(state.found(), Found::Closed);
    assert!(applied > 0);
    kill(&house, state);
    house
}

#[test]
fn after_a_kill_what_is_whole_is_used_and_verified_behind_it() {
    let house = large();
    for _ in 0..2 {
        let (state, applied) = house.open();
        assert_eq!((state.found(), applied), (Found::Whole, 0));
        // once more, before anybody verified it
        kill(&house, state);
    }
    let (state, _) = house.open();
    assert_eq!(state.found(), Found::Whole);
    let mut taken = state.snapshots();
    while taken.borrow_and_update().is_none() {
        thread::yield_now();
    }
    drop(state);
    assert_eq!(house.open().0.found(), Found::Closed);
}

#[test]
fn what_a_snapshot_does_not_find_as_it_should_be_is_not_sealed() {
    let house = large();
    let disk = MemoryDisk::default();
    disk.set_free_bytes(limits::DISK_LOW_SNAPSHOT_BYTES / 2);
    let options = Options { disk: Arc::new(disk), ..house.options.clone() };
    let state =
        open(options, &house.records, &|_: &mut Draft<'_>, _: &Entry| unreachable!("nothing is left"))
            .unwrap();
    assert_eq!(state.found(), Found::Whole);
    drop(state);
    assert_eq!(house.open().0.found(), Found::Whole, "no snapshot could be taken");
}

#[test]
fn after_a_kill_what_is_not_whole_is_read_pair_by_pair() {
    let mut house = large();
    let memory = MemoryState::new();
    house.records.0.lock().unwrap().iter().for_each(|batch| publish(&memory, batch));
    let seeds: Vec<u64> = (0..flips()).map(|_| house.random.u64(..)).collect();
    let left = house.dir.path().join("whole");
    copy(&house.options.dir, &left);
    let used = used_bytes(&left.join(rest::DB));
    let mut whole = 0;
    let again = |change: &dyn Fn(&Path)| {
        fs::remove_dir_all(&house.options.dir).unwrap();
        copy(&left, &house.options.dir);
        change(&house.options.dir);
        let (state, _) = house.open();
        assert_ne!(state.found(), Found::Closed);
        // whatever was found, it is what the journal says
        for batch in 0..house.records.size().min(50) {
            let key = format!("k{batch:03}");
            let of = |state: &dyn State| crate::state::read_once(state, |read| read.get(key.as_bytes()));
            assert_eq!(of(&state), of(&memory), "{key}");
        }
        state.found()
    };
    assert_eq!(again(&|_| {}), Found::Whole);
    for file in [rest::FILE, redo::FILE] {
        assert_eq!(again(&|dir| fs::remove_file(dir.join(file)).unwrap()), Found::Verified, "{file}");
    }
    assert_eq!(again(&|dir| distrust(dir)), Found::Verified);
    assert_eq!(house.open().0.found(), Found::Closed);
    // a redo file of a write that sled has nothing of, and that is not the next
    let other = |dir: &Path| {
        let marker = Marker { owner: house.options.owner(), applied: 1, fingerprint: Default::default() };
        Redo::begin(dir, &marker).finish(&marker).unwrap();
    };
    assert_eq!(again(&other), Found::Verified);
    // wherever it is: in what is not written any more, or at the log's end
    for seed in seeds {
        let flipped = again(&|dir| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = fs::read(dir.join(rest::DB)).unwrap();
            let at = random.usize(..used);
            bytes[at] ^= random.u8(1..);
            fs::write(dir.join(rest::DB), bytes).unwrap();
        });
        whole += u64::from(flipped == Found::Whole);
    }
    println!("{whole} of {} in nothing that is used", flips());
    assert!(whole < flips() as u64);
}

#[test]
fn a_stop_waits_for_no_long_snapshot_and_seals() {
    let mut house = House::with(300);
    (house.options.snapshot_records, house.options.flush_keys) = (1, usize::MAX);
    house.options.flush_interval = Duration::from_secs(3_600);
    let (state, _) = house.open();
    let many = 0..u32::try_from(SNAPSHOT_STOP_KEYS).unwrap();
    let many = many.map(|number| (number.to_be_bytes().to_vec(), Some(vec![7])));
    state.publish(many.collect(), house.records.size() + 1);
    state.stop();
    let size = house.records.size();
    assert_eq!(state.taken(), None, "though one is due");
    drop(state);
    let store = Store::open(&house.options.dir, house.options.cache_bytes).unwrap();
    assert_eq!(store.marker().unwrap().unwrap().applied, size + 1, "all is written");
    assert!(house.options.dir.join(closed::FILE).exists(), "sealed");
}

#[test]
fn one_that_is_far_behind_is_filled_and_begun_anew_after_a_crash_in_it() {
    let mut house = House::with(100);
    let had = house.records.size();
    house.grow(2_000);
    let bad = house.records.size() - 1;
    let opened = open(house.options.clone(), &house.records, &|draft: &mut Draft<'_>, entry: &Entry| {
        if entry.sequence == bad {
            return Err(io::Error::other("the power is cut"));
        }
        apply(draft, entry);
        Ok(())
    });
    assert!(opened.is_err());
    assert_eq!(house.check(), house.records.size(), "half a filling is of no use");
    // one that is not so far behind keeps what it has
    house.grow(had);
    let before = house.records.size() - had;
    assert!(house.check() < before);
}

/// Readers ask for keys that change now and then, in tables of which one is
/// written all the time, while they wander from memory to sled and back.
#[test]
fn what_sled_was_asked_before_is_never_what_it_was_before() {
    const KEYS: u64 = 12;
    let mut house = House::new();
    house.options.flush_interval = Duration::from_millis(1);
    let (state, _) = house.open();
    let key = |number: u64| vec![b'a' + (number % 3) as u8, number as u8];
    let steps = if cfg!(debug_assertions) { 4_000 } else { 40_000 };
    // step `n` writes key `n % KEYS`, and takes it away every fourth time
    let value = |step: u64| (step / KEYS % 4 != 3).then(|| step.to_be_bytes().to_vec());
    let last = |number: u64, applied: u64| applied - (applied + KEYS - number) % KEYS;
    state.publish((0..KEYS).map(|number| (key(number), value(KEYS + number))).collect(), 2 * KEYS - 1);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut random = fastrand::Rng::new();
                while state.applied() < steps {
                    let (number, before) = (random.u64(0..KEYS), state.applied());
                    let found = crate::state::read_once(&state, |read| read.get(&key(number)));
                    let mut may_be = (last(number, before)..=state.applied()).step_by(KEYS as usize);
                    assert!(
                        may_be.any(|step| value(step) == found),
                        "key {number} from step {before} to {}: {found:?}",
                        state.applied()
                    );
                }
            });
        }
        for step in 2 * KEYS..=steps {
            state.publish(Changes::from_iter([(key(step % KEYS), value(step))]), step);
            if house.random.u32(0..100) == 0 {
                while state.lag().applied < step {
                    thread::yield_now();
                }
            }
        }
    });
}

#[test]
fn a_gap_holds_no_key() {
    let mut house = House::new();
    let (state, _) = house.open();
    let key = |number: u16| [&[b'a' + (number >> 14) as u8], &number.to_be_bytes()[..]].concat();
    let mut keys = BTreeSet::new();
    for round in 1..60 {
        let numbers: Vec<u16> = (0..house.random.u32(1..40)).map(|_| house.random.u16(..)).collect();
        let changes = numbers.iter().map(|number| {
            let is_set = house.random.u32(0..4) > 0;
            if is_set {
                keys.insert(key(*number))
            } else {
                keys.remove(&key(*number))
            };
            (key(*number), is_set.then(|| vec![7; house.random.usize(0..40)]))
        });
        state.publish(changes.collect(), round);
        while state.lag().applied < round {
            thread::yield_now();
        }
        for _ in 0..200 {
            let asked = key(house.random.u16(..));
            match state.shared.store.look(&asked) {
                Looked::Value(_) => assert!(keys.contains(&asked), "{asked:?}"),
                Looked::Gap { start, end } => {
                    assert!(start <= asked && asked < end, "{asked:?} in {start:?} to {end:?}");
                    assert_eq!(start[0], asked[0], "of one table");
                    assert_eq!(keys.range(start..end).next(), None, "around {asked:?}");
                }
            }
            let found = crate::state::read_once(&state, |read| read.get(&asked));
            assert_eq!(found.is_some(), keys.contains(&asked), "{asked:?}");
        }
    }
}
