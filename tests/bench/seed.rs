//! `bench seed-journal`: a hub with a long past, from the command line.

use std::{io::IsTerminal as _, path::PathBuf, time::Instant};

use axis_tests::seed::{self, Plan, Seeded};

/// What is to be made.
#[derive(clap::Args)]
pub struct Args {
    /// Envelopes that wait, each with one recipient, in turn for each system
    waiting: u64,
    /// The hub's directory, made if it is not there; systems' homes are in HUB/homes
    #[arg(long, value_name = "HUB")]
    dir: PathBuf,
    /// Envelopes that were delivered and acknowledged before
    #[arg(long, default_value_t = 0)]
    settled: u64,
    /// Systems to make and enrol, each with an agency: S000, S001 and so on
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    systems: u16,
    /// Further agencies, served by the systems in turn: H00.00.00 and so on
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=200_000))]
    agencies: u32,
    /// Bytes of the document that rides along with each envelope
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    document_bytes: u32,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let plan = Plan {
        waiting: args.waiting,
        settled: args.settled,
        systems: args.systems.into(),
        agencies: args.agencies as usize,
        document_bytes: args.document_bytes as usize,
    };
    let Seeded { records, envelopes, took, .. } =
        seed::seed(&args.dir, &plan, &mut Said::default().of(&plan))?;
    let rate = envelopes as f64 / took.as_secs_f64().max(1e-9);
    println!(
        "{envelopes} envelopes in {:.1} s ({rate:.0}/s); {records} records in {}",
        took.as_secs_f64(),
        args.dir.display()
    );
    Ok(())
}

/// Says on a terminal how far it is, twice a second.
#[derive(Default)]
pub struct Said(Option<Instant>);

impl Said {
    /// For a plan.
    pub fn of(mut self, plan: &Plan) -> impl FnMut(u64) + use<> {
        let (all, shown) = (plan.settled + plan.waiting, std::io::stderr().is_terminal());
        move |done| {
            let due = self.0.is_none_or(|last| last.elapsed().as_millis() >= 500) || done == all;
            if shown && due {
                self.0 = Some(Instant::now());
                eprint!("\r{done} of {all} envelopes{}", if done == all { "\n" } else { "" });
            }
        }
    }
}
