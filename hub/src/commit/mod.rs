//! The one writer: many callers, one batch, one sync. A call is answered only
//! after what it promises is durable. Nothing else appends to the journal.

mod writer;

use std::sync::mpsc::{SyncSender, TrySendError};

use axis_proto::hub::v1::Reason;
use tokio::sync::{oneshot, watch};

pub use writer::{
    CommitError, Parts, Random, Replay, Stepper, WriterHandle, append, continue_log, create_log,
    create_log_with, replay, start, stepped,
};

use crate::{
    clock::Clock,
    disk_room::DiskRoom,
    error::{Error, Refusal, Result},
    machine::{Command, Outcome},
};

/// Hands commands to the writer. Cheap to clone.
#[derive(Clone)]
pub struct Committer {
    queue: SyncSender<Message>,
    size: watch::Receiver<u64>,
    directory_version: watch::Receiver<u64>,
    /// Absent if there is always enough.
    room: Option<DiskRoom>,
    clock: Clock,
}

/// What the writer is sent.
enum Message {
    Command(Box<Queued>),
    Roll(oneshot::Sender<()>),
    Stop,
}

/// Who is told what became of a command, and what is done about it first,
/// also if who asked has gone.
pub struct Answer {
    to: oneshot::Sender<Result<Outcome>>,
    first: Option<First>,
}

type First = Box<dyn FnOnce(&Result<Outcome>) + Send>;

impl Answer {
    /// With where it comes.
    pub fn new() -> (Self, oneshot::Receiver<Result<Outcome>>) {
        let (to, answered) = oneshot::channel();
        (Self { to, first: None }, answered)
    }

    /// Does something with the outcome first, on the writer's thread: a few
    /// steps.
    pub fn first(self, act: impl FnOnce(&Result<Outcome>) + Send + 'static) -> Self {
        Self { first: Some(Box::new(act)), ..self }
    }

    fn tell(self, outcome: Result<Outcome>) {
        if let Some(act) = self.first {
            act(&outcome);
        }
        // a caller that hung up does not need it
        let _gone = self.to.send(outcome);
    }
}

/// A command and who waits for it.
struct Queued {
    command: Command,
    answer: Answer,
    /// When it was queued, on the monotonic clock.
    since_us: u64,
}

/// The fault of whose answer does not come.
pub const NO_ANSWER: &str = "the writer stopped before it answered";
/// Milliseconds after which a refused caller may try again.
const BUSY_RETRY_MS: u64 = 50;
/// The same while the disk is nearly full: an operator has to act.
const DISK_RETRY_MS: u64 = 60_000;

impl Committer {
    /// Decides a command and makes it durable. The work goes on if the caller
    /// stops waiting.
    ///
    /// # Errors
    /// The machine's refusal; `BUSY` if too much waits; `DISK_FULL` for new
    /// documents while the disk is nearly full; a fault if the writer is gone,
    /// and then nobody knows whether it was recorded.
    pub async fn commit(&self, command: Command) -> Result<Outcome> {
        let (answer, answered) = Answer::new();
        self.queue(command, answer);
        answered.await.map_err(|_| Error::fault(NO_ANSWER))?
    }

    /// As [`Self::commit`], without waiting. Nobody is told anything if the
    /// writer goes before it has decided.
    pub fn queue(&self, command: Command, answer: Answer) {
        if let Err(refused) = self.room_for(&command) {
            return answer.tell(Err(refused));
        }
        let queued = Queued { command, answer, since_us: self.clock.monotonic_us() };
        let Err(error) = self.queue.try_send(Message::Command(Box::new(queued))) else { return };
        let (message, refusal) = match error {
            TrySendError::Full(message) => {
                (message, Refusal::new(Reason::Busy).retry_after_ms(BUSY_RETRY_MS))
            }
            TrySendError::Disconnected(message) => {
                (message, Refusal::new(Reason::Stopping).retry_after_ms(1_000))
            }
        };
        if let Message::Command(queued) = message {
            queued.answer.tell(Err(refusal.into()));
        }
    }

