//! Carries out what the records say may leave: content out of the journal's
//! segments, documents out of the vault, unfinished uploads that nobody came
//! back to, old entries of feeds. Works in the background and in small steps,
//! none of them while a backup is being made. Never decides what may leave:
//! the machine does, in records, and after a crash it is done again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axis_proto::{
    id::{Digest, SystemId},
    record::v1::{Record, record::Event},
};
use prost::Message as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    commit::Committer,
    error::{Error, Result},
    gate::Gate,
    journal::{
        Entry, Eraser, JournalReader,
        erase::{Place, Removed},
    },
    limits::{self, Millis},
    machine::{self, Command, query},
    state::{Read, State, read_once},
    vault::Vault,
};

mod purge;

pub use purge::Purged;

/// What retention works with.
pub struct Parts {
    /// What follows from the journal.
    pub state: Arc<dyn State>,
    /// Where what leaves is recorded first.
    pub committer: Committer,
    /// The journal.
    pub journal: Arc<dyn JournalReader>,
    /// Takes cargo out of it.
    pub eraser: Eraser,
    /// The documents.
    pub vault: Arc<Vault>,
    /// Shut while a backup is being made.
    pub gate: Gate,
    /// The time.
    pub clock: Clock,
    /// How far back feeds can be read.
    pub feed_kept_ms: Millis,
}

/// Carries out what may leave. Cheap to clone.
#[derive(Clone)]
pub struct Retention(Arc<Inner>);

struct Inner {
    parts: Parts,
    round: Mutex<Round>,
}

/// Where the rounds are. Lost with the process, which costs a round.
#[derive(Default)]
struct Round {
    /// How long the journal was when a segment was last looked at.
    looked_at: BTreeMap<u64, u64>,
    /// The directory of the vault that comes next.
    directory: usize,
    /// Since when a document is known to be needed by nobody.
    unneeded: BTreeMap<Digest, Millis>,
    /// Purges that were erased since then are gone on with, until all of them
    /// once came to their end: not yet known is from shortly before the start.
    purges_since_ms: Option<Millis>,
}

/// What a pass has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Segments that were written anew.
    pub segments: u64,
    /// Content that left them.
    pub removed: Removed,
    /// Documents that left the vault.
    pub documents: u64,
    /// Unfinished uploads that did.
    pub uploads: u64,
    /// Feeds that were trimmed.
    pub feeds: u64,
}

