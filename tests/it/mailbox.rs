//! A mailbox through its ups and downs.

use std::time::Duration;

use axis_client::{FeedOptions, quiet};
use axis_hub::{
    clock::Clock,
    limits::{ATTEMPTS_MAX, BACKOFF_MAX_MS, DAY_MS, MINUTE_MS},
};
use axis_proto::{
    admin::v1::{
        ChangeDirectoryRequest, ListAgenciesRequest, ListParkedRequest, ListQueuesRequest, RequeueRequest,
        ReturnRequest,
    },
    envelope::v1::{Priority, RejectionReason},
    hub::v1::{
        DeliveryState, DownloadRequest, ExtendRequest, GetCheckpointRequest, GetConsistencyRequest,
        NackRequest, PullRequest, Reason, SubmitRequest, TrackedRecipient,
        evidence_service_client::EvidenceServiceClient,
    },
    id::{Digest, EnvelopeId},
    record::v1::{DirectoryEntry, Settlement, directory_entry::Value, record::Event},
    tree::verify_consistency,
};
use axis_tests::{Ministry, Raw, TestHub, eventually, refusal_of};
use bytes::Bytes;

async fn two(hub: &TestHub) -> anyhow::Result<(Ministry, Ministry)> {
    Ok((hub.ministry("vpcp", &["G22"]).await?, hub.ministry("byt", &["G18"]).await?))
}

async fn where_is(sender: &Ministry, id: &EnvelopeId) -> anyhow::Result<TrackedRecipient> {
    Ok(sender.client.track(&sender.agency(), id).await?.recipients.remove(0))
}

