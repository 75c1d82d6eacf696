//! The outbox: what is being sent, on disk before the first attempt, so that
//! a crash or a retry sends the very same bytes. An entry is a folder:
//!
//! ```text
//! outbox/<envelope id>/sealed.bin       the SealedEnvelope
//!                      plan.json        which bytes go with it, and where they are
//!                      documents/<n>    those that are kept here
//!                      <sequence>.receipt.json   once accepted
//! ```
//!
//! It moves as a whole, to `sent` with its receipt or to `refused` with the
//! refusal.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use axis_proto::{
    envelope::v1::SealedEnvelope,
    id::{AgencyCode, Digest, EnvelopeId},
    record::v1::Receipt,
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Refused, Result},
    files::{self, Access, Lock},
    home::Home,
    receipt,
};

/// What goes with a sealed envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The envelope.
    pub envelope_id: EnvelopeId,
    /// Its author.
    pub sender: AgencyCode,
    /// SHA-256(PAE) of it.
    pub envelope_digest: Digest,
    /// Its files, in the order of the manifest.
    pub documents: Vec<PlannedDocument>,
}

/// One file of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDocument {
    /// Its name, for progress.
    pub name: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it rides along with the envelope.
    pub inline: bool,
    /// Where its bytes are: in the entry if relative.
    pub path: PathBuf,
}

/// An entry that is being made; gone if it is dropped unfinished.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    lock: Option<Lock>,
    finished: bool,
}

impl Draft {
    /// Begins an entry.
    pub fn begin(home: &Home) -> Result<Self> {
        let folder = home.outbox().join(format!(".new-{:016x}", fastrand::u64(..)));
        files::make_directory(&folder.join("documents"))?;
        let lock = Lock::try_take(&folder.join("lock"))?;
        Ok(Self { folder, lock, finished: false })
    }

    /// Where to keep the bytes of a file: in full, and as the plan names it.
    pub fn document(&self, index: usize) -> (PathBuf, PathBuf) {
        let relative = Path::new("documents").join(index.to_string());
        (self.folder.join(&relative), relative)
    }

