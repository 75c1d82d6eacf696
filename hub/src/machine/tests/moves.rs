//! An agency goes to another system: what waits for it goes along.

use super::*;

/// Another system serves an agency from now on; nobody if it is empty.
fn served_by(world: &mut World, code: &str, by: &str) {
    let mut entry = agency(code);
    if let Some(Value::Agency(agency)) = &mut entry.value {
        agency.system = by.into();
    }
    world.ok(Command::ChangeDirectory { entries: vec![entry], actor: "op".into(), remark: String::new() });
}

fn lease_by(world: &mut World, by: &str, id: DeliveryId) -> usize {
    let lease = Command::Lease { system: system(by), deliveries: vec![id], duration_ms: MINUTE_MS };
    world.ok(lease).sequences.len()
}

fn mailbox(world: &World, of: &str) -> query::MailboxRow {
    world.read(|read| query::mailbox(read, &system(of)))
}

#[test]
fn what_waits_goes_to_the_system_that_serves_its_agency_now() {
    let mut world = World::new();
    let stays = world.send(&["H53"]);
    let moves = world.send(&["H53.01"]);
    let other = world.send(&["G18"]);
    served_by(&mut world, "H53.01", "byt");
    assert_eq!(lease_by(&mut world, "tayninh", moves), 0, "not its agency's any more, from that record on");
    world.tick(0);
    assert_eq!(world.ready("tayninh", 10), vec![stays]);
    assert_eq!(world.ready("byt", 10), vec![other, moves]);
    let row = world.delivery(moves);
    assert_eq!((row.system.as_str(), row.mailbox_sequence, row.state()), ("byt", 2, DeliveryState::Waiting));
    let (left, come) = (mailbox(&world, "tayninh"), mailbox(&world, "byt"));
    assert_eq!((left.high, left.floor, left.waiting, left.lanes[0]), (2, 0, 1, 1));
    assert_eq!((come.high, come.floor, come.waiting, come.lanes[0]), (2, 0, 2, 2));
    let bytes = |id: DeliveryId| {
        world.read(|read| query::envelope(read, id.envelope_sequence)).expect("an envelope").bytes
    };
    assert_eq!(left.waiting_bytes, bytes(stays));
    assert_eq!(come.waiting_bytes, bytes(moves) + bytes(other));

    // nobody acknowledges what it was never given, although it has an address
    let acknowledgement = world.acknowledgement(moves);
    assert_eq!(world.refused(acknowledgement.clone()), Reason::NeverLeased);
    assert!(world.lease(moves));
    world.ok(acknowledgement);
    // the number in the mailbox that it left is accounted for, by a record
    assert!(world.lease(stays));
    let acknowledgement = world.acknowledgement(stays);
    world.ok(acknowledgement);
    let gone = world.read(|read| query::gone(read, &system("tayninh"), 0, 10, 10));
    assert_eq!((gone[1].0, gone[1].1, gone[1].2), (2, moves, Settlement::Moved));
    let Event::Moved(event) = world.event(gone[1].3) else { panic!("another record") };
    let left = event.delivery.expect("a delivery");
    assert_eq!((left.system.as_str(), left.mailbox_sequence), ("tayninh", 2));
    assert_eq!((event.system.as_str(), event.mailbox_sequence), ("byt", 2));
    assert_eq!(mailbox(&world, "tayninh").floor, 2);
    world.end();
}

#[test]
fn what_is_on_lease_moves_when_that_ends_and_cannot_be_held_longer() {
    for ending in ["nack", "lapse"] {
        let mut world = World::new();
        let id = world.send(&["H53.01"]);
        world.lease(id);
        let acknowledgement = world.acknowledgement(id);
        served_by(&mut world, "H53.01", "byt");
        world.tick(0);
        assert_eq!(world.delivery(id).system, "tayninh", "its attempt goes on");
        let extend =
            Command::Extend { system: system("tayninh"), delivery: id, attempt: 1, duration_ms: MINUTE_MS };
        assert_eq!(world.refused(extend), Reason::SenderNotServed);
        assert_eq!(world.refused(acknowledgement.clone()), Reason::SenderNotServed);
        if ending == "nack" {
            let nack = world.nack(id, DAY_MS);
            world.ok(nack);
        } else {
            world.tick(2 * MINUTE_MS);
        }
        let row = world.delivery(id);
        assert_eq!((row.system.as_str(), row.state(), row.due_unix_ms), ("byt", DeliveryState::Waiting, 0));
        assert_eq!(world.ready("byt", 10), vec![id], "the delay was for the other");
        assert_eq!(world.refused(acknowledgement), Reason::SenderNotServed, "{ending}");
        assert_eq!(mailbox(&world, "tayninh").leased, 0);
        assert!(world.lease(id));
        assert_eq!(world.delivery(id).leases, 2, "a lease has one number for ever");
        world.end();
    }
}

