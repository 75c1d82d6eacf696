//! A delivery's life after it became visible: leases, answers, attempts,
//! deadlines, and what operators do with what is parked.

use axis_proto::{
    envelope::v1::{Acknowledgement, Rejection},
    hub::v1::{DeliveryState, Reason},
    id::{DeliveryId, SystemId},
    record::v1::{
        self as record, Acknowledged, CargoKind, Expired, ExpiryWarned, LateAccepted, LeaseExtended, Leased,
        Parked, Rejected, ReleaseCause, Released, Requeued, Returned, record::Event,
    },
};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    apply::Found,
    batch::{Batch, remark_cargo},
    command::{Outcome, Signed},
    envelope::key_ids,
    moves, query, retention,
    tables::{Timer, deliveries, delivery_from, key, number},
};
use crate::{
    error::{Error, Result},
    limits::{self, Millis},
    state::Read,
};

impl Found {
    /// As records name it.
    pub(super) fn named(&self) -> Option<record::Delivery> {
        Some(record::Delivery {
            envelope_sequence: self.id.envelope_sequence,
            recipient_index: self.id.recipient_index,
            envelope_digest: Bytes::copy_from_slice(&self.envelope.envelope_digest),
            agency: self.delivery.agency.clone(),
            system: self.delivery.system.clone(),
            mailbox_sequence: self.delivery.mailbox_sequence,
        })
    }

    /// The feed of the sender.
    fn sender_feed(&self) -> [&str; 1] {
        [&self.envelope.sender_system]
    }

    /// The feeds of both sides, for what the hub or its operators did.
    pub(super) fn both_feeds(&self) -> [&str; 2] {
        [&self.envelope.sender_system, &self.delivery.system]
    }
}

/// A delivery in the caller's own mailbox.
fn find_own(read: &dyn Read, system: &SystemId, id: &DeliveryId) -> Result<Found> {
    let unknown = || Error::invalid("delivery_id", Reason::DeliveryUnknown, id);
    let found = Found::by_id(read, id).ok_or_else(unknown)?;
    if found.delivery.system == system.as_str() {
        return Ok(found);
    }
    // what was its once has moved with the agency
    let left = query::has_left(read, id, &found.delivery, system);
    Err(if left { not_served("delivery_id", &found) } else { unknown() })
}

/// Another system serves the agency now.
fn not_served(field: &str, found: &Found) -> Error {
    Error::invalid(field, Reason::SenderNotServed, &found.delivery.agency)
}

/// Leases what is still ready; one record each. What another system serves
/// now moves there instead.
pub(super) fn lease(
    batch: &mut Batch<'_>,
    system: &SystemId,
    deliveries: &[DeliveryId],
    duration_ms: Millis,
) -> Result<Outcome> {
    if !query::is_system_active(&batch.draft, system.as_str()) {
        return Err(Error::refused(Reason::Suspended));
    }
    let duration_ms = lease_duration(duration_ms)?;
    let mut sequences = Vec::new();
    for id in deliveries {
        let now = batch.now;
        let Some(found) =
            Found::by_id(&batch.draft, id).filter(|found| found.delivery.system == system.as_str())
        else {
            continue;
        };
        // not its deadline: what is over expires by its timer, and while the
        // clock is not trusted nothing expires and deliveries go on
        let is_ready = found.delivery.state() == DeliveryState::Waiting
            && !found.envelope.purged
            && found.delivery.due_unix_ms <= now
            && query::mailbox(&batch.draft, system).leased < limits::LEASED_PER_SYSTEM_MAX;
        if !is_ready || moves::follow(batch, &found)?.is_some() {
            continue;
        }
        let event = Event::Leased(Leased {
            delivery: found.named(),
            attempt: found.delivery.leases + 1,
            lease_until_unix_ms: now + duration_ms,
        });
        sequences.push(batch.record(event, &found.sender_feed(), Vec::new())?);
    }
    Ok(Outcome::recorded(sequences))
}

fn lease_duration(asked_ms: Millis) -> Result<Millis> {
    match asked_ms {
        0 => Ok(limits::LEASE_DEFAULT_MS),
        asked if (limits::LEASE_MIN_MS..=limits::LEASE_MAX_MS).contains(&asked) => Ok(asked),
        asked => Err(Error::invalid("lease_duration_ms", Reason::FieldInvalid, asked)),
    }
}

/// What a recipient's signed answer must agree with.
struct Answer<'a> {
    delivery_id: &'a str,
    envelope_digest: &'a [u8],
    recipient: &'a str,
    mailbox_sequence: u64,
}

