//! `apply(state, entry)`: what follows from one record. Used for new records
//! and for replay alike; never decides, never refuses. A record of a kind it
//! does not know changes nothing.

use axis_proto::{
    envelope::v1::{Priority, RecipientKind},
    hub::v1::DeliveryState,
    id::DeliveryId,
    record::v1::{
        self as record, CargoKind, ConsignmentLeaf, LeafList, Record, directory_entry::Value, record::Event,
    },
};
use prost::Message;

use super::tables::{
    DeliveryRow, EnvelopeRow, KeyRow, MailboxRow, Meta, Recorded, Timer, TokenRow, UploadRow, delivery_bytes,
    ended, key, lane_of, row,
};
use super::{moves, retention};
use crate::{
    journal::Entry,
    limits,
    state::{Draft, Read},
};

/// Brings the state from before a record to after it.
///
/// # Errors
/// If the entry does not hold what its record says: a journal that passed its
/// checksums never does that.
pub fn apply(draft: &mut Draft<'_>, record: &Record, entry: &Entry) -> Result<(), prost::DecodeError> {
    edit_meta(draft, record);
    for place in &record.feeds {
        let recorded = [record.recorded_unix_ms.to_be_bytes(), record.sequence.to_be_bytes()];
        draft.put(key::feed(&place.system, place.feed_sequence), recorded.concat());
        edit_mailbox(draft, &place.system, |mailbox| mailbox.feed_high = place.feed_sequence);
    }
    let at = At { sequence: record.sequence, now: record.recorded_unix_ms };
    match &record.event {
        Some(Event::Accepted(event)) => accepted(draft, at, record, event, entry)?,
        Some(Event::Consigned(event)) => consigned(draft, at, event, &leaf_list(record, entry)?)?,
        Some(Event::Leased(event)) => leased(draft, at, event),
        Some(Event::LeaseExtended(event)) => lease_extended(draft, event),
        Some(Event::Released(event)) => released(draft, at, event),
        Some(Event::Parked(event)) => parked(draft, at, event.delivery.as_ref()),
        Some(Event::Requeued(event)) => requeued(draft, at, event.delivery.as_ref()),
        Some(Event::Acknowledged(event)) => {
            settle(draft, at, event.delivery.as_ref(), DeliveryState::Acknowledged);
            grant_documents(draft, at, event.delivery.as_ref());
        }
        Some(Event::Rejected(event)) => settle(draft, at, event.delivery.as_ref(), DeliveryState::Rejected),
        Some(Event::Expired(event)) => expired(draft, at, event.delivery.as_ref()),
        Some(Event::Returned(event)) => {
            settle(draft, at, event.delivery.as_ref(), DeliveryState::Returned);
            retention::returned(draft, event.delivery.as_ref());
        }
        Some(Event::Moved(event)) => moves::moved(draft, at, event),
        Some(Event::MailboxSearched(event)) => moves::searched(draft, event),
        Some(Event::ExpiryWarned(event)) => expiry_warned(draft, event),
        Some(Event::LateAccepted(event)) => {
            if let Some(mut found) = Found::of(draft, event.delivery.as_ref()) {
                found.delivery.late_sequence = at.sequence;
                found.put_delivery(draft);
            }
            grant_documents(draft, at, event.delivery.as_ref());
        }
        Some(Event::Erased(event)) => retention::erased(draft, at, event),
        Some(Event::Forgotten(event)) => retention::forgotten(draft, event),
        Some(Event::DocumentsCollected(event)) => retention::documents_collected(draft, event),
        Some(Event::PurgeRequested(event)) => retention::purge_requested(draft, at, event),
        Some(Event::PurgeConfirmed(event)) => retention::purge_confirmed(draft, event),
        Some(Event::FeedTrimmed(event)) => retention::feed_trimmed(draft, event),
        Some(Event::GrantsLapsed(event)) => retention::grants_lapsed(draft, event),
        Some(Event::Uploaded(event)) => grant(
            draft,
            &event.system,
            &event.sha256,
            UploadRow { size: event.size, pinned_until_unix_ms: event.pinned_until_unix_ms },
        ),
        Some(Event::DirectoryChanged(event)) => directory_changed(draft, at, event),
        Some(Event::EnrolmentTokenIssued(event)) => {
            let token = TokenRow { system: event.system.clone(), expires_unix_ms: event.expires_unix_ms };
            if let Ok(digest) = axis_proto::id::Digest::from_slice(&event.token_sha256) {
                draft.put(key::token(&digest), token.encode_to_vec());
            }
        }
        Some(Event::LogOpened(_) | Event::SnapshotTaken(_) | Event::ClockConfirmed(_)) | None => {}
    }
    Ok(())
}

