//! A purge after a spill, carried out to its end: what waits is returned,
//! then content and documents leave every place of the hub at once. Each step
//! may be interrupted; going on begins with what is left.

use axis_proto::{hub::v1::Reason, id::Digest, record::v1::record::Event};
use tokio::time::timeout;

use super::{Place, Removed, Retention, event_of};
use crate::{
    error::{Error, Refusal, Result},
    limits::{self, Millis},
    machine::{self, Command, query},
};

/// What a purge has erased, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// The Erased record.
    pub erased_sequence: u64,
    /// Recipients that were returned, for they had not settled it.
    pub returned: u32,
    /// Recipients that were ever given it.
    pub taken: u32,
    /// Segments that were written anew.
    pub segments: u32,
    /// Content that left them.
    pub removed: Removed,
    /// Documents that left the vault.
    pub documents_removed: Vec<Digest>,
    /// Documents that other envelopes name.
    pub documents_kept: Vec<Digest>,
    /// Documents that are being uploaded just now.
    pub documents_busy: Vec<Digest>,
}

impl Retention {
    /// Goes on with purges that were agreed to and did not come to their end;
    /// also with those that were erased shortly before a start, or that were
    /// kept from it by a backup: nothing says that their files were written
    /// anew.
    ///
    /// # Errors
    /// The first that it meets, after all of them; the next call looks at them
    /// again.
    pub(super) async fn purges(&self) -> Result<()> {
        let lately = self.0.parts.clock.now_ms().saturating_sub(limits::PURGE_AGAIN_MS);
        let since_ms = *self.round().purges_since_ms.get_or_insert(lately);
        let mut outcome = Ok(());
        for sequence in self.read(|read| machine::purges_under_way(read, since_ms)) {
            tracing::info!(sequence, "going on with a purge");
            // one that cannot come to its end keeps no other from it
            outcome = outcome.and(self.purge(sequence).await.map(drop));
        }
        outcome?;
        let mut round = self.round();
        if round.purges_since_ms == Some(since_ms) {
            round.purges_since_ms = Some(Millis::MAX);
        }
        Ok(())
    }

    /// Goes on with a purge by itself that has not come to its end.
    fn remember(&self, sequence: u64) {
        let erased_ms = self.read(|read| query::envelope(read, sequence)).map(|row| row.erased_unix_ms);
        let mut round = self.round();
        if let (Some(since_ms), Some(erased_ms)) = (&mut round.purges_since_ms, erased_ms) {
            *since_ms = erased_ms.min(*since_ms);
        }
    }

    /// Carries out a purge that two operators want.
    ///
    /// # Errors
    /// `BUSY` while a backup is being made; what is done is done, and calling
    /// again goes on, and so does the hub by itself.
    pub async fn purge(&self, sequence: u64) -> Result<Purged> {
        self.carry_out(sequence).await.inspect_err(|_| self.remember(sequence))
    }

    async fn carry_out(&self, sequence: u64) -> Result<Purged> {
        let mut purged = Purged::default();
        self.settle(sequence).await?;
        let row = self.read(|read| query::envelope(read, sequence));
        purged.erased_sequence = row.map_or(0, |row| row.erased_sequence);
        (purged.returned, purged.taken) = self.counts(sequence);
        let busy = || Error::from(Refusal::new(Reason::Busy).retry_after_ms(limits::BUSY_RETRY_MS));
        let step = self.0.parts.gate.step_within(limits::PURGE_GATE_TIMEOUT).await;
        let _step = step.ok_or_else(busy)?;
        self.segments(sequence, &mut purged).await?;
        self.vault(sequence, &mut purged).await?;
        Ok(purged)
    }

    /// Until every recipient is settled and the erasure is recorded.
    async fn settle(&self, sequence: u64) -> Result<()> {
        let mut progress = self.0.parts.committer.watch();
        loop {
            progress.borrow_and_update();
            let command = Command::ProceedPurge { envelope_sequence: sequence };
            let outcome = self.0.parts.committer.commit(command).await?;
            if outcome.duplicate {
                return Ok(());
            }
            if outcome.sequences.is_empty() {
                // the writer makes it visible to the next of its recipients
                let _ = timeout(limits::PURGE_PAUSE, progress.changed()).await;
            }
        }
    }

    fn counts(&self, sequence: u64) -> (u32, u32) {
        let (mut returned, mut taken, mut first) = (0, 0, 0);
        loop {
            let (page, next) = self.read(|read| query::track(read, sequence, first, 1_000, None));
            for tracked in page {
                returned +=
                    u32::from(tracked.delivery.settlement() == axis_proto::record::v1::Settlement::Returned);
                taken += u32::from(tracked.delivery.leases > 0);
            }
            if next == 0 {
                return (returned, taken);
            }
            first = next;
        }
    }

    /// The journal's files, from the one that accepted it; the last is ended
    /// first.
    async fn segments(&self, sequence: u64, purged: &mut Purged) -> Result<()> {
        self.0.parts.committer.roll().await?;
        let eraser = self.0.parts.eraser.clone();
        tokio::task::spawn_blocking(move || eraser.remove_cut()).await.map_err(Error::fault)??;
        let segments = self.0.parts.eraser.segments();
        let from = |place: &&Place| !place.is_last && place.end_sequence > sequence;
        for place in segments.iter().filter(from) {
            let removed = self.erase(*place, |_, _| true).await?;
            purged.segments += u32::from(removed.pieces > 0);
            purged.removed.pieces += removed.pieces;
            purged.removed.bytes += removed.bytes;
        }
        Ok(())
    }

    async fn vault(&self, sequence: u64, purged: &mut Purged) -> Result<()> {
        let journal = self.0.parts.journal.clone();
        let event = tokio::task::spawn_blocking(move || event_of(&*journal, sequence));
        let Some(Event::Accepted(accepted)) = event.await.map_err(Error::fault)?? else { return Ok(()) };
        // small ones too: somebody may have uploaded them as well
        let mut documents: Vec<Digest> =
            accepted.documents.iter().filter_map(|file| Digest::from_slice(&file.sha256).ok()).collect();
        documents.sort_unstable();
        documents.dedup();
        let (kept, documents): (Vec<Digest>, Vec<Digest>) =
            self.read(|read| documents.into_iter().partition(|sha256| query::is_named(read, sha256)));
        purged.documents_kept = kept;
        let mut here = Vec::new();
        for sha256 in documents {
            let vault = self.0.parts.vault.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let (discarded, here) = (vault.discard_uploads(&sha256)?, vault.has(&sha256)?);
                match vault.lock(&sha256) {
                    // gone already, by a purge that may not have come to its end
                    Some(leaving) if discarded && !here => leaving.remove()?,
                    _ => {}
                }
                Ok::<_, std::io::Error>((discarded, here))
            });
            match looked.await.map_err(Error::fault)?? {
                (false, _) => purged.documents_busy.push(sha256),
                (true, true) => here.push(sha256),
                (true, false) => {}
            }
        }
        for part in here.chunks(limits::DIGESTS_IN_RECORD_MAX) {
            purged.documents_removed.extend(self.collect(part.to_vec(), Some(sequence)).await?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
