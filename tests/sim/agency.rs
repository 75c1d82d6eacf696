//! Systems that send and receive: they ask again until they are answered,
//! never forget what they have sent, and know what they must be handed.

use std::{rc::Rc, time::Duration};

use axis_hub::{
    error::{Error, Result},
    machine::Command,
};
use axis_proto::{
    envelope::v1::{
        Acknowledgement, Document, DocumentBody, DocumentMetadata, Envelope, Priority, Recipient, Rejection,
        RejectionReason, SealedEnvelope, envelope::Body,
    },
    hub::v1::{Delivery, Reason},
    id::{DeliveryId, Digest, SystemId},
    key::SigningKey as Secret,
    record::v1::{Agency, AgencyState, Certificate, DirectoryEntry, SigningKey, directory_entry::Value},
    seal::{self, PayloadType},
};
use bytes::Bytes;
use prost::Message as _;
use tokio::time::sleep;

use crate::{
    calls::{Call, payload_of},
    hub::HUB_ID,
    world::World,
};

/// Systems and the agencies that each serves.
pub const SYSTEMS: [(&str, &[&str]); 4] =
    [("vpcp", &["G22"]), ("byt", &["G18"]), ("tayninh", &["H53", "H53.01"]), ("hue", &["H57"])];
/// The largest document that rides along; larger ones are uploaded.
const RIDES_BYTES_MAX: usize = 900;

/// How a recipient behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Acknowledges most of what comes.
    Willing,
    /// Takes its time, and lets leases lapse.
    Slow,
    /// Takes and says nothing.
    Silent,
    /// Answers in every way there is.
    Fussy,
}

/// A letter, until it is accepted.
pub struct Letter {
    from: usize,
    sealed: SealedEnvelope,
    documents: Vec<Bytes>,
}

pub fn system(place: usize) -> SystemId {
    SYSTEMS[place].0.parse().expect("a system id")
}

fn secret(place: usize) -> Secret {
    Secret::from_seed(&[place as u8 + 1; 32])
}

fn bytes_of(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

/// What makes the systems known to a new hub.
pub fn directory() -> Vec<Command> {
    let mut commands = Vec::new();
    for (place, (id, codes)) in SYSTEMS.iter().enumerate() {
        let agency = |code: &&str| DirectoryEntry {
            value: Some(Value::Agency(Agency {
                code: (*code).into(),
                name: (*code).into(),
                state: AgencyState::Active.into(),
                ..Agency::default()
            })),
        };
        let token_sha256 = Digest::of(id.as_bytes());
        commands.push(Command::ChangeDirectory {
            entries: codes.iter().map(agency).collect(),
            actor: "op".into(),
            remark: String::new(),
        });
        commands.push(Command::AddSystem {
            system: system(place),
            name: (*id).into(),
            agencies: codes.iter().map(|code| code.parse().expect("a code")).collect(),
            token_sha256,
            actor: "op".into(),
        });
        let public = secret(place).public();
        commands.push(Command::Enrol {
            token_sha256,
            certificate: Certificate {
                fingerprint: bytes_of(token_sha256.as_bytes()),
                valid_until_unix_ms: u64::MAX,
                ..Certificate::default()
            },
            signing_key: SigningKey {
                key_id: bytes_of(public.key_id().as_bytes()),
                public_key: bytes_of(*public.as_bytes()),
                ..SigningKey::default()
            },
        });
    }
    commands
}

/// An agency that writes no letters, so that no letter is refused when
/// another system serves it.
const MOVING: &str = "H53.01";

/// Another system serves that agency.
pub fn moves_to(place: usize) -> Command {
    let agency = Agency {
        code: MOVING.into(),
        name: MOVING.into(),
        state: AgencyState::Active.into(),
        system: system(place).to_string(),
        ..Agency::default()
    };
    let entries = vec![DirectoryEntry { value: Some(Value::Agency(agency)) }];
    Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() }
}

