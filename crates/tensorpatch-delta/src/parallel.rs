//! Work on many threads whose results are consumed in order, with a bounded number in flight.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

/// Results that may wait for their turn, for each thread. Two keep a thread busy while the consumer writes.
const IN_FLIGHT_PER_THREAD: usize = 2;

/// Calls `work` for `0..count` on `threads` threads and `consume` with the results, in order, on this thread.
///
/// Where the system refuses to give that many threads, fewer do the work. Each thread has a state of its own,
/// made by `state`, for scratch memory. At most a few results per thread exist at once, so memory is bounded
/// whatever `count` is. The order of calls to `consume` does not depend on `threads`.
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
        return in_turn(count, state, work, consume);
    }
    let window = threads.get().saturating_mul(IN_FLIGHT_PER_THREAD);
    let queue = Queue {
        turn: Mutex::new(Turn { next: 0, consumed: 0, ready: BTreeMap::new(), stop: false }),
        moved: Condvar::new(),
    };
    let worker = || {
        let _stop = StopOnDrop(&queue, OnlyIf::Panicking);
        let mut state = state();
        while let Some(item) = queue.begin(count, window) {
            queue.hand_in(item, work(&mut state, item));
        }
    };
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&queue, OnlyIf::Always);
        // The system may have no more threads to give, as in a container with a limit: those that there are
        // do.
        let spawn = |_: &usize| Builder::new().spawn_scoped(scope, worker).is_ok();
        if (0..threads.get().min(count)).take_while(spawn).count() == 0 {
            return in_turn(count, &state, &work, consume);
        }
        for item in 0..count {
            let Some(result) = queue.take(item) else { break };
            consume(item, result?)?;
        }
        Ok(())
    })
}

/// The same on this thread alone.
fn in_turn<S, T, E>(
    count: usize,
    state: impl Fn() -> S,
    work: impl Fn(&mut S, usize) -> Result<T, E>,
    mut consume: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let mut state = state();
    (0..count).try_for_each(|item| consume(item, work(&mut state, item)?))
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

    /// Calls this test again as a process in which a handful of threads have room, and says whether it
    /// succeeded.
    ///
    /// Stacks are so large that much room is left when the next one has none: the process must not fail for
    /// want of memory elsewhere.
    #[cfg(target_os = "linux")]
    fn succeeds_with_few_threads() -> bool {
        let test = "parallel::tests::work_is_done_by_fewer_threads_where_the_system_gives_no_more";
        let stack = 512_u64 << 20;
        let limited = format!("ulimit -v {}; exec \"$0\" \"$@\"", 9 * stack / 2 / 1024);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &limited]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--test-threads=1"]);
        command.env(FEW_THREADS, "1").env("RUST_MIN_STACK", stack.to_string());
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
        String::from_utf8_lossy(&text).contains("1 passed")
    }

    #[cfg(target_os = "linux")]
    const FEW_THREADS: &str = "TENSORPATCH_TEST_FEW_THREADS";

    #[test]
    #[cfg(target_os = "linux")]
    fn work_is_done_by_fewer_threads_where_the_system_gives_no_more() {
        if std::env::var_os(FEW_THREADS).is_none() {
            assert!(succeeds_with_few_threads());
            return;
        }
        let count_up = || {
            let mut seen = 0;
            let result: Result<(), ()> = ordered(
                threads(1000),
                2000,
                || (),
                |(), item| Ok(item),
                |item, result| {
                    assert_eq!(item, result);
                    seen += 1;
                    Ok(())
                },
            );
            assert_eq!((result, seen), (Ok(()), 2000));
        };
        // First a part of the threads, then none.
        count_up();
        assert!((0..1000).map(|_| Builder::new().spawn(std::thread::park)).any(|spawned| spawned.is_err()));
        count_up();
    }
}
