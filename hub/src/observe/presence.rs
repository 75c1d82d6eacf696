//! Which systems called lately, and how many receive streams they have open.
//! Known since the start of the process only; nothing is decided by it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Who was here. Cheap to clone. Holds one entry for each system of the
/// directory that has called, for callers are known by then.
#[derive(Debug, Clone, Default)]
pub struct Presence(Arc<Mutex<BTreeMap<String, Seen>>>);

/// What is known of one system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// When it last called; zero if it has not.
    pub last_unix_ms: u64,
    /// Receive streams that are open.
    pub streams: u32,
}

/// A receive stream that is open while this lives.
#[derive(Debug)]
#[must_use = "counts only while it lives"]
pub struct StreamGuard {
    presence: Presence,
    system: String,
}

impl Presence {
    /// An authenticated system called.
    pub fn seen(&self, system: impl AsRef<str>, now_ms: u64) {
        let mut systems = self.lock();
        match systems.get_mut(system.as_ref()) {
            Some(seen) => seen.last_unix_ms = now_ms,
            None => {
                systems.insert(system.as_ref().to_owned(), Seen { last_unix_ms: now_ms, streams: 0 });
            }
        }
    }

    /// An authenticated system opened a receive stream, which is open until
    /// the guard is dropped.
    pub fn stream(&self, system: impl AsRef<str>) -> StreamGuard {
        let system = system.as_ref().to_owned();
        self.lock().entry(system.clone()).or_default().streams += 1;
        StreamGuard { presence: self.clone(), system }
    }

    /// What is known of a system.
    pub fn of(&self, system: impl AsRef<str>) -> Seen {
        self.lock().get(system.as_ref()).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        if let Some(seen) = self.presence.lock().get_mut(&self.system) {
            seen.streams = seen.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_count_while_they_are_open() {
        let presence = Presence::default();
        assert_eq!(presence.of("vpcp"), Seen::default());
        let first = presence.stream("vpcp");
        let second = presence.stream("vpcp");
        presence.seen("vpcp", 7);
        assert_eq!(presence.of("vpcp"), Seen { last_unix_ms: 7, streams: 2 });
        drop((first, second));
        assert_eq!(presence.of("vpcp"), Seen { last_unix_ms: 7, streams: 0 });
    }
}
