//! What a call costs does not grow with what waits: counted, not timed. Keys
//! read and changed, records and syncs are the same beside ten deliveries and
//! beside a hundred thousand.

use std::{
    cell::Cell,
    io,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axis_hub::{
    commit,
    disk::{Disk, DiskFile, MemoryDisk, Space},
    evidence::Tree,
    journal::{Entry, Journal, SegmentJournal},
    limits,
    machine::{self, Batch, Command, Content, Context, Expanding, Signed, Submit, query},
    state::{Read, State, Value, Visit, memory::MemoryState, read_once},
};
use axis_proto::{
    envelope::v1::{Acknowledgement, DocumentBody, Envelope, Recipient, envelope::Body},
    id::{DeliveryId, Digest, EnvelopeId, SystemId},
    key::SigningKey,
    note::CheckpointSigner,
    record::v1::{
        Agency, AgencyState, Certificate, DirectoryEntry, Group, LogOpened, SigningKey as KeyEntry,
        directory_entry::Value as Changed,
    },
};
use bytes::Bytes;
use prost::Message as _;

const NOW: u64 = 1_790_000_000_000;
/// Agencies of the one who receives: as many as an envelope may name.
const AGENCIES: usize = 5_000;

#[test]
fn a_call_costs_the_same_however_much_waits() {
    let mut hub = House::new(AGENCIES);
    let first = hub.fill(10).costs();
    let costs: Vec<_> = [10, 1_000, 100_000].map(|waiting| hub.fill(waiting).costs()).into();
    for (place, cost) in costs.iter().enumerate().skip(1) {
        assert_eq!(*cost, costs[0], "queue {place}");
    }
    // an envelope's first delivery is in its row: one less to write when it is leased and acknowledged
    let changed = |costs: &[Cost]| costs.iter().map(|cost| cost.changed).collect::<Vec<_>>();
    let [submitted, leased, acknowledged, looked, own] = changed(&costs[0])[..] else { panic!("five") };
    assert_eq!(changed(&first), [submitted, leased - 1, acknowledged - 1, looked, own]);
    // what they are, so that a change of them is seen
    let syncs: Vec<u64> = costs[0].iter().map(|cost| cost.syncs).collect();
    assert_eq!(syncs, [1, 1, 1, 0, 0], "a batch is one sync; looking takes none");
    let records: Vec<usize> = costs[0].iter().map(|cost| cost.records).collect();
    assert_eq!(records, [1, 1, 1, 0, 0], "accepted, and seen at once; leased; acknowledged");
    for cost in &costs[0] {
        assert!(cost.got + cost.visited <= 60 && cost.changed <= 20, "{cost:?}");
    }
}

#[test]
fn a_broadcast_is_one_submission_in_small_batches_and_short_looks() {
    let mut hub = House::new(20_000);
    let mut submit = hub.submit(&[]);
    submit.envelope.groups.push("tat-ca".into());

    // the look-up: each hold of the state sees a part of the directory
    let (mut looks, mut most) = (0, 0);
    let mut expanding = Expanding::new(NOW);
    loop {
        let (done, cost) = hub.counted(|read| expanding.step(read, &submit, limits::EXPAND_PART_MAX));
        (looks, most) = (looks + 1, most.max(cost.got + cost.visited));
        if done {
            break;
        }
    }
    assert_eq!(looks, 20_001_usize.div_ceil(limits::EXPAND_PART_MAX));
    assert!(most <= limits::EXPAND_PART_MAX + 10, "{most} keys in one hold of the state");
    submit.ahead = Some(Box::new(expanding.ahead(vec![7; 32].into()).expect("all can be reached")));

    // deciding it looks at nothing of that again, and leaves most for later
    let cost =
        hub.commit(|batch| machine::decide(batch, &Command::Submit(Box::new(submit.clone()))).map(drop));
    assert_eq!((cost.records, cost.syncs), (2, 1));
    assert!(cost.got + cost.visited <= 10 * limits::CONSIGN_MAX, "{cost:?}");
    assert!(cost.changed <= 5 * limits::CONSIGN_MAX, "{cost:?}");
    let mut batches = 1;
    while let Some(sequence) = read_once(&hub.state, machine::pending_consignment) {
        let recipients = hub.list.clone().expect("kept with the record").into();
        let consign = Command::Consign { envelope_sequence: sequence, recipients };
        let cost = hub.commit(|batch| machine::decide(batch, &consign).map(drop));
        assert_eq!((cost.records, cost.syncs), (1, 1));
        assert!(cost.bytes <= 100 * limits::CONSIGN_MAX, "{cost:?}");
        assert!(cost.got + cost.visited <= 10 * limits::CONSIGN_MAX, "{cost:?}");
        assert!(cost.changed <= 5 * limits::CONSIGN_MAX, "{cost:?}");
        batches += 1;
    }
    assert_eq!(batches, 20_000_usize.div_ceil(limits::CONSIGN_MAX));
    assert_eq!(read_once(&hub.state, |read| query::mailbox(read, &hub.to)).waiting, 20_000);
}

#[test]
fn a_page_costs_the_same_however_much_is_listed() {
    const PAGE: usize = 10;
    let mut hub = House::new(1_000);
    let mut before: Option<Vec<Cost>> = None;
    for (waiting, parked) in [(100, 30), (20_000, 600)] {
        hub.fill(waiting).park(parked);
        let (to, from) = (hub.to.clone(), hub.from.clone());
        let wide = hub.list_sequence.expect("one was accepted");
        let first = read_once(&hub.state, |read| query::parked(read, None, None, 1)[0].id);
        let pages = [
            hub.counted(|read| query::parked(read, None, None, PAGE).len()),
            hub.counted(|read| query::parked(read, Some(&to), Some(first), PAGE).len()),
            hub.counted(|read| query::track(read, wide, 0, PAGE, None).0.len()),
            hub.counted(|read| query::track(read, wide, 0, PAGE, Some(&to)).0.len()),
            hub.counted(|read| query::ready(read, &to, NOW, &mut query::Turns::default(), PAGE).len()),
            hub.counted(|read| query::feed(read, &from, 0, PAGE).len()),
            hub.counted(|read| query::feed_before(read, &from, u64::MAX, PAGE).len()),
            hub.counted(|read| query::agencies(read, "", PAGE, "").0.len()),
            hub.counted(|read| query::changes(read, 0, PAGE).len()),
        ];
        for (page, (found, cost)) in pages.iter().enumerate() {
            assert_eq!(*found, PAGE, "page {page} is full");
            assert!(cost.got + cost.visited <= 5 * PAGE + 10, "page {page}: {cost:?}");
        }
        // what an operator sees of a mailbox: looks no further than this
        let (_, most) = hub.counted(|read| query::attempts_most(read, &to));
        assert!(most.got + most.visited <= 4_000, "{most:?}");
        let mut costs: Vec<_> = pages.map(|(_, cost)| cost).into();
        costs.push(hub.counted(|read| query::oldest_unix_ms(read, &to)).1);
        costs.push(hub.counted(|read| query::next_due_ms(read, &to)).1);
        costs.push(hub.counted(|read| query::mailbox(read, &to)).1);
        if let Some(before) = before.replace(costs.clone()) {
            assert_eq!(costs, before, "beside {waiting} that wait and {parked} that are parked");
        }
    }
}

#[test]
fn what_was_looked_up_counts_only_while_the_directory_is_the_same() {
    let mut hub = House::new(3);
    let mut submit = hub.submit(&[]);
    submit.envelope.groups.push("tat-ca".into());
    let mut expanding = Expanding::new(NOW);
    assert!(hub.counted(|read| expanding.step(read, &submit, 100)).0);
    submit.ahead = Some(Box::new(expanding.ahead(vec![7; 32].into()).expect("all can be reached")));
    let closed = Agency { state: AgencyState::Closed.into(), ..hub.agency(1) };
    hub.change(vec![Changed::Agency(closed)]);
    hub.commit(|batch| machine::decide(batch, &Command::Submit(Box::new(submit.clone()))).map(drop));
    assert_eq!(read_once(&hub.state, |read| query::mailbox(read, &hub.to)).waiting, 2);
}

/// What one step took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cost {
    /// Keys asked for.
    got: usize,
    /// Keys passed in scans.
    visited: usize,
    changed: usize,
    records: usize,
    /// Of the records, with cargo.
    bytes: usize,
    syncs: u64,
}

