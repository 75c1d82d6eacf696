//! Takes cargo out of segments that are not written to any more: a segment is
//! written anew without it and takes the place of the old one in one step.
//! Records, salts, commits and numbers stay as they are, so every leaf and
//! proof does. Never decides what may go, and never touches the last segment.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use axis_proto::id::Hasher;
use bytes::Bytes;

use super::{
    Batch, Entry,
    format::{self, HEADER_BYTES},
    reader::{Shared, Window},
    scan::{Index, Point, Segment},
    segments::{self, UNREADY},
};
use crate::disk::{DiskFile, parent_of, with_suffix};

/// Bytes that are written at once.
const WRITE_BYTES: usize = 1024 * 1024;

/// The places of an entry's cargo that may go.
pub type Choose<'a> = dyn FnMut(&Entry) -> Vec<usize> + 'a;

/// Erases cargo of a journal that may be open for writing. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Eraser {
    shared: Arc<Shared>,
    /// One segment at a time.
    working: Arc<Mutex<()>>,
}

/// Where a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its first sequence, which names it.
    pub first_sequence: u64,
    /// Records before the next one.
    pub end_sequence: u64,
    /// Bytes of its header and frames.
    pub bytes: u64,
    /// Whether it is written to: nothing can be erased from it.
    pub is_last: bool,
}