/// The delivery that a signed answer speaks of, if everything it says is so.
fn answered(batch: &Batch<'_>, system: &SystemId, answer: &Answer<'_>, signed: &Signed) -> Result<Found> {
    let id: DeliveryId = answer
        .delivery_id
        .parse()
        .map_err(|_| Error::invalid("delivery_id", Reason::DeliveryUnknown, answer.delivery_id))?;
    let found = find_own(&batch.draft, system, &id)?;
    let mismatch = |field: &str, detail: String| Err(Error::invalid(field, Reason::DeliveryMismatch, detail));
    if answer.envelope_digest != found.envelope.envelope_digest {
        return mismatch("envelope_digest", hex::encode(answer.envelope_digest));
    }
    if answer.recipient != found.delivery.agency {
        return mismatch("recipient", answer.recipient.to_owned());
    }
    if answer.mailbox_sequence != found.delivery.mailbox_sequence {
        return mismatch("mailbox_sequence", answer.mailbox_sequence.to_string());
    }
    batch.may_speak_for(system, answer.recipient, signed)?;
    if !found.delivery.is_taken() {
        return Err(Error::invalid("delivery_id", Reason::NeverLeased, id));
    }
    Ok(found)
}

/// The recipient holds it.
pub(super) fn acknowledge(
    batch: &mut Batch<'_>,
    system: &SystemId,
    acknowledgement: &Acknowledgement,
    signed: &Signed,
) -> Result<Outcome> {
    let answer = Answer {
        delivery_id: &acknowledgement.delivery_id,
        envelope_digest: &acknowledgement.envelope_digest,
        recipient: &acknowledgement.recipient,
        mailbox_sequence: acknowledgement.mailbox_sequence,
    };
    let found = answered(batch, system, &answer, signed)?;
    let cargo = vec![(CargoKind::SealedAcknowledgement, signed.sealed.clone())];
    let digest = Bytes::copy_from_slice(signed.digest.as_bytes());
    if found.delivery.state() == DeliveryState::Acknowledged {
        return Ok(Outcome::before([found.delivery.since_sequence]));
    }
    if found.delivery.late_sequence != 0 {
        return Ok(Outcome::before([found.delivery.late_sequence]));
    }
    let event = if found.delivery.is_settled() {
        Event::LateAccepted(LateAccepted {
            delivery: found.named(),
            acknowledgement_digest: digest,
            key_ids: key_ids(signed),
            settlement: found.delivery.settlement().into(),
        })
    } else {
        Event::Acknowledged(Acknowledged {
            delivery: found.named(),
            attempt: found.delivery.leases,
            acknowledgement_digest: digest,
            key_ids: key_ids(signed),
        })
    };
    Ok(Outcome::recorded([batch.record(event, &found.sender_feed(), cargo)?]))
}

/// The recipient cannot take it.
pub(super) fn reject(
    batch: &mut Batch<'_>,
    system: &SystemId,
    rejection: &Rejection,
    signed: &Signed,
) -> Result<Outcome> {
    let answer = Answer {
        delivery_id: &rejection.delivery_id,
        envelope_digest: &rejection.envelope_digest,
        recipient: &rejection.recipient,
        mailbox_sequence: rejection.mailbox_sequence,
    };
    let found = answered(batch, system, &answer, signed)?;
    if found.delivery.state() == DeliveryState::Rejected {
        return Ok(Outcome::before([found.delivery.since_sequence]));
    }
    if found.delivery.is_settled() {
        let how = found.delivery.settlement().as_str_name();
        return Err(Error::invalid("delivery_id", Reason::AlreadySettled, how));
    }
    let event = Event::Rejected(Rejected {
        delivery: found.named(),
        attempt: found.delivery.leases,
        rejection_digest: Bytes::copy_from_slice(signed.digest.as_bytes()),
        key_ids: key_ids(signed),
        reason: rejection.reason,
    });
    let cargo = vec![(CargoKind::SealedRejection, signed.sealed.clone())];
    Ok(Outcome::recorded([batch.record(event, &found.sender_feed(), cargo)?]))
}

/// The caller's current lease of a delivery.
fn held(batch: &Batch<'_>, system: &SystemId, id: &DeliveryId, attempt: u32) -> Result<Found> {
    let found = find_own(&batch.draft, system, id)?;
    if found.delivery.is_settled() {
        let how = found.delivery.settlement().as_str_name();
        return Err(Error::invalid("delivery_id", Reason::AlreadySettled, how));
    }
    if found.delivery.state() != DeliveryState::Leased || found.delivery.leases != attempt {
        return Err(Error::invalid("attempt", Reason::LeaseLost, attempt));
    }
    Ok(found)
}

/// Not now.
pub(super) fn nack(
    batch: &mut Batch<'_>,
    system: &SystemId,
    id: &DeliveryId,
    attempt: u32,
    delay_ms: Millis,
) -> Result<Outcome> {
    if delay_ms > limits::NACK_DELAY_MAX_MS {
        return Err(Error::invalid("delay_ms", Reason::FieldInvalid, delay_ms));
    }
    let found = held(batch, system, id, attempt)?;
    release(batch, &found, ReleaseCause::Nacked, delay_ms)
}

