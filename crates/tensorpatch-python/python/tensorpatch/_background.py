"""What is published in the background: it outlives its publisher, and the interpreter waits for it at exit."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tensorpatch._jobs import Start, begin

T = TypeVar("T")


class BackgroundFuture(concurrent.futures.Future[T]):
    """A future that keeps the native object at work alive, and knows whether somebody has seen how it ended."""

    def __init__(self, owner: object, what: str) -> None:
        super().__init__()
        self.owner: object = owner
        self.what = what

    def result(self, timeout: float | None = None) -> T:
        """As that of every future."""
        try:
            return super().result(timeout)
        finally:
            self._seen()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As that of every future."""
        try:
            return super().exception(timeout)
        finally:
            self._seen()

    def tell(self) -> None:
        """Says on the standard error how it failed, unless somebody has seen it."""
        if self not in _futures or self.cancelled():
            return
        error = self.exception()
        if error is not None and sys.stderr is not None:
            kind = type(error).__name__
            print(f"tensorpatch: {self.what} failed in the background: {kind}: {error}", file=sys.stderr)

    def _seen(self) -> None:
        if self.done():
            _futures.discard(self)


_futures: set[BackgroundFuture[Any]] = set()
"""Those that are not done, or failed and were seen by nobody."""

_inherited: list[BackgroundFuture[Any]] = []
"""Those of the process that this one was forked from. To drop them would wait for threads that are not here."""

_lock = threading.Lock()
_watcher: threading.Thread | None = None


def begin_in_background(
    start: Start, convert: Callable[[Any], T], owner: object, what: str
) -> concurrent.futures.Future[T]:
    """Starts a job of ``owner``, which stays alive until it is done, whatever becomes of the future."""
    future: BackgroundFuture[T] = BackgroundFuture(owner, what)
    _futures.add(future)
    try:
        begin(start, convert, future)
    except BaseException:
        _futures.discard(future)
        raise
    future.add_done_callback(_ended)
    _watch_for_exit()
    return future


def wait_for(owner: object) -> None:
    """Waits for what goes on in the background for ``owner``."""
    concurrent.futures.wait([future for future in list(_futures) if future.owner is owner])


def _ended(future: concurrent.futures.Future[Any]) -> None:
    assert isinstance(future, BackgroundFuture)
    future.owner = None
    if future.cancelled() or concurrent.futures.Future.exception(future) is None:
        _futures.discard(future)


def _watch_for_exit() -> None:
    """Has a thread that is no daemon wait for the end of the main one: it holds up the end of the interpreter, as the
    hooks of ``atexit`` do not in a process of ``multiprocessing``."""
    global _watcher
    with _lock:
        if _watcher is None:
            _watcher = threading.Thread(target=_see_off, name="tensorpatch-exit", daemon=False)
            _watcher.start()


def _see_off() -> None:
    global _watcher
    threading.main_thread().join()
    while True:
        with _lock:
            left = list(_futures)
            if not left:
                _watcher = None
                return
        concurrent.futures.wait(left)
        for future in left:
            future.tell()
            _futures.discard(future)


def _after_fork() -> None:
    global _lock, _watcher
    _inherited.extend(_futures)
    _futures.clear()
    _lock, _watcher = threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)
