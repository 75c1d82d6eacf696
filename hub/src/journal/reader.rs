//! Reads the journal beside its writer: recent batches from memory, older
//! ones from their segments. Never sees a batch before it is durable.

use std::{
    collections::VecDeque,
    io,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    Batch, JournalReader,
    erase::Place,
    format::{self, Fault, Mark},
    scan::{Index, Point, Scanned, Segment},
};
use crate::{
    disk::{Disk, DiskFile, parent_of},
    limits,
};

/// Bytes read at once when batches are looked for.
const READ_BYTES: usize = 128 * 1024;
/// What a batch takes in memory beside its bytes, for each entry.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// What the writer and its readers share.
#[derive(Debug)]
pub(super) struct Shared {
    disk: Arc<dyn Disk>,
    size: AtomicU64,
    places: RwLock<Places>,
    /// Batches that were read from disk, the latest last.
    read: Mutex<Kept>,
    /// Rises with every segment that was written anew: what was read before
    /// is not kept afterwards.
    erasures: AtomicU64,
}

/// Where everything durable is.
#[derive(Debug)]
struct Places {
    segments: Vec<Segment>,
    index: Index,
    /// Where the next batch will be.
    next: Point,
    recent: Kept,
}

/// Batches in memory, up to a number of bytes.
#[derive(Debug)]
struct Kept {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    bytes_max: usize,
}

impl Kept {
    fn new(bytes_max: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn push(&mut self, batch: Arc<Batch>) {
        self.bytes += weight(&batch);
        self.batches.push_back(batch);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= weight(&oldest);
        }
    }
}

impl Kept {
    /// Puts a batch where the one of the same size is, if it is.
    fn exchange(&mut self, batch: Arc<Batch>) {
        let size = batch.commit.size;
        if let Some(kept) = self.batches.iter_mut().find(|kept| kept.commit.size == size) {
            self.bytes = self.bytes - weight(kept) + weight(&batch);
            *kept = batch;
        }
    }

    fn forget(&mut self, which: impl Fn(&Batch) -> bool) {
        self.batches.retain(|batch| !which(batch));
        self.bytes = self.batches.iter().map(|batch| weight(batch)).sum();
    }
}

fn weight(batch: &Batch) -> usize {
    batch.entries.iter().map(|entry| entry.bytes() + ENTRY_OVERHEAD_BYTES).sum()
}

impl Shared {
    pub fn new(disk: Arc<dyn Disk>, scanned: Scanned) -> Self {
        let Scanned { segments, index, next, .. } = scanned;
        Self {
            disk,
            size: AtomicU64::new(next.sequence),
            places: RwLock::new(Places {
                segments,
                index,
                next,
                recent: Kept::new(limits::RECENT_BYTES_MAX),
            }),
            read: Mutex::new(Kept::new(limits::READ_BATCHES_BYTES_MAX)),
            erasures: AtomicU64::new(0),
        }
    }

    /// A new segment is ready, durably.
    pub fn rolled(&self, segment: Segment) {
        let mut places = self.write();
        places.segments.push(segment);
        places.next.segment = places.segments.len() - 1;
        places.next.offset = format::HEADER_BYTES as u64;
    }

    /// A batch is durable; it takes `len` bytes of the last segment.
    pub fn appended(&self, batch: Arc<Batch>, len: u64) {
        let mut places = self.write();
        let begins = places.next;
        places.index.add(begins);
        places.next.sequence = batch.commit.size;
        places.next.batch += 1;
        places.next.offset += len;
        let end = places.next.offset;
        if let Some(segment) = places.segments.last_mut() {
            segment.end = end;
        }
        places.recent.push(batch);
        let size = places.next.sequence;
        // still under the lock: nobody may see the size before the batch
        self.size.store(size, Ordering::Release);
    }

