//! Situations a journal meets: restarts, lost power, damage, missing files.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_proto::id::Digest;
use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Batch, Commit, Entry, Journal as _, JournalReader, OpenError, SegmentJournal, format, scan,
    segments::{self, Layout},
};
use crate::disk::{Disk, MemoryDisk, RealDisk};

mod erase;

const DIR: &str = "/journal";
const SMALL: Layout = Layout { segment_bytes: 16 * 1024, ahead_bytes: 2048, mark_seed: None };

/// A batch of records from `first` on, with as many bytes of cargo each.
pub(crate) fn batch(first: u64, cargo_bytes: &[usize]) -> Batch {
    let entry = |(sequence, bytes): (u64, &usize)| Entry {
        sequence,
        salt: [sequence as u8 | 1; 16],
        record: Bytes::from(format!("this is record {sequence}")),
        cargo: match bytes {
            0 => Vec::new(),
            bytes => vec![Bytes::from(vec![b'c'; bytes - 1]), Bytes::from_static(b"d")],
        },
    };
    let entries: Vec<_> = (first..).zip(cargo_bytes).map(entry).collect();
    let size = first + entries.len() as u64;
    Batch { entries, commit: Commit { size, root: [size as u8; 32], checkpoint: format!("log\n{size}\n") } }
}

fn create(disk: &MemoryDisk) -> SegmentJournal {
    SegmentJournal::create_with(Arc::new(disk.clone()), Path::new(DIR), "log", SMALL).unwrap()
}

fn open(disk: &MemoryDisk) -> Result<SegmentJournal, OpenError> {
    SegmentJournal::open_with(Arc::new(disk.clone()), Path::new(DIR), SMALL)
}

