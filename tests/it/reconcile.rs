//! A hub whose disk was lost is restored from an older backup: its clients
//! come back by themselves, and in the end nothing that anybody was told is
//! missing. A hub that goes back without a word is not believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use axis_client::{
    Error, FeedOptions, KnownLogs, LogProblem, Outcome, Outgoing, ReceiveOptions, quiet, receipt,
};
use axis_hub::{clock::Clock, limits::DAY_MS};
use axis_proto::{
    envelope::v1::RejectionReason,
    hub::v1::DeliveryState,
    id::{AgencyCode, EnvelopeId},
};
use axis_tests::{HubProcess, Ministry, TestHub, binary, code, copy, eventually, run_axis, run_hub, seed};

/// What a ministry's system was shown: envelope and recipient, each time.
type Shown = Arc<Mutex<Vec<(EnvelopeId, AgencyCode)>>>;

/// What was sent and accepted: the sender, and how many recipients it has.
type Accepted = BTreeMap<EnvelopeId, (AgencyCode, usize)>;

const CODES: [&str; 4] = ["G01", "G02", "H01", "H02"];

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// The hub's disk is gone; it is made again from a backup. What the operators
/// hold elsewhere are the keys of these names.
fn restore(hub: &mut HubProcess, keys: &[&str], backup: &Path, flags: &[&str]) -> anyhow::Result<()> {
    hub.kill()?;
    let held = tempfile::tempdir()?;
    for name in keys {
        std::fs::copy(hub.path().join("keys").join(name), held.path().join(name))?;
    }
    std::fs::remove_dir_all(hub.path())?;
    let arguments = [&["restore", text(backup), "--keys", text(held.path())], flags].concat();
    run_hub(&hub.path(), &arguments).map(drop)
}

const KEYS: [&str; 3] = ["checkpoint.pem", "authority.pem", "authority.crt"];

/// Takes what comes: rejects every seventh, acknowledges the others.
async fn take(ministry: Arc<Ministry>, shown: Shown) -> anyhow::Result<()> {
    // what was leased when the backup was made is leased in the restored hub
    let mut options = ReceiveOptions::following();
    options.lease = Duration::from_secs(10);
    let mut deliveries = ministry.client.receive(options).await?;
    while let Some(received) = deliveries.next().await {
        let received = received?;
        for document in received.documents() {
            let mut bytes = Vec::new();
            document.write_to(&mut bytes, &quiet).await?;
        }
        let count = {
            let mut shown = shown.lock().expect("whole");
            shown.push((*received.envelope_id(), received.recipient().clone()));
            shown.len()
        };
        if count.is_multiple_of(7) {
            received.reject(RejectionReason::NotCompetent, "không thuộc thẩm quyền").await?;
        } else {
            received.ack("so-den").await?;
        }
    }
    Ok(())
}

