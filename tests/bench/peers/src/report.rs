//! What came of all rounds, as tables for people and as JSON for programs; what
//! each contestant leaves out stands beside its figure.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::ValueEnum as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Common, disk,
    load::{CYCLES_UNDER_WAY, Figures, RECIPIENTS, UNDER_WAY, Work},
};

/// A figure of one round, and the disk just before that turn.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub round: u32,
    pub syncs_per_second: f64,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Who a row is of, and what there is that it does not do.
struct About {
    peer: &'static str,
    title: &'static str,
    /// Apart from TLS, which all brokers have or have not.
    lacks: &'static str,
}

const ABOUT: [About; 8] = [
    About { peer: "axis", title: "**Axis**, 8 streams, 256 under way on each", lacks: "" },
    About { peer: "axis-unary", title: "**Axis**, unary, 256 under way", lacks: "" },
    About {
        peer: "jetstream",
        title: "JetStream R1, `sync_interval: always`",
        lacks: "signatures, evidence, receipts; dedupe is off",
    },
    About {
        peer: "jetstream-default",
        title: "JetStream R1, default: **not durable**, synced every 2 minutes",
        lacks: "durability; signatures, evidence, receipts; dedupe is off",
    },
    About {
        peer: "rabbitmq",
        title: "RabbitMQ, quorum queues",
        lacks: "signatures, evidence, receipts, dedupe; acknowledgements are not answered",
    },
    About {
        peer: "postgresql",
        title: "PostgreSQL, `SKIP LOCKED`, row by row",
        lacks: "signatures, evidence, receipts, dedupe; recipients poll",
    },
    About {
        peer: "as4",
        title: "AS4 (`as4`, Peppol profile), 4 under way",
        lacks: "TLS here, delivery, dedupe; verifies, decrypts, signs a receipt",
    },
    About {
        peer: "as4-signed-within",
        title: "the same, messages built and receipts verified within the clock",
        lacks: "as above",
    },
];

/// All that is known of a run.
pub struct Report {
    /// The disk that is measured.
    pub dir: PathBuf,
    common: Common,
    load: String,
    versions: Vec<(&'static str, String)>,
    measured: Vec<Measured>,
    words: Vec<String>,
}

impl Report {
    /// Looks at the machine, before anything runs.
    pub fn begin(common: &Common) -> anyhow::Result<Self> {
        let dir = common.dir.clone().unwrap_or_else(std::env::temp_dir);
        std::fs::create_dir_all(&dir)?;
        let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
        let (common, versions) = (common.clone(), common.places.versions());
        Ok(Self { dir, common, load, versions, measured: Vec::new(), words: Vec::new() })
    }

