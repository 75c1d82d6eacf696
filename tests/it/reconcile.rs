//! A hub that goes back without a word is not believed.

use anyhow::Context as _;
use axis_client::{Error, KnownLogs, LogProblem, ReceiveOptions, quiet};
use axis_tests::{HubProcess, Ministry, copy, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_goes_back_without_a_word_is_not_believed() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let older = folder.path().join("older");
    let mut hub = HubProcess::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    vpcp.send(vpcp.letter(&["G18"], "Trước")).await?;
    hub.terminate().await?;
    copy(&hub.path(), &older)?;
    hub.resume().await?;
    for _ in 0..3 {
        vpcp.send(vpcp.letter(&["G18"], "Sau")).await?;
    }
    // the older copy is started as if nothing had happened
    hub.terminate().await?;
    std::fs::remove_dir_all(hub.path())?;
    copy(&older, &hub.path())?;
    hub.resume().await?;
    let home = vpcp.home().to_owned();
    drop(vpcp);
    let vpcp = Ministry::at(&home).await?;
    let error = vpcp.client.send(vpcp.letter(&["G18"], "Nữa"), &quiet).await.unwrap_err();
    let source = match error {
        Error::Pending { source, .. } => *source,
        other => panic!("{other:?}"),
    };
    let Error::Log(LogProblem::Forked { remembered, shown }) = source else { panic!("{source:?}") };
    assert!(remembered.size >= shown.size && remembered.root != shown.root, "{remembered} and {shown}");
    // both are kept, signed, and nothing is done any more
    let known = KnownLogs::load(&home)?.context("it is enrolled")?;
    let log = hub.verifier();
    let Some(LogProblem::Forked { remembered, shown }) = known.problem() else { panic!("{known:?}") };
    assert!(log.verify(&remembered.note).is_ok() && log.verify(&shown.note).is_ok());
    let error = vpcp.client.receive(ReceiveOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Log(_)), "{error:?}");
    // whoever has seen nothing of it goes on, and the person who has may too
    byt.send(byt.letter(&["G22"], "Khác")).await?;
    vpcp.client.accept_log(&log.verifier_key()).await?;
    let sent = vpcp.send(vpcp.letter(&["G18"], "Tiếp")).await?;
    eventually("what the older copy lacked is there", async || {
        vpcp.client.reconciliation().is_ok_and(|it| it.is_some_and(|it| it.complete && it.accepted == 3))
    })
    .await;
    vpcp.client.track(&vpcp.agency(), &sent.envelope_id).await?;
    hub.finish().await?;
    Ok(())
}
