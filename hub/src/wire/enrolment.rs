//! How a system gets its identity and changes it. A token opens once, a key
//! is registered only with the proof that its holder asks.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axis_proto::{
    hub::v1::{
        EnrolRequest, EnrolResponse, Reason, RenewRequest, RenewResponse, RevokeSigningKeyRequest,
        RevokeSigningKeyResponse,
        enrolment_service_server::{EnrolmentService, EnrolmentServiceServer},
        identity_service_server::{IdentityService, IdentityServiceServer},
    },
    id::{Digest, KeyId, SystemId},
    key::PublicKey,
    record::v1::{Certificate, Receipt, SigningKey},
    token,
};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::{
    Context, caller,
    listener::{Peer, network},
    quota::{Cost, Lane},
    status,
};
use crate::{
    error::{Error, Refusal, Result},
    identity::{CertificateRequest, Issued},
    limits::{self, Millis},
    machine::{Command, Outcome, query},
};

/// The service of the enrolment listener.
pub fn enrolment_service(ctx: Arc<Context>) -> EnrolmentServiceServer<Enrolment> {
    let enrolment = Enrolment { ctx, throttle: Throttle::default() };
    EnrolmentServiceServer::new(enrolment).max_decoding_message_size(limits::ENROL_BYTES_MAX)
}

/// The service of systems for their own identity.
pub fn identity_service(ctx: Arc<Context>) -> IdentityServiceServer<Identity> {
    IdentityServiceServer::new(Identity { ctx }).max_decoding_message_size(limits::ENROL_BYTES_MAX)
}

/// See [`enrolment_service`].
pub struct Enrolment {
    ctx: Arc<Context>,
    throttle: Throttle,
}

/// See [`identity_service`].
pub struct Identity {
    ctx: Arc<Context>,
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let language = status::language(request.metadata());
        let peer = request.extensions().get::<Arc<Peer>>().map(|peer| peer.remote_addr.ip());
        self.ctx.answer(self.enrol(peer, request.into_inner()).await, language)
    }
}

impl Enrolment {
    async fn enrol(&self, peer: Option<IpAddr>, request: EnrolRequest) -> Result<EnrolResponse> {
        let now_ms = self.ctx.now_ms();
        self.throttle.check(peer, now_ms)?;
        let enrolled = self.enrol_unthrottled(request, now_ms).await;
        if let Err(Error::Refused(refusal)) = &enrolled
            && refusal.reason == Reason::TokenInvalid
        {
            tracing::info!(remote_addr = ?peer, "enrolment token refused");
            self.throttle.failed(peer, now_ms);
        }
        enrolled
    }

    async fn enrol_unthrottled(&self, request: EnrolRequest, now_ms: Millis) -> Result<EnrolResponse> {
        let ctx = &self.ctx;
        // found by the digest of a 128-bit secret: what a look-up's time
        // tells of a digest says nothing of the secret
        let token_sha256 = Digest::of(&request.token_secret);
        let issued = ctx.read(|read| query::token(read, &token_sha256));
        let issued = issued.filter(|issued| now_ms < issued.expires_unix_ms);
        let issued = issued.ok_or_else(|| Error::refused(Reason::TokenInvalid))?;
        let system: SystemId = issued.system.parse().map_err(Error::fault)?;

        let asked = CertificateRequest::parse(&request.certificate_request)?;
        let proven = token::enrol_proof_message(&request.token_secret, &request.certificate_request);
        let signing_key =
            signing_key(&request.signing_public_key, &proven, &request.signing_key_proof, &system, now_ms)?;
        let issued = ctx.identity.authority.certify_system(
            &asked,
            &system,
            now_ms,
            ctx.config.tls.certificate_days,
        )?;
        let certificate = registered(&issued, &system);
        let outcome = ctx.committer.commit(Command::Enrol { token_sha256, certificate, signing_key }).await?;
        tracing::info!(%system, fingerprint = %issued.fingerprint, "system enrolled");

        let agencies = ctx.read(|read| query::agencies_of(read, &system, limits::AGENCIES_SHOWN_MAX));
        Ok(EnrolResponse {
            system_id: system.to_string(),
            certificate: Bytes::copy_from_slice(&issued.der),
            authority_certificate: Bytes::copy_from_slice(ctx.identity.authority.certificate()),
            hub_id: ctx.config.hub_id.to_string(),
            log_verifier_key: ctx.log_verifier_key.clone(),
            hub_address: ctx.addresses.public_systems.clone(),
            agencies: agencies.iter().map(ToString::to_string).collect(),
            receipt: Some(receipt(ctx, &outcome).await?),
        })
    }
}

