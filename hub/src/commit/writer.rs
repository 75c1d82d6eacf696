//! The writer: decide, append with one sync, apply, answer everyone. It owns
//! the journal and the tree, and signs the checkpoints. Each round is one
//! step, taken by a thread of its own, or by whoever holds a [`Stepper`].

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use axis_proto::{
    note::CheckpointSigner,
    record::v1::{CargoKind, LeafList, LogOpened, Record},
    tree,
};
use prost::Message as _;
use tokio::sync::{oneshot, watch};

use super::{Answer, Committer, Message, Queued};
use crate::{
    clock::Clock,
    error::{Error, Result},
    evidence::Tree,
    journal::{Batch, Commit, Entry, Journal},
    limits::{self, Millis},
    machine::{self, Command, Context, Outcome, Tally},
    observe::{CommitSample, Metrics, Readiness, WriterGuard},
    state::{self, Changes, Draft, State, memory::MemoryState, read_once},
};

/// How long the writer waits for a command before it looks at the timers.
const IDLE: Duration = Duration::from_millis(50);
/// Envelopes whose time to become visible has come, at most so many a batch.
const CONSIGN_DUE_MAX: usize = 16;

/// What the writer works with.
pub struct Parts {
    /// The journal. Nobody else appends to it.
    pub journal: Box<dyn Journal>,
    /// The tree over it.
    pub tree: Tree,
    /// Signs the checkpoints.
    pub signer: CheckpointSigner,
    /// What follows, as far as the journal.
    pub state: Arc<dyn State>,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether commits are possible.
    pub readiness: Readiness,
}

/// Why nothing more can be committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The journal did not take a batch. The process must stop: opening the
    /// journal again finds out what the disk holds.
    #[error("the journal did not take a batch of {records} records at {size}")]
    Journal {
        /// Where.
        size: u64,
        /// How many.
        records: usize,
        /// Why.
        source: std::io::Error,
    },
    /// The tree's files could not be written.
    #[error("the tree could not be written at {size}")]
    Tree {
        /// Where.
        size: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A log that has records cannot be created.
    #[error("the journal holds records already")]
    NotEmpty,
    /// A log's first record does not fit the end of the log before it.
    #[error("the new log does not continue the journal as it ends")]
    OtherEnd,
}

/// Writes the first record of a log: whose it is, and which origin its
/// checkpoints carry.
///
/// # Errors
/// If the journal is not empty or does not take the record.
pub fn create_log(
    journal: &mut dyn Journal,
    tree: &mut Tree,
    signer: &CheckpointSigner,
    clock: &Clock,
    opened: LogOpened,
) -> std::result::Result<(), CommitError> {
    create_log_with(journal, tree, signer, clock, opened, &mut fill_random)
}

/// As [`create_log`], with other randomness.
///
/// # Errors
/// As [`create_log`].
pub fn create_log_with(
    journal: &mut dyn Journal,
    tree: &mut Tree,
    signer: &CheckpointSigner,
    clock: &Clock,
    opened: LogOpened,
    random: &mut dyn FnMut(&mut [u8]),
) -> std::result::Result<(), CommitError> {
    if journal.size() > 0 {
        return Err(CommitError::NotEmpty);
    }
    let empty = MemoryState::new();
    let now_ms = clock.now_ms();
    let entries = read_once(&empty, |read| {
        let mut batch = machine::Batch::new(read, 0, Context { now_ms, random });
        batch.open_log(opened).expect("the first record of a log is small");
        batch.finish().0
    });
    append(journal, tree, signer, entries)?;
    Ok(())
}

