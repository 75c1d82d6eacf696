//! The outbox: what is being sent, on disk before the first attempt, so that
//! a crash or a retry sends the very same bytes. An entry is a folder:
//!
//! ```text
//! outbox/<envelope id>/sealed.bin       the SealedEnvelope
//!                      plan.json        which bytes go with it, and where they are
//!                      documents/<n>    those that are kept here
//!                      <sequence>.receipt.json   once accepted
//!                      former/<n>-<sequence>.receipt.json   of logs that ended in a restore
//! ```
//!
//! It moves as a whole, to `sent` with its receipt or to `refused` with the
//! refusal. Its documents stay for as long as a restored hub may lack them; a
//! large file that was given by path is linked, not copied, where that can be.

use std::{
    fs,
    io::ErrorKind,
    ops::Range,
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
    error::{Error, HomeProblem, Refused, Result},
    files::{self, Access, Lock, names},
    format,
    home::Home,
    receipt,
};

/// How the names of entries begin that are not whole: nobody sends them.
const DRAFT: &str = ".new-";

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
    /// A second link to them in the entry, for when the first one is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
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
        let folder = draft_folder(home);
        files::make_durable_directory(&home.outbox(), Access::Owner)?;
        files::make_directory(&folder.join("documents"))?;
        let lock = Lock::try_take(&folder.join("lock"))?;
        Ok(Self { folder, lock, finished: false })
    }

    /// Where to keep the bytes of a file: in full, and as the plan names it.
    pub fn document(&self, index: usize) -> (PathBuf, PathBuf) {
        let relative = Path::new("documents").join(index.to_string());
        (self.folder.join(&relative), relative)
    }

    /// Links a file that is not kept here, so that its bytes are still there
    /// when somebody removes it; nothing if the disk cannot.
    pub fn link(&self, index: usize, path: &Path) -> Option<PathBuf> {
        if path.is_relative() {
            return None;
        }
        let (place, relative) = self.document(index);
        let linked = fs::canonicalize(path).and_then(|path| fs::hard_link(path, place));
        linked.ok().map(|()| relative)
    }

    /// Makes the entry durable and visible: from here on it will be sent.
    pub fn finish(mut self, home: &Home, sealed: &SealedEnvelope, plan: Plan) -> Result<Entry> {
        let path = self.folder.join("plan.json");
        files::write_new(&path, &format::to_json(&path, &plan)?, Access::Owner)?;
        files::write_new(&self.folder.join("sealed.bin"), &sealed.encode_to_vec(), Access::Owner)?;
        let folder = home.outbox().join(plan.envelope_id.to_string());
        // a crash before the rename leaves nothing that will be sent
        files::sync_directory(&self.folder.join("documents"))
            .and_then(|()| files::sync_directory(&self.folder))
            .map_err(|source| Error::write(&folder, source))?;
        match fs::rename(&self.folder, &folder) {
            Err(error) if is_taken(&error) => return Err(being_sent(plan.envelope_id)),
            renamed => renamed.and_then(|()| files::sync_directory(&home.outbox())),
        }
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

    /// Opens one that was accepted before, to offer it again; nothing if it is
    /// gone or another process has it.
    pub fn open_sent(home: &Home, envelope_id: &EnvelopeId) -> Result<Option<Self>> {
        let folder = home.sent().join(envelope_id.to_string());
        if !folder.is_dir() {
            return Ok(None);
        }
        let Some(lock) = Lock::try_take(&folder.join("lock"))? else { return Ok(None) };
        let (sealed, plan) = (read_sealed(&folder)?, read_plan(&folder)?);
        Ok(Some(Self { home: home.clone(), folder, sealed, plan, _lock: Some(lock) }))
    }

    /// Where the bytes of a file are.
    pub fn path(&self, document: &PlannedDocument) -> PathBuf {
        let kept = document.kept.as_ref().map(|kept| self.folder.join(kept)).filter(|kept| kept.is_file());
        kept.unwrap_or_else(|| self.folder.join(&document.path))
    }

    /// Names of the files whose bytes are not here any more.
    pub fn missing(&self) -> Vec<String> {
        let gone = |document: &&PlannedDocument| {
            !fs::metadata(self.path(document)).is_ok_and(|it| it.len() == document.size)
        };
        self.plan.documents.iter().filter(gone).map(|document| document.name.clone()).collect()
    }

    /// The receipt, if the entry was accepted and only not yet moved.
    pub fn receipt(&self) -> Result<Option<Receipt>> {
        Ok(saved_receipts(&self.folder)?.pop().map(|(_, receipt)| receipt))
    }

    /// It was accepted: keeps the receipt and moves to `sent`, with its
    /// documents if they may be needed again.
    pub fn sent(&self, receipt: &Receipt, sequence: u64, keep_documents: bool) -> Result<()> {
        // a crash after this line finds the receipt and only moves
        receipt::save(receipt, sequence, &self.folder)?;
        if !keep_documents {
            let _ = fs::remove_dir_all(self.folder.join("documents"));
        }
        self.move_to(self.home.sent()).map(drop)
    }

    /// A restored hub accepted it anew: the receipt takes the place of the one
    /// that was there, which stays as evidence.
    pub fn sent_again(&self, receipt: &Receipt, sequence: u64) -> Result<()> {
        let name = format!("{sequence}.receipt.json");
        let former = self.folder.join("former");
        files::make_directory(&former)?;
        let mut aside = Vec::new();
        let mut count = names(&former).map_err(|source| Error::read(&former, source))?.len();
        for (other, found) in saved_receipts(&self.folder)? {
            if found == *receipt {
                continue;
            }
            count += 1;
            let text = receipt::to_json(&found);
            files::write(&former.join(format!("{count}-{other}")), text.as_bytes(), Access::Default)?;
            aside.push(other);
        }
        // after a crash from here on there are two, and the later log's counts
        receipt::save(receipt, sequence, &self.folder)?;
        for other in aside.iter().filter(|other| **other != name) {
            let _ = fs::remove_file(self.folder.join(other));
        }
        Ok(())
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
        let place = self.move_to(self.home.refused())?;
        // first that nobody will send it again: that needs its documents
        for folder in [self.home.refused(), self.home.outbox()] {
            files::sync_directory(&folder).map_err(|source| Error::write(&folder, source))?;
        }
        let _ = fs::remove_dir_all(place.join("documents"));
        Ok(())
    }

    /// The same envelope was sent already, perhaps in other bytes: what is here
    /// is a draft again, and gone when that is dropped, or by whoever comes next.
    pub fn discard(mut self) -> Result<Draft> {
        let folder = draft_folder(&self.home);
        fs::rename(&self.folder, &folder).map_err(|source| Error::write(&self.folder, source))?;
        Ok(Draft { folder, lock: self._lock.take(), finished: false })
    }

    /// Where it is afterwards.
    fn move_to(&self, place: PathBuf) -> Result<PathBuf> {
        files::make_durable_directory(&place, Access::Owner)?;
        let target = place.join(self.plan.envelope_id.to_string());
        let moved = match fs::rename(&self.folder, &target) {
            // refused, sent again by the same id, and refused again
            Err(error) if is_taken(&error) => {
                fs::remove_dir_all(&target).and_then(|()| fs::rename(&self.folder, &target))
            }
            moved => moved,
        };
        // not synced: if a crash brings the entry back, the hub knows its bytes and answers the same
        moved.map_err(|source| Error::write(&self.folder, source))?;
        Ok(target)
    }
}

