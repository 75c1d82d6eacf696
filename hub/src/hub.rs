//! One running hub: its stores, its writer, its listeners and the tasks
//! around them, in the order in which they need each other. Decides nothing.
//!
//! ```text
//! lock ▶ listeners bound ▶ journal ▶ tree ▶ state ▶ writer ▶ listeners served
//! stop: nothing new ▶ what is under way, until the deadline ▶ writer ▶ state
//!       ▶ the operators' page ▶ lock
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axis_proto::{hub::v1::LogSuccession, note::CheckpointSigner};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    commit::{self, WriterHandle},
    config::Config,
    deliver::{Deliver, Wakes},
    disk::{self, DirLock, Disk, RealDisk},
    disk_room::DiskRoom,
    evidence::{self, Evidence, Tree},
    formats,
    gate::Gate,
    identity::Identity,
    journal::{self, Journal, JournalReader, Log, segments::SegmentJournal},
    limits,
    machine::{self, Command, query},
    observe::{self, LastBackup, Metrics, ObserveContext, Presence, Readiness},
    retention::{self, Retention},
    state::{self, SledState, read_once},
    vault::Vault,
    verify::Points,
    wire::{self, Addresses, Context, listener::Connections, quota::Quota, room::Room, work::Work},
};

/// The journal's directory in `data/`.
pub const JOURNAL: &str = "journal";
/// The tree's directory in `data/`.
pub const TREE: &str = "tree";
/// The vault's directory in `data/`.
pub const VAULT: &str = "vault";

/// A running hub.
pub struct Hub {
    ctx: Arc<Context>,
    state: Arc<SledState>,
    writer: WriterHandle,
    servers: Vec<(&'static str, JoinHandle<()>)>,
    tasks: Vec<JoinHandle<()>>,
    /// Cancelled at the very end: operators look on while the hub stops.
    stopped: CancellationToken,
    // in this order: who waits for the lock makes files of the same names
    files: [FileWhileRunning; 2],
    lock: DirLock,
}

/// A file that says that the hub runs; removed with it.
struct FileWhileRunning(PathBuf);

impl FileWhileRunning {
    fn remove(&self) {
        let _not_there = std::fs::remove_file(&self.0);
    }
}

impl Drop for FileWhileRunning {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct StartError {
    doing: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

type Result<T, E = StartError> = std::result::Result<T, E>;

/// Names what was being done when something failed.
fn doing<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> StartError {
    move |error| StartError { doing: what.into(), source: error.into() }
}

/// What is opened before anything is served.
struct Stores {
    journal: SegmentJournal,
    logs: Vec<Log>,
    tree: Tree,
    state: Arc<SledState>,
    vault: Vault,
    signer: CheckpointSigner,
    identity: Identity,
}

/// Sockets that are bound but not served yet.
struct Sockets {
    systems: TcpListener,
    enrolment: TcpListener,
    operators: TcpListener,
    admin: UnixListener,
    addresses: Addresses,
}

impl Hub {
    /// Starts the hub of a directory. On return it listens, and
    /// `addresses.toml` says where.
    pub async fn start(config: Config, clock: Clock) -> Result<Self> {
        Self::start_on(config, clock, RealDisk::shared()).await
    }

