//! Once a day, what is kept against a restore of the hub and has become older
//! than any backup is removed. Never an envelope, never a receipt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    answered,
    client::{Inner, now_unix_ms},
    error::{Error, HomeProblem, Result},
    files, format,
    home::Home,
    send::outbox,
};

const DAY_MS: u64 = 86_400_000;

/// What was removed up to when, and when that was.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tidied {
    at_unix_ms: u64,
    made_before_unix_ms: u64,
}

impl Inner {
    /// Tidies the home in a thread of its own, if it is time.
    pub fn tidy(&self) {
        let (home, keep) = (self.home.clone(), self.options.keep);
        self.runtime.spawn_blocking(move || {
            if let Err(error) = tidy(&home, keep, now_unix_ms()) {
                tracing::warn!(%error, "the home was not tidied");
            }
        });
    }
}

pub(crate) fn tidy(home: &Home, keep: Duration, now: u64) -> Result<()> {
    let path = home.tidied();
    let last: Tidied = match files::read_if_there(&path)? {
        Some(bytes) => match format::from_json(&path, &bytes) {
            Err(newer @ Error::Home(HomeProblem::Newer { .. })) => return Err(newer),
            // losing it costs one look at everything
            tidied => tidied.unwrap_or_default(),
        },
        None => Tidied::default(),
    };
    if now.saturating_sub(last.at_unix_ms) < DAY_MS {
        return Ok(());
    }
    let before = now.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
    let from = last.made_before_unix_ms.min(before);
    let all_gone = outbox::forget_documents(home, from..before)?;
    answered::forget(home, keep)?;
    // what is left now is looked at again tomorrow
    let made_before_unix_ms = if all_gone { before } else { from };
    let tidied = Tidied { at_unix_ms: now, made_before_unix_ms };
    files::write_lazily(&path, &format::to_json(&path, &tidied)?)
}
