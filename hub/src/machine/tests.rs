//! Situations. Each ends in the invariants of `fsck` over all its records,
//! and in a replay of them to the same state, byte for byte.

use std::collections::BTreeMap;

use axis_proto::{
    envelope::v1::{
        Acknowledgement, Document, DocumentBody, DocumentMetadata, Envelope, Priority, Recipient, Rejection,
        RejectionReason, envelope::Body,
    },
    hub::v1::{DeliveryState, Reason},
    id::{DeliveryId, Digest, EnvelopeId, KeyId, SystemId},
    record::v1::{
        Accepted, Agency, AgencyState, Certificate, DirectoryEntry, Group, GroupMembers, LeafList, LogOpened,
        Record, Settlement, SigningKey, SystemState, directory_entry::Value, record::Event,
    },
};
use bytes::Bytes;
use prost::Message;

use super::{
    Batch, Command, Content, Context, Kept, Outcome, Signed, Submit, Tally, decide, query, query::Turns,
};
use crate::{
    error::{Error, Result},
    fsck::Checker,
    journal::{self, Commit, Entry},
    limits::{self, DAY_MS, MINUTE_MS},
    state::{Draft, Read, State, memory::MemoryState, read_once},
};

mod moves;
mod retention;

const START: u64 = 1_790_000_000_000;

/// A machine with three systems: `vpcp` serves G22, `byt` serves G18 and
/// `tayninh` serves H53 and H53.01.
struct World {
    state: MemoryState,
    entries: Vec<Entry>,
    now: u64,
    seed: u64,
    made: u128,
    clock_trusted: bool,
    /// Of each batch.
    counted: Vec<Tally>,
}

fn system(id: &str) -> SystemId {
    id.parse().expect("a system id")
}

fn key_of(system: &str) -> KeyId {
    KeyId::from_slice(Digest::of(system.as_bytes()).as_bytes()).expect("32 bytes")
}

fn certificate_of(system: &str) -> Digest {
    Digest::of(format!("certificate of {system}").as_bytes())
}

