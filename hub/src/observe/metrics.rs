//! The hub's counters, gauges and histograms, and their text. Labels come
//! from closed sets: enums of the contract, and systems of the directory;
//! never from what a caller wrote.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axis_proto::{admin::v1::Queue, hub::v1::Reason, record::v1::Settlement};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::machine::Tally;

/// How many batches the quantiles of the commit look back on.
const SAMPLES: usize = 1_024;

/// The hub's metrics. Cheap to clone; every method is a few atomic steps or a
/// short lock.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    submissions: Family<SubmissionLabels, Counter>,
    /// Of these, those that were accepted: nearly all.
    accepted: Counter,
    leases: Counter,
    parked: Counter,
    moved: Counter,
    settlements: Family<SettlementLabels, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    faults: Counter,
    commit_latency: Histogram,
    commit_batch: Histogram,
    commit_batch_max: Gauge<u64, AtomicU64>,
    journal_sync: Histogram,
    state_hold: Histogram,
    state_hold_max: Gauge<f64, AtomicU64>,
    received: Counter,
    sent: Counter,
    connections: Gauge,
    streams: Gauge,
    gauges: Gauges,
    recent: Mutex<Recent>,
    /// Held while the text is made, so that two scrapes do not mix.
    registry: Mutex<Registry>,
}

/// What is known only when somebody asks; set just before the text is made.
#[derive(Debug, Default)]
struct Gauges {
    ready: Gauge,
    clock_trusted: Gauge,
    journal_records: Gauge<u64, AtomicU64>,
    state_lag: Gauge<u64, AtomicU64>,
    disk_free: Gauge<u64, AtomicU64>,
    disk_total: Gauge<u64, AtomicU64>,
    last_backup: Gauge<u64, AtomicU64>,
    disk_low: Gauge<u64, AtomicU64>,
    queue_waiting: Family<SystemLabels, Gauge<u64, AtomicU64>>,
    queue_leased: Family<SystemLabels, Gauge<u64, AtomicU64>>,
    queue_parked: Family<SystemLabels, Gauge<u64, AtomicU64>>,
    queue_bytes: Family<SystemLabels, Gauge<u64, AtomicU64>>,
    queue_oldest: Family<SystemLabels, Gauge<u64, AtomicU64>>,
}

/// Latencies of the last batches, a ring.
#[derive(Debug, Default)]
struct Recent {
    samples: Vec<u32>,
    next: usize,
}

/// How a submission ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Submission {
    /// Recorded now.
    Accepted,
    /// Had been recorded before.
    Duplicate,
    /// The caller's mistake, or not now.
    Refused(Reason),
    /// Our failure.
    Fault,
}

/// One batch that became durable.
#[derive(Debug, Clone, Copy)]
pub struct CommitSample {
    /// How many records it holds.
    pub records: usize,
    /// From the queueing of its oldest command to the durable answer.
    pub latency_us: u64,
    /// What the journal's append with its sync took.
    pub sync_us: u64,
}

/// Connections or streams that are open while this lives.
#[derive(Debug)]
#[must_use = "counts only while it lives"]
pub struct OpenGuard(Gauge);

/// What a scrape asks the hub for.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// Whether the hub can commit.
    pub ready: bool,
    /// Whether deadlines act.
    pub clock_trusted: bool,
    /// Records in the journal.
    pub journal_records: u64,
    /// Records that the state on disk does not hold yet.
    pub state_lag_records: u64,
    /// Free bytes of the data disk.
    pub disk_free_bytes: u64,
    /// Bytes of the data disk.
    pub disk_total_bytes: u64,
    /// When the last backup was made; zero if none is known.
    pub last_backup_unix_ms: u64,
    /// Free bytes of it below which new documents are refused.
    pub disk_low_bytes: u64,
    /// What waits, per system.
    pub queues: Vec<Queue>,
    /// Now, for the age of the oldest.
    pub now_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SubmissionLabels {
    outcome: Outcome,
    reason: ReasonLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Outcome {
    Accepted,
    Duplicate,
    Refused,
    Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: ReasonLabel,
}

/// `REASON_UNSPECIFIED` is `none`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ReasonLabel(Reason);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SettlementLabels {
    settlement: SettlementLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SettlementLabel(Settlement);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SystemLabels {
    system: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        encoder.write_str(match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
            Self::Fault => "fault",
        })
    }
}

impl EncodeLabelValue for ReasonLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        match self.0 {
            Reason::Unspecified => encoder.write_str("none"),
            reason => write_lower(encoder, reason.as_str_name().trim_start_matches("REASON_")),
        }
    }
}

impl EncodeLabelValue for SettlementLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        write_lower(encoder, self.0.as_str_name().trim_start_matches("SETTLEMENT_"))
    }
}

