//! Whatever comes, nothing panics, and what was changed is noticed.

use axis_proto::{
    envelope::v1::{SealedEnvelope, Signature},
    key::SigningKey,
    leaves,
    note::{CheckpointSigner, CheckpointVerifier},
    proof::TlogProof,
    receipt,
    record::v1::{LeafOpening, Receipt, Record},
    seal::{self, PayloadType},
    shape,
    token::EnrolmentToken,
    tree,
};
use proptest::{collection::vec, prelude::*};
use prost::Message as _;

fn signer() -> CheckpointSigner {
    CheckpointSigner::new("axis.test/log1", SigningKey::from_seed(&[1; 32])).unwrap()
}

fn good_receipt() -> Receipt {
    let record = Record { sequence: 1, recorded_unix_ms: 5, ..Record::default() }.encode_to_vec();
    let leaves = [[3; 32], tree::record_leaf(&[7; 16], &record), [4; 32]];
    let checkpoint = signer().sign(3, &tree::root_of(&leaves));
    receipt::make(record.into(), &[7; 16], 1, tree::inclusion_of(&leaves, 1), checkpoint)
}

/// Text that looks nearly right, or not at all.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~\n—]{0,200}",
        "(axis1-)?[a-z2-7]{0,160}",
        "c2sp.org/tlog-proof@v1\n[ -~\n]{0,99}"
    ]
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..400)) {
        if let Ok(envelope) = shape::decode_envelope(&bytes) {
            shape::envelope(&envelope);
        }
        if let Ok(acknowledgement) = shape::decode_acknowledgement(&bytes) {
            shape::acknowledgement(&acknowledgement);
        }
        if let Ok(rejection) = shape::decode_rejection(&bytes) {
            shape::rejection(&rejection);
        }
        if let Ok(receipt) = Receipt::decode(bytes.as_slice()) {
            prop_assert!(receipt::verify(&receipt, &signer().verifier()).is_err());
        }
    }

    #[test]
    fn any_text(text in text()) {
        let _ = CheckpointVerifier::parse(&text);
        prop_assert!(signer().verifier().verify(&text).is_err());
        prop_assert!(text.parse::<EnrolmentToken>().is_err());
        if let Ok(proof) = text.parse::<TlogProof>() {
            prop_assert_eq!(proof.to_string().parse::<TlogProof>(), Ok(proof));
        }
    }

    #[test]
    fn any_seal(payload in vec(any::<u8>(), 0..9), keyid in "[0-9a-f]{62,66}", sig in vec(any::<u8>(), 62..66)) {
        let signatures = vec![Signature { sig: sig.into(), keyid }];
        let payload_type = PayloadType::Envelope.as_str().to_owned();
        let sealed = SealedEnvelope { payload: payload.into(), payload_type, signatures };
        let key = SigningKey::from_seed(&[2; 32]).public();
        prop_assert!(seal::open(&sealed, PayloadType::Envelope, &mut |_| Some(key)).is_err());
    }

    #[test]
    fn any_opening(leaf in vec(any::<u8>(), 0..9), position: u32, size: u32, path in vec(vec(any::<u8>(), 31..34), 0..70)) {
        let path = path.into_iter().map(Into::into).collect();
        let opening = LeafOpening { leaf: leaf.into(), salt: vec![0; 16].into(), position, size, path };
        prop_assert!(!leaves::verify_opening(&opening, &[9; 32]));
    }

    #[test]
    fn a_changed_byte_of_the_record(at in 0usize..4, bit in 0u8..8) {
        let mut receipt = good_receipt();
        let mut record = receipt.record.to_vec();
        let at = at % record.len();
        record[at] ^= 1 << bit;
        receipt.record = record.into();
        prop_assert!(receipt::verify(&receipt, &signer().verifier()).is_err());
    }

    #[test]
    fn a_changed_character_of_the_proof(at in 0usize..1000) {
        let receipt = good_receipt();
        let mut proof: Vec<char> = receipt.proof.chars().collect();
        let at = at % proof.len();
        proof[at] = if proof[at] == 'A' { 'B' } else { 'A' };
        let changed = Receipt { proof: proof.into_iter().collect(), ..receipt };
        prop_assert!(receipt::verify(&changed, &signer().verifier()).is_err());
    }
}

#[test]
fn the_unchanged_one_holds() {
    assert!(receipt::verify(&good_receipt(), &signer().verifier()).is_ok());
}
