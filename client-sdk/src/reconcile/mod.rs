//! After a restore of the hub from a backup: what it had accepted since then,
//! and lacks now, is offered again in the very same bytes; what was answered
//! is answered again. Safe to repeat and to break off: what was done is seen
//! by its receipt. Never gives up silently: what could not be done is in the
//! report, and is tried again while that can help.

mod held;
mod recipient;
mod sender;

use std::{
    collections::BTreeMap,
    sync::{Weak, atomic::Ordering},
    time::Duration,
};

use axis_proto::id::{AgencyCode, EnvelopeId};
use serde::{Deserialize, Serialize};

use self::held::Held;
use crate::{
    client::{Client, Inner},
    error::{Error, HomeProblem, LogProblem, Result},
    files::{self, Access, Lock},
    format,
    home::Home,
    progress::Watch,
};

/// Most envelopes that a report names; all are counted.
const NAMED_MAX: usize = 10_000;
/// How many are under way at once.
const AT_ONCE: usize = 4;
/// The first pause before what could not be done is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// What became of what a restored hub lacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reconciliation {
    /// The hub's log that this is about.
    pub log: String,
    /// Whether nothing is left that could still be done.
    pub complete: bool,
    /// How many envelopes it lacked and has accepted anew.
    pub accepted: u64,
    /// How many it had after all.
    pub known: u64,
    /// How many could not be offered, or were not accepted.
    pub failed: u64,
    /// Answers of ours that it lacked and has recorded anew, in the last run.
    pub answered: u64,
    /// Answers of ours that it lacks and that will be given when their
    /// deliveries come again.
    pub unanswered: u64,
    /// Each envelope, at most 10 000: what failed is never left out for what
    /// did not.
    pub offered: Vec<Offered>,
}

/// One envelope that was offered again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Offered {
    /// Its id.
    pub envelope_id: EnvelopeId,
    /// Its sender.
    pub sender: AgencyCode,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an envelope that was offered again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Accepted anew, as this record.
    Accepted(u64),
    /// The hub had it, as this record.
    Known(u64),
    /// The hub does not take it any more.
    Refused {
        /// The reason's name.
        reason: String,
        /// For people.
        message: String,
        /// Whether trying again cannot help.
        lasting: bool,
    },
    /// Its files are not where they were.
    FilesMissing(Vec<String>),
    /// It could not be tried, or is not known to be accepted.
    Failed(String),
}

impl Outcome {
    /// Whether there is nothing more to be done.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Accepted(_) | Self::Known(_) | Self::FilesMissing(_) => true,
            Self::Refused { lasting, .. } => *lasting,
            Self::Failed(_) => false,
        }
    }

    fn is_good(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Known(_))
    }
}

impl Reconciliation {
    /// Adds outcomes to what is known from earlier runs.
    fn add(&mut self, outcomes: Vec<Offered>) {
        let mut all: BTreeMap<EnvelopeId, Offered> =
            self.offered.drain(..).map(|offered| (offered.envelope_id, offered)).collect();
        for offered in outcomes {
            let former = all.get(&offered.envelope_id).map(|former| &former.outcome);
            match former {
                Some(Outcome::Accepted(_)) => self.accepted -= 1,
                Some(Outcome::Known(_)) => self.known -= 1,
                Some(_) => self.failed -= 1,
                None => {}
            }
            match offered.outcome {
                Outcome::Accepted(_) => self.accepted += 1,
                Outcome::Known(_) => self.known += 1,
                _ => self.failed += 1,
            }
            all.insert(offered.envelope_id, offered);
        }
        self.offered = all.into_values().collect();
        if self.offered.len() > NAMED_MAX {
            self.offered.sort_by_key(|offered| offered.outcome.is_good());
            self.offered.truncate(NAMED_MAX);
        }
    }
}

impl Client {
    /// Whether the hub was restored, as far as is known here, and lacks what
    /// is not offered again yet.
    pub fn reconcile_due(&self) -> Result<bool> {
        self.inner.reconcile_due()
    }

    /// What became of it, when it was last done.
    pub fn reconciliation(&self) -> Result<Option<Reconciliation>> {
        load(&self.inner.home)
    }

