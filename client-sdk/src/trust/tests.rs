//! The book against a log that we make ourselves.

use std::sync::atomic::{AtomicU64, Ordering};

use axis_proto::{
    hub::v1::LogSuccession,
    key::SigningKey,
    note::CheckpointSigner,
    receipt as make_receipt,
    record::v1::{ClockConfirmed, LogOpened, Receipt, Record, record::Event},
    succession::Succession,
    tree::{self, Hash},
};
use prost::Message as _;

use super::{
    book::{RUNGS_MAX, SEEN_MAX, UNPROVEN_MAX},
    *,
};
use crate::{
    Outgoing, ReceiveOptions, quiet,
    testing::{Enrolled, FakeHub},
};

/// A log, whose leaves are ours to choose.
struct Made {
    signer: CheckpointSigner,
    leaves: Vec<Hash>,
}

impl Made {
    fn new(origin: &str, seed: u8) -> Self {
        let signer = CheckpointSigner::new(origin, SigningKey::from_seed(&[seed; 32])).unwrap();
        Self { signer, leaves: Vec::new() }
    }

    fn grow(&mut self, to: usize, other: u8) {
        let from = self.leaves.len();
        self.leaves.extend((from..to).map(|index| tree::leaf_hash(&[other, index as u8])));
    }

    fn head(&self, size: usize) -> (axis_proto::note::Checkpoint, String) {
        let root = tree::root_of(&self.leaves[..size]);
        let note = self.signer.sign(size as u64, &root);
        (self.signer.verifier().verify(&note).unwrap(), note)
    }

    fn show(&self, book: &mut Book, size: usize) -> Result<(), LogProblem> {
        let (checkpoint, note) = self.head(size);
        book.observe(checkpoint, &note)
    }

    /// Proves what waits, as the hub would; whether all of it holds.
    fn prove(&self, book: &mut Book) -> bool {
        let heads = if book.is_first() { book.unproven.clone() } else { book.to_prove() };
        let holds = heads.windows(2).all(|pair| {
            let hashes = tree::consistency_of(&self.leaves[..pair[1].size as usize], pair[0].size as usize);
            begins(&pair[0], &pair[1], &hashes)
        });
        if holds {
            book.proven(&heads);
        }
        holds
    }

    /// Begins it with a record that says what a succession does.
    fn open(&mut self, said: &Succession) -> Receipt {
        let opened = LogOpened {
            origin: self.signer.origin().to_owned(),
            previous_origin: said.previous_origin.clone(),
            previous_size: said.previous_size,
            previous_root: said.previous_root.to_vec().into(),
            ..LogOpened::default()
        };
        let (index, event) = (self.leaves.len(), Some(Event::LogOpened(opened)));
        let record = Record { sequence: index as u64, event, ..Record::default() }.encode_to_vec();
        self.leaves.push(tree::record_leaf(&[7; 16], &record));
        let (_, checkpoint) = self.head(index + 1);
        let path = tree::inclusion_of(&self.leaves, index);
        make_receipt::make(record.into(), &[7; 16], index as u64, path, checkpoint)
    }

    /// A log that goes on from the first `size` leaves of this one.
    fn restored(&self, size: usize, origin: &str, seed: u8, signed: bool) -> (Self, LogSuccession) {
        let mut new = Self::new(origin, seed);
        new.leaves = self.leaves[..size].to_vec();
        let succession = Succession {
            previous_origin: self.signer.origin().to_owned(),
            previous_size: size as u64,
            previous_root: tree::root_of(&new.leaves),
            log: new.signer.verifier(),
        };
        let note = succession.sign(&new.signer, signed.then_some(&self.signer)).unwrap();
        let receipt = Some(new.open(&succession));
        (new, LogSuccession { note, receipt })
    }
}

fn begun() -> (Made, Book) {
    let mut log = Made::new("hub/log/1", 1);
    log.grow(40, 0);
    let book = Book::new(log.signer.verifier());
    (log, book)
}

fn known(book: &Book) -> (u64, usize) {
    (book.current().head.as_ref().map_or(0, |head| head.size), book.unproven.len())
}

