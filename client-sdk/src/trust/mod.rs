//! Which log this side trusts: what verifies with it, what the hub shows of it
//! over time, and the one that continues it after a restore. Never goes on
//! with a log for which neither the former one nor a person has spoken.

mod book;
mod file;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axis_proto::{
    hub::v1::{GetCheckpointRequest, GetConsistencyRequest, GetInfoRequest, GetInfoResponse, Reason},
    note::{Checkpoint, CheckpointVerifier},
    receipt::VerifiedReceipt,
    record::v1::Receipt,
    tree::Hash,
};
use futures_util::{StreamExt as _, stream};

pub use book::{Book, Log, Why, origin_of};
use book::{SignedHead, begins, checkpoint_of};

use crate::{
    client::{Client, Inner, now_unix_ms},
    error::{Error, HomeProblem, LogProblem, Result, Verification},
    files::Lock,
    home::{self, Home},
};

/// How often a client asks for proofs, unless many heads wait.
const PROVE_INTERVAL_MS: u64 = 60_000;
/// How many proofs are asked for at once.
const PROOFS_AT_ONCE: usize = 8;
/// How long to wait for another process that writes the book.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The logs of a home, in memory and on its disk.
#[derive(Debug)]
pub struct Trust {
    home: Home,
    book: Mutex<Book>,
    /// When the hub was last asked for proofs, in milliseconds since 1970.
    asked: Mutex<Option<u64>>,
    /// One asks at a time.
    asking: tokio::sync::Mutex<()>,
}

/// The logs that a home trusts, to look at or to verify with, offline.
#[derive(Debug, Clone)]
pub struct KnownLogs(Book);

impl KnownLogs {
    /// Those of a home, if it is enrolled.
    pub fn load(home: impl AsRef<Path>) -> Result<Option<Self>> {
        let home = Home::at(home.as_ref());
        let Some(profile) = home::load_profile(&home)? else { return Ok(None) };
        Ok(Some(Self(load(&home, &profile.log_verifier_key)?)))
    }

    /// Verifies a receipt of any of them.
    pub fn verify(&self, receipt: &Receipt) -> Result<VerifiedReceipt> {
        self.0.verify(receipt)
    }

    /// The logs, the oldest first; the last one is the hub's now.
    pub fn logs(&self) -> impl Iterator<Item = KnownLog<'_>> {
        self.0.logs().iter().map(KnownLog)
    }

    /// Whether the hub's log now holds a record of one of them.
    pub fn holds(&self, origin: &str, sequence: u64) -> bool {
        self.0.holds(origin, sequence)
    }

    /// Why nothing is trusted any more, if so.
    pub fn problem(&self) -> Option<LogProblem> {
        self.0.fork().map(LogProblem::from).or_else(|| self.0.overdue())
    }
}

/// One log that a home trusts or trusted.
#[derive(Debug, Clone, Copy)]
pub struct KnownLog<'a>(&'a Log);

impl KnownLog<'_> {
    /// Its name.
    pub fn origin(&self) -> &str {
        self.0.verifier.origin()
    }

    /// What verifies its checkpoints.
    pub fn verifier_key(&self) -> String {
        self.0.verifier.verifier_key()
    }

    /// Whether a person vouched for it, and not the log before it.
    pub fn by_person(&self) -> bool {
        self.0.why == Why::Person
    }

    /// The log that it continues, and how many of that one's records it
    /// holds.
    pub fn previous(&self) -> Option<(&str, u64)> {
        self.0.previous.as_ref().map(|it| (it.origin.as_str(), it.size))
    }

    /// Its largest head that was proven to go on from those before.
    pub fn head(&self) -> Option<crate::error::Head> {
        self.0.head.as_ref().map(SignedHead::shown)
    }
}

fn load(home: &Home, verifier_key: &str) -> Result<Book> {
    if let Some(book) = file::load(&home.log())? {
        return Ok(book);
    }
    // a home of before, or one that was just enrolled
    let verifier =
        CheckpointVerifier::parse(verifier_key).map_err(|error| Error::damaged(&home.profile(), error))?;
    Ok(Book::new(verifier))
}

impl Trust {
    /// The book of a home; it begins with the key of the enrolment.
    pub fn open(home: &Home, verifier_key: &str) -> Result<Self> {
        let book = Mutex::new(load(home, verifier_key)?);
        Ok(Self { home: home.clone(), book, asked: Mutex::default(), asking: tokio::sync::Mutex::default() })
    }

