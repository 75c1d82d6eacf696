//! Cargo leaves sealed segments: what is read stays equal, wherever a crash
//! comes and whoever reads meanwhile.

use super::*;
use crate::{disk::memory::Synced, journal::erase::Removed};

/// Segments of batches with cargo; returns what was appended.
fn filled(disk: &MemoryDisk) -> (SegmentJournal, Vec<Batch>) {
    let mut journal = create(disk);
    let mut batches = Vec::new();
    for _ in 0..12 {
        let next = batch(journal.size(), &[900, 0, 2_000]);
        batches.push(next.clone());
        journal.append(next).unwrap();
    }
    (journal, batches)
}

/// What may go: the first piece of cargo of every second record that has any.
fn choose(entry: &Entry) -> Vec<usize> {
    if entry.sequence.is_multiple_of(6) { vec![0] } else { Vec::new() }
}

fn without(batches: &[Batch], from: u64, to: u64) -> Vec<Batch> {
    let mut left = batches.to_vec();
    for entry in left.iter_mut().flat_map(|batch| &mut batch.entries) {
        for place in choose(entry) {
            if (from..to).contains(&entry.sequence) {
                entry.cargo[place] = Bytes::new();
            }
        }
    }
    left
}

#[test]
fn what_was_erased_is_gone_and_all_else_is_as_it_was() {
    let disk = MemoryDisk::default();
    let (mut journal, batches) = filled(&disk);
    let (eraser, reader) = (journal.eraser(), journal.reader());
    let places = eraser.segments();
    assert!(places.len() > 2);
    let last = places.last().unwrap();
    assert!(last.is_last && eraser.erase(last.first_sequence, &mut choose).is_err());
    let first = places[0];
    // one from disk that is kept, and one that a reader holds
    let held = reader.batch_of(0).unwrap().unwrap();
    let found = eraser.look(first.first_sequence, &mut choose).unwrap();
    let removed = eraser.erase(first.first_sequence, &mut choose).unwrap();
    assert_eq!(found, removed);
    assert_eq!(removed, Removed { pieces: removed.pieces, bytes: removed.pieces * 899 });
    assert_eq!(*held, batches[0], "who held it reads on");
    let left = without(&batches, 0, first.end_sequence);
    assert_eq!(all(&*reader, 0), left);
    for (sequence, batch) in
        left.iter().flat_map(|batch| batch.entries.iter().map(move |e| (e.sequence, batch)))
    {
        assert_eq!(*reader.batch_of(sequence).unwrap().unwrap(), *batch);
    }
    assert_eq!(eraser.look(first.first_sequence, &mut choose).unwrap(), Removed::default(), "once");
    assert!(eraser.segments()[0].bytes < first.bytes);
    // the last one, once it is ended
    journal.roll().unwrap();
    journal.roll().unwrap();
    assert_eq!(eraser.segments().len(), places.len() + 1, "an empty segment is not ended again");
    eraser.erase(last.first_sequence, &mut choose).unwrap();
    let next = batch(journal.size(), &[5]);
    journal.append(next.clone()).unwrap();
    for place in &places {
        eraser.erase(place.first_sequence, &mut choose).unwrap();
    }
    let mut left = without(&batches, 0, u64::MAX);
    left.push(next);
    assert_eq!(all(&*reader, 0), left);
    drop(journal);
    let journal = open(&disk).unwrap();
    assert_eq!(all(&*journal.reader(), 0), left);
    let mut shown = Vec::new();
    segments::verify(&disk, Path::new(DIR), &mut |batch| shown.push(batch)).unwrap();
    assert_eq!(shown, left);
}

