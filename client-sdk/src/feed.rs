//! The feed: a system's numbered records about its agencies' envelopes, each
//! verified, read on from where this home left off.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axis_proto::{
    hub::v1::{FeedEntry, FollowRequest, ReadFeedRequest},
    record::v1::{Receipt, Record},
};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    client::{Client, Inner},
    error::{Again, Error, Result, Verification},
    files, receipt,
    retry::Effort,
};

/// One entry of the feed, verified.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FeedItem {
    /// Its number in the feed; no gaps.
    pub feed_sequence: u64,
    /// What happened.
    pub record: Record,
    /// The record with its proof.
    pub receipt: Receipt,
}

/// How to read the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedOptions {
    /// The last number that is not wanted any more. If unset, the feed goes on
    /// where this home left off, and the home remembers how far it was read.
    pub after: Option<u64>,
    /// Whether to wait for what comes.
    pub follow: bool,
}

/// Entries as they come. An entry counts as read when the next one is asked
/// for: after a crash the last one comes again.
#[derive(Debug)]
pub struct Feed {
    entries: mpsc::Receiver<Result<FeedItem>>,
    cursor: Option<Cursor>,
    last: Option<u64>,
}

#[derive(Debug)]
struct Cursor {
    path: PathBuf,
    written: Instant,
    pending: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedCursor {
    after: u64,
}

const ENTRIES_AHEAD: usize = 64;
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);

impl Client {
    /// Reads this system's feed.
    pub async fn feed(&self, options: FeedOptions) -> Result<Feed> {
        let path = self.inner.home.feed();
        let (after, cursor) = match options.after {
            Some(after) => (after, None),
            None => {
                let saved: SavedCursor = match files::read_if_there(&path)? {
                    Some(bytes) => {
                        serde_json::from_slice(&bytes).map_err(|error| Error::damaged(&path, error))?
                    }
                    None => SavedCursor::default(),
                };
                (saved.after, Some(Cursor { path, written: Instant::now(), pending: None }))
            }
        };
        let (sender, entries) = mpsc::channel(ENTRIES_AHEAD);
        tokio::spawn(read(self.inner.clone(), options.follow, after, sender));
        Ok(Feed { entries, cursor, last: None })
    }
}

impl Feed {
    /// The next entry, or nothing when the feed has ended.
    pub async fn next(&mut self) -> Option<Result<FeedItem>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn read_to_last(&mut self) {
        if let (Some(cursor), Some(last)) = (&mut self.cursor, self.last.take()) {
            cursor.pending = Some(last);
            if cursor.written.elapsed() >= CURSOR_INTERVAL {
                cursor.write();
            }
        }
    }
}

impl Stream for Feed {
    type Item = Result<FeedItem>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.read_to_last();
        let item = std::task::ready!(self.entries.poll_recv(context));
        match &item {
            Some(Ok(entry)) => self.last = Some(entry.feed_sequence),
            Some(Err(_)) => {}
            None => {
                if let Some(cursor) = &mut self.cursor {
                    cursor.write();
                }
            }
        }
        Poll::Ready(item)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(cursor) = &mut self.cursor {
            cursor.write();
        }
    }
}

impl Cursor {
    fn write(&mut self) {
        let Some(after) = self.pending.take() else { return };
        self.written = Instant::now();
        let text = serde_json::to_vec(&SavedCursor { after }).expect("a number encodes");
        if let Err(error) = files::write_lazily(&self.path, &text) {
            tracing::warn!(%error, "the feed's cursor was not written");
        }
    }
}

