//! A hub with a long past, made quickly: real records by the real machine
//! under real checkpoints, envelopes whose signatures hold, systems that can
//! connect. The state is left to the hub, which makes it from the journal when
//! it starts. Never touches a hub that runs.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_hub::{
    clock::Clock,
    commit,
    config::Config,
    disk::{self, RealDisk},
    evidence::Tree,
    hub::{Hub, JOURNAL, TREE},
    identity::Identity,
    journal::{Entry, Journal, SegmentJournal},
    machine::{self, Batch, Command, Content, Signed, Submit, query},
    state::{Changes, State, memory::MemoryState, read_once},
};
use axis_proto::{
    envelope::v1::{
        Acknowledgement, Document, DocumentBody, DocumentMetadata, Envelope, Recipient, envelope::Body,
    },
    id::{DeliveryId, Digest, EnvelopeId, SystemId},
    key::SigningKey,
    note::CheckpointSigner,
    record::v1::{Agency, AgencyState, DirectoryEntry, Group, directory_entry::Value},
    seal::{PayloadType, digest, seal},
};
use bytes::Bytes;
use prost::Message as _;

use crate::{
    Ministry,
    admin::add_system,
    hub::{Ports, make},
};

/// The group that everybody belongs to.
pub const EVERYONE: &str = "tat-ca";
/// Envelopes of one batch, as many as a busy hub takes into one.
const BATCH_ENVELOPES: usize = 512;
/// Agencies of one change of the directory.
const CHANGE_AGENCIES: usize = 100;
/// Batches on their way from one thread to the next.
const UNDER_WAY: usize = 4;

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Envelopes that wait, each with one recipient, in turn for each system.
    pub waiting: u64,
    /// Envelopes that were delivered and acknowledged before.
    pub settled: u64,
    /// Systems, each enrolled, with a home and an agency of its own.
    pub systems: usize,
    /// Further agencies, served by the systems in turn.
    pub agencies: usize,
    /// Bytes of the document that rides along with each envelope.
    pub document_bytes: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { waiting: 0, settled: 0, systems: 8, agencies: 0, document_bytes: 64 }
    }
}

/// What was made.
#[derive(Debug)]
pub struct Seeded {
    /// Records of the journal.
    pub records: u64,
    /// Envelopes that were added.
    pub envelopes: u64,
    /// How long it took to add them.
    pub took: Duration,
    /// Verifies the log's checkpoints.
    pub verifier_key: String,
    /// Its ports, if it was made just now.
    pub ports: Option<Ports>,
}

/// The name of a system that [`seed`] makes.
pub fn system(place: usize) -> String {
    format!("s{place:03}")
}

/// The agency that a system has for itself.
pub fn agency(place: usize) -> String {
    format!("S{place:03}")
}

/// The code of a further agency.
pub fn further_agency(place: usize) -> String {
    format!("H{:02}.{:02}.{:02}", place / 10_000, place / 100 % 100, place % 100)
}

/// The home of a system in a hub's directory.
pub fn home(dir: &Path, place: usize) -> PathBuf {
    dir.join("homes").join(system(place))
}

