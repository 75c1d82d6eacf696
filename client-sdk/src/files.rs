//! Small files that must survive a crash whole or not at all. Never large
//! ones: documents are streamed where they are used.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use crate::error::{Error, Result};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner alone: keys.
    Owner,
    /// Whom the umask lets.
    Default,
}

/// Writes a file so that a crash leaves the old one or the new one.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> Result<()> {
    write_inner(path, bytes, access).map_err(|source| Error::write(path, source))
}

fn write_inner(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{:016x}.new", fastrand::u64(..)));
    let result = create(&temporary, access).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
        return result;
    }
    // a crash before this line may bring the old file back
    sync_directory(directory)
}

/// Writes a new file of a folder that nobody looks into yet; the folder itself
/// is the caller's to sync.
pub fn write_new(path: &Path, bytes: &[u8], access: Access) -> Result<()> {
    create(path, access)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|source| Error::write(path, source))
}

/// Writes a file that losing costs little: a crash leaves the old one or the
/// new one, and nobody waits to know which.
pub fn write_lazily(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        // else its name could come before its bytes, and the file be empty
        file.sync_data()
    });
    written.and_then(|()| fs::rename(&temporary, path)).map_err(|source| Error::write(path, source))
}

fn create(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if access == Access::Owner {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let _ = access;
    options.open(path)
}

/// Makes renames and new files in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// Makes a directory and those above it, for its owner alone.
pub fn make_directory(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path).map_err(|source| Error::write(path, source))
}

/// Makes a directory and those above it, with their names durable: what is
/// synced in it is not lost with it.
pub fn make_durable_directory(path: &Path, access: Access) -> Result<()> {
    let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let new: Vec<&Path> = path.ancestors().take_while(is_new).collect();
    match access {
        Access::Owner => make_directory(path)?,
        Access::Default => fs::create_dir_all(path).map_err(|source| Error::write(path, source))?,
    }
    for parent in new.iter().filter_map(|made| made.parent()) {
        sync_directory(parent).map_err(|source| Error::write(parent, source))?;
    }
    Ok(())
}

/// Reads a file, or nothing if there is none.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::read(path, error)),
    }
}

/// The names in a folder, none if it is not there.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Holds a lock file until it is dropped; the system drops it with the
/// process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock if it is free.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|source| Error::write(path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::write(path, source)),
        }
    }

    /// Takes the lock, waiting a little for whoever is about to leave.
    pub async fn take(path: &Path, patience: Duration) -> Result<Option<Self>> {
        let started = std::time::Instant::now();
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(Some(lock));
            }
            if started.elapsed() >= patience {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs what waits for the disk on a thread that may wait.
pub async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::write(Path::new("to the disk"), io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_with_those_above_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/c");
        make_durable_directory(&path, Access::Default).unwrap();
        make_durable_directory(&path, Access::Owner).unwrap();
        assert!(path.is_dir());
        write(&home.path().join("file"), b"", Access::Default).unwrap();
        make_durable_directory(&home.path().join("file/a"), Access::Default).unwrap_err();
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        write(&path, b"one", Access::Owner).unwrap();
        write(&path, b"two", Access::Owner).unwrap();
        assert_eq!(read_if_there(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(read_if_there(&home.path().join("b")).unwrap().is_none());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn a_lock_is_free_again_when_its_holder_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let held = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::take(&path, Duration::from_millis(30)).await.unwrap().is_none());
        drop(held);
        assert!(Lock::try_take(&path).unwrap().is_some());
    }
}