/// What a record says of the whole: most say their time only, which is that of
/// the record before them if they are of one batch.
fn edit_meta(draft: &mut Draft<'_>, record: &Record) {
    let key = key::meta();
    let says_more =
        matches!(record.event, Some(Event::LogOpened(_) | Event::Erased(_) | Event::DirectoryChanged(_)));
    let recorded = row::<Recorded>(draft, &key).map(|recorded| recorded.last_unix_ms);
    if !says_more && recorded == Some(record.recorded_unix_ms) {
        return;
    }
    let mut meta: Meta = row(draft, &key).unwrap_or_default();
    meta.last_recorded_unix_ms = record.recorded_unix_ms;
    match &record.event {
        Some(Event::LogOpened(event)) => {
            meta.hub_id.clone_from(&event.hub_id);
            meta.origin.clone_from(&event.origin);
        }
        Some(Event::Erased(_)) => meta.erased_size = record.sequence + 1,
        Some(Event::DirectoryChanged(event)) => meta.directory_version = event.directory_version,
        _ => {}
    }
    draft.put(key, meta.encode_to_vec());
}

/// Where a record is: its place and its time.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub sequence: u64,
    pub now: u64,
}

/// The delivery that an event is of, if it is of one.
pub fn delivery_of(event: &Event) -> Option<&record::Delivery> {
    match event {
        Event::Leased(event) => event.delivery.as_ref(),
        Event::LeaseExtended(event) => event.delivery.as_ref(),
        Event::Released(event) => event.delivery.as_ref(),
        Event::Acknowledged(event) => event.delivery.as_ref(),
        Event::Rejected(event) => event.delivery.as_ref(),
        Event::Parked(event) => event.delivery.as_ref(),
        Event::Requeued(event) => event.delivery.as_ref(),
        Event::Expired(event) => event.delivery.as_ref(),
        Event::Returned(event) => event.delivery.as_ref(),
        Event::LateAccepted(event) => event.delivery.as_ref(),
        Event::Moved(event) => event.delivery.as_ref(),
        Event::LogOpened(_)
        | Event::Accepted(_)
        | Event::Consigned(_)
        | Event::ExpiryWarned(_)
        | Event::MailboxSearched(_)
        | Event::Uploaded(_)
        | Event::DirectoryChanged(_)
        | Event::EnrolmentTokenIssued(_)
        | Event::SnapshotTaken(_)
        | Event::ClockConfirmed(_)
        | Event::Erased(_)
        | Event::Forgotten(_)
        | Event::DocumentsCollected(_)
        | Event::PurgeRequested(_)
        | Event::PurgeConfirmed(_)
        | Event::FeedTrimmed(_)
        | Event::GrantsLapsed(_) => None,
    }
}

/// The id of the delivery that a record speaks of.
pub fn delivery_id(delivery: &record::Delivery) -> DeliveryId {
    DeliveryId { envelope_sequence: delivery.envelope_sequence, recipient_index: delivery.recipient_index }
}

