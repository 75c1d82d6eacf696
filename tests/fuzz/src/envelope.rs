//! From a sealed message to what the machine records of it.

use axis_hub::{
    admit::{admit, admit_acknowledgement, admit_rejection},
    error::Error,
    fsck::Checker,
    journal, limits,
    machine::{self, Batch, Command, Context},
    state::read_once,
    verify::{Verified, verify},
};
use axis_proto::{
    envelope::v1::SealedEnvelope,
    id::Digest,
    record::v1::{CargoKind, Record, record::Event},
    seal::{self, PayloadType},
};
use bytes::Bytes;
use prost::Message as _;

use super::world::{DOCUMENT, NOW, WORLD, caller, random, secret};

/// The first byte says which kind of payload and whether the rest is one, to
/// be sealed with the caller's key, or a sealed message as it came.
pub fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let kind = PayloadType::ALL[usize::from(how & 3) % PayloadType::ALL.len()];
    let system = if kind == PayloadType::Envelope { "vpcp" } else { "byt" };
    let sealed = if how & 4 == 0 {
        seal::seal(kind, rest.to_vec(), &[&secret(system)])
    } else {
        let Ok(sealed) = SealedEnvelope::decode(rest) else { return };
        sealed
    };
    let verified = match verify(WORLD.ground(), &caller(system), &sealed, kind) {
        Ok(verified) => verified,
        Err(error) => return refused(&error),
    };
    // verified means: these very bytes, by a key of the caller's, of this type
    assert_eq!(verified.payload(), &sealed.payload);
    assert_eq!(sealed.payload_type, kind.as_str());
    let pae = seal::pae(kind.as_str(), &sealed.payload);
    assert_eq!(verified.signed().digest, Digest::of(&pae));
    for signature in &sealed.signatures {
        assert!(
            secret(system).public().verify_strict(&pae, &signature.sig),
            "a signature that does not hold"
        );
    }
    let kept = SealedEnvelope::decode(verified.signed().sealed.clone().into_bytes())
        .expect("what is kept can be read");
    assert_eq!(kept, sealed);

    match admitted(kind, verified) {
        Err(error) => refused(&error),
        Ok(command) => decided(kind, &command, &sealed),
    }
}

fn admitted(kind: PayloadType, verified: Verified) -> axis_hub::error::Result<Command> {
    let ground = WORLD.ground();
    let byt = caller("byt").system;
    Ok(match kind {
        PayloadType::Envelope => {
            let documents = vec![Bytes::from_static(DOCUMENT)];
            Command::Submit(admit(ground, &caller("vpcp").system, verified, documents)?.submit)
        }
        PayloadType::Acknowledgement => {
            let (acknowledgement, signed) = admit_acknowledgement(ground, &byt, verified)?;
            Command::Acknowledge { system: byt, acknowledgement, signed }
        }
        PayloadType::Rejection => {
            let (rejection, signed) = admit_rejection(ground, &byt, verified)?;
            Command::Reject { system: byt, rejection, signed }
        }
    })
}

/// What the machine makes of it binds the bytes as they came, and leaves a
/// journal in which nothing is wrong.
fn decided(kind: PayloadType, command: &Command, sealed: &SealedEnvelope) {
    let (entries, outcome) = read_once(&WORLD.state, |read| {
        let mut chance = 11;
        let mut random = random(&mut chance);
        let mut batch = Batch::new(read, WORLD.size(), Context { now_ms: NOW, random: &mut random });
        let outcome = machine::decide(&mut batch, command);
        if let Ok(first) = &outcome {
            let again = machine::decide(&mut batch, command).expect("the same again");
            assert!(again.duplicate && again.sequence() == first.sequence(), "the same is decided once");
        }
        (batch.finish().0, outcome)
    });
    match outcome {
        Err(error) => {
            assert!(entries.is_empty(), "a refusal leaves nothing");
            return refused(&error);
        }
        Ok(outcome) if outcome.duplicate => assert!(entries.is_empty()),
        Ok(_) => {
            let record = Record::decode(entries[0].record.clone()).expect("a record");
            let digest = Digest::of(&seal::pae(kind.as_str(), &sealed.payload));
            let (cargo, bound) = match record.event.expect("an event") {
                Event::Accepted(event) => (CargoKind::SealedEnvelope, Some(event.envelope_digest)),
                Event::Acknowledged(_) | Event::Rejected(_) | Event::LateAccepted(_) => {
                    (record.cargo[0].kind(), None)
                }
                other => panic!("{other:?}"),
            };
            assert!(bound.is_none_or(|bound| bound == digest.as_bytes()[..]));
            let place = record.cargo.iter().position(|named| named.kind() == cargo).expect("cargo");
            let kept = SealedEnvelope::decode(entries[0].cargo[place].clone()).expect("readable");
            assert_eq!(&kept, sealed, "not the bytes that came");
            assert!(entries.iter().all(|entry| entry.record.len() <= limits::RECORD_BYTES_MAX));
        }
    }
    if entries.is_empty() {
        return;
    }
    let before: Vec<_> = WORLD.batches.iter().flat_map(|batch| batch.entries.clone()).collect();
    let commit = WORLD.commit_after(&before, &entries);
    let mut checker = Checker::new(Some(WORLD.verifier()));
    WORLD.batches.iter().for_each(|batch| checker.batch(batch));
    checker.batch(&journal::Batch { entries, commit });
    assert_eq!(checker.violations(), [], "{command:?}");
}

/// The caller learns why; it is never our fault.
fn refused(error: &Error) {
    let Error::Refused(refusal) = error else { panic!("a fault: {error}") };
    assert!(refusal.violations.len() <= limits::VIOLATIONS_MAX);
    assert!(
        refusal.violations.iter().all(|one| !one.field.is_empty() && one.field.len() < 200),
        "{refusal:?}"
    );
}
