//! Work on many threads whose results are consumed in order, with a bounded number in flight.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Results that may wait for their turn, for each thread. Two keep a thread busy while the consumer writes.
const IN_FLIGHT_PER_THREAD: usize = 2;

/// Calls `work` for `0..count` on `threads` threads and `consume` with the results, in order, on this thread.
///
/// Each thread has a state of its own, made by `state`, for scratch memory. At most a few results per thread
/// exist at once, so memory is bounded whatever `count` is. The order of calls to `consume` does not depend on
/// `threads`.
///
/// # Errors
/// The first error in the order of the items, of `work` or `consume`; no further item is begun after it.
pub(crate) fn ordered<S, T: Send, E: Send>(
    threads: NonZeroUsize,
    count: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<T, E> + Sync,
    mut consume: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    if threads.get() == 1 || count <= 1 {
        let mut state = state();
        return (0..count).try_for_each(|item| consume(item, work(&mut state, item)?));
    }
    let window = threads.get().saturating_mul(IN_FLIGHT_PER_THREAD);
    let queue = Queue {
        turn: Mutex::new(Turn { next: 0, consumed: 0, ready: BTreeMap::new(), stop: false }),
        moved: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.get().min(count) {
            scope.spawn(|| {
                let _stop = StopOnDrop(&queue, OnlyIf::Panicking);
                let mut state = state();
                while let Some(item) = queue.begin(count, window) {
                    queue.hand_in(item, work(&mut state, item));
                }
            });
        }
        let _stop = StopOnDrop(&queue, OnlyIf::Always);
        for item in 0..count {
            let Some(result) = queue.take(item) else { break };
            consume(item, result?)?;
        }
        Ok(())
    })
}

struct Queue<R> {
    turn: Mutex<Turn<R>>,
    moved: Condvar,
}

struct Turn<R> {
    next: usize,
    consumed: usize,
    ready: BTreeMap<usize, R>,
    stop: bool,
}

impl<R> Queue<R> {
    fn lock(&self) -> MutexGuard<'_, Turn<R>> {
        // No code that can panic runs under the lock, so a poisoned turn is still whole.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, turn: MutexGuard<'a, Turn<R>>) -> MutexGuard<'a, Turn<R>> {
        self.moved.wait(turn).unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item to work on, once the consumer is near enough.
    fn begin(&self, count: usize, window: usize) -> Option<usize> {
        let mut turn = self.lock();
        while !turn.stop && turn.next < count && turn.next >= turn.consumed.saturating_add(window) {
            turn = self.wait(turn);
        }
        if turn.stop || turn.next >= count {
            return None;
        }
        let item = turn.next;
        turn.next = turn.next.saturating_add(1);
        Some(item)
    }

    fn hand_in(&self, item: usize, result: R) {
        self.lock().ready.insert(item, result);
        self.moved.notify_all();
    }

    /// The result of `item`, or `None` if a worker panicked: the panic goes on when its thread is joined.
    fn take(&self, item: usize) -> Option<R> {
        let mut turn = self.lock();
        loop {
            if let Some(result) = turn.ready.remove(&item) {
                turn.consumed = item.saturating_add(1);
                self.moved.notify_all();
                return Some(result);
            }
            if turn.stop {
                return None;
            }
            turn = self.wait(turn);
        }
    }
}

enum OnlyIf {
    Always,
    Panicking,
}

/// Ends the work of all threads when the consumer leaves, or a worker unwinds.
struct StopOnDrop<'a, R>(&'a Queue<R>, OnlyIf);

impl<R> Drop for StopOnDrop<'_, R> {
    fn drop(&mut self) {
        if matches!(self.1, OnlyIf::Always) || std::thread::panicking() {
            self.0.lock().stop = true;
            self.0.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn threads(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    #[test]
    fn results_come_in_order_however_many_threads_work() {
        for n in [1, 2, 7] {
            let mut seen = Vec::new();
            let result: Result<(), ()> = ordered(
                threads(n),
                100,
                || (),
                |(), item| {
                    if item % 3 == 0 {
                        std::thread::yield_now();
                    }
                    Ok(item * 2)
                },
                |item, result| {
                    seen.push((item, result));
                    Ok(())
                },
            );
            assert_eq!(result, Ok(()));
            assert_eq!(seen, (0..100).map(|i| (i, i * 2)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_more_results_wait_than_the_window_allows() {
        let alive = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        struct Counted<'a>(&'a AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let result: Result<(), ()> = ordered(
            threads(3),
            200,
            || (),
            |(), _| {
                most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                Ok(Counted(&alive))
            },
            |_, counted| {
                std::thread::yield_now();
                drop(counted);
                Ok(())
            },
        );
        assert_eq!(result, Ok(()));
        // The window, and one that the consumer holds.
        assert!(most.into_inner() <= 3 * IN_FLIGHT_PER_THREAD + 1);
    }

    #[test]
    fn the_first_error_in_order_ends_the_work() {
        for n in [1, 4] {
            let begun = AtomicUsize::new(0);
            let result = ordered(
                threads(n),
                10_000,
                || (),
                |(), item| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    if item >= 10 { Err(item) } else { Ok(()) }
                },
                |_, ()| Ok(()),
            );
            assert_eq!(result, Err(10));
            assert!(begun.into_inner() < 100);
        }
    }

    #[test]
    fn a_panic_of_a_worker_reaches_the_caller_instead_of_a_deadlock() {
        let outcome = std::panic::catch_unwind(|| {
            ordered::<_, (), ()>(
                threads(2),
                10,
                || (),
                |(), item| if item == 3 { panic!("worker") } else { Ok(()) },
                |_, ()| Ok(()),
            )
        });
        assert!(outcome.is_err());
    }
}
