//! Checks one vector with nothing but what its file says.

use std::collections::HashMap;

use axis_proto::{
    envelope::v1::{SealedEnvelope, Signature},
    hub::v1::Reason,
    id::{AgencyCode, DeliveryId, Digest, EnvelopeId, GroupId, HubId, KeyId, SystemId},
    key::{PublicKey, SigningKey, spki},
    leaves,
    note::{CheckpointVerifier, NoteError},
    proof::TlogProof,
    receipt::{self, OpenedLeaf},
    record::v1::{LeafList, LeafOpening, Receipt, Record},
    seal::{self, PayloadType},
    shape, succession, token,
    token::EnrolmentToken,
    tree,
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::json;

/// Panics, with the file's name, if the vector does not hold.
pub fn check(name: &str, vector: &Value) {
    let file = File { name, value: vector };
    assert!(file.text("about").ends_with('.'), "{name}: says what it is about");
    let (folder, _) = name.split_once('/').expect("a vector stands in a folder");
    let found = match folder {
        "id" => ids(&file),
        "key" => key(&file),
        "pae" => pae(&file),
        "seal" => sealed(&file),
        "payload" => payload(&file),
        "tree" => tree_hashes(&file),
        "leaf" => leaf(&file),
        "opening" => opening(&file),
        "checkpoint" => checkpoint(&file),
        "proof" => proof(&file),
        "receipt" => full_receipt(&file),
        "succession" => log_succession(&file),
        "token" => enrolment_token(&file),
        "enrolment" => key_proof(&file),
        "reason" => reasons(&file),
        other => panic!("{name}: nobody checks vectors of `{other}`"),
    };
    assert_eq!(found, file.text("expect"), "{name}");
}

/// A vector with access to its members.
struct File<'a> {
    name: &'a str,
    value: &'a Value,
}

impl File<'_> {
    fn get(&self, member: &str) -> &Value {
        self.value.get(member).unwrap_or_else(|| panic!("{}: no `{member}`", self.name))
    }

    fn text(&self, member: &str) -> &str {
        self.get(member).as_str().unwrap_or_else(|| panic!("{}: `{member}` is no text", self.name))
    }

    fn number(&self, member: &str) -> u64 {
        self.get(member).as_u64().unwrap_or_else(|| panic!("{}: `{member}` is no number", self.name))
    }

    fn list(&self, member: &str) -> &[Value] {
        self.get(member).as_array().unwrap_or_else(|| panic!("{}: `{member}` is no list", self.name))
    }

    fn bytes(&self, member: &str) -> Vec<u8> {
        bytes(self.get(member))
    }

    fn array<const N: usize>(&self, member: &str) -> [u8; N] {
        self.bytes(member).try_into().unwrap_or_else(|_| panic!("{}: length of `{member}`", self.name))
    }

    fn hashes(&self, member: &str) -> Vec<[u8; 32]> {
        self.list(member).iter().map(|hash| bytes(hash).try_into().expect("32 bytes")).collect()
    }

    fn same(&self, member: &str, found: &impl PartialEq<Value>) {
        assert!(found == self.get(member), "{}: `{member}` differs", self.name);
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("hex")).expect("hex")
}

/// `ok`, or the name of what is wrong.
fn outcome(good: bool, otherwise: &str) -> String {
    if good { "ok" } else { otherwise }.to_owned()
}

