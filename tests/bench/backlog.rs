//! `bench backlog`: a hub whose queues are long. What a submission, a delivery
//! and a start cost beside what waits.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use axis_hub::{
    commit,
    disk::{Disk, RealDisk},
    journal::segments,
    machine::LAYOUT_VERSION,
    state::{State as _, memory::MemorySnapshots},
};
use axis_tests::{
    Raw,
    seed::{self, Plan, agency},
};
use tokio::runtime::Runtime;

use crate::{
    hub::{Hub, bytes_in},
    load,
    measure::{Figures, Latencies, cpu},
    report::{Common, Report, Table},
    signed::Signed,
};

/// How many wait.
const WAITING: [u64; 2] = [1_000, 1_000_000];
/// Of each kind in a round.
const CALLS: u64 = 20_000;
/// What `--long` adds.
const LONG: u64 = 10_000_000;
/// Up to so many are replayed in memory too, which takes two gigabytes.
const REPLAYED_MAX: u64 = 1_000_000;
/// Systems that send.
const SENDERS: usize = 4;
/// Bytes of the documents that are submitted.
const DOCUMENT_BYTES: usize = 4_096;
/// What is compared between the lengths.
const COSTS: [&str; 2] = ["submit: hub CPU µs", "exchange: hub CPU µs"];

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// How many envelopes wait, one column each
    #[arg(long, value_delimiter = ',', default_values_t = WAITING)]
    waiting: Vec<u64>,
    /// Also 10 000 000: takes some hours and 40 GB
    #[arg(long)]
    long: bool,
    /// Envelopes that are submitted, and deliveries that are taken, in each round
    #[arg(long, default_value_t = CALLS)]
    calls: u64,
}

impl Args {
    /// A thousand and a million.
    pub fn of(common: &Common) -> Self {
        Self { common: common.clone(), waiting: WAITING.into(), long: false, calls: CALLS }
    }
}

/// Runs it.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!(
        "Envelopes wait in the mailboxes of 8 systems. Then {} are submitted, 64 at once; then as many are \
         submitted to one system while it takes and acknowledges as many, so that as many wait as before.",
        args.calls
    );
    report.profile("backlog", &about, work_dir.path())?;
    let mut table = Table::new("waiting").upright();
    let long = args.long.then_some(LONG);
    for waiting in args.waiting.iter().chain(&long) {
        let dir = work_dir.path().join(waiting.to_string());
        one(&dir, *waiting, args, &mut table)?;
        std::fs::remove_dir_all(&dir)?;
    }
    let words = COSTS.iter().flat_map(|cost| {
        let of = |waiting: &u64| table.median(&waiting.to_string(), cost);
        let first = args.waiting.first().and_then(of);
        let ratios = args.waiting.iter().chain(&long).skip(1).filter_map(move |waiting| {
            let ratio = of(waiting)? / first?;
            Some(format!("{cost} with {waiting} waiting is {ratio:.2} × that with {}.", args.waiting[0]))
        });
        ratios.collect::<Vec<_>>()
    });
    let words: Vec<String> = words.collect();
    report.table(table);
    words.iter().for_each(|words| report.say(words));
    Ok(())
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}

