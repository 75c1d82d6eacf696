//! `system`, `key` and `certificate`: who may connect and sign.
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    admin::Admin,
    args::{CertificateCommand, KeyCommand, SystemCommand},
    json,
    say::{Failure, Result, language, put, say, tr},
    table::Table,
};
use std::path::Path;

use axis_hub::{clock::Clock, observe::words};
use axis_proto::{
    admin::v1::{
        AddSystemRequest, IssueTokenRequest, LimitSigningKeyRequest, ListSystemsRequest,
        RegisterCertificateRequest, RevokeCertificateRequest, RevokeSigningKeyRequest, SetSystemStateRequest,
        SystemSummary,
    },
    id::SystemId,
    reason::Language,
    record::v1::SystemState,
};

/// `axis-hub system …`
pub async fn system(mut admin: Admin, command: SystemCommand) -> Result<()> {
    match command {
        SystemCommand::Add { system, name, agencies } => {
            let agencies = agencies.iter().map(ToString::to_string).collect();
            let request = AddSystemRequest { system_id: system.to_string(), name, agencies };
            let added = admin.add_system(request).await?.into_inner();
            say(format!("{} {system}", tr("added", "đã thêm")));
            put_token(&added.token, added.expires_unix_ms);
        }
        SystemCommand::List(output) => {
            let systems = list(&mut admin).await?;
            if output.json {
                json::put(&systems.iter().map(json::system).collect());
                return Ok(());
            }
            let now = Clock::system().now_ms();
            let mut table = match language() {
                Language::Vi => Table::new([
                    "Hệ thống",
                    "Trạng thái",
                    "Cơ quan",
                    "Khóa ký",
                    "Chứng thư đến",
                    "Kết nối",
                    "Tên",
                ]),
                Language::En => {
                    Table::new(["System", "State", "Agencies", "Keys", "Certificate until", "Seen", "Name"])
                }
            };
            for summary in systems {
                let is_valid = |revoked, until| revoked == 0 && (until == 0 || until > now);
                let keys = summary.signing_keys.iter();
                let keys = keys.filter(|key| is_valid(key.revoked_unix_ms, key.valid_until_unix_ms)).count();
                let certificates = summary.certificates.iter();
                let until = certificates
                    .filter(|found| is_valid(found.revoked_unix_ms, found.valid_until_unix_ms))
                    .map(|found| found.valid_until_unix_ms)
                    .max();
                let system = summary.system.unwrap_or_default();
                table.row([
                    system.system_id.clone(),
                    words::system_state(language(), system.state()).to_owned(),
                    words::count(language(), u64::from(summary.agency_count)),
                    keys.to_string(),
                    words::moment(until.unwrap_or(0)),
                    words::age_of(language(), summary.last_seen_unix_ms, now),
                    system.name,
                ]);
            }
            put(table.to_string());
        }
        SystemCommand::Suspend { system, remark } => {
            set_state(&mut admin, &system, SystemState::Suspended, remark.remark).await?;
            say(format!("{} {system}", tr("suspended", "đã tạm ngừng")));
        }
        SystemCommand::Resume { system, remark } => {
            set_state(&mut admin, &system, SystemState::Active, remark.remark).await?;
            say(format!("{} {system}", tr("resumed", "đã cho hoạt động lại")));
        }
        SystemCommand::Token { system } => {
            let request = IssueTokenRequest { system_id: system.to_string() };
            let issued = admin.issue_token(request).await?.into_inner();
            put_token(&issued.token, issued.expires_unix_ms);
        }
    }
    Ok(())
}

/// `axis-hub key …`
pub async fn key(mut admin: Admin, command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::List { system, output } => {
            let systems = list_one(&mut admin, system.as_ref()).await?;
            let keys = systems.iter().flat_map(|summary| &summary.signing_keys);
            if output.json {
                json::put(&keys.map(json::signing_key).collect());
                return Ok(());
            }
            let mut table = validity_table(tr("Key", "Khóa"));
            for key in keys {
                let id = hex::encode(&key.key_id);
                table.row(validity_row(
                    &key.system,
                    id,
                    key.valid_from_unix_ms,
                    key.valid_until_unix_ms,
                    key.revoked_unix_ms,
                ));
            }
            put(table.to_string());
        }
        KeyCommand::Limit { key, agencies, until, remark } => {
            let request = LimitSigningKeyRequest {
                key_id: bytes::Bytes::copy_from_slice(key.as_bytes()),
                agencies: agencies.iter().map(ToString::to_string).collect(),
                valid_until_unix_ms: until.map_or(0, |until| until.as_millisecond().max(1) as u64),
                remark: remark.remark,
            };
            admin.limit_signing_key(request).await?;
            say(format!("{} {key}", tr("limited", "đã giới hạn")));
        }
        KeyCommand::Revoke { key, remark } => {
            let key_id = bytes::Bytes::copy_from_slice(key.as_bytes());
            admin.revoke_signing_key(RevokeSigningKeyRequest { key_id, remark: remark.remark }).await?;
            say(format!("{} {key}", tr("revoked", "đã thu hồi")));
        }
    }
    Ok(())
}

