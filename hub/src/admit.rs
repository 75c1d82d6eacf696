//! Admits what was verified: parses the same bytes, and holds them against
//! the contract, the clock, and what the caller may say. The machine decides
//! once more, at the record's own sequence.

use axis_proto::{
    envelope::v1::{Acknowledgement, DocumentBody, Envelope, Rejection, envelope::Body},
    hub::v1::Reason,
    id::{AgencyCode, Digest, EnvelopeId, SystemId},
    limits::{INLINE_BYTES_MAX, INLINE_DOCUMENT_BYTES_MAX},
    record::v1::{AgencyState, SystemState},
    shape::{self, ShapeError},
};
use bytes::Bytes;

use crate::{
    error::{Error, Refusal, Result},
    limits::{self, Millis},
    machine::{Content, Kept, Signed, Submit, query},
    state::{Read, read_once},
    verify::{Ground, Verified, field_of},
};

/// An envelope that may be committed.
#[derive(Debug)]
pub struct Admitted {
    /// What is committed.
    pub submit: Box<Submit>,
    /// Whether an envelope with this id was there already. The machine looks
    /// for itself.
    pub is_known: bool,
}

/// Admits an envelope with the documents that ride along.
pub fn admit(
    ground: Ground<'_>,
    caller: &SystemId,
    verified: Verified,
    documents: Vec<Bytes>,
) -> Result<Admitted> {
    let envelope = parse(&verified, shape::decode_envelope, shape::envelope)?;
    meant_for(ground.hub_id, "envelope.hub_id", &envelope.hub_id)?;
    let signed_digest = verified.signed().digest;
    let standing = read_once(ground.state, |read| standing(read, caller, &envelope, &signed_digest))?;
    in_scope(&verified, "envelope.sender", &envelope.sender)?;
    let documents = if standing == Standing::Accepted {
        // answered with the receipt that exists, whatever the time is now
        Vec::new()
    } else {
        in_time(&envelope, ground.now_ms)?;
        riding_along(&envelope, documents)?
    };
    let submit = Box::new(Submit {
        system: caller.clone(),
        envelope,
        signed: verified.into_signed(),
        documents,
        kept: Kept::default(),
        ahead: None,
    });
    Ok(Admitted { submit, is_known: standing != Standing::New })
}

/// Admits an acknowledgement.
pub fn admit_acknowledgement(
    ground: Ground<'_>,
    caller: &SystemId,
    verified: Verified,
) -> Result<(Acknowledgement, Signed)> {
    let acknowledgement = parse(&verified, shape::decode_acknowledgement, shape::acknowledgement)?;
    meant_for(ground.hub_id, "acknowledgement.hub_id", &acknowledgement.hub_id)?;
    read_once(ground.state, |read| active(read, caller))?;
    in_scope(&verified, "acknowledgement.recipient", &acknowledgement.recipient)?;
    Ok((acknowledgement, verified.into_signed()))
}

/// Admits a rejection.
pub fn admit_rejection(
    ground: Ground<'_>,
    caller: &SystemId,
    verified: Verified,
) -> Result<(Rejection, Signed)> {
    let rejection = parse(&verified, shape::decode_rejection, shape::rejection)?;
    meant_for(ground.hub_id, "rejection.hub_id", &rejection.hub_id)?;
    read_once(ground.state, |read| active(read, caller))?;
    in_scope(&verified, "rejection.recipient", &rejection.recipient)?;
    Ok((rejection, verified.into_signed()))
}

/// Parses the bytes that were verified, and checks all that needs neither
/// clock nor directory.
fn parse<M>(
    verified: &Verified,
    decode: fn(&[u8]) -> std::result::Result<M, ShapeError>,
    check: fn(&M) -> Vec<ShapeError>,
) -> Result<M> {
    let message = decode(verified.payload())
        .map_err(|error| Error::invalid(error.field, error.reason, error.detail))?;
    let errors = check(&message);
    let Some(first) = errors.first() else { return Ok(message) };
    // one reason if all say the same, else the general one
    let same = errors.iter().all(|error| error.reason == first.reason);
    let reason = if same { first.reason } else { Reason::FieldInvalid };
    let refusal = errors
        .into_iter()
        .fold(Refusal::new(reason), |refusal, error| refusal.at(error.field, error.reason, error.detail));
    Err(refusal.into())
}

