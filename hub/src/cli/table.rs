//! Small tables for terminals.

/// Rows under a head; numbers to the right.
#[derive(Debug)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { head: head.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.head.len());
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_number =
            |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit()) && cell.len() < 12;
        let numeric = |column: usize| {
            let mut cells =
                self.rows.iter().map(|row| row[column].as_str()).filter(|cell| *cell != "–").peekable();
            cells.peek().is_some() && cells.all(is_number)
        };
        let columns = 0..self.head.len();
        let right: Vec<bool> = columns.clone().map(numeric).collect();
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let widths: Vec<usize> =
            columns.map(|column| lines().map(|line| width(&line[column])).max().unwrap_or(0)).collect();
        for (number, line) in lines().enumerate() {
            let mut text = String::new();
            for ((cell, width_max), right) in line.iter().zip(&widths).zip(&right) {
                let pad = " ".repeat(width_max - width(cell));
                let (before, after) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
                text.push_str(&format!("{before}{cell}{after}  "));
            }
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Columns that a text takes: Vietnamese may be written with combining marks.
fn width(text: &str) -> usize {
    text.chars().filter(|letter| !matches!(letter, '\u{300}'..='\u{36f}')).count()
}

/// A name may hold anything: nothing that would move the cursor is printed.
pub fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_head() {
        let mut table = Table::new(["System", "Waiting", "Parent", "Name"]);
        table.row(["vpcp".into(), "12".into(), "–".into(), "Bộ Y tế".into()]);
        table.row(["h53".into(), "1.204".into(), "–".into(), "Tây\u{1b}[2J Ninh".into()]);
        assert_eq!(
            table.to_string(),
            "System  Waiting  Parent  Name\n\
             vpcp         12  –       Bộ Y tế\n\
             h53       1.204  –       Tây\u{fffd}[2J Ninh"
        );
    }
}
