//! A delivery that has been verified: who sent it, that it is whole, and that
//! the hub's record says so. Answer it once; what is dropped comes again.

use std::{sync::Arc, time::Duration};

use axis_proto::{
    envelope::v1::{
        Acknowledgement, DocumentMetadata, Envelope, RecipientKind, Rejection, RejectionReason,
        SealedEnvelope, envelope::Body,
    },
    hub::v1::{AcknowledgeRequest, Delivery, RejectRequest, Remedy},
    id::{AgencyCode, DeliveryId, Digest, EnvelopeId, KeyId},
    key::PublicKey,
    record::v1::{Receipt, SigningKey, record::Event},
    seal::{self, PayloadType},
    shape,
};
use bytes::Bytes;
use prost::Message as _;

use super::{document::ReceivedDocument, lease::Lease};
use crate::{
    answered::{self, Answer},
    client::{Inner, now_unix_ms},
    error::{Error, Refused, Result, Verification},
    evidence::{Evidence, with_records},
    files::blocking,
    receipt,
    trust::origin_of,
};

/// One envelope for one of our agencies, verified, and ours for a while.
pub struct Received {
    lease: Lease,
    inner: Arc<Inner>,
    verified: Verified,
}

/// How a delivery was settled.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Settled {
    /// Sequence of the record.
    pub sequence: u64,
    /// The record with its proof, verified.
    pub receipt: Receipt,
    /// Whether it had been answered in the same way before.
    pub duplicate: bool,
    /// Whether it had ended in another way before the acknowledgement.
    pub late: bool,
}

/// What was verified about a delivery.
pub(super) struct Verified {
    envelope: Envelope,
    sealed: SealedEnvelope,
    envelope_id: EnvelopeId,
    envelope_digest: Digest,
    sender: AgencyCode,
    recipient: AgencyCode,
    kind: RecipientKind,
    key_ids: Vec<KeyId>,
    /// The keys, each with the record that holds it; none if the hub does not
    /// say.
    keys: Vec<(SigningKey, u64)>,
    mailbox_sequence: u64,
    accepted_sequence: u64,
    leased_sequence: u64,
    receipt: Receipt,
    documents: Vec<ReceivedDocument>,
}

impl Received {
    pub(super) fn new(inner: Arc<Inner>, lease: Lease, verified: Verified) -> Self {
        Self { lease, inner, verified }
    }

    /// What the sender signed.
    pub fn envelope(&self) -> &Envelope {
        &self.verified.envelope
    }

    /// The sender's exact bytes, to keep as evidence.
    pub fn sealed(&self) -> &SealedEnvelope {
        &self.verified.sealed
    }

    /// The envelope's id.
    pub fn envelope_id(&self) -> &EnvelopeId {
        &self.verified.envelope_id
    }

    /// SHA-256(PAE) of the envelope: its identity everywhere.
    pub fn envelope_digest(&self) -> &Digest {
        &self.verified.envelope_digest
    }

    /// Who sent it.
    pub fn sender(&self) -> &AgencyCode {
        &self.verified.sender
    }

    /// Which of our agencies it is for.
    pub fn recipient(&self) -> &AgencyCode {
        &self.verified.recipient
    }

    /// To act on it or to know of it.
    pub fn kind(&self) -> RecipientKind {
        self.verified.kind
    }

    /// The keys that signed it.
    pub fn key_ids(&self) -> &[KeyId] {
        &self.verified.key_ids
    }

    /// What the document is.
    pub fn metadata(&self) -> &DocumentMetadata {
        static NONE: std::sync::OnceLock<DocumentMetadata> = std::sync::OnceLock::new();
        match &self.verified.envelope.body {
            Some(Body::Document(body)) => body.metadata.as_ref(),
            None => None,
        }
        .unwrap_or_else(|| NONE.get_or_init(DocumentMetadata::default))
    }

    /// Its files, in the order of the manifest.
    pub fn documents(&self) -> &[ReceivedDocument] {
        &self.verified.documents
    }

    /// The delivery's id.
    pub fn delivery_id(&self) -> DeliveryId {
        self.lease.delivery_id
    }

    /// How often it has been offered, from 1.
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// Its number in the mailbox.
    pub fn mailbox_sequence(&self) -> u64 {
        self.verified.mailbox_sequence
    }

