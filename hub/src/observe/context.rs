//! What the operators' views show, gathered from the stores: the same for
//! the page, the metrics and the operators' calls. Reads in short steps, so
//! that the writer never waits for a view.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axis_proto::{
    admin::v1::{GetStatusResponse, ParkedDelivery, Queue},
    id::{DeliveryId, HubId, SystemId},
    record::v1::System,
};

use super::{Health, LastBackup, Metrics, Presence, Readiness, metrics::Scrape};
use crate::{
    clock::Clock,
    disk::{Disk, Space},
    disk_room::DiskRoom,
    journal::JournalReader,
    machine::query,
    state::{Read, State},
    wire::read_once,
};

/// Where the views look. Cheap to clone.
#[derive(Clone)]
pub struct ObserveContext {
    /// The hub's name.
    pub hub_id: HubId,
    /// When the hub started.
    pub started_unix_ms: u64,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the hub can commit.
    pub readiness: Readiness,
    /// Who called lately.
    pub presence: Presence,
    /// The state.
    pub state: Arc<dyn State>,
    /// Tells how many records the state on disk contains.
    pub state_written: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The journal.
    pub journal: Arc<dyn JournalReader>,
    /// The data disk.
    pub disk: Arc<dyn Disk>,
    /// A directory on it.
    pub data_dir: PathBuf,
    /// The last backup.
    pub last_backup: LastBackup,
    /// What is left of it for new documents.
    pub disk_room: DiskRoom,
}

/// Everything that the page shows, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// When it was gathered.
    pub now_ms: u64,
    /// How the hub does.
    pub status: GetStatusResponse,
    /// Whether it can commit.
    pub health: Health,
    /// What waits, per system.
    pub queues: Vec<Queue>,
    /// Systems' names, by id.
    pub names: BTreeMap<String, String>,
    /// Parked deliveries, the first of them.
    pub parked: Vec<ParkedDelivery>,
    /// Whether more are parked.
    pub parked_more: bool,
}

/// Most parked deliveries on the page.
const PARKED_SHOWN_MAX: usize = 100;

impl ObserveContext {
    /// How the hub does.
    pub fn status(&self) -> GetStatusResponse {
        let health = self.readiness.health();
        let (commit_p50_us, commit_p99_us) = self.metrics.commit_quantiles_us();
        let space = self.space();
        let journal_records = self.journal.size();
        let last_backup = self.last_backup.last().unwrap_or_default();
        GetStatusResponse {
            hub_id: self.hub_id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ms: self.started_unix_ms,
            journal_records,
            state_lag_records: journal_records.saturating_sub((self.state_written)()),
            ready: health.is_ready(),
            not_ready_because: health.because(),
            disk_free_bytes: space.free_bytes,
            disk_total_bytes: space.total_bytes,
            clock_trusted: self.clock.is_trusted(),
            commit_p50_us,
            commit_p99_us,
            connections: self.metrics.connections_open(),
            last_backup_unix_ms: last_backup.made_unix_ms,
            last_backup_records: last_backup.size,
        }
    }

    /// What waits, for each system, in order of id.
    pub fn queues(&self) -> Vec<Queue> {
        self.systems().iter().filter_map(|system| self.queue(system)).collect()
    }

    /// At most `max` parked deliveries after one, and whether there are more.
    pub fn parked(
        &self,
        system: Option<&SystemId>,
        after: Option<DeliveryId>,
        max: usize,
    ) -> (Vec<ParkedDelivery>, bool) {
        self.read(|read| {
            let mut found = query::parked(read, system, after, max + 1);
            let more = found.len() > max;
            found.truncate(max);
            (found.into_iter().map(|tracked| parked_delivery(read, tracked)).collect(), more)
        })
    }

