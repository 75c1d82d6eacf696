//! Who calls: the system whose certificate the connection carries, by what
//! the directory says of it now. Grants nothing beyond the name.

use axis_proto::{
    hub::v1::Reason,
    id::{Digest, SystemId},
    record::v1::SystemState,
};

use crate::{
    error::{Error, Refusal, Result},
    limits::Millis,
    machine::query,
    state::Read,
};

/// A system that has shown a certificate which is valid now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The system.
    pub system: SystemId,
    /// SHA-256 of its certificate.
    pub fingerprint: Digest,
}

/// Finds the system of a certificate. Refused are certificates that the
/// directory does not know, that are outside their time or revoked, and
/// systems that are suspended.
pub fn authenticate(read: &dyn Read, fingerprint: Digest, now_ms: Millis) -> Result<Caller> {
    let refused = |because: &str| -> Error {
        Refusal::new(Reason::NotAuthenticated).fact("certificate", because).into()
    };
    let certificate = query::certificate(read, &fingerprint).ok_or_else(|| refused("unknown"))?;
    if certificate.revoked_unix_ms != 0 {
        return Err(refused("revoked"));
    }
    if now_ms < certificate.valid_from_unix_ms || now_ms >= certificate.valid_until_unix_ms {
        return Err(refused("expired"));
    }
    let system: SystemId = certificate.system.parse().map_err(|_| refused("unknown"))?;
    match query::system_state(read, system.as_str()) {
        Some(SystemState::Active) => Ok(Caller { system, fingerprint }),
        Some(SystemState::Suspended) => Err(Refusal::new(Reason::Suspended).fact("system", system).into()),
        Some(SystemState::Unspecified) | None => Err(refused("unknown")),
    }
}

#[cfg(test)]
mod tests {
    use axis_proto::record::v1::{Certificate, System};
    use prost::Message as _;

    use super::*;
    use crate::{
        machine::tables::key,
        state::{Changes, State as _, memory::MemoryState},
        wire::read_once,
    };

    const DAY: Millis = crate::limits::DAY_MS;

    fn check(
        certificate: Option<Certificate>,
        state: SystemState,
        expected: std::result::Result<&str, Reason>,
    ) {
        let fingerprint = Digest::of(b"a certificate");
        let mut changes = Changes::new();
        let system =
            System { system_id: "vpcp".to_owned(), name: "Văn phòng".to_owned(), state: state.into() };
        changes.insert(key::system("vpcp"), Some(system.encode_to_vec()));
        if let Some(certificate) = certificate {
            changes.insert(key::certificate(fingerprint.as_bytes()), Some(certificate.encode_to_vec()));
        }
        let store = MemoryState::default();
        store.publish(changes, 1);
        let found = read_once(&store, |read| authenticate(read, fingerprint, 10 * DAY));
        let found = found.map(|caller| {
            assert_eq!(caller.fingerprint, fingerprint);
            caller.system.to_string()
        });
        let found = found.map_err(|error| match error {
            Error::Refused(refusal) => refusal.reason,
            Error::Fault(fault) => panic!("{}", fault.chain()),
        });
        assert_eq!(found, expected.map(str::to_owned));
    }

    fn certificate() -> Certificate {
        Certificate {
            fingerprint: Digest::of(b"a certificate").as_bytes().to_vec().into(),
            system: "vpcp".to_owned(),
            valid_from_unix_ms: 9 * DAY,
            valid_until_unix_ms: 11 * DAY,
            revoked_unix_ms: 0,
        }
    }

    #[test]
    fn a_valid_certificate_of_an_active_system_names_it() {
        check(Some(certificate()), SystemState::Active, Ok("vpcp"));
    }

    #[test]
    fn all_others_are_refused() {
        let refused = Err(Reason::NotAuthenticated);
        check(None, SystemState::Active, refused);
        check(Some(Certificate { revoked_unix_ms: 1, ..certificate() }), SystemState::Active, refused);
        check(
            Some(Certificate { valid_until_unix_ms: 10 * DAY, ..certificate() }),
            SystemState::Active,
            refused,
        );
        check(
            Some(Certificate { valid_from_unix_ms: 10 * DAY + 1, ..certificate() }),
            SystemState::Active,
            refused,
        );
        check(
            Some(Certificate { system: "other".to_owned(), ..certificate() }),
            SystemState::Active,
            refused,
        );
        check(Some(certificate()), SystemState::Suspended, Err(Reason::Suspended));
        check(Some(certificate()), SystemState::Unspecified, refused);
    }
}
