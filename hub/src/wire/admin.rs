//! What operators do, over a Unix socket that only the hub's user can open.
//! Each change carries the name of the user who logged in and made it, or of
//! the account by which it was made.

use std::sync::Arc;

use axis_proto::{
    admin::v1::{
        AddSystemRequest, AddSystemResponse, BackupRequest, ChangeDirectoryRequest, ChangeDirectoryResponse,
        ConfirmClockRequest, ConfirmClockResponse, ConfirmPurgeRequest, ConfirmPurgeResponse,
        GetStatusRequest, GetStatusResponse, IssueTokenRequest, IssueTokenResponse, LimitSigningKeyRequest,
        LimitSigningKeyResponse, ListAgenciesRequest, ListAgenciesResponse, ListGroupMembersRequest,
        ListGroupMembersResponse, ListGroupsRequest, ListGroupsResponse, ListParkedRequest,
        ListParkedResponse, ListQueuesRequest, ListQueuesResponse, ListSystemsRequest, ListSystemsResponse,
        RegisterCertificateRequest, RegisterCertificateResponse, RequestPurgeRequest, RequestPurgeResponse,
        RequeueRequest, RequeueResponse, ReturnRequest, ReturnResponse, RevokeCertificateRequest,
        RevokeCertificateResponse, RevokeSigningKeyRequest, RevokeSigningKeyResponse, SetSystemStateRequest,
        SetSystemStateResponse, SystemSummary, TrackRequest, TrackResponse,
        admin_service_server::{AdminService, AdminServiceServer},
    },
    hub::v1::Reason,
    id::{DeliveryId, Digest, EnvelopeId, KeyId, SystemId},
    record::v1::System,
};
use bytes::Bytes;
use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

use super::{Context, status, track};
use crate::{
    error::{Error, Result},
    identity, limits,
    machine::{ACCOUNT, Command, Outcome, query},
};

/// The service of the operators' socket.
pub fn service(ctx: Arc<Context>) -> AdminServiceServer<Admin> {
    AdminServiceServer::new(Admin { ctx }).max_decoding_message_size(limits::REQUEST_BYTES_MAX)
}

/// See [`service`].
pub struct Admin {
    ctx: Arc<Context>,
}

