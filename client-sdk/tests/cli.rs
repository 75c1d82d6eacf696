//! What `axis` says and how it ends when no hub is in reach: transcripts that
//! are documentation too. The rest is in the demo and the situations.

use std::process::Command;

use axis_client::{
    Evidence,
    proto::{
        envelope::v1::Acknowledgement,
        id::Digest,
        key::SigningKey,
        note::CheckpointSigner,
        record::v1::{
            Acknowledged, Cargo, CargoKind, ClockConfirmed, Delivery, DirectoryChanged, DirectoryEntry,
            Record, SigningKey as HeldKey, directory_entry::Value, record::Event,
        },
        seal::{self, PayloadType},
        tree,
    },
    receipt,
};
use prost::Message as _;

/// Runs `axis` in a home; what it prints to stdout and stderr, and its status.
fn axis(home: &str, arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_axis"))
        .args(arguments)
        .env("AXIS_HOME", home)
        .env("LC_ALL", "C")
        .env_remove("AXIS_LOG")
        .output()
        .expect("axis starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("axis speaks UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code().expect("axis ends by itself"))
}

#[track_caller]
fn check(home: &str, arguments: &[&str], status: i32, stderr: &str) {
    let (out, err, found) = axis(home, arguments);
    assert_eq!((out.as_str(), err.as_str(), found), ("", stderr, status), "axis {}", arguments.join(" "));
}

#[test]
fn a_home_that_is_not_enrolled() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home").display().to_string();
    check(
        &home,
        &["receive"],
        4,
        &format!(
            "error: {home} holds no identity\n\
             hint: ask the hub's operators for a token, then: axis enroll TOKEN\n"
        ),
    );
    check(
        &home,
        &["--lang", "vi", "send", "--from", "G22", "--to", "H53", "--subject", "x", "a.pdf"],
        4,
        &format!(
            "lỗi: {home} chưa được ghi danh\n\
             gợi ý: xin đơn vị vận hành trục mã ghi danh, rồi: axis enroll MÃ\n"
        ),
    );
    let (out, _, status) = axis(&home, &["--json", "feed"]);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((out["status"].as_u64(), status), (Some(4), 4));
}

#[test]
fn a_token_that_is_none() {
    check(
        "/nowhere",
        &["enroll", "axis2-abc"],
        2,
        "error: this is no enrolment token: an enrolment token begins with `axis1-`\n\
         hint: paste the whole line that `axis-hub system add` or `axis-hub system token` printed\n",
    );
}

#[test]
fn wrong_usage() {
    for arguments in [
        &["send", "--from", "not a code", "--to", "H53", "--subject", "x", "a"][..],
        &["send", "--from", "G22", "--to", "H53", "--subject", "x"],
        &["send", "--from", "G22", "--priority", "soon", "--subject", "x", "a"],
        &["enroll"],
        &["enroll", "--signing-key"],
        &["track", "12"],
        &["receive", "--max", "0"],
        &["fly"],
    ] {
        let (_, _, status) = axis("/nowhere", arguments);
        assert_eq!(status, 2, "axis {}", arguments.join(" "));
    }
}

#[test]
fn help_in_both_languages() {
    let (out, _, status) = axis("/nowhere", &["--help"]);
    assert!(status == 0 && out.contains("Exit status: 0 done"), "{out}");
    let (out, _, status) = axis("/nowhere", &["--lang", "vi", "verify", "--help"]);
    assert!(status == 0 && out.contains("Kiểm tra biên nhận"), "{out}");
}

