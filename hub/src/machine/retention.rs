//! How things leave: content after its time or by a purge, summaries after
//! theirs, documents that nothing needs, old entries of feeds. First what is
//! decided, then what follows. Nothing that is not settled is ever touched.

use std::ops::ControlFlow;

use axis_proto::{
    hub::v1::Reason,
    id::{DeliveryId, Digest, SystemId},
    record::v1::{
        self as record, CargoKind, DocumentsCollected, Erased, ErasureCause, FeedTrimmed, Forgotten,
        ForgottenRange, GrantsLapsed, PurgeConfirmed, PurgeRequested, Returned, Settlement, record::Event,
    },
};
use bytes::Bytes;
use prost::Message;

use super::{
    apply::{At, Found, delivery_of, edit_envelope, edit_mailbox, mailbox, take_delivery},
    batch::{Batch, remark_cargo},
    command::Outcome,
    delivery::timers,
    query,
    tables::{DeliveryRow, EnvelopeRow, PurgeRow, Timer, UploadRow, deliveries, ended, key, number, row},
};
use crate::{
    error::{Error, Refusal, Result},
    limits::{self, Millis},
    state::{Draft, Read},
};

/// What the timers say, at most `room` records: content whose time is over,
/// then what may be forgotten.
pub(super) fn due(batch: &mut Batch<'_>, room: usize) -> Vec<u64> {
    let mut sequences = Vec::new();
    for (_, id) in timers(&batch.draft, Timer::Erase, batch.now, room) {
        let event = |envelope: &EnvelopeRow| Erased {
            envelope_sequence: id.envelope_sequence,
            envelope_digest: Bytes::copy_from_slice(&envelope.envelope_digest),
            cause: ErasureCause::Retention.into(),
            ..Erased::default()
        };
        let Some(envelope) = query::envelope(&batch.draft, id.envelope_sequence) else { continue };
        let event = Event::Erased(event(&envelope));
        sequences.extend(batch.record(event, &[], Vec::new()));
    }
    if sequences.len() < room {
        sequences.extend(forget(batch));
    }
    sequences
}

/// The next range that may be forgotten, of as many envelopes as fit.
fn forget(batch: &mut Batch<'_>) -> Option<u64> {
    let (mut ranges, mut left) = (Vec::new(), limits::FORGET_MAX);
    for (_, id) in timers(&batch.draft, Timer::Forget, batch.now, limits::FORGET_MAX as usize) {
        let Some(envelope) = query::envelope(&batch.draft, id.envelope_sequence) else { continue };
        let recipient_count = (envelope.recipient_count - envelope.forgotten_count).min(left);
        ranges.push(ForgottenRange {
            envelope_sequence: id.envelope_sequence,
            first_recipient_index: envelope.forgotten_count,
            recipient_count,
        });
        left -= recipient_count;
        if left == 0 {
            break;
        }
    }
    if ranges.is_empty() {
        return None;
    }
    batch.record(Event::Forgotten(Forgotten { ranges }), &[], Vec::new()).ok()
}

fn known(read: &dyn Read, sequence: u64) -> Result<EnvelopeRow> {
    query::envelope(read, sequence).ok_or_else(|| Error::invalid("envelope_id", Reason::NotFound, sequence))
}

/// An operator wants content erased at once. Asked again by the same one, it
/// is the same request, until it lapses.
pub(super) fn request_purge(
    batch: &mut Batch<'_>,
    sequence: u64,
    operator: &str,
    remark: &str,
) -> Result<Outcome> {
    let envelope = known(&batch.draft, sequence)?;
    if envelope.is_erased() {
        return Err(Error::invalid("envelope_id", Reason::Erased, envelope.erased_unix_ms));
    }
    if let Some(purge) = query::purge(&batch.draft, sequence) {
        let waits = !purge.confirmed_by.is_empty() || batch.recorded < purge.lapses_unix_ms;
        if waits && purge.requested_by == operator {
            return Ok(Outcome::before([purge.requested_sequence]));
        }
        if waits {
            return Err(Error::invalid("envelope_id", Reason::AlreadyExists, purge.requested_by));
        }
    }
    let event = Event::PurgeRequested(PurgeRequested {
        envelope_sequence: sequence,
        envelope_digest: Bytes::from(envelope.envelope_digest),
        operator: operator.to_owned(),
        lapses_unix_ms: batch.recorded + limits::PURGE_REQUEST_MS,
    });
    Ok(Outcome::recorded([batch.record(event, &[], remark_cargo(remark)?)?]))
}

