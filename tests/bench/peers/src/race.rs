//! All contestants in turns, on one disk in one run: each round begins with
//! another, and the disk is asked before each. Figures are medians,
//! ratios those of what ran in the same round.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::process::Signal;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    Common, Setup, disk, jetstream,
    load::{Figures, Span, Work},
    postgresql, rabbitmq,
    report::{Measured, Report},
    server::Server,
};

/// How it is run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Write the figures of all rounds as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contestant {
    /// The hub of this workspace, driven by its own `bench small`
    Axis,
    /// JetStream that syncs before it answers
    Jetstream,
    /// JetStream as it comes: not durable
    JetstreamDefault,
    Rabbitmq,
    Postgresql,
    /// An access point made of the library `as4`
    As4,
}

impl Contestant {
    /// What it needs and is not there.
    fn missing(self, common: &Common) -> anyhow::Result<()> {
        let places = &common.places;
        match self {
            Self::Axis => places.bench().map(drop),
            Self::Jetstream | Self::JetstreamDefault => places.nats().map(drop),
            Self::Rabbitmq => places.rabbitmq().and(places.epmd()).map(drop),
            Self::Postgresql => places.postgresql().map(drop),
            Self::As4 => places.python().map(drop),
        }
    }

    /// Does the works that are asked for; each of a peer on a server that is
    /// new, with nothing left of the one before.
    pub async fn run(self, common: &Common, told: &mut impl FnMut(Figures)) -> anyhow::Result<()> {
        let (works, span) = (&common.works, Span::of(common.seconds));
        if self == Self::Axis {
            return axis(&Setup::make(common)?, common, told).await;
        }
        if self == Self::As4 {
            return as4(&Setup::make(common)?, common, told).await;
        }
        for work in works {
            let setup = Setup::make(common)?;
            let figures = match self {
                Self::Jetstream => jetstream::run(&setup, jetstream::Sync::Always, *work, span).await,
                Self::JetstreamDefault => jetstream::run(&setup, jetstream::Sync::Default, *work, span).await,
                Self::Rabbitmq => rabbitmq::run(&setup, *work, span).await,
                Self::Postgresql => postgresql::run(&setup, *work, span).await,
                Self::Axis | Self::As4 => unreachable!("they do all works at once, above"),
            };
            told(figures.with_context(|| work.name())?);
        }
        Ok(())
    }
}

/// Runs all rounds, and writes what came of them.
///
/// # Errors
/// If somebody who could take part failed; the others' figures are shown.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let mut contestants = match args.only.as_slice() {
        [] => Contestant::value_variants().to_vec(),
        only => only.to_vec(),
    };
    let mut report = Report::begin(&args.common)?;
    contestants.retain(|contestant| match contestant.missing(&args.common) {
        Ok(()) => true,
        Err(error) => {
            report.say(format!("Skipped: {} ({error:#}).", name(*contestant)));
            false
        }
    });
    let mut failed = 0;
    for round in 0..args.rounds {
        for place in 0..contestants.len() {
            let contestant = contestants[(place + round as usize) % contestants.len()];
            let syncs = disk::syncs_per_second(&report.dir)?;
            eprintln!("round {} of {}: {}, fdatasync {syncs:.0}/s", round + 1, args.rounds, name(contestant));
            let mut told = |figures: Figures| {
                eprintln!("{}", serde_json::json!(figures));
                report.add(Measured { round, syncs_per_second: syncs, figures });
            };
            if let Err(error) = contestant.run(&args.common, &mut told).await {
                failed += 1;
                report.say(format!("Failed in round {}: {}: {error:#}.", round + 1, name(contestant)));
            }
        }
    }
    let now = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let markdown = report.markdown(&now);
    println!("{markdown}");
    if let Some(path) = &args.markdown {
        std::fs::write(path, &markdown).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{:#}\n", report.json(&now)))
            .with_context(|| path.display().to_string())?;
    }
    anyhow::ensure!(failed == 0, "{failed} turns failed");
    Ok(())
}

fn name(contestant: Contestant) -> String {
    contestant.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Which rows of `bench small` are which work, and what asks for them.
const AXIS: [(Work, &str, &str, &str); 4] = [
    (Work::Accept, "submit, streaming", "streaming", "axis"),
    (Work::Accept, "submit, unary", "unary", "axis-unary"),
    (Work::One, "submit, one at a time", "single", "axis"),
    (Work::Cycle, "full cycle", "cycle", "axis"),
];

/// Axis is measured by its own bench, which knows how to sign: one round of it.
async fn axis(setup: &Setup, common: &Common, told: &mut impl FnMut(Figures)) -> anyhow::Result<()> {
    let wanted: Vec<_> = AXIS.iter().filter(|(work, ..)| common.works.contains(work)).collect();
    let (dir, seconds) = (setup.dir.path(), common.seconds.to_string());
    let json = dir.join("small.json");
    let mut command = Command::new(setup.places.bench()?);
    command.args(["small", "--seconds", &seconds, "--rounds", "1", "--dir"]).arg(dir);
    command.arg("--json").arg(&json).arg("--works");
    command.arg(wanted.iter().map(|(_, _, flag, _)| *flag).collect::<Vec<_>>().join(","));
    let mut bench = Server::start("axis", command, Signal::TERM, dir.join("bench.log"))?;
    bench.ended().await?;
    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let rows = &report["profiles"]["small"]["tables"]["4 KiB"];
    for (work, row, _, peer) in wanted {
        let figure = |name: &str| {
            let figure = rows[row][name]["median"].as_f64();
            figure.with_context(|| format!("bench small has no {name} of {row}"))
        };
        let (per_second, cpu_us_each, seconds) =
            (figure("per_second")?, figure("hub_cpu_us")?, common.seconds as f64);
        told(Figures {
            peer: (*peer).to_owned(),
            work: work.name().to_owned(),
            per_second,
            p50_ms: figure("p50_ms")?,
            p99_ms: figure("p99_ms")?,
            cpu_seconds: Some(cpu_us_each * per_second * seconds / 1e6),
            cpu_us_each: Some(cpu_us_each),
            seconds,
        });
    }
    Ok(())
}

/// What the access point measures, and which work that is here: a message that
/// is signed within the clock is shown as another contestant.
const AS4: [(Work, &str, &str); 3] = [
    (Work::Accept, "accept", "as4"),
    (Work::Accept, "round", "as4-signed-within"),
    (Work::One, "one", "as4"),
];

async fn as4(setup: &Setup, common: &Common, told: &mut impl FnMut(Figures)) -> anyhow::Result<()> {
    let wanted: Vec<_> = AS4.iter().filter(|(work, ..)| common.works.contains(work)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let (dir, out) = (setup.dir.path(), setup.dir.path().join("figures"));
    let mut command = Command::new(setup.places.python()?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("as4_peer.py"));
    command.args(["--seconds", &common.seconds.to_string(), "--dir"]).arg(dir).arg("--out").arg(&out);
    command.args(wanted.iter().map(|(_, asked, _)| *asked)).stdin(Stdio::null());
    let mut program = Server::start("as4", command, Signal::TERM, dir.join("as4.log"))?;
    program.ended().await?;
    let lines = std::fs::read_to_string(&out)?;
    for ((work, _, peer), line) in wanted.iter().zip(lines.lines()) {
        let figures: Figures = serde_json::from_str(line)?;
        told(Figures { peer: (*peer).to_owned(), work: work.name().to_owned(), ..figures });
    }
    Ok(())
}
