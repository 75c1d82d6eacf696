//! Where the visible state is known to hold nothing. A queue is taken from at
//! its head, so its first keys are deletions that sled has not seen yet, and
//! sled's keys under them: whoever looks for the head would pass all of them,
//! each time. Never says that a key is there; only that none is.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::state::{Changes, Key, Read, Value, Visit, draft};

/// Deletions passed at the start of a scan that are worth a note.
const WORTH: usize = 32;
/// Most gaps that are remembered: some for each mailbox that is busy.
const GAPS_MAX: usize = 8_192;

/// Ranges without keys: start (inclusive) to end (exclusive), apart from each
/// other. Deleting keeps them true; [`Gaps::fill`] keeps them true when a key
/// is set.
#[derive(Default)]
pub(super) struct Gaps {
    ranges: Mutex<BTreeMap<Key, Key>>,
    /// Whether there are any, known without the lock.
    some: AtomicBool,
}

impl Gaps {
    /// The first key at or after `start` that may be there, if it is after.
    fn skip(&self, start: &[u8]) -> Option<Key> {
        if !self.some.load(Ordering::Relaxed) {
            return None;
        }
        let ranges = self.ranges();
        let (_, end) = around(&ranges, start)?;
        (end.as_slice() > start).then(|| end.clone())
    }

    /// Remembers that nothing is between `start` and `end`.
    fn note(&self, start: &[u8], end: &[u8]) {
        let mut ranges = self.ranges();
        if ranges.len() >= GAPS_MAX {
            ranges.clear();
        }
        let from = match around(&ranges, start) {
            Some((from, to)) if to.as_slice() >= start => from.clone(),
            _ => start.to_vec(),
        };
        let mut to = end.to_vec();
        let met: Vec<Key> = draft::range(&ranges, &from, end).map(|(from, _)| from.clone()).collect();
        for key in met {
            to = to.max(ranges.remove(&key).unwrap_or_default());
        }
        ranges.insert(from, to);
        self.some.store(true, Ordering::Relaxed);
    }

    /// Keys are about to be set; nobody reads meanwhile.
    pub(super) fn fill(&self, changes: &Changes) {
        if !self.some.load(Ordering::Relaxed) {
            return;
        }
        let mut ranges = self.ranges();
        for (key, change) in changes {
            if change.is_none() {
                continue;
            }
            let Some((from, to)) = around(&ranges, key) else { continue };
            if to > key {
                let from = from.clone();
                if from == *key {
                    ranges.remove(&from);
                } else {
                    ranges.insert(from, key.clone());
                }
            }
        }
        self.some.store(!ranges.is_empty(), Ordering::Relaxed);
    }

    fn ranges(&self) -> MutexGuard<'_, BTreeMap<Key, Key>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The range that starts last at or before a key.
fn around<'a>(ranges: &'a BTreeMap<Key, Key>, key: &[u8]) -> Option<(&'a Key, &'a Key)> {
    ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
}

/// One moment of the state, read past its gaps.
pub(super) struct Moment<'a> {
    pub(super) read: &'a dyn Read,
    pub(super) layers: [&'a Changes; 2],
    pub(super) gaps: &'a Gaps,
}

impl Read for Moment<'_> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        self.read.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        let skipped = self.gaps.skip(start);
        let from = skipped.as_deref().unwrap_or(start);
        if !end.is_empty() && from >= end {
            return;
        }
        let mut first = None;
        self.read.scan(from, end, &mut |key, value| {
            if first.is_none() {
                first = Some(key.to_vec());
            }
            visit(key, value)
        });
        let to = first.as_deref().unwrap_or(end);
        let passed = |layer| draft::range(layer, from, to).take(WORTH).count();
        // nothing of what the layers have before `to` is visible, or it would
        // have been visited first
        if to > from && self.layers.into_iter().map(passed).sum::<usize>() >= WORTH {
            self.gaps.note(from, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &[&[u8]]) -> Changes {
        keys.iter().map(|key| (key.to_vec(), Some(Value::new()))).collect()
    }

    fn check(gaps: &Gaps, start: &[u8], expected: Option<&[u8]>) {
        assert_eq!(gaps.skip(start).as_deref(), expected, "from {start:?}");
    }

    #[test]
    fn gaps_grow_meet_and_are_filled() {
        let gaps = Gaps::default();
        check(&gaps, b"b", None);
        gaps.note(b"b", b"d");
        check(&gaps, b"a", None);
        check(&gaps, b"b", Some(b"d"));
        check(&gaps, b"c5", Some(b"d"));
        check(&gaps, b"d", None);
        gaps.note(b"d", b"f");
        check(&gaps, b"b", Some(b"f"));
        gaps.note(b"h", b"k");
        gaps.note(b"a", b"i");
        check(&gaps, b"a", Some(b"k"));
        gaps.fill(&set(&[b"z", b"e", b"k"]));
        check(&gaps, b"a", Some(b"e"));
        check(&gaps, b"e", None);
        gaps.fill(&Changes::from([(b"c".to_vec(), None)]));
        check(&gaps, b"a", Some(b"e"));
        gaps.fill(&set(&[b"a"]));
        check(&gaps, b"a", None);
    }
}
