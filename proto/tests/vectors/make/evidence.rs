//! The log of the story: six records, their tree, checkpoints and receipts.

use axis_proto::{
    envelope::v1::{Priority, RecipientKind},
    id::Digest,
    key::SigningKey,
    leaves,
    note::{CheckpointSigner, CheckpointVerifier},
    proof::TlogProof,
    receipt::{self, OpenedLeaf},
    record::v1::{
        Accepted, Acknowledged, Cargo, CargoKind, ClockConfirmed, Consigned, ConsignmentLeaf, Delivery,
        DocumentDigest, FeedPlace, LeafList, LeafOpening, Leased, LogOpened, Receipt, RecipientLeaf, Record,
        record::Event,
    },
    seal::{self, PayloadType},
    tree::{self, Hash},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};

use super::{Vectors, all_hex, key, payloads, with, without};
use crate::json;

const ORIGIN: &str = "axis.test/log1";

fn signer() -> CheckpointSigner {
    named(ORIGIN, 0x01)
}

fn named(origin: &str, seed: u8) -> CheckpointSigner {
    CheckpointSigner::new(origin, key(seed)).expect("an origin")
}

fn bytes(hash: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(hash.as_ref())
}

/// The frozen expansion: three agencies in order of code.
fn recipients() -> LeafList {
    let leaf = |(index, agency): (u32, &str)| {
        encoded(&RecipientLeaf {
            recipient_index: index,
            agency: agency.into(),
            kind: kind_of(agency).into(),
        })
    };
    let leaves = (0..).zip(["000.00.13.H53", "H53", "H53.02"]).map(leaf).collect();
    LeafList { secret: vec![0x5e; 32].into(), leaves }
}

fn kind_of(agency: &str) -> RecipientKind {
    if agency == "H53" { RecipientKind::To } else { RecipientKind::Cc }
}

