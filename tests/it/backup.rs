//! Backups of a hub that goes on working, and hubs made from them: what was
//! acknowledged before the backup is there, what waited waits again, and old
//! evidence still holds.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use axis_client::{Outgoing, ReceiveOptions};
use axis_hub::{disk::RealDisk, journal::segments};
use axis_proto::{
    admin::v1::{BackupMade, BackupRequest, ListQueuesRequest},
    hub::v1::{
        GetConsistencyRequest, GetInfoRequest, GetReceiptRequest,
        evidence_service_client::EvidenceServiceClient, hub_service_client::HubServiceClient,
    },
    id::EnvelopeId,
    note::CheckpointVerifier,
    receipt,
    record::v1::{Record, record::Event},
    succession,
    tree::{Hash, verify_consistency},
};
use axis_tests::{HubProcess, Ministry, Raw, TestHub, code, eventually, run_hub};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;

/// Larger than what rides along: it goes through the vault.
const LARGE: usize = 100_000;

#[derive(Default)]
struct Load {
    accepted: Mutex<BTreeSet<EnvelopeId>>,
    ends: AtomicBool,
}

impl Load {
    fn so_far(&self) -> BTreeSet<EnvelopeId> {
        self.accepted.lock().expect("whole").clone()
    }

    /// Waits for so many more.
    async fn more(&self, count: usize) {
        let enough = self.so_far().len() + count;
        eventually("more is accepted", async || self.so_far().len() >= enough).await;
    }
}

