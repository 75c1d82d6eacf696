//! How things leave: situations with retention and purges.

use axis_proto::record::v1::{
    CargoKind, Erased, ErasureCause, FeedTrimmed, Forgotten, ForgottenRange, PurgeConfirmed,
};

use super::*;
use crate::machine::{erasable, lapsed_grants, purges_under_way};

const CARGO: u64 = limits::CARGO_KEPT_MS;
const SUMMARY: u64 = limits::SUMMARY_KEPT_MS;

impl World {
    fn settle(&mut self, id: DeliveryId) {
        assert!(self.lease(id));
        let acknowledgement = self.acknowledgement(id);
        self.ok(acknowledgement);
    }

    fn row(&self, id: DeliveryId) -> Option<query::EnvelopeRow> {
        self.read(|read| query::envelope(read, id.envelope_sequence))
    }

    /// Takes from the entries what may be gone, as the journal does; returns
    /// how many pieces.
    fn erase(&mut self) -> usize {
        let mut erased = 0;
        for entry in &mut self.entries {
            let record = Record::decode(entry.record.clone()).expect("a record");
            for place in read_once(&self.state, |read| erasable(read, &record)) {
                entry.cargo[place] = Bytes::new();
                erased += 1;
            }
        }
        erased
    }

    fn purge(&mut self, id: DeliveryId) {
        let envelope_sequence = id.envelope_sequence;
        self.ok(Command::RequestPurge { envelope_sequence, operator: "an".into(), remark: "lộ".into() });
        self.ok(Command::ConfirmPurge { envelope_sequence, operator: "bình".into() });
        for _ in 0..10 {
            self.tick(0);
            self.ok(Command::ProceedPurge { envelope_sequence });
            if self.row(id).is_some_and(|row| row.is_erased()) {
                return;
            }
        }
        panic!("the purge has no end");
    }

    /// What the checker says of the entries with one more event.
    pub(super) fn violations_with(&self, event: Event) -> Vec<String> {
        let sequence = self.entries.len() as u64;
        let record = Record { sequence, recorded_unix_ms: self.now, event: Some(event), ..Record::default() };
        let record = Bytes::from(record.encode_to_vec());
        let mut entries = self.entries.clone();
        entries.push(Entry { sequence, salt: [0; 16], record, cargo: Vec::new() });
        violations(&entries)
    }

    pub(super) fn violations(&self) -> Vec<String> {
        violations(&self.entries)
    }
}

fn violations(entries: &[Entry]) -> Vec<String> {
    let mut checker = Checker::new(None);
    let leaf = |entry: &Entry| axis_proto::tree::record_leaf(&entry.salt, &entry.record);
    let leaves: Vec<[u8; 32]> = entries.iter().map(leaf).collect();
    let root = axis_proto::tree::root_of(&leaves);
    let commit = Commit { size: leaves.len() as u64, root, checkpoint: String::new() };
    checker.batch(&journal::Batch { entries: entries.to_vec(), commit });
    checker.finish(0).1.into_iter().map(|violation| violation.what).collect()
}

fn digest_of(world: &World, id: DeliveryId) -> Bytes {
    Bytes::from(world.row(id).expect("a row").envelope_digest)
}

#[test]
fn one_person_is_not_two_by_an_account() {
    for (asks, agrees, are_two) in [
        ("local:an", "local:bình", true),
        ("local:an", "local:an", false),
        ("local:an", "account:axis", false),
        ("account:axis", "local:an", false),
        ("account:axis", "account:axis", false),
        ("account:axis", "account:root", true),
    ] {
        let mut world = World::new();
        let sequence = world.send(&["G18"]).envelope_sequence;
        let [asks, operator] = [asks, agrees].map(str::to_owned);
        let remark = "lộ bí mật".to_owned();
        world.ok(Command::RequestPurge { envelope_sequence: sequence, operator: asks, remark });
        let agree = Command::ConfirmPurge { envelope_sequence: sequence, operator: operator.clone() };
        if are_two {
            world.ok(agree);
        } else {
            assert_eq!(world.refused(agree), Reason::SecondOperator);
            let confirmed = Event::PurgeConfirmed(PurgeConfirmed {
                envelope_sequence: sequence,
                envelope_digest: digest_of(
                    &world,
                    DeliveryId { envelope_sequence: sequence, recipient_index: 0 },
                ),
                requested_sequence: world.entries.len() as u64 - 1,
                operator,
            });
            let found = world.violations_with(confirmed);
            assert!(found.iter().any(|what| what.contains("cannot be agreed to")), "{found:?}");
        }
        world.end();
    }
}