/// Writes the first record of a log that continues the one that the journal
/// holds, with the signed word for it. The journal has begun its segment.
///
/// # Errors
/// If the record does not continue the journal as it is, or the journal does
/// not take it.
pub fn continue_log(
    journal: &mut dyn Journal,
    tree: &mut Tree,
    signer: &CheckpointSigner,
    clock: &Clock,
    opened: LogOpened,
    succession: String,
) -> std::result::Result<(), CommitError> {
    let fits = journal
        .last_commit()
        .is_some_and(|last| last.size == opened.previous_size && last.root[..] == opened.previous_root);
    let last = journal.size().checked_sub(1).filter(|_| fits).ok_or(CommitError::OtherEnd)?;
    let unread = |source| CommitError::Journal { size: last, records: 0, source };
    let batch = journal.reader().batch_of(last).map_err(unread)?.ok_or(CommitError::OtherEnd)?;
    let record = batch.entry(last).and_then(|entry| Record::decode(entry.record.clone()).ok());
    let recorded_ms = record.ok_or(CommitError::OtherEnd)?.recorded_unix_ms;
    let empty = MemoryState::new();
    // by the clock, but never before the record before it
    let now_ms = clock.now_ms().max(recorded_ms);
    let entries = read_once(&empty, |read| {
        let mut random = fill_random;
        let mut batch = machine::Batch::new(read, last + 1, Context { now_ms, random: &mut random });
        batch.continue_log(opened, succession).map(|_| batch.finish().0)
    });
    let entries = entries.map_err(|_too_large| CommitError::OtherEnd)?;
    append(journal, tree, signer, entries)
}

/// Random bytes that the system is asked for at a time: the salts and secrets of
/// some twenty submissions.
const RANDOM_AHEAD_BYTES: usize = 2_048;

/// Fills a buffer with bytes that nobody can foresee.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// Starts the writer on a thread of its own.
pub fn start(parts: Parts) -> (Committer, WriterHandle) {
    let (committer, queue, writer) = make(parts, ahead(fill_random));
    let thread = thread::Builder::new()
        .name("writer".into())
        .spawn(move || writer.run())
        .expect("a process that cannot start a thread cannot serve");
    (committer, WriterHandle { queue, thread })
}

/// Makes a writer that works only when it is told to, on the thread that tells
/// it, with the randomness that it is given: the same commands at the same
/// times make the same journal.
pub fn stepped(parts: Parts, random: Random) -> (Committer, Stepper) {
    let (committer, _, writer) = make(parts, random);
    let guard = writer.parts.readiness.writer_runs();
    (committer, Stepper { writer, _guard: guard })
}

fn make(parts: Parts, random: Random) -> (Committer, SyncSender<Message>, Writer) {
    let (queue, commands) = sync_channel(limits::COMMIT_QUEUE_MAX);
    let directory_version = read_once(&*parts.state, |read| machine::query::directory_version(read));
    let directory_version = watch::Sender::new(directory_version);
    let size = watch::Sender::new(parts.journal.size());
    let committer = Committer {
        queue: queue.clone(),
        size: size.subscribe(),
        directory_version: directory_version.subscribe(),
        room: None,
        clock: parts.clock.clone(),
    };
    let writer = Writer { parts, random, commands, size, directory_version, lists: HashMap::new() };
    (committer, queue, writer)
}

