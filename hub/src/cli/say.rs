//! How the command line talks: in which language, and how it fails.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    sync::OnceLock,
};

use axis_hub::observe::words;
use axis_proto::reason::Language;

/// What a command returns.
pub type Result<T> = std::result::Result<T, Failure>;

static LANGUAGE: OnceLock<Language> = OnceLock::new();

/// Why a command did not do what was asked, and the way out.
#[derive(Debug)]
pub struct Failure {
    words: String,
    hints: Vec<String>,
    code: u8,
}

/// The hub refused, or something failed.
const FAILED: u8 = 1;
/// The hub cannot be reached.
const UNREACHABLE: u8 = 3;
/// `fsck` found damage.
const DAMAGED: u8 = 4;

impl Failure {
    /// It was refused, or failed.
    pub fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), hints: Vec::new(), code: FAILED }
    }

    /// The hub cannot be reached.
    pub fn unreachable(words: impl Into<String>) -> Self {
        Self { code: UNREACHABLE, ..Self::new(words) }
    }

    /// Damage was found.
    pub fn damaged(words: impl Into<String>) -> Self {
        Self { code: DAMAGED, ..Self::new(words) }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Prints it; returns the process's exit code.
    pub fn report(self) -> ExitCode {
        // written whole; if stderr is gone there is nobody to tell
        let mut text = format!("{}: {}\n", tr("error", "lỗi"), self.words);
        for hint in self.hints {
            text.push_str(&format!("hint: {hint}\n"));
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.code)
    }
}

/// Decides the language, once.
pub fn set_language(language: Language) {
    let _ = LANGUAGE.set(language);
}

/// The language of what is printed.
pub fn language() -> Language {
    *LANGUAGE.get_or_init(language_of_locale)
}

/// The words in the user's language.
pub fn tr<'a>(en: &'a str, vi: &'a str) -> &'a str {
    words::pick(language(), en, vi)
}

/// Prints words for people.
pub fn say(words: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", words.as_ref());
}

/// Prints a result. A reader that went away is no failure of ours.
pub fn put(result: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "{}", result.as_ref());
}

/// How far something long has come: a line that is written over, on a
/// terminal only.
#[derive(Debug)]
pub struct Progress {
    total: usize,
    shown: bool,
}

impl Progress {
    /// Nothing of it yet.
    pub fn new(total: usize) -> Self {
        Self { total, shown: std::io::stderr().is_terminal() }
    }

    /// So many are done.
    pub fn at(&self, done: usize) {
        if self.shown {
            let end = if done == self.total { "\n" } else { "" };
            let _ = write!(std::io::stderr(), "\r{done}/{}{end}", self.total);
        }
    }
}

/// How far something has come whose end is not known: a line that is written
/// over, on a terminal only, and not more often than it changes.
#[derive(Debug)]
pub struct Ticker {
    shown: bool,
    last: String,
}

impl Ticker {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal(), last: String::new() }
    }

    /// It is here now.
    pub fn at(&mut self, words: String) {
        if self.shown && words != self.last {
            let _ = write!(std::io::stderr(), "\r\x1b[K{words}");
            self.last = words;
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if !self.last.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// What the locale asks for.
pub fn language_of_locale() -> Language {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_MESSAGES")).or_else(|| set("LANG"));
    Language::preferred(&locale.unwrap_or_default())
}
