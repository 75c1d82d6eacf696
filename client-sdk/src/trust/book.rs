//! The logs that a home has trusted, one after the other, and the heads that
//! it has seen of them. Pure: never asks, reads or writes.
//!
//! A hub has one log. After a restore it has a new one, whose tree goes on
//! where the backup ended. The current log then holds the records of the
//! former one up to there, and lacks those after it.

use axis_proto::{
    hub::v1::LogSuccession,
    note::{Checkpoint, CheckpointVerifier},
    receipt::{self, VerifiedReceipt},
    record::v1::{Receipt, record::Event},
    succession::{self, Succession},
    tree::{self, Hash},
};

use crate::error::{Head, LogProblem, Result, Verification};

/// How many heads wait to be proven before no more are taken: enough for a
/// minute of most systems, few enough to be proven in one go. At half of it
/// the hub is asked at once.
pub const UNPROVEN_MAX: usize = 64;
/// Most heads that wait, with those of calls that were under way when no more
/// were to be taken: more than one process makes at a time.
pub const SEEN_MAX: usize = 4_096;
/// Most heads of the ladder: one for each doubling of a distance of 64 bits.
pub const RUNGS_MAX: usize = 64;
/// In how many minutes the hub may answer other calls and not prove its log;
/// then it is trusted no more. Longer than a restart or an hour's peak makes
/// it wait, short enough that little is sent on its word alone.
pub const OVERDUE_MINUTES_MAX: u32 = 10;
const MINUTE_MS: u64 = 60_000;
/// Most logs of one home; the hub names at most as many.
pub const LOGS_MAX: usize = 64;

/// A head of a log, with the signed note that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// The log.
    pub origin: String,
    /// Number of its records.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The checkpoint, or the succession that names the size.
    pub note: String,
}

impl SignedHead {
    pub fn of(checkpoint: Checkpoint, note: &str) -> Self {
        let Checkpoint { origin, size, root } = checkpoint;
        Self { origin, size, root, note: note.to_owned() }
    }

    /// For those who read about it.
    pub fn shown(&self) -> Head {
        Head { origin: self.origin.clone(), size: self.size, root: self.root, note: self.note.clone() }
    }
}

/// Where a log went on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// The log that it continues.
    pub origin: String,
    /// How many of that one's records it holds.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

/// Why a log is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was the hub's when this home was enrolled.
    Enrolled,
    /// The log before it signed for it.
    Succession,
    /// A person vouched for its key.
    Person,
}

/// One log that was trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Verifies its checkpoints, and names it.
    pub verifier: CheckpointVerifier,
    /// Where it went on from; none for the first, or if that is not known.
    pub previous: Option<Previous>,
    /// Why it is trusted.
    pub why: Why,
    /// Its largest head that was proven to go on from all before.
    pub head: Option<SignedHead>,
}

/// Two heads of a log of which one does not go on from the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// What was seen before.
    pub remembered: SignedHead,
    /// What was seen then.
    pub shown: SignedHead,
}

impl From<&Fork> for LogProblem {
    fn from(fork: &Fork) -> Self {
        let (remembered, shown) = (fork.remembered.shown(), fork.shown.shown());
        Self::Forked { remembered: Box::new(remembered), shown: Box::new(shown) }
    }
}

/// One step from a log to the one that continues it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    succession: Succession,
    note: String,
    /// The head under which its first record is shown.
    first: SignedHead,
}

