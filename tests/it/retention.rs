//! What leaves a running hub, and what stays: after its time, and at once.

use std::{
    path::{Path, PathBuf},
    process::{Command as Process, Output, Stdio},
};

use anyhow::Context as _;
use axis_client::quiet;
use axis_hub::{
    archive,
    clock::Clock,
    config::Config,
    disk::RealDisk,
    limits::{DAY_MS, DOCUMENT_GRACE_MS, UPLOAD_PINNED_MS},
    machine::{Command, query},
};
use axis_proto::{
    admin::v1::{ConfirmPurgeRequest, RequestPurgeRequest},
    envelope::v1::Envelope,
    hub::v1::{DownloadRequest, PullRequest, Reason, SubmitRequest, TrackResponse},
    id::EnvelopeId,
    record::v1::{ErasureCause, Settlement},
};
use axis_tests::{HubProcess, Ministry, Raw, TestHub, binary, eventually, refusal_of, run_axis, seed};
use bytes::Bytes;

/// A hub whose clock the test moves, and which keeps things for as short as
/// it may.
async fn forgetful() -> anyhow::Result<TestHub> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut hub = TestHub::start_with(Clock::manual(now.as_millis() as u64)).await?;
    hub.stop().await;
    let path = hub.path().join("hub.toml");
    let mut settings: toml::Table = std::fs::read_to_string(&path)?.parse()?;
    settings.insert(
        "retention".into(),
        "cargo_days = 1\nsummary_days = 61\nfeed_days = 30".parse::<toml::Table>()?.into(),
    );
    std::fs::write(&path, settings.to_string())?;
    hub.resume().await?;
    Ok(hub)
}

/// Whether bytes are in any file under a directory.
fn holds(dir: &Path, secret: &[u8]) -> anyhow::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if holds(&path, secret)? {
                return Ok(true);
            }
            continue;
        }
        // sled and the tree may take a file away under our eyes
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if bytes.windows(secret.len()).any(|window| window == secret) {
            println!("found in {}", path.display());
            return Ok(true);
        }
    }
    Ok(false)
}

async fn tracked(sender: &Ministry, id: &EnvelopeId) -> anyhow::Result<TrackResponse> {
    let raw = Raw::at(sender.home(), "G22").await?;
    let mut calls = axis_proto::hub::v1::track_service_client::TrackServiceClient::new(raw.channel);
    let request = axis_proto::hub::v1::TrackRequest {
        sender: "G22".into(),
        envelope_id: Bytes::copy_from_slice(id.as_bytes()),
        ..Default::default()
    };
    Ok(calls.track(request).await?.into_inner())
}

/// A large document with a secret in its midst.
fn large(secret: &str) -> Vec<u8> {
    let mut bytes = vec![b'.'; 200_000];
    bytes[100_000..100_000 + secret.len()].copy_from_slice(secret.as_bytes());
    bytes
}