fn accepted(
    draft: &mut Draft<'_>,
    at: At,
    record: &Record,
    event: &record::Accepted,
    entry: &Entry,
) -> Result<(), prost::DecodeError> {
    let sealed = record.cargo.iter().find(|cargo| cargo.kind() == CargoKind::SealedEnvelope);
    let bytes =
        sealed.map_or(0, |cargo| cargo.size) + event.documents.iter().map(|file| file.size).sum::<u64>();
    let mut envelope = EnvelopeRow {
        sender_system: event.sender_system.clone(),
        sender: event.sender.clone(),
        envelope_id: event.envelope_id.to_vec(),
        envelope_digest: event.envelope_digest.to_vec(),
        accepted_unix_ms: at.now,
        not_before_unix_ms: event.not_before_unix_ms,
        expires_unix_ms: event.expires_unix_ms,
        priority: event.priority,
        recipient_count: event.recipient_count,
        consigned_count: 0,
        settled_count: 0,
        bytes,
        expire_cursor: 0,
        leased_count: 0,
        warn_unix_ms: event.warn_unix_ms,
        cargo_kept_ms: event.cargo_kept_ms,
        summary_kept_ms: event.summary_kept_ms,
        ..EnvelopeRow::default()
    };
    let whole = DeliveryId { envelope_sequence: at.sequence, recipient_index: 0 };
    draft.put(key::envelope_id(&event.sender, &event.envelope_id), at.sequence.to_be_bytes().to_vec());
    // the deadline's own timer follows the warning, which is never later
    draft.put(key::timer(event.warn_unix_ms, Timer::Warn, &whole), Vec::new());
    if !event.consignment_root.is_empty() {
        show(draft, at, at.sequence, &mut envelope, &leaf_list(record, entry)?)?;
    } else if event.not_before_unix_ms > at.now {
        draft.put(key::timer(event.not_before_unix_ms, Timer::Consign, &whole), Vec::new());
    } else {
        draft.put(key::pending(at.sequence), Vec::new());
    }
    draft.put(key::envelope(at.sequence), envelope.encode_to_vec());
    let in_vault = || event.documents.iter().filter(|file| !file.inline);
    for file in in_vault() {
        draft.put(key::named(&file.sha256, at.sequence), Vec::new());
    }
    let in_vault: Vec<u8> =
        in_vault().flat_map(|file| file.sha256.iter().copied().chain(file.size.to_be_bytes())).collect();
    if !in_vault.is_empty() {
        draft.put(key::documents(at.sequence), in_vault);
    }
    Ok(())
}

fn leaf_list(record: &Record, entry: &Entry) -> Result<LeafList, prost::DecodeError> {
    let place = record.cargo.iter().position(|cargo| cargo.kind() == CargoKind::ConsignmentList);
    let bytes = place.and_then(|place| entry.cargo.get(place)).cloned().unwrap_or_default();
    LeafList::decode(bytes)
}

fn consigned(
    draft: &mut Draft<'_>,
    at: At,
    event: &record::Consigned,
    list: &LeafList,
) -> Result<(), prost::DecodeError> {
    let Some(mut envelope) = row::<EnvelopeRow>(draft, &key::envelope(event.envelope_sequence)) else {
        return Ok(());
    };
    show(draft, at, event.envelope_sequence, &mut envelope, list)?;
    let whole = DeliveryId { envelope_sequence: event.envelope_sequence, recipient_index: 0 };
    if event.first_recipient_index == 0 && envelope.not_before_unix_ms > 0 {
        draft.delete(key::timer(envelope.not_before_unix_ms, Timer::Consign, &whole));
    }
    let pending = key::pending(event.envelope_sequence);
    if envelope.consigned_count < envelope.recipient_count {
        draft.put(pending, Vec::new());
    } else {
        draft.delete(pending);
    }
    draft.put(key::envelope(event.envelope_sequence), envelope.encode_to_vec());
    Ok(())
}

/// Makes an envelope visible to the next of its recipients.
fn show(
    draft: &mut Draft<'_>,
    at: At,
    envelope_sequence: u64,
    envelope: &mut EnvelopeRow,
    list: &LeafList,
) -> Result<(), prost::DecodeError> {
    for leaf in &list.leaves {
        let leaf = ConsignmentLeaf::decode(leaf.clone())?;
        let id = DeliveryId { envelope_sequence, recipient_index: leaf.recipient_index };
        let kind = if leaf.kind() == RecipientKind::Unspecified { RecipientKind::To } else { leaf.kind() };
        let delivery = DeliveryRow {
            agency: leaf.agency,
            system: leaf.system,
            mailbox_sequence: leaf.mailbox_sequence,
            kind: kind.into(),
            state: DeliveryState::Waiting.into(),
            since_unix_ms: at.now,
            since_sequence: at.sequence,
            consigned_sequence: at.sequence,
            consigned_unix_ms: at.now,
            ..DeliveryRow::default()
        };
        draft.put(key::number(&delivery.system, delivery.mailbox_sequence), delivery_bytes(&id).to_vec());
        put_ready(draft, &id, &delivery, envelope);
        if envelope.recipient_count > limits::WIDE_RECIPIENTS {
            draft.put(key::received(&delivery.system, &id), Vec::new());
        }
        edit_mailbox(draft, &delivery.system, |mailbox| {
            mailbox.high = delivery.mailbox_sequence;
            mailbox.waits_more(envelope);
        });
        envelope.consigned_count += 1;
        put_delivery(draft, &id, delivery, envelope);
    }
    Ok(())
}

