//! Wakes those who wait for something of one system, and nobody else: reads
//! which systems a batch concerns instead of letting every open stream look
//! at the state after every batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axis_proto::{
    id::SystemId,
    record::v1::{CargoKind, ConsignmentLeaf, LeafList, Record, record::Event},
};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;

use crate::{commit::Progress, journal::JournalReader, machine};

/// Records that are read to find whom they concern; when more came at once,
/// everybody is woken.
const READ_MAX: u64 = 8_192;

/// Who waits for which system. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wakes(Arc<Mutex<BTreeMap<String, watch::Sender<()>>>>);

impl Wakes {
    /// Starts to watch what becomes durable, until the committer ends.
    pub fn start(progress: watch::Receiver<Progress>, journal: Arc<dyn JournalReader>) -> Self {
        let wakes = Self::default();
        tokio::spawn(follow(wakes.clone(), progress, journal, Where::Aside));
        wakes
    }

    /// As [`Self::start`], for a process of one thread: the journal is read in
    /// the task itself, which waits for the disk.
    pub fn start_in_place(progress: watch::Receiver<Progress>, journal: Arc<dyn JournalReader>) -> Self {
        let wakes = Self::default();
        tokio::spawn(follow(wakes.clone(), progress, journal, Where::InPlace));
        wakes
    }

    /// Changes after something of this system did. Subscribe, then look at
    /// the state, then wait: nothing is missed.
    pub fn of(&self, system: &SystemId) -> watch::Receiver<()> {
        self.lock().entry(system.as_str().to_owned()).or_default().subscribe()
    }

    fn wake(&self, whom: &Whom) {
        self.lock().retain(|system, sender| {
            if whom.contains(system) {
                sender.send_replace(());
            }
            sender.receiver_count() > 0
        });
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom some records concern.
#[derive(Debug, PartialEq, Eq)]
enum Whom {
    All,
    These(BTreeSet<String>),
}

impl Whom {
    fn contains(&self, system: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(systems) => systems.contains(system),
        }
    }
}

/// Where the journal is read.
#[derive(Debug, Clone, Copy)]
enum Where {
    Aside,
    InPlace,
}

async fn follow(
    wakes: Wakes,
    mut progress: watch::Receiver<Progress>,
    journal: Arc<dyn JournalReader>,
    reads: Where,
) {
    let mut seen = progress.borrow_and_update().size;
    while progress.changed().await.is_ok() {
        let size = progress.borrow_and_update().size;
        if !wakes.is_empty() {
            let journal = journal.clone();
            let whom = match reads {
                Where::InPlace => concerned(&*journal, seen, size),
                // recent batches are in memory, but after a pause they may not be
                Where::Aside => tokio::task::spawn_blocking(move || concerned(&*journal, seen, size))
                    .await
                    .unwrap_or(Whom::All),
            };
            wakes.wake(&whom);
        }
        seen = size;
    }
    wakes.wake(&Whom::All);
}

/// Whom the records from one sequence up to another concern.
fn concerned(journal: &dyn JournalReader, from: u64, to: u64) -> Whom {
    if to.saturating_sub(from) > READ_MAX {
        return Whom::All;
    }
    let mut systems = BTreeSet::new();
    let mut next = from;
    while next < to {
        let Ok(Some(batch)) = journal.batch_of(next) else { return Whom::All };
        for entry in batch.entries.iter().filter(|entry| (next..to).contains(&entry.sequence)) {
            let Ok(record) = Record::decode(entry.record.clone()) else { return Whom::All };
            if !add_concerned(&record, &entry.cargo, &mut systems) {
                return Whom::All;
            }
        }
        next = batch.commit.size.max(next + 1);
    }
    Whom::These(systems)
}

/// Adds the systems that a record concerns; false if it may be all.
fn add_concerned(record: &Record, cargo: &[Bytes], systems: &mut BTreeSet<String>) -> bool {
    systems.extend(record.feeds.iter().map(|place| place.system.clone()));
    match &record.event {
        Some(Event::Consigned(_)) => return add_consigned(record, cargo, systems),
        Some(Event::DirectoryChanged(_)) | None => return false,
        Some(event) => {
            if let Event::Moved(event) = event {
                systems.insert(event.system.clone());
            }
            systems.extend(machine::delivery_of(event).map(|delivery| delivery.system.clone()));
        }
    }
    true
}

fn add_consigned(record: &Record, cargo: &[Bytes], systems: &mut BTreeSet<String>) -> bool {
    let place = record.cargo.iter().position(|cargo| cargo.kind() == CargoKind::ConsignmentList);
    let Some(bytes) = place.and_then(|place| cargo.get(place)) else { return false };
    let Ok(list) = LeafList::decode(bytes.clone()) else { return false };
    for leaf in list.leaves {
        let Ok(leaf) = ConsignmentLeaf::decode(leaf) else { return false };
        systems.insert(leaf.system);
    }
    true
}