/// Stops the writer.
pub struct WriterHandle {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

impl WriterHandle {
    /// Finishes what is queued, then ends. Blocks; callers that come later
    /// are told that the hub is stopping.
    pub fn stop(self) {
        let _already_gone = self.queue.send(Message::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the writer had panicked");
        }
    }
}

/// A writer that works a step at a time.
pub struct Stepper {
    writer: Writer,
    _guard: WriterGuard,
}

impl Stepper {
    /// Takes what waits now and makes one batch of it, if there is anything
    /// to do. Returns whether something was recorded or answered.
    ///
    /// # Errors
    /// If the batch was not taken. Nobody was answered, and the writer must be
    /// dropped: the process has to end here.
    pub fn step(&mut self) -> std::result::Result<bool, CommitError> {
        let first = self.writer.commands.try_recv().ok();
        let step = self.writer.step(first)?;
        Ok(step.records > 0 || step.answers > 0)
    }
}

struct Writer {
    parts: Parts,
    random: Random,
    commands: Receiver<Message>,
    size: watch::Sender<u64>,
    directory_version: watch::Sender<u64>,
    /// Recipients of envelopes that are being made visible, so that a
    /// broadcast's list is read once.
    lists: HashMap<u64, Arc<LeafList>>,
}

/// Who waits for a batch, and what each will hear.
type Answers = Vec<(Answer, Result<Outcome>)>;

/// What a batch was decided to be.
struct Decided {
    entries: Vec<Entry>,
    changes: Changes,
    tally: Tally,
    answers: Answers,
    /// When the oldest command was queued, on the monotonic clock.
    oldest_us: Option<u64>,
    /// Who waits for a new segment behind this batch.
    roll: Option<oneshot::Sender<()>>,
    stop: bool,
}

/// What came of one round.
#[derive(Debug, Default)]
struct Step {
    /// Whether the writer had something of its own to propose, or has now.
    has_own: bool,
    records: usize,
    answers: usize,
    stop: bool,
}

impl Writer {
    fn run(mut self) {
        let guard = self.parts.readiness.writer_runs();
        let mut has_more = true;
        loop {
            let first = match self.wait(has_more) {
                Ok(first) => first,
                Err(()) => break,
            };
            let began_us = self.parts.clock.monotonic_us();
            match self.step(first) {
                Ok(step) if step.stop => break,
                Ok(step) => {
                    // what led to nothing a moment ago will not lead to more at once
                    has_more = step.has_own && step.records > 0;
                    if step.answers >= limits::GATHER_FROM && !has_more {
                        // asleep, not waiting for messages: those who come wake nobody
                        let took_us = self.parts.clock.monotonic_us().saturating_sub(began_us);
                        let took = Duration::from_micros(took_us);
                        thread::sleep(limits::GATHER_MAX.min(took * limits::GATHER_TIMES));
                    }
                }
                Err(error) => {
                    // Nobody is answered: nobody knows what the disk holds.
                    let chain = crate::error::Fault::new(error).chain();
                    tracing::error!(error = %chain, "nothing more can be recorded; stop and start the hub again");
                    self.parts.readiness.failed(chain);
                    return;
                }
            }
        }
        if let Err(error) = self.parts.tree.close() {
            tracing::warn!(%error, "cannot seal the tree; the next start verifies it hash by hash");
        }
        guard.stop();
    }

    /// One round: what the timers say and what waits becomes one batch.
    fn step(&mut self, first: Option<Message>) -> std::result::Result<Step, CommitError> {
        let (now_ms, clock_trusted) = self.parts.clock.look();
        let own = self.own_commands(now_ms, clock_trusted);
        let has_own = !own.is_empty();
        if first.is_none() && !has_own {
            return Ok(Step::default());
        }
        let decided = self.decide(first, own, now_ms);
        let (records, answers, stop) = (decided.entries.len(), decided.answers.len(), decided.stop);
        // what a broadcast has begun goes on at once
        let has_own = has_own || machine::has_pending(&decided.changes);
        self.finish(decided)?;
        Ok(Step { has_own, records, answers, stop })
    }

