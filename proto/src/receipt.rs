//! Receipts: a record and the proof that it stands in the log. Verified
//! offline, from the receipt and the log's verifier key alone.

use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message as _;

use crate::{
    leaves,
    limits::RECORD_BYTES_MAX,
    note::{Checkpoint, CheckpointVerifier, NoteError},
    proof::{ProofError, TlogProof},
    record::v1::{ConsignmentLeaf, LeafOpening, Receipt, RecipientLeaf, Record, record::Event},
    tree::{self, Hash},
};

/// What a receipt proves. Made by [`verify`] alone.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VerifiedReceipt {
    /// The record.
    pub record: Record,
    /// Its place in the log, which is its sequence.
    pub index: u64,
    /// The head of the log that it was proven under.
    pub checkpoint: Checkpoint,
    /// The leaf that was opened, if one was.
    pub opened: Option<OpenedLeaf>,
}

/// One leaf of a list whose root the record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenedLeaf {
    /// Of an Accepted record: one recipient.
    Recipient(RecipientLeaf),
    /// Of a Consigned record, or of an Accepted one that made the envelope
    /// visible: one delivery.
    Consignment(ConsignmentLeaf),
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The record's bytes are no record.
    #[error("the record cannot be read")]
    Record,
    /// The proof's text is no proof.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The salt has not 16 bytes.
    #[error("the proof's extra line is not a salt of 16 bytes")]
    Salt,
    /// The proof is about another place than the record's.
    #[error("the record is number {sequence}, the proof is about number {index}")]
    Index {
        /// The record's sequence.
        sequence: u64,
        /// The proof's index.
        index: u64,
    },
    /// The checkpoint does not hold.
    #[error("the checkpoint does not hold: {0}")]
    Checkpoint(#[from] NoteError),
    /// The record is not in the log that the checkpoint speaks of.
    #[error("the record is not in the log")]
    Inclusion,
    /// The opened leaf does not belong to the record.
    #[error("the opened leaf does not belong to the record")]
    Opening,
}

impl ReceiptError {
    /// The name that the test vectors use.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Record => "RECORD",
            Self::Proof(_) => "PROOF",
            Self::Salt => "SALT",
            Self::Index { .. } => "INDEX",
            Self::Checkpoint(_) => "CHECKPOINT",
            Self::Inclusion => "INCLUSION",
            Self::Opening => "OPENING",
        }
    }
}

/// Puts a receipt together.
pub fn make(record: Bytes, salt: &[u8; 16], index: u64, hashes: Vec<Hash>, checkpoint: String) -> Receipt {
    // a line of 45 for each hash, 3 short ones before them
    let mut text = String::with_capacity(128 + 45 * hashes.len() + checkpoint.len());
    let proof = TlogProof { extra: salt.to_vec(), index, hashes, checkpoint };
    write!(text, "{proof}").expect("a string takes all");
    Receipt { record, proof: text, opening: None }
}

/// Verifies a receipt: the record can be read, the proof is about its place,
/// the log signed the checkpoint, the record is in the log, and what is
/// opened belongs to the record.
pub fn verify(receipt: &Receipt, log: &CheckpointVerifier) -> Result<VerifiedReceipt, ReceiptError> {
    if receipt.record.len() > RECORD_BYTES_MAX {
        return Err(ReceiptError::Record);
    }
    let record = Record::decode(receipt.record.clone()).map_err(|_| ReceiptError::Record)?;
    let proof: TlogProof = receipt.proof.parse()?;
    let salt: &[u8; 16] = proof.extra.as_slice().try_into().map_err(|_| ReceiptError::Salt)?;
    if record.sequence != proof.index {
        return Err(ReceiptError::Index { sequence: record.sequence, index: proof.index });
    }
    let checkpoint = log.verify(&proof.checkpoint)?;
    let leaf = tree::record_leaf(salt, &receipt.record);
    if !tree::verify_inclusion(proof.index, checkpoint.size, &leaf, &proof.hashes, &checkpoint.root) {
        return Err(ReceiptError::Inclusion);
    }
    let opened = match &receipt.opening {
        None => None,
        Some(opening) => Some(open(&record, opening).ok_or(ReceiptError::Opening)?),
    };
    Ok(VerifiedReceipt { record, index: proof.index, checkpoint, opened })
}

