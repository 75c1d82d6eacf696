//! Downloads from memory: chunks of the hub's size, all of them the same bytes.
//! No file is read, nothing is checked.

use std::pin::Pin;

use axis_hub::limits::DOWNLOAD_CHUNK_BYTES;
use axis_proto::hub::v1::{
    AcknowledgeRequest, AcknowledgeResponse, DownloadRequest, DownloadResponse, ExtendRequest,
    ExtendResponse, NackRequest, NackResponse, PullRequest, PullResponse, ReceiveRequest, ReceiveResponse,
    RejectRequest, RejectResponse, mailbox_service_server::MailboxService,
};
use bytes::Bytes;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::no_hub;

type Given<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Gives as many bytes as a delivery's id says, in decimal.
#[derive(Debug)]
pub struct Giver;

#[tonic::async_trait]
impl MailboxService for Giver {
    type DownloadStream = Given<DownloadResponse>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let size: usize = request.get_ref().delivery_id.parse().map_err(|_| no_hub())?;
        let bytes = Bytes::from(vec![7; DOWNLOAD_CHUNK_BYTES]);
        let chunks = (0..size)
            .step_by(DOWNLOAD_CHUNK_BYTES)
            .map(move |at| Ok(DownloadResponse { chunk: bytes.slice(..bytes.len().min(size - at)) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    type ReceiveStream = Given<ReceiveResponse>;

    async fn receive(
        &self,
        _: Request<Streaming<ReceiveRequest>>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        Err(no_hub())
    }

    async fn pull(&self, _: Request<PullRequest>) -> Result<Response<PullResponse>, Status> {
        Err(no_hub())
    }

    async fn acknowledge(
        &self,
        _: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        Err(no_hub())
    }

    async fn reject(&self, _: Request<RejectRequest>) -> Result<Response<RejectResponse>, Status> {
        Err(no_hub())
    }

    async fn nack(&self, _: Request<NackRequest>) -> Result<Response<NackResponse>, Status> {
        Err(no_hub())
    }

    async fn extend(&self, _: Request<ExtendRequest>) -> Result<Response<ExtendResponse>, Status> {
        Err(no_hub())
    }
}