    /// What is known now.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error if the log was seen to be two, and nobody has decided since.
    pub fn check(&self) -> Result<()> {
        let mut book = self.book();
        let Some(fork) = book.fork().cloned() else { return Ok(()) };
        match file::load(&self.home.log())? {
            Some(saved) if saved.former_forks.contains(&fork) => *book = saved,
            _ => return Err(LogProblem::from(&fork).into()),
        }
        Ok(())
    }

    /// Verifies a receipt that the hub has just given, and takes notice of the
    /// head in it. A former log gives none any more that the current one does
    /// not hold: nobody could prove it.
    pub fn verify(&self, receipt: &Receipt) -> Result<VerifiedReceipt> {
        let verified = {
            let book = self.book();
            let verified = book.verify(receipt)?;
            let Checkpoint { origin, size, .. } = &verified.checkpoint;
            let held = book.held_of(origin);
            if *size > held {
                let detail = format!("the hub's log holds {held} records of {origin}, it is for {size}");
                return Err(Verification::new("receipt", detail).into());
            }
            verified
        };
        self.observe(verified.checkpoint.clone(), checkpoint_of(receipt).unwrap_or_default())?;
        Ok(verified)
    }

    /// Remembers the head in a receipt of a log that is known. Any other log
    /// has to be vouched for first.
    pub fn remember(&self, receipt: &Receipt) -> Result<()> {
        if origin_of(receipt).is_none_or(|origin| self.book().find(origin).is_none()) {
            return Ok(());
        }
        self.verify(receipt)?;
        self.update(|book| {
            if book.is_first() {
                let seen = book.unproven.clone();
                book.proven(&seen);
            }
        })
    }

    /// Takes notice of a head that the hub has shown.
    fn observe(&self, checkpoint: Checkpoint, note: &str) -> Result<()> {
        let observed = self.book().observe(checkpoint, note);
        observed.map_err(|problem| {
            self.keep_evidence();
            problem.into()
        })
    }

    /// Whether something is to be proven, and it is time.
    fn is_due(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // a clock that was set back makes it due
        let passed = asked.map(|asked| now_unix_ms().checked_sub(asked));
        let is_time = passed.is_none_or(|passed| passed.is_none_or(|passed| passed >= PROVE_INTERVAL_MS));
        let book = self.book();
        !book.unproven.is_empty() && (is_time || book.is_half_full() || book.overdue().is_some())
    }

    /// The hub was asked in vain. An error if that was so for too long.
    fn not_proven(&self) -> Result<()> {
        let now = now_unix_ms();
        // most say nothing new, and cost no write
        if self.book().not_proven(now) {
            self.update(|book| book.not_proven(now))?;
        }
        match self.book().overdue() {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        }
    }

