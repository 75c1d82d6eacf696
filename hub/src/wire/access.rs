//! Stands before every call on the systems' listener, health and reflection
//! included: no call goes further without a known caller.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task,
};

use axis_proto::hub::v1::Reason;
use futures_util::future::Either;
use tonic::{body::Body, metadata::MetadataMap};
use tower::{Layer, Service};

use super::{Context, listener::Peer, status};
use crate::{
    authenticate::{Caller, authenticate},
    error::{Error, Result},
};

/// Puts the [`Caller`] into the extensions of each request, or refuses it.
#[derive(Clone)]
pub struct AuthenticateLayer(Arc<Context>);

/// A service behind [`AuthenticateLayer`].
#[derive(Clone)]
pub struct Authenticate<S> {
    ctx: Arc<Context>,
    inner: S,
}

impl AuthenticateLayer {
    /// For the systems' listener.
    pub fn new(ctx: Arc<Context>) -> Self {
        Self(ctx)
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { ctx: self.0.clone(), inner }
    }
}

impl<S, B> Service<http::Request<B>> for Authenticate<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Ready<std::result::Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(
        &mut self,
        context: &mut task::Context<'_>,
    ) -> task::Poll<std::result::Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match caller(&self.ctx, request.extensions().get::<Arc<Peer>>()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Right(self.inner.call(request))
            }
            Err(error) => {
                let language = status::language(&MetadataMap::from_headers(request.headers().clone()));
                Either::Left(ready(Ok(self.ctx.status(&error, language).into_http())))
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
