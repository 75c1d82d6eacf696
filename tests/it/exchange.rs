//! Many ministries and provinces at once, not all of them well behaved: every
//! accepted (envelope, recipient) is settled once, what arrives is what was
//! sent, no mailbox number is missing, every receipt verifies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axis_client::{FeedOptions, Outgoing, ReceiveOptions, quiet};
use axis_proto::{
    envelope::v1::Priority,
    hub::v1::DeliveryState,
    id::{AgencyCode, Digest, EnvelopeId},
    record::v1::record::Event,
};
use axis_tests::{Ministry, TestHub, code, eventually, seed};

const SYSTEMS: usize = 22;
const LETTERS_EACH: usize = 12;

/// How a system takes its deliveries.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Habit {
    /// At once.
    Prompt,
    /// One at a time, and not at once.
    Slow,
    /// Only after everyone has sent.
    Offline,
    /// Dies with every fourth delivery in its hands.
    Dying,
    /// Says not now, once for each.
    Hesitant,
}

/// What was sent: by sender and id, the recipients and the files.
type Sent = BTreeMap<(AgencyCode, EnvelopeId), (BTreeSet<AgencyCode>, Vec<Digest>)>;

/// What was acknowledged: sender, id, recipient, and the files that came.
type Taken = Vec<(AgencyCode, EnvelopeId, AgencyCode, Vec<Digest>)>;

#[derive(Default)]
struct Exchange {
    sent: Mutex<Sent>,
    taken: Mutex<Taken>,
    expected: AtomicUsize,
    all_sent: tokio::sync::watch::Sender<bool>,
}

fn habit(system: usize) -> Habit {
    [Habit::Prompt, Habit::Slow, Habit::Prompt, Habit::Offline, Habit::Dying, Habit::Hesitant][system % 6]
}

/// The agencies that a system serves: two for every third, a province.
fn codes(system: usize) -> Vec<String> {
    if system.is_multiple_of(3) {
        vec![format!("H{system:02}"), format!("H{system:02}.01")]
    } else {
        vec![format!("G{system:02}")]
    }
}

