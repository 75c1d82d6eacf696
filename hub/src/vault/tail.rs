//! What came of an upload since its last sync: where that was, and a check sum
//! of the bytes after it, by which an upload that goes on tells whether they
//! are there. Lost power may have taken them.

use std::io;

use crc32fast::Hasher;

use super::DiskFile;

/// Bytes read at once.
pub(super) const READ_BYTES: usize = 1024 * 1024;

/// What a mark says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Check {
    /// Everything before it was durable.
    pub(super) from: u64,
    /// CRC-32 of the bytes from there to where the mark is.
    pub(super) crc: u32,
}

/// Sums it up as it comes, in pieces: each begins where a sync does, and those
/// before one that has ended are forgotten. There are three at most.
#[derive(Debug, Clone)]
pub(super) struct Tail(Vec<(u64, Hasher)>);

impl Tail {
    /// Everything before is durable, and nothing came since.
    pub(super) fn at(place: u64) -> Self {
        Self(vec![(place, Hasher::new())])
    }

    /// What came since `durable`, up to where a mark is, as it is in a file; none
    /// if that is not what the mark says.
    pub(super) fn read(
        file: &dyn DiskFile,
        check: Check,
        durable: u64,
        end: u64,
    ) -> io::Result<Option<Self>> {
        let sum = |from, end| {
            let mut piece = Hasher::new();
            let read = read_through(file, from, end, &mut |_, bytes| {
                piece.update(bytes);
                Ok(())
            });
            read.map(|_| (from, piece))
        };
        let whole = Self(vec![sum(check.from, durable)?, sum(durable, end)?]);
        let is_right = whole.check() == check;
        Ok(is_right.then(|| Self(whole.0.into_iter().skip(1).collect())))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some((_, piece)) = self.0.last_mut() {
            piece.update(bytes);
        }
    }

    /// A sync of all up to a place begins.
    pub(super) fn syncing(&mut self, place: u64) {
        if self.last_sync() < place {
            self.0.push((place, Hasher::new()));
        }
    }

    /// Up to where it is durable, or is being made so.
    pub(super) fn last_sync(&self) -> u64 {
        self.0.last().map_or(0, |(from, _)| *from)
    }

    /// A sync of all up to a place has ended.
    pub(super) fn synced(&mut self, place: u64) {
        self.0.retain(|(from, _)| *from >= place);
    }

    /// Where it begins, and the sum of all of it.
    pub(super) fn check(&self) -> Check {
        let mut pieces = self.0.iter();
        let (from, mut whole) = pieces.next().cloned().unwrap_or_default();
        pieces.for_each(|(_, piece)| whole.combine(piece));
        Check { from, crc: whole.finalize() }
    }
}

/// Reads a file's bytes and shows them with their place; returns where it
/// ended, less if the file does before.
pub(super) fn read_through(
    file: &dyn DiskFile,
    mut at: u64,
    end: u64,
    show: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let left = usize::try_from(end.saturating_sub(at)).unwrap_or(READ_BYTES);
    let mut buffer = vec![0; READ_BYTES.min(left)];
    while at < end {
        let wanted = (end - at).min(buffer.len() as u64) as usize;
        let count = file.read_at(at, &mut buffer[..wanted])?;
        if count == 0 {
            break;
        }
        show(at, &buffer[..count])?;
        at += count as u64;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk as _, MemoryDisk};

    /// Whatever comes, and whenever syncs begin and end: the sum is of what came
    /// since the last that ended, and is found again in a file.
    #[test]
    fn it_is_of_what_came_since_the_last_sync() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let disk = MemoryDisk::default();
            disk.create_dir(Path::new("/uploads")).unwrap();
            let file = disk.create(Path::new("/uploads/part")).unwrap();
            let (mut bytes, mut tail) = (Vec::new(), Tail::at(0));
            let (mut synced, mut under_way) = (0, Vec::new());
            for _ in 0..20 {
                match random.u8(..4) {
                    0 => {
                        under_way.push(bytes.len() as u64);
                        tail.syncing(bytes.len() as u64);
                    }
                    1 if !under_way.is_empty() => {
                        synced = under_way.remove(0);
                        tail.synced(synced);
                    }
                    _ => {
                        let chunk: Vec<u8> = (0..random.usize(1..50)).map(|_| random.u8(..)).collect();
                        file.write_at(bytes.len() as u64, &chunk).unwrap();
                        tail.update(&chunk);
                        bytes.extend(chunk);
                    }
                }
                let check = Check { from: synced, crc: crc32fast::hash(&bytes[synced as usize..]) };
                assert_eq!(tail.check(), check, "seed {seed}");
                let end = bytes.len() as u64;
                // the sync of a later mark may have come to the disk
                for durable in under_way.iter().copied().chain([synced]) {
                    let found = Tail::read(&*file, check, durable, end).unwrap().unwrap();
                    let crc = crc32fast::hash(&bytes[durable as usize..]);
                    assert_eq!(found.check(), Check { from: durable, crc }, "seed {seed}");
                    assert_eq!(found.last_sync(), durable);
                }
                let other = Check { crc: !check.crc, ..check };
                assert!(Tail::read(&*file, other, synced, end).unwrap().is_none());
            }
        }
    }
}
