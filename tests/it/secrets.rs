//! What is logged and shown: neither content nor keys, whatever is refused.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use axis_client::{Outgoing, ReceiveOptions, quiet};
use axis_hub::limits;
use axis_proto::{
    envelope::v1::{
        Acknowledgement, Document, Envelope, Priority, RejectionReason, SealedEnvelope, envelope::Body,
    },
    hub::v1::{AcknowledgeRequest, Reason, SubmitRequest, UploadRequest, UploadStart, upload_request::Part},
    id::Digest,
    key::SigningKey,
    seal::{PayloadType, seal},
};
use axis_tests::{HubProcess, Ministry, Raw, admin, refusal_of};
use bytes::Bytes;
use prost::Message as _;
use tokio::time::timeout;
use tonic::Status;

use crate::hostile::answer;

/// Bytes by which a secret is looked for first.
const BEGINNING: usize = 8;

/// A text in the forms in which it could be logged.
fn forms(what: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
    let mut forms = vec![
        (format!("{what}, as it is"), bytes.to_vec()),
        (format!("{what}, in hex"), hex::encode(bytes).into_bytes()),
        (format!("{what}, in upper hex"), hex::encode_upper(bytes).into_bytes()),
        (format!("{what}, as a list"), format!("{bytes:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
    ];
    for shift in 0..3 {
        // base64 of the same bytes depends on where they begin
        let coded = BASE64.encode([&vec![0; shift][..], bytes].concat());
        let whole = &coded[(shift * 8).div_ceil(6)..coded.len() - 1];
        forms.push((format!("{what}, in base64 from {shift}"), whole.as_bytes().to_vec()));
    }
    forms
}

/// The secrets in a PEM file: the bytes behind its label.
fn pem(path: PathBuf) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let text = std::fs::read_to_string(&path)?;
    let mut found = Vec::new();
    for part in text.split("-----BEGIN ").skip(1) {
        if !part.contains("PRIVATE KEY") {
            continue;
        }
        let lines: Vec<&str> = part.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
        let name = format!("the key of {}", path.display());
        let whole = lines.iter().filter(|line| line.len() > 16);
        found.extend(whole.map(|line| (name.clone(), line.as_bytes().to_vec())));
        use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
        let der = BASE64.decode(lines.concat())?;
        // PKCS#8 of both kinds has the secret behind its first bytes
        let secret = &der[der.len().min(36)..der.len().min(66)];
        found.extend(forms(&name, if secret.len() > 8 { secret } else { &der[16..] }));
    }
    anyhow::ensure!(!found.is_empty(), "{} holds no key", path.display());
    Ok(found)
}

/// Makes a system be refused in every way that its own requests can be, each
/// with content inside; the reasons that it heard.
async fn refusals(
    raw: &Raw,
    content: &'static [u8],
    subject: &'static str,
) -> anyhow::Result<BTreeSet<&'static str>> {
    let mut heard = BTreeSet::new();
    let mut hear = |status: Result<(), Status>| {
        let (reason, violations) = refusal_of(&status.expect_err("refused"));
        heard.extend(reason.map(|reason| reason.short_name()));
        // the places say more exactly what it was
        let exact = violations.iter().filter_map(|(_, words)| words.split(':').next());
        let named = exact.filter_map(|word| Reason::ALL.iter().find(|known| known.short_name() == word));
        heard.extend(named.map(|reason| reason.short_name()));
    };
    let submit = async |sealed: SealedEnvelope, documents: Vec<Bytes>| {
        let request = SubmitRequest { sealed_envelope: Some(sealed), documents };
        raw.submission().submit(request).await.map(drop)
    };
    let rides = || vec![Bytes::from_static(content)];
    let envelope = || {
        let mut envelope = raw.envelope("G18", content);
        let Some(Body::Document(body)) = &mut envelope.body else { panic!("it has one") };
        body.metadata.get_or_insert_default().subject = subject.to_owned();
        body.documents[0].name = "TEN-TEP-MAT-31.txt".into();
        envelope
    };
    type Change = fn(&mut Envelope);
    let changes: [Change; 14] = [
        |envelope| envelope.hub_id = "truc.khac".into(),
        |envelope| envelope.sender = "G18".into(),
        |envelope| envelope.envelope_id = Bytes::from_static(b"odd"),
        |envelope| envelope.recipients.clear(),
        |envelope| envelope.recipients[0].agency = "khong co".into(),
        |envelope| envelope.recipients[0].agency = "H99".into(),
        |envelope| envelope.recipients.push(envelope.recipients[0].clone()),
        |envelope| envelope.groups.push("khong-co".into()),
        |envelope| envelope.created_unix_ms -= 31 * limits::DAY_MS,
        |envelope| envelope.created_unix_ms += limits::DAY_MS,
        |envelope| {
            envelope.created_unix_ms -= 60_000;
            envelope.expires_unix_ms = envelope.created_unix_ms + 1_000;
        },
        |envelope| documents_of(envelope)[0].size += 1,
        |envelope| documents_of(envelope)[0].sha256 = vec![7; 32].into(),
        |envelope| documents_of(envelope)[0].name = "TEN-TEP-MAT-31".repeat(30),
    ];
    for change in changes {
        let mut envelope = envelope();
        change(&mut envelope);
        hear(submit(raw.seal(&envelope), rides()).await);
    }
    // sealed badly: another's words, a stranger's key, twice, for something else
    let mut sealed = raw.seal(&envelope());
    sealed.signatures[0].sig = vec![1; 64].into();
    hear(submit(sealed, rides()).await);
    let payload = || envelope().encode_to_vec();
    hear(submit(seal(PayloadType::Envelope, payload(), &[&SigningKey::generate()]), rides()).await);
    hear(submit(seal(PayloadType::Acknowledgement, payload(), &[&raw.key]), rides()).await);
    let mut twice = raw.seal(&envelope());
    twice.signatures.push(twice.signatures[0].clone());
    hear(submit(twice, rides()).await);
    let cut = payload();
    hear(submit(seal(PayloadType::Envelope, cut[..cut.len() - 3].to_vec(), &[&raw.key]), rides()).await);
    // the same id with other words
    let mut again = envelope();
    submit(raw.seal(&again), rides()).await?;
    again.priority = Priority::Express.into();
    hear(submit(raw.seal(&again), rides()).await);
    // uploads that are not what they say
    let sha256 = Bytes::copy_from_slice(Digest::of(b"something else").as_bytes());
    let size = content.len() as u64;
    let start = |offset| UploadRequest {
        part: Some(Part::Start(UploadStart { sha256: sha256.clone(), size, offset })),
    };
    let chunk = || UploadRequest { part: Some(Part::Chunk(Bytes::from_static(content))) };
    for parts in
        [vec![chunk()], vec![start(3), chunk()], vec![start(0), chunk()], vec![start(0), chunk(), chunk()]]
    {
        hear(raw.submission().upload(tokio_stream::iter(parts)).await.map(drop));
    }
    // answers to deliveries that there are not
    let acknowledgement = Acknowledgement {
        hub_id: "truc.test".into(),
        delivery_id: "odd".into(),
        envelope_digest: vec![7; 32].into(),
        recipient: "G22".into(),
        mailbox_sequence: 1,
        acknowledged_unix_ms: 1,
        reference: "SO-DEN-MAT-5512".into(),
    };
    let sealed = seal(PayloadType::Acknowledgement, acknowledgement.encode_to_vec(), &[&raw.key]);
    let request = AcknowledgeRequest { sealed_acknowledgement: Some(sealed) };
    hear(raw.mailbox().acknowledge(request).await.map(drop));
    Ok(heard)
}

