//! Questions to one moment of the state. Never changes anything.

use std::{collections::BTreeMap, ops::ControlFlow};

use axis_proto::{
    envelope::v1::Envelope,
    hub::v1::DeliveryState,
    id::{AgencyCode, DeliveryId, Digest, EnvelopeId, KeyId, SystemId},
    record::v1::{
        Agency, AgencyState, Certificate, Group, Record, Settlement, SigningKey, System, SystemState,
        directory_entry::Value, record::Event,
    },
};
use prost::Message;

pub use super::ready::{Turns, ready};
pub use super::tables::{
    DeliveryRow, EnvelopeRow, MailboxRow, Meta, PurgeRow, TokenRow, UploadRow, delivery,
};
use super::{
    apply,
    tables::{
        AgencyPart, Directory, EnvelopePart, KeyRow, SystemPart, decode, deliveries, delivery_from, ended,
        key, number, row,
    },
};
use crate::{
    limits::{self, Millis},
    state::Read,
};

/// About the whole.
pub fn meta(read: &dyn Read) -> Meta {
    row(read, &key::meta()).unwrap_or_default()
}

/// The directory's version.
pub fn directory_version(read: &dyn Read) -> u64 {
    row::<Directory>(read, &key::meta()).map_or(0, |directory| directory.version)
}

/// A system.
pub fn system(read: &dyn Read, id: &SystemId) -> Option<System> {
    row(read, &key::system(id.as_str()))
}

/// Whether a system may act; `None` if there is no such system.
pub fn system_state(read: &dyn Read, id: &str) -> Option<SystemState> {
    row(read, &key::system(id)).map(|system: SystemPart| system.state())
}

/// All systems, in order of id.
pub fn systems(read: &dyn Read) -> Vec<System> {
    rows(read, b"s", b"s", usize::MAX)
}

/// An agency by its code.
pub fn agency(read: &dyn Read, code: &str) -> Option<Agency> {
    row(read, &key::agency(code))
}

/// Who serves an agency, and whether it takes part.
pub fn agency_part(read: &dyn Read, code: &str) -> Option<AgencyPart> {
    row(read, &key::agency(code))
}

/// An agency by its code or an alias.
pub fn agency_or_alias(read: &dyn Read, code: &str) -> Option<Agency> {
    agency(read, code).or_else(|| agency(read, &String::from_utf8(read.get(&key::alias(code))?).ok()?))
}

/// At most `max` agencies after a code whose code or name contains a text,
/// and where the next page begins (empty if there is none). Looks at no more
/// than 10 000 at a time, so a page may be short, or empty, and yet have a
/// next.
pub fn agencies(read: &dyn Read, after: &str, max: usize, containing: &str) -> (Vec<Agency>, String) {
    let wanted = containing.to_lowercase();
    let mut start = key::agency(after);
    start.push(0);
    let (mut found, mut next, mut looked) = (Vec::new(), String::new(), 0);
    let mut last = String::new();
    read.scan(&start, &key::end_of(b"a"), &mut |_, value| {
        if found.len() == max || looked == 10_000 {
            next.clone_from(&last);
            return ControlFlow::Break(());
        }
        looked += 1;
        let agency: Agency = decode(value);
        last.clone_from(&agency.code);
        let matches = wanted.is_empty()
            || agency.code.to_lowercase().contains(&wanted)
            || agency.name.to_lowercase().contains(&wanted);
        if matches {
            found.push(agency);
        }
        ControlFlow::Continue(())
    });
    (found, next)
}

/// At most `max` agencies that a system serves.
pub fn agencies_of(read: &dyn Read, system: &SystemId, max: usize) -> Vec<AgencyCode> {
    let prefix = key::agency_of(system.as_str(), "");
    suffixes(read, &prefix, max).into_iter().filter_map(|code| text(&code).parse().ok()).collect()
}

