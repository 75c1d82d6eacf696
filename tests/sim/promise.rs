//! What the hub has answered, and so must hold for ever: every receipt, every
//! head of its log, every document and every part of an upload that it said it
//! has.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

use axis_hub::{
    commit,
    disk::{Disk, MemoryDisk},
    fsck::{self, Checker},
    journal::Batch,
    machine,
    state::{Draft, State, Taken, digest, memory::MemoryState, read_once},
};
use axis_proto::{
    id::{Digest, SystemId},
    receipt,
    record::v1::{Receipt, Record},
};
use prost::Message as _;

use crate::hub::{DATA, Hub, verifier};

/// Everything that was answered.
#[derive(Default)]
pub struct Promises {
    /// Receipts by sequence, as they were shown.
    receipts: BTreeMap<u64, Receipt>,
    /// Roots by size, as checkpoints showed them.
    heads: BTreeMap<u64, [u8; 32]>,
    /// Documents that were taken, with their sizes.
    documents: BTreeMap<Digest, u64>,
    /// Bytes of unfinished uploads that were said to be safe.
    parts: BTreeMap<(SystemId, Digest), (u64, u64)>,
    /// Records whose content has left the journal.
    erased: BTreeSet<u64>,
    /// The last snapshot.
    snapshot: Option<Taken>,
}

impl Promises {
    /// A receipt leaves the hub.
    pub fn show(&mut self, shown: &Receipt) -> Record {
        let bare = Receipt { opening: None, ..shown.clone() };
        let verified = receipt::verify(&bare, &verifier()).expect("a receipt that verifies");
        let checkpoint = verified.checkpoint;
        let root = self.heads.entry(checkpoint.size).or_insert(checkpoint.root);
        assert_eq!(*root, checkpoint.root, "two heads of one size {} were shown", checkpoint.size);
        let before = self.receipts.entry(verified.index).or_insert_with(|| bare.clone());
        assert_eq!(*before, bare, "record {} was shown otherwise before", verified.index);
        verified.record
    }

    /// A document was taken.
    pub fn document(&mut self, system: &SystemId, sha256: Digest, size: u64) {
        self.parts.remove(&(system.clone(), sha256));
        self.documents.insert(sha256, size);
    }

    /// So much of an upload was said to be safe.
    pub fn part(&mut self, system: &SystemId, sha256: Digest, size: u64, committed: u64) {
        self.parts.insert((system.clone(), sha256), (size, committed));
    }

    /// What was brought of an upload may be gone: it begins again.
    pub fn no_part(&mut self, system: &SystemId, sha256: Digest) {
        self.parts.remove(&(system.clone(), sha256));
    }

    /// Nothing is said about unfinished uploads any more: the disk failed.
    pub fn no_parts(&mut self) {
        self.parts.clear();
    }

    /// Content left the journal for good.
    pub fn erased(&mut self, records: Vec<u64>) {
        self.erased.extend(records);
    }

    /// A snapshot was taken.
    pub fn snapshot(&mut self, taken: Taken) {
        self.snapshot = Some(taken);
    }

    /// A snapshot may have been given up: it could not be read.
    pub fn no_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Receipts that were shown.
    pub fn count(&self) -> u64 {
        self.receipts.len() as u64
    }

    /// Records whose content left the journal.
    pub fn erased_count(&self) -> u64 {
        self.erased.len() as u64
    }

