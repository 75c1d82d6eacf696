//! Bad input gets a reason, a place and a remedy; nothing is queued, nothing
//! lost.

use axis_proto::{
    envelope::v1::{Document, Envelope, Recipient, SealedEnvelope, envelope::Body},
    hub::v1::{
        CheckRequest, QueryUploadRequest, Reason, SubmitRequest, UploadRequest, UploadStart,
        upload_request::Part,
    },
    id::{Digest, EnvelopeId},
    key::SigningKey,
    seal::{PayloadType, seal},
};
use axis_tests::{Ministry, Raw, TestHub, refusal_of};
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

const DAY_MS: u64 = 86_400_000;

/// A hub with three systems: `vpcp` (G22) who misbehaves, `byt` (G18) and
/// `tayninh` (H53).
struct Situation {
    hub: TestHub,
    vpcp: Raw,
    _byt: Ministry,
    _tayninh: Ministry,
}

impl Situation {
    async fn new() -> anyhow::Result<Self> {
        let hub = TestHub::start().await?;
        let vpcp = hub.ministry("vpcp", &["G22"]).await?;
        let byt = hub.ministry("byt", &["G18"]).await?;
        let tayninh = hub.ministry("tayninh", &["H53"]).await?;
        let vpcp = Raw::at(vpcp.home(), "G22").await?;
        Ok(Self { hub, vpcp, _byt: byt, _tayninh: tayninh })
    }

    async fn submit(&self, sealed: SealedEnvelope, documents: Vec<Bytes>) -> Result<(), Status> {
        let request = SubmitRequest { sealed_envelope: Some(sealed), documents };
        self.vpcp.submission().submit(request).await.map(|_| ())
    }

    /// Nothing was queued, and all is well.
    async fn ends_empty(self) -> anyhow::Result<()> {
        let report = self.hub.finish().await?;
        assert_eq!(report.counts.envelopes, 0, "nothing was queued");
        Ok(())
    }
}

/// A refusal has this reason, the gRPC code of its remedy, and names this
/// place.
#[track_caller]
fn is_refused(answer: Result<(), Status>, reason: Reason, field: &str) {
    let status = answer.expect_err("refused");
    let (found, violations) = refusal_of(&status);
    assert_eq!(found, Some(reason), "{status:?}");
    assert_eq!(status.code(), reason.grpc_code(), "{status:?}");
    assert!(!status.message().is_empty(), "says why");
    assert!(
        field.is_empty() || violations.iter().any(|(named, _)| named == field),
        "names {field}: {violations:?}"
    );
}

/// One changed envelope is refused with a reason at a place.
async fn check(change: impl FnOnce(&mut Envelope), reason: Reason, field: &str) -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let mut envelope = situation.vpcp.envelope("G18", b"file");
    change(&mut envelope);
    let sealed = situation.vpcp.seal(&envelope);
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"file")]).await;
    is_refused(answer, reason, field);
    situation.ends_empty().await
}

fn documents(envelope: &mut Envelope) -> &mut Vec<Document> {
    match &mut envelope.body {
        Some(Body::Document(body)) => &mut body.documents,
        None => panic!("it has one"),
    }
}

#[tokio::test]
async fn unknown_recipient() -> anyhow::Result<()> {
    let change = |envelope: &mut Envelope| envelope.recipients[0].agency = "H99".into();
    check(change, Reason::RecipientsRefused, "envelope.recipients[0].agency").await
}

#[tokio::test]
async fn closed_recipient_names_its_successor() -> anyhow::Result<()> {
    use axis_proto::{
        admin::v1::ChangeDirectoryRequest,
        record::v1::{Agency, AgencyState, DirectoryEntry, directory_entry::Value},
    };
    let situation = Situation::new().await?;
    let closed = Agency {
        code: "H01".into(),
        name: "Đã sáp nhập".into(),
        state: AgencyState::Closed.into(),
        successors: vec!["H53".into()],
        ..Agency::default()
    };
    let entries = vec![DirectoryEntry { value: Some(Value::Agency(closed)) }];
    let change = ChangeDirectoryRequest { entries, remark: String::new() };
    situation.hub.admin().await?.change_directory(change).await?;
    let mut envelope = situation.vpcp.envelope("H01", b"");
    envelope.recipients.push(Recipient { agency: "H99".into(), kind: 1 });
    let status =
        situation.submit(situation.vpcp.seal(&envelope), vec![Bytes::new()]).await.expect_err("refused");
    let (reason, violations) = refusal_of(&status);
    assert_eq!(reason, Some(Reason::RecipientsRefused));
    assert!(
        violations[0].1.contains("RECIPIENT_CLOSED") && violations[0].1.contains("H53"),
        "{violations:?}"
    );
    assert!(violations[1].1.contains("RECIPIENT_UNKNOWN"), "{violations:?}");
    situation.ends_empty().await
}

