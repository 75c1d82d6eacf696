//! What may leave, and when: content, summaries, documents, entries of feeds.
//! The checker's own rules, which the machine does not share.

use axis_proto::record::v1::{
    Accepted, CargoKind, DocumentsCollected, Erased, ErasureCause, FeedTrimmed, Forgotten, ForgottenRange,
    GrantsLapsed, PurgeConfirmed, PurgeRequested, Record, record::Event,
};
use bytes::Bytes;

use super::{Checker, Envelope, Purge};
use crate::limits;

/// Whether cargo of a kind may be erased: content, not the lists of leaves.
pub(super) fn is_content(kind: CargoKind) -> bool {
    match kind {
        CargoKind::SealedEnvelope
        | CargoKind::Document
        | CargoKind::SealedAcknowledgement
        | CargoKind::SealedRejection
        | CargoKind::Remark => true,
        CargoKind::RecipientList
        | CargoKind::ConsignmentList
        | CargoKind::Succession
        | CargoKind::Unspecified => false,
    }
}

/// The envelope whose erasure lets a record's cargo go; `None` if nothing does.
pub(super) fn envelope_of(record: &Record) -> Option<u64> {
    let delivery = match record.event.as_ref()? {
        Event::Accepted(_) => return Some(record.sequence),
        Event::Acknowledged(event) => event.delivery.as_ref(),
        Event::Rejected(event) => event.delivery.as_ref(),
        Event::LateAccepted(event) => event.delivery.as_ref(),
        Event::Requeued(event) => event.delivery.as_ref(),
        Event::Returned(event) => event.delivery.as_ref(),
        _ => return None,
    };
    delivery.map(|delivery| delivery.envelope_sequence)
}

