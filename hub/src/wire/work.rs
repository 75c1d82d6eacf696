//! Work for the processor: a thread for each core, which take it from one
//! system after the other. Connections are never held up by it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use axis_proto::id::SystemId;
use tokio::sync::oneshot;

use super::round::Round;
use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// The threads, until dropped.
pub struct Work {
    shared: Arc<Shared>,
    threads: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    round: Round<Job>,
    /// Threads that have nothing to do.
    idle: usize,
    ended: bool,
}

impl Work {
    /// A thread for each core.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn of_cores() -> io::Result<Self> {
        Self::new(thread::available_parallelism().map_or(1, usize::from))
    }

    /// So many threads.
    ///
    /// # Errors
    /// As [`Self::of_cores`].
    pub fn new(threads: usize) -> io::Result<Self> {
        let work = Self { shared: Arc::default(), threads };
        for _ in 0..threads {
            let shared = work.shared.clone();
            thread::Builder::new().name("work".to_owned()).spawn(move || shared.run())?;
        }
        Ok(work)
    }

    /// Runs something for a system when it is its turn. What nobody waits for
    /// any more is not run.
    ///
    /// # Errors
    /// If it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        system: &SystemId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.begin(system, work).await.map_err(Error::fault)
    }

    /// As [`Self::run`], without waiting: the result comes when it is there,
    /// and none comes if it panicked.
    pub fn begin<T: Send + 'static>(
        &self,
        system: &SystemId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            if !done.is_closed() {
                let _hung_up = done.send(work());
            }
        });
        self.shared.push(system, job);
        result
    }

    /// How much waits.
    pub fn waiting(&self) -> usize {
        self.shared.queue().round.len()
    }

    /// How many threads have nothing to do.
    pub fn idle(&self) -> usize {
        self.shared.queue().idle
    }

    /// Whether nobody has anything to do.
    pub fn is_resting(&self) -> bool {
        let queue = self.shared.queue();
        queue.idle == self.threads && queue.round.len() == 0
    }
}

/// Runs something where it is asked for.
///
/// # Errors
/// If it panicked.
pub fn at_once<T>(work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::fault("what was worked on panicked"))
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, system: &SystemId, job: Job) {
        let mut queue = self.queue();
        queue.round.push(system, job);
        let is_somebody_idle = queue.idle > 0;
        drop(queue);
        if is_somebody_idle {
            self.more.notify_one();
        }
    }

    fn run(&self) {
        let mut queue = self.queue();
        while !queue.ended {
            let Some(job) = queue.round.pop() else {
                queue.idle += 1;
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
                continue;
            };
            drop(queue);
            // who waits for it hears that there is no answer
            let _panicked = catch_unwind(AssertUnwindSafe(job));
            queue = self.queue();
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.shared.queue().ended = true;
        self.shared.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use futures_util::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;

    fn system(id: &str) -> SystemId {
        id.parse().unwrap()
    }

    #[tokio::test]
    async fn each_waits_for_its_turn_and_no_more_run_than_there_are_threads() {
        let work = Arc::new(Work::new(3).unwrap());
        let at_once = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let all_run = Arc::new(std::sync::Barrier::new(3));
        let mut callers = JoinSet::new();
        for number in 0..51 {
            let (work, at_once, all_run) = (work.clone(), at_once.clone(), all_run.clone());
            callers.spawn(async move {
                let run = move || {
                    let now = at_once.0.fetch_add(1, Ordering::SeqCst) + 1;
                    at_once.1.fetch_max(now, Ordering::SeqCst);
                    all_run.wait();
                    at_once.0.fetch_sub(1, Ordering::SeqCst);
                    number
                };
                assert_eq!(work.run(&system("vpcp"), run).await.unwrap(), number);
            });
        }
        while callers.join_next().await.transpose().unwrap().is_some() {}
        assert_eq!(at_once.1.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_run_and_a_panic_is_a_fault() {
        let work = Work::new(1).unwrap();
        let (vpcp, (go, gone)) = (system("vpcp"), mpsc::channel::<()>());
        let mut held = Box::pin(work.run(&vpcp, move || gone.recv().is_err()));
        assert!((&mut held).now_or_never().is_none());
        while work.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!work.is_resting(), "its thread is held");
        let mut dropped = Box::pin(work.run(&vpcp, || unreachable!("nobody waits for it")));
        assert!((&mut dropped).now_or_never().is_none());
        drop(dropped);
        drop(go);
        assert!(held.await.unwrap());
        assert!(work.run(&vpcp, || panic!("on purpose")).await.is_err());
        assert!(at_once(|| panic!("on purpose")).is_err());
        assert_eq!(work.run(&vpcp, || 7).await.unwrap(), 7, "the thread goes on");
        while !work.is_resting() {
            tokio::task::yield_now().await;
        }
    }
}
