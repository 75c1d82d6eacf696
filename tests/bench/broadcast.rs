//! `bench broadcast`: one envelope to everybody, and whom it keeps waiting: how
//! long somebody else who submits one after the other waits without it, and
//! while it goes out.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use axis_tests::seed::{self, Plan};
use tokio_util::sync::CancellationToken;

use crate::{
    hub::Hub,
    load,
    measure::{Figures, cpu},
    report::{Common, Report, Table},
};

/// Whom a broadcast goes to: every agency of the country, and room to grow.
const RECIPIENTS: u32 = 100_000;
/// Systems that serve the recipients.
const SYSTEMS: u64 = 8;

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Agencies that it goes to
    #[arg(long, default_value_t = RECIPIENTS, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    recipients: u32,
}

impl Args {
    /// To 100 000.
    pub fn of(common: &Common) -> Self {
        Self { common: common.clone(), recipients: RECIPIENTS }
    }
}

/// Runs it.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (work_dir, recipients) = (report.work_dir()?, args.recipients);
    let about = format!("One envelope to {recipients} recipients, beside another system's submissions.");
    report.profile("broadcast", &about, work_dir.path())?;
    let dir = work_dir.path().join("hub");
    eprintln!("bench: making a directory of {recipients}");
    let plan = Plan { agencies: recipients as usize, systems: SYSTEMS as usize, ..Plan::default() };
    let _seeded = seed::seed(&dir, &plan, &mut |_| {})?;
    let hub = Hub::start(&dir)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut table = Table::new("broadcast").upright();
    for round in 0..args.common.rounds {
        eprintln!("bench: round {} of {}", round + 1, args.common.rounds);
        let quiet = Duration::from_secs(args.common.seconds);
        let figures = runtime.block_on(one(&hub, &dir, recipients.into(), quiet))?;
        table.add(&format!("{recipients} recipients"), figures);
    }
    report.table(table);
    hub.stop()?;
    Ok(())
}

async fn one(hub: &Hub, dir: &Path, recipients: u64, quiet: Duration) -> anyhow::Result<Figures> {
    let pause = async {
        tokio::time::sleep(quiet).await;
        Ok(())
    };
    let without = beside(dir, pause).await?.0;
    // the agencies are served by the systems in turn
    let probed = (0..recipients).filter(|place| place % SYSTEMS == load::PROBED as u64).count() as u64;
    let all = waiting(dir).await? + recipients - probed;
    let (began, used) = (Instant::now(), cpu(&hub.pid().to_string()));
    let (during, answered) = beside(dir, async {
        let answered = load::broadcast(dir).await?;
        while waiting(dir).await? < all {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(answered)
    })
    .await?;
    let visible = began.elapsed();
    let used = cpu(&hub.pid().to_string()).saturating_sub(used);
    let mut row = vec![
        ("answered s", answered.as_secs_f64()),
        ("visible to all s", visible.as_secs_f64()),
        ("hub CPU s until then", used.as_secs_f64()),
        ("others without it: p50 ms", without.latencies.ms(50.0)),
        ("others without it: p99 ms", without.latencies.ms(99.0)),
        ("others without it: worst ms", without.latencies.ms(100.0)),
        ("others during it: submissions", during.count as f64),
        ("others during it: p50 ms", during.latencies.ms(50.0)),
        ("others during it: p99 ms", during.latencies.ms(99.0)),
        ("others during it: worst ms", during.latencies.ms(100.0)),
    ];
    for (name, metric) in [
        ("largest batch, records", "axis_commit_batch_records_max"),
        ("longest hold of the state s", "axis_state_hold_longest_seconds"),
    ] {
        row.push((name, hub.metric(metric)?));
    }
    row.push(("hub's memory at most MiB", hub.memory_mib("VmHWM:") as f64));
    Ok(row)
}

/// Somebody else's submissions while something happens.
async fn beside<T>(
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

/// Deliveries that wait, but for the system that [`load::probe`] sends to.
async fn waiting(dir: &Path) -> anyhow::Result<u64> {
    let mut admin = axis_tests::admin(dir).await?;
    let queues = admin.list_queues(axis_proto::admin::v1::ListQueuesRequest {}).await?.into_inner().queues;
    let others = queues.iter().filter(|queue| queue.system != seed::system(load::PROBED));
    Ok(others.map(|queue| queue.waiting).sum())
}
