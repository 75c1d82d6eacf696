//! A record in words: what happened, to what.

use axis_client::proto::{
    envelope::v1::RejectionReason,
    id::EnvelopeId,
    receipt::OpenedLeaf,
    record::v1::{Delivery, Record, ReleaseCause, Settlement, record::Event},
};
use serde_json::{Map, Value, json};

/// The event's name, as the contract has it, and its facts.
pub fn describe(record: &Record) -> (&'static str, Vec<(&'static str, Value)>) {
    let Some(event) = &record.event else { return ("unknown", Vec::new()) };
    match event {
        Event::LogOpened(it) => ("log_opened", vec![("hub", json!(it.hub_id)), ("origin", json!(it.origin))]),
        Event::Accepted(it) => (
            "accepted",
            vec![
                ("sender", json!(it.sender)),
                ("envelope", envelope_id(&it.envelope_id)),
                ("recipients", json!(it.recipient_count)),
                ("consigned", json!(!it.consignment_root.is_empty())),
                ("digest", json!(hex(&it.envelope_digest))),
            ],
        ),
        Event::Consigned(it) => (
            "consigned",
            vec![
                ("envelope_sequence", json!(it.envelope_sequence)),
                ("first", json!(it.first_recipient_index)),
                ("recipients", json!(it.recipient_count)),
            ],
        ),
        Event::Leased(it) => with("leased", &it.delivery, vec![("attempt", json!(it.attempt))]),
        Event::LeaseExtended(it) => {
            with("lease_extended", &it.delivery, vec![("attempt", json!(it.attempt))])
        }
        Event::Released(it) => {
            let cause = lower(ReleaseCause::try_from(it.cause).map_or("", |it| it.as_str_name()));
            let facts = vec![("attempt", json!(it.attempt)), ("cause", json!(cause))];
            with("released", &it.delivery, facts)
        }
        Event::Acknowledged(it) => with("acknowledged", &it.delivery, Vec::new()),
        Event::Rejected(it) => {
            let reason = lower(RejectionReason::try_from(it.reason).map_or("", |it| it.as_str_name()));
            with("rejected", &it.delivery, vec![("reason", json!(reason))])
        }
        Event::Parked(it) => with("parked", &it.delivery, vec![("attempt", json!(it.attempt))]),
        Event::Requeued(it) => with("requeued", &it.delivery, Vec::new()),
        Event::ExpiryWarned(it) => (
            "expiry_warned",
            vec![
                ("envelope_sequence", json!(it.envelope_sequence)),
                ("unsettled", json!(it.unsettled_count)),
                ("expires_unix_ms", json!(it.expires_unix_ms)),
            ],
        ),
        Event::Expired(it) => with("expired", &it.delivery, Vec::new()),
        Event::Returned(it) => with("returned", &it.delivery, Vec::new()),
        Event::LateAccepted(it) => {
            let before = lower(Settlement::try_from(it.settlement).map_or("", |it| it.as_str_name()));
            with("late_accepted", &it.delivery, vec![("settled_as", json!(before))])
        }
        Event::Moved(it) => with("moved", &it.delivery, vec![("to", json!(it.system))]),
        Event::MailboxSearched(it) => {
            ("mailbox_searched", vec![("system", json!(it.system)), ("up_to", json!(it.up_to))])
        }
        Event::Uploaded(it) => {
            ("uploaded", vec![("sha256", json!(hex(&it.sha256))), ("size", json!(it.size))])
        }
        Event::DirectoryChanged(it) => (
            "directory_changed",
            vec![("version", json!(it.directory_version)), ("entries", json!(it.entries.len()))],
        ),
        Event::EnrolmentTokenIssued(it) => ("enrolment_token_issued", vec![("system", json!(it.system))]),
        Event::SnapshotTaken(it) => ("snapshot_taken", vec![("applied", json!(it.applied_sequence))]),
        Event::ClockConfirmed(_) => ("clock_confirmed", Vec::new()),
        Event::Erased(it) => {
            let cause = lower(it.cause().as_str_name());
            let mut facts = vec![("envelope", json!(it.envelope_sequence)), ("cause", json!(cause))];
            if !it.confirmed_by.is_empty() {
                facts.push(("requested_by", json!(it.requested_by)));
                facts.push(("confirmed_by", json!(it.confirmed_by)));
            }
            ("erased", facts)
        }
        Event::Forgotten(it) => ("forgotten", vec![("ranges", json!(it.ranges.len()))]),
        Event::DocumentsCollected(it) => ("documents_collected", vec![("documents", json!(it.sha256.len()))]),
        Event::PurgeRequested(it) => (
            "purge_requested",
            vec![("envelope", json!(it.envelope_sequence)), ("operator", json!(it.operator))],
        ),
        Event::PurgeConfirmed(it) => (
            "purge_confirmed",
            vec![("envelope", json!(it.envelope_sequence)), ("operator", json!(it.operator))],
        ),
        Event::FeedTrimmed(it) => {
            ("feed_trimmed", vec![("system", json!(it.system)), ("up_to", json!(it.up_to))])
        }
        Event::GrantsLapsed(it) => {
            ("grants_lapsed", vec![("system", json!(it.system)), ("documents", json!(it.sha256.len()))])
        }
    }
}

