//! SIGKILL at random moments under load: no acknowledged submission, lease or
//! acknowledgement is lost, and what happens to the derived state meanwhile
//! changes nothing that a client can see.

use std::path::Path;

use anyhow::Context as _;
use axis_tests::{HubProcess, Load, Lost, copy, seed};

const KILLS: usize = 50;
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_under_load() -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut hub = HubProcess::start().await?;
    let mut load = Load::start(&hub).await?;
    let older = tempfile::tempdir()?;
    for kill in 1..=KILLS {
        load.answered(random.usize(1..120)).await?;
        hub.kill()?;
        let state = hub.path().join("data/state");
        match kill % 10 {
            2 => copy(&state, older.path())?,
            4 => std::fs::remove_dir_all(&state)?,
            6 => {
                std::fs::remove_dir_all(&state)?;
                copy(older.path(), &state)?;
            }
            8 => damage(&state, &mut random)?,
            _ => {}
        }
        hub.resume().await.with_context(|| format!("after kill {kill}"))?;
    }

    let told = load.settle(&hub).await?;
    hub.terminate().await?;
    assert_eq!(told.lost(&hub.path().join("data"))?, Lost::default());
    let report = hub.finish().await?;
    assert_eq!(report.counts.deliveries, report.counts.settled);
    println!("{KILLS} kills, {} envelopes, {} answers", report.counts.envelopes, told.answers());
    Ok(())
}

/// Flips some bytes in every file.
fn damage(folder: &Path, random: &mut fastrand::Rng) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            damage(&path, random)?;
            continue;
        }
        let mut bytes = std::fs::read(&path)?;
        for _ in 0..(bytes.len() / 4_096).clamp(1, 50) {
            if let Some(byte) = random.choice(&mut bytes) {
                *byte ^= 1 << random.u8(..8);
            }
        }
        std::fs::write(&path, bytes)?;
    }
    Ok(())
}
