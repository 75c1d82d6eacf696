//! Sending: seal once, keep, then hand over until the hub has answered.

pub(crate) mod outbox;
mod outgoing;
mod upload;

use std::collections::BTreeSet;

use axis_proto::{
    envelope::v1::{Document, DocumentBody, Envelope, SealedEnvelope, envelope::Body},
    hub::v1::{CheckRequest, Reason, Remedy, SubmitRequest, SubmitResponse},
    id::{AgencyCode, Digest, EnvelopeId, Hasher},
    limits::{INLINE_BYTES_MAX, INLINE_DOCUMENT_BYTES_MAX, PAYLOAD_BYTES_MAX},
    receipt::VerifiedReceipt,
    record::v1::{Receipt, record::Event},
    seal::{self, PayloadType},
    shape,
};
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
};

pub use outgoing::{Outgoing, OutgoingFile, Source};

use crate::{
    client::{Client, Inner, now_unix_ms},
    error::{Again, Error, Refused, Result, Verification},
    files::blocking,
    progress::{Progress, Step, Watch, quiet},
    receipt,
    retry::Effort,
    send::outbox::{Draft, Entry, Kept, Plan, PlannedDocument},
    trust::origin_of,
};

/// An envelope that the hub accepted, durably.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sent {
    /// Its id.
    pub envelope_id: EnvelopeId,
    /// Its author.
    pub sender: AgencyCode,
    /// SHA-256(PAE) of it: its identity everywhere.
    pub envelope_digest: Digest,
    /// Sequence of its Accepted record.
    pub sequence: u64,
    /// That record with its proof, verified.
    pub receipt: Receipt,
    /// Whether it had been accepted before this call.
    pub duplicate: bool,
}

/// Most bytes of documents that ride along once a submission broke on its way:
/// half a second of a link of 32 KiB/s. The others are uploaded, which goes on
/// where it broke.
const POOR_LINK_INLINE_BYTES_MAX: u64 = 16 * 1024;

/// How often to upload again what the hub says it misses.
const UPLOAD_ROUNDS_MAX: u32 = 3;

impl Client {
    /// Sends one envelope and returns once the hub has it, durably.
    ///
    /// The sealed bytes are on disk before the first attempt. `Refused` means
    /// that nothing was queued; `Pending` that it is not known and that
    /// [`flush_outbox`](Self::flush_outbox) will send the same bytes again.
    pub async fn send(&self, outgoing: Outgoing, watch: Watch<'_>) -> Result<Sent> {
        let inner = &self.inner;
        if let Some(envelope_id) = &outgoing.envelope_id {
            if let Some(sent) = already_sent(inner, envelope_id)? {
                return Ok(sent);
            }
            if let Some(entry) = Entry::open(&inner.home, envelope_id)? {
                return hand_over(inner, entry, watch).await;
            }
            if outbox::is_waiting(&inner.home, envelope_id) {
                return Err(outbox::being_sent(*envelope_id));
            }
        }
        let entry = seal_into_outbox(inner, outgoing, watch).await?;
        hand_over(inner, entry, watch).await
    }

    /// Envelopes that wait in the outbox, oldest first.
    pub fn outbox(&self) -> Result<Vec<EnvelopeId>> {
        outbox::waiting(&self.inner.home)
    }

    /// Sends what a crash or an unreachable hub left in the outbox, each with
    /// its outcome. What another process is sending is passed over.
    pub async fn flush_outbox(&self) -> Result<Vec<(EnvelopeId, Result<Sent>)>> {
        let mut outcomes = Vec::new();
        for envelope_id in self.outbox()? {
            match Entry::open(&self.inner.home, &envelope_id) {
                Ok(None) => {}
                Ok(Some(entry)) => {
                    outcomes.push((envelope_id, hand_over(&self.inner, entry, &quiet).await));
                }
                Err(error) => outcomes.push((envelope_id, Err(error))),
            }
        }
        Ok(outcomes)
    }

    /// What this home sent under an id: its sender and its receipt.
    pub fn sent(&self, envelope_id: &EnvelopeId) -> Result<Option<Sent>> {
        already_sent(&self.inner, envelope_id)
    }
}

/// What this home keeps of an envelope, with the receipt of the latest log.
pub(crate) fn kept(inner: &Inner, envelope_id: &EnvelopeId) -> Result<Option<Kept>> {
    let rank = |receipt: &Receipt| {
        let book = inner.trust.book();
        origin_of(receipt).and_then(|origin| book.place(origin)).map_or(0, |place| place + 1)
    };
    outbox::kept(&inner.home, envelope_id, rank)
}

