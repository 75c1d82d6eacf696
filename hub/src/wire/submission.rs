//! The way in: each submission passes verify, admit and commit, and is
//! answered once it is durable. Holds no more bytes than its bounds allow.

use std::{
    future::ready,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
};

use axis_proto::{
    hub::v1::{
        CheckRequest, CheckResponse, QueryUploadRequest, QueryUploadResponse, Reason, SubmitRequest,
        SubmitResponse, SubmitStreamRequest, SubmitStreamResponse, UploadRequest, UploadResponse,
        submission_service_server::{SubmissionService, SubmissionServiceServer},
        submit_stream_response::Outcome,
    },
    limits::{DOCUMENTS_MAX, SIGNATURES_MAX},
    seal::PayloadType,
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, FuturesUnordered, Stream},
};
use prost::Message as _;
use tokio::{
    sync::{
        Mutex, OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Context,
    call::{Call, required, shown},
    quota::{Cost, Lane},
    room::Held,
    turns::Turns,
    upload,
};
use crate::{
    admit::{Admitted, admit},
    commit::{Answer, NO_ANSWER},
    error::{Error, Refusal, Result},
    limits,
    machine::{self, Command, Expanding, Submit, query},
    observe::metrics::Submission,
    verify::{Ground, verify},
};

/// Answers on their way to one caller.
const ANSWERS_PENDING_MAX: usize = 64;

/// What a stream of submissions is answered.
type Answers = Pin<Box<dyn Stream<Item = std::result::Result<SubmitStreamResponse, Status>> + Send>>;

/// The service.
pub fn service(context: Arc<Context>) -> SubmissionServiceServer<impl SubmissionService> {
    SubmissionServiceServer::new(Service { context, looking: Turns::new(1) })
        .max_decoding_message_size(limits::REQUEST_BYTES_MAX)
        .max_encoding_message_size(limits::RESPONSE_BYTES_MAX)
}

struct Service {
    context: Arc<Context>,
    /// A broadcast's recipients may be the whole directory, in memory.
    looking: Turns,
}

#[tonic::async_trait]
impl SubmissionService for Service {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> std::result::Result<Response<CheckResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(check(&call, &self.looking, message).await)
    }

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> std::result::Result<Response<SubmitResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(submit(&call, &self.looking, sized(message)).await)
    }

    type SubmitStreamStream = Answers;

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitStreamRequest>>,
    ) -> std::result::Result<Response<Self::SubmitStreamStream>, Status> {
        let (call, inbound) = Call::begin(&self.context, request)?;
        let (out, answers) = mpsc::channel(ANSWERS_PENDING_MAX);
        let (end, ended) = oneshot::channel();
        let looking = self.looking.clone();
        tokio::spawn(async move {
            if let Err(status) = submit_stream(&call, &looking, inbound, &out).await {
                // not behind the answers, which may be what is not taken
                let _gone = end.send(status);
            }
        });
        // how it ends comes when all answers have; with nothing said it is well
        let end = stream::once(ended).filter_map(|ended| ready(ended.ok().map(Err)));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers).map(Ok).chain(end))))
    }

    async fn query_upload(
        &self,
        request: Request<QueryUploadRequest>,
    ) -> std::result::Result<Response<QueryUploadResponse>, Status> {
        let (call, message) = Call::begin(&self.context, request)?;
        call.end(upload::standing(&call, &message).await)
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> std::result::Result<Response<UploadResponse>, Status> {
        let (call, inbound) = Call::begin(&self.context, request)?;
        call.end(upload::receive(&call, inbound).await)
    }
}

/// A message whose lists are within their bounds. Others are let go before
/// they wait for anything: in memory they are many times what was sent.
fn sized(message: SubmitRequest) -> Result<SubmitRequest> {
    let signatures = message.sealed_envelope.as_ref().map_or(0, |sealed| sealed.signatures.len());
    for (field, count, max) in [
        ("sealed_envelope.signatures", signatures, SIGNATURES_MAX),
        ("documents", message.documents.len(), DOCUMENTS_MAX),
    ] {
        if count > max {
            return Err(Error::invalid(field, Reason::TooLarge, format!("has more than {max} entries")));
        }
    }
    Ok(message)
}