#[test]
fn heads_are_proven_against_each_other() {
    let (log, mut book) = begun();
    log.show(&mut book, 7).unwrap();
    assert!(book.to_prove().is_empty() && book.is_first());
    assert!(log.prove(&mut book));
    assert_eq!(known(&book), (7, 0));
    for size in [20, 3, 9, 20, 7] {
        log.show(&mut book, size).unwrap();
    }
    assert_eq!(book.to_prove().iter().map(|head| head.size).collect::<Vec<_>>(), [3, 7, 9, 20]);
    assert!(log.prove(&mut book));
    assert_eq!(known(&book), (20, 0));
}

#[test]
fn another_history_is_a_fork_and_ends_all_trust() {
    let (log, mut book) = begun();
    log.show(&mut book, 7).unwrap();
    assert!(log.prove(&mut book));
    let mut other = Made::new("hub/log/1", 1);
    other.grow(5, 0);
    other.grow(40, 9);
    // the same size is seen at once
    let mut at_once = book.clone();
    let LogProblem::Forked { remembered, shown } = other.show(&mut at_once, 7).unwrap_err() else { panic!() };
    assert_eq!((remembered.size, shown.size), (7, 7));
    assert!(remembered.root != shown.root && remembered.note != shown.note);
    assert!(log.show(&mut at_once, 8).is_err(), "nothing is trusted any more");
    // another one when it is to be proven
    other.show(&mut book, 12).unwrap();
    assert!(!log.prove(&mut book) && !other.prove(&mut book));
}

#[test]
fn no_head_is_forgotten_before_it_is_proven() {
    let (mut log, mut book) = begun();
    log.grow(300, 0);
    log.show(&mut book, 1).unwrap();
    assert!(log.prove(&mut book));
    let mut other = Made::new("hub/log/1", 1);
    other.grow(100, 9);
    other.show(&mut book, 100).unwrap();
    let at = |book: &Book| (book.is_half_full(), book.full().map(|head| head.size));
    for size in 101..=300 {
        let waiting = book.unproven.len();
        let expected = (waiting >= UNPROVEN_MAX / 2, (waiting >= UNPROVEN_MAX).then_some(size - 1));
        assert_eq!(at(&book), expected);
        log.show(&mut book, size as usize).unwrap();
    }
    assert!(!log.prove(&mut book), "the forged head is still there");
    // a process that takes more than it is told to is stopped
    let mut book = begun().1;
    log.grow(2 * SEEN_MAX, 0);
    let note = log.head(1).1;
    let shown = |size: usize| Checkpoint { origin: "hub/log/1".into(), size: size as u64, root: [7; 32] };
    let taken = (1..2 * SEEN_MAX).take_while(|size| book.observe(shown(*size), &note).is_ok()).count();
    assert_eq!((taken, book.unproven.len()), (SEEN_MAX, SEEN_MAX));
}

#[test]
fn a_restore_below_what_is_remembered_rewrites_nothing_unseen() {
    let (log, mut book) = begun();
    for size in (5..=30).step_by(5) {
        log.show(&mut book, size).unwrap();
        assert!(log.prove(&mut book));
    }
    // another history altogether, signed by the same key, goes on from below the last head
    let mut other = Made::new("hub/log/1", 1);
    other.grow(29, 9);
    let (mut second, step) = other.restored(29, "hub/log/2", 1, true);
    second.grow(60, 9);
    let mut restored = book.clone();
    let steps = restored.way_to(&second.signer.verifier_key(), &[step]).unwrap().unwrap();
    restored.succeed(steps).unwrap();
    assert_eq!(restored.unproven.iter().map(|head| head.size).collect::<Vec<_>>(), [25, 30]);
    second.show(&mut restored, 36).unwrap();
    assert!(!second.prove(&mut restored), "it does not hold what was proven before");
    // nor does one that goes on from exactly what was proven
    let (fifteen, step) = other.restored(15, "hub/log/2", 1, true);
    let steps = book.way_to(&fifteen.signer.verifier_key(), &[step]).unwrap().unwrap();
    assert!(book.clone().succeed(steps).is_err());

    // an honest one does, twice, and the ladder goes with it
    let (mut second, step) = log.restored(29, "hub/log/2", 2, true);
    let steps = book.way_to(&second.signer.verifier_key(), &[step]).unwrap().unwrap();
    book.succeed(steps).unwrap();
    second.grow(60, 2);
    second.show(&mut book, 50).unwrap();
    let (third, step) = second.restored(18, "hub/log/3", 3, true);
    let mut again = book.clone();
    let steps = again.way_to(&third.signer.verifier_key(), &[step]).unwrap().unwrap();
    again.succeed(steps).unwrap();
    assert_eq!(again.to_prove().iter().map(|head| head.size).collect::<Vec<_>>(), [15, 18, 19]);
    assert!(second.prove(&mut book) && third.prove(&mut again));

    // and it stays thin
    second.grow(700, 2);
    for size in (60..700).step_by(3) {
        second.show(&mut book, size).unwrap();
        assert!(second.prove(&mut book));
    }
    let head = book.current().head.as_ref().unwrap().size;
    let doublings: Vec<u32> = book.ladder.iter().map(|rung| (head - rung.size).ilog2()).collect();
    assert!(doublings.windows(2).all(|pair| pair[0] > pair[1]), "{doublings:?}");
    assert!(doublings.len() > 6 && doublings.len() <= RUNGS_MAX, "{doublings:?}");
}

