//! The only way to files: the journal, the tree, the vault and the snapshots
//! go through [`Disk`], so that a test can take the power away. Knows nothing
//! of what the files mean.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

pub mod closed;
pub mod memory;
pub mod version;

pub use memory::MemoryDisk;

/// Where files live.
///
/// What a name stands for is durable after [`Disk::sync_dir`], what a file
/// holds after [`DiskFile::sync_data`]; neither implies the other.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a new, empty file; an error if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file to read and write.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file to read.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Whether there is a file or directory of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The names in a directory, sorted; none if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory and those above it, durably. Fine if it exists: then
    /// its own name is made durable all the same, because whoever made it may
    /// not have come that far.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Gives a file another name, in one step; what had that name is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// When a file was last written, by the disk's own clock; `None` if it
    /// does not say.
    fn modified_unix_ms(&self, path: &Path) -> io::Result<Option<u64>> {
        let _unsaid = path;
        Ok(None)
    }

    /// How much room there is.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads into `buffer`; fewer bytes than asked for only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable, with the length.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file, or lengthens it with a hole of zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Writes zeros from `offset` to `end`, so that later writes there change
    /// no metadata.
    fn allocate(&self, offset: u64, end: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 256 * 1024];
        let mut at = offset;
        while at < end {
            let count = (end - at).min(ZEROS.len() as u64);
            self.write_at(at, &ZEROS[..count as usize])?;
            at += count;
        }
        Ok(())
    }

    /// Reads exactly as many bytes as `buffer` holds.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.read_at(offset, buffer)? < buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Whether there is nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that we may still fill.
    pub free_bytes: u64,
    /// All of them.
    pub total_bytes: u64,
    /// Files that we may still make; the highest number if the file system
    /// does not count them.
    pub free_files: u64,
}

/// The machine's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The machine's disk, as everybody takes it.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| at(path, e))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options().read(true).write(true).open(path).map_err(|e| at(path, e))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(File::open(path).map_err(|e| at(path, e))?)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists().map_err(|e| at(path, e))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| at(dir, e))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // a name that is no UTF-8 is none of ours
            if let Ok(name) = entry.map_err(|e| at(dir, e))?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let parent = parent_of(dir);
        if !dir.is_dir() {
            self.create_dir(parent)?;
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(dir, error)),
                _ => {}
            }
        }
        self.sync_dir(parent)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| at(dir, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|e| at(from, e))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|e| at(path, e))
    }

    fn modified_unix_ms(&self, path: &Path) -> io::Result<Option<u64>> {
        let stat = fs::metadata(path).map_err(|e| at(path, e))?;
        Ok(u64::try_from(stat.mtime()).ok().map(|seconds| seconds * 1_000))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path).map_err(|e| at(path, e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let free_files = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        Ok(Space { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks), free_files })
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

/// Held by the one process that may write below a directory; given back when
/// dropped, or by the system when the process ends in whatever way.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
    path: PathBuf,
}

impl DirLock {
    /// The lock's file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Locks a directory for this process, by its file `lock`. An error of kind
/// `WouldBlock` names the process that has it.
pub fn lock(dir: &Path) -> io::Result<DirLock> {
    let path = dir.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| at(&path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let words = format!("{} is in use by process {}", dir.display(), holder.trim());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, words));
        }
        Err(fs::TryLockError::Error(error)) => return Err(at(&path, error)),
    }
    // for whoever finds it locked; nobody depends on it
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(DirLock { _file: file, path })
}

/// Puts bytes under a name so that after a crash the name stands for the old
/// bytes or the new ones, never for a part. Durable on return.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    if disk.exists(&new)? {
        disk.remove(&new)?;
    }
    let file = disk.create(&new)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    // a crash here leaves a `.new` file that the next call removes
    disk.rename(&new, path)?;
    disk.sync_dir(parent_of(path))
}

/// The directory that holds a path.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str() != OsStr::new("") => parent,
        _ => Path::new("."),
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let error = lock(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn both_disks_behave_alike() {
        let dir = tempfile::tempdir().unwrap();
        check(&RealDisk, dir.path());
        check(&MemoryDisk::default(), Path::new("/memory"));
    }

    fn check(disk: &dyn Disk, root: &Path) {
        let dir = root.join("a/b");
        assert!(disk.list(&dir).unwrap().is_empty());
        disk.create_dir(&dir).unwrap();
        disk.create_dir(&dir).unwrap();
        assert!(disk.exists(&dir).unwrap());
        let path = dir.join("file");
        assert_eq!(disk.open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.open_read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = disk.create(&path).unwrap();
        assert_eq!(disk.create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(file.is_empty().unwrap());
        file.write_at(3, b"abc").unwrap();
        assert_eq!(file.len().unwrap(), 6);
        let mut buffer = [9; 8];
        assert_eq!(file.read_at(1, &mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"\0\0abc");
        assert_eq!(file.read_exact_at(0, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.allocate(6, 600_000).unwrap();
        assert_eq!(file.len().unwrap(), 600_000);
        file.set_len(4).unwrap();
        file.set_len(5).unwrap();
        assert_eq!(file.read_at(0, &mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"\0\0\0a\0");
        file.sync_data().unwrap();
        let other = dir.join("other");
        disk.rename(&path, &other).unwrap();
        disk.sync_dir(&dir).unwrap();
        assert_eq!(disk.list(&dir).unwrap(), ["other"]);
        replace(disk, &other, b"new").unwrap();
        let read = disk.open_read(&other).unwrap();
        assert_eq!(read.len().unwrap(), 3);
        disk.remove(&other).unwrap();
        assert_eq!(disk.remove(&other).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(disk.list(&dir).unwrap().is_empty());
        assert!(disk.space(root).unwrap().free_bytes > 0);
    }
}
