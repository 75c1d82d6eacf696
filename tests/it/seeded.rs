//! A hub with a long past that it has not lived through: what is made for
//! benchmarks and long queues is a hub like any other.

use axis_client::Outgoing;
use axis_proto::admin::v1::ListQueuesRequest;
use axis_tests::{
    Ministry, TestHub, code,
    seed::{EVERYONE, Plan, agency, further_agency, home, seed},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_seeded_hub_delivers_what_waits_and_takes_more() -> anyhow::Result<()> {
    let plan = Plan { waiting: 700, settled: 600, systems: 3, agencies: 250, document_bytes: 20 };
    let mut hub = TestHub::seeded(plan).await?;
    let ministry = Ministry::at(&home(&hub.path(), 1)).await?;
    let queues = hub.admin().await?.list_queues(ListQueuesRequest {}).await?.into_inner().queues;
    assert_eq!(queues.iter().map(|queue| queue.waiting).sum::<u64>(), 700);

    let mut deliveries = ministry.follow().await?;
    let received = ministry.next(&mut deliveries).await?;
    assert!(received.mailbox_sequence() > 198, "the first that waits is behind those that are settled");
    assert_ne!(received.sender(), received.recipient());
    received.ack("").await?;
    drop(deliveries);

    let letter = ministry.letter(&[&agency(2), &further_agency(249)], "Gửi hai nơi");
    ministry.send(letter).await?;
    let letter = Outgoing::new(ministry.agency(), "Gửi tất cả").group(EVERYONE.parse()?);
    let sent = ministry.send(letter.bytes("a.txt", &b"a"[..])).await?;
    let tracked = ministry.client.track(&code(&agency(1)), &sent.envelope_id).await?;
    assert_eq!(tracked.recipients.len(), 252);

    // more of a past, on top of what has happened since
    hub.stop().await;
    let path = hub.path();
    let more = Plan { waiting: 10, ..Plan::default() };
    tokio::task::spawn_blocking(move || seed(&path, &more, &mut |_| {})).await??;
    hub.resume().await?;
    let report = hub.finish().await?;
    assert_eq!((report.counts.envelopes, report.counts.settled), (1_312, 601));
    Ok(())
}
