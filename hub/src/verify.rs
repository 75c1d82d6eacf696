//! Verifies a sealed payload: bounds, type, and every signature by a distinct
//! key that is the caller's own and valid now. Never looks into the payload;
//! whoever holds a [`Verified`] may.

use std::collections::BTreeMap;

use axis_proto::{
    envelope::v1::SealedEnvelope,
    hub::v1::Reason,
    id::{KeyId, SystemId},
    key::PublicKey,
    limits::SIGNATURES_MAX,
    record::v1::SigningKey,
    seal::{self, PayloadType, SealError},
};
use bytes::Bytes;
use prost::Message as _;
use quick_cache::sync::Cache;

use crate::{
    authenticate::Caller,
    error::{Error, Result},
    limits::{self, Millis},
    machine::{Content, Signed, query},
    state::{Read, State, read_once},
};

/// What a sealed payload is verified and admitted by.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The hub's own name.
    pub hub_id: &'a str,
    /// The directory.
    pub state: &'a dyn State,
    /// Keys that were met lately.
    pub points: &'a Points,
    /// The hub's clock.
    pub now_ms: Millis,
}

/// The points of public keys that signed lately, by their bytes: to find one
/// takes a sixth of the time of a signature. Says nothing of who may sign.
pub struct Points(Cache<[u8; 32], PublicKey>);

impl Points {
    fn of(&self, bytes: &[u8]) -> Option<PublicKey> {
        let bytes = bytes.try_into().ok()?;
        if let Some(key) = self.0.get(&bytes) {
            return Some(key);
        }
        let key = PublicKey::new(bytes);
        self.0.insert(bytes, key);
        Some(key)
    }
}

impl Default for Points {
    fn default() -> Self {
        Self(Cache::new(limits::POINTS_MAX))
    }
}

/// A payload whose signatures all hold. Made by [`verify`] alone.
#[derive(Debug, Clone)]
pub struct Verified {
    payload: Bytes,
    payload_type: PayloadType,
    signed: Signed,
    keys: Vec<SigningKey>,
}

impl Verified {
    /// The exact bytes that were signed.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What the payload is.
    pub fn payload_type(&self) -> PayloadType {
        self.payload_type
    }

    /// What is kept of it: the sealed bytes, their digest and the keys.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// The same, to pass on.
    pub fn into_signed(self) -> Signed {
        self.signed
    }

    /// The place of a signature whose key may not sign for this agency.
    pub fn out_of_scope(&self, agency: &str) -> Option<usize> {
        self.keys.iter().position(|key| !covers(key, agency))
    }
}

/// Whether a key may sign for an agency that its system serves.
fn covers(key: &SigningKey, agency: &str) -> bool {
    key.agencies.is_empty() || key.agencies.iter().any(|code| code == agency)
}

/// How requests name the sealed payload of this type.
pub fn field_of(payload_type: PayloadType) -> &'static str {
    match payload_type {
        PayloadType::Envelope => "sealed_envelope",
        PayloadType::Acknowledgement => "sealed_acknowledgement",
        PayloadType::Rejection => "sealed_rejection",
    }
}

/// Verifies what a system sealed. The state is read for the keys alone: the
/// curve is worked on while the writer goes on.
pub fn verify(
    ground: Ground<'_>,
    caller: &Caller,
    sealed: &SealedEnvelope,
    expected: PayloadType,
) -> Result<Verified> {
    let known = read_once(ground.state, |read| keys_named(read, sealed));
    let mut keys = Vec::new();
    let mut unusable = None;
    let opened =
        seal::open(sealed, expected, &mut |key_id| match usable(known.get(key_id), &caller.system, ground) {
            Ok((key, public)) => {
                keys.push(key.clone());
                Some(public)
            }
            Err(reason) => {
                unusable = Some((reason, *key_id));
                None
            }
        })
        .map_err(|error| refused(&error, unusable, expected))?;
    let signed = Signed {
        // the one place where the container is encoded; the payload inside is
        // the sender's own bytes
        sealed: Content::of(sealed.encode_to_vec()),
        digest: opened.digest,
        key_ids: opened.key_ids,
        certificate: caller.fingerprint,
    };
    Ok(Verified { payload: opened.payload, payload_type: expected, signed, keys })
}

