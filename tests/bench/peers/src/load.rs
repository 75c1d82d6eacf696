//! The load, the same for every peer: bodies of 4 KiB, so many under way at
//! once, counted after a warm-up. Knows no protocol.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::server::Server;

/// Bytes of a message's body.
pub const BODY_BYTES: usize = 4_096;
/// Messages that wait for the answer to their submission.
pub const UNDER_WAY: usize = 256;
/// Messages anywhere between submission and the end of their acknowledgement:
/// enough to keep the slower side busy, and no queue that grows.
pub const CYCLES_UNDER_WAY: usize = 1_024;
/// Whom messages are for: a queue each.
pub const RECIPIENTS: usize = 4;
/// Longest that what is under way may take to end after the measurement.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Latencies from 1 µs to a minute, to three digits.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What is asked of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Work {
    /// Durable before the answer, 256 under way
    Accept,
    /// The same, one after the other
    One,
    /// Accepted, delivered, acknowledged, all of it durable
    Cycle,
}

impl Work {
    /// As figures are filed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::One => "one",
            Self::Cycle => "cycle",
        }
    }
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Before anything counts.
    pub warm_up: Duration,
    /// That counts.
    pub measured: Duration,
}

impl Span {
    /// Of so many seconds after a fifth of that, one second at least.
    pub fn of(seconds: u64) -> Self {
        let measured = Duration::from_secs(seconds.max(1));
        Self { warm_up: (measured / 5).max(Duration::from_secs(1)), measured }
    }
}

/// A measurement, one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    pub peer: String,
    pub work: String,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of all the server's processes, during the measurement.
    pub cpu_seconds: Option<f64>,
    /// The same for each message.
    pub cpu_us_each: Option<f64>,
    pub seconds: f64,
}

/// What can be loaded. A lane does one thing after the other.
pub trait Peer: Send + Sync + 'static {
    /// Lanes that consume in a full cycle.
    const CONSUMERS: usize;

    /// Hands a message in, and returns when it is durable.
    fn accept(&self, lane: usize, body: Bytes) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Takes and acknowledges messages, each told to the cycle, until dropped.
    fn consume(&self, lane: usize, cycle: &Cycle) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Messages that are kept for somebody, once nobody consumes any more.
    fn kept(&self) -> impl Future<Output = anyhow::Result<u64>> + Send;
}

/// Does a work and measures it.
pub async fn measure<P: Peer>(
    peer: Arc<P>,
    server: &Server,
    work: Work,
    span: Span,
) -> anyhow::Result<Figures> {
    let recorder = Arc::new(Recorder::new(span));
    match work {
        Work::Accept => accepts(&peer, server, &recorder, UNDER_WAY).await?,
        Work::One => accepts(&peer, server, &recorder, 1).await?,
        Work::Cycle => cycles(&peer, server, &recorder).await?,
    }
    Ok(recorder.figures(server.name(), work))
}

async fn accepts<P: Peer>(
    peer: &Arc<P>,
    server: &Server,
    recorder: &Arc<Recorder>,
    lanes: usize,
) -> anyhow::Result<()> {
    let mut under_way = JoinSet::new();
    for lane in 0..lanes {
        let (peer, recorder) = (peer.clone(), recorder.clone());
        under_way.spawn(async move {
            let body = Bytes::from(body());
            while recorder.goes_on() {
                let began = Instant::now();
                peer.accept(lane, body.clone()).await?;
                recorder.done(began);
            }
            anyhow::Ok(())
        });
    }
    recorder.watch(server, &mut under_way).await?;
    join(&mut under_way).await?;
    keeps(peer, recorder.all.load(Ordering::Relaxed)).await
}

async fn cycles<P: Peer>(peer: &Arc<P>, server: &Server, recorder: &Arc<Recorder>) -> anyhow::Result<()> {
    let cycle = Arc::new(Cycle { recorder: recorder.clone(), room: Semaphore::new(CYCLES_UNDER_WAY) });
    let mut consumers = JoinSet::new();
    for lane in 0..P::CONSUMERS {
        let (peer, cycle) = (peer.clone(), cycle.clone());
        consumers.spawn(async move { peer.consume(lane, &cycle).await });
    }
    let mut producers = JoinSet::new();
    for lane in 0..UNDER_WAY {
        let (peer, cycle) = (peer.clone(), cycle.clone());
        producers.spawn(async move {
            while cycle.recorder.goes_on() {
                cycle.room.acquire().await?.forget();
                peer.accept(lane, cycle.stamped()).await?;
            }
            anyhow::Ok(())
        });
    }
    recorder.watch(server, &mut producers).await?;
    join(&mut producers).await?;
    // whatever was accepted ends: all room is free again
    let drained = cycle.room.acquire_many(CYCLES_UNDER_WAY as u32);
    tokio::select! {
        drained = tokio::time::timeout(DRAIN_MAX, drained) => drop(drained.context("some were never acknowledged")?),
        Some(ended) = consumers.join_next() => ended?.context("a consumer ended")?,
    }
    consumers.shutdown().await;
    keeps(peer, 0).await
}

