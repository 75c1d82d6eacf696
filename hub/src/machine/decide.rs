//! `decide(state, command) → records | refusal | duplicate`: which rule answers
//! which command.

use super::{
    batch::Batch,
    command::{Command, Outcome},
    delivery, directory, envelope, retention,
};
use crate::error::Result;

/// Decides one command on the state as the batch has left it so far.
///
/// # Errors
/// A refusal, with nothing recorded.
pub fn decide(batch: &mut Batch<'_>, command: &Command) -> Result<Outcome> {
    match command {
        Command::Submit(submit) => envelope::submit(batch, submit),
        Command::Consign { envelope_sequence, recipients } => {
            envelope::consign(batch, *envelope_sequence, recipients)
        }
        Command::Lease { system, deliveries, duration_ms } => {
            delivery::lease(batch, system, deliveries, *duration_ms)
        }
        Command::Acknowledge { system, acknowledgement, signed } => {
            delivery::acknowledge(batch, system, acknowledgement, signed)
        }
        Command::Reject { system, rejection, signed } => delivery::reject(batch, system, rejection, signed),
        Command::Nack { system, delivery, attempt, delay_ms } => {
            delivery::nack(batch, system, delivery, *attempt, *delay_ms)
        }
        Command::Extend { system, delivery, attempt, duration_ms } => {
            delivery::extend(batch, system, delivery, *attempt, *duration_ms)
        }
        Command::Requeue { delivery, operator, remark } => {
            delivery::requeue(batch, delivery, operator, remark)
        }
        Command::Return { delivery, operator, remark } => {
            delivery::give_back(batch, delivery, operator, remark)
        }
        Command::Tick { clock_trusted } => Ok(delivery::tick(batch, *clock_trusted)),
        Command::Upload { system, sha256, size } => directory::upload(batch, system, sha256, *size),
        Command::ChangeDirectory { entries, actor, remark } => {
            directory::change(batch, entries, actor, remark)
        }
        Command::AddSystem { system, name, agencies, token_sha256, actor } => {
            directory::add_system(batch, system, name, agencies, token_sha256, actor)
        }
        Command::IssueToken { system, token_sha256, operator } => {
            directory::issue_token(batch, system, token_sha256, operator)
        }
        Command::Enrol { token_sha256, certificate, signing_key } => {
            directory::enrol(batch, token_sha256, certificate, signing_key)
        }
        Command::Renew { system, certificate, signing_key } => {
            directory::renew(batch, system, certificate.as_ref(), signing_key.as_ref())
        }
        Command::SetSystemState { system, state, actor, remark } => {
            directory::set_system_state(batch, system, *state, actor, remark)
        }
        Command::RevokeSigningKey { key_id, only_of, actor, remark } => {
            directory::revoke_signing_key(batch, key_id, only_of.as_ref(), actor, remark)
        }
        Command::RegisterCertificate { certificate, actor, remark } => {
            directory::register_certificate(batch, certificate, actor, remark)
        }
        Command::LimitSigningKey { key_id, agencies, valid_until_unix_ms, actor, remark } => {
            directory::limit_signing_key(batch, key_id, agencies, *valid_until_unix_ms, actor, remark)
        }
        Command::RevokeCertificate { fingerprint, actor, remark } => {
            directory::revoke_certificate(batch, fingerprint, actor, remark)
        }
        Command::RequestPurge { envelope_sequence, operator, remark } => {
            retention::request_purge(batch, *envelope_sequence, operator, remark)
        }
        Command::ConfirmPurge { envelope_sequence, operator } => {
            retention::confirm_purge(batch, *envelope_sequence, operator)
        }
        Command::ProceedPurge { envelope_sequence } => retention::proceed_purge(batch, *envelope_sequence),
        Command::CollectDocuments { documents, purged_envelope } => {
            retention::collect_documents(batch, documents, *purged_envelope)
        }
        Command::TrimFeed { system, older_than_unix_ms } => {
            retention::trim_feed(batch, system, *older_than_unix_ms)
        }
        Command::LapseGrants { system, documents } => retention::lapse_grants(batch, system, documents),
        Command::ConfirmClock { operator } => Ok(directory::confirm_clock(batch, operator)),
        Command::SnapshotTaken { applied_sequence, sha256, key_count } => {
            Ok(directory::snapshot_taken(batch, *applied_sequence, sha256, *key_count))
        }
    }
}