/// A message's share of the bytes that may be under way; never more than all.
fn weight(message: &Result<SubmitRequest>) -> u32 {
    let bytes = message.as_ref().map_or(1, SubmitRequest::encoded_len);
    bytes.clamp(1, limits::REQUEST_BYTES_MAX) as u32
}

/// The first stages: what is submitted becomes what may be committed.
fn prepare(call: &Call, ground: Ground<'_>, message: SubmitRequest) -> Result<Admitted> {
    let sealed = required(message.sealed_envelope, "sealed_envelope")?;
    let verified = verify(ground, call.caller(), &sealed, PayloadType::Envelope)?;
    let mut admitted = admit(ground, call.system(), verified, message.documents)?;
    admitted.submit.kept = call.context.config.retention.kept();
    Ok(admitted)
}

/// Whether an envelope's recipients are looked up before the writer decides.
fn needs_a_look(admitted: &Admitted) -> bool {
    machine::is_wide(&admitted.submit) && !admitted.is_known
}

/// Looks up the recipients of a broadcast, so that the writer does not: a part
/// at a time, because the writer waits for whoever holds the state.
async fn look_ahead(call: &Call, looking: &Turns, mut admitted: Admitted) -> Result<Admitted> {
    if !needs_a_look(&admitted) {
        return Ok(admitted);
    }
    let turn = looking.take(call.system()).await?;
    call.blocking(move |context| {
        let _turn = turn;
        let now_ms = context.now_ms();
        let mut expanding = Expanding::new(now_ms);
        while !context.read(|read| expanding.step(read, &admitted.submit, limits::EXPAND_PART_MAX)) {}
        let mut secret = vec![0; 32];
        getrandom::fill(&mut secret).map_err(Error::fault)?;
        admitted.submit.ahead = Some(Box::new(expanding.ahead(secret.into())?));
        Ok(admitted)
    })
    .await
}

/// One submission, from its bytes to its receipt.
async fn submit(call: &Call, looking: &Turns, message: Result<SubmitRequest>) -> Result<SubmitResponse> {
    let result = submit_counted(call, looking, message).await;
    call.context.metrics.submission(match &result {
        Ok(response) if response.duplicate => Submission::Duplicate,
        Ok(_) => Submission::Accepted,
        Err(Error::Refused(refusal)) => Submission::Refused(refusal.reason),
        Err(Error::Fault(_)) => Submission::Fault,
    });
    result
}

async fn submit_counted(
    call: &Call,
    looking: &Turns,
    message: Result<SubmitRequest>,
) -> Result<SubmitResponse> {
    let message = message?;
    let work = move |call: &Call, ground: Ground<'_>, answer| {
        let admitted = prepare(call, ground, message)?;
        if needs_a_look(&admitted) {
            Ok(Some(admitted))
        } else {
            enter(call, admitted, answer).map(|()| None)
        }
    };
    let outcome = match call.committing_soon(work).await? {
        (None, outcome) => outcome,
        (Some(admitted), _) => {
            let admitted = look_ahead(call, looking, admitted).await?;
            let (answer, answered) = Answer::new();
            enter(call, admitted, answer)?;
            answered.await.ok()
        }
    };
    let outcome = outcome.unwrap_or_else(|| Err(Error::fault(NO_ANSWER)))?;
    let sequence = shown(&outcome)?;
    let receipt = call.receipt(sequence).await?;
    let row = if outcome.duplicate { call.read(|read| query::envelope(read, sequence)) } else { None };
    let erased_unix_ms = row.map_or(0, |row| row.erased_unix_ms);
    Ok(SubmitResponse { receipt: Some(receipt), duplicate: outcome.duplicate, erased_unix_ms })
}

/// Gives the writer a submission if the system may cause more today. What was
/// accepted before, or is refused, costs nothing: it gets its receipt again
/// however much the system has spent.
fn enter(call: &Call, admitted: Admitted, answer: Answer) -> Result<()> {
    let Admitted { submit, is_known } = admitted;
    let answer = if is_known { answer } else { pay(call, &submit, answer)? };
    call.context.committer.queue(Command::Submit(submit), answer);
    Ok(())
}