fn all(reader: &dyn JournalReader, from: u64) -> Vec<Batch> {
    let mut batches = Vec::new();
    reader
        .replay(from, &mut |batch| {
            batches.push(Batch::clone(&batch));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    batches
}

fn segments_of(disk: &MemoryDisk) -> Vec<PathBuf> {
    disk.list(Path::new(DIR)).unwrap().iter().map(|name| Path::new(DIR).join(name)).collect()
}

/// Three batches in one segment; where each begins, and where they end.
fn three(disk: &MemoryDisk) -> (Vec<Batch>, Vec<usize>) {
    let mut journal = create(disk);
    let batches = vec![batch(0, &[0]), batch(1, &[700, 0]), batch(3, &[40, 1500, 0])];
    let mut ends = vec![format::HEADER_BYTES];
    for batch in &batches {
        journal.append(batch.clone()).unwrap();
        ends.push(ends.last().unwrap() + format::encoded_bytes(batch));
    }
    (batches, ends)
}

fn damage_of(disk: &MemoryDisk) -> (String, u64, String) {
    match open(disk) {
        Err(OpenError::Damaged { path, offset, what }) => (path.display().to_string(), offset, what),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let disk = MemoryDisk::default();
    let (batches, _) = three(&disk);
    let mut journal = open(&disk).unwrap();
    assert_eq!(journal.size(), 6);
    assert_eq!(journal.last_commit(), Some(&batches[2].commit));
    let reader = journal.reader();
    assert_eq!(all(&*reader, 0), batches);
    assert_eq!(all(&*reader, 2), batches[1..], "from the batch that holds it");
    assert_eq!(all(&*reader, 6), []);
    for sequence in 0..6 {
        let batch = reader.batch_of(sequence).unwrap().unwrap();
        assert_eq!(batch.entry(sequence).unwrap().sequence, sequence);
    }
    assert!(reader.batch_of(6).unwrap().is_none());
    let appended = journal.append(batch(6, &[5])).unwrap();
    assert!(Arc::ptr_eq(&appended, &reader.batch_of(6).unwrap().unwrap()), "recent ones are shared");
    assert_eq!(open(&disk).unwrap().size(), 7);
}

#[test]
fn what_opening_writes_again_is_verified_as_it_is_read() {
    let disk = MemoryDisk::default();
    let (batches, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    let scanned = scan::scan(&disk, Path::new(DIR), &mut |_| {}).unwrap();
    let file = disk.open(&path).unwrap();
    let last = Some(&batches[2].commit);
    segments::settle(&*file, &scanned, last).unwrap();
    let operations = disk.operations();
    for at in [ends[2], ends[2] + 900, ends[3] - 1] {
        disk.damage(&path, |bytes| bytes[at] ^= 1).unwrap();
        let error = segments::settle(&*file, &scanned, last).unwrap_err();
        assert!(error.to_string().contains("not what was read before"), "{error}");
        disk.damage(&path, |bytes| bytes[at] ^= 1).unwrap();
    }
    assert_eq!(disk.operations(), operations, "nothing is written");
}

#[test]
fn real_files_do_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, dir) = (RealDisk::shared(), dir.path().join("data/journal"));
    let mut journal = SegmentJournal::create_with(disk.clone(), &dir, "log", SMALL).unwrap();
    let batches: Vec<_> = (0..40).map(|first| batch(first, &[1000])).collect();
    for batch in &batches {
        journal.append(batch.clone()).unwrap();
    }
    drop(journal);
    assert!(disk.list(&dir).unwrap().len() > 2);
    let journal = SegmentJournal::open_with(disk.clone(), &dir, SMALL).unwrap();
    assert_eq!(all(&*journal.reader(), 0), batches);
    let error = SegmentJournal::create(disk, &dir, "log").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
}

#[test]
fn a_batch_that_does_not_belong_is_not_written() {
    let disk = MemoryDisk::default();
    let mut journal = create(&disk);
    for wrong in [batch(1, &[0]), batch(0, &[]), batch(0, &[20_000])] {
        assert_eq!(journal.append(wrong).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
    let mut gap = batch(0, &[0, 0]);
    gap.entries[1].sequence = 2;
    journal.append(gap).unwrap_err();
    let mut long = batch(0, &[0]);
    long.entries[0].record = vec![0; crate::limits::RECORD_BYTES_MAX + 1].into();
    journal.append(long).unwrap_err();
    journal.append(batch(0, &[0])).unwrap();
}

#[test]
fn after_a_failure_nothing_more_is_appended() {
    let disk = MemoryDisk::default();
    let mut journal = create(&disk);
    journal.append(batch(0, &[0])).unwrap();
    let reader = journal.reader();
    // the write succeeds, the sync does not
    disk.fail_after(1);
    journal.append(batch(1, &[0])).unwrap_err();
    disk.crash(|_| 0);
    let error = journal.append(batch(1, &[0])).unwrap_err();
    assert!(error.to_string().contains("earlier failure"));
    assert_eq!(reader.size(), 1, "readers never see what is not durable");
    assert!(reader.batch_of(1).unwrap().is_none());
}

#[test]
fn a_last_batch_cut_at_any_byte_reopens_to_the_one_before() {
    let disk = MemoryDisk::default();
    let (batches, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    for cut in ends[2]..ends[3] {
        for zeros in [false, true] {
            let disk = disk.copy();
            disk.damage(&path, |bytes| {
                let len = bytes.len();
                bytes.truncate(cut);
                if zeros {
                    bytes.resize(len, 0);
                }
            })
            .unwrap();
            let before = disk.read(&path).unwrap();
            let report = segments::verify(&disk, Path::new(DIR), &mut |_| {}).unwrap();
            assert_eq!(report.records, 3);
            assert_eq!(disk.read(&path).unwrap(), before, "to verify changes nothing");
            let mut journal = open(&disk).unwrap();
            assert_eq!((journal.size(), journal.last_commit()), (3, Some(&batches[1].commit)), "at {cut}");
            assert_eq!(journal.incomplete().is_some(), cut > ends[2], "at {cut}");
            assert_eq!(report.incomplete.as_ref(), journal.incomplete());
            assert!(disk.read(&path).unwrap()[ends[2]..].iter().all(|byte| *byte == 0));
            // and goes on from there
            journal.append(batch(3, &[3])).unwrap();
            assert_eq!(all(&*open(&disk).unwrap().reader(), 3), [batch(3, &[3])]);
        }
    }
}

#[test]
fn a_last_batch_whose_beginning_did_not_arrive_reopens_to_the_one_before() {
    let disk = MemoryDisk::default();
    let (batches, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    let sectors = (ends[2] / 512 + 1..=ends[3] / 512).map(|sector| sector * 512);
    assert!(sectors.clone().count() > 2);
    for torn in sectors {
        let disk = disk.copy();
        disk.damage(&path, |bytes| bytes[ends[2]..torn].fill(0)).unwrap();
        let journal = open(&disk).unwrap();
        assert_eq!((journal.size(), journal.last_commit()), (3, Some(&batches[1].commit)), "at {torn}");
    }
}

const NEVER: &str = "stands what was never written there";

#[test]
fn what_is_cut_is_kept_beside_the_journal() {
    let disk = MemoryDisk::default();
    let (_, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    let kept = |batch: u64| crate::disk::with_suffix(&path, &format!(".cut-{batch}"));
    let written = disk.read(&path).unwrap()[ends[2]..ends[3] - 300].to_vec();
    disk.damage(&path, |bytes| bytes.truncate(ends[3] - 300)).unwrap();
    let whole = disk.copy();
    let mut journal = open(&disk).unwrap();
    assert_eq!(disk.read(&kept(2)).unwrap(), written);
    // it is nothing of the journal's
    journal.append(batch(3, &[40])).unwrap();
    assert_eq!(open(&disk).unwrap().size(), 4);
    assert_eq!(segments::verify(&disk, Path::new(DIR), &mut |_| {}).unwrap().segments, 1);
    // the newest only
    disk.damage(&path, |bytes| bytes[ends[2] + 100..].fill(0)).unwrap();
    open(&disk).unwrap().append(batch(3, &[0])).unwrap();
    let again = open(&disk).unwrap().append(batch(4, &[900])).unwrap();
    let end = disk.read(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    disk.damage(&path, |bytes| bytes.truncate(end - 500)).unwrap();
    assert_eq!(open(&disk).unwrap().size(), again.entries[0].sequence);
    assert!(disk.exists(&kept(3)).unwrap() && !disk.exists(&kept(2)).unwrap());
    // wherever a crash comes, what was there is in one place or the other
    for after in 0..12 {
        let disk = whole.copy();
        let mut random = fastrand::Rng::with_seed(after);
        disk.fail_after(after);
        let _cut_short = open(&disk);
        disk.crash(|below| random.usize(..below));
        let uncut = disk.read(&path).unwrap().len() > ends[2];
        assert!(uncut || disk.read(&kept(2)).unwrap() == written, "after {after}");
        assert_eq!(open(&disk).unwrap().size(), 3);
    }
}

#[test]
fn a_lost_byte_is_no_lost_sector() {
    let disk = MemoryDisk::default();
    let (_, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    // without the last one it may have been torn there
    for at in ends[2]..ends[3] - 1 {
        let disk = disk.copy();
        if disk.read(&path).unwrap()[at] != 0 {
            disk.damage(&path, |bytes| bytes[at] = 0).unwrap();
            let (_, _, what) = damage_of(&disk);
            assert!(what.contains("in a batch that was complete") || what.contains(NEVER), "at {at}: {what}");
        }
    }
}

#[test]
fn what_was_never_written_is_no_torn_batch() {
    let disk = MemoryDisk::default();
    let (batches, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    let commit = ends[3] - (24 + 52 + batches[2].commit.checkpoint.len() + 8);
    let check = |from: usize, to: usize, word: &str| {
        let disk = disk.copy();
        disk.damage(&path, |bytes| bytes[from..to].fill(0xAA)).unwrap();
        let (_, offset, what) = damage_of(&disk);
        assert!(offset >= ends[2] as u64 && what.contains(word), "{from}..{to}: {offset} {what}");
    };
    check(commit, ends[3], NEVER);
    check(commit / 512 * 512, ends[3].next_multiple_of(512), NEVER);
    check(ends[2], ends[2] + 24, NEVER);
    check(ends[2], ends[3], NEVER);
    // the headers stand, what they declare does not
    check(commit + 24, ends[3], "in a batch that was complete");
    check(ends[2] + 400, ends[2] + 500, "in a batch that was complete");
    check(ends[2] + 400, commit, NEVER);
}

#[test]
fn a_last_batch_that_lost_sectors_reopens_to_the_one_before() {
    let disk = MemoryDisk::default();
    let (_, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    let sectors: Vec<_> = (ends[2] / 512..ends[3].div_ceil(512)).collect();
    for lost in 1..1 << sectors.len() {
        let disk = disk.copy();
        disk.damage(&path, |bytes| {
            for (bit, sector) in sectors.iter().enumerate() {
                if lost & (1 << bit) != 0 {
                    bytes[(sector * 512).max(ends[2])..sector * 512 + 512].fill(0);
                }
            }
        })
        .unwrap();
        assert_eq!(open(&disk).unwrap().size(), 3, "lost {lost:b}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_named_by_file_and_offset() {
    let disk = MemoryDisk::default();
    let (_, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    for at in (0..ends[3]).filter(|at| at % 3 == 0 || *at > ends[3] - 100) {
        let disk = disk.copy();
        disk.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
        let (file, offset, what) = damage_of(&disk);
        assert_eq!(file, path.display().to_string());
        assert!(offset <= at as u64);
        assert!(at < format::HEADER_BYTES || at as u64 - offset < 1600, "byte {at}: {offset} {what}");
    }
}

#[test]
fn damage_in_the_last_batch_is_no_unfinished_batch() {
    let disk = MemoryDisk::default();
    let (_, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    disk.damage(&path, |bytes| bytes[ends[2] + 30] ^= 1).unwrap();
    let (_, offset, what) = damage_of(&disk);
    assert_eq!(offset, ends[2] as u64);
    assert_eq!(what, "a frame's checksum does not hold in a batch that was complete");
}

#[test]
fn nothing_is_cut_in_front_of_a_later_batch() {
    let disk = MemoryDisk::default();
    let (_, ends) = three(&disk);
    let path = segments_of(&disk).remove(0);
    disk.damage(&path, |bytes| bytes[ends[1]..ends[2]].fill(0)).unwrap();
    let (_, offset, what) = damage_of(&disk);
    assert_eq!(offset, ends[1] as u64);
    assert!(what.ends_with(&format!("and batch 2 follows at byte {}", ends[2])), "{what}");
}

#[test]
fn a_document_cannot_imitate_a_later_batch() {
    let disk = MemoryDisk::default();
    let mut journal = create(&disk);
    let mut forged = Vec::new();
    format::encode_batch(&mut forged, 9, &[1; 8], &batch(9, &[0]));
    let mut sent = batch(0, &[2000]);
    sent.entries[0].cargo.insert(0, forged.into());
    journal.append(sent).unwrap();
    let path = segments_of(&disk).remove(0);
    // the end of the batch is lost, the document is there
    disk.damage(&path, |bytes| bytes[format::HEADER_BYTES + 1000..].fill(0)).unwrap();
    assert_eq!(open(&disk).unwrap().size(), 0);
}

/// Many batches over several segments.
fn several(disk: &MemoryDisk) -> Vec<PathBuf> {
    let mut journal = create(disk);
    for first in 0..30 {
        journal.append(batch(first, &[1500])).unwrap();
    }
    let segments = segments_of(disk);
    assert!(segments.len() >= 4);
    segments
}

#[test]
fn missing_and_strange_segments_are_named() {
    let disk = MemoryDisk::default();
    assert!(matches!(open(&disk), Err(OpenError::Missing { .. })), "never created");
    let segments = several(&disk);
    assert_eq!(open(&disk).unwrap().size(), 30);

    for missing in 0..segments.len() - 1 {
        let disk = disk.copy();
        disk.remove(&segments[missing]).unwrap();
        let (file, _, what) = damage_of(&disk);
        assert_eq!(file, segments[missing + 1].display().to_string());
        assert!(what.contains("a segment is missing"), "{what}");
    }
    let copy = disk.copy();
    copy.damage(&segments[1], Vec::clear).unwrap();
    let (file, offset, what) = damage_of(&copy);
    assert_eq!((file, offset), (segments[1].display().to_string(), 0));
    assert_eq!(what, "shorter than a header");

    let copy = disk.copy();
    copy.damage(&segments[1], |bytes| bytes.truncate(bytes.len() / 2)).unwrap();
    assert!(damage_of(&copy).2.ends_with("in a segment that has a successor"));

    let copy = disk.copy();
    copy.rename(&segments[1], &Path::new(DIR).join(format::segment_name(1))).unwrap();
    assert!(damage_of(&copy).2.contains("unlike its name"));

    let (copy, other) = (disk.copy(), MemoryDisk::default());
    SegmentJournal::create_with(Arc::new(other.clone()), Path::new(DIR), "other", SMALL).unwrap();
    let mut header = format::Header::parse(&disk.read(&segments[1]).unwrap()).unwrap();
    header.origin = [7; 32];
    copy.damage(&segments[1], |bytes| bytes[..format::HEADER_BYTES].copy_from_slice(&header.encode()))
        .unwrap();
    assert_eq!(damage_of(&copy).2, "belongs to another log");
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let disk = MemoryDisk::default();
    three(&disk);
    let path = segments_of(&disk).remove(0);
    disk.damage(&path, |bytes| {
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..72]);
        bytes[72..76].copy_from_slice(&crc.to_le_bytes());
    })
    .unwrap();
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, OpenError::Newer { version: 2, .. }));
    assert!(error.to_string().contains("format version 2"), "{error}");
}

#[test]
fn an_unready_segment_is_removed() {
    let disk = MemoryDisk::default();
    three(&disk);
    let unready = Path::new(DIR).join(format!("{}.new", format::segment_name(6)));
    disk.create(&unready).unwrap();
    assert_eq!(open(&disk).unwrap().size(), 6);
    assert!(!disk.exists(&unready).unwrap());
}

#[test]
fn old_batches_are_read_from_their_segments() {
    let disk = MemoryDisk::default();
    several(&disk);
    let reader = segments::open_read_only(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    for sequence in (0..30).rev() {
        let read = reader.batch_of(sequence).unwrap().unwrap();
        assert_eq!(*read, batch(sequence, &[1500]));
        assert!(Arc::ptr_eq(&read, &reader.batch_of(sequence).unwrap().unwrap()), "kept");
    }
    let mut seen = 0;
    reader
        .replay(3, &mut |_| {
            seen += 1;
            Ok(if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
    assert_eq!(seen, 2);
    let report = segments::verify(&disk, Path::new(DIR), &mut |_| {}).unwrap();
    assert_eq!((report.records, report.batches), (30, 30));
}

#[test]
fn readers_beside_the_writer_see_whole_batches() {
    let disk = MemoryDisk::default();
    let mut journal = create(&disk);
    let reader = journal.reader();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            loop {
                let size = reader.size();
                for sequence in size.saturating_sub(3)..size {
                    assert_eq!(*reader.batch_of(sequence).unwrap().unwrap(), batch(sequence, &[100]));
                }
                let seen = all(&*reader, size.saturating_sub(5));
                assert!(seen.windows(2).all(|pair| pair[1].entries[0].sequence == pair[0].commit.size));
                if size == 200 {
                    break;
                }
            }
        });
        for first in 0..200 {
            journal.append(batch(first, &[100])).unwrap();
        }
        reading.join().unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is appended, and wherever the power goes: all that was
    /// answered is there, at most one more, and the journal goes on.
    #[test]
    fn what_was_answered_survives_lost_power(
        batches in prop::collection::vec(prop::collection::vec(0..2500usize, 1..4), 1..25),
        fail_after in 0..150u64,
        seed: u64,
    ) {
        let disk = MemoryDisk::default();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut journal = create(&disk);
        disk.fail_after(fail_after);
        let mut answered = Vec::new();
        for cargo in &batches {
            let first = answered.last().map_or(0, |last: &Batch| last.commit.size);
            let batch = batch(first, cargo);
            if journal.append(batch.clone()).is_err() {
                break;
            }
            answered.push(batch);
        }
        disk.crash(|below| random.usize(..below));
        let mut journal = open(&disk).unwrap();
        let found = all(&*journal.reader(), 0);
        prop_assert_eq!(&found[..answered.len()], &answered[..]);
        prop_assert!(found.len() <= answered.len() + 1);
        let more = batch(journal.size(), &[10]);
        journal.append(more.clone()).unwrap();
        disk.crash(|below| random.usize(..below));
        let again = all(&*open(&disk).unwrap().reader(), 0);
        prop_assert_eq!(again.len(), found.len() + 1);
        prop_assert_eq!(again.last(), Some(&more));
    }
}

/// A segment's bytes without its cargo, as erasing leaves them.
pub(crate) fn without_cargo(bytes: &[u8], first_batch: u64) -> Vec<u8> {
    let header = format::Header::parse(bytes).unwrap();
    let mut out = bytes[..format::HEADER_BYTES].to_vec();
    let (mut at, mut number, mut sequence) = (format::HEADER_BYTES, first_batch, header.first_sequence);
    while at < bytes.len() && bytes[at] != 0 {
        let layout = format::batch(&bytes[at..], &header.mark, number, sequence).unwrap();
        let end = at + layout.len;
        sequence = layout.commit.size;
        while at < end {
            let (frame, len) = format::frame(&bytes[at..], &header.mark).unwrap();
            match frame.kind {
                format::Kind::Cargo => out.extend_from_slice(&erased(number, &header.mark)),
                _ => out.extend_from_slice(&bytes[at..at + len]),
            }
            at += len;
        }
        number += 1;
    }
    out
}

fn erased(number: u64, mark: &format::Mark) -> Vec<u8> {
    let mut frame = format::FRAME_MAGIC.to_vec();
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&[format::Kind::Erased as u8, 0, 0, 0]);
    frame.extend_from_slice(&number.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(mark);
    crc.update(&frame);
    frame.extend_from_slice(&crc.finalize().to_le_bytes());
    frame
}

/// A batch whose one record opens a log.
fn opening(first: u64, origin: &str, previous: (&str, u64, [u8; 32])) -> Batch {
    use axis_proto::record::v1::{LogOpened, Record, record::Event};
    use prost::Message as _;
    let opened = LogOpened {
        origin: origin.into(),
        previous_origin: previous.0.into(),
        previous_size: previous.1,
        previous_root: Bytes::copy_from_slice(&previous.2),
        ..LogOpened::default()
    };
    let record = Record { sequence: first, event: Some(Event::LogOpened(opened)), ..Record::default() };
    let mut batch = batch(first, &[0]);
    batch.entries[0].record = record.encode_to_vec().into();
    batch
}

#[test]
fn another_log_begins_only_where_its_first_record_says_so() {
    let disk = MemoryDisk::default();
    let (batches, _) = three(&disk);
    let root = batches[2].commit.root;
    let check = |first: Batch| {
        let disk = disk.copy();
        let mut journal = open(&disk).unwrap();
        journal.begin_log("other").unwrap();
        let segments = segments_of(&disk);
        assert_eq!((damage_of(&disk).2.as_str(), segments.len()), ("belongs to another log", 2), "unsaid");
        journal.append(first).unwrap();
        journal.append(batch(7, &[10])).unwrap();
        match open(&disk) {
            Ok(journal) => {
                let origin = *Digest::of(b"other").as_bytes();
                assert_eq!((journal.size(), journal.origin_sha256()), (8, origin));
                assert_eq!(all(&*journal.reader(), 5).len(), 3);
                true
            }
            Err(_) => {
                assert_eq!(damage_of(&disk).2, "belongs to another log");
                false
            }
        }
    };
    assert!(check(opening(6, "other", ("log", 6, root))));
    assert!(!check(batch(6, &[0])), "no such record");
    assert!(!check(opening(6, "third", ("log", 6, root))), "another name");
    assert!(!check(opening(6, "other", ("logs", 6, root))), "another past");
    assert!(!check(opening(6, "other", ("log", 5, root))), "another size");
    assert!(!check(opening(6, "other", ("log", 6, [1; 32]))), "another root");
    let cut = disk.copy();
    let mut journal = open(&cut).unwrap();
    journal.begin_log("other").unwrap();
    journal.append(opening(6, "other", ("log", 6, root))).unwrap();
    let path = segments_of(&cut).remove(1);
    cut.damage(&path, |bytes| bytes.truncate(format::HEADER_BYTES + 60)).unwrap();
    assert!(damage_of(&cut).2.contains("in the first record of a log"));
}