/// Copies of the journal's files verify with no hub in reach.
fn archived(data: &Path, hub: &TestHub) -> anyhow::Result<()> {
    let copy = tempfile::tempdir()?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data.join("journal"))? {
        let entry = entry?;
        let path = copy.path().join(entry.file_name());
        std::fs::copy(entry.path(), &path)?;
        files.push(path);
    }
    files.sort();
    anyhow::ensure!(files.len() == 2, "the one that was ended, and the last");
    let (tree, verifier) = (data.join("tree"), hub.verifier());
    let look = |files: &[std::path::PathBuf], tree| {
        archive::verify(&RealDisk, files, std::slice::from_ref(&verifier), tree)
    };
    let both = look(&files, None)?;
    assert!(both.roots_proven && both.signatures_proven && both.erased > 0 && both.cargo > 0);
    let alone = look(&files[1..], None)?;
    assert!(!alone.roots_proven && alone.signatures_proven);
    let alone = look(&files[1..], Some(&tree))?;
    assert!(alone.roots_proven && alone.first_sequence > 0);
    assert_eq!(alone.first_sequence + alone.records, both.records);
    // another's tree proves nothing
    let other = copy.path().join("tree");
    std::fs::create_dir(&other)?;
    for entry in std::fs::read_dir(&tree)? {
        let entry = entry?;
        let mut bytes = std::fs::read(entry.path())?;
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(other.join(entry.file_name()), bytes)?;
    }
    let error = look(&files[1..], Some(&other)).unwrap_err().to_string();
    assert!(error.contains("the root is not that of the records"), "{error}");
    let mut bytes = std::fs::read(&files[0])?;
    bytes[6_000] ^= 1;
    std::fs::write(&files[0], bytes)?;
    assert!(look(&files, None).is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settled_then_erased_then_forgotten_and_the_undelivered_untouched() -> anyhow::Result<()> {
    let mut hub = forgetful().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let tayninh = hub.ministry("tayninh", &["H53"]).await?;
    let settled = vpcp.letter(&["G18"], "mật-đã-xong").bytes("a.bin", large("tệp-đã-xong"));
    let settled = vpcp.send(settled.bytes("b.txt", vec![b'b'; 50_000])).await?;
    let waiting = vpcp.letter(&["H53"], "mật-đang-chờ").bytes("a.bin", large("tệp-đang-chờ"));
    let waiting = vpcp.send(waiting).await?;
    let mut deliveries = byt.follow().await?;
    let received = byt.next(&mut deliveries).await?;
    let answer = received.ack("mật-phúc-đáp").await?;
    drop(deliveries);
    let data = hub.path().join("data");
    let all = ["mật-đã-xong", "tệp-đã-xong", "mật-phúc-đáp"];
    for secret in all {
        assert!(holds(&data, secret.as_bytes())?, "{secret}");
    }

    let retention = hub.hub().context().retention.clone();
    hub.hub().context().committer.roll().await?;
    assert_eq!(retention.pass().await?, Default::default());
    hub.clock().advance(DAY_MS);
    eventually("it is erased", async || {
        tracked(&vpcp, &settled.envelope_id).await.is_ok_and(|answer| answer.erased_unix_ms > 0)
    })
    .await;
    assert_eq!(tracked(&vpcp, &waiting.envelope_id).await?.erased_unix_ms, 0);
    let done = retention.pass().await?;
    assert_eq!((done.segments, done.documents), (1, 0), "an upload holds the document for a week");
    assert!(done.removed.bytes > 50_000);
    for secret in ["mật-đã-xong", "mật-phúc-đáp"] {
        assert!(!holds(&data, secret.as_bytes())?, "{secret}");
    }
    hub.clock().advance(UPLOAD_PINNED_MS);
    assert_eq!(retention.pass().await?.documents, 0, "not before the grace");
    hub.clock().advance(DOCUMENT_GRACE_MS);
    assert_eq!(retention.pass().await?.documents, 1);
    assert!(!holds(&data, b"t\xe1\xbb\x87p-\xc4\x91\xc3\xa3-xong")?);
    for secret in ["mật-đang-chờ", "tệp-đang-chờ"] {
        assert!(holds(&data, secret.as_bytes())?, "{secret}");
    }

    archived(&data, &hub)?;

    // proofs are what they were, also from a state that is made again
    for receipt in [&settled.receipt, &answer.receipt] {
        axis_proto::receipt::verify(receipt, &hub.verifier())?;
    }
    assert_eq!(vpcp.client.receipt(settled.sequence, None).await?, settled.receipt);
    let records = hub.hub().context().evidence.size();
    hub.stop().await;
    let config = Config::load(&hub.path())?;
    let rebuilt = tokio::task::spawn_blocking(move || axis_hub::hub::rebuild(&config)).await??;
    assert_eq!(rebuilt, records);
    hub.resume().await?;
    assert_eq!(vpcp.client.receipt(settled.sequence, None).await?, settled.receipt);
    assert_eq!(tracked(&vpcp, &settled.envelope_id).await?.erasure_cause(), ErasureCause::Retention);

    // the other one still comes, whole
    let mut deliveries = tayninh.follow().await?;
    let received = tayninh.next(&mut deliveries).await?;
    let mut bytes = Vec::new();
    for document in received.documents() {
        bytes.clear();
        document.write_to(&mut bytes, &quiet).await?;
    }
    assert_eq!(bytes, large("tệp-đang-chờ"));
    received.ack("").await?;
    drop(deliveries);

    hub.clock().advance(61 * DAY_MS);
    eventually("both are forgotten", async || {
        let gone = async |id| tracked(&vpcp, id).await.is_err();
        gone(&settled.envelope_id).await && gone(&waiting.envelope_id).await
    })
    .await;
    let done = hub.hub().context().retention.pass().await?;
    assert!(done.feeds > 0);
    assert_eq!(vpcp.client.receipt(settled.sequence, None).await?, settled.receipt, "records stay");
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spill_is_purged_by_two_people_and_leaves_no_byte() -> anyhow::Result<()> {
    let hub = forgetful().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let tayninh = hub.ministry("tayninh", &["H53"]).await?;
    let raw = Raw::at(vpcp.home(), "G22").await?;
    let mut envelope: Envelope = raw.envelope("G18", b"LO-MAT-TEP-NHO");
    let sealed_one = raw.seal(&envelope);
    let submit = SubmitRequest {
        sealed_envelope: Some(sealed_one),
        documents: vec![Bytes::from_static(b"LO-MAT-TEP-NHO")],
    };
    let small = raw.submission().submit(submit.clone()).await?.into_inner();
    envelope.envelope_id = Bytes::new();

    let letter = vpcp.letter(&["G18", "H53"], "LO-MAT-TRICH-YEU").bytes("a.bin", large("LO-MAT-TEP-LON"));
    let spilt = vpcp.send(letter).await?;
    let mut deliveries = byt.follow().await?;
    let first = byt.next(&mut deliveries).await?;
    let second = byt.next(&mut deliveries).await?;
    let (held, open) =
        if first.envelope_id() == &spilt.envelope_id { (first, second) } else { (second, first) };
    let (held_id, sha256) = (held.delivery_id().to_string(), *held.documents()[1].sha256());
    held.ack("LO-MAT-PHUC-DAP").await?;
    drop(open);
    drop(deliveries);
    let data = hub.path().join("data");
    let secrets = ["LO-MAT-TRICH-YEU", "LO-MAT-TEP-LON", "LO-MAT-PHUC-DAP"];
    for secret in secrets {
        assert!(holds(&data, secret.as_bytes())?, "{secret}");
    }

    // the same person cannot agree
    let mut admin = hub.admin().await?;
    let envelope_id = Bytes::copy_from_slice(spilt.envelope_id.as_bytes());
    let request = RequestPurgeRequest {
        sender: "G22".into(),
        envelope_id: envelope_id.clone(),
        remark: "lộ bí mật".into(),
    };
    admin.request_purge(request).await?;
    let confirm = ConfirmPurgeRequest { sender: "G22".into(), envelope_id };
    let refused = admin.confirm_purge(confirm.clone()).await.unwrap_err();
    assert_eq!(refusal_of(&refused).0, Some(Reason::SecondOperator));
    assert!(holds(&data, b"LO-MAT-TRICH-YEU")?);

    // another one does; whoever repeats it hears what is left to do
    let (sequence, context) = (spilt.sequence, hub.hub().context().clone());
    let asked = context.read(|read| query::purge(read, sequence)).context("it was asked for")?.requested_by;
    let (how, _) = asked.split_once(':').context("a name")?;
    let agree = Command::ConfirmPurge { envelope_sequence: sequence, operator: format!("{how}:bình") };
    context.committer.commit(agree).await?;
    let report = admin.confirm_purge(confirm.clone()).await?.into_inner();
    assert_eq!((report.returned_count, report.taken_count), (1, 1));
    assert!(report.segments_rewritten > 0 && report.erased_bytes > 0);
    assert_eq!(report.documents_removed, [Bytes::copy_from_slice(sha256.as_bytes())]);
    assert!(report.documents_kept.is_empty() && report.documents_busy.is_empty());
    for secret in secrets {
        assert!(!holds(&data, secret.as_bytes())?, "{secret}");
    }
    let again = admin.confirm_purge(confirm).await?.into_inner();
    assert_eq!((again.erased_sequence, again.erased_bytes), (report.erased_sequence, 0));

    // everybody is told, and the evidence is what it was
    let answer = tracked(&vpcp, &spilt.envelope_id).await?;
    assert_eq!((answer.erasure_cause(), answer.settled_count), (ErasureCause::Purged, 2));
    assert_eq!(answer.erased_sequence, report.erased_sequence);
    assert_eq!(vpcp.client.receipt(sequence, None).await?, spilt.receipt);
    axis_proto::receipt::verify(&spilt.receipt, &hub.verifier())?;
    let at_byt = Raw::at(byt.home(), "G18").await?;
    let download = DownloadRequest {
        delivery_id: held_id,
        sha256: Bytes::copy_from_slice(sha256.as_bytes()),
        offset: 0,
    };
    let refused = at_byt.mailbox().download(download).await.unwrap_err();
    assert_eq!(refusal_of(&refused).0, Some(Reason::Erased));
    let at_tayninh = Raw::at(tayninh.home(), "H53").await?;
    let pulled = at_tayninh.mailbox().pull(PullRequest { accounted_to: 0, ..PullRequest::default() }).await?;
    let pulled = pulled.into_inner();
    assert!(pulled.deliveries.is_empty());
    assert_eq!(pulled.progress.map(|progress| progress.floor), Some(1));
    let why = context.read(|read| query::gone(read, &"tayninh".parse().unwrap(), 0, 1, 9));
    assert_eq!(why.first().map(|(_, _, why, _)| *why), Some(Settlement::Returned));

    // the other envelope is untouched, and its sender hears the same again
    let again = raw.submission().submit(submit).await?.into_inner();
    assert!(again.duplicate && again.receipt == small.receipt && again.erased_unix_ms == 0);
    assert!(holds(&data, b"LO-MAT-TEP-NHO")?);
    hub.finish().await?;
    Ok(())
}

/// `axis-hub` as somebody who logged in with this number, whoever runs it.
fn by_person(login: u32, dir: &Path, arguments: &[&str]) -> anyhow::Result<Process> {
    let mut process = Process::new("sh");
    let script = format!("echo {login} > /proc/self/loginuid && exec \"$0\" \"$@\"");
    process.args(["-c", &script]).arg(binary("axis-hub")?).arg("--dir").arg(dir).args(arguments);
    process.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(process)
}

/// Whether the kernel remembers who logged in, and lets us say it.
fn has_logins() -> bool {
    let script = "echo 4001 > /proc/self/loginuid && test \"$(cat /proc/self/loginuid)\" = 4001";
    let said = Process::new("sh").args(["-c", script]).stderr(Stdio::null()).status();
    said.is_ok_and(|status| status.success())
}

fn words_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Copies of the journal's files, as an archive keeps them.
fn archive_of(data: &Path, archive: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(archive)?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data.join("journal"))? {
        let entry = entry?;
        let path = archive.join(entry.file_name());
        std::fs::copy(entry.path(), &path)?;
        files.push(path);
    }
    Ok(files)
}

/// What `axis-hub archive verify --json` says of files.
fn archive_verify(files: &[PathBuf], more: &[&str]) -> anyhow::Result<serde_json::Value> {
    let output = Process::new(binary("axis-hub")?)
        .args(["archive", "verify", "--json"])
        .args(files)
        .args(more)
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", words_of(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_purged_by_two_commands_although_the_hub_is_killed_meanwhile() -> anyhow::Result<()> {
    if !has_logins() {
        println!("skipped: the kernel does not let us say who logged in (/proc/self/loginuid)");
        return Ok(());
    }
    let mut random = fastrand::Rng::with_seed(seed());
    let mut hub = HubProcess::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let codes: Vec<String> = (0..90).map(|number| format!("H{number:02}")).collect();
    let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
    let _provinces = hub.ministry("tinh", &codes).await?;
    axis_tests::admin::add_everyone(&mut hub.admin().await?, "tat-ca").await?;
    let letter = vpcp.letter(&[], "LO-MAT-TRICH-YEU").group("tat-ca".parse()?);
    let spilt = vpcp.send(letter.bytes("a.bin", large("LO-MAT-TEP-LON"))).await?;
    let mut deliveries = byt.follow().await?;
    byt.next(&mut deliveries).await?.ack("LO-MAT-PHUC-DAP").await?;
    drop(deliveries);
    let other = vpcp.send(vpcp.letter(&["G18"], "KHONG-MAT")).await?;
    let (dir, data) = (hub.path(), hub.path().join("data"));
    let secrets = ["LO-MAT-TRICH-YEU", "LO-MAT-TEP-LON", "LO-MAT-PHUC-DAP"];
    for secret in secrets {
        assert!(holds(&data, secret.as_bytes())?, "{secret}");
    }
    let folder = tempfile::tempdir()?;
    let key = hub.verifier().verifier_key();
    let whole = archive_verify(&archive_of(&data, &folder.path().join("before"))?, &["--key", &key])?;
    assert_eq!((&whole["erased"], &whole["roots_proven"]), (&0.into(), &true.into()));

    let id = spilt.envelope_id.to_string();
    let purge =
        |what: &str| -> Vec<String> { ["purge", what, &id, "--sender", "G22"].map(str::to_owned).to_vec() };
    let run = |login: u32, arguments: Vec<String>| -> anyhow::Result<Output> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(by_person(login, &dir, &arguments)?.output()?)
    };
    let remark = ["--remark", "lộ bí mật"].map(str::to_owned);
    let asked = run(4_001, [purge("request"), remark.to_vec()].concat())?;
    assert!(asked.status.success(), "{}", words_of(&asked));
    let same = run(4_001, purge("confirm"))?;
    assert!(!same.status.success() && words_of(&same).contains("SECOND_OPERATOR"), "{}", words_of(&same));
    // nor whoever calls without a login, by the account alone
    let nobody = run(u32::MAX, purge("confirm"))?;
    assert!(words_of(&nobody).contains("SECOND_OPERATOR"), "{}", words_of(&nobody));
    assert!(holds(&data, b"LO-MAT-TRICH-YEU")?);

    // killed at any moment; whoever types the same again goes on with what is left
    for kill in 0..3 {
        let arguments = purge("confirm");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut confirming = by_person(4_002, &dir, &arguments)?.spawn()?;
        let moment = std::time::Duration::from_millis(random.u64(5..60 * (kill + 1)));
        let until = std::time::Instant::now() + moment;
        eventually("the moment has come", async || std::time::Instant::now() >= until).await;
        hub.kill()?;
        confirming.wait()?;
        hub.resume().await?;
    }
    let confirmed = run(4_002, [purge("confirm"), vec!["--json".to_owned()]].concat())?;
    assert!(confirmed.status.success(), "{}", words_of(&confirmed));
    let report: serde_json::Value = serde_json::from_slice(&confirmed.stdout)?;
    let recipients = report["returned"].as_u64().context("a number")? + 1;
    assert!(recipients > 90 && report["taken"] == 1, "{report}");
    assert!(words_of(&confirmed).contains("not within reach"), "{}", words_of(&confirmed));
    for secret in secrets {
        assert!(!holds(&data, secret.as_bytes())?, "{secret}");
    }
    assert!(holds(&data, b"KHONG-MAT")?);

    let axis = |arguments: &[&str]| run_axis(vpcp.home(), arguments);
    let tracked = axis(&["track", &id])?;
    assert!(tracked["erased"].is_string() && tracked["settled_count"] == recipients, "{tracked}");
    assert!(axis(&["track", &other.envelope_id.to_string()])?["erased"].is_null());

    // what is archived now says that content was erased, and proves all the rest
    hub.terminate().await?;
    let report = hub.check()?;
    assert_eq!((report.counts.envelopes, report.counts.settled), (2, recipients));
    let after = archive_verify(&archive_of(&data, &folder.path().join("after"))?, &["--key", &key])?;
    assert!(after["erased"].as_u64() >= Some(3) && after["cargo"].as_u64() > Some(0), "{after}");
    assert_eq!((&after["roots_proven"], &after["signatures_proven"]), (&true.into(), &true.into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_taken_across_a_restore_verifies_offline() -> anyhow::Result<()> {
    let mut hub = HubProcess::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let _byt = hub.ministry("byt", &["G18"]).await?;
    let folder = tempfile::tempdir()?;
    let backup = folder.path().join("backup");
    vpcp.send(vpcp.letter(&["G18"], "Trước")).await?;
    hub.back_up(&backup)?;
    vpcp.send(vpcp.letter(&["G18"], "Mất")).await?;
    let old = hub.lose_and_restore(&backup)?;
    hub.resume().await?;
    vpcp.send(vpcp.letter(&["G18"], "Sau")).await?;
    let (data, keys) = (hub.path().join("data"), [old.verifier_key(), hub.verifier().verifier_key()]);
    hub.terminate().await?;
    hub.check()?;

    let files = archive_of(&data, &folder.path().join("archive"))?;
    assert!(files.len() > 1);
    let both = ["--key", &keys[0], "--key", &keys[1]];
    let found = archive_verify(&files, &both)?;
    assert_eq!(found["logs"], 2, "{found}");
    assert_eq!((&found["roots_proven"], &found["signatures_proven"]), (&true.into(), &true.into()));
    assert_eq!(archive_verify(&files, &[])?["logs"], 2, "who follows whom needs no key");
    for key in &keys {
        let error = archive_verify(&files, &["--key", key]).expect_err("a key is missing").to_string();
        assert!(error.contains("none of the keys is that of log"), "{error}");
    }
    // the new log alone, with the tree
    let mut sorted = files.clone();
    sorted.sort();
    let tree = data.join("tree");
    let tree = tree.to_str().expect("temporary paths are UTF-8");
    let alone = archive_verify(&sorted[1..], &["--key", &keys[1], "--tree", tree])?;
    assert_eq!((&alone["roots_proven"], &alone["logs"]), (&true.into(), &1.into()), "{alone}");

    // files of another hub do not follow it, whatever their names say
    let mut other = HubProcess::start().await?;
    other.terminate().await?;
    let strange = archive_of(&other.path().join("data"), &folder.path().join("strange"))?;
    let renamed = folder.path().join("strange").join(sorted[1].file_name().expect("a name"));
    std::fs::rename(&strange[0], &renamed)?;
    let error = archive_verify(&[sorted[0].clone(), renamed], &[]).expect_err("another log's").to_string();
    assert!(error.contains("journal "), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fsck_misses_a_document_for_as_long_as_an_envelope_names_it() -> anyhow::Result<()> {
    let mut hub = forgetful().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let file = large("ten-goi");
    let digest = axis_proto::id::Digest::of(&file).to_string();
    vpcp.send(vpcp.letter(&["G18"], "Có tệp").bytes("a.bin", file.clone())).await?;
    let mut deliveries = byt.follow().await?;
    byt.next(&mut deliveries).await?.ack("").await?;
    drop(deliveries);
    hub.stop().await;
    // settled: nobody needs it any more, but the envelope still names it
    let object = hub.path().join("data/vault/objects").join(&digest[..2]).join(&digest);
    let wrong = || -> anyhow::Result<Vec<String>> {
        let report = axis_hub::fsck::run(axis_hub::fsck::Stores {
            data: &hub.path().join("data"),
            disk: RealDisk::shared(),
            verifier: hub.verifier(),
            progress: &mut |_| {},
        })?;
        Ok(report.violations.into_iter().map(|violation| violation.what).collect())
    };
    assert_eq!(wrong()?, Vec::<String>::new());
    std::fs::write(&object, &file[1..])?;
    assert_eq!(wrong()?, [format!("document {digest} has {} bytes, not {}", file.len() - 1, file.len())]);
    std::fs::remove_file(&object)?;
    let missing = wrong()?;
    assert!(missing.len() == 1 && missing[0].contains(&digest), "{missing:?}");

    // once its content is erased nothing names it
    hub.resume().await?;
    hub.clock().advance(DAY_MS);
    let context = hub.hub().context().clone();
    eventually("it is erased", async || context.read(|read| query::documents_named(read).is_empty())).await;
    drop(context);
    hub.finish().await?;
    Ok(())
}
