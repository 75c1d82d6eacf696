//! The streams as the contract has them, spoken to without the SDK's care.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use axis_client::Client;
use axis_proto::{
    envelope::v1::{Acknowledgement, SealedEnvelope},
    hub::v1::{
        AcknowledgeRequest, Credit, Delivery, DownloadRequest, FollowRequest, NackRequest, Reason,
        ReceiveRequest, ReceiveResponse, ReceiveStart, SubmitRequest, SubmitStreamRequest, TaggedAcknowledge,
        TaggedNack, TrackRequest, answer, feed_service_client::FeedServiceClient,
        hub_service_client::HubServiceClient, receive_request::Part as Say, receive_response::Part as Heard,
        submit_stream_response::Outcome, track_service_client::TrackServiceClient,
    },
    id::{Digest, EnvelopeId},
    seal::{PayloadType, seal},
};
use axis_tests::{PATIENCE, Raw, TestHub, refusal_of};
use bytes::Bytes;
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// A hub with `vpcp` (G22), who sends, and `byt` (G18), who receives.
struct Situation {
    hub: TestHub,
    vpcp: Raw,
    byt: Raw,
}

impl Situation {
    async fn new() -> anyhow::Result<Self> {
        let hub = TestHub::start().await?;
        let vpcp = hub.ministry("vpcp", &["G22"]).await?;
        let byt = hub.ministry("byt", &["G18"]).await?;
        let (vpcp, byt) = (Raw::at(vpcp.home(), "G22").await?, Raw::at(byt.home(), "G18").await?);
        Ok(Self { hub, vpcp, byt })
    }

    fn submission(&self, file: &'static [u8]) -> SubmitRequest {
        let sealed = self.vpcp.seal(&self.vpcp.envelope("G18", file));
        SubmitRequest { sealed_envelope: Some(sealed), documents: vec![Bytes::from_static(file)] }
    }

    async fn send(&self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            self.vpcp.submission().submit(self.submission(b"file")).await?;
        }
        Ok(())
    }

    async fn receive(&self, accounted_to: u64, credit: u32) -> anyhow::Result<Receiving> {
        let (say, said) = mpsc::channel(16);
        let start = ReceiveStart { accounted_to, credit, lease_duration_ms: 0, ..Default::default() };
        say.send(ReceiveRequest { part: Some(Say::Start(start)) }).await?;
        let heard = self.byt.mailbox().receive(ReceiverStream::new(said)).await?.into_inner();
        Ok(Receiving { say, heard })
    }

    fn acknowledgement(&self, delivery: &Delivery) -> AcknowledgeRequest {
        let acknowledgement = Acknowledgement {
            hub_id: "truc.test".into(),
            delivery_id: delivery.delivery_id.clone(),
            envelope_digest: delivery.envelope_digest.clone(),
            recipient: "G18".into(),
            mailbox_sequence: delivery.mailbox_sequence,
            acknowledged_unix_ms: 1,
            reference: String::new(),
        };
        let sealed = seal(PayloadType::Acknowledgement, acknowledgement.encode_to_vec(), &[&self.byt.key]);
        AcknowledgeRequest { sealed_acknowledgement: Some(sealed) }
    }
}

/// An open receive stream.
struct Receiving {
    say: mpsc::Sender<ReceiveRequest>,
    heard: Streaming<ReceiveResponse>,
}

impl Receiving {
    async fn say(&self, part: Say) -> anyhow::Result<()> {
        Ok(self.say.send(ReceiveRequest { part: Some(part) }).await?)
    }

    /// The next thing said; `None` at the end.
    async fn hear(&mut self) -> Result<Option<Heard>, Status> {
        let heard = timeout(PATIENCE, self.heard.message()).await.expect("nothing was said");
        Ok(heard?.and_then(|message| message.part))
    }

    /// The next thing said that this makes something of.
    async fn until<T>(&mut self, mut of: impl FnMut(Heard) -> Option<T>) -> anyhow::Result<T> {
        loop {
            let heard = self.hear().await?.context("the stream ended")?;
            if let Some(found) = of(heard) {
                return Ok(found);
            }
        }
    }

