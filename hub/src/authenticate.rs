//! Who calls: the system whose certificate the connection carries, by what
//! the directory says of it now. Grants nothing beyond the name.

use axis_proto::id::{Digest, SystemId};

/// A system that has shown a certificate which is valid now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The system.
    pub system: SystemId,
    /// SHA-256 of its certificate.
    pub fingerprint: Digest,
}
