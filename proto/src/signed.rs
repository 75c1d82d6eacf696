//! What was signed, held against the record that says so: an envelope or a
//! recipient's answer, and whose keys signed it. Trusts no key but one that a
//! record of the directory names.
//!
//! That a key was within its time is the record's word alone: a record's stamp
//! never goes back, the hub's clock may. So is that no later record revoked a
//! key before it signed: [`verify_proven`] goes by the records it is given, and
//! only one who reads the whole log (`axis-hub fsck`) can say that none is
//! missing.

use bytes::Bytes;
use prost::Message as _;

use crate::{
    envelope::v1::{Acknowledgement, Envelope, Rejection, SealedEnvelope},
    id::{Digest, KeyId},
    key::PublicKey,
    limits::SEALED_BYTES_MAX,
    receipt::VerifiedReceipt,
    record::v1::{CargoKind, Delivery, Record, SigningKey, directory_entry::Value, record::Event},
    seal::{self, PayloadType, SealError},
};

/// What somebody signed, as a record says. Made by [`verify`] and
/// [`verify_proven`] alone.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Signed {
    /// The keys that signed, in the order of the signatures.
    pub key_ids: Vec<KeyId>,
    /// The system whose keys they are.
    pub system: String,
    /// The agency that speaks: the sender, or the recipient that answers.
    pub agency: String,
    /// What was said.
    pub said: Said,
}

/// What was signed.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Said {
    /// By the sender.
    Envelope(Envelope),
    /// By a recipient: it holds the delivery.
    Acknowledgement(Acknowledgement),
    /// By a recipient: it cannot take the delivery.
    Rejection(Rejection),
}

/// Why nothing shows that somebody signed what a record says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// The record is about nothing that is signed.
    #[error("the record says of nothing that it was signed")]
    Record,
    /// The bytes are not those of the record's cargo.
    #[error("the signed bytes are not those that the record binds")]
    Cargo,
    /// The bytes are no sealed payload of its kind.
    #[error("the signed bytes cannot be read")]
    Unreadable,
    /// A signature does not hold.
    #[error("the seal does not hold: {0}")]
    Seal(#[from] SealError),
    /// A key is not the signer's.
    #[error("key {0} {1}")]
    Key(KeyId, &'static str),
    /// The record says something else than what was signed.
    #[error("the record says something else than what was signed: {0}")]
    Differs(&'static str),
}

/// What a record says that was signed.
struct Bound<'a> {
    payload_type: PayloadType,
    digest: &'a [u8],
    /// What holds it beside the record, and the keys that signed it; neither
    /// for a lease, which names the envelope alone.
    cargo: Option<(CargoKind, &'a [Bytes])>,
    /// The system whose keys they must be, where the record has it.
    system: Option<&'a str>,
    delivery: Option<&'a Delivery>,
}

impl<'a> Bound<'a> {
    fn of(record: &'a Record) -> Option<Self> {
        let answer = |delivery: &'a Option<Delivery>, payload_type, kind, digest, keys| {
            let delivery = delivery.as_ref()?;
            Some(Self {
                payload_type,
                digest,
                cargo: Some((kind, keys)),
                system: Some(&delivery.system),
                delivery: Some(delivery),
            })
        };
        let (held, refused) = (PayloadType::Acknowledgement, PayloadType::Rejection);
        match record.event.as_ref()? {
            Event::Accepted(it) => Some(Self {
                payload_type: PayloadType::Envelope,
                digest: &it.envelope_digest,
                cargo: Some((CargoKind::SealedEnvelope, &it.key_ids)),
                system: Some(&it.sender_system),
                delivery: None,
            }),
            Event::Leased(it) => Some(Self {
                payload_type: PayloadType::Envelope,
                digest: &it.delivery.as_ref()?.envelope_digest,
                cargo: None,
                system: None,
                delivery: it.delivery.as_ref(),
            }),
            Event::Acknowledged(it) => {
                let kind = CargoKind::SealedAcknowledgement;
                answer(&it.delivery, held, kind, &it.acknowledgement_digest[..], &it.key_ids[..])
            }
            Event::LateAccepted(it) => {
                let kind = CargoKind::SealedAcknowledgement;
                answer(&it.delivery, held, kind, &it.acknowledgement_digest[..], &it.key_ids[..])
            }
            Event::Rejected(it) => {
                let kind = CargoKind::SealedRejection;
                answer(&it.delivery, refused, kind, &it.rejection_digest[..], &it.key_ids[..])
            }
            _ => None,
        }
    }
}

/// The place of a record's cargo that was signed; none if it has none.
pub fn place(record: &Record) -> Option<usize> {
    let (kind, _) = Bound::of(record)?.cargo?;
    record.cargo.iter().position(|cargo| cargo.kind() == kind)
}

/// The keys that signed a record's cargo, as the record names them.
pub fn key_ids(record: &Record) -> Vec<KeyId> {
    let named = Bound::of(record).and_then(|bound| bound.cargo).map_or(&[][..], |(_, keys)| keys);
    named.iter().filter_map(|id| KeyId::from_slice(id).ok()).collect()
}

/// The key of this id that a record of the directory holds.
pub fn key_of<'a>(record: &'a Record, key_id: &KeyId) -> Option<&'a SigningKey> {
    let Some(Event::DirectoryChanged(event)) = &record.event else { return None };
    event.entries.iter().find_map(|entry| match &entry.value {
        Some(Value::SigningKey(key)) if key.key_id.as_ref() == key_id.as_ref() => Some(key),
        _ => None,
    })
}