/// Begins the name of an operator of whom nobody knows who logged in: then it
/// names the account, which several people may share.
pub const ACCOUNT: &str = "account:";

/// Why two operators may be one person; `None` if they are two. A login and an
/// account may be one, for who logs in may use the account too, as two logins
/// or two accounts are not.
fn maybe_one(asked: &str, agrees: &str) -> Option<String> {
    if asked == agrees {
        return Some(format!("{agrees} asked for it"));
    }
    (asked.starts_with(ACCOUNT) != agrees.starts_with(ACCOUNT)).then(|| {
        format!(
            "{asked} asked and {agrees} agrees: one of them did not log in, so they may be one person; \
             let both do it from a login of their own"
        )
    })
}

/// Another operator agrees: from here on it is not handed out.
pub(super) fn confirm_purge(batch: &mut Batch<'_>, sequence: u64, operator: &str) -> Result<Outcome> {
    let envelope = known(&batch.draft, sequence)?;
    let refused = |reason: Reason| Err(Error::invalid("envelope_id", reason, sequence));
    let Some(purge) = query::purge(&batch.draft, sequence) else {
        return refused(Reason::PurgeNotRequested);
    };
    if !purge.confirmed_by.is_empty() {
        return Ok(Outcome::before([purge.requested_sequence]));
    }
    // by the records: a clock that is set back revives no request
    if batch.recorded >= purge.lapses_unix_ms {
        return refused(Reason::PurgeNotRequested);
    }
    if let Some(why) = maybe_one(&purge.requested_by, operator) {
        let refusal = Refusal::new(Reason::SecondOperator).at("operator", Reason::SecondOperator, why);
        return Err(refusal.into());
    }
    let event = Event::PurgeConfirmed(PurgeConfirmed {
        envelope_sequence: sequence,
        envelope_digest: Bytes::from(envelope.envelope_digest),
        requested_sequence: purge.requested_sequence,
        operator: operator.to_owned(),
    });
    Ok(Outcome::recorded([batch.record(event, &[], Vec::new())?]))
}

/// The next step of a purge: returns what is not settled, and erases once
/// everything is. What is not visible to its recipients yet becomes so first,
/// by the writer's own hand.
pub(super) fn proceed_purge(batch: &mut Batch<'_>, sequence: u64) -> Result<Outcome> {
    let mut sequences = Vec::new();
    let envelope = known(&batch.draft, sequence)?;
    let purge = query::purge(&batch.draft, sequence).filter(|purge| !purge.confirmed_by.is_empty());
    let Some(purge) = purge.filter(|_| !is_purged(&envelope)) else {
        return Ok(Outcome::before(sequences));
    };
    let mut open = unsettled(&batch.draft, sequence, envelope.expire_cursor);
    if open.is_empty() && envelope.expire_cursor > 0 {
        open = unsettled(&batch.draft, sequence, 0);
    }
    for id in open {
        let Some(found) = Found::by_id(&batch.draft, &id) else { continue };
        let event = Returned { delivery: found.named(), operator: purge.confirmed_by.clone() };
        sequences.push(batch.record(Event::Returned(event), &found.both_feeds(), Vec::new())?);
    }
    let envelope = known(&batch.draft, sequence)?;
    if envelope.is_settled() {
        let event = Event::Erased(Erased {
            envelope_sequence: sequence,
            envelope_digest: Bytes::copy_from_slice(&envelope.envelope_digest),
            cause: ErasureCause::Purged.into(),
            requested_by: purge.requested_by,
            confirmed_by: purge.confirmed_by,
        });
        sequences.push(batch.record(event, &[&envelope.sender_system], Vec::new())?);
    }
    Ok(Outcome::recorded(sequences))
}

fn is_purged(envelope: &EnvelopeRow) -> bool {
    envelope.erasure_cause() == ErasureCause::Purged
}

/// Deliveries of an envelope, from an index on, that are not settled.
fn unsettled(read: &dyn Read, sequence: u64, from: u32) -> Vec<DeliveryId> {
    let mut found = Vec::new();
    deliveries(read, sequence, from, &mut |id, delivery| {
        if found.len() == limits::PURGE_RETURNS_MAX {
            return ControlFlow::Break(());
        }
        if !delivery.is_settled() {
            found.push(id);
        }
        ControlFlow::Continue(())
    });
    found
}

