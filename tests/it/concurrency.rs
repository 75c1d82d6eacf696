//! A thousand callers at once who want the same thing: it happens once, and
//! all of them are told the same.

use std::collections::BTreeSet;

use axis_proto::{
    envelope::v1::Acknowledgement,
    hub::v1::{AcknowledgeRequest, PullRequest, Reason, SubmitRequest},
    record::v1::Receipt,
    seal::{PayloadType, seal},
};
use axis_tests::{Ministry, Raw, TestHub, acknowledgement, refusal_of};
use futures_util::future::try_join_all;
use prost::Message as _;
use tonic::Status;

const CALLERS: usize = 1_000;
const CONNECTIONS: usize = 8;

/// Calls until the hub has time for it.
async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    loop {
        match call().await {
            Err(status) if refusal_of(&status).0 == Some(Reason::Busy) => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

struct Situation {
    hub: TestHub,
    /// The same two systems, on several connections each.
    vpcp: Vec<Raw>,
    byt: Vec<Raw>,
    recipient: Ministry,
}

impl Situation {
    async fn new() -> anyhow::Result<Self> {
        let hub = TestHub::start().await?;
        let vpcp = hub.ministry("vpcp", &["G22"]).await?;
        let recipient = hub.ministry("byt", &["G18"]).await?;
        let raw = async |home: &std::path::Path, code| {
            try_join_all((0..CONNECTIONS).map(|_| Raw::at(home, code))).await
        };
        let (vpcp, byt) = (raw(vpcp.home(), "G22").await?, raw(recipient.home(), "G18").await?);
        Ok(Self { hub, vpcp, byt, recipient })
    }

    /// One envelope, sealed once.
    fn submission(&self) -> SubmitRequest {
        let sealed = self.vpcp[0].seal(&self.vpcp[0].envelope("G18", b"file"));
        SubmitRequest { sealed_envelope: Some(sealed), documents: vec!["file".into()] }
    }
}

/// What a receipt is, byte for byte.
fn bytes_of(receipt: Option<Receipt>) -> Vec<u8> {
    receipt.expect("an answer has one").encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_submissions_of_one_envelope_are_one_delivery_and_one_receipt() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let request = situation.submission();
    let answers = (0..CALLERS).map(|number| {
        let mut calls = situation.vpcp[number % CONNECTIONS].submission();
        let request = request.clone();
        async move { patiently(async || calls.submit(request.clone()).await).await }
    });
    let answers = try_join_all(answers).await?.into_iter().map(tonic::Response::into_inner);
    let (mut receipts, mut first) = (BTreeSet::new(), 0);
    for answer in answers {
        first += usize::from(!answer.duplicate);
        receipts.insert(bytes_of(answer.receipt));
    }
    assert_eq!((first, receipts.len()), (1, 1));

    let mut deliveries = situation.recipient.follow().await?;
    let received = situation.recipient.next(&mut deliveries).await?;
    received.ack("").await?;
    drop(deliveries);
    let report = situation.hub.finish().await?;
    assert_eq!((report.counts.envelopes, report.counts.deliveries, report.counts.settled), (1, 1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_acknowledgements_of_one_delivery_are_one_settlement() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    situation.vpcp[0].submission().submit(situation.submission()).await?;
    let byt = &situation.byt[0];
    let pull = PullRequest { max_deliveries: 1, max_wait_ms: 10_000, ..PullRequest::default() };
    let delivery = byt.mailbox().pull(pull).await?.into_inner().deliveries.remove(0);
    let answers = (0..CALLERS).map(|number| {
        let mut calls = situation.byt[number % CONNECTIONS].mailbox();
        // half of them say the very same, half say it with a word of their own
        let reference = if number % 2 == 0 { String::new() } else { format!("Số đến {number}") };
        let acknowledged_unix_ms = situation.hub.clock().now_ms();
        let acknowledgement =
            Acknowledgement { acknowledged_unix_ms, reference, ..acknowledgement(&delivery) };
        let sealed = seal(PayloadType::Acknowledgement, acknowledgement.encode_to_vec(), &[&byt.key]);
        let request = AcknowledgeRequest { sealed_acknowledgement: Some(sealed) };
        async move { patiently(async || calls.acknowledge(request.clone()).await).await }
    });
    let answers = try_join_all(answers).await?.into_iter().map(tonic::Response::into_inner);
    let (mut receipts, mut first) = (BTreeSet::new(), 0);
    for answer in answers {
        assert!(!answer.late);
        first += usize::from(!answer.duplicate);
        receipts.insert(bytes_of(answer.receipt));
    }
    assert_eq!((first, receipts.len()), (1, 1));
    let report = situation.hub.finish().await?;
    assert_eq!((report.counts.deliveries, report.counts.settled), (1, 1));
    Ok(())
}
