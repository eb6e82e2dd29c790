"""What a process that was forked must not keep: the locks of its parent, which are held while any copy is open."""

from __future__ import annotations

import os
import re

_OPEN = "/proc/self/fd"
_LOCK = re.compile(r"(/\.tensorpatch/lock|/\.tensorpatch-lock-[^/ ]*|-ranks/\d+-of-\d+/lock)( \(deleted\))?$")
"""Ends of the paths of lock files: of baselines and replicas, of weights patched in place, and of ranks."""


def let_go_of_locks() -> None:
    """Gives up the locks that were held at the fork, so that nobody waits for this process instead of the parent."""
    try:
        numbers = os.listdir(_OPEN)
    except OSError:
        return
    for number in numbers:
        try:
            path = os.readlink(f"{_OPEN}/{number}")
        except OSError:
            continue
        if _LOCK.search(path):
            _replace(int(number))


def _replace(descriptor: int) -> None:
    """Lets a descriptor lead nowhere. It stays open: the native object that has it may close it yet, which must not
    hit a file that got the number since."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, descriptor, inheritable=False)
    finally:
        os.close(nowhere)
