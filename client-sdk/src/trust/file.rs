//! The book's file, `log.json`. Written whole or not at all, by one process at
//! a time; what is damaged is reported, never passed over.

use std::path::Path;

use axis_proto::note::CheckpointVerifier;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use super::book::{Book, Fork, LOGS_MAX, Log, Overdue, Previous, RUNGS_MAX, SEEN_MAX, SignedHead, Why};
use crate::{
    error::{Error, Result},
    files::{self, Access},
    format,
};

#[derive(Serialize, Deserialize)]
struct Saved {
    logs: Vec<SavedLog>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ladder: Vec<SavedHead>,
    #[serde(default)]
    unproven: Vec<SavedHead>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overdue: Option<SavedOverdue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fork: Option<SavedFork>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_forks: Vec<SavedFork>,
}

#[derive(Serialize, Deserialize)]
struct SavedLog {
    verifier_key: String,
    trusted_by: SavedWhy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<SavedPrevious>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<SavedHead>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedWhy {
    Enrolment,
    Succession,
    Person,
}

#[derive(Serialize, Deserialize)]
struct SavedPrevious {
    origin: String,
    size: u64,
    root: String,
}

#[derive(Serialize, Deserialize)]
struct SavedHead {
    origin: String,
    size: u64,
    root: String,
    note: String,
}

#[derive(Serialize, Deserialize)]
struct SavedOverdue {
    since_unix_ms: u64,
    counted_unix_ms: u64,
    minutes: u32,
}

#[derive(Serialize, Deserialize)]
struct SavedFork {
    remembered: SavedHead,
    shown: SavedHead,
}

/// Reads the book, if there is one.
pub fn load(path: &Path) -> Result<Option<Book>> {
    let Some(bytes) = files::read_if_there(path)? else { return Ok(None) };
    let book = read(format::from_json(path, &bytes)?).map_err(|detail| Error::damaged(path, detail))?;
    Ok(Some(book))
}

/// Writes the book.
pub fn save(path: &Path, book: &Book) -> Result<()> {
    files::write(path, &format::to_json(path, &written(book))?, Access::Default)
}

fn read(saved: Saved) -> Result<Book, String> {
    let (logs, rungs, heads) = (saved.logs.len(), saved.ladder.len(), saved.unproven.len());
    if logs == 0 || logs > LOGS_MAX || rungs > RUNGS_MAX || heads > SEEN_MAX {
        return Err(format!("it names {logs} logs and {rungs} and {heads} heads"));
    }
    let logs = saved.logs.into_iter().map(read_log).collect::<Result<_, _>>()?;
    let ladder = saved.ladder.into_iter().map(read_head).collect::<Result<_, _>>()?;
    let unproven = saved.unproven.into_iter().map(read_head).collect::<Result<_, _>>()?;
    let overdue = saved.overdue.map(|it| Overdue {
        since_unix_ms: it.since_unix_ms,
        counted_unix_ms: it.counted_unix_ms,
        minutes: it.minutes,
    });
    let fork = saved.fork.map(read_fork).transpose()?;
    let former_forks = saved.former_forks.into_iter().map(read_fork).collect::<Result<_, _>>()?;
    Ok(Book { logs, ladder, unproven, overdue, fork, former_forks })
}

fn read_log(saved: SavedLog) -> Result<Log, String> {
    let previous = saved
        .previous
        .map(|it| Ok::<_, String>(Previous { origin: it.origin, size: it.size, root: hash(&it.root)? }));
    Ok(Log {
        verifier: CheckpointVerifier::parse(&saved.verifier_key).map_err(|error| error.to_string())?,
        previous: previous.transpose()?,
        why: match saved.trusted_by {
            SavedWhy::Enrolment => Why::Enrolled,
            SavedWhy::Succession => Why::Succession,
            SavedWhy::Person => Why::Person,
        },
        head: saved.head.map(read_head).transpose()?,
    })
}

fn read_head(saved: SavedHead) -> Result<SignedHead, String> {
    let SavedHead { origin, size, root, note } = saved;
    Ok(SignedHead { origin, size, root: hash(&root)?, note })
}

fn read_fork(saved: SavedFork) -> Result<Fork, String> {
    Ok(Fork { remembered: read_head(saved.remembered)?, shown: read_head(saved.shown)? })
}

fn hash(text: &str) -> Result<[u8; 32], String> {
    let bytes = BASE64.decode(text).map_err(|error| error.to_string())?;
    bytes.try_into().map_err(|_| "a root is not 32 bytes".to_owned())
}

fn written(book: &Book) -> Saved {
    Saved {
        logs: book.logs.iter().map(written_log).collect(),
        ladder: book.ladder.iter().map(written_head).collect(),
        unproven: book.unproven.iter().map(written_head).collect(),
        overdue: book.overdue.map(|it| SavedOverdue {
            since_unix_ms: it.since_unix_ms,
            counted_unix_ms: it.counted_unix_ms,
            minutes: it.minutes,
        }),
        fork: book.fork.as_ref().map(written_fork),
        former_forks: book.former_forks.iter().map(written_fork).collect(),
    }
}

fn written_log(log: &Log) -> SavedLog {
    let previous = log.previous.as_ref().map(|it| SavedPrevious {
        origin: it.origin.clone(),
        size: it.size,
        root: BASE64.encode(it.root),
    });
    SavedLog {
        verifier_key: log.verifier.verifier_key(),
        trusted_by: match log.why {
            Why::Enrolled => SavedWhy::Enrolment,
            Why::Succession => SavedWhy::Succession,
            Why::Person => SavedWhy::Person,
        },
        previous,
        head: log.head.as_ref().map(written_head),
    }
}

fn written_head(head: &SignedHead) -> SavedHead {
    SavedHead {
        origin: head.origin.clone(),
        size: head.size,
        root: BASE64.encode(head.root),
        note: head.note.clone(),
    }
}

fn written_fork(fork: &Fork) -> SavedFork {
    SavedFork { remembered: written_head(&fork.remembered), shown: written_head(&fork.shown) }
}