fn draft_folder(home: &Home) -> PathBuf {
    home.outbox().join(format!("{DRAFT}{:016x}", fastrand::u64(..)))
}

/// Whether a place is another folder's.
fn is_taken(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists)
}

/// Whether an envelope is in the outbox, whoever holds it.
pub fn is_waiting(home: &Home, envelope_id: &EnvelopeId) -> bool {
    home.outbox().join(envelope_id.to_string()).is_dir()
}

/// Another process sends it: what becomes of it is not known here.
pub fn being_sent(envelope_id: EnvelopeId) -> Error {
    Error::Pending { envelope_id, source: Box::new(HomeProblem::BeingSent { envelope_id }.into()) }
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
    /// Whether a former log had accepted it before.
    pub is_again: bool,
}

/// What is kept of an envelope that was accepted; `rank` says which of its
/// receipts is of the later log.
pub fn kept(home: &Home, envelope_id: &EnvelopeId, rank: impl Fn(&Receipt) -> usize) -> Result<Option<Kept>> {
    let folder = home.sent().join(envelope_id.to_string());
    if !folder.is_dir() {
        return Ok(None);
    }
    let receipts = saved_receipts(&folder)?.into_iter().map(|(_, receipt)| receipt);
    let receipt = receipts.max_by_key(rank).ok_or_else(|| Error::damaged(&folder, "it holds no receipt"))?;
    let is_again = folder.join("former").is_dir();
    Ok(Some(Kept { plan: read_plan(&folder)?, sealed: read_sealed(&folder)?, receipt, is_again }))
}

