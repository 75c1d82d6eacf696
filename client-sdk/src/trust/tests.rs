//! The book against a log that we make ourselves.

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

use super::{book::UNPROVEN_MAX, *};
use crate::testing::Enrolled;

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
fn what_waits_is_bounded_and_the_largest_stays() {
    let (mut log, mut book) = begun();
    log.grow(250, 0);
    for size in (1..=240).rev() {
        log.show(&mut book, size).unwrap();
    }
    assert_eq!(book.unproven.len(), UNPROVEN_MAX);
    assert_eq!(book.to_prove().last().unwrap().size, 240);
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
    assert_eq!(book.unproven.iter().map(|head| head.size).collect::<Vec<_>>(), [15, 10, 20]);
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
