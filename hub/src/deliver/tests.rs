//! Situations between a mailbox and those who take from it, over a real
//! journal on a disk in memory.

use std::time::Duration;

use axis_proto::{
    envelope::v1::{Document, DocumentBody, DocumentMetadata, Envelope, Priority, Recipient, envelope::Body},
    id::{DeliveryId, Digest, EnvelopeId},
    receipt,
    record::v1::SystemState,
    seal::{self, PayloadType},
};
use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Appetite, Content, Deliver, Lease, Taking, Wakes, content_of, hand_over};
use crate::{
    disk::MemoryDisk,
    error::{Error, Result},
    journal::segments::Layout,
    machine::{Command, query},
    testing::{House, START_MS, bytes_of, secret, signer, system},
};

const MINUTE: u64 = 60_000;

/// `vpcp` serves G22 and sends; `byt` serves G18 and receives.
struct World {
    house: House,
    deliver: Deliver,
}

impl World {
    async fn new() -> Self {
        let house = House::open(&MemoryDisk::default(), Layout::default());
        let wakes = Wakes::start(house.committer.watch(), house.journal.clone());
        let (state, committer, clock) = (house.state.clone(), house.committer.clone(), house.clock.clone());
        let deliver = Deliver::new(state, committer, clock, wakes, CancellationToken::new());
        house.enrol("vpcp", &["G22".to_owned()]).await;
        house.enrol("byt", &["G18".to_owned()]).await;
        Self { house, deliver }
    }

    /// Sends one document of so many bytes to G18; says which delivery.
    async fn send(&self, size: usize, priority: Priority) -> DeliveryId {
        let content = Bytes::from(vec![7; size]);
        let envelope = Envelope {
            envelope_id: bytes_of(EnvelopeId::new_v7().as_bytes()),
            hub_id: "truc".into(),
            sender: "G22".into(),
            recipients: vec![Recipient { agency: "G18".into(), kind: 1 }],
            created_unix_ms: self.house.clock.now_ms(),
            priority: priority.into(),
            body: Some(Body::Document(DocumentBody {
                metadata: Some(DocumentMetadata {
                    subject: "Về việc".into(), ..DocumentMetadata::default()
                }),
                documents: vec![Document {
                    name: "a.bin".into(),
                    media_type: "application/octet-stream".into(),
                    size: size as u64,
                    sha256: bytes_of(Digest::of(&content).as_bytes()),
                    ..Document::default()
                }],
            })),
            ..Envelope::default()
        };
        let envelope_sequence = self.house.submit("vpcp", envelope, vec![content]).await;
        DeliveryId { envelope_sequence, recipient_index: 0 }
    }

    fn take(&self, credit: u32) -> Taking {
        self.deliver.take(&system("byt"), appetite(credit))
    }

    fn made(&self, lease: Lease) -> Option<axis_proto::hub::v1::Delivery> {
        hand_over(&*self.house.state, &self.house.evidence, lease).expect("readable")
    }

    fn leased(&self) -> u64 {
        self.house.read(|read| query::mailbox(read, &system("byt")).leased)
    }

    fn content(&self, id: &DeliveryId, sha256: &Digest) -> Result<Content> {
        content_of(&*self.house.state, &self.house.evidence, &system("byt"), id, sha256)
    }
}

fn appetite(credit: u32) -> Appetite {
    Appetite { credit, lease_duration_ms: MINUTE, bytes_max: None, once: false, impatient: false }
}

/// The next round, which must come.
async fn round(taking: &mut Taking) -> Vec<Lease> {
    timeout(Duration::from_secs(10), taking.next()).await.expect("a round of leases")
}

/// So many leases, in as many rounds as it takes.
async fn leases(taking: &mut Taking, count: usize) -> Vec<Lease> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(round(taking).await);
    }
    all
}

