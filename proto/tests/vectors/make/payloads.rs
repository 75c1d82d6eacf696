//! Payloads and what they say: envelopes, acknowledgements, rejections.

use axis_proto::{
    envelope::v1::{
        Acknowledgement, Document, DocumentBody, DocumentMetadata, DocumentReference, Envelope,
        EnvelopeReference, Priority, Recipient, RecipientKind, Rejection, RejectionReason, Signer, Thread,
        envelope::Body,
    },
    id::Digest,
    seal::{self, PayloadType},
    shape::{self, ShapeError},
};
use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use super::{Vectors, with};
use crate::json;

/// When the story begins: 2026-03-02T01:30:00Z.
pub const CREATED: u64 = 1_772_415_000_000;

fn id(text: &str) -> Bytes {
    hex::decode(text).expect("hex").into()
}

/// An envelope with everything in it.
pub fn full() -> Envelope {
    Envelope {
        envelope_id: id("019cabe86d407b3e9a556d1f6f0a3c11"),
        hub_id: "axis.test".into(),
        sender: "G22".into(),
        recipients: vec![
            Recipient { agency: "H53".into(), kind: RecipientKind::To.into() },
            Recipient { agency: "000.00.13.H53".into(), kind: RecipientKind::Cc.into() },
        ],
        groups: vec!["so-ban.h53".into()],
        created_unix_ms: CREATED,
        not_before_unix_ms: CREATED + 60_000,
        expires_unix_ms: CREATED + 14 * 86_400_000,
        priority: Priority::Express.into(),
        thread: Some(Thread {
            in_reply_to: Some(EnvelopeReference {
                sender: "H53".into(),
                envelope_id: id("019ca6c1f2c07c219f0e1122334455aa"),
            }),
            references: vec![EnvelopeReference {
                sender: "G18".into(),
                envelope_id: id("019ca19b78407d32a1b2c3d4e5f60718"),
            }],
        }),
        body: Some(Body::Document(DocumentBody {
            metadata: Some(metadata()),
            documents: vec![
                file("Công văn 1234-VPCP-TTĐT.pdf", "application/pdf", b"%PDF-1.7 stands for a file"),
                file(
                    "phụ lục.xlsx",
                    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
                    b"",
                ),
            ],
        })),
    }
}

fn metadata() -> DocumentMetadata {
    DocumentMetadata {
        document_id: "vb-2026-001234".into(),
        code_number: "1234".into(),
        code_notation: "VPCP-TTĐT".into(),
        promulgation_place: "Hà Nội".into(),
        promulgation_date: "2026-03-02".into(),
        document_type: 2,
        document_type_detail: 9,
        document_type_name: "Công văn".into(),
        subject: "V/v triển khai gửi, nhận văn bản điện tử".into(),
        content: "Đề nghị Ủy ban nhân dân tỉnh báo cáo.".into(),
        signer: Some(Signer {
            competence: "TL. BỘ TRƯỞNG".into(),
            position: "Chánh Văn phòng".into(),
            full_name: "Nguyễn Văn Ánh".into(),
        }),
        due_date: "2026-03-31".into(),
        to_places: vec!["Như trên".into(), "Lưu: VT, TTĐT".into()],
        sphere_of_promulgation: "Lưu hành nội bộ".into(),
        typer_notation: "NVA".into(),
        promulgation_amount: 5,
        page_amount: 2,
        appendixes: vec!["Phụ lục I".into()],
        response_for: vec![DocumentReference {
            agency: "H53".into(),
            code: "77/UBND-VP".into(),
            document_id: "tn-77".into(),
            promulgation_date: "2026-02-20".into(),
        }],
        steering_type: Some(0),
        task_codes: vec!["NV-2026-15".into()],
    }
}

fn file(name: &str, media_type: &str, content: &[u8]) -> Document {
    Document {
        name: name.into(),
        media_type: media_type.into(),
        size: content.len() as u64,
        sha256: Bytes::copy_from_slice(Digest::of(content).as_bytes()),
        description: String::new(),
    }
}