/// All good or all bad.
fn ids(file: &File) -> String {
    let parse: fn(&str) -> Option<Vec<u8>> = match file.text("type") {
        "agency_code" => |text| text.parse::<AgencyCode>().ok().map(|id| id.to_string().into()),
        "system_id" => |text| text.parse::<SystemId>().ok().map(|id| id.to_string().into()),
        "group_id" => |text| text.parse::<GroupId>().ok().map(|id| id.to_string().into()),
        "hub_id" => |text| text.parse::<HubId>().ok().map(|id| id.to_string().into()),
        "delivery_id" => |text| text.parse::<DeliveryId>().ok().map(|id| id.to_string().into()),
        "envelope_id" => |text| text.parse::<EnvelopeId>().ok().map(|id| id.as_bytes().to_vec()),
        "envelope_id_bytes" => |text| {
            let bytes = hex::decode(text).expect("hex");
            EnvelopeId::from_slice(&bytes).ok().map(|id| id.as_bytes().to_vec())
        },
        other => panic!("{}: no type `{other}`", file.name),
    };
    let found: Vec<_> = file.list("texts").iter().map(|text| parse(text.as_str().expect("a text"))).collect();
    if let Some(bytes) = file.value.get("bytes") {
        let found: Vec<_> = found.iter().map(|bytes| hex::encode(bytes.as_ref().expect("good"))).collect();
        assert_eq!(json!(found), *bytes, "{}", file.name);
    }
    let good = found.iter().filter(|found| found.is_some()).count();
    assert!(good == 0 || good == found.len(), "{}: {found:?}", file.name);
    outcome(good > 0, "FIELD_INVALID")
}

fn key(file: &File) -> String {
    let key = SigningKey::from_seed(&file.array("seed"));
    let public = key.public();
    file.same("public_key", &hex::encode(public.as_bytes()));
    file.same("spki", &hex::encode(spki(public.as_bytes())));
    file.same("key_id", &public.key_id().to_string());
    assert_eq!(key.to_pem().as_str(), file.text("pem"), "{}", file.name);
    file.same("signature", &hex::encode(key.sign(&file.bytes("message"))));
    let read = SigningKey::from_pem(file.text("pem")).expect("our own file");
    outcome(read.public() == public, "KEY")
}

fn pae(file: &File) -> String {
    let (kind, payload) = (file.text("payload_type"), file.bytes("payload"));
    file.same("pae", &hex::encode(seal::pae(kind, &payload)));
    file.same("digest", &seal::digest(kind, &payload).to_string());
    "ok".to_owned()
}

fn sealed(file: &File) -> String {
    let payload = match file.value.get("payload_repeats") {
        Some(times) => file.bytes("payload").repeat(times.as_u64().expect("a number") as usize),
        None => file.bytes("payload"),
    };
    let signature = |signature: &Value| Signature {
        sig: bytes(&signature["sig"]).into(),
        keyid: signature["keyid"].as_str().expect("a text").to_owned(),
    };
    let sealed = SealedEnvelope {
        payload: payload.into(),
        payload_type: file.text("payload_type").to_owned(),
        signatures: file.list("signatures").iter().map(signature).collect(),
    };
    let keys: HashMap<KeyId, PublicKey> = file
        .list("known_keys")
        .iter()
        .map(|key| PublicKey::from_slice(&bytes(key)).expect("32 bytes"))
        .map(|key| (key.key_id(), key))
        .collect();
    let expected = PayloadType::parse(file.text("expected_type")).expect("a type");
    match seal::open(&sealed, expected, &mut |id| keys.get(id).copied()) {
        Ok(opened) => {
            file.same("digest", &opened.digest.to_string());
            let encoded = file.bytes("encoded");
            assert_eq!(
                SealedEnvelope::decode(encoded.as_slice()).expect("a message"),
                sealed,
                "{}",
                file.name
            );
            let seeds = file.list("seeds").iter().map(|seed| bytes(seed).try_into().expect("32 bytes"));
            let signers: Vec<_> = seeds.map(|seed| SigningKey::from_seed(&seed)).collect();
            let again = seal::seal(expected, opened.payload, &signers.iter().collect::<Vec<_>>());
            outcome(again == sealed, "SEAL")
        }
        Err(error) => {
            file.same("at", &error.field().to_owned());
            error.reason().short_name().to_owned()
        }
    }
}

