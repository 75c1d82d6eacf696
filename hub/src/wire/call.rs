//! What every call begins and ends with: who asks, in which language, and
//! how the answer is shown and counted.

use std::sync::Arc;

use axis_proto::{hub::v1 as hub, id::SystemId, reason::Language, record::v1::Receipt};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::{
    Context, caller,
    quota::{Cost, Lane},
    status,
    work::at_once,
};
use crate::{
    authenticate::{Caller, authenticate},
    commit::Answer,
    disk_room,
    error::{Error, Refusal, Result},
    limits,
    machine::{Outcome, query},
    state::Read,
    verify::Ground,
};

/// One call under way. Cheap to clone.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) context: Arc<Context>,
    pub(super) caller: Caller,
    language: Language,
}

impl Call {
    /// Takes a request apart.
    pub(super) fn begin<T>(
        context: &Arc<Context>,
        request: Request<T>,
    ) -> std::result::Result<(Self, T), Status> {
        let caller = caller(&request)?;
        let language = status::language(request.metadata());
        Ok((Self { context: context.clone(), caller, language }, request.into_inner()))
    }

    /// Answers with what a stage returned.
    pub(super) fn end<T>(&self, result: Result<T>) -> std::result::Result<Response<T>, Status> {
        result.map(Response::new).map_err(|error| self.status(&error))
    }

    /// The calling system.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Its system.
    pub(super) fn system(&self) -> &SystemId {
        &self.caller.system
    }

    /// An error as the status of this call.
    pub(super) fn status(&self, error: &Error) -> Status {
        self.context.status(error, self.language)
    }

    /// An error as a message inside this call.
    pub(super) fn refusal(&self, error: &Error) -> hub::Refusal {
        self.context.refusal(error, self.language)
    }

    /// Reads one moment of the state.
    pub(super) fn read<T>(&self, read: impl FnOnce(&dyn Read) -> T) -> T {
        self.context.read(read)
    }

    /// Whether the caller may go on: what lets a call in must hold for as
    /// long as a stream is open.
    pub(super) fn still_allowed(&self, read: &dyn Read) -> std::result::Result<(), Refusal> {
        match authenticate(read, self.caller.fingerprint, self.context.now_ms()) {
            Err(Error::Refused(refusal)) => Err(*refusal),
            Ok(_) | Err(Error::Fault(_)) => Ok(()),
        }
    }

    /// The highest number of the caller's feed.
    pub(super) fn feed_high(&self) -> u64 {
        self.read(|read| query::mailbox(read, self.system()).feed_high)
    }

    /// The receipt of a record.
    pub(super) async fn receipt(&self, sequence: u64) -> Result<Receipt> {
        self.context.receipt(sequence).await
    }

    /// Whether the caller may cause one more record today. Never asked for an
    /// acknowledgement or a rejection.
    pub(super) fn spend_record(&self) -> Result<()> {
        self.context.quota.spend(self.system(), Lane::Ordinary, Cost { records: 1, bytes: 0 })
    }

    /// Whether it may bring so many more bytes.
    pub(super) fn spend_bytes(&self, bytes: usize) -> Result<()> {
        let cost = Cost { records: 0, bytes: bytes as u64 };
        self.context.quota.spend(self.system(), Lane::Ordinary, cost)
    }

    /// Whether it may bring a document to its end: a record, and what the
    /// document takes on the disk beside its bytes.
    pub(super) fn spend_upload(&self, size: u64) -> Result<()> {
        let cost = Cost { records: 1, bytes: disk_room::beside(size) };
        self.context.quota.spend(self.system(), Lane::Ordinary, cost)
    }

    /// Runs what is work for the processor, when it is the caller's turn, and
    /// where it holds up nobody's connection.
    pub(super) async fn verifying<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, Ground<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let call = self.clone();
        let work = move || work(&call, call.ground());
        self.context.verifying.run(self.system(), work).await?
    }

    /// Runs work that may end by giving the writer a command, when it is the
    /// caller's turn, and waits for the writer's answer; none if it was given
    /// nothing, or is gone. Who waits is not woken between the two.
    pub(super) async fn committing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, Ground<'_>, Answer) -> Result<T> + Send + 'static,
    ) -> Result<(T, Option<Result<Outcome>>)> {
        let (answer, answered) = Answer::new();
        let call = self.clone();
        let work = move || work(&call, call.ground(), answer);
        let worked = self.context.verifying.begin(self.system(), work);
        // first, because it comes last: then both are there
        let outcome = answered.await.ok();
        Ok((worked.await.map_err(Error::fault)??, outcome))
    }

    /// As [`Self::committing`], for a message that counts as taken room: where
    /// it came in, while no thread has anything to do and all that is under
    /// way is so little that waking one takes as long as the work.
    pub(super) async fn committing_soon<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, Ground<'_>, Answer) -> Result<T> + Send + 'static,
    ) -> Result<(T, Option<Result<Outcome>>)> {
        let context = &self.context;
        if context.room.taken() > limits::WORK_AT_ONCE_BYTES || !context.verifying.is_resting() {
            return self.committing(work).await;
        }
        let (answer, answered) = Answer::new();
        let worked = at_once(|| work(self, self.ground(), answer))??;
        Ok((worked, answered.await.ok()))
    }

    fn ground(&self) -> Ground<'_> {
        let context = &self.context;
        Ground {
            hub_id: context.config.hub_id.as_str(),
            state: &*context.state,
            points: &context.points,
            now_ms: context.now_ms(),
        }
    }

    /// Runs what may wait for the disk.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Context) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let context = self.context.clone();
        tokio::task::spawn_blocking(move || work(&context))
            .await
            .unwrap_or_else(|error| Err(Error::fault(error)))
    }
}

/// The record that answers a call.
pub(super) fn shown(outcome: &Outcome) -> Result<u64> {
    outcome.sequence().ok_or_else(|| Error::fault("nothing was recorded"))
}

/// A message that the transport could not make out or had no room for, or a
/// stream that broke.
pub(super) fn unreadable(status: &Status) -> Error {
    let details = status.get_error_details();
    if details.error_info().is_some_and(|info| info.reason == hub::Reason::Busy.short_name()) {
        return Refusal::new(hub::Reason::Busy).retry_after_ms(limits::BUSY_RETRY_MS).into();
    }
    let reason = match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => hub::Reason::TooLarge,
        _ => hub::Reason::Malformed,
    };
    Error::invalid("request", reason, status.message())
}

/// A page's size: what was asked for within its bound, or the default.
pub(super) fn page(asked: u32, default: u32, max: u32) -> Result<usize> {
    match asked {
        0 => Ok(default as usize),
        asked if asked <= max => Ok(asked as usize),
        asked => Err(Error::invalid("max", hub::Reason::TooLarge, format!("{asked}, at most {max}"))),
    }
}

/// What a message must have.
pub(super) fn required<T>(part: Option<T>, field: &str) -> Result<T> {
    part.ok_or_else(|| Error::invalid(field, hub::Reason::FieldInvalid, "is missing"))
}

/// An id from text.
pub(super) fn parsed<T: std::str::FromStr>(text: &str, field: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Error::invalid(field, hub::Reason::FieldInvalid, error))
}

/// A digest from bytes.
pub(super) fn digest(bytes: &[u8], field: &str) -> Result<axis_proto::id::Digest> {
    axis_proto::id::Digest::from_slice(bytes)
        .map_err(|error| Error::invalid(field, hub::Reason::FieldInvalid, error))
}
