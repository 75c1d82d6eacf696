//! What a system can ask of the hub: the functions behind the wire, called in
//! its order, without it. Everything that leaves is remembered as a promise.

use std::{rc::Rc, time::Duration};

use axis_hub::{
    admit::{admit, admit_acknowledgement, admit_rejection},
    authenticate::{Caller, authenticate},
    deliver::{Appetite, Content, content_of, hand_over},
    error::{Error, Result},
    machine::{Command, Outcome},
    state::read_once,
    verify::{Ground, Verified, verify},
};
use axis_proto::{
    envelope::v1::SealedEnvelope,
    hub::v1::Delivery,
    id::{DeliveryId, Digest, SystemId},
    record::v1::{Receipt, Record, record::Event},
    seal::PayloadType,
};
use bytes::Bytes;
use prost::Message as _;
use tokio::time::{sleep, timeout};

use crate::{
    hub::{HUB_ID, Hub},
    world::World,
};

/// Bytes of one chunk of an upload.
const CHUNK_BYTES: usize = 700;

/// A call of one system on the hub that runs now.
pub struct Call {
    world: Rc<World>,
    hub: Rc<Hub>,
    caller: Caller,
}

impl Call {
    /// Begins a call, if a hub is there.
    pub fn begin(world: &Rc<World>, system: &SystemId) -> Result<Self> {
        let hub = world.hub().ok_or_else(|| Error::fault("nobody listens"))?;
        let fingerprint = Digest::of(system.as_str().as_bytes());
        let caller = read_once(&*hub.state, |read| authenticate(read, fingerprint, hub.clock.now_ms()))?;
        Ok(Self { world: world.clone(), hub, caller })
    }

    fn system(&self) -> &SystemId {
        &self.caller.system
    }