fn payload(file: &File) -> String {
    let payload = file.bytes("payload");
    let (message, kind) = match file.text("type") {
        "envelope" => ("axis.envelope.v1.Envelope", PayloadType::Envelope),
        "acknowledgement" => ("axis.envelope.v1.Acknowledgement", PayloadType::Acknowledgement),
        "rejection" => ("axis.envelope.v1.Rejection", PayloadType::Rejection),
        other => panic!("{}: no type `{other}`", file.name),
    };
    file.same("digest", &seal::digest(kind.as_str(), &payload).to_string());
    let errors = match kind {
        PayloadType::Envelope => shape::decode_envelope(&payload).map(|message| shape::envelope(&message)),
        PayloadType::Acknowledgement => {
            shape::decode_acknowledgement(&payload).map(|message| shape::acknowledgement(&message))
        }
        PayloadType::Rejection => shape::decode_rejection(&payload).map(|message| shape::rejection(&message)),
    }
    .unwrap_or_else(|error| vec![error]);
    if let Some(decoded) = json::decoded(message, &payload) {
        file.same("decoded", &decoded);
    }
    let violations: Vec<_> = errors
        .iter()
        .map(|error| json!({"field": error.field, "reason": error.reason.short_name()}))
        .collect();
    file.same("violations", &json!(violations));
    errors.first().map_or("ok", |error| error.reason.short_name()).to_owned()
}

fn tree_hashes(file: &File) -> String {
    match file.text("type") {
        "roots" => {
            let leaves: Vec<_> =
                file.list("entries").iter().map(|entry| tree::leaf_hash(&bytes(entry))).collect();
            assert_eq!(leaves, file.hashes("leaf_hashes"), "{}", file.name);
            let roots: Vec<_> = (0..=leaves.len()).map(|size| tree::root_of(&leaves[..size])).collect();
            outcome(roots == file.hashes("roots"), "ROOT")
        }
        "inclusion" => {
            let (leaf, root) = (file.array("leaf_hash"), file.array("root"));
            let path = file.hashes("path");
            let good = tree::verify_inclusion(file.number("index"), file.number("size"), &leaf, &path, &root);
            outcome(good, "INCLUSION")
        }
        "consistency" => {
            let (old, new) = (file.array("old_root"), file.array("new_root"));
            let path = file.hashes("path");
            let good =
                tree::verify_consistency(file.number("old_size"), file.number("new_size"), &old, &new, &path);
            outcome(good, "CONSISTENCY")
        }
        other => panic!("{}: no type `{other}`", file.name),
    }
}

fn leaf(file: &File) -> String {
    let (salt, record) = (file.array("salt"), file.bytes("record"));
    file.same("entry", &hex::encode(tree::entry_hash(&salt, &record)));
    file.same("leaf_hash", &hex::encode(tree::record_leaf(&salt, &record)));
    file.same("decoded", &json::decoded("axis.record.v1.Record", &record).expect("a record"));
    "ok".to_owned()
}

fn opening(file: &File) -> String {
    match file.text("type") {
        "list" => {
            let leaves = file.list("leaves").iter().map(|leaf| bytes(leaf).into()).collect();
            let list = LeafList { secret: file.bytes("secret").into(), leaves };
            let salts: Vec<_> =
                (0..).zip(&list.leaves).map(|(i, _)| leaves::salt_of(&list.secret, i)).collect();
            let hashes = salts.iter().zip(&list.leaves).map(|(salt, leaf)| leaves::hash_of(salt, leaf));
            let hashes: Vec<_> = hashes.map(hex::encode).collect();
            file.same("salts", &json!(salts.iter().map(hex::encode).collect::<Vec<_>>()));
            file.same("leaf_hashes", &json!(hashes));
            file.same("root", &hex::encode(leaves::root(&list)));
            "ok".to_owned()
        }
        "opening" => {
            let good = leaves::verify_opening(&leaf_opening(file.get("opening")), &file.array("root"));
            outcome(good, "OPENING")
        }
        other => panic!("{}: no type `{other}`", file.name),
    }
}

fn leaf_opening(value: &Value) -> LeafOpening {
    let number = |member: &str| value[member].as_u64().and_then(|n| n.try_into().ok()).expect("a number");
    LeafOpening {
        leaf: bytes(&value["leaf"]).into(),
        salt: bytes(&value["salt"]).into(),
        position: number("position"),
        size: number("size"),
        path: value["path"].as_array().expect("a list").iter().map(|hash| bytes(hash).into()).collect(),
    }
}

