//! A system that talks to the hub without the SDK's care: for requests that
//! the SDK would never make.

use std::{path::Path, sync::Arc, time::SystemTime};

use anyhow::Context as _;
use axis_proto::{
    envelope::v1::{
        Acknowledgement, Document, DocumentBody, DocumentMetadata, Envelope, Recipient, SealedEnvelope,
        envelope::Body,
    },
    hub::v1::{
        AcknowledgeRequest, Delivery, Reason, mailbox_service_client::MailboxServiceClient,
        submission_service_client::SubmissionServiceClient,
    },
    id::{Digest, EnvelopeId},
    key::SigningKey,
    seal::{PayloadType, seal},
};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_types::StatusExt as _;

/// A connection with a system's identity, and its signing key.
pub struct Raw {
    /// The connection.
    pub channel: Channel,
    /// The system's signing key.
    pub key: SigningKey,
    /// The agency it signs for.
    pub agency: String,
}

impl Raw {
    /// With the identity that an enrolled home holds.
    pub async fn at(home: &Path, agency: &str) -> anyhow::Result<Self> {
        Self::with_window(home, agency, None).await
    }

    /// The same, and the hub may send as much ahead as the SDK lets it.
    pub async fn wide(home: &Path, agency: &str) -> anyhow::Result<Self> {
        Self::with_windows(home, agency, Some(4 << 20), Some(16 << 20)).await
    }

    /// The same, with so many bytes that the hub may send before they are
    /// read.
    pub async fn with_window(home: &Path, agency: &str, window: Option<u32>) -> anyhow::Result<Self> {
        Self::with_windows(home, agency, window, None).await
    }

    async fn with_windows(
        home: &Path,
        agency: &str,
        stream: Option<u32>,
        connection: Option<u32>,
    ) -> anyhow::Result<Self> {
        let profile: toml::Table = std::fs::read_to_string(home.join("axis.toml"))?.parse()?;
        let address =
            profile.get("hub_address").and_then(toml::Value::as_str).context("hub_address")?.to_owned();
        let channel = channel(tls(home, Some(home))?, &address, stream, connection)?;
        let key = SigningKey::from_pem(&std::fs::read_to_string(home.join("signing.pem"))?)?;
        Ok(Self { channel, key, agency: agency.to_owned() })
    }

    /// Submission calls.
    pub fn submission(&self) -> SubmissionServiceClient<Channel> {
        SubmissionServiceClient::new(self.channel.clone()).max_encoding_message_size(64 << 20)
    }

    /// Mailbox calls.
    pub fn mailbox(&self) -> MailboxServiceClient<Channel> {
        MailboxServiceClient::new(self.channel.clone()).max_decoding_message_size(8 << 20)
    }

    /// An envelope that could be accepted, with one inline file.
    pub fn envelope(&self, to: &str, file: &[u8]) -> Envelope {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Envelope {
            envelope_id: Bytes::copy_from_slice(EnvelopeId::new_v7().as_bytes()),
            hub_id: "truc.test".into(),
            sender: self.agency.clone(),
            recipients: vec![Recipient { agency: to.into(), kind: 1 }],
            created_unix_ms: now.as_millis() as u64,
            body: Some(Body::Document(DocumentBody {
                metadata: Some(DocumentMetadata {
                    subject: "V/v thử nghiệm".into(),
                    ..DocumentMetadata::default()
                }),
                documents: vec![Document {
                    name: "a.txt".into(),
                    media_type: "text/plain".into(),
                    size: file.len() as u64,
                    sha256: Bytes::copy_from_slice(Digest::of(file).as_bytes()),
                    description: String::new(),
                }],
            })),
            ..Envelope::default()
        }
    }

    /// Seals an envelope with the system's key.
    pub fn seal(&self, envelope: &Envelope) -> SealedEnvelope {
        seal(PayloadType::Envelope, envelope.encode_to_vec(), &[&self.key])
    }
}

/// Says that a delivery was taken, just now.
pub fn acknowledgement(delivery: &Delivery) -> Acknowledgement {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Acknowledgement {
        hub_id: "truc.test".into(),
        delivery_id: delivery.delivery_id.clone(),
        envelope_digest: delivery.envelope_digest.clone(),
        recipient: delivery.recipient.clone(),
        mailbox_sequence: delivery.mailbox_sequence,
        acknowledged_unix_ms: now.as_millis() as u64,
        reference: String::new(),
    }
}

/// Seals it with a system's key.
pub fn acknowledge(key: &SigningKey, delivery: &Delivery) -> AcknowledgeRequest {
    let payload = acknowledgement(delivery).encode_to_vec();
    let sealed = seal(PayloadType::Acknowledgement, payload, &[key]);
    AcknowledgeRequest { sealed_acknowledgement: Some(sealed) }
}

/// The client's side of TLS with what an enrolled home holds: who may be
/// called, and, of `identity`, who calls.
pub fn tls(home: &Path, identity: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(home.join("authority.pem"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(home) => {
            let identity = home.join("tls.pem");
            let chain = CertificateDer::pem_file_iter(&identity)?.collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&identity)?)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A connection that is made when it is first used. The windows are how many
/// bytes the hub may send on one call, and on all together, before they are
/// read; HTTP/2's own if unset.
pub fn channel(
    config: Arc<ClientConfig>,
    address: &str,
    window: Option<u32>,
    connection_window: Option<u32>,
) -> anyhow::Result<Channel> {
    let connector = tokio_rustls::TlsConnector::from(config);
    let (host, _) = address.rsplit_once(':').context("host:port")?;
    let name = ServerName::try_from(host.to_owned())?;
    let target = address.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, name, target) = (connector.clone(), name.clone(), target.clone());
        async move {
            let stream = tokio::net::TcpStream::connect(target).await?;
            // as clients do: what is small does not wait for what was sent before
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(window)
        .initial_connection_window_size(connection_window);
    Ok(endpoint.connect_with_connector_lazy(connect))
}

/// The reason and the violations (field, description) that a status carries.
pub fn refusal_of(status: &Status) -> (Option<Reason>, Vec<(String, String)>) {
    let details = status.get_error_details();
    let reason = details.error_info().and_then(|info| Reason::from_short_name(&info.reason));
    let violations = details.bad_request().map(|bad| &bad.field_violations[..]).unwrap_or_default();
    (reason, violations.iter().map(|one| (one.field.clone(), one.description.clone())).collect())
}
