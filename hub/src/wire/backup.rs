//! A backup's call: it names what is durable, and holds erasing still until
//! the stream ends. Reads nothing of what is copied; the operators' command
//! does that beside the hub.

use std::sync::Arc;

use axis_proto::{
    admin::v1::{BackupMade as Made, BackupRequest, BackupResponse},
    hub::v1::Reason,
    reason::Language,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Context;
use crate::{
    error::{Error, Refusal, Result},
    gate::Held,
    limits,
    observe::BackupMade,
};

/// What the call answers with.
pub type Answers = ReceiverStream<std::result::Result<BackupResponse, Status>>;

/// Answers the first message, and goes on with the stream.
pub async fn begin(
    ctx: &Arc<Context>,
    mut requests: Streaming<BackupRequest>,
    language: Language,
    operator: String,
) -> Result<Answers> {
    let busy = || Error::from(Refusal::new(Reason::Busy).retry_after_ms(limits::BUSY_RETRY_MS));
    requests.message().await.map_err(Error::fault)?.ok_or_else(|| Error::refused(Reason::FieldInvalid))?;
    let held = ctx.gate.hold().await.ok_or_else(busy)?;
    let evidence = Arc::clone(&ctx.evidence);
    // a size that has its own checkpoint: the end of a batch
    let head = tokio::task::spawn_blocking(move || {
        let last = evidence.size().checked_sub(1).ok_or_else(|| Error::refused(Reason::NotFound))?;
        Ok::<_, Error>(evidence.entry(last)?.commit().clone())
    });
    let head = head.await.map_err(Error::fault)??;
    tracing::info!(operator, records = head.size, "a backup begins");
    let (answers, stream) = mpsc::channel(1);
    let first = BackupResponse {
        hub_id: ctx.config.hub_id.to_string(),
        size: head.size,
        checkpoint: head.checkpoint,
        log_verifier_key: ctx.log_verifier_key.clone(),
    };
    let _room_for_one = answers.try_send(Ok(first));
    let ctx = Arc::clone(ctx);
    tokio::spawn(async move {
        let ended = tokio::select! {
            () = ctx.stopping.cancelled() => Err(Error::refused(Reason::Stopping)),
            () = answers.closed() => Ok(()),
            ended = timeout(limits::BACKUP_TIME_MAX, finish(&ctx, requests, held)) => {
                ended.unwrap_or_else(|_too_long| Err(Error::refused(Reason::Busy)))
            }
        };
        let answer = ended.map(|()| BackupResponse::default());
        // if the caller is gone, nobody waits for it
        let _ = answers.send(answer.map_err(|error| ctx.status(&error, language))).await;
    });
    Ok(ReceiverStream::new(stream))
}

/// Waits for the word that the backup is made, or the end of the stream.
async fn finish(ctx: &Context, mut requests: Streaming<BackupRequest>, held: Held) -> Result<()> {
    let last = requests.message().await;
    drop(held);
    let Ok(Some(BackupRequest { made: Some(made) })) = last else {
        tracing::warn!("a backup was given up");
        return Ok(());
    };
    let Made { directory, size, bytes, copied_bytes } = made;
    if directory.len() > limits::BACKUP_DIRECTORY_BYTES_MAX {
        return Err(Error::invalid("made.directory", Reason::TooLarge, directory.len()));
    }
    tracing::info!(directory, records = size, bytes, copied_bytes, "a backup is made");
    let made = BackupMade { made_unix_ms: ctx.now_ms(), directory, size, bytes, copied_bytes };
    let last_backup = ctx.observe.last_backup.clone();
    tokio::task::spawn_blocking(move || last_backup.note(made)).await.map_err(Error::fault)??;
    Ok(())
}
