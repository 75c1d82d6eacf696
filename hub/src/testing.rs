//! What tests of this crate need: a hub without its doors, over a disk in
//! memory. Journal, tree and state, the writer, and systems that are enrolled.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use axis_proto::{
    envelope::v1::Envelope,
    id::{Digest, SystemId},
    key::SigningKey as Secret,
    note::CheckpointSigner,
    record::v1::{
        Agency, AgencyState, Certificate, DirectoryEntry, LogOpened, SigningKey, directory_entry::Value,
    },
    seal::{self, PayloadType},
};
use bytes::Bytes;
use prost::Message as _;

use crate::{
    clock::Clock,
    commit::{self, Committer, Parts, WriterHandle},
    disk::{Disk, MemoryDisk},
    evidence::{Evidence, Tree},
    journal::{
        Eraser, Journal as _, JournalReader,
        segments::{Layout, SegmentJournal},
    },
    machine::{Command, Content, Kept, Outcome, Signed, Submit},
    observe::{Metrics, Readiness},
    state::{Changes, Draft, Read, State, memory::MemoryState, read_once},
};

/// When it begins.
pub const START_MS: u64 = 1_790_000_000_000;
/// Its log.
const ORIGIN: &str = "truc/log/1";

/// A hub that runs.
pub struct House {
    pub disk: MemoryDisk,
    pub state: Arc<dyn State>,
    pub journal: Arc<dyn JournalReader>,
    pub eraser: Eraser,
    pub evidence: Evidence,
    pub committer: Committer,
    pub clock: Clock,
    writer: Option<WriterHandle>,
}

/// Signs its checkpoints.
pub fn signer() -> CheckpointSigner {
    CheckpointSigner::new(ORIGIN, Secret::from_seed(&[9; 32])).expect("an origin")
}

/// An id that is one.
pub fn system(id: &str) -> SystemId {
    id.parse().expect("a system id")
}

/// What a system signs with.
pub fn secret(id: &str) -> Secret {
    Secret::from_seed(Digest::of(id.as_bytes()).as_bytes())
}

/// Bytes of their own.
pub fn bytes_of(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

impl House {
    /// What a start makes of a disk, new or not.
    pub fn open(disk: &MemoryDisk, layout: Layout) -> Self {
        let clock = Clock::manual(START_MS);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = Path::new("/data/journal");
        let is_new = !disk.exists(dir).unwrap_or_default();
        let mut journal = if is_new {
            SegmentJournal::create_with(shared.clone(), dir, ORIGIN, layout).expect("a journal")
        } else {
            SegmentJournal::open_with(shared.clone(), dir, layout).expect("a journal")
        };
        let mut tree = Tree::open(shared, Path::new("/data/tree"), &*journal.reader()).expect("a tree");
        if is_new {
            let opened = LogOpened { hub_id: "truc".into(), origin: ORIGIN.into(), ..LogOpened::default() };
            commit::create_log(&mut journal, &mut tree, &signer(), &clock, opened).expect("a log");
        }
        let (reader, eraser) = (journal.reader(), journal.eraser());
        let state: Arc<dyn State> = Arc::new(MemoryState::new());
        replay(&*state, &*reader);
        let evidence = Evidence::new(reader.clone(), tree.reader());
        let (committer, writer) = commit::start(Parts {
            journal: Box::new(journal),
            tree,
            signer: signer(),
            state: state.clone(),
            clock: clock.clone(),
            metrics: Metrics::new(),
            readiness: Readiness::new(),
        });
        let (disk, journal, writer) = (disk.clone(), reader, Some(writer));
        Self { disk, state, journal, eraser, evidence, committer, clock, writer }
    }

    /// Enrols a system that serves these new agencies.
    pub async fn enrol(&self, id: &str, codes: &[String]) {
        // as many as a change may hold
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
        let public = secret(id).public();
        self.ok(Command::Enrol {
            token_sha256,
            certificate: Certificate {
                fingerprint: bytes_of(token_sha256.as_bytes()),
                valid_until_unix_ms: u64::MAX,
                ..Certificate::default()
            },
            signing_key: SigningKey {
                key_id: bytes_of(public.key_id().as_bytes()),
                public_key: bytes_of(*public.as_bytes()),
                ..SigningKey::default()
            },
        })
        .await;
    }

    /// Commits what must be.
    pub async fn ok(&self, command: Command) -> Outcome {
        self.committer.commit(command).await.expect("committed")
    }

    /// Submits an envelope with what rides along; its sequence.
    pub async fn submit(&self, id: &str, envelope: Envelope, documents: Vec<Bytes>) -> u64 {
        let sealed = seal::seal(PayloadType::Envelope, envelope.encode_to_vec(), &[&secret(id)]);
        let signed = Signed {
            digest: seal::digest(&sealed.payload_type, &sealed.payload),
            sealed: Content::of(sealed.encode_to_vec()),
            key_ids: vec![secret(id).public().key_id()],
            certificate: Digest::of(id.as_bytes()),
        };
        let documents = documents.into_iter().map(Content::of).collect();
        let submit =
            Submit { system: system(id), envelope, signed, documents, kept: Kept::default(), ahead: None };
        self.ok(Command::Submit(Box::new(submit))).await.sequence().expect("accepted")
    }

    /// Reads one moment of its state.
    pub fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        read_once(&*self.state, read)
    }

    /// Its process ends.
    pub fn stop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.stop();
        }
    }
}

impl Drop for House {
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
            Ok(ControlFlow::Continue(()))
        })
        .expect("it can be read");
}
