//! What of the former logs the hub's log holds: as much as it has proven, never
//! what it says alone. A record that it is not proven to hold is lost.

use std::collections::BTreeMap;

use axis_proto::record::v1::Receipt;

use crate::{
    client::Inner,
    error::{Error, Result},
    files::{blocking, names},
    home::Home,
    receipt,
    trust::{Book, Why, origin_of},
};

/// How many records of each log are held.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<String, u64>);

impl Held {
    /// Has the hub prove that its log contains the largest heads that receipts
    /// of the former logs name here.
    ///
    /// # Errors
    /// If it does not: then nothing is known to be held, nor to be lost.
    pub async fn proven(inner: &Inner) -> Result<Self> {
        let book = inner.trust.book().clone();
        if book.current().why == Why::Person {
            // a person's word says nothing of what the log holds
            return Ok(Self::default());
        }
        let current = book.current().verifier.origin().to_owned();
        let home = inner.home.clone();
        let mut held = BTreeMap::new();
        for (origin, found) in blocking(move || largest(&home, &book)).await? {
            held.insert(origin, inner.trust.verify(&found)?.checkpoint.size);
        }
        inner.prove_all().await?;
        held.insert(current, u64::MAX);
        Ok(Self(held))
    }

    /// Whether the hub's log contains the first `size` records of a log.
    pub fn holds(&self, origin: &str, size: u64) -> bool {
        self.0.get(origin).is_some_and(|held| size <= *held)
    }
}

/// For each former log the kept receipt of the largest head that the current
/// one should contain.
fn largest(home: &Home, book: &Book) -> Result<BTreeMap<String, Receipt>> {
    let current = book.current().verifier.origin();
    let former = book.logs().iter().map(|log| log.verifier.origin()).filter(|origin| *origin != current);
    let mut missing: BTreeMap<&str, u64> = former.map(|origin| (origin, book.held_of(origin))).collect();
    missing.retain(|_, held| *held > 0);
    let folder = home.receipts();
    let names = names(&folder).map_err(|source| Error::read(&folder, source))?;
    let number = |name: &String| name.strip_suffix(".receipt.json")?.parse::<u64>().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    let mut found = BTreeMap::new();
    while let Some(number) = numbers.pop() {
        let Some(most) = missing.values().max() else { break };
        if number >= *most {
            continue;
        }
        // one that cannot be read proves nothing
        let Ok(kept) = receipt::load(&folder.join(format!("{number}.receipt.json"))) else { continue };
        let Some(held) = origin_of(&kept).and_then(|origin| missing.get(origin)) else { continue };
        match book.verify(&kept) {
            Ok(verified) if verified.checkpoint.size <= *held => {
                missing.remove(verified.checkpoint.origin.as_str());
                found.insert(verified.checkpoint.origin, kept);
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use axis_proto::{
        hub::v1::{GetInfoResponse, LogSuccession},
        key::SigningKey,
        note::CheckpointSigner,
        record::v1::{ClockConfirmed, LogOpened, Record, record::Event},
        succession::Succession,
        tree::{self, Hash},
    };
    use prost::Message as _;
    use tonic::Status;

    use super::*;
    use crate::testing::{Enrolled, FakeHub};

    fn record(sequence: u64, event: Event) -> Vec<u8> {
        Record { sequence, event: Some(event), ..Record::default() }.encode_to_vec()
    }

    fn receipt_of(log: &CheckpointSigner, leaves: &[Hash], record: Vec<u8>, index: usize) -> Receipt {
        let checkpoint = log.sign(leaves.len() as u64, &tree::root_of(leaves));
        let path = tree::inclusion_of(leaves, index);
        axis_proto::receipt::make(record.into(), &[7; 16], index as u64, path, checkpoint)
    }

    #[tokio::test]
    async fn nothing_is_held_before_it_is_proven() {
        let enrolled = Enrolled::new().await;
        let (inner, old) = (enrolled.inner(), &enrolled.log);
        // nobody else asks meanwhile
        inner.reconciling.store(true, Ordering::SeqCst);
        let event = || Event::ClockConfirmed(ClockConfirmed { operator: "o".into() });
        let mut leaves: Vec<Hash> = (0..8).map(|index| tree::leaf_hash(&[index])).collect();
        for index in [3, 6] {
            leaves[index] = tree::record_leaf(&[7; 16], &record(index as u64, event()));
        }
        receipt::keep(&inner.home, &receipt_of(old, &leaves[..5], record(3, event()), 3), 3);
        // its head is of a batch that the backup does not hold whole
        let longer = [&leaves[..], &[[9; 32]]].concat();
        receipt::keep(&inner.home, &receipt_of(old, &longer, record(6, event()), 6), 6);

        let new = CheckpointSigner::new("hub.test/log2", SigningKey::from_seed(&[9; 32])).unwrap();
        let (previous_origin, previous_root) = (old.origin().to_owned(), tree::root_of(&leaves));
        let opened = LogOpened {
            hub_id: "hub.test".into(),
            origin: new.origin().to_owned(),
            previous_origin: previous_origin.clone(),
            previous_size: 8,
            previous_root: previous_root.to_vec().into(),
            log_verifier_key: new.verifier_key(),
            previous_log_verifier_key: old.verifier_key(),
        };
        let succession = Succession { previous_origin, previous_size: 8, previous_root, log: new.verifier() };
        let opened = record(8, Event::LogOpened(opened));
        leaves.push(tree::record_leaf(&[7; 16], &opened));
        let shown = LogSuccession {
            note: succession.sign(&new, Some(old)).unwrap(),
            receipt: Some(receipt_of(&new, &leaves, opened, 8)),
        };
        let info = GetInfoResponse {
            hub_id: "hub.test".into(),
            log_verifier_key: new.verifier_key(),
            log_successions: vec![shown],
            ..GetInfoResponse::default()
        };
        inner.met(&info).unwrap();
        let held_of = inner.trust.book().held_of(old.origin());
        assert_eq!(held_of, 8, "as the hub says");

        let away = Arc::new(|_, _| Err(Status::unavailable("no")));
        let hub = FakeHub { info, proof: away, checkpoint: String::new() };
        hub.clone().serve(&enrolled).await;
        assert!(Held::proven(inner).await.is_err());
        let proof = Arc::new(move |from, to| Ok(tree::consistency_of(&leaves[..to as usize], from as usize)));
        FakeHub { proof, ..hub }.serve(&enrolled).await;
        let held = Held::proven(inner).await.unwrap();
        assert!(held.holds(old.origin(), 5) && !held.holds(old.origin(), 6), "{held:?}");
        assert!(held.holds("hub.test/log2", 99) && !held.holds("hub.test/log9", 1), "{held:?}");
    }
}
