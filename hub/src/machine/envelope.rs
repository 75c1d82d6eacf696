//! An envelope is accepted whole or not at all, then made visible to its
//! recipients, a range at a time.

use std::{collections::BTreeMap, sync::Arc};

use axis_proto::{
    envelope::v1::{Priority, envelope::Body},
    hub::v1::Reason,
    id::{Digest, KeyId, SystemId},
    record::v1::{
        Accepted, AgencyState, CargoKind, Consigned, ConsignmentLeaf, DocumentDigest, LeafList,
        RecipientLeaf, record::Event,
    },
};
use bytes::Bytes;
use prost::Message;

use super::{
    apply,
    batch::{Batch, leaf_list},
    command::{Content, Outcome, Signed, Submit},
    expand::{self, Expanding, Listed, Recipients},
    moves, query,
    tables::{key, number},
};
use crate::{
    error::{Error, Refusal, Result},
    limits::{self, Millis},
    state::Read,
};

/// Whom an envelope goes to, and what is missing before it can.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expansion {
    /// Each agency once, in order of code.
    pub recipients: Arc<Recipients>,
    /// Documents that the system neither sends along, nor uploaded, nor
    /// acknowledged.
    pub missing_documents: Vec<Digest>,
    /// The record that accepted this same envelope before.
    pub duplicate_of: Option<u64>,
}

/// Whether an envelope could be accepted at this moment of the state, and for
/// whom. Missing documents are listed, not refused.
///
/// # Errors
/// The refusal, with every bad recipient named.
pub fn check(read: &dyn Read, submit: &Submit, now_ms: Millis) -> std::result::Result<Expansion, Refusal> {
    let may_speak = || may_speak_for(read, &submit.system, &submit.envelope.sender, &submit.signed, now_ms);
    check_by(read, submit, now_ms, may_speak)
}

/// As [`check`], by someone's word on whether the sender may speak.
fn check_by(
    read: &dyn Read,
    submit: &Submit,
    now_ms: Millis,
    may_speak: impl FnOnce() -> std::result::Result<(), Refusal>,
) -> std::result::Result<Expansion, Refusal> {
    if let Some(sequence) = already_accepted(read, submit)? {
        return Ok(Expansion { duplicate_of: Some(sequence), ..Expansion::default() });
    }
    may_speak()?;
    in_time(submit, now_ms)?;
    Ok(Expansion {
        recipients: expand(read, submit, now_ms)?,
        missing_documents: missing_documents(read, submit, now_ms),
        duplicate_of: None,
    })
}

/// The record that accepted this same envelope before.
fn already_accepted(read: &dyn Read, submit: &Submit) -> std::result::Result<Option<u64>, Refusal> {
    let envelope = &submit.envelope;
    let sequence = read.get(&key::envelope_id(&envelope.sender, &envelope.envelope_id));
    let Some(sequence) = sequence.map(|sequence| number(&sequence)) else { return Ok(None) };
    let held = query::envelope(read, sequence).map(|row| row.envelope_digest).unwrap_or_default();
    if held == submit.signed.digest.as_bytes() {
        return Ok(Some(sequence));
    }
    Err(Refusal::new(Reason::EnvelopeConflict)
        .at("envelope.envelope_id", Reason::EnvelopeConflict, "used for other content")
        .fact("accepted_digest", hex::encode(held))
        .fact("submitted_digest", submit.signed.digest))
}

