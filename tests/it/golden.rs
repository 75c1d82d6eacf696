//! What earlier releases left on disk: replayed to the state that they had,
//! and opened by a hub of today, which hands out what waited.
//!
//! `golden/<release>/` is made once, by the release itself, with
//! `AXIS_BLESS=0.1.0 cargo test -p axis-tests --test it golden -- --ignored`,
//! and never changed but for the state of a later layout; `0.1.0-moves` is what the
//! same one left once agencies took along what waits, `0.1.0-at-once` once what few
//! are to see was accepted and consigned in one record. Their keys were made for
//! them and are nobody's.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use axis_client::ReceiveOptions;
use axis_hub::{
    clock::Clock,
    commit,
    config::{Config, Retention},
    disk::RealDisk,
    hub::Hub,
    journal::segments,
    limits::{ATTEMPTS_MAX, DAY_MS, DOCUMENT_GRACE_MS, MINUTE_MS},
    machine::{self, Command, query},
    state::{self, Changes, Draft, State, memory::MemoryState, read_once},
};
use axis_proto::{
    admin::v1::RequestPurgeRequest,
    envelope::v1::RejectionReason,
    hub::v1::SubmitRequest,
    id::{DeliveryId, Digest, SystemId},
    note::CheckpointVerifier,
    record::v1::{DirectoryEntry, directory_entry::Value},
};
use axis_tests::{Raw, TestHub, check, copy, eventually};
use bytes::Bytes;
use prost::encoding::{self, DecodeContext};
use serde_json::json;

/// What a release says of what it left.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    records: u64,
    root: String,
    layout_version: u64,
    state_sha256: String,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Replays a journal as a rebuild does.
fn replayed(data: &Path) -> anyhow::Result<(Said, MemoryState)> {
    let journal = segments::open_read_only(RealDisk::shared(), &data.join("journal"))?;
    let whole = MemoryState::new();
    let mut root = [0; 32];
    journal.replay(0, &mut |batch| {
        let (mut changes, mut outcome) = (Changes::new(), Ok(()));
        whole.read(&mut |read| {
            let mut draft = Draft::new(read);
            outcome = batch.entries.iter().try_for_each(|entry| commit::replay(&mut draft, entry));
            changes = draft.into_changes();
        });
        outcome?;
        whole.publish(changes, batch.commit.size);
        root = batch.commit.root;
        Ok(ControlFlow::Continue(()))
    })?;
    let said = Said {
        records: journal.size(),
        root: hex::encode(root),
        layout_version: machine::LAYOUT_VERSION.into(),
        state_sha256: hex::encode(read_once(&whole, state::digest)),
    };
    Ok((said, whole))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_earlier_releases_left_is_read_and_goes_on() -> anyhow::Result<()> {
    let mut releases = 0;
    for release in std::fs::read_dir(golden())? {
        let release = release?.path();
        opened(&release).await.with_context(|| release.display().to_string())?;
        releases += 1;
    }
    assert!(releases > 0);
    Ok(())
}

async fn opened(release: &Path) -> anyhow::Result<()> {
    let said: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(release.join("golden.json"))?)?;
    let (number, text) = (
        |key: &str| said[key].as_u64().context("a number"),
        |key: &str| said[key].as_str().map(str::to_owned).context("a text"),
    );
    let (found, whole) = replayed(&release.join("data"))?;
    assert_eq!((found.records, &found.root), (number("records")?, &text("root")?));
    if found.layout_version == number("layout_version")? {
        assert_eq!(
            found.state_sha256,
            text("state_sha256")?,
            "the same journal gives another state than it did, in the same layout. If a rule of the machine \
             changed, old journals must keep the old one; if rows look otherwise, raise LAYOUT_VERSION"
        );
    } else {
        println!(
            "{}: layout {} then, {} now: its state is {} now; add that to golden.json with the layout",
            release.display(),
            number("layout_version")?,
            found.layout_version,
            found.state_sha256
        );
    }
    drop(whole);

    // a copy, because the hub writes; at the time when the release left it
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("hub");
    copy(release, &dir)?;
    std::fs::remove_file(dir.join("golden.json"))?;
    let verifier = CheckpointVerifier::parse(&text("log_verifier_key")?)?;
    let hub = Hub::start(Config::load(&dir)?, Clock::manual(number("now_unix_ms")? + MINUTE_MS)).await?;
    let context = hub.context().clone();
    for waiting in said["waiting"].as_array().context("a list")? {
        let part = |key: &str| waiting[key].as_str().context("a text");
        let id: DeliveryId = part("delivery_id")?.parse()?;
        let lease =
            Command::Lease { system: part("system")?.parse()?, deliveries: vec![id], duration_ms: MINUTE_MS };
        let outcome = context.committer.commit(lease).await?;
        assert!(outcome.sequence().is_some(), "{id} is not leased: {outcome:?}");
        let document = context.vault.open_document(&part("document")?.parse()?)?;
        tokio::task::spawn_blocking(move || document.verify()).await??;
    }
    for upload in said["uploads"].as_array().context("a list")? {
        let part = |key: &str| upload[key].as_str().context("a text");
        let number = |key: &str| upload[key].as_u64().context("a number");
        let stands =
            context.vault.committed(&part("system")?.parse()?, &part("sha256")?.parse()?, number("size")?)?;
        assert_eq!(stands, number("committed")?, "{upload}");
    }
    drop(context);
    hub.stop().await;
    let report = check(&dir, verifier)?;
    assert!(report.counts.records > found.records && report.documents > 0);
    Ok(())
}