/// Records which of these documents leave the vault; none if all are needed.
pub(super) fn collect_documents(
    batch: &mut Batch<'_>,
    documents: &[Digest],
    purged_envelope: Option<u64>,
) -> Result<Outcome> {
    if documents.len() > limits::DIGESTS_IN_RECORD_MAX {
        return Err(Error::invalid("documents", Reason::TooLarge, documents.len()));
    }
    let purged = purged_envelope.and_then(|sequence| query::envelope(&batch.draft, sequence));
    if purged_envelope.is_some() && !purged.is_some_and(|envelope| is_purged(&envelope)) {
        return Err(Error::refused(Reason::PurgeNotRequested));
    }
    let now = batch.now;
    let free = documents.iter().filter(|sha256| {
        !query::is_named(&batch.draft, sha256)
            && (purged_envelope.is_some() || !query::is_pinned(&batch.draft, sha256, now))
    });
    let sha256: Vec<Bytes> = free.map(|sha256| Bytes::copy_from_slice(sha256.as_bytes())).collect();
    if sha256.is_empty() {
        return Ok(Outcome::before(Vec::new()));
    }
    let event = DocumentsCollected { sha256, purged_envelope_sequence: purged_envelope.unwrap_or_default() };
    Ok(Outcome::recorded([batch.record(Event::DocumentsCollected(event), &[], Vec::new())?]))
}

/// Trims what is older than a moment from a feed, some entries at a time.
pub(super) fn trim_feed(
    batch: &mut Batch<'_>,
    system: &SystemId,
    older_than_unix_ms: Millis,
) -> Result<Outcome> {
    if older_than_unix_ms > batch.now.saturating_sub(limits::FEED_KEPT_MIN_MS) {
        return Err(Error::invalid("older_than_unix_ms", Reason::FieldInvalid, older_than_unix_ms));
    }
    let entries = query::feed_before(&batch.draft, system, older_than_unix_ms, limits::FEED_TRIM_MAX);
    let Some(up_to) = entries.last().copied() else {
        return Ok(Outcome::before(Vec::new()));
    };
    let event = FeedTrimmed { system: system.to_string(), up_to, older_than_unix_ms };
    Ok(Outcome::recorded([batch.record(Event::FeedTrimmed(event), &[], Vec::new())?]))
}

/// Uploads whose time is over.
pub(super) fn lapse_grants(
    batch: &mut Batch<'_>,
    system: &SystemId,
    documents: &[Digest],
) -> Result<Outcome> {
    if documents.len() > limits::DIGESTS_IN_RECORD_MAX {
        return Err(Error::invalid("documents", Reason::TooLarge, documents.len()));
    }
    let now = batch.now;
    let over = documents.iter().filter(|sha256| {
        query::upload(&batch.draft, system, sha256).is_some_and(|upload| upload.pinned_until_unix_ms <= now)
    });
    let sha256: Vec<Bytes> = over.map(|sha256| Bytes::copy_from_slice(sha256.as_bytes())).collect();
    if sha256.is_empty() {
        return Ok(Outcome::before(Vec::new()));
    }
    let event = GrantsLapsed { system: system.to_string(), sha256 };
    Ok(Outcome::recorded([batch.record(Event::GrantsLapsed(event), &[], Vec::new())?]))
}

// what follows from the records

pub(super) fn erased(draft: &mut Draft<'_>, at: At, event: &Erased) {
    let sequence = event.envelope_sequence;
    let Some(mut envelope) = row::<EnvelopeRow>(draft, &key::envelope(sequence)) else { return };
    let whole = DeliveryId { envelope_sequence: sequence, recipient_index: 0 };
    if let Some(due) = envelope.erase_unix_ms() {
        draft.delete(key::timer(due, Timer::Erase, &whole));
    }
    if let Some(due) = envelope.forget_unix_ms() {
        draft.put(key::timer(due, Timer::Forget, &whole), Vec::new());
    }
    for document in draft.get(&key::documents(sequence)).unwrap_or_default().chunks_exact(40) {
        draft.delete(key::named(&document[..32], sequence));
    }
    draft.delete(key::documents(sequence));
    if !envelope.is_erased() {
        envelope.erased_unix_ms = at.now;
        envelope.erased_sequence = at.sequence;
    }
    envelope.erasure_cause = event.cause;
    draft.put(key::envelope(sequence), envelope.encode_to_vec());
}

