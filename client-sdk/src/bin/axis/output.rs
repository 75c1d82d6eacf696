//! What `axis` prints: results to stdout, words to stderr, and bars on what is
//! long if somebody is watching.

use std::{
    collections::HashMap,
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axis_client::{Language, Progress, Step, proto::envelope::v1::Priority};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::words::{self, Word};

/// Below this a step is over before anybody reads about it.
const LONG_BYTES: u64 = 1024 * 1024;
/// Reading is faster than the network: only large files are worth a bar.
const LONG_READ_BYTES: u64 = 64 * 1024 * 1024;

/// Where everything is said.
pub struct Output {
    pub language: Language,
    pub json: bool,
    bars: Option<MultiProgress>,
    open: Mutex<HashMap<(Step, String), Option<ProgressBar>>>,
}

impl Output {
    pub fn new(language: Language, json: bool) -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { language, json, bars, open: Mutex::new(HashMap::new()) }
    }

    /// A sentence of the catalogue.
    pub fn text(&self, word: Word, facts: &[(&str, &dyn Display)]) -> String {
        words::say(self.language, word, facts)
    }

    /// A word of the catalogue.
    pub fn word(&self, word: Word) -> &'static str {
        word.text(self.language)
    }

    /// Says something to whoever sits there.
    pub fn say(&self, word: Word, facts: &[(&str, &dyn Display)]) {
        self.line(&self.text(word, facts));
    }

    /// Says what to do next.
    pub fn hint(&self, word: Word, facts: &[(&str, &dyn Display)]) {
        self.line(&format!("{} {}", self.word(Word::HintWord), self.text(word, facts)));
    }

    /// A line to stderr, above the bars.
    pub fn line(&self, text: &str) {
        let write = || {
            let _ = writeln!(std::io::stderr(), "{}", printable(text));
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// A result: JSON if that was asked for, else text.
    pub fn result(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) {
        let line = if self.json { json().to_string() } else { printable(&text()) };
        let write = || {
            // a reader that went away is no error of ours
            let _ = writeln!(std::io::stdout(), "{line}");
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Follows something long.
    pub fn progress(&self, progress: Progress<'_>) {
        let long = match progress.step {
            Step::Reading => progress.total >= LONG_READ_BYTES,
            Step::Uploading | Step::Downloading => progress.total >= LONG_BYTES,
            Step::Submitting => false,
        };
        if !long {
            return;
        }
        let key = (progress.step, progress.name.to_owned());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let finished = progress.done >= progress.total;
        let entry = open.entry(key.clone()).or_insert_with(|| self.begin(&progress));
        if let Some(bar) = entry {
            bar.set_position(progress.done);
        }
        if finished && let Some(entry) = open.remove(&key) {
            match entry {
                Some(bar) => bar.finish_and_clear(),
                None => self.line(&self.step(&progress, self.word(Word::StepDone))),
            }
        }
    }

    fn begin(&self, progress: &Progress<'_>) -> Option<ProgressBar> {
        let Some(bars) = &self.bars else {
            self.line(&self.step(progress, &bytes(progress.total)));
            return None;
        };
        let bar = bars.add(ProgressBar::new(progress.total));
        let template = "{prefix} {wide_msg} {bytes}/{total_bytes} {bytes_per_sec} [{bar:24}] {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(self.word(step(progress.step)));
        bar.set_message(printable(progress.name));
        bar.enable_steady_tick(Duration::from_millis(250));
        Some(bar)
    }

    fn step(&self, progress: &Progress<'_>, what: &str) -> String {
        format!("{} {}: {what}", self.word(step(progress.step)), progress.name)
    }

    pub fn priority(&self, priority: Priority) -> &'static str {
        self.word(match priority {
            Priority::Unspecified | Priority::Normal => Word::PriorityNormal,
            Priority::Urgent => Word::PriorityUrgent,
            Priority::VeryUrgent => Word::PriorityVeryUrgent,
            Priority::Express => Word::PriorityExpress,
            Priority::ExpressTimed => Word::PriorityExpressTimed,
        })
    }
}

fn step(step: Step) -> Word {
    match step {
        Step::Reading => Word::StepReading,
        Step::Uploading => Word::StepUploading,
        Step::Submitting => Word::StepSubmitting,
        Step::Downloading => Word::StepDownloading,
    }
}

/// What came from elsewhere must not move the terminal's cursor or turn the
/// reading direction.
pub fn printable(text: &str) -> String {
    let strange = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(strange) {
        return text.to_owned();
    }
    text.chars().map(|c| if strange(c) { '\u{fffd}' } else { c }).collect()
}

/// A number of bytes as people say it.
pub fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A time as the local clock shows it; a dash for none.
pub fn time(unix_ms: u64) -> String {
    let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match timestamp {
        Some(timestamp) if unix_ms > 0 => {
            timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
        _ => "–".to_owned(),
    }
}

/// A time as programs read it; null for none.
pub fn time_json(unix_ms: u64) -> Value {
    let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match timestamp {
        Some(timestamp) if unix_ms > 0 => Value::String(timestamp.to_string()),
        _ => Value::Null,
    }
}

/// Rows under each other, as wide as they need.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let mut line = String::new();
        for (cell, wide) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(wide - self::width(cell) + 2));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// Columns of a text: characters that stand, not those that combine.
fn width(text: &str) -> usize {
    text.chars().filter(|c| !matches!(*c, '\u{300}'..='\u{36f}')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_under_marks() {
        let rows = [vec!["mã".to_owned(), "tên".to_owned()], vec!["H53".to_owned(), "Tây Ninh".to_owned()]];
        assert_eq!(table(&rows), "mã   tên\nH53  Tây Ninh");
    }

    #[test]
    fn a_subject_cannot_draw_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(printable("Công văn"), "Công văn");
    }

    #[test]
    fn times() {
        assert_eq!(time(0), "–");
        assert_eq!(time_json(0), Value::Null);
        assert_eq!(time_json(1_700_000_000_000), Value::String("2023-11-14T22:13:20Z".to_owned()));
    }
}