/// Digests of an envelope's documents in the vault, each once.
pub(super) fn in_vault(event: &Accepted) -> Vec<Bytes> {
    let files = event.documents.iter().filter(|file| !file.inline);
    let mut digests: Vec<Bytes> = files.map(|file| file.sha256.clone()).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

impl Envelope {
    pub(super) fn is_purge_confirmed(&self) -> bool {
        self.purge.as_ref().is_some_and(|purge| !purge.confirmed_by.is_empty())
    }

    fn is_settled(&self) -> bool {
        self.settled == self.recipient_count
    }
}

impl Checker {
    pub(super) fn leaving(&mut self, at: u64, record: &Record) {
        let now_ms = record.recorded_unix_ms;
        let wrong = match &record.event {
            Some(Event::Erased(event)) => self.erased(now_ms, event),
            Some(Event::Forgotten(event)) => self.forgotten(now_ms, event),
            Some(Event::DocumentsCollected(event)) => self.documents_collected(now_ms, event),
            Some(Event::PurgeRequested(event)) => self.purge_requested(at, now_ms, event),
            Some(Event::PurgeConfirmed(event)) => self.purge_confirmed(now_ms, event),
            Some(Event::FeedTrimmed(event)) => self.feed_trimmed(now_ms, event),
            Some(Event::GrantsLapsed(event)) => self.grants_lapsed(now_ms, event),
            _ => None,
        };
        if let Some(what) = wrong {
            self.report(Some(at), what);
        }
    }

    fn erased(&mut self, now_ms: u64, event: &Erased) -> Option<String> {
        let Some(envelope) = self.envelopes.get_mut(&event.envelope_sequence) else {
            return Some("erased an envelope that is not known".into());
        };
        let first = envelope.erased.is_none();
        let wrong = if envelope.digest[..] != event.envelope_digest[..] {
            Some("erased under another digest")
        } else if !envelope.is_settled() {
            Some("erased before every recipient was settled")
        } else {
            match event.cause() {
                ErasureCause::Retention if !first => Some("erased twice"),
                ErasureCause::Retention if envelope.cargo_kept_ms == 0 => Some("erased though kept for ever"),
                ErasureCause::Retention
                    if now_ms < envelope.settled_unix_ms.saturating_add(envelope.cargo_kept_ms) =>
                {
                    Some("erased before its time")
                }
                ErasureCause::Retention => None,
                ErasureCause::Purged => {
                    let agreed = envelope.purge.as_ref().is_some_and(|purge| {
                        purge.requested_by == event.requested_by
                            && purge.confirmed_by == event.confirmed_by
                            && !purge.confirmed_by.is_empty()
                    });
                    (!agreed).then_some("purged without two operators")
                }
                ErasureCause::Unspecified => Some("erased without a cause"),
            }
        };
        envelope.erased = Some(event.cause());
        envelope.bare = None;
        for document in if first { std::mem::take(&mut envelope.documents) } else { Vec::new() } {
            if let Some(count) = self.named.get_mut(&document) {
                *count -= 1;
                if *count == 0 {
                    self.named.remove(&document);
                }
            }
        }
        wrong.map(str::to_owned)
    }

    fn forgotten(&mut self, now_ms: u64, event: &Forgotten) -> Option<String> {
        let count: u64 = event.ranges.iter().map(|range| u64::from(range.recipient_count)).sum();
        let wrong: Vec<String> =
            event.ranges.iter().filter_map(|range| self.forgotten_range(now_ms, range)).collect();
        if count == 0 || count > u64::from(limits::FORGET_MAX) {
            return Some(format!("forgets {count} deliveries"));
        }
        wrong.into_iter().next()
    }

    fn forgotten_range(&mut self, now_ms: u64, range: &ForgottenRange) -> Option<String> {
        let sequence = range.envelope_sequence;
        let Some(envelope) = self.envelopes.get_mut(&sequence) else {
            return Some(format!("forgets the envelope {sequence}, which is not known"));
        };
        let remembered = envelope.created_unix_ms.saturating_add(60 * limits::DAY_MS);
        let due = envelope.settled_unix_ms.saturating_add(envelope.summary_kept_ms).max(remembered);
        let wrong = envelope.erased.is_none()
            || envelope.summary_kept_ms == 0
            || now_ms < due
            || range.first_recipient_index != envelope.forgotten
            || range.recipient_count == 0
            || envelope.forgotten + range.recipient_count > envelope.recipient_count;
        let first = range.first_recipient_index;
        envelope.forgotten += range.recipient_count;
        let over = envelope.forgotten >= envelope.recipient_count;
        for index in first..first.saturating_add(range.recipient_count) {
            self.deliveries.remove(&(sequence, index));
        }
        if over && let Some(envelope) = self.envelopes.remove(&sequence) {
            self.ids.remove(&envelope.id);
        }
        wrong.then(|| format!("forgets the envelope {sequence} before its time, or not in order"))
    }

    fn documents_collected(&mut self, now_ms: u64, event: &DocumentsCollected) -> Option<String> {
        let purged = self.envelopes.get(&event.purged_envelope_sequence);
        let purged = purged.is_some_and(|envelope| envelope.erased == Some(ErasureCause::Purged));
        let mut wrong = None;
        if event.purged_envelope_sequence != 0 && !purged {
            wrong = Some("collects documents of an envelope that was not purged".to_owned());
        }
        for sha256 in &event.sha256 {
            if self.named.contains_key(sha256) {
                wrong = Some(format!("collects the document {} that is named", hex::encode(sha256)));
            }
            let of_document = (sha256.clone(), String::new())..;
            let pins: Vec<(Bytes, String)> = self
                .pins
                .range(of_document)
                .map(|(pin, _)| pin)
                .take_while(|(document, _)| document == sha256)
                .cloned()
                .collect();
            for pin in pins {
                let until = self.pins.remove(&pin).unwrap_or_default();
                if until > now_ms && !purged {
                    wrong =
                        Some(format!("collects the document {} that {} holds", hex::encode(sha256), pin.1));
                }
            }
        }
        wrong
    }

    fn purge_requested(&mut self, at: u64, now_ms: u64, event: &PurgeRequested) -> Option<String> {
        let Some(envelope) = self.envelopes.get_mut(&event.envelope_sequence) else {
            return Some("a purge of an envelope that is not known".into());
        };
        let asked = envelope.purge.as_ref();
        let waits =
            asked.is_some_and(|purge| now_ms < purge.lapses_unix_ms || !purge.confirmed_by.is_empty());
        let wrong = waits
            || envelope.erased.is_some()
            || event.lapses_unix_ms > now_ms.saturating_add(limits::PURGE_REQUEST_MS)
            || envelope.digest[..] != event.envelope_digest[..];
        envelope.purge = Some(Purge {
            requested_sequence: at,
            requested_by: event.operator.clone(),
            lapses_unix_ms: event.lapses_unix_ms,
            confirmed_by: String::new(),
        });
        wrong.then(|| "a purge that cannot be asked for".into())
    }

    fn purge_confirmed(&mut self, now_ms: u64, event: &PurgeConfirmed) -> Option<String> {
        let envelope = self.envelopes.get_mut(&event.envelope_sequence);
        let Some(purge) = envelope.and_then(|envelope| envelope.purge.as_mut()) else {
            return Some("a purge that nobody asked for".into());
        };
        let by_account = |operator: &str| operator.starts_with("account:");
        let wrong = purge.requested_by == event.operator
            || by_account(&purge.requested_by) != by_account(&event.operator)
            || event.operator.is_empty()
            || !purge.confirmed_by.is_empty()
            || purge.requested_sequence != event.requested_sequence
            // the record's time may be ahead of the clock that decided
            || purge.lapses_unix_ms <= now_ms.saturating_sub(limits::CLOCK_START_DIFFERENCE_MAX_MS);
        purge.confirmed_by.clone_from(&event.operator);
        wrong.then(|| "a purge that cannot be agreed to so".into())
    }

    fn feed_trimmed(&mut self, now_ms: u64, event: &FeedTrimmed) -> Option<String> {
        let Some(feed) = self.feeds.get_mut(&event.system) else {
            return Some("trims a feed that is not known".into());
        };
        let floor = feed.high - feed.kept.len() as u64;
        let mut wrong = event.up_to <= floor
            || event.up_to > feed.high
            || event.older_than_unix_ms > now_ms.saturating_sub(limits::FEED_KEPT_MIN_MS);
        for _ in floor..event.up_to.min(feed.high) {
            wrong |= feed.kept.pop_front().is_none_or(|recorded| recorded >= event.older_than_unix_ms);
        }
        wrong.then(|| format!("trims the feed of {} before its time, or not in order", event.system))
    }

    fn grants_lapsed(&mut self, now_ms: u64, event: &GrantsLapsed) -> Option<String> {
        let mut wrong = None;
        for sha256 in &event.sha256 {
            let until = self.pins.remove(&(sha256.clone(), event.system.clone())).unwrap_or_default();
            if until > now_ms {
                wrong =
                    Some(format!("the upload {} of {} has not lapsed", hex::encode(sha256), event.system));
            }
        }
        wrong
    }
}
