//! A file of a received envelope: small ones are here already, large ones are
//! streamed from the hub, resumed after a break, and only given out whole
//! under their own name once their digest holds.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_proto::{
    envelope::v1::Document,
    hub::v1::DownloadRequest,
    id::{DeliveryId, Digest, Hasher},
};
use bytes::Bytes;
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWrite, AsyncWriteExt as _},
};

use crate::{
    client::Inner,
    error::{Error, Result, Verification},
    files,
    progress::{Progress, Step, Watch},
    retry::Effort,
};

/// One file of a received envelope.
#[derive(Clone)]
pub struct ReceivedDocument {
    inner: Arc<Inner>,
    delivery_id: DeliveryId,
    manifest: Document,
    sha256: Digest,
    bytes: Option<Bytes>,
}

impl ReceivedDocument {
    /// The files of a manifest, with the bytes that came along, which must be
    /// exactly what the manifest says.
    pub(super) fn all(
        inner: &Arc<Inner>,
        delivery_id: DeliveryId,
        manifest: &[Document],
        came: &[Bytes],
    ) -> Result<Vec<Self>, Verification> {
        let came: Vec<(Digest, &Bytes)> = came.iter().map(|bytes| (Digest::of(bytes), bytes)).collect();
        for (digest, _) in &came {
            if !manifest.iter().any(|document| document.sha256.as_ref() == digest.as_ref()) {
                return Err(Verification::new("document", format!("{digest} is not in the manifest")));
            }
        }
        manifest
            .iter()
            .map(|document| {
                let sha256 = Digest::from_slice(&document.sha256)
                    .map_err(|error| Verification::new("document", error.to_string()))?;
                let bytes = came.iter().find(|(digest, _)| *digest == sha256).map(|(_, bytes)| *bytes);
                if let Some(bytes) = bytes
                    && bytes.len() as u64 != document.size
                {
                    return Err(wrong_size(&document.name, bytes.len() as u64, document.size));
                }
                Ok(Self {
                    inner: inner.clone(),
                    delivery_id,
                    manifest: document.clone(),
                    sha256,
                    bytes: bytes.cloned(),
                })
            })
            .collect()
    }

    /// The sender's name for it; [`safe_file_name`](crate::safe_file_name)
    /// makes it fit for a disk.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Its media type, as the sender says.
    pub fn media_type(&self) -> &str {
        &self.manifest.media_type
    }

    /// What it is, as the sender says; may be empty.
    pub fn description(&self) -> &str {
        &self.manifest.description
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.manifest.size
    }

    /// Its SHA-256.
    pub fn sha256(&self) -> &Digest {
        &self.sha256
    }

