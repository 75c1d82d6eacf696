//! Every invariant over closed stores. Only reads; names what is wrong and
//! where, and leaves mending to `rebuild` and to people.

mod checker;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_proto::note::CheckpointVerifier;

pub use checker::{Checker, Counts, Violation};

use crate::{
    clock::Clock,
    disk::Disk,
    evidence,
    journal::{self, Batch},
    limits::Millis,
    machine,
    state::{self, Draft, State, memory::MemoryState, read_once},
    vault::Vault,
};

/// What was looked at, and what is wrong with it.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// Journal files.
    pub segments: usize,
    /// What the journal holds.
    pub counts: Counts,
    /// Documents of the vault that were read and hashed.
    pub documents: u64,
    /// The last batch was never finished: nobody was answered, and opening
    /// cuts it. Not a violation.
    pub incomplete_batch: Option<String>,
    /// What the next start will make again by itself. Not a violation.
    pub notes: Vec<String>,
    /// What is not as it must be. Empty if all is well.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether all is well.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    fn wrong(&mut self, what: impl Into<String>) {
        self.violations.push(Violation { sequence: None, what: what.into() });
    }
}

/// The stores of a hub that is not running.
pub struct Stores<'a> {
    /// The hub's data directory.
    pub data: &'a Path,
    /// Its disk.
    pub disk: Arc<dyn Disk>,
    /// Verifies its checkpoints: those of its last log, if it was restored.
    pub verifier: CheckpointVerifier,
    /// Called with the number of records after each batch.
    pub progress: &'a mut dyn FnMut(u64),
}

/// Looks at everything: every byte of the journal, every invariant of its
/// records, the tree, the state against a replay, and the documents that
/// deliveries still need.
///
/// # Errors
/// If a store cannot be read at all. A damaged journal is such an error: it
/// names the file and the place.
pub fn run(stores: Stores<'_>) -> io::Result<Report> {
    let (data, disk, origin) = (stores.data, stores.disk.clone(), stores.verifier.origin().to_owned());
    let (mut report, replayed) = look(stores, Clock::system().now_ms())?;
    if let Some(replayed) = replayed
        && let Some(what) = state_differs(data, &disk, &origin, &replayed)?
    {
        report.wrong(what);
    }
    Ok(report)
}

/// As [`run`], but for the state: returns what it must be, unless the journal
/// cannot be replayed. No deadline has passed that is behind `now_ms`: records
/// may be stamped by a clock that was ahead.
///
/// # Errors
/// As [`run`].
pub fn look(stores: Stores<'_>, now_ms: Millis) -> io::Result<(Report, Option<MemoryState>)> {
    let Stores { data, disk, verifier, progress } = stores;
    crate::formats::check(&*disk, data)?;
    let dir = data.join("journal");
    // a damaged journal is named by its place, further down
    let logs = journal::logs(&*disk, &dir).unwrap_or_default();
    let (verifiers, unfit) = match evidence::logs::verifiers(&logs, &verifier) {
        Ok(verifiers) => (verifiers, None),
        Err(what) => (vec![verifier], Some(what)),
    };
    let mut checker = Checker::of_logs(verifiers);
    let replayed = MemoryState::new();
    let mut broken = None;
    let found = journal::segments::verify(&*disk, &dir, &mut |batch| {
        checker.batch(&batch);
        if let Err(error) = replay(&replayed, &batch) {
            broken.get_or_insert(error);
        }
        progress(batch.commit.size);
    })
    .map_err(io::Error::other)?;
    let last_ms = read_once(&replayed, |read| machine::query::meta(read).last_recorded_unix_ms);
    let (counts, violations) = checker.finish(last_ms.min(now_ms));
    let mut report = Report {
        segments: found.segments,
        counts,
        documents: 0,
        incomplete_batch: found.incomplete.map(|incomplete| {
            format!("{} at {}: batch {}", incomplete.path.display(), incomplete.offset, incomplete.batch)
        }),
        notes: Vec::new(),
        violations,
    };
    unfit.into_iter().for_each(|what| report.wrong(what));
    if let Some(error) = broken {
        report.wrong(format!("the journal cannot be replayed: {error}"));
        return Ok((report, None));
    }
    if let Some(last) = found.last_commit {
        let tree = data.join("tree");
        let surplus = evidence::tree::surplus(&*disk, &tree, last.size)?;
        if surplus > 0 {
            report.wrong(format!(
                "the tree knows {surplus} records more than the journal's {}: the journal has lost them, or the \
                 tree is damaged",
                last.size
            ));
        } else if let Err(what) = evidence::tree::verify(&*disk, &tree, last.size, &last.root)? {
            report.notes.push(what);
        }
    }
    documents(data, &disk, &replayed, &mut report)?;
    Ok((report, Some(replayed)))
}

