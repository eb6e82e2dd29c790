"""Who is told of progress: a callback, or a bar of tqdm where somebody looks at it."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from tensorpatch._types import ProgressCallback

_PATIENCE = 1.0
"""Seconds of work without a bar."""


class Bar:
    """A bar for the phase at work, from the second that it has taken longer than ``_PATIENCE``."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._started = time.monotonic()
        self._phase: str | None = None
        self._bar: Any = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self.close()
            self._phase = phase
        if self._bar is None:
            if time.monotonic() - self._started < _PATIENCE:
                return
            self._bar = self._tqdm(total=total, desc=phase, unit="B", unit_scale=True, leave=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def listener(progress: ProgressCallback | bool | None) -> ProgressCallback | None:
    """The callback for an argument ``progress``.

    None shows a bar on a terminal or in a notebook if tqdm is installed, True shows one wherever it is, False
    shows none.
    """
    if callable(progress):
        return _bounded(progress)
    if progress is False or (progress is None and not _somebody_looks()):
        return None
    try:
        # It may be missing, and has no types.
        tqdm = importlib.import_module("tqdm.auto").tqdm
    except ImportError:
        return None
    return Bar(tqdm)


def _bounded(progress: ProgressCallback) -> ProgressCallback:
    """What tells a callback no more done than there is to do, and always something to do, so that it can divide."""

    def told(phase: str, done: int, total: int) -> None:
        total = max(done, total)
        if total > 0:
            progress(phase, done, total)

    return told


def close(listening: ProgressCallback | None) -> None:
    """Takes a bar away."""
    if isinstance(listening, Bar):
        listening.close()


def _somebody_looks() -> bool:
    stream = sys.stderr
    if stream is not None and stream.isatty():
        return True
    shell = sys.modules.get("IPython")
    get = getattr(shell, "get_ipython", None)
    return get is not None and type(get()).__name__ == "ZMQInteractiveShell"
