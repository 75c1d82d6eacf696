//! Turns at what there is only so much of: one system after the other has one.
//! Counts only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axis_proto::id::SystemId;
use tokio::sync::oneshot;

use super::round::Round;
use crate::error::{Error, Result};

/// Who has a turn and who waits for one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<Queues>>);

#[derive(Debug)]
struct Queues {
    /// Turns that nobody has; none while somebody waits.
    free: usize,
    round: Round<oneshot::Sender<Turn>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn(Option<Turns>);

impl Turns {
    /// So many at once.
    pub fn new(turns: usize) -> Self {
        Self(Arc::new(Mutex::new(Queues { free: turns, round: Round::default() })))
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
            queues.round.push(system, next);
            turn
        };
        turn.await.map_err(Error::fault)
    }

    /// How many wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.lock().round.len()
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Who is next; with nobody the turn is free.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let next = self.round.pop();
        if next.is_none() {
            self.free += 1;
        }
        next
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