#[test]
fn another_process_may_have_proven_more() {
    let (log, mut book) = begun();
    log.show(&mut book, 7).unwrap();
    assert!(log.prove(&mut book));
    let mut theirs = book.clone();
    log.show(&mut theirs, 30).unwrap();
    assert!(log.prove(&mut theirs));
    log.show(&mut book, 12).unwrap();
    let heads = book.to_prove();
    theirs.proven(&heads);
    assert_eq!(known(&theirs), (30, 1), "12 is to be proven against 30");
    assert!(log.prove(&mut theirs));
    assert_eq!(known(&theirs), (30, 0));
}

#[test]
fn a_restored_log_goes_on_with_the_formers_word_alone() {
    let (log, mut book) = begun();
    log.show(&mut book, 10).unwrap();
    assert!(log.prove(&mut book));
    log.show(&mut book, 15).unwrap();
    log.show(&mut book, 30).unwrap();
    let (mut second, first_step) = log.restored(20, "hub/log/2", 2, true);
    second.grow(50, 2);
    let (mut third, second_step) = second.restored(45, "hub/log/3", 3, true);
    third.grow(60, 3);
    let key = third.signer.verifier_key();
    let (_, unsigned) = log.restored(20, "hub/log/2", 2, false);
    assert_eq!(book.way_to(&key, &[unsigned, second_step.clone()]), Ok(None));
    assert_eq!(book.way_to(&key, std::slice::from_ref(&second_step)), Ok(None));
    assert_eq!(book.way_to(&log.signer.verifier_key(), &[]), Ok(Some(Vec::new())));

    let steps = book.way_to(&key, &[first_step, second_step]).unwrap().unwrap();
    book.succeed(steps).unwrap();
    assert_eq!(book.logs().len(), 3);
    // what was lost: beyond 20 of the first, beyond 45 of the second
    assert_eq!([book.held_of("hub/log/1"), book.held_of("hub/log/2")], [20, 45]);
    assert!(book.holds("hub/log/1", 19) && !book.holds("hub/log/1", 20) && book.holds("hub/log/3", 99));
    assert!(!book.holds("hub/log/9", 0));
    // what was known of the first must be in the third
    assert_eq!(book.unproven.iter().map(|head| head.size).collect::<Vec<_>>(), [15, 10, 21, 20, 46]);
    third.show(&mut book, 58).unwrap();
    assert!(third.prove(&mut book));
    assert_eq!(known(&book), (58, 0));
    // receipts of before come with their own log's heads, as far as the new one holds them
    log.show(&mut book, 18).unwrap();
    log.show(&mut book, 33).unwrap();
    assert_eq!(book.unproven.len(), 1, "beyond 20 nobody can prove anything");
    assert!(third.prove(&mut book));
}

