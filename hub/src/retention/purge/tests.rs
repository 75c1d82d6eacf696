//! A purge over a journal and a vault on a disk in memory, ended between any
//! two operations: by the process's end, which loses nothing that was written,
//! and by the power's. Whoever comes next carries it to its end.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use axis_proto::{
    envelope::v1::{Document, DocumentBody, DocumentMetadata, Envelope, Recipient, envelope::Body},
    hub::v1::Reason,
    id::{DeliveryId, EnvelopeId},
};
use tokio::time::timeout;

use super::super::*;
use crate::{
    disk::{Disk, DiskFile, MemoryDisk},
    fsck,
    journal::{Batch, segments::Layout},
    testing::{House, START_MS, bytes_of, signer, system},
};

/// Segments that a loop of worlds has room for.
const SMALL: Layout = Layout { segment_bytes: 256 * 1024, ahead_bytes: 16 * 1024, mark_seed: None };
const SECRETS: [&[u8]; 3] = [b"LO-MAT-TRICH-YEU", b"LO-MAT-TEP-NHO", b"LO-MAT-TEP-LON"];
const OTHER: &[u8] = b"KHONG-MAT";

fn large(secret: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'.'; 9_000];
    bytes[4_000..4_000 + secret.len()].copy_from_slice(secret);
    bytes
}

/// `vpcp` serves G22 and sends; others receive.
struct World {
    house: House,
    vault: Arc<Vault>,
    retention: Retention,
}

impl World {
    /// What a start makes of a disk, new or not.
    fn open(disk: &MemoryDisk) -> Self {
        let house = House::open(disk, SMALL);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let vault = Arc::new(Vault::open(shared, Path::new("/data/vault")).expect("a vault"));
        let retention = Retention::new(Parts {
            state: house.state.clone(),
            committer: house.committer.clone(),
            journal: house.journal.clone(),
            eraser: house.eraser.clone(),
            vault: vault.clone(),
            gate: Gate::default(),
            clock: house.clock.clone(),
            feed_kept_ms: limits::FEED_KEPT_MS,
        });
        Self { house, vault, retention }
    }

    /// An envelope with a small file and one of the vault; its sequence.
    async fn send(&self, to: &[String], subject: &[u8], small: &[u8], large: &[u8]) -> u64 {
        let sha256 = Digest::of(large);
        let brought =
            self.vault.begin(&system("vpcp"), &sha256, large.len() as u64).and_then(|mut upload| {
                upload.append(large)?;
                upload.finish()
            });
        let brought = brought.expect("uploaded");
        let upload = Command::Upload { system: system("vpcp"), sha256, size: large.len() as u64 };
        self.house.ok(upload).await;
        drop(brought);
        let document = |name: &str, bytes: &[u8]| Document {
            name: name.into(),
            media_type: "application/octet-stream".into(),
            size: bytes.len() as u64,
            sha256: bytes_of(Digest::of(bytes).as_bytes()),
            ..Document::default()
        };
        let envelope = Envelope {
            envelope_id: bytes_of(EnvelopeId::new_v7().as_bytes()),
            hub_id: "truc".into(),
            sender: "G22".into(),
            recipients: to.iter().map(|code| Recipient { agency: code.clone(), kind: 1 }).collect(),
            created_unix_ms: self.house.clock.now_ms(),
            body: Some(Body::Document(DocumentBody {
                metadata: Some(DocumentMetadata {
                    subject: String::from_utf8_lossy(subject).into_owned(),
                    ..DocumentMetadata::default()
                }),
                documents: vec![document("a.txt", small), document("b.bin", large)],
            })),
            ..Envelope::default()
        };
        self.house.submit("vpcp", envelope, vec![bytes_of(small)]).await
    }

    /// Waits until all of an envelope's recipients have it in their mailboxes.
    async fn consigned(&self, sequence: u64) {
        let mut progress = self.house.committer.watch();
        while !self.read(|read| {
            query::envelope(read, sequence).is_some_and(|row| row.consigned_count == row.recipient_count)
        }) {
            let changed = timeout(std::time::Duration::from_secs(30), progress.changed()).await;
            changed.expect("it is consigned in time").expect("a writer");
        }
    }

    fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        self.house.read(read)
    }

    async fn agreed(&self, sequence: u64) {
        let (operator, remark) = ("local:an".to_owned(), "lộ bí mật".to_owned());
        self.house.ok(Command::RequestPurge { envelope_sequence: sequence, operator, remark }).await;
        let operator = "local:bình".to_owned();
        self.house.ok(Command::ConfirmPurge { envelope_sequence: sequence, operator }).await;
    }

    /// Looks at the records of every batch.
    fn batches(&self, mut look: impl FnMut(Vec<Record>)) {
        let mut visit = |batch: &Batch| {
            let decode = |entry: &Entry| Record::decode(entry.record.clone()).expect("a record");
            look(batch.entries.iter().map(decode).collect());
            Ok(ControlFlow::Continue(()))
        };
        self.house.journal.replay(0, &mut |batch| visit(&batch)).expect("readable");
    }

    fn end(mut self) -> MemoryDisk {
        self.house.stop();
        self.house.disk.clone()
    }
}