    /// Sequence of the Accepted record, for [`Client::receipt`](crate::Client::receipt).
    pub fn accepted_sequence(&self) -> u64 {
        self.verified.accepted_sequence
    }

    /// Sequence of the Leased record.
    pub fn leased_sequence(&self) -> u64 {
        self.verified.leased_sequence
    }

    /// The Leased record with its proof, verified.
    pub fn receipt(&self) -> &Receipt {
        &self.verified.receipt
    }

    /// Evidence of who signed it, for anyone who has the key of the hub's log:
    /// the Leased record, which names the envelope's digest, the sender's exact
    /// bytes, and the records that say whose keys signed them.
    ///
    /// The hub is asked for the record of a key once; the home keeps it.
    pub async fn evidence(&self) -> Result<Evidence> {
        let verified = &self.verified;
        let bad = |detail: &str| Verification::new("signature", detail).of(self.lease.delivery_id);
        if verified.keys.len() != verified.key_ids.len() {
            return Err(bad("the hub does not name the records that hold its keys").into());
        }
        let evidence = Evidence {
            sealed: verified.sealed.encode_to_vec().into(),
            keys: self.inner.key_receipts(&verified.keys).await?,
            ..Evidence::of(verified.receipt.clone())
        };
        evidence.verify_with(|found| self.inner.trust.book().verify(found))?;
        Ok(evidence)
    }

    /// What to keep beside the documents: the evidence, or the receipt alone if
    /// the hub does not give the rest now. What contradicts the delivery is an
    /// error.
    pub(super) async fn evidence_to_save(&self) -> Result<Evidence> {
        let alone = || Evidence::of(self.verified.receipt.clone());
        if self.verified.keys.is_empty() {
            return Ok(alone());
        }
        match self.evidence().await {
            Err(error) if !matches!(error, Error::Verification(_)) => {
                tracing::warn!(%error, "the record of the sender's key is not kept");
                Ok(alone())
            }
            evidence => evidence,
        }
    }

    /// Whether the hub still keeps it for us, as far as is known. If not, it
    /// may be offered elsewhere; an acknowledgement is still taken.
    pub fn is_leased(&self) -> bool {
        self.lease.is_current()
    }

    /// Says, signed and for good, that we hold it. Call it once everything is
    /// safe on our side. `reference` is ours, such as the arrival number; it
    /// may be empty.
    ///
    /// After an error the delivery comes again: recognise it by sender,
    /// envelope id and recipient, and acknowledge again.
    pub async fn ack(mut self, reference: &str) -> Result<Settled> {
        let acknowledgement = Acknowledgement {
            hub_id: self.verified.envelope.hub_id.clone(),
            delivery_id: self.lease.delivery_id.to_string(),
            envelope_digest: Bytes::copy_from_slice(self.verified.envelope_digest.as_ref()),
            recipient: self.verified.recipient.to_string(),
            mailbox_sequence: self.verified.mailbox_sequence,
            acknowledged_unix_ms: now_unix_ms(),
            reference: reference.to_owned(),
        };
        self.check_shape(shape::acknowledgement(&acknowledgement))?;
        self.lease.answered();
        self.acknowledge(self.seal(PayloadType::Acknowledgement, acknowledgement.encode_to_vec())).await
    }

    fn seal(&self, payload_type: PayloadType, payload: Vec<u8>) -> SealedEnvelope {
        seal::seal(payload_type, payload, &[&self.inner.identity().signing_key])
    }

    async fn acknowledge(&self, sealed: SealedEnvelope) -> Result<Settled> {
        let said = seal::digest(&sealed.payload_type, &sealed.payload);
        let request = AcknowledgeRequest { sealed_acknowledgement: Some(sealed.clone()) };
        let inner = &self.inner;
        let answer = inner
            .retried(|| async {
                let mut mailbox = inner.mailbox();
                inner.timed(mailbox.acknowledge(inner.request(request.clone()))).await
            })
            .await?;
        inner.know_log_of(answer.receipt.as_ref()).await?;
        let settled =
            self.settled(answer.receipt, &said, answer.duplicate, answer.late, |event| match event {
                Event::Acknowledged(it) if !answer.late => Some(it.acknowledgement_digest.clone()),
                Event::LateAccepted(it) if answer.late => Some(it.acknowledgement_digest.clone()),
                _ => None,
            })?;
        self.remember(&sealed, &settled).await;
        inner.mind_log().await?;
        Ok(settled)
    }