    /// Makes the entry durable and visible: from here on it will be sent.
    pub fn finish(mut self, home: &Home, sealed: &SealedEnvelope, plan: Plan) -> Result<Entry> {
        let json = serde_json::to_vec_pretty(&plan).map_err(|error| Error::damaged(&self.folder, error))?;
        files::write_new(&self.folder.join("plan.json"), &json, Access::Owner)?;
        files::write_new(&self.folder.join("sealed.bin"), &sealed.encode_to_vec(), Access::Owner)?;
        let folder = home.outbox().join(plan.envelope_id.to_string());
        // a crash before the rename leaves nothing that will be sent
        files::sync_directory(&self.folder.join("documents"))
            .and_then(|()| files::sync_directory(&self.folder))
            .and_then(|()| fs::rename(&self.folder, &folder))
            .and_then(|()| files::sync_directory(&home.outbox()))
            .map_err(|source| Error::write(&folder, source))?;
        self.finished = true;
        let lock = self.lock.take();
        Ok(Entry { home: home.clone(), folder, sealed: sealed.clone(), plan, _lock: lock })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// An envelope on its way, held by this process alone.
#[derive(Debug)]
pub struct Entry {
    home: Home,
    folder: PathBuf,
    /// The exact bytes to send.
    pub sealed: SealedEnvelope,
    /// What goes with them.
    pub plan: Plan,
    _lock: Option<Lock>,
}

impl Entry {
    /// Opens an entry; nothing if it is gone or another process sends it.
    pub fn open(home: &Home, envelope_id: &EnvelopeId) -> Result<Option<Self>> {
        let folder = home.outbox().join(envelope_id.to_string());
        if !folder.is_dir() {
            return Ok(None);
        }
        let Some(lock) = Lock::try_take(&folder.join("lock"))? else { return Ok(None) };
        let (sealed, plan) = match (read_sealed(&folder), read_plan(&folder)) {
            (Ok(sealed), Ok(plan)) => (sealed, plan),
            // moved between the two looks
            _ if !folder.is_dir() => return Ok(None),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        Ok(Some(Self { home: home.clone(), folder, sealed, plan, _lock: Some(lock) }))
    }

    /// Where the bytes of a file are.
    pub fn path(&self, document: &PlannedDocument) -> PathBuf {
        self.folder.join(&document.path)
    }

    /// The receipt, if the entry was accepted and only not yet moved.
    pub fn receipt(&self) -> Result<Option<Receipt>> {
        saved_receipt(&self.folder)
    }

    /// It was accepted: keeps the receipt and moves to `sent`.
    pub fn sent(&self, receipt: &Receipt, sequence: u64) -> Result<()> {
        // a crash after this line finds the receipt and only moves
        receipt::save(receipt, sequence, &self.folder)?;
        let _ = fs::remove_dir_all(self.folder.join("documents"));
        self.move_to(self.home.sent())
    }

    /// It was refused for good: keeps the refusal and moves to `refused`.
    pub fn refused(&self, refused: &Refused) -> Result<()> {
        let refusal = serde_json::json!({
            "reason": refused.reason.short_name(),
            "remedy": refused.remedy.as_str_name(),
            "message": refused.message,
            "facts": refused.facts,
            "violations": refused.violations.iter().map(|violation| serde_json::json!({
                "field": violation.field,
                "reason": violation.reason.short_name(),
                "message": violation.message,
            })).collect::<Vec<_>>(),
        });
        files::write(
            &self.folder.join("refusal.json"),
            format!("{refusal:#}\n").as_bytes(),
            Access::Default,
        )?;
        let _ = fs::remove_dir_all(self.folder.join("documents"));
        self.move_to(self.home.refused())
    }

    fn move_to(&self, place: PathBuf) -> Result<()> {
        files::make_directory(&place)?;
        let target = place.join(self.plan.envelope_id.to_string());
        let moved = match fs::rename(&self.folder, &target) {
            // refused, sent again by the same id, and refused again
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                fs::remove_dir_all(&target).and_then(|()| fs::rename(&self.folder, &target))
            }
            moved => moved,
        };
        // not synced: if a crash brings the entry back, the hub knows its bytes and answers the same
        moved.map_err(|source| Error::write(&self.folder, source))
    }
}

/// An envelope that was sent from this home before.
#[derive(Debug)]
pub struct Kept {
    /// What was sent.
    pub plan: Plan,
    /// The bytes of it.
    pub sealed: SealedEnvelope,
    /// Its receipt.
    pub receipt: Receipt,
}

/// What is kept of an envelope that was accepted.
pub fn kept(home: &Home, envelope_id: &EnvelopeId) -> Result<Option<Kept>> {
    let folder = home.sent().join(envelope_id.to_string());
    if !folder.is_dir() {
        return Ok(None);
    }
    let receipt = saved_receipt(&folder)?.ok_or_else(|| Error::damaged(&folder, "it holds no receipt"))?;
    Ok(Some(Kept { plan: read_plan(&folder)?, sealed: read_sealed(&folder)?, receipt }))
}

/// Envelopes that wait in the outbox, oldest first. Drafts that a crash left
/// are removed.
pub fn waiting(home: &Home) -> Result<Vec<EnvelopeId>> {
    let mut waiting = Vec::new();
    for name in names(&home.outbox()).map_err(|source| Error::read(&home.outbox(), source))? {
        if let Ok(envelope_id) = name.parse() {
            waiting.push(envelope_id);
        } else if name.starts_with(".new-") {
            let folder = home.outbox().join(name);
            if let Ok(Some(_lock)) = Lock::try_take(&folder.join("lock")) {
                let _ = fs::remove_dir_all(&folder);
            }
        }
    }
    waiting.sort_unstable_by_key(|id: &EnvelopeId| id.to_string());
    Ok(waiting)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn read_plan(folder: &Path) -> Result<Plan> {
    let path = folder.join("plan.json");
    let bytes = fs::read(&path).map_err(|source| Error::read(&path, source))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::damaged(&path, error))
}

fn read_sealed(folder: &Path) -> Result<SealedEnvelope> {
    let path = folder.join("sealed.bin");
    let bytes = fs::read(&path).map_err(|source| Error::read(&path, source))?;
    SealedEnvelope::decode(bytes.as_slice()).map_err(|error| Error::damaged(&path, error))
}

fn saved_receipt(folder: &Path) -> Result<Option<Receipt>> {
    let names = names(folder).map_err(|source| Error::read(folder, source))?;
    let name = names.iter().find(|name| name.ends_with(".receipt.json") && !name.starts_with('.'));
    name.map(|name| receipt::load(&folder.join(name))).transpose()
}

#[cfg(test)]
mod tests {
    use axis_proto::{
        key::SigningKey,
        seal::{self, PayloadType},
    };

    use super::*;

    fn entry(home: &Home) -> Entry {
        let sealed = seal::seal(PayloadType::Envelope, "bytes", &[&SigningKey::generate()]);
        let draft = Draft::begin(home).unwrap();
        let (path, relative) = draft.document(0);
        fs::write(path, "small").unwrap();
        let plan = Plan {
            envelope_id: EnvelopeId::new_v7(),
            sender: "G22".parse().unwrap(),
            envelope_digest: seal::digest(&sealed.payload_type, &sealed.payload),
            documents: vec![PlannedDocument {
                name: "a.txt".into(),
                sha256: Digest::of(b"small"),
                size: 5,
                inline: true,
                path: relative,
            }],
        };
        draft.finish(home, &sealed, plan).unwrap()
    }

    #[test]
    fn a_crash_leaves_the_very_same_bytes() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let first = entry(&home);
        let (id, sealed, plan) = (first.plan.envelope_id, first.sealed.clone(), first.plan.clone());
        assert!(Entry::open(&home, &id).unwrap().is_none(), "somebody is sending it");
        drop(first);
        let again = Entry::open(&home, &id).unwrap().unwrap();
        assert_eq!((again.sealed.encode_to_vec(), &again.plan), (sealed.encode_to_vec(), &plan));
        assert_eq!(fs::read(again.path(&plan.documents[0])).unwrap(), b"small");
        assert_eq!(waiting(&home).unwrap(), [id]);
    }

    #[test]
    fn a_draft_that_was_not_finished_is_never_sent() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let mut left = Draft::begin(&home).unwrap();
        let held = Draft::begin(&home).unwrap();
        // as a crash leaves it: the lock is free, the folder is there
        left.finished = true;
        drop(left);
        assert_eq!(waiting(&home).unwrap(), []);
        assert_eq!(names(&home.outbox()).unwrap().len(), 1, "what is being made stays");
        drop(held);
        assert_eq!(names(&home.outbox()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_was_accepted_moves_with_its_receipt() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let entry = entry(&home);
        let id = entry.plan.envelope_id;
        let receipt = Receipt { proof: "proof".into(), ..Receipt::default() };
        assert!(entry.receipt().unwrap().is_none());
        entry.sent(&receipt, 12).unwrap();
        assert_eq!(waiting(&home).unwrap(), []);
        let kept = kept(&home, &id).unwrap().unwrap();
        assert_eq!((kept.receipt, kept.plan), (receipt, entry.plan.clone()));
        assert!(!home.sent().join(id.to_string()).join("documents").exists());
    }

    #[test]
    fn a_crash_after_the_receipt_only_moves() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let entry = entry(&home);
        let receipt = Receipt { proof: "proof".into(), ..Receipt::default() };
        receipt::save(&receipt, 12, &entry.folder).unwrap();
        let id = entry.plan.envelope_id;
        drop(entry);
        assert_eq!(Entry::open(&home, &id).unwrap().unwrap().receipt().unwrap(), Some(receipt));
    }
}
