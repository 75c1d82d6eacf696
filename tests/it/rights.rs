//! Who may do what changes at once, on open connections too, without a
//! restart.

use std::time::Duration;

use anyhow::Context as _;
use axis_client::{Client, EnrolmentToken, Error, KnownLogs, Renew, quiet};
use axis_proto::{
    admin::v1::{
        IssueTokenRequest, ListSystemsRequest, RevokeCertificateRequest, RevokeSigningKeyRequest,
        SetSystemStateRequest, SystemSummary,
    },
    hub::v1::Reason,
    record::v1::SystemState,
};
use axis_tests::{Admin, Ministry, TestHub, eventually, impatient};

async fn summary(admin: &mut Admin, system: &str) -> SystemSummary {
    let systems = admin.list_systems(ListSystemsRequest {}).await.expect("listed").into_inner().systems;
    let named =
        systems.into_iter().find(|one| one.system.as_ref().is_some_and(|row| row.system_id == system));
    named.expect("it is there")
}

async fn set_state(admin: &mut Admin, system: &str, state: SystemState) {
    let request =
        SetSystemStateRequest { system_id: system.into(), state: state.into(), remark: "kiểm tra".into() };
    admin.set_system_state(request).await.expect("set");
}

fn reason(error: &Error) -> Option<Reason> {
    error.reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_remembers_what_its_enrolment_showed() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let token = axis_tests::admin::add_system(&mut hub.admin().await?, "byt", &["G18"]).await?;
    let home = tempfile::tempdir()?;
    // no other call: what it asks later cannot be older than this
    let enrolled = Client::enrol_with(home.path(), &token.parse()?, &impatient()).await?;
    let shown = axis_proto::receipt::verify(&enrolled.receipt, &hub.verifier())?.checkpoint;
    let known = KnownLogs::load(home.path())?.context("it is enrolled")?;
    let head = known.logs().last().and_then(|log| log.head()).context("a head")?;
    assert_eq!((head.size, head.root), (shown.size, shown.root));
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_enrols_once() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let mut admin = hub.admin().await?;
    let token = axis_tests::admin::add_system(&mut admin, "byt", &["G18"]).await?;
    let homes = tempfile::tempdir()?;
    Ministry::enrol(&homes.path().join("first"), &token).await?;
    let token: EnrolmentToken = token.parse()?;
    let again = Client::enrol_with(homes.path().join("second"), &token, &impatient()).await.map(|_| ());
    assert_eq!(reason(&again.expect_err("refused")), Some(Reason::TokenInvalid));
    let further = admin.issue_token(IssueTokenRequest { system_id: "byt".into() }).await?.into_inner();
    Ministry::enrol(&homes.path().join("third"), &further.token).await?;
    assert_eq!(summary(&mut admin, "byt").await.certificates.len(), 2);
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_another_authority_is_not_followed() -> anyhow::Result<()> {
    let (hub, other) = (TestHub::start().await?, TestHub::start().await?);
    let token = axis_tests::admin::add_system(&mut hub.admin().await?, "byt", &["G18"]).await?;
    let theirs = axis_tests::admin::add_system(&mut other.admin().await?, "byt", &["G18"]).await?;
    let mut token: EnrolmentToken = token.parse()?;
    token.authority_key_sha256 = theirs.parse::<EnrolmentToken>()?.authority_key_sha256;
    let homes = tempfile::tempdir()?;
    let mut options = impatient();
    options.deadline = Duration::from_secs(1);
    assert!(Client::enrol_with(homes.path(), &token, &options).await.is_err());
    hub.finish().await?;
    other.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_cut_off_at_once() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = (hub.ministry("vpcp", &["G22"]).await?, hub.ministry("byt", &["G18"]).await?);
    let mut deliveries = byt.follow().await?;
    vpcp.send(vpcp.letter(&["G18"], "một")).await?;
    byt.next(&mut deliveries).await?.ack("").await?;

    let mut admin = hub.admin().await?;
    let certificate = summary(&mut admin, "byt").await.certificates[0].fingerprint.clone();
    let revoke = RevokeCertificateRequest { fingerprint: certificate, remark: "mất máy".into() };
    admin.revoke_certificate(revoke).await?;
    let ended = tokio::time::timeout(axis_tests::PATIENCE, deliveries.next()).await?;
    assert!(!matches!(ended, Some(Ok(_))), "the open stream ends");
    let refused = byt.client.info().await;
    assert!(refused.is_err(), "and nothing new begins");
    vpcp.send(vpcp.letter(&["G18"], "hai")).await?;

    // a new identity gets what waited
    let token = admin.issue_token(IssueTokenRequest { system_id: "byt".into() }).await?.into_inner().token;
    let homes = tempfile::tempdir()?;
    let again = Ministry::enrol(&homes.path().join("byt"), &token).await?;
    let mut deliveries = again.follow().await?;
    again.next(&mut deliveries).await?.ack("").await?;
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_recipient_is_held_and_resumed() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = (hub.ministry("vpcp", &["G22"]).await?, hub.ministry("byt", &["G18"]).await?);
    let mut admin = hub.admin().await?;
    vpcp.send(vpcp.letter(&["G18"], "chờ")).await?;
    set_state(&mut admin, "byt", SystemState::Suspended).await;
    let refused = byt.client.info().await.expect_err("refused");
    assert_eq!(reason(&refused), Some(Reason::Suspended), "{refused}");
    let refused = vpcp.client.send(vpcp.letter(&["G18"], "mới"), &quiet).await.expect_err("refused");
    assert_eq!(reason(&refused), Some(Reason::RecipientsRefused));
    set_state(&mut admin, "byt", SystemState::Active).await;
    let mut deliveries = byt.follow().await?;
    let received = byt.next(&mut deliveries).await?;
    assert_eq!(received.metadata().subject, "chờ");
    received.ack("").await?;
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn suspension_ends_an_open_stream_and_nothing_more_comes() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = (hub.ministry("vpcp", &["G22"]).await?, hub.ministry("byt", &["G18"]).await?);
    let mut deliveries = byt.follow().await?;
    vpcp.send(vpcp.letter(&["G18"], "trước")).await?;
    byt.next(&mut deliveries).await?.ack("").await?;
    set_state(&mut hub.admin().await?, "byt", SystemState::Suspended).await;
    let ended = tokio::time::timeout(axis_tests::PATIENCE, deliveries.next()).await?;
    assert!(!matches!(ended, Some(Ok(_))), "the open stream ends");
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_suspended_sender_sent_is_still_delivered() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = (hub.ministry("vpcp", &["G22"]).await?, hub.ministry("byt", &["G18"]).await?);
    vpcp.send(vpcp.letter(&["G18"], "đã gửi")).await?;
    set_state(&mut hub.admin().await?, "vpcp", SystemState::Suspended).await;
    assert!(vpcp.client.send(vpcp.letter(&["G18"], "sau"), &quiet).await.is_err());
    let mut deliveries = byt.follow().await?;
    let received = byt.next(&mut deliveries).await?;
    assert_eq!(received.metadata().subject, "đã gửi");
    received.ack("").await?;
    let report = hub.finish().await?;
    assert_eq!(report.counts.envelopes, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_certificates_rotate_without_a_restart() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, byt) = (hub.ministry("vpcp", &["G22"]).await?, hub.ministry("byt", &["G18"]).await?);
    let mut admin = hub.admin().await?;
    let first = summary(&mut admin, "vpcp").await.signing_keys[0].key_id.clone();
    vpcp.send(vpcp.letter(&["G18"], "khóa cũ")).await?;
    vpcp.client.renew(Renew::CertificateAndSigningKey).await?;
    vpcp.send(vpcp.letter(&["G18"], "khóa mới")).await?;
    let keys = summary(&mut admin, "vpcp").await.signing_keys;
    assert_eq!(keys.len(), 2, "two at once during rotation");
    let revoke = RevokeSigningKeyRequest { key_id: first.clone(), remark: "thay khóa".into() };
    admin.revoke_signing_key(revoke).await?;
    vpcp.send(vpcp.letter(&["G18"], "chỉ khóa mới")).await?;

    // what the old key signed before it was revoked still arrives, verified
    let mut deliveries = byt.follow().await?;
    for _ in 0..3 {
        byt.next(&mut deliveries).await?.ack("").await?;
    }
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_signs_nothing_more() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let (vpcp, _byt) = (hub.ministry("vpcp", &["G22"]).await?, hub.ministry("byt", &["G18"]).await?);
    let mut admin = hub.admin().await?;
    let key_id = summary(&mut admin, "vpcp").await.signing_keys[0].key_id.clone();
    admin.revoke_signing_key(RevokeSigningKeyRequest { key_id, remark: "lộ khóa".into() }).await?;
    let refused = vpcp.client.send(vpcp.letter(&["G18"], "sau"), &quiet).await.expect_err("refused");
    assert_eq!(reason(&refused), Some(Reason::KeyRevoked), "{refused}");
    hub.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_who_was_there() -> anyhow::Result<()> {
    let hub = TestHub::start().await?;
    let byt = hub.ministry("byt", &["G18"]).await?;
    let mut admin = hub.admin().await?;
    byt.client.info().await?;
    eventually("it was seen", async || summary(&mut admin, "byt").await.last_seen_unix_ms > 0).await;
    hub.finish().await?;
    Ok(())
}
