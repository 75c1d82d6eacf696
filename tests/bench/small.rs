//! `bench small`: envelopes with one document of 4 KiB that rides along. What
//! the hub accepts, how long that takes, and what a whole exchange costs: each
//! with the hub's processor time, beside that of one `verify_strict`. Every
//! envelope is another one, signed before the clock starts, by eight systems;
//! acknowledgements are signed while it runs, as they must be. Then the same
//! submissions go to what does the least that a hub can do ([`crate::bare`]).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axis_proto::{
    hub::v1::{
        Credit, FollowRequest, ReadFeedRequest, ReceiveRequest, ReceiveResponse, ReceiveStart,
        SubmitResponse, SubmitStreamRequest, SubmitStreamResponse, TaggedAcknowledge,
        answer::Outcome as Answered, feed_service_client::FeedServiceClient, receive_request::Part as Ask,
        receive_response::Part as Heard, submit_stream_response::Outcome,
    },
    note::CheckpointVerifier,
    receipt,
    record::v1::{Receipt, Record, record::Event},
};
use axis_tests::{
    Raw, acknowledge,
    seed::{self, Plan, Seeded},
};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use crate::{
    bare::Bare,
    baseline,
    hub::Hub,
    load::connect,
    measure::{Counter, Latencies, Measured, Pace, Tally, all, closed, open, watch},
    report::{Common, Report, Table},
    signed::Signed,
};

/// Systems that send, that are sent to and leave it there, that take it.
const SENDERS: usize = 8;
const IDLE: usize = 8;
const TAKERS: usize = 8;
/// Bytes of the document.
const DOCUMENT_BYTES: usize = 4_096;
/// Unary calls at once, over all senders: as many as the peers have.
const AT_ONCE: usize = 256;
/// Unanswered submissions of one stream.
const WINDOW: u16 = 256;
/// Deliveries that may be on their way to one recipient.
const CREDIT: u32 = 512;
/// Of how many receipts one is verified when the clock has stopped.
const VERIFIED_OF: u64 = 256;
/// Signed for the second in which the rate is found out.
const PILOT: usize = 12_000;
/// In which it is found out.
const PILOT_PACE: Pace = Pace { warm: Duration::ZERO, run: Duration::from_secs(1) };
/// How long signatures are verified before and after each work.
const VERIFIED_FOR: Duration = Duration::from_millis(400);
/// Records that the hub may add by itself: that it took a snapshot.
const SNAPSHOTS_MAX: f64 = 10.0;
/// How long the hub may take to record what it answered already, and what
/// follows from it.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Only these
    #[arg(long, value_delimiter = ',', value_enum)]
    works: Vec<Work>,
    /// Unanswered submissions of one stream, of 8; the hub takes 1 024, and 4 096 from all
    #[arg(long, default_value_t = WINDOW, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    window: u16,
}

impl Args {
    /// All of it.
    pub fn of(common: &Common) -> Self {
        Self { common: common.clone(), works: Vec::new(), window: WINDOW }
    }

    fn wants(&self, work: Work) -> bool {
        self.works.is_empty() || self.works.contains(&work)
    }
}

/// One work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// One submission after the other
    Single,
    /// One after the other, until it was pushed to its recipient
    Pushed,
    /// Submit, deliver, acknowledge, receipts both ways
    Cycle,
    /// `Submit`, 256 at once
    Unary,
    /// `SubmitStream`, on 8 streams
    Streaming,
    /// Half the rate of `streaming`, open loop
    Half,
    /// `Unary`, `Streaming` and half of that again, with what does the least that a hub can do
    Least,
}

/// Of a hub, in this order: what is sent in the later ones stays in the
/// mailboxes.
const WORKS: [Work; 6] = [Work::Single, Work::Pushed, Work::Cycle, Work::Unary, Work::Streaming, Work::Half];