/// Envelopes that wait in the outbox, oldest first. Drafts that a crash left
/// are removed.
pub fn waiting(home: &Home) -> Result<Vec<EnvelopeId>> {
    let mut waiting = Vec::new();
    for name in names(&home.outbox()).map_err(|source| Error::read(&home.outbox(), source))? {
        if let Ok(envelope_id) = name.parse() {
            waiting.push(envelope_id);
        } else if name.starts_with(DRAFT) {
            let folder = home.outbox().join(name);
            if let Ok(Some(_lock)) = Lock::try_take(&folder.join("lock")) {
                let _ = fs::remove_dir_all(&folder);
            }
        }
    }
    waiting.sort_unstable_by_key(|id: &EnvelopeId| id.to_string());
    Ok(waiting)
}

/// Envelopes that were accepted and made in this span of time, in milliseconds
/// since 1970, oldest first.
pub fn accepted(home: &Home, made_unix_ms: Range<u64>) -> Result<Vec<EnvelopeId>> {
    let names = names(&home.sent()).map_err(|source| Error::read(&home.sent(), source))?;
    let mut ids: Vec<EnvelopeId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    ids.retain(|id| made_unix_ms.contains(&made_of(id)));
    ids.sort_unstable();
    Ok(ids)
}

/// Removes the documents of what was accepted and made in this span of time:
/// the envelopes and their receipts stay. Whether all are gone: what somebody
/// offers again just now is left.
pub fn forget_documents(home: &Home, made_unix_ms: Range<u64>) -> Result<bool> {
    let mut all_gone = true;
    for envelope_id in accepted(home, made_unix_ms)? {
        let folder = home.sent().join(envelope_id.to_string());
        let Some(_lock) = Lock::try_take(&folder.join("lock"))? else {
            all_gone = false;
            continue;
        };
        match fs::remove_dir_all(folder.join("documents")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::write(&folder, error)),
            _ => {}
        }
    }
    Ok(all_gone)
}

/// When an envelope was made, as its id says.
fn made_of(envelope_id: &EnvelopeId) -> u64 {
    envelope_id.as_bytes().iter().take(6).fold(0, |time, byte| time << 8 | u64::from(*byte))
}

fn read_plan(folder: &Path) -> Result<Plan> {
    let path = folder.join("plan.json");
    let bytes = fs::read(&path).map_err(|source| Error::read(&path, source))?;
    format::from_json(&path, &bytes)
}

fn read_sealed(folder: &Path) -> Result<SealedEnvelope> {
    let path = folder.join("sealed.bin");
    let bytes = fs::read(&path).map_err(|source| Error::read(&path, source))?;
    SealedEnvelope::decode(bytes.as_slice()).map_err(|error| Error::damaged(&path, error))
}