/// How many agencies a system serves.
pub fn agency_count(read: &dyn Read, system: &SystemId) -> u32 {
    let prefix = key::agency_of(system.as_str(), "");
    let mut count = 0;
    read.scan(&prefix, &key::end_of(&prefix), &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    count
}

/// Whether a system serves an agency.
pub fn serves(read: &dyn Read, system: &SystemId, agency: &str) -> bool {
    read.get(&key::agency_of(system.as_str(), agency)).is_some()
}

/// A certificate by the SHA-256 of its DER form.
pub fn certificate(read: &dyn Read, fingerprint: &Digest) -> Option<Certificate> {
    row(read, &key::certificate(fingerprint.as_bytes()))
}

/// Whether a certificate is within its time and not revoked.
pub fn is_certificate_valid(certificate: &Certificate, now_ms: Millis) -> bool {
    certificate.revoked_unix_ms == 0
        && certificate.valid_from_unix_ms <= now_ms
        && now_ms < certificate.valid_until_unix_ms
}

/// A system's certificates.
pub fn certificates_of(read: &dyn Read, system: &SystemId) -> Vec<Certificate> {
    let prints = suffixes(read, &key::certificate_of(system.as_str(), b""), usize::MAX);
    prints.iter().filter_map(|print| row(read, &key::certificate(print))).collect()
}

/// A signing key and the record that last changed it.
pub fn signing_key(read: &dyn Read, id: &KeyId) -> Option<(SigningKey, u64)> {
    let row: KeyRow = row(read, &key::signing_key(id.as_bytes()))?;
    Some((row.key?, row.changed_sequence))
}

/// A signing key as it was when a record was made, and the record that made it
/// so.
pub fn signing_key_at(read: &dyn Read, id: &KeyId, sequence: u64) -> Option<(SigningKey, u64)> {
    // most keys have not changed since
    if let Some(now) = signing_key(read, id).filter(|(_, changed)| *changed <= sequence) {
        return Some(now);
    }
    let start = key::signing_key_version(id.as_bytes(), 0);
    let end = key::signing_key_version(id.as_bytes(), sequence.saturating_add(1));
    let mut then = None;
    read.scan(&start, &end, &mut |key, value| {
        then = Some((decode(value), number(&key[key.len() - 8..])));
        ControlFlow::Continue(())
    });
    then
}

/// A system's signing keys.
pub fn signing_keys_of(read: &dyn Read, system: &SystemId) -> Vec<SigningKey> {
    let ids = suffixes(read, &key::signing_key_of(system.as_str(), b""), usize::MAX);
    ids.iter().filter_map(|id| row::<KeyRow>(read, &key::signing_key(id))?.key).collect()
}

/// A token that was not used yet, by the SHA-256 of its secret.
pub fn token(read: &dyn Read, sha256: &Digest) -> Option<TokenRow> {
    row(read, &key::token(sha256))
}

/// A group.
pub fn group(read: &dyn Read, id: &str) -> Option<Group> {
    row(read, &key::group(id))
}

/// At most `max` groups after an id, and where the next page begins.
pub fn groups(read: &dyn Read, after: &str, max: usize) -> (Vec<Group>, String) {
    let mut start = key::group(after);
    start.push(0);
    let mut groups: Vec<Group> = rows(read, &start, b"g", max.saturating_add(1));
    let more = groups.len() > max;
    groups.truncate(max);
    let next = if more { groups.last().map(|group| group.group_id.clone()) } else { None };
    (groups, next.unwrap_or_default())
}

/// At most `max` codes of a group's members after a code. Empty for a group
/// of everyone.
pub fn members(read: &dyn Read, group: &str, after: &str, max: usize) -> Vec<String> {
    let prefix = key::member(group, "");
    let mut start = key::member(group, after);
    start.push(0);
    let mut codes = Vec::new();
    read.scan(&start, &key::end_of(&prefix), &mut |key, _| {
        if codes.len() == max {
            return ControlFlow::Break(());
        }
        codes.push(text(&key[prefix.len()..]).to_owned());
        ControlFlow::Continue(())
    });
    codes
}

/// At most `max` directory versions after one, each with its record.
pub fn changes(read: &dyn Read, since_version: u64, max: usize) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    read.scan(&key::change(since_version.saturating_add(1)), &key::end_of(b"v"), &mut |key, value| {
        if found.len() == max {
            return ControlFlow::Break(());
        }
        found.push((number(&key[1..]), number(value)));
        ControlFlow::Continue(())
    });
    found
}

/// An accepted envelope by the sequence of its record.
pub fn envelope(read: &dyn Read, sequence: u64) -> Option<EnvelopeRow> {
    row(read, &key::envelope(sequence))
}

/// What handing an envelope out asks of it.
pub fn envelope_part(read: &dyn Read, sequence: u64) -> Option<EnvelopePart> {
    row(read, &key::envelope(sequence))
}