fn already_sent(inner: &Inner, envelope_id: &EnvelopeId) -> Result<Option<Sent>> {
    let Some(kept) = kept(inner, envelope_id)? else { return Ok(None) };
    let verified = inner.trust.book().verify(&kept.receipt)?;
    checked(inner, &kept.plan, &kept.sealed, kept.receipt, verified, true).map(Some)
}

/// Reads the files, seals the envelope and keeps both.
async fn seal_into_outbox(inner: &Inner, outgoing: Outgoing, watch: Watch<'_>) -> Result<Entry> {
    let identity = inner.identity();
    let envelope_id = outgoing.envelope_id.unwrap_or_else(EnvelopeId::new_v7);
    let mut envelope = outgoing.header(envelope_id, identity.profile.hub_id.to_string(), now_unix_ms());
    let sender = outgoing.from.clone();

    let draft = Draft::begin(&inner.home)?;
    let mut manifest = Vec::with_capacity(outgoing.files.len());
    let mut documents = Vec::with_capacity(outgoing.files.len());
    let mut inline_left = INLINE_BYTES_MAX as u64;
    let mut errors = Vec::new();
    for (index, file) in outgoing.files.into_iter().enumerate() {
        errors.extend(nameless(&file).then(|| shape::ShapeError {
            field: format!("envelope.document.documents[{index}].name"),
            reason: Reason::FieldInvalid,
            detail: "the file's name is not UTF-8: give it another".to_owned(),
        }));
        let mut document = take(&draft, index, &file.name, file.source, watch).await?;
        if !inner.options.keep.is_zero() {
            document.kept = draft.link(index, &document.path);
        }
        document.inline = document.size <= INLINE_DOCUMENT_BYTES_MAX as u64 && document.size <= inline_left;
        if document.inline {
            inline_left -= document.size;
        }
        manifest.push(Document {
            name: file.name,
            media_type: file.media_type,
            size: document.size,
            sha256: Bytes::copy_from_slice(document.sha256.as_ref()),
            description: file.description,
        });
        documents.push(document);
    }
    envelope.body =
        Some(Body::Document(DocumentBody { metadata: Some(outgoing.metadata), documents: manifest }));

    let refused = |errors| Error::refused(Refused::of_shape(errors, inner.options.language));
    errors.extend(shape::envelope(&envelope));
    if !errors.is_empty() {
        return Err(refused(errors));
    }
    let payload = envelope.encode_to_vec();
    if payload.len() > PAYLOAD_BYTES_MAX {
        let detail = format!("it has {} bytes, at most {PAYLOAD_BYTES_MAX} are allowed", payload.len());
        return Err(refused(vec![shape::ShapeError {
            field: "envelope".to_owned(),
            reason: Reason::TooLarge,
            detail,
        }]));
    }
    let sealed = seal::seal(PayloadType::Envelope, payload, &[&identity.signing_key]);
    let envelope_digest = seal::digest(&sealed.payload_type, &sealed.payload);
    let plan = Plan { envelope_id, sender, envelope_digest, documents };
    let home = inner.home.clone();
    blocking(move || draft.finish(&home, &sealed, plan)).await
}

/// Whether the name is what was left of one on disk that is not text.
fn nameless(file: &OutgoingFile) -> bool {
    let Source::Path(path) = &file.source else { return false };
    let name = path.file_name().unwrap_or_default();
    name.to_str().is_none() && name.to_string_lossy() == file.name
}

/// Reads one file: its digest and size; what is small or cannot be read twice
/// is kept in the outbox.
async fn take(
    draft: &Draft,
    index: usize,
    name: &str,
    source: Source,
    watch: Watch<'_>,
) -> Result<PlannedDocument> {
    let (copy, relative) = draft.document(index);
    let (reader, total, read_from, kept): (Box<dyn AsyncRead + Send + Unpin>, u64, _, _) = match source {
        Source::Path(path) => {
            let failed = |source| Error::read(&path, source);
            let file = File::open(&path).await.map_err(failed)?;
            let metadata = file.metadata().await.map_err(failed)?;
            if metadata.is_dir() {
                return Err(failed(std::io::ErrorKind::IsADirectory.into()));
            }
            let path = std::path::absolute(&path).map_err(failed)?;
            let small = metadata.is_file() && metadata.len() <= INLINE_DOCUMENT_BYTES_MAX as u64;
            // a pipe can be read only once
            let keep = small || !metadata.is_file();
            (Box::new(file), metadata.len(), path, keep)
        }
        Source::Bytes(bytes) => {
            let total = bytes.len() as u64;
            (Box::new(std::io::Cursor::new(bytes)), total, copy.clone(), true)
        }
        Source::Reader(reader) => (reader, 0, copy.clone(), true),
    };
    let tell = |done| watch(Progress { step: Step::Reading, name, done, total });
    let (sha256, size) = read_through(reader, kept.then_some(copy.as_path()), &read_from, &tell).await?;
    let path = if kept { relative } else { read_from };
    Ok(PlannedDocument { name: name.to_owned(), sha256, size, inline: false, path, kept: None })
}