fn meant_for(hub_id: &str, field: &str, named: &str) -> Result<()> {
    if named == hub_id {
        return Ok(());
    }
    Err(Refusal::new(Reason::WrongHub).at(field, Reason::WrongHub, named).fact("hub_id", hub_id).into())
}

fn in_scope(verified: &Verified, field: &str, agency: &str) -> Result<()> {
    match verified.out_of_scope(agency) {
        None => Ok(()),
        Some(index) => {
            let signature = format!("{}.signatures[{index}]", field_of(verified.payload_type()));
            Err(Refusal::new(Reason::KeyOutOfScope)
                .at(signature, Reason::KeyOutOfScope, agency)
                .at(field, Reason::KeyOutOfScope, agency)
                .into())
        }
    }
}

/// How an envelope stands before it is submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    New,
    /// The same envelope was accepted before.
    Accepted,
    /// Another one was, with the same id.
    Taken,
}

fn standing(read: &dyn Read, caller: &SystemId, envelope: &Envelope, digest: &Digest) -> Result<Standing> {
    active(read, caller)?;
    let refused = |reason| Err(Error::invalid("envelope.sender", reason, &envelope.sender));
    let served = query::agency_part(read, &envelope.sender).filter(|row| row.system == caller.as_str());
    let Some(served) = served else { return refused(Reason::SenderNotServed) };
    if served.state() != AgencyState::Active {
        return refused(Reason::Suspended);
    }
    let known = || {
        let sender: AgencyCode = envelope.sender.parse().ok()?;
        let id = EnvelopeId::from_slice(&envelope.envelope_id).ok()?;
        query::envelope(read, query::envelope_by_id(read, &sender, &id)?)
    };
    Ok(match known() {
        None => Standing::New,
        Some(row) if row.envelope_digest == digest.as_bytes() => Standing::Accepted,
        Some(_) => Standing::Taken,
    })
}

/// Whether the caller may act at all.
fn active(read: &dyn Read, caller: &SystemId) -> Result<()> {
    match query::system_state(read, caller.as_str()) {
        Some(SystemState::Active) => Ok(()),
        Some(SystemState::Suspended | SystemState::Unspecified) => Err(Error::refused(Reason::Suspended)),
        None => Err(Error::refused(Reason::NotAuthenticated)),
    }
}

/// Whether an envelope comes at a time when it may.
fn in_time(envelope: &Envelope, now_ms: Millis) -> Result<()> {
    let created = envelope.created_unix_ms;
    let refused = |reason, field: &str, value: Millis| {
        Err(Refusal::new(reason).at(field, reason, value).fact("hub_time_unix_ms", now_ms).into())
    };
    if created.saturating_add(limits::CREATED_AGE_MAX_MS) < now_ms {
        return refused(Reason::Stale, "envelope.created_unix_ms", created);
    }
    if created > now_ms.saturating_add(limits::CREATED_AHEAD_MAX_MS) {
        return refused(Reason::Future, "envelope.created_unix_ms", created);
    }
    let expires = match envelope.expires_unix_ms {
        0 => created.saturating_add(limits::EXPIRES_DEFAULT_MS),
        named => named,
    };
    if expires <= now_ms {
        return refused(Reason::Expired, "envelope.expires_unix_ms", expires);
    }
    Ok(())
}