fn leased(draft: &mut Draft<'_>, at: At, event: &record::Leased) {
    let Some(mut found) = Found::of(draft, event.delivery.as_ref()) else { return };
    let mut mailbox = mailbox(draft, &found.delivery.system);
    found.take_from_queue(draft, &mut mailbox);
    found.becomes(DeliveryState::Leased, at);
    found.delivery.attempts += 1;
    found.delivery.leases = event.attempt;
    found.delivery.due_unix_ms = event.lease_until_unix_ms;
    found.envelope.leased_count += 1;
    mailbox.leased += 1;
    draft.put(key::timer(found.delivery.due_unix_ms, Timer::Lapse, &found.id), Vec::new());
    put_mailbox(draft, &found.delivery.system, &mailbox);
    found.put(draft);
}

fn lease_extended(draft: &mut Draft<'_>, event: &record::LeaseExtended) {
    let Some(mut found) = Found::of(draft, event.delivery.as_ref()) else { return };
    draft.delete(key::timer(found.delivery.due_unix_ms, Timer::Lapse, &found.id));
    found.delivery.due_unix_ms = event.lease_until_unix_ms;
    draft.put(key::timer(found.delivery.due_unix_ms, Timer::Lapse, &found.id), Vec::new());
    found.put_delivery(draft);
}

fn released(draft: &mut Draft<'_>, at: At, event: &record::Released) {
    let Some(mut found) = Found::of(draft, event.delivery.as_ref()) else { return };
    let mut mailbox = mailbox(draft, &found.delivery.system);
    found.take_from_queue(draft, &mut mailbox);
    found.becomes(DeliveryState::Waiting, at);
    found.delivery.due_unix_ms = event.due_unix_ms;
    let DeliveryRow { system, due_unix_ms, mailbox_sequence, .. } = &found.delivery;
    let key = key::backing_off(system, *due_unix_ms, *mailbox_sequence);
    draft.put(key, delivery_bytes(&found.id).to_vec());
    put_mailbox(draft, system, &mailbox);
    found.put(draft);
}

fn parked(draft: &mut Draft<'_>, at: At, delivery: Option<&record::Delivery>) {
    let Some(mut found) = Found::of(draft, delivery) else { return };
    let mut mailbox = mailbox(draft, &found.delivery.system);
    found.take_from_queue(draft, &mut mailbox);
    found.becomes(DeliveryState::Parked, at);
    mailbox.parked += 1;
    draft.put(key::parked(&found.delivery.system, &found.id), Vec::new());
    put_mailbox(draft, &found.delivery.system, &mailbox);
    found.put(draft);
}

fn requeued(draft: &mut Draft<'_>, at: At, delivery: Option<&record::Delivery>) {
    let Some(mut found) = Found::of(draft, delivery) else { return };
    let mut mailbox = mailbox(draft, &found.delivery.system);
    found.take_from_queue(draft, &mut mailbox);
    found.becomes(DeliveryState::Waiting, at);
    found.delivery.attempts = 0;
    put_ready(draft, &found.id, &found.delivery, &found.envelope);
    put_mailbox(draft, &found.delivery.system, &mailbox);
    found.put_delivery(draft);
}

fn expired(draft: &mut Draft<'_>, at: At, delivery: Option<&record::Delivery>) {
    settle(draft, at, delivery, DeliveryState::Expired);
    let Some(delivery) = delivery else { return };
    edit_envelope(draft, delivery.envelope_sequence, |envelope| {
        envelope.expire_cursor = envelope.expire_cursor.max(delivery.recipient_index + 1);
    });
}