#[test]
fn settled_then_erased_then_forgotten() {
    let mut world = World::new();
    let envelope = world.envelope("G22", &["G18", "H53"]);
    let submission = world.submission("vpcp", envelope.clone());
    let id = world.send_envelope(envelope);
    let other = DeliveryId { recipient_index: 1, ..id };
    world.settle(id);
    world.tick(DAY_MS);
    world.settle(other);
    let waits = world.send(&["G18"]);
    world.tick(CARGO - 1);
    assert!(!world.row(id).expect("a row").is_erased(), "a day after the first is not after the last");
    assert_eq!(world.erase(), 0);
    assert_eq!(world.tick(1), 1);
    let row = world.row(id).expect("a row");
    assert_eq!((row.erased_unix_ms, row.erasure_cause()), (world.now, ErasureCause::Retention));
    assert_eq!(world.erase(), 3, "the envelope and two acknowledgements");
    let again = world.ok(submission.clone());
    assert_eq!((again.sequence(), again.duplicate), (Some(id.envelope_sequence), true));
    let acknowledgement = world.acknowledgement(id);
    assert!(world.ok(acknowledgement.clone()).duplicate, "of the same record");
    assert_eq!(world.row(waits).map(|row| row.is_settled()), Some(true), "expired meanwhile");

    let wanted = world.row(id).and_then(|row| row.forget_unix_ms()).expect("a time");
    world.now = wanted - 1;
    world.tick(0);
    assert!(world.row(id).is_some());
    world.tick(1);
    assert!(world.row(id).is_none());
    assert!(world.read(|read| query::delivery(read, &id)).is_none());
    assert_eq!(world.refused(submission), Reason::Stale, "nothing comes twice");
    assert_eq!(world.refused(acknowledgement), Reason::DeliveryUnknown);
    let mailbox = world.read(|read| query::mailbox(read, &system("byt")));
    assert_eq!((mailbox.forgotten_to, mailbox.floor), (1, 2));
    assert_eq!(world.read(|read| query::gone(read, &system("byt"), 0, 2, 9)).len(), 1);
    world.end();
}

#[test]
fn what_is_not_settled_is_never_touched() {
    let mut world = World::new();
    let mut envelope = world.envelope("G22", &["G18", "H53"]);
    envelope.expires_unix_ms = world.now + 366 * DAY_MS;
    let id = world.send_envelope(envelope);
    world.settle(id);
    let other = DeliveryId { recipient_index: 1, ..id };
    world.tick(365 * DAY_MS);
    assert_eq!(world.state_of(other), DeliveryState::Waiting);
    assert_eq!(world.erase(), 0);
    assert_eq!(world.read(|read| query::gone(read, &system("byt"), 0, 1, 9)).len(), 1);
    world.settle(other);
    world.end();
}

#[test]
fn nothing_leaves_while_the_clock_is_not_trusted() {
    let mut world = World::new();
    let id = world.send(&["G18"]);
    world.settle(id);
    world.clock_trusted = false;
    assert_eq!(world.tick(CARGO), 0);
    world.clock_trusted = true;
    assert_eq!(world.tick(0), 1);
    world.end();
}

#[test]
fn a_number_that_is_forgotten_above_the_floor_leaves_with_it() {
    let mut world = World::new();
    let mut envelope = world.envelope("G22", &["G18"]);
    envelope.expires_unix_ms = world.now + 366 * DAY_MS;
    let first = world.send_envelope(envelope);
    let envelope = world.envelope("G22", &["G18"]);
    let Command::Submit(mut second) = world.submission("vpcp", envelope) else { unreachable!("it is one") };
    second.kept = Kept { cargo_ms: DAY_MS, summary_ms: 61 * DAY_MS };
    let sequence = world.ok(Command::Submit(second)).sequence().expect("recorded");
    let second = DeliveryId { envelope_sequence: sequence, recipient_index: 0 };
    world.settle(second);
    world.tick(61 * DAY_MS);
    assert!(world.row(second).is_none());
    let mailbox = |world: &World| world.read(|read| query::mailbox(read, &system("byt")));
    assert_eq!((mailbox(&world).floor, mailbox(&world).forgotten_to), (0, 0));
    assert_eq!(world.read(|read| query::gone(read, &system("byt"), 0, 2, 9)).len(), 1, "still told");
    world.settle(first);
    assert_eq!((mailbox(&world).floor, mailbox(&world).forgotten_to), (2, 2));
    let gone = world.read(|read| query::gone(read, &system("byt"), 0, 2, 9));
    assert_eq!(gone.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [1]);
    world.end();
}

