//! Uploading large documents: from where the hub has them, in chunks, again
//! after every break.

use std::{path::Path, time::Duration};

use axis_proto::{
    hub::v1::{
        QueryUploadRequest, QueryUploadResponse, Reason, UploadRequest, UploadResponse, UploadStart,
        upload_request::Part,
    },
    id::Digest,
};
use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::outbox::PlannedDocument;
use crate::{
    client::Inner,
    error::{Error, Result, Verification},
    progress::{Progress, Step, Watch},
    retry::Effort,
};

/// Bytes of the first chunk of a call. A chunk counts only once it is whole, so
/// that they grow with what has been sent: who is cut off loses a fourth.
const CHUNK_BYTES_MIN: usize = 8 * 1024;
/// Most bytes of a chunk.
const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Most bytes that may be on their way when the last was read: chunks, the
/// hub's window, the system's buffers.
const UNDER_WAY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What the hub reads and writes again in a second when it verifies a document
/// that was interrupted, on a slow disk.
const VERIFIED_BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Uploads one document, until it is complete at the hub.
pub async fn upload(inner: &Inner, document: &PlannedDocument, path: &Path, watch: Watch<'_>) -> Result<()> {
    let mut effort = Effort::new(inner.options.patience());
    let mut best = None;
    loop {
        let error = match query(inner, document).await {
            Ok(state) if state.complete => {
                tell(watch, document, document.size);
                return Ok(());
            }
            Ok(state) => {
                if best.is_none_or(|best| state.committed_bytes > best) {
                    best = Some(state.committed_bytes);
                    effort.progress();
                }
                match upload_from(inner, document, path, state.committed_bytes, watch).await {
                    Ok(answer) if answer.complete => return Ok(()),
                    Ok(_) => Error::broken(&inner.address()),
                    // the next query says where to go on
                    Err(error) if error.reason() == Some(Reason::OffsetMismatch) => {
                        Error::broken(&inner.address())
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        effort.wait(error).await?;
    }
}

async fn query(inner: &Inner, document: &PlannedDocument) -> Result<QueryUploadResponse> {
    let request = QueryUploadRequest { sha256: bytes_of(&document.sha256), size: document.size };
    inner.timed(inner.submission().query_upload(inner.request(request))).await
}

async fn upload_from(
    inner: &Inner,
    document: &PlannedDocument,
    path: &Path,
    offset: u64,
    watch: Watch<'_>,
) -> Result<UploadResponse> {
    if offset > document.size {
        let detail = format!("it has {offset} bytes of {}, which are {}", document.name, document.size);
        return Err(Verification::new("hub", detail).into());
    }
    let failed = |source| Error::read(path, source);
    let mut file = File::open(path).await.map_err(failed)?;
    if file.metadata().await.map_err(failed)?.len() != document.size {
        let detail = format!("{} has changed since it was sealed", path.display());
        return Err(Verification::new("file", detail).into());
    }
    file.seek(std::io::SeekFrom::Start(offset)).await.map_err(failed)?;

    let (parts, requests) = mpsc::channel(CHUNKS_AHEAD);
    let mut submission = inner.submission();
    let call = submission.upload(inner.request(ReceiverStream::new(requests)));
    let feed = feed(inner, document, file, offset, parts, watch);
    tokio::pin!(call, feed);
    let under_way = (document.size - offset).min(UNDER_WAY_BYTES_MAX);
    let verified = Duration::from_secs(document.size / VERIFIED_BYTES_PER_SECOND);
    let answered = inner.options.time_for(under_way) + verified;
    let mut fed = None;
    loop {
        tokio::select! {
            answer = &mut call => {
                // a file that could not be read explains more than the hub's answer to half of it
                if let Some(Err(error)) = fed {
                    return Err(error);
                }
                let answer = answer.map_err(|status| Error::of_status(status, &inner.address()))?;
                return Ok(answer.into_inner());
            }
            result = &mut feed, if fed.is_none() => fed = Some(result.map_err(|failure| match failure {
                Failure::Read(source) => failed(source),
                Failure::Stalled => Error::timed_out(&inner.address()),
            })),
            () = tokio::time::sleep(answered), if fed.is_some() => {
                // all is sent: the hub owes an answer
                return Err(match fed {
                    Some(Err(error)) => error,
                    _ => Error::timed_out(&inner.address()),
                });
            }
        }
    }
}

/// Why feeding stopped.
enum Failure {
    Read(std::io::Error),
    Stalled,
}

/// Reads the file into the call; ends early if the call does.
async fn feed(
    inner: &Inner,
    document: &PlannedDocument,
    mut file: File,
    offset: u64,
    parts: mpsc::Sender<UploadRequest>,
    watch: Watch<'_>,
) -> Result<(), Failure> {
    let start = UploadStart { sha256: bytes_of(&document.sha256), size: document.size, offset };
    let mut next = UploadRequest { part: Some(Part::Start(start)) };
    let mut done = offset;
    loop {
        let patience = inner.options.time_for(CHUNK_BYTES_MAX as u64);
        match tokio::time::timeout(patience, parts.send(next)).await {
            Ok(Ok(())) => {}
            // the call has ended, and says why
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(Failure::Stalled),
        }
        tell(watch, document, done);
        let left = usize::try_from(document.size - done).unwrap_or(usize::MAX);
        let left = left.min(chunk_bytes(done - offset));
        if left == 0 {
            return Ok(());
        }
        let mut chunk = BytesMut::zeroed(left);
        file.read_exact(&mut chunk).await.map_err(Failure::Read)?;
        done += left as u64;
        next = UploadRequest { part: Some(Part::Chunk(chunk.freeze())) };
    }
}

/// Bytes of the next chunk after so many.
fn chunk_bytes(sent: u64) -> usize {
    usize::try_from(sent / 4).unwrap_or(CHUNK_BYTES_MAX).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
}

fn tell(watch: Watch<'_>, document: &PlannedDocument, done: u64) {
    watch(Progress { step: Step::Uploading, name: &document.name, done, total: document.size });
}

fn bytes_of(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{progress::quiet, testing::Enrolled};

    #[tokio::test]
    async fn a_hub_that_has_more_than_there_is_is_not_believed() {
        let enrolled = Enrolled::new().await;
        let path = enrolled.folder.path().join("a.bin");
        std::fs::write(&path, b"bytes").unwrap();
        let document = PlannedDocument {
            name: "a.bin".into(),
            sha256: Digest::of(b"bytes"),
            size: 5,
            inline: false,
            path: path.clone(),
            kept: None,
        };
        let error = upload_from(enrolled.inner(), &document, &path, 6, &quiet).await.unwrap_err();
        assert!(matches!(error, Error::Verification(_)), "{error:?}");
    }
}
