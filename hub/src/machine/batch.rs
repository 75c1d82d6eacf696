//! Records that are decided together, each on the state as the ones before it
//! left it. A refused command leaves nothing behind: every rule looks first
//! and records last.

use std::{cell::RefCell, collections::BTreeMap};

use axis_proto::{
    id::{Digest, KeyId, SystemId},
    record::v1::{Cargo, CargoKind, FeedPlace, LeafList, LogOpened, Record, Settlement, record::Event},
};
use bytes::Bytes;
use prost::Message;

use super::{
    apply,
    command::{Content, Signed},
    envelope, query,
    tables::{key, number},
};
use crate::{
    error::{Error, Refusal, Result},
    journal::Entry,
    limits::{self, Millis},
    state::{Changes, Draft, Read},
};

/// What the machine is told about the world.
pub struct Context<'a> {
    /// The clock. Decisions go by it; records are stamped with it too, but
    /// never with less than the record before.
    pub now_ms: Millis,
    /// Fills a buffer with unpredictable bytes.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

/// What a batch's records tell of deliveries, in numbers.
#[derive(Debug, Default)]
pub struct Tally {
    /// Given to a recipient's system.
    pub leased: u64,
    /// Ran out of attempts.
    pub parked: u64,
    /// Went to the system that serves their agency now.
    pub moved: u64,
    /// Ended, by how they did.
    pub settled: BTreeMap<Settlement, u64>,
}

impl Tally {
    fn count(&mut self, event: &Event) {
        let settlement = match event {
            Event::Leased(_) => return self.leased += 1,
            Event::Parked(_) => return self.parked += 1,
            Event::Moved(_) => return self.moved += 1,
            Event::Acknowledged(_) => Settlement::Acknowledged,
            Event::Rejected(_) => Settlement::Rejected,
            Event::Expired(_) => Settlement::Expired,
            Event::Returned(_) => Settlement::Returned,
            _ => return,
        };
        *self.settled.entry(settlement).or_default() += 1;
    }
}

/// Records that are decided together.
pub struct Batch<'a> {
    pub(super) draft: Draft<'a>,
    /// The clock.
    pub(super) now: Millis,
    /// The time of the records, which never goes back.
    pub(super) recorded: Millis,
    random: &'a mut dyn FnMut(&mut [u8]),
    next: u64,
    entries: Vec<Entry>,
    bytes: usize,
    tally: Tally,
    known: RefCell<Known>,
}

/// What the state says at every command of a batch, asked for once.
#[derive(Default)]
struct Known {
    /// The last number of a feed, by system.
    feed_highs: BTreeMap<String, u64>,
    /// As long as the directory does not change: its version, and for whom a
    /// system was found to speak last.
    directory_version: Option<u64>,
    speakers: BTreeMap<SystemId, Speaker>,
}

/// Whom a system speaks for, with what.
struct Speaker {
    agency: String,
    certificate: Digest,
    key_ids: Vec<KeyId>,
}

impl<'a> Batch<'a> {
    /// Begins a batch on a moment of the state that holds `size` records.
    pub fn new(read: &'a dyn Read, size: u64, context: Context<'a>) -> Self {
        let now = context.now_ms;
        let recorded = now.max(query::meta(read).last_recorded_unix_ms);
        Self {
            draft: Draft::new(read),
            now,
            recorded,
            random: context.random,
            next: size,
            entries: Vec::new(),
            bytes: 0,
            tally: Tally::default(),
            known: RefCell::default(),
        }
    }

    /// The directory's version.
    pub(super) fn directory_version(&self) -> u64 {
        let known = &mut self.known.borrow_mut().directory_version;
        *known.get_or_insert_with(|| query::directory_version(&self.draft))
    }

    /// As [`envelope::may_speak_for`], at this moment.
    ///
    /// # Errors
    /// As there.
    pub(super) fn may_speak_for(
        &self,
        system: &SystemId,
        agency: &str,
        signed: &Signed,
    ) -> std::result::Result<(), Refusal> {
        let (certificate, key_ids) = (signed.certificate, &signed.key_ids);
        let speakers = &mut self.known.borrow_mut().speakers;
        let is_known = speakers.get(system).is_some_and(|speaker| {
            speaker.agency == agency && speaker.certificate == certificate && speaker.key_ids == *key_ids
        });
        if !is_known {
            envelope::may_speak_for(&self.draft, system, agency, signed, self.now)?;
            let speaker = Speaker { agency: agency.to_owned(), certificate, key_ids: key_ids.clone() };
            speakers.insert(system.clone(), speaker);
        }
        Ok(())
    }

    /// Records the opening of a log; only in an empty journal.
    pub fn open_log(&mut self, opened: LogOpened) -> Result<u64> {
        self.record(Event::LogOpened(opened), &[], Vec::new())
    }

