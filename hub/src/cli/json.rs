//! Answers as JSON, under the names of the contract: ids and digests as text,
//! times in milliseconds.

use axis_hub::observe::words;
use axis_proto::{
    admin::v1::{GetStatusResponse, ParkedDelivery, Queue, SystemSummary},
    hub::v1::{TrackResponse, TrackedRecipient},
    id::EnvelopeId,
    reason::Language,
    record::v1::{Agency, Certificate, Group, SigningKey},
};
use serde_json::{Value, json};

/// One queue.
pub fn queue(queue: &Queue) -> Value {
    json!({
        "system": queue.system,
        "state": words::system_state(Language::En, queue.state()),
        "waiting": queue.waiting,
        "leased": queue.leased,
        "parked": queue.parked,
        "waiting_bytes": queue.waiting_bytes,
        "oldest_unix_ms": queue.oldest_unix_ms,
        "lanes": queue.lanes,
        "attempts_most": queue.attempts_most,
        "last_seen_unix_ms": queue.last_seen_unix_ms,
        "streams": queue.streams,
    })
}

/// The hub's status.
pub fn status(status: &GetStatusResponse) -> Value {
    json!({
        "hub_id": status.hub_id,
        "version": status.version,
        "started_unix_ms": status.started_unix_ms,
        "ready": status.ready,
        "not_ready_because": status.not_ready_because,
        "journal_records": status.journal_records,
        "state_lag_records": status.state_lag_records,
        "disk_free_bytes": status.disk_free_bytes,
        "disk_total_bytes": status.disk_total_bytes,
        "last_backup_unix_ms": status.last_backup_unix_ms,
        "last_backup_records": status.last_backup_records,
        "clock_trusted": status.clock_trusted,
        "commit_p50_us": status.commit_p50_us,
        "commit_p99_us": status.commit_p99_us,
        "connections": status.connections,
    })
}

/// One parked delivery.
pub fn parked(delivery: &ParkedDelivery) -> Value {
    json!({
        "delivery_id": delivery.delivery_id,
        "agency": delivery.agency,
        "system": delivery.system,
        "sender": delivery.sender,
        "envelope_id": envelope_id(&delivery.envelope_id),
        "attempts": delivery.attempts,
        "since_unix_ms": delivery.since_unix_ms,
        "expires_unix_ms": delivery.expires_unix_ms,
    })
}

/// One system with its certificates and keys.
pub fn system(summary: &SystemSummary) -> Value {
    let system = summary.system.clone().unwrap_or_default();
    json!({
        "system_id": system.system_id,
        "name": system.name,
        "state": words::system_state(Language::En, system.state()),
        "agency_count": summary.agency_count,
        "last_seen_unix_ms": summary.last_seen_unix_ms,
        "certificates": summary.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "signing_keys": summary.signing_keys.iter().map(signing_key).collect::<Vec<_>>(),
    })
}

/// One signing key.
pub fn signing_key(key: &SigningKey) -> Value {
    json!({
        "key_id": hex::encode(&key.key_id),
        "public_key": hex::encode(&key.public_key),
        "system": key.system,
        "agencies": key.agencies,
        "valid_from_unix_ms": key.valid_from_unix_ms,
        "valid_until_unix_ms": key.valid_until_unix_ms,
        "revoked_unix_ms": key.revoked_unix_ms,
    })
}

/// One certificate.
pub fn certificate(certificate: &Certificate) -> Value {
    json!({
        "fingerprint": hex::encode(&certificate.fingerprint),
        "system": certificate.system,
        "valid_from_unix_ms": certificate.valid_from_unix_ms,
        "valid_until_unix_ms": certificate.valid_until_unix_ms,
        "revoked_unix_ms": certificate.revoked_unix_ms,
    })
}

/// One agency.
pub fn agency(agency: &Agency) -> Value {
    json!({
        "code": agency.code,
        "name": agency.name,
        "name_en": agency.name_en,
        "aliases": agency.aliases,
        "parent": agency.parent,
        "system": agency.system,
        "state": words::agency_state(Language::En, agency.state()),
        "successors": agency.successors,
        "valid_from_unix_ms": agency.valid_from_unix_ms,
        "valid_until_unix_ms": agency.valid_until_unix_ms,
    })
}

/// One group.
pub fn group(group: &Group) -> Value {
    json!({
        "group_id": group.group_id,
        "name": group.name,
        "everyone": group.everyone,
        "senders_allowed": group.senders_allowed,
        "closed": group.closed,
    })
}

/// An envelope and where it is.
pub fn track(head: &TrackResponse, recipients: &[TrackedRecipient]) -> Value {
    json!({
        "accepted_sequence": head.accepted_sequence,
        "accepted_unix_ms": head.accepted_unix_ms,
        "envelope_digest": hex::encode(&head.envelope_digest),
        "expires_unix_ms": head.expires_unix_ms,
        "priority": head.priority().as_str_name().trim_start_matches("PRIORITY_").to_ascii_lowercase(),
        "recipient_count": head.recipient_count,
        "settled_count": head.settled_count,
        "erased_unix_ms": head.erased_unix_ms,
        "erased_sequence": head.erased_sequence,
        "erasure_cause": head.erasure_cause().as_str_name().trim_start_matches("ERASURE_CAUSE_").to_ascii_lowercase(),
        "recipients": recipients.iter().map(|recipient| json!({
            "agency": recipient.agency,
            "delivery_id": recipient.delivery_id,
            "state": recipient.state().as_str_name().trim_start_matches("DELIVERY_STATE_").to_ascii_lowercase(),
            "since_unix_ms": recipient.since_unix_ms,
            "since_sequence": recipient.since_sequence,
            "attempts": recipient.attempts,
            "system": recipient.system,
            "due_unix_ms": recipient.due_unix_ms,
            "late_accepted": recipient.late_accepted,
        })).collect::<Vec<_>>(),
    })
}

/// An envelope's id as text.
pub fn envelope_id(bytes: &[u8]) -> String {
    EnvelopeId::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}

/// Prints a list, pretty, on stdout.
pub fn put(value: &Value) {
    super::say::put(format!("{value:#}"));
}