fn deliveries() -> LeafList {
    let leaf = |(index, agency): (u32, &str)| {
        encoded(&ConsignmentLeaf {
            recipient_index: index,
            agency: agency.into(),
            system: "tay-ninh".into(),
            mailbox_sequence: u64::from(index) + 1,
            kind: kind_of(agency).into(),
        })
    };
    let leaves = (0..).zip(["000.00.13.H53", "H53", "H53.02"]).map(leaf).collect();
    LeafList { secret: vec![0x5f; 32].into(), leaves }
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// The delivery of H53.
fn delivery() -> Delivery {
    Delivery {
        envelope_sequence: 1,
        recipient_index: 1,
        envelope_digest: bytes(payloads::full_digest()),
        agency: "H53".into(),
        system: "tay-ninh".into(),
        mailbox_sequence: 2,
    }
}

fn cargo(kind: CargoKind, content: &[u8]) -> Cargo {
    Cargo { kind: kind.into(), sha256: bytes(Digest::of(content)), size: content.len() as u64 }
}

/// The records, encoded, in their order.
fn records() -> Vec<(&'static str, Bytes)> {
    let envelope = payloads::full();
    let sealed = seal::seal(PayloadType::Envelope, encoded(&envelope), &[&key(0x11)]).encode_to_vec();
    let answer = encoded(&payloads::acknowledgement());
    let sealed_answer =
        seal::seal(PayloadType::Acknowledgement, answer.clone(), &[&key(0x21)]).encode_to_vec();
    let accepted = Accepted {
        sender_system: "g22".into(),
        sender: envelope.sender.clone(),
        envelope_id: envelope.envelope_id.clone(),
        envelope_digest: bytes(payloads::full_digest()),
        key_ids: vec![bytes(key(0x11).public().key_id())],
        created_unix_ms: envelope.created_unix_ms,
        not_before_unix_ms: envelope.not_before_unix_ms,
        expires_unix_ms: envelope.expires_unix_ms,
        priority: Priority::Express.into(),
        recipient_count: 3,
        recipient_root: bytes(leaves::root(&recipients())),
        directory_version: 7,
        documents: vec![DocumentDigest { sha256: bytes(Digest::of(b"")), size: 0, inline: true }],
        warn_unix_ms: envelope.expires_unix_ms - 3 * 86_400_000,
        cargo_kept_ms: 90 * 86_400_000,
        summary_kept_ms: 400 * 86_400_000,
        consignment_root: Bytes::new(),
    };
    let at_once = Accepted {
        envelope_id: bytes([0x2a; 16]),
        not_before_unix_ms: 0,
        recipient_root: Bytes::new(),
        consignment_root: bytes(leaves::root(&deliveries())),
        documents: Vec::new(),
        ..accepted.clone()
    };
    let consigned = Consigned {
        envelope_sequence: 1,
        envelope_digest: bytes(payloads::full_digest()),
        first_recipient_index: 0,
        recipient_count: 3,
        consignment_root: bytes(leaves::root(&deliveries())),
    };
    let acknowledged = Acknowledged {
        delivery: Some(delivery()),
        attempt: 1,
        acknowledgement_digest: bytes(seal::digest(PayloadType::Acknowledgement.as_str(), &answer)),
        key_ids: vec![bytes(key(0x21).public().key_id())],
    };
    let opened = LogOpened { hub_id: "axis.test".into(), origin: ORIGIN.into(), ..LogOpened::default() };
    let until = payloads::CREATED + 121_000;
    let feed = |system: &str, feed_sequence| FeedPlace { system: system.into(), feed_sequence };
    let events = [
        ("log-opened", vec![], vec![], Event::LogOpened(opened)),
        (
            "accepted",
            vec![feed("g22", 1)],
            vec![
                cargo(CargoKind::SealedEnvelope, &sealed),
                cargo(CargoKind::RecipientList, &encoded(&recipients())),
                cargo(CargoKind::Document, b""),
            ],
            Event::Accepted(accepted),
        ),
        (
            "consigned",
            vec![feed("g22", 2)],
            vec![cargo(CargoKind::ConsignmentList, &encoded(&deliveries()))],
            Event::Consigned(consigned),
        ),
        (
            "leased",
            vec![feed("g22", 3), feed("tay-ninh", 1)],
            vec![],
            Event::Leased(Leased { delivery: Some(delivery()), attempt: 1, lease_until_unix_ms: until }),
        ),
        (
            "acknowledged",
            vec![feed("g22", 4), feed("tay-ninh", 2)],
            vec![cargo(CargoKind::SealedAcknowledgement, &sealed_answer)],
            Event::Acknowledged(acknowledged),
        ),
        ("clock-confirmed", vec![], vec![], Event::ClockConfirmed(ClockConfirmed { operator: "lan".into() })),
        (
            "accepted-at-once",
            vec![feed("g22", 5)],
            vec![
                cargo(CargoKind::SealedEnvelope, &sealed),
                cargo(CargoKind::ConsignmentList, &encoded(&deliveries())),
            ],
            Event::Accepted(at_once),
        ),
    ];
    (0..)
        .zip(events)
        .map(|(sequence, (name, feeds, cargo, event))| {
            let recorded_unix_ms = payloads::CREATED + 1_000 + sequence;
            (name, encoded(&Record { sequence, recorded_unix_ms, feeds, cargo, event: Some(event) }))
        })
        .collect()
}

fn salt(sequence: usize) -> [u8; 16] {
    [0xa0 + u8::try_from(sequence).expect("few records"); 16]
}

fn leaf_hashes() -> Vec<Hash> {
    records().iter().enumerate().map(|(n, (_, record))| tree::record_leaf(&salt(n), record)).collect()
}

pub fn all(vectors: &mut Vectors) {
    tree_hashes(vectors);
    inclusion(vectors);
    consistency(vectors);
    for (n, (name, record)) in records().iter().enumerate() {
        let members = json!({
            "salt": hex::encode(salt(n)),
            "record": hex::encode(record),
            "entry": hex::encode(tree::entry_hash(&salt(n), record)),
            "leaf_hash": hex::encode(tree::record_leaf(&salt(n), record)),
            "decoded": json::decoded("axis.record.v1.Record", record),
        });
        vectors.add(&format!("leaf/{n}-{name}"), "A record, its entry and its leaf.", "ok", members);
    }
    openings(vectors);
    checkpoints(vectors);
    proofs(vectors);
    receipts(vectors);
    false_receipts(vectors);
}

/// What RFC 6962 implementations are tested with.
fn entries() -> Vec<Vec<u8>> {
    let entries =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    entries.iter().map(|entry| hex::decode(entry).expect("hex")).collect()
}

fn rfc_leaves() -> Vec<Hash> {
    entries().iter().map(|entry| tree::leaf_hash(entry)).collect()
}

fn tree_hashes(vectors: &mut Vectors) {
    let leaves = rfc_leaves();
    let roots: Vec<Hash> = (0..=leaves.len()).map(|size| tree::root_of(&leaves[..size])).collect();
    let about =
        "The roots of the first 0, 1, … 8 of these entries (the test leaves of RFC 6962 implementations).";
    let members = json!({
        "type": "roots",
        "entries": all_hex(&entries()),
        "leaf_hashes": all_hex(&leaves),
        "roots": all_hex(&roots),
    });
    vectors.add("tree/roots", about, "ok", members);
}

fn inclusion(vectors: &mut Vectors) {
    let leaves = rfc_leaves();
    let proof = |index: usize, size: usize| {
        json!({
            "type": "inclusion",
            "index": index,
            "size": size,
            "leaf_hash": hex::encode(leaves[index]),
            "path": all_hex(&tree::inclusion_of(&leaves[..size], index)),
            "root": hex::encode(tree::root_of(&leaves[..size])),
        })
    };
    for (index, size) in [(0, 1), (0, 8), (5, 8), (2, 3), (1, 5), (4, 5), (6, 7)] {
        let name = format!("tree/inclusion-{index}-of-{size}");
        vectors.add(&name, "An inclusion proof.", "ok", proof(index, size));
    }
    let good = proof(5, 8);
    let path = good["path"].as_array().expect("a list").clone();
    for (name, about, changes) in [
        ("index", "The proof of another place.", json!({ "index": 4 })),
        ("index-beyond", "A place beyond the tree.", json!({ "index": 8 })),
        ("size", "The proof in a larger tree.", json!({ "size": 9 })),
        ("leaf", "The proof of another leaf.", json!({ "leaf_hash": hex::encode(leaves[4]) })),
        ("root", "Another root.", json!({ "root": hex::encode(tree::root_of(&leaves[..7])) })),
        ("short", "A hash is missing.", json!({ "path": path[..2] })),
        ("long", "A hash too many.", json!({ "path": (path.iter().chain(&path[..1]).collect::<Vec<_>>()) })),
        ("order", "The hashes in another order.", json!({ "path": [path[1], path[0], path[2]] })),
    ] {
        vectors.add(&format!("tree/inclusion-wrong-{name}"), about, "INCLUSION", with(&good, changes));
    }
}

fn consistency(vectors: &mut Vectors) {
    let leaves = rfc_leaves();
    let proof = |old: usize, new: usize| {
        json!({
            "type": "consistency",
            "old_size": old,
            "new_size": new,
            "old_root": hex::encode(tree::root_of(&leaves[..old])),
            "new_root": hex::encode(tree::root_of(&leaves[..new])),
            "path": all_hex(&tree::consistency_of(&leaves[..new], old)),
        })
    };
    for (old, new) in [(0, 8), (1, 1), (1, 8), (2, 5), (3, 7), (4, 8), (6, 8), (8, 8)] {
        let name = format!("tree/consistency-{old}-to-{new}");
        vectors.add(&name, "A consistency proof.", "ok", proof(old, new));
    }
    let good = proof(6, 8);
    let path = good["path"].as_array().expect("a list").clone();
    for (name, about, changes) in [
        ("old-root", "The log once had another root.", json!({ "old_root": hex::encode([9; 32]) })),
        ("new-root", "The log has another root.", json!({ "new_root": hex::encode([9; 32]) })),
        ("old-size", "The proof from another size.", json!({ "old_size": 5 })),
        ("backwards", "A log never shrinks.", json!({ "old_size": 8, "new_size": 6 })),
        ("short", "A hash is missing.", json!({ "path": path[..2] })),
        ("long", "A hash too many.", json!({ "path": (path.iter().chain(&path[..1]).collect::<Vec<_>>()) })),
        ("nothing", "No hashes at all.", json!({ "path": [] })),
    ] {
        vectors.add(&format!("tree/consistency-wrong-{name}"), about, "CONSISTENCY", with(&good, changes));
    }
}

fn opening_members(opening: &LeafOpening) -> Value {
    json!({
        "leaf": hex::encode(&opening.leaf),
        "salt": hex::encode(&opening.salt),
        "position": opening.position,
        "size": opening.size,
        "path": all_hex(&opening.path),
    })
}

fn openings(vectors: &mut Vectors) {
    for (name, about, list) in [
        ("list-recipients", "Salts, leaf hashes and root of a recipient list.", recipients()),
        ("list-deliveries", "Salts, leaf hashes and root of a consignment list.", deliveries()),
    ] {
        let salts: Vec<_> = (0..3).map(|i| leaves::salt_of(&list.secret, i)).collect();
        let hashes: Vec<_> =
            salts.iter().zip(&list.leaves).map(|(salt, leaf)| leaves::hash_of(salt, leaf)).collect();
        let members = json!({
            "type": "list",
            "secret": hex::encode(&list.secret),
            "leaves": all_hex(&list.leaves),
            "salts": all_hex(&salts),
            "leaf_hashes": all_hex(&hashes),
            "root": hex::encode(leaves::root(&list)),
        });
        vectors.add(&format!("opening/{name}"), about, "ok", members);
    }
    let good = leaves::open(&recipients(), 1).expect("three leaves");
    let root = hex::encode(leaves::root(&recipients()));
    let mut add = |name: &str, about: &str, expect: &str, opening: &LeafOpening| {
        let members = json!({ "type": "opening", "root": root, "opening": opening_members(opening) });
        vectors.add(&format!("opening/{name}"), about, expect, members);
    };
    for position in 0..3 {
        let opening = leaves::open(&recipients(), position).expect("three leaves");
        add(&format!("opening-{position}-of-3"), "One leaf, and nothing of the others.", "ok", &opening);
    }
    for (name, about, opening) in [
        ("leaf", "Another leaf.", LeafOpening { leaf: recipients().leaves[0].clone(), ..good.clone() }),
        ("salt", "Another salt.", LeafOpening { salt: vec![0; 16].into(), ..good.clone() }),
        ("short-salt", "A salt of 15 bytes.", LeafOpening { salt: good.salt.slice(..15), ..good.clone() }),
        ("position", "Another place.", LeafOpening { position: 0, ..good.clone() }),
        ("beyond", "A place beyond the list.", LeafOpening { position: 3, ..good.clone() }),
        ("path", "A hash is missing.", LeafOpening { path: good.path[..1].to_vec(), ..good.clone() }),
    ] {
        add(&format!("opening-wrong-{name}"), about, "OPENING", &opening);
    }
}

/// Adds a witness's line, which readers pass over who do not know it.
fn cosigned(note: &str) -> String {
    let line = [&[0xdf, 0x1c, 0x0a, 0x35], [7; 72].as_slice()].concat();
    format!("{note}— witness.example/w1 {}\n", STANDARD.encode(line))
}

/// A note of any text, signed by the log.
fn signed_note(text: &str, key: &SigningKey) -> String {
    let id = hex::decode(signer().verifier_key().split('+').nth(1).expect("an id")).expect("hex");
    let signature = [id.as_slice(), &key.sign(text.as_bytes())].concat();
    format!("{text}\n— {ORIGIN} {}\n", STANDARD.encode(signature))
}

fn checkpoints(vectors: &mut Vectors) {
    let log = signer().verifier_key();
    let root = tree::root_of(&leaf_hashes()[..6]);
    let note = signer().sign(6, &root);
    let mut good = |name: &str, about: &str, note: &str, root: Hash, size: u64| {
        let members = json!({
            "verifier_key": log, "note": note, "origin": ORIGIN, "size": size, "root": hex::encode(root),
        });
        vectors.add(&format!("checkpoint/{name}"), about, "ok", members);
    };
    good("six", "The head of a log of six records.", &note, root, 6);
    good(
        "empty-log",
        "Size 0 goes with the empty tree's root.",
        &signer().sign(0, &tree::empty_root()),
        tree::empty_root(),
        0,
    );
    good("cosigned", "Signatures of others are passed over.", &cosigned(&note), root, 6);
    let extended = format!("{ORIGIN}\n6\n{}\nan extension line\n", STANDARD.encode(root));
    good("extended", "Extension lines are signed and not used.", &signed_note(&extended, &key(1)), root, 6);

    let reference = json!({
        "verifier_key": "hub.example/log1+0f360218+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c",
        "note": REFERENCE,
        "origin": "hub.example/log1",
        "size": 8,
        "root": hex::encode(tree::root_of(&rfc_leaves())),
    });
    let about =
        "A checkpoint with a real cosignature, made by another implementation over the RFC 6962 leaves.";
    vectors.add("checkpoint/reference", about, "ok", reference);

    let text = |size: &str, root: &str| signed_note(&format!("{ORIGIN}\n{size}\n{root}\n"), &key(1));
    let root = STANDARD.encode(root);
    let (changed, other_root) = (note.replacen("\n6\n", "\n7\n", 1), STANDARD.encode([0; 31]));
    for (name, about, expect, note) in [
        ("changed", "Another size than was signed.", "SIGNATURE", changed),
        (
            "other-key",
            "Signed by another key under this key's id.",
            "SIGNATURE",
            signed_note(&format!("{ORIGIN}\n6\n{root}\n"), &key(2)),
        ),
        (
            "other-log",
            "Another log's, of another key.",
            "UNSIGNED",
            named("axis.test/log2", 2).sign(6, &[0; 32]),
        ),
        ("unsigned", "Only a witness signed.", "UNSIGNED", cosigned(&format!("{ORIGIN}\n6\n{root}\n\n"))),
        (
            "other-origin",
            "Signed by the log's key, but for another log.",
            "OTHER_ORIGIN",
            signed_note(&format!("axis.test/log2\n6\n{root}\n"), &key(1)),
        ),
        ("leading-zero", "A size has one form.", "CHECKPOINT", text("06", &root)),
        ("short-root", "A root of 31 bytes.", "CHECKPOINT", text("6", &other_root)),
        ("empty-log-root", "Size 0 with another root.", "CHECKPOINT", text("0", &root)),
        ("two-lines", "Without a root.", "CHECKPOINT", signed_note(&format!("{ORIGIN}\n6\n"), &key(1))),
        ("no-blank-line", "Text and signatures are not apart.", "NOTE", note.replacen("\n\n", "\n", 1)),
        ("hyphen", "A signature line begins with an em dash.", "NOTE", note.replace('—', "-")),
        ("no-last-line-end", "The last line does not end.", "NOTE", note.trim_end().to_owned()),
        (
            "carriage-return",
            "Control characters do not belong in a note.",
            "NOTE",
            note.replace('\n', "\r\n"),
        ),
        ("empty", "Nothing.", "NOTE", String::new()),
    ] {
        let members = json!({ "verifier_key": log, "note": note });
        vectors.add(&format!("checkpoint/wrong-{name}"), about, expect, members);
    }
    for (name, about, log) in [
        ("id", "Its id does not fit its name.", log.replace("log1", "log2")),
        ("base64", "Its end is missing.", log[..log.len() - 4].to_owned()),
        ("type", "Not an Ed25519 key.", format!("{ORIGIN}+00000000+{}", STANDARD.encode([2; 33]))),
    ] {
        let members = json!({ "verifier_key": log, "note": note });
        vectors.add(&format!("checkpoint/key-wrong-{name}"), about, "VERIFIER_KEY", members);
    }
}

const REFERENCE: &str = "hub.example/log1
8
XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=

— hub.example/log1 DzYCGFpW2+KWvZRrUviC4x9wcWzIBWx91LYUkNizsf43NHZxFaXYhtmxi9PuXAHOOyQn03hNrQZPgm9/5YldloYh7wI=
— witness.example/w1 3xwKNQAAAABlU/EAIL71ezIX3Q0bcRStDSefmyDshzpttqx+bRYEbbrYNrS9zJZtMol8Cs998uvrKhgTFUlbdaJeWTuPgg3ntCmbDg==
";

fn proofs(vectors: &mut Vectors) {
    let hashes = &leaf_hashes()[..6];
    let good = TlogProof {
        extra: salt(1).to_vec(),
        index: 1,
        hashes: tree::inclusion_of(hashes, 1),
        checkpoint: signer().sign(6, &tree::root_of(hashes)),
    };
    let reference = TlogProof {
        extra: vec![],
        index: 5,
        hashes: tree::inclusion_of(&rfc_leaves(), 5),
        checkpoint: REFERENCE.to_owned(),
    };
    let first =
        TlogProof { extra: vec![], index: 0, hashes: vec![], checkpoint: signer().sign(1, &hashes[0]) };
    for (name, about, proof) in [
        ("salted", "A proof with a salt as its extra line.", &good),
        ("reference", "A proof without extra line, made by another implementation.", &reference),
        ("only-leaf", "In a log of one record nothing is needed to find the root.", &first),
    ] {
        let members = json!({
            "proof": proof.to_string(),
            "extra": hex::encode(&proof.extra),
            "index": proof.index,
            "hashes": all_hex(&proof.hashes),
            "checkpoint": proof.checkpoint,
        });
        vectors.add(&format!("proof/{name}"), about, "ok", members);
    }
    let text = good.to_string();
    let many = TlogProof { hashes: vec![[0; 32]; 64], ..good.clone() }.to_string();
    for (name, about, text) in [
        ("empty", "Nothing.", String::new()),
        ("version", "Another version.", text.replace("@v1", "@v2")),
        ("index-form", "An index has one form.", text.replace("index 1", "index 01")),
        ("no-index", "Without index.", text.replace("index 1\n", "")),
        ("extra-base64", "The extra line is not base64.", text.replacen("extra ", "extra !", 1)),
        ("extra-last", "The extra line stands after the index.", {
            let extra = text.lines().nth(1).expect("an extra line");
            text.replacen(&format!("{extra}\nindex 1\n"), &format!("index 1\n{extra}\n"), 1)
        }),
        ("short-hash", "A hash of 31 bytes.", {
            text.replace(&STANDARD.encode(good.hashes[0]), &STANDARD.encode(&good.hashes[0][..31]))
        }),
        ("many-hashes", "64 hashes.", many),
        (
            "no-checkpoint",
            "Without checkpoint.",
            text.split_inclusive("\n\n").next().expect("a head").to_owned(),
        ),
        ("carriage-return", "Lines end in one character.", text.replace('\n', "\r\n")),
    ] {
        vectors.add(&format!("proof/wrong-{name}"), about, "PROOF", json!({ "proof": text }));
    }
}

/// The receipt of a record at a size of the log.
fn receipt_of(sequence: usize, size: usize) -> Receipt {
    let hashes = &leaf_hashes()[..size];
    let checkpoint = signer().sign(size as u64, &tree::root_of(hashes));
    let path = tree::inclusion_of(hashes, sequence);
    receipt::make(records()[sequence].1.clone(), &salt(sequence), sequence as u64, path, checkpoint)
}

fn receipt_members(receipt: &Receipt) -> Value {
    let log = signer().verifier_key();
    let members = json!({
        "verifier_key": log,
        "record": hex::encode(&receipt.record),
        "proof": receipt.proof,
        "encoded": hex::encode(receipt.encode_to_vec()),
    });
    let members = match &receipt.opening {
        Some(opening) => with(&members, json!({ "opening": opening_members(opening) })),
        None => members,
    };
    let log = CheckpointVerifier::parse(&log).expect("a key");
    let Ok(verified) = receipt::verify(receipt, &log) else { return members };
    let decoded = json::decoded("axis.record.v1.Record", &receipt.record);
    let members = with(&members, json!({ "decoded": decoded, "size": verified.checkpoint.size }));
    let opened = match verified.opened {
        Some(OpenedLeaf::Recipient(leaf)) => json::decoded("axis.record.v1.RecipientLeaf", &encoded(&leaf)),
        Some(OpenedLeaf::Consignment(leaf)) => {
            json::decoded("axis.record.v1.ConsignmentLeaf", &encoded(&leaf))
        }
        None => return members,
    };
    with(&members, json!({ "opened": opened }))
}

fn opened(receipt: Receipt, opening: Option<LeafOpening>) -> Receipt {
    assert!(opening.is_some(), "three leaves");
    Receipt { opening, ..receipt }
}

fn receipts(vectors: &mut Vectors) {
    let mut add = |name: &str, about: &str, receipt: Receipt| {
        vectors.add(&format!("receipt/{name}"), about, "ok", receipt_members(&receipt));
    };
    for (sequence, (name, _)) in records().iter().enumerate() {
        let size = (sequence + 1).max(6);
        add(&format!("{sequence}-{name}"), "The receipt of a record.", receipt_of(sequence, size));
    }
    add("0-alone", "The first record under the first checkpoint.", receipt_of(0, 1));
    add("1-earlier", "The same record under an earlier checkpoint.", receipt_of(1, 2));
    let about = "A recipient's proof: its own leaf, and nobody else's.";
    add("1-accepted-opened", about, opened(receipt_of(1, 6), leaves::open(&recipients(), 1)));
    let about = "A recipient's proof of when the delivery became visible, and under which number.";
    add("2-consigned-opened", about, opened(receipt_of(2, 6), leaves::open(&deliveries(), 1)));
    add("6-accepted-at-once-opened", about, opened(receipt_of(6, 7), leaves::open(&deliveries(), 1)));
    let mut receipt = receipt_of(1, 6);
    let mut proof: TlogProof = receipt.proof.parse().expect("a proof");
    proof.checkpoint = cosigned(&proof.checkpoint);
    receipt.proof = proof.to_string();
    add("1-cosigned", "Signatures of witnesses change nothing.", receipt);
}

fn false_receipts(vectors: &mut Vectors) {
    let good = receipt_of(1, 6);
    let proof: TlogProof = good.proof.parse().expect("a proof");
    let mut bad = |name: &str, about: &str, expect: &str, receipt: Receipt| {
        vectors.add(&format!("receipt/wrong-{name}"), about, expect, receipt_members(&receipt));
    };
    let with_proof = |proof: TlogProof| Receipt { proof: proof.to_string(), ..good.clone() };
    let with_record = |record: Vec<u8>| Receipt { record: record.into(), ..good.clone() };

    bad("record-cut-off", "The record's last byte is missing.", "RECORD", {
        with_record(good.record[..good.record.len() - 1].to_vec())
    });
    bad("record-changed", "One letter of the sender is another.", "INCLUSION", {
        let at = good.record.windows(3).position(|window| window == b"G22").expect("the sender");
        let mut record = good.record.to_vec();
        record[at + 2] = b'3';
        with_record(record)
    });
    bad("record-extended", "An unknown field was added.", "INCLUSION", {
        with_record([good.record.as_ref(), &[0xfa, 0x3f, 0]].concat())
    });
    bad(
        "record-of-other",
        "The proof of record 1 with record 2.",
        "INDEX",
        with_record(records()[2].1.to_vec()),
    );
    bad(
        "proof",
        "The proof is no proof.",
        "PROOF",
        Receipt { proof: "c2sp.org/tlog-proof@v1\n".into(), ..good.clone() },
    );
    bad("salt", "Another salt.", "INCLUSION", with_proof(TlogProof { extra: vec![0; 16], ..proof.clone() }));
    bad(
        "salt-short",
        "A salt of 15 bytes.",
        "SALT",
        with_proof(TlogProof { extra: vec![0xa1; 15], ..proof.clone() }),
    );
    bad("salt-missing", "Without a salt.", "SALT", with_proof(TlogProof { extra: vec![], ..proof.clone() }));
    bad(
        "index",
        "The proof names another place.",
        "INDEX",
        with_proof(TlogProof { index: 0, ..proof.clone() }),
    );
    bad("path", "A hash of the path is another.", "INCLUSION", {
        let mut hashes = proof.hashes.clone();
        hashes[0][0] ^= 1;
        with_proof(TlogProof { hashes, ..proof.clone() })
    });
    let root = tree::root_of(&leaf_hashes()[..6]);
    for (name, about, expect, checkpoint) in [
        ("key", "Another key signed under the log's name.", "CHECKPOINT", named(ORIGIN, 2).sign(6, &root)),
        ("origin", "Another log's checkpoint.", "CHECKPOINT", named("axis.test/log2", 1).sign(6, &root)),
        (
            "checkpoint-changed",
            "A size that was not signed.",
            "CHECKPOINT",
            proof.checkpoint.replacen("\n6\n", "\n7\n", 1),
        ),
        ("checkpoint-early", "The log was smaller then.", "INCLUSION", signer().sign(1, &leaf_hashes()[0])),
    ] {
        bad(name, about, expect, with_proof(TlogProof { checkpoint, ..proof.clone() }));
    }

    let recipient = leaves::open(&recipients(), 1).expect("three leaves");
    let opened = |opening: LeafOpening| Receipt { opening: Some(opening), ..good.clone() };
    let other = encoded(&RecipientLeaf { recipient_index: 1, agency: "G18".into(), kind: 1 });
    bad(
        "opening",
        "A leaf that is not in the list.",
        "OPENING",
        opened(LeafOpening { leaf: other, ..recipient.clone() }),
    );
    bad("opening-salt", "A leaf with another salt.", "OPENING", {
        opened(LeafOpening { salt: vec![0; 16].into(), ..recipient.clone() })
    });
    bad("opening-size", "A list of another length than the record says.", "OPENING", {
        opened(LeafOpening { size: 4, ..recipient.clone() })
    });
    let delivery = leaves::open(&deliveries(), 1).expect("three leaves");
    bad("opening-of-other", "A leaf of another record's list.", "OPENING", opened(delivery));
    bad("opening-of-plain", "A record without a list.", "OPENING", {
        Receipt { opening: Some(recipient.clone()), ..receipt_of(3, 6) }
    });
    bad("opening-of-at-once", "A recipient's leaf, where the record binds deliveries.", "OPENING", {
        Receipt { opening: Some(recipient), ..receipt_of(6, 7) }
    });
    let text = without(&receipt_members(&good), &["decoded", "size"]);
    let other_log = with(&text, json!({ "verifier_key": named("axis.test/log2", 2).verifier_key() }));
    let about = "A true receipt, but of a log that is not trusted here.";
    vectors.add("receipt/wrong-log", about, "CHECKPOINT", other_log);
}
