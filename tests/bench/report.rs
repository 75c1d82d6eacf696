//! What was measured, as tables for people and as JSON for programs, with what
//! it was measured on: command, date, machine, kernel, disk, versions, and what
//! the machine could do just before.
//!
//! ```text
//! let mut report = Report::begin(&common.output, common.seconds)?;  // the usual options
//! let dir = report.work_dir()?;                        // on the disk that is measured
//! report.profile("small", "4 KiB documents", dir.path())?;  // baselines are made now
//! let mut table = Table::new("small");
//! for round in 0..common.rounds { table.add("submit, streaming", measured.figures()); }
//! report.table(table);                                 // and shown at once
//! report.say("what a reader must know beside it");
//! report.end()?;                                       // --json, --markdown
//! ```
//!
//! A row that is added again is another round: it shows the median, with the
//! lowest and highest beside it. In JSON a figure is
//! `profiles.<name>.tables.<table>.<row>.<figure>.median`, beside `lowest`,
//! `highest` and `rounds`, those that have the figure, in order; its name there
//! has `_` for all but letters and digits, and `us` for µs: `hub_cpu_us`,
//! `p99_9_ms`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{baseline, measure::Figures};

/// Crates whose version says how fast the hub may be.
const VERSIONS: [&str; 10] =
    ["tonic", "hyper", "h2", "rustls", "aws-lc-rs", "ed25519-dalek", "sha2", "sled", "tokio", "prost"];

/// What most profiles can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// How often all is measured; the figure is the median
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    #[command(flatten)]
    pub output: Output,
}

/// Where hubs are made, and figures written.
#[derive(Debug, Clone, clap::Args)]
pub struct Output {
    /// Where hubs are made and removed again: the disk that is measured
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

impl Output {
    /// A directory on the disk that is measured, removed when dropped.
    pub fn work_dir(&self) -> anyhow::Result<TempDir> {
        let above = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        std::fs::create_dir_all(&above)?;
        tempfile::Builder::new().prefix("axis-bench-").tempdir_in(&above).context("a directory to work in")
    }
}

/// Rows of named figures; each may be measured in several rounds.
#[derive(Debug, Clone, Default)]
pub struct Table {
    name: String,
    upright: bool,
    rows: Vec<(String, Row)>,
}

/// Figures in the order in which they came, of each round one.
type Row = Vec<(&'static str, Vec<f64>)>;

impl Table {
    /// Without a row.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Shown with a row beside the other and the figures below each other: for
    /// many figures of few rows.
    pub fn upright(self) -> Self {
        Self { upright: true, ..self }
    }

    /// Adds a row, or another round of it.
    pub fn add(&mut self, row: &str, figures: Figures) {
        let place = self.rows.iter().position(|(name, _)| name == row).unwrap_or_else(|| {
            self.rows.push((row.to_owned(), Row::new()));
            self.rows.len() - 1
        });
        let row = &mut self.rows[place].1;
        for (name, figure) in figures {
            match row.iter_mut().find(|(known, _)| *known == name) {
                Some((_, rounds)) => rounds.push(figure),
                None => row.push((name, vec![figure])),
            }
        }
    }

    /// The median of a figure over the rounds so far.
    pub fn median(&self, row: &str, figure: &str) -> Option<f64> {
        let (_, row) = self.rows.iter().find(|(name, _)| name == row)?;
        row.iter().find(|(name, _)| *name == figure).map(|(_, rounds)| Of::rounds(rounds).median)
    }

    /// All figures that any row has, in order.
    fn figures(&self) -> Vec<&'static str> {
        let mut all = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|(_, row)| row) {
            if !all.contains(name) {
                all.push(name);
            }
        }
        all
    }