/// An envelope with what it must have and no more.
fn least() -> Envelope {
    let metadata = DocumentMetadata { subject: "V/v họp".into(), ..DocumentMetadata::default() };
    let body = DocumentBody { metadata: Some(metadata), documents: vec![file("a.txt", "text/plain", b"a")] };
    Envelope {
        envelope_id: id("019cabe86d407b3e9a556d1f6f0a3c12"),
        hub_id: "axis.test".into(),
        sender: "G22".into(),
        recipients: vec![Recipient { agency: "H53".into(), kind: 0 }],
        created_unix_ms: CREATED,
        body: Some(Body::Document(body)),
        ..Envelope::default()
    }
}

/// The identity of the full envelope.
pub fn full_digest() -> Digest {
    seal::digest(PayloadType::Envelope.as_str(), &full().encode_to_vec())
}

/// Tây Ninh holds the full envelope.
pub fn acknowledgement() -> Acknowledgement {
    Acknowledgement {
        hub_id: "axis.test".into(),
        delivery_id: "1-1".into(),
        envelope_digest: Bytes::copy_from_slice(full_digest().as_bytes()),
        recipient: "H53".into(),
        mailbox_sequence: 2,
        acknowledged_unix_ms: CREATED + 120_000,
        reference: "Số đến 456".into(),
    }
}

/// Or it cannot take it.
pub fn rejection() -> Rejection {
    Rejection {
        hub_id: "axis.test".into(),
        delivery_id: "1-1".into(),
        envelope_digest: Bytes::copy_from_slice(full_digest().as_bytes()),
        recipient: "H53".into(),
        mailbox_sequence: 2,
        rejected_unix_ms: CREATED + 120_000,
        reason: RejectionReason::Other.into(),
        explanation: "Văn bản không có nội dung.".into(),
    }
}

/// What a payload vector says. Files of bytes that cannot be read have
/// nothing decoded.
fn members(kind: PayloadType, payload: &[u8]) -> (String, Value) {
    let (name, message, checked) = match kind {
        PayloadType::Envelope => {
            let checked = shape::decode_envelope(payload).map(|message| shape::envelope(&message));
            ("envelope", "axis.envelope.v1.Envelope", checked)
        }
        PayloadType::Acknowledgement => {
            let checked =
                shape::decode_acknowledgement(payload).map(|message| shape::acknowledgement(&message));
            ("acknowledgement", "axis.envelope.v1.Acknowledgement", checked)
        }
        PayloadType::Rejection => {
            let checked = shape::decode_rejection(payload).map(|message| shape::rejection(&message));
            ("rejection", "axis.envelope.v1.Rejection", checked)
        }
    };
    let errors = checked.unwrap_or_else(|error| vec![error]);
    let violation = |error: &ShapeError| json!({ "field": error.field, "reason": error.reason.short_name() });
    let members = json!({
        "type": name,
        "payload_type": kind.as_str(),
        "payload": hex::encode(payload),
        "digest": seal::digest(kind.as_str(), payload).to_string(),
        "violations": errors.iter().map(violation).collect::<Vec<_>>(),
    });
    let found = errors.first().map_or("ok", |error| error.reason.short_name());
    let members = match json::decoded(message, payload) {
        Some(decoded) => with(&members, json!({ "decoded": decoded })),
        None => members,
    };
    (found.to_owned(), members)
}

