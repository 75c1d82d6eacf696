//! The hub's own keys and certificates, and those it signs for systems. Never
//! sees a private key of a system.

pub mod authority;

pub use authority::{Authority, CertificateRequest, Issued};

/// Bytes as a PEM block.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        block.extend(line.iter().map(|byte| char::from(*byte)));
        block.push('\n');
    }
    block.push_str(&format!("-----END {label}-----\n"));
    block
}
