//! A document of a delivery that was given, in chunks, from any offset.

use axis_proto::{
    hub::v1::{DownloadRequest, DownloadResponse, Reason},
    id::DeliveryId,
};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Call;
use crate::{
    deliver::{Content, content_of},
    error::{Error, Result},
    limits::{DOWNLOAD_CHUNK_BYTES, DOWNLOAD_CHUNK_BYTES_MIN},
    wire::call::{digest, parsed},
};

/// Chunks on their way to one client.
const CHUNKS_PENDING_MAX: usize = 2;
/// Chunks that are read at once.
const CHUNKS_READ: usize = 2;

/// Bytes of the next chunk after so many.
fn chunk_bytes(sent: u64) -> usize {
    let grown = usize::try_from(sent / 4).unwrap_or(DOWNLOAD_CHUNK_BYTES);
    grown.clamp(DOWNLOAD_CHUNK_BYTES_MIN, DOWNLOAD_CHUNK_BYTES)
}

type Chunks = ReceiverStream<std::result::Result<DownloadResponse, Status>>;

pub(super) async fn start(call: &Call, request: &DownloadRequest) -> Result<Chunks> {
    let id: DeliveryId = parsed(&request.delivery_id, "delivery_id")?;
    let sha256 = digest(&request.sha256, "sha256")?;
    let offset = request.offset;
    let system = call.system().clone();
    let content = call
        .blocking(move |context| content_of(&*context.state, &context.evidence, &system, &id, &sha256))
        .await?;
    let size = match &content {
        Content::Inline(bytes) => bytes.len() as u64,
        Content::Vault { size, .. } => *size,
    };
    if offset > size {
        return Err(Error::invalid("offset", Reason::FieldInvalid, format!("{offset}, at most {size}")));
    }
    let (out, chunks) = mpsc::channel(CHUNKS_PENDING_MAX);
    let call = call.clone();
    tokio::spawn(async move {
        if let Err(error) = send(&call, content, offset, &out).await {
            let _ = out.send(Err(call.status(&error))).await;
        }
    });
    Ok(ReceiverStream::new(chunks))
}

async fn send(
    call: &Call,
    content: Content,
    offset: u64,
    out: &mpsc::Sender<std::result::Result<DownloadResponse, Status>>,
) -> Result<()> {
    match content {
        Content::Inline(bytes) => {
            let rest = bytes.slice(usize::try_from(offset).unwrap_or(bytes.len()).min(bytes.len())..);
            give(rest, 0, out).await;
            Ok(())
        }
        Content::Vault { sha256, size } => {
            let document = call.blocking(move |context| Ok(context.vault.open_document(&sha256)?)).await?;
            if document.size() != size {
                let held = document.size();
                return Err(Error::fault(format!(
                    "document {sha256} has {held} bytes in the vault, not {size}"
                )));
            }
            // read from its beginning it is verified: then a client never gets
            // the last part of a damaged one
            let mut reader = document.reader_from(offset);
            let mut at = offset;
            while at < size {
                let bytes;
                let sent = at - offset;
                let count = chunk_bytes(sent) * CHUNKS_READ;
                (bytes, reader) = call
                    .blocking(move |_| {
                        let bytes = reader.next(count)?;
                        Ok((bytes, reader))
                    })
                    .await?;
                at += bytes.len() as u64;
                if !give(bytes.into(), sent, out).await {
                    break;
                }
            }
            Ok(())
        }
    }
}

/// Gives bytes in chunks, after so many; whether anybody takes them.
async fn give(
    mut bytes: Bytes,
    mut sent: u64,
    out: &mpsc::Sender<std::result::Result<DownloadResponse, Status>>,
) -> bool {
    while !bytes.is_empty() {
        let chunk = bytes.split_to(bytes.len().min(chunk_bytes(sent)));
        sent += chunk.len() as u64;
        if out.send(Ok(DownloadResponse { chunk })).await.is_err() {
            return false;
        }
    }
    true
}