/// Cargo that may go, or went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pieces of it.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Eraser {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, working: Arc::default() }
    }

    /// Every segment, in order.
    pub fn segments(&self) -> Vec<Place> {
        self.shared.segments()
    }

    /// Removes what was kept of batches that were cut: a purge leaves nothing
    /// of them either.
    pub fn remove_cut(&self) -> io::Result<()> {
        let Some(dir) = self.shared.directory() else { return Ok(()) };
        segments::remove_cut(self.shared.disk(), &dir, None)?;
        self.shared.disk().sync_dir(&dir)
    }

    /// How much of a segment may go.
    pub fn look(&self, first_sequence: u64, choose: &mut Choose<'_>) -> io::Result<Removed> {
        let (index, segment, file) = self.shared.open_segment(first_sequence)?;
        let mut removed = Removed::default();
        walk(index, &segment, file, &mut |bytes, layout| {
            for range in chosen(bytes, layout, choose) {
                removed.pieces += 1;
                removed.bytes += range.len() as u64;
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Takes out of a segment what may go, durably. If it fails, the segment
    /// is as it was, or as it should be: calling again finds out.
    pub fn erase(&self, first_sequence: u64, choose: &mut Choose<'_>) -> io::Result<Removed> {
        let _one = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        // asked first: where the last one ends is only sure once it is ended
        if self.segments().iter().any(|place| place.first_sequence == first_sequence && place.is_last) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the last segment is written to"));
        }
        let (index, segment, file) = self.shared.open_segment(first_sequence)?;
        let disk = self.shared.disk();
        let unready = with_suffix(&segment.path, UNREADY);
        if disk.exists(&unready)? {
            disk.remove(&unready)?;
        }
        let mut header = vec![0; HEADER_BYTES];
        file.read_exact_at(0, &mut header)?;
        let new = disk.create(&unready)?;
        new.write_at(0, &header)?;

        let (mut buffer, mut at) = (Vec::new(), HEADER_BYTES as u64);
        let (mut removed, mut hasher, mut points) = (Removed::default(), Hasher::new(), Index::default());
        walk(index, &segment, file, &mut |bytes, layout| {
            let ranges = chosen(bytes, layout, choose);
            points.add(Point { offset: at + buffer.len() as u64, ..layout.point });
            format::encode_erased(&mut buffer, layout.point.batch, &segment.header.mark, bytes, &ranges);
            removed.pieces += ranges.len() as u64;
            removed.bytes += ranges.iter().map(|range| range.len() as u64).sum::<u64>();
            hash(&mut hasher, &layout.batch(bytes));
            if buffer.len() >= WRITE_BYTES {
                new.write_at(at, &buffer)?;
                at += buffer.len() as u64;
                buffer.clear();
            }
            Ok(())
        })?;
        new.write_at(at, &buffer)?;
        let end = at + buffer.len() as u64;
        new.sync_data()?;
        // what was written is read again: the same records under the same
        // commits, or the old segment stays
        let mut again = Hasher::new();
        walk(index, &Segment { end, ..segment.clone() }, new, &mut |bytes, layout| {
            hash(&mut again, &layout.batch(bytes));
            Ok(())
        })?;
        if hasher.digest() != again.digest() {
            let words = format!("journal {}: what was written anew is another", segment.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        let recent = self.shared.recent_of(index);
        let recent: Vec<Arc<Batch>> =
            recent.iter().filter_map(|batch| without(batch, choose).map(Arc::new)).collect();
        // a crash before this line leaves an unready file, which opening
        // removes; behind it the name stands for the old or the new segment
        self.shared.replace(index, end, points, recent, &mut || disk.rename(&unready, &segment.path))?;
        disk.sync_dir(parent_of(&segment.path))?;
        Ok(removed)
    }
}

/// A batch as a walk comes by it.
struct Passing {
    point: Point,
    layout: format::Layout,
}

impl Passing {
    fn batch(&self, bytes: &Bytes) -> Batch {
        self.layout.to_batch(bytes)
    }
}

/// Shows each batch of a segment with its bytes.
fn walk(
    index: usize,
    segment: &Segment,
    file: Arc<dyn DiskFile>,
    visit: &mut dyn FnMut(&Bytes, &Passing) -> io::Result<()>,
) -> io::Result<()> {
    let header = &segment.header;
    let mut point = Point {
        sequence: header.first_sequence,
        batch: header.first_batch,
        segment: index,
        offset: HEADER_BYTES as u64,
    };
    let mut window = Window::new(file, segment.end);
    while point.offset < segment.end {
        let begins = point;
        let (layout, bytes) = window.raw(&mut point, &header.mark)?;
        visit(&bytes, &Passing { point: begins, layout })?;
    }
    Ok(())
}

/// Where in a batch's bytes the cargo is that may go and is still there.
fn chosen(bytes: &Bytes, passing: &Passing, choose: &mut Choose<'_>) -> Vec<Range<usize>> {
    if !passing.layout.has_cargo() {
        return Vec::new();
    }
    let mut ranges = Vec::new();
    for (place, entry) in passing.batch(bytes).entries.iter().enumerate() {
        if entry.cargo.iter().all(Bytes::is_empty) {
            continue;
        }
        let found = choose(entry).into_iter().filter_map(|cargo| passing.layout.cargo(place, cargo));
        ranges.extend(found.filter(|range| !range.is_empty()));
    }
    ranges.sort_unstable_by_key(|range| range.start);
    ranges
}

/// All of a batch but its cargo.
fn hash(hasher: &mut Hasher, batch: &Batch) {
    for entry in &batch.entries {
        hasher.update(&entry.sequence.to_le_bytes());
        hasher.update(&entry.salt);
        hasher.update(&(entry.record.len() as u64).to_le_bytes());
        hasher.update(&entry.record);
        hasher.update(&(entry.cargo.len() as u64).to_le_bytes());
    }
    hasher.update(&batch.commit.size.to_le_bytes());
    hasher.update(&batch.commit.root);
    hasher.update(batch.commit.checkpoint.as_bytes());
}

/// A batch without what may go; `None` if all of it stays.
fn without(batch: &Batch, choose: &mut Choose<'_>) -> Option<Batch> {
    let mut left: Option<Batch> = None;
    for (place, entry) in batch.entries.iter().enumerate() {
        if entry.cargo.iter().all(Bytes::is_empty) {
            continue;
        }
        for cargo in choose(entry) {
            let left = left.get_or_insert_with(|| batch.clone());
            if let Some(bytes) = left.entries[place].cargo.get_mut(cargo) {
                *bytes = Bytes::new();
            }
        }
    }
    // what stays may be slices of one buffer that holds what went
    left.map(|left| Batch { entries: left.entries.into_iter().map(owned).collect(), commit: left.commit })
}

fn owned(entry: Entry) -> Entry {
    Entry {
        record: Bytes::copy_from_slice(&entry.record),
        cargo: entry.cargo.iter().map(|cargo| Bytes::copy_from_slice(cargo)).collect(),
        ..entry
    }
}
