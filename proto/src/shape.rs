//! The shape of what is signed: everything that `envelope.proto` bounds and
//! that can be checked without clock or directory. A client asks before it
//! sends, the hub when it receives; never decides anything else.

use std::{
    collections::{HashMap, HashSet},
    fmt::{Arguments, Display},
};

use prost::Message;

use crate::{
    envelope::v1::{
        Acknowledgement, Document, DocumentBody, DocumentMetadata, Envelope, EnvelopeReference, Priority,
        Recipient, RecipientKind, Rejection, RejectionReason, envelope::Body,
    },
    hub::v1::Reason,
    id::{AgencyCode, DeliveryId, Digest, EnvelopeId, GroupId, HubId},
    limits::{
        DOCUMENT_BYTES_MAX, DOCUMENTS_MAX, EXPIRES_DEFAULT_MS, EXPIRES_MAX_MS, FILE_NAME_BYTES_MAX,
        GROUPS_MAX, MEDIA_TYPE_BYTES_MAX, METADATA_LIST_MAX, RECIPIENTS_NAMED_MAX, REFERENCE_BYTES_MAX,
        REFERENCES_MAX, TEXT_BYTES_MAX,
    },
};

/// One thing that is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {} {detail}", reason.short_name())]
pub struct ShapeError {
    /// Where: a path such as `envelope.recipients[3].agency`.
    pub field: String,
    /// Why.
    pub reason: Reason,
    /// What was found or what is allowed. May be empty.
    pub detail: String,
}

/// Decodes an envelope's payload.
pub fn decode_envelope(payload: &[u8]) -> Result<Envelope, ShapeError> {
    decode("envelope", payload)
}

/// Decodes an acknowledgement's payload.
pub fn decode_acknowledgement(payload: &[u8]) -> Result<Acknowledgement, ShapeError> {
    decode("acknowledgement", payload)
}

/// Decodes a rejection's payload.
pub fn decode_rejection(payload: &[u8]) -> Result<Rejection, ShapeError> {
    decode("rejection", payload)
}

/// What is wrong with an envelope; nothing if its shape is right.
pub fn envelope(envelope: &Envelope) -> Vec<ShapeError> {
    let mut errors = Errors::default();
    errors.id::<EnvelopeId, _>("envelope.envelope_id", EnvelopeId::from_slice(&envelope.envelope_id));
    errors.id::<HubId, _>("envelope.hub_id", envelope.hub_id.parse());
    errors.id::<AgencyCode, _>("envelope.sender", envelope.sender.parse());
    recipients(&mut errors, &envelope.recipients, &envelope.groups);
    times(&mut errors, envelope);
    if Priority::try_from(envelope.priority).is_err() {
        errors.invalid("envelope.priority", format!("{} is no priority", envelope.priority));
    }
    if let Some(thread) = &envelope.thread {
        if let Some(reference) = &thread.in_reply_to {
            self::reference(&mut errors, format_args!("envelope.thread.in_reply_to"), reference);
        }
        let path = "envelope.thread.references";
        errors.each(path, &thread.references, REFERENCES_MAX, reference);
    }
    match &envelope.body {
        Some(Body::Document(body)) => document_body(&mut errors, body),
        None => errors.invalid("envelope.body", "is missing, or of a kind not known here"),
    }
    errors.0
}

/// What is wrong with an acknowledgement; nothing if its shape is right.
pub fn acknowledgement(acknowledgement: &Acknowledgement) -> Vec<ShapeError> {
    let mut errors = Errors::default();
    answer(
        &mut errors,
        "acknowledgement",
        &acknowledgement.hub_id,
        &acknowledgement.delivery_id,
        &acknowledgement.envelope_digest,
        &acknowledgement.recipient,
        acknowledgement.mailbox_sequence,
    );
    errors.required("acknowledgement.acknowledged_unix_ms", acknowledgement.acknowledged_unix_ms);
    errors.bytes("acknowledgement.reference", acknowledgement.reference.len(), REFERENCE_BYTES_MAX);
    errors.0
}

