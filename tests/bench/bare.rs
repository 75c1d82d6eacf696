//! The least that a hub can do, as a limit to read its figures against: the
//! same contract over the same TLS and HTTP/2, each submission's document
//! hashed and its signature verified as the hub does it, and all of it written
//! to one file that is synced before the answer. No directory, no rights, no
//! state, no evidence; answers are without receipts. It also gives documents
//! from memory.

mod mailbox;

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    task::{Context, Poll},
};

use anyhow::Context as _;
use axis_hub::{
    config::Patience,
    wire::{listener, read_ahead::ReadAhead},
};
use axis_proto::{
    hub::v1::{
        CheckRequest, CheckResponse, QueryUploadRequest, QueryUploadResponse, SubmitRequest, SubmitResponse,
        SubmitStreamRequest, SubmitStreamResponse, UploadRequest, UploadResponse,
        mailbox_service_server::MailboxServiceServer,
        submission_service_server::{SubmissionService, SubmissionServiceServer},
        submit_stream_response::Outcome,
    },
    id::Digest,
    key::PublicKey,
    seal,
};
use axis_tests::Raw;
use prost::Message as _;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::aws_lc_rs::default_provider};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc::unbounded_channel, oneshot},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

/// What is written to, around and around: a file that never grows is the
/// quickest to sync.
const FILE_BYTES: usize = 64 << 20;
/// Most submissions that one sync makes durable.
const BATCH_MAX: usize = 1_024;

/// A running one; killed when dropped.
pub struct Bare {
    child: Child,
    dir: PathBuf,
    address: SocketAddr,
}

impl Bare {
    /// Starts it in this directory, for who signs with these keys.
    pub fn start(dir: &Path, senders: &[Raw]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bare".as_ref(), dir.as_os_str()])
            .args(senders.iter().map(|sender| hex::encode(sender.key.public().as_bytes())))
            // which ends when this process does
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting it")?;
        let said = child.stdout.take().context("it says nothing")?;
        let mut bare = Self { child, dir: dir.to_owned(), address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        bare.address = line.trim().parse().with_context(|| format!("it says `{line}`"))?;
        Ok(bare)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects who signs so; `windows` are bytes that it may be sent before it
    /// reads them, on one call and on all together.
    pub fn connect(&self, sender: &Raw, windows: (Option<u32>, Option<u32>)) -> anyhow::Result<Raw> {
        let config = axis_tests::tls(&self.dir, None)?;
        let channel = axis_tests::channel(config, &self.address.to_string(), windows.0, windows.1)?;
        Ok(Raw { channel, key: sender.key.clone(), agency: sender.agency.clone() })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// What the process is told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its directory, which gets its certificate and its file
    dir: PathBuf,
    /// Public keys in hex
    keys: Vec<String>,
}

/// Serves until it is killed, or until what it reads ends; says where on its
/// first line.
pub fn run(args: &Args) -> anyhow::Result<()> {
    std::thread::spawn(|| {
        let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let key = |text: &String| {
        let key = PublicKey::from_slice(&hex::decode(text).ok()?)?;
        Some((key.key_id().to_string(), key))
    };
    let keys = args.keys.iter().map(key).collect::<Option<HashMap<_, _>>>();
    let keys = keys.context("keys are 32 bytes in hex")?;
    let writer = write(&args.dir.join("written"))?;
    tokio::runtime::Runtime::new()?.block_on(serve(&args.dir, Least { keys: keys.into(), writer }))
}

async fn serve(dir: &Path, least: Least) -> anyhow::Result<()> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    std::fs::write(dir.join("authority.pem"), cert.pem())?;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (accepted, connections) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let shaken = async {
                tcp.set_nodelay(true)?;
                acceptor.accept(ReadAhead::new(tcp)).await.map(Connection)
            };
            if accepted.send(shaken.await).is_err() {
                break;
            }
        }
    });
    let service = SubmissionServiceServer::new(least).max_decoding_message_size(8 << 20);
    let server = listener::server(&Patience::default())
        .add_service(service)
        .add_service(MailboxServiceServer::new(mailbox::Giver));
    Ok(server.serve_with_incoming(UnboundedReceiverStream::new(connections)).await?)
}

/// What was verified, and whom to tell when it is durable.
struct Written {
    bytes: Vec<u8>,
    durable: Box<dyn FnOnce() + Send>,
}

/// The one thread that writes.
fn write(path: &Path) -> anyhow::Result<mpsc::Sender<Written>> {
    let mut file = File::create(path)?;
    file.write_all(&vec![0; FILE_BYTES])?;
    file.sync_all()?;
    let (sender, waiting) = mpsc::channel::<Written>();
    std::thread::spawn(move || {
        let (mut offset, mut bytes) = (0, Vec::new());
        while let Ok(first) = waiting.recv() {
            let batch: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).take(BATCH_MAX).collect();
            bytes.clear();
            batch.iter().for_each(|written| bytes.extend_from_slice(&written.bytes));
            if offset + bytes.len() > FILE_BYTES {
                offset = 0;
            }
            if let Err(error) = file.write_all_at(&bytes, offset as u64).and_then(|()| file.sync_data()) {
                eprintln!("bare: {error}");
                std::process::exit(1);
            }
            offset += bytes.len();
            batch.into_iter().for_each(|written| (written.durable)());
        }
    });
    Ok(sender)
}