    /// Says, signed and for good, that we cannot take it, and why.
    pub async fn reject(mut self, reason: RejectionReason, explanation: &str) -> Result<Settled> {
        let rejection = Rejection {
            hub_id: self.verified.envelope.hub_id.clone(),
            delivery_id: self.lease.delivery_id.to_string(),
            envelope_digest: Bytes::copy_from_slice(self.verified.envelope_digest.as_ref()),
            recipient: self.verified.recipient.to_string(),
            mailbox_sequence: self.verified.mailbox_sequence,
            rejected_unix_ms: now_unix_ms(),
            reason: reason.into(),
            explanation: explanation.to_owned(),
        };
        self.check_shape(shape::rejection(&rejection))?;
        self.lease.answered();
        self.say_no(self.seal(PayloadType::Rejection, rejection.encode_to_vec())).await
    }

    async fn say_no(&self, sealed: SealedEnvelope) -> Result<Settled> {
        let said = seal::digest(&sealed.payload_type, &sealed.payload);
        let request = RejectRequest { sealed_rejection: Some(sealed.clone()) };
        let inner = &self.inner;
        let answer = inner
            .retried(|| async {
                let mut mailbox = inner.mailbox();
                inner.timed(mailbox.reject(inner.request(request.clone()))).await
            })
            .await?;
        inner.know_log_of(answer.receipt.as_ref()).await?;
        let settled = self.settled(answer.receipt, &said, answer.duplicate, false, |event| match event {
            Event::Rejected(it) => Some(it.rejection_digest.clone()),
            _ => None,
        })?;
        self.remember(&sealed, &settled).await;
        inner.mind_log().await?;
        Ok(settled)
    }

    /// What was answered to this envelope before, if the hub may have lost it.
    pub(super) fn answered_before(&self) -> Option<Answer> {
        if !self.inner.was_restored() {
            return None;
        }
        let found =
            answered::find(&self.inner.home, &self.verified.envelope_digest, &self.verified.recipient);
        found.unwrap_or_else(|error| {
            // it is shown once more rather than not at all
            tracing::warn!(%error, "what was answered before cannot be read");
            None
        })
    }

    /// Answers as before, on behalf of whoever answered then: in the same
    /// bytes if they still fit, else signed anew.
    pub(super) async fn answer_again(mut self, answer: Answer) -> Result<()> {
        self.lease.answered();
        let bad = |detail: &str| Error::from(Verification::new("answer", detail));
        let sealed = answer.sealed().ok_or_else(|| bad("what was answered before cannot be read"))?;
        let unread = |error: prost::DecodeError| bad(&error.to_string());
        let fits = answer.delivery_id == self.lease.delivery_id
            && answer.mailbox_sequence == self.verified.mailbox_sequence;
        let (delivery_id, mailbox_sequence) =
            (self.lease.delivery_id.to_string(), self.verified.mailbox_sequence);
        match PayloadType::parse(&sealed.payload_type) {
            Some(PayloadType::Acknowledgement) => {
                if fits && let Some(done) = unless_refused(self.acknowledge(sealed.clone()).await)? {
                    return Ok(done);
                }
                let said = Acknowledgement::decode(sealed.payload).map_err(unread)?;
                let said = Acknowledgement { delivery_id, mailbox_sequence, ..said };
                self.acknowledge(self.seal(PayloadType::Acknowledgement, said.encode_to_vec())).await?;
            }
            Some(PayloadType::Rejection) => {
                if fits && let Some(done) = unless_refused(self.say_no(sealed.clone()).await)? {
                    return Ok(done);
                }
                let said = Rejection::decode(sealed.payload).map_err(unread)?;
                let said = Rejection { delivery_id, mailbox_sequence, ..said };
                self.say_no(self.seal(PayloadType::Rejection, said.encode_to_vec())).await?;
            }
            _ => return Err(bad("what was answered before is no answer")),
        }
        Ok(())
    }

    /// Keeps what was answered, durably. If it cannot be, nothing is lost but
    /// that it may be shown once more after a restore of the hub.
    async fn remember(&self, sealed: &SealedEnvelope, settled: &Settled) {
        if self.inner.options.keep.is_zero() {
            return;
        }
        let Some(log) = origin_of(&settled.receipt) else { return };
        let verified = &self.verified;
        let answer = Answer::new(
            (verified.envelope_digest, verified.envelope_id),
            (verified.sender.clone(), verified.recipient.clone()),
            (self.lease.delivery_id, verified.mailbox_sequence),
            (log.to_owned(), settled.sequence),
            sealed,
        );
        let home = self.inner.home.clone();
        if let Err(error) = blocking(move || answered::keep(&home, &answer)).await {
            tracing::warn!(%error, "an answer was not kept");
        }
    }