/// The documents that ride along, each once and in the manifest's order.
/// Refuses whatever the manifest does not name.
fn riding_along(envelope: &Envelope, documents: Vec<Bytes>) -> Result<Vec<Content>> {
    let manifest = match &envelope.body {
        Some(Body::Document(DocumentBody { documents, .. })) => documents.as_slice(),
        None => &[],
    };
    if documents.iter().map(Bytes::len).sum::<usize>() > INLINE_BYTES_MAX {
        let refusal =
            Refusal::new(Reason::TooLarge).at("documents", Reason::TooLarge, "more than 1048576 bytes");
        return Err(refusal.into());
    }
    let mut places = Vec::with_capacity(documents.len());
    for (index, document) in documents.into_iter().enumerate() {
        let refused = |reason: Reason, detail: String| {
            Err(Error::invalid(format!("documents[{index}]"), reason, detail))
        };
        if document.len() > INLINE_DOCUMENT_BYTES_MAX {
            return refused(Reason::TooLarge, format!("{} bytes", document.len()));
        }
        let document = Content::of(document);
        let digest = document.sha256();
        let Some(place) = manifest.iter().position(|named| named.sha256 == digest.as_bytes().as_slice())
        else {
            return refused(Reason::DigestMismatch, digest.to_string());
        };
        if manifest[place].size != document.len() as u64 {
            let detail = format!("{} bytes", document.len());
            return Err(Refusal::new(Reason::SizeMismatch)
                .at(format!("envelope.document.documents[{place}].size"), Reason::SizeMismatch, &detail)
                .at(format!("documents[{index}]"), Reason::SizeMismatch, &detail)
                .into());
        }
        if places.iter().any(|(taken, _)| *taken == place) {
            return refused(Reason::FieldInvalid, format!("{digest} comes twice"));
        }
        places.push((place, document));
    }
    places.sort_by_key(|(place, _)| *place);
    Ok(places.into_iter().map(|(_, document)| document).collect())
}

#[cfg(test)]
mod tests {
    use axis_proto::envelope::v1::{
        Document, DocumentMetadata, Priority, Recipient, RecipientKind, RejectionReason,
    };
    use axis_proto::seal::PayloadType;
    use prost::Message as _;

    use super::*;
    use crate::{
        limits::{DAY_MS, MINUTE_MS},
        machine::tables::{EnvelopeRow, key},
        state::{Changes, State as _, memory::MemoryState},
        verify::{
            Points,
            tests::{NOW, directory, ground, place_of, sealed, system},
            verify,
        },
    };

    fn envelope() -> Envelope {
        Envelope {
            envelope_id: Bytes::copy_from_slice(EnvelopeId::new_v7().as_bytes()),
            hub_id: "truc".into(),
            sender: "G22".into(),
            recipients: vec![Recipient { agency: "G18".into(), kind: RecipientKind::To.into() }],
            created_unix_ms: NOW - MINUTE_MS,
            priority: Priority::Normal.into(),
            body: Some(Body::Document(DocumentBody {
                metadata: Some(DocumentMetadata {
                    subject: "Về việc".into(), ..DocumentMetadata::default()
                }),
                documents: vec![document("a.pdf", b"one"), document("b.pdf", b"two")],
            })),
            ..Envelope::default()
        }
    }

    fn document(name: &str, content: &[u8]) -> Document {
        Document {
            name: name.into(),
            media_type: "application/pdf".into(),
            size: content.len() as u64,
            sha256: Bytes::copy_from_slice(Digest::of(content).as_bytes()),
            ..Document::default()
        }
    }

    fn submit(
        state: &MemoryState,
        envelope: &Envelope,
        seeds: &[u8],
        documents: &[&'static [u8]],
    ) -> Result<Submit> {
        let caller = system("vpcp");
        let sealed = sealed(PayloadType::Envelope, envelope.encode_to_vec(), seeds);
        let points = Points::default();
        let ground = ground(state, &points);
        let verified = verify(ground, &calling(&caller), &sealed, PayloadType::Envelope)?;
        let documents = documents.iter().copied().map(Bytes::from_static).collect();
        admit(ground, &caller, verified, documents).map(|admitted| *admitted.submit)
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Envelope), expected: (Reason, &str)) {
        let mut envelope = envelope();
        change(&mut envelope);
        let error = submit(&directory(), &envelope, &[1], &[]).expect_err("refused");
        assert_eq!(place_of(error), (expected.0, expected.1.to_owned()));
    }