fn no_hub() -> Status {
    Status::unimplemented("this is no hub")
}

#[derive(Clone)]
struct Least {
    /// By their ids.
    keys: Arc<HashMap<String, PublicKey>>,
    writer: mpsc::Sender<Written>,
}

impl Least {
    /// Hashes, verifies and hands over to be written.
    fn take(
        &self,
        submission: &SubmitRequest,
        durable: impl FnOnce() + Send + 'static,
    ) -> Result<(), Status> {
        let sealed = submission.sealed_envelope.as_ref().ok_or(Status::invalid_argument("no envelope"))?;
        for document in &submission.documents {
            std::hint::black_box(Digest::of(document));
        }
        let signed = seal::pae(&sealed.payload_type, &sealed.payload);
        let signature = sealed.signatures.first().ok_or(Status::unauthenticated("no signature"))?;
        let key = self.keys.get(&signature.keyid);
        if !key.is_some_and(|key| key.verify_strict(&signed, &signature.sig)) {
            return Err(Status::unauthenticated("not signed by who may"));
        }
        let written = Written { bytes: submission.encode_to_vec(), durable: Box::new(durable) };
        self.writer.send(written).map_err(|_| Status::unavailable("nothing is written any more"))
    }
}

#[tonic::async_trait]
impl SubmissionService for Least {
    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let (durable, answered) = oneshot::channel();
        self.take(&request.into_inner(), || {
            let _gone = durable.send(());
        })?;
        answered.await.map_err(|_| Status::unavailable("not written"))?;
        Ok(Response::new(SubmitResponse::default()))
    }

    type SubmitStreamStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<SubmitStreamResponse, Status>> + Send>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let (least, mut messages) = (self.clone(), request.into_inner());
        let (answers, out) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(SubmitStreamRequest { tag, submission })) = messages.next().await {
                let answer = answers.clone();
                let outcome = Some(Outcome::Submitted(SubmitResponse::default()));
                let durable = move || drop(answer.send(Ok(SubmitStreamResponse { tag, outcome })));
                if let Err(status) = least.take(&submission.unwrap_or_default(), durable) {
                    let _gone = answers.send(Err(status));
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(out))))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Err(no_hub())
    }

    async fn query_upload(
        &self,
        _: Request<QueryUploadRequest>,
    ) -> Result<Response<QueryUploadResponse>, Status> {
        Err(no_hub())
    }

    async fn upload(&self, _: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        Err(no_hub())
    }
}

/// A connection that has shaken hands.
struct Connection(TlsStream<ReadAhead<TcpStream>>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
