//! Makes every vector: the same bytes each time, from fixed keys, ids and
//! times. Each holds one story's part: the Government Office (G22) writes to
//! Tây Ninh (H53) and one of its units.

mod evidence;
mod payloads;
mod seals;
mod succession;

use std::collections::BTreeMap;

use axis_proto::{
    hub::v1::Reason,
    id::{Digest, SystemId},
    key::{SigningKey, spki},
    seal::{self, PayloadType},
    token::{self, EnrolmentToken},
};
use serde_json::{Map, Value, json};

/// Files by name.
pub struct Vectors(BTreeMap<String, String>);

/// Every vector.
pub fn all() -> BTreeMap<String, String> {
    let mut vectors = Vectors(BTreeMap::new());
    ids(&mut vectors);
    keys(&mut vectors);
    paes(&mut vectors);
    seals::all(&mut vectors);
    payloads::all(&mut vectors);
    evidence::all(&mut vectors);
    succession::all(&mut vectors);
    tokens(&mut vectors);
    key_proofs(&mut vectors);
    let about = "What each reason asks of the caller, and the gRPC status code that carries it.";
    vectors.add("reason/table", about, "ok", json!({ "reasons": reason_table() }));
    vectors.0
}

impl Vectors {
    /// Adds a file: what it is about, what is expected, and its members.
    fn add(&mut self, name: &str, about: &str, expect: &str, members: Value) {
        let Value::Object(mut file) = members else { panic!("{name}: members are an object") };
        file.insert("about".to_owned(), json!(about));
        file.insert("expect".to_owned(), json!(expect));
        let text = format!("{:#}\n", Value::Object(file));
        assert!(self.0.insert(format!("{name}.json"), text).is_none(), "{name} twice");
    }
}

/// An object with some members changed or added.
fn with(object: &Value, changes: Value) -> Value {
    let (Value::Object(mut object), Value::Object(changes)) = (object.clone(), changes) else {
        panic!("both are objects")
    };
    object.extend(changes);
    Value::Object(object)
}

/// An object without some members: what a refused vector does not have.
fn without(object: &Value, members: &[&str]) -> Value {
    let Value::Object(object) = object.clone() else { panic!("an object") };
    object.into_iter().filter(|(name, _)| !members.contains(&name.as_str())).collect::<Map<_, _>>().into()
}

/// The key of a seed of 32 equal bytes.
fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn all_hex<T: AsRef<[u8]>>(list: &[T]) -> Vec<String> {
    list.iter().map(hex::encode).collect()
}