/// `axis-hub certificate …`
pub async fn certificate(mut admin: Admin, command: CertificateCommand) -> Result<()> {
    match command {
        CertificateCommand::List { system, output } => {
            let systems = list_one(&mut admin, system.as_ref()).await?;
            let certificates = systems.iter().flat_map(|summary| &summary.certificates);
            if output.json {
                json::put(&certificates.map(json::certificate).collect());
                return Ok(());
            }
            let mut table = validity_table(tr("Certificate", "Chứng thư"));
            for found in certificates {
                let id = hex::encode(&found.fingerprint);
                table.row(validity_row(
                    &found.system,
                    id,
                    found.valid_from_unix_ms,
                    found.valid_until_unix_ms,
                    found.revoked_unix_ms,
                ));
            }
            put(table.to_string());
        }
        CertificateCommand::Register { system, file, remark } => {
            let certificate = read_certificate(&file)?.into();
            let request = RegisterCertificateRequest { system_id: system.to_string(), certificate, remark };
            let registered = admin.register_certificate(request).await?.into_inner();
            put(hex::encode(&registered.fingerprint));
            say(format!("{} {system}", tr("registered for", "đã đăng ký cho")));
        }
        CertificateCommand::Revoke { fingerprint, remark } => {
            let sha256 = bytes::Bytes::copy_from_slice(fingerprint.as_bytes());
            let request = RevokeCertificateRequest { fingerprint: sha256, remark: remark.remark };
            admin.revoke_certificate(request).await?;
            say(format!("{} {fingerprint}", tr("revoked", "đã thu hồi")));
        }
    }
    Ok(())
}

/// A certificate as DER, from a file that holds it as PEM or DER.
fn read_certificate(file: &Path) -> Result<Vec<u8>> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    // DER begins with a SEQUENCE
    if bytes.first() == Some(&0x30) {
        return Ok(bytes);
    }
    let found = CertificateDer::from_pem_slice(&bytes);
    found.map(|certificate| certificate.to_vec()).map_err(|error| {
        let words = tr("no certificate in PEM or DER", "không có chứng thư dạng PEM hay DER");
        Failure::new(format!("{shown}: {words}: {error}"))
    })
}

/// The token alone on stdout: scripts capture it.
fn put_token(token: &str, expires_unix_ms: u64) {
    put(token);
    say(format!(
        "{} {}",
        tr(
            "the token above is shown only this once and lapses at",
            "mã ghi danh trên chỉ hiện một lần và hết hạn lúc"
        ),
        words::moment(expires_unix_ms)
    ));
    say(format!(
        "hint: {} `axis enroll TOKEN`",
        tr(
            "hand it over on a safe way; the agency runs",
            "hãy chuyển cho cơ quan bằng đường an toàn; cơ quan chạy",
        )
    ));
}

async fn set_state(admin: &mut Admin, system: &SystemId, state: SystemState, remark: String) -> Result<()> {
    let request = SetSystemStateRequest { system_id: system.to_string(), state: state.into(), remark };
    admin.set_system_state(request).await?;
    Ok(())
}

async fn list(admin: &mut Admin) -> Result<Vec<SystemSummary>> {
    Ok(admin.list_systems(ListSystemsRequest {}).await?.into_inner().systems)
}

/// All systems, or the one that was named.
async fn list_one(admin: &mut Admin, only: Option<&SystemId>) -> Result<Vec<SystemSummary>> {
    let mut systems = list(admin).await?;
    let Some(only) = only else { return Ok(systems) };
    systems.retain(|summary| summary.system.as_ref().is_some_and(|found| found.system_id == only.as_str()));
    if systems.is_empty() {
        return Err(Failure::new(format!(
            "{} {only}",
            tr("no system is called", "không có hệ thống nào tên")
        ))
        .hint("`axis-hub system list`"));
    }
    Ok(systems)
}

fn validity_table(what: &str) -> Table {
    match language() {
        Language::Vi => Table::new(["Hệ thống", what, "Hiệu lực từ", "đến", "Thu hồi"]),
        Language::En => Table::new(["System", what, "Valid from", "until", "Revoked"]),
    }
}

fn validity_row(system: &str, id: String, from: u64, until: u64, revoked: u64) -> [String; 5] {
    [system.to_owned(), id, words::moment(from), words::moment(until), words::moment(revoked)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_may_be_pem_or_der() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("certificate");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            read_certificate(&file)
        };
        assert_eq!(read(&[0x30, 1, 2]).unwrap(), [0x30, 1, 2]);
        assert_eq!(
            read(b"-----BEGIN CERTIFICATE-----\nMAEC\n-----END CERTIFICATE-----\n").unwrap(),
            [0x30, 1, 2]
        );
        assert!(read(b"hello").is_err() && read(b"").is_err());
    }
}
