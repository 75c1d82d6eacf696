//! A hub on ports of its own, met over TLS.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axis_proto::{
    admin::v1::{
        AddSystemRequest, GetStatusRequest, IssueTokenRequest, ListSystemsRequest,
        RegisterCertificateRequest, RevokeCertificateRequest, SetSystemStateRequest,
        admin_service_client::AdminServiceClient,
    },
    hub::v1::{
        EnrolRequest, EnrolResponse, QueryUploadRequest, RenewRequest, RevokeSigningKeyRequest,
        UploadRequest, UploadStart, enrolment_service_client::EnrolmentServiceClient,
        identity_service_client::IdentityServiceClient, submission_service_client::SubmissionServiceClient,
        upload_request::Part,
    },
    id::Digest,
    key::SigningKey,
    note::CheckpointVerifier,
    receipt,
    record::v1::SystemState,
    token::{EnrolmentToken, enrol_proof_message, renew_proof_message},
};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    config::Listen,
    disk::{DiskFile, Space},
    identity::{InitOptions, init},
    wire::tls::crypto_provider,
};

fn make(dir: &Path) -> Config {
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut options = InitOptions::new("axis.example".parse().unwrap());
    options.listen = Listen { systems: free, enrolment: free, operators: free };
    init(dir, &options, &Clock::system()).unwrap().config
}

/// A system's side of TLS.
fn client_config(
    authority: &CertificateDer<'static>,
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").expect("a constant that is a name");
            TlsConnector::from(config).connect(name, tcp).await.map(TokioIo::new)
        }
    });
    tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

async fn admin(config: &Config) -> AdminServiceClient<Channel> {
    let path = config.admin_socket();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    AdminServiceClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// What a system keeps.
struct Enrolled {
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    signing: SigningKey,
    response: EnrolResponse,
}

impl Enrolled {
    fn config(&self) -> Arc<ClientConfig> {
        client_config(&self.authority, Some((self.certificate.clone(), self.key.clone_key())))
    }
}

async fn enrol(hub: &Hub, token: &str) -> Result<Enrolled, Status> {
    let token: EnrolmentToken = token.parse().unwrap();
    let authority = hub.context().identity.authority.certificate().clone();
    let config = client_config(&authority, None);
    let channel = connect(token.address.parse().unwrap(), config).await.unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::default();
    let request = params.serialize_request(&key).unwrap().der().to_vec();
    let signing = SigningKey::generate();
    let proof = signing.sign(&enrol_proof_message(&token.secret, &request));
    let response = EnrolmentServiceClient::new(channel)
        .enrol(EnrolRequest {
            token_secret: Bytes::copy_from_slice(&token.secret),
            certificate_request: request.into(),
            signing_public_key: Bytes::copy_from_slice(signing.public().as_bytes()),
            signing_key_proof: Bytes::copy_from_slice(&proof),
        })
        .await?
        .into_inner();
    Ok(Enrolled {
        authority: response.authority_certificate.to_vec().into(),
        certificate: response.certificate.to_vec().into(),
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        signing,
        response,
    })
}

async fn check_health(channel: &Channel) -> Result<i32, Status> {
    let request = HealthCheckRequest { service: String::new() };
    Ok(HealthClient::new(channel.clone()).check(request).await?.into_inner().status)
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

async fn add_vpcp(config: &Config) -> String {
    let request =
        AddSystemRequest { system_id: "vpcp".to_owned(), name: "Văn phòng".to_owned(), agencies: vec![] };
    admin(config).await.add_system(request).await.unwrap().into_inner().token
}

/// The machine's disk, with as much room as it is told, and a journal that
/// fails when it is told.
#[derive(Debug, Clone, Default)]
struct TestDisk(Arc<Faults>);

#[derive(Debug, Default)]
struct Faults {
    /// 0: what there is.
    free_bytes: AtomicU64,
    writes_fail: AtomicBool,
    syncs_fail: AtomicBool,
}

#[derive(Debug)]
struct TestFile {
    file: Arc<dyn DiskFile>,
    /// Absent for files that do not fail.
    faults: Option<Arc<Faults>>,
}

impl TestDisk {
    async fn start(&self, config: &Config) -> Hub {
        Hub::start_on(config.clone(), Clock::system(), Arc::new(self.clone())).await.unwrap()
    }

    fn has_free(&self, bytes: u64) {
        self.0.free_bytes.store(bytes, Ordering::SeqCst);
    }

    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let is_journal = path.to_string_lossy().contains("/journal/");
        Arc::new(TestFile { file, faults: is_journal.then(|| self.0.clone()) })
    }
}

impl Disk for TestDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, RealDisk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, RealDisk.open(path)?))
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open_read(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        let space = RealDisk.space(path)?;
        Ok(match self.0.free_bytes.load(Ordering::SeqCst) {
            0 => space,
            free_bytes => Space { free_bytes, ..space },
        })
    }
}

