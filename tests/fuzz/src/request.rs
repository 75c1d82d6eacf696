//! A request for a certificate, which is all that somebody unknown may have
//! parsed: nothing of it but the key gets into what is signed.

use std::sync::LazyLock;

use axis_hub::{
    error::Error,
    identity::{Authority, CertificateRequest, registered},
};
use axis_proto::id::{Digest, SystemId};

use super::world::NOW;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let hub = "axis.test".parse().expect("a constant that is an id");
    Authority::generate(&hub, NOW).expect("made").0
});

/// The input is the request in DER.
pub fn run(input: &[u8]) {
    let request = match CertificateRequest::parse(input) {
        Ok(request) => request,
        Err(Error::Refused(refusal)) => {
            return assert_eq!(refusal.violations[0].field, "certificate_request");
        }
        Err(Error::Fault(fault)) => panic!("a fault: {}", fault.chain()),
    };
    let system: SystemId = "vpcp".parse().expect("a constant that is an id");
    let issued = AUTHORITY.certify_system(&request, &system, NOW, 30).expect("signed");
    assert_eq!(issued.fingerprint, Digest::of(&issued.der));
    let known = registered(&issued.der, &system).expect("a system's certificate, no authority's");
    assert!(known.valid_until_unix_ms <= NOW + 31 * 86_400_000);
    // no name, address or text of the request is in it
    assert!(issued.der.len() < 700, "{} bytes", issued.der.len());
}