/// A hub without its doors: one who sends, one who receives for many agencies.
struct House {
    disk: Counting,
    journal: SegmentJournal,
    tree: Tree,
    signer: CheckpointSigner,
    state: MemoryState,
    from: SystemId,
    to: SystemId,
    agencies: usize,
    /// The recipients of what was accepted last.
    list: Option<axis_proto::record::v1::LeafList>,
    list_sequence: Option<u64>,
    waiting: u64,
    parked: u64,
}

impl House {
    fn new(agencies: usize) -> Self {
        let disk = Counting { disk: Arc::new(MemoryDisk::default()), syncs: Arc::default() };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let journal =
            SegmentJournal::create(shared.clone(), Path::new("/journal"), "truc.test/log").expect("made");
        let tree = Tree::open(shared, Path::new("/tree"), &*journal.reader()).expect("made");
        let signer = CheckpointSigner::new("truc.test/log", SigningKey::from_seed(&[1; 32])).expect("a name");
        let [from, to]: [SystemId; 2] = ["gui", "nhan"].map(|id| id.parse().expect("an id"));
        let state = MemoryState::new();
        let mut house = Self {
            disk,
            journal,
            tree,
            signer,
            state,
            from,
            to,
            agencies,
            list: None,
            list_sequence: None,
            waiting: 0,
            parked: 0,
        };
        let opened = LogOpened { hub_id: "truc.test".into(), ..LogOpened::default() };
        house.commit(|batch| batch.open_log(opened).map(drop));
        for system in [house.from.clone(), house.to.clone()] {
            house.enrol(&system);
        }
        let sender = Agency { code: "G01".into(), system: house.from.to_string(), ..house.agency(0) };
        let group =
            Group {
                group_id: "tat-ca".into(), name: "Tất cả".into(), everyone: true, ..Group::default()
            };
        house.change(vec![Changed::Agency(sender), Changed::Group(group)]);
        for first in (0..agencies).step_by(100) {
            let part = first..agencies.min(first + 100);
            house.change(part.map(|place| Changed::Agency(house.agency(place))).collect());
        }
        house
    }