/// Adds a past to the hub in `dir`, which is made if it is not there. Says
/// now and then how many envelopes were added.
///
/// # Errors
/// If the hub runs, or was not made by this function, or the disk fails.
pub fn seed(dir: &Path, plan: &Plan, progress: &mut dyn FnMut(u64)) -> anyhow::Result<Seeded> {
    let is_new = !dir.join(axis_hub::config::FILE_NAME).exists();
    let ports = is_new.then(|| enrol(dir, plan.systems)).transpose()?;
    let mut log = Log::open(dir)?;
    let places: Vec<usize> = (0..).take_while(|place| home(dir, *place).exists()).collect();
    let parties = places.iter().map(|place| Party::load(dir, *place, &log.state)).collect::<Result<_, _>>();
    let parties: Arc<Vec<Party>> = Arc::new(parties?);
    anyhow::ensure!(!parties.is_empty(), "{} has no homes: it was not seeded here", dir.display());
    log.add_agencies(plan.agencies, parties.len())?;

    let began = Instant::now();
    let envelopes = plan.settled + plan.waiting;
    let records = thread::scope(|scope| {
        let (prepared, submits) = sync_channel(UNDER_WAY);
        let (decided, batches) = sync_channel(UNDER_WAY);
        let taken = Arc::new(AtomicU64::new(0));
        for _ in 0..2 {
            let (parties, prepared, taken) = (parties.clone(), prepared.clone(), taken.clone());
            let (hub_id, bytes) = (log.hub_id.clone(), plan.document_bytes);
            scope.spawn(move || prepare(&parties, &hub_id, bytes, envelopes, &taken, &prepared));
        }
        drop(prepared);
        let Log { journal, tree, signer, state, hub_id, .. } = &mut log;
        let decider = Decider { state: &*state, parties: &parties, hub_id, size: journal.size() };
        let appended = scope.spawn(move || append(journal, tree, signer, batches));
        decider.run(&submits, plan.settled, &decided, progress)?;
        drop((decided, submits));
        appended.join().expect("the journal's thread ends with its result")
    })?;
    let (took, verifier_key) = (began.elapsed(), log.signer.verifier_key());
    Ok(Seeded { records, envelopes, took, verifier_key, ports })
}

/// Makes a hub whose systems are enrolled as any others.
fn enrol(dir: &Path, systems: usize) -> anyhow::Result<Ports> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (_, ports) = make(dir, &Clock::system())?;
        let hub = Hub::start(Config::load(dir)?, Clock::system()).await.context("starting the hub")?;
        let enrolled = async {
            let mut admin = crate::admin(dir).await?;
            for place in 0..systems {
                let token = add_system(&mut admin, &system(place), &[&agency(place)]).await?;
                Ministry::enrol(&home(dir, place), &token).await?;
            }
            anyhow::Ok(())
        };
        let enrolled = enrolled.await;
        hub.stop().await;
        enrolled.map(|()| ports)
    })
}

/// A hub's log, open to be written without the hub.
pub(crate) struct Log {
    hub_id: String,
    pub(crate) journal: SegmentJournal,
    pub(crate) tree: Tree,
    pub(crate) signer: CheckpointSigner,
    /// What deciding needs of the state.
    pub(crate) state: MemoryState,
    _lock: disk::DirLock,
}

impl Log {
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let config = Config::load(dir)?;
        let data = config.data_dir();
        let lock = disk::lock(&data)?;
        let identity = Identity::load(&config.keys_dir()).map_err(anyhow::Error::new)?;
        let journal = SegmentJournal::open(RealDisk::shared(), &data.join(JOURNAL))?;
        let tree = Tree::open(RealDisk::shared(), &data.join(TREE), &*journal.reader())?;
        let last = journal.last_commit().context("the journal is empty")?;
        let origin = last.checkpoint.lines().next().unwrap_or_default();
        let signer = CheckpointSigner::new(origin, identity.checkpoint_key.clone())?;

        let whole = MemoryState::new();
        journal.reader().replay(0, &mut |batch| {
            let mut changes = Changes::new();
            let mut outcome = Ok(());
            whole.read(&mut |read| {
                let mut draft = axis_hub::state::Draft::new(read);
                outcome = batch.entries.iter().try_for_each(|entry| commit::replay(&mut draft, entry));
                changes = draft.into_changes();
            });
            outcome?;
            whole.publish(changes, batch.commit.size);
            Ok(ControlFlow::Continue(()))
        })?;
        let state = MemoryState::new();
        let mut kept = Changes::new();
        whole.read(&mut |read| {
            read.scan(&[], &[], &mut |key, value| {
                if is_kept(key) {
                    kept.insert(key.to_vec(), Some(value.to_vec()));
                }
                ControlFlow::Continue(())
            });
        });
        state.publish(kept, journal.size());
        Ok(Self { hub_id: config.hub_id.to_string(), journal, tree, signer, state, _lock: lock })
    }

    fn add_agencies(&mut self, count: usize, systems: usize) -> anyhow::Result<()> {
        let everyone = Group {
            group_id: EVERYONE.to_owned(),
            name: "Tất cả".to_owned(),
            everyone: true,
            ..Group::default()
        };
        let mut values = vec![Value::Group(everyone)];
        values.extend((0..count).map(|place| {
            Value::Agency(Agency {
                code: further_agency(place),
                name: format!("Cơ quan {place}"),
                state: AgencyState::Active.into(),
                system: system(place % systems),
                ..Agency::default()
            })
        }));
        for part in values.chunks(CHANGE_AGENCIES) {
            let entries = part.iter().map(|value| DirectoryEntry { value: Some(value.clone()) }).collect();
            let change =
                Command::ChangeDirectory { entries, actor: "bench".to_owned(), remark: String::new() };
            let (entries, changes) = decide(&self.state, self.journal.size(), |batch| {
                machine::decide(batch, &change).map(drop).map_err(anyhow::Error::new)
            })?;
            self.state.publish(changes, self.journal.size() + entries.len() as u64);
            commit::append(&mut self.journal, &mut self.tree, &self.signer, entries)?;
        }
        Ok(())
    }
}

