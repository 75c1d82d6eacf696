//! Keeping a received envelope as files, durably, before it is acknowledged:
//!
//! ```text
//! <into>/<sender>/<envelope id>/<document>…         under safe names
//!                               envelope.json       what it is, for people and programs
//!                               envelope.sealed     the sender's exact bytes
//!                               <sequence>.receipt.json   evidence of who signed it
//! ```
//!
//! Saving the same envelope again, also for another of our agencies, changes
//! nothing but the list of deliveries.

use std::{
    fs,
    path::{Path, PathBuf},
};

use axis_proto::{
    envelope::v1::{DocumentMetadata, RecipientKind},
    limits::EXPIRES_DEFAULT_MS,
};
use prost::Message as _;
use serde_json::{Map, Value, json};

use super::Received;
use crate::{
    error::{Error, Result},
    files::{self, Access, blocking},
    names::Taken,
    progress::Watch,
    receipt,
};

const ENVELOPE: &str = "envelope.json";
const SEALED: &str = "envelope.sealed";

/// Where an envelope was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// Its folder.
    pub folder: PathBuf,
    /// Its files, in the order of the manifest.
    pub documents: Vec<PathBuf>,
}

impl Received {
    /// Writes everything under a folder of its own in `into`; returns once it
    /// is safe on the disk.
    pub async fn save(&self, into: &Path, watch: Watch<'_>) -> Result<Saved> {
        let sender = into.join(self.sender().as_str());
        let folder = sender.join(self.envelope_id().to_string());
        let made = folder.clone();
        blocking(move || files::make_durable_directory(&made, Access::Default)).await?;

        let mut taken = Taken::with(&[ENVELOPE, SEALED]);
        let mut documents = Vec::with_capacity(self.documents().len());
        for document in self.documents() {
            let path = folder.join(taken.place(document.name()));
            document.save(&path, watch).await?;
            documents.push(path);
        }

        let description = self.description(&documents);
        let (sealed, evidence) = (self.sealed().encode_to_vec(), self.evidence_to_save().await?);
        let delivery = self.delivery();
        let into = into.to_owned();
        blocking(move || {
            files::write(&folder.join(SEALED), &sealed, Access::Default)?;
            let sequence = delivery["leased_sequence"].as_u64().unwrap_or_default();
            receipt::save_evidence(&evidence, sequence, &folder)?;
            let path = folder.join(ENVELOPE);
            let whole = with_delivery(description, read_deliveries(&path)?, delivery);
            files::write(&path, format!("{whole:#}\n").as_bytes(), Access::Default)?;
            // the folder itself may be new as well
            for folder in [&sender, &into] {
                files::sync_directory(folder).map_err(|source| Error::write(folder, source))?;
            }
            Ok(Saved { folder, documents })
        })
        .await
    }

    fn description(&self, paths: &[PathBuf]) -> Map<String, Value> {
        let envelope = self.envelope();
        let documents: Vec<Value> = self
            .documents()
            .iter()
            .zip(paths)
            .map(|(document, path)| {
                json!({
                    "name": document.name(),
                    "file": path.file_name().map(|name| name.to_string_lossy()),
                    "media_type": document.media_type(),
                    "size": document.size(),
                    "sha256": document.sha256().to_string(),
                    "description": document.description(),
                })
            })
            .collect();
        let recipients: Vec<Value> = envelope
            .recipients
            .iter()
            .map(|recipient| json!({ "agency": recipient.agency, "kind": kind(recipient.kind()) }))
            .collect();
        let reply = envelope.thread.as_ref().and_then(|thread| thread.in_reply_to.as_ref());
        let reply = reply.and_then(|reply| {
            let id = axis_proto::id::EnvelopeId::from_slice(&reply.envelope_id).ok()?;
            Some(json!({ "sender": reply.sender, "envelope_id": id.to_string() }))
        });
        let all = json!({
            "envelope_id": self.envelope_id().to_string(),
            "envelope_digest": self.envelope_digest().to_string(),
            "sender": self.sender().as_str(),
            "recipients": recipients,
            "groups": envelope.groups,
            "priority": priority(envelope.priority),
            "created_unix_ms": envelope.created_unix_ms,
            "expires_unix_ms": match envelope.expires_unix_ms {
                0 => envelope.created_unix_ms.saturating_add(EXPIRES_DEFAULT_MS),
                expires => expires,
            },
            "in_reply_to": reply,
            "metadata": metadata(self.metadata()),
            "documents": documents,
            "key_ids": self.key_ids().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "accepted_sequence": self.accepted_sequence(),
        });
        match all {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    fn delivery(&self) -> Value {
        json!({
            "delivery_id": self.delivery_id().to_string(),
            "recipient": self.recipient().as_str(),
            "kind": kind(self.kind()),
            "mailbox_sequence": self.mailbox_sequence(),
            "attempt": self.attempt(),
            "leased_sequence": self.leased_sequence(),
        })
    }
}

/// The deliveries that a file names already.
fn read_deliveries(path: &Path) -> Result<Vec<Value>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.map_err(|source| Error::read(path, source))?,
    };
    // ours, whole or not at all; if somebody else has changed it, it is written anew
    let whole: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(whole["deliveries"].as_array().cloned().unwrap_or_default())
}