    fn calling(system: &SystemId) -> crate::authenticate::Caller {
        crate::authenticate::Caller { system: system.clone(), fingerprint: Digest::of(b"certificate") }
    }

    #[test]
    fn what_is_right_is_admitted_with_its_documents_in_the_manifests_order() {
        let submit = submit(&directory(), &envelope(), &[1, 2], &[b"two", b"one"]).expect("admitted");
        assert_eq!(
            submit.documents.iter().map(|document| &document[..]).collect::<Vec<_>>(),
            [&b"one"[..], b"two"]
        );
        assert_eq!(submit.system, system("vpcp"));
        assert_eq!(submit.signed.key_ids.len(), 2);
    }

    #[test]
    fn who_may_not_say_it() {
        refused(|e| e.hub_id = "khac".into(), (Reason::WrongHub, "envelope.hub_id"));
        refused(|e| e.sender = "G18".into(), (Reason::SenderNotServed, "envelope.sender"));
        refused(|e| e.sender = "G77".into(), (Reason::SenderNotServed, "envelope.sender"));
        refused(|e| e.sender = "G22.98".into(), (Reason::Suspended, "envelope.sender"));
        let scoped = submit(&directory(), &envelope(), &[1, 3], &[]).expect_err("key 3 is for G22.99");
        assert_eq!(place_of(scoped), (Reason::KeyOutOfScope, "sealed_envelope.signatures[1]".to_owned()));
        let mut own = envelope();
        own.sender = "G22.99".into();
        submit(&directory(), &own, &[1, 3], &[]).expect("within its scope");
    }

    #[test]
    fn times_that_are_not_taken() {
        let created = "envelope.created_unix_ms";
        refused(|e| e.created_unix_ms = NOW - 30 * DAY_MS - 1, (Reason::Stale, created));
        refused(|e| e.created_unix_ms = NOW + 5 * MINUTE_MS + 1, (Reason::Future, created));
        refused(|e| e.expires_unix_ms = NOW, (Reason::Expired, "envelope.expires_unix_ms"));
        let mut oldest = envelope();
        oldest.created_unix_ms = NOW - 30 * DAY_MS;
        oldest.expires_unix_ms = NOW + 1;
        submit(&directory(), &oldest, &[1], &[]).expect("just in time");
    }

    #[test]
    fn bytes_that_are_no_envelope_and_shapes_that_are_wrong() {
        let state = directory();
        let caller = system("vpcp");
        let sealed = sealed(PayloadType::Envelope, &b"\xff\xff\xff"[..], &[1]);
        let points = Points::default();
        let ground = ground(&state, &points);
        let verified =
            verify(ground, &calling(&caller), &sealed, PayloadType::Envelope).expect("signed all the same");
        let error = admit(ground, &caller, verified, Vec::new()).expect_err("malformed");
        assert_eq!(place_of(error).0, Reason::Malformed);
        refused(|e| e.recipients.clear(), (Reason::RecipientsEmpty, "envelope.recipients"));
        refused(
            |e| e.recipients.push(e.recipients[0].clone()),
            (Reason::RecipientDuplicate, "envelope.recipients[1].agency"),
        );
        refused(
            |e| {
                e.recipients.clear();
                e.body = None;
            },
            (Reason::FieldInvalid, "envelope.recipients"),
        );
    }

    #[test]
    fn documents_that_the_manifest_does_not_name() {
        let check = |documents: &[&'static [u8]], expected: (Reason, &str)| {
            let error = submit(&directory(), &envelope(), &[1], documents).expect_err("refused");
            assert_eq!(place_of(error), (expected.0, expected.1.to_owned()));
        };
        check(&[b"one", b"three"], (Reason::DigestMismatch, "documents[1]"));
        check(&[b"one", b"two", b"one"], (Reason::FieldInvalid, "documents[2]"));
        static LARGE: [u8; INLINE_DOCUMENT_BYTES_MAX + 1] = [0; INLINE_DOCUMENT_BYTES_MAX + 1];
        check(&[&LARGE], (Reason::TooLarge, "documents[0]"));
        check(&[&LARGE[..]; 17], (Reason::TooLarge, "documents"));
        let mut lying = envelope();
        if let Some(Body::Document(body)) = &mut lying.body {
            body.documents[0].size = 4;
        }
        let error = submit(&directory(), &lying, &[1], &[b"one"]).expect_err("refused");
        assert_eq!(place_of(error), (Reason::SizeMismatch, "envelope.document.documents[0].size".to_owned()));
    }