impl Retention {
    /// Nothing is done yet.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner { parts, round: Mutex::default() }))
    }

    /// Works until the hub stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut minutes = 0u64;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep(limits::RETENTION_INTERVAL) => {}
            }
            if let Err(error) = self.minute(minutes).await {
                tracing::warn!(%error, "retention did not come to its end; it goes on in a minute");
            }
            minutes += 1;
        }
    }

    async fn minute(&self, minutes: u64) -> Result<()> {
        let mut done = Done::default();
        // one that cannot come to its end keeps nothing else from leaving
        let purged = self.purges().await;
        self.journal(limits::RETENTION_SEGMENTS, &mut done).await?;
        self.documents(1, &mut done).await?;
        if minutes.is_multiple_of(60) {
            self.feeds(&mut done).await?;
            self.grants().await?;
            self.uploads(&mut done).await?;
        }
        if done != Done::default() {
            tracing::info!(
                segments = done.segments,
                bytes = done.removed.bytes,
                documents = done.documents,
                uploads = done.uploads,
                feeds = done.feeds,
                "retention"
            );
        }
        purged
    }

    /// Looks at everything once, without pauses.
    ///
    /// # Errors
    /// The first that it meets; what was done is done.
    pub async fn pass(&self) -> Result<Done> {
        let mut done = Done::default();
        self.purges().await?;
        self.journal(usize::MAX, &mut done).await?;
        self.feeds(&mut done).await?;
        self.grants().await?;
        self.documents(DIRECTORIES, &mut done).await?;
        self.uploads(&mut done).await?;
        Ok(done)
    }

    /// Writes segments anew of which enough may go.
    async fn journal(&self, max: usize, done: &mut Done) -> Result<()> {
        let erased = self.read(|read| query::meta(read).erased_size);
        let segments = self.0.parts.eraser.segments();
        let due = |place: &&Place| !place.is_last && self.looked_at(place.first_sequence) < erased;
        for place in segments.iter().filter(due).take(max) {
            let size = self.0.parts.journal.size();
            let Some(_step) = self.0.parts.gate.step() else { return Ok(()) };
            let removed = self.erase(*place, worth_it).await?;
            done.segments += u64::from(removed.pieces > 0);
            done.removed.pieces += removed.pieces;
            done.removed.bytes += removed.bytes;
            self.round().looked_at.insert(place.first_sequence, size);
        }
        Ok(())
    }

    /// Writes one segment anew if it is worth it; what left it.
    async fn erase(&self, place: Place, worth_it: fn(&Place, &Removed) -> bool) -> Result<Removed> {
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let parts = &this.0.parts;
            let mut choose = |entry: &Entry| this.erasable(entry);
            let found = parts.eraser.look(place.first_sequence, &mut choose)?;
            if found.pieces == 0 || !worth_it(&place, &found) {
                return Ok(Removed::default());
            }
            parts.eraser.erase(place.first_sequence, &mut choose)
        });
        Ok(work.await.map_err(Error::fault)??)
    }

    /// Which of a record's cargo may go.
    fn erasable(&self, entry: &Entry) -> Vec<usize> {
        // it was decoded when it was applied; what cannot be read stays
        let Ok(record) = Record::decode(entry.record.clone()) else { return Vec::new() };
        let parts = &self.0.parts;
        let now_ms = parts.clock.is_trusted().then(|| parts.clock.now_ms());
        // nor does what is let go by the state alone
        let_go(&*parts.state, &*parts.journal, &record, now_ms).unwrap_or_default()
    }

    /// Removes documents that nothing has needed for a while, of so many
    /// directories of the vault.
    async fn documents(&self, directories: usize, done: &mut Done) -> Result<()> {
        if !self.0.parts.clock.is_trusted() {
            return Ok(());
        }
        for _ in 0..directories {
            let directory = {
                let mut round = self.round();
                let next = (round.directory + 1) % DIRECTORIES;
                std::mem::replace(&mut round.directory, next)
            };
            let this = self.clone();
            let found = tokio::task::spawn_blocking(move || this.unneeded(directory));
            let found = found.await.map_err(Error::fault)??;
            for part in found.chunks(limits::DIGESTS_IN_RECORD_MAX) {
                let Some(_step) = self.0.parts.gate.step() else { return Ok(()) };
                done.documents += self.collect(part.to_vec(), None).await?.len() as u64;
            }
        }
        Ok(())
    }

    /// Documents of a directory that nothing has needed for the grace.
    fn unneeded(&self, directory: usize) -> Result<Vec<Digest>> {
        let parts = &self.0.parts;
        let now_ms = parts.clock.now_ms();
        let held = parts.vault.directory(&format!("{directory:02x}"))?;
        let (mut over, mut still) = (Vec::new(), BTreeMap::new());
        for sha256 in held {
            if !self.read(|read| is_needed(read, &sha256, now_ms)) {
                let since = self.round().unneeded.get(&sha256).copied().unwrap_or(now_ms);
                if now_ms.saturating_sub(since) >= limits::DOCUMENT_GRACE_MS {
                    over.push(sha256);
                }
                if still.len() < limits::RETENTION_CANDIDATES_MAX {
                    still.insert(sha256, since);
                }
            }
        }
        let mut round = self.round();
        round.unneeded.retain(|sha256, _| usize::from(sha256.as_bytes()[0]) != directory);
        round.unneeded.extend(still);
        Ok(over)
    }

    /// Records that documents leave, and removes them. Those leave that were
    /// recorded: at that very place nothing needed them, and nobody can bring
    /// them while they are being removed.
    async fn collect(&self, documents: Vec<Digest>, purged_envelope: Option<u64>) -> Result<Vec<Digest>> {
        let parts = &self.0.parts;
        let locks: Vec<_> = documents.iter().filter_map(|sha256| parts.vault.lock(sha256)).collect();
        let documents: Vec<Digest> = locks.iter().map(|lock| *lock.document()).collect();
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let outcome =
            parts.committer.commit(Command::CollectDocuments { documents, purged_envelope }).await?;
        let Some(sequence) = outcome.sequence() else { return Ok(Vec::new()) };
        let journal = parts.journal.clone();
        let work = tokio::task::spawn_blocking(move || {
            let Some(Event::DocumentsCollected(event)) = event_of(&*journal, sequence)? else {
                return Err(Error::fault(format!("record {sequence} collects nothing")));
            };
            let mut removed = Vec::new();
            // a crash here: the record is there and the file too, which
            // nothing needs; a later round finds it
            for lock in locks {
                if event.sha256.iter().any(|sha256| sha256[..] == lock.document().as_bytes()[..]) {
                    lock.remove()?;
                    removed.push(*lock.document());
                }
            }
            Ok(removed)
        });
        work.await.map_err(Error::fault)?
    }

    /// Trims feeds.
    async fn feeds(&self, done: &mut Done) -> Result<()> {
        let parts = &self.0.parts;
        if !parts.clock.is_trusted() {
            return Ok(());
        }
        let older_than_unix_ms = parts.clock.now_ms().saturating_sub(parts.feed_kept_ms);
        let systems = self.read(query::systems);
        for system in systems {
            let Ok(system) = system.system_id.parse::<SystemId>() else { continue };
            let mut trimmed = false;
            while self.read(|read| !query::feed_before(read, &system, older_than_unix_ms, 1).is_empty()) {
                parts
                    .committer
                    .commit(Command::TrimFeed { system: system.clone(), older_than_unix_ms })
                    .await?;
                trimmed = true;
            }
            done.feeds += u64::from(trimmed);
        }
        Ok(())
    }

    /// Lets grants lapse whose time is over.
    async fn grants(&self) -> Result<()> {
        let parts = &self.0.parts;
        if !parts.clock.is_trusted() {
            return Ok(());
        }
        let (now_ms, mut after) = (parts.clock.now_ms(), Vec::new());
        loop {
            let (lapsed, next) =
                self.read(|read| machine::lapsed_grants(read, &after, now_ms, limits::DIGESTS_IN_RECORD_MAX));
            let mut by_system: BTreeMap<SystemId, Vec<Digest>> = BTreeMap::new();
            for (system, sha256) in lapsed {
                by_system.entry(system).or_default().push(sha256);
            }
            for (system, documents) in by_system {
                parts.committer.commit(Command::LapseGrants { system, documents }).await?;
            }
            if next.is_empty() {
                return Ok(());
            }
            after = next;
        }
    }

    /// Removes unfinished uploads that nobody came back to.
    async fn uploads(&self, done: &mut Done) -> Result<()> {
        let parts = &self.0.parts;
        if !parts.clock.is_trusted() {
            return Ok(());
        }
        let Some(_step) = parts.gate.step() else { return Ok(()) };
        let before_ms = parts.clock.now_ms().saturating_sub(limits::UPLOAD_PINNED_MS);
        let vault = parts.vault.clone();
        let work = tokio::task::spawn_blocking(move || vault.remove_idle_uploads(before_ms));
        done.uploads += work.await.map_err(Error::fault)??;
        Ok(())
    }

    fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        read_once(&*self.0.parts.state, read)
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.0.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked_at(&self, first_sequence: u64) -> u64 {
        self.round().looked_at.get(&first_sequence).copied().unwrap_or(0)
    }
}