pub(super) fn forgotten(draft: &mut Draft<'_>, event: &Forgotten) {
    for range in &event.ranges {
        let sequence = range.envelope_sequence;
        let Some(mut envelope) = row::<EnvelopeRow>(draft, &key::envelope(sequence)) else { continue };
        let first = range.first_recipient_index;
        for recipient_index in first..first.saturating_add(range.recipient_count) {
            forget_delivery(
                draft,
                &DeliveryId { envelope_sequence: sequence, recipient_index },
                &mut envelope,
            );
        }
        envelope.forgotten_count += range.recipient_count;
        if envelope.forgotten_count < envelope.recipient_count {
            draft.put(key::envelope(sequence), envelope.encode_to_vec());
            continue;
        }
        let whole = DeliveryId { envelope_sequence: sequence, recipient_index: 0 };
        if let Some(due) = envelope.forget_unix_ms() {
            draft.delete(key::timer(due, Timer::Forget, &whole));
        }
        draft.delete(key::envelope_id(&envelope.sender, &envelope.envelope_id));
        draft.delete(key::purge(sequence));
        draft.delete(key::envelope(sequence));
    }
}

/// Forgets a delivery; its envelope's row is written by the caller.
fn forget_delivery(draft: &mut Draft<'_>, id: &DeliveryId, envelope: &mut EnvelopeRow) {
    let Some(delivery) = take_delivery(draft, id, envelope) else { return };
    let DeliveryRow { system, mailbox_sequence, .. } = &delivery;
    draft.delete(key::received(system, id));
    let how = ended::forgotten(id, delivery.settlement(), delivery.since_sequence);
    forget_number(draft, system, *mailbox_sequence, how);
    if delivery.has_moved {
        for (system, mailbox_sequence) in query::left_numbers(draft, id) {
            draft.delete(key::moved(id, &system, mailbox_sequence));
            let held = draft.get(&key::number(&system, mailbox_sequence)).unwrap_or_default();
            let by = ended::record(&held).unwrap_or_default();
            let how = ended::forgotten(id, Settlement::Moved, by);
            forget_number(draft, &system, mailbox_sequence, how);
        }
    }
}

/// A number of a mailbox is forgotten; above the floor that remembers how it
/// ended until it takes the number along.
fn forget_number(draft: &mut Draft<'_>, system: &str, mailbox_sequence: u64, how: Vec<u8>) {
    let number = key::number(system, mailbox_sequence);
    if mailbox_sequence <= mailbox(draft, system).floor {
        draft.delete(number);
        edit_mailbox(draft, system, |mailbox| {
            mailbox.forgotten_to = mailbox.forgotten_to.max(mailbox_sequence);
        });
    } else {
        draft.put(number, how);
    }
}

pub(super) fn documents_collected(draft: &mut Draft<'_>, event: &DocumentsCollected) {
    for sha256 in &event.sha256 {
        for system in query::uploaders(draft, sha256) {
            draft.delete(key::upload(&system, sha256));
            draft.delete(key::uploaded(sha256, &system));
        }
    }
}

pub(super) fn purge_requested(draft: &mut Draft<'_>, at: At, event: &PurgeRequested) {
    let purge = PurgeRow {
        requested_sequence: at.sequence,
        requested_by: event.operator.clone(),
        lapses_unix_ms: event.lapses_unix_ms,
        confirmed_by: String::new(),
    };
    draft.put(key::purge(event.envelope_sequence), purge.encode_to_vec());
}

pub(super) fn purge_confirmed(draft: &mut Draft<'_>, event: &PurgeConfirmed) {
    let sequence = event.envelope_sequence;
    let (key, whole) = (key::purge(sequence), DeliveryId { envelope_sequence: sequence, recipient_index: 0 });
    let mut purge: PurgeRow = row(draft, &key).unwrap_or_default();
    purge.confirmed_by.clone_from(&event.operator);
    draft.put(key, purge.encode_to_vec());
    let Some(envelope) = row::<EnvelopeRow>(draft, &key::envelope(sequence)) else { return };
    if envelope.consigned_count < envelope.recipient_count {
        // whatever it waited for: every recipient gets its number, and its end
        draft.delete(key::timer(envelope.not_before_unix_ms, Timer::Consign, &whole));
        draft.put(key::pending(sequence), Vec::new());
    }
    edit_envelope(draft, sequence, |envelope| envelope.purged = true);
}

