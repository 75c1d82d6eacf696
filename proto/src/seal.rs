//! Sealing: detached signatures over exact bytes (DSSE v1.0.2). What is
//! signed is made once, verified, then parsed; never re-encoded.

use bytes::Bytes;

use crate::{
    envelope::v1::{SealedEnvelope, Signature},
    hub::v1::Reason,
    id::{Digest, KeyId},
    key::{PublicKey, SigningKey},
    limits::{PAYLOAD_BYTES_MAX, SIGNATURES_MAX},
};

/// What a payload is. Bound into its signatures, so that one kind can never
/// pass as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadType {
    /// `axis.envelope.v1.Envelope`.
    Envelope,
    /// `axis.envelope.v1.Acknowledgement`.
    Acknowledgement,
    /// `axis.envelope.v1.Rejection`.
    Rejection,
}

impl PayloadType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Envelope, Self::Acknowledgement, Self::Rejection];

    /// The text that travels and is signed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "application/vnd.axis.envelope.v1+protobuf",
            Self::Acknowledgement => "application/vnd.axis.ack.v1+protobuf",
            Self::Rejection => "application/vnd.axis.reject.v1+protobuf",
        }
    }

    /// The type of this text, matched exactly.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }
}

/// DSSE's pre-authentication encoding: what is signed.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let mut bytes = Vec::with_capacity(head.len() + payload.len());
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// SHA-256(PAE): the identity of a payload, whoever signed it.
pub fn digest(payload_type: &str, payload: &[u8]) -> Digest {
    Digest::of(&pae(payload_type, payload))
}

/// Signs a payload with each key.
pub fn seal(payload_type: PayloadType, payload: impl Into<Bytes>, keys: &[&SigningKey]) -> SealedEnvelope {
    let payload = payload.into();
    let signed = pae(payload_type.as_str(), &payload);
    let signatures = keys
        .iter()
        .map(|key| Signature {
            sig: Bytes::copy_from_slice(&key.sign(&signed)),
            keyid: key.public().key_id().to_string(),
        })
        .collect();
    SealedEnvelope { payload, payload_type: payload_type.as_str().to_owned(), signatures }
}

/// A payload whose signatures all verified. Made by [`open`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// The exact bytes that were signed.
    pub payload: Bytes,
    /// SHA-256(PAE).
    pub digest: Digest,
    /// The keys that signed, in the order of the signatures.
    pub key_ids: Vec<KeyId>,
}

/// Verifies every signature of a sealed payload: bounds first, then type,
/// then keys, which `find` looks up by the signatures' hints.
pub fn open(
    sealed: &SealedEnvelope,
    expected: PayloadType,
    find: &mut dyn FnMut(&KeyId) -> Option<PublicKey>,
) -> Result<Opened, SealError> {
    if sealed.payload.is_empty() {
        return Err(SealError::new(Reason::FieldInvalid, "payload", "is empty"));
    }
    if sealed.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(SealError::new(Reason::TooLarge, "payload", "has more than 262144 bytes"));
    }
    if sealed.payload_type != expected.as_str() {
        return Err(SealError::new(Reason::FieldInvalid, "payload_type", "is not the type expected here"));
    }
    let hints = hints(&sealed.signatures)?;

    let signed = pae(&sealed.payload_type, &sealed.payload);
    let mut key_ids = Vec::with_capacity(hints.len());
    for (index, (hint, signature)) in hints.iter().zip(&sealed.signatures).enumerate() {
        let key =
            find(hint).ok_or_else(|| SealError::at(Reason::KeyUnknown, index, "keyid", "is not known"))?;
        // the key counts, not its hint
        let key_id = key.key_id();
        if key_ids.contains(&key_id) {
            return Err(SealError::at(Reason::FieldInvalid, index, "keyid", "signs twice"));
        }
        if !key.verify_strict(&signed, &signature.sig) {
            return Err(SealError::at(Reason::SignatureInvalid, index, "sig", "does not verify"));
        }
        key_ids.push(key_id);
    }
    Ok(Opened { payload: sealed.payload.clone(), digest: Digest::of(&signed), key_ids })
}

/// The key hints of signatures whose shape is right, none of them twice.
fn hints(signatures: &[Signature]) -> Result<Vec<KeyId>, SealError> {
    if signatures.is_empty() {
        return Err(SealError::new(Reason::FieldInvalid, "signatures", "is empty"));
    }
    if signatures.len() > SIGNATURES_MAX {
        return Err(SealError::new(Reason::TooLarge, "signatures", "has more than 16 entries"));
    }
    let mut hints = Vec::with_capacity(signatures.len());
    for (index, signature) in signatures.iter().enumerate() {
        let hint: KeyId = signature.keyid.parse().map_err(|_| {
            SealError::at(Reason::FieldInvalid, index, "keyid", "is not 64 lower-case hex digits")
        })?;
        if hints.contains(&hint) {
            return Err(SealError::at(Reason::FieldInvalid, index, "keyid", "signs twice"));
        }
        if signature.sig.len() != 64 {
            return Err(SealError::at(Reason::FieldInvalid, index, "sig", "has not 64 bytes"));
        }
        hints.push(hint);
    }
    Ok(hints)
}

