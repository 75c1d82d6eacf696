//! Brings a state to the journal's end. A long way is gone by two threads: one
//! reads and checks batches and what their records say, the other applies them.

use std::{io, ops::ControlFlow, sync::Arc};

use tracing::info;

use super::{
    Changes, Draft, State,
    pipe::{self, Bounds},
    read_once,
};
use crate::{
    journal::{Batch, Entry, JournalReader},
    limits,
};

/// What a journal's records make of a state.
pub trait Replay: Sync {
    /// What a record says.
    type Record: Send;

    /// Reads a record without the state, maybe on another thread and long
    /// before it is applied; an error if it says what is not known.
    fn read(&self, entry: &Entry) -> io::Result<Self::Record>;

    /// Brings a draft from before a record to after it.
    fn apply(&self, draft: &mut Draft<'_>, entry: &Entry, record: Self::Record) -> io::Result<()>;
}

/// One step instead of two.
impl<F: Fn(&mut Draft<'_>, &Entry) -> io::Result<()> + Sync> Replay for F {
    type Record = ();

    fn read(&self, _: &Entry) -> io::Result<()> {
        Ok(())
    }

    fn apply(&self, draft: &mut Draft<'_>, entry: &Entry, (): ()) -> io::Result<()> {
        self(draft, entry)
    }
}

/// Applies the records that the state does not contain yet.
pub(super) fn catch_up(
    state: &dyn State,
    journal: &dyn JournalReader,
    replay: &impl Replay,
) -> io::Result<()> {
    catch_up_with(state, journal, replay, limits::REPLAY_ALONE_RECORDS)
}

/// As [`catch_up`]; more than `alone` records by two threads.
pub(super) fn catch_up_with<R: Replay>(
    state: &dyn State,
    journal: &dyn JournalReader,
    replay: &R,
    alone: u64,
) -> io::Result<()> {
    let from = state.applied();
    if from == journal.size() {
        return Ok(());
    }
    info!(from, to = journal.size(), "catching up with the journal");
    if journal.size().saturating_sub(from) <= alone {
        return journal.replay(from, &mut |batch| {
            Decoded::of(replay, batch, from).apply(replay, state)?;
            Ok(ControlFlow::Continue(()))
        });
    }
    let bounds = Bounds { items: limits::REPLAY_AHEAD_BATCHES, bytes: limits::REPLAY_AHEAD_BYTES };
    pipe::run(
        bounds,
        |give| {
            journal.replay(from, &mut |batch| {
                let read = Decoded::of(replay, batch, from);
                let bytes = read.bytes();
                Ok(give(read, bytes))
            })
        },
        |read| read.apply(replay, state),
    )
}

/// A batch whose records were read.
struct Decoded<T> {
    batch: Arc<Batch>,
    /// Of the entries from `from` on, up to the first that cannot be read.
    records: Vec<T>,
    from: u64,
    failed: Option<io::Error>,
}

impl<T> Decoded<T> {
    fn of(replay: &impl Replay<Record = T>, batch: Arc<Batch>, from: u64) -> Self {
        let (mut records, mut failed) = (Vec::with_capacity(batch.entries.len()), None);
        for entry in entries(&batch, from) {
            match replay.read(entry) {
                Ok(record) => records.push(record),
                Err(error) => {
                    failed = Some(named(entry, &error));
                    break;
                }
            }
        }
        Self { batch, records, from, failed }
    }

    /// What it holds in memory, about: the bytes of a record are in what it
    /// says once more.
    fn bytes(&self) -> usize {
        let entries: usize = self.batch.entries.iter().map(|entry| entry.bytes() + entry.record.len()).sum();
        entries + self.batch.entries.len() * (size_of::<Entry>() + size_of::<T>())
    }