fn write_lower(encoder: &mut LabelValueEncoder, name: &str) -> std::fmt::Result {
    name.chars().try_for_each(|letter| encoder.write_char(letter.to_ascii_lowercase()))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        // 0.25 ms … 4 s: from an SSD's sync to a disk in trouble
        let latency = || Histogram::new(exponential_buckets(0.000_25, 2.0, 15));
        let submissions: Family<SubmissionLabels, Counter> = Family::default();
        let (outcome, reason) = (Outcome::Accepted, ReasonLabel(Reason::Unspecified));
        let accepted = submissions.get_or_create(&SubmissionLabels { outcome, reason }).clone();
        let inner = Inner {
            submissions,
            accepted,
            leases: Counter::default(),
            parked: Counter::default(),
            moved: Counter::default(),
            settlements: Family::default(),
            refusals: Family::default(),
            faults: Counter::default(),
            commit_latency: latency(),
            commit_batch: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            commit_batch_max: Gauge::default(),
            journal_sync: latency(),
            state_hold: latency(),
            state_hold_max: Gauge::default(),
            received: Counter::default(),
            sent: Counter::default(),
            connections: Gauge::default(),
            streams: Gauge::default(),
            gauges: Gauges::default(),
            recent: Mutex::default(),
            registry: Mutex::new(Registry::with_prefix("axis")),
        };
        inner.register();
        Self(Arc::new(inner))
    }

    /// One submission was answered.
    pub fn submission(&self, submission: Submission) {
        let (outcome, reason) = match submission {
            Submission::Accepted => {
                self.0.accepted.inc();
                return;
            }
            Submission::Duplicate => (Outcome::Duplicate, Reason::Unspecified),
            Submission::Refused(reason) => (Outcome::Refused, reason),
            Submission::Fault => (Outcome::Fault, Reason::Unspecified),
        };
        self.0.submissions.get_or_create(&SubmissionLabels { outcome, reason: ReasonLabel(reason) }).inc();
    }

    /// Records became durable that tell of deliveries.
    pub fn recorded(&self, tally: &Tally) {
        let inner = &self.0;
        inner.leases.inc_by(tally.leased);
        inner.parked.inc_by(tally.parked);
        inner.moved.inc_by(tally.moved);
        for (settlement, count) in &tally.settled {
            let labels = SettlementLabels { settlement: SettlementLabel(*settlement) };
            inner.settlements.get_or_create(&labels).inc_by(*count);
        }
    }

    /// A call of any kind was refused.
    pub fn refused(&self, reason: Reason) {
        self.0.refusals.get_or_create(&ReasonLabels { reason: ReasonLabel(reason) }).inc();
    }

    /// The hub failed a call.
    pub fn fault(&self) {
        self.0.faults.inc();
    }

    /// A batch became durable.
    pub fn commit(&self, sample: CommitSample) {
        let inner = &self.0;
        inner.commit_latency.observe(sample.latency_us as f64 / 1e6);
        inner.commit_batch.observe(sample.records as f64);
        inner.commit_batch_max.inner().fetch_max(sample.records as u64, Ordering::Relaxed);
        inner.journal_sync.observe(sample.sync_us as f64 / 1e6);
        let mut recent = inner.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push(u32::try_from(sample.latency_us).unwrap_or(u32::MAX));
    }

    /// Somebody looked at one moment of the state for so long.
    pub fn state_held(&self, held_us: u64) {
        let seconds = held_us as f64 / 1e6;
        self.0.state_hold.observe(seconds);
        // as bits: those of numbers that are not negative sort as they do
        self.0.state_hold_max.inner().fetch_max(seconds.to_bits(), Ordering::Relaxed);
    }

    /// Median and 99th percentile of the last batches, in microseconds; zero
    /// before the first.
    pub fn commit_quantiles_us(&self) -> (u64, u64) {
        let mut samples = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).samples.clone();
        samples.sort_unstable();
        let at = |share: usize| {
            let last = samples.len().saturating_sub(1);
            samples.get(last * share / 100).copied().map_or(0, u64::from)
        };
        (at(50), at(99))
    }

    /// Bytes came from systems.
    pub fn received(&self, bytes: usize) {
        self.0.received.inc_by(bytes as u64);
    }

    /// Bytes went to systems.
    pub fn sent(&self, bytes: usize) {
        self.0.sent.inc_by(bytes as u64);
    }

    /// A connection is open until the guard is dropped.
    pub fn connection(&self) -> OpenGuard {
        OpenGuard::new(&self.0.connections)
    }

    /// A stream is open until the guard is dropped.
    pub fn stream(&self) -> OpenGuard {
        OpenGuard::new(&self.0.streams)
    }

    /// Streams that are open.
    pub fn streams_open(&self) -> u32 {
        u32::try_from(self.0.streams.get()).unwrap_or(0)
    }

    /// Connections that are open.
    pub fn connections_open(&self) -> u32 {
        u32::try_from(self.0.connections.get()).unwrap_or(0)
    }

    /// Everything in the OpenMetrics text form.
    pub fn text(&self, scrape: &Scrape) -> String {
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.gauges.set(scrape);
        let mut out = String::new();
        match text::encode(&mut out, &registry) {
            Ok(()) => out,
            // a String takes what it is given
            Err(error) => format!("# {error}\n# EOF\n"),
        }
    }
}