/// An accepted envelope's record by its sender and id.
pub fn envelope_by_id(read: &dyn Read, sender: &AgencyCode, id: &EnvelopeId) -> Option<u64> {
    read.get(&key::envelope_id(sender.as_str(), id.as_bytes())).map(|value| number(&value))
}

/// Whether an envelope with this one's sender and id was accepted.
pub fn is_envelope_known(read: &dyn Read, envelope: &Envelope) -> bool {
    read.get(&key::envelope_id(&envelope.sender, &envelope.envelope_id)).is_some()
}

/// Whether a record concerns a system: something about its agencies'
/// envelopes, or about itself, or about who takes part, which concerns all.
/// The record that enrols a key names a certificate too: its digest and times,
/// which are no secret. One that names certificates alone is its system's.
pub fn may_see(read: &dyn Read, system: &SystemId, record: &Record) -> bool {
    let id = system.as_str();
    let of_envelope = |sequence: u64| envelope(read, sequence).is_some_and(|row| row.sender_system == id);
    let Some(event) = &record.event else { return false };
    match event {
        Event::Accepted(event) => event.sender_system == id || receives(read, system, record.sequence),
        Event::Consigned(event) => {
            of_envelope(event.envelope_sequence) || receives(read, system, event.envelope_sequence)
        }
        Event::Erased(event) => {
            of_envelope(event.envelope_sequence) || receives(read, system, event.envelope_sequence)
        }
        Event::ExpiryWarned(event) => of_envelope(event.envelope_sequence),
        Event::Uploaded(event) => event.system == id,
        Event::EnrolmentTokenIssued(event) => event.system == id,
        Event::DirectoryChanged(event) => event.entries.iter().any(|entry| match &entry.value {
            Some(Value::Certificate(certificate)) => certificate.system == id,
            _ => true,
        }),
        Event::LogOpened(_) => true,
        Event::Moved(event) if event.system == id => true,
        Event::MailboxSearched(event) => event.system == id,
        Event::FeedTrimmed(event) => event.system == id,
        Event::GrantsLapsed(event) => event.system == id,
        other => apply::delivery_of(other)
            .is_some_and(|delivery| delivery.system == id || of_envelope(delivery.envelope_sequence)),
    }
}

/// Whether a system may have what a record says was signed: the envelope's
/// sender may, and so may the recipient that signed the answer, or that has
/// leased the envelope. Nobody may once its content is erased, or will be
/// because two operators have said so.
pub fn may_have_signed(read: &dyn Read, system: &SystemId, record: &Record) -> bool {
    let delivery = record.event.as_ref().and_then(apply::delivery_of);
    let sequence = delivery.map_or(record.sequence, |delivery| delivery.envelope_sequence);
    let Some(row) = envelope(read, sequence).filter(|row| !row.purged && !row.is_erased()) else {
        return false;
    };
    row.sender_system == system.as_str()
        || match delivery {
            Some(delivery) => delivery.system == system.as_str(),
            None => has_leased(read, sequence, system),
        }
}

/// Whether a system was given some delivery of an envelope, and may still be.
fn has_leased(read: &dyn Read, envelope_sequence: u64, system: &SystemId) -> bool {
    let mut first = 0;
    loop {
        let (visible, next) = track(read, envelope_sequence, first, limits::CONSIGN_MAX, Some(system));
        let given = |row: &DeliveryRow| row.is_taken() && !is_withheld(read, row);
        if visible.iter().any(|one| given(&one.delivery)) {
            return true;
        }
        if next == 0 {
            return false;
        }
        first = next;
    }
}

/// Whether another system serves a delivery's agency now: what this one does
/// not hold already it is not given any more.
pub fn is_withheld(read: &dyn Read, row: &DeliveryRow) -> bool {
    row.state() != DeliveryState::Acknowledged
        && agency_part(read, &row.agency).is_none_or(|agency| agency.system != row.system)
}

/// Whether an envelope is visible to a system as a recipient.
pub fn receives(read: &dyn Read, system: &SystemId, envelope_sequence: u64) -> bool {
    !track(read, envelope_sequence, 0, 1, Some(system)).0.is_empty()
}

/// A system's counters.
pub fn mailbox(read: &dyn Read, system: &SystemId) -> MailboxRow {
    apply::mailbox(read, system.as_str())
}

