//! What an agency wants to send, before it is sealed.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use axis_proto::{
    envelope::v1::{
        DocumentMetadata, Envelope, EnvelopeReference, Priority, Recipient, RecipientKind, Thread,
    },
    id::{AgencyCode, EnvelopeId, GroupId},
};
use bytes::Bytes;
use tokio::io::AsyncRead;

/// An envelope to be.
#[derive(Debug)]
pub struct Outgoing {
    /// Its id, if the caller remembers it with its own document: sending the
    /// same id again sends the bytes that were made first. If unset, a new one.
    pub envelope_id: Option<EnvelopeId>,
    /// The author.
    pub from: AgencyCode,
    /// Those who are to act on it.
    pub to: Vec<AgencyCode>,
    /// Those who are to know of it.
    pub cc: Vec<AgencyCode>,
    /// Groups whose members receive it too.
    pub groups: Vec<GroupId>,
    /// What the document is; needs at least a subject.
    pub metadata: DocumentMetadata,
    /// Urgency.
    pub priority: Priority,
    /// Not visible to recipients before, in milliseconds since 1970.
    pub not_before_unix_ms: Option<u64>,
    /// When what is not settled expires; the hub's default if unset.
    pub expires_unix_ms: Option<u64>,
    /// Earlier envelopes that it answers or belongs with.
    pub thread: Option<Thread>,
    /// Its files, at least one.
    pub files: Vec<OutgoingFile>,
}

/// One file to send.
#[derive(Debug)]
pub struct OutgoingFile {
    /// The name that recipients see.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// What it is; may be empty.
    pub description: String,
    /// Its bytes.
    pub source: Source,
}

/// Where the bytes of a file come from.
pub enum Source {
    /// A file on disk. A large one is read again when it is uploaded, so it
    /// must stay as it is until then.
    Path(PathBuf),
    /// Bytes in memory.
    Bytes(Bytes),
    /// Anything else; it is read once, into the outbox.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

impl Outgoing {
    /// A document of this author on this subject, to nobody yet.
    pub fn new(from: AgencyCode, subject: impl Into<String>) -> Self {
        Self {
            envelope_id: None,
            from,
            to: Vec::new(),
            cc: Vec::new(),
            groups: Vec::new(),
            metadata: DocumentMetadata { subject: subject.into(), ..Default::default() },
            priority: Priority::Normal,
            not_before_unix_ms: None,
            expires_unix_ms: None,
            thread: None,
            files: Vec::new(),
        }
    }

    /// Adds one who is to act on it.
    pub fn to(mut self, agency: AgencyCode) -> Self {
        self.to.push(agency);
        self
    }

    /// Adds one who is to know of it.
    pub fn cc(mut self, agency: AgencyCode) -> Self {
        self.cc.push(agency);
        self
    }

    /// Adds a group.
    pub fn group(mut self, group: GroupId) -> Self {
        self.groups.push(group);
        self
    }

    /// Sets the urgency.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Says that it answers an earlier envelope.
    pub fn in_reply_to(mut self, sender: &AgencyCode, envelope_id: &EnvelopeId) -> Self {
        let reference = EnvelopeReference {
            sender: sender.to_string(),
            envelope_id: Bytes::copy_from_slice(envelope_id.as_ref()),
        };
        self.thread.get_or_insert_default().in_reply_to = Some(reference);
        self
    }

    /// Adds a file on disk under its own name.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.files.push(OutgoingFile::new(name, Source::Path(path.to_owned())));
        self
    }

    /// Adds a file whose bytes are in memory.
    pub fn bytes(mut self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        self.files.push(OutgoingFile::new(name.into(), Source::Bytes(bytes.into())));
        self
    }

    /// Adds a file that is read from elsewhere.
    pub fn reader(
        mut self,
        name: impl Into<String>,
        reader: impl AsyncRead + Send + Unpin + 'static,
    ) -> Self {
        self.files.push(OutgoingFile::new(name.into(), Source::Reader(Box::new(reader))));
        self
    }

    /// The envelope but for its files.
    pub(super) fn header(&self, envelope_id: EnvelopeId, hub_id: String, created_unix_ms: u64) -> Envelope {
        let recipient = |agency: &AgencyCode, kind: RecipientKind| Recipient {
            agency: agency.to_string(),
            kind: kind.into(),
        };
        let to = self.to.iter().map(|agency| recipient(agency, RecipientKind::To));
        let cc = self.cc.iter().map(|agency| recipient(agency, RecipientKind::Cc));
        Envelope {
            envelope_id: Bytes::copy_from_slice(envelope_id.as_ref()),
            hub_id,
            sender: self.from.to_string(),
            recipients: to.chain(cc).collect(),
            groups: self.groups.iter().map(ToString::to_string).collect(),
            created_unix_ms,
            not_before_unix_ms: self.not_before_unix_ms.unwrap_or_default(),
            expires_unix_ms: self.expires_unix_ms.unwrap_or_default(),
            priority: self.priority.into(),
            thread: self.thread.clone(),
            body: None,
        }
    }
}

impl OutgoingFile {
    /// A file with the media type that its name suggests.
    pub fn new(name: String, source: Source) -> Self {
        let media_type = media_type(&name).to_owned();
        Self { name, media_type, description: String::new(), source }
    }
}

/// The media type that a file's name suggests: what agencies send.
fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref() {
        Some("pdf") => "application/pdf",
        Some("doc") => "application/msword",
        Some("docx") => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        Some("xls") => "application/vnd.ms-excel",
        Some("xlsx") => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        Some("ppt") => "application/vnd.ms-powerpoint",
        Some("pptx") => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        Some("odt") => "application/vnd.oasis.opendocument.text",
        Some("ods") => "application/vnd.oasis.opendocument.spreadsheet",
        Some("rtf") => "application/rtf",
        Some("txt") => "text/plain",
        Some("csv") => "text/csv",
        Some("json") => "application/json",
        Some("xml" | "edxml") => "application/xml",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("png") => "image/png",
        Some("tif" | "tiff") => "image/tiff",
        Some("zip") => "application/zip",
        Some("7z") => "application/x-7z-compressed",
        Some("rar") => "application/vnd.rar",
        Some("mp3") => "audio/mpeg",
        Some("mp4") => "video/mp4",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_what_was_asked() {
        let code = |code: &str| code.parse::<AgencyCode>().unwrap();
        let id = EnvelopeId::new_v7();
        let outgoing = Outgoing::new(code("G22"), "Về việc thử nghiệm")
            .to(code("H53"))
            .cc(code("000.00.13.H53"))
            .priority(Priority::Express)
            .in_reply_to(&code("G18"), &id)
            .file("/tmp/Công văn.PDF");
        let envelope = outgoing.header(id, "hub".into(), 7);
        let kinds: Vec<_> = envelope.recipients.iter().map(|to| (to.agency.as_str(), to.kind())).collect();
        assert_eq!(kinds, [("H53", RecipientKind::To), ("000.00.13.H53", RecipientKind::Cc)]);
        assert_eq!(envelope.priority(), Priority::Express);
        assert_eq!(envelope.thread.unwrap().in_reply_to.unwrap().sender, "G18");
        assert_eq!(outgoing.files[0].name, "Công văn.PDF");
        assert_eq!(outgoing.files[0].media_type, "application/pdf");
    }
}
