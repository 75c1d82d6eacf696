//! `axis`: what an agency does with a hub, from a shell. Results go to
//! stdout, words to stderr; `axis --help` lists the exit statuses.

mod arguments;
mod commands;
mod events;
mod failure;
mod output;
mod restored;
mod words;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axis_client::{ClientOptions, OnRetry};
use clap::FromArgMatches as _;

use crate::{arguments::Arguments, commands::Session, output::Output};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let language = arguments::preferred_language(&words);
    let matches = arguments::command(language).get_matches();
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("AXIS_LOG").unwrap_or_else(|_| "off".into()),
        )
        .init();

    let output = Arc::new(Output::new(arguments.lang.unwrap_or(language), arguments.json));
    let home = arguments.home.unwrap_or_else(default_home);
    let mut options = ClientOptions::default();
    options.language = output.language;
    options.deadline = DEADLINE;
    options.on_retry = Some(tell_retries(output.clone()));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.line(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let session = Session { home: &home, output: &output, options };
    let done = runtime.block_on(session.run(arguments.command));
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell(&output, &home);
            ExitCode::from(failure.status() as u8)
        }
    }
}

/// How long somebody at a shell waits without anything moving.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often that is said, and how long a hiccup may last unsaid.
const RETRY_WORD_INTERVAL: Duration = Duration::from_secs(30);

/// Says that something is tried again, now and then.
fn tell_retries(output: Arc<Output>) -> OnRetry {
    let said = Mutex::new(None::<Instant>);
    OnRetry::new(move |error, pause| {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let due = said.is_none_or(|said| said.elapsed() >= RETRY_WORD_INTERVAL);
        if due && pause >= Duration::from_millis(500) {
            *said = Some(Instant::now());
            output.say(
                words::Word::Retrying,
                &[("why", &failure::message(error, &output).trim_end_matches('.'))],
            );
        }
    })
}

fn default_home() -> PathBuf {
    std::env::home_dir().unwrap_or_default().join(".axis")
}
