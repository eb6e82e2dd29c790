"""Brings the newest version of a stream to servers, and again to those that could not take it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event
from typing import TypeVar

from . import Error
from .http import NoSuchCallError

T = TypeVar("T")

log = logging.getLogger("tensorpatch")

# Seconds at most between two tries of a server that fails.
PATIENCE = 60.0


class NotTakenError(Error):
    """A server did not take a version over. `__cause__` is why."""

    again: float | None = None
    """In how many seconds it is tried again; `None`: never. A newer version is tried at once."""

    @property
    def next_try(self) -> str:
        """`again` in words."""
        if self.again is None:
            return "it is not tried again"
        return f"next try in {self.again:.0f} s, or at once with a newer version"


def keep_up(
    newest: Callable[[], int | None],
    servers: Mapping[str, Callable[[int], T]],
    *,
    poll: float,
    stop: Event | None = None,
) -> Iterator[tuple[str, int, T | NotTakenError]]:
    """Hands each server each version that is the newest when it is looked for: at once, then every `poll` seconds.

    Yields the server, the version, and what the server returned or why it failed. A server that fails does not hold up
    the others, and is tried again after waits that grow, or at once with a newer version. One that does not know the
    call, and never did, is given up; when none is left, so is the stream. A store that does not answer is asked again.
    """
    left = dict(servers)
    stop = stop or Event()
    served: dict[str, int] = {}
    wait: dict[str, float] = {}
    due: dict[str, float] = {}
    version = None
    while not stop.is_set():
        try:
            seen = newest()
        except Error as error:
            if not error.retryable:
                raise
            log.warning("the stream does not answer: %s", error)
            seen = version
        if seen != version:
            version = seen
            due.clear()
            wait.clear()
        for name, take in list(left.items()):
            if version is None or served.get(name) == version or time.monotonic() < due.get(name, 0.0):
                continue
            try:
                taken: T | NotTakenError = take(version)
                served[name] = version
                wait.pop(name, None)
            except Error as error:
                taken = NotTakenError(str(error), error.kind)
                taken.__cause__ = error
                if isinstance(error, NoSuchCallError) and name not in served:
                    del left[name]
                else:
                    taken.again = wait[name] = min(wait.get(name, poll) * 2, PATIENCE)
                    due[name] = time.monotonic() + wait[name]
            yield name, version, taken
        if servers and not left:
            return
        stop.wait(poll)
