//! A journal whose files were changed: what is wrong is found, and opening
//! loses nothing but a last batch that was never finished.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use axis_hub::{
    disk::{Disk, MemoryDisk},
    journal::{
        Batch, Journal as _, JournalReader,
        segments::{Layout, SegmentJournal, open_read_only, verify},
    },
};

use super::world::{ORIGIN, WORLD};

const DIR: &str = "/journal";
const LAYOUT: Layout = Layout { segment_bytes: 24 * 1024, ahead_bytes: 2 * 1024, mark_seed: Some(7) };
const HEADER_BYTES: usize = 4096;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: &[u8] = b"\xC6AXF";

/// The world's journal.
static DISK: LazyLock<(MemoryDisk, Vec<PathBuf>)> = LazyLock::new(|| {
    let disk = MemoryDisk::default();
    let mut journal =
        SegmentJournal::create_with(Arc::new(disk.clone()), Path::new(DIR), ORIGIN, LAYOUT).expect("made");
    for batch in &WORLD.batches {
        journal.append(batch.clone()).expect("appended");
    }
    let names = disk.list(Path::new(DIR)).expect("listed");
    (disk, names.iter().map(|name| Path::new(DIR).join(name)).collect())
});

/// The first byte says whether checksums are made to hold again, which no
/// accident does; then changes: what, which file, where, with what.
pub fn run(input: &[u8]) {
    let Some((how, mut rest)) = input.split_first() else { return };
    let (disk, files) = (DISK.0.copy(), &DISK.1);
    let mut cut = false;
    let mut changes = 0;
    while let Some((change, after)) = rest.split_first_chunk::<5>() {
        rest = after;
        changes += 1;
        if changes > 64 {
            break;
        }
        let path = &files[usize::from(change[0] >> 3) % files.len()];
        let place = usize::from(u16::from_le_bytes([change[1], change[2]]));
        let _gone = disk.damage(path, |bytes| {
            if bytes.is_empty() {
                return;
            }
            let at = place % bytes.len();
            match change[0] & 7 {
                0 => {
                    cut = true;
                    bytes.truncate(at);
                }
                1 => {
                    cut = true;
                    let end = bytes.len().min(at + usize::from(change[3]) * 64);
                    bytes[at..end].fill(0);
                }
                2 => {
                    let length = usize::from(change[3]).min(rest.len());
                    let end = bytes.len().min(at + length);
                    bytes[at..end].copy_from_slice(&rest[..end - at]);
                    rest = &rest[length..];
                }
                3 => {
                    cut = true;
                    let from = (place + usize::from(change[4]) * 256) % bytes.len();
                    let length = usize::from(change[3]).min(bytes.len() - at.max(from));
                    bytes.copy_within(from..from + length, at);
                }
                _ => bytes[at] ^= change[3],
            }
        });
        if change[0] == 0xff {
            cut = true;
            let _gone = disk.remove(path);
        }
    }
    if how & 1 == 1 {
        files.iter().for_each(|path| drop(disk.damage(path, |bytes| mend(bytes))));
    }
    look(&disk, how & 1 == 1, cut, changes);
}

fn look(disk: &MemoryDisk, mended: bool, cut: bool, changes: usize) {
    let dir = Path::new(DIR);
    let mut shown = Vec::new();
    let report = verify(disk, dir, &mut |batch| shown.push(batch));
    let shared: Arc<dyn Disk> = Arc::new(disk.copy());
    let opened = SegmentJournal::open_with(Arc::clone(&shared), dir, LAYOUT);
    let report = match (report, &opened) {
        (Ok(report), Ok(_)) => report,
        (Err(error), Err(_)) => {
            assert!(!error.to_string().is_empty());
            return;
        }
        (verified, opened) => panic!("verify and open differ: {verified:?} {opened:?}"),
    };
    let mut journal = opened.expect("just looked");
    assert_eq!(journal.size(), report.records);
    assert_eq!(read(&*journal.reader()), shown, "what is read is what was verified");
    if !mended {
        // a checksum holds for what was written alone
        assert!(shown.len() <= WORLD.batches.len());
        assert_eq!(shown, WORLD.batches[..shown.len()], "another history");
        let lost = WORLD.batches.len() - shown.len();
        assert!(cut || lost <= 1 || changes > 8, "{lost} batches lost without a cut");
    }
    if shown.len() < WORLD.batches.len() && !mended {
        // it goes on where it ends, and stays whole
        journal.append(WORLD.batches[shown.len()].clone()).expect("appended");
        drop(journal);
        let again = open_read_only(shared, dir).expect("opens again");
        assert_eq!(read(&*again), WORLD.batches[..=shown.len()]);
    }
}

fn read(reader: &dyn JournalReader) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut visit = |batch: Arc<Batch>| {
        batches.push(Batch::clone(&batch));
        Ok(std::ops::ControlFlow::Continue(()))
    };
    reader.replay(0, &mut visit).expect("what was verified can be read");
    batches
}

/// Makes the checksums of the header and of all frames hold again, as far as
/// frames can be found.
fn mend(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let sum = crc(&[&bytes[..72]]);
    bytes[72..76].copy_from_slice(&sum.to_le_bytes());
    let mark: [u8; 8] = bytes[64..72].try_into().expect("8 bytes");
    let mut at = HEADER_BYTES;
    while bytes.get(at..).is_some_and(|rest| rest.len() >= FRAME_HEADER_BYTES && rest.starts_with(MAGIC)) {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("4 bytes")) as usize;
        let end = at + FRAME_HEADER_BYTES + length;
        if end > bytes.len() {
            break;
        }
        let sum = crc(&[&mark, &bytes[at..at + 20], &bytes[at + FRAME_HEADER_BYTES..end]]);
        bytes[at + 20..at + 24].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}

/// CRC-32 (IEEE), a bit at a time.
fn crc(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg()))
    })
}