impl Step {
    /// What a note says, if the log shows that it begins so.
    fn of(succession: Succession, shown: &LogSuccession) -> Result<Self, Verification> {
        let log = &succession.log;
        let bad = |detail: String| Verification::new("log", format!("{}: {detail}", log.origin()));
        let receipt =
            shown.receipt.as_ref().ok_or_else(|| bad("no receipt of its first record".to_owned()))?;
        let opened = receipt::verify(receipt, log).map_err(|error| bad(error.to_string()))?;
        let begins = match &opened.record.event {
            Some(Event::LogOpened(event)) => {
                opened.index == succession.previous_size
                    && event.origin == log.origin()
                    && event.previous_origin == succession.previous_origin
                    && event.previous_size == succession.previous_size
                    && event.previous_root == succession.previous_root[..]
            }
            _ => false,
        };
        if !begins {
            return Err(bad("its first record is not what the note says".to_owned()));
        }
        let first = SignedHead::of(opened.checkpoint, checkpoint_of(receipt).unwrap_or_default());
        Ok(Self { succession, note: shown.note.clone(), first })
    }
}

/// The hub was asked to prove what waits, and did not, while it answered other
/// calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// When it was first asked in vain, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// When the last minute was counted.
    pub counted_unix_ms: u64,
    /// In how many minutes it was asked in vain.
    pub minutes: u32,
}

/// All of them; the last one is the hub's now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// Never empty.
    pub(super) logs: Vec<Log>,
    /// Heads that were proven before the current one, the smallest first: one
    /// for each doubling of the distance to it. A log that goes on from fewer
    /// records than were seen must contain those below.
    pub(super) ladder: Vec<SignedHead>,
    /// Heads that were seen, not yet proven against the others.
    pub(super) unproven: Vec<SignedHead>,
    /// Whether the hub does not prove them.
    pub(super) overdue: Option<Overdue>,
    /// Why nothing is trusted any more.
    pub(super) fork: Option<Fork>,
    /// Forks that a person has looked at.
    pub(super) former_forks: Vec<Fork>,
}

impl Book {
    /// A book that begins with the log of the enrolment.
    pub fn new(verifier: CheckpointVerifier) -> Self {
        let log = Log { verifier, previous: None, why: Why::Enrolled, head: None };
        Self {
            logs: vec![log],
            ladder: Vec::new(),
            unproven: Vec::new(),
            overdue: None,
            fork: None,
            former_forks: Vec::new(),
        }
    }

    /// The log that is trusted now.
    pub fn current(&self) -> &Log {
        self.logs.last().expect("a book is never empty")
    }

    /// Every log, the oldest first.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// Whether the log is not the one that the hub always had.
    pub fn was_restored(&self) -> bool {
        self.logs.len() > 1 || self.current().why == Why::Person
    }

    /// Why nothing is trusted any more, if so.
    pub fn fork(&self) -> Option<&Fork> {
        self.fork.as_ref()
    }

    /// The log of this name.
    pub fn find(&self, origin: &str) -> Option<&Log> {
        self.logs.iter().find(|log| log.verifier.origin() == origin)
    }

    /// Which of the logs this is; later ones are greater.
    pub fn place(&self, origin: &str) -> Option<usize> {
        self.logs.iter().position(|log| log.verifier.origin() == origin)
    }

    /// How many of a log's records the current log holds.
    pub fn held_of(&self, origin: &str) -> u64 {
        let (mut log, mut held) = (self.current(), u64::MAX);
        // each step leads to an older log, or out of the book
        for _ in 0..LOGS_MAX {
            if log.verifier.origin() == origin {
                return held;
            }
            let Some(previous) = &log.previous else { return 0 };
            held = held.min(previous.size);
            if previous.origin == origin {
                return held;
            }
            let Some(older) = self.find(&previous.origin) else { return 0 };
            log = older;
        }
        0
    }

    /// What the numbers belong to that the hub gives now: its log, and how
    /// often a person has gone on after a fork, which gives them anew too.
    pub fn era(&self) -> String {
        let origin = self.current().verifier.origin();
        match self.former_forks.len() {
            0 => origin.to_owned(),
            forks => format!("{origin} {forks}"),
        }
    }

    /// How many records of an era the hub holds now.
    pub fn held_of_era(&self, era: &str) -> u64 {
        let (origin, forks) = era.split_once(' ').unwrap_or((era, "0"));
        if forks.parse() == Ok(self.former_forks.len()) { self.held_of(origin) } else { 0 }
    }

