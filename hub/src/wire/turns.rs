//! Turns at what there is only so much of, as processors: one system after
//! the other has one, and each of them in the order of its own callers. Whoever
//! comes with a hundred waits behind its own, and no other waits for more than
//! one of them. Counts only.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axis_proto::id::SystemId;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Who has a turn and who waits for one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<Queues>>);

#[derive(Debug)]
struct Queues {
    /// Turns that nobody has; none while somebody waits.
    free: usize,
    /// Systems that wait, the next one first, each once.
    round: VecDeque<SystemId>,
    /// Their callers; what bounds calls bounds them.
    waiting: HashMap<SystemId, VecDeque<oneshot::Sender<Turn>>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn(Option<Turns>);

impl Turns {
    /// So many at once.
    pub fn new(turns: usize) -> Self {
        Self(Arc::new(Mutex::new(Queues { free: turns, round: VecDeque::new(), waiting: HashMap::new() })))
    }

    /// One for each core.
    pub fn of_cores() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Waits for a turn of this system.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub async fn take(&self, system: &SystemId) -> Result<Turn> {
        let turn = {
            let mut queues = self.lock();
            if queues.free > 0 {
                queues.free -= 1;
                return Ok(Turn(Some(self.clone())));
            }
            let (next, turn) = oneshot::channel();
            let Queues { round, waiting, .. } = &mut *queues;
            let callers = waiting.entry(system.clone()).or_default();
            if callers.is_empty() {
                round.push_back(system.clone());
            }
            callers.push_back(next);
            turn
        };
        turn.await.map_err(Error::fault)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.values().map(VecDeque::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Who is next; with nobody the turn is free.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let Some(system) = self.round.pop_front() else {
            self.free += 1;
            return None;
        };
        let callers = self.waiting.get_mut(&system);
        let next = callers.and_then(|callers| callers.pop_front().map(|next| (next, callers.is_empty())));
        let (next, last) = next.expect("a system in the round has a caller who waits");
        if last {
            self.waiting.remove(&system);
        } else {
            self.round.push_back(system);
        }
        Some(next)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // who stopped waiting is passed over
        while let Some(turns) = self.0.take() {
            let Some(next) = turns.lock().next() else { return };
            if let Err(mut refused) = next.send(Turn(Some(turns))) {
                self.0 = refused.0.take();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;

    fn system(id: &str) -> SystemId {
        id.parse().unwrap()
    }

    /// Lets so many callers of each system wait, in this order, behind one who
    /// has the only turn; returns in which order they had theirs.
    async fn order(comers: &'static [(&'static str, usize)]) -> Vec<&'static str> {
        let turns = Turns::new(1);
        let first = turns.take(&system("first")).await.unwrap();
        let had = Arc::new(Mutex::new(Vec::new()));
        let mut callers = JoinSet::new();
        for (id, count) in comers {
            for _ in 0..*count {
                let (before, had) = (turns.waiting(), had.clone());
                callers.spawn({
                    let turns = turns.clone();
                    async move {
                        let _turn = turns.take(&system(id)).await.unwrap();
                        had.lock().unwrap().push(*id);
                    }
                });
                while turns.waiting() == before {
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(first);
        while callers.join_next().await.transpose().unwrap().is_some() {}
        let queues = turns.lock();
        assert!(queues.free == 1 && queues.round.is_empty() && queues.waiting.is_empty());
        drop(queues);
        std::mem::take(&mut had.lock().unwrap())
    }

    #[tokio::test]
    async fn who_comes_with_many_waits_behind_its_own() {
        let had = order(&[("flood", 100), ("vpcp", 2), ("byt", 1)]).await;
        assert_eq!(had[..6], ["flood", "vpcp", "byt", "flood", "vpcp", "flood"]);
        assert!(had.len() == 103 && had[6..].iter().all(|id| *id == "flood"));
    }

    #[tokio::test]
    async fn one_alone_has_all_turns_and_nobody_more_than_there_are() {
        let (turns, at_once) = (Turns::new(3), Arc::new((AtomicUsize::new(0), AtomicUsize::new(0))));
        let mut callers = JoinSet::new();
        for _ in 0..50 {
            let (turns, at_once) = (turns.clone(), at_once.clone());
            callers.spawn(async move {
                let _turn = turns.take(&system("vpcp")).await.unwrap();
                let now = at_once.0.fetch_add(1, Ordering::SeqCst) + 1;
                at_once.1.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                at_once.0.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while callers.join_next().await.transpose().unwrap().is_some() {}
        assert_eq!(at_once.1.load(Ordering::SeqCst), 3);
        assert_eq!(turns.lock().free, 3);
    }

    #[tokio::test]
    async fn who_stops_waiting_is_passed_over() {
        let turns = Turns::new(1);
        let first = turns.take(&system("first")).await.unwrap();
        let mut gone = JoinSet::new();
        for _ in 0..10_000 {
            let turns = turns.clone();
            gone.spawn(async move { turns.take(&system("gone")).await.map(drop) });
        }
        while turns.waiting() < 10_000 {
            tokio::task::yield_now().await;
        }
        gone.shutdown().await;
        let waits = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(&system("vpcp")).await.map(drop) }
        });
        while turns.waiting() < 10_001 {
            tokio::task::yield_now().await;
        }
        drop(first);
        waits.await.unwrap().unwrap();
        assert_eq!((turns.waiting(), turns.lock().free), (0, 1));
    }

    #[tokio::test]
    async fn a_turn_that_nobody_fetches_goes_on() {
        let turns = Turns::new(1);
        let first = turns.take(&system("first")).await.unwrap();
        let vpcp = system("vpcp");
        let mut handed = Box::pin(turns.take(&vpcp));
        assert!((&mut handed).now_or_never().is_none());
        drop(first);
        drop(handed);
        assert_eq!(turns.lock().free, 1);
    }
}
