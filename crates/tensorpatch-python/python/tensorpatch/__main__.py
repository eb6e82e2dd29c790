"""The command line: the same as that of the Rust binary."""

from __future__ import annotations

import signal
import sys

from tensorpatch import _native


def main() -> int:
    """Runs the command line of this process, and returns the code to exit with."""
    # Python's own handler would only act once the command is done.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _native.run_command(["tensorpatch", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