/// Whether a system may act, with the certificate that it showed, serves an
/// agency, and signed with keys that are its own, valid, and cover that agency,
/// all at this moment.
pub(super) fn may_speak_for(
    read: &dyn Read,
    system: &SystemId,
    agency: &str,
    signed: &Signed,
    now_ms: Millis,
) -> std::result::Result<(), Refusal> {
    if !query::is_system_active(read, system.as_str()) {
        return Err(Refusal::new(Reason::Suspended).at("system", Reason::Suspended, system));
    }
    let certificate = query::certificate(read, &signed.certificate)
        .filter(|row| row.system == system.as_str() && query::is_certificate_valid(row, now_ms));
    if certificate.is_none() {
        return Err(Refusal::new(Reason::NotAuthenticated));
    }
    let Some(served) = query::agency_part(read, agency).filter(|row| row.system == system.as_str()) else {
        return Err(Refusal::new(Reason::SenderNotServed).at("agency", Reason::SenderNotServed, agency));
    };
    if served.state() != AgencyState::Active {
        return Err(Refusal::new(Reason::Suspended).at("agency", Reason::Suspended, agency));
    }
    for (place, key_id) in signed.key_ids.iter().enumerate() {
        if let Some(reason) = key_fault(read, key_id, system, agency, now_ms) {
            return Err(Refusal::new(reason).at(format!("sealed.signatures[{place}]"), reason, key_id));
        }
    }
    Ok(())
}

fn key_fault(
    read: &dyn Read,
    key_id: &KeyId,
    system: &SystemId,
    agency: &str,
    now_ms: Millis,
) -> Option<Reason> {
    let Some((key, _)) = query::signing_key(read, key_id).filter(|(key, _)| key.system == system.as_str())
    else {
        return Some(Reason::KeyUnknown);
    };
    if key.revoked_unix_ms != 0 {
        return Some(Reason::KeyRevoked);
    }
    if now_ms < key.valid_from_unix_ms || (key.valid_until_unix_ms != 0 && now_ms >= key.valid_until_unix_ms)
    {
        return Some(Reason::KeyExpired);
    }
    let covers = key.agencies.is_empty() || key.agencies.iter().any(|code| code == agency);
    if covers { None } else { Some(Reason::KeyOutOfScope) }
}

fn in_time(submit: &Submit, now_ms: Millis) -> std::result::Result<(), Refusal> {
    let envelope = &submit.envelope;
    let created = envelope.created_unix_ms;
    let refuse = |reason, field: &str| {
        Err(Refusal::new(reason).at(field, reason, created).fact("hub_time_unix_ms", now_ms))
    };
    if created.saturating_add(limits::CREATED_AGE_MAX_MS) < now_ms {
        return refuse(Reason::Stale, "envelope.created_unix_ms");
    }
    if created > now_ms.saturating_add(limits::CREATED_AHEAD_MAX_MS) {
        return refuse(Reason::Future, "envelope.created_unix_ms");
    }
    if expires(submit) <= now_ms {
        return refuse(Reason::Expired, "envelope.expires_unix_ms");
    }
    Ok(())
}

/// The deadline, named or by default.
fn expires(submit: &Submit) -> Millis {
    match submit.envelope.expires_unix_ms {
        0 => submit.envelope.created_unix_ms.saturating_add(limits::EXPIRES_DEFAULT_MS),
        named => named,
    }
}

/// Recipients that were looked up before, if they would be the same now; or
/// all of them, looked up at once.
fn expand(read: &dyn Read, submit: &Submit, now_ms: Millis) -> std::result::Result<Arc<Recipients>, Refusal> {
    if let Some(ahead) = submit.ahead.as_ref().filter(|ahead| ahead.holds(read, now_ms)) {
        return Ok(ahead.recipients.clone());
    }
    let mut expanding = Expanding::new(now_ms);
    while !expanding.step(read, submit, limits::RECIPIENTS_MAX) {}
    expanding.finish().map(Arc::new)
}

fn manifest(submit: &Submit) -> &[axis_proto::envelope::v1::Document] {
    match &submit.envelope.body {
        Some(Body::Document(body)) => &body.documents,
        None => &[],
    }
}

