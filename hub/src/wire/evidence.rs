//! Checkpoints, receipts and consistency proofs. A receipt is shown to those
//! whose envelopes it is about, with what was signed if they may have it.

use std::sync::Arc;

use axis_proto::{
    hub::v1::{
        GetCheckpointRequest, GetCheckpointResponse, GetConsistencyRequest, GetConsistencyResponse,
        GetReceiptRequest, GetReceiptResponse, Reason,
        evidence_service_server::{EvidenceService, EvidenceServiceServer},
    },
    id::AgencyCode,
    record::v1::{Record, record::Event},
    signed,
};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::{
    Context,
    call::{Call, parsed},
};
use crate::{
    deliver::keys_then,
    error::{Error, Result},
    limits,
    machine::query,
    state::Read,
};

/// The service.
pub fn service(context: Arc<Context>) -> EvidenceServiceServer<impl EvidenceService> {
    EvidenceServiceServer::new(Service { context }).max_decoding_message_size(limits::SMALL_REQUEST_BYTES_MAX)
}

struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl EvidenceService for Service {
    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> std::result::Result<Response<GetCheckpointResponse>, Status> {
        let (call, _) = Call::begin(&self.context, request)?;
        call.end(get_checkpoint(&call).await)
    }

    async fn get_receipt(
        &self,
        request: Request<GetReceiptRequest>,
    ) -> std::result::Result<Response<GetReceiptResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(get_receipt(&call, &message).await)
    }

    async fn get_consistency(
        &self,
        request: Request<GetConsistencyRequest>,
    ) -> std::result::Result<Response<GetConsistencyResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(get_consistency(&call, message).await)
    }
}

async fn get_checkpoint(call: &Call) -> Result<GetCheckpointResponse> {
    let checkpoint = call.blocking(|context| context.evidence.checkpoint()).await?;
    let checkpoint = checkpoint.ok_or_else(|| Error::refused(Reason::NotFound))?;
    Ok(GetCheckpointResponse { checkpoint })
}

async fn get_receipt(call: &Call, request: &GetReceiptRequest) -> Result<GetReceiptResponse> {
    let sequence = request.sequence;
    let agency: Option<AgencyCode> = match request.agency.as_str() {
        "" => None,
        code => Some(parsed(code, "agency")?),
    };
    let not_found = || Error::invalid("sequence", Reason::NotFound, sequence);
    let size = call.context.evidence.size();
    if sequence >= size {
        return Err(not_found());
    }
    let record = call.blocking(move |context| context.evidence.record(sequence)).await?;
    let visible = call.read(|read| {
        query::may_see(read, call.system(), &record)
            && agency.as_ref().is_none_or(|agency| may_open(read, call, &record, agency))
    });
    if !visible {
        return Err(not_found());
    }
    let receipt = call
        .blocking(move |context| match agency {
            None => context.evidence.receipt(sequence),
            Some(agency) => context.evidence.receipt_opened(sequence, &agency),
        })
        .await?;
    let mut response = GetReceiptResponse { receipt: Some(receipt), ..GetReceiptResponse::default() };
    if request.with_sealed {
        add_sealed(call, &record, &mut response).await?;
    }
    Ok(response)
}

/// Adds what a record says was signed, if the caller may have it and it is
/// there, with the keys.
async fn add_sealed(call: &Call, record: &Record, response: &mut GetReceiptResponse) -> Result<()> {
    let Some(place) = signed::place(record) else { return Ok(()) };
    let sequence = record.sequence;
    let entry = call.blocking(move |context| context.evidence.entry(sequence)).await?;
    // what was erased is empty there
    let sealed = entry.cargo.get(place).filter(|sealed| !sealed.is_empty());
    let Some(sealed) = sealed else { return Ok(()) };
    // asked last: an erasure that was recorded while the journal was read counts
    let keys = call.read(|read| {
        let may = query::may_have_signed(read, call.system(), record);
        may.then(|| keys_then(read, &signed::key_ids(record), sequence))
    });
    if let Some(keys) = keys {
        response.sealed = sealed.clone();
        (response.signing_keys, response.signing_key_sequences) = keys.into_iter().unzip();
    }
    Ok(())
}

/// Whether the caller may see an agency's own leaf: as the sender, or as the
/// system that serves the agency.
fn may_open(read: &dyn Read, call: &Call, record: &Record, agency: &AgencyCode) -> bool {
    let envelope_sequence = match &record.event {
        Some(Event::Accepted(_)) => record.sequence,
        Some(Event::Consigned(event)) => event.envelope_sequence,
        _ => return false,
    };
    query::serves(read, call.system(), agency.as_str())
        || query::envelope(read, envelope_sequence)
            .is_some_and(|row| row.sender_system == call.system().as_str())
}

async fn get_consistency(call: &Call, request: GetConsistencyRequest) -> Result<GetConsistencyResponse> {
    let GetConsistencyRequest { old_size, new_size } = request;
    let size = call.context.evidence.size();
    if old_size == 0 || old_size > new_size {
        return Err(Error::invalid("old_size", Reason::FieldInvalid, old_size));
    }
    if new_size > size {
        return Err(Error::invalid("new_size", Reason::FieldInvalid, format!("{new_size}, at most {size}")));
    }
    let hashes = call.blocking(move |context| context.evidence.consistency(old_size, new_size)).await?;
    let hashes = hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
    Ok(GetConsistencyResponse { hashes })
}