impl Inner {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *registry;
        r.register("build", "What runs here", Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") }));
        r.register("submissions", "Submissions that were answered", self.submissions.clone());
        r.register("leases", "Deliveries that were given to a recipient's system", self.leases.clone());
        r.register("parked", "Deliveries that ran out of attempts", self.parked.clone());
        r.register("moved", "Deliveries that went to another system with their agency", self.moved.clone());
        r.register("settlements", "Deliveries that ended", self.settlements.clone());
        r.register("refusals", "Calls that were refused", self.refusals.clone());
        r.register("faults", "Calls that the hub itself failed", self.faults.clone());
        r.register_with_unit(
            "commit_latency",
            "Time from queueing a batch's oldest command to its durable answer",
            Unit::Seconds,
            self.commit_latency.clone(),
        );
        r.register("commit_batch_records", "Records that became durable together", self.commit_batch.clone());
        r.register(
            "commit_batch_records_max",
            "The most records that became durable together since the start",
            self.commit_batch_max.clone(),
        );
        r.register_with_unit(
            "state_hold",
            "Time that one look at the state took; the next batch becomes visible only after it",
            Unit::Seconds,
            self.state_hold.clone(),
        );
        r.register_with_unit(
            "state_hold_longest",
            "The longest look at the state since the start",
            Unit::Seconds,
            self.state_hold_max.clone(),
        );
        r.register_with_unit(
            "journal_sync",
            "Time that appending a batch with its sync took",
            Unit::Seconds,
            self.journal_sync.clone(),
        );
        r.register_with_unit("received", "Bytes that came from systems", Unit::Bytes, self.received.clone());
        r.register_with_unit("sent", "Bytes that went to systems", Unit::Bytes, self.sent.clone());
        r.register("open_connections", "Connections of systems that are open", self.connections.clone());
        r.register("open_streams", "Streams of systems that are open", self.streams.clone());
        self.gauges.register(r);
    }
}

impl Gauges {
    fn register(&self, r: &mut Registry) {
        r.register("ready", "Whether the hub can commit: 1 or 0", self.ready.clone());
        r.register(
            "clock_trusted",
            "Whether the clock is trusted, 1 or 0; if not, nothing expires",
            self.clock_trusted.clone(),
        );
        r.register("journal_records", "Records in the journal", self.journal_records.clone());
        r.register(
            "state_lag_records",
            "Records that the state on disk does not hold yet",
            self.state_lag.clone(),
        );
        r.register_with_unit("disk_free", "Free room on the data disk", Unit::Bytes, self.disk_free.clone());
        r.register_with_unit("disk_total", "Size of the data disk", Unit::Bytes, self.disk_total.clone());
        r.register_with_unit(
            "last_backup_time",
            "When the last backup was made, since 1970; zero if none is known",
            Unit::Seconds,
            self.last_backup.clone(),
        );
        r.register_with_unit(
            "disk_low",
            "Free room below which submissions and uploads are refused",
            Unit::Bytes,
            self.disk_low.clone(),
        );
        r.register(
            "queue_waiting_deliveries",
            "Deliveries that are not settled, those on lease and parked included",
            self.queue_waiting.clone(),
        );
        r.register("queue_leased_deliveries", "Deliveries that are on lease", self.queue_leased.clone());
        r.register(
            "queue_parked_deliveries",
            "Deliveries that wait for an operator",
            self.queue_parked.clone(),
        );
        r.register_with_unit(
            "queue_waiting",
            "Bytes of the envelopes and documents that wait",
            Unit::Bytes,
            self.queue_bytes.clone(),
        );
        r.register_with_unit(
            "queue_oldest",
            "Age of the oldest delivery that is not settled",
            Unit::Seconds,
            self.queue_oldest.clone(),
        );
    }

