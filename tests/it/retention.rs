//! What leaves a running hub, and what stays: after its time, and at once.

use std::path::Path;

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
use axis_tests::{Ministry, Raw, TestHub, eventually, refusal_of};
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
    let look = |files: &[std::path::PathBuf], tree| archive::verify(&RealDisk, files, Some(&verifier), tree);
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
    let agree = Command::ConfirmPurge { envelope_sequence: sequence, operator: "local:bình".into() };
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
    assert_eq!(why.first().map(|(_, _, why)| *why), Some(Settlement::Returned));

    // the other envelope is untouched, and its sender hears the same again
    let again = raw.submission().submit(submit).await?.into_inner();
    assert!(again.duplicate && again.receipt == small.receipt && again.erased_unix_ms == 0);
    assert!(holds(&data, b"LO-MAT-TEP-NHO")?);
    hub.finish().await?;
    Ok(())
}
