//! What the state's store costs: sled written with every batch against sled
//! written behind two layers in memory. The figures are in
//! `tests/BENCHMARKS.md`; this never decides anything at run time.
//!
//! ```text
//! cargo run --profile ci -p axis-hub --example state_spike -- plain|behind [DELIVERIES] [RECORDS] [CACHE_MIB]
//! ```
//!
//! A directory full of waiting deliveries is made first (an envelope's row, its
//! id, a delivery's row and a place in a queue for each). Then records come in
//! batches of 256: accepted, leased and acked in equal numbers, three or four
//! small keys each, the newest of the queue on top of all that waits.

use std::{
    fs, io,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axis_hub::{
    disk::RealDisk,
    journal::{Batch, Entry, JournalReader},
    state::{self, Changes, Draft, Options, Read, SledState, State},
};

const BATCH: u64 = 256;

/// A journal that holds nothing but a length.
#[derive(Default)]
struct Length(AtomicU64);

impl JournalReader for Length {
    fn size(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn batch_of(&self, _: u64) -> io::Result<Option<Arc<Batch>>> {
        Ok(None)
    }

    fn replay(&self, _: u64, _: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>) -> io::Result<()> {
        Ok(())
    }
}

/// sled as it would be used without layers: a batch and a flush each time.
struct Plain(sled::Db);

impl Read for Plain {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).expect("sled reads").map(|value| value.to_vec())
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut state::Visit<'_>) {
        for pair in self.0.range(start..end) {
            let (key, value) = pair.expect("sled reads");
            if visit(&key, &value).is_break() {
                return;
            }
        }
    }
}

impl State for Plain {
    fn read(&self, read: &mut dyn FnMut(&dyn Read)) {
        read(self);
    }

