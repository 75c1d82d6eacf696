//! How a load is measured: closed, so many under way at once, or open, at a
//! rate that does not wait for answers; after a warm-up, for some seconds.
//! Latencies go into a histogram in microseconds. Says how far it is, once a
//! second, where somebody looks at it.
//!
//! ```text
//! let pace = Pace::seconds(10);
//! // a closed loop of 64, each call says how many bytes it moved; None: no more
//! let measured = closed("submit", pace, hub.pid(), 64, move |worker| async move { Ok(Some(4_096)) }).await?;
//! // 5 000 a second; latencies count from when each call was due
//! let measured = open("submit", pace, hub.pid(), 5_000.0, move |number| async move { … }).await?;
//! // anything else: count what ends, stop when `tally` does not go on
//! let tally = Tally::default();
//! let counter = tally.counter();
//! let (measured, ended) = watch("cycle", pace, hub.pid(), &tally, async { … }).await?;
//! table.add("submit", measured.figures());
//! ```

use std::{
    io::IsTerminal as _,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::timeout,
};

/// Named figures, in the order in which they are shown.
pub type Figures = Vec<(&'static str, f64)>;

/// Longest that a latency is told apart.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Longest that calls which were under way may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// What the kernel counts processor time in, a second; the same on all Linux.
const TICKS: f64 = 100.0;

/// How long calls took, to a thousandth, from a microsecond to hours.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are possible"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, took: Duration) {
        let us = took.min(LONGEST).as_micros() as u64;
        self.0.record(us).expect("it grows by itself");
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows by itself");
    }

    /// The time within which so many of a hundred were answered, in
    /// milliseconds; 100 is the longest.
    pub fn ms(&self, of_hundred: f64) -> f64 {
        self.0.value_at_quantile(of_hundred / 100.0) as f64 / 1e3
    }

    /// The usual ones.
    pub fn figures(&self) -> Figures {
        [("p50 ms", 50.0), ("p90 ms", 90.0), ("p99 ms", 99.0), ("p99.9 ms", 99.9), ("max ms", 100.0)]
            .map(|(name, of_hundred)| (name, self.ms(of_hundred)))
            .into()
    }
}

/// How long is warmed up, and then measured.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Not counted.
    pub warm: Duration,
    /// Counted.
    pub run: Duration,
}

impl Pace {
    /// Measures so long, after a fifth of it, at most two seconds.
    pub fn seconds(seconds: u64) -> Self {
        let run = Duration::from_secs(seconds);
        Self { warm: (run / 5).min(Duration::from_secs(2)), run }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// How many calls ended.
    pub count: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// In what time.
    pub took: Duration,
    /// Each call's.
    pub latencies: Latencies,
    /// Processor time of the hub.
    pub hub_cpu: Duration,
    /// Processor time of the load, which is this process.
    pub own_cpu: Duration,
    /// How much of all processors was not idle, of a hundred, with what was
    /// stolen.
    pub busy: f64,
    /// How much of them the host had for others, of a hundred.
    pub stolen: f64,
}

impl Measured {
    /// Calls a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Bytes a second, in millions.
    #[allow(dead_code, reason = "profiles of large documents say it")]
    pub fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.took.as_secs_f64().max(1e-9)
    }

    /// Processor time of the hub for each, in microseconds.
    pub fn hub_us(&self) -> f64 {
        self.hub_cpu.as_secs_f64() * 1e6 / self.count.max(1) as f64
    }

    /// The same of the load.
    pub fn own_us(&self) -> f64 {
        self.own_cpu.as_secs_f64() * 1e6 / self.count.max(1) as f64
    }

    /// Rate, latencies, and who used the processors.
    pub fn figures(&self) -> Figures {
        let mut figures = vec![("per second", self.rate())];
        figures.extend(self.latencies.figures());
        figures.push(("hub CPU µs", self.hub_us()));
        figures.push(("load CPU µs", self.own_us()));
        figures.push(("machine busy %", self.busy));
        figures.push(("stolen %", self.stolen));
        figures
    }
}

/// What is measured now. Cheap to clone; each worker takes a counter of its
/// own.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    began: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    stopped: AtomicBool,
    finished: Notify,
    count: AtomicU64,
    bytes: AtomicU64,
    latencies: Mutex<Vec<Arc<Mutex<Latencies>>>>,
}

/// Counts for one worker.
#[derive(Debug, Clone)]
pub struct Counter {
    shared: Arc<Shared>,
    latencies: Arc<Mutex<Latencies>>,
}

impl Tally {
    /// A counter for a worker.
    pub fn counter(&self) -> Counter {
        let latencies = Arc::new(Mutex::new(Latencies::default()));
        held(&self.0.latencies).push(latencies.clone());
        Counter { shared: self.0.clone(), latencies }
    }

    /// Whether more should be begun.
    pub fn goes_on(&self) -> bool {
        !self.0.stopped.load(Ordering::Relaxed)
    }

