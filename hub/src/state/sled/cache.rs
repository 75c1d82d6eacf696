//! What was read from sled lately. sled takes some microseconds to find a key,
//! and every call asks for the same systems, agencies and keys; and whether an
//! envelope is known, several times in a row.
//!
//! Never stale: a key that is being written is found in the layers above and
//! not asked for here, and before it leaves them all that was read of its
//! table is of no use any more. The tables that every call asks for hardly
//! ever change; of the others it is enough to know what was read just now.

use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::{Weighter, sync};

use super::store::Store;
use crate::{
    limits,
    state::{Changes, Key, Read, Value, Visit},
};

/// What a key and its value take beside their bytes.
const OVERHEAD_BYTES: usize = 96;
/// Keys in it, about; the bytes are what bounds it.
const KEYS: usize = limits::STATE_CACHE_BYTES / 256;

/// Values by key, also of keys that are not there.
pub(super) struct Cache {
    values: sync::Cache<Key, Held, Bytes>,
    /// How often sled was written.
    writes: AtomicU64,
    /// Which of them wrote a table last, by its byte.
    written: [AtomicU64; 256],
}

#[derive(Clone)]
struct Held {
    value: Option<Value>,
    /// How often sled had been written when it was read.
    writes: u64,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Held> for Bytes {
    fn weight(&self, key: &Key, held: &Held) -> u64 {
        (OVERHEAD_BYTES + key.len() + held.value.as_ref().map_or(0, Vec::len)) as u64
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        Self {
            values: sync::Cache::with_weighter(KEYS, limits::STATE_CACHE_BYTES as u64, Bytes),
            writes: AtomicU64::new(0),
            written: [const { AtomicU64::new(0) }; 256],
        }
    }

    /// What was read of these tables so far is of no use any more. Only while
    /// the layers still have what was written: whoever reads past them then
    /// has had their lock after it, and so sees this.
    pub(super) fn forget(&self, changes: &Changes) {
        let writes = self.writes.load(Ordering::Relaxed) + 1;
        for table in changes.tables() {
            self.written[usize::from(table)].store(writes, Ordering::Relaxed);
        }
        self.writes.store(writes, Ordering::Relaxed);
    }

    fn get(&self, key: &[u8]) -> Option<Option<Value>> {
        let written = self.written[usize::from(*key.first()?)].load(Ordering::Relaxed);
        self.values.get(key).filter(|held| held.writes >= written).map(|held| held.value)
    }

    fn keep(&self, key: &[u8], value: &Option<Value>) {
        let held = Held { value: value.clone(), writes: self.writes.load(Ordering::Relaxed) };
        self.values.insert(key.to_vec(), held);
    }
}

/// sled, read through the cache.
pub(super) struct Cached<'a> {
    pub(super) store: &'a Store,
    pub(super) cache: &'a Cache,
}

impl Read for Cached<'_> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        if let Some(held) = self.cache.get(key) {
            return held;
        }
        let value = self.store.get(key);
        self.cache.keep(key, &value);
        value
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        self.store.scan(start, end, visit);
    }
}