/// Every file whose bytes hold some others.
fn holding(disk: &MemoryDisk, dir: &Path, bytes: &[u8], found: &mut Vec<PathBuf>) {
    for name in disk.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        let Ok(file) = disk.open_read(&path) else {
            holding(disk, &path, bytes, found);
            continue;
        };
        if holds(&*file, bytes) {
            found.push(path);
        }
    }
}

fn holds(file: &dyn DiskFile, bytes: &[u8]) -> bool {
    let mut whole = vec![0; file.len().expect("a length") as usize];
    file.read_exact_at(0, &mut whole).expect("readable");
    whole.windows(bytes.len()).any(|window| window == bytes)
}

fn is_anywhere(disk: &MemoryDisk, bytes: &[u8]) -> bool {
    let mut found = Vec::new();
    holding(disk, Path::new("/data"), bytes, &mut found);
    !found.is_empty()
}

fn check(disk: &MemoryDisk) {
    let stores = fsck::Stores {
        data: Path::new("/data"),
        disk: Arc::new(disk.clone()),
        verifier: signer().verifier(),
        progress: &mut |_| {},
    };
    let (report, _) = fsck::look(stores, START_MS).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.violations);
}

/// A spill to three, one of whom has it on lease, beside an envelope that
/// stays; two operators have agreed.
async fn spilt() -> (MemoryDisk, u64) {
    let world = World::open(&MemoryDisk::default());
    world.house.enrol("vpcp", &["G22".to_owned()]).await;
    let codes = ["G18", "H53", "H54"].map(str::to_owned);
    world.house.enrol("byt", &codes).await;
    world.send(&codes[..1], OTHER, OTHER, &large(OTHER)).await;
    let sequence = world.send(&codes, SECRETS[0], SECRETS[1], &large(SECRETS[2])).await;
    world.consigned(sequence).await;
    let held = DeliveryId { envelope_sequence: sequence, recipient_index: 1 };
    let lease = Command::Lease { system: system("byt"), deliveries: vec![held], duration_ms: 60_000 };
    assert!(world.house.ok(lease).await.sequence().is_some());
    world.agreed(sequence).await;
    let disk = world.end();
    assert!(SECRETS.iter().all(|secret| is_anywhere(&disk, secret)));
    (disk.copy(), sequence)
}