#[tokio::test]
async fn sender_not_served_by_the_caller() -> anyhow::Result<()> {
    check(|envelope| envelope.sender = "H53".into(), Reason::SenderNotServed, "envelope.sender").await
}

#[tokio::test]
async fn wrong_hub() -> anyhow::Result<()> {
    check(|envelope| envelope.hub_id = "truc.khac".into(), Reason::WrongHub, "envelope.hub_id").await
}

#[tokio::test]
async fn bad_signature() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let mut sealed = situation.vpcp.seal(&situation.vpcp.envelope("G18", b"file"));
    let mut payload = sealed.payload.to_vec();
    let last = payload.len() - 1;
    payload[last] ^= 1;
    sealed.payload = payload.into();
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"file")]).await;
    is_refused(answer, Reason::SignatureInvalid, "sealed_envelope.signatures[0]");
    situation.ends_empty().await
}

#[tokio::test]
async fn unknown_key() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let stranger = SigningKey::generate();
    let payload = situation.vpcp.envelope("G18", b"file").encode_to_vec();
    let sealed = seal(PayloadType::Envelope, payload, &[&stranger]);
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"file")]).await;
    is_refused(answer, Reason::KeyUnknown, "sealed_envelope.signatures[0]");
    situation.ends_empty().await
}

#[tokio::test]
async fn another_systems_key() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let theirs = Raw::at(situation._byt.home(), "G18").await?.key;
    let payload = situation.vpcp.envelope("H53", b"file").encode_to_vec();
    let sealed = seal(PayloadType::Envelope, payload, &[&theirs]);
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"file")]).await;
    is_refused(answer, Reason::KeyUnknown, "sealed_envelope.signatures[0]");
    situation.ends_empty().await
}

/// Limits the misbehaving system's key, then submits.
async fn with_limited_key(agencies: &[&str], valid_until_unix_ms: u64, reason: Reason) -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let limit = axis_proto::admin::v1::LimitSigningKeyRequest {
        key_id: Bytes::copy_from_slice(situation.vpcp.key.public().key_id().as_bytes()),
        agencies: agencies.iter().map(|code| (*code).into()).collect(),
        valid_until_unix_ms,
        remark: "giới hạn".into(),
    };
    situation.hub.admin().await?.limit_signing_key(limit).await?;
    let sealed = situation.vpcp.seal(&situation.vpcp.envelope("G18", b"file"));
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"file")]).await;
    is_refused(answer, reason, "sealed_envelope.signatures[0]");
    situation.ends_empty().await
}

#[tokio::test]
async fn expired_key() -> anyhow::Result<()> {
    with_limited_key(&[], 1, Reason::KeyExpired).await
}

#[tokio::test]
async fn out_of_scope_key() -> anyhow::Result<()> {
    with_limited_key(&["H53"], 0, Reason::KeyOutOfScope).await
}

#[tokio::test]
async fn revoked_key() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let key_id = Bytes::copy_from_slice(situation.vpcp.key.public().key_id().as_bytes());
    let revoke = axis_proto::admin::v1::RevokeSigningKeyRequest { key_id, remark: "lộ khóa".into() };
    situation.hub.admin().await?.revoke_signing_key(revoke).await?;
    let sealed = situation.vpcp.seal(&situation.vpcp.envelope("G18", b"file"));
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"file")]).await;
    is_refused(answer, Reason::KeyRevoked, "sealed_envelope.signatures[0]");
    situation.ends_empty().await
}

#[tokio::test]
async fn wrong_payload_type() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let payload = situation.vpcp.envelope("G18", b"file").encode_to_vec();
    let sealed = seal(PayloadType::Acknowledgement, payload, &[&situation.vpcp.key]);
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"file")]).await;
    is_refused(answer, Reason::FieldInvalid, "sealed_envelope.payload_type");
    situation.ends_empty().await
}