    /// Not now: it comes again after the delay, or when the hub thinks best.
    pub async fn nack(mut self, delay: Option<Duration>) -> Result<()> {
        self.lease.nack(delay).await
    }

    /// Holds it longer, counted from now. While it is held this happens by
    /// itself, up to [`ReceiveOptions::hold_max`](crate::ReceiveOptions).
    pub async fn extend(&self, duration: Duration) -> Result<()> {
        self.lease.extend(duration).await
    }

    /// Says nothing, as after a crash: the lease lapses and it comes again.
    pub fn abandon(mut self) {
        self.lease.answered();
    }

    fn check_shape(&self, errors: Vec<shape::ShapeError>) -> Result<()> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Error::refused(Refused::of_shape(errors, self.inner.options.language)))
    }

    /// Checks the record of an answer: it must hold the digest of what was
    /// said, unless the same had been said before in other bytes.
    fn settled(
        &self,
        found: Option<Receipt>,
        said: &Digest,
        duplicate: bool,
        late: bool,
        digest_of: impl Fn(&Event) -> Option<Bytes>,
    ) -> Result<Settled> {
        let found = receipt::required(found)?;
        let delivery_id = self.lease.delivery_id.to_string();
        let verified = self.inner.trust.verify(&found)?;
        let verified = receipt::of_delivery(verified, &delivery_id, &self.verified.envelope_digest)?;
        let recorded = verified.record.event.as_ref().and_then(digest_of);
        if !recorded.is_some_and(|digest| duplicate || digest.as_ref() == said.as_ref()) {
            return Err(Verification::new("receipt", "its record says something else").into());
        }
        receipt::keep(&self.inner.home, &found, verified.record.sequence);
        Ok(Settled { sequence: verified.record.sequence, receipt: found, duplicate, late })
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("delivery_id", &self.lease.delivery_id)
            .field("envelope_id", &self.verified.envelope_id)
            .field("sender", &self.verified.sender)
            .field("recipient", &self.verified.recipient)
            .finish_non_exhaustive()
    }
}

/// Done, or refused, so that it is worth signing anew.
fn unless_refused(settled: Result<Settled>) -> Result<Option<()>> {
    match settled {
        Ok(_) => Ok(Some(())),
        Err(Error::Refused(refused)) if refused.remedy != Remedy::RetryLater => Ok(None),
        Err(error) => Err(error),
    }
}