impl TestFile {
    fn may(&self, fails: fn(&Faults) -> &AtomicBool) -> io::Result<()> {
        match &self.faults {
            Some(faults) if fails(faults).load(Ordering::SeqCst) => Err(io::Error::other("a broken disk")),
            _ => Ok(()),
        }
    }
}

impl DiskFile for TestFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.may(|faults| &faults.writes_fail)?;
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.may(|faults| &faults.syncs_fail)?;
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// Opens a stream, to see it end.
async fn watch(channel: &Channel) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let request = HealthCheckRequest { service: String::new() };
    let mut stream = HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    stream
}

/// An open stream ends as a connection does that is cut.
async fn ends(mut stream: tonic::Streaming<tonic_health::pb::HealthCheckResponse>) {
    let next = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
    assert!(next.expect("the stream is cut").is_err());
}

fn hub_gone(answer: Result<i32, Status>) -> bool {
    answer.is_err_and(|status| reason(&status).is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_enrols_once_and_is_known_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&config.admin_socket()), 0o600);
    let addresses = std::fs::read_to_string(config.addresses_file()).unwrap();
    assert!(addresses.contains(&hub.addresses().systems.to_string()), "{addresses}");

    let token = add_vpcp(&config).await;
    let vpcp = enrol(&hub, &token).await.unwrap();
    assert_eq!(vpcp.response.system_id, "vpcp");
    assert_eq!(vpcp.response.hub_address, hub.addresses().systems.to_string());
    let verifier = CheckpointVerifier::parse(&vpcp.response.log_verifier_key).unwrap();
    receipt::verify(vpcp.response.receipt.as_ref().unwrap(), &verifier).unwrap();

    let again = enrol(&hub, &token).await.err().unwrap();
    assert_eq!((again.code(), reason(&again).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"));

    let channel = connect(hub.addresses().systems, vpcp.config()).await.unwrap();
    assert_eq!(check_health(&channel).await.unwrap(), 1, "serving");
    let systems =
        admin(&config).await.list_systems(ListSystemsRequest {}).await.unwrap().into_inner().systems;
    assert_eq!(systems[0].certificates.len(), 1);
    assert!(systems[0].last_seen_unix_ms > 0);
    let status = admin(&config).await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.ready && status.connections == 1, "{status:?}");

    let second = Hub::start(config.clone(), Clock::system()).await.err().unwrap();
    assert!(second.to_string().contains("lock"), "{second}");
    assert_eq!(hub.stop().await, Vec::<String>::new());
    assert!(!config.admin_socket().exists() && !config.addresses_file().exists());

    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    let channel = connect(hub.addresses().systems, vpcp.config()).await.unwrap();
    assert_eq!(check_health(&channel).await.unwrap(), 1, "still known");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_gets_no_further_than_the_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    let hub = Hub::start(config, Clock::system()).await.unwrap();
    let authority = hub.context().identity.authority.certificate().clone();
    let refused = async |config| match connect(hub.addresses().systems, config).await {
        Err(_) => true,
        // in TLS 1.3 the client learns of it with its first call
        Ok(channel) => hub_gone(check_health(&channel).await),
    };
    assert!(refused(client_config(&authority, None)).await);

    // a certificate of another authority
    let (other, _) = crate::identity::Authority::generate(&"axis.example".parse().unwrap(), now()).unwrap();
    let foreign = certified(&other);
    assert!(refused(client_config(&authority, Some(foreign))).await);
    assert_eq!(hub.context().connections.count(), 0);

    // one of ours that nobody registered
    let stray = certified(&hub.context().identity.authority);
    let channel = connect(hub.addresses().systems, client_config(&authority, Some(stray))).await.unwrap();
    let status = check_health(&channel).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "NOT_AUTHENTICATED"));

    // and the old protocol
    let mut old = ClientConfig::clone(&client_config(&authority, None));
    old.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(refused(Arc::new(old)).await);
    hub.stop().await;
}

fn now() -> u64 {
    Clock::system().now_ms()
}

