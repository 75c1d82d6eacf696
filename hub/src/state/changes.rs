//! Changes by key, in order.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use super::{Key, Value};

/// New values by key; `None` deletes. Knows which tables it changes: most of
/// what is asked for is of the directory, which hardly ever changes, and need
/// not be looked for among the many keys of queues.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pairs: BTreeMap<Key, Option<Value>>,
    tables: Tables,
}

impl Changes {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what becomes of a key.
    pub fn insert(&mut self, key: Key, change: Option<Value>) {
        self.tables.add(&key);
        self.pairs.insert(key, change);
    }

    /// What becomes of a key; `None` if nothing does.
    pub fn get(&self, key: &[u8]) -> Option<&Option<Value>> {
        if self.tables.may_have(key) { self.pairs.get(key) } else { None }
    }

    /// Adds later changes.
    pub fn extend(&mut self, later: Self) {
        if self.pairs.is_empty() {
            *self = later;
        } else {
            self.tables.join(&later.tables);
            self.pairs.extend(later.pairs);
        }
    }

    /// Forgets the changes of keys before one.
    pub fn forget_before(&mut self, key: &[u8]) {
        self.pairs = self.pairs.split_off(key);
    }

    /// The changes in order of key.
    pub fn iter(&self) -> btree_map::Iter<'_, Key, Option<Value>> {
        self.pairs.iter()
    }

    /// The changes from `start` (inclusive) to `end` (exclusive; empty: to the
    /// last).
    pub fn range(&self, start: &[u8], end: &[u8]) -> btree_map::Range<'_, Key, Option<Value>> {
        range(&self.pairs, start, end)
    }

    /// The first bytes of their keys, and maybe more.
    pub fn tables(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|table| self.tables.may_have(&[*table]))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl FromIterator<(Key, Option<Value>)> for Changes {
    fn from_iter<T: IntoIterator<Item = (Key, Option<Value>)>>(changes: T) -> Self {
        let pairs: BTreeMap<_, _> = changes.into_iter().collect();
        let mut tables = Tables::default();
        pairs.keys().for_each(|key| tables.add(key));
        Self { pairs, tables }
    }
}

impl IntoIterator for Changes {
    type Item = (Key, Option<Value>);
    type IntoIter = btree_map::IntoIter<Key, Option<Value>>;

    fn into_iter(self) -> Self::IntoIter {
        self.pairs.into_iter()
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = (&'a Key, &'a Option<Value>);
    type IntoIter = btree_map::Iter<'a, Key, Option<Value>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The first bytes of keys, each a table; the empty key has none and is always
/// looked for.
#[derive(Debug, Clone, Copy, Default)]
struct Tables([u64; 4]);

impl Tables {
    fn add(&mut self, key: &[u8]) {
        if let Some(first) = key.first() {
            self.0[usize::from(first / 64)] |= 1 << (first % 64);
        }
    }

    fn may_have(&self, key: &[u8]) -> bool {
        key.first().is_none_or(|first| self.0[usize::from(first / 64)] >> (first % 64) & 1 == 1)
    }

    fn join(&mut self, other: &Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours |= theirs;
        }
    }
}

/// The entries of a map from `start` (inclusive) to `end` (exclusive; empty: to
/// the last).
pub(super) fn range<'a, V>(
    map: &'a BTreeMap<Key, V>,
    start: &[u8],
    end: &[u8],
) -> btree_map::Range<'a, Key, V> {
    let end = match end {
        [] => Bound::Unbounded,
        // nothing, written in the order that a map asks for
        _ if end <= start => Bound::Excluded(start),
        _ => Bound::Excluded(end),
    };
    map.range::<[u8], _>((Bound::Included(start), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_is_a_table_of_its_own() {
        let mut changes = Changes::new();
        for first in 0..=u8::MAX {
            assert_eq!(changes.get(&[first]), None);
            changes.insert(vec![first], None);
            assert_eq!(changes.get(&[first]), Some(&None));
            assert_eq!(changes.get(&[first, 1]), None);
        }
        assert_eq!(changes.get(&[]), None);
    }

    #[test]
    fn later_changes_bring_their_tables() {
        let one = |key: u8, value: u8| Changes::from_iter([(vec![key], Some(vec![value]))]);
        let mut changes = one(1, 1);
        changes.extend(one(200, 2));
        changes.extend(one(1, 3));
        assert_eq!(changes.get(&[1]), Some(&Some(vec![3])));
        assert_eq!(changes.get(&[200]), Some(&Some(vec![2])));
        changes.forget_before(&[2]);
        assert_eq!((changes.get(&[1]), changes.len()), (None, 1));
    }
}
