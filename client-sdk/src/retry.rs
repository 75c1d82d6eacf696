//! Trying again: what the remedy allows, with growing pauses and jitter, until
//! nothing has moved for the deadline.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use crate::{
    client::OnRetry,
    error::{Again, Error, Result},
};

/// How patiently to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// The first pause, about; it doubles with each attempt.
    pub first_pause: Duration,
    /// The longest pause, unless the hub asks for more.
    pub longest_pause: Duration,
    /// How long to go on without any progress.
    pub deadline: Duration,
    /// Who is told of it.
    pub on_retry: Option<OnRetry>,
}

/// How often to try again after the hub itself failed.
const FAULTS_MAX: u32 = 3;

/// One effort, with its memory.
#[derive(Debug)]
pub struct Effort {
    patience: Patience,
    since: Instant,
    attempts: u32,
    faults: u32,
}

impl Effort {
    /// Begins.
    pub fn new(patience: Patience) -> Self {
        Self { patience, since: Instant::now(), attempts: 0, faults: 0 }
    }

    /// Something moved: the deadline and the pauses begin again.
    pub fn progress(&mut self) {
        self.since = Instant::now();
        self.attempts = 0;
    }

    /// The deadline begins again; the pauses too, if something really moved.
    pub fn progress_in_time(&mut self, moved: bool) {
        self.since = Instant::now();
        if moved {
            self.attempts = 0;
            self.faults = 0;
        }
    }

    /// How long to pause before the next attempt, or nothing if there should
    /// be none.
    pub fn pause(&mut self, error: &Error) -> Option<Duration> {
        let asked = match error.again() {
            Again::No => return None,
            Again::Later(asked) => asked,
            Again::Few => {
                self.faults += 1;
                if self.faults > FAULTS_MAX {
                    return None;
                }
                None
            }
        };
        let grown = self
            .patience
            .first_pause
            .saturating_mul(1 << self.attempts.min(20))
            .min(self.patience.longest_pause);
        self.attempts += 1;
        let jitter = 0.5 + fastrand::f64() / 2.0;
        let pause = match asked {
            // never before the hub asked to, and not all at that very moment
            Some(asked) => asked + self.patience.first_pause.mul_f64(jitter),
            None => grown.mul_f64(jitter),
        };
        (self.since.elapsed() + pause <= self.patience.deadline).then_some(pause)
    }

    /// Pauses, or gives the error back if there should be no other attempt.
    pub async fn wait(&mut self, error: Error) -> Result<()> {
        let Some(pause) = self.pause(&error) else { return Err(error) };
        if let Some(on_retry) = &self.patience.on_retry {
            on_retry.tell(&error, pause);
        }
        tracing::debug!(error = %error, pause_ms = pause.as_millis() as u64, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Tries until it works, cannot work, or has been tried for long enough.
pub async fn patiently<T, F>(patience: Patience, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut effort = Effort::new(patience);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => effort.wait(error).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refused;

    const PATIENCE: Patience = Patience {
        first_pause: Duration::from_millis(100),
        longest_pause: Duration::from_secs(10),
        deadline: Duration::from_secs(60),
        on_retry: None,
    };

    fn refusal(reason: axis_proto::hub::v1::Reason, retry_after_ms: u64) -> Error {
        let refusal = axis_proto::hub::v1::Refusal {
            reason: reason.into(),
            remedy: reason.remedy().into(),
            retry_after_ms,
            ..Default::default()
        };
        Error::refused(Refused::of_message(refusal))
    }

    #[test]
    fn pauses_grow_and_are_spread() {
        let mut effort = Effort::new(PATIENCE);
        let error = Error::broken("hub:1");
        let mut bound = 100;
        for _ in 0..12 {
            let pause = effort.pause(&error).unwrap().as_millis();
            assert!((bound / 2..=bound).contains(&pause), "{pause} of {bound}");
            bound = (bound * 2).min(10_000);
        }
        effort.progress();
        assert!(effort.pause(&error).unwrap().as_millis() <= 100);
    }

    #[test]
    fn the_hub_is_not_asked_before_it_wants_to_be() {
        let mut effort = Effort::new(PATIENCE);
        let pause = effort.pause(&refusal(axis_proto::hub::v1::Reason::Busy, 3_000)).unwrap();
        assert!((3_050..=3_100).contains(&pause.as_millis()), "{pause:?}");
        assert!(effort.pause(&refusal(axis_proto::hub::v1::Reason::Quota, 61_000)).is_none());
    }

    #[test]
    fn what_cannot_work_is_not_tried_again() {
        let mut effort = Effort::new(PATIENCE);
        assert!(effort.pause(&refusal(axis_proto::hub::v1::Reason::KeyRevoked, 0)).is_none());
        let fault = refusal(axis_proto::hub::v1::Reason::Fault, 0);
        assert_eq!((0..9).filter(|_| effort.pause(&fault).is_some()).count(), 3);
    }

    #[tokio::test]
    async fn patience_ends() {
        let mut attempts = 0;
        let patience = Patience { deadline: Duration::from_millis(50), ..PATIENCE };
        let patience = Patience { first_pause: Duration::from_millis(4), ..patience };
        let result: Result<()> = patiently(patience, || {
            attempts += 1;
            async { Err(Error::broken("hub:1")) }
        })
        .await;
        assert!(result.is_err() && attempts > 2, "{attempts}");
    }
}
