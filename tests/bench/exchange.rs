//! Systems that exchange documents as agencies do: upload, submit, receive,
//! download, acknowledge. What they send is made as it is sent and thrown away
//! as it comes; digests and sizes are true.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Context as _;
use axis_proto::{
    envelope::v1::{
        Document, Envelope, EnvelopeReference, Recipient, SealedEnvelope, Thread, envelope::Body,
    },
    hub::v1::{
        Credit, Delivery, DownloadRequest, ReceiveRequest, ReceiveResponse, ReceiveStart, SubmitRequest,
        TaggedAcknowledge, UploadRequest, UploadStart, answer::Outcome, receive_request::Part as Ask,
        receive_response::Part as Said, upload_request::Part,
    },
    id::{Digest, Hasher},
    limits::UPLOAD_CHUNK_BYTES_MAX,
    seal::digest,
};
use axis_tests::{Raw, acknowledge};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

/// Deliveries that may come to one without asking again.
const CREDIT: u32 = 256;
/// How long a lease lasts, in milliseconds: as long as there is.
const LEASE_MS: u64 = 3_600_000;
/// Bytes of a chunk of an upload.
const CHUNK_BYTES: usize = UPLOAD_CHUNK_BYTES_MAX / 2;

/// What documents are made of, beside their beginnings.
static FILLING: LazyLock<Bytes> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(1);
    std::iter::repeat_with(|| random.u8(..)).take(CHUNK_BYTES).collect::<Vec<_>>().into()
});

/// A file of an envelope.
#[derive(Debug, Clone)]
pub struct Paper {
    first: Bytes,
    size: u64,
    sha256: Digest,
}

impl Paper {
    /// With this many bytes, unlike all others; takes as long as hashing it.
    pub fn of(size: u64) -> Self {
        let first = (size as usize).min(CHUNK_BYTES);
        let mut first = FILLING[..first].to_vec();
        for byte in first.iter_mut().take(16) {
            *byte = fastrand::u8(..);
        }
        let mut paper = Self { first: first.into(), size, sha256: Digest::new([0; 32]) };
        let mut hasher = Hasher::new();
        paper.chunks().for_each(|chunk| hasher.update(&chunk));
        paper.sha256 = hasher.digest();
        paper
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn chunks(&self) -> impl Iterator<Item = Bytes> + use<> {
        let (first, size) = (self.first.clone(), self.size);
        (0..size).step_by(CHUNK_BYTES).map(move |at| match at {
            0 => first.clone(),
            at => FILLING.slice(..(size - at).min(CHUNK_BYTES as u64) as usize),
        })
    }

    fn named(&self, name: String) -> Document {
        Document {
            name,
            media_type: "application/pdf".into(),
            size: self.size,
            sha256: Bytes::copy_from_slice(self.sha256.as_bytes()),
            description: String::new(),
        }
    }
}

/// An envelope that is signed, with what it is known by.
pub struct Letter {
    request: SubmitRequest,
    digest: Digest,
    reference: EnvelopeReference,
}

impl Letter {
    /// To name it in another one.
    pub fn reference(&self) -> EnvelopeReference {
        self.reference.clone()
    }
}

/// A delivery that came, and when.
pub struct Arrived {
    /// What came.
    pub delivery: Delivery,
    /// When.
    pub at: Instant,
}

/// A system that sends and receives at once.
pub struct Party {
    raw: Raw,
    out: mpsc::Sender<ReceiveRequest>,
    awaited: Arc<Awaited>,
    tag: AtomicU64,
    _receiving: AbortOnDropHandle<()>,
}

/// Who waits for what.
#[derive(Default)]
struct Awaited {
    deliveries: Mutex<HashMap<Digest, oneshot::Sender<Arrived>>>,
    answers: Mutex<HashMap<u64, oneshot::Sender<Outcome>>>,
}

impl Party {
    /// Begins to receive.
    pub async fn join(raw: Raw) -> anyhow::Result<Self> {
        let (out, asks) = mpsc::channel(2 * CREDIT as usize);
        let start = ReceiveStart { credit: CREDIT, lease_duration_ms: LEASE_MS, ..ReceiveStart::default() };
        out.send(ReceiveRequest { part: Some(Ask::Start(start)) }).await?;
        let mut said = raw.mailbox().receive(ReceiverStream::new(asks)).await?.into_inner();
        let (awaited, more) = (Arc::new(Awaited::default()), out.clone());
        let of = awaited.clone();
        let receiving = tokio::spawn(async move {
            let ended = hear(&mut said, &of, &more).await;
            eprintln!("bench: {:#}", ended.err().unwrap_or_else(|| anyhow::anyhow!("nothing more comes")));
            // who waits hears that nothing comes any more
            held(&of.deliveries).clear();
            held(&of.answers).clear();
        });
        let _receiving = AbortOnDropHandle::new(receiving);
        Ok(Self { raw, out, awaited, tag: AtomicU64::new(0), _receiving })
    }

    /// Its agency.
    pub fn agency(&self) -> &str {
        &self.raw.agency
    }

