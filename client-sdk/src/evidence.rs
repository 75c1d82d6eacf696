//! Evidence that somebody signed what a record says: the record with its
//! proof, the signed bytes, and the records that say whose keys signed them.
//! Convinces anyone who has the key of the hub's log; needs no hub.

use axis_proto::{
    hub::v1::{GetReceiptRequest, GetReceiptResponse},
    id::{AgencyCode, KeyId},
    limits::SEALED_BYTES_MAX,
    note::CheckpointVerifier,
    receipt::VerifiedReceipt,
    record::v1::{Receipt, SigningKey},
    signed::{self, Signed},
};
use bytes::Bytes;

use crate::{
    client::{Client, Inner},
    error::{Result, Verification},
    receipt,
};

/// A record with its proof, and what was signed if it says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// The record with its proof.
    pub receipt: Receipt,
    /// The sealed envelope or answer, encoded. Empty if the record says of
    /// nothing that it was signed, or the hub has erased it.
    pub sealed: Bytes,
    /// The records of the directory that hold the keys, with their proofs.
    pub keys: Vec<Receipt>,
}

/// What evidence proves.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VerifiedEvidence {
    /// The record.
    pub receipt: VerifiedReceipt,
    /// What was signed, and by whom; none if that is not in the evidence.
    pub signed: Option<Signed>,
}

impl Evidence {
    /// A receipt alone.
    pub fn of(receipt: Receipt) -> Self {
        Self { receipt, sealed: Bytes::new(), keys: Vec::new() }
    }

    /// Verifies it offline with the verifier key of the hub's log.
    pub fn verify(&self, log: &CheckpointVerifier) -> Result<VerifiedEvidence> {
        self.verify_with(|found| receipt::verify(found, log))
    }

    /// As [`verify`](Self::verify), with what verifies receipts of several
    /// logs, such as [`KnownLogs`](crate::KnownLogs).
    pub fn verify_with(
        &self,
        verify: impl Fn(&Receipt) -> Result<VerifiedReceipt>,
    ) -> Result<VerifiedEvidence> {
        let receipt = verify(&self.receipt)?;
        let signed = if self.sealed.is_empty() {
            None
        } else {
            let keys = self.keys.iter().map(verify).collect::<Result<Vec<_>>>()?;
            let signed = signed::verify_proven(&receipt.record, &self.sealed, &keys);
            Some(signed.map_err(|error| Verification::new("signature", error.to_string()))?)
        };
        Ok(VerifiedEvidence { receipt, signed })
    }
}

impl Client {
    /// The receipt of a record that concerns this system's agencies, with what
    /// was signed and whose keys signed it: of an acknowledgement or a
    /// rejection the recipient's own answer, of an Accepted record the
    /// envelope. Verified, and kept among the receipts of the home. Without
    /// what was signed if the record binds none, or the hub has erased it and
    /// it was never asked for before.
    ///
    /// The record of each key is asked for once and kept as well.
    pub async fn evidence(&self, sequence: u64) -> Result<Evidence> {
        let inner = &self.inner;
        let (answer, found, _) = inner.receipt(sequence, None, true).await?;
        let evidence = if answer.sealed.is_empty() {
            let kept = receipt::load_evidence(&receipt::kept_at(&inner.home, sequence)).ok();
            kept.filter(|kept| kept.receipt == found).unwrap_or_else(|| Evidence::of(found))
        } else {
            let keys = with_records(answer.signing_keys, answer.signing_key_sequences);
            let keys = inner.key_receipts(&keys).await?;
            Evidence { sealed: answer.sealed, keys, ..Evidence::of(found) }
        };
        evidence.verify_with(|found| inner.trust.book().verify(found))?;
        receipt::keep_evidence(&inner.home, &evidence, sequence);
        inner.mind_log().await?;
        Ok(evidence)
    }
}

/// Keys, each with the record that holds it; none if the hub does not say.
pub(crate) fn with_records(keys: Vec<SigningKey>, sequences: Vec<u64>) -> Vec<(SigningKey, u64)> {
    if keys.len() == sequences.len() { keys.into_iter().zip(sequences).collect() } else { Vec::new() }
}

impl Inner {
    /// Asks for a receipt and verifies it: of this record, with the leaf of
    /// this agency opened if one is named.
    pub async fn receipt(
        &self,
        sequence: u64,
        agency: Option<&AgencyCode>,
        with_sealed: bool,
    ) -> Result<(GetReceiptResponse, Receipt, VerifiedReceipt)> {
        let agency = agency.map(ToString::to_string).unwrap_or_default();
        let bytes = if with_sealed { SEALED_BYTES_MAX as u64 } else { 0 };
        let mut answer = self
            .retried(|| async {
                let request = GetReceiptRequest { sequence, agency: agency.clone(), with_sealed };
                self.timed_for(bytes, self.evidence().get_receipt(self.request(request))).await
            })
            .await?;
        let found = receipt::required(answer.receipt.take())?;
        let verified = self.verified(&found).await?;
        if verified.record.sequence != sequence {
            let detail = format!("it is for record {}, not {sequence}", verified.record.sequence);
            return Err(Verification::new("receipt", detail).into());
        }
        Ok((answer, found, verified))
    }

    /// The receipts of the records that hold these keys as they were shown. The
    /// hub is asked for those alone that the home does not have.
    pub async fn key_receipts(&self, keys: &[(SigningKey, u64)]) -> Result<Vec<Receipt>> {
        let mut found = Vec::with_capacity(keys.len());
        for (key, sequence) in keys {
            found.push(self.key_receipt(key, *sequence).await?);
        }
        // one record may hold several
        found.dedup();
        Ok(found)
    }

    async fn key_receipt(&self, key: &SigningKey, sequence: u64) -> Result<Receipt> {
        if let Some(kept) = self.kept_key_receipt(key, sequence) {
            return Ok(kept);
        }
        let (_, found, verified) = self.receipt(sequence, None, false).await?;
        if !holds(&verified, key) {
            let detail = format!("record {sequence} does not hold the key that the hub names");
            return Err(Verification::new("signature", detail).into());
        }
        receipt::keep(&self.home, &found, sequence);
        Ok(found)
    }

    /// The same from the home, if the hub's log still holds it.
    fn kept_key_receipt(&self, key: &SigningKey, sequence: u64) -> Option<Receipt> {
        let kept = receipt::load(&receipt::kept_at(&self.home, sequence)).ok()?;
        let book = self.trust.book();
        let verified = book.verify(&kept).ok()?;
        (holds(&verified, key) && book.holds(&verified.checkpoint.origin, sequence)).then_some(kept)
    }
}

/// Whether a record holds a key exactly as it was shown.
fn holds(verified: &VerifiedReceipt, key: &SigningKey) -> bool {
    let key_id = KeyId::from_slice(&key.key_id).ok();
    key_id.is_some_and(|key_id| signed::key_of(&verified.record, &key_id) == Some(key))
}
