//! A load of real clients on a hub that dies under them, and what they were
//! told: nothing of it may be lost.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axis_client::ReceiveOptions;
use axis_hub::{disk::RealDisk, journal::segments, vault::Vault};
use axis_proto::{
    admin::v1::ListQueuesRequest,
    id::{DeliveryId, Digest, EnvelopeId},
    record::v1::{Record, record::Event},
};
use prost::Message as _;
use tokio::task::JoinHandle;

use crate::{HubProcess, Ministry, eventually};

const CODES: [&str; 4] = ["G01", "G02", "H01", "H02"];
const SENDERS_PER_MINISTRY: usize = 3;
/// Every so many letters of a sender carries a file that is uploaded.
const UPLOAD_EVERY: usize = 5;
const UPLOAD_BYTES: usize = 80 * 1024;

/// What clients were told.
#[derive(Debug, Default)]
pub struct Told {
    accepted: Mutex<BTreeSet<EnvelopeId>>,
    leased: Mutex<BTreeSet<(DeliveryId, u32)>>,
    acknowledged: Mutex<BTreeSet<DeliveryId>>,
    documents: Mutex<BTreeSet<Digest>>,
    answers: AtomicUsize,
    sending_ends: AtomicBool,
    all_ends: AtomicBool,
}

/// What was told and is not there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Envelopes that were accepted.
    pub accepted: Vec<EnvelopeId>,
    /// Deliveries that were handed out, with the attempt.
    pub leased: Vec<(DeliveryId, u32)>,
    /// Deliveries whose acknowledgement was taken.
    pub acknowledged: Vec<DeliveryId>,
    /// Documents of accepted envelopes.
    pub documents: Vec<Digest>,
}

impl Lost {
    /// Whether nothing is lost.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Four ministries that send to each other and receive, without pause.
#[derive(Debug)]
pub struct Load {
    told: Arc<Told>,
    senders: Vec<JoinHandle<anyhow::Result<()>>>,
    receivers: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    /// Enrols the ministries and starts them.
    pub async fn start(hub: &HubProcess) -> anyhow::Result<Self> {
        let mut load = Self { told: Arc::default(), senders: Vec::new(), receivers: Vec::new() };
        let mut ministries = Vec::new();
        for code in CODES {
            ministries.push((code, Arc::new(hub.ministry(&code.to_lowercase(), &[code]).await?)));
        }
        for (code, ministry) in ministries {
            for _ in 0..SENDERS_PER_MINISTRY {
                load.senders.push(tokio::spawn(send(code, Arc::clone(&ministry), Arc::clone(&load.told))));
            }
            let home = ministry.home().to_owned();
            load.receivers.push(tokio::spawn(receive(home, Arc::clone(&load.told))));
        }
        Ok(load)
    }

    /// Answers so far.
    pub fn answers(&self) -> usize {
        self.told.answers.load(Ordering::SeqCst)
    }

    /// Waits for so many more answers; an error if a client gives up.
    pub async fn answered(&mut self, more: usize) -> anyhow::Result<()> {
        let enough = self.answers() + more;
        let mut ended = None;
        eventually("clients are answered", async || {
            ended = self.senders.iter().chain(&self.receivers).position(JoinHandle::is_finished);
            self.answers() >= enough || ended.is_some()
        })
        .await;
        if let Some(place) = ended {
            let senders = self.senders.len();
            let task = match place.checked_sub(senders) {
                None => self.senders.swap_remove(place),
                Some(place) => self.receivers.swap_remove(place),
            };
            task.await?.context("a client gave up")?;
        }
        Ok(())
    }

    /// Stops sending, waits until nothing waits any more, and stops receiving.
    pub async fn settle(mut self, hub: &HubProcess) -> anyhow::Result<Arc<Told>> {
        self.told.sending_ends.store(true, Ordering::SeqCst);
        for sender in std::mem::take(&mut self.senders) {
            sender.await??;
        }
        let mut admin = hub.admin().await?;
        eventually("nothing waits any more", async || {
            let queues = admin.list_queues(ListQueuesRequest {}).await;
            queues.is_ok_and(|queues| queues.into_inner().queues.iter().all(|queue| queue.waiting == 0))
        })
        .await;
        self.told.all_ends.store(true, Ordering::SeqCst);
        Ok(Arc::clone(&self.told))
    }

    /// What was told and is not in these stores, which nobody writes.
    pub fn lost(&self, data: &Path) -> anyhow::Result<Lost> {
        self.told.lost(data)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.senders.iter().chain(&self.receivers).for_each(JoinHandle::abort);
    }
}

async fn send(from: &'static str, ministry: Arc<Ministry>, told: Arc<Told>) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::new();
    let mut number = 0;
    while !told.sending_ends.load(Ordering::SeqCst) {
        let to =
            CODES.iter().filter(|code| **code != from).nth(random.usize(0..3)).context("three others")?;
        let mut letter = ministry.letter(&[to], "Kiểm tra");
        let mut document = None;
        number += 1;
        if number % UPLOAD_EVERY == 0 {
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(UPLOAD_BYTES).collect();
            document = Some(Digest::of(&bytes));
            letter = letter.bytes("Phụ lục.bin", bytes);
        }
        let sent = ministry.send(letter).await?;
        held(&told.accepted).insert(sent.envelope_id);
        held(&told.documents).extend(document);
        told.answers.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

async fn receive(home: PathBuf, told: Arc<Told>) -> anyhow::Result<()> {
    let second = Duration::from_secs(1);
    while !told.all_ends.load(Ordering::SeqCst) {
        let ministry = Ministry::at(&home).await?;
        let options = ReceiveOptions::following().lease(second, 10 * second);
        let mut deliveries = ministry.client.receive(options).await?;
        while let Some(received) = deliveries.next().await {
            let received = received?;
            let id = received.delivery_id();
            held(&told.leased).insert((id, received.attempt()));
            if received.ack("").await.is_ok() {
                held(&told.acknowledged).insert(id);
                told.answers.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    Ok(())
}

impl Told {
    /// Answers in all.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }

    /// What was told and is not in these stores, which nobody writes.
    pub fn lost(&self, data: &Path) -> anyhow::Result<Lost> {
        let (mut accepted, mut leased, mut acknowledged) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let id_of = |delivery: Option<&axis_proto::record::v1::Delivery>| {
            delivery.map(axis_hub::machine::delivery_id).expect("records name their delivery")
        };
        segments::verify(&*RealDisk::shared(), &data.join("journal"), &mut |batch| {
            for entry in batch.entries {
                match Record::decode(entry.record).expect("fsck reads it too").event {
                    Some(Event::Accepted(event)) => {
                        accepted.insert(EnvelopeId::from_slice(&event.envelope_id).expect("an id"));
                    }
                    Some(Event::Leased(event)) => {
                        leased.insert((id_of(event.delivery.as_ref()), event.attempt));
                    }
                    Some(Event::Acknowledged(event)) => {
                        acknowledged.insert(id_of(event.delivery.as_ref()));
                    }
                    _ => {}
                }
            }
        })?;
        let vault = Vault::open(RealDisk::shared(), &data.join("vault"))?;
        let whole = |sha256: &Digest| vault.open_document(sha256).and_then(|document| document.verify());
        Ok(Lost {
            accepted: held(&self.accepted).difference(&accepted).copied().collect(),
            leased: held(&self.leased).difference(&leased).copied().collect(),
            acknowledged: held(&self.acknowledged).difference(&acknowledged).copied().collect(),
            documents: held(&self.documents)
                .iter()
                .filter(|sha256| whole(sha256).is_err())
                .copied()
                .collect(),
        })
    }
}

fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
