//! Receiving: deliveries as they come, each verified and its mailbox number
//! accounted for before anybody sees it.

mod document;
mod lease;
mod received;
mod save;

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axis_proto::{
    hub::v1::{
        Credit as CreditMessage, Delivery, Gone, MailboxProgress, PullRequest, Reason, ReceiveRequest,
        ReceiveStart, Refusal, receive_request::Part as Say, receive_response::Part as Hear,
    },
    id::DeliveryId,
    record::v1::Settlement,
};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub use document::ReceivedDocument;
pub use received::{Received, Settled};
pub use save::Saved;

use crate::{
    answered::{self, Answer},
    client::{Client, Inner},
    error::{Again, Error, HomeProblem, Refused, Result, Verification},
    files::Lock,
    numbers::Ledger,
    receive::lease::{Credit, Lease, millis},
    retry::Effort,
};

/// How to receive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// Whether to wait for what comes, through breaks and restarts, or to stop
    /// when nothing is left.
    pub follow: bool,
    /// The most deliveries to hold unanswered, 1 to 1 000.
    pub held_max: u32,
    /// The most deliveries to take in all. If unset, no bound.
    pub deliveries_max: Option<u64>,
    /// How long each lease lasts; it is extended while the delivery is held.
    pub lease: Duration,
    /// How long a delivery may be held in all before its lease is left to
    /// lapse.
    pub hold_max: Duration,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            follow: false,
            held_max: 16,
            deliveries_max: None,
            lease: Duration::from_secs(60),
            hold_max: Duration::from_secs(3_600),
        }
    }
}

impl ReceiveOptions {
    /// Waits for what comes.
    pub fn following() -> Self {
        Self { follow: true, ..Self::default() }
    }

    /// Holds at most so many unanswered.
    pub fn held_max(mut self, held_max: u32) -> Self {
        self.held_max = held_max.clamp(1, 1_000);
        self
    }

    /// Takes at most so many in all.
    pub fn deliveries_max(mut self, deliveries_max: u64) -> Self {
        self.deliveries_max = Some(deliveries_max);
        self
    }

    /// Leases each for so long, and holds it for at most `hold_max`.
    pub fn lease(mut self, lease: Duration, hold_max: Duration) -> Self {
        self.lease = lease.clamp(Duration::from_secs(1), Duration::from_secs(3_600));
        self.hold_max = hold_max;
        self
    }
}

/// Deliveries as they come. Dropping it stops receiving and gives back what
/// nobody has looked at yet.
///
/// An error of one delivery (`Verification`, `MailboxGap`) does not end the
/// stream: the others still come. After any other error it ends.
#[derive(Debug)]
pub struct Deliveries {
    items: mpsc::Receiver<Result<Received>>,
    unsettled: Arc<AtomicU64>,
}

impl Deliveries {
    /// The next one, or nothing when the stream has ended.
    pub async fn next(&mut self) -> Option<Result<Received>> {
        self.items.recv().await
    }

    /// How many deliveries of the mailbox were not settled when the hub last
    /// said: waiting, held, or to be offered again later.
    pub fn unsettled(&self) -> u64 {
        self.unsettled.load(Ordering::Relaxed)
    }
}

impl Stream for Deliveries {
    type Item = Result<Received>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(context)
    }
}

/// What of a mailbox is accounted for on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MailboxNumbers {
    /// Every number up to here came, or is named in `missing`.
    pub accounted_to: u64,
    /// Numbers that never came although the hub called them settled.
    pub missing: Vec<RangeInclusive<u64>>,
}

/// How long to wait for another stream of the same home that is ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Longest silence of a stream; the hub speaks at least every 30 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How often the ledger is written while deliveries come.
const LEDGER_INTERVAL: Duration = Duration::from_secs(1);
/// Most deliveries, acknowledged elsewhere as the hub says, that are looked for
/// at once: more would be the same news.
const ACKNOWLEDGED_MAX: usize = 1_000;
/// Most deliveries of one Pull.
const PULL_MAX: u32 = 100;
/// Most bytes of a Pull's answer, as the contract says.
const PULL_BYTES_MAX: u64 = 3 * 1024 * 1024;
/// Most bytes of documents that come with a delivery after a conversation
/// broke: half a second of a link of 32 KiB/s. More are downloaded.
const DOCUMENTS_BYTES_MAX: u32 = 16 * 1024;
/// How long a conversation lives on a link that is good enough for long
/// messages.
const STEADY: Duration = Duration::from_secs(60);