fn bytes_of(digest: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(digest.as_ref())
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            state: MemoryState::new(),
            entries: Vec::new(),
            now: START,
            seed: 7,
            made: 0,
            clock_trusted: true,
            counted: Vec::new(),
        };
        world
            .batch(|batch| {
                batch.open_log(LogOpened {
                    hub_id: "hub".into(),
                    origin: "hub/log1".into(),
                    ..LogOpened::default()
                })
            })
            .expect("opens");
        for (id, codes) in [("vpcp", &["G22"][..]), ("byt", &["G18"]), ("tayninh", &["H53", "H53.01"])] {
            let agencies = codes.iter().map(|code| agency(code)).collect();
            world.ok(Command::ChangeDirectory {
                entries: agencies,
                actor: "op".into(),
                remark: String::new(),
            });
            let token = Digest::of(id.as_bytes());
            world.ok(Command::AddSystem {
                system: system(id),
                name: id.to_uppercase(),
                agencies: codes.iter().map(|code| code.parse().expect("a code")).collect(),
                token_sha256: token,
                actor: "op".into(),
            });
            world.ok(Command::Enrol {
                token_sha256: token,
                certificate: Certificate {
                    fingerprint: bytes_of(certificate_of(id)),
                    valid_until_unix_ms: u64::MAX,
                    ..Certificate::default()
                },
                signing_key: SigningKey { key_id: bytes_of(key_of(id)), ..SigningKey::default() },
            });
        }
        world
    }

    fn batch<T>(&mut self, act: impl FnOnce(&mut Batch<'_>) -> T) -> T {
        let (now_ms, size, mut seed) = (self.now, self.entries.len() as u64, self.seed);
        let (entries, changes, tally, result) = read_once(&self.state, |read| {
            let mut random = |buffer: &mut [u8]| {
                for byte in buffer {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = (seed >> 33) as u8;
                }
            };
            let mut batch = Batch::new(read, size, Context { now_ms, random: &mut random });
            let result = act(&mut batch);
            let (entries, changes, tally) = batch.finish();
            (entries, changes, tally, result)
        });
        self.seed = seed;
        self.counted.push(tally);
        self.entries.extend(entries);
        self.state.publish(changes, self.entries.len() as u64);
        result
    }

    fn decide(&mut self, command: Command) -> Result<Outcome> {
        self.batch(|batch| decide(batch, &command))
    }

    #[track_caller]
    fn ok(&mut self, command: Command) -> Outcome {
        self.decide(command).expect("decided")
    }

    #[track_caller]
    fn refused(&mut self, command: Command) -> Reason {
        let size = self.entries.len();
        match self.decide(command) {
            Err(Error::Refused(refusal)) => {
                assert_eq!(self.entries.len(), size, "a refusal leaves nothing");
                refusal.reason
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        read_once(&self.state, read)
    }

    fn tick(&mut self, by_ms: u64) -> usize {
        self.now += by_ms;
        let clock_trusted = self.clock_trusted;
        let mut records = 0;
        // as the writer does: until nothing is left to do at this moment
        loop {
            let now = self.now;
            let pending = self.read(|read| {
                super::pending_consignment(read)
                    .into_iter()
                    .chain(super::due_consignments(read, now, 1))
                    .next()
            });
            if let Some(envelope_sequence) = pending {
                let entry = &self.entries[envelope_sequence as usize];
                let recipients = LeafList::decode(entry.cargo[1].clone()).expect("a list");
                records += self
                    .ok(Command::Consign { envelope_sequence, recipients: recipients.into() })
                    .sequences
                    .len();
                continue;
            }
            let decided = self.ok(Command::Tick { clock_trusted }).sequences.len();
            records += decided;
            if decided == 0 {
                return records;
            }
        }
    }

    fn envelope(&mut self, from: &str, to: &[&str]) -> Envelope {
        self.made += 1;
        let mut id = [0; 16];
        id[..].copy_from_slice(&(0x0190_0000_0000_7000_8000_0000_0000_0000_u128 + self.made).to_be_bytes());
        Envelope {
            envelope_id: bytes_of(EnvelopeId::from_slice(&id).expect("v7").as_bytes()),
            hub_id: "hub".into(),
            sender: from.into(),
            recipients: to.iter().map(|code| Recipient { agency: (*code).into(), kind: 1 }).collect(),
            created_unix_ms: self.now,
            body: Some(Body::Document(DocumentBody {
                metadata: Some(DocumentMetadata {
                    subject: "Về việc".into(), ..DocumentMetadata::default()
                }),
                documents: Vec::new(),
            })),
            ..Envelope::default()
        }
    }

    fn submission(&self, by: &str, envelope: Envelope) -> Command {
        let bytes = Bytes::from(envelope.encode_to_vec());
        Command::Submit(Box::new(Submit {
            system: system(by),
            signed: Signed {
                digest: Digest::of(&bytes),
                sealed: Content::of(bytes),
                key_ids: vec![key_of(by)],
                certificate: certificate_of(by),
            },
            envelope,
            documents: Vec::new(),
            kept: Kept::default(),
            ahead: None,
        }))
    }

    /// Sends, and returns the first delivery.
    fn send(&mut self, to: &[&str]) -> DeliveryId {
        let envelope = self.envelope("G22", to);
        self.send_envelope(envelope)
    }

    fn send_envelope(&mut self, envelope: Envelope) -> DeliveryId {
        let by = if envelope.sender == "G18" { "byt" } else { "vpcp" };
        let submission = self.submission(by, envelope);
        let sequence = self.ok(submission).sequence().expect("recorded");
        DeliveryId { envelope_sequence: sequence, recipient_index: 0 }
    }

    fn delivery(&self, id: DeliveryId) -> query::DeliveryRow {
        self.read(|read| query::delivery(read, &id)).expect("a delivery")
    }

    fn state_of(&self, id: DeliveryId) -> DeliveryState {
        self.delivery(id).state()
    }

    /// Leases; false if it was not ready.
    fn lease(&mut self, id: DeliveryId) -> bool {
        let system = system(&self.delivery(id).system);
        !self.ok(Command::Lease { system, deliveries: vec![id], duration_ms: MINUTE_MS }).sequences.is_empty()
    }

    fn acknowledgement(&self, id: DeliveryId) -> Command {
        let delivery = self.delivery(id);
        let envelope = self.read(|read| query::envelope(read, id.envelope_sequence)).expect("an envelope");
        let acknowledgement = Acknowledgement {
            hub_id: "hub".into(),
            delivery_id: id.to_string(),
            envelope_digest: Bytes::from(envelope.envelope_digest),
            recipient: delivery.agency,
            mailbox_sequence: delivery.mailbox_sequence,
            acknowledged_unix_ms: self.now,
            reference: String::new(),
        };
        let sealed = Bytes::from(acknowledgement.encode_to_vec());
        Command::Acknowledge {
            system: system(&delivery.system),
            acknowledgement,
            signed: Signed {
                digest: Digest::of(&sealed),
                sealed: Content::of(sealed),
                key_ids: vec![key_of(&delivery.system)],
                certificate: certificate_of(&delivery.system),
            },
        }
    }

    fn rejection(&self, id: DeliveryId) -> Command {
        let Command::Acknowledge { system, acknowledgement, signed } = self.acknowledgement(id) else {
            unreachable!("it is one")
        };
        let rejection = Rejection {
            hub_id: acknowledgement.hub_id,
            delivery_id: acknowledgement.delivery_id,
            envelope_digest: acknowledgement.envelope_digest,
            recipient: acknowledgement.recipient,
            mailbox_sequence: acknowledgement.mailbox_sequence,
            rejected_unix_ms: self.now,
            reason: RejectionReason::WrongAddressee.into(),
            explanation: String::new(),
        };
        Command::Reject { system, rejection, signed }
    }

    fn nack(&self, id: DeliveryId, delay_ms: u64) -> Command {
        let delivery = self.delivery(id);
        Command::Nack { system: system(&delivery.system), delivery: id, attempt: delivery.leases, delay_ms }
    }

    fn ready(&self, of: &str, max: usize) -> Vec<DeliveryId> {
        let mut turns = Turns::default();
        self.read(|read| query::ready(read, &system(of), self.now, &mut turns, max))
    }

    fn event(&self, sequence: u64) -> Event {
        let record = Record::decode(self.entries[sequence as usize].record.clone()).expect("a record");
        record.event.expect("an event")
    }

    /// The invariants, and the replay.
    #[track_caller]
    fn end(self) {
        let mut checker = Checker::new(None);
        let leaf = |entry: &Entry| axis_proto::tree::record_leaf(&entry.salt, &entry.record);
        let leaves: Vec<[u8; 32]> = self.entries.iter().map(leaf).collect();
        let commit = Commit {
            size: leaves.len() as u64,
            root: axis_proto::tree::root_of(&leaves),
            checkpoint: String::new(),
        };
        checker.batch(&journal::Batch { entries: self.entries.clone(), commit });
        let (_, violations) = checker.finish(self.now);
        assert_eq!(violations, Vec::new());

        let again = MemoryState::new();
        for entry in &self.entries {
            let changes = read_once(&again, |read| {
                let mut draft = Draft::new(read);
                crate::commit::replay(&mut draft, entry).expect("applies");
                draft.into_changes()
            });
            again.publish(changes, entry.sequence + 1);
        }
        assert_eq!(all(&again), all(&self.state), "a replay gives the same state");
    }
}

fn all(state: &MemoryState) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut map = BTreeMap::new();
    read_once(state, |read| {
        read.scan(&[], &[u8::MAX; 64], &mut |key, value| {
            map.insert(key.to_vec(), value.to_vec());
            std::ops::ControlFlow::Continue(())
        });
    });
    map
}

fn agency(code: &str) -> DirectoryEntry {
    let agency = Agency {
        code: code.into(),
        name: format!("Cơ quan {code}"),
        state: AgencyState::Active.into(),
        ..Agency::default()
    };
    DirectoryEntry { value: Some(Value::Agency(agency)) }
}

#[test]
fn sent_leased_acknowledged() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    assert_eq!(world.ready("byt", 10), vec![id]);
    assert!(world.lease(id));
    assert!(!world.lease(id), "exclusive");
    assert_eq!(world.ready("byt", 10), vec![]);
    let acknowledgement = world.acknowledgement(id);
    let first = world.ok(acknowledgement.clone());
    assert!(!first.duplicate);
    let again = world.ok(acknowledgement);
    assert_eq!((again.sequences, again.duplicate), (first.sequences, true));
    assert_eq!(world.state_of(id), DeliveryState::Acknowledged);
    let mailbox = world.read(|read| query::mailbox(read, &system("byt")));
    assert_eq!((mailbox.high, mailbox.floor, mailbox.waiting, mailbox.leased), (1, 1, 0, 0));
    world.end();
}