fn expiry_warned(draft: &mut Draft<'_>, event: &record::ExpiryWarned) {
    let whole = DeliveryId { envelope_sequence: event.envelope_sequence, recipient_index: 0 };
    let (mut warned, mut expires) = (0, None);
    edit_envelope(draft, event.envelope_sequence, |envelope| {
        warned = std::mem::take(&mut envelope.warn_unix_ms);
        expires = (!envelope.is_settled()).then_some(envelope.expires_unix_ms);
    });
    draft.delete(key::timer(warned, Timer::Warn, &whole));
    if let Some(expires) = expires {
        draft.put(key::timer(expires, Timer::Expire, &whole), Vec::new());
    }
}

/// A delivery ends: it leaves every queue, its number is settled, and the
/// floor and the envelope's count move on.
fn settle(draft: &mut Draft<'_>, at: At, delivery: Option<&record::Delivery>, state: DeliveryState) {
    let Some(mut found) = Found::of(draft, delivery).filter(|found| !found.delivery.is_settled()) else {
        return;
    };
    let mut mailbox = mailbox(draft, &found.delivery.system);
    found.take_from_queue(draft, &mut mailbox);
    found.becomes(state, at);
    let Found { id, delivery, envelope } = &mut found;
    let number = key::number(&delivery.system, delivery.mailbox_sequence);
    draft.put(number, ended::settled(id, delivery.settlement()));
    raise_floor(draft, &delivery.system, &mut mailbox);
    mailbox.waits_less(envelope);
    put_mailbox(draft, &delivery.system, &mailbox);

    envelope.settled_count += 1;
    if envelope.is_settled() {
        let whole = DeliveryId { recipient_index: 0, ..*id };
        draft.delete(match envelope.warn_unix_ms {
            0 => key::timer(envelope.expires_unix_ms, Timer::Expire, &whole),
            warn => key::timer(warn, Timer::Warn, &whole),
        });
        envelope.settled_unix_ms = at.now;
        if let Some(erase) = envelope.erase_unix_ms() {
            draft.put(key::timer(erase, Timer::Erase, &whole), Vec::new());
        }
    }
    found.put(draft);
}

/// How far every number is settled. Numbers that were forgotten above the
/// floor leave when it passes them.
pub(super) fn raise_floor(draft: &mut Draft<'_>, system: &str, mailbox: &mut MailboxRow) {
    let (start, end) = (key::number(system, mailbox.floor + 1), key::number(system, mailbox.high + 1));
    let mut forgotten = Vec::new();
    draft.scan(&start, &end, &mut |key, value| {
        if !ended::is(value) {
            return std::ops::ControlFlow::Break(());
        }
        mailbox.floor += 1;
        if ended::is_forgotten(value) {
            forgotten.push(key.to_vec());
            mailbox.forgotten_to = mailbox.floor;
        }
        std::ops::ControlFlow::Continue(())
    });
    forgotten.into_iter().for_each(|key| draft.delete(key));
}

pub(super) fn put_ready(
    draft: &mut Draft<'_>,
    id: &DeliveryId,
    delivery: &DeliveryRow,
    envelope: &EnvelopeRow,
) {
    let lane = lane_of(envelope.priority());
    draft.put(
        key::ready(&delivery.system, lane, &envelope.sender, delivery.mailbox_sequence),
        delivery_bytes(id).to_vec(),
    );
}

/// Who acknowledged a delivery holds its documents, and may name them for as
/// long as the envelope keeps them here in any case.
fn grant_documents(draft: &mut Draft<'_>, at: At, delivery: Option<&record::Delivery>) {
    let Some(delivery) = delivery else { return };
    let Some(documents) = draft.get(&key::documents(delivery.envelope_sequence)) else { return };
    let Some(envelope) = row::<EnvelopeRow>(draft, &key::envelope(delivery.envelope_sequence)) else {
        return;
    };
    let pinned_until_unix_ms = match (envelope.cargo_kept_ms, envelope.settled_unix_ms) {
        (0, _) => u64::MAX,
        (kept, 0) => at.now.saturating_add(kept),
        (kept, settled) => settled.saturating_add(kept),
    };
    for document in documents.chunks_exact(40) {
        let (sha256, size) = document.split_at(32);
        let size = super::tables::number(size);
        grant(draft, &delivery.system, sha256, UploadRow { size, pinned_until_unix_ms });
    }
}

