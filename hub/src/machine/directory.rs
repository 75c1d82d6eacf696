//! Who takes part: systems, agencies, groups, keys, certificates, tokens; and
//! the few records that concern no envelope. Each directory change is the
//! whole new value of what it names, under the next version.

use std::collections::BTreeSet;

use axis_proto::{
    hub::v1::Reason,
    id::{AgencyCode, Digest, GroupId, KeyId, SystemId},
    record::v1::{
        Agency, AgencyState, Certificate, ClockConfirmed, DirectoryChanged, DirectoryEntry,
        EnrolmentTokenIssued, Group, GroupMembers, SigningKey, SnapshotTaken, System, SystemState, Uploaded,
        directory_entry::Value, record::Event,
    },
};
use bytes::Bytes;

use super::{
    batch::{Batch, remark_cargo},
    command::Outcome,
    query,
};
use crate::{
    error::{Error, Result},
    limits,
    state::Read,
};

const NAME_BYTES_MAX: usize = 256;
const ENTRIES_MAX: usize = 100;
const MEMBERS_MAX: usize = 400;
const CODES_MAX: usize = 16;
const SIGNING_KEYS_VALID_MAX: usize = 2;
const SCOPE_MAX: usize = 100;

/// Records a change under the next version.
fn changed(
    batch: &mut Batch<'_>,
    values: Vec<Value>,
    actor: &str,
    token: Option<&Digest>,
    remark: &str,
) -> Result<u64> {
    let cargo = remark_cargo(remark)?;
    let event = DirectoryChanged {
        directory_version: query::directory_version(&batch.draft) + 1,
        entries: values.into_iter().map(|value| DirectoryEntry { value: Some(value) }).collect(),
        actor: actor.to_owned(),
        enrolment_token_sha256: token
            .map(|token| Bytes::copy_from_slice(token.as_bytes()))
            .unwrap_or_default(),
    };
    batch.record(Event::DirectoryChanged(event), &[], cargo)
}

/// Agencies, groups and members, by an operator.
pub(super) fn change(
    batch: &mut Batch<'_>,
    entries: &[DirectoryEntry],
    actor: &str,
    remark: &str,
) -> Result<Outcome> {
    if entries.is_empty() || entries.len() > ENTRIES_MAX {
        return Err(Error::invalid("entries", Reason::FieldInvalid, entries.len()));
    }
    let codes: BTreeSet<&str> = entries
        .iter()
        .filter_map(|entry| match &entry.value {
            Some(Value::Agency(agency)) => Some(agency.code.as_str()),
            _ => None,
        })
        .collect();
    let groups: BTreeSet<&str> = entries
        .iter()
        .filter_map(|entry| match &entry.value {
            Some(Value::Group(group)) => Some(group.group_id.as_str()),
            _ => None,
        })
        .collect();
    for (place, entry) in entries.iter().enumerate() {
        let field = format!("entries[{place}]");
        let read = &batch.draft;
        match &entry.value {
            Some(Value::Agency(agency)) => agency_is_sound(read, agency, &codes, &field)?,
            Some(Value::Group(group)) => group_is_sound(group, &field)?,
            Some(Value::GroupMembers(members)) => members_are_sound(read, members, &codes, &groups, &field)?,
            Some(Value::System(_) | Value::SigningKey(_) | Value::Certificate(_)) | None => {
                return Err(Error::invalid(field, Reason::FieldInvalid, "not an agency, group or member"));
            }
        }
    }
    let values = entries.iter().filter_map(|entry| entry.value.clone()).collect();
    Ok(Outcome::recorded([changed(batch, values, actor, None, remark)?]))
}