    fn publish(&self, changes: Changes, applied: u64) {
        let mut batch = sled::Batch::default();
        for (key, change) in changes {
            match change {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch.insert("applied", &applied.to_le_bytes());
        self.0.apply_batch(batch).expect("sled writes");
        self.0.flush().expect("sled flushes");
    }

    fn applied(&self) -> u64 {
        0
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mode = arguments.first().map_or("behind", String::as_str);
    let number =
        |at: usize, usual: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (deliveries, records, cache) =
        (number(1, 1_000_000), number(2, 600_000), number(3, 32) * 1024 * 1024);
    let dir = tempfile::tempdir()?;
    println!("{mode}: {deliveries} waiting deliveries, {records} records, sled cache {} MiB", cache >> 20);

    let length = Length::default();
    let options = Options { cache_bytes: cache, ..Options::new(dir.path(), RealDisk::shared(), "spike", 1) };
    if mode == "plain" {
        let open = || {
            let config = sled::Config::new().cache_capacity(cache).segment_size(8 << 20).flush_every_ms(None);
            Plain(config.path(dir.path().join("state/sled")).open().expect("sled opens"))
        };
        let state = open();
        run(&state, deliveries, records, &|| ());
        drop(state);
        std::thread::sleep(std::time::Duration::from_secs(1));
        println!("sled: {} MiB", mebibytes(&dir.path().join("state/sled")));
        let start = Instant::now();
        println!(
            "reopen and read all: {} keys in {:.1?}",
            open().0.iter().flatten().count(),
            start.elapsed()
        );
    } else {
        let open = || -> io::Result<SledState> {
            state::open(options.clone(), &length, &|_: &mut Draft<'_>, _: &Entry| Ok(()))
        };
        let state = open()?;
        run(&state, deliveries, records, &|| {
            while state.lag().keys > 0 {
                std::thread::yield_now();
            }
        });
        length.0.store(state.applied(), Ordering::Relaxed);
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let taken = state.snapshots();
        state.request_snapshot();
        state.stop();
        let keys = taken.borrow().map_or(0, |taken| taken.key_count);
        println!("sled: {} MiB", mebibytes(&options.dir.join("sled")));
        println!(
            "last snapshot: {keys} keys in {:.1?}, {:.1} s of CPU",
            start.elapsed(),
            cpu_seconds() - cpu
        );
        println!("two snapshots: {} MiB", mebibytes(&options.snapshots));
        drop(state);
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let state = open()?;
        println!("reopen and verify all: {:.1?}, {:.1} s of CPU", start.elapsed(), cpu_seconds() - cpu);
        drop(state);
        fs::remove_dir_all(&options.dir)?;
        let (start, cpu) = (Instant::now(), cpu_seconds());
        drop(open()?);
        println!("rebuild from the snapshot: {:.1?}, {:.1} s of CPU", start.elapsed(), cpu_seconds() - cpu);
    }
    println!("resident at most: {} MiB", status("VmHWM"));
    return Ok(());

    fn run(state: &dyn State, deliveries: u64, records: u64, settle: &dyn Fn()) {
        let start = Instant::now();
        let mut applied = 0;
        for first in (0..deliveries).step_by(1_000) {
            let mut draft = Changes::new();
            for number in first..deliveries.min(first + 1_000) {
                accept(&mut |key, value| draft.insert(key, Some(value)), number);
            }
            applied += 1_000;
            state.publish(draft, applied);
        }
        settle();
        let per_second = deliveries as f64 / start.elapsed().as_secs_f64();
        println!(
            "preload: {:.1?}, {per_second:.0} deliveries/s, {:.1} s of CPU, resident {} MiB",
            start.elapsed(),
            cpu_seconds(),
            status("VmRSS")
        );

        let (start, cpu) = (Instant::now(), cpu_seconds());
        let (mut number, mut slowest) = (deliveries, 0.0f64);
        let mut done = 0;
        while done < records {
            let batch = Instant::now();
            let mut changes = Changes::new();
            state.read(&mut |read| {
                let mut draft = Draft::new(read);
                for _ in 0..BATCH / 3 {
                    step(&mut draft, number);
                    number += 1;
                }
                changes = draft.into_changes();
            });
            done += BATCH / 3 * 3;
            applied += BATCH / 3 * 3;
            state.publish(changes, applied);
            slowest = slowest.max(batch.elapsed().as_secs_f64());
        }
        let published = start.elapsed();
        settle();
        println!(
            "records: {:.0}/s ({:.0}/s until sled has all), {:.1} µs of CPU each, slowest batch {:.0} ms, resident {} MiB",
            done as f64 / published.as_secs_f64(),
            done as f64 / start.elapsed().as_secs_f64(),
            (cpu_seconds() - cpu) * 1e6 / done as f64,
            slowest * 1e3,
            status("VmRSS")
        );
    }
}

/// About what accepting one envelope for one recipient wrote when the store was
/// chosen.
fn accept(put: &mut dyn FnMut(Vec<u8>, Vec<u8>), number: u64) {
    let row = |length: usize| number.to_be_bytes().repeat(length / 8);
    put(key(b'e', number, 0), row(120));
    put(key(b'i', number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number), row(8));
    put(key(b'd', number, 0), row(64));
    put(key(b'q', number % 64, number), row(16));
}

/// Accepts an envelope, leases the delivery of an older one, acks that of one
/// older still, as three records.
fn step(draft: &mut Draft<'_>, number: u64) {
    assert!(draft.get(&key(b'i', number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number)).is_none());
    let mut puts = Vec::new();
    accept(&mut |key, value| puts.push((key, value)), number);
    for (key, value) in puts {
        draft.put(key, value);
    }
    draft.put(*b"meta", number.to_be_bytes());

    let leased = number - 1_000;
    let mut row = draft.get(&key(b'd', leased, 0)).expect("it waits");
    row[0] ^= 1;
    draft.put(key(b'd', leased, 0), row);
    draft.delete(key(b'q', leased % 64, leased));
    draft.put(key(b't', leased / 100, leased), *b"lease");

    let acked = number - 3_000;
    let mut row = draft.get(&key(b'e', acked, 0)).expect("it waits");
    row[8] ^= 1;
    draft.put(key(b'e', acked, 0), row);
    draft.delete(key(b't', acked / 100, acked));
    draft.delete(key(b'd', acked, 0));
    draft.put(key(b'm', number % 64, 0), number.to_be_bytes());
}

fn key(table: u8, first: u64, second: u64) -> Vec<u8> {
    let mut key = vec![table];
    key.extend_from_slice(&first.to_be_bytes());
    key.extend_from_slice(&second.to_be_bytes());
    key
}

fn mebibytes(dir: &Path) -> u64 {
    fn bytes(dir: &Path) -> u64 {
        fs::read_dir(dir).into_iter().flatten().flatten().fold(0, |sum, entry| {
            sum + match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
                Ok(metadata) => metadata.len(),
                Err(_) => 0,
            }
        })
    }
    bytes(dir) >> 20
}

/// What this process has used, all threads.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // after the name in brackets: user and system time in ticks of 10 ms are
    // the 12th and 13th
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// A line of `/proc/self/status`, in MiB.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_ascii_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap_or_default() / 1024
}
