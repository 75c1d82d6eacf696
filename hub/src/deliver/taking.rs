//! One stream or pull that takes from a mailbox: its credit, and the leases
//! on their way to it. Bounded on both sides.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Notify, mpsc};

use crate::limits::Millis;

/// Most leases on their way to one taker: those beyond wait in the mailbox,
/// where another taker may have them.
const UNDER_WAY_MAX: usize = 128;

/// A lease that was given: the sequence of its Leased record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(pub u64);

/// How somebody takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appetite {
    /// How many deliveries may come at first.
    pub credit: u32,
    /// How long each lease lasts.
    pub lease_duration_ms: Millis,
    /// Most bytes of envelopes and documents in one round, but always one
    /// delivery. If unset, they are handed over one by one and need no bound.
    pub bytes_max: Option<u64>,
    /// Whether the first round that gives something is the last.
    pub once: bool,
    /// Whether a round that finds nothing is to be told.
    pub impatient: bool,
}

/// The takers of one mailbox.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    takers: Mutex<Vec<Arc<Taker>>>,
    next_id: AtomicU64,
    asked: Notify,
}

impl Mailbox {
    pub(super) fn join(self: &Arc<Self>, appetite: Appetite) -> Taking {
        let (rounds, leases) = mpsc::channel(UNDER_WAY_MAX + 1);
        let demand = Mutex::new(Demand { wanted: appetite.credit as usize, ..Demand::default() });
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let taker = Arc::new(Taker { id, appetite, demand, rounds });
        self.takers().push(taker.clone());
        self.asked.notify_one();
        Taking { taker, mailbox: self.clone(), leases }
    }

    /// Ends when somebody asks for more, comes or goes; also if that happened
    /// since the last time.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Those that have room, and how much.
    pub(super) fn hungry(&self) -> Vec<(Arc<Taker>, usize)> {
        let rooms = self.takers();
        rooms.iter().map(|taker| (taker.clone(), taker.room())).filter(|(_, room)| *room > 0).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.takers().is_empty()
    }

    fn takers(&self) -> MutexGuard<'_, Vec<Arc<Taker>>> {
        self.takers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The dispatcher's side of one that takes.
#[derive(Debug)]
pub(super) struct Taker {
    id: u64,
    appetite: Appetite,
    demand: Mutex<Demand>,
    rounds: mpsc::Sender<Vec<Lease>>,
}

#[derive(Debug, Default)]
struct Demand {
    /// Credit that is not used yet.
    wanted: usize,
    /// Leases that were given and not yet taken over.
    under_way: usize,
    /// Whether a round for it is being committed.
    committing: bool,
}

impl Taker {
    pub(super) fn appetite(&self) -> &Appetite {
        &self.appetite
    }

    fn room(&self) -> usize {
        let demand = self.demand();
        if demand.committing { 0 } else { demand.wanted.min(UNDER_WAY_MAX.saturating_sub(demand.under_way)) }
    }

    /// Sets deliveries aside for it, to be given by [`Self::give`]; false if
    /// it wants them no more.
    pub(super) fn assign(&self, count: usize) -> bool {
        let mut demand = self.demand();
        let wants = demand.wanted >= count.max(1);
        if wants {
            demand.wanted -= count;
            demand.committing = true;
        }
        wants
    }

    /// Gives what became of deliveries that were set aside.
    pub(super) fn give(&self, assigned: usize, sequences: Vec<u64>) {
        let mut demand = self.demand();
        demand.committing = false;
        demand.under_way += sequences.len();
        if self.appetite.once && !sequences.is_empty() {
            demand.wanted = 0;
        } else {
            demand.wanted += assigned.saturating_sub(sequences.len());
        }
        drop(demand);
        // never full: each round brings something that is under way, but for
        // empty ones, which end the taking; leases of one who is gone lapse
        if !sequences.is_empty() || self.appetite.impatient {
            let _ = self.rounds.try_send(sequences.into_iter().map(Lease).collect());
        }
    }

    fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who takes, until dropped. What was leased and not taken over by
/// then lapses.
#[derive(Debug)]
pub struct Taking {
    taker: Arc<Taker>,
    mailbox: Arc<Mailbox>,
    leases: mpsc::Receiver<Vec<Lease>>,
}

/// Asks for more from elsewhere than where the leases are taken over.
#[derive(Debug, Clone)]
pub struct Credit {
    taker: Arc<Taker>,
    mailbox: Arc<Mailbox>,
}

impl Credit {
    /// Lets more deliveries come.
    pub fn want(&self, more: u32) {
        self.taker.demand().wanted += more as usize;
        self.mailbox.asked.notify_one();
    }
}

impl Taking {
    /// The next round of leases, in order. An empty one tells the impatient
    /// that there is nothing now.
    pub async fn next(&mut self) -> Vec<Lease> {
        let round = self.leases.recv().await.unwrap_or_default();
        let mut demand = self.taker.demand();
        demand.under_way = demand.under_way.saturating_sub(round.len());
        drop(demand);
        self.mailbox.asked.notify_one();
        round
    }

    /// Lets no more come, and returns what is on its way.
    pub async fn finish(mut self) -> Vec<Lease> {
        let committing = {
            let mut demand = self.taker.demand();
            demand.wanted = 0;
            demand.committing
        };
        let mut last = if committing { self.next().await } else { Vec::new() };
        while let Ok(round) = self.leases.try_recv() {
            last.extend(round);
        }
        last
    }

    /// A handle to ask for more with.
    pub fn credit(&self) -> Credit {
        Credit { taker: self.taker.clone(), mailbox: self.mailbox.clone() }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.mailbox.takers().retain(|taker| taker.id != self.taker.id);
        self.mailbox.asked.notify_one();
    }
}