#[test]
fn the_same_again_is_a_duplicate_and_other_bytes_a_conflict() {
    let mut world = World::new();
    let envelope = world.envelope("G22", &["G18"]);
    let submission = world.submission("vpcp", envelope.clone());
    let first = world.ok(submission.clone());
    world.now += 40 * DAY_MS;
    let again = world.ok(submission);
    assert_eq!((again.sequence(), again.duplicate), (first.sequence(), true), "however late");
    let other = world.submission("vpcp", Envelope { priority: 3, ..envelope });
    assert_eq!(world.refused(other), Reason::EnvelopeConflict);
    world.tick(0);
    world.end();
}

#[test]
fn an_answer_needs_a_lease_first_but_not_a_current_one() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    let acknowledgement = world.acknowledgement(id);
    assert_eq!(world.refused(acknowledgement.clone()), Reason::NeverLeased);
    world.lease(id);
    world.tick(2 * MINUTE_MS);
    assert_eq!(world.state_of(id), DeliveryState::Waiting, "the lease lapsed");
    world.ok(acknowledgement);
    assert_eq!(world.state_of(id), DeliveryState::Acknowledged);
    world.end();
}

#[test]
fn each_record_of_a_delivery_counts_once() {
    let mut world = World::new();
    let (first, second) = (world.send(&["G18"]), world.send(&["G18"]));
    for id in [first, second] {
        world.lease(id);
    }
    let (acknowledgement, rejection) = (world.acknowledgement(first), world.rejection(second));
    world.ok(acknowledgement.clone());
    world.ok(acknowledgement);
    world.ok(rejection);
    let leased: u64 = world.counted.iter().map(|tally| tally.leased).sum();
    let settled: Vec<_> = world.counted.iter().flat_map(|tally| tally.settled.clone()).collect();
    assert_eq!(leased, 2);
    assert_eq!(settled, [(Settlement::Acknowledged, 1), (Settlement::Rejected, 1)]);
    world.end();
}

#[test]
fn an_answer_must_fit_its_delivery() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    world.lease(id);
    let Command::Acknowledge { system: by, acknowledgement, signed } = world.acknowledgement(id) else {
        unreachable!("it is one")
    };
    let mut with = |change: &dyn Fn(&mut Acknowledgement)| {
        let mut changed = acknowledgement.clone();
        change(&mut changed);
        let command =
            Command::Acknowledge { system: by.clone(), acknowledgement: changed, signed: signed.clone() };
        world.refused(command)
    };
    assert_eq!(with(&|ack| ack.envelope_digest = Bytes::from_static(&[1; 32])), Reason::DeliveryMismatch);
    assert_eq!(with(&|ack| ack.recipient = "G22".into()), Reason::DeliveryMismatch);
    assert_eq!(with(&|ack| ack.mailbox_sequence = 9), Reason::DeliveryMismatch);
    assert_eq!(with(&|ack| ack.delivery_id = "1-1".into()), Reason::DeliveryUnknown);
    assert_eq!(with(&|ack| ack.delivery_id = "nonsense".into()), Reason::DeliveryUnknown);
    let foreign = Command::Acknowledge { system: system("vpcp"), acknowledgement, signed };
    assert_eq!(world.refused(foreign), Reason::DeliveryUnknown);
    world.end();
}

#[test]
fn nack_needs_the_current_lease_and_comes_back_when_due() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    world.lease(id);
    let nack = world.nack(id, 30_000);
    world.ok(nack.clone());
    assert_eq!(world.refused(nack), Reason::LeaseLost);
    assert_eq!(world.ready("byt", 10), vec![]);
    assert!(!world.lease(id), "not due");
    assert_eq!(world.read(|read| query::next_due_ms(read, &system("byt"))), Some(world.now + 30_000));
    world.now += 30_000;
    assert_eq!(world.ready("byt", 10), vec![id]);
    assert!(world.lease(id));
    assert_eq!(world.delivery(id).leases, 2);
    world.end();
}

#[test]
fn extended_leases_lapse_later() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    world.lease(id);
    let extend = |attempt| Command::Extend {
        system: system("byt"),
        delivery: id,
        attempt,
        duration_ms: 10 * MINUTE_MS,
    };
    world.ok(extend(1));
    assert_eq!(world.refused(extend(2)), Reason::LeaseLost);
    world.tick(9 * MINUTE_MS);
    assert_eq!(world.state_of(id), DeliveryState::Leased);
    world.tick(2 * MINUTE_MS);
    assert_eq!(world.state_of(id), DeliveryState::Waiting);
    world.end();
}

