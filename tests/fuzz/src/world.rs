//! A small exchange by the real machine, the same on every run: `vpcp` serves
//! G22 and sends, `byt` serves G18 and receives. Its records are the journal
//! that targets change, its state the directory that they meet.

use std::sync::LazyLock;

use axis_hub::{
    authenticate::Caller,
    journal::{self, Commit, Entry},
    limits::{MINUTE_MS, Millis},
    machine::{self, Batch, Command, Context, Outcome, query},
    state::{State as _, memory::MemoryState, read_once},
    verify::{Ground, Points, verify},
};
use axis_proto::{
    envelope::v1::{
        Acknowledgement, Document, DocumentBody, DocumentMetadata, Envelope, Recipient, Rejection,
        RejectionReason, envelope::Body,
    },
    id::{DeliveryId, Digest, EnvelopeId, SystemId},
    key::SigningKey as Secret,
    note::{CheckpointSigner, CheckpointVerifier},
    record::v1::{
        Agency, AgencyState, Certificate, DirectoryEntry, LeafList, LogOpened, SigningKey,
        directory_entry::Value,
    },
    seal::{PayloadType, seal},
    tree,
};
use bytes::Bytes;
use prost::Message as _;

/// The time in it.
pub const NOW: Millis = 1_790_000_000_000;
/// The log.
pub const ORIGIN: &str = "axis.test/log1";
/// A document that rides along.
pub const DOCUMENT: &[u8] = b"Cong van";

/// The exchange.
pub struct World {
    /// What followed from it.
    pub state: MemoryState,
    points: Points,
    /// Its records.
    pub batches: Vec<journal::Batch>,
    /// A delivery that was given and may be answered.
    pub open: DeliveryId,
    signer: CheckpointSigner,
    leaves: Vec<[u8; 32]>,
    chance: u64,
}

/// The one world.
pub static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// A system's key.
pub fn secret(system: &str) -> Secret {
    Secret::from_seed(Digest::of(system.as_bytes()).as_bytes())
}

/// A system as it calls.
pub fn caller(system: &str) -> Caller {
    Caller { system: id(system), fingerprint: Digest::of(format!("certificate of {system}").as_bytes()) }
}

/// An envelope from `vpcp` that is as it should be.
pub fn envelope(number: u8) -> Envelope {
    let mut envelope_id = 0x0190_0000_0000_7000_8000_0000_0000_0000_u128.to_be_bytes();
    envelope_id[15] = number;
    let envelope_id = EnvelopeId::from_slice(&envelope_id).expect("a constant that is an id");
    Envelope {
        envelope_id: Bytes::copy_from_slice(envelope_id.as_bytes()),
        hub_id: "axis.test".into(),
        sender: "G22".into(),
        recipients: vec![Recipient { agency: "G18".into(), kind: 1 }],
        created_unix_ms: NOW,
        body: Some(Body::Document(DocumentBody {
            metadata: Some(DocumentMetadata { subject: "V/v".into(), ..DocumentMetadata::default() }),
            documents: vec![Document {
                name: "a.txt".into(),
                media_type: "text/plain".into(),
                size: DOCUMENT.len() as u64,
                sha256: Bytes::copy_from_slice(Digest::of(DOCUMENT).as_bytes()),
                description: String::new(),
            }],
        })),
        ..Envelope::default()
    }
}

fn id(system: &str) -> SystemId {
    system.parse().expect("a constant that is an id")
}

/// Bytes that look like chance and are the same each time.
pub fn random(chance: &mut u64) -> impl FnMut(&mut [u8]) + '_ {
    |buffer| {
        for byte in buffer {
            *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (*chance >> 33) as u8;
        }
    }
}

