//! One life of the hub, from the opening of its stores to the end of its
//! process, in the thread of the simulation: the same stages as behind the
//! wire, and a writer that works when it is told to.

use std::{
    cell::{Cell, RefCell},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_hub::{
    clock::Clock,
    commit::{self, CommitError, Committer, Parts, Stepper},
    deliver::{Deliver, Wakes},
    disk::{Disk, MemoryDisk},
    disk_room::DiskRoom,
    evidence::{Evidence, Tree},
    journal::{
        Eraser, Journal as _, JournalReader,
        segments::{Layout, SegmentJournal},
    },
    machine::{self, query},
    observe::{Metrics, Readiness},
    state::{
        self, State, Taken,
        memory::{MemorySnapshots, MemoryState},
        read_once,
    },
    vault::Vault,
    verify::Points,
};
use axis_proto::{key::SigningKey, note::CheckpointSigner, record::v1::LogOpened};
use tokio_util::sync::CancellationToken;

/// The hub's name.
pub const HUB_ID: &str = "truc";
/// Its log.
pub const ORIGIN: &str = "truc/log1";
/// Where its data is, on the simulated disk.
pub const DATA: &str = "/hub/data";

/// Where the derived state is kept.
#[derive(Debug, Clone)]
pub enum Keep {
    /// In memory, with snapshots on the simulated disk.
    Memory,
    /// In real sled in this real directory, with snapshots on the simulated
    /// disk.
    Sled(PathBuf),
}

/// How one life begins.
pub struct Beginning<'a> {
    /// The disk.
    pub disk: &'a MemoryDisk,
    /// How the journal is laid out.
    pub layout: Layout,
    /// Where the state is kept.
    pub keep: Keep,
    /// The wall clock.
    pub now_ms: u64,
    /// What salts follow from.
    pub seed: u64,
}

/// A hub that runs.
pub struct Hub {
    pub state: Arc<dyn State>,
    kept: Kept,
    pub committer: Committer,
    /// Room for new documents.
    pub room: DiskRoom,
    pub evidence: Evidence,
    pub journal: Arc<dyn JournalReader>,
    pub eraser: Eraser,
    pub vault: Vault,
    pub deliver: Deliver,
    pub clock: Clock,
    pub points: Points,
    stopping: CancellationToken,
    stepper: RefCell<Option<Stepper>>,
    /// How many records there were when its process ended.
    ended: Cell<Option<u64>>,
}

enum Kept {
    Memory(Arc<MemoryState>, MemorySnapshots),
    Sled(Arc<state::SledState>),
}

fn signer() -> CheckpointSigner {
    CheckpointSigner::new(ORIGIN, SigningKey::from_seed(&[9; 32])).expect("an origin")
}

/// Verifies what the hub signs.
pub fn verifier() -> axis_proto::note::CheckpointVerifier {
    signer().verifier()
}

/// A source of salts that follow from a seed.
fn salts(seed: u64) -> commit::Random {
    let mut random = fastrand::Rng::with_seed(seed);
    Box::new(move |buffer| random.fill(buffer))
}

/// Makes the log, with its first record.
pub fn create(beginning: &Beginning<'_>) {
    let disk: Arc<dyn Disk> = Arc::new(beginning.disk.clone());
    let data = Path::new(DATA);
    let layout = beginning.layout;
    let mut journal =
        SegmentJournal::create_with(disk.clone(), &data.join("journal"), ORIGIN, layout).expect("a journal");
    let mut tree = Tree::open(disk, &data.join("tree"), &*journal.reader()).expect("a tree");
    let opened = LogOpened { hub_id: HUB_ID.into(), origin: ORIGIN.into(), ..LogOpened::default() };
    let clock = Clock::manual(beginning.now_ms);
    let mut random = salts(beginning.seed);
    commit::create_log_with(&mut journal, &mut tree, &signer(), &clock, opened, &mut *random).expect("a log");
}