fn file(random: &mut fastrand::Rng) -> Vec<u8> {
    let size = match random.u8(..) {
        0..=7 => random.usize(70_000..2_500_000),
        8..=99 => random.usize(0..65_536),
        _ => random.usize(0..4_096),
    };
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn ministries_and_provinces_exchange_concurrently() -> anyhow::Result<()> {
    let seed = seed();
    let hub = TestHub::start().await?;
    let mut ministries = Vec::new();
    for system in 0..SYSTEMS {
        let codes = codes(system);
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        ministries.push(Arc::new(hub.ministry(&format!("system-{system}"), &codes).await?));
    }
    axis_tests::admin::add_everyone(&mut hub.admin().await?, "tat-ca").await?;

    let exchange = Arc::new(Exchange::default());
    let mut receivers = Vec::new();
    for (system, ministry) in ministries.iter().enumerate() {
        receivers.push(tokio::spawn(receive(habit(system), Arc::clone(ministry), Arc::clone(&exchange))));
    }
    let senders = ministries.iter().enumerate().map(|(system, ministry)| {
        tokio::spawn(send(seed + system as u64, system, Arc::clone(ministry), Arc::clone(&exchange)))
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await??;
    }
    exchange.all_sent.send_replace(true);
    let expected = exchange.expected.load(Ordering::SeqCst);
    eventually("every delivery is acknowledged", async || {
        receivers.iter().any(|receiver| receiver.is_finished())
            || exchange.taken.lock().expect("whole").len() >= expected
    })
    .await;
    for receiver in receivers {
        if receiver.is_finished() {
            receiver.await??;
        } else {
            receiver.abort();
        }
    }

    let sent = exchange.sent.lock().expect("whole").clone();
    let taken = exchange.taken.lock().expect("whole").clone();
    everything_arrived_once(&sent, &taken)?;
    for ministry in &ministries {
        the_sender_can_tell(ministry, &sent, &hub).await?;
    }
    let queues =
        hub.admin().await?.list_queues(axis_proto::admin::v1::ListQueuesRequest {}).await?.into_inner();
    for queue in queues.queues {
        assert_eq!((queue.waiting, queue.leased, queue.parked), (0, 0, 0), "{}", queue.system);
    }
    let report = hub.finish().await?;
    assert_eq!(report.counts.envelopes as usize, sent.len());
    assert_eq!(report.counts.deliveries as usize, expected);
    assert_eq!(report.counts.settled as usize, expected);
    Ok(())
}

async fn send(
    seed: u64,
    system: usize,
    ministry: Arc<Ministry>,
    exchange: Arc<Exchange>,
) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let everyone: BTreeSet<AgencyCode> = (0..SYSTEMS).flat_map(codes).map(|name| code(&name)).collect();
    for number in 0..LETTERS_EACH {
        let from = ministry.agency();
        let mut outgoing = Outgoing::new(from.clone(), format!("Công văn số {number} của {from}"));
        let recipients: BTreeSet<AgencyCode> = if system == 1 && number == 5 {
            outgoing = outgoing.group("tat-ca".parse()?);
            everyone.iter().filter(|code| **code != from).cloned().collect()
        } else {
            let some = random.choose_multiple(everyone.iter(), random.clone().usize(1..5));
            some.into_iter().cloned().collect()
        };
        if outgoing.groups.is_empty() {
            outgoing = recipients.iter().fold(outgoing, |outgoing, to| outgoing.to(to.clone()));
        }
        let priority =
            *random.choice(&[Priority::Normal, Priority::Urgent, Priority::Express]).context("one")?;
        outgoing = outgoing.priority(priority);
        let files: Vec<Vec<u8>> = (0..random.usize(1..3)).map(|_| file(&mut random)).collect();
        let digests = files.iter().map(|bytes| Digest::of(bytes)).collect();
        for (place, bytes) in files.into_iter().enumerate() {
            outgoing = outgoing.bytes(format!("Phụ lục {place}.bin"), bytes);
        }
        // counted and known before it can arrive
        let envelope_id = EnvelopeId::new_v7();
        outgoing.envelope_id = Some(envelope_id);
        exchange.expected.fetch_add(recipients.len(), Ordering::SeqCst);
        exchange.sent.lock().expect("whole").insert((from, envelope_id), (recipients, digests));
        ministry.send(outgoing).await?;
    }
    Ok(())
}

async fn receive(habit: Habit, ministry: Arc<Ministry>, exchange: Arc<Exchange>) -> anyhow::Result<()> {
    if habit == Habit::Offline {
        exchange.all_sent.subscribe().wait_for(|all| *all).await?;
    }
    let mut seen = 0_usize;
    let mut hesitated = BTreeSet::new();
    loop {
        // a system that died comes back as a new process would
        let ministry = Ministry::at(ministry.home()).await?;
        let second = Duration::from_secs(1);
        let mut options = ReceiveOptions::following();
        if habit == Habit::Slow {
            options = options.held_max(1);
        }
        if habit == Habit::Dying {
            options = options.held_max(1).lease(second, second);
        }
        let mut deliveries = ministry.client.receive(options).await?;
        while let Some(received) = deliveries.next().await {
            let received = received?;
            seen += 1;
            if habit == Habit::Dying && seen.is_multiple_of(4) {
                std::mem::forget(received);
                break;
            }
            if habit == Habit::Hesitant && hesitated.insert(received.delivery_id()) {
                received.nack(Some(Duration::from_millis(1))).await?;
                continue;
            }
            if habit == Habit::Slow {
                tokio::task::yield_now().await;
            }
            let mut digests = Vec::new();
            for document in received.documents() {
                let mut bytes = Vec::new();
                document.write_to(&mut bytes, &quiet).await?;
                digests.push(Digest::of(&bytes));
            }
            let taken =
                (received.sender().clone(), *received.envelope_id(), received.recipient().clone(), digests);
            received.ack("Số đến 01").await?;
            exchange.taken.lock().expect("whole").push(taken);
        }
    }
}

fn everything_arrived_once(sent: &Sent, taken: &Taken) -> anyhow::Result<()> {
    let mut arrived: BTreeMap<(AgencyCode, EnvelopeId), BTreeSet<AgencyCode>> = BTreeMap::new();
    for (sender, id, recipient, digests) in taken {
        let key = (sender.clone(), *id);
        let (_, files) = sent.get(&key).context("nobody sent it")?;
        assert_eq!(digests, files, "the bytes that arrive are the bytes that were sent");
        assert!(
            arrived.entry(key).or_default().insert(recipient.clone()),
            "acknowledged twice by {recipient}"
        );
    }
    for (key, (recipients, _)) in sent {
        assert_eq!(arrived.get(key), Some(recipients), "{key:?}");
    }
    Ok(())
}

async fn the_sender_can_tell(ministry: &Ministry, sent: &Sent, hub: &TestHub) -> anyhow::Result<()> {
    let me = ministry.agency();
    let mine = sent.iter().filter(|((sender, _), _)| *sender == me);
    let mut settled = 0;
    for ((sender, id), (recipients, _)) in mine {
        let tracked = ministry.client.track(sender, id).await?;
        let agencies: BTreeSet<AgencyCode> = tracked.recipients.iter().map(|one| code(&one.agency)).collect();
        assert_eq!(agencies, *recipients);
        for one in &tracked.recipients {
            assert_eq!(one.state(), DeliveryState::Acknowledged, "{} {}", one.agency, one.delivery_id);
        }
        settled += recipients.len();
        let kept = ministry.client.sent(id)?.context("its receipt is kept")?;
        axis_proto::receipt::verify(&kept.receipt, &hub.verifier())?;
    }
    let mut acknowledged = 0;
    let mut feed = ministry.client.feed(FeedOptions::default()).await?;
    let mut expected = 1;
    while let Some(item) = feed.next().await {
        let item = item?;
        assert_eq!(item.feed_sequence, expected, "the feed has no gaps");
        expected += 1;
        let verified = axis_proto::receipt::verify(&item.receipt, &hub.verifier())?;
        acknowledged += usize::from(matches!(verified.record.event, Some(Event::Acknowledged(_))));
    }
    assert_eq!(acknowledged, settled, "the sender's feed tells of every acknowledgement");
    Ok(())
}