/// Lets everybody act who can.
async fn settle_down() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test]
async fn what_waits_is_handed_over_as_it_was_sent() {
    let world = World::new().await;
    let id = world.send(1_000, Priority::Urgent).await;
    let mut taking = world.take(1);
    let lease = round(&mut taking).await[0];
    let delivery = world.made(lease).expect("current");
    assert_eq!(delivery.delivery_id, id.to_string());
    assert_eq!((delivery.mailbox_sequence, delivery.attempt), (1, 1));
    assert_eq!(delivery.recipient, "G18");
    assert_eq!(delivery.lease_until_unix_ms, START_MS + MINUTE);
    assert_eq!(delivery.documents, [vec![7; 1_000]]);
    assert_eq!(delivery.signing_keys[0].key_id, secret("vpcp").public().key_id().as_bytes()[..]);
    let sealed = delivery.sealed_envelope.expect("sealed");
    let opened =
        seal::open(&sealed, PayloadType::Envelope, &mut |_| Some(secret("vpcp").public())).expect("opens");
    assert_eq!(delivery.envelope_digest, opened.digest.as_bytes()[..]);
    let receipt =
        receipt::verify(&delivery.receipt.expect("a receipt"), &signer().verifier()).expect("verifies");
    assert_eq!(receipt.index, lease.0);
    assert_eq!(delivery.accepted_sequence, id.envelope_sequence);
}

#[tokio::test]
async fn nothing_is_leased_that_nobody_has_credit_for() {
    let world = World::new().await;
    for _ in 0..5 {
        world.send(10, Priority::Normal).await;
    }
    let mut taking = world.take(2);
    assert_eq!(leases(&mut taking, 2).await.len(), 2);
    settle_down().await;
    assert_eq!(world.leased(), 2);
    taking.credit().want(1);
    assert_eq!(leases(&mut taking, 1).await.len(), 1);
    settle_down().await;
    assert_eq!(world.leased(), 3);
}

#[tokio::test]
async fn what_comes_later_is_pushed_and_express_comes_first() {
    let world = World::new().await;
    let mut taking = world.take(10);
    settle_down().await;
    let id = world.send(10, Priority::Normal).await;
    let first = world.made(round(&mut taking).await[0]).expect("current");
    assert_eq!(first.delivery_id, id.to_string());
    drop(taking);
    world.send(10, Priority::Normal).await;
    let express = world.send(10, Priority::Express).await;
    let mut taking = world.take(1);
    let next = world.made(round(&mut taking).await[0]).expect("current");
    assert_eq!(next.delivery_id, express.to_string());
}

#[tokio::test]
async fn two_take_in_turns_and_a_slow_one_costs_its_own_credit() {
    let world = World::new().await;
    let (mut one, slow) = (world.take(0), world.take(0));
    for _ in 0..8 {
        world.send(10, Priority::Normal).await;
    }
    slow.credit().want(3);
    one.credit().want(3);
    assert_eq!(leases(&mut one, 3).await.len(), 3);
    one.credit().want(10);
    assert_eq!(leases(&mut one, 2).await.len(), 2, "the slow one has three");
    assert_eq!(slow.finish().await.len(), 3, "on their way to it");
}

#[tokio::test]
async fn a_pull_gets_one_round_within_its_bytes_or_nothing_at_once() {
    let world = World::new().await;
    let pull = Appetite { credit: 10, bytes_max: Some(90_000), once: true, impatient: true, ..appetite(0) };
    let mut empty = world.deliver.take(&system("byt"), pull);
    assert_eq!(round(&mut empty).await, []);
    drop(empty);
    for size in [40_000, 40_000, 40_000] {
        world.send(size, Priority::Normal).await;
    }
    let mut taking = world.deliver.take(&system("byt"), pull);
    assert_eq!(round(&mut taking).await.len(), 2, "the third would be too much");
    settle_down().await;
    assert_eq!(world.leased(), 2, "one round is all");
    drop(taking);
    let small = Appetite { bytes_max: Some(1), ..pull };
    let mut taking = world.deliver.take(&system("byt"), small);
    assert_eq!(round(&mut taking).await.len(), 1, "always one");
}