    /// Looks at everything after an opening, and begins to watch the hub.
    pub fn check(&self, hub: &Hub, disk: &MemoryDisk, now_ms: u64) -> Watch {
        let data = Path::new(DATA);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let stores = fsck::Stores { data, disk: shared, verifier: verifier(), progress: &mut |_| {} };
        let (report, replayed) = fsck::look(stores, now_ms).expect("readable stores");
        assert!(report.is_clean(), "fsck: {:?}", report.violations);
        assert!(report.notes.is_empty(), "fsck after opening: {:?}", report.notes);
        let replayed = replayed.expect("a journal that can be replayed");
        let same = read_once(&replayed, digest) == read_once(&*hub.state, digest);
        assert!(same, "the state is not what the journal says");

        for (sequence, shown) in &self.receipts {
            let held = hub.evidence.find(*sequence).expect("readable");
            let held = held.unwrap_or_else(|| panic!("record {sequence} was answered and is gone"));
            let same = held.record == shown.record && shown.proof.ends_with(&held.commit().checkpoint);
            assert!(same, "record {sequence} was shown otherwise");
            // fsck has looked at the whole tree: some proofs are enough
            if sequence % 8 == hub.journal.size() % 8 {
                let now = hub.evidence.receipt(*sequence).expect("a receipt");
                assert_eq!(now, *shown, "record {sequence} was shown otherwise");
            }
        }
        for sequence in &self.erased {
            let held = hub.journal.batch_of(*sequence).expect("readable").expect("its record stays");
            let entry = held.entry(*sequence).expect("its record stays");
            let record = Record::decode(entry.record.clone()).expect("a record");
            let left = read_once(&*hub.state, |read| machine::erasable(read, &record))
                .into_iter()
                .find(|place| !entry.cargo[*place].is_empty());
            assert_eq!(left, None, "content of record {sequence} was erased and is back");
        }
        for (sha256, size) in &self.documents {
            let document = hub.vault.open_document(sha256);
            let document = document.unwrap_or_else(|error| panic!("document {sha256} was taken: {error}"));
            assert_eq!(document.size(), *size, "document {sha256}");
        }
        hub.vault
            .objects(&mut |sha256| hub.vault.open_document(&sha256)?.verify())
            .expect("every document in the vault is whole");
        for ((system, sha256), (size, promised)) in &self.parts {
            let mut upload = hub.vault.begin(system, sha256, *size).expect("an upload that goes on");
            let held = upload.committed();
            assert!(held >= *promised, "{held} of {promised} bytes of an upload of {system} are left");
            upload.sync().expect("a disk that works");
        }
        if let Some(taken) = self.snapshot {
            let path = data.join(format!("snapshots/{:020}.snapshot", taken.applied));
            let bytes = disk.read(&path).expect("the snapshot that was taken");
            assert_eq!(*Digest::of(&bytes).as_bytes(), taken.sha256, "the snapshot that was taken");
        }

        Watch::new(hub, replayed)
    }
}

/// Watches a life of the hub, batch by batch: the invariants of `fsck` over
/// its records, and that its state is what follows from them.
pub struct Watch {
    checker: Checker,
    /// What follows from the records that were seen.
    replayed: MemoryState,
}

impl Watch {
    /// Shows the checker all that is in the journal.
    fn new(hub: &Hub, replayed: MemoryState) -> Self {
        let mut checker = Checker::new(None);
        let mut visit = |batch: Arc<Batch>| {
            checker.batch(&batch);
            Ok(ControlFlow::Continue(()))
        };
        hub.journal.replay(0, &mut visit).expect("a journal that can be read");
        let watch = Self { checker, replayed };
        watch.judge();
        watch
    }

    /// How many records it has seen.
    pub fn seen(&self) -> u64 {
        self.replayed.applied()
    }

    /// How many recipients are not settled.
    pub fn unsettled(&self) -> u64 {
        self.checker.unsettled()
    }

    /// Looks at what was added, which is in memory.
    pub fn follow(&mut self, hub: &Hub) {
        while self.seen() < hub.journal.size() {
            let batch = hub.journal.batch_of(self.seen()).expect("in memory").expect("a durable batch");
            self.checker.batch(&batch);
            let changes = read_once(&self.replayed, |base| {
                let mut draft = Draft::new(base);
                for entry in &batch.entries {
                    commit::replay(&mut draft, entry).expect("a record that this release wrote");
                }
                draft.into_changes()
            });
            if hub.state.applied() == batch.commit.size {
                read_once(&*hub.state, |state| {
                    for (key, value) in &changes {
                        let held = state.get(key);
                        assert_eq!(held, *value, "key {key:?} is not what record {} says", self.seen());
                    }
                });
            }
            self.replayed.publish(changes, batch.commit.size);
        }
        self.judge();
    }

    /// That the whole state is what the records say.
    pub fn compare(&self, hub: &Hub) {
        if hub.state.applied() == self.seen() {
            let same = read_once(&self.replayed, digest) == read_once(&*hub.state, digest);
            assert!(same, "the state is not what {} records say", self.seen());
        }
    }

    fn judge(&self) {
        let violations = self.checker.violations();
        assert!(violations.is_empty(), "{violations:?}");
    }
}