/// Verifies that a record's signed bytes are what it says: its cargo; sealed by
/// keys of that system, which `find` gives as the directory held them then;
/// and that they say the same as the record.
pub fn verify(
    record: &Record,
    sealed: &Bytes,
    find: &mut dyn FnMut(&KeyId) -> Option<SigningKey>,
) -> Result<Signed, SignedError> {
    let bound = Bound::of(record).ok_or(SignedError::Record)?;
    if sealed.len() > SEALED_BYTES_MAX {
        return Err(SignedError::Unreadable);
    }
    if bound.cargo.is_some() {
        let named = place(record).and_then(|place| record.cargo.get(place)).ok_or(SignedError::Record)?;
        if named.size != sealed.len() as u64 || named.sha256 != Digest::of(sealed).as_bytes()[..] {
            return Err(SignedError::Cargo);
        }
    }
    let sealed = SealedEnvelope::decode(sealed.clone()).map_err(|_| SignedError::Unreadable)?;
    let mut keys = Vec::new();
    let opened = seal::open(&sealed, bound.payload_type, &mut |key_id| {
        let key = find(key_id)?;
        let public = PublicKey::from_slice(&key.public_key)?;
        keys.push(key);
        Some(public)
    })?;
    if opened.digest.as_ref() != bound.digest {
        return Err(SignedError::Differs("digest"));
    }
    if let Some((_, named)) = bound.cargo
        && !named.iter().map(Bytes::as_ref).eq(opened.key_ids.iter().map(KeyId::as_ref))
    {
        return Err(SignedError::Differs("keys"));
    }
    let said = said(record, &bound, opened.payload)?;
    let agency = match &said {
        Said::Envelope(it) => &it.sender,
        Said::Acknowledgement(it) => &it.recipient,
        Said::Rejection(it) => &it.recipient,
    }
    .clone();
    let system = bound.system.unwrap_or_else(|| keys.first().map_or("", |key| &key.system)).to_owned();
    for (key, key_id) in keys.iter().zip(&opened.key_ids) {
        let bad = |why| Err(SignedError::Key(*key_id, why));
        if key.system != system {
            return bad("is another system's");
        }
        if key.revoked_unix_ms != 0 {
            return bad("was revoked before");
        }
        if !key.agencies.is_empty() && !key.agencies.contains(&agency) {
            return bad("may not sign for that agency");
        }
    }
    Ok(Signed { key_ids: opened.key_ids, system, agency, said })
}

/// As [`verify`], with keys that records prove, all of them older than what
/// they signed was when the hub took it.
pub fn verify_proven(
    record: &Record,
    sealed: &Bytes,
    keys: &[VerifiedReceipt],
) -> Result<Signed, SignedError> {
    // a lease comes after the envelope that it names
    let taken = match &record.event {
        Some(Event::Leased(it)) => it.delivery.as_ref().map_or(0, |it| it.envelope_sequence),
        _ => record.sequence,
    };
    verify(record, sealed, &mut |key_id| {
        let older = keys.iter().filter(|key| key.index < taken);
        let held = older.filter_map(|key| Some((key.index, key_of(&key.record, key_id)?)));
        held.max_by_key(|(index, _)| *index).map(|(_, key)| key.clone())
    })
}

