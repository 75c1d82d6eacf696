//! Receipts as files that anyone can keep, pass on and verify offline, with
//! what was signed and the keys' own receipts if they are evidence of that.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use axis_proto::{
    id::Digest,
    note::CheckpointVerifier,
    receipt::VerifiedReceipt,
    record::v1::{LeafOpening, Receipt, record::Event},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, Verification},
    evidence::Evidence,
    files::{self, Access},
    home::Home,
    trust,
};

/// The file form of a receipt.
#[derive(Serialize, Deserialize)]
struct Saved {
    record: String,
    proof: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opening: Option<SavedOpening>,
    /// What was signed, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sealed: String,
    /// The receipts of the records that hold the keys that signed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<Saved>,
    /// Fields of later releases are kept out of the way, not refused.
    #[serde(flatten, skip_serializing)]
    _other: BTreeMap<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct SavedOpening {
    leaf: String,
    salt: String,
    position: u32,
    size: u32,
    path: Vec<String>,
}

impl Saved {
    fn of(receipt: &Receipt) -> Self {
        let opening = receipt.opening.as_ref().map(|opening| SavedOpening {
            leaf: BASE64.encode(&opening.leaf),
            salt: BASE64.encode(&opening.salt),
            position: opening.position,
            size: opening.size,
            path: opening.path.iter().map(|hash| BASE64.encode(hash)).collect(),
        });
        Self {
            record: BASE64.encode(&receipt.record),
            proof: receipt.proof.clone(),
            opening,
            sealed: String::new(),
            keys: Vec::new(),
            _other: BTreeMap::new(),
        }
    }

    fn receipt(self) -> Result<Receipt> {
        let opening = match self.opening {
            None => None,
            Some(opening) => Some(LeafOpening {
                leaf: bytes(&opening.leaf)?,
                salt: bytes(&opening.salt)?,
                position: opening.position,
                size: opening.size,
                path: opening.path.iter().map(|hash| bytes(hash)).collect::<Result<_>>()?,
            }),
        };
        Ok(Receipt { record: bytes(&self.record)?, proof: self.proof, opening })
    }

    fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers encode") + "\n"
    }
}

fn bytes(text: &str) -> Result<Bytes> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Verification::new("receipt", format!("it cannot be read: {error}")).into()
}

/// The file form: JSON with the record in base64 and the proof as text.
pub fn to_json(receipt: &Receipt) -> String {
    Saved::of(receipt).to_text()
}

/// The file form of evidence: that of its receipt, with what was signed and the
/// keys' receipts in it.
pub fn evidence_to_json(evidence: &Evidence) -> String {
    let saved = Saved {
        sealed: BASE64.encode(&evidence.sealed),
        keys: evidence.keys.iter().map(Saved::of).collect(),
        ..Saved::of(&evidence.receipt)
    };
    saved.to_text()
}

/// Reads the file form.
pub fn from_json(text: &str) -> Result<Receipt> {
    serde_json::from_str::<Saved>(text).map_err(|error| unreadable(&error))?.receipt()
}

/// Reads the file form, with all that is in it.
pub fn evidence_from_json(text: &str) -> Result<Evidence> {
    let mut saved: Saved = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let keys = std::mem::take(&mut saved.keys).into_iter().map(Saved::receipt).collect::<Result<_>>()?;
    let sealed = bytes(&saved.sealed)?;
    Ok(Evidence { receipt: saved.receipt()?, sealed, keys })
}

/// Verifies a receipt offline with the verifier key of the hub's log.
pub fn verify(receipt: &Receipt, log: &CheckpointVerifier) -> Result<VerifiedReceipt> {
    axis_proto::receipt::verify(receipt, log)
        .map_err(|error| Verification::new("receipt", error.to_string()).into())
}

/// Writes `<sequence>.receipt.json` into a folder, durably; its name.
pub fn save(receipt: &Receipt, sequence: u64, folder: &Path) -> Result<String> {
    save_text(&to_json(receipt), sequence, folder)
}

