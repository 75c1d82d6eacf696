//! A seal on files that were closed in good order: their names, lengths and
//! checksums. Who finds it unbroken knows that they are, byte for byte, what
//! they were then, and need not find out what they mean. For derived files
//! only: it says nothing about whether they were right.
//!
//! `closed`, text: a line of what it is, a line for each file (name, length,
//! CRC-32 of each MiB in hex), and the CRC-32 of the lines before. It is taken
//! off before anything is written to the files again.

use std::{
    fmt::Write as _,
    io,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{Disk, DiskFile};

/// The seal's name in the directory of the files.
pub const FILE: &str = "closed";

const FIRST_LINE: &str = "axis closed 1";
/// What one checksum is for.
const PART_BYTES: usize = 1024 * 1024;
/// Parts of a file from which on several threads sum them up.
const PARTS_MANY: usize = if cfg!(test) { 1 } else { 64 };
/// So many at most: beyond it the disk is the limit.
const THREADS_MAX: usize = 4;
/// A longer seal is none: it would be for 1 TiB of files.
const SEAL_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What files were when they were closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal(String);

impl Seal {
    /// The seal of these files of a directory, as they are now.
    fn of(disk: &dyn Disk, dir: &Path, names: &[String]) -> io::Result<Self> {
        let mut text = format!("{FIRST_LINE}\n");
        for name in names {
            let file = disk.open_read(&dir.join(name))?;
            let _infallible = write!(text, "{name} {}", file.len()?);
            for sum in sums(&*file)? {
                let _infallible = write!(text, " {sum:08x}");
            }
            text.push('\n');
        }
        let sum = crc32fast::hash(text.as_bytes());
        let _infallible = writeln!(text, "{sum:08x}");
        Ok(Self(text))
    }

    /// Whether these files, and only they, are still what was sealed. Reads
    /// all of them.
    pub fn holds(&self, disk: &dyn Disk, dir: &Path, names: &[String]) -> bool {
        Self::of(disk, dir, names).is_ok_and(|now| now == *self)
    }
}

/// Seals these files of a directory. Nobody may write to them before
/// [`unseal`].
pub fn seal(disk: &dyn Disk, dir: &Path, names: &[String]) -> io::Result<()> {
    let seal = Seal::of(disk, dir, names)?;
    super::replace(disk, &dir.join(FILE), seal.0.as_bytes())
}

/// The CRC-32 of each MiB of a file, on all processors if there are many: who
/// opens or closes a store waits for it.
fn sums(file: &dyn DiskFile) -> io::Result<Vec<u32>> {
    let length = file.len()?;
    let parts = usize::try_from(length.div_ceil(PART_BYTES as u64)).map_err(io::Error::other)?;
    // whoever is done takes the next
    let next = AtomicUsize::new(0);
    let some = || -> io::Result<Vec<(usize, u32)>> {
        let (mut found, mut buffer) = (Vec::new(), vec![0; PART_BYTES]);
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= parts {
                return Ok(found);
            }
            let at = part as u64 * PART_BYTES as u64;
            let bytes = &mut buffer[..(length - at).min(PART_BYTES as u64) as usize];
            file.read_exact_at(at, bytes)?;
            found.push((part, crc32fast::hash(bytes)));
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let others = if parts < PARTS_MANY { 0 } else { processors - 1 };
    let mut sums = thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(some)).collect();
        let mut sums = some()?;
        for other in others {
            sums.extend(other.join().map_err(|_| io::Error::other("summing up a file panicked"))??);
        }
        io::Result::Ok(sums)
    })?;
    sums.sort_unstable();
    Ok(sums.into_iter().map(|(_, sum)| sum).collect())
}

/// Takes the seal off a directory. `None` if there was none that can be read.
pub fn unseal(disk: &dyn Disk, dir: &Path) -> Option<Seal> {
    let path = dir.join(FILE);
    let file = disk.open_read(&path).ok()?;
    let read = || -> io::Result<String> {
        let mut bytes = vec![0; file.len()?.min(SEAL_BYTES_MAX) as usize];
        file.read_exact_at(0, &mut bytes)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    };
    let seal = read().ok().filter(|text| text.starts_with(FIRST_LINE)).map(Seal);
    // A seal that comes back after a crash is broken, or the files are what
    // they were: nothing hangs on its being gone.
    let _left_behind = disk.remove(&path);
    seal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn any_change_breaks_it_and_it_is_taken_once() {
        let disk = MemoryDisk::default();
        let dir = Path::new("/files");
        disk.create_dir(dir).unwrap();
        let names = ["a".to_owned(), "b".to_owned()];
        for (name, bytes) in names.iter().zip([vec![7; PART_BYTES + 5], Vec::new()]) {
            disk.create(&dir.join(name)).unwrap().write_at(0, &bytes).unwrap();
        }
        let sealed = || {
            seal(&disk, dir, &names).unwrap();
            unseal(&disk, dir).unwrap()
        };
        let whole = sealed();
        assert_eq!(unseal(&disk, dir), None);
        assert!(whole.holds(&disk, dir, &names));
        assert!(!whole.holds(&disk, dir, &names[..1]), "a file that is not asked for");
        let file = disk.open(&dir.join("a")).unwrap();
        file.write_at(PART_BYTES as u64 + 2, &[8]).unwrap();
        assert!(!whole.holds(&disk, dir, &names), "a byte");
        file.write_at(PART_BYTES as u64 + 2, &[7]).unwrap();
        assert!(whole.holds(&disk, dir, &names));
        file.set_len(PART_BYTES as u64 + 6).unwrap();
        assert!(!whole.holds(&disk, dir, &names), "a length");
        // a seal that is damaged itself
        seal(&disk, dir, &names).unwrap();
        disk.open(&dir.join(FILE)).unwrap().write_at(20, b"x").unwrap();
        assert!(unseal(&disk, dir).is_none_or(|seal| !seal.holds(&disk, dir, &names)));
    }
}
