//! What a caller is shown: a stage's error as a gRPC status with details, or
//! as a refusal inside a stream. A fault shows its incident id and nothing
//! else; its causes go to the log.

use std::{collections::HashMap, time::Duration};

use axis_proto::{
    hub::v1::{self as hub, Reason},
    reason::Language,
};
use tonic::{Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    error::{Error, Fault, Refusal, Violation},
    limits::STATUS_VIOLATIONS_MAX,
};

/// The domain of our reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "axis";
/// Most bytes of one text in a status, whose trailers peers bound to 8–16 KiB
/// all together, base64 included.
const STATUS_TEXT_BYTES_MAX: usize = 120;

/// The language that a request asks for in `accept-language`; English if it
/// asks for none that we speak.
pub fn language(metadata: &MetadataMap) -> Language {
    let asked = metadata.get("accept-language").and_then(|value| value.to_str().ok());
    Language::preferred(asked.unwrap_or_default())
}

/// The status of a refused or failed call.
pub fn status(error: &Error, language: Language) -> Status {
    match error {
        Error::Refused(refusal) => refused_status(refusal, language),
        Error::Fault(fault) => {
            let incident = report(fault);
            let mut details = details_of(Reason::Fault, language, HashMap::new());
            details.set_request_info(incident, "");
            let message = Reason::Fault.message(Language::En);
            Status::with_error_details(Reason::Fault.grpc_code(), message, details)
        }
    }
}

/// The same as a message inside a stream.
pub fn refusal(error: &Error, language: Language) -> hub::Refusal {
    match error {
        Error::Refused(refusal) => hub::Refusal {
            reason: refusal.reason.into(),
            remedy: refusal.reason.remedy().into(),
            message: refusal.reason.message(language).to_owned(),
            violations: refusal.violations.iter().map(|violation| shown(violation, language)).collect(),
            retry_after_ms: refusal.retry_after_ms,
            incident_id: String::new(),
            facts: refusal.facts.clone(),
        },
        Error::Fault(fault) => hub::Refusal {
            reason: Reason::Fault.into(),
            remedy: Reason::Fault.remedy().into(),
            message: Reason::Fault.message(language).to_owned(),
            incident_id: report(fault),
            ..hub::Refusal::default()
        },
    }
}

/// Logs a fault and gives it the id that the caller is shown.
fn report(fault: &Fault) -> String {
    let incident = uuid::Uuid::now_v7().to_string();
    tracing::error!(%incident, causes = %fault.chain(), "call failed");
    incident
}

fn refused_status(refusal: &Refusal, language: Language) -> Status {
    let facts = refusal.facts.iter().map(|(name, value)| (name.clone(), shortened(value.clone())));
    let mut details = details_of(refusal.reason, language, facts.collect());
    for violation in refusal.violations.iter().take(STATUS_VIOLATIONS_MAX) {
        let description = match violation.detail.as_str() {
            "" => violation.reason.short_name().to_owned(),
            detail => format!("{}: {detail}", violation.reason.short_name()),
        };
        details.add_bad_request_violation(shortened(violation.field.clone()), shortened(description));
    }
    if refusal.retry_after_ms > 0 {
        details.set_retry_info(Some(Duration::from_millis(refusal.retry_after_ms)));
    }
    let message = match refusal.violations.first() {
        None => refusal.reason.message(Language::En).to_owned(),
        Some(first) => {
            format!("{} {}", refusal.reason.message(Language::En), shortened(first.field.clone()))
        }
    };
    Status::with_error_details(refusal.reason.grpc_code(), message, details)
}

fn details_of(reason: Reason, language: Language, facts: HashMap<String, String>) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.short_name(), DOMAIN, facts);
    details.set_localized_message(language.tag(), reason.message(language));
    details
}

fn shown(violation: &Violation, language: Language) -> hub::Violation {
    let message = match violation.detail.as_str() {
        "" => violation.reason.message(language).to_owned(),
        detail => format!("{} ({detail})", violation.reason.message(language)),
    };
    hub::Violation { field: violation.field.clone(), reason: violation.reason.into(), message }
}

fn shortened(mut text: String) -> String {
    if text.len() > STATUS_TEXT_BYTES_MAX {
        let room = STATUS_TEXT_BYTES_MAX - '…'.len_utf8();
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use axis_proto::hub::v1::Remedy;
    use tonic::Code;

    use super::*;

    #[test]
    fn the_language_of_the_request() {
        let mut metadata = MetadataMap::new();
        assert_eq!(language(&metadata), Language::En);
        metadata.insert("accept-language", "vi-VN,vi;q=0.9,en;q=0.8".parse().unwrap());
        assert_eq!(language(&metadata), Language::Vi);
    }

    #[test]
    fn a_refusal_carries_reason_place_facts_and_delay() {
        let error: Error = Refusal::new(Reason::OffsetMismatch)
            .at("start.offset", Reason::OffsetMismatch, 7)
            .fact("committed_bytes", 42)
            .retry_after_ms(1_500)
            .into();
        let status = status(&error, Language::Vi);
        assert_eq!(status.code(), Code::OutOfRange);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("OFFSET_MISMATCH", "axis"));
        assert_eq!(info.metadata["committed_bytes"], "42");
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "start.offset");
        assert_eq!(violations[0].description, "OFFSET_MISMATCH: 7");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1_500)));
        let localized = details.localized_message().unwrap();
        assert_eq!(localized.locale, "vi");
        assert_eq!(localized.message, Reason::OffsetMismatch.message(Language::Vi));

        let inside = refusal(&error, Language::En);
        assert_eq!(inside.reason(), Reason::OffsetMismatch);
        assert_eq!(inside.remedy(), Remedy::RestartFromFloor);
        assert_eq!(inside.violations.len(), 1);
        assert_eq!(inside.facts["committed_bytes"], "42");
    }

    #[test]
    fn a_status_stays_within_what_trailers_may_hold() {
        let mut refusal = Refusal::new(Reason::RecipientsRefused);
        for index in 0..5_000 {
            let field = format!("envelope.recipients[{index}].agency");
            refusal = refusal.at(field, Reason::RecipientUnknown, "đ".repeat(4_000));
        }
        let status = refused_status(&refusal, Language::Vi);
        assert_eq!(
            status.get_error_details().bad_request().unwrap().field_violations.len(),
            STATUS_VIOLATIONS_MAX
        );
        assert!(status.details().len() < 7_000, "{}", status.details().len());
    }

    #[test]
    fn a_fault_shows_its_incident_alone() {
        let error = Error::fault("disk on fire at /secret");
        let status = status(&error, Language::En);
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("secret"));
        assert!(!status.get_error_details().request_info().unwrap().request_id.is_empty());
        let inside = refusal(&error, Language::En);
        assert!(!format!("{inside:?}").contains("secret"));
        assert!(!inside.incident_id.is_empty());
    }
}