fn certified(authority: &crate::identity::Authority) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let request = crate::identity::CertificateRequest::parse(request.der()).unwrap();
    let issued = authority.certify_system(&request, &"vpcp".parse().unwrap(), now(), 30).unwrap();
    (issued.der, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn suspension_and_revocation_reach_open_connections() {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    let vpcp = enrol(&hub, &add_vpcp(&config).await).await.unwrap();
    let systems = hub.addresses().systems;
    let mut operators = admin(&config).await;
    let mut set = async |state: SystemState| {
        let (system_id, remark) = ("vpcp".to_owned(), "a test".to_owned());
        operators.set_system_state(SetSystemStateRequest { system_id, state: state.into(), remark }).await
    };

    let channel = connect(systems, vpcp.config()).await.unwrap();
    let stream = watch(&channel).await;
    set(SystemState::Suspended).await.unwrap();
    ends(stream).await;
    let channel = connect(systems, vpcp.config()).await.unwrap();
    let status = check_health(&channel).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "SUSPENDED"));
    set(SystemState::Active).await.unwrap();
    let channel = connect(systems, vpcp.config()).await.unwrap();
    let stream = watch(&channel).await;

    let fingerprint = Digest::of(&vpcp.certificate);
    let revoke = |remark: &str| RevokeCertificateRequest {
        fingerprint: Bytes::copy_from_slice(fingerprint.as_bytes()),
        remark: remark.to_owned(),
    };
    let status = operators.revoke_certificate(revoke("")).await.unwrap_err();
    assert_eq!(reason(&status), "FIELD_INVALID", "an operator says why");
    operators.revoke_certificate(revoke("lost")).await.unwrap();
    ends(stream).await;
    let channel = connect(systems, vpcp.config()).await.unwrap();
    let status = check_health(&channel).await.unwrap_err();
    assert_eq!(reason(&status), "NOT_AUTHENTICATED");

    // a further token brings it back
    let request = IssueTokenRequest { system_id: "vpcp".to_owned() };
    let token = operators.issue_token(request).await.unwrap().into_inner().token;
    let anew = enrol(&hub, &token).await.unwrap();
    let channel = connect(systems, anew.config()).await.unwrap();
    let mut stream = watch(&channel).await;
    assert_eq!(hub.stop().await, Vec::<String>::new(), "streams end by themselves");
    while let Ok(Some(_)) = stream.message().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_authority_is_trusted_for_what_is_registered() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = make(&dir.path().join("hub"));
    let (other, _) = crate::identity::Authority::generate(&"other.example".parse().unwrap(), now()).unwrap();
    let text = crate::identity::pem("CERTIFICATE", other.certificate());
    std::fs::write(config.dir.join("other.crt"), text).unwrap();
    config.tls.trusted_authorities.push("other.crt".into());
    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    add_vpcp(&config).await;

    let foreign = certified(&other);
    let certificate = Bytes::copy_from_slice(&foreign.0);
    let authority = hub.context().identity.authority.certificate().clone();
    let tls = client_config(&authority, Some(foreign));
    let channel = connect(hub.addresses().systems, tls.clone()).await.unwrap();
    assert_eq!(reason(&check_health(&channel).await.unwrap_err()), "NOT_AUTHENTICATED");
    let (system_id, remark) = ("vpcp".to_owned(), String::new());
    let request = RegisterCertificateRequest { system_id, certificate, remark };
    admin(&config).await.register_certificate(request.clone()).await.unwrap();
    let channel = connect(hub.addresses().systems, tls).await.unwrap();
    check_health(&channel).await.unwrap();
    let again = admin(&config).await.register_certificate(request).await.unwrap_err();
    assert_eq!(reason(&again), "ALREADY_EXISTS");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_renews_its_own_identity() {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    let vpcp = enrol(&hub, &add_vpcp(&config).await).await.unwrap();
    let channel = connect(hub.addresses().systems, vpcp.config()).await.unwrap();
    let mut identity = IdentityServiceClient::new(channel);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let next = SigningKey::generate();
    let proof = next.sign(&renew_proof_message(&"vpcp".parse().unwrap(), &request));
    let renew = RenewRequest {
        certificate_request: request.into(),
        signing_public_key: Bytes::copy_from_slice(next.public().as_bytes()),
        signing_key_proof: Bytes::copy_from_slice(&proof),
    };
    let renewed = identity.renew(renew.clone()).await.unwrap().into_inner();
    assert_eq!(identity.renew(renew).await.unwrap_err().code(), Code::InvalidArgument, "two keys at most");
    assert!(identity.renew(RenewRequest::default()).await.is_err(), "nothing asked for");

    // the new certificate works beside the old one, and each key ends alone
    let renewed = Enrolled {
        certificate: renewed.certificate.to_vec().into(),
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        ..vpcp
    };
    let channel = connect(hub.addresses().systems, renewed.config()).await.unwrap();
    let mut identity = IdentityServiceClient::new(channel);
    let revoke = |key: &SigningKey| RevokeSigningKeyRequest {
        key_id: Bytes::copy_from_slice(key.public().key_id().as_bytes()),
    };
    identity.revoke_signing_key(revoke(&renewed.signing)).await.unwrap();
    let status = identity.revoke_signing_key(revoke(&SigningKey::generate())).await.unwrap_err();
    assert_eq!(reason(&status), "NOT_FOUND");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_cut_at_the_deadline_and_named() {
    use tonic_reflection::pb::{v1, v1alpha};
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    let vpcp = enrol(&hub, &add_vpcp(&config).await).await.unwrap();
    let channel = connect(hub.addresses().systems, vpcp.config()).await.unwrap();

    // both reflections, one of them by a client that never ends its stream
    let host = String::new();
    let message_request =
        Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()));
    let request = v1alpha::ServerReflectionRequest { host: host.clone(), message_request };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let once = tokio_stream::iter([request]);
    let mut answers = client.server_reflection_info(once).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let message_request = Some(v1::server_reflection_request::MessageRequest::ListServices(String::new()));
    let request = v1::ServerReflectionRequest { host, message_request };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(request).await.unwrap();
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap());
    assert!(answer.contains("axis.hub.v1.MailboxService"), "{answer}");

    let left = hub.stop().await;
    assert!(left.len() == 1 && left[0].starts_with("a connection of vpcp from 127.0.0.1"), "{left:?}");
    drop(sender);
    Hub::start(config, Clock::system()).await.unwrap().stop().await;
}