    /// As Markdown.
    pub fn show(&self) -> String {
        let figures = self.figures();
        let cell = |row: &Row, figure: &str| {
            let found = row.iter().find(|(name, _)| *name == figure);
            found.map_or_else(String::new, |(_, rounds)| Of::rounds(rounds).show())
        };
        let rows = || self.rows.iter();
        let mut lines: Vec<Vec<String>> = match self.upright {
            false => vec![figures.iter().map(|figure| (*figure).to_owned()).collect()],
            true => vec![rows().map(|(name, _)| name.clone()).collect()],
        };
        lines[0].insert(0, self.name.clone());
        if self.upright {
            lines.extend(figures.iter().map(|figure| {
                let cells = rows().map(|(_, row)| cell(row, figure));
                std::iter::once((*figure).to_owned()).chain(cells).collect()
            }));
        } else {
            lines.extend(rows().map(|(name, row)| {
                let cells = figures.iter().map(|figure| cell(row, figure));
                std::iter::once(name.clone()).chain(cells).collect()
            }));
        }
        let mut text = String::new();
        for (place, line) in lines.iter().enumerate() {
            let _infallible = writeln!(text, "| {} |", line.join(" | "));
            if place == 0 {
                let _infallible = writeln!(text, "|---|{}", "---:|".repeat(line.len() - 1));
            }
        }
        text
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            let figures = row.iter().map(|(name, rounds)| (slug(name), Of::rounds(rounds).json()));
            Value::Object(figures.collect())
        };
        Value::Object(self.rows.iter().map(|(name, figures)| (name.clone(), row(figures))).collect())
    }
}

/// A figure over several rounds.
struct Of<'a> {
    median: f64,
    lowest: f64,
    highest: f64,
    rounds: &'a [f64],
}

impl<'a> Of<'a> {
    fn rounds(rounds: &'a [f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let (middle, last) = (sorted.len() / 2, sorted.len().saturating_sub(1));
        let median = if sorted.len() % 2 == 1 { at(middle) } else { (at(last / 2) + at(middle)) / 2.0 };
        Self { median, lowest: at(0), highest: at(last), rounds }
    }

    fn show(&self) -> String {
        let (median, lowest, highest) = (rounded(self.median), rounded(self.lowest), rounded(self.highest));
        if lowest == highest { median } else { format!("{median} ({lowest}–{highest})") }
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "lowest": self.lowest, "highest": self.highest, "rounds": self.rounds })
    }
}

/// A figure's name for programs.
fn slug(name: &str) -> String {
    let kept = |letter: char| match letter {
        'µ' => 'u',
        letter if letter.is_ascii_alphanumeric() => letter.to_ascii_lowercase(),
        _ => '_',
    };
    name.chars().map(kept).collect::<String>().trim_matches('_').to_owned()
}

/// Three digits that count.
pub fn rounded(figure: f64) -> String {
    match figure {
        none if !none.is_finite() => "–".to_owned(),
        large if large.abs() >= 99.95 => {
            let digits = format!("{:.0}", large.abs());
            let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
            let sign = if large < 0.0 { "-" } else { "" };
            format!("{sign}{}", groups.collect::<Vec<_>>().join(" "))
        }
        middle if middle.abs() >= 9.995 => format!("{middle:.1}"),
        small => format!("{small:.2}"),
    }
}

/// One profile: what the machine could do just before, and what came of it.
struct Profile {
    name: &'static str,
    about: String,
    tables: Vec<Table>,
    words: Vec<String>,
}

/// All that a run measured.
pub struct Report {
    output: Output,
    /// Of each measurement.
    seconds: u64,
    facts: Vec<(&'static str, String)>,
    versions: BTreeMap<String, String>,
    profiles: Vec<Profile>,
}

impl Report {
    /// Looks at the machine, before anything is measured.
    pub fn begin(output: &Output, seconds: u64) -> anyhow::Result<Self> {
        let dir = output.work_dir()?;
        if cfg!(debug_assertions) {
            eprintln!("bench: not optimized; hint: --profile ci");
        }
        let report = Self {
            output: output.clone(),
            seconds,
            facts: facts(dir.path()),
            versions: versions()?,
            profiles: Vec::new(),
        };
        eprintln!("{}", report.head());
        Ok(report)
    }

