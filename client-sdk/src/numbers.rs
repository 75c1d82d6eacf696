//! The ledger of mailbox numbers: every number that the hub calls settled
//! must have come here as a delivery or as gone. What is on disk may be older
//! than what happened, never newer: the hub then names more numbers again.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, Verification},
    files, format,
};

/// What of a mailbox has been seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Every number up to here was seen, or is in `missing`.
    accounted_to: u64,
    /// Seen above that: start and end of each run, never touching.
    seen: BTreeMap<u64, u64>,
    /// Never seen although settled, reported once; start and end of each run.
    missing: BTreeMap<u64, u64>,
    /// The highest number that the hub has given, as last heard.
    high: u64,
    /// Whether the next word of the hub says where we begin.
    begins: bool,
}

/// The ledger's file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    accounted_to: u64,
    /// Gaps: numbers that never came.
    #[serde(default)]
    missing: Vec<(u64, u64)>,
    /// The log whose numbers these are. Unset in ledgers of before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    log: String,
    /// Ledgers of former logs, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<Former>,
}

/// What was known of a former log's numbers, for people who look for what is
/// missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    log: String,
    accounted_to: u64,
    missing: Vec<(u64, u64)>,
}

/// Most former logs that are kept.
const FORMER_MAX: usize = 16;

impl Numbers {
    /// Begins a conversation: what to tell the hub.
    pub fn begin(&mut self) -> u64 {
        // no number was given yet, or none that we heard of
        self.begins = self.accounted_to == 0 && self.missing.is_empty() && self.high == 0;
        if self.begins {
            // zero means "no memory": the hub begins at its floor
            return 0;
        }
        // ask again for what is missing: the hub may have found it since
        let first_missing = self.missing.keys().next().copied();
        let told = first_missing.map_or(self.accounted_to, |first| self.accounted_to.min(first - 1));
        told.max(1)
    }

    /// A number came, as a delivery or as gone.
    pub fn seen(&mut self, number: u64) {
        remove(&mut self.missing, number);
        if number > self.accounted_to {
            insert(&mut self.seen, number, number);
            self.advance();
        }
    }

    /// The hub said where the mailbox stands. It no longer says how the numbers
    /// up to `forgotten_to` ended: those that did not come are not missing.
    pub fn progress(&mut self, high: u64, floor: u64, forgotten_to: u64) -> Result<()> {
        if floor > high {
            let detail = format!("the hub calls {floor} settled, but has given only {high} numbers");
            return Err(Verification::new("mailbox", detail).into());
        }
        if forgotten_to > floor {
            let detail =
                format!("the hub has forgotten {forgotten_to} numbers, but calls only {floor} settled");
            return Err(Verification::new("mailbox", detail).into());
        }
        self.raise(forgotten_to);
        if self.begins {
            self.begins = false;
            self.raise(floor);
        }
        if high < self.accounted_to {
            let detail = format!("the hub has given {high} numbers, but {} came before", self.accounted_to);
            return Err(Verification::new("mailbox", detail).into());
        }
        self.high = high;
        let gaps: Vec<RangeInclusive<u64>> = self.unseen_to(floor);
        if gaps.is_empty() {
            return Ok(());
        }
        for gap in &gaps {
            insert(&mut self.missing, *gap.start(), *gap.end());
        }
        self.raise(floor);
        Err(Error::MailboxGap { floor, missing: gaps })
    }

    /// Every number up to here was seen or reported missing.
    pub fn accounted_to(&self) -> u64 {
        self.accounted_to
    }

    /// Numbers that never came, reported once.
    pub fn missing(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.missing.iter().map(|(start, end)| *start..=*end)
    }

    fn unseen_to(&self, floor: u64) -> Vec<RangeInclusive<u64>> {
        let mut gaps = Vec::new();
        let mut to = self.accounted_to;
        for (start, end) in &self.seen {
            if to >= floor || *start > floor {
                break;
            }
            if to + 1 < *start {
                gaps.push(to + 1..=start - 1);
            }
            to = *end;
        }
        if to < floor {
            gaps.push(to + 1..=floor);
        }
        gaps
    }

    fn raise(&mut self, to: u64) {
        self.accounted_to = self.accounted_to.max(to);
        self.seen.retain(|_, end| *end > to);
        self.advance();
    }

    fn advance(&mut self) {
        while let Some((&start, &end)) = self.seen.first_key_value() {
            if start > self.accounted_to.saturating_add(1) {
                break;
            }
            self.accounted_to = self.accounted_to.max(end);
            self.seen.remove(&start);
        }
    }
}

