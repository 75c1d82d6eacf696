//! A purge over a journal and a vault on a disk in memory, ended between any
//! two operations: by the process's end, which loses nothing that was written,
//! and by the power's. Whoever comes next carries it to its end.

use std::path::{Path, PathBuf};

use axis_proto::{
    envelope::v1::{Document, DocumentBody, DocumentMetadata, Envelope, Recipient, envelope::Body},
    id::EnvelopeId,
    key::SigningKey as Secret,
    note::CheckpointSigner,
    record::v1::{
        Agency, AgencyState, Certificate, DirectoryEntry, LogOpened, SigningKey, directory_entry::Value,
    },
    seal::{self, PayloadType},
};
use bytes::Bytes;
use tokio::time::timeout;

use super::super::*;
use crate::{
    commit::{self, WriterHandle},
    disk::{Disk, MemoryDisk},
    evidence::Tree,
    fsck,
    journal::{Journal as _, SegmentJournal, segments::Layout},
    machine::{Kept, Outcome, Signed, Submit},
    observe::{Metrics, Readiness},
    state::{Changes, Draft, memory::MemoryState},
};

const START: u64 = 1_790_000_000_000;
/// Segments that a loop of worlds has room for.
const SMALL: Layout = Layout { segment_bytes: 256 * 1024, ahead_bytes: 16 * 1024, mark_seed: None };
const ORIGIN: &str = "truc/log/1";
const SECRETS: [&[u8]; 3] = [b"LO-MAT-TRICH-YEU", b"LO-MAT-TEP-NHO", b"LO-MAT-TEP-LON"];
const OTHER: &[u8] = b"KHONG-MAT";

fn signer() -> CheckpointSigner {
    CheckpointSigner::new(ORIGIN, Secret::from_seed(&[9; 32])).expect("an origin")
}

fn secret() -> Secret {
    Secret::from_seed(&[1; 32])
}

fn bytes_of(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

fn system(id: &str) -> SystemId {
    id.parse().expect("a system id")
}

fn large(secret: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'.'; 9_000];
    bytes[4_000..4_000 + secret.len()].copy_from_slice(secret);
    bytes
}

/// `vpcp` serves G22 and sends; `byt` serves those that receive.
struct World {
    disk: MemoryDisk,
    state: Arc<dyn State>,
    committer: Committer,
    vault: Arc<Vault>,
    retention: Retention,
    clock: Clock,
    writer: Option<WriterHandle>,
}

impl World {
    /// What a start makes of a disk, new or not.
    fn open(disk: &MemoryDisk) -> Self {
        let clock = Clock::manual(START);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = Path::new("/data/journal");
        let is_new = !disk.exists(dir).unwrap_or_default();
        let mut journal = if is_new {
            SegmentJournal::create_with(shared.clone(), dir, ORIGIN, SMALL).expect("a journal")
        } else {
            SegmentJournal::open_with(shared.clone(), dir, SMALL).expect("a journal")
        };
        let mut tree =
            Tree::open(shared.clone(), Path::new("/data/tree"), &*journal.reader()).expect("a tree");
        if is_new {
            let opened = LogOpened { hub_id: "truc".into(), origin: ORIGIN.into(), ..LogOpened::default() };
            commit::create_log(&mut journal, &mut tree, &signer(), &clock, opened).expect("a log");
        }
        let (reader, eraser) = (journal.reader(), journal.eraser());
        let state: Arc<dyn State> = Arc::new(MemoryState::new());
        replay(&*state, &*reader);
        let (committer, writer) = commit::start(commit::Parts {
            journal: Box::new(journal),
            tree,
            signer: signer(),
            state: state.clone(),
            clock: clock.clone(),
            metrics: Metrics::new(),
            readiness: Readiness::new(),
        });
        let vault = Arc::new(Vault::open(shared, Path::new("/data/vault")).expect("a vault"));
        let retention = Retention::new(Parts {
            state: state.clone(),
            committer: committer.clone(),
            journal: reader,
            eraser,
            vault: vault.clone(),
            gate: Gate::default(),
            clock: clock.clone(),
            feed_kept_ms: limits::FEED_KEPT_MS,
        });
        Self { disk: disk.clone(), state, committer, vault, retention, clock, writer: Some(writer) }
    }

    async fn ok(&self, command: Command) -> Outcome {
        self.committer.commit(command).await.expect("committed")
    }