/// What the machine reads to decide what is new: whom the directory knows and
/// which numbers were given. All that waits can be left out.
fn is_kept(key: &[u8]) -> bool {
    key.first().is_some_and(|tag| b"MmsalAkKhtTgGov".contains(tag))
}

/// Decides on a moment of the state, at the clock's time.
pub(crate) fn decide(
    state: &MemoryState,
    size: u64,
    decide: impl FnOnce(&mut Batch<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<Entry>, Changes)> {
    let now_ms = Clock::system().now_ms();
    read_once(state, |read| {
        let mut random = |buffer: &mut [u8]| fastrand::fill(buffer);
        let mut batch = Batch::new(read, size, machine::Context { now_ms, random: &mut random });
        decide(&mut batch)?;
        let (entries, changes, _) = batch.finish();
        Ok((entries, changes))
    })
}

/// One who sends and receives.
struct Party {
    system: SystemId,
    agency: String,
    key: SigningKey,
    certificate: Digest,
}

impl Party {
    fn load(dir: &Path, place: usize, state: &MemoryState) -> anyhow::Result<Self> {
        let system: SystemId = system(place).parse()?;
        let key = SigningKey::from_pem(&std::fs::read_to_string(home(dir, place).join("signing.pem"))?)?;
        let held = read_once(state, |read| query::certificates_of(read, &system));
        let certificate = held.first().with_context(|| format!("{system} has no certificate"))?;
        let certificate = Digest::from_slice(&certificate.fingerprint)?;
        Ok(Self { system, agency: agency(place), key, certificate })
    }

    fn signed(&self, payload_type: PayloadType, payload: Vec<u8>) -> Signed {
        let payload = Bytes::from(payload);
        let sealed = seal(payload_type, payload.clone(), &[&self.key]);
        Signed {
            sealed: Content::of(sealed.encode_to_vec()),
            digest: digest(payload_type.as_str(), &payload),
            key_ids: vec![self.key.public().key_id()],
            certificate: self.certificate,
        }
    }

    fn submit(&self, hub_id: &str, to: &str, document_bytes: usize) -> Submit {
        let id = EnvelopeId::new_v7();
        let mut document = vec![b'.'; document_bytes];
        let unique = id.as_bytes().len().min(document_bytes);
        document[..unique].copy_from_slice(&id.as_bytes()[..unique]);
        let document = Bytes::from(document);
        let named = Document {
            name: "Công văn.txt".into(),
            media_type: "text/plain".into(),
            size: document.len() as u64,
            sha256: Bytes::copy_from_slice(Digest::of(&document).as_bytes()),
            description: String::new(),
        };
        let envelope = Envelope {
            envelope_id: Bytes::copy_from_slice(id.as_bytes()),
            hub_id: hub_id.to_owned(),
            sender: self.agency.clone(),
            recipients: vec![Recipient { agency: to.to_owned(), kind: 1 }],
            created_unix_ms: Clock::system().now_ms(),
            body: Some(Body::Document(DocumentBody {
                metadata: Some(DocumentMetadata {
                    subject: "V/v thử nghiệm".into(),
                    ..DocumentMetadata::default()
                }),
                documents: vec![named],
            })),
            ..Envelope::default()
        };
        let signed = self.signed(PayloadType::Envelope, envelope.encode_to_vec());
        Submit {
            system: self.system.clone(),
            envelope,
            signed,
            documents: vec![Content::of(document)],
            kept: Default::default(),
            ahead: None,
        }
    }
}

/// An envelope and the place of its recipient.
type Prepared = (Submit, usize);

/// Seals envelopes until enough are taken.
fn prepare(
    parties: &[Party],
    hub_id: &str,
    document_bytes: usize,
    envelopes: u64,
    taken: &AtomicU64,
    out: &SyncSender<Vec<Prepared>>,
) {
    let count = parties.len() as u64;
    loop {
        let first = taken.fetch_add(BATCH_ENVELOPES as u64, Ordering::Relaxed);
        let last = envelopes.min(first + BATCH_ENVELOPES as u64);
        if first >= last {
            return;
        }
        let part = (first..last).map(|number| {
            // everybody receives in turn, from everybody else in turn
            let to = (number % count) as usize;
            let from = ((number + 1 + number / count % (count - 1).max(1)) % count) as usize;
            (parties[from].submit(hub_id, &parties[to].agency, document_bytes), to)
        });
        if out.send(part.collect()).is_err() {
            return;
        }
    }
}

/// Decides what was prepared and keeps what the next batches need.
struct Decider<'a> {
    state: &'a MemoryState,
    parties: &'a [Party],
    hub_id: &'a str,
    size: u64,
}

