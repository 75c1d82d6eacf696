//! `axis-hub`: makes a hub, runs it, and does what its operators ask.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