/// Answers a call: metadata read first, refusals and faults turned into
/// statuses.
macro_rules! answer {
    ($self:ident, $request:ident, $work:expr) => {{
        let language = status::language($request.metadata());
        let operator = operator(&$request);
        let work = $work;
        $self.ctx.answer(work($request.into_inner(), operator).await, language)
    }};
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn change_directory(
        &self,
        request: Request<ChangeDirectoryRequest>,
    ) -> Result<Response<ChangeDirectoryResponse>, Status> {
        answer!(self, request, async |request: ChangeDirectoryRequest, actor| {
            let ChangeDirectoryRequest { entries, remark } = request;
            self.commit(Command::ChangeDirectory { entries, actor, remark }).await?;
            Ok(ChangeDirectoryResponse { directory_version: self.directory_version() })
        })
    }

    async fn add_system(
        &self,
        request: Request<AddSystemRequest>,
    ) -> Result<Response<AddSystemResponse>, Status> {
        answer!(self, request, async |request: AddSystemRequest, actor| {
            let system = parsed("system_id", &request.system_id)?;
            let mut agencies = Vec::with_capacity(request.agencies.len());
            for (place, code) in request.agencies.iter().enumerate() {
                agencies.push(parsed(&format!("agencies[{place}]"), code)?);
            }
            let (token, token_sha256) = self.new_token()?;
            let name = request.name;
            self.commit(Command::AddSystem { system, name, agencies, token_sha256, actor }).await?;
            Ok(AddSystemResponse { token, expires_unix_ms: self.expiry(&token_sha256)? })
        })
    }

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        answer!(self, request, async |request: IssueTokenRequest, operator| {
            let system = parsed("system_id", &request.system_id)?;
            let (token, token_sha256) = self.new_token()?;
            self.commit(Command::IssueToken { system, token_sha256, operator }).await?;
            Ok(IssueTokenResponse { token, expires_unix_ms: self.expiry(&token_sha256)? })
        })
    }

    async fn set_system_state(
        &self,
        request: Request<SetSystemStateRequest>,
    ) -> Result<Response<SetSystemStateResponse>, Status> {
        answer!(self, request, async |request: SetSystemStateRequest, actor| {
            let (system, state) = (parsed("system_id", &request.system_id)?, request.state());
            let remark = required(request.remark)?;
            self.commit(Command::SetSystemState { system, state, actor, remark }).await?;
            Ok(SetSystemStateResponse { directory_version: self.directory_version() })
        })
    }

    async fn revoke_signing_key(
        &self,
        request: Request<RevokeSigningKeyRequest>,
    ) -> Result<Response<RevokeSigningKeyResponse>, Status> {
        answer!(self, request, async |request: RevokeSigningKeyRequest, actor| {
            let key_id = KeyId::from_slice(&request.key_id)
                .map_err(|error| Error::invalid("key_id", Reason::FieldInvalid, error))?;
            let remark = required(request.remark)?;
            self.commit(Command::RevokeSigningKey { key_id, only_of: None, actor, remark }).await?;
            Ok(RevokeSigningKeyResponse { directory_version: self.directory_version() })
        })
    }

    async fn limit_signing_key(
        &self,
        request: Request<LimitSigningKeyRequest>,
    ) -> Result<Response<LimitSigningKeyResponse>, Status> {
        answer!(self, request, async |request: LimitSigningKeyRequest, actor| {
            let key_id = KeyId::from_slice(&request.key_id)
                .map_err(|error| Error::invalid("key_id", Reason::FieldInvalid, error))?;
            let codes = request.agencies.iter().enumerate();
            let agencies = codes.map(|(place, code)| parsed(&format!("agencies[{place}]"), code));
            let agencies = agencies.collect::<Result<_, Error>>()?;
            let (remark, valid_until_unix_ms) = (required(request.remark)?, request.valid_until_unix_ms);
            let limit = Command::LimitSigningKey { key_id, agencies, valid_until_unix_ms, actor, remark };
            self.commit(limit).await?;
            Ok(LimitSigningKeyResponse { directory_version: self.directory_version() })
        })
    }

    async fn register_certificate(
        &self,
        request: Request<RegisterCertificateRequest>,
    ) -> Result<Response<RegisterCertificateResponse>, Status> {
        answer!(self, request, async |request: RegisterCertificateRequest, actor| {
            let system: SystemId = parsed("system_id", &request.system_id)?;
            let certificate = identity::registered(&request.certificate, &system)?;
            let (fingerprint, remark) = (certificate.fingerprint.clone(), request.remark);
            self.commit(Command::RegisterCertificate { certificate, actor, remark }).await?;
            Ok(RegisterCertificateResponse { fingerprint, directory_version: self.directory_version() })
        })
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<RevokeCertificateResponse>, Status> {
        answer!(self, request, async |request: RevokeCertificateRequest, actor| {
            let fingerprint = Digest::from_slice(&request.fingerprint)
                .map_err(|error| Error::invalid("fingerprint", Reason::FieldInvalid, error))?;
            let remark = required(request.remark)?;
            self.commit(Command::RevokeCertificate { fingerprint, actor, remark }).await?;
            Ok(RevokeCertificateResponse { directory_version: self.directory_version() })
        })
    }

    async fn list_systems(
        &self,
        request: Request<ListSystemsRequest>,
    ) -> Result<Response<ListSystemsResponse>, Status> {
        answer!(self, request, async |_: ListSystemsRequest, _| {
            let systems = self.ctx.read(query::systems);
            let systems = systems.into_iter().map(|system| self.summary(system));
            Ok(ListSystemsResponse { systems: systems.collect::<Result<_>>()? })
        })
    }

    async fn list_agencies(
        &self,
        request: Request<ListAgenciesRequest>,
    ) -> Result<Response<ListAgenciesResponse>, Status> {
        answer!(self, request, async |request: ListAgenciesRequest, _| {
            let max = page("max_agencies", request.max_agencies)?;
            let (agencies, next_after) =
                self.ctx.read(|read| query::agencies(read, &request.after, max, &request.containing));
            Ok(ListAgenciesResponse { agencies, next_after })
        })
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        answer!(self, request, async |request: ListGroupsRequest, _| {
            let max = page("max_groups", request.max_groups)?;
            let (groups, next_after) = self.ctx.read(|read| query::groups(read, &request.after, max));
            Ok(ListGroupsResponse { groups, next_after })
        })
    }

    async fn list_group_members(
        &self,
        request: Request<ListGroupMembersRequest>,
    ) -> Result<Response<ListGroupMembersResponse>, Status> {
        answer!(self, request, async |request: ListGroupMembersRequest, _| {
            let (group, max) = (request.group_id, page("max_members", request.max_members)?);
            let mut members = self.ctx.read(|read| {
                query::group(read, &group).map(|_| query::members(read, &group, &request.after, max + 1))
            });
            let members = members.as_mut().ok_or_else(|| Error::refused(Reason::GroupUnknown))?;
            let more = members.len() > max;
            members.truncate(max);
            let next_after = members.last().filter(|_| more).cloned().unwrap_or_default();
            Ok(ListGroupMembersResponse { members: std::mem::take(members), next_after })
        })
    }

    async fn list_queues(
        &self,
        request: Request<ListQueuesRequest>,
    ) -> Result<Response<ListQueuesResponse>, Status> {
        answer!(self, request, async |_: ListQueuesRequest, _| {
            Ok(ListQueuesResponse { queues: self.ctx.observe.queues() })
        })
    }

    async fn list_parked(
        &self,
        request: Request<ListParkedRequest>,
    ) -> Result<Response<ListParkedResponse>, Status> {
        answer!(self, request, async |request: ListParkedRequest, _| {
            let system = optional("system", &request.system)?;
            let after = optional("after_delivery_id", &request.after_delivery_id)?;
            let max = page("max_deliveries", request.max_deliveries)?;
            let (deliveries, more) = self.ctx.observe.parked(system.as_ref(), after, max);
            let next = deliveries.last().filter(|_| more).map(|last| last.delivery_id.clone());
            Ok(ListParkedResponse { deliveries, next_after_delivery_id: next.unwrap_or_default() })
        })
    }

    async fn requeue(&self, request: Request<RequeueRequest>) -> Result<Response<RequeueResponse>, Status> {
        answer!(self, request, async |request: RequeueRequest, operator| {
            let delivery: DeliveryId = parsed("delivery_id", &request.delivery_id)?;
            let remark = required(request.remark)?;
            let outcome = self.commit(Command::Requeue { delivery, operator, remark }).await?;
            Ok(RequeueResponse { sequence: outcome.sequence().unwrap_or_default() })
        })
    }

    async fn r#return(&self, request: Request<ReturnRequest>) -> Result<Response<ReturnResponse>, Status> {
        answer!(self, request, async |request: ReturnRequest, operator| {
            let delivery: DeliveryId = parsed("delivery_id", &request.delivery_id)?;
            let remark = required(request.remark)?;
            let outcome = self.commit(Command::Return { delivery, operator, remark }).await?;
            Ok(ReturnResponse { sequence: outcome.sequence().unwrap_or_default() })
        })
    }

    async fn track(&self, request: Request<TrackRequest>) -> Result<Response<TrackResponse>, Status> {
        answer!(self, request, async |request: TrackRequest, _| {
            let missing = || Error::invalid("request", Reason::FieldInvalid, "missing");
            let request = request.request.ok_or_else(missing)?;
            // may wait for the disk
            let ctx = self.ctx.clone();
            let tracked = tokio::task::spawn_blocking(move || track::track(&ctx, &request, None));
            Ok(TrackResponse { response: Some(tracked.await.map_err(Error::fault)??) })
        })
    }

    async fn request_purge(
        &self,
        request: Request<RequestPurgeRequest>,
    ) -> Result<Response<RequestPurgeResponse>, Status> {
        answer!(self, request, async |request: RequestPurgeRequest, operator| {
            let envelope_sequence = self.envelope(&request.sender, &request.envelope_id)?;
            let remark = required(request.remark)?;
            let outcome = self.commit(Command::RequestPurge { envelope_sequence, operator, remark }).await?;
            let purge = self.ctx.read(|read| query::purge(read, envelope_sequence));
            Ok(RequestPurgeResponse {
                sequence: outcome.sequence().unwrap_or_default(),
                lapses_unix_ms: purge.map_or(0, |purge| purge.lapses_unix_ms),
            })
        })
    }

    async fn confirm_purge(
        &self,
        request: Request<ConfirmPurgeRequest>,
    ) -> Result<Response<ConfirmPurgeResponse>, Status> {
        answer!(self, request, async |request: ConfirmPurgeRequest, operator| {
            let envelope_sequence = self.envelope(&request.sender, &request.envelope_id)?;
            self.commit(Command::ConfirmPurge { envelope_sequence, operator }).await?;
            let row = self.ctx.read(|read| query::envelope(read, envelope_sequence));
            let retention = self.ctx.retention.clone();
            // goes on if the caller stops waiting
            let purge = tokio::spawn(async move { retention.purge(envelope_sequence).await });
            let purged = purge.await.map_err(Error::fault)??;
            let bytes = |digests: Vec<Digest>| {
                digests.into_iter().map(|sha256| Bytes::copy_from_slice(sha256.as_bytes())).collect()
            };
            Ok(ConfirmPurgeResponse {
                erased_sequence: purged.erased_sequence,
                envelope_digest: row.map(|row| Bytes::from(row.envelope_digest)).unwrap_or_default(),
                returned_count: purged.returned,
                taken_count: purged.taken,
                segments_rewritten: purged.segments,
                erased_bytes: purged.removed.bytes,
                documents_removed: bytes(purged.documents_removed),
                documents_kept: bytes(purged.documents_kept),
                documents_busy: bytes(purged.documents_busy),
            })
        })
    }

    async fn confirm_clock(
        &self,
        request: Request<ConfirmClockRequest>,
    ) -> Result<Response<ConfirmClockResponse>, Status> {
        answer!(self, request, async |_: ConfirmClockRequest, operator| {
            let outcome = self.commit(Command::ConfirmClock { operator }).await?;
            self.ctx.clock.confirm();
            Ok(ConfirmClockResponse { sequence: outcome.sequence().unwrap_or_default() })
        })
    }

    type BackupStream = super::backup::Answers;

    async fn backup(
        &self,
        request: Request<tonic::Streaming<BackupRequest>>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let (language, operator) = (status::language(request.metadata()), operator(&request));
        let begun = super::backup::begin(&self.ctx, request.into_inner(), language, operator);
        self.ctx.answer(begun.await, language)
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        answer!(self, request, async |_: GetStatusRequest, _| { Ok(self.ctx.observe.status()) })
    }
}

