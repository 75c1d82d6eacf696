//! The state's keys and rows. Derived: a change of layout raises
//! [`LAYOUT_VERSION`], and the state is rebuilt from the journal.
//!
//! A key is a tag byte and its parts: numbers big-endian, texts ended by a
//! zero byte when something follows. Ids never hold a zero byte.

pub mod key;

use std::ops::ControlFlow;

use axis_proto::{
    envelope::v1::{Priority, RecipientKind},
    hub::v1::DeliveryState,
    id::DeliveryId,
    record::v1::{AgencyState, ErasureCause, Settlement, SigningKey, SystemState},
};
use prost::Message;

use crate::state::Read;

/// Raised with every change of a key or row.
pub const LAYOUT_VERSION: u32 = 7;

/// The one row about the whole.
#[derive(Clone, PartialEq, Message)]
pub struct Meta {
    /// Name of the hub.
    #[prost(string, tag = "1")]
    pub hub_id: String,
    /// Origin of the log.
    #[prost(string, tag = "2")]
    pub origin: String,
    /// Version of the directory.
    #[prost(uint64, tag = "3")]
    pub directory_version: u64,
    /// Time of the last record.
    #[prost(uint64, tag = "4")]
    pub last_recorded_unix_ms: u64,
    /// Number of records up to the last Erased.
    #[prost(uint64, tag = "5")]
    pub erased_size: u64,
}

/// A part of [`Meta`], read without the rest.
#[derive(Clone, PartialEq, Message)]
pub struct Recorded {
    /// Time of the last record.
    #[prost(uint64, tag = "4")]
    pub last_unix_ms: u64,
}

/// Another part of it.
#[derive(Clone, PartialEq, Message)]
pub struct Directory {
    /// Its version.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// A part of [`System`](axis_proto::record::v1::System), read without the
/// rest.
#[derive(Clone, PartialEq, Message)]
pub struct SystemPart {
    /// Whether it may act.
    #[prost(enumeration = "SystemState", tag = "3")]
    pub state: i32,
}

/// A part of [`Agency`](axis_proto::record::v1::Agency), read without the rest.
#[derive(Clone, PartialEq, Message)]
pub struct AgencyPart {
    /// The system that serves it.
    #[prost(string, tag = "6")]
    pub system: String,
    /// Whether it takes part.
    #[prost(enumeration = "AgencyState", tag = "7")]
    pub state: i32,
}

/// An accepted envelope.
#[derive(Clone, PartialEq, Message)]
pub struct EnvelopeRow {
    /// The system that submitted it.
    #[prost(string, tag = "1")]
    pub sender_system: String,
    /// Its author.
    #[prost(string, tag = "2")]
    pub sender: String,
    /// The author's id for it.
    #[prost(bytes = "vec", tag = "3")]
    pub envelope_id: Vec<u8>,
    /// SHA-256(PAE).
    #[prost(bytes = "vec", tag = "4")]
    pub envelope_digest: Vec<u8>,
    /// When it was accepted.
    #[prost(uint64, tag = "5")]
    pub accepted_unix_ms: u64,
    /// From when it is visible; 0 is at once.
    #[prost(uint64, tag = "6")]
    pub not_before_unix_ms: u64,
    /// Its deadline.
    #[prost(uint64, tag = "7")]
    pub expires_unix_ms: u64,
    /// Its lane.
    #[prost(enumeration = "Priority", tag = "8")]
    pub priority: i32,
    /// How many recipients it has.
    #[prost(uint32, tag = "9")]
    pub recipient_count: u32,
    /// How many of them it is visible to.
    #[prost(uint32, tag = "10")]
    pub consigned_count: u32,
    /// How many of them are settled.
    #[prost(uint32, tag = "11")]
    pub settled_count: u32,
    /// Bytes of the sealed envelope and its documents.
    #[prost(uint64, tag = "12")]
    pub bytes: u64,
    /// Recipients before this one have been looked at for expiry.
    #[prost(uint32, tag = "13")]
    pub expire_cursor: u32,
    /// When its warning is due; 0 once warned.
    #[prost(uint64, tag = "14")]
    pub warn_unix_ms: u64,
    /// How many of its recipients have it on lease.
    #[prost(uint32, tag = "15")]
    pub leased_count: u32,
    /// How long its content is kept once all are settled; 0 is without end.
    #[prost(uint64, tag = "16")]
    pub cargo_kept_ms: u64,
    /// How long this row is kept once all are settled; 0 is without end.
    #[prost(uint64, tag = "17")]
    pub summary_kept_ms: u64,
    /// When the last of them was settled; 0 before.
    #[prost(uint64, tag = "18")]
    pub settled_unix_ms: u64,
    /// When its content was erased; 0 if it is kept.
    #[prost(uint64, tag = "19")]
    pub erased_unix_ms: u64,
    /// The record that erased it.
    #[prost(uint64, tag = "20")]
    pub erased_sequence: u64,
    /// Why.
    #[prost(enumeration = "ErasureCause", tag = "21")]
    pub erasure_cause: i32,
    /// How many of its deliveries are forgotten.
    #[prost(uint32, tag = "22")]
    pub forgotten_count: u32,
    /// Whether two operators purge it: it is not handed out any more.
    #[prost(bool, tag = "23")]
    pub purged: bool,
    /// The delivery to its first recipient, once that is visible: most
    /// envelopes have one only, and a row less to write with each of its
    /// changes.
    #[prost(message, optional, tag = "24")]
    pub first: Option<DeliveryRow>,
}

/// A part of [`EnvelopeRow`], read without the rest: what is asked for whenever
/// it is handed out.
#[derive(Clone, PartialEq, Message)]
pub struct EnvelopePart {
    /// How many recipients it has.
    #[prost(uint32, tag = "9")]
    pub recipient_count: u32,
    /// Bytes of the sealed envelope and its documents.
    #[prost(uint64, tag = "12")]
    pub bytes: u64,
    /// The record that erased its content; 0 if it is kept.
    #[prost(uint64, tag = "20")]
    erased_sequence: u64,
    /// Whether two operators purge it.
    #[prost(bool, tag = "23")]
    purged: bool,
}

impl EnvelopePart {
    /// Whether it is handed to nobody any more.
    pub fn is_withdrawn(&self) -> bool {
        self.purged || self.erased_sequence != 0
    }
}

/// Another part of it.
#[derive(Clone, PartialEq, Message)]
struct FirstDelivery {
    /// How many recipients the envelope has.
    #[prost(uint32, tag = "9")]
    recipient_count: u32,
    /// It.
    #[prost(message, optional, tag = "24")]
    row: Option<DeliveryRow>,
}

impl EnvelopeRow {
    /// Whether every recipient is settled.
    pub fn is_settled(&self) -> bool {
        self.settled_count >= self.recipient_count
    }