/// What is wrong with a rejection; nothing if its shape is right.
pub fn rejection(rejection: &Rejection) -> Vec<ShapeError> {
    let mut errors = Errors::default();
    answer(
        &mut errors,
        "rejection",
        &rejection.hub_id,
        &rejection.delivery_id,
        &rejection.envelope_digest,
        &rejection.recipient,
        rejection.mailbox_sequence,
    );
    errors.required("rejection.rejected_unix_ms", rejection.rejected_unix_ms);
    match RejectionReason::try_from(rejection.reason) {
        Ok(RejectionReason::Unspecified) => errors.invalid("rejection.reason", "is missing"),
        Ok(RejectionReason::Other) if rejection.explanation.is_empty() => {
            errors.invalid("rejection.explanation", "is missing where the reason is OTHER");
        }
        Ok(_) => {}
        Err(_) => errors.invalid("rejection.reason", format!("{} is no reason", rejection.reason)),
    }
    errors.text("rejection.explanation", &rejection.explanation);
    errors.0
}

fn decode<M: Message + Default>(field: &str, payload: &[u8]) -> Result<M, ShapeError> {
    M::decode(payload).map_err(|error| ShapeError {
        field: field.to_string(),
        reason: Reason::Malformed,
        detail: error.to_string(),
    })
}

/// What acknowledgements and rejections have in common.
fn answer(
    errors: &mut Errors,
    path: &str,
    hub_id: &str,
    delivery_id: &str,
    envelope_digest: &[u8],
    recipient: &str,
    mailbox_sequence: u64,
) {
    errors.id::<HubId, _>(format_args!("{path}.hub_id"), hub_id.parse());
    errors.id::<DeliveryId, _>(format_args!("{path}.delivery_id"), delivery_id.parse());
    errors.id::<Digest, _>(format_args!("{path}.envelope_digest"), Digest::from_slice(envelope_digest));
    errors.id::<AgencyCode, _>(format_args!("{path}.recipient"), recipient.parse());
    errors.required(format_args!("{path}.mailbox_sequence"), mailbox_sequence);
}

fn recipients(errors: &mut Errors, recipients: &[Recipient], groups: &[String]) {
    if recipients.is_empty() && groups.is_empty() {
        errors.push("envelope.recipients", Reason::RecipientsEmpty, "neither recipients nor groups");
    }
    let mut seen = HashSet::with_capacity(recipients.len().min(RECIPIENTS_NAMED_MAX));
    errors.each("envelope.recipients", recipients, RECIPIENTS_NAMED_MAX, |errors, path, recipient| {
        let agency = format_args!("{path}.agency");
        if let Err(error) = recipient.agency.parse::<AgencyCode>() {
            errors.invalid(agency, error.to_string());
        } else if !seen.insert(recipient.agency.as_str()) {
            errors.push(agency, Reason::RecipientDuplicate, recipient.agency.as_str());
        }
        if RecipientKind::try_from(recipient.kind).is_err() {
            errors.invalid(format_args!("{path}.kind"), format!("{} is no kind", recipient.kind));
        }
    });
    let mut seen = HashSet::with_capacity(groups.len().min(GROUPS_MAX));
    errors.each("envelope.groups", groups, GROUPS_MAX, |errors, path, group| {
        errors.id::<GroupId, _>(path, group.parse());
        if !seen.insert(group.as_str()) {
            errors.push(path, Reason::RecipientDuplicate, group.as_str());
        }
    });
}

fn times(errors: &mut Errors, envelope: &Envelope) {
    let created = envelope.created_unix_ms;
    errors.required("envelope.created_unix_ms", created);
    let expires = match envelope.expires_unix_ms {
        0 => created.saturating_add(EXPIRES_DEFAULT_MS),
        expires => expires,
    };
    if expires <= created {
        errors.invalid("envelope.expires_unix_ms", "is not after created_unix_ms");
    } else if expires - created > EXPIRES_MAX_MS {
        errors.invalid("envelope.expires_unix_ms", "is more than 366 days after created_unix_ms");
    }
    if envelope.not_before_unix_ms >= expires && envelope.not_before_unix_ms != 0 {
        errors.invalid("envelope.not_before_unix_ms", "is not before the expiry");
    }
}

fn reference(errors: &mut Errors, path: Arguments<'_>, reference: &EnvelopeReference) {
    errors.id::<AgencyCode, _>(format_args!("{path}.sender"), reference.sender.parse());
    if reference.envelope_id.len() != 16 {
        errors.invalid(format_args!("{path}.envelope_id"), "has not 16 bytes");
    }
}