/// When the oldest delivery that is not settled became visible.
pub fn oldest_unix_ms(read: &dyn Read, system: &SystemId) -> Option<Millis> {
    let mailbox = mailbox(read, system);
    let value = read.get(&key::number(system.as_str(), mailbox.floor + 1))?;
    Some(delivery(read, &delivery_from(&value))?.consigned_unix_ms)
}

/// At most `max` numbers above one and up to `to` that have ended, in order:
/// which delivery had it, how it ended there, and by which record.
pub fn gone(
    read: &dyn Read,
    system: &SystemId,
    after: u64,
    to: u64,
    max: usize,
) -> Vec<(u64, DeliveryId, Settlement, u64)> {
    let mut found = Vec::new();
    let start = key::number(system.as_str(), after.saturating_add(1));
    let end = key::number(system.as_str(), to.saturating_add(1));
    read.scan(&start, &end, &mut |key, value| {
        if found.len() == max {
            return ControlFlow::Break(());
        }
        if let Some(why) = ended::how(value) {
            let record = ended::record(value).unwrap_or_default();
            found.push((number(&key[key.len() - 8..]), delivery_from(value), why, record));
        }
        ControlFlow::Continue(())
    });
    for (_, id, _, record) in &mut found {
        if *record == 0 {
            *record = delivery(read, id).map_or(0, |row| row.since_sequence);
        }
    }
    found
}

/// Whether a delivery was in a system's mailbox once, and went with its agency.
pub fn has_left(read: &dyn Read, id: &DeliveryId, row: &DeliveryRow, system: &SystemId) -> bool {
    let left = |(left, _): &(String, u64)| left == system.as_str();
    row.has_moved && row.system != system.as_str() && left_numbers(read, id).iter().any(left)
}

/// The mailboxes that a delivery has left, with its number in each.
pub fn left_numbers(read: &dyn Read, id: &DeliveryId) -> Vec<(String, u64)> {
    let left = suffixes(read, &key::moved_of(id), usize::MAX);
    left.iter().map(|left| (text(&left[..left.len() - 9]).to_owned(), number(left))).collect()
}

/// At most `max` feed entries after one: number and record.
pub fn feed(read: &dyn Read, system: &SystemId, after: u64, max: usize) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let prefix = key::feed(system.as_str(), 0);
    let end = key::end_of(&prefix[..prefix.len() - 8]);
    read.scan(&key::feed(system.as_str(), after.saturating_add(1)), &end, &mut |key, value| {
        if found.len() == max {
            return ControlFlow::Break(());
        }
        found.push((number(&key[key.len() - 8..]), number(value)));
        ControlFlow::Continue(())
    });
    found
}

/// A document that a system may name.
pub fn upload(read: &dyn Read, system: &SystemId, sha256: &Digest) -> Option<UploadRow> {
    row(read, &key::upload(system.as_str(), sha256.as_bytes()))
}

/// Systems that may name a document, or could until lately.
pub fn uploaders(read: &dyn Read, sha256: &[u8]) -> Vec<String> {
    let found = suffixes(read, &key::uploaded_by(sha256), usize::MAX);
    found.iter().map(|system| text(system).to_owned()).collect()
}

/// Whether an envelope whose content is kept names a document.
pub fn is_named(read: &dyn Read, sha256: &Digest) -> bool {
    let prefix = key::named_by(sha256.as_bytes());
    !suffixes(read, &prefix, 1).is_empty()
}

/// Whether a document is kept for a system that may name it.
pub fn is_pinned(read: &dyn Read, sha256: &Digest, now_ms: Millis) -> bool {
    uploaders(read, sha256.as_bytes()).iter().any(|system| {
        let upload: Option<UploadRow> = row(read, &key::upload(system, sha256.as_bytes()));
        upload.is_some_and(|upload| now_ms < upload.pinned_until_unix_ms)
    })
}

/// Documents in the vault that an envelope names, with their sizes.
pub fn documents(read: &dyn Read, envelope_sequence: u64) -> Vec<(Digest, u64)> {
    let packed = read.get(&key::documents(envelope_sequence)).unwrap_or_default();
    let named = packed.chunks_exact(40);
    named.filter_map(|named| Some((Digest::from_slice(&named[..32]).ok()?, number(&named[32..])))).collect()
}