#[tokio::test]
async fn the_same_key_twice_or_no_signature() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let mut sealed = situation.vpcp.seal(&situation.vpcp.envelope("G18", b"file"));
    let signature = sealed.signatures[0].clone();
    sealed.signatures.push(signature);
    let answer = situation.submit(sealed.clone(), vec![]).await;
    is_refused(answer, Reason::FieldInvalid, "sealed_envelope.signatures[1].keyid");
    sealed.signatures.clear();
    let answer = situation.submit(sealed, vec![]).await;
    is_refused(answer, Reason::FieldInvalid, "sealed_envelope.signatures");
    situation.ends_empty().await
}

#[tokio::test]
async fn digest_of_no_document_that_came_along() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let sealed = situation.vpcp.seal(&situation.vpcp.envelope("G18", b"file"));
    let answer = situation.submit(sealed, vec![Bytes::from_static(b"fike")]).await;
    is_refused(answer, Reason::DigestMismatch, "documents[0]");
    situation.ends_empty().await
}

#[tokio::test]
async fn size_that_is_not_the_documents() -> anyhow::Result<()> {
    let change = |envelope: &mut Envelope| documents(envelope)[0].size = 5;
    check(change, Reason::SizeMismatch, "documents[0]").await
}

#[tokio::test]
async fn digest_never_uploaded() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let sealed = situation.vpcp.seal(&situation.vpcp.envelope("G18", b"file"));
    let check = CheckRequest { sealed_envelope: Some(sealed.clone()) };
    let checked = situation.vpcp.submission().check(check).await?.into_inner();
    assert!(checked.refusal.is_none());
    assert_eq!(checked.missing_documents, vec![Bytes::copy_from_slice(Digest::of(b"file").as_bytes())]);
    let answer = situation.submit(sealed, vec![]).await;
    is_refused(answer, Reason::DocumentMissing, "envelope.document.documents[0].sha256");
    situation.ends_empty().await
}

#[tokio::test]
async fn reused_envelope_id_with_other_bytes() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let mut envelope = situation.vpcp.envelope("G18", b"file");
    let files = || vec![Bytes::from_static(b"file")];
    situation.submit(situation.vpcp.seal(&envelope), files()).await?;
    situation.submit(situation.vpcp.seal(&envelope), files()).await?;
    envelope.priority = 4;
    let answer = situation.submit(situation.vpcp.seal(&envelope), files()).await;
    is_refused(answer, Reason::EnvelopeConflict, "envelope.envelope_id");
    let report = situation.hub.finish().await?;
    assert_eq!(report.counts.envelopes, 1);
    Ok(())
}

#[tokio::test]
async fn stale() -> anyhow::Result<()> {
    let change = |envelope: &mut Envelope| envelope.created_unix_ms -= 31 * DAY_MS;
    check(change, Reason::Stale, "envelope.created_unix_ms").await
}

#[tokio::test]
async fn from_the_future() -> anyhow::Result<()> {
    let change = |envelope: &mut Envelope| envelope.created_unix_ms += DAY_MS;
    check(change, Reason::Future, "envelope.created_unix_ms").await
}

#[tokio::test]
async fn expired_at_arrival() -> anyhow::Result<()> {
    let change = |envelope: &mut Envelope| {
        envelope.created_unix_ms -= 60_000;
        envelope.expires_unix_ms = envelope.created_unix_ms + 1_000;
    };
    check(change, Reason::Expired, "envelope.expires_unix_ms").await
}

#[tokio::test]
async fn duplicate_recipient() -> anyhow::Result<()> {
    let change = |envelope: &mut Envelope| {
        let first = envelope.recipients[0].clone();
        envelope.recipients.push(first);
    };
    check(change, Reason::RecipientDuplicate, "envelope.recipients[1].agency").await
}

#[tokio::test]
async fn no_recipient() -> anyhow::Result<()> {
    check(|envelope| envelope.recipients.clear(), Reason::RecipientsEmpty, "envelope.recipients").await
}

#[tokio::test]
async fn unknown_group() -> anyhow::Result<()> {
    let change = |envelope: &mut Envelope| envelope.groups.push("khong-co".into());
    check(change, Reason::RecipientsRefused, "envelope.groups[0]").await
}

#[tokio::test]
async fn malformed_payload_and_request() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let sealed = seal(PayloadType::Envelope, vec![0xff; 40], &[&situation.vpcp.key]);
    is_refused(situation.submit(sealed, vec![]).await, Reason::Malformed, "");
    is_refused(
        situation.vpcp.submission().submit(SubmitRequest::default()).await.map(|_| ()),
        Reason::FieldInvalid,
        "sealed_envelope",
    );
    situation.ends_empty().await
}