/// Adds a run, joining it with those that it touches.
fn insert(runs: &mut BTreeMap<u64, u64>, mut start: u64, mut end: u64) {
    while let Some((&other, &until)) = runs.range(..=end.saturating_add(1)).next_back() {
        if until.saturating_add(1) < start {
            break;
        }
        start = start.min(other);
        end = end.max(until);
        runs.remove(&other);
    }
    runs.insert(start, end);
}

/// Takes one number out of the runs.
fn remove(runs: &mut BTreeMap<u64, u64>, number: u64) {
    let Some((&start, &end)) = runs.range(..=number).next_back() else { return };
    if end < number {
        return;
    }
    runs.remove(&start);
    if start < number {
        runs.insert(start, number - 1);
    }
    if number < end {
        runs.insert(number + 1, end);
    }
}

/// The ledger with its file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// What is known.
    pub numbers: Numbers,
    saved: Numbers,
    /// The log whose numbers these are; empty if that was not said.
    log: String,
    former: Vec<Former>,
}

impl Ledger {
    /// Reads the ledger, or begins one.
    pub fn open(path: &Path) -> Result<Self> {
        let saved: Saved = match files::read_if_there(path)? {
            Some(bytes) => format::from_json(path, &bytes)?,
            None => Saved::default(),
        };
        let mut numbers = Numbers { accounted_to: saved.accounted_to, ..Numbers::default() };
        for (start, end) in saved.missing {
            if start == 0 || end < start {
                return Err(Error::damaged(path, "a gap is not a range of numbers"));
            }
            insert(&mut numbers.missing, start, end);
        }
        let (log, former) = (saved.log, saved.former);
        Ok(Self { path: path.to_owned(), saved: numbers.clone(), numbers, log, former })
    }

    /// The numbers from here on are this log's. A log that continues another
    /// one after a restore gives the later numbers anew: what is known of them
    /// is put aside, and the ledger begins where the hub stands. `first` says
    /// that there was no log before it.
    pub fn enter(&mut self, log: &str, first: bool) -> Result<()> {
        if self.log == log {
            return Ok(());
        }
        if !(first && self.log.is_empty()) {
            let missing = self.numbers.missing.iter().map(|(start, end)| (*start, *end)).collect();
            let accounted_to = self.numbers.accounted_to;
            self.former.push(Former { log: std::mem::take(&mut self.log), accounted_to, missing });
            self.former.drain(..self.former.len().saturating_sub(FORMER_MAX));
            self.numbers = Numbers::default();
        }
        self.log = log.to_owned();
        self.write()
    }

