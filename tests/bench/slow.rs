//! `bench slow`: a hub far away. One honest system near to it and one behind a
//! long, narrow and lossy way, each alone and beside a hundred others behind
//! such ways: how long a letter takes, and how fast a document moves.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    exchange::{Paper, Party},
    measure::{Figures, Latencies, all},
    report::{Common, Report, Table},
    stage::Stage,
    wan::{Wan, Way},
};

/// Bytes of the document that rides along with a letter.
const LETTER_BYTES: usize = 4 * 1024;

/// What the way is like, and who is on it.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Milliseconds from one end of the way to the other
    #[arg(long, default_value_t = 50)]
    delay_ms: u64,
    /// Megabits a second, in each direction
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    mbit: u64,
    /// Segments that get lost, of a million
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(..=500_000))]
    lost: u32,
    /// Others behind such ways
    #[arg(long, default_value_t = 100)]
    others: usize,
    /// KiB of the document
    #[arg(long, default_value_t = 4_096)]
    document_kib: u64,
}

impl Args {
    fn way(&self) -> Way {
        Way {
            delay: Duration::from_millis(self.delay_ms),
            bytes_per_second: self.mbit * 1_000_000 / 8,
            lost_of_million: self.lost,
        }
    }
}

/// Runs it.
///
/// # Errors
/// If a system is not served.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!(
        "Letters of 4 KiB one after the other and a document of {} KiB, to and from the hub directly (near) and \
         behind a way of {} ms, {} Mbit/s and {} lost of a million segments, each way (far); {} others behind \
         such ways send to each other without a pause.",
        args.document_kib, args.delay_ms, args.mbit, args.lost, args.others
    );
    report.profile("slow", &about, work_dir.path())?;
    let mut table = Table::new("who");
    for _ in 0..args.common.rounds {
        for (who, figures) in measure(args, work_dir.path(), args.common.seconds)? {
            table.add(&who, figures);
        }
    }
    report.table(table);
    Ok(())
}

/// One situation after the other, by name.
fn measure(args: &Args, above: &Path, seconds: u64) -> anyhow::Result<Vec<(String, Figures)>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let stage = Stage::set(above, 4 + args.others)?;
        let time = Duration::from_secs(seconds);
        let ways = ways(args, &stage).await?;
        let (near_from, near_to) = (stage.party(0, None).await?, stage.party(1, None).await?);
        let (far_from, far_to) = (far(&stage, &ways, 2).await?, far(&stage, &ways, 3).await?);
        let mut rows = Vec::new();
        let near = situation(args, &near_from, &near_to, time).await?;
        rows.push(("near, alone".to_owned(), near));
        rows.push(("far, alone".to_owned(), situation(args, &far_from, &far_to, time).await?));

        let others = Others::begin(args, &stage, &ways).await?;
        let mut near = situation(args, &near_from, &near_to, time).await?;
        near.push(others.rate());
        rows.push((format!("near, beside {} far", args.others), near));
        let mut far = situation(args, &far_from, &far_to, time).await?;
        far.push(others.rate());
        rows.push((format!("far, beside {} far", args.others), far));
        others.end().await?;
        Ok(rows)
    })
}

/// A way for each system, as each has a line of its own.
async fn ways(args: &Args, stage: &Stage) -> anyhow::Result<Vec<Wan>> {
    let mut ways = Vec::new();
    for _ in 0..stage.tls.len() {
        ways.push(Wan::to(&stage.address, args.way()).await?);
    }
    Ok(ways)
}

async fn far(stage: &Stage, ways: &[Wan], place: usize) -> anyhow::Result<Party> {
    stage.party(place, Some(&ways[place].address.to_string())).await
}

/// Letters from one to the other, one after the other, and then a document.
async fn situation(args: &Args, from: &Party, to: &Party, time: Duration) -> anyhow::Result<Figures> {
    let (mut submits, mut deliveries, mut count) = (Latencies::default(), Latencies::default(), 0);
    let began = Instant::now();
    while began.elapsed() < time || count == 0 {
        let (submitted, delivered) = letter(from, to).await?;
        submits.record(submitted);
        deliveries.record(delivered);
        count += 1;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    let paper = Paper::of(args.document_kib << 10);
    let began = Instant::now();
    from.upload(&paper).await?;
    let up = began.elapsed();
    let letter = from.write(&[to.agency()], std::slice::from_ref(&paper), b"", None);
    let expected = to.expect(&letter);
    from.submit(&letter).await?;
    let arrived = expected.await?;
    let began = Instant::now();
    to.download(&arrived.delivery, &paper).await?;
    let down = began.elapsed();
    to.acknowledge(&arrived.delivery).await?;
    let mbit = |took: Duration| paper.size() as f64 * 8.0 / 1e6 / took.as_secs_f64();
    Ok(vec![
        ("letters a second", rate),
        ("submit p50 ms", submits.ms(50.0)),
        ("submit p99 ms", submits.ms(99.0)),
        ("delivered p50 ms", deliveries.ms(50.0)),
        ("delivered p99 ms", deliveries.ms(99.0)),
        ("document up Mbit/s", mbit(up)),
        ("document down Mbit/s", mbit(down)),
    ])
}

/// How long until it was accepted, and until it came.
async fn letter(from: &Party, to: &Party) -> anyhow::Result<(Duration, Duration)> {
    let letter = from.write(&[to.agency()], &[], &[b'.'; LETTER_BYTES], None);
    let expected = to.expect(&letter);
    let began = Instant::now();
    from.submit(&letter).await?;
    let submitted = began.elapsed();
    let arrived = expected.await?;
    to.acknowledge(&arrived.delivery).await?;
    Ok((submitted, arrived.at.saturating_duration_since(began)))
}

/// Those behind ways of their own, each sending to the next without a pause.
struct Others {
    sending: JoinSet<anyhow::Result<()>>,
    over: Arc<AtomicBool>,
    letters: Arc<AtomicU64>,
    began: Instant,
}

impl Others {
    async fn begin(args: &Args, stage: &Stage, ways: &[Wan]) -> anyhow::Result<Self> {
        let joining = (4..4 + args.others).map(|place| far(stage, ways, place));
        let parties = Arc::new(futures_util::future::try_join_all(joining).await?);
        let (over, letters) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut sending = JoinSet::new();
        for place in 0..parties.len() {
            let (parties, over, letters) = (parties.clone(), over.clone(), letters.clone());
            sending.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    letter(&parties[place], &parties[(place + 1) % parties.len()]).await?;
                    letters.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Ok(Self { sending, over, letters, began: Instant::now() })
    }

    /// Letters of all of them a second so far.
    fn rate(&self) -> (&'static str, f64) {
        let seconds = self.began.elapsed().as_secs_f64();
        ("their letters a second", self.letters.load(Ordering::Relaxed) as f64 / seconds)
    }

    async fn end(self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        all(self.sending).await
    }
}