    /// The next message: at once if the writer has work of its own, else
    /// within [`IDLE`].
    fn wait(&self, has_own: bool) -> std::result::Result<Option<Message>, ()> {
        let patience = if has_own { Duration::ZERO } else { IDLE };
        match self.commands.recv_timeout(patience) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    /// What the writer proposes itself: the next range of an envelope that is
    /// becoming visible, and what the timers say.
    fn own_commands(&mut self, now_ms: Millis, clock_trusted: bool) -> Vec<Command> {
        let (pending, is_due) = read_once(&*self.parts.state, |read| {
            let mut pending: Vec<u64> = machine::pending_consignment(read).into_iter().collect();
            if clock_trusted {
                pending.extend(machine::due_consignments(read, now_ms, CONSIGN_DUE_MAX));
            }
            (pending, machine::is_due(read, now_ms, clock_trusted))
        });
        let mut own: Vec<Command> = Vec::new();
        for sequence in pending {
            match self.recipients_of(sequence) {
                Ok(recipients) => own.push(Command::Consign { envelope_sequence: sequence, recipients }),
                Err(error) => {
                    tracing::error!(sequence, %error, "the recipients of an envelope cannot be read");
                }
            }
        }
        if is_due {
            own.push(Command::Tick { clock_trusted });
        }
        own
    }

    fn recipients_of(&mut self, sequence: u64) -> Result<Arc<LeafList>> {
        if let Some(list) = self.lists.get(&sequence) {
            return Ok(list.clone());
        }
        let batch = self.parts.journal.reader().batch_of(sequence)?;
        let entry = batch.as_ref().and_then(|batch| batch.entry(sequence));
        let entry = entry.ok_or_else(|| Error::fault("no such record"))?;
        let record = Record::decode(entry.record.clone()).map_err(Error::fault)?;
        let place = record.cargo.iter().position(|cargo| cargo.kind() == CargoKind::RecipientList);
        let bytes = place.and_then(|place| entry.cargo.get(place)).cloned();
        let bytes = bytes.ok_or_else(|| Error::fault("an accepted envelope has no recipient list"))?;
        let list = Arc::new(LeafList::decode(bytes).map_err(Error::fault)?);
        if list.leaves.len() > limits::CONSIGN_MAX {
            self.lists.clear();
            self.lists.insert(sequence, list.clone());
        }
        Ok(list)
    }

    /// Decides the writer's own commands and then as many of the waiting ones
    /// as fit into a batch.
    fn decide(&mut self, first: Option<Message>, own: Vec<Command>, now_ms: Millis) -> Decided {
        let Self { parts, random, commands, .. } = self;
        let size = parts.journal.size();
        let began_us = parts.clock.monotonic_us();
        let decided = read_once(&*parts.state, |read| {
            let mut batch = machine::Batch::new(read, size, Context { now_ms, random });
            let (mut answers, mut oldest_us, mut stop): (Answers, _, _) = (Vec::new(), None, false);
            let mut roll = None;
            for command in own {
                if let Err(error) = machine::decide(&mut batch, &command) {
                    tracing::error!(%error, "the writer's own command was refused");
                }
            }
            let mut next = first;
            loop {
                match next {
                    Some(Message::Command(queued)) => {
                        let Queued { command, answer, since_us } = *queued;
                        oldest_us = oldest_us.or(Some(since_us));
                        answers.push((answer, machine::decide(&mut batch, &command)));
                    }
                    Some(Message::Roll(answer)) => {
                        roll = Some(answer);
                        break;
                    }
                    Some(Message::Stop) => {
                        stop = true;
                        break;
                    }
                    None => break,
                }
                let (_, bytes) = batch.weight();
                let took_us = parts.clock.monotonic_us().saturating_sub(began_us);
                if answers.len() >= limits::BATCH_COMMANDS_MAX
                    || bytes >= limits::BATCH_BYTES_MAX
                    || took_us >= limits::BATCH_US_MAX
                {
                    break;
                }
                next = commands.try_recv().ok();
            }
            let (entries, changes, tally) = batch.finish();
            Decided { entries, changes, tally, answers, oldest_us, roll, stop }
        });
        parts.metrics.state_held(parts.clock.monotonic_us().saturating_sub(began_us));
        decided
    }

    /// Makes a decided batch durable, then visible, then known.
    fn finish(&mut self, decided: Decided) -> std::result::Result<(), CommitError> {
        let Decided { entries, changes, tally, answers, oldest_us, roll, .. } = decided;
        let records = entries.len();
        if records > 0 {
            let began_us = self.parts.clock.monotonic_us();
            self.parts.readiness.commit_begins(began_us / 1_000);
            append(&mut *self.parts.journal, &mut self.parts.tree, &self.parts.signer, entries)?;
            let sync_us = self.parts.clock.monotonic_us() - began_us;
            // Crash here: the records are durable and nobody knows; senders
            // ask again and hear `duplicate`.
            let size = self.parts.journal.size();
            self.parts.state.publish(changes, size);
            self.parts.readiness.commit_ends();
            let latency_us = self.parts.clock.monotonic_us().saturating_sub(oldest_us.unwrap_or(began_us));
            self.parts.metrics.commit(CommitSample { records, latency_us, sync_us });
            self.parts.metrics.recorded(&tally);
        }
        for (answer, outcome) in answers {
            answer.tell(outcome);
        }
        // behind the answers: those who follow have no call that waits
        if records > 0 {
            self.size.send_replace(self.parts.journal.size());
            let version = read_once(&*self.parts.state, |read| machine::query::directory_version(read));
            self.directory_version.send_if_modified(|known| std::mem::replace(known, version) != version);
        }
        if let Some(answer) = roll {
            let size = self.parts.journal.size();
            let rolled = self.parts.journal.roll();
            rolled.map_err(|source| CommitError::Journal { size, records: 0, source })?;
            let _gone = answer.send(());
        }
        Ok(())
    }
}

/// Appends records as one batch under a signed checkpoint, durably, and then
/// shows them to the tree's readers. For the writer; and, while no hub runs,
/// for whoever makes a journal.
///
/// # Errors
/// If the journal or the tree did not take them: nothing may be appended after
/// that.
pub fn append(
    journal: &mut dyn Journal,
    tree: &mut Tree,
    signer: &CheckpointSigner,
    entries: Vec<Entry>,
) -> std::result::Result<(), CommitError> {
    let records = entries.len();
    let leaves: Vec<[u8; 32]> =
        entries.iter().map(|entry| tree::record_leaf(&entry.salt, &entry.record)).collect();
    tree.append(&leaves);
    let (size, root) = (tree.size(), tree.root());
    // Crash here, or a failed append: the checkpoint was signed but never
    // left the process, and the next one for this size replaces it.
    let commit = Commit { size, root, checkpoint: signer.sign(size, &root) };
    journal.append(Batch { entries, commit }).map_err(|source| CommitError::Journal {
        size: size - records as u64,
        records,
        source,
    })?;
    tree.persist().map_err(|source| CommitError::Tree { size, source })
}

/// What opening a state replays with.
#[derive(Debug, Clone, Copy)]
pub struct Replay;

impl state::Replay for Replay {
    type Record = Record;

