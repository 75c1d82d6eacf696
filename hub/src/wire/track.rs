//! Where an envelope is: all of it for its sender's system, their own part
//! for others.

use std::{ops::Range, sync::Arc};

use axis_proto::{
    hub::v1::{
        DeliveryState, Reason, TrackRequest, TrackResponse, TrackedRecipient,
        track_service_server::{TrackService, TrackServiceServer},
    },
    id::{AgencyCode, DeliveryId, EnvelopeId, SystemId},
    record::v1::{CargoKind, LeafList, RecipientLeaf, Record},
};
use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Context,
    call::{Call, page, parsed},
};
use crate::{
    error::{Error, Result},
    limits,
    machine::query::{self, EnvelopeRow, Tracked},
};

/// The service.
pub fn service(context: Arc<Context>) -> TrackServiceServer<impl TrackService> {
    TrackServiceServer::new(Service { context }).max_decoding_message_size(limits::SMALL_REQUEST_BYTES_MAX)
}

struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl TrackService for Service {
    async fn track(
        &self,
        request: Request<TrackRequest>,
    ) -> std::result::Result<Response<TrackResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        let system = call.system().clone();
        call.end(call.blocking(move |context| track(context, &message, Some(&system))).await)
    }
}

/// What the state says of an envelope.
struct Found {
    sequence: u64,
    row: EnvelopeRow,
    sees_all: bool,
    visible: Vec<Tracked>,
    next: u32,
    log_origin: String,
}

/// Where an envelope is, as far as `viewer` may see; operators, who are no
/// system, see all of it. May wait for the disk.
pub fn track(context: &Context, request: &TrackRequest, viewer: Option<&SystemId>) -> Result<TrackResponse> {
    let max = page(request.max_recipients, 100, 1_000)?;
    let sender: AgencyCode = parsed(&request.sender, "sender")?;
    let id = EnvelopeId::from_slice(&request.envelope_id)
        .map_err(|error| Error::invalid("envelope_id", Reason::FieldInvalid, error))?;
    let first = request.first_recipient_index;
    let found = context
        .read(|read| {
            let sequence = query::envelope_by_id(read, &sender, &id)?;
            let row = query::envelope(read, sequence)?;
            let sees_all = viewer.is_none_or(|system| {
                row.sender_system == system.as_str() || query::serves(read, system, sender.as_str())
            });
            let only = if sees_all { None } else { viewer };
            if only.is_some_and(|system| !query::receives(read, system, sequence)) {
                return None;
            }
            let (visible, next) = query::track(read, sequence, first, max, only);
            Some(Found { sequence, row, sees_all, visible, next, log_origin: query::meta(read).origin })
        })
        .ok_or_else(|| Error::invalid("envelope_id", Reason::NotFound, id))?;

    let mut recipients: Vec<TrackedRecipient> = found.visible.iter().map(tracked).collect();
    let mut next = found.next;
    let row = &found.row;
    if found.sees_all && next == 0 && row.consigned_count < row.recipient_count {
        let from = first.max(row.consigned_count);
        let room = u32::try_from(max - recipients.len()).unwrap_or(u32::MAX);
        let to = row.recipient_count.min(from.saturating_add(room));
        if from < to {
            recipients.extend(not_yet_visible(context, found.sequence, from..to, row.accepted_unix_ms)?);
        }
        next = if to < row.recipient_count { to } else { 0 };
    }
    Ok(TrackResponse {
        accepted_sequence: found.sequence,
        accepted_unix_ms: row.accepted_unix_ms,
        envelope_digest: Bytes::copy_from_slice(&row.envelope_digest),
        expires_unix_ms: row.expires_unix_ms,
        priority: row.priority,
        recipient_count: if found.sees_all { row.recipient_count } else { 0 },
        settled_count: if found.sees_all { row.settled_count } else { 0 },
        recipients,
        next_recipient_index: next,
        erased_unix_ms: row.erased_unix_ms,
        erasure_cause: row.erasure_cause,
        erased_sequence: row.erased_sequence,
        log_origin: found.log_origin.clone(),
    })
}

fn tracked(tracked: &Tracked) -> TrackedRecipient {
    let row = &tracked.delivery;
    TrackedRecipient {
        agency: row.agency.clone(),
        delivery_id: tracked.id.to_string(),
        state: row.state,
        since_unix_ms: row.since_unix_ms,
        since_sequence: row.since_sequence,
        attempts: row.leases,
        system: row.system.clone(),
        due_unix_ms: row.due_unix_ms,
        late_accepted: row.late_sequence != 0,
        late_sequence: row.late_sequence,
    }
}

/// Recipients that the envelope was accepted for and is not visible to; only
/// the recipient list names them.
fn not_yet_visible(
    context: &Context,
    sequence: u64,
    places: Range<u32>,
    since_unix_ms: u64,
) -> Result<Vec<TrackedRecipient>> {
    let entry = context.evidence.entry(sequence)?;
    let record = Record::decode(entry.record.clone()).map_err(Error::fault)?;
    let place = record.cargo.iter().position(|cargo| cargo.kind() == CargoKind::RecipientList);
    let list = place.and_then(|place| entry.cargo.get(place).cloned());
    let list = list.ok_or_else(|| Error::fault(format!("envelope {sequence} lost its recipients")))?;
    let list = LeafList::decode(list).map_err(Error::fault)?;
    let tracked = places.map(|recipient_index| {
        let leaf = list.leaves.get(recipient_index as usize).cloned().unwrap_or_default();
        let leaf = RecipientLeaf::decode(leaf).map_err(Error::fault)?;
        Ok(TrackedRecipient {
            agency: leaf.agency,
            delivery_id: DeliveryId { envelope_sequence: sequence, recipient_index }.to_string(),
            state: DeliveryState::Accepted.into(),
            since_unix_ms,
            since_sequence: sequence,
            ..TrackedRecipient::default()
        })
    });
    tracked.collect()
}