/// Runs it.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!(
        "Documents of 4 KiB, {SENDERS} sending systems, the load on the same processors. CPU is processor \
         time, of all threads and of the kernel for them; × verify_strict is the hub's against one \
         `verify_strict` of 4 KiB on all processors at once, the mean of just before and just after. The \
         least is another server of the same contract that hashes, verifies, writes and syncs, and nothing \
         else: no rights, dedupe, state, evidence or receipts, so that answers cost the load less, too; the \
         hub has stopped then, and the hub's CPU is this server's.",
    );
    report.profile("small", &about, work_dir.path())?;
    let mut table = Table::new("4 KiB");
    let mut truth = Vec::new();
    for round in 0..args.common.rounds {
        let dir = work_dir.path().join(format!("hub-{round}"));
        let seeded =
            seed::seed(&dir, &Plan { systems: SENDERS + IDLE + TAKERS, ..Plan::default() }, &mut |_| {})?;
        let runtime = tokio::runtime::Runtime::new()?;
        let bench = Arc::new(Bench::start(&runtime, &dir, &seeded, args.window.into())?);
        eprintln!(
            "bench: round {} of {}, the hub is process {}",
            round + 1,
            args.common.rounds,
            bench.hub.pid()
        );
        let mut streaming = None;
        let pace = Pace::seconds(args.common.seconds);
        for work in WORKS.into_iter().filter(|work| args.wants(*work)) {
            bracketed(&mut table, pace, || runtime.block_on(work.measure(&bench, pace, &mut streaming)))?;
        }
        truth.push(runtime.block_on(bench.truth())?);
        drop(runtime);
        let Bench { hub, target, .. } = Arc::into_inner(bench).context("a task holds the hub")?;
        hub.stop()?;
        if args.wants(Work::Least) {
            least(&mut table, pace, &dir.join("bare"), &target)?;
        }
        std::fs::remove_dir_all(&dir)?;
    }
    report.table(table);
    truth.iter().for_each(|words| report.say(words));
    Ok(())
}

/// Measures some works, and what one signature costs just before and just
/// after.
fn bracketed(
    table: &mut Table,
    pace: Pace,
    measure: impl FnOnce() -> anyhow::Result<Vec<(&'static str, Measured)>>,
) -> anyhow::Result<()> {
    let time = VERIFIED_FOR.min(pace.run / 10);
    let before_us = baseline::verify_now(time);
    let all = measure()?;
    let verify_us = f64::midpoint(before_us, baseline::verify_now(time));
    for (name, measured) in all {
        let mut figures = measured.figures();
        let place = figures.iter().position(|(name, _)| *name == "hub CPU µs").map_or(0, |at| at + 1);
        figures.insert(place, ("× verify_strict", measured.hub_us() / verify_us));
        figures.insert(place + 1, ("verify_strict µs", verify_us));
        eprintln!("bench: {name}: {:.0}/s", measured.rate());
        table.add(name, figures);
    }
    Ok(())
}

/// The same submissions to what does the least, when the hub has stopped.
fn least(table: &mut Table, pace: Pace, dir: &Path, hub: &Target) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (bare, senders) = runtime.block_on(async {
        let bare = Bare::start(dir, &hub.senders)?;
        let senders = hub.senders.iter().map(|sender| bare.connect(sender, (None, None)));
        let senders = senders.collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::Ok((bare, senders))
    })?;
    let target = Target::new(bare.pid(), senders, hub.window, false);
    let to: Vec<String> = (SENDERS..SENDERS + IDLE).map(seed::agency).collect();
    bracketed(table, pace, || {
        let measured = target.piloted(pace, SENDERS, &to, |signed, pace| unary(&target, signed, pace));
        Ok(vec![("the least, unary", runtime.block_on(measured)?)])
    })?;
    let mut rate = 0.0;
    bracketed(table, pace, || {
        let measured = target.piloted(pace, SENDERS, &to, |signed, pace| stream(&target, signed, pace));
        let measured = runtime.block_on(measured)?;
        rate = measured.rate();
        Ok(vec![("the least, streaming", measured)])
    })?;
    bracketed(table, pace, || {
        let measured = runtime.block_on(half_of(rate, &target, &to, pace))?;
        Ok(vec![("the least, half its rate, open loop", measured)])
    })
}