/// The leaf of an opening that leads to the record's own root.
fn open(record: &Record, opening: &LeafOpening) -> Option<OpenedLeaf> {
    let (first, count, root) = match record.event.as_ref()? {
        Event::Accepted(accepted) if accepted.consignment_root.is_empty() => {
            let leaf = RecipientLeaf::decode(opening.leaf.clone()).ok()?;
            let whole = opening.size == accepted.recipient_count && opening.position == leaf.recipient_index;
            let leads = whole && leads_to(opening, &accepted.recipient_root);
            return leads.then_some(OpenedLeaf::Recipient(leaf));
        }
        Event::Accepted(accepted) => (0, accepted.recipient_count, &accepted.consignment_root),
        Event::Consigned(it) => (it.first_recipient_index, it.recipient_count, &it.consignment_root),
        _ => return None,
    };
    let leaf = ConsignmentLeaf::decode(opening.leaf.clone()).ok()?;
    let whole = opening.size == count && first.checked_add(opening.position) == Some(leaf.recipient_index);
    (whole && leads_to(opening, root)).then_some(OpenedLeaf::Consignment(leaf))
}

fn leads_to(opening: &LeafOpening, root: &[u8]) -> bool {
    root.try_into().is_ok_and(|root| leaves::verify_opening(opening, root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::SigningKey,
        note::CheckpointSigner,
        record::v1::{Accepted, ClockConfirmed, Consigned, LeafList},
    };

    fn signer() -> CheckpointSigner {
        CheckpointSigner::new("hub.example/log1", SigningKey::from_seed(&[1; 32])).unwrap()
    }

    fn list(leaves: Vec<Bytes>) -> LeafList {
        LeafList { secret: vec![3; 32].into(), leaves }
    }

    fn recipients() -> LeafList {
        let leaf =
            |index: u32| RecipientLeaf { recipient_index: index, agency: format!("G{index}"), kind: 1 };
        list((0..3).map(|index| leaf(index).encode_to_vec().into()).collect())
    }

    fn deliveries() -> LeafList {
        let leaf = |index: u32| ConsignmentLeaf {
            recipient_index: index,
            agency: format!("G{index}"),
            system: "s".into(),
            mailbox_sequence: 1,
            kind: 1,
        };
        list((512..514).map(|index| leaf(index).encode_to_vec().into()).collect())
    }

    /// A receipt for `event` as record 2 of a log of 5.
    fn receipt(event: Event) -> Receipt {
        let record = Record { sequence: 2, event: Some(event), ..Record::default() }.encode_to_vec();
        let mut hashes: Vec<Hash> = (0..5).map(|leaf| tree::leaf_hash(&[leaf])).collect();
        hashes[2] = tree::record_leaf(&[9; 16], &record);
        let checkpoint = signer().sign(5, &tree::root_of(&hashes));
        make(record.into(), &[9; 16], 2, tree::inclusion_of(&hashes, 2), checkpoint)
    }

    fn accepted() -> Receipt {
        let root = Bytes::copy_from_slice(&leaves::root(&recipients()));
        receipt(Event::Accepted(Accepted { recipient_count: 3, recipient_root: root, ..Accepted::default() }))
    }

    fn check(receipt: &Receipt) -> Result<Option<OpenedLeaf>, &'static str> {
        let verified = verify(receipt, &signer().verifier());
        verified.map(|verified| verified.opened).map_err(|error| error.name())
    }

    fn with_proof(change: impl FnOnce(&mut TlogProof)) -> Receipt {
        let mut receipt = accepted();
        let mut proof: TlogProof = receipt.proof.parse().unwrap();
        change(&mut proof);
        receipt.proof = proof.to_string();
        receipt
    }

    #[test]
    fn a_receipt_proves_its_record() {
        let verified = verify(&accepted(), &signer().verifier()).unwrap();
        assert_eq!((verified.index, verified.record.sequence, verified.checkpoint.size), (2, 2, 5));
        let kind_of_later_release = Receipt { record: vec![0x08, 2, 0xfa, 0x3f, 0].into(), ..accepted() };
        assert_eq!(check(&kind_of_later_release), Err("INCLUSION"));
    }

    #[test]
    fn what_proves_nothing() {
        assert_eq!(check(&Receipt { record: vec![0xff].into(), ..accepted() }), Err("RECORD"));
        assert_eq!(check(&Receipt { record: vec![0; 16 * 1024 + 1].into(), ..accepted() }), Err("RECORD"));
        assert_eq!(check(&Receipt { proof: String::new(), ..accepted() }), Err("PROOF"));
        assert_eq!(check(&with_proof(|proof| proof.extra.truncate(15))), Err("SALT"));
        assert_eq!(check(&with_proof(|proof| proof.extra[0] ^= 1)), Err("INCLUSION"));
        assert_eq!(check(&with_proof(|proof| proof.index = 3)), Err("INDEX"));
        assert_eq!(check(&with_proof(|proof| proof.hashes[0][0] ^= 1)), Err("INCLUSION"));
        assert_eq!(
            check(&with_proof(|proof| proof.checkpoint = signer().sign(6, &[0; 32]))),
            Err("INCLUSION")
        );
        let mut tampered = accepted();
        tampered.record = [tampered.record.as_ref(), &[0x10, 1]].concat().into();
        assert_eq!(check(&tampered), Err("INCLUSION"));
        let other = CheckpointSigner::new("hub.example/log1", SigningKey::from_seed(&[2; 32])).unwrap();
        assert!(matches!(verify(&accepted(), &other.verifier()), Err(ReceiptError::Checkpoint(_))));
    }

    #[test]
    fn openings() {
        let opened = |receipt: Receipt, opening| check(&Receipt { opening, ..receipt });
        for position in 0..3 {
            let leaf = opened(accepted(), leaves::open(&recipients(), position)).unwrap();
            assert!(matches!(leaf, Some(OpenedLeaf::Recipient(leaf)) if leaf.recipient_index == position));
        }
        let root = Bytes::copy_from_slice(&leaves::root(&deliveries()));
        let mut consigned =
            Consigned { first_recipient_index: 512, recipient_count: 2, ..Consigned::default() };
        consigned.consignment_root = root;
        let consigned = receipt(Event::Consigned(consigned));
        let leaf = opened(consigned.clone(), leaves::open(&deliveries(), 1)).unwrap();
        assert!(matches!(leaf, Some(OpenedLeaf::Consignment(leaf)) if leaf.recipient_index == 513));

        assert_eq!(opened(consigned, leaves::open(&recipients(), 0)), Err("OPENING"));

        let at_once = |list: &LeafList| {
            let consignment_root = Bytes::copy_from_slice(&leaves::root(list));
            receipt(Event::Accepted(Accepted { recipient_count: 2, consignment_root, ..Accepted::default() }))
        };
        let from_the_first = list(
            (0..2)
                .map(|index| ConsignmentLeaf { recipient_index: index, ..ConsignmentLeaf::default() })
                .map(|leaf| leaf.encode_to_vec().into())
                .collect(),
        );
        let leaf = opened(at_once(&from_the_first), leaves::open(&from_the_first, 1)).unwrap();
        assert!(matches!(leaf, Some(OpenedLeaf::Consignment(leaf)) if leaf.recipient_index == 1));
        let of_a_later_range = opened(at_once(&deliveries()), leaves::open(&deliveries(), 1));
        assert_eq!(of_a_later_range, Err("OPENING"));
        assert_eq!(opened(at_once(&from_the_first), leaves::open(&recipients(), 0)), Err("OPENING"));
        assert_eq!(opened(accepted(), leaves::open(&deliveries(), 0)), Err("OPENING"));
        let plain = receipt(Event::ClockConfirmed(ClockConfirmed { operator: "o".into() }));
        assert_eq!(opened(plain, leaves::open(&recipients(), 0)), Err("OPENING"));
        let mut wrong = leaves::open(&recipients(), 0).unwrap();
        wrong.size = 4;
        assert_eq!(opened(accepted(), Some(wrong)), Err("OPENING"));
    }
}