async fn read(inner: Arc<Inner>, follow: bool, mut after: u64, entries: mpsc::Sender<Result<FeedItem>>) {
    let mut effort = Effort::new(inner.options.patience());
    loop {
        let before = after;
        let result = if follow {
            follow_from(&inner, &mut after, &entries).await
        } else {
            read_from(&inner, &mut after, &entries).await
        };
        let error = match result {
            Ok(()) => return,
            Err(error) => error,
        };
        if after > before || (follow && error.again() != Again::No) {
            effort.progress_in_time(after > before);
        }
        let waited = tokio::select! {
            waited = effort.wait(error) => waited,
            () = entries.closed() => return,
        };
        if let Err(error) = waited {
            let _ = entries.send(Err(error)).await;
            return;
        }
    }
}

async fn read_from(inner: &Inner, after: &mut u64, entries: &mpsc::Sender<Result<FeedItem>>) -> Result<()> {
    loop {
        let request = ReadFeedRequest { after: *after, max_entries: 0 };
        let answer = inner.timed(inner.feed().read_feed(inner.request(request))).await?;
        if answer.entries.is_empty() {
            return Ok(());
        }
        inner.mind_log().await?;
        for entry in answer.entries {
            inner.know_log_of(entry.receipt.as_ref()).await?;
            if entries.send(Ok(checked(inner, entry, after)?)).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn follow_from(inner: &Inner, after: &mut u64, entries: &mpsc::Sender<Result<FeedItem>>) -> Result<()> {
    let address = inner.address();
    let mut feed = inner.feed();
    let call = feed.follow(inner.request(FollowRequest { after: *after }));
    let mut heard = tokio::select! {
        // the answer's head may come only with the first entry
        heard = call => heard.map_err(|status| Error::of_status(status, &address))?.into_inner(),
        () = entries.closed() => return Ok(()),
    };
    loop {
        let message = tokio::select! {
            message = heard.message() => message.map_err(|status| Error::of_status(status, &address))?,
            () = entries.closed() => return Ok(()),
        };
        let Some(entry) = message.ok_or_else(|| Error::broken(&address))?.entry else { continue };
        inner.know_log_of(entry.receipt.as_ref()).await?;
        inner.mind_log().await?;
        if entries.send(Ok(checked(inner, entry, after)?)).await.is_err() {
            return Ok(());
        }
    }
}

/// An entry whose receipt verifies and whose number is the next one.
fn checked(inner: &Inner, entry: FeedEntry, after: &mut u64) -> Result<FeedItem> {
    let bad = |detail: String| Error::from(Verification::new("feed", detail));
    // from the beginning of what is kept, any number is the first
    if *after > 0 && entry.feed_sequence != *after + 1 {
        return Err(bad(format!("entry {} came after {after}", entry.feed_sequence)));
    }
    let found = receipt::required(entry.receipt)?;
    let identity = inner.identity();
    let record = inner.trust.verify(&found)?.record;
    let system = identity.profile.system_id.as_str();
    let placed =
        record.feeds.iter().any(|place| place.system == system && place.feed_sequence == entry.feed_sequence);
    if !placed {
        return Err(bad(format!("record {} is not entry {}", record.sequence, entry.feed_sequence)));
    }
    *after = entry.feed_sequence;
    Ok(FeedItem { feed_sequence: entry.feed_sequence, record, receipt: found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_entry_is_read_when_the_next_is_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("feed.json");
        let after = || {
            let bytes = files::read_if_there(&path).unwrap()?;
            Some(serde_json::from_slice::<SavedCursor>(&bytes).unwrap().after)
        };
        let (sender, entries) = mpsc::channel(8);
        for feed_sequence in 1..=3 {
            let item = FeedItem { feed_sequence, record: Record::default(), receipt: Receipt::default() };
            sender.send(Ok(item)).await.unwrap();
        }
        let cursor = Cursor { path: path.clone(), written: Instant::now(), pending: None };
        let mut feed = Feed { entries, cursor: Some(cursor), last: None };
        for expected in 1..=3 {
            assert_eq!(feed.next().await.unwrap().unwrap().feed_sequence, expected);
        }
        drop(feed);
        assert_eq!(after(), Some(2), "the third was given out, but nobody came back for more");
    }
}