fn document_body(errors: &mut Errors, body: &DocumentBody) {
    match &body.metadata {
        Some(metadata) => self::metadata(errors, metadata),
        None => errors.invalid("envelope.document.metadata", "is missing"),
    }
    let path = "envelope.document.documents";
    if body.documents.is_empty() {
        errors.invalid(path, "is empty");
    }
    let mut names = HashSet::with_capacity(body.documents.len().min(DOCUMENTS_MAX));
    let mut sizes: HashMap<&[u8], u64> = HashMap::new();
    errors.each(path, &body.documents, DOCUMENTS_MAX, |errors, path, document| {
        self::document(errors, path, document);
        if *sizes.entry(&document.sha256).or_insert(document.size) != document.size {
            errors.invalid(format_args!("{path}.size"), "is not that of another file with the same SHA-256");
        }
        if !document.name.is_empty() && !names.insert(document.name.as_str()) {
            errors.invalid(format_args!("{path}.name"), "is the name of another file too");
        }
    });
}

fn metadata(errors: &mut Errors, metadata: &DocumentMetadata) {
    let path = "envelope.document.metadata";
    for (field, text) in [
        ("document_id", &metadata.document_id),
        ("code_number", &metadata.code_number),
        ("code_notation", &metadata.code_notation),
        ("promulgation_place", &metadata.promulgation_place),
        ("document_type_name", &metadata.document_type_name),
        ("subject", &metadata.subject),
        ("content", &metadata.content),
        ("sphere_of_promulgation", &metadata.sphere_of_promulgation),
        ("typer_notation", &metadata.typer_notation),
    ] {
        errors.text(format_args!("{path}.{field}"), text);
    }
    if metadata.subject.is_empty() {
        errors.invalid(format_args!("{path}.subject"), "is missing");
    }
    errors.date(format_args!("{path}.promulgation_date"), &metadata.promulgation_date);
    errors.date(format_args!("{path}.due_date"), &metadata.due_date);
    if let Some(signer) = &metadata.signer {
        errors.text(format_args!("{path}.signer.competence"), &signer.competence);
        errors.text(format_args!("{path}.signer.position"), &signer.position);
        errors.text(format_args!("{path}.signer.full_name"), &signer.full_name);
        if signer.full_name.is_empty() {
            errors.invalid(format_args!("{path}.signer.full_name"), "is missing");
        }
    }
    for (field, texts) in [
        ("to_places", &metadata.to_places),
        ("appendixes", &metadata.appendixes),
        ("task_codes", &metadata.task_codes),
    ] {
        errors.each(format_args!("{path}.{field}"), texts, METADATA_LIST_MAX, |errors, path, text| {
            errors.text(path, text)
        });
    }
    errors.each(
        format_args!("{path}.response_for"),
        &metadata.response_for,
        METADATA_LIST_MAX,
        |errors, path, answered| {
            errors.text(format_args!("{path}.agency"), &answered.agency);
            errors.text(format_args!("{path}.code"), &answered.code);
            errors.text(format_args!("{path}.document_id"), &answered.document_id);
            errors.date(format_args!("{path}.promulgation_date"), &answered.promulgation_date);
        },
    );
}

fn document(errors: &mut Errors, path: Arguments<'_>, document: &Document) {
    let name = format_args!("{path}.name");
    errors.bytes(name, document.name.len(), FILE_NAME_BYTES_MAX);
    if matches!(document.name.as_str(), "" | "." | "..") {
        errors.invalid(name, "is no file name");
    } else if document
        .name
        .contains(|character: char| matches!(character, '/' | '\\') || character.is_control())
    {
        errors.invalid(name, "has a `/`, a `\\` or a control character");
    }
    let media_type = format_args!("{path}.media_type");
    errors.bytes(media_type, document.media_type.len(), MEDIA_TYPE_BYTES_MAX);
    if document.media_type.is_empty() || !document.media_type.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    {
        errors.invalid(media_type, "is not printable ASCII");
    }
    if document.size > DOCUMENT_BYTES_MAX {
        errors.push(format_args!("{path}.size"), Reason::TooLarge, format!("{} bytes", document.size));
    }
    errors.id::<Digest, _>(format_args!("{path}.sha256"), Digest::from_slice(&document.sha256));
    errors.text(format_args!("{path}.description"), &document.description);
}

/// Whether a text is a day of the calendar, as `yyyy-MM-dd`.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let form = bytes.len() == 10
        && bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() });
    if !form {
        return false;
    }
    let number = |range: std::ops::Range<usize>| {
        bytes[range].iter().fold(0, |n, byte| n * 10 + u32::from(byte - b'0'))
    };
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 0,
    };
    year >= 1 && (1..=days).contains(&day)
}