fn missing_documents(read: &dyn Read, submit: &Submit, now_ms: Millis) -> Vec<Digest> {
    let along = |sha256: &Digest| submit.documents.iter().any(|document| document.sha256() == *sha256);
    manifest(submit)
        .iter()
        .filter_map(|document| Some((Digest::from_slice(&document.sha256).ok()?, document.size)))
        .filter(|(sha256, size)| {
            let granted = || {
                query::upload(read, &submit.system, sha256)
                    .is_some_and(|upload| upload.size == *size && now_ms < upload.pinned_until_unix_ms)
            };
            !along(sha256) && !granted()
        })
        .map(|(sha256, _)| sha256)
        .collect()
}

/// Accepts an envelope and makes it visible to its first recipients.
pub(super) fn submit(batch: &mut Batch<'_>, submit: &Submit) -> Result<Outcome> {
    let may_speak = || batch.may_speak_for(&submit.system, &submit.envelope.sender, &submit.signed);
    let expansion = check_by(&batch.draft, submit, batch.now, may_speak)?;
    if let Some(sequence) = expansion.duplicate_of {
        return Ok(Outcome::before([sequence]));
    }
    if !expansion.missing_documents.is_empty() {
        let mut refusal = Refusal::new(Reason::DocumentMissing);
        for (place, document) in manifest(submit).iter().enumerate() {
            if expansion.missing_documents.iter().any(|sha256| sha256.as_bytes()[..] == document.sha256[..]) {
                let field = format!("envelope.document.documents[{place}].sha256");
                refusal = refusal.at(field, Reason::DocumentMissing, hex::encode(&document.sha256));
            }
        }
        return Err(refusal.into());
    }
    let recipients = &*expansion.recipients;
    let accepted = accepted(batch, submit, recipients.len());
    let recipient_count = accepted.recipient_count;
    let is_visible = accepted.not_before_unix_ms <= batch.now;
    let sequences = if is_visible && recipients.len() <= limits::AT_ONCE_RECIPIENTS_MAX {
        let named = recipients.iter().zip(0..).map(|((agency, kind), recipient_index)| RecipientLeaf {
            recipient_index,
            agency: agency.to_string(),
            kind: (*kind).into(),
        });
        let leaves = consignment(&batch.draft, named);
        let (list, root) = leaf_list(batch, leaves);
        let accepted = Accepted { consignment_root: Bytes::copy_from_slice(&root), ..accepted };
        let list = (CargoKind::ConsignmentList, Content::of(list.encode_to_vec()));
        vec![record(batch, submit, accepted, list)?]
    } else {
        let ahead = submit.ahead.as_ref().filter(|ahead| ahead.holds(&batch.draft, batch.now));
        let Listed { list, root, encoded } = match ahead {
            Some(ahead) => ahead.list.clone(),
            None => {
                let (list, root) = leaf_list(batch, expand::leaves(recipients));
                let encoded = Content::of(list.encode_to_vec());
                Listed { list: Arc::new(list), root, encoded }
            }
        };
        let accepted = Accepted { recipient_root: Bytes::copy_from_slice(&root), ..accepted };
        let mut sequences = vec![record(batch, submit, accepted, (CargoKind::RecipientList, encoded))?];
        if is_visible {
            sequences.extend(consign(batch, sequences[0], &list)?.sequences);
        }
        sequences
    };
    Ok(Outcome { recipient_count, ..Outcome::recorded(sequences) })
}

/// Records that an envelope is accepted, with the list of whom it goes to.
fn record(
    batch: &mut Batch<'_>,
    submit: &Submit,
    accepted: Accepted,
    list: (CargoKind, Content),
) -> Result<u64> {
    let mut cargo = vec![(CargoKind::SealedEnvelope, submit.signed.sealed.clone()), list];
    cargo.extend(submit.documents.iter().map(|document| (CargoKind::Document, document.clone())));
    batch.record(Event::Accepted(accepted), &[submit.system.as_str()], cargo)
}