/// The keys that the signatures' hints name, as far as the directory has them.
fn keys_named(read: &dyn Read, sealed: &SealedEnvelope) -> BTreeMap<KeyId, SigningKey> {
    let hints = sealed.signatures.iter().take(SIGNATURES_MAX).filter_map(|signature| {
        let id: KeyId = signature.keyid.parse().ok()?;
        let (key, _) = query::signing_key(read, &id)?;
        Some((id, key))
    });
    hints.collect()
}

/// The key, if this system may sign with it now.
fn usable<'a>(
    key: Option<&'a SigningKey>,
    caller: &SystemId,
    Ground { points, now_ms, .. }: Ground<'_>,
) -> std::result::Result<(&'a SigningKey, PublicKey), Reason> {
    // another system's key is told apart from an unknown one by nobody
    let key = key.filter(|key| key.system == caller.as_str()).ok_or(Reason::KeyUnknown)?;
    if key.revoked_unix_ms != 0 {
        return Err(Reason::KeyRevoked);
    }
    let ended = key.valid_until_unix_ms != 0 && key.valid_until_unix_ms <= now_ms;
    if ended || now_ms < key.valid_from_unix_ms {
        return Err(Reason::KeyExpired);
    }
    let public = points.of(&key.public_key).ok_or(Reason::KeyUnknown)?;
    Ok((key, public))
}

