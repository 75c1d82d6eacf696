//! Load as systems make it: over TLS, with signatures that are made here and
//! checked there. What is signed is signed before the clock starts.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_proto::hub::v1::{
    Credit, ReceiveRequest, ReceiveStart, SubmitRequest, TaggedAcknowledge, receive_request::Part as Ask,
    receive_response::Part as Answer,
};
use axis_tests::{
    Raw, acknowledge,
    seed::{EVERYONE, agency, home},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    measure::{Latencies, Measured, Pace, closed},
    signed::Signed,
};

/// Submissions under way at once.
const SUBMITS_AT_ONCE: usize = 64;
/// The system that gets what [`probe`] submits.
pub const PROBED: usize = 3;
/// Credit of a stream that receives.
const CREDIT: u32 = 128;

/// Longest that a count of calls may take.
const WITHIN: Duration = Duration::from_secs(3_600);

/// What a load did.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// How many.
    pub count: u64,
    /// Each call's.
    pub latencies: Latencies,
}

/// Connects a system of a seeded hub.
pub async fn connect(dir: &Path, place: usize) -> anyhow::Result<Raw> {
    Raw::wide(&home(dir, place), &agency(place)).await
}

/// Submits what was signed by the first systems, many at once, until nothing
/// is left.
pub async fn submit(dir: &Path, hub: u32, signed: Signed) -> anyhow::Result<Measured> {
    let mut clients = Vec::new();
    for place in 0..signed.senders() {
        clients.push(connect(dir, place).await?.submission());
    }
    let (clients, signed) = (Arc::new(clients), Arc::new(signed));
    let pace = Pace { warm: Duration::ZERO, run: WITHIN };
    closed("submit", pace, hub, SUBMITS_AT_ONCE, move |worker| {
        let (sender, clients, signed) = (worker % clients.len(), clients.clone(), signed.clone());
        async move {
            let Some(request) = signed.next(sender) else { return Ok(None) };
            clients[sender].clone().submit(request).await?;
            Ok(Some(0))
        }
    })
    .await
}

/// Submits one at a time until told to end: how long each takes is what others
/// feel.
pub async fn probe(dir: &Path, end: tokio_util::sync::CancellationToken) -> anyhow::Result<Done> {
    let raw = connect(dir, 2).await?;
    let mut client = raw.submission();
    let (mut count, mut latencies) = (0, Latencies::default());
    while !end.is_cancelled() {
        let sealed = raw.seal(&raw.envelope(&agency(PROBED), b"a"));
        let request = SubmitRequest { sealed_envelope: Some(sealed), documents: vec![b"a"[..].into()] };
        let called = Instant::now();
        client.submit(request).await?;
        latencies.record(called.elapsed());
        count += 1;
    }
    Ok(Done { count, latencies })
}

/// Submits one envelope to everybody; returns its sequence and how long the
/// answer took.
pub async fn broadcast(dir: &Path) -> anyhow::Result<Duration> {
    let raw = connect(dir, 0).await?;
    let mut envelope = raw.envelope(&agency(1), b"a");
    envelope.groups.push(EVERYONE.to_owned());
    let request =
        SubmitRequest { sealed_envelope: Some(raw.seal(&envelope)), documents: vec![b"a"[..].into()] };
    let called = Instant::now();
    raw.submission().submit(request).await.context("the broadcast")?;
    Ok(called.elapsed())
}

/// Takes and acknowledges from one mailbox; latencies are those of the
/// acknowledgements. Returns also when the first delivery came.
pub async fn deliver(dir: &Path, place: usize, count: u64) -> anyhow::Result<(Done, Duration)> {
    let began = Instant::now();
    let raw = connect(dir, place).await?;
    let (out, asks) = mpsc::channel(2 * CREDIT as usize);
    let ask = |part| ReceiveRequest { part: Some(part) };
    let credit = CREDIT.min(count.try_into().unwrap_or(CREDIT));
    out.send(ask(Ask::Start(ReceiveStart {
        accounted_to: 0,
        credit,
        lease_duration_ms: 600_000,
        ..Default::default()
    })))
    .await?;
    let mut answers = raw.mailbox().receive(ReceiverStream::new(asks)).await?.into_inner();
    let mut sent = std::collections::HashMap::new();
    let (mut taken, mut done, mut first, mut latencies) = (0, 0, Duration::ZERO, Latencies::default());
    while done < count {
        match answers.message().await?.and_then(|answer| answer.part) {
            Some(Answer::Delivery(delivery)) => {
                if taken == 0 {
                    first = began.elapsed();
                }
                taken += 1;
                sent.insert(taken, Instant::now());
                let request = acknowledge(&raw.key, &delivery);
                out.send(ask(Ask::Acknowledge(TaggedAcknowledge { tag: taken, request: Some(request) })))
                    .await?;
                if taken + u64::from(credit) <= count {
                    out.send(ask(Ask::Credit(Credit { deliveries: 1 }))).await?;
                }
            }
            Some(Answer::Answer(answer)) => {
                done += 1;
                if let Some(sent) = sent.remove(&answer.tag) {
                    latencies.record(sent.elapsed());
                }
            }
            Some(Answer::Closing(closing)) => anyhow::bail!("the hub closed the stream: {closing:?}"),
            Some(Answer::Gone(_) | Answer::Progress(_)) => {}
            None => anyhow::bail!("the stream ended after {done} of {count}"),
        }
    }
    Ok((Done { count, latencies }, first))
}