fn saved_receipts(folder: &Path) -> Result<Vec<(String, Receipt)>> {
    let names = names(folder).map_err(|source| Error::read(folder, source))?;
    let names = names.into_iter().filter(|name| name.ends_with(".receipt.json") && !name.starts_with('.'));
    names.map(|name| receipt::load(&folder.join(&name)).map(|receipt| (name, receipt))).collect()
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
                kept: None,
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
    fn what_is_discarded_is_never_sent_whenever_that_ends() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        drop(entry(&home).discard().unwrap());
        assert_eq!(names(&home.outbox()).unwrap(), Vec::<String>::new());
        let mut left = entry(&home).discard().unwrap();
        // as a crash in the midst of it leaves it
        fs::remove_file(left.folder.join("plan.json")).unwrap();
        left.finished = true;
        drop(left);
        assert_eq!(waiting(&home).unwrap(), []);
        assert_eq!(names(&home.outbox()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_refused_keeps_its_documents_until_nobody_sends_it() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let entry = entry(&home);
        let id = entry.plan.envelope_id;
        let refused = Refused::of_shape(Vec::new(), axis_proto::reason::Language::En);
        // something is in its way
        fs::write(home.refused(), "").unwrap();
        entry.refused(&refused).unwrap_err();
        assert_eq!((waiting(&home).unwrap(), entry.missing()), (vec![id], Vec::new()));
        fs::remove_file(home.refused()).unwrap();
        entry.refused(&refused).unwrap();
        assert_eq!(waiting(&home).unwrap(), []);
        let mut left = names(&home.refused().join(id.to_string())).unwrap();
        left.sort();
        assert_eq!(left, ["lock", "plan.json", "refusal.json", "sealed.bin"]);
    }

    #[test]
    fn what_was_accepted_moves_with_its_receipt() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let entry = entry(&home);
        let id = entry.plan.envelope_id;
        let receipt = Receipt { proof: "proof".into(), ..Receipt::default() };
        assert!(entry.receipt().unwrap().is_none());
        entry.sent(&receipt, 12, false).unwrap();
        assert_eq!(waiting(&home).unwrap(), []);
        let kept = kept(&home, &id, |_| 0).unwrap().unwrap();
        assert_eq!((kept.receipt, kept.plan), (receipt, entry.plan.clone()));
        assert!(!home.sent().join(id.to_string()).join("documents").exists());
    }

    #[test]
    fn what_a_restored_hub_accepts_anew_has_both_receipts() {
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path());
        let entry = entry(&home);
        let id = entry.plan.envelope_id;
        let of = |proof: &str| Receipt { proof: proof.into(), ..Receipt::default() };
        entry.sent(&of("1"), 12, true).unwrap();
        drop(entry);
        let rank = |receipt: &Receipt| receipt.proof.parse().unwrap();
        let again = Entry::open_sent(&home, &id).unwrap().unwrap();
        assert_eq!(again.missing(), Vec::<String>::new());
        assert!(Entry::open_sent(&home, &id).unwrap().is_none(), "one at a time");
        // the same number, another one, and the same answer twice
        for (proof, sequence) in [("2", 12), ("3", 15), ("3", 15)] {
            again.sent_again(&of(proof), sequence).unwrap();
            assert_eq!(kept(&home, &id, rank).unwrap().unwrap().receipt, of(proof));
        }
        let folder = home.sent().join(id.to_string());
        assert_eq!(saved_receipts(&folder).unwrap(), [("15.receipt.json".to_owned(), of("3"))]);
        assert_eq!(receipt::load(&folder.join("former/1-12.receipt.json")).unwrap(), of("1"));
        assert_eq!(receipt::load(&folder.join("former/2-12.receipt.json")).unwrap(), of("2"));
        // as a crash between writing the new one and removing the old one leaves it
        receipt::save(&of("1"), 3, &folder).unwrap();
        assert_eq!(kept(&home, &id, rank).unwrap().unwrap().receipt, of("3"));

        let made = made_of(&id);
        assert!(!forget_documents(&home, 0..made + 1).unwrap(), "somebody has it");
        assert_eq!(again.missing(), Vec::<String>::new());
        drop(again);
        assert_eq!(accepted(&home, 0..made).unwrap(), []);
        assert_eq!(accepted(&home, made..made + 1).unwrap(), [id]);
        for _ in 0..2 {
            assert!(forget_documents(&home, 0..made + 1).unwrap());
        }
        assert_eq!(Entry::open_sent(&home, &id).unwrap().unwrap().missing(), ["a.txt"]);
        assert!(kept(&home, &id, rank).unwrap().is_some());
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