    /// A directory on the disk that is measured, removed when dropped.
    pub fn work_dir(&self) -> anyhow::Result<TempDir> {
        self.output.work_dir()
    }

    /// Begins a profile; measures what the machine can do now on this disk.
    pub fn profile(&mut self, name: &'static str, about: &str, dir: &Path) -> anyhow::Result<()> {
        eprintln!("bench: {name}: what the machine can do");
        let baseline = baseline::measure(dir, self.seconds)?;
        let mut table = Table::new("the machine, just before").upright();
        table.add("now", baseline.figures());
        self.profiles.push(Profile { name, about: about.to_owned(), tables: Vec::new(), words: Vec::new() });
        self.table(table);
        Ok(())
    }

    /// Adds a table to the profile and shows it.
    pub fn table(&mut self, table: Table) {
        println!("{}", table.show());
        self.last().tables.push(table);
    }

    /// Adds a sentence to the profile and shows it.
    pub fn say(&mut self, words: &str) {
        println!("{words}\n");
        self.last().words.push(words.to_owned());
    }

    fn last(&mut self) -> &mut Profile {
        self.profiles.last_mut().expect("a profile was begun")
    }

    /// Shows what it was measured on, and writes the files that were asked for.
    pub fn end(self) -> anyhow::Result<()> {
        println!("{}", self.head());
        let write = |path: &Option<PathBuf>, text: String| match path {
            Some(path) => std::fs::write(path, text).with_context(|| path.display().to_string()),
            None => Ok(()),
        };
        write(&self.output.json, format!("{:#}\n", self.json()))?;
        write(&self.output.markdown, self.markdown())
    }

    fn head(&self) -> String {
        let mut lines = vec![format!("    $ {}", command())];
        let facts: Vec<String> = self.facts.iter().map(|(name, fact)| format!("{name} {fact}")).collect();
        lines.push(format!("{}.", facts.join("; ")));
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        lines.push(format!("{}.", versions.join(", ")));
        lines.join("\n\n")
    }

    fn markdown(&self) -> String {
        let mut text = format!("{}\n", self.head());
        for Profile { name, about, tables, words } in &self.profiles {
            let _infallible = writeln!(text, "\n## {name}\n\n{about}");
            for part in tables.iter().map(Table::show).chain(words.iter().map(|words| format!("{words}\n"))) {
                let _infallible = write!(text, "\n{part}");
            }
        }
        text
    }

    fn json(&self) -> Value {
        let profile = |profile: &Profile| {
            let tables: Map<String, Value> =
                profile.tables.iter().map(|table| (table.name.clone(), table.json())).collect();
            let value = json!({ "about": profile.about, "tables": tables, "words": profile.words });
            (profile.name.to_owned(), value)
        };
        let facts: Map<String, Value> =
            self.facts.iter().map(|(name, fact)| ((*name).to_owned(), fact.clone().into())).collect();
        json!({
            "command": command(),
            "machine": facts,
            "versions": self.versions,
            "profiles": self.profiles.iter().map(profile).collect::<Map<String, Value>>(),
        })
    }
}

/// The command line, without where the program lies.
fn command() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(first) = words.first_mut() {
        let name = Path::new(&*first).file_name().map(|name| name.to_string_lossy().into_owned());
        *first = name.unwrap_or_default();
    }
    words.join(" ")
}