fn with_delivery(mut description: Map<String, Value>, mut deliveries: Vec<Value>, delivery: Value) -> Value {
    deliveries.retain(|other| other["delivery_id"] != delivery["delivery_id"]);
    deliveries.push(delivery);
    description.insert("deliveries".to_owned(), Value::Array(deliveries));
    Value::Object(description)
}

fn kind(kind: RecipientKind) -> &'static str {
    if kind == RecipientKind::Cc { "cc" } else { "to" }
}

fn priority(priority: i32) -> &'static str {
    use axis_proto::envelope::v1::Priority;
    match Priority::try_from(priority).unwrap_or(Priority::Normal) {
        Priority::Unspecified | Priority::Normal => "normal",
        Priority::Urgent => "urgent",
        Priority::VeryUrgent => "very-urgent",
        Priority::Express => "express",
        Priority::ExpressTimed => "express-timed",
    }
}

/// What was given of a document's metadata, by the names of the contract.
fn metadata(metadata: &DocumentMetadata) -> Value {
    let mut map = Map::new();
    let texts = [
        ("document_id", &metadata.document_id),
        ("code_number", &metadata.code_number),
        ("code_notation", &metadata.code_notation),
        ("promulgation_place", &metadata.promulgation_place),
        ("promulgation_date", &metadata.promulgation_date),
        ("document_type_name", &metadata.document_type_name),
        ("subject", &metadata.subject),
        ("content", &metadata.content),
        ("due_date", &metadata.due_date),
        ("sphere_of_promulgation", &metadata.sphere_of_promulgation),
        ("typer_notation", &metadata.typer_notation),
    ];
    let numbers = [
        ("document_type", metadata.document_type),
        ("document_type_detail", metadata.document_type_detail),
        ("promulgation_amount", metadata.promulgation_amount),
        ("page_amount", metadata.page_amount),
        ("steering_type", metadata.steering_type.unwrap_or_default()),
    ];
    let lists = [
        ("to_places", &metadata.to_places),
        ("appendixes", &metadata.appendixes),
        ("task_codes", &metadata.task_codes),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        map.insert(name.to_owned(), json!(text));
    }
    for (name, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        map.insert(name.to_owned(), json!(number));
    }
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        map.insert(name.to_owned(), json!(list));
    }
    if let Some(signer) = &metadata.signer {
        let value = json!({
            "competence": signer.competence,
            "position": signer.position,
            "full_name": signer.full_name,
        });
        map.insert("signer".to_owned(), value);
    }
    let answers: Vec<Value> = metadata
        .response_for
        .iter()
        .map(|answered| {
            json!({
                "agency": answered.agency,
                "code": answered.code,
                "document_id": answered.document_id,
                "promulgation_date": answered.promulgation_date,
            })
        })
        .collect();
    if !answers.is_empty() {
        map.insert("response_for".to_owned(), json!(answers));
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_of_one_envelope_share_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ENVELOPE);
        for (id, attempt) in [("7-0", 1), ("7-1", 1), ("7-0", 2)] {
            let delivery = json!({ "delivery_id": id, "attempt": attempt });
            let whole = with_delivery(Map::new(), read_deliveries(&path).unwrap(), delivery);
            fs::write(&path, whole.to_string()).unwrap();
        }
        let found = read_deliveries(&path).unwrap();
        let found: Vec<_> =
            found.iter().map(|it| (it["delivery_id"].as_str(), it["attempt"].as_u64())).collect();
        assert_eq!(found, [(Some("7-1"), Some(1)), (Some("7-0"), Some(2))]);
    }

    #[test]
    fn metadata_says_what_was_given_and_no_more() {
        let given = DocumentMetadata {
            subject: "Về việc".into(),
            page_amount: 2,
            to_places: vec!["Như trên".into()],
            ..Default::default()
        };
        let expected = json!({ "subject": "Về việc", "page_amount": 2, "to_places": ["Như trên"] });
        assert_eq!(metadata(&given), expected);
    }
}
