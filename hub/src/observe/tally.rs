//! Counts what was recorded, from the journal and beside the writer: leases
//! and settlements of every kind, those of the timers too.

use std::{io, ops::ControlFlow};

use axis_proto::record::v1::{Record, Settlement, record::Event};
use prost::Message as _;

use super::Metrics;
use crate::journal::JournalReader;

/// How far the journal is counted.
#[derive(Debug)]
pub struct Tally {
    next: u64,
}

impl Tally {
    /// Counts what comes after the records that are there now.
    pub fn from_now(journal: &dyn JournalReader) -> Self {
        Self { next: journal.size() }
    }

    /// Counts what was recorded since the last call.
    ///
    /// # Errors
    /// If the journal cannot be read; the next call goes on from there.
    pub fn catch_up(&mut self, journal: &dyn JournalReader, metrics: &Metrics) -> io::Result<()> {
        if self.next >= journal.size() {
            return Ok(());
        }
        journal.replay(self.next, &mut |batch| {
            // the first batch may begin before the first record that counts
            for entry in batch.entries.iter().filter(|entry| entry.sequence >= self.next) {
                let record = Record::decode(entry.record.clone()).map_err(io::Error::other)?;
                count(metrics, record.event);
            }
            self.next = batch.commit.size;
            Ok(ControlFlow::Continue(()))
        })
    }
}

fn count(metrics: &Metrics, event: Option<Event>) {
    let settlement = match event {
        Some(Event::Leased(_)) => return metrics.leased(1),
        Some(Event::Parked(_)) => return metrics.parked(),
        Some(Event::Moved(_)) => return metrics.moved(),
        Some(Event::Acknowledged(_)) => Settlement::Acknowledged,
        Some(Event::Rejected(_)) => Settlement::Rejected,
        Some(Event::Expired(_)) => Settlement::Expired,
        Some(Event::Returned(_)) => Settlement::Returned,
        _ => return,
    };
    metrics.settled(settlement);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axis_proto::record::v1::{Acknowledged, Expired, Leased, Parked};

    use super::*;
    use crate::{
        journal::{Batch, Commit, Entry},
        observe::metrics::Scrape,
    };

    /// Batches of three records.
    struct Journal(Vec<Event>);

    impl JournalReader for Journal {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn batch_of(&self, _sequence: u64) -> io::Result<Option<Arc<Batch>>> {
            Ok(None)
        }
        fn replay(
            &self,
            sequence: u64,
            visit: &mut dyn FnMut(Arc<Batch>) -> io::Result<ControlFlow<()>>,
        ) -> io::Result<()> {
            let entry = |(place, event): (usize, &Event)| {
                let sequence = place as u64;
                let record = Record { sequence, event: Some(event.clone()), ..Record::default() };
                Entry { sequence, salt: [0; 16], record: record.encode_to_vec().into(), cargo: Vec::new() }
            };
            let entries: Vec<Entry> = self.0.iter().enumerate().map(entry).collect();
            for chunk in entries.chunks(3).skip(sequence as usize / 3) {
                let size = chunk.last().map_or(0, |last| last.sequence + 1);
                let commit = Commit { size, root: [0; 32], checkpoint: String::new() };
                if visit(Arc::new(Batch { entries: chunk.to_vec(), commit }))?.is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    #[test]
    fn each_record_counts_once() {
        let metrics = Metrics::new();
        let mut journal = Journal(vec![Event::Leased(Leased::default())]);
        let mut tally = Tally::from_now(&journal);
        journal.0.push(Event::Leased(Leased::default()));
        journal.0.push(Event::Parked(Parked::default()));
        tally.catch_up(&journal, &metrics).unwrap();
        journal.0.push(Event::Acknowledged(Acknowledged::default()));
        journal.0.push(Event::Expired(Expired::default()));
        tally.catch_up(&journal, &metrics).unwrap();
        tally.catch_up(&journal, &metrics).unwrap();
        let text = metrics.text(&Scrape::default());
        for line in [
            "axis_leases_total 1",
            "axis_parked_total 1",
            "axis_settlements_total{settlement=\"acknowledged\"} 1",
            "axis_settlements_total{settlement=\"expired\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