impl Admin {
    async fn commit(&self, command: Command) -> Result<Outcome> {
        self.ctx.committer.commit(command).await
    }

    /// The envelope that a request names.
    fn envelope(&self, sender: &str, envelope_id: &[u8]) -> Result<u64> {
        let sender = parsed("sender", sender)?;
        let id = EnvelopeId::from_slice(envelope_id)
            .map_err(|error| Error::invalid("envelope_id", Reason::FieldInvalid, error))?;
        let found = self.ctx.read(|read| query::envelope_by_id(read, &sender, &id));
        found.ok_or_else(|| Error::invalid("envelope_id", Reason::NotFound, id))
    }

    fn directory_version(&self) -> u64 {
        self.ctx.read(|read| query::directory_version(read))
    }

    fn new_token(&self) -> Result<(String, Digest)> {
        let address = &self.ctx.addresses.public_enrolment;
        let (token, digest) = identity::new_token(address, self.ctx.identity.authority.key_sha256())?;
        Ok((token.to_string(), digest))
    }

    fn expiry(&self, token_sha256: &Digest) -> Result<u64> {
        let token = self.ctx.read(|read| query::token(read, token_sha256));
        // used within the moment since it was recorded: it has no time left
        Ok(token.map_or(0, |token| token.expires_unix_ms))
    }