#[tokio::test]
async fn a_nacked_delivery_comes_again_when_it_is_due() {
    let world = World::new().await;
    let delivery = world.send(10, Priority::Normal).await;
    let mut taking = world.take(2);
    let first = round(&mut taking).await[0];
    world.house.ok(Command::Nack { system: system("byt"), delivery, attempt: 1, delay_ms: MINUTE }).await;
    assert!(world.made(first).is_none(), "the lease is not current any more");
    assert!(timeout(Duration::from_millis(700), taking.next()).await.is_err(), "not due yet");
    world.house.clock.advance(MINUTE);
    let again = world.made(round(&mut taking).await[0]).expect("current");
    assert_eq!((again.delivery_id, again.attempt), (delivery.to_string(), 2));
}

#[tokio::test]
async fn deliveries_go_on_when_the_clock_has_jumped() {
    let world = World::new().await;
    world.send(10, Priority::Normal).await;
    world.house.clock.jump_to(START_MS + 40 * crate::limits::DAY_MS);
    assert_eq!(round(&mut world.take(1)).await.len(), 1);
}

#[tokio::test]
async fn what_waits_for_a_suspended_system_is_held() {
    let world = World::new().await;
    let set = |state| Command::SetSystemState {
        system: system("byt"),
        state,
        actor: "op".into(),
        remark: String::new(),
    };
    world.send(10, Priority::Normal).await;
    world.house.ok(set(SystemState::Suspended)).await;
    let mut taking = world.take(5);
    assert!(timeout(Duration::from_millis(300), taking.next()).await.is_err(), "held");
    world.house.ok(set(SystemState::Active)).await;
    assert_eq!(round(&mut taking).await.len(), 1);
}

#[tokio::test]
async fn a_mailbox_is_served_again_after_everybody_left() {
    let world = World::new().await;
    drop(world.take(1));
    settle_down().await;
    assert!(world.deliver.0.mailboxes().is_empty(), "its dispatcher has ended");
    world.send(10, Priority::Normal).await;
    assert_eq!(round(&mut world.take(1)).await.len(), 1);
}

#[tokio::test]
async fn documents_are_for_those_who_were_given_the_delivery() {
    let world = World::new().await;
    let id = world.send(1_000, Priority::Normal).await;
    let sha256 = Digest::of(&[7; 1_000]);
    let reason = |result: Result<Content>| match result.expect_err("refused") {
        Error::Refused(refusal) => refusal.reason.short_name(),
        Error::Fault(fault) => panic!("{}", fault.chain()),
    };
    assert_eq!(reason(world.content(&id, &sha256)), "NEVER_LEASED");
    let mut taking = world.take(1);
    round(&mut taking).await;
    assert_eq!(world.content(&id, &sha256).expect("given"), Content::Inline(vec![7; 1_000].into()));
    assert_eq!(reason(world.content(&id, &Digest::of(b"other"))), "NOT_FOUND");
    let stranger = content_of(&*world.house.state, &world.house.evidence, &system("vpcp"), &id, &sha256);
    assert_eq!(reason(stranger), "DELIVERY_UNKNOWN");
}

#[tokio::test]
async fn only_those_whom_it_concerns_are_woken() {
    let world = World::new().await;
    let (mut receiver, mut stranger) =
        (world.deliver.wake_of(&system("byt")), world.deliver.wake_of(&system("tayninh")));
    // the first wake may be of the directory that the world was made with
    for _ in 0..2 {
        settle_down().await;
        stranger.borrow_and_update();
        receiver.borrow_and_update();
        world.send(10, Priority::Normal).await;
        timeout(Duration::from_secs(10), receiver.changed()).await.expect("woken").expect("open");
    }
    settle_down().await;
    assert!(!stranger.has_changed().expect("open"));
    world
        .house
        .ok(Command::RevokeSigningKey {
            key_id: secret("vpcp").public().key_id(),
            only_of: None,
            actor: "op".into(),
            remark: String::new(),
        })
        .await;
    timeout(Duration::from_secs(10), stranger.changed())
        .await
        .expect("the directory is everybody's")
        .expect("open");
}