fn agency_is_sound(read: &dyn Read, agency: &Agency, along: &BTreeSet<&str>, field: &str) -> Result<()> {
    let bad = |part: &str, detail: &str| {
        Err(Error::invalid(format!("{field}.agency.{part}"), Reason::FieldInvalid, detail))
    };
    let known = |code: &str| along.contains(code) || query::agency(read, code).is_some();
    if agency.code.parse::<AgencyCode>().is_err() {
        return bad("code", &agency.code);
    }
    if agency.name.is_empty() || agency.name.len() > NAME_BYTES_MAX || agency.name_en.len() > NAME_BYTES_MAX {
        return bad("name", &agency.name);
    }
    if agency.state() == AgencyState::Unspecified {
        return bad("state", "unspecified");
    }
    if !agency.parent.is_empty() && (!known(&agency.parent) || agency.parent == agency.code) {
        return bad("parent", &agency.parent);
    }
    if !agency.system.is_empty() {
        let exists = agency.system.parse().is_ok_and(|id: SystemId| query::system(read, &id).is_some());
        if !exists {
            return bad("system", &agency.system);
        }
    }
    if agency.aliases.len() > CODES_MAX || agency.successors.len() > CODES_MAX {
        return bad("aliases", "more than 16");
    }
    if let Some(alias) = agency.aliases.iter().find(|alias| {
        let other = query::agency_or_alias(read, alias).is_some_and(|other| other.code != agency.code);
        alias.parse::<AgencyCode>().is_err() || *alias == &agency.code || other
    }) {
        return bad("aliases", alias);
    }
    if let Some(successor) = agency.successors.iter().find(|code| !known(code) || *code == &agency.code) {
        return bad("successors", successor);
    }
    Ok(())
}

fn group_is_sound(group: &Group, field: &str) -> Result<()> {
    let bad = |part: &str, detail: &str| {
        Err(Error::invalid(format!("{field}.group.{part}"), Reason::FieldInvalid, detail))
    };
    if group.group_id.parse::<GroupId>().is_err() {
        return bad("group_id", &group.group_id);
    }
    if group.name.is_empty() || group.name.len() > NAME_BYTES_MAX {
        return bad("name", &group.name);
    }
    if group.senders_allowed.len() > 100 {
        return bad("senders_allowed", "more than 100");
    }
    match group.senders_allowed.iter().find(|code| code.parse::<AgencyCode>().is_err()) {
        Some(code) => bad("senders_allowed", code),
        None => Ok(()),
    }
}

fn members_are_sound(
    read: &dyn Read,
    members: &GroupMembers,
    along: &BTreeSet<&str>,
    groups: &BTreeSet<&str>,
    field: &str,
) -> Result<()> {
    let field = format!("{field}.group_members");
    let known = groups.contains(members.group_id.as_str())
        || query::group(read, &members.group_id).is_some_and(|group| !group.everyone);
    if !known {
        return Err(Error::invalid(format!("{field}.group_id"), Reason::GroupUnknown, &members.group_id));
    }
    if members.added.len() > MEMBERS_MAX || members.removed.len() > MEMBERS_MAX {
        return Err(Error::invalid(field, Reason::TooLarge, "more than 400"));
    }
    let unknown = members
        .added
        .iter()
        .find(|code| !along.contains(code.as_str()) && query::agency(read, code).is_none());
    match unknown {
        Some(code) => Err(Error::invalid(format!("{field}.added"), Reason::RecipientUnknown, code)),
        None => Ok(()),
    }
}

/// A new system, the agencies it serves from now on, and its first token.
pub(super) fn add_system(
    batch: &mut Batch<'_>,
    system: &SystemId,
    name: &str,
    agencies: &[AgencyCode],
    token_sha256: &Digest,
    actor: &str,
) -> Result<Outcome> {
    if query::system(&batch.draft, system).is_some() {
        return Err(Error::invalid("system_id", Reason::AlreadyExists, system));
    }
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid("name", Reason::FieldInvalid, name));
    }
    if agencies.len() >= ENTRIES_MAX {
        return Err(Error::invalid("agencies", Reason::TooLarge, agencies.len()));
    }
    let mut values = vec![Value::System(System {
        system_id: system.to_string(),
        name: name.to_owned(),
        state: SystemState::Active.into(),
    })];
    for (place, code) in agencies.iter().enumerate() {
        let Some(agency) = query::agency(&batch.draft, code.as_str()) else {
            return Err(Error::invalid(format!("agencies[{place}]"), Reason::RecipientUnknown, code));
        };
        values.push(Value::Agency(Agency { system: system.to_string(), ..agency }));
    }
    let changed = changed(batch, values, actor, None, "")?;
    let issued = issue_token(batch, system, token_sha256, actor)?;
    Ok(Outcome::recorded([vec![changed], issued.sequences].concat()))
}

/// A token for a system.
pub(super) fn issue_token(
    batch: &mut Batch<'_>,
    system: &SystemId,
    token_sha256: &Digest,
    operator: &str,
) -> Result<Outcome> {
    existing(batch, system)?;
    let event = Event::EnrolmentTokenIssued(EnrolmentTokenIssued {
        system: system.to_string(),
        token_sha256: Bytes::copy_from_slice(token_sha256.as_bytes()),
        expires_unix_ms: batch.now + limits::TOKEN_MS,
        operator: operator.to_owned(),
    });
    Ok(Outcome::recorded([batch.record(event, &[], Vec::new())?]))
}

