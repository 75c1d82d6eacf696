use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use axis_proto::{
    id::Digest,
    key::SigningKey,
    note::CheckpointSigner,
    record::v1::{ClockConfirmed, DocumentsCollected, LogOpened, Record, Uploaded, record::Event},
    tree::{self, Hash},
};
use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::{
    disk::{Disk, MemoryDisk},
    hub,
    journal::{Batch, Commit, Entry, Journal as _, SegmentJournal, logs, segments::Layout},
    vault::Vault,
};

const SMALL: Layout = Layout { segment_bytes: 12 * 1024, ahead_bytes: 4 * 1024, mark_seed: None };
const ORIGIN: &str = "hub.test/log/1";

/// A hub's journal and vault on a disk in memory.
struct House {
    disk: Arc<dyn Disk>,
    memory: MemoryDisk,
    journal: SegmentJournal,
    signer: CheckpointSigner,
    leaves: Vec<Hash>,
    /// The hub is not kept from erasing any more.
    ended: AtomicBool,
}

impl House {
    fn new() -> Self {
        let memory = MemoryDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let dir = Path::new("/hub/data").join(hub::JOURNAL);
        let journal = SegmentJournal::create_with(disk.clone(), &dir, ORIGIN, SMALL).unwrap();
        let signer = CheckpointSigner::new(ORIGIN, SigningKey::from_seed(&[1; 32])).unwrap();
        let mut house =
            Self { disk, memory, journal, signer, leaves: Vec::new(), ended: AtomicBool::new(false) };
        let opened = LogOpened { hub_id: "hub.test".into(), origin: ORIGIN.into(), ..LogOpened::default() };
        house.record(Event::LogOpened(opened), vec![]);
        house
    }

    fn record(&mut self, event: Event, cargo: Vec<Bytes>) {
        let sequence = self.journal.size();
        let record = Record { sequence, event: Some(event), ..Record::default() }.encode_to_vec();
        let salt = [sequence as u8; 16];
        self.leaves.push(tree::record_leaf(&salt, &record));
        let (size, root) = (sequence + 1, tree::root_of(&self.leaves));
        let entries = vec![Entry { sequence, salt, record: record.into(), cargo }];
        let commit = Commit { size, root, checkpoint: self.signer.sign(size, &root) };
        self.journal.append(Batch { entries, commit }).unwrap();
    }

    /// Records with cargo, and documents.
    fn grow(&mut self, records: usize, documents: &[&str]) {
        for _ in 0..records {
            let event = Event::ClockConfirmed(ClockConfirmed { operator: "lan".into() });
            self.record(event, vec![vec![7; 3000].into()]);
        }
        for text in documents {
            let sha256 = Bytes::copy_from_slice(Digest::of(text.as_bytes()).as_bytes());
            self.record(Event::Uploaded(Uploaded { sha256, ..Uploaded::default() }), vec![]);
        }
        let other: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        for text in documents {
            let name = Digest::of(text.as_bytes()).to_string();
            let path = Path::new("/v/objects").join(&name[..2]).join(&name);
            other.create_dir(path.parent().unwrap()).unwrap();
            other.create(&path).unwrap().write_at(0, text.as_bytes()).unwrap();
        }
        let from = Vault::existing(other, Path::new("/v"));
        let vault = self.vault();
        from.objects(&mut |sha256| vault.put(&from.open_document(&sha256)?).map(drop)).unwrap();
    }

    fn vault(&self) -> Vault {
        Vault::open(self.disk.clone(), &Path::new("/hub/data").join(hub::VAULT)).unwrap()
    }

    fn back_up(&self, to: &MemoryDisk) -> Result<Made> {
        let last = self.journal.last_commit().unwrap();
        let head = Head {
            hub_id: "hub.test".into(),
            checkpoint: last.checkpoint.clone(),
            log_verifier_key: self.signer.verifier_key(),
        };
        let source = Source {
            disk: self.disk.clone(),
            data: Path::new("/hub/data"),
            settings: "hub_id = 'hub.test'",
            ended: &self.ended,
        };
        let disk: Arc<dyn Disk> = Arc::new(to.clone());
        run(&source, &head, &disk, Path::new(DIR), 5, &mut |_| {})
    }
}

