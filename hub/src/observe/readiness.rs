//! Whether the hub can commit, and if not, why. Only the truth: ready means
//! that a submission sent now could become durable now.
//!
//! ```text
//! starting ─▶ running ─▶ stopping
//!     └──────────┴──▶ failed (final)        beside it: disk low, commit stuck
//! ```

use std::sync::Arc;

use axis_proto::reason::Language;
use tokio::sync::watch;

use super::words;

/// A commit that takes longer is stuck: the disk does not answer.
const COMMIT_STUCK_MS: u64 = 10_000;

/// The hub's readiness. Cheap to clone; anyone may look, the parts that know
/// report.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Health>>);

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    phase: Phase,
    disk_low: bool,
    /// The monotonic clock when the commit under way began.
    committing_since_ms: Option<u64>,
    stuck: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Failed(String),
    Stopping,
}

/// Held by the writer for as long as it commits. Dropped without `stop`, the
/// writer is gone and the hub is not ready.
#[derive(Debug)]
pub struct WriterGuard {
    readiness: Readiness,
    stopped: bool,
}

impl Health {
    /// Whether a command could become durable.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && !self.stuck
    }

    /// Whether it is ready but refuses new submissions.
    pub fn is_degraded(&self) -> bool {
        self.is_ready() && self.disk_low
    }

    /// Whether the data disk is nearly full.
    pub fn is_disk_low(&self) -> bool {
        self.disk_low
    }

    /// Whether nothing can be recorded until the process starts again.
    pub fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed(_))
    }

    /// Why it is not ready, or degraded; one line. Empty if all is well.
    pub fn because(&self) -> String {
        self.because_in(Language::En)
    }

    /// The same in the reader's language.
    pub fn because_in(&self, language: Language) -> String {
        let (en, vi) = match &self.phase {
            Phase::Starting => ("starting: the journal is being opened", "đang khởi động: đang mở nhật ký"),
            // an error's own words have one language
            Phase::Failed(why) => (why.as_str(), why.as_str()),
            Phase::Stopping => {
                ("stopping: what is under way is being finished", "đang dừng: đang hoàn tất việc dở dang")
            }
            Phase::Running if self.stuck => (
                "a commit is stuck: the data disk does not answer",
                "việc ghi nhận bị treo: đĩa dữ liệu không phản hồi",
            ),
            Phase::Running if self.disk_low => (
                "the data disk is nearly full: submissions are refused, deliveries go on",
                "đĩa dữ liệu sắp đầy: tạm không nhận văn bản mới, việc phát văn bản vẫn tiếp tục",
            ),
            Phase::Running => ("", ""),
        };
        words::pick(language, en, vi).to_owned()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { phase: Phase::Starting, disk_low: false, committing_since_ms: None, stuck: false }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Starting.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Health::default())))
    }

    /// The writer runs: ready, until the guard is dropped.
    pub fn writer_runs(&self) -> WriterGuard {
        self.enter(Phase::Running);
        WriterGuard { readiness: self.clone(), stopped: false }
    }

    /// Something without which nothing can commit failed. Final.
    pub fn failed(&self, why: impl Into<String>) {
        self.enter(Phase::Failed(why.into()));
    }

    /// Nothing new is taken.
    pub fn stopping(&self) {
        self.enter(Phase::Stopping);
    }

    /// The data disk is nearly full, or no longer.
    pub fn disk_low(&self, low: bool) {
        self.0.send_if_modified(|health| std::mem::replace(&mut health.disk_low, low) != low);
    }

    /// The writer begins to make a batch durable.
    pub fn commit_begins(&self, monotonic_ms: u64) {
        // not worth a wake-up: `look` tells when it lasts too long
        self.0.send_if_modified(|health| {
            health.committing_since_ms = Some(monotonic_ms);
            false
        });
    }

    /// The batch is durable.
    pub fn commit_ends(&self) {
        self.0.send_if_modified(|health| {
            health.committing_since_ms = None;
            std::mem::take(&mut health.stuck)
        });
    }

    /// Notices a commit that does not end. Called every second.
    pub fn look(&self, monotonic_ms: u64) {
        self.0.send_if_modified(|health| {
            let stuck = health
                .committing_since_ms
                .is_some_and(|since| monotonic_ms.saturating_sub(since) > COMMIT_STUCK_MS);
            std::mem::replace(&mut health.stuck, stuck) != stuck
        });
    }

    /// How it is now.
    pub fn health(&self) -> Health {
        self.0.borrow().clone()
    }

    /// Sees every change.
    pub fn watch(&self) -> watch::Receiver<Health> {
        self.0.subscribe()
    }

    fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|health| {
            let stays = health.phase == phase
                || matches!(health.phase, Phase::Failed(_))
                || (health.phase == Phase::Stopping && phase == Phase::Running);
            if !stays {
                health.phase = phase;
            }
            !stays
        });
    }
}

impl WriterGuard {
    /// The writer ends because it was told to.
    pub fn stop(mut self) {
        self.stopped = true;
        self.readiness.stopping();
    }
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        if !self.stopped {
            self.readiness.failed("the writer has stopped: nothing can be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_while_the_writer_runs() {
        let readiness = Readiness::new();
        assert!(!readiness.health().is_ready());
        assert!(readiness.health().because().starts_with("starting"));
        let writer = readiness.writer_runs();
        assert!(readiness.health().is_ready());
        assert_eq!(readiness.health().because(), "");
        drop(writer);
        assert!(!readiness.health().is_ready() && readiness.health().has_failed());
        assert!(readiness.health().because().contains("writer"));
        readiness.stopping();
        assert!(readiness.health().because().contains("writer"), "a failure is final");
    }

    #[test]
    fn a_writer_that_was_told_to_stop_has_not_failed() {
        let readiness = Readiness::new();
        readiness.writer_runs().stop();
        assert!(!readiness.health().is_ready());
        assert!(readiness.health().because().starts_with("stopping"));
    }

    #[test]
    fn a_full_disk_degrades_and_a_silent_one_ends_readiness() {
        let readiness = Readiness::new();
        let _writer = readiness.writer_runs();
        let mut watch = readiness.watch();
        watch.mark_unchanged();
        readiness.disk_low(true);
        assert!(watch.has_changed().unwrap());
        assert!(readiness.health().is_ready() && readiness.health().is_degraded());
        readiness.disk_low(false);
        watch.mark_unchanged();
        readiness.commit_begins(1_000);
        readiness.look(2_000);
        assert!(!watch.has_changed().unwrap(), "commits wake nobody");
        readiness.look(1_001 + COMMIT_STUCK_MS);
        assert!(!readiness.health().is_ready());
        assert!(watch.has_changed().unwrap());
        readiness.commit_ends();
        assert!(readiness.health().is_ready());
    }
}