    /// As [`Self::start`], with everything but sled on another disk.
    async fn start_on(config: Config, clock: Clock, disk: Arc<dyn Disk>) -> Result<Self> {
        let data = config.data_dir();
        let lock = disk::lock(&data).map_err(doing(format!("lock {}", data.display())))?;
        // what a killed process left says nothing of this one
        let files = [FileWhileRunning(config.addresses_file()), FileWhileRunning(config.admin_socket())];
        files.iter().for_each(FileWhileRunning::remove);
        let sockets = bind(&config).await?;
        let (metrics, readiness, presence) = (Metrics::new(), Readiness::new(), Presence::default());
        let (opening, opening_on) = (config.clone(), disk.clone());
        let stores = tokio::task::spawn_blocking(move || open(&opening, opening_on));
        let Stores { journal, logs, tree, state, vault, signer, identity } =
            stores.await.map_err(doing("open the stores"))??;

        let last = read_once(&*state, query::meta);
        clock.compare_with_last_record(last.last_recorded_unix_ms);
        tracing::info!(records = journal.size(), hub_id = %config.hub_id, origin = last.origin, "stores opened");

        let (reader, eraser) = (journal.reader(), journal.eraser());
        let journal_reader = reader.clone();
        let evidence = Arc::new(Evidence::new(reader.clone(), tree.reader()));
        let log_verifier_key = signer.verifier_key();
        let log_successions =
            successions(&evidence, logs).map_err(doing("prove how the log was continued"))?;
        let (committer, writer) = commit::start(commit::Parts {
            journal: Box::new(journal),
            tree,
            signer,
            state: state.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
        });
        let snapshot_of = state.clone();
        let disk_room =
            DiskRoom::new(disk.clone(), &data, move || snapshot_of.lag().bytes, readiness.clone());
        let committer = committer.minding(disk_room.clone());
        let stopping = CancellationToken::new();
        let wakes = Wakes::start(committer.watch(), reader.clone());
        let deliver = Deliver::new(state.clone(), committer.clone(), clock.clone(), wakes, stopping.clone());
        let written = state.clone();
        let observe = ObserveContext {
            hub_id: config.hub_id.clone(),
            started_unix_ms: clock.now_ms(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            presence: presence.clone(),
            state: state.clone(),
            state_written: Arc::new(move || written.lag().applied),
            journal: reader,
            last_backup: LastBackup::load(RealDisk::shared(), &data),
            disk,
            data_dir: data,
            disk_room,
        };
        let (vault, gate) = (Arc::new(vault), Gate::default());
        let retention = Retention::new(retention::Parts {
            state: state.clone(),
            committer: committer.clone(),
            journal: journal_reader,
            eraser,
            vault: vault.clone(),
            gate: gate.clone(),
            clock: clock.clone(),
            feed_kept_ms: config.retention.feed_ms(),
        });
        let ctx = Arc::new(Context {
            retention,
            addresses: sockets.addresses.clone(),
            identity,
            log_verifier_key,
            log_successions,
            gate,
            observe,
            state: state.clone(),
            committer,
            evidence,
            vault,
            deliver,
            room: Room::default(),
            points: Points::default(),
            verifying: Work::of_cores().map_err(doing("start the threads that verify"))?,
            quota: Quota::new(config.quota, clock.clone()),
            clock,
            connections: Connections::default(),
            presence,
            metrics,
            readiness,
            stopping,
            config,
        });
        let mut hub = Self {
            ctx,
            state,
            writer,
            servers: Vec::new(),
            tasks: Vec::new(),
            stopped: CancellationToken::new(),
            files,
            lock,
        };
        // from here on an error must not leave threads and tasks behind
        match hub.serve(sockets) {
            Ok(()) => Ok(hub),
            Err(error) => {
                hub.stop().await;
                Err(error)
            }
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.ctx.addresses
    }

    /// What its services work with.
    pub fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Ends when nothing more can be committed, and says why: the process
    /// must stop then, and the next start finds out what the disk holds.
    pub async fn failed(&self) -> String {
        let mut committing = self.ctx.committer.watch_directory();
        while committing.changed().await.is_ok() {}
        self.ctx.readiness.health().because()
    }

    /// Stops: takes nothing new, finishes what is under way within
    /// [`limits::DRAIN_TIMEOUT`], writes and seals the stores within
    /// [`limits::STORES_STOP_TIMEOUT`], and names what was left. After a
    /// failure nothing can be finished: then it waits for nobody.
    pub async fn stop(mut self) -> Vec<String> {
        self.ctx.readiness.stopping();
        self.ctx.stopping.cancel();
        let mut left = self.drain().await;
        // a step of erasing works in the data directory: it ends first, and
        // none begins
        let has_failed = self.ctx.readiness.health().has_failed();
        let patience = if has_failed { CUT_TIMEOUT } else { limits::DRAIN_TIMEOUT };
        let held = timeout(patience, self.ctx.gate.hold()).await;
        if held.is_err() {
            left.push("a step of erasing".to_owned());
        }
        drop(self.files);
        let (writer, state, lock) = (self.writer, self.state, self.lock);
        let stores = tokio::task::spawn_blocking(move || {
            writer.stop();
            state.stop();
            // not before: nobody else may open stores that are written still
            (held, lock)
        });
        let stores = timeout(limits::STORES_STOP_TIMEOUT, stores).await;
        if stores.is_err() {
            left.push("the writer: the data disk does not answer".to_owned());
        }
        self.stopped.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
        let _aborted = timeout(CUT_TIMEOUT, async {
            for task in self.tasks.drain(..) {
                let _ended = task.await;
            }
        })
        .await;
        // not before: who may start next finds every port free
        drop(stores);
        for what in &left {
            tracing::warn!(what, "left when stopping");
        }
        tracing::info!(left = left.len(), "stopped");
        left
    }

    /// Waits for the servers, then cuts what still is connected.
    async fn drain(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        let mut late = Vec::new();
        let failed = self.ctx.readiness.health().has_failed();
        let mut deadline = pin!(sleep(if failed { Duration::ZERO } else { limits::DRAIN_TIMEOUT }));
        for (name, mut server) in self.servers.drain(..) {
            tokio::select! {
                biased;
                _ended = &mut server => {}
                () = &mut deadline => late.push((name, server)),
            }
        }
        for fingerprint in self.ctx.connections.fingerprints() {
            let system = self.ctx.read(|read| query::certificate(read, &fingerprint));
            let system = system.map_or_else(|| fingerprint.to_string(), |certificate| certificate.system);
            for address in self.ctx.connections.addresses_of(&fingerprint) {
                left.push(format!("a connection of {system} from {address}"));
            }
            self.ctx.connections.cut(&fingerprint);
        }
        let mut deadline = pin!(sleep(CUT_TIMEOUT));
        for (name, mut server) in late {
            tokio::select! {
                biased;
                _ended = &mut server => {}
                () = &mut deadline => {
                    left.push(format!("the listener for {name}"));
                    server.abort();
                }
            }
        }
        left
    }

    fn serve(&mut self, sockets: Sockets) -> Result<()> {
        let ctx = self.ctx.clone();
        let addresses = sockets.addresses;
        let servers = wire::serve(&ctx, sockets.systems, sockets.enrolment, sockets.admin)
            .map_err(doing("set up TLS"))?;
        self.servers.extend(servers);
        let operators = observe::serve(
            sockets.operators,
            ctx.observe.clone(),
            ctx.config.patience.operators_idle,
            self.stopped.clone(),
        );
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = operators.await {
                tracing::error!(%error, "the operators' page failed");
            }
        }));
        self.tasks.push(tokio::spawn(wire::access::cut_the_unwelcome(ctx.clone())));
        self.tasks.push(tokio::spawn(ctx.retention.clone().run(ctx.stopping.clone())));
        self.tasks.push(tokio::spawn(record_snapshots(ctx.clone(), self.state.clone())));

