//! Check sums of documents that were whole and right since the process
//! started: who reads one again is told of damage without hashing all of it,
//! which takes ten times as long where processors have no instructions for
//! SHA-256. A bounded memory, on no disk: what is not in it is hashed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axis_proto::id::Digest;

use crate::limits::DOCUMENT_SUMS_MAX;

/// Bytes of one sum's block; smaller documents are hashed.
const BLOCK_BYTES: usize = 256 * 1024;
/// What remembering a document takes beside its sums, counted in sums.
const DOCUMENT_SUMS: usize = 32;

/// CRC-32 of each block of a document, the last one as long as it is.
pub(super) type Blocks = Arc<[u32]>;

/// The sums of some documents, the latest. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    by_document: HashMap<Digest, Blocks>,
    /// The oldest first.
    order: VecDeque<Digest>,
    sums: usize,
}

impl Sums {
    /// Those of a document, if they are known.
    pub(super) fn of(&self, sha256: &Digest) -> Option<Blocks> {
        self.known().by_document.get(sha256).cloned()
    }

    /// Remembers those of a document whose SHA-256 was right.
    pub(super) fn learn(&self, sha256: Digest, summing: Summing) {
        let blocks = summing.finish();
        if blocks.len() < 2 {
            return;
        }
        let mut known = self.known();
        if known.by_document.contains_key(&sha256) {
            return;
        }
        known.sums += blocks.len() + DOCUMENT_SUMS;
        known.order.push_back(sha256);
        known.by_document.insert(sha256, blocks.into());
        while known.sums > DOCUMENT_SUMS_MAX {
            let Some(oldest) = known.order.pop_front() else { break };
            if let Some(blocks) = known.by_document.remove(&oldest) {
                known.sums -= blocks.len() + DOCUMENT_SUMS;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sums up bytes as they come, in order from the first.
#[derive(Debug, Clone, Default)]
pub(super) struct Summing {
    block: crc32fast::Hasher,
    filled: usize,
    blocks: Vec<u32>,
}

impl Summing {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.block.update(now);
            self.filled += now.len();
            bytes = rest;
            if self.filled == BLOCK_BYTES {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        self.blocks.push(std::mem::take(&mut self.block).finalize());
        self.filled = 0;
    }

    pub(super) fn finish(mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.end_block();
        }
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(bytes: &[u8], step: usize) -> Summing {
        let mut summing = Summing::default();
        bytes.chunks(step).for_each(|part| summing.update(part));
        summing
    }

    #[test]
    fn sums_do_not_depend_on_how_the_bytes_come() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 5).map(|place| (place % 251) as u8).collect();
        let whole = summed(&bytes, bytes.len()).finish();
        assert_eq!(whole.len(), 4);
        for step in [1_000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1] {
            assert_eq!(summed(&bytes, step).finish(), whole, "{step} at a time");
        }
        let mut other = bytes.clone();
        other[2 * BLOCK_BYTES] ^= 1;
        let differ = summed(&other, 1_000).finish();
        assert!(differ[2] != whole[2] && differ[..2] == whole[..2] && differ[3] == whole[3]);
    }

    #[test]
    fn only_so_many_are_remembered_and_small_ones_are_not() {
        let sums = Sums::default();
        let two_blocks = summed(&vec![7; BLOCK_BYTES + 1], BLOCK_BYTES);
        sums.learn(Digest::of(b"small"), summed(b"small", 5));
        assert!(sums.of(&Digest::of(b"small")).is_none());
        let many = DOCUMENT_SUMS_MAX / (2 + DOCUMENT_SUMS);
        let name = |number: usize| Digest::of(&number.to_le_bytes());
        for number in 0..many + 100 {
            sums.learn(name(number), two_blocks.clone());
            sums.learn(name(number), two_blocks.clone());
        }
        assert!(sums.of(&name(0)).is_none() && sums.of(&name(many + 99)).is_some());
        let known = sums.known();
        assert!(known.sums <= DOCUMENT_SUMS_MAX && known.order.len() == known.by_document.len());
    }
}