#[tokio::test]
async fn an_upload_ends_when_the_disk_becomes_nearly_full_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    let disk = TestDisk::default();
    let hub = disk.start(&config).await;
    let vpcp = enrol(&hub, &add_vpcp(&config).await).await.unwrap();
    let channel = connect(hub.addresses().systems, vpcp.config()).await.unwrap();
    let mut client = SubmissionServiceClient::new(channel);
    let (bytes, half) = (Bytes::from(vec![7; 20_000]), 10_000);
    let sha256 = Bytes::copy_from_slice(Digest::of(&bytes).as_bytes());
    let start = |offset| Part::Start(UploadStart { sha256: sha256.clone(), size: 20_000, offset });
    let part = |part| UploadRequest { part: Some(part) };
    let committed = async |client: &mut SubmissionServiceClient<Channel>| {
        let request = QueryUploadRequest { sha256: sha256.clone(), size: 20_000 };
        client.query_upload(request).await.unwrap().into_inner().committed_bytes
    };

    let (sender, parts) = tokio::sync::mpsc::channel(4);
    sender.send(part(start(0))).await.unwrap();
    sender.send(part(Part::Chunk(bytes.slice(..half)))).await.unwrap();
    let mut uploading = client.clone();
    let answer =
        tokio::spawn(
            async move { uploading.upload(tokio_stream::wrappers::ReceiverStream::new(parts)).await },
        );
    while committed(&mut client).await < half as u64 {
        tokio::task::yield_now().await;
    }
    disk.has_free(limits::DISK_LOW_BYTES / 2);
    hub.context().observe.look_at_disk();
    sender.send(part(Part::Chunk(bytes.slice(half..15_000)))).await.unwrap();
    let refused = answer.await.unwrap().unwrap_err();
    assert_eq!(reason(&refused), "DISK_FULL");
    assert!(refused.get_error_details().retry_info().is_some_and(|info| info.retry_delay.is_some()));
    assert!(hub.context().readiness.health().is_degraded());
    assert_eq!(committed(&mut client).await, half as u64, "what arrived before is kept");

    disk.has_free(limits::DISK_LOW_BYTES * 4);
    hub.context().observe.look_at_disk();
    assert!(!hub.context().readiness.health().is_degraded());
    let rest = [part(start(half as u64)), part(Part::Chunk(bytes.slice(half..)))];
    let done = client.upload(tokio_stream::iter(rest)).await.unwrap().into_inner();
    assert!(done.complete);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_has_stopped_has_let_go_of_its_ports() {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    for round in 0..20 {
        let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
        let Addresses { systems, enrolment, operators, .. } = hub.addresses().clone();
        let kept = TcpStream::connect(operators).await.unwrap();
        assert!(hub.stop().await.is_empty());
        for (port, name) in [(systems, "systems"), (enrolment, "enrolment"), (operators, "operators")] {
            let free = std::net::TcpListener::bind(port);
            assert!(free.is_ok(), "round {round}: {name} cannot be bound: {free:?}");
        }
        drop(kept);
    }
}

