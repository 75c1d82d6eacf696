//! Sealed payloads, good and bad.

use axis_proto::{
    envelope::v1::SealedEnvelope,
    key::SigningKey,
    limits::PAYLOAD_BYTES_MAX,
    seal::{self, PayloadType},
};
use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use super::{Vectors, all_hex, key, payloads, with, without};

/// The order of the curve's base point, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// What opens: the seeds say how it is made again.
fn good(payload_type: PayloadType, payload: impl Into<Bytes>, seeds: &[u8]) -> Value {
    let keys: Vec<SigningKey> = seeds.iter().map(|seed| key(*seed)).collect();
    let sealed = seal::seal(payload_type, payload, &keys.iter().collect::<Vec<_>>());
    with(
        &members(&sealed, &keys),
        json!({
            "expected_type": payload_type.as_str(),
            "digest": seal::digest(&sealed.payload_type, &sealed.payload).to_string(),
            "encoded": hex::encode(sealed.encode_to_vec()),
            "seeds": seeds.iter().map(|seed| hex::encode([*seed; 32])).collect::<Vec<_>>(),
        }),
    )
}

fn members(sealed: &SealedEnvelope, known: &[SigningKey]) -> Value {
    let signature = |signature: &axis_proto::envelope::v1::Signature| json!({ "sig": hex::encode(&signature.sig), "keyid": signature.keyid });
    json!({
        "payload": hex::encode(&sealed.payload),
        "payload_type": sealed.payload_type,
        "signatures": sealed.signatures.iter().map(signature).collect::<Vec<_>>(),
        "known_keys": all_hex(&known.iter().map(|key| *key.public().as_bytes()).collect::<Vec<_>>()),
    })
}

