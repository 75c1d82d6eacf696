//! One document on its way into the vault, in chunks, from where it stands.
//! What arrived stays when the stream breaks. Speaks of the caller's own
//! uploads only: never tells that bytes already exist elsewhere.

use std::time::Duration;

use axis_proto::{
    hub::v1::{
        QueryUploadRequest, QueryUploadResponse, Reason, UploadRequest, UploadResponse, UploadStart,
        upload_request::Part,
    },
    id::Digest,
    limits::DOCUMENT_BYTES_MAX,
};
use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::call::{Call, digest, unreadable};
use crate::{
    error::{Error, Refusal, Result},
    limits::{self, Millis},
    machine::{Command, query},
    vault::{Synced, Syncing, Upload},
};

/// How long the end of a whole upload's stream is waited for.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How far an upload has come.
pub(super) async fn standing(call: &Call, request: &QueryUploadRequest) -> Result<QueryUploadResponse> {
    let sha256 = digest(&request.sha256, "sha256")?;
    let size = bounded(request.size, "size")?;
    if let Some(pinned_until_unix_ms) = complete(call, &sha256, size) {
        return Ok(QueryUploadResponse { committed_bytes: size, complete: true, pinned_until_unix_ms });
    }
    let system = call.system().clone();
    let committed_bytes =
        call.blocking(move |context| Ok(context.vault.committed(&system, &sha256, size)?)).await?;
    Ok(QueryUploadResponse { committed_bytes, complete: false, pinned_until_unix_ms: 0 })
}

/// Takes an upload's chunks until it is complete, or the client stops.
pub(super) async fn receive(call: &Call, mut inbound: Streaming<UploadRequest>) -> Result<UploadResponse> {
    let Some(Part::Start(UploadStart { sha256, size, offset })) = next(&mut inbound).await? else {
        return Err(Error::invalid("start", Reason::FieldInvalid, "must come first"));
    };
    let sha256 = digest(&sha256, "start.sha256")?;
    let size = bounded(size, "start.size")?;
    if let Some(pinned_until_unix_ms) = complete(call, &sha256, size) {
        return Ok(UploadResponse { committed_bytes: size, complete: true, pinned_until_unix_ms });
    }
    call.context.committer.take_upload_room(size)?;
    let system = call.system().clone();
    if let Some(given_up) = call.context.vault.ask_for(&system, &sha256) {
        // a link that broke without a word: its stream here still waits
        let _ = timeout(limits::UPLOAD_HANDOVER_TIMEOUT, given_up.cancelled()).await;
    }
    let begun = call.blocking(move |context| {
        context.vault.has_room(&system, &sha256, size)?;
        context.vault.begin(&system, &sha256, size)
    });
    let upload = begun.await?;
    let wanted = upload.wanted();
    if upload.committed() != offset {
        let refusal = Refusal::new(Reason::OffsetMismatch)
            .at("start.offset", Reason::OffsetMismatch, offset)
            .fact("committed_bytes", upload.committed());
        return Err(refusal.into());
    }
    let (give, chunks) = mpsc::channel(limits::UPLOAD_CHUNKS_AHEAD);
    let left = size - offset;
    let (taken, read) =
        tokio::join!(take(call, upload, chunks), read_ahead(&mut inbound, &wanted, left, give));
    let (upload, syncing) = taken?;
    read?;
    if upload.committed() < size {
        let committed_bytes = keep(call, upload, syncing).await?;
        return Ok(UploadResponse { committed_bytes, complete: false, pinned_until_unix_ms: 0 });
    }
    let upload = synced(call, upload, syncing).await?;
    // a client that has sent all may wait for the answer before it ends
    if let Ok(more) = timeout(END_TIMEOUT, next(&mut inbound)).await
        && more?.is_some()
    {
        return Err(Error::invalid("chunk", Reason::SizeMismatch, format!("more than {size} bytes")));
    }
    // its record, and the blocks that it takes beside its bytes; who cannot pay
    // today has brought it all the same
    if let Err(refused) = call.spend_upload(size) {
        keep(call, upload, None).await?;
        return Err(refused);
    }
    finish(call, upload, sha256, size).await
}

