//! Load as systems make it: over TLS, with signatures that are made here and
//! checked there. What is signed is signed before the clock starts.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_proto::{
    envelope::v1::Acknowledgement,
    hub::v1::{
        AcknowledgeRequest, Credit, Delivery, ReceiveRequest, ReceiveStart, SubmitRequest, TaggedAcknowledge,
        receive_request::Part as Ask, receive_response::Part as Answer,
    },
    seal::{PayloadType, seal},
};
use axis_tests::{
    Raw,
    seed::{EVERYONE, agency, home},
};
use futures_util::future::try_join_all;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Submissions under way at once.
const SUBMITS_AT_ONCE: usize = 64;
/// Credit of a stream that receives.
const CREDIT: u32 = 128;

/// How long calls took.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The time within which so many of a thousand were answered, in
    /// milliseconds.
    pub fn ms(&self, of_thousand: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * of_thousand / 1_000).min(sorted.len().saturating_sub(1));
        sorted.get(place).map_or(0.0, |took| took.as_secs_f64() * 1_000.0)
    }
}

/// What a load did.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// How many.
    pub count: u64,
    /// In what time.
    pub took: Duration,
    /// Each call's.
    pub latencies: Latencies,
}

impl Done {
    /// A second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Connects a system of a seeded hub.
pub async fn connect(dir: &Path, place: usize) -> anyhow::Result<Raw> {
    Raw::at(&home(dir, place), &agency(place)).await
}

/// Submits envelopes to one recipient each, many at once.
pub async fn submit(dir: &Path, count: usize) -> anyhow::Result<Done> {
    let raw = connect(dir, 0).await?;
    let made = (0..count).map(|number| {
        let file = format!("Công văn số {number}");
        let sealed = raw.seal(&raw.envelope(&agency(1 + number % 7), file.as_bytes()));
        SubmitRequest { sealed_envelope: Some(sealed), documents: vec![file.into_bytes().into()] }
    });
    let made: Arc<Vec<SubmitRequest>> = Arc::new(made.collect());
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let workers = (0..SUBMITS_AT_ONCE).map(|_| {
        let (made, next, mut client) = (made.clone(), next.clone(), raw.submission());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while let Some(request) = made.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                let called = Instant::now();
                client.submit(request.clone()).await?;
                latencies.push(called.elapsed());
            }
            anyhow::Ok(latencies)
        })
    });
    let mut latencies = Vec::new();
    for of_worker in try_join_all(workers).await? {
        latencies.extend(of_worker?);
    }
    Ok(Done { count: count as u64, took: began.elapsed(), latencies: Latencies(latencies) })
}

/// Submits one at a time until told to end: how long each takes is what others
/// feel.
pub async fn probe(dir: &Path, end: tokio_util::sync::CancellationToken) -> anyhow::Result<Done> {
    let raw = connect(dir, 2).await?;
    let mut client = raw.submission();
    let (began, mut latencies) = (Instant::now(), Vec::new());
    while !end.is_cancelled() {
        let sealed = raw.seal(&raw.envelope(&agency(3), b"a"));
        let request = SubmitRequest { sealed_envelope: Some(sealed), documents: vec![b"a"[..].into()] };
        let called = Instant::now();
        client.submit(request).await?;
        latencies.push(called.elapsed());
    }
    Ok(Done { count: latencies.len() as u64, took: began.elapsed(), latencies: Latencies(latencies) })
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
    let (mut taken, mut done, mut first, mut latencies) = (0, 0, Duration::ZERO, Vec::new());
    while done < count {
        match answers.message().await?.and_then(|answer| answer.part) {
            Some(Answer::Delivery(delivery)) => {
                if taken == 0 {
                    first = began.elapsed();
                }
                taken += 1;
                sent.insert(taken, Instant::now());
                let request = acknowledge(&raw, &delivery);
                out.send(ask(Ask::Acknowledge(TaggedAcknowledge { tag: taken, request: Some(request) })))
                    .await?;
                if taken + u64::from(credit) <= count {
                    out.send(ask(Ask::Credit(Credit { deliveries: 1 }))).await?;
                }
            }
            Some(Answer::Answer(answer)) => {
                done += 1;
                latencies.extend(sent.remove(&answer.tag).map(|sent| sent.elapsed()));
            }
            Some(Answer::Closing(closing)) => anyhow::bail!("the hub closed the stream: {closing:?}"),
            Some(Answer::Gone(_) | Answer::Progress(_)) => {}
            None => anyhow::bail!("the stream ended after {done} of {count}"),
        }
    }
    let took = began.elapsed().saturating_sub(first);
    Ok((Done { count, took, latencies: Latencies(latencies) }, first))
}

fn acknowledge(raw: &Raw, delivery: &Delivery) -> AcknowledgeRequest {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let acknowledgement = Acknowledgement {
        hub_id: "truc.test".into(),
        delivery_id: delivery.delivery_id.clone(),
        envelope_digest: delivery.envelope_digest.clone(),
        recipient: delivery.recipient.clone(),
        mailbox_sequence: delivery.mailbox_sequence,
        acknowledged_unix_ms: now.as_millis() as u64,
        reference: String::new(),
    };
    let sealed = seal(PayloadType::Acknowledgement, acknowledgement.encode_to_vec(), &[&raw.key]);
    AcknowledgeRequest { sealed_acknowledgement: Some(sealed) }
}