impl Client {
    /// Receives for all agencies of this system. One stream at a time for a
    /// home: the numbers ledger belongs to it.
    pub async fn receive(&self, options: ReceiveOptions) -> Result<Deliveries> {
        let inner = self.inner.clone();
        inner.check_log().await?;
        let Some(lock) = Lock::take(&inner.home.mailbox_lock(), LOCK_PATIENCE).await? else {
            return Err(HomeProblem::Busy { home: inner.home.path().display().to_string() }.into());
        };
        let ledger = Ledger::open(&inner.home.mailbox())?;
        let held_max = options.held_max.clamp(1, 1_000);
        let (sender, items) = mpsc::channel(held_max as usize);
        let unsettled = Arc::new(AtomicU64::new(0));
        let receiver = Receiver {
            credit: Arc::new(Credit::new(held_max)),
            left: options.deliveries_max,
            ledger,
            ledger_written: Instant::now(),
            items: sender,
            unsettled: unsettled.clone(),
            poor_link: false,
            acknowledged: BTreeSet::new(),
            inner,
            options,
        };
        tokio::spawn(receiver.run(lock));
        Ok(Deliveries { items, unsettled })
    }

    /// The ledger of mailbox numbers, as it was last written.
    pub fn mailbox_numbers(&self) -> Result<MailboxNumbers> {
        let numbers = Ledger::open(&self.inner.home.mailbox())?.numbers;
        Ok(MailboxNumbers { accounted_to: numbers.accounted_to(), missing: numbers.missing().collect() })
    }
}

/// What reads from the hub and hands over.
struct Receiver {
    inner: Arc<Inner>,
    options: ReceiveOptions,
    credit: Arc<Credit>,
    /// How many deliveries may still be taken.
    left: Option<u64>,
    ledger: Ledger,
    ledger_written: Instant,
    items: mpsc::Sender<Result<Received>>,
    unsettled: Arc<AtomicU64>,
    /// A conversation broke early: long messages may not arrive. Until one has
    /// been steady, one delivery is asked for at a time, and its documents by
    /// themselves.
    poor_link: bool,
    /// Deliveries that the hub says were acknowledged elsewhere.
    acknowledged: BTreeSet<DeliveryId>,
}

/// Why a conversation with the hub ended.
enum End {
    /// Nobody listens any more, or enough has come.
    Done,
    /// Connect again, after so many milliseconds.
    Again(u64),
    /// Begin anew at once: the link has become good.
    Anew,
}

impl Receiver {
    async fn run(mut self, lock: Lock) {
        let result = if self.options.follow { self.follow().await } else { self.pull().await };
        if let Err(error) = self.ledger.save() {
            tracing::warn!(%error, "the ledger of mailbox numbers was not written");
        }
        // free before the reader sees the end, so that it can begin again
        drop(lock);
        if let Err(error) = result {
            let _ = self.items.send(Err(error)).await;
        }
    }

    /// One conversation after another.
    async fn follow(&mut self) -> Result<()> {
        let mut effort = Effort::new(self.inner.options.patience());
        loop {
            let mut spoke = false;
            let began = Instant::now();
            let error = match self.converse(&mut spoke).await {
                Ok(End::Done) => return Ok(()),
                Ok(End::Anew) => continue,
                Ok(End::Again(retry_after_ms)) => self.ended_by_hub(Reason::Stopping, retry_after_ms),
                Err(error) => error,
            };
            self.mind(&error, began.elapsed());
            if spoke || error.again() != Again::No {
                // who follows waits for as long as it takes
                effort.progress_in_time(spoke);
            }
            tracing::debug!(%error, "receiving was interrupted");
            tokio::select! {
                result = effort.wait(error) => result?,
                () = self.items.closed() => return Ok(()),
            }
        }
    }