fn grant(draft: &mut Draft<'_>, system: &str, sha256: &[u8], upload: UploadRow) {
    let key = key::upload(system, sha256);
    let until = row::<UploadRow>(draft, &key).map_or(0, |held| held.pinned_until_unix_ms);
    let longest = UploadRow { pinned_until_unix_ms: upload.pinned_until_unix_ms.max(until), ..upload };
    draft.put(key, longest.encode_to_vec());
    draft.put(key::uploaded(sha256, system), Vec::new());
}

fn directory_changed(draft: &mut Draft<'_>, at: At, event: &record::DirectoryChanged) {
    draft.put(key::change(event.directory_version), at.sequence.to_be_bytes().to_vec());
    if let Ok(token) = axis_proto::id::Digest::from_slice(&event.enrolment_token_sha256) {
        draft.delete(key::token(&token));
    }
    for entry in &event.entries {
        match &entry.value {
            Some(Value::System(system)) => draft.put(key::system(&system.system_id), system.encode_to_vec()),
            Some(Value::Agency(agency)) => agency_changed(draft, agency),
            Some(Value::SigningKey(key_now)) => {
                let row = KeyRow { key: Some(key_now.clone()), changed_sequence: at.sequence };
                draft.put(key::signing_key(&key_now.key_id), row.encode_to_vec());
                draft.put(key::signing_key_of(&key_now.system, &key_now.key_id), Vec::new());
                let version = key::signing_key_version(&key_now.key_id, at.sequence);
                draft.put(version, key_now.encode_to_vec());
            }
            Some(Value::Certificate(certificate)) => {
                draft.put(key::certificate(&certificate.fingerprint), certificate.encode_to_vec());
                draft.put(key::certificate_of(&certificate.system, &certificate.fingerprint), Vec::new());
            }
            Some(Value::Group(group)) => draft.put(key::group(&group.group_id), group.encode_to_vec()),
            Some(Value::GroupMembers(members)) => {
                for code in &members.removed {
                    draft.delete(key::member(&members.group_id, code));
                }
                for code in &members.added {
                    draft.put(key::member(&members.group_id, code), Vec::new());
                }
            }
            None => {}
        }
    }
}

fn agency_changed(draft: &mut Draft<'_>, agency: &record::Agency) {
    if let Some(before) = row::<record::Agency>(draft, &key::agency(&agency.code)) {
        before.aliases.iter().for_each(|alias| draft.delete(key::alias(alias)));
        if !before.system.is_empty() {
            draft.delete(key::agency_of(&before.system, &agency.code));
        }
        if before.system != agency.system {
            moves::left(draft, &before.system);
        }
    }
    for alias in &agency.aliases {
        draft.put(key::alias(alias), agency.code.clone().into_bytes());
    }
    if !agency.system.is_empty() {
        draft.put(key::agency_of(&agency.system, &agency.code), Vec::new());
    }
    draft.put(key::agency(&agency.code), agency.encode_to_vec());
}

/// A system's counters; all zero for one that never had any.
pub(super) fn mailbox(read: &dyn Read, system: &str) -> MailboxRow {
    let mut mailbox: MailboxRow = row(read, &key::mailbox(system)).unwrap_or_default();
    mailbox.lanes.resize(Priority::ExpressTimed as usize, 0);
    mailbox
}

pub(super) fn edit_mailbox(draft: &mut Draft<'_>, system: &str, edit: impl FnOnce(&mut MailboxRow)) {
    let mut mailbox = mailbox(draft, system);
    edit(&mut mailbox);
    put_mailbox(draft, system, &mailbox);
}

pub(super) fn put_mailbox(draft: &mut Draft<'_>, system: &str, mailbox: &MailboxRow) {
    draft.put(key::mailbox(system), mailbox.encode_to_vec());
}

pub(super) fn edit_envelope(draft: &mut Draft<'_>, sequence: u64, edit: impl FnOnce(&mut EnvelopeRow)) {
    let key = key::envelope(sequence);
    if let Some(mut envelope) = row::<EnvelopeRow>(draft, &key) {
        edit(&mut envelope);
        draft.put(key, envelope.encode_to_vec());
    }
}