/// The same of evidence.
pub fn save_evidence(evidence: &Evidence, sequence: u64, folder: &Path) -> Result<String> {
    save_text(&evidence_to_json(evidence), sequence, folder)
}

fn save_text(text: &str, sequence: u64, folder: &Path) -> Result<String> {
    let name = format!("{sequence}.receipt.json");
    files::write(&folder.join(&name), text.as_bytes(), Access::Default)?;
    Ok(name)
}

/// Where a home keeps the receipt of a record.
pub(crate) fn kept_at(home: &Home, sequence: u64) -> PathBuf {
    home.receipts().join(format!("{sequence}.receipt.json"))
}

/// Keeps a receipt among those of a home, unless it is there. Losing one costs
/// little: the hub gives the same bytes again.
pub(crate) fn keep(home: &Home, receipt: &Receipt, sequence: u64) {
    // evidence has more than the receipt in it
    if !load(&kept_at(home, sequence)).is_ok_and(|kept| kept == *receipt) {
        keep_evidence(home, &Evidence::of(receipt.clone()), sequence);
    }
}

/// Keeps evidence in the place of the receipt. Of what was signed the hub gives
/// no more once it is erased.
pub(crate) fn keep_evidence(home: &Home, evidence: &Evidence, sequence: u64) {
    let path = kept_at(home, sequence);
    let kept = files::make_directory(&home.receipts())
        .and_then(|()| put_aside(&path, &evidence.receipt))
        .and_then(|()| files::write_lazily(&path, evidence_to_json(evidence).as_bytes()));
    if let Err(error) = kept {
        tracing::warn!(%error, sequence, "a receipt was not kept");
    }
}