    fn set(&self, scrape: &Scrape) {
        self.ready.set(i64::from(scrape.ready));
        self.clock_trusted.set(i64::from(scrape.clock_trusted));
        self.journal_records.set(scrape.journal_records);
        self.state_lag.set(scrape.state_lag_records);
        self.disk_free.set(scrape.disk_free_bytes);
        self.disk_total.set(scrape.disk_total_bytes);
        self.last_backup.set(scrape.last_backup_unix_ms / 1_000);
        self.disk_low.set(scrape.disk_low_bytes);
        let families = [
            &self.queue_waiting,
            &self.queue_leased,
            &self.queue_parked,
            &self.queue_bytes,
            &self.queue_oldest,
        ];
        families.iter().for_each(|family| family.clear());
        for queue in &scrape.queues {
            let labels = SystemLabels { system: queue.system.clone() };
            let oldest = match queue.oldest_unix_ms {
                0 => 0,
                since => scrape.now_ms.saturating_sub(since) / 1_000,
            };
            let values = [queue.waiting, queue.leased, queue.parked, queue.waiting_bytes, oldest];
            for (family, value) in families.iter().zip(values) {
                family.get_or_create(&labels).set(value);
            }
        }
    }
}

impl Recent {
    fn push(&mut self, sample: u32) {
        match self.samples.get_mut(self.next) {
            Some(slot) => *slot = sample,
            None => self.samples.push(sample),
        }
        self.next = (self.next + 1) % SAMPLES;
    }
}

impl OpenGuard {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(metrics: &Metrics, scrape: &Scrape, lines: &[&str]) {
        let text = metrics.text(scrape);
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no line {line:?} in\n{text}");
        }
    }

    #[test]
    fn counts_appear_under_their_closed_labels() {
        let metrics = Metrics::new();
        metrics.submission(Submission::Accepted);
        metrics.submission(Submission::Refused(Reason::KeyUnknown));
        metrics.refused(Reason::KeyUnknown);
        let settled = [(Settlement::Acknowledged, 1), (Settlement::Expired, 2)].into();
        metrics.recorded(&Tally { leased: 3, parked: 4, moved: 5, settled });
        metrics.received(100);
        let guard = metrics.connection();
        assert_eq!(metrics.connections_open(), 1);
        check(
            &metrics,
            &Scrape::default(),
            &[
                "axis_submissions_total{outcome=\"accepted\",reason=\"none\"} 1",
                "axis_submissions_total{outcome=\"refused\",reason=\"key_unknown\"} 1",
                "axis_refusals_total{reason=\"key_unknown\"} 1",
                "axis_settlements_total{settlement=\"acknowledged\"} 1",
                "axis_settlements_total{settlement=\"expired\"} 2",
                "axis_leases_total 3",
                "axis_parked_total 4",
                "axis_moved_total 5",
                "axis_received_bytes_total 100",
                "axis_open_connections 1",
                concat!("axis_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
                "# HELP axis_leases Deliveries that were given to a recipient's system.",
                "# EOF",
            ],
        );
        drop(guard);
        check(&metrics, &Scrape::default(), &["axis_open_connections 0"]);
    }

    #[test]
    fn queues_that_went_away_leave_no_series() {
        let metrics = Metrics::new();
        let queue = Queue {
            system: "vpcp".into(),
            waiting: 4,
            waiting_bytes: 9,
            oldest_unix_ms: 1_000,
            ..Queue::default()
        };
        let mut scrape = Scrape { queues: vec![queue], now_ms: 61_000, ready: true, ..Scrape::default() };
        check(
            &metrics,
            &scrape,
            &[
                "axis_queue_waiting_deliveries{system=\"vpcp\"} 4",
                "axis_queue_waiting_bytes{system=\"vpcp\"} 9",
                "axis_queue_oldest_seconds{system=\"vpcp\"} 60",
                "axis_ready 1",
            ],
        );
        scrape.queues.clear();
        assert!(!metrics.text(&scrape).contains("vpcp"));
    }

    #[test]
    fn the_worst_since_the_start_is_kept() {
        let metrics = Metrics::new();
        for (records, held_us) in [(2, 1_500), (700, 20_000), (1, 3)] {
            metrics.commit(CommitSample { records, latency_us: 1, sync_us: 1 });
            metrics.state_held(held_us);
        }
        let lines = [
            "axis_commit_batch_records_max 700",
            "axis_state_hold_longest_seconds 0.02",
            "axis_state_hold_seconds_count 3",
        ];
        check(&metrics, &Scrape::default(), &lines);
    }

    #[test]
    fn quantiles_look_at_the_last_batches_only() {
        let metrics = Metrics::new();
        assert_eq!(metrics.commit_quantiles_us(), (0, 0));
        let commit = |latency_us| metrics.commit(CommitSample { records: 2, latency_us, sync_us: 1 });
        (0..5_000).for_each(|_| commit(9_000_000));
        (1..=1_024).for_each(commit);
        let (median, high) = metrics.commit_quantiles_us();
        assert_eq!((median, high), (512, 1_013));
        check(&metrics, &Scrape::default(), &["axis_commit_latency_seconds_count 6024"]);
    }
}