/// Why a sealed payload does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {detail}")]
pub struct SealError {
    reason: Reason,
    field: String,
    detail: &'static str,
}

impl SealError {
    fn new(reason: Reason, field: &str, detail: &'static str) -> Self {
        Self { reason, field: field.to_owned(), detail }
    }

    fn at(reason: Reason, index: usize, field: &str, detail: &'static str) -> Self {
        Self { reason, field: format!("signatures[{index}].{field}"), detail }
    }

    /// Why, as the catalogue has it.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Where, as a path inside the `SealedEnvelope`: `signatures[0].sig`.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What was found there.
    pub const fn detail(&self) -> &'static str {
        self.detail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    /// Opens as an envelope, knowing the keys of seeds 1 to 20.
    fn check(sealed: &SealedEnvelope, expected: Result<usize, (Reason, &str)>) {
        let known: Vec<PublicKey> = (1..=20).map(|seed| key(seed).public()).collect();
        let opened = open(sealed, PayloadType::Envelope, &mut |id| {
            known.iter().copied().find(|key| key.key_id() == *id)
        });
        let found = opened.as_ref().map(|opened| opened.key_ids.len());
        assert_eq!(found.map_err(|error| (error.reason(), error.field())), expected);
    }

    fn sealed(seeds: &[u8]) -> SealedEnvelope {
        let keys: Vec<SigningKey> = seeds.iter().map(|seed| key(*seed)).collect();
        seal(PayloadType::Envelope, "payload", &keys.iter().collect::<Vec<_>>())
    }

    fn changed(change: impl FnOnce(&mut SealedEnvelope)) -> SealedEnvelope {
        let mut sealed = sealed(&[1, 2]);
        change(&mut sealed);
        sealed
    }

    #[test]
    fn dsse_vectors() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
        assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
        // lengths count bytes, not characters
        assert_eq!(pae("đ", "văn".as_bytes()), "DSSEv1 2 đ 4 văn".as_bytes());
    }

    #[test]
    fn what_opens() {
        check(&sealed(&[1]), Ok(1));
        check(&sealed(&(1..=16).collect::<Vec<_>>()), Ok(16));
    }

    #[test]
    fn what_does_not() {
        use Reason::{FieldInvalid, KeyUnknown, SignatureInvalid, TooLarge};
        check(&SealedEnvelope::default(), Err((FieldInvalid, "payload")));
        check(&changed(|s| s.payload = vec![0; PAYLOAD_BYTES_MAX + 1].into()), Err((TooLarge, "payload")));
        check(&changed(|s| s.payload = "Payload".into()), Err((SignatureInvalid, "signatures[0].sig")));
        let ack = PayloadType::Acknowledgement.as_str();
        check(&changed(|s| s.payload_type = ack.into()), Err((FieldInvalid, "payload_type")));
        check(&sealed(&[]), Err((FieldInvalid, "signatures")));
        check(&sealed(&(1..=17).collect::<Vec<_>>()), Err((TooLarge, "signatures")));
        check(&sealed(&[1, 1]), Err((FieldInvalid, "signatures[1].keyid")));
        check(&sealed(&[1, 99]), Err((KeyUnknown, "signatures[1].keyid")));
        check(&changed(|s| s.signatures.swap(0, 1)), Ok(2));
        check(
            &changed(|s| s.signatures[1].keyid.make_ascii_uppercase()),
            Err((FieldInvalid, "signatures[1].keyid")),
        );
        check(
            &changed(|s| s.signatures[1].sig = Bytes::from_static(&[0; 63])),
            Err((FieldInvalid, "signatures[1].sig")),
        );
        check(
            &changed(|s| s.signatures[1].sig = s.signatures[0].sig.clone()),
            Err((SignatureInvalid, "signatures[1].sig")),
        );
    }

    #[test]
    fn a_lying_hint_gains_nothing() {
        // two hints, one key behind both
        let mut sealed = sealed(&[1, 2]);
        sealed.signatures[1].sig = sealed.signatures[0].sig.clone();
        let error = open(&sealed, PayloadType::Envelope, &mut |_| Some(key(1).public())).unwrap_err();
        assert_eq!((error.reason(), error.field()), (Reason::FieldInvalid, "signatures[1].keyid"));
    }
}
