//! A queue that is fair: one system after the other is next, and each of them
//! in the order of its own. Whoever comes with a hundred waits behind its own,
//! and no other waits for more than one of them. What bounds calls bounds it.

use std::collections::{HashMap, VecDeque};

use axis_proto::id::SystemId;

/// What waits, by system.
#[derive(Debug)]
pub struct Round<T> {
    /// Systems that wait, the next one first, each once.
    systems: VecDeque<SystemId>,
    waiting: HashMap<SystemId, VecDeque<T>>,
}

impl<T> Default for Round<T> {
    fn default() -> Self {
        Self { systems: VecDeque::new(), waiting: HashMap::new() }
    }
}

impl<T> Round<T> {
    /// Lets something of a system wait.
    pub fn push(&mut self, system: &SystemId, one: T) {
        if let Some(own) = self.waiting.get_mut(system) {
            own.push_back(one);
        } else {
            self.systems.push_back(system.clone());
            self.waiting.insert(system.clone(), VecDeque::from([one]));
        }
    }

    /// What is next.
    pub fn pop(&mut self) -> Option<T> {
        let system = self.systems.pop_front()?;
        let own = self.waiting.get_mut(&system).expect("a system in the round has something that waits");
        let next = own.pop_front();
        if own.is_empty() {
            self.waiting.remove(&system);
        } else {
            self.systems.push_back(system);
        }
        next
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_with_many_waits_behind_its_own() {
        let mut round = Round::default();
        for (id, count) in [("flood", 100), ("vpcp", 2), ("byt", 1)] {
            (0..count).for_each(|number| round.push(&id.parse().unwrap(), (id, number)));
        }
        assert_eq!(round.len(), 103);
        let order: Vec<_> = std::iter::from_fn(|| round.pop()).collect();
        assert_eq!(
            order[..6],
            [("flood", 0), ("vpcp", 0), ("byt", 0), ("flood", 1), ("vpcp", 1), ("flood", 2)]
        );
        assert!(order.len() == 103 && order[6..].iter().all(|(id, _)| *id == "flood"));
        assert!(round.systems.is_empty() && round.waiting.is_empty());
    }
}
