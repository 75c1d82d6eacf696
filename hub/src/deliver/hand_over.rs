//! What a recipient is handed for a lease: the sender's exact bytes, the
//! small documents, the keys and the proof. Reads only; blocks on the disk.

use axis_proto::{
    envelope::v1::SealedEnvelope,
    hub::v1::{self as hub, DeliveryState, Reason},
    id::{DeliveryId, Digest, KeyId, SystemId},
    record::v1::{Accepted, CargoKind, Leased, Record, SigningKey, record::Event},
    signed,
};
use bytes::Bytes;
use prost::Message as _;

use super::Lease;
use crate::{
    error::{Error, Result},
    evidence::Evidence,
    journal::Entry,
    machine::query,
    state::{Read, State, read_once},
};

/// Makes the delivery of a lease; `None` if the lease is not the current one
/// any more, so that there is nothing to hand over.
pub fn hand_over(state: &dyn State, evidence: &Evidence, lease: Lease) -> Result<Option<hub::Delivery>> {
    let Some(Event::Leased(leased)) = evidence.record(lease.0)?.event else {
        return Err(Error::fault(format!("record {} is no lease", lease.0)));
    };
    let Leased { delivery: Some(delivery), attempt, lease_until_unix_ms } = leased else {
        return Err(Error::fault(format!("lease {} names no delivery", lease.0)));
    };
    let id = DeliveryId {
        envelope_sequence: delivery.envelope_sequence,
        recipient_index: delivery.recipient_index,
    };
    let Some(row) = read_once(state, |read| query::delivery(read, &id)) else {
        return Err(Error::fault(format!("leased delivery {id} is not in the state")));
    };
    if row.state() != DeliveryState::Leased || row.leases != attempt {
        return Ok(None);
    }
    if read_once(state, |read| query::is_withheld(read, &row)) {
        // its agency went to another system since it was leased
        return Ok(None);
    }
    let entry = evidence.entry(delivery.envelope_sequence)?;
    let record = record_of(&entry)?;
    if is_withdrawn(state, delivery.envelope_sequence) {
        // purged since it was leased
        return Ok(None);
    }
    let sealed = cargo_of(&record, &entry, CargoKind::SealedEnvelope)
        .next()
        .ok_or_else(|| Error::fault(format!("envelope {} has no cargo", record.sequence)))?;
    let keys = read_once(state, |read| keys_then(read, &signed::key_ids(&record), record.sequence));
    let (signing_keys, signing_key_sequences) = keys.into_iter().unzip();
    Ok(Some(hub::Delivery {
        delivery_id: id.to_string(),
        mailbox_sequence: delivery.mailbox_sequence,
        recipient: delivery.agency,
        kind: row.kind,
        attempt,
        lease_until_unix_ms,
        sealed_envelope: Some(SealedEnvelope::decode(sealed).map_err(Error::fault)?),
        envelope_digest: delivery.envelope_digest,
        documents: cargo_of(&record, &entry, CargoKind::Document).collect(),
        signing_keys,
        signing_key_sequences,
        receipt: Some(evidence.receipt(lease.0)?),
        accepted_sequence: record.sequence,
        consigned_sequence: row.consigned_sequence,
    }))
}

/// As [`hand_over`] without the disk; `None` if that is needed.
pub fn hand_over_at_once(
    state: &dyn State,
    evidence: &Evidence,
    lease: Lease,
) -> Option<Result<Option<hub::Delivery>>> {
    let record = evidence.is_recent(lease.0).then(|| evidence.record(lease.0).ok())??;
    let Some(Event::Leased(Leased { delivery: Some(delivery), .. })) = record.event else { return None };
    evidence.is_recent(delivery.envelope_sequence).then(|| hand_over(state, evidence, lease))
}

/// Where the bytes of a delivery's document are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Beside the record.
    Inline(Bytes),
    /// In the vault.
    Vault {
        /// Its digest.
        sha256: Digest,
        /// Its size in bytes.
        size: u64,
    },
}

/// Finds a document of a delivery that this system was given at least once,
/// and whose agency it serves, unless it has acknowledged it.
pub fn content_of(
    state: &dyn State,
    evidence: &Evidence,
    system: &SystemId,
    id: &DeliveryId,
    sha256: &Digest,
) -> Result<Content> {
    let (row, left) = read_once(state, |read| {
        let row = query::delivery(read, id);
        let left = row.as_ref().is_some_and(|row| query::has_left(read, id, row, system));
        (row, left)
    });
    let not_served =
        |row: query::DeliveryRow| Err(Error::invalid("delivery_id", Reason::SenderNotServed, row.agency));
    let row = match row {
        Some(row) if row.system == system.as_str() => row,
        Some(row) if left => return not_served(row),
        _ => return Err(Error::invalid("delivery_id", Reason::DeliveryUnknown, id)),
    };
    if !row.is_taken() {
        return Err(Error::invalid("delivery_id", Reason::NeverLeased, id));
    }
    if read_once(state, |read| query::is_withheld(read, &row)) {
        return not_served(row);
    }
    if is_withdrawn(state, id.envelope_sequence) {
        return Err(Error::invalid("delivery_id", Reason::Erased, id));
    }
    let entry = evidence.entry(id.envelope_sequence)?;
    let record = record_of(&entry)?;
    let named =
        accepted_of(&record)?.documents.iter().find(|named| named.sha256 == sha256.as_bytes().as_slice());
    let Some(named) = named else {
        return Err(Error::invalid("sha256", Reason::NotFound, sha256));
    };
    if !named.inline {
        return Ok(Content::Vault { sha256: *sha256, size: named.size });
    }
    let bytes = cargo_of(&record, &entry, CargoKind::Document).find(|bytes| Digest::of(bytes) == *sha256);
    bytes.map(Content::Inline).ok_or_else(|| Error::fault(format!("envelope {} lost cargo", record.sequence)))
}

/// Whether an envelope is handed to nobody any more: it is erased, or two
/// operators have said that it will be.
fn is_withdrawn(state: &dyn State, envelope_sequence: u64) -> bool {
    let envelope = read_once(state, |read| query::envelope_part(read, envelope_sequence));
    envelope.is_none_or(|envelope| envelope.is_withdrawn())
}

fn record_of(entry: &Entry) -> Result<Record> {
    Record::decode(entry.record.clone()).map_err(Error::fault)
}

fn accepted_of(record: &Record) -> Result<&Accepted> {
    match &record.event {
        Some(Event::Accepted(accepted)) => Ok(accepted),
        _ => Err(Error::fault(format!("record {} accepts nothing", record.sequence))),
    }
}

/// The cargo of a kind, in the record's order.
fn cargo_of<'a>(record: &'a Record, entry: &'a Entry, kind: CargoKind) -> impl Iterator<Item = Bytes> + 'a {
    let all = record.cargo.iter().zip(&entry.cargo);
    all.filter(move |(named, _)| named.kind() == kind).map(|(_, bytes)| bytes.clone())
}

/// Keys as the directory held them when a record named them, each with the
/// record that made it so. None of them was revoked then.
pub fn keys_then(read: &dyn Read, key_ids: &[KeyId], sequence: u64) -> Vec<(SigningKey, u64)> {
    key_ids.iter().filter_map(|id| query::signing_key_at(read, id, sequence)).collect()
}