    /// Whether the current log holds a record of another one, or of itself.
    pub fn holds(&self, origin: &str, sequence: u64) -> bool {
        sequence < self.held_of(origin)
    }

    /// Verifies a receipt of any of the logs. Looks at nothing else: evidence
    /// stays evidence.
    pub fn verify(&self, receipt: &Receipt) -> Result<VerifiedReceipt> {
        let origin = origin_of(receipt);
        let Some(log) = origin.and_then(|origin| self.find(origin)) else {
            let origin = origin.unwrap_or_default();
            return Err(Verification::new(
                "receipt",
                format!("it is of a log that is not known, `{origin}`"),
            )
            .into());
        };
        axis_proto::receipt::verify(receipt, &log.verifier)
            .map_err(|error| Verification::new("receipt", error.to_string()).into())
    }

    /// Takes notice of a head that the hub has just shown. It must not
    /// contradict any that is known; to be proven it waits, and is never
    /// forgotten before.
    pub fn observe(&mut self, checkpoint: Checkpoint, note: &str) -> Result<(), LogProblem> {
        if let Some(fork) = &self.fork {
            return Err(fork.into());
        }
        if checkpoint.size > self.held_of(&checkpoint.origin) || checkpoint.size == 0 {
            // of a former log, and beyond what the current one holds: nobody can prove it any more
            return Ok(());
        }
        let same = self.known().chain(&self.ladder).find(|known| known.size == checkpoint.size);
        match same {
            Some(known) if known.root == checkpoint.root => return Ok(()),
            Some(known) => {
                let remembered = known.clone();
                return Err(self.forked(remembered, SignedHead::of(checkpoint, note)));
            }
            None => {}
        }
        let head = SignedHead::of(checkpoint, note);
        if self.unproven.len() >= SEEN_MAX {
            return Err(self.not_proven_since(&head));
        }
        self.unproven.push(head);
        Ok(())
    }

    /// Heads that the current log must contain, each beginning the next; at
    /// least two, or none if nothing waits to be proven.
    pub fn to_prove(&self) -> Vec<SignedHead> {
        if self.unproven.is_empty() {
            return Vec::new();
        }
        let mut heads: Vec<SignedHead> = self.known().cloned().collect();
        heads.sort_unstable_by_key(|head| head.size);
        if heads.len() < 2 { Vec::new() } else { heads }
    }

    /// Whether the first head that was ever seen waits to be remembered.
    pub fn is_first(&self) -> bool {
        self.current().head.is_none() && self.unproven.len() == 1
    }

    /// These begin each other: the largest is remembered, and some of the
    /// others. What another process proved meanwhile is to be proven against them.
    pub fn proven(&mut self, heads: &[SignedHead]) {
        self.unproven.retain(|head| !heads.contains(head));
        self.overdue = None;
        let Some(largest) = heads.iter().max_by_key(|head| head.size) else { return };
        let held = self.held_of(&largest.origin);
        let current = self.logs.last_mut().expect("a book is never empty");
        match &current.head {
            Some(head) if heads.contains(head) || head == largest => {}
            Some(head) if head.size >= largest.size => {
                if held >= largest.size {
                    self.unproven.push(largest.clone());
                }
                return;
            }
            Some(head) => self.unproven.push(head.clone()),
            None => {}
        }
        current.head = Some(largest.clone());
        self.ladder.extend_from_slice(heads);
        self.thin(largest.size);
    }

    /// One rung for each doubling of the distance to the current head: the
    /// oldest, so that it grows older.
    fn thin(&mut self, size: u64) {
        self.ladder.retain(|rung| rung.size < size);
        self.ladder.sort_unstable_by_key(|rung| rung.size);
        let mut last = None;
        self.ladder.retain(|rung| {
            let doubling = Some((size - rung.size).ilog2());
            std::mem::replace(&mut last, doubling) != doubling
        });
    }