#[test]
fn out_of_attempts_is_parked_then_requeued_then_returned() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    let exhaust = |world: &mut World| {
        while world.state_of(id) != DeliveryState::Parked {
            world.tick(limits::BACKOFF_MAX_MS);
            world.lease(id);
        }
    };
    exhaust(&mut world);
    assert_eq!(world.delivery(id).leases, limits::ATTEMPTS_MAX);
    assert_eq!(world.read(|read| query::parked(read, None, None, 10)).len(), 1);
    assert!(!world.lease(id));
    let requeue = Command::Requeue { delivery: id, operator: "op".into(), remark: "đã sửa".into() };
    world.ok(requeue.clone());
    assert_eq!(world.refused(requeue), Reason::NotParked);
    exhaust(&mut world);
    assert_eq!(world.delivery(id).leases, 2 * limits::ATTEMPTS_MAX);
    world.ok(Command::Return { delivery: id, operator: "op".into(), remark: "sai".into() });
    assert_eq!(world.state_of(id), DeliveryState::Returned);
    let late = world.acknowledgement(id);
    let sequence = world.ok(late.clone()).sequence().expect("recorded");
    assert!(matches!(world.event(sequence), Event::LateAccepted(_)));
    assert!(world.ok(late).duplicate, "recorded once");
    world.end();
}

#[test]
fn reject_is_final() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    world.lease(id);
    let rejection = world.rejection(id);
    world.ok(rejection.clone());
    assert!(world.ok(rejection.clone()).duplicate);
    let nack = world.nack(id, 0);
    assert_eq!(world.refused(nack), Reason::AlreadySettled);
    let acknowledgement = world.acknowledgement(id);
    let late = world.ok(acknowledgement).sequence().expect("recorded");
    assert!(
        matches!(world.event(late), Event::LateAccepted(event) if event.settlement() == Settlement::Rejected)
    );
    assert!(world.ok(rejection).duplicate, "still rejected");
    world.end();
}

#[test]
fn a_deadline_warns_then_expires_but_never_during_a_lease() {
    let mut world = World::new();
    let mut envelope = world.envelope("G22", &["G18", "H53"]);
    envelope.expires_unix_ms = world.now + DAY_MS;
    let first = world.send_envelope(envelope);
    let second = DeliveryId { recipient_index: 1, ..first };
    world.tick(DAY_MS - 2 * 60 * MINUTE_MS);
    let warned = world.entries.len() as u64 - 1;
    assert!(matches!(world.event(warned), Event::ExpiryWarned(event) if event.unsettled_count == 2));
    world.tick(2 * 60 * MINUTE_MS - 1_000);
    world.lease(first);
    world.tick(10_000);
    assert_eq!(world.state_of(first), DeliveryState::Leased, "its attempt goes on");
    assert_eq!(world.state_of(second), DeliveryState::Expired);
    world.tick(2 * MINUTE_MS);
    assert_eq!(world.state_of(first), DeliveryState::Expired);
    let gone = world.read(|read| query::gone(read, &system("tayninh"), 0, 10, 10));
    assert_eq!(gone, vec![(1, second, Settlement::Expired, world.delivery(second).since_sequence)]);
    assert_eq!(world.tick(DAY_MS), 0, "nothing is left to do");
    world.end();
}

#[test]
fn what_is_due_before_anybody_looks_warns_and_expires_at_once() {
    // the warning comes with the deadline, or long before it
    for life_ms in [5, DAY_MS] {
        let mut world = World::new();
        let mut envelope = world.envelope("G22", &["G18"]);
        envelope.expires_unix_ms = world.now + life_ms;
        let id = world.send_envelope(envelope);
        assert_eq!(world.tick(2 * DAY_MS), 2, "after {life_ms} ms");
        let last = world.entries.len() as u64 - 1;
        assert!(matches!(world.event(last - 1), Event::ExpiryWarned(_)));
        assert!(matches!(world.event(last), Event::Expired(_)));
        assert_eq!(world.state_of(id), DeliveryState::Expired);
        world.end();
    }
}

#[test]
fn what_was_settled_is_neither_warned_of_nor_expires() {
    for is_warned in [false, true] {
        let mut world = World::new();
        let mut envelope = world.envelope("G22", &["G18"]);
        envelope.expires_unix_ms = world.now + DAY_MS;
        let id = world.send_envelope(envelope);
        if is_warned {
            assert_eq!(world.tick(DAY_MS - MINUTE_MS), 1);
        }
        world.lease(id);
        let acknowledgement = world.acknowledgement(id);
        world.ok(acknowledgement);
        assert_eq!(world.tick(2 * DAY_MS), 0, "warned: {is_warned}");
        world.end();
    }
}

#[test]
fn nothing_expires_while_the_clock_is_not_trusted() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    let other = world.send(&["H53"]);
    world.lease(other);
    world.clock_trusted = false;
    world.tick(60 * DAY_MS);
    assert_eq!(world.state_of(id), DeliveryState::Waiting);
    assert_eq!(world.state_of(other), DeliveryState::Waiting, "leases lapse all the same");
    world.clock_trusted = true;
    world.tick(0);
    assert_eq!(world.state_of(id), DeliveryState::Expired);
    world.end();
}

#[test]
fn time_never_goes_back_in_records() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    world.now -= DAY_MS;
    world.lease(id);
    let submission = world.envelope("G22", &["H53"]);
    world.send_envelope(submission);
    world.now += DAY_MS;
    world.end();
}

#[test]
fn what_is_not_before_waits() {
    let mut world = World::new();
    let mut envelope = world.envelope("G22", &["G18"]);
    envelope.not_before_unix_ms = world.now + DAY_MS;
    let id = world.send_envelope(envelope);
    assert!(world.read(|read| query::delivery(read, &id)).is_none());
    world.tick(DAY_MS - 1);
    assert_eq!(world.ready("byt", 10), vec![]);
    world.tick(1);
    assert_eq!(world.ready("byt", 10), vec![id]);
    assert_eq!(world.tick(MINUTE_MS), 0);
    world.end();
}