/// Longer.
pub(super) fn extend(
    batch: &mut Batch<'_>,
    system: &SystemId,
    id: &DeliveryId,
    attempt: u32,
    duration_ms: Millis,
) -> Result<Outcome> {
    let duration_ms = lease_duration(duration_ms)?;
    let found = held(batch, system, id, attempt)?;
    if !query::serves(&batch.draft, system, &found.delivery.agency) {
        return Err(not_served("delivery_id", &found));
    }
    if found.envelope.expires_unix_ms <= batch.now {
        // or nobody could ever end it
        return Err(Error::invalid("attempt", Reason::Expired, found.envelope.expires_unix_ms));
    }
    let event = Event::LeaseExtended(LeaseExtended {
        delivery: found.named(),
        attempt,
        lease_until_unix_ms: batch.now + duration_ms,
    });
    Ok(Outcome::recorded([batch.record(event, &[], Vec::new())?]))
}

/// A lease ends without a settlement: it waits again, or is parked; at whoever
/// serves its agency now.
fn release(batch: &mut Batch<'_>, found: &Found, cause: ReleaseCause, delay_ms: Millis) -> Result<Outcome> {
    let attempt = found.delivery.leases;
    let event = if found.delivery.attempts >= limits::ATTEMPTS_MAX {
        Event::Parked(Parked { delivery: found.named(), attempt, cause: cause.into() })
    } else {
        let delay_ms = if delay_ms == 0 { backoff(found.delivery.attempts) } else { delay_ms };
        Event::Released(Released {
            delivery: found.named(),
            attempt,
            cause: cause.into(),
            due_unix_ms: batch.now + delay_ms,
        })
    };
    let mut sequences = vec![batch.record(event, &found.sender_feed(), Vec::new())?];
    if let Some(found) = Found::by_id(&batch.draft, &found.id) {
        sequences.extend(moves::follow(batch, &found)?);
    }
    Ok(Outcome::recorded(sequences))
}

/// The hub's own delay after so many attempts.
fn backoff(attempts: u32) -> Millis {
    let doublings = attempts.saturating_sub(1).min(20);
    (limits::BACKOFF_MIN_MS << doublings).min(limits::BACKOFF_MAX_MS)
}

/// A parked delivery by an operator's hand.
fn find_parked(batch: &Batch<'_>, id: &DeliveryId) -> Result<Found> {
    let found =
        Found::by_id(&batch.draft, id).ok_or_else(|| Error::invalid("delivery_id", Reason::NotFound, id))?;
    if found.delivery.state() != DeliveryState::Parked {
        return Err(Error::invalid("delivery_id", Reason::NotParked, found.delivery.state().as_str_name()));
    }
    Ok(found)
}

/// Back into the queue.
pub(super) fn requeue(
    batch: &mut Batch<'_>,
    id: &DeliveryId,
    operator: &str,
    remark: &str,
) -> Result<Outcome> {
    let found = find_parked(batch, id)?;
    let event = Event::Requeued(Requeued { delivery: found.named(), operator: operator.to_owned() });
    Ok(Outcome::recorded([batch.record(event, &found.sender_feed(), remark_cargo(remark)?)?]))
}

/// Back to its sender.
pub(super) fn give_back(
    batch: &mut Batch<'_>,
    id: &DeliveryId,
    operator: &str,
    remark: &str,
) -> Result<Outcome> {
    let found = find_parked(batch, id)?;
    let event = Event::Returned(Returned { delivery: found.named(), operator: operator.to_owned() });
    Ok(Outcome::recorded([batch.record(event, &found.both_feeds(), remark_cargo(remark)?)?]))
}

/// What is due by now, at most [`limits::TICK_RECORDS_MAX`] records. Leases
/// lapse whatever the clock; deadlines act only if it is trusted, and by the
/// clock itself: the time of the records may be ahead of it after a jump.
pub(super) fn tick(batch: &mut Batch<'_>, clock_trusted: bool) -> Outcome {
    let mut sequences = Vec::new();
    for (due, id) in timers(&batch.draft, Timer::Lapse, batch.now, limits::TICK_RECORDS_MAX) {
        sequences.extend(lapse(batch, &id, due));
    }
    // deadlines have the other half
    let room = limits::TICK_RECORDS_MAX.saturating_sub(sequences.len()).min(limits::TICK_RECORDS_MAX / 2);
    sequences.extend(moves::search(batch, room));
    if clock_trusted {
        let room = limits::TICK_RECORDS_MAX.saturating_sub(sequences.len());
        for (_, id) in timers(&batch.draft, Timer::Warn, batch.now, room) {
            sequences.extend(warn(batch, id.envelope_sequence));
        }
        // more than there is room for: of some, only what is on lease is left
        for (_, id) in timers(&batch.draft, Timer::Expire, batch.now, limits::TICK_EXPIRES_MAX) {
            let room = limits::TICK_RECORDS_MAX.saturating_sub(sequences.len());
            if room == 0 {
                break;
            }
            expire(batch, id.envelope_sequence, room, &mut sequences);
        }
        let room = limits::TICK_RECORDS_MAX.saturating_sub(sequences.len());
        sequences.extend(retention::due(batch, room));
    }
    Outcome::recorded(sequences)
}