fn ids(vectors: &mut Vectors) {
    let long = |length: usize| "a".repeat(length);
    let mut add = |kind: &str, good: &[&str], bad: &[&str]| {
        let members = |texts: &[&str]| json!({ "type": kind, "texts": texts });
        vectors.add(&format!("id/{kind}-good"), "Each of these is one.", "ok", members(good));
        vectors.add(&format!("id/{kind}-bad"), "None of these is one.", "FIELD_INVALID", members(bad));
    };
    add(
        "agency_code",
        &[
            "G22",
            "H53",
            "H37.02.02",
            "000.00.13.H53",
            "000.00.01.A53",
            "777.77.03.D77",
            "g22",
            "1",
            &long(35),
        ],
        &[
            "",
            ".",
            "G22.",
            ".G22",
            "H37..02",
            "H37 02",
            "H37-02",
            "H37_02",
            "Đ22",
            "G22\n",
            " G22",
            &long(36),
        ],
    );
    add(
        "system_id",
        &["g22", "tay-ninh-2", "a", "a-", &long(32)],
        &["", "2a", "-a", "G22", "a.b", "a_b", "tây-ninh", "a ", &long(33)],
    );
    add("group_id", &["everyone", "so-ban.h53", &long(64)], &["", ".a", "1a", "A", "a_b", "a b", &long(65)]);
    add("hub_id", &["axis.test", "1", "a-b", &long(64)], &["", "Axis", "a/b", "a b", "trục", &long(65)]);
    add(
        "delivery_id",
        &["0-0", "12-0", "18446744073709551615-4294967295"],
        &[
            "",
            "-",
            "12",
            "12-",
            "-1",
            "+1-0",
            "1-01",
            "01-1",
            "1-0-0",
            " 1-0",
            "1-4294967296",
            "18446744073709551616-0",
        ],
    );

    let id = "0192f0c1-8f5a-7b3e-9a55-6d1f6f0a3c11";
    let members = json!({
        "type": "envelope_id",
        "texts": [id, id.to_uppercase()],
        "bytes": [id.replace('-', ""), id.replace('-', "")],
    });
    vectors.add("id/envelope_id-good", "UUIDs of version 7, and the bytes that travel.", "ok", members);
    let bad = ["", "0192f0c18f5a7b3e9a556d1f6f0a3c11", "0192f0c1-8f5a-4b3e-9a55-6d1f6f0a3c11", "{0192f0c1}"];
    let members = json!({ "type": "envelope_id", "texts": bad });
    vectors.add("id/envelope_id-bad", "Without hyphens, of version 4, or no UUID.", "FIELD_INVALID", members);
    let bad = [
        "",
        "0192f0c18f5a7b3e9a556d1f6f0a3c",
        "0192f0c18f5a7b3e9a556d1f6f0a3c1111",
        "0192f0c18f5a4b3e9a556d1f6f0a3c11",
        "0192f0c18f5a7b3e1a556d1f6f0a3c11",
        "00000000000000000000000000000000",
    ];
    let about = "Bytes of another length, version or variant.";
    let members = json!({ "type": "envelope_id_bytes", "texts": bad });
    vectors.add("id/envelope_id_bytes-bad", about, "FIELD_INVALID", members);
}

