//! What a client should know first: the hub's name, keys, clock and limits.

use std::{collections::BTreeMap, sync::Arc};

use axis_proto::{
    hub::v1::{
        GetInfoRequest, GetInfoResponse,
        hub_service_server::{HubService, HubServiceServer},
    },
    limits as agreed,
};
use tonic::{Request, Response, Status};

use super::{Context, call::Call};
use crate::{config::Config, limits, machine::query};

/// The service.
pub fn service(context: Arc<Context>) -> HubServiceServer<impl HubService> {
    HubServiceServer::new(Service { context }).max_decoding_message_size(limits::SMALL_REQUEST_BYTES_MAX)
}

struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl HubService for Service {
    async fn get_info(
        &self,
        request: Request<GetInfoRequest>,
    ) -> std::result::Result<Response<GetInfoResponse>, Status> {
        let (call, _) = Call::begin(&self.context, request)?;
        let agencies = call.read(|read| query::agencies_of(read, call.system(), limits::AGENCIES_SHOWN_MAX));
        call.end(Ok(GetInfoResponse {
            hub_id: call.context.config.hub_id.to_string(),
            log_verifier_key: call.context.log_verifier_key.clone(),
            limits: published(&call.context.config),
            now_unix_ms: call.context.now_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            system_id: call.system().to_string(),
            agencies: agencies.iter().map(ToString::to_string).collect(),
            log_successions: call.context.log_successions.clone(),
        }))
    }
}

/// Every bound that a client meets, by name; each name ends in its unit.
fn published(config: &Config) -> BTreeMap<String, u64> {
    let seconds = |duration: std::time::Duration| duration.as_secs();
    let limits: [(&str, u64); 47] = [
        ("payload_bytes", agreed::PAYLOAD_BYTES_MAX as u64),
        ("signatures_count", agreed::SIGNATURES_MAX as u64),
        ("recipients_named_count", agreed::RECIPIENTS_NAMED_MAX as u64),
        ("recipients_count", limits::RECIPIENTS_MAX as u64),
        ("groups_count", agreed::GROUPS_MAX as u64),
        ("references_count", agreed::REFERENCES_MAX as u64),
        ("documents_count", agreed::DOCUMENTS_MAX as u64),
        ("document_bytes", agreed::DOCUMENT_BYTES_MAX),
        ("inline_document_bytes", agreed::INLINE_DOCUMENT_BYTES_MAX as u64),
        ("inline_bytes", agreed::INLINE_BYTES_MAX as u64),
        ("text_bytes", agreed::TEXT_BYTES_MAX as u64),
        ("metadata_list_count", agreed::METADATA_LIST_MAX as u64),
        ("file_name_bytes", agreed::FILE_NAME_BYTES_MAX as u64),
        ("media_type_bytes", agreed::MEDIA_TYPE_BYTES_MAX as u64),
        ("reference_bytes", agreed::REFERENCE_BYTES_MAX as u64),
        ("request_bytes", limits::REQUEST_BYTES_MAX as u64),
        ("response_bytes", limits::RESPONSE_BYTES_MAX as u64),
        ("pull_bytes", limits::PULL_BYTES_MAX as u64),
        ("upload_chunk_bytes", agreed::UPLOAD_CHUNK_BYTES_MAX as u64),
        ("download_chunk_bytes", limits::DOWNLOAD_CHUNK_BYTES as u64),
        ("created_age_ms", limits::CREATED_AGE_MAX_MS),
        ("created_ahead_ms", limits::CREATED_AHEAD_MAX_MS),
        ("expires_default_ms", limits::EXPIRES_DEFAULT_MS),
        ("expires_ms", limits::EXPIRES_MAX_MS),
        ("expiry_warning_ms", limits::EXPIRY_WARNING_MS),
        ("upload_pinned_ms", limits::UPLOAD_PINNED_MS),
        ("lease_default_ms", limits::LEASE_DEFAULT_MS),
        ("lease_shortest_ms", limits::LEASE_MIN_MS),
        ("lease_ms", limits::LEASE_MAX_MS),
        ("attempts_count", limits::ATTEMPTS_MAX.into()),
        ("backoff_shortest_ms", limits::BACKOFF_MIN_MS),
        ("backoff_ms", limits::BACKOFF_MAX_MS),
        ("nack_delay_ms", limits::NACK_DELAY_MAX_MS),
        ("leased_count", limits::LEASED_PER_SYSTEM_MAX),
        ("credit_count", limits::CREDIT_MAX.into()),
        ("pull_count", limits::PULL_MAX.into()),
        ("pull_wait_ms", limits::PULL_WAIT_MAX_MS),
        ("gone_count", limits::GONE_MAX as u64),
        ("progress_interval_s", seconds(limits::PROGRESS_INTERVAL)),
        ("submit_stream_pending_count", limits::SUBMIT_STREAM_PENDING_MAX as u64),
        ("uploads_count", limits::UPLOADS_PER_SYSTEM_MAX as u64),
        ("upload_idle_s", seconds(limits::UPLOAD_IDLE_TIMEOUT)),
        ("streams_per_connection_count", limits::STREAMS_PER_CONNECTION_MAX.into()),
        ("violations_count", limits::VIOLATIONS_MAX as u64),
        ("status_violations_count", limits::STATUS_VIOLATIONS_MAX as u64),
        ("day_records_count", config.quota.records_per_day),
        ("day_bytes", config.quota.bytes_per_day),
    ];
    limits.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once_and_ends_in_its_unit() {
        let limits = published(&Config::new("", "axis.test".parse().unwrap()));
        assert_eq!(limits.len(), 47, "no name twice");
        let units = ["_bytes", "_count", "_ms", "_s"];
        for name in limits.keys() {
            assert!(units.iter().any(|unit| name.ends_with(unit)), "{name}");
        }
        assert_eq!(limits["payload_bytes"], 262_144);
    }
}
