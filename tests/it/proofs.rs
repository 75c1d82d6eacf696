//! What agencies signed reaches those whom it concerns, with whose keys signed
//! it: evidence that convinces others without the hub.

use std::path::Path;

use anyhow::Context as _;
use axis_client::{Error, Evidence, Received};
use axis_hub::{
    disk::RealDisk,
    fsck::Checker,
    journal::segments,
    machine::{Command, query},
};
use axis_proto::{
    admin::v1::{ConfirmPurgeRequest, ListSystemsRequest, RequestPurgeRequest, RevokeSigningKeyRequest},
    envelope::v1::{Acknowledgement, RejectionReason},
    hub::v1::{
        AcknowledgeRequest, GetReceiptRequest, GetReceiptResponse, Reason, TrackedRecipient,
        evidence_service_client::EvidenceServiceClient,
    },
    id::EnvelopeId,
    record::v1::{Record, SigningKey, directory_entry::Value, record::Event},
    seal::{PayloadType, seal},
    signed::{Said, Signed},
};
use axis_tests::{Ministry, Raw, TestHub, binary};
use bytes::Bytes;
use prost::Message as _;

/// A hub with a sender, a recipient and somebody else.
async fn three() -> anyhow::Result<(TestHub, Ministry, Ministry, Ministry)> {
    let hub = TestHub::start().await?;
    let vpcp = hub.ministry("vpcp", &["G22"]).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let others = hub.ministry("others", &["G19"]).await?;
    Ok((hub, vpcp, byt, others))
}

/// Sends a letter to G18; the delivery, taken.
async fn delivered(vpcp: &Ministry, byt: &Ministry) -> anyhow::Result<(Received, EnvelopeId)> {
    let sent = vpcp.send(vpcp.letter(&["G18"], "V/v kiểm tra")).await?;
    let mut deliveries = byt.follow().await?;
    let received = byt.next(&mut deliveries).await?;
    assert_eq!(received.envelope_id(), &sent.envelope_id);
    Ok((received, sent.envelope_id))
}

async fn tracked(vpcp: &Ministry, id: &EnvelopeId) -> anyhow::Result<TrackedRecipient> {
    vpcp.client.track(&vpcp.agency(), id).await?.recipients.pop().context("one recipient")
}

/// What it proves to somebody who has the log's key alone, read from its file.
fn proven(hub: &TestHub, evidence: &Evidence) -> anyhow::Result<Signed> {
    let text = axis_client::receipt::evidence_to_json(evidence);
    let read = axis_client::receipt::evidence_from_json(&text)?;
    read.verify(&hub.verifier())?.signed.context("what was signed is in it")
}