fn existing(batch: &Batch<'_>, system: &SystemId) -> Result<System> {
    query::system(&batch.draft, system).ok_or_else(|| Error::invalid("system_id", Reason::NotFound, system))
}

/// A token becomes a certificate and a key, and is used up.
pub(super) fn enrol(
    batch: &mut Batch<'_>,
    token_sha256: &Digest,
    certificate: &Certificate,
    signing_key: &SigningKey,
) -> Result<Outcome> {
    let token = query::token(&batch.draft, token_sha256).filter(|token| batch.now < token.expires_unix_ms);
    let Some(system) = token.and_then(|token| token.system.parse::<SystemId>().ok()) else {
        return Err(Error::refused(Reason::TokenInvalid));
    };
    if existing(batch, &system)?.state() != SystemState::Active {
        return Err(Error::refused(Reason::Suspended));
    }
    key_is_new(batch, &system, signing_key)?;
    let values = vec![
        Value::Certificate(Certificate { system: system.to_string(), ..certificate.clone() }),
        Value::SigningKey(SigningKey { system: system.to_string(), ..signing_key.clone() }),
    ];
    Ok(Outcome::recorded([changed(batch, values, system.as_str(), Some(token_sha256), "")?]))
}

/// A system's further certificate or key.
pub(super) fn renew(
    batch: &mut Batch<'_>,
    system: &SystemId,
    certificate: Option<&Certificate>,
    signing_key: Option<&SigningKey>,
) -> Result<Outcome> {
    if existing(batch, system)?.state() != SystemState::Active {
        return Err(Error::refused(Reason::Suspended));
    }
    let mut values = Vec::new();
    if let Some(certificate) = certificate {
        values.push(Value::Certificate(Certificate { system: system.to_string(), ..certificate.clone() }));
    }
    if let Some(key) = signing_key {
        let held = query::signing_keys_of(&batch.draft, system);
        let is_valid = |key: &&SigningKey| {
            key.revoked_unix_ms == 0 && (key.valid_until_unix_ms == 0 || batch.now < key.valid_until_unix_ms)
        };
        if held.iter().filter(is_valid).count() >= SIGNING_KEYS_VALID_MAX {
            let detail = "two keys are valid; revoke one first";
            return Err(Error::invalid("signing_public_key", Reason::FieldInvalid, detail));
        }
        key_is_new(batch, system, key)?;
        values.push(Value::SigningKey(SigningKey { system: system.to_string(), ..key.clone() }));
    }
    if values.is_empty() {
        return Err(Error::invalid("certificate_request", Reason::FieldInvalid, "nothing asked for"));
    }
    Ok(Outcome::recorded([changed(batch, values, system.as_str(), None, "")?]))
}

/// A key belongs to one system for ever, and is registered once.
fn key_is_new(batch: &Batch<'_>, system: &SystemId, key: &SigningKey) -> Result<()> {
    let id = KeyId::from_slice(&key.key_id).map_err(|_| Error::refused(Reason::FieldInvalid))?;
    match query::signing_key(&batch.draft, &id) {
        Some(_) => Err(Error::invalid("signing_public_key", Reason::AlreadyExists, system)),
        None => Ok(()),
    }
}

/// Suspend or resume; the same state again changes nothing.
pub(super) fn set_system_state(
    batch: &mut Batch<'_>,
    system: &SystemId,
    state: SystemState,
    actor: &str,
    remark: &str,
) -> Result<Outcome> {
    if state == SystemState::Unspecified {
        return Err(Error::invalid("state", Reason::FieldInvalid, "unspecified"));
    }
    let row = existing(batch, system)?;
    let values = vec![Value::System(System { state: state.into(), ..row })];
    Ok(Outcome::recorded([changed(batch, values, actor, None, remark)?]))
}

/// Revoke a key, at once and for good.
pub(super) fn revoke_signing_key(
    batch: &mut Batch<'_>,
    key_id: &KeyId,
    only_of: Option<&SystemId>,
    actor: &str,
    remark: &str,
) -> Result<Outcome> {
    let held = query::signing_key(&batch.draft, key_id)
        .filter(|(key, _)| only_of.is_none_or(|system| key.system == system.as_str()));
    let Some((key, changed_sequence)) = held else {
        return Err(Error::invalid("key_id", Reason::NotFound, key_id));
    };
    if key.revoked_unix_ms != 0 {
        return Ok(Outcome::before([changed_sequence]));
    }
    let values = vec![Value::SigningKey(SigningKey { revoked_unix_ms: batch.now, ..key })];
    Ok(Outcome::recorded([changed(batch, values, actor, None, remark)?]))
}