    async fn delivery(&mut self) -> anyhow::Result<Delivery> {
        self.until(|heard| if let Heard::Delivery(delivery) = heard { Some(delivery) } else { None }).await
    }

    async fn floor(&mut self, floor: u64) -> anyhow::Result<()> {
        self.until(|heard| match heard {
            Heard::Progress(progress) if progress.floor == floor => Some(()),
            _ => None,
        })
        .await
    }

    async fn refused(&mut self) -> (Option<Reason>, String) {
        loop {
            match self.hear().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(status) => {
                    let (reason, violations) = refusal_of(&status);
                    return (reason, violations.into_iter().next().map(|first| first.0).unwrap_or_default());
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_submissions_on_one_stream_are_answered_each_on_its_own() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let twice = situation.submission(b"file");
    let requests = (0..200_u64).map(|tag| {
        let mut submission = if tag % 50 == 7 { twice.clone() } else { situation.submission(b"file") };
        if tag % 10 == 3 {
            submission.documents = vec![Bytes::from_static(b"another")];
        }
        if tag == 44 {
            submission.sealed_envelope = None;
        }
        SubmitStreamRequest { tag, submission: Some(submission) }
    });
    let requests: Vec<_> = requests.collect();
    let mut answers =
        situation.vpcp.submission().submit_stream(tokio_stream::iter(requests)).await?.into_inner();
    let mut outcomes = BTreeMap::new();
    while let Some(answer) = answers.message().await? {
        assert!(outcomes.insert(answer.tag, answer.outcome).is_none(), "answered once");
    }
    assert_eq!(outcomes.len(), 200);
    let mut receipts = std::collections::BTreeSet::new();
    for (tag, outcome) in outcomes {
        match outcome.context("an outcome")? {
            Outcome::Submitted(response) => {
                assert!(tag % 10 != 3 && tag != 44, "{tag}");
                let receipt = response.receipt.context("a receipt")?;
                receipts.insert(axis_proto::receipt::verify(&receipt, &situation.hub.verifier())?.index);
                assert!(!response.duplicate || tag % 50 == 7);
            }
            Outcome::Refused(refusal) => {
                let expected = if tag == 44 { Reason::FieldInvalid } else { Reason::DigestMismatch };
                assert_eq!(refusal.reason(), expected, "{tag}: {refusal:?}");
                assert!(!refusal.message.is_empty());
            }
        }
    }
    // 20 with the wrong file, one empty, four times the same
    assert_eq!(receipts.len(), 200 - 20 - 1 - 3);
    let report = situation.hub.finish().await?;
    assert_eq!(report.counts.envelopes, 176);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_come_by_credit_and_every_number_is_accounted_for() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    situation.send(5).await?;
    let mut first = situation.receive(0, 2).await?;
    first.floor(0).await?;
    let one = first.delivery().await?;
    let two = first.delivery().await?;
    assert_eq!((one.mailbox_sequence, two.mailbox_sequence), (1, 2));
    let quiet = timeout(Duration::from_millis(300), first.heard.message()).await;
    assert!(quiet.is_err(), "no credit, no delivery: {quiet:?}");

    let request = Some(situation.acknowledgement(&one));
    first.say(Say::Acknowledge(TaggedAcknowledge { tag: 71, request })).await?;
    let answer =
        first.until(|heard| if let Heard::Answer(answer) = heard { Some(answer) } else { None }).await?;
    assert_eq!(answer.tag, 71);
    assert!(matches!(answer.outcome, Some(answer::Outcome::Acknowledged(response)) if !response.late));
    first.floor(1).await?;
    let late = NackRequest { delivery_id: one.delivery_id.clone(), attempt: 1, delay_ms: 0 };
    first.say(Say::Nack(TaggedNack { tag: 72, request: Some(late) })).await?;
    let answer =
        first.until(|heard| if let Heard::Answer(answer) = heard { Some(answer) } else { None }).await?;
    let Some(answer::Outcome::Refused(refusal)) = answer.outcome else { panic!("{answer:?}") };
    assert_eq!((answer.tag, refusal.reason()), (72, Reason::AlreadySettled));

    first.say(Say::Credit(Credit { deliveries: 3 })).await?;
    for number in 3..=5 {
        let delivery = first.delivery().await?;
        assert_eq!(delivery.mailbox_sequence, number);
        situation.byt.mailbox().acknowledge(situation.acknowledgement(&delivery)).await?;
    }
    situation.byt.mailbox().acknowledge(situation.acknowledgement(&two)).await?;
    // they came on this stream, so they are not gone on it
    first
        .until(|heard| match heard {
            Heard::Gone(gone) => panic!("{gone:?} came as a delivery"),
            Heard::Progress(progress) => (progress.floor == 5).then_some(()),
            _ => None,
        })
        .await?;

    let mut second = situation.receive(2, 0).await?;
    let mut gone = Vec::new();
    second
        .until(|heard| match heard {
            Heard::Gone(number) => {
                gone.push(number.mailbox_sequence);
                None
            }
            Heard::Progress(progress) => (progress.floor == 5 && progress.waiting == 0).then_some(()),
            _ => None,
        })
        .await?;
    assert_eq!(gone, [3, 4, 5], "before the floor passed them");
    let mut beyond = situation.receive(6, 0).await?;
    assert_eq!(beyond.refused().await, (Some(Reason::CursorGone), "start.accounted_to".into()));
    drop((first, second, beyond));
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_may_not_say_ends_its_stream() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let mut greedy = situation.receive(0, 1_001).await?;
    assert_eq!(greedy.refused().await, (Some(Reason::TooLarge), "start.credit".into()));
    let mut greedy = situation.receive(0, 1_000).await?;
    greedy.say(Say::Credit(Credit { deliveries: 1 })).await?;
    assert_eq!(greedy.refused().await, (Some(Reason::TooLarge), "credit.deliveries".into()));
    let mut twice = situation.receive(0, 1).await?;
    twice.say(Say::Start(ReceiveStart::default())).await?;
    assert_eq!(twice.refused().await, (Some(Reason::FieldInvalid), "start".into()));
    let (say, said) = mpsc::channel(1);
    say.send(ReceiveRequest { part: Some(Say::Credit(Credit { deliveries: 1 })) }).await?;
    let heard = situation.byt.mailbox().receive(ReceiverStream::new(said)).await?.into_inner();
    let mut startless = Receiving { say, heard };
    assert_eq!(startless.refused().await, (Some(Reason::FieldInvalid), "start".into()));
    drop((greedy, twice, startless));
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_has_said_all_gets_what_it_has_credit_for() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    situation.send(3).await?;
    let start = ReceiveStart { accounted_to: 0, credit: 2, lease_duration_ms: 0, ..Default::default() };
    let said = tokio_stream::iter([ReceiveRequest { part: Some(Say::Start(start)) }]);
    let mut heard = situation.byt.mailbox().receive(said).await?.into_inner();
    let mut deliveries = 0;
    while let Some(message) = timeout(PATIENCE, heard.message()).await?? {
        deliveries += usize::from(matches!(message.part, Some(Heard::Delivery(_))));
    }
    assert_eq!(deliveries, 2);
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_hub_says_so_and_still_takes_acks() -> anyhow::Result<()> {
    let mut situation = Situation::new().await?;
    situation.send(1).await?;
    let mut receiving = situation.receive(0, 5).await?;
    let delivery = receiving.delivery().await?;
    let acknowledgement = situation.acknowledgement(&delivery);
    let stopped = std::time::Instant::now();
    let receiver = async {
        let closing =
            receiving.until(|heard| if let Heard::Closing(closing) = heard { Some(closing) } else { None });
        let closing = closing.await?;
        assert_eq!(closing.reason(), Reason::Stopping);
        assert!(closing.retry_after_ms > 0);
        let request = Some(acknowledgement);
        receiving.say(Say::Acknowledge(TaggedAcknowledge { tag: 1, request })).await?;
        let answer = receiving
            .until(|heard| if let Heard::Answer(answer) = heard { Some(answer) } else { None })
            .await?;
        assert!(matches!(answer.outcome, Some(answer::Outcome::Acknowledged(_))), "{answer:?}");
        drop(receiving);
        anyhow::Ok(())
    };
    let ((), heard) = tokio::join!(situation.hub.stop(), receiver);
    heard?;
    assert!(stopped.elapsed() < Duration::from_secs(20), "it did not wait for ever");
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_downloaded_from_any_offset_by_its_receiver_alone() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let large: Vec<u8> = (0..700_000_u32).map(|number| number as u8).collect();
    let sender = Client::connect(situation.hub.path().with_file_name("vpcp").as_path()).await?;
    let letter = axis_client::Outgoing::new("G22".parse()?, "tệp lớn").to("G18".parse()?);
    sender.send(letter.bytes("a.bin", large.clone()), &axis_client::quiet).await?;
    let sha256 = Bytes::copy_from_slice(Digest::of(&large).as_bytes());
    let request = |delivery_id: &str, offset| DownloadRequest {
        delivery_id: delivery_id.into(),
        sha256: sha256.clone(),
        offset,
    };
    let mut receiving = situation.receive(0, 1).await?;
    let delivery = receiving.delivery().await?;
    let mut chunks =
        situation.byt.mailbox().download(request(&delivery.delivery_id, 300_000)).await?.into_inner();
    let mut rest = Vec::new();
    while let Some(message) = chunks.message().await? {
        assert!(message.chunk.len() <= 262_144);
        rest.extend_from_slice(&message.chunk);
    }
    assert_eq!(rest, large[300_000..]);
    let status =
        situation.vpcp.mailbox().download(request(&delivery.delivery_id, 0)).await.expect_err("refused");
    assert_eq!(refusal_of(&status).0, Some(Reason::DeliveryUnknown));
    let beyond = situation.byt.mailbox().download(request(&delivery.delivery_id, 700_001)).await;
    assert_eq!(refusal_of(&beyond.expect_err("refused")).0, Some(Reason::FieldInvalid));
    drop(receiving);
    situation.hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn others_see_nothing_of_what_is_not_theirs() -> anyhow::Result<()> {
    let situation = Situation::new().await?;
    let stranger = situation.hub.ministry("tayninh", &["H53"]).await?;
    let stranger = Raw::at(stranger.home(), "H53").await?;
    let envelope = situation.vpcp.envelope("G18", b"file");
    let sealed: SealedEnvelope = situation.vpcp.seal(&envelope);
    let request = SubmitRequest { sealed_envelope: Some(sealed), documents: vec!["file".into()] };
    situation.vpcp.submission().submit(request).await?;
    let track = |raw: &Raw, envelope_id: Bytes| {
        let request = TrackRequest { sender: "G22".into(), envelope_id, ..TrackRequest::default() };
        let mut calls = TrackServiceClient::new(raw.channel.clone());
        async move { calls.track(request).await.map(tonic::Response::into_inner) }
    };
    let id = envelope.envelope_id;
    let all = track(&situation.vpcp, id.clone()).await?;
    assert_eq!((all.recipient_count, all.recipients[0].agency.as_str()), (1, "G18"));
    let own = track(&situation.byt, id.clone()).await?;
    assert_eq!((own.recipient_count, own.recipients.len()), (0, 1));
    for (raw, id) in
        [(&stranger, id), (&situation.vpcp, Bytes::copy_from_slice(EnvelopeId::new_v7().as_bytes()))]
    {
        let status = track(raw, id).await.expect_err("refused");
        assert_eq!((status.code(), refusal_of(&status).0), (Code::NotFound, Some(Reason::NotFound)));
    }
    let mut feed = FeedServiceClient::new(stranger.channel.clone());
    let mut beyond = feed.follow(FollowRequest { after: 9 }).await?.into_inner();
    let status = beyond.message().await.expect_err("refused");
    assert_eq!((status.code(), refusal_of(&status).0), (Code::OutOfRange, Some(Reason::CursorGone)));

    let mut request = tonic::Request::new(axis_proto::hub::v1::GetInfoRequest {});
    request.metadata_mut().insert("accept-language", "vi".parse()?);
    let info = HubServiceClient::new(stranger.channel.clone()).get_info(request).await?.into_inner();
    assert_eq!((info.system_id.as_str(), info.agencies), ("tayninh", vec!["H53".to_owned()]));
    assert_eq!(info.limits["payload_bytes"], 262_144);
    situation.hub.finish().await?;
    Ok(())
}