#[test]
fn receipts_verify_offline() {
    let folder = tempfile::tempdir().unwrap();
    let log = CheckpointSigner::new("hub.test/log", SigningKey::from_seed(&[1; 32])).unwrap();
    let event = Event::ClockConfirmed(ClockConfirmed { operator: "o".into() });
    let record = Record { event: Some(event), ..Record::default() };
    let record = record.encode_to_vec();
    let checkpoint = log.sign(1, &tree::record_leaf(&[7; 16], &record));
    let made = axis_client::proto::receipt::make(record.into(), &[7; 16], 0, Vec::new(), checkpoint);
    let name = receipt::save(&made, 0, folder.path()).unwrap();
    let good = folder.path().join(name).display().to_string();
    let bad = folder.path().join("bad.receipt.json").display().to_string();
    let text = std::fs::read_to_string(&good).unwrap();
    std::fs::write(&bad, text.replacen("\"record\": \"", "\"record\": \"EAE", 1)).unwrap();

    let (key, home) = (log.verifier_key(), folder.path().join("home").display().to_string());
    let (out, err, status) = axis(&home, &["verify", "--key", &key, &good]);
    let expected = format!("{good}: valid · record 0 of hub.test/log · – · clock_confirmed\n");
    assert_eq!((out.as_str(), err.as_str(), status), (expected.as_str(), "", 0));
    let (out, _, status) = axis(&home, &["--lang", "vi", "verify", "--key", &key, &good, &bad]);
    assert!(status == 6 && out.contains("KHÔNG hợp lệ"), "{out}");
    check(
        &home,
        &["verify", &good],
        4,
        &format!(
            "error: no log key: the home {home} holds none\n\
             hint: axis verify --key VKEY with the key that the hub publishes\n"
        ),
    );
}

/// What G18 signed as record 1 of a log, with its key in record 0.
fn signed_answer(log: &CheckpointSigner, key: &SigningKey) -> Evidence {
    let digest = |digest: Digest| digest.as_ref().to_vec();
    let key_id = key.public().key_id().as_ref().to_vec();
    let held = HeldKey {
        key_id: key_id.clone().into(),
        public_key: key.public().as_bytes().to_vec().into(),
        system: "moh".into(),
        ..HeldKey::default()
    };
    let enrolled = DirectoryChanged {
        entries: vec![DirectoryEntry { value: Some(Value::SigningKey(held)) }],
        ..DirectoryChanged::default()
    };
    let said = Acknowledgement {
        delivery_id: "7-2".into(),
        recipient: "G18".into(),
        reference: "4567".into(),
        ..Acknowledgement::default()
    };
    let sealed = seal::seal(PayloadType::Acknowledgement, said.encode_to_vec(), &[key]);
    let acknowledged = Acknowledged {
        delivery: Some(Delivery {
            envelope_sequence: 7,
            recipient_index: 2,
            agency: "G18".into(),
            system: "moh".into(),
            ..Delivery::default()
        }),
        acknowledgement_digest: digest(seal::digest(&sealed.payload_type, &sealed.payload)).into(),
        key_ids: vec![key_id.into()],
        ..Acknowledged::default()
    };
    let sealed = sealed.encode_to_vec();
    let cargo = Cargo {
        kind: CargoKind::SealedAcknowledgement.into(),
        sha256: digest(Digest::of(&sealed)).into(),
        size: sealed.len() as u64,
    };
    let records = [
        Record { event: Some(Event::DirectoryChanged(enrolled)), ..Record::default() },
        Record {
            sequence: 1,
            cargo: vec![cargo],
            event: Some(Event::Acknowledged(acknowledged)),
            ..Record::default()
        },
    ]
    .map(|record| record.encode_to_vec());
    let leaves: Vec<_> = records.iter().map(|record| tree::record_leaf(&[7; 16], record)).collect();
    let checkpoint = log.sign(2, &tree::root_of(&leaves));
    let [key, answer] = [0, 1].map(|index| {
        let path = tree::inclusion_of(&leaves, index);
        let record = records[index].clone().into();
        axis_client::proto::receipt::make(record, &[7; 16], index as u64, path, checkpoint.clone())
    });
    Evidence { sealed: sealed.into(), keys: vec![key], ..Evidence::of(answer) }
}

