//! Drafts and stores against a plain map.

use std::{collections::BTreeMap, ops::ControlFlow};

use proptest::prelude::*;

use super::{memory::MemoryState, *};

type Model = BTreeMap<Key, Value>;

/// Few and short keys, so that they meet often.
fn key() -> impl Strategy<Value = Key> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(7), Just(255)], 1..4)
}

fn changes() -> impl Strategy<Value = Changes> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..4));
    prop::collection::btree_map(key(), value, 0..24).prop_map(Changes::from_iter)
}

fn bound() -> impl Strategy<Value = Key> {
    prop_oneof![key(), Just(Key::new())]
}

fn change(model: &mut Model, changes: &Changes) {
    for (key, change) in changes {
        match change {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

/// What a scan visits, at most `max` of it.
pub(super) fn visited(read: &dyn Read, start: &[u8], end: &[u8], max: usize) -> Vec<(Key, Value)> {
    let mut seen = Vec::new();
    read.scan(start, end, &mut |key, value| {
        assert!(seen.len() < max, "visited after break");
        seen.push((key.to_vec(), value.to_vec()));
        if seen.len() == max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    seen
}

/// Everything that reading can tell is as the model has it.
fn same(read: &dyn Read, model: &Model, scans: &[(Key, Key, usize)]) {
    for (start, end, max) in scans {
        let expected: Vec<_> = model
            .iter()
            .filter(|(key, _)| *key >= start && (end.is_empty() || *key < end))
            .take(*max)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(visited(read, start, end, *max), expected);
        assert_eq!(read.get(start), model.get(start).cloned());
    }
    assert_eq!(digest(read), digest(model));
}

proptest! {
    #[test]
    fn stacked_drafts_read_as_one_map(
        base in changes(),
        layers in prop::collection::vec(changes(), 2),
        scans in prop::collection::vec((bound(), bound(), 1usize..40), 1..8),
    ) {
        let mut model = Model::new();
        change(&mut model, &base);
        let store = model.clone();

        let mut lower = Draft::new(&store);
        lower.absorb(layers[0].clone());
        change(&mut model, &layers[0]);
        same(&lower, &model, &scans);

        let before = model.clone();
        let mut upper = Draft::new(&lower);
        for (key, value) in &layers[1] {
            match value {
                Some(value) => upper.put(key.clone(), value.clone()),
                None => upper.delete(key.clone()),
            }
        }
        change(&mut model, &layers[1]);
        same(&upper, &model, &scans);
        same(&lower, &before, &scans);

        let changes = upper.into_changes();
        lower.absorb(changes);
        same(&lower, &model, &scans);
    }

    #[test]
    fn the_memory_store_is_a_map(
        steps in prop::collection::vec(changes(), 1..6),
        scans in prop::collection::vec((bound(), bound(), 1usize..40), 1..8),
    ) {
        let state = MemoryState::new();
        let mut model = Model::new();
        for (applied, step) in steps.into_iter().enumerate() {
            change(&mut model, &step);
            state.publish(step, applied as u64);
            state.read(&mut |read| same(read, &model, &scans));
            assert_eq!(state.applied(), applied as u64);
        }
    }
}

#[test]
fn a_prefix_ends_before_the_next_one() {
    assert_eq!(prefix_end(b"ab"), b"ac");
    assert_eq!(prefix_end(&[1, 255, 255]), [2]);
    assert!(prefix_end(&[255, 255]).is_empty(), "to the last key");
    assert!(prefix_end(&[]).is_empty());
}