fn not_found<T>(asked: Result<T, Error>) {
    let refused = asked.map(|_| ()).expect_err("not for them");
    assert_eq!(refused.reason(), Some(Reason::NotFound), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sender_has_what_the_recipient_signed() -> anyhow::Result<()> {
    let (hub, vpcp, byt, others) = three().await?;
    let (received, id) = delivered(&vpcp, &byt).await?;
    let settled = received.ack("Số đến 4567").await?;
    assert_eq!(tracked(&vpcp, &id).await?.since_sequence, settled.sequence);
    let evidence = vpcp.client.evidence(settled.sequence).await?;
    assert_eq!(evidence.receipt, settled.receipt, "the same receipt as the recipient's");
    let signed = proven(&hub, &evidence)?;
    assert_eq!((signed.agency.as_str(), signed.system.as_str()), ("G18", "byt"));
    assert_eq!(signed.key_ids, [byt.client.key_id()]);
    let Said::Acknowledgement(said) = &signed.said else { panic!("{signed:?}") };
    assert_eq!(said.reference, "Số đến 4567");
    assert_eq!(proven(&hub, &byt.client.evidence(settled.sequence).await?)?, signed);
    not_found(others.client.evidence(settled.sequence).await);

    // a rejection, and the acknowledgement that came after it
    let (received, id) = delivered(&vpcp, &byt).await?;
    let late = Acknowledgement {
        hub_id: "truc.test".into(),
        delivery_id: received.delivery_id().to_string(),
        envelope_digest: Bytes::copy_from_slice(received.envelope_digest().as_ref()),
        recipient: "G18".into(),
        mailbox_sequence: received.mailbox_sequence(),
        acknowledged_unix_ms: 1,
        ..Acknowledgement::default()
    };
    let settled = received.reject(RejectionReason::Damaged, "Tệp hỏng").await?;
    let signed = proven(&hub, &vpcp.client.evidence(settled.sequence).await?)?;
    assert!(matches!(&signed.said, Said::Rejection(said) if said.explanation == "Tệp hỏng"));
    let raw = Raw::at(byt.home(), "G18").await?;
    let sealed = seal(PayloadType::Acknowledgement, late.encode_to_vec(), &[&raw.key]);
    raw.mailbox().acknowledge(AcknowledgeRequest { sealed_acknowledgement: Some(sealed) }).await?;
    let late = tracked(&vpcp, &id).await?;
    assert!(late.late_accepted && late.late_sequence > settled.sequence, "{late:?}");
    let signed = proven(&hub, &vpcp.client.evidence(late.late_sequence).await?)?;
    assert!(matches!(signed.said, Said::Acknowledgement(_)));
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_envelope_is_for_its_sender_and_for_who_has_leased_it() -> anyhow::Result<()> {
    let (hub, vpcp, byt, others) = three().await?;
    let sent = vpcp.send(vpcp.letter(&["G18", "G19"], "V/v kiểm tra")).await?;
    let signed = proven(&hub, &vpcp.client.evidence(sent.sequence).await?)?;
    assert!(matches!(&signed.said, Said::Envelope(it) if it.envelope_id == sent.envelope_id.as_ref()));
    let mut deliveries = byt.follow().await?;
    let received = byt.next(&mut deliveries).await?;
    let signed = proven(&hub, &byt.client.evidence(sent.sequence).await?)?;
    assert_eq!((signed.agency.as_str(), signed.system.as_str()), ("G22", "vpcp"));
    received.ack("").await?;
    // visible to them, but nobody has taken it there
    let evidence = others.client.evidence(sent.sequence).await?;
    assert_eq!(evidence, Evidence::of(evidence.receipt.clone()));
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_is_given_to_nobody_and_kept_by_who_has_it() -> anyhow::Result<()> {
    let (hub, vpcp, byt, _) = three().await?;
    let (received, id) = delivered(&vpcp, &byt).await?;
    let accepted = received.accepted_sequence();
    let settled = received.ack("").await?;
    let before = vpcp.client.evidence(settled.sequence).await?;
    let raw = Raw::at(byt.home(), "G18").await?;
    let ask = async |with_sealed| {
        let request = GetReceiptRequest { sequence: settled.sequence, agency: String::new(), with_sealed };
        anyhow::Ok(EvidenceServiceClient::new(raw.channel.clone()).get_receipt(request).await?.into_inner())
    };
    let answer = ask(true).await?;
    assert_eq!((answer.signing_keys.len(), answer.signing_key_sequences.len()), (1, 1));
    assert!(!answer.sealed.is_empty());
    let plain = ask(false).await?;
    assert_eq!(plain, GetReceiptResponse { receipt: answer.receipt, ..GetReceiptResponse::default() });

    let (mut admin, id) = (hub.admin().await?, Bytes::copy_from_slice(id.as_ref()));
    let (sender, remark) = ("G22".to_owned(), "lộ bí mật".to_owned());
    admin
        .request_purge(RequestPurgeRequest { sender: sender.clone(), envelope_id: id.clone(), remark })
        .await?;
    assert!(!ask(true).await?.sealed.is_empty(), "one person alone changes nothing");
    let asked = hub.hub().context().read(|read| query::purge(read, accepted)).context("asked for")?;
    let (how, _) = asked.requested_by.split_once(':').context("a name")?;
    let agree = Command::ConfirmPurge { envelope_sequence: accepted, operator: format!("{how}:bình") };
    hub.hub().context().committer.commit(agree).await?;
    assert_eq!(ask(true).await?, plain, "before a byte has left");
    admin.confirm_purge(ConfirmPurgeRequest { sender, envelope_id: id }).await?;
    assert_eq!(ask(true).await?, plain);
    let after = byt.client.evidence(settled.sequence).await?;
    assert_eq!(after, Evidence::of(settled.receipt));
    assert_eq!(vpcp.client.evidence(settled.sequence).await?, before, "the home has it");
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_proves_whose_key_signed_and_asks_once() -> anyhow::Result<()> {
    let (mut hub, vpcp, byt, others) = three().await?;
    let (received, _) = delivered(&vpcp, &byt).await?;
    let evidence = received.evidence().await?;
    let signed = proven(&hub, &evidence)?;
    assert_eq!((signed.agency.as_str(), signed.system.as_str()), ("G22", "vpcp"));
    assert_eq!(signed.key_ids, [vpcp.client.key_id()]);
    received.ack("").await?;
    // the record of a key is nobody's secret
    let record = evidence.verify(&hub.verifier())?.receipt.record;
    let key = axis_proto::receipt::verify(&evidence.keys[0], &hub.verifier())?;
    assert!(key.index < record.sequence);
    assert_eq!(others.client.receipt(key.index, None).await?, evidence.keys[0]);

    // what it signed is its own though the key is revoked since
    let (received, _) = delivered(&vpcp, &byt).await?;
    let mut admin = hub.admin().await?;
    let systems = admin.list_systems(ListSystemsRequest {}).await?.into_inner().systems;
    let of_vpcp =
        systems.into_iter().find(|one| one.system.as_ref().is_some_and(|it| it.system_id == "vpcp"));
    let key_id = of_vpcp.context("it is there")?.signing_keys[0].key_id.clone();
    admin.revoke_signing_key(RevokeSigningKeyRequest { key_id, remark: "thay khóa".into() }).await?;
    hub.stop().await;
    let again = received.evidence().await?;
    assert_eq!(again.keys, evidence.keys, "from the home: the hub is away");
    assert_eq!(proven(&hub, &again)?.key_ids, signed.key_ids);
    received.abandon();

    // another key's record, or none, proves nothing
    let mut other = evidence.clone();
    other.keys = vec![again.receipt.clone()];
    assert!(other.verify(&hub.verifier()).is_err());
    other.keys.clear();
    assert!(other.verify(&hub.verifier()).is_err());
    Ok(())
}

/// What `axis` prints for a home.
async fn axis(home: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(binary("axis")?);
    let output = command.arg("--home").arg(home).args(arguments).env("LC_ALL", "C").output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "axis {arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_says_whose_key_signed() -> anyhow::Result<()> {
    let (mut hub, vpcp, byt, _) = three().await?;
    let sent = vpcp.send(vpcp.letter(&["G18", "G19"], "V/v kiểm tra")).await?;
    let into = tempfile::tempdir()?;
    let into_text = into.path().to_string_lossy().into_owned();
    axis(byt.home(), &["receive", "--into", &into_text]).await?;
    let id = sent.envelope_id.to_string();
    let plain = axis(vpcp.home(), &["track", &id]).await?;
    assert!(!plain.contains("signed by"), "{plain}");
    let tracked = axis(vpcp.home(), &["track", &id, "--signed"]).await?;
    let (key, of_vpcp) = (byt.client.key_id(), vpcp.client.key_id());
    assert_eq!(tracked.matches(&format!("signed by {key} of G18")).count(), 1, "{tracked}");
    assert_eq!(tracked.matches("signed by").count(), 1, "nobody has answered for G19: {tracked}");

    // both sides' files convince without the hub
    hub.stop().await;
    let tracked: Vec<_> = std::fs::read_dir(vpcp.home().join("receipts"))?.collect::<Result<_, _>>()?;
    let folder = into.path().join("G22").join(&id);
    let received: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    let mut verified = String::new();
    for file in tracked.iter().chain(&received) {
        let path = file.path().to_string_lossy().into_owned();
        if path.ends_with(".receipt.json") {
            let arguments = ["verify", "--key", hub.verifier_key(), &path];
            verified.push_str(&axis(into.path(), &arguments).await?);
        }
    }
    for said in [
        format!("signed by {key} of G18, a key of system byt"),
        format!("signed by {of_vpcp} of G22, a key of system vpcp"),
    ] {
        assert!(verified.contains(&said), "{said}: {verified}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fsck_opens_what_agencies_signed() -> anyhow::Result<()> {
    let (mut hub, vpcp, byt, _) = three().await?;
    delivered(&vpcp, &byt).await?.0.ack("").await?;
    delivered(&vpcp, &byt).await?.0.reject(RejectionReason::Damaged, "").await?;
    hub.stop().await;
    let (verifier, mut batches) = (hub.verifier(), Vec::new());
    let journal = hub.path().join("data/journal");
    segments::verify(&*RealDisk::shared(), &journal, &mut |batch| batches.push(batch))?;

    let found = |change: &dyn Fn(&mut Record)| {
        let mut checker = Checker::new(Some(verifier.clone()));
        for batch in &batches {
            let mut batch = batch.clone();
            for entry in &mut batch.entries {
                let mut record = Record::decode(entry.record.clone()).expect("a record");
                change(&mut record);
                entry.record = record.encode_to_vec().into();
            }
            checker.batch(&batch);
        }
        let whats = checker.violations().iter().map(|violation| violation.what.clone());
        whats.filter(|what| what.contains("signed")).collect::<Vec<_>>()
    };
    let key = |change: &dyn Fn(&mut SigningKey)| {
        found(&|record| {
            if let Some(Event::DirectoryChanged(changed)) = &mut record.event {
                for entry in &mut changed.entries {
                    if let Some(Value::SigningKey(key)) = &mut entry.value
                        && key.system == "byt"
                    {
                        change(key);
                    }
                }
            }
        })
    };
    assert_eq!(found(&|_| ()), Vec::<String>::new());
    // the acknowledgement and the rejection, each of them
    for (what, whats) in [
        ("is another system's", key(&|key| key.system = "vpcp".into())),
        ("was revoked", key(&|key| key.revoked_unix_ms = 1)),
        ("may not sign", key(&|key| key.agencies = vec!["G22".into()])),
        ("seal does not hold", key(&|key| key.public_key = vec![7; 32].into())),
        ("not valid then", key(&|key| key.valid_until_unix_ms = key.valid_from_unix_ms + 1)),
        ("not valid then", key(&|key| key.valid_from_unix_ms = u64::MAX)),
    ] {
        assert!(whats.len() == 2 && whats.iter().all(|it| it.contains(what)), "{what}: {whats:?}");
    }
    let other = found(&|record| {
        if let Some(Event::Rejected(rejected)) = &mut record.event {
            rejected.reason = RejectionReason::Incomplete.into();
        }
    });
    assert!(other.len() == 1 && other[0].contains("reason"), "{other:?}");
    Ok(())
}
