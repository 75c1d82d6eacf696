//! What honest systems notice of hostile ones: their latencies on a real hub,
//! alone and beside each kind of attack. Asserts nothing; `tests/it/hostile.rs`
//! does.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_hub::limits;
use axis_proto::hub::v1::{
    Credit, ReceiveRequest, ReceiveStart, SubmitRequest, SubmitStreamRequest, receive_request::Part as Say,
    receive_response::Part as Heard,
};
use axis_tests::{
    HubProcess, Raw, acknowledge,
    frames::{END_HEADERS, Frames, call, frame, kind},
};
use bytes::Bytes;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    measure::Latencies,
    report::{Common, Report, Table},
};

/// Honest pairs, each sending one letter after the other.
const PAIRS: usize = 4;
const SUBMIT: &str = "/axis.hub.v1.SubmissionService/Submit";

/// How it is run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
}

/// An attack on a hub at an address, with the identity in a home, until told
/// to stop; counts what it got done.
type Attack = fn(Arc<Target>) -> JoinSet<()>;

const ATTACKS: [(&str, Attack); 7] = [
    ("nobody else", |_| JoinSet::new()),
    ("300 handshakes that never end", loris),
    ("a flood of frames that are refused", frames),
    ("32 messages of 2 MiB that never end", endless),
    ("16 streams whose answers nobody reads", unread),
    ("16 streams whose deliveries nobody acknowledges", unacknowledged),
    ("a flood of true submissions, 128 at once", flood),
];

struct Target {
    address: String,
    home: PathBuf,
    stop: AtomicBool,
    done: AtomicU64,
}

impl Target {
    fn goes_on(&self) -> bool {
        self.done.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Runs it on a hub of its own.
///
/// # Errors
/// If an honest system is not served.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!("{PAIRS} honest pairs, each sending one letter after the other.");
    report.profile("hostile", &about, work_dir.path())?;
    let mut table = Table::new("beside");
    for _ in 0..args.common.rounds {
        tokio::runtime::Runtime::new()?.block_on(all(args.common.seconds, &mut table))?;
    }
    report.table(table);
    Ok(())
}

async fn all(seconds: u64, table: &mut Table) -> anyhow::Result<()> {
    let hub = HubProcess::start().await?;
    let hostile = hub.ministry("hostile", &["H99"]).await?;
    let mut pairs = Vec::new();
    for number in 0..PAIRS {
        let (from, to) = (format!("H1{number}"), format!("H2{number}"));
        let sender = hub.ministry(&format!("sender-{number}"), &[&from]).await?;
        let receiver = hub.ministry(&format!("receiver-{number}"), &[&to]).await?;
        pairs.push((Raw::at(sender.home(), &from).await?, Raw::at(receiver.home(), &to).await?));
    }
    let addresses: toml::Table = std::fs::read_to_string(hub.path().join("addresses.toml"))?.parse()?;
    let address = addresses["systems"].as_str().context("an address")?.to_owned();
    let pairs: Vec<_> = pairs.into_iter().map(Arc::new).collect();
    for (situation, attack) in ATTACKS {
        eprintln!("{situation} …");
        let target = Arc::new(Target {
            address: address.clone(),
            home: hostile.home().to_owned(),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
        });
        let mut attackers = attack(target.clone());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut honest = JoinSet::new();
        for pair in &pairs {
            honest.spawn(letters(pair.clone(), Duration::from_secs(seconds)));
        }
        let (mut submitted, mut delivered, mut letters) = (Latencies::default(), Latencies::default(), 0);
        while let Some(found) = honest.join_next().await {
            for (to_receipt, to_recipient) in found?? {
                submitted.record(to_receipt);
                delivered.record(to_recipient);
                letters += 1;
            }
        }
        target.stop.store(true, Ordering::Relaxed);
        attackers.abort_all();
        while attackers.join_next().await.is_some() {}
        let attacks = target.done.load(Ordering::Relaxed);
        let figures = vec![
            ("letters", f64::from(letters)),
            ("submit p50 ms", submitted.ms(50.0)),
            ("submit p99 ms", submitted.ms(99.0)),
            ("delivered p50 ms", delivered.ms(50.0)),
            ("delivered p99 ms", delivered.ms(99.0)),
            ("attacks", attacks as f64),
            ("hub's peak MiB", hub.memory_mib("VmHWM:") as f64),
        ];
        table.add(situation, figures);
    }
    hub.finish().await?;
    Ok(())
}

/// One letter after the other: how long to the receipt, and to the recipient.
async fn letters(pair: Arc<(Raw, Raw)>, time: Duration) -> anyhow::Result<Vec<(Duration, Duration)>> {
    let (sender, receiver) = &*pair;
    let (say, said) = mpsc::channel(8);
    let start = ReceiveStart { accounted_to: 0, credit: 1, lease_duration_ms: 0, ..Default::default() };
    say.send(ReceiveRequest { part: Some(Say::Start(start)) }).await?;
    let mut heard = receiver.mailbox().receive(ReceiverStream::new(said)).await?.into_inner();
    let (mut times, began) = (Vec::new(), Instant::now());
    while began.elapsed() < time {
        let file = Bytes::from_static(b"Kinh gui");
        let sealed_envelope = Some(sender.seal(&sender.envelope(&receiver.agency, &file)));
        let request = SubmitRequest { sealed_envelope, documents: vec![file] };
        let sent = Instant::now();
        sender.submission().submit(request).await?;
        let submitted = sent.elapsed();
        let delivery = loop {
            let message = heard.message().await?.context("the stream ended")?;
            if let Some(Heard::Delivery(delivery)) = message.part {
                break delivery;
            }
        };
        times.push((submitted, sent.elapsed()));
        receiver.mailbox().acknowledge(acknowledge(&receiver.key, &delivery)).await?;
        say.send(ReceiveRequest { part: Some(Say::Credit(Credit { deliveries: 1 })) }).await?;
    }
    Ok(times)
}

/// Connections that begin a handshake and never end it, and again when cut.
fn loris(target: Arc<Target>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..300 {
        let target = target.clone();
        tasks.spawn(async move {
            while target.goes_on() {
                let Ok(mut tcp) = TcpStream::connect(&target.address).await else { return };
                while tcp.write_all(&[22]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        });
    }
    tasks
}

/// Requests that are cancelled at once, on connection after connection.
fn frames(target: Arc<Target>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let target = target.clone();
        tasks.spawn(async move {
            while target.goes_on() {
                let (address, home) = (&target.address, &target.home);
                let Ok(mut frames) = Frames::greet(address, home, Some(home)).await else { continue };
                let headers = call(SUBMIT);
                for number in 0.. {
                    let begin = frame(kind::HEADERS, END_HEADERS, 2 * number + 1, &headers);
                    let cancel = frame(kind::RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes());
                    if !target.goes_on() || frames.raw(&[begin, cancel].concat()).await.is_err() {
                        break;
                    }
                }
            }
        });
    }
    tasks
}

/// Messages of which but the first byte ever comes.
fn endless(target: Arc<Target>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (address, home) = (&target.address, &target.home);
        let Ok(mut frames) = Frames::greet(address, home, Some(home)).await else { return };
        for number in 0..32 {
            target.goes_on();
            let begin = frame(kind::HEADERS, END_HEADERS, 2 * number + 1, &call(SUBMIT));
            let part = frame(kind::DATA, 0, 2 * number + 1, &[0, 0, 0x1f, 0xff, 0xf0, 10]);
            let _closed = frames.raw(&[begin, part].concat()).await;
        }
        while frames.next().await.is_some() {}
    });
    tasks
}