/// Replays a batch into a state.
fn replay(state: &dyn State, batch: &Batch) -> io::Result<()> {
    let changes = read_once(state, |read| {
        let mut draft = Draft::new(read);
        for entry in &batch.entries {
            let outcome = crate::commit::replay(&mut draft, entry);
            outcome.map_err(|error| {
                io::Error::new(error.kind(), format!("record {}: {error}", entry.sequence))
            })?;
        }
        Ok::<_, io::Error>(draft.into_changes())
    })?;
    state.publish(changes, batch.commit.size);
    Ok(())
}

/// Opens a copy of the state as a start would, and compares it with a replay
/// of the whole journal.
fn state_differs(
    data: &Path,
    disk: &Arc<dyn Disk>,
    origin: &str,
    replayed: &MemoryState,
) -> io::Result<Option<String>> {
    let copy = Copy::of(&data.join("state"))?;
    let journal = journal::segments::open_read_only(Arc::clone(disk), &data.join("journal"))
        .map_err(io::Error::other)?;
    let mut options = state::sled::Options::new(data, Arc::clone(disk), origin, machine::LAYOUT_VERSION);
    if let Some(lost) = state::ahead(&options, journal.size())? {
        return Ok(Some(lost.to_string()));
    }
    options.dir = copy.0.join("state");
    options.snapshots = copy.0.join("snapshots");
    options.snapshot_records = u64::MAX;
    state::distrust(&options.dir);
    let opened = match state::open(options, &*journal, &crate::commit::Replay) {
        Err(error) if is_lost(&error) => return Ok(Some(error.to_string())),
        opened => opened?,
    };
    let same = read_once(&opened, state::digest) == read_once(replayed, state::digest);
    opened.stop();
    Ok((!same).then(|| "the state is not what the journal says; run `axis-hub rebuild`".to_owned()))
}

fn is_lost(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<state::JournalLost>())
}

/// A copy of a directory that is removed when dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(directory: &Path) -> io::Result<Self> {
        let name = format!("axis-fsck-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let copy = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&copy.0)?;
        if directory.exists() {
            copy_directory(directory, &copy.0.join("state"))?;
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Reads and hashes every document that a delivery still needs, and looks
/// whether those are there that a kept envelope names.
fn documents(
    data: &Path,
    disk: &Arc<dyn Disk>,
    replayed: &MemoryState,
    report: &mut Report,
) -> io::Result<()> {
    let (needed, named) = read_once(replayed, |read| {
        (machine::query::documents_needed(read), machine::query::documents_named(read))
    });
    if named.is_empty() {
        return Ok(());
    }
    let vault = Vault::open(Arc::clone(disk), &data.join("vault"))?;
    for (sha256, size) in named {
        let read = vault.open_document(&sha256).and_then(|document| {
            if needed.contains_key(&sha256) {
                report.documents += 1;
                document.verify()?;
            }
            Ok(document.size())
        });
        match read {
            Ok(held) if held == size => {}
            Ok(held) => report.wrong(format!("document {sha256} has {held} bytes, not {size}")),
            Err(error) => report.wrong(format!("document {sha256}: {error}")),
        }
    }
    Ok(())
}