impl Work {
    async fn measure(
        self,
        bench: &Arc<Bench>,
        pace: Pace,
        streaming: &mut Option<f64>,
    ) -> anyhow::Result<Vec<(&'static str, Measured)>> {
        let idle: Vec<String> = bench.idle().map(seed::agency).collect();
        let takers: Vec<String> = bench.takers().map(seed::agency).collect();
        match self {
            Self::Single => {
                let measured =
                    bench.target.piloted(pace, 1, &idle, |signed, pace| single(&bench.target, signed, pace));
                Ok(vec![("submit, one at a time", measured.await?)])
            }
            Self::Pushed => {
                let answered = Mutex::new(Latencies::default());
                let measured = bench.target.piloted(pace, 1, &takers[..1], async |signed, pace| {
                    let (measured, latencies) = pushed(bench, signed, pace).await?;
                    *held(&answered) = latencies;
                    Ok(measured)
                });
                let measured = measured.await?;
                let answered = Measured { latencies: held(&answered).clone(), ..measured.clone() };
                Ok(vec![("one at a time: answered", answered), ("one at a time: pushed", measured)])
            }
            Self::Cycle => {
                let measured =
                    bench.target.piloted(pace, SENDERS, &takers, |signed, pace| cycle(bench, signed, pace));
                Ok(vec![("full cycle", measured.await?)])
            }
            Self::Unary => {
                let measured = bench
                    .target
                    .piloted(pace, SENDERS, &idle, |signed, pace| unary(&bench.target, signed, pace));
                Ok(vec![("submit, unary", measured.await?)])
            }
            Self::Streaming => {
                let measured = bench
                    .target
                    .piloted(pace, SENDERS, &idle, |signed, pace| stream(&bench.target, signed, pace));
                let measured = measured.await?;
                *streaming = Some(measured.rate());
                Ok(vec![("submit, streaming", measured)])
            }
            Self::Half => {
                let rate = match *streaming {
                    Some(rate) => rate,
                    // found out in a second
                    None => stream(&bench.target, bench.target.signed(SENDERS, &idle, PILOT), PILOT_PACE)
                        .await?
                        .rate(),
                };
                let measured = half_of(rate, &bench.target, &idle, pace).await?;
                Ok(vec![("submit, streaming, half the rate, open loop", measured)])
            }
            // not of this hub: see `least`
            Self::Least => Ok(Vec::new()),
        }
    }
}

/// Where submissions go, and what was answered.
struct Target {
    pid: u32,
    senders: Vec<Raw>,
    /// Unanswered submissions of one stream.
    window: usize,
    /// Whether it gives receipts.
    is_hub: bool,
    accepted: AtomicU64,
    /// Some, to be verified.
    receipts: Mutex<Vec<Receipt>>,
}

/// A hub and who uses it.
struct Bench {
    hub: Hub,
    dir: PathBuf,
    target: Arc<Target>,
    verifier: CheckpointVerifier,
    records_before: f64,
    acknowledged: AtomicU64,
}

impl Target {
    fn new(pid: u32, senders: Vec<Raw>, window: usize, is_hub: bool) -> Arc<Self> {
        let (accepted, receipts) = (AtomicU64::default(), Mutex::default());
        Arc::new(Self { pid, senders, window, is_hub, accepted, receipts })
    }

    fn signed(&self, senders: usize, to: &[String], count: usize) -> Arc<Signed> {
        let make = || Signed::make(&self.senders[..senders], to, count, DOCUMENT_BYTES);
        Arc::new(tokio::task::block_in_place(make))
    }

    /// Finds out in a second how much must be signed, signs it, and measures.
    async fn piloted(
        &self,
        pace: Pace,
        senders: usize,
        to: &[String],
        work: impl AsyncFn(Arc<Signed>, Pace) -> anyhow::Result<Measured>,
    ) -> anyhow::Result<Measured> {
        let pilot = work(self.signed(senders, to, PILOT), PILOT_PACE).await?;
        // the pilot was the warm-up
        let pace = Pace { warm: pace.warm.min(Duration::from_millis(500)), ..pace };
        let enough = 1.4 * pilot.rate() * (pace.warm + pace.run).as_secs_f64();
        work(self.signed(senders, to, enough as usize + SENDERS * self.window), pace).await
    }

    /// An envelope was accepted, with this receipt.
    fn accept(&self, response: SubmitResponse) -> anyhow::Result<Receipt> {
        anyhow::ensure!(!response.duplicate, "it was accepted before");
        self.accepted.fetch_add(1, Ordering::Relaxed);
        if !self.is_hub {
            return Ok(Receipt::default());
        }
        let receipt = response.receipt.context("no receipt")?;
        self.sample(&receipt);
        Ok(receipt)
    }

    /// Keeps one of some receipts for later.
    fn sample(&self, receipt: &Receipt) {
        if fastrand::u64(..VERIFIED_OF) == 0 {
            held(&self.receipts).push(receipt.clone());
        }
    }
}

