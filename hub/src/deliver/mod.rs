//! Hands waiting deliveries to those who take them, at the hub's own pace:
//! one dispatcher for each mailbox that somebody takes from. Leases nothing
//! that nobody has credit for, and never waits for a slow taker.
//!
//! ```text
//! Deliver::take ─▶ Taking ◀─leases─ dispatcher ─Lease─▶ committer
//!                    │ want(credit) ──────▲  ▲── wakes: a batch, a due time
//! ```

mod hand_over;
mod taking;
mod wake;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axis_proto::{
    hub::v1::Reason,
    id::{DeliveryId, SystemId},
};
use futures_util::future::join_all;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

pub use hand_over::{Content, content_of, hand_over, hand_over_at_once, keys_then};
pub use taking::{Appetite, Credit, Lease, Taking};
use taking::{Mailbox, Taker};
pub use wake::Wakes;

use crate::{
    clock::Clock,
    commit::Committer,
    error::Error,
    limits::{self, Millis},
    machine::{Command, query},
    state::{Read, State, read_once},
};

/// Most deliveries that one round of a dispatcher leases: enough to fill a
/// commit, few enough that looking for them keeps no writer waiting.
const ROUND_MAX: usize = 64;
/// How long a dispatcher waits after a commit that failed or leased nothing.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a dispatcher looks at the clock while a delivery backs off: the
/// wall clock may move otherwise than a timer.
const DUE_CHECK_MAX: Duration = Duration::from_millis(500);

/// Hands out deliveries. Cheap to clone.
#[derive(Clone)]
pub struct Deliver(Arc<Inner>);

struct Inner {
    state: Arc<dyn State>,
    committer: Committer,
    clock: Clock,
    wakes: Wakes,
    stopping: CancellationToken,
    mailboxes: Mutex<BTreeMap<SystemId, Arc<Mailbox>>>,
}

impl Deliver {
    /// Starts with no dispatcher; each starts with the first taker of its
    /// mailbox and ends with the last.
    pub fn new(
        state: Arc<dyn State>,
        committer: Committer,
        clock: Clock,
        wakes: Wakes,
        stopping: CancellationToken,
    ) -> Self {
        let mailboxes = Mutex::default();
        Self(Arc::new(Inner { state, committer, clock, wakes, stopping, mailboxes }))
    }

    /// Begins to take from a system's mailbox.
    pub fn take(&self, system: &SystemId, appetite: Appetite) -> Taking {
        let mut mailboxes = self.0.mailboxes();
        let mailbox = mailboxes.entry(system.clone()).or_insert_with(|| {
            let mailbox = Arc::new(Mailbox::default());
            let dispatcher = Dispatcher {
                inner: self.0.clone(),
                system: system.clone(),
                mailbox: mailbox.clone(),
                wake: self.0.wakes.of(system),
                turns: query::Turns::default(),
                first: 0,
            };
            tokio::spawn(dispatcher.run());
            mailbox
        });
        // under the lock: a dispatcher that finds nobody retires under it
        mailbox.join(appetite)
    }

    /// Changes after something of this system did.
    pub fn wake_of(&self, system: &SystemId) -> watch::Receiver<()> {
        self.0.wakes.of(system)
    }
}

