//! The operators' listener: metrics, readiness and the page over plain HTTP,
//! on loopback. Only ever reads.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use axis_proto::reason::Language;
use axum::{
    Router,
    extract::{Query, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    context::ObserveContext,
    listener::BoundedListener,
    page::{STYLE, View, page},
};
use crate::limits;

/// Most requests that are worked on at once: each reads the whole state's
/// heads.
const REQUESTS_MAX: usize = 8;

/// How often the disk and the writer are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The content type of the metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every answer carries: nothing may be loaded but our own style.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

struct Shared {
    context: ObserveContext,
    work: Semaphore,
    /// Whether the listener can be reached under other addresses than
    /// loopback.
    open: bool,
}

/// Serves operators until `stop`, and keeps readiness true meanwhile.
pub async fn serve(
    listener: TcpListener,
    context: ObserveContext,
    idle: Duration,
    stop: CancellationToken,
) -> io::Result<()> {
    let open = !listener.local_addr()?.ip().is_loopback();
    let looking = look(context.clone());
    let stopped = stop.clone().cancelled_owned();
    let listener = BoundedListener::new(listener, limits::OPERATORS_CONNECTIONS_MAX, idle);
    let serving = axum::serve(listener, router(context, open)).with_graceful_shutdown(stopped);
    tokio::select! {
        served = serving => served,
        () = looking => Ok(()),
    }
}

/// Looks every second, for as long as it is polled.
async fn look(context: ObserveContext) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    // a disk that does not answer holds one thread, and not the next look
    let mut reading: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        ticks.tick().await;
        context.look_at_writer();
        if reading.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let context = context.clone();
            reading = Some(tokio::task::spawn_blocking(move || context.look_at_disk()));
        }
    }
}

fn router(context: ObserveContext, open: bool) -> Router {
    let shared = Arc::new(Shared { context, work: Semaphore::new(REQUESTS_MAX), open });
    Router::new()
        .route("/", get(show_page))
        .route("/style.css", get(async || ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)))
        .route("/metrics", get(metrics))
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready))
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Refuses other hosts' names, which only a page of theirs would send
/// (DNS rebinding), and adds the headers.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = match host.is_some_and(|host| is_ours(host, shared.open)) {
        true => next.run(request).await,
        false => (StatusCode::MISDIRECTED_REQUEST, "this address serves localhost only\n").into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A name that is not ours could be anyone's; an address cannot be rebound.
fn is_ours(host: &str, open: bool) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    match name.parse::<IpAddr>() {
        Ok(address) => open || address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[derive(Deserialize)]
struct PageQuery {
    #[serde(default)]
    lang: String,
    #[serde(default)]
    refresh: String,
}

async fn show_page(State(shared): State<Arc<Shared>>, Query(query): Query<PageQuery>) -> Response {
    let language = match query.lang.as_str() {
        "en" => Language::En,
        _ => Language::Vi,
    };
    let view = View { language, refresh: query.refresh != "off" };
    work(&shared, move |context| page(view, &context.overview()).into_response()).await
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    work(&shared, |context| {
        let text = context.metrics.text(&context.scrape());
        ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
    })
    .await
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let health = shared.context.readiness.health();
    let because = health.because();
    let (status, text) = match (health.is_ready(), because.as_str()) {
        (true, "") => (StatusCode::OK, "ready\n".to_owned()),
        (true, why) => (StatusCode::OK, format!("degraded: {why}\n")),
        (false, why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    };
    (status, text).into_response()
}

/// Does what reads the stores on a thread of its own, not too many at once.
async fn work(shared: &Shared, make: impl FnOnce(&ObserveContext) -> Response + Send + 'static) -> Response {
    let Ok(_permit) = shared.work.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "busy\n").into_response();
    };
    let context = shared.context.clone();
    match tokio::task::spawn_blocking(move || make(&context)).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "an operators' view failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::{super::context::tests::context, *};

    #[test]
    fn only_our_own_names_are_answered() {
        for host in ["localhost", "LOCALHOST:7480", "127.0.0.1:7480", "127.8.8.8", "[::1]:7480"] {
            assert!(is_ours(host, false), "{host}");
        }
        for host in [
            "evil.example:7480",
            "localhost.evil.example",
            "10.0.0.1",
            "[2001:db8::1]",
            "",
            "a b",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_ours(host, false), "{host}");
        }
        assert!(is_ours("10.0.0.1:7480", true) && !is_ours("evil.example", true));
    }

    async fn ask(context: &ObserveContext, path: &str) -> (StatusCode, axum::http::HeaderMap, String) {
        let request =
            Request::get(path).header(header::HOST, "localhost:7480").body(axum::body::Body::empty());
        let answer = router(context.clone(), false).oneshot(request.unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (head.status, head.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_is_the_truth() {
        let context = context();
        assert_eq!(ask(&context, "/health/live").await.0, StatusCode::OK);
        let (status, _, why) = ask(&context, "/health/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(why.starts_with("not ready: starting"), "{why}");
        let writer = context.readiness.writer_runs();
        assert_eq!(ask(&context, "/health/ready").await.2, "ready\n");
        context.readiness.disk_low(true);
        let (status, _, why) = ask(&context, "/health/ready").await;
        assert!(status == StatusCode::OK && why.starts_with("degraded: the data disk"), "{why}");
        drop(writer);
        assert_eq!(ask(&context, "/health/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn the_page_and_the_metrics_are_served() {
        let context = context();
        let (status, headers, page) = ask(&context, "/?lang=en").await;
        assert_eq!(status, StatusCode::OK);
        assert!(page.contains("Tây Ninh &lt;script&gt;") && page.contains("Parked deliveries"));
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(ask(&context, "/").await.2.contains("Lượt gửi chờ xử lý"));
        assert!(ask(&context, "/style.css").await.2.contains(":root"));
        let (_, headers, metrics) = ask(&context, "/metrics").await;
        assert_eq!(headers[header::CONTENT_TYPE], OPENMETRICS);
        assert!(metrics.contains("axis_queue_parked_deliveries{system=\"tay-ninh\"} 1"));
        assert_eq!(ask(&context, "/nothing").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_page_of_another_host_learns_nothing() {
        let request =
            Request::get("/").header(header::HOST, "evil.example:7480").body(axum::body::Body::empty());
        let answer = router(context(), false).oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    }
}
