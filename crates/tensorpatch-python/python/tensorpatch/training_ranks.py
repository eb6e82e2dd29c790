"""Publishes the states of a training run from several processes, in one commit per version."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from . import Published, Publisher, StorageError
from .torch.changes import Change
from .torch.names import Named
from .training import StatePublisher

T = TypeVar("T")


class RankPublisher(StatePublisher):
    """A `StatePublisher` on each of several processes, for the tensors that each owns.

    A version is committed when every process has uploaded its part, or not at all. Each call is made by all processes
    of `group`, in the same order; a process that owns nothing is not in it. Receipts travel over gloo, whatever the
    training uses: without a `group`, one of all processes is made.
    """

    def __init__(self, url: str, options: Mapping[str, Any], group: dist.ProcessGroup | None = None) -> None:
        self._group = dist.new_group(backend="gloo") if group is None else group
        self._rank, self._world = dist.get_rank(self._group), dist.get_world_size(self._group)
        self._root = dist.get_global_rank(self._group, 0)
        super().__init__(self._open(url, options))

    def _open(self, url: str, options: Mapping[str, Any]) -> Publisher:
        # Each process has a baseline of its own tensors, also where several share a host.
        baseline = Path(options.get("baseline") or _default_baseline(url)) / f"rank-{self._rank}"
        own = {**options, "baseline": baseline}
        publisher = self._agree(lambda: Publisher(url, **own)) if self._rank == 0 else self._agree(None)
        if publisher is None:
            publisher = Publisher(url, **{**own, "create": False})
        return publisher

    def first(self, publish: Callable[[Publisher], T], walk: Named = ()) -> T:
        """Rank 0 publishes what the training starts from; every process gets what `publish` returned."""
        if self._rank != 0:
            for _ in walk:
                pass
            return self._agree_on_value(None)
        return self._agree_on_value(lambda: super(RankPublisher, self).first(publish, walk))

    def _commit(self, changes: list[Change], label: str, error: Exception | None) -> Published:
        receipt = None
        if error is None:
            try:
                receipt = self._prepare(changes)
            except Exception as caught:
                error = caught
        # A process that failed still takes part, or the others would wait for ever.
        shares: list[Any] = [None] * self._world
        dist.all_gather_object(shares, (receipt, self._torn), group=self._group)
        # What one process cannot publish again, none may: its part would be of another step.
        self._torn = any(torn for _, torn in shares)
        if error is not None:
            raise error
        receipts = [sent for sent, _ in shares]
        if None in receipts:
            failed = [rank for rank, sent in enumerate(receipts) if sent is None]
            raise StorageError(f"ranks {failed} could not upload their part, so there is no version")
        if self._rank != 0:
            return self._agree_on_value(None)
        return self._agree_on_value(lambda: self._publisher.commit(receipts, label=label))

    def _prepare(self, changes: list[Change]) -> str:
        if self._behind:
            return self._publisher.prepare(self._snapshot.on_host(), rank=self._rank, world_size=self._world)
        return self._publisher.prepare_sparse(changes, rank=self._rank, world_size=self._world)

    def _agree(self, work: Callable[[], T] | None) -> T | None:
        """Rank 0 does `work`; every process raises what it raised."""
        done, error = None, None
        if work is not None:
            try:
                done = work()
            except Exception as caught:
                error = caught
        said: list[str | None] = [None if error is None else str(error)]
        dist.broadcast_object_list(said, src=self._root, group=self._group)
        if error is not None:
            raise error
        if said[0] is not None:
            raise StorageError(f"rank 0: {said[0]}")
        return done

    def _agree_on_value(self, work: Callable[[], T] | None) -> T:
        done = self._agree(work)
        value: list[Any] = [done]
        dist.broadcast_object_list(value, src=self._root, group=self._group)
        agreed: T = value[0]
        return agreed


def _default_baseline(url: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tensorpatch" / "ranks" / hashlib.sha256(url.encode()).hexdigest()[:16]