    /// Everything that the page shows.
    pub fn overview(&self) -> Overview {
        let systems = self.systems();
        let (parked, parked_more) = self.parked(None, None, PARKED_SHOWN_MAX);
        Overview {
            now_ms: self.clock.now_ms(),
            status: self.status(),
            health: self.readiness.health(),
            queues: systems.iter().filter_map(|system| self.queue(system)).collect(),
            names: systems.into_iter().map(|system| (system.system_id, system.name)).collect(),
            parked,
            parked_more,
        }
    }

    /// What a scrape of the metrics needs.
    pub fn scrape(&self) -> Scrape {
        let status = self.status();
        Scrape {
            ready: status.ready,
            clock_trusted: status.clock_trusted,
            journal_records: status.journal_records,
            state_lag_records: status.state_lag_records,
            disk_free_bytes: status.disk_free_bytes,
            disk_total_bytes: status.disk_total_bytes,
            last_backup_unix_ms: status.last_backup_unix_ms,
            disk_low_bytes: self.disk_room.low_bytes(),
            queues: self.queues(),
            now_ms: self.clock.now_ms(),
        }
    }

    /// Notices a commit that does not end.
    pub fn look_at_writer(&self) {
        self.readiness.look(self.clock.monotonic_ms());
    }

    /// Notices that the data disk is nearly full. May wait for the disk.
    pub fn look_at_disk(&self) {
        self.disk_room.look();
    }

    fn systems(&self) -> Vec<System> {
        self.read(query::systems)
    }

    /// One system's queue; `None` for an id that is not one, which the
    /// directory does not hold.
    fn queue(&self, system: &System) -> Option<Queue> {
        let id: SystemId = system.system_id.parse().ok()?;
        let seen = self.presence.of(&id);
        Some(self.read(|read| {
            let mailbox = query::mailbox(read, &id);
            let mut lanes = mailbox.lanes.clone();
            lanes.resize(5, 0);
            Queue {
                system: system.system_id.clone(),
                waiting: mailbox.waiting,
                leased: mailbox.leased,
                parked: mailbox.parked,
                waiting_bytes: mailbox.waiting_bytes,
                oldest_unix_ms: query::oldest_unix_ms(read, &id).unwrap_or(0),
                lanes,
                last_seen_unix_ms: seen.last_unix_ms,
                state: system.state,
                streams: seen.streams,
                attempts_most: query::attempts_most(read, &id),
            }
        }))
    }

    /// A disk that does not tell is taken for a full one.
    fn space(&self) -> Space {
        self.disk.space(&self.data_dir).unwrap_or(Space { free_bytes: 0, total_bytes: 0, free_files: 0 })
    }

    fn read<T>(&self, look: impl FnOnce(&dyn Read) -> T) -> T {
        read_once(&*self.state, look)
    }
}

