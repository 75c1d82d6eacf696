//! The disk runs full: new documents are refused in time, everything else
//! goes on, and what was answered is there after the very end.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use axis_client::ReceiveOptions;
use axis_proto::{
    admin::v1::{ChangeDirectoryRequest, GetStatusRequest, admin_service_client::AdminServiceClient},
    envelope::v1::RejectionReason,
    hub::v1::{Reason, SubmitRequest, UploadRequest, UploadStart, upload_request::Part},
    id::Digest,
    record::v1::{Agency, AgencyState, DirectoryEntry, directory_entry::Value},
};
use axis_tests::{HubProcess, Load, Lost, Ministry, Raw, eventually, refusal_of};
use bytes::Bytes;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::Place;

const MIB: u64 = 1024 * 1024;
const DISK_BYTES: u64 = 1200 * MIB;

/// A file that takes room away and gives it back.
struct Ballast(PathBuf);

impl Ballast {
    /// Leaves so much free on the file system of a directory.
    fn leaving(dir: &Path, free: u64) -> anyhow::Result<Self> {
        let path = dir.join("ballast");
        let space = free_bytes(dir)?;
        let bytes = space.checked_sub(free).with_context(|| format!("only {space} bytes are free"))?;
        let status = Command::new("fallocate").args(["-l", &bytes.to_string()]).arg(&path).status()?;
        anyhow::ensure!(status.success(), "fallocate: {status}");
        Ok(Self(path))
    }

    /// Gives a part of it back at once.
    fn give(&self, bytes: u64) -> anyhow::Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(&self.0)?;
        let held = file.metadata()?.len();
        Ok(file.set_len(held.checked_sub(bytes).context("more than it holds")?)?)
    }

    fn go(self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.0)?)
    }
}

fn free_bytes(dir: &Path) -> anyhow::Result<u64> {
    use axis_hub::disk::{Disk as _, RealDisk};
    Ok(RealDisk.space(dir)?.free_bytes)
}

/// Whether the hub says that its disk is nearly full, if it says anything.
async fn is_nearly_full(admin: &mut AdminServiceClient<Channel>) -> Option<bool> {
    let status = admin.get_status(GetStatusRequest {}).await.ok()?.into_inner();
    Some(status.not_ready_because.contains("nearly full"))
}