/// Machine, kernel, disk and how busy it is.
fn facts(dir: &Path) -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value).trim().to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory: f64 = field(&read("/proc/meminfo"), "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
    let cpuinfo = read("/proc/cpuinfo");
    let sha = if cpuinfo.contains(" sha_ni") { "" } else { ", no SHA instructions" };
    vec![
        ("date", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
        ("processors", format!("{processors} × {}{sha}", field(&cpuinfo, "model name"))),
        ("memory", format!("{:.0} GiB", memory / 1_048_576.0)),
        ("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim())),
        ("disk", disk(&read("/proc/self/mounts"), dir)),
        ("load at the start", load),
    ]
}

/// File system and device below a directory.
fn disk(mounts: &str, dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let below = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
        dir.starts_with(at).then(|| (at.len(), format!("{kind} on {device}")))
    });
    // of two at the same place the later one is seen
    below.max_by_key(|(length, _)| *length).map_or_else(|| "unknown".to_owned(), |(_, disk)| disk)
}

/// What was built of what, by the lock file and the compiler's word.
fn versions() -> anyhow::Result<BTreeMap<String, String>> {
    let lock: toml::Table = include_str!("../../Cargo.lock").parse()?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock")?;
    let mut versions = BTreeMap::new();
    for package in packages {
        let text = |name: &str| package.get(name).and_then(toml::Value::as_str).unwrap_or_default();
        if VERSIONS.contains(&text("name")) {
            versions.insert(text("name").to_owned(), text("version").to_owned());
        }
    }
    versions.insert("axis".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let rustc = env!("AXIS_RUSTC").trim_start_matches("rustc ").split(' ').next().unwrap_or_default();
    versions.insert("rustc".to_owned(), format!("{rustc} at opt-level {}", env!("AXIS_OPT_LEVEL")));
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("t");
        for (rate, s) in [(1_200_000.0, 0.123), (1_000_000.0, 0.12), (1_100_000.0, 0.125)] {
            table.add("one", vec![("per second", rate), ("p50 ms", s)]);
        }
        table.add("two", vec![("per second", 10.0), ("receipts", 99.94)]);
        table
    }

    #[test]
    fn rounds_become_a_median_between_the_lowest_and_the_highest() {
        assert_eq!(
            table().show(),
            "| t | per second | p50 ms | receipts |\n\
             |---|---:|---:|---:|\n\
             | one | 1 100 000 (1 000 000–1 200 000) | 0.12 |  |\n\
             | two | 10.0 |  | 99.9 |\n"
        );
        assert_eq!(
            table().upright().show(),
            "| t | one | two |\n\
             |---|---:|---:|\n\
             | per second | 1 100 000 (1 000 000–1 200 000) | 10.0 |\n\
             | p50 ms | 0.12 |  |\n\
             | receipts |  | 99.9 |\n"
        );
        assert_eq!(table().median("one", "per second"), Some(1_100_000.0));
        assert_eq!(Of::rounds(&[4.0, 1.0]).median, 2.5);
        assert_eq!(table().json()["one"]["per_second"]["lowest"], 1_000_000.0);
        assert_eq!(slug("p99.9 ms"), "p99_9_ms");
        assert_eq!(slug("× verify_strict"), "verify_strict");
        assert_eq!(slug("hub CPU µs"), "hub_cpu_us");
    }

    #[test]
    fn digits_that_count() {
        let shown = [0.0, 0.126, 9.999, 99.96, 999.6, 1_234_567.0, -1_000.0, f64::NAN].map(rounded);
        assert_eq!(shown, ["0.00", "0.13", "10.0", "100", "1 000", "1 234 567", "-1 000", "–"]);
    }

    #[test]
    fn the_disk_is_the_one_below() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/x xfs rw 0 0\n";
        let of = |path| disk(mounts, Path::new(path));
        assert_eq!(of("/home"), "ext4 on /dev/a");
        assert_eq!(of("/tmp/y"), "tmpfs on tmpfs");
        assert_eq!(of("/tmp/x/z"), "xfs on /dev/b");
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        let versions = versions().unwrap();
        assert!(VERSIONS.iter().all(|name| versions.contains_key(*name)), "{versions:?}");
        assert!(versions["rustc"].starts_with("1."), "{versions:?}");
    }
}