#[test]
fn a_log_that_does_not_show_how_it_begins_is_not_believed() {
    let (log, book) = begun();
    let (second, step) = log.restored(20, "hub/log/2", 2, true);
    let key = second.signer.verifier_key();
    assert!(book.way_to(&key, std::slice::from_ref(&step)).unwrap().is_some());
    let said = |origin: &str, size: usize, other: u8| Succession {
        previous_origin: origin.to_owned(),
        previous_size: size as u64,
        previous_root: [other; 32],
        log: second.signer.verifier(),
    };
    let root = tree::root_of(&log.leaves[..20])[0];
    let opens = |leaves: usize, signer: &Made, said: &Succession| {
        let mut made = Made { signer: signer.signer.clone(), leaves: log.leaves[..leaves].to_vec() };
        Some(made.open(said))
    };
    let true_root =
        Succession { previous_root: tree::root_of(&log.leaves[..20]), ..said("hub/log/1", 20, root) };
    assert!(
        book.way_to(&key, &[LogSuccession { receipt: opens(20, &second, &true_root), ..step.clone() }])
            .is_ok()
    );
    let wrong = [
        ("none", None),
        ("another log's", opens(20, &log, &true_root)),
        ("elsewhere", opens(21, &second, &true_root)),
        ("another size", opens(20, &second, &Succession { previous_size: 19, ..true_root.clone() })),
        ("another root", opens(20, &second, &said("hub/log/1", 20, 9))),
        (
            "after another log",
            opens(20, &second, &Succession { previous_origin: "hub/log/0".into(), ..true_root.clone() }),
        ),
    ];
    for (what, receipt) in wrong {
        let shown = [LogSuccession { receipt, ..step.clone() }];
        assert!(book.way_to(&key, &shown).is_err(), "{what}");
        let mut accepting = book.clone();
        assert!(accepting.accept(second.signer.verifier(), &shown).is_err(), "{what}");
        assert_eq!(accepting, book, "{what}");
    }
}

#[test]
fn a_restored_log_that_does_not_hold_what_was_known_is_a_fork() {
    let (log, mut book) = begun();
    log.show(&mut book, 20).unwrap();
    assert!(log.prove(&mut book));
    let mut other = Made::new("hub/log/1", 1);
    other.grow(30, 9);
    for size in [20, 25] {
        let mut book = book.clone();
        let (second, step) = other.restored(size, "hub/log/2", 2, true);
        let steps = book.way_to(&second.signer.verifier_key(), &[step]).unwrap().unwrap();
        let outcome = book.succeed(steps);
        if size == 20 {
            assert!(outcome.is_err(), "the same size, another root");
        } else {
            outcome.unwrap();
            assert!(!second.prove(&mut book), "it cannot prove what was known");
        }
    }
}

#[test]
fn a_person_may_accept_what_nobody_signed_for() {
    let (log, mut book) = begun();
    log.show(&mut book, 30).unwrap();
    let (mut second, step) = log.restored(20, "hub/log/2", 2, false);
    second.grow(40, 2);
    let (third, next) = second.restored(35, "hub/log/3", 3, false);
    assert_eq!(book.way_to(&third.signer.verifier_key(), &[step.clone(), next.clone()]), Ok(None));
    book.accept(third.signer.verifier(), &[step, next]).unwrap();
    assert_eq!(
        book.logs().iter().map(|log| log.why).collect::<Vec<_>>(),
        [Why::Enrolled, Why::Person, Why::Person]
    );
    assert_eq!([book.held_of("hub/log/1"), book.held_of("hub/log/2")], [20, 35]);
    // a hub that was made anew holds nothing of before
    let fresh = Made::new("hub/log/7", 7);
    book.accept(fresh.signer.verifier(), &[]).unwrap();
    assert_eq!([book.held_of("hub/log/1"), book.held_of("hub/log/7")], [0, u64::MAX]);
    // and a fork is over once a person has looked at it
    let (one, two) = (log.head(7), log.head(8));
    book.forked(SignedHead::of(one.0, &one.1), SignedHead::of(two.0, &two.1));
    let era = book.era();
    assert_eq!(book.held_of_era(&era), u64::MAX);
    book.accept(fresh.signer.verifier(), &[]).unwrap();
    assert!(book.fork().is_none() && book.former_forks.len() == 1);
    assert_eq!([book.held_of_era(&era), book.held_of_era(&book.era())], [0, u64::MAX], "numbers begin anew");
}

#[test]
fn the_book_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.json");
    let (log, mut book) = begun();
    assert_eq!(file::load(&path).unwrap(), None);
    log.show(&mut book, 7).unwrap();
    assert!(log.prove(&mut book));
    log.show(&mut book, 9).unwrap();
    let (second, step) = log.restored(20, "hub/log/2", 2, true);
    let steps = book.way_to(&second.signer.verifier_key(), &[step]).unwrap().unwrap();
    book.succeed(steps).unwrap();
    second.show(&mut book, 12).unwrap();
    let (one, two) = (log.head(7), log.head(8));
    book.forked(SignedHead::of(one.0, &one.1), SignedHead::of(two.0, &two.1));
    file::save(&path, &book).unwrap();
    assert_eq!(file::load(&path).unwrap(), Some(book));
    for text in ["", "{}", r#"{"format":2,"logs":[]}"#, r#"{"format":1,"logs":[]}"#] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(file::load(&path), Err(Error::Home(_))), "{text}");
    }
}

