//! `bench idle`: systems that are connected and wait. What each costs the hub
//! in memory and in processor time, how long all of them take to connect, also
//! all at once as after a cut, and how long a delivery to one of them takes
//! beside the others. And the hub at rest: what it takes with nobody there,
//! and how long it takes to start.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_proto::hub::v1::SubmitRequest;
use axis_tests::crowd::crowd;
use bytes::Bytes;
use tokio::{
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
    task::JoinSet,
    time::timeout,
};

use crate::{
    attend::{Attending, Came},
    hub::Hub,
    measure::{Figures, Latencies, cpu},
    report::{Common, Report, Table},
    stage::Stage,
};

/// Systems that connect at once, where they come in good order: as many as the
/// hub shakes hands with.
const AT_ONCE: usize = 256;
/// Open files that a process needs beside its connections.
const FILES_BESIDE: u64 = 200;
/// Longest that all may take to connect, and a delivery to come.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the hub is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Bytes of the document of a letter.
const DOCUMENT_BYTES: usize = 4 * 1024;

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Systems that are connected, each with a stream that receives
    #[arg(long, default_value_t = 10_000)]
    systems: usize,
    /// Seconds for which all of them are idle
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// Letters to one of them each, one after the other
    #[arg(long, default_value_t = 300)]
    letters: usize,
    /// Starts of a hub that is at rest
    #[arg(long, default_value_t = 9)]
    starts: usize,
}

/// A crowd that is connected.
struct Present {
    tasks: JoinSet<()>,
    lost: Arc<AtomicU64>,
    took: Duration,
    /// Connections that did not come to be and were tried again.
    again: u64,
}

/// Runs it.
///
/// # Errors
/// If a system is not served, or this process may not open enough files.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!(
        "A hub with nobody there, and with {} enrolled systems that are connected, each with a certificate \
         of its own and an open receive stream.",
        args.systems
    );
    report.profile("idle", &about, work_dir.path())?;
    let (mut rest, mut idle) =
        (Table::new("the hub at rest").upright(), Table::new("systems that wait").upright());
    for _ in 0..args.common.rounds {
        rest.add("", at_rest(args, work_dir.path())?);
        idle.add("", connected(args, work_dir.path())?);
    }
    report.table(rest);
    report.table(idle);
    Ok(())
}

/// Those who are connected.
fn connected(args: &Args, above: &Path) -> anyhow::Result<Figures> {
    enough_files(args.systems as u64 + FILES_BESIDE)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        // the last one sends
        let stage = Arc::new(Stage::set(above, args.systems + 1)?);
        let (tell, mut told) = unbounded_channel();
        tokio::time::sleep(SETTLE).await;
        let before_kib = stage.hub.memory_kib("VmRSS:");

        let few = connect(&stage, args.systems.min(50), AT_ONCE, &tell).await?;
        let (submit_few, deliver_few) =
            letters(&stage, args.systems.min(50), args.letters, &mut told).await?;
        leave(&stage, few).await?;

        let cpu_before = stage.hub.cpu();
        let all = connect(&stage, args.systems, AT_ONCE, &tell).await?;
        let connect_cpu = stage.hub.cpu().saturating_sub(cpu_before);
        tokio::time::sleep(SETTLE).await;
        let with_kib = stage.hub.memory_kib("VmRSS:");
        let (cpu_before, own_before, began) = (stage.hub.cpu(), cpu("self"), Instant::now());
        tokio::time::sleep(Duration::from_secs(args.idle_seconds)).await;
        let percent = |used: Duration| 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
        let (idle, own_idle) = (
            percent(stage.hub.cpu().saturating_sub(cpu_before)),
            percent(cpu("self").saturating_sub(own_before)),
        );
        let after_idle_kib = stage.hub.memory_kib("VmRSS:");
        let (submit, deliver) = letters(&stage, args.systems, args.letters, &mut told).await?;
        let lost = all.lost.load(Ordering::Relaxed);
        anyhow::ensure!(lost == 0, "{lost} connections were lost while they were idle");
        let (took, again) = (all.took, all.again);
        leave(&stage, all).await?;

        // as after a cut: everybody comes back at the same moment
        let storm = connect(&stage, args.systems, args.systems, &tell).await?;
        let storm_figures = (storm.took, storm.again);
        leave(&stage, storm).await?;
        let count = args.systems as f64;
        let per_system = |kib: u64| kib.saturating_sub(before_kib) as f64 / count;
        Ok(vec![
            ("connected systems", count),
            ("hub before MiB", before_kib as f64 / 1024.0),
            ("hub with all MiB", with_kib as f64 / 1024.0),
            ("KiB for each", per_system(with_kib)),
            ("KiB for each, after the idle time", per_system(after_idle_kib)),
            ("hub's peak MiB", stage.hub.memory_kib("VmHWM:") as f64 / 1024.0),
            ("idle: hub CPU % of one core", idle),
            ("idle: load CPU % of one core", own_idle),
            ("all connected, 256 at once, s", took.as_secs_f64()),
            ("tried again", again as f64),
            ("hub CPU ms for each connection", 1e3 * connect_cpu.as_secs_f64() / count),
            ("all back at once s", storm_figures.0.as_secs_f64()),
            ("tried again then", storm_figures.1 as f64),
            ("beside 50: submit p50 ms", submit_few.ms(50.0)),
            ("beside 50: submit to delivered p50 ms", deliver_few.ms(50.0)),
            ("beside 50: submit to delivered p99 ms", deliver_few.ms(99.0)),
            ("beside all: submit p50 ms", submit.ms(50.0)),
            ("beside all: submit to delivered p50 ms", deliver.ms(50.0)),
            ("beside all: submit to delivered p99 ms", deliver.ms(99.0)),
        ])
    })
}

