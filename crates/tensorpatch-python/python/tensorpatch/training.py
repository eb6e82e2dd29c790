"""Publishes the states of a training run: what changed, once per step, on a thread beside the training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from . import Publisher, Published, UsageError
from .torch.changes import Change, Snapshot
from .torch.names import Dtypes, Named, dtypes_of

T = TypeVar("T")

log = logging.getLogger("tensorpatch")

# Files beside the weights that engines read.
COMPANIONS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")


@dataclass(frozen=True)
class Step:
    """What publishing one state took. Times are in seconds."""

    label: str
    published: Published | None  # `None` for a step that failed
    changed: int  # elements that left the device; 0 where whole tensors were sent
    compare: float  # on the thread of the training: cast, compare, copy the changes to the host
    publish: float  # on the thread beside it: encode, upload, commit
    error: Exception | None = None


class StatePublisher:
    """Publishes states to a stream, one at a time, and keeps the copy that the next one is compared with.

    `publish` walks the state on the calling thread, and returns when what changed is in host memory. Encoding, upload
    and commit happen on another thread. One version is under way at a time: a second `publish` waits for the first.

    A version that cannot be published is reported and the training goes on. The next version then carries the whole
    state, compared with the last one that the stream has, so nothing is lost but the step itself.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        names: Callable[[Named], Named] | None = None,
        after: Callable[[Published], None] | None = None,
    ) -> None:
        """`names` renames and casts a walk; `after` runs on the thread beside, when a version is published."""
        self.steps: list[Step] = []
        self._publisher = publisher
        self._names = names or (lambda named: named)
        self._after = after
        self._snapshot = Snapshot()
        self._behind = True  # the stream has not got what the snapshot has
        self._torn = False  # the snapshot has tensors of two steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tensorpatch")
        self._pending: Future[Step] | None = None

    @property
    def error(self) -> Exception | None:
        """Why the newest state is not published; `None` if it is."""
        return self.steps[-1].error if self.steps else None

    def first(self, publish: Callable[[Publisher], T], walk: Named = ()) -> T:
        """Publishes what the training starts from, and returns what `publish` does. `walk` is what it reads."""
        try:
            return publish(self._publisher)
        finally:
            # Other processes may walk the same collectives.
            for _ in walk:
                pass

    def publish(self, named: Named, *, label: str) -> Future[Step]:
        """Publishes a state of which `named` has some tensors or all; the others stay as they are.

        The walk goes to its end even if something fails, because other processes may walk the same collectives.
        """
        self.wait()
        started = time.perf_counter()
        changes: list[Change] = []
        error = None
        named = iter(named)
        try:
            for name, tensor in self._names(named):
                self._behind = self._snapshot.missing(name, tensor) or self._behind
                change = self._snapshot.update(name, tensor)
                if change is not None:
                    changes.append(change)
        except Exception as caught:
            error = caught
            for _ in named:
                pass
        self._torn = error is not None
        self._behind = self._behind or self._torn
        compare = time.perf_counter() - started
        self._pending = self._thread.submit(self._run, changes, label, compare, error)
        return self._pending

    def _run(self, changes: list[Change], label: str, compare: float, error: Exception | None) -> Step:
        started = time.perf_counter()
        published = None
        changed = 0 if self._behind else sum(change.indices.numel() for change in changes)
        try:
            published = self._commit(changes, label, error)
            self._behind = False
        except Exception as caught:
            error = caught
            self._behind = True
            log.warning("%s was not published, the next version will bring what it has: %s", label, caught)
        step = Step(label, published, changed, compare, time.perf_counter() - started, error)
        if published is not None and self._after is not None:
            try:
                self._after(published)
            except Exception as caught:
                log.warning("version %s is published, but was not taken over: %s", published.version, caught)
        self.steps.append(step)
        return step

    def _commit(self, changes: list[Change], label: str, error: Exception | None) -> Published:
        """Publishes, unless the walk over the state ended with an error."""
        if error is not None:
            raise error
        if self.error is not None:
            # The version before may have been committed although its publisher was not told.
            self._publisher.catch_up()
        if self._behind:
            return self._publisher.publish(self._snapshot.on_host(), label=label, partial=True)
        return self._publisher.publish_sparse(changes, label=label)

    def wait(self) -> Step | None:
        """Waits until nothing is under way, and returns the step that was."""
        if self._pending is None:
            return None
        step = self._pending.result()
        self._pending = None
        return step

    def close(self) -> None:
        """Publishes what a failure left behind, and ends the thread. Raises if the newest state is not published."""
        self.wait()
        try:
            if self.error is not None and not self._torn:
                self._run([], self.steps[-1].label, 0.0, None)
            if self.error is not None:
                raise self.error
        finally:
            self._thread.shutdown()
            self._publisher.close()


def base_directory(base: str | Path) -> Path:
    """The directory of a checkpoint: a path, or the name of a model on the Hub, which is downloaded."""
    path = Path(base)
    if path.is_dir():
        return path
    if path.is_absolute() or str(base).startswith("."):
        raise UsageError(f"{base} is not a directory with a checkpoint", "refused")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(base), allow_patterns=["*.safetensors", *(f"*{end}" for end in COMPANIONS)]))


def publish_base(publisher: Publisher, base: Path, dtype: torch.dtype | None) -> tuple[Published, Dtypes]:
    """Publishes the checkpoint that a training run starts from, and tells the dtype of each of its tensors.

    With a `dtype` its floating-point tensors are cast to it, once. Without, the files are published as they are.
    """
    dtypes = dtypes_of(base)
    served = {n: dtype if dtype is not None and d.is_floating_point else d for n, d in dtypes.items()}
    if served == dtypes:
        return publisher.publish(base, label="base"), served
    return publisher.publish(_cast_files(base, served), label="base", companions=companions_of(base)), served


def companions_of(base: Path) -> Mapping[str, Path]:
    """The files of a checkpoint directory that engines need beside the weights."""
    return {
        path.name: path
        for path in sorted(base.iterdir())
        if path.is_file() and path.suffix in COMPANIONS and not path.name.endswith(".safetensors.index.json")
    }


def _cast_files(base: Path, dtypes: Mapping[str, torch.dtype]) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names: Any = file.keys()
            for name in names:
                yield name, file.get_tensor(name).to(dtypes[name])