/// Every second letter has a large file.
async fn send(ministry: Arc<Ministry>, load: Arc<Load>) -> anyhow::Result<()> {
    let mut number = 0_u64;
    while !load.ends.load(Ordering::SeqCst) {
        number += 1;
        let size = if number.is_multiple_of(2) { LARGE } else { 100 };
        let file = number.to_le_bytes().repeat(size / 8);
        let letter = Outgoing::new(ministry.agency(), "V/v sao lưu").bytes("Công văn.pdf", file);
        let sent = ministry.send(letter.to(code("H53"))).await?;
        load.accepted.lock().expect("whole").insert(sent.envelope_id);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_is_restored_from_a_backup_made_under_load() -> anyhow::Result<()> {
    let (mut hub, target) = (HubProcess::start().await?, tempfile::tempdir()?);
    let backup = target.path().join("backup");
    let sender = Arc::new(hub.ministry("vpcp", &["G22"]).await?);
    let recipient = hub.ministry("tay-ninh", &["H53"]).await?;
    let load = Arc::new(Load::default());
    let sending = tokio::spawn(send(sender.clone(), load.clone()));
    load.more(8).await;
    let mut deliveries = recipient.client.receive(ReceiveOptions::following()).await?;
    for _ in 0..3 {
        recipient.next(&mut deliveries).await?.ack("").await?;
    }
    drop(deliveries);

    let first = hub.back_up(&backup)?;
    load.more(4).await;
    let before = load.so_far();
    let second = hub.back_up(&backup)?;
    let [copied, whole] = ["copied_bytes", "bytes"].map(|name| second[name].as_u64().unwrap_or_default());
    assert!(second["run"] == 2 && copied < whole - first["bytes"].as_u64().context("bytes")? / 2, "{second}");
    let status = hub.command(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(status["last_backup_records"], second["records"]);
    load.more(4).await;
    load.ends.store(true, Ordering::SeqCst);
    sending.await??;
    no_private_key(&backup)?;
    let said = hub.command(&["backup", backup.to_str().context("a path")?, "--verify"])?;
    assert!(said.contains("all is well"), "{said}");

    let old = hub.lose_and_restore(&backup)?;
    assert_ne!(old.origin(), hub.verifier().origin());
    let again = hub.command(&["restore", backup.to_str().context("a path")?, "--new-key"]);
    assert!(again.is_err_and(|error| error.to_string().contains("exists and is not empty")));

    hub.resume().await?;
    let queues = hub.admin().await?.list_queues(ListQueuesRequest {}).await?.into_inner().queues;
    let waiting: u64 = queues.iter().map(|queue| queue.waiting).sum();
    let size = second["records"].as_u64().context("a size")?;
    let raw = Raw::at(recipient.home(), "H53").await?;
    the_new_log_continues_the_old_one(&raw, &old, &hub.verifier(), size).await?;
    // what came before verifies with the old key
    let mut evidence = EvidenceServiceClient::new(raw.channel.clone());
    let accepted = accepted_in(&hub.path())?;
    let (_, sequence) = accepted.first().context("an envelope")?;
    let mut evidence_of_sender =
        EvidenceServiceClient::new(Raw::at(sender.home(), "G22").await?.channel.clone());
    let request = GetReceiptRequest { sequence: *sequence, ..GetReceiptRequest::default() };
    let shown = evidence_of_sender.get_receipt(request).await?.into_inner().receipt.context("a receipt")?;
    receipt::verify(&shown, &old)?;
    assert!(receipt::verify(&shown, &hub.verifier()).is_err());
    let head = evidence.get_checkpoint(axis_proto::hub::v1::GetCheckpointRequest {}).await?.into_inner();
    hub.verifier().verify(&head.checkpoint)?;

    let held: BTreeSet<_> = accepted.into_iter().map(|(id, _)| id).collect();
    let lost: Vec<_> = before.difference(&held).collect();
    assert!(lost.is_empty(), "accepted before the backup and lost: {lost:?}");
    assert!(waiting as usize + 3 >= before.len(), "{waiting} of {} wait", before.len());
    let report = hub.finish().await?;
    assert_eq!(report.counts.envelopes as usize, held.len());
    assert!(report.documents > 0);
    Ok(())
}

/// What `GetInfo` shows of the succession, and the proof that the old tree is
/// a prefix of the new one.
async fn the_new_log_continues_the_old_one(
    raw: &Raw,
    old: &CheckpointVerifier,
    new: &CheckpointVerifier,
    size: u64,
) -> anyhow::Result<()> {
    let info = HubServiceClient::new(raw.channel.clone()).get_info(GetInfoRequest {}).await?.into_inner();
    assert_eq!(info.log_verifier_key, new.verifier_key());
    let [shown] = &info.log_successions[..] else { panic!("{:?}", info.log_successions) };
    let found = succession::verify(&shown.note, old)?;
    assert_eq!((found.previous_size, &found.log), (size, new));
    let opened = receipt::verify(shown.receipt.as_ref().context("a receipt")?, new)?;
    assert_eq!(opened.index, size);
    let Some(Event::LogOpened(event)) = opened.record.event else { panic!("it opens a log") };
    assert_eq!(event.previous_root, found.previous_root[..]);
    let now = opened.checkpoint;
    let request = GetConsistencyRequest { old_size: size, new_size: now.size };
    let mut evidence = EvidenceServiceClient::new(raw.channel.clone());
    let hashes = evidence.get_consistency(request).await?.into_inner().hashes;
    let hashes: Vec<Hash> = hashes.iter().filter_map(|hash| hash.as_ref().try_into().ok()).collect();
    assert!(verify_consistency(size, now.size, &found.previous_root, &now.root, &hashes));
    Ok(())
}

/// The envelopes of a hub's journal, with their sequences.
fn accepted_in(hub: &Path) -> anyhow::Result<Vec<(EnvelopeId, u64)>> {
    let mut accepted = Vec::new();
    segments::verify(&*RealDisk::shared(), &hub.join("data/journal"), &mut |batch| {
        for entry in batch.entries {
            let record = Record::decode(entry.record).expect("a record");
            if let Some(Event::Accepted(event)) = record.event {
                accepted.push((EnvelopeId::from_slice(&event.envelope_id).expect("an id"), entry.sequence));
            }
        }
    })?;
    Ok(accepted)
}

fn no_private_key(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            no_private_key(&path)?;
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let found = bytes.windows(11).any(|part| part == b"PRIVATE KEY");
        assert!(!found, "{} holds a private key", path.display());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_its_hub() -> anyhow::Result<()> {
    let (mut hub, target) = (TestHub::start().await?, tempfile::tempdir()?);
    let sender = hub.ministry("vpcp", &["G22"]).await?;
    let _recipient = hub.ministry("tay-ninh", &["H53"]).await?;
    let file = vec![7; LARGE];
    let letter = Outgoing::new(sender.agency(), "V/v lưu trữ").bytes("a.pdf", file).to(code("H53"));
    let sent = sender.send(letter).await?;
    hub.stop().await;
    let old = hub.verifier();
    let path = |name: &str| target.path().join(name).display().to_string();

    // made while it does not run
    let (backup, new, copy) = (path("backup"), path("new"), path("copy"));
    run_hub(&hub.path(), &["backup", &backup])?;

    // with no key at all: only the new log's word
    let key = run_hub(Path::new(&new), &["restore", &backup, "--new-key"])?;
    let verifier = CheckpointVerifier::parse(key.trim())?;
    axis_tests::check(Path::new(&new), verifier)?;
    assert_eq!(accepted_in(Path::new(&new))?[0].0, sent.envelope_id);
    assert!(run_hub(Path::new(&new), &["fsck"])?.contains("all is well"));
    let logs = axis_hub::journal::logs(&*RealDisk::shared(), &Path::new(&new).join("data/journal"))?;
    let note = logs[1].succession.as_deref().context("a note")?;
    succession::read(note)?;
    let unsigned = succession::verify(note, &old).expect_err("the old log did not sign");
    assert_eq!(unsigned.name(), "UNSIGNED_BY_PREVIOUS");

    // from an old copy of the directory, with its keys
    let keys = hub.path().join("keys").display().to_string();
    let original = hub.path().display().to_string();
    let key = run_hub(Path::new(&copy), &["restore", &original, "--keys", &keys])?;
    axis_tests::check(Path::new(&copy), CheckpointVerifier::parse(key.trim())?)?;
    let other = path("other");
    let keys_of_new = Path::new(&new).join("keys").display().to_string();
    let error = run_hub(Path::new(&other), &["restore", &backup, "--keys", &keys_of_new]).expect_err("no");
    assert!(error.to_string().contains("is not the key of log"), "{error}");
    assert!(!Path::new(&other).exists(), "nothing was made");

    // damage is named, and its exit code says so
    let object = walk(&target.path().join("backup/vault/objects"))?.context("a document")?;
    let mut bytes = std::fs::read(&object)?;
    bytes[5] ^= 1;
    std::fs::write(&object, bytes)?;
    let output = Command::new(axis_tests::binary("axis-hub")?)
        .args(["backup", &backup, "--verify", "--lang", "en"])
        .output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains(&*object.to_string_lossy()), "{words}");
    assert_eq!(output.status.code(), Some(4), "{words}");
    hub.finish().await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_erased_while_a_backup_is_made() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let gate = &hub.hub().context().gate;
    let ask = async |requests: tokio::sync::mpsc::Receiver<BackupRequest>| {
        anyhow::Ok(hub.admin().await?.backup(ReceiverStream::new(requests)).await?.into_inner())
    };
    let (first, requests) = tokio::sync::mpsc::channel(2);
    first.send(BackupRequest { made: None }).await?;
    let mut answers = ask(requests).await?;
    let head = answers.message().await?.context("a head")?;
    let signed = hub.verifier().verify(&head.checkpoint)?;
    assert_eq!((signed.size, head.log_verifier_key), (head.size, hub.verifier().verifier_key()));
    assert!(gate.step().is_none());
    let (second, requests) = tokio::sync::mpsc::channel(2);
    second.send(BackupRequest { made: None }).await?;
    assert!(ask(requests).await.is_err(), "one at a time");

    let made = BackupMade { directory: "/srv/backup".into(), size: head.size, ..BackupMade::default() };
    first.send(BackupRequest { made: Some(made) }).await?;
    answers.message().await?.context("it is noted")?;
    assert!(gate.step().is_some());
    let status = hub.hub().context().observe.status();
    assert_eq!((status.last_backup_records, status.last_backup_unix_ms > 0), (head.size, true));

    // one that is given up holds nothing
    let (third, requests) = tokio::sync::mpsc::channel(2);
    third.send(BackupRequest { made: None }).await?;
    let answers = ask(requests).await?;
    assert!(gate.step().is_none());
    drop((third, answers));
    eventually("the gate is open", async || gate.step().is_some()).await;
    hub.finish().await?;
    Ok(())
}

/// The first file below a folder.
fn walk(folder: &Path) -> anyhow::Result<Option<std::path::PathBuf>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            false => return Ok(Some(path)),
            true => {
                if let Some(found) = walk(&path)? {
                    return Ok(Some(found));
                }
            }
        }
    }
    Ok(None)
}
