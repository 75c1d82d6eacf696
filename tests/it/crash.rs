//! SIGKILL at random moments under load: no acknowledged submission, lease or
//! acknowledgement is lost, and what happens to the derived state meanwhile
//! changes nothing that a client can see; but that the journal has lost records
//! is never forgotten.

use std::path::Path;

use anyhow::Context as _;
use axis_tests::{HubProcess, Load, Lost, TestHub, copy, run_hub, seed};

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

#[tokio::test(flavor = "multi_thread")]
async fn what_proves_that_the_journal_has_lost_records_is_not_made_anew() -> anyhow::Result<()> {
    let mut hub = TestHub::start().await?;
    hub.ministry("vpcp", &["G22"]).await?;
    hub.stop().await;
    let level = hub.path().join("data/tree/level-00");
    let whole = std::fs::read(&level)?;
    // the tree knows one record more
    let longer = [&whole[..], &[7; 32]].concat();
    std::fs::write(&level, &longer)?;
    for command in ["rebuild", "serve"] {
        let error = run_hub(&hub.path(), &[command]).expect_err("refused").to_string();
        assert!(error.contains("the tree") && error.contains("axis-hub restore"), "{command}: {error}");
        assert!(std::fs::read(&level)? == longer, "{command}");
    }
    // what a power cut left empty proves nothing
    std::fs::write(&level, [&whole[..], &[0; 32]].concat())?;
    run_hub(&hub.path(), &["rebuild"])?;
    assert!(std::fs::read(&level)? == whole);
    hub.finish().await?;
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