/// A leaf that a receipt opens.
pub fn opened(leaf: &OpenedLeaf) -> String {
    match leaf {
        OpenedLeaf::Recipient(it) => format!("recipient {} {}", it.recipient_index, it.agency),
        OpenedLeaf::Consignment(it) => {
            format!("recipient {} {}, {} #{}", it.recipient_index, it.agency, it.system, it.mailbox_sequence)
        }
    }
}

/// The recipient whose signed answer a record is about.
pub fn answered_by(record: &Record) -> Option<&str> {
    let delivery = match record.event.as_ref()? {
        Event::Acknowledged(it) => it.delivery.as_ref(),
        Event::LateAccepted(it) => it.delivery.as_ref(),
        Event::Rejected(it) => it.delivery.as_ref(),
        _ => None,
    };
    delivery.map(|delivery| delivery.agency.as_str())
}

/// Name and facts on a line.
pub fn line(record: &Record) -> String {
    let (name, facts) = describe(record);
    let facts = facts.iter().map(|(name, value)| match value {
        Value::String(text) => format!(" {name}={text}"),
        other => format!(" {name}={other}"),
    });
    format!("{name}{}", facts.collect::<String>())
}

/// Name and facts as an object.
pub fn object(record: &Record) -> Map<String, Value> {
    let (name, facts) = describe(record);
    let mut map = Map::from_iter([("event".to_owned(), json!(name))]);
    map.extend(facts.into_iter().map(|(name, value)| (name.to_owned(), value)));
    map
}

fn with(
    name: &'static str,
    delivery: &Option<Delivery>,
    facts: Vec<(&'static str, Value)>,
) -> (&'static str, Vec<(&'static str, Value)>) {
    let mut all = Vec::with_capacity(facts.len() + 3);
    if let Some(delivery) = delivery {
        let id = format!("{}-{}", delivery.envelope_sequence, delivery.recipient_index);
        all.push(("delivery", json!(id)));
        all.push(("agency", json!(delivery.agency)));
        all.push(("system", json!(delivery.system)));
    }
    all.extend(facts);
    (name, all)
}

fn envelope_id(bytes: &[u8]) -> Value {
    EnvelopeId::from_slice(bytes).map_or(Value::Null, |id| json!(id.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `RELEASE_CAUSE_NACKED` as `nacked`: what follows the enum's own words.
fn lower(name: &str) -> String {
    let short = ["RELEASE_CAUSE_", "REJECTION_REASON_", "SETTLEMENT_", "ERASURE_CAUSE_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    short.to_lowercase()
}

#[cfg(test)]
mod tests {
    use axis_client::proto::record::v1::Rejected;

    use super::*;

    #[test]
    fn a_record_in_words() {
        let delivery = Delivery {
            envelope_sequence: 12,
            recipient_index: 3,
            agency: "H53".into(),
            system: "tayninh".into(),
            ..Default::default()
        };
        let rejected = Rejected {
            delivery: Some(delivery),
            reason: RejectionReason::NotCompetent.into(),
            ..Default::default()
        };
        let record = Record { event: Some(Event::Rejected(rejected)), ..Default::default() };
        assert_eq!(line(&record), "rejected delivery=12-3 agency=H53 system=tayninh reason=not_competent");
        assert_eq!(object(&record)["agency"], "H53");
        assert_eq!(line(&Record::default()), "unknown");
    }
}
