//! Which version of its format a store on disk has: the file `version` in its
//! directory. A store without one is of before there were such files. What a
//! later release wrote is refused by name before anything of it is touched; a
//! release that writes another version says so here first.
//!
//! `version`, text: a line for each thing in the store (its name and its
//! version), and the CRC-32 of the lines before in hex. One that is damaged
//! says nothing: it is for stores that find out themselves what they hold.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use super::Disk;

/// The file's name in the store's directory.
pub const FILE: &str = "version";
/// A longer one is not ours.
const FILE_BYTES_MAX: u64 = 4096;

/// Things in a store, each with the version that this release writes; it
/// reads no later one.
pub type Formats = [(&'static str, u32)];

/// A later release wrote a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: {what} has format version {found}, this release reads {read}; use the release that wrote it",
    path.display()
)]
pub struct Newer {
    /// The file that says so.
    pub path: PathBuf,
    /// What has it.
    pub what: String,
    /// Its version.
    pub found: u32,
    /// The latest version that is read here.
    pub read: u32,
}

/// An error with [`Newer`] inside if a later release wrote the store in a
/// directory. Only reads.
pub fn check(disk: &dyn Disk, dir: &Path, formats: &Formats) -> io::Result<()> {
    let path = dir.join(FILE);
    for (what, found) in read(disk, &path)?.unwrap_or_default() {
        let read = formats.iter().find(|(name, _)| *name == what).map_or(0, |(_, version)| *version);
        if found > read {
            return Err(io::Error::new(io::ErrorKind::InvalidData, Newer { path, what, found, read }));
        }
    }
    Ok(())
}

/// Says, durably, that a store is of these versions from here on.
pub fn mark(disk: &dyn Disk, dir: &Path, formats: &Formats) -> io::Result<()> {
    check(disk, dir, formats)?;
    let text = written(formats);
    let path = dir.join(FILE);
    if read_text(disk, &path)?.is_some_and(|found| found == text) {
        return Ok(());
    }
    if !disk.exists(dir)? {
        disk.create_dir(dir)?;
    }
    super::replace(disk, &path, text.as_bytes())
}

fn written(formats: &Formats) -> String {
    let mut text = String::new();
    for (what, version) in formats {
        let _infallible = writeln!(text, "{what} {version}");
    }
    let sum = crc32fast::hash(text.as_bytes());
    let _infallible = writeln!(text, "{sum:08x}");
    text
}

/// What a file says; nothing if there is none, or none that is whole.
fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<(String, u32)>>> {
    let Some(text) = read_text(disk, path)? else { return Ok(None) };
    let found = parse(&text);
    if found.is_none() {
        tracing::warn!(path = %path.display(), "damaged, and written anew");
    }
    Ok(found)
}

fn parse(text: &str) -> Option<Vec<(String, u32)>> {
    let (lines, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let lines = &text[..lines.len() + 1];
    if format!("{:08x}", crc32fast::hash(lines.as_bytes())) != sum {
        return None;
    }
    let thing = |line: &str| {
        let (what, version) = line.rsplit_once(' ')?;
        Some((what.to_owned(), version.parse().ok()?))
    };
    lines.lines().map(thing).collect()
}

fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<Option<String>> {
    if !disk.exists(path)? {
        return Ok(None);
    }
    let file = disk.open_read(path)?;
    let mut bytes = vec![0; file.len()?.min(FILE_BYTES_MAX) as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn newer(result: io::Result<()>) -> Option<Newer> {
        result.err()?.into_inner()?.downcast().ok().map(|newer| *newer)
    }

    #[test]
    fn a_later_version_is_refused_by_name_and_nothing_is_written() {
        let disk = MemoryDisk::default();
        let dir = Path::new("/state");
        disk.create_dir(dir).unwrap();
        let now = [("state", 1), ("layout", 4)];
        check(&disk, dir, &now).unwrap();
        mark(&disk, dir, &now).unwrap();
        let text = || read_text(&disk, &dir.join(FILE)).unwrap().unwrap();
        assert_eq!(text(), "state 1\nlayout 4\n982271be\n");
        check(&disk, dir, &now).unwrap();

        // a release of tomorrow opens it, and this one refuses what it leaves
        mark(&disk, dir, &[("state", 1), ("layout", 5)]).unwrap();
        let left = text();
        for refused in [check(&disk, dir, &now), mark(&disk, dir, &now)] {
            let path = dir.join(FILE);
            let expected = Newer { path, what: "layout".into(), found: 5, read: 4 };
            assert_eq!(newer(refused), Some(expected));
        }
        assert_eq!(text(), left);
        // a thing that this release does not know is one of later
        mark(&disk, dir, &[("state", 1), ("layout", 5), ("index", 1)]).unwrap();
        let refused = newer(check(&disk, dir, &[("state", 1), ("layout", 5)])).unwrap();
        assert_eq!((refused.what.as_str(), refused.found, refused.read), ("index", 1, 0));
    }

    #[test]
    fn a_damaged_one_says_nothing_and_is_written_anew() {
        let disk = MemoryDisk::default();
        let dir = Path::new("/tree");
        let now = [("tree", 1)];
        mark(&disk, dir, &now).unwrap();
        let whole = written(&now);
        for at in 0..whole.len() as u64 {
            let file = disk.open(&dir.join(FILE)).unwrap();
            let mut byte = [0];
            file.read_exact_at(at, &mut byte).unwrap();
            file.write_at(at, &[byte[0] ^ 2]).unwrap();
            check(&disk, dir, &now).unwrap_or_else(|error| panic!("byte {at}: {error}"));
            mark(&disk, dir, &now).unwrap();
            assert_eq!(read_text(&disk, &dir.join(FILE)).unwrap().unwrap(), whole);
        }
        disk.open(&dir.join(FILE)).unwrap().set_len(0).unwrap();
        mark(&disk, dir, &now).unwrap();
        assert_eq!(read_text(&disk, &dir.join(FILE)).unwrap().unwrap(), whole);
    }
}
