//! Situations of the tree and of receipts: restarts, lost and damaged files,
//! readers beside the writer.

use std::{path::Path, sync::Arc};

use axis_proto::{
    id::AgencyCode,
    key::SigningKey,
    leaves,
    note::CheckpointSigner,
    receipt::{self, OpenedLeaf},
    record::v1::{Accepted, Cargo, CargoKind, ClockConfirmed, Consigned, LeafList, record::Event},
    tree::{consistency_of, inclusion_of, leaf_hash, record_leaf, root_of},
};

use super::*;
use crate::{
    disk::{Disk, MemoryDisk},
    journal::{Journal, SegmentJournal},
};

const JOURNAL: &str = "/data/journal";
const TREE: &str = "/data/tree";

/// A journal and its tree, committed to as the hub does.
struct Log {
    disk: MemoryDisk,
    journal: SegmentJournal,
    tree: Tree,
    signer: CheckpointSigner,
    leaves: Vec<Hash>,
}

impl Log {
    fn new() -> Self {
        let disk = MemoryDisk::default();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let journal = SegmentJournal::create(shared.clone(), Path::new(JOURNAL), "hub.example/log1").unwrap();
        let tree = Tree::open(shared, Path::new(TREE), &*journal.reader()).unwrap();
        let signer = CheckpointSigner::new("hub.example/log1", SigningKey::generate()).unwrap();
        Self { disk, journal, tree, signer, leaves: Vec::new() }
    }

    fn commit(&mut self, events: Vec<(Event, Vec<(CargoKind, Bytes)>)>) {
        let entry = |((event, cargo), sequence): ((Event, Vec<(CargoKind, Bytes)>), u64)| {
            let named = cargo.iter().map(|(kind, bytes)| Cargo {
                kind: (*kind).into(),
                sha256: Bytes::new(),
                size: bytes.len() as u64,
            });
            let record = Record { sequence, cargo: named.collect(), event: Some(event), ..Record::default() };
            Entry {
                sequence,
                salt: [sequence as u8; 16],
                record: record.encode_to_vec().into(),
                cargo: cargo.into_iter().map(|(_, bytes)| bytes).collect(),
            }
        };
        let entries: Vec<_> = events.into_iter().zip(self.journal.size()..).map(entry).collect();
        let new: Vec<_> = entries.iter().map(|entry| record_leaf(&entry.salt, &entry.record)).collect();
        self.tree.append(&new);
        self.leaves.extend(new);
        let (size, root) = (self.tree.size(), self.tree.root());
        assert_eq!(root, root_of(&self.leaves));
        let commit = Commit { size, root, checkpoint: self.signer.sign(size, &root) };
        self.journal.append(Batch { entries, commit }).unwrap();
        self.tree.persist().unwrap();
    }

    fn plain(&mut self, count: usize) {
        let event = Event::ClockConfirmed(ClockConfirmed { operator: "o".into() });
        self.commit(vec![(event, Vec::new()); count]);
    }

    /// What opening says that the tree knows, and the journal has.
    fn lost(&self) -> Option<(u64, u64)> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let error = Tree::open(disk, Path::new(TREE), &*self.journal.reader()).err()?;
        let lost: &crate::state::JournalLost = error.get_ref()?.downcast_ref()?;
        Some((lost.applied, lost.records))
    }

    fn evidence(&self) -> Evidence {
        Evidence::new(self.journal.reader(), self.tree.reader())
    }

    /// Opens the tree anew and compares it with the definition.
    fn reopen(&self) -> Tree {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let tree = Tree::open(disk, Path::new(TREE), &*self.journal.reader()).unwrap();
        let (reader, size) = (tree.reader(), self.leaves.len());
        assert_eq!((tree.size(), reader.size()), (size as u64, size as u64));
        let root = reader.root_at(size as u64).unwrap();
        assert_eq!(root, root_of(&self.leaves));
        for index in (0..size).step_by(7) {
            let path = reader.inclusion(index as u64, size as u64).unwrap();
            assert_eq!(path, inclusion_of(&self.leaves, index));
            let path = reader.consistency(index as u64, size as u64).unwrap();
            assert_eq!(path, consistency_of(&self.leaves, index));
        }
        assert_eq!(tree::verify(&self.disk, Path::new(TREE), size as u64, &root).unwrap(), Ok(()));
        tree
    }
}

fn level(level: u32) -> std::path::PathBuf {
    Path::new(TREE).join(format!("level-{level:02}"))
}