/// One length of the queues.
fn one(dir: &Path, waiting: u64, args: &Args, table: &mut Table) -> anyhow::Result<()> {
    let (runtime, name) = (Runtime::new()?, waiting.to_string());
    say(&format!("{waiting} waiting: making the journal"));
    let plan = Plan { waiting, ..Plan::default() };
    let seeded = seed::seed(dir, &plan, &mut crate::seed::Said::default().of(&plan))?;
    let data = dir.join("data");
    let rate = seeded.envelopes as f64 / seeded.took.as_secs_f64();
    table.add(&name, vec![("seed-journal: envelopes/s", rate)]);
    if waiting <= REPLAYED_MAX {
        say("replay into memory, without sled");
        let took = replay(&data)?.as_secs_f64();
        table.add(&name, vec![("replay in memory: records/s", seeded.records as f64 / took)]);
    }

    say("rebuild: no state, no snapshot");
    for derived in ["state", "snapshots"] {
        std::fs::remove_dir_all(data.join(derived))?;
    }
    let began = Instant::now();
    let hub = Hub::start(dir)?;
    let took = began.elapsed().as_secs_f64();
    let mut row = vec![
        ("rebuild from the journal alone s", took),
        ("rebuild: records/s", seeded.records as f64 / took),
        ("rebuild: hub CPU s", cpu(&hub.pid().to_string()).as_secs_f64()),
        ("rebuild: VmHWM MiB", hub.memory_mib("VmHWM:") as f64),
        ("stop s", hub.stop()?.as_secs_f64()),
    ];

    say("start after a clean stop, to the first delivery");
    let (hub, served, first) = start(&runtime, dir, 1)?;
    row.push(("clean start s", served));
    row.push(("clean start: to the first delivery s", first));
    for (name, part) in [("journal: bytes for each", "journal"), ("state: bytes for each", "state")] {
        row.push((name, bytes_in(&data.join(part)) as f64 / waiting as f64));
    }
    table.add(&name, row);

    for round in 0..args.common.rounds {
        say(&format!("submit and deliver, round {} of {}", round + 1, args.common.rounds));
        table.add(&name, runtime.block_on(calls(&hub, dir, args.calls))?);
    }
    let memory = hub.memory_mib("VmHWM:") as f64;

    say("start after SIGKILL, to the first delivery");
    hub.kill()?;
    let (hub, served, first) = start(&runtime, dir, 3)?;
    let mut row = vec![("VmHWM MiB", memory), ("start after SIGKILL s", served)];
    row.push(("start after SIGKILL: to the first delivery s", first));
    row.push(("stop again s", hub.stop()?.as_secs_f64()));
    table.add(&name, row);
    Ok(())
}

/// Reads, checks and applies a journal as a rebuild does, into a map in memory.
fn replay(data: &Path) -> anyhow::Result<Duration> {
    let (disk, none): (Arc<dyn Disk>, _) = (Arc::new(RealDisk), tempfile::tempdir()?);
    let journal = segments::open_read_only(disk.clone(), &data.join("journal"))?;
    let snapshots = MemorySnapshots::new(disk, none.path(), "", LAYOUT_VERSION);
    let began = Instant::now();
    let state = snapshots.open(&*journal, &commit::Replay)?;
    let took = began.elapsed();
    ensure!(state.applied() == journal.size(), "all of it was applied");
    Ok(took)
}

/// Submissions to all, then an exchange with one.
async fn calls(hub: &Hub, dir: &Path, count: u64) -> anyhow::Result<Figures> {
    let mut senders = Vec::new();
    for place in 0..SENDERS {
        senders.push(load::connect(dir, place).await?);
    }
    let make = |senders: &[Raw], to: &[String]| {
        tokio::task::block_in_place(|| Signed::make(senders, to, count as usize, DOCUMENT_BYTES))
    };
    let others: Vec<String> = (SENDERS..8).map(agency).collect();
    let signed = make(&senders, &others);
    let submitted = load::submit(dir, hub.pid(), signed).await?;
    let mut row = vec![
        ("submit: per second", submitted.rate()),
        ("submit: p50 ms", submitted.latencies.ms(50.0)),
        ("submit: p99 ms", submitted.latencies.ms(99.0)),
        (COSTS[0], submitted.hub_us()),
    ];
    let signed = make(&senders, &others[..1]);
    let (began, used) = (Instant::now(), cpu(&hub.pid().to_string()));
    let submit = load::submit(dir, hub.pid(), signed);
    let (_, (taken, first)) = tokio::try_join!(submit, load::deliver(dir, SENDERS, count))?;
    let (took, used) = (began.elapsed(), cpu(&hub.pid().to_string()).saturating_sub(used));
    row.extend(exchanged(count, took, used, &taken.latencies, first));
    Ok(row)
}

fn exchanged(
    count: u64,
    took: Duration,
    used: Duration,
    acknowledged: &Latencies,
    first: Duration,
) -> Figures {
    vec![
        ("exchange: per second", count as f64 / took.as_secs_f64()),
        ("exchange: first delivery ms", first.as_secs_f64() * 1e3),
        ("exchange: acknowledged p50 ms", acknowledged.ms(50.0)),
        ("exchange: acknowledged p99 ms", acknowledged.ms(99.0)),
        (COSTS[1], used.as_secs_f64() * 1e6 / count as f64),
    ]
}

/// Starts a hub: when it served, and when the first delivery came, in seconds.
fn start(runtime: &Runtime, dir: &Path, place: usize) -> anyhow::Result<(Hub, f64, f64)> {
    let began = Instant::now();
    let hub = Hub::start(dir)?;
    let served = began.elapsed().as_secs_f64();
    runtime.block_on(load::deliver(dir, place, 1))?;
    Ok((hub, served, began.elapsed().as_secs_f64()))
}