    async fn converse(&mut self, spoke: &mut bool) -> Result<End> {
        let address = self.inner.address();
        // a hub that was restored meanwhile gives later numbers anew
        tokio::select! {
            info = self.inner.ask_info() => self.inner.met(&info?)?,
            () = self.items.closed() => return Ok(End::Done),
        };
        self.enter_log()?;
        let (requests, outgoing) = mpsc::channel(16);
        let ahead = if self.poor_link { 1 } else { u32::MAX };
        let began = Instant::now();
        let mut outstanding = self.take_credit(ahead);
        let start = ReceiveStart {
            accounted_to: self.ledger.numbers.begin(),
            credit: outstanding,
            lease_duration_ms: millis(self.options.lease),
            documents_bytes_max: self.documents_bytes_max(),
        };
        let credit = self.credit.clone();
        let say = |part| ReceiveRequest { part: Some(part) };
        let result = async {
            // the channel is empty: this cannot wait
            let _ = requests.send(say(Say::Start(start))).await;
            let mut mailbox = self.inner.mailbox();
            let call = mailbox.receive(self.inner.request(ReceiverStream::new(outgoing)));
            let mut heard = self.inner.timed(call).await?;
            loop {
                tokio::select! {
                    message = tokio::time::timeout(SILENCE_MAX, heard.message()) => {
                        let message = message.map_err(|_| Error::timed_out(&address))?;
                        let message = message.map_err(|status| Error::of_status(status, &address))?;
                        let Some(message) = message else { return Err(Error::broken(&address)) };
                        *spoke = true;
                        match message.part {
                            Some(Hear::Delivery(delivery)) => {
                                outstanding = outstanding.saturating_sub(1);
                                if !self.hand_over(delivery).await? || (outstanding == 0 && self.left == Some(0)) {
                                    return Ok(End::Done);
                                }
                                // nothing is on its way that could get lost
                                if self.poor_link && outstanding == 0 && began.elapsed() >= STEADY {
                                    self.poor_link = false;
                                    return Ok(End::Anew);
                                }
                            }
                            Some(Hear::Gone(gone)) => self.gone(&gone),
                            Some(Hear::Progress(progress)) => {
                                if !self.progress(&progress).await {
                                    return Ok(End::Done);
                                }
                            }
                            Some(Hear::Closing(closing)) => return self.closing(closing.reason(), closing.retry_after_ms),
                            // answers to what is not asked here, and kinds that are newer
                            Some(Hear::Answer(_)) | None => {}
                        }
                        self.inner.mind_log().await?;
                    }
                    () = credit.returned() => {}
                    () = self.items.closed() => return Ok(End::Done),
                }
                let more = self.take_credit(ahead.saturating_sub(outstanding));
                if more > 0 {
                    outstanding += more;
                    let credit = Say::Credit(CreditMessage { deliveries: more });
                    if requests.send(say(credit)).await.is_err() {
                        return Err(Error::broken(&address));
                    }
                }
            }
        }
        .await;
        // what the hub did not use is free again for the next conversation
        if outstanding > 0 {
            self.return_credit(outstanding);
        }
        result
    }

    fn closing(&self, reason: Reason, retry_after_ms: u64) -> Result<End> {
        if reason == Reason::Stopping {
            return Ok(End::Again(retry_after_ms));
        }
        Err(self.ended_by_hub(reason, retry_after_ms))
    }

    fn ended_by_hub(&self, reason: Reason, retry_after_ms: u64) -> Error {
        let message = reason.message(self.inner.options.language).to_owned();
        let refusal = Refusal { reason: reason.into(), message, retry_after_ms, ..Default::default() };
        Error::refused(Refused::of_message(refusal))
    }