#[test]
fn a_broadcast_is_forgotten_range_by_range() {
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
        let entries = entries.collect();
        world.ok(Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() });
    }
    let envelope = world.envelope("G22", &codes.iter().map(String::as_str).collect::<Vec<_>>());
    let id = world.send_envelope(envelope);
    world.tick(31 * DAY_MS);
    assert_eq!(world.row(id).map(|row| row.is_settled()), Some(true), "expired for all");
    world.tick(CARGO);
    let size = world.entries.len();
    assert_eq!(world.tick(SUMMARY - CARGO), 3, "1 200 deliveries, 512 a record");
    let ranges = |sequence: usize| match world.event(sequence as u64) {
        Event::Forgotten(Forgotten { ranges }) => {
            ranges.iter().map(|range| (range.first_recipient_index, range.recipient_count)).collect()
        }
        _ => Vec::new(),
    };
    assert_eq!(ranges(size), [(0, 512)]);
    assert_eq!(ranges(size + 2), [(1_024, 176)]);
    let left = all(&world.state);
    let of_deliveries = left.keys().filter(|key| b"deinrxwqpb".contains(&key[0])).count();
    assert_eq!(of_deliveries, 0, "feeds and counters are what is left");
    world.end();
}

#[test]
fn documents_are_collected_when_nothing_needs_them() {
    let mut world = World::new();
    let sha256 = Digest::of(b"a large document");
    let collect =
        || Command::CollectDocuments { documents: vec![sha256, Digest::of(b"?")], purged_envelope: None };
    let with_document = |world: &mut World, from: &str, to: &str| {
        let mut envelope = world.envelope(from, &[to]);
        if let Some(Body::Document(body)) = &mut envelope.body {
            let document =
                Document { name: "a.pdf".into(), size: 99, sha256: bytes_of(sha256), ..Document::default() };
            body.documents.push(document);
        }
        envelope
    };
    world.ok(Command::Upload { system: system("vpcp"), sha256, size: 99 });
    let collected = |world: &mut World| {
        let outcome = world.ok(collect());
        let event = world.event(outcome.sequence().expect("the unknown one goes"));
        let Event::DocumentsCollected(event) = event else { panic!("another record") };
        event.sha256.iter().any(|found| found[..] == sha256.as_bytes()[..])
    };
    assert!(!collected(&mut world), "an upload holds it");
    let envelope = with_document(&mut world, "G22", "G18");
    let id = world.send_envelope(envelope);
    world.tick(limits::UPLOAD_PINNED_MS);
    let (lapsed, next) = world.read(|read| lapsed_grants(read, &[], world.now, 10));
    assert_eq!((lapsed.clone(), next), (vec![(system("vpcp"), sha256)], Vec::new()));
    world.ok(Command::LapseGrants { system: system("vpcp"), documents: vec![sha256] });
    assert!(world.ok(Command::LapseGrants { system: system("vpcp"), documents: vec![sha256] }).duplicate);
    assert!(!collected(&mut world), "an envelope names it");
    world.settle(id);
    let envelope = with_document(&mut world, "G18", "H53");
    let forwarded = world.send_envelope(envelope);
    world.tick(CARGO - DAY_MS);
    world.settle_expired(forwarded);
    world.tick(DAY_MS);
    assert!(world.row(id).is_some_and(|row| row.is_erased()));
    assert!(!collected(&mut world), "the other envelope names it still");
    world.tick(CARGO);
    assert!(world.row(forwarded).is_some_and(|row| row.is_erased()));
    assert!(collected(&mut world));
    let envelope = with_document(&mut world, "G18", "H53");
    let late = world.submission("byt", envelope);
    assert_eq!(world.refused(late), Reason::DocumentMissing);
    world.end();
}

impl World {
    /// Nobody took it until its deadline.
    fn settle_expired(&self, id: DeliveryId) {
        assert_eq!(self.state_of(id), DeliveryState::Expired);
    }
}

