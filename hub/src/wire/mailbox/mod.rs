//! The way out: a system receives what waits for its agencies, and answers.

mod download;
mod pull;
mod ranges;
mod receive;
mod settle;

use std::sync::Arc;

use axis_proto::{
    hub::v1::{
        AcknowledgeRequest, AcknowledgeResponse, Delivery, DownloadRequest, DownloadResponse, ExtendRequest,
        ExtendResponse, Gone, MailboxProgress, NackRequest, NackResponse, PullRequest, PullResponse, Reason,
        ReceiveRequest, RejectRequest, RejectResponse,
        mailbox_service_server::{MailboxService, MailboxServiceServer},
    },
    id::DeliveryId,
    record::v1::Settlement,
};
use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, call::Call};
use crate::{
    error::{Error, Refusal, Result},
    limits::{self, Millis},
    machine::query::MailboxRow,
};

/// The service.
pub fn service(context: Arc<Context>) -> MailboxServiceServer<impl MailboxService> {
    MailboxServiceServer::new(Service { context })
        .max_decoding_message_size(limits::REQUEST_BYTES_MAX)
        .max_encoding_message_size(limits::RESPONSE_BYTES_MAX)
}

struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl MailboxService for Service {
    type ReceiveStream = receive::Responses;

    async fn receive(
        &self,
        request: Request<Streaming<ReceiveRequest>>,
    ) -> std::result::Result<Response<Self::ReceiveStream>, Status> {
        let (call, inbound) = Call::begin(&self.context, request)?;
        Ok(Response::new(receive::start(call, inbound)))
    }

    async fn pull(
        &self,
        request: Request<PullRequest>,
    ) -> std::result::Result<Response<PullResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(pull::pull(&call, &message).await)
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> std::result::Result<Response<AcknowledgeResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(settle::acknowledge(&call, message).await)
    }

    async fn reject(
        &self,
        request: Request<RejectRequest>,
    ) -> std::result::Result<Response<RejectResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(settle::reject(&call, message).await)
    }

    async fn nack(
        &self,
        request: Request<NackRequest>,
    ) -> std::result::Result<Response<NackResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(settle::nack(&call, &message).await)
    }

    async fn extend(
        &self,
        request: Request<ExtendRequest>,
    ) -> std::result::Result<Response<ExtendResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(settle::extend(&call, &message).await)
    }

    type DownloadStream = ReceiverStream<std::result::Result<DownloadResponse, Status>>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> std::result::Result<Response<Self::DownloadStream>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(download::start(&call, &message).await)
    }
}

/// A lease's duration within its bounds.
fn lease_duration(asked_ms: Millis, field: &str) -> Result<Millis> {
    match asked_ms {
        0 => Ok(limits::LEASE_DEFAULT_MS),
        asked if (limits::LEASE_MIN_MS..=limits::LEASE_MAX_MS).contains(&asked) => Ok(asked),
        asked => Err(Error::invalid(field, Reason::FieldInvalid, asked)),
    }
}

/// A delivery without its documents if they are more than the client's link
/// carries: it downloads them, in parts.
fn within(mut delivery: Delivery, documents_bytes_max: Option<u32>) -> Delivery {
    let bytes: usize = delivery.documents.iter().map(Bytes::len).sum();
    if documents_bytes_max.is_some_and(|max| bytes > max as usize) {
        delivery.documents.clear();
    }
    delivery
}

/// Where a client's account begins: what it has, or the floor if it has no
/// memory. A number that was never given belongs to another log.
fn account_from(row: &MailboxRow, accounted_to: u64, field: &str) -> Result<u64> {
    match accounted_to {
        0 => Ok(row.floor),
        named if named <= row.high => Ok(named),
        named => Err(Refusal::new(Reason::CursorGone)
            .at(field, Reason::CursorGone, named)
            .fact("floor", row.floor)
            .fact("high", row.high)
            .into()),
    }
}

fn gone((mailbox_sequence, id, why, record_sequence): (u64, DeliveryId, Settlement, u64)) -> Gone {
    Gone { mailbox_sequence, delivery_id: id.to_string(), why: why.into(), record_sequence }
}

fn progress(row: &MailboxRow) -> MailboxProgress {
    MailboxProgress { high: row.high, floor: row.floor, waiting: row.waiting, forgotten_to: row.forgotten_to }
}
