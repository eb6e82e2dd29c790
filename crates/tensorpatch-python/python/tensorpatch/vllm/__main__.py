"""`python -m tensorpatch.vllm STREAM --server URL`: brings every version of a stream into running servers."""

from __future__ import annotations

import argparse
import sys
import tempfile

from .. import Error, Replica
from ..follow import NotTakenError, keep_up
from .client import Server


def main() -> int:
    """Follows a stream until it is interrupted, or no server is left."""
    parser = argparse.ArgumentParser(prog="python -m tensorpatch.vllm", description=__doc__)
    parser.add_argument("stream", help="URL of the stream")
    parser.add_argument("--server", action="append", required=True, help="URL of a vLLM server; repeat for more")
    parser.add_argument("--directory", help="where the hosts of the servers keep their replica")
    parser.add_argument("--trust", action="append", default=[], help="public key that versions must be signed with")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between looks at the stream")
    options = parser.parse_args()

    servers = {url: Server(url) for url in options.server}
    for server in servers.values():
        server.wait_until_ready()
        server.connect(options.stream, directory=options.directory, trust=options.trust)
    with tempfile.TemporaryDirectory() as scratch:
        # Only to look at the stream: the servers have replicas of their own.
        stream = Replica(options.stream, scratch, trust=options.trust)

        def newest() -> int | None:
            tip = stream.latest()
            return None if tip is None else tip.version

        takers = {url: server.update for url, server in servers.items()}
        for url, version, update in keep_up(newest, takers, poll=options.poll):
            if isinstance(update, NotTakenError):
                told = f"version {version} was not taken over: {update}; {update.next_try}"
                print(told, file=sys.stderr, flush=True)
                continue
            print(
                f"{url}: version {version} by {update.route}, fetched in {update.fetch:.3f} s, "
                f"paused for {update.pause:.3f} s{f' ({update.reason})' if update.reason else ''}",
                flush=True,
            )
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Error as error:
        sys.exit(str(error))
