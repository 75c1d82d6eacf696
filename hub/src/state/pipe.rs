//! One thread makes what another takes, a bounded way ahead of it. Knows
//! nothing of what that is.

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    panic::resume_unwind,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// How far ahead: both hold, but for one item that is larger than all bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) items: usize,
    pub(super) bytes: usize,
}

/// What gives an item and the bytes that it holds to the other side; it breaks
/// when that has ended.
pub(super) type Give<'a, T> = dyn FnMut(T, usize) -> ControlFlow<()> + 'a;

/// Runs `make` on a thread of its own and `take` on this one, with everything
/// that `make` gives, in order. An error of either ends both. Of two, that of
/// `take` is returned: what it is about was given before the other's.
pub(super) fn run<T: Send>(
    bounds: Bounds,
    make: impl FnOnce(&mut Give<'_, T>) -> io::Result<()> + Send,
    take: impl FnMut(T) -> io::Result<()>,
) -> io::Result<()> {
    let queue = Queue::new(bounds);
    thread::scope(|scope| {
        let maker = thread::Builder::new().name("replay".to_owned()).spawn_scoped(scope, || {
            let _ends = Ends(&queue);
            make(&mut |item, bytes| queue.give(item, bytes))
        })?;
        let taken = {
            let _ends = Ends(&queue);
            std::iter::from_fn(|| queue.take()).try_for_each(take)
        };
        let made = maker.join().unwrap_or_else(|panic| resume_unwind(panic));
        taken.and(made)
    })
}

struct Queue<T> {
    bounds: Bounds,
    inner: Mutex<Inner<T>>,
    /// An item is there.
    given: Condvar,
    /// There may be room.
    taken: Condvar,
}

struct Inner<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// One of the two sides has ended.
    ended: bool,
}

/// Ends the queue when a side does, however it does.
struct Ends<'a, T>(&'a Queue<T>);

impl<T> Drop for Ends<'_, T> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.given.notify_all();
        self.0.taken.notify_all();
    }
}

impl<T> Queue<T> {
    fn new(bounds: Bounds) -> Self {
        let inner = Inner { items: VecDeque::new(), bytes: 0, ended: false };
        Self { bounds, inner: Mutex::new(inner), given: Condvar::new(), taken: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for it.
    fn give(&self, item: T, bytes: usize) -> ControlFlow<()> {
        let mut inner = self.lock();
        while !inner.ended && !inner.has_room(bytes, self.bounds) {
            inner = self.taken.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if inner.ended {
            return ControlFlow::Break(());
        }
        inner.items.push_back((item, bytes));
        inner.bytes += bytes;
        self.given.notify_one();
        ControlFlow::Continue(())
    }

    /// The next one, also after the end; `None` if no more will come.
    fn take(&self) -> Option<T> {
        let mut inner = self.lock();
        while inner.items.is_empty() && !inner.ended {
            inner = self.given.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let (item, bytes) = inner.items.pop_front()?;
        inner.bytes -= bytes;
        self.taken.notify_one();
        Some(item)
    }
}

impl<T> Inner<T> {
    fn has_room(&self, bytes: usize, bounds: Bounds) -> bool {
        let fits = self.items.len() < bounds.items && self.bytes.saturating_add(bytes) <= bounds.bytes;
        fits || self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const BOUNDS: Bounds = Bounds { items: 4, bytes: 100 };

    #[test]
    fn all_of_it_is_taken_in_order_and_never_more_is_ahead_than_the_bounds_say() {
        for bytes in [1, 40, 1_000] {
            let ahead = match bytes {
                1 => 4,
                40 => 2,
                _ => 1,
            };
            let (made, mut taken) = (AtomicUsize::new(0), 0);
            let make = |give: &mut Give<'_, usize>| {
                for item in 0..20_000 {
                    assert!(give(item, bytes).is_continue());
                    made.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            };
            run(BOUNDS, make, |item| {
                assert_eq!(item, taken, "in order");
                taken += 1;
                let given = made.load(Ordering::SeqCst);
                assert!(given <= taken + ahead, "{given} given when {taken} were taken, {bytes} bytes each");
                Ok(())
            })
            .unwrap();
            assert_eq!(taken, 20_000);
        }
    }

    #[test]
    fn room_is_by_items_and_by_bytes() {
        let inner = |items: usize, bytes| Inner { items: vec![((), 0); items].into(), bytes, ended: false };
        for (items, held, bytes, room) in [
            (0, 0, 1_000, true),
            (3, 90, 10, true),
            (3, 90, 11, false),
            (4, 4, 1, false),
            (1, 1_000, 0, false),
        ] {
            assert_eq!(
                inner(items, held).has_room(bytes, BOUNDS),
                room,
                "{items} of {held} bytes, {bytes} more"
            );
        }
    }

    #[test]
    fn the_first_error_ends_both_and_nothing_is_taken_after_it() {
        let run = |make_fails: usize, take_fails: usize| {
            let mut taken = Vec::new();
            let make = |give: &mut Give<'_, usize>| {
                for item in 0.. {
                    if item == make_fails {
                        return Err(io::Error::other("made"));
                    }
                    if give(item, 1).is_break() {
                        break;
                    }
                }
                Ok(())
            };
            let outcome = run(BOUNDS, make, |item| {
                if item == take_fails {
                    return Err(io::Error::other("taken"));
                }
                taken.push(item);
                Ok(())
            });
            (outcome.unwrap_err().to_string(), taken.len())
        };
        assert_eq!(run(50, usize::MAX), ("made".to_owned(), 50), "all before it is taken");
        assert_eq!(run(usize::MAX, 50), ("taken".to_owned(), 50));
        assert_eq!(run(51, 50), ("taken".to_owned(), 50), "the earlier one");
    }

    #[test]
    fn a_panic_of_either_is_a_panic_of_both() {
        let make = |fails: bool| {
            move |give: &mut Give<'_, usize>| {
                while give(0, 1).is_continue() {
                    assert!(!fails, "the maker");
                }
                Ok(())
            }
        };
        let of = |outcome: thread::Result<io::Result<()>>| outcome.is_err();
        assert!(of(std::panic::catch_unwind(|| run(BOUNDS, make(true), |_| Ok(())))));
        assert!(of(std::panic::catch_unwind(|| run(BOUNDS, make(false), |_| panic!("the taker")))));
    }
}