    /// Fails if the record cannot be read, or says what this release does not
    /// know: a state without it would be another one.
    fn read(&self, entry: &Entry) -> std::io::Result<Record> {
        let record = Record::decode(entry.record.clone()).map_err(|error| invalid(error.into()))?;
        // ours are encoded one way; what we do not know is left out when read
        if record.event.is_none() || record.encoded_len() != entry.record.len() {
            let words = "it says what this release does not know; use the release that wrote it";
            return Err(invalid(words.into()));
        }
        Ok(record)
    }

    fn apply(&self, draft: &mut Draft<'_>, entry: &Entry, record: Record) -> std::io::Result<()> {
        machine::apply(draft, &record, entry).map_err(|error| invalid(error.into()))
    }
}

/// Brings a state from before a journal entry to after it, as [`Replay`] does.
///
/// # Errors
/// If the record cannot be read, or says what this release does not know.
pub fn replay(draft: &mut Draft<'_>, entry: &Entry) -> std::io::Result<()> {
    use state::Replay as _;
    let record = Replay.read(entry)?;
    Replay.apply(draft, entry, record)
}

fn invalid(error: Box<dyn std::error::Error + Send + Sync>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error)
}

fn fill_random(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("a system without randomness cannot serve");
}

/// Bytes that are asked for ahead, so that the system is not asked for each
/// salt and secret. Each is given to one, and kept no longer.
fn ahead(mut random: impl FnMut(&mut [u8]) + Send + 'static) -> Random {
    let (mut bytes, mut used) = ([0; RANDOM_AHEAD_BYTES], RANDOM_AHEAD_BYTES);
    Box::new(move |buffer| {
        for part in buffer.chunks_mut(RANDOM_AHEAD_BYTES) {
            if part.len() > bytes.len() - used {
                random(&mut bytes);
                used = 0;
            }
            let given = &mut bytes[used..used + part.len()];
            part.copy_from_slice(given);
            given.fill(0);
            used += part.len();
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use axis_proto::record::v1::{LogOpened, record::Event};
    use bytes::Bytes;

    use super::*;
    use crate::{machine::query, state::memory::MemoryState};

    fn replayed(record: Vec<u8>) -> std::result::Result<String, String> {
        let entry = Entry { sequence: 0, salt: [0; 16], record: record.into(), cargo: Vec::new() };
        read_once(&MemoryState::new(), |read| {
            let mut draft = Draft::new(read);
            replay(&mut draft, &entry).map_err(|error| error.to_string())?;
            Ok(query::meta(&draft).origin)
        })
    }

    #[test]
    fn no_random_byte_is_given_twice() {
        let mut next = 0_u32;
        let mut random = ahead(move |buffer| {
            for four in buffer.chunks_mut(4) {
                next += 1;
                four.copy_from_slice(&next.to_le_bytes()[..four.len()]);
            }
        });
        let mut seen = HashSet::new();
        for length in [16, 32, 16, 4 * RANDOM_AHEAD_BYTES, 32, RANDOM_AHEAD_BYTES, 16].repeat(50) {
            let mut buffer = vec![0; length];
            random(&mut buffer);
            for four in buffer.chunks(4) {
                let number = u32::from_le_bytes(four.try_into().unwrap());
                assert!(number > 0 && seen.insert(number), "{number}");
            }
        }
    }

    #[test]
    fn a_record_that_says_more_than_is_known_is_not_replayed() {
        let opened = LogOpened { origin: "hub/log/1".into(), ..LogOpened::default() };
        let record =
            Record { recorded_unix_ms: 7, event: Some(Event::LogOpened(opened)), ..Record::default() };
        let known = record.encode_to_vec();
        assert_eq!(replayed(known.clone()), Ok("hub/log/1".to_owned()));

        // a field of the record that this release does not know: 1000, varint 1
        let further = [known.clone(), vec![0xc0, 0x3e, 1]].concat();
        // one inside its event, whose length is one byte
        let mut within = known.clone();
        let length = within.iter().position(|byte| *byte == opened_bytes(&record)).expect("its length");
        within[length] += 3;
        within.extend([0xc0, 0x3e, 1]);
        // a kind of event that it does not know: field 500, an empty message
        let kind = [Record { event: None, ..record.clone() }.encode_to_vec(), vec![0xa2, 0x1f, 0]].concat();
        let none = Record { event: None, ..record }.encode_to_vec();
        for (what, bytes) in
            [("a field", further), ("a field within", within), ("a kind", kind), ("none", none)]
        {
            assert!(Record::decode(Bytes::from(bytes.clone())).is_ok(), "{what} can be read");
            let refused = replayed(bytes).expect_err(what);
            assert!(refused.contains("use the release that wrote it"), "{what}: {refused}");
        }
        assert!(replayed(known[..known.len() - 1].to_vec()).is_err(), "what cannot be read");
    }

    fn opened_bytes(record: &Record) -> u8 {
        let Some(Event::LogOpened(opened)) = &record.event else { panic!("it opens a log") };
        u8::try_from(opened.encoded_len()).expect("a short one")
    }
}