#[test]
fn a_broadcast_becomes_visible_range_by_range() {
    let mut world = World::new();
    let codes: Vec<String> = (0..1_200).map(|number| format!("H53.X{number:04}")).collect();
    for part in codes.chunks(50) {
        let entries = part.iter().map(|code| {
            let mut entry = agency(code);
            if let Some(Value::Agency(agency)) = &mut entry.value {
                agency.system = "tayninh".into();
            }
            entry
        });
        world.ok(Command::ChangeDirectory {
            entries: entries.collect(),
            actor: "op".into(),
            remark: String::new(),
        });
    }
    let group =
        Group { group_id: "all".into(), name: "Tất cả".into(), everyone: true, ..Group::default() };
    let entries = vec![DirectoryEntry { value: Some(Value::Group(group)) }];
    world.ok(Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() });
    let mut envelope = world.envelope("G22", &[]);
    envelope.groups = vec!["all".into()];
    let first = world.send_envelope(envelope);
    let row =
        |world: &World| world.read(|read| query::envelope(read, first.envelope_sequence)).expect("a row");
    assert_eq!(
        (row(&world).recipient_count, row(&world).consigned_count),
        (1_203, 512),
        "all but the sender"
    );
    let urgent = world.send(&["H53"]);
    assert!(world.delivery(urgent).mailbox_sequence > 500, "not held up");
    world.tick(0);
    assert_eq!(row(&world).consigned_count, 1_203);
    let (page, next) = world.read(|read| query::track(read, first.envelope_sequence, 0, 1_000, None));
    assert_eq!((page.len(), next), (1_000, 1_000));
    let mine =
        world.read(|read| query::track(read, first.envelope_sequence, 0, 1_000, Some(&system("byt"))).0);
    assert_eq!(mine.len(), 1);
    assert!(world.read(|read| query::receives(read, &system("byt"), first.envelope_sequence)));
    assert!(!world.read(|read| query::receives(read, &system("vpcp"), first.envelope_sequence)));
    world.end();
}

#[test]
fn groups_name_their_members_and_who_may_send() {
    let mut world = World::new();
    let group = Group {
        group_id: "bo".into(),
        name: "Các bộ".into(),
        senders_allowed: vec!["G22".into()],
        ..Group::default()
    };
    let members = GroupMembers {
        group_id: "bo".into(),
        added: vec!["G18".into(), "G22".into(), "H53".into()],
        removed: Vec::new(),
    };
    let entries = [Value::Group(group), Value::GroupMembers(members)]
        .map(|value| DirectoryEntry { value: Some(value) })
        .to_vec();
    world.ok(Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() });
    let mut envelope = world.envelope("G22", &["G18"]);
    envelope.groups = vec!["bo".into()];
    let id = world.send_envelope(envelope);
    let count =
        world.read(|read| query::envelope(read, id.envelope_sequence)).expect("a row").recipient_count;
    assert_eq!(count, 2, "each once, and not the sender");
    let mut envelope = world.envelope("G18", &[]);
    envelope.groups = vec!["bo".into(), "none".into()];
    let submission = world.submission("byt", envelope);
    let Err(Error::Refused(refusal)) = world.decide(submission) else { panic!("not refused") };
    let reasons: Vec<Reason> = refusal.violations.iter().map(|violation| violation.reason).collect();
    assert_eq!(reasons, vec![Reason::RecipientNotAllowed, Reason::GroupUnknown]);
    world.end();
}

#[test]
fn every_bad_recipient_is_named_and_nothing_queued() {
    let mut world = World::new();
    let mut closed = agency("H01");
    let mut suspended = agency("H02");
    if let (Some(Value::Agency(closed)), Some(Value::Agency(suspended))) =
        (&mut closed.value, &mut suspended.value)
    {
        closed.state = AgencyState::Closed.into();
        closed.successors = vec!["H53".into()];
        suspended.state = AgencyState::Suspended.into();
        suspended.system = "byt".into();
    }
    let entries = vec![closed, suspended, agency("H03")];
    world.ok(Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() });
    let envelope = world.envelope("G22", &["G18", "H01", "H02", "H03", "H99"]);
    let submission = world.submission("vpcp", envelope);
    let Err(Error::Refused(refusal)) = world.decide(submission) else { panic!("not refused") };
    let named: Vec<(&str, Reason)> =
        refusal.violations.iter().map(|violation| (violation.field.as_str(), violation.reason)).collect();
    assert_eq!(
        named,
        vec![
            ("envelope.recipients[1].agency", Reason::RecipientClosed),
            ("envelope.recipients[2].agency", Reason::RecipientSuspended),
            ("envelope.recipients[3].agency", Reason::RecipientNotConnected),
            ("envelope.recipients[4].agency", Reason::RecipientUnknown),
        ]
    );
    assert!(refusal.violations[0].detail.contains("H53"), "{}", refusal.violations[0].detail);
    world.end();
}

#[test]
fn who_may_speak_is_decided_at_the_record() {
    let mut world = World::new();
    let envelope = world.envelope("G18", &["H53"]);
    let foreign = world.submission("vpcp", envelope);
    assert_eq!(world.refused(foreign), Reason::SenderNotServed);

    let envelope = world.envelope("G22", &["H53"]);
    let Command::Submit(mut submit) = world.submission("vpcp", envelope) else { unreachable!("it is one") };
    submit.signed.key_ids = vec![key_of("byt")];
    assert_eq!(world.refused(Command::Submit(submit)), Reason::KeyUnknown);

    let envelope = world.envelope("G22", &["H53"]);
    let submission = world.submission("vpcp", envelope);
    let revoke = Command::RevokeSigningKey {
        key_id: key_of("vpcp"),
        only_of: None,
        actor: "op".into(),
        remark: "lộ khóa".into(),
    };
    let (revoked, refused) = world.batch(|batch| (decide(batch, &revoke), decide(batch, &submission)));
    let revoked = revoked.expect("revoked").sequence().expect("a record");
    let Err(Error::Refused(refusal)) = refused else {
        panic!("the same batch decided it after the revocation")
    };
    assert_eq!(refusal.reason, Reason::KeyRevoked);
    let key_at = |sequence| world.read(|read| query::signing_key_at(read, &key_of("vpcp"), sequence));
    let (before, first) = key_at(revoked - 1).expect("it was there");
    assert!(before.revoked_unix_ms == 0 && first < revoked);
    assert!(key_at(first - 1).is_none());
    for later in [revoked, revoked + 1] {
        assert!(matches!(key_at(later), Some((key, at)) if key.revoked_unix_ms != 0 && at == revoked));
    }

    let envelope = world.envelope("G18", &["H53"]);
    let submission = world.submission("byt", envelope);
    let revoke = Command::RevokeCertificate {
        fingerprint: certificate_of("byt"),
        actor: "op".into(),
        remark: "mất máy".into(),
    };
    world.ok(revoke);
    assert_eq!(world.refused(submission), Reason::NotAuthenticated);
    world.end();
}

