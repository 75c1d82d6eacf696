//! The power is cut under load: what was answered is there, on a disk that
//! has lost all that was not synced.

use std::{fs::File, io::Write as _};

use anyhow::Context as _;
use axis_tests::{HubProcess, Load, Lost, seed};

use super::{Place, given};

const CUTS: usize = 20;
/// Room for the load above the low mark, in a sparse file.
const DISK_BYTES: u64 = 1536 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices; run tests/power"]
async fn what_was_answered_survives_a_power_cut() -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut place = Place::make(DISK_BYTES)?;
    let mut hub = HubProcess::start_in(Some(&place.hub()), &[]).await?;
    let mut load = Load::start(&hub).await?;
    place.device.sync()?;
    let (mut cut_off, mut rebuilt) = (0, 0);
    for cut in 1..=CUTS {
        let mut bystander = File::create(place.device.path().join(format!("unsynced-{cut}")))?;
        bystander.write_all(&[1; 100_000])?;
        drop(bystander);
        load.answered(random.usize(1..200)).await?;
        hub.kill()?;
        let answers = load.answers();
        place.device.cut()?;

        // the cut was one: what nobody synced is gone
        let left = std::fs::read(place.device.path().join(format!("unsynced-{cut}"))).unwrap_or_default();
        assert!(left.iter().all(|byte| *byte == 0), "cut {cut}: what was not synced is there");
        // before the hub looks: everything that was answered is on the disk
        assert_eq!(load.lost(&hub.path().join("data"))?, Lost::default(), "cut {cut}, {answers} answers");
        let report = hub.check().with_context(|| format!("after cut {cut}"))?;
        cut_off += usize::from(report.incomplete_batch.is_some());
        rebuilt += usize::from(!report.notes.is_empty());
        hub.resume().await.with_context(|| format!("after cut {cut}"))?;
    }
    let told = load.settle(&hub).await?;
    hub.terminate().await?;
    assert_eq!(told.lost(&hub.path().join("data"))?, Lost::default());
    let report = hub.finish().await?;
    assert_eq!(report.counts.deliveries, report.counts.settled);
    println!(
        "{CUTS} cuts, {} envelopes, {} answers; after {cut_off} cuts a batch was unfinished, after {rebuilt} the \
         tree had to be mended",
        report.counts.envelopes,
        told.answers()
    );
    Ok(())
}

/// Shows that the test above can fail: a hub whose syncs do nothing loses what
/// it answered.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices; run tests/power"]
async fn without_syncs_a_power_cut_loses_what_was_answered() -> anyhow::Result<()> {
    let mut place = Place::make(DISK_BYTES)?;
    let no_syncs = given("AXIS_NO_SYNCS")?;
    let mut hub = HubProcess::start_in(Some(&place.hub()), &[("LD_PRELOAD", &no_syncs)]).await?;
    let mut load = Load::start(&hub).await?;
    place.device.sync()?;
    load.answered(300).await?;
    hub.kill()?;
    place.device.cut()?;
    let lost = load.lost(&hub.path().join("data"))?;
    assert!(!lost.is_nothing(), "nothing is lost without syncs: this test proves nothing here");
    println!(
        "without syncs: {} of {} answers lost, {} documents",
        lost.accepted.len() + lost.acknowledged.len(),
        load.answers(),
        lost.documents.len()
    );
    Ok(())
}