impl Hub {
    /// Opens the stores in the order in which the hub opens them, and starts
    /// the parts.
    pub fn open(beginning: &Beginning<'_>) -> Result<Self, String> {
        let (disk, data): (Arc<dyn Disk>, _) = (Arc::new(beginning.disk.clone()), Path::new(DATA));
        let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let journal = SegmentJournal::open_with(disk.clone(), &data.join("journal"), beginning.layout)
            .map_err(|error| format!("the journal: {error}"))?;
        let last = journal.last_commit().ok_or("the journal is empty")?;
        signer().verifier().verify(&last.checkpoint).map_err(|error| format!("the last commit: {error}"))?;
        let (reader, eraser): (Arc<dyn JournalReader>, _) = (journal.reader(), journal.eraser());
        let tree = Tree::open(disk.clone(), &data.join("tree"), &*reader).map_err(said("the tree"))?;
        let (state, kept) = open_state(beginning, &disk, &*reader).map_err(said("the state"))?;
        let vault = Vault::open(disk.clone(), &data.join("vault")).map_err(said("the vault"))?;
        let readiness = Readiness::new();

        let clock = Clock::manual(beginning.now_ms);
        clock.compare_with_last_record(read_once(&*state, query::meta).last_recorded_unix_ms);
        let evidence = Evidence::new(reader.clone(), tree.reader());
        let parts = Parts {
            journal: Box::new(journal),
            tree,
            signer: signer(),
            state: state.clone(),
            clock: clock.clone(),
            metrics: Metrics::new(),
            readiness: readiness.clone(),
        };
        let (committer, stepper) = commit::stepped(parts, salts(beginning.seed));
        let room = DiskRoom::new(disk, data, || 0, readiness);
        let committer = committer.minding(room.clone());
        let wakes = Wakes::start(committer.watch(), reader.clone());
        let stopping = CancellationToken::new();
        let deliver = Deliver::new(state.clone(), committer.clone(), clock.clone(), wakes, stopping.clone());
        Ok(Self {
            state,
            kept,
            committer,
            room,
            evidence,
            journal: reader,
            eraser,
            vault,
            deliver,
            clock,
            points: Points::default(),
            stopping,
            stepper: RefCell::new(Some(stepper)),
            ended: Cell::new(None),
        })
    }

    /// One step of the writer. After an error the life must end.
    pub fn step(&self) -> Result<bool, CommitError> {
        let mut stepper = self.stepper.borrow_mut();
        let Some(writer) = stepper.as_mut() else { return Ok(false) };
        let stepped = writer.step();
        if stepped.is_err() {
            self.ended.set(Some(self.journal.size()));
        }
        stepped
    }

    /// The process ends: nothing more is answered.
    pub fn end(&self) {
        if self.ended.get().is_none() {
            self.ended.set(Some(self.journal.size()));
        }
        self.stopping.cancel();
        self.stepper.borrow_mut().take();
        if let Kept::Sled(state) = &self.kept {
            state.stop();
        }
    }

    /// Whether its process has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Writes a snapshot; `None` if the state takes its own.
    pub fn snapshot(&self) -> Option<io::Result<Taken>> {
        match &self.kept {
            Kept::Memory(state, snapshots) => Some(snapshots.take(state)),
            Kept::Sled(_) => None,
        }
    }
}

fn open_state(
    beginning: &Beginning<'_>,
    disk: &Arc<dyn Disk>,
    journal: &dyn JournalReader,
) -> io::Result<(Arc<dyn State>, Kept)> {
    let data = Path::new(DATA);
    match &beginning.keep {
        Keep::Memory => {
            let dir = data.join("snapshots");
            let snapshots = MemorySnapshots::new(disk.clone(), &dir, ORIGIN, machine::LAYOUT_VERSION);
            let state = Arc::new(snapshots.open(journal, &commit::Replay)?);
            Ok((state.clone(), Kept::Memory(state, snapshots)))
        }
        Keep::Sled(dir) => {
            let mut options = state::Options::new(data, disk.clone(), ORIGIN, machine::LAYOUT_VERSION);
            options.dir.clone_from(dir);
            options.snapshot_records = 60;
            let state = Arc::new(state::open(options, journal, &commit::Replay)?);
            Ok((state.clone(), Kept::Sled(state)))
        }
    }
}