    fn ground(&self) -> Ground<'_> {
        Ground {
            hub_id: HUB_ID,
            state: &*self.hub.state,
            points: &self.hub.points,
            now_ms: self.hub.clock.now_ms(),
        }
    }

    fn verified(&self, sealed: &SealedEnvelope, expected: PayloadType) -> Result<Verified> {
        verify(self.ground(), &self.caller, sealed, expected)
    }

    /// Whether somebody is still there to answer.
    fn alive(&self) -> Result<()> {
        if self.hub.has_ended() { Err(Error::fault("the connection is gone")) } else { Ok(()) }
    }

    async fn commit(&self, command: Command) -> Result<Outcome> {
        let outcome = self.hub.committer.commit(command).await?;
        self.alive()?;
        Ok(outcome)
    }

    /// The receipt of a record, as it leaves the hub.
    fn receipt(&self, sequence: u64) -> Result<(Receipt, Record)> {
        let receipt = self.hub.evidence.receipt(sequence)?;
        let record = self.world.promises().show(&receipt);
        Ok((receipt, record))
    }

    async fn recorded(&self, command: Command) -> Result<(bool, Event)> {
        let outcome = self.commit(command).await?;
        let sequence = outcome.sequence().ok_or_else(|| Error::fault("nothing was recorded"))?;
        let (_, record) = self.receipt(sequence)?;
        Ok((outcome.duplicate, record.event.expect("an event")))
    }

    /// Submits an envelope; says whether it was there before, and where.
    pub async fn submit(self, sealed: SealedEnvelope, documents: Vec<Bytes>) -> Result<(bool, u64)> {
        let verified = self.verified(&sealed, PayloadType::Envelope)?;
        let admitted = admit(self.ground(), self.system(), verified, documents)?.submit;
        let outcome = self.commit(Command::Submit(admitted)).await?;
        let sequence = outcome.sequence().ok_or_else(|| Error::fault("nothing was recorded"))?;
        self.receipt(sequence)?;
        Ok((outcome.duplicate, sequence))
    }

    /// Brings a document from where it stands, or a part of it; says whether
    /// it is complete.
    pub async fn upload(self, bytes: Bytes, stop_after: usize) -> Result<bool> {
        let (sha256, size) = (Digest::of(&bytes), bytes.len() as u64);
        let system = self.system().clone();
        let known = read_once(&*self.hub.state, |read| {
            axis_hub::machine::query::upload(read, &system, &sha256)
                .is_some_and(|row| row.size == size && self.hub.clock.now_ms() < row.pinned_until_unix_ms)
        });
        if known {
            return Ok(true);
        }
        self.hub.committer.take_upload_room(size)?;
        let mut upload = self.hub.vault.begin(&system, &sha256, size)?;
        // what is found to stand may be less than what was said, if the disk
        // failed; from here on it is said anew
        let mut chunks = 0;
        while upload.committed() < size {
            if chunks == stop_after {
                upload.sync().inspect_err(|_| self.world.promises().no_part(&system, sha256))?;
                let committed = upload.committed();
                self.world.promises().part(&system, sha256, size, committed);
                return Ok(false);
            }
            let at = upload.committed() as usize;
            upload.append(&bytes[at..bytes.len().min(at + CHUNK_BYTES)])?;
            chunks += 1;
            if self.world.chance(3) {
                sleep(Duration::from_millis(1)).await;
                self.alive()?;
            }
        }
        self.world.promises().no_part(&system, sha256);
        upload.finish()?;
        self.recorded(Command::Upload { system: system.clone(), sha256, size }).await?;
        self.world.promises().document(&system, sha256, size);
        Ok(true)
    }

    /// Takes what waits.
    pub async fn pull(self, credit: u32, lease_ms: u64) -> Result<Vec<Delivery>> {
        let appetite = Appetite {
            credit,
            lease_duration_ms: lease_ms,
            bytes_max: Some(100_000),
            once: true,
            impatient: true,
        };
        let mut taking = self.hub.deliver.take(self.system(), appetite);
        let leases = timeout(Duration::from_secs(2), taking.next()).await.unwrap_or_default();
        self.alive()?;
        let mut deliveries = Vec::new();
        for lease in leases {
            let Some(delivery) = hand_over(&*self.hub.state, &self.hub.evidence, lease)? else { continue };
            self.world.promises().show(delivery.receipt.as_ref().expect("a receipt"));
            self.world.handed_over(&delivery);
            deliveries.push(delivery);
        }
        Ok(deliveries)
    }

    /// Fetches a document of a delivery.
    pub fn download(&self, id: &DeliveryId, sha256: &Digest) -> Result<Bytes> {
        let content = content_of(&*self.hub.state, &self.hub.evidence, self.system(), id, sha256)?;
        self.world.given(id.envelope_sequence);
        match content {
            Content::Inline(bytes) => Ok(bytes),
            Content::Vault { sha256, size } => {
                let document = self.hub.vault.open_document(&sha256)?;
                assert_eq!(document.size(), size, "a document of another size");
                let mut reader = document.reader();
                let mut bytes = Vec::new();
                while (bytes.len() as u64) < size {
                    bytes.extend(reader.next(CHUNK_BYTES)?);
                }
                Ok(bytes.into())
            }
        }
    }

    /// The recipient holds it.
    pub async fn acknowledge(self, sealed: SealedEnvelope) -> Result<()> {
        let verified = self.verified(&sealed, PayloadType::Acknowledgement)?;
        let (acknowledgement, signed) = admit_acknowledgement(self.ground(), self.system(), verified)?;
        let (system, id) = (self.system().clone(), acknowledgement.delivery_id.clone());
        self.recorded(Command::Acknowledge { system, acknowledgement, signed }).await?;
        self.world.settled(id);
        Ok(())
    }

    /// The recipient cannot take it.
    pub async fn reject(self, sealed: SealedEnvelope) -> Result<()> {
        let verified = self.verified(&sealed, PayloadType::Rejection)?;
        let (rejection, signed) = admit_rejection(self.ground(), self.system(), verified)?;
        let (system, id) = (self.system().clone(), rejection.delivery_id.clone());
        self.recorded(Command::Reject { system, rejection, signed }).await?;
        self.world.settled(id);
        Ok(())
    }

    /// Not now.
    pub async fn nack(self, delivery: DeliveryId, attempt: u32) -> Result<()> {
        let system = self.system().clone();
        self.recorded(Command::Nack { system, delivery, attempt, delay_ms: 0 }).await?;
        Ok(())
    }

    /// Longer.
    pub async fn extend(self, delivery: DeliveryId, attempt: u32) -> Result<()> {
        let system = self.system().clone();
        self.recorded(Command::Extend { system, delivery, attempt, duration_ms: 30_000 }).await?;
        Ok(())
    }

    /// What an operator or the hub itself does.
    pub async fn command(world: &Rc<World>, command: Command) -> Result<()> {
        let hub = world.hub().ok_or_else(|| Error::fault("nobody listens"))?;
        let outcome = hub.committer.commit(command).await?;
        if hub.has_ended() {
            return Err(Error::fault("the connection is gone"));
        }
        for sequence in outcome.sequences {
            let receipt = hub.evidence.receipt(sequence)?;
            world.promises().show(&receipt);
        }
        Ok(())
    }
}

/// The payload of what was delivered.
pub fn payload_of(delivery: &Delivery) -> axis_proto::envelope::v1::Envelope {
    let sealed = delivery.sealed_envelope.as_ref().expect("sealed");
    axis_proto::envelope::v1::Envelope::decode(sealed.payload.clone()).expect("an envelope")
}