/// Spends a record and the bytes; nothing if the envelope was accepted while
/// this call waited for its turn. Once it is known what becomes of it, its
/// recipients are charged, or what was spent is given back, also if the caller
/// has hung up.
fn pay(call: &Call, submit: &Submit, answer: Answer) -> Result<Answer> {
    let (quota, system, lane) = (&call.context.quota, call.system(), Lane::of(submit.envelope.priority()));
    let documents: usize = submit.documents.iter().map(|document| document.len()).sum();
    let cost = Cost { records: 1, bytes: (submit.signed.sealed.len() + documents) as u64 };
    if let Err(refused) = quota.spend(system, lane, cost) {
        let is_known = call.read(|read| query::is_envelope_known(read, &submit.envelope));
        return if is_known { Ok(answer) } else { Err(refused) };
    }
    let (quota, system) = (quota.clone(), system.clone());
    Ok(answer.first(move |outcome| match outcome {
        Ok(outcome) if !outcome.duplicate => {
            quota.charge(&system, lane, Cost { records: outcome.recipient_count.into(), bytes: 0 });
        }
        _ => quota.give_back(&system, lane, cost),
    }))
}

async fn check(call: &Call, looking: &Turns, message: CheckRequest) -> Result<CheckResponse> {
    match check_whole(call, looking, message).await {
        Err(error @ Error::Refused(_)) => {
            Ok(CheckResponse { refusal: Some(call.refusal(&error)), ..CheckResponse::default() })
        }
        result => result,
    }
}

async fn check_whole(call: &Call, looking: &Turns, message: CheckRequest) -> Result<CheckResponse> {
    let message = sized(SubmitRequest { sealed_envelope: message.sealed_envelope, documents: Vec::new() })?;
    let admitted = call.verifying(move |call, ground| prepare(call, ground, message)).await?;
    if !admitted.is_known {
        // as much work as a submission, and paid like a record that it is not
        let lane = Lane::of(admitted.submit.envelope.priority());
        call.context.quota.spend(call.system(), lane, Cost { records: 1, bytes: 0 })?;
    }
    let admitted = look_ahead(call, looking, admitted).await?;
    call.blocking(move |context| {
        let now_ms = context.now_ms();
        context.read(|read| {
            let expansion = machine::check(read, &admitted.submit, now_ms)?;
            let before = expansion.duplicate_of.and_then(|sequence| query::envelope(read, sequence));
            let count = before.map_or(expansion.recipients.len() as u32, |row| row.recipient_count);
            let missing = expansion.missing_documents.iter().map(|sha256| sha256.as_bytes().to_vec().into());
            Ok(CheckResponse { refusal: None, missing_documents: missing.collect(), recipient_count: count })
        })
    })
    .await
}

/// Takes submissions as they come while there is room, each worked on beside
/// the others, and answers each when it is done, also if the stream has ended.
/// What an answer took is held until it is handed over, and a caller that does
/// not take it loses the stream.
async fn submit_stream(
    call: &Call,
    looking: &Turns,
    inbound: Streaming<SubmitStreamRequest>,
    out: &mpsc::Sender<SubmitStreamResponse>,
) -> std::result::Result<(), Status> {
    let _open = call.context.metrics.stream();
    let (turn, unread) = (&Mutex::new(()), &CancellationToken::new());
    let door = Door {
        call,
        inbound,
        out,
        unread,
        unanswered: Arc::new(Semaphore::new(limits::SUBMIT_STREAM_PENDING_MAX)),
        own_bytes: Arc::new(Semaphore::new(limits::SUBMIT_STREAM_BYTES_MAX)),
    };
    let mut taken = pin!(stream::try_unfold(door, Door::take));
    // in one task: a batch of the writer wakes it once, and not for each of its answers
    let mut under_way = FuturesUnordered::new();
    let ended = loop {
        let taken = tokio::select! {
            biased;
            Some(()) = under_way.next() => continue,
            taken = taken.next() => taken,
        };
        match taken {
            Some(Ok(Incoming { tag, submission, held })) => under_way.push(async move {
                // one that panics leaves the others their answers
                let submitted = AssertUnwindSafe(submit(call, looking, submission)).catch_unwind().await;
                let submitted = submitted.unwrap_or_else(|_| Err(Error::fault("a submission panicked")));
                let outcome = match submitted {
                    Ok(response) => Outcome::Submitted(response),
                    Err(error) => Outcome::Refused(call.refusal(&error)),
                };
                let answer = SubmitStreamResponse { tag, outcome: Some(outcome) };
                hand_over(call, answer, out, turn, unread).await;
                drop(held);
            }),
            Some(Err(status)) => break Err(status),
            None => break Ok(()),
        }
    };
    while under_way.next().await.is_some() {}
    ended
}

