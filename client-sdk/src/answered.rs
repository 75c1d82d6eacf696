//! What this side has answered, for good: the signed acknowledgement or
//! rejection of each delivery, kept for as long as a restored hub may have
//! lost it. Never consulted while the hub has the log that it always had.
//!
//! ```text
//! answered/<day since 1970>/<envelope digest>-<recipient>.json
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use axis_proto::{
    envelope::v1::SealedEnvelope,
    id::{AgencyCode, DeliveryId, Digest, EnvelopeId},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{
    client::now_unix_ms,
    error::{Error, Result},
    files::{self, Access},
    format,
    home::Home,
};

const DAY_MS: u64 = 86_400_000;

/// One answer, and where the hub recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The envelope, by its identity.
    pub envelope_digest: Digest,
    /// Its id.
    pub envelope_id: EnvelopeId,
    /// Who sent it.
    pub sender: AgencyCode,
    /// For whom of ours it was.
    pub recipient: AgencyCode,
    /// The delivery that was answered.
    pub delivery_id: DeliveryId,
    /// Its number in the mailbox.
    pub mailbox_sequence: u64,
    /// The log that recorded it.
    pub log: String,
    /// The record.
    pub sequence: u64,
    /// When it was kept.
    pub kept_unix_ms: u64,
    /// The signed answer, encoded, in base64.
    sealed: String,
}

impl Answer {
    /// Puts one together, as of now.
    pub fn new(
        (envelope_digest, envelope_id): (Digest, EnvelopeId),
        (sender, recipient): (AgencyCode, AgencyCode),
        (delivery_id, mailbox_sequence): (DeliveryId, u64),
        (log, sequence): (String, u64),
        sealed: &SealedEnvelope,
    ) -> Self {
        Self {
            envelope_digest,
            envelope_id,
            sender,
            recipient,
            delivery_id,
            mailbox_sequence,
            log,
            sequence,
            kept_unix_ms: now_unix_ms(),
            sealed: BASE64.encode(sealed.encode_to_vec()),
        }
    }

    /// What was said, with its signature.
    pub fn sealed(&self) -> Option<SealedEnvelope> {
        SealedEnvelope::decode(BASE64.decode(&self.sealed).ok()?.as_slice()).ok()
    }

    fn name(&self) -> String {
        name(&self.envelope_digest, &self.recipient)
    }
}

fn name(digest: &Digest, recipient: &AgencyCode) -> String {
    format!("{digest}-{recipient}.json")
}

/// Keeps an answer, durably, in the place of an earlier one.
pub fn keep(home: &Home, answer: &Answer) -> Result<()> {
    let former = place_of(home, &answer.envelope_digest, &answer.recipient)?;
    let folder = home.answered().join((answer.kept_unix_ms / DAY_MS).to_string());
    files::make_durable_directory(&folder, Access::Owner)?;
    let path = folder.join(answer.name());
    files::write(&path, &format::to_json(&path, answer)?, Access::Default)?;
    if let Some(former) = former.filter(|former| *former != path) {
        let _ = fs::remove_file(former);
    }
    Ok(())
}

/// What was answered to an envelope for one of our agencies.
pub fn find(home: &Home, digest: &Digest, recipient: &AgencyCode) -> Result<Option<Answer>> {
    place_of(home, digest, recipient)?.map(|path| load(&path)).transpose()
}

/// Calls this with every answer that is kept, in no order.
pub fn each(home: &Home, mut visit: impl FnMut(Answer)) -> Result<()> {
    days(home)?.iter().try_for_each(|(_, folder)| each_in(folder, &mut visit))
}

fn each_in(folder: &Path, visit: &mut dyn FnMut(Answer)) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|source| Error::read(folder, source))?;
    for entry in entries {
        let path = entry.map_err(|source| Error::read(folder, source))?.path();
        // what is being written begins with a dot
        if path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')) {
            visit(load(&path)?);
        }
    }
    Ok(())
}

/// Takes those out that were answered here, the newest first.
pub fn take_out(home: &Home, deliveries: &mut BTreeSet<DeliveryId>) -> Result<()> {
    for (_, folder) in days(home)? {
        if deliveries.is_empty() {
            break;
        }
        each_in(&folder, &mut |answer| {
            deliveries.remove(&answer.delivery_id);
        })?;
    }
    Ok(())
}

/// Forgets those that were kept for so long.
pub fn forget(home: &Home, keep: Duration) -> Result<()> {
    let keep_days = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX) / DAY_MS;
    let oldest = (now_unix_ms() / DAY_MS).saturating_sub(keep_days.saturating_add(1));
    for (day, folder) in days(home)? {
        if day < oldest {
            fs::remove_dir_all(&folder).map_err(|source| Error::write(&folder, source))?;
        }
    }
    Ok(())
}

fn load(path: &Path) -> Result<Answer> {
    let bytes = fs::read(path).map_err(|source| Error::read(path, source))?;
    format::from_json(path, &bytes)
}

fn place_of(home: &Home, digest: &Digest, recipient: &AgencyCode) -> Result<Option<PathBuf>> {
    let name = name(digest, recipient);
    Ok(days(home)?.into_iter().map(|(_, folder)| folder.join(&name)).find(|path| path.is_file()))
}

/// The folders of the days, the newest first.
fn days(home: &Home) -> Result<Vec<(u64, PathBuf)>> {
    let folder = home.answered();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| Error::read(&folder, source))?,
    };
    let mut days: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))
        })
        .collect();
    days.sort_unstable_by(|a, b| b.cmp(a));
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kept_unix_ms: u64) -> Answer {
        let sealed = SealedEnvelope { payload: "said".into(), ..SealedEnvelope::default() };
        let (digest, id) = (Digest::of(b"envelope"), EnvelopeId::new_v7());
        let agencies = ("G22".parse().unwrap(), "H53".parse().unwrap());
        let delivery = ("7-0".parse().unwrap(), 3);
        let made = Answer::new((digest, id), agencies, delivery, ("hub/log/1".into(), 9), &sealed);
        Answer { kept_unix_ms, ..made }
    }

    #[test]
    fn the_last_answer_is_found_and_old_ones_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let now = now_unix_ms();
        let old = answer(now - 40 * DAY_MS);
        let recipient = old.recipient.clone();
        assert_eq!(find(&home, &old.envelope_digest, &recipient).unwrap(), None);
        keep(&home, &old).unwrap();
        assert_eq!(find(&home, &old.envelope_digest, &recipient).unwrap(), Some(old.clone()));
        assert_eq!(find(&home, &old.envelope_digest, &"H54".parse().unwrap()).unwrap(), None);
        forget(&home, Duration::from_secs(41 * 86_400)).unwrap();
        assert!(find(&home, &old.envelope_digest, &recipient).unwrap().is_some());
        forget(&home, Duration::from_secs(35 * 86_400)).unwrap();
        assert_eq!(find(&home, &old.envelope_digest, &recipient).unwrap(), None);

        keep(&home, &old).unwrap();
        let again = Answer { sequence: 12, ..answer(now) };
        keep(&home, &again).unwrap();
        let mut all = Vec::new();
        each(&home, |answer| all.push(answer)).unwrap();
        assert_eq!((all.len(), &all[0]), (1, &again), "the newer one took the place of the older");
        assert_eq!(again.sealed().unwrap().payload, "said");
        let mut deliveries = ["7-0", "8-0"].map(|id| id.parse().unwrap()).into();
        take_out(&home, &mut deliveries).unwrap();
        assert_eq!(deliveries, ["8-0".parse().unwrap()].into(), "nobody here answered this one");
    }
}