    /// The hub was asked to prove what waits, and did not. Counts the minutes
    /// in which that was so; whether it counted one.
    pub fn not_proven(&mut self, now_unix_ms: u64) -> bool {
        let Some(overdue) = &mut self.overdue else {
            let (since_unix_ms, counted_unix_ms) = (now_unix_ms, now_unix_ms);
            self.overdue = Some(Overdue { since_unix_ms, counted_unix_ms, minutes: 0 });
            return true;
        };
        // a clock that was set back counts from there
        let passed = now_unix_ms.checked_sub(overdue.counted_unix_ms);
        let counts = passed.is_none_or(|passed| passed >= MINUTE_MS);
        if counts {
            overdue.counted_unix_ms = now_unix_ms;
            overdue.minutes = overdue.minutes.saturating_add(1);
        }
        counts
    }

    /// The hub has said that it cannot prove what it has signed.
    pub fn refused(&mut self, now_unix_ms: u64) {
        self.not_proven(now_unix_ms);
        if let Some(overdue) = &mut self.overdue {
            overdue.minutes = OVERDUE_MINUTES_MAX;
        }
    }

    /// Why nothing is trusted until the hub has proven what waits, if so.
    pub fn overdue(&self) -> Option<LogProblem> {
        let is_over = self.overdue.is_some_and(|overdue| overdue.minutes >= OVERDUE_MINUTES_MAX);
        let head = self.unproven.iter().max_by_key(|head| head.size)?;
        is_over.then(|| self.not_proven_since(head))
    }

    /// What is said of a head that the hub does not prove.
    pub fn not_proven_since(&self, head: &SignedHead) -> LogProblem {
        let since_unix_ms = self.overdue.map(|overdue| overdue.since_unix_ms);
        LogProblem::Unproven { since_unix_ms, shown: Box::new(head.shown()) }
    }

    /// Whether the hub is to be asked for proofs without waiting.
    pub fn is_half_full(&self) -> bool {
        self.unproven.len() >= UNPROVEN_MAX / 2
    }

    /// The largest head that waits, if no more are to be taken before.
    pub fn full(&self) -> Option<&SignedHead> {
        self.unproven.iter().max_by_key(|head| head.size).filter(|_| self.unproven.len() >= UNPROVEN_MAX)
    }

    /// The log is not what it was: nothing is trusted from here on.
    pub fn forked(&mut self, remembered: SignedHead, shown: SignedHead) -> LogProblem {
        let fork = self.fork.get_or_insert(Fork { remembered, shown });
        (&*fork).into()
    }

    /// The way from the current log to one with this verifier key, by the word
    /// of each log for the next one.
    ///
    /// # Errors
    /// If a log is signed for, but not shown to begin so.
    pub fn way_to(
        &self,
        verifier_key: &str,
        successions: &[LogSuccession],
    ) -> Result<Option<Vec<Step>>, Verification> {
        let mut log = self.current().verifier.clone();
        let mut steps = Vec::new();
        for _ in 0..LOGS_MAX {
            if log.verifier_key() == verifier_key {
                return Ok(Some(steps));
            }
            let next = successions.iter().find_map(|it| {
                let succession = succession::verify(&it.note, &log).ok()?;
                // a log that was known before is no news
                self.find(succession.log.origin()).is_none().then_some((succession, it))
            });
            let Some((succession, shown)) = next else { return Ok(None) };
            let step = Step::of(succession, shown)?;
            log = step.succession.log.clone();
            steps.push(step);
        }
        Ok(None)
    }

    /// Goes on with the logs that signed for each other. They hold what was
    /// remembered of the former one, or it is a fork.
    pub fn succeed(&mut self, steps: Vec<Step>) -> Result<(), LogProblem> {
        for step in steps {
            self.follow(step)?;
        }
        Ok(())
    }