impl World {
    /// What is verified and admitted by.
    pub fn ground(&self) -> Ground<'_> {
        Ground { hub_id: "axis.test", state: &self.state, points: &self.points, now_ms: NOW }
    }

    /// Verifies its checkpoints.
    pub fn verifier(&self) -> CheckpointVerifier {
        self.signer.verifier()
    }

    /// Number of records.
    pub fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    fn new() -> Self {
        let signer = CheckpointSigner::new(ORIGIN, secret("log")).expect("a constant that is an origin");
        let mut world = Self {
            state: MemoryState::new(),
            points: Points::default(),
            batches: Vec::new(),
            open: DeliveryId { envelope_sequence: 0, recipient_index: 0 },
            signer,
            leaves: Vec::new(),
            chance: 7,
        };
        world.batch(NOW, |batch| {
            let opened =
                LogOpened { hub_id: "axis.test".into(), origin: ORIGIN.into(), ..LogOpened::default() };
            batch.open_log(opened).expect("small");
        });
        world.enrol("vpcp", "G22");
        world.enrol("byt", "G18");
        let first = world.send(1);
        world.lease(first);
        world.decide(NOW, &world.acknowledgement(first));
        let second = world.send(2);
        world.open = second;
        world.lease(second);
        world.decide(
            NOW,
            &Command::Extend { system: id("byt"), delivery: second, attempt: 1, duration_ms: 2 * MINUTE_MS },
        );
        world.decide(NOW, &Command::Nack { system: id("byt"), delivery: second, attempt: 1, delay_ms: 0 });
        let third = world.send(3);
        world.lease(third);
        world.decide(NOW, &world.rejection(third));
        world.send(4);
        world
    }

    fn enrol(&mut self, system: &str, code: &str) {
        let agency = Agency {
            code: code.into(),
            name: format!("Cơ quan {code}"),
            state: AgencyState::Active.into(),
            ..Agency::default()
        };
        let entries = vec![DirectoryEntry { value: Some(Value::Agency(agency)) }];
        let (actor, remark) = ("operator".to_owned(), String::new());
        self.decide(NOW, &Command::ChangeDirectory { entries, actor: actor.clone(), remark });
        let token_sha256 = Digest::of(system.as_bytes());
        let agencies = vec![code.parse().expect("a constant that is a code")];
        let name = system.to_uppercase();
        self.decide(NOW, &Command::AddSystem { system: id(system), name, agencies, token_sha256, actor });
        let public = secret(system).public();
        let certificate = Certificate {
            fingerprint: Bytes::copy_from_slice(caller(system).fingerprint.as_bytes()),
            valid_until_unix_ms: u64::MAX,
            ..Certificate::default()
        };
        let signing_key = SigningKey {
            key_id: Bytes::copy_from_slice(public.key_id().as_bytes()),
            public_key: Bytes::copy_from_slice(public.as_bytes()),
            ..SigningKey::default()
        };
        self.decide(NOW, &Command::Enrol { token_sha256, certificate, signing_key });
    }

    /// Sends an envelope and makes it visible.
    fn send(&mut self, number: u8) -> DeliveryId {
        let sealed = seal(PayloadType::Envelope, envelope(number).encode_to_vec(), &[&secret("vpcp")]);
        let verified = verify(self.ground(), &caller("vpcp"), &sealed, PayloadType::Envelope);
        let documents = vec![Bytes::from_static(DOCUMENT)];
        let submit =
            axis_hub::admit::admit(self.ground(), &id("vpcp"), verified.expect("verifies"), documents);
        let outcome = self.decide(NOW, &Command::Submit(submit.expect("admitted").submit));
        let envelope_sequence = outcome.sequence().expect("recorded");
        let entry = self.batches.iter().find_map(|batch| batch.entry(envelope_sequence)).expect("there");
        let recipients = LeafList::decode(entry.cargo[1].clone()).expect("a list");
        self.decide(NOW, &Command::Consign { envelope_sequence, recipients: recipients.into() });
        DeliveryId { envelope_sequence, recipient_index: 0 }
    }

    fn lease(&mut self, delivery: DeliveryId) {
        let deliveries = vec![delivery];
        self.decide(NOW, &Command::Lease { system: id("byt"), deliveries, duration_ms: MINUTE_MS });
    }

    fn acknowledgement(&self, delivery: DeliveryId) -> Command {
        let acknowledgement = acknowledgement(self, delivery);
        let payload = acknowledgement.encode_to_vec();
        let sealed = seal(PayloadType::Acknowledgement, payload, &[&secret("byt")]);
        let verified = verify(self.ground(), &caller("byt"), &sealed, PayloadType::Acknowledgement);
        let signed = verified.expect("verifies").into_signed();
        Command::Acknowledge { system: id("byt"), acknowledgement, signed }
    }

    fn rejection(&self, delivery: DeliveryId) -> Command {
        let rejection = rejection(self, delivery);
        let sealed = seal(PayloadType::Rejection, rejection.encode_to_vec(), &[&secret("byt")]);
        let verified = verify(self.ground(), &caller("byt"), &sealed, PayloadType::Rejection);
        let signed = verified.expect("verifies").into_signed();
        Command::Reject { system: id("byt"), rejection, signed }
    }

    fn decide(&mut self, now_ms: Millis, command: &Command) -> Outcome {
        self.batch(now_ms, |batch| machine::decide(batch, command).expect("a command that is right"))
    }

    fn batch<T>(&mut self, now_ms: Millis, act: impl FnOnce(&mut Batch<'_>) -> T) -> T {
        let (size, chance) = (self.size(), &mut self.chance);
        let (entries, changes, result) = read_once(&self.state, |read| {
            let mut random = random(chance);
            let mut batch = Batch::new(read, size, Context { now_ms, random: &mut random });
            let result = act(&mut batch);
            let (entries, changes, _) = batch.finish();
            (entries, changes, result)
        });
        if entries.is_empty() {
            return result;
        }
        self.leaves.extend(entries.iter().map(|entry| tree::record_leaf(&entry.salt, &entry.record)));
        self.state.publish(changes, self.size());
        let commit = self.commit();
        self.batches.push(journal::Batch { entries, commit });
        result
    }

    fn commit(&self) -> Commit {
        let root = tree::root_of(&self.leaves);
        Commit { size: self.size(), root, checkpoint: self.signer.sign(self.size(), &root) }
    }

    /// The end of a batch of these entries after all others, as if they were
    /// the log's.
    pub fn commit_after(&self, before: &[Entry], entries: &[Entry]) -> Commit {
        let leaf = |entry: &Entry| tree::record_leaf(&entry.salt, &entry.record);
        let leaves: Vec<_> = before.iter().chain(entries).map(leaf).collect();
        let (size, root) = (leaves.len() as u64, tree::root_of(&leaves));
        Commit { size, root, checkpoint: self.signer.sign(size, &root) }
    }
}

