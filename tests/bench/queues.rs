//! `bench queues`: a hub whose queues are long. What a submission, a delivery
//! and a start cost beside what waits, and whom a broadcast keeps waiting.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axis_tests::seed::{self, Plan};
use tokio_util::sync::CancellationToken;

use crate::{
    hub::{Hub, bytes_in},
    load,
    report::{Report, Table},
};

/// What `--long` adds.
const LONG: u64 = 10_000_000;

/// What is measured.
#[derive(clap::Args)]
pub struct Args {
    /// How many envelopes wait, one row each
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000])]
    waiting: Vec<u64>,
    /// Also 10 000 000: takes some hours and 40 GB
    #[arg(long)]
    long: bool,
    /// Envelopes that are submitted, and deliveries that are taken, for each row
    #[arg(long, default_value_t = 20_000)]
    calls: u64,
    /// Agencies that a broadcast goes to; 0 leaves it out
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=200_000))]
    broadcast: u32,
    /// Where the hubs are made and removed again; needs some 4 KB an envelope
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let above = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&above)?;
    let dir = tempfile::Builder::new().prefix("axis-bench-").tempdir_in(&above)?;
    let mut table = Table::new("queues");
    let long = args.long.then_some(LONG);
    for waiting in args.waiting.iter().chain(&long) {
        let hub = dir.path().join(waiting.to_string());
        table.add(row(&hub, *waiting, args.calls)?);
        std::fs::remove_dir_all(&hub)?;
    }
    println!("\n{}", table.show());
    let mut tables = vec![table];
    if args.broadcast > 0 {
        let mut table = Table::new("broadcast");
        table.add(broadcast(&dir.path().join("broadcast"), args.broadcast as usize)?);
        println!("\n{}", table.show());
        tables.push(table);
    }
    match &args.json {
        Some(path) => Report::new(tables).write(path),
        None => Ok(()),
    }
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}

fn seconds(took: Duration) -> f64 {
    took.as_secs_f64()
}

/// One length of the queues.
fn row(dir: &Path, waiting: u64, calls: u64) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let runtime = tokio::runtime::Runtime::new()?;
    say(&format!("{waiting} waiting: making the journal"));
    let plan = Plan { waiting, ..Plan::default() };
    let seeded = seed::seed(dir, &plan, &mut crate::seed::Said::default().of(&plan))?;
    let data = dir.join("data");
    let mut row = vec![("waiting", waiting as f64)];
    row.push(("seeded envelopes/s", seeded.envelopes as f64 / seconds(seeded.took)));

    say("rebuild: no state, no snapshot");
    for derived in ["state", "snapshots"] {
        std::fs::remove_dir_all(data.join(derived))?;
    }
    let began = Instant::now();
    let hub = Hub::start(dir)?;
    row.push(("rebuild s", seconds(began.elapsed())));
    row.push(("rebuild records/s", seeded.records as f64 / seconds(began.elapsed())));
    row.push(("rebuild VmHWM MiB", hub.memory_mib("VmHWM:") as f64));
    row.push(("stop s", seconds(hub.stop()?)));

    say("start after a clean stop, to the first delivery");
    let (hub, served, first) = start(&runtime, dir, 1)?;
    row.push(("clean start s", served));
    row.push(("to first delivery s", first));
    row.push(("state bytes/waiting", bytes_in(&data.join("state")) as f64 / waiting as f64));
    row.push(("journal bytes/waiting", bytes_in(&data.join("journal")) as f64 / waiting as f64));
    row.push(("all bytes/waiting", bytes_in(&data) as f64 / waiting as f64));

    say("submit");
    let done = runtime.block_on(load::submit(dir, calls as usize))?;
    row.push(("submit/s", done.rate()));
    row.push(("submit p50 ms", done.latencies.ms(500)));
    row.push(("submit p99 ms", done.latencies.ms(990)));
    say("deliver: lease and acknowledge");
    let (done, _) = runtime.block_on(load::deliver(dir, 2, calls.min(waiting / 8)))?;
    row.push(("deliver/s", done.rate()));
    row.push(("ack p50 ms", done.latencies.ms(500)));
    row.push(("ack p99 ms", done.latencies.ms(990)));
    row.push(("VmRSS MiB", hub.memory_mib("VmRSS:") as f64));
    row.push(("VmHWM MiB", hub.memory_mib("VmHWM:") as f64));

    say("start after SIGKILL, to the first delivery");
    hub.kill()?;
    let (hub, served, first) = start(&runtime, dir, 3)?;
    row.push(("start after SIGKILL s", served));
    row.push(("to first delivery s ", first));
    row.push(("stop again s", seconds(hub.stop()?)));
    Ok(row)
}