#[test]
fn what_a_batch_remembers_ends_with_the_directory_it_is_of() {
    for (taken, reason) in [
        (
            Command::RevokeSigningKey {
                key_id: key_of("vpcp"),
                only_of: None,
                actor: "op".into(),
                remark: "lộ khóa".into(),
            },
            Reason::KeyRevoked,
        ),
        (
            Command::RevokeCertificate {
                fingerprint: certificate_of("vpcp"),
                actor: "op".into(),
                remark: "mất máy".into(),
            },
            Reason::NotAuthenticated,
        ),
        (
            Command::SetSystemState {
                system: system("vpcp"),
                state: SystemState::Suspended,
                actor: "op".into(),
                remark: "tạm ngừng".into(),
            },
            Reason::Suspended,
        ),
    ] {
        let mut world = World::new();
        let submissions = [(); 3].map(|()| {
            let envelope = world.envelope("G22", &["H53"]);
            world.submission("vpcp", envelope)
        });
        let [first, second, third] = &submissions;
        let before = world.read(query::directory_version);
        let third = world.batch(|batch| {
            let first = decide(batch, first).expect("accepted").sequence();
            let second = decide(batch, second).expect("accepted").sequence();
            assert_eq!(first.map(|first| first + 1), second, "the first is remembered");
            decide(batch, &taken).expect("taken away");
            decide(batch, third)
        });
        let Err(Error::Refused(refusal)) = third else { panic!("accepted after {reason:?}") };
        assert_eq!(refusal.reason, reason);
        assert_eq!(world.read(query::directory_version), before + 1);
        let feed = world.read(|read| query::feed(read, &system("vpcp"), 0, 99));
        let numbers: Vec<u64> = feed.iter().map(|(number, _)| *number).collect();
        assert!((1..).zip(&numbers).all(|(expected, number)| expected == *number), "{numbers:?}");
        world.end();
    }
}

#[test]
fn keys_rotate_two_at_once_and_within_their_scope() {
    let mut world = World::new();
    let key = |name: &str, agencies: &[&str], until| SigningKey {
        key_id: bytes_of(key_of(name)),
        agencies: agencies.iter().map(|code| (*code).into()).collect(),
        valid_until_unix_ms: until,
        ..SigningKey::default()
    };
    let renew = |key| Command::Renew { system: system("tayninh"), certificate: None, signing_key: Some(key) };
    world.ok(renew(key("second", &["H53.01"], world.now + DAY_MS)));
    let third = renew(key("third", &[], 0));
    assert_eq!(world.refused(third.clone()), Reason::FieldInvalid, "two are valid");
    let send = |world: &mut World, from: &str, by_key: &str| {
        let envelope = world.envelope(from, &["G18"]);
        let Command::Submit(mut submit) = world.submission("tayninh", envelope) else {
            unreachable!("it is one")
        };
        submit.signed.key_ids = vec![key_of(by_key)];
        world.decide(Command::Submit(submit)).map(|_| ()).map_err(|error| match error {
            Error::Refused(refusal) => refusal.reason,
            Error::Fault(fault) => panic!("{}", fault.chain()),
        })
    };
    assert_eq!(send(&mut world, "H53.01", "second"), Ok(()));
    assert_eq!(send(&mut world, "H53", "second"), Err(Reason::KeyOutOfScope));
    assert_eq!(send(&mut world, "H53", "tayninh"), Ok(()));
    world.now += DAY_MS;
    assert_eq!(send(&mut world, "H53.01", "second"), Err(Reason::KeyExpired));
    world.ok(third);
    world.end();
}

#[test]
fn suspension_holds_what_waits_and_refuses_what_is_new() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    let set = |state| Command::SetSystemState {
        system: system("byt"),
        state,
        actor: "op".into(),
        remark: "kiểm tra".into(),
    };
    world.ok(set(SystemState::Suspended));
    let lease = Command::Lease { system: system("byt"), deliveries: vec![id], duration_ms: MINUTE_MS };
    assert_eq!(world.refused(lease.clone()), Reason::Suspended);
    let envelope = world.envelope("G22", &["G18"]);
    let submission = world.submission("vpcp", envelope);
    assert_eq!(world.refused(submission), Reason::RecipientsRefused);
    world.ok(set(SystemState::Active));
    assert_eq!(world.ok(lease).sequences.len(), 1, "it was held");
    world.end();
}

#[test]
fn created_too_long_ago_or_in_the_future_or_expired() {
    let mut world = World::new();
    let mut with = |change: &dyn Fn(&mut Envelope, u64)| {
        let mut envelope = world.envelope("G22", &["G18"]);
        change(&mut envelope, world.now);
        let submission = world.submission("vpcp", envelope);
        world.refused(submission)
    };
    assert_eq!(with(&|envelope, now| envelope.created_unix_ms = now - 31 * DAY_MS), Reason::Stale);
    assert_eq!(with(&|envelope, now| envelope.created_unix_ms = now + 6 * MINUTE_MS), Reason::Future);
    assert_eq!(with(&|envelope, now| envelope.expires_unix_ms = now), Reason::Expired);
    world.end();
}