/// Writes a letter to some of the others.
fn write(world: &World, from: usize) -> Letter {
    let mut documents = Vec::new();
    for _ in 0..1 + world.random(3) {
        let size = if world.chance(3) { 1_000 + world.random(4_000) } else { world.random(RIDES_BYTES_MAX) };
        // zeros, too: what a lost sector looks like
        let fill = if world.chance(4) { 0 } else { world.random(256) as u8 };
        let mut bytes = vec![fill; size.max(16)];
        bytes[..8].copy_from_slice(&world.number().to_le_bytes());
        documents.push(Bytes::from(bytes));
    }
    let mut recipients = Vec::new();
    for (place, (_, codes)) in SYSTEMS.iter().enumerate() {
        for code in *codes {
            if place != from && world.chance(2) {
                recipients.push(Recipient { agency: (*code).into(), kind: 1 });
            }
        }
    }
    if recipients.is_empty() {
        let other = SYSTEMS[(from + 1) % SYSTEMS.len()].1[0];
        recipients.push(Recipient { agency: other.into(), kind: 1 });
    }
    let now_ms = world.wall_ms();
    let expires_unix_ms = if world.chance(4) { now_ms + 60_000 + world.random(1_200_000) as u64 } else { 0 };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&world.number().to_le_bytes());
    id[8..].copy_from_slice(&world.number().to_le_bytes());
    (id[6], id[8]) = (id[6] & 0x0f | 0x70, id[8] & 0x3f | 0x80);
    let named = |(place, bytes): (usize, &Bytes)| Document {
        name: format!("{place}.bin"),
        media_type: "application/octet-stream".into(),
        size: bytes.len() as u64,
        sha256: bytes_of(Digest::of(bytes).as_bytes()),
        ..Document::default()
    };
    let envelope = Envelope {
        envelope_id: bytes_of(id),
        hub_id: HUB_ID.into(),
        sender: SYSTEMS[from].1[0].into(),
        recipients,
        created_unix_ms: now_ms,
        expires_unix_ms,
        priority: Priority::Normal.into(),
        body: Some(Body::Document(DocumentBody {
            metadata: Some(DocumentMetadata { subject: "Về việc".into(), ..DocumentMetadata::default() }),
            documents: documents.iter().enumerate().map(named).collect(),
        })),
        ..Envelope::default()
    };
    let sealed = seal::seal(PayloadType::Envelope, envelope.encode_to_vec(), &[&secret(from)]);
    Letter { from, sealed, documents }
}

/// A system sends letters until it has sent its share.
pub async fn send(world: Rc<World>, from: usize) {
    loop {
        sleep(Duration::from_millis(1 + world.random(40) as u64)).await;
        if world.is_calm() {
            return;
        }
        if world.posting() < world.profile().posting_max {
            let letter = write(&world, from);
            world.posted(&letter.sealed, &letter.documents);
            world.spawn(post(world.clone(), letter));
        }
    }
}

/// Brings one letter to the hub, however often it takes.
async fn post(world: Rc<World>, letter: Letter) {
    let caller = system(letter.from);
    let (mut brought, mut unexpected) = (vec![false; letter.documents.len()], 0);
    loop {
        match submit(&world, &caller, &letter, &mut brought).await {
            Ok((_, sequence)) => return world.accepted(&letter.sealed, Some(sequence)),
            Err(Error::Refused(refusal)) => match refusal.reason {
                Reason::Busy | Reason::DiskFull | Reason::Stopping | Reason::Future => {}
                // too late for this one, by the hub's clock
                Reason::Expired | Reason::Stale => return world.accepted(&letter.sealed, None),
                Reason::DocumentMissing => brought.fill(false),
                reason => {
                    unexpected += 1;
                    assert!(unexpected < 3, "refused: {} {:?}", reason.short_name(), refusal.violations);
                }
            },
            Err(Error::Fault(_)) => {}
        }
        sleep(Duration::from_millis(5 + world.random(60) as u64)).await;
    }
}

async fn submit(
    world: &Rc<World>,
    caller: &SystemId,
    letter: &Letter,
    brought: &mut [bool],
) -> Result<(bool, u64)> {
    let mut riding = Vec::new();
    for (bytes, brought) in letter.documents.iter().zip(brought) {
        if bytes.len() <= RIDES_BYTES_MAX {
            riding.push(bytes.clone());
            continue;
        }
        while !*brought {
            let stop_after = if world.chance(2) { world.random(8) } else { usize::MAX };
            let call = || {
                let (world, caller, bytes) = (world.clone(), caller.clone(), bytes.clone());
                async move { Call::begin(&world, &caller)?.upload(bytes, stop_after).await }
            };
            *brought = world.send(call).await?;
        }
    }
    let call = || {
        let (world, caller, riding) = (world.clone(), caller.clone(), riding.clone());
        let sealed = letter.sealed.clone();
        async move { Call::begin(&world, &caller)?.submit(sealed, riding).await }
    };
    world.send(call).await
}