        let file = ctx.config.addresses_file();
        let text = format!(
            "# Where this hub listens; written when it starts, removed when it stops.\n\
             systems = \"{}\"\nenrolment = \"{}\"\noperators = \"{}\"\n",
            addresses.systems, addresses.enrolment, addresses.operators
        );
        disk::replace(&RealDisk, &file, text.as_bytes())
            .map_err(doing(format!("write {}", file.display())))?;
        tracing::info!(
            systems = %addresses.systems,
            enrolment = %addresses.enrolment,
            operators = %addresses.operators,
            "listening"
        );
        Ok(())
    }
}

/// Makes the tree and the state of a hub that is not running anew, from the
/// journal alone. Returns the number of records.
pub fn rebuild(config: &Config) -> Result<u64> {
    let data = config.data_dir();
    let _lock = disk::lock(&data).map_err(doing(format!("lock {}", data.display())))?;
    refuse_if_lost(config).map_err(doing("make anew what proves that the journal has lost records"))?;
    // Crash here, or after some of them: the next start makes what is missing.
    for derived in [TREE, "state", "snapshots"] {
        match std::fs::remove_dir_all(data.join(derived)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(doing(format!("remove {}", data.join(derived).display()))(error));
            }
            _ => {}
        }
    }
    let Stores { journal, state, .. } = open(config, RealDisk::shared())?;
    state.stop();
    Ok(journal.size())
}

/// An error if the tree or the state proves that the journal has lost records:
/// without that proof the hub would sign a second history under one name.
fn refuse_if_lost(config: &Config) -> io::Result<()> {
    let (data, disk) = (config.data_dir(), RealDisk::shared());
    let dir = data.join(JOURNAL);
    // settled: what is looked at here must not be lost after the proof is gone
    let journal = SegmentJournal::open(disk.clone(), &dir).map_err(io::Error::other)?;
    let logs = journal::logs(&*disk, &dir).map_err(io::Error::other)?;
    let lost = evidence::tree::ahead(&*disk, &data.join(TREE), journal.size());
    if let Some(lost) = lost.unwrap_or_default() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, lost));
    }
    let origin = logs.last().map(|log| log.opened.origin.as_str()).unwrap_or_default();
    match open_state(&data, disk, origin, &*journal.reader()) {
        Err(error) if error.get_ref().is_some_and(|inner| inner.is::<state::JournalLost>()) => Err(error),
        // whatever else is wrong with it is why it is made anew
        Err(_) => Ok(()),
        Ok(state) => {
            state.stop();
            Ok(())
        }
    }
}

/// How long connections that were cut may take to notice.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

