//! `bench vietnam`: what an exchange on the national axis is like. A document
//! with an attachment goes to some agencies; each takes it, and then statuses
//! go to and fro, 10 to 20 messages for each document. Attachments have 0.6 MB
//! in the middle, and one of ten more than 11 MB.

use std::{
    f64::consts::TAU,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use futures_util::future::{try_join, try_join_all};
use tokio::task::JoinSet;

use crate::{
    dhx::papers,
    exchange::{Letter, Paper, Party},
    measure::{Figures, Latencies, cpu},
    report::{Common, Report, Table},
    stage::Stage,
};

/// Bytes of the attachment in the middle, and of that which one of ten
/// exceeds.
const MEDIAN_BYTES: f64 = 0.6e6;
const P90_BYTES: f64 = 11e6;
/// Standard deviations to where one of ten is beyond.
const P90_DEVIATIONS: f64 = 1.281_552;
/// Bytes of the smallest attachment.
const SMALLEST: f64 = 1e3;
/// The conversations are the same in every run.
const SEED: u64 = 4;
/// What a status says.
const STATUS: &str = "Đã tiếp nhận, đang xử lý. Văn bản đã được chuyển đến đơn vị chủ trì giải quyết.";

/// What is exchanged.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Conversations, each about one document
    #[arg(long, default_value_t = 120)]
    conversations: usize,
    /// Conversations under way at once
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// MB of the largest attachment
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    largest_mb: u32,
    /// Systems that take part
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(5..=250))]
    parties: u8,
}

/// A document, who sends it to whom, and how much is said about it.
struct Conversation {
    paper: Paper,
    from: usize,
    to: Vec<usize>,
    messages: usize,
}

/// How long things took.
#[derive(Default)]
struct Took {
    document: Latencies,
    status: Latencies,
    conversation: Latencies,
}

/// Runs it.
///
/// # Errors
/// If a conversation does not come to its end.
pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let work_dir = report.work_dir()?;
    let about = format!(
        "{} conversations of {} systems, {} at once: a document with an attachment (median 0.6 MB, p90 11 MB) \
         to 1 to 4 agencies that download and acknowledge it, then statuses both ways, 10 to 20 envelopes in all.",
        args.conversations, args.parties, args.at_once
    );
    report.profile("vietnam", &about, work_dir.path())?;
    let mut table = Table::new("conversations").upright();
    for _ in 0..args.common.rounds {
        table.add("", measure(args, work_dir.path())?);
    }
    report.table(table);
    Ok(())
}

fn measure(args: &Args, above: &Path) -> anyhow::Result<Figures> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let stage = Stage::set(above, args.parties.into())?;
        let mut parties = Vec::new();
        for place in 0..args.parties.into() {
            parties.push(stage.party(place, None).await?);
        }
        eprintln!("bench: making {} documents", args.conversations);
        let conversations = Arc::new(conversations(args).await?);
        let (parties, next) = (Arc::new(parties), Arc::new(AtomicUsize::new(0)));
        let mut talking = JoinSet::new();
        let (hub, own, began) = (stage.hub.cpu(), cpu("self"), Instant::now());
        for _ in 0..args.at_once {
            let (parties, conversations, next) = (parties.clone(), conversations.clone(), next.clone());
            talking.spawn(async move {
                let mut took = Took::default();
                while let Some(conversation) = conversations.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    talk(&parties, conversation, &mut took).await?;
                    took.conversation.record(began.elapsed());
                }
                anyhow::Ok(took)
            });
        }
        let mut all = Took::default();
        while let Some(took) = talking.join_next().await {
            let took = took??;
            all.document.add(&took.document);
            all.status.add(&took.status);
            all.conversation.add(&took.conversation);
        }
        let seconds = began.elapsed().as_secs_f64();
        let count = conversations.len() as f64;
        let messages: usize = conversations.iter().map(|conversation| conversation.messages).sum();
        let bytes: u64 = conversations
            .iter()
            .map(|conversation| conversation.paper.size() * (1 + conversation.to.len() as u64))
            .sum();
        let megabytes = bytes as f64 / 1e6;
        let (hub, own) = (stage.hub.cpu().saturating_sub(hub), cpu("self").saturating_sub(own));
        Ok(vec![
            ("conversations", count),
            ("conversations a second", count / seconds),
            ("envelopes a second", messages as f64 / seconds),
            ("MB/s, in and out", megabytes / seconds),
            ("document: sent and held by all p50 ms", all.document.ms(50.0)),
            ("document p90 ms", all.document.ms(90.0)),
            ("document p99 ms", all.document.ms(99.0)),
            ("status: sent and acknowledged p50 ms", all.status.ms(50.0)),
            ("status p90 ms", all.status.ms(90.0)),
            ("status p99 ms", all.status.ms(99.0)),
            ("conversation p50 ms", all.conversation.ms(50.0)),
            ("conversation p99 ms", all.conversation.ms(99.0)),
            ("hub CPU ms for each conversation", 1e3 * hub.as_secs_f64() / count),
            ("load CPU ms for each conversation", 1e3 * own.as_secs_f64() / count),
            ("hub's peak MiB", stage.hub.memory_kib("VmHWM:") as f64 / 1024.0),
        ])
    })
}