/// A system takes what comes, and answers in its way.
pub async fn receive(world: Rc<World>, place: usize) {
    let me = system(place);
    let mood = world.mood();
    loop {
        let pause = if mood == Mood::Slow && !world.is_calm() { 300 } else { 30 };
        sleep(Duration::from_millis(1 + world.random(pause) as u64)).await;
        let (credit, lease_ms) = (1 + world.random(5) as u32, 1_000 + world.random(30_000) as u64);
        let call = || {
            let (world, me) = (world.clone(), me.clone());
            async move { Call::begin(&world, &me)?.pull(credit, lease_ms).await }
        };
        let Ok(deliveries) = world.send(call).await else { continue };
        for delivery in deliveries {
            look(&world, &me, &delivery);
            let mood = if world.is_calm() { Mood::Willing } else { mood };
            answer(&world, place, &delivery, mood).await;
        }
    }
}

/// What is delivered is what was sent, and its documents are to be had.
fn look(world: &Rc<World>, me: &SystemId, delivery: &Delivery) {
    let sealed = delivery.sealed_envelope.as_ref().expect("sealed");
    let documents = world.sent(sealed);
    let id: DeliveryId = delivery.delivery_id.parse().expect("a delivery id");
    for bytes in documents {
        let Ok(call) = Call::begin(world, me) else { return };
        match call.download(&id, &Digest::of(&bytes)) {
            Ok(found) => assert_eq!(found, bytes, "a document is not what was sent"),
            Err(Error::Fault(fault)) if world.disk_is_good() => panic!("a document: {}", fault.chain()),
            Err(Error::Fault(_)) => {}
            Err(Error::Refused(refusal)) => {
                let name = refusal.reason.short_name();
                // it may have gone, and even come back
                let moved = delivery.recipient == MOVING
                    && matches!(refusal.reason, Reason::SenderNotServed | Reason::NeverLeased);
                assert!(world.is_purged(sealed) || moved, "a document: {name}");
            }
        }
    }
}

async fn answer(world: &Rc<World>, place: usize, delivery: &Delivery, mood: Mood) {
    let me = system(place);
    let id: DeliveryId = delivery.delivery_id.parse().expect("a delivery id");
    let attempt = delivery.attempt;
    let act = match mood {
        Mood::Willing if world.is_calm() => 0,
        Mood::Willing => world.random(12),
        Mood::Slow => 9 + world.random(3) * 40,
        Mood::Silent => 99,
        Mood::Fussy => 7 + world.random(5),
    };
    // what comes of it is seen at the next pull
    let _answered: Result<()> = match act {
        0..=7 => {
            let sealed = acknowledgement(world, place, delivery);
            let call = || {
                let (world, me, sealed) = (world.clone(), me.clone(), sealed.clone());
                async move { Call::begin(&world, &me)?.acknowledge(sealed).await }
            };
            world.send(call).await
        }
        8 => {
            let sealed = rejection(world, place, delivery);
            let call = || {
                let (world, me, sealed) = (world.clone(), me.clone(), sealed.clone());
                async move { Call::begin(&world, &me)?.reject(sealed).await }
            };
            world.send(call).await
        }
        9 | 10 => {
            let call = || {
                let (world, me) = (world.clone(), me.clone());
                async move { Call::begin(&world, &me)?.nack(id, attempt).await }
            };
            world.send(call).await
        }
        11 => {
            let call = || {
                let (world, me) = (world.clone(), me.clone());
                async move { Call::begin(&world, &me)?.extend(id, attempt).await }
            };
            world.send(call).await
        }
        _ => Ok(()),
    };
}

fn acknowledgement(world: &World, place: usize, delivery: &Delivery) -> SealedEnvelope {
    let acknowledgement = Acknowledgement {
        hub_id: HUB_ID.into(),
        delivery_id: delivery.delivery_id.clone(),
        envelope_digest: delivery.envelope_digest.clone(),
        recipient: delivery.recipient.clone(),
        mailbox_sequence: delivery.mailbox_sequence,
        acknowledged_unix_ms: world.wall_ms(),
        reference: payload_of(delivery).sender,
    };
    seal::seal(PayloadType::Acknowledgement, acknowledgement.encode_to_vec(), &[&secret(place)])
}

fn rejection(world: &World, place: usize, delivery: &Delivery) -> SealedEnvelope {
    let rejection = Rejection {
        hub_id: HUB_ID.into(),
        delivery_id: delivery.delivery_id.clone(),
        envelope_digest: delivery.envelope_digest.clone(),
        recipient: delivery.recipient.clone(),
        mailbox_sequence: delivery.mailbox_sequence,
        rejected_unix_ms: world.wall_ms(),
        reason: RejectionReason::Other.into(),
        explanation: "không thuộc thẩm quyền".into(),
    };
    seal::seal(PayloadType::Rejection, rejection.encode_to_vec(), &[&secret(place)])
}
