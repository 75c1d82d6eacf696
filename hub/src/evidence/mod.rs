//! Receipts: a record, its place, and the proof that it stands in the log.
//! The same bytes on every call. Appends nothing and signs nothing.

use std::{
    collections::{HashMap, VecDeque},
    io,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axis_proto::{
    id::AgencyCode,
    leaves, receipt,
    record::v1::{
        CargoKind, ConsignmentLeaf, LeafList, LeafOpening, Receipt, RecipientLeaf, Record, record::Event,
    },
    tree::{Hash, record_leaf, verify_consistency, verify_inclusion},
};
use bytes::Bytes;
use prost::Message as _;

use crate::{
    error::{Error, Result},
    journal::{Batch, Commit, Entry, JournalReader},
    limits,
};

pub mod logs;
pub mod shape;
pub mod tree;

pub use tree::{Tree, TreeReader};

/// Reads the log as evidence. Cheap to clone.
#[derive(Clone)]
pub struct Evidence {
    journal: Arc<dyn JournalReader>,
    tree: TreeReader,
    lists: Arc<Mutex<Lists>>,
}

/// One entry of the journal, in the batch that holds it.
#[derive(Debug, Clone)]
pub struct Placed {
    batch: Arc<Batch>,
    index: usize,
}

impl Placed {
    fn of(batch: Arc<Batch>, sequence: u64) -> Option<Self> {
        let first = batch.entries.first()?.sequence;
        let index = usize::try_from(sequence.checked_sub(first)?).ok()?;
        (index < batch.entries.len()).then_some(Self { batch, index })
    }

    /// The end of its batch.
    pub fn commit(&self) -> &Commit {
        &self.batch.commit
    }
}

impl Deref for Placed {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.batch.entries[self.index]
    }
}

impl Evidence {
    /// Evidence from a journal and the tree over it.
    pub fn new(journal: Arc<dyn JournalReader>, tree: TreeReader) -> Self {
        Self { journal, tree, lists: Arc::default() }
    }

    /// Number of records that can be proven.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The entry with this sequence; `None` if there is none yet.
    pub fn find(&self, sequence: u64) -> Result<Option<Placed>> {
        // the tree is published last: what it holds can be proven
        if sequence >= self.tree.size() {
            return Ok(None);
        }
        let batch = self.journal.batch_of(sequence)?;
        Ok(batch.and_then(|batch| Placed::of(batch, sequence)))
    }

    /// Whether a record can be read without the disk.
    pub fn is_recent(&self, sequence: u64) -> bool {
        self.journal.recent(sequence).is_some()
    }

    /// The entry with this sequence, which must be there.
    pub fn entry(&self, sequence: u64) -> Result<Placed> {
        let missing = || Error::fault(format!("record {sequence} of {} was asked for", self.size()));
        self.find(sequence)?.ok_or_else(missing)
    }

    /// The record with this sequence, which must be there.
    pub fn record(&self, sequence: u64) -> Result<Record> {
        Record::decode(self.entry(sequence)?.record.clone()).map_err(Error::fault)
    }

    /// The receipt of a record that was recorded lately, without the disk:
    /// the same bytes as [`Self::receipt`]; `None` if only the disk has it.
    pub fn recent_receipt(&self, sequence: u64) -> Option<Receipt> {
        let entry = Placed::of(self.journal.recent(sequence)?, sequence)?;
        let Commit { size, checkpoint, .. } = entry.commit();
        let hashes = self.tree.recent_inclusion(sequence, *size)?;
        Some(receipt::make(entry.record.clone(), &entry.salt, sequence, hashes, checkpoint.clone()))
    }

    /// The receipt of a record, proven under the checkpoint of its own batch.
    pub fn receipt(&self, sequence: u64) -> Result<Receipt> {
        if let Some(receipt) = self.recent_receipt(sequence) {
            return Ok(receipt);
        }
        let entry = self.entry(sequence)?;
        let Commit { size, root, .. } = entry.commit();
        let hashes = self.tree.inclusion(sequence, *size)?;
        // the tree is derived and was verified when it was opened: nobody is
        // shown what has become of it since
        let leaf = record_leaf(&entry.salt, &entry.record);
        if !verify_inclusion(sequence, *size, &leaf, &hashes, root) {
            return Err(self.damaged(sequence, *size));
        }
        let checkpoint = entry.commit().checkpoint.clone();
        Ok(receipt::make(entry.record.clone(), &entry.salt, sequence, hashes, checkpoint))
    }

    /// The receipt of a record that names recipients by a list, opened for one
    /// of them. Without an opening if the record has no list, the agency is
    /// not in it, or retention has erased it.
    pub fn receipt_opened(&self, sequence: u64, agency: &AgencyCode) -> Result<Receipt> {
        let mut receipt = self.receipt(sequence)?;
        if let Some(list) = self.list(sequence)? {
            receipt.opening = list.open(agency.as_str())?;
        }
        Ok(receipt)
    }

    /// The newest checkpoint; `None` while the log is empty.
    pub fn checkpoint(&self) -> Result<Option<String>> {
        let Some(last) = self.tree.size().checked_sub(1) else { return Ok(None) };
        Ok(Some(self.entry(last)?.commit().checkpoint.clone()))
    }