pub fn all(vectors: &mut Vectors) {
    let envelope = payloads::full().encode_to_vec();
    let one = good(PayloadType::Envelope, envelope.clone(), &[0x11]);
    vectors.add("seal/envelope", "An envelope with one signature.", "ok", one);
    let two = good(PayloadType::Envelope, envelope, &[0x11, 0x12]);
    vectors.add(
        "seal/two-signatures",
        "The same envelope with two: its digest is the same.",
        "ok",
        two.clone(),
    );
    let acknowledgement = payloads::acknowledgement().encode_to_vec();
    let acknowledgement = good(PayloadType::Acknowledgement, acknowledgement, &[0x21]);
    vectors.add(
        "seal/acknowledgement",
        "A recipient's word that it holds the delivery.",
        "ok",
        acknowledgement.clone(),
    );
    let rejection = good(PayloadType::Rejection, payloads::rejection().encode_to_vec(), &[0x21]);
    vectors.add("seal/rejection", "A recipient's word that it cannot take the delivery.", "ok", rejection);
    let sixteen = good(PayloadType::Envelope, "sixteen", &(0x30..0x40).collect::<Vec<_>>());
    vectors.add("seal/sixteen-signatures", "As many signatures as there may be.", "ok", sixteen);

    let refused = ["digest", "encoded", "seeds"];
    let mut bad = |name: &str, about: &str, expect: &str, at: &str, changed: Value| {
        let members = with(&without(&changed, &refused), json!({ "at": at }));
        vectors.add(&format!("seal/{name}"), about, expect, members);
    };
    let two = good(PayloadType::Envelope, "two", &[0x11, 0x12]);
    let signature = |index: usize| two["signatures"][index].clone();
    let signatures = |list: Vec<Value>| with(&two, json!({ "signatures": list }));
    let second = |change: Value| signatures(vec![signature(0), with(&signature(1), change)]);

    bad(
        "empty-payload",
        "Nothing is signed.",
        "FIELD_INVALID",
        "payload",
        with(&two, json!({ "payload": "" })),
    );
    bad(
        "large-payload",
        "One byte more than 256 KiB; `payload_repeats` says how often the payload is repeated.",
        "TOO_LARGE",
        "payload",
        with(&two, json!({ "payload": "00", "payload_repeats": PAYLOAD_BYTES_MAX + 1 })),
    );
    bad(
        "changed-payload",
        "Other bytes than those that were signed.",
        "SIGNATURE_INVALID",
        "signatures[0].sig",
        with(&two, json!({ "payload": hex::encode("Two") })),
    );
    bad(
        "other-type",
        "A good acknowledgement where an envelope is expected.",
        "FIELD_INVALID",
        "payload_type",
        with(&acknowledgement, json!({ "expected_type": PayloadType::Envelope.as_str() })),
    );
    bad(
        "relabelled",
        "An acknowledgement that calls itself an envelope: the type is signed too.",
        "SIGNATURE_INVALID",
        "signatures[0].sig",
        with(
            &acknowledgement,
            json!({
                "expected_type": PayloadType::Envelope.as_str(),
                "payload_type": PayloadType::Envelope.as_str(),
            }),
        ),
    );
    bad(
        "unknown-type",
        "Types are matched exactly.",
        "FIELD_INVALID",
        "payload_type",
        with(&two, json!({ "payload_type": "Application/vnd.axis.envelope.v1+protobuf" })),
    );
    bad("no-signatures", "Nobody signed.", "FIELD_INVALID", "signatures", signatures(vec![]));
    let seventeen = good(PayloadType::Envelope, "seventeen", &(0x30..0x41).collect::<Vec<_>>());
    bad("seventeen-signatures", "One signature too many.", "TOO_LARGE", "signatures", seventeen);
    bad(
        "duplicate-key",
        "One key signs twice: keys are counted, not signatures.",
        "FIELD_INVALID",
        "signatures[1].keyid",
        signatures(vec![signature(0), signature(0)]),
    );
    bad(
        "unknown-key",
        "All signatures must verify; the second key is not known.",
        "KEY_UNKNOWN",
        "signatures[1].keyid",
        with(&two, json!({ "known_keys": [hex::encode(key(0x11).public().as_bytes())] })),
    );
    bad(
        "no-keyid",
        "A signature without a hint.",
        "FIELD_INVALID",
        "signatures[1].keyid",
        second(json!({ "keyid": "" })),
    );
    bad(
        "upper-case-keyid",
        "Hints are in lower case.",
        "FIELD_INVALID",
        "signatures[1].keyid",
        second(json!({ "keyid": key(0x12).public().key_id().to_string().to_uppercase() })),
    );
    bad(
        "swapped-keyids",
        "Each signature with the other's hint.",
        "SIGNATURE_INVALID",
        "signatures[0].sig",
        signatures(vec![
            with(&signature(0), json!({ "keyid": signature(1)["keyid"] })),
            with(&signature(1), json!({ "keyid": signature(0)["keyid"] })),
        ]),
    );
    let sig = hex::decode(signature(1)["sig"].as_str().expect("hex")).expect("hex");
    let second_sig = |sig: &[u8]| second(json!({ "sig": hex::encode(sig) }));
    let at = "signatures[1].sig";
    bad("short-signature", "63 bytes.", "FIELD_INVALID", at, second_sig(&sig[..63]));
    bad("long-signature", "65 bytes.", "FIELD_INVALID", at, second_sig(&[sig.as_slice(), &[0]].concat()));
    bad("zero-signature", "64 zero bytes.", "SIGNATURE_INVALID", at, second_sig(&[0; 64]));
    let mut flipped = sig.clone();
    flipped[0] ^= 1;
    bad(
        "bad-signature",
        "The second of two signatures is wrong.",
        "SIGNATURE_INVALID",
        at,
        second_sig(&flipped),
    );
    bad(
        "non-canonical-s",
        "S plus the order of the base point: the same equation, other bytes (RFC 8032 section 5.1.7 forbids it).",
        "SIGNATURE_INVALID",
        at,
        second_sig(&[&sig[..32], &plus_order(&sig[32..])].concat()),
    );
    bad("small-order-key", SMALL_ORDER, "SIGNATURE_INVALID", "signatures[0].sig", small_order());
}

const SMALL_ORDER: &str = "The key is the identity point, under which one signature fits every message; keys of small \
                           order verify nothing here, whatever a library says.";

/// R = B and S = 1 solve the equation for the identity as key.
fn small_order() -> Value {
    let mut identity = [0; 32];
    identity[0] = 1;
    let base = hex::decode("5866666666666666666666666666666666666666666666666666666666666666").expect("hex");
    let mut one = [0; 32];
    one[0] = 1;
    json!({
        "payload": hex::encode("any"),
        "payload_type": PayloadType::Envelope.as_str(),
        "expected_type": PayloadType::Envelope.as_str(),
        "signatures": [{
            "sig": hex::encode([base.as_slice(), &one].concat()),
            "keyid": axis_proto::id::KeyId::of_public_key(&identity).to_string(),
        }],
        "known_keys": [hex::encode(identity)],
    })
}

fn plus_order(s: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let sum = s.iter().zip(ORDER).map(|(left, right)| {
        let sum = u16::from(*left) + u16::from(right) + carry;
        carry = sum >> 8;
        sum.to_le_bytes()[0]
    });
    sum.collect()
}