    fn kept(&self, sequence: u64) -> Option<Arc<Batch>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let at = read.batches.iter().position(|batch| batch.entry(sequence).is_some())?;
        let batch = read.batches.remove(at)?;
        read.batches.push_back(Arc::clone(&batch));
        Some(batch)
    }

    /// Every segment, in order.
    pub fn segments(&self) -> Vec<Place> {
        let places = self.places();
        let ends = places.segments.iter().skip(1).map(|next| next.header.first_sequence);
        let ends = ends.chain([places.next.sequence]);
        let last = places.segments.len() - 1;
        let all = places.segments.iter().zip(ends).enumerate();
        all.map(|(index, (segment, end_sequence))| Place {
            first_sequence: segment.header.first_sequence,
            end_sequence,
            bytes: segment.end,
            is_last: index == last,
        })
        .collect()
    }

    /// A segment as it is now, open, with its index.
    pub fn open_segment(&self, first_sequence: u64) -> io::Result<(usize, Segment, Arc<dyn DiskFile>)> {
        let places = self.places();
        let index =
            places.segments.iter().position(|segment| segment.header.first_sequence == first_sequence);
        let index = index.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such segment"))?;
        let segment = places.segments[index].clone();
        let file = self.disk.open_read(&segment.path)?;
        Ok((index, segment, file))
    }

    /// Where the segments are.
    pub fn directory(&self) -> Option<PathBuf> {
        self.places().segments.first().map(|segment| parent_of(&segment.path).to_owned())
    }

    /// The disk.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Batches of a segment that are kept as recent.
    pub fn recent_of(&self, segment: usize) -> Vec<Arc<Batch>> {
        let places = self.places();
        let range = places.sequences_of(segment);
        let recent = places.recent.batches.iter();
        recent.filter(|batch| range.contains(&(batch.commit.size - 1))).cloned().collect()
    }

    /// A segment that is not the last was written anew: puts it in its place,
    /// and forgets what was kept of the old one. `recent` are batches of it
    /// that are kept otherwise now.
    pub fn replace(
        &self,
        segment: usize,
        end: u64,
        points: Index,
        recent: Vec<Arc<Batch>>,
        rename: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut places = self.write();
        // under the lock: nobody opens the new file with the old places
        rename()?;
        places.segments[segment].end = end;
        places.index.replace(segment, points);
        for batch in recent {
            places.recent.exchange(batch);
        }
        let range = places.sequences_of(segment);
        self.erasures.fetch_add(1, Ordering::AcqRel);
        drop(places);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.forget(|batch| range.contains(&(batch.commit.size - 1)));
        Ok(())
    }

    /// Reads batches from a point on, up to what is durable now.
    fn read(
        &self,
        sequence: u64,
        visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let end = self.places().next;
        let Some((mut point, mut segment, mut file)) = self.begin(sequence)? else { return Ok(()) };
        while point.sequence < end.sequence {
            // by sequence: the last segment may have been ended since, and
            // written anew, so that its batches end elsewhere
            let mut window = Window::new(file, segment.end);
            while point.sequence < end.sequence && point.offset < segment.end {
                let mark = &segment.header.mark;
                let batch = window.batch(&mut point, mark).map_err(|error| named(&segment.path, error))?;
                if batch.commit.size > sequence && visit(Arc::new(batch))?.is_break() {
                    return Ok(());
                }
            }
            if point.sequence >= end.sequence {
                break;
            }
            point.segment += 1;
            point.offset = format::HEADER_BYTES as u64;
            let places = self.places();
            segment = places.segments[point.segment].clone();
            // under the lock, as in `begin`
            file = self.disk.open_read(&segment.path)?;
        }
        Ok(())
    }

    /// Where to read a sequence from. The file is opened under the lock: the
    /// point would not fit one that was written anew.
    fn begin(&self, sequence: u64) -> io::Result<Option<Beginning>> {
        let places = self.places();
        let Some(point) = places.index.find(sequence) else { return Ok(None) };
        let segment = places.segments[point.segment].clone();
        let file = self.disk.open_read(&segment.path)?;
        Ok(Some((point, segment, file)))
    }

    fn places(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalReader for Shared {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn batch_of(&self, sequence: u64) -> io::Result<Option<Arc<Batch>>> {
        if sequence >= self.size() {
            return Ok(None);
        }
        if let Some(batch) = self.recent(sequence).or_else(|| self.kept(sequence)) {
            return Ok(Some(batch));
        }
        let erasures = self.erasures.load(Ordering::Acquire);
        let mut found = None;
        self.read(sequence, &mut |batch| {
            found = Some(batch);
            Ok(ControlFlow::Break(()))
        })?;
        if let Some(batch) = &found {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            if self.erasures.load(Ordering::Acquire) == erasures {
                read.push(Arc::clone(batch));
            }
        }
        Ok(found)
    }

    fn recent(&self, sequence: u64) -> Option<Arc<Batch>> {
        let places = self.places();
        let recent = &places.recent.batches;
        let after = recent.partition_point(|batch| batch.commit.size <= sequence);
        recent.get(after).filter(|batch| batch.entry(sequence).is_some()).cloned()
    }

    fn replay(
        &self,
        sequence: u64,
        visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        if sequence >= self.size() { Ok(()) } else { self.read(sequence, visit) }
    }
}

/// Where reading begins: the place, its segment, and that, open.
type Beginning = (Point, Segment, Arc<dyn DiskFile>);

impl Places {
    /// The sequences of a segment.
    fn sequences_of(&self, segment: usize) -> Range<u64> {
        let next = self.segments.get(segment + 1).map(|next| next.header.first_sequence);
        self.segments[segment].header.first_sequence..next.unwrap_or(self.next.sequence)
    }
}

/// A part of a segment in memory that moves towards its end.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    /// Offset of the buffer in the file.
    start: u64,
    /// Offset where what is durable ends.
    end: u64,
    /// Bytes of the last batch: the next is likely to have about as many, and
    /// one that is not all there is checked once more.
    last: usize,
}

