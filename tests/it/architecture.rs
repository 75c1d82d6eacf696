//! The arrows of `hub/ARCHITECTURE.md`, held against the source.

use std::path::{Path, PathBuf};

/// Every Rust file below a folder of the hub's source, with its text and
/// without its tests.
fn sources(below: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/src");
    let mut files = Vec::new();
    let mut folders = vec![root.join(below)];
    while let Some(place) = folders.pop() {
        if place.is_file() {
            files.push(place);
            continue;
        }
        let entries =
            std::fs::read_dir(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        folders.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    let code = |path: &PathBuf| {
        std::fs::read_to_string(path).expect("readable").split("#[cfg(test)]\nmod ").next().map(str::to_owned)
    };
    let named = |path: &PathBuf| path.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
    let rust = |path: &&PathBuf| {
        path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs")
    };
    files.iter().filter(rust).map(|path| (named(path), code(path).unwrap_or_default())).collect()
}

/// Nothing outside of `allowed` (path prefixes) holds `word`; comments do not
/// count.
#[track_caller]
fn only(allowed: &[&str], word: &str) {
    for (path, text) in sources("") {
        if allowed.iter().any(|prefix| path.starts_with(prefix)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            assert!(
                code.starts_with("//") || !code.contains(word),
                "{path}:{} holds `{word}`, which is for {allowed:?} alone: {line}",
                number + 1,
            );
        }
    }
}

#[test]
fn only_wire_knows_tonic() {
    // the operators' commands are a client of the admin socket
    only(&["wire/", "cli/", "main.rs"], "tonic::");
}

#[test]
fn only_state_sled_knows_sled() {
    only(&["state/sled/"], "sled::Db");
    only(&["state/sled/"], "sled::Config");
    only(&["state/sled/"], "sled::Tree");
}

#[test]
fn only_commit_appends_to_the_journal() {
    only(&["commit/", "journal/"], "dyn Journal>");
    only(&["commit/", "journal/"], "Journal::append");
}

#[test]
fn only_clock_reads_the_time() {
    only(&["clock.rs"], "SystemTime::now");
    // deadlines and intervals of tasks are the runtime's own affair
    only(&["clock.rs", "hub.rs", "wire/"], "Instant::now");
}

#[test]
fn the_machine_is_pure() {
    for (path, text) in sources("machine") {
        for word in [
            "std::fs",
            "std::time",
            "tokio",
            "getrandom",
            "crate::clock",
            "crate::config",
            "crate::wire",
            "std::env",
            "async ",
        ] {
            let line = text.lines().find(|line| !line.trim_start().starts_with("//") && line.contains(word));
            assert!(line.is_none(), "{path} holds `{word}`: {line:?}");
        }
    }
}

#[test]
fn no_channel_is_unbounded() {
    only(&[], "unbounded_channel");
    only(&[], "mpsc::channel()");
}