impl Decider<'_> {
    fn run(
        mut self,
        submits: &Receiver<Vec<Prepared>>,
        settled: u64,
        out: &SyncSender<Vec<Entry>>,
        progress: &mut dyn FnMut(u64),
    ) -> anyhow::Result<()> {
        let mut done = 0;
        for part in submits {
            let count = part.len() as u64;
            let (entries, changes) = decide(self.state, self.size, |batch| {
                for ((submit, to), place) in part.into_iter().zip(done..) {
                    let (digest, created_ms) = (submit.signed.digest, submit.envelope.created_unix_ms);
                    let outcome = machine::decide(batch, &Command::Submit(Box::new(submit)))?;
                    if place < settled {
                        let sequence = outcome.sequence().context("it was recorded")?;
                        self.deliver(batch, &self.parties[to], sequence, (digest, created_ms))?;
                    }
                }
                Ok(())
            })?;
            done += count;
            self.size += entries.len() as u64;
            self.state.publish(changes.into_iter().filter(|(key, _)| is_kept(key)).collect(), self.size);
            if out.send(entries).is_err() {
                return Ok(()); // the journal's thread says why
            }
            progress(done);
        }
        Ok(())
    }

    /// Leases and acknowledges what was just accepted.
    fn deliver(
        &self,
        batch: &mut Batch<'_>,
        party: &Party,
        sequence: u64,
        (digest, created_ms): (Digest, u64),
    ) -> anyhow::Result<()> {
        let id = DeliveryId { envelope_sequence: sequence, recipient_index: 0 };
        let lease =
            Command::Lease { system: party.system.clone(), deliveries: vec![id], duration_ms: 60_000 };
        machine::decide(batch, &lease)?;
        let acknowledgement = Acknowledgement {
            hub_id: self.hub_id.to_owned(),
            delivery_id: id.to_string(),
            envelope_digest: Bytes::copy_from_slice(digest.as_bytes()),
            recipient: party.agency.clone(),
            mailbox_sequence: query::mailbox(batch.state(), &party.system).high,
            acknowledged_unix_ms: created_ms,
            reference: String::new(),
        };
        let signed = party.signed(PayloadType::Acknowledgement, acknowledgement.encode_to_vec());
        let command = Command::Acknowledge { system: party.system.clone(), acknowledgement, signed };
        machine::decide(batch, &command)?;
        Ok(())
    }
}

/// Appends batch after batch; returns how many records there are then.
fn append(
    journal: &mut SegmentJournal,
    tree: &mut Tree,
    signer: &CheckpointSigner,
    batches: Receiver<Vec<Entry>>,
) -> anyhow::Result<u64> {
    for entries in batches {
        commit::append(journal, tree, signer, entries)?;
    }
    tree.close()?;
    Ok(journal.size())
}
