//! Deliveries as they come, at the pace of the client's credit, and what the
//! client answers. Everything on the way to it is bounded: what is not taken
//! waits in the mailbox.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axis_proto::hub::v1::{
    Answer, Closing, Reason, ReceiveRequest, ReceiveResponse, ReceiveStart, answer::Outcome,
    receive_request::Part as Asked, receive_response::Part as Said,
};
use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Call, account_from, gone, lease_duration, progress, ranges::Ranges, settle, within};
use crate::{
    deliver::{Appetite, Credit, Lease, Taking, hand_over, hand_over_at_once},
    error::{Error, Refusal, Result},
    limits,
    machine::query::{self, MailboxRow},
    wire::call::{required, unreadable},
};

/// Messages on their way to one client; a delivery may have a megabyte.
const SAID_PENDING_MAX: usize = 4;
/// Answers that one client may wait for; beyond it nothing more is read.
const ANSWERS_PENDING_MAX: usize = 256;
/// How long a client may take to begin.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client whose stream is closing may finish what is open.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(3);

type Response = std::result::Result<ReceiveResponse, Status>;

/// Boxed: a channel holds room for 32 at once whatever its bound, and most
/// streams wait for hours with nothing in it.
type Out = mpsc::Sender<Box<Response>>;

/// What is on its way to the client.
pub(super) type Responses =
    futures_util::stream::Map<ReceiverStream<Box<Response>>, fn(Box<Response>) -> Response>;

/// Why a stream ends.
enum End {
    /// The client is gone, or has said all and received all.
    Done,
    /// The hub ends it.
    Closing(Reason),
}

/// Starts a stream in a task of its own.
pub(super) fn start(call: Call, inbound: Streaming<ReceiveRequest>) -> Responses {
    let (out, said) = mpsc::channel(SAID_PENDING_MAX);
    tokio::spawn(async move {
        let _open = call.context.metrics.stream();
        let _present = call.context.presence.stream(call.system());
        let gone = out.clone();
        tokio::select! {
            () = gone.closed() => {}
            result = run(&call, inbound, &out) => if let Err(error) = result {
                let _ = out.send(Box::new(Err(call.status(&error)))).await;
            },
        }
    });
    ReceiverStream::new(said).map(|response| *response)
}

async fn run(call: &Call, mut inbound: Streaming<ReceiveRequest>, out: &Out) -> Result<()> {
    let ReceiveStart { accounted_to, credit, lease_duration_ms, documents_bytes_max } =
        begin(&mut inbound).await?;
    if credit > limits::CREDIT_MAX {
        return Err(Error::invalid("start.credit", Reason::TooLarge, credit));
    }
    let lease_duration_ms = lease_duration(lease_duration_ms, "start.lease_duration_ms")?;
    // before looking at the mailbox, or a change is missed
    let wake = call.context.deliver.wake_of(call.system());
    let row = call.read(|read| query::mailbox(read, call.system()));
    let accounted_to = account_from(&row, accounted_to, "start.accounted_to")?;

    let appetite = Appetite { credit, lease_duration_ms, bytes_max: None, once: false, impatient: false };
    let taking = call.context.deliver.take(call.system(), appetite);
    let (unused, unused_seen) = watch::channel(credit);
    let unused = Arc::new(unused);
    let listener = Listener { call, out, credit: taking.credit(), unused: unused.clone(), unused_seen };
    let speaker = Speaker {
        call,
        out,
        credit: taking.credit(),
        taking,
        wake,
        unused,
        documents_bytes_max,
        accounted_to,
        came: Ranges::default(),
        shown: None,
    };
    let listening = listener.run(inbound);
    tokio::pin!(listening);
    let end = tokio::select! {
        end = speaker.run() => end?,
        end = &mut listening => end?,
        () = call.context.stopping.cancelled() => End::Closing(Reason::Stopping),
    };
    if let End::Closing(reason) = end {
        let retry_after_ms = if reason == Reason::Stopping { limits::STOPPING_RETRY_MS } else { 0 };
        say(out, Said::Closing(Closing { reason: reason.into(), retry_after_ms })).await;
        if reason == Reason::Stopping {
            // acks of what was delivered still count
            let _ = timeout(CLOSING_TIMEOUT, listening).await;
        }
    }
    Ok(())
}

