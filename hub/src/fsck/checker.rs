//! Every invariant of the journal, looked at one batch after the other. It
//! keeps a small model of its own and shares nothing with the machine, so
//! that the two cannot be wrong together.

use std::collections::{BTreeMap, VecDeque};

use axis_proto::{
    id::Digest,
    note::CheckpointVerifier,
    record::v1::{
        CargoKind, Consigned, ConsignmentLeaf, Delivery, DirectoryChanged, ErasureCause, LeafList, LogOpened,
        RecipientLeaf, Record, Settlement, SigningKey, directory_entry::Value, record::Event,
    },
    signed, tree,
};
use bytes::Bytes;
use prost::Message;

use self::leaving::in_vault;
use crate::{journal::Batch, limits};

mod leaving;
mod moves;

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// The record where it was noticed; `None` if it concerns the whole.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Batches.
    pub batches: u64,
    /// Records.
    pub records: u64,
    /// Envelopes that were accepted.
    pub envelopes: u64,
    /// Deliveries that became visible.
    pub deliveries: u64,
    /// Deliveries that are settled.
    pub settled: u64,
}

/// How a delivery stands in the checker's own model.
#[derive(Debug, Clone, Default)]
struct Course {
    agency: String,
    system: String,
    mailbox_sequence: u64,
    attempt: u32,
    /// How many of them were by systems that it has left.
    attempts_elsewhere: u32,
    leased: bool,
    parked: bool,
    settlement: Option<Settlement>,
    late: bool,
}

#[derive(Debug, Clone)]
struct Envelope {
    digest: Vec<u8>,
    expires_unix_ms: u64,
    not_before_unix_ms: u64,
    recipients: Vec<RecipientLeaf>,
    recipient_count: u32,
    consigned: u32,
    settled: u32,
    created_unix_ms: u64,
    cargo_kept_ms: u64,
    summary_kept_ms: u64,
    settled_unix_ms: u64,
    erased: Option<ErasureCause>,
    forgotten: u32,
    /// Digests of its documents in the vault.
    documents: Vec<Bytes>,
    /// The first record of its that has lost cargo.
    bare: Option<u64>,
    purge: Option<Purge>,
    /// Sender and the sender's id.
    id: (String, Vec<u8>),
}

/// A purge in the checker's own model.
#[derive(Debug, Clone)]
struct Purge {
    requested_sequence: u64,
    requested_by: String,
    lapses_unix_ms: u64,
    confirmed_by: String,
}

/// A mailbox: the last number, and how many have not ended.
#[derive(Debug, Clone, Default)]
struct Mailbox {
    high: u64,
    unsettled: u64,
}

/// A feed: the last number, and when each that can be read was recorded.
#[derive(Debug, Clone, Default)]
struct Feed {
    high: u64,
    kept: VecDeque<u64>,
}

/// Checks batches in order.
pub struct Checker {
    /// Of the journal's logs, the oldest first; empty if signatures, of the
    /// log and of agencies, are not looked at.
    verifiers: Vec<CheckpointVerifier>,
    /// Which of the logs it is in.
    log: usize,
    /// First sequence of the batch that is looked at, and the root before it.
    batch_begins: (u64, [u8; 32]),
    /// Roots of complete subtrees, the largest first: the tree's right edge.
    edge: Vec<(u32, [u8; 32])>,
    size: u64,
    last_ms: u64,
    /// The last stamp before the batch that is looked at. A later one is what
    /// the clock said; the same may be what it had said before it went back.
    before_ms: u64,
    directory_version: u64,
    /// Keys that sign, by their id, as they are now.
    keys: BTreeMap<Bytes, SigningKey>,
    feeds: BTreeMap<String, Feed>,
    mailboxes: BTreeMap<String, Mailbox>,
    /// The system that serves each agency.
    serves: BTreeMap<String, String>,
    /// Mailboxes that agencies have left, up to which number they are to be
    /// looked through.
    searching: BTreeMap<String, u64>,
    /// Deliveries whose lease has ended in the batch that is looked at.
    released: Vec<(u64, u32)>,
    /// Whether the journal's release moves deliveries.
    knows_moves: bool,
    envelopes: BTreeMap<u64, Envelope>,
    ids: BTreeMap<(String, Vec<u8>), u64>,
    deliveries: BTreeMap<(u64, u32), Course>,
    /// How many envelopes name a document.
    named: BTreeMap<Bytes, u32>,
    /// Until when uploads hold a document, by document and system.
    pins: BTreeMap<(Bytes, String), u64>,
    counts: Counts,
    violations: Vec<Violation>,
}

