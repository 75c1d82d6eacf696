//! Changes that nobody else sees yet, over a moment of the state. Never
//! changes what it lies over.

use std::ops::ControlFlow;

use super::{Changes, Key, Read, Value, Visit};

/// Changes over a base. A draft is read like any state, so drafts may be
/// stacked: a batch's draft over the store, a command's over the batch's.
pub struct Draft<'a> {
    base: &'a dyn Read,
    changes: Changes,
}

impl<'a> Draft<'a> {
    /// No changes yet.
    pub fn new(base: &'a dyn Read) -> Self {
        Self { base, changes: Changes::new() }
    }

    /// Sets a key, which is not empty, to a value.
    pub fn put(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        let key = key.into();
        debug_assert!(!key.is_empty(), "the empty key is the store's own");
        self.changes.insert(key, Some(value.into()));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: impl Into<Key>) {
        self.changes.insert(key.into(), None);
    }

    /// Takes over the changes of a draft that lay over this one.
    pub fn absorb(&mut self, changes: Changes) {
        self.changes.extend(changes);
    }

    /// What was changed so far.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The changes, to be published or absorbed.
    pub fn into_changes(self) -> Changes {
        self.changes
    }
}

impl Read for Draft<'_> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        Overlay { changes: &self.changes, base: self.base }.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        Overlay { changes: &self.changes, base: self.base }.scan(start, end, visit);
    }
}

/// Borrowed changes over a base, read as one.
pub(super) struct Overlay<'a> {
    pub(super) changes: &'a Changes,
    pub(super) base: &'a dyn Read,
}

impl Read for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        match self.changes.get(key) {
            Some(change) => change.clone(),
            None => self.base.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        let mut ours = self.changes.range(start, end).peekable();
        if ours.peek().is_none() {
            return self.base.scan(start, end, visit);
        }
        let mut stopped = false;
        self.base.scan(start, end, &mut |key, value| {
            // ours before this key go first; ours at this key goes instead
            while let Some((our_key, change)) = ours.next_if(|(our_key, _)| our_key.as_slice() <= key) {
                let flow = match change {
                    Some(our_value) => visit(our_key, our_value),
                    None => ControlFlow::Continue(()),
                };
                if flow.is_break() {
                    stopped = true;
                    return flow;
                }
                if our_key.as_slice() == key {
                    return ControlFlow::Continue(());
                }
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        });
        if stopped {
            return;
        }
        for (key, change) in ours {
            if let Some(value) = change
                && visit(key, value).is_break()
            {
                return;
            }
        }
    }
}
