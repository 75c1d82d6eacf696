//! `bench dhx`: large documents, as the exchange between central agencies has
//! them, 100 KB to 200 MB: each is uploaded, submitted, received, downloaded
//! and acknowledged. And one document alone, up and down, beside what the disk
//! writes, TLS carries and SHA-256 reads here and now, and beside a server that
//! gives as much from memory ([`crate::bare`]).

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_proto::hub::v1::DownloadRequest;
use tokio::task::JoinSet;

use crate::{
    bare::Bare,
    baseline,
    exchange::{Paper, Party, download},
    measure::{Figures, Latencies, cpu},
    report::{Common, Report, Table},
    stage::{Stage, WINDOWS},
};

/// Bytes of the smallest document of the mix.
const SMALLEST: f64 = 100e3;
/// The mix is the same in every run.
const SEED: u64 = 4;

/// What is moved.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// MiB of the document that is alone
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    mib: u64,
    /// Documents of the mix
    #[arg(long, default_value_t = 48)]
    documents: usize,
    /// MB of the largest document of the mix
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    largest_mb: u32,
    /// Pairs of systems that exchange them
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pairs: u8,
}

/// Runs it.
///
/// # Errors
/// If a document does not move.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!(
        "One document of {} MiB alone, up and down, and down from a server that only has as many bytes in memory, \
         beside the hub at rest; then {} documents of 100 KB to {} MB, log-uniform, \
         between {} pairs at once: uploaded, submitted, received, downloaded, acknowledged. Digests are made \
         before the clock starts, and what comes down is counted and thrown away.",
        args.mib, args.documents, args.largest_mb, args.pairs
    );
    report.profile("dhx", &about, work_dir.path())?;
    let (mut single, mut together) = (Table::new("one document").upright(), Table::new("the mix").upright());
    for _ in 0..args.common.rounds {
        let now = baseline::measure(work_dir.path(), args.common.seconds)?;
        single.add("", alone(args, work_dir.path(), now.write_mb, now.tls_mb)?);
        together.add("", mix(args, work_dir.path())?);
    }
    report.table(single);
    report.table(together);
    Ok(())
}

/// When something began, and who had used how much of the processors by then.
struct Since {
    began: Instant,
    hub: Duration,
    own: Duration,
}

impl Since {
    fn now(stage: &Stage) -> Self {
        Self { hub: stage.hub.cpu(), own: cpu("self"), began: Instant::now() }
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Millions of bytes a second, and milliseconds of the hub's and of our
    /// own processor time for each million.
    fn moved(&self, stage: &Stage, bytes: u64) -> (f64, f64, f64) {
        let megabytes = bytes as f64 / 1e6;
        let per = |used: Duration, before| 1e3 * used.saturating_sub(before).as_secs_f64() / megabytes;
        let rate = megabytes / self.seconds();
        (rate, per(stage.hub.cpu(), self.hub), per(cpu("self"), self.own))
    }
}

/// One document up, and down again. `write_mb` and `tls_mb` are what the disk
/// and TLS do just before, in millions of bytes a second.
fn alone(args: &Args, above: &Path, write_mb: f64, tls_mb: f64) -> anyhow::Result<Figures> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let stage = Stage::set(above, 2)?;
        let (sender, receiver) = (stage.party(0, None).await?, stage.party(1, None).await?);
        let since = Since::now(&stage);
        let paper = Paper::of(args.mib << 20);
        let sha_mb = paper.size() as f64 / 1e6 / since.seconds();

        let before_kib = stage.hub.memory_kib("VmRSS:");
        eprintln!("bench: one document up");
        let since = Since::now(&stage);
        sender.upload(&paper).await?;
        let (up, up_hub, up_own) = since.moved(&stage, paper.size());
        let letter = sender.write(&[receiver.agency()], std::slice::from_ref(&paper), b"", None);
        let expected = receiver.expect(&letter);
        sender.submit(&letter).await?;
        let arrived = expected.await?;
        eprintln!("bench: one document down");
        let since = Since::now(&stage);
        receiver.download(&arrived.delivery, &paper).await?;
        let (down, down_hub, down_own) = since.moved(&stage, paper.size());
        receiver.acknowledge(&arrived.delivery).await?;
        let from_memory = from_memory(&stage, above, paper.size()).await?;
        let figures = vec![
            ("MB", paper.size() as f64 / 1e6),
            ("durable write MB/s", write_mb),
            ("TLS MB/s", tls_mb),
            ("SHA-256 MB/s", sha_mb),
            ("up MB/s", up),
            ("% of durable writes", 100.0 * up / write_mb),
            ("down MB/s", down),
            ("% of TLS", 100.0 * down / tls_mb),
            ("from memory, down MB/s", from_memory),
            ("from memory, % of TLS", 100.0 * from_memory / tls_mb),
            ("up: hub CPU ms/MB", up_hub),
            ("up: load CPU ms/MB", up_own),
            ("down: hub CPU ms/MB", down_hub),
            ("down: load CPU ms/MB", down_own),
            ("hub before MiB", before_kib as f64 / 1024.0),
            ("hub's peak MiB", stage.hub.memory_kib("VmHWM:") as f64 / 1024.0),
        ];
        drop((sender, receiver));
        stage.stop()?;
        Ok(figures)
    })
}