/// Reads chunks while those before are hashed and written: until so many bytes
/// have come, or no more come.
async fn read_ahead(
    inbound: &mut Streaming<UploadRequest>,
    wanted: &CancellationToken,
    mut left: u64,
    give: mpsc::Sender<Bytes>,
) -> Result<()> {
    while left > 0 {
        let part = tokio::select! {
            () = give.closed() => return Ok(()),
            part = coming_of(inbound, wanted) => part?,
        };
        let chunk = match part {
            Some(Part::Chunk(chunk)) if chunk.is_empty() => {
                return Err(Error::invalid("chunk", Reason::FieldInvalid, "is empty"));
            }
            Some(Part::Chunk(chunk)) => chunk,
            Some(Part::Start(_)) => {
                return Err(Error::invalid("start", Reason::FieldInvalid, "may come only once"));
            }
            None => return Ok(()),
        };
        left = left.saturating_sub(chunk.len() as u64);
        if give.send(chunk).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Takes chunks into the vault until no more come; returns what is being made
/// durable still.
async fn take(
    call: &Call,
    mut upload: Upload,
    mut came: mpsc::Receiver<Bytes>,
) -> Result<(Upload, Option<UnderWay>)> {
    let (mut chunks, mut syncing, wanted) = (Vec::new(), None, upload.wanted());
    while came.recv_many(&mut chunks, limits::UPLOAD_CHUNKS_AT_ONCE).await > 0 && !wanted.is_cancelled() {
        let bytes = chunks.iter().map(Bytes::len).sum();
        // said again: a large document may fill the disk while it comes
        if let Err(full) = call.context.committer.take_room(bytes) {
            keep(call, upload, syncing).await?;
            return Err(full);
        }
        call.spend_bytes(bytes)?;
        let due;
        (upload, due) = append(call, upload, std::mem::take(&mut chunks)).await?;
        if let Some(due) = due {
            upload = synced(call, upload, syncing.take()).await?;
            syncing = Some(tokio::task::spawn_blocking(move || due.run()));
        }
    }
    Ok((upload, syncing))
}

/// The next part, unless the client wants to go on elsewhere.
async fn coming_of(
    inbound: &mut Streaming<UploadRequest>,
    wanted: &CancellationToken,
) -> Result<Option<Part>> {
    tokio::select! {
        biased;
        () = wanted.cancelled() => {
            Err(Refusal::new(Reason::Busy).retry_after_ms(limits::UPLOAD_BUSY_RETRY_MS).into())
        }
        part = next(inbound) => part,
    }
}

/// The next part. A client that says nothing for too long has said all.
async fn next(inbound: &mut Streaming<UploadRequest>) -> Result<Option<Part>> {
    match timeout(limits::UPLOAD_IDLE_TIMEOUT, inbound.message()).await {
        Err(_) | Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(UploadRequest { part: Some(part) }))) => Ok(Some(part)),
        Ok(Ok(Some(UploadRequest { part: None }))) => {
            Err(Error::invalid("part", Reason::FieldInvalid, "is missing"))
        }
        Ok(Err(status)) => Err(unreadable(&status)),
    }
}

/// Hashes chunks, and writes them beside that.
async fn append(call: &Call, mut upload: Upload, chunks: Vec<Bytes>) -> Result<(Upload, Option<Syncing>)> {
    let hashed = tokio::task::spawn_blocking(upload.hashing(&chunks)?);
    let added = call.blocking(move |_| {
        let due = upload.add(&chunks)?;
        Ok((upload, due))
    });
    let (added, hashed) = tokio::join!(added, hashed);
    hashed.map_err(Error::fault)?;
    added
}

/// A sync under way: bytes go on coming beside it.
type UnderWay = tokio::task::JoinHandle<Synced>;

/// Waits for the sync that is under way.
async fn synced(call: &Call, mut upload: Upload, syncing: Option<UnderWay>) -> Result<Upload> {
    let Some(syncing) = syncing else { return Ok(upload) };
    let synced = syncing.await.map_err(Error::fault)?;
    call.blocking(move |_| {
        upload.synced(synced)?;
        Ok(upload)
    })
    .await
}

/// Makes safe what arrived, and says how much it is.
async fn keep(call: &Call, upload: Upload, syncing: Option<UnderWay>) -> Result<u64> {
    let mut upload = synced(call, upload, syncing).await?;
    call.blocking(move |_| {
        upload.sync()?;
        Ok(upload.committed())
    })
    .await
}

/// Verifies a whole document, takes it into the vault and records it. Goes on
/// if the caller stops waiting.
async fn finish(call: &Call, upload: Upload, sha256: Digest, size: u64) -> Result<UploadResponse> {
    let call = call.clone();
    let finishing = tokio::spawn(async move {
        // it does not leave the vault before it is recorded
        let _brought = call.blocking(move |_| upload.finish()).await?;
        let system = call.system().clone();
        call.context.committer.commit(Command::Upload { system, sha256, size }).await?;
        complete(&call, &sha256, size).ok_or_else(|| Error::fault("a recorded upload is not known"))
    });
    let pinned_until_unix_ms = finishing.await.map_err(Error::fault)??;
    Ok(UploadResponse { committed_bytes: size, complete: true, pinned_until_unix_ms })
}

/// Until when the caller may name a document that is complete.
fn complete(call: &Call, sha256: &Digest, size: u64) -> Option<Millis> {
    let row = call.read(|read| query::upload(read, call.system(), sha256))?;
    let is_complete = row.size == size && call.context.now_ms() < row.pinned_until_unix_ms;
    is_complete.then_some(row.pinned_until_unix_ms)
}

fn bounded(size: u64, field: &str) -> Result<u64> {
    if size > DOCUMENT_BYTES_MAX {
        return Err(Error::invalid(field, Reason::TooLarge, format!("{size}, at most {DOCUMENT_BYTES_MAX}")));
    }
    Ok(size)
}
