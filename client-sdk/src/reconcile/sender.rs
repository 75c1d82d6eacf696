//! The sender's part: envelopes whose receipts name records that the hub's log
//! does not hold are submitted again as they are. The hub knows an envelope by
//! its bytes: one that it has after all is answered with its own receipt.

use axis_proto::{hub::v1::Remedy, id::EnvelopeId};
use futures_util::{StreamExt as _, stream};

use super::{AT_ONCE, NAMED_MAX, Offered, Outcome, Reconciliation, held::Held, save};
use crate::{
    client::{Inner, now_unix_ms},
    error::{Error, Result},
    files::blocking,
    progress::Watch,
    receipt,
    send::{
        self, outbox,
        outbox::{Entry, Kept},
    },
    trust::origin_of,
};

/// How many outcomes are written down at once.
const WRITTEN_EVERY: usize = 64;

/// Offers all of them, oldest first.
pub async fn offer_again(
    inner: &Inner,
    held: &Held,
    report: &mut Reconciliation,
    watch: Watch<'_>,
) -> Result<()> {
    let keep = u64::try_from(inner.options.keep.as_millis()).unwrap_or(u64::MAX);
    let from = now_unix_ms().saturating_sub(keep);
    let home = inner.home.clone();
    let ids = blocking(move || outbox::accepted(&home, from..u64::MAX)).await?;
    let done: Vec<EnvelopeId> =
        report.offered.iter().filter(|it| it.outcome.is_good()).map(|it| it.envelope_id).collect();
    let is_room = report.offered.len() < NAMED_MAX;
    let mut outcomes = stream::iter(ids)
        .filter(|id| std::future::ready(done.binary_search(id).is_err()))
        .map(|id| async move { offer(inner, held, id, is_room, watch).await })
        .buffer_unordered(AT_ONCE);
    let mut unwritten = Vec::new();
    while let Some(offered) = outcomes.next().await {
        unwritten.extend(offered?);
        if unwritten.len() >= WRITTEN_EVERY {
            report.add(std::mem::take(&mut unwritten));
            save(&inner.home, report)?;
        }
    }
    report.add(unwritten);
    save(&inner.home, report)
}

/// Offers one, if the hub lacks it. An error only if nothing here is to be
/// trusted or written any more.
async fn offer(
    inner: &Inner,
    held: &Held,
    envelope_id: EnvelopeId,
    is_room: bool,
    watch: Watch<'_>,
) -> Result<Option<Offered>> {
    let Some(kept) = send::kept(inner, &envelope_id)? else { return Ok(None) };
    let verified = inner.trust.book().verify(&kept.receipt);
    let is_held = verified.is_ok_and(|it| held.holds(&it.checkpoint.origin, it.checkpoint.size));
    let sender = kept.plan.sender.clone();
    if is_held {
        // a run that was broken off may not have written it down
        let sequence = accepted_anew(inner, &kept);
        let outcome = sequence.filter(|_| is_room).map(Outcome::Accepted);
        return Ok(outcome.map(|outcome| Offered { envelope_id, sender, outcome }));
    }
    let outcome = match Entry::open_sent(&inner.home, &envelope_id)? {
        None => Outcome::Failed("another process has it".to_owned()),
        Some(entry) => match send::submit(inner, &entry, watch).await {
            Ok(sent) => {
                receipt::keep(&inner.home, &sent.receipt, sent.sequence);
                let (found, sequence) = (sent.receipt, sent.sequence);
                blocking(move || entry.sent_again(&found, sequence)).await?;
                if sent.duplicate { Outcome::Known(sequence) } else { Outcome::Accepted(sequence) }
            }
            Err(error @ (Error::Log(_) | Error::Home(_))) => return Err(error),
            Err(error) => failed(&entry, &error),
        },
    };
    Ok(Some(Offered { envelope_id, sender, outcome }))
}

/// The record of an envelope that the current log has accepted after a former
/// one had.
fn accepted_anew(inner: &Inner, kept: &Kept) -> Option<u64> {
    let book = inner.trust.book();
    let is_current = origin_of(&kept.receipt) == Some(book.current().verifier.origin());
    if !(is_current && kept.is_again) {
        return None;
    }
    book.verify(&kept.receipt).ok().map(|verified| verified.index)
}

fn failed(entry: &Entry, error: &Error) -> Outcome {
    match error {
        Error::Refused(refused) => {
            let missing = entry.missing();
            if refused.remedy == Remedy::Upload && !missing.is_empty() {
                return Outcome::FilesMissing(missing);
            }
            // what operators can mend is worth another try; what is too old, or was changed, is not
            let lasting = matches!(refused.remedy, Remedy::FixRequest | Remedy::MakeAnew | Remedy::Accept);
            let reason = refused.reason.short_name().to_owned();
            Outcome::Refused { reason, message: refused.message.clone(), lasting }
        }
        Error::Io { .. } if !entry.missing().is_empty() => Outcome::FilesMissing(entry.missing()),
        other => Outcome::Failed(other.to_string()),
    }
}