/// Starts a hub: when it served, and when the first delivery came, in seconds.
fn start(runtime: &tokio::runtime::Runtime, dir: &Path, place: usize) -> anyhow::Result<(Hub, f64, f64)> {
    let began = Instant::now();
    let hub = Hub::start(dir)?;
    let served = seconds(began.elapsed());
    runtime.block_on(load::deliver(dir, place, 1))?;
    Ok((hub, served, seconds(began.elapsed())))
}

/// A broadcast beside somebody who submits one envelope after the other.
fn broadcast(dir: &Path, agencies: usize) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let runtime = tokio::runtime::Runtime::new()?;
    say(&format!("broadcast to {agencies}: making the directory"));
    let plan = Plan { agencies, ..Plan::default() };
    seed::seed(dir, &plan, &mut |_| {})?;
    let hub = Hub::start(dir)?;
    let mut row = vec![("recipients", agencies as f64)];
    let figures = runtime.block_on(async {
        let quiet = measured(dir, async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        })
        .await?
        .0;
        say("one submission to all of them");
        let began = Instant::now();
        let (during, answered) = measured(dir, async {
            let answered = load::broadcast(dir).await?;
            while waiting(dir).await? < agencies as u64 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(answered)
        })
        .await?;
        anyhow::Ok((quiet, during, answered, began.elapsed()))
    });
    let (quiet, during, answered, visible) = figures?;
    row.push(("answered s", seconds(answered)));
    row.push(("visible to all s", seconds(visible)));
    row.push(("others without: p50 ms", quiet.latencies.ms(500)));
    row.push(("others without: p99 ms", quiet.latencies.ms(990)));
    row.push(("others without: worst ms", quiet.latencies.ms(1_000)));
    row.push(("others during: p50 ms", during.latencies.ms(500)));
    row.push(("others during: p99 ms", during.latencies.ms(990)));
    row.push(("others during: worst ms", during.latencies.ms(1_000)));
    for (name, metric) in [
        ("largest batch, records", "axis_commit_batch_records_max"),
        ("longest hold of the state s", "axis_state_hold_longest_seconds"),
    ] {
        row.push((name, hub.metric(metric)?));
    }
    row.push(("VmHWM MiB", hub.memory_mib("VmHWM:") as f64));
    hub.stop()?;
    Ok(row)
}

/// Somebody else's submissions while something happens.
async fn measured<T>(
    dir: &Path,
    something: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(load::Done, T)> {
    let end = CancellationToken::new();
    let (of, ends) = (dir.to_owned(), end.clone());
    let others = tokio::spawn(async move { load::probe(&of, ends).await });
    let outcome = something.await;
    end.cancel();
    Ok((others.await??, outcome?))
}

/// Deliveries that wait.
async fn waiting(dir: &Path) -> anyhow::Result<u64> {
    let mut admin = axis_tests::admin(dir).await?;
    let queues = admin.list_queues(axis_proto::admin::v1::ListQueuesRequest {}).await?.into_inner().queues;
    Ok(queues.iter().map(|queue| queue.waiting).sum())
}
