//! What can be asked of the machine, and what it answers.

use std::{ops::Deref, sync::Arc};

use axis_proto::{
    envelope::v1::{Acknowledgement, Envelope, Rejection},
    id::{AgencyCode, DeliveryId, Digest, KeyId, SystemId},
    record::v1::{Certificate, DirectoryEntry, LeafList, SigningKey, SystemState},
};
use bytes::Bytes;

use super::expand::Ahead;
use crate::limits::{self, Millis};

/// Something that was verified and may now happen.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields say it with their types")]
pub enum Command {
    /// Accept an envelope.
    Submit(Box<Submit>),
    /// Make a waiting envelope visible to its next recipients; the writer's
    /// own. The list is the cargo of its Accepted record.
    Consign { envelope_sequence: u64, recipients: Arc<LeafList> },
    /// Lease these deliveries to their system; those not ready are skipped.
    Lease { system: SystemId, deliveries: Vec<DeliveryId>, duration_ms: Millis },
    /// The recipient holds it.
    Acknowledge { system: SystemId, acknowledgement: Acknowledgement, signed: Signed },
    /// The recipient cannot take it.
    Reject { system: SystemId, rejection: Rejection, signed: Signed },
    /// Not now. A delay of 0 lets the hub choose.
    Nack { system: SystemId, delivery: DeliveryId, attempt: u32, delay_ms: Millis },
    /// Longer.
    Extend { system: SystemId, delivery: DeliveryId, attempt: u32, duration_ms: Millis },
    /// A document is in the vault.
    Upload { system: SystemId, sha256: Digest, size: u64 },
    /// Agencies, groups, members.
    ChangeDirectory { entries: Vec<DirectoryEntry>, actor: String, remark: String },
    /// A new system, the agencies it serves, and its first token.
    AddSystem {
        system: SystemId,
        name: String,
        agencies: Vec<AgencyCode>,
        token_sha256: Digest,
        actor: String,
    },
    /// A further token.
    IssueToken { system: SystemId, token_sha256: Digest, operator: String },
    /// A token becomes an identity.
    Enrol { token_sha256: Digest, certificate: Certificate, signing_key: SigningKey },
    /// A system's new certificate or key.
    Renew { system: SystemId, certificate: Option<Certificate>, signing_key: Option<SigningKey> },
    /// Suspend or resume.
    SetSystemState { system: SystemId, state: SystemState, actor: String, remark: String },
    /// Revoke a key; `only_of` restricts a system to its own.
    RevokeSigningKey { key_id: KeyId, only_of: Option<SystemId>, actor: String, remark: String },
    /// A certificate of another authority, for one system.
    RegisterCertificate { certificate: Certificate, actor: String, remark: String },
    /// Limit what a key may sign for (all its system serves if empty), and
    /// until when (without end if 0).
    LimitSigningKey {
        key_id: KeyId,
        agencies: Vec<AgencyCode>,
        valid_until_unix_ms: Millis,
        actor: String,
        remark: String,
    },
    /// Revoke a certificate.
    RevokeCertificate { fingerprint: Digest, actor: String, remark: String },
    /// A parked delivery goes back into the queue.
    Requeue { delivery: DeliveryId, operator: String, remark: String },
    /// A parked delivery goes back to its sender.
    Return { delivery: DeliveryId, operator: String, remark: String },
    /// An operator vouches for the clock.
    ConfirmClock { operator: String },
    /// A snapshot was written.
    SnapshotTaken { applied_sequence: u64, sha256: Digest, key_count: u64 },
    /// An operator wants an envelope's content erased at once.
    RequestPurge { envelope_sequence: u64, operator: String, remark: String },
    /// Another operator agrees.
    ConfirmPurge { envelope_sequence: u64, operator: String },
    /// The next step of a purge that was agreed to: returns what is not
    /// settled, then erases. Nothing is recorded once it is erased.
    ProceedPurge { envelope_sequence: u64 },
    /// Which of these documents may leave the vault; those of a purged
    /// envelope go although uploads hold them.
    CollectDocuments { documents: Vec<Digest>, purged_envelope: Option<u64> },
    /// What is older leaves a system's feed.
    TrimFeed { system: SystemId, older_than_unix_ms: Millis },
    /// Uploads of a system whose time is over may not be named any more.
    LapseGrants { system: SystemId, documents: Vec<Digest> },
    /// What is due by now; the writer's own. Deadlines act only if the clock
    /// is trusted.
    Tick { clock_trusted: bool },
}

/// Bytes that are kept, with their SHA-256: hashed once, by whoever brings
/// them, so that the writer has no need to.
#[derive(Debug, Clone)]
pub struct Content {
    bytes: Bytes,
    sha256: Digest,
}

impl Content {
    /// Hashes them.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { sha256: Digest::of(&bytes), bytes }
    }

    /// The bytes, to pass on.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Their SHA-256.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }
}

impl Deref for Content {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

/// A verified envelope with its small documents.
#[derive(Debug, Clone)]
pub struct Submit {
    /// The calling system.
    pub system: SystemId,
    /// The parsed payload.
    pub envelope: Envelope,
    /// What was signed, by whom.
    pub signed: Signed,
    /// Documents that ride along, each found in the manifest by its SHA-256.
    pub documents: Vec<Content>,
    /// How long the hub will keep it once it is settled.
    pub kept: Kept,
    /// Its recipients, if they were looked up already.
    pub ahead: Option<Box<Ahead>>,
}

/// How long an envelope is kept once every recipient is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its content.
    pub cargo_ms: Millis,
    /// What Track and re-submission know of it.
    pub summary_ms: Millis,
}

impl Default for Kept {
    fn default() -> Self {
        Self { cargo_ms: limits::CARGO_KEPT_MS, summary_ms: limits::SUMMARY_KEPT_MS }
    }
}

/// Bytes whose signatures were verified.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The encoded SealedEnvelope, as it is kept.
    pub sealed: Content,
    /// SHA-256(PAE).
    pub digest: Digest,
    /// The keys that signed.
    pub key_ids: Vec<KeyId>,
    /// SHA-256 of the certificate that the caller showed.
    pub certificate: Digest,
}

/// What became of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The records, the one to show first.
    pub sequences: Vec<u64>,
    /// Whether it had been decided before; then nothing was recorded.
    pub duplicate: bool,
    /// How many recipients an envelope has that was accepted; 0 for others.
    pub recipient_count: u32,
}

impl Outcome {
    /// Records, nothing special.
    pub(crate) fn recorded(sequences: impl Into<Vec<u64>>) -> Self {
        Self { sequences: sequences.into(), ..Self::default() }
    }

    /// Decided before, by these records.
    pub(super) fn before(sequences: impl Into<Vec<u64>>) -> Self {
        Self { sequences: sequences.into(), duplicate: true, ..Self::default() }
    }

    /// The record to show.
    pub fn sequence(&self) -> Option<u64> {
        self.sequences.first().copied()
    }
}