/// The digest and size of what a reader gives, copied if asked.
async fn read_through(
    mut reader: impl AsyncRead + Unpin,
    copy: Option<&std::path::Path>,
    origin: &std::path::Path,
    tell: &(dyn Fn(u64) + Send + Sync),
) -> Result<(Digest, u64)> {
    let mut target = match copy {
        Some(path) => Some(File::create(path).await.map_err(|source| Error::write(path, source))?),
        None => None,
    };
    let mut hasher = Hasher::new();
    let mut size = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        tell(size);
        let read = reader.read(&mut buffer).await.map_err(|source| Error::read(origin, source))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
        if let (Some(target), Some(path)) = (&mut target, copy) {
            target.write_all(&buffer[..read]).await.map_err(|source| Error::write(path, source))?;
        }
    }
    if let (Some(mut target), Some(path)) = (target, copy) {
        let failed = |source| Error::write(path, source);
        target.flush().await.map_err(failed)?;
        target.sync_all().await.map_err(failed)?;
    }
    Ok((hasher.digest(), size))
}

/// Hands an entry over and moves it where it belongs.
async fn hand_over(inner: &Inner, entry: Entry, watch: Watch<'_>) -> Result<Sent> {
    let envelope_id = entry.plan.envelope_id;
    // another process had the same id, and was quicker: its bytes are the envelope
    if let Some(sent) = already_sent(inner, &envelope_id)? {
        blocking(move || entry.discard().map(drop)).await?;
        return Ok(sent);
    }
    inner.check_log().await?;
    let outcome = match entry.receipt() {
        // accepted before a crash, only not moved
        Ok(Some(receipt)) => {
            let verified = inner.trust.book().verify(&receipt);
            verified.and_then(|it| checked(inner, &entry.plan, &entry.sealed, receipt, it, true))
        }
        Ok(None) => submit(inner, &entry, watch).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(sent) => {
            let (receipt, sequence) = (sent.receipt.clone(), sent.sequence);
            receipt::keep(&inner.home, &receipt, sequence);
            let keep_documents = !inner.options.keep.is_zero();
            blocking(move || entry.sent(&receipt, sequence, keep_documents)).await?;
            Ok(sent)
        }
        Err(Error::Refused(refused)) if is_final(&refused) => {
            let kept = refused.clone();
            blocking(move || entry.refused(&kept)).await?;
            Err(Error::Refused(refused))
        }
        Err(error) => Err(Error::Pending { envelope_id, source: Box::new(error) }),
    }
}

/// Whether a refusal of these bytes says that they were not, and will not be,
/// accepted as they are. Access can be mended, and then the caller sends anew.
fn is_final(refused: &Refused) -> bool {
    !matches!(refused.remedy, Remedy::RetryLater | Remedy::Report | Remedy::Enrol | Remedy::Unspecified)
}