/// What is told to nobody who waits when the journal fails: the process ends,
/// and the next start finds out what the disk holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_or_synced_stops_the_hub_at_once() {
    for syncs in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let config = make(&dir.path().join("hub"));
        let disk = TestDisk::default();
        let hub = disk.start(&config).await;
        let key = hub.context().log_verifier_key.clone();
        let vpcp = enrol(&hub, &add_vpcp(&config).await).await.unwrap();
        let channel = connect(hub.addresses().systems, vpcp.config()).await.unwrap();
        let mut stream = watch(&channel).await;
        let before = hub.context().observe.journal.size();
        if syncs { &disk.0.syncs_fail } else { &disk.0.writes_fail }.store(true, Ordering::SeqCst);

        let mut operators = admin(&config).await;
        let request = IssueTokenRequest { system_id: "vpcp".to_owned() };
        let status = operators.issue_token(request.clone()).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Internal, "FAULT"), "{status:?}");
        let why = tokio::time::timeout(Duration::from_secs(10), hub.failed()).await.unwrap();
        assert!(why.contains("the journal did not take a batch") && why.contains("a broken disk"), "{why}");
        assert_eq!(hub.context().observe.journal.size(), before, "nothing of it is shown");
        // the disk is well again, and still nothing is taken: nobody knows what it holds
        for fault in [&disk.0.syncs_fail, &disk.0.writes_fail] {
            fault.store(false, Ordering::SeqCst);
        }
        assert!(operators.issue_token(request).await.is_err());
        let stopping = std::time::Instant::now();
        hub.stop().await;
        assert!(stopping.elapsed() < limits::DRAIN_TIMEOUT / 2, "it waited for its callers");
        while let Ok(Some(_)) = stream.message().await {}

        let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
        assert!(hub.context().observe.journal.size() >= before);
        hub.stop().await;
        let verifier = CheckpointVerifier::parse(&key).unwrap();
        let data = &config.data_dir();
        let stores = crate::fsck::Stores { data, disk: RealDisk::shared(), verifier, progress: &mut |_| {} };
        assert!(crate::fsck::run(stores).unwrap().is_clean());
    }
}

#[tokio::test]
async fn a_hub_whose_journal_lost_records_goes_on_in_a_new_log_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = make(&dir.path().join("hub"));
    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    let key = hub.context().log_verifier_key.clone();
    hub.stop().await;
    let (data, older) = (config.data_dir(), dir.path().join("older"));
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    copy(&data.join(JOURNAL), &older);
    let hub = Hub::start(config.clone(), Clock::system()).await.unwrap();
    add_vpcp(&config).await;
    hub.stop().await;
    copy(&older, &data.join(JOURNAL));

    let violations = || {
        let verifier = CheckpointVerifier::parse(&key).unwrap();
        let stores =
            crate::fsck::Stores { data: &data, disk: RealDisk::shared(), verifier, progress: &mut |_| {} };
        let report = crate::fsck::run(stores).unwrap();
        report.violations.into_iter().map(|violation| violation.what).collect::<Vec<_>>()
    };
    let found = violations();
    assert!(found.iter().any(|what| what.contains("the tree knows")), "{found:?}");
    assert!(found.iter().any(|what| what.contains("the state contains")), "{found:?}");
    for _ in 0..2 {
        let Err(error) = Hub::start(config.clone(), Clock::system()).await else { panic!("it started") };
        let said = error.source.to_string();
        assert!(said.contains("the journal has lost some") && said.contains("axis-hub restore"), "{said}");
    }
    let said = rebuild(&config).unwrap_err().source.to_string();
    assert!(said.contains("axis-hub restore"), "{said}");
    assert!(!violations().is_empty(), "what proves it is still there");

    let options = crate::backup::RestoreOptions {
        backup: config.dir.clone(),
        dir: dir.path().join("restored"),
        keys: Some(config.keys_dir()),
        new_key: false,
    };
    let restored = crate::backup::restore(&options, &Clock::system(), &mut |_| {}).unwrap();
    assert!(restored.signed_by_previous && restored.log_verifier_key != key);
    let hub = Hub::start(restored.config, Clock::system()).await.unwrap();
    assert_eq!(hub.context().log_successions.len(), 1);
    hub.stop().await;
}
