//! An agency goes to another system, by a change of the directory: what waits
//! for it goes along. First what is decided, then what follows.
//!
//! The change itself touches no queue, however long. It marks the mailbox that
//! the agency leaves; the writer's ticks look through that, a part at a time,
//! and move what they find, one record each. Until then a lease finds what is
//! not its system's any more and moves it instead; what is on lease moves when
//! that ends.

use std::{collections::BTreeMap, ops::ControlFlow};

use axis_proto::{
    hub::v1::DeliveryState,
    record::v1::{MailboxSearched, Moved, Settlement, record::Event},
};
use prost::Message;

use super::{
    apply::{self, At, Found, edit_mailbox, mailbox},
    batch::Batch,
    query,
    tables::{SearchRow, delivery_bytes, delivery_from, ended, key, number, row},
};
use crate::{
    error::Result,
    limits,
    state::{Draft, Read},
};

/// The system that serves an agency now; empty if none does.
pub(super) fn serving(read: &dyn Read, agency: &str) -> String {
    query::agency_part(read, agency).map(|agency| agency.system).unwrap_or_default()
}

/// Moves a delivery that nobody holds, if another system serves its agency.
pub(super) fn follow(batch: &mut Batch<'_>, found: &Found) -> Result<Option<u64>> {
    let to = serving(&batch.draft, &found.delivery.agency);
    if to == found.delivery.system || !may_move(found.delivery.state()) {
        return Ok(None);
    }
    let mailbox_sequence = mailbox(&batch.draft, &to).high + 1;
    let event = Event::Moved(Moved { delivery: found.named(), system: to, mailbox_sequence });
    Ok(Some(batch.record(event, &found.both_feeds(), Vec::new())?))
}

fn may_move(state: DeliveryState) -> bool {
    matches!(state, DeliveryState::Waiting | DeliveryState::Parked)
}

/// Whether a mailbox is to be looked through.
pub(super) fn is_searching(read: &dyn Read) -> bool {
    first_search(read).is_some()
}

fn first_search(read: &dyn Read) -> Option<(String, SearchRow)> {
    let mut first = None;
    read.scan(b"S", &key::end_of(b"S"), &mut |key, value| {
        first = Some((key[1..].to_vec(), value.to_vec()));
        ControlFlow::Break(())
    });
    let (system, value) = first?;
    Some((String::from_utf8(system).ok()?, SearchRow::decode(value.as_slice()).ok()?))
}

/// Looks through the next part of what is to be looked through, and moves what
/// it finds: at most `room` records, at most [`limits::SEARCH_MAX`] numbers.
pub(super) fn search(batch: &mut Batch<'_>, room: usize) -> Vec<u64> {
    let (mut sequences, mut looks) = (Vec::new(), limits::SEARCH_MAX);
    let mut serves: BTreeMap<String, String> = BTreeMap::new();
    while looks > 0
        && sequences.len() + 2 <= room
        && let Some((system, row)) = first_search(&batch.draft)
    {
        let numbers = numbers(&batch.draft, &system, &row, looks);
        // all there is, or only as many as were wanted
        let mut up_to = if numbers.len() < looks { row.to } else { row.next };
        looks -= numbers.len();
        for (number, waits) in numbers {
            if sequences.len() + 2 > room {
                up_to = number - 1;
                break;
            }
            up_to = up_to.max(number);
            let Some(found) = waits.and_then(|id| Found::by_id(&batch.draft, &id)) else { continue };
            let agency = &found.delivery.agency;
            let to = match serves.get(agency) {
                Some(to) => to,
                None => serves.entry(agency.clone()).or_insert_with(|| serving(&batch.draft, agency)),
            };
            if *to != system {
                sequences.extend(follow(batch, &found).ok().flatten());
            }
        }
        let event = Event::MailboxSearched(MailboxSearched { system, up_to });
        match batch.record(event, &[], Vec::new()) {
            Ok(sequence) => sequences.push(sequence),
            Err(_) => break,
        }
    }
    sequences
}

/// At most `max` numbers of a mailbox from where its search stands, each with
/// the delivery that it still has.
fn numbers(
    read: &dyn Read,
    system: &str,
    search: &SearchRow,
    max: usize,
) -> Vec<(u64, Option<axis_proto::id::DeliveryId>)> {
    let mut found = Vec::new();
    let (start, end) = (key::number(system, search.next), key::number(system, search.to + 1));
    read.scan(&start, &end, &mut |key, value| {
        if found.len() == max {
            return ControlFlow::Break(());
        }
        let waits = (!ended::is(value)).then(|| delivery_from(value));
        found.push((number(&key[key.len() - 8..]), waits));
        ControlFlow::Continue(())
    });
    found
}

// what follows from the records

/// An agency leaves a system: its mailbox is looked through, from its floor to
/// where it ends now. What becomes visible later goes elsewhere anyway.
pub(super) fn left(draft: &mut Draft<'_>, system: &str) {
    let mailbox = mailbox(draft, system);
    if mailbox.waiting > 0 {
        let search = SearchRow { next: mailbox.floor + 1, to: mailbox.high };
        draft.put(key::search(system), search.encode_to_vec());
    }
}

pub(super) fn searched(draft: &mut Draft<'_>, event: &MailboxSearched) {
    let key = key::search(&event.system);
    let Some(search) = row::<SearchRow>(draft, &key) else { return };
    if event.up_to >= search.to {
        draft.delete(key);
    } else {
        draft.put(key, SearchRow { next: event.up_to + 1, ..search }.encode_to_vec());
    }
}

pub(super) fn moved(draft: &mut Draft<'_>, at: At, event: &Moved) {
    let Some(mut found) = Found::of(draft, event.delivery.as_ref()) else { return };
    let is_wide = found.envelope.recipient_count > limits::WIDE_RECIPIENTS;
    let (left, left_number) = (found.delivery.system.clone(), found.delivery.mailbox_sequence);
    let mut mailbox = apply::mailbox(draft, &left);
    found.take_from_queue(draft, &mut mailbox);
    draft.put(key::number(&left, left_number), ended::by(&found.id, Settlement::Moved, at.sequence));
    draft.put(key::moved(&found.id, &left, left_number), Vec::new());
    if is_wide {
        draft.delete(key::received(&left, &found.id));
    }
    apply::raise_floor(draft, &left, &mut mailbox);
    mailbox.waits_less(&found.envelope);
    apply::put_mailbox(draft, &left, &mailbox);

    let state = found.delivery.state();
    found.becomes(state, at);
    let Found { id, delivery, envelope } = &mut found;
    delivery.system.clone_from(&event.system);
    delivery.mailbox_sequence = event.mailbox_sequence;
    delivery.attempts = 0;
    delivery.leases_elsewhere = delivery.leases;
    delivery.has_moved = true;
    draft.put(key::number(&delivery.system, delivery.mailbox_sequence), delivery_bytes(id).to_vec());
    if is_wide {
        draft.put(key::received(&delivery.system, id), Vec::new());
    }
    let parked = state == DeliveryState::Parked;
    if parked {
        draft.put(key::parked(&delivery.system, id), Vec::new());
    } else {
        apply::put_ready(draft, id, delivery, envelope);
    }
    edit_mailbox(draft, &delivery.system, |mailbox| {
        mailbox.high = delivery.mailbox_sequence;
        mailbox.waits_more(envelope);
        mailbox.parked += u64::from(parked);
    });
    found.put(draft);
}
