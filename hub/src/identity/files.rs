//! Key files: readable by the hub's user alone, and never half written.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::error::{Error, Result};

pub(super) const CHECKPOINT_KEY: &str = "checkpoint.pem";
pub(super) const AUTHORITY_KEY: &str = "authority.pem";
pub(super) const AUTHORITY_CERTIFICATE: &str = "authority.crt";
pub(super) const SERVER_KEY: &str = "server.pem";
pub(super) const SERVER_CERTIFICATE: &str = "server.crt";

/// Reads a text file; the error names it.
pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::fault(named(path, error)))
}

/// Writes a file anew. After a crash the old one or the new one is there,
/// whole.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    written.map_err(|error| named(path, error))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nobody_else_may_read_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SERVER_KEY);
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