#[test]
fn a_tree_that_was_closed_is_taken_over_as_it_is_and_grows_on() {
    let mut log = Log::new();
    for size in [1, 2, 5, 37, 64, 3] {
        log.plain(size);
        log.tree.close().unwrap();
        assert!(log.disk.exists(&Path::new(TREE).join("closed")).unwrap());
        log.tree = log.reopen();
        assert!(!log.disk.exists(&Path::new(TREE).join("closed")).unwrap(), "taken off before it is written");
    }
    // what changed since it was closed is found
    log.tree.close().unwrap();
    let whole = log.disk.read(&level(1)).unwrap();
    log.disk.damage(&level(1), |bytes| bytes[40] ^= 1).unwrap();
    log.tree = log.reopen();
    assert_eq!(log.disk.read(&level(1)).unwrap(), whole);
    // a seal on another tree's files is no excuse
    log.tree.close().unwrap();
    log.tree = log.reopen();
    log.tree.close().unwrap();
    log.plain(9);
    log.reopen();
}

#[test]
fn a_tree_is_mended_from_the_journal_whatever_happened_to_it() {
    let mut log = Log::new();
    log.reopen();
    for count in [1, 5, 90, 7] {
        log.plain(count);
        log.reopen();
    }
    let names = log.disk.list(Path::new(TREE)).unwrap();
    assert_eq!(names.len(), 7, "103 leaves");
    for name in &names {
        let path = Path::new(TREE).join(name);
        let whole = log.disk.read(&path).unwrap();
        let check = |wrong: &str| {
            let found = tree::verify(&log.disk, Path::new(TREE), 103, &root_of(&log.leaves)).unwrap();
            assert!(found.is_err(), "{name} {wrong}");
            log.reopen();
            assert_eq!(log.disk.read(&path).unwrap(), whole, "{name} {wrong}");
        };
        log.disk.damage(&path, |bytes| bytes[0] ^= 1).unwrap();
        check("flipped");
        log.disk.damage(&path, |bytes| bytes.truncate(bytes.len() - 1)).unwrap();
        check("short");
        log.disk.damage(&path, |bytes| bytes.fill(0)).unwrap();
        check("zeros");
        log.disk.damage(&path, |bytes| bytes.extend_from_slice(&[7; 100])).unwrap();
        if path == level(0) {
            // that would be records that the journal has lost
            assert_eq!(log.lost(), Some((106, 103)));
            log.disk.damage(&path, |bytes| bytes.truncate(whole.len())).unwrap();
        } else {
            check("long");
        }
        log.disk.remove(&path).unwrap();
        check("missing");
        log.disk.make_unreadable(&path).unwrap();
        log.reopen();
        assert_eq!(log.disk.read(&path).unwrap(), whole, "{name} unreadable");
    }
    let operations = log.disk.operations();
    log.reopen();
    assert_eq!(log.disk.operations(), operations, "what is right is not written again");
    log.disk.damage(&level(0), |bytes| bytes[40 * 32..44 * 32].fill(0)).unwrap();
    log.reopen();
}

#[test]
fn a_tree_ahead_of_its_journal_proves_what_was_lost() {
    let mut log = Log::new();
    log.plain(3);
    log.plain(2);
    // a sector of the last batch, which was answered
    let segment = log.disk.list(Path::new(JOURNAL)).unwrap().remove(0);
    let segment = Path::new(JOURNAL).join(segment);
    let end = log.disk.read(&segment).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    log.disk.damage(&segment, |bytes| bytes[end - 100..=end].fill(0)).unwrap();
    log.journal = SegmentJournal::open(Arc::new(log.disk.clone()), Path::new(JOURNAL)).unwrap();
    for _ in 0..2 {
        assert_eq!(log.lost(), Some((5, 3)), "and stays: nothing is cut");
    }
    assert_eq!(tree::surplus(&log.disk, Path::new(TREE), 3).unwrap(), 2);
}

#[test]
fn what_a_proof_found_is_mended_at_the_next_start() {
    let mut log = Log::new();
    for count in [5, 70, 25] {
        log.plain(count);
    }
    log.tree.close().unwrap();
    log.tree = log.reopen();
    log.tree.forget_recent();
    log.disk.damage(&level(0), |bytes| bytes[8 * 32] ^= 1).unwrap();
    let bad = |log: &Log| {
        let evidence = log.evidence();
        (0..100).filter(|sequence| evidence.receipt(*sequence).is_err()).count()
    };
    assert!(bad(&log) > 0);
    log.tree.close().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(log.disk.clone());
    log.tree = Tree::open(disk, Path::new(TREE), &*log.journal.reader()).unwrap();
    assert_eq!(bad(&log), 0);
}

#[test]
fn records_that_do_not_lead_to_their_root_are_an_error() {
    let mut log = Log::new();
    log.plain(3);
    log.tree.append(&[leaf_hash(b"never recorded")]);
    let event = Event::ClockConfirmed(ClockConfirmed::default());
    let record = Record { sequence: 3, event: Some(event), ..Record::default() };
    let entry =
        Entry { sequence: 3, salt: [3; 16], record: record.encode_to_vec().into(), cargo: Vec::new() };
    let commit = Commit { size: 4, root: log.tree.root(), checkpoint: "x\n".into() };
    log.journal.append(Batch { entries: vec![entry], commit }).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(log.disk.clone());
    let error = Tree::open(disk, Path::new(TREE), &*log.journal.reader()).unwrap_err();
    assert!(error.to_string().contains("do not lead to the root"), "{error}");
}