    /// Writes what changed.
    pub fn save(&mut self) -> Result<()> {
        if self.saved.accounted_to == self.numbers.accounted_to && self.saved.missing == self.numbers.missing
        {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        let missing = self.numbers.missing.iter().map(|(start, end)| (*start, *end)).collect();
        let (log, former) = (self.log.clone(), self.former.clone());
        let saved = Saved { accounted_to: self.numbers.accounted_to, missing, log, former };
        files::write_lazily(&self.path, &format::to_json(&self.path, &saved)?)?;
        self.saved = self.numbers.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(accounted_to: u64) -> Numbers {
        let mut numbers = Numbers { accounted_to, ..Numbers::default() };
        assert_eq!(numbers.begin(), accounted_to);
        numbers
    }

    fn gap(result: Result<()>) -> Vec<RangeInclusive<u64>> {
        match result {
            Err(Error::MailboxGap { missing, .. }) => missing,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_client_begins_at_the_floor() {
        let mut numbers = begun(0);
        numbers.progress(12, 7, 0).unwrap();
        assert_eq!(numbers.accounted_to(), 7);
        numbers.seen(9);
        assert_eq!(numbers.accounted_to(), 7, "8 is still open");
        numbers.seen(8);
        assert_eq!(numbers.accounted_to(), 9);
        numbers.progress(12, 9, 0).unwrap();
    }

    #[test]
    fn what_was_settled_but_never_came_is_a_gap_and_is_told_once() {
        let mut numbers = begun(3);
        numbers.seen(5);
        numbers.seen(9);
        assert_eq!(gap(numbers.progress(12, 7, 0)), [4..=4, 6..=7]);
        let mut away = Numbers { accounted_to: 3, ..Numbers::default() };
        away.begin();
        away.seen(9);
        assert_eq!(gap(away.progress(12, 9, 6)), [7..=8], "what is forgotten is not missing");
        numbers.progress(12, 7, 0).unwrap();
        assert_eq!(numbers.accounted_to(), 7);
        assert_eq!(numbers.missing().collect::<Vec<_>>(), [4..=4, 6..=7]);
        assert_eq!(gap(numbers.progress(12, 9, 0)), [8..=8]);
        // the next conversation asks for them again, and what comes is found
        assert_eq!(numbers.begin(), 3);
        for number in [4, 6, 7] {
            numbers.seen(number);
        }
        assert_eq!(numbers.missing().collect::<Vec<_>>(), [8..=8]);
        assert_eq!(numbers.begin(), 7);
    }

    #[test]
    fn an_open_number_below_others_is_no_gap() {
        let mut numbers = begun(1);
        for number in [4, 3, 10, 6, 5] {
            numbers.seen(number);
        }
        numbers.progress(11, 1, 0).unwrap();
        assert_eq!(numbers.seen.iter().collect::<Vec<_>>(), [(&3, &6), (&10, &10)]);
        numbers.seen(2);
        numbers.progress(11, 6, 0).unwrap();
        assert_eq!(numbers.accounted_to(), 6);
    }

    #[test]
    fn a_mailbox_does_not_go_back() {
        let mut numbers = begun(20);
        assert!(matches!(numbers.progress(15, 15, 0), Err(Error::Verification(_))));
    }

    #[test]
    fn who_misses_the_first_number_still_has_a_memory() {
        let mut numbers = begun(0);
        numbers.progress(3, 0, 0).unwrap();
        numbers.seen(2);
        numbers.seen(3);
        // heard of the mailbox, so nothing below its floor is forgiven
        assert_eq!(numbers.begin(), 1);
        assert_eq!(gap(numbers.progress(9, 3, 0)), [1..=1]);
        assert_eq!(numbers.begin(), 1, "as near as can be told");
        assert_eq!(gap(numbers.progress(9, 5, 0)), [4..=5]);
        numbers.seen(1);
        assert_eq!(numbers.begin(), 3);
        // a mailbox that is still empty gives nothing to remember
        let mut numbers = begun(0);
        numbers.progress(0, 0, 0).unwrap();
        assert_eq!(numbers.begin(), 0);
    }

    #[test]
    fn more_cannot_be_settled_than_was_given() {
        let mut numbers = begun(0);
        for (high, floor) in [(5, 6), (0, u64::MAX)] {
            assert!(matches!(numbers.progress(high, floor, 0), Err(Error::Verification(_))));
        }
        for (high, floor, forgotten_to) in [(5, 2, 3), (5, 5, u64::MAX)] {
            assert!(matches!(numbers.progress(high, floor, forgotten_to), Err(Error::Verification(_))));
        }
        numbers.progress(5, 2, 0).unwrap();
        assert_eq!(numbers.accounted_to(), 2, "nothing was spoilt");
        numbers.seen(u64::MAX);
        assert_eq!(gap(numbers.progress(u64::MAX, u64::MAX, 0)), [3..=u64::MAX - 1]);
        numbers.seen(u64::MAX);
        numbers.progress(u64::MAX, u64::MAX, 0).unwrap();
    }

    #[test]
    fn any_order_ends_the_same() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut all: Vec<u64> = (1..=40).collect();
            random.shuffle(&mut all);
            let absent: Vec<u64> = all.split_off(35);
            let mut numbers = begun(0);
            numbers.begins = false;
            for number in all {
                numbers.seen(number);
            }
            let missing: Vec<u64> = gap(numbers.progress(40, 40, 0)).into_iter().flatten().collect();
            let mut absent = absent;
            absent.sort_unstable();
            assert_eq!(missing, absent);
            assert_eq!(numbers.accounted_to(), 40);
            assert!(numbers.seen.is_empty());
        }
    }

    #[test]
    fn the_ledger_survives_its_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("mailbox.json");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.numbers.begin();
        ledger.numbers.progress(5, 2, 0).unwrap();
        ledger.numbers.seen(4);
        gap(ledger.numbers.progress(5, 3, 0));
        ledger.save().unwrap();
        let again = Ledger::open(&path).unwrap();
        assert_eq!(again.numbers.accounted_to(), 4);
        assert_eq!(again.numbers.missing().collect::<Vec<_>>(), [3..=3]);
        let mut again = again;
        again.enter("hub/log/1", true).unwrap();
        assert_eq!(again.numbers.accounted_to(), 4, "a ledger of before belongs to the first log");
        again.enter("hub/log/2", false).unwrap();
        assert_eq!((again.numbers.begin(), again.numbers.missing().count()), (0, 0));
        again.numbers.progress(9, 3, 0).unwrap();
        assert_eq!(again.numbers.accounted_to(), 3, "the restored hub gives the fourth number anew");
        again.save().unwrap();
        let mut later = Ledger::open(&path).unwrap();
        later.enter("hub/log/2", false).unwrap();
        assert_eq!(later.numbers.accounted_to(), 3);
        let former = Former { log: "hub/log/1".into(), accounted_to: 4, missing: vec![(3, 3)] };
        assert_eq!(later.former, [former]);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Ledger::open(&path), Err(Error::Home(_))));
    }
}