#[tokio::test]
async fn an_id_that_is_not_one() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let mut envelope = situation.vpcp.envelope("G18", b"file");
    for id in [&[][..], &[1; 15], &[0; 16]] {
        assert!(EnvelopeId::from_slice(id).is_err());
        envelope.envelope_id = Bytes::copy_from_slice(id);
        let answer = situation.submit(situation.vpcp.seal(&envelope), vec![]).await;
        is_refused(answer, Reason::FieldInvalid, "envelope.envelope_id");
    }
    situation.ends_empty().await
}

#[tokio::test]
async fn oversize_anything() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let vpcp = &situation.vpcp;

    let mut envelope = vpcp.envelope("G18", b"file");
    if let Some(Body::Document(body)) = &mut envelope.body {
        body.metadata.get_or_insert_default().subject = "x".repeat(5_000);
    }
    let answer = situation.submit(vpcp.seal(&envelope), vec![]).await;
    is_refused(answer, Reason::TooLarge, "envelope.document.metadata.subject");

    let mut envelope = vpcp.envelope("G18", b"file");
    documents(&mut envelope)[0].name = "x".repeat(256);
    let answer = situation.submit(vpcp.seal(&envelope), vec![]).await;
    is_refused(answer, Reason::TooLarge, "envelope.document.documents[0].name");

    let mut envelope = vpcp.envelope("G18", b"file");
    documents(&mut envelope)[0].size = (16 << 30) + 1;
    let answer = situation.submit(vpcp.seal(&envelope), vec![]).await;
    is_refused(answer, Reason::TooLarge, "envelope.document.documents[0].size");

    let sealed = seal(PayloadType::Envelope, vec![0; 262_145], &[&vpcp.key]);
    is_refused(situation.submit(sealed, vec![]).await, Reason::TooLarge, "sealed_envelope.payload");

    let large = vec![1; 70_000];
    let sealed = vpcp.seal(&vpcp.envelope("G18", &large));
    let answer = situation.submit(sealed, vec![large.into()]).await;
    is_refused(answer, Reason::TooLarge, "documents[0]");

    let sealed = vpcp.seal(&vpcp.envelope("G18", b"file"));
    let status = situation.submit(sealed, vec![vec![0; 3 << 20].into()]).await.expect_err("refused");
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");

    situation.ends_empty().await
}

#[tokio::test]
async fn uploads_that_are_not_what_they_say() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let mut calls = situation.vpcp.submission();
    let declared = Bytes::copy_from_slice(Digest::of(b"something else").as_bytes());
    let start = |offset| UploadRequest {
        part: Some(Part::Start(UploadStart { sha256: declared.clone(), size: 8, offset })),
    };
    let chunk = |bytes: &'static [u8]| UploadRequest { part: Some(Part::Chunk(Bytes::from_static(bytes))) };

    let answer = calls.upload(tokio_stream::iter([start(3), chunk(b"later")])).await.map(|_| ());
    is_refused(answer, Reason::OffsetMismatch, "");
    let answer = calls.upload(tokio_stream::iter([start(0), chunk(b"123456789")])).await.map(|_| ());
    is_refused(answer, Reason::SizeMismatch, "");
    let answer = calls.upload(tokio_stream::iter([chunk(b"no start")])).await.map(|_| ());
    is_refused(answer, Reason::FieldInvalid, "start");

    let query = QueryUploadRequest { sha256: declared.clone(), size: 8 };
    let offset = calls.query_upload(query.clone()).await?.into_inner().committed_bytes;
    let rest: &'static [u8] = &b"12345678"[offset as usize..];
    let parts = if rest.is_empty() { vec![start(offset)] } else { vec![start(offset), chunk(rest)] };
    let answer = calls.upload(tokio_stream::iter(parts)).await.map(|_| ());
    is_refused(answer, Reason::DigestMismatch, "");
    let after = calls.query_upload(query).await?.into_inner();
    assert_eq!((after.committed_bytes, after.complete), (0, false), "begins again from the start");
    situation.ends_empty().await
}

#[tokio::test]
async fn nobody_without_a_certificate_is_heard() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let address = situation.hub.hub().addresses().systems;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let mut calls = axis_proto::hub::v1::hub_service_client::HubServiceClient::new(channel);
    assert!(calls.get_info(axis_proto::hub::v1::GetInfoRequest {}).await.is_err());
    situation.ends_empty().await
}
