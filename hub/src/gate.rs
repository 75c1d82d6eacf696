//! Holds still what a backup reads: while one is being made nothing is erased
//! from the journal and no document leaves the vault. Never held for longer
//! than [`limits::BACKUP_TIME_MAX`] by a backup, or than one step by an eraser.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use crate::limits;

/// Between backups and whoever erases. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<Inside>);

/// Who is inside now: never both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Inside {
    backups: usize,
    /// Steps of erasing that were begun.
    steps: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(Inside::default()))
    }
}

/// Nothing is erased while this lives.
#[derive(Debug)]
pub struct Held(Gate);

/// A step of erasing; no backup begins to read while this lives.
#[derive(Debug)]
pub struct Step(Gate);

impl Gate {
    /// Lets a backup in, once the step of erasing that may be under way has
    /// ended. `None` if there is a backup already, or the step does not end
    /// within [`limits::ERASE_STEP_TIMEOUT`].
    pub async fn hold(&self) -> Option<Held> {
        let entered = self.0.send_if_modified(|inside| {
            let free = inside.backups == 0;
            inside.backups = 1;
            free
        });
        if !entered {
            return None;
        }
        let held = Held(self.clone());
        let mut inside = self.0.subscribe();
        let ended = timeout(limits::ERASE_STEP_TIMEOUT, inside.wait_for(|inside| inside.steps == 0)).await;
        matches!(ended, Ok(Ok(_))).then_some(held)
    }

    /// Begins a step of erasing: one segment written anew, or some documents
    /// removed. `None` while a backup is being made: try again later.
    pub fn step(&self) -> Option<Step> {
        let entered = self.0.send_if_modified(|inside| {
            let free = inside.backups == 0;
            inside.steps += usize::from(free);
            free
        });
        entered.then(|| Step(self.clone()))
    }

    /// Waits until no backup is being made.
    pub async fn open(&self) {
        let mut inside = self.0.subscribe();
        // the sender is ours: it cannot be gone
        let _open = inside.wait_for(|inside| inside.backups == 0).await;
    }

    /// As [`Self::step`], waiting at most so long.
    pub async fn step_within(&self, longest: Duration) -> Option<Step> {
        let entered = async {
            loop {
                self.open().await;
                if let Some(step) = self.step() {
                    return step;
                }
            }
        };
        timeout(longest, entered).await.ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.send_modify(|inside| inside.backups = 0);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.0.0.send_modify(|inside| inside.steps -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backup_waits_for_a_step_and_steps_wait_for_a_backup() {
        let gate = Gate::default();
        let (first, second) = (gate.step().unwrap(), gate.step().unwrap());
        let asked = tokio::spawn({
            let gate = gate.clone();
            async move { gate.hold().await }
        });
        while gate.0.borrow().backups == 0 {
            tokio::task::yield_now().await;
        }
        assert!(gate.step().is_none(), "no further step once a backup waits");
        drop(first);
        tokio::task::yield_now().await;
        assert!(!asked.is_finished());
        drop(second);
        let held = asked.await.unwrap().unwrap();
        assert!(gate.hold().await.is_none(), "one backup at a time");
        assert!(gate.step_within(Duration::from_millis(1)).await.is_none());
        drop(held);
        gate.open().await;
        assert!(gate.step_within(Duration::from_secs(5)).await.is_some());
    }
}
