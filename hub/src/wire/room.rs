//! Room for the bytes of requests under way: each system has its share, all
//! together have a bound. Counts only; what does not fit is refused or waits.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axis_proto::{hub::v1::Reason, id::SystemId};
use bytes::Bytes;
use http_body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::{Status, body::Body};

use crate::{
    error::{Error, Refusal, Result},
    limits,
};

/// Bytes before each message of gRPC: one of flags, four of length.
const PREFIX_BYTES: usize = 5;

/// The room of all systems. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Room(Arc<Shares>);

#[derive(Debug)]
struct Shares {
    all: Arc<Semaphore>,
    each: usize,
    /// One for each system that ever called; the directory bounds them.
    by_system: Mutex<HashMap<SystemId, Arc<Semaphore>>>,
}

/// Room that is taken until it is dropped.
#[derive(Debug)]
pub struct Held {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(limits::REQUESTS_BYTES_MAX, limits::REQUESTS_BYTES_PER_SYSTEM_MAX)
    }
}

impl Room {
    fn new(all: usize, each: usize) -> Self {
        let all = Arc::new(Semaphore::new(all));
        Self(Arc::new(Shares { all, each, by_system: Mutex::default() }))
    }

    /// Takes room for a message that is there; waits for it. A system that
    /// has used its share waits without any of the others' room.
    pub(super) async fn take(&self, system: &SystemId, bytes: usize) -> Result<Held> {
        let count = counted(bytes);
        let own = self.own(system).acquire_many_owned(count).await.map_err(Error::fault)?;
        let all = self.0.all.clone().acquire_many_owned(count).await.map_err(Error::fault)?;
        Ok(Held { _own: own, _all: all })
    }

    /// Takes room for a message that is only coming.
    ///
    /// # Errors
    /// `BUSY` if there is none: waiting for it would hold up what else comes
    /// on the same connection.
    pub(super) fn try_take(&self, system: &SystemId, bytes: usize) -> Result<Held> {
        let count = counted(bytes);
        let own = self.own(system).try_acquire_many_owned(count);
        let all = own.and_then(|own| Ok((own, self.0.all.clone().try_acquire_many_owned(count)?)));
        match all {
            Ok((own, all)) => Ok(Held { _own: own, _all: all }),
            Err(_) => Err(Refusal::new(Reason::Busy).retry_after_ms(limits::BUSY_RETRY_MS).into()),
        }
    }

    fn own(&self, system: &SystemId) -> Arc<Semaphore> {
        let mut shares = self.0.by_system.lock().unwrap_or_else(PoisonError::into_inner);
        match shares.get(system) {
            Some(share) => share.clone(),
            None => {
                let share = Arc::new(Semaphore::new(self.0.each));
                shares.insert(system.clone(), share.clone());
                share
            }
        }
    }

    /// How many bytes are taken.
    pub fn taken(&self) -> usize {
        limits::REQUESTS_BYTES_MAX.saturating_sub(self.0.all.available_permits())
    }
}

/// What a message counts for; longer ones are refused before they are read.
fn counted(bytes: usize) -> u32 {
    bytes.clamp(1, limits::REQUEST_BYTES_MAX) as u32
}

/// What a message takes while it is received and, where only one comes, until
/// it is answered.
pub(super) type Taken = Arc<Mutex<Option<Held>>>;

/// Makes the refusal that ends a request for which there is no room.
type Refuse = Box<dyn Fn(&Error) -> Status + Send>;

/// A request's body that takes room for each message before it comes.
pub(super) struct Metered {
    body: Body,
    room: Room,
    system: SystemId,
    /// Whether many messages come: each gives its room back when it is whole,
    /// and who takes it over takes room anew.
    many: bool,
    taken: Taken,
    refuse: Refuse,
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that came, and then of the message that did not.
    prefix_came: usize,
    to_come: u64,
    /// How long a message may take, and until when the one that comes may.
    patience: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    pub(super) fn new(
        body: Body,
        room: Room,
        system: SystemId,
        many: bool,
        patience: Duration,
        refuse: Refuse,
    ) -> Self {
        let (taken, prefix) = (Taken::default(), [0; PREFIX_BYTES]);
        let (prefix_came, to_come, until) = (0, 0, None);
        Self { body, room, system, many, taken, refuse, prefix, prefix_came, to_come, patience, until }
    }

    /// What the message of a request with only one takes.
    pub(super) fn taken(&self) -> Taken {
        self.taken.clone()
    }