    fn enrol(&mut self, system: &SystemId) {
        let token_sha256 = Digest::of(system.as_str().as_bytes());
        let add = Command::AddSystem {
            system: system.clone(),
            name: "Hệ thống".into(),
            agencies: Vec::new(),
            token_sha256,
            actor: "test".into(),
        };
        let certificate = Certificate {
            fingerprint: Bytes::copy_from_slice(Digest::of(system.as_str().as_bytes()).as_bytes()),
            valid_until_unix_ms: u64::MAX,
            ..Certificate::default()
        };
        let key = key_of(system).public();
        let signing_key =
            KeyEntry { key_id: Bytes::copy_from_slice(key.key_id().as_bytes()), ..KeyEntry::default() };
        self.commit(|batch| {
            machine::decide(batch, &add)?;
            machine::decide(batch, &Command::Enrol { token_sha256, certificate, signing_key }).map(drop)
        });
    }

    fn agency(&self, place: usize) -> Agency {
        Agency {
            code: format!("H{:02}.{:04}", place / 10_000, place % 10_000),
            name: format!("Cơ quan {place}"),
            state: AgencyState::Active.into(),
            system: self.to.to_string(),
            ..Agency::default()
        }
    }

    fn change(&mut self, values: Vec<Changed>) {
        let entries = values.into_iter().map(|value| DirectoryEntry { value: Some(value) }).collect();
        let change = Command::ChangeDirectory { entries, actor: "test".into(), remark: String::new() };
        self.commit(|batch| machine::decide(batch, &change).map(drop));
    }