/// How the vault spreads its documents: by the first two digits.
const DIRECTORIES: usize = 256;

fn is_needed(read: &dyn Read, sha256: &Digest, now_ms: Millis) -> bool {
    query::is_named(read, sha256) || query::is_pinned(read, sha256, now_ms)
}

/// Which of a record's cargo may go, by the state and by the journal: the
/// state is derived, and a row that it has lost must not cost content that
/// somebody needs. `now_ms` if the time is known.
fn let_go(
    state: &dyn State,
    journal: &dyn JournalReader,
    record: &Record,
    now_ms: Option<Millis>,
) -> Result<Vec<usize>> {
    let Some(envelope) = machine::envelope_of(record) else { return Ok(Vec::new()) };
    let (places, row) =
        read_once(state, |read| (machine::erasable(read, record), query::envelope(read, envelope)));
    if places.is_empty() {
        return Ok(places);
    }
    let sure = match (row, now_ms) {
        (Some(row), _) => matches!(
            event_of(journal, row.erased_sequence)?,
            Some(Event::Erased(erased)) if erased.envelope_sequence == envelope
        ),
        (None, Some(now_ms)) => matches!(
            event_of(journal, envelope)?,
            Some(Event::Accepted(accepted)) if machine::is_forgotten_by(&accepted, now_ms)
        ),
        (None, None) => false,
    };
    Ok(if sure { places } else { Vec::new() })
}

/// Whether a segment is written anew by itself: each time costs writing what
/// stays.
fn worth_it(place: &Place, found: &Removed) -> bool {
    found.bytes >= limits::ERASE_WORTH_BYTES || found.bytes * 4 >= place.bytes
}

fn event_of(journal: &dyn JournalReader, sequence: u64) -> Result<Option<Event>> {
    let batch = journal.batch_of(sequence)?;
    let entry = batch.as_ref().and_then(|batch| batch.entry(sequence));
    let entry = entry.ok_or_else(|| Error::fault(format!("no record {sequence}")))?;
    Ok(Record::decode(entry.record.clone()).map_err(Error::fault)?.event)
}

#[cfg(test)]
mod tests;