#[test]
fn whose_key_signed_is_verified_offline() {
    let folder = tempfile::tempdir().unwrap();
    let log = CheckpointSigner::new("hub.test/log", SigningKey::from_seed(&[1; 32])).unwrap();
    let signer = SigningKey::from_seed(&[2; 32]);
    let evidence = signed_answer(&log, &signer);
    let (key, home) = (log.verifier_key(), folder.path().join("home").display().to_string());
    let check = |evidence: &Evidence, status: i32, expected: &str| {
        let name = receipt::save_evidence(evidence, 1, folder.path()).unwrap();
        let file = folder.path().join(name).display().to_string();
        let (out, err, found) = axis(&home, &["verify", "--key", &key, &file]);
        assert_eq!((out, err, found), (format!("{file}: {expected}\n"), String::new(), status));
        axis(&home, &["verify", "--json", "--key", &key, &file]).0
    };
    let line = "valid · record 1 of hub.test/log · – · acknowledged delivery=7-2 agency=G18 system=moh";
    let key_id = signer.public().key_id();
    let said = format!("{line}\n  signed by {key_id} of G18, a key of system moh");
    let json: serde_json::Value = serde_json::from_str(&check(&evidence, 0, &said)).unwrap();
    let by = serde_json::json!({ "agency": "G18", "system": "moh", "key_ids": [key_id.to_string()] });
    assert_eq!(json["signed_by"], by);

    let alone = Evidence::of(evidence.receipt.clone());
    let said =
        format!("{line}\n  this is the hub's word; what G18 signed is not in the file: axis track --signed");
    let json: serde_json::Value = serde_json::from_str(&check(&alone, 0, &said)).unwrap();
    assert_eq!(json["signed_by"], serde_json::Value::Null);

    let forged =
        Evidence { sealed: signed_answer(&log, &SigningKey::from_seed(&[3; 32])).sealed, ..evidence };
    check(
        &forged,
        6,
        "NOT valid: signature does not verify: the signed bytes are not those that the record binds",
    );
}

/// An enrolled home, as far as commands without a hub look at it.
fn enrolled(folder: &std::path::Path, log: &CheckpointSigner) -> String {
    let home = folder.join("home");
    std::fs::create_dir(&home).unwrap();
    let profile = format!(
        "system_id = \"tayninh\"\nhub_id = \"hub.test\"\nhub_address = \"127.0.0.1:1\"\n\
         log_verifier_key = \"{}\"\nauthority_key_sha256 = \"{}\"\nagencies = [\"H53\"]\n",
        log.verifier_key(),
        "00".repeat(32)
    );
    std::fs::write(home.join("axis.toml"), profile).unwrap();
    home.display().to_string()
}

#[test]
fn the_log_that_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let log = CheckpointSigner::new("hub.test/log", SigningKey::from_seed(&[1; 32])).unwrap();
    let (home, key) = (enrolled(folder.path(), &log), log.verifier_key());
    let (out, err, status) = axis(&home, &["log", "show"]);
    let expected = format!("hub.test/log: the hub's log now, proven up to 0 records\n  key {key}\n");
    assert_eq!((out.as_str(), err.as_str(), status), (expected.as_str(), "", 0));
    check(
        &home,
        &["log", "accept", "--key", "nonsense"],
        2,
        "error: this is no log key: not a verifier key: `<name>+<8 hex>+<base64>` of an Ed25519 key\n\
         hint: axis verify --key VKEY with the key that the hub publishes\n",
    );
    check(
        "/nowhere",
        &["log", "show"],
        4,
        "error: /nowhere holds no identity\n\
         hint: ask the hub's operators for a token, then: axis enroll TOKEN\n",
    );
}

#[test]
fn a_log_with_two_histories() {
    let folder = tempfile::tempdir().unwrap();
    let log = CheckpointSigner::new("hub.test/log", SigningKey::from_seed(&[1; 32])).unwrap();
    let home = enrolled(folder.path(), &log);
    let base64 = [("q6ur", "q6s="), ("zc3N", "zc0=")].map(|(whole, end)| whole.repeat(10) + end);
    let head = |size: u64, root: &str| serde_json::json!({ "origin": "hub.test/log", "size": size, "root": root, "note": "signed" });
    let book = serde_json::json!({
        "format": 1,
        "logs": [{ "verifier_key": log.verifier_key(), "trusted_by": "enrolment", "head": head(7, &base64[0]) }],
        "fork": { "remembered": head(7, &base64[0]), "shown": head(5, &base64[1]) },
    });
    std::fs::write(folder.path().join("home/log.json"), book.to_string()).unwrap();
    let (out, err, status) = axis(&home, &["log", "show"]);
    assert!(out.contains("proven up to 7 records"), "{out}");
    let expected = format!(
        "error: the hub's log has two histories: it has shown hub.test/log of 7 records with root \
         abababababababab…, and then hub.test/log of 5 records with root cdcdcdcdcdcdcdcd…\n\
         hint: do not go on; send {home}/log.json to the hub's operators: it holds both, signed. \
         Once they have given you the key of the right log: axis log accept --key VKEY\n"
    );
    assert_eq!((err.as_str(), status), (expected.as_str(), 6));
    let (_, err, status) = axis(&home, &["--lang", "vi", "log", "show"]);
    assert!(status == 6 && err.contains("hai lịch sử khác nhau"), "{err}");
}
