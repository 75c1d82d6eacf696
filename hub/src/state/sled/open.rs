//! Opens the state as it is after any end: finds out whether what is on disk
//! can be used, rebuilds it if not, and catches up with the journal.
//!
//! ```text
//! state/sled       the database
//! state/redo       the last write to it, as one step
//! state/opening    a byte for each opening that did not end
//! state/suspect    why the running hub could not go on with it
//! state/damaged    the last database that was found damaged, for a look
//! state/closed     what sled's files were when they were last closed
//! state/rest       what sled's file holds that is not written any more
//! ```
//!
//! What was closed in good order and is, byte for byte, what it was then need
//! not be verified pair by pair: that takes some 10 µs a key. Nor, before it is
//! used, what a kill left whole as [`super::rest`] has it: the snapshot that is
//! begun at once reads every pair, and stops the process if one is wrong.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::Path,
    thread,
};

use tracing::{info, warn};

use super::{
    Options, SledState, changes, redo,
    rest::{self, Rest},
    store,
    store::Store,
};
use crate::{
    disk::{Disk as _, RealDisk, closed},
    journal::JournalReader,
    state::{
        Changes, JournalLost, Replay,
        fingerprint::{Fingerprint, Marker},
        replay::catch_up,
    },
};

/// Says why the database may not be used.
pub(super) const SUSPECT: &str = "suspect";
const OPENING: &str = "opening";
const DAMAGED: &str = "damaged";
/// Where sled puts values that do not fit its segments; ours do.
const BLOBS: &str = "sled/blobs";
/// What an operator knows it as.
const STATE: &str = "the state";
/// Keys of a snapshot that are written together.
const LOAD_KEYS: usize = 4_096;
/// Openings that may end with the process before the database is blamed.
const OPENINGS_MAX: u64 = 2;

/// How the database was found to be what its marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its files are, byte for byte, what was closed.
    Closed,
    /// It was not closed, but nothing of it is missing or another; its pairs
    /// are verified while it is used.
    Whole,
    /// Every pair was read.
    Verified,
    /// There was none that is of use; it is made anew.
    Made,
}

/// Why a database is of no use.
#[derive(Debug)]
enum Unusable {
    Missing,
    Unfinished,
    OtherOwner,
    Newer { applied: u64, records: u64 },
    Suspect(String),
    Damaged(String),
}

/// Opens the state and brings it to the journal's end with `replay`. Whatever
/// is wrong with the directory, the result is what the journal says; an error
/// means that the journal cannot be read or applied, or nothing be written;
/// or, with a [`JournalLost`] inside, that what is there proves that the
/// journal has lost records.
pub fn open(options: Options, journal: &dyn JournalReader, replay: &impl Replay) -> io::Result<SledState> {
    let records = journal.size();
    fs::create_dir_all(&options.dir)?;
    options.disk.create_dir(&options.snapshots)?;
    if let Some(lost) = ahead(&options, records)? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, lost));
    }
    let (store, marker, found) = match examine(&options, records) {
        Ok(found) => found,
        Err(Unusable::Newer { applied, records }) => {
            let lost = JournalLost { store: STATE.to_owned(), applied, records };
            return Err(io::Error::new(io::ErrorKind::InvalidData, lost));
        }
        Err(unusable) => {
            let (store, marker) = rebuild(&options, &unusable)?;
            (store, marker, Found::Made)
        }
    };
    let snapshot_applied = options.snapshots().tidy(records)?;
    // Where more is missing than there is, a crash costs no more than twice:
    // it is filled as an empty one is, three times as fast as step by step.
    if records - marker.applied > marker.applied {
        store.unfinish()?;
    }
    info!(?found, applied = marker.applied, keys = marker.fingerprint.keys, "the state is open");
    let state = SledState::start(store, marker, found, snapshot_applied, options)?;
    catch_up(&state, journal, replay)?;
    state.shared.filled();
    Ok(state)
}

/// Whether the snapshots, or the last write to the database, prove that a
/// journal of `records` has lost some. Changes nothing. The database itself is
/// looked at by [`open`] only.
pub fn ahead(options: &Options, records: u64) -> io::Result<Option<JournalLost>> {
    let after = redo::after(&options.dir).filter(|after| after.owner == options.owner());
    if let Some(applied) = after.map(|after| after.applied).filter(|applied| *applied > records) {
        return Ok(Some(JournalLost { store: STATE.to_owned(), applied, records }));
    }
    options.snapshots().ahead(records)
}

/// Opens what is there, on a thread of its own: sled's recovery may panic.
fn examine(options: &Options, records: u64) -> Result<(Store, Marker, Found), Unusable> {
    let dir = &options.dir;
    if !dir.join("sled").exists() {
        return Err(Unusable::Missing);
    }
    if let Ok(why) = fs::read_to_string(dir.join(SUSPECT)) {
        return Err(Unusable::Suspect(why.trim().to_owned()));
    }
    // A database that takes the process down at every opening, by its memory
    // or by a panic within a panic, must not do so for ever.
    let opening = dir.join(OPENING);
    let openings = fs::metadata(&opening).map_or(0, |metadata| metadata.len());
    if openings >= OPENINGS_MAX {
        return Err(Unusable::Suspect(format!("{openings} openings of it did not end")));
    }
    let _ = fs::File::options()
        .create(true)
        .append(true)
        .open(&opening)
        .and_then(|mut file| file.write_all(b"."));
    let owned = options.clone();
    let found = thread::Builder::new()
        .name("state-open".to_owned())
        .spawn(move || look(&owned, records))
        .map_err(damaged)?
        .join()
        .unwrap_or_else(|panic| Err(damaged(store::panicked(&*panic))));
    let _ = fs::remove_file(&opening);
    found
}