    /// Whether what ends now is counted.
    pub fn counts(&self) -> bool {
        self.0.began.get().is_some() && self.0.ended.get().is_none()
    }

    /// There is nothing more to begin: what was measured so far is all.
    pub fn finish(&self) {
        let _once = self.0.ended.set(Instant::now());
        self.0.stopped.store(true, Ordering::Relaxed);
        self.0.finished.notify_one();
    }

    fn latencies(&self) -> Latencies {
        let mut all = Latencies::default();
        held(&self.0.latencies).iter().for_each(|one| all.add(&held(one)));
        all
    }
}

impl Counter {
    /// Something ended just now.
    pub fn ended(&self, took: Duration, bytes: u64) {
        self.count(Instant::now(), took, bytes);
    }

    /// Something took so long; it is counted if this moment is measured.
    pub fn count(&self, moment: Instant, took: Duration, bytes: u64) {
        let shared = &self.shared;
        let begun = shared.began.get().is_some_and(|began| moment >= *began);
        if begun && shared.ended.get().is_none_or(|ended| moment < *ended) {
            shared.count.fetch_add(1, Ordering::Relaxed);
            shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            held(&self.latencies).record(took);
        }
    }
}

fn held<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures work that counts itself: it ends by itself once the tally does
/// not go on. If it ends before, the clock stops with it. `hub` is the process
/// whose time is told apart.
pub async fn watch<T>(
    what: &str,
    pace: Pace,
    hub: u32,
    tally: &Tally,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Measured, T)> {
    let mut work = pin!(work);
    let mut outcome = timeout(pace.warm, &mut work).await.ok().transpose()?;
    anyhow::ensure!(outcome.is_none() && tally.goes_on(), "{what}: ended before it was measured");
    let (before, began) = (Usage::now(hub), Instant::now());
    let _once = tally.0.began.set(began);
    while outcome.is_none() && tally.goes_on() {
        let Some(left) = pace.run.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else { break };
        tokio::select! {
            ended = &mut work => outcome = Some(ended?),
            () = tokio::time::sleep(left.min(Duration::from_secs(1))) => {}
            () = tally.0.finished.notified() => {}
        }
        progress(what, tally.0.count.load(Ordering::Relaxed), began.elapsed());
    }
    tally.finish();
    let ended = tally.0.ended.get().copied().unwrap_or_else(Instant::now);
    let used = Usage::now(hub).since(&before);
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => timeout(DRAIN_MAX, work).await.with_context(|| format!("{what}: does not end"))??,
    };
    progress_ends();
    let measured = Measured {
        count: tally.0.count.load(Ordering::Relaxed),
        bytes: tally.0.bytes.load(Ordering::Relaxed),
        took: ended - began,
        latencies: tally.latencies(),
        hub_cpu: used.hub,
        own_cpu: used.own,
        busy: used.busy,
        stolen: used.stolen,
    };
    anyhow::ensure!(measured.count > 0, "{what}: nothing ended while it was measured");
    Ok((measured, outcome))
}

/// So many under way at once, each begun when the one before it ended. A call
/// is given its worker's number, and says how many bytes it moved; `None` says
/// that there is nothing more to do, which ends the measurement.
pub async fn closed<F, Call>(
    what: &str,
    pace: Pace,
    hub: u32,
    at_once: usize,
    call: F,
) -> anyhow::Result<Measured>
where
    F: Fn(usize) -> Call + Clone + Send + 'static,
    Call: Future<Output = anyhow::Result<Option<u64>>> + Send + 'static,
{
    let tally = Tally::default();
    let mut workers = JoinSet::new();
    for worker in 0..at_once {
        let (call, tally, counter) = (call.clone(), tally.clone(), tally.counter());
        workers.spawn(async move {
            while tally.goes_on() {
                let began = Instant::now();
                let Some(bytes) = call(worker).await? else {
                    tally.finish();
                    break;
                };
                counter.ended(began.elapsed(), bytes);
            }
            anyhow::Ok(())
        });
    }
    Ok(watch(what, pace, hub, &tally, all(workers)).await?.0)
}

