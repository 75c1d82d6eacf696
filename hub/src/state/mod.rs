//! What follows from the journal: an ordered map of small keys and values,
//! derived by the machine and rebuilt from the journal whenever it is lost.
//! Knows nothing of what the keys mean.

use std::{collections::BTreeMap, ops::ControlFlow};

/// A key. Keys sort as bytes.
pub type Key = Vec<u8>;
/// A value, at most 4 KiB.
pub type Value = Vec<u8>;
/// New values by key; `None` deletes.
pub type Changes = BTreeMap<Key, Option<Value>>;

/// Reads one moment of the state.
///
/// Reading cannot fail: a store that cannot read its own disk stops the
/// process, and the next start rebuilds it.
pub trait Read {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Option<Value>;

    /// Visits keys in order, from `start` (inclusive) to `end` (exclusive),
    /// until the visitor breaks.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>);
}

/// A derived store of the state. One writer; any number of readers.
pub trait State: Send + Sync {
    /// Calls `read` with one consistent moment of the state. Short: the
    /// writer waits for it.
    fn read(&self, read: &mut dyn FnMut(&dyn Read));

    /// Makes `changes` visible, which bring the state to the records before
    /// `applied` (a count of records). May wait while the store on disk is
    /// too far behind.
    fn publish(&self, changes: Changes, applied: u64);

    /// How many records the visible state contains.
    fn applied(&self) -> u64;
}
