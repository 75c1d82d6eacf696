//! What of a mailbox is next: lanes by weight, senders in a circle. Looks at
//! one moment of the state, and changes nothing but whose turn it is.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
};

use axis_proto::id::{DeliveryId, SystemId};

use super::tables::{delivery_from, key};
use crate::{limits::Millis, state::Read};

/// Whose turn it is in one mailbox: lanes by weight, senders in a circle.
/// Kept by whoever hands out deliveries; not part of the state.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    balance: [i64; 5],
    last_sender: [Vec<u8>; 5],
}

/// Weights of the lanes, lowest priority first: while all are full, each gets
/// this many of 31 turns.
const LANE_WEIGHTS: [i64; 5] = [1, 2, 4, 8, 16];

/// At most `max` deliveries of a system that may be leased now. Those that
/// come back from a delay take at most every other turn.
pub fn ready(
    read: &dyn Read,
    system: &SystemId,
    now_ms: Millis,
    turns: &mut Turns,
    max: usize,
) -> Vec<DeliveryId> {
    let mut due = due_again(read, system, now_ms, max).into_iter();
    let mut lanes: [Option<Lane>; 5] = std::array::from_fn(|lane| Some(Lane::new(system, lane, turns)));
    let mut chosen = Vec::new();
    while chosen.len() < max {
        if chosen.len() % 2 == 0
            && let Some(id) = due.next()
        {
            chosen.push(id);
            continue;
        }
        match next_by_lane(read, &mut lanes, turns) {
            Some(id) => chosen.push(id),
            None => {
                chosen.extend(due.by_ref().take(max - chosen.len()));
                break;
            }
        }
    }
    chosen
}

fn due_again(read: &dyn Read, system: &SystemId, now_ms: Millis, max: usize) -> Vec<DeliveryId> {
    let start = key::backing_offs(system.as_str());
    let end = key::backing_off(system.as_str(), now_ms.saturating_add(1), 0);
    let mut ids = Vec::new();
    read.scan(&start, &key::end_of(&start), &mut |key, value| {
        if ids.len() == max || key >= end.as_slice() {
            return ControlFlow::Break(());
        }
        ids.push(delivery_from(value));
        ControlFlow::Continue(())
    });
    ids
}

/// Smooth weighted round robin over the lanes that have something.
fn next_by_lane(read: &dyn Read, lanes: &mut [Option<Lane>; 5], turns: &mut Turns) -> Option<DeliveryId> {
    let mut best: Option<usize> = None;
    let mut total = 0;
    for lane in 0..lanes.len() {
        let Some(open) = &mut lanes[lane] else { continue };
        if !open.fill(read) {
            lanes[lane] = None;
            turns.balance[lane] = 0;
            continue;
        }
        turns.balance[lane] += LANE_WEIGHTS[lane];
        total += LANE_WEIGHTS[lane];
        if best.is_none_or(|best| turns.balance[lane] >= turns.balance[best]) {
            best = Some(lane);
        }
    }
    let best = best?;
    turns.balance[best] -= total;
    let (sender, id) = lanes[best].as_mut()?.next.take()?;
    turns.last_sender[best] = sender;
    Some(id)
}

/// One lane's candidates: senders in a circle, each in order of number.
/// Remembers what it read of its moment: a scan costs as much as many keys.
struct Lane {
    prefix: Vec<u8>,
    last_sender: Vec<u8>,
    /// Who comes after whom.
    circle: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    queues: BTreeMap<Vec<u8>, Queue>,
    next: Option<(Vec<u8>, DeliveryId)>,
}

/// What was read of one sender's queue and not chosen yet.
#[derive(Default)]
struct Queue {
    found: VecDeque<DeliveryId>,
    /// Where it goes on; empty before the first look.
    from: Vec<u8>,
    read: usize,
    is_over: bool,
}

impl Lane {
    fn new(system: &SystemId, lane: usize, turns: &Turns) -> Self {
        Self {
            prefix: key::ready_lane(system.as_str(), lane),
            last_sender: turns.last_sender[lane].clone(),
            circle: BTreeMap::new(),
            queues: BTreeMap::new(),
            next: None,
        }
    }

    /// Finds the next candidate; false if the lane has none left.
    fn fill(&mut self, read: &dyn Read) -> bool {
        if self.next.is_some() {
            return true;
        }
        let mut sender = self.sender_after(read, &self.last_sender.clone());
        let first = sender.clone();
        while let Some(name) = sender {
            if let Some(id) = self.candidate(read, &name) {
                self.last_sender.clone_from(&name);
                self.next = Some((name, id));
                return true;
            }
            sender = self.sender_after(read, &name);
            if sender == first {
                break;
            }
        }
        false
    }

    fn sender_prefix(&self, sender: &[u8]) -> Vec<u8> {
        [self.prefix.as_slice(), sender, &[0]].concat()
    }

    /// The first sender after one, around the circle.
    fn sender_after(&mut self, read: &dyn Read, sender: &[u8]) -> Option<Vec<u8>> {
        if let Some(known) = self.circle.get(sender) {
            return known.clone();
        }
        let from =
            if sender.is_empty() { self.prefix.clone() } else { key::end_of(&self.sender_prefix(sender)) };
        let after = self.first_sender(read, &from).or_else(|| self.first_sender(read, &self.prefix));
        self.circle.insert(sender.to_vec(), after.clone());
        after
    }

    fn first_sender(&self, read: &dyn Read, from: &[u8]) -> Option<Vec<u8>> {
        let mut sender = None;
        read.scan(from, &key::end_of(&self.prefix), &mut |key, _| {
            sender = Some(key[self.prefix.len()..key.len() - 9].to_vec());
            ControlFlow::Break(())
        });
        sender
    }

    fn candidate(&mut self, read: &dyn Read, sender: &[u8]) -> Option<DeliveryId> {
        let prefix = self.sender_prefix(sender);
        let queue = self.queues.entry(sender.to_vec()).or_default();
        if queue.found.is_empty() && !queue.is_over {
            queue.look(read, &prefix);
        }
        queue.found.pop_front()
    }
}

impl Queue {
    /// Reads on, each time as much as all the times before: where senders are
    /// many, each has but a few turns.
    fn look(&mut self, read: &dyn Read, prefix: &[u8]) {
        let max = self.read.max(1);
        let start = if self.from.is_empty() { prefix } else { self.from.as_slice() };
        let mut last = Vec::new();
        read.scan(start, &key::end_of(prefix), &mut |key, value| {
            self.found.push_back(delivery_from(value));
            if self.found.len() < max {
                return ControlFlow::Continue(());
            }
            last = key.to_vec();
            ControlFlow::Break(())
        });
        self.read += self.found.len();
        self.is_over = last.is_empty();
        last.push(0);
        self.from = last;
    }
}