/// What a purge that ended before its end left behind.
#[derive(Debug, Default)]
struct Left {
    ended: usize,
    erased: usize,
    collected: usize,
    collected_but_there: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_ends_between_any_two_operations_is_carried_on() {
    let (spilt, sequence) = spilt().await;
    let document = Digest::of(&large(SECRETS[2]));
    let mut left = Left::default();
    let mut whole = false;
    for operation in 0.. {
        let disk = spilt.copy();
        let world = World::open(&disk);
        disk.fail_after(operation);
        whole = world.retention.purge(sequence).await.is_ok();
        // the writer too may have ended, or not have got there
        drop(world);
        // SIGKILL: what was written is there. Power: what was synced, and some of the rest
        let killed = disk.copy();
        let mut random = fastrand::Rng::with_seed(operation);
        disk.crash(|below| random.usize(..below));
        for disk in [killed, disk] {
            let world = World::open(&disk);
            let row = world.read(|read| query::envelope(read, sequence)).expect("it is known");
            let mut collected = false;
            world.batches(|records| {
                collected |=
                    records.iter().any(|record| matches!(record.event, Some(Event::DocumentsCollected(_))));
            });
            let is_there = world.vault.has(&document).expect("it answers");
            assert!(is_there || collected, "operation {operation}: it left before its record");
            left.ended += usize::from(!whole);
            left.erased += usize::from(row.erased_sequence > 0 && !collected);
            left.collected += usize::from(collected && !is_there);
            left.collected_but_there += usize::from(collected && is_there);

            // as the first minute after a start does
            world.retention.purges().await.expect("it goes on");
            let row = world.read(|read| query::envelope(read, sequence)).expect("it is known");
            assert!(row.erased_sequence > 0 && row.settled_count == 3, "operation {operation}");
            let disk = world.end();
            for secret in SECRETS {
                let secret = String::from_utf8_lossy(secret);
                assert!(
                    !is_anywhere(&disk, secret.as_bytes()),
                    "operation {operation}: {secret} is still there"
                );
            }
            assert!(is_anywhere(&disk, OTHER), "another envelope stays");
            check(&disk);
        }
        if whole {
            break;
        }
    }
    println!("{left:?}");
    assert!(whole && left.ended > 20, "{left:?}");
    assert!(left.erased > 0 && left.collected > 0, "{left:?}");
    assert!(left.collected_but_there > 0, "between the record and the removal of the file: {left:?}");
}

/// More than are returned in one batch.
const RECIPIENTS: u32 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_purged_in_parts_and_others_are_served_between_them() {
    let world = World::open(&MemoryDisk::default());
    world.house.enrol("vpcp", &["G22".to_owned()]).await;
    let codes: Vec<String> = (0..RECIPIENTS).map(|number| format!("H{number:04}")).collect();
    for (number, codes) in codes.chunks(90).enumerate() {
        world.house.enrol(&format!("tinh{number}"), codes).await;
    }
    let sequence = world.send(&codes, SECRETS[0], SECRETS[1], &large(SECRETS[2])).await;
    // before everybody has it: what is not consigned yet is returned as well
    world.agreed(sequence).await;
    let agreed = world.end();
    let mut amid = 0;
    for operation in (3..24).step_by(4) {
        let disk = agreed.copy();
        let world = World::open(&disk);
        disk.fail_after(operation);
        assert!(world.retention.purge(sequence).await.is_err());
        let world = World::open(&world.end().copy());
        let row = world.read(|read| query::envelope(read, sequence)).expect("it is known");
        amid += usize::from(row.settled_count > 0 && row.erased_sequence == 0);
        world.retention.purges().await.expect("it goes on");
        let row = world.read(|read| query::envelope(read, sequence)).expect("it is known");
        assert!(row.erased_sequence > 0 && row.settled_count == RECIPIENTS, "operation {operation}");
        let disk = world.end();
        assert!(SECRETS.iter().all(|secret| !is_anywhere(&disk, secret)), "operation {operation}");
        check(&disk);
    }
    assert!(amid > 0, "none was ended between two of its batches");

    let world = World::open(&agreed);
    let other = world.send(&codes[..1], OTHER, OTHER, &large(OTHER)).await;
    let purged = world.retention.purge(sequence).await.expect("purged");
    assert_eq!((purged.returned, purged.taken), (RECIPIENTS, 0));
    assert_eq!(purged.documents_removed, [Digest::of(&large(SECRETS[2]))]);
    world.consigned(other).await;
    let mut most = 0;
    world.batches(|records| {
        let returned = records.iter().filter(|record| matches!(record.event, Some(Event::Returned(_))));
        most = most.max(returned.count());
    });
    assert!(most > 0 && most <= limits::PURGE_RETURNS_MAX, "{most} in one batch");
    let disk = world.end();
    assert!(SECRETS.iter().all(|secret| !is_anywhere(&disk, secret)) && is_anywhere(&disk, OTHER));
    check(&disk);
}

#[tokio::test]
async fn a_purge_that_met_a_backup_goes_on_by_itself() {
    let world = World::open(&MemoryDisk::default());
    world.house.enrol("vpcp", &["G22".to_owned()]).await;
    let codes = ["G18".to_owned()];
    world.house.enrol("byt", &codes).await;
    let sequence = world.send(&codes, SECRETS[0], SECRETS[1], &large(SECRETS[2])).await;
    world.consigned(sequence).await;
    // a hub that has run for a while: it knows that nothing is left of before its start
    world.retention.purges().await.expect("nothing is to be done");
    world.agreed(sequence).await;
    let backup = world.retention.0.parts.gate.hold().await.expect("nobody is inside");
    tokio::time::pause();
    let busy = world.retention.purge(sequence).await.expect_err("a backup is being made");
    tokio::time::resume();
    assert!(matches!(&busy, Error::Refused(refusal) if refusal.reason == Reason::Busy), "{busy:?}");
    let row = world.read(|read| query::envelope(read, sequence)).expect("it is known");
    assert!(row.erased_sequence > 0 && is_anywhere(&world.house.disk, SECRETS[0]), "decided, not done");
    drop(backup);
    world.retention.purges().await.expect("it goes on");
    let disk = world.end();
    assert!(SECRETS.iter().all(|secret| !is_anywhere(&disk, secret)));
    check(&disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_come_to_its_end_keeps_no_other_from_it() {
    let world = World::open(&MemoryDisk::default());
    world.house.enrol("vpcp", &["G22".to_owned()]).await;
    let codes = ["G18".to_owned()];
    world.house.enrol("byt", &codes).await;
    let first = world.send(&codes, OTHER, OTHER, &large(OTHER)).await;
    world.house.committer.roll().await.expect("rolled");
    let second = world.send(&codes, SECRETS[0], SECRETS[1], &large(SECRETS[2])).await;
    for sequence in [first, second] {
        world.consigned(sequence).await;
        world.agreed(sequence).await;
    }
    let disk = &world.house.disk;
    let mut files = Vec::new();
    for content in [OTHER, SECRETS[0]] {
        holding(disk, Path::new("/data/journal"), content, &mut files);
    }
    let [other, spilt] = &files[..] else { panic!("not one segment each: {files:?}") };
    disk.make_unreadable(other).expect("a segment");
    assert!(world.retention.minute(1).await.is_err(), "the first cannot be erased");
    assert!(!holds(&*disk.open_read(spilt).expect("a segment"), SECRETS[0]));
    assert!(!world.vault.has(&Digest::of(&large(SECRETS[2]))).expect("it answers"));
}
