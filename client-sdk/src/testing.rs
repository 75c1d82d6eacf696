//! What tests of this crate need: an enrolled home without a hub, and a hub's
//! own hand to make receipts with.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axis_proto::{
    hub::v1::{
        GetCheckpointRequest, GetCheckpointResponse, GetConsistencyRequest, GetConsistencyResponse,
        GetInfoRequest, GetInfoResponse, GetReceiptRequest, GetReceiptResponse,
        evidence_service_server::{EvidenceService, EvidenceServiceServer},
        hub_service_server::{HubService, HubServiceServer},
    },
    id::Digest,
    key::SigningKey,
    note::CheckpointSigner,
    receipt,
    record::v1::{Receipt, Record, record::Event},
    tree::{self, Hash},
};
use bytes::Bytes;
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tonic::{Request, Response, Status};

use crate::{
    client::{Client, ClientOptions, Inner},
    files::{self, Access},
    home::{self, Home, Profile},
    tls,
};

/// An enrolled client whose hub is not there.
pub struct Enrolled {
    pub folder: tempfile::TempDir,
    pub client: Client,
    pub log: CheckpointSigner,
    made: AtomicU64,
}

impl Enrolled {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let log = CheckpointSigner::new("hub.test/log", SigningKey::generate()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().der().clone();
        home::save_tls(&home, &key.serialize_pem(), &authority).unwrap();
        let signing_key = SigningKey::generate().to_pem();
        files::write(&home.signing_key(), signing_key.as_bytes(), Access::Owner).unwrap();
        let pem = home::pem("CERTIFICATE", &authority);
        files::write(&home.authority(), pem.as_bytes(), Access::Default).unwrap();
        let profile = Profile {
            system_id: "tayninh".parse().unwrap(),
            hub_id: "hub.test".parse().unwrap(),
            // a port that nobody may listen on
            hub_address: "127.0.0.1:1".to_owned(),
            log_verifier_key: log.verifier_key(),
            authority_key_sha256: tls::key_sha256(&authority).unwrap(),
            agencies: vec!["H53".parse().unwrap()],
        };
        home::save_profile(&home, &profile).unwrap();
        let client = Client::connect_with(folder.path(), impatient()).await.unwrap();
        Self { folder, client, log, made: AtomicU64::new(0) }
    }

    pub fn inner(&self) -> &Arc<Inner> {
        &self.client.inner
    }

    /// The receipt of an event, as the only record of a log. Each is proven
    /// under a size of its own.
    pub fn receipt(&self, sequence: u64, event: Event) -> Receipt {
        self.receipt_of(Record { sequence, event: Some(event), ..Record::default() })
    }

    /// The receipt of a record, in the same way.
    pub fn receipt_of(&self, record: Record) -> Receipt {
        let (sequence, record) = (record.sequence, record.encode_to_vec());
        let size = sequence + 1 + self.made.fetch_add(1, Ordering::Relaxed);
        let mut leaves: Vec<[u8; 32]> =
            (0..size).map(|index| *Digest::of(&index.to_be_bytes()).as_bytes()).collect();
        leaves[sequence as usize] = tree::record_leaf(&[7; 16], &record);
        let path = tree::inclusion_of(&leaves, sequence as usize);
        let checkpoint = self.log.sign(size, &tree::root_of(&leaves));
        receipt::make(record.into(), &[7; 16], sequence, path, checkpoint)
    }
}

/// What a hub that is asked for proofs says.
#[derive(Clone)]
pub struct FakeHub {
    pub info: GetInfoResponse,
    pub proof: Arc<dyn Fn(u64, u64) -> Result<Vec<Hash>, Status> + Send + Sync>,
    pub checkpoint: String,
}

impl FakeHub {
    /// Listens, and has the client speak to it from now on.
    pub async fn serve(self, enrolled: &Enrolled) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(HubServiceServer::new(self.clone()))
            .add_service(EvidenceServiceServer::new(self))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        enrolled.inner().speak_to(endpoint.connect_lazy());
    }
}

#[tonic::async_trait]
impl HubService for FakeHub {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(self.info.clone()))
    }
}

#[tonic::async_trait]
impl EvidenceService for FakeHub {
    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        Ok(Response::new(GetCheckpointResponse { checkpoint: self.checkpoint.clone() }))
    }

    async fn get_receipt(
        &self,
        _: Request<GetReceiptRequest>,
    ) -> Result<Response<GetReceiptResponse>, Status> {
        Err(Status::unimplemented("receipts"))
    }

    async fn get_consistency(
        &self,
        request: Request<GetConsistencyRequest>,
    ) -> Result<Response<GetConsistencyResponse>, Status> {
        let GetConsistencyRequest { old_size, new_size } = request.into_inner();
        let hashes = (self.proof)(old_size, new_size)?;
        let hashes = hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
        Ok(Response::new(GetConsistencyResponse { hashes }))
    }
}

/// Options that do not keep a test waiting.
pub fn impatient() -> ClientOptions {
    use std::time::Duration;
    ClientOptions {
        connect_timeout: Duration::from_secs(1),
        deadline: Duration::from_millis(50),
        first_pause: Duration::from_millis(5),
        ..ClientOptions::default()
    }
}
