//! Makes keys.

use axis_proto::id::{DeliveryId, Digest};

use super::{Timer, delivery_bytes};
use crate::state::Key;
pub use crate::state::prefix_end as end_of;

fn join(tag: u8, parts: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(tag);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// → Meta
pub fn meta() -> Key {
    join(b'M', &[])
}
/// → EnvelopeRow
pub fn envelope(sequence: u64) -> Key {
    join(b'e', &[&sequence.to_be_bytes()])
}
/// → sequence of the Accepted record
pub fn envelope_id(sender: &str, id: &[u8]) -> Key {
    join(b'i', &[sender.as_bytes(), &[0], id])
}
/// → digest (32) and size (8) of each document in the vault
pub fn documents(sequence: u64) -> Key {
    join(b'x', &[&sequence.to_be_bytes()])
}
/// → nothing: an envelope that is kept and names this document
pub fn named(sha256: &[u8], sequence: u64) -> Key {
    join(b'y', &[sha256, &sequence.to_be_bytes()])
}
/// All envelopes that name a document.
pub fn named_by(sha256: &[u8]) -> Key {
    join(b'y', &[sha256])
}
/// → PurgeRow
pub fn purge(sequence: u64) -> Key {
    join(b'z', &[&sequence.to_be_bytes()])
}
/// → nothing: an envelope that is not visible to all recipients yet
pub fn pending(sequence: u64) -> Key {
    join(b'p', &[&sequence.to_be_bytes()])
}
/// → DeliveryRow; the first of an envelope is in its [`super::EnvelopeRow`]
pub fn delivery(id: &DeliveryId) -> Key {
    join(b'd', &[&delivery_bytes(id)])
}
/// All deliveries of an envelope but the first.
pub fn deliveries(sequence: u64) -> Key {
    join(b'd', &[&sequence.to_be_bytes()])
}
/// → nothing: a delivery of a wide envelope, by system
pub fn received(system: &str, id: &DeliveryId) -> Key {
    join(b'r', &[system.as_bytes(), &[0], &delivery_bytes(id)])
}
/// → delivery id: may be leased now
pub fn ready(system: &str, lane: usize, sender: &str, mailbox_sequence: u64) -> Key {
    join(
        b'q',
        &[system.as_bytes(), &[0, lane as u8], sender.as_bytes(), &[0], &mailbox_sequence.to_be_bytes()],
    )
}
/// All that is ready in a lane.
pub fn ready_lane(system: &str, lane: usize) -> Key {
    join(b'q', &[system.as_bytes(), &[0, lane as u8]])
}
/// → delivery id: may be leased from `due` on
pub fn backing_off(system: &str, due: u64, mailbox_sequence: u64) -> Key {
    join(b'b', &[system.as_bytes(), &[0], &due.to_be_bytes(), &mailbox_sequence.to_be_bytes()])
}
/// All that backs off.
pub fn backing_offs(system: &str) -> Key {
    join(b'b', &[system.as_bytes(), &[0]])
}
/// → delivery id (12); see [`super::ended`] for what follows once it has
/// ended
pub fn number(system: &str, mailbox_sequence: u64) -> Key {
    join(b'n', &[system.as_bytes(), &[0], &mailbox_sequence.to_be_bytes()])
}
/// → nothing: a number that a delivery has left
pub fn moved(id: &DeliveryId, system: &str, mailbox_sequence: u64) -> Key {
    join(b'D', &[&delivery_bytes(id), system.as_bytes(), &[0], &mailbox_sequence.to_be_bytes()])
}
/// All numbers that a delivery has left.
pub fn moved_of(id: &DeliveryId) -> Key {
    join(b'D', &[&delivery_bytes(id)])
}
/// → SearchRow
pub fn search(system: &str) -> Key {
    join(b'S', &[system.as_bytes()])
}
/// → nothing: parked, by system
pub fn parked(system: &str, id: &DeliveryId) -> Key {
    join(b'P', &[system.as_bytes(), &[0], &delivery_bytes(id)])
}
/// All that is parked for a system.
pub fn parked_of(system: &str) -> Key {
    join(b'P', &[system.as_bytes(), &[0]])
}
/// → nothing: due at `due`
pub fn timer(due: u64, timer: Timer, id: &DeliveryId) -> Key {
    join(b'w', &[&[timer.byte()], &due.to_be_bytes(), &delivery_bytes(id)])
}
/// All timers of a kind that are due before `due`: from and to.
pub fn timers_before(due: u64, timer: Timer) -> (Key, Key) {
    (join(b'w', &[&[timer.byte()]]), join(b'w', &[&[timer.byte()], &due.to_be_bytes()]))
}
/// → MailboxRow
pub fn mailbox(system: &str) -> Key {
    join(b'm', &[system.as_bytes()])
}
/// → time (8) and sequence (8) of a record
pub fn feed(system: &str, feed_sequence: u64) -> Key {
    join(b'f', &[system.as_bytes(), &[0], &feed_sequence.to_be_bytes()])
}
/// → System
pub fn system(id: &str) -> Key {
    join(b's', &[id.as_bytes()])
}
/// → Agency
pub fn agency(code: &str) -> Key {
    join(b'a', &[code.as_bytes()])
}
/// → code
pub fn alias(alias: &str) -> Key {
    join(b'l', &[alias.as_bytes()])
}
/// → nothing: an agency that a system serves
pub fn agency_of(system: &str, code: &str) -> Key {
    join(b'A', &[system.as_bytes(), &[0], code.as_bytes()])
}
/// → KeyRow
pub fn signing_key(key_id: &[u8]) -> Key {
    join(b'k', &[key_id])
}
/// → SigningKey, as it was from a record on
pub fn signing_key_version(key_id: &[u8], changed_sequence: u64) -> Key {
    join(b'h', &[key_id, &changed_sequence.to_be_bytes()])
}
/// → nothing: a key of a system
pub fn signing_key_of(system: &str, key_id: &[u8]) -> Key {
    join(b'K', &[system.as_bytes(), &[0], key_id])
}
/// → Certificate
pub fn certificate(fingerprint: &[u8]) -> Key {
    join(b't', &[fingerprint])
}
/// → nothing: a certificate of a system
pub fn certificate_of(system: &str, fingerprint: &[u8]) -> Key {
    join(b'T', &[system.as_bytes(), &[0], fingerprint])
}
/// → Group
pub fn group(id: &str) -> Key {
    join(b'g', &[id.as_bytes()])
}
/// → nothing: a member of a group
pub fn member(group: &str, code: &str) -> Key {
    join(b'G', &[group.as_bytes(), &[0], code.as_bytes()])
}
/// → TokenRow
pub fn token(sha256: &Digest) -> Key {
    join(b'o', &[sha256.as_bytes()])
}
/// → sequence of a DirectoryChanged record
pub fn change(version: u64) -> Key {
    join(b'v', &[&version.to_be_bytes()])
}
/// → UploadRow
pub fn upload(system: &str, sha256: &[u8]) -> Key {
    join(b'u', &[system.as_bytes(), &[0], sha256])
}
/// → nothing: a system that may name a document
pub fn uploaded(sha256: &[u8], system: &str) -> Key {
    join(b'U', &[sha256, system.as_bytes()])
}
/// All systems that may name a document.
pub fn uploaded_by(sha256: &[u8]) -> Key {
    join(b'U', &[sha256])
}
