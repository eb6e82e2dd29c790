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
from os import PathLike
from threading import Event

from . import Error, Pulled, Replica
from .http import EngineError, call


@dataclass(frozen=True)
class Update:
    """What bringing a version into a server took. Times are in seconds."""

    server: str
    version: int
    load: float  # SGLang reads the checkpoint and generates nothing meanwhile
    error: str | None = None  # then the server must load again before it serves


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
        self._directory = str(directory)
        self._servers = [server.rstrip("/") for server in servers]
        self._timeout = timeout
        # A server whose load failed may hold a mixture, whatever version it tells.
        self._behind = set(self._servers)

    def follow(self, *, poll: float = 1.0, stop: Event | None = None) -> Iterator[list[Update]]:
        """Brings each version into the servers, beginning with the newest, until `stop` is set."""
        for pulled in self._replica.follow(poll=poll, stop=stop):
            yield self.update(pulled)

    def update(self, pulled: Pulled) -> list[Update]:
        """Has every server load the version that was pulled. A server that fails does not hold up the others."""
        self._behind = set(self._servers)
        return [self._load(server, pulled.version) for server in self._servers]

    def retry(self) -> list[Update]:
        """Has the servers that failed load again."""
        version = self._replica.version
        return [self._load(server, version) for server in sorted(self._behind)] if version is not None else []

    def _load(self, server: str, version: int) -> Update:
        started = time.perf_counter()
        error = None
        try:
            body = {"model_path": self._directory, "weight_version": str(version)}
            reply = call(f"{server}/update_weights_from_disk", body, timeout=self._timeout)
            if not reply.get("success"):
                error = str(reply.get("message"))
        except EngineError as caught:
            error = str(caught)
        if error is None:
            self._behind.discard(server)
        return Update(server, version, time.perf_counter() - started, error)


def wait_until_ready(server: str, timeout: float = 600) -> None:
    """Waits until a server answers."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            call(f"{server.rstrip('/')}/health", timeout=5)
            return
        except EngineError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main() -> int:
    """Follows a stream until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tensorpatch.sglang")
    parser.add_argument("stream", help="URL of the stream")
    parser.add_argument("directory", help="the replica, which the servers load")
    parser.add_argument("--server", action="append", required=True, help="URL of an SGLang server; repeat for more")
    parser.add_argument("--trust", action="append", default=[], help="public key that versions must be signed with")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between looks at the stream")
    options = parser.parse_args()

    for server in options.server:
        wait_until_ready(server)
    follower = Follower(options.stream, options.directory, options.server, trust=options.trust)
    for updates in follower.follow(poll=options.poll):
        for update in updates:
            if update.error is None:
                print(f"{update.server}: version {update.version}, loaded in {update.load:.3f} s", flush=True)
            else:
                print(f"{update.server}: version {update.version} failed: {update.error}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, Error) as stopped:
        sys.exit(130 if isinstance(stopped, KeyboardInterrupt) else str(stopped))
