//! Takes the power away from a hub, thousands of times, and looks whether it
//! kept its word. Everything is in one thread for each world: systems, network,
//! time, disk and the hub, from `verify` over `admit`, `commit` and `deliver`
//! to the recipient. Only the wire and sled are outside; `sled` brings it in.
//!
//! ```text
//! sim                          all of it, as in CI
//! sim cuts --cuts 100000       more cuts; --seed S begins at that seed
//! sim syncs                    that each sync matters: it is left out, and some
//!                              world must break
//! sim sled --cuts 1000         the same over real sled, whose directory is at
//!                              each cut as it was, older, damaged or gone
//! sim weather --worlds 5000    messages lost, repeated, late; clocks that step
//! sim cuts --world S           one world again, by its seed
//! ```
//!
//! After each batch: the invariants of `fsck` over the records, and what the
//! state says of every key that the batch touched.
//!
//! After each cut: the hub opens without help, the checker of `fsck` is clean,
//! every receipt, head, document and upload that was answered is there, byte
//! for byte, and the state is what the journal says. In the end faults stop,
//! and everything must settle. A world that fails prints its seed; put it into
//! `seeds.rs`.

mod agency;
mod calls;
mod house;
mod hub;
mod promise;
mod seeds;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use axis_hub::disk::memory::Synced;
use world::{Outcome, Profile, run};

/// Cuts in memory that CI makes.
const CUTS: u32 = 10_000;
/// Cuts over real sled that CI makes.
const SLED_CUTS: u32 = 200;
/// Worlds of weather that CI makes.
const WEATHER_WORLDS: u32 = 150;
/// Worlds that are run twice, to see that nothing but the seed decides.
const TWICE: u64 = 3;

const CUT_WORLD: Profile = Profile {
    cuts: 10,
    steps_max: 50,
    operations_max: 150,
    sled: false,
    lost: 10,
    twice: 10,
    late: 20,
    clock_steps: 3,
    posting_max: 8,
    purges: 20,
    moves: 20,
    left_out: None,
};
const SLED_WORLD: Profile = Profile { cuts: 10, sled: true, ..CUT_WORLD };
const WEATHER_WORLD: Profile = Profile {
    cuts: 3,
    steps_max: 160,
    operations_max: 260,
    sled: false,
    lost: 80,
    twice: 80,
    late: 200,
    clock_steps: 30,
    posting_max: 12,
    purges: 20,
    moves: 20,
    left_out: None,
};

/// The syncs that the promises rest on, by name. Each is left out once, and
/// then some world must break.
const SYNCS: [(&str, Synced, &str); 8] = [
    ("what is appended to the journal", Synced::Data, "/journal"),
    ("the names of the journal's segments", Synced::Names, "/journal"),
    ("what is written anew without what was erased", Synced::Data, ".segment.new"),
    ("the bytes of documents", Synced::Data, ".part"),
    ("the names of documents", Synced::Names, "/vault/objects/"),
    ("the marks of uploads", Synced::Data, ".mark"),
    ("the names of uploads", Synced::Names, "/vault/uploads/"),
    ("the bytes of snapshots", Synced::Data, ".snapshot"),
];
/// Worlds in which a sync that is left out must be missed.
const SYNC_WORLDS: u64 = 200;

const HELP: &str = "\
sim [cuts | syncs | sled | weather] [--cuts N] [--worlds N] [--seed S] [--world S] [--threads T]

Without a word: all of them, as in CI (10 000 cuts, 200 over sled, 150 worlds of weather).
  --cuts N      so many cuts
  --worlds N    so many worlds
  --seed S      the first world's seed; the others follow it. Printed if it is not given.
  --world S     this world alone, to see again what it did
  --threads T   worlds at once; each is in one thread (2)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cuts,
    Syncs,
    Sled,
    Weather,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Cuts => "cuts",
            Self::Syncs => "syncs",
            Self::Sled => "sled",
            Self::Weather => "weather",
        }
    }

    fn profile(self) -> Profile {
        match self {
            Self::Cuts | Self::Syncs => CUT_WORLD,
            Self::Sled => SLED_WORLD,
            Self::Weather => WEATHER_WORLD,
        }
    }
}

#[derive(Debug, Default)]
struct Arguments {
    kind: Option<Kind>,
    cuts: Option<u32>,
    worlds: Option<u32>,
    seed: Option<u64>,
    world: Option<u64>,
    threads: Option<u32>,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or(format!("{word} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word}: {value} is no number"))
        };
        match word.as_str() {
            "cuts" => found.kind = Some(Kind::Cuts),
            "syncs" => found.kind = Some(Kind::Syncs),
            "sled" => found.kind = Some(Kind::Sled),
            "weather" => found.kind = Some(Kind::Weather),
            "--cuts" => found.cuts = Some(number()? as u32),
            "--worlds" => found.worlds = Some(number()? as u32),
            "--seed" => found.seed = Some(number()?),
            "--world" => found.world = Some(number()?),
            "--threads" => found.threads = Some(number()? as u32),
            "--help" | "-h" => return Err(String::new()),
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("{wrong}\n{HELP}");
            return if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    let kinds = match arguments.kind {
        Some(kind) => vec![kind],
        None => vec![Kind::Cuts, Kind::Syncs, Kind::Sled, Kind::Weather],
    };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 40));
    let good = kinds.into_iter().all(|kind| match arguments.world {
        Some(world) => matches!(one(kind, world), Some(outcome) if report(kind, world, &outcome)),
        None if kind == Kind::Syncs => syncs(seed),
        None => many(kind, seed, &arguments),
    });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(kind: Kind, seed: u64, outcome: &Outcome) -> bool {
    println!("{} world {seed}: {outcome:?}", kind.name());
    true
}