/// Reads what was signed, which must say the same as the record.
fn said(record: &Record, bound: &Bound<'_>, payload: Bytes) -> Result<Said, SignedError> {
    let differs = |field| Err(SignedError::Differs(field));
    let unreadable = |_| SignedError::Unreadable;
    match bound.payload_type {
        PayloadType::Envelope => {
            let envelope = Envelope::decode(payload).map_err(unreadable)?;
            if let Some(Event::Accepted(it)) = &record.event
                && (envelope.sender != it.sender || envelope.envelope_id != it.envelope_id)
            {
                return differs("sender or envelope_id");
            }
            Ok(Said::Envelope(envelope))
        }
        PayloadType::Acknowledgement => {
            let said = Acknowledgement::decode(payload).map_err(unreadable)?;
            let named = (&said.delivery_id, &said.envelope_digest, &said.recipient, said.mailbox_sequence);
            same_delivery(bound, named)?;
            Ok(Said::Acknowledgement(said))
        }
        PayloadType::Rejection => {
            let said = Rejection::decode(payload).map_err(unreadable)?;
            let named = (&said.delivery_id, &said.envelope_digest, &said.recipient, said.mailbox_sequence);
            same_delivery(bound, named)?;
            if !matches!(&record.event, Some(Event::Rejected(it)) if it.reason == said.reason) {
                return differs("reason");
            }
            Ok(Said::Rejection(said))
        }
    }
}

