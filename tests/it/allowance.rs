//! What a system may cause in a day, and what it costs: everybody's own, and
//! spent once for each thing.

use std::time::Duration;

use axis_client::quiet;
use axis_hub::limits;
use axis_proto::{
    envelope::v1::{Priority, Recipient},
    hub::v1::{
        CheckRequest, GetInfoRequest, Reason, SubmitRequest, UploadRequest, UploadResponse, UploadStart,
        hub_service_client::HubServiceClient, upload_request::Part,
    },
    id::Digest,
};
use axis_tests::{Raw, refusal_of};
use bytes::Bytes;
use tokio::task::JoinSet;
use tonic_types::StatusExt as _;

use crate::hostile::Situation;

#[tokio::test(flavor = "multi_thread")]
async fn a_days_allowance_ends_and_answers_go_on() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.quota.records_per_day = 6).await?;
    let send = |priority: Priority| {
        let letter = situation.vpcp.letter(&["G18"], "thư").priority(priority);
        situation.vpcp.send(letter)
    };
    let mut deliveries = situation.byt.follow().await?;
    let first = situation.vpcp.client.send(situation.vpcp.letter(&["G18"], "một"), &quiet).await?;
    send(Priority::Normal).await?;
    send(Priority::Normal).await?;
    // each was a record and a recipient's; the next waits for hours
    let raw = Raw::at(situation.vpcp.home(), "G22").await?;
    let submission = |priority: Priority| {
        let mut envelope = raw.envelope("G18", b"file");
        envelope.priority = priority.into();
        let sealed_envelope = Some(raw.seal(&envelope));
        SubmitRequest { sealed_envelope, documents: vec![Bytes::from_static(b"file")] }
    };
    let status = raw.submission().submit(submission(Priority::Normal)).await.expect_err("refused");
    assert_eq!(refusal_of(&status).0, Some(Reason::Quota));
    let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert!(retry.is_some_and(|delay| delay > Duration::from_secs(3_600)), "{retry:?}");
    // urgent ones have an allowance of their own
    let urgent = submission(Priority::Express);
    let receipt = raw.submission().submit(urgent.clone()).await?.into_inner();
    let again = raw.submission().submit(urgent).await?.into_inner();
    assert!(again.duplicate && again.receipt == receipt.receipt, "what was accepted stays answered");
    // and no answer of a recipient is ever refused by it
    for _ in 0..4 {
        situation.byt.next(&mut deliveries).await?.ack("nhận").await?;
    }
    let info = HubServiceClient::new(raw.channel.clone()).get_info(GetInfoRequest {}).await?.into_inner();
    assert_eq!((info.limits["day_records_count"], info.limits["day_bytes"]), (6, limits::BYTES_PER_DAY));
    drop((deliveries, first));
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_that_spends_the_allowance_is_answered_as_often_as_it_is_sent() -> anyhow::Result<()> {
    const RECIPIENTS: usize = limits::WIDE_RECIPIENTS as usize + 1;
    let situation = Situation::new(|config| config.quota.records_per_day = RECIPIENTS as u64).await?;
    let codes: Vec<String> = (0..RECIPIENTS).map(|number| format!("H99.{number}")).collect();
    let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
    let _province = situation.hub.ministry("province", &codes).await?;
    let raw = Raw::at(situation.vpcp.home(), "G22").await?;
    let mut envelope = raw.envelope("G18", b"file");
    envelope.recipients = codes.iter().map(|code| Recipient { agency: (*code).into(), kind: 1 }).collect();
    let sealed_envelope = Some(raw.seal(&envelope));
    let request = SubmitRequest { sealed_envelope, documents: vec![Bytes::from_static(b"file")] };
    // all but one of them wait for their turn at the directory; those that
    // have it last find that it was accepted, and nothing left to spend
    let mut copies = JoinSet::new();
    for _ in 0..24 {
        let (mut submission, request) = (raw.submission(), request.clone());
        copies.spawn(async move { submission.submit(request).await });
    }
    let answers: Result<Vec<_>, _> = copies.join_all().await.into_iter().collect();
    let answers: Vec<_> = answers?.into_iter().map(tonic::Response::into_inner).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
    assert!(answers.iter().all(|answer| answer.receipt == answers[0].receipt), "one receipt for all");
    // and another one hears that the allowance is spent
    let sealed_envelope = Some(raw.seal(&raw.envelope("G18", b"file")));
    let request = SubmitRequest { sealed_envelope, documents: vec![Bytes::from_static(b"file")] };
    let refused = raw.submission().submit(request).await.expect_err("the allowance is used up");
    assert_eq!(refusal_of(&refused).0, Some(Reason::Quota), "{refused:?}");
    situation.hub.finish().await?;
    Ok(())
}

/// Uploads a document of four bytes, one for each number.
async fn upload_small(raw: &Raw, number: u32) -> Result<UploadResponse, tonic::Status> {
    let bytes = Bytes::copy_from_slice(&number.to_be_bytes());
    let start = UploadStart {
        sha256: Bytes::copy_from_slice(Digest::of(&bytes).as_bytes()),
        size: bytes.len() as u64,
        offset: 0,
    };
    let parts = [Part::Start(start), Part::Chunk(bytes)].map(|part| UploadRequest { part: Some(part) });
    Ok(raw.submission().upload(futures_util::stream::iter(parts)).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn small_documents_and_checks_are_paid_too() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.quota.records_per_day = 6).await?;
    let raw = Raw::at(situation.hostile.home(), "H53").await?;
    let check = async || {
        let sealed_envelope = Some(raw.seal(&raw.envelope("G18", b"file")));
        raw.submission().check(CheckRequest { sealed_envelope }).await.map(|answer| answer.into_inner())
    };
    for place in 0..3 {
        assert!(upload_small(&raw, place).await?.complete);
        assert_eq!(check().await?.refusal, None);
    }
    let records = situation.hub.hub().context().evidence.size();
    let refused = upload_small(&raw, 4).await.expect_err("the allowance is used up");
    assert_eq!(refusal_of(&refused).0, Some(Reason::Quota));
    assert_eq!(check().await?.refusal.map(|refusal| refusal.reason()), Some(Reason::Quota));
    assert_eq!(situation.hub.hub().context().evidence.size(), records, "nothing was recorded");
    // what is known costs nothing again
    assert!(upload_small(&raw, 1).await?.complete);
    situation.honest().await?;
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_document_costs_a_block() -> anyhow::Result<()> {
    let situation = Situation::new(|config| config.quota.bytes_per_day = 3 * 4_096).await?;
    let raw = Raw::at(situation.hostile.home(), "H53").await?;
    let mut taken = 0;
    for place in 0..9_u32 {
        match upload_small(&raw, place).await {
            Ok(answer) => taken += u32::from(answer.complete),
            Err(status) => assert_eq!(refusal_of(&status).0, Some(Reason::Quota)),
        }
    }
    assert_eq!(taken, 3);
    situation.hub.finish().await?;
    Ok(())
}
