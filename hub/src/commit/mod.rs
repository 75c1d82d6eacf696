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

/// Where what became of a command is told.
pub type Answer = oneshot::Sender<Result<Outcome>>;

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
        let (answer, answered) = oneshot::channel();
        self.queue(command, answer)?;
        answered.await.map_err(|_| Error::fault(NO_ANSWER))?
    }

    /// As [`Self::commit`], without waiting: the machine's word comes as the
    /// answer, and none comes if the writer is gone.
    ///
    /// # Errors
    /// As there, but for the machine's refusal.
    pub fn queue(&self, command: Command, answer: Answer) -> Result<()> {
        match &command {
            Command::Submit(submit) => {
                let documents: usize = submit.documents.iter().map(|document| document.len()).sum();
                self.take_room(submit.signed.sealed.len() + documents)?;
            }
            // its bytes are in the vault already
            Command::Upload { .. } => self.take_room(0)?,
            _ => {}
        }
        let queued = Queued { command, answer, since_us: self.clock.monotonic_us() };
        match self.queue.try_send(Message::Command(Box::new(queued))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                Err(Refusal::new(Reason::Busy).retry_after_ms(BUSY_RETRY_MS).into())
            }
            Err(TrySendError::Disconnected(_)) => {
                Err(Refusal::new(Reason::Stopping).retry_after_ms(1_000).into())
            }
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
