//! Receipts as files that anyone can keep, pass on and verify offline.

use std::{collections::BTreeMap, path::Path};

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

/// The file form: JSON with the record in base64 and the proof as text.
pub fn to_json(receipt: &Receipt) -> String {
    let opening = receipt.opening.as_ref().map(|opening| SavedOpening {
        leaf: BASE64.encode(&opening.leaf),
        salt: BASE64.encode(&opening.salt),
        position: opening.position,
        size: opening.size,
        path: opening.path.iter().map(|hash| BASE64.encode(hash)).collect(),
    });
    let saved = Saved {
        record: BASE64.encode(&receipt.record),
        proof: receipt.proof.clone(),
        opening,
        _other: BTreeMap::new(),
    };
    serde_json::to_string_pretty(&saved).expect("strings and numbers encode") + "\n"
}

/// Reads the file form.
pub fn from_json(text: &str) -> Result<Receipt> {
    let bad =
        |error: &dyn std::fmt::Display| Verification::new("receipt", format!("it cannot be read: {error}"));
    let saved: Saved = serde_json::from_str(text).map_err(|error| bad(&error))?;
    let bytes = |text: &str| BASE64.decode(text).map(Bytes::from).map_err(|error| bad(&error));
    let opening = match saved.opening {
        None => None,
        Some(opening) => Some(LeafOpening {
            leaf: bytes(&opening.leaf)?,
            salt: bytes(&opening.salt)?,
            position: opening.position,
            size: opening.size,
            path: opening.path.iter().map(|hash| bytes(hash)).collect::<Result<_, _>>()?,
        }),
    };
    Ok(Receipt { record: bytes(&saved.record)?, proof: saved.proof, opening })
}

/// Verifies a receipt offline with the verifier key of the hub's log.
pub fn verify(receipt: &Receipt, log: &CheckpointVerifier) -> Result<VerifiedReceipt> {
    axis_proto::receipt::verify(receipt, log)
        .map_err(|error| Verification::new("receipt", error.to_string()).into())
}

/// Writes `<sequence>.receipt.json` into a folder, durably; its name.
pub fn save(receipt: &Receipt, sequence: u64, folder: &Path) -> Result<String> {
    let name = format!("{sequence}.receipt.json");
    files::write(&folder.join(&name), to_json(receipt).as_bytes(), Access::Default)?;
    Ok(name)
}

/// Keeps a receipt among those of a home. Losing one costs little: the hub
/// gives the same bytes again.
pub(crate) fn keep(home: &Home, receipt: &Receipt, sequence: u64) {
    let folder = home.receipts();
    let path = folder.join(format!("{sequence}.receipt.json"));
    let kept = files::make_directory(&folder)
        .and_then(|()| put_aside(&path, receipt))
        .and_then(|()| files::write_lazily(&path, to_json(receipt).as_bytes()));
    if let Err(error) = kept {
        tracing::warn!(%error, sequence, "a receipt was not kept");
    }
}

/// A restored hub gives later numbers anew: the receipt that a former log gave
/// under the same one stays evidence, as `<sequence>.former-<n>.receipt.json`.
fn put_aside(path: &Path, receipt: &Receipt) -> Result<()> {
    let former = match load(path) {
        Ok(former) if trust::origin_of(&former) != trust::origin_of(receipt) => former,
        _ => return Ok(()),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().replace(".receipt.json", "");
    for n in 1..=u32::MAX {
        let aside = path.with_file_name(format!("{name}.former-{n}.receipt.json"));
        if !aside.exists() {
            return files::write(&aside, to_json(&former).as_bytes(), Access::Default);
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
    let bytes = std::fs::read(path).map_err(|source| Error::read(path, source))?;
    from_json(&String::from_utf8_lossy(&bytes))
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
