//! Clients that are broken or mean harm, beside honest ones: they lose their
//! own connection, and nobody else's work waits for it.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_client::{Outgoing, ReceiveOptions, quiet};
use axis_hub::{
    clock::Clock,
    config::{self, Config},
    limits,
};
use axis_proto::{
    admin::v1::SetSystemStateRequest,
    envelope::v1::{
        Acknowledgement, Document, Envelope, Priority, Recipient, RejectionReason, SealedEnvelope,
        envelope::Body,
    },
    hub::v1::{
        AcknowledgeRequest, CheckRequest, Credit, GetInfoRequest, Reason, ReceiveRequest, ReceiveStart,
        SubmitRequest, SubmitStreamRequest, UploadRequest, UploadResponse, UploadStart,
        hub_service_client::HubServiceClient, receive_request::Part as Say, receive_response::Part as Heard,
        upload_request::Part,
    },
    id::Digest,
    key::SigningKey,
    record::v1::{Record, SystemState},
    seal::{PayloadType, seal},
};
use axis_tests::{
    HubProcess, Ministry, PATIENCE, Raw, TestHub, admin, eventually,
    frames::{ACK, END_HEADERS, END_STREAM, Frames, PREFACE, call, frame, header, kind},
    refusal_of,
};
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic_types::StatusExt as _;

const SUBMIT: &str = "/axis.hub.v1.SubmissionService/Submit";

/// A hub with an honest pair, `vpcp` (G22) who sends and `byt` (G18) who
/// receives, and `hostile` (H53), who is enrolled like them.
struct Situation {
    hub: TestHub,
    vpcp: Ministry,
    byt: Ministry,
    hostile: Ministry,
}

impl Situation {
    async fn new(change: fn(&mut Config)) -> anyhow::Result<Self> {
        let hub = TestHub::start_changed(Clock::system(), change).await?;
        let vpcp = hub.ministry("vpcp", &["G22"]).await?;
        let byt = hub.ministry("byt", &["G18"]).await?;
        let hostile = hub.ministry("hostile", &["H53"]).await?;
        Ok(Self { hub, vpcp, byt, hostile })
    }

    fn systems(&self) -> String {
        self.hub.hub().addresses().systems.to_string()
    }

    async fn frames(&self) -> anyhow::Result<Frames> {
        Frames::greet(&self.systems(), self.hostile.home(), Some(self.hostile.home())).await
    }

    /// One letter from end to end: the honest are served, and soon.
    async fn honest(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut deliveries = self.byt.follow().await?;
        self.vpcp.send(self.vpcp.letter(&["G18"], "như thường")).await?;
        let received = self.byt.next(&mut deliveries).await?;
        received.ack("nhận").await?;
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
        Ok(())
    }

    fn taken(&self) -> usize {
        self.hub.hub().context().room.taken()
    }
}