#[test]
fn proofs_of_old_leaves_are_read_from_files() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let journal = SegmentJournal::create(disk.clone(), Path::new(JOURNAL), "log").unwrap();
    let mut tree = Tree::open(disk, Path::new(TREE), &*journal.reader()).unwrap();
    let leaves: Vec<Hash> = (0..40_000u32).map(|leaf| leaf_hash(&leaf.to_be_bytes())).collect();
    for some in leaves.chunks(1000) {
        tree.append(some);
        tree.persist().unwrap();
    }
    let reader = tree.reader();
    let root = root_of(&leaves);
    for index in [0, 1, 4095, 7231, 7232, 7233, 39_999] {
        let path = reader.inclusion(index, 40_000).unwrap();
        assert!(axis_proto::tree::verify_inclusion(index, 40_000, &leaves[index as usize], &path, &root));
    }
}

#[test]
fn nothing_beyond_what_is_published_is_proven() {
    let mut log = Log::new();
    log.plain(5);
    let reader = log.tree.reader();
    log.tree.append(&[[1; 32]]);
    assert_eq!((log.tree.size(), reader.size()), (6, 5));
    reader.root_at(6).unwrap_err();
    reader.inclusion(5, 6).unwrap_err();
    reader.inclusion(5, 5).unwrap_err();
    reader.consistency(2, 6).unwrap_err();
    reader.consistency(3, 2).unwrap_err();
    assert!(reader.consistency(5, 5).unwrap().is_empty());
}

#[test]
fn a_receipt_verifies_and_never_changes() {
    let mut log = Log::new();
    assert_eq!(log.evidence().checkpoint().unwrap(), None);
    assert!(log.evidence().find(0).unwrap().is_none());
    let mut before: Vec<Receipt> = Vec::new();
    for count in [1, 4, 30] {
        log.plain(count);
        let evidence = log.evidence();
        let verifier = log.signer.verifier();
        for sequence in 0..evidence.size() {
            let receipt = evidence.receipt(sequence).unwrap();
            let verified = receipt::verify(&receipt, &verifier).unwrap();
            assert_eq!(verified.index, sequence);
            match before.get(sequence as usize) {
                Some(earlier) => assert_eq!(*earlier, receipt),
                None => before.push(receipt),
            }
        }
        let checkpoint = verifier.verify(&evidence.checkpoint().unwrap().unwrap()).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (evidence.size(), log.tree.root()));
        assert!(evidence.find(evidence.size()).unwrap().is_none());
        assert!(matches!(evidence.entry(evidence.size()), Err(Error::Fault(_))));
    }
    // after a restart, from files
    let reader = crate::journal::segments::open_read_only(Arc::new(log.disk.clone()), Path::new(JOURNAL));
    let evidence = Evidence::new(reader.unwrap(), log.reopen().reader());
    for (sequence, earlier) in before.iter().enumerate() {
        assert_eq!(evidence.receipt(sequence as u64).unwrap(), *earlier);
    }
}

#[test]
fn no_proof_is_given_from_damaged_files() {
    let mut log = Log::new();
    for count in [5, 70, 25] {
        log.plain(count);
    }
    let whole = |evidence: &Evidence| {
        (0..100).all(|sequence| evidence.receipt(sequence).is_ok())
            && [5, 6, 75].iter().all(|old| evidence.consistency(*old, 100).is_ok())
            && evidence.consistency(0, 100).is_ok()
            && evidence.consistency(100, 100).is_ok()
    };
    // after a restart
    let tree = log.reopen();
    let evidence = Evidence::new(log.journal.reader(), tree.reader());
    assert!(whole(&evidence));
    tree.forget_recent();
    assert!(whole(&evidence));
    for number in 0..6 {
        log.disk.damage(&level(number), |bytes| bytes[0] ^= 1).unwrap();
        assert!(!whole(&evidence), "level {number}");
        log.disk.damage(&level(number), |bytes| bytes[0] ^= 1).unwrap();
    }
    let receipts: Vec<_> = (0..100).map(|sequence| evidence.receipt(sequence).unwrap()).collect();
    log.disk.damage(&level(0), |bytes| bytes[8 * 32] ^= 1).unwrap();
    for (sequence, earlier) in receipts.into_iter().enumerate() {
        match evidence.receipt(sequence as u64) {
            Ok(receipt) => assert_eq!(receipt, earlier),
            Err(Error::Fault(fault)) => assert!(fault.chain().contains("restart"), "{}", fault.chain()),
            Err(Error::Refused(_)) => panic!("no fault of the caller"),
        }
    }
}

