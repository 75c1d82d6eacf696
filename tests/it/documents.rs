//! Large documents over poor links: what has passed is not sent again after a
//! cut, a kill of the hub or an end of the client, a slow link gets there, and
//! what arrives is what was sent, to the byte.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use axis_client::{Outgoing, ReceiveOptions, quiet};
use axis_proto::{
    hub::v1::{
        QueryUploadRequest, Reason, SubmitRequest, UploadRequest, UploadResponse, UploadStart,
        upload_request::Part,
    },
    id::{Digest, EnvelopeId},
    seal::PayloadType,
};
use axis_tests::{HubProcess, Link, Ministry, Raw, TestHub, binary, code, eventually, refusal_of, seed};
use bytes::Bytes;
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const MIB: u64 = 1024 * 1024;

fn bytes_of(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

/// Does it until it is done; at each of these counts of bytes the hub is
/// killed, the link is cut, or the client dies and begins again.
async fn through_breaks(
    hub: &mut HubProcess,
    link: &Link,
    passed: impl Fn() -> u64,
    breaks: &[u64],
    work: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut working = Box::pin(work());
    for (number, at) in breaks.iter().enumerate() {
        tokio::select! {
            done = &mut working => {
                done?;
                anyhow::bail!("done before break {number}");
            }
            () = eventually("enough has passed", async || passed() >= *at) => {}
        }
        match number % 3 {
            0 => {
                hub.kill()?;
                hub.resume().await?;
            }
            1 => link.cut(),
            _ => working = Box::pin(work()),
        }
    }
    working.await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_passed_is_not_sent_again() -> anyhow::Result<()> {
    const SIZE: u64 = 24 * MIB;
    let mut hub = HubProcess::start().await?;
    let from = hub.ministry("vpcp", &["G22"]).await?.home().to_owned();
    let to = hub.ministry("byt", &["G18"]).await?.home().to_owned();
    let dir = tempfile::tempdir()?;
    let (file, into) = (dir.path().join("Phụ lục.bin"), dir.path().join("into"));
    let bytes = bytes_of(SIZE, seed());
    std::fs::write(&file, &bytes)?;

    // at 8 MiB/s, so that there is a middle
    let link = Link::before(&from, Some(8 * MIB)).await?;
    let envelope_id = EnvelopeId::new_v7();
    let breaks = [5 * MIB, 10 * MIB, 15 * MIB, 20 * MIB];
    through_breaks(
        &mut hub,
        &link,
        || link.up(),
        &breaks,
        async || {
            let ministry = Ministry::at(&from).await?;
            let mut letter = Outgoing::new(ministry.agency(), "V/v phụ lục").to(code("G18")).file(&file);
            letter.envelope_id = Some(envelope_id);
            ministry.send(letter).await.map(drop)
        },
    )
    .await?;
    println!("up: {} bytes for {SIZE}", link.up());
    assert!(link.up() < SIZE + SIZE / 2, "{} bytes for {SIZE}", link.up());

    let link = Link::before(&to, Some(8 * MIB)).await?;
    through_breaks(
        &mut hub,
        &link,
        || link.down(),
        &breaks,
        async || {
            let ministry = Ministry::at(&to).await?;
            let second = Duration::from_secs(1);
            let options = ReceiveOptions::following().lease(second, 60 * second);
            let mut deliveries = ministry.client.receive(options).await?;
            let received = ministry.next(&mut deliveries).await?;
            received.save(&into, &quiet).await?;
            received.ack("").await?;
            Ok(())
        },
    )
    .await?;
    println!("down: {} bytes for {SIZE}", link.down());
    assert!(link.down() < SIZE + SIZE / 2, "{} bytes for {SIZE}", link.down());
    let arrived = files(&into).into_iter().find(|path| path.ends_with("Phụ lục.bin")).context("a file")?;
    assert_eq!(Digest::of(&std::fs::read(arrived)?), Digest::of(&bytes));
    assert!(files(&into).iter().all(|path| path.extension().is_none_or(|ending| ending != "part")));
    hub.finish().await?;
    Ok(())
}

/// Takes the next delivery; the bytes of its first document.
async fn taken(ministry: &Ministry) -> anyhow::Result<Vec<u8>> {
    let mut deliveries = ministry.follow().await?;
    let received = ministry.next(&mut deliveries).await?;
    let mut came = Vec::new();
    received.documents()[0].write_to(&mut came, &quiet).await?;
    received.ack("").await?;
    Ok(came)
}

/// Half of what a modem gives, and it breaks.
const SLOW: u64 = 32 * 1024;
const CUT_INTERVAL: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_that_is_cut_gets_there() -> anyhow::Result<()> {
    const SIZE: u64 = 192 * 1024;
    let hub = TestHub::start().await?;
    let fast = hub.ministry("vpcp", &["G22"]).await?;
    let slow_sender = hub.ministry("tayninh", &["H53"]).await?.home().to_owned();
    let slow_receiver = hub.ministry("byt", &["G18"]).await?.home().to_owned();
    let (up, down) = (bytes_of(SIZE, seed()), bytes_of(SIZE, 7));
    fast.send(Outgoing::new(fast.agency(), "xuống").to(code("G18")).bytes("b.bin", down.clone())).await?;

    let sending = async {
        let link = Link::before(&slow_sender, Some(SLOW)).await?;
        let ministry = Ministry::at(&slow_sender).await?;
        let letter = Outgoing::new(ministry.agency(), "lên").to(code("G22")).bytes("a.bin", up.clone());
        tokio::select! {
            sent = ministry.send(letter) => drop(sent?),
            () = link.cut_every(CUT_INTERVAL) => {}
        }
        println!("up: {} bytes for {SIZE}, {} cuts", link.up(), link.cuts());
        assert!(link.cuts() >= 3);
        anyhow::Ok(())
    };
    let receiving = async {
        let link = Link::before(&slow_receiver, Some(SLOW)).await?;
        let ministry = Ministry::at(&slow_receiver).await?;
        let came = tokio::select! {
            came = taken(&ministry) => came?,
            () = link.cut_every(CUT_INTERVAL) => Vec::new(),
        };
        println!("down: {} bytes for {SIZE}, {} cuts", link.down(), link.cuts());
        assert!(link.cuts() >= 3);
        assert!(came == down, "what came is what was sent");
        anyhow::Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    assert!(taken(&fast).await? == up, "what came is what was sent");
    hub.finish().await?;
    Ok(())
}

/// Files that usually ride along: one message is too long for the interval, so
/// that they must not.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_pass_a_slow_link_that_is_cut() -> anyhow::Result<()> {
    const SIZE: u64 = 60 * 1024;
    const FILES: u64 = 2;
    let hub = TestHub::start().await?;
    let fast = hub.ministry("vpcp", &["G22"]).await?;
    let slow_sender = hub.ministry("tayninh", &["H53"]).await?.home().to_owned();
    let slow_receiver = hub.ministry("byt", &["G18"]).await?.home().to_owned();
    let with_files = |letter: Outgoing| {
        (0..FILES).fold(letter, |letter, file| letter.bytes(format!("{file}.bin"), bytes_of(SIZE, file)))
    };
    for subject in ["một", "hai"] {
        fast.send(with_files(Outgoing::new(fast.agency(), subject).to(code("G18")))).await?;
    }

    let sending = async {
        let link = Link::before(&slow_sender, Some(SLOW)).await?;
        link.live_for(CUT_INTERVAL);
        let ministry = Ministry::at(&slow_sender).await?;
        ministry.send(with_files(Outgoing::new(ministry.agency(), "lên").to(code("G22")))).await?;
        println!("up: {} bytes for {}, {} cuts", link.up(), FILES * SIZE, link.cuts());
        assert!(link.cuts() >= 2);
        anyhow::Ok(())
    };
    let receiving = async {
        let link = Link::before(&slow_receiver, Some(SLOW)).await?;
        link.live_for(CUT_INTERVAL);
        let ministry = Ministry::at(&slow_receiver).await?;
        // what was on its way when the link broke comes again when its lease has lapsed
        let options = ReceiveOptions::following().lease(Duration::from_secs(2), Duration::from_secs(60));
        let mut deliveries = ministry.client.receive(options).await?;
        for _ in 0..2 {
            let received = ministry.next(&mut deliveries).await?;
            for (document, file) in received.documents().iter().zip(0..) {
                let mut came = Vec::new();
                document.write_to(&mut came, &quiet).await?;
                assert!(came == bytes_of(SIZE, file), "what came is what was sent");
            }
            received.ack("").await?;
        }
        println!("down: {} bytes for {}, {} cuts", link.down(), 2 * FILES * SIZE, link.cuts());
        assert!(link.cuts() >= 3);
        anyhow::Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    let mut deliveries = fast.follow().await?;
    let received = fast.next(&mut deliveries).await?;
    assert_eq!(received.documents().len() as u64, FILES);
    received.ack("").await?;
    drop(deliveries);
    hub.finish().await?;
    Ok(())
}

/// The envelope itself is one message, signed as a whole: this is the poorest
/// link that the longest one passes.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_envelope_passes_a_slow_link_that_lives_twelve_seconds() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let from = hub.ministry("vpcp", &["G22"]).await?.home().to_owned();
    let to = hub.ministry("byt", &["G18"]).await?.home().to_owned();
    let (up, down) = (Link::before(&from, Some(SLOW)).await?, Link::before(&to, Some(SLOW)).await?);
    for link in [&up, &down] {
        link.live_for(Duration::from_secs(12));
    }
    let (from, to) = (Ministry::at(&from).await?, Ministry::at(&to).await?);
    let mut letter = from.letter(&["G18"], "dài");
    letter.metadata.to_places = vec!["Nơi nhận ".repeat(340); 64];
    let sent = from.send(letter).await?;
    let mut deliveries = to.follow().await?;
    let received = to.next(&mut deliveries).await?;
    assert_eq!(received.envelope_digest(), &sent.envelope_digest);
    let bytes = received.sealed().payload.len();
    assert!((250 * 1024..=256 * 1024).contains(&bytes), "{bytes}");
    received.ack("").await?;
    drop(deliveries);
    hub.finish().await?;
    Ok(())
}

fn start(bytes: &[u8], offset: u64) -> UploadRequest {
    let sha256 = Bytes::copy_from_slice(Digest::of(bytes).as_bytes());
    UploadRequest { part: Some(Part::Start(UploadStart { sha256, size: bytes.len() as u64, offset })) }
}

fn chunk(bytes: &[u8]) -> UploadRequest {
    UploadRequest { part: Some(Part::Chunk(Bytes::copy_from_slice(bytes))) }
}

/// Uploads by hand, and goes on for as long as the link does: what is sent
/// through the channel goes into the call.
fn uploading(raw: Raw) -> (mpsc::Sender<UploadRequest>, JoinHandle<Result<UploadResponse, Status>>) {
    let (parts, requests) = mpsc::channel(4);
    let call = tokio::spawn(async move {
        let answer = raw.submission().upload(ReceiverStream::new(requests)).await;
        answer.map(tonic::Response::into_inner)
    });
    (parts, call)
}

/// A client's link hangs without a word in the midst of an upload, and another
/// that is still alive in the midst of one: whoever comes last goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_taken_over_from_one_that_hangs() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let from = hub.ministry("vpcp", &["G22"]).await?;
    let to = hub.ministry("byt", &["G18"]).await?;
    let connect = || Raw::at(from.home(), "G22");
    let (raw, second, last) = (connect().await?, connect().await?, connect().await?);
    let link = Link::before(from.home(), None).await?;
    let first = connect().await?;
    let bytes = bytes_of(MIB, seed());
    let third = bytes.len() / 3;
    let query = async |raw: &Raw| {
        let sha256 = Bytes::copy_from_slice(Digest::of(&bytes).as_bytes());
        let query = QueryUploadRequest { sha256, size: MIB };
        anyhow::Ok(raw.submission().query_upload(query).await?.into_inner())
    };
    let arrived = async |raw: &Raw, expected: usize| {
        eventually("it has arrived", async || {
            query(raw).await.is_ok_and(|state| state.committed_bytes == expected as u64)
        })
        .await;
    };
    let (first, first_call) = uploading(first);
    first.send(start(&bytes, 0)).await?;
    first.send(chunk(&bytes[..third])).await?;
    arrived(&raw, third).await;
    link.hang();

    // a second that is well, and is not let go by its client either
    let (second, second_call) = uploading(second);
    second.send(start(&bytes, third as u64)).await?;
    second.send(chunk(&bytes[third..2 * third])).await?;
    arrived(&raw, 2 * third).await;
    // what the first one still says does not arrive, or changes nothing
    first.send(chunk(&bytes[third..2 * third])).await?;

    let (last, last_call) = uploading(last);
    last.send(start(&bytes, 2 * third as u64)).await?;
    last.send(chunk(&bytes[2 * third..])).await?;
    let answer = last_call.await??;
    assert!(answer.complete, "{answer:?}");
    let refused = second_call.await?.err().context("it was taken over")?;
    assert_eq!(refusal_of(&refused).0, Some(Reason::Busy), "{refused:?}");
    assert!(!first_call.is_finished(), "nobody told it");
    assert!(query(&raw).await?.complete);

    // the whole is what was sent
    from.send(Outgoing::new(from.agency(), "V/v").to(code("G18")).bytes("a.bin", bytes.clone())).await?;
    assert!(taken(&to).await? == bytes, "what came is what was sent");
    drop((first, second));
    first_call.abort();
    hub.finish().await?;
    Ok(())
}

/// The same words, composed and decomposed, and others that some systems take
/// for something else.
const NAMES: [&str; 5] = [
    "C\u{f4}ng v\u{103}n kh\u{1ea9}n.docx",
    "Co\u{302}ng va\u{306}n kha\u{302}\u{309}n.docx",
    "\u{110}ơn — số 1-2 «bản sao» 🇻🇳.pdf",
    "tên có khoảng trắng  .txt",
    "K\u{212a}elvin ﬁ.bin",
];

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_names_stay_as_they_are() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let from = hub.ministry("vpcp", &["G22"]).await?;
    let to = hub.ministry("byt", &["G18"]).await?;
    let dir = tempfile::tempdir()?;
    // no text in any encoding; small ones ride along, the others do not
    let contents: Vec<Vec<u8>> = [0u64, 1, 65_536, 65_537, 200_000]
        .iter()
        .map(|len| bytes_of(*len, *len).into_iter().map(|byte| byte | 0x80).collect())
        .collect();
    let mut letter = Outgoing::new(from.agency(), NAMES[1]).to(code("G18"));
    for (name, bytes) in NAMES.iter().zip(&contents) {
        letter = letter.bytes(*name, bytes.clone());
    }
    from.send(letter).await?;
    let mut deliveries = to.follow().await?;
    let received = to.next(&mut deliveries).await?;
    assert_eq!(received.metadata().subject, NAMES[1]);
    for ((document, name), bytes) in received.documents().iter().zip(NAMES).zip(&contents) {
        assert_eq!(document.name(), name);
        let mut came = Vec::new();
        document.write_to(&mut came, &quiet).await?;
        assert!(came == *bytes, "{name}");
    }
    let saved = received.save(&dir.path().join("sdk"), &quiet).await?;
    for (path, bytes) in saved.documents.iter().zip(&contents) {
        assert!(std::fs::read(path)? == *bytes, "{}", path.display());
    }
    received.ack("").await?;
    drop(deliveries);

    // and from file to file, by the command line
    let mut send = Command::new(binary("axis")?);
    send.arg("--home").arg(from.home()).args(["send", "--from", "G22", "--to", "G18", "--subject", NAMES[0]]);
    for (name, bytes) in NAMES.iter().zip(&contents) {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes)?;
        send.arg(path);
    }
    run(&mut send).await?;
    let into = dir.path().join("cli");
    run(Command::new(binary("axis")?).arg("--home").arg(to.home()).args(["receive", "--into"]).arg(&into))
        .await?;
    let description = files(&into).into_iter().find(|path| path.ends_with("envelope.json")).context("it")?;
    let description: serde_json::Value = serde_json::from_slice(&std::fs::read(description)?)?;
    assert_eq!(description["metadata"]["subject"], NAMES[0]);
    let named: Vec<_> = NAMES.iter().zip(&contents).collect();
    let documents = description["documents"].as_array().context("a list")?;
    assert_eq!(documents.len(), named.len());
    for (document, (name, bytes)) in documents.iter().zip(named) {
        assert_eq!(document["name"], *name);
        let file = document["file"].as_str().context("a file")?;
        let path = files(&into).into_iter().find(|path| path.ends_with(file)).context("it is there")?;
        assert!(std::fs::read(&path)? == *bytes, "{}", path.display());
    }
    hub.finish().await?;
    Ok(())
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::from(std::mem::replace(command, Command::new("true")));
    let output = command.output().await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A name is text: one that is not cannot be signed, and is refused by all on