#[tokio::test]
async fn a_home_of_before_goes_on_and_remembers_from_now() {
    let enrolled = Enrolled::new().await;
    let path = enrolled.folder.path().join("log.json");
    assert!(!path.exists());
    let receipt = enrolled.receipt(3, Event::ClockConfirmed(ClockConfirmed { operator: "o".into() }));
    enrolled.inner().trust.verify(&receipt).unwrap();
    // the hub is away: what was seen waits, also across the process's end
    enrolled.inner().mind_log().await.unwrap();
    let Enrolled { folder, client, .. } = enrolled;
    drop(client);
    let book = file::load(&folder.path().join("log.json")).unwrap().unwrap();
    assert_eq!(book.current().head.as_ref().map(|head| head.size), Some(4), "the first is believed");
    let known = KnownLogs::load(folder.path()).unwrap().unwrap();
    assert_eq!(known.verify(&receipt).unwrap().index, 3);
    assert!(known.problem().is_none());
}

#[tokio::test]
async fn a_fork_is_kept_and_nothing_is_done_after_it() {
    let enrolled = Enrolled::new().await;
    let event = |operator: &str| Event::ClockConfirmed(ClockConfirmed { operator: operator.into() });
    let trust = &enrolled.inner().trust;
    trust.verify(&enrolled.receipt(3, event("o"))).unwrap();
    // the same size over other leaves
    let record = Record { sequence: 3, event: Some(event("other")), ..Record::default() }.encode_to_vec();
    let mut leaves = vec![[9; 32]; 4];
    leaves[3] = tree::record_leaf(&[7; 16], &record);
    let checkpoint = enrolled.log.sign(4, &tree::root_of(&leaves));
    let forged = make_receipt::make(record.into(), &[7; 16], 3, tree::inclusion_of(&leaves, 3), checkpoint);
    let error = trust.verify(&forged).unwrap_err();
    assert!(matches!(error, Error::Log(LogProblem::Forked { .. })), "{error:?}");
    let error = enrolled.client.receive(crate::ReceiveOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Log(LogProblem::Forked { .. })), "{error:?}");
    let known = KnownLogs::load(enrolled.folder.path()).unwrap().unwrap();
    let Some(LogProblem::Forked { remembered, shown }) = known.problem() else { panic!() };
    for head in [remembered, shown] {
        assert_eq!(
            enrolled.log.verifier().verify(&head.note).unwrap().root,
            head.root,
            "the hub's own signature"
        );
    }
    assert!(known.verify(&forged).is_ok(), "evidence stays evidence");
    // a person decides, in another process
    let mut book = file::load(&enrolled.folder.path().join("log.json")).unwrap().unwrap();
    book.accept(enrolled.log.verifier(), &[]).unwrap();
    file::save(&enrolled.folder.path().join("log.json"), &book).unwrap();
    trust.check().unwrap();
    trust.verify(&enrolled.receipt(3, event("o"))).unwrap();
}

#[tokio::test]
async fn a_former_log_gives_no_receipts_any_more() {
    let enrolled = Enrolled::new().await;
    let trust = &enrolled.inner().trust;
    let receipt =
        |sequence| enrolled.receipt(sequence, Event::ClockConfirmed(ClockConfirmed { operator: "o".into() }));
    let kept = receipt(30);
    trust.verify(&kept).unwrap();
    let mut log = Made { signer: enrolled.log.clone(), leaves: Vec::new() };
    log.grow(20, 0);
    let (new, step) = log.restored(20, "hub.test/log2", 9, true);
    trust
        .update(|book| {
            let steps = book.way_to(&new.signer.verifier_key(), &[step]).unwrap().unwrap();
            book.succeed(steps).unwrap();
        })
        .unwrap();
    trust.verify(&receipt(3)).expect("the current log may hold it");
    for lost in [&kept, &receipt(50)] {
        let error = trust.verify(lost).unwrap_err();
        assert!(matches!(error, Error::Verification(_)), "{error:?}");
        assert!(trust.book().verify(lost).is_ok(), "what was kept stays evidence");
    }
}