#[test]
fn what_is_parked_or_backs_off_moves_and_what_is_settled_stays() {
    let mut world = World::new();
    let [parked, settled, backing] = [0; 3].map(|_| world.send(&["H53.01"]));
    while world.state_of(parked) != DeliveryState::Parked {
        world.tick(limits::BACKOFF_MAX_MS);
        world.lease(parked);
    }
    world.lease(settled);
    let rejection = world.rejection(settled);
    world.ok(rejection);
    world.lease(backing);
    let nack = world.nack(backing, DAY_MS);
    world.ok(nack);
    served_by(&mut world, "H53.01", "byt");
    world.tick(0);
    assert_eq!(world.delivery(settled).system, "tayninh");
    assert_eq!(world.ready("byt", 10), vec![backing]);
    let held = world.read(|read| query::parked(read, Some(&system("byt")), None, 10));
    assert_eq!(held.iter().map(|held| held.id).collect::<Vec<_>>(), vec![parked]);
    assert_eq!((mailbox(&world, "tayninh").parked, mailbox(&world, "byt").parked), (0, 1));
    assert_eq!(mailbox(&world, "tayninh").floor, 3);
    world.ok(Command::Requeue { delivery: parked, operator: "op".into(), remark: "chuyển".into() });
    assert!(world.lease(parked));
    world.end();
}

#[test]
fn what_was_handed_back_before_its_agency_went_elsewhere_may_follow_later() {
    let mut world = World::new();
    let id = world.send(&["H53.01"]);
    served_by(&mut world, "H53.01", "byt");
    world.tick(0);
    world.lease(id);
    let nack = world.nack(id, DAY_MS);
    world.ok(nack);
    // the batch ends between this and the search that it calls for
    served_by(&mut world, "H53.01", "vpcp");
    assert_eq!(world.delivery(id).system, "byt");
    world.end();
}

#[test]
fn what_nobody_serves_waits_until_somebody_does() {
    let mut world = World::new();
    let mut later = world.envelope("G22", &["H53.01"]);
    later.not_before_unix_ms = world.now + MINUTE_MS;
    let later = world.send_envelope(later);
    let id = world.send(&["H53.01"]);
    served_by(&mut world, "H53.01", "");
    world.tick(2 * MINUTE_MS);
    assert_eq!((world.delivery(id).system.as_str(), world.delivery(later).system.as_str()), ("", ""));
    assert_eq!(lease_by(&mut world, "tayninh", id), 0);
    served_by(&mut world, "H53.01", "byt");
    world.tick(0);
    assert_eq!(world.ready("byt", 10).len(), 2);
    // and back to where it was, under a number of its own
    served_by(&mut world, "H53.01", "tayninh");
    world.tick(0);
    assert_eq!(world.ready("byt", 10), vec![]);
    assert_eq!(world.ready("tayninh", 10).len(), 2);
    assert_eq!((mailbox(&world, "tayninh").high, mailbox(&world, "tayninh").floor), (3, 1));
    world.end();
}

#[test]
fn a_long_queue_moves_some_at_a_time_and_is_looked_through_once() {
    let mut world = World::new();
    let codes: Vec<String> = (0..48).map(|number| format!("H53.X{number:02}")).collect();
    let mut entries: Vec<DirectoryEntry> = codes.iter().map(|code| agency(code)).collect();
    for entry in &mut entries {
        if let Some(Value::Agency(agency)) = &mut entry.value {
            agency.system = "tayninh".into();
        }
    }
    world.ok(Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() });
    let to: Vec<&str> = codes.iter().map(String::as_str).collect();
    let envelopes = limits::SEARCH_MAX / 40;
    for _ in 0..envelopes {
        world.send(&to);
    }
    let (count, moving) = (48 * envelopes, 24 * envelopes);
    assert!(count > limits::SEARCH_MAX && moving > 2 * limits::TICK_RECORDS_MAX);
    let before = world.entries.len();
    for code in &codes[..24] {
        served_by(&mut world, code, "byt");
    }
    let mut ticks = 0;
    while world.read(|read| crate::machine::is_due(read, world.now, true)) {
        let size = world.entries.len();
        let decided = world.ok(Command::Tick { clock_trusted: true }).sequences.len();
        assert_eq!(decided, world.entries.len() - size);
        assert!((1..=limits::TICK_RECORDS_MAX).contains(&decided), "{decided}");
        ticks += 1;
        assert!(ticks < 100);
        // another change meanwhile begins again, and loses nothing
        if ticks == 2 {
            served_by(&mut world, "H53", "byt");
        }
    }
    let moved = (before..world.entries.len()).filter(|at| matches!(world.event(*at as u64), Event::Moved(_)));
    assert_eq!(moved.count(), moving);
    assert_eq!(mailbox(&world, "byt").waiting as usize, moving);
    assert_eq!(mailbox(&world, "tayninh").waiting as usize, count - moving);
    world.end();
}