    /// Asks for proofs as soon as there is something to prove.
    pub fn prove_soon(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Changes the book and its file together, on top of what other processes
    /// wrote meanwhile.
    fn update<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T> {
        let path = self.home.log();
        let _lock = self.lock()?;
        let mut book = self.book();
        if let Some(saved) = file::load(&path)? {
            let seen = std::mem::take(&mut book.unproven);
            let fork = book.fork.take();
            *book = saved;
            // whatever another process has gone on with, nobody has looked at this one yet
            let fork = fork.filter(|fork| !book.former_forks.contains(fork));
            if book.fork.is_none() {
                book.fork = fork;
            }
            for head in seen {
                let checkpoint = Checkpoint { origin: head.origin, size: head.size, root: head.root };
                // a fork is kept in the book
                let _known = book.observe(checkpoint, &head.note);
            }
        }
        let result = change(&mut book);
        file::save(&path, &book)?;
        Ok(result)
    }

    fn lock(&self) -> Result<Lock> {
        let started = Instant::now();
        loop {
            if let Some(lock) = Lock::try_take(&self.home.log_lock())? {
                return Ok(lock);
            }
            if started.elapsed() >= LOCK_PATIENCE {
                return Err(HomeProblem::Busy { home: self.home.path().display().to_string() }.into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn keep_evidence(&self) {
        if let Err(error) = self.update(|_| ()) {
            tracing::error!(%error, "the evidence of a fork was not written");
        }
    }
}

impl Drop for Trust {
    fn drop(&mut self) {
        // what was seen is proven by whoever comes next
        if !self.book().unproven.is_empty()
            && let Err(error) = self.update(|_| ())
        {
            tracing::warn!(%error, "heads of the hub's log were not remembered");
        }
    }
}

impl Client {
    /// The logs that this home trusts.
    pub fn known_logs(&self) -> KnownLogs {
        KnownLogs(self.inner.trust.book().clone())
    }

    /// Goes on with the hub's log as it is now, because a person vouches for
    /// this key: the operators gave it, by another way than through the hub.
    /// What the new log lacks is offered again.
    pub async fn accept_log(&self, verifier_key: &str) -> Result<KnownLogs> {
        let inner = &self.inner;
        let verifier = CheckpointVerifier::parse(verifier_key.trim())
            .map_err(|error| Verification::new("log", error.to_string()))?;
        let info = inner.retried(|| inner.ask_info()).await?;
        if info.log_verifier_key != verifier.verifier_key() {
            let detail = format!("the hub's log has the key {}", info.log_verifier_key);
            return Err(Verification::new("log", detail).into());
        }
        inner.trust.update(|book| book.accept(verifier, &info.log_successions))??;
        inner.has_succeeded();
        Ok(self.known_logs())
    }
}

impl Inner {
    /// Verifies a receipt that the hub gave; asks about its log if that is
    /// not known.
    pub async fn verified(&self, receipt: &Receipt) -> Result<VerifiedReceipt> {
        self.know_log_of(Some(receipt)).await?;
        self.trust.verify(receipt)
    }

    /// Asks about the log of a receipt if it is not known; has those before it
    /// proven if no more heads are to be taken.
    pub async fn know_log_of(&self, receipt: Option<&Receipt>) -> Result<()> {
        let Some(origin) = receipt.and_then(origin_of) else { return Ok(()) };
        if self.trust.book().find(origin).is_none() {
            self.meet().await?;
        }
        let is_full = || self.trust.book().full().is_some();
        if !is_full() {
            return Ok(());
        }
        let _asking = self.trust.asking.lock().await;
        if !is_full() {
            return Ok(());
        }
        match self.retried(|| self.prove()).await {
            Err(error) if !is_about_log(&error) => {
                tracing::debug!(%error, "no more heads of the log are taken");
                self.trust.not_proven()?;
                let book = self.trust.book();
                let problem = book.full().map(|head| book.not_proven_since(head));
                problem.map_or(Ok(()), |problem| Err(problem.into()))
            }
            proven => proven,
        }
    }

    /// An error if nothing is to be done with the hub: its log was seen to be
    /// two, or it has not been proven for too long and is not now.
    pub async fn check_log(&self) -> Result<()> {
        self.trust.check()?;
        let overdue = || self.trust.book().overdue();
        if overdue().is_none() {
            return Ok(());
        }
        let _asking = self.trust.asking.lock().await;
        match self.prove().await {
            Err(error) if is_about_log(&error) => return Err(error),
            Err(error) => tracing::debug!(%error, "the log's heads are still not proven"),
            Ok(()) => {}
        }
        overdue().map_or(Ok(()), |problem| Err(problem.into()))
    }

    /// Has all that was seen proven now.
    pub async fn prove_all(&self) -> Result<()> {
        self.trust.check()?;
        let _asking = self.trust.asking.lock().await;
        self.prove().await
    }

    /// Asks the hub what it is, and goes on with its log if the one that is
    /// known signed for it. Whether it is another one than before.
    pub async fn meet(&self) -> Result<bool> {
        let info = self.retried(|| self.ask_info()).await?;
        self.met(&info)
    }

    /// What the hub says of itself; it must be the one of this home.
    pub async fn ask_info(&self) -> Result<GetInfoResponse> {
        let info = self.timed(self.hub().get_info(self.request(GetInfoRequest {}))).await?;
        let expected = self.identity().profile.hub_id.clone();
        if info.hub_id != expected.as_str() {
            return Err(Verification::new("hub", format!("it calls itself {}", info.hub_id)).into());
        }
        Ok(info)
    }

    /// Goes on with the log that the hub names, if that may be.
    pub fn met(&self, info: &GetInfoResponse) -> Result<bool> {
        let key = &info.log_verifier_key;
        self.trust.check()?;
        if self.trust.book().current().verifier.verifier_key() == *key {
            return Ok(false);
        }
        let outcome = self.trust.update(|book| {
            // another process may have been quicker
            let steps = book.way_to(key, &info.log_successions)?;
            Ok::<_, Verification>(steps.map(|steps| book.succeed(steps)))
        })?;
        match outcome? {
            None => {
                let known = self.trust.book().current().verifier.origin().to_owned();
                Err(LogProblem::Unknown { known, verifier_key: key.clone() }.into())
            }
            Some(Err(problem)) => Err(problem.into()),
            Some(Ok(())) => {
                tracing::info!(
                    log = key,
                    "the hub was restored from a backup; its log goes on under a new name"
                );
                self.has_succeeded();
                Ok(true)
            }
        }
    }

    /// Has the heads that were seen proven against each other, if it is time.
    /// What the hub cannot explain is an error; what it does not answer now is
    /// asked again, for as long as [`book::OVERDUE_MINUTES_MAX`] says.
    pub async fn mind_log(&self) -> Result<()> {
        self.trust.check()?;
        if !self.trust.is_due() {
            return Ok(());
        }
        let Ok(_asking) = self.trust.asking.try_lock() else { return Ok(()) };
        *self.trust.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now_unix_ms());
        match self.prove().await {
            Err(error) if !is_about_log(&error) => {
                tracing::debug!(%error, "the log's heads were not proven now");
                // another call was answered just before
                self.trust.not_proven()
            }
            proven => proven,
        }
    }

    async fn prove(&self) -> Result<()> {
        for _ in 0..2 {
            let Some(refused) = self.proven_but().await? else { return Ok(()) };
            // restored, or its log went back; or it has grown meanwhile: it is asked once more
            if !self.met(&self.ask_info().await?)? {
                self.shows(&refused).await?;
            }
        }
        let now = now_unix_ms();
        self.trust.update(|book| book.refused(now))?;
        let problem = self.trust.book().overdue();
        problem.map_or(Ok(()), |problem| Err(problem.into()))
    }

    /// Has what waits proven; the head of a size that the hub says it does not
    /// have, if there is one.
    async fn proven_but(&self) -> Result<Option<SignedHead>> {
        let (first, heads) = {
            let book = self.trust.book();
            (book.is_first(), book.to_prove())
        };
        if first {
            self.trust.update(|book| {
                let seen = book.unproven.clone();
                book.proven(&seen);
            })?;
            return Ok(None);
        }
        let mut proofs = stream::iter(1..heads.len())
            .map(|at| {
                let sizes = (heads[at - 1].size, heads[at].size);
                async move { (at, self.proof(sizes).await) }
            })
            .buffered(PROOFS_AT_ONCE);
        while let Some((at, proof)) = proofs.next().await {
            let (older, newer) = (&heads[at - 1], &heads[at]);
            match proof {
                Ok(hashes) if hashes.as_ref().is_some_and(|hashes| begins(older, newer, hashes)) => {}
                Ok(_) => {
                    return Err(self.trust.update(|book| book.forked(older.clone(), newer.clone()))?.into());
                }
                Err(error) if error.reason() == Some(Reason::FieldInvalid) => return Ok(Some(newer.clone())),
                Err(error) => return Err(error),
            }
        }
        drop(proofs);
        self.trust.update(|book| book.proven(&heads))?;
        Ok(None)
    }

    /// The hub's proof that one size goes on from another; none if what it
    /// answers is none.
    async fn proof(&self, (old_size, new_size): (u64, u64)) -> Result<Option<Vec<Hash>>> {
        let request = GetConsistencyRequest { old_size, new_size };
        let answer = self.timed(self.evidence().get_consistency(self.request(request))).await?;
        Ok(answer.hashes.iter().map(|hash| hash.as_ref().try_into().ok()).collect())
    }

    /// What the hub shows instead of a size that it does not know, although it
    /// has signed it: a smaller one is a fork, a larger one is to be proven.
    async fn shows(&self, seen: &SignedHead) -> Result<()> {
        let answer =
            self.timed(self.evidence().get_checkpoint(self.request(GetCheckpointRequest {}))).await?;
        let verified = self.trust.book().current().verifier.verify(&answer.checkpoint);
        let checkpoint = verified.map_err(|error| Verification::new("checkpoint", error.to_string()))?;
        if checkpoint.size >= seen.size {
            return self.trust.observe(checkpoint, &answer.checkpoint);
        }
        let shown = SignedHead::of(checkpoint, &answer.checkpoint);
        Err(self.trust.update(|book| book.forked(seen.clone(), shown))?.into())
    }
}

/// Whether an error says that the log is not to be trusted, or that this
/// cannot be written down.
fn is_about_log(error: &Error) -> bool {
    matches!(error, Error::Log(_) | Error::Home(_) | Error::Io { .. })
}
