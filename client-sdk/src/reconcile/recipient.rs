//! The recipient's part: acknowledgements and rejections whose records the
//! hub's log does not hold are given again, in the same bytes, where the
//! delivery is still the same one. The others are given when their deliveries
//! come again; see `receive`.

use axis_proto::{
    envelope::v1::SealedEnvelope,
    hub::v1::{AcknowledgeRequest, RejectRequest},
    id::{AgencyCode, Digest},
    record::v1::{Receipt, record::Event},
    seal::{self, PayloadType},
};
use futures_util::{StreamExt as _, stream};

use super::{AT_ONCE, Reconciliation, held::Held};
use crate::{
    answered::{self, Answer},
    client::Inner,
    error::{Error, Result, Verification},
    files::blocking,
    receipt,
    trust::{Why, origin_of},
};

/// What became of one answer.
enum Again {
    /// Recorded anew.
    Recorded,
    /// The delivery has to come again first.
    Waits,
    /// Not known; worth another try.
    Unknown,
}

/// Gives them all again; whether each was really tried.
pub async fn answer_again(inner: &Inner, held: &Held, report: &mut Reconciliation) -> Result<bool> {
    let home = inner.home.clone();
    let kept = blocking(move || {
        let mut kept = Vec::new();
        answered::each(&home, |it| {
            kept.push((it.envelope_digest, it.recipient, it.log, it.sequence));
        })?;
        Ok(kept)
    })
    .await?;
    let lost: Vec<(Digest, AgencyCode)> = kept
        .into_iter()
        .filter(|(_, _, log, sequence)| !held.holds(log, sequence.saturating_add(1)))
        .map(|(digest, recipient, ..)| (digest, recipient))
        .collect();
    (report.answered, report.unanswered) = (0, 0);
    let mut all_tried = true;
    let mut outcomes = stream::iter(lost)
        .map(|(digest, recipient)| async move {
            match answered::find(&inner.home, &digest, &recipient)? {
                Some(answer) => again(inner, held, answer).await,
                None => Ok(Again::Waits),
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        match outcome? {
            Again::Recorded => report.answered += 1,
            Again::Waits => report.unanswered += 1,
            Again::Unknown => {
                report.unanswered += 1;
                all_tried = false;
            }
        }
    }
    Ok(all_tried)
}

async fn again(inner: &Inner, held: &Held, answer: Answer) -> Result<Again> {
    // the same number would be another envelope's otherwise; after a person's word that is not known
    let is_same_delivery = inner.trust.book().current().why == Why::Person
        || held.holds(&answer.log, answer.delivery_id.envelope_sequence.saturating_add(1));
    let Some(sealed) = answer.sealed().filter(|_| is_same_delivery) else { return Ok(Again::Waits) };
    match said(inner, &answer, sealed).await {
        Ok(found) => {
            let log = origin_of(&found.0).unwrap_or_default().to_owned();
            receipt::keep(&inner.home, &found.0, found.1);
            let (home, mut kept) = (inner.home.clone(), answer);
            (kept.log, kept.sequence) = (log, found.1);
            blocking(move || answered::keep(&home, &kept)).await?;
            Ok(Again::Recorded)
        }
        // not leased since, or not there yet
        Err(Error::Refused(_)) => Ok(Again::Waits),
        Err(error @ (Error::Log(_) | Error::Home(_))) => Err(error),
        Err(error) => {
            tracing::warn!(delivery_id = %answer.delivery_id, %error, "not answered again yet");
            Ok(Again::Unknown)
        }
    }
}

/// Says it again; the receipt, and the record's sequence.
async fn said(inner: &Inner, answer: &Answer, sealed: SealedEnvelope) -> Result<(Receipt, u64)> {
    let digest = seal::digest(&sealed.payload_type, &sealed.payload);
    let is_rejection = PayloadType::parse(&sealed.payload_type) == Some(PayloadType::Rejection);
    let (found, duplicate) = if is_rejection {
        let request = RejectRequest { sealed_rejection: Some(sealed) };
        let call = || async { inner.timed(inner.mailbox().reject(inner.request(request.clone()))).await };
        let answer = inner.retried(call).await?;
        (answer.receipt, answer.duplicate)
    } else {
        let request = AcknowledgeRequest { sealed_acknowledgement: Some(sealed) };
        let call =
            || async { inner.timed(inner.mailbox().acknowledge(inner.request(request.clone()))).await };
        let answer = inner.retried(call).await?;
        (answer.receipt, answer.duplicate)
    };
    let found = receipt::required(found)?;
    let verified = inner.verified(&found).await?;
    let verified = receipt::of_delivery(verified, &answer.delivery_id.to_string(), &answer.envelope_digest)?;
    let recorded = match &verified.record.event {
        Some(Event::Acknowledged(it)) if !is_rejection => &it.acknowledgement_digest,
        Some(Event::LateAccepted(it)) if !is_rejection => &it.acknowledgement_digest,
        Some(Event::Rejected(it)) if is_rejection => &it.rejection_digest,
        _ => return Err(Verification::new("receipt", "its record says something else").into()),
    };
    if !duplicate && recorded.as_ref() != digest.as_ref() {
        return Err(Verification::new("receipt", "its record holds another answer").into());
    }
    Ok((found, verified.record.sequence))
}