fn keys(vectors: &mut Vectors) {
    for (name, seed) in [
        ("rfc8032", hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")),
        ("seed-07", Ok(vec![7; 32])),
    ] {
        let seed: [u8; 32] = seed.expect("hex").try_into().expect("32 bytes");
        let key = SigningKey::from_seed(&seed);
        let message = "Công văn số 12".as_bytes();
        let about = "An Ed25519 key: its id, its file (PKCS#8 v1) and a signature that it makes.";
        vectors.add(
            &format!("key/{name}"),
            about,
            "ok",
            json!({
                "seed": hex::encode(seed),
                "public_key": hex::encode(key.public().as_bytes()),
                "spki": hex::encode(spki(key.public().as_bytes())),
                "key_id": key.public().key_id().to_string(),
                "pem": key.to_pem().to_string(),
                "message": hex::encode(message),
                "signature": hex::encode(key.sign(message)),
            }),
        );
    }
}

fn paes(vectors: &mut Vectors) {
    for (name, about, kind, payload) in [
        ("dsse", "DSSE's own example.", "http://example.com/HelloWorld", b"hello world".as_slice()),
        ("empty", "Nothing at all; never accepted, but encoded all the same.", "", b""),
        ("bytes", "Lengths count bytes, and any byte may follow.", "đ", b"\x00\xff 12 "),
        ("envelope", "Two bytes as an envelope.", PayloadType::Envelope.as_str(), b"\x0a\x00"),
        (
            "acknowledgement",
            "The same bytes as an acknowledgement.",
            PayloadType::Acknowledgement.as_str(),
            b"\x0a\x00",
        ),
        ("rejection", "The same bytes as a rejection.", PayloadType::Rejection.as_str(), b"\x0a\x00"),
    ] {
        vectors.add(
            &format!("pae/{name}"),
            about,
            "ok",
            json!({
                "payload_type": kind,
                "payload": hex::encode(payload),
                "pae": hex::encode(seal::pae(kind, payload)),
                "digest": seal::digest(kind, payload).to_string(),
            }),
        );
    }
}

fn tokens(vectors: &mut Vectors) {
    let token =
        EnrolmentToken::new("axis.example:7444", Digest::of(b"authority"), [7; 16]).expect("an address");
    let text = token.to_string();
    let members = |text: &str, token: &EnrolmentToken| {
        json!({
            "token": text,
            "canonical": token.to_string(),
            "address": token.address,
            "authority_key_sha256": token.authority_key_sha256.to_string(),
            "secret": hex::encode(token.secret),
            "secret_sha256": token.secret_sha256().to_string(),
        })
    };
    vectors.add("token/good", "A token as an operator hands it over.", "ok", members(&text, &token));
    let about = "Space around a token and capitals in it are forgiven.";
    vectors.add("token/copied", about, "ok", members(&format!(" {}\n", text.to_uppercase()), &token));
    let v6 =
        EnrolmentToken::new("[2001:db8::1]:65535", Digest::of(b"other"), [0xff; 16]).expect("an address");
    vectors.add("token/ipv6", "The address is an IPv6 one.", "ok", members(&v6.to_string(), &v6));

    let address = EnrolmentToken { address: "axis.example".into(), ..token.clone() }.to_string();
    let mistyped = text.replacen("axis1-", "axis1-a", 1);
    for (name, about, text) in [
        ("empty", "Nothing.", ""),
        ("other-prefix", "A later version.", &text.replacen("axis1", "axis2", 1)),
        ("cut-off", "Its last letter is missing.", &text[..text.len() - 1]),
        ("cut-short", "Only its beginning is there.", &text[..60]),
        ("mistyped", "A letter too many.", &mistyped),
        ("broken", "A line end inside.", &format!("{}\n{}", &text[..40], &text[40..])),
        ("without-port", "Its checksum is right, but its address has no port.", &address),
    ] {
        vectors.add(&format!("token/{name}"), about, "TOKEN_INVALID", json!({ "token": text }));
    }
}

fn key_proofs(vectors: &mut Vectors) {
    let key = key(0x22);
    let request = b"stands for a certificate request in DER".as_slice();
    let secret = [7; 16];
    let system: SystemId = "g22".parse().expect("an id");
    let members = |message: &[u8], request: &[u8]| {
        json!({
            "certificate_request": hex::encode(request),
            "message": hex::encode(message),
            "public_key": hex::encode(key.public().as_bytes()),
            "seed": hex::encode([0x22; 32]),
            "signature": hex::encode(key.sign(message)),
        })
    };
    let enrol = members(&token::enrol_proof_message(&secret, request), request);
    let enrol = with(&enrol, json!({ "type": "enrol", "token_secret": hex::encode(secret) }));
    vectors.add(
        "enrolment/enrol",
        "What the new key signs for EnrolRequest.signing_key_proof.",
        "ok",
        enrol.clone(),
    );
    let renew = with(
        &members(&token::renew_proof_message(&system, request), request),
        json!({ "type": "renew", "system_id": "g22" }),
    );
    vectors.add(
        "enrolment/renew",
        "What the new key signs for RenewRequest.signing_key_proof.",
        "ok",
        renew.clone(),
    );
    let key_only = with(
        &members(&token::renew_proof_message(&system, b""), b""),
        json!({ "type": "renew", "system_id": "g22" }),
    );
    vectors.add("enrolment/renew-key-only", "A new key without a new certificate.", "ok", key_only);
    let about = "The proof of an enrolment is none for a renewal.";
    let swapped = with(&renew, json!({ "signature": enrol["signature"] }));
    vectors.add("enrolment/renew-with-enrol-proof", about, "SIGNATURE_INVALID", swapped);
    let about = "The proof of another key.";
    let other = with(&enrol, json!({ "public_key": hex::encode(self::key(0x23).public().as_bytes()) }));
    vectors.add("enrolment/enrol-other-key", about, "SIGNATURE_INVALID", other);
}

/// Number, remedy and gRPC status code of every reason.
pub fn reason_table() -> Value {
    let row = |reason: &Reason| {
        json!({
            "reason": reason.short_name(),
            "number": i32::from(*reason),
            "remedy": reason.remedy().as_str_name().trim_start_matches("REMEDY_"),
            "grpc_code": i32::from(reason.grpc_code()),
        })
    };
    Reason::ALL.iter().map(row).collect()
}
