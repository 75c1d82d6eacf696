//! The feed: a system's numbered records about its agencies' envelopes, each
//! verified, read on from where this home left off.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axis_proto::{
    hub::v1::{FeedEntry, FollowRequest, ReadFeedRequest},
    record::v1::{FeedPlace, Receipt, Record},
};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    client::{Client, Inner},
    error::{Again, Error, HomeProblem, Result, Verification},
    files::{self, Lock},
    format, receipt,
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
    /// Two that read on would move it for each other.
    _lock: Lock,
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
/// How long to wait for another reader of the same home that is ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

impl Client {
    /// Reads this system's feed. One reader at a time goes on where the home
    /// left off.
    pub async fn feed(&self, options: FeedOptions) -> Result<Feed> {
        let path = self.inner.home.feed();
        self.inner.check_log().await?;
        let (from, cursor) = match options.after {
            Some(after) => (SavedCursor { after, log: String::new() }, None),
            None => {
                let lock = Lock::take(&self.inner.home.feed_lock(), LOCK_PATIENCE).await?;
                let Some(_lock) = lock else {
                    let home = self.inner.home.path().display().to_string();
                    return Err(HomeProblem::Busy { home }.into());
                };
                let saved: SavedCursor = match files::read_if_there(&path)? {
                    Some(bytes) => format::from_json(&path, &bytes)?,
                    None => SavedCursor::default(),
                };
                (saved, Some(Cursor { path, written: Instant::now(), pending: None, _lock }))
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
            place.after = rewound(place.after, |after| next_after(inner, after, held)).await?;
        }
        place.fixed = false;
        place.log = log.to_string();
    }
    Ok(log)
}

/// What of a feed comes first after a number.
struct Next {
    /// The highest number that was given.
    high: u64,
    /// The entry's number, and whether its record lies in what is held.
    entry: Option<(u64, bool)>,
}

async fn next_after(inner: &Inner, after: u64, held: u64) -> Result<Next> {
    let request = ReadFeedRequest { after, max_entries: 1 };
    let answer = inner.timed(inner.feed().read_feed(inner.request(request))).await?;
    let entry = match answer.entries.into_iter().next() {
        None => None,
        Some(entry) => {
            let item = placed(inner, entry).await?;
            Some((item.feed_sequence, item.record.sequence < held))
        }
    };
    Ok(Next { high: answer.high, entry })
}

/// The last number up to this one whose record is held. What is older than all
/// that is kept was there before; of what has left since then the hub speaks.
async fn rewound<F: Future<Output = Result<Next>>>(after: u64, next_after: impl Fn(u64) -> F) -> Result<u64> {
    let first = next_after(0).await?;
    let Some((oldest, _)) = first.entry else { return Ok(0) };
    let (mut low, mut high) = (oldest.saturating_sub(1).min(after), after.min(first.high));
    while low < high {
        let middle = high - (high - low) / 2;
        let is_held = next_after(middle - 1).await?.entry == Some((middle, true));
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
            let entry = Entry { item: checked(inner, entry, after).await?, log: log.clone() };
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
        inner.mind_log().await?;
        let entry = Entry { item: checked(inner, entry, after).await?, log: log.clone() };
        if entries.send(Ok(entry)).await.is_err() {
            return Ok(());
        }
    }
}

/// An entry whose receipt verifies and whose number is the next one.
async fn checked(inner: &Inner, entry: FeedEntry, after: &mut u64) -> Result<FeedItem> {
    // from the beginning of what is kept, any number is the first
    if *after > 0 && entry.feed_sequence != *after + 1 {
        return Err(bad(format!("entry {} came after {after}", entry.feed_sequence)));
    }
    let item = placed(inner, entry).await?;
    *after = item.feed_sequence;
    Ok(item)
}

/// An entry whose receipt verifies, and whose record says that it has this
/// number in our feed.
async fn placed(inner: &Inner, entry: FeedEntry) -> Result<FeedItem> {
    let receipt = receipt::required(entry.receipt)?;
    let record = inner.verified(&receipt).await?.record;
    let (identity, feed_sequence) = (inner.identity(), entry.feed_sequence);
    let system = identity.profile.system_id.as_str();
    let is_ours = |place: &FeedPlace| place.system == system && place.feed_sequence == feed_sequence;
    if !record.feeds.iter().any(is_ours) {
        return Err(bad(format!("record {} is not entry {feed_sequence}", record.sequence)));
    }
    Ok(FeedItem { feed_sequence, record, receipt })
}

fn bad(detail: String) -> Error {
    Verification::new("feed", detail).into()
}

#[cfg(test)]
mod tests {
    use axis_proto::record::v1::{ClockConfirmed, record::Event};

