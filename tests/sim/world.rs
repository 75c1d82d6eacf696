//! One world from one seed: systems, network, time and disk around a hub that
//! is taken down again and again. One thread, and no chance but the seed's.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use axis_hub::{
    commit::CommitError,
    disk::{Disk as _, MemoryDisk, memory::Synced},
    error::{Error, Result},
    journal::segments::Layout,
    limits,
    machine::{Command, query},
    state::read_once,
};
use axis_proto::{
    envelope::v1::SealedEnvelope,
    hub::v1::Delivery,
    id::{DeliveryId, Digest, Hasher},
    seal,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::{
    task::{LocalSet, spawn_local, yield_now},
    time::sleep,
};

use crate::{
    agency::{self, Mood},
    calls::Call,
    house,
    hub::{self, Beginning, DATA, Hub, Keep},
    promise::{Promises, Watch},
};

/// When the worlds begin: 2026-09-21.
const START_MS: u64 = 1_790_000_000_000;
/// Steps in which everything must settle once nothing fails any more.
const CALM_STEPS_MAX: usize = 3_000;

/// What a world is like.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// How often the power goes, before everything must settle.
    pub cuts: u32,
    /// Steps of one life at most, of about 6 ms each.
    pub steps_max: usize,
    /// Operations of the disk after which the power goes, at most.
    pub operations_max: usize,
    /// Whether the state is in real sled. Its threads are its own: then a seed
    /// does not give the same bytes again.
    pub sled: bool,
    /// Of 1 000 messages, how many are lost, come twice, come late.
    pub lost: usize,
    pub twice: usize,
    pub late: usize,
    /// Of 1 000 steps, how many step the clock.
    pub clock_steps: usize,
    /// Letters that are under way at once.
    pub posting_max: usize,
    /// Of 1 000 steps, in how many an envelope is purged.
    pub purges: usize,
    /// Of 1 000 steps, in how many an agency goes to another system; in every
    /// other world none does.
    pub moves: usize,
    /// A sync that is left out: then promises must break.
    pub left_out: Option<(Synced, &'static str)>,
}

/// What came of a world.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub worlds: u32,
    pub cuts: u32,
    pub recovery_cuts: u32,
    pub restarts: u32,
    pub records: u64,
    pub receipts: u64,
    pub deliveries: u64,
    /// Records whose content left the journal.
    pub erased: u64,
    /// SHA-256 over the journal's files.
    pub journal: [u8; 32],
}

pub struct World {
    profile: Profile,
    random: RefCell<fastrand::Rng>,
    /// For what agencies do alone: a world without it takes its course as ever.
    moves: RefCell<fastrand::Rng>,
    moving: bool,
    disk: MemoryDisk,
    layout: Layout,
    hub: RefCell<Option<Rc<Hub>>>,
    promises: RefCell<Promises>,
    /// Documents of what was sent, by envelope digest.
    letters: RefCell<BTreeMap<Digest, Vec<Bytes>>>,
    accepted: RefCell<BTreeMap<Digest, u64>>,
    settled: RefCell<BTreeSet<String>>,
    /// Envelopes that operators want erased, by digest.
    purged: RefCell<BTreeSet<Digest>>,
    /// Those that both operators were told will be, by sequence.
    withdrawn: RefCell<BTreeSet<u64>>,
    posting: Cell<usize>,
    calm: Cell<bool>,
    faulty: Cell<bool>,
    /// Somebody saw that a promise was broken, and has said which.
    broken: Cell<bool>,
    /// The true time.
    wall_ms: Cell<u64>,
    outcome: RefCell<Outcome>,
    /// Where sled's directories are, one for each life.
    sled: Option<tempfile::TempDir>,
    life: Cell<u32>,
}

/// How one life is to end.
#[derive(Debug, Clone, Copy)]
enum Doom {
    /// The power goes at this operation of the disk.
    Operation(u64),
    /// The power goes at this step.
    Power(usize),
    /// The process is killed at this step.
    Kill(usize),
    /// One call of the disk in so many fails.
    Faults(u32),
    /// From this step on there is no more room.
    Full(usize),
}