fn look(options: &Options, records: u64) -> Result<(Store, Marker, Found), Unusable> {
    let dir = &options.dir;
    // before sled touches them
    let seal = closed::unseal(&RealDisk, dir);
    let is_closed = seal.is_some_and(|seal| files(dir).is_ok_and(|names| seal.holds(&RealDisk, dir, &names)));
    let is_whole = !is_closed && Rest::load(dir).is_some_and(|rest| rest.holds(dir)) && has_no_blobs(dir);
    let store = Store::open(dir, options.cache_bytes).map_err(damaged)?;
    let marker = store.marker().map_err(damaged)?.ok_or(Unusable::Unfinished)?;
    if marker.owner != options.owner() {
        return Err(Unusable::OtherOwner);
    }
    let (marker, knows_last) = redo::complete(dir, &store, marker).map_err(damaged)?;
    // the marker has a checksum of its own: whatever the pairs are, there were
    // as many records once
    if marker.applied > records {
        return Err(Unusable::Newer { applied: marker.applied, records });
    }
    if is_closed {
        return Ok((store, marker, Found::Closed));
    }
    if is_whole && knows_last {
        return Ok((store, marker, Found::Whole));
    }
    let found = store.fingerprint().map_err(damaged)?;
    if found != marker.fingerprint {
        return Err(Unusable::Damaged(format!(
            "its pairs do not agree with its fingerprint: {} keys of {}",
            found.keys, marker.fingerprint.keys
        )));
    }
    Ok((store, marker, Found::Verified))
}

/// Makes a new database from the newest good snapshot, or an empty one.
fn rebuild(options: &Options, unusable: &Unusable) -> io::Result<(Store, Marker)> {
    let dir = &options.dir;
    let old = dir.join("sled");
    match unusable {
        Unusable::Missing => info!(dir = %dir.display(), "making the state"),
        Unusable::Damaged(_) | Unusable::Suspect(_) => {
            warn!(dir = %dir.display(), why = %unusable, "rebuilding the state; what was there is kept aside");
            remove_dir(&dir.join(DAMAGED))?;
            if old.exists() {
                fs::rename(&old, dir.join(DAMAGED))?;
            }
        }
        Unusable::Unfinished | Unusable::OtherOwner | Unusable::Newer { .. } => {
            warn!(dir = %dir.display(), why = %unusable, "rebuilding the state");
            remove_dir(&old)?;
        }
    }
    // A crash from here on leaves a database without a marker, or none.
    for name in [redo::FILE, SUSPECT, OPENING, closed::FILE, rest::FILE] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    store::guard(|| {
        let snapshot = options.snapshots().newest()?;
        let store = Store::open(dir, options.cache_bytes)?;
        let marker = match &snapshot {
            Some(snapshot) => {
                let mut some = Changes::new();
                snapshot.load(|key, value| {
                    some.insert(key.to_vec(), Some(value.to_vec()));
                    if some.len() < LOAD_KEYS {
                        return Ok(());
                    }
                    store.fill(changes(&std::mem::take(&mut some)), &mut |_, _, _| {})
                })?;
                store.fill(changes(&some), &mut |_, _, _| {})?;
                snapshot.marker
            }
            None => Marker { owner: options.owner(), applied: 0, fingerprint: Fingerprint::default() },
        };
        // one that is filled from the beginning has no marker until it is full
        if snapshot.is_some() {
            store.finish(&marker)?;
        }
        fs::File::open(dir.join("sled"))?.sync_all()?;
        fs::File::open(dir)?.sync_all()?;
        Ok((store, marker))
    })
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// sled's files in the state's directory, as a seal names them.
pub(super) fn files(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in ["sled", BLOBS] {
        for name in RealDisk.list(&dir.join(folder))? {
            let name = format!("{folder}/{name}");
            if !dir.join(&name).is_dir() {
                names.push(name);
            }
        }
    }
    Ok(names)
}

fn has_no_blobs(dir: &Path) -> bool {
    RealDisk.list(&dir.join(BLOBS)).is_ok_and(|names| names.is_empty())
}

/// Makes the next opening verify every pair, whatever a seal says.
pub fn distrust(dir: &Path) {
    let _seal = closed::unseal(&RealDisk, dir);
    let _not_there = fs::remove_file(dir.join(rest::FILE));
}

fn damaged(error: io::Error) -> Unusable {
    Unusable::Damaged(error.to_string())
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "there is none"),
            Self::Unfinished => write!(f, "it was never finished"),
            Self::OtherOwner => write!(f, "it is another hub's, or has another layout"),
            Self::Newer { applied, records } => {
                write!(f, "it contains {applied} records and the journal {records}")
            }
            Self::Suspect(why) => write!(f, "it is suspect: {why}"),
            Self::Damaged(what) => write!(f, "it is damaged: {what}"),
        }
    }
}