impl Inner {
    fn mailboxes(&self) -> MutexGuard<'_, BTreeMap<SystemId, Arc<Mailbox>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the takers of one mailbox.
struct Dispatcher {
    inner: Arc<Inner>,
    system: SystemId,
    mailbox: Arc<Mailbox>,
    wake: watch::Receiver<()>,
    turns: query::Turns,
    /// The taker that is first in the next round.
    first: usize,
}

/// What a dispatcher found that it can do.
enum Found {
    Shares(Vec<Share>),
    Nothing { next_due_ms: Option<Millis> },
}

/// What one taker is to get.
struct Share {
    taker: Arc<Taker>,
    deliveries: Vec<DeliveryId>,
}

impl Dispatcher {
    async fn run(mut self) {
        let stopping = self.inner.stopping.clone();
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        loop {
            // before looking, or a wake-up is lost
            self.wake.borrow_and_update();
            let hungry = self.mailbox.hungry();
            if hungry.is_empty() {
                if self.retire() {
                    return;
                }
                self.mailbox.asked().await;
                continue;
            }
            match self.find(hungry) {
                Found::Shares(shares) => self.lease(shares).await,
                Found::Nothing { next_due_ms } => {
                    let due = until(&self.inner.clock, next_due_ms);
                    tokio::select! {
                        biased;
                        () = self.mailbox.asked() => {}
                        () = due => {}
                        // a committer that is gone wakes nobody: the hub stops
                        changed = self.wake.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    /// Ends this dispatcher if nobody takes from its mailbox any more.
    fn retire(&self) -> bool {
        let mut mailboxes = self.inner.mailboxes();
        let empty = self.mailbox.is_empty();
        if empty {
            mailboxes.remove(&self.system);
        }
        empty
    }

    fn find(&mut self, hungry: Vec<(Arc<Taker>, usize)>) -> Found {
        let now_ms = self.inner.clock.now_ms();
        let wanted: usize = hungry.iter().map(|(_, room)| *room).sum();
        let weigh = hungry.iter().any(|(taker, _)| taker.appetite().bytes_max.is_some());
        let (candidates, next_due_ms) = read_once(&*self.inner.state, |read| {
            let max = wanted.min(ROUND_MAX).min(room_of(read, &self.system));
            let ready = match max {
                0 => Vec::new(),
                max => query::ready(read, &self.system, now_ms, &mut self.turns, max),
            };
            let due = if ready.is_empty() { query::next_due_ms(read, &self.system) } else { None };
            let weighed = ready.into_iter().map(|id| (id, if weigh { bytes_of(read, &id) } else { 0 }));
            (weighed.collect::<Vec<_>>(), due)
        });
        self.first = self.first.wrapping_add(1);
        let shares = share(hungry, candidates, self.first);
        if shares.is_empty() { Found::Nothing { next_due_ms } } else { Found::Shares(shares) }
    }

    /// Leases what was shared out and hands it over. Takers of one round are
    /// committed together.
    async fn lease(&self, shares: Vec<Share>) {
        let results = join_all(shares.into_iter().map(|share| self.lease_one(share))).await;
        let pause = results.iter().filter_map(|result| result.as_ref().err()).max();
        if let Some(pause) = pause {
            sleep(*pause).await;
        } else if results.iter().all(|leased| *leased == Ok(0)) {
            sleep(PAUSE).await;
        }
    }

    /// How many were leased, or how long to wait before trying again.
    async fn lease_one(&self, share: Share) -> Result<usize, Duration> {
        let Share { taker, deliveries } = share;
        let command = Command::Lease {
            system: self.system.clone(),
            deliveries: deliveries.clone(),
            duration_ms: taker.appetite().lease_duration_ms,
        };
        match self.inner.committer.commit(command).await {
            Ok(outcome) => {
                let leased = outcome.sequences.len();
                taker.give(deliveries.len(), outcome.sequences);
                Ok(leased)
            }
            Err(error) => {
                taker.give(deliveries.len(), Vec::new());
                match error {
                    Error::Refused(refusal) if refusal.retry_after_ms > 0 => {
                        Err(Duration::from_millis(refusal.retry_after_ms))
                    }
                    Error::Refused(refusal) if refusal.reason == Reason::Busy => Err(PAUSE),
                    error => {
                        tracing::warn!(system = self.system.as_str(), %error, "leasing failed");
                        Err(PAUSE)
                    }
                }
            }
        }
    }
}

/// Ends when a due time may have come; never if there is none.
async fn until(clock: &Clock, due_ms: Option<Millis>) {
    match due_ms {
        None => std::future::pending().await,
        Some(due_ms) => {
            let wait = Duration::from_millis(due_ms.saturating_sub(clock.now_ms()));
            sleep(wait.clamp(Duration::from_millis(1), DUE_CHECK_MAX)).await;
        }
    }
}

/// How many more deliveries a system may have on lease.
fn room_of(read: &dyn Read, system: &SystemId) -> usize {
    // what waits for a suspended system is held
    if !query::is_system_active(read, system.as_str()) {
        return 0;
    }
    let leased = query::mailbox(read, system).leased;
    usize::try_from(limits::LEASED_PER_SYSTEM_MAX.saturating_sub(leased)).unwrap_or(usize::MAX)
}

fn bytes_of(read: &dyn Read, id: &DeliveryId) -> u64 {
    query::envelope_part(read, id.envelope_sequence).map_or(0, |envelope| envelope.bytes)
}

/// Deals candidates out one by one, in a circle of those who have room. Those
/// who asked to be answered at once are, even with nothing.
fn share(hungry: Vec<(Arc<Taker>, usize)>, candidates: Vec<(DeliveryId, u64)>, first: usize) -> Vec<Share> {
    let mut seats: Vec<(Share, usize, u64)> =
        hungry.into_iter().map(|(taker, room)| (Share { taker, deliveries: Vec::new() }, room, 0)).collect();
    let count = seats.len();
    let mut turn = first % count.max(1);
    for (id, bytes) in candidates {
        let fits = |(share, room, taken): &(Share, usize, u64)| {
            *room > 0
                && (*taken == 0 || share.taker.appetite().bytes_max.is_none_or(|max| taken + bytes <= max))
        };
        let Some(place) = (0..count).map(|step| (turn + step) % count).find(|place| fits(&seats[*place]))
        else {
            break;
        };
        let (share, room, taken) = &mut seats[place];
        share.deliveries.push(id);
        *room -= 1;
        *taken += bytes;
        turn = (place + 1) % count;
    }
    let mut shares = Vec::new();
    for (share, ..) in seats {
        let count = share.deliveries.len();
        if !share.taker.assign(count) {
            continue;
        }
        match count {
            0 => share.taker.give(0, Vec::new()),
            _ => shares.push(share),
        }
    }
    shares
}

#[cfg(test)]
mod tests;