#[test]
fn documents_must_be_uploaded_or_acknowledged_by_the_sender_itself() {
    let mut world = World::new();
    let sha256 = Digest::of(b"a large document");
    let with_document = |world: &mut World, from: &str, to: &str| {
        let mut envelope = world.envelope(from, &[to]);
        if let Some(Body::Document(body)) = &mut envelope.body {
            let document =
                Document { name: "a.pdf".into(), size: 99, sha256: bytes_of(sha256), ..Document::default() };
            body.documents.push(document);
        }
        envelope
    };
    let envelope = with_document(&mut world, "G22", "G18");
    let submission = world.submission("vpcp", envelope.clone());
    assert_eq!(world.refused(submission.clone()), Reason::DocumentMissing);
    world.ok(Command::Upload { system: system("byt"), sha256, size: 99 });
    assert_eq!(world.refused(submission.clone()), Reason::DocumentMissing, "another's upload is not ours");
    world.ok(Command::Upload { system: system("vpcp"), sha256, size: 99 });
    world.now += limits::UPLOAD_PINNED_MS;
    assert_eq!(world.refused(submission.clone()), Reason::DocumentMissing, "not pinned any more");
    world.ok(Command::Upload { system: system("vpcp"), sha256, size: 99 });
    let id = world.send_envelope(envelope);
    world.lease(id);
    let envelope = with_document(&mut world, "G18", "H53");
    let forward = world.submission("byt", envelope.clone());
    assert_eq!(world.refused(forward), Reason::DocumentMissing, "taken is not yet acknowledged");
    let acknowledgement = world.acknowledgement(id);
    world.ok(acknowledgement);
    world.send_envelope(envelope);
    world.end();
}

#[test]
fn lanes_are_weighted_and_senders_take_turns() {
    let mut world = World::new();
    let mut lane_of = BTreeMap::new();
    for number in 0..60 {
        let (from, priority) =
            if number % 3 == 0 { ("G18", Priority::Normal) } else { ("G22", Priority::Normal) };
        let mut envelope = world.envelope(from, &["H53"]);
        envelope.priority = priority.into();
        lane_of.insert(world.send_envelope(envelope), (from, 0));
    }
    for _ in 0..20 {
        let mut envelope = world.envelope("G22", &["H53"]);
        envelope.priority = Priority::Express.into();
        lane_of.insert(world.send_envelope(envelope), ("G22", 3));
    }
    let chosen = world.ready("tayninh", 18);
    assert_eq!(chosen.len(), 18);
    let express = chosen.iter().filter(|id| lane_of[id].1 == 3).count();
    assert_eq!(express, 16, "hỏa tốc goes first, and yet the others are not shut out");
    let normal: Vec<&str> =
        world.ready("tayninh", 80).iter().filter(|id| lane_of[id].1 == 0).map(|id| lane_of[id].0).collect();
    assert_eq!(normal.len(), 60);
    let first: Vec<&str> = normal[..40].to_vec();
    assert_eq!(first.iter().filter(|from| **from == "G18").count(), 20, "turn by turn: {first:?}");
    world.end();
}

#[test]
fn one_bad_delivery_blocks_no_other() {
    let mut world = World::new();
    let bad = world.send(&["G18"]);
    let others: Vec<DeliveryId> = (0..20).map(|_| world.send(&["G18"])).collect();
    for other in others {
        world.lease(bad);
        let nack = world.nack(bad, 1);
        if world.state_of(bad) == DeliveryState::Leased {
            world.ok(nack);
        }
        world.now += 1;
        assert!(world.lease(other));
        let acknowledgement = world.acknowledgement(other);
        world.ok(acknowledgement);
    }
    let mailbox = world.read(|read| query::mailbox(read, &system("byt")));
    assert_eq!((mailbox.floor, mailbox.high, mailbox.waiting), (0, 21, 1));
    world.end();
}

#[test]
fn tokens_enrol_once_and_lapse() {
    let mut world = World::new();
    let token = Digest::of(b"token");
    let enrol = |token, name: &str| Command::Enrol {
        token_sha256: token,
        certificate: Certificate {
            fingerprint: bytes_of(Digest::of(name.as_bytes())),
            ..Certificate::default()
        },
        signing_key: SigningKey { key_id: bytes_of(key_of(name)), ..SigningKey::default() },
    };
    assert_eq!(world.refused(enrol(token, "new")), Reason::TokenInvalid);
    let issue = Command::IssueToken { system: system("byt"), token_sha256: token, operator: "op".into() };
    world.ok(issue.clone());
    assert_eq!(world.refused(enrol(token, "byt")), Reason::AlreadyExists, "a key is registered once");
    world.ok(enrol(token, "new"));
    assert_eq!(world.refused(enrol(token, "newer")), Reason::TokenInvalid, "used");
    world.ok(issue);
    world.now += limits::TOKEN_MS;
    assert_eq!(world.refused(enrol(token, "newer")), Reason::TokenInvalid, "lapsed");
    world.end();
}

#[test]
fn aliases_find_an_agency_and_leave_with_it() {
    let mut world = World::new();
    let with_aliases = |aliases: &[&str]| {
        let mut entry = agency("H53");
        if let Some(Value::Agency(agency)) = &mut entry.value {
            agency.aliases = aliases.iter().map(|alias| (*alias).into()).collect();
            agency.system = "tayninh".into();
        }
        Command::ChangeDirectory { entries: vec![entry], actor: "op".into(), remark: String::new() }
    };
    world.ok(with_aliases(&["000.00.00.H53"]));
    let found = world.read(|read| query::agency_or_alias(read, "000.00.00.H53")).map(|agency| agency.code);
    assert_eq!(found.as_deref(), Some("H53"));
    assert_eq!(world.refused(with_aliases(&["G22"])), Reason::FieldInvalid, "another's code");
    world.ok(with_aliases(&[]));
    assert!(world.read(|read| query::agency_or_alias(read, "000.00.00.H53")).is_none());
    world.end();
}