    /// Signs an envelope with these papers, which are uploaded, or with a text
    /// that rides along.
    pub fn write(&self, to: &[&str], papers: &[Paper], text: &[u8], answers: Option<&Letter>) -> Letter {
        let mut envelope = self.raw.envelope(to[0], text);
        envelope.recipients = to.iter().map(|code| Recipient { agency: (*code).into(), kind: 1 }).collect();
        if let Some(Body::Document(body)) = &mut envelope.body {
            if text.is_empty() {
                body.documents.clear();
            }
            let named = papers.iter().enumerate().map(|(place, paper)| paper.named(format!("{place}.pdf")));
            body.documents.extend(named);
        }
        let in_reply_to = answers.map(Letter::reference);
        envelope.thread = in_reply_to.map(|of| Thread { in_reply_to: Some(of), references: Vec::new() });
        let documents = if text.is_empty() { Vec::new() } else { vec![Bytes::copy_from_slice(text)] };
        let (sealed, digest) = self.seal(&envelope);
        Letter {
            request: SubmitRequest { sealed_envelope: Some(sealed), documents },
            digest,
            reference: EnvelopeReference { sender: envelope.sender, envelope_id: envelope.envelope_id },
        }
    }

    fn seal(&self, envelope: &Envelope) -> (SealedEnvelope, Digest) {
        let sealed = self.raw.seal(envelope);
        let digest = digest(&sealed.payload_type, &sealed.payload);
        (sealed, digest)
    }

    /// Uploads a paper.
    pub async fn upload(&self, paper: &Paper) -> anyhow::Result<()> {
        let sha256 = Bytes::copy_from_slice(paper.sha256.as_bytes());
        let start = Part::Start(UploadStart { sha256, size: paper.size, offset: 0 });
        let parts = std::iter::once(start).chain(paper.chunks().map(Part::Chunk));
        let requests = tokio_stream::iter(parts.map(|part| UploadRequest { part: Some(part) }));
        let answer = self.raw.submission().upload(requests).await?.into_inner();
        anyhow::ensure!(answer.complete, "{} of {} bytes are there", answer.committed_bytes, paper.size);
        Ok(())
    }

    /// Submits; done when the hub holds it durably.
    pub async fn submit(&self, letter: &Letter) -> anyhow::Result<()> {
        self.raw.submission().submit(letter.request.clone()).await?;
        Ok(())
    }

    /// Waits for a letter from now on: called before it is submitted.
    pub fn expect(&self, letter: &Letter) -> impl Future<Output = anyhow::Result<Arrived>> + Send + use<> {
        let (tell, told) = oneshot::channel();
        held(&self.awaited.deliveries).insert(letter.digest, tell);
        async move { told.await.context("the receive stream ended before it came") }
    }

    /// Downloads a paper of a delivery; its bytes are counted, not kept.
    pub async fn download(&self, delivery: &Delivery, paper: &Paper) -> anyhow::Result<()> {
        let request = DownloadRequest {
            delivery_id: delivery.delivery_id.clone(),
            sha256: Bytes::copy_from_slice(paper.sha256.as_bytes()),
            ..DownloadRequest::default()
        };
        download(&self.raw, request, paper.size).await
    }

    /// Acknowledges in the stream; done when the hub holds it durably.
    pub async fn acknowledge(&self, delivery: &Delivery) -> anyhow::Result<()> {
        let request = Some(acknowledge(&self.raw.key, delivery));
        let tag = self.tag.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        held(&self.awaited.answers).insert(tag, tell);
        let ask = Ask::Acknowledge(TaggedAcknowledge { tag, request });
        self.out.send(ReceiveRequest { part: Some(ask) }).await?;
        match told.await.context("the receive stream ended before the answer")? {
            Outcome::Acknowledged(_) => Ok(()),
            other => anyhow::bail!("not acknowledged: {other:?}"),
        }
    }
}

/// Downloads what has this size; its bytes are counted, not kept.
pub async fn download(from: &Raw, request: DownloadRequest, size: u64) -> anyhow::Result<()> {
    let mut chunks = from.mailbox().download(request).await?.into_inner();
    let mut came = 0;
    while let Some(message) = chunks.message().await? {
        came += message.chunk.len() as u64;
    }
    anyhow::ensure!(came == size, "{came} of {size} bytes came");
    Ok(())
}

/// Tells those who wait for it what comes, until the stream ends.
async fn hear(
    said: &mut tonic::Streaming<ReceiveResponse>,
    awaited: &Awaited,
    more: &mpsc::Sender<ReceiveRequest>,
) -> anyhow::Result<()> {
    while let Some(message) = said.message().await? {
        match message.part {
            Some(Said::Delivery(delivery)) => {
                let at = Instant::now();
                let digest = Digest::from_slice(&delivery.envelope_digest)?;
                let waits = held(&awaited.deliveries).remove(&digest);
                if let Some(waits) = waits {
                    let _nobody_waits_any_more = waits.send(Arrived { delivery, at });
                }
                let credit = Ask::Credit(Credit { deliveries: 1 });
                more.send(ReceiveRequest { part: Some(credit) }).await?;
            }
            Some(Said::Answer(answer)) => {
                let waits = held(&awaited.answers).remove(&answer.tag);
                if let Some((waits, outcome)) = waits.zip(answer.outcome) {
                    let _nobody_waits_any_more = waits.send(outcome);
                }
            }
            Some(Said::Closing(closing)) => anyhow::bail!("the hub closes: {closing:?}"),
            Some(Said::Gone(_) | Said::Progress(_)) | None => {}
        }
    }
    Ok(())
}

fn held<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