fn refused(error: &SealError, unusable: Option<(Reason, KeyId)>, expected: PayloadType) -> Error {
    let root = field_of(expected);
    // a signature that does not count is named as a whole
    let signature = error.field().rsplit_once('.').map_or(error.field(), |(signature, _)| signature);
    match (error.reason(), unusable) {
        (Reason::KeyUnknown, Some((reason, key_id))) => {
            Error::invalid(format!("{root}.{signature}"), reason, key_id)
        }
        (reason @ (Reason::KeyUnknown | Reason::SignatureInvalid), _) => {
            Error::invalid(format!("{root}.{signature}"), reason, error.detail())
        }
        (reason, _) => Error::invalid(format!("{root}.{}", error.field()), reason, error.detail()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use axis_proto::id::Digest;

    use axis_proto::{
        key::SigningKey as Secret,
        record::v1::{Agency, AgencyState, System, SystemState},
        seal::seal,
    };

    use super::*;
    use crate::{
        limits::DAY_MS,
        machine::tables::{KeyRow, key},
        state::{Changes, memory::MemoryState},
    };

    pub(crate) const NOW: Millis = 1_790_000_000_000;

    pub(crate) fn secret(seed: u8) -> Secret {
        Secret::from_seed(&[seed; 32])
    }

    pub(crate) fn system(id: &str) -> SystemId {
        id.parse().expect("a system id")
    }

    /// `vpcp` serves G22 and G22.99 with keys 1 and 2, key 3 for G22.99
    /// alone, and keys 4 to 6 that are no good; `byt` has key 9 and serves
    /// G18; `ngung` is suspended.
    pub(crate) fn directory() -> MemoryState {
        let mut changes = Changes::new();
        let mut put = |key: Vec<u8>, value: Vec<u8>| {
            changes.insert(key, Some(value));
        };
        for (id, state) in
            [("vpcp", SystemState::Active), ("byt", SystemState::Active), ("ngung", SystemState::Suspended)]
        {
            let row = System { system_id: id.into(), name: id.into(), state: state.into() };
            put(key::system(id), row.encode_to_vec());
        }
        for (code, served_by, state) in [
            ("G22", "vpcp", AgencyState::Active),
            ("G22.99", "vpcp", AgencyState::Active),
            ("G22.98", "vpcp", AgencyState::Suspended),
            ("G18", "byt", AgencyState::Active),
            ("G19", "ngung", AgencyState::Active),
        ] {
            let row = Agency {
                code: code.into(),
                system: served_by.into(),
                state: state.into(),
                ..Agency::default()
            };
            put(key::agency(code), row.encode_to_vec());
            put(key::agency_of(served_by, code), Vec::new());
        }
        for seed in 1..=9_u8 {
            let public = secret(seed).public();
            let row = SigningKey {
                key_id: Bytes::copy_from_slice(public.key_id().as_bytes()),
                public_key: Bytes::copy_from_slice(public.as_bytes()),
                system: if seed == 9 { "byt" } else { "vpcp" }.into(),
                agencies: if seed == 3 { vec!["G22.99".into()] } else { Vec::new() },
                valid_from_unix_ms: if seed == 4 { NOW + 1 } else { NOW - DAY_MS },
                valid_until_unix_ms: if seed == 5 { NOW } else { 0 },
                revoked_unix_ms: if seed == 6 { NOW - 1 } else { 0 },
            };
            let row = KeyRow { key: Some(row), changed_sequence: 1 };
            put(key::signing_key(public.key_id().as_bytes()), row.encode_to_vec());
        }
        let state = MemoryState::new();
        state.publish(changes, 1);
        state
    }

    pub(crate) fn sealed(expected: PayloadType, payload: impl Into<Bytes>, seeds: &[u8]) -> SealedEnvelope {
        let keys: Vec<Secret> = seeds.iter().map(|seed| secret(*seed)).collect();
        seal(expected, payload, &keys.iter().collect::<Vec<_>>())
    }

    /// The hub `truc` at [`NOW`].
    pub(crate) fn ground<'a>(state: &'a dyn State, points: &'a Points) -> Ground<'a> {
        Ground { hub_id: "truc", state, points, now_ms: NOW }
    }

    #[track_caller]
    fn check(seeds: &[u8], expected: std::result::Result<usize, (Reason, &str)>) {
        let sealed = sealed(PayloadType::Envelope, "payload", seeds);
        let (state, points) = (directory(), Points::default());
        let found = verify(ground(&state, &points), &caller(), &sealed, PayloadType::Envelope);
        let found = found.map(|verified| {
            assert_eq!(&verified.signed().sealed[..], &sealed.encode_to_vec()[..]);
            assert_eq!(verified.payload(), "payload");
            verified.signed().key_ids.len()
        });
        let expected = expected.map_err(|(reason, field)| (reason, field.to_owned()));
        assert_eq!(found.map_err(place_of), expected, "keys {seeds:?}");
    }

    /// The reason of a refusal and its first place.
    pub(crate) fn place_of(error: Error) -> (Reason, String) {
        match error {
            Error::Refused(refusal) => {
                (refusal.reason, refusal.violations.first().map(|at| at.field.clone()).unwrap_or_default())
            }
            Error::Fault(fault) => panic!("a fault: {}", fault.chain()),
        }
    }

    fn caller() -> Caller {
        Caller { system: system("vpcp"), fingerprint: Digest::of(b"certificate") }
    }

    #[test]
    fn keys_of_the_caller_that_are_valid_now() {
        check(&[1], Ok(1));
        check(&[1, 2, 3], Ok(3));
    }

    #[test]
    fn keys_that_are_not() {
        let first = "sealed_envelope.signatures[0]";
        let second = "sealed_envelope.signatures[1]";
        check(&[4], Err((Reason::KeyExpired, first)));
        check(&[1, 5], Err((Reason::KeyExpired, second)));
        check(&[1, 6], Err((Reason::KeyRevoked, second)));
        check(&[1, 9], Err((Reason::KeyUnknown, second)));
        check(&[77], Err((Reason::KeyUnknown, first)));
        check(&[1, 1], Err((Reason::FieldInvalid, "sealed_envelope.signatures[1].keyid")));
        check(&[], Err((Reason::FieldInvalid, "sealed_envelope.signatures")));
    }

    #[test]
    fn one_kind_of_payload_never_passes_as_another() {
        let sealed = sealed(PayloadType::Rejection, "payload", &[1]);
        let (state, points) = (directory(), Points::default());
        let found = verify(ground(&state, &points), &caller(), &sealed, PayloadType::Acknowledgement);
        let expected = (Reason::FieldInvalid, "sealed_acknowledgement.payload_type".to_owned());
        assert_eq!(place_of(found.unwrap_err()), expected);
    }

    #[test]
    fn a_changed_payload_or_signature() {
        let mut changed = sealed(PayloadType::Envelope, "payload", &[1, 2]);
        changed.signatures[1].sig = changed.signatures[0].sig.clone();
        let (state, points) = (directory(), Points::default());
        let found = verify(ground(&state, &points), &caller(), &changed, PayloadType::Envelope);
        let expected = (Reason::SignatureInvalid, "sealed_envelope.signatures[1]".to_owned());
        assert_eq!(place_of(found.unwrap_err()), expected);
    }
}