/// Streams of submissions whose answers are never read.
fn unread(target: Arc<Target>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let target = target.clone();
        tasks.spawn(async move {
            let Ok(raw) = Raw::at(&target.home, "H99").await else { return };
            let file = Bytes::from(vec![7; 60_000]);
            let sealed_envelope = Some(raw.seal(&raw.envelope("H99", &file)));
            let submission = SubmitRequest { sealed_envelope, documents: vec![file] };
            while target.goes_on() {
                let (say, said) = mpsc::channel(1);
                let stream = raw.submission().submit_stream(ReceiverStream::new(said)).await;
                let request = || SubmitStreamRequest { tag: 0, submission: Some(submission.clone()) };
                while target.goes_on() && say.send(request()).await.is_ok() {}
                drop(stream);
            }
        });
    }
    tasks
}

/// Letters to itself, taken as fast as they come and never acknowledged, with
/// the shortest lease that there is.
fn unacknowledged(target: Arc<Target>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let target = target.clone();
        tasks.spawn(async move {
            let Ok(raw) = Raw::at(&target.home, "H99").await else { return };
            let sending = async {
                while target.goes_on() {
                    let file = Bytes::from_static(b"Kinh gui");
                    let sealed_envelope = Some(raw.seal(&raw.envelope("H99", &file)));
                    let request = SubmitRequest { sealed_envelope, documents: vec![file] };
                    let _refused = raw.submission().submit(request).await;
                }
            };
            let taking = async {
                while target.goes_on() {
                    let (say, said) = mpsc::channel(8);
                    let lease_duration_ms = limits::LEASE_MIN_MS;
                    let start = ReceiveStart { credit: 64, lease_duration_ms, ..Default::default() };
                    if say.send(ReceiveRequest { part: Some(Say::Start(start)) }).await.is_err() {
                        continue;
                    }
                    let Ok(heard) = raw.mailbox().receive(ReceiverStream::new(said)).await else { continue };
                    let mut heard = heard.into_inner();
                    while target.goes_on() && heard.message().await.is_ok_and(|heard| heard.is_some()) {
                        let more = Say::Credit(Credit { deliveries: 1 });
                        let _full = say.try_send(ReceiveRequest { part: Some(more) });
                    }
                }
            };
            tokio::join!(sending, taking);
        });
    }
    tasks
}

/// As much as it may send, and then some, over as many connections as it may
/// have.
fn flood(target: Arc<Target>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..limits::CONNECTIONS_PER_CERTIFICATE_MAX {
        let target = target.clone();
        tasks.spawn(async move {
            let Ok(raw) = Raw::at(&target.home, "H99").await else { return };
            let one = async || {
                while target.goes_on() {
                    let file = Bytes::from_static(b"Kinh gui");
                    let sealed_envelope = Some(raw.seal(&raw.envelope("H99", &file)));
                    let request = SubmitRequest { sealed_envelope, documents: vec![file] };
                    let _refused = raw.submission().submit(request).await;
                }
            };
            tokio::join!(one(), one(), one(), one());
        });
    }
    tasks
}