#[test]
fn a_fork_is_kept_whatever_another_process_has_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path());
    let (log, book) = begun();
    let key = book.current().verifier.verifier_key();
    let (ours, theirs) = (Trust::open(&home, &key).unwrap(), Trust::open(&home, &key).unwrap());
    let (one, two) = (log.head(7), log.head(8));
    ours.book().forked(SignedHead::of(one.0, &one.1), SignedHead::of(two.0, &two.1));
    let (second, step) = log.restored(20, "hub/log/2", 2, true);
    theirs
        .update(|book| {
            let steps = book.way_to(&second.signer.verifier_key(), &[step]).unwrap().unwrap();
            book.succeed(steps).unwrap();
        })
        .unwrap();
    ours.keep_evidence();
    let saved = file::load(&home.log()).unwrap().unwrap();
    assert_eq!((saved.logs().len(), saved.fork().is_some()), (2, true));
    // what a person has looked at is not evidence again
    theirs.update(|book| book.accept(second.signer.verifier(), &[])).unwrap().unwrap();
    ours.keep_evidence();
    assert!(file::load(&home.log()).unwrap().unwrap().fork().is_none());
}

/// A client that has seen two heads, and a hub that answers as it is told.
async fn asked(
    proof: impl Fn(u64, u64) -> Result<Vec<Hash>, tonic::Status> + Send + Sync + 'static,
    checkpoint: impl FnOnce(&Made) -> String,
) -> (Enrolled, Made) {
    let enrolled = Enrolled::new().await;
    let mut log = Made { signer: enrolled.log.clone(), leaves: Vec::new() };
    log.grow(40, 0);
    {
        let mut book = enrolled.inner().trust.book();
        log.show(&mut book, 7).unwrap();
        assert!(log.prove(&mut book));
        log.show(&mut book, 9).unwrap();
    }
    let info = GetInfoResponse {
        hub_id: "hub.test".into(),
        log_verifier_key: log.signer.verifier_key(),
        ..GetInfoResponse::default()
    };
    FakeHub { info, proof: std::sync::Arc::new(proof), checkpoint: checkpoint(&log) }.serve(&enrolled).await;
    (enrolled, log)
}

fn refusal(code: tonic::Code, reason: &str) -> tonic::Status {
    use tonic_types::StatusExt as _;
    let mut details = tonic_types::ErrorDetails::new();
    details.set_error_info(reason, "axis", std::collections::HashMap::new());
    tonic::Status::with_error_details(code, "no", details)
}

fn is_unproven(error: &Error) -> bool {
    matches!(error, Error::Log(LogProblem::Unproven { shown, .. }) if shown.size == 9)
}

/// So much time has passed: what was remembered is so much older.
fn after(trust: &Trust, passed_ms: u64) {
    if let Some(asked) = trust.asked.lock().unwrap().as_mut() {
        *asked -= passed_ms;
    }
    let older = |book: &mut Book| {
        if let Some(overdue) = &mut book.overdue {
            overdue.counted_unix_ms -= passed_ms;
        }
    };
    trust.update(older).unwrap();
}

/// After ten minutes at the latest nothing is sent or received any more, by
/// any process of this home.
async fn ends_trust(enrolled: Enrolled) {
    let trust = &enrolled.inner().trust;
    let mut minutes = 0;
    let error = loop {
        match enrolled.inner().mind_log().await {
            Ok(()) => minutes += 1,
            Err(error) => break error,
        }
        assert!(minutes <= book::OVERDUE_MINUTES_MAX, "trusted for ever");
        after(trust, 60_000);
    };
    assert!(is_unproven(&error), "after {minutes} minutes: {error:?}");
    let again = Client::connect_with(enrolled.folder.path(), crate::testing::impatient()).await.unwrap();
    for client in [&enrolled.client, &again] {
        let code = |code: &str| code.parse().unwrap();
        let outgoing = Outgoing::new(code("H53"), "V/v").to(code("G22")).bytes("a.txt", "bytes");
        let error = client.send(outgoing, &quiet).await.unwrap_err();
        assert!(is_unproven(&error), "{error:?}");
        let error = client.receive(ReceiveOptions::default()).await.unwrap_err();
        assert!(is_unproven(&error), "{error:?}");
    }
    let known = KnownLogs::load(enrolled.folder.path()).unwrap().unwrap();
    assert!(matches!(known.problem(), Some(LogProblem::Unproven { .. })));
}

