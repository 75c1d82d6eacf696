//! Where the visible state is known to hold nothing, and which key comes then.
//! A queue is taken from at its head, so its first keys are deletions that sled
//! has not seen yet, and sled's keys under them: whoever looks for the head
//! would pass all of them, each time. And whoever looks whether there is
//! anything at all, as the writer does for each batch and each kind of timer,
//! would ask sled each time to hear the same.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::state::{Changes, Key, Read, Value, Visit, changes};

/// Deletions passed at the start of a scan that are worth a note whatever else
/// it visits.
const WORTH: usize = 32;
/// Most gaps that are remembered: some for each mailbox that is busy.
const GAPS_MAX: usize = 8_192;

/// Ranges without keys, apart from each other: start (inclusive), and the end.
/// [`Gaps::fill`] keeps them true when keys are set and deleted.
#[derive(Default)]
pub(super) struct Gaps {
    ranges: Mutex<BTreeMap<Key, End>>,
    /// Whether there are any, known without the lock.
    some: AtomicBool,
}

/// Where a range ends (exclusive).
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    key: Key,
    /// Whether there is a key here; if not, nobody knows.
    is_key: bool,
}

impl Gaps {
    /// The first key at or after `start` that may be there, if more is known
    /// of it than that.
    fn skip(&self, start: &[u8]) -> Option<End> {
        if !self.some.load(Ordering::Relaxed) {
            return None;
        }
        let ranges = self.ranges();
        let (_, end) = around(&ranges, start)?;
        (end.key.as_slice() > start || (end.is_key && end.key == start)).then(|| end.clone())
    }

    /// Remembers that nothing is between `start` and an end.
    fn note(&self, start: &[u8], mut end: End) {
        let mut ranges = self.ranges();
        if ranges.len() >= GAPS_MAX {
            ranges.clear();
        }
        let from = match around(&ranges, start) {
            Some((from, before)) if before.key.as_slice() >= start => from.clone(),
            _ => start.to_vec(),
        };
        let met: Vec<Key> = changes::range(&ranges, &from, &end.key).map(|(from, _)| from.clone()).collect();
        for start in met {
            let Some(other) = ranges.remove(&start) else { continue };
            if (&other.key, other.is_key) > (&end.key, end.is_key) {
                end = other;
            }
        }
        ranges.insert(from, end);
        self.some.store(true, Ordering::Relaxed);
    }

    /// Keys are about to be set and deleted; nobody reads meanwhile.
    pub(super) fn fill(&self, changes: &Changes) {
        if !self.some.load(Ordering::Relaxed) {
            return;
        }
        let mut ranges = self.ranges();
        // keys before this one are in no range
        let mut next = Key::new();
        for (key, change) in changes {
            if *key < next {
                continue;
            }
            let mut before = ranges.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key.as_slice())));
            let Some((from, end)) = before.next_back().filter(|(_, end)| end.key >= *key) else {
                let mut after = ranges.range::<[u8], _>((Bound::Excluded(key.as_slice()), Bound::Unbounded));
                let Some((from, _)) = after.next() else { break };
                next.clone_from(from);
                continue;
            };
            match change {
                Some(_) if from == key && end.key > *key => drop(ranges.remove(key)),
                Some(_) => *end = End { key: key.clone(), is_key: true },
                None if end.key == *key => end.is_key = false,
                None => {}
            }
        }
        self.some.store(!ranges.is_empty(), Ordering::Relaxed);
    }

    fn ranges(&self) -> MutexGuard<'_, BTreeMap<Key, End>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The range that starts last at or before a key.