/// What is said of an accepted envelope, but for the list that it binds.
fn accepted(batch: &Batch<'_>, submit: &Submit, recipient_count: usize) -> Accepted {
    let envelope = &submit.envelope;
    let along = |named: &[u8]| submit.documents.iter().any(|it| it.sha256().as_bytes()[..] == *named);
    let documents = manifest(submit).iter().map(|document| DocumentDigest {
        sha256: document.sha256.clone(),
        size: document.size,
        inline: along(&document.sha256),
    });
    let priority = match envelope.priority() {
        Priority::Unspecified => Priority::Normal,
        named => named,
    };
    Accepted {
        sender_system: submit.system.to_string(),
        sender: envelope.sender.clone(),
        envelope_id: envelope.envelope_id.clone(),
        envelope_digest: Bytes::copy_from_slice(submit.signed.digest.as_bytes()),
        key_ids: key_ids(&submit.signed),
        created_unix_ms: envelope.created_unix_ms,
        not_before_unix_ms: envelope.not_before_unix_ms,
        expires_unix_ms: expires(submit),
        priority: priority.into(),
        recipient_count: recipient_count as u32,
        recipient_root: Bytes::new(),
        consignment_root: Bytes::new(),
        directory_version: batch.directory_version(),
        documents: documents.collect(),
        warn_unix_ms: expires(submit) - limits::EXPIRY_WARNING_MS.min((expires(submit) - batch.now) / 10),
        cargo_kept_ms: submit.kept.cargo_ms,
        summary_kept_ms: submit.kept.summary_ms,
    }
}

/// The signers of something, as records name them.
pub(super) fn key_ids(signed: &Signed) -> Vec<Bytes> {
    signed.key_ids.iter().map(|id| Bytes::copy_from_slice(id.as_bytes())).collect()
}

/// Makes an envelope visible to its next recipients, at most
/// [`limits::CONSIGN_MAX`]. Nothing is left to do if all see it already.
pub(super) fn consign(batch: &mut Batch<'_>, sequence: u64, recipients: &LeafList) -> Result<Outcome> {
    let Some(envelope) = query::envelope(&batch.draft, sequence) else {
        return Err(Error::refused(Reason::NotFound));
    };
    let first = envelope.consigned_count as usize;
    let range = recipients.leaves.iter().skip(first).take(limits::CONSIGN_MAX);
    let named = range.map(|leaf| RecipientLeaf::decode(leaf.clone()));
    let named = named.collect::<std::result::Result<Vec<_>, _>>().map_err(Error::fault)?;
    let leaves = consignment(&batch.draft, named.into_iter());
    if leaves.is_empty() {
        return Ok(Outcome::recorded(Vec::new()));
    }
    let count = leaves.len() as u32;
    let (list, root) = leaf_list(batch, leaves);
    let event = Event::Consigned(Consigned {
        envelope_sequence: sequence,
        envelope_digest: Bytes::from(envelope.envelope_digest),
        first_recipient_index: first as u32,
        recipient_count: count,
        consignment_root: Bytes::copy_from_slice(&root),
    });
    let cargo = vec![(CargoKind::ConsignmentList, Content::of(list.encode_to_vec()))];
    let consigned = batch.record(event, &[&envelope.sender_system], cargo)?;
    Ok(Outcome::recorded(vec![consigned]))
}

/// The leaves of recipients who are to see an envelope next, each with its
/// place in the mailbox of whoever serves it now. An agency that lost its
/// system since the envelope was accepted waits in the mailbox without a name,
/// for operators.
fn consignment(read: &dyn Read, recipients: impl Iterator<Item = RecipientLeaf>) -> Vec<Bytes> {
    let mut highs: BTreeMap<String, u64> = BTreeMap::new();
    let leaf = |RecipientLeaf { recipient_index, agency, kind }| {
        let system = moves::serving(read, &agency);
        let high = match highs.get(&system) {
            Some(high) => *high,
            None => apply::mailbox(read, &system).high,
        };
        let mailbox_sequence = high + 1;
        highs.insert(system.clone(), mailbox_sequence);
        let leaf = ConsignmentLeaf { recipient_index, agency, system, mailbox_sequence, kind };
        Bytes::from(leaf.encode_to_vec())
    };
    recipients.map(leaf).collect()
}