    /// Takes what there is, then ends.
    async fn pull(&mut self) -> Result<()> {
        self.inner.meet().await?;
        self.enter_log()?;
        let mut effort = Effort::new(self.inner.options.patience());
        let mut steady_since = Instant::now();
        loop {
            self.poor_link &= steady_since.elapsed() < STEADY;
            let credit = self.take_credit(if self.poor_link { 1 } else { PULL_MAX });
            if credit == 0 {
                if self.left == Some(0) {
                    return Ok(());
                }
                tokio::select! {
                    () = self.credit.returned() => continue,
                    () = self.items.closed() => return Ok(()),
                }
            }
            let request = PullRequest {
                max_deliveries: credit,
                max_wait_ms: 0,
                lease_duration_ms: millis(self.options.lease),
                accounted_to: self.ledger.numbers.begin(),
                documents_bytes_max: self.documents_bytes_max(),
            };
            let inner = self.inner.clone();
            let call =
                async { inner.timed_for(PULL_BYTES_MAX, inner.mailbox().pull(inner.request(request))).await };
            let answer = tokio::select! {
                answer = call => answer,
                () = self.items.closed() => return Ok(()),
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    self.return_credit(credit);
                    self.mind(&error, Duration::ZERO);
                    tokio::select! {
                        result = effort.wait(error) => result?,
                        () = self.items.closed() => return Ok(()),
                    }
                    steady_since = Instant::now();
                    continue;
                }
            };
            effort.progress();
            let came = u32::try_from(answer.deliveries.len()).unwrap_or(u32::MAX);
            self.return_credit(credit.saturating_sub(came));
            let more = !answer.deliveries.is_empty() || !answer.gone.is_empty();
            for gone in &answer.gone {
                self.gone(gone);
            }
            for delivery in answer.deliveries {
                if !self.hand_over(delivery).await? {
                    return Ok(());
                }
            }
            self.inner.mind_log().await?;
            if let Some(progress) = answer.progress
                && !self.progress(&progress).await
            {
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Remembers what an error says of the link, after so long without one.
    fn mind(&mut self, error: &Error, steady: Duration) {
        if error.may_be_the_link() {
            self.poor_link = steady < STEADY;
        }
    }

    fn documents_bytes_max(&self) -> Option<u32> {
        self.poor_link.then_some(DOCUMENTS_BYTES_MAX)
    }

    /// Credit for deliveries that may still be taken.
    fn take_credit(&mut self, most: u32) -> u32 {
        let most = self.left.map_or(most, |left| most.min(u32::try_from(left).unwrap_or(u32::MAX)));
        let taken = self.credit.take(most);
        if let Some(left) = &mut self.left {
            *left -= u64::from(taken);
        }
        taken
    }

    fn return_credit(&mut self, credit: u32) {
        self.credit.put(credit);
        if let Some(left) = &mut self.left {
            *left += u64::from(credit);
        }
    }

    fn gone(&mut self, gone: &Gone) {
        self.ledger.numbers.seen(gone.mailbox_sequence);
        if gone.why() == Settlement::Acknowledged
            && self.acknowledged.len() < ACKNOWLEDGED_MAX
            && let Ok(delivery_id) = gone.delivery_id.parse()
        {
            self.acknowledged.insert(delivery_id);
        }
    }

    /// The hub's word alone says that these were acknowledged: whoever did not
    /// do it here should hear of it.
    fn look_for_acknowledged(&mut self) {
        let mut unknown = std::mem::take(&mut self.acknowledged);
        if unknown.is_empty() || self.inner.options.keep.is_zero() {
            return;
        }
        let home = self.inner.home.clone();
        self.inner.runtime.spawn_blocking(move || {
            if let Err(error) = answered::take_out(&home, &mut unknown) {
                return tracing::warn!(%error, "what was answered here cannot be read");
            }
            for delivery_id in unknown {
                tracing::warn!(%delivery_id, "acknowledged, says the hub, but not by this home");
            }
        });
    }

    /// Where the mailbox stands; whether anybody still listens.
    async fn progress(&mut self, progress: &MailboxProgress) -> bool {
        self.unsettled.store(progress.waiting, Ordering::Relaxed);
        self.look_for_acknowledged();
        let result = self.ledger.numbers.progress(progress.high, progress.floor, progress.forgotten_to);
        self.write_ledger();
        match result {
            Ok(()) => true,
            Err(error) => self.items.send(Err(error)).await.is_ok(),
        }
    }

    /// The ledger is that of the hub's log.
    fn enter_log(&mut self) -> Result<()> {
        let (era, first) = {
            let book = self.inner.trust.book();
            (book.era(), !book.was_restored())
        };
        self.ledger.enter(&era, first)
    }

    /// Verifies a delivery and hands it over; whether anybody still listens.
    async fn hand_over(&mut self, delivery: Delivery) -> Result<bool> {
        let lease = delivery.delivery_id.parse().map(|delivery_id| {
            Lease::hold(
                self.inner.clone(),
                self.credit.clone(),
                delivery_id,
                delivery.attempt,
                self.options.lease,
                self.options.hold_max,
            )
        });
        self.inner.know_log_of(delivery.receipt.as_ref()).await?;
        self.enter_log()?;
        self.ledger.numbers.seen(delivery.mailbox_sequence);
        self.write_ledger();
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                self.credit.put(1);
                let error = Verification::new("envelope", format!("its delivery has no id: {error}"));
                return Ok(self.items.send(Err(error.into())).await.is_ok());
            }
        };
        let delivery_id = lease.delivery_id;
        let item = match received::verify(&self.inner, delivery_id, delivery) {
            Ok(verified) => {
                let received = Received::new(self.inner.clone(), lease, verified);
                match received.answered_before() {
                    None => Ok(received),
                    Some(answer) => {
                        self.answer_again(received, answer);
                        return Ok(true);
                    }
                }
            }
            // nothing that this hub gives is worth anything now
            Err(error @ Error::Log(_)) => return Err(error),
            Err(error) => {
                // one bad delivery never blocks the others: it waits, and an operator sees it in the end
                tracing::warn!(%delivery_id, %error, "a delivery was not handed over");
                if let Err(error) = lease.nack(None).await {
                    tracing::debug!(%delivery_id, %error, "it was not given back");
                }
                Err(error)
            }
        };
        Ok(self.items.send(item).await.is_ok())
    }

