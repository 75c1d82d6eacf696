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

use super::{Context, listener::Peer, room::Metered, status};
use crate::{
    authenticate::{Caller, authenticate},
    error::{Error, Refusal, Result},
    limits,
};

/// Puts the [`Caller`] into the extensions of each request, or refuses it.
#[derive(Clone)]
pub struct AuthenticateLayer {
    ctx: Arc<Context>,
    counts: Counts,
}

/// A service behind [`AuthenticateLayer`].
#[derive(Clone)]
pub struct Authenticate<S> {
    ctx: Arc<Context>,
    counts: Counts,
    inner: S,
}

impl AuthenticateLayer {
    /// For the systems' listener.
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx, counts: Counts::default() }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { ctx: self.ctx.clone(), counts: self.counts.clone(), inner }
    }
}

impl<S> Service<http::Request<Body>> for Authenticate<S>
where
    S: Service<
            http::Request<Body>,
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

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let language = status::language(&MetadataMap::from_headers(request.headers().clone()));
        let admitted = caller(&self.ctx, request.extensions().get::<Arc<Peer>>())
            .and_then(|caller| Ok((self.counts.begin(&caller.system, request.uri().path())?, caller)));
        match admitted {
            Ok((under_way, caller)) => {
                let (ctx, room) = (self.ctx.clone(), self.ctx.room.clone());
                let patience = ctx.config.patience.message;
                let many = takes_a_stream(request.uri().path());
                let refuse = Box::new(move |error: &Error| ctx.status(error, language));
                let mut taken = None;
                let mut request = request.map(|body| {
                    let body = Metered::new(body, room, caller.system.clone(), many, patience, refuse);
                    taken = Some(body.taken());
                    Body::new(body)
                });
                request.extensions_mut().insert(caller);
                // until the answer's end is sent, or nobody waits for it
                let kept = (under_way, taken);
                let answered = self.inner.call(request);
                Box::pin(answered.map(|answer| answer.map(|response| response.map(|body| held(body, kept)))))
            }
            Err(error) => Box::pin(ready(Ok(self.ctx.status(&error, language).into_http()))),
        }
    }
}

/// Methods whose answer is a stream.
const STREAMS: [&str; 6] =
    ["/SubmitStream", "/Receive", "/Download", "/Follow", "/Watch", "/ServerReflectionInfo"];

/// Methods that are asked by a stream of messages.
const ASKED_BY_STREAMS: [&str; 4] = ["/SubmitStream", "/Receive", "/Upload", "/ServerReflectionInfo"];

/// Methods whose answer may have megabytes, or a whole envelope.
const LARGE_ANSWERS: [&str; 7] =
    ["/Pull", "/ReadFeed", "/Track", "/ListAgencies", "/ListChanges", "/ListGroups", "/GetReceipt"];

fn answers_a_stream(path: &str) -> bool {
    STREAMS.iter().any(|method| path.ends_with(method))
}

fn takes_a_stream(path: &str) -> bool {
    ASKED_BY_STREAMS.iter().any(|method| path.ends_with(method))
}

/// What each system has under way, counted by what it costs.
#[derive(Debug, Clone, Default)]
struct Counts {
    calls: Calls,
    streams: Calls,
    receives: Calls,
    large: Calls,
}

impl Counts {
    /// Counts a call until what is returned is dropped.
    fn begin(&self, system: &SystemId, path: &str) -> Result<[Option<UnderWay>; 4]> {
        let among = |methods: &[&str]| methods.iter().any(|method| path.ends_with(method));
        let counted = |is: bool, calls: &Calls, max| is.then(|| calls.begin(system, max)).transpose();
        Ok([
            counted(true, &self.calls, limits::CALLS_PER_SYSTEM_MAX)?,
            counted(answers_a_stream(path), &self.streams, limits::STREAMS_PER_SYSTEM_MAX)?,
            counted(among(&["/Receive"]), &self.receives, limits::RECEIVES_PER_SYSTEM_MAX)?,
            counted(among(&LARGE_ANSWERS), &self.large, limits::LARGE_ANSWERS_PER_SYSTEM_MAX)?,
        ])
    }
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
    let mut directory = ctx.committer.watch_directory();
    loop {
        let changed = tokio::time::timeout(crate::limits::ACCESS_CHECK_INTERVAL, async {
            if directory.changed().await.is_err() {
                // the writer is gone, and the hub with it
                std::future::pending::<()>().await;
            }
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
    fn what_costs_more_is_counted_on_its_own() {
        let counts = Counts::default();
        let vpcp: SystemId = "vpcp".parse().unwrap();
        let path = |method: &str| format!("/axis.hub.v1.MailboxService/{method}");
        let held: Vec<_> = (0..limits::LARGE_ANSWERS_PER_SYSTEM_MAX)
            .map(|_| counts.begin(&vpcp, &path("Pull")).unwrap())
            .collect();
        assert!(counts.begin(&vpcp, &path("Pull")).is_err());
        let acknowledging = counts.begin(&vpcp, &path("Acknowledge")).unwrap();
        let receives: Vec<_> = (0..limits::RECEIVES_PER_SYSTEM_MAX)
            .map(|_| counts.begin(&vpcp, &path("Receive")).unwrap())
            .collect();
        assert!(counts.begin(&vpcp, &path("Receive")).is_err());
        drop((held, acknowledging, receives));
        for calls in [&counts.calls, &counts.streams, &counts.receives, &counts.large] {
            assert!(calls.0.lock().unwrap().is_empty(), "a refused call counts nowhere");
        }
    }

    #[test]
    fn every_method_that_answers_a_stream_is_known() {
        for set in [axis_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            let set = prost_types::FileDescriptorSet::decode(set).unwrap();
            // operators come over a socket of their own
            let services = set.file.iter().flat_map(|file| &file.service);
            let services = services.filter(|service| service.name() != "AdminService");
            for method in services.flat_map(|service| &service.method) {
                let path = format!("/service/{}", method.name());
                assert_eq!(answers_a_stream(&path), method.server_streaming(), "{path}");
                assert_eq!(takes_a_stream(&path), method.client_streaming(), "{path}");
            }
        }
    }
}