async fn begin(inbound: &mut Streaming<ReceiveRequest>) -> Result<ReceiveStart> {
    let first = timeout(START_TIMEOUT, inbound.message()).await;
    let first = first.map_err(|_| Error::invalid("start", Reason::FieldInvalid, "did not come in time"))?;
    match first.map_err(|status| unreadable(&status))?.and_then(|message| message.part) {
        Some(Asked::Start(start)) => Ok(start),
        _ => Err(Error::invalid("start", Reason::FieldInvalid, "must come first")),
    }
}

/// False if the client is gone.
async fn say(out: &Out, part: Said) -> bool {
    out.send(Box::new(Ok(ReceiveResponse { part: Some(part) }))).await.is_ok()
}

/// Hears what the client says: more credit, and answers to deliveries.
struct Listener<'a> {
    call: &'a Call,
    out: &'a Out,
    credit: Credit,
    /// Credit that no delivery has used.
    unused: Arc<watch::Sender<u32>>,
    unused_seen: watch::Receiver<u32>,
}

impl Listener<'_> {
    async fn run(mut self, mut inbound: Streaming<ReceiveRequest>) -> Result<End> {
        let unanswered = Arc::new(Semaphore::new(ANSWERS_PENDING_MAX));
        loop {
            let place = unanswered.clone().acquire_owned().await.map_err(Error::fault)?;
            let Some(message) = inbound.message().await.map_err(|status| unreadable(&status))? else { break };
            match required(message.part, "part")? {
                Asked::Start(_) => {
                    return Err(Error::invalid("start", Reason::FieldInvalid, "may come only once"));
                }
                Asked::Credit(credit) => self.add(credit.deliveries)?,
                answer => {
                    let (call, out) = (self.call.clone(), self.out.clone());
                    // on its own: an answer counts even if the stream ends
                    tokio::spawn(async move {
                        let answer = settled(&call, answer).await;
                        say(&out, Said::Answer(answer)).await;
                        drop(place);
                    });
                }
            }
        }
        // it has said all: it gets its answers and what it has credit for
        let all = ANSWERS_PENDING_MAX as u32;
        let _answered = unanswered.acquire_many(all).await.map_err(Error::fault)?;
        let _ = self.unused_seen.wait_for(|unused| *unused == 0).await;
        Ok(End::Done)
    }

    fn add(&self, more: u32) -> Result<()> {
        let unused = *self.unused.borrow();
        if unused.saturating_add(more) > limits::CREDIT_MAX {
            let detail = format!("{unused} unused and {more} more");
            return Err(Error::invalid("credit.deliveries", Reason::TooLarge, detail));
        }
        self.unused.send_modify(|unused| *unused += more);
        self.credit.want(more);
        Ok(())
    }
}

/// Does what a tagged message asks for.
async fn settled(call: &Call, asked: Asked) -> Answer {
    let (tag, outcome) = match asked {
        Asked::Acknowledge(message) => {
            let result = settle::acknowledge(call, message.request.unwrap_or_default()).await;
            (message.tag, result.map(Outcome::Acknowledged))
        }
        Asked::Reject(message) => {
            let result = settle::reject(call, message.request.unwrap_or_default()).await;
            (message.tag, result.map(Outcome::Rejected))
        }
        Asked::Nack(message) => {
            let result = settle::nack(call, &message.request.unwrap_or_default()).await;
            (message.tag, result.map(Outcome::Nacked))
        }
        Asked::Extend(message) => {
            let result = settle::extend(call, &message.request.unwrap_or_default()).await;
            (message.tag, result.map(Outcome::Extended))
        }
        Asked::Start(_) | Asked::Credit(_) => {
            (0, Err(Error::invalid("part", Reason::FieldInvalid, "asks for no answer")))
        }
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::Refused(call.refusal(&error)));
    Answer { tag, outcome: Some(outcome) }
}