/// A purge that was asked for.
pub fn purge(read: &dyn Read, envelope_sequence: u64) -> Option<PurgeRow> {
    row(read, &key::purge(envelope_sequence))
}

/// At most `max` numbers of a feed, the oldest first, whose records are older
/// than a moment.
pub fn feed_before(read: &dyn Read, system: &SystemId, before_ms: Millis, max: usize) -> Vec<u64> {
    let mut found = Vec::new();
    let prefix = key::feed(system.as_str(), 0);
    read.scan(&prefix, &key::end_of(&prefix[..prefix.len() - 8]), &mut |key, value| {
        if found.len() == max || number(&value[..8]) >= before_ms {
            return ControlFlow::Break(());
        }
        found.push(number(&key[key.len() - 8..]));
        ControlFlow::Continue(())
    });
    found
}

/// Whether the content of an envelope is erased; also if it is forgotten.
pub fn is_erased(read: &dyn Read, envelope_sequence: u64) -> bool {
    envelope(read, envelope_sequence).is_none_or(|row| row.is_erased())
}

/// One recipient's part of an envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracked {
    /// The delivery.
    pub id: DeliveryId,
    /// Where it is.
    pub delivery: DeliveryRow,
}

/// At most `max` visible deliveries of an envelope from an index on, in
/// order; only those of one system if it is named. The second value is where
/// the next page begins; 0 if there is none.
pub fn track(
    read: &dyn Read,
    envelope_sequence: u64,
    first_index: u32,
    max: usize,
    only_system: Option<&SystemId>,
) -> (Vec<Tracked>, u32) {
    let is_wide = || {
        let envelope = envelope_part(read, envelope_sequence);
        envelope.is_some_and(|envelope| envelope.recipient_count > limits::WIDE_RECIPIENTS)
    };
    if let Some(system) = only_system.filter(|_| is_wide()) {
        let first = DeliveryId { envelope_sequence, recipient_index: first_index };
        return track_wide(read, first, max, system);
    }
    let (mut found, mut next) = (Vec::new(), 0);
    deliveries(read, envelope_sequence, first_index, &mut |id, delivery| {
        if found.len() == max {
            next = id.recipient_index;
            return ControlFlow::Break(());
        }
        if only_system.is_none_or(|system| delivery.system == system.as_str()) {
            found.push(Tracked { id, delivery });
        }
        ControlFlow::Continue(())
    });
    (found, next)
}

/// As `track` for one system, without looking through all the others.
fn track_wide(read: &dyn Read, first: DeliveryId, max: usize, system: &SystemId) -> (Vec<Tracked>, u32) {
    let last = DeliveryId { recipient_index: u32::MAX, ..first };
    let (start, end) = (key::received(system.as_str(), &first), key::received(system.as_str(), &last));
    let (mut ids, mut next) = (Vec::new(), 0);
    read.scan(&start, &end, &mut |key, _| {
        let id = delivery_from(&key[key.len() - 12..]);
        if ids.len() == max {
            next = id.recipient_index;
            return ControlFlow::Break(());
        }
        ids.push(id);
        ControlFlow::Continue(())
    });
    let found = ids.into_iter().filter_map(|id| Some(Tracked { id, delivery: delivery(read, &id)? }));
    (found.collect(), next)
}

/// At most `max` parked deliveries after one, in order of system and id.
pub fn parked(
    read: &dyn Read,
    only_system: Option<&SystemId>,
    after: Option<DeliveryId>,
    max: usize,
) -> Vec<Tracked> {
    let systems = match only_system {
        Some(system) => vec![system.as_str().to_owned()],
        None => systems(read).into_iter().map(|system| system.system_id).collect(),
    };
    // each system's first ones: nobody has all of a long queue in memory
    let mut ids = Vec::new();
    for system in systems {
        let of_system = key::parked_of(&system);
        let start = after
            .map_or_else(|| of_system.clone(), |after| [&key::parked(&system, &after)[..], &[0]].concat());
        let mut found = 0;
        read.scan(&start, &key::end_of(&of_system), &mut |key, _| {
            if found == max {
                return ControlFlow::Break(());
            }
            found += 1;
            ids.push(delivery_from(&key[of_system.len()..]));
            ControlFlow::Continue(())
        });
        ids.sort_unstable();
        ids.truncate(max);
    }
    ids.into_iter().filter_map(|id| Some(Tracked { id, delivery: delivery(read, &id)? })).collect()
}