    /// Proof that the log of `old` records is a prefix of that of `new`.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>> {
        let hashes = self.tree.consistency(old, new)?;
        if !verify_consistency(old, new, &self.root(old)?, &self.root(new)?, &hashes) {
            return Err(self.damaged(old, new));
        }
        Ok(hashes)
    }

    /// The root over the first `size` records: the journal's word, or the
    /// tree's if no batch ends there.
    fn root(&self, size: u64) -> Result<Hash> {
        if let Some(last) = size.checked_sub(1) {
            let entry = self.entry(last)?;
            if entry.commit().size == size {
                return Ok(entry.commit().root);
            }
        }
        Ok(self.tree.root_at(size)?)
    }

    fn damaged(&self, from: u64, to: u64) -> Error {
        self.tree.note_damage();
        Error::fault(format!(
            "the tree's files are damaged: no proof from {from} to {to}; restart to mend them"
        ))
    }

    fn list(&self, sequence: u64) -> Result<Option<Arc<OpenList>>> {
        let kept = self.lists().find(sequence);
        if kept.is_some() {
            return Ok(kept);
        }
        let entry = self.entry(sequence)?;
        let record = Record::decode(entry.record.clone()).map_err(Error::fault)?;
        let kind = match record.event {
            Some(Event::Accepted(event)) if event.consignment_root.is_empty() => CargoKind::RecipientList,
            Some(Event::Accepted(_) | Event::Consigned(_)) => CargoKind::ConsignmentList,
            _ => return Ok(None),
        };
        let cargo = record.cargo.iter().zip(&entry.cargo).find(|(named, _)| named.kind() == kind);
        let Some((_, bytes)) = cargo.filter(|(named, bytes)| bytes.len() as u64 == named.size) else {
            return Ok(None);
        };
        let list = Arc::new(OpenList::new(bytes, kind)?);
        self.lists().keep(sequence, Arc::clone(&list));
        Ok(Some(list))
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A list of leaves with its hashes: a broadcast is opened for each of its
/// recipients, and hashing it all each time would cost a core.
#[derive(Debug)]
struct OpenList {
    list: LeafList,
    positions: HashMap<Box<str>, u32>,
    levels: Vec<Vec<Hash>>,
}

impl OpenList {
    fn new(bytes: &Bytes, kind: CargoKind) -> Result<Self> {
        // a copy, so that it does not hold its whole batch in memory
        let list = LeafList::decode(Bytes::copy_from_slice(bytes)).map_err(Error::fault)?;
        let mut positions = HashMap::with_capacity(list.leaves.len());
        let mut levels: Vec<Vec<Hash>> = Vec::new();
        let mut frontier = shape::Frontier::default();
        for (leaf, position) in list.leaves.iter().zip(0..) {
            let agency = match kind {
                CargoKind::RecipientList => RecipientLeaf::decode(leaf.clone()).map(|leaf| leaf.agency),
                _ => ConsignmentLeaf::decode(leaf.clone()).map(|leaf| leaf.agency),
            };
            positions.insert(agency.map_err(Error::fault)?.into(), position);
            let hash = leaves::hash_of(&leaves::salt_of(&list.secret, position), leaf);
            frontier.push(hash, |level, hash| match levels.get_mut(level as usize) {
                Some(hashes) => hashes.push(hash),
                None => levels.push(vec![hash]),
            });
        }
        Ok(Self { list, positions, levels })
    }

    fn open(&self, agency: &str) -> Result<Option<LeafOpening>> {
        let Some(position) = self.positions.get(agency).copied() else { return Ok(None) };
        let size = self.list.leaves.len();
        let find = &mut |level: u32, index: u64| {
            let hash = self.levels.get(level as usize).and_then(|hashes| hashes.get(index as usize));
            hash.copied().ok_or_else(|| io::Error::other("a list without its own hash"))
        };
        let path = shape::inclusion(position.into(), size as u64, find)?;
        Ok(Some(LeafOpening {
            leaf: self.list.leaves[position as usize].clone(),
            salt: Bytes::copy_from_slice(&leaves::salt_of(&self.list.secret, position)),
            position,
            size: size as u32,
            path: path.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
        }))
    }
}

/// Lists that were opened lately, the latest last.
#[derive(Debug, Default)]
struct Lists {
    kept: VecDeque<(u64, Arc<OpenList>)>,
    leaves: usize,
}

impl Lists {
    fn find(&mut self, sequence: u64) -> Option<Arc<OpenList>> {
        let at = self.kept.iter().position(|(kept, _)| *kept == sequence)?;
        let found = self.kept.remove(at)?;
        let list = Arc::clone(&found.1);
        self.kept.push_back(found);
        Some(list)
    }

    fn keep(&mut self, sequence: u64, list: Arc<OpenList>) {
        if self.kept.iter().any(|(kept, _)| *kept == sequence) {
            return;
        }
        self.leaves += list.positions.len();
        self.kept.push_back((sequence, list));
        while self.leaves > limits::OPEN_LIST_LEAVES_MAX && self.kept.len() > 1 {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.leaves -= oldest.positions.len();
        }
    }
}

#[cfg(test)]
mod tests;