/// Runs one world; `None` if it broke its word, which is said.
fn one(kind: Kind, seed: u64) -> Option<Outcome> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, kind.profile()))).ok();
    if outcome.is_none() {
        let name = kind.name();
        println!("FAILED: {name} world {seed}; see it again with `sim {name} --world {seed}`");
    }
    outcome
}

fn many(kind: Kind, seed: u64, arguments: &Arguments) -> bool {
    let began = Instant::now();
    let cuts_max = arguments.cuts.unwrap_or(match kind {
        Kind::Cuts | Kind::Syncs => CUTS,
        Kind::Sled => SLED_CUTS,
        Kind::Weather => u32::MAX,
    });
    let worlds_max = arguments.worlds.unwrap_or(match kind {
        Kind::Weather if arguments.cuts.is_none() => WEATHER_WORLDS,
        _ => u32::MAX,
    });
    println!("{}: seed {seed}", kind.name());
    let known = match kind {
        Kind::Cuts => seeds::CUTS,
        Kind::Weather => seeds::WEATHER,
        Kind::Sled | Kind::Syncs => &[],
    };
    let (next, worlds, cuts) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let (failed, sum) = (AtomicBool::new(false), Mutex::new(Outcome::default()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.unwrap_or(2) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let enough = cuts.load(Ordering::Relaxed) >= cuts_max
                        || worlds.fetch_add(1, Ordering::Relaxed) >= worlds_max;
                    if enough && place >= known.len() as u64 {
                        break;
                    }
                    let seed = known.get(place as usize).copied().unwrap_or(seed.wrapping_add(place));
                    let Some(outcome) = one(kind, seed) else {
                        failed.store(true, Ordering::Relaxed);
                        break;
                    };
                    if kind != Kind::Sled && place < TWICE {
                        let again = one(kind, seed);
                        if again.is_none_or(|again| again.journal != outcome.journal) {
                            println!(
                                "FAILED: {} world {seed} gave another journal the second time",
                                kind.name()
                            );
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                    cuts.fetch_add(outcome.cuts + outcome.recovery_cuts, Ordering::Relaxed);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(&outcome);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!(
        "{}: {} worlds, {} cuts of the power ({} during recovery), {} other ends; {} records, {} receipts and {} \
         deliveries held, {} contents erased; {} s",
        kind.name(),
        sum.worlds,
        sum.cuts + sum.recovery_cuts,
        sum.recovery_cuts,
        sum.restarts,
        sum.records,
        sum.receipts,
        sum.deliveries,
        sum.erased,
        began.elapsed().as_secs()
    );
    !failed.load(Ordering::Relaxed)
}

/// Leaves out one sync after the other. Some world must break by each.
fn syncs(seed: u64) -> bool {
    let began = Instant::now();
    println!("syncs: seed {seed}");
    let said = std::panic::take_hook();
    let mut good = true;
    for (name, what, containing) in SYNCS {
        // that it breaks is as it should be: one line says how
        let how = Arc::new(Mutex::new(String::new()));
        let heard = how.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let mut how = heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let words = words_of(panic.payload()).lines().next().unwrap_or_default();
            if how.is_empty() {
                words.chars().take(160).for_each(|char| how.push(char));
            }
        }));
        let profile = Profile { left_out: Some((what, containing)), ..CUT_WORLD };
        let broke = (0..SYNC_WORLDS).find(|place| {
            catch_unwind(AssertUnwindSafe(|| run(seed.wrapping_add(*place), profile))).is_err()
        });
        match broke {
            Some(place) => {
                let how = how.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                println!("syncs: without that of {name}, world {} broke its word: {how}", place + 1);
            }
            None => {
                println!("FAILED: without the sync of {name}, {SYNC_WORLDS} worlds kept their word");
                good = false;
            }
        }
    }
    std::panic::set_hook(said);
    println!("syncs: {} s", began.elapsed().as_secs());
    good
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.worlds += 1;
        self.cuts += other.cuts;
        self.recovery_cuts += other.recovery_cuts;
        self.restarts += other.restarts;
        self.records += other.records;
        self.receipts += other.receipts;
        self.deliveries += other.deliveries;
        self.erased += other.erased;
    }
}

/// What a panic says.
fn words_of(payload: &dyn std::any::Any) -> &str {
    let said = payload.downcast_ref::<String>().map(String::as_str);
    said.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default()
}
