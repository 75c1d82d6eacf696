//! gRPC on both sides of TLS: turns messages into the stages' types and back.
//! The only module that knows tonic; decides nothing itself.

pub mod access;
pub mod admin;
mod backup;
mod call;
pub mod directory;
pub mod enrolment;
pub mod evidence;
pub mod feed;
pub mod info;
pub mod listener;
pub mod mailbox;
pub mod quota;
pub mod read_ahead;
pub mod room;
mod round;
pub mod status;
pub mod submission;
pub mod tls;
pub mod track;
pub mod turns;
mod upload;
pub mod work;

use std::{net::SocketAddr, sync::Arc};

use axis_proto::{hub, reason::Language, record::v1::Receipt};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    authenticate::Caller,
    clock::Clock,
    commit::Committer,
    config::Config,
    deliver::Deliver,
    error::{Error, Result},
    evidence::Evidence,
    gate::Gate,
    identity::{Identity, Server},
    limits::{self, Millis},
    observe::{Metrics, ObserveContext, Presence, Readiness},
    retention::Retention,
    state::{Read, State},
    vault::Vault,
    verify::Points,
};

pub use crate::state::read_once;

/// What every service works with; one for the whole hub, behind an `Arc`.
/// Services are made by `submission::service(ctx)` and its like.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// Where the hub listens, and how it is reached.
    pub addresses: Addresses,
    /// The hub's keys.
    pub identity: Identity,
    /// Verifier key of the log's checkpoints.
    pub log_verifier_key: String,
    /// How this log came to continue others, the oldest first.
    pub log_successions: Vec<hub::v1::LogSuccession>,
    /// Between backups and whoever erases.
    pub gate: Gate,
    /// The only clock.
    pub clock: Clock,
    /// What follows from the journal.
    pub state: Arc<dyn State>,
    /// Where commands become durable.
    pub committer: Committer,
    /// Records with their proofs.
    pub evidence: Arc<Evidence>,
    /// Documents.
    pub vault: Arc<Vault>,
    /// Hands out what waits.
    pub deliver: Deliver,
    /// Room for the bytes of requests.
    pub room: room::Room,
    /// Where signatures and digests are verified.
    pub verifying: work::Work,
    /// The keys that signatures were verified with lately.
    pub points: Points,
    /// What each system may cause in a day.
    pub quota: quota::Quota,
    /// Connections of systems, to be cut at once when they lose their right.
    pub connections: listener::Connections,
    /// Who called lately; receive streams count themselves here.
    pub presence: Presence,
    /// Carries out what may leave.
    pub retention: Retention,
    /// What operators see.
    pub observe: ObserveContext,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the hub can commit.
    pub readiness: Readiness,
    /// Cancelled when the hub stops: streams end themselves then.
    pub stopping: CancellationToken,
}

/// Where a hub listens, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// For systems.
    pub systems: SocketAddr,
    /// For enrolment.
    pub enrolment: SocketAddr,
    /// For operators.
    pub operators: SocketAddr,
    /// `host:port` where systems reach it.
    pub public_systems: String,
    /// `host:port` where enrolling systems reach it.
    pub public_enrolment: String,
}

impl Context {
    /// The time.
    pub fn now_ms(&self) -> Millis {
        self.clock.now_ms()
    }

    /// Reads one moment of the state.
    pub fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        let began_us = self.clock.monotonic_us();
        let found = read_once(&*self.state, read);
        self.metrics.state_held(self.clock.monotonic_us().saturating_sub(began_us));
        found
    }

    /// The receipt of a record; if it is not in memory, read where waiting for
    /// a disk holds up nobody else.
    pub async fn receipt(&self, sequence: u64) -> Result<Receipt> {
        if let Some(receipt) = self.evidence.recent_receipt(sequence) {
            return Ok(receipt);
        }
        let evidence = self.evidence.clone();
        tokio::task::spawn_blocking(move || evidence.receipt(sequence)).await.map_err(Error::fault)?
    }

    /// What a caller is told of an error, which is counted.
    pub fn status(&self, error: &Error, language: Language) -> Status {
        self.count(error);
        status::status(error, language)
    }

    /// The same inside a stream.
    pub fn refusal(&self, error: &Error, language: Language) -> hub::v1::Refusal {
        self.count(error);
        status::refusal(error, language)
    }

    fn count(&self, error: &Error) {
        match error {
            Error::Refused(refusal) => self.metrics.refused(refusal.reason),
            Error::Fault(_) => self.metrics.fault(),
        }
    }

    /// The answer to a unary call.
    pub fn answer<T>(&self, result: Result<T>, language: Language) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|error| self.status(&error, language))
    }
}