/// As many bytes from a server that has them in memory: millions a second.
async fn from_memory(stage: &Stage, above: &Path, size: u64) -> anyhow::Result<f64> {
    let dir = tempfile::Builder::new().prefix("axis-bench-").tempdir_in(above)?;
    let bare = Bare::start(dir.path(), &[])?;
    let receiver = bare.connect(&stage.raw(1, None)?, WINDOWS)?;
    eprintln!("bench: as much from memory");
    let ask = |size: u64| DownloadRequest { delivery_id: size.to_string(), ..DownloadRequest::default() };
    // connects
    download(&receiver, ask(1), 1).await?;
    let began = Instant::now();
    download(&receiver, ask(size), size).await?;
    Ok(size as f64 / 1e6 / began.elapsed().as_secs_f64())
}

/// The mix.
fn mix(args: &Args, above: &Path) -> anyhow::Result<Figures> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let pairs = usize::from(args.pairs);
        let stage = Stage::set(above, 2 * pairs)?;
        let mut random = fastrand::Rng::with_seed(SEED);
        let sizes = (0..args.documents).map(|_| {
            let (smallest, largest) = (SMALLEST.ln(), (f64::from(args.largest_mb) * 1e6).ln());
            (smallest + random.f64() * (largest - smallest)).exp() as u64
        });
        eprintln!("bench: making {} documents", args.documents);
        let papers = Arc::new(papers(sizes.collect()).await?);
        let next = Arc::new(AtomicUsize::new(0));
        let mut exchanging = JoinSet::new();
        let since = Since::now(&stage);
        for pair in 0..pairs {
            let (from, to) = (stage.party(2 * pair, None).await?, stage.party(2 * pair + 1, None).await?);
            let (papers, next) = (papers.clone(), next.clone());
            exchanging.spawn(async move {
                let (mut whole, mut per_megabyte) = (Latencies::default(), Latencies::default());
                while let Some(paper) = papers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    exchange(&from, &to, paper).await?;
                    whole.record(began.elapsed());
                    per_megabyte.record(began.elapsed().div_f64(paper.size() as f64 / 1e6));
                }
                anyhow::Ok((whole, per_megabyte))
            });
        }
        let (mut whole, mut per_megabyte) = (Latencies::default(), Latencies::default());
        while let Some(ended) = exchanging.join_next().await {
            let (of_pair, each) = ended??;
            whole.add(&of_pair);
            per_megabyte.add(&each);
        }
        let bytes: u64 = papers.iter().map(Paper::size).sum();
        let seconds = since.seconds();
        // in and out
        let (rate, hub, own) = since.moved(&stage, 2 * bytes);
        let mut figures = vec![
            ("documents", papers.len() as f64),
            ("MB of them", bytes as f64 / 1e6),
            ("documents a second", papers.len() as f64 / seconds),
            ("MB/s, in and out", rate),
        ];
        figures.extend(whole.figures());
        figures.extend([
            ("p50 ms for each MB", per_megabyte.ms(50.0)),
            ("p99 ms for each MB", per_megabyte.ms(99.0)),
            ("hub CPU ms/MB", hub),
            ("load CPU ms/MB", own),
            ("hub's peak MiB", stage.hub.memory_kib("VmHWM:") as f64 / 1024.0),
        ]);
        stage.stop()?;
        Ok(figures)
    })
}

/// One document from one system to another, until it is acknowledged.
async fn exchange(from: &Party, to: &Party, paper: &Paper) -> anyhow::Result<()> {
    from.upload(paper).await?;
    let letter = from.write(&[to.agency()], std::slice::from_ref(paper), b"", None);
    let expected = to.expect(&letter);
    from.submit(&letter).await?;
    let arrived = expected.await?;
    to.download(&arrived.delivery, paper).await?;
    to.acknowledge(&arrived.delivery).await
}

/// Papers of these sizes, made on all processors.
pub async fn papers(sizes: Vec<u64>) -> anyhow::Result<Vec<Paper>> {
    let mut made = JoinSet::new();
    for (place, size) in sizes.iter().copied().enumerate() {
        made.spawn_blocking(move || (place, Paper::of(size)));
    }
    let mut papers = vec![None; sizes.len()];
    while let Some(paper) = made.join_next().await {
        let (place, paper) = paper?;
        papers[place] = Some(paper);
    }
    papers.into_iter().collect::<Option<_>>().context("every paper is made")
}
