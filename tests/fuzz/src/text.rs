//! What people and peers hand over as text or as small messages.

use axis_proto::{
    envelope::v1::{Acknowledgement, Envelope, Rejection},
    id::{AgencyCode, DeliveryId, Digest, EnvelopeId, GroupId, HubId, KeyId, SystemId},
    note::CheckpointVerifier,
    proof::TlogProof,
    receipt,
    record::v1::Receipt,
    shape,
    token::EnrolmentToken,
};
use prost::Message;

use super::world::WORLD;

/// The first byte says what the rest claims to be.
pub fn run(input: &[u8]) {
    let Some((what, rest)) = input.split_first() else { return };
    if let Ok(text) = std::str::from_utf8(rest) {
        match what % 14 {
            0 => same::<AgencyCode>(text),
            1 => same::<SystemId>(text),
            2 => same::<HubId>(text),
            3 => same::<GroupId>(text),
            4 => same::<EnvelopeId>(text),
            5 => same::<DeliveryId>(text),
            6 => same::<Digest>(text),
            7 => same::<KeyId>(text),
            8 => same::<EnrolmentToken>(text),
            9 => same::<TlogProof>(text),
            10 => {
                if let Ok(key) = CheckpointVerifier::parse(text) {
                    assert_eq!(key.verifier_key(), text);
                }
            }
            _ => {}
        }
    }
    match what % 14 {
        11 => checkpoint(rest),
        12 => {
            if let Ok(verified) = Receipt::decode(rest)
                .map_err(drop)
                .and_then(|receipt| receipt::verify(&receipt, &WORLD.verifier()).map_err(drop))
            {
                let entries = WORLD.batches.iter().flat_map(|batch| &batch.entries);
                let known = entries
                    .into_iter()
                    .any(|entry| Message::encode_to_vec(&verified.record) == entry.record[..]);
                assert!(known, "a receipt for what was never recorded");
            }
        }
        13 => {
            shaped(shape::decode_envelope(rest), shape::envelope as fn(&Envelope) -> _);
            shaped(shape::decode_acknowledgement(rest), shape::acknowledgement as fn(&Acknowledgement) -> _);
            shaped(shape::decode_rejection(rest), shape::rejection as fn(&Rejection) -> _);
        }
        _ => {}
    }
}

/// A checkpoint of the log, changed: where, with what.
fn checkpoint(changes: &[u8]) {
    let mut note = WORLD.batches[3].commit.checkpoint.clone().into_bytes();
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) % note.len();
        note[at] = change[1];
    }
    let Ok(note) = String::from_utf8(note) else { return };
    if let Ok(checkpoint) = WORLD.verifier().verify(&note) {
        let mut signed = WORLD.batches.iter().map(|batch| (batch.commit.size, batch.commit.root));
        let known = signed.any(|commit| commit == (checkpoint.size, checkpoint.root));
        assert!(known, "a checkpoint that was never signed: {checkpoint:?}");
    }
}

/// What can be read writes itself so that it reads the same again.
fn same<T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str)
where
    T::Err: std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(read) => {
            let again = read.to_string().parse::<T>();
            assert!(again.is_ok_and(|again| again == read), "{read:?}");
        }
        Err(error) => assert!(error.to_string().len() < 1_000),
    }
}

fn shaped<M: Message + Default + PartialEq>(
    decoded: Result<M, shape::ShapeError>,
    check: fn(&M) -> Vec<shape::ShapeError>,
) {
    let Ok(message) = decoded else { return };
    let errors = check(&message);
    assert!(errors.iter().all(|error| !error.field.is_empty()));
    // the same message says the same
    let again = M::decode(&message.encode_to_vec()[..]).expect("what was encoded");
    assert!(again == message);
    assert_eq!(check(&again).len(), errors.len());
}
