"""Looks at a stream for new versions, without a replica of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from . import Error, Replica

log = logging.getLogger("tensorpatch")


def newest_versions(url: str, scratch: str, *, poll: float, trust: Sequence[str] = ()) -> Iterator[int]:
    """Each version that is the newest when it is looked for, at once and then every `poll` seconds.

    Versions that others overtake between two looks are passed over. A store that does not answer is asked again.
    """
    replica = Replica(url, scratch, trust=trust)
    seen = None
    while True:
        try:
            newest = replica.latest()
            if newest is not None and newest.version != seen:
                seen = newest.version
                yield seen
                continue
        except Error as error:
            if not error.retryable:
                raise
            log.warning("the stream does not answer: %s", error)
        time.sleep(poll)