/// Collects what is wrong. Where is put into words only if something is.
#[derive(Default)]
struct Errors(Vec<ShapeError>);

impl Errors {
    fn push(&mut self, field: impl Display, reason: Reason, detail: impl Into<String>) {
        self.0.push(ShapeError { field: field.to_string(), reason, detail: detail.into() });
    }

    fn invalid(&mut self, field: impl Display, detail: impl Into<String>) {
        self.push(field, Reason::FieldInvalid, detail);
    }

    /// An id that must parse.
    fn id<T, E: std::error::Error>(&mut self, field: impl Display, parsed: Result<T, E>) {
        if let Err(error) = parsed {
            self.invalid(field, error.to_string());
        }
    }

    /// A number that must be there.
    fn required(&mut self, field: impl Display, number: u64) {
        if number == 0 {
            self.invalid(field, "is missing");
        }
    }

    fn bytes(&mut self, field: impl Display, found: usize, max: usize) {
        if found > max {
            self.push(field, Reason::TooLarge, format!("{found} bytes, at most {max}"));
        }
    }

    fn text(&mut self, field: impl Display, text: &str) {
        self.bytes(field, text.len(), TEXT_BYTES_MAX);
    }

    /// A date that may be empty.
    fn date(&mut self, field: impl Display, text: &str) {
        if !text.is_empty() && !is_date(text) {
            self.invalid(field, "is not a date as `yyyy-MM-dd`");
        }
    }