#[tonic::async_trait]
impl IdentityService for Identity {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let language = status::language(request.metadata());
        let system = caller(&request)?.system;
        self.ctx.answer(self.renew(system, request.into_inner()).await, language)
    }

    async fn revoke_signing_key(
        &self,
        request: Request<RevokeSigningKeyRequest>,
    ) -> Result<Response<RevokeSigningKeyResponse>, Status> {
        let language = status::language(request.metadata());
        let system = caller(&request)?.system;
        self.ctx.answer(self.revoke(system, request.into_inner()).await, language)
    }
}

impl Identity {
    async fn renew(&self, system: SystemId, request: RenewRequest) -> Result<RenewResponse> {
        let (ctx, now_ms) = (&self.ctx, self.ctx.now_ms());
        ctx.quota.spend(&system, Lane::Ordinary, Cost { records: limits::RENEWAL_COST_RECORDS, bytes: 0 })?;
        let issued = match request.certificate_request.is_empty() {
            true => None,
            false => {
                let asked = CertificateRequest::parse(&request.certificate_request)?;
                let days = ctx.config.tls.certificate_days;
                Some(ctx.identity.authority.certify_system(&asked, &system, now_ms, days)?)
            }
        };
        let signing_key = match request.signing_public_key.is_empty() {
            true => None,
            false => {
                let proven = token::renew_proof_message(&system, &request.certificate_request);
                let (key, proof) = (&request.signing_public_key, &request.signing_key_proof);
                Some(signing_key(key, &proven, proof, &system, now_ms)?)
            }
        };
        if issued.is_none() && signing_key.is_none() {
            let nothing = "neither a certificate request nor a key";
            return Err(Error::invalid("certificate_request", Reason::FieldInvalid, nothing));
        }
        let certificate = issued.as_ref().map(|issued| registered(issued, &system));
        let command = Command::Renew { system: system.clone(), certificate, signing_key };
        let outcome = ctx.committer.commit(command).await?;
        tracing::info!(%system, "identity renewed");
        Ok(RenewResponse {
            certificate: issued.map(|issued| Bytes::copy_from_slice(&issued.der)).unwrap_or_default(),
            receipt: Some(receipt(ctx, &outcome).await?),
        })
    }

    async fn revoke(
        &self,
        system: SystemId,
        request: RevokeSigningKeyRequest,
    ) -> Result<RevokeSigningKeyResponse> {
        self.ctx.quota.spend(&system, Lane::Ordinary, Cost { records: 1, bytes: 0 })?;
        let key_id = KeyId::from_slice(&request.key_id)
            .map_err(|error| Error::invalid("key_id", Reason::FieldInvalid, error))?;
        let command = Command::RevokeSigningKey {
            key_id,
            actor: system.to_string(),
            only_of: Some(system.clone()),
            remark: String::new(),
        };
        let outcome = self.ctx.committer.commit(command).await?;
        tracing::info!(%system, %key_id, "signing key revoked by its system");
        Ok(RevokeSigningKeyResponse { receipt: Some(receipt(&self.ctx, &outcome).await?) })
    }
}

/// A key whose holder proved it.
fn signing_key(
    public_key: &[u8],
    proven: &[u8],
    proof: &[u8],
    system: &SystemId,
    now_ms: Millis,
) -> Result<SigningKey> {
    let public_key = PublicKey::from_slice(public_key).filter(PublicKey::is_valid);
    let public_key = public_key.ok_or_else(|| {
        Error::invalid("signing_public_key", Reason::FieldInvalid, "not an Ed25519 key of 32 bytes")
    })?;
    if !public_key.verify_strict(proven, proof) {
        return Err(Error::invalid("signing_key_proof", Reason::SignatureInvalid, ""));
    }
    Ok(SigningKey {
        key_id: Bytes::copy_from_slice(public_key.key_id().as_bytes()),
        public_key: Bytes::copy_from_slice(public_key.as_bytes()),
        system: system.to_string(),
        agencies: Vec::new(),
        valid_from_unix_ms: now_ms,
        valid_until_unix_ms: 0,
        revoked_unix_ms: 0,
    })
}

fn registered(issued: &Issued, system: &SystemId) -> Certificate {
    Certificate {
        fingerprint: Bytes::copy_from_slice(issued.fingerprint.as_bytes()),
        system: system.to_string(),
        valid_from_unix_ms: issued.valid_from_ms,
        valid_until_unix_ms: issued.valid_until_ms,
        revoked_unix_ms: 0,
    }
}

async fn receipt(ctx: &Arc<Context>, outcome: &Outcome) -> Result<Receipt> {
    let sequence = outcome.sequence().ok_or_else(|| Error::fault("a command without a record"))?;
    ctx.receipt(sequence).await
}

