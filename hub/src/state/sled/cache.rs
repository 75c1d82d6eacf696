//! What was read from sled lately. sled takes some microseconds to find a key,
//! and every call asks for the same systems, agencies and keys; and whether an
//! envelope is known, several times in a row.
//!
//! Of what is not there the whole gap is remembered, from one key of sled's to
//! the next: the ids of new envelopes come one after the other, and each is
//! asked for when there is none yet.
//!
//! Never stale: a key that is being written is found in the layers above and
//! not asked for here, and before it leaves them all that was read of its
//! table, and all gaps, are of no use any more. The tables that
//! every call asks for hardly ever change; of the others it is enough to know
//! what was read just now.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use quick_cache::{
    Weighter,
    sync::{self, DefaultLifecycle},
};

use super::store::{Looked, Store};
use crate::{
    limits,
    state::{Changes, Key, Read, Value, Visit},
};

/// What a key and its value take beside their bytes.
const OVERHEAD_BYTES: usize = 96;
/// Keys in it, about; the bytes are what bounds it.
const KEYS: usize = limits::STATE_CACHE_BYTES / 256;

/// Most gaps that are remembered, of some 200 bytes: one for each sender that
/// submits between two writes of sled, and some.
const GAPS_MAX: usize = 4_096;

/// Values by key, and where there are none.
pub(super) struct Cache {
    values: sync::Cache<Key, Held, Bytes, RandomState>,
    /// Where sled has no keys: start, and the end (exclusive).
    gaps: Mutex<BTreeMap<Key, Key>>,
    /// How often sled was written.
    writes: AtomicU64,
    /// Which of them wrote a table last, by its byte.
    written: [AtomicU64; 256],
}

#[derive(Clone)]
struct Held {
    value: Value,
    /// How often sled had been written when it was read.
    writes: u64,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Held> for Bytes {
    fn weight(&self, key: &Key, held: &Held) -> u64 {
        (OVERHEAD_BYTES + key.len() + held.value.len()) as u64
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        // keyed; who would make keys collide has to have each accepted, and a full
        // cache takes no more bytes
        let (bytes, hasher) = (limits::STATE_CACHE_BYTES as u64, RandomState::default());
        Self {
            values: sync::Cache::with(KEYS, bytes, Bytes, hasher, DefaultLifecycle::default()),
            gaps: Mutex::default(),
            writes: AtomicU64::new(0),
            written: [const { AtomicU64::new(0) }; 256],
        }
    }

    /// What was read of these tables so far is of no use any more. Only while
    /// the layers still have what was written: whoever reads past them then
    /// has had their lock after it, and so sees this.
    pub(super) fn forget(&self, changes: &Changes) {
        let mut gaps = self.gaps();
        let old = std::mem::take(&mut *gaps);
        let writes = self.writes.load(Ordering::Relaxed) + 1;
        for table in changes.tables() {
            self.written[usize::from(table)].store(writes, Ordering::Relaxed);
        }
        // whoever sees it sees what was written
        self.writes.store(writes, Ordering::Release);
        drop(gaps);
        // while nobody waits
        drop(old);
    }

    fn get(&self, key: &[u8]) -> Option<Value> {
        let written = self.written[usize::from(*key.first()?)].load(Ordering::Relaxed);
        self.values.get(key).filter(|held| held.writes >= written).map(|held| held.value)
    }

    fn keep(&self, key: &[u8], value: &Value) {
        let held = Held { value: value.clone(), writes: self.writes.load(Ordering::Relaxed) };
        self.values.insert(key.to_vec(), held);
    }

    /// Whether a key is known not to be in sled.
    fn is_in_gap(&self, key: &[u8]) -> bool {
        let gaps = self.gaps();
        let mut before = gaps.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        before.next_back().is_some_and(|(_, end)| key < end.as_slice())
    }

    /// Remembers a gap that was found when sled had been written so often. It
    /// is of keys that nobody asked for, too, which may have been written
    /// since: then it is left.
    fn keep_gap(&self, start: Key, end: Key, writes: u64) {
        let mut gaps = self.gaps();
        if self.writes.load(Ordering::Relaxed) != writes {
            return;
        }
        if gaps.len() >= GAPS_MAX {
            gaps.clear();
        }
        gaps.insert(start, end);
    }

    fn gaps(&self) -> MutexGuard<'_, BTreeMap<Key, Key>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// sled, read through the cache.
pub(super) struct Cached<'a> {
    pub(super) store: &'a Store,
    pub(super) cache: &'a Cache,
}

impl Read for Cached<'_> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        if let Some(value) = self.cache.get(key) {
            return Some(value);
        }
        if self.cache.is_in_gap(key) {
            return None;
        }
        // before it is read: what is written meanwhile makes it of no use
        let writes = self.cache.writes.load(Ordering::Acquire);
        match self.store.look(key) {
            Looked::Value(value) => {
                self.cache.keep(key, &value);
                Some(value)
            }
            Looked::Gap { start, end } => {
                self.cache.keep_gap(start, end, writes);
                None
            }
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        self.store.scan(start, end, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_remembered_until_sled_is_written() {
        let cache = Cache::new();
        let keep = |writes| cache.keep_gap(b"a3".to_vec(), b"a7".to_vec(), writes);
        keep(0);
        let found = |key: &[u8]| cache.is_in_gap(key);
        assert!(found(b"a3") && found(b"a69") && !found(b"a2") && !found(b"a7") && !found(b"b"));
        cache.forget(&Changes::from_iter([(b"a5".to_vec(), Some(Value::new()))]));
        assert!(!found(b"a5") && !found(b"a3"));
        // found before that write, and told after it
        keep(0);
        assert!(!found(b"a5"));
        keep(1);
        assert!(found(b"a5"));
    }
}
