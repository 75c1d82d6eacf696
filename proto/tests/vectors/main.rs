//! The vectors in `tests/vectors` of the workspace: made here, the same each
//! time, and checked here from their files alone, as any other language would.
//!
//! `AXIS_BLESS=1 cargo test -p axis-proto --test vectors` writes them anew.

mod check;
mod json;
mod make;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

/// Every JSON file by its name below the root: `seal/one-signature.json`.
fn files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in fs::read_dir(root()).expect("the vectors are there") {
        let folder = folder.expect("a folder").path();
        if folder.is_dir() {
            for file in fs::read_dir(&folder).expect("a folder") {
                let file = file.expect("a file").path();
                let name = file.strip_prefix(root()).expect("below the root").display().to_string();
                files.insert(name, fs::read_to_string(&file).expect("a text"));
            }
        } else {
            assert_eq!(folder.file_name(), Some("README.md".as_ref()), "a vector stands in a folder");
        }
    }
    files
}

/// One test, since a blessed file must be written before it is checked.
#[test]
fn vectors_hold() {
    let made = make::all();
    if std::env::var_os("AXIS_BLESS").is_some() {
        for name in files().keys() {
            fs::remove_file(root().join(name)).expect("an old vector goes");
        }
        for (name, text) in &made {
            let path = root().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a vector is written");
        }
    }

    let files = files();
    assert!(files.len() > 100, "only {} vectors", files.len());
    for (name, text) in &files {
        let vector: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        check::check(name, &vector);
        assert_eq!(made.get(name), Some(text), "{name} is not what the code makes; see README.md there");
    }
    let missing: Vec<_> = made.keys().filter(|name| !files.contains_key(*name)).collect();
    assert!(missing.is_empty(), "without a file: {missing:?}");
}