    /// The hub was restored and does not know that this was answered: whoever
    /// reads here is not shown it twice.
    fn answer_again(&mut self, received: Received, answer: Answer) {
        if let Some(left) = &mut self.left {
            *left += 1;
        }
        let inner = self.inner.clone();
        let again = async move {
            let delivery_id = received.delivery_id();
            match received.answer_again(answer).await {
                Ok(()) => {
                    inner.answered_again.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(%delivery_id, "answered again as before");
                }
                Err(error) => tracing::warn!(%delivery_id, %error, "not answered again yet"),
            }
        };
        self.inner.answers.spawn_on(again, &self.inner.runtime);
    }

    fn write_ledger(&mut self) {
        if self.ledger_written.elapsed() < LEDGER_INTERVAL {
            return;
        }
        self.ledger_written = Instant::now();
        if let Err(error) = self.ledger.save() {
            tracing::warn!(%error, "the ledger of mailbox numbers was not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use axis_proto::record::v1::Receipt;

    use super::*;
    use crate::testing::Enrolled;

    #[tokio::test]
    async fn what_comes_of_a_log_that_cannot_be_asked_about_costs_no_credit() {
        let enrolled = Enrolled::new().await;
        let inner = enrolled.inner().clone();
        let (sender, _items) = mpsc::channel(3);
        let mut receiver = Receiver {
            credit: Arc::new(Credit::new(3)),
            left: None,
            ledger: Ledger::open(&inner.home.mailbox()).unwrap(),
            ledger_written: Instant::now(),
            items: sender,
            unsettled: Arc::default(),
            poor_link: false,
            acknowledged: BTreeSet::new(),
            inner,
            options: ReceiveOptions::following(),
        };
        let proof = "proof\n\nhub.test/log2\n9\n".to_owned();
        let receipt = Some(Receipt { proof, ..Receipt::default() });
        let delivery = Delivery {
            delivery_id: "7-0".into(),
            attempt: 1,
            mailbox_sequence: 4,
            receipt,
            ..Default::default()
        };
        assert_eq!(receiver.take_credit(1), 1);
        let error = receiver.hand_over(delivery).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
        assert_eq!(receiver.credit.take(9), 3);
    }

    #[tokio::test]
    async fn credit_comes_back() {
        let credit = Credit::new(3);
        assert_eq!((credit.take(2), credit.take(9), credit.take(1)), (2, 1, 0));
        credit.put(1);
        credit.put(1);
        tokio::time::timeout(Duration::from_secs(5), credit.returned()).await.unwrap();
        assert_eq!(credit.take(9), 2);
    }

    #[test]
    fn options_stay_in_bounds() {
        let options = ReceiveOptions::following().held_max(0).lease(Duration::ZERO, Duration::ZERO);
        assert_eq!((options.held_max, options.lease), (1, Duration::from_secs(1)));
    }
}