    fn room_for(&self, command: &Command) -> Result<()> {
        match command {
            Command::Submit(submit) => {
                let documents: usize = submit.documents.iter().map(|document| document.len()).sum();
                self.take_room(submit.signed.sealed.len() + documents)
            }
            // its bytes are in the vault already
            Command::Upload { .. } => self.take_room(0),
            _ => Ok(()),
        }
    }

    /// Lets the journal begin a new segment, so that cargo can be erased from
    /// the one before.
    ///
    /// # Errors
    /// If the writer is gone.
    pub async fn roll(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        match self.queue.try_send(Message::Roll(answer)) {
            Ok(()) => answered.await.map_err(|_| Error::fault(NO_ANSWER)),
            Err(_) => Err(Refusal::new(Reason::Busy).retry_after_ms(BUSY_RETRY_MS).into()),
        }
    }

    /// Takes room for so many bytes of a new document; with 0 asks whether
    /// there is any. What waits goes on being delivered without.
    ///
    /// # Errors
    /// `DISK_FULL` while the disk is nearly full.
    pub fn take_room(&self, bytes: usize) -> Result<()> {
        self.room_or_full(|room| room.take(bytes as u64))
    }

    /// Takes room for what an upload of so many bytes takes beside them: what
    /// is left of its last block, and its files.
    ///
    /// # Errors
    /// As [`Self::take_room`].
    pub fn take_upload_room(&self, size: u64) -> Result<()> {
        self.room_or_full(|room| room.take_upload(size))
    }

    fn room_or_full(&self, take: impl FnOnce(&DiskRoom) -> bool) -> Result<()> {
        if self.room.as_ref().is_some_and(|room| !take(room)) {
            return Err(Refusal::new(Reason::DiskFull).retry_after_ms(DISK_RETRY_MS).into());
        }
        Ok(())
    }

    /// Number of durable records: changes after each batch, and closes with
    /// the writer.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.size.clone()
    }

    /// Version of the directory: changes when that does, so that few are woken
    /// for nothing, and closes with the writer.
    pub fn watch_directory(&self) -> watch::Receiver<u64> {
        self.directory_version.clone()
    }

    /// The same, taking new documents only as long as there is room.
    #[must_use]
    pub fn minding(self, room: DiskRoom) -> Self {
        Self { room: Some(room), ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    };

    use super::*;

    #[test]
    fn what_comes_first_is_done_once_whoever_still_listens() {
        let (queue, queued) = sync_channel(1);
        let (size, directory_version) = (watch::channel(0).1, watch::channel(0).1);
        let clock = Clock::manual(1_790_000_000_000);
        let committer = Committer { queue, size, directory_version, room: None, clock };
        let (done, confirm) =
            (Arc::new(AtomicUsize::new(0)), || Command::ConfirmClock { operator: "lan".into() });
        let answer = || {
            let (answer, answered) = Answer::new();
            let done = done.clone();
            let first = move |outcome: &Result<Outcome>| {
                done.fetch_add(if outcome.is_ok() { 100 } else { 1 }, Ordering::SeqCst);
            };
            (answer.first(first), answered)
        };
        let (gone, hung_up) = answer();
        committer.queue(confirm(), gone);
        drop(hung_up);
        // there is room for one, and then nobody
        let (refused, mut listens) = answer();
        committer.queue(confirm(), refused);
        assert_eq!(done.load(Ordering::SeqCst), 1);
        let Ok(Err(Error::Refused(refusal))) = listens.try_recv() else { panic!("not refused") };
        assert_eq!(refusal.reason, Reason::Busy);
        let Ok(Message::Command(waiting)) = queued.try_recv() else { panic!("it was queued") };
        waiting.answer.tell(Ok(Outcome::recorded([7])));
        assert_eq!(done.load(Ordering::SeqCst), 101);
        drop(queued);
        committer.queue(confirm(), answer().0);
        assert_eq!(done.load(Ordering::SeqCst), 102);
    }
}