/// Some letters from a ministry to the others, some with a large file.
async fn send(
    ministry: &Ministry,
    count: usize,
    random: &mut fastrand::Rng,
    accepted: &mut Accepted,
    files: &Path,
) -> anyhow::Result<()> {
    let own = ministry.agency();
    for letter in 0..count {
        let others = CODES.into_iter().filter(|code| *code != own.as_str());
        let to: Vec<&str> = if letter.is_multiple_of(3) {
            others.collect()
        } else {
            others.skip(letter % 3).take(1).collect()
        };
        let mut outgoing: Outgoing = ministry.letter(&to, "V/v khôi phục");
        if letter % 4 == 1 {
            let path = files.join(format!("{:016x}.bin", random.u64(..)));
            let mut bytes = vec![0; random.usize(70_000..300_000)];
            random.fill(&mut bytes);
            std::fs::write(&path, bytes)?;
            outgoing = outgoing.file(&path);
            let sent = ministry.send(outgoing).await?;
            // whoever wrote it clears up: the home has its own link
            std::fs::remove_file(path)?;
            accepted.insert(sent.envelope_id, (own.clone(), to.len()));
            continue;
        }
        let sent = ministry.send(outgoing).await?;
        accepted.insert(sent.envelope_id, (own.clone(), to.len()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_ends_with_nothing_lost() -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed());
    let folder = tempfile::tempdir()?;
    let (backup, files) = (folder.path().join("backup"), folder.path().join("files"));
    std::fs::create_dir(&files)?;
    let mut hub = HubProcess::start().await?;
    let mut ministries = Vec::new();
    for code in CODES {
        ministries.push(Arc::new(hub.ministry(&code.to_lowercase(), &[code]).await?));
    }
    // the last one is away until the end: what is for it waits
    let shown: Vec<Shown> = CODES.iter().map(|_| Shown::default()).collect();
    let start = |index: usize| tokio::spawn(take(Arc::clone(&ministries[index]), Arc::clone(&shown[index])));
    let mut takers = vec![start(0), start(1), start(2)];

    let mut accepted = Accepted::new();
    for ministry in &ministries {
        send(ministry, 6, &mut random, &mut accepted, &files).await?;
    }
    run_hub(&hub.path(), &["backup", text(&backup)])?;
    let before = accepted.clone();
    for ministry in &ministries {
        send(ministry, 9, &mut random, &mut accepted, &files).await?;
    }
    all_settled(&ministries[..], &accepted, Some("H02")).await;
    let receipts = receipts_of(&ministries)?;

    restore(&mut hub, &KEYS, &backup, &[])?;
    hub.resume().await?;
    // the last one comes back: what it sent is offered again by a command that is killed now and then
    killed_and_run_again(ministries[3].home(), &mut random).await?;
    takers.push(start(3));
    eventually("all is settled in the new log", async || {
        takers.iter().any(tokio::task::JoinHandle::is_finished)
            || is_settled(&ministries, &accepted, None).await
    })
    .await;
    if let Some(ended) = takers.iter().position(tokio::task::JoinHandle::is_finished) {
        takers.swap_remove(ended).await?.context("a recipient gave up")?;
    }
    takers.iter().for_each(tokio::task::JoinHandle::abort);

    let expected: usize = accepted.values().map(|(_, recipients)| recipients).sum();
    let all: Vec<(EnvelopeId, AgencyCode)> =
        shown.iter().flat_map(|shown| shown.lock().expect("whole").clone()).collect();
    let once: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!((all.len(), once.len()), (expected, expected), "each is shown once to each recipient");

    for (ministry, code) in ministries.iter().zip(CODES) {
        eventually("what was lost is offered again", async || {
            ministry.client.reconciliation().is_ok_and(|report| report.is_some_and(|report| report.complete))
        })
        .await;
        let known = KnownLogs::load(ministry.home())?.context("it is enrolled")?;
        assert_eq!(known.logs().count(), 2, "the former log signed for the new one");
        let report = ministry.client.reconciliation()?.context("it was done")?;
        assert_eq!((report.accepted + report.known, report.failed), (9, 0), "{code}: {report:?}");
        assert!(report.offered.iter().all(|it| !before.contains_key(&it.envelope_id)), "{code}: {report:?}");
        // again: nothing is left to be done
        let again = ministry.client.reconcile(&quiet).await?.context("the hub was restored")?;
        assert_eq!((again.offered, again.unanswered), (report.offered, 0), "{code}");
        for (id, _) in accepted.iter().filter(|(_, (sender, _))| sender.as_str() == code) {
            let sent = ministry.client.sent(id)?.context("it is kept")?;
            let verified = known.verify(&sent.receipt)?;
            assert!(
                known.holds(&verified.checkpoint.origin, sent.sequence),
                "{id} has a receipt that counts"
            );
        }
    }
    for (home, found) in receipts {
        let known = KnownLogs::load(&home)?.context("it is enrolled")?;
        assert!(known.verify(&found).is_ok(), "a receipt of before still verifies");
    }
    hub.terminate().await?;
    run_hub(&hub.path(), &["fsck"])?;
    println!(
        "{} envelopes, {} after the backup, {expected} deliveries",
        accepted.len(),
        accepted.len() - before.len()
    );
    Ok(())
}

/// `axis reconcile`, killed at random moments, then left to end.
async fn killed_and_run_again(home: &Path, random: &mut fastrand::Rng) -> anyhow::Result<()> {
    for kill in 0..4 {
        let mut child = Command::new(binary("axis")?)
            .args(["--home", text(home), "reconcile"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        // the condition is a moment: any will do
        let until =
            std::time::Instant::now() + std::time::Duration::from_millis(random.u64(10..120 * (kill + 1)));
        eventually("the moment has come", async || std::time::Instant::now() >= until).await;
        child.kill()?;
        child.wait()?;
    }
    let output = Command::new(binary("axis")?).args(["--home", text(home), "reconcile"]).output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn all_settled(ministries: &[Arc<Ministry>], accepted: &Accepted, but: Option<&str>) {
    eventually("what can be taken is settled", async || is_settled(ministries, accepted, but).await).await;
}

async fn is_settled(ministries: &[Arc<Ministry>], accepted: &Accepted, but: Option<&str>) -> bool {
    for (id, (sender, count)) in accepted {
        let Some(ministry) = ministries.iter().find(|it| it.agency() == *sender) else { return false };
        let Ok(track) = ministry.client.track(sender, id).await else { return false };
        let settled = |state| matches!(state, DeliveryState::Acknowledged | DeliveryState::Rejected);
        let all = track.recipients.iter().all(|it| settled(it.state()) || Some(it.agency.as_str()) == but);
        if track.recipients.len() != *count || !all {
            return false;
        }
    }
    true
}

/// Every receipt that the homes keep, with its home.
fn receipts_of(
    ministries: &[Arc<Ministry>],
) -> anyhow::Result<Vec<(PathBuf, axis_proto::record::v1::Receipt)>> {
    let mut all = Vec::new();
    for ministry in ministries {
        for entry in std::fs::read_dir(ministry.home().join("receipts"))? {
            all.push((ministry.home().to_owned(), receipt::load(&entry?.path())?));
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_signed_for_is_a_persons_decision() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let backup = folder.path().join("backup");
    let mut hub = HubProcess::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let _byt = hub.ministry("byt", &["G18"]).await?;
    vpcp.send(vpcp.letter(&["G18"], "Trước")).await?;
    run_hub(&hub.path(), &["backup", text(&backup)])?;
    let sent = vpcp.send(vpcp.letter(&["G18"], "Sau")).await?;
    let lost = folder.path().join("lost.pdf");
    std::fs::write(&lost, vec![7; 100_000])?;
    let with_file = Outgoing::new(vpcp.agency(), "Tệp").to(code("G18")).file(&lost);
    let with_file = vpcp.send(with_file).await?;

    // the checkpoint key is lost as well
    restore(&mut hub, &KEYS[1..], &backup, &["--new-key"])?;
    hub.resume().await?;
    let error = vpcp.client.info().await.unwrap_err();
    let Error::Log(LogProblem::Unknown { verifier_key, .. }) = &error else { panic!("{error:?}") };
    assert!(vpcp.client.receive(ReceiveOptions::default()).await?.next().await.is_some_and(|it| it.is_err()));
    assert!(vpcp.client.reconcile(&quiet).await.is_err());
    let axis = |arguments: &[&str]| {
        let output = Command::new(binary("axis")?)
            .args([&["--home", text(vpcp.home())], arguments].concat())
            .env("LC_ALL", "C")
            .output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        anyhow::Ok((text(output.stdout), text(output.stderr), output.status.code()))
    };
    let (_, err, status) = axis(&["reconcile"])?;
    assert!(status == Some(6) && err.contains("axis log accept --key VKEY"), "{err}");

    // a file that is nowhere any more is named
    std::fs::remove_dir_all(vpcp.home().join(format!("sent/{}/documents", with_file.envelope_id)))?;
    std::fs::remove_file(lost)?;
    let (out, err, status) = axis(&["log", "accept", "--key", verifier_key])?;
    assert!(status == Some(0) && out.contains("accepted by a person"), "{out}{err}");
    assert!(err.contains("NOT offered: these files are not where they were: lost.pdf"), "{err}");
    let again = Ministry::at(vpcp.home()).await?;
    let report = again.client.reconciliation()?.context("it was done")?;
    let outcome = |id| report.offered.iter().find(|it| it.envelope_id == id).map(|it| &it.outcome);
    assert!(matches!(outcome(sent.envelope_id), Some(Outcome::Accepted(_))), "{report:?}");
    assert!(matches!(outcome(with_file.envelope_id), Some(Outcome::FilesMissing(_))), "{report:?}");
    assert_eq!((report.accepted, report.known, report.failed), (1, 1, 1), "{report:?}");
    again.send(again.letter(&["G18"], "Tiếp")).await?;
    hub.terminate().await?;
    run_hub(&hub.path(), &["fsck"])?;
    Ok(())
}

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

/// The numbers that this home's feed goes on with, each with the log of its
/// receipt.
async fn read_on(ministry: &Ministry) -> anyhow::Result<Vec<(u64, String)>> {
    let mut feed = ministry.client.feed(FeedOptions::default()).await?;
    let mut read = Vec::new();
    while let Some(item) = feed.next().await {
        let item = item?;
        let log = item.receipt.proof.split_once("\n\n").context("a checkpoint")?.1;
        read.push((item.feed_sequence, log.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_read_again_from_where_the_restored_hub_gives_numbers_anew() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let older = folder.path().join("older");
    let mut hub = TestHub::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    for _ in 0..3 {
        vpcp.send(vpcp.letter(&["G18"], "Trước")).await?;
    }
    let settle = async |count: u64| {
        // no more than these, so that nothing is given back behind them
        let mut options = ReceiveOptions::following();
        options.deliveries_max = Some(count);
        let mut deliveries = byt.client.receive(options).await?;
        for _ in 0..count {
            byt.next(&mut deliveries).await?.ack("").await?;
        }
        anyhow::Ok(())
    };
    settle(2).await?;
    let before = read_on(&vpcp).await?;
    hub.copy_to(&older).await?;
    for _ in 0..4 {
        vpcp.send(vpcp.letter(&["G18"], "Sau")).await?;
    }
    settle(4).await?;
    let lost = read_on(&vpcp).await?;
    let held = before.last().context("entries")?.0;
    assert_eq!(lost.first().map(|(number, _)| *number), Some(held + 1), "it goes on where it was left");
    assert!(lost.len() > 4);

    let old = hub.go_back_to(&older).await?;
    // its cursor is behind numbers that are given anew
    eventually("what was lost is offered again", async || {
        vpcp.client.reconcile(&quiet).await.is_ok_and(|report| report.is_some_and(|it| it.accepted == 4))
    })
    .await;
    let anew = read_on(&vpcp).await?;
    let numbers: Vec<u64> = anew.iter().map(|(number, _)| *number).collect();
    let expected: Vec<u64> = (held + 1..).take(anew.len()).collect();
    assert_eq!(numbers, expected, "from the first that the backup lacks, each once");
    assert!(anew.len() >= 4 && anew.iter().all(|(_, log)| *log == hub.verifier().origin()), "{anew:?}");
    assert!(lost.iter().chain(&before).all(|(_, log)| *log == old.origin()));
    assert!(read_on(&vpcp).await?.is_empty(), "once");
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_when_the_hub_is_restored_is_named_and_given_up() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let older = folder.path().join("older");
    let mut hub = TestHub::start_with(Clock::manual(Clock::system().now_ms())).await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let _byt = hub.ministry("byt", &["G18"]).await?;
    let held = vpcp.send(vpcp.letter(&["G18"], "Trước")).await?;
    hub.copy_to(&older).await?;
    let lost = vpcp.send(vpcp.letter(&["G18"], "Sau")).await?;
    hub.go_back_to(&older).await?;
    hub.clock().advance(31 * DAY_MS);

    let report = vpcp.client.reconcile(&quiet).await?.context("the hub was restored")?;
    assert_eq!((report.accepted, report.known, report.failed), (0, 0, 1), "{report:?}");
    let offered = &report.offered[0];
    assert_eq!(offered.envelope_id, lost.envelope_id, "what the backup holds is not offered");
    let Outcome::Refused { reason, lasting, .. } = &offered.outcome else { panic!("{offered:?}") };
    assert_eq!((reason.as_str(), *lasting), ("STALE", true));
    assert!(report.complete && !vpcp.client.reconcile_due()?, "trying again cannot help");
    vpcp.client.track(&vpcp.agency(), &held.envelope_id).await?;
    assert!(vpcp.client.track(&vpcp.agency(), &lost.envelope_id).await.is_err());
    // what it had been told stays, and says that the hub lacks it
    let sent = vpcp.client.sent(&lost.envelope_id)?.context("it is kept")?;
    assert_eq!(sent.receipt, lost.receipt);

    // people are told the same, with a status of its own
    let output = Command::new(binary("axis")?)
        .args(["--home", text(vpcp.home()), "--lang", "en", "reconcile"])
        .output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains(&lost.envelope_id.to_string()), "{words}");
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_everything_says_which_log_it_is_in() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let older = folder.path().join("older");
    let mut hub = TestHub::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let _byt = hub.ministry("byt", &["G18"]).await?;
    let held = vpcp.send(vpcp.letter(&["G18"], "Trước")).await?;
    hub.copy_to(&older).await?;
    let lost = vpcp.send(vpcp.letter(&["G18"], "Sau")).await?;
    let old = hub.go_back_to(&older).await?;
    let new = hub.verifier();

    let axis = |arguments: &[&str]| run_axis(vpcp.home(), arguments);
    axis(&["reconcile"])?;
    // another process of the home has met the new log
    vpcp.client.info().await?;
    for sent in [&held, &lost] {
        let tracked = axis(&["track", &sent.envelope_id.to_string()])?;
        assert_eq!(tracked["log"], new.origin(), "{tracked}");
    }
    let file = |name: &str, receipt: &axis_proto::record::v1::Receipt| {
        let path = folder.path().join(name);
        std::fs::write(&path, receipt::to_json(receipt)).map(|()| path)
    };
    // the log that signed it, and whether the hub still has it
    let again = vpcp.client.sent(&lost.envelope_id)?.context("it is kept")?;
    for (name, receipt, log, is_lost) in [
        ("held.json", &held.receipt, &old, false),
        ("lost.json", &lost.receipt, &old, true),
        ("again.json", &again.receipt, &new, false),
    ] {
        let verified = axis(&["verify", text(&file(name, receipt)?)])?;
        assert_eq!((&verified["log"], &verified["valid"]), (&log.origin().into(), &true.into()), "{name}");
        assert_eq!(verified["lost_by_restore"], is_lost, "{name}: {verified}");
    }
    // also what the hub shows of a record that the backup held
    let shown = vpcp.client.receipt(held.sequence, None).await?;
    receipt::verify(&shown, &old)?;
    let tracked = vpcp.client.track(&vpcp.agency(), &lost.envelope_id).await?;
    receipt::verify(&vpcp.client.receipt(tracked.accepted_sequence, None).await?, &new)?;
    hub.finish().await?;
    Ok(())
}