/// Now, as the machine's clock has it, for hubs whose clock the test moves.
fn manual() -> Clock {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Clock::manual(now.as_millis() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_received_acknowledged_tracked() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = two(&hub).await?;
    let large = vec![7; 3_000_000];
    let letter = vpcp.letter(&["G18"], "Về việc phòng, chống dịch").bytes("Phụ lục.bin", large.clone());
    let sent = vpcp.send(letter).await?;
    assert_eq!(where_is(&vpcp, &sent.envelope_id).await?.state(), DeliveryState::Waiting);
    let mut deliveries = byt.follow().await?;
    let received = byt.next(&mut deliveries).await?;
    assert_eq!(received.envelope_id(), &sent.envelope_id);
    assert_eq!(received.metadata().subject, "Về việc phòng, chống dịch");
    assert_eq!(where_is(&vpcp, &sent.envelope_id).await?.state(), DeliveryState::Leased);
    let mut bytes = Vec::new();
    received.documents()[1].write_to(&mut bytes, &quiet).await?;
    assert_eq!(bytes, large);
    let settled = received.ack("Số đến 7").await?;
    axis_proto::receipt::verify(&settled.receipt, &hub.verifier())?;
    assert_eq!(where_is(&vpcp, &sent.envelope_id).await?.state(), DeliveryState::Acknowledged);
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reject_is_final_and_told_to_the_sender() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = two(&hub).await?;
    let sent = vpcp.send(vpcp.letter(&["G18"], "gửi nhầm")).await?;
    let mut deliveries = byt.follow().await?;
    let received = byt.next(&mut deliveries).await?;
    received.reject(RejectionReason::WrongAddressee, "Không thuộc thẩm quyền").await?;
    assert_eq!(where_is(&vpcp, &sent.envelope_id).await?.state(), DeliveryState::Rejected);
    let mut feed = vpcp.client.feed(FeedOptions::default()).await?;
    let mut rejected = None;
    while let Some(item) = feed.next().await {
        let record = axis_proto::receipt::verify(&item?.receipt, &hub.verifier())?.record;
        if let Some(Event::Rejected(event)) = record.event {
            rejected = Some(event.reason());
        }
    }
    assert_eq!(rejected, Some(RejectionReason::WrongAddressee));
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing_and_keeps_receipts_the_same() -> anyhow::Result<()> {
    let mut hub = TestHub::start().await?;
    let (vpcp, byt) = two(&hub).await?;
    let sent = vpcp.send(vpcp.letter(&["G18"], "trước")).await?;
    let before = vpcp.client.receipt(sent.sequence, None).await?;
    assert_eq!(before, sent.receipt, "the same bytes on every call");
    hub.stop().await;
    hub.resume().await?;
    assert_eq!(vpcp.client.receipt(sent.sequence, None).await?, sent.receipt, "also after a restart");
    std::fs::remove_dir_all(hub.path().join("data/tree"))?;
    hub.stop().await;
    hub.resume().await?;
    assert_eq!(vpcp.client.receipt(sent.sequence, None).await?, sent.receipt, "also from a tree made again");
    let mut deliveries = byt.follow().await?;
    byt.next(&mut deliveries).await?.ack("").await?;
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_only_grows_and_anyone_can_check_it() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, _byt) = two(&hub).await?;
    let raw = Raw::at(vpcp.home(), "G22").await?;
    let mut calls = EvidenceServiceClient::new(raw.channel.clone());
    let mut checkpoint = async || {
        let note = calls.get_checkpoint(GetCheckpointRequest {}).await?.into_inner().checkpoint;
        Ok::<_, anyhow::Error>(hub.verifier().verify(&note)?)
    };
    let old = checkpoint().await?;
    vpcp.send(vpcp.letter(&["G18"], "thêm")).await?;
    let new = checkpoint().await?;
    assert!(new.size > old.size);
    let request = GetConsistencyRequest { old_size: old.size, new_size: new.size };
    let answer = EvidenceServiceClient::new(raw.channel).get_consistency(request).await?.into_inner();
    let path =
        answer.hashes.iter().map(|hash| hash.as_ref().try_into()).collect::<Result<Vec<[u8; 32]>, _>>()?;
    let holds = |root| verify_consistency(old.size, new.size, &old.root, root, &path);
    assert!(holds(&new.root));
    assert!(!holds(&[7; 32]), "and of no other");
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_lease_comes_back_and_then_is_parked_for_an_operator() -> anyhow::Result<()> {
    let hub = TestHub::start_with(manual()).await?;
    let (vpcp, byt) = two(&hub).await?;
    let sent = vpcp.send(vpcp.letter(&["G18"], "không ai nhận")).await?;
    let mut calls = Raw::at(byt.home(), "G18").await?.mailbox();
    let exhaust = async |calls: &mut axis_proto::hub::v1::mailbox_service_client::MailboxServiceClient<_>| {
        for attempt in 1..=ATTEMPTS_MAX {
            let mut offered = 0;
            eventually("it is offered", async || {
                let pull = PullRequest { max_deliveries: 1, ..PullRequest::default() };
                let pulled = calls.pull(pull).await.expect("pulled").into_inner();
                offered = pulled.deliveries.first().map_or(0, |delivery| delivery.attempt);
                offered > 0
            })
            .await;
            hub.clock().advance(MINUTE_MS + 1);
            eventually("the lease lapses", async || {
                let state = where_is(&vpcp, &sent.envelope_id).await.expect("tracked").state();
                state == DeliveryState::Waiting || state == DeliveryState::Parked
            })
            .await;
            let _ = attempt;
            hub.clock().advance(BACKOFF_MAX_MS);
        }
    };
    exhaust(&mut calls).await;
    let mut admin = hub.admin().await?;
    let parked = admin.list_parked(ListParkedRequest::default()).await?.into_inner().deliveries;
    assert_eq!(parked.len(), 1);
    assert_eq!((parked[0].agency.as_str(), parked[0].attempts), ("G18", ATTEMPTS_MAX));
    let delivery_id = parked[0].delivery_id.clone();
    admin.requeue(RequeueRequest { delivery_id: delivery_id.clone(), remark: "đã sửa".into() }).await?;
    exhaust(&mut calls).await;
    admin.r#return(ReturnRequest { delivery_id, remark: "không nhận được".into() }).await?;
    assert_eq!(where_is(&vpcp, &sent.envelope_id).await?.state(), DeliveryState::Returned);
    let pulled = calls.pull(PullRequest { accounted_to: 0, ..PullRequest::default() }).await?.into_inner();
    let progress = pulled.progress.unwrap_or_default();
    assert_eq!((progress.high, progress.floor, progress.waiting), (1, 1, 0));
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_gone_by_number() -> anyhow::Result<()> {
    let hub = TestHub::start_with(manual()).await?;
    let (vpcp, byt) = two(&hub).await?;
    for subject in ["một", "hai"] {
        vpcp.send(vpcp.letter(&["G18"], subject)).await?;
    }
    let mut calls = Raw::at(byt.home(), "G18").await?.mailbox();
    let pulled = calls.pull(PullRequest { max_deliveries: 1, ..PullRequest::default() }).await?.into_inner();
    let first = &pulled.deliveries[0];
    let nack =
        NackRequest { delivery_id: first.delivery_id.clone(), attempt: first.attempt, delay_ms: DAY_MS };
    calls.nack(nack).await?;
    hub.clock().advance(31 * DAY_MS);
    let mut admin = hub.admin().await?;
    eventually("both expire", async || {
        let queues = admin.list_queues(ListQueuesRequest {}).await.expect("listed").into_inner().queues;
        queues.iter().all(|queue| queue.waiting == 0)
    })
    .await;
    // the client that has seen nothing since 0 but says that it has a memory
    let pull = |accounted_to| PullRequest { accounted_to, ..PullRequest::default() };
    let pulled = calls.pull(pull(1)).await?.into_inner();
    let gone: Vec<_> = pulled.gone.iter().map(|gone| (gone.mailbox_sequence, gone.why())).collect();
    assert_eq!(gone, vec![(2, Settlement::Expired)]);
    assert_eq!(pulled.progress.unwrap_or_default().floor, 2);
    // not on the hub's word alone: a record says so, of this mailbox and number
    let receipt = byt.client.receipt(pulled.gone[0].record_sequence, None).await?;
    let record = axis_proto::receipt::verify(&receipt, &hub.verifier())?.record;
    let Some(Event::Expired(event)) = record.event else { anyhow::bail!("another record") };
    let named = event.delivery.unwrap_or_default();
    assert_eq!((named.system.as_str(), named.mailbox_sequence), ("byt", 2));
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agency_that_goes_to_another_system_takes_along_what_waits() -> anyhow::Result<()> {
    let hub = TestHub::start_with(manual()).await?;
    let (vpcp, byt) = two(&hub).await?;
    let tayninh = hub.ministry("tayninh", &["H53", "H53.01"]).await?;
    let mut sent = Vec::new();
    for subject in ["một", "hai", "ba"] {
        let letter = vpcp.letter(&["H53.01"], subject).bytes("a.bin", subject.as_bytes());
        sent.push(vpcp.send(letter).await?.envelope_id);
    }
    let (mut left, mut come) =
        (Raw::at(tayninh.home(), "H53").await?.mailbox(), Raw::at(byt.home(), "G18").await?.mailbox());
    let pull = || PullRequest { max_deliveries: 1, accounted_to: 1, ..PullRequest::default() };
    let pulled = left.pull(PullRequest { accounted_to: 0, ..pull() }).await?.into_inner();
    let held = &pulled.deliveries[0];
    let document = DownloadRequest {
        delivery_id: held.delivery_id.clone(),
        sha256: Bytes::copy_from_slice(Digest::of(&held.documents[0]).as_bytes()),
        offset: 0,
    };
    left.download(document.clone()).await?;

    let mut admin = hub.admin().await?;
    let wanted = ListAgenciesRequest { containing: "H53.01".into(), ..ListAgenciesRequest::default() };
    let mut agency = admin.list_agencies(wanted).await?.into_inner().agencies.remove(0);
    agency.system = "byt".into();
    let entries = vec![DirectoryEntry { value: Some(Value::Agency(agency)) }];
    admin.change_directory(ChangeDirectoryRequest { entries, remark: String::new() }).await?;

    // from then on the one is given nothing more of it, and keeps nothing longer
    let refused = left.download(document).await.expect_err("another's");
    assert_eq!(refusal_of(&refused).0, Some(Reason::SenderNotServed));
    let lease = (held.delivery_id.clone(), held.attempt);
    let extend = ExtendRequest { delivery_id: lease.0, attempt: lease.1, ..ExtendRequest::default() };
    let refused = left.extend(extend).await.expect_err("another's");
    assert_eq!(refusal_of(&refused).0, Some(Reason::SenderNotServed));
    assert_eq!(left.pull(pull()).await?.into_inner().deliveries, Vec::new());
    // the other has what waits, and what was on lease once that is over
    let mut found = Vec::new();
    eventually("the others come", async || {
        let pulled = come.pull(PullRequest { max_deliveries: 9, ..PullRequest::default() }).await;
        found.extend(pulled.expect("pulled").into_inner().deliveries);
        found.len() == 2
    })
    .await;
    hub.clock().advance(MINUTE_MS + 1);
    eventually("the one that was held comes", async || {
        let pulled = come.pull(PullRequest { max_deliveries: 9, ..PullRequest::default() }).await;
        pulled.expect("pulled").into_inner().deliveries.iter().any(|it| it.delivery_id == held.delivery_id)
    })
    .await;
    assert_eq!(where_is(&vpcp, &sent[0]).await?.system, "byt");

    let pulled = left.pull(PullRequest { accounted_to: 1, ..pull() }).await?.into_inner();
    assert_eq!(pulled.progress.unwrap_or_default().floor, 3);
    let gone: Vec<_> = pulled.gone.iter().map(|gone| (gone.mailbox_sequence, gone.why())).collect();
    assert_eq!(gone, vec![(2, Settlement::Moved), (3, Settlement::Moved)]);
    for gone in pulled.gone {
        let receipt = tayninh.client.receipt(gone.record_sequence, None).await?;
        let record = axis_proto::receipt::verify(&receipt, &hub.verifier())?.record;
        let Some(Event::Moved(event)) = record.event else { anyhow::bail!("another record") };
        let named = event.delivery.unwrap_or_default();
        assert_eq!((named.system.as_str(), named.mailbox_sequence), ("tayninh", gone.mailbox_sequence));
        assert_eq!(event.system, "byt");
    }
    hub.clock().advance(MINUTE_MS + 1);
    for id in &sent {
        eventually("the lease lapses", async || {
            where_is(&vpcp, id).await.expect("tracked").state() == DeliveryState::Waiting
        })
        .await;
    }
    hub.clock().advance(BACKOFF_MAX_MS);
    let mut deliveries = byt.follow().await?;
    for _ in 0..3 {
        byt.next(&mut deliveries).await?.ack("").await?;
    }
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_expires_when_the_clock_jumps_until_an_operator_confirms() -> anyhow::Result<()> {
    let hub = TestHub::start_with(manual()).await?;
    let (vpcp, byt) = two(&hub).await?;
    let sent = vpcp.send(vpcp.letter(&["G18"], "đồng hồ")).await?;
    hub.clock().jump_to(hub.clock().now_ms() + 40 * DAY_MS);
    let mut deliveries = byt.follow().await?;
    drop(byt.next(&mut deliveries).await?);
    assert_ne!(where_is(&vpcp, &sent.envelope_id).await?.state(), DeliveryState::Expired);
    drop(deliveries);
    hub.admin().await?.confirm_clock(axis_proto::admin::v1::ConfirmClockRequest {}).await?;
    eventually("it expires", async || {
        hub.clock().advance(MINUTE_MS);
        where_is(&vpcp, &sent.envelope_id).await.expect("tracked").state() == DeliveryState::Expired
    })
    .await;
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hang_up_mid_submit_leaves_nothing_half_done() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = two(&hub).await?;
    let raw = Raw::at(vpcp.home(), "G22").await?;
    for delay_us in [0, 50, 200, 1_000, 5_000] {
        let sealed = raw.seal(&raw.envelope("G18", b"file"));
        let request = SubmitRequest {
            sealed_envelope: Some(sealed.clone()),
            documents: vec![Bytes::from_static(b"file")],
        };
        let mut calls = raw.submission();
        let _hung_up =
            tokio::time::timeout(Duration::from_micros(delay_us), calls.submit(request.clone())).await;
        // whatever became of it, the same again is accepted, once
        raw.submission().submit(request).await?;
    }
    let mut deliveries = byt.follow().await?;
    for _ in 0..5 {
        byt.next(&mut deliveries).await?.ack("").await?;
    }
    let report = hub.finish().await?;
    assert_eq!((report.counts.envelopes, report.counts.settled), (5, 5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_lost() -> anyhow::Result<()> {
    let hub = TestHub::start_with(manual()).await?;
    let (vpcp, byt) = two(&hub).await?;
    let sent = vpcp.send(vpcp.letter(&["G18"], "hết lượt giữ")).await?;
    let mut calls = Raw::at(byt.home(), "G18").await?.mailbox();
    let pulled = calls.pull(PullRequest { max_deliveries: 1, ..PullRequest::default() }).await?.into_inner();
    let delivery = &pulled.deliveries[0];
    hub.clock().advance(2 * MINUTE_MS);
    eventually("the lease lapses", async || {
        where_is(&vpcp, &sent.envelope_id).await.expect("tracked").state() == DeliveryState::Waiting
    })
    .await;
    let nack =
        NackRequest { delivery_id: delivery.delivery_id.clone(), attempt: delivery.attempt, delay_ms: 1 };
    let status = calls.nack(nack).await.expect_err("refused");
    assert_eq!(refusal_of(&status).0, Some(Reason::LeaseLost));
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn express_overtakes_a_broadcast() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let codes: Vec<String> = (0..80).map(|number| format!("H53.{number:02}")).collect();
    let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
    let tayninh = hub.ministry("tayninh", &codes).await?;
    axis_tests::admin::add_everyone(&mut hub.admin().await?, "tat-ca").await?;
    let mut broadcast = vpcp.letter(&[], "gửi tất cả");
    broadcast = broadcast.group("tat-ca".parse()?);
    vpcp.send(broadcast).await?;
    vpcp.send(vpcp.letter(&["H53.07"], "hỏa tốc").priority(Priority::Express)).await?;
    let mut calls = Raw::at(tayninh.home(), "H53.00").await?.mailbox();
    let pulled = calls.pull(PullRequest { max_deliveries: 2, ..PullRequest::default() }).await?.into_inner();
    let highest = pulled.deliveries.iter().map(|delivery| delivery.mailbox_sequence).max();
    assert_eq!(highest, Some(81), "the last to come is among the first to go");
    let mut deliveries = tayninh.follow().await?;
    drop(calls);
    for _ in 0..79 {
        tayninh.next(&mut deliveries).await?.ack("").await?;
    }
    hub.finish().await?;
    Ok(())
}