    /// Whether the message that comes has been waited for too long. Time in
    /// which nobody asked for more of it does not count.
    fn late(&mut self, context: &mut Context<'_>) -> bool {
        if self.to_come == 0 {
            return false;
        }
        let patience = self.patience;
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(patience)));
        until.as_mut().poll(context).is_ready()
    }

    /// Follows what comes: prefix, message, prefix, …
    fn follow(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.prefix_came < PREFIX_BYTES {
                let count = bytes.len().min(PREFIX_BYTES - self.prefix_came);
                self.prefix[self.prefix_came..self.prefix_came + count].copy_from_slice(&bytes[..count]);
                self.prefix_came += count;
                bytes = &bytes[count..];
                if self.prefix_came < PREFIX_BYTES {
                    return Ok(());
                }
                let [_, length @ ..] = self.prefix;
                self.to_come = u64::from(u32::from_be_bytes(length));
                let held = self.room.try_take(&self.system, self.to_come as usize)?;
                *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
            }
            let count = self.to_come.min(bytes.len() as u64);
            self.to_come -= count;
            bytes = &bytes[count as usize..];
            if self.to_come == 0 {
                (self.prefix_came, self.until) = (0, None);
                if self.many {
                    *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Metered {
    /// Nobody reads on: what came of one of many goes, and its room with it,
    /// however long the answer is still being sent.
    fn drop(&mut self) {
        if self.many {
            *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            let bytes = bytes.clone();
            if let Err(error) = self.follow(&bytes) {
                return Poll::Ready(Some(Err((self.refuse)(&error))));
            }
        }
        if polled.is_pending() && self.late(context) {
            let late = Refusal::new(Reason::Busy).retry_after_ms(limits::BUSY_RETRY_MS);
            return Poll::Ready(Some(Err((self.refuse)(&late.into()))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn system(id: &str) -> SystemId {
        id.parse().unwrap()
    }

    fn metered(room: &Room, many: bool) -> Metered {
        let refuse = Box::new(|error: &Error| Status::unavailable(error.to_string()));
        Metered::new(Body::empty(), room.clone(), system("vpcp"), many, limits::MESSAGE_TIMEOUT, refuse)
    }

    fn message(bytes: u32) -> Vec<u8> {
        [&[0][..], &bytes.to_be_bytes(), &vec![7; bytes as usize]].concat()
    }

    #[test]
    fn nobody_takes_more_than_a_share_and_all_no_more_than_all() {
        let room = Room::new(100, 40);
        let (vpcp, byt, third) = (system("vpcp"), system("byt"), system("h53"));
        let held = room.try_take(&vpcp, 40).unwrap();
        assert!(room.try_take(&vpcp, 1).is_err(), "its share is used");
        let _other = room.try_take(&byt, 40).unwrap();
        assert!(room.try_take(&third, 30).is_err(), "all is used");
        let _third = room.try_take(&third, 20).unwrap();
        drop(held);
        assert!(room.try_take(&vpcp, 40).is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_a_share_holds_none_of_the_others_room() {
        let room = Room::new(100, 40);
        let held = room.take(&system("vpcp"), 40).await.unwrap();
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.take(&system("vpcp"), 40).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(room.0.all.available_permits(), 60);
        drop(held);
        waiting.await.unwrap().unwrap();
    }

    #[test]
    fn a_message_takes_room_when_its_length_is_known_however_it_comes() {
        let room = Room::new(1_000, 500);
        let whole = [message(300), message(0), message(400)].concat();
        for step in [1, 4, 5, 299, 1_000] {
            let mut body = metered(&room, true);
            let mut largest = 0;
            for part in whole.chunks(step) {
                body.follow(part).unwrap();
                largest = largest.max(1_000 - room.0.all.available_permits());
            }
            assert!(largest == 400 || step > 299, "{largest} with {step} bytes at a time");
            assert_eq!(room.0.all.available_permits(), 1_000, "all of it came");
        }
    }

    #[test]
    fn the_only_message_takes_room_until_it_is_answered() {
        let room = Room::new(1_000, 500);
        let mut body = metered(&room, false);
        let taken = body.taken();
        body.follow(&message(300)).unwrap();
        drop(body);
        assert_eq!(room.0.all.available_permits(), 700);
        drop(taken);
        assert_eq!(room.0.all.available_permits(), 1_000);
    }

    #[test]
    fn what_came_of_one_of_many_goes_with_who_reads_it() {
        let room = Room::new(1_000, 500);
        let mut body = metered(&room, true);
        let _kept_with_the_answer = body.taken();
        body.follow(&message(300)[..50]).unwrap();
        assert_eq!(room.0.all.available_permits(), 700);
        drop(body);
        assert_eq!(room.0.all.available_permits(), 1_000);
    }

    #[tokio::test]
    async fn a_message_that_does_not_end_is_given_up_however_it_trickles() {
        let room = Room::new(1 << 30, 1 << 30);
        let (say, said) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
        let mut body = metered(&room, false);
        body.patience = Duration::from_millis(100);
        let frames = futures_util::stream::unfold(said, async |mut said| {
            let bytes = said.recv().await?;
            Some((Ok::<_, Status>(Frame::data(Bytes::from(bytes))), said))
        });
        body.body = Body::new(http_body_util::StreamBody::new(Box::pin(frames)));
        say.send(message(10)).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert!(!body.late(&mut Context::from_waker(std::task::Waker::noop())), "it came");
        assert!(body.until.is_none(), "nothing is waited for");
        // a byte at a time, more of them than can come in the time
        let trickling = tokio::spawn(async move {
            let message = message(limits::REQUEST_BYTES_MAX as u32);
            for byte in &message {
                if say.send(vec![*byte]).await.is_err() {
                    return false;
                }
            }
            true
        });
        let status = loop {
            if let Err(status) = body.frame().await.unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(body.to_come > 0);
        drop(body);
        assert!(!trickling.await.unwrap(), "all of it came");
    }

    #[test]
    fn a_message_without_room_is_refused_at_its_first_bytes() {
        let room = Room::new(1_000, 500);
        let mut first = metered(&room, false);
        first.follow(&message(300)[..6]).unwrap();
        let mut second = metered(&room, false);
        let Err(Error::Refused(refusal)) = second.follow(&message(300)[..5]) else { panic!("not refused") };
        assert_eq!((refusal.reason, refusal.retry_after_ms), (Reason::Busy, limits::BUSY_RETRY_MS));
    }
}
