//! `bench`: figures of a real hub, and what it takes to get them. Asserts
//! nothing about time: counts are tests, times are read by people.
//!
//! ```text
//! bench seed-journal N --dir HUB     a hub with N envelopes that wait
//! bench queues --waiting 1000,…      what they cost, and whom a broadcast stalls
//! bench hostile                      the honest beside each kind of attack
//! bench transfers                    large documents beside them, and the hub's memory
//! ```

mod hostile;
mod hub;
mod load;
mod queues;
mod report;
mod seed;
mod transfers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Figures of a real hub, and what it takes to get them")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a hub with a long past, or add to one that was made so
    SeedJournal(seed::Args),
    /// Submit, deliver and start beside long queues; and a broadcast
    Queues(queues::Args),
    /// Latencies of honest systems, alone and beside hostile ones
    Hostile(hostile::Args),
    /// Move large documents beside a long queue, and measure the hub's memory
    Transfers(transfers::Args),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::SeedJournal(args) => seed::run(&args),
        Command::Queues(args) => queues::run(&args).inspect(|()| println!("\n{}", report::machine())),
        Command::Hostile(args) => hostile::run(&args),
        Command::Transfers(args) => transfers::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