/// As for what expires: those before it have been looked at.
pub(super) fn returned(draft: &mut Draft<'_>, delivery: Option<&record::Delivery>) {
    let Some(delivery) = delivery else { return };
    edit_envelope(draft, delivery.envelope_sequence, |envelope| {
        if envelope.purged {
            envelope.expire_cursor = envelope.expire_cursor.max(delivery.recipient_index + 1);
        }
    });
}

pub(super) fn feed_trimmed(draft: &mut Draft<'_>, event: &FeedTrimmed) {
    let (start, end) = (key::feed(&event.system, 0), key::feed(&event.system, event.up_to.saturating_add(1)));
    let mut old = Vec::new();
    draft.scan(&start, &end, &mut |key, _| {
        old.push(key.to_vec());
        ControlFlow::Continue(())
    });
    old.into_iter().for_each(|key| draft.delete(key));
}

pub(super) fn grants_lapsed(draft: &mut Draft<'_>, event: &GrantsLapsed) {
    for sha256 in &event.sha256 {
        draft.delete(key::upload(&event.system, sha256));
        draft.delete(key::uploaded(sha256, &event.system));
    }
}

// what the background work asks

/// The places of a record's cargo that may be erased: content of an envelope
/// that is erased, or forgotten. Lists of leaves stay: replay and receipts
/// need them, and they hold no content.
pub fn erasable(read: &dyn Read, record: &record::Record) -> Vec<usize> {
    let is_content = |kind: CargoKind| !matches!(kind, CargoKind::RecipientList | CargoKind::ConsignmentList);
    match envelope_of(record) {
        Some(envelope) if query::is_erased(read, envelope) => {
            let content = record.cargo.iter().enumerate().filter(|(_, cargo)| is_content(cargo.kind()));
            content.filter(|(_, cargo)| cargo.size > 0).map(|(place, _)| place).collect()
        }
        _ => Vec::new(),
    }
}

/// The envelope that a record's content belongs to.
pub fn envelope_of(record: &record::Record) -> Option<u64> {
    match record.event.as_ref()? {
        Event::Accepted(_) => Some(record.sequence),
        event => delivery_of(event).map(|delivery| delivery.envelope_sequence),
    }
}

/// Whether an envelope is forgotten at a moment whatever became of it: it was
/// settled at its deadline at the latest.
pub fn is_forgotten_by(accepted: &record::Accepted, now_ms: Millis) -> bool {
    let (expires_ms, kept_ms) = (accepted.expires_unix_ms, accepted.summary_kept_ms);
    expires_ms > 0 && kept_ms > 0 && now_ms >= expires_ms.saturating_add(kept_ms)
}

/// A page of grants that have lapsed by a moment: system and document, and
/// where the next page begins; empty at the end.
pub fn lapsed_grants(
    read: &dyn Read,
    after: &[u8],
    now_ms: Millis,
    max: usize,
) -> (Vec<(SystemId, Digest)>, Vec<u8>) {
    let (mut found, mut next, mut looked) = (Vec::new(), Vec::new(), 0);
    let start = if after.is_empty() { b"u" } else { after };
    read.scan(start, &key::end_of(b"u"), &mut |key, value| {
        if looked == max {
            next = key.to_vec();
            return ControlFlow::Break(());
        }
        looked += 1;
        let over = UploadRow::decode(value).is_ok_and(|upload| upload.pinned_until_unix_ms <= now_ms);
        // tag, system, zero, 32 bytes of digest
        let (system, sha256) = key[1..].split_at(key.len() - 34);
        let system = std::str::from_utf8(system).ok().and_then(|system| system.parse().ok());
        if let (true, Some(system), Ok(sha256)) = (over, system, Digest::from_slice(&sha256[1..])) {
            found.push((system, sha256));
        }
        ControlFlow::Continue(())
    });
    (found, next)
}

/// Purges that were agreed to and have not erased yet, or only since a moment:
/// nobody knows whether those were carried out to their end.
pub fn purges_under_way(read: &dyn Read, since_ms: Millis) -> Vec<u64> {
    let mut found = Vec::new();
    read.scan(b"z", &key::end_of(b"z"), &mut |key, value| {
        let confirmed = PurgeRow::decode(value).is_ok_and(|purge| !purge.confirmed_by.is_empty());
        let sequence = number(&key[1..]);
        let is_done = |row: &EnvelopeRow| is_purged(row) && row.erased_unix_ms < since_ms;
        if confirmed && !query::envelope(read, sequence).is_some_and(|row| is_done(&row)) {
            found.push(sequence);
        }
        ControlFlow::Continue(())
    });
    found
}
