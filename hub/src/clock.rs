//! The only reader of the time. Everything else is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::limits::{self, Millis};

/// The hub's clock: the machine's, or one that a test moves. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// Wall clock minus monotonic clock, as it was when last trusted.
    offset_ms: AtomicI64,
    trusted: AtomicBool,
}

#[derive(Debug)]
enum Source {
    System { start: Instant },
    Manual { wall_ms: AtomicU64, monotonic_ms: AtomicU64 },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(Source::System { start: Instant::now() })
    }

    /// A clock that stands at `wall_ms` until a test moves it.
    pub fn manual(wall_ms: Millis) -> Self {
        Self::new(Source::Manual { wall_ms: AtomicU64::new(wall_ms), monotonic_ms: AtomicU64::new(0) })
    }

    fn new(source: Source) -> Self {
        let clock =
            Self(Arc::new(Inner { source, offset_ms: AtomicI64::new(0), trusted: AtomicBool::new(true) }));
        clock.0.offset_ms.store(clock.offset_ms(), Ordering::Relaxed);
        clock
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> Millis {
        match &self.0.source {
            Source::System { .. } => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
            }
            Source::Manual { wall_ms, .. } => wall_ms.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds since the clock was made; never goes back.
    pub fn monotonic_ms(&self) -> Millis {
        match &self.0.source {
            Source::System { start } => start.elapsed().as_millis() as Millis,
            Source::Manual { monotonic_ms, .. } => monotonic_ms.load(Ordering::Relaxed),
        }
    }

    /// Microseconds on the same scale, for measuring how long something took.
    pub fn monotonic_us(&self) -> u64 {
        match &self.0.source {
            Source::System { start } => start.elapsed().as_micros() as u64,
            Source::Manual { monotonic_ms, .. } => monotonic_ms.load(Ordering::Relaxed) * 1_000,
        }
    }

    /// Whether deadlines may act. Looks at the clock: a jump of more than
    /// [`limits::CLOCK_JUMP_MAX_MS`] ends the trust, and agreement with what
    /// was trusted before restores it.
    pub fn is_trusted(&self) -> bool {
        let jump = self.offset_ms().abs_diff(self.0.offset_ms.load(Ordering::Relaxed));
        let agrees = jump <= limits::CLOCK_JUMP_MAX_MS;
        if agrees && self.0.trusted.load(Ordering::Relaxed) {
            // follow the small corrections of time synchronisation
            self.0.offset_ms.store(self.offset_ms(), Ordering::Relaxed);
        }
        agrees && self.0.trusted.load(Ordering::Relaxed)
    }

    /// The time, and whether deadlines may act on it, as one look.
    pub fn look(&self) -> (Millis, bool) {
        let before = self.now_ms();
        let trusted = self.is_trusted();
        // a jump in between is not acted on
        (before, trusted && self.now_ms().abs_diff(before) <= limits::CLOCK_JUMP_MAX_MS)
    }

    /// Compares the clock with the last record of the journal at start; a
    /// difference of more than a day is not trusted until confirmed.
    pub fn compare_with_last_record(&self, recorded_ms: Millis) {
        if self.now_ms().abs_diff(recorded_ms) > limits::CLOCK_START_DIFFERENCE_MAX_MS {
            self.0.trusted.store(false, Ordering::Relaxed);
        }
    }

    /// An operator vouches for the clock as it is now.
    pub fn confirm(&self) {
        self.0.offset_ms.store(self.offset_ms(), Ordering::Relaxed);
        self.0.trusted.store(true, Ordering::Relaxed);
    }

    /// Moves a manual clock on; real clocks move by themselves.
    pub fn advance(&self, by_ms: Millis) {
        if let Source::Manual { wall_ms, monotonic_ms } = &self.0.source {
            wall_ms.fetch_add(by_ms, Ordering::Relaxed);
            monotonic_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    /// Sets a manual clock's wall time without moving its monotonic time, as
    /// a wrong correction would.
    pub fn jump_to(&self, to_ms: Millis) {
        if let Source::Manual { wall_ms, .. } = &self.0.source {
            wall_ms.store(to_ms, Ordering::Relaxed);
        }
    }

    fn offset_ms(&self) -> i64 {
        self.now_ms() as i64 - self.monotonic_ms() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_ends_the_trust_until_it_agrees_or_is_confirmed() {
        let clock = Clock::manual(1_000_000_000);
        assert!(clock.is_trusted());
        clock.advance(limits::DAY_MS);
        assert!(clock.is_trusted(), "time that passes is no jump");
        let before = clock.now_ms();
        clock.jump_to(before + 2 * limits::MINUTE_MS);
        assert!(!clock.is_trusted());
        clock.jump_to(before);
        assert!(clock.is_trusted(), "agrees again");
        clock.jump_to(before + limits::DAY_MS);
        assert!(!clock.is_trusted());
        clock.confirm();
        assert!(clock.is_trusted());
    }

    #[test]
    fn a_last_record_far_away_is_not_trusted_at_start() {
        let clock = Clock::manual(10 * limits::DAY_MS);
        clock.compare_with_last_record(10 * limits::DAY_MS - 1000);
        assert!(clock.is_trusted());
        clock.compare_with_last_record(limits::DAY_MS);
        assert!(!clock.is_trusted());
        clock.confirm();
        assert!(clock.is_trusted());
    }
}