/// A fixed number a second, whatever is not answered yet. A call is given its
/// number; its latency counts from when it was due, so that one that could not
/// even begin is not forgotten. Counted is what was due while it is measured.
pub async fn open<F, Call>(
    what: &str,
    pace: Pace,
    hub: u32,
    per_second: f64,
    call: F,
) -> anyhow::Result<Measured>
where
    F: Fn(u64) -> Call + Clone + Send + 'static,
    Call: Future<Output = anyhow::Result<Option<u64>>> + Send + 'static,
{
    let tally = Tally::default();
    let (due, mut dues) = mpsc::unbounded_channel();
    let (beat, counter) = (tally.clone(), tally.counter());
    // a thread's sleep is ten times as exact as the runtime's
    let metronome = tokio::task::spawn_blocking(move || {
        let (began, gap) = (Instant::now(), Duration::from_secs_f64(1.0 / per_second.max(0.1)));
        let mut next = began;
        while beat.goes_on() {
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(gap));
            while next <= Instant::now() {
                if due.send(next).is_err() {
                    return;
                }
                next += gap;
            }
        }
    });
    let work = async {
        let mut calls = JoinSet::new();
        let mut number = 0;
        while let Some(due) = dues.recv().await {
            let (call, counter) = (call(number), counter.clone());
            number += 1;
            calls.spawn(async move {
                if let Some(bytes) = call.await? {
                    counter.count(due, due.elapsed(), bytes);
                }
                anyhow::Ok(())
            });
            while let Some(ended) = calls.try_join_next() {
                ended??;
            }
        }
        all(calls).await
    };
    // what was due and is answered later is waited for, and counted
    let measured = watch(what, pace, hub, &tally, work).await;
    tally.finish();
    metronome.await?;
    Ok(measured?.0)
}

/// Waits for all, and fails with the first that does.
pub async fn all(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn progress(what: &str, count: u64, took: Duration) {
    if std::io::stderr().is_terminal() {
        let rate = count as f64 / took.as_secs_f64().max(1e-9);
        eprint!("\r\x1b[K{what}: {count} in {:.0} s, {rate:.0}/s", took.as_secs_f64());
    }
}

fn progress_ends() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

/// Processor time so far.
struct Usage {
    hub: Duration,
    own: Duration,
    machine: Ticks,
}

/// Of all processors.
#[derive(Clone, Copy)]
struct Ticks {
    all: f64,
    idle: f64,
    /// While the host had the processor for others.
    stolen: f64,
}

/// Processor time between two moments.
struct Used {
    hub: Duration,
    own: Duration,
    busy: f64,
    stolen: f64,
}

impl Usage {
    fn now(hub: u32) -> Self {
        Self { hub: cpu(&hub.to_string()), own: cpu("self"), machine: machine() }
    }

    fn since(&self, before: &Self) -> Used {
        let (now, then) = (self.machine, before.machine);
        let of_hundred = |ticks: f64| 100.0 * ticks / (now.all - then.all).max(1.0);
        Used {
            hub: self.hub.saturating_sub(before.hub),
            own: self.own.saturating_sub(before.own),
            busy: of_hundred((now.all - now.idle) - (then.all - then.idle)),
            stolen: of_hundred(now.stolen - then.stolen),
        }
    }
}

/// Processor time of a process and all its threads, its own and the kernel's
/// for it; zero where the system does not say.
pub fn cpu(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // the name, which may hold anything, ends with the last parenthesis
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|one| one.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS)
}

fn machine() -> Ticks {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    // guests' time is in user's already
    let ticks: Vec<f64> =
        first.split_whitespace().skip(1).take(8).filter_map(|one| one.parse().ok()).collect();
    Ticks {
        all: ticks.iter().sum(),
        idle: ticks.iter().skip(3).take(2).sum(),
        stolen: ticks.get(7).copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { warm: Duration::from_millis(20), run: Duration::from_millis(200) };

    #[test]
    fn latencies_are_kept_to_a_thousandth() {
        let mut latencies = Latencies::default();
        (1..=1_000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let near = |of_hundred, ms: f64| (latencies.ms(of_hundred) / ms - 1.0).abs() < 0.002;
        assert!(near(50.0, 500.0) && near(99.0, 990.0) && near(100.0, 1_000.0), "{latencies:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_open_loop_does_not_wait_for_answers_and_counts_from_when_it_was_due() {
        let own = std::process::id();
        let late = Duration::from_millis(50);
        let call = move |_| async move {
            tokio::time::sleep(late).await;
            Ok(Some(1))
        };
        // closed, one at a time: at most 20 a second
        let closed = closed("closed", PACE, own, 1, call).await.unwrap();
        assert!((1..=4).contains(&closed.count), "{closed:?}");
        let open = open("open", PACE, own, 100.0, move |number| call(number as usize)).await.unwrap();
        assert!((15..=25).contains(&open.count) && open.latencies.ms(50.0) >= 50.0, "{open:?}");
    }

    #[tokio::test]
    async fn what_fails_is_no_figure() {
        let call = |_| async { anyhow::bail!("refused") };
        let failed = closed("failing", PACE, std::process::id(), 4, call).await.unwrap_err();
        assert_eq!(failed.to_string(), "refused");
        let ended = closed("ended", PACE, std::process::id(), 4, |_| async { Ok(None) }).await.unwrap_err();
        assert!(ended.to_string().contains("before it was measured"), "{ended}");
    }

    #[test]
    fn processor_time_is_read() {
        let began = cpu("self");
        while cpu("self") == began {}
        assert_eq!(cpu("0"), Duration::ZERO);
    }
}