fn is_full(status: &Status) -> bool {
    let delay = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    refusal_of(status).0 == Some(Reason::DiskFull) && delay.is_some_and(|delay| !delay.is_zero())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices; run tests/power"]
async fn full_a_disk_nearly_full_takes_no_new_documents_and_delivers_on() -> anyhow::Result<()> {
    let place = Place::make(DISK_BYTES)?;
    let mut hub = HubProcess::start_in(Some(&place.hub()), &[]).await?;
    let sender = hub.ministry("vpcp", &["G22"]).await?;
    let recipient = hub.ministry("byt", &["G18"]).await?;
    for number in 0..6 {
        sender.send(sender.letter(&["G18"], &format!("Văn bản {number}"))).await?;
    }
    let raw = Raw::at(sender.home(), "G22").await?;
    let submit = async || {
        let file = b"a new document";
        let envelope = Some(raw.seal(&raw.envelope("G18", file)));
        let request = SubmitRequest { sealed_envelope: envelope, documents: vec![Bytes::from_static(file)] };
        raw.submission().submit(request).await.map(drop)
    };
    submit().await.context("there is room")?;
    let mut admin = hub.admin().await?;

    let ballast = Ballast::leaving(&place.device.path(), 500 * MIB)?;
    eventually("the hub has seen it", async || is_nearly_full(&mut admin).await == Some(true)).await;
    let refused = submit().await.expect_err("the disk is nearly full");
    assert!(is_full(&refused), "{refused:?}");
    let bytes = Bytes::from(vec![5; 100_000]);
    let sha256 = Bytes::copy_from_slice(Digest::of(&bytes).as_bytes());
    let parts = [
        Part::Start(UploadStart { sha256, size: bytes.len() as u64, offset: 0 }),
        Part::Chunk(bytes.clone()),
    ];
    let parts = parts.map(|part| UploadRequest { part: Some(part) });
    let refused = raw.submission().upload(tokio_stream::iter(parts)).await.expect_err("nearly full");
    assert!(is_full(&refused), "{refused:?}");

    // leases, acknowledgements and rejections go on
    let mut deliveries = recipient.client.receive(ReceiveOptions::following()).await?;
    for number in 0..6 {
        let received = recipient.next(&mut deliveries).await?;
        match number % 2 {
            0 => received.ack("").await.map(drop)?,
            _ => received.reject(RejectionReason::NotCompetent, "Không thuộc thẩm quyền").await.map(drop)?,
        }
    }
    ballast.go()?;
    eventually("there is room again", async || submit().await.is_ok()).await;
    let received = recipient.next(&mut deliveries).await?;
    received.ack("").await?;
    drop(deliveries);
    hub.terminate().await?;
    hub.check()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices; run tests/power"]
async fn full_fast_uploads_of_many_systems_do_not_outrun_the_mark() -> anyhow::Result<()> {
    let place = Place::make(DISK_BYTES)?;
    let mut hub = HubProcess::start_in(Some(&place.hub()), &[]).await?;
    let mut systems = Vec::new();
    for code in ["G01", "G02", "G03", "G04"] {
        systems.push(hub.ministry(&code.to_lowercase(), &[code]).await?);
    }
    // 100 MiB of room, which the hub has seen, since it counts its own bytes
    // alone between two looks; and 360 MiB on their way that each find it free
    let low = axis_hub::limits::DISK_LOW_BYTES;
    let ballast = Ballast::leaving(&place.device.path(), low - 100 * MIB)?;
    let mut admin = hub.admin().await?;
    eventually("the hub has seen it", async || is_nearly_full(&mut admin).await == Some(true)).await;
    ballast.give(200 * MIB)?;
    eventually("there is room again", async || is_nearly_full(&mut admin).await == Some(false)).await;
    let uploads = systems.iter().zip(0u8..).map(|(system, number): (&Ministry, u8)| async move {
        let raw = Raw::at(system.home(), "G01").await?;
        let sha256 = Bytes::copy_from_slice(Digest::of(&[number]).as_bytes());
        let start = Part::Start(UploadStart { sha256, size: 90 * MIB, offset: 0 });
        let chunk = Bytes::from(vec![number; 1 << 20]);
        let parts = std::iter::once(start).chain((0..90).map(move |_| Part::Chunk(chunk.clone())));
        let parts = parts.map(|part| UploadRequest { part: Some(part) });
        // one may find room for all of it, and is not what its digest says then
        let refused = raw.submission().upload(tokio_stream::iter(parts)).await.expect_err("refused");
        anyhow::Ok(is_full(&refused))
    });
    let full = futures_util::future::try_join_all(uploads).await?;
    assert!(full.iter().filter(|full| **full).count() >= 3, "{full:?}");
    let free = free_bytes(&place.device.path())?;
    println!("free after 360 MiB of uploads met 100 MiB of room: {} MiB", free / MIB);
    assert!(free > low - 20 * MIB, "the mark is passed by {} MiB", (low - free) / MIB);
    ballast.go()?;
    hub.terminate().await?;
    hub.check()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices; run tests/power"]
async fn full_to_the_last_byte_the_hub_stops_and_has_lost_nothing() -> anyhow::Result<()> {
    let place = Place::make(DISK_BYTES)?;
    let mut hub = HubProcess::start_in(Some(&place.hub()), &[]).await?;
    let mut load = Load::start(&hub).await?;
    load.answered(50).await?;
    // what the journal has ahead is used up by records that change the same
    // few keys, so that nothing but the journal needs room
    let ballast = Ballast::leaving(&place.device.path(), 2 * MIB)?;
    let admin = hub.admin().await?;
    let filling = (0..8).map(|place: usize| {
        let mut admin = admin.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let agency = |code: usize| Agency {
                    code: format!("X{place:02}.{code:02}"),
                    name: format!("Cơ quan {number}"),
                    state: AgencyState::Active.into(),
                    ..Agency::default()
                };
                let entry = |code| DirectoryEntry { value: Some(Value::Agency(agency(code))) };
                let entries = (0..90).map(entry).collect();
                let request = ChangeDirectoryRequest { entries, remark: String::new() };
                if admin.change_directory(request).await.is_err() {
                    return number;
                }
            }
            0
        })
    });
    let filling: Vec<tokio::task::JoinHandle<u32>> = filling.collect();
    let status = hub.ended().await?;
    let mut changes = 0;
    for one in filling {
        changes += one.await?;
    }
    println!("full after {changes} changes");
    let log = hub.log_end();
    assert_eq!(status.code(), Some(1), "{status}: {log}");
    assert!(log.contains("the journal did not take a batch") && log.contains("No space left"), "{log}");
    assert_eq!(load.lost(&hub.path().join("data"))?, Lost::default());

    // no room, no hub; with room it goes on where it stopped
    let without = hub.resume().await;
    println!("started again without room: {}", without.is_ok());
    hub.kill()?;
    assert_eq!(load.lost(&hub.path().join("data"))?, Lost::default());
    ballast.go()?;
    hub.resume().await?;
    load.answered(50).await?;
    let told = load.settle(&hub).await?;
    hub.terminate().await?;
    assert_eq!(told.lost(&hub.path().join("data"))?, Lost::default());
    let report = hub.finish().await?;
    assert_eq!(report.counts.deliveries, report.counts.settled);
    Ok(())
}