pub fn all(vectors: &mut Vectors) {
    let mut add = |kind: PayloadType, name: &str, about: &str, expect: &str, payload: Vec<u8>| {
        let (found, members) = members(kind, &payload);
        assert_eq!(found, expect, "payload/{name}");
        vectors.add(&format!("payload/{name}"), about, expect, members);
    };
    let mut envelope = |name: &str, about: &str, expect: &str, payload: Vec<u8>| {
        add(PayloadType::Envelope, &format!("envelope-{name}"), about, expect, payload);
    };
    envelope("full", "An envelope with everything in it.", "ok", full().encode_to_vec());
    envelope("least", "An envelope with what it must have.", "ok", least().encode_to_vec());
    let unknown = [least().encode_to_vec(), vec![0xfa, 0x3f, 3, b'n', b'e', b'w']].concat();
    envelope("unknown-field", "A later field, 1023: it is signed, kept and passed on.", "ok", unknown);
    let reordered = {
        let (head, tail) =
            (Envelope { body: None, ..least() }, Envelope { body: least().body, ..Envelope::default() });
        [tail.encode_to_vec(), head.encode_to_vec()].concat()
    };
    let about =
        "The body first: protobuf allows any order, so bytes are never made again from what was read.";
    envelope("reordered", about, "ok", reordered);
    envelope_refusals(&mut envelope);

    let kind = PayloadType::Acknowledgement;
    let good = acknowledgement();
    add(kind, "acknowledgement", "An acknowledgement.", "ok", good.encode_to_vec());
    let about = "Nothing that is required.";
    add(kind, "acknowledgement-empty", about, "FIELD_INVALID", Acknowledgement::default().encode_to_vec());
    let long = Acknowledgement { reference: "x".repeat(257), ..good.clone() };
    add(kind, "acknowledgement-long-reference", "257 bytes.", "TOO_LARGE", long.encode_to_vec());
    let other = Acknowledgement { delivery_id: "12".into(), ..good };
    let about = "The delivery's id is none.";
    add(kind, "acknowledgement-delivery-id", about, "FIELD_INVALID", other.encode_to_vec());

    let kind = PayloadType::Rejection;
    let good = rejection();
    add(kind, "rejection", "A rejection in its own words.", "ok", good.encode_to_vec());
    let plain = Rejection {
        reason: RejectionReason::WrongAddressee.into(),
        explanation: String::new(),
        ..good.clone()
    };
    add(kind, "rejection-plain", "A rejection whose reason says it all.", "ok", plain.encode_to_vec());
    let silent = Rejection { explanation: String::new(), ..good.clone() };
    add(kind, "rejection-unexplained", "OTHER without words.", "FIELD_INVALID", silent.encode_to_vec());
    let none = Rejection { reason: 0, ..good.clone() };
    add(kind, "rejection-no-reason", "Without a reason.", "FIELD_INVALID", none.encode_to_vec());
    let unknown = Rejection { reason: 99, ..good };
    add(
        kind,
        "rejection-unknown-reason",
        "A reason that nobody knows.",
        "FIELD_INVALID",
        unknown.encode_to_vec(),
    );
}