/// Violations beyond this many are counted but not kept.
const VIOLATIONS_KEPT: usize = 1_000;

impl Checker {
    /// Begins before the first record. Without a verifier, signatures are not
    /// looked at: neither the checkpoints' nor those of what agencies signed.
    pub fn new(verifier: Option<CheckpointVerifier>) -> Self {
        Self::of_logs(verifier.into_iter().collect())
    }

    /// As [`Self::new`], for a journal that was restored: the verifiers of its
    /// logs, the oldest first.
    pub fn of_logs(verifiers: Vec<CheckpointVerifier>) -> Self {
        Self {
            verifiers,
            log: 0,
            batch_begins: (0, tree::empty_root()),
            edge: Vec::new(),
            size: 0,
            last_ms: 0,
            before_ms: 0,
            directory_version: 0,
            keys: BTreeMap::new(),
            feeds: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            serves: BTreeMap::new(),
            searching: BTreeMap::new(),
            released: Vec::new(),
            knows_moves: false,
            envelopes: BTreeMap::new(),
            ids: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            named: BTreeMap::new(),
            pins: BTreeMap::new(),
            counts: Counts::default(),
            violations: Vec::new(),
        }
    }

    /// Looks at the next batch.
    pub fn batch(&mut self, batch: &Batch) {
        self.counts.batches += 1;
        self.batch_begins = (self.size, self.root());
        self.before_ms = self.last_ms;
        for entry in &batch.entries {
            if entry.sequence != self.size {
                self.report(
                    Some(entry.sequence),
                    format!("sequence {} where {} belongs", entry.sequence, self.size),
                );
            }
            self.push_leaf(tree::record_leaf(&entry.salt, &entry.record));
            self.entry(entry);
        }
        let commit = &batch.commit;
        let place = self.size.checked_sub(1);
        self.released_where_served(place);
        if commit.size != self.size {
            self.report(
                place,
                format!("the batch ends with size {} where {} belongs", commit.size, self.size),
            );
        }
        if commit.root != self.root() {
            self.report(place, "the root of the batch is not that of its records".into());
        }
        let Some(verifier) = self.verifiers.get(self.log) else { return };
        match verifier.verify(&commit.checkpoint) {
            Ok(checkpoint) if checkpoint.size == commit.size && checkpoint.root == commit.root => {}
            Ok(_) => self.report(place, "the checkpoint speaks of another size or root".into()),
            Err(error) => self.report(place, format!("the checkpoint does not verify: {error}")),
        }
    }

    /// What must hold once all is seen, at a moment: what has passed its
    /// deadline by more than the longest lease is settled.
    pub fn finish(mut self, now_ms: u64) -> (Counts, Vec<Violation>) {
        let over = now_ms.saturating_sub(limits::LEASE_MAX_MS);
        let open: Vec<u64> = self
            .envelopes
            .iter()
            .filter(|(_, envelope)| {
                envelope.expires_unix_ms < over && envelope.settled < envelope.recipient_count
            })
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in open {
            self.report(Some(sequence), "past its deadline and not settled for everyone".into());
        }
        self.all_moved();
        let bare: Vec<u64> = self.envelopes.values().filter_map(|envelope| envelope.bare).collect();
        for sequence in bare {
            self.report(Some(sequence), "cargo is missing of an envelope that was not erased".into());
        }
        (self.counts, self.violations)
    }

