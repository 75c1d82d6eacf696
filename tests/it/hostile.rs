//! Clients that are broken or mean harm, beside honest ones: they lose their
//! own connection, and nobody else's work waits for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_hub::{
    clock::Clock,
    config::{self, Config},
    limits,
};
use axis_proto::{
    admin::v1::SetSystemStateRequest,
    hub::v1::{
        Credit, GetInfoRequest, Reason, ReceiveRequest, ReceiveStart, SubmitRequest, SubmitStreamRequest,
        hub_service_client::HubServiceClient, receive_request::Part as Say, receive_response::Part as Heard,
    },
    record::v1::{Record, SystemState},
};
use axis_tests::{
    Ministry, PATIENCE, Raw, TestHub, eventually,
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
use tonic_types::StatusExt as _;

const SUBMIT: &str = "/axis.hub.v1.SubmissionService/Submit";

/// A hub with an honest pair, `vpcp` (G22) who sends and `byt` (G18) who
/// receives, and `hostile` (H53), who is enrolled like them.
pub(crate) struct Situation {
    pub(crate) hub: TestHub,
    pub(crate) vpcp: Ministry,
    pub(crate) byt: Ministry,
    pub(crate) hostile: Ministry,
}

impl Situation {
    pub(crate) async fn new(change: fn(&mut Config)) -> anyhow::Result<Self> {
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
    pub(crate) async fn honest(&self) -> anyhow::Result<()> {
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
pub(crate) async fn answer(address: &str, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
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