fn envelope_refusals(add: &mut impl FnMut(&str, &str, &str, Vec<u8>)) {
    let whole = least().encode_to_vec();
    add("cut-off", "Its last byte is missing.", "MALFORMED", whole[..whole.len() - 1].to_vec());
    add("not-protobuf", "Text instead of a message.", "MALFORMED", b"not a message".to_vec());
    add("not-utf-8", "A text field with other bytes.", "MALFORMED", vec![0x12, 2, 0xc3, 0x28]);

    let mut bad = |name: &str, about: &str, expect: &str, change: &dyn Fn(&mut Envelope)| {
        let mut envelope = least();
        change(&mut envelope);
        add(name, about, expect, envelope.encode_to_vec());
    };
    let recipient = |agency: &str| Recipient { agency: agency.into(), kind: 0 };
    let invalid = "FIELD_INVALID";
    bad("empty", "Nothing that is required.", invalid, &|e| *e = Envelope::default());
    bad("uuid-v4", "Its id is a UUID of version 4.", invalid, &|e| {
        e.envelope_id = id("0192f0c18f5a4b3e9a556d1f6f0a3c11")
    });
    bad("hub-id", "The hub's name is none.", invalid, &|e| e.hub_id = "Axis!".into());
    bad("sender", "The sender's code is none.", invalid, &|e| e.sender = "G-22".into());
    bad("nobody", "Neither recipients nor groups.", "RECIPIENTS_EMPTY", &|e| e.recipients.clear());
    bad("recipient-twice", "An agency is named twice.", "RECIPIENT_DUPLICATE", &|e| {
        e.recipients = vec![recipient("H53"), recipient("G18"), recipient("H53")];
    });
    bad("recipient-code", "The second code is none.", invalid, &|e| e.recipients.push(recipient("H53..01")));
    bad("recipient-kind", "A kind that nobody knows.", invalid, &|e| e.recipients[0].kind = 9);
    bad("many-groups", "17 groups.", "TOO_LARGE", &|e| e.groups = (0..17).map(|n| format!("g{n}")).collect());
    bad("group-id", "A group's id is none.", invalid, &|e| e.groups = vec!["Everyone".into()]);
    bad("no-created", "It does not say when it was made.", invalid, &|e| e.created_unix_ms = 0);
    bad("expires-before-created", "It ends when it begins.", invalid, &|e| e.expires_unix_ms = CREATED);
    bad("expires-late", "More than 366 days.", invalid, &|e| {
        e.expires_unix_ms = CREATED + 366 * 86_400_000 + 1
    });
    bad("not-before-expiry", "Visible only when it expires.", invalid, &|e| {
        (e.not_before_unix_ms, e.expires_unix_ms) = (CREATED + 5, CREATED + 5);
    });
    bad(
        "not-before-default-expiry",
        "The same with the 30 days that hold if nothing is said.",
        invalid,
        &|e| {
            e.not_before_unix_ms = CREATED + 30 * 86_400_000;
        },
    );
    bad("priority", "An urgency that nobody knows.", invalid, &|e| e.priority = 6);
    bad("reference", "An earlier envelope's id has 15 bytes.", invalid, &|e| {
        let in_reply_to = Some(EnvelopeReference { sender: "H53".into(), envelope_id: vec![1; 15].into() });
        e.thread = Some(Thread { in_reply_to, references: vec![] });
    });
    bad("no-body", "It carries nothing.", invalid, &|e| e.body = None);

    let mut bad_body = |name: &str, about: &str, expect: &str, change: &dyn Fn(&mut DocumentBody)| {
        bad(name, about, expect, &|envelope| {
            if let Some(Body::Document(body)) = &mut envelope.body {
                change(body);
            }
        });
    };
    bad_body("no-metadata", "It does not say what it is.", invalid, &|body| body.metadata = None);
    bad_body("no-files", "The manifest is empty.", invalid, &|body| body.documents.clear());
    bad_body("many-files", "101 files.", "TOO_LARGE", &|body| {
        body.documents = (0..101).map(|n| file(&n.to_string(), "a/b", b"")).collect();
    });
    bad_body("file-name-twice", "Two files of one name.", invalid, &|body| {
        body.documents.push(file("a.txt", "text/plain", b"b"));
    });
    bad_body("file-path", "A file's name is a path.", invalid, &|body| {
        body.documents[0].name = "../a".into()
    });
    bad_body("file-name-control", "A line end in a name.", invalid, &|body| {
        body.documents[0].name = "a\nb".into()
    });
    bad_body("file-name-long", "A name of 256 bytes.", "TOO_LARGE", &|body| {
        body.documents[0].name = "ă".repeat(128)
    });
    bad_body("media-type", "Without media type.", invalid, &|body| body.documents[0].media_type.clear());
    bad_body("file-size", "More than 16 GiB.", "TOO_LARGE", &|body| body.documents[0].size = (16 << 30) + 1);
    bad_body("file-digest", "A digest of 31 bytes.", invalid, &|body| {
        body.documents[0].sha256.truncate(31);
    });
    let mut bad_metadata = |name: &str, about: &str, expect: &str, change: &dyn Fn(&mut DocumentMetadata)| {
        bad_body(name, about, expect, &|body| body.metadata.iter_mut().for_each(change));
    };
    bad_metadata("no-subject", "Without subject.", invalid, &|metadata| metadata.subject.clear());
    bad_metadata("long-subject", "4 097 bytes.", "TOO_LARGE", &|metadata| {
        metadata.subject = "x".repeat(4097)
    });
    bad_metadata("no-such-day", "29 February 2026.", invalid, &|metadata| {
        metadata.due_date = "2026-02-29".into()
    });
    bad_metadata("date-form", "A date as people write it.", invalid, &|m| {
        m.promulgation_date = "02/03/2026".into()
    });
    bad_metadata("signer-without-name", "A signer with a position only.", invalid, &|metadata| {
        metadata.signer = Some(Signer { position: "Chánh Văn phòng".into(), ..Signer::default() });
    });
    bad_metadata("many-places", "101 places.", "TOO_LARGE", &|m| m.to_places = vec!["x".into(); 101]);
}