#[test]
fn a_lease_moves_what_it_finds_before_the_search_does() {
    let mut world = World::new();
    let ids = [0; 3].map(|_| world.send(&["H53.01"]));
    served_by(&mut world, "H53.01", "byt");
    let lease = Command::Lease { system: system("tayninh"), deliveries: ids.to_vec(), duration_ms: 0 };
    assert_eq!(world.ok(lease).sequences, Vec::<u64>::new());
    assert_eq!(world.ready("byt", 10).len(), 3, "they hold up nobody in the queue that they leave");
    world.tick(0);
    world.end();
}

#[test]
fn what_moved_is_forgotten_in_every_mailbox_that_it_was_in() {
    let mut world = World::new();
    let held = world.send(&["H53"]);
    let id = world.send(&["H53.01"]);
    served_by(&mut world, "H53.01", "byt");
    world.tick(0);
    world.lease(id);
    let acknowledgement = world.acknowledgement(id);
    world.ok(acknowledgement);
    world.tick(limits::CARGO_KEPT_MS);
    world.tick(limits::SUMMARY_KEPT_MS);
    assert!(world.read(|read| query::delivery(read, &id)).is_none(), "forgotten");
    assert!(world.read(|read| query::delivery(read, &held)).is_none(), "forgotten");
    for name in ["tayninh", "byt"] {
        let left = world.read(|read| query::gone(read, &system(name), 0, 10, 10));
        assert_eq!(
            (left, mailbox(&world, name).forgotten_to),
            (vec![], mailbox(&world, name).high),
            "{name}"
        );
    }
    let rest = all(&world.state);
    let of = |tag: u8| rest.keys().filter(|key| key[0] == tag).count();
    assert_eq!([b'n', b'D', b'e', b'd', b'S'].map(of), [0; 5]);
    world.end();
}

#[test]
fn a_wide_envelope_is_seen_by_those_who_have_it() {
    let mut world = World::new();
    let codes: Vec<String> = (0..limits::WIDE_RECIPIENTS).map(|number| format!("H53.X{number:04}")).collect();
    for part in codes.chunks(50) {
        let mut entries: Vec<DirectoryEntry> = part.iter().map(|code| agency(code)).collect();
        for entry in &mut entries {
            if let Some(Value::Agency(agency)) = &mut entry.value {
                agency.system = "tayninh".into();
            }
        }
        world.ok(Command::ChangeDirectory { entries, actor: "op".into(), remark: String::new() });
    }
    let mut to: Vec<&str> = codes.iter().map(String::as_str).collect();
    to.push("H53.01");
    let first = world.send(&to);
    world.tick(0);
    let visible = |world: &World, by: &str| {
        world.read(|read| query::track(read, first.envelope_sequence, 0, 1_000, Some(&system(by))).0.len())
    };
    assert_eq!((visible(&world, "tayninh"), visible(&world, "byt")), (to.len(), 0));
    served_by(&mut world, "H53.01", "byt");
    world.tick(0);
    assert_eq!((visible(&world, "tayninh"), visible(&world, "byt")), (to.len() - 1, 1));
    world.end();
}

#[test]
fn the_checker_sees_what_is_leased_or_moved_against_the_directory() {
    use axis_proto::record::v1::{Leased, Moved};

    let mut world = World::new();
    let id = world.send(&["H53.01"]);
    let other = world.send(&["H53.01"]);
    let named = |world: &World, id: DeliveryId| {
        let row = world.delivery(id);
        let envelope = world.read(|read| query::envelope(read, id.envelope_sequence)).expect("an envelope");
        Some(axis_proto::record::v1::Delivery {
            envelope_sequence: id.envelope_sequence,
            recipient_index: id.recipient_index,
            envelope_digest: Bytes::from(envelope.envelope_digest),
            agency: row.agency,
            system: row.system,
            mailbox_sequence: row.mailbox_sequence,
        })
    };
    let moved = |world: &World, to: &str, number| {
        Event::Moved(Moved { delivery: named(world, id), system: to.into(), mailbox_sequence: number })
    };
    let found = world.violations_with(moved(&world, "byt", 1));
    assert!(found.iter().any(|what| what.contains("moved to a system")), "{found:?}");
    served_by(&mut world, "H53.01", "byt");
    assert_eq!(world.violations_with(moved(&world, "byt", 1)), Vec::<String>::new());
    let found = world.violations_with(moved(&world, "byt", 2));
    assert!(found.iter().any(|what| what.contains("mailbox number 2")), "{found:?}");
    // one has moved: whoever wrote this journal knows that the others must
    assert_eq!(lease_by(&mut world, "tayninh", id), 0);
    let leased = Event::Leased(Leased {
        delivery: named(&world, other),
        attempt: 1,
        lease_until_unix_ms: world.now + MINUTE_MS,
    });
    let found = world.violations_with(leased);
    assert!(found.iter().any(|what| what.contains("does not serve")), "{found:?}");
    world.tick(0);
    world.end();
}
