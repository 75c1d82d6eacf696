//! `bench transfers`: large documents in and out at once beside a long queue,
//! and the memory that the hub took for it. The bytes are made as they are
//! sent and thrown away as they come; only the hub keeps them. Fails if the
//! hub took more than it may.

use std::{
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_proto::{
    hub::v1::{
        DownloadRequest, PullRequest, QueryUploadRequest, SubmitRequest, UploadRequest, UploadStart,
        upload_request::Part,
    },
    id::{Digest, Hasher},
};
use axis_tests::{
    HubProcess, Raw,
    seed::{Plan, agency, home},
};
use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;

use crate::report::{Output, Report, Table};

/// Bytes of one chunk of an upload.
const CHUNK: u64 = 512 * 1024;
/// Most bytes of an upload that a killed hub may have to be sent again: a
/// sync's interval, and what was on its way.
const UPLOAD_LOST_MAX: u64 = 16 * 1024 * 1024;

/// What is to be moved.
#[derive(clap::Args)]
pub struct Args {
    /// Envelopes that wait meanwhile
    #[arg(long, default_value_t = 100_000)]
    waiting: u64,
    /// MiB of each document
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    mib: u64,
    /// Documents that come in at once, each from a system of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=8))]
    up: u8,
    /// Documents that go out at the same time, each to a system of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=8))]
    down: u8,
    /// Most MiB that the hub's process may ever have taken
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
    /// Kill the hub when half of the first document is in, and go on
    #[arg(long)]
    kill: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Runs it.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!("Documents of {} MiB beside {} envelopes that wait.", args.mib, args.waiting);
    report.profile("transfers", &about, work_dir.path())?;
    let mut table = Table::new("step");
    let outcome = tokio::runtime::Runtime::new()?.block_on(transfer(args, &mut table));
    report.table(table);
    outcome
}

async fn transfer(args: &Args, table: &mut Table) -> anyhow::Result<()> {
    let size = args.mib << 20;
    let began = Instant::now();
    let plan = Plan { waiting: args.waiting, systems: 16, ..Plan::default() };
    let mut hub = HubProcess::seeded(plan).await?;
    let mut say = |hub: &HubProcess, what: &str, began: Instant, bytes: u64| {
        let took = began.elapsed().as_secs_f64();
        eprintln!("bench: {what}: {took:.1} s");
        let mut figures = vec![("s", took), ("hub's VmHWM MiB", hub.memory_mib("VmHWM:") as f64)];
        if bytes > 0 {
            figures.insert(1, ("MiB/s", bytes as f64 / took / f64::from(1 << 20)));
        }
        table.add(what, figures);
    };
    say(&hub, &format!("{} envelopes wait, the hub made its state", args.waiting), began, 0);

    // those who receive have nothing else in their mailboxes
    let mut receivers = Vec::new();
    for place in 0..args.down {
        let code = format!("T{place:02}");
        let ministry = hub.ministry(&code.to_lowercase(), &[&code]).await?;
        receivers.push((ministry.home().to_owned(), code));
    }
    let first = digest(1, size);
    let mut hwm = 0;
    if args.kill {
        let began = Instant::now();
        let half = size / 2 / CHUNK * CHUNK;
        upload_half(&home(&hub.path(), 15), first, size, half).await?;
        say(&hub, "half of one in", began, half);
        hwm = hub.memory_mib("VmHWM:");
        hub.kill()?;
        let began = Instant::now();
        hub.resume().await?;
        say(&hub, "started again after SIGKILL", began, 0);
    }
    let began = Instant::now();
    let sent = upload(&home(&hub.path(), 15), 15, 1, first, size).await?;
    say(&hub, if args.kill { "the rest of it in, and all of it verified" } else { "one in" }, began, sent);
    anyhow::ensure!(!args.kill || sent <= size / 2 + UPLOAD_LOST_MAX, "{sent} bytes were sent again");
    let codes: Vec<&str> = receivers.iter().map(|(_, code)| code.as_str()).collect();
    send(&home(&hub.path(), 15), &codes, first, size).await?;

    let second = if args.up > 0 { digest(2, size) } else { first };
    let began = Instant::now();
    let mut moving = tokio::task::JoinSet::new();
    for place in 0..usize::from(args.up) {
        let home = home(&hub.path(), place);
        moving.spawn(async move { upload(&home, place, 2, second, size).await.map(drop) });
    }
    for (number, (home, code)) in receivers.into_iter().enumerate() {
        moving.spawn(async move { download(&home, &code, first, size, number == 0).await });
    }
    while let Some(moved) = moving.join_next().await {
        moved??;
    }
    hwm = hwm.max(hub.memory_mib("VmHWM:"));
    let all = size * u64::from(args.up + args.down);
    say(&hub, &format!("{} in and {} out at once, {} MiB each", args.up, args.down, args.mib), began, all);

    hub.kill()?;
    let began = Instant::now();
    hub.resume().await?;
    say(&hub, "started again after SIGKILL, at the end", began, 0);
    hwm = hwm.max(hub.memory_mib("VmHWM:"));
    hub.terminate().await?;
    anyhow::ensure!(hwm > 0, "the system does not say how much memory the hub took");
    anyhow::ensure!(hwm < args.memory_mib, "the hub took {hwm} MiB, {} are allowed", args.memory_mib);
    Ok(())
}

/// A document's bytes from a place that is a multiple of a chunk.
fn chunk(seed: u64, at: u64, size: u64) -> Bytes {
    let mut bytes = vec![0; CHUNK.min(size - at) as usize];
    for (number, block) in bytes.chunks_mut(4_096).enumerate() {
        let mark = (seed << 56 | (at + number as u64)).to_le_bytes();
        let len = mark.len().min(block.len());
        block[..len].copy_from_slice(&mark[..len]);
    }
    bytes.into()
}

fn digest(seed: u64, size: u64) -> Digest {
    let mut hasher = Hasher::new();
    (0..size).step_by(CHUNK as usize).for_each(|at| hasher.update(&chunk(seed, at, size)));
    hasher.digest()
}

/// Uploads what the hub does not have yet; how many bytes that was.
async fn upload(home: &Path, place: usize, seed: u64, sha256: Digest, size: u64) -> anyhow::Result<u64> {
    let raw = Raw::at(home, &agency(place)).await?;
    let offset = committed(&raw, sha256, size).await?;
    let (parts, requests) = tokio::sync::mpsc::channel(2);
    tokio::spawn(feed(parts, seed, sha256, size, offset..size));
    let answer = raw.submission().upload(ReceiverStream::new(requests)).await?.into_inner();
    anyhow::ensure!(answer.complete, "{} of {size} bytes are there", answer.committed_bytes);
    Ok(size - offset)
}

/// Uploads the first bytes of the first document and leaves the call open.
async fn upload_half(home: &Path, sha256: Digest, size: u64, half: u64) -> anyhow::Result<()> {
    let raw = Raw::at(home, &agency(15)).await?;
    let (parts, requests) = tokio::sync::mpsc::channel(2);
    let held = parts.clone();
    let mut submission = raw.submission();
    let call = tokio::spawn(async move { submission.upload(ReceiverStream::new(requests)).await });
    tokio::spawn(feed(parts, 1, sha256, size, 0..half));
    while committed(&raw, sha256, size).await? < half {
        anyhow::ensure!(!call.is_finished(), "the upload ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // the hub is killed before the call is let go
    tokio::spawn(async move { drop((call.await, held)) });
    Ok(())
}

async fn committed(raw: &Raw, sha256: Digest, size: u64) -> anyhow::Result<u64> {
    let query = QueryUploadRequest { sha256: Bytes::copy_from_slice(sha256.as_ref()), size };
    Ok(raw.submission().query_upload(query).await?.into_inner().committed_bytes)
}

/// Feeds a call with a part of a document, which begins at a chunk.
async fn feed(parts: Sender<UploadRequest>, seed: u64, sha256: Digest, size: u64, range: Range<u64>) {
    let sha256 = Bytes::copy_from_slice(sha256.as_ref());
    let mut next = Part::Start(UploadStart { sha256, size, offset: range.start });
    for at in range.step_by(CHUNK as usize) {
        if parts.send(UploadRequest { part: Some(next) }).await.is_err() {
            return;
        }
        next = Part::Chunk(chunk(seed, at, size));
    }
    let _ended = parts.send(UploadRequest { part: Some(next) }).await;
}

async fn send(home: &Path, to: &[&str], sha256: Digest, size: u64) -> anyhow::Result<()> {
    use axis_proto::envelope::v1::{Document, Recipient, envelope::Body};
    let raw = Raw::at(home, &agency(15)).await?;
    let mut envelope = raw.envelope(to[0], b"");
    envelope.recipients = to.iter().map(|code| Recipient { agency: (*code).into(), kind: 1 }).collect();
    if let Some(Body::Document(body)) = &mut envelope.body {
        let sha256 = Bytes::copy_from_slice(sha256.as_ref());
        body.documents = vec![Document { size, sha256, ..body.documents[0].clone() }];
    }
    let request = SubmitRequest { sealed_envelope: Some(raw.seal(&envelope)), ..Default::default() };
    raw.submission().submit(request).await?;
    Ok(())
}

async fn download(home: &Path, code: &str, sha256: Digest, size: u64, check: bool) -> anyhow::Result<()> {
    let raw = Raw::at(home, code).await?;
    let pull = PullRequest { max_wait_ms: 30_000, ..Default::default() };
    let pulled = raw.mailbox().pull(pull).await?.into_inner();
    let delivery = pulled.deliveries.first().with_context(|| format!("nothing came to {code}"))?;
    let request = DownloadRequest {
        delivery_id: delivery.delivery_id.clone(),
        sha256: Bytes::copy_from_slice(sha256.as_ref()),
        ..Default::default()
    };
    let mut chunks = raw.mailbox().download(request).await?.into_inner();
    let (mut came, mut hasher) = (0, Hasher::new());
    while let Some(message) = chunks.message().await? {
        came += message.chunk.len() as u64;
        if check {
            hasher.update(&message.chunk);
        }
    }
    anyhow::ensure!(came == size, "{came} of {size} bytes came");
    anyhow::ensure!(!check || hasher.digest() == sha256, "other bytes came");
    Ok(())
}
