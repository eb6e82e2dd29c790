"""Waiting for the native half: as a call, as a future, or as a coroutine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from tensorpatch import _fork, _native, _progress
from tensorpatch._types import Future, ProgressCallback
from tensorpatch.exceptions import UsageError

Done: TypeAlias = Callable[[Any, BaseException | None], None]
Start: TypeAlias = Callable[[Done], _native.Job]
Position: TypeAlias = Callable[[], tuple[str, int, int] | None]

T = TypeVar("T")
N = TypeVar("N")

_TICK = 0.1
"""Seconds between two looks at the progress."""

os.register_at_fork(after_in_child=_fork.let_go_of_locks)


class Opened(Generic[N]):
    """A native object of the process that opened it, until it is closed."""

    def __init__(self, what: str, native: N) -> None:
        self._what = what
        self._native: N | None = native
        self._process = os.getpid()

    @property
    def is_closed(self) -> bool:
        """Whether it was let go of."""
        return self._native is None

    @property
    def is_forked(self) -> bool:
        """Whether this is another process, whose threads are not those that were started for the object."""
        return self._process != os.getpid()

    def get(self) -> N:
        """The object, or a ``UsageError``."""
        if self._native is None:
            raise UsageError(f"the {self._what} is closed", "refused")
        if self.is_forked:
            raise UsageError(f"the {self._what} was opened before a fork: open one in this process", "refused")
        return self._native

    def close(self) -> None:
        """Lets go of it."""
        self._native = None


def begin(start: Start, convert: Callable[[Any], T], future: Future[T] | None = None) -> Future[T]:
    """Starts a job, and returns the future of its converted result, or the one that is given. Cancelling the future
    ends the job."""
    from concurrent import futures

    promised: Future[T] = futures.Future() if future is None else future

    def done(value: Any, error: BaseException | None) -> None:
        if not promised.set_running_or_notify_cancel():
            return
        try:
            result = convert(value) if error is None else None
        except BaseException as failure:
            error = failure
        if error is not None:
            promised.set_exception(error)
        else:
            promised.set_result(result)  # type: ignore[arg-type]

    job = start(done)
    promised.add_done_callback(lambda ended: job.cancel() if ended.cancelled() else None)
    return promised


def wait(
    start: Start,
    convert: Callable[[Any], T],
    *,
    progress: ProgressCallback | bool | None = False,
    position: Position | None = None,
    timeout: float | None = None,
) -> T:
    """The result of a job. An interrupt, an error of ``progress`` and a ``TimeoutError`` end the job."""
    import concurrent.futures
    import time

    listening = _progress.listener(progress) if position is not None else None
    deadline = None if timeout is None else time.monotonic() + timeout
    future = begin(start, convert)
    told: tuple[str, int, int] | None = None
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            tick = left if listening is None else _TICK if left is None else min(left, _TICK)
            try:
                return future.result(tick)
            except concurrent.futures.TimeoutError:
                if future.done():
                    return future.result()
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"not done after {timeout} seconds, and stopped") from None
            if listening is not None and position is not None:
                found = position()
                if found is not None and found != told:
                    told = found
                    listening(*found)
    except BaseException:
        future.cancel()
        raise
    finally:
        _progress.close(listening)


def as_it_is(value: T) -> T:
    """The result of a job that needs no conversion."""
    return value


def nothing(_: object) -> None:
    """The result of a job that has none."""


async def wait_async(start: Start, convert: Callable[[Any], T]) -> T:
    """The result of a job, without a thread that waits. Cancelling the task ends the job."""
    import asyncio

    return await asyncio.wrap_future(begin(start, convert))