    #[test]
    fn the_same_envelope_again_is_let_through_however_late() {
        let mut late = envelope();
        late.created_unix_ms = NOW - 40 * DAY_MS;
        let state = directory();
        assert_eq!(place_of(submit(&state, &late, &[1], &[]).expect_err("stale")).0, Reason::Stale);
        let digest = axis_proto::seal::digest(PayloadType::Envelope.as_str(), &late.encode_to_vec());
        let row = EnvelopeRow { envelope_digest: digest.as_bytes().to_vec(), ..EnvelopeRow::default() };
        let mut changes = Changes::new();
        changes.insert(key::envelope(7), Some(row.encode_to_vec()));
        changes.insert(key::envelope_id("G22", &late.envelope_id), Some(7_u64.to_be_bytes().to_vec()));
        state.publish(changes, 2);
        submit(&state, &late, &[1], &[]).expect("accepted before");
        // re-signed after a rotation it is still the same
        submit(&state, &late, &[2], &[]).expect("accepted before");
    }

    #[test]
    fn answers_pass_by_hub_and_scope() {
        let state = directory();
        let caller = system("vpcp");
        let points = Points::default();
        let ground = ground(&state, &points);
        let mut acknowledgement = Acknowledgement {
            hub_id: "truc".into(),
            delivery_id: "12-0".into(),
            envelope_digest: Bytes::from_static(&[1; 32]),
            recipient: "G22".into(),
            mailbox_sequence: 1,
            acknowledged_unix_ms: NOW,
            reference: String::new(),
        };
        let check = |acknowledgement: &Acknowledgement, seeds: &[u8]| {
            let sealed = sealed(PayloadType::Acknowledgement, acknowledgement.encode_to_vec(), seeds);
            let verified = verify(ground, &calling(&caller), &sealed, PayloadType::Acknowledgement)?;
            admit_acknowledgement(ground, &caller, verified)
        };
        assert_eq!(check(&acknowledgement, &[1]).expect("admitted").0, acknowledgement);
        assert_eq!(place_of(check(&acknowledgement, &[3]).expect_err("scope")).0, Reason::KeyOutOfScope);
        acknowledgement.hub_id = "khac".into();
        assert_eq!(place_of(check(&acknowledgement, &[1]).expect_err("hub")).0, Reason::WrongHub);

        let rejection = Rejection {
            hub_id: "truc".into(),
            delivery_id: "12-0".into(),
            envelope_digest: Bytes::from_static(&[1; 32]),
            recipient: "G22".into(),
            mailbox_sequence: 1,
            rejected_unix_ms: NOW,
            reason: RejectionReason::Other.into(),
            explanation: String::new(),
        };
        let sealed = sealed(PayloadType::Rejection, rejection.encode_to_vec(), &[1]);
        let verified = verify(ground, &calling(&caller), &sealed, PayloadType::Rejection).expect("signed");
        let error = admit_rejection(ground, &caller, verified).expect_err("no explanation");
        assert_eq!(place_of(error), (Reason::FieldInvalid, "rejection.explanation".to_owned()));
    }

    #[test]
    fn a_suspended_system_says_nothing() {
        let state = directory();
        let answer = read_once(&state, |read| active(read, &system("ngung")));
        assert_eq!(place_of(answer.expect_err("suspended")).0, Reason::Suspended);
        let answer = read_once(&state, |read| active(read, &system("la")));
        assert_eq!(place_of(answer.expect_err("unknown")).0, Reason::NotAuthenticated);
    }
}