    /// Whether its content is erased.
    pub fn is_erased(&self) -> bool {
        self.erased_sequence != 0
    }

    /// When its content may go; `None` if never, or not settled yet.
    pub fn erase_unix_ms(&self) -> Option<u64> {
        self.after_settlement(self.cargo_kept_ms)
    }

    /// When it may be forgotten; `None` if never, or not settled yet.
    pub fn forget_unix_ms(&self) -> Option<u64> {
        self.after_settlement(self.summary_kept_ms)
    }

    fn after_settlement(&self, kept_ms: u64) -> Option<u64> {
        let ends = kept_ms > 0 && self.settled_unix_ms > 0;
        ends.then(|| self.settled_unix_ms.saturating_add(kept_ms))
    }
}

/// A purge that was asked for.
#[derive(Clone, PartialEq, Message)]
pub struct PurgeRow {
    /// The record that asked for it.
    #[prost(uint64, tag = "1")]
    pub requested_sequence: u64,
    /// Who asked.
    #[prost(string, tag = "2")]
    pub requested_by: String,
    /// Until when another may agree.
    #[prost(uint64, tag = "3")]
    pub lapses_unix_ms: u64,
    /// Who agreed; empty while nobody has.
    #[prost(string, tag = "4")]
    pub confirmed_by: String,
}

/// One envelope on its way to one recipient.
#[derive(Clone, PartialEq, Message)]
pub struct DeliveryRow {
    /// The recipient.
    #[prost(string, tag = "1")]
    pub agency: String,
    /// The system whose mailbox holds it.
    #[prost(string, tag = "2")]
    pub system: String,
    /// Its number there.
    #[prost(uint64, tag = "3")]
    pub mailbox_sequence: u64,
    /// To act or to know.
    #[prost(enumeration = "RecipientKind", tag = "4")]
    pub kind: i32,
    /// Where it is.
    #[prost(enumeration = "DeliveryState", tag = "5")]
    pub state: i32,
    /// Since when.
    #[prost(uint64, tag = "6")]
    pub since_unix_ms: u64,
    /// The record that put it there.
    #[prost(uint64, tag = "7")]
    pub since_sequence: u64,
    /// Leases since it was consigned or requeued.
    #[prost(uint32, tag = "8")]
    pub attempts: u32,
    /// Leases altogether; the number of the latest names that lease.
    #[prost(uint32, tag = "9")]
    pub leases: u32,
    /// When the lease lapses, or when it may be leased again; 0 if neither.
    #[prost(uint64, tag = "10")]
    pub due_unix_ms: u64,
    /// The record of a late acceptance; 0 if none.
    #[prost(uint64, tag = "11")]
    pub late_sequence: u64,
    /// The record that made it visible.
    #[prost(uint64, tag = "12")]
    pub consigned_sequence: u64,
    /// When it became visible.
    #[prost(uint64, tag = "13")]
    pub consigned_unix_ms: u64,
    /// How many of its leases were to systems that it has left.
    #[prost(uint32, tag = "14")]
    pub leases_elsewhere: u32,
    /// Whether it has left a mailbox.
    #[prost(bool, tag = "15")]
    pub has_moved: bool,
}

impl DeliveryRow {
    /// How it ended.
    pub fn settlement(&self) -> Settlement {
        match self.state() {
            DeliveryState::Acknowledged => Settlement::Acknowledged,
            DeliveryState::Rejected => Settlement::Rejected,
            DeliveryState::Expired => Settlement::Expired,
            DeliveryState::Withdrawn => Settlement::Withdrawn,
            DeliveryState::Returned => Settlement::Returned,
            DeliveryState::Unspecified
            | DeliveryState::Accepted
            | DeliveryState::Waiting
            | DeliveryState::Leased
            | DeliveryState::Parked => Settlement::Unspecified,
        }
    }