/// Verifies a delivery, down to every byte that came with it.
pub(super) fn verify(inner: &Arc<Inner>, delivery_id: DeliveryId, delivery: Delivery) -> Result<Verified> {
    let of = |error: Verification| error.of(delivery_id);
    let bad = |what: &'static str, detail: &str| Error::from(of(Verification::new(what, detail)));
    let identity = inner.identity();

    let sealed = delivery.sealed_envelope.ok_or_else(|| bad("envelope", "none came"))?;
    let mut used = Vec::new();
    let opened = seal::open(&sealed, PayloadType::Envelope, &mut |key_id| {
        let (key, public_key) = delivery.signing_keys.iter().find_map(|key| holds(key, key_id))?;
        used.push(key);
        Some(public_key)
    })
    .map_err(|error| bad("signature", &error.to_string()))?;
    if opened.digest.as_ref() != delivery.envelope_digest.as_ref() {
        return Err(bad("envelope", "its digest is not the one that the hub names"));
    }
    let envelope =
        Envelope::decode(opened.payload.clone()).map_err(|error| bad("envelope", &error.to_string()))?;
    if let Some(error) = shape::envelope(&envelope).first() {
        return Err(bad("envelope", &format!("{}: {}", error.field, error.detail)));
    }
    let sender: AgencyCode =
        envelope.sender.parse().map_err(|_| bad("envelope", "its sender is no agency code"))?;
    for key in &used {
        if !key.agencies.is_empty() && !key.agencies.iter().any(|agency| agency == sender.as_str()) {
            return Err(bad("signature", &format!("its key may not sign for {sender}")));
        }
        if key.system != used[0].system {
            return Err(bad("signature", "its keys belong to different systems"));
        }
        if key.revoked_unix_ms != 0 {
            return Err(bad("signature", "its key was revoked"));
        }
    }
    if envelope.hub_id != identity.profile.hub_id.as_str() {
        return Err(bad("envelope", "it is meant for another hub"));
    }
    let named = envelope.recipients.iter().find(|recipient| recipient.agency == delivery.recipient);
    if envelope.groups.is_empty() && named.is_none() {
        return Err(bad("envelope", &format!("it does not name {}", delivery.recipient)));
    }

    let with_delivery = |error| match error {
        Error::Verification(error) => of(error).into(),
        other => other,
    };
    let found = receipt::required(delivery.receipt).map_err(with_delivery)?;
    let record = inner
        .trust
        .verify(&found)
        .and_then(|verified| receipt::of_delivery(verified, &delivery.delivery_id, &opened.digest))
        .map_err(with_delivery)?
        .record;
    let fits = matches!(&record.event, Some(Event::Leased(leased))
        if leased.attempt == delivery.attempt
            && leased.delivery.as_ref().is_some_and(|it| it.agency == delivery.recipient
                && it.mailbox_sequence == delivery.mailbox_sequence
                && it.system == identity.profile.system_id.as_str()));
    if !fits {
        return Err(bad("receipt", "its record is not about this lease"));
    }
    if delivery.accepted_sequence != delivery_id.envelope_sequence {
        return Err(bad("receipt", "it names another record of acceptance than its id"));
    }

    let documents = match &envelope.body {
        Some(Body::Document(body)) => {
            ReceivedDocument::all(inner, delivery_id, &body.documents, &delivery.documents).map_err(of)?
        }
        None => Vec::new(),
    };
    Ok(Verified {
        envelope_id: EnvelopeId::from_slice(&envelope.envelope_id)
            .map_err(|error| bad("envelope", &error.to_string()))?,
        recipient: delivery
            .recipient
            .parse()
            .map_err(|_| bad("envelope", "its recipient is no agency code"))?,
        // the sender's word, where it has one; through a group there is the hub's
        kind: match RecipientKind::try_from(named.map_or(delivery.kind, |named| named.kind)) {
            Ok(RecipientKind::Cc) => RecipientKind::Cc,
            _ => RecipientKind::To,
        },
        envelope_digest: opened.digest,
        key_ids: opened.key_ids,
        keys: with_records(delivery.signing_keys, delivery.signing_key_sequences),
        mailbox_sequence: delivery.mailbox_sequence,
        accepted_sequence: delivery.accepted_sequence,
        leased_sequence: record.sequence,
        receipt: found,
        documents,
        sender,
        envelope,
        sealed,
    })
}

/// The key, if it is the one of this id: its id must be that of its bytes.
fn holds<'a>(key: &'a SigningKey, key_id: &KeyId) -> Option<(&'a SigningKey, PublicKey)> {
    let public_key = PublicKey::from_slice(&key.public_key)?;
    let found = public_key.key_id();
    (found == *key_id && key.key_id.as_ref() == found.as_ref()).then_some((key, public_key))
}

#[cfg(test)]
mod tests {
    use axis_proto::{
        envelope::v1::{Document, DocumentBody, Recipient},
        key::SigningKey as Key,
        record::v1::{Acknowledged, Delivery as RecordedDelivery, LateAccepted, Leased, Rejected},
    };

    use super::*;
    use crate::{receive::lease::Credit, testing::Enrolled};

    const FILE: &[u8] = b"file";

    /// What a hub delivers, with every way to spoil it.
    struct Case {
        key: Key,
        envelope: Envelope,
        delivery: Delivery,
        leased: Leased,
    }

