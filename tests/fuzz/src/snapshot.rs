//! A snapshot that was changed: it is found, or it gives the pairs that were
//! written.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use axis_hub::{
    disk::{Disk, MemoryDisk},
    state::{Key, Value, fuzzing},
};
use axis_proto::id::Digest;

use super::world::{ORIGIN, WORLD};

const DIR: &str = "/snapshots";
const SHA256_BYTES: usize = 32;

type Pairs = Vec<(Key, Value)>;

/// The world's state as a snapshot, and what it holds.
static WRITTEN: LazyLock<(Vec<u8>, Pairs)> = LazyLock::new(|| {
    let disk = MemoryDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let path = fuzzing::take_snapshot(shared, Path::new(DIR), ORIGIN, &WORLD.state).expect("written");
    let (_, pairs) = open(&disk).expect("opens").expect("is there");
    (disk.read(&path).expect("read"), pairs)
});

/// The first byte says whether the file's SHA-256 is made to hold again; then
/// changes: where, what, or a cut.
pub fn run(input: &[u8]) {
    let Some((how, mut rest)) = input.split_first() else { return };
    let mut bytes = WRITTEN.0.clone();
    if how & 2 == 2 {
        bytes = rest.to_vec();
        rest = &[];
    }
    while let Some((change, after)) = rest.split_first_chunk::<4>() {
        rest = after;
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
        match change[2] {
            0 => bytes.truncate(at),
            1 => {
                let length = usize::from(change[3]).min(rest.len());
                bytes.splice(at..at, rest[..length].iter().copied());
                rest = &rest[length..];
            }
            _ => bytes[at] ^= change[3],
        }
    }
    if how & 1 == 1 && bytes.len() > SHA256_BYTES {
        let end = bytes.len() - SHA256_BYTES;
        let sum = Digest::of(&bytes[..end]);
        bytes[end..].copy_from_slice(sum.as_bytes());
    }
    let disk = MemoryDisk::default();
    disk.create_dir(Path::new(DIR)).expect("made");
    let path = Path::new(DIR).join(format!("{:020}.snapshot", WORLD.size()));
    disk.create(&path).and_then(|file| file.write_at(0, &bytes)).expect("written");
    match open(&disk) {
        Ok(Some((applied, pairs))) => {
            assert_eq!(applied, WORLD.size());
            assert_eq!(pairs, WRITTEN.1, "other pairs than were written");
        }
        Ok(None) => assert!(!disk.exists(&path).expect("looked"), "of no use, and still there"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}"),
    }
}

type Opened = std::io::Result<Option<(u64, Vec<(Key, Value)>)>>;

fn open(disk: &MemoryDisk) -> Opened {
    fuzzing::newest_snapshot(Arc::new(disk.clone()), Path::new(DIR), ORIGIN)
}