/// At most `max` timers of a kind that are due, the earliest first.
pub(super) fn timers(read: &dyn Read, timer: Timer, now_ms: Millis, max: usize) -> Vec<(Millis, DeliveryId)> {
    let (start, end) = key::timers_before(now_ms.saturating_add(1), timer);
    let mut due = Vec::new();
    // as far as the first that is not due: until then nobody has to look again
    read.scan(&start, &key::end_of(&start), &mut |key, _| {
        if due.len() == max || key >= end.as_slice() {
            return ControlFlow::Break(());
        }
        due.push((number(&key[2..10]), delivery_from(&key[10..])));
        ControlFlow::Continue(())
    });
    due
}

fn lapse(batch: &mut Batch<'_>, id: &DeliveryId, due: Millis) -> Vec<u64> {
    let Some(found) = Found::by_id(&batch.draft, id) else { return Vec::new() };
    let is_current = found.delivery.state() == DeliveryState::Leased && found.delivery.due_unix_ms == due;
    if !is_current {
        return Vec::new();
    }
    release(batch, &found, ReleaseCause::Lapsed, 0).map(|outcome| outcome.sequences).unwrap_or_default()
}

fn warn(batch: &mut Batch<'_>, envelope_sequence: u64) -> Option<u64> {
    let envelope = query::envelope(&batch.draft, envelope_sequence)?;
    let event = Event::ExpiryWarned(ExpiryWarned {
        envelope_sequence,
        envelope_digest: Bytes::copy_from_slice(&envelope.envelope_digest),
        unsettled_count: envelope.recipient_count - envelope.settled_count,
        expires_unix_ms: envelope.expires_unix_ms,
    });
    batch.record(event, &[&envelope.sender_system], Vec::new()).ok()
}

/// Expires what nobody has on lease; the rest follows when its lease ends.
fn expire(batch: &mut Batch<'_>, envelope_sequence: u64, room: usize, sequences: &mut Vec<u64>) {
    let Some(envelope) = query::envelope(&batch.draft, envelope_sequence) else { return };
    if envelope.settled_count + envelope.leased_count >= envelope.consigned_count {
        return;
    }
    let mut over = unleased(&batch.draft, envelope_sequence, envelope.expire_cursor, room);
    if over.is_empty() && envelope.expire_cursor > 0 {
        // those that were on lease when the cursor passed them
        over = unleased(&batch.draft, envelope_sequence, 0, room);
    }
    for id in over {
        let Some(found) = Found::by_id(&batch.draft, &id) else { continue };
        let event = Event::Expired(Expired { delivery: found.named() });
        sequences.extend(batch.record(event, &found.both_feeds(), Vec::new()));
    }
}

/// At most `max` deliveries of an envelope, from an index on, that are neither
/// settled nor on lease.
fn unleased(read: &dyn Read, envelope_sequence: u64, from: u32, max: usize) -> Vec<DeliveryId> {
    let mut found = Vec::new();
    deliveries(read, envelope_sequence, from, &mut |id, delivery| {
        if found.len() == max {
            return ControlFlow::Break(());
        }
        if matches!(delivery.state(), DeliveryState::Waiting | DeliveryState::Parked) {
            found.push(id);
        }
        ControlFlow::Continue(())
    });
    found
}

/// Envelopes whose time to become visible has come, at most `max`.
pub fn due_consignments(read: &dyn Read, now_ms: Millis, max: usize) -> Vec<u64> {
    timers(read, Timer::Consign, now_ms, max).into_iter().map(|(_, id)| id.envelope_sequence).collect()
}

/// Whether a timer is due that the writer should act on.
pub fn is_due(read: &dyn Read, now_ms: Millis, clock_trusted: bool) -> bool {
    let kinds: &[Timer] = if clock_trusted {
        &[Timer::Lapse, Timer::Warn, Timer::Expire, Timer::Erase, Timer::Forget]
    } else {
        &[Timer::Lapse]
    };
    kinds.iter().any(|timer| !timers(read, *timer, now_ms, 1).is_empty()) || moves::is_searching(read)
}