    /// Whether it ended.
    pub fn is_settled(&self) -> bool {
        self.settlement() != Settlement::Unspecified
    }

    /// Whether its system was ever given it.
    pub fn is_taken(&self) -> bool {
        self.leases > self.leases_elsewhere
    }
}

/// How far a mailbox is looked through for what must move.
#[derive(Clone, PartialEq, Message)]
pub struct SearchRow {
    /// The next number.
    #[prost(uint64, tag = "1")]
    pub next: u64,
    /// The last one.
    #[prost(uint64, tag = "2")]
    pub to: u64,
}

/// A system's counters.
#[derive(Clone, PartialEq, Message)]
pub struct MailboxRow {
    /// The highest number given.
    #[prost(uint64, tag = "1")]
    pub high: u64,
    /// Every number up to here is settled.
    #[prost(uint64, tag = "2")]
    pub floor: u64,
    /// Not settled, all together.
    #[prost(uint64, tag = "3")]
    pub waiting: u64,
    /// Of these, on lease.
    #[prost(uint64, tag = "4")]
    pub leased: u64,
    /// Of these, parked.
    #[prost(uint64, tag = "5")]
    pub parked: u64,
    /// Bytes that wait.
    #[prost(uint64, tag = "6")]
    pub waiting_bytes: u64,
    /// Not settled, per lane, the lowest priority first; 5.
    #[prost(uint64, repeated, tag = "7")]
    pub lanes: Vec<u64>,
    /// The highest number of the feed.
    #[prost(uint64, tag = "8")]
    pub feed_high: u64,
    /// The highest number up to the floor whose row was forgotten.
    #[prost(uint64, tag = "9")]
    pub forgotten_to: u64,
}

/// Of a row with all of its lanes, as `apply::mailbox` reads it.
impl MailboxRow {
    /// A delivery of an envelope waits in it from now on.
    pub fn waits_more(&mut self, envelope: &EnvelopeRow) {
        self.waiting += 1;
        self.waiting_bytes += envelope.bytes;
        self.lanes[lane_of(envelope.priority())] += 1;
    }

