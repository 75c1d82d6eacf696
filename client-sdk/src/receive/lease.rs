//! A delivery that the hub has leased to us: kept alive while it is held, and
//! given back if it is dropped without an answer.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axis_proto::{
    hub::v1::{ExtendRequest, NackRequest},
    id::DeliveryId,
};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use crate::{
    client::Inner,
    error::{Again, Result},
};

/// How many more deliveries the hub may send: given back as they end.
#[derive(Debug, Default)]
pub struct Credit {
    free: Mutex<u32>,
    returned: Notify,
}

impl Credit {
    /// So many to begin with.
    pub fn new(free: u32) -> Self {
        Self { free: Mutex::new(free), returned: Notify::new() }
    }

    /// Takes all that is free, at most this much.
    pub fn take(&self, most: u32) -> u32 {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = (*free).min(most);
        *free -= taken;
        taken
    }

    /// Gives some back.
    pub fn put(&self, credit: u32) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += credit;
        self.returned.notify_one();
    }

    /// Waits until some was given back.
    pub async fn returned(&self) {
        self.returned.notified().await;
    }
}

/// One lease.
pub struct Lease {
    inner: Arc<Inner>,
    credit: Arc<Credit>,
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The lease's number.
    pub attempt: u32,
    current: Arc<AtomicBool>,
    keeper: Option<AbortHandle>,
    answered: bool,
}

impl Lease {
    /// Holds a lease that was just given, extending it for at most `hold_max`.
    pub fn hold(
        inner: Arc<Inner>,
        credit: Arc<Credit>,
        delivery_id: DeliveryId,
        attempt: u32,
        duration: Duration,
        hold_max: Duration,
    ) -> Self {
        let current = Arc::new(AtomicBool::new(true));
        let keeper = (hold_max > duration).then(|| {
            let keep = keep(inner.clone(), delivery_id, attempt, duration, hold_max, current.clone());
            inner.runtime.spawn(keep).abort_handle()
        });
        Self { inner, credit, delivery_id, attempt, current, keeper, answered: false }
    }

    /// Whether the hub still keeps it for us, as far as is known.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    /// Extends it now.
    pub async fn extend(&self, duration: Duration) -> Result<()> {
        extend(&self.inner, self.delivery_id, self.attempt, duration).await
    }

    /// An answer is about to be given: nothing more is to be said on drop.
    pub fn answered(&mut self) {
        self.answered = true;
        self.stop_keeping();
    }

    /// Gives it back, to be offered again after a delay; the hub chooses one
    /// if none is given.
    pub async fn nack(&mut self, delay: Option<Duration>) -> Result<()> {
        self.answered();
        nack(&self.inner, self.delivery_id, self.attempt, delay).await
    }

    fn stop_keeping(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.abort();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop_keeping();
        self.credit.put(1);
        if !self.answered {
            // best effort: if it fails, the lease lapses
            let (inner, delivery_id, attempt) = (self.inner.clone(), self.delivery_id, self.attempt);
            let answer = async move {
                if let Err(error) = nack_once(&inner, delivery_id, attempt, None).await {
                    tracing::debug!(%delivery_id, %error, "dropped delivery was not given back");
                }
            };
            self.inner.answers.spawn_on(answer, &self.inner.runtime);
        }
    }
}

/// Extends a lease at each third of it, so that one lost call loses nothing.
async fn keep(
    inner: Arc<Inner>,
    delivery_id: DeliveryId,
    attempt: u32,
    duration: Duration,
    hold_max: Duration,
    current: Arc<AtomicBool>,
) {
    let until = Instant::now() + hold_max;
    while Instant::now() + duration < until {
        tokio::time::sleep(duration / 3).await;
        match extend_once(&inner, delivery_id, attempt, duration).await {
            Ok(()) => {}
            Err(error) if error.again() == Again::No => {
                tracing::debug!(%delivery_id, %error, "lease ended");
                break;
            }
            Err(error) => tracing::debug!(%delivery_id, %error, "lease was not extended yet"),
        }
    }
    if Instant::now() + duration >= until {
        // nobody extends it any more: it ends with what is left of it
        tokio::time::sleep(duration).await;
    }
    current.store(false, Ordering::Relaxed);
}

async fn extend(inner: &Inner, delivery_id: DeliveryId, attempt: u32, duration: Duration) -> Result<()> {
    inner.retried(|| extend_once(inner, delivery_id, attempt, duration)).await
}

async fn extend_once(inner: &Inner, delivery_id: DeliveryId, attempt: u32, duration: Duration) -> Result<()> {
    let request =
        ExtendRequest { delivery_id: delivery_id.to_string(), attempt, lease_duration_ms: millis(duration) };
    inner.timed(inner.mailbox().extend(inner.request(request))).await.map(|_| ())
}

async fn nack(inner: &Inner, delivery_id: DeliveryId, attempt: u32, delay: Option<Duration>) -> Result<()> {
    inner.retried(|| nack_once(inner, delivery_id, attempt, delay)).await
}

async fn nack_once(
    inner: &Inner,
    delivery_id: DeliveryId,
    attempt: u32,
    delay: Option<Duration>,
) -> Result<()> {
    // zero lets the hub choose, so the shortest delay is a millisecond
    let delay_ms = delay.map_or(0, |delay| millis(delay).max(1));
    let request = NackRequest { delivery_id: delivery_id.to_string(), attempt, delay_ms };
    inner.timed(inner.mailbox().nack(inner.request(request))).await.map(|_| ())
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