/// What the recipient of a delivery says.
pub fn acknowledgement(world: &World, delivery: DeliveryId) -> Acknowledgement {
    let (mailbox_sequence, envelope_digest) = named(world, delivery);
    Acknowledgement {
        hub_id: "axis.test".into(),
        delivery_id: delivery.to_string(),
        envelope_digest,
        recipient: "G18".into(),
        mailbox_sequence,
        acknowledged_unix_ms: NOW,
        reference: String::new(),
    }
}

/// The same, if it cannot take it.
pub fn rejection(world: &World, delivery: DeliveryId) -> Rejection {
    let (mailbox_sequence, envelope_digest) = named(world, delivery);
    Rejection {
        hub_id: "axis.test".into(),
        delivery_id: delivery.to_string(),
        envelope_digest,
        recipient: "G18".into(),
        mailbox_sequence,
        rejected_unix_ms: NOW,
        reason: RejectionReason::WrongAddressee.into(),
        explanation: String::new(),
    }
}

fn named(world: &World, delivery: DeliveryId) -> (u64, Bytes) {
    read_once(&world.state, |read| {
        let row = query::delivery(read, &delivery).expect("a delivery");
        let envelope = query::envelope(read, delivery.envelope_sequence).expect("an envelope");
        (row.mailbox_sequence, Bytes::from(envelope.envelope_digest))
    })
}