/// Erases on a disk that is cut off after so many operations, and looks at
/// what the next opening finds: whether the erasure had ended, and whether it
/// is there. A sync may be left out, as if the code had forgotten it.
fn cut_off(seed: u64, operation: u64, left_out: Option<(Synced, &str)>) -> (bool, bool) {
    let disk = MemoryDisk::default();
    let (journal, batches) = filled(&disk);
    let eraser = journal.eraser();
    let place = eraser.segments()[1];
    if let Some((what, containing)) = left_out {
        disk.leave_out(what, containing);
    }
    disk.fail_after(operation);
    let done = eraser.erase(place.first_sequence, &mut choose).is_ok();
    drop((eraser, journal));
    let mut random = fastrand::Rng::with_seed(seed * 1_000 + operation);
    disk.crash(|below| random.usize(..below));
    let mut journal = open(&disk).unwrap_or_else(|error| panic!("at {operation}: {error}"));
    let held = all(&*journal.reader(), 0);
    let new = without(&batches, place.first_sequence, place.end_sequence);
    assert!(held == new || (!done && held == batches), "at operation {operation}, seed {seed}");
    assert!(disk.list(Path::new(DIR)).unwrap().iter().all(|name| name.ends_with(".segment")));
    // it goes on, and the rest is done again
    journal.append(batch(journal.size(), &[7])).unwrap();
    journal.eraser().erase(place.first_sequence, &mut choose).unwrap();
    assert_eq!(all(&*journal.reader(), 0)[..batches.len()], new[..]);
    (done, held == new)
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_segment_or_the_new_one() {
    let (mut crashes, mut news) = (0, 0);
    for seed in 0..3u64 {
        for operation in 0.. {
            let (done, is_new) = cut_off(seed, operation, None);
            news += usize::from(is_new);
            crashes += 1;
            if done {
                break;
            }
        }
    }
    assert!(crashes > 15 && news >= 3 && news < crashes, "{news} of {crashes}");
}

#[test]
fn each_sync_of_an_erasure_matters() {
    for left_out in [(Synced::Data, ".new"), (Synced::Names, DIR)] {
        // nothing fails: the power is cut behind the last operation
        let broken = |seed: &u64| std::panic::catch_unwind(|| cut_off(*seed, 1_000, Some(left_out))).is_err();
        assert!((0..20).any(|seed| broken(&seed)), "nothing breaks without the sync of {left_out:?}");
        assert!((0..20).all(|seed| cut_off(seed, 1_000, None).0));
    }
}

#[test]
fn a_fault_leaves_the_old_segment_and_the_next_try_succeeds() {
    let disk = MemoryDisk::default();
    let (journal, batches) = filled(&disk);
    let eraser = journal.eraser();
    let place = eraser.segments()[1];
    for operation in 0.. {
        disk.fail_after(operation);
        let failed = eraser.erase(place.first_sequence, &mut choose).is_err();
        disk.fail_after(u64::MAX / 2);
        let held = all(&*journal.reader(), 0);
        assert!(held == batches || held == without(&batches, place.first_sequence, place.end_sequence));
        if !failed {
            assert!(operation > 4);
            assert_ne!(held, batches);
            return;
        }
    }
}

#[test]
fn readers_beside_an_eraser_see_one_or_the_other() {
    let disk = MemoryDisk::default();
    let (journal, batches) = filled(&disk);
    let (eraser, reader) = (journal.eraser(), journal.reader());
    let left = without(&batches, 0, u64::MAX);
    std::thread::scope(|scope| {
        let erasing = scope.spawn(|| {
            for place in eraser.segments().iter().filter(|place| !place.is_last) {
                eraser.erase(place.first_sequence, &mut choose).unwrap();
            }
        });
        while !erasing.is_finished() {
            for (read, (old, new)) in all(&*reader, 0).iter().zip(batches.iter().zip(&left)) {
                assert!(read == old || read == new);
            }
        }
    });
}

#[test]
fn a_copy_verifies_alone_before_and_after() {
    let disk = MemoryDisk::default();
    let (journal, _) = filled(&disk);
    let path = segments_of(&disk).remove(1);
    let count = |disk: &MemoryDisk| {
        let mut pieces = 0;
        let span = crate::journal::archive::read_segment(disk, &path, &mut |batch| {
            pieces +=
                batch.entries.iter().flat_map(|entry| &entry.cargo).filter(|cargo| !cargo.is_empty()).count();
        });
        (span.unwrap(), pieces)
    };
    let before = count(&disk);
    let place = journal.eraser().segments()[1];
    let removed = journal.eraser().erase(place.first_sequence, &mut choose).unwrap();
    let after = count(&disk);
    assert_eq!((before.0, before.1 - removed.pieces as usize), after);
    assert_eq!((after.0.begins.0, after.0.ends.0), (place.first_sequence, place.end_sequence));
    disk.damage(&path, |bytes| bytes[5_000] ^= 1).unwrap();
    let error = crate::journal::archive::read_segment(&disk, &path, &mut |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_long_read_passes_a_segment_that_was_ended_and_erased_meanwhile() {
    let disk = MemoryDisk::default();
    let (mut journal, batches) = filled(&disk);
    let (eraser, reader) = (journal.eraser(), journal.reader());
    let last = eraser.segments().last().unwrap().first_sequence;
    let mut seen = Vec::new();
    let read = reader.replay(0, &mut |batch| {
        if seen.is_empty() {
            journal.roll().unwrap();
            assert!(eraser.erase(last, &mut choose).unwrap().pieces > 0);
            let first = journal.size();
            journal.append(super::batch(first, &[10])).unwrap();
        }
        seen.push(batch.commit.size);
        Ok(ControlFlow::Continue(()))
    });
    read.unwrap();
    assert_eq!(seen.len(), batches.len(), "up to where it ended when it began");
}