/// A delivery with its envelope, changed together.
pub(super) struct Found {
    pub(super) id: DeliveryId,
    pub(super) delivery: DeliveryRow,
    /// Without its first delivery, if that is this one.
    pub(super) envelope: EnvelopeRow,
}

impl Found {
    /// By its id.
    pub(super) fn by_id(read: &dyn Read, id: &DeliveryId) -> Option<Self> {
        let mut envelope: EnvelopeRow = row(read, &key::envelope(id.envelope_sequence))?;
        let delivery = match id.recipient_index {
            0 => envelope.first.take()?,
            _ => row(read, &key::delivery(id))?,
        };
        Some(Self { id: *id, delivery, envelope })
    }

    /// The one that a record names.
    pub(super) fn of(read: &dyn Read, delivery: Option<&record::Delivery>) -> Option<Self> {
        Self::by_id(read, &delivery_id(delivery?))
    }

    /// Where it is from now on, and that it waits for no moment there.
    pub(super) fn becomes(&mut self, state: DeliveryState, at: At) {
        self.delivery.state = state.into();
        self.delivery.since_unix_ms = at.now;
        self.delivery.since_sequence = at.sequence;
        self.delivery.due_unix_ms = 0;
    }

    /// Removes it from wherever it waits, with the counts of that place.
    pub(super) fn take_from_queue(&mut self, draft: &mut Draft<'_>, mailbox: &mut MailboxRow) {
        let Self { id, delivery, envelope } = self;
        let DeliveryRow { system, mailbox_sequence, due_unix_ms, .. } = &*delivery;
        match delivery.state() {
            DeliveryState::Leased => {
                draft.delete(key::timer(*due_unix_ms, Timer::Lapse, id));
                mailbox.leased = mailbox.leased.saturating_sub(1);
                envelope.leased_count = envelope.leased_count.saturating_sub(1);
            }
            DeliveryState::Parked => {
                draft.delete(key::parked(system, id));
                mailbox.parked = mailbox.parked.saturating_sub(1);
            }
            DeliveryState::Waiting if *due_unix_ms > 0 => {
                draft.delete(key::backing_off(system, *due_unix_ms, *mailbox_sequence));
            }
            DeliveryState::Waiting => {
                let lane = lane_of(envelope.priority());
                draft.delete(key::ready(system, lane, &envelope.sender, *mailbox_sequence));
            }
            DeliveryState::Unspecified
            | DeliveryState::Accepted
            | DeliveryState::Acknowledged
            | DeliveryState::Rejected
            | DeliveryState::Expired
            | DeliveryState::Withdrawn
            | DeliveryState::Returned => {}
        }
    }

    /// Writes the delivery, whose envelope has not changed.
    fn put_delivery(mut self, draft: &mut Draft<'_>) {
        match self.id.recipient_index {
            0 => self.put(draft),
            _ => put_delivery(draft, &self.id, self.delivery, &mut self.envelope),
        }
    }

    /// Writes both rows.
    pub(super) fn put(mut self, draft: &mut Draft<'_>) {
        put_delivery(draft, &self.id, self.delivery, &mut self.envelope);
        draft.put(key::envelope(self.id.envelope_sequence), self.envelope.encode_to_vec());
    }
}

/// Writes a delivery's row: in that of its envelope, which is written after it,
/// if it is the first.
fn put_delivery(draft: &mut Draft<'_>, id: &DeliveryId, delivery: DeliveryRow, envelope: &mut EnvelopeRow) {
    match id.recipient_index {
        0 => envelope.first = Some(delivery),
        _ => draft.put(key::delivery(id), delivery.encode_to_vec()),
    }
}

/// Removes a delivery's row; from that of its envelope, which is written after
/// it, if it is the first.
pub(super) fn take_delivery(
    draft: &mut Draft<'_>,
    id: &DeliveryId,
    envelope: &mut EnvelopeRow,
) -> Option<DeliveryRow> {
    if id.recipient_index == 0 {
        return envelope.first.take();
    }
    let key = key::delivery(id);
    let delivery = row(draft, &key)?;
    draft.delete(key);
    Some(delivery)
}