    /// Goes on with a log that a person vouches for; what it says of those
    /// before it is believed with it.
    ///
    /// # Errors
    /// If a log is said to continue another one, but not shown to begin so;
    /// then nothing is changed.
    pub fn accept(
        &mut self,
        verifier: CheckpointVerifier,
        successions: &[LogSuccession],
    ) -> Result<(), Verification> {
        let mut steps = Vec::new();
        let mut log = verifier.clone();
        while steps.len() < LOGS_MAX {
            let next = successions.iter().find_map(|it| {
                let succession = succession::read(&it.note).ok()?;
                (succession.log == log).then_some((succession, it))
            });
            let Some((succession, shown)) = next else { break };
            let step = Step::of(succession, shown)?;
            let previous = step.succession.previous_origin.clone();
            steps.push(step);
            // known here, or the log before it is named by another note
            let older = successions.iter().find_map(|it| {
                succession::read(&it.note).ok().map(|it| it.log).filter(|it| it.origin() == previous)
            });
            match (self.find(&previous), older) {
                (None, Some(older)) => log = older,
                _ => break,
            }
        }
        if let Some(fork) = self.fork.take() {
            self.former_forks.push(fork);
        }
        self.unproven.clear();
        self.ladder.clear();
        self.overdue = None;
        self.logs.retain(|log| log.verifier.origin() != verifier.origin());
        if steps.is_empty() {
            self.push(Log { verifier, previous: None, why: Why::Person, head: None });
        }
        for step in steps.into_iter().rev() {
            let Step { succession, note, .. } = step;
            self.push(Log { why: Why::Person, ..log_of(succession, note) });
        }
        Ok(())
    }

    fn follow(&mut self, step: Step) -> Result<(), LogProblem> {
        let Step { succession, note, first } = step;
        let remembered = self.current().head.clone();
        self.ladder.extend(remembered);
        let Succession { previous_origin, previous_size, previous_root, .. } = &succession;
        let checkpoint =
            Checkpoint { origin: previous_origin.clone(), size: *previous_size, root: *previous_root };
        // what is known of the former log at that size must be what the new one says
        self.observe(checkpoint, &note)?;
        self.unproven.retain(|head| head.size < *previous_size);
        self.ladder.retain(|rung| rung.size < *previous_size);
        // and so must what was proven below it: the largest speaks for the others
        if let Some(largest) = self.ladder.pop()
            && !self.unproven.contains(&largest)
        {
            self.unproven.push(largest);
        }
        self.push(log_of(succession, note));
        // that it begins as its note says is to be proven too
        let SignedHead { origin, size, root, note } = first;
        self.observe(Checkpoint { origin, size, root }, &note)
    }

    fn push(&mut self, log: Log) {
        if self.logs.len() >= LOGS_MAX {
            self.logs.remove(0);
        }
        self.logs.push(log);
    }

    /// What was seen and can be proven to belong together.
    fn known(&self) -> impl Iterator<Item = &SignedHead> {
        self.current().head.iter().chain(&self.unproven)
    }
}

/// A log that goes on from another one: what it begins with is all that is
/// known of it.
fn log_of(succession: Succession, note: String) -> Log {
    let Succession { previous_origin, previous_size, previous_root, log } = succession;
    let head = SignedHead { origin: log.origin().to_owned(), size: previous_size, root: previous_root, note };
    let previous = Previous { origin: previous_origin, size: previous_size, root: previous_root };
    Log { verifier: log, previous: Some(previous), why: Why::Succession, head: Some(head) }
}

/// The log that a receipt says it is of.
pub fn origin_of(receipt: &Receipt) -> Option<&str> {
    let note = checkpoint_of(receipt)?;
    note.lines().next()
}

/// The checkpoint in a receipt's proof, as it stands there.
pub fn checkpoint_of(receipt: &Receipt) -> Option<&str> {
    // the proof's lines, an empty line, the note
    receipt.proof.split_once("\n\n").map(|(_, note)| note)
}

/// Whether one head begins the other.
pub fn begins(older: &SignedHead, newer: &SignedHead, hashes: &[Hash]) -> bool {
    tree::verify_consistency(older.size, newer.size, &older.root, &newer.root, hashes)
}
