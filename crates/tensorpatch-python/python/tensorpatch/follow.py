"""Brings the newest version of a stream to servers, and again to those that could not take it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event
from typing import TypeVar

from . import Error

T = TypeVar("T")

log = logging.getLogger("tensorpatch")

# Seconds at most between two tries of a server that fails.
PATIENCE = 60.0


def keep_up(
    newest: Callable[[], int | None],
    servers: Mapping[str, Callable[[int], T]],
    *,
    poll: float,
    stop: Event | None = None,
) -> Iterator[tuple[str, int, T | Error]]:
    """Hands each server each version that is the newest when it is looked for: at once, then every `poll` seconds.

    Yields the server, the version, and what the server returned or raised. A server that fails does not hold up the
    others, and is tried again after waits that grow. A store that does not answer is asked again.
    """
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
        for name, take in servers.items():
            if version is None or served.get(name) == version or time.monotonic() < due.get(name, 0.0):
                continue
            try:
                taken: T | Error = take(version)
                served[name] = version
                wait.pop(name, None)
            except Error as error:
                taken = error
                wait[name] = min(wait.get(name, poll) * 2, PATIENCE)
                due[name] = time.monotonic() + wait[name]
            yield name, version, taken
        stop.wait(poll)
