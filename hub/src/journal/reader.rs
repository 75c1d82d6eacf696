//! Reads the journal beside its writer: recent batches from memory, older
//! ones from their segments. Never sees a batch before it is durable.

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    Batch, JournalReader,
    format::{self, Fault, Mark},
    scan::{Index, Point, Scanned, Segment},
};
use crate::{
    disk::{Disk, DiskFile},
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

    fn recent(&self, sequence: u64) -> Option<Arc<Batch>> {
        let places = self.places();
        let recent = &places.recent.batches;
        let after = recent.partition_point(|batch| batch.commit.size <= sequence);
        recent.get(after).filter(|batch| batch.entry(sequence).is_some()).cloned()
    }

    fn kept(&self, sequence: u64) -> Option<Arc<Batch>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let at = read.batches.iter().position(|batch| batch.entry(sequence).is_some())?;
        let batch = read.batches.remove(at)?;
        read.batches.push_back(Arc::clone(&batch));
        Some(batch)
    }

    /// Reads batches from a point on, up to what is durable now.
    fn read(
        &self,
        sequence: u64,
        visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let (Some(mut point), end) = ({
            let places = self.places();
            (places.index.find(sequence), places.next)
        }) else {
            return Ok(());
        };
        while point.sequence < end.sequence {
            let segment = self.places().segments[point.segment].clone();
            let file = self.disk.open_read(&segment.path)?;
            let segment_end = if point.segment == end.segment { end.offset } else { segment.end };
            let mut window = Window::new(file, segment_end);
            while point.offset < segment_end {
                let mark = &segment.header.mark;
                let batch = window.batch(&mut point, mark).map_err(|error| named(&segment.path, error))?;
                if batch.commit.size > sequence && visit(Arc::new(batch))?.is_break() {
                    return Ok(());
                }
            }
            point.segment += 1;
            point.offset = format::HEADER_BYTES as u64;
        }
        Ok(())
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
        let mut found = None;
        self.read(sequence, &mut |batch| {
            found = Some(batch);
            Ok(ControlFlow::Break(()))
        })?;
        if let Some(batch) = &found {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.push(Arc::clone(batch));
        }
        Ok(found)
    }

    fn replay(
        &self,
        sequence: u64,
        visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        if sequence >= self.size() { Ok(()) } else { self.read(sequence, visit) }
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
}

impl Window {
    /// Before the first batch of a file that counts up to `end`.
    pub fn new(file: Arc<dyn DiskFile>, end: u64) -> Self {
        Self { file, buffer: Vec::new(), start: 0, end }
    }

    /// Reads the batch at a point and moves the point behind it.
    pub fn batch(&mut self, point: &mut Point, mark: &Mark) -> io::Result<Batch> {
        let (layout, bytes) = self.raw(point, mark)?;
        Ok(layout.into_batch(&bytes))
    }

    /// As [`Self::batch`], with the bytes as they stand in the file.
    pub fn raw(&mut self, point: &mut Point, mark: &Mark) -> io::Result<(format::Layout, Bytes)> {
        let mut wanted = format::FRAME_HEADER_BYTES;
        loop {
            self.fill(point.offset, wanted)?;
            let bytes = &self.buffer[(point.offset - self.start) as usize..];
            match format::batch(bytes, mark, point.batch, point.sequence) {
                Ok(layout) => {
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
