"""`python -m tensorpatch.vllm STREAM --server URL`: brings every version of a stream into running servers."""

from __future__ import annotations

import argparse
import sys
import tempfile

from .. import Error
from ..follow import newest_versions
from .client import Server


def main() -> int:
    """Follows a stream until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tensorpatch.vllm", description=__doc__)
    parser.add_argument("stream", help="URL of the stream")
    parser.add_argument("--server", action="append", required=True, help="URL of a vLLM server; repeat for more")
    parser.add_argument("--directory", help="where the hosts of the servers keep their replica")
    parser.add_argument("--trust", action="append", default=[], help="public key that versions must be signed with")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between looks at the stream")
    options = parser.parse_args()

    servers = [Server(url) for url in options.server]
    for server in servers:
        server.wait_until_ready()
        server.connect(options.stream, directory=options.directory, trust=options.trust)
    with tempfile.TemporaryDirectory() as scratch:
        for version in newest_versions(options.stream, scratch, poll=options.poll, trust=options.trust):
            for server in servers:
                try:
                    update = server.update(version)
                except Error as error:
                    print(f"{server.url}: version {version} was not taken over: {error}", file=sys.stderr, flush=True)
                    continue
                print(
                    f"{server.url}: version {update.version} by {update.route}, fetched in {update.fetch:.3f} s, "
                    f"paused for {update.pause:.3f} s{f' ({update.reason})' if update.reason else ''}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