    fn summary(&self, system: System) -> Result<SystemSummary> {
        let id: SystemId = system.system_id.parse().map_err(Error::fault)?;
        Ok(self.ctx.read(|read| SystemSummary {
            agency_count: query::agency_count(read, &id),
            certificates: query::certificates_of(read, &id),
            signing_keys: query::signing_keys_of(read, &id),
            last_seen_unix_ms: self.ctx.presence.of(&id).last_unix_ms,
            system: Some(system.clone()),
        }))
    }
}

/// Who is at the other end of the socket: `local:` and the name of the user
/// who logged in, also where `sudo` made another of it; or, if the system does
/// not say, `account:` and that of the user who calls, whom several people may
/// be. Its number if it has no name.
fn operator<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let Some(peer) = peer else { return format!("{ACCOUNT}unknown") };
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    named(&users, peer.pid().and_then(login_of), peer.uid())
}

fn named(users: &str, login: Option<u32>, caller: u32) -> String {
    let (how, uid) = login.map_or((ACCOUNT, caller), |login| ("local:", login));
    format!("{how}{}", user_name(users, uid).unwrap_or_else(|| uid.to_string()))
}

/// Who logged in, as the kernel remembers it; `None` for what nobody logged
/// in for.
fn login_of(pid: i32) -> Option<u32> {
    let login = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    login.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

fn user_name(users: &str, uid: u32) -> Option<String> {
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()))?;
    let name = line.split(':').next().filter(|name| !name.is_empty())?;
    let mut end = name.len().min(limits::OPERATOR_BYTES_MAX - ACCOUNT.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Some(name[..end].to_owned())
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Error::invalid(field, Reason::FieldInvalid, error))
}

