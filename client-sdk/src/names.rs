//! File names that came from elsewhere, made safe to write on any disk. Never
//! used for the manifest itself: that keeps what the sender wrote.

use std::collections::HashSet;

/// Most bytes of a name: room for `.part` and a number below the 255 of most
/// file systems.
const NAME_BYTES_MAX: usize = 200;

/// Names already used in one folder.
#[derive(Debug, Default)]
pub struct Taken(HashSet<String>);

impl Taken {
    /// A folder in which these names are ours.
    pub fn with(names: &[&str]) -> Self {
        Self(names.iter().map(|name| name.to_lowercase()).collect())
    }

    /// The safe form of a name, unlike any given before in this folder, also
    /// where case is not told apart.
    pub fn place(&mut self, name: &str) -> String {
        let safe = safe(name);
        let (stem, extension) = split(&safe);
        let mut candidate = safe.clone();
        let mut number = 2;
        while !self.0.insert(candidate.to_lowercase()) {
            candidate = format!("{stem} ({number}){extension}");
            number += 1;
        }
        candidate
    }
}

/// A name that no file system or shell takes for something else.
pub fn safe(name: &str) -> String {
    let mut safe: String = name
        .chars()
        .filter(|c| !is_direction(*c))
        .map(|c| if c.is_control() || "/\\:*?\"<>|".contains(c) { '_' } else { c })
        .collect();
    safe = safe.trim().trim_end_matches(['.', ' ']).to_owned();
    if safe.starts_with(['.', '-', '~']) {
        safe.insert(0, '_');
    }
    if safe.is_empty() {
        return "document".to_owned();
    }
    let lower = safe.to_lowercase();
    let stem = lower.split('.').next().unwrap_or_default();
    // Windows keeps these for devices; the last two are our own
    let device = matches!(stem, "con" | "prn" | "aux" | "nul")
        || (stem.len() == 4
            && (stem.starts_with("com") || stem.starts_with("lpt"))
            && stem.ends_with(|c: char| c.is_ascii_digit()));
    if device || lower.ends_with(".part") || lower.ends_with(".receipt.json") {
        safe.insert(0, '_');
    }
    shortened(&safe)
}

/// Characters that make a name read otherwise than it is.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 16 => name.split_at(dot),
        _ => (name, ""),
    }
}

fn shortened(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let (stem, extension) = split(name);
    let mut end = NAME_BYTES_MAX - extension.len();
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{extension}", stem[..end].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        let cases = [
            ("Công văn số 12.pdf", "Công văn số 12.pdf"),
            ("../../etc/passwd", "_.._.._etc_passwd"),
            ("..", "document"),
            ("", "document"),
            (" . ", "document"),
            ("a\0b\n.pdf", "a_b_.pdf"),
            ("c:\\x.doc", "c__x.doc"),
            (".bashrc", "_.bashrc"),
            ("-rf", "_-rf"),
            ("NUL.txt", "_NUL.txt"),
            ("com1", "_com1"),
            ("common.doc", "common.doc"),
            ("9.receipt.json", "_9.receipt.json"),
            ("gpj\u{202e}fdp.exe", "gpjfdp.exe"),
            ("x.pdf. .", "x.pdf"),
        ];
        for (name, expected) in cases {
            assert_eq!(safe(name), expected, "{name:?}");
        }
    }

    #[test]
    fn long_names_keep_their_ending_and_whole_characters() {
        let safe = safe(&format!("{}.pdf", "ắ".repeat(300)));
        assert!(safe.len() <= NAME_BYTES_MAX && safe.ends_with("ắ.pdf"), "{safe}");
    }

    #[test]
    fn no_two_files_share_a_name() {
        let mut taken = Taken::with(&["envelope.json"]);
        assert_eq!(taken.place("Phụ lục.pdf"), "Phụ lục.pdf");
        assert_eq!(taken.place("PHỤ LỤC.PDF"), "PHỤ LỤC (2).PDF");
        assert_eq!(taken.place("phụ lục.pdf"), "phụ lục (3).pdf");
        assert_eq!(taken.place("Envelope.json"), "Envelope (2).json");
    }
}