    fn case() -> Case {
        let key = Key::from_seed(&[5; 32]);
        let document = Document {
            name: "a.pdf".into(),
            media_type: "application/pdf".into(),
            size: FILE.len() as u64,
            sha256: Bytes::copy_from_slice(Digest::of(FILE).as_ref()),
            description: String::new(),
        };
        let metadata = DocumentMetadata { subject: "Về việc".into(), ..Default::default() };
        let body = DocumentBody { metadata: Some(metadata), documents: vec![document] };
        let envelope = Envelope {
            envelope_id: Bytes::copy_from_slice(EnvelopeId::new_v7().as_ref()),
            hub_id: "hub.test".into(),
            sender: "G22".into(),
            recipients: vec![Recipient { agency: "H53".into(), kind: RecipientKind::To.into() }],
            created_unix_ms: now_unix_ms(),
            body: Some(Body::Document(body)),
            ..Default::default()
        };
        let signing_key = SigningKey {
            key_id: Bytes::copy_from_slice(key.public().key_id().as_ref()),
            public_key: Bytes::copy_from_slice(key.public().as_bytes()),
            system: "vpcp".into(),
            ..Default::default()
        };
        let delivery = Delivery {
            delivery_id: "2-0".into(),
            accepted_sequence: 2,
            mailbox_sequence: 9,
            recipient: "H53".into(),
            attempt: 1,
            documents: vec![Bytes::from_static(FILE)],
            signing_keys: vec![signing_key],
            ..Default::default()
        };
        let recorded = RecordedDelivery {
            envelope_sequence: 2,
            agency: "H53".into(),
            system: "tayninh".into(),
            mailbox_sequence: 9,
            ..Default::default()
        };
        let leased = Leased { delivery: Some(recorded), attempt: 1, lease_until_unix_ms: 0 };
        Case { key, envelope, delivery, leased }
    }

    /// Seals what was changed first, then changes what came.
    fn deliver(
        enrolled: &Enrolled,
        first: impl FnOnce(&mut Case),
        then: impl FnOnce(&mut Delivery),
    ) -> (DeliveryId, Result<Verified>) {
        let mut case = case();
        first(&mut case);
        let sealed = seal::seal(PayloadType::Envelope, case.envelope.encode_to_vec(), &[&case.key]);
        let digest = seal::digest(&sealed.payload_type, &sealed.payload);
        let digest = Bytes::copy_from_slice(digest.as_ref());
        if let Some(recorded) = &mut case.leased.delivery {
            recorded.envelope_digest = digest.clone();
        }
        let mut delivery = case.delivery;
        delivery.sealed_envelope = Some(sealed);
        delivery.envelope_digest = digest;
        delivery.receipt = Some(enrolled.receipt(4, Event::Leased(case.leased)));
        then(&mut delivery);
        let id = delivery.delivery_id.parse().unwrap();
        (id, verify(enrolled.inner(), id, delivery))
    }

