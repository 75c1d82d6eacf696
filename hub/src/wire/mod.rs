//! gRPC on both sides of TLS: turns messages into the stages' types and back.
//! The only module that knows tonic; decides nothing itself.

pub mod listener;
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

/// Reads one moment of a state and returns what was found.
pub fn read_once<T>(state: &dyn State, read: impl FnOnce(&dyn Read) -> T) -> T {
    let mut read = Some(read);
    let mut found = None;
    state.read(&mut |moment| {
        if let Some(read) = read.take() {
            found = Some(read(moment));
        }
    });
    found.expect("State::read calls its argument")
}

/// Who calls, as the layer of the systems' listener found out.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("no caller"))
}