    use super::*;
    use crate::testing::Enrolled;

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
        let _lock = Lock::try_take(&home.path().join("feed.lock")).unwrap().unwrap();
        let cursor = Cursor { path: path.clone(), written: Instant::now(), pending: None, _lock };
        let mut feed = Feed { entries, cursor: Some(cursor), last: None };
        for expected in 1..=3 {
            assert_eq!(feed.next().await.unwrap().unwrap().feed_sequence, expected);
        }
        drop(feed);
        assert_eq!(after(), Some(2), "the third was given out, but nobody came back for more");
    }

    #[tokio::test]
    async fn a_cursor_goes_back_to_what_is_held_and_passes_over_nothing() {
        // kept from a number on, and held up to one
        let check = async |after: u64, kept: std::ops::RangeInclusive<u64>, held_to: u64| {
            let next_after = |after: u64| {
                let number = (*kept.start()).max(after + 1);
                let entry = kept.contains(&number).then_some((number, number <= held_to));
                std::future::ready(Ok(Next { high: *kept.end(), entry }))
            };
            rewound(after, next_after).await.unwrap()
        };
        for after in 0..12 {
            for held_to in 0..12 {
                assert_eq!(check(after, 1..=9, held_to).await, after.min(held_to).min(9));
            }
        }
        assert_eq!(check(8, 5..=9, 6).await, 6);
        assert_eq!(check(8, 5..=9, 3).await, 4, "older than all that is kept");
        assert_eq!(check(2, 5..=9, 9).await, 2, "the third has left: the hub says so");
        #[expect(clippy::reversed_empty_ranges)]
        let nothing = 1..=0;
        assert_eq!(check(2, nothing, 9).await, 0);
    }

    #[tokio::test]
    async fn one_reader_at_a_time_goes_on_where_the_home_left_off() {
        let enrolled = Enrolled::new().await;
        let first = enrolled.client.feed(FeedOptions::default()).await.unwrap();
        let asked = FeedOptions { after: Some(3), follow: false };
        enrolled.client.feed(asked).await.expect("who names a number moves nobody's cursor");
        let lock = enrolled.inner().home.feed_lock();
        assert!(Lock::try_take(&lock).unwrap().is_none());
        drop(first);
        assert!(Lock::try_take(&lock).unwrap().is_some());
    }

    #[tokio::test]
    async fn an_entry_is_the_one_that_its_record_names() {
        let enrolled = Enrolled::new().await;
        let entry = |system: &str, number| {
            let feeds = vec![FeedPlace { system: system.to_owned(), feed_sequence: number }];
            let event = Some(Event::ClockConfirmed(ClockConfirmed { operator: "o".into() }));
            let record = Record { sequence: 3, feeds, event, ..Record::default() };
            FeedEntry { feed_sequence: 7, receipt: Some(enrolled.receipt_of(record)) }
        };
        assert!(placed(enrolled.inner(), entry("tayninh", 7)).await.is_ok());
        for wrong in [entry("vpcp", 7), entry("tayninh", 8)] {
            let error = placed(enrolled.inner(), wrong).await.unwrap_err();
            assert!(matches!(error, Error::Verification(_)), "{error:?}");
        }
    }
}
