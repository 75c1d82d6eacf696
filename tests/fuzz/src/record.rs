//! Records that are not what the machine wrote: the checker, which trusts
//! nothing, finds each change; applying them fails at worst.

use axis_hub::{
    fsck::Checker,
    journal::{Batch, Entry},
    machine,
    state::{Draft, State as _, memory::MemoryState, read_once},
};
use axis_proto::record::v1::Record;
use bytes::Bytes;
use prost::Message as _;

use super::world::WORLD;

/// The first byte says how, the next which record, the next two where; the
/// rest takes the place of what is there.
pub fn run(input: &[u8]) {
    let Some((head, rest)) = input.split_first_chunk::<4>() else { return };
    let before: Vec<&Entry> = WORLD.batches.iter().flat_map(|batch| &batch.entries).collect();
    let which = usize::from(head[1]) % before.len();
    let mut changed: Vec<Entry> = before.iter().copied().cloned().collect();
    let entry = &mut changed[which];
    let at = usize::from(u16::from_le_bytes([head[2], head[3]]));
    match head[0] & 3 {
        0 => entry.record = Bytes::copy_from_slice(rest),
        1 => entry.record = spliced(&entry.record, at, rest),
        2 => match entry.cargo.len() {
            0 => return,
            count => {
                let cargo = &mut entry.cargo[at % count];
                *cargo = spliced(cargo, at / count, rest);
            }
        },
        _ => match Record::decode(rest) {
            // one more, at the end, as the writer could have written it
            Ok(mut record) => {
                record.sequence = before.len() as u64;
                let record = Bytes::from(record.encode_to_vec());
                changed.push(Entry {
                    sequence: before.len() as u64,
                    salt: [3; 16],
                    record,
                    cargo: Vec::new(),
                });
            }
            Err(_) => return,
        },
    }
    checked(&changed, &before, which);
    applied(&changed);
}

fn spliced(bytes: &Bytes, at: usize, new: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = at % (bytes.len() + 1);
    let end = bytes.len().min(at + new.len());
    bytes.splice(at..end, new.iter().copied());
    Bytes::from(bytes)
}

/// Against the roots that were signed, every change shows. The signatures
/// are as they were, so nobody verifies them here.
fn checked(changed: &[Entry], before: &[&Entry], which: usize) {
    let mut checker = Checker::new(None);
    let mut at = 0;
    for batch in &WORLD.batches {
        let end = at + batch.entries.len();
        checker.batch(&Batch { entries: changed[at..end].to_vec(), commit: batch.commit.clone() });
        at = end;
    }
    if changed.len() > before.len() {
        let entries = changed[at..].to_vec();
        let commit = WORLD.commit_after(&changed[..at], &entries);
        checker.batch(&Batch { entries, commit });
    }
    let same = changed[which] == *before[which];
    assert!(same || !checker.violations().is_empty(), "a change that nobody sees");
}

fn applied(changed: &[Entry]) {
    let state = MemoryState::new();
    for entry in changed {
        let changes = read_once(&state, |read| {
            let mut draft = Draft::new(read);
            let record = Record::decode(entry.record.clone())?;
            machine::apply(&mut draft, &record, entry).map(|()| draft.into_changes())
        });
        let Ok(changes) = changes else { return };
        for value in changes.iter().filter_map(|(_, change)| change.as_ref()) {
            assert!(value.len() <= 4 * 1024 + entry.bytes(), "a row of {} bytes", value.len());
        }
        state.publish(changes, entry.sequence + 1);
    }
}