/// Says what there is: deliveries, numbers that are gone, progress.
struct Speaker<'a> {
    call: &'a Call,
    out: &'a Out,
    taking: Taking,
    credit: Credit,
    wake: watch::Receiver<()>,
    unused: Arc<watch::Sender<u32>>,
    /// Most bytes of the documents that come with a delivery.
    documents_bytes_max: Option<u32>,
    /// Every number up to here is accounted for on the client's side.
    accounted_to: u64,
    /// Numbers above it that came on this stream.
    came: Ranges,
    /// The progress that was last shown.
    shown: Option<MailboxRow>,
}

/// Ticks at the end of each silence, the first a little earlier, so that many
/// streams wake the hub together.
fn silence(monotonic_us: u64) -> Interval {
    let behind = Duration::from_micros(monotonic_us % limits::PROGRESS_SLOT.as_micros() as u64);
    let mut silence =
        interval_at(Instant::now() + limits::PROGRESS_INTERVAL - behind, limits::PROGRESS_INTERVAL);
    silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    silence
}

impl Speaker<'_> {
    async fn run(mut self) -> Result<End> {
        let mut silence = silence(self.call.context.clock.monotonic_us());
        if let Some(end) = self.account(true).await? {
            return Ok(end);
        }
        let mut leases: VecDeque<Lease> = VecDeque::new();
        loop {
            // deliveries do not keep the rest waiting, nor the rest them
            let end = tokio::select! {
                _ = silence.tick() => self.account(true).await?,
                changed = self.wake.changed() => match changed {
                    Ok(()) => self.account(false).await?,
                    Err(_) => Some(End::Closing(Reason::Stopping)),
                },
                round = self.taking.next(), if leases.is_empty() => {
                    leases.extend(round);
                    None
                }
                () = std::future::ready(()), if !leases.is_empty() => match leases.pop_front() {
                    Some(lease) => self.hand_over(lease).await,
                    None => None,
                },
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    async fn hand_over(&mut self, lease: Lease) -> Option<End> {
        let context = &self.call.context;
        let made = match hand_over_at_once(&*context.state, &context.evidence, lease) {
            Some(made) => made,
            None => {
                self.call.blocking(move |context| hand_over(&*context.state, &context.evidence, lease)).await
            }
        };
        let delivery = match made {
            Ok(Some(delivery)) => delivery,
            not_made => {
                // one that cannot be read does not keep the others back
                if let Err(error) = not_made {
                    drop(self.call.refusal(&error));
                }
                self.credit.want(1);
                return None;
            }
        };
        self.came.insert(delivery.mailbox_sequence);
        let delivery = within(delivery, self.documents_bytes_max);
        let said = say(self.out, Said::Delivery(delivery)).await;
        self.unused.send_modify(|unused| *unused = unused.saturating_sub(1));
        if said { None } else { Some(End::Done) }
    }

    /// Tells of numbers that are gone, and of progress if the floor moved or
    /// it is time; the floor never passes what was not told.
    async fn account(&mut self, always: bool) -> Result<Option<End>> {
        loop {
            let (allowed, row, found) = self.call.read(|read| {
                let system = self.call.system();
                let row = query::mailbox(read, system);
                let found = query::gone(read, system, self.accounted_to, row.floor, limits::GONE_MAX);
                (self.call.still_allowed(read), row, found)
            });
            if let Err(Refusal { reason, .. }) = allowed {
                return Ok(Some(End::Closing(reason)));
            }
            let more = found.len() == limits::GONE_MAX;
            for entry in found {
                self.accounted_to = entry.0;
                if !self.came.contains(entry.0) && !say(self.out, Said::Gone(gone(entry))).await {
                    return Ok(Some(End::Done));
                }
            }
            self.came.forget_to(self.accounted_to);
            if more {
                continue;
            }
            self.accounted_to = self.accounted_to.max(row.floor);
            let moved = self.shown.as_ref().is_none_or(|shown| shown.floor != row.floor);
            if (always || moved) && !say(self.out, Said::Progress(progress(&row))).await {
                return Ok(Some(End::Done));
            }
            self.shown = Some(row);
            return Ok(None);
        }
    }
}