impl Window {
    /// Before the first batch of a file that counts up to `end`.
    pub fn new(file: Arc<dyn DiskFile>, end: u64) -> Self {
        Self { file, buffer: Vec::new(), start: 0, end, last: 0 }
    }

    /// Reads the batch at a point and moves the point behind it.
    pub fn batch(&mut self, point: &mut Point, mark: &Mark) -> io::Result<Batch> {
        let (layout, bytes) = self.raw(point, mark)?;
        Ok(layout.into_batch(&bytes))
    }

    /// As [`Self::batch`], with the bytes as they stand in the file.
    pub fn raw(&mut self, point: &mut Point, mark: &Mark) -> io::Result<(format::Layout, Bytes)> {
        let mut wanted = format::FRAME_HEADER_BYTES.max(self.last);
        loop {
            self.fill(point.offset, wanted)?;
            let bytes = &self.buffer[(point.offset - self.start) as usize..];
            match format::batch(bytes, mark, point.batch, point.sequence) {
                Ok(layout) => {
                    self.last = layout.len;
                    point.offset += layout.len as u64;
                    point.batch += 1;
                    point.sequence = layout.commit.size;
                    // its own bytes, so that it holds no more than itself
                    let bytes = Bytes::copy_from_slice(&bytes[..layout.len]);
                    return Ok((layout, bytes));
                }
                Err((_, Fault::Short(needed))) if point.offset + needed as u64 <= self.end => {
                    wanted = needed.max(2 * bytes.len());
                }
                Err((at, fault)) => {
                    let words = format!("at byte {}: {fault}", point.offset + at as u64);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, words));
                }
            }
        }
    }

    /// Makes the buffer hold at least `wanted` bytes from `offset` on, or all
    /// that there are.
    fn fill(&mut self, offset: u64, wanted: usize) -> io::Result<()> {
        let held = self.start + self.buffer.len() as u64;
        if offset.checked_sub(self.start).is_none() || offset > held {
            (self.start, self.buffer) = (offset, Vec::new());
        }
        let held = self.buffer.len() - (offset - self.start) as usize;
        let left = (self.end - offset) as usize;
        if held >= wanted.min(left) {
            return Ok(());
        }
        self.buffer.drain(..(offset - self.start) as usize);
        self.start = offset;
        self.buffer.resize(wanted.max(READ_BYTES).min(left), 0);
        self.file.read_exact_at(offset + held as u64, &mut self.buffer[held..])
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("journal {} {error}", path.display()))
}
