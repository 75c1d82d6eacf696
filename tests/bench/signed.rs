//! Submissions that are signed before the clock starts: every one another
//! envelope with another document, by several systems to several others.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axis_proto::hub::v1::SubmitRequest;
use axis_tests::Raw;
use bytes::Bytes;

/// What the senders have ready, each its own.
pub struct Signed(Vec<Mutex<Vec<SubmitRequest>>>);

impl Signed {
    /// Signs so many in all, in turn to each recipient, on all processors.
    pub fn make(senders: &[Raw], recipients: &[String], count: usize, bytes: usize) -> Self {
        let each = count.div_ceil(senders.len().max(1));
        let pools: Vec<Mutex<Vec<SubmitRequest>>> = senders.iter().map(|_| Mutex::default()).collect();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for first in 0..processors {
                let pools = &pools;
                scope.spawn(move || {
                    for (place, sender) in senders.iter().enumerate().skip(first).step_by(processors) {
                        let made = (0..each).map(|number| {
                            one(sender, &recipients[(place + number) % recipients.len()], bytes)
                        });
                        *held(&pools[place]) = made.collect();
                    }
                });
            }
        });
        Self(pools)
    }

    /// How many send.
    pub fn senders(&self) -> usize {
        self.0.len()
    }

    /// The next of a sender.
    pub fn next(&self, sender: usize) -> Option<SubmitRequest> {
        held(&self.0[sender % self.0.len()]).pop()
    }
}

fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn one(sender: &Raw, to: &str, bytes: usize) -> SubmitRequest {
    let mut document = vec![0; bytes];
    fastrand::fill(&mut document);
    let sealed = sender.seal(&sender.envelope(to, &document));
    SubmitRequest { sealed_envelope: Some(sealed), documents: vec![Bytes::from(document)] }
}
