//! When the last backup was made, in a small file beside the data, so that it
//! is known after a restart too. Trusted with nothing: losing it costs the
//! operators' view of the age.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};

/// Its name in `data/`.
const FILE: &str = "last-backup.json";
/// Most bytes of it that are read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A backup that was made and verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMade {
    /// When.
    pub made_unix_ms: u64,
    /// Where, as the operator named it.
    pub directory: String,
    /// How many records it holds.
    pub size: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes that were copied.
    pub copied_bytes: u64,
}

/// The last backup. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LastBackup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    last: Mutex<Option<BackupMade>>,
}

impl LastBackup {
    /// What is known in a data directory.
    pub fn load(disk: Arc<dyn Disk>, data: &Path) -> Self {
        let path = data.join(FILE);
        let last = Mutex::new(read(&*disk, &path));
        Self(Arc::new(Inner { disk, path, last }))
    }

    /// The last one, if one is known.
    pub fn last(&self) -> Option<BackupMade> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One was made. May wait for the disk.
    pub fn note(&self, made: BackupMade) -> io::Result<()> {
        let text = serde_json::to_vec(&made)?;
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        disk::replace(&*self.0.disk, &self.0.path, &text)
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Option<BackupMade> {
    let file = disk.open_read(path).ok()?;
    let len = file.len().ok().filter(|len| *len <= FILE_BYTES_MAX)?;
    let mut text = vec![0; len as usize];
    file.read_exact_at(0, &mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn it_is_known_after_a_restart() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let data = Path::new("/data");
        disk.create_dir(data).unwrap();
        let last = LastBackup::load(disk.clone(), data);
        assert_eq!(last.last(), None);
        let made = BackupMade { made_unix_ms: 5, size: 7, ..BackupMade::default() };
        last.note(made.clone()).unwrap();
        assert_eq!(last.last(), Some(made.clone()));
        assert_eq!(LastBackup::load(disk.clone(), data).last(), Some(made));
        disk::replace(&*disk, &data.join(FILE), b"{").unwrap();
        assert_eq!(LastBackup::load(disk, data).last(), None);
    }
}