/// Where a stream's submissions come in.
struct Door<'a> {
    call: &'a Call,
    inbound: Streaming<SubmitStreamRequest>,
    out: &'a mpsc::Sender<SubmitStreamResponse>,
    /// Set once the caller does not take its answers.
    unread: &'a CancellationToken,
    unanswered: Arc<Semaphore>,
    own_bytes: Arc<Semaphore>,
}

/// A submission that there is room for, with what it holds.
struct Incoming {
    tag: u64,
    submission: Result<SubmitRequest>,
    held: (OwnedSemaphorePermit, OwnedSemaphorePermit, Held),
}

impl Door<'_> {
    /// The next submission, once there is room for it; none if no more come.
    async fn take(mut self) -> std::result::Result<Option<(Incoming, Self)>, Status> {
        let closed = || Status::internal("a gate was closed");
        let place = self.unanswered.clone().acquire_owned().await.map_err(|_| closed())?;
        let message = tokio::select! {
            biased;
            () = self.unread.cancelled() => {
                let refusal = Refusal::new(Reason::Busy).retry_after_ms(limits::BUSY_RETRY_MS);
                return Err(self.call.status(&refusal.into()));
            }
            () = self.out.closed() => return Ok(None),
            () = self.call.context.stopping.cancelled() => {
                let refusal = Refusal::new(Reason::Stopping).retry_after_ms(limits::STOPPING_RETRY_MS);
                return Err(self.call.status(&refusal.into()));
            }
            message = self.inbound.message() => message?,
        };
        let Some(SubmitStreamRequest { tag, submission }) = message else { return Ok(None) };
        let submission = sized(submission.unwrap_or_default());
        let weight = weight(&submission);
        let own = self.own_bytes.clone().acquire_many_owned(weight).await.map_err(|_| closed())?;
        let room = self.call.context.room.take(self.call.system(), weight as usize).await;
        let room = room.map_err(|error| self.call.status(&error))?;
        Ok(Some((Incoming { tag, submission, held: (place, own, room) }, self)))
    }
}

/// Hands an answer over; not to a caller that is gone, who asks again and
/// learns the same.
async fn hand_over(
    call: &Call,
    answer: SubmitStreamResponse,
    out: &mpsc::Sender<SubmitStreamResponse>,
    turn: &Mutex<()>,
    unread: &CancellationToken,
) {
    let Err(TrySendError::Full(answer)) = out.try_send(answer) else { return };
    let handed = async {
        // one at a time, so that a slow caller has the time for each
        let _turn = turn.lock().await;
        timeout(call.context.config.patience.answer, out.send(answer)).await
    };
    tokio::select! {
        handed = handed => if handed.is_err() {
            unread.cancel();
        },
        () = unread.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use axis_proto::envelope::v1::{SealedEnvelope, Signature};

    use super::*;

    #[test]
    fn lists_beyond_their_bounds_wait_for_nothing() {
        let message = |signatures, documents| SubmitRequest {
            sealed_envelope: Some(SealedEnvelope {
                signatures: vec![Signature::default(); signatures],
                ..SealedEnvelope::default()
            }),
            documents: vec![vec![7].into(); documents],
        };
        assert!(weight(&sized(message(SIGNATURES_MAX, DOCUMENTS_MAX))) > 1);
        for (signatures, documents, field) in
            [(SIGNATURES_MAX + 1, 0, "sealed_envelope.signatures"), (1, DOCUMENTS_MAX + 1, "documents")]
        {
            let refused = sized(message(signatures, documents));
            assert_eq!(weight(&refused), 1);
            let Err(Error::Refused(refusal)) = refused else { panic!("not refused") };
            assert_eq!((refusal.reason, refusal.violations[0].field.as_str()), (Reason::TooLarge, field));
        }
    }
}