fn around<'a>(ranges: &'a BTreeMap<Key, End>, key: &[u8]) -> Option<(&'a Key, &'a End)> {
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
        let from = skipped.as_ref().map_or(start, |skipped| &skipped.key);
        if !end.is_empty() && from >= end {
            return;
        }
        if skipped.as_ref().is_some_and(|skipped| skipped.is_key)
            && let Some(value) = self.read.get(from)
        {
            if visit(from, &value).is_continue() {
                self.read.scan(&[from, &[0]].concat(), end, visit);
            }
            return;
        }
        let (mut first, mut visited, mut stopped) = (None, 0, false);
        self.read.scan(from, end, &mut |key, value| {
            if first.is_none() {
                first = Some(key.to_vec());
            }
            visited += 1;
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        });
        let is_key = first.is_some();
        let to = first.unwrap_or_else(|| end.to_vec());
        if to.as_slice() <= from && !is_key {
            return;
        }
        // nothing of what the layers have before `to` is visible, or it would
        // have been visited first
        let passed = |layer: &Changes| layer.range(from, &to).take(WORTH).count();
        let looked_for_the_first = visited == 0 || (visited == 1 && stopped);
        if looked_for_the_first || self.layers.into_iter().map(passed).sum::<usize>() >= WORTH {
            self.gaps.note(from, End { key: to, is_key });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::state::memory::MemoryState;
    use crate::state::{State as _, read_once};

    fn set(keys: &[&[u8]]) -> Changes {
        keys.iter().map(|key| (key.to_vec(), Some(Value::new()))).collect()
    }

    fn deleted(key: &[u8]) -> Changes {
        Changes::from_iter([(key.to_vec(), None)])
    }

    fn note(gaps: &Gaps, start: &[u8], end: &[u8], is_key: bool) {
        gaps.note(start, End { key: end.to_vec(), is_key });
    }

    #[track_caller]
    fn check(gaps: &Gaps, start: &[u8], expected: Option<(&[u8], bool)>) {
        let found = gaps.skip(start).map(|end| (end.key, end.is_key));
        assert_eq!(found, expected.map(|(key, is_key)| (key.to_vec(), is_key)), "from {start:?}");
    }

    #[test]
    fn gaps_grow_meet_and_are_filled() {
        let gaps = Gaps::default();
        check(&gaps, b"b", None);
        note(&gaps, b"b", b"d", false);
        check(&gaps, b"a", None);
        check(&gaps, b"b", Some((b"d", false)));
        check(&gaps, b"c5", Some((b"d", false)));
        check(&gaps, b"d", None);
        note(&gaps, b"d", b"f", false);
        check(&gaps, b"b", Some((b"f", false)));
        note(&gaps, b"h", b"k", true);
        note(&gaps, b"a", b"i", false);
        check(&gaps, b"a", Some((b"k", true)));
        check(&gaps, b"k", Some((b"k", true)));
        gaps.fill(&set(&[b"z", b"e", b"k"]));
        check(&gaps, b"a", Some((b"e", true)));
        check(&gaps, b"e", Some((b"e", true)));
        check(&gaps, b"f", None);
        gaps.fill(&deleted(b"c"));
        check(&gaps, b"a", Some((b"e", true)));
        gaps.fill(&deleted(b"e"));
        check(&gaps, b"a", Some((b"e", false)));
        check(&gaps, b"e", None);
        gaps.fill(&set(&[b"e"]));
        check(&gaps, b"a", Some((b"e", true)));
        gaps.fill(&set(&[b"a"]));
        check(&gaps, b"a", None);
    }

    #[test]
    fn what_is_read_past_gaps_is_what_is_there() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (state, gaps) = (MemoryState::new(), Gaps::default());
        let none = Changes::new();
        let key = |number: u32| format!("{number:03}").into_bytes();
        for round in 1..3_000 {
            let changes: Changes = (0..random.u32(0..4))
                .map(|_| (key(random.u32(0..200)), random.bool().then(Value::new)))
                .collect();
            gaps.fill(&changes);
            state.publish(changes, round);
            for _ in 0..3 {
                let (one, other) = (random.u32(0..210), random.u32(0..210));
                let (start, end) = (key(one.min(other)), key(one.max(other)));
                let max = random.usize(1..4);
                let found = |read: &dyn Read| {
                    let mut found = Vec::new();
                    read.scan(&start, &end, &mut |key, _| {
                        found.push(key.to_vec());
                        if found.len() == max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    });
                    found
                };
                read_once(&state, |read| {
                    let moment = Moment { read, layers: [&none, &none], gaps: &gaps };
                    assert_eq!(found(&moment), found(read), "{start:?} to {end:?}, {max} of them");
                });
            }
        }
    }
}
