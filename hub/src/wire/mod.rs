//! gRPC on both sides of TLS: turns messages into the stages' types and back.
//! The only module that knows tonic; decides nothing itself.

pub mod listener;
pub mod status;
pub mod tls;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::{
    authenticate::Caller,
    clock::Clock,
    config::Config,
    limits::Millis,
    observe::{Metrics, Presence, Readiness},
    state::{Read, State},
};

pub use crate::state::read_once;

/// What every service works with; one for the whole hub, behind an `Arc`.
/// Services are made by `submission::service(ctx)` and its like.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// The only clock.
    pub clock: Clock,
    /// What follows from the journal.
    pub state: Arc<dyn State>,
    /// Connections of systems, to be cut at once when they lose their right.
    pub connections: listener::Connections,
    /// Who called lately; receive streams count themselves here.
    pub presence: Presence,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the hub can commit.
    pub readiness: Readiness,
    /// Cancelled when the hub stops: streams end themselves then.
    pub stopping: CancellationToken,
}

impl Context {
    /// The time.
    pub fn now_ms(&self) -> Millis {
        self.clock.now_ms()
    }

    /// Reads one moment of the state.
    pub fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        read_once(&*self.state, read)
    }
}

/// Who calls, as the layer of the systems' listener found out.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("no caller"))
}