#[tokio::test]
async fn a_hub_that_never_proves_is_not_trusted_for_ever() {
    let none = |_: &Made| String::new();
    let away = asked(|_, _| Err(tonic::Status::unavailable("no")), none).await;
    ends_trust(away.0).await;
    for (code, reason) in [(tonic::Code::ResourceExhausted, "BUSY"), (tonic::Code::NotFound, "NOT_FOUND")] {
        ends_trust(asked(move |_, _| Err(refusal(code, reason)), none).await.0).await;
    }
    // no checkpoint that verifies, instead of the size that it signed
    let invalid = || refusal(tonic::Code::InvalidArgument, "FIELD_INVALID");
    ends_trust(asked(move |_, _| Err(invalid()), none).await.0).await;
}

#[tokio::test]
async fn a_hub_that_refuses_what_it_has_signed_is_not_trusted_at_once() {
    let invalid = || refusal(tonic::Code::InvalidArgument, "FIELD_INVALID");
    let (enrolled, _) = asked(move |_, _| Err(invalid()), |log| log.head(12).1).await;
    let error = enrolled.inner().mind_log().await.unwrap_err();
    assert!(matches!(error, Error::Log(LogProblem::Unproven { .. })), "{error:?}");
    // a smaller one is a fork
    let (enrolled, _) = asked(move |_, _| Err(invalid()), |log| log.head(8).1).await;
    let error = enrolled.inner().mind_log().await.unwrap_err();
    assert!(matches!(error, Error::Log(LogProblem::Forked { .. })), "{error:?}");
}

#[tokio::test]
async fn a_hub_that_proves_again_is_trusted_again() {
    let proves = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (told, leaves) = (proves.clone(), {
        let mut made = Made::new("any", 1);
        made.grow(40, 0);
        made.leaves
    });
    let proof = move |old: u64, new: u64| match told.load(Ordering::Relaxed) {
        true => Ok(tree::consistency_of(&leaves[..new as usize], old as usize)),
        false => Err(tonic::Status::unavailable("no")),
    };
    let (enrolled, mut log) = asked(proof, |_| String::new()).await;
    log.grow(100, 0);
    let inner = enrolled.inner();
    while inner.mind_log().await.is_ok() {
        after(&inner.trust, 60_000);
    }
    assert!(inner.check_log().await.is_err());
    proves.store(true, Ordering::Relaxed);
    inner.check_log().await.unwrap();
    assert_eq!(known(&inner.trust.book()), (9, 0));
    // a minute is waited for, unless half of what may wait does
    log.show(&mut inner.trust.book(), 10).unwrap();
    assert!(!inner.trust.is_due());
    for size in 11..10 + UNPROVEN_MAX / 2 {
        log.show(&mut inner.trust.book(), size).unwrap();
    }
    assert!(inner.trust.is_due());
}

#[tokio::test]
async fn a_pause_is_no_refusal() {
    let (enrolled, _) = asked(|_, _| Err(tonic::Status::unavailable("no")), |_| String::new()).await;
    for _ in 0..book::OVERDUE_MINUTES_MAX {
        enrolled.inner().mind_log().await.expect("hours without any call count as one minute");
        after(&enrolled.inner().trust, 10_000_000);
    }
}

#[tokio::test]
async fn no_more_heads_are_taken_than_are_proven() {
    let asked_for = std::sync::Arc::new(AtomicU64::new(0));
    let counted = asked_for.clone();
    let (enrolled, mut log) = asked(
        move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(tonic::Status::unavailable("no"))
        },
        |_| String::new(),
    )
    .await;
    log.grow(200, 0);
    let inner = enrolled.inner();
    let receipt = enrolled.receipt(3, Event::ClockConfirmed(ClockConfirmed { operator: "o".into() }));
    inner.know_log_of(Some(&receipt)).await.unwrap();
    assert_eq!(asked_for.load(Ordering::Relaxed), 0);
    for size in 10..10 + UNPROVEN_MAX {
        log.show(&mut inner.trust.book(), size).unwrap();
    }
    let error = inner.know_log_of(Some(&receipt)).await.unwrap_err();
    assert!(matches!(error, Error::Log(LogProblem::Unproven { .. })), "{error:?}");
    assert!(asked_for.load(Ordering::Relaxed) > 0);
}