fn documents_of(envelope: &mut Envelope) -> &mut Vec<Document> {
    match &mut envelope.body {
        Some(Body::Document(body)) => &mut body.documents,
        None => panic!("it has one"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_and_shown_holds_neither_content_nor_keys() -> anyhow::Result<()> {
    let mut hub = HubProcess::start_logging("trace").await?;
    let token = admin::add_system(&mut hub.admin().await?, "vpcp", &["G22"]).await?;
    let vpcp = Ministry::enrol(&hub.path().with_file_name("vpcp"), &token).await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let content: &[u8] = b"NOI-DUNG-MAT-8fd1c2";
    let large: Vec<u8> = content.iter().copied().cycle().take(300_000).collect();
    let subject = "TRICH-YEU-MAT-77ab";
    let letter = || {
        Outgoing::new(vpcp.agency(), subject)
            .to(byt.agency())
            .bytes("TEN-TEP-MAT-31.txt", content.to_vec())
            .bytes("lớn.bin", large.clone())
    };
    vpcp.send(letter()).await?;
    let mut deliveries = byt.client.receive(ReceiveOptions::following()).await?;
    let received = byt.next(&mut deliveries).await?;
    received.ack("SO-DEN-MAT-5512").await?;
    let raw = Raw::at(vpcp.home(), "G22").await?;
    let reasons = refusals(&raw, content, subject).await?;
    assert!(reasons.len() >= 16, "only {reasons:?}");
    vpcp.send(letter()).await?;
    let received = byt.next(&mut deliveries).await?;
    received.reject(RejectionReason::WrongAddressee, "LY-DO-MAT-904b").await?;
    // a token that was used, and a fault
    let second = hub.path().with_file_name("second");
    Ministry::enrol(&second, &token).await.map(drop).expect_err("a token opens once");
    // and a fault: the vault has lost the document
    vpcp.send(letter()).await?;
    std::fs::remove_dir_all(hub.path().join("data/vault/objects"))?;
    let received = byt.next(&mut deliveries).await?;
    let into = hub.path().with_file_name("received");
    let lost = timeout(Duration::from_secs(3), received.save(&into, &quiet)).await;
    assert!(!matches!(lost, Ok(Ok(_))), "the document is gone");

    let addresses: toml::Table = std::fs::read_to_string(hub.path().join("addresses.toml"))?.parse()?;
    let operators = addresses["operators"].as_str().context("an address")?;
    let mut shown = Vec::new();
    for path in ["/", "/?lang=en", "/metrics", "/health/ready"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = answer(operators, request.as_bytes()).await?;
        assert!(answer.starts_with(b"HTTP/1.1 200") || path == "/health/ready");
        shown.push((path.to_owned(), answer));
    }
    drop((deliveries, raw));
    hub.terminate().await?;
    let log = hub.log();
    for sign in ["TRACE", "system enrolled", "enrolment token refused", "incident"] {
        assert!(log.contains(sign), "the log was looked at too early or holds nothing: {sign}");
    }
    shown.push(("the log".to_owned(), log.into_bytes()));

    let mut secrets = Vec::new();
    for (what, bytes) in [
        ("a document", content),
        ("a subject", subject.as_bytes()),
        ("a file's name", b"TEN-TEP-MAT-31"),
        ("an acknowledgement's reference", b"SO-DEN-MAT-5512"),
        ("a rejection's words", b"LY-DO-MAT-904b"),
        ("a token", token.as_bytes()),
        ("a token's secret", &token.parse::<axis_client::EnrolmentToken>()?.secret),
        ("a key's label", b"PRIVATE KEY"),
    ] {
        secrets.extend(forms(what, bytes));
    }
    let keys = hub.path().join("keys");
    for path in [keys.join("checkpoint.pem"), keys.join("authority.pem"), keys.join("server.pem")] {
        secrets.extend(pem(path)?);
    }
    for home in [vpcp.home(), byt.home()] {
        secrets.extend(pem(home.join("signing.pem"))?);
        secrets.extend(pem(home.join("tls.pem"))?);
    }
    let mut by_beginning: HashMap<&[u8], Vec<&(String, Vec<u8>)>> = HashMap::new();
    for secret in &secrets {
        by_beginning.entry(&secret.1[..BEGINNING]).or_default().push(secret);
    }
    for (place, text) in &shown {
        for at in 0..text.len().saturating_sub(BEGINNING) {
            let Some(possible) = by_beginning.get(&text[at..at + BEGINNING]) else { continue };
            let around = String::from_utf8_lossy(&text[at.saturating_sub(200)..at]);
            for (what, form) in possible {
                assert!(!text[at..].starts_with(form), "{place} holds {what}, behind: {around}");
            }
        }
    }
    Ok(())
}