impl Bench {
    fn start(
        runtime: &tokio::runtime::Runtime,
        dir: &Path,
        seeded: &Seeded,
        window: usize,
    ) -> anyhow::Result<Self> {
        let hub = Hub::start(dir)?;
        let senders = (0..SENDERS).map(|place| runtime.block_on(connect(dir, place)));
        Ok(Self {
            target: Target::new(hub.pid(), senders.collect::<Result<_, _>>()?, window, true),
            records_before: hub.metric("axis_journal_records")?,
            hub,
            dir: dir.to_owned(),
            verifier: CheckpointVerifier::parse(&seeded.verifier_key)?,
            acknowledged: AtomicU64::default(),
        })
    }

    fn idle(&self) -> std::ops::Range<usize> {
        SENDERS..SENDERS + IDLE
    }

    fn takers(&self) -> std::ops::Range<usize> {
        SENDERS + IDLE..SENDERS + IDLE + TAKERS
    }

    /// That the hub has as many as were counted, and that receipts hold.
    async fn truth(&self) -> anyhow::Result<String> {
        let accepted = self.target.accepted.load(Ordering::Relaxed);
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let receipts = std::mem::take(&mut *held(&self.target.receipts));
        for kept in &receipts {
            receipt::verify(kept, &self.verifier)?;
        }
        let count = |name| self.hub.metric(name).unwrap_or(0.0);
        let began = Instant::now();
        loop {
            let told = (
                count("axis_submissions_total{outcome=\"accepted\",reason=\"none\"}"),
                count("axis_settlements_total{settlement=\"acknowledged\"}"),
            );
            // accepted, and seen at once; leased and acknowledged
            let leases = count("axis_leases_total");
            let records = told.0 + leases + told.1;
            let recorded = count("axis_journal_records") - self.records_before;
            let found = told == (accepted as f64, acknowledged as f64);
            if found && (records..records + SNAPSHOTS_MAX).contains(&recorded) {
                return Ok(format!(
                    "The hub counted the {accepted} submissions and {acknowledged} acknowledgements that were \
                     counted here, and {recorded} records of them; {} receipts verified; it took at most {} MiB.",
                    receipts.len(),
                    self.hub.memory_mib("VmHWM:"),
                ));
            }
            anyhow::ensure!(
                began.elapsed() < SETTLED_WITHIN,
                "counted {accepted} and {acknowledged}; the hub {told:?}, {recorded} records for {records}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn held<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call after the other.
async fn single(target: &Arc<Target>, signed: Arc<Signed>, pace: Pace) -> anyhow::Result<Measured> {
    calls("one at a time", target, signed, pace, 1).await
}

/// Many calls at once.
async fn unary(target: &Arc<Target>, signed: Arc<Signed>, pace: Pace) -> anyhow::Result<Measured> {
    calls("unary", target, signed, pace, AT_ONCE).await
}

async fn calls(
    what: &str,
    target: &Arc<Target>,
    signed: Arc<Signed>,
    pace: Pace,
    at_once: usize,
) -> anyhow::Result<Measured> {
    let clients: Arc<Vec<_>> = Arc::new(target.senders.iter().map(Raw::submission).collect());
    let target_ = target.clone();
    closed(what, pace, target.pid, at_once, move |worker| {
        let (signed, clients, target) = (signed.clone(), clients.clone(), target_.clone());
        async move {
            let Some(request) = signed.next(worker % SENDERS) else { return Ok(None) };
            let mut client = clients[worker % SENDERS].clone();
            target.accept(client.submit(request).await?.into_inner())?;
            Ok(Some(DOCUMENT_BYTES as u64))
        }
    })
    .await
}

/// A stream of submissions of one sender.
struct Lane {
    say: mpsc::UnboundedSender<SubmitStreamRequest>,
    answers: Streaming<SubmitStreamResponse>,
}

impl Lane {
    async fn open(raw: &Raw) -> anyhow::Result<Self> {
        let (say, said) = mpsc::unbounded_channel();
        let answers = raw.submission().submit_stream(UnboundedReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, answers })
    }
}

/// The tag and the outcome of an answer, which must be good.
fn submitted(answer: Option<SubmitStreamResponse>) -> anyhow::Result<(u64, SubmitResponse)> {
    let answer = answer.context("the stream of submissions ended")?;
    match answer.outcome.context("an answer without outcome")? {
        Outcome::Submitted(response) => Ok((answer.tag, response)),
        Outcome::Refused(refusal) => anyhow::bail!("refused: {refusal:?}"),
    }
}

/// As many unanswered on each stream as its window.
async fn stream(target: &Arc<Target>, signed: Arc<Signed>, pace: Pace) -> anyhow::Result<Measured> {
    let (tally, mut lanes) = (Tally::default(), JoinSet::<anyhow::Result<()>>::new());
    for sender in 0..SENDERS {
        let (target, signed, tally) = (target.clone(), signed.clone(), tally.clone());
        let counter = tally.counter();
        lanes.spawn(async move {
            let mut lane = Lane::open(&target.senders[sender]).await?;
            let mut begun = vec![Instant::now(); target.window];
            let mut under_way = 0;
            let mut free: Vec<u64> = (0..target.window as u64).rev().collect();
            loop {
                while tally.goes_on()
                    && let Some(tag) = free.pop()
                {
                    let Some(submission) = signed.next(sender) else {
                        tally.finish();
                        break;
                    };
                    begun[tag as usize] = Instant::now();
                    lane.say.send(SubmitStreamRequest { tag, submission: Some(submission) })?;
                    under_way += 1;
                }
                if under_way == 0 {
                    return Ok(());
                }
                let (tag, response) = submitted(lane.answers.message().await?)?;
                counter.ended(begun[tag as usize].elapsed(), DOCUMENT_BYTES as u64);
                target.accept(response)?;
                under_way -= 1;
                free.push(tag);
            }
        });
    }
    Ok(watch("streaming", pace, target.pid, &tally, all(lanes)).await?.0)
}

/// Half of a rate, which does not wait, on the same streams.
async fn half_of(rate: f64, target: &Arc<Target>, to: &[String], pace: Pace) -> anyhow::Result<Measured> {
    let per_second = rate / 2.0;
    let count = per_second * (pace.warm + pace.run).as_secs_f64() + 1_000.0;
    let signed = target.signed(SENDERS, to, count as usize);
    type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<SubmitResponse>>>>;
    let mut lanes: Vec<(mpsc::UnboundedSender<SubmitStreamRequest>, Waiting)> = Vec::new();
    let mut readers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for sender in &target.senders {
        let Lane { say, mut answers } = Lane::open(sender).await?;
        let waiting = Waiting::default();
        lanes.push((say, waiting.clone()));
        readers.spawn(async move {
            loop {
                let (tag, response) = submitted(answers.message().await?)?;
                if let Some(waits) = held(&waiting).remove(&tag) {
                    let _gone = waits.send(response);
                }
            }
        });
    }
    let (lanes, target_) = (Arc::new(lanes), target.clone());
    let measured = open("half the rate", pace, target.pid, per_second, move |number| {
        let (lanes, signed, target) = (lanes.clone(), signed.clone(), target_.clone());
        async move {
            let sender = number as usize % SENDERS;
            let Some(submission) = signed.next(sender) else { return Ok(None) };
            let (answer, answered) = oneshot::channel();
            let (say, waiting) = &lanes[sender];
            held(waiting).insert(number, answer);
            say.send(SubmitStreamRequest { tag: number, submission: Some(submission) })?;
            target.accept(answered.await.context("the stream ended")?)?;
            Ok(Some(DOCUMENT_BYTES as u64))
        }
    });
    tokio::select! {
        measured = measured => measured,
        Some(ended) = readers.join_next() => match ended? {
            Err(error) => Err(error),
            Ok(()) => anyhow::bail!("a stream ended"),
        },
    }
}

/// A mailbox's stream.
struct Mailbox {
    say: mpsc::UnboundedSender<ReceiveRequest>,
    heard: Streaming<ReceiveResponse>,
}

impl Mailbox {
    async fn open(raw: &Raw, credit: u32) -> anyhow::Result<Self> {
        let (say, said) = mpsc::unbounded_channel();
        let start = ReceiveStart { credit, lease_duration_ms: 600_000, ..Default::default() };
        say.send(ReceiveRequest { part: Some(Ask::Start(start)) })?;
        let heard = raw.mailbox().receive(UnboundedReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, heard })
    }

    fn say(&self, part: Ask) -> anyhow::Result<()> {
        Ok(self.say.send(ReceiveRequest { part: Some(part) })?)
    }

    /// The next delivery or answer.
    async fn next(&mut self) -> anyhow::Result<Heard> {
        loop {
            match self.heard.message().await?.context("the stream of deliveries ended")?.part {
                Some(heard @ (Heard::Delivery(_) | Heard::Answer(_))) => return Ok(heard),
                Some(Heard::Closing(closing)) => anyhow::bail!("the hub closed the stream: {closing:?}"),
                Some(Heard::Gone(_) | Heard::Progress(_)) | None => {}
            }
        }
    }
}

/// The receipt of an acknowledgement, which must be good.
fn acknowledged(outcome: Option<Answered>) -> anyhow::Result<Receipt> {
    match outcome {
        Some(Answered::Acknowledged(response)) if !response.duplicate && !response.late => {
            response.receipt.context("no receipt")
        }
        other => anyhow::bail!("not acknowledged: {other:?}"),
    }
}

/// One after the other: submitted, answered, and come to its recipient, who is
/// connected. Latencies of the answer come beside.
async fn pushed(
    bench: &Arc<Bench>,
    signed: Arc<Signed>,
    pace: Pace,
) -> anyhow::Result<(Measured, Latencies)> {
    let taker = connect(&bench.dir, bench.takers().start).await?;
    let mut mailbox = Mailbox::open(&taker, 1).await?;
    let mut client = bench.target.senders[0].submission();
    let tally = Tally::default();
    let counter = tally.counter();
    let work = async {
        let mut latencies = Latencies::default();
        loop {
            let Some(request) = signed.next(0) else {
                tally.finish();
                break;
            };
            let began = Instant::now();
            let (answered, delivered) = tokio::try_join!(
                async {
                    let answer = client.submit(request).await?.into_inner();
                    let took = began.elapsed();
                    bench.target.accept(answer)?;
                    anyhow::Ok(took)
                },
                async {
                    match mailbox.next().await? {
                        Heard::Delivery(delivery) => Ok((delivery, began.elapsed())),
                        other => anyhow::bail!("not a delivery: {other:?}"),
                    }
                }
            )?;
            let (delivery, took) = delivered;
            if tally.counts() {
                latencies.record(answered);
            }
            counter.ended(took, DOCUMENT_BYTES as u64);
            let request = Some(acknowledge(&taker.key, &delivery));
            mailbox.say(Ask::Acknowledge(TaggedAcknowledge { tag: 1, request }))?;
            match mailbox.next().await? {
                Heard::Answer(answer) => bench.target.sample(&acknowledged(answer.outcome)?),
                other => anyhow::bail!("not an answer: {other:?}"),
            }
            bench.acknowledged.fetch_add(1, Ordering::Relaxed);
            if !tally.goes_on() {
                // without credit: a stream that ends while it has some may be given
                // a delivery that is not seen again before its lease has run out
                break;
            }
            mailbox.say(Ask::Credit(Credit { deliveries: 1 }))?;
        }
        anyhow::Ok(latencies)
    };
    watch("pushed", pace, bench.hub.pid(), &tally, work).await
}

/// Envelopes go all the way: submitted on streams, delivered on streams,
/// acknowledged under seal, until the sender has the receipts of both and the
/// recipient that of the acknowledgement. Each sender has as many under way as
/// the window.
async fn cycle(bench: &Arc<Bench>, signed: Arc<Signed>, pace: Pace) -> anyhow::Result<Measured> {
    let (taken, mut takers) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    for place in bench.takers() {
        let (bench, taken) = (bench.clone(), taken.clone());
        takers.spawn(async move { take(&bench, place, &taken).await });
    }
    let (tally, mut senders) = (Tally::default(), JoinSet::new());
    for sender in 0..SENDERS {
        let (bench, signed, tally) = (bench.clone(), signed.clone(), tally.clone());
        let counter = tally.counter();
        senders.spawn(async move { Sender::open(&bench, sender, tally, counter).await?.run(&signed).await });
    }
    let before = bench.target.accepted.load(Ordering::Relaxed);
    let work = async {
        tokio::select! {
            ended = all(senders) => ended?,
            Some(ended) = takers.join_next() => return ended?.and(Err(anyhow::anyhow!("a recipient ended"))),
        }
        // each recipient has its own receipt, too
        let (all, began) = (bench.target.accepted.load(Ordering::Relaxed) - before, Instant::now());
        while taken.load(Ordering::Relaxed) < all {
            anyhow::ensure!(began.elapsed() < SETTLED_WITHIN, "receipts of recipients are missing");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        anyhow::Ok(())
    };
    let measured = watch("full cycle", pace, bench.hub.pid(), &tally, work).await?.0;
    takers.shutdown().await;
    Ok(measured)
}

/// Takes what comes and acknowledges it, without end.
async fn take(bench: &Bench, place: usize, taken: &AtomicU64) -> anyhow::Result<()> {
    let taker = connect(&bench.dir, place).await?;
    let mut mailbox = Mailbox::open(&taker, CREDIT).await?;
    let (mut tag, mut used) = (0, 0);
    loop {
        match mailbox.next().await? {
            Heard::Delivery(delivery) => {
                let request = Some(acknowledge(&taker.key, &delivery));
                tag += 1;
                mailbox.say(Ask::Acknowledge(TaggedAcknowledge { tag, request }))?;
                used += 1;
                if used == CREDIT / 8 {
                    mailbox.say(Ask::Credit(Credit { deliveries: std::mem::take(&mut used) }))?;
                }
            }
            Heard::Answer(answer) => {
                bench.target.sample(&acknowledged(answer.outcome)?);
                bench.acknowledged.fetch_add(1, Ordering::Relaxed);
                taken.fetch_add(1, Ordering::Relaxed);
            }
            other => anyhow::bail!("unexpected: {other:?}"),
        }
    }
}

/// The sender's side of full cycles: its submissions and its feed.
struct Sender<'a> {
    bench: &'a Bench,
    number: usize,
    tally: Tally,
    counter: Counter,
    lane: Lane,
    feed: Streaming<axis_proto::hub::v1::FollowResponse>,
    /// By tag, when it was submitted.
    submitted: HashMap<u64, Instant>,
    /// By sequence: when it was submitted, or nothing if its acknowledgement
    /// came before the answer.
    accepted: HashMap<u64, Option<Instant>>,
    next_tag: u64,
    under_way: usize,
}

impl<'a> Sender<'a> {
    async fn open(bench: &'a Bench, number: usize, tally: Tally, counter: Counter) -> anyhow::Result<Self> {
        let raw = &bench.target.senders[number];
        let mut feed = FeedServiceClient::new(raw.channel.clone()).max_decoding_message_size(8 << 20);
        let after = feed.read_feed(ReadFeedRequest { after: 0, max_entries: 1 }).await?.into_inner().high;
        let feed = feed.follow(FollowRequest { after }).await?.into_inner();
        let lane = Lane::open(raw).await?;
        let (submitted, accepted) = (HashMap::new(), HashMap::new());
        Ok(Self { bench, number, tally, counter, lane, feed, submitted, accepted, next_tag: 0, under_way: 0 })
    }

    async fn run(mut self, signed: &Signed) -> anyhow::Result<()> {
        loop {
            while self.under_way < self.bench.target.window && self.tally.goes_on() {
                let Some(submission) = signed.next(self.number) else {
                    self.tally.finish();
                    break;
                };
                self.next_tag += 1;
                self.submitted.insert(self.next_tag, Instant::now());
                let request = SubmitStreamRequest { tag: self.next_tag, submission: Some(submission) };
                self.lane.say.send(request)?;
                self.under_way += 1;
            }
            if self.under_way == 0 {
                return Ok(());
            }
            tokio::select! {
                answer = self.lane.answers.message() => {
                    let (tag, response) = submitted(answer?)?;
                    let began = self.submitted.remove(&tag).context("a tag that was not given")?;
                    let receipt = self.bench.target.accept(response)?;
                    let sequence = Record::decode(receipt.record)?.sequence;
                    match self.accepted.remove(&sequence) {
                        Some(None) => self.ended(began),
                        _ => drop(self.accepted.insert(sequence, Some(began))),
                    }
                }
                entry = self.feed.message() => {
                    let entry = entry?.context("the feed ended")?.entry.context("no entry")?;
                    let receipt = entry.receipt.context("no receipt")?;
                    let record = Record::decode(receipt.record.clone())?;
                    let Some(Event::Acknowledged(event)) = record.event else { continue };
                    self.bench.target.sample(&receipt);
                    let sequence = event.delivery.context("no delivery")?.envelope_sequence;
                    match self.accepted.remove(&sequence) {
                        Some(Some(began)) => self.ended(began),
                        _ => drop(self.accepted.insert(sequence, None)),
                    }
                }
            }
        }
    }

    fn ended(&mut self, began: Instant) {
        self.counter.ended(began.elapsed(), DOCUMENT_BYTES as u64);
        self.under_way -= 1;
    }
}