const DIR: &str = "/backup";

fn check(disk: &MemoryDisk) -> Result<Verified> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    verify(&disk, Path::new(DIR), &mut |_| {})
}

fn size_of(disk: &MemoryDisk) -> u64 {
    let verified = check(disk).unwrap();
    assert!(verified.damaged.is_empty(), "{:?}", verified.damaged);
    verified.manifest.size
}

#[test]
fn a_second_run_copies_what_is_new() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(9, &["one", "two"]);
    let first = house.back_up(&target).unwrap();
    assert!(first.manifest.segments.len() > 2, "over several segments");
    assert_eq!((first.copied_bytes, first.manifest.run, size_of(&target)), (first.bytes, 1, 12));

    let again = house.back_up(&target).unwrap();
    assert_eq!((again.copied_bytes, again.manifest.run), (0, 2));
    assert_eq!(again.manifest.segments, first.manifest.segments);

    house.grow(1, &["three"]);
    let third = house.back_up(&target).unwrap();
    assert!(third.copied_bytes > 3000 && third.copied_bytes < 4000 + 4096, "{}", third.copied_bytes);
    assert_eq!((size_of(&target), third.manifest.documents.count), (14, 3));
}

#[test]
fn what_a_stopped_hub_is_backed_up_to_is_durable() {
    let mut house = House::new();
    house.grow(2, &[]);
    house.memory.fail_next_sync();
    let sent = Batch {
        entries: vec![Entry { sequence: 3, salt: [3; 16], record: "sent".into(), cargo: vec![] }],
        commit: Commit { size: 4, root: [4; 32], checkpoint: "signed".into() },
    };
    house.journal.append(sent).unwrap_err();
    // the process ended; what it wrote can be read
    let data = Path::new("/hub/data");
    let shown = closed(&house.disk, data).unwrap().last.unwrap();
    house.memory.crash(|_| 1);
    let opened = SegmentJournal::open(house.disk.clone(), &data.join(hub::JOURNAL)).unwrap();
    assert_eq!((shown.size, opened.last_commit()), (4, Some(&shown)));

    // nothing is told of what cannot be made durable
    house.memory.fail_after(0);
    let refused = closed(&house.disk, data).unwrap_err();
    assert!(matches!(refused, BackupError::Journal(OpenError::Io { .. })), "{refused}");
}

#[test]
fn a_backup_beside_a_writing_hub_ends_where_it_was_told() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(4, &[]);
    let last = house.journal.last_commit().unwrap().clone();
    house.grow(20, &[]);
    let head = Head {
        hub_id: "hub.test".into(),
        checkpoint: last.checkpoint,
        log_verifier_key: house.signer.verifier_key(),
    };
    let source = Source {
        disk: house.disk.clone(),
        data: Path::new("/hub/data"),
        settings: "",
        ended: &AtomicBool::new(false),
    };
    let disk: Arc<dyn Disk> = Arc::new(target.clone());
    run(&source, &head, &disk, Path::new(DIR), 5, &mut |_| {}).unwrap();
    assert_eq!(size_of(&target), 5);
}

#[test]
fn what_the_hub_erased_is_erased_in_the_next_backup() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(9, &["one", "secret"]);
    house.back_up(&target).unwrap();
    let before = target.copy();

    // a segment without its cargo, as erasing leaves it: the same records
    let path = Path::new("/hub/data/journal/00000000000000000000.segment");
    let whole = house.memory.read(path).unwrap();
    let erased = crate::journal::tests::without_cargo(&whole, 0);
    assert!(erased.len() < whole.len());
    house.memory.damage(path, |bytes| *bytes = erased).unwrap();
    let secret = Digest::of(b"secret");
    let collected = DocumentsCollected {
        sha256: vec![Bytes::copy_from_slice(secret.as_bytes())],
        ..DocumentsCollected::default()
    };
    house.record(Event::DocumentsCollected(collected), vec![]);
    house.vault().remove(&secret).unwrap();

    let made = house.back_up(&target).unwrap();
    assert!(made.copied_bytes > 0 && made.copied_bytes < 12 * 1024, "one segment only");
    assert_eq!(size_of(&target), 13);
    let names = target.list(&Path::new(DIR).join("journal")).unwrap();
    assert_eq!(names.len(), made.manifest.segments.len(), "the old one is gone: {names:?}");
    assert_eq!((made.manifest.documents.count, size_of(&before)), (1, 12));
}