    /// Asks whether the hub was restored, and offers again what it lacks;
    /// nothing if it has the log that it always had. Happens by itself unless
    /// [`ClientOptions::reconcile`](crate::ClientOptions) says otherwise.
    pub async fn reconcile(&self, watch: Watch<'_>) -> Result<Option<Reconciliation>> {
        let inner = &self.inner;
        inner.meet().await?;
        if !inner.was_restored() {
            return Ok(None);
        }
        let lock = Lock::take(&inner.home.reconcile_lock(), inner.options.deadline).await?;
        let Some(_lock) = lock else {
            return Err(HomeProblem::Busy { home: inner.home.path().display().to_string() }.into());
        };
        let log = inner.trust.book().current().verifier.origin().to_owned();
        let mut report = match load(&inner.home)? {
            Some(report) if report.log == log => report,
            _ => Reconciliation { log, ..Reconciliation::default() },
        };
        report.complete = false;
        let held = Held::proven(inner).await?;
        sender::offer_again(inner, &held, &mut report, watch).await?;
        let tried = recipient::answer_again(inner, &held, &mut report).await?;
        report.complete = tried && report.offered.iter().all(|offered| offered.outcome.is_final());
        save(&inner.home, &report)?;
        inner.mind_log().await?;
        Ok(Some(report))
    }
}

impl Inner {
    /// Whether the hub's log is not the one that it always had.
    pub fn was_restored(&self) -> bool {
        self.trust.book().was_restored()
    }

    fn reconcile_due(&self) -> Result<bool> {
        if !self.was_restored() {
            return Ok(false);
        }
        let report = load(&self.home)?;
        let book = self.trust.book();
        let log = book.current().verifier.origin();
        Ok(!report.is_some_and(|report| report.complete && report.log == log))
    }

    /// The hub's log is another one: it is to prove at once that it goes on
    /// from what is known, and what it lacks is offered again.
    pub fn has_succeeded(&self) {
        self.trust.prove_soon();
        self.reconcile_if_due();
    }

    /// Begins to offer again what a restored hub lacks, if that is to be done
    /// and nobody here does it.
    pub fn reconcile_if_due(&self) {
        let due = || {
            self.reconcile_due().unwrap_or_else(|error| {
                tracing::warn!(%error, "whether something is to be offered again is not known");
                false
            })
        };
        if self.options.reconcile && due() && !self.reconciling.swap(true, Ordering::SeqCst) {
            self.runtime.spawn(keep_reconciling(self.me.clone()));
        }
    }
}

/// Tries until all is done, for as long as somebody uses the client.
async fn keep_reconciling(inner: Weak<Inner>) {
    let mut pause = FIRST_PAUSE;
    while let Some(inner) = inner.upgrade() {
        let client = Client { inner };
        match client.reconcile(&crate::quiet).await {
            Ok(report) => {
                let report = report.unwrap_or_default();
                let (accepted, failed) = (report.accepted, report.failed);
                tracing::info!(accepted, failed, "offered again what the restored hub lacked");
                if report.complete {
                    client.inner.reconciling.store(false, Ordering::SeqCst);
                    // the hub may have been restored once more meanwhile
                    return client.inner.reconcile_if_due();
                }
            }
            Err(error @ Error::Log(LogProblem::Forked { .. } | LogProblem::Unknown { .. })) => {
                tracing::error!(%error, "nothing is offered again to this log");
                return client.inner.reconciling.store(false, Ordering::SeqCst);
            }
            Err(error) => tracing::warn!(%error, "not all was offered again yet"),
        }
        drop(client);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn load(home: &Home) -> Result<Option<Reconciliation>> {
    let path = home.reconciled();
    let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
    format::from_json(&path, &bytes).map(Some)
}

pub(crate) fn save(home: &Home, report: &Reconciliation) -> Result<()> {
    let path = home.reconciled();
    files::write(&path, &format::to_json(&path, report)?, Access::Default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_each_envelope_once() {
        let offered = |outcome| Offered {
            envelope_id: EnvelopeId::from_slice(&[0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1])
                .unwrap(),
            sender: "G22".parse().unwrap(),
            outcome,
        };
        let mut report = Reconciliation::default();
        report.add(vec![offered(Outcome::Failed("away".into()))]);
        assert_eq!((report.accepted, report.failed, report.offered[0].outcome.is_final()), (0, 1, false));
        report.add(vec![offered(Outcome::Accepted(7))]);
        assert_eq!((report.accepted, report.failed, report.offered.len()), (1, 0, 1));
        report.add(vec![offered(Outcome::Known(7))]);
        assert_eq!((report.accepted, report.known), (0, 1));

        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        assert_eq!(load(&home).unwrap(), None);
        save(&home, &report).unwrap();
        assert_eq!(load(&home).unwrap(), Some(report));
    }
}
