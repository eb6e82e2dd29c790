"""One download and one apply of a version for all processes of a host that serve it.

The ranks of an inference engine are processes. The first that asks for a version fetches it: the replica on the disk
of the host moves to it, and the changes are written beside as checkpoint coordinates. The others find both there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from . import LocalStateError, Replica
from .torch.changes import changed
from .torch.names import torch_dtype

# Engines on one host may be a few versions apart: so many changes are kept for the slower ones.
KEPT = 4


@dataclass(frozen=True)
class Contents:
    """What decides whether an engine can scatter the changes of a version, found once while they are written."""

    dtypes: tuple[str, ...] = ()  # of the changed tensors, as safetensors spells them
    nan: bool = False  # some new value is not a number
    whole: tuple[str, ...] = ()  # tensors that are new or gone, or have another dtype or shape
    elements: int = 0


@dataclass(frozen=True)
class Fetched:
    """A version that is on the disk of this host, verified."""

    version: int
    checkpoint: Path  # an ordinary checkpoint directory
    changes: Path | None  # what changed since the version that was asked from, if that is known
    contents: Contents
    downloaded: int  # bytes; 0 if another process had it fetched


class HostReplica:
    """A replica that the processes of a host share, under `directory`."""

    def __init__(self, url: str, directory: Path, *, trust: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._changes = directory / "changes"
        self._changes.mkdir(exist_ok=True)
        self.checkpoint = directory / "checkpoint"
        self._replica = Replica(url, self.checkpoint, mode="beside", trust=trust)

    @property
    def digest(self) -> str | None:
        """The digest of the state on disk."""
        return self._replica.digest

    def latest(self) -> int | None:
        """The newest version of the stream."""
        newest = self._replica.latest()
        return None if newest is None else newest.version

    def fetch(self, version: int, served: int | None, *, changes: bool = True) -> Fetched:
        """Brings a version to the disk of this host, with the changes since `served` if they can be had.

        Downloads, decodes and verifies; the engine goes on meanwhile. Waits while another process does the same.
        Without `changes` they are not written out, for engines that reload.
        """
        with self._lock(fcntl.LOCK_EX):
            downloaded = 0
            if self._replica.version != version:
                downloaded = self._move(version, changes)
            path, contents = self._found(served, version)
            return Fetched(version, self.checkpoint, path, contents, downloaded)

    def _move(self, version: int, changes: bool) -> int:
        held = self._replica.version
        # The files are replaced and not altered: those of the version before can be read until they are closed.
        old = _Files(self.checkpoint) if held is not None and changes else None
        pulled = self._replica.pull(version)
        if old is not None:
            write_changes(self._changes / f"{held}-{version}.safetensors", old, _Files(self.checkpoint))
            self._prune()
        return pulled.downloaded_bytes

    def _found(self, served: int | None, version: int) -> tuple[Path | None, Contents]:
        path = self._changes / f"{served}-{version}.safetensors"
        if served is None or not path.exists():
            return None, Contents()
        return path, read_contents(path)

    def _prune(self) -> None:
        by_age = sorted(self._changes.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        for path in by_age[:-KEPT]:
            path.unlink()

    @contextmanager
    def reading(self, version: int) -> Iterator[Path]:
        """Keeps the checkpoint at `version` while it is read."""
        with self._lock(fcntl.LOCK_SH):
            if self._replica.version != version:
                raise LocalStateError(
                    f"{self.checkpoint} holds version {self._replica.version} and not {version}: another engine moved "
                    "it; give each engine that is updated on its own a directory of its own"
                )
            yield self.checkpoint

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)


class _Files:
    """The tensors of a checkpoint directory, mapped into memory."""

    def __init__(self, directory: Path) -> None:
        self._of: dict[str, Any] = {}
        for path in sorted(directory.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            self._of.update((name, file) for name in file.keys())  # noqa: SIM118: not a dictionary

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def spec(self, name: str) -> tuple[str, list[int]] | None:
        """Dtype, as safetensors spells it, and shape."""
        if name not in self._of:
            return None
        found = self._of[name].get_slice(name)
        return found.get_dtype(), found.get_shape()

    def tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._of[name].get_tensor(name)
        return tensor


def write_changes(path: Path, old: _Files, new: _Files) -> None:
    """Writes what differs between two checkpoints as a safetensors file, under its name only when it is whole."""
    tensors: dict[str, torch.Tensor] = {}
    listed = []
    dtypes, nan, elements = set(), False, 0
    whole = [name for name in old if new.spec(name) is None]
    for name in new:
        spec = new.spec(name)
        assert spec is not None
        dtype, shape = spec
        if old.spec(name) != spec:
            whole.append(name)
            dtypes.add(dtype)
            continue
        after = new.tensor(name)
        places = changed(old.tensor(name), after)
        if not places.numel():
            continue
        dtypes.add(dtype)
        if dtype not in _SCATTERED:
            continue
        values = after.reshape(-1)[places.long()]
        number = len(listed)
        tensors[f"{number}.indices"], tensors[f"{number}.values"] = places, values
        listed.append([name, dtype, shape])
        elements += places.numel()
        nan = nan or bool(torch.isnan(values.float()).any())
    contents = Contents(tuple(sorted(dtypes)), nan, tuple(whole), elements)
    metadata = {"contents": json.dumps(asdict(contents)), "tensors": json.dumps(listed)}
    beside = path.with_suffix(".writing")
    save_file(tensors, beside, metadata=metadata)
    os.replace(beside, path)


_SCATTERED = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")


def read_contents(path: Path) -> Contents:
    """What `write_changes` found."""
    with safe_open(path, framework="pt") as file:
        found = json.loads(file.metadata()["contents"])
    return Contents(tuple(found["dtypes"]), found["nan"], tuple(found["whole"]), found["elements"])


@dataclass(frozen=True)
class Scatter:
    """The changed elements of one tensor in the coordinates of the checkpoint."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    indices: torch.Tensor
    values: torch.Tensor


def read_changes(path: Path, device: torch.device) -> Iterator[Scatter]:
    """The changes in the order of the checkpoint, on `device`."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        for number, (name, dtype, shape) in enumerate(json.loads(file.metadata()["tensors"])):
            yield Scatter(
                name,
                torch_dtype(dtype),
                tuple(shape),
                file.get_tensor(f"{number}.indices"),
                file.get_tensor(f"{number}.values"),
            )