/// the way.
#[tokio::test]
async fn a_name_that_is_no_text_is_refused() -> anyhow::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let hub = TestHub::start().await?;
    let from = hub.ministry("vpcp", &["G22"]).await?;
    hub.ministry("byt", &["G18"]).await?;
    let raw = Raw::at(from.home(), "G22").await?;
    let mut payload = raw.envelope("G18", b"file").encode_to_vec();
    let at = payload.windows(5).position(|part| part == b"a.txt").context("the name")?;
    payload[at] = 0xff;
    let sealed = axis_proto::seal::seal(PayloadType::Envelope, payload, &[&raw.key]);
    let request = SubmitRequest { sealed_envelope: Some(sealed), ..Default::default() };
    let refused = raw.submission().submit(request).await.err().context("refused")?;
    let (reason, violations) = refusal_of(&refused);
    assert_eq!(reason, Some(Reason::Malformed));
    assert!(violations[0].0 == "envelope" && violations[0].1.contains("Document.name"), "{violations:?}");

    let dir = tempfile::tempdir()?;
    // "Công" as TCVN3 writes it
    let file = dir.path().join(std::ffi::OsStr::from_bytes(b"C\xabng v\xa8n.doc"));
    std::fs::write(&file, "x")?;
    let letter = Outgoing::new(from.agency(), "V/v").to(code("G18")).file(&file);
    let refused = from.client.send(letter, &quiet).await.err().context("refused")?;
    let refused = refused.refusal().context("a refusal")?;
    assert_eq!(refused.reason, Reason::FieldInvalid);
    assert_eq!(refused.violations[0].field, "envelope.document.documents[0].name");
    assert_eq!(from.client.outbox()?, []);
    hub.finish().await?;
    Ok(())
}