/// Counts wrong tokens by address, and answers no more for a while when there
/// are too many. Bounded: addresses beyond the bound share one count.
#[derive(Debug, Default)]
struct Throttle(Mutex<HashMap<Option<IpAddr>, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    since_ms: Millis,
}

impl Throttle {
    fn check(&self, address: Option<IpAddr>, now_ms: Millis) -> Result<()> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = address.map(network);
        // an address that is not counted alone is counted with the rest
        let failures = counts.get(&address).or_else(|| counts.get(&None));
        let until = failures
            .filter(|failures| failures.count >= limits::TOKEN_FAILURES_MAX)
            .map_or(0, |failures| failures.since_ms + limits::TOKEN_FAILURES_WINDOW_MS);
        match until.saturating_sub(now_ms) {
            0 => Ok(()),
            wait => Err(Refusal::new(Reason::Quota).retry_after_ms(wait).into()),
        }
    }

    fn failed(&self, address: Option<IpAddr>, now_ms: Millis) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut address = address.map(network);
        if counts.len() >= limits::TOKEN_FAILURES_ADDRESSES_MAX && !counts.contains_key(&address) {
            counts.retain(|_, failures| now_ms < failures.since_ms + limits::TOKEN_FAILURES_WINDOW_MS);
            if counts.len() >= limits::TOKEN_FAILURES_ADDRESSES_MAX {
                address = None;
            }
        }
        let failures = counts.entry(address).or_insert(Failures { count: 0, since_ms: now_ms });
        if now_ms >= failures.since_ms + limits::TOKEN_FAILURES_WINDOW_MS {
            *failures = Failures { count: 0, since_ms: now_ms };
        }
        failures.count = failures.count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use axis_proto::key;

    use super::*;

    #[test]
    fn a_key_is_registered_only_with_its_holders_proof() {
        let system: SystemId = "vpcp".parse().unwrap();
        let key = key::SigningKey::generate();
        let proven = token::enrol_proof_message(&[7; 16], b"request");
        let proof = key.sign(&proven);
        let public = *key.public().as_bytes();
        let registered = signing_key(&public, &proven, &proof, &system, 5).unwrap();
        assert_eq!(registered.key_id, key.public().key_id().as_bytes().as_slice());
        assert_eq!(registered.valid_from_unix_ms, 5);
        let other = token::enrol_proof_message(&[8; 16], b"request");
        let renew = token::renew_proof_message(&system, b"request");
        for (public, proven, proof) in [
            (&public[..], &other, &proof[..]),
            (&public[..], &renew, &proof[..]),
            (&public[..31], &proven, &proof[..]),
            (&[0; 32][..], &proven, &proof[..]),
            (&public[..], &proven, &proof[..63]),
            (&public[..], &proven, &[][..]),
        ] {
            assert!(signing_key(public, proven, proof, &system, 5).is_err());
        }
    }

    #[test]
    fn wrong_tokens_cost_their_address_a_while() {
        let throttle = Throttle::default();
        let bad = Some("192.0.2.1".parse().unwrap());
        for _ in 0..limits::TOKEN_FAILURES_MAX {
            throttle.check(bad, 1_000).unwrap();
            throttle.failed(bad, 1_000);
        }
        let Err(Error::Refused(refusal)) = throttle.check(bad, 2_000) else { panic!("not throttled") };
        assert_eq!(refusal.retry_after_ms, limits::TOKEN_FAILURES_WINDOW_MS - 1_000);
        assert!(throttle.check(Some("192.0.2.2".parse().unwrap()), 2_000).is_ok());
        assert!(throttle.check(Some("::ffff:192.0.2.1".parse().unwrap()), 2_000).is_err());
        let later = 1_000 + limits::TOKEN_FAILURES_WINDOW_MS;
        throttle.check(bad, later).unwrap();
        throttle.failed(bad, later);
        throttle.check(bad, later).unwrap();
    }

    #[test]
    fn many_addresses_share_one_count_in_bounded_memory() {
        let throttle = Throttle::default();
        let address = |number: u32| Some(IpAddr::from(number.to_be_bytes()));
        let many = u32::try_from(limits::TOKEN_FAILURES_ADDRESSES_MAX).unwrap();
        for number in 0..many + limits::TOKEN_FAILURES_MAX {
            throttle.failed(address(number), 1_000);
        }
        assert!(throttle.0.lock().unwrap().len() <= limits::TOKEN_FAILURES_ADDRESSES_MAX + 1);
        assert!(throttle.check(address(many + 1_000), 2_000).is_err(), "counted with the rest");
        assert!(throttle.check(address(1), 2_000).is_ok(), "counted alone");
    }
}
