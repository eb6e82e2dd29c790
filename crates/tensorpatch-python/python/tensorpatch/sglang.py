"""SGLang servers that follow a stream: a replica on each host, and `update_weights_from_disk` for each version.

    python -m tensorpatch.sglang STREAM DIRECTORY --server http://127.0.0.1:30000

runs beside the servers of a host. The version is downloaded and verified before SGLang hears of it. Start the servers
from DIRECTORY, once a version is there, or from the checkpoint that the run began with.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from threading import Event

from . import Error, Replica
from .follow import NotTakenError, keep_up
from .http import EngineError, NoSuchCallError, call, wait_until_healthy


@dataclass(frozen=True)
class Update:
    """What bringing a version into a server took. Times are in seconds."""

    version: int
    load: float  # SGLang reads the checkpoint, and generates nothing meanwhile


class Follower:
    """A replica on the disk of this host, and the servers on this host that read it."""

    def __init__(
        self,
        url: str,
        directory: str | PathLike[str],
        servers: Sequence[str],
        *,
        trust: Sequence[str] = (),
        timeout: float = 1800,
    ) -> None:
        """`timeout` bounds each reload, in seconds."""
        self._replica = Replica(url, directory, trust=trust)
        self._servers = [server.rstrip("/") for server in servers]
        self._timeout = timeout

    def follow(
        self, *, poll: float = 1.0, stop: Event | None = None
    ) -> Iterator[tuple[str, int, Update | NotTakenError]]:
        """Brings each version into the servers, beginning with the newest, until `stop` is set.

        Yields the server, the version, and what the update took or why it failed. A server whose load failed may hold
        a mixture, whatever version it tells: it is tried again. What is no SGLang server is given up.
        """
        takers = {server: partial(self._load, server) for server in self._servers}
        return keep_up(self._pull, takers, poll=poll, stop=stop)

    def _pull(self) -> int | None:
        newest = self._replica.latest()
        if newest is None:
            return None
        held = self._replica.version
        return held if held == newest.version else self._replica.pull().version

    def _load(self, server: str, version: int) -> Update:
        started = time.perf_counter()
        body = {"model_path": str(self._replica.directory), "weight_version": str(version)}
        try:
            reply = call(f"{server}/update_weights_from_disk", body, timeout=self._timeout)
        except NoSuchCallError as error:
            raise NoSuchCallError(f"{error}; this is no SGLang server") from error
        if not reply.get("success"):
            raise EngineError(f"{server}: {reply.get('message')}")
        return Update(version, time.perf_counter() - started)


def main() -> int:
    """Follows a stream until it is interrupted, or no server is left."""
    parser = argparse.ArgumentParser(prog="python -m tensorpatch.sglang")
    parser.add_argument("stream", help="URL of the stream")
    parser.add_argument("directory", help="the replica, which the servers load")
    parser.add_argument("--server", action="append", required=True, help="URL of an SGLang server; repeat for more")
    parser.add_argument("--trust", action="append", default=[], help="public key that versions must be signed with")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between looks at the stream")
    options = parser.parse_args()

    for server in options.server:
        wait_until_healthy(server)
    follower = Follower(options.stream, options.directory, options.server, trust=options.trust)
    for server, version, taken in follower.follow(poll=options.poll):
        if isinstance(taken, Update):
            print(f"{server}: version {version}, loaded in {taken.load:.3f} s", flush=True)
        else:
            told = f"version {version} was not taken over: {taken}; {taken.next_try}"
            print(told, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Error as error:
        sys.exit(str(error))
