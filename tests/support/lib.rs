//! Hubs and ministries for tests. Every hub has its own directory and ports,
//! and ends in `fsck`.

pub mod admin;
pub mod crowd;
mod device;
pub mod frames;
mod hub;
mod link;
mod load;
mod ministry;
mod process;
mod raw;
pub mod seed;

use std::{path::Path, time::Duration};

pub use admin::{Admin, admin};
pub use device::Device;
pub use hub::{TestHub, check};
pub use link::Link;
pub use load::{Load, Lost, Told};
pub use ministry::{Ministry, code, impatient};
pub use process::{HubProcess, binary, run_axis, run_hub};
pub use raw::{Raw, acknowledge, acknowledgement, channel, refusal_of, tls};

/// Longest that a condition may take to come true, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds, looking every few milliseconds.
///
/// # Panics
/// If it does not hold within [`PATIENCE`].
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, condition: F) {
    within(PATIENCE, what, condition).await;
}

/// The same with another patience.
///
/// # Panics
/// If it does not hold in time.
pub async fn within<F: AsyncFnMut() -> bool>(patience: Duration, what: &str, mut condition: F) {
    let deadline = tokio::time::Instant::now() + patience;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The seed of a test: random, printed, or given by `AXIS_SEED` to repeat a
/// run.
pub fn seed() -> u64 {
    let seed = std::env::var("AXIS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}: repeat with AXIS_SEED={seed}");
    seed
}

/// Logs to the test's output when `AXIS_LOG` says so, as `tracing` directives.
pub fn log() {
    if let Ok(filter) = std::env::var("AXIS_LOG") {
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let _already_set = subscriber.try_init();
    }
}

/// Copies a folder and all in it.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