async fn conversations(args: &Args) -> anyhow::Result<Vec<Conversation>> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let largest = f64::from(args.largest_mb) * 1e6;
    let sizes =
        (0..args.conversations).map(|_| attachment_bytes(&mut random).clamp(SMALLEST, largest) as u64);
    let papers = papers(sizes.collect()).await?;
    let conversations = papers.into_iter().map(|paper| {
        let mut places: Vec<usize> = (0..args.parties.into()).collect();
        random.shuffle(&mut places);
        let to = places.split_off(places.len() - random.usize(1..=4));
        Conversation { paper, from: places[0], to, messages: random.usize(10..=20) }
    });
    Ok(conversations.collect())
}

/// Log-normal, by the median and what one of ten exceeds.
fn attachment_bytes(random: &mut fastrand::Rng) -> f64 {
    let deviation = (P90_BYTES / MEDIAN_BYTES).ln() / P90_DEVIATIONS;
    let normal = (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (TAU * random.f64()).cos();
    MEDIAN_BYTES * (deviation * normal).exp()
}

/// The document to all, and then the statuses of each, one after the other.
async fn talk(parties: &[Party], conversation: &Conversation, took: &mut Took) -> anyhow::Result<()> {
    let Conversation { paper, from, to, messages } = conversation;
    let sender = &parties[*from];
    let began = Instant::now();
    sender.upload(paper).await?;
    let codes: Vec<&str> = to.iter().map(|place| parties[*place].agency()).collect();
    let letter = sender.write(&codes, std::slice::from_ref(paper), "Kính gửi".as_bytes(), None);
    let taken: Vec<_> = to.iter().map(|place| take(&parties[*place], &letter, paper)).collect();
    try_join(sender.submit(&letter), try_join_all(taken)).await?;
    took.document.record(began.elapsed());

    let said = to.iter().enumerate().map(|(turn, place)| {
        let statuses = (messages - 1 - turn).div_ceil(to.len());
        statuses_of(sender, &parties[*place], &letter, statuses)
    });
    for status in try_join_all(said).await? {
        took.status.add(&status);
    }
    Ok(())
}

/// Receives a document, downloads it and acknowledges it.
fn take<'a>(
    party: &'a Party,
    letter: &Letter,
    paper: &'a Paper,
) -> impl Future<Output = anyhow::Result<()>> + use<'a> {
    let expected = party.expect(letter);
    async move {
        let arrived = expected.await?;
        party.download(&arrived.delivery, paper).await?;
        party.acknowledge(&arrived.delivery).await
    }
}

/// So many statuses between two: three that the recipient says, then one that
/// it is answered.
async fn statuses_of(
    sender: &Party,
    recipient: &Party,
    letter: &Letter,
    count: usize,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    for number in 1..=count {
        let (from, to) = if number % 4 == 0 { (sender, recipient) } else { (recipient, sender) };
        let began = Instant::now();
        let status = from.write(&[to.agency()], &[], STATUS.as_bytes(), Some(letter));
        let expected = to.expect(&status);
        from.submit(&status).await?;
        let arrived = expected.await?;
        to.acknowledge(&arrived.delivery).await?;
        latencies.record(began.elapsed());
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_as_the_axis_has_them() {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut sizes: Vec<f64> = (0..20_000).map(|_| attachment_bytes(&mut random)).collect();
        sizes.sort_unstable_by(f64::total_cmp);
        let near = |place: usize, bytes: f64| (sizes[place] / bytes - 1.0).abs() < 0.1;
        assert!(near(10_000, MEDIAN_BYTES) && near(18_000, P90_BYTES), "{} {}", sizes[10_000], sizes[18_000]);
    }
}
