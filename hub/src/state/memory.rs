//! The state in memory: the tests' oracle, and what fsck rebuilds into.
//! Forgets everything at the end of the process.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

use super::{Changes, Key, Read, State, Value, Visit, draft};

/// A state that is one map.
#[derive(Debug, Default)]
pub struct MemoryState(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    map: BTreeMap<Key, Value>,
    applied: u64,
}

impl MemoryState {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }
}

impl State for MemoryState {
    fn read(&self, read: &mut dyn FnMut(&dyn Read)) {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner).map);
    }

    fn publish(&self, changes: Changes, applied: u64) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        assert!(applied >= inner.applied, "the state never goes back");
        inner.applied = applied;
        for (key, change) in changes {
            match change {
                Some(value) => inner.map.insert(key, value),
                None => inner.map.remove(&key),
            };
        }
    }

    fn applied(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).applied
    }
}

impl Read for BTreeMap<Key, Value> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        BTreeMap::get(self, key).cloned()
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        for (key, value) in draft::range(self, start, end) {
            if visit(key, value).is_break() {
                return;
            }
        }
    }
}
