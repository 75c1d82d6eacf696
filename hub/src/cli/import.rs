//! Agencies from a CSV file, as spreadsheets write it: commas, semicolons or
//! tabs, quotes, a byte order mark. Pure; the caller reads and sends.

use std::collections::{BTreeMap, BTreeSet};

use axis_proto::{
    id::AgencyCode,
    record::v1::{Agency, AgencyState},
};
use prost::Message as _;

/// Most entries of one change, which is one record.
const CHUNK_MAX: usize = 100;
/// Most bytes of them: a record holds 16 KiB.
const CHUNK_BYTES_MAX: usize = 14_000;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct CsvError {
    /// The line, the first is 1.
    pub line: usize,
    /// What is wrong there.
    pub words: String,
}

/// One agency of the file. `None` is a column that the file does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    line: usize,
    code: String,
    name: String,
    parent: Option<String>,
    system: Option<String>,
    aliases: Option<Vec<String>>,
}

/// What to write, in an order in which parents come first.
#[derive(Debug)]
pub struct Plan {
    /// Line and whole new value.
    pub entries: Vec<(usize, Agency)>,
    /// How many of them are new.
    pub added: usize,
    /// How many are in the directory as the file has them.
    pub unchanged: usize,
}

/// Reads the file.
pub fn parse(bytes: &[u8]) -> Result<Vec<Row>, CsvError> {
    let fail = |line, words: &str| CsvError { line, words: words.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        fail(line, "not UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut records = records(text)?.into_iter();
    let (head_line, head) = records.next().ok_or_else(|| fail(1, "the file is empty"))?;
    let head: Vec<String> = head.iter().map(|cell| cell.trim().to_lowercase()).collect();
    let column = |name: &str| head.iter().position(|cell| cell == name);
    let (Some(code), Some(name)) = (column("code"), column("name")) else {
        return Err(fail(head_line, "the first line must name the columns, at least `code` and `name`"));
    };
    const KNOWN: [&str; 5] = ["code", "name", "parent", "system", "aliases"];
    if let Some(unknown) = head.iter().find(|cell| !cell.is_empty() && !KNOWN.contains(&cell.as_str())) {
        return Err(fail(head_line, &format!("unknown column `{unknown}`")));
    }
    let (parent, system, aliases) = (column("parent"), column("system"), column("aliases"));
    let mut seen = BTreeMap::new();
    let mut rows = Vec::new();
    for (line, cells) in records {
        let cell = |at: usize| cells.get(at).map_or("", |cell| cell.trim()).to_owned();
        let parsed: AgencyCode = cell(code).parse().map_err(|error| fail(line, &format!("code: {error}")))?;
        if cell(name).is_empty() {
            return Err(fail(line, "the name is empty"));
        }
        if let Some(first) = seen.insert(parsed.to_string(), line) {
            return Err(fail(line, &format!("{parsed} stands in line {first} already")));
        }
        if cells.len() > head.len() && aliases != Some(head.len() - 1) {
            return Err(fail(line, "more cells than the first line names columns"));
        }
        // aliases may go on in further cells if theirs is the last column
        let aliases = aliases.map(|at| {
            let cells = cells.get(at..).unwrap_or_default();
            let cells = if at + 1 == head.len() { cells } else { &cells[..cells.len().min(1)] };
            let words = cells.iter().flat_map(|cell| cell.split([' ', ';', '|', ',', '\t', '\n']));
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
        });
        rows.push(Row {
            line,
            code: parsed.to_string(),
            name: cell(name),
            parent: parent.map(cell),
            system: system.map(cell),
            aliases,
        });
    }
    parents_first(rows)
}

/// What must be written so that the directory says what the file says.
pub fn plan(rows: Vec<Row>, known: &[Agency]) -> Plan {
    let known: BTreeMap<&str, &Agency> = known.iter().map(|agency| (agency.code.as_str(), agency)).collect();
    let mut plan = Plan { entries: Vec::new(), added: 0, unchanged: 0 };
    for row in rows {
        let before = known.get(row.code.as_str()).copied();
        let mut agency = before.cloned().unwrap_or_else(|| Agency {
            code: row.code,
            state: AgencyState::Active.into(),
            ..Agency::default()
        });
        agency.name = row.name;
        agency.parent = row.parent.unwrap_or(agency.parent);
        agency.system = row.system.unwrap_or(agency.system);
        agency.aliases = row.aliases.unwrap_or(agency.aliases);
        match before {
            Some(before) if *before == agency => plan.unchanged += 1,
            before => {
                plan.added += usize::from(before.is_none());
                plan.entries.push((row.line, agency));
            }
        }
    }
    plan
}

/// The entries in the portions that the hub takes.
pub fn chunks(mut entries: &[(usize, Agency)]) -> Vec<&[(usize, Agency)]> {
    let mut chunks = Vec::new();
    while !entries.is_empty() {
        let mut bytes = 0;
        let fits = |(_, agency): &&(usize, Agency)| {
            // with the tags and lengths around it
            bytes += agency.encoded_len() + 8;
            bytes <= CHUNK_BYTES_MAX
        };
        let (chunk, rest) = entries.split_at(entries.iter().take(CHUNK_MAX).take_while(fits).count().max(1));
        chunks.push(chunk);
        entries = rest;
    }
    chunks
}

/// The lines of the file that a refusal of this chunk names.
pub fn lines_of(violations: &[(String, String)], chunk: &[(usize, Agency)]) -> Vec<String> {
    let index = |field: &str| field.strip_prefix("entries[")?.split_once(']')?.0.parse::<usize>().ok();
    let lines: BTreeSet<usize> =
        violations.iter().filter_map(|(field, _)| Some(chunk.get(index(field)?)?.0)).collect();
    lines.iter().map(ToString::to_string).collect()
}

/// Parents that the file names too come before their children.
fn parents_first(rows: Vec<Row>) -> Result<Vec<Row>, CsvError> {
    let mut waiting: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let in_file: BTreeSet<String> = rows.iter().map(|row| row.code.clone()).collect();
    let (mut ordered, total) = (Vec::with_capacity(rows.len()), rows.len());
    for row in rows {
        match row.parent.clone().filter(|parent| in_file.contains(parent)) {
            Some(parent) => waiting.entry(parent).or_default().push(row),
            None => ordered.push(row),
        }
    }
    let mut next = 0;
    while let Some(row) = ordered.get(next) {
        let children = waiting.remove(&row.code).unwrap_or_default();
        ordered.extend(children);
        next += 1;
    }
    match waiting.into_values().flatten().min_by_key(|row| row.line) {
        Some(row) => Err(CsvError { line: row.line, words: format!("{} is above itself", row.code) }),
        None => {
            debug_assert_eq!(ordered.len(), total);
            Ok(ordered)
        }
    }
}

/// Lines of cells (RFC 4180), with the line each begins at; empty lines are
/// left out.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, CsvError> {
    let head = text.lines().next().unwrap_or_default();
    let separator = [';', '\t', ','].into_iter().max_by_key(|at| head.matches(*at).count()).unwrap_or(',');
    let mut records = Vec::new();
    let (mut line, mut first) = (1, 1);
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    // the last line may lack its end
    let mut letters = text.chars().chain((!text.ends_with('\n')).then_some('\n')).peekable();
    while let Some(letter) = letters.next() {
        line += usize::from(letter == '\n');
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                cell.push('"');
            }
            '"' if quoted => quoted = false,
            _ if quoted => cell.push(letter),
            '"' if cell.trim().is_empty() => {
                cell.clear();
                quoted = true;
            }
            '\n' => {
                cells.push(std::mem::take(&mut cell));
                let record = std::mem::take(&mut cells);
                if record.iter().any(|cell| !cell.trim().is_empty()) {
                    records.push((first, record));
                }
                first = line;
            }
            '\r' if letters.peek() == Some(&'\n') => {}
            letter if letter == separator => cells.push(std::mem::take(&mut cell)),
            letter => cell.push(letter),
        }
    }
    match quoted {
        true => Err(CsvError { line: first, words: "a quote is not closed".to_owned() }),
        false => Ok(records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        parse(text.as_bytes()).unwrap().into_iter().map(|row| row.code).collect()
    }

    fn error(text: &str) -> (usize, String) {
        let error = parse(text.as_bytes()).unwrap_err();
        (error.line, error.words)
    }

    #[test]
    fn as_spreadsheets_write_it() {
        let text = "\u{feff}code;name;parent;system;aliases\r\n\
                    H53;\"Tỉnh Tây Ninh; \"\"mới\"\"\";;tay-ninh;000.00.00.H53 H54\r\n\
                    \r\n\
                    H53.02;\"Sở\nY tế\";H53;;000.00.02.H53;X1";
        let rows = parse(text.as_bytes()).unwrap();
        assert_eq!(
            rows[0],
            Row {
                line: 2,
                code: "H53".into(),
                name: "Tỉnh Tây Ninh; \"mới\"".into(),
                parent: Some(String::new()),
                system: Some("tay-ninh".into()),
                aliases: Some(vec!["000.00.00.H53".into(), "H54".into()]),
            }
        );
        assert_eq!((rows[1].line, rows[1].name.as_str()), (4, "Sở\nY tế"));
        assert_eq!(rows[1].aliases, Some(vec!["000.00.02.H53".into(), "X1".into()]));
    }

    #[test]
    fn columns_may_be_fewer_and_in_any_order() {
        let rows = parse(b"name,code\nA,G22\n").unwrap();
        assert_eq!((rows[0].name.as_str(), &rows[0].parent, &rows[0].aliases), ("A", &None, &None));
    }

    #[test]
    fn parents_come_first() {
        assert_eq!(
            codes("code,name,parent\nA.B.C,x,A.B\nA.B,x,A\nZ,x,\nA,x,G22\n"),
            ["Z", "A", "A.B", "A.B.C"]
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        assert_eq!(error("").0, 1);
        assert_eq!(error("mã,tên\n").0, 1);
        assert_eq!(error("code,name,phone\n").1, "unknown column `phone`");
        assert_eq!(error("code,name\nG22,x\nG 22,x\n").0, 3);
        assert_eq!(error("code,name\nG22,\n"), (2, "the name is empty".into()));
        assert_eq!(error("code,name\nG22,x\nG22,y\n"), (3, "G22 stands in line 2 already".into()));
        assert_eq!(error("code,name\nG22,\"x\n"), (2, "a quote is not closed".into()));
        assert_eq!(error("code,name\nG22,x,y\n").0, 2);
        assert_eq!(error("code,name,parent\nA,x,B\nB,x,A\n"), (2, "A is above itself".into()));
        let latin = parse(b"code,name\nG22,\xff\n").unwrap_err();
        assert_eq!((latin.line, latin.words.as_str()), (2, "not UTF-8"));
    }

    #[test]
    fn portions_fit_into_a_record() {
        let entries = |name: &str| -> Vec<_> {
            (0..250).map(|line| (line, Agency { name: name.repeat(8), ..Agency::default() })).collect()
        };
        let lengths = |entries: &[_]| chunks(entries).iter().map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&entries("x")), [100, 100, 50]);
        let long = entries(&"ế".repeat(100));
        assert!(lengths(&long).iter().all(|length| *length == 5), "{:?}", lengths(&long));
        assert_eq!(lengths(&long).iter().sum::<usize>(), 250);
    }

    #[test]
    fn only_what_differs_is_written_and_the_rest_stays() {
        let known = vec![
            Agency { code: "G22".into(), name: "A".into(), system: "vpcp".into(), ..Agency::default() },
            Agency { code: "G18".into(), name: "B".into(), name_en: "Health".into(), ..Agency::default() },
        ];
        let rows = parse("code,name\nG22,A\nG18,Bộ Y tế\nH53,C\n".as_bytes()).unwrap();
        let plan = plan(rows, &known);
        assert_eq!((plan.added, plan.unchanged, plan.entries.len()), (1, 1, 2));
        let (line, changed) = &plan.entries[0];
        assert_eq!((*line, changed.name.as_str(), changed.name_en.as_str()), (3, "Bộ Y tế", "Health"));
        let (_, added) = &plan.entries[1];
        assert_eq!((added.code.as_str(), added.state()), ("H53", AgencyState::Active));
        let violations = [("entries[1].agency.parent".to_owned(), String::new())];
        assert_eq!(lines_of(&violations, &plan.entries), ["4"]);
    }
}