    /// Its bytes, if they came along, verified. Large files give nothing here,
    /// and after a break of the link smaller ones may not either.
    pub fn bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// Writes it all, wherever it is. The digest is known only at the end: on
    /// an error, throw away what was written.
    pub async fn write_to<W>(&self, target: &mut W, watch: Watch<'_>) -> Result<()>
    where
        W: AsyncWrite + Unpin + Send,
    {
        let failed = |source| Error::write(Path::new(self.name()), source);
        match &self.bytes {
            Some(bytes) => target.write_all(bytes).await.map_err(failed)?,
            None => {
                let mut sink = Sink::new(self, target, watch);
                self.download(&mut sink).await?;
                sink.finish()?;
            }
        }
        target.flush().await.map_err(failed)
    }

    /// Writes it to a file, durably. The file appears under this name only
    /// when it is whole and verified; `<name>.part` beside it lets a later
    /// call go on where a crash stopped. If the very same file is there
    /// already, nothing is done.
    pub async fn save(&self, path: &Path, watch: Watch<'_>) -> Result<()> {
        if self.is_saved(path).await? {
            return Ok(());
        }
        let failed = |source| Error::write(path, source);
        let part = part_of(path);
        let mut file = match &self.bytes {
            Some(bytes) => {
                let mut file = File::create(&part).await.map_err(failed)?;
                file.write_all(bytes).await.map_err(failed)?;
                file
            }
            None => self.save_part(&part, watch).await?,
        };
        file.flush().await.map_err(failed)?;
        file.sync_all().await.map_err(failed)?;
        drop(file);
        let path = path.to_owned();
        files::blocking(move || {
            let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
            std::fs::rename(&part, &path)
                .and_then(|()| files::sync_directory(&folder))
                .map_err(|source| Error::write(&path, source))
        })
        .await
    }

    /// Whether a file is there already with exactly these bytes.
    async fn is_saved(&self, path: &Path) -> Result<bool> {
        let failed = |source| Error::read(path, source);
        let mut file = match File::open(path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            file => file.map_err(failed)?,
        };
        if file.metadata().await.map_err(failed)?.len() != self.size() {
            return Ok(false);
        }
        let (hasher, _) = self.hash(&mut file).await.map_err(failed)?;
        Ok(hasher.digest() == self.sha256)
    }

    /// Goes on with a part that an earlier call left. If the whole is not what
    /// the sender signed, the part may have been damaged by a crash: then once
    /// more from the beginning.
    async fn save_part(&self, part: &Path, watch: Watch<'_>) -> Result<File> {
        loop {
            let failed = |source| Error::write(part, source);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let mut file = options.open(part).await.map_err(failed)?;
            let (hasher, there) = self.hash(&mut file).await.map_err(failed)?;
            file.set_len(there).await.map_err(failed)?;
            file.seek(std::io::SeekFrom::Start(there)).await.map_err(failed)?;
            let mut sink = Sink { document: self, target: &mut file, hasher, done: there, watch };
            self.download(&mut sink).await?;
            match sink.finish() {
                Ok(()) => return Ok(file),
                Err(error) => {
                    tokio::fs::remove_file(part).await.map_err(failed)?;
                    if there == 0 {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn hash(&self, file: &mut File) -> std::io::Result<(Hasher, u64)> {
        let mut hasher = Hasher::new();
        let mut there = 0;
        let mut buffer = vec![0; 256 * 1024];
        let mut limited = file.take(self.size());
        loop {
            let read = limited.read(&mut buffer).await?;
            if read == 0 {
                return Ok((hasher, there));
            }
            hasher.update(&buffer[..read]);
            there += read as u64;
        }
    }

    /// Downloads from where the sink stands to the end.
    async fn download<W>(&self, sink: &mut Sink<'_, W>) -> Result<()>
    where
        W: AsyncWrite + Unpin + Send,
    {
        let mut effort = Effort::new(self.inner.options.patience());
        sink.tell();
        while sink.done < self.size() {
            let before = sink.done;
            let result = self.download_from(sink).await;
            if sink.done > before {
                effort.progress();
            }
            match result {
                Ok(()) if sink.done >= self.size() => {}
                Ok(()) => effort.wait(Error::broken(&self.inner.address())).await?,
                Err(error) => effort.wait(error).await?,
            }
        }
        Ok(())
    }

    async fn download_from<W>(&self, sink: &mut Sink<'_, W>) -> Result<()>
    where
        W: AsyncWrite + Unpin + Send,
    {
        let inner = &self.inner;
        let request = DownloadRequest {
            delivery_id: self.delivery_id.to_string(),
            sha256: Bytes::copy_from_slice(self.sha256.as_ref()),
            offset: sink.done,
        };
        let mut mailbox = inner.mailbox();
        let mut chunks = inner.timed(mailbox.download(inner.request(request))).await?;
        loop {
            let next = tokio::time::timeout(inner.options.call_timeout, chunks.message()).await;
            match next.map_err(|_| Error::timed_out(&inner.address()))? {
                Ok(Some(message)) => sink.write(&message.chunk).await?,
                Ok(None) => return Ok(()),
                Err(status) => return Err(Error::of_status(status, &inner.address())),
            }
        }
    }
}

impl std::fmt::Debug for ReceivedDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedDocument")
            .field("name", &self.name())
            .field("size", &self.size())
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

/// Where downloaded bytes go, hashed so far.
struct Sink<'a, W> {
    document: &'a ReceivedDocument,
    target: &'a mut W,
    hasher: Hasher,
    done: u64,
    watch: Watch<'a>,
}

impl<'a, W: AsyncWrite + Unpin> Sink<'a, W> {
    fn new(document: &'a ReceivedDocument, target: &'a mut W, watch: Watch<'a>) -> Self {
        Self { document, target, hasher: Hasher::new(), done: 0, watch }
    }

    async fn write(&mut self, chunk: &[u8]) -> Result<()> {
        let size = self.document.size();
        if chunk.len() as u64 > size - self.done {
            return Err(wrong_size(self.document.name(), self.done + chunk.len() as u64, size).into());
        }
        let written = self.target.write_all(chunk).await;
        written.map_err(|source| Error::write(Path::new(self.document.name()), source))?;
        self.hasher.update(chunk);
        self.done += chunk.len() as u64;
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        let (name, total) = (self.document.name(), self.document.size());
        (self.watch)(Progress { step: Step::Downloading, name, done: self.done, total });
    }

    fn finish(self) -> Result<()> {
        if self.hasher.digest() == self.document.sha256 {
            return Ok(());
        }
        let detail = format!("{} is not what the sender signed", self.document.name());
        Err(Verification::new("document", detail).of(self.document.delivery_id).into())
    }
}

fn wrong_size(name: &str, found: u64, expected: u64) -> Verification {
    Verification::new("document", format!("{name} has {found} bytes or more, the manifest says {expected}"))
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}