/// The most attempts that any of a system's leased, parked or backing-off
/// deliveries has had.
pub fn attempts_most(read: &dyn Read, system: &SystemId) -> u32 {
    let backing = key::backing_offs(system.as_str());
    let mut most = 0;
    let mut ids: Vec<DeliveryId> = Vec::new();
    read.scan(&backing, &key::end_of(&backing), &mut |_, value| {
        ids.push(delivery_from(value));
        if ids.len() == 1_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    ids.extend(suffixes(read, &key::parked_of(system.as_str()), 1_000).iter().map(|id| delivery_from(id)));
    for id in ids {
        most = most.max(delivery(read, &id).map_or(0, |delivery| delivery.attempts));
    }
    most
}

/// When the first backing-off delivery of a system may be leased again.
pub fn next_due_ms(read: &dyn Read, system: &SystemId) -> Option<Millis> {
    let prefix = key::backing_offs(system.as_str());
    let mut due = None;
    read.scan(&prefix, &key::end_of(&prefix), &mut |key, _| {
        due = Some(number(&key[prefix.len()..prefix.len() + 8]));
        ControlFlow::Break(())
    });
    due
}

/// Documents in the vault that a delivery still needs, with their sizes, each
/// once.
pub fn documents_needed(read: &dyn Read) -> BTreeMap<Digest, u64> {
    let mut packed: Vec<(u64, Vec<u8>)> = Vec::new();
    read.scan(b"x", &key::end_of(b"x"), &mut |key, value| {
        packed.push((number(&key[1..]), value.to_vec()));
        ControlFlow::Continue(())
    });
    packed.retain(|(sequence, _)| envelope(read, *sequence).is_some_and(|row| !row.is_settled()));
    unpacked(packed.iter().flat_map(|(_, documents)| documents.chunks_exact(40)))
}

/// Documents in the vault that a kept envelope names, with their sizes, each
/// once.
pub fn documents_named(read: &dyn Read) -> BTreeMap<Digest, u64> {
    let mut packed: Vec<u8> = Vec::new();
    read.scan(b"x", &key::end_of(b"x"), &mut |_, value| {
        packed.extend_from_slice(value);
        ControlFlow::Continue(())
    });
    unpacked(packed.chunks_exact(40))
}

fn unpacked<'a>(documents: impl Iterator<Item = &'a [u8]>) -> BTreeMap<Digest, u64> {
    documents
        .filter_map(|document| Some((Digest::from_slice(&document[..32]).ok()?, number(&document[32..]))))
        .collect()
}

/// Whether an agency can receive at a moment: active, valid, connected to an
/// active system.
pub fn is_reachable(read: &dyn Read, agency: &Agency, now_ms: Millis) -> bool {
    is_in_force(agency, now_ms) && is_system_active(read, &agency.system)
}

/// Whether an agency is active and valid at a moment.
pub fn is_in_force(agency: &Agency, now_ms: Millis) -> bool {
    agency.state() == AgencyState::Active
        && agency.valid_from_unix_ms <= now_ms
        && (agency.valid_until_unix_ms == 0 || now_ms < agency.valid_until_unix_ms)
}

/// Whether a system exists and may act.
pub fn is_system_active(read: &dyn Read, system: &str) -> bool {
    system_state(read, system) == Some(SystemState::Active)
}

/// Whether a delivery can still be settled.
pub fn is_open(delivery: &DeliveryRow) -> bool {
    matches!(
        delivery.state(),
        DeliveryState::Waiting | DeliveryState::Leased | DeliveryState::Parked | DeliveryState::Accepted
    )
}

fn rows<M: Message + Default>(read: &dyn Read, start: &[u8], prefix: &[u8], max: usize) -> Vec<M> {
    let mut found = Vec::new();
    read.scan(start, &key::end_of(prefix), &mut |_, value| {
        if found.len() == max {
            return ControlFlow::Break(());
        }
        found.push(decode(value));
        ControlFlow::Continue(())
    });
    found
}

fn suffixes(read: &dyn Read, prefix: &[u8], max: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    read.scan(prefix, &key::end_of(prefix), &mut |key, _| {
        if found.len() == max {
            return ControlFlow::Break(());
        }
        found.push(key[prefix.len()..].to_vec());
        ControlFlow::Continue(())
    });
    found
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("codes in keys were text when the machine wrote them")
}