    /// Counts what is read of one moment of the state.
    fn counted<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> (T, Cost) {
        read_once(&self.state, |moment| {
            let counted = Counted { read: moment, got: Cell::new(0), visited: Cell::new(0) };
            let found = read(&counted);
            (found, Cost { got: counted.got.get(), visited: counted.visited.get(), ..Cost::default() })
        })
    }

    /// One batch.
    fn commit(&mut self, decide: impl FnOnce(&mut Batch<'_>) -> axis_hub::error::Result<()>) -> Cost {
        self.commit_at(NOW, decide)
    }

    /// The same at another time.
    fn commit_at(
        &mut self,
        now_ms: u64,
        decide: impl FnOnce(&mut Batch<'_>) -> axis_hub::error::Result<()>,
    ) -> Cost {
        let size = self.journal.size();
        let ((entries, changes, _), mut cost) = self.counted(|read| {
            let mut random = |buffer: &mut [u8]| buffer.fill(7);
            let mut batch = Batch::new(read, size, Context { now_ms, random: &mut random });
            decide(&mut batch).expect("decided");
            batch.finish()
        });
        (cost.changed, cost.records) = (changes.len(), entries.len());
        cost.bytes = entries.iter().map(Entry::bytes).sum();
        self.remember_list(&entries);
        let before = self.disk.syncs.load(Ordering::Relaxed);
        commit::append(&mut self.journal, &mut self.tree, &self.signer, entries).expect("appended");
        cost.syncs = self.disk.syncs.load(Ordering::Relaxed) - before;
        self.state.publish(changes, self.journal.size());
        cost
    }

    fn remember_list(&mut self, entries: &[Entry]) {
        use axis_proto::record::v1::{CargoKind, LeafList, Record};
        for entry in entries {
            let record = Record::decode(entry.record.clone()).expect("a record");
            let place = record.cargo.iter().position(|cargo| cargo.kind() == CargoKind::RecipientList);
            if let Some(place) = place {
                self.list = Some(LeafList::decode(entry.cargo[place].clone()).expect("a list"));
                self.list_sequence = Some(entry.sequence);
            }
        }
    }

    fn submit(&self, to: &[usize]) -> Submit {
        let id = EnvelopeId::new_v7();
        let recipient = |place: &usize| Recipient { agency: self.agency(*place).code, kind: 1 };
        let envelope = Envelope {
            envelope_id: Bytes::copy_from_slice(id.as_bytes()),
            hub_id: "truc.test".into(),
            sender: "G01".into(),
            recipients: to.iter().map(recipient).collect(),
            created_unix_ms: NOW,
            body: Some(Body::Document(DocumentBody::default())),
            ..Envelope::default()
        };
        let signed = self.signed(&self.from, id.as_bytes());
        Submit {
            system: self.from.clone(),
            envelope,
            signed,
            documents: Vec::new(),
            kept: Default::default(),
            ahead: None,
        }
    }

    /// What a stage before would have verified.
    fn signed(&self, system: &SystemId, about: &[u8]) -> Signed {
        Signed {
            sealed: Content::of(about.to_vec()),
            digest: Digest::of(about),
            key_ids: vec![key_of(system).public().key_id()],
            certificate: Digest::of(system.as_str().as_bytes()),
        }
    }

    /// Lets so many wait.
    fn fill(&mut self, waiting: u64) -> &mut Self {
        while self.waiting < waiting {
            let count = (waiting - self.waiting).min(self.agencies as u64) as usize;
            let all: Vec<usize> = (0..count).collect();
            let submit = Command::Submit(Box::new(self.submit(&all)));
            self.commit(|batch| machine::decide(batch, &submit).map(drop));
            while let Some(sequence) = read_once(&self.state, machine::pending_consignment) {
                let recipients: Arc<_> = self.list.clone().expect("kept with the record").into();
                let consign = Command::Consign { envelope_sequence: sequence, recipients };
                self.commit(|batch| machine::decide(batch, &consign).map(drop));
            }
            self.waiting += count as u64;
        }
        self
    }

    /// Lets so many be out of attempts.
    fn park(&mut self, parked: u64) {
        let count = usize::try_from(parked - self.parked).expect("few");
        let mut turns = query::Turns::default();
        let ready = read_once(&self.state, |read| query::ready(read, &self.to, NOW, &mut turns, count));
        for attempt in 1..=limits::ATTEMPTS_MAX {
            let system = self.to.clone();
            self.commit_at(NOW + u64::from(attempt) * 1_000, |batch| {
                let lease =
                    Command::Lease { system: system.clone(), deliveries: ready.clone(), duration_ms: 60_000 };
                machine::decide(batch, &lease)?;
                ready.iter().try_for_each(|id| {
                    let nack = Command::Nack { system: system.clone(), delivery: *id, attempt, delay_ms: 1 };
                    machine::decide(batch, &nack).map(drop)
                })
            });
        }
        self.parked = parked;
        assert_eq!(read_once(&self.state, |read| query::mailbox(read, &self.to)).parked, parked);
    }

    /// A submission, a lease, an acknowledgement, the look for what is ready
    /// and the writer's own look, each on its own.
    fn costs(&mut self) -> Vec<Cost> {
        let submit = Command::Submit(Box::new(self.submit(&[1])));
        let submitted = self.commit(|batch| machine::decide(batch, &submit).map(drop));
        let mut turns = query::Turns::default();
        let (ready, looked) = self.counted(|read| query::ready(read, &self.to, NOW, &mut turns, 1));
        let id: DeliveryId = ready[0];
        let lease = Command::Lease { system: self.to.clone(), deliveries: ready, duration_ms: 60_000 };
        let leased = self.commit(|batch| machine::decide(batch, &lease).map(drop));
        let row = read_once(&self.state, |read| query::delivery(read, &id)).expect("it waits");
        let envelope =
            read_once(&self.state, |read| query::envelope(read, id.envelope_sequence)).expect("it is");
        let acknowledgement = Acknowledgement {
            hub_id: "truc.test".into(),
            delivery_id: id.to_string(),
            envelope_digest: envelope.envelope_digest.into(),
            recipient: row.agency,
            mailbox_sequence: row.mailbox_sequence,
            acknowledged_unix_ms: NOW,
            reference: String::new(),
        };
        let signed = self.signed(&self.to, b"acknowledgement");
        let acknowledge = Command::Acknowledge { system: self.to.clone(), acknowledgement, signed };
        let acknowledged = self.commit(|batch| machine::decide(batch, &acknowledge).map(drop));
        let (_, own) = self.counted(|read| {
            (
                machine::pending_consignment(read),
                machine::due_consignments(read, NOW, 16),
                machine::is_due(read, NOW, true),
            )
        });
        // bytes grow with the digits of what is counted
        [submitted, leased, acknowledged, looked, own].map(|cost| Cost { bytes: 0, ..cost }).into()
    }
}

fn key_of(system: &SystemId) -> SigningKey {
    SigningKey::from_seed(Digest::of(system.as_str().as_bytes()).as_bytes())
}

/// A moment of the state that counts what is read of it.
struct Counted<'a> {
    read: &'a dyn Read,
    got: Cell<usize>,
    visited: Cell<usize>,
}

impl Read for Counted<'_> {
    fn get(&self, key: &[u8]) -> Option<Value> {
        self.got.set(self.got.get() + 1);
        self.read.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) {
        self.read.scan(start, end, &mut |key, value| -> ControlFlow<()> {
            self.visited.set(self.visited.get() + 1);
            visit(key, value)
        });
    }
}

/// A disk that counts how often a file is synced.
#[derive(Debug, Clone)]
struct Counting {
    disk: Arc<MemoryDisk>,
    syncs: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingFile {
    file: Arc<dyn DiskFile>,
    syncs: Arc<AtomicU64>,
}

impl Counting {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(CountingFile { file, syncs: self.syncs.clone() })
    }
}

impl Disk for Counting {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path)?))
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_read(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
}

impl DiskFile for CountingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