/// Offers an entry to the hub until it has answered.
pub(crate) async fn submit(inner: &Inner, entry: &Entry, watch: Watch<'_>) -> Result<Sent> {
    let mut rounds = 0;
    let mut effort = Effort::new(inner.options.patience());
    let mut bytes_max = INLINE_BYTES_MAX as u64;
    loop {
        let along = along(&entry.plan, bytes_max);
        if upload_missing(inner, entry, &along, watch).await? {
            effort.progress();
        }
        watch(Progress { step: Step::Submitting, name: "", done: 0, total: 0 });
        match submit_once(inner, entry, &along).await {
            Err(error) if error.may_be_the_link() && bytes_max > POOR_LINK_INLINE_BYTES_MAX => {
                bytes_max = POOR_LINK_INLINE_BYTES_MAX;
                effort.wait(error).await?;
            }
            Err(error) if error.again() != Again::No => effort.wait(error).await?,
            Ok(answer) => {
                let receipt = receipt::required(answer.receipt)?;
                inner.know_log_of(Some(&receipt)).await?;
                let verified = inner.trust.verify(&receipt)?;
                let sent = checked(inner, &entry.plan, &entry.sealed, receipt, verified, answer.duplicate)?;
                inner.mind_log().await?;
                return Ok(sent);
            }
            Err(Error::Refused(refused))
                if refused.remedy == Remedy::Upload && rounds < UPLOAD_ROUNDS_MAX =>
            {
                rounds += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Which documents ride along with their envelope; the others are uploaded.
fn along(plan: &Plan, mut bytes_max: u64) -> Vec<bool> {
    let rides = |document: &PlannedDocument| {
        let rides = document.inline && document.size <= bytes_max;
        bytes_max -= if rides { document.size } else { 0 };
        rides
    };
    plan.documents.iter().map(rides).collect()
}

async fn submit_once(inner: &Inner, entry: &Entry, along: &[bool]) -> Result<SubmitResponse> {
    let mut documents = Vec::new();
    for (document, _) in entry.plan.documents.iter().zip(along).filter(|(_, along)| **along) {
        let path = entry.path(document);
        let bytes = tokio::fs::read(&path).await.map_err(|source| Error::read(&path, source))?;
        documents.push(Bytes::from(bytes));
    }
    let request = SubmitRequest { sealed_envelope: Some(entry.sealed.clone()), documents };
    let bytes = request.encoded_len() as u64;
    inner.timed_for(bytes, inner.submission().submit(inner.request(request))).await
}

/// Uploads the documents that do not ride along and that the hub has not got
/// from us yet; whether there were any. Asks first whether the envelope would
/// be taken at all.
async fn upload_missing(inner: &Inner, entry: &Entry, along: &[bool], watch: Watch<'_>) -> Result<bool> {
    if along.iter().all(|along| *along) {
        return Ok(false);
    }
    let request = CheckRequest { sealed_envelope: Some(entry.sealed.clone()) };
    let answer = inner
        .retried(|| async {
            let (bytes, mut submission) = (request.encoded_len() as u64, inner.submission());
            let answer = inner.timed_for(bytes, submission.check(inner.request(request.clone()))).await?;
            match answer.refusal {
                Some(refusal) if refusal.reason() != Reason::DocumentMissing => {
                    Err(Error::refused(Refused::of_message(refusal)))
                }
                _ => Ok(answer.missing_documents),
            }
        })
        .await?;
    let missing: BTreeSet<&[u8]> = answer.iter().map(AsRef::as_ref).collect();
    let mut done = BTreeSet::new();
    for (document, along) in entry.plan.documents.iter().zip(along) {
        // the same bytes under two names go up once
        if !along && missing.contains(document.sha256.as_ref()) && done.insert(document.sha256) {
            upload::upload(inner, document, &entry.path(document), watch).await?;
        }
    }
    Ok(!done.is_empty())
}

/// What was accepted, after its receipt has been verified to say so.
fn checked(
    inner: &Inner,
    plan: &Plan,
    sealed: &SealedEnvelope,
    receipt: Receipt,
    verified: VerifiedReceipt,
    duplicate: bool,
) -> Result<Sent> {
    let bad = |detail: &str| Error::from(Verification::new("receipt", detail));
    let identity = inner.identity();
    let accepted = match &verified.record.event {
        Some(Event::Accepted(accepted)) => accepted,
        _ => return Err(bad("its record does not accept anything")),
    };
    if accepted.envelope_digest.as_ref() != plan.envelope_digest.as_ref()
        || accepted.envelope_id.as_ref() != plan.envelope_id.as_ref()
    {
        return Err(bad("it is for another envelope"));
    }
    if accepted.sender_system != identity.profile.system_id.as_str()
        || accepted.sender != plan.sender.as_str()
    {
        return Err(bad("it is for another sender"));
    }
    let envelope = Envelope::decode(sealed.payload.clone())
        .map_err(|error| bad(&format!("what was sent cannot be read again: {error}")))?;
    let named: BTreeSet<&str> = envelope.recipients.iter().map(|it| it.agency.as_str()).collect();
    // through a group, more than were named
    let count = accepted.recipient_count as usize;
    if count < named.len() || (envelope.groups.is_empty() && count != named.len()) {
        return Err(bad(&format!("it is for {count} recipients, but {} were named", named.len())));
    }
    if envelope.expires_unix_ms != 0 && accepted.expires_unix_ms != envelope.expires_unix_ms {
        return Err(bad("it expires at another time than was said"));
    }
    Ok(Sent {
        envelope_id: plan.envelope_id,
        sender: plan.sender.clone(),
        envelope_digest: plan.envelope_digest,
        sequence: verified.record.sequence,
        receipt,
        duplicate,
    })
}

#[cfg(test)]
mod tests {
    use axis_proto::record::v1::Accepted;

    use super::*;
    use crate::{error::HomeProblem, testing::Enrolled};

    #[tokio::test]
    async fn files_are_read_once_and_kept_if_they_must_be() {
        let folder = tempfile::tempdir().unwrap();
        let home = crate::home::Home::at(&folder.path().join("home"));
        let draft = Draft::begin(&home).unwrap();
        let large = folder.path().join("large.bin");
        std::fs::write(&large, vec![7; 100_000]).unwrap();
        let small = folder.path().join("small.txt");
        std::fs::write(&small, "small").unwrap();

        let steps = std::sync::Mutex::new(Vec::new());
        let watch = |progress: Progress<'_>| steps.lock().unwrap().push((progress.done, progress.total));
        let document = take(&draft, 0, "large.bin", Source::Path(large.clone()), &watch).await.unwrap();
        assert_eq!((document.size, document.path.clone()), (100_000, large));
        assert_eq!(document.sha256, Digest::of(&[7; 100_000]));
        assert_eq!(steps.lock().unwrap().last(), Some(&(100_000, 100_000)));

        let document = take(&draft, 1, "small.txt", Source::Path(small), &quiet).await.unwrap();
        assert!(document.path.is_relative());
        let reader = Source::Reader(Box::new(std::io::Cursor::new(vec![9; 80_000])));
        let document = take(&draft, 2, "pipe", reader, &quiet).await.unwrap();
        assert_eq!((document.size, document.path.is_relative()), (80_000, true));

        let missing = Source::Path(folder.path().join("missing"));
        assert!(matches!(take(&draft, 3, "missing", missing, &quiet).await, Err(Error::Io { .. })));
        let directory = Source::Path(folder.path().to_owned());
        assert!(matches!(take(&draft, 4, "folder", directory, &quiet).await, Err(Error::Io { .. })));
    }

    fn outgoing() -> Outgoing {
        let code = |code: &str| code.parse().unwrap();
        Outgoing::new(code("H53"), "Về việc").to(code("G22")).bytes("a.txt", "bytes")
    }

    #[tokio::test]
    async fn what_cannot_be_sent_waits_and_stays_the_same() {
        let enrolled = Enrolled::new().await;
        let client = &enrolled.client;
        let error = client.send(outgoing(), &quiet).await.unwrap_err();
        let Error::Pending { envelope_id, source } = error else { panic!("{error:?}") };
        let Error::Unreachable(unreachable) = *source else { panic!("{source:?}") };
        assert_eq!(unreachable.cause, crate::Cause::ConnectionRefused, "{unreachable:?}");
        assert_eq!(client.outbox().unwrap(), [envelope_id]);
        let sealed =
            || std::fs::read(enrolled.folder.path().join(format!("outbox/{envelope_id}/sealed.bin")));
        let before = sealed().unwrap();

        // the same id again sends what is there, whatever else is said
        let mut again = outgoing();
        again.envelope_id = Some(envelope_id);
        again.metadata.subject = "Khác".to_owned();
        assert!(matches!(client.send(again, &quiet).await, Err(Error::Pending { .. })));
        let outcomes = client.flush_outbox().await.unwrap();
        assert!(matches!(outcomes.as_slice(), [(id, Err(Error::Pending { .. }))] if *id == envelope_id));
        assert_eq!(sealed().unwrap(), before);
    }

    #[tokio::test]
    async fn a_bad_shape_is_refused_before_anything_is_kept() {
        let enrolled = Enrolled::new().await;
        let mut nobody = outgoing();
        nobody.to.clear();
        let error = enrolled.client.send(nobody, &quiet).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::RecipientsEmpty), "{error:?}");
        assert_eq!(enrolled.client.outbox().unwrap(), []);
    }

    #[tokio::test]
    async fn a_receipt_for_another_envelope_is_not_taken() {
        let enrolled = Enrolled::new().await;
        let entry = seal_into_outbox(enrolled.inner(), outgoing(), &quiet).await.unwrap();
        let bytes = Bytes::copy_from_slice;
        let accepted = Accepted {
            sender_system: "tayninh".into(),
            sender: "H53".into(),
            envelope_id: bytes(entry.plan.envelope_id.as_ref()),
            envelope_digest: bytes(entry.plan.envelope_digest.as_ref()),
            expires_unix_ms: 1,
            recipient_count: 1,
            ..Default::default()
        };
        let check = |change: fn(&mut Accepted)| {
            let mut accepted = accepted.clone();
            change(&mut accepted);
            let receipt = enrolled.receipt(3, Event::Accepted(accepted));
            let verified = enrolled.inner().trust.verify(&receipt).unwrap();
            checked(enrolled.inner(), &entry.plan, &entry.sealed, receipt, verified, false)
        };
        let sent = check(|_| ()).unwrap();
        assert_eq!((sent.sequence, sent.envelope_id), (3, entry.plan.envelope_id));
        let spoilt: [fn(&mut Accepted); 5] = [
            |it| it.envelope_digest = Bytes::from_static(&[0; 32]),
            |it| it.envelope_id = Bytes::from_static(&[0; 16]),
            |it| it.sender_system = "vpcp".into(),
            |it| it.sender = "G22".into(),
            |it| it.recipient_count = 2,
        ];
        for change in spoilt {
            let error = check(change).unwrap_err();
            assert!(matches!(error, Error::Verification(_)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn an_id_that_another_process_sends_is_not_sealed_anew() {
        let enrolled = Enrolled::new().await;
        let (client, inner) = (&enrolled.client, enrolled.inner());
        let id = EnvelopeId::new_v7();
        let outgoing = || Outgoing { envelope_id: Some(id), ..outgoing() };
        let is_pending = |error: &Error| {
            matches!(error, Error::Pending { envelope_id, source } if *envelope_id == id
                && matches!(**source, Error::Home(HomeProblem::BeingSent { .. })))
        };
        let theirs = seal_into_outbox(inner, outgoing(), &quiet).await.unwrap();
        let error = client.send(outgoing(), &quiet).await.unwrap_err();
        assert!(is_pending(&error), "while they hold it: {error:?}");
        let error = seal_into_outbox(inner, outgoing(), &quiet).await.unwrap_err();
        assert!(is_pending(&error), "while we sealed: {error:?}");

        // they end between our look and our own entry
        let accepted = Accepted {
            sender_system: "tayninh".into(),
            sender: "H53".into(),
            envelope_id: Bytes::copy_from_slice(id.as_ref()),
            envelope_digest: Bytes::copy_from_slice(theirs.plan.envelope_digest.as_ref()),
            recipient_count: 1,
            ..Default::default()
        };
        theirs.sent(&enrolled.receipt(3, Event::Accepted(accepted)), 3, true).unwrap();
        let ours = seal_into_outbox(inner, outgoing(), &quiet).await.unwrap();
        let digest = theirs.plan.envelope_digest;
        assert_ne!(ours.plan.envelope_digest, digest);
        let sent = hand_over(inner, ours, &quiet).await.unwrap();
        assert_eq!((sent.envelope_digest, sent.duplicate), (digest, true));
        assert_eq!(client.outbox().unwrap(), []);
    }

    #[tokio::test]
    async fn a_receipt_keeps_the_deadline_and_the_groups() {
        let enrolled = Enrolled::new().await;
        let mut outgoing = outgoing();
        outgoing.expires_unix_ms = Some(now_unix_ms() + 86_400_000);
        let expires_unix_ms = outgoing.expires_unix_ms.unwrap();
        outgoing.groups = vec!["tat-ca".parse().unwrap()];
        let entry = seal_into_outbox(enrolled.inner(), outgoing, &quiet).await.unwrap();
        let check = |expires_unix_ms, recipient_count| {
            let accepted = Accepted {
                sender_system: "tayninh".into(),
                sender: "H53".into(),
                envelope_id: Bytes::copy_from_slice(entry.plan.envelope_id.as_ref()),
                envelope_digest: Bytes::copy_from_slice(entry.plan.envelope_digest.as_ref()),
                expires_unix_ms,
                recipient_count,
                ..Default::default()
            };
            let receipt = enrolled.receipt(3, Event::Accepted(accepted));
            let verified = enrolled.inner().trust.verify(&receipt).unwrap();
            checked(enrolled.inner(), &entry.plan, &entry.sealed, receipt, verified, false).is_ok()
        };
        assert!(check(expires_unix_ms, 1) && check(expires_unix_ms, 9));
        assert!(!check(expires_unix_ms, 0) && !check(expires_unix_ms + 1, 1));
    }
}