fn checkpoint(file: &File) -> String {
    let verified =
        CheckpointVerifier::parse(file.text("verifier_key")).and_then(|log| log.verify(file.text("note")));
    match verified {
        Ok(checkpoint) => {
            file.same("origin", &checkpoint.origin);
            file.same("size", &json!(checkpoint.size));
            file.same("root", &hex::encode(checkpoint.root));
            "ok"
        }
        Err(NoteError::Origin | NoteError::VerifierKey) => "VERIFIER_KEY",
        Err(NoteError::Note) => "NOTE",
        Err(NoteError::Checkpoint) => "CHECKPOINT",
        Err(NoteError::Unsigned) => "UNSIGNED",
        Err(NoteError::Signature) => "SIGNATURE",
        Err(NoteError::OtherOrigin) => "OTHER_ORIGIN",
    }
    .to_owned()
}

fn proof(file: &File) -> String {
    let Ok(proof) = file.text("proof").parse::<TlogProof>() else { return "PROOF".to_owned() };
    file.same("extra", &hex::encode(&proof.extra));
    file.same("index", &json!(proof.index));
    file.same("hashes", &json!(proof.hashes.iter().map(hex::encode).collect::<Vec<_>>()));
    file.same("checkpoint", &proof.checkpoint);
    outcome(proof.to_string() == file.text("proof"), "PROOF")
}

fn full_receipt(file: &File) -> String {
    let receipt = Receipt {
        record: file.bytes("record").into(),
        proof: file.text("proof").to_owned(),
        opening: file.value.get("opening").map(leaf_opening),
    };
    let log = CheckpointVerifier::parse(file.text("verifier_key")).expect("a key");
    match receipt::verify(&receipt, &log) {
        Ok(verified) => {
            assert_eq!(Record::decode(receipt.record.clone()), Ok(verified.record), "{}", file.name);
            file.same("decoded", &json::decoded("axis.record.v1.Record", &receipt.record).expect("a record"));
            file.same("size", &json!(verified.checkpoint.size));
            let (kind, leaf) = match verified.opened {
                Some(OpenedLeaf::Recipient(leaf)) => ("axis.record.v1.RecipientLeaf", leaf.encode_to_vec()),
                Some(OpenedLeaf::Consignment(leaf)) => {
                    ("axis.record.v1.ConsignmentLeaf", leaf.encode_to_vec())
                }
                None => return "ok".to_owned(),
            };
            file.same("opened", &json::decoded(kind, &leaf).expect("a leaf"));
            "ok".to_owned()
        }
        Err(error) => error.name().to_owned(),
    }
}

fn log_succession(file: &File) -> String {
    let previous = CheckpointVerifier::parse(file.text("previous_verifier_key")).expect("a key");
    match succession::verify(file.text("note"), &previous) {
        Ok(found) => {
            file.same("previous_size", &json!(found.previous_size));
            file.same("previous_root", &hex::encode(found.previous_root));
            file.same("verifier_key", &found.log.verifier_key());
            "ok".to_owned()
        }
        Err(error) => error.name().to_owned(),
    }
}

fn enrolment_token(file: &File) -> String {
    let Ok(token) = file.text("token").parse::<EnrolmentToken>() else { return "TOKEN_INVALID".to_owned() };
    file.same("address", &token.address);
    file.same("authority_key_sha256", &token.authority_key_sha256.to_string());
    file.same("secret", &hex::encode(token.secret));
    file.same("secret_sha256", &Digest::of(&token.secret).to_string());
    file.same("canonical", &token.to_string());
    "ok".to_owned()
}

fn key_proof(file: &File) -> String {
    let request = file.bytes("certificate_request");
    let message = match file.text("type") {
        "enrol" => token::enrol_proof_message(&file.bytes("token_secret"), &request),
        "renew" => token::renew_proof_message(&file.text("system_id").parse().expect("an id"), &request),
        other => panic!("{}: no type `{other}`", file.name),
    };
    file.same("message", &hex::encode(&message));
    let good = PublicKey::new(file.array("public_key")).verify_strict(&message, &file.bytes("signature"));
    outcome(good, "SIGNATURE_INVALID")
}

fn reasons(file: &File) -> String {
    file.same("reasons", &crate::make::reason_table());
    let names = file.list("reasons").iter().map(|reason| reason["reason"].as_str().expect("a text"));
    outcome(names.map(Reason::from_short_name).all(|reason| reason.is_some()), "REASON")
}