    /// The state as the records so far have left it.
    pub fn state(&self) -> &dyn Read {
        &self.draft
    }

    /// Records the opening of a log where a restored one goes on, with the
    /// succession note.
    pub fn continue_log(&mut self, opened: LogOpened, succession: String) -> Result<u64> {
        let cargo = vec![(CargoKind::Succession, Content::of(succession))];
        self.record(Event::LogOpened(opened), &[], cargo)
    }

    /// Number of records so far, and of their bytes with cargo.
    pub fn weight(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// The records, what they change, and their numbers.
    pub fn finish(self) -> (Vec<Entry>, Changes, Tally) {
        (self.entries, self.draft.into_changes(), self.tally)
    }

    /// Adds a record, gives it its numbers, and applies it.
    pub(super) fn record(
        &mut self,
        event: Event,
        feeds: &[&str],
        cargo: Vec<(CargoKind, Content)>,
    ) -> Result<u64> {
        let mut places: BTreeMap<&str, u64> = BTreeMap::new();
        let known = self.known.get_mut();
        for system in feeds.iter().filter(|system| !system.is_empty()) {
            let high = known.feed_highs.get(*system).copied();
            let high = high.unwrap_or_else(|| apply::mailbox(&self.draft, system).feed_high);
            places.insert(system, high + 1);
        }
        let sequence = self.next;
        let record = Record {
            sequence,
            recorded_unix_ms: self.recorded,
            feeds: places
                .into_iter()
                .map(|(system, feed_sequence)| FeedPlace { system: system.to_owned(), feed_sequence })
                .collect(),
            cargo: cargo
                .iter()
                .map(|(kind, content)| Cargo {
                    kind: (*kind).into(),
                    sha256: Bytes::copy_from_slice(content.sha256().as_bytes()),
                    size: content.len() as u64,
                })
                .collect(),
            event: Some(event),
        };
        let bytes = Bytes::from(record.encode_to_vec());
        if bytes.len() > limits::RECORD_BYTES_MAX {
            let largest = limits::RECORD_BYTES_MAX;
            return Err(Error::invalid(
                "request",
                axis_proto::hub::v1::Reason::TooLarge,
                format!("a record of {} bytes, at most {largest}", bytes.len()),
            ));
        }
        let mut salt = [0; 16];
        (self.random)(&mut salt);
        let cargo: Vec<Bytes> = cargo.into_iter().map(|(_, content)| content.into_bytes()).collect();
        self.bytes += bytes.len() + cargo.iter().map(Bytes::len).sum::<usize>();
        let entry = Entry { sequence, salt, record: bytes, cargo };
        apply::apply(&mut self.draft, &record, &entry).map_err(Error::fault)?;
        let known = self.known.get_mut();
        for FeedPlace { system, feed_sequence } in record.feeds {
            known.feed_highs.insert(system, feed_sequence);
        }
        if let Some(event) = &record.event {
            self.tally.count(event);
            if matches!(event, Event::DirectoryChanged(_)) {
                known.directory_version = None;
                known.speakers.clear();
            }
        }
        self.entries.push(entry);
        self.next += 1;
        Ok(sequence)
    }

    /// A fresh secret for a list of leaves.
    pub(super) fn secret(&mut self) -> Bytes {
        let mut secret = [0; 32];
        (self.random)(&mut secret);
        Bytes::copy_from_slice(&secret)
    }
}

/// The first envelope that is not yet visible to all of its recipients though
/// its time has come; its next range is the writer's to propose.
pub fn pending_consignment(read: &dyn Read) -> Option<u64> {
    let mut first = None;
    read.scan(b"p", &key::end_of(b"p"), &mut |key, _| {
        first = Some(number(&key[1..]));
        std::ops::ControlFlow::Break(())
    });
    first
}

/// Whether changes leave an envelope that is not yet visible to all of its
/// recipients.
pub fn has_pending(changes: &Changes) -> bool {
    changes.range(b"p", b"q").any(|(_, change)| change.is_some())
}

/// An operator's remark as cargo; none if empty.
pub(super) fn remark_cargo(remark: &str) -> Result<Vec<(CargoKind, Content)>> {
    if remark.len() > limits::REMARK_BYTES_MAX {
        return Err(Error::invalid("remark", axis_proto::hub::v1::Reason::TooLarge, remark.len()));
    }
    Ok(if remark.is_empty() { Vec::new() } else { vec![(CargoKind::Remark, Content::of(remark.to_owned()))] })
}

/// A list of leaves under a fresh secret, with its root.
pub(super) fn leaf_list(batch: &mut Batch<'_>, leaves: Vec<Bytes>) -> (LeafList, [u8; 32]) {
    let list = LeafList { secret: batch.secret(), leaves };
    let root = axis_proto::leaves::root(&list);
    (list, root)
}