#[test]
fn the_feed_has_no_gaps() {
    let mut world = World::new();
    let id = world.send(&["G18", "H53"]);
    world.lease(id);
    let acknowledgement = world.acknowledgement(id);
    world.ok(acknowledgement);
    let feed = world.read(|read| query::feed(read, &system("vpcp"), 0, 100));
    let kinds: Vec<&str> = feed
        .iter()
        .map(|(_, sequence)| match world.event(*sequence) {
            Event::Accepted(_) => "accepted",
            Event::Consigned(_) => "consigned",
            Event::Leased(_) => "leased",
            Event::Acknowledged(_) => "acknowledged",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["accepted", "leased", "acknowledged"]);
    assert_eq!(world.read(|read| query::feed(read, &system("vpcp"), 1, 1)), vec![feed[1]]);
    world.end();
}

#[test]
fn an_envelope_is_accepted_and_seen_in_one_record_if_few_are_to_see_it_now() {
    let mut world = World::new();
    let id = world.send(&["G18", "H53"]);
    let Event::Accepted(event) = world.event(id.envelope_sequence) else { panic!("another") };
    assert!(event.recipient_root.is_empty() && event.consignment_root.len() == 32, "{event:?}");
    let delivery = world.delivery(id);
    assert_eq!((delivery.consigned_sequence, delivery.mailbox_sequence), (id.envelope_sequence, 1));

    // not yet, so in two
    let mut later = world.envelope("G22", &["G18"]);
    later.not_before_unix_ms = world.now + MINUTE_MS;
    let later = world.send_envelope(later);
    let Event::Accepted(event) = world.event(later.envelope_sequence) else { panic!("another") };
    assert!(event.recipient_root.len() == 32 && event.consignment_root.is_empty(), "{event:?}");
    world.tick(MINUTE_MS);
    let seen = world.delivery(later).consigned_sequence;
    assert!(matches!(world.event(seen), Event::Consigned(_)), "{seen}");
    world.end();
}

#[test]
fn the_checker_knows_which_list_an_accepted_envelope_binds() {
    let accepted = |change: fn(&mut Accepted)| {
        let mut world = World::new();
        let id = world.send(&["G18"]);
        let entry = &mut world.entries[id.envelope_sequence as usize];
        let mut record = Record::decode(entry.record.clone()).expect("a record");
        if let Some(Event::Accepted(event)) = &mut record.event {
            change(event);
        }
        entry.record = record.encode_to_vec().into();
        world.violations().join("; ")
    };
    assert_eq!(accepted(|_| ()), "");
    let both = accepted(|event| event.recipient_root = event.consignment_root.clone());
    assert!(both.contains("not the one it binds"), "{both}");
    let other = accepted(|event| event.recipient_root = std::mem::take(&mut event.consignment_root));
    assert!(other.contains("not the one it binds"), "{other}");
    let another = accepted(|event| event.consignment_root = vec![7; 32].into());
    assert!(another.contains("is not that of the list"), "{another}");
    let more = accepted(|event| event.recipient_count = 2);
    assert!(more.contains("stated length") && more.contains("does not follow"), "{more}");
}

#[test]
fn a_clock_that_jumped_and_was_corrected_expires_nothing_and_holds_nothing_up() {
    let mut world = World::new();
    let waiting = world.send(&["G18"]);
    let leased = world.send(&["H53"]);
    world.lease(leased);
    world.clock_trusted = false;
    world.now += 40 * DAY_MS;
    assert!(world.tick(0) > 0, "leases lapse by any clock, and their records carry its time");
    world.now -= 40 * DAY_MS;
    world.clock_trusted = true;
    world.tick(MINUTE_MS);
    assert_eq!(world.state_of(waiting), DeliveryState::Waiting);
    let fresh = world.send(&["G18"]);
    world.lease(fresh);
    world.tick(2 * MINUTE_MS);
    assert_eq!(world.state_of(fresh), DeliveryState::Waiting, "its lease lapses in a minute, not in 40 days");
    world.tick(limits::BACKOFF_MAX_MS);
    assert!(world.lease(fresh), "and it comes again soon");
    world.end();
}

#[test]
fn a_deadline_ends_what_can_be_held() {
    let mut world = World::new();
    let mut envelope = world.envelope("G22", &["G18"]);
    envelope.expires_unix_ms = world.now + 10 * MINUTE_MS;
    let id = world.send_envelope(envelope);
    let extend =
        |attempt, duration_ms| Command::Extend { system: system("byt"), delivery: id, attempt, duration_ms };
    world.lease(id);
    world.ok(extend(1, 30 * MINUTE_MS));
    world.tick(15 * MINUTE_MS);
    assert_eq!(world.state_of(id), DeliveryState::Leased, "its attempt goes on");
    assert_eq!(world.refused(extend(1, 30 * MINUTE_MS)), Reason::Expired, "but no further");
    world.tick(16 * MINUTE_MS);
    assert_eq!(world.state_of(id), DeliveryState::Expired);
    world.end();
}

#[test]
fn expired_envelopes_on_lease_hold_up_no_others() {
    let mut world = World::new();
    let mut held = Vec::new();
    for _ in 0..limits::TICK_RECORDS_MAX + 1 {
        let mut envelope = world.envelope("G22", &["G18"]);
        envelope.expires_unix_ms = world.now + DAY_MS;
        held.push(world.send_envelope(envelope));
    }
    let mut envelope = world.envelope("G22", &["H53"]);
    envelope.expires_unix_ms = world.now + DAY_MS + 1;
    let other = world.send_envelope(envelope);
    world.tick(DAY_MS - 1);
    for id in &held {
        world.lease(*id);
    }
    world.tick(2);
    assert_eq!(world.state_of(held[0]), DeliveryState::Leased);
    assert_eq!(world.state_of(other), DeliveryState::Expired);
    world.tick(2 * MINUTE_MS);
    assert!(held.iter().all(|id| world.state_of(*id) == DeliveryState::Expired));
    world.end();
}