fn parked_delivery(read: &dyn Read, tracked: query::Tracked) -> ParkedDelivery {
    let query::Tracked { id, delivery } = tracked;
    let envelope = query::envelope(read, id.envelope_sequence).unwrap_or_default();
    ParkedDelivery {
        delivery_id: id.to_string(),
        agency: delivery.agency,
        system: delivery.system,
        sender: envelope.sender,
        envelope_id: envelope.envelope_id.into(),
        attempts: delivery.attempts,
        since_unix_ms: delivery.since_unix_ms,
        expires_unix_ms: envelope.expires_unix_ms,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{io, ops::ControlFlow, path::Path};

    use axis_proto::{
        hub::v1::DeliveryState,
        record::v1::{System, SystemState},
    };
    use prost::Message as _;

    use super::*;
    use crate::{
        disk::MemoryDisk,
        journal::Batch,
        machine::tables::{DeliveryRow, EnvelopeRow, MailboxRow, delivery_bytes, key},
        state::{Changes, memory::MemoryState},
    };

    /// A journal of three records that nobody reads.
    struct ThreeRecords;

    impl JournalReader for ThreeRecords {
        fn size(&self) -> u64 {
            3
        }
        fn batch_of(&self, _sequence: u64) -> io::Result<Option<Arc<Batch>>> {
            Ok(None)
        }
        fn replay(
            &self,
            _sequence: u64,
            _visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>,
        ) -> io::Result<()> {
            Ok(())
        }
    }

    /// A hub with one system, for which one delivery is parked.
    pub fn context() -> ObserveContext {
        let id = DeliveryId { envelope_sequence: 2, recipient_index: 0 };
        let delivery = DeliveryRow {
            agency: "H53".into(),
            system: "tay-ninh".into(),
            mailbox_sequence: 1,
            state: DeliveryState::Parked.into(),
            since_unix_ms: 5_000,
            attempts: 12,
            consigned_unix_ms: 4_000,
            ..DeliveryRow::default()
        };
        let envelope = EnvelopeRow {
            sender: "G22".into(),
            expires_unix_ms: 9_000,
            first: Some(delivery),
            ..EnvelopeRow::default()
        };
        let mailbox = MailboxRow {
            high: 1,
            waiting: 1,
            parked: 1,
            waiting_bytes: 700,
            lanes: vec![0, 0, 0, 1, 0],
            ..MailboxRow::default()
        };
        let system = System {
            system_id: "tay-ninh".into(),
            name: "Tây Ninh <script>".into(),
            state: SystemState::Active.into(),
        };
        let rows = [
            (key::system("tay-ninh"), system.encode_to_vec()),
            (key::mailbox("tay-ninh"), mailbox.encode_to_vec()),
            (key::number("tay-ninh", 1), delivery_bytes(&id).to_vec()),
            (key::parked("tay-ninh", &id), Vec::new()),
            (key::envelope(2), envelope.encode_to_vec()),
        ];
        let state = MemoryState::new();
        state.publish(rows.into_iter().map(|(key, row)| (key, Some(row))).collect::<Changes>(), 3);
        let presence = Presence::default();
        presence.seen("tay-ninh", 6_000);
        let readiness = Readiness::new();
        let disk = Arc::new(MemoryDisk::default());
        ObserveContext {
            hub_id: "truc.vn".parse().unwrap(),
            started_unix_ms: 1_000,
            clock: Clock::manual(8_000),
            metrics: Metrics::new(),
            readiness: readiness.clone(),
            presence,
            state: Arc::new(state),
            state_written: Arc::new(|| 1),
            journal: Arc::new(ThreeRecords),
            disk_room: DiskRoom::new(disk.clone(), "/data".as_ref(), || 0, readiness),
            disk,
            data_dir: PathBuf::from("/data"),
            last_backup: LastBackup::load(Arc::new(MemoryDisk::default()), Path::new("/data")),
        }
    }

    #[test]
    fn the_views_tell_what_the_stores_hold() {
        let context = context();
        let overview = context.overview();
        let queue = &overview.queues[0];
        assert_eq!((queue.system.as_str(), queue.waiting, queue.parked), ("tay-ninh", 1, 1));
        assert_eq!((queue.oldest_unix_ms, queue.attempts_most, queue.last_seen_unix_ms), (4_000, 12, 6_000));
        assert_eq!(queue.lanes, [0, 0, 0, 1, 0]);
        let parked = &overview.parked[0];
        assert_eq!((parked.delivery_id.as_str(), parked.sender.as_str()), ("2-0", "G22"));
        assert_eq!((parked.attempts, parked.expires_unix_ms), (12, 9_000));
        assert!(!overview.parked_more);
        assert_eq!((overview.status.journal_records, overview.status.state_lag_records), (3, 2));
        assert!(!overview.status.ready);
        assert_eq!(context.parked(None, None, 0), (Vec::new(), true));
    }

    #[test]
    fn a_disk_with_room_is_not_low() {
        let context = context();
        let _writer = context.readiness.writer_runs();
        context.look_at_disk();
        assert!(!context.readiness.health().is_degraded());
    }
}