#[test]
fn two_operators_purge() {
    let mut world = World::new();
    let envelope = world.envelope("G22", &["G18", "H53", "H53.01"]);
    let submission = world.submission("vpcp", envelope.clone());
    let id = world.send_envelope(envelope);
    let envelope_sequence = id.envelope_sequence;
    let leased = DeliveryId { recipient_index: 1, ..id };
    world.settle(id);
    world.lease(leased);
    let request = |operator: &str| Command::RequestPurge {
        envelope_sequence,
        operator: operator.into(),
        remark: "lộ bí mật".into(),
    };
    let confirm = |operator: &str| Command::ConfirmPurge { envelope_sequence, operator: operator.into() };
    assert_eq!(world.refused(confirm("bình")), Reason::PurgeNotRequested);
    world.ok(request("an"));
    assert!(world.ok(request("an")).duplicate);
    assert_eq!(world.refused(request("bình")), Reason::AlreadyExists);
    assert_eq!(world.refused(confirm("an")), Reason::SecondOperator);
    world.now += limits::PURGE_REQUEST_MS;
    assert_eq!(world.refused(confirm("bình")), Reason::PurgeNotRequested, "lapsed");
    world.tick(0);
    let now = world.now;
    world.now -= limits::PURGE_REQUEST_MS;
    assert_eq!(world.refused(confirm("bình")), Reason::PurgeNotRequested, "lapsed, whatever the clock says");
    world.now = now;
    world.tick(0);
    world.lease(leased);
    world.ok(request("an"));
    assert!(world.ok(Command::ProceedPurge { envelope_sequence }).sequences.is_empty(), "not agreed");
    world.ok(confirm("bình"));
    assert!(world.ok(confirm("bình")).duplicate);
    assert_eq!(world.read(|read| purges_under_way(read, u64::MAX)), [envelope_sequence]);
    assert!(!world.lease(DeliveryId { recipient_index: 2, ..id }), "not handed out any more");
    let outcome = world.ok(Command::ProceedPurge { envelope_sequence });
    assert_eq!(outcome.sequences.len(), 3);
    let Event::Erased(erased) = world.event(outcome.sequences[2]) else { panic!("another record") };
    assert_eq!((&*erased.requested_by, &*erased.confirmed_by), ("an", "bình"));
    assert_eq!(erased.cause(), ErasureCause::Purged);
    assert_eq!(world.state_of(leased), DeliveryState::Returned);
    assert_eq!(world.read(|read| purges_under_way(read, u64::MAX)), Vec::<u64>::new());
    assert_eq!(world.read(|read| purges_under_way(read, world.now)), [envelope_sequence], "after a crash");
    assert!(world.ok(Command::ProceedPurge { envelope_sequence }).duplicate);
    assert_eq!(world.refused(request("an")), Reason::Erased);
    assert!(world.ok(submission).duplicate);
    let late = world.acknowledgement(leased);
    world.ok(late);
    assert_eq!(world.erase(), 3, "the envelope and two acknowledgements, one of them late");
    world.tick(CARGO + SUMMARY);
    assert!(world.row(id).is_none());
    world.end();
}

#[test]
fn a_purge_ends_what_is_not_visible_yet() {
    let mut world = World::new();
    let mut envelope = world.envelope("G22", &["G18"]);
    envelope.not_before_unix_ms = world.now + 3 * DAY_MS;
    let id = world.send_envelope(envelope);
    world.purge(id);
    assert_eq!(world.state_of(id), DeliveryState::Returned);
    assert_eq!(world.ready("byt", 9), vec![]);
    assert_eq!(world.read(|read| query::gone(read, &system("byt"), 0, 1, 9)).len(), 1);
    assert_eq!(world.tick(4 * DAY_MS), 0);
    world.end();
}

#[test]
fn a_purge_takes_documents_that_uploads_hold_but_not_those_that_others_name() {
    let mut world = World::new();
    let (own, shared) = (Digest::of(b"own"), Digest::of(b"shared"));
    let mut ids = Vec::new();
    for documents in [&[own, shared][..], &[shared]] {
        let mut envelope = world.envelope("G22", &["G18"]);
        for sha256 in documents {
            world.ok(Command::Upload { system: system("vpcp"), sha256: *sha256, size: 99 });
            if let Some(Body::Document(body)) = &mut envelope.body {
                let document = Document { size: 99, sha256: bytes_of(sha256), ..Document::default() };
                body.documents.push(document);
            }
        }
        ids.push(world.send_envelope(envelope));
    }
    let documents = vec![own, shared];
    let purged_envelope = Some(ids[0].envelope_sequence);
    let collect = Command::CollectDocuments { documents, purged_envelope };
    assert_eq!(world.refused(collect.clone()), Reason::PurgeNotRequested);
    world.purge(ids[0]);
    let outcome = world.ok(collect);
    let Event::DocumentsCollected(event) = world.event(outcome.sequences[0]) else { panic!("another") };
    assert_eq!(event.sha256, [bytes_of(own)]);
    assert!(world.read(|read| query::upload(read, &system("vpcp"), &own)).is_none());
    assert!(world.read(|read| query::is_named(read, &shared)));
    world.end();
}