/// Whether an answer names the record's delivery.
fn same_delivery(
    bound: &Bound<'_>,
    (delivery_id, envelope_digest, recipient, mailbox_sequence): (&String, &Bytes, &String, u64),
) -> Result<(), SignedError> {
    let Some(delivery) = bound.delivery else { return Err(SignedError::Record) };
    let field = if *delivery_id != format!("{}-{}", delivery.envelope_sequence, delivery.recipient_index) {
        "delivery_id"
    } else if *envelope_digest != delivery.envelope_digest {
        "envelope_digest"
    } else if *recipient != delivery.agency {
        "recipient"
    } else if mailbox_sequence != delivery.mailbox_sequence {
        "mailbox_sequence"
    } else {
        return Ok(());
    };
    Err(SignedError::Differs(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::v1::RejectionReason,
        key,
        note::Checkpoint,
        record::v1::{
            Accepted, Acknowledged, Cargo, DirectoryChanged, DirectoryEntry, LateAccepted, Leased, Rejected,
        },
    };

    const DIGEST: Bytes = Bytes::from_static(&[4; 32]);

    fn secret(seed: u8) -> key::SigningKey {
        key::SigningKey::from_seed(&[seed; 32])
    }

    fn held(seed: u8) -> SigningKey {
        let public = secret(seed).public();
        SigningKey {
            key_id: Bytes::copy_from_slice(public.key_id().as_ref()),
            public_key: Bytes::copy_from_slice(public.as_bytes()),
            system: "moh".into(),
            ..SigningKey::default()
        }
    }

    fn ids(seeds: &[u8]) -> Vec<Bytes> {
        seeds.iter().map(|seed| held(*seed).key_id).collect()
    }

    fn delivery() -> Option<Delivery> {
        Some(Delivery {
            envelope_sequence: 7,
            recipient_index: 2,
            envelope_digest: DIGEST,
            agency: "G18".into(),
            system: "moh".into(),
            mailbox_sequence: 3,
        })
    }

    fn acknowledgement() -> Acknowledgement {
        Acknowledgement {
            hub_id: "hub.example".into(),
            delivery_id: "7-2".into(),
            envelope_digest: DIGEST,
            recipient: "G18".into(),
            mailbox_sequence: 3,
            ..Acknowledgement::default()
        }
    }

    /// What was signed, and what is recorded of it.
    fn case(kind: PayloadType, payload: Vec<u8>, seeds: &[u8]) -> (Record, Bytes) {
        let keys: Vec<_> = seeds.iter().map(|seed| secret(*seed)).collect();
        let sealed = seal::seal(kind, payload, &keys.iter().collect::<Vec<_>>());
        let digest = seal::digest(&sealed.payload_type, &sealed.payload);
        let digest = Bytes::copy_from_slice(digest.as_ref());
        let (key_ids, delivery) = (ids(seeds), delivery());
        let (cargo, event) = match kind {
            PayloadType::Acknowledgement => {
                let event = Acknowledged { delivery, acknowledgement_digest: digest, key_ids, attempt: 1 };
                (CargoKind::SealedAcknowledgement, Event::Acknowledged(event))
            }
            PayloadType::Rejection => {
                let reason = RejectionReason::Damaged.into();
                let event = Rejected { delivery, rejection_digest: digest, key_ids, attempt: 1, reason };
                (CargoKind::SealedRejection, Event::Rejected(event))
            }
            PayloadType::Envelope => {
                let (sender_system, sender) = ("moh".into(), "G18".into());
                let envelope_id = Bytes::from_static(&[1; 16]);
                let envelope_digest = digest;
                let event = Accepted {
                    sender_system,
                    sender,
                    envelope_id,
                    envelope_digest,
                    key_ids,
                    ..Accepted::default()
                };
                (CargoKind::SealedEnvelope, Event::Accepted(event))
            }
        };
        let sealed = Bytes::from(sealed.encode_to_vec());
        let sha256 = Bytes::copy_from_slice(Digest::of(&sealed).as_ref());
        let cargo = vec![
            Cargo { kind: CargoKind::Remark.into(), ..Cargo::default() },
            Cargo { kind: cargo.into(), sha256, size: sealed.len() as u64 },
        ];
        (Record { sequence: 9, cargo, event: Some(event), ..Record::default() }, sealed)
    }

    fn acknowledged() -> (Record, Bytes) {
        case(PayloadType::Acknowledgement, acknowledgement().encode_to_vec(), &[1])
    }

    /// Verifies with the keys of seeds 1 and 2.
    fn check((record, sealed): &(Record, Bytes)) -> Result<Signed, SignedError> {
        verify(record, sealed, &mut |id| {
            [1, 2].map(held).into_iter().find(|key| key.key_id.as_ref() == id.as_ref())
        })
    }

    #[test]
    fn an_answer_is_the_recipients() {
        let signed = check(&acknowledged()).unwrap();
        assert_eq!((signed.agency.as_str(), signed.system.as_str()), ("G18", "moh"));
        assert_eq!(signed.key_ids, [secret(1).public().key_id()]);
        assert_eq!(signed.said, Said::Acknowledgement(acknowledgement()));
        let both = case(PayloadType::Acknowledgement, acknowledgement().encode_to_vec(), &[2, 1]);
        assert_eq!(check(&both).unwrap().key_ids.len(), 2);
        assert_eq!((place(&both.0), key_ids(&both.0).len()), (Some(1), 2));

        let (mut record, sealed) = acknowledged();
        let Some(Event::Acknowledged(it)) = record.event.take() else { panic!() };
        let (delivery, acknowledgement_digest, key_ids) =
            (it.delivery, it.acknowledgement_digest, it.key_ids);
        let late = LateAccepted { delivery, acknowledgement_digest, key_ids, settlement: 2 };
        record.event = Some(Event::LateAccepted(late));
        assert!(check(&(record, sealed)).is_ok());

        let said = Rejection {
            delivery_id: "7-2".into(),
            envelope_digest: DIGEST,
            recipient: "G18".into(),
            mailbox_sequence: 3,
            reason: RejectionReason::Damaged.into(),
            ..Rejection::default()
        };
        let refused = |said: &Rejection| case(PayloadType::Rejection, said.encode_to_vec(), &[1]);
        assert_eq!(check(&refused(&said)).unwrap().said, Said::Rejection(said.clone()));
        let other = Rejection { reason: RejectionReason::Incomplete.into(), ..said };
        assert_eq!(check(&refused(&other)), Err(SignedError::Differs("reason")));
    }

    #[test]
    fn an_answer_about_something_else() {
        let differs = |change: fn(&mut Acknowledgement)| {
            let mut said = acknowledgement();
            change(&mut said);
            check(&case(PayloadType::Acknowledgement, said.encode_to_vec(), &[1])).unwrap_err()
        };
        for (change, field) in [
            ((|it| it.delivery_id = "7-1".into()) as fn(&mut Acknowledgement), "delivery_id"),
            (|it| it.envelope_digest = Bytes::from_static(&[5; 32]), "envelope_digest"),
            (|it| it.recipient = "G19".into(), "recipient"),
            (|it| it.mailbox_sequence = 4, "mailbox_sequence"),
        ] {
            assert_eq!(differs(change), SignedError::Differs(field));
        }
    }

    #[test]
    fn bytes_that_the_record_does_not_bind() {
        let (record, sealed) = acknowledged();
        let mut longer = sealed.to_vec();
        longer.push(0);
        assert_eq!(check(&(record.clone(), longer.into())), Err(SignedError::Cargo));
        assert_eq!(check(&(record.clone(), Bytes::new())), Err(SignedError::Cargo));
        let bare = Record { cargo: Vec::new(), ..record.clone() };
        assert_eq!(check(&(bare, sealed.clone())), Err(SignedError::Record));
        // the cargo of another answer, under this one's record
        let other = Acknowledgement { reference: "12".into(), ..acknowledgement() };
        let (other, said) = case(PayloadType::Acknowledgement, other.encode_to_vec(), &[1]);
        let swapped = Record { cargo: other.cargo.clone(), ..record.clone() };
        assert_eq!(check(&(swapped, said)), Err(SignedError::Differs("digest")));
        let again = case(PayloadType::Acknowledgement, acknowledgement().encode_to_vec(), &[2]);
        let resigned = Record { cargo: again.0.cargo, ..record };
        assert_eq!(check(&(resigned, again.1)), Err(SignedError::Differs("keys")));
        let nothing = Record { event: None, ..other };
        assert_eq!(check(&(nothing, sealed)), Err(SignedError::Record));
    }

    #[test]
    fn keys_that_are_not_the_signers() {
        let (record, sealed) = acknowledged();
        let with = |change: fn(&mut SigningKey)| {
            let mut key = held(1);
            change(&mut key);
            verify(&record, &sealed, &mut |_| Some(key.clone()))
        };
        assert!(with(|key| key.agencies = vec!["G18".into()]).is_ok());
        let key = |result| match result {
            Err(SignedError::Key(id, why)) => {
                assert_eq!(id, secret(1).public().key_id());
                why
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(key(with(|key| key.system = "vpcp".into())), "is another system's");
        assert_eq!(key(with(|key| key.agencies = vec!["G22".into()])), "may not sign for that agency");
        assert_eq!(key(with(|key| key.revoked_unix_ms = 1)), "was revoked before");
        let other = with(|key| key.public_key = held(2).public_key);
        assert!(matches!(other, Err(SignedError::Seal(_))), "{other:?}");
        assert!(matches!(verify(&record, &sealed, &mut |_| None), Err(SignedError::Seal(_))));
        let forged = case(PayloadType::Acknowledgement, acknowledgement().encode_to_vec(), &[3]);
        assert!(matches!(check(&forged), Err(SignedError::Seal(_))));
    }

    #[test]
    fn an_envelope_and_the_lease_that_names_it() {
        let envelope = |id: u8| Envelope {
            envelope_id: vec![id; 16].into(),
            sender: "G18".into(),
            ..Envelope::default()
        };
        let (record, sealed) = case(PayloadType::Envelope, envelope(1).encode_to_vec(), &[1]);
        assert_eq!(check(&(record.clone(), sealed.clone())).unwrap().agency, "G18");
        let other = case(PayloadType::Envelope, envelope(2).encode_to_vec(), &[1]);
        assert_eq!(check(&other), Err(SignedError::Differs("sender or envelope_id")));

        let Some(Event::Accepted(accepted)) = record.event else { panic!() };
        let lease = |envelope_digest: Bytes| {
            let delivery = delivery().map(|it| Delivery { envelope_digest, ..it });
            let event = Event::Leased(Leased { delivery, attempt: 1, lease_until_unix_ms: 5 });
            Record { sequence: 12, event: Some(event), ..Record::default() }
        };
        let leased = lease(accepted.envelope_digest);
        assert_eq!(check(&(leased.clone(), sealed.clone())).unwrap().system, "moh");
        assert_eq!(check(&(lease(DIGEST), sealed.clone())), Err(SignedError::Differs("digest")));

        // the latest word on the key before the envelope counts
        let proven = |index: u64, key: SigningKey| VerifiedReceipt {
            record: Record {
                sequence: index,
                event: Some(Event::DirectoryChanged(DirectoryChanged {
                    entries: vec![DirectoryEntry { value: Some(Value::SigningKey(key)) }],
                    ..DirectoryChanged::default()
                })),
                ..Record::default()
            },
            index,
            checkpoint: Checkpoint { origin: String::new(), size: 20, root: [0; 32] },
            opened: None,
        };
        let revoked = SigningKey { revoked_unix_ms: 1, ..held(1) };
        let with = |keys: &[VerifiedReceipt]| verify_proven(&leased, &sealed, keys);
        assert!(with(&[proven(3, held(2)), proven(5, held(1))]).is_ok());
        assert!(with(&[proven(3, held(1)), proven(8, revoked.clone())]).is_ok(), "revoked after it was sent");
        assert!(with(&[proven(4, revoked), proven(3, held(1))]).is_err());
        assert!(with(&[proven(7, held(1))]).is_err(), "enrolled after it was sent");
        assert!(with(&[]).is_err());
    }
}
