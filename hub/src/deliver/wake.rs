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

use crate::{journal::JournalReader, machine};

/// Records that are read to find whom they concern; when more came at once,
/// everybody is woken.
const READ_MAX: u64 = 2_048;

/// How many who may be gone are kept before they are looked for.
const GONE_MIN: usize = 64;

/// Who waits for which system. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wakes(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    senders: BTreeMap<String, watch::Sender<()>>,
    /// How many there were when those who are gone were last removed.
    kept: usize,
}

impl Wakes {
    /// Starts to watch what becomes durable, until the committer ends.
    pub fn start(size: watch::Receiver<u64>, journal: Arc<dyn JournalReader>) -> Self {
        let wakes = Self::default();
        tokio::spawn(follow(wakes.clone(), size, journal));
        wakes
    }

    /// Changes after something of this system did. Subscribe, then look at
    /// the state, then wait: nothing is missed.
    pub fn of(&self, system: &SystemId) -> watch::Receiver<()> {
        let mut waiting = self.lock();
        if waiting.senders.len() >= 2 * waiting.kept.max(GONE_MIN) {
            waiting.senders.retain(|_, sender| sender.receiver_count() > 0);
            waiting.kept = waiting.senders.len();
        }
        waiting.senders.entry(system.as_str().to_owned()).or_default().subscribe()
    }

    /// Looks at those whom it concerns, however many wait.
    fn wake(&self, whom: &Whom) {
        let mut waiting = self.lock();
        match whom {
            Whom::All => waiting.senders.values().for_each(|sender| sender.send_replace(())),
            Whom::These(systems) => {
                for system in systems {
                    let Some(sender) = waiting.senders.get(system) else { continue };
                    sender.send_replace(());
                    if sender.receiver_count() == 0 {
                        waiting.senders.remove(system);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().senders.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom some records concern.
#[derive(Debug, PartialEq, Eq)]
enum Whom {
    All,
    These(BTreeSet<String>),
}

async fn follow(wakes: Wakes, mut progress: watch::Receiver<u64>, journal: Arc<dyn JournalReader>) {
    let mut seen = *progress.borrow_and_update();
    while progress.changed().await.is_ok() {
        let size = *progress.borrow_and_update();
        if !wakes.is_empty() {
            wakes.wake(&concerned(&*journal, seen, size));
        }
        seen = size;
    }
    wakes.wake(&Whom::All);
}

/// Whom the records from one sequence up to another concern; all, if they are
/// not in memory any more.
fn concerned(journal: &dyn JournalReader, from: u64, to: u64) -> Whom {
    if to.saturating_sub(from) > READ_MAX {
        return Whom::All;
    }
    let mut systems = BTreeSet::new();
    let mut next = from;
    while next < to {
        let Some(batch) = journal.recent(next) else { return Whom::All };
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
        Some(Event::Accepted(event)) if event.consignment_root.is_empty() => {}
        Some(Event::Accepted(_) | Event::Consigned(_)) => return add_consigned(record, cargo, systems),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn system(number: usize) -> SystemId {
        format!("s{number:04}").parse().unwrap()
    }

    #[test]
    fn those_whom_it_concerns_are_woken_and_no_others() {
        let wakes = Wakes::default();
        let (one, other) = (wakes.of(&system(1)), wakes.of(&system(2)));
        wakes.wake(&Whom::These(["s0001".to_owned(), "s0003".to_owned()].into()));
        assert!(one.has_changed().unwrap() && !other.has_changed().unwrap());
        wakes.wake(&Whom::All);
        assert!(other.has_changed().unwrap());
    }

    #[test]
    fn who_is_gone_is_not_kept() {
        let wakes = Wakes::default();
        for number in 0..10_000 {
            drop(wakes.of(&system(number)));
        }
        assert!(wakes.lock().senders.len() <= 2 * GONE_MIN);
        let held: Vec<_> = (0..1_000).map(|number| wakes.of(&system(number))).collect();
        wakes.wake(&Whom::All);
        assert!(held.iter().all(|receiver| receiver.has_changed().unwrap()));
        drop(held);
        wakes.wake(&Whom::These(["s0001".to_owned()].into()));
        assert!(!wakes.lock().senders.contains_key("s0001"));
    }
}
