"""One download and one apply of a version for all processes of a host that serve it.

The ranks of an inference engine are processes. The first that asks for a version fetches it: the replica on the disk
of the host moves to it, and the changes are written beside as checkpoint coordinates. The others find both there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import LocalStateError, Replica, TensorPatch, patches
from .torch.names import Specs, specs_of, torch_dtype

log = logging.getLogger("tensorpatch")

# Engines on one host may be a few versions apart: so many changes are kept for the slower ones.
KEPT = 4


@dataclass(frozen=True)
class Contents:
    """What decides whether an engine can scatter the changes of a version, found once while they are written."""

    dtypes: tuple[str, ...] = ()  # of the changed tensors, as safetensors spells them
    nan: bool = False  # some new value is not a number
    whole: tuple[str, ...] = ()  # tensors that are new, or have another dtype or shape
    elements: int = 0


@dataclass(frozen=True)
class Fetched:
    """A version that is on the disk of this host, verified."""

    version: int
    checkpoint: Path  # an ordinary checkpoint directory
    changes: Path | None  # what changed since the version that was asked from, if that is known
    contents: Contents
    downloaded: int  # bytes; 0 if another process had it fetched
    specs: Specs  # of every tensor of the version


class HostReplica:
    """A replica that the processes of a host share, under `directory`."""

    def __init__(self, url: str, directory: Path, *, trust: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._changes = directory / "changes"
        self._changes.mkdir(exist_ok=True)
        self.checkpoint = directory / "checkpoint"
        self._replica = Replica(url, self.checkpoint, trust=trust)

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
            return Fetched(version, self.checkpoint, path, contents, downloaded, specs_of(self.checkpoint))

    def _move(self, version: int, changes: bool) -> int:
        with self._replica.prepare(version) as prepared:
            held = prepared.base_version
            if held is not None and changes:
                path = self._changes / f"{held}-{version}.safetensors"
                write_changes(path, patches(prepared), specs_of(self.checkpoint))
                self._prune()
            return self._replica.activate(prepared).downloaded_bytes

    def _found(self, served: int | None, version: int) -> tuple[Path | None, Contents]:
        path = self._changes / f"{served}-{version}.safetensors"
        if served is None or not path.exists():
            return None, Contents()
        try:
            return path, read_contents(path)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            # Nothing is lost: what cannot scatter reloads the checkpoint.
            log.warning("%s is damaged and left out: %s", path, error)
            path.unlink()
            return None, Contents()

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
                    "it; give each engine that is updated on its own a directory of its own",
                    "local_damage",
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


def write_changes(path: Path, changes: Iterable[TensorPatch], before: Specs) -> None:
    """Writes changes as a safetensors file, under its name only when it is whole.

    `before` has the dtype and shape that the tensors had.
    """
    tensors: dict[str, torch.Tensor] = {}
    listed: list[tuple[str, str, tuple[int, ...]]] = []
    dtypes, whole, nan, elements = set(), [], False, 0
    for name, dtype, shape, indices, values in changes:
        dtypes.add(dtype)
        if before.get(name) != (dtype, shape):
            whole.append(name)
            continue
        if dtype not in _SCATTERED:
            continue
        new = torch.from_dlpack(values).reshape(-1)
        places = torch.arange(new.numel()) if indices is None else torch.from_dlpack(indices)
        number = len(listed)
        tensors[f"{number}.indices"] = places.to(torch.int32) if math.prod(shape) < 1 << 31 else places
        tensors[f"{number}.values"] = new
        listed.append((name, dtype, shape))
        elements += places.numel()
        nan = nan or bool(torch.isnan(new.float()).any())
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
