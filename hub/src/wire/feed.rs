//! A system's numbered list of records about its agencies' envelopes, read in
//! pages or followed.

use std::sync::Arc;

use axis_proto::hub::v1::{
    FeedEntry, FollowRequest, FollowResponse, ReadFeedRequest, ReadFeedResponse, Reason,
    feed_service_server::{FeedService, FeedServiceServer},
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    Context,
    call::{Call, page},
};
use crate::{
    error::{Error, Refusal, Result},
    limits,
    machine::query,
};

/// Entries that one look at the state brings to a follower.
const FOLLOW_PAGE: usize = 64;
/// Entries on their way to one follower.
const FOLLOW_PENDING_MAX: usize = 16;
/// Most bytes of a field's tag and length before an entry.
const FIELD_HEAD_BYTES: usize = 8;

/// The service.
pub fn service(context: Arc<Context>) -> FeedServiceServer<impl FeedService> {
    FeedServiceServer::new(Service { context }).max_decoding_message_size(limits::SMALL_REQUEST_BYTES_MAX)
}

struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl FeedService for Service {
    type FollowStream = ReceiverStream<std::result::Result<FollowResponse, Status>>;

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> std::result::Result<Response<Self::FollowStream>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        let (out, stream) = mpsc::channel(FOLLOW_PENDING_MAX);
        tokio::spawn(async move {
            let gone = out.clone();
            tokio::select! {
                () = gone.closed() => {}
                result = follow(&call, message.after, &out) => if let Err(error) = result {
                    let _ = out.send(Err(call.status(&error))).await;
                },
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn read_feed(
        &self,
        request: Request<ReadFeedRequest>,
    ) -> std::result::Result<Response<ReadFeedResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(read_feed(&call, &message).await)
    }
}

async fn read_feed(call: &Call, request: &ReadFeedRequest) -> Result<ReadFeedResponse> {
    let max = page(request.max_entries, 100, 500)?;
    let high = call.feed_high();
    let entries = entries(call, request.after, max, limits::PULL_BYTES_MAX).await?;
    let high = entries.last().map_or(high, |last| last.feed_sequence.max(high));
    Ok(ReadFeedResponse { entries, high })
}

async fn follow(
    call: &Call,
    mut after: u64,
    out: &mpsc::Sender<std::result::Result<FollowResponse, Status>>,
) -> Result<()> {
    let _open = call.context.metrics.stream();
    let mut wake = call.context.deliver.wake_of(call.system());
    loop {
        wake.borrow_and_update();
        call.read(|read| call.still_allowed(read))?;
        let entries = entries(call, after, FOLLOW_PAGE, usize::MAX).await?;
        let caught_up = entries.len() < FOLLOW_PAGE;
        for entry in entries {
            after = entry.feed_sequence;
            if out.send(Ok(FollowResponse { entry: Some(entry) })).await.is_err() {
                return Ok(());
            }
        }
        if call.context.stopping.is_cancelled() {
            return Err(Error::refused(Reason::Stopping));
        }
        if caught_up {
            tokio::select! {
                () = call.context.stopping.cancelled() => {}
                changed = wake.changed() => if changed.is_err() {
                    return Err(Error::refused(Reason::Stopping));
                },
            }
        }
    }
}

/// Entries after a number, with their receipts: as many as fit, or one.
async fn entries(call: &Call, after: u64, max: usize, bytes_max: usize) -> Result<Vec<FeedEntry>> {
    let (found, high) = call.read(|read| {
        (query::feed(read, call.system(), after, max), query::mailbox(read, call.system()).feed_high)
    });
    let first = found.first().map_or(high + 1, |(number, _)| *number);
    if after > high || (after > 0 && first > after + 1) {
        let refusal = Refusal::new(Reason::CursorGone)
            .at("after", Reason::CursorGone, after)
            .fact("floor", first.saturating_sub(1).min(high))
            .fact("high", high);
        return Err(refusal.into());
    }
    if found.len() <= FOLLOW_PAGE
        && let Some(recent) = recent(call, &found)
    {
        return fitting(recent.into_iter().map(Ok), bytes_max);
    }
    call.blocking(move |context| {
        let entries = found.into_iter().map(|(feed_sequence, sequence)| {
            let receipt = Some(context.evidence.receipt(sequence)?);
            Ok(FeedEntry { feed_sequence, receipt })
        });
        fitting(entries, bytes_max)
    })
    .await
}

/// Entries whose records are all in memory still, as those of one who follows
/// are: no thread waits for a disk then.
fn recent(call: &Call, found: &[(u64, u64)]) -> Option<Vec<FeedEntry>> {
    let entries = found.iter().map(|&(feed_sequence, sequence)| {
        let receipt = Some(call.context.evidence.recent_receipt(sequence)?);
        Some(FeedEntry { feed_sequence, receipt })
    });
    entries.collect()
}

/// The first entries that a message of so many bytes holds; the first always.
fn fitting(entries: impl Iterator<Item = Result<FeedEntry>>, bytes_max: usize) -> Result<Vec<FeedEntry>> {
    let (mut fit, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let entry = entry?;
        bytes += entry.encoded_len() + FIELD_HEAD_BYTES;
        if bytes > bytes_max && !fit.is_empty() {
            break;
        }
        fit.push(entry);
    }
    Ok(fit)
}

#[cfg(test)]
mod tests {
    use axis_proto::record::v1::Receipt;

    use super::*;

    #[test]
    fn a_page_ends_where_the_next_entry_has_no_room() {
        let entry = |feed_sequence| {
            let receipt = Some(Receipt { record: vec![7; 1_000].into(), ..Receipt::default() });
            Ok(FeedEntry { feed_sequence, receipt })
        };
        let numbers = |bytes_max| {
            let fit = fitting((1..=9).map(entry), bytes_max).unwrap();
            let page = ReadFeedResponse { entries: fit, high: 0 };
            assert!(page.entries.len() == 1 || page.encoded_len() <= bytes_max);
            page.entries.last().unwrap().feed_sequence
        };
        assert_eq!((numbers(usize::MAX), numbers(4_000), numbers(10), numbers(0)), (9, 3, 1, 1));
    }
}
