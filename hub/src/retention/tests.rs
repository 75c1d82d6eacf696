use std::path::Path;

use axis_proto::record::v1::{Accepted, Acknowledged, Cargo, CargoKind, Delivery, Erased};

use super::*;
use crate::{
    disk::{Disk, MemoryDisk},
    journal::{Batch, Commit, Journal as _, SegmentJournal},
    machine::tables::{EnvelopeRow, key},
    state::{Changes, memory::MemoryState},
};

fn journal_of(events: &[Event]) -> SegmentJournal {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let mut journal = SegmentJournal::create(disk, Path::new("/journal"), "log").unwrap();
    for (event, sequence) in events.iter().zip(0..) {
        let record = record_of(sequence, event);
        let record = record.encode_to_vec().into();
        let entries = vec![Entry { sequence, salt: [1; 16], record, cargo: Vec::new() }];
        let commit = Commit { size: sequence + 1, root: [0; 32], checkpoint: "log\n".into() };
        journal.append(Batch { entries, commit }).unwrap();
    }
    journal
}

fn record_of(sequence: u64, event: &Event) -> Record {
    let sealed = Cargo { kind: CargoKind::SealedEnvelope.into(), size: 9, ..Cargo::default() };
    Record { sequence, cargo: vec![sealed], event: Some(event.clone()), ..Record::default() }
}

#[test]
fn content_goes_by_the_word_of_the_journal_only() {
    let accepted = Accepted { expires_unix_ms: 1_000, summary_kept_ms: 500, ..Accepted::default() };
    let delivery = Some(Delivery { envelope_sequence: 0, ..Delivery::default() });
    let events = [
        Event::Accepted(accepted),
        Event::Acknowledged(Acknowledged { delivery, ..Acknowledged::default() }),
        Event::Erased(Erased { envelope_sequence: 7, ..Erased::default() }),
        Event::Erased(Erased { envelope_sequence: 0, ..Erased::default() }),
    ];
    let journal = journal_of(&events);
    let check = |row: Option<u64>, now_ms: Option<Millis>| {
        let state = MemoryState::new();
        let row = row.map(|erased_sequence| EnvelopeRow { erased_sequence, ..EnvelopeRow::default() });
        let changes = row.map(|row| (key::envelope(0), Some(row.encode_to_vec())));
        state.publish(changes.into_iter().collect::<Changes>(), 4);
        let goes = |sequence: u64| {
            let record = record_of(sequence, &events[sequence as usize]);
            !let_go(&state, &*journal.reader(), &record, now_ms).unwrap().is_empty()
        };
        assert_eq!(goes(0), goes(1), "an answer's content as the envelope's");
        goes(0)
    };
    // the state has lost the row of a live envelope
    assert!(!check(None, Some(1_499)));
    assert!(!check(None, None));
    // whatever became of it, it is forgotten by now
    assert!(check(None, Some(1_500)));
    // kept, erased by no record, by another's, by its own
    assert!(!check(Some(0), Some(9_999)));
    assert!(!check(Some(1), Some(9_999)));
    assert!(!check(Some(2), Some(9_999)));
    assert!(check(Some(3), None));
}
