//! Stands before every call on the systems' listener, health and reflection
//! included: no call goes further without a known caller.

use std::{
    collections::HashMap,
    future::ready,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task,
};

use axis_proto::{hub::v1::Reason, id::SystemId};
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use tonic::{body::Body, metadata::MetadataMap};
use tower::{Layer, Service};

use super::{Context, listener::Peer, status};
use crate::{
    authenticate::{Caller, authenticate},
    error::{Error, Refusal, Result},
    limits,
};

/// Puts the [`Caller`] into the extensions of each request, or refuses it.
#[derive(Clone)]
pub struct AuthenticateLayer {
    ctx: Arc<Context>,
    calls: Calls,
    streams: Calls,
}

/// A service behind [`AuthenticateLayer`].
#[derive(Clone)]
pub struct Authenticate<S> {
    ctx: Arc<Context>,
    calls: Calls,
    streams: Calls,
    inner: S,
}

impl AuthenticateLayer {
    /// For the systems' listener.
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx, calls: Calls::default(), streams: Calls::default() }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        let (calls, streams) = (self.calls.clone(), self.streams.clone());
        Authenticate { ctx: self.ctx.clone(), calls, streams, inner }
    }
}

impl<S, B> Service<http::Request<B>> for Authenticate<S>
where
    S: Service<
            http::Request<B>,
            Response = http::Response<Body>,
            Error: Send + 'static,
            Future: Send + 'static,
        >,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let admitted = caller(&self.ctx, request.extensions().get::<Arc<Peer>>()).and_then(|caller| {
            let call = self.calls.begin(&caller.system, limits::CALLS_PER_SYSTEM_MAX)?;
            let stream = answers_a_stream(request.uri().path())
                .then(|| self.streams.begin(&caller.system, limits::STREAMS_PER_SYSTEM_MAX))
                .transpose()?;
            Ok(((call, stream), caller))
        });
        match admitted {
            Ok((under_way, caller)) => {
                request.extensions_mut().insert(caller);
                // until the answer's end is sent, or nobody waits for it
                Box::pin(
                    self.inner
                        .call(request)
                        .map(|answer| answer.map(|response| response.map(|body| held(body, under_way)))),
                )
            }
            Err(error) => {
                let language = status::language(&MetadataMap::from_headers(request.headers().clone()));
                Box::pin(ready(Ok(self.ctx.status(&error, language).into_http())))
            }
        }
    }
}

/// Methods whose answer is a stream.
const STREAMS: [&str; 6] =
    ["/SubmitStream", "/Receive", "/Download", "/Follow", "/Watch", "/ServerReflectionInfo"];

fn answers_a_stream(path: &str) -> bool {
    STREAMS.iter().any(|method| path.ends_with(method))
}

/// A body that keeps something for as long as it lives.
fn held(body: Body, kept: impl Send + 'static) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _ = &kept;
        frame
    }))
}

/// Calls whose answer is not sent, by system: each holds memory, so nobody
/// has too many.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<Mutex<HashMap<SystemId, usize>>>);

/// One call under way.
#[derive(Debug)]
struct UnderWay(Calls, SystemId);

impl Calls {
    fn begin(&self, system: &SystemId, max: usize) -> Result<UnderWay> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(system.clone()).or_default();
        if *count >= max {
            return Err(Refusal::new(Reason::Busy).retry_after_ms(limits::CALLS_RETRY_MS).into());
        }
        *count += 1;
        Ok(UnderWay(self.clone(), system.clone()))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

fn caller(ctx: &Context, peer: Option<&Arc<Peer>>) -> Result<Caller> {
    let fingerprint = peer.and_then(|peer| peer.fingerprint);
    let fingerprint = fingerprint.ok_or_else(|| Error::refused(Reason::NotAuthenticated))?;
    let now_ms = ctx.now_ms();
    let caller = ctx.read(|read| authenticate(read, fingerprint, now_ms))?;
    ctx.presence.seen(&caller.system, now_ms);
    Ok(caller)
}

/// Cuts the connections of callers that may no longer call: looks whenever
/// the directory changes, and every minute for certificates that end.
pub async fn cut_the_unwelcome(ctx: Arc<Context>) {
    let mut progress = ctx.committer.watch();
    let mut version = progress.borrow_and_update().directory_version;
    loop {
        let changed = tokio::time::timeout(crate::limits::ACCESS_CHECK_INTERVAL, async {
            while progress.changed().await.is_ok() {
                let now = progress.borrow_and_update().directory_version;
                if std::mem::replace(&mut version, now) != now {
                    return;
                }
            }
            // the writer is gone, and the hub with it
            std::future::pending::<()>().await;
        });
        tokio::select! {
            () = ctx.stopping.cancelled() => return,
            _ = changed => {}
        }
        for fingerprint in ctx.connections.fingerprints() {
            let now_ms = ctx.now_ms();
            if let Err(error) = ctx.read(|read| authenticate(read, fingerprint, now_ms)) {
                let connections = ctx.connections.cut(&fingerprint);
                tracing::info!(%fingerprint, connections, %error, "connections cut");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_system_has_only_so_many_calls_under_way() {
        let calls = Calls::default();
        let (vpcp, moh): (SystemId, SystemId) = ("vpcp".parse().unwrap(), "moh".parse().unwrap());
        let held: Vec<_> = (0..3).map(|_| calls.begin(&vpcp, 3).unwrap()).collect();
        assert!(calls.begin(&vpcp, 3).unwrap_err().to_string().contains("BUSY"));
        let other = calls.begin(&moh, 3).unwrap();
        drop(held);
        drop(calls.begin(&vpcp, 3).unwrap());
        drop(other);
        assert!(calls.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_call_counts_until_its_answer_is_sent() {
        let calls = Calls::default();
        let call = calls.begin(&"vpcp".parse().unwrap(), 1).unwrap();
        let body = held(Body::new("answer".to_owned().map_err(|never| match never {})), call);
        assert_eq!(calls.0.lock().unwrap().len(), 1);
        drop(body);
        assert!(calls.0.lock().unwrap().is_empty());
    }

    #[test]
    fn every_method_that_answers_a_stream_is_known() {
        for set in [axis_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            let set = prost_types::FileDescriptorSet::decode(set).unwrap();
            let services = set.file.iter().flat_map(|file| &file.service);
            for method in services.flat_map(|service| &service.method) {
                let path = format!("/service/{}", method.name());
                assert_eq!(answers_a_stream(&path), method.server_streaming(), "{path}");
            }
        }
    }
}
