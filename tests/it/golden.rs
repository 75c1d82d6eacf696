//! What earlier releases left on disk: replayed to the state that they had,
//! and opened by a hub of today, which hands out what waited.
//!
//! `golden/<release>/` is made once, by the release itself, with
//! `AXIS_BLESS=0.1.0 cargo test -p axis-tests --test it golden -- --ignored`,
//! and never changed. Its keys were made for it and are nobody's.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use axis_client::ReceiveOptions;
use axis_hub::{
    clock::Clock,
    commit,
    config::Config,
    disk::RealDisk,
    hub::Hub,
    journal::segments,
    limits::MINUTE_MS,
    machine::{self, Command, query},
    state::{self, Changes, Draft, State, memory::MemoryState, read_once},
};
use axis_proto::{
    admin::v1::RequestPurgeRequest, envelope::v1::RejectionReason, id::DeliveryId, note::CheckpointVerifier,
};
use axis_tests::{TestHub, check, copy, eventually};
use bytes::Bytes;
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
    drop(context);
    hub.stop().await;
    let report = check(&dir, verifier)?;
    assert!(report.counts.records > found.records && report.documents > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes the golden journal of this release: AXIS_BLESS=0.1.0"]
async fn make() -> anyhow::Result<()> {
    let release = golden().join(std::env::var("AXIS_BLESS").context("AXIS_BLESS names the release")?);
    let mut hub = TestHub::start_with(Clock::manual(Clock::system().now_ms())).await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let tayninh = hub.ministry("tayninh", &["H53"]).await?;
    let mut admin = hub.admin().await?;
    axis_tests::admin::add_everyone(&mut admin, "tat-ca").await?;

    // taken and acknowledged, rejected, put off and taken again
    for number in 0..4 {
        vpcp.send(vpcp.letter(&["G18", "H53"], &format!("Văn bản {number}"))).await?;
    }
    let mut deliveries = byt.client.receive(ReceiveOptions::following()).await?;
    for number in 0..4 {
        let received = byt.next(&mut deliveries).await?;
        match number {
            0 | 1 => received.ack("Số đến 12").await.map(drop)?,
            2 => received.reject(RejectionReason::NotCompetent, "Không thuộc thẩm quyền").await.map(drop)?,
            _ => received.nack(Some(Duration::from_secs(1))).await.map(drop)?,
        }
    }
    hub.clock().advance(10_000);
    byt.next(&mut deliveries).await?.ack("").await?;
    drop(deliveries);

    // a spill that two people purged
    let spilt = vpcp.send(vpcp.letter(&["H53"], "Gửi nhầm")).await?;
    let request = RequestPurgeRequest {
        sender: "G22".into(),
        envelope_id: Bytes::copy_from_slice(spilt.envelope_id.as_bytes()),
        remark: "gửi nhầm".into(),
    };
    admin.request_purge(request).await?;
    let context = hub.hub().context().clone();
    let agree = Command::ConfirmPurge { envelope_sequence: spilt.sequence, operator: "local:bình".into() };
    context.committer.commit(agree).await?;

    // what waits, with a document of the vault
    let mut random = fastrand::Rng::with_seed(1);
    let file: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(70_000).collect();
    let document = axis_proto::id::Digest::of(&file);
    let sent = vpcp.send(vpcp.letter(&["H53"], "Còn chờ").bytes("Phụ lục.bin", file)).await?;
    let id = DeliveryId { envelope_sequence: sent.sequence, recipient_index: 0 };
    let tayninh_id = "tayninh".parse()?;
    eventually("it waits", async || {
        context.read(|read| query::mailbox(read, &tayninh_id)).waiting > 0 && {
            context.read(|read| query::delivery(read, &id)).is_some_and(|row| row.mailbox_sequence > 0)
        }
    })
    .await;
    let now_unix_ms = hub.clock().now_ms();
    drop((context, tayninh));
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
        "waiting": [{ "system": "tayninh", "delivery_id": id.to_string(), "document": document.to_string() }],
    });
    std::fs::write(release.join("golden.json"), format!("{said:#}\n"))?;
    hub.finish().await?;
    Ok(())
}

const LISTEN: &str =
    "\n[listen]\nsystems = \"127.0.0.1:0\"\nenrolment = \"127.0.0.1:0\"\noperators = \"127.0.0.1:0\"\n";