fn list_of(agencies: &[&str], leaf: impl Fn(u32, &str) -> Vec<u8>) -> LeafList {
    let leaves = agencies.iter().zip(0..).map(|(agency, index)| leaf(index, agency).into());
    LeafList { secret: vec![9; 32].into(), leaves: leaves.collect() }
}

#[test]
fn a_recipient_opens_its_own_leaf() {
    let agencies = ["G18", "G22", "H53", "H53.1", "H53.2"];
    let recipients = list_of(&agencies, |index, agency| {
        RecipientLeaf { recipient_index: index, agency: agency.into(), kind: 1 }.encode_to_vec()
    });
    let deliveries = list_of(&agencies[1..4], |index, agency| {
        let mut leaf = ConsignmentLeaf { agency: agency.into(), ..ConsignmentLeaf::default() };
        leaf.recipient_index = 1 + index;
        leaf.encode_to_vec()
    });
    let root = |list| Bytes::copy_from_slice(&leaves::root(list));
    let accepted = Accepted { recipient_count: 5, recipient_root: root(&recipients), ..Accepted::default() };
    let consigned = Consigned {
        first_recipient_index: 1,
        recipient_count: 3,
        consignment_root: root(&deliveries),
        ..Consigned::default()
    };
    let seen = list_of(&agencies[..2], |recipient_index, agency| {
        let leaf = ConsignmentLeaf { recipient_index, agency: agency.into(), ..ConsignmentLeaf::default() };
        leaf.encode_to_vec()
    });
    let at_once = Accepted { recipient_count: 2, consignment_root: root(&seen), ..Accepted::default() };
    let mut log = Log::new();
    log.commit(vec![
        (
            Event::Accepted(accepted.clone()),
            vec![
                (CargoKind::SealedEnvelope, Bytes::from_static(b"sealed")),
                (CargoKind::RecipientList, recipients.encode_to_vec().into()),
            ],
        ),
        (Event::Consigned(consigned), vec![(CargoKind::ConsignmentList, deliveries.encode_to_vec().into())]),
        (Event::ClockConfirmed(ClockConfirmed::default()), Vec::new()),
        (
            Event::Accepted(at_once),
            vec![
                (CargoKind::SealedEnvelope, Bytes::from_static(b"sealed")),
                (CargoKind::ConsignmentList, seen.encode_to_vec().into()),
            ],
        ),
    ]);
    let (evidence, verifier) = (log.evidence(), log.signer.verifier());
    let opened = |sequence, agency: &str| {
        let agency: AgencyCode = agency.parse().unwrap();
        let receipt = evidence.receipt_opened(sequence, &agency).unwrap();
        assert_eq!(receipt, evidence.receipt_opened(sequence, &agency).unwrap());
        receipt::verify(&receipt, &verifier).unwrap().opened
    };
    for (agency, index) in agencies.into_iter().zip(0..) {
        let leaf = opened(0, agency);
        let recipient = RecipientLeaf { recipient_index: index, agency: agency.into(), kind: 1 };
        assert_eq!(leaf, Some(OpenedLeaf::Recipient(recipient)));
        match opened(1, agency) {
            Some(OpenedLeaf::Consignment(leaf)) => assert_eq!(leaf.agency, agency),
            other => assert!(other.is_none() && (index == 0 || index == 4)),
        }
    }
    assert_eq!(opened(0, "G99"), None, "not addressed");
    assert_eq!(opened(2, "G18"), None, "no list");
    let Some(OpenedLeaf::Consignment(leaf)) = opened(3, "G22") else { panic!("seen at once") };
    assert_eq!((leaf.agency.as_str(), leaf.recipient_index), ("G22", 1));
    assert_eq!(opened(3, "H53"), None, "not addressed");

    // erased by retention: the record stays, nothing is opened
    let erased = Cargo { kind: CargoKind::RecipientList.into(), sha256: Bytes::new(), size: 5 };
    let record = Record {
        sequence: 4,
        cargo: vec![erased],
        event: Some(Event::Accepted(accepted)),
        ..Record::default()
    };
    let entry = Entry {
        sequence: 4,
        salt: [0; 16],
        record: record.encode_to_vec().into(),
        cargo: vec![Bytes::new()],
    };
    log.tree.append(&[record_leaf(&entry.salt, &entry.record)]);
    let root = log.tree.root();
    let commit = Commit { size: 5, root, checkpoint: log.signer.sign(5, &root) };
    log.journal.append(Batch { entries: vec![entry], commit }).unwrap();
    log.tree.persist().unwrap();
    assert_eq!(opened(4, "G18"), None);
}