    async fn enrol(&self, id: &str, codes: &[String]) {
        for part in codes.chunks(50) {
            let entry = |code: &String| {
                let state = AgencyState::Active.into();
                let agency = Agency { code: code.clone(), name: code.clone(), state, ..Agency::default() };
                DirectoryEntry { value: Some(Value::Agency(agency)) }
            };
            let entries = part.iter().map(entry).collect();
            self.ok(Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() }).await;
        }
        let token_sha256 = Digest::of(id.as_bytes());
        self.ok(Command::AddSystem {
            system: system(id),
            name: id.into(),
            agencies: codes.iter().map(|code| code.parse().expect("a code")).collect(),
            token_sha256,
            actor: "op".into(),
        })
        .await;
        let public =
            if id == "vpcp" { secret() } else { Secret::from_seed(token_sha256.as_bytes()) }.public();
        self.ok(Command::Enrol {
            token_sha256,
            certificate: Certificate {
                fingerprint: bytes_of(token_sha256.as_bytes()),
                valid_until_unix_ms: u64::MAX,
                ..Certificate::default()
            },
            signing_key: SigningKey {
                key_id: bytes_of(public.key_id().as_bytes()),
                public_key: bytes_of(public.0),
                ..SigningKey::default()
            },
        })
        .await;
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
        self.ok(Command::Upload { system: system("vpcp"), sha256, size: large.len() as u64 }).await;
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
            created_unix_ms: self.clock.now_ms(),
            body: Some(Body::Document(DocumentBody {
                metadata: Some(DocumentMetadata {
                    subject: String::from_utf8_lossy(subject).into_owned(),
                    ..DocumentMetadata::default()
                }),
                documents: vec![document("a.txt", small), document("b.bin", large)],
            })),
            ..Envelope::default()
        };
        let sealed = seal::seal(PayloadType::Envelope, envelope.encode_to_vec(), &[&secret()]);
        let signed = Signed {
            digest: seal::digest(&sealed.payload_type, &sealed.payload),
            sealed: sealed.encode_to_vec().into(),
            key_ids: vec![secret().public().key_id()],
            certificate: Digest::of(b"vpcp"),
        };
        let submit = Submit {
            system: system("vpcp"),
            envelope,
            signed,
            documents: vec![bytes_of(small)],
            kept: Kept::default(),
            ahead: None,
        };
        let outcome = self.ok(Command::Submit(Box::new(submit))).await;
        outcome.sequence().expect("accepted")
    }

    /// Waits until all of an envelope's recipients have it in their mailboxes.
    async fn consigned(&self, sequence: u64) {
        let mut progress = self.committer.watch();
        while !self.read(|read| {
            query::envelope(read, sequence).is_some_and(|row| row.consigned_count == row.recipient_count)
        }) {
            let changed = timeout(std::time::Duration::from_secs(30), progress.changed()).await;
            changed.expect("it is consigned in time").expect("a writer");
        }
    }

    fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        read_once(&*self.state, read)
    }

    async fn agreed(&self, sequence: u64) {
        let (operator, remark) = ("local:an".to_owned(), "lộ bí mật".to_owned());
        self.ok(Command::RequestPurge { envelope_sequence: sequence, operator, remark }).await;
        let operator = "local:bình".to_owned();
        self.ok(Command::ConfirmPurge { envelope_sequence: sequence, operator }).await;
    }

    fn end(mut self) -> MemoryDisk {
        self.stop();
        self.disk.clone()
    }

    fn stop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.stop();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

fn replay(state: &dyn State, journal: &dyn JournalReader) {
    journal
        .replay(0, &mut |batch| {
            let mut changes = Changes::new();
            state.read(&mut |read| {
                let mut draft = Draft::new(read);
                let mut entries = batch.entries.iter();
                entries.try_for_each(|entry| commit::replay(&mut draft, entry)).expect("it applies");
                changes = draft.into_changes();
            });
            state.publish(changes, batch.commit.size);
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .expect("it can be read");
}

/// Every file whose bytes hold some others.
fn holding(disk: &MemoryDisk, dir: &Path, bytes: &[u8], found: &mut Vec<PathBuf>) {
    for name in disk.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        let Ok(file) = disk.open_read(&path) else {
            holding(disk, &path, bytes, found);
            continue;
        };
        let mut whole = vec![0; file.len().expect("a length") as usize];
        file.read_exact_at(0, &mut whole).expect("readable");
        if whole.windows(bytes.len()).any(|window| window == bytes) {
            found.push(path);
        }
    }
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
    let (report, _) = fsck::look(stores, START).expect("readable");
    assert!(report.is_clean(), "{:#?}", report.violations);
}

/// A spill to three, one of whom has it on lease, beside an envelope that
/// stays; two operators have agreed.
async fn spilt() -> (MemoryDisk, u64) {
    let world = World::open(&MemoryDisk::default());
    world.enrol("vpcp", &["G22".to_owned()]).await;
    let codes = ["G18", "H53", "H54"].map(str::to_owned);
    world.enrol("byt", &codes).await;
    world.send(&codes[..1], OTHER, OTHER, &large(OTHER)).await;
    let sequence = world.send(&codes, SECRETS[0], SECRETS[1], &large(SECRETS[2])).await;
    world.consigned(sequence).await;
    let held = axis_proto::id::DeliveryId { envelope_sequence: sequence, recipient_index: 1 };
    let lease = Command::Lease { system: system("byt"), deliveries: vec![held], duration_ms: 60_000 };
    assert!(world.ok(lease).await.sequence().is_some());
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
            let journal = world.retention.0.parts.journal.clone();
            let mut visit = |batch: &crate::journal::Batch| {
                for entry in &batch.entries {
                    let record = Record::decode(entry.record.clone()).expect("a record");
                    collected |= matches!(record.event, Some(Event::DocumentsCollected(_)));
                }
                Ok(std::ops::ControlFlow::Continue(()))
            };
            journal.replay(0, &mut |batch| visit(&batch)).expect("readable");
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
    world.enrol("vpcp", &["G22".to_owned()]).await;
    let codes: Vec<String> = (0..RECIPIENTS).map(|number| format!("H{number:04}")).collect();
    for (number, codes) in codes.chunks(90).enumerate() {
        world.enrol(&format!("tinh{number}"), codes).await;
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
    let mut visit = |batch: &crate::journal::Batch| {
        let returned = |entry: &Entry| {
            let record = Record::decode(entry.record.clone()).expect("a record");
            usize::from(matches!(record.event, Some(Event::Returned(_))))
        };
        most = most.max(batch.entries.iter().map(returned).sum());
        Ok(std::ops::ControlFlow::Continue(()))
    };
    world.retention.0.parts.journal.replay(0, &mut |batch| visit(&batch)).expect("readable");
    assert!(most > 0 && most <= limits::PURGE_RETURNS_MAX, "{most} in one batch");
    let disk = world.end();
    assert!(SECRETS.iter().all(|secret| !is_anywhere(&disk, secret)) && is_anywhere(&disk, OTHER));
    check(&disk);
}