    /// A figure.
    pub fn add(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// A sentence that a reader needs, now and in the report.
    pub fn say(&mut self, words: String) {
        eprintln!("peers: {words}");
        self.words.push(words);
    }

    /// The rounds of one row, in order.
    fn rounds<'a>(&'a self, work: Work, peer: &'a str) -> impl Iterator<Item = &'a Measured> {
        self.measured.iter().filter(move |one| one.figures.work == work.name() && one.figures.peer == peer)
    }

    /// Over all rounds, of one row.
    fn of(&self, work: Work, peer: &str, figure: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::over(self.rounds(work, peer).filter_map(figure).collect())
    }

    fn rate(&self, work: Work, peer: &str) -> Option<Spread> {
        self.of(work, peer, |one| Some(one.figures.per_second))
    }

    /// Axis against another, of a work: by round, because rounds are minutes
    /// apart, and turns within one are less.
    fn ratios(&self, work: Work, axis: &str, peer: &str) -> Vec<f64> {
        let theirs = |round| self.rounds(work, peer).find(|other| other.round == round);
        self.rounds(work, axis)
            .filter_map(|ours| Some(ours.figures.per_second / theirs(ours.round)?.figures.per_second))
            .collect()
    }

    /// For people.
    pub fn markdown(&self, now: &str) -> String {
        let mut text =
            format!("    $ {}\n\n{now}. {}\n\n{}\n", command(), self.facts().join("; "), self.terms());
        for work in Work::value_variants() {
            let _infallible = write!(text, "\n{}", self.table(*work));
        }
        for words in &self.words {
            let _infallible = writeln!(text, "\n{words}");
        }
        text
    }

    fn table(&self, work: Work) -> String {
        let rows: Vec<_> = ABOUT.iter().filter(|about| self.rate(work, about.peer).is_some()).collect();
        if rows.is_empty() {
            return String::new();
        }
        let axes: Vec<_> = rows.iter().filter(|about| about.peer.starts_with("axis")).collect();
        let what = match work {
            Work::Accept => "accept, durable before the answer",
            Work::One => "accept, one after the other",
            Work::Cycle => "accept, deliver, acknowledge, all durable",
        };
        let mut head: Vec<String> =
            [what, "per second", "p50 ms", "p99 ms", "server CPU µs each", "fdatasync/s before"]
                .map(str::to_owned)
                .to_vec();
        head.extend(axes.iter().map(|axis| match axis.peer {
            "axis" => "Axis is ×".to_owned(),
            other => format!("{other} is ×"),
        }));
        head.push("goes without".to_owned());
        let mut text = format!("| {} |\n|---|{}---|\n", head.join(" | "), "---:|".repeat(head.len() - 2));
        for about in &rows {
            let show = |figure: Option<Spread>| figure.map_or_else(String::new, Spread::show);
            let mut cells = vec![
                about.title.to_owned(),
                show(self.rate(work, about.peer)),
                show(self.of(work, about.peer, |one| Some(one.figures.p50_ms))),
                show(self.of(work, about.peer, |one| Some(one.figures.p99_ms))),
                show(self.of(work, about.peer, |one| one.figures.cpu_us_each)),
                show(self.of(work, about.peer, |one| Some(one.syncs_per_second))),
            ];
            for axis in &axes {
                let ratios = match about.peer.starts_with("axis") {
                    true => Vec::new(),
                    false => self.ratios(work, axis.peer, about.peer),
                };
                cells.push(show(Spread::over(ratios)));
            }
            cells.push(about.lacks.to_owned());
            let _infallible = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }

    fn facts(&self) -> Vec<String> {
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or("unknown", |(_, value)| value).trim().to_owned()
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let cpuinfo = read("/proc/cpuinfo");
        let sha = if cpuinfo.contains(" sha_ni") { "" } else { ", no SHA instructions" };
        let mut facts = vec![
            format!("{processors} × {}{sha}", field(&cpuinfo, "model name")),
            format!("memory {}", field(&read("/proc/meminfo"), "MemTotal")),
            format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            disk::file_system(&self.dir),
            format!("load at the start {}", self.load),
        ];
        facts.extend(self.versions.iter().map(|(name, version)| format!("{name}: {version}")));
        facts
    }

    /// What all have in common.
    fn terms(&self) -> String {
        let tls = match self.common.plain {
            false => "Axis, JetStream, RabbitMQ and PostgreSQL over TLS",
            true => "Axis over TLS, the others without, as many run them on one machine",
        };
        format!(
            "Bodies of 4 KiB to {RECIPIENTS} recipients, servers and load on the same processors, all on 127.0.0.1; \
             {tls}. Medians of rounds in turns (lowest–highest), {} s each after a warm-up. Brokers have {UNDER_WAY} \
             under way, and {CYCLES_UNDER_WAY} whole cycles; Axis verifies each signature, and its recipients sign \
             each acknowledgement and get receipts. Axis is × says how often its rate is the row's, round by round.",
            self.common.seconds,
        )
    }

    /// For programs: medians and ratios, then every round.
    pub fn json(&self, now: &str) -> Value {
        let mut works = BTreeMap::new();
        for work in Work::value_variants() {
            let mut peers = BTreeMap::new();
            for about in ABOUT.iter().filter(|about| self.rate(*work, about.peer).is_some()) {
                let of = |figure: fn(&Measured) -> Option<f64>| self.of(*work, about.peer, figure);
                let ratios: BTreeMap<_, _> = ["axis", "axis-unary"]
                    .into_iter()
                    .filter_map(|axis| Some((axis, Spread::over(self.ratios(*work, axis, about.peer))?)))
                    .collect();
                let row = json!({
                    "title": about.title,
                    "goes_without": about.lacks,
                    "per_second": of(|one| Some(one.figures.per_second)),
                    "p50_ms": of(|one| Some(one.figures.p50_ms)),
                    "p99_ms": of(|one| Some(one.figures.p99_ms)),
                    "cpu_us_each": of(|one| one.figures.cpu_us_each),
                    "syncs_per_second_before": of(|one| Some(one.syncs_per_second)),
                    "ratio": ratios,
                });
                peers.insert(about.peer, row);
            }
            works.insert(work.name(), peers);
        }
        json!({
            "command": command(),
            "date": now,
            "machine": self.facts(),
            "versions": self.versions.iter().cloned().collect::<BTreeMap<_, _>>(),
            "tls": !self.common.plain,
            "words": self.words,
            "works": works,
            "rounds": self.measured,
        })
    }
}

/// A figure over several rounds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    /// Nothing of no rounds.
    fn over(mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_unstable_by(f64::total_cmp);
        let (middle, lowest, highest) = (rounds.len() / 2, *rounds.first()?, *rounds.last()?);
        let median =
            if rounds.len() % 2 == 1 { rounds[middle] } else { (rounds[middle - 1] + rounds[middle]) / 2.0 };
        Some(Self { median, lowest, highest })
    }

    fn show(self) -> String {
        let (median, lowest, highest) = (rounded(self.median), rounded(self.lowest), rounded(self.highest));
        if lowest == highest { median } else { format!("{median} ({lowest}–{highest})") }
    }
}

/// Three digits that count.
fn rounded(figure: f64) -> String {
    match figure {
        large if large >= 100.0 => {
            let digits = format!("{large:.0}");
            let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
            groups.collect::<Vec<_>>().join(" ")
        }
        middle if middle >= 10.0 => format!("{middle:.1}"),
        small => format!("{small:.2}"),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// As it was given to `run`, without where things lie.
fn command() -> String {
    std::env::var("PEERS_COMMAND").unwrap_or_else(|_| "peers race".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rates: &[(u32, &str, f64)]) -> Report {
        let common =
            Common { seconds: 1, plain: false, dir: None, works: Vec::new(), places: Default::default() };
        let mut report = Report::begin(&common).expect("a directory");
        for (round, peer, per_second) in rates {
            let figures = Figures {
                peer: (*peer).to_owned(),
                work: "cycle".to_owned(),
                per_second: *per_second,
                p50_ms: 1.0,
                p99_ms: 2.0,
                cpu_seconds: None,
                cpu_us_each: None,
                seconds: 1.0,
            };
            report.add(Measured { round: *round, syncs_per_second: 1_000.0, figures });
        }
        report
    }

    #[test]
    fn ratios_are_of_what_ran_in_the_same_round() {
        let report = report(&[
            (1, "axis", 100.0),
            (1, "rabbitmq", 200.0),
            (2, "rabbitmq", 450.0),
            (2, "axis", 900.0),
            (3, "axis", 150.0),
            (3, "rabbitmq", 600.0),
            (4, "axis", 700.0),
        ]);
        assert_eq!(report.ratios(Work::Cycle, "axis", "rabbitmq"), [0.5, 2.0, 0.25]);
        let table = report.table(Work::Cycle);
        assert!(table.contains("| 425 (100–900) | 1.00 | 2.00 |  | 1 000 |  |"), "{table}");
        assert!(table.contains("| 0.50 (0.25–2.00) | signatures, evidence, receipts, dedupe;"), "{table}");
        assert_eq!(report.table(Work::One), "", "what was not measured has no table");
        assert_eq!(report.json("now")["works"]["cycle"]["rabbitmq"]["ratio"]["axis"]["median"], 0.5);
    }
}