/// Connects the first systems of the crowd, so many at once; who does not get
/// through comes again.
async fn connect(
    stage: &Arc<Stage>,
    count: usize,
    at_once: usize,
    tell: &tokio::sync::mpsc::UnboundedSender<Came>,
) -> anyhow::Result<Present> {
    let (turns, here) = (Arc::new(Semaphore::new(at_once)), Arc::new(Semaphore::new(0)));
    let (again, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (mut tasks, began) = (JoinSet::new(), Instant::now());
    for place in 0..count {
        let (stage, tell) = (stage.clone(), tell.clone());
        let (turns, here, again, lost) = (turns.clone(), here.clone(), again.clone(), lost.clone());
        tasks.spawn(async move {
            let Ok(turn) = turns.acquire_owned().await else { return };
            let attending = loop {
                match Attending::begin(&stage.address, stage.tls[place].clone()).await {
                    Ok(attending) => break attending,
                    Err(_) => again.fetch_add(1, Ordering::Relaxed),
                };
                tokio::time::sleep(Duration::from_millis(fastrand::u64(50..500))).await;
            };
            drop(turn);
            here.add_permits(1);
            let why = attending.stay(&stage.crowd.members[place], place, &tell).await;
            if lost.fetch_add(1, Ordering::Relaxed) == 0 {
                eprintln!("bench: a connection was lost: {why:#}");
            }
        });
    }
    let all = u32::try_from(count)?;
    let connected = timeout(PATIENCE, here.acquire_many(all)).await;
    let tried = again.load(Ordering::Relaxed);
    connected
        .with_context(|| format!("not all connected within {PATIENCE:?}, {tried} tries failed"))??
        .forget();
    Ok(Present { tasks, lost, took: began.elapsed(), again: tried })
}

/// Cuts all of them, and waits until the hub has noticed.
async fn leave(stage: &Stage, mut present: Present) -> anyhow::Result<()> {
    present.tasks.shutdown().await;
    let deadline = Instant::now() + PATIENCE;
    while stage.hub.metric("axis_open_connections")? > 0.0 {
        anyhow::ensure!(Instant::now() < deadline, "the hub does not let go of connections");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Sends letters to one system or another of those that are connected, one
/// after the other: until they are accepted, and until they are delivered.
async fn letters(
    stage: &Stage,
    among: usize,
    count: usize,
    told: &mut UnboundedReceiver<Came>,
) -> anyhow::Result<(Latencies, Latencies)> {
    let sender = stage.raw(stage.crowd.members.len() - 1, None)?;
    let mut client = sender.submission();
    let (mut submits, mut deliveries) = (Latencies::default(), Latencies::default());
    let warm = count.min(5);
    for number in 0..warm + count {
        let place = fastrand::usize(..among);
        let document = Bytes::from(vec![b'.'; DOCUMENT_BYTES]);
        let envelope = sender.envelope(&stage.crowd.members[place].agency, &document);
        let sealed_envelope = Some(sender.seal(&envelope));
        let request = SubmitRequest { sealed_envelope, documents: vec![document] };
        let began = Instant::now();
        client.submit(request).await?;
        let submitted = began.elapsed();
        let (at, when) = timeout(PATIENCE, told.recv()).await.context("not delivered")?.context("told")?;
        anyhow::ensure!(at == place, "it came to somebody else");
        if number >= warm {
            submits.record(submitted);
            deliveries.record(when.saturating_duration_since(began));
        }
    }
    Ok((submits, deliveries))
}

/// A hub with nobody there, and one that starts.
fn at_rest(args: &Args, above: &Path) -> anyhow::Result<Figures> {
    let dir = tempfile::Builder::new().prefix("axis-bench-").tempdir_in(above)?;
    let path: PathBuf = dir.path().join("hub");
    let runtime = tokio::runtime::Runtime::new()?;
    let _crowd = runtime.block_on(async { crowd(&path, 1) })?;
    let (mut starts, mut resident, mut peak) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..args.starts.max(1) {
        let began = Instant::now();
        let hub = Hub::start(&path)?;
        starts.push(began.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_secs(1));
        resident.push(hub.memory_kib("VmRSS:") as f64 / 1024.0);
        peak = peak.max(hub.memory_kib("VmHWM:") as f64 / 1024.0);
        hub.stop()?;
    }
    let median = |of: &mut Vec<f64>| {
        of.sort_unstable_by(f64::total_cmp);
        of[of.len() / 2]
    };
    Ok(vec![
        ("starts", starts.len() as f64),
        ("start to serving ms, median", median(&mut starts)),
        ("slowest start ms", starts.last().copied().unwrap_or_default()),
        ("resident a second later MiB, median", median(&mut resident)),
        ("peak MiB", peak),
    ])
}

/// An error if this process, and the hub that it starts, may not open so many
/// files.
fn enough_files(needed: u64) -> anyhow::Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let soft = soft.unwrap_or(u64::MAX);
    anyhow::ensure!(
        soft >= needed,
        "{needed} open files are needed, {soft} are allowed; hint: ulimit -n {needed}, or fewer --systems"
    );
    Ok(())
}