/// Runs one world to its end.
///
/// # Panics
/// If a promise was broken.
pub fn run(seed: u64, profile: Profile) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    let world = World::new(seed, profile);
    let outcome = local.block_on(&runtime, world.clone().live_and_die());
    drop(local);
    outcome
}

impl World {
    fn new(seed: u64, profile: Profile) -> Rc<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let layout = Layout {
            segment_bytes: [48, 64, 96][random.usize(..3)] * 1024,
            ahead_bytes: [512, 4096, 20_000][random.usize(..3)],
            mark_seed: Some(random.u64(..)),
        };
        Rc::new(Self {
            profile,
            random: RefCell::new(random),
            moves: RefCell::new(fastrand::Rng::with_seed(!seed)),
            moving: seed.is_multiple_of(2),
            disk: MemoryDisk::default(),
            layout,
            hub: RefCell::default(),
            promises: RefCell::default(),
            letters: RefCell::default(),
            accepted: RefCell::default(),
            settled: RefCell::default(),
            purged: RefCell::default(),
            withdrawn: RefCell::default(),
            posting: Cell::default(),
            calm: Cell::default(),
            faulty: Cell::default(),
            broken: Cell::default(),
            wall_ms: Cell::new(START_MS),
            outcome: RefCell::default(),
            sled: profile.sled.then(|| tempfile::tempdir().expect("a directory")),
            life: Cell::default(),
        })
    }

    // what systems and calls ask of the world

    pub fn hub(&self) -> Option<Rc<Hub>> {
        self.hub.borrow().clone().filter(|hub| !hub.has_ended())
    }

    pub fn promises(&self) -> RefMut<'_, Promises> {
        self.promises.borrow_mut()
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    pub fn random(&self, below: usize) -> usize {
        self.random.borrow_mut().usize(..below)
    }

    pub fn number(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    pub fn chance(&self, one_in: usize) -> bool {
        self.random(one_in) == 0
    }

    pub fn wall_ms(&self) -> u64 {
        self.wall_ms.get()
    }

    pub fn is_calm(&self) -> bool {
        self.calm.get()
    }

    pub fn disk_is_good(&self) -> bool {
        !self.faulty.get() && !self.disk.is_dead()
    }

    pub fn mood(&self) -> Mood {
        [Mood::Willing, Mood::Willing, Mood::Slow, Mood::Silent, Mood::Fussy][self.random(5)]
    }

    pub fn posting(&self) -> usize {
        self.posting.get()
    }

    pub fn posted(&self, sealed: &SealedEnvelope, documents: &[Bytes]) {
        self.posting.set(self.posting.get() + 1);
        self.letters.borrow_mut().insert(digest_of(sealed), documents.to_vec());
    }

    /// A letter was answered; `None` if it came too late to be accepted.
    pub fn accepted(&self, sealed: &SealedEnvelope, sequence: Option<u64>) {
        self.posting.set(self.posting.get() - 1);
        let Some(sequence) = sequence else { return };
        let before = self.accepted.borrow_mut().insert(digest_of(sealed), sequence);
        assert!(before.is_none_or(|before| before == sequence), "one envelope was accepted twice");
    }

    /// The documents of an envelope that was delivered.
    pub fn sent(&self, sealed: &SealedEnvelope) -> Vec<Bytes> {
        let letters = self.letters.borrow();
        letters.get(&digest_of(sealed)).expect("nobody sent what was delivered").clone()
    }

    /// Whether the content of an envelope may be gone.
    pub fn is_purged(&self, sealed: &SealedEnvelope) -> bool {
        self.purged.borrow().contains(&digest_of(sealed))
    }

    /// Both operators were told that an envelope is purged.
    pub fn withdrawn(&self, sequence: u64) {
        self.withdrawn.borrow_mut().insert(sequence);
    }

    /// Content of an envelope leaves the hub.
    pub fn given(&self, sequence: u64) {
        let withdrawn = self.withdrawn.borrow().contains(&sequence);
        assert!(!withdrawn, "envelope {sequence} is purged, and yet somebody is given it");
    }

    /// A delivery's settlement was answered.
    pub fn settled(&self, id: String) {
        self.settled.borrow_mut().insert(id);
    }

    /// A delivery leaves the hub.
    pub fn handed_over(&self, delivery: &Delivery) {
        self.given(delivery.accepted_sequence);
        self.outcome.borrow_mut().deliveries += 1;
        let settled = self.settled.borrow().contains(&delivery.delivery_id);
        assert!(!settled, "{} was settled and is delivered again", delivery.delivery_id);
    }

    /// Carries a call over the network: lost on the way there or back, late,
    /// or made twice.
    pub async fn send<T: 'static, F: Future<Output = Result<T>> + 'static>(
        self: &Rc<Self>,
        call: impl Fn() -> F,
    ) -> Result<T> {
        let lost = || Error::fault("lost on the way");
        let happens = |of_1000: usize| !self.is_calm() && self.random(1_000) < of_1000;
        if happens(self.profile.late) {
            sleep(Duration::from_millis(self.random(400) as u64)).await;
        }
        if happens(self.profile.lost) {
            sleep(Duration::from_millis(20)).await;
            return Err(lost());
        }
        if happens(self.profile.twice) {
            let (again, delay) = (call(), self.random(300) as u64);
            self.spawn(async move {
                sleep(Duration::from_millis(delay)).await;
                let _nobody_waits = again.await;
            });
        }
        let answer = call().await;
        if happens(self.profile.late) {
            sleep(Duration::from_millis(self.random(400) as u64)).await;
        }
        if happens(self.profile.lost) { Err(lost()) } else { answer }
    }

    /// Does something beside the rest. What breaks there breaks the world.
    pub fn spawn(self: &Rc<Self>, what: impl Future<Output = ()> + 'static) {
        let world = self.clone();
        spawn_local(async move {
            if AssertUnwindSafe(what).catch_unwind().await.is_err() {
                world.broken.set(true);
            }
        });
    }

    // the course of the world

    async fn live_and_die(self: Rc<Self>) -> Outcome {
        hub::create(&self.beginning());
        if let Some((what, containing)) = self.profile.left_out {
            self.disk.leave_out(what, containing);
        }
        for place in 0..agency::SYSTEMS.len() {
            self.spawn(agency::send(self.clone(), place));
            self.spawn(agency::receive(self.clone(), place));
        }
        let mut first = true;
        while self.outcome.borrow().cuts < self.profile.cuts {
            let mut watch = self.begin(!first);
            if first {
                self.enrol(&mut watch).await;
                first = false;
            }
            let doom = self.doom();
            self.live(doom, &mut watch).await;
            self.die(doom, &watch).await;
        }
        self.settle().await;
        self.outcome.take()
    }

    fn beginning(&self) -> Beginning<'_> {
        let keep = match &self.sled {
            None => Keep::Memory,
            Some(dir) => Keep::Sled(dir.path().join(format!("life-{}", self.life.get()))),
        };
        let (layout, seed) = (self.layout, self.number());
        Beginning { disk: &self.disk, layout, keep, now_ms: self.wall_ms(), seed }
    }

    /// Opens the hub, however often the power goes meanwhile, and looks at
    /// everything that it had promised.
    fn begin(&self, may_fail: bool) -> Watch {
        loop {
            self.life.set(self.life.get() + 1);
            self.prepare_sled();
            let mut failing = false;
            if may_fail && self.chance(4) {
                failing = true;
                if self.chance(2) {
                    self.disk.fail_after(self.random(30) as u64);
                } else {
                    self.disk.fail_one_in(10 + self.random(60) as u32, self.number());
                    self.promises().no_parts();
                    self.promises().no_snapshot();
                }
            }
            match Hub::open(&self.beginning()) {
                Ok(hub) => {
                    self.disk.fail_after(u64::MAX);
                    self.disk.fail_one_in(0, 0);
                    // it was away, perhaps past deadlines, and has not looked at
                    // its timers yet: that all are settled is asked at the end
                    let watch = self.promises().check(&hub, &self.disk, 0);
                    *self.hub.borrow_mut() = Some(Rc::new(hub));
                    return watch;
                }
                Err(_) if failing => self.outcome.borrow_mut().recovery_cuts += u32::from(self.go_down(3)),
                Err(error) => panic!("the hub did not open: {error}"),
            }
        }
    }

    /// The power goes, or once in so many the process only; says which.
    fn go_down(&self, kills_one_in: usize) -> bool {
        let power = !self.chance(kills_one_in);
        let mut random = self.random.borrow_mut();
        let random = |below: usize| random.usize(..below);
        if power {
            self.disk.crash(random);
        } else {
            self.disk.restart(random);
        }
        self.disk.set_capacity_bytes(None);
        self.disk.set_free_bytes(1 << 40);
        power
    }

    async fn enrol(self: &Rc<Self>, watch: &mut Watch) {
        let hub = self.hub().expect("a hub");
        for command in agency::directory() {
            let call = Call::command(self, command);
            let step = async {
                loop {
                    hub.step().expect("a disk that works");
                    yield_now().await;
                }
            };
            tokio::select! {
                biased;
                done = call => done.expect("done"),
                () = step => {}
            }
        }
        watch.follow(&hub);
    }

    fn doom(&self) -> Doom {
        match self.random(20) {
            0..=12 => Doom::Operation(1 + self.random(self.profile.operations_max) as u64),
            13 | 14 => Doom::Power(self.random(self.profile.steps_max)),
            15 => Doom::Kill(self.random(self.profile.steps_max)),
            16..=18 => Doom::Faults(20 + self.random(300) as u32),
            _ => Doom::Full(self.random(40)),
        }
    }

    /// One life, until its doom.
    async fn live(self: &Rc<Self>, doom: Doom, watch: &mut Watch) {
        let hub = self.hub().expect("a hub");
        match doom {
            Doom::Operation(count) => self.disk.fail_after(count),
            Doom::Faults(one_in) => {
                self.disk.fail_one_in(one_in, self.number());
                self.faulty.set(true);
            }
            _ => {}
        }
        let (mut full_until, mut clock_until) = (None, None);
        for step in 0..self.profile.steps_max {
            self.pass(1 + self.random(12) as u64, &hub).await;
            match doom {
                Doom::Power(at) | Doom::Kill(at) if step >= at => return,
                Doom::Full(at) if step == at => {
                    let room = self.random(3_000) as u64;
                    self.disk.set_capacity_bytes(Some(self.disk.used_bytes() + room));
                    self.faulty.set(true);
                }
                _ => {}
            }
            self.weather(step, &hub, &mut full_until, &mut clock_until);
            for _ in 0..4 {
                match hub.step() {
                    Ok(true) => {
                        watch.follow(&hub);
                        yield_now().await;
                    }
                    Ok(false) => break,
                    // what is not durable is nobody's: the process ends at once
                    Err(error) => {
                        // but what was, before the roll behind it failed
                        if matches!(error, CommitError::Journal { records: 0, .. }) {
                            watch.follow(&hub);
                        }
                        assert_eq!(hub.evidence.size(), watch.seen(), "shown, although it failed");
                        return;
                    }
                }
            }
            if self.disk.is_dead() {
                return;
            }
        }
    }

    /// Time passes, for everybody.
    async fn pass(&self, by_ms: u64, hub: &Hub) {
        sleep(Duration::from_millis(by_ms)).await;
        self.wall_ms.set(self.wall_ms() + by_ms);
        hub.clock.advance(by_ms);
        assert!(!self.broken.get(), "broken");
    }

    /// What else happens: time leaps, the clock is set wrongly and put right,
    /// the disk is nearly full for a while, snapshots, operators.
    fn weather(
        self: &Rc<Self>,
        step: usize,
        hub: &Rc<Hub>,
        full_until: &mut Option<usize>,
        clock_until: &mut Option<usize>,
    ) {
        if hub.clock.is_trusted() && self.chance(40) {
            let by_ms = [2_000, 40_000, 400_000, 1_500_000][self.random(4)] as u64;
            let by_ms = by_ms + self.random(10_000) as u64;
            self.wall_ms.set(self.wall_ms() + by_ms);
            hub.clock.advance(by_ms);
        }
        let wrong = clock_until.is_none() && !hub.clock.is_trusted();
        if clock_until.is_some_and(|until| step >= until) || (wrong && self.chance(8)) {
            *clock_until = None;
            hub.clock.jump_to(self.wall_ms());
            hub.clock.confirm();
            self.operate(Command::ConfirmClock { operator: "op".into() });
        } else if clock_until.is_none() && self.random(1_000) < self.profile.clock_steps {
            let now_ms = self.wall_ms();
            hub.clock.jump_to(if self.chance(2) {
                // a lease that was given then lasts as much longer; fsck allows an hour
                now_ms + [3_000, 50_000, 90_000, 1_500_000][self.random(4)]
            } else {
                now_ms - [3_000, 50_000, 90_000, 40 * 86_400_000][self.random(4)]
            });
            *clock_until = Some(step + self.random(40));
        }
        if full_until.is_some_and(|until| step >= until) {
            *full_until = None;
            self.disk.set_free_bytes(1 << 40);
            hub.room.look();
        } else if full_until.is_none() && self.chance(150) {
            // the last documents may find no room, all else does
            self.disk.set_free_bytes(limits::DISK_LOW_BYTES + self.random(4_000) as u64);
            hub.room.look();
            *full_until = Some(step + self.random(30));
        }
        if self.chance(40) {
            self.snapshot(hub);
        }
        if self.chance(20) {
            self.requeue(hub);
        }
        if self.random(1_000) < self.profile.purges {
            self.purge();
        }
        if self.moving && self.moves.borrow_mut().usize(..1_000) < self.profile.moves {
            let to = self.moves.borrow_mut().usize(..agency::SYSTEMS.len());
            self.operate(agency::moves_to(to));
        }
        if self.chance(60) {
            self.spawn(house::roll(self.clone()));
        }
        if self.chance(10) {
            self.write_anew(hub);
        }
    }

    /// Operators purge one of the envelopes.
    fn purge(self: &Rc<Self>) {
        let chosen = {
            let accepted = self.accepted.borrow();
            if accepted.is_empty() {
                return;
            }
            let (digest, sequence) = accepted.iter().nth(self.random(accepted.len())).expect("one of them");
            (*digest, *sequence)
        };
        if self.purged.borrow_mut().insert(chosen.0) {
            self.spawn(house::purge(self.clone(), chosen.1));
        }
    }

    /// A segment is written anew without what was erased.
    fn write_anew(&self, hub: &Hub) {
        let segments: Vec<_> = hub.eraser.segments().into_iter().filter(|place| !place.is_last).collect();
        if !segments.is_empty() {
            let chosen = segments[self.random(segments.len())];
            let gone = house::write_anew(hub, chosen.first_sequence);
            self.promises().erased(gone);
        }
    }

    fn snapshot(self: &Rc<Self>, hub: &Rc<Hub>) {
        let Some(Ok(taken)) = hub.snapshot() else { return };
        self.promises().snapshot(taken);
        self.operate(Command::SnapshotTaken {
            applied_sequence: taken.applied.saturating_sub(1),
            sha256: Digest::new(taken.sha256),
            key_count: taken.key_count,
        });
    }

    /// Operators put back what was parked, or return it.
    fn requeue(self: &Rc<Self>, hub: &Hub) {
        let parked = read_once(&*hub.state, |read| query::parked(read, None, None, 3));
        for tracked in parked {
            let delivery: DeliveryId = tracked.id;
            let (operator, remark) = ("op".to_owned(), String::new());
            self.operate(if self.chance(4) {
                Command::Return { delivery, operator, remark }
            } else {
                Command::Requeue { delivery, operator, remark }
            });
        }
    }

    fn operate(self: &Rc<Self>, command: Command) {
        let world = self.clone();
        self.spawn(async move {
            let _asked_again_later = Call::command(&world, command).await;
        });
    }

    /// The end of a life.
    async fn die(&self, doom: Doom, watch: &Watch) {
        let hub = self.hub.borrow_mut().take().expect("a hub");
        watch.compare(&hub);
        hub.end();
        drop(hub);
        // those who waited hear that the connection is gone
        for _ in 0..8 {
            yield_now().await;
        }
        let disk_failed = self.faulty.replace(false);
        let power = match doom {
            Doom::Operation(_) | Doom::Power(_) => self.go_down(usize::MAX),
            Doom::Kill(_) => self.go_down(1),
            Doom::Faults(_) | Doom::Full(_) => self.go_down(2),
        };
        if disk_failed {
            // an upload whose disk failed begins again
            self.promises().no_parts();
        }
        let mut outcome = self.outcome.borrow_mut();
        outcome.cuts += u32::from(power);
        outcome.restarts += u32::from(!power);
    }

    /// Nothing fails any more: all that was sent is accepted, and all that was
    /// accepted is settled for everybody.
    async fn settle(self: &Rc<Self>) {
        let mut watch = self.begin(false);
        self.calm.set(true);
        let hub = self.hub().expect("a hub");
        hub.clock.confirm();
        for step in 0.. {
            assert!(step < CALM_STEPS_MAX, "not settled: {}", self.open(&hub));
            self.pass(20, &hub).await;
            if step % 4 == 3 {
                self.wall_ms.set(self.wall_ms() + 300_000);
                hub.clock.advance(300_000);
                self.requeue(&hub);
            }
            while hub.step().expect("a disk that works") {
                watch.follow(&hub);
                yield_now().await;
            }
            if step > 20 && self.posting() == 0 && self.open(&hub).is_empty() {
                break;
            }
        }
        let watch = self.promises().check(&hub, &self.disk, self.wall_ms());
        assert_eq!(watch.unsettled(), 0);
        hub.end();
        let mut outcome = self.outcome.borrow_mut();
        outcome.records = watch.seen();
        outcome.receipts = self.promises().count();
        outcome.erased = self.promises().erased_count();
        outcome.journal = self.journal_sha256();
    }

    /// What is not settled yet.
    fn open(&self, hub: &Hub) -> String {
        let accepted = self.accepted.borrow();
        read_once(&*hub.state, |read| {
            let rows = accepted.values().filter_map(|sequence| {
                let row = query::envelope(read, *sequence).expect("an accepted envelope");
                (row.settled_count < row.recipient_count)
                    .then(|| format!("{sequence}: {} of {} ", row.settled_count, row.recipient_count))
            });
            rows.collect()
        })
    }

    fn journal_sha256(&self) -> [u8; 32] {
        let dir = Path::new(DATA).join("journal");
        let mut hasher = Hasher::new();
        for name in self.disk.list(&dir).expect("a directory") {
            hasher.update(name.as_bytes());
            hasher.update(&self.disk.read(&dir.join(name)).expect("a segment"));
        }
        *hasher.digest().as_bytes()
    }

    /// sled does its own I/O: at each cut its directory is as it was, an older
    /// copy, damaged, or not there.
    fn prepare_sled(&self) {
        let Some(root) = &self.sled else { return };
        let life = self.life.get();
        let dir = |life: u32| root.path().join(format!("life-{life}"));
        let (last, now) = (dir(life - 1), dir(life));
        let older = dir(life.saturating_sub(2 + self.random(3) as u32));
        match self.random(8) {
            0..=2 if last.exists() => copy(&last, &now),
            3 | 4 if older.exists() => copy(&older, &now),
            5 | 6 if last.exists() => {
                copy(&last, &now);
                self.damage(&now);
            }
            _ => {}
        }
        if life > 6 {
            let _ = fs::remove_dir_all(dir(life - 6));
        }
    }

    fn damage(&self, dir: &Path) {
        for file in files(dir) {
            let Ok(mut bytes) = fs::read(&file) else { continue };
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if used == 0 {
                continue;
            }
            for _ in 0..1 + self.random(4) {
                bytes[self.random(used)] ^= 1 + self.random(255) as u8;
            }
            if self.chance(4) {
                bytes.truncate(self.random(used));
            }
            fs::write(&file, bytes).expect("a file");
        }
    }
}

fn digest_of(sealed: &SealedEnvelope) -> Digest {
    seal::digest(&sealed.payload_type, &sealed.payload)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a directory");
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below it"));
        fs::create_dir_all(target.parent().expect("a directory")).expect("a directory");
        fs::copy(file, target).expect("a copy");
    }
}