    /// Publishes the state after the batch, or nothing of it, so that the next
    /// start meets the same record again.
    fn apply(self, replay: &impl Replay<Record = T>, state: &dyn State) -> io::Result<()> {
        let Self { batch, records, from, failed } = self;
        let changes = read_once(state, |base| {
            let mut draft = Draft::new(base);
            for (entry, record) in entries(&batch, from).zip(records) {
                replay.apply(&mut draft, entry, record).map_err(|error| named(entry, &error))?;
            }
            // those before it go first: theirs is the first error
            failed.map_or_else(|| Ok::<Changes, io::Error>(draft.into_changes()), Err)
        })?;
        state.publish(changes, batch.commit.size);
        Ok(())
    }
}

fn entries(batch: &Batch, from: u64) -> impl Iterator<Item = &Entry> {
    batch.entries.iter().filter(move |entry| entry.sequence >= from)
}

fn named(entry: &Entry, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("record {}: {error}", entry.sequence))
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Mutex};

    use axis_proto::record::v1::{Record, Uploaded, record::Event};
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::{
        commit,
        disk::{Disk as _, MemoryDisk},
        journal::{Commit, Journal as _, SegmentJournal},
        machine::query,
        state::{digest, memory::MemoryState},
    };

    const DIR: &str = "/journal";
    /// Records of a batch, and batches: far more than may be ahead.
    const EACH: u64 = 3;
    const BATCHES: u64 = 4 * limits::REPLAY_AHEAD_BATCHES as u64;
    /// The record that is wrong, in the midst of a batch in the midst.
    const WRONG: u64 = BATCHES / 2 * EACH + 1;
    /// How many records one thread may take: all, none.
    const WAYS: [u64; 2] = [u64::MAX, 0];

    fn record(sequence: u64) -> Vec<u8> {
        let uploaded = Uploaded {
            system: format!("s{}", sequence % 7),
            sha256: Bytes::copy_from_slice(&[(sequence % 251) as u8; 32]),
            size: sequence,
            ..Uploaded::default()
        };
        let event = Some(Event::Uploaded(uploaded));
        Record { sequence, recorded_unix_ms: 7 + sequence / 2, event, ..Record::default() }.encode_to_vec()
    }

    /// A journal with one record written as `wrong` makes it.
    fn journal(disk: &MemoryDisk, wrong: impl Fn(Vec<u8>) -> Vec<u8>) -> SegmentJournal {
        let mut journal = SegmentJournal::create(Arc::new(disk.clone()), Path::new(DIR), "log").unwrap();
        for first in (0..BATCHES).map(|batch| batch * EACH) {
            let entry = |sequence| {
                let right = record(sequence);
                let record = if sequence == WRONG { wrong(right) } else { right };
                Entry { sequence, salt: [0; 16], record: record.into(), cargo: Vec::new() }
            };
            let commit = Commit { size: first + EACH, root: [0; 32], checkpoint: String::new() };
            let entries = (first..first + EACH).map(entry).collect();
            journal.append(Batch { entries, commit }).unwrap();
        }
        journal
    }

    fn digest_of(state: &dyn State) -> [u8; 32] {
        read_once(state, digest)
    }

    /// What the records before `end` make.
    fn expected(end: u64) -> [u8; 32] {
        let empty = MemoryState::new();
        let changes = read_once(&empty, |read| {
            let mut draft = Draft::new(read);
            for sequence in 0..end {
                let record = record(sequence).into();
                let entry = Entry { sequence, salt: [0; 16], record, cargo: Vec::new() };
                commit::replay(&mut draft, &entry).unwrap();
            }
            draft.into_changes()
        });
        empty.publish(changes, end);
        digest_of(&empty)
    }

    #[test]
    fn one_thread_and_two_make_the_same_from_wherever_they_begin() {
        let journal = journal(&MemoryDisk::default(), |right| right);
        let (reader, end) = (journal.reader(), BATCHES * EACH);
        for alone in WAYS {
            let state = MemoryState::new();
            catch_up_with(&state, &*reader, &commit::Replay, alone).unwrap();
            assert_eq!((state.applied(), digest_of(&state)), (end, expected(end)));
            let meta = read_once(&state, query::meta);
            assert_eq!(meta.last_recorded_unix_ms, 7 + (end - 1) / 2);
        }
        // within a batch
        let seen = Mutex::new(Vec::new());
        let replay = |_: &mut Draft<'_>, entry: &Entry| {
            seen.lock().unwrap().push(entry.sequence);
            Ok(())
        };
        for alone in WAYS {
            let state = MemoryState::new();
            state.publish(Changes::new(), EACH + 1);
            catch_up_with(&state, &*reader, &replay, alone).unwrap();
            assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), (EACH + 1..end).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_cannot_be_read_or_is_not_known_stops_at_that_record() {
        // a field that this release does not know: 1000, varint 1
        let more = |right: Vec<u8>| [right, vec![0xc0, 0x3e, 1]].concat();
        let cut = |right: Vec<u8>| right[..right.len() - 1].to_vec();
        for (wrong, words) in
            [(more as fn(Vec<u8>) -> Vec<u8>, "use the release that wrote it"), (cut, "decode")]
        {
            let journal = journal(&MemoryDisk::default(), wrong);
            for alone in WAYS {
                stops(&journal, alone, &format!("record {WRONG}: "), words);
            }
        }
    }

    #[test]
    fn a_damaged_journal_stops_at_that_batch() {
        let disk = MemoryDisk::default();
        let journal = journal(&disk, |right| right);
        let name = disk.list(Path::new(DIR)).unwrap().remove(0);
        let file = disk.open(&Path::new(DIR).join(name)).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(0, &mut bytes).unwrap();
        let wrong = record(WRONG);
        let at = bytes.windows(wrong.len()).position(|bytes| bytes == wrong).unwrap();
        file.write_at(at as u64, &[bytes[at] ^ 1]).unwrap();
        for alone in WAYS {
            stops(&journal, alone, "journal ", "checksum");
        }
    }

    #[test]
    fn the_first_of_two_errors_in_the_journals_order_is_returned() {
        struct Fails;
        impl Replay for Fails {
            type Record = ();

            fn read(&self, entry: &Entry) -> io::Result<()> {
                if entry.sequence > WRONG { Err(io::Error::other("read")) } else { Ok(()) }
            }

            fn apply(&self, _: &mut Draft<'_>, entry: &Entry, (): ()) -> io::Result<()> {
                if entry.sequence >= WRONG { Err(io::Error::other("applied")) } else { Ok(()) }
            }
        }
        let journal = journal(&MemoryDisk::default(), |right| right);
        for alone in WAYS {
            let state = MemoryState::new();
            let error = catch_up_with(&state, &*journal.reader(), &Fails, alone).unwrap_err();
            assert_eq!(error.to_string(), format!("record {WRONG}: applied"), "the next one cannot be read");
            assert_eq!(state.applied(), WRONG - WRONG % EACH);
        }
    }

    /// All before the batch is published, nothing of it, and again so.
    fn stops(journal: &SegmentJournal, alone: u64, begins: &str, holds: &str) {
        let (state, before) = (MemoryState::new(), WRONG - WRONG % EACH);
        for _ in 0..2 {
            let error = catch_up_with(&state, &*journal.reader(), &commit::Replay, alone).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let error = error.to_string();
            assert!(error.starts_with(begins) && error.contains(holds), "{error}");
            assert_eq!((state.applied(), digest_of(&state)), (before, expected(before)));
        }
    }
}