/// What comes back on a plain connection after these bytes, until it ends.
async fn answer(address: &str, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut tcp = TcpStream::connect(address).await?;
    let _closed_already = tcp.write_all(bytes).await;
    let mut answer = Vec::new();
    let _reset = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.context("it never ends")?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_unknown_gets_no_further_than_the_handshake() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.patience.handshake = Duration::from_secs(2)).await?;
    let other = TestHub::start().await?;
    let foreign = other.ministry("vpcp", &["G22"]).await?;
    let addresses = situation.hub.hub().addresses().clone();
    let request = [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
    let garbage = [0x5a; 600];
    // without TLS there is an alert at most, on both listeners
    for address in [addresses.systems, addresses.enrolment] {
        for bytes in [&request[..], b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", &garbage] {
            let answer = answer(&address.to_string(), bytes).await?;
            assert!(answer.len() <= 7 && answer.first().is_none_or(|first| *first == 21), "{answer:?}");
        }
    }
    // without a certificate, and with another authority's, HTTP/2 is not heard
    let faults = || situation.hub.hub().context().metrics.text(&Default::default());
    let refused = |text: String| text.lines().filter(|line| line.contains("axis_refusals_total")).count();
    let before = refused(faults());
    for identity in [None, Some(foreign.home())] {
        let systems = addresses.systems.to_string();
        let Ok(mut frames) = Frames::connect(&systems, situation.vpcp.home(), identity).await else {
            continue;
        };
        let _closed_already = frames.raw(&request).await;
        let _closed_already = frames.send(kind::HEADERS, END_HEADERS, 1, &call(SUBMIT)).await;
        let _closed_already = frames.send(kind::DATA, END_STREAM, 1, &[0; 50]).await;
        let heard = timeout(PATIENCE, frames.next()).await.context("it never ends")?;
        assert_eq!(heard, None, "with {identity:?}");
    }
    assert_eq!(situation.hub.hub().context().connections.count(), 0, "nobody is connected");
    assert_eq!(refused(faults()), before, "no call was made");
    // on the listener for enrolment there is enrolment, and nothing else
    let enrolment = addresses.enrolment.to_string();
    let mut frames = Frames::greet(&enrolment, situation.vpcp.home(), None).await?;
    let paths = [
        SUBMIT,
        "/axis.hub.v1.HubService/GetInfo",
        "/grpc.health.v1.Health/Check",
        "/axis.hub.v1.EnrolmentService/Enrol",
    ];
    for (stream, path) in (1..).step_by(2).zip(paths) {
        frames.send(kind::HEADERS, END_HEADERS, stream, &call(path)).await?;
        let garbage = [&[0, 0, 0, 0, 20][..], &[0xff; 20]].concat();
        frames.send(kind::DATA, END_STREAM, stream, &garbage).await?;
        let answer = frames.until(kind::HEADERS, stream).await.context("an answer")?;
        assert!(answer.flags & END_STREAM != 0, "{path} is refused and answers nothing");
    }
    situation.honest().await?;
    situation.hub.finish().await?;
    other.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_suspended_reaches_no_decoder() -> anyhow::Result<()> {
    let situation = Situation::new(|_| {}).await?;
    let request = SetSystemStateRequest {
        system_id: "hostile".into(),
        state: SystemState::Suspended.into(),
        remark: "kiểm tra".into(),
    };
    let raw = Raw::at(situation.hostile.home(), "H53").await?;
    HubServiceClient::new(raw.channel.clone()).get_info(GetInfoRequest {}).await?;
    situation.hub.admin().await?.set_system_state(request).await?;
    // open connections are cut now, and the next ones within a minute: whoever
    // connects again is told why at each call until then
    let connections = &situation.hub.hub().context().connections;
    eventually("its connection is cut, and there was no other", async || connections.count() == 0).await;
    // what nobody could decode is not looked at
    let sealed = axis_proto::envelope::v1::SealedEnvelope {
        payload: vec![0xff; 400_000].into(),
        ..Default::default()
    };
    let request = SubmitRequest { sealed_envelope: Some(sealed), documents: vec![Bytes::new(); 500] };
    let status = raw.submission().submit(request).await.expect_err("refused");
    assert_eq!(refusal_of(&status).0, Some(Reason::Suspended), "{status:?}");
    situation.honest().await?;
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_after_connecting_is_let_go() -> anyhow::Result<()> {
    let situation = Situation::new(|config| {
        config.patience.handshake = Duration::from_millis(400);
        config.patience.greeting = Duration::from_millis(400);
        config.patience.operators_idle = Duration::from_millis(400);
        config.patience.enrolment_life = Duration::from_millis(800);
    })
    .await?;
    let addresses = situation.hub.hub().addresses().clone();
    let mut waiting = tokio::task::JoinSet::new();
    // never begins a handshake; begins one a byte at a time; asks for a page so
    for address in [addresses.systems, addresses.enrolment, addresses.operators] {
        for bytes in [&b""[..], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], b"GET / HTTP/1.1\r\nhost: loc"] {
            waiting.spawn(async move {
                let mut tcp = TcpStream::connect(address).await.expect("connected");
                for byte in bytes {
                    let _closed_already = tcp.write_all(&[*byte]).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let _reset = tcp.read_to_end(&mut Vec::new()).await;
            });
        }
    }
    // shakes hands and then says nothing, or half a greeting
    let home = situation.hostile.home().to_owned();
    for greeting in [&b""[..], &PREFACE[..10]] {
        let (home, address) = (home.clone(), situation.systems());
        waiting.spawn(async move {
            let mut frames = Frames::connect(&address, &home, Some(&home)).await.expect("connected");
            let _closed_already = frames.raw(greeting).await;
            while let Some(frame) = frames.next().await {
                assert_eq!(frame.kind, kind::SETTINGS, "the hub greets, and answers nothing");
            }
        });
    }
    // somebody who enrols may talk, and not for long
    let enrolment = addresses.enrolment.to_string();
    let own = situation.hostile.home().to_owned();
    waiting.spawn(async move {
        let mut frames = Frames::greet(&enrolment, &own, None).await.expect("connected");
        let talking = async {
            while frames.send(kind::PING, 0, 0, &[7; 8]).await.is_ok() {
                if frames.until(kind::PING, 0).await.is_none() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        talking.await;
    });
    let all = async { while waiting.join_next().await.transpose().expect("no panic").is_some() {} };
    timeout(PATIENCE, all).await.context("some are still held")?;
    situation.honest().await?;
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_ends_its_own_connection() -> anyhow::Result<()> {
    let situation = Situation::new(|_| {}).await?;
    let odd = |number: u32| 2 * number + 1;
    let headers = call(SUBMIT);
    let bomb = [&headers[..], &header("x-bomb", &[b'a'; 30_000])].concat();
    type Attack<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
    let attacks: [(&str, u32, Attack<'_>); 4] = [
        // CVE-2023-44487: requests that are cancelled at once
        (
            "rapid reset",
            30_000,
            Box::new(|number| {
                let begin = frame(kind::HEADERS, END_HEADERS, odd(number), &headers);
                [begin, frame(kind::RST_STREAM, 0, odd(number), &8_u32.to_be_bytes())].concat()
            }),
        ),
        // RUSTSEC-2024-0003: mistakes for which we reset each stream
        (
            "resets by mistakes",
            30_000,
            Box::new(|number| {
                let begin = frame(kind::HEADERS, END_HEADERS, odd(number), &headers);
                [begin, frame(kind::WINDOW_UPDATE, 0, odd(number), &0_u32.to_be_bytes())].concat()
            }),
        ),
        // CVE-2024-27316 and others: headers without an end
        (
            "continuation",
            30_000,
            Box::new(|number| match number {
                0 => frame(kind::HEADERS, 0, 1, &headers),
                _ => frame(kind::CONTINUATION, 0, 1, &header("x", &[b'a'; 1_000])),
            }),
        ),
        (
            "header bomb",
            2_000,
            Box::new(|number| {
                let (first, rest) = bomb.split_at(16_000);
                let begin = frame(kind::HEADERS, 0, odd(number), first);
                [begin, frame(kind::CONTINUATION, END_HEADERS, odd(number), rest)].concat()
            }),
        ),
    ];
    for (name, count, attack) in attacks {
        let mut frames = situation.frames().await?;
        let mut sent = 0;
        while sent < count && frames.raw(&attack(sent)).await.is_ok() {
            sent += 1;
        }
        if name == "header bomb" {
            // each is answered with a refusal at once and holds nothing
            assert!(situation.taken() == 0, "{name}");
        } else {
            assert!(frames.ends_within(PATIENCE).await, "{name}: it goes on after {sent}");
        }
        situation.honest().await.context(name)?;
    }
    // these are answered one at a time, at the peer's own pace: who does not
    // read the answers is not read either
    for (name, one) in [
        ("ping", frame(kind::PING, 0, 0, &[7; 8])),
        ("settings", frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
    ] {
        let mut frames = situation.frames().await?;
        let many = one.repeat(1_000);
        let flood = async { while frames.raw(&many).await.is_ok() {} };
        let stuck = timeout(Duration::from_millis(500), flood).await;
        println!("{name}: {}", if stuck.is_err() { "held up" } else { "ended" });
        situation.honest().await.context(name)?;
    }
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_answers_or_never_reads_costs_its_own_credit() -> anyhow::Result<()> {
    let situation = Situation::new(|_| {}).await?;
    for number in 0..40 {
        situation.vpcp.send(situation.vpcp.letter(&["H53"], &format!("thư {number}"))).await?;
    }
    let raw = Raw::at(situation.hostile.home(), "H53").await?;
    let mut held = Vec::new();
    let mut refused = None;
    for _ in 0..=limits::RECEIVES_PER_SYSTEM_MAX {
        let (say, said) = mpsc::channel(2);
        let start = ReceiveStart { accounted_to: 0, credit: 2, lease_duration_ms: 0, ..Default::default() };
        say.send(ReceiveRequest { part: Some(Say::Start(start)) }).await?;
        match raw.mailbox().receive(ReceiverStream::new(said)).await {
            Ok(stream) => held.push((say, stream.into_inner())),
            Err(status) => refused = Some(status),
        }
    }
    // one stream more than it may have
    let refused = refused.context("too many streams are refused")?;
    assert_eq!(refusal_of(&refused).0, Some(Reason::Busy));
    assert!(refused.get_error_details().retry_info().is_some());
    // the first reads and never answers: nothing comes beyond its credit
    let (say, stream) = &mut held[0];
    let mut deliveries = 0;
    let reading = async {
        while let Some(message) = stream.message().await? {
            deliveries += usize::from(matches!(message.part, Some(Heard::Delivery(_))));
        }
        anyhow::Ok(())
    };
    assert!(timeout(Duration::from_millis(800), reading).await.is_err(), "the stream stays");
    assert_eq!(deliveries, 2);
    say.send(ReceiveRequest { part: Some(Say::Credit(Credit { deliveries: limits::CREDIT_MAX })) }).await?;
    situation.honest().await?;
    drop(held);
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_submits_many_at_once_waits_behind_its_own() -> anyhow::Result<()> {
    let situation = Situation::new(|_| {}).await?;
    let context = situation.hub.hub().context().clone();
    let waiting = || context.verifying.waiting();
    let cores = std::thread::available_parallelism()?.get();
    // every thread is held, so that what comes now waits
    let (mut held, mut holding) = (Vec::new(), JoinSet::new());
    for _ in 0..cores {
        let (hold, held_by) = std::sync::mpsc::channel::<()>();
        held.push(hold);
        let context = context.clone();
        holding.spawn(async move {
            let somebody = "somebody".parse().expect("a system id");
            context.verifying.run(&somebody, move || held_by.recv().is_err()).await
        });
    }
    eventually("every thread is held", async || context.verifying.idle() == 0 && waiting() == 0).await;
    let hostile = Arc::new(Raw::at(situation.hostile.home(), "H53").await?);
    let vpcp = Arc::new(Raw::at(situation.vpcp.home(), "G22").await?);
    let submit = |raw: &Arc<Raw>| {
        let raw = raw.clone();
        async move {
            let sealed_envelope = Some(raw.seal(&raw.envelope("G18", b"file")));
            let request = SubmitRequest { sealed_envelope, documents: vec![Bytes::from_static(b"file")] };
            let receipt =
                raw.submission().submit(request).await?.into_inner().receipt.context("a receipt")?;
            anyhow::Ok(Record::decode(receipt.record)?.sequence)
        }
    };
    // so many that no pause of a thread, or of what runs it, is as long as they take
    let many = 200;
    let mut flood = JoinSet::new();
    (0..many).for_each(|_| drop(flood.spawn(submit(&hostile))));
    eventually("the flood waits", async || waiting() == many).await;
    let honest = tokio::spawn(submit(&vpcp));
    eventually("the honest waits behind it", async || waiting() == many + 1).await;
    // one thread goes on: it takes them in turns
    drop(held.pop());
    let honest = honest.await??;
    drop(held);
    let mut before = 0;
    while let Some(sequence) = flood.join_next().await {
        before += usize::from(sequence?? < honest);
    }
    assert!(before <= many / 2, "{before} of {many} came first");
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_take_a_share_and_no_more() -> anyhow::Result<()> {
    let situation = Situation::new(|_| {}).await?;
    let mut frames = situation.frames().await?;
    let length = (limits::REQUEST_BYTES_MAX - 16) as u32;
    let begin = [&[0][..], &length.to_be_bytes(), &[10]].concat();
    let fit = limits::REQUESTS_BYTES_PER_SYSTEM_MAX / length as usize;
    for number in 0..fit as u32 + 1 {
        frames.send(kind::HEADERS, END_HEADERS, 2 * number + 1, &call(SUBMIT)).await?;
        frames.send(kind::DATA, 0, 2 * number + 1, &begin).await?;
    }
    // whichever of them is looked at last
    let refused = timeout(PATIENCE, frames.until_kind(kind::HEADERS)).await?.context("an answer")?;
    assert!(refused.flags & END_STREAM != 0, "one has no room: {refused:?}");
    eventually("the others hold theirs", async || situation.taken() == fit * length as usize).await;
    situation.honest().await?;
    drop(frames);
    eventually("what was never sent takes no room", async || situation.taken() == 0).await;
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_or_headers_that_trickle_end() -> anyhow::Result<()> {
    let situation = Situation::new(|config| {
        config.patience.message = Duration::from_millis(500);
        config.patience.keepalive_interval = Duration::from_millis(500);
        config.patience.keepalive = Duration::from_secs(4);
    })
    .await?;
    let info = |patience: config::Patience| (patience.message, patience.keepalive_interval, patience.answer);
    let usual = (limits::MESSAGE_TIMEOUT, limits::KEEPALIVE_INTERVAL, limits::ANSWER_TIMEOUT);
    assert_eq!(info(config::Patience::default()), usual, "what is short here is not short elsewhere");

    // a message, a byte at a time, as fast as one is heard
    let mut frames = situation.frames().await?;
    frames.send(kind::HEADERS, END_HEADERS, 1, &call(SUBMIT)).await?;
    let length = (limits::REQUEST_BYTES_MAX - 16) as u32;
    frames.send(kind::DATA, 0, 1, &[&[0][..], &length.to_be_bytes()].concat()).await?;
    let trickling = async {
        for sent in 0..length {
            frames.send(kind::DATA, 0, 1, &[10]).await?;
            frames.send(kind::PING, 0, 0, &[7; 8]).await?;
            loop {
                let frame = frames.next().await.context("the connection stays")?;
                match (frame.kind, frame.flags & ACK) {
                    (kind::HEADERS, _) => return Ok(sent),
                    (kind::PING, 0) => frames.send(kind::PING, ACK, 0, &frame.payload).await?,
                    (kind::PING, _) => break,
                    _ => {}
                }
            }
        }
        anyhow::bail!("it was taken")
    };
    let sent = timeout(PATIENCE, trickling).await.context("it goes on")??;
    println!("a message was given up after {sent} bytes");
    eventually("its room is given back", async || situation.taken() == 0).await;

    // headers, a byte at a time: nothing else can come in between, so that
    // nobody says that this connection lives
    let mut frames = situation.frames().await?;
    frames.raw(&frame(kind::HEADERS, 0, 1, &[0; 16_000])[..9]).await?;
    let trickling = async {
        while frames.raw(&[0]).await.is_ok() {
            // what the hub asks meanwhile, or its end
            if let Ok(None) = timeout(Duration::from_millis(20), frames.next()).await {
                break;
            }
        }
    };
    timeout(PATIENCE, trickling).await.context("it is still held")?;
    situation.honest().await?;
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_answers_nobody_reads_ends() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.patience.answer = Duration::from_millis(700)).await?;
    let raw = Raw::with_window(situation.hostile.home(), "H53", Some(16 * 1024)).await?;
    let file = vec![7; 20_000];
    let sealed = raw.seal(&raw.envelope("G18", &file));
    let submission = SubmitRequest { sealed_envelope: Some(sealed), documents: vec![file.into()] };
    let (say, said) = mpsc::channel(1);
    let mut unread = raw.submission().submit_stream(ReceiverStream::new(said)).await?.into_inner();
    let flood = async {
        // the same again and again: answered each time, recorded once
        let request = || SubmitStreamRequest { tag: 0, submission: Some(submission.clone()) };
        while say.send(request()).await.is_ok() {}
    };
    let streams = || situation.hub.hub().context().metrics.streams_open();
    let mut most = 0;
    let watched = async {
        // they pile up, then the hub gives them up and takes no more
        eventually("answers wait for the caller", async || {
            most = most.max(situation.taken());
            most > 1_000_000
        })
        .await;
        eventually("the stream is given up", async || streams() == 0).await;
        eventually("what it held is given back", async || situation.taken() == 0).await;
    };
    tokio::select! {
        () = watched => {}
        () = async { flood.await; std::future::pending().await } => {}
    }
    assert!(most <= limits::SUBMIT_STREAM_BYTES_MAX + limits::REQUEST_BYTES_MAX, "{most}");
    situation.honest().await?;
    // who reads on after all hears what was answered, and then why no more
    let mut answered = 0;
    let refused = loop {
        match timeout(PATIENCE, unread.message()).await? {
            Ok(Some(_)) => answered += 1,
            Ok(None) => anyhow::bail!("it ends as if all were answered"),
            Err(status) => break status,
        }
    };
    assert!(answered > 0);
    assert_eq!(refusal_of(&refused).0, Some(Reason::Busy));
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_stops_beside_streams_that_nobody_reads() -> anyhow::Result<()> {
    let situation = Situation::new(|_| {}).await?;
    for number in 0..30 {
        let letter = situation.vpcp.letter(&["H53"], &format!("thư {number}")).bytes("tệp", vec![7; 50_000]);
        situation.vpcp.send(letter).await?;
    }
    // nothing of what comes is ever read, and the window is small
    let raw = Raw::with_window(situation.hostile.home(), "H53", Some(1_024)).await?;
    let mut held = Vec::new();
    for _ in 0..limits::RECEIVES_PER_SYSTEM_MAX {
        let (say, said) = mpsc::channel(2);
        let start = ReceiveStart { accounted_to: 0, credit: 2, lease_duration_ms: 0, ..Default::default() };
        say.send(ReceiveRequest { part: Some(Say::Start(start)) }).await?;
        held.push((say, raw.mailbox().receive(ReceiverStream::new(said)).await?.into_inner()));
    }
    let metrics = situation.hub.hub().context().metrics.clone();
    eventually("all of them are open", async || metrics.streams_open() as usize == held.len()).await;
    situation.honest().await?;
    // what is under way is waited for, and not for longer than that
    timeout(limits::DRAIN_TIMEOUT + PATIENCE, situation.hub.finish()).await.context("it never stops")??;
    drop(held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_the_operators_socket_ends_nothing() -> anyhow::Result<()> {
    let situation = Situation::new(|_| {}).await?;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let noise: Vec<u8> = (0..4_000).map(|_| random.u8(..)).collect();
    let greeting = [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
    let path = |method: &str| call(&format!("/axis.admin.v1.AdminService/{method}"));
    let garbage = |method: &str| {
        let headers = frame(kind::HEADERS, END_HEADERS, 1, &path(method));
        let message = [&[0, 0, 0, 0, 200][..], &noise[..200]].concat();
        [&greeting[..], &headers, &frame(kind::DATA, END_STREAM, 1, &message)].concat()
    };
    let mut all: Vec<Vec<u8>> = vec![
        Vec::new(),
        noise.clone(),
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        [&greeting[..], &noise].concat(),
        greeting[..30].to_vec(),
        // a message of four gigabytes
        [&greeting[..], &frame(kind::HEADERS, END_HEADERS, 1, &path("AddSystem"))].concat(),
    ];
    all[5].extend(frame(kind::DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1]));
    let methods = [
        "GetStatus",
        "AddSystem",
        "ChangeDirectory",
        "RevokeCertificate",
        "RequestPurge",
        "Backup",
        "Nothing",
    ];
    all.extend(methods.map(garbage));
    let socket = situation.hub.path().join("admin.sock");
    for bytes in all {
        let mut stream = tokio::net::UnixStream::connect(&socket).await?;
        let _closed_already = stream.write_all(&bytes).await;
        stream.shutdown().await?;
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.context("it never ends")?;
    }
    let request = SetSystemStateRequest {
        system_id: "hostile".into(),
        state: SystemState::Suspended.into(),
        remark: "kiểm tra".into(),
    };
    situation.hub.admin().await?.set_system_state(request).await?;
    situation.honest().await?;
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_allowance_ends_and_answers_go_on() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.quota.records_per_day = 6).await?;
    let send = |priority: Priority| {
        let letter = situation.vpcp.letter(&["G18"], "thư").priority(priority);
        situation.vpcp.send(letter)
    };
    let mut deliveries = situation.byt.follow().await?;
    let first = situation.vpcp.client.send(situation.vpcp.letter(&["G18"], "một"), &quiet).await?;
    send(Priority::Normal).await?;
    send(Priority::Normal).await?;
    // each was a record and a recipient's; the next waits for hours
    let raw = Raw::at(situation.vpcp.home(), "G22").await?;
    let submission = |priority: Priority| {
        let mut envelope = raw.envelope("G18", b"file");
        envelope.priority = priority.into();
        let sealed_envelope = Some(raw.seal(&envelope));
        SubmitRequest { sealed_envelope, documents: vec![Bytes::from_static(b"file")] }
    };
    let status = raw.submission().submit(submission(Priority::Normal)).await.expect_err("refused");
    assert_eq!(refusal_of(&status).0, Some(Reason::Quota));
    let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert!(retry.is_some_and(|delay| delay > Duration::from_secs(3_600)), "{retry:?}");
    // urgent ones have an allowance of their own
    let urgent = submission(Priority::Express);
    let receipt = raw.submission().submit(urgent.clone()).await?.into_inner();
    let again = raw.submission().submit(urgent).await?.into_inner();
    assert!(again.duplicate && again.receipt == receipt.receipt, "what was accepted stays answered");
    // and no answer of a recipient is ever refused by it
    for _ in 0..4 {
        situation.byt.next(&mut deliveries).await?.ack("nhận").await?;
    }
    let info = HubServiceClient::new(raw.channel.clone()).get_info(GetInfoRequest {}).await?.into_inner();
    assert_eq!((info.limits["day_records_count"], info.limits["day_bytes"]), (6, limits::BYTES_PER_DAY));
    drop((deliveries, first));
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_that_spends_the_allowance_is_answered_as_often_as_it_is_sent() -> anyhow::Result<()> {
    const RECIPIENTS: usize = limits::WIDE_RECIPIENTS as usize + 1;
    let situation = Situation::new(|config| config.quota.records_per_day = RECIPIENTS as u64).await?;
    let codes: Vec<String> = (0..RECIPIENTS).map(|number| format!("H99.{number}")).collect();
    let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
    let _province = situation.hub.ministry("province", &codes).await?;
    let raw = Raw::at(situation.vpcp.home(), "G22").await?;
    let mut envelope = raw.envelope("G18", b"file");
    envelope.recipients = codes.iter().map(|code| Recipient { agency: (*code).into(), kind: 1 }).collect();
    let sealed_envelope = Some(raw.seal(&envelope));
    let request = SubmitRequest { sealed_envelope, documents: vec![Bytes::from_static(b"file")] };
    // all but one of them wait for their turn at the directory; those that
    // have it last find that it was accepted, and nothing left to spend
    let mut copies = JoinSet::new();
    for _ in 0..24 {
        let (mut submission, request) = (raw.submission(), request.clone());
        copies.spawn(async move { submission.submit(request).await });
    }
    let answers: Result<Vec<_>, _> = copies.join_all().await.into_iter().collect();
    let answers: Vec<_> = answers?.into_iter().map(tonic::Response::into_inner).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
    assert!(answers.iter().all(|answer| answer.receipt == answers[0].receipt), "one receipt for all");
    // and another one hears that the allowance is spent
    let sealed_envelope = Some(raw.seal(&raw.envelope("G18", b"file")));
    let request = SubmitRequest { sealed_envelope, documents: vec![Bytes::from_static(b"file")] };
    let refused = raw.submission().submit(request).await.expect_err("the allowance is used up");
    assert_eq!(refusal_of(&refused).0, Some(Reason::Quota), "{refused:?}");
    situation.hub.finish().await?;
    Ok(())
}

/// Uploads a document of four bytes, one for each number.
async fn upload_small(raw: &Raw, number: u32) -> Result<UploadResponse, tonic::Status> {
    let bytes = Bytes::copy_from_slice(&number.to_be_bytes());
    let start = UploadStart {
        sha256: Bytes::copy_from_slice(Digest::of(&bytes).as_bytes()),
        size: bytes.len() as u64,
        offset: 0,
    };
    let parts = [Part::Start(start), Part::Chunk(bytes)].map(|part| UploadRequest { part: Some(part) });
    Ok(raw.submission().upload(futures_util::stream::iter(parts)).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn small_documents_and_checks_are_paid_too() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.quota.records_per_day = 6).await?;
    let raw = Raw::at(situation.hostile.home(), "H53").await?;
    let check = async || {
        let sealed_envelope = Some(raw.seal(&raw.envelope("G18", b"file")));
        raw.submission().check(CheckRequest { sealed_envelope }).await.map(|answer| answer.into_inner())
    };
    for place in 0..3 {
        assert!(upload_small(&raw, place).await?.complete);
        assert_eq!(check().await?.refusal, None);
    }
    let records = situation.hub.hub().context().evidence.size();
    let refused = upload_small(&raw, 4).await.expect_err("the allowance is used up");
    assert_eq!(refusal_of(&refused).0, Some(Reason::Quota));
    assert_eq!(check().await?.refusal.map(|refusal| refusal.reason()), Some(Reason::Quota));
    assert_eq!(situation.hub.hub().context().evidence.size(), records, "nothing was recorded");
    // what is known costs nothing again
    assert!(upload_small(&raw, 1).await?.complete);
    situation.honest().await?;
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_document_costs_a_block() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.quota.bytes_per_day = 3 * 4_096).await?;
    let raw = Raw::at(situation.hostile.home(), "H53").await?;
    let mut taken = 0;
    for place in 0..9_u32 {
        match upload_small(&raw, place).await {
            Ok(answer) => taken += u32::from(answer.complete),
            Err(status) => assert_eq!(refusal_of(&status).0, Some(Reason::Quota)),
        }
    }
    assert_eq!(taken, 3);
    situation.hub.finish().await?;
    Ok(())
}

/// Bytes by which a secret is looked for first.
const BEGINNING: usize = 8;

/// A text in the forms in which it could be logged.
fn forms(what: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
    let mut forms = vec![
        (format!("{what}, as it is"), bytes.to_vec()),
        (format!("{what}, in hex"), hex::encode(bytes).into_bytes()),
        (format!("{what}, in upper hex"), hex::encode_upper(bytes).into_bytes()),
        (format!("{what}, as a list"), format!("{bytes:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
    ];
    for shift in 0..3 {
        // base64 of the same bytes depends on where they begin
        let coded = BASE64.encode([&vec![0; shift][..], bytes].concat());
        let whole = &coded[(shift * 8).div_ceil(6)..coded.len() - 1];
        forms.push((format!("{what}, in base64 from {shift}"), whole.as_bytes().to_vec()));
    }
    forms
}

/// The secrets in a PEM file: the bytes behind its label.
fn pem(path: PathBuf) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let text = std::fs::read_to_string(&path)?;
    let mut found = Vec::new();
    for part in text.split("-----BEGIN ").skip(1) {
        if !part.contains("PRIVATE KEY") {
            continue;
        }
        let lines: Vec<&str> = part.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
        let name = format!("the key of {}", path.display());
        let whole = lines.iter().filter(|line| line.len() > 16);
        found.extend(whole.map(|line| (name.clone(), line.as_bytes().to_vec())));
        use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
        let der = BASE64.decode(lines.concat())?;
        // PKCS#8 of both kinds has the secret behind its first bytes
        let secret = &der[der.len().min(36)..der.len().min(66)];
        found.extend(forms(&name, if secret.len() > 8 { secret } else { &der[16..] }));
    }
    anyhow::ensure!(!found.is_empty(), "{} holds no key", path.display());
    Ok(found)
}

/// Makes a system be refused in every way that its own requests can be, each
/// with content inside; the reasons that it heard.
async fn refusals(
    raw: &Raw,
    content: &'static [u8],
    subject: &'static str,
) -> anyhow::Result<BTreeSet<&'static str>> {
    let mut heard = BTreeSet::new();
    let mut hear = |status: Result<(), Status>| {
        let (reason, violations) = refusal_of(&status.expect_err("refused"));
        heard.extend(reason.map(|reason| reason.short_name()));
        // the places say more exactly what it was
        let exact = violations.iter().filter_map(|(_, words)| words.split(':').next());
        let named = exact.filter_map(|word| Reason::ALL.iter().find(|known| known.short_name() == word));
        heard.extend(named.map(|reason| reason.short_name()));
    };
    let submit = async |sealed: SealedEnvelope, documents: Vec<Bytes>| {
        let request = SubmitRequest { sealed_envelope: Some(sealed), documents };
        raw.submission().submit(request).await.map(drop)
    };
    let rides = || vec![Bytes::from_static(content)];
    let envelope = || {
        let mut envelope = raw.envelope("G18", content);
        let Some(Body::Document(body)) = &mut envelope.body else { panic!("it has one") };
        body.metadata.get_or_insert_default().subject = subject.to_owned();
        body.documents[0].name = "TEN-TEP-MAT-31.txt".into();
        envelope
    };
    type Change = fn(&mut Envelope);
    let changes: [Change; 14] = [
        |envelope| envelope.hub_id = "truc.khac".into(),
        |envelope| envelope.sender = "G18".into(),
        |envelope| envelope.envelope_id = Bytes::from_static(b"odd"),
        |envelope| envelope.recipients.clear(),
        |envelope| envelope.recipients[0].agency = "khong co".into(),
        |envelope| envelope.recipients[0].agency = "H99".into(),
        |envelope| envelope.recipients.push(envelope.recipients[0].clone()),
        |envelope| envelope.groups.push("khong-co".into()),
        |envelope| envelope.created_unix_ms -= 31 * limits::DAY_MS,
        |envelope| envelope.created_unix_ms += limits::DAY_MS,
        |envelope| {
            envelope.created_unix_ms -= 60_000;
            envelope.expires_unix_ms = envelope.created_unix_ms + 1_000;
        },
        |envelope| documents_of(envelope)[0].size += 1,
        |envelope| documents_of(envelope)[0].sha256 = vec![7; 32].into(),
        |envelope| documents_of(envelope)[0].name = "TEN-TEP-MAT-31".repeat(30),
    ];
    for change in changes {
        let mut envelope = envelope();
        change(&mut envelope);
        hear(submit(raw.seal(&envelope), rides()).await);
    }
    // sealed badly: another's words, a stranger's key, twice, for something else
    let mut sealed = raw.seal(&envelope());
    sealed.signatures[0].sig = vec![1; 64].into();
    hear(submit(sealed, rides()).await);
    let payload = || envelope().encode_to_vec();
    hear(submit(seal(PayloadType::Envelope, payload(), &[&SigningKey::generate()]), rides()).await);
    hear(submit(seal(PayloadType::Acknowledgement, payload(), &[&raw.key]), rides()).await);
    let mut twice = raw.seal(&envelope());
    twice.signatures.push(twice.signatures[0].clone());
    hear(submit(twice, rides()).await);
    let cut = payload();
    hear(submit(seal(PayloadType::Envelope, cut[..cut.len() - 3].to_vec(), &[&raw.key]), rides()).await);
    // the same id with other words
    let mut again = envelope();
    submit(raw.seal(&again), rides()).await?;
    again.priority = Priority::Express.into();
    hear(submit(raw.seal(&again), rides()).await);
    // uploads that are not what they say
    let sha256 = Bytes::copy_from_slice(Digest::of(b"something else").as_bytes());
    let size = content.len() as u64;
    let start = |offset| UploadRequest {
        part: Some(Part::Start(UploadStart { sha256: sha256.clone(), size, offset })),
    };
    let chunk = || UploadRequest { part: Some(Part::Chunk(Bytes::from_static(content))) };
    for parts in
        [vec![chunk()], vec![start(3), chunk()], vec![start(0), chunk()], vec![start(0), chunk(), chunk()]]
    {
        hear(raw.submission().upload(tokio_stream::iter(parts)).await.map(drop));
    }
    // answers to deliveries that there are not
    let acknowledgement = Acknowledgement {
        hub_id: "truc.test".into(),
        delivery_id: "odd".into(),
        envelope_digest: vec![7; 32].into(),
        recipient: "G22".into(),
        mailbox_sequence: 1,
        acknowledged_unix_ms: 1,
        reference: "SO-DEN-MAT-5512".into(),
    };
    let sealed = seal(PayloadType::Acknowledgement, acknowledgement.encode_to_vec(), &[&raw.key]);
    let request = AcknowledgeRequest { sealed_acknowledgement: Some(sealed) };
    hear(raw.mailbox().acknowledge(request).await.map(drop));
    Ok(heard)
}

fn documents_of(envelope: &mut Envelope) -> &mut Vec<Document> {
    match &mut envelope.body {
        Some(Body::Document(body)) => &mut body.documents,
        None => panic!("it has one"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_and_shown_holds_neither_content_nor_keys() -> anyhow::Result<()> {
    let mut hub = HubProcess::start_logging("trace").await?;
    let token = admin::add_system(&mut hub.admin().await?, "vpcp", &["G22"]).await?;
    let vpcp = Ministry::enrol(&hub.path().with_file_name("vpcp"), &token).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let content: &[u8] = b"NOI-DUNG-MAT-8fd1c2";
    let large: Vec<u8> = content.iter().copied().cycle().take(300_000).collect();
    let subject = "TRICH-YEU-MAT-77ab";
    let letter = || {
        Outgoing::new(vpcp.agency(), subject)
            .to(byt.agency())
            .bytes("TEN-TEP-MAT-31.txt", content.to_vec())
            .bytes("lớn.bin", large.clone())
    };
    vpcp.send(letter()).await?;
    let mut deliveries = byt.client.receive(ReceiveOptions::following()).await?;
    let received = byt.next(&mut deliveries).await?;
    received.ack("SO-DEN-MAT-5512").await?;
    let raw = Raw::at(vpcp.home(), "G22").await?;
    let reasons = refusals(&raw, content, subject).await?;
    assert!(reasons.len() >= 16, "only {reasons:?}");
    vpcp.send(letter()).await?;
    let received = byt.next(&mut deliveries).await?;
    received.reject(RejectionReason::WrongAddressee, "LY-DO-MAT-904b").await?;
    // a token that was used, and a fault
    let second = hub.path().with_file_name("second");
    Ministry::enrol(&second, &token).await.map(drop).expect_err("a token opens once");
    // and a fault: the vault has lost the document
    vpcp.send(letter()).await?;
    std::fs::remove_dir_all(hub.path().join("data/vault/objects"))?;
    let received = byt.next(&mut deliveries).await?;
    let into = hub.path().with_file_name("received");
    let lost = timeout(Duration::from_secs(3), received.save(&into, &quiet)).await;
    assert!(!matches!(lost, Ok(Ok(_))), "the document is gone");

    let addresses: toml::Table = std::fs::read_to_string(hub.path().join("addresses.toml"))?.parse()?;
    let operators = addresses["operators"].as_str().context("an address")?;
    let mut shown = Vec::new();
    for path in ["/", "/?lang=en", "/metrics", "/health/ready"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = answer(operators, request.as_bytes()).await?;
        assert!(answer.starts_with(b"HTTP/1.1 200") || path == "/health/ready");
        shown.push((path.to_owned(), answer));
    }
    drop((deliveries, raw));
    hub.terminate().await?;
    let log = hub.log();
    for sign in ["TRACE", "system enrolled", "enrolment token refused", "incident"] {
        assert!(log.contains(sign), "the log was looked at too early or holds nothing: {sign}");
    }
    shown.push(("the log".to_owned(), log.into_bytes()));

    let mut secrets = Vec::new();
    for (what, bytes) in [
        ("a document", content),
        ("a subject", subject.as_bytes()),
        ("a file's name", b"TEN-TEP-MAT-31"),
        ("an acknowledgement's reference", b"SO-DEN-MAT-5512"),
        ("a rejection's words", b"LY-DO-MAT-904b"),
        ("a token", token.as_bytes()),
        ("a token's secret", &token.parse::<axis_client::EnrolmentToken>()?.secret),
        ("a key's label", b"PRIVATE KEY"),
    ] {
        secrets.extend(forms(what, bytes));
    }
    let keys = hub.path().join("keys");
    for path in [keys.join("checkpoint.pem"), keys.join("authority.pem"), keys.join("server.pem")] {
        secrets.extend(pem(path)?);
    }
    for home in [vpcp.home(), byt.home()] {
        secrets.extend(pem(home.join("signing.pem"))?);
        secrets.extend(pem(home.join("tls.pem"))?);
    }
    let mut by_beginning: HashMap<&[u8], Vec<&(String, Vec<u8>)>> = HashMap::new();
    for secret in &secrets {
        by_beginning.entry(&secret.1[..BEGINNING]).or_default().push(secret);
    }
    for (place, text) in &shown {
        for at in 0..text.len().saturating_sub(BEGINNING) {
            let Some(possible) = by_beginning.get(&text[at..at + BEGINNING]) else { continue };
            let around = String::from_utf8_lossy(&text[at.saturating_sub(200)..at]);
            for (what, form) in possible {
                assert!(!text[at..].starts_with(form), "{place} holds {what}, behind: {around}");
            }
        }
    }
    Ok(())
}