    /// A list: its length, then each entry. One that is too long is not read.
    fn each<'a, T>(
        &mut self,
        path: impl Display,
        list: &'a [T],
        max: usize,
        mut check: impl FnMut(&mut Self, Arguments<'_>, &'a T),
    ) {
        if list.len() > max {
            return self.push(path, Reason::TooLarge, format!("{} entries, at most {max}", list.len()));
        }
        for (index, entry) in list.iter().enumerate() {
            check(self, format_args!("{path}[{index}]"), entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::v1::{DocumentReference, Signer, Thread};
    use Reason::{FieldInvalid, RecipientDuplicate, RecipientsEmpty, TooLarge};

    const NOW: u64 = 1_700_000_000_000;

    fn recipient(agency: &str) -> Recipient {
        Recipient { agency: agency.into(), kind: 0 }
    }

    fn file(name: &str) -> Document {
        Document {
            name: name.into(),
            media_type: "application/pdf".into(),
            sha256: vec![1; 32].into(),
            ..Document::default()
        }
    }

    fn good() -> Envelope {
        let metadata = DocumentMetadata { subject: "V/v họp".into(), ..DocumentMetadata::default() };
        Envelope {
            envelope_id: hex::decode("0192f0c18f5a7b3e9a556d1f6f0a3c11").unwrap().into(),
            hub_id: "axis.test".into(),
            sender: "G22".into(),
            recipients: vec![recipient("H53"), recipient("H53.01")],
            created_unix_ms: NOW,
            body: Some(Body::Document(DocumentBody {
                metadata: Some(metadata),
                documents: vec![file("a.pdf")],
            })),
            ..Envelope::default()
        }
    }

    fn check(change: impl FnOnce(&mut Envelope), expected: &[(&str, Reason)]) {
        let mut changed = good();
        change(&mut changed);
        let errors = envelope(&changed);
        let found: Vec<_> = errors.iter().map(|error| (error.field.as_str(), error.reason)).collect();
        assert_eq!(found, expected);
    }

    fn check_body(change: impl FnOnce(&mut DocumentBody), expected: &[(&str, Reason)]) {
        check(
            |envelope| match &mut envelope.body {
                Some(Body::Document(body)) => change(body),
                None => unreachable!("the good envelope has a body"),
            },
            expected,
        );
    }

    fn check_metadata(change: impl FnOnce(&mut DocumentMetadata), expected: &[(&str, Reason)]) {
        check_body(|body| change(body.metadata.as_mut().unwrap()), expected);
    }

    fn check_file(change: impl FnOnce(&mut Document), expected: &[(&str, Reason)]) {
        check_body(|body| change(&mut body.documents[0]), expected);
    }

    #[test]
    fn what_is_right() {
        check(|_| {}, &[]);
        check(|e| (e.recipients, e.groups) = (vec![], vec!["everyone".into()]), &[]);
        check(|e| e.recipients = (0..5000).map(|n| recipient(&format!("H{n}"))).collect(), &[]);
        check(|e| (e.not_before_unix_ms, e.expires_unix_ms) = (NOW + 1, NOW + 2), &[]);
        check(|e| e.expires_unix_ms = NOW + EXPIRES_MAX_MS, &[]);
        check_file(|file| file.size = DOCUMENT_BYTES_MAX, &[]);
        check_file(|file| file.name = "Công văn số 12.pdf".into(), &[]);
        check_metadata(|m| m.due_date = "2028-02-29".into(), &[]);
    }

    #[test]
    fn an_empty_message_names_all_that_it_lacks() {
        let errors = envelope(&Envelope::default());
        let fields: Vec<_> = errors.iter().map(|error| error.field.trim_start_matches("envelope.")).collect();
        assert_eq!(fields, ["envelope_id", "hub_id", "sender", "recipients", "created_unix_ms", "body"]);
    }

    #[test]
    fn header() {
        check(|e| e.envelope_id = vec![0; 16].into(), &[("envelope.envelope_id", FieldInvalid)]);
        check(|e| e.hub_id = "Axis".into(), &[("envelope.hub_id", FieldInvalid)]);
        check(|e| e.sender = "G-22".into(), &[("envelope.sender", FieldInvalid)]);
        check(|e| e.priority = 6, &[("envelope.priority", FieldInvalid)]);
        check(|e| e.priority = -1, &[("envelope.priority", FieldInvalid)]);
        check(|e| e.body = None, &[("envelope.body", FieldInvalid)]);
    }

    #[test]
    fn addressees() {
        check(|e| e.recipients.clear(), &[("envelope.recipients", RecipientsEmpty)]);
        check(
            |e| e.recipients[1].agency = "H53".into(),
            &[("envelope.recipients[1].agency", RecipientDuplicate)],
        );
        check(|e| e.recipients[1].agency.clear(), &[("envelope.recipients[1].agency", FieldInvalid)]);
        check(|e| e.recipients[0].kind = 3, &[("envelope.recipients[0].kind", FieldInvalid)]);
        check(|e| e.recipients = vec![recipient("H53"); 5001], &[("envelope.recipients", TooLarge)]);
        check(|e| e.groups = vec!["g".into(), "G".into()], &[("envelope.groups[1]", FieldInvalid)]);
        check(|e| e.groups = vec!["g".into(); 17], &[("envelope.groups", TooLarge)]);
    }

    #[test]
    fn times() {
        check(|e| e.expires_unix_ms = NOW, &[("envelope.expires_unix_ms", FieldInvalid)]);
        check(
            |e| e.expires_unix_ms = NOW + EXPIRES_MAX_MS + 1,
            &[("envelope.expires_unix_ms", FieldInvalid)],
        );
        check(
            |e| e.not_before_unix_ms = NOW + EXPIRES_DEFAULT_MS,
            &[("envelope.not_before_unix_ms", FieldInvalid)],
        );
        check(|e| e.created_unix_ms = u64::MAX, &[("envelope.expires_unix_ms", FieldInvalid)]);
    }

    #[test]
    fn threads() {
        let reference = |sender: &str, size| EnvelopeReference {
            sender: sender.into(),
            envelope_id: vec![7; size].into(),
        };
        let thread = |in_reply_to, references| Some(Thread { in_reply_to, references });
        check(|e| e.thread = thread(Some(reference("G22", 16)), vec![reference("H53", 16)]), &[]);
        check(
            |e| e.thread = thread(Some(reference("", 16)), vec![reference("H53", 15)]),
            &[
                ("envelope.thread.in_reply_to.sender", FieldInvalid),
                ("envelope.thread.references[0].envelope_id", FieldInvalid),
            ],
        );
        check(
            |e| e.thread = thread(None, vec![reference("G22", 16); 17]),
            &[("envelope.thread.references", TooLarge)],
        );
    }

    #[test]
    fn manifests() {
        let path = "envelope.document.documents";
        check_body(|body| body.documents.clear(), &[(path, FieldInvalid)]);
        check_body(|body| body.documents = vec![file("a"); 101], &[(path, TooLarge)]);
        let name = "envelope.document.documents[1].name";
        check_body(|body| body.documents.push(file("a.pdf")), &[(name, FieldInvalid)]);
        let twin = |body: &mut DocumentBody| {
            body.documents.push(Document { size: 7_777, ..file("b.pdf") });
        };
        check_body(twin, &[("envelope.document.documents[1].size", FieldInvalid)]);
        let name = "envelope.document.documents[0].name";
        for bad in ["", ".", "..", "a/b", "a\\b", "a\nb", "a\u{7f}b", "a\u{85}b"] {
            check_file(|file| file.name = bad.into(), &[(name, FieldInvalid)]);
        }
        check_file(|file| file.name = "ă".repeat(128), &[(name, TooLarge)]);
        let media_type = "envelope.document.documents[0].media_type";
        check_file(|file| file.media_type.clear(), &[(media_type, FieldInvalid)]);
        check_file(|file| file.media_type = "a/ă".into(), &[(media_type, FieldInvalid)]);
        check_file(|file| file.media_type = "a".repeat(256), &[(media_type, TooLarge)]);
        check_file(
            |file| file.size = DOCUMENT_BYTES_MAX + 1,
            &[("envelope.document.documents[0].size", TooLarge)],
        );
        check_file(|file| file.sha256.clear(), &[("envelope.document.documents[0].sha256", FieldInvalid)]);
        let description = "envelope.document.documents[0].description";
        check_file(|file| file.description = "x".repeat(4097), &[(description, TooLarge)]);
    }

    #[test]
    fn metadata() {
        let at = |field: &str| format!("envelope.document.metadata{field}");
        check_body(|body| body.metadata = None, &[(&at(""), FieldInvalid)]);
        check_metadata(|m| m.subject.clear(), &[(&at(".subject"), FieldInvalid)]);
        check_metadata(|m| m.subject = "x".repeat(4097), &[(&at(".subject"), TooLarge)]);
        for bad in
            ["2026-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "01/02/2026", "0000-01-01", "1900-02-29"]
        {
            check_metadata(
                |m| m.promulgation_date = bad.into(),
                &[(&at(".promulgation_date"), FieldInvalid)],
            );
        }
        check_metadata(|m| m.signer = Some(Signer::default()), &[(&at(".signer.full_name"), FieldInvalid)]);
        check_metadata(|m| m.to_places = vec!["x".into(); 101], &[(&at(".to_places"), TooLarge)]);
        check_metadata(|m| m.task_codes = vec!["x".repeat(4097)], &[(&at(".task_codes[0]"), TooLarge)]);
        let answered = DocumentReference { promulgation_date: "x".into(), ..DocumentReference::default() };
        check_metadata(
            |m| m.response_for = vec![answered],
            &[(&at(".response_for[0].promulgation_date"), FieldInvalid)],
        );
    }

    #[test]
    fn answers() {
        let good = Acknowledgement {
            hub_id: "axis.test".into(),
            delivery_id: "12-0".into(),
            envelope_digest: vec![1; 32].into(),
            recipient: "H53".into(),
            mailbox_sequence: 1,
            acknowledged_unix_ms: NOW,
            reference: "đến 12".into(),
        };
        assert_eq!(acknowledgement(&good), []);
        let errors = acknowledgement(&Acknowledgement { reference: "x".repeat(257), ..good });
        assert_eq!((errors[0].field.as_str(), errors[0].reason), ("acknowledgement.reference", TooLarge));
        assert_eq!(acknowledgement(&Acknowledgement::default()).len(), 6);

        let good = Rejection {
            hub_id: "axis.test".into(),
            delivery_id: "12-0".into(),
            envelope_digest: vec![1; 32].into(),
            recipient: "H53".into(),
            mailbox_sequence: 1,
            rejected_unix_ms: NOW,
            reason: RejectionReason::Damaged.into(),
            explanation: String::new(),
        };
        assert_eq!(rejection(&good), []);
        for (reason, field) in
            [(0, "rejection.reason"), (99, "rejection.reason"), (7, "rejection.explanation")]
        {
            let errors = rejection(&Rejection { reason, ..good.clone() });
            assert_eq!((errors[0].field.as_str(), errors[0].reason), (field, FieldInvalid));
        }
        assert_eq!(rejection(&Rejection { reason: 7, explanation: "khác".into(), ..good }), []);
    }

    #[test]
    fn bytes_that_are_no_message() {
        let error = decode_envelope(&[0xff]).unwrap_err();
        assert_eq!((error.field.as_str(), error.reason), ("envelope", Reason::Malformed));
        assert!(decode_acknowledgement(&[0x0a, 5, 1]).is_err());
        assert!(decode_rejection(&[0x0a, 1, 0xff]).is_err(), "text that is not UTF-8");
    }
}