/// A certificate of another authority becomes one of a system's. It belongs
/// to that system for ever.
pub(super) fn register_certificate(
    batch: &mut Batch<'_>,
    certificate: &Certificate,
    actor: &str,
    remark: &str,
) -> Result<Outcome> {
    let system: SystemId = certificate
        .system
        .parse()
        .map_err(|error| Error::invalid("system_id", Reason::FieldInvalid, error))?;
    existing(batch, &system)?;
    let fingerprint = Digest::from_slice(&certificate.fingerprint)
        .map_err(|error| Error::invalid("certificate", Reason::FieldInvalid, error))?;
    if let Some(held) = query::certificate(&batch.draft, &fingerprint) {
        return Err(Error::invalid("certificate", Reason::AlreadyExists, held.system));
    }
    let values = vec![Value::Certificate(certificate.clone())];
    Ok(Outcome::recorded([changed(batch, values, actor, None, remark)?]))
}

/// Limit what a key may sign for, and until when.
pub(super) fn limit_signing_key(
    batch: &mut Batch<'_>,
    key_id: &KeyId,
    agencies: &[AgencyCode],
    valid_until_unix_ms: limits::Millis,
    actor: &str,
    remark: &str,
) -> Result<Outcome> {
    let Some((key, _)) = query::signing_key(&batch.draft, key_id) else {
        return Err(Error::invalid("key_id", Reason::NotFound, key_id));
    };
    if agencies.len() > SCOPE_MAX {
        return Err(Error::invalid("agencies", Reason::TooLarge, agencies.len()));
    }
    let agencies = agencies.iter().map(ToString::to_string).collect();
    let values = vec![Value::SigningKey(SigningKey { agencies, valid_until_unix_ms, ..key })];
    Ok(Outcome::recorded([changed(batch, values, actor, None, remark)?]))
}

/// Revoke a certificate, at once and for good.
pub(super) fn revoke_certificate(
    batch: &mut Batch<'_>,
    fingerprint: &Digest,
    actor: &str,
    remark: &str,
) -> Result<Outcome> {
    let Some(certificate) = query::certificate(&batch.draft, fingerprint) else {
        return Err(Error::invalid("fingerprint", Reason::NotFound, fingerprint));
    };
    if certificate.revoked_unix_ms != 0 {
        return Err(Error::invalid("fingerprint", Reason::AlreadyExists, "revoked already"));
    }
    let values = vec![Value::Certificate(Certificate { revoked_unix_ms: batch.now, ..certificate })];
    Ok(Outcome::recorded([changed(batch, values, actor, None, remark)?]))
}

/// A document is in the vault; a system may name it for a while.
pub(super) fn upload(
    batch: &mut Batch<'_>,
    system: &SystemId,
    sha256: &Digest,
    size: u64,
) -> Result<Outcome> {
    let event = Event::Uploaded(Uploaded {
        system: system.to_string(),
        sha256: Bytes::copy_from_slice(sha256.as_bytes()),
        size,
        pinned_until_unix_ms: batch.now + limits::UPLOAD_PINNED_MS,
    });
    Ok(Outcome::recorded([batch.record(event, &[], Vec::new())?]))
}

/// An operator vouches for the clock.
pub(super) fn confirm_clock(batch: &mut Batch<'_>, operator: &str) -> Outcome {
    let event = Event::ClockConfirmed(ClockConfirmed { operator: operator.to_owned() });
    small(batch, event)
}

/// A snapshot was written.
pub(super) fn snapshot_taken(
    batch: &mut Batch<'_>,
    applied_sequence: u64,
    sha256: &Digest,
    key_count: u64,
) -> Outcome {
    let sha256 = Bytes::copy_from_slice(sha256.as_bytes());
    small(batch, Event::SnapshotTaken(SnapshotTaken { applied_sequence, sha256, key_count }))
}

/// A record that is too small to be refused.
fn small(batch: &mut Batch<'_>, event: Event) -> Outcome {
    Outcome::recorded(batch.record(event, &[], Vec::new()).into_iter().collect::<Vec<_>>())
}
