//! SIGKILL at random moments under load: no acknowledged submission, lease or
//! acknowledgement is lost, and what happens to the derived state meanwhile
//! changes nothing that a client can see.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axis_client::ReceiveOptions;
use axis_hub::{disk::RealDisk, journal::segments};
use axis_proto::{
    id::{DeliveryId, EnvelopeId},
    record::v1::{Record, record::Event},
};
use axis_tests::{HubProcess, Ministry, copy, eventually, seed};
use prost::Message;

const KILLS: usize = 50;
const CODES: [&str; 4] = ["G01", "G02", "H01", "H02"];

/// What clients were told.
#[derive(Default)]
struct Told {
    accepted: Mutex<BTreeSet<EnvelopeId>>,
    leased: Mutex<BTreeSet<(DeliveryId, u32)>>,
    acknowledged: Mutex<BTreeSet<DeliveryId>>,
    answers: AtomicUsize,
    sending_ends: AtomicBool,
    all_ends: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_under_load() -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut hub = HubProcess::start().await?;
    let told = Arc::new(Told::default());
    let mut ministries = Vec::new();
    for code in CODES {
        ministries.push((code, Arc::new(hub.ministry(&code.to_lowercase(), &[code]).await?)));
    }
    let mut tasks = Vec::new();
    for (code, ministry) in ministries {
        for _ in 0..3 {
            tasks.push(tokio::spawn(send(code, Arc::clone(&ministry), Arc::clone(&told))));
        }
        tasks.push(tokio::spawn(receive(ministry.home().to_owned(), Arc::clone(&told))));
    }

    let older = tempfile::tempdir()?;
    for kill in 1..=KILLS {
        let enough = told.answers.load(Ordering::SeqCst) + random.usize(1..120);
        eventually("clients are answered", async || {
            told.answers.load(Ordering::SeqCst) >= enough || tasks.iter().any(|task| task.is_finished())
        })
        .await;
        if let Some(ended) = tasks.iter().position(tokio::task::JoinHandle::is_finished) {
            tasks.swap_remove(ended).await?.context("a client gave up")?;
        }
        hub.kill()?;
        let state = hub.path().join("data/state");
        match kill % 10 {
            2 => copy(&state, older.path())?,
            4 => std::fs::remove_dir_all(&state)?,
            6 => {
                std::fs::remove_dir_all(&state)?;
                copy(older.path(), &state)?;
            }
            8 => damage(&state, &mut random)?,
            _ => {}
        }
        hub.resume().await.with_context(|| format!("after kill {kill}"))?;
    }

    told.sending_ends.store(true, Ordering::SeqCst);
    let mut receivers = Vec::new();
    for (place, task) in tasks.into_iter().enumerate() {
        if place % 4 == 3 { receivers.push(task) } else { task.await?? }
    }
    let mut admin = hub.admin().await?;
    eventually("nothing waits any more", async || {
        let queues = admin.list_queues(axis_proto::admin::v1::ListQueuesRequest {}).await;
        queues.is_ok_and(|queues| queues.into_inner().queues.iter().all(|queue| queue.waiting == 0))
    })
    .await;
    told.all_ends.store(true, Ordering::SeqCst);
    receivers.iter().for_each(tokio::task::JoinHandle::abort);

    hub.terminate().await?;
    let journal = hub.path().join("data/journal");
    everything_told_is_in_the_journal(&journal, &told)?;
    let report = hub.finish().await?;
    assert_eq!(report.counts.deliveries, report.counts.settled);
    println!(
        "{KILLS} kills, {} envelopes, {} answers",
        report.counts.envelopes,
        told.answers.load(Ordering::SeqCst)
    );
    Ok(())
}

async fn send(from: &'static str, ministry: Arc<Ministry>, told: Arc<Told>) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::new();
    while !told.sending_ends.load(Ordering::SeqCst) {
        let to =
            CODES.iter().filter(|code| **code != from).nth(random.usize(0..3)).context("three others")?;
        let sent = ministry.send(ministry.letter(&[to], "Kiểm tra")).await?;
        told.accepted.lock().expect("whole").insert(sent.envelope_id);
        told.answers.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

async fn receive(home: std::path::PathBuf, told: Arc<Told>) -> anyhow::Result<()> {
    let second = Duration::from_secs(1);
    while !told.all_ends.load(Ordering::SeqCst) {
        let ministry = Ministry::at(&home).await?;
        let options = ReceiveOptions::following().lease(second, 10 * second);
        let mut deliveries = ministry.client.receive(options).await?;
        while let Some(received) = deliveries.next().await {
            let received = received?;
            let id = received.delivery_id();
            told.leased.lock().expect("whole").insert((id, received.attempt()));
            if received.ack("").await.is_ok() {
                told.acknowledged.lock().expect("whole").insert(id);
                told.answers.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    Ok(())
}

fn everything_told_is_in_the_journal(journal: &Path, told: &Told) -> anyhow::Result<()> {
    let (mut accepted, mut leased, mut acknowledged) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let id_of = |delivery: Option<&axis_proto::record::v1::Delivery>| {
        delivery.map(axis_hub::machine::delivery_id).expect("records name their delivery")
    };
    segments::verify(&*RealDisk::shared(), journal, &mut |batch| {
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
    let lost: Vec<_> = told.accepted.lock().expect("whole").difference(&accepted).copied().collect();
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    let lost: Vec<_> = told.leased.lock().expect("whole").difference(&leased).copied().collect();
    assert!(lost.is_empty(), "leased and lost: {lost:?}");
    let lost: Vec<_> = told.acknowledged.lock().expect("whole").difference(&acknowledged).copied().collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    Ok(())
}

/// Flips some bytes in every file.
fn damage(folder: &Path, random: &mut fastrand::Rng) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            damage(&path, random)?;
            continue;
        }
        let mut bytes = std::fs::read(&path)?;
        for _ in 0..(bytes.len() / 4_096).clamp(1, 50) {
            if let Some(byte) = random.choice(&mut bytes) {
                *byte ^= 1 << random.u8(..8);
            }
        }
        std::fs::write(&path, bytes)?;
    }
    Ok(())
}