    async fn check(
        first: impl FnOnce(&mut Case),
        then: impl FnOnce(&mut Delivery),
        expected: Result<(), &'static str>,
    ) {
        let (id, found) = deliver(&Enrolled::new().await, first, then);
        let found = found.map(|_| ()).map_err(|error| match error {
            Error::Verification(error) => {
                assert_eq!(error.delivery, Some(id), "{error}");
                error.what
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn what_is_whole_is_given_out() {
        check(|_| (), |_| (), Ok(())).await;
        check(|_| (), |delivery| delivery.documents.clear(), Ok(())).await;
        check(|case| case.delivery.signing_keys[0].agencies = vec!["G22".into()], |_| (), Ok(())).await;
    }

    #[tokio::test]
    async fn what_the_sender_did_not_sign_is_not() {
        let key =
            |change: fn(&mut SigningKey)| move |case: &mut Case| change(&mut case.delivery.signing_keys[0]);
        check(key(|key| key.agencies = vec!["G18".into()]), |_| (), Err("signature")).await;
        check(key(|key| key.revoked_unix_ms = 1), |_| (), Err("signature")).await;
        check(key(|key| key.key_id = Bytes::from_static(&[1; 32])), |_| (), Err("signature")).await;
        check(|case| case.delivery.signing_keys.clear(), |_| (), Err("signature")).await;
        let other = |case: &mut Case| case.key = Key::from_seed(&[6; 32]);
        check(other, |_| (), Err("signature")).await;
        let sealed = |change: fn(&mut SealedEnvelope)| {
            move |delivery: &mut Delivery| change(delivery.sealed_envelope.as_mut().unwrap())
        };
        check(|_| (), sealed(|it| it.payload = [&it.payload[..], b"\0"].concat().into()), Err("signature"))
            .await;
        check(|_| (), |delivery| delivery.sealed_envelope = None, Err("envelope")).await;
        check(|_| (), |delivery| delivery.envelope_digest = Bytes::new(), Err("envelope")).await;
    }

    #[tokio::test]
    async fn what_is_not_for_us_is_not() {
        check(|case| case.envelope.hub_id = "other.test".into(), |_| (), Err("envelope")).await;
        check(|case| case.envelope.recipients[0].agency = "H54".into(), |_| (), Err("envelope")).await;
        // through a group nobody is named
        let group = |case: &mut Case| {
            case.envelope.recipients.clear();
            case.envelope.groups = vec!["tat-ca".into()];
        };
        check(group, |_| (), Ok(())).await;
    }

    #[tokio::test]
    async fn documents_are_what_the_manifest_says() {
        let other = |delivery: &mut Delivery| delivery.documents = vec![Bytes::from_static(b"else")];
        check(|_| (), other, Err("document")).await;
        let size = |case: &mut Case| {
            if let Some(Body::Document(body)) = &mut case.envelope.body {
                body.documents[0].size += 1;
            }
        };
        check(size, |_| (), Err("document")).await;
    }

    #[tokio::test]
    async fn the_hubs_record_says_the_same() {
        let leased = |change: fn(&mut Leased)| move |case: &mut Case| change(&mut case.leased);
        check(leased(|it| it.attempt = 2), |_| (), Err("receipt")).await;
        check(leased(|it| it.delivery.as_mut().unwrap().mailbox_sequence = 8), |_| (), Err("receipt")).await;
        check(leased(|it| it.delivery.as_mut().unwrap().system = "byt".into()), |_| (), Err("receipt")).await;
        check(leased(|it| it.delivery.as_mut().unwrap().recipient_index = 1), |_| (), Err("receipt")).await;
        check(|_| (), |delivery| delivery.receipt = None, Err("receipt")).await;
        check(|_| (), |delivery| delivery.accepted_sequence = 3, Err("receipt")).await;
        let proof = |delivery: &mut Delivery| {
            delivery.receipt.as_mut().unwrap().proof = String::new();
        };
        check(|_| (), proof, Err("receipt")).await;
    }

    #[tokio::test]
    async fn whom_it_is_for_is_the_senders_word() {
        let enrolled = Enrolled::new().await;
        let cc = |case: &mut Case| case.delivery.kind = RecipientKind::Cc.into();
        let kind = |found: (DeliveryId, Result<Verified>)| found.1.unwrap().kind;
        assert_eq!(kind(deliver(&enrolled, cc, |_| ())), RecipientKind::To);
        let group = |case: &mut Case| {
            cc(case);
            case.envelope.recipients.clear();
            case.envelope.groups = vec!["tat-ca".into()];
        };
        assert_eq!(kind(deliver(&enrolled, group, |_| ())), RecipientKind::Cc);
    }

    #[tokio::test]
    async fn an_answer_is_recorded_as_it_was_said() {
        let enrolled = Enrolled::new().await;
        let (id, verified) = deliver(&enrolled, |_| (), |_| ());
        let (inner, second) = (enrolled.inner().clone(), Duration::from_secs(1));
        let lease = Lease::hold(inner.clone(), Arc::new(Credit::new(0)), id, 1, second, second);
        let received = Received::new(inner, lease, verified.unwrap());
        let delivery = Some(RecordedDelivery {
            envelope_sequence: 2,
            envelope_digest: Bytes::copy_from_slice(received.envelope_digest().as_ref()),
            ..Default::default()
        });
        let said = Digest::of(b"said");
        let digest_of = |event: &Event| match event {
            Event::Acknowledged(it) => Some(it.acknowledgement_digest.clone()),
            _ => None,
        };
        let settled = |event: Event, duplicate| {
            let found = Some(enrolled.receipt(5, event));
            received.settled(found, &said, duplicate, false, digest_of).is_ok()
        };
        let acknowledged = |digest: Digest| {
            let acknowledgement_digest = Bytes::copy_from_slice(digest.as_ref());
            Event::Acknowledged(Acknowledged {
                delivery: delivery.clone(),
                acknowledgement_digest,
                ..Default::default()
            })
        };
        assert!(settled(acknowledged(said), false));
        assert!(!settled(acknowledged(Digest::of(b"else")), false));
        assert!(settled(acknowledged(Digest::of(b"else")), true), "the same was said before");
        let other = Event::Rejected(Rejected { delivery: delivery.clone(), ..Default::default() });
        assert!(!settled(other, true));
        let late = Event::LateAccepted(LateAccepted { delivery: delivery.clone(), ..Default::default() });
        assert!(!settled(late, true));
        received.abandon();
    }
}