#[test]
fn every_kind_of_record_occurs() -> anyhow::Result<()> {
    let proto = std::fs::read_to_string(golden().join("../../proto/axis/record/v1/record.proto"))?;
    let events =
        proto.split_once("oneof event {").context("events")?.1.split_once('}').context("their end")?.0;
    let mut kinds: BTreeMap<u32, &str> = events
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = "))
        .map(|(kind, number)| Ok((number.parse()?, kind)))
        .collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(kinds.len() > 25, "{kinds:?}");
    let mut logs = 0;
    for release in std::fs::read_dir(golden())? {
        let journal = segments::open_read_only(RealDisk::shared(), &release?.path().join("data/journal"))?;
        journal.replay(0, &mut |batch| {
            for entry in &batch.entries {
                let kind = kind_of(entry.record.clone())?;
                kinds.remove(&kind);
                logs = logs.max(u32::from(kind == LOG_OPENED && entry.sequence > 0));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    assert!(kinds.is_empty(), "no release left a record of these: {kinds:?}; let `make` make one of each");
    assert_eq!(logs, 1, "none was restored");
    Ok(())
}

const LOG_OPENED: u32 = 10;

/// The last field of a record: which event it is, whether we know it or not.
fn kind_of(mut record: Bytes) -> std::io::Result<u32> {
    let mut last = 0;
    while !record.is_empty() {
        let (field, wire) = encoding::decode_key(&mut record)?;
        encoding::skip_field(wire, field, &mut record, DecodeContext::default())?;
        last = field;
    }
    Ok(last)
}

/// Everything that can happen to an envelope, and to a hub.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes the golden journal of this release: AXIS_BLESS=0.1.0"]
async fn make() -> anyhow::Result<()> {
    let release = golden().join(std::env::var("AXIS_BLESS").context("AXIS_BLESS names the release")?);
    let short = |config: &mut Config| {
        config.retention = Retention { cargo_days: 1, summary_days: 61, feed_days: 30 };
    };
    let mut hub = TestHub::start_changed(Clock::manual(Clock::system().now_ms()), short).await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let tayninh = hub.ministry("tayninh", &["H53", "H57"]).await?;
    let mut admin = hub.admin().await?;
    axis_tests::admin::add_everyone(&mut admin, "tat-ca").await?;
    let context = hub.hub().context().clone();
    let [byt_id, tayninh_id]: [SystemId; 2] = ["byt".parse()?, "tayninh".parse()?];
    let kept = |id: DeliveryId| context.read(|read| query::delivery(read, &id)).is_some();

    // out of attempts: one goes back into the queue, one to its sender
    for end in ["Xếp lại", "Trả lại"] {
        let sent = vpcp.send(vpcp.letter(&["G18"], end)).await?;
        let delivery = DeliveryId { envelope_sequence: sent.sequence, recipient_index: 0 };
        eventually("it waits", async || {
            context.read(|read| query::delivery(read, &delivery)).is_some_and(|row| row.mailbox_sequence > 0)
        })
        .await;
        for attempt in 1..=ATTEMPTS_MAX {
            let (system, deliveries) = (byt_id.clone(), vec![delivery]);
            let lease = Command::Lease { system, deliveries, duration_ms: MINUTE_MS };
            anyhow::ensure!(context.committer.commit(lease).await?.sequence().is_some(), "not ready");
            let nack = Command::Nack { system: byt_id.clone(), delivery, attempt, delay_ms: 1 };
            context.committer.commit(nack).await?;
            hub.clock().advance(2);
        }
        let (operator, remark) = ("local:an".to_owned(), "thử lại".to_owned());
        let command = match end {
            "Xếp lại" => Command::Requeue { delivery, operator, remark },
            _ => Command::Return { delivery, operator, remark },
        };
        context.committer.commit(command).await?;
    }

    // taken for longer and acknowledged, rejected, put off and taken again; one with a document of the vault
    let large = |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        let file: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(70_000).collect();
        Bytes::from(file)
    };
    for number in 0..4 {
        let letter = vpcp.letter(&["G18", "H53"], &format!("Văn bản {number}"));
        vpcp.send(letter).await?;
    }
    let with_file = vpcp.send(vpcp.letter(&["G18"], "Tệp lớn").bytes("Phụ lục.bin", large(2))).await?;
    let mut deliveries = byt.client.receive(ReceiveOptions::following()).await?;
    for number in 0..6 {
        let received = byt.next(&mut deliveries).await?;
        match number {
            0 => {
                received.extend(Duration::from_secs(120)).await?;
                received.ack("Số đến 12").await.map(drop)?;
            }
            2 => received.reject(RejectionReason::NotCompetent, "Không thuộc thẩm quyền").await.map(drop)?,
            3 => received.nack(Some(Duration::from_secs(1))).await.map(drop)?,
            _ => received.ack("").await.map(drop)?,
        }
    }
    hub.clock().advance(10_000);
    byt.next(&mut deliveries).await?.ack("").await?;
    drop(deliveries);

    // an agency goes to another system, and takes along what waits
    let moving = vpcp.send(vpcp.letter(&["H57"], "Chuyển hệ thống")).await?;
    let mut agency = context.read(|read| query::agency(read, "H57")).context("an agency")?;
    agency.system = "byt".into();
    let entries = vec![DirectoryEntry { value: Some(Value::Agency(agency)) }];
    let change = Command::ChangeDirectory { entries, actor: "local:an".into(), remark: String::new() };
    context.committer.commit(change).await?;
    let mut deliveries = byt.client.receive(ReceiveOptions::following()).await?;
    let moved = byt.next(&mut deliveries).await?;
    anyhow::ensure!(moved.envelope_id() == &moving.envelope_id, "another one");
    moved.ack("").await?;
    drop(deliveries);

    // a spill that two people purged
    let spilt = vpcp.send(vpcp.letter(&["H53"], "Gửi nhầm")).await?;
    let request = RequestPurgeRequest {
        sender: "G22".into(),
        envelope_id: Bytes::copy_from_slice(spilt.envelope_id.as_bytes()),
        remark: "gửi nhầm".into(),
    };
    admin.request_purge(request).await?;
    let asked = context.read(|read| query::purge(read, spilt.sequence)).context("asked for")?.requested_by;
    let (how, _) = asked.split_once(':').context("a name")?;
    let agree = Command::ConfirmPurge { envelope_sequence: spilt.sequence, operator: format!("{how}:bình") };
    context.committer.commit(agree).await?;

    context.committer.commit(Command::ConfirmClock { operator: "local:an".into() }).await?;
    let snapshot =
        Command::SnapshotTaken { applied_sequence: 9, sha256: Digest::of(b"snapshot"), key_count: 9 };
    context.committer.commit(snapshot).await?;

    // what waits to the end, with a document of the vault
    let file = large(1);
    let document = Digest::of(&file);
    let passing = vpcp.send(vpcp.letter(&["G18"], "Hết hạn").bytes("Phụ lục.bin", file.clone())).await?;
    let raw = Raw::at(vpcp.home(), "G22").await?;
    let mut envelope = raw.envelope("H53", &file);
    envelope.expires_unix_ms = envelope.created_unix_ms + 360 * DAY_MS;
    let submit = SubmitRequest { sealed_envelope: Some(raw.seal(&envelope)), documents: Vec::new() };
    let answer = raw.submission().submit(submit).await?.into_inner();
    let verified = axis_proto::receipt::verify(&answer.receipt.context("a receipt")?, &hub.verifier())?;
    let waits = DeliveryId { envelope_sequence: verified.record.sequence, recipient_index: 0 };
    eventually("it waits", async || {
        context.read(|read| query::delivery(read, &waits)).is_some_and(|row| row.mailbox_sequence > 0)
    })
    .await;

    // its deadline passes while a recipient has it, who answers all the same
    let mut deliveries = tayninh.client.receive(ReceiveOptions::following()).await?;
    let late = tayninh.next(&mut deliveries).await?;
    let settled =
        |id: DeliveryId| context.read(|read| query::delivery(read, &id)).is_none_or(|row| row.is_settled());
    hub.clock().advance(28 * DAY_MS);
    eventually("its sender is warned", async || {
        context.read(|read| query::envelope(read, passing.sequence)).is_some_and(|row| row.warn_unix_ms == 0)
    })
    .await;
    hub.clock().advance(3 * DAY_MS);
    eventually("it has expired", async || settled(late.delivery_id())).await;
    late.ack("Số đến 13").await?;
    drop(deliveries);

    // what is over leaves
    context.committer.roll().await?;
    hub.clock().advance(2 * DAY_MS);
    let with_file = DeliveryId { envelope_sequence: with_file.sequence, recipient_index: 0 };
    eventually("it is erased", async || {
        let row = context.read(|read| query::envelope(read, with_file.envelope_sequence));
        row.is_some_and(|row| row.erased_sequence > 0)
    })
    .await;
    let mut done = context.retention.pass().await?;
    hub.clock().advance(DOCUMENT_GRACE_MS);
    done.documents += context.retention.pass().await?.documents;
    anyhow::ensure!(done.documents == 1 && done.feeds > 0, "{done:?}");
    hub.clock().advance(61 * DAY_MS);
    eventually("it is forgotten", async || !kept(with_file)).await;
    drop((context, tayninh));
    hub.stop().await;

    // its disk is lost, and it goes on in another log
    let copied = tempfile::tempdir()?;
    copy(&hub.path(), &copied.path().join("hub"))?;
    hub.restore(&copied.path().join("hub"))?;
    hub.resume().await?;
    axis_tests::admin::add_everyone(&mut hub.admin().await?, "tat-ca-2").await?;
    // an upload that is not whole
    let unfinished = large(3);
    let vault = hub.hub().context().vault.clone();
    let mut upload = vault.begin(&tayninh_id, &Digest::of(&unfinished), unfinished.len() as u64)?;
    upload.append(&unfinished[..UPLOADED])?;
    upload.sync()?;
    drop((upload, vault));
    let now_unix_ms = hub.clock().now_ms();
    hub.stop().await;

    let made = hub.path();
    let _none = std::fs::remove_dir_all(&release);
    copy(&made.join("keys"), &release.join("keys"))?;
    for store in ["journal", "vault"] {
        copy(&made.join("data").join(store), &release.join("data").join(store))?;
    }
    std::fs::write(release.join("hub.toml"), format!("hub_id = \"truc.test\"\n{LISTEN}"))?;
    for segment in std::fs::read_dir(release.join("data/journal"))? {
        // zeros to the end of a segment say nothing
        let path = segment?.path();
        let bytes = std::fs::read(&path)?;
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).max(4_096);
        std::fs::write(&path, &bytes[..end])?;
    }
    let (said, _) = replayed(&release.join("data"))?;
    let said = json!({
        "records": said.records,
        "root": said.root,
        "layout_version": said.layout_version,
        "state_sha256": said.state_sha256,
        "log_verifier_key": hub.verifier_key(),
        "now_unix_ms": now_unix_ms,
        "uploads": [{
            "system": tayninh_id.as_str(),
            "sha256": Digest::of(&unfinished).to_string(),
            "size": unfinished.len(),
            "committed": UPLOADED,
        }],
        "waiting": [{ "system": tayninh_id.as_str(), "delivery_id": waits.to_string(), "document": document.to_string() }],
    });
    std::fs::write(release.join("golden.json"), format!("{said:#}\n"))?;
    hub.finish().await?;
    Ok(())
}

/// Bytes that came of what is not whole.
const UPLOADED: usize = 10_000;

const LISTEN: &str =
    "\n[listen]\nsystems = \"127.0.0.1:0\"\nenrolment = \"127.0.0.1:0\"\noperators = \"127.0.0.1:0\"\n";
