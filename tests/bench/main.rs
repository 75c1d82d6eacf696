//! `bench`: figures of a real hub, and what it takes to get them. Asserts
//! nothing about time: counts are tests, times are read by people.
//!
//! ```text
//! bench small                        4 KiB documents: rates, latencies, processor time
//! bench broadcast                    one envelope to 100 000, and whom it keeps waiting
//! bench dhx                          large documents, alone and many at once
//! bench vietnam                      a document with its attachment, and what is said about it
//! bench idle                         10 000 systems that wait, and the hub at rest
//! bench slow                         near and far systems, beside a hundred far ones
//! bench backlog --waiting 1000,…     what a long queue costs
//! bench hostile                      the honest beside each kind of attack
//! bench transfers                    large documents beside a queue, and the hub's memory
//! bench all                          small, broadcast and backlog in one report
//! bench seed-journal N --dir HUB     a hub with N envelopes that wait
//! ```
//!
//! [`measure`] says how a load is measured, [`report`] how figures are shown.

mod attend;
mod backlog;
mod bare;
mod baseline;
mod broadcast;
mod dhx;
mod exchange;
mod hostile;
mod hub;
mod idle;
mod load;
mod measure;
mod report;
mod seed;
mod signed;
mod slow;
mod small;
mod stage;
mod transfers;
mod vietnam;
mod wan;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::{Common, Output, Report};

/// The hub's: what is replayed in this process costs what it costs there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "bench", about = "Figures of a real hub, and what it takes to get them")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Submit, deliver and acknowledge documents of 4 KiB
    Small(small::Args),
    /// One envelope to everybody, beside somebody else's submissions
    Broadcast(broadcast::Args),
    /// Large documents from one system to another, alone and many at once
    Dhx(dhx::Args),
    /// Documents with attachments, and statuses both ways
    Vietnam(vietnam::Args),
    /// Systems that are connected and wait, and the hub at rest
    Idle(idle::Args),
    /// Near and far systems, alone and beside many far ones
    Slow(slow::Args),
    /// Submit, deliver and start beside long queues
    Backlog(backlog::Args),
    /// Latencies of honest systems, alone and beside hostile ones
    Hostile(hostile::Args),
    /// Move large documents beside a long queue, and measure the hub's memory
    Transfers(transfers::Args),
    /// Small documents, a broadcast and long queues, in one report
    All(Common),
    /// Make a hub with a long past, or add to one that was made so
    SeedJournal(seed::Args),
    /// Be the least that a hub can do: `small` and `dhx` start it
    #[command(hide = true)]
    Bare(bare::Args),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Small(args) => profile(&args.common, |report| small::run(&args, report)),
        Command::Broadcast(args) => profile(&args.common, |report| broadcast::run(&args, report)),
        Command::Dhx(args) => profile(&args.common, |report| dhx::run(&args, report)),
        Command::Vietnam(args) => profile(&args.common, |report| vietnam::run(&args, report)),
        Command::Idle(args) => profile(&args.common, |report| idle::run(&args, report)),
        Command::Slow(args) => profile(&args.common, |report| slow::run(&args, report)),
        Command::Backlog(args) => profile(&args.common, |report| backlog::run(&args, report)),
        Command::Hostile(args) => profile(&args.common, |report| hostile::run(&args, report)),
        Command::Transfers(args) => reported(&args.output, 1, |report| transfers::run(&args, report)),
        Command::All(common) => profile(&common, |report| all(&common, report)),
        Command::SeedJournal(args) => seed::run(&args),
        Command::Bare(args) => bare::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One profile after the other; what one fails at does not keep the next.
fn all(common: &Common, report: &mut Report) -> anyhow::Result<()> {
    let outcomes = [
        small::run(&small::Args::of(common), report),
        broadcast::run(&broadcast::Args::of(common), report),
        backlog::run(&backlog::Args::of(common), report),
    ];
    outcomes.into_iter().collect()
}

/// A profile with the usual options.
fn profile(common: &Common, run: impl FnOnce(&mut Report) -> anyhow::Result<()>) -> anyhow::Result<()> {
    reported(&common.output, common.seconds, run)
}

/// A run and its report, which is written also if the run fails in the end.
fn reported(
    output: &Output,
    seconds: u64,
    run: impl FnOnce(&mut Report) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut report = Report::begin(output, seconds)?;
    let outcome = run(&mut report);
    report.end().and(outcome)
}
