//! The operators' command line. Results go to stdout, words to stderr; all
//! but `init`, `serve`, `fsck`, `rebuild`, `restore` and `archive` ask the
//! running hub through its Unix socket.

mod admin;
mod archive;
mod args;
mod backup;
mod directory;
mod import;
mod json;
mod purge;
mod queue;
mod say;
mod stores;
mod systems;
mod table;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use say::{Failure, Result};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args = Args::parse();
    say::set_language(args.lang.map(Into::into).unwrap_or_else(say::language_of_locale));
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Result<()> {
    let dir = args.dir;
    match args.command {
        Command::Init(init) => stores::init(init.dir.unwrap_or(dir), init.settings),
        Command::Serve => stores::serve(&dir),
        Command::Fsck(output) => stores::fsck(&dir, output),
        Command::Rebuild => stores::rebuild(&dir),
        Command::Archive(command) => archive::archive(command),
        Command::Backup(backup) if backup.verify => backup::verify(&backup),
        Command::Backup(backup) => runtime()?.block_on(backup::backup(&dir, &backup)),
        Command::Restore(restore) => backup::restore(dir, restore),
        command => runtime()?.block_on(async { ask(admin::connect(&dir).await?, command).await }),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))
}

async fn ask(admin: admin::Admin, command: Command) -> Result<()> {
    match command {
        Command::System(command) => systems::system(admin, command).await,
        Command::Key(command) => systems::key(admin, command).await,
        Command::Certificate(command) => systems::certificate(admin, command).await,
        Command::Agency(command) => directory::agency(admin, command).await,
        Command::Group(command) => directory::group(admin, command).await,
        Command::Queue(output) => queue::queue(admin, output).await,
        Command::Parked(command) => queue::parked(admin, command).await,
        Command::Track(track) => queue::track(admin, track).await,
        Command::Purge(command) => purge::purge(admin, command).await,
        Command::Clock(args::ClockCommand::Confirm) => queue::confirm_clock(admin).await,
        Command::Status(output) => queue::status(admin, output).await,
        Command::Top(top) => queue::top(admin, top).await,
        // `run` has done these
        Command::Init(_)
        | Command::Archive(_)
        | Command::Serve
        | Command::Fsck(_)
        | Command::Rebuild
        | Command::Backup(_)
        | Command::Restore(_) => Ok(()),
    }
}