/// That a peer comes to hold as many as it should: all that it accepted, none
/// that was acknowledged.
async fn keeps<P: Peer>(peer: &Arc<P>, count: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let kept = peer.kept().await?;
        if kept == count {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < DRAIN_MAX, "{kept} are kept, and should be {count}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn join(lanes: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let all = async {
        while let Some(ended) = lanes.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DRAIN_MAX, all).await.context("some were never answered")?
}

/// 4 KiB that nothing makes smaller.
fn body() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..BODY_BYTES / 8).flat_map(|_| next()).collect()
}

/// Messages between submission and acknowledgement.
pub struct Cycle {
    recorder: Arc<Recorder>,
    room: Semaphore,
}

impl Cycle {
    /// A body that says when it was handed in.
    fn stamped(&self) -> Bytes {
        let mut body = body();
        let now = self.recorder.epoch.elapsed().as_nanos() as u64;
        body[..8].copy_from_slice(&now.to_le_bytes());
        body.into()
    }

    /// A message's acknowledgement has ended.
    pub fn acknowledged(&self, body: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(body.len() == BODY_BYTES, "a body of {} bytes was delivered", body.len());
        let (stamp, _) = body.split_first_chunk().context("a body without its time")?;
        self.recorder.done(self.recorder.epoch + Duration::from_nanos(u64::from_le_bytes(*stamp)));
        self.room.add_permits(1);
        Ok(())
    }
}

/// What was done in time, and how long each took.
struct Recorder {
    epoch: Instant,
    span: Span,
    latencies: Mutex<Histogram<u64>>,
    all: AtomicU64,
    cpu_us: AtomicU64,
}

impl Recorder {
    fn new(span: Span) -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds that are in order");
        let (all, cpu_us) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { epoch: Instant::now(), span, latencies: Mutex::new(latencies), all, cpu_us }
    }

    fn goes_on(&self) -> bool {
        self.epoch.elapsed() < self.span.warm_up + self.span.measured
    }

    /// Counts what ends within the measured time.
    fn done(&self, began: Instant) {
        self.all.fetch_add(1, Ordering::Relaxed);
        let now = self.epoch.elapsed();
        if now >= self.span.warm_up && now < self.span.warm_up + self.span.measured {
            let latency = began.elapsed().as_micros() as u64;
            self.latencies.lock().expect("nobody panics with it").saturating_record(latency.max(1));
        }
    }

    /// Until the measured time is over, or a lane failed.
    async fn watch(&self, server: &Server, lanes: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        let mut before = 0.0;
        let at = |until: Duration| tokio::time::sleep(until.saturating_sub(self.epoch.elapsed()));
        for end in [false, true] {
            let mut time =
                std::pin::pin!(at(self.span.warm_up + if end { self.span.measured } else { Duration::ZERO }));
            loop {
                tokio::select! {
                    () = &mut time => break,
                    Some(ended) = lanes.join_next() => ended??,
                }
            }
            match end {
                false => before = server.cpu_seconds(),
                true => {
                    let spent = server.cpu_seconds() - before;
                    self.cpu_us.store((spent * 1e6) as u64, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn figures(&self, peer: &str, work: Work) -> Figures {
        let latencies = self.latencies.lock().expect("nobody panics with it");
        let (seconds, cpu_us) =
            (self.span.measured.as_secs_f64(), self.cpu_us.load(Ordering::Relaxed) as f64);
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Figures {
            peer: peer.to_owned(),
            work: work.name().to_owned(),
            per_second: latencies.len() as f64 / seconds,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            cpu_seconds: Some(cpu_us / 1e6),
            cpu_us_each: Some(cpu_us / latencies.len().max(1) as f64),
            seconds,
        }
    }
}