/// A restored hub gives later numbers anew: the receipt that a former log gave
/// under the same one stays evidence, as `<sequence>.former-<n>.receipt.json`.
fn put_aside(path: &Path, receipt: &Receipt) -> Result<()> {
    let former = match load_evidence(path) {
        Ok(former) if trust::origin_of(&former.receipt) != trust::origin_of(receipt) => former,
        _ => return Ok(()),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().replace(".receipt.json", "");
    for n in 1..=u32::MAX {
        let aside = path.with_file_name(format!("{name}.former-{n}.receipt.json"));
        if !aside.exists() {
            return files::write(&aside, evidence_to_json(&former).as_bytes(), Access::Default);
        }
    }
    Ok(())
}

/// The receipt that an answer must carry.
pub(crate) fn required(receipt: Option<Receipt>) -> Result<Receipt> {
    receipt.ok_or_else(|| Verification::new("receipt", "the answer carries none").into())
}

/// The delivery that a verified record is about, with its lease.
pub(crate) fn delivery_of(event: &Event) -> Option<(&axis_proto::record::v1::Delivery, Option<u32>)> {
    match event {
        Event::Leased(it) => Some((it.delivery.as_ref()?, Some(it.attempt))),
        Event::LeaseExtended(it) => Some((it.delivery.as_ref()?, Some(it.attempt))),
        Event::Released(it) => Some((it.delivery.as_ref()?, Some(it.attempt))),
        Event::Acknowledged(it) => Some((it.delivery.as_ref()?, None)),
        Event::Rejected(it) => Some((it.delivery.as_ref()?, None)),
        Event::Parked(it) => Some((it.delivery.as_ref()?, Some(it.attempt))),
        Event::LateAccepted(it) => Some((it.delivery.as_ref()?, None)),
        _ => None,
    }
}

/// Checks that a verified receipt is about one delivery of one envelope.
pub(crate) fn of_delivery(
    verified: VerifiedReceipt,
    delivery_id: &str,
    envelope_digest: &Digest,
) -> Result<VerifiedReceipt> {
    let fits = verified.record.event.as_ref().and_then(delivery_of).is_some_and(|(delivery, _)| {
        format!("{}-{}", delivery.envelope_sequence, delivery.recipient_index) == delivery_id
            && delivery.envelope_digest.as_ref() == envelope_digest.as_ref()
    });
    if fits {
        Ok(verified)
    } else {
        Err(Verification::new("receipt", format!("it is not about delivery {delivery_id}")).into())
    }
}

/// Names the error of a receipt file.
pub fn load(path: &Path) -> Result<Receipt> {
    from_json(&read(path)?)
}

/// The same with all that is in the file.
pub fn load_evidence(path: &Path) -> Result<Evidence> {
    evidence_from_json(&read(path)?)
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::read(path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            record: Bytes::from_static(b"\x08\x02"),
            proof: "c2sp.org/tlog-proof@v1\nextra AAAA\n".to_owned(),
            opening: Some(LeafOpening {
                leaf: Bytes::from_static(b"leaf"),
                salt: Bytes::from_static(&[7; 16]),
                position: 1,
                size: 3,
                path: vec![Bytes::from_static(&[9; 32])],
            }),
        }
    }

    #[test]
    fn a_receipt_survives_its_file() {
        let home = tempfile::tempdir().unwrap();
        let name = save(&receipt(), 12, home.path()).unwrap();
        assert_eq!(name, "12.receipt.json");
        assert_eq!(load(&home.path().join(name)).unwrap(), receipt());
        let plain = Receipt { opening: None, ..receipt() };
        assert!(!to_json(&plain).contains("opening"));
        assert_eq!(from_json(&to_json(&plain)).unwrap(), plain);
    }

    #[test]
    fn evidence_survives_its_file_and_is_a_receipt_too() {
        let folder = tempfile::tempdir().unwrap();
        let key = Receipt { opening: None, ..receipt() };
        let evidence = Evidence { keys: vec![key], sealed: "sealed".into(), ..Evidence::of(receipt()) };
        let path = folder.path().join(save_evidence(&evidence, 12, folder.path()).unwrap());
        assert_eq!(load_evidence(&path).unwrap(), evidence);
        assert_eq!(load(&path).unwrap(), receipt());
        assert_eq!(evidence_to_json(&Evidence::of(receipt())), to_json(&receipt()));
        assert_eq!(evidence_from_json(&to_json(&receipt())).unwrap(), Evidence::of(receipt()));

        let home = Home::at(folder.path());
        keep_evidence(&home, &evidence, 12);
        keep(&home, &receipt(), 12);
        assert_eq!(load_evidence(&kept_at(&home, 12)).unwrap(), evidence, "no less than before");
        let later = Receipt { proof: "later".into(), ..receipt() };
        keep(&home, &later, 12);
        assert_eq!(load_evidence(&kept_at(&home, 12)).unwrap(), Evidence::of(later));
    }

    #[test]
    fn a_former_logs_receipt_of_the_same_number_stays() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let of = |log: &str| Receipt { proof: format!("proof\n\n{log}\n9\n"), ..receipt() };
        for log in ["hub/log/1", "hub/log/1", "hub/log/2", "hub/log/3"] {
            keep(&home, &of(log), 12);
        }
        let kept = |name: &str| load(&home.receipts().join(name)).unwrap();
        assert_eq!(kept("12.receipt.json"), of("hub/log/3"));
        assert_eq!(kept("12.former-1.receipt.json"), of("hub/log/1"));
        assert_eq!(kept("12.former-2.receipt.json"), of("hub/log/2"));
        assert_eq!(std::fs::read_dir(home.receipts()).unwrap().count(), 3);
    }

    #[test]
    fn later_fields_are_passed_over_and_nonsense_is_not() {
        let text = to_json(&receipt()).replacen('{', "{\"witnesses\": [],", 1);
        assert_eq!(from_json(&text).unwrap(), receipt());
        for text in ["", "{}", r#"{"record":"*","proof":""}"#] {
            assert!(matches!(from_json(text), Err(Error::Verification(_))), "{text}");
        }
    }
}
