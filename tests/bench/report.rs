//! Figures as a table for people and as JSON for programs, with what they were
//! made on.

use std::path::Path;

/// Columns are runs, rows are figures: there are few of the first.
pub struct Table {
    name: &'static str,
    runs: Vec<Vec<(&'static str, f64)>>,
}

impl Table {
    /// Without a run.
    pub fn new(name: &'static str) -> Self {
        Self { name, runs: Vec::new() }
    }

    /// Adds a run; all have the same figures in the same order.
    pub fn add(&mut self, run: Vec<(&'static str, f64)>) {
        self.runs.push(run);
    }

    /// As Markdown.
    pub fn show(&self) -> String {
        let mut lines = Vec::new();
        for (place, (name, _)) in self.runs.first().into_iter().flatten().enumerate() {
            let figures =
                self.runs.iter().filter_map(|run| run.get(place)).map(|(_, figure)| rounded(*figure));
            lines.push(format!("| {} | {} |", name.trim(), figures.collect::<Vec<_>>().join(" | ")));
            if place == 0 {
                lines.push(format!("|---|{}", "---:|".repeat(self.runs.len())));
            }
        }
        lines.join("\n")
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

/// All tables of a run.
pub struct Report(Vec<Table>);

impl Report {
    /// Of these.
    pub fn new(tables: Vec<Table>) -> Self {
        Self(tables)
    }

    /// Writes JSON: the machine, then each table's runs.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let table = |table: &Table| {
            let runs = table.runs.iter().map(|run| {
                let figures = run.iter().map(|(name, figure)| (name.trim().to_owned(), (*figure).into()));
                serde_json::Value::Object(figures.collect())
            });
            (table.name.to_owned(), serde_json::Value::Array(runs.collect()))
        };
        let mut all: serde_json::Map<String, serde_json::Value> = self.0.iter().map(table).collect();
        all.insert("machine".to_owned(), machine().into());
        std::fs::write(path, format!("{:#}\n", serde_json::Value::Object(all)))?;
        Ok(())
    }
}

/// Processor and how many of them, memory, and how busy they were.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value).trim().to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (model, memory) =
        (field(&read("/proc/cpuinfo"), "model name"), field(&read("/proc/meminfo"), "MemTotal"));
    let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
    format!("{processors} × {model}, {memory}, load {load}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_and_rows_are_named() {
        let mut table = Table::new("t");
        table.add(vec![("waiting", 1_000_000.0), ("s", 0.123)]);
        table.add(vec![("waiting", 10.0), ("s", 99.94)]);
        assert_eq!(table.show(), "| waiting | 1 000 000 | 10.0 |\n|---|---:|---:|\n| s | 0.12 | 99.9 |");
    }
}
