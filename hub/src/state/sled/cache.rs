//! What was read from sled lately. sled takes some microseconds to find a key,
//! and every call asks for the same systems, agencies and keys; and whether an
//! envelope is known, several times in a row.
//!
//! Never stale: a key that is being written is found in the layers above and
//! not asked for here, and is forgotten before it leaves them.

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
pub(super) struct Cache(sync::Cache<Key, Option<Value>, Bytes>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Option<Value>> for Bytes {
    fn weight(&self, key: &Key, value: &Option<Value>) -> u64 {
        (OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Vec::len)) as u64
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        Self(sync::Cache::with_weighter(KEYS, limits::STATE_CACHE_BYTES as u64, Bytes))
    }

    /// Forgets what was written. Only while the layers still have it.
    pub(super) fn forget(&self, written: &Changes) {
        for key in written.keys() {
            self.0.remove(key);
        }
    }
}

/// sled, read through the cache.
pub(super) struct Cached<'a> {
    pub(super) store: &'a Store,
    pub(super) cache: &'a Cache,
}

impl Read for Cached<'_> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        if let Some(held) = self.cache.0.get(key) {
            return held;
        }
        let value = self.store.get(key);
        self.cache.0.insert(key.to_vec(), value.clone());
        value
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        self.store.scan(start, end, visit);
    }
}