#[test]
fn a_crash_at_any_moment_leaves_a_backup() {
    let (mut house, mut target) = (House::new(), MemoryDisk::default());
    house.grow(5, &["one"]);
    house.back_up(&target).unwrap();
    house.grow(5, &["two", "three"]);
    let whole = target.copy();
    let before = whole.operations();
    house.back_up(&whole).unwrap();
    let operations = whole.operations() - before;
    assert!(operations > 15, "{operations}");
    let mut random = fastrand::Rng::with_seed(5);
    let mut kept = 0;
    for after in 0..operations {
        let disk = target.copy();
        disk.fail_after(after);
        let ended = house.back_up(&disk).is_err();
        disk.crash(|below| random.usize(..below));
        let size = size_of(&disk);
        assert!(size == 7 || size == 14, "at {after}: {size}");
        kept += u32::from(size == 7);
        assert!(ended || size == 14, "a run that ended well is a backup, at {after}");
        house.back_up(&disk).unwrap();
        assert_eq!(size_of(&disk), 14, "after {after}");
    }
    assert!(kept > 10);
    target = whole;
    assert_eq!(size_of(&target), 14);
}

#[test]
fn what_a_manifest_names_is_there_whatever_a_crash_loses() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(5, &["one"]);
    house.back_up(&target).unwrap();
    house.grow(5, &["two"]);
    let whole = target.copy();
    house.back_up(&whole).unwrap();
    for seed in 0..10 {
        let mut random = fastrand::Rng::with_seed(seed);
        for after in 0..whole.operations() {
            let disk = target.copy();
            disk.fail_after(after);
            let _cut_short = house.back_up(&disk);
            disk.crash(|below| random.usize(..below));
            let size = check(&disk).map(|verified| verified.manifest.size);
            assert!(matches!(size, Ok(7 | 13)), "seed {seed} at {after}: {size:?}");
        }
    }
}

#[test]
fn damage_is_named_by_its_file() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(9, &["one", "two"]);
    let made = house.back_up(&target).unwrap();
    let dir = Path::new(DIR);
    for segment in &made.manifest.segments {
        let copy = target.copy();
        let path = dir.join(JOURNAL).join(&segment.file);
        copy.damage(&path, |bytes| bytes[segment.bytes as usize - 50] ^= 1).unwrap();
        let error = check(&copy).unwrap_err().to_string();
        assert!(error.contains(&segment.file), "{error}");
    }
    let copy = target.copy();
    let vault = Vault::existing(Arc::new(copy.clone()), &dir.join(VAULT));
    let one = vault.path_of(&Digest::of(b"one"));
    copy.damage(&one, |bytes| bytes[0] ^= 1).unwrap();
    copy.remove(&vault.path_of(&Digest::of(b"two"))).unwrap();
    let damaged = check(&copy).unwrap().damaged;
    assert!(damaged.len() == 2 && damaged.iter().any(|(path, _)| *path == one), "{damaged:?}");

    let copy = target.copy();
    copy.damage(&dir.join(&made.manifest.documents.file), |bytes| bytes[3] ^= 1).unwrap();
    assert!(check(&copy).unwrap_err().to_string().contains("documents-1.list"));
    for (from, to, what) in [
        ("\"size\": 12", "\"size\": 13", "size, root or origin"),
        ("hub_id = ", "hub_id =  ", "settings"),
        ("\"format\": 1", "\"format\": 2", "format version 2"),
        (".1.segment", "/../1.segment", "no file's name"),
    ] {
        let copy = target.copy();
        let change = |bytes: &mut Vec<u8>| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replacen(from, to, 1).into_bytes();
        };
        copy.damage(&dir.join(MANIFEST), change).unwrap();
        let error = check(&copy).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(MANIFEST), "{error}");
    }
    assert!(matches!(check(&MemoryDisk::default()), Err(BackupError::Missing(_))));
}

