//! `peers`: what a user would pick instead of Axis, driven for the same work,
//! alone or in turns with it. Asserts that nothing was lost, and nothing about
//! time.
//!
//! ```text
//! peers jetstream --sync always     one peer; a line of JSON for each work
//! peers rabbitmq --works cycle
//! peers postgresql --plain
//! peers race                        all of them and Axis, in turns
//! ```
//!
//! `tests/bench/peers/run` builds it and gets what it needs.

mod disk;
mod jetstream;
mod load;
mod places;
mod postgresql;
mod rabbitmq;
mod race;
mod report;
mod server;
mod tls;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    load::{Figures, Work},
    places::Places,
    race::Contestant,
    tls::Tls,
};

#[derive(Parser)]
#[command(name = "peers", about = "What a user would pick instead of Axis, driven for the same work")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// NATS JetStream, one server, a work queue in a stream
    Jetstream {
        /// When messages are synced
        #[arg(long, value_enum, default_value = "always")]
        sync: jetstream::Sync,
        #[command(flatten)]
        common: Common,
    },
    /// RabbitMQ, one node, quorum queues
    Rabbitmq {
        #[command(flatten)]
        common: Common,
    },
    /// PostgreSQL, a table as a queue
    Postgresql {
        #[command(flatten)]
        common: Common,
    },
    /// All of them and Axis in turns
    Race(race::Args),
}

/// How a peer is run.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Seconds of each measurement, after a warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Without TLS
    #[arg(long)]
    plain: bool,
    /// Where its data is made and removed again: the disk that is measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Which works
    #[arg(long, value_enum, value_delimiter = ',', default_value = "accept,one,cycle")]
    works: Vec<Work>,
    #[command(flatten)]
    places: Places,
}

/// What a peer is given.
struct Setup {
    /// Its data; goes with it.
    dir: TempDir,
    /// Its certificate, unless it is run without TLS.
    tls: Option<Tls>,
    /// Where programs are.
    places: Places,
}

impl Setup {
    fn make(common: &Common) -> anyhow::Result<Self> {
        let above = common.dir.clone().unwrap_or_else(std::env::temp_dir);
        std::fs::create_dir_all(&above)?;
        let dir = tempfile::Builder::new().prefix("axis-peers-").tempdir_in(&above).context("a directory")?;
        let tls = if common.plain { None } else { Some(Tls::make(dir.path())?) };
        Ok(Self { dir, tls, places: common.places.clone() })
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("peers: {error}");
            return ExitCode::FAILURE;
        }
    };
    // whatever ends us, servers are dropped, and end
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run(args.command) => outcome,
            name = interrupted() => Err(anyhow::anyhow!("ended by {}", name?)),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> anyhow::Result<&'static str> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = int.recv() => "SIGINT",
        _ = term.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    })
}

async fn run(command: Command) -> anyhow::Result<()> {
    let (peer, common) = match command {
        Command::Jetstream { sync: jetstream::Sync::Always, common } => (Contestant::Jetstream, common),
        Command::Jetstream { sync: jetstream::Sync::Default, common } => {
            (Contestant::JetstreamDefault, common)
        }
        Command::Rabbitmq { common } => (Contestant::Rabbitmq, common),
        Command::Postgresql { common } => (Contestant::Postgresql, common),
        Command::Race(args) => return race::run(&args).await,
    };
    peer.run(&common, &mut |figures: Figures| println!("{}", serde_json::json!(figures))).await
}