#[test]
fn a_feed_is_trimmed_from_its_beginning() {
    let mut world = World::new();
    for _ in 0..3 {
        world.send(&["G18"]);
        world.now += DAY_MS;
    }
    let feed = |world: &World| world.read(|read| query::feed(read, &system("vpcp"), 0, 99));
    let before = feed(&world).len();
    let trim = |older_than_unix_ms| Command::TrimFeed { system: system("vpcp"), older_than_unix_ms };
    assert_eq!(world.refused(trim(world.now)), Reason::FieldInvalid);
    world.now += limits::FEED_KEPT_MIN_MS;
    let older = START + 1;
    let outcome = world.ok(trim(older));
    let Event::FeedTrimmed(event) = world.event(outcome.sequences[0]) else { panic!("another") };
    assert_eq!(feed(&world).first().map(|(number, _)| *number), Some(event.up_to + 1));
    assert!(feed(&world).len() < before);
    assert!(world.ok(trim(older)).duplicate);
    world.tick(0);
    world.end();
}

#[test]
fn the_checker_knows_what_may_leave() {
    let erased = |world: &World, id: DeliveryId, cause: ErasureCause| {
        Event::Erased(Erased {
            envelope_sequence: id.envelope_sequence,
            envelope_digest: digest_of(world, id),
            cause: cause.into(),
            ..Erased::default()
        })
    };
    let settled = || {
        let mut world = World::new();
        let id = world.send(&["G18"]);
        world.settle(id);
        (world, id)
    };
    let (mut world, id) = settled();
    world.now += CARGO - 1;
    let event = erased(&world, id, ErasureCause::Retention);
    assert_eq!(world.violations_with(event), ["erased before its time"]);

    let (mut world, _) = settled();
    let open = world.send(&["G18"]);
    world.now += CARGO;
    let event = erased(&world, open, ErasureCause::Retention);
    let found = world.violations_with(event);
    assert_eq!(found[0], "erased before every recipient was settled");

    let (world, id) = settled();
    let event = erased(&world, id, ErasureCause::Purged);
    assert_eq!(world.violations_with(event), ["purged without two operators"]);

    let (mut world, id) = settled();
    let sequence = id.envelope_sequence as usize;
    world.entries[sequence].cargo[0] = Bytes::new();
    assert_eq!(world.violations(), ["cargo is missing of an envelope that was not erased"]);
    let list = world.event(id.envelope_sequence);
    assert!(matches!(list, Event::Accepted(_)));

    let (mut world, id) = settled();
    world.tick(CARGO);
    let record = Record::decode(world.entries[id.envelope_sequence as usize].record.clone()).expect("one");
    let place = record.cargo.iter().position(|cargo| cargo.kind() == CargoKind::ConsignmentList);
    world.entries[id.envelope_sequence as usize].cargo[place.expect("a list")] = Bytes::new();
    assert!(!world.violations().is_empty(), "a list is never erased");

    let (mut world, id) = settled();
    world.tick(CARGO);
    world.now += SUMMARY - CARGO - 1;
    let range = ForgottenRange { recipient_count: 1, ..ForgottenRange::default() };
    let ranges = vec![ForgottenRange { envelope_sequence: id.envelope_sequence, ..range }];
    let found = world.violations_with(Event::Forgotten(Forgotten { ranges }));
    assert!(found[0].contains("before its time"), "{found:?}");

    let (world, _) = settled();
    let trimmed = FeedTrimmed { system: "vpcp".into(), up_to: 1, older_than_unix_ms: world.now };
    let found = world.violations_with(Event::FeedTrimmed(trimmed));
    assert!(found[0].contains("before its time"), "{found:?}");

    let mut world = World::new();
    let sha256 = Digest::of(b"held");
    world.ok(Command::Upload { system: system("vpcp"), sha256, size: 9 });
    let event = axis_proto::record::v1::DocumentsCollected {
        sha256: vec![bytes_of(sha256)],
        purged_envelope_sequence: 0,
    };
    let found = world.violations_with(Event::DocumentsCollected(event));
    assert!(found[0].contains("vpcp holds"), "{found:?}");
}