    /// The violations so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How a delivery was settled, in the checker's model.
    pub fn settlement(&self, envelope_sequence: u64, recipient_index: u32) -> Option<Settlement> {
        self.deliveries.get(&(envelope_sequence, recipient_index))?.settlement
    }

    /// Deliveries that are visible and not settled.
    pub fn unsettled(&self) -> u64 {
        self.counts.deliveries - self.counts.settled
    }

    fn report(&mut self, sequence: Option<u64>, what: String) {
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(Violation { sequence, what });
        }
    }

    fn push_leaf(&mut self, leaf: [u8; 32]) {
        let (mut level, mut hash) = (0, leaf);
        while let Some((left_level, left)) = self.edge.last().copied() {
            if left_level != level {
                break;
            }
            self.edge.pop();
            hash = tree::node_hash(&left, &hash);
            level += 1;
        }
        self.edge.push((level, hash));
        self.size += 1;
    }

    fn root(&self) -> [u8; 32] {
        let mut edge = self.edge.iter().rev().map(|(_, hash)| *hash);
        let Some(last) = edge.next() else { return tree::empty_root() };
        edge.fold(last, |right, left| tree::node_hash(&left, &right))
    }

    fn entry(&mut self, entry: &crate::journal::Entry) {
        self.counts.records += 1;
        let at = entry.sequence;
        let record = match Record::decode(entry.record.clone()) {
            Ok(record) => record,
            Err(error) => return self.report(Some(at), format!("the record cannot be read: {error}")),
        };
        if entry.record.len() > limits::RECORD_BYTES_MAX {
            self.report(Some(at), format!("a record of {} bytes", entry.record.len()));
        }
        if record.sequence != at {
            self.report(Some(at), format!("the record says it is {}", record.sequence));
        }
        if record.recorded_unix_ms < self.last_ms {
            self.report(Some(at), "time goes back".into());
        }
        self.last_ms = self.last_ms.max(record.recorded_unix_ms);
        let bare = self.cargo(at, &record, entry);
        for place in &record.feeds {
            let feed = self.feeds.entry(place.system.clone()).or_default();
            let expected = feed.high + 1;
            feed.high = place.feed_sequence;
            feed.kept.push_back(record.recorded_unix_ms);
            if place.feed_sequence != expected {
                self.report(
                    Some(at),
                    format!("feed number {} where {expected} belongs", place.feed_sequence),
                );
            }
        }
        self.event(at, &record, entry);
        self.seal(at, &record, entry);
        if bare {
            self.bare(at, &record);
        }
    }

    /// Whether some of a record's cargo was erased. Lists never are.
    fn cargo(&mut self, at: u64, record: &Record, entry: &crate::journal::Entry) -> bool {
        let mut bare = false;
        if record.cargo.len() != entry.cargo.len() {
            let (named, held) = (record.cargo.len(), entry.cargo.len());
            self.report(Some(at), format!("the record names {named} pieces of cargo and {held} are there"));
        }
        for (named, bytes) in record.cargo.iter().zip(&entry.cargo) {
            if bytes.is_empty() && named.size > 0 && leaving::is_content(named.kind()) {
                bare = true;
                continue;
            }
            if named.size != bytes.len() as u64 || named.sha256 != Digest::of(bytes).as_bytes()[..] {
                self.report(
                    Some(at),
                    format!("cargo {} is not what the record binds", named.kind().as_str_name()),
                );
            }
        }
        bare
    }

    /// What a record says was signed, if it is still there: by keys of that
    /// system that were valid then, and saying the same.
    fn seal(&mut self, at: u64, record: &Record, entry: &crate::journal::Entry) {
        let sealed = signed::place(record).and_then(|place| entry.cargo.get(place));
        let Some(sealed) = sealed.filter(|sealed| !sealed.is_empty() && !self.verifiers.is_empty()) else {
            return;
        };
        let mut untimely = None;
        let verified = signed::verify(record, sealed, &mut |key_id| {
            let key = self.keys.get(key_id.as_ref()).cloned()?;
            if !is_timely(&key, record.recorded_unix_ms, self.before_ms) {
                untimely = Some(*key_id);
            }
            Some(key)
        });
        if let Err(error) = verified {
            self.report(Some(at), format!("what was signed does not verify: {error}"));
        }
        if let Some(key_id) = untimely {
            self.report(Some(at), format!("signed by key {key_id}, which was not valid then"));
        }
    }

    /// Cargo is missing: an envelope's, which must be erased by the end.
    fn bare(&mut self, at: u64, record: &Record) {
        let envelope = leaving::envelope_of(record).and_then(|sequence| self.envelopes.get_mut(&sequence));
        match envelope {
            Some(envelope) if envelope.erased.is_none() => envelope.bare = envelope.bare.or(Some(at)),
            Some(_) => {}
            None => self.report(Some(at), "its cargo is gone, and no envelope of its was erased".into()),
        }
    }

    fn event(&mut self, at: u64, record: &Record, entry: &crate::journal::Entry) {
        let list = |kind: CargoKind| {
            let place = record.cargo.iter().position(|cargo| cargo.kind() == kind)?;
            LeafList::decode(entry.cargo.get(place)?.clone()).ok()
        };
        match &record.event {
            Some(Event::LogOpened(event)) if at != 0 => self.log_opened(at, event),
            Some(Event::Accepted(event)) => {
                let (recipients, seen) = (list(CargoKind::RecipientList), list(CargoKind::ConsignmentList));
                let (list, at_once) = match (recipients, seen) {
                    (Some(list), None) if event.consignment_root.is_empty() => (list, false),
                    (None, Some(list)) if event.recipient_root.is_empty() => (list, true),
                    _ => {
                        let words = "an accepted envelope has no list of recipients, or not the one it binds";
                        return self.report(Some(at), words.into());
                    }
                };
                if !at_once && axis_proto::leaves::root(&list)[..] != event.recipient_root {
                    self.report(Some(at), "the recipient root is not that of the list".into());
                }
                let named = |leaf: &Bytes| match at_once {
                    false => RecipientLeaf::decode(leaf.clone()).ok(),
                    true => ConsignmentLeaf::decode(leaf.clone()).ok().map(|leaf| RecipientLeaf {
                        recipient_index: leaf.recipient_index,
                        agency: leaf.agency,
                        kind: leaf.kind,
                    }),
                };
                let recipients: Vec<RecipientLeaf> = list.leaves.iter().filter_map(named).collect();
                let sorted = recipients.windows(2).all(|pair| pair[0].agency < pair[1].agency);
                if !sorted || recipients.len() != event.recipient_count as usize || recipients.is_empty() {
                    self.report(Some(at), "the recipients are not a sorted list of the stated length".into());
                }
                let id = (event.sender.clone(), event.envelope_id.to_vec());
                if let Some(before) = self.ids.insert(id.clone(), at) {
                    self.report(Some(at), format!("the same envelope id was accepted at {before}"));
                }
                self.counts.envelopes += 1;
                self.envelopes.insert(
                    at,
                    Envelope {
                        digest: event.envelope_digest.to_vec(),
                        expires_unix_ms: event.expires_unix_ms,
                        not_before_unix_ms: event.not_before_unix_ms,
                        recipients,
                        recipient_count: event.recipient_count,
                        consigned: 0,
                        settled: 0,
                        created_unix_ms: event.created_unix_ms,
                        cargo_kept_ms: event.cargo_kept_ms,
                        summary_kept_ms: event.summary_kept_ms,
                        settled_unix_ms: 0,
                        erased: None,
                        forgotten: 0,
                        documents: in_vault(event),
                        bare: None,
                        purge: None,
                        id,
                    },
                );
                for document in in_vault(event) {
                    *self.named.entry(document).or_default() += 1;
                }
                if at_once {
                    let consigned = Consigned {
                        envelope_sequence: at,
                        envelope_digest: event.envelope_digest.clone(),
                        first_recipient_index: 0,
                        recipient_count: event.recipient_count,
                        consignment_root: event.consignment_root.clone(),
                    };
                    self.consigned(at, record.recorded_unix_ms, &consigned, &list);
                }
            }
            Some(Event::Consigned(event)) => {
                let Some(list) = list(CargoKind::ConsignmentList) else {
                    return self.report(Some(at), "a consignment has no list".into());
                };
                self.consigned(at, record.recorded_unix_ms, event, &list);
            }
            Some(Event::Leased(event)) => {
                let sequence = event.delivery.as_ref().map(|delivery| delivery.envelope_sequence);
                let envelope = sequence.and_then(|sequence| self.envelopes.get(&sequence));
                if envelope.is_some_and(Envelope::is_purge_confirmed) {
                    self.report(Some(at), "leased though it is being purged".into());
                }
                self.leased_to(at, event);
                self.course(at, event.delivery.as_ref(), |course| {
                    let next = course.attempt + 1;
                    course.attempt = event.attempt;
                    let held = std::mem::replace(&mut course.leased, true);
                    let wrong = held || course.parked || course.settlement.is_some() || event.attempt != next;
                    wrong.then(|| format!("lease {} of a delivery that cannot be leased so", event.attempt))
                });
            }
            Some(Event::LeaseExtended(event)) => self.course(at, event.delivery.as_ref(), |course| {
                let wrong = !course.leased || course.attempt != event.attempt;
                wrong.then(|| "a lease that is not held was extended".into())
            }),
            Some(Event::Released(event)) => {
                self.remember_released(event.delivery.as_ref());
                self.course(at, event.delivery.as_ref(), |course| {
                    let held = std::mem::replace(&mut course.leased, false);
                    (!held || course.attempt != event.attempt)
                        .then(|| "a lease that is not held ended".into())
                });
            }
            Some(Event::Parked(event)) => {
                self.remember_released(event.delivery.as_ref());
                self.course(at, event.delivery.as_ref(), |course| {
                    let held = std::mem::replace(&mut course.leased, false);
                    course.parked = true;
                    (!held || course.attempt != event.attempt).then(|| "parked without a lease".into())
                });
            }
            Some(Event::Requeued(event)) => self.course(at, event.delivery.as_ref(), |course| {
                let parked = std::mem::replace(&mut course.parked, false);
                (!parked).then(|| "requeued though not parked".into())
            }),
            Some(Event::Acknowledged(event)) => {
                self.settled(at, event.delivery.as_ref(), Settlement::Acknowledged);
            }
            Some(Event::Rejected(event)) => self.settled(at, event.delivery.as_ref(), Settlement::Rejected),
            Some(Event::Expired(event)) => {
                let early = event.delivery.as_ref().and_then(|delivery| {
                    let envelope = self.envelopes.get(&delivery.envelope_sequence)?;
                    Some(record.recorded_unix_ms < envelope.expires_unix_ms)
                });
                if early == Some(true) {
                    self.report(Some(at), "expired before its deadline".into());
                }
                self.settled(at, event.delivery.as_ref(), Settlement::Expired);
            }
            Some(Event::Returned(event)) => self.settled(at, event.delivery.as_ref(), Settlement::Returned),
            Some(Event::Moved(event)) => self.moved(at, event),
            Some(Event::MailboxSearched(event)) => self.mailbox_searched(at, event),
            Some(Event::LateAccepted(event)) => self.course(at, event.delivery.as_ref(), |course| {
                let settlement = course.settlement.unwrap_or_default();
                let again = std::mem::replace(&mut course.late, true);
                let wrong =
                    again || settlement != event.settlement() || settlement == Settlement::Unspecified;
                wrong.then(|| "a late acceptance that does not fit".into())
            }),
            Some(Event::Uploaded(event)) => {
                let pin = self.pins.entry((event.sha256.clone(), event.system.clone())).or_default();
                *pin = event.pinned_until_unix_ms.max(*pin);
            }
            Some(
                Event::Erased(_)
                | Event::Forgotten(_)
                | Event::DocumentsCollected(_)
                | Event::PurgeRequested(_)
                | Event::PurgeConfirmed(_)
                | Event::FeedTrimmed(_)
                | Event::GrantsLapsed(_),
            ) => self.leaving(at, record),
            Some(Event::DirectoryChanged(event)) => {
                if event.directory_version != self.directory_version + 1 {
                    self.report(Some(at), format!("directory version {}", event.directory_version));
                }
                self.directory_version = event.directory_version;
                self.keys.extend(keys_in(event));
                // what was released before the change was right before it
                self.released_where_served(Some(at));
                self.agencies_changed(event);
            }
            Some(
                Event::LogOpened(_)
                | Event::ExpiryWarned(_)
                | Event::EnrolmentTokenIssued(_)
                | Event::SnapshotTaken(_)
                | Event::ClockConfirmed(_),
            )
            | None => {}
        }
    }

    /// A log continues the one before it, after a restore.
    fn log_opened(&mut self, at: u64, event: &LogOpened) {
        let (first, root) = self.batch_begins;
        if event.previous_size != at || first != at || event.previous_root != root[..] {
            return self.report(Some(at), "a log opens in its midst".into());
        }
        if self.verifiers.is_empty() {
            return;
        }
        let [before, opened] = [self.log, self.log + 1].map(|log| self.verifiers.get(log));
        let follows = opened.is_some_and(|opened| {
            opened.origin() == event.origin && opened.verifier_key() == event.log_verifier_key
        });
        let continues = before.is_some_and(|before| {
            before.origin() == event.previous_origin
                && before.verifier_key() == event.previous_log_verifier_key
        });
        if !follows || !continues {
            self.report(Some(at), "a log opens that is not known, or continues another one".into());
        }
        self.log = (self.log + 1).min(self.verifiers.len() - 1);
    }

    fn consigned(&mut self, at: u64, now_ms: u64, event: &Consigned, list: &LeafList) {
        if axis_proto::leaves::root(list)[..] != event.consignment_root {
            self.report(Some(at), "the consignment root is not that of the list".into());
        }
        let sequence = event.envelope_sequence;
        let Some(mut envelope) = self.envelopes.remove(&sequence) else {
            return self.report(Some(at), format!("consigned an envelope {sequence} that was not accepted"));
        };
        if event.first_recipient_index != envelope.consigned
            || event.recipient_count as usize != list.leaves.len()
            || list.leaves.len() > limits::CONSIGN_MAX
            || (now_ms < envelope.not_before_unix_ms && !envelope.is_purge_confirmed())
        {
            self.report(Some(at), "the range does not follow the one before, or comes too early".into());
        }
        for (place, leaf) in list.leaves.iter().enumerate() {
            let Ok(leaf) = ConsignmentLeaf::decode(leaf.clone()) else {
                self.report(Some(at), "a consignment leaf cannot be read".into());
                continue;
            };
            let index = event.first_recipient_index + place as u32;
            let addressed =
                envelope.recipients.get(index as usize).map(|recipient| recipient.agency.as_str());
            if leaf.recipient_index != index || addressed != Some(leaf.agency.as_str()) {
                self.report(Some(at), format!("recipient {index} is not the one that was accepted"));
            }
            self.next_number(at, &leaf.system, leaf.mailbox_sequence);
            self.counts.deliveries += 1;
            self.deliveries.insert(
                (sequence, index),
                Course {
                    agency: leaf.agency,
                    system: leaf.system,
                    mailbox_sequence: leaf.mailbox_sequence,
                    ..Course::default()
                },
            );
        }
        envelope.consigned += event.recipient_count;
        if envelope.consigned >= envelope.recipient_count {
            // the names are not needed any more
            envelope.recipients = Vec::new();
        }
        self.envelopes.insert(sequence, envelope);
    }

    fn settled(&mut self, at: u64, delivery: Option<&Delivery>, settlement: Settlement) {
        let purged = delivery
            .and_then(|delivery| self.envelopes.get(&delivery.envelope_sequence))
            .is_some_and(Envelope::is_purge_confirmed);
        let by_recipient = matches!(settlement, Settlement::Acknowledged | Settlement::Rejected);
        let mut first = false;
        self.course(at, delivery, |course| {
            let wrong = match course.settlement {
                Some(before) => Some(format!("settled again, after {}", before.as_str_name())),
                None if by_recipient && course.attempt == course.attempts_elsewhere => {
                    Some("answered but never leased".into())
                }
                None if settlement == Settlement::Expired && course.leased => {
                    Some("expired while on lease".into())
                }
                None if settlement == Settlement::Returned && !course.parked && !purged => {
                    Some("returned though not parked".into())
                }
                None => None,
            };
            first = course.settlement.is_none();
            course.settlement = course.settlement.or(Some(settlement));
            course.leased = false;
            course.parked = false;
            wrong
        });
        if first && let Some(delivery) = delivery {
            self.counts.settled += 1;
            let mailbox = self.mailboxes.entry(delivery.system.clone()).or_default();
            mailbox.unsettled = mailbox.unsettled.saturating_sub(1);
            if let Some(envelope) = self.envelopes.get_mut(&delivery.envelope_sequence) {
                envelope.settled += 1;
                envelope.settled_unix_ms = self.last_ms;
            }
        }
    }

    /// Looks up a delivery, checks how the record names it, and lets `look`
    /// change its course and say what is wrong.
    fn course(
        &mut self,
        at: u64,
        delivery: Option<&Delivery>,
        look: impl FnOnce(&mut Course) -> Option<String>,
    ) {
        let Some(delivery) = delivery else {
            return self.report(Some(at), "the record names no delivery".into());
        };
        let id = (delivery.envelope_sequence, delivery.recipient_index);
        let digest = self.envelopes.get(&id.0).map(|envelope| envelope.digest.clone());
        let Some(course) = self.deliveries.get_mut(&id) else {
            return self.report(Some(at), format!("the delivery {}-{} was never consigned", id.0, id.1));
        };
        let fits = course.agency == delivery.agency
            && course.system == delivery.system
            && course.mailbox_sequence == delivery.mailbox_sequence
            && digest.as_deref() == Some(&delivery.envelope_digest[..]);
        let wrong = look(course);
        if !fits {
            self.report(Some(at), format!("the delivery {}-{} is named otherwise than before", id.0, id.1));
        }
        if let Some(wrong) = wrong {
            self.report(Some(at), wrong);
        }
    }
}

/// The keys that a change of the directory names.
fn keys_in(event: &DirectoryChanged) -> impl Iterator<Item = (Bytes, SigningKey)> + '_ {
    event.entries.iter().filter_map(|entry| match &entry.value {
        Some(Value::SigningKey(key)) => Some((key.key_id.clone(), key.clone())),
        _ => None,
    })
}

/// Whether a key was within its time when something was recorded, as far as
/// the record's stamp tells the clock.
fn is_timely(key: &SigningKey, recorded_ms: u64, before_ms: u64) -> bool {
    let has_ended = key.valid_until_unix_ms != 0 && key.valid_until_unix_ms <= recorded_ms;
    key.valid_from_unix_ms <= recorded_ms && !(has_ended && recorded_ms > before_ms)
}