#[test]
fn a_document_that_the_hub_has_lost_is_named_and_kept_as_it_was() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(1, &["one"]);
    house.back_up(&target).unwrap();
    house.grow(1, &["two"]);
    for text in ["one", "two"] {
        let path = house.vault().path_of(&Digest::of(text.as_bytes()));
        house.memory.damage(&path, |bytes| bytes[0] ^= 1).unwrap();
    }
    let made = house.back_up(&target).unwrap();
    assert_eq!((made.damaged.len(), made.manifest.documents.count, size_of(&target)), (1, 1, 5));
    // gone without a word of the journal
    house.vault().remove(&Digest::of(b"one")).unwrap();
    let made = house.back_up(&target).unwrap();
    assert_eq!((made.damaged.len(), made.manifest.documents.count, size_of(&target)), (2, 1, 5));
}

#[test]
fn a_document_that_was_lost_before_any_backup_is_named() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(1, &["one", "two"]);
    let lost = Digest::of(b"one");
    house.vault().remove(&lost).unwrap();
    for _ in 0..2 {
        let made = house.back_up(&target).unwrap();
        let named = [(house.vault().path_of(&lost), "gone from the hub".to_owned())];
        assert_eq!((&made.damaged[..], made.manifest.documents.count), (&named[..], 1));
    }
}

#[test]
fn a_run_that_the_hub_left_alone_leaves_the_last_backup() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(2, &["one"]);
    house.back_up(&target).unwrap();
    house.grow(1, &["two"]);
    *house.ended.get_mut() = true;
    let error = house.back_up(&target).unwrap_err();
    assert!(matches!(error, BackupError::Io { .. }), "{error}");
    assert_eq!(size_of(&target), 4);
    *house.ended.get_mut() = false;
    house.back_up(&target).unwrap();
    assert_eq!(size_of(&target), 6);
}

#[test]
fn what_this_hub_does_not_have_is_not_written_over() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(2, &[]);
    house.back_up(&target).unwrap();

    let mut other = House::new();
    other.grow(1, &[]);
    let fewer = other.back_up(&target).unwrap_err().to_string();
    assert!(fewer.contains("3 records, more than this hub has"), "{fewer}");
    other.grow(1, &[]);
    other.record(Event::ClockConfirmed(ClockConfirmed { operator: "mai".into() }), vec![]);
    house.record(Event::ClockConfirmed(ClockConfirmed { operator: "lan".into() }), vec![]);
    house.back_up(&target).unwrap();
    other.grow(5, &[]);
    let fork = other.back_up(&target).unwrap_err();
    assert!(matches!(&fork, BackupError::Other { what, .. } if what.contains("does not have")), "{fork}");
    assert_eq!(size_of(&target), 4, "the backup stays");
}

#[test]
fn a_log_goes_on_under_another_name() {
    let (mut house, target) = (House::new(), MemoryDisk::default());
    house.grow(3, &[]);
    house.back_up(&target).unwrap();
    let (size, root) = (house.journal.size(), tree::root_of(&house.leaves));
    let opened = LogOpened {
        hub_id: "hub.test".into(),
        origin: "hub.test/log/2".into(),
        previous_origin: ORIGIN.into(),
        previous_size: size,
        previous_root: Bytes::copy_from_slice(&root),
        ..LogOpened::default()
    };
    house.journal.begin_log("hub.test/log/2").unwrap();
    house.signer = CheckpointSigner::new("hub.test/log/2", SigningKey::from_seed(&[2; 32])).unwrap();
    house.record(Event::LogOpened(opened), vec![]);
    house.grow(2, &[]);
    let dir = Path::new("/hub/data").join(hub::JOURNAL);
    let found = logs(&*house.disk, &dir).unwrap();
    assert_eq!(found.iter().map(|log| log.first_sequence).collect::<Vec<_>>(), [0, size]);
    let reopened = SegmentJournal::open_with(house.disk.clone(), &dir, SMALL).unwrap();
    assert_eq!(
        (reopened.size(), reopened.origin_sha256()[..].to_vec()),
        (size + 3, Digest::of(b"hub.test/log/2").as_bytes().to_vec())
    );
    // the backup of the old log is this hub's past
    let made = house.back_up(&target).unwrap();
    assert_eq!((made.manifest.origin.as_str(), size_of(&target)), ("hub.test/log/2", size + 3));
}