async fn bind(config: &Config) -> Result<Sockets> {
    let listen = &config.listen;
    let tcp = async |address| TcpListener::bind(address).await.map_err(doing(format!("listen on {address}")));
    let (systems, enrolment, operators) =
        (tcp(listen.systems).await?, tcp(listen.enrolment).await?, tcp(listen.operators).await?);
    let path = config.admin_socket();
    let admin = admin_socket(config).map_err(doing(format!("listen on {}", path.display())))?;
    let bound = |listener: &TcpListener| listener.local_addr().map_err(doing("read the address"));
    let (at_systems, at_enrolment) = (bound(&systems)?, bound(&enrolment)?);
    let addresses = Addresses {
        systems: at_systems,
        enrolment: at_enrolment,
        operators: bound(&operators)?,
        public_systems: config.public.address(&config.public.systems, at_systems),
        public_enrolment: config.public.address(&config.public.enrolment, at_enrolment),
    };
    Ok(Sockets { systems, enrolment, operators, admin, addresses })
}

/// Made where nobody else can look, and moved into place once nobody else can
/// open it; takes the place of what a killed process left.
fn admin_socket(config: &Config) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let hidden = config.keys_dir().join(".sock");
    match std::fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, config.admin_socket())?;
    Ok(listener)
}

fn open(config: &Config, disk: Arc<dyn Disk>) -> Result<Stores> {
    let data = config.data_dir();
    // before anything of it is touched
    formats::check(&*disk, &data).map_err(doing(format!("use {}", data.display())))?;
    let identity = Identity::load(&config.keys_dir()).map_err(doing("read the keys"))?;
    let journal =
        SegmentJournal::open(disk.clone(), &data.join(JOURNAL)).map_err(doing("open the journal"))?;
    let logs =
        journal::logs(&*disk, &data.join(JOURNAL)).map_err(doing("read which logs the journal holds"))?;
    let signer = signer(&journal, &logs, &identity).map_err(doing("sign checkpoints"))?;
    formats::mark(&*disk, &data).map_err(doing(format!("write versions in {}", data.display())))?;
    let tree =
        Tree::open(disk.clone(), &data.join(TREE), &*journal.reader()).map_err(doing("open the tree"))?;
    let state = open_state(&data, disk.clone(), signer.origin(), &*journal.reader())
        .map_err(doing("open the state"))?;
    let meta = read_once(&state, query::meta);
    if meta.hub_id != config.hub_id.as_str() {
        let why = format!("the journal is of hub `{}`, hub.toml says `{}`", meta.hub_id, config.hub_id);
        return Err(doing("use this directory")(why));
    }
    let vault = Vault::open(disk, &data.join(VAULT)).map_err(doing("open the vault"))?;
    Ok(Stores { journal, logs, tree, state: Arc::new(state), vault, signer, identity })
}

/// The signer of the last log that the journal holds.
fn signer(journal: &SegmentJournal, logs: &[Log], identity: &Identity) -> io::Result<CheckpointSigner> {
    let Some(last) = journal.last_commit() else {
        return Err(io::Error::other("the journal is empty; `axis-hub init` makes a hub"));
    };
    let signer = evidence::logs::signer(logs, identity).map_err(io::Error::other)?;
    // another key under the same name would be another log to everyone
    signer
        .verifier()
        .verify(&last.checkpoint)
        .map_err(|error| io::Error::other(format!("keys/checkpoint.pem is not this log's key: {error}")))?;
    Ok(signer)
}

/// What clients are shown of each log that continues another one.
fn successions(evidence: &Evidence, logs: Vec<Log>) -> crate::error::Result<Vec<LogSuccession>> {
    let continued = logs.into_iter().filter(|log| log.first_sequence > 0);
    let shown = continued.map(|log| {
        let receipt = Some(evidence.receipt(log.first_sequence)?);
        Ok(LogSuccession { note: log.succession.unwrap_or_default(), receipt })
    });
    shown.collect()
}

/// Opens the state, derived from the journal wherever it is lost.
fn open_state(
    data: &Path,
    disk: Arc<dyn Disk>,
    origin: &str,
    journal: &dyn JournalReader,
) -> io::Result<SledState> {
    let options = state::Options::new(data, disk, origin, machine::LAYOUT_VERSION);
    state::open(options, journal, &commit::Replay)
}

/// Puts each snapshot's digest into the journal.
async fn record_snapshots(ctx: Arc<Context>, state: Arc<SledState>) {
    let mut snapshots = state.snapshots();
    drop(state);
    while snapshots.changed().await.is_ok() {
        let Some(taken) = *snapshots.borrow_and_update() else { continue };
        let command = Command::SnapshotTaken {
            applied_sequence: taken.applied.saturating_sub(1),
            sha256: axis_proto::id::Digest::new(taken.sha256),
            key_count: taken.key_count,
        };
        if let Err(error) = ctx.committer.commit(command).await {
            tracing::warn!(%error, "snapshot not recorded");
        }
    }
}

#[cfg(test)]
mod tests;
