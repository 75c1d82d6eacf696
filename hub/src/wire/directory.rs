//! Agencies, groups and keys, and how they change. Every system may read all
//! of it; certificates are left out of lists.

use std::sync::Arc;

use axis_proto::{
    hub::v1::{
        GetAgencyRequest, GetAgencyResponse, GetSigningKeyRequest, GetSigningKeyResponse,
        ListAgenciesRequest, ListAgenciesResponse, ListChangesRequest, ListChangesResponse,
        ListGroupsRequest, ListGroupsResponse, Reason,
        directory_service_server::{DirectoryService, DirectoryServiceServer},
    },
    id::KeyId,
    record::v1::{DirectoryChanged, directory_entry::Value, record::Event},
};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::{
    Context,
    call::{Call, page},
};
use crate::{
    error::{Error, Result},
    limits,
    machine::query,
};

/// Most bytes of changes in one answer; a change has at most 16 KiB.
const CHANGES_BYTES_MAX: usize = limits::RESPONSE_BYTES_MAX - 64 * 1024;

/// The service.
pub fn service(context: Arc<Context>) -> DirectoryServiceServer<impl DirectoryService> {
    DirectoryServiceServer::new(Service { context })
        .max_decoding_message_size(limits::SMALL_REQUEST_BYTES_MAX)
}

struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl DirectoryService for Service {
    async fn list_agencies(
        &self,
        request: Request<ListAgenciesRequest>,
    ) -> std::result::Result<Response<ListAgenciesResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(list_agencies(&call, message).await)
    }

    async fn get_agency(
        &self,
        request: Request<GetAgencyRequest>,
    ) -> std::result::Result<Response<GetAgencyResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(get_agency(&call, &message))
    }

    async fn list_changes(
        &self,
        request: Request<ListChangesRequest>,
    ) -> std::result::Result<Response<ListChangesResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(list_changes(&call, &message).await)
    }

    async fn get_signing_key(
        &self,
        request: Request<GetSigningKeyRequest>,
    ) -> std::result::Result<Response<GetSigningKeyResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(get_signing_key(&call, &message))
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> std::result::Result<Response<ListGroupsResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(list_groups(&call, &message))
    }
}

async fn list_agencies(call: &Call, request: ListAgenciesRequest) -> Result<ListAgenciesResponse> {
    let max = page(request.max_agencies, 100, 1_000)?;
    // a search reads much of the directory
    call.blocking(move |context| {
        Ok(context.read(|read| {
            let (agencies, next_after) = query::agencies(read, &request.after, max, &request.containing);
            let directory_version = query::directory_version(read);
            ListAgenciesResponse { agencies, directory_version, next_after }
        }))
    })
    .await
}

fn get_agency(call: &Call, request: &GetAgencyRequest) -> Result<GetAgencyResponse> {
    let (agency, directory_version) =
        call.read(|read| (query::agency_or_alias(read, &request.code), query::directory_version(read)));
    let agency = agency.ok_or_else(|| Error::invalid("code", Reason::NotFound, &request.code))?;
    Ok(GetAgencyResponse { agency: Some(agency), directory_version })
}

async fn list_changes(call: &Call, request: &ListChangesRequest) -> Result<ListChangesResponse> {
    let max = page(request.max_changes, 100, 1_000)?;
    let (found, directory_version) =
        call.read(|read| (query::changes(read, request.since_version, max), query::directory_version(read)));
    if request.since_version > directory_version {
        let refusal = crate::error::Refusal::new(Reason::CursorGone)
            .at("since_version", Reason::CursorGone, request.since_version)
            .fact("directory_version", directory_version);
        return Err(refusal.into());
    }
    let changes = call.blocking(move |context| {
        let mut changes = Vec::with_capacity(found.len());
        let mut bytes = 0;
        for (_, sequence) in found {
            let record = context.evidence.record(sequence)?;
            let Some(Event::DirectoryChanged(change)) = record.event else {
                return Err(Error::fault(format!("record {sequence} changes no directory")));
            };
            let change = without_certificates(change);
            bytes += prost::Message::encoded_len(&change);
            if bytes > CHANGES_BYTES_MAX {
                break;
            }
            changes.push(change);
        }
        Ok(changes)
    });
    Ok(ListChangesResponse { changes: changes.await?, directory_version })
}

fn without_certificates(mut change: DirectoryChanged) -> DirectoryChanged {
    change.entries.retain(|entry| !matches!(entry.value, Some(Value::Certificate(_))));
    change.enrolment_token_sha256 = Bytes::new();
    change
}

fn get_signing_key(call: &Call, request: &GetSigningKeyRequest) -> Result<GetSigningKeyResponse> {
    let key_id = KeyId::from_slice(&request.key_id)
        .map_err(|error| Error::invalid("key_id", Reason::FieldInvalid, error))?;
    let found = call.read(|read| query::signing_key(read, &key_id));
    let (signing_key, changed_sequence) =
        found.ok_or_else(|| Error::invalid("key_id", Reason::NotFound, key_id))?;
    Ok(GetSigningKeyResponse { signing_key: Some(signing_key), changed_sequence })
}

fn list_groups(call: &Call, request: &ListGroupsRequest) -> Result<ListGroupsResponse> {
    let max = page(request.max_groups, 100, 1_000)?;
    let (groups, next_after) = call.read(|read| query::groups(read, &request.after, max));
    Ok(ListGroupsResponse { groups, next_after })
}