    /// A delivery of an envelope does not wait in it any more.
    pub fn waits_less(&mut self, envelope: &EnvelopeRow) {
        let lane = &mut self.lanes[lane_of(envelope.priority())];
        *lane = lane.saturating_sub(1);
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(envelope.bytes);
    }
}

/// A signing key and where it last changed.
#[derive(Clone, PartialEq, Message)]
pub struct KeyRow {
    /// The key.
    #[prost(message, optional, tag = "1")]
    pub key: Option<SigningKey>,
    /// The record that last changed it.
    #[prost(uint64, tag = "2")]
    pub changed_sequence: u64,
}

/// A token that was not used yet.
#[derive(Clone, PartialEq, Message)]
pub struct TokenRow {
    /// The system that may enrol with it.
    #[prost(string, tag = "1")]
    pub system: String,
    /// When it lapses.
    #[prost(uint64, tag = "2")]
    pub expires_unix_ms: u64,
}

/// A document that a system may name.
#[derive(Clone, PartialEq, Message)]
pub struct UploadRow {
    /// Its size in bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Until when it may be named, and is kept for it.
    #[prost(uint64, tag = "2")]
    pub pinned_until_unix_ms: u64,
}

/// The place of a lane: 0 is the lowest priority, 4 the highest.
pub fn lane_of(priority: Priority) -> usize {
    match priority {
        Priority::Unspecified | Priority::Normal => 0,
        Priority::Urgent => 1,
        Priority::VeryUrgent => 2,
        Priority::Express => 3,
        Priority::ExpressTimed => 4,
    }
}

/// Reads a row.
pub fn row<M: Message + Default>(read: &dyn Read, key: &[u8]) -> Option<M> {
    Some(decode(&read.get(key)?))
}

/// Reads a row's value. The machine wrote it; a state that is damaged is found
/// when it is opened.
pub fn decode<M: Message + Default>(value: &[u8]) -> M {
    M::decode(value).expect("the state holds only rows that the machine wrote")
}

/// A delivery's row, which is in that of its envelope if it is the first.
pub fn delivery(read: &dyn Read, id: &DeliveryId) -> Option<DeliveryRow> {
    match id.recipient_index {
        0 => row::<FirstDelivery>(read, &key::envelope(id.envelope_sequence))?.row,
        _ => row(read, &key::delivery(id)),
    }
}

/// Visits an envelope's visible deliveries from an index on, in order, until
/// it breaks.
pub fn deliveries(
    read: &dyn Read,
    envelope_sequence: u64,
    from: u32,
    visit: &mut dyn FnMut(DeliveryId, DeliveryRow) -> ControlFlow<()>,
) {
    let first = DeliveryId { envelope_sequence, recipient_index: from };
    if from == 0 {
        let envelope: Option<FirstDelivery> = row(read, &key::envelope(envelope_sequence));
        let FirstDelivery { recipient_count, row } = envelope.unwrap_or_default();
        let broke = row.is_some_and(|delivery| visit(first, delivery).is_break());
        if broke || recipient_count <= 1 {
            return;
        }
    }
    let end = key::end_of(&key::deliveries(envelope_sequence));
    read.scan(&key::delivery(&first), &end, &mut |key, value| visit(delivery_from(&key[1..]), decode(value)));
}

/// A big-endian number in a key or value.
pub fn number(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    let bytes = &bytes[bytes.len().saturating_sub(8)..];
    whole[8 - bytes.len()..].copy_from_slice(bytes);
    u64::from_be_bytes(whole)
}

/// A delivery's id as a value.
pub fn delivery_bytes(id: &DeliveryId) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&id.envelope_sequence.to_be_bytes());
    bytes[8..].copy_from_slice(&id.recipient_index.to_be_bytes());
    bytes
}

/// A delivery's id from the last 12 bytes of a key, or from a value.
pub fn delivery_from(bytes: &[u8]) -> DeliveryId {
    let (sequence, index) = bytes[..12].split_at(8);
    DeliveryId { envelope_sequence: number(sequence), recipient_index: number(index) as u32 }
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// An envelope becomes visible.
    Consign,
    /// A lease lapses.
    Lapse,
    /// An envelope's sender is warned.
    Warn,
    /// An envelope expires; set once its sender is warned.
    Expire,
    /// An envelope's content may go.
    Erase,
    /// An envelope may be forgotten.
    Forget,
}

impl Timer {
    /// Its byte in a key.
    pub fn byte(self) -> u8 {
        match self {
            Self::Consign => b'c',
            Self::Lapse => b'l',
            Self::Warn => b'w',
            Self::Expire => b'x',
            Self::Erase => b'e',
            Self::Forget => b'f',
        }
    }
}

/// A mailbox number's value once it has ended there: the delivery (12), how
/// (1), and where the delivery's row does not say it the record (8); a 0 behind
/// that once it is forgotten above the floor.
pub mod ended {
    use super::{DeliveryId, Settlement, delivery_bytes, number};

    /// Whether a number has ended.
    pub fn is(value: &[u8]) -> bool {
        value.len() > 12
    }

    /// Whether the delivery that had it is forgotten, or has been since it
    /// left.
    pub fn is_forgotten(value: &[u8]) -> bool {
        value.len() > 21
    }

    /// How it ended.
    pub fn how(value: &[u8]) -> Option<Settlement> {
        value.get(12).and_then(|byte| Settlement::try_from(i32::from(*byte)).ok())
    }

    /// By which record, if it says so.
    pub fn record(value: &[u8]) -> Option<u64> {
        value.get(13..21).map(number)
    }

    /// It ended as its delivery's row says.
    pub fn settled(id: &DeliveryId, how: Settlement) -> Vec<u8> {
        let mut value = delivery_bytes(id).to_vec();
        value.push(how as u8);
        value
    }

    /// It ended by a record.
    pub fn by(id: &DeliveryId, how: Settlement, record: u64) -> Vec<u8> {
        let mut value = settled(id, how);
        value.extend(record.to_be_bytes());
        value
    }

    /// It ended by a record, and its delivery is forgotten.
    pub fn forgotten(id: &DeliveryId, how: Settlement, record: u64) -> Vec<u8> {
        let mut value = by(id, how, record);
        value.push(0);
        value
    }

    const _: () = assert!(Settlement::Moved as i32 <= u8::MAX as i32);
}