/// The task that serves a listener, or that accepts its connections, by the
/// listener's name.
pub type Serving = (&'static str, JoinHandle<()>);

/// Serves the systems, those who enrol and the operators, until stopping and
/// until what is under way then has ended.
pub fn serve(
    ctx: &Arc<Context>,
    systems: TcpListener,
    enrolment: TcpListener,
    operators: UnixListener,
) -> Result<Vec<Serving>> {
    let authority = &ctx.identity.authority;
    let (server, _) = Server::current(&ctx.config, authority, ctx.now_ms())?;
    let certificate = Arc::new(tls::ServerCertificate::new(server.chain, server.key)?);
    let mut authorities = crate::identity::trusted_authorities(&ctx.config)?;
    authorities.push(authority.certificate().clone());
    let accept = |tls, bounds| listener::Accept {
        tls,
        bounds,
        patience: ctx.config.patience,
        connections: ctx.connections.clone(),
        state: ctx.state.clone(),
        metrics: ctx.metrics.clone(),
        stopping: ctx.stopping.clone(),
    };
    let for_systems = tls::systems_config(certificate.clone(), authorities, &ctx.clock)?;
    let for_enrolment = tls::enrolment_config(certificate.clone(), &ctx.clock)?;
    let routes = systems_routes(ctx)?;
    // from here on nothing fails: ports are let go of by who waits for these
    let (of_systems, accepting_systems) = accept(for_systems, listener::Bounds::SYSTEMS).run(systems);
    let (of_enrolment, accepting_enrolment) =
        accept(for_enrolment, listener::Bounds::enrolment(&ctx.config.patience)).run(enrolment);
    let of_operators = UnixListenerStream::new(operators);
    tokio::spawn(renew(ctx.clone(), certificate));

    let for_systems = listener::server(&ctx.config.patience)
        .layer(access::AuthenticateLayer::new(ctx.clone()))
        .add_routes(routes)
        .serve_with_incoming_shutdown(of_systems, ctx.stopping.clone().cancelled_owned());
    let for_enrolment = listener::enrolment_server(&ctx.config.patience)
        .add_service(enrolment::enrolment_service(ctx.clone()))
        .serve_with_incoming_shutdown(of_enrolment, ctx.stopping.clone().cancelled_owned());
    let for_operators = listener::server(&ctx.config.patience)
        .add_service(admin::service(ctx.clone()))
        .serve_with_incoming_shutdown(of_operators, ctx.stopping.clone().cancelled_owned());
    Ok(vec![
        ("systems", serving(ctx, "systems", for_systems)),
        ("enrolment", serving(ctx, "enrolment", for_enrolment)),
        ("operators", serving(ctx, "operators", for_operators)),
        ("systems", accepting_systems),
        ("enrolment", accepting_enrolment),
    ])
}

/// Every service that a system may call.
fn systems_routes(ctx: &Arc<Context>) -> Result<Routes> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(axis_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(ctx.clone(), reporter));
    let mut routes = Routes::builder();
    routes
        .add_service(health)
        .add_service(reflection().build_v1().map_err(Error::fault)?)
        .add_service(reflection().build_v1alpha().map_err(Error::fault)?)
        .add_service(enrolment::identity_service(ctx.clone()))
        .add_service(info::service(ctx.clone()))
        .add_service(submission::service(ctx.clone()))
        .add_service(mailbox::service(ctx.clone()))
        .add_service(feed::service(ctx.clone()))
        .add_service(track::service(ctx.clone()))
        .add_service(directory::service(ctx.clone()))
        .add_service(evidence::service(ctx.clone()));
    Ok(routes.routes())
}

fn serving(
    ctx: &Arc<Context>,
    name: &'static str,
    server: impl Future<Output = std::result::Result<(), tonic::transport::Error>> + Send + 'static,
) -> JoinHandle<()> {
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let ended = server.await;
        if let Err(error) = &ended {
            tracing::error!(name, %error, "listener failed");
        }
        if !ctx.stopping.is_cancelled() {
            ctx.readiness.failed(format!("the listener for {name} has ended"));
        }
    })
}

/// The health service says what readiness says, and its watchers are let go
/// when the hub stops.
async fn report_health(ctx: Arc<Context>, mut reporter: HealthReporter) {
    let mut health = ctx.readiness.watch();
    loop {
        let status = match health.borrow_and_update().is_ready() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status).await;
        tokio::select! {
            () = ctx.stopping.cancelled() => break,
            _ = health.changed() => {}
        }
    }
    reporter.set_service_status("", ServingStatus::NotServing).await;
    reporter.clear_service_status("").await;
}

/// Renews the server's certificate before it ends.
async fn renew(ctx: Arc<Context>, certificate: Arc<tls::ServerCertificate>) {
    let mut hours = tokio::time::interval(limits::CERTIFICATE_CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = ctx.stopping.cancelled() => return,
            _ = hours.tick() => {}
        }
        let renewed = match Server::current(&ctx.config, &ctx.identity.authority, ctx.now_ms()) {
            Ok((_, false)) => continue,
            Ok((server, true)) => certificate.replace(server.chain, server.key).map_err(Error::from),
            Err(error) => Err(error),
        };
        match renewed {
            Ok(()) => tracing::info!("server certificate renewed"),
            Err(error) => tracing::error!(%error, "server certificate not renewed"),
        }
    }
}

/// Who calls, as the layer of the systems' listener found out.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("no caller"))
}
