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
    files, format, receipt,
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
    entries: mpsc::Receiver<Result<Entry>>,
    cursor: Option<Cursor>,
    last: Option<SavedCursor>,
}

/// An entry, and the log whose feed it is in.
#[derive(Debug)]
struct Entry {
    item: FeedItem,
    log: Arc<str>,
}

#[derive(Debug)]
struct Cursor {
    path: PathBuf,
    written: Instant,
    pending: Option<SavedCursor>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SavedCursor {
    after: u64,
    /// The log whose feed it is in. Unset in homes of before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    log: String,
}

const ENTRIES_AHEAD: usize = 64;
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);

impl Client {
    /// Reads this system's feed.
    pub async fn feed(&self, options: FeedOptions) -> Result<Feed> {
        let path = self.inner.home.feed();
        self.inner.trust.check()?;
        let (from, cursor) = match options.after {
            Some(after) => (SavedCursor { after, log: String::new() }, None),
            None => {
                let saved: SavedCursor = match files::read_if_there(&path)? {
                    Some(bytes) => format::from_json(&path, &bytes)?,
                    None => SavedCursor::default(),
                };
                (saved, Some(Cursor { path, written: Instant::now(), pending: None }))
            }
        };
        let (sender, entries) = mpsc::channel(ENTRIES_AHEAD);
        let place = Place { after: from.after, log: from.log, fixed: cursor.is_none() };
        tokio::spawn(read(self.inner.clone(), options.follow, place, sender));
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
        let entry = std::task::ready!(self.entries.poll_recv(context));
        match &entry {
            Some(Ok(Entry { item, log })) => {
                self.last = Some(SavedCursor { after: item.feed_sequence, log: log.to_string() });
            }
            Some(Err(_)) => {}
            None => {
                if let Some(cursor) = &mut self.cursor {
                    cursor.write();
                }
            }
        }
        Poll::Ready(entry.map(|entry| entry.map(|entry| entry.item)))
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
        let Some(pending) = self.pending.take() else { return };
        self.written = Instant::now();
        let written =
            format::to_json(&self.path, &pending).and_then(|text| files::write_lazily(&self.path, &text));
        if let Err(error) = written {
            tracing::warn!(%error, "the feed's cursor was not written");
        }
    }
}

/// Where reading stands.
#[derive(Debug)]
struct Place {
    after: u64,
    /// The log whose feed it is in; empty if that is not known.
    log: String,
    /// The caller named it, and knows best.
    fixed: bool,
}

async fn read(inner: Arc<Inner>, follow: bool, mut place: Place, entries: mpsc::Sender<Result<Entry>>) {
    let mut effort = Effort::new(inner.options.patience());
    loop {
        let before = place.after;
        let result = async {
            let log = enter_log(&inner, &mut place).await?;
            if follow {
                follow_from(&inner, &mut place.after, &log, &entries).await
            } else {
                read_from(&inner, &mut place.after, &log, &entries).await
            }
        }
        .await;
        let after = place.after;
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

/// Asks which log the hub has, and goes back if it is another one that lacks
/// what was read: it gives those numbers anew.
async fn enter_log(inner: &Inner, place: &mut Place) -> Result<Arc<str>> {
    inner.met(&inner.ask_info().await?)?;
    let (log, held) = {
        let book = inner.trust.book();
        let log: Arc<str> = book.era().into();
        let held = match place.log.as_str() {
            // a cursor of before, in the first log
            "" => book.held_of_era(book.logs()[0].verifier.origin()),
            former => book.held_of_era(former),
        };
        (log, held)
    };
    if place.log != *log {
        if !place.fixed && place.after > 0 && held != u64::MAX {
            place.after = rewound(inner, place.after, held).await?;
        }
        place.fixed = false;
        place.log = log.to_string();
    }
    Ok(log)
}

/// The last feed number up to this one whose record lies below `held`.
async fn rewound(inner: &Inner, after: u64, held: u64) -> Result<u64> {
    let entry_after = |after| async move {
        let request = ReadFeedRequest { after, max_entries: 1 };
        inner.timed(inner.feed().read_feed(inner.request(request))).await
    };
    let first = entry_after(0).await?;
    let Some(oldest) = first.entries.first() else { return Ok(0) };
    // what is older than all that is kept was there before
    let (mut low, mut high) = (oldest.feed_sequence - 1, after.min(first.high));
    while low < high {
        let middle = high - (high - low) / 2;
        let page = entry_after(middle - 1).await?;
        let found = page.entries.into_iter().next();
        let is_held = match found.filter(|entry| entry.feed_sequence == middle) {
            Some(entry) => inner.verified(&receipt::required(entry.receipt)?).await?.record.sequence < held,
            None => false,
        };
        if is_held { low = middle } else { high = middle - 1 }
    }
    Ok(low)
}

async fn read_from(
    inner: &Inner,
    after: &mut u64,
    log: &Arc<str>,
    entries: &mpsc::Sender<Result<Entry>>,
) -> Result<()> {
    loop {
        let request = ReadFeedRequest { after: *after, max_entries: 0 };
        let answer = inner.timed(inner.feed().read_feed(inner.request(request))).await?;
        if answer.entries.is_empty() {
            return Ok(());
        }
        inner.mind_log().await?;
        for entry in answer.entries {
            inner.know_log_of(entry.receipt.as_ref()).await?;
            let entry = Entry { item: checked(inner, entry, after)?, log: log.clone() };
            if entries.send(Ok(entry)).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn follow_from(
    inner: &Inner,
    after: &mut u64,
    log: &Arc<str>,
    entries: &mpsc::Sender<Result<Entry>>,
) -> Result<()> {
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
        let entry = Entry { item: checked(inner, entry, after)?, log: log.clone() };
        if entries.send(Ok(entry)).await.is_err() {
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
            sender.send(Ok(Entry { item, log: "hub/log/1".into() })).await.unwrap();
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