fn optional<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { parsed(field, text).map(Some) }
}

fn required(remark: String) -> Result<String> {
    match remark.trim().is_empty() {
        true => Err(Error::invalid("remark", Reason::FieldInvalid, "say why")),
        false => Ok(remark),
    }
}

fn page(field: &str, asked: u32) -> Result<usize> {
    match asked {
        0 => Ok(100),
        1..=1_000 => Ok(asked as usize),
        _ => Err(Error::invalid(field, Reason::TooLarge, asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_have_names() {
        let users = "root:x:0:0:root:/root:/bin/sh\naxis:x:990:990::/:/bin/false\nbroken\n";
        assert_eq!(user_name(users, 0).as_deref(), Some("root"));
        assert_eq!(user_name(users, 990).as_deref(), Some("axis"));
        assert_eq!(user_name(users, 99), None);
        let long = format!("{}:x:5:5::/:/bin/sh", "ễ".repeat(200));
        assert_eq!(user_name(&long, 5).unwrap(), "ễ".repeat(18));
        assert!(named(&long, None, 5).len() <= limits::OPERATOR_BYTES_MAX);
        // who did not log in is not taken for somebody who did
        assert_eq!(named(users, Some(0), 990), "local:root");
        assert_eq!(named(users, Some(1_000), 990), "local:1000");
        assert_eq!(named(users, None, 990), "account:axis");
        assert_eq!(named(users, None, 77), "account:77");
    }

    #[test]
    fn bad_fields_are_named() {
        let error = parsed::<SystemId>("system_id", "Not An Id").unwrap_err().to_string();
        assert!(error.contains("system_id"), "{error}");
        assert!(required(" \n".to_owned()).unwrap_err().to_string().contains("remark"));
        assert_eq!(page("max_agencies", 0).unwrap(), 100);
        assert_eq!(page("max_agencies", 1_000).unwrap(), 1_000);
        assert!(page("max_agencies", 1_001).is_err());
        assert_eq!(optional::<SystemId>("system", "").unwrap(), None);
    }
}
